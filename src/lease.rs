//! Leader election on a `coordination.k8s.io` Lease, with the algorithm of client-go.
//!
//! Guarantees: two electors that share a Lease never both believe to lead, as long as their monotonic clocks run at about
//! the same speed. Times written by others are never compared with a clock of ours: a record expires when *we* have not
//! seen it change for its duration. Every write is a full replace that carries the `resourceVersion` it was decided on.
//!
//! A process that has lost the lease does not try to live on: [`Leadership::Lost`] is final, and the caller cancels its work
//! and exits. Writers that must not overlap with a successor (cluster objects, deletes, tag moves) ask the [`Fence`] right
//! before each write.
//!
//! Not here: what the leader does, and exiting the process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// No single call to the API server takes longer than this, whatever the settings.
const LONGEST_CALL: Duration = Duration::from_secs(10);

/// How long beyond the lease a leader may go without renewing before the liveness probe fails.
const WATCHDOG_GRACE: Duration = Duration::from_secs(20);

/// The three times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long others wait, after the record last changed, before they take over.
    pub duration: Duration,
    /// How long the leader goes on without a successful renewal before it gives up; below `duration`.
    pub renew_deadline: Duration,
    /// Time between renewals, and between looks of those who wait.
    pub retry_period: Duration,
}

impl Default for Settings {
    /// 60, 40 and 10 seconds.
    fn default() -> Self {
        Self {
            duration: Duration::from_mins(1),
            renew_deadline: Duration::from_secs(40),
            retry_period: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// Checks that a leader gives up before others take over, and can miss a renewal before it gives up.
    pub fn validate(&self) -> Result<(), Error> {
        let valid = self.duration >= Duration::from_secs(1)
            && self.duration > self.renew_deadline
            && self.renew_deadline > self.retry_period.mul_f64(1.2)
            && !self.retry_period.is_zero();
        if valid { Ok(()) } else { Err(Error::Settings(*self)) }
    }

    /// Shorter than the pause between two calls: an idle connection is given up after the same time, which must not happen
    /// just when the next call is made on it.
    fn longest_call(&self) -> Duration {
        (self.retry_period / 2).min(LONGEST_CALL)
    }

    /// The duration as the record stores it: whole seconds, never less than we mean.
    fn recorded_duration(&self) -> i32 {
        let seconds = self.duration.as_secs() + u64::from(self.duration.subsec_nanos() > 0);
        i32::try_from(seconds).unwrap_or(i32::MAX)
    }
}

/// What can go wrong with an election.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The three times contradict each other.
    #[error(
        "leader election needs lease duration > renew deadline > 1.2 × retry period, and a lease duration of at least \
         1 s: got {:?}, {:?} and {:?}",
        .0.duration, .0.renew_deadline, .0.retry_period
    )]
    Settings(Settings),
    /// The client could not be made.
    #[error("making the client for leader election")]
    Client(#[source] Box<kube::Error>),
    /// A call failed.
    #[error("{action} lease `{name}`")]
    Api {
        /// What was done, as a participle.
        action: &'static str,
        /// The lease.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// A call took too long.
    #[error("{action} lease `{name}` timed out after {after:?}")]
    Timeout {
        /// What was done, as a participle.
        action: &'static str,
        /// The lease.
        name: String,
        /// The bound.
        after: Duration,
    },
}

/// A client for the election alone: no retries of its own, since a 429 must not hold up a renewal, and short timeouts, since
/// a connection that went silent must not hold one up either.
pub fn client(mut config: kube::Config, settings: &Settings) -> Result<Client, Error> {
    config.default_retry = false;
    config.connect_timeout = Some(settings.longest_call());
    // It also ends connections at rest, and each renewal would meet one that is just ending if it were the retry period.
    // Each call has a shorter limit of its own; this one is for the connection that the next call would be sent on.
    config.read_timeout = Some(settings.retry_period.mul_f64(2.5));
    config.write_timeout = Some(settings.longest_call());
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}

/// An identity no other process has: the pod's name and eight random hexadecimal digits.
pub fn identity(pod_name: &str) -> String {
    format!("{pod_name}_{:08x}", fastrand::u32(..))
}

/// Who leads, as far as this process knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Somebody else, or nobody yet.
    Standby {
        /// The holder last seen.
        holder: Option<String>,
    },
    /// This process.
    Leading,
    /// This process no longer, against its will. Final: cancel everything and exit.
    Lost,
    /// This process no longer, or never: it was asked to stop. Final.
    Released,
}

