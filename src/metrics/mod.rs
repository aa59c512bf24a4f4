//! Every metric of the operator, in one place because names and labels are API.
//!
//! Labels have a closed set of values, or one bounded by the number of objects (`namespace`, `name`) or capped (`host`);
//! never a repository, digest, tag or message. Series of an object go when the object goes. `prometheus-client` adds
//! `_total` to counters and the unit to what is registered with one; the names in the documentation are those on the wire.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::api::{ImageProgress, ImageSetMirrorStatus};

mod kube;
mod process;
mod registry;

pub use kube::CountRequests;
pub use registry::{RegistryMetrics, RegistryObserver};

/// The prefix of all our metrics but `process_*`.
const PREFIX: &str = "imagesetmirror";

/// Seconds that one blob takes, from a config to a layer of gigabytes over a thin line.
const BLOB_BUCKETS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0];

const SYNC_BUCKETS: [f64; 14] =
    [1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0];

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// The value of the label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    )+};
}

labels! {
    /// How a reconcile ended.
    ReconcileResult {
        /// Nothing left to do until something changes or time passes.
        Success = "success",
        /// With an error that is retried.
        Error = "error",
        /// To be looked at again soon, a sync is under way.
        Requeue = "requeue",
    }
    /// How a sync ended.
    SyncOutcome {
        /// Everything is in the target.
        Succeeded = "succeeded",
        /// At least one image is not.
        Failed = "failed",
        /// Stopped: superseded, suspended, deleted or shut down.
        Cancelled = "cancelled",
    }
    /// How an image ended.
    ImageOutcome {
        /// Something was written for it.
        Copied = "copied",
        /// It was there.
        Present = "present",
        /// It is not complete.
        Failed = "failed",
    }
    /// How a blob came to be in the target.
    BlobOutcome {
        /// It was sent.
        Uploaded = "uploaded",
        /// The target took it from another of its repositories.
        Mounted = "mounted",
        /// It was there.
        Present = "present",
    }
    /// What happened to bytes.
    Direction {
        /// Received from a source.
        Read = "read",
        /// Sent to the target.
        Written = "written",
        /// Taken by the target from another of its repositories.
        Mounted = "mounted",
        /// There already.
        Skipped = "skipped",
    }
    /// How the application of a cluster object ended.
    ApplyResult {
        /// Created or changed.
        Applied = "applied",
        /// As it should be.
        Unchanged = "unchanged",
        /// Removed.
        Deleted = "deleted",
        /// Not applied on purpose: held back, a conflict, a policy.
        Refused = "refused",
        /// The API server refused it or could not be reached.
        Failed = "failed",
    }
    /// What had drifted.
    Drift {
        /// Images in the target.
        Content = "content",
        /// Objects in the cluster.
        Resource = "resource",
    }
}

/// One label whose key is given by the metric.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApplyLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    revision: &'static str,
    rustc: &'static str,
}

/// What this binary was built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// The version of the package.
    pub version: &'static str,
    /// The commit, or `unknown`.
    pub revision: &'static str,
    /// The compiler's version, or `unknown`.
    pub rustc: &'static str,
}

/// All metrics; clones count into the same series.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Series that carry the name of an object.
    pub objects: Objects,
    /// Requests to registries.
    pub registry: RegistryMetrics,
    leader: Gauge,
    reconciles: Family<ResultLabel, Counter>,
    reconcile_duration: Histogram,
    sync_duration: Family<OutcomeLabel, Histogram, fn() -> Histogram>,
    images: Family<OutcomeLabel, Counter>,
    blobs: Family<OutcomeLabel, Counter>,
    bytes: Family<DirectionLabel, Counter>,
    inflight_blobs: Gauge,
    blob_duration: Histogram,
    applies: Family<ApplyLabels, Counter>,
    drift: Family<KindLabel, Counter>,
    watch_restarts: Family<KindLabel, Counter>,
    kube_requests: Family<VerbLabels, Counter>,
}

