//! What a sync of one object is: read what it names, resolve, plan, copy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::sync::watch;

use super::access::{Access, Problem};
use super::jobs::Work;
use super::observe::progress;
use super::status::{Planned, Progress};
use crate::api::ImageSetMirror;
use crate::clock::Clock;
use crate::copy::{Finding, ItemReport, Observe, Outcome, Report, Stop, Survey, Trust};
use crate::failure::Failure;
use crate::lease::Fence;
use crate::metrics::{BlobOutcome, Direction, Drift, ImageOutcome, Metrics, SyncOutcome};
use crate::oci::{Digest, Reference};
use crate::plan::{Plan, PlanError, PlanItem};
use crate::registry::{Throttle, Transferred};
use crate::request::{Attachments, Mode, Request};
use crate::resources::Releases;
use crate::state::{Memory, Place, load_plan};
use crate::sync::{Cache, CatalogReport, Copy, Resolved, Sides, reports, resolve};

/// One order: a valid spec, when its object was made, for questions of who came first, and what may be relied on.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) request: Arc<Request>,
    pub(super) created: Option<Timestamp>,
    pub(super) trust: Trust,
}

/// What was found out before copying.
pub(super) struct Prepared {
    sides: Sides,
    place: Place,
    resolved: Resolved,
    mode: Mode,
    attachments: Attachments,
    trust: Trust,
}

/// How a sync ended.
#[derive(Clone)]
pub(super) enum Ended {
    /// Something the object names is missing or unusable.
    Waiting(Problem),
    /// Entries of the object contradict each other.
    Contradiction(Arc<PlanError>),
    /// An older object wants other content at one of our places.
    Conflict(String),
    /// The target could not be asked for what every sync needs.
    Target(Failure),
    /// It went through.
    Done(Arc<Done>),
    /// A defect ended it.
    Panicked,
}

/// What a sync that went through found and did.
pub(super) struct Done {
    pub(super) resolved: Resolved,
    pub(super) catalogs: Vec<CatalogReport>,
    pub(super) added: usize,
    pub(super) removed: usize,
    pub(super) result: Deed,
    /// Why the object's state could not be kept in the target, if so.
    pub(super) state_failure: Option<Failure>,
}

impl Done {
    /// True if there is nothing left to be tried again.
    fn complete(&self) -> bool {
        let all = match &self.result {
            Deed::Copied(report) => report.complete(),
            Deed::Surveyed(survey) => !survey.items.iter().any(|item| matches!(item.finding, Finding::Failed(_))),
        };
        all && self.resolved.plan.failures.is_empty() && self.state_failure.is_none()
    }
}

/// What was done with the plan.
pub(super) enum Deed {
    /// It was copied.
    Copied(Report),
    /// It was only looked at.
    Surveyed(Survey),
}

/// The plans of all objects, to see who else wants the same place.
#[derive(Default)]
pub(super) struct Claimed(Mutex<BTreeMap<String, Claims>>);

struct Claims {
    object: String,
    created: Option<Timestamp>,
    /// What it wants now, and what it wanted last when all of it was known, if not all is now. None if it never had a plan.
    plans: Vec<Arc<Plan>>,
}

impl Claimed {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Claims>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what the object wanted.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn knows(&self, uid: &str) -> bool {
        self.lock().contains_key(uid)
    }

    /// Notes what the object wants; a plan with gaps takes nothing from it that it had before.
    fn put(&self, uid: &str, object: String, created: Option<Timestamp>, plan: Option<Arc<Plan>>) {
        let mut all = self.lock();
        let gaps = plan.as_ref().is_none_or(|plan| !plan.failures.is_empty());
        let before = all.remove(uid).into_iter().flat_map(|claims| claims.plans);
        let before = before.filter(|plan| gaps && plan.failures.is_empty());
        let plans = plan.into_iter().chain(before).collect();
        all.insert(uid.to_owned(), Claims { object, created, plans });
    }

    /// True if all that the object wants or wanted is known.
    fn knows_all(&self, uid: &str) -> bool {
        self.lock().get(uid).is_some_and(|claims| claims.plans.iter().any(|plan| plan.failures.is_empty()))
    }

    /// The first place where an older object wants something else.
    fn conflict(&self, uid: &str, created: Option<Timestamp>, plan: &Plan) -> Option<String> {
        let all = self.lock();
        let own: BTreeMap<&Reference, &Digest> =
            plan.items.iter().map(|item| (&item.destination, &item.digest)).collect();
        let older = all
            .iter()
            .filter(|(other, claims)| other.as_str() != uid && (claims.created, other.as_str()) < (created, uid));
        for (_, claims) in older {
            let clash = claims
                .plans
                .iter()
                .flat_map(|plan| &plan.items)
                .find(|item| own.get(&item.destination).is_some_and(|digest| **digest != item.digest));
            if let Some(item) = clash {
                return Some(format!(
                    "`{}` belongs to the older object `{}`, which wants {} there: give the image another `targetRepo` or \
                     `targetTag`, or this object another `pathPrefix`",
                    item.destination, claims.object, item.digest
                ));
            }
        }
        None
    }
}