/// How [`Elector::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Asked to stop, and not leading any more.
    Released,
    /// The lease was lost.
    Lost,
}

/// What stands in for an [`Elector`] where there is no election: this process leads from the start, until `stop` is cancelled.
pub fn alone(stop: CancellationToken) -> (Fence, watch::Receiver<Leadership>, impl Future<Output = Ended>) {
    let (leads, leadership) = watch::channel(Leadership::Leading);
    let ended = async move {
        stop.cancelled().await;
        leads.send_replace(Leadership::Released);
        Ended::Released
    };
    (Fence::always(), leadership, ended)
}

/// Answers, without a call, whether the lease still protects a write that is about to be sent.
#[derive(Clone, Debug)]
pub struct Fence(Arc<Mutex<Deadline>>);

#[derive(Clone, Copy, Debug)]
enum Deadline {
    /// There is no election.
    Never,
    /// Not leading.
    Passed,
    /// Leading until then.
    At(Instant),
}

impl Fence {
    /// A fence that always holds, for a process without leader election.
    pub fn always() -> Self {
        Self(Arc::new(Mutex::new(Deadline::Never)))
    }

    fn closed() -> Self {
        Self(Arc::new(Mutex::new(Deadline::Passed)))
    }

    /// True while this process leads and its renew deadline has not passed. Nobody else takes over before the lease's
    /// duration has passed, so a write sent now has the difference of the two to arrive.
    pub fn holds(&self) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Deadline::Never => true,
            Deadline::Passed => false,
            Deadline::At(at) => Instant::now() < at,
        }
    }

    /// Until when the fence holds as far as is known now: what is being sent is given up then. None if it always holds.
    pub fn until(&self) -> Option<Instant> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Deadline::Never => None,
            Deadline::Passed => Some(Instant::now()),
            Deadline::At(at) => Some(at),
        }
    }

    #[cfg(test)]
    pub(crate) fn ending(at: Instant) -> Self {
        Self(Arc::new(Mutex::new(Deadline::At(at))))
    }

    fn set(&self, deadline: Deadline) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

/// Tells the liveness probe whether the elector still does its work.
#[derive(Clone, Debug)]
pub struct Watchdog {
    leadership: watch::Receiver<Leadership>,
    renewed: Arc<Mutex<Option<Instant>>>,
    patience: Duration,
}

impl Watchdog {
    /// Fails if the elector has ended without saying so, or believes to lead without having renewed for the lease's
    /// duration and 20 s.
    pub fn check(&self) -> Result<(), String> {
        let leadership = self.leadership.borrow().clone();
        let gone = self.leadership.has_changed().is_err();
        if gone && !matches!(leadership, Leadership::Lost | Leadership::Released) {
            return Err("the leader elector is dead".to_owned());
        }
        if leadership != Leadership::Leading {
            return Ok(());
        }
        match *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(at) if at.elapsed() > self.patience => {
                Err(format!("the lease was last renewed {} s ago", at.elapsed().as_secs()))
            }
            _ => Ok(()),
        }
    }
}

/// The record as it was seen, and when it was first seen like that.
#[derive(Clone, Debug, PartialEq)]
struct Observed {
    lease: Lease,
    at: Instant,
}

