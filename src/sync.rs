//! One sync: request → resolve → plan → copy → report. Knows no Kubernetes; the controller and the command line both run it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::copy::{Attachments, Engine, ItemReport, Known, Observe, Report, Settings, Stop, Survey, Trust};
use crate::failure::{self, Failure, Reason};
pub use crate::fetch::{Cache, Helm};
use crate::fetch::{Named, Source};
use crate::oci::{Content, Digest, Reference};
use crate::plan::{Plan, PlanError, PlanItem, TargetId, TargetRoot, mapping};
use crate::registry::{self, Client, Prefix, Side, Throttle};
use crate::request::{GRAPH_BASE_IMAGE, ReleaseSignatures, Request, Tls};
use crate::resolve::release::Trust as Trusted;
use crate::resolve::signature::KeyRing;
use crate::resolve::{Fetch, Origin, OriginKind, Wanted, additional, drive, graph_image, helm, operators, release};
use crate::state::{Completed, Ledger, MayCommit, Memory, Place, Record, find_out_about_posts, load_plan};

mod catalogs;
mod documents;

pub use catalogs::{CatalogReport, LeftOutBundle, PlacedCatalog, reports};

/// Documents fetched at the same time while resolving.
const DOCUMENTS_AT_ONCE: usize = 16;
/// The id of the one target that objects have.
const TARGET: &str = "default";

/// Both sides of a sync, each with its own credentials and trust, what releases are trusted by, and what renders charts.
#[derive(Clone)]
pub struct Sides {
    /// Where images come from.
    pub source: Arc<Client>,
    /// Where they go.
    pub target: Arc<Client>,
    /// The `OpenPGP` keys that release signatures are checked with, in ASCII armor; none for those of Red Hat.
    pub signature_keys: Option<Vec<u8>>,
    /// What renders charts.
    pub helm: Helm,
}

/// What a request means right now.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What is known of it beside its items, which are the plan's.
    pub wanted: Wanted,
    /// Everything wanted, mapped and ordered, and what could not be found out.
    pub plan: Arc<Plan>,
    /// What was made here, for the copy.
    pub made: Arc<Content>,
    /// The catalogs, and where they go.
    pub catalogs: Arc<Vec<PlacedCatalog>>,
    /// What was read for that, as far as another process may use it.
    pub documents: Arc<Named>,
}

/// How a host is reached, for a registry client.
pub fn tls(mode: Tls) -> registry::Tls {
    match mode {
        Tls::Verify => registry::Tls::Verify,
        Tls::SkipVerify => registry::Tls::SkipVerify,
        Tls::Plain => registry::Tls::Plain,
    }
}

/// How the request wants one side to be talked to; credentials and certificates are the caller's to fill in.
pub fn client_settings(request: &Request, side: Side) -> registry::Settings {
    let mut settings = registry::Settings::new(side);
    match side {
        Side::Source => {
            settings.tls = request.source.hosts.iter().map(|(host, mode)| (host.clone(), tls(*mode))).collect();
            // `Request` has checked that each of these is a place in a registry.
            let prefix = |text: &String| text.parse::<Prefix>().ok();
            settings.overrides = request
                .source
                .overrides
                .iter()
                .filter_map(|rule| {
                    let mirrors = rule.mirrors.iter().filter_map(prefix).collect();
                    Some(registry::Override { source: prefix(&rule.source)?, mirrors })
                })
                .collect();
            let images = request.additional.iter().filter(|image| image.blocked_by.is_none());
            let images = images.map(|image| &image.named).chain(request.catalogs.iter().map(|catalog| &catalog.named));
            let images = images.map(|named| named.repository().registry().clone());
            let mirrors =
                settings.overrides.iter().flat_map(|rule| &rule.mirrors).map(|mirror| mirror.registry().clone());
            let charts = request.helm.iter().flat_map(|helm| &helm.repositories);
            let charts = charts.filter_map(|repository| repository.place.registry());
            settings.allowed = images.chain(mirrors).chain(charts).collect();
        }
        Side::Target => {
            settings.tls.insert(request.target.registry.clone(), tls(request.target.tls));
        }
    }
    settings
}

