//! Catalogs of operators: what of each is selected, the images that this needs, and the catalog itself after them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use semver::Version;
use serde::{Deserialize, Serialize};

use super::{
    DestinationRule, Document, DocumentKey, Documents, Item, ItemKey, LeftOut, Origin, OriginKind, PathRule, Source,
    Step, TagRule, Wanted,
};
use crate::build::{self, Base, Layer};
use crate::catalog::{BundleName, Selection};
use crate::failure::{Failure, Reason};
use crate::oci::{Digest, Reference};
use crate::request::{CatalogRequest, Pattern};

/// Names what a selection leaves of a catalog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CatalogKey {
    /// The image of one platform, by digest.
    pub image: Reference,
    /// Where its files are, without slashes around it.
    pub folder: String,
    /// What is kept.
    pub selection: Arc<Selection>,
}

/// What a selection leaves of a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The layer with what is left; none if the catalog stays as it is.
    pub layer: Option<Layer>,
    /// The images that it needs, by their names.
    pub images: Vec<Needed>,
    /// The packages, by name.
    pub packages: Vec<PackageSummary>,
    /// What a person should know: what was asked for and is not there, what is needed and was not asked for.
    pub notes: Vec<String>,
}

/// An image that bundles need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// As the catalog names it.
    pub written: String,
    /// The same, as container runtimes read it.
    pub image: Reference,
    /// The bundles.
    pub bundles: BTreeSet<BundleName>,
    /// The highest version of them; none if no version is known.
    pub newest: Option<Version>,
}

/// A package, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageSummary {
    /// Its name.
    pub name: String,
    /// Its default channel.
    pub default_channel: String,
    /// Its channels, by name.
    pub channels: Vec<ChannelSummary>,
    /// How many bundles it has.
    pub bundles: usize,
}

/// A channel, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChannelSummary {
    /// Its name.
    pub name: String,
    /// The versions, in the catalog's order; names of bundles without one.
    pub versions: Vec<String>,
}

/// A catalog among the items of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedCatalog {
    /// As the user names it.
    pub written: String,
    /// Where the template of its `CatalogSource` is.
    pub template: Option<String>,
    /// Its digest in the source.
    pub digest: Digest,
    /// Its item.
    pub item: ItemKey,
    /// What is selected of it.
    pub selected: Arc<Selected>,
    /// What it is built on.
    pub base: Arc<Base>,
    /// Where its files are in the image, without slashes around it.
    pub folder: String,
    /// Images that it needs and whose tags could not be resolved.
    pub unresolved: BTreeMap<String, Failure>,
}

/// Turns entries into items, once all that they need is known or known to be out of reach.
///
/// Each entry stands alone. An image that cannot be resolved is a failure of its own, and keeps its catalog from being complete.
/// Images that `blocked` names are not looked up; they stay listed in the catalog.
pub fn step(requests: &[CatalogRequest], blocked: &[Pattern], documents: &Documents) -> Step<Wanted> {
    let mut need = BTreeSet::new();
    let mut wanted = Wanted::default();
    for request in requests {
        let origin = Origin { kind: OriginKind::Catalog, name: request.written.clone() };
        match read(request, documents) {
            Read::Need(key) => drop(need.insert(*key)),
            Read::Failed(mut failure) => {
                if failure.reason == Reason::CatalogInvalid || failure.reason == Reason::PlatformMissing {
                    failure.message = format!("catalog `{}`: {}", request.written, failure.message);
                }
                wanted.failures.push((origin, failure));
            }
            Read::Done(read) => {
                let images = read.selected.images.iter().filter(|needed| !is_blocked(blocked, needed));
                let keys = images.filter_map(|needed| tag_key(&needed.image));
                let missing: BTreeSet<_> = keys.filter(|key| !documents.contains_key(key)).collect();
                if missing.is_empty() {
                    wanted.extend(items(request, &origin, read, blocked, documents));
                } else {
                    need.extend(missing);
                }
            }
        }
    }
    if need.is_empty() { Step::Done(wanted) } else { Step::Need(need) }
}

/// A catalog as far as documents tell.
enum Read {
    Need(Box<DocumentKey>),
    Failed(Failure),
    Done(Found),
}

struct Found {
    digest: Digest,
    base: Arc<Base>,
    folder: String,
    selected: Arc<Selected>,
}

fn read(request: &CatalogRequest, documents: &Documents) -> Read {
    let tag = DocumentKey::TagDigest(request.named.clone());
    let digest = match (request.named.digest(), documents.get(&tag)) {
        (Some(digest), _) | (None, Some(Ok(Document::Digest(digest)))) => digest.clone(),
        (None, Some(Err(failure))) => return Read::Failed(failure.clone()),
        (None, _) => return Read::Need(Box::new(tag)),
    };
    let repository = request.named.repository();
    let base = DocumentKey::Base(repository.at(digest.clone()));
    let base = match documents.get(&base) {
        Some(Ok(Document::Base(base))) => base,
        Some(Err(failure)) => return Read::Failed(failure.clone()),
        _ => return Read::Need(Box::new(base)),
    };
    let placed = build::catalog::on(base, &request.platforms)
        .and_then(|base| Ok((build::catalog::folder(&base)?, base)))
        .and_then(|(folder, base)| Ok((folder, first(&base)?, base)));
    let (folder, image, base) = match placed {
        Ok(placed) => placed,
        Err(failure) => return Read::Failed(failure),
    };
    let key = DocumentKey::Catalog(CatalogKey {
        // All platforms have the same files.
        image: repository.at(image),
        folder: folder.clone(),
        selection: Arc::new(request.selection.clone()),
    });
    match documents.get(&key) {
        Some(Ok(Document::Catalog(selected))) => {
            Read::Done(Found { digest, base: Arc::new(base), folder, selected: Arc::clone(selected) })
        }
        Some(Err(failure)) => Read::Failed(failure.clone()),
        _ => Read::Need(Box::new(key)),
    }
}

