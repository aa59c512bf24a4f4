//! The metrics endpoint, and the probes that the kubelet asks.
//!
//! Probes answer for this process only: an API server or a registry that cannot be reached is not repaired by a restart, so
//! liveness does not look at them. Readiness ignores leadership, or a standby would never be ready and a rollout would hang.
//! No authorization: metrics carry no names but those of objects, probes carry a sentence.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// A heartbeat older than this means that the runtime is stuck.
const HEARTBEAT_PATIENCE: Duration = Duration::from_mins(1);

/// How often the heart beats.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(10);

/// A wall clock that moved this much against the monotonic one has jumped, and timers no longer mean what they say.
const CLOCK_SKEW: Duration = Duration::from_mins(5);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What can go wrong with the endpoints.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error("listening on `{address}` for {what}")]
    Bind {
        /// What would have been served.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Serving ended.
    #[error("serving {what}")]
    Serve {
        /// What was served.
        what: &'static str,
        /// Why it ended.
        #[source]
        source: std::io::Error,
    },
}

/// A bound address that serves nothing yet.
#[derive(Debug)]
pub struct Endpoint {
    what: &'static str,
    listener: TcpListener,
    router: Router,
}

impl Endpoint {
    /// Binds the metrics endpoint: `/metrics` in the `OpenMetrics` text format.
    pub async fn metrics(address: SocketAddr, registry: Arc<Registry>) -> Result<Self, Error> {
        let router = Router::new().route("/metrics", get(metrics)).with_state(registry);
        Self::bind("metrics", address, router).await
    }

    /// Binds the probes: `/livez`, `/readyz` and `/startupz`.
    pub async fn probes(address: SocketAddr, health: Health) -> Result<Self, Error> {
        let router = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/startupz", get(startupz))
            .with_state(health);
        Self::bind("probes", address, router).await
    }

    async fn bind(what: &'static str, address: SocketAddr, router: Router) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Bind { what, address, source })?;
        Ok(Self { what, listener, router })
    }

    /// The address, with the port that the system chose if 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until `stop` is cancelled and the requests under way are answered.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), Error> {
        let what = self.what;
        axum::serve(self.listener, self.router)
            .with_graceful_shutdown(async move { stop.cancelled().await })
            .await
            .map_err(|source| Error::Serve { what, source })
    }
}

/// A check that liveness asks on every probe: an error is a sentence for people.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What readiness waits for; each must be reported once, and `CrdServed` may be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The settings are parsed and valid.
    Settings,
    /// The metrics endpoint is bound.
    Metrics,
    /// The API server serves our resource.
    CrdServed,
    /// The first list of objects is complete.
    FirstList,
}

impl Part {
    const ALL: [Self; 4] = [Self::Settings, Self::Metrics, Self::CrdServed, Self::FirstList];

    fn missing(self) -> &'static str {
        match self {
            Self::Settings => "the settings are not read yet",
            Self::Metrics => "the metrics endpoint is not bound yet",
            Self::CrdServed => "the API server does not serve ImageSetMirror",
            Self::FirstList => "the first list of objects is not complete yet",
        }
    }
}

/// The health of this process; clones share it.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    clock: Clock,
    state: Mutex<Pulse>,
    checks: Mutex<Vec<(&'static str, Check)>>,
}

struct Pulse {
    beat: Instant,
    /// The pair that the clocks are compared with.
    started: (Timestamp, Instant),
    ready: BTreeSet<Part>,
    started_up: bool,
    stopping: bool,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").field("live", &self.live()).field("ready", &self.ready()).finish()
    }
}

impl Health {
    /// A process that is alive and not ready.
    pub fn new(clock: Clock) -> Self {
        let now = Instant::now();
        let started = (clock.now(), now);
        let pulse = Pulse { beat: now, started, ready: BTreeSet::default(), started_up: false, stopping: false };
        Self(Arc::new(Inner { clock, state: Mutex::new(pulse), checks: Mutex::default() }))
    }

    /// Adds a check to liveness.
    pub fn watch(&self, name: &'static str, check: Check) {
        self.0.checks.lock().unwrap_or_else(PoisonError::into_inner).push((name, check));
    }

    /// Reports that a part of the start-up is done, or, for what can go away again, that it is not.
    pub fn set(&self, part: Part, done: bool) {
        let mut state = self.pulse();
        if done {
            state.ready.insert(part);
        } else {
            state.ready.remove(&part);
        }
        state.started_up |= Part::ALL.iter().all(|part| state.ready.contains(part));
    }

    /// Reports that the process is about to stop: it is not ready from now on.
    pub fn stopping(&self) {
        self.pulse().stopping = true;
    }

    /// Beats until `stop` is cancelled. Run it on the runtime that does the work: when that is stuck, the beat stops.
    pub async fn beat(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(HEARTBEAT_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.pulse().beat = Instant::now();
        }
    }

