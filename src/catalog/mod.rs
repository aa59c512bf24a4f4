//! File-based catalogs of operators: read, filtered as oc-mirror filters them, and checked as their server checks them. Pure.
//!
//! Documents are kept as JSON texts with a typed view of what is looked at, so that nothing is lost that nobody here knows.
//! What the filter cuts is written anew: the entries of a channel, the default channel of a package, deprecations.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use semver::Version;
use serde::{Deserialize, Deserializer};

mod channel;
mod filter;
mod leave_out;
mod read;
mod related;
mod selection;
mod text;
mod validate;
mod version;

pub use channel::{Entry, GraphError};
pub use filter::{FilterError, Filtered, filter};
pub use leave_out::{LeaveOutError, leave_out};
pub use read::{Loader, ReadError};
pub use related::{BadImage, BundleName, Related, related};
pub use selection::{Pick, PickedChannel, Selection, SelectionError};
pub use text::Text;
pub use validate::{Fault, validate};
pub use version::{Bound, Range};

/// A document, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blob {
    /// What kind of document it is.
    pub schema: String,
    /// Its name; may be empty.
    pub name: String,
    /// The document, on one line.
    pub json: Text,
}

/// `olm.package`.
#[derive(Clone, Debug)]
pub struct Package {
    /// Empty if it has none.
    pub default_channel: String,
    /// The document.
    pub blob: Blob,
}

/// `olm.channel`.
#[derive(Clone, Debug)]
pub struct Channel {
    /// The entries, in their order.
    pub entries: Vec<Entry>,
    /// The document.
    pub blob: Blob,
}

/// Why the version of a bundle is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionFault {
    /// It has no property `olm.package`.
    Missing,
    /// This is not a version with three numbers.
    Bad(String),
}

/// `olm.bundle`.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its image; may be empty.
    pub image: String,
    /// The version, of the first property `olm.package`.
    pub version: Result<Version, VersionFault>,
    /// How many properties `olm.package` it has.
    pub stated: usize,
    /// The package that the first of them names.
    pub stated_package: String,
    /// Packages that it needs.
    pub requires: Vec<String>,
    /// Whether it carries its manifests itself.
    pub has_objects: bool,
    /// The images that it lists.
    pub related: Vec<String>,
    /// The document.
    pub blob: Blob,
}

impl Bundle {
    /// Its name within a catalog.
    fn named(&self, package: &Arc<str>) -> BundleName {
        BundleName { package: Arc::clone(package), bundle: self.blob.name.as_str().into() }
    }
}

/// An entry of `olm.deprecations`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Deprecation {
    /// What is deprecated.
    pub reference: DeprecatedReference,
    /// What users are told.
    #[serde(default)]
    pub message: String,
}

/// What is deprecated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct DeprecatedReference {
    /// `olm.package`, `olm.channel` or `olm.bundle`.
    pub schema: String,
    /// Of a channel or bundle.
    #[serde(default)]
    pub name: String,
}

/// `olm.deprecations`.
#[derive(Clone, Debug)]
pub struct Deprecations {
    /// The entries.
    pub entries: Vec<Deprecation>,
    /// The document.
    pub blob: Blob,
}

/// Everything about one package.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// One, in a catalog that is valid.
    pub packages: Vec<Package>,
    /// Its channels.
    pub channels: Vec<Channel>,
    /// Its bundles.
    pub bundles: Vec<Bundle>,
    /// Its deprecations.
    pub deprecations: Vec<Deprecations>,
    /// Documents of other kinds.
    pub others: Vec<Blob>,
}

impl Content {
    /// The default channel; empty if there is none.
    pub fn default_channel(&self) -> &str {
        self.packages.first().map_or("", |package| package.default_channel.as_str())
    }

    /// The bundle of a name.
    pub fn bundle(&self, name: &str) -> Option<&Bundle> {
        self.bundles.iter().find(|bundle| bundle.blob.name == name)
    }

    fn lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        sorted(self.packages.iter().map(|package| &package.blob))
            .chain(sorted(self.channels.iter().map(|channel| &channel.blob)))
            .chain(sorted(self.bundles.iter().map(|bundle| &bundle.blob)))
            .chain(sorted(self.others.iter()))
            .chain(sorted(self.deprecations.iter().map(|deprecations| &deprecations.blob)))
    }
}

fn sorted<'a>(blobs: impl Iterator<Item = &'a Blob>) -> impl Iterator<Item = Cow<'a, str>> {
    let mut blobs: Vec<_> = blobs.collect();
    blobs.sort();
    blobs.into_iter().map(|blob| blob.json.get())
}

/// A catalog.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// By package.
    pub packages: BTreeMap<String, Content>,
    /// Documents that belong to no package.
    pub others: Vec<Blob>,
    /// The names of all packages that were seen, kept or not.
    pub known: BTreeSet<String>,
}

impl Catalog {
    /// One JSON document a line: by package its package, channels, bundles, other documents and deprecations, each by name;
    /// then what belongs to no package.
    pub fn lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.packages.values().flat_map(Content::lines).chain(sorted(self.others.iter()))
    }

    /// The files that the catalog is written as, by their path below its root: one for each package, and one for what
    /// belongs to none. The same catalog gives the same bytes.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        fn text<'a>(lines: impl Iterator<Item = Cow<'a, str>>) -> Vec<u8> {
            let mut text = String::new();
            for line in lines {
                text.push_str(&line);
                text.push('\n');
            }
            text.into_bytes()
        }
        let mut files: BTreeMap<_, _> = self
            .packages
            .iter()
            .map(|(name, content)| (format!("{name}/catalog.json"), text(content.lines())))
            .collect();
        if !self.others.is_empty() {
            files.insert("catalog.json".to_owned(), text(sorted(self.others.iter())));
        }
        files
    }

    /// The names of all bundles.
    pub fn names(&self) -> impl Iterator<Item = BundleName> {
        self.packages.iter().flat_map(|(package, content)| {
            let package: Arc<str> = package.as_str().into();
            content.bundles.iter().map(move |bundle| bundle.named(&package))
        })
    }

    /// Package and name of each channel.
    pub fn channels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.packages.iter().flat_map(|(package, content)| {
            content.channels.iter().map(move |channel| (package.as_str(), channel.blob.name.as_str()))
        })
    }

    /// Every package that a bundle says it needs, and that is not there, with a bundle that says so.
    pub fn unmet(&self) -> BTreeMap<&str, BundleName> {
        let needs = self.packages.iter().flat_map(|(package, content)| {
            content.bundles.iter().flat_map(move |bundle| {
                let name = bundle.named(&package.as_str().into());
                bundle.requires.iter().map(move |needed| (needed.as_str(), name.clone()))
            })
        });
        needs.filter(|(needed, _)| !self.packages.contains_key(*needed)).collect()
    }
}

/// Nothing, where Go writes `null` for it.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The names that are most like `name`, the best first; those that have nothing in common with it are left out.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<_> = known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= (name.len().max(known.len()) / 3).max(1) || known.starts_with(name))
        .collect();
    near.sort_unstable();
    near.into_iter().map(|(_, known)| known).take(3).collect()
}
