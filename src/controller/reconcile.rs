//! One object, once: look at its sync, bring the cluster in line, write the status if it changed, start what is due.
//!
//! Short and idempotent: copying happens in [`super::jobs`], so that a deletion or a changed spec is seen within moments.
//! No registry is asked here. An object at which nothing has changed costs no write.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use kube::core::error_boundary::{DeserializeGuard, InvalidObject};
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt as _};
use tokio::time::Instant;

use super::apply::{self, Cluster, Served};
use super::events;
use super::jobs::{Jobs, Look, State};
use super::observe::observation;
use super::outputs::{CLEANUP_LIMIT, Content, Outputs, Owner};
use super::recorder::Publisher;
use super::schedule::{self, Decision, Job, Outlook};
use super::status::{self, Applied, Observation, Seen};
use super::worker::{Deed, Done, Ended, Going, Order, Worker, created};
use crate::api::{FINALIZER, ImageSetMirror, ImageSetMirrorStatus, ResourceState};
use crate::clock::Clock;
use crate::copy::{Report, Trust};
use crate::metrics::{Metrics, ObjectState, ReconcileResult};
use crate::request::{Endpoints, Fault, Mode, Request};
use crate::resources::Releases;

/// How often the status follows a running sync.
const WHILE_RUNNING: Duration = Duration::from_secs(10);
/// How soon something that the API server refused or failed, or that conflicts with objects of others, is tried again.
const AFTER_API_ERROR: Duration = Duration::from_secs(15);
/// How often the cluster objects of an object at rest are compared with what they should be.
const DRIFT_CHECK: Duration = Duration::from_mins(10);

/// How many deleted objects are remembered as such: more than a cache can be behind.
const BURIED: usize = 1024;

/// What this process remembers of an object between reconciles.
#[derive(Default)]
struct Known {
    /// The status as last written; the cache may be behind.
    status: Option<ImageSetMirrorStatus>,
    written: Option<Timestamp>,
    /// Key that is being looked at, since when, and when it last moved.
    key: String,
    since: Option<Timestamp>,
    moved: Option<Timestamp>,
    /// For which finished sync and generation the outputs were written, and what became of them.
    outputs: Option<(u64, i64, Applied)>,
    /// When the outputs were last compared with the cluster.
    compared: Option<Instant>,
    /// Something that is not written could be tried again.
    again: bool,
    /// The last sync that ended waiting, by key and number, and how many did so in a row.
    waited: Option<(String, u64, u32)>,
}

impl Known {
    /// How many syncs of this key in a row have ended waiting, of which `number` is the last.
    fn waited(&mut self, key: &str, number: u64) -> u32 {
        let rounds = match self.waited.take() {
            Some((known, last, rounds)) if known == key && last == number => rounds,
            // One that ended otherwise in between has a number too.
            Some((known, last, rounds)) if known == key && last + 1 == number => rounds.saturating_add(1),
            _ => 1,
        };
        self.waited = Some((key.to_owned(), number, rounds));
        rounds
    }
}

/// Everything that reconciling needs.
pub(super) struct Context {
    pub(super) cluster: Cluster,
    pub(super) outputs: Outputs,
    pub(super) jobs: Jobs<Worker>,
    pub(super) worker: Arc<Worker>,
    pub(super) events: Publisher,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    /// Least time between requested syncs.
    pub(super) sync_gap: Duration,
    /// Where releases are asked for if an object does not say.
    pub(super) endpoints: Endpoints,
    pub(super) known: Objects,
    /// Whom a finished sync wakes.
    pub(super) names: super::Names,
}

/// What is remembered of all objects, by UID.
#[derive(Default)]
pub(super) struct Objects {
    known: Mutex<BTreeMap<String, Known>>,
    gone: Mutex<VecDeque<String>>,
}

impl Objects {
    fn with<T>(&self, uid: &str, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(uid.to_owned()).or_default())
    }

    fn forget(&self, uid: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Notes that the object is gone. The cache may show it a little longer, and nothing may start for it then.
    fn bury(&self, uid: &str) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.push_back(uid.to_owned());
        if gone.len() > BURIED {
            gone.pop_front();
        }
    }

    fn is_gone(&self, uid: &str) -> bool {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|known| known == uid)
    }

    /// Makes the next reconcile compare the object's outputs with the cluster.
    pub(super) fn compare(&self, uid: &str) {
        self.with(uid, |known| known.compared = None);
    }
}

