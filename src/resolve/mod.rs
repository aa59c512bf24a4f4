//! From a request to the list of what is wanted, without I/O.
//!
//! A resolver looks at the documents it has and either asks for more or is done; [`drive`] does the fetching for all of
//! them. A document that cannot be had is data: the origin that needed it fails, the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::build::Base;
use crate::failure::{Failure, Reason};
use crate::oci::{Content, Digest, Platform, Reference, Repository, RepositoryPath, Tag};
use crate::request::Product;

use graph::{Graph, GraphKey};
use helm::index::{ChartIndex, IndexKey};
use helm::{Chart, ChartKey};
use operators::{CatalogKey, Selected, WantedCatalog};
use payload::{Payload, PayloadKey};
use release::Release;

pub mod additional;
pub mod graph;
pub mod graph_image;
pub mod helm;
pub mod operators;
pub mod payload;
pub mod release;
pub mod signature;

/// Names a document: a source, and what is to be read from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DocumentKey {
    /// The digest that a tag names now.
    TagDigest(Reference),
    /// The versions of a channel, and the upgrades between them.
    Graph(GraphKey),
    /// What a release consists of.
    Payload(PayloadKey),
    /// The signatures of a payload, as the stores have them.
    Signatures(SignatureKey),
    /// The data of the update graph, packed.
    GraphData,
    /// Manifests and configs of an image to build on, named by digest.
    Base(Reference),
    /// What is selected of a catalog.
    Catalog(CatalogKey),
    /// The charts of a repository.
    Charts(IndexKey),
    /// The tags of a repository, all of them.
    Tags(Repository),
    /// A chart and what it renders to.
    Chart(ChartKey),
}

/// Names the signatures of a payload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignatureKey {
    /// Whose release: each has stores of its own.
    pub product: Product,
    /// The payload.
    pub digest: Digest,
}

/// A fetched document: typed and bounded whatever the size of its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Answer to [`DocumentKey::TagDigest`].
    Digest(Digest),
    /// Answer to [`DocumentKey::Graph`].
    Graph(Arc<Graph>),
    /// Answer to [`DocumentKey::Payload`].
    Payload(Arc<Payload>),
    /// Answer to [`DocumentKey::Signatures`]: the files, none of them looked at.
    Signatures(Arc<[Vec<u8>]>),
    /// Answer to [`DocumentKey::GraphData`].
    GraphData(Bytes),
    /// Answer to [`DocumentKey::Base`].
    Base(Arc<Base>),
    /// Answer to [`DocumentKey::Catalog`].
    Catalog(Arc<Selected>),
    /// Answer to [`DocumentKey::Charts`].
    Charts(Arc<ChartIndex>),
    /// Answer to [`DocumentKey::Tags`].
    Tags(Arc<BTreeSet<String>>),
    /// Answer to [`DocumentKey::Chart`].
    Chart(Arc<Chart>),
}

/// What has been fetched so far; a failed key is an entry too.
pub type Documents = BTreeMap<DocumentKey, Result<Document, Failure>>;

/// Supplies documents.
pub trait Fetch {
    /// Fetches one document.
    fn fetch(&self, key: &DocumentKey) -> impl Future<Output = Result<Document, Failure>> + Send;
}

/// What a resolver says after looking at the documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// More documents are needed; at least one of them is new.
    Need(BTreeSet<DocumentKey>),
    /// The result.
    Done(T),
}

/// Runs `step` until it is done, fetching up to `width` documents at a time.
///
/// A `step` that asks only for what it has already got is a defect; its keys are then answered with a failure once, and
/// if that does not end it either, fetched documents stay as they are and the failure is all it ever sees.
pub async fn drive<T, F: Fetch + Sync>(io: &F, width: usize, mut step: impl FnMut(&Documents) -> Step<T>) -> T {
    let mut documents = Documents::new();
    loop {
        let need = match step(&documents) {
            Step::Done(value) => return value,
            Step::Need(keys) => keys,
        };
        let new: Vec<_> = need.iter().filter(|key| !documents.contains_key(*key)).cloned().collect();
        if new.is_empty() {
            let message = "a resolver asked for the same document twice; please report this defect".to_owned();
            let failure = Failure::permanent(Reason::RegistryError, message);
            documents.extend(need.into_iter().map(|key| (key, Err(failure.clone()))));
            continue;
        }
        let fetched: Vec<_> = futures::stream::iter(new)
            .map(|key| async move {
                let document = io.fetch(&key).await;
                (key, document)
            })
            .buffer_unordered(width.max(1))
            .collect()
            .await;
        documents.extend(fetched);
    }
}

