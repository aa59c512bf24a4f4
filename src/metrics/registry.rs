//! What is counted by registry: requests and bytes as they happen, windows when they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Direction, Metrics};
use crate::registry::{Limits, Load, Observer, Problem, RequestEvent, Side, Trouble};

/// Hosts that get series of their own; the others share `other`.
const MAX_HOSTS: usize = 50;

/// What the others are called.
const OTHER: &str = "other";

const REQUEST_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabel {
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    host: String,
    method: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    host: String,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    host: String,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    host: String,
    kind: &'static str,
}

/// The hosts that have series of their own: the first ones.
#[derive(Clone, Debug, Default)]
struct Hosts(Arc<Mutex<BTreeSet<String>>>);

impl Hosts {
    fn label(&self, host: &str) -> String {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() < MAX_HOSTS && !hosts.contains(host) {
            hosts.insert(host.to_owned());
        }
        if hosts.contains(host) { host.to_owned() } else { OTHER.to_owned() }
    }
}

/// What is known about registries by host; at most 50 hosts have series of their own.
#[derive(Clone, Debug)]
pub struct RegistryMetrics {
    hosts: Hosts,
    watched: Watched,
    requests: Family<RequestLabels, Counter>,
    duration: Family<DurationLabels, Histogram, fn() -> Histogram>,
    throttled: Family<HostLabel, Counter>,
    retries: Family<HostLabel, Counter>,
    tokens: Family<HostLabel, Counter>,
    bytes: Family<BytesLabels, Counter>,
    resumes: Family<HostLabel, Counter>,
    resumed_bytes: Family<HostLabel, Counter>,
    faults: Family<FaultLabels, Counter>,
    remaining: Family<HostLabel, Gauge>,
}

impl RegistryMetrics {
    /// Registers the series.
    pub fn register(registry: &mut Registry) -> Self {
        let hosts = Hosts::default();
        let metrics = Self {
            watched: Watched { hosts: hosts.clone(), limits: Arc::default() },
            hosts,
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            throttled: Family::default(),
            retries: Family::default(),
            tokens: Family::default(),
            bytes: Family::default(),
            resumes: Family::default(),
            resumed_bytes: Family::default(),
            faults: Family::default(),
            remaining: Family::default(),
        };
        registry.register_collector(Box::new(metrics.watched.clone()));
        registry.register("registry_requests", "Requests to registries by status", metrics.requests.clone());
        let duration = metrics.duration.clone();
        let help = "Time until the headers of a registry's answer";
        registry.register_with_unit("registry_request_duration", help, Unit::Seconds, duration);
        let help = "Answers that asked for patience: status 429, or Retry-After";
        registry.register("registry_throttled", help, metrics.throttled.clone());
        let help = "Requests sent again, and blobs that were taken up again";
        registry.register("registry_retries", help, metrics.retries.clone());
        registry.register("registry_token_requests", "Requests for tokens", metrics.tokens.clone());
        let help = "Bytes of blobs read from and written to registries, those that were sent again included";
        registry.register("registry_bytes", help, metrics.bytes.clone());
        let help = "Transfers of blobs that went on where they had broken";
        registry.register("registry_resumes", help, metrics.resumes.clone());
        let help = "Bytes that were not moved again because a transfer went on where it had broken";
        registry.register("registry_resumed_bytes", help, metrics.resumed_bytes.clone());
        let help = "Requests and answers that broke, stalled, or brought something else than was asked for";
        registry.register("registry_faults", help, metrics.faults.clone());
        let help = "Requests that a registry still takes, as far as it says so";
        registry.register("registry_ratelimit_remaining", help, metrics.remaining.clone());
        metrics
    }

    /// Shows the windows of these limits from now on, as long as they exist.
    pub fn watch(&self, limits: &Arc<Limits>) {
        *self.watched.limits.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(limits);
    }

    fn one(&self, family: &Family<HostLabel, Counter>, host: &str) {
        family.get_or_create(&HostLabel { host: self.hosts.label(host) }).inc();
    }

