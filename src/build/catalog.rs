//! The image of a catalog that was cut down: the source's own image, for every platform of it, with the content replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde_json::json;

use super::{Base, BaseImage, Built, Layer, Packer, stack};
use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Manifest, Platform};

/// The label that says where the files of a catalog are. Format:
/// <https://olm.operatorframework.io/docs/reference/file-based-catalogs/>.
const FILES: &str = "operators.operatorframework.io.index.configs.v1";
/// The label of catalogs of the old kind.
const DATABASE: &str = "operators.operatorframework.io.index.database.v1";
/// Hides what the layers below have in a folder. In its folder, and not in the place of the folder itself, because what serves
/// catalogs to the new OLM looks at nothing outside of the folder.
const OPAQUE: &str = ".wh..wh..opq";
/// Where images of catalogs keep what their server has made of the files.
const CACHE: &str = "tmp/cache";

/// A layer that replaces the content of `folder` by `files`, whose paths are below it.
///
/// The prepared cache of the image goes too: it belongs to other files, and a server that checks it would not start.
///
/// # Errors
/// A path that no tar can hold.
pub fn layer(folder: &str, files: &BTreeMap<String, Vec<u8>>) -> io::Result<Layer> {
    let mut packer = Packer::default();
    packer.file(&format!("{folder}/{OPAQUE}"), b"")?;
    for (name, content) in files {
        packer.file(&format!("{folder}/{name}"), content)?;
    }
    packer.folder("tmp", 0o1777)?;
    packer.folder(CACHE, 0o1777)?;
    packer.file(&format!("{CACHE}/{OPAQUE}"), b"")?;
    packer.finish()
}

/// The files that a layer made here has below `folder`.
///
/// # Errors
/// It was not made here.
pub fn files(folder: &str, layer: &Layer) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(MultiGzDecoder::new(&layer.bytes[..]));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let below = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        let Some(below) = below.filter(|below| entry.header().entry_type().is_file() && *below != OPAQUE) else {
            continue;
        };
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(below.to_owned(), content);
    }
    Ok(files)
}

/// The image: `layer` on each platform of `base`. Its server reads the files of `folder` and keeps its cache where it likes.
///
/// # Errors
/// The base is no image that can be built on.
pub fn image(base: &Base, folder: &str, layer: &Layer) -> Result<Built, Failure> {
    stack(base, layer, "imageset-mirror catalog", |config| {
        config.insert("Cmd".to_owned(), json!(["serve", format!("/{folder}")]));
    })
}

/// The platforms of an image that are asked for; all if none are.
///
/// # Errors
/// It does not have all of them.
pub fn on(base: &Base, platforms: &BTreeSet<Platform>) -> Result<Base, Failure> {
    let (Some(index), false) = (&base.index, platforms.is_empty()) else { return Ok(base.clone()) };
    let Ok(Manifest::Index { children, .. }) = index.parse() else { return Ok(base.clone()) };
    let mut missing = platforms.clone();
    let mut wanted = BTreeSet::new();
    for Descriptor { platform, digest, .. } in children {
        if let Some(platform) = platform.filter(|platform| platforms.contains(platform)) {
            missing.remove(&platform);
            wanted.insert(digest);
        }
    }
    if !missing.is_empty() {
        let names: Vec<_> =
            missing.iter().map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
        let message = format!("its image has no {}", names.join(", "));
        return Err(Failure::permanent(Reason::PlatformMissing, message));
    }
    let images = base.images.iter().filter(|image| wanted.contains(image.manifest.digest())).cloned().collect();
    Ok(Base { index: base.index.clone(), images })
}

#[derive(Deserialize)]
struct ImageConfig {
    #[serde(default)]
    config: Option<Labelled>,
}

