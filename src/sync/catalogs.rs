//! What becomes of the catalogs of a sync, and the ones that are published without bundles whose images do not exist.
//!
//! A catalog follows every image that it lists. Where one of these exists nowhere any more, waiting for it would keep the catalog
//! from the cluster for ever: then the bundles that need it are left out, unless the catalog in the target has one of them. What is
//! served is never taken back by what is missing elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Copy, Past};
use crate::build::{self, Built};
use crate::catalog::{BundleName, leave_out};
use crate::copy::{ItemReport, Observe, Outcome, Report, Stop};
use crate::failure::{Failure, Reason, chain};
use crate::fetch::{Cache, Offered, Source, reread};
use crate::oci::{Content, Digest, Reference, Tag};
use crate::plan::{Plan, PlanItem};
use crate::registry::Transferred;
use crate::resolve::operators::{Needed, WantedCatalog};
use crate::resolve::{OriginKind, Wanted};

/// A catalog, and where it goes.
#[derive(Clone, Debug)]
pub struct PlacedCatalog {
    /// The catalog.
    pub wanted: WantedCatalog,
    /// A repository and a tag.
    pub destination: Reference,
    /// What is to be there.
    pub digest: Digest,
}

/// What became of a catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CatalogReport {
    /// As the user names it.
    pub source: String,
    /// Its digest in the source.
    pub source_digest: Digest,
    /// Where it goes: a repository and a tag.
    pub target: Reference,
    /// What was to be there.
    pub target_digest: Digest,
    /// Whether it is there, with every image that it lists.
    pub published: bool,
    /// Packages in it.
    pub packages: usize,
    /// Bundles in it.
    pub bundles: usize,
    /// Images that they need.
    pub images: usize,
    /// Bundles that are left out, since an image that they need does not exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOutBundle>,
    /// What was asked for and is not there, and what is needed and was not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Name of the `ConfigMap` with the template of its `CatalogSource`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

/// A bundle that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOutBundle {
    /// `package/bundle`.
    pub bundle: String,
    /// The image that it needs and that does not exist.
    pub image: String,
}

/// The catalogs of what is wanted; those that are blocked have no item in the plan.
pub(super) fn placed(
    wanted: &mut Wanted,
    destinations: &BTreeMap<usize, Reference>,
    plan: &Plan,
) -> Vec<PlacedCatalog> {
    let catalogs = std::mem::take(&mut wanted.catalogs);
    let place = |catalog: WantedCatalog| {
        let destination = destinations.get(&catalog.item)?.clone();
        let item = plan.items.iter().find(|item| {
            let is = |asked: &crate::plan::Asked| {
                asked.origin.kind == OriginKind::Catalog && asked.origin.name == catalog.written
            };
            item.destination == destination && item.asked.iter().any(is)
        })?;
        Some(PlacedCatalog { wanted: catalog, destination, digest: item.digest.clone() })
    };
    catalogs.into_iter().filter_map(place).collect()
}

/// What the catalogs of a plan would be if all of it arrived.
pub fn reports(catalogs: &[PlacedCatalog]) -> Vec<CatalogReport> {
    catalogs.iter().map(report).collect()
}

fn report(catalog: &PlacedCatalog) -> CatalogReport {
    let WantedCatalog { written, template, digest, selected, .. } = &catalog.wanted;
    CatalogReport {
        source: written.clone(),
        source_digest: digest.clone(),
        target: catalog.destination.clone(),
        target_digest: catalog.digest.clone(),
        published: false,
        packages: selected.packages.len(),
        bundles: selected.packages.iter().map(|package| package.bundles).sum(),
        images: selected.images.len(),
        left_out: Vec::new(),
        notes: selected.notes.clone(),
        template: template.clone(),
    }
}

/// A catalog that is to be published without some bundles.
struct Shortened {
    built: Built,
    left_out: Vec<LeftOutBundle>,
    bundles: usize,
}

/// What an image that a catalog needs has come to.
enum Fate<'a> {
    Here,
    Missing(&'a Failure),
    Unknown,
}

