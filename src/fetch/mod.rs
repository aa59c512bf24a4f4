//! The I/O edge of `resolve`: turns a document's key into a bounded document.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use url::Url;

use crate::failure::{Failure, Reason};
use crate::registry::Client;
use crate::resolve::{Document, DocumentKey, Fetch};

mod catalog;
mod helm;
mod kept;
mod layers;
mod release;
mod render;

pub use catalog::Offered;
pub(crate) use catalog::reread;
pub use kept::{Kept, MAX_KEPT, Named};
pub use render::{Bounds, Helm};

/// The most documents that are remembered. Those of a release have 60 KiB.
const REMEMBERED: usize = 128;

/// What was fetched for one object and never changes, since its name is its digest: a later sync does not fetch it again. Not
/// shared between objects, which may not read the same.
#[derive(Debug, Default)]
pub struct Cache {
    documents: Mutex<BTreeMap<DocumentKey, Document>>,
    /// What an earlier process has fetched; none as long as nobody has looked for that.
    earlier: Mutex<Option<Named>>,
    /// What was asked for since this was last [begun](Self::begin).
    asked: Mutex<BTreeSet<DocumentKey>>,
    barren: layers::Barren,
}

impl Cache {
    /// From now on it is noted anew what is asked for.
    pub fn begin(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Forgets what nobody has asked for since it was begun: what was wanted once need not be wanted again.
    pub fn tidy(&self) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock().retain(|key, _| asked.contains(key));
        if let Some(earlier) = &mut *self.earlier.lock().unwrap_or_else(PoisonError::into_inner) {
            let names: BTreeSet<_> = asked.iter().filter_map(kept::name).collect();
            earlier.retain(|name, _| names.contains(name));
        }
    }

    /// Forgets everything, and what earlier processes have fetched too.
    pub fn forget(&self) {
        self.lock().clear();
        self.begin_with(Named::new());
    }

