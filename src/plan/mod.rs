//! From what is wanted to a mapped, deduplicated and ordered list, without sizes and manifests: those are found while
//! copying.
//!
//! The same wants give the same plan in whatever order they come. What goes to one place with one digest is one item;
//! different digests for one place are an error that names both entries, before anything is copied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::oci::{Algorithm, Digest, Hasher, NameError, Reference};
use crate::resolve::{Origin, OriginKind};

mod build;
mod diff;
pub mod mapping;

pub use diff::{Change, Content, Diff, Entry};
pub use mapping::TargetRoot;

/// Names one target of an object. Objects have one target now; reports, metrics and mappings carry the id from the start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TargetId(pub String);

/// The kind of mirror set an item belongs to: also part of the names of cluster objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Category {
    /// Additional images and images of Helm charts.
    Generic,
    /// Payloads of releases and what they consist of.
    Release,
    /// Images that operators need.
    Operator,
    /// What is named by its place in the target only: no rule leads there.
    Direct,
}

impl Category {
    /// Those that have mirror sets of their own.
    pub const RULED: [Self; 3] = [Self::Release, Self::Operator, Self::Generic];
}

/// Who asked for an item, and under which name nodes will pull it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Asked {
    /// The entry of the request.
    pub origin: Origin,
    /// The image as named there: tag, digest or both. Never the name of an override.
    pub named: Reference,
    /// Its name as written, if that is another: `nginx` for `docker.io/library/nginx`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spelled: Option<String>,
    /// What mirror set it belongs to.
    pub category: Category,
}

/// One image to bring to one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanItem {
    /// Everybody who asked, sorted, at least one. The first one's repository is read from.
    pub asked: Vec<Asked>,
    /// The digest to copy.
    pub digest: Digest,
    /// Where to: a repository and a tag.
    pub destination: Reference,
    /// The platforms to copy of an index (`os/architecture`); empty for all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub platforms: BTreeSet<String>,
    /// Indexes of the items that must be complete before this one's tag appears; always smaller than the item's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<usize>,
    /// What it would have to follow and cannot be had: the item cannot be complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmet: Option<Failure>,
}

/// An image left out on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Who asked.
    pub asked: Asked,
    /// The expression of `blockedImages` that matched.
    pub pattern: String,
}

/// The plan of one sync. Serialisable, so that it can be kept in the target and handed to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Format version, [`Plan::VERSION`].
    pub version: u32,
    /// Which target this is for.
    pub target: TargetId,
    /// What to copy, sorted by destination as far as `after` allows.
    pub items: Vec<PlanItem>,
    /// What was left out on purpose.
    pub blocked: Vec<Blocked>,
    /// The origins that could not be resolved.
    pub failures: Vec<(Origin, Failure)>,
    /// What a person should know although nothing failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Only some kinds of content were looked at, so nothing is known of the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// Two entries of the user want different content at one place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{first}` ({first_digest}) and `{second}` ({second_digest}) would both become `{destination}`: give one of them a \
     `targetRepo` or `targetTag`"
)]
pub struct Collision {
    /// The contested reference.
    pub destination: Reference,
    /// One entry, as written.
    pub first: String,
    /// Its digest.
    pub first_digest: Digest,
    /// The other entry, as written.
    pub second: String,
    /// Its digest.
    pub second_digest: Digest,
}

/// A wanted image that cannot have a place in the target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` has no place in the target: {error}", origin.name)]
pub struct Unmappable {
    /// Who asked for it.
    pub origin: Origin,
    /// What is wrong with the place.
    pub error: NameError,
}

/// Why there is no plan: everything that is wrong, not only the first thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanError {
    /// Places that are wanted for different content.
    pub collisions: Vec<Collision>,
    /// Images without a place.
    pub unmappable: Vec<Unmappable>,
    /// Destinations that wait for each other, a defect of a resolver.
    pub cycle: Vec<Reference>,
}

impl PlanError {
    /// Each fault as a sentence.
    pub fn messages(&self) -> Vec<String> {
        let cycle = (!self.cycle.is_empty()).then(|| {
            let names: Vec<_> = self.cycle.iter().map(|destination| format!("`{destination}`")).collect();
            format!("{} wait for each other; please report this defect", names.join(", "))
        });
        let collisions = self.collisions.iter().map(ToString::to_string);
        collisions.chain(self.unmappable.iter().map(ToString::to_string)).chain(cycle).collect()
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.messages().join("; "))
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    /// The format written by this build.
    pub const VERSION: u32 = 1;

    /// A digest over what is copied where: equal for equal sets of (source digest, destination, platforms), whoever asked
    /// for them and whatever failed.
    pub fn digest(&self) -> Digest {
        let mut items: Vec<_> = self.items.iter().collect();
        items.sort_unstable_by(|a, b| {
            (&a.digest, &a.destination, &a.platforms).cmp(&(&b.digest, &b.destination, &b.platforms))
        });
        let mut hash = Hasher::new(Algorithm::Sha256);
        for item in items {
            let platforms: Vec<_> = item.platforms.iter().map(String::as_str).collect();
            hash.update(format!("{} {} {}\n", item.digest, item.destination, platforms.join(" ")).as_bytes());
        }
        hash.finish()
    }

