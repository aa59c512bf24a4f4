//! Helm charts: from repositories to versions of charts, and from what those render to to the images that they need.
//!
//! A chart appears in the target after all of its images: what can be installed from there is complete. A chart that cannot be
//! had, or does not render, fails alone.

use std::collections::BTreeSet;

use bytes::Bytes;
use semver::{Prerelease, Version};
use serde_json::Value;
use url::Url;

use super::{
    DestinationRule, Document, DocumentKey, Documents, Item, LeftOut, Origin, OriginKind, PathRule, Source, Step,
    TagRule, Wanted,
};
use crate::build;
use crate::failure::{Failure, Reason};
use crate::oci::{Digest, NameError, Platform, Reference, Repository, RepositoryPath, Tag};
use crate::request::{
    ChartPlace, ChartRepository, ChartRequest, Charts, Constraint, HelmRequest, ImagePath, Pattern, loose,
};

pub mod archive;
pub mod images;
pub mod index;

use images::Found;
use index::{ChartIndex, Entry, IndexKey};

/// Where charts go, below the target's root.
const CHARTS: &str = "charts";

/// Names a chart, and what is to be found out about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChartKey {
    /// Where its archive is.
    pub from: ChartSource,
    /// Its name.
    pub name: String,
    /// Its version, as written.
    pub version: String,
    /// Where to look for further images.
    pub image_paths: Vec<ImagePath>,
    /// What to render it with, in JSON.
    pub values: String,
    /// Whether the archive is wanted, too.
    pub archive: bool,
}

/// Where the archive of a chart is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChartSource {
    /// At an address.
    Http {
        /// The address.
        url: Url,
        /// The repository that names it.
        folder: Url,
        /// What it hashes to; none if its index does not say.
        digest: Option<Digest>,
    },
    /// In a registry, by digest.
    Oci(Reference),
}

/// What was found out about a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chart {
    /// What its `Chart.yaml` says.
    pub metadata: Value,
    /// Its archive, if that was asked for and is at an address.
    pub archive: Option<Bytes>,
    /// The images that it needs.
    pub found: Found,
}

/// One version of a chart that is wanted.
struct Chosen<'a> {
    repository: &'a ChartRepository,
    version: Version,
    key: ChartKey,
    platforms: BTreeSet<Platform>,
}

/// Reads what is known, and takes note of what is not.
struct Known<'a> {
    documents: &'a Documents,
    need: BTreeSet<DocumentKey>,
}

impl<'a> Known<'a> {
    fn get(&mut self, key: DocumentKey) -> Option<Result<&'a Document, Failure>> {
        match self.documents.get(&key) {
            Some(found) => Some(found.as_ref().map_err(Clone::clone)),
            None => {
                self.need.insert(key);
                None
            }
        }
    }

    /// The digest that `image` has or its tag names.
    fn digest(&mut self, image: &Reference) -> Option<Result<Digest, Failure>> {
        if let Some(digest) = image.digest() {
            return Some(Ok(digest.clone()));
        }
        match self.get(DocumentKey::TagDigest(image.clone()))? {
            Ok(Document::Digest(digest)) => Some(Ok(digest.clone())),
            Ok(_) => Some(Err(defect())),
            Err(failure) => Some(Err(failure)),
        }
    }
}

fn defect() -> Failure {
    Failure::permanent(Reason::ManifestInvalid, "a document of another kind was fetched; please report this defect")
}

fn invalid(message: String) -> Failure {
    Failure::permanent(Reason::ManifestInvalid, message)
}

fn absent(message: String) -> Failure {
    Failure::permanent(Reason::SourceNotFound, message)
}

/// Turns a request into items, as soon as all documents are there. An image that `blocked` leaves out by its name is not asked
/// for.
pub fn step(request: &HelmRequest, blocked: &[Pattern], documents: &Documents) -> Step<Wanted> {
    let mut known = Known { documents, need: BTreeSet::new() };
    let mut wanted = Wanted::default();
    for repository in &request.repositories {
        for chosen in choose(repository, request.charts, &mut known, &mut wanted) {
            add(&chosen, request.charts, blocked, &mut known, &mut wanted);
        }
    }
    if !known.need.is_empty() {
        return Step::Need(known.need);
    }
    wanted.notes.sort();
    wanted.notes.dedup();
    Step::Done(wanted)
}