    /// True as long as nobody has said what an earlier process has fetched.
    pub fn is_new(&self) -> bool {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Takes in what an earlier process has fetched.
    pub fn begin_with(&self, earlier: Named) {
        *self.earlier.lock().unwrap_or_else(PoisonError::into_inner) = Some(earlier);
    }

    /// What other processes may use of what was asked for since it was begun.
    pub fn named(&self) -> Named {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.lock();
        let earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |key: &DocumentKey| {
            let name = kept::name(key)?;
            let document = known.get(key).or_else(|| earlier.as_ref()?.get(&name))?.clone();
            Some((name, document))
        };
        asked.iter().filter_map(named).collect()
    }

    fn get(&self, key: &DocumentKey) -> Option<Document> {
        let found = self.lock().get(key).cloned();
        if found.is_some() {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
            return found;
        }
        let name = kept::name(key)?;
        let earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.get(&name).cloned()?;
        self.put(key, &earlier);
        Some(earlier)
    }

    fn put(&self, key: &DocumentKey, document: &Document) {
        let lasting = match (key, document) {
            (DocumentKey::Payload(_) | DocumentKey::Base(_) | DocumentKey::Catalog(_), _) => true,
            (DocumentKey::Chart(key), Document::Chart(chart)) => helm::lasting(key, chart),
            // Somebody may still sign it.
            (DocumentKey::Signatures(_), Document::Signatures(files)) => !files.is_empty(),
            _ => false,
        };
        if !lasting {
            return;
        }
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        let mut known = self.lock();
        if known.len() < REMEMBERED || known.contains_key(key) {
            known.insert(key.clone(), document.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DocumentKey, Document>> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetches documents from the source side.
pub struct Source {
    cache: Arc<Cache>,
    client: Arc<Client>,
    update_service: Option<Url>,
    signature_stores: Vec<Url>,
    graph_data: Option<Url>,
    helm: Helm,
    /// Bytes of charts that are held for the copy.
    held: AtomicU64,
}

impl Source {
    /// Documents read with this client, unless they are in `cache`.
    pub fn new(client: Arc<Client>, cache: Arc<Cache>) -> Self {
        Self {
            cache,
            client,
            update_service: None,
            signature_stores: Vec::new(),
            graph_data: None,
            helm: Helm::default(),
            held: AtomicU64::new(0),
        }
    }

    /// Renders charts with this.
    #[must_use]
    pub fn rendering(self, helm: Helm) -> Self {
        Self { helm, ..self }
    }

    /// Asks these for graphs, signatures and the data of the graph image in place of the public services.
    #[must_use]
    pub fn asking(self, update_service: Option<Url>, signature_stores: Vec<Url>, graph_data: Option<Url>) -> Self {
        Self { update_service, signature_stores, graph_data, ..self }
    }
}

impl Fetch for Source {
    async fn fetch(&self, key: &DocumentKey) -> Result<Document, Failure> {
        if let Some(document) = self.cache.get(key) {
            return Ok(document);
        }
        let document = self.fetch_anew(key).await?;
        self.cache.put(key, &document);
        Ok(document)
    }
}

impl Source {
    async fn fetch_anew(&self, key: &DocumentKey) -> Result<Document, Failure> {
        match key {
            DocumentKey::Graph(key) => self.graph(key).await.map(|graph| Document::Graph(Arc::new(graph))),
            DocumentKey::Payload(key) => self.payload(key).await.map(|payload| Document::Payload(Arc::new(payload))),
            DocumentKey::Catalog(key) => self.catalog(key).await.map(|selected| Document::Catalog(Arc::new(selected))),
            DocumentKey::GraphData => self.graph_data().await.map(Document::GraphData),
            DocumentKey::Base(image) => self.base(image).await.map(|base| Document::Base(Arc::new(base))),
            DocumentKey::Charts(key) => self.charts(key).await.map(|index| Document::Charts(Arc::new(index))),
            DocumentKey::Tags(repository) => self.tags(repository).await.map(|tags| Document::Tags(Arc::new(tags))),
            // Boxed, because it is large and goes through several hands.
            DocumentKey::Chart(key) => Box::pin(self.chart(key)).await.map(|chart| Document::Chart(Arc::new(chart))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Base;

    #[test]
    fn what_is_not_asked_for_any_more_makes_room_for_what_is() {
        let cache = Cache::default();
        let key = |number: usize| DocumentKey::Base(format!("q.test/i:{number}").parse().unwrap());
        let document = Document::Base(Arc::new(Base { index: None, images: Vec::new() }));
        for number in 0..3 * REMEMBERED {
            cache.begin();
            cache.put(&key(number), &document);
            cache.tidy();
        }
        assert_eq!(cache.lock().len(), 1);
        let last = key(3 * REMEMBERED - 1);
        cache.begin();
        assert!(cache.get(&last).is_some());
        cache.tidy();
        assert!(cache.get(&last).is_some(), "it was asked for");
        cache.begin();
        cache.tidy();
        assert!(cache.get(&last).is_none());
    }

    #[test]
    fn what_an_earlier_process_has_fetched_is_used_and_named_once_it_is_asked_for() {
        let digest = |text: &[u8]| crate::oci::Digest::of(text);
        let key = |text: &[u8]| DocumentKey::Base(format!("q.test/i@{}", digest(text)).parse().unwrap());
        let document = Document::Base(Arc::new(Base { index: None, images: Vec::new() }));
        let cache = Cache::default();
        assert!(cache.is_new());
        let both = [key(b"one"), key(b"two")].map(|key| (kept::name(&key).unwrap(), document.clone()));
        cache.begin_with(both.into());
        assert!(!cache.is_new() && cache.named().is_empty());
        assert_eq!(cache.get(&key(b"one")), Some(document));
        assert_eq!(cache.named().into_keys().collect::<Vec<_>>(), [kept::name(&key(b"one")).unwrap()]);
        cache.tidy();
        assert_eq!(cache.get(&key(b"two")), None, "nobody has asked for it");
        cache.forget();
        assert_eq!(cache.get(&key(b"one")), None);
        assert!(!cache.is_new(), "and it is not looked for again");
    }
}
