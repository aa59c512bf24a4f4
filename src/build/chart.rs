//! A chart as an OCI artifact: <https://helm.sh/docs/topics/registries/#helm-chart-manifest>. The same archive gives the same
//! digest: nothing in it is of the time when it was made.

use bytes::Bytes;
use serde_json::{Value, json};

use super::Built;
use crate::oci::{Content, media_type};

/// The media type of what `Chart.yaml` says.
pub const CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
/// The media type of the archive.
pub const ARCHIVE: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";

/// The artifact of an archive as it is, and of its `Chart.yaml`.
pub fn artifact(chart: &Value, archive: Bytes) -> Built {
    let mut content = Content::default();
    let config = Bytes::from(chart.to_string());
    let sizes = (config.len(), archive.len());
    let (config, layer) = (content.add(config), content.add(archive));
    let text = |key: &str| chart.get(key).and_then(Value::as_str).unwrap_or_default();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_IMAGE,
        "config": {"mediaType": CONFIG, "digest": config, "size": sizes.0},
        "layers": [{"mediaType": ARCHIVE, "digest": layer, "size": sizes.1}],
        "annotations": {
            "org.opencontainers.image.title": text("name"),
            "org.opencontainers.image.version": text("version"),
        },
    });
    let digest = content.add(Bytes::from(manifest.to_string()));
    Built { digest, content }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, Manifest};

    #[test]
    fn an_artifact_has_the_archive_as_it_is_and_says_what_it_is() {
        let chart = json!({"name": "web", "version": "1.2.3+b", "apiVersion": "v2"});
        let built = artifact(&chart, Bytes::from_static(b"archive"));
        assert_eq!(built, artifact(&chart, Bytes::from_static(b"archive")));
        let manifest = built.content.manifest(&built.digest).unwrap();
        let Manifest::Image { blobs, .. } = manifest.parse().unwrap() else { panic!("an image") };
        let types: Vec<_> = blobs.iter().map(|blob| blob.media_type.as_str()).collect();
        assert_eq!(types, [CONFIG, ARCHIVE]);
        assert_eq!(blobs[1].digest, Digest::of(b"archive"));
        assert_eq!(built.content.get(&blobs[0].digest).unwrap(), &Bytes::from(chart.to_string()));
    }
}