/// Finds out what `request` means now: every tag once, to a digest. `cache` is what earlier syncs of the object have fetched,
/// `memory` and `place` lead to what earlier processes have. All of that is forgotten if `trust` is in nothing.
///
/// # Errors
/// Entries of the request that contradict each other; nothing was copied. What could not be resolved is no error but a
/// failure of its origin in the result.
pub async fn resolve(
    request: &Request,
    sides: &Sides,
    cache: &Arc<Cache>,
    memory: &Memory,
    place: &Place,
    trust: Trust,
) -> Result<Resolved, PlanError> {
    let from = &request.source;
    cache.begin();
    if trust == Trust::Nothing {
        cache.forget();
        memory.forget_documents();
    } else if request.releases.is_some() || !request.catalogs.is_empty() {
        Box::pin(documents::recall(cache, memory, &sides.target, place)).await;
    }
    let io = Source::new(Arc::clone(&sides.source), Arc::clone(cache)).asking(
        from.update_service.clone(),
        from.signature_stores.clone(),
        from.graph_data.clone(),
    );
    let io = io.rendering(sides.helm.clone());
    let mut resolved = resolve_with(request, sides.signature_keys.as_deref(), io).await?;
    // What could not be resolved may have documents that were not asked for.
    let hides = |kind| matches!(kind, OriginKind::Release | OriginKind::Graph | OriginKind::Catalog);
    if !resolved.plan.failures.iter().any(|(origin, _)| hides(origin.kind)) {
        resolved.documents = Arc::new(cache.named());
    }
    if resolved.plan.failures.is_empty() {
        cache.tidy();
    }
    Ok(resolved)
}

/// As [`resolve`], from documents that come from anywhere, and with these keys for signatures of releases.
///
/// # Errors
/// As those of [`resolve`].
pub async fn resolve_with<F: Fetch + Sync>(
    request: &Request,
    signature_keys: Option<&[u8]>,
    io: F,
) -> Result<Resolved, PlanError> {
    let from = &request.source;
    let mut wanted = drive(&io, DOCUMENTS_AT_ONCE, |documents| additional::step(&request.additional, documents)).await;
    if let Some(releases) = &request.releases {
        match trust(request, signature_keys) {
            Ok(trust) => {
                wanted.extend(
                    drive(&io, DOCUMENTS_AT_ONCE, |documents| release::step(releases, &trust, documents)).await,
                );
            }
            Err(failure) => {
                let name = "spec.source.signatureKeys".to_owned();
                wanted.failures.push((Origin { kind: OriginKind::Release, name }, failure));
            }
        }
    }
    if request.releases.as_ref().is_some_and(|releases| releases.graph) {
        let base = from.graph_base_image.clone().map_or_else(|| GRAPH_BASE_IMAGE.parse(), Ok);
        match base {
            Ok(base) => {
                let step = |documents: &_| graph_image::step(&base, documents);
                wanted.extend(drive(&io, DOCUMENTS_AT_ONCE, step).await);
            }
            // The default is a reference.
            Err(error) => tracing::error!(%error, "no base for the graph image; please report this defect"),
        }
    }
    if !request.catalogs.is_empty() {
        let step = |documents: &_| operators::step(&request.catalogs, &request.blocked, documents);
        wanted.extend(drive(&io, DOCUMENTS_AT_ONCE, step).await);
    }
    if let Some(charts) = &request.helm {
        wanted.extend(drive(&io, DOCUMENTS_AT_ONCE, |documents| helm::step(charts, &request.blocked, documents)).await);
    }
    let root = TargetRoot { registry: request.target.registry.clone(), prefix: request.target.prefix.clone() };
    let plan = Plan::new(&wanted, &root, &request.blocked, TargetId(TARGET.to_owned()))?;
    for note in &plan.notes {
        tracing::warn!("{note}");
    }
    let destination = |item: usize| Some((item, mapping::destination(wanted.items.get(item)?, &root).ok()?));
    let destinations: BTreeMap<_, _> = wanted.catalogs.iter().filter_map(|catalog| destination(catalog.item)).collect();
    let catalogs = Arc::new(catalogs::placed(&mut wanted, &destinations, &plan));
    wanted.items = Vec::new();
    let made = Arc::new(std::mem::take(&mut wanted.made));
    Ok(Resolved { wanted, plan: Arc::new(plan), made, catalogs, documents: Arc::default() })
}

/// Whose signatures of releases count.
fn trust(request: &Request, keys: Option<&[u8]>) -> Result<Trusted, Failure> {
    if request.release_signatures == ReleaseSignatures::Skip {
        return Ok(Trusted::Skip);
    }
    let keys = match keys {
        Some(armored) => KeyRing::parse(&String::from_utf8_lossy(armored)),
        None => KeyRing::red_hat(),
    };
    keys.map(Trusted::Keys).map_err(|error| {
        let message = format!("the keys that releases are checked with cannot be read: {}", failure::chain(&error));
        Failure::permanent(Reason::SignatureMissing, message)
    })
}