/// Lists the objects of all watched namespaces, from the cache.
pub(super) type Objects = Arc<dyn Fn() -> Vec<Arc<ImageSetMirror>> + Send + Sync>;

/// Runs syncs for the controller.
pub(super) struct Worker {
    pub(super) access: Access,
    pub(super) cluster: String,
    pub(super) throttle: Option<Arc<Throttle>>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) fence: Fence,
    pub(super) claimed: Arc<Claimed>,
    pub(super) objects: Objects,
    pub(super) memories: Mutex<BTreeMap<String, Remembered>>,
}

/// What is remembered of an object.
#[derive(Clone, Default)]
pub(super) struct Remembered {
    /// Its record in the target.
    memory: Memory,
    /// What it is made from.
    documents: Arc<Cache>,
}

impl Worker {
    fn remembered(&self, uid: &str) -> Remembered {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.entry(uid.to_owned()).or_default().clone()
    }

    /// Forgets what is remembered of an object.
    pub(super) fn forget(&self, uid: &str) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.claimed.forget(uid);
    }

    fn place(&self, request: &Request) -> Result<Place, Failure> {
        let (target, identity) = (&request.target, &request.identity);
        Place::new(&target.registry, target.prefix.as_ref(), &self.cluster, &identity.namespace, &identity.name)
            .map_err(|error| {
                Failure::permanent(
                    crate::failure::Reason::PathTooDeep,
                    format!("spec.target.pathPrefix leaves no room for our own paths: {error}"),
                )
            })
    }

    /// Learns the last plans of other objects on the same target that have not planned in this process.
    async fn learn_others(&self, order: &Order, sides: &Sides) -> Result<(), Failure> {
        for other in (self.objects)() {
            let Some(uid) = other.uid() else { continue };
            let same = other.spec.target.registry == order.request.target.registry.as_str();
            if uid == order.request.identity.uid || !same || self.claimed.knows(&uid) {
                continue;
            }
            let Ok(request) = Request::try_new(&other) else { continue };
            // A place that cannot be made holds nothing.
            let Ok(place) = self.place(&request) else { continue };
            let plan = match load_plan(&sides.target, &place).await {
                // Another object's place may be closed to our credentials; that must not stop us.
                Err(failure) if !failure.transient => {
                    tracing::warn!(object = %uid, %failure, "what another object wants is not known");
                    continue;
                }
                plan => plan?,
            };
            let name = format!("{}/{}", request.identity.namespace, request.identity.name);
            // That there is none is remembered too: when it makes one, that happens here.
            self.claimed.put(&uid, name, created(&other), plan.map(Arc::new));
        }
        Ok(())
    }

    async fn try_prepare(&self, order: &Order, sides: &Sides) -> Result<Prepared, Ended> {
        let request = &order.request;
        let place = self.place(request).map_err(Ended::Target)?;
        let Remembered { memory, documents } = self.remembered(&request.identity.uid);
        let resolved = resolve(request, sides, &documents, &memory, &place, order.trust)
            .await
            .map_err(|error| Ended::Contradiction(Arc::new(error)))?;
        self.learn_others(order, sides).await.map_err(Ended::Target)?;
        let uid = &request.identity.uid;
        if let Some(message) = self.claimed.conflict(uid, order.created, &resolved.plan) {
            return Err(Ended::Conflict(message));
        }
        let name = format!("{}/{}", request.identity.namespace, request.identity.name);
        if !resolved.plan.failures.is_empty() && !self.claimed.knows_all(uid) {
            let last = memory.last_plan(&sides.target, &place).await.map_err(Ended::Target)?;
            self.claimed.put(uid, name.clone(), order.created, last);
        }
        self.claimed.put(uid, name, order.created, Some(Arc::clone(&resolved.plan)));
        Ok(Prepared {
            sides: sides.clone(),
            place,
            resolved,
            mode: request.mode,
            attachments: request.copy.attachments,
            trust: order.trust,
        })
    }
}

/// When an object was made.
pub(super) fn created(object: &ImageSetMirror) -> Option<Timestamp> {
    object.creation_timestamp().map(|time| time.0)
}