impl Metrics {
    /// Registers everything, `process_*` included.
    pub fn register(registry: &mut Registry, build: Build) -> Self {
        registry.register_collector(Box::new(process::Process::default()));
        let ours = registry.sub_registry_with_prefix(PREFIX);
        let build_info = Family::<BuildLabels, Gauge>::default();
        let Build { version, revision, rustc } = build;
        build_info.get_or_create(&BuildLabels { version, revision, rustc }).set(1);
        ours.register("build_info", "What this binary was built from", build_info);
        let metrics = Self {
            objects: Objects::register(ours),
            registry: RegistryMetrics::register(ours),
            leader: Gauge::default(),
            reconciles: Family::default(),
            reconcile_duration: Histogram::new(exponential_buckets(0.005, 2.0, 15)),
            sync_duration: Family::new_with_constructor(|| Histogram::new(SYNC_BUCKETS)),
            images: Family::default(),
            blobs: Family::default(),
            bytes: Family::default(),
            inflight_blobs: Gauge::default(),
            blob_duration: Histogram::new(BLOB_BUCKETS),
            applies: Family::default(),
            drift: Family::default(),
            watch_restarts: Family::default(),
            kube_requests: Family::default(),
        };
        ours.register("leader", "1 if this process leads", metrics.leader.clone());
        ours.register("reconcile", "Reconciles by result", metrics.reconciles.clone());
        let duration = metrics.reconcile_duration.clone();
        ours.register_with_unit("reconcile_duration", "Duration of reconciles", Unit::Seconds, duration);
        let duration = metrics.sync_duration.clone();
        ours.register_with_unit("sync_duration", "Duration of syncs by outcome", Unit::Seconds, duration);
        ours.register("images", "Images handled by outcome", metrics.images.clone());
        ours.register("blobs", "Blobs that came to be in a target by how", metrics.blobs.clone());
        ours.register("bytes", "Bytes of image content by what happened to them", metrics.bytes.clone());
        ours.register("inflight_blobs", "Blobs being transferred now", metrics.inflight_blobs.clone());
        let duration = metrics.blob_duration.clone();
        ours.register_with_unit("blob_duration", "Duration of transfers of one blob", Unit::Seconds, duration);
        ours.register("resource_apply", "Cluster objects handled by kind and result", metrics.applies.clone());
        ours.register("drift", "Drift found and repaired by kind", metrics.drift.clone());
        ours.register(
            "watch_restarts",
            "Watches of the API server that had to be restarted",
            metrics.watch_restarts.clone(),
        );
        let help = "Requests to the API server by status; code 0 stands for no answer";
        ours.register("kube_requests", help, metrics.kube_requests.clone());
        // Alerts compare rates, so these exist before the first event.
        for outcome in [ImageOutcome::Copied, ImageOutcome::Present, ImageOutcome::Failed] {
            metrics.image(outcome, 0);
        }
        for outcome in [BlobOutcome::Uploaded, BlobOutcome::Mounted, BlobOutcome::Present] {
            drop(metrics.blobs.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }));
        }
        for direction in [Direction::Read, Direction::Written, Direction::Mounted, Direction::Skipped] {
            metrics.bytes(direction, 0);
        }
        for result in [ReconcileResult::Success, ReconcileResult::Error, ReconcileResult::Requeue] {
            drop(metrics.reconciles.get_or_create(&ResultLabel { result: result.as_str() }));
        }
        metrics
    }

    /// Says whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, result: ReconcileResult, took: Duration) {
        self.reconciles.get_or_create(&ResultLabel { result: result.as_str() }).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// Counts a finished sync of an object.
    pub fn synced(&self, namespace: &str, name: &str, outcome: SyncOutcome, took: Duration) {
        self.sync_duration.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }).observe(took.as_secs_f64());
        self.objects.synced(namespace, name, outcome);
    }

    /// Counts images.
    pub fn image(&self, outcome: ImageOutcome, count: u64) {
        self.images.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }).inc_by(count);
    }

    /// Counts a blob that is in a target.
    pub fn blob(&self, outcome: BlobOutcome) {
        self.blobs.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }).inc();
    }

    /// Counts bytes.
    pub fn bytes(&self, direction: Direction, count: u64) {
        self.bytes.get_or_create(&DirectionLabel { direction: direction.as_str() }).inc_by(count);
    }

    /// Counts a blob that begins to be moved.
    pub fn blob_started(&self) {
        self.inflight_blobs.inc();
    }

    /// Counts the end of one that was begun.
    pub fn blob_ended(&self, took: Duration) {
        self.inflight_blobs.dec();
        self.blob_duration.observe(took.as_secs_f64());
    }

    /// Counts the handling of a cluster object of `kind`.
    pub fn applied(&self, kind: &'static str, result: ApplyResult) {
        self.applies.get_or_create(&ApplyLabels { kind, result: result.as_str() }).inc();
    }

    /// Counts drift.
    pub fn drifted(&self, drift: Drift) {
        self.drift.get_or_create(&KindLabel { kind: drift.as_str() }).inc();
    }

    fn kube_requested(&self, verb: &'static str, code: u16) {
        self.kube_requests.get_or_create(&VerbLabels { verb, code }).inc();
    }

    /// Counts a restarted watch of `kind`.
    pub fn watch_restarted(&self, kind: &'static str) {
        self.watch_restarts.get_or_create(&KindLabel { kind }).inc();
    }
}