/// The kind of content that something was asked for as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OriginKind {
    /// `additionalImages`.
    Additional,
    /// `platform`.
    Release,
    /// `platform.graph`.
    Graph,
    /// An image that operators of a catalog need.
    Operator,
    /// An entry of `operators`: the catalog itself.
    Catalog,
    /// `helm`.
    Helm,
}

impl OriginKind {
    /// The name in status, metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Additional => "additional",
            Self::Release => "release",
            Self::Graph => "graph",
            Self::Operator => "operator",
            Self::Catalog => "catalog",
            Self::Helm => "helm",
        }
    }
}

/// Where in the request something comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The kind of content.
    pub kind: OriginKind,
    /// The entry, in the user's own words: the image as written, the channel, the release, or the chart with its repository and
    /// version.
    pub name: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// Where an item's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An image in a registry, by digest.
    Registry {
        /// The image as the user names it, read as container runtimes read it: tag, digest or both.
        named: Reference,
        /// The digest to copy: the one named, or what the tag was resolved to.
        digest: Digest,
    },
}

/// Which path below the target's root an item gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRule {
    /// The path of the source as written, without its host.
    Keep {
        /// The name as written, without tag and digest.
        written: String,
    },
    /// This path.
    Replace(RepositoryPath),
}

/// Which tag an item gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagRule {
    /// The source's tag; `sha256-<hex>` if it has none.
    Keep,
    /// This tag.
    Set(Tag),
}

/// How an item's destination is made. Only `plan::mapping` turns this into a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    /// The path.
    pub path: PathRule,
    /// The tag.
    pub tag: TagRule,
}

/// Names an item within one `Wanted`: its index in `items`.
pub type ItemKey = usize;

/// One thing that is to be in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Who asked for it.
    pub origin: Origin,
    /// Where it comes from.
    pub source: Source,
    /// Where it goes.
    pub destination: DestinationRule,
    /// The platforms to copy of an index; empty for all.
    pub platforms: BTreeSet<Platform>,
    /// The items that must be complete before this one's tag appears.
    pub after: BTreeSet<ItemKey>,
    /// Of content that nobody named: the version by which it keeps a tag that other such content has too. The others, and
    /// all of them where the user's own entry has the tag, are found by their digest alone.
    pub rank: Option<Rank>,
    /// What it would have to follow and cannot be had, so that it cannot be complete.
    pub unmet: Option<Failure>,
}

/// How content that nobody named compares with other such content; none is the lowest.
pub type Rank = Option<semver::Version>;

/// Everything a request wants, as far as it could be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The items.
    pub items: Vec<Item>,
    /// The origins that could not be resolved, and why.
    pub failures: Vec<(Origin, Failure)>,
    /// What `blockedImages` left out before anybody was asked about it.
    pub left_out: Vec<LeftOut>,
    /// The releases whose payloads are among the items.
    pub releases: Vec<Release>,
    /// The catalogs among the items.
    pub catalogs: Vec<WantedCatalog>,
    /// What a person should know although nothing failed.
    pub notes: Vec<String>,
    /// What items name and no source has: images that were made here.
    pub made: Content,
}

/// An image that is not wanted, as its name alone tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Who would have asked for it.
    pub origin: Origin,
    /// The image as named there.
    pub named: Reference,
    /// The expression that matches.
    pub pattern: String,
}

impl Wanted {
    /// True if every origin was resolved. Nothing is removed anywhere unless this holds.
    pub fn complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// Takes in what another resolver found; its `after` keys are moved along.
    pub fn extend(&mut self, other: Self) {
        let offset = self.items.len();
        self.items.extend(other.items.into_iter().map(|mut item| {
            item.after = item.after.into_iter().map(|key| key + offset).collect();
            item
        }));
        self.failures.extend(other.failures);
        self.left_out.extend(other.left_out);
        self.releases
            .extend(other.releases.into_iter().map(|release| Release { payload: release.payload + offset, ..release }));
        self.catalogs
            .extend(other.catalogs.into_iter().map(|catalog| WantedCatalog { item: catalog.item + offset, ..catalog }));
        self.notes.extend(other.notes);
        self.made.extend(other.made);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Fetch for Nothing {
        async fn fetch(&self, _: &DocumentKey) -> Result<Document, Failure> {
            Ok(Document::Digest(Digest::of(b"")))
        }
    }

    #[tokio::test]
    async fn a_resolver_that_asks_twice_gets_a_failure_instead_of_a_loop() {
        let key = DocumentKey::TagDigest("quay.io/a:1".parse().unwrap());
        let result = drive(&Nothing, 1, |documents| match documents.get(&key) {
            Some(Err(failure)) => Step::Done(failure.reason),
            _ => Step::Need(BTreeSet::from([key.clone()])),
        })
        .await;
        assert_eq!(result, Reason::RegistryError);
    }
}
