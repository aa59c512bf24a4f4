//! What is remembered, kept in the target registry itself: no volume, no database.
//!
//! Each object has OCI artifacts in `<prefix>/imageset-mirror/state`: an append-only **ledger** of everything that was
//! ever completed (nothing in a registry is ever deleted that a ledger does not name), and its last **plan**. Both are JSON
//! lines in layers of at most 256 KiB, so that neither is ever moved in one piece. The plan is a cache: losing it costs one
//! look at each image. Losing the ledger means that content is never pruned.
//!
//! An object with releases or catalogs has a third one, the **documents** that were read to find out what it wants: the next
//! process does not read them again. It is a cache too.
//!
//! The ledger is written before the plan, and the plan says whether everything in it is in the ledger. A process that
//! begins with the plan that was carried out last knows that from the digest of its artifact, in one request, and does not
//! read the ledger, which may be megabytes.

mod artifact;
mod documents;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Digest, NameError, Registry, Repository, RepositoryPath, Tag};
use crate::plan::{Plan, PlanItem};
use crate::registry::Client;

use artifact::{Artifact, Refused};
pub use documents::{load_documents, save_documents};

/// Media type of the ledger artifact and its layers.
const LEDGER_TYPE: &str = "application/vnd.imageset-mirror.ledger.v1+json";
/// Media type of the plan artifact and its layers.
const PLAN_TYPE: &str = "application/vnd.imageset-mirror.plan.v1+json";
/// The ledger is rewritten into few layers when appending has made this many more than it needs.
const COMPACT_ABOVE: usize = 64;

/// Asked right before a tag is put: false if somebody else may be in charge by now.
pub type MayCommit<'a> = &'a (dyn Fn() -> bool + Sync);

/// Where one object's state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    repository: Repository,
    ledger: Tag,
    plan: Tag,
    documents: Tag,
}

impl Place {
    /// The state of `namespace/name` of the cluster `cluster` below the target's root.
    ///
    /// # Errors
    /// The prefix is so long that the path is not valid.
    pub fn new(
        registry: &Registry,
        prefix: Option<&RepositoryPath>,
        cluster: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Self, NameError> {
        let path = match prefix {
            Some(prefix) => format!("{prefix}/imageset-mirror/state"),
            None => "imageset-mirror/state".to_owned(),
        };
        let hash = Digest::of(format!("{cluster}/{namespace}/{name}").as_bytes());
        let short = hash.hex().get(..16).unwrap_or_default();
        Ok(Self {
            repository: Repository::new(registry.clone(), path.parse()?),
            ledger: format!("{short}-ledger").parse()?,
            plan: format!("{short}-plan").parse()?,
            documents: format!("{short}-documents").parse()?,
        })
    }

    /// The repository with the artifacts.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }
}

/// One completed destination, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// `host/path:tag` in the target.
    destination: String,
    /// The digest that was completed there.
    digest: Digest,
    /// When it was completed first, RFC 3339 in UTC, whole seconds.
    first_pushed: String,
    /// SHA-256 of how it was copied: platforms and attachments. Another way is looked at again.
    manner: Digest,
}

/// A destination and the digest that was completed there.
type Key = (Arc<str>, Digest);

/// When something was completed first, and how. Thousands have both in common.
#[derive(Clone, Debug)]
struct Noted {
    first_pushed: Arc<str>,
    manner: Digest,
}

/// What one object has completed. Copies share it until something is added to one of them.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Arc<BTreeMap<Key, Noted>>,
    /// The layers that hold them in the registry.
    layers: Vec<Descriptor>,
    /// Entries that are not in the registry yet.
    new: Vec<Key>,
    /// Lines of a later version, kept as they are.
    unknown: Vec<String>,
}

/// How an item is copied, as a digest: a change means that it has to be looked at again.
fn manner(item: &PlanItem, attachments: bool) -> Digest {
    let mut hash = sha2::Sha256::new();
    for platform in &item.platforms {
        hash.update(platform.as_bytes());
        hash.update(b"\n");
    }
    hash.update(if attachments { b"attachments" } else { b"no" as &[u8] });
    Digest::of(&hash.finalize())
}

fn key(item: &PlanItem) -> Key {
    (item.destination.to_string().into(), item.digest.clone())
}