impl Copy<'_> {
    /// Publishes what can be published of catalogs that lack images, and tells what became of all of them. Changes plan and
    /// report accordingly.
    pub(super) async fn finish_catalogs(
        &self,
        plan: &mut Arc<Plan>,
        report: &mut Report,
        before: Option<&Plan>,
        past: &Past<'_>,
        observe: &dyn Observe,
        stop: &Stop,
    ) -> Vec<CatalogReport> {
        let mut told = Vec::new();
        for catalog in self.catalogs.iter() {
            let mut about = self::report(catalog);
            let is = |item: &PlanItem| item.destination == catalog.destination && item.digest == catalog.digest;
            let Some(at) = plan.items.iter().position(is) else { continue };
            if lacks_something(report.items.get(at)) && !stop.begun() {
                match self.shortened(catalog, plan, report, before).await {
                    Ok(None) => {}
                    Ok(Some(shortened)) => {
                        let (item, ended) = self.publish(catalog, &shortened, plan, at, past, observe, stop).await;
                        about.target = item.destination.clone();
                        about.target_digest = item.digest.clone();
                        about.bundles = shortened.bundles;
                        about.left_out = shortened.left_out;
                        if let Some(place) = Arc::make_mut(plan).items.get_mut(at) {
                            *place = item;
                        }
                        if let (Some(place), Some(ended)) = (report.items.get_mut(at), ended) {
                            *place = ended;
                        }
                    }
                    Err(failure) => {
                        if let Some(place) = report.items.get_mut(at) {
                            place.outcome = Outcome::Failed(failure);
                        }
                    }
                }
            }
            // What was left out of it does not count.
            let whole = !about.left_out.is_empty() || is_whole(&catalog.wanted, plan, report);
            about.published = whole && report.items.get(at).is_some_and(ItemReport::complete);
            told.push(about);
        }
        told
    }

    /// The catalog without the bundles whose images do not exist; none if it is not for want of such images alone that it was
    /// not published.
    async fn shortened(
        &self,
        catalog: &PlacedCatalog,
        plan: &Plan,
        report: &Report,
        before: Option<&Plan>,
    ) -> Result<Option<Shortened>, Failure> {
        let Some(missing) = missing(&catalog.wanted, plan, report) else { return Ok(None) };
        let bundles: BTreeSet<BundleName> = missing.iter().flat_map(|needed| needed.bundles.iter().cloned()).collect();
        let left_out: BTreeSet<_> = missing
            .iter()
            .flat_map(|needed| needed.bundles.iter().map(|bundle| (bundle.to_string(), needed.written.clone())))
            .map(|(bundle, image)| LeftOutBundle { bundle, image })
            .collect();
        let Some(first) = left_out.first() else { return Ok(None) };
        let held = |why: String| {
            let LeftOutBundle { bundle, image } = first;
            let more = match missing.len() {
                0 | 1 => String::new(),
                count => format!(", and {} more images are missing", count - 1),
            };
            let message = format!("`{bundle}` needs `{image}`, which is not in the source registry{more}: {why}");
            Failure::permanent(Reason::DependencyFailed, message)
        };
        let Some(layer) = &catalog.wanted.selected.layer else {
            return Err(held("name packages under `packages`, so that what lacks an image can be left out".to_owned()));
        };
        let offered = self.offered(catalog, before).await?;
        if let Some(served) = offered.bundles.iter().find(|name| bundles.contains(name)) {
            return Err(held(format!(
                "the catalog in the target has `{served}`, so it stays as it is until the image is back or the bundle is not \
                 selected any more"
            )));
        }
        let WantedCatalog { base, folder, .. } = &catalog.wanted;
        // It was written here.
        let files = build::catalog::files(folder, layer).map_err(|error| held(error.to_string()))?;
        let whole = reread(&files)?;
        let owned = |(package, channel): (&str, &str)| (package.to_owned(), channel.to_owned());
        let selected: BTreeSet<_> = whole.channels().map(owned).collect();
        let left = leave_out(whole, &bundles).map_err(|error| held(chain(&error)))?;
        let kept: BTreeSet<_> = left.channels().map(owned).collect();
        if let Some((package, channel)) = selected.difference(&kept).find(|gone| offered.channels.contains(gone)) {
            return Err(held(format!(
                "without it channel `{channel}` of package `{package}` would be gone, which the catalog in the target has; so that \
                 stays as it is"
            )));
        }
        let count = left.packages.values().map(|content| content.bundles.len()).sum();
        if count == 0 {
            return Err(held("nothing would be left of the catalog".to_owned()));
        }
        let files = left.files();
        reread(&files)?;
        let layer = build::catalog::layer(folder, &files).map_err(|error| held(error.to_string()))?;
        let built = build::catalog::image(base, folder, &layer)?;
        Ok(Some(Shortened { built, left_out: left_out.into_iter().collect(), bundles: count }))
    }

    /// What the target offers in this catalog's place, and what it offered there last.
    async fn offered(&self, catalog: &PlacedCatalog, before: Option<&Plan>) -> Result<Offered, Failure> {
        let target = Source::new(Arc::clone(&self.sides.target), Arc::new(Cache::default()));
        let repository = catalog.destination.repository();
        let last = before.into_iter().flat_map(|plan| &plan.items).filter(|item| {
            // Under another tag too: what shows it to the cluster is named by its repository.
            item.destination.repository() == repository
                && item.asked.iter().any(|asked| asked.origin.kind == OriginKind::Catalog)
        });
        let last: BTreeSet<_> = last.map(|item| repository.at(item.digest.clone())).collect();
        let mut all = Offered::default();
        for place in std::iter::once(catalog.destination.clone()).chain(last) {
            if let Some(offered) = target.offered(&place).await? {
                all.bundles.extend(offered.bundles);
                all.channels.extend(offered.channels);
            }
        }
        Ok(all)
    }

    /// Brings a shortened catalog to the target in place of the one that was planned.
    #[expect(clippy::too_many_arguments, reason = "what one run of the engine needs")]
    async fn publish(
        &self,
        catalog: &PlacedCatalog,
        shortened: &Shortened,
        plan: &Plan,
        at: usize,
        past: &Past<'_>,
        observe: &dyn Observe,
        stop: &Stop,
    ) -> (PlanItem, Option<ItemReport>) {
        let digest = shortened.built.digest.clone();
        let destination = match catalog.destination.tag() {
            // A catalog that is named by its digest is found under a tag made of that.
            Some(tag) if *tag == Tag::of_digest(&catalog.digest) => {
                catalog.destination.repository().tagged(Tag::of_digest(&digest))
            }
            _ => catalog.destination.clone(),
        };
        let asked = plan.items.get(at).map(|item| item.asked.clone()).unwrap_or_default();
        // All that it follows is there, or it would not have come to this.
        let item = PlanItem { asked, digest, destination, platforms: BTreeSet::new(), after: Vec::new(), unmet: None };
        let alone = Plan {
            version: plan.version,
            target: plan.target.clone(),
            items: vec![item.clone()],
            blocked: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
            partial: false,
        };
        let made: Arc<Content> = Arc::new(shortened.built.content.clone());
        let report = self.engine(&made, self.throttles()).run(&alone, past, &Again(observe), stop).await;
        (item, report.items.into_iter().next())
    }
}