/// Reconciles one object.
pub(super) async fn reconcile(
    guarded: Arc<DeserializeGuard<ImageSetMirror>>,
    ctx: Arc<Context>,
) -> Result<Action, apply::Error> {
    let started = Instant::now();
    let result = contained(Box::pin(ctx.pass(&guarded))).await;
    let uid = guarded.uid().unwrap_or_default();
    let outcome = match &result {
        Ok(_) if ctx.jobs.look(&uid).active.is_some() => ReconcileResult::Requeue,
        Ok(_) => ReconcileResult::Success,
        Err(_) => ReconcileResult::Error,
    };
    ctx.metrics.reconciled(outcome, started.elapsed());
    result
}

/// Makes an error of a panic, which inside kube's controller would end the watch of the whole namespace.
async fn contained<T>(pass: impl Future<Output = Result<T, apply::Error>>) -> Result<T, apply::Error> {
    AssertUnwindSafe(pass).catch_unwind().await.unwrap_or(Err(apply::Error::Panicked))
}

/// What happens after a reconcile that failed: the API server is in trouble, and is asked again soon.
#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
pub(super) fn on_error(
    guarded: Arc<DeserializeGuard<ImageSetMirror>>,
    error: &apply::Error,
    _ctx: Arc<Context>,
) -> Action {
    tracing::warn!(
        namespace = guarded.namespace().unwrap_or_default(),
        name = guarded.name_any(),
        error = error as &dyn std::error::Error,
        "reconcile failed; trying again"
    );
    Action::requeue(AFTER_API_ERROR.mul_f64(1.0 + 0.2 * fastrand::f64()))
}

/// One pass over one object.
struct Pass<'a> {
    ctx: &'a Context,
    object: &'a ImageSetMirror,
    uid: String,
    previous: Option<ImageSetMirrorStatus>,
    seen: Seen,
}

impl Context {
    async fn pass(&self, guarded: &DeserializeGuard<ImageSetMirror>) -> Result<Action, apply::Error> {
        match &guarded.0 {
            Ok(object) if object.meta().deletion_timestamp.is_some() => self.deleted(object, true).await,
            Ok(object) => self.object(object).await,
            Err(invalid) if invalid.metadata.deletion_timestamp.is_some() => {
                let mut object = ImageSetMirror { metadata: invalid.metadata.clone(), ..ImageSetMirror::default() };
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                let wanted = self.cluster.read_cluster_resources(&namespace, &name).await?;
                let readable = wanted.is_some();
                object.spec.cluster_resources = wanted.unwrap_or_default();
                self.deleted(&object, readable).await
            }
            Err(invalid) => self.malformed(invalid).await,
        }
    }

    async fn object(&self, object: &ImageSetMirror) -> Result<Action, apply::Error> {
        let uid = object.uid().unwrap_or_default();
        if self.known.is_gone(&uid) {
            return Ok(Action::await_change());
        }
        // A sync may end before the watch of deletions has seen the object.
        super::note(&self.names, object);
        let remembered = self.known.with(&uid, |known| known.status.clone());
        let previous = remembered.or_else(|| object.status.clone()).filter(|status| {
            // The default of a new object says nothing yet.
            status.observed_generation.is_some_and(|observed| observed >= 0)
        });
        let mut request = Request::try_new(object);
        let token = crate::request::request_token(object);
        if let Ok(request) = &mut request {
            request.source.complete(&self.endpoints);
            request.request_token = schedule::effective_token(previous.as_ref(), token.as_deref()).map(str::to_owned);
        }
        let key = request.as_ref().map(Request::key).unwrap_or_default();
        let seen = self.seen(object, &uid, request.as_ref().ok(), token, key);
        let pass = Pass { ctx: self, object, uid, previous, seen };
        match request {
            Ok(request) => pass.valid(Arc::new(request)).await,
            Err(invalid) => {
                self.jobs.cancel(&pass.uid).await;
                let next = pass.next(&Observation::Invalid(invalid.faults), None);
                pass.write(next).await?;
                Ok(Action::await_change())
            }
        }
    }

