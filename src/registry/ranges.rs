//! Parts of a large blob on further connections, ahead of where it is read, where one connection is what a transfer waits for.
//!
//! The parts are asked for one after the other and released in order, so whoever reads the blob sees no difference. Each
//! further connection takes a place in the window of the source's host if one is free at once, and gives it back after its
//! part. The first part is the question whether the source gives parts at all.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::blob::{Pace, ask, is_part, paced};
use super::reply::Reply;
use super::transport::Place;
use super::{Capability, Client, Error, Permit, Problem, Work};
use crate::oci::Descriptor;

/// The bytes of one part. All of it may have to wait in memory for those before it.
const PART: u64 = 1 << 20;

/// How many parts there are in the process at a time.
///
/// With [`PART`] that bounds what is held to 4 MiB, so that a process that moves a few blobs stays well below 32 MiB in all:
/// with twice as much it came to 32. Four parts at a time make one blob up to four times as fast as one connection. Each
/// costs a request, whose latency is what is lost of that.
pub(super) const PARTS: usize = 4;

/// How many connections one blob has besides its own.
const FURTHER: usize = 3;

/// What must be left of a blob.
pub(super) const LEAST_LEFT: u64 = 64 << 20;

/// The gain in bytes per second without which further connections are given up: it is not the connection that is slow.
const GAIN: f64 = 1.25;

/// What a transfer waits for, judged by spans of time.
#[derive(Debug, Default)]
pub(super) struct Balance {
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

/// What is known about a span that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Weighed {
    /// At least three quarters of it were spent waiting for the source: whatever takes the bytes would take four times as
    /// many.
    pub(super) slow: bool,
    /// Bytes per second.
    pub(super) rate: f64,
}

impl Balance {
    /// Takes note of `bytes` that came now, after `waited`; what a span comes to if this ends one.
    pub(super) fn pass(&mut self, now: Instant, waited: Duration, bytes: u64, span: Duration) -> Option<Weighed> {
        if span.is_zero() {
            return Some(Weighed { slow: true, rate: 0.0 });
        }
        let Some(since) = self.since else {
            self.since = Some(now);
            return None;
        };
        self.waited = self.waited.saturating_add(waited);
        self.bytes = self.bytes.saturating_add(bytes);
        let elapsed = now.saturating_duration_since(since);
        if elapsed < span {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let rate = self.bytes as f64 / elapsed.as_secs_f64();
        let slow = self.waited >= elapsed * 3 / 4;
        *self = Self { since: Some(now), ..Self::default() };
        Some(Weighed { slow, rate })
    }
}

/// What more connections bring.
#[derive(Debug)]
struct Gain {
    /// What one brought, in bytes per second.
    alone: f64,
    /// For how many spans there were more.
    spans: u32,
}

impl Gain {
    /// Takes note of the rate of a span; false if there is no gain.
    fn pays(&mut self, rate: f64) -> bool {
        self.spans += 1;
        // The first one is in part the time before, and the second one decides.
        self.spans != 2 || rate >= self.alone * GAIN
    }
}

/// Whose parts they are.
struct Origin {
    client: Client,
    place: Place,
    blob: Descriptor,
    asked: String,
}

/// The source does not give parts, or not this one: what is left is read as usual.
#[derive(Debug)]
pub(super) struct Stopped;

/// A part that was asked for.
struct Part {
    number: u64,
    /// What has come and was not released.
    frames: VecDeque<Bytes>,
    /// What has not come.
    left: u64,
    /// It comes by the connection that the blob has anyway.
    own: bool,
    _held: OwnedSemaphorePermit,
}

/// The connection of a part.
struct Open {
    reply: Reply,
    pace: Pace,
    /// Given back when it ends.
    place: Option<Permit>,
}

/// Something that has happened to a part: bytes, none of them right after the headers; its end; or a failure.
type Step = (u64, Result<(Option<Bytes>, Open), Stopped>);

/// The parts of one blob.
pub(super) struct Ahead {
    origin: Arc<Origin>,
    parts: VecDeque<Part>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    /// Where the first one began.
    begin: u64,
    /// Where the next one begins.
    next: u64,
    number: u64,
    /// No more are asked for.
    last: bool,
    gain: Gain,
}

impl Ahead {
    /// Asks for the first part of `blob` ahead of `position`, up to which it was read at a rate of `alone` bytes per second;
    /// none if the host is known to give no parts, or has no place for it, or nothing may be held.
    pub(super) fn begin(client: &Client, place: &Place, blob: &Descriptor, position: u64, alone: f64) -> Option<Self> {
        let asked = format!("part of blob `{}@{}`", place.repository.path(), blob.digest);
        let origin = Origin { client: client.clone(), place: place.clone(), blob: blob.clone(), asked };
        // It comes while as much is read before it.
        let begin = position + PART;
        let (origin, parts, steps) = (Arc::new(origin), VecDeque::new(), FuturesUnordered::new());
        let mut ahead =
            Self { origin, parts, steps, begin, next: begin, number: 0, last: false, gain: Gain { alone, spans: 0 } };
        ahead.fill(false);
        (!ahead.parts.is_empty()).then_some(ahead)
    }

