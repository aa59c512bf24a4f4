//! The image that brings the update graph to an update service in a disconnected cluster.
//!
//! The service runs it as an init container with an empty volume at `/var/lib/cincinnati/graph-data`, into which it has to
//! copy what it holds: <https://docs.redhat.com/en/documentation/openshift_container_platform/4.18/html/disconnected_environments/updating-a-cluster-in-a-disconnected-environment>.
//! So the base has to have a shell and `cp`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use serde_json::json;

use super::{Base, Built, Layer, Packer, stack};
use crate::failure::{Failure, Reason};

/// Where the graph lies in the image.
const FOLDER: &str = "var/lib/cincinnati-graph-data";
/// What the image does when it is run: what oc-mirror's does.
const COMMAND: [&str; 3] =
    ["/bin/bash", "-c", "exec cp -rp /var/lib/cincinnati-graph-data/* /var/lib/cincinnati/graph-data"];
/// Unpacked bytes that are taken; the real graph has 2 MiB.
const MAX_BYTES: u64 = 128 << 20;
/// Files that are taken; the real graph has 650.
const MAX_FILES: usize = 50_000;

/// The image of `data`, a tar compressed with gzip, on `base`.
///
/// # Errors
/// `data` is not that, is too large, has names that lead elsewhere or no channels; or the base is no image.
pub fn image(data: &[u8], base: &Base) -> Result<Built, Failure> {
    let layer = layer(&files(data)?).map_err(|error| broken(&error.to_string()))?;
    stack(base, &layer, "imageset-mirror graph-data", |config| {
        config.remove("Entrypoint");
        config.insert("Cmd".to_owned(), json!(COMMAND));
    })
}

/// The regular files of the graph, by path.
fn files(data: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let unreadable = |error: std::io::Error| broken(&error.to_string());
    let mut archive = tar::Archive::new(MultiGzDecoder::new(data).take(MAX_BYTES + 1));
    let mut files = BTreeMap::new();
    let mut total = 0;
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        total += entry.size();
        if total > MAX_BYTES || files.len() == MAX_FILES {
            return Err(broken(&format!("it has more than {} MiB or {MAX_FILES} files", MAX_BYTES >> 20)));
        }
        let name = inside(&entry.path().map_err(unreadable)?)?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(unreadable)?;
        files.insert(name, content);
    }
    if files.keys().any(|name| name.starts_with("channels/")) {
        Ok(files)
    } else {
        Err(broken("it has no folder `channels`"))
    }
}

fn inside(path: &Path) -> Result<String, Failure> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::CurDir => {}
            _ => return Err(broken(&format!("`{}` lies outside of it", path.display()))),
        }
    }
    Ok(parts.join("/"))
}

