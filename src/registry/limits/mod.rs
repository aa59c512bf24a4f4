//! What all clients of the process share: how much is under way at a host, until when it wants to be left alone, what it
//! has shown that it can do, and who counts requests.
//!
//! Nothing here depends on credentials: presence of content and tokens belong to a [`Client`](super::Client).

mod health;
mod pace;
mod throttle;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::ranges::PARTS;
use super::{Error, Problem, Side};
use crate::gate::{Load, Place};
use health::{Admission, Health, Subject};
use pace::Pace;
pub use throttle::Throttle;
pub use window::Share;
use window::{Fair, Window};

/// The longest that a host is held for everybody; one request may be told to wait for longer.
const MAX_HOLD: Duration = Duration::from_mins(1);
/// A host that wants to be left alone for longer than this means everybody, and not only the one it told.
const LONG_HOLD: Duration = Duration::from_secs(5);
/// A host that wants to be left alone for longer than this keeps nobody else waiting: the longest limits are those of a day,
/// and who was told so has given up.
const ABSURD: Duration = Duration::from_hours(24);

/// How many requests of a kind are under way at one host to begin with. From there a window grows as long as that makes
/// the host faster, and shrinks when it asks for patience or breaks connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Blobs read from one host at a time; each holds one frame (up to about 400 KiB) in memory. Default 6.
    pub source_bulk: usize,
    /// Blobs written to one host at a time. Default 8.
    pub target_bulk: usize,
    /// Other requests to one host at a time. Default 16.
    pub metadata: usize,
    /// The most of blobs, read or written. Default 64.
    pub most_bulk: usize,
}

/// The most requests other than blobs at one host at a time.
const MOST_METADATA: usize = 64;

impl Default for Windows {
    fn default() -> Self {
        Self { source_bulk: 6, target_bulk: 8, metadata: 16, most_bulk: 64 }
    }
}

impl Windows {
    /// Windows of which none for blobs ever has more than `most` places.
    pub fn at_most(most: usize) -> Self {
        let default = Self::default();
        Self {
            source_bulk: default.source_bulk.min(most),
            target_bulk: default.target_bulk.min(most),
            most_bulk: default.most_bulk.min(most),
            ..default
        }
    }
}

/// Kinds of requests that have windows of their own, so that a HEAD never waits behind gigabytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Reading or writing one blob.
    Bulk,
    /// Everything else.
    Metadata,
}

/// One request that has ended, for metrics.
#[derive(Clone, Debug)]
pub struct RequestEvent<'a> {
    /// `host[:port]` that was contacted.
    pub host: &'a str,
    /// Whose registry it is.
    pub side: Side,
    /// The method.
    pub method: &'a Method,
    /// The status; none if there was no answer.
    pub status: Option<u16>,
    /// True if the answer says when to come back.
    pub told_to_wait: bool,
    /// True for the second and later attempts at the same thing.
    pub retry: bool,
    /// True for a request for a token.
    pub token: bool,
    /// How many more requests the host says that it takes, if it says so.
    pub remaining: Option<u64>,
    /// Time until the headers of the answer, or until there was none.
    pub elapsed: Duration,
}

impl RequestEvent<'_> {
    /// True if the registry asked for patience: there were too many requests, or it said when to come back.
    pub fn throttled(&self) -> bool {
        self.status == Some(429) || self.told_to_wait
    }
}

/// Is told about requests as they end. Called often and from everywhere: must be quick and must not block.
pub trait Observer: Send + Sync {
    /// A request has ended.
    fn request(&self, event: &RequestEvent<'_>);

    /// Bytes of blobs were read from (source) or handed to (target) a host, as they go, whatever becomes of them.
    fn bytes(&self, _host: &str, _side: Side, _count: u64) {}

    /// The transfer of a blob from (source) or to (target) a host goes on after a break, and the first `kept` bytes need
    /// not be moved again.
    fn resumed(&self, _host: &str, _side: Side, _kept: u64) {}

    /// A host did not answer, its connection broke or stalled, or it gave something else than was asked for.
    fn broke(&self, _host: &str, _problem: &Problem) {}
}

/// An observer that counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn request(&self, _event: &RequestEvent<'_>) {}
}