    fn seen(
        &self,
        object: &ImageSetMirror,
        uid: &str,
        request: Option<&Request>,
        request_token: Option<String>,
        key: String,
    ) -> Seen {
        let now = self.clock.now_in_seconds();
        let moved = match self.jobs.look(uid).state {
            State::Copying { moved, .. } => Some(moved),
            _ => None,
        };
        let (watched_since, last_progress) = self.known.with(uid, |known| {
            if known.key != key || known.since.is_none() {
                known.key.clone_from(&key);
                known.since = Some(now);
                known.moved = None;
            }
            known.moved = moved.or(known.moved);
            (known.since.unwrap_or(now), known.moved)
        });
        Seen {
            generation: object.meta().generation.unwrap_or_default(),
            uid: uid.to_owned(),
            suspend: request.map_or(object.spec.suspend, |request| request.suspend),
            mode: request.map_or(object.spec.mode, |request| request.mode),
            release_signatures: object.spec.verification.release_signatures,
            interval: request.and_then(|request| request.interval),
            progress_deadline: request.map_or(crate::request::PROGRESS_DEADLINE, |request| request.progress_deadline),
            request_token,
            key,
            sync_gap: self.sync_gap,
            watched_since,
            last_progress,
        }
    }

    /// An object whose JSON does not fit our types: everything that can be said is said in its status.
    async fn malformed(&self, invalid: &InvalidObject) -> Result<Action, apply::Error> {
        let uid = invalid.metadata.uid.clone().unwrap_or_default();
        self.jobs.cancel(&uid).await;
        let mut object = ImageSetMirror { metadata: invalid.metadata.clone(), ..ImageSetMirror::default() };
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        object.status = self.cluster.read_status(&namespace, &name).await?;
        let previous = self.known.with(&uid, |known| known.status.clone()).or_else(|| object.status.clone());
        let seen = self.seen(&object, &uid, None, None, String::new());
        let fault = Fault { field: "spec".to_owned(), message: invalid.error.clone() };
        let pass = Pass { ctx: self, object: &object, uid, previous, seen };
        let next = pass.next(&Observation::Invalid(vec![fault]), None);
        pass.write(next).await?;
        Ok(Action::await_change())
    }

    /// An object that is on its way out and waits for our finalizer.
    async fn deleted(&self, object: &ImageSetMirror, readable: bool) -> Result<Action, apply::Error> {
        let uid = object.uid().unwrap_or_default();
        self.jobs.cancel(&uid).await;
        if !object.finalizers().iter().any(|known| known == FINALIZER) {
            return Ok(Action::await_change());
        }
        let now = self.clock.now_in_seconds();
        let since = object.meta().deletion_timestamp.as_ref().map_or(now, |time| time.0);
        let removed = self.outputs.remove_all(&self.cluster, &self.events, object, readable).await;
        if let Err(error) = removed {
            let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            if waited < CLEANUP_LIMIT {
                let remembered = self.known.with(&uid, |known| known.status.clone());
                let previous = remembered.or_else(|| object.status.clone());
                let seen = self.seen(object, &uid, None, None, String::new());
                let message = format!("removing cluster objects: {error}");
                let pass = Pass { ctx: self, object, uid, previous, seen };
                let next = pass.next(&Observation::Deleting { message }, None);
                pass.write(next).await?;
                return Ok(Action::requeue(AFTER_API_ERROR));
            }
            self.events.cleanup_abandoned(object, &error.to_string()).await;
        }
        self.cluster.finalizer(object, false).await?;
        Ok(Action::await_change())
    }

    /// Removes what is to go with objects whose namespace goes, and us with it: the pods of a namespace are gone before its
    /// objects are deleted, and nobody would be there to let them go.
    pub(super) async fn leave(&self, objects: &[Arc<ImageSetMirror>]) {
        let mut ending: BTreeMap<String, bool> = BTreeMap::new();
        for object in objects.iter().filter(|object| object.finalizers().iter().any(|known| known == FINALIZER)) {
            let namespace = object.namespace().unwrap_or_default();
            let goes = match ending.get(&namespace) {
                Some(goes) => *goes,
                None => self.cluster.is_ending(&namespace).await,
            };
            ending.insert(namespace, goes);
            if !goes {
                continue;
            }
            if let Err(error) = self.outputs.remove_all(&self.cluster, &self.events, object, true).await {
                self.events.cleanup_abandoned(object, &error.to_string()).await;
            }
            if let Err(error) = self.cluster.let_go(object).await {
                tracing::warn!(object = object.name_any(), namespace = object.namespace(), %error, "not let go");
            }
        }
    }