impl Observed {
    /// What is known after `lease` was read at `now`: only a changed record restarts the clock, not a changed label.
    fn look(previous: Option<&Self>, lease: Lease, now: Instant) -> Self {
        let at = previous.filter(|seen| seen.lease.spec == lease.spec).map_or(now, |seen| seen.at);
        Self { lease, at }
    }

    fn spec(&self) -> LeaseSpec {
        self.lease.spec.clone().unwrap_or_default()
    }

    fn holder(&self) -> Option<String> {
        self.spec().holder_identity.filter(|holder| !holder.is_empty())
    }

    /// When the record expires unless it changes. The holder's own duration counts: it may run with other settings.
    fn expires(&self, fallback: Duration) -> Instant {
        let recorded = self.spec().lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        self.at + recorded.map_or(fallback, Duration::from_secs)
    }
}

/// What to do about the record that was seen.
#[derive(Clone, Debug, PartialEq)]
enum Decision {
    /// There is no lease: make one.
    Create,
    /// It is ours: write a new renew time.
    Renew,
    /// Nobody's, or not renewed for too long: write our name.
    TakeOver,
    /// Somebody else's until then, unless it changes.
    Wait(Instant),
}

fn decide(identity: &str, observed: Option<&Observed>, fallback: Duration, now: Instant) -> Decision {
    let Some(observed) = observed else { return Decision::Create };
    match observed.holder() {
        None => Decision::TakeOver,
        Some(holder) if holder == identity => Decision::Renew,
        Some(_) if observed.expires(fallback) <= now => Decision::TakeOver,
        Some(_) => Decision::Wait(observed.expires(fallback)),
    }
}

/// One candidate for a lease.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    settings: Settings,
    clock: Clock,
    leadership: watch::Sender<Leadership>,
    fence: Fence,
    renewed: Arc<Mutex<Option<Instant>>>,
}

