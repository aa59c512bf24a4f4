//! The I/O edge of `resolve`: turns a document's key into a bounded document.

use std::sync::Arc;

use url::Url;

use crate::failure::{Failure, Reason};
use crate::registry::Client;
use crate::resolve::{Document, DocumentKey, Fetch};

mod layers;
mod release;

/// Fetches documents from the source side.
pub struct Source {
    client: Arc<Client>,
    update_service: Option<Url>,
    signature_stores: Vec<Url>,
    graph_data: Option<Url>,
}

impl Source {
    /// Documents read with this client.
    pub fn new(client: Arc<Client>) -> Self {
        Self { client, update_service: None, signature_stores: Vec::new(), graph_data: None }
    }

    /// Asks these for graphs, signatures and the data of the graph image in place of the public services.
    #[must_use]
    pub fn asking(self, update_service: Option<Url>, signature_stores: Vec<Url>, graph_data: Option<Url>) -> Self {
        Self { update_service, signature_stores, graph_data, ..self }
    }
}

impl Fetch for Source {
    async fn fetch(&self, key: &DocumentKey) -> Result<Document, Failure> {
        match key {
            DocumentKey::Graph(key) => self.graph(key).await.map(|graph| Document::Graph(Arc::new(graph))),
            DocumentKey::Payload(key) => self.payload(key).await.map(|payload| Document::Payload(Arc::new(payload))),
            DocumentKey::GraphData => self.graph_data().await.map(Document::GraphData),
            DocumentKey::Base(image) => self.base(image).await.map(|base| Document::Base(Arc::new(base))),
            DocumentKey::Signatures(key) => self.signatures(key).await.map(|files| Document::Signatures(files.into())),
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