/// `noted`, or the one before if that says the same: then there is one text of both.
fn shared(last: &mut Option<Noted>, noted: Noted) -> Noted {
    let Noted { first_pushed, manner } = &noted;
    let same = last.take().filter(|last| last.first_pushed == *first_pushed && last.manner == *manner);
    last.insert(same.unwrap_or(noted)).clone()
}

impl Ledger {
    /// Reads the ledger; an empty one if there is none, or if what is there cannot be read as one.
    ///
    /// # Errors
    /// The registry cannot be asked.
    pub async fn load(client: &Client, place: &Place) -> Result<Self, Failure> {
        let Some(artifact) = Artifact::load(client, &place.repository, &place.ledger, LEDGER_TYPE).await? else {
            return Ok(Self::default());
        };
        let mut ledger = Self::default();
        let mut entries: BTreeMap<Key, Noted> = BTreeMap::new();
        let mut last = None;
        let mut whole = true;
        for layer in &artifact.layers {
            let Some(bytes) = artifact::read_layer(client, &place.repository, layer).await? else {
                tracing::warn!(repository = %place.repository, digest = %layer.digest, "a layer of the ledger is lost");
                whole = false;
                continue;
            };
            for line in artifact::lines::<Entry>(&bytes) {
                match line {
                    Ok(Entry { destination, digest, first_pushed, manner }) => {
                        let noted = shared(&mut last, Noted { first_pushed: first_pushed.into(), manner });
                        entries.insert((destination.into(), digest), noted);
                    }
                    Err(unknown) => ledger.unknown.push(unknown),
                }
            }
        }
        if whole {
            ledger.layers = artifact.layers;
        } else {
            // The registry would not take a manifest that names a lost layer: what is left is written anew.
            ledger.new = entries.keys().cloned().collect();
        }
        ledger.entries = Arc::new(entries);
        Ok(ledger)
    }

    /// True if `item` was completed by an earlier sync in the same manner.
    pub fn has(&self, item: &PlanItem, attachments: bool) -> bool {
        self.entries.get(&key(item)).is_some_and(|noted| noted.manner == manner(item, attachments))
    }

    /// Notes that `item` is complete.
    pub fn add(&mut self, item: &PlanItem, attachments: bool, now: &str) {
        let (key, manner) = (key(item), manner(item, attachments));
        let known = self.entries.get(&key);
        if known.is_some_and(|noted| noted.manner == manner) {
            return;
        }
        let first_pushed = known.map_or_else(|| now.into(), |noted| Arc::clone(&noted.first_pushed));
        let mut last = self.new.last().and_then(|key| self.entries.get(key)).cloned();
        let noted = shared(&mut last, Noted { first_pushed, manner });
        Arc::make_mut(&mut self.entries).insert(key.clone(), noted);
        self.new.push(key);
    }

    /// The entries of these keys as they are written.
    fn lines<'a>(&'a self, keys: impl Iterator<Item = &'a Key>) -> impl Iterator<Item = serde_json::Result<String>> {
        let entries = keys.filter_map(|key| Some((key, self.entries.get(key)?)));
        entries.map(|((destination, digest), noted)| {
            serde_json::to_string(&Entry {
                destination: destination.to_string(),
                digest: digest.clone(),
                first_pushed: noted.first_pushed.to_string(),
                manner: noted.manner.clone(),
            })
        })
    }

    /// Number of completed destinations.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if nothing was ever completed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes what is new; no request if nothing is.
    ///
    /// # Errors
    /// The registry does not take it, or it may not be written. What is new stays new.
    pub async fn save(&mut self, client: &Client, place: &Place, may_commit: MayCommit<'_>) -> Result<(), Failure> {
        if self.new.is_empty() {
            return Ok(());
        }
        let full = self.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size)) / artifact::MAX_LAYER;
        let small = self.layers.len().saturating_sub(usize::try_from(full).unwrap_or(usize::MAX));
        if self.layers.is_empty() || small > COMPACT_ABOVE {
            return self.rewrite(client, place, may_commit).await;
        }
        let mut layers = self.layers.clone();
        let written = artifact::write_lines(client, &place.repository, LEDGER_TYPE, self.lines(self.new.iter()));
        layers.extend(written.await?);
        let artifact = Artifact { layers: layers.clone(), blobs: Vec::new(), completed: None };
        match artifact.store(client, &place.repository, &place.ledger, LEDGER_TYPE, may_commit).await {
            Ok(()) => {
                self.layers = layers;
                self.new.clear();
                Ok(())
            }
            // Somebody emptied the repository: the layers it should have are gone.
            Err(Refused::Registry(error)) if error.lost_content() => self.rewrite(client, place, may_commit).await,
            Err(refused) => Err(refused.into()),
        }
    }

    async fn rewrite(&mut self, client: &Client, place: &Place, may_commit: MayCommit<'_>) -> Result<(), Failure> {
        let lines = self.lines(self.entries.keys()).chain(self.unknown.iter().cloned().map(Ok));
        let layers = artifact::write_lines(client, &place.repository, LEDGER_TYPE, lines).await?;
        let artifact = Artifact { layers: layers.clone(), blobs: Vec::new(), completed: None };
        artifact.store_first(client, &place.repository, &place.ledger, LEDGER_TYPE, may_commit).await?;
        self.layers = layers;
        self.new.clear();
        Ok(())
    }
}