#[derive(Deserialize)]
struct Labelled {
    #[serde(default, rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

/// Where an image has the files of its catalog: a path without slashes around it. All platforms have them in one place.
///
/// # Errors
/// It is no catalog, or one of the old kind, or its platforms are of two minds.
pub fn folder(base: &Base) -> Result<String, Failure> {
    let invalid = |why: String| Failure::permanent(Reason::CatalogInvalid, why);
    let mut folders = BTreeSet::new();
    for BaseImage { config, .. } in &base.images {
        let config: ImageConfig =
            serde_json::from_slice(config).map_err(|error| invalid(format!("its config cannot be read: {error}")))?;
        let labels = config.config.and_then(|config| config.labels).unwrap_or_default();
        let Some(label) = labels.get(FILES) else {
            return Err(invalid(if labels.contains_key(DATABASE) {
                "it is a catalog of the old kind, a database, which no OLM of today serves: take a file-based one"
                    .to_owned()
            } else {
                format!("it has no label `{FILES}`: it is not the image of a catalog")
            }));
        };
        folders.insert(
            inside(label).ok_or_else(|| invalid(format!("its label `{FILES}` is `{label}`, which is no folder")))?,
        );
    }
    let mut folders = folders.into_iter();
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder),
        (None, _) => Err(invalid("it has no image".to_owned())),
        (Some(one), Some(other)) => {
            Err(invalid(format!("its platforms have the catalog in two places, `/{one}` and `/{other}`")))
        }
    }
}

/// A path below the root, and not the root.
fn inside(label: &str) -> Option<String> {
    let parts: Vec<_> = label.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;

    use super::*;
    use crate::oci::{Digest, RawManifest, media_type};

    fn base(labels: &[Value]) -> Base {
        let image = |labels: &Value| {
            let config = Bytes::from(json!({"config": {"Labels": labels}}).to_string());
            let manifest = json!({"schemaVersion": 2, "config": {"mediaType": "c", "digest": Digest::of(&config), "size": 1}, "layers": []});
            BaseImage { manifest: RawManifest::new(Bytes::from(manifest.to_string()), media_type::OCI_IMAGE), config }
        };
        Base { index: None, images: labels.iter().map(image).collect() }
    }

    #[test]
    fn the_label_says_where_the_files_are() {
        for (labels, expected) in [
            (vec![json!({FILES: "/configs"})], Ok("configs")),
            (vec![json!({FILES: "/a/./b/"}), json!({FILES: "a/b"})], Ok("a/b")),
            (vec![json!({FILES: "/a"}), json!({FILES: "/b"})], Err("two places")),
            (vec![json!({FILES: "/a"}), json!({})], Err("not the image of a catalog")),
            (vec![json!(null)], Err("not the image of a catalog")),
            (vec![json!({DATABASE: "/database/index.db"})], Err("of the old kind")),
            (vec![json!({FILES: "/"})], Err("no folder")),
            (vec![json!({FILES: "/a/../.."})], Err("no folder")),
            (vec![], Err("no image")),
        ] {
            match (folder(&base(&labels)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(failure), Err(why)) => assert!(failure.message.contains(why), "{failure}"),
                (found, expected) => panic!("{labels:?}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_layer_hides_what_was_there_and_is_readable_by_everybody() {
        let files =
            BTreeMap::from([("b/catalog.json".to_owned(), b"{}".to_vec()), ("catalog.json".to_owned(), Vec::new())]);
        let made = layer("a/configs", &files).unwrap();
        assert_eq!(made, layer("a/configs", &files).unwrap());
        assert_eq!(super::files("a/configs", &made).unwrap(), files);
        let unpacked = flate2::read::GzDecoder::new(&made.bytes[..]);
        let mut archive = tar::Archive::new(unpacked);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                format!("{} {:o}", entry.path().unwrap().display(), entry.header().mode().unwrap())
            })
            .collect();
        assert_eq!(
            entries,
            [
                "a/ 755",
                "a/configs/ 755",
                "a/configs/.wh..wh..opq 644",
                "a/configs/b/ 755",
                "a/configs/b/catalog.json 644",
                "a/configs/catalog.json 644",
                "tmp/ 1777",
                "tmp/cache/ 1777",
                "tmp/cache/.wh..wh..opq 644"
            ]
        );
    }
}