    /// Everything that is wrong with the life of this process.
    pub fn live(&self) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        {
            let state = self.pulse();
            let age = state.beat.elapsed();
            if age > HEARTBEAT_PATIENCE && !state.stopping {
                faults.push(format!("the runtime's heartbeat is {} s old", age.as_secs()));
            }
            let (wall, monotonic) = state.started;
            let walked = self.0.clock.now().duration_since(wall);
            let ran = jiff::SignedDuration::try_from(monotonic.elapsed()).unwrap_or(jiff::SignedDuration::MAX);
            let skew = walked.saturating_sub(ran).unsigned_abs();
            if skew > CLOCK_SKEW {
                faults.push(format!("the wall clock has moved {} s against the monotonic clock", skew.as_secs()));
            }
        }
        let checks = self.0.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        faults.extend(checks.iter().filter_map(|(name, check)| check().err().map(|fault| format!("{name}: {fault}"))));
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Everything that is missing for this process to be ready.
    pub fn ready(&self) -> Result<(), Vec<String>> {
        let state = self.pulse();
        let mut faults: Vec<_> =
            Part::ALL.iter().filter(|part| !state.ready.contains(part)).map(|part| part.missing().to_owned()).collect();
        if state.stopping {
            faults.push("stopping".to_owned());
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// True once everything was ready at the same time.
    pub fn started(&self) -> bool {
        self.pulse().started_up
    }

    fn pulse(&self) -> std::sync::MutexGuard<'_, Pulse> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(error) => {
            let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            (StatusCode::INTERNAL_SERVER_ERROR, plain, format!("encoding metrics: {error}\n"))
        }
    }
}

async fn livez(State(health): State<Health>) -> (StatusCode, String) {
    answer(health.live())
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    answer(health.ready())
}

async fn startupz(State(health): State<Health>) -> (StatusCode, String) {
    answer(if health.started() { Ok(()) } else { health.ready() })
}

fn answer(result: Result<(), Vec<String>>) -> (StatusCode, String) {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(faults) => {
            let mut text = String::new();
            for fault in faults {
                // Writing to a string does not fail.
                writeln!(text, "{fault}").unwrap_or_default();
            }
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    fn clock() -> Clock {
        let (wall, monotonic) = (Timestamp::UNIX_EPOCH, Instant::now());
        Clock::from_fn(move || wall + monotonic.elapsed())
    }

    fn ready(health: &Health) {
        for part in Part::ALL {
            health.set(part, true);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_names_every_missing_part_and_notices_a_lost_one() {
        let health = Health::new(clock());
        assert_eq!(health.ready().unwrap_err().len(), 4);
        assert!(!health.started());
        ready(&health);
        assert_eq!(health.ready(), Ok(()));
        health.set(Part::CrdServed, false);
        assert_eq!(health.ready().unwrap_err(), ["the API server does not serve ImageSetMirror"]);
        assert!(health.started(), "start-up is not undone");
        health.set(Part::CrdServed, true);
        health.stopping();
        assert_eq!(health.ready().unwrap_err(), ["stopping"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_runtime_is_not_alive() {
        let health = Health::new(clock());
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(health.live(), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(health.live().unwrap_err(), ["the runtime's heartbeat is 61 s old"]);
        let stop = CancellationToken::new();
        let beating = async {
            tokio::time::sleep(Duration::from_mins(10)).await;
            assert_eq!(health.live(), Ok(()));
            stop.cancel();
        };
        tokio::join!(health.clone().beat(stop.clone()), beating);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_jumped_is_noticed_in_both_directions() {
        for jump in [-301, 301] {
            let wall = Arc::new(Mutex::new(Timestamp::UNIX_EPOCH));
            let shared = Arc::clone(&wall);
            let health = Health::new(Clock::from_fn(move || *shared.lock().unwrap()));
            *wall.lock().unwrap() += jiff::SignedDuration::from_secs(jump);
            assert_eq!(health.live().unwrap_err(), ["the wall clock has moved 301 s against the monotonic clock"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_check_is_named() {
        let health = Health::new(clock());
        health.watch("lease", Arc::new(|| Err("dead".to_owned())));
        assert_eq!(health.live().unwrap_err(), ["lease: dead"]);
    }

    async fn fetch(address: SocketAddr, path: &str) -> reqwest::Response {
        // reqwest needs a TLS provider even for plain HTTP; another test may have installed it.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(format!("http://{address}{path}")).send().await.unwrap()
    }

    #[tokio::test]
    async fn both_endpoints_answer_and_stop() {
        let mut registry = Registry::default();
        registry.register("things", "Things", Counter::<u64>::default());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let health = Health::new(Clock::system());
        let metrics = Endpoint::metrics(any, Arc::new(registry)).await.unwrap();
        let probes = Endpoint::probes(any, health.clone()).await.unwrap();
        let (at, health_at) = (metrics.address().unwrap(), probes.address().unwrap());
        let stop = CancellationToken::new();
        let asking = async {
            let answer = fetch(at, "/metrics").await;
            assert_eq!(answer.headers()["content-type"], OPENMETRICS);
            assert!(answer.text().await.unwrap().contains("things_total 0"));
            assert_eq!(fetch(health_at, "/readyz").await.status(), 503);
            assert_eq!(fetch(health_at, "/startupz").await.status(), 503);
            ready(&health);
            assert_eq!(fetch(health_at, "/readyz").await.status(), 200);
            assert_eq!(fetch(health_at, "/startupz").await.status(), 200);
            assert_eq!(fetch(health_at, "/livez").await.text().await.unwrap(), "ok\n");
            stop.cancel();
        };
        let (first, second, ()) = tokio::join!(metrics.serve(stop.clone()), probes.serve(stop.clone()), asking);
        first.unwrap();
        second.unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = Endpoint::probes(any, Health::new(Clock::system())).await.unwrap();
        let address = first.address().unwrap();
        let error = Endpoint::metrics(address, Arc::default()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("listening on `{address}` for metrics"));
    }
}