/// Something that a host can or cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Capability {
    /// The referrers API.
    Referrers,
    /// Mounting a blob from another repository.
    Mount,
    /// Going on with an upload whose connection broke.
    Resume,
    /// Taking a small blob with the request that would begin its upload.
    SinglePost,
    /// Giving parts of a blob.
    Ranges,
}

const CAPABILITIES: usize = 5;

/// The longest request with a part of a blob to a host that has refused a whole one.
const FIRST_CHUNK: u64 = 64 << 20;
/// The shortest one that is tried. What proxies allow where nobody has set anything is 1 MiB.
const LAST_CHUNK: u64 = 512 << 10;

/// Windows, holds and learnt capabilities of all hosts; one per process, shared by all clients.
pub struct Limits {
    windows: Windows,
    observer: Arc<dyn Observer>,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
    parts: Arc<Semaphore>,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("windows", &self.windows).finish_non_exhaustive()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(Windows::default())
    }
}

impl Limits {
    /// Limits that begin with these windows; a window of zero counts as one.
    pub fn new(windows: Windows) -> Self {
        Self::observed(windows, Arc::new(Unobserved))
    }

    /// Limits that report every request to `observer`.
    pub fn observed(windows: Windows, observer: Arc<dyn Observer>) -> Self {
        Self { windows, observer, hosts: Mutex::default(), parts: Arc::new(Semaphore::new(PARTS)) }
    }

    /// Who is told about requests.
    pub(super) fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    /// An error of a request or an answer, after the observer was told.
    pub(super) fn broken(&self, error: Error) -> Error {
        self.observer.broke(&error.asked_of(), error.problem());
        error
    }

    /// The right to hold one part of a large blob, if not as many as may be are held.
    pub(super) fn hold_part(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.parts).try_acquire_owned().ok()
    }

    /// The shared knowledge about `host[:port]`.
    pub fn host(&self, host: &str) -> Arc<Host> {
        let mut hosts = lock(&self.hosts);
        if let Some(known) = hosts.get(host) {
            return Arc::clone(known);
        }
        let new = Arc::new(Host::new(host, self.windows));
        hosts.insert(host.to_owned(), Arc::clone(&new));
        new
    }

    /// How much there is to do at each host that was asked for something so far, by name.
    pub fn loads(&self) -> Vec<(String, Loads)> {
        let hosts: Vec<_> = lock(&self.hosts).values().cloned().collect();
        hosts.iter().map(|host| (host.name.clone(), host.loads())).collect()
    }
}

/// How much there is to do at one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    /// Blobs that are read.
    pub read: Load,
    /// Blobs that are written.
    pub write: Load,
    /// Other requests.
    pub metadata: Load,
}

/// What is shared about one host.
#[derive(Debug)]
pub struct Host {
    name: String,
    source_bulk: Arc<Window>,
    target_bulk: Arc<Window>,
    metadata: Arc<Window>,
    held_until: Mutex<Option<Instant>>,
    pace: Mutex<Pace>,
    health: Mutex<Health>,
    /// The health has changed.
    changed: Notify,
    capabilities: [AtomicU8; CAPABILITIES],
    /// Somebody was told that nothing remains of what may be asked.
    told_spent: AtomicBool,
    /// Somebody has asked for referrers, or is just asking.
    asked: AtomicBool,
    asking: tokio::sync::Mutex<()>,
    /// The most bytes of a blob in one request; zero if that is not known to be bounded.
    chunk: AtomicU64,
}

/// The first request that finds out what a host can do, while it goes on.
#[derive(Debug)]
pub(super) struct FindingOut<'a> {
    asked: &'a AtomicBool,
    _alone: tokio::sync::MutexGuard<'a, ()>,
}

impl Drop for FindingOut<'_> {
    fn drop(&mut self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}

/// The right to have one request under way; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _place: Place<Fair>,
    window: Arc<Window>,
}

impl Permit {
    /// What it was for has succeeded, and moved `amount` bytes, or was one request.
    pub(super) fn succeeded(&self, amount: u64) {
        self.window.success(amount);
    }