fn first(base: &Base) -> Result<Digest, Failure> {
    let image = base.images.first().map(|image| image.manifest.digest().clone());
    image.ok_or_else(|| Failure::permanent(Reason::CatalogInvalid, "it has no image"))
}

fn tag_key(image: &Reference) -> Option<DocumentKey> {
    image.digest().is_none().then(|| DocumentKey::TagDigest(image.clone()))
}

fn is_blocked(blocked: &[Pattern], needed: &Needed) -> bool {
    Pattern::blocking(blocked, &needed.written, None).is_some()
}

fn items(
    request: &CatalogRequest,
    origin: &Origin,
    found: Found,
    blocked: &[Pattern],
    documents: &Documents,
) -> Wanted {
    let mut wanted = Wanted::default();
    let mut unresolved = BTreeMap::new();
    let Found { digest, base, folder, selected } = found;
    for needed in &selected.images {
        let origin = Origin { kind: OriginKind::Operator, name: named_by(request, needed) };
        if let Some(pattern) = Pattern::blocking(blocked, &needed.written, None) {
            let named = needed.image.clone();
            wanted.left_out.push(LeftOut { origin, named, pattern: pattern.to_owned() });
            continue;
        }
        let resolved = tag_key(&needed.image).and_then(|key| documents.get(&key));
        let digest = match (needed.image.digest(), resolved) {
            (Some(digest), _) | (None, Some(Ok(Document::Digest(digest)))) => digest.clone(),
            (None, Some(Err(failure))) => {
                unresolved.insert(needed.written.clone(), failure.clone());
                wanted.failures.push((origin, failure.clone()));
                continue;
            }
            // A name without digest has a key, all keys are there, and the answer is of the kind that was asked for.
            (None, _) => continue,
        };
        wanted.items.push(Item {
            origin,
            source: Source::Registry { named: needed.image.clone(), digest },
            destination: DestinationRule {
                path: PathRule::Keep { written: Reference::split(bare(&needed.written)).0.to_owned() },
                tag: TagRule::Keep,
            },
            platforms: request.platforms.clone(),
            after: BTreeSet::new(),
            rank: Some(needed.newest.clone()),
            unmet: None,
        });
    }
    let item = wanted.items.len();
    let built = match &selected.layer {
        None => Ok((digest.clone(), request.platforms.clone())),
        Some(layer) => build::catalog::image(&base, &folder, layer).map(|built| {
            wanted.made.extend(built.content);
            (built.digest, BTreeSet::new())
        }),
    };
    match built {
        Ok((digest, platforms)) => wanted.items.push(Item {
            origin: origin.clone(),
            // The layers below the one that is made here are those of the source.
            source: Source::Registry { named: request.named.clone(), digest },
            destination: DestinationRule {
                path: match &request.target_path {
                    Some(path) => PathRule::Replace(path.clone()),
                    None => PathRule::Keep { written: request.name.clone() },
                },
                tag: request.target_tag.clone().map_or(TagRule::Keep, TagRule::Set),
            },
            platforms,
            after: (0..item).collect(),
            rank: None,
            unmet: unmet(&unresolved),
        }),
        Err(failure) => {
            wanted.failures.push((origin.clone(), failure));
            return wanted;
        }
    }
    wanted.notes.extend(selected.notes.iter().map(|note| format!("catalog `{}`: {note}", request.written)));
    wanted.catalogs.push(WantedCatalog {
        written: request.written.clone(),
        template: request.template.clone(),
        digest,
        item,
        selected,
        base,
        folder,
        unresolved,
    });
    wanted
}

/// What a catalog lacks. It may come only if all of it may.
fn unmet(unresolved: &BTreeMap<String, Failure>) -> Option<Failure> {
    let (image, first) = unresolved.first_key_value()?;
    let more = if unresolved.len() > 1 { format!(" and {} more", unresolved.len() - 1) } else { String::new() };
    let message = format!("it needs `{image}`{more}: {}", first.message);
    let transient = unresolved.values().all(|failure| failure.transient);
    Some(Failure { transient, ..Failure::permanent(Reason::DependencyFailed, message) })
}

/// An image without the scheme that it may be written with.
fn bare(written: &str) -> &str {
    written.split_once("://").map_or(written, |(_, rest)| rest)
}

/// The catalog, and the packages that need an image.
fn named_by(request: &CatalogRequest, needed: &Needed) -> String {
    let packages: BTreeSet<&str> = needed.bundles.iter().map(|bundle| &*bundle.package).collect();
    let names: Vec<&str> = packages.iter().copied().take(3).collect();
    let more = if packages.len() > names.len() { ", …" } else { "" };
    format!("{} [{}{more}]", request.written, names.join(", "))
}