impl Work for Worker {
    type Order = Order;
    type Prepared = Prepared;
    type Outcome = Ended;
    type Progress = Going;

    async fn prepare(&self, order: &Order) -> Result<Prepared, Ended> {
        let sides = self.access.sides(&order.request).await.map_err(Ended::Waiting)?;
        let prepared = self.try_prepare(order, &sides).await;
        if prepared.is_err() {
            self.access.forget(&sides);
        }
        prepared
    }

    fn same(&self, one: &Prepared, other: &Prepared) -> bool {
        let deed = |prepared: &Prepared| (prepared.mode, prepared.attachments, prepared.trust);
        one.resolved.plan.digest() == other.resolved.plan.digest() && deed(one) == deed(other)
    }

    fn begun(&self, prepared: &Prepared) -> Going {
        let plan = planned(&prepared.resolved, 0, 0);
        let progress = Progress { total: plan.images, ..Progress::default() };
        Going { plan: Some(plan), progress }
    }

    async fn copy(&self, order: &Order, prepared: &Prepared, progress: &watch::Sender<Going>, stop: &Stop) -> Ended {
        let request = &order.request;
        let memory = self.remembered(&request.identity.uid).memory;
        let clock = self.clock.clone();
        let now = move || clock.now_in_seconds().to_string();
        let copy = Copy {
            request,
            sides: &prepared.sides,
            made: Arc::clone(&prepared.resolved.made),
            catalogs: Arc::clone(&prepared.resolved.catalogs),
            documents: Arc::clone(&prepared.resolved.documents),
            throttle: self.throttle.clone(),
            place: &prepared.place,
            memory: &memory,
            trust: prepared.trust,
            now: &now,
        };
        let plan = &prepared.resolved.plan;
        let done = match request.mode {
            Mode::Mirror => {
                let watch = Watch { fence: &self.fence, progress, metrics: &self.metrics };
                copy.run(plan, &watch, stop).await.map(|copied| Done {
                    resolved: Resolved { plan: copied.plan, ..prepared.resolved.clone() },
                    catalogs: copied.catalogs,
                    added: copied.added,
                    removed: copied.removed,
                    result: Deed::Copied(copied.report),
                    state_failure: copied.state_failure,
                })
            }
            Mode::Plan => copy.survey(plan, stop).await.map(|(survey, added, removed)| Done {
                resolved: prepared.resolved.clone(),
                catalogs: reports(&prepared.resolved.catalogs),
                added,
                removed,
                result: Deed::Surveyed(survey),
                state_failure: None,
            }),
        };
        if !done.as_ref().is_ok_and(Done::complete) {
            self.access.forget(&prepared.sides);
        }
        match done {
            Ok(done) => Ended::Done(Arc::new(done)),
            Err(failure) => Ended::Target(failure),
        }
    }

    fn panicked(&self) -> Ended {
        Ended::Panicked
    }

    fn span(&self, order: &Order) -> tracing::Span {
        let (identity, generation) = (&order.request.identity, order.request.generation);
        let (namespace, name, uid) = (&identity.namespace, &identity.name, &identity.uid);
        let sync_id = format!("{:08x}", fastrand::u32(..));
        tracing::info_span!("sync", namespace, name, uid, generation, sync_id)
    }

    fn going_on(&self, going: &Going) {
        let Progress { total, copied, present, failed, bytes_copied, .. } = going.progress;
        tracing::info!(total, copied, present, failed, bytes = bytes_copied, "copying");
    }

    fn ended(&self, order: &Order, outcome: Option<&Ended>, took: Duration) {
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let counted = match outcome {
            // Nothing was begun, and it is looked at again and again.
            Some(Ended::Waiting(problem)) => {
                tracing::debug!(problem = problem.message, duration_ms, "sync waits");
                return;
            }
            None => SyncOutcome::Cancelled,
            Some(Ended::Done(done)) if done.complete() => SyncOutcome::Succeeded,
            Some(_) => SyncOutcome::Failed,
        };
        let identity = &order.request.identity;
        self.metrics.synced(&identity.namespace, &identity.name, counted, took);
        let progress = match outcome {
            Some(Ended::Done(done)) => progress(done),
            _ => Progress::default(),
        };
        let Progress { total, copied, present, failed, bytes_copied, .. } = progress;
        let outcome = counted.as_str();
        tracing::info!(outcome, total, copied, present, failed, bytes = bytes_copied, duration_ms, "sync ended");
    }
}

/// What is known of a copy under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Going {
    pub(super) plan: Option<Planned>,
    pub(super) progress: Progress,
}