fn origin(name: String) -> Origin {
    Origin { kind: OriginKind::Helm, name }
}

fn choose<'a>(
    repository: &'a ChartRepository,
    charts: Charts,
    known: &mut Known<'_>,
    wanted: &mut Wanted,
) -> Vec<Chosen<'a>> {
    let ChartPlace::Http(folder) = &repository.place else {
        let of = |chart| (of_registry(repository, chart, known), chart);
        let found: Vec<_> = repository.charts.iter().map(of).collect();
        return collect(found.into_iter().map(|(found, chart)| (found.transpose(), &chart.name)), repository, wanted);
    };
    let names = repository.charts.iter().map(|chart| chart.name.clone()).collect();
    let key = IndexKey { folder: folder.clone(), charts: names };
    let index = match known.get(DocumentKey::Charts(key)) {
        None => return Vec::new(),
        Some(Ok(Document::Charts(index))) => index,
        Some(other) => {
            let failure = other.err().unwrap_or_else(defect);
            wanted.failures.push((origin(repository.name.clone()), failure));
            return Vec::new();
        }
    };
    let copied = charts == Charts::Copy;
    if !repository.charts.is_empty() {
        let one = |chart: &'a ChartRequest| {
            let entry = newest(index, repository, chart)?;
            of_entry(repository, folder, chart, entry, copied)
        };
        return collect(repository.charts.iter().map(|chart| (Some(one(chart)), &chart.name)), repository, wanted);
    }
    let mut all = Vec::new();
    for name in index.charts() {
        let chart = ChartRequest {
            name: name.to_owned(),
            version: None,
            image_paths: Vec::new(),
            platforms: BTreeSet::new(),
            values: serde_json::Map::new(),
        };
        let entries = match index.versions(name) {
            Some(Ok(entries)) => entries,
            Some(Err(why)) => {
                let failure = unreadable(repository, name, why);
                wanted.failures.push((origin(format!("{}/{name}", repository.name)), failure));
                continue;
            }
            None => continue,
        };
        for entry in entries.iter().filter(|entry| !entry.library) {
            match of_entry(repository, folder, &chart, entry, copied) {
                Ok(chosen) => all.push(chosen),
                Err(failure) => {
                    let name = format!("{}/{name} {}", repository.name, entry.written);
                    wanted.failures.push((origin(name), failure));
                }
            }
        }
    }
    all
}

/// Those that were found; what could not be is a failure of the chart.
fn collect<'a, 'n>(
    found: impl Iterator<Item = (Option<Result<Chosen<'a>, Failure>>, &'n String)>,
    repository: &ChartRepository,
    wanted: &mut Wanted,
) -> Vec<Chosen<'a>> {
    let mut all = Vec::new();
    for (found, name) in found {
        match found {
            None => {}
            Some(Ok(chosen)) => all.push(chosen),
            Some(Err(failure)) => wanted.failures.push((origin(format!("{}/{name}", repository.name)), failure)),
        }
    }
    all
}

fn unreadable(repository: &ChartRepository, chart: &str, why: &str) -> Failure {
    invalid(format!("the index of `{}` cannot be read where it lists `{chart}`: {why}", repository.name))
}

/// The version that a chart means, of those in the index.
fn newest<'i>(index: &'i ChartIndex, repository: &ChartRepository, chart: &ChartRequest) -> Result<&'i Entry, Failure> {
    let entries = match index.versions(&chart.name) {
        Some(Ok(entries)) => entries,
        Some(Err(why)) => return Err(unreadable(repository, &chart.name, why)),
        None => {
            let message = format!("there is no chart `{}` in the index of `{}`", chart.name, repository.name);
            return Err(absent(message));
        }
    };
    let written =
        entries.iter().find(|entry| chart.version.as_ref().is_some_and(|wanted| wanted.as_str() == entry.written));
    let fits = |entry: &&Entry| fits(chart.version.as_ref(), &entry.version);
    written
        .or_else(|| entries.iter().find(fits))
        .ok_or_else(|| missing(chart, entries.iter().map(|entry| entry.written.as_str())))
}

fn fits(wanted: Option<&Constraint>, version: &Version) -> bool {
    wanted.map_or(version.pre == Prerelease::EMPTY, |wanted| wanted.matches(version))
}