/// What the metrics say about one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectState {
    /// Type and status of its conditions.
    pub conditions: Vec<(String, String)>,
    /// Whether it is suspended.
    pub suspended: bool,
    /// When everything was last in the target, in seconds of Unix time.
    pub last_success: Option<i64>,
    /// When the next sync is due, in seconds of Unix time.
    pub next_sync: Option<i64>,
    /// Planned images by origin.
    pub plan_images: BTreeMap<String, i64>,
    /// How far the current or last sync got; none before the first.
    pub progress: Option<ImageProgress>,
}

impl From<&ImageSetMirrorStatus> for ObjectState {
    fn from(status: &ImageSetMirrorStatus) -> Self {
        let seconds = |time: &Option<Time>| time.as_ref().map(|time| time.0.as_second());
        let sync = status.sync.clone().unwrap_or_default();
        Self {
            conditions: status.conditions.iter().map(|found| (found.type_.clone(), found.status.clone())).collect(),
            suspended: status.conditions.iter().any(|found| found.type_ == "Suspended" && found.status == "True"),
            last_success: seconds(&sync.last_success_time),
            next_sync: seconds(&sync.next_time),
            plan_images: status.plan.clone().unwrap_or_default().by_origin,
            progress: status.progress.as_ref().map(|progress| progress.images),
        }
    }
}

/// Series that carry `namespace` and `name`.
#[derive(Clone, Default)]
pub struct Objects(Arc<Mutex<BTreeMap<(String, String), Entry>>>);

#[derive(Clone, Default)]
struct Entry {
    state: ObjectState,
    syncs: BTreeMap<SyncOutcome, u64>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Objects").field(&self.entries().len()).finish()
    }
}

impl Objects {
    /// Registers the series.
    pub fn register(registry: &mut Registry) -> Self {
        let objects = Self::default();
        registry.register_collector(Box::new(objects.clone()));
        objects
    }

    /// Replaces what is known about an object.
    pub fn set(&self, namespace: &str, name: &str, state: ObjectState) {
        self.entries().entry((namespace.to_owned(), name.to_owned())).or_default().state = state;
    }

