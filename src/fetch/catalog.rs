//! What a selection leaves of a catalog, read from the layers of its image. No more than one catalog of a process is read at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use tokio::sync::Semaphore;

use super::Source;
use super::layers::{self, Entry, Found, Take, Wanted};
use crate::build::{self, Base, BaseImage};
use crate::catalog::{BundleName, Catalog, Content, Filtered, Loader, Selection, filter, related, validate};
use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Manifest, RawManifest, Reference, Repository};
use crate::registry::By;
use crate::resolve::operators::{CatalogKey, ChannelSummary, Needed, PackageSummary, Selected};

/// The longest file that is read; the largest of public catalogs have 20 MiB.
const MAX_FILE: u64 = 128 << 20;
/// Names files that are no part of the catalog, as `.gitignore` does.
const IGNORE_FILE: &str = ".indexignore";
/// Mistakes that are told in full.
const TOLD: usize = 5;

/// Catalogs that are read at the same time: one may hold the parts of 300 MB that are kept.
static READING: Semaphore = Semaphore::const_new(1);

/// What a published catalog offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// Its bundles.
    pub bundles: BTreeSet<BundleName>,
    /// Its channels, each with its package.
    pub channels: BTreeSet<(String, String)>,
}

/// What one entry is.
enum Part {
    /// A file of the catalog.
    Documents(Loader),
    /// Which files are none.
    Ignore(Bytes),
    /// Another name of a file, by that below the root of the image.
    Link(String),
}

impl Source {
    pub(super) async fn catalog(&self, key: &CatalogKey) -> Result<Selected, Failure> {
        let turn = READING.acquire().await;
        let found = self.files(&key.image, &key.folder, Loader::for_selection(&key.selection)).await?;
        let key = key.clone();
        let putting_together = tokio::task::spawn_blocking(move || {
            // Whoever has asked may have gone by now; what is held here has not.
            let _turn = turn;
            let (catalog, warnings) = put_together(&key.folder, found, &key.selection)?;
            select(&key, catalog, warnings)
        });
        putting_together
            .await
            .unwrap_or_else(|error| Err(invalid(format!("reading it panicked: {error}; please report this defect"))))
    }

    /// What a catalog that was published offers; none if there is no such image.
    ///
    /// # Errors
    /// The registry cannot be asked, or what is there is no catalog.
    pub async fn offered(&self, published: &Reference) -> Result<Option<Offered>, Failure> {
        let repository = published.repository();
        let by = published.digest().map(By::Digest).or_else(|| published.tag().map(By::Tag));
        let Some(by) = by else { return Ok(None) };
        let found = self.client.manifest(repository, by).await.map_err(|error| error.failure())?;
        let Some(top) = found else { return Ok(None) };
        let Some(image) = self.any_platform(repository, top).await? else { return Ok(None) };
        let digest = image.manifest.digest().clone();
        let folder = build::catalog::folder(&Base { index: None, images: vec![image] })?;
        let turn = READING.acquire().await;
        let everything = Selection { full: true, packages: Vec::new() };
        let loader = Loader::for_selection(&everything);
        let found = self.files(&repository.at(digest), &folder, loader).await?;
        let (catalog, _) = put_together(&folder, found, &everything)?;
        drop(turn);
        let owned = |(package, channel): (&str, &str)| (package.to_owned(), channel.to_owned());
        Ok(Some(Offered { bundles: catalog.names().collect(), channels: catalog.channels().map(owned).collect() }))
    }

    /// One platform of an image, whichever is there: all of them have the same files, and some may not have been copied.
    async fn any_platform(&self, repository: &Repository, top: RawManifest) -> Result<Option<BaseImage>, Failure> {
        let named = repository.at(top.digest().clone()).to_string();
        let children = match top.parse() {
            Ok(Manifest::Image { .. }) => return self.base_image(repository, top, &named).await.map(Some),
            Ok(Manifest::Index { children, .. }) => build::images(children),
            Err(error) => return Err(invalid(format!("`{named}`: {error}"))),
        };
        for child in children {
            let found = self.client.manifest(repository, By::Digest(&child.digest)).await;
            if let Some(manifest) = found.map_err(|error| error.failure())? {
                return self.base_image(repository, manifest, &named).await.map(Some);
            }
        }
        Ok(None)
    }

