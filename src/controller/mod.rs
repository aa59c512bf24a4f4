//! The operator: watches `ImageSetMirror` objects, runs their syncs and tells how they are.
//!
//! Only the replica that holds the lease reconciles; a lost lease ends the process. Stopping: nothing new is begun, running
//! transfers end or are cut off when the grace period is nearly over, a last status is written, the lease is given up.

mod access;
mod apply;
pub mod events;
mod extra_outputs;
mod jobs;
mod observe;
mod outputs;
mod reconcile;
mod recorder;
pub mod schedule;
pub mod status;
#[cfg(test)]
mod testing;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::core::error_boundary::DeserializeGuard;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::openshift::{ImageDigestMirrorSet, ImageTagMirrorSet};
use crate::api::{GROUP, ImageSetMirror, MANAGED_BY, MANAGED_BY_LABEL, OWNER_REF_ANNOTATION, PLURAL, VERSION};
use crate::clock::Clock;
use crate::lease::{Fence, Leadership};
use crate::metrics::{Metrics, RegistryObserver};
use crate::registry::{Limits, Throttle, Windows};
use crate::request::Endpoints;
use crate::sync::Helm;

use access::Access;
use apply::Cluster;
use jobs::Jobs;
use outputs::Outputs;
use reconcile::{Context, Objects};
use recorder::Publisher;
use worker::{Claimed, Worker};

/// Reconciles at the same time; each is short.
const RECONCILES_AT_ONCE: u16 = 8;
/// Wake-ups that may wait; more would say the same.
const WAKES: usize = 1024;
/// How often it is looked whether our kind is still served.
const CRD_PERIOD: Duration = Duration::from_mins(1);
/// Between the end of transfers and the end of the process: last status, release of the lease.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// How the controller runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespaces whose objects are watched.
    pub watch_namespaces: BTreeSet<String>,
    /// Namespaces whose objects may write cluster-wide objects.
    pub cluster_output_namespaces: BTreeSet<String>,
    /// The name of this process, for events.
    pub instance: String,
    /// Syncs at the same time.
    pub max_syncs: NonZeroUsize,
    /// Bulk transfers to or from one host at the same time, all objects together.
    pub concurrency: Option<NonZeroUsize>,
    /// Bytes per second, all objects together.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// How often it is looked whether the cluster has kinds that it did not have.
    pub kinds_period: Duration,
    /// Least time between the starts of two syncs that are asked for by annotation, and between an interval's.
    pub sync_gap: Duration,
    /// Time from the signal to stop to the end of the process.
    pub grace_period: Duration,
    /// Where releases are asked for if an object does not say.
    pub endpoints: Endpoints,
    /// What renders charts.
    pub helm: Helm,
}

/// Why the controller cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server could not be asked for what is needed once.
    #[error("starting the controller")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A part of it has ended, which only a defect makes it do.
    #[error("a part of the controller has ended: {what}")]
    Ended {
        /// Which, or how.
        what: String,
    },
}

/// What an attempt to list our kind in a namespace came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// A list.
    Done,
    /// We may not: the namespace is gone, or the role is not bound there.
    Refused,
    /// The kind is not served.
    Unserved,
    /// No answer, or one that says nothing about the kind.
    NoAnswer,
}

/// What is known about our kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Nothing speaks against its being served.
    pub served: bool,
    /// Every watched namespace was asked and has answered, at least one of them with a list. One that is deleted, or whose
    /// permissions are taken away, concerns only its own objects.
    pub listed: bool,
}

impl Readiness {
    fn of(listings: &[Listing]) -> Self {
        Self {
            served: !listings.contains(&Listing::Unserved),
            listed: listings.contains(&Listing::Done)
                && listings.iter().all(|listing| matches!(listing, Listing::Done | Listing::Refused)),
        }
    }
}