/// A layer with these files, the same whatever they were packed like.
fn layer(files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<Layer> {
    let mut packer = Packer::default();
    for (name, content) in files {
        packer.file(&format!("{FOLDER}/{name}"), content)?;
    }
    packer.finish()
}

fn broken(why: &str) -> Failure {
    let message = format!("the graph data cannot be used: {why}; it should be a .tar.gz with the folder `channels`");
    Failure::permanent(Reason::ManifestInvalid, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bytes::Bytes;
    use flate2::{Compression, GzBuilder};

    use super::*;
    use crate::build::{BaseImage, header};
    use crate::oci::{Digest, Manifest, RawManifest, media_type};

    /// A packed graph whose files come in this order, at this time.
    fn packed(names: &[&str], time: u64) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = header(tar::EntryType::Regular, 0o600, name.len() as u64);
            header.set_mtime(time);
            // As it is, with parts that `append_data` would refuse.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, name.as_bytes()).unwrap();
        }
        let mut encoder = GzBuilder::new().mtime(7).write(Vec::new(), Compression::fast());
        encoder.write_all(&builder.into_inner().unwrap()).unwrap();
        encoder.finish().unwrap()
    }

    fn base(of: &str, architecture: &str) -> BaseImage {
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Entrypoint": ["/x"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"below")]}, "history": [{"created_by": "somebody"}],
        });
        let config = Bytes::from(config.to_string());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": of,
            "config": {"mediaType": "c", "digest": Digest::of(&config), "size": config.len()},
            "layers": [{"mediaType": "l", "digest": Digest::of(b"packed"), "size": 6}],
        });
        BaseImage { manifest: RawManifest::new(Bytes::from(manifest.to_string()), of), config }
    }

    fn several() -> Base {
        let images = vec![base(media_type::DOCKER_IMAGE, "amd64"), base(media_type::DOCKER_IMAGE, "arm64")];
        let entry = |image: &BaseImage, architecture: &str| {
            json!({"mediaType": image.manifest.media_type(), "digest": image.manifest.digest(), "size": image.manifest.bytes().len(),
                "platform": {"os": "linux", "architecture": architecture}})
        };
        let attestation = json!({"mediaType": media_type::OCI_IMAGE, "digest": Digest::of(b"attestation"), "size": 1,
            "platform": {"os": "unknown", "architecture": "unknown"}});
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::DOCKER_LIST,
            "manifests": [entry(&images[0], "amd64"), entry(&images[1], "arm64"), attestation],
        });
        let index = RawManifest::new(Bytes::from(index.to_string()), media_type::DOCKER_LIST);
        Base { index: Some(index), images }
    }

    const NAMES: [&str; 3] = ["version", "channels/stable-4.18.yaml", "blocked-edges/4.18.1.yaml"];

    #[test]
    fn the_same_graph_gives_the_same_image_whatever_it_was_packed_like() {
        let mut other = NAMES;
        other.reverse();
        let images = [image(&packed(&NAMES, 1), &several()).unwrap(), image(&packed(&other, 2), &several()).unwrap()];
        assert_eq!(images[0], images[1]);
        let more = [&NAMES[..], &["channels/fast-4.18.yaml"]].concat();
        assert_ne!(image(&packed(&more, 1), &several()).unwrap().digest, images[0].digest);
    }

    #[test]
    fn each_platform_gets_the_layer_and_the_command_and_nothing_else_changes() {
        let built = image(&packed(&NAMES, 1), &several()).unwrap();
        let Manifest::Index { children, .. } = built.content.manifest(&built.digest).unwrap().parse().unwrap() else {
            panic!("an index")
        };
        assert_eq!(children.len(), 2, "the attestation is about something else");
        for (child, image) in children.iter().zip(&several().images) {
            let manifest = built.content.manifest(&child.digest).unwrap();
            assert_eq!((manifest.media_type(), manifest.bytes().len() as u64), (media_type::DOCKER_IMAGE, child.size));
            let Manifest::Image { blobs, .. } = manifest.parse().unwrap() else { panic!("an image") };
            let [config, below, added] = blobs.as_slice() else { panic!("{blobs:?}") };
            assert_eq!(below.digest, Digest::of(b"packed"));
            assert_eq!(added.media_type, "application/vnd.docker.image.rootfs.diff.tar.gzip");
            let layer = built.content.get(&added.digest).unwrap();
            let mut tar = Vec::new();
            MultiGzDecoder::new(&layer[..]).read_to_end(&mut tar).unwrap();
            let names: Vec<_> = tar::Archive::new(&tar[..])
                .entries()
                .unwrap()
                .map(|entry| entry.unwrap().path().unwrap().display().to_string())
                .collect();
            assert_eq!(names.last().unwrap(), "var/lib/cincinnati-graph-data/version");
            assert!(names.contains(&"var/lib/cincinnati-graph-data/channels/".to_owned()), "{names:?}");
            let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
            let (new, old) = (read(built.content.get(&config.digest).unwrap()), read(&image.config));
            assert_eq!(new["config"], json!({"Env": ["A=b"], "Cmd": COMMAND}));
            assert_eq!(new["architecture"], old["architecture"]);
            assert_eq!(new["rootfs"]["diff_ids"], json!([Digest::of(b"below"), Digest::of(&tar)]));
        }
    }

    #[test]
    fn a_base_for_one_platform_gives_one_manifest() {
        let base = Base { index: None, images: vec![base(media_type::OCI_IMAGE, "amd64")] };
        let built = image(&packed(&NAMES, 1), &base).unwrap();
        let Manifest::Image { blobs, .. } = built.content.manifest(&built.digest).unwrap().parse().unwrap() else {
            panic!("an image")
        };
        assert_eq!(blobs[2].media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
    }

    #[test]
    fn what_is_no_graph_is_refused() {
        let page = b"<html>".as_slice();
        let cut = packed(&NAMES, 1);
        for (data, why) in [
            (page, "graph data cannot be used"),
            (&cut[..cut.len() / 2], "graph data cannot be used"),
            (&packed(&["version"], 1), "no folder `channels`"),
            (&packed(&["channels/../../etc/passwd"], 1), "outside of it"),
            (&packed(&["/channels/a"], 1), "outside of it"),
        ] {
            let failure = image(data, &several()).unwrap_err();
            assert!(failure.message.contains(why), "{failure}");
        }
    }
}
