//! The I/O edge of `resolve`: turns a document's key into a bounded document.

use std::sync::Arc;

use crate::failure::{Failure, Reason};
use crate::registry::Client;
use crate::resolve::{Document, DocumentKey, Fetch};

/// Fetches documents from the source side.
pub struct Source {
    client: Arc<Client>,
}

impl Source {
    /// Documents read with this client.
    pub fn new(client: Arc<Client>) -> Self {
        Self { client }
    }
}

impl Fetch for Source {
    async fn fetch(&self, key: &DocumentKey) -> Result<Document, Failure> {
        match key {
            DocumentKey::TagDigest(reference) => {
                let Some(tag) = reference.tag() else {
                    let message = format!("`{reference}` has no tag to resolve; please report this defect");
                    return Err(Failure::permanent(Reason::ManifestInvalid, message));
                };
                let digest = self.client.resolve(reference.repository(), tag).await.map_err(|error| error.failure())?;
                digest.map(Document::Digest).ok_or_else(|| Failure::permanent(Reason::SourceNotFound, format!(
                        "`{reference}` is not in the source registry: check the name and the tag, and that it still exists \
                         there"
                    )))
            }
        }
    }
}