    async fn files(&self, image: &Reference, folder: &str, loader: Loader) -> Result<Vec<Found<Part>>, Failure> {
        let (repository, named) = (image.repository(), image.to_string());
        let Some(digest) = image.digest() else {
            return Err(invalid(format!("`{named}` is named without a digest; please report this defect")));
        };
        let manifest = self.manifest(repository, By::Digest(digest), &named).await?;
        let blobs = match manifest.parse() {
            Ok(Manifest::Image { blobs, .. }) => blobs,
            Ok(Manifest::Index { .. }) => return Err(invalid(format!("`{named}` is an index of indexes"))),
            Err(error) => return Err(invalid(format!("`{named}`: {error}"))),
        };
        // The config comes first.
        let blobs: Vec<Descriptor> = blobs.into_iter().skip(1).collect();
        let take: Take<Part> = Box::new(move |path, entry| part(&loader, path, entry).map(Some));
        let wanted = Arc::new(Wanted { folder: folder.to_owned(), take, reason: Reason::CatalogInvalid });
        layers::read(&self.client, repository, &blobs, &wanted, &self.cache.barren, |_| false).await
    }
}

impl Loader {
    /// One that keeps what the selection may match.
    fn for_selection(selection: &Selection) -> Self {
        let loader = Self::new(selection.named());
        if selection.is_everything() { loader.without_texts() } else { loader }
    }
}