/// How all items of a plan were completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// With what refers to them.
    WithAttachments,
    /// Without.
    Alone,
}

impl Completed {
    /// As it is written.
    fn as_str(self) -> &'static str {
        match self {
            Self::WithAttachments => "with-attachments",
            Self::Alone => "alone",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::WithAttachments, Self::Alone].into_iter().find(|known| known.as_str() == text)
    }
}

/// One line of a plan artifact; the first has the head, the others one entry each, so that no line is long.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum PlanLine {
    Head(Box<Plan>),
    Item(Box<PlanItem>),
    /// More entries of the head's other lists.
    More(Box<Plan>),
}

/// Reads the last plan, if there is one that this build can read.
///
/// # Errors
/// The registry cannot be asked.
pub async fn load_plan(client: &Client, place: &Place) -> Result<Option<Plan>, Failure> {
    match Artifact::load(client, &place.repository, &place.plan, PLAN_TYPE).await? {
        Some(artifact) => read_plan(client, place, &artifact).await,
        None => Ok(None),
    }
}

async fn read_plan(client: &Client, place: &Place, artifact: &Artifact) -> Result<Option<Plan>, Failure> {
    let mut plan: Option<Plan> = None;
    for layer in &artifact.layers {
        let Some(bytes) = artifact::read_layer(client, &place.repository, layer).await? else { return Ok(None) };
        for line in artifact::lines::<PlanLine>(&bytes) {
            match (line, &mut plan) {
                (Ok(PlanLine::Head(head)), slot) => *slot = Some(*head),
                (Ok(PlanLine::Item(mut item)), Some(plan)) => {
                    item.asked.shrink_to_fit();
                    plan.items.push(*item);
                }
                (Ok(PlanLine::More(more)), Some(plan)) => {
                    plan.blocked.extend(more.blocked);
                    plan.failures.extend(more.failures);
                    plan.notes.extend(more.notes);
                }
                // Half a plan would look as if the other half had been removed.
                (_, None) | (Err(_), _) => return Ok(None),
            }
        }
    }
    if let Some(plan) = &mut plan {
        plan.items.shrink_to_fit();
    }
    Ok(plan.filter(|plan| plan.version == Plan::VERSION))
}

/// The lines of a plan's artifact, the same for equal plans.
fn plan_lines(plan: &Plan) -> impl Iterator<Item = serde_json::Result<String>> {
    let part = || Plan {
        version: plan.version,
        target: plan.target.clone(),
        items: Vec::new(),
        blocked: Vec::new(),
        failures: Vec::new(),
        notes: Vec::new(),
        partial: plan.partial,
    };
    let items = plan.items.iter().map(|item| PlanLine::Item(Box::new(item.clone())));
    let blocked = plan.blocked.iter().map(move |one| Plan { blocked: vec![one.clone()], ..part() });
    let failed = plan.failures.iter().map(move |one| Plan { failures: vec![one.clone()], ..part() });
    let noted = plan.notes.iter().map(move |one| Plan { notes: vec![one.clone()], ..part() });
    let more = blocked.chain(failed).chain(noted).map(|more| PlanLine::More(Box::new(more)));
    let lines = std::iter::once(PlanLine::Head(Box::new(part()))).chain(items).chain(more);
    lines.map(|line| serde_json::to_string(&line))
}