    /// How many items each kind of content asked for; what several kinds asked for counts for each.
    pub fn by_origin(&self) -> BTreeMap<OriginKind, usize> {
        let mut counts = BTreeMap::new();
        for item in &self.items {
            let kinds: BTreeSet<_> = item.asked.iter().map(|asked| asked.origin.kind).collect();
            for kind in kinds {
                *counts.entry(kind).or_default() += 1;
            }
        }
        counts
    }

    /// True if everything was looked at and resolved: what is not in the plan is not wanted.
    pub fn whole(&self) -> bool {
        self.failures.is_empty() && !self.partial
    }

    /// True if the plan is whole and every item is in `verified`: the only state in which anything may be removed.
    pub fn complete(&self, verified: &BTreeSet<usize>) -> bool {
        self.whole() && (0..self.items.len()).all(|index| verified.contains(&index))
    }

    /// The items that are not in `previous`.
    pub fn added<'a>(&'a self, previous: &[(Reference, Digest)]) -> Vec<&'a PlanItem> {
        let previous: BTreeSet<_> = previous.iter().map(|(destination, digest)| (destination, digest)).collect();
        self.items.iter().filter(|item| !previous.contains(&(&item.destination, &item.digest))).collect()
    }

    /// What is in `previous` and not wanted any more. A destination with another digest counts as removed and as added.
    pub fn removed<'a>(&self, previous: &'a [(Reference, Digest)]) -> Vec<&'a (Reference, Digest)> {
        let wanted: BTreeSet<_> = self.items.iter().map(|item| (&item.destination, &item.digest)).collect();
        previous.iter().filter(|(destination, digest)| !wanted.contains(&(destination, digest))).collect()
    }

    /// The lines of `-o mapping`, `docker://<source>=docker://<destination>` for each entry, sorted. The source is what oc-mirror
    /// pulls: the image as written, by digest if one is named. Charts are not listed, since oc-mirror lists their images only.
    pub fn mapping(&self) -> Vec<String> {
        let entries = self.items.iter().flat_map(|item| item.asked.iter().map(move |asked| (item, asked)));
        let entries = entries.filter(|(_, asked)| !asked.is_chart());
        let mut lines: Vec<_> = entries
            .map(|(item, asked)| format!("docker://{}=docker://{}", asked.written(), item.destination))
            .collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }

    /// The plan as a directed graph in Graphviz' language: an edge leads from an item to one that must be complete before.
    pub fn dot(&self) -> String {
        let nodes = self.items.iter().enumerate().map(|(index, item)| {
            let sources: Vec<_> = item.asked.iter().map(|asked| quoted(&asked.written())).collect();
            format!("  n{index} [label=\"{}\\n{}\"];\n", quoted(&item.destination.to_string()), sources.join("\\n"))
        });
        let edges = self.items.iter().enumerate();
        let edges =
            edges.flat_map(|(index, item)| item.after.iter().map(move |before| format!("  n{index} -> n{before};\n")));
        let lines: String = nodes.chain(edges).collect();
        format!("digraph plan {{\n  node [shape=box];\n{lines}}}\n")
    }
}

/// Text within quotes in Graphviz' language.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

impl Asked {
    /// True for a chart itself, false for the images that it needs.
    fn is_chart(&self) -> bool {
        self.origin.kind == OriginKind::Helm && self.category == Category::Direct
    }

    /// The image in the user's own words, without the tag if there is a digest.
    pub(super) fn written(&self) -> String {
        if self.origin.kind == OriginKind::Additional {
            return match Reference::split(&self.origin.name) {
                (name, _, Some(digest)) => format!("{name}@{digest}"),
                _ => self.origin.name.clone(),
            };
        }
        let name = self.spelled.clone().unwrap_or_else(|| self.named.repository().to_string());
        match (self.origin.kind, self.named.tag(), self.named.digest()) {
            // Payloads are named by the tag that their signer knows them by, catalogs by the user.
            (OriginKind::Release | OriginKind::Graph | OriginKind::Catalog, Some(tag), _) | (_, Some(tag), None) => {
                format!("{name}:{tag}")
            }
            (_, _, Some(digest)) => format!("{name}@{digest}"),
            (_, None, None) => name,
        }
    }
}

impl PlanItem {
    /// The reference the image is pulled by: by digest if one was named, with the name alone otherwise.
    pub fn pulled(&self) -> Option<Reference> {
        let named = &self.asked.first()?.named;
        Some(match named.digest() {
            Some(digest) => named.repository().at(digest.clone()),
            None => named.clone(),
        })
    }
}