    /// Drops all series of an object.
    pub fn remove(&self, namespace: &str, name: &str) {
        self.entries().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn synced(&self, namespace: &str, name: &str, outcome: SyncOutcome) {
        // A sync that ends after its object was removed does not bring the series back.
        if let Some(entry) = self.entries().get_mut(&(namespace.to_owned(), name.to_owned())) {
            *entry.syncs.entry(outcome).or_default() += 1;
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let entries = self.entries().clone();
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, series: &[(Series<'_>, i64)]| {
            let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for (labels, value) in series {
                metric.encode_family(labels)?.encode_gauge(value)?;
            }
            Ok::<_, fmt::Error>(())
        };
        let (mut conditions, mut suspended, mut success, mut next, mut images, mut progress) =
            (vec![], vec![], vec![], vec![], vec![], vec![]);
        for ((namespace, name), entry) in &entries {
            let object = [("namespace", namespace.as_str()), ("name", name.as_str())];
            let state = &entry.state;
            for (kind, actual) in &state.conditions {
                for status in ["True", "False", "Unknown"] {
                    let labels = with(object, &[("type", kind), ("status", status)]);
                    conditions.push((labels, i64::from(status == actual)));
                }
            }
            suspended.push((with(object, &[]), i64::from(state.suspended)));
            success.extend(state.last_success.map(|at| (with(object, &[]), at)));
            next.extend(state.next_sync.map(|at| (with(object, &[]), at)));
            if let Some(ImageProgress { total, copied, present, failed }) = state.progress {
                // What is retried may be counted twice until the sync ends.
                let pending = (total - copied - present - failed).max(0);
                for (state, count) in
                    [("copied", copied), ("present", present), ("failed", failed), ("pending", pending)]
                {
                    progress.push((with(object, &[("state", state)]), count));
                }
            }
            images.extend(state.plan_images.iter().map(|(origin, n)| (with(object, &[("origin", origin)]), *n)));
        }
        gauge("condition", "1 for the status that a condition has", None, &conditions)?;
        gauge("suspended", "1 if the object is suspended", None, &suspended)?;
        let seconds = Some(&Unit::Seconds);
        gauge("last_success_timestamp", "When everything was last in the target", seconds, &success)?;
        gauge("next_sync_timestamp", "When the next sync is due", seconds, &next)?;
        gauge("plan_images", "Planned images by origin", None, &images)?;
        gauge("progress_images", "Images of the current or last sync by what became of them", None, &progress)?;

        let mut syncs = encoder.encode_descriptor("sync", "Finished syncs by outcome", None, MetricType::Counter)?;
        for ((namespace, name), entry) in &entries {
            for (outcome, count) in &entry.syncs {
                let object = [("namespace", namespace.as_str()), ("name", name.as_str())];
                let labels = with(object, &[("outcome", outcome.as_str())]);
                syncs.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
        Ok(())
    }
}

type Series<'a> = Vec<(&'a str, &'a str)>;

fn with<'a>(object: [(&'a str, &'a str); 2], more: &[(&'a str, &'a str)]) -> Series<'a> {
    object.iter().chain(more).copied().collect()
}

impl Build {
    /// This build.
    pub fn current() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            revision: env!("IMAGESET_MIRROR_REVISION"),
            rustc: env!("IMAGESET_MIRROR_RUSTC"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::registry::{Limits, Windows};

    pub(super) const BUILD: Build = Build { version: "0.1.0", revision: "abc", rustc: "1.95.0" };

    pub(super) fn text(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    /// What is shown of everything that can be counted, counted once.
    fn counted() -> String {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, BUILD);
        metrics.leads(true);
        metrics.objects.set(
            "ns",
            "set",
            ObjectState {
                conditions: vec![("Ready".to_owned(), "True".to_owned())],
                last_success: Some(10),
                next_sync: Some(20),
                plan_images: BTreeMap::from([("additional".to_owned(), 3)]),
                progress: Some(ImageProgress { total: 10, copied: 1, present: 2, failed: 3 }),
                ..ObjectState::default()
            },
        );
        metrics.reconciled(ReconcileResult::Success, Duration::from_millis(3));
        metrics.synced("ns", "set", SyncOutcome::Succeeded, Duration::from_secs(7));
        let observer = Arc::new(RegistryObserver::new(metrics.clone()));
        registry::tests::observed(&*observer);
        let limits = Arc::new(Limits::observed(Windows::default(), observer));
        limits.host("quay.io");
        metrics.registry.watch(&limits);
        metrics.blob(BlobOutcome::Mounted);
        metrics.applied("ImageDigestMirrorSet", ApplyResult::Applied);
        metrics.drifted(Drift::Content);
        metrics.watch_restarted("ImageSetMirror");
        metrics.blob_started();
        metrics.blob_started();
        metrics.blob_ended(Duration::from_secs(2));
        metrics.kube_requested("get", 200);
        text(&registry)
    }

    /// Name, type and labels of every metric that is served.
    fn served(text: &str) -> Vec<(String, String, BTreeSet<String>)> {
        let mut found = Vec::new();
        for (name, kind) in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
            let sample = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
            let sample = if kind == "counter" { format!("{name}_total") } else { sample };
            let series = text.lines().filter_map(|line| line.strip_prefix(&sample)?.strip_prefix('{')?.split_once('}'));
            let labels = series.flat_map(|(labels, _)| labels.split(',').filter_map(|label| label.split_once('=')));
            let labels = labels.map(|(label, _)| label.to_owned()).collect();
            found.push((if kind == "counter" { sample } else { name.to_owned() }, kind.to_owned(), labels));
        }
        found.sort();
        found
    }

    #[test]
    fn the_table_for_people_has_every_metric_with_its_labels_and_no_other() {
        let readme = include_str!("../../charts/imageset-mirror/README.md");
        let section = readme.split("\n## ").find(|section| section.starts_with("Metrics\n")).unwrap();
        let words = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect() };
        let mut documented = Vec::new();
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, names, kind, labels, ..] = cells.as_slice() else { panic!("{row}") };
            // Values follow a colon.
            let labels: BTreeSet<String> = words(labels.split(':').next().unwrap()).into_iter().collect();
            documented.extend(words(names).into_iter().map(|name| (name, (*kind).to_owned(), labels.clone())));
        }
        documented.sort();
        assert_eq!(served(&counted()), documented);
    }

    #[test]
    fn names_on_the_wire_are_the_documented_ones() {
        let text = counted();
        for line in [
            r#"imagesetmirror_build_info{version="0.1.0",revision="abc",rustc="1.95.0"} 1"#,
            "imagesetmirror_leader 1",
            r#"imagesetmirror_reconcile_total{result="success"} 1"#,
            "imagesetmirror_reconcile_duration_seconds_count 1",
            r#"imagesetmirror_condition{namespace="ns",name="set",type="Ready",status="True"} 1"#,
            r#"imagesetmirror_condition{namespace="ns",name="set",type="Ready",status="False"} 0"#,
            r#"imagesetmirror_suspended{namespace="ns",name="set"} 0"#,
            r#"imagesetmirror_sync_total{namespace="ns",name="set",outcome="succeeded"} 1"#,
            r#"imagesetmirror_sync_duration_seconds_count{outcome="succeeded"} 1"#,
            r#"imagesetmirror_last_success_timestamp_seconds{namespace="ns",name="set"} 10"#,
            r#"imagesetmirror_next_sync_timestamp_seconds{namespace="ns",name="set"} 20"#,
            r#"imagesetmirror_plan_images{namespace="ns",name="set",origin="additional"} 3"#,
            r#"imagesetmirror_progress_images{namespace="ns",name="set",state="failed"} 3"#,
            r#"imagesetmirror_progress_images{namespace="ns",name="set",state="pending"} 4"#,
            r#"imagesetmirror_images_total{outcome="copied"} 0"#,
            r#"imagesetmirror_blobs_total{outcome="mounted"} 1"#,
            r#"imagesetmirror_blobs_total{outcome="uploaded"} 0"#,
            r#"imagesetmirror_bytes_total{direction="written"} 0"#,
            "imagesetmirror_inflight_blobs 1",
            "imagesetmirror_blob_duration_seconds_count 1",
            r#"imagesetmirror_registry_requests_total{host="quay.io",method="GET",code="200"} 1"#,
            r#"imagesetmirror_registry_request_duration_seconds_count{host="quay.io",method="GET"} 1"#,
            r#"imagesetmirror_registry_throttled_total{host="quay.io"} 1"#,
            r#"imagesetmirror_registry_retries_total{host="quay.io"} 1"#,
            r#"imagesetmirror_registry_token_requests_total{host="quay.io"} 1"#,
            r#"imagesetmirror_registry_bytes_total{host="quay.io",direction="read"} 7"#,
            r#"imagesetmirror_registry_bytes_total{host="quay.io",direction="written"} 8"#,
            r#"imagesetmirror_registry_resumes_total{host="quay.io"} 1"#,
            r#"imagesetmirror_registry_resumed_bytes_total{host="quay.io"} 5"#,
            r#"imagesetmirror_registry_faults_total{host="quay.io",kind="stall"} 1"#,
            r#"imagesetmirror_registry_faults_total{host="quay.io",kind="digest"} 1"#,
            r#"imagesetmirror_registry_ratelimit_remaining{host="quay.io"} 76"#,
            r#"imagesetmirror_registry_window_places{host="quay.io",class="read"} 6"#,
            r#"imagesetmirror_registry_window_taken{host="quay.io",class="write"} 0"#,
            r#"imagesetmirror_registry_window_waiting{host="quay.io",class="metadata"} 0"#,
            r#"imagesetmirror_resource_apply_total{kind="ImageDigestMirrorSet",result="applied"} 1"#,
            r#"imagesetmirror_drift_total{kind="content"} 1"#,
            r#"imagesetmirror_watch_restarts_total{kind="ImageSetMirror"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes "));
        assert!(text.contains("process_cpu_seconds_total "));
        assert!(text.contains("process_open_fds "));
    }

    #[test]
    fn a_build_knows_its_compiler() {
        let build = Build::current();
        assert!(build.rustc.starts_with("rustc "), "{}", build.rustc);
        assert!(build.revision == "unknown" || build.revision.len() >= 12, "{}", build.revision);
    }

    #[test]
    fn the_series_of_an_object_go_with_it() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, BUILD);
        metrics.objects.set("ns", "set", ObjectState::default());
        metrics.synced("ns", "set", SyncOutcome::Failed, Duration::from_secs(1));
        assert!(text(&registry).contains("name=\"set\""));
        metrics.objects.remove("ns", "set");
        metrics.synced("ns", "set", SyncOutcome::Cancelled, Duration::from_secs(1));
        assert!(!text(&registry).contains("name=\"set\""));
    }
}