fn part(loader: &Loader, path: &str, entry: Entry<'_>) -> io::Result<Part> {
    let (file, size) = match entry {
        Entry::File(file, size) => (file, size),
        Entry::Link(target) => return Ok(Part::Link(target)),
    };
    let mut own = loader.beside();
    if size > MAX_FILE {
        own.unreadable(path, &format!("the file has {size} bytes; at most {MAX_FILE} are read"));
        return Ok(Part::Documents(own));
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    if path.rsplit('/').next() == Some(IGNORE_FILE) {
        return Ok(Part::Ignore(Bytes::from(content)));
    }
    own.file(path, &content);
    Ok(Part::Documents(own))
}

/// The catalog of what was found, and what is to be said about it.
fn put_together(
    folder: &str,
    found: Vec<Found<Part>>,
    selection: &Selection,
) -> Result<(Catalog, Vec<String>), Failure> {
    let (mut files, mut links, mut ignores) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (path, part) in found {
        match part {
            Part::Documents(loader) => drop(files.insert(path, loader)),
            Part::Link(target) => drop(links.insert(path, target)),
            Part::Ignore(bytes) => {
                let above = path.rsplit_once('/').map_or("", |(above, _)| above).to_owned();
                let rules = rules(&above, &bytes)
                    .map_err(|error| invalid(format!("`{path}` of the catalog cannot be used: {error}")))?;
                ignores.insert(above, rules);
            }
        }
    }
    let mut loader = Loader::for_selection(selection);
    let mut linked = BTreeSet::new();
    for (path, target) in links.into_iter().filter(|(path, _)| !is_ignored(path, &ignores)) {
        let own = target.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        match own {
            // What is ignored under its own name may be meant by another.
            Some(own) if files.contains_key(own) => drop(linked.insert(own.to_owned())),
            Some(own) if has_folder(&files, own) => {}
            _ => loader.unreadable(&path, &format!("it is a link to `/{target}`, which is no file of the catalog")),
        }
    }
    for (path, file) in files {
        if !is_ignored(&path, &ignores) || linked.contains(&path) {
            loader.extend(file);
        }
    }
    let (catalog, warnings) = loader.finish().map_err(|errors| told(&errors))?;
    let warnings = warnings.iter().map(|warning| format!("left out, since it is about nothing selected: {warning}"));
    Ok((catalog, warnings.collect()))
}

/// Whether a file lies below a folder.
fn has_folder<T>(files: &BTreeMap<String, T>, folder: &str) -> bool {
    let below = format!("{folder}/");
    files.range(below.clone()..).next().is_some_and(|(path, _)| path.starts_with(&below))
}

fn rules(above: &str, bytes: &[u8]) -> Result<Gitignore, ignore::Error> {
    let mut builder = GitignoreBuilder::new(above);
    for line in String::from_utf8_lossy(bytes).lines() {
        builder.add_line(None, line)?;
    }
    builder.build()
}

/// Whether a file is no part of the catalog. Rules of a folder further down go before those above it.
fn is_ignored(path: &str, rules: &BTreeMap<String, Gitignore>) -> bool {
    let mut folders: Vec<_> = path.match_indices('/').filter_map(|(at, _)| path.get(..at)).collect();
    folders.insert(0, "");
    let matched = folders
        .iter()
        .rev()
        .filter_map(|folder| rules.get(*folder))
        .map(|rules| rules.matched_path_or_any_parents(path, false));
    let decided = matched.into_iter().find(|matched| !matched.is_none());
    matches!(decided, Some(Match::Ignore(_)))
}

/// Filters, checks and packs.
fn select(key: &CatalogKey, catalog: Catalog, mut notes: Vec<String>) -> Result<Selected, Failure> {
    let Filtered { catalog, unknown } = filter(catalog, &key.selection).map_err(|errors| told(&errors))?;
    notes.extend(unknown.iter().map(ToString::to_string));
    let whole = key.selection.is_everything();
    let faults = validate(&catalog);
    if !faults.is_empty() && !whole {
        return Err(told(&faults));
    }
    if catalog.packages.values().all(|content| content.bundles.is_empty()) {
        let near = if unknown.is_empty() { String::new() } else { format!(": {}", notes.join("; ")) };
        return Err(invalid(format!("nothing of it is selected{near}")));
    }
    let images = related(&catalog).map_err(|bad| told(&bad))?;
    let images = images.into_iter().map(|(written, related)| Needed {
        written,
        image: related.image,
        bundles: related.bundles,
        newest: related.newest,
    });
    // With everything there, whoever wants a part of it has that too.
    let unmet = catalog.unmet();
    notes.extend(unmet.iter().map(|(needed, bundle)| {
        format!("`{bundle}` needs the package `{needed}`, which is not selected: add it if it is not installed from elsewhere")
    }));
    let layer = if whole {
        None
    } else {
        let files = catalog.files();
        reread(&files)?;
        let packed = build::catalog::layer(&key.folder, &files);
        Some(packed.map_err(|error| invalid(format!("it cannot be packed: {error}")))?)
    };
    Ok(Selected { layer, images: images.collect(), packages: summary(&catalog), notes })
}

/// Reads files as whoever serves them will. What was cut was cut by what is looked at here; this is what was written.
///
/// # Errors
/// They would not be served.
pub(crate) fn reread(files: &BTreeMap<String, Vec<u8>>) -> Result<Catalog, Failure> {
    let mut loader = Loader::new(None);
    for (path, content) in files {
        loader.file(path, content);
    }
    let (catalog, _) = loader.finish().map_err(|errors| told(&errors))?;
    let faults = validate(&catalog);
    if faults.is_empty() { Ok(catalog) } else { Err(told(&faults)) }
}

fn summary(catalog: &Catalog) -> Vec<PackageSummary> {
    let version = |content: &Content, name: &str| {
        let version = content.bundle(name).and_then(|bundle| bundle.version.as_ref().ok());
        version.map_or_else(|| name.to_owned(), ToString::to_string)
    };
    let channels = |content: &Content| {
        let summary = |channel: &crate::catalog::Channel| ChannelSummary {
            name: channel.blob.name.clone(),
            versions: channel.entries.iter().map(|entry| version(content, &entry.name)).collect(),
        };
        let mut channels: Vec<_> = content.channels.iter().map(summary).collect();
        channels.sort();
        channels
    };
    let package = |(name, content): (&String, &Content)| PackageSummary {
        name: name.clone(),
        default_channel: content.default_channel().to_owned(),
        channels: channels(content),
        bundles: content.bundles.len(),
    };
    catalog.packages.iter().map(package).collect()
}

/// The first mistakes, and how many more there are.
fn told(mistakes: &[impl ToString]) -> Failure {
    let mut text: Vec<_> = mistakes.iter().take(TOLD).map(ToString::to_string).collect();
    if mistakes.len() > TOLD {
        text.push(format!("and {} more", mistakes.len() - TOLD));
    }
    invalid(text.join("; "))
}

fn invalid(why: String) -> Failure {
    Failure::permanent(Reason::CatalogInvalid, why)
}