    /// Forgets an object that is gone; its sync is stopped.
    pub(super) async fn gone(&self, uid: &str, namespace: &str, name: &str) {
        self.known.bury(uid);
        self.jobs.forget(uid).await;
        self.worker.forget(uid);
        self.events.forget(uid);
        self.known.forget(uid);
        self.metrics.objects.remove(namespace, name);
    }

    /// Says in the status of the objects whose syncs were stopped by the end of this process that they will go on.
    pub(super) async fn interrupted(&self, objects: Vec<Arc<ImageSetMirror>>) {
        for object in objects {
            let uid = object.uid().unwrap_or_default();
            if !matches!(self.jobs.look(&uid).state, State::Interrupted) {
                continue;
            }
            let Ok(request) = Request::try_new(&object) else { continue };
            let previous = self.known.with(&uid, |known| known.status.clone()).or_else(|| object.status.clone());
            let token = crate::request::request_token(&object);
            let key = previous.as_ref().map(|_| self.known.with(&uid, |known| known.key.clone())).unwrap_or_default();
            let seen = self.seen(&object, &uid, Some(&request), token, key);
            let pass = Pass { ctx: self, object: &object, uid, previous, seen };
            let next = pass.next(&Observation::Interrupted, None);
            if let Err(error) = pass.write(next).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the last status could not be written");
            }
        }
    }
}

