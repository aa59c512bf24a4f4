//! What all clients of the process share: how much is under way at a host, until when it wants to be left alone, what it
//! has shown that it can do, and who counts requests.
//!
//! Nothing here depends on credentials: presence of content and tokens belong to a [`Client`](super::Client).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Side;

/// The longest that a host is held for everybody; one request may be told to wait for longer.
const MAX_HOLD: Duration = Duration::from_mins(1);

/// How many requests of a kind may be under way at one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Blobs read from one host at a time; each holds one frame (up to about 400 KiB) in memory. Default 6.
    pub source_bulk: usize,
    /// Blobs written to one host at a time. Default 8.
    pub target_bulk: usize,
    /// Other requests to one host at a time. Default 16.
    pub metadata: usize,
}

impl Default for Windows {
    fn default() -> Self {
        Self { source_bulk: 6, target_bulk: 8, metadata: 16 }
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

    /// Bytes of blobs were read from (source) or handed to (target) a host.
    fn bytes(&self, _host: &str, _side: Side, _count: u64) {}

    /// The reading of a blob was taken up again after a break.
    fn resumed(&self, _host: &str) {}
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
}

const CAPABILITIES: usize = 3;

/// The longest request with a part of a blob to a host that has refused a whole one.
const FIRST_CHUNK: u64 = 64 << 20;
/// The shortest one that is tried. What proxies allow where nobody has set anything is 1 MiB.
const LAST_CHUNK: u64 = 512 << 10;

/// Windows, holds and learnt capabilities of all hosts; one per process, shared by all clients.
pub struct Limits {
    windows: Windows,
    observer: Arc<dyn Observer>,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
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
    /// Limits with these windows; a window of zero counts as one.
    pub fn new(windows: Windows) -> Self {
        Self::observed(windows, Arc::new(Unobserved))
    }

    /// Limits that report every request to `observer`.
    pub fn observed(windows: Windows, observer: Arc<dyn Observer>) -> Self {
        Self { windows, observer, hosts: Mutex::default() }
    }

    /// Who is told about requests.
    pub(super) fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    /// The shared knowledge about `host[:port]`.
    pub fn host(&self, host: &str) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(host) {
            return Arc::clone(known);
        }
        let new = Arc::new(Host::new(self.windows));
        hosts.insert(host.to_owned(), Arc::clone(&new));
        new
    }
}

/// What is shared about one host.
#[derive(Debug)]
pub struct Host {
    source_bulk: Arc<Semaphore>,
    target_bulk: Arc<Semaphore>,
    metadata: Arc<Semaphore>,
    held_until: Mutex<Option<Instant>>,
    capabilities: [AtomicU8; CAPABILITIES],
    /// The most bytes of a blob in one request; zero if that is not known to be bounded.
    chunk: AtomicU64,
}

/// The right to have one request under way; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Host {
    fn new(windows: Windows) -> Self {
        let window = |size: usize| Arc::new(Semaphore::new(size.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            source_bulk: window(windows.source_bulk),
            target_bulk: window(windows.target_bulk),
            metadata: window(windows.metadata),
            held_until: Mutex::new(None),
            capabilities: Default::default(),
            chunk: AtomicU64::new(0),
        }
    }

    /// Waits for a place in the window.
    ///
    /// Who needs bulk permits on both sides takes the source's first: windows of the two sides are distinct even on one
    /// host, so nobody waits in a circle.
    pub async fn acquire(&self, side: Side, work: Work) -> Permit {
        let window = match (work, side) {
            (Work::Metadata, _) => &self.metadata,
            (Work::Bulk, Side::Source) => &self.source_bulk,
            (Work::Bulk, Side::Target) => &self.target_bulk,
        };
        // The semaphore is never closed, so there always is a permit.
        Permit { _permit: Arc::clone(window).acquire_owned().await.ok() }
    }

    /// Keeps everybody from this host for `time`, at most a minute.
    pub fn hold(&self, time: Duration) {
        let until = Instant::now() + time.min(MAX_HOLD);
        let mut held = self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(held.map_or(until, |old| old.max(until)));
    }

    /// How much longer the host is held.
    pub fn held(&self) -> Option<Duration> {
        let mut held = self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
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

/// A bound on bytes per second, shared by everybody who has a clone of its `Arc`.
///
/// Whoever takes more than is left waits before going on, so the rate holds over any time much longer than one frame.
#[derive(Debug)]
pub struct Throttle {
    per_second: u64,
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A bound of `per_second` bytes per second; zero counts as one.
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), next: Mutex::new(None) }
    }

    /// Waits until `bytes` more may pass. What was taken stays taken if the future is dropped.
    pub async fn take(&self, bytes: u64) {
        let wait_until = {
            let now = Instant::now();
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let start = next.map_or(now, |at| at.max(now));
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.per_second);
            *next = Some(start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(MAX_HOLD * 60));
            start
        };
        tokio::time::sleep_until(wait_until).await;
    }
}