/// Finds out whether the target takes a small blob in one request, unless that is known: with the config of our own artifacts,
/// two bytes that are going to be written anyway. A blob of an image may be there already, left by a sync that was
/// interrupted, and would be sent again.
///
/// # Errors
/// The registry does not take it.
pub async fn find_out_about_posts(client: &Client, place: &Place) -> Result<(), Failure> {
    if client.posts_whole(&place.repository).is_some() {
        return Ok(());
    }
    artifact::put_config(client, &place.repository).await.map_err(|error| error.failure())
}

/// What is known of an object's past.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// What it has completed. None if that was not read, because everything in `plan` is known to be in it.
    pub ledger: Option<Ledger>,
    /// The plan it has carried out last.
    pub plan: Option<Arc<Plan>>,
    /// The manner in which all of that plan is in the ledger, if so.
    pub completed: Option<Completed>,
}

impl Record {
    /// Reads as little as it takes to know what has become of `plan`.
    async fn load(client: &Client, place: &Place, plan: &Arc<Plan>, completed: Completed) -> Result<Self, Failure> {
        let manifest = artifact::manifest(client, &place.repository, &place.plan).await?;
        let Some(manifest) = manifest else {
            return Ok(Self { ledger: Some(Ledger::load(client, place).await?), ..Self::default() });
        };
        let layers = artifact::layers(&place.repository, PLAN_TYPE, plan_lines(plan))?;
        let expected = Artifact { layers, blobs: Vec::new(), completed: Some(completed) };
        if manifest.digest() == expected.manifest(PLAN_TYPE).digest() {
            return Ok(Self { ledger: None, plan: Some(Arc::clone(plan)), completed: Some(completed) });
        }
        let artifact = Artifact::read(&manifest, PLAN_TYPE);
        let read = async {
            match &artifact {
                Some(artifact) => read_plan(client, place, artifact).await,
                None => Ok(None),
            }
        };
        let (ledger, last) = futures::try_join!(Ledger::load(client, place), read)?;
        let completed = artifact.and_then(|artifact| artifact.completed).filter(|_| last.is_some());
        Ok(Self { ledger: Some(ledger), plan: last.map(Arc::new), completed })
    }

    /// Keeps `plan` as the last one; `completed` if all of it is in the ledger, which is written, in that manner.
    ///
    /// # Errors
    /// The registry does not take it, or it may not be written.
    pub async fn save_plan(
        &mut self,
        client: &Client,
        place: &Place,
        plan: &Arc<Plan>,
        completed: Option<Completed>,
        may_commit: MayCommit<'_>,
    ) -> Result<(), Failure> {
        let layers = artifact::write_lines(client, &place.repository, PLAN_TYPE, plan_lines(plan)).await?;
        let artifact = Artifact { layers, blobs: Vec::new(), completed };
        let (repository, tag) = (&place.repository, &place.plan);
        let first = async || artifact.store_first(client, repository, tag, PLAN_TYPE, may_commit).await;
        if self.plan.is_none() && self.ledger.as_ref().is_none_or(|ledger| ledger.layers.is_empty()) {
            first().await?;
        } else {
            match artifact.store(client, repository, tag, PLAN_TYPE, may_commit).await {
                // Somebody emptied the repository.
                Err(Refused::Registry(error)) if error.lost_content() => first().await?,
                stored => stored?,
            }
        }
        (self.plan, self.completed) = (Some(Arc::clone(plan)), completed);
        Ok(())
    }
}

/// What is known of one object's past, read once per process and shared by its syncs.
#[derive(Clone, Default)]
pub struct Memory {
    inner: Arc<Mutex<Option<Remembered>>>,
    documents: Arc<Mutex<Option<Written>>>,
}

/// Documents that are known to be in the registry.
struct Written {
    place: Place,
    names: BTreeSet<String>,
}

#[derive(Clone)]
struct Remembered {
    place: String,
    record: Record,
}