/// How a copy is done and where its memory is.
pub struct Copy<'a> {
    /// The request.
    pub request: &'a Request,
    /// Both registries.
    pub sides: &'a Sides,
    /// What was made here.
    pub made: Arc<Content>,
    /// The catalogs of the plan.
    pub catalogs: Arc<Vec<PlacedCatalog>>,
    /// What was read to find out what is wanted.
    pub documents: Arc<Named>,
    /// Limits of the whole process on bytes per second.
    pub throttle: Option<Arc<Throttle>>,
    /// Where this object's state is in the target.
    pub place: &'a Place,
    /// What is remembered of it in this process.
    pub memory: &'a Memory,
    /// Whether what earlier syncs found is believed.
    pub trust: Trust,
    /// The time that newly completed images are noted with: RFC 3339, UTC, whole seconds.
    pub now: &'a (dyn Fn() -> String + Sync),
}

/// What a copy did.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The plan as it was carried out: a catalog may have been published without what does not exist.
    pub plan: Arc<Plan>,
    /// Per image.
    pub report: Report,
    /// Per catalog.
    pub catalogs: Vec<CatalogReport>,
    /// Images that the plan before did not have.
    pub added: usize,
    /// Images that only the plan before had; none unless the plan is whole.
    pub removed: usize,
    /// Why the object's state could not be kept in the target, if so. Content is not affected.
    pub state_failure: Option<Failure>,
}

/// What is remembered, as the engine wants to know it.
struct Past<'a> {
    record: &'a Record,
    /// What the last complete plan left at each destination.
    last: BTreeMap<(&'a Reference, &'a Digest), &'a PlanItem>,
}

impl<'a> Past<'a> {
    fn new(record: &'a Record) -> Self {
        let last = record.plan.iter().flat_map(|plan| &plan.items);
        Self { record, last: last.map(|item| ((&item.destination, &item.digest), item)).collect() }
    }

    fn last(&self, item: &PlanItem) -> Option<&PlanItem> {
        self.last.get(&(&item.destination, &item.digest)).copied()
    }

    /// Whether the ledger has `item` as completed in this manner.
    fn noted(&self, item: &PlanItem, attachments: bool) -> bool {
        match &self.record.ledger {
            Some(ledger) => ledger.has(item, attachments),
            None => {
                self.record.completed == Some(completed(attachments))
                    && self.last(item).is_some_and(|last| last.platforms == item.platforms)
            }
        }
    }
}

impl Known for Past<'_> {
    fn completed(&self, item: &PlanItem, attachments: Attachments) -> bool {
        self.noted(item, attachments == Attachments::Copy)
    }

    fn left_there(&self, item: &PlanItem) -> bool {
        self.last(item).is_some()
    }
}

fn completed(attachments: bool) -> Completed {
    if attachments { Completed::WithAttachments } else { Completed::Alone }
}

