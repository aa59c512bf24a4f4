//! Images that are made here: one layer on top of a base, or an archive as an artifact; the same bytes from the same inputs. Pure.

pub mod catalog;
pub mod chart;
pub mod graph;

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Reason};
use crate::oci::{Algorithm, Content, Descriptor, Digest, Hasher, Platform, RawManifest, media_type};

/// An image to build on: its manifests and configs, not its layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The index, if it is for several platforms.
    pub index: Option<RawManifest>,
    /// One for each platform.
    pub images: Vec<BaseImage>,
}

/// One platform of a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// The manifest.
    pub manifest: RawManifest,
    /// The config that it names.
    pub config: Bytes,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The index, or the only manifest.
    pub digest: Digest,
    /// Everything that the base does not have.
    pub content: Content,
}

/// A layer, as a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Compressed with gzip.
    pub bytes: Bytes,
    /// Digest of the tar itself.
    pub diff_id: Digest,
}

/// Digest and length of the tar in a layer that is compressed with gzip; none if it is longer than `most` bytes or cannot be read.
pub fn unpacked(layer: &[u8], most: u64) -> Option<(Digest, u64)> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut tar = MultiGzDecoder::new(layer).take(most.saturating_add(1));
    let mut buffer = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        match tar.read(&mut buffer).ok()? {
            0 => break,
            count => {
                hasher.update(buffer.get(..count)?);
                length += count as u64;
            }
        }
    }
    (length <= most).then(|| (hasher.finish(), length))
}

/// Puts a layer together; the same entries in the same order give the same bytes.
struct Packer {
    tar: tar::Builder<Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Default for Packer {
    fn default() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), folders: BTreeSet::new() }
    }
}

impl Packer {
    /// Adds a file that everybody may read, and the folders above it.
    fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder, 0o755)?;
        }
        self.tar.append_data(&mut header(tar::EntryType::Regular, 0o644, content.len() as u64), path, content)
    }

    /// Adds a folder of this mode, unless it is there, and those above it.
    fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let above: Vec<_> =
            path.match_indices('/').filter_map(|(at, _)| path.get(..at)).map(|path| (path, 0o755)).collect();
        for (folder, mode) in above.into_iter().chain([(path, mode)]) {
            if self.folders.insert(folder.to_owned()) {
                self.tar.append_data(
                    &mut header(tar::EntryType::Directory, mode, 0),
                    format!("{folder}/"),
                    io::empty(),
                )?;
            }
        }
        Ok(())
    }

    fn finish(self) -> io::Result<Layer> {
        let tar = self.tar.into_inner()?;
        let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
        encoder.write_all(&tar)?;
        Ok(Layer { bytes: Bytes::from(encoder.finish()?), diff_id: Digest::of(&tar) })
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Adds `layer` to each image of `base` and changes its config.
fn stack(
    base: &Base,
    layer: &Layer,
    created_by: &str,
    change: impl Fn(&mut Map<String, Value>),
) -> Result<Built, Failure> {
    let mut content = Content::default();
    let blob = content.add(layer.bytes.clone());
    let mut made = Vec::new();
    for image in &base.images {
        let mut config = object(&image.config, "config")?;
        let history = json!({"created_by": created_by});
        append(&mut config, &["rootfs", "diff_ids"], json!(layer.diff_id))?;
        append(&mut config, &["history"], history)?;
        change(within(&mut config, "config")?);
        let config = Bytes::from(Value::Object(config).to_string());

        let mut manifest = object(image.manifest.bytes(), "manifest")?;
        let size = config.len();
        let digest = content.add(config);
        replace(within(&mut manifest, "config")?, &digest, size);
        let media_type = if image.manifest.media_type() == media_type::DOCKER_IMAGE {
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
        } else {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        };
        let added = json!({"mediaType": media_type, "digest": blob, "size": layer.bytes.len()});
        append(&mut manifest, &["layers"], added)?;
        // A registry tells the type of what it is not told by a header from this.
        manifest.insert("mediaType".to_owned(), json!(image.manifest.media_type()));
        manifest.remove("subject");
        let manifest = Bytes::from(Value::Object(manifest).to_string());
        let size = manifest.len();
        made.push((image.manifest.digest(), content.add(manifest), size));
    }
    let Some(index) = &base.index else {
        let only = made.into_iter().map(|(_, digest, _)| digest).next();
        let digest = only.ok_or_else(|| unusable("it has no image"))?;
        return Ok(Built { digest, content });
    };
    let mut list = object(index.bytes(), "index")?;
    let entries = list.get_mut("manifests").and_then(Value::as_array_mut);
    let entries = entries.ok_or_else(|| unusable("its index has no manifests"))?;
    // What is not an image, such as an attestation, is about the base and not about this.
    entries.retain_mut(|entry| {
        let of = made.iter().find(|(old, ..)| entry["digest"] == json!(old));
        let Some(((_, digest, size), entry)) = of.zip(entry.as_object_mut()) else { return false };
        replace(entry, digest, *size);
        true
    });
    if entries.is_empty() {
        return Err(unusable("its index names no image"));
    }
    list.insert("mediaType".to_owned(), json!(index.media_type()));
    list.remove("subject");
    let digest = content.add(Bytes::from(Value::Object(list).to_string()));
    Ok(Built { digest, content })
}

/// The entries of an index that are images to build on.
pub fn images(children: Vec<Descriptor>) -> Vec<Descriptor> {
    let known = |platform: &Platform| platform.os != "unknown" && platform.architecture != "unknown";
    children.into_iter().filter(|child| child.platform.as_ref().is_none_or(known)).collect()
}

fn replace(descriptor: &mut Map<String, Value>, digest: &Digest, size: usize) {
    descriptor.insert("digest".to_owned(), json!(digest));
    descriptor.insert("size".to_owned(), json!(size));
    // It may hold the content itself.
    descriptor.remove("data");
}

fn object(bytes: &[u8], what: &str) -> Result<Map<String, Value>, Failure> {
    serde_json::from_slice(bytes).map_err(|error| unusable(&format!("its {what} is not a JSON object: {error}")))
}

fn within<'a>(object: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Map<String, Value>, Failure> {
    let value = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
    value.as_object_mut().ok_or_else(|| unusable(&format!("`{key}` is not an object")))
}

fn append(object: &mut Map<String, Value>, path: &[&str], value: Value) -> Result<(), Failure> {
    let list = match path {
        [key] => object.entry(*key).or_insert_with(|| json!([])),
        [first, key] => within(object, first)?.entry(*key).or_insert_with(|| json!([])),
        _ => return Err(unusable("it cannot be added to")),
    };
    list.as_array_mut().ok_or_else(|| unusable(&format!("`{}` is not a list", path.join("."))))?.push(value);
    Ok(())
}

fn unusable(why: &str) -> Failure {
    Failure::permanent(Reason::ManifestInvalid, format!("the image cannot be built upon: {why}"))
}