impl Memory {
    /// What is remembered of `place`, as far as it takes to know what has become of `plan` in the manner of `completed`;
    /// read from the registry the first time.
    ///
    /// # Errors
    /// The registry cannot be asked.
    pub async fn get(
        &self,
        client: &Client,
        place: &Place,
        plan: &Arc<Plan>,
        completed: Completed,
    ) -> Result<Record, Failure> {
        let record = match self.kept(place) {
            None => Record::load(client, place, plan, completed).await?,
            Some(kept) => {
                let all = || kept.completed == Some(completed) && kept.plan.as_ref() == Some(plan);
                if kept.ledger.is_some() || all() {
                    return Ok(kept);
                }
                Record { ledger: Some(Ledger::load(client, place).await?), ..kept }
            }
        };
        self.put(place, record.clone());
        Ok(record)
    }

    /// The plan that was carried out last, as far as that is remembered or can be read.
    ///
    /// # Errors
    /// The registry cannot be asked.
    pub async fn last_plan(&self, client: &Client, place: &Place) -> Result<Option<Arc<Plan>>, Failure> {
        match self.kept(place) {
            Some(kept) => Ok(kept.plan),
            None => Ok(load_plan(client, place).await?.map(Arc::new)),
        }
    }

    /// Replaces what is remembered.
    pub fn put(&self, place: &Place, record: Record) {
        *self.lock() = Some(Remembered { place: Self::key(place), record });
    }

    /// Whether these are the documents that are known to be in `place`.
    pub fn has_documents(&self, place: &Place, names: &BTreeSet<String>) -> bool {
        let there = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        there.as_ref().is_some_and(|there| there.place == *place && there.names == *names)
    }

    /// Takes note that nothing is known of the documents in the target.
    pub fn forget_documents(&self) {
        *self.documents.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes note of the documents that are in `place`; what each of them says follows from its name.
    pub fn documents_are(&self, place: &Place, names: BTreeSet<String>) {
        let there = Written { place: place.clone(), names };
        *self.documents.lock().unwrap_or_else(PoisonError::into_inner) = Some(there);
    }

    fn kept(&self, place: &Place) -> Option<Record> {
        let kept = self.lock().clone().filter(|kept| kept.place == Self::key(place));
        kept.map(|kept| kept.record)
    }

    fn key(place: &Place) -> String {
        format!("{}:{}", place.repository, place.ledger)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Remembered>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failure about our own documents in the target.
fn broken(place: &Repository, what: &str) -> Failure {
    Failure::transient(Reason::RegistryError, format!("`{place}`: {what}"))
}

/// Cuts lines into layers, one at a time.
fn chunks<E>(lines: impl Iterator<Item = Result<String, E>>, max: usize) -> impl Iterator<Item = Result<Bytes, E>> {
    let mut lines = lines.peekable();
    std::iter::from_fn(move || {
        let mut layer = String::new();
        while let Some(line) = lines.next_if(|line| match line {
            Ok(line) => layer.is_empty() || layer.len() + line.len() < max,
            Err(_) => true,
        }) {
            match line {
                Ok(line) => {
                    layer.push_str(&line);
                    layer.push('\n');
                }
                Err(error) => return Some(Err(error)),
            }
        }
        (!layer.is_empty()).then(|| Ok(Bytes::from(layer)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_into_layers_without_being_torn() {
        let cut = |lines: &[&str]| -> Vec<Bytes> {
            let lines = lines.iter().map(|line| Ok::<_, std::convert::Infallible>((*line).to_owned()));
            chunks(lines, 10).map(|Ok(layer)| layer).collect()
        };
        assert_eq!(cut(&["aaaa", "bbbb", "cc"]), ["aaaa\nbbbb\n", "cc\n"]);
        assert_eq!(cut(&["a", "longer than it may be", "c"]), ["a\n", "longer than it may be\n", "c\n"]);
        assert!(cut(&[]).is_empty());
    }

    #[test]
    fn what_cannot_be_written_is_no_layer() {
        let mut layers = chunks([Ok("a".to_owned()), Err("no"), Ok("b".to_owned())].into_iter(), 10);
        assert_eq!(layers.next(), Some(Err("no")));
    }

    #[test]
    fn two_clusters_keep_their_state_apart() {
        let registry: Registry = "mirror.test:5000".parse().unwrap();
        let place = |cluster| Place::new(&registry, None, cluster, "ns", "name").unwrap();
        assert_ne!(place("a").ledger, place("b").ledger);
        assert_eq!(place("a").repository.to_string(), "mirror.test:5000/imageset-mirror/state");
    }
}