/// Tells `ready` again and again what is known about our kind.
pub async fn wait_for_crd(
    client: &Client,
    namespaces: &BTreeSet<String>,
    ready: impl Fn(Readiness),
    stop: &CancellationToken,
) {
    let mut before: BTreeMap<&str, Listing> = BTreeMap::new();
    loop {
        let mut listings = Vec::new();
        for namespace in namespaces {
            let result = listed(client, namespace).await;
            let listing = match &result {
                Ok(()) => Listing::Done,
                Err(problem) => match problem.code() {
                    403 => Listing::Refused,
                    404 => Listing::Unserved,
                    _ => Listing::NoAnswer,
                },
            };
            let changed = before.insert(namespace, listing) != Some(listing);
            if let Err(problem) = &result
                && changed
            {
                tracing::warn!(
                    namespace,
                    problem = %problem,
                    "{PLURAL}.{GROUP}/{VERSION} cannot be listed; is the CRD installed, and is the role bound here?"
                );
            }
            listings.push(listing);
        }
        let readiness = Readiness::of(&listings);
        ready(readiness);
        let pause = if readiness.served && readiness.listed { CRD_PERIOD } else { Duration::from_secs(2) };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn listed(client: &Client, namespace: &str) -> Result<(), apply::Error> {
    let api: Api<DeserializeGuard<ImageSetMirror>> = Api::namespaced(client.clone(), namespace);
    let doing = || format!("listing {PLURAL} in `{namespace}`");
    apply::timed(doing, api.list(&ListParams::default().limit(1))).await.map(|_one| ())
}

/// Runs until `stop` is cancelled or leadership ends. Call it when leading.
///
/// # Errors
/// The API server does not answer what is asked once at the start, or a part of the controller ends before it is stopped.
pub async fn run(
    client: Client,
    settings: Settings,
    fence: Fence,
    mut leadership: watch::Receiver<Leadership>,
    metrics: Metrics,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), Error> {
    let cluster_id = apply::cluster_id(&client).await.map_err(|error| Error::Start(Box::new(error)))?;
    let (wakes, woken) = mpsc::channel::<(String, String)>(WAKES);
    let stores: Arc<Mutex<Vec<Store<DeserializeGuard<ImageSetMirror>>>>> = Arc::default();
    let objects = {
        let stores = Arc::clone(&stores);
        move || -> Vec<Arc<ImageSetMirror>> {
            let stores = stores.lock().unwrap_or_else(PoisonError::into_inner);
            let all = stores.iter().flat_map(Store::state);
            all.filter_map(|guard| guard.0.as_ref().ok().cloned().map(Arc::new)).collect()
        }
    };
    let windows = settings.concurrency.map_or_else(Windows::default, |most| Windows::at_most(most.get()));
    let limits = Arc::new(Limits::observed(windows, Arc::new(RegistryObserver::new(metrics.clone()))));
    metrics.registry.watch(&limits);
    let worker = Arc::new(Worker {
        access: Access::new(client.clone(), limits).rendering(settings.helm.clone()),
        cluster: cluster_id,
        throttle: settings.max_bytes_per_second.map(|rate| Arc::new(Throttle::new(rate.get()))),
        clock: clock.clone(),
        metrics: metrics.clone(),
        fence: fence.clone(),
        claimed: Arc::new(Claimed::default()),
        objects: Arc::new(objects.clone()),
        memories: Mutex::default(),
    });
    let names = Names::default();
    let wake = {
        let (wakes, names) = (wakes.clone(), Arc::clone(&names));
        Arc::new(move |uid: &str| {
            let name = names.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned();
            // A full channel means that a reconcile is due anyway within seconds.
            if let Some(name) = name
                && wakes.try_send(name).is_err()
            {
                tracing::debug!(uid, "wake-up dropped");
            }
        })
    };
    let ctx = Arc::new(Context {
        cluster: Cluster::new(client.clone(), fence, settings.kinds_period),
        outputs: Outputs::new(settings.cluster_output_namespaces.clone(), metrics.clone()),
        jobs: Jobs::new(Arc::clone(&worker), settings.max_syncs.get(), clock.clone(), wake),
        worker,
        events: Publisher::new(client.clone(), &settings.instance),
        metrics: metrics.clone(),
        clock,
        sync_gap: settings.sync_gap,
        endpoints: settings.endpoints.clone(),
        known: Objects::default(),
        names: Arc::clone(&names),
    });

    let watching = CancellationToken::new();
    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let follow = Follow {
        client: client.clone(),
        ctx: Arc::clone(&ctx),
        names,
        wakes,
        watching: watching.clone(),
        kinds_period: settings.kinds_period,
    };
    let mut inboxes: BTreeMap<String, mpsc::Sender<ObjectRef<DeserializeGuard<ImageSetMirror>>>> = BTreeMap::new();
    for namespace in &settings.watch_namespaces {
        let (inbox, mail) = mpsc::channel(WAKES);
        inboxes.insert(namespace.clone(), inbox);
        let controller = watch_namespace(&client, namespace, mail, watching.clone());
        stores.lock().unwrap_or_else(PoisonError::into_inner).push(controller.store());
        tasks.spawn(named("reconciling", drive(controller, Arc::clone(&ctx))));
        tasks.spawn(named("the watch of deletions", follow.clone().objects(namespace.clone())));
    }
    tasks.spawn(named("the watch of mirror sets", follow.mirror_sets(objects.clone())));
    tasks.spawn(named("the delivery of wake-ups", deliver(woken, inboxes, watching.clone())));

    let lost = leadership.wait_for(|state| matches!(state, Leadership::Lost | Leadership::Released));
    let mut result = Ok(());
    tokio::select! {
        _ = lost => {
            tracing::warn!("leadership is lost; everything is stopped");
            watching.cancel();
            ctx.jobs.abort().await;
        }
        Some(ended) = tasks.join_next() => {
            // Without it some objects would never be looked at again; a new process looks at all of them.
            watching.cancel();
            ctx.jobs.abort().await;
            result = Err(Error::Ended { what: ended.map_or_else(|error| error.to_string(), str::to_owned) });
        }
        () = stop.cancelled() => {
            tracing::info!("stopping: running transfers may end");
            watching.cancel();
            ctx.jobs.shut_down(settings.grace_period.saturating_sub(LAST_WORDS)).await;
            ctx.interrupted(objects()).await;
            ctx.leave(&objects()).await;
        }
    }
    while tasks.join_next().await.is_some() {}
    result
}

/// A task that tells its name when it ends.
async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// Namespaces and names of objects by UID.
type Names = Arc<Mutex<BTreeMap<String, (String, String)>>>;

type Guarded = DeserializeGuard<ImageSetMirror>;

fn watch_namespace(
    client: &Client,
    namespace: &str,
    mail: mpsc::Receiver<ObjectRef<Guarded>>,
    watching: CancellationToken,
) -> Controller<Guarded> {
    let api: Api<Guarded> = Api::namespaced(client.clone(), namespace);
    let mail = futures::stream::unfold(mail, |mut mail| async move { mail.recv().await.map(|item| (item, mail)) });
    Controller::new(api, watcher::Config::default())
        .with_config(controller::Config::default().concurrency(RECONCILES_AT_ONCE))
        .reconcile_on(mail)
        .graceful_shutdown_on(async move { watching.cancelled().await })
}

async fn drive(controller: Controller<Guarded>, ctx: Arc<Context>) {
    let metrics = ctx.metrics.clone();
    controller
        .run(reconcile::reconcile, reconcile::on_error, ctx)
        .for_each(|result| {
            match result {
                // The error was told by `on_error`; an object that is gone is told by the watch of deletions.
                Ok(_) | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
                Err(error) => {
                    metrics.watch_restarted("ImageSetMirror");
                    tracing::warn!(error = &error as &dyn std::error::Error, "watch of objects is restarted");
                }
            }
            std::future::ready(())
        })
        .await;
}

/// Hands wake-ups to the controller of their namespace.
async fn deliver(
    mut woken: mpsc::Receiver<(String, String)>,
    inboxes: BTreeMap<String, mpsc::Sender<ObjectRef<Guarded>>>,
    watching: CancellationToken,
) {
    while let Some(Some((namespace, name))) = watching.run_until_cancelled(woken.recv()).await {
        let Some(inbox) = inboxes.get(&namespace) else { continue };
        let object = ObjectRef::new(&name).within(&namespace);
        if watching.run_until_cancelled(inbox.send(object)).await.is_none_or(|sent| sent.is_err()) {
            return;
        }
    }
}

/// Notes the name of an object.
fn note(names: &Names, object: &impl kube::ResourceExt) {
    let (Some(uid), Some(namespace)) = (object.uid(), object.namespace()) else { return };
    names.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (namespace, object.name_any()));
}

/// Watches what the controllers do not: deletions, and the mirror sets that we wrote.
#[derive(Clone)]
struct Follow {
    client: Client,
    ctx: Arc<Context>,
    names: Names,
    wakes: mpsc::Sender<(String, String)>,
    watching: CancellationToken,
    kinds_period: Duration,
}

impl Follow {
    /// Keeps the names of objects by UID, and stops the syncs of those that are gone.
    async fn objects(self, namespace: String) {
        let api: Api<PartialObjectMeta<ImageSetMirror>> = Api::namespaced(self.client.clone(), &namespace);
        let events = watcher(api, watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events.take_until(self.watching.cancelled()));
        // Only what this watch has seen can be missing in its next list.
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let mut listed: BTreeSet<String> = BTreeSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.extend(object.uid());
                    seen.extend(object.uid().map(|uid| (uid, object.name_any())));
                    note(&self.names, &object);
                }
                Ok(watcher::Event::Apply(object)) => {
                    seen.extend(object.uid().map(|uid| (uid, object.name_any())));
                    note(&self.names, &object);
                }
                Ok(watcher::Event::InitDone) => {
                    let gone: Vec<_> = seen.extract_if(.., |uid, _| !listed.contains(uid)).collect();
                    for (uid, name) in gone {
                        self.gone(&uid, &namespace, &name).await;
                    }
                }
                Ok(watcher::Event::Delete(object)) => {
                    let uid = object.uid().unwrap_or_default();
                    seen.remove(&uid);
                    self.gone(&uid, &namespace, &object.name_any()).await;
                }
                Err(error) => {
                    self.ctx.metrics.watch_restarted("ImageSetMirror");
                    tracing::debug!(error = &error as &dyn std::error::Error, "watch of deletions is restarted");
                }
            }
        }
    }

    async fn gone(&self, uid: &str, namespace: &str, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.ctx.gone(uid, namespace, name).await;
    }

    /// Watches the mirror sets that carry our label, as soon as the cluster has the kinds.
    async fn mirror_sets(self, objects: impl Fn() -> Vec<Arc<ImageSetMirror>> + Send + Sync + 'static) {
        let mut watches = JoinSet::new();
        let mut watched = apply::Served::default();
        let mut before = apply::Served::default();
        loop {
            match self.ctx.cluster.ask_served().await {
                Ok(served) => {
                    // A watch of a kind that goes waits for it to come back.
                    if served.idms && !watched.idms {
                        watches.spawn(self.clone().sets::<ImageDigestMirrorSet>("ImageDigestMirrorSet"));
                        watched.idms = true;
                    }
                    if served.itms && !watched.itms {
                        watches.spawn(self.clone().sets::<ImageTagMirrorSet>("ImageTagMirrorSet"));
                        watched.itms = true;
                    }
                    if served != before {
                        for object in objects() {
                            let (Some(uid), Some(namespace)) = (object.uid(), object.namespace()) else { continue };
                            self.changed(&uid, namespace, object.name_any()).await;
                        }
                    }
                    before = served;
                }
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "kinds of the cluster unknown"),
            }
            tokio::select! {
                () = self.watching.cancelled() => break,
                Some(ended) = watches.join_next() => {
                    tracing::error!(?ended, "a watch of mirror sets has ended");
                    return;
                }
                () = tokio::time::sleep(self.kinds_period) => {}
            }
        }
        while watches.join_next().await.is_some() {}
    }

    async fn sets<K>(self, kind: &'static str)
    where
        K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let labels = format!("{MANAGED_BY_LABEL}={MANAGED_BY}");
        let events = watcher(Api::<K>::all(self.client.clone()), watcher::Config::default().labels(&labels));
        let mut events = std::pin::pin!(events.default_backoff().take_until(self.watching.cancelled()));
        while let Some(event) = events.next().await {
            let object = match event {
                // A label that is gone shows as a deletion.
                Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => object,
                Ok(_) => continue,
                Err(error) => {
                    self.ctx.metrics.watch_restarted(kind);
                    tracing::debug!(
                        kind,
                        error = &error as &dyn std::error::Error,
                        "watch of mirror sets is restarted"
                    );
                    continue;
                }
            };
            let owner = object.annotations().get(OWNER_REF_ANNOTATION).and_then(|owner| owner.split_once('/'));
            let Some((namespace, name)) = owner else { continue };
            let uid = {
                let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
                names.iter().find(|(_, (ns, n))| ns == namespace && n == name).map(|(uid, _)| uid.clone())
            };
            if let Some(uid) = uid {
                self.changed(&uid, namespace.to_owned(), name.to_owned()).await;
            }
        }
    }

    /// The cluster objects of an object may not be what they should be any more.
    async fn changed(&self, uid: &str, namespace: String, name: String) {
        self.ctx.known.compare(uid);
        if self.wakes.send((namespace, name)).await.is_err() {
            tracing::debug!(uid, "nobody listens for changes any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_gone_does_not_keep_a_process_from_being_ready() {
        use Listing::{Done, NoAnswer, Refused, Unserved};
        for (listings, served, listed) in [
            (&[Done, Done] as &[_], true, true),
            (&[Done, Refused], true, true),
            (&[Refused, Refused], true, false),
            (&[Done, NoAnswer], true, false),
            (&[Done, Unserved], false, false),
            (&[Unserved], false, false),
        ] {
            assert_eq!(Readiness::of(listings), Readiness { served, listed }, "{listings:?}");
        }
    }
}