/// What the status says about a plan.
pub(super) fn planned(resolved: &Resolved, added: usize, removed: usize) -> Planned {
    let plan = &resolved.plan;
    Planned {
        digest: plan.digest().to_string(),
        images: plan.items.len() as u64,
        added: added as u64,
        removed: removed as u64,
        by_origin: plan.by_origin().into_iter().map(|(kind, count)| (kind.as_str().to_owned(), count as u64)).collect(),
        releases: Releases::of(&resolved.wanted, &resolved.plan).list.len() as u64,
        catalogs: Vec::new(),
    }
}

struct Watch<'a> {
    fence: &'a Fence,
    progress: &'a watch::Sender<Going>,
    metrics: &'a Metrics,
}

impl Observe for Watch<'_> {
    fn may_commit(&self) -> bool {
        self.fence.holds()
    }

    fn missing(&self, _item: &PlanItem) {
        self.metrics.drifted(Drift::Content);
        self.progress.send_modify(|going| going.progress.missing += 1);
    }

    fn blob_started(&self) {
        self.metrics.blob_started();
    }

    fn blob_ended(&self, took: Duration) {
        self.metrics.blob_ended(took);
    }

    fn blob_settled(&self, how: Transferred) {
        self.metrics.blob(match how {
            Transferred::Uploaded { .. } => BlobOutcome::Uploaded,
            Transferred::Mounted => BlobOutcome::Mounted,
            Transferred::Present => BlobOutcome::Present,
        });
    }

    fn uploaded(&self, bytes: u64) {
        self.metrics.bytes(Direction::Written, bytes);
        self.progress.send_modify(|going| going.progress.bytes_copied += bytes);
    }

    fn finished(&self, report: &ItemReport) {
        let outcome = match report.outcome {
            Outcome::Copied => ImageOutcome::Copied,
            Outcome::Present => ImageOutcome::Present,
            Outcome::Failed(_) => ImageOutcome::Failed,
            Outcome::Cancelled => return,
        };
        self.metrics.image(outcome, 1);
        self.metrics.bytes(Direction::Mounted, report.mounted_bytes);
        self.metrics.bytes(Direction::Skipped, report.present_bytes);
        self.progress.send_modify(|going| {
            let counts = &mut going.progress;
            match outcome {
                ImageOutcome::Copied => counts.copied += 1,
                ImageOutcome::Present => counts.present += 1,
                ImageOutcome::Failed => counts.failed += 1,
            }
            counts.bytes_mounted += report.mounted_bytes;
            counts.bytes_present += report.present_bytes;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::failure::Reason;
    use crate::plan::TargetId;
    use crate::resolve::{Origin, OriginKind};

    const PLACE: &str = "mirror.test/a:1";

    fn plan(digest: Option<&[u8]>, gaps: bool) -> Arc<Plan> {
        let item = |content| PlanItem {
            asked: Vec::new(),
            digest: Digest::of(content),
            destination: PLACE.parse().unwrap(),
            platforms: BTreeSet::new(),
            after: Vec::new(),
            unmet: None,
        };
        let origin = Origin { kind: OriginKind::Additional, name: "a".to_owned() };
        let failure = (origin, Failure::transient(Reason::NetworkUnreachable, ""));
        Arc::new(Plan {
            version: Plan::VERSION,
            target: TargetId("default".to_owned()),
            items: digest.map(item).into_iter().collect(),
            blocked: Vec::new(),
            failures: if gaps { vec![failure] } else { Vec::new() },
            notes: Vec::new(),
            partial: false,
        })
    }

    #[test]
    fn what_could_not_be_resolved_gives_no_place_away() {
        let (old, young) = (Some(Timestamp::UNIX_EPOCH), Some(Timestamp::MAX));
        let claimed = Claimed::default();
        let wants = plan(Some(b"theirs"), false);
        claimed.put("1", "ns/old".to_owned(), old, Some(plan(Some(b"ours"), false)));
        claimed.put("1", "ns/old".to_owned(), old, Some(plan(None, true)));
        claimed.put("1", "ns/old".to_owned(), old, Some(plan(None, true)));
        assert!(claimed.conflict("2", young, &wants).is_some());
        // Left out on purpose.
        claimed.put("1", "ns/old".to_owned(), old, Some(plan(None, false)));
        assert_eq!(claimed.conflict("2", young, &wants), None);
    }

    #[test]
    fn that_an_object_has_no_plan_is_known_until_it_makes_one() {
        let claimed = Claimed::default();
        claimed.put("1", "ns/old".to_owned(), None, None);
        assert!(claimed.knows("1") && !claimed.knows_all("1"));
        claimed.put("1", "ns/old".to_owned(), None, Some(plan(Some(b"ours"), false)));
        assert!(claimed.knows_all("1"));
    }
}