    /// Counts an answered request; `code` 0 stands for no answer.
    fn request(&self, host: &str, method: &http::Method, code: u16, took: Duration) {
        let (host, method) = (self.hosts.label(host), method_label(method));
        self.requests.get_or_create(&RequestLabels { host: host.clone(), method, code }).inc();
        self.duration.get_or_create(&DurationLabels { host, method }).observe(took.as_secs_f64());
    }
}

fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// What kind of fault a problem is; none for answers that are what they should be, and for what was never asked.
fn fault(problem: &Problem) -> Option<&'static str> {
    Some(match problem {
        Problem::Unreachable(Trouble::Name) => "name",
        Problem::Unreachable(Trouble::Connect) => "connect",
        Problem::Unreachable(Trouble::Headers) => "no_answer",
        Problem::Unreachable(Trouble::Stall) => "stall",
        Problem::Unreachable(Trouble::Cut) => "cut",
        Problem::Untrusted => "certificate",
        Problem::Digest { .. } => "digest",
        Problem::Length { .. } => "length",
        _ => return None,
    })
}

/// The limits whose windows are shown.
#[derive(Clone, Debug)]
struct Watched {
    hosts: Hosts,
    /// Weak, since the limits tell an observer that has these metrics.
    limits: Arc<Mutex<Weak<Limits>>>,
}

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let mut series: BTreeMap<(String, &str), Load> = BTreeMap::new();
        for (host, loads) in limits.iter().flat_map(|limits| limits.loads()) {
            for (class, load) in [("read", loads.read), ("write", loads.write), ("metadata", loads.metadata)] {
                let sum = series.entry((self.hosts.label(&host), class)).or_default();
                let Load { places, taken, waiting } = load;
                (sum.places, sum.taken, sum.waiting) = (sum.places + places, sum.taken + taken, sum.waiting + waiting);
            }
        }
        let mut gauge = |name: &str, help: &str, number: fn(&Load) -> usize| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for ((host, class), load) in &series {
                let labels = [("host", host.as_str()), ("class", *class)];
                metric.encode_family(&labels)?.encode_gauge(&i64::try_from(number(load)).unwrap_or(i64::MAX))?;
            }
            Ok::<_, fmt::Error>(())
        };
        gauge("registry_window_places", "How much may be under way at the same time", |load| load.places)?;
        gauge("registry_window_taken", "How much is under way", |load| load.taken)?;
        gauge("registry_window_waiting", "How much waits for a place", |load| load.waiting)?;
        Ok(())
    }
}

/// Counts what registry clients do.
#[derive(Debug)]
pub struct RegistryObserver(Metrics);

impl RegistryObserver {
    /// Counts into `metrics`.
    pub fn new(metrics: Metrics) -> Self {
        Self(metrics)
    }
}

impl Observer for RegistryObserver {
    fn request(&self, event: &RequestEvent<'_>) {
        let metrics = &self.0.registry;
        metrics.request(event.host, event.method, event.status.unwrap_or(0), event.elapsed);
        if event.throttled() {
            metrics.one(&metrics.throttled, event.host);
        }
        if event.retry {
            metrics.one(&metrics.retries, event.host);
        }
        if event.token {
            metrics.one(&metrics.tokens, event.host);
        }
        if let Some(remaining) = event.remaining {
            let host = metrics.hosts.label(event.host);
            // What remains at several hosts has no sum.
            if host != OTHER {
                let remaining = i64::try_from(remaining).unwrap_or(i64::MAX);
                metrics.remaining.get_or_create(&HostLabel { host }).set(remaining);
            }
        }
    }

    fn resumed(&self, host: &str, _side: Side, kept: u64) {
        let metrics = &self.0.registry;
        metrics.one(&metrics.retries, host);
        metrics.one(&metrics.resumes, host);
        metrics.resumed_bytes.get_or_create(&HostLabel { host: metrics.hosts.label(host) }).inc_by(kept);
    }

