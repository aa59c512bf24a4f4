//! The operator's image as an OCI image layout, made without a container engine.
//!
//! The same inputs give the same bytes: sorted entries, one time, owner 0, one compression. Layers go from what changes least
//! to what changes most: base, helm, binary.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::image::{OCI_INDEX, OCI_MANIFEST, Remote, sha256};
use crate::operator;
use crate::tools::{self, Tool};

pub mod debian;
mod tree;

pub use tree::Tree;
pub(crate) use tree::compress;

/// The operator's place in the image.
pub const BINARY: &str = "usr/bin/imageset-mirror";
/// The user it runs as: a number, so that Kubernetes can see that it is not root.
const USER: &str = "65532:65532";
const DESCRIPTION: &str = "Kubernetes operator that mirrors container images from registry to registry";

/// Bytes with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:…`
    pub digest: String,
    /// What they are.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Names bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { digest: sha256(&bytes), bytes }
    }
}

/// An image, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its layers, with a word on each.
    pub layers: Vec<(&'static str, Blob)>,
    config: Blob,
    manifest: Blob,
}

/// Puts an image together from its layers, lowest first.
///
/// # Errors
/// When a layer cannot be packed.
pub fn assemble(layers: &[(&'static str, Tree)], created: i64, revision: &str) -> Result<Image> {
    let labels = labels(created, revision)?;
    let mut packed = Vec::new();
    let mut unpacked = Vec::new();
    for (name, tree) in layers {
        let (blob, digest) = tree.pack(u64::try_from(created)?)?;
        packed.push((*name, blob));
        unpacked.push(digest);
    }
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": labels.get("org.opencontainers.image.created"),
        "config": {
            "User": USER,
            "Entrypoint": [format!("/{BINARY}")],
            "Env": ["PATH=/usr/bin"],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": unpacked},
    });
    let config = Blob::new(serde_json::to_vec(&config)?);
    let layer = |(_, blob): &(_, Blob)| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": packed.iter().map(layer).collect::<Vec<_>>(),
        "annotations": labels,
    });
    let manifest = Blob::new(serde_json::to_vec(&manifest)?);
    Ok(Image { layers: packed, config, manifest })
}

