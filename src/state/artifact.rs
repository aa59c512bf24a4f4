//! Small OCI artifacts of ours: JSON lines in layers.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{MayCommit, broken, chunks};
use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Repository, Tag, media_type};
use crate::registry::{self, By, Client, Problem, SMALL_BLOB};

/// Largest layer we write or read.
pub(super) const MAX_LAYER: u64 = SMALL_BLOB;
/// The content of the empty descriptor of OCI image-spec 1.1.
const EMPTY: &[u8] = b"{}";

/// Why an artifact was not written.
pub(super) enum Refused {
    Stopped,
    Registry(registry::Error),
}

impl From<registry::Error> for Refused {
    fn from(error: registry::Error) -> Self {
        Self::Registry(error)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Stopped => Self::transient(Reason::Cancelled, "stopped before it was done"),
            Refused::Registry(error) => error.failure(),
        }
    }
}

/// An artifact: its layers, in order.
pub(super) struct Artifact {
    pub(super) layers: Vec<Descriptor>,
}

impl Artifact {
    /// Reads the list of layers; nothing if there is no such tag or it is something else.
    pub(super) async fn load(
        client: &Client,
        repository: &Repository,
        tag: &Tag,
        kind: &str,
    ) -> Result<Option<Self>, Failure> {
        let Some(manifest) = client.manifest(repository, By::Tag(tag)).await.map_err(|error| error.failure())? else {
            return Ok(None);
        };
        let Ok(Manifest::Image { blobs, .. }) = manifest.parse() else { return Ok(None) };
        let layers = blobs.into_iter().filter(|blob| blob.media_type == kind).collect();
        Ok(Some(Self { layers }))
    }

    /// Writes the manifest; its layers are there.
    pub(super) async fn store(
        &self,
        client: &Client,
        repository: &Repository,
        tag: &Tag,
        kind: &str,
        may_commit: MayCommit<'_>,
    ) -> Result<(), Refused> {
        let config = write_blob(client, repository, media_type::OCI_EMPTY, Bytes::from_static(EMPTY)).await?;
        let descriptor = |blob: &Descriptor| serde_json::json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size});
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_IMAGE,
            "artifactType": kind,
            "config": descriptor(&config),
            "layers": self.layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        let manifest = RawManifest::new(Bytes::from(manifest.to_string()), media_type::OCI_IMAGE);
        if !may_commit() {
            return Err(Refused::Stopped);
        }
        client.put_manifest(repository, By::Tag(tag), &manifest).await?;
        Ok(())
    }
}

/// Reads one layer; nothing if the registry has lost it, or if it cannot be one of ours.
pub(super) async fn read_layer(
    client: &Client,
    repository: &Repository,
    layer: &Descriptor,
) -> Result<Option<Bytes>, Failure> {
    if layer.size > MAX_LAYER {
        return Ok(None);
    }
    match client.blob_bytes(repository, layer).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if *error.problem() == Problem::Missing => Ok(None),
        Err(error) => Err(error.failure()),
    }
}

/// All lines, and those of a later version as they are.
pub(super) fn lines<T: DeserializeOwned>(bytes: &[u8]) -> impl Iterator<Item = Result<T, String>> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).map_err(|_unknown| String::from_utf8_lossy(line).into_owned()))
}

/// Writes layers of lines.
pub(super) async fn write_lines(
    client: &Client,
    repository: &Repository,
    kind: &str,
    lines: impl Iterator<Item = Result<String, serde_json::Error>>,
) -> Result<Vec<Descriptor>, Failure> {
    let lines = lines.collect::<Result<Vec<_>, _>>().map_err(|error| broken(repository, &error.to_string()))?;
    let mut layers = Vec::new();
    for layer in chunks(lines.into_iter(), usize::try_from(MAX_LAYER).unwrap_or(usize::MAX)) {
        if layer.len() as u64 > MAX_LAYER {
            return Err(broken(repository, "one entry of our own state is larger than a layer of it may be"));
        }
        layers.push(write_blob(client, repository, kind, layer).await.map_err(|error| error.failure())?);
    }
    Ok(layers)
}

async fn write_blob(
    client: &Client,
    repository: &Repository,
    kind: &str,
    bytes: Bytes,
) -> Result<Descriptor, registry::Error> {
    let digest = Digest::of(&bytes);
    let size = bytes.len() as u64;
    client.put_bytes(repository, &digest, bytes).await?;
    Ok(Descriptor { media_type: kind.to_owned(), digest, size, platform: None, urls: Vec::new() })
}