impl Pass<'_> {
    fn next(&self, observation: &Observation, applied: Option<&Applied>) -> ImageSetMirrorStatus {
        status::next(self.previous.as_ref(), &self.seen, observation, applied, self.ctx.clock.now_in_seconds())
    }

    fn observation(&self, state: &State<Ended, Going>) -> Observation {
        observation(state, &self.seen.key)
    }

    async fn valid(mut self, request: Arc<Request>) -> Result<Action, apply::Error> {
        let ctx = self.ctx;
        if request.suspend {
            ctx.jobs.cancel(&self.uid).await;
        }
        // The sync may end at any time. All below is about what is seen of it here; its end makes for another reconcile.
        let mut look = ctx.jobs.look(&self.uid);
        let applied = self.bring_in_line(&request, &look.state).await;
        let mut next = self.next(&self.observation(&look.state), applied.as_ref());
        let outlook = self.outlook(&request, &next, &look.state).await;
        let decision = self.decide(&next, &look, outlook);
        if let Decision::Start { why } = decision {
            let (namespace, name) = (&request.identity.namespace, &request.identity.name);
            if matches!(look.state, State::Finished { outcome: Ended::Waiting(_), .. }) {
                tracing::debug!(namespace, name, ?why, "sync starts");
            } else {
                tracing::info!(namespace, name, ?why, "sync starts");
            }
            let order =
                Order { request: Arc::clone(&request), created: created(self.object), trust: self.trust(&next) };
            ctx.jobs.start(&self.uid, self.seen.key.clone(), order);
            // It may have gone meanwhile: whoever comes second, the watch or this, stops the job.
            if ctx.known.is_gone(&self.uid) {
                ctx.jobs.forget(&self.uid).await;
                return Ok(Action::await_change());
            }
            let before = self.previous.replace(next);
            look = ctx.jobs.look(&self.uid);
            next = self.next(&self.observation(&look.state), None);
            self.previous = before;
        }
        let now = ctx.clock.now();
        let wait = self.decide(&next, &look, outlook).requeue(now);
        self.write(next).await?;
        let again = ctx.known.with(&self.uid, |known| known.again);
        let waits = [
            look.active.is_some().then_some(WHILE_RUNNING),
            again.then_some(AFTER_API_ERROR),
            wait,
            Some(DRIFT_CHECK.mul_f64(1.0 + 0.1 * fastrand::f64())),
        ];
        Ok(Action::requeue(waits.into_iter().flatten().min().unwrap_or(DRIFT_CHECK)))
    }

    /// What the sync that starts now may rely on: nothing if that is what a request wants that was not heard before.
    fn trust(&self, status: &ImageSetMirrorStatus) -> Trust {
        let new = self.seen.request_token.is_some() && self.seen.request_token != status.last_handled_request;
        if new && crate::request::is_forced(self.object) { Trust::Nothing } else { Trust::Remembered }
    }

    fn decide(&self, status: &ImageSetMirrorStatus, look: &Look<Ended, Going>, outputs: Outlook) -> Decision {
        let job = match (look.active.as_deref(), &look.state) {
            (Some(key), _) => Job::Active { key },
            (None, State::Finished { key, ended, number, outcome: Ended::Waiting(_), .. }) => {
                let rounds = self.ctx.known.with(&self.uid, |known| known.waited(key, *number));
                Job::Waiting { key, since: *ended, rounds }
            }
            _ => Job::None,
        };
        let now = self.ctx.clock.now_in_seconds();
        let decision = schedule::decide(Some(status), &self.seen, job, outputs, now);
        let changed =
            self.previous.as_ref().is_some_and(|status| status.observed_generation != Some(self.seen.generation));
        let blind = self.done(&look.state).is_none() && look.active.is_none() && !self.seen.suspend;
        match decision {
            Decision::Start { .. } => decision,
            // A changed `clusterResources` can be computed from nothing else.
            _ if changed && blind && self.seen.mode == Mode::Mirror => Decision::Start { why: schedule::Why::Changed },
            other => other,
        }
    }

    /// The last sync of this process, if it went through and is about what the object asks for now.
    fn done<'a>(&self, state: &'a State<Ended, Going>) -> Option<(u64, &'a Done)> {
        match state {
            State::Finished { key, number, outcome: Ended::Done(done), .. } if *key == self.seen.key => {
                Some((*number, done))
            }
            _ => None,
        }
    }

    /// Whether the cluster objects are what they should be, or can only be known after a sync in this process.
    async fn outlook(&self, request: &Request, status: &ImageSetMirrorStatus, state: &State<Ended, Going>) -> Outlook {
        if request.mode != Mode::Mirror || self.done(state).is_some() {
            return Outlook::Settled;
        }
        let unserved = status.resources.iter().any(|found| found.state == ResourceState::KindNotServed);
        let served = if unserved { self.ctx.cluster.served().await.unwrap_or_default() } else { Served::default() };
        let allowed = self.ctx.outputs.may(&request.identity.namespace);
        let open = status::outputs_are_open(status, |resource| match resource.state {
            ResourceState::KindNotServed => served.has(&resource.kind),
            ResourceState::NamespaceNotAllowed => allowed,
            _ => false,
        });
        if open { Outlook::Open } else { Outlook::Settled }
    }

    /// Writes what a finished sync allows, or repairs what was written before; says nothing if there was nothing to look at.
    async fn bring_in_line(&self, request: &Arc<Request>, state: &State<Ended, Going>) -> Option<Applied> {
        let ctx = self.ctx;
        if request.suspend {
            return None;
        }
        let owner = Owner { object: self.object, request };
        let (kept, due) = ctx.known.with(&self.uid, |known| {
            let due = known.again || known.compared.is_none_or(|at| at.elapsed() >= DRIFT_CHECK);
            (known.outputs.clone(), due)
        });
        let Some((number, done)) = self.done(state) else {
            if due && request.mode == Mode::Mirror {
                let repaired = ctx.outputs.repair(&ctx.cluster, &ctx.events, owner).await;
                let again = told(request, repaired).is_none();
                self.compared(again);
            }
            return None;
        };
        let kept = kept.filter(|(n, g, _)| (*n, *g) == (number, self.seen.generation)).map(|(_, _, applied)| applied);
        let plan = &done.resolved.plan;
        match &done.result {
            Deed::Copied(report) => {
                if kept.is_some() && !due {
                    return kept;
                }
                let written = self.write_outputs(owner, done, report, kept).await;
                let outputs = &ctx.outputs;
                let reported =
                    outputs.publish_report(&ctx.cluster, &ctx.events, owner, plan, report, &done.catalogs).await;
                // A report is for people; nothing is wrong with the object without it.
                let again = told(request, reported).is_none();
                let trouble = |applied: &Applied| applied.outputs.iter().any(|output| may_change(output.state));
                self.compared(again || written.as_ref().is_none_or(trouble));
                self.keep(number, written.as_ref());
                written
            }
            Deed::Surveyed(survey) => {
                if kept.is_none() {
                    let content = Content {
                        plan,
                        verified: (0..plan.items.len()).collect(),
                        releases: Releases::of(&done.resolved.wanted, plan),
                        catalogs: &done.catalogs,
                    };
                    let outputs = &ctx.outputs;
                    let published = outputs.publish_plan(&ctx.cluster, &ctx.events, owner, &content, survey).await;
                    let published = told(request, published);
                    self.compared(published.is_none());
                    self.keep(number, published.map(|()| Applied::default()).as_ref());
                }
                None
            }
        }
    }

    /// Writes what the report allows; `kept` is what became of that when it was last done.
    async fn write_outputs(
        &self,
        owner: Owner<'_>,
        done: &Done,
        report: &Report,
        kept: Option<Applied>,
    ) -> Option<Applied> {
        let (ctx, resolved) = (self.ctx, &done.resolved);
        let complete = report.items.iter().enumerate().filter(|(_, item)| item.complete());
        let content = Content {
            plan: &resolved.plan,
            verified: complete.map(|(index, _)| index).collect(),
            releases: Releases::of(&resolved.wanted, &resolved.plan),
            catalogs: &done.catalogs,
        };
        match ctx.outputs.write(&ctx.cluster, &ctx.events, owner, &content).await {
            Ok(applied) => Some(applied),
            Err(error) => {
                let fenced = matches!(error, apply::Error::Fenced { .. });
                let message = error.to_string();
                told::<()>(owner.request, Err(error));
                let before = self.previous.as_ref().map(|status| status.resources.as_slice()).unwrap_or_default();
                kept.or_else(|| (!fenced).then(|| Outputs::failed(owner, before, message)))
            }
        }
    }

    /// Notes that the outputs were looked at now; `again` if they are to be looked at soon.
    fn compared(&self, again: bool) {
        self.ctx.known.with(&self.uid, |known| {
            known.compared = Some(Instant::now());
            known.again = again;
        });
    }

    /// Remembers what became of the outputs of a finished sync.
    fn keep(&self, number: u64, applied: Option<&Applied>) {
        let kept = applied.map(|applied| (number, self.seen.generation, applied.clone()));
        self.ctx.known.with(&self.uid, |known| known.outputs = kept);
    }

    /// Writes the status if it changed, and tells of transitions.
    async fn write(&self, next: ImageSetMirrorStatus) -> Result<(), apply::Error> {
        let ctx = self.ctx;
        let (namespace, name) = (self.object.namespace().unwrap_or_default(), self.object.name_any());
        ctx.metrics.objects.set(&namespace, &name, ObjectState::from(&next));
        let now = ctx.clock.now_in_seconds();
        let written = ctx.known.with(&self.uid, |known| known.written);
        // The first write of this process compares with what the API server has.
        let stored = self.previous.as_ref().or(self.object.status.as_ref());
        if !status::should_write(stored, &next, written, now) {
            ctx.known.with(&self.uid, |known| {
                if known.status.is_none() {
                    known.status.clone_from(&self.previous);
                }
            });
            return Ok(());
        }
        match ctx.cluster.status(&namespace, &name, &next).await {
            // Deleted in between.
            Err(error) if error.code() == 404 => return Ok(()),
            result => result?,
        }
        for note in events::transitions(self.previous.as_ref(), &next) {
            ctx.events.publish(self.object, note).await;
        }
        ctx.known.with(&self.uid, |known| {
            known.status = Some(next);
            known.written = Some(now);
        });
        Ok(())
    }
}

/// What came of something about the cluster objects; an error goes to the log.
fn told<T>(request: &Request, result: Result<T, apply::Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(
                namespace = request.identity.namespace,
                name = request.identity.name,
                error = &error as &dyn std::error::Error,
                "cluster objects could not be looked at"
            );
            None
        }
    }
}

/// True for what is solved outside our object, where nothing tells us: it is looked at again soon.
fn may_change(state: ResourceState) -> bool {
    matches!(state, ResourceState::Failed | ResourceState::Conflict | ResourceState::MirrorPolicyConflict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_one_reconcile() {
        assert!(matches!(contained(async { Ok(1) }).await, Ok(1)));
        let broken = contained(async { if true { panic!("as the test wants it") } else { Ok(1) } }).await;
        assert!(matches!(broken, Err(apply::Error::Panicked)));
    }

    #[test]
    fn syncs_that_end_waiting_are_counted_in_a_row() {
        let mut known = Known::default();
        assert_eq!(known.waited("a", 3), 1);
        assert_eq!(known.waited("a", 3), 1, "the same one shown again");
        assert_eq!(known.waited("a", 4), 2);
        assert_eq!(known.waited("a", 6), 1, "one in between did not wait");
        assert_eq!(known.waited("b", 7), 1);
    }
}
