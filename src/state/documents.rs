//! What an object's syncs have read, for the next process.

use std::sync::Arc;

use bytes::Bytes;

use super::artifact::{self, Artifact};
use super::{MayCommit, Place};
use crate::failure::Failure;
use crate::registry::{Client, Throttle};

/// Media type of the artifact and its layers; its blobs have none in particular.
const DOCUMENTS_TYPE: &str = "application/vnd.imageset-mirror.documents.v1+json";

/// Reads the documents of an object: lines of JSON, and what they name by a digest. Nothing if that is not all there, or has
/// more than `most` bytes.
///
/// # Errors
/// The registry cannot be asked.
pub async fn load_documents(
    client: &Client,
    place: &Place,
    most: u64,
) -> Result<Option<(Vec<String>, Vec<Bytes>)>, Failure> {
    let repository = &place.repository;
    let artifact = Artifact::load(client, repository, &place.documents, DOCUMENTS_TYPE).await?;
    let Some(artifact) = artifact else { return Ok(None) };
    let parts = artifact.layers.iter().chain(&artifact.blobs);
    if parts.fold(0, |sum: u64, part| sum.saturating_add(part.size)) > most {
        return Ok(None);
    }
    let (mut lines, mut blobs) = (Vec::new(), Vec::new());
    for layer in &artifact.layers {
        let Some(bytes) = artifact::read_layer(client, repository, layer).await? else { return Ok(None) };
        lines.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_owned));
    }
    for blob in &artifact.blobs {
        let Some(bytes) = artifact::read_blob(client, repository, blob).await? else { return Ok(None) };
        blobs.push(bytes);
    }
    Ok(Some((lines, blobs)))
}

/// Writes the documents of an object in place of those that are there; `throttles` hold the blobs back.
///
/// # Errors
/// The registry does not take them, or they may not be written.
pub async fn save_documents(
    client: &Client,
    place: &Place,
    (lines, blobs): (&[String], &[Bytes]),
    throttles: &[Arc<Throttle>],
    may_commit: MayCommit<'_>,
) -> Result<(), Failure> {
    let repository = &place.repository;
    for bytes in blobs {
        artifact::write_blob(client, repository, bytes, throttles).await?;
    }
    let lines = lines.iter().cloned().map(Ok);
    let layers = artifact::write_lines(client, repository, DOCUMENTS_TYPE, lines).await?;
    let blobs = blobs.iter().map(|bytes| artifact::blob(bytes)).collect();
    let artifact = Artifact { layers, blobs, completed: None };
    Ok(artifact.store_first(client, repository, &place.documents, DOCUMENTS_TYPE, may_commit).await?)
}