/// True if the item failed for want of what it follows.
fn lacks_something(item: Option<&ItemReport>) -> bool {
    let failed = item.and_then(|item| match &item.outcome {
        Outcome::Failed(failure) => Some(failure),
        _ => None,
    });
    failed.is_some_and(|failure| failure.reason == Reason::DependencyFailed)
}

/// What each image of a catalog has come to. What is blocked is left out on purpose, and needs nothing.
fn fates<'a>(
    catalog: &'a WantedCatalog,
    plan: &'a Plan,
    report: &'a Report,
) -> impl Iterator<Item = (&'a Needed, Fate<'a>)> {
    let mut outcomes: BTreeMap<&Reference, &Outcome> = BTreeMap::new();
    for (item, ended) in plan.items.iter().zip(&report.items) {
        let named = item.asked.iter().filter(|asked| asked.origin.kind == OriginKind::Operator);
        outcomes.extend(named.map(|asked| (&asked.named, &ended.outcome)));
    }
    catalog.selected.images.iter().map(move |needed| {
        let fate = match (catalog.unresolved.get(&needed.written), outcomes.get(&needed.image)) {
            (Some(failure), _) | (None, Some(Outcome::Failed(failure))) => Fate::Missing(failure),
            (None, Some(Outcome::Cancelled)) => Fate::Unknown,
            (None, None | Some(Outcome::Copied | Outcome::Present)) => Fate::Here,
        };
        (needed, fate)
    })
}

/// True if every image of a catalog is in the target.
fn is_whole(catalog: &WantedCatalog, plan: &Plan, report: &Report) -> bool {
    fates(catalog, plan, report).all(|(_, fate)| matches!(fate, Fate::Here))
}

/// The images of a catalog that do not exist, if there are any and everything else of it is in the target.
fn missing<'a>(catalog: &'a WantedCatalog, plan: &'a Plan, report: &'a Report) -> Option<Vec<&'a Needed>> {
    let mut missing = Vec::new();
    for (needed, fate) in fates(catalog, plan, report) {
        match fate {
            Fate::Here => {}
            Fate::Missing(failure) if failure.reason == Reason::SourceNotFound && !failure.transient => {
                missing.push(needed);
            }
            Fate::Missing(_) | Fate::Unknown => return None,
        }
    }
    (!missing.is_empty()).then_some(missing)
}

/// Sees the second attempt at an item whose end was told already.
struct Again<'a>(&'a dyn Observe);

impl Observe for Again<'_> {
    fn may_commit(&self) -> bool {
        self.0.may_commit()
    }

    fn blob_started(&self) {
        self.0.blob_started();
    }

    fn blob_ended(&self, took: std::time::Duration) {
        self.0.blob_ended(took);
    }

    fn blob_settled(&self, how: Transferred) {
        self.0.blob_settled(how);
    }

    fn uploaded(&self, bytes: u64) {
        self.0.uploaded(bytes);
    }
}