impl Copy<'_> {
    /// What all bytes of a run wait for.
    fn throttles(&self) -> Vec<Arc<Throttle>> {
        let own = self.request.copy.max_bytes_per_second.map(|rate| Arc::new(Throttle::new(rate.get())));
        own.into_iter().chain(self.throttle.clone()).collect()
    }

    /// The engine for this request.
    fn engine(&self, made: &Arc<Content>, throttles: Vec<Arc<Throttle>>) -> Engine {
        let default = Settings::default();
        let settings = Settings {
            concurrency: self.request.copy.concurrency.unwrap_or(default.concurrency),
            attachments: attachments(self.request),
            trust: self.trust,
        };
        Engine::new(Arc::clone(&self.sides.source), Arc::clone(&self.sides.target), settings, throttles)
            .with_made(Arc::clone(made))
    }

    /// Brings the plan to the target and keeps ledger and plan there.
    ///
    /// # Errors
    /// The target cannot be asked for the object's state; nothing was copied.
    pub async fn run(&self, plan: &Arc<Plan>, observe: &dyn Observe, stop: &Stop) -> Result<Copied, Failure> {
        let target = &self.sides.target;
        let attachments = attachments(self.request) == Attachments::Copy;
        let remembered = self.memory.get(target, self.place, plan, completed(attachments));
        let remembered = stop.abort.run_until_cancelled(Box::pin(remembered)).await;
        let mut record = remembered.unwrap_or_else(|| Err(stopped()))?;
        if record.plan.as_ref() == Some(plan) {
            // One of the two is enough in memory.
            record.plan = Some(Arc::clone(plan));
        }
        let past = Past::new(&record);
        let noted = plan.items.iter().all(|item| past.noted(item, attachments));
        let throttles = self.throttles();
        let engine = self.engine(&self.made, throttles.clone());
        // Boxed, because it is large and goes through several hands.
        let beside = Box::pin(self.write_ahead(noted, &throttles, observe));
        let (mut report, _) = futures::join!(engine.run(plan, &past, observe, stop), stop.unless_begun(beside));
        let mut carried_out = Arc::clone(plan);
        let before = record.plan.as_deref();
        let catalogs = self.finish_catalogs(&mut carried_out, &mut report, before, &past, observe, stop).await;
        let plan = &carried_out;
        // What could not be listed is looked at by every sync, so that it stays known.
        let ended = plan.items.iter().zip(&report.items).filter(|(_, outcome)| outcome.complete());
        let ended = ended.map(|(item, outcome)| (item, attachments && !outcome.has_unlisted()));
        let new: Vec<_> = ended.filter(|&(item, attachments)| !past.noted(item, attachments)).collect();
        let (added, removed) = before.map_or((plan.items.len(), 0), |before| changes(plan, before));
        // What could not be resolved this time was not given up: the plan before says more.
        let whole = plan.whole() && report.complete();
        let listed = !report.items.iter().any(ItemReport::has_unlisted);
        let done = (whole && listed).then(|| completed(attachments));
        // As shared ones, so that the same plan is not compared with itself.
        let changed = record.plan.as_ref() != Some(plan) || record.completed != done;
        let state_failure = stop.abort.run_until_cancelled(async {
            // Whoever is in charge by now has written what we would overwrite.
            let may_commit = || observe.may_commit();
            self.note(&mut record.ledger, &new, &may_commit).await?;
            if changed && whole {
                record.save_plan(target, self.place, plan, done, &may_commit).await?;
            }
            Ok(())
        });
        let state_failure = state_failure.await.unwrap_or_else(|| Err(stopped())).err();
        self.memory.put(self.place, record);
        Ok(Copied { plan: carried_out, report, catalogs, added, removed, state_failure })
    }

    /// Writes what need not wait for the copy, which does not depend on it; `noted` if all of the plan is in the ledger.
    async fn write_ahead(&self, noted: bool, throttles: &[Arc<Throttle>], observe: &dyn Observe) {
        let target = &self.sides.target;
        if !noted && let Err(failure) = find_out_about_posts(target, self.place).await {
            // Whether that can be written at all is told by what is written in the end.
            tracing::debug!(%failure, "not known whether the target takes a blob in one request");
        }
        let may_commit = || observe.may_commit();
        let kept = documents::keep(&self.documents, self.memory, (target, throttles), self.place, &may_commit).await;
        if let Err(failure) = kept {
            tracing::warn!(%failure, "what was read is not kept: the next process reads it again");
        }
    }

    /// Adds items to the ledger, which is read for that if it was not, and writes what is not written yet.
    async fn note(
        &self,
        ledger: &mut Option<Ledger>,
        new: &[(&PlanItem, bool)],
        may_commit: MayCommit<'_>,
    ) -> Result<(), Failure> {
        let target = &self.sides.target;
        let ledger = match ledger {
            None if new.is_empty() => return Ok(()),
            None => ledger.insert(Ledger::load(target, self.place).await?),
            Some(ledger) => ledger,
        };
        let now = (self.now)();
        for (item, attachments) in new {
            ledger.add(item, *attachments, &now);
        }
        ledger.save(target, self.place, may_commit).await
    }

    /// The plan that the last sync has kept in the target.
    ///
    /// # Errors
    /// The target cannot be asked.
    pub async fn last_plan(&self) -> Result<Option<Plan>, Failure> {
        load_plan(&self.sides.target, self.place).await
    }

    /// Looks what the plan would do; writes nothing anywhere.
    ///
    /// # Errors
    /// The target cannot be asked for the last plan, or it was stopped.
    pub async fn survey(&self, plan: &Plan, stop: &Stop) -> Result<(Survey, usize, usize), Failure> {
        // Boxed, because it is large and goes through several hands.
        let surveying = Box::pin(async {
            let previous = self.last_plan().await?;
            let (added, removed) = previous.map_or((plan.items.len(), 0), |previous| changes(plan, &previous));
            Ok((self.engine(&self.made, self.throttles()).survey(plan).await, added, removed))
        });
        // Nothing is half done when this ends early, so the end of the process need not wait for it either.
        stop.unless_begun(surveying).await.unwrap_or_else(|| Err(stopped()))
    }
}

/// What became of something that was told to stop.
fn stopped() -> Failure {
    Failure::transient(Reason::Cancelled, "stopped before it was done")
}

/// How many images `plan` adds to the one before, and how many it leaves out: none unless it is whole.
fn changes(plan: &Plan, previous: &Plan) -> (usize, usize) {
    let previous: Vec<_> = previous.items.iter().map(|item| (item.destination.clone(), item.digest.clone())).collect();
    let removed = if plan.whole() { plan.removed(&previous).len() } else { 0 };
    (plan.added(&previous).len(), removed)
}

fn attachments(request: &Request) -> Attachments {
    match request.copy.attachments {
        crate::request::Attachments::Copy => Attachments::Copy,
        crate::request::Attachments::Skip => Attachments::Skip,
    }
}