    /// What it was for was broken, or refused for being too much.
    pub(super) fn troubled(&self) {
        self.window.trouble();
    }
}

/// One attempt at a request, between its admission and what came of it.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    host: &'a Host,
    subject: Subject,
    ended: bool,
}

impl Attempt<'_> {
    /// The host has answered.
    pub(super) fn answered(mut self) {
        self.ended = true;
        let was_down = {
            let mut health = lock(&self.host.health);
            let was_down = health.is_down();
            health.answered();
            was_down
        };
        lock(&self.host.pace).taken(Instant::now());
        if was_down {
            tracing::info!(host = self.host.name, "the registry answers again");
            self.host.changed.notify_waiters();
        }
    }

    /// The host has refused it because there were too many.
    pub(super) fn refused(mut self, after: Option<Duration>) {
        self.ended = true;
        lock(&self.host.health).answered();
        self.host.changed.notify_waiters();
        let after = after.filter(|after| *after <= ABSURD);
        let hold = lock(&self.host.pace).refused(Instant::now(), after);
        // A long time is waited out by everybody, whoever was told first.
        if let Some(time) = hold.or(after.filter(|after| *after > LONG_HOLD)) {
            self.host.hold(time);
        }
    }

    /// It has not reached the host, or was answered by something that does not reach it.
    pub(super) fn failed(mut self, problem: &Problem) {
        self.ended = true;
        let went_down = {
            let mut health = lock(&self.host.health);
            let was_down = health.is_down();
            health.failed(Instant::now(), self.subject, problem, fastrand::f64());
            health.is_down() && !was_down
        };
        if went_down {
            tracing::warn!(host = self.host.name, "the registry does not answer: it is looked at now and then");
        }
        self.host.changed.notify_waiters();
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.ended {
            lock(&self.host.health).unknown();
            self.host.changed.notify_waiters();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    fn new(name: &str, windows: Windows) -> Self {
        Self {
            name: name.to_owned(),
            source_bulk: Window::new(windows.source_bulk, windows.most_bulk),
            target_bulk: Window::new(windows.target_bulk, windows.most_bulk),
            metadata: Window::new(windows.metadata, MOST_METADATA),
            held_until: Mutex::new(None),
            pace: Mutex::default(),
            health: Mutex::default(),
            changed: Notify::new(),
            capabilities: Default::default(),
            told_spent: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            asking: tokio::sync::Mutex::default(),
            chunk: AtomicU64::new(0),
        }
    }

    /// Waits for a place in the window, of which the `share` that has got least is next; `cost` is what it is for, in bytes
    /// or, for other requests, one.
    ///
    /// Who needs bulk permits on both sides takes the source's first: windows of the two sides are distinct even on one
    /// host, so nobody waits in a circle.
    pub async fn acquire(&self, side: Side, work: Work, share: Share, cost: u64) -> Permit {
        let window = self.window(side, work);
        Permit { _place: window.acquire(share, cost).await, window: Arc::clone(window) }
    }

    /// A place in the window if one is free at once.
    pub(super) fn try_acquire(&self, side: Side, work: Work) -> Option<Permit> {
        let window = self.window(side, work);
        window.try_acquire().map(|place| Permit { _place: place, window: Arc::clone(window) })
    }

    fn window(&self, side: Side, work: Work) -> &Arc<Window> {
        match (work, side) {
            (Work::Metadata, _) => &self.metadata,
            (Work::Bulk, Side::Source) => &self.source_bulk,
            (Work::Bulk, Side::Target) => &self.target_bulk,
        }
    }

    /// How much there is to do in the windows now.
    pub fn loads(&self) -> Loads {
        Loads { read: self.source_bulk.load(), write: self.target_bulk.load(), metadata: self.metadata.load() }
    }

    /// Waits until a request for `path` may be made: while the host is down, and at its pace.
    ///
    /// # Errors
    /// What the host failed with, if it has been down for longer than `patience`.
    pub(super) async fn admit(&self, path: &str, patience: Duration) -> Result<Attempt<'_>, Problem> {
        let mut hasher = std::hash::DefaultHasher::new();
        path.hash(&mut hasher);
        let subject = hasher.finish();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no change in between is missed.
            changed.as_mut().enable();
            let admission = lock(&self.health).admit(Instant::now(), subject, patience);
            match admission {
                Admission::Go => break,
                Admission::Down(problem) => return Err(problem),
                // Whichever comes first.
                Admission::Wait(until) => drop(timeout_at(until, changed).await),
            }
        }
        let attempt = Attempt { host: self, subject, ended: false };
        let now = Instant::now();
        let at = lock(&self.pace).next(now);
        if at > now {
            sleep_until(at).await;
        }
        Ok(attempt)
    }

    /// True while the host does not answer, and is still waited for.
    pub(super) fn is_awaited(&self, patience: Duration) -> bool {
        lock(&self.health).is_awaited(Instant::now(), patience)
    }

    /// Waits until a request that failed may be made again: only a part of all requests may be, so that trouble does not
    /// become a storm.
    pub(super) async fn again(&self) {
        loop {
            let next = lock(&self.health).again(Instant::now());
            match next {
                Ok(()) => return,
                Err(at) => sleep_until(at).await,
            }
        }
    }

    /// Keeps everybody from this host for `time`, at most a minute.
    pub fn hold(&self, time: Duration) {
        let until = Instant::now() + time.min(MAX_HOLD);
        let mut held = lock(&self.held_until);
        *held = Some(held.map_or(until, |old| old.max(until)));
    }

    /// Takes note that the host says that nothing remains of what may be asked of it.
    ///
    /// That changes nothing about what is asked: Docker Hub says so for hours, in which it goes on to answer HEAD requests
    /// and to give blobs, and what it counts by the second shows no sooner in this than in a refusal.
    pub(super) fn spent(&self) {
        if !self.told_spent.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                host = self.name,
                "the registry says that its limit of requests is reached: it may refuse more; credentials may have a higher limit"
            );
        }
    }

    /// How much longer the host is held.
    pub fn held(&self) -> Option<Duration> {
        let mut held = lock(&self.held_until);
        let left = held.map(|until| until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
        if left.is_none() {
            *held = None;
        }
        left
    }

    /// Whether the host can do something; none as long as nobody has found out.
    pub fn can(&self, capability: Capability) -> Option<bool> {
        match self.slot(capability)?.load(Ordering::Relaxed) {
            1 => Some(false),
            2 => Some(true),
            _ => None,
        }
    }

    /// Remembers whether the host can do something.
    pub fn learn(&self, capability: Capability, can: bool) {
        if let Some(slot) = self.slot(capability) {
            slot.store(if can { 2 } else { 1 }, Ordering::Relaxed);
        }
    }

    /// Whoever is the first to find out whether the host keeps referrers holds this while asking, and others wait for that.
    /// None once it is known, or was asked and did not become known.
    pub(super) async fn find_out_about_referrers(&self) -> Option<FindingOut<'_>> {
        let asked = || self.can(Capability::Referrers).is_some() || self.asked.load(Ordering::Relaxed);
        if asked() {
            return None;
        }
        let alone = self.asking.lock().await;
        (!asked()).then(|| FindingOut { asked: &self.asked, _alone: alone })
    }

    /// The most bytes of a blob that the host takes in one request, as far as it has refused more.
    pub(super) fn chunk(&self) -> Option<u64> {
        Some(self.chunk.load(Ordering::Relaxed)).filter(|most| *most > 0)
    }

    /// Takes note that a request with `length` bytes of a blob was too long for the host; false if that was short enough
    /// that the length of requests cannot be the reason, which is then not believed any longer.
    pub(super) fn shorten(&self, length: u64) -> bool {
        if length <= LAST_CHUNK {
            self.chunk.store(0, Ordering::Relaxed);
            return false;
        }
        let half = (length / 2).clamp(LAST_CHUNK, FIRST_CHUNK);
        // Another transfer may have found out more in between.
        let known = self.chunk().map_or(half, |known| known.min(half));
        self.chunk.store(known, Ordering::Relaxed);
        true
    }

    fn slot(&self, capability: Capability) -> Option<&AtomicU8> {
        self.capabilities.get(capability as usize)
    }
}