    /// Where the first part began: what is before it is read as usual.
    pub(super) fn begin_at(&self) -> u64 {
        self.begin
    }

    /// Takes note of the rate of a span; false if it does not pay.
    pub(super) fn pays(&mut self, rate: f64) -> bool {
        self.gain.pays(rate)
    }

    /// Asks for no more: those that were asked for are the last.
    pub(super) fn finish(&mut self) {
        self.last = true;
    }

    /// Asks for as many parts as may be under way; `alone` if nothing else is read of the blob.
    fn fill(&mut self, alone: bool) {
        let Origin { client, place, blob, .. } = &*self.origin;
        let limits = &client.inner.limits;
        let host = limits.host(&place.host);
        let most = match host.can(Capability::Ranges) {
            Some(true) => FURTHER + usize::from(alone),
            // The first one finds out.
            None => 1,
            Some(false) => 0,
        };
        while !self.last && self.parts.len() < most && self.next < blob.size {
            // By itself the own connection is no gain.
            let own = alone && !self.parts.is_empty() && !self.parts.iter().any(|part| part.own && part.left > 0);
            let permit = if own { None } else { host.try_acquire(client.side(), Work::Bulk) };
            if permit.is_none() && !own {
                return;
            }
            let Some(held) = limits.hold_part() else { return };
            let (start, end) = (self.next, (self.next + PART).min(blob.size));
            let (origin, number) = (Arc::clone(&self.origin), self.number);
            self.steps.push(async move { (number, open(&origin, start, end, permit).await) }.boxed());
            self.parts.push_back(Part { number, frames: VecDeque::new(), left: end - start, own, _held: held });
            (self.next, self.number) = (end, number + 1);
        }
    }

    /// The next bytes in order; none after those of the last part that was asked for. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Stopped> {
        loop {
            // What came meanwhile is taken, so that the connections go on while others wait for us.
            while let Some(Some(step)) = self.steps.next().now_or_never() {
                self.took(step)?;
            }
            self.fill(true);
            let Some(front) = self.parts.front_mut() else { return Ok(None) };
            if let Some(frame) = front.frames.pop_front() {
                return Ok(Some(frame));
            }
            if front.left == 0 {
                self.parts.pop_front();
                continue;
            }
            match self.steps.next().await {
                Some(step) => self.took(step)?,
                None => return Err(Stopped),
            }
        }
    }

    /// Reads ahead while something else is read of the blob: ends only if that fails. May be dropped and called again.
    pub(super) async fn read_on(&mut self) -> Stopped {
        loop {
            self.fill(false);
            match self.steps.next().await {
                Some(step) => {
                    if let Err(stopped) = self.took(step) {
                        return stopped;
                    }
                }
                None => pending().await,
            }
        }
    }

    fn took(&mut self, (number, step): Step) -> Result<(), Stopped> {
        let (came, open) = step?;
        // A part whose bytes were all released is not looked at any more.
        let Some(part) = self.parts.iter_mut().find(|part| part.number == number) else { return Ok(()) };
        match came {
            Some(bytes) => {
                part.left = part.left.checked_sub(bytes.len() as u64).ok_or(Stopped)?;
                if !bytes.is_empty() {
                    part.frames.push_back(bytes);
                }
                self.steps.push(read(number, open, self.origin.client.inner.settings.timing.crawl).boxed());
                Ok(())
            }
            None if part.left == 0 => Ok(()),
            None => Err(Stopped),
        }
    }
}