    fn bytes(&self, host: &str, side: Side, count: u64) {
        // What is sent is counted by the engine, which knows for which image it is.
        let direction = match side {
            Side::Source => {
                self.0.bytes(Direction::Read, count);
                Direction::Read
            }
            Side::Target => Direction::Written,
        };
        let metrics = &self.0.registry;
        let labels = BytesLabels { host: metrics.hosts.label(host), direction: direction.as_str() };
        metrics.bytes.get_or_create(&labels).inc_by(count);
    }

    fn broke(&self, host: &str, problem: &Problem) {
        let metrics = &self.0.registry;
        if let Some(kind) = fault(problem) {
            metrics.faults.get_or_create(&FaultLabels { host: metrics.hosts.label(host), kind }).inc();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::{BUILD, text};
    use super::*;
    use crate::registry::{Windows, Work};

    /// Everything that an observer can be told, once.
    pub(in crate::metrics) fn observed(observer: &dyn Observer) {
        let host = "quay.io";
        observer.request(&RequestEvent {
            host,
            side: Side::Source,
            method: &http::Method::GET,
            status: Some(200),
            told_to_wait: true,
            retry: false,
            token: true,
            remaining: Some(76),
            elapsed: Duration::from_millis(1),
        });
        observer.resumed(host, Side::Target, 5);
        observer.bytes(host, Side::Source, 7);
        observer.bytes(host, Side::Target, 8);
        observer.broke(host, &Problem::Unreachable(Trouble::Stall));
        observer.broke(host, &Problem::Digest { expected: "a".to_owned(), actual: "b".to_owned() });
        observer.broke(host, &Problem::Missing);
    }

    #[test]
    fn hosts_above_the_cap_are_counted_together() {
        let mut registry = Registry::default();
        let metrics = RegistryMetrics::register(&mut registry);
        for n in 0..60 {
            metrics.one(&metrics.retries, &format!("host{n:02}"));
        }
        let limits = Arc::new(Limits::default());
        for n in 0..60 {
            limits.host(&format!("host{n:02}"));
        }
        metrics.watch(&limits);
        let text = text(&registry);
        assert!(text.contains("registry_retries_total{host=\"host49\"} 1"));
        assert!(text.contains("registry_retries_total{host=\"other\"} 10"));
        assert!(text.contains("registry_window_places{host=\"host49\",class=\"metadata\"} 16"));
        assert!(text.contains("registry_window_places{host=\"other\",class=\"metadata\"} 160"));
        assert!(!text.contains("host50"));
    }

    #[tokio::test]
    async fn windows_are_shown_as_they_are_when_asked_for_and_go_with_the_limits() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, BUILD);
        let windows = Windows { source_bulk: 1, ..Windows::default() };
        let limits = Arc::new(Limits::observed(windows, Arc::new(RegistryObserver::new(metrics.clone()))));
        metrics.registry.watch(&limits);
        assert!(!text(&registry).contains("host="), "no host is known");
        let host = limits.host("quay.io");
        let inside = host.acquire(Side::Source, Work::Bulk, 1, 10).await;
        let mut outside = [1, 2].map(|share| Box::pin(host.acquire(Side::Source, Work::Bulk, share, 10)));
        for one in &mut outside {
            assert!(futures::poll!(one).is_pending());
        }
        let shown = |part: &str, count: usize| {
            let line = format!("imagesetmirror_registry_window_{part}{{host=\"quay.io\",class=\"read\"}} {count}");
            let text = text(&registry);
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        };
        for (part, count) in [("places", 1), ("taken", 1), ("waiting", 2)] {
            shown(part, count);
        }
        drop((inside, outside));
        for (part, count) in [("places", 1), ("taken", 0), ("waiting", 0)] {
            shown(part, count);
        }
        drop((host, limits));
        assert!(!text(&registry).contains("host="), "nothing keeps them");
    }
}