/// None of the versions that there are fits; they come with the newest first.
fn missing<'v>(chart: &ChartRequest, versions: impl Iterator<Item = &'v str>) -> Failure {
    let some: Vec<_> = versions.take(3).collect();
    let there =
        if some.is_empty() { "there is none".to_owned() } else { format!("the newest are {}", some.join(", ")) };
    absent(match &chart.version {
        Some(version) => format!("no version of the chart `{}` is `{}`: {there}", chart.name, version.as_str()),
        None => format!("no version of the chart `{}` is released: {there}; name one in `version`", chart.name),
    })
}

fn of_entry<'a>(
    repository: &'a ChartRepository,
    folder: &Url,
    chart: &ChartRequest,
    entry: &Entry,
    copied: bool,
) -> Result<Chosen<'a>, Failure> {
    let what = format!("`{}` {} in the index of `{}`", chart.name, entry.written, repository.name);
    let address = entry.url.as_deref().ok_or_else(|| invalid(format!("{what} has no address")))?;
    let from = if let Some(image) = address.strip_prefix("oci://") {
        let image: Reference = image.parse().map_err(|error: NameError| invalid(format!("{what}: {error}")))?;
        ChartSource::Oci(image)
    } else {
        let url = folder.join(address).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| invalid(format!("{what} is at `{address}`, which is not an address")))?;
        let digest = match &entry.digest {
            None => None,
            Some(text) => {
                let text = if text.contains(':') { text.clone() } else { format!("sha256:{text}") };
                Some(text.parse::<Digest>().map_err(|error| invalid(format!("{what}: {error}")))?)
            }
        };
        ChartSource::Http { url, folder: folder.clone(), digest }
    };
    Ok(Chosen {
        repository,
        version: entry.version.clone(),
        platforms: chart.platforms.clone(),
        key: key(chart, from, entry.written.clone(), copied),
    })
}

fn key(chart: &ChartRequest, from: ChartSource, version: String, copied: bool) -> ChartKey {
    ChartKey {
        archive: copied && matches!(from, ChartSource::Http { .. }),
        from,
        name: chart.name.clone(),
        version,
        image_paths: chart.image_paths.clone(),
        values: Value::Object(chart.values.clone()).to_string(),
    }
}

/// A chart in a registry, whose tags are its versions.
fn of_registry<'a>(
    repository: &'a ChartRepository,
    chart: &ChartRequest,
    known: &mut Known<'_>,
) -> Result<Option<Chosen<'a>>, Failure> {
    let place = repository.place.repository(&chart.name).map_err(|error| invalid(error.to_string()))?;
    let Some(place) = place else { return Ok(None) };
    let exact =
        chart.version.as_ref().and_then(|wanted| Some((wanted.as_str().trim_matches(['=', ' ']), wanted.exact()?)));
    let (written, version) = match exact {
        Some((written, version)) => (written.to_owned(), version.clone()),
        None => match known.get(DocumentKey::Tags(place.clone())) {
            None => return Ok(None),
            Some(Ok(Document::Tags(tags))) => of_tags(chart, tags)?,
            Some(other) => return Err(other.err().unwrap_or_else(defect)),
        },
    };
    let from = ChartSource::Oci(place.tagged(tag(&written)?));
    let key = key(chart, from, written, false);
    Ok(Some(Chosen { repository, version, platforms: chart.platforms.clone(), key }))
}

fn of_tags(chart: &ChartRequest, tags: &BTreeSet<String>) -> Result<(String, Version), Failure> {
    let read = |tag: &String| {
        let written = tag.replace('_', "+");
        loose(&written).map(|version| (written, version))
    };
    let mut versions: Vec<_> = tags.iter().filter_map(read).collect();
    versions.sort_by(|(_, a), (_, b)| b.cmp(a));
    let found = versions.iter().find(|(_, version)| fits(chart.version.as_ref(), version));
    found.cloned().ok_or_else(|| missing(chart, versions.iter().map(|(written, _)| written.as_str())))
}

/// Tags have no `+`.
fn tag(version: &str) -> Result<Tag, Failure> {
    version.replace('+', "_").parse().map_err(|error: NameError| invalid(error.to_string()))
}