impl Elector {
    /// A candidate for lease `name` in `namespace`; nothing is sent before [`Elector::run`]. Use a client of [`client`].
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: impl Into<String>,
        settings: Settings,
    ) -> Result<Self, Error> {
        settings.validate()?;
        Ok(Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.into(),
            settings,
            clock: Clock::system(),
            leadership: watch::Sender::new(Leadership::Standby { holder: None }),
            fence: Fence::closed(),
            renewed: Arc::default(),
        })
    }

    /// Uses another clock for the times it writes for people to read; they decide nothing.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// The fence that writers ask.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// What the liveness probe asks.
    pub fn watchdog(&self) -> Watchdog {
        Watchdog {
            leadership: self.leadership.subscribe(),
            renewed: Arc::clone(&self.renewed),
            patience: self.settings.duration + WATCHDOG_GRACE,
        }
    }

    /// Campaigns, leads and renews until the lease is lost or `stop` is cancelled.
    ///
    /// Cancel `stop` only after everything that writes has stopped: the lease is then given up at once, so that a standby
    /// need not wait for it to expire.
    pub async fn run(self, stop: CancellationToken) -> Ended {
        let mut observed = None;
        let mut sent = None;
        let ended = loop {
            let wait = match stop.run_until_cancelled(self.turn(&mut observed, &mut sent)).await {
                None => break Ended::Released,
                Some(Turn::Lost) => break Ended::Lost,
                Some(Turn::Again(after)) => after,
            };
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                break Ended::Released;
            }
        };
        self.fence.set(Deadline::Passed);
        match ended {
            Ended::Lost => {
                tracing::error!(lease = self.name, identity = self.identity, "leadership lost");
                self.leadership.send_replace(Leadership::Lost);
            }
            Ended::Released => {
                // Also when not leading: a call that was dropped in flight may have made us the holder.
                if let Err(error) = self.release().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the lease could not be released");
                }
                self.leadership.send_replace(Leadership::Released);
            }
        }
        ended
    }

    /// One attempt to get or keep the lease. `sent` is when the last successful write was sent, if we lead.
    async fn turn(&self, observed: &mut Option<Observed>, sent: &mut Option<Instant>) -> Turn {
        // Before anything else: a process that was frozen must not renew a lease that it no longer has.
        let deadline = sent.map(|at| at + self.settings.renew_deadline);
        if deadline.is_some_and(|at| Instant::now() >= at) {
            return Turn::Lost;
        }
        let attempt = self.attempt(observed);
        let result = match deadline {
            None => attempt.await,
            Some(at) => match tokio::time::timeout_at(at, attempt).await {
                Ok(result) => result,
                Err(_elapsed) => return Turn::Lost,
            },
        };
        match result {
            Ok(Some(written)) if Instant::now() < written + self.settings.renew_deadline => {
                *sent = Some(written);
                *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(written);
                self.fence.set(Deadline::At(written + self.settings.renew_deadline));
                if self.publish(Leadership::Leading) {
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                }
                Turn::Again(self.settings.retry_period.saturating_sub(written.elapsed()))
            }
            // The answer came so late that we must not rely on it.
            Ok(Some(_)) => Turn::Lost,
            Ok(None) if sent.is_some() => Turn::Lost,
            Ok(None) => {
                let holder = observed.as_ref().and_then(Observed::holder);
                if self.publish(Leadership::Standby { holder: holder.clone() }) {
                    tracing::info!(lease = self.name, holder, "standing by");
                }
                let expiry = observed.as_ref().map(|seen| seen.expires(self.settings.duration));
                let left = expiry.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
                Turn::Again(self.standby_wait().min(left))
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, leading = sent.is_some(), "lease");
                let left = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
                Turn::Again(self.standby_wait().min(left))
            }
        }
    }

    /// A little less than the retry period, so that candidates started together do not knock together.
    fn standby_wait(&self) -> Duration {
        self.settings.retry_period.mul_f64(0.8 + 0.2 * fastrand::f64())
    }

    fn publish(&self, leadership: Leadership) -> bool {
        self.leadership.send_if_modified(|current| {
            let changed = *current != leadership;
            *current = leadership;
            changed
        })
    }

    /// Writes the record if it is ours to write. `Some` is when the successful write was sent; `None` means that somebody
    /// else holds the lease.
    async fn attempt(&self, observed: &mut Option<Observed>) -> Result<Option<Instant>, Error> {
        // A holder knows the record it wrote and need not read it first.
        let known = observed.as_ref().is_some_and(|seen| seen.holder().as_deref() == Some(self.identity.as_str()));
        if !known {
            self.look(observed).await?;
        }
        let mut moved = false;
        loop {
            let decision = decide(&self.identity, observed.as_ref(), self.settings.duration, Instant::now());
            let sent = Instant::now();
            let written = match (&decision, observed.as_ref()) {
                (Decision::Wait(_), _) => return Ok(None),
                (Decision::Renew | Decision::TakeOver, Some(seen)) => {
                    self.replace(seen, decision == Decision::TakeOver).await
                }
                (Decision::Create | Decision::Renew | Decision::TakeOver, _) => self.create().await,
            };
            match written {
                Ok(lease) => {
                    *observed = Some(Observed { lease, at: sent });
                    return Ok(Some(sent));
                }
                Err(Error::Api { source, .. }) if is_stale(&source) && !moved => {
                    moved = true;
                    self.look(observed).await?;
                }
                // A write that failed otherwise may have arrived: the next one is then stale, and we look.
                Err(error) => return Err(error),
            }
        }
    }

    async fn look(&self, observed: &mut Option<Observed>) -> Result<(), Error> {
        match self.call("reading", self.api.get(&self.name)).await {
            Ok(lease) => *observed = Some(Observed::look(observed.as_ref(), lease, Instant::now())),
            Err(Error::Api { source, .. }) if code(&source) == Some(404) => *observed = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn create(&self) -> Result<Lease, Error> {
        let now = MicroTime(self.clock.now());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(self.settings.recorded_duration()),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        self.call("creating", self.api.create(&PostParams::default(), &lease)).await
    }

    async fn replace(&self, seen: &Observed, take_over: bool) -> Result<Lease, Error> {
        let now = MicroTime(self.clock.now());
        let mut lease = seen.lease.clone();
        let spec = lease.spec.get_or_insert_default();
        if take_over {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        }
        spec.lease_duration_seconds = Some(self.settings.recorded_duration());
        spec.renew_time = Some(now);
        self.call("writing", self.api.replace(&self.name, &PostParams::default(), &lease)).await
    }

    /// Empties the record if it is ours.
    async fn release(&self) -> Result<(), Error> {
        for attempt in 0..2 {
            let mut observed = None;
            self.look(&mut observed).await?;
            let Some(mut seen) = observed.filter(|seen| seen.holder().as_deref() == Some(&self.identity)) else {
                return Ok(());
            };
            let spec = seen.lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(self.clock.now()));
            match self.call("releasing", self.api.replace(&self.name, &PostParams::default(), &seen.lease)).await {
                Err(Error::Api { source, .. }) if is_stale(&source) && attempt == 0 => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    tracing::info!(lease = self.name, identity = self.identity, "lease released");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn call<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let after = self.settings.longest_call();
        match tokio::time::timeout(after, request).await {
            Err(_elapsed) => Err(Error::Timeout { action, name: self.name.clone(), after }),
            Ok(Err(error)) => Err(Error::Api { action, name: self.name.clone(), source: Box::new(error) }),
            Ok(Ok(value)) => Ok(value),
        }
    }
}

enum Turn {
    Lost,
    Again(Duration),
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The record is not what the write was based on: it changed, appeared or went.
fn is_stale(error: &kube::Error) -> bool {
    matches!(code(error), Some(404 | 409))
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Response, StatusCode};
    use kube::client::Body;
    use proptest::prelude::*;
    use serde_json::json;
    use tower_test::mock::Handle;

    use super::*;

    type Server = Handle<Request<Body>, Response<Body>>;

    const SETTINGS: Settings = Settings {
        duration: Duration::from_mins(1),
        renew_deadline: Duration::from_secs(40),
        retry_period: Duration::from_secs(10),
    };

    fn elector() -> (Elector, Server) {
        let (service, server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let client = Client::new(service, "ns");
        let clock = Clock::from_fn(|| "2026-11-22T08:00:00Z".parse().unwrap());
        (Elector::new(client, "ns", "lock", "me", SETTINGS).unwrap().with_clock(clock), server)
    }

    fn lease(holder: &str, version: u32, transitions: i32) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "lock", "namespace": "ns", "resourceVersion": version.to_string()},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": 60,
                "leaseTransitions": transitions,
                "renewTime": format!("2026-11-22T07:00:{version:02}.000000Z"),
            },
        }))
        .unwrap()
    }

    fn ok(lease: &Lease) -> Response<Body> {
        Response::new(Body::from(serde_json::to_vec(lease).unwrap()))
    }

    fn refused(code: StatusCode) -> Response<Body> {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
                          "reason": "x", "message": "x", "metadata": {}});
        Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap()
    }

    /// Answers the next request, which must have this method, and returns the lease it carried.
    async fn answer(server: &mut Server, method: Method, response: Response<Body>) -> Option<Lease> {
        let (request, send) = server.next_request().await.expect("a request");
        assert_eq!(request.method(), method);
        let body = request.into_body().collect_bytes().await.unwrap();
        send.send_response(response);
        serde_json::from_slice(&body).ok()
    }

    fn written(lease: Option<&Lease>) -> LeaseSpec {
        lease.and_then(|lease| lease.spec.clone()).expect("a lease was written")
    }

    async fn lead(server: &mut Server) {
        answer(server, Method::GET, refused(StatusCode::NOT_FOUND)).await;
        answer(server, Method::POST, ok(&lease("me", 1, 0))).await;
    }

    async fn until(receiver: &mut watch::Receiver<Leadership>, wanted: Leadership) {
        receiver.wait_for(|leadership| *leadership == wanted).await.unwrap();
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        assert!(Settings::default().validate().is_ok());
        let seconds = |duration, renew_deadline, retry_period| Settings {
            duration: Duration::from_secs(duration),
            renew_deadline: Duration::from_secs(renew_deadline),
            retry_period: Duration::from_secs(retry_period),
        };
        assert!(seconds(40, 40, 10).validate().is_err());
        assert!(seconds(60, 12, 10).validate().is_err());
        assert!(seconds(60, 40, 0).validate().is_err());
        assert!(seconds(3, 2, 1).validate().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_expires_by_our_clock_only() {
        let seen = Observed::look(None, lease("other", 1, 0), Instant::now());
        let fallback = SETTINGS.duration;
        assert_eq!(decide("me", None, fallback, Instant::now()), Decision::Create);
        assert_eq!(decide("me", Some(&seen), fallback, Instant::now()), Decision::Wait(seen.at + fallback));
        assert_eq!(decide("other", Some(&seen), fallback, Instant::now()), Decision::Renew);
        tokio::time::advance(Duration::from_secs(59)).await;
        let again = Observed::look(Some(&seen), lease("other", 1, 0), Instant::now());
        assert_eq!(again.at, seen.at, "the same record does not restart the clock");
        let renewed = Observed::look(Some(&seen), lease("other", 2, 0), Instant::now());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(decide("me", Some(&again), fallback, Instant::now()), Decision::TakeOver);
        assert!(matches!(decide("me", Some(&renewed), fallback, Instant::now()), Decision::Wait(_)));
        let released = Observed::look(None, lease("", 3, 0), Instant::now());
        assert_eq!(decide("me", Some(&released), fallback, Instant::now()), Decision::TakeOver);
    }

    proptest! {
        #[test]
        fn a_live_record_of_another_is_never_taken(age in 0u64..200, holder in "(me|other|)", duration in 1i32..120) {
            let mut lease = lease(&holder, 1, 0);
            lease.spec.as_mut().unwrap().lease_duration_seconds = Some(duration);
            let at = Instant::now();
            let now = at + Duration::from_secs(age);
            let decision = decide("me", Some(&Observed { lease, at }), SETTINGS.duration, now);
            let alive = age < u64::try_from(duration).unwrap();
            prop_assert_eq!(matches!(decision, Decision::Wait(_)), holder == "other" && alive);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_lease_is_made_and_renewed() {
        let (elector, mut server) = elector();
        let (fence, mut leadership) = (elector.fence(), elector.leadership());
        let stop = CancellationToken::new();
        assert!(!fence.holds());
        let scenario = async {
            answer(&mut server, Method::GET, refused(StatusCode::NOT_FOUND)).await;
            let made = answer(&mut server, Method::POST, ok(&lease("me", 1, 0))).await;
            assert_eq!(written(made.as_ref()).holder_identity.as_deref(), Some("me"));
            until(&mut leadership, Leadership::Leading).await;
            assert!(fence.holds());
            let began = Instant::now();
            let renewed = answer(&mut server, Method::PUT, ok(&lease("me", 2, 0))).await;
            assert_eq!(began.elapsed(), SETTINGS.retry_period);
            assert_eq!(renewed.unwrap().metadata.resource_version.as_deref(), Some("1"));
            stop.cancel();
            answer(&mut server, Method::GET, ok(&lease("me", 2, 0))).await;
            let released = written(answer(&mut server, Method::PUT, ok(&lease("", 3, 0))).await.as_ref());
            assert_eq!(released.holder_identity.as_deref(), Some(""));
            assert_eq!(released.lease_duration_seconds, Some(1));
            assert!(!fence.holds(), "the fence closes before the lease is given away");
        };
        let (ended, ()) = tokio::join!(elector.run(stop.clone()), scenario);
        assert_eq!(ended, Ended::Released);
        assert_eq!(*leadership.borrow(), Leadership::Released);
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_lease_is_taken_over_and_counted() {
        let (elector, mut server) = elector();
        let mut leadership = elector.leadership();
        let stop = CancellationToken::new();
        let scenario = async {
            let began = Instant::now();
            let taken = loop {
                let (request, send) = server.next_request().await.unwrap();
                if request.method() == Method::PUT {
                    let body = request.into_body().collect_bytes().await.unwrap();
                    send.send_response(ok(&lease("me", 8, 4)));
                    break serde_json::from_slice::<Lease>(&body).unwrap();
                }
                send.send_response(ok(&lease("other", 7, 3)));
            };
            assert!(began.elapsed() >= SETTINGS.duration);
            assert!(began.elapsed() < SETTINGS.duration + Duration::from_secs(1));
            assert_eq!(written(Some(&taken)).lease_transitions, Some(4));
            assert_eq!(taken.metadata.resource_version.as_deref(), Some("7"));
            until(&mut leadership, Leadership::Leading).await;
            stop.cancel();
            answer(&mut server, Method::GET, ok(&lease("me", 8, 4))).await;
            answer(&mut server, Method::PUT, ok(&lease("", 9, 4))).await;
        };
        tokio::join!(elector.run(stop.clone()), scenario);
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_means_looking_again() {
        let (elector, mut server) = elector();
        let leadership = elector.leadership();
        let scenario = async {
            lead(&mut server).await;
            answer(&mut server, Method::PUT, refused(StatusCode::CONFLICT)).await;
            // Ours after all: an earlier write that seemed to fail had arrived, or a label was added.
            answer(&mut server, Method::GET, ok(&lease("me", 5, 0))).await;
            let renewed = answer(&mut server, Method::PUT, ok(&lease("me", 6, 0))).await;
            assert_eq!(renewed.unwrap().metadata.resource_version.as_deref(), Some("5"));
            answer(&mut server, Method::PUT, refused(StatusCode::CONFLICT)).await;
            answer(&mut server, Method::GET, ok(&lease("other", 7, 1))).await;
        };
        let (ended, ()) = tokio::join!(elector.run(CancellationToken::new()), scenario);
        assert_eq!(ended, Ended::Lost);
        assert_eq!(*leadership.borrow(), Leadership::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_gives_up_at_the_deadline() {
        let (elector, mut server) = elector();
        let (fence, mut leadership, watchdog) = (elector.fence(), elector.leadership(), elector.watchdog());
        let scenario = async {
            lead(&mut server).await;
            until(&mut leadership, Leadership::Leading).await;
            let began = Instant::now();
            let mut silent = Vec::new();
            while let Ok(Some(request)) =
                tokio::time::timeout_at(began + SETTINGS.duration, server.next_request()).await
            {
                silent.push(request);
                assert!(watchdog.check().is_ok());
            }
            assert!(silent.len() >= 2, "it tries again before the deadline");
            assert!(!fence.holds());
        };
        let began = Instant::now();
        let run = async {
            let ended = elector.run(CancellationToken::new()).await;
            (ended, began.elapsed())
        };
        let ((ended, after), ()) = tokio::join!(run, scenario);
        assert_eq!(ended, Ended::Lost);
        assert_eq!(after, SETTINGS.renew_deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_leader_sends_nothing_when_it_wakes() {
        let (elector, mut server) = elector();
        let fence = elector.fence();
        let scenario = async {
            lead(&mut server).await;
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_mins(2)).await;
            assert!(!fence.holds());
            assert!(server.next_request().await.is_none(), "no request after the deadline");
        };
        let (ended, ()) = tokio::join!(elector.run(CancellationToken::new()), scenario);
        assert_eq!(ended, Ended::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn an_elector_that_is_dropped_fails_liveness() {
        let (elector, server) = elector();
        let watchdog = elector.watchdog();
        assert!(watchdog.check().is_ok());
        drop((elector, server));
        assert_eq!(watchdog.check().unwrap_err(), "the leader elector is dead");
    }
}