/// Asks for the part from `start` to before `end`.
async fn open(origin: &Origin, start: u64, end: u64, place: Option<Permit>) -> Result<(Option<Bytes>, Open), Stopped> {
    let inner = &origin.client.inner;
    let range = format!("bytes={start}-{}", end - 1);
    let Origin { client, place: at, blob, asked } = origin;
    let mut ask = ask(client, at, blob, asked.clone(), Some(&range));
    // There is another way to get it.
    (ask.attempts, ask.max_throttled) = (1, Some(Duration::ZERO));
    let host = inner.limits.host(&origin.place.host);
    let reply = match inner.send(ask).await {
        Ok(reply) => reply,
        Err(error) => return Err(stopped(&error, place.as_ref())),
    };
    match reply.status().as_u16() {
        206 => {
            if !is_part(&reply, blob, start) {
                return Err(Stopped);
            }
            host.learn(Capability::Ranges, true);
            Ok((Some(Bytes::new()), Open { reply, pace: Pace::default(), place }))
        }
        200 => {
            host.learn(Capability::Ranges, false);
            Err(Stopped)
        }
        _ => Err(Stopped),
    }
}

/// Reads the next bytes of a part.
async fn read(number: u64, mut open: Open, crawl: Duration) -> Step {
    match paced(&mut open.reply, &mut open.pace, crawl).await {
        Ok(came) => (number, Ok((came, open))),
        Err(error) => (number, Err(stopped(&error, open.place.as_ref()))),
    }
}

fn stopped(error: &Error, place: Option<&Permit>) -> Stopped {
    if let Some(place) =
        place.filter(|_| matches!(error.problem(), Problem::Unreachable(_) | Problem::RateLimited { .. }))
    {
        place.troubled();
    }
    tracing::debug!(error = error as &dyn std::error::Error, "a part of a blob is not to be had: reading on as usual");
    Stopped
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(2);

    /// What spans of frames of a million bytes come to, each of which was waited for and then took others some time.
    fn weigh(waited: u64, others: u64, frames: usize) -> Vec<bool> {
        let (mut balance, mut now) = (Balance::default(), Instant::now());
        let mut passed = |_| {
            now += Duration::from_millis(waited + others);
            balance.pass(now, Duration::from_millis(waited), 1_000_000, SPAN)
        };
        (0..frames).filter_map(&mut passed).map(|weighed| weighed.slow).collect()
    }

    #[test]
    fn a_source_is_slow_that_is_waited_for_most_of_the_time() {
        assert_eq!(weigh(75, 25, 41), [true, true]);
        assert_eq!(weigh(70, 30, 41), [false, false]);
        assert_eq!(weigh(0, 100, 41), [false, false]);
        assert_eq!(weigh(100, 0, 20), [true; 0], "no span has ended");
    }

    #[test]
    fn the_rate_of_a_span_is_that_of_its_bytes() {
        let (mut balance, now) = (Balance::default(), Instant::now());
        assert_eq!(balance.pass(now, SPAN, 7, SPAN), None, "nobody knows how long that took");
        assert_eq!(balance.pass(now + SPAN / 2, SPAN / 2, 1000, SPAN), None);
        let weighed = balance.pass(now + SPAN, SPAN / 2, 3000, SPAN);
        assert_eq!(weighed, Some(Weighed { slow: true, rate: 2000.0 }));
        assert_eq!(balance.pass(now + SPAN * 2, SPAN / 4, 0, SPAN), Some(Weighed { slow: false, rate: 0.0 }));
    }

    #[test]
    fn more_connections_that_bring_no_more_bytes_are_given_up_once_that_is_seen() {
        let judged = |rates: [f64; 3]| {
            let mut gain = Gain { alone: 100.0, spans: 0 };
            rates.map(|rate| gain.pays(rate))
        };
        assert_eq!(judged([0.0, 125.0, 0.0]), [true, true, true]);
        assert_eq!(judged([400.0, 124.0, 400.0]), [true, false, true]);
    }
}
