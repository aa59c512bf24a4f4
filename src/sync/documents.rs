//! What was read to find out what an object wants, from one process to the next.

use std::sync::Arc;

use super::Cache;
use crate::failure::Failure;
use crate::fetch::{Kept, Named};
use crate::registry::Client;
use crate::state::{MayCommit, Memory, Place, load_documents, save_documents};

/// Takes in what the target has of that, once per process. What is not to be had is read anew.
pub(super) async fn recall(cache: &Cache, memory: &Memory, target: &Client, place: &Place) {
    if !cache.is_new() {
        return;
    }
    let documents = match load_documents(target, place).await {
        Ok(None) => Named::new(),
        Ok(Some((lines, blobs))) => {
            let documents = Kept { lines, blobs }.read();
            memory.documents_are(place, documents.keys().cloned().collect());
            documents
        }
        Err(failure) => {
            tracing::info!(%failure, "what an earlier process has read cannot be used: it is read again");
            Named::new()
        }
    };
    cache.begin_with(documents);
}

/// Keeps it in the target, unless that has it.
///
/// # Errors
/// The target does not take it, or it may not be written.
pub(super) async fn keep(
    documents: &Arc<Named>,
    memory: &Memory,
    target: &Client,
    place: &Place,
    may_commit: MayCommit<'_>,
) -> Result<(), Failure> {
    let names = documents.keys().cloned().collect();
    if documents.is_empty() || memory.has_documents(place, &names) {
        return Ok(());
    }
    let Kept { lines, blobs } = Kept::of(documents);
    save_documents(target, place, &lines, &blobs, may_commit).await?;
    memory.documents_are(place, names);
    Ok(())
}