/// The items of one chart, its own last.
fn add(chosen: &Chosen<'_>, charts: Charts, blocked: &[Pattern], known: &mut Known<'_>, wanted: &mut Wanted) {
    let origin = origin(format!("{}/{} {}", chosen.repository.name, chosen.key.name, chosen.key.version));
    let mut key = chosen.key.clone();
    if let ChartSource::Oci(image) = &key.from {
        match known.digest(image) {
            None => return,
            Some(Ok(digest)) => key.from = ChartSource::Oci(image.pinned(digest)),
            Some(Err(failure)) => return wanted.failures.push((origin, failure)),
        }
    }
    let chart = match known.get(DocumentKey::Chart(key.clone())) {
        None => return,
        Some(Ok(Document::Chart(chart))) => chart,
        Some(other) => return wanted.failures.push((origin, other.err().unwrap_or_else(defect))),
    };
    let mut after = BTreeSet::new();
    let mut whole = true;
    for (word, certain) in
        chart.found.images.iter().map(|word| (word, true)).chain(chart.found.more.iter().map(|word| (word, false)))
    {
        let Ok(named) = word.parse::<Reference>() else {
            if certain {
                wanted.notes.push(format!(
                    "helm {}: `{word}` is left out, since it is not an image with a tag or a digest",
                    origin.name
                ));
            }
            continue;
        };
        if let Some(pattern) = Pattern::blocking(blocked, word, None) {
            wanted.left_out.push(LeftOut { origin: origin.clone(), named, pattern: pattern.to_owned() });
            continue;
        }
        match known.digest(&named) {
            None => {}
            Some(Ok(digest)) => {
                after.insert(wanted.items.len());
                wanted.items.push(image(&origin, word, named, digest, chosen));
            }
            Some(Err(failure)) => {
                whole = false;
                wanted.failures.push((origin.clone(), failure));
            }
        }
    }
    if whole && charts == Charts::Copy {
        match own(chosen, &key, chart, &origin, wanted) {
            Ok(item) => wanted.items.push(Item { after, ..item }),
            Err(failure) => wanted.failures.push((origin, failure)),
        }
    }
}

fn image(origin: &Origin, word: &str, named: Reference, digest: Digest, chosen: &Chosen<'_>) -> Item {
    let written = Reference::split(word).0.to_owned();
    Item {
        origin: origin.clone(),
        source: Source::Registry { named, digest },
        destination: DestinationRule { path: PathRule::Keep { written }, tag: TagRule::Keep },
        platforms: chosen.platforms.clone(),
        after: BTreeSet::new(),
        rank: Some(Some(chosen.version.clone())),
        unmet: None,
    }
}

/// The chart itself: as it is in its registry, or as an artifact that is made here.
fn own(
    chosen: &Chosen<'_>,
    key: &ChartKey,
    chart: &Chart,
    origin: &Origin,
    wanted: &mut Wanted,
) -> Result<Item, Failure> {
    let path = format!("{CHARTS}/{}/{}", chosen.repository.name, key.name);
    let path: RepositoryPath = path.parse().map_err(|error: NameError| {
        invalid(format!("{error}: set `copy.charts` to `Skip` for the images without the chart"))
    })?;
    let tag = tag(&key.version)?;
    let (named, digest) = match &key.from {
        ChartSource::Oci(image) => (image.clone(), image.digest().cloned().ok_or_else(defect)?),
        ChartSource::Http { folder, .. } => {
            let archive = chart.archive.clone().ok_or_else(defect)?;
            let built = build::chart::artifact(&chart.metadata, archive);
            wanted.made.extend(built.content);
            // Nobody is asked under this name, since everything of it is here.
            let place = ChartPlace::Http(folder.clone()).registry();
            let place = place.ok_or_else(|| invalid(format!("`{folder}` has no host that can be named")))?;
            let name = key.name.parse().map_err(|error: NameError| invalid(error.to_string()))?;
            (Repository::new(place, name).tagged(tag.clone()).pinned(built.digest.clone()), built.digest)
        }
    };
    Ok(Item {
        origin: origin.clone(),
        source: Source::Registry { named, digest },
        destination: DestinationRule { path: PathRule::Replace(path), tag: TagRule::Set(tag) },
        platforms: BTreeSet::new(),
        after: BTreeSet::new(),
        rank: None,
        unmet: None,
    })
}

#[cfg(test)]
mod tests;
