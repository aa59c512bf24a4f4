//! Small OCI artifacts of ours: JSON lines in layers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Completed, MayCommit, broken, chunks};
use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Repository, Tag, media_type};
use crate::registry::{self, BlobSource, By, Client, Offer, Problem, Progress, SMALL_BLOB, Throttle, offer, send};

/// Largest layer we write or read.
pub(super) const MAX_LAYER: u64 = SMALL_BLOB;
#[expect(clippy::cast_possible_truncation, reason = "256 KiB")]
const MAX_LAYER_LENGTH: usize = MAX_LAYER as usize;
/// The annotation of a plan's manifest that says how all of it was completed.
const COMPLETED: &str = "mirror.openshift.io/completed";
/// What is no lines of ours.
const BLOB_TYPE: &str = "application/octet-stream";
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
    /// What else it has, in order.
    pub(super) blobs: Vec<Descriptor>,
    /// What it says in its annotation [`COMPLETED`].
    pub(super) completed: Option<Completed>,
}

impl Artifact {
    /// Reads the list of layers; nothing if there is no such tag or it is something else.
    pub(super) async fn load(
        client: &Client,
        repository: &Repository,
        tag: &Tag,
        kind: &str,
    ) -> Result<Option<Self>, Failure> {
        let manifest = manifest(client, repository, tag).await?;
        Ok(manifest.and_then(|manifest| Self::read(&manifest, kind)))
    }

    /// The same of a manifest that was read.
    pub(super) fn read(manifest: &RawManifest, kind: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Annotated {
            #[serde(default)]
            annotations: BTreeMap<String, String>,
        }
        let Ok(Manifest::Image { blobs, .. }) = manifest.parse() else { return None };
        let of = |kind: &str| blobs.iter().filter(|blob| blob.media_type == kind).cloned().collect();
        let (layers, blobs) = (of(kind), of(BLOB_TYPE));
        let annotations = serde_json::from_slice(manifest.bytes()).map(|Annotated { annotations }| annotations);
        let completed = annotations.unwrap_or_default().get(COMPLETED).and_then(|text| Completed::read(text));
        Some(Self { layers, blobs, completed })
    }

    /// The manifest as it is written.
    pub(super) fn manifest(&self, kind: &str) -> RawManifest {
        let config = described(media_type::OCI_EMPTY, EMPTY);
        let descriptor =
            |blob: &Descriptor| json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size});
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_IMAGE,
            "artifactType": kind,
            "config": descriptor(&config),
            "layers": self.layers.iter().chain(&self.blobs).map(descriptor).collect::<Vec<_>>(),
        });
        if let (Some(completed), Some(fields)) = (self.completed, manifest.as_object_mut()) {
            fields.insert("annotations".to_owned(), json!({COMPLETED: completed.as_str()}));
        }
        RawManifest::new(Bytes::from(manifest.to_string()), media_type::OCI_IMAGE)
    }

    /// Writes the manifest after the config that all artifacts have in common; its layers are there.
    pub(super) async fn store_first(
        &self,
        client: &Client,
        repository: &Repository,
        tag: &Tag,
        kind: &str,
        may_commit: MayCommit<'_>,
    ) -> Result<(), Refused> {
        put_config(client, repository).await?;
        self.store(client, repository, tag, kind, may_commit).await
    }

    /// Writes the manifest beside others, which have the same config; its layers are there.
    pub(super) async fn store(
        &self,
        client: &Client,
        repository: &Repository,
        tag: &Tag,
        kind: &str,
        may_commit: MayCommit<'_>,
    ) -> Result<(), Refused> {
        if !may_commit() {
            return Err(Refused::Stopped);
        }
        client.put_manifest(repository, By::Tag(tag), &self.manifest(kind)).await?;
        Ok(())
    }
}

/// Writes the config that all artifacts have in common.
pub(super) async fn put_config(client: &Client, repository: &Repository) -> Result<(), registry::Error> {
    client.put_bytes(repository, &Digest::of(EMPTY), Bytes::from_static(EMPTY)).await
}

/// What a tag names; nothing if there is no such tag.
pub(super) async fn manifest(
    client: &Client,
    repository: &Repository,
    tag: &Tag,
) -> Result<Option<RawManifest>, Failure> {
    client.manifest(repository, By::Tag(tag)).await.map_err(|error| error.failure())
}

/// The layers that these lines are written to.
pub(super) fn layers(
    repository: &Repository,
    kind: &str,
    lines: impl Iterator<Item = serde_json::Result<String>>,
) -> Result<Vec<Descriptor>, Failure> {
    let layers = chunks(lines, MAX_LAYER_LENGTH).map(|layer| layer.map(|layer| described(kind, &layer)));
    layers.collect::<Result<_, _>>().map_err(|error| broken(repository, &error.to_string()))
}

/// How one of the blobs of an artifact is named in it.
pub(super) fn blob(bytes: &[u8]) -> Descriptor {
    described(BLOB_TYPE, bytes)
}

fn described(kind: &str, bytes: &[u8]) -> Descriptor {
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    Descriptor { media_type: kind.to_owned(), digest, size, platform: None, urls: Vec::new() }
}

/// Reads one of the blobs of an artifact, whatever its length; nothing if the registry has lost it.
pub(super) async fn read_blob(
    client: &Client,
    repository: &Repository,
    blob: &Descriptor,
) -> Result<Option<Bytes>, Failure> {
    found(async { client.open_blob(repository, blob).await?.whole().await }.await)
}

/// Writes one of the blobs of an artifact, unless it is there.
pub(super) async fn write_blob(
    client: &Client,
    repository: &Repository,
    bytes: &Bytes,
    throttles: &[Arc<Throttle>],
) -> Result<(), Failure> {
    let blob = blob(bytes);
    let write = async {
        if let Offer::Wanted(session) = offer(client, repository, &blob, repository).await? {
            let progress = Progress { throttles, ..Progress::none() };
            send(BlobSource::Made(bytes), client, repository, &blob, session, progress).await?;
        }
        Ok(())
    };
    write.await.map_err(|error: registry::Error| error.failure())
}

/// Nothing instead of an error for what is not there.
fn found(read: Result<Bytes, registry::Error>) -> Result<Option<Bytes>, Failure> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if *error.problem() == Problem::Missing => Ok(None),
        Err(error) => Err(error.failure()),
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
    found(client.blob_bytes(repository, layer).await)
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
    lines: impl Iterator<Item = serde_json::Result<String>>,
) -> Result<Vec<Descriptor>, Failure> {
    let mut layers = Vec::new();
    for layer in chunks(lines, MAX_LAYER_LENGTH) {
        let layer = layer.map_err(|error| broken(repository, &error.to_string()))?;
        if layer.len() > MAX_LAYER_LENGTH {
            return Err(broken(repository, "one entry of our own state is larger than a layer of it may be"));
        }
        let blob = described(kind, &layer);
        client.put_bytes(repository, &blob.digest, layer).await.map_err(|error| error.failure())?;
        layers.push(blob);
    }
    Ok(layers)
}