impl Image {
    /// Pushes it under a tag.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub async fn push(&self, remote: &Remote, repository: &str, tag: &str) -> Result<()> {
        for blob in self.layers.iter().map(|(_, blob)| blob).chain([&self.config]) {
            remote.push_blob(repository, &blob.bytes).await?;
        }
        remote.put_manifest_bytes(repository, tag, OCI_MANIFEST, self.manifest.bytes.clone()).await?;
        Ok(())
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// Writes an OCI image layout in place of what is there.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let parent = folder.parent().context("a layout needs a folder to be in")?;
        fs::create_dir_all(parent)?;
        let staging = tempfile::tempdir_in(parent)?;
        let blobs = staging.path().join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        for blob in self.layers.iter().map(|(_, blob)| blob).chain([&self.config, &self.manifest]) {
            fs::write(blobs.join(blob.digest.trim_start_matches("sha256:")), &blob.bytes)?;
        }
        let mut entry = descriptor(OCI_MANIFEST, &self.manifest);
        if let Some(fields) = entry.as_object_mut() {
            let name = json!({"org.opencontainers.image.ref.name": env!("CARGO_PKG_VERSION")});
            fields.insert("annotations".to_owned(), name);
            fields.insert("platform".to_owned(), json!({"architecture": "amd64", "os": "linux"}));
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        fs::write(staging.path().join("index.json"), serde_json::to_vec(&index)?)?;
        fs::write(staging.path().join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::rename(staging.keep(), folder).with_context(|| format!("writing {}", folder.display()))
    }
}

/// The layers of the real image.
///
/// # Errors
/// When a part cannot be had, or the binary asks for a newer C library than the image has.
pub fn layers(binary: &Path, helm: &Path) -> Result<Vec<(&'static str, Tree)>> {
    ensure!(std::env::consts::ARCH == "x86_64", "packages.lock is for amd64 only");
    let content = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    let (needed, there) = (needed_libc(&content), debian::libc_version()?);
    ensure!(needed <= there, "the binary needs glibc {needed:?}, the image has {there:?}: build it on Debian 12");
    let mut helm_layer = Tree::default();
    helm_layer.file("usr/bin/helm", 0o755, fs::read(helm).with_context(|| format!("reading {}", helm.display()))?);
    let mut own = Tree::default();
    own.file(BINARY, 0o755, content);
    Ok(vec![("base", base(debian::files()?)), ("helm", helm_layer), ("binary", own)])
}

/// The real image of the built operator.
///
/// # Errors
/// As [`layers`], or when nothing is built.
pub fn operator_image(created: i64, revision: &str) -> Result<Image> {
    assemble(&layers(&operator::binary()?, &tools::ensure(Tool::Helm)?)?, created, revision)
}

/// Debian's files, and what a system needs besides them.
fn base(mut files: Tree) -> Tree {
    let bundle: Vec<u8> = files
        .files()
        .filter(|(path, _)| path.starts_with("usr/share/ca-certificates/"))
        .flat_map(|(_, certificate)| certificate.iter().copied())
        .collect();
    files.file("etc/ssl/certs/ca-certificates.crt", 0o644, bundle);
    files.file("etc/passwd", 0o644, "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n");
    files.file("etc/group", 0o644, "root:x:0:\nnonroot:x:65532:\n");
    files.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n");
    files.folder("tmp", 0o1777);
    files
}

/// The newest version of glibc's symbols that a program names.
fn needed_libc(program: &[u8]) -> (u32, u32) {
    const MARK: &[u8] = b"GLIBC_";
    let version = |at: usize| {
        let rest = program.get(at + MARK.len()..at + MARK.len() + 8)?;
        let text: String =
            rest.iter().map(|&byte| char::from(byte)).take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let mut parts = text.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let marks = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    marks.filter_map(|(at, _)| version(at)).max().unwrap_or_default()
}

fn labels(created: i64, revision: &str) -> Result<BTreeMap<String, String>> {
    let created = Timestamp::from_second(created)?.to_string();
    let labels = [
        ("title", "imageset-mirror"),
        ("description", DESCRIPTION),
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", revision),
        ("source", env!("CARGO_PKG_REPOSITORY")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("created", created.as_str()),
    ];
    Ok(labels.map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned())).into())
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(binary: &str) -> Vec<(&'static str, Tree)> {
        let mut zones = Tree::default();
        zones.file("usr/share/zoneinfo/UTC", 0o644, "zone");
        zones.link("usr/share/zoneinfo/Zulu", "UTC");
        zones.file("usr/share/ca-certificates/a.crt", 0o644, "authority\n");
        let mut own = Tree::default();
        own.file(BINARY, 0o755, binary);
        vec![("base", base(zones)), ("binary", own)]
    }

    /// Every file of a layout.
    fn written(image: &Image) -> BTreeMap<String, Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("image");
        for _ in 0..2 {
            image.write(&layout).unwrap();
        }
        let mut found = BTreeMap::new();
        for part in ["", "blobs/sha256"] {
            for entry in fs::read_dir(layout.join(part)).unwrap().map(Result::unwrap).filter(|it| it.path().is_file()) {
                found.insert(entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
            }
        }
        found
    }

    #[test]
    fn the_same_parts_give_the_same_bytes_and_a_new_binary_a_new_top_layer_only() {
        let [first, again] = [0, 1].map(|_| assemble(&parts("one"), 0, "abc").unwrap());
        assert_eq!(written(&first), written(&again));
        assert_eq!(written(&first).len(), 2 + 2 + 2, "index, version, config, manifest, two layers");
        let other = assemble(&parts("two"), 0, "abc").unwrap();
        assert_ne!(first.digest(), other.digest());
        assert_eq!(first.layers[0], other.layers[0]);
        assert_ne!(first.layers[1], other.layers[1]);
    }

    #[test]
    fn a_layer_unpacks_to_what_was_put_in_owned_by_root_at_one_time() {
        let (blob, _) = parts("one").remove(0).1.pack(7).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(blob.bytes.as_slice()));
        let mut paths = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 7));
            paths.push(entry.path().unwrap().display().to_string());
        }
        let mut sorted = paths.clone();
        sorted.sort();
        assert_eq!(paths, sorted);
        for path in ["etc/ssl/certs/ca-certificates.crt", "etc/passwd", "usr/share/zoneinfo/Zulu", "tmp/"] {
            assert!(paths.iter().any(|found| found == path), "{path}: {paths:#?}");
        }
    }

    #[test]
    fn the_c_library_that_a_program_needs_is_read_from_its_symbols() {
        assert_eq!(needed_libc(b"..GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_PRIVATE\0"), (2, 34));
        assert_eq!(needed_libc(b"static"), (0, 0));
        assert!(debian::libc_version().unwrap() >= (2, 36));
    }
}
