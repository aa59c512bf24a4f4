//! What was read to find out what an object wants, from one process to the next.

use std::sync::Arc;

use super::Cache;
use crate::failure::{Failure, Reason};
use crate::fetch::{Kept, MAX_KEPT, Named};
use crate::registry::{Client, Throttle};
use crate::state::{MayCommit, Memory, Place, load_documents, save_documents};

/// Takes in what the target has of that, once per process. What is not to be had is read anew.
pub(super) async fn recall(cache: &Cache, memory: &Memory, target: &Client, place: &Place) {
    if !cache.is_new() {
        return;
    }
    let recalled = async {
        let Some((lines, blobs)) = load_documents(target, place, MAX_KEPT).await? else { return Ok(None) };
        // Layers are unpacked for that.
        let read = tokio::task::spawn_blocking(move || Kept { lines, blobs }.read()).await;
        read.map(Some)
            .map_err(|error| Failure::permanent(Reason::RegistryError, format!("reading it panicked: {error}")))
    };
    let documents = match recalled.await {
        Ok(None) => Named::new(),
        Ok(Some((documents, names))) => {
            memory.documents_are(place, names);
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
    (target, throttles): (&Client, &[Arc<Throttle>]),
    place: &Place,
    may_commit: MayCommit<'_>,
) -> Result<(), Failure> {
    let names = documents.keys().cloned().collect();
    if documents.is_empty() || memory.has_documents(place, &names) {
        return Ok(());
    }
    let documents = Arc::clone(documents);
    let packed = tokio::task::spawn_blocking(move || Kept::of(&documents)).await;
    let Kept { lines, blobs } =
        packed.map_err(|error| Failure::permanent(Reason::RegistryError, format!("packing it panicked: {error}")))?;
    save_documents(target, place, (&lines, &blobs), throttles, may_commit).await?;
    memory.documents_are(place, names);
    Ok(())
}
