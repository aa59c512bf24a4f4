//! Reading blobs: resumed after breaks, and verified before the last frame is let go.
//!
//! A large blob that is waited for most of the time is read on further connections too: see [`ranges`](super::ranges).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::Method;
use http::header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE};
use tokio::time::{Instant, sleep};

use super::client::{Tried, mismatch};
use super::error::Request;
use super::ranges::{Ahead, Balance, LEAST_LEFT, Stopped};
use super::reply::Reply;
use super::transport::{Ask, Length, Place};
use super::{Capability, Class, Client, Error, Permit, Problem, SMALL_BLOB, Trouble};
use crate::oci::{Descriptor, Hasher, Repository};

/// Up to this many bytes a blob is as short as other answers are.
const SHORT_BLOB: u64 = 16 << 10;

/// Up to this many bytes are read again if a registry ignores that only the rest was asked for.
const MAX_SKIP: u64 = 64 << 20;

/// What a source has to send in [`Timing::crawl`](super::Timing::crawl) of waiting for it, so that it counts as moving.
const LEAST_PROGRESS: u64 = 64 << 10;

/// Whether a source moves, judged by spans of time that were spent waiting for it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
    /// Spans in a row in which too little came.
    slow: u32,
}

impl Pace {
    /// Takes note of `bytes` that came after `waited`; true if too little has come in a span that this ends.
    fn crawls(&mut self, waited: Duration, bytes: u64, span: Duration) -> bool {
        self.waited = self.waited.saturating_add(waited);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < span {
            return false;
        }
        let crawls = self.bytes < LEAST_PROGRESS;
        let slow = if crawls { self.slow + 1 } else { 0 };
        *self = Self { slow, ..Self::default() };
        crawls
    }
}

/// States of the hash at places that were passed, so that a part can be read again, and verified, without all before it.
///
/// What a target has not got of what was read is what fits into the buffers between: some megabytes. 64 states of about
/// 110 bytes each reach 64 MiB back; whoever goes back further reads from the start.
#[derive(Default)]
struct Checkpoints {
    passed: VecDeque<(u64, Hasher)>,
}

/// The distance between two states.
const CHECKPOINT_EVERY: u64 = 1 << 20;
/// The most states that are kept.
const CHECKPOINTS: usize = 64;

impl Checkpoints {
    /// Takes note of the state after `offset` bytes, if the last one noted is far enough.
    fn pass(&mut self, offset: u64, hasher: &Hasher) {
        let last = self.passed.back().map_or(0, |(last, _)| *last);
        if offset.saturating_sub(last) < CHECKPOINT_EVERY {
            return;
        }
        if self.passed.len() == CHECKPOINTS {
            self.passed.pop_front();
        }
        self.passed.push_back((offset, hasher.clone()));
    }

    /// The last state at or before `offset`; none if that is the start. Those after it are forgotten.
    fn back_to(&mut self, offset: u64) -> Option<(u64, Hasher)> {
        while self.passed.back().is_some_and(|(passed, _)| *passed > offset) {
            self.passed.pop_back();
        }
        self.passed.back().cloned()
    }
}

/// A blob being read.
///
/// Resumes by `Range` through the registry, so that a fresh link is signed; checks length and digest before it releases
/// the last frame. Holds one frame, and parts of what follows where the source is slow.
pub struct BlobReader {
    client: Client,
    place: Place,
    blob: Descriptor,
    request: Request,
    reply: Option<Reply>,
    /// Bytes of the current answer that we have already.
    skip: u64,
    received: u64,
    hasher: Option<Hasher>,
    checkpoints: Checkpoints,
    /// Bytes before this are hashed and not released: somebody has them.
    wanted_from: u64,
    held: Option<Bytes>,
    /// Released once and given back.
    returned: Option<Bytes>,
    /// Attempts since the last byte.
    fruitless: u32,
    /// How often it went on after a break.
    resumed: u64,
    pace: Pace,
    balance: Balance,
    /// What is read ahead: it begins after what `reply` is read up to, or where that has ended.
    ahead: Option<Ahead>,
    /// Nothing is read ahead any more: that has failed, or brought nothing.
    single: bool,
    /// Bytes that came in parts.
    parted: u64,
    finished: bool,
    restart: bool,
    /// Held as long as the blob is read.
    permit: Option<Permit>,
}

impl std::fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobReader")
            .field("blob", &self.blob.digest)
            .field("received", &self.received)
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}

impl BlobReader {
    /// Asks one place after the other for the blob.
    pub(super) async fn open(
        client: &Client,
        repository: &Repository,
        blob: &Descriptor,
        permit: Option<Permit>,
    ) -> Result<Self, Error> {
        let asked = format!("blob `{}@{}`", repository.path(), blob.digest);
        let mut tried = Tried::default();
        let mut missing = None;
        let mut permit = permit;
        for place in client.places(repository, &asked)? {
            let request = client.inner.request(&place, &Method::GET, &place.base, &asked);
            let mut reader = Self {
                client: client.clone(),
                place,
                blob: blob.clone(),
                request,
                reply: None,
                skip: 0,
                received: 0,
                hasher: Some(Hasher::new(blob.digest.algorithm())),
                checkpoints: Checkpoints::default(),
                wanted_from: 0,
                held: None,
                returned: None,
                fruitless: 0,
                resumed: 0,
                pace: Pace::default(),
                balance: Balance::default(),
                ahead: None,
                single: false,
                parted: 0,
                finished: false,
                restart: false,
                permit: None,
            };
            match reader.reopen(0).await {
                Ok(()) => {
                    reader.permit = permit.take();
                    return Ok(reader);
                }
                Err(error) if *error.problem() == Problem::Missing => missing = Some(error),
                Err(error) => tried.failed(error),
            }
        }
        let absent = Error::new(
            client.inner.request(&client.home(repository), &Method::GET, &client.home(repository).base, &asked),
            Problem::Missing,
        );
        Err(tried.first().or(missing).unwrap_or(absent))
    }

    pub(super) fn problem(&self, problem: Problem) -> Error {
        Error::new(self.request.clone(), problem)
    }

    fn broken(&self, problem: Problem) -> Error {
        self.client.inner.limits.broken(self.problem(problem))
    }

    /// True if going on is impossible, but beginning again from the start may help.
    pub(super) fn must_restart(&self) -> bool {
        self.restart
    }

    /// How often it went on after a break since this was asked last.
    pub(super) fn take_resumed(&mut self) -> u64 {
        std::mem::take(&mut self.resumed)
    }

    /// How many bytes from the start were released.
    pub(super) fn released(&self) -> u64 {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.received.saturating_sub(length(&self.held)).saturating_sub(length(&self.returned)).max(self.wanted_from)
    }

    /// Gives back the end of what was released last: it is released again.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.returned = Some(bytes).filter(|bytes| !bytes.is_empty());
    }

    /// Goes back: the next bytes to be released are those from `offset` on, which is not more than was released. All of
    /// the blob is verified nevertheless. The connection is given up.
    pub(super) fn rewind(&mut self, offset: u64) {
        debug_assert!(offset <= self.released(), "only what was released can be released again");
        let start = || (0, Hasher::new(self.blob.digest.algorithm()));
        let (received, hasher) = self.checkpoints.back_to(offset).unwrap_or_else(start);
        (self.received, self.hasher, self.wanted_from) = (received, Some(hasher), offset);
        (self.reply, self.ahead, self.held, self.returned, self.skip) = (None, None, None, None, 0);
        self.balance = Balance::default();
        (self.finished, self.restart) = (false, false);
    }

    /// The next bytes; none after the last, and none after an error.
    ///
    /// The bytes released before the end are only known to be right once the last of them has been released. May be
    /// dropped and called again.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if let Some(returned) = self.returned.take() {
            return Some(Ok(returned));
        }
        if self.finished {
            return None;
        }
        match self.advance().await {
            Ok(Some(chunk)) => Some(Ok(chunk)),
            Ok(None) => {
                self.finished = true;
                (self.reply, self.ahead) = (None, None);
                self.held.take().map(Ok)
            }
            Err(error) => {
                self.finished = true;
                (self.reply, self.ahead, self.held) = (None, None, None);
                Some(Err(error))
            }
        }
    }

    /// All that is left, which has to fit into memory.
    ///
    /// # Errors
    /// As those of [`next`](Self::next).
    pub async fn whole(mut self) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes.into())
    }

    /// The bytes of [`next`](Self::next) as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        futures::stream::unfold(self, |mut reader| async move { reader.next().await.map(|item| (item, reader)) })
    }

    /// The next frame to release before the last one, or none once everything is verified and only the last is left.
    async fn advance(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.reply.is_none() && self.ahead.is_some() {
                match self.advance_ahead().await? {
                    Some(released) => return Ok(Some(released)),
                    None if self.ahead.is_none() && self.received >= self.blob.size => {
                        return self.verify().map(|()| None);
                    }
                    None => continue,
                }
            }
            let started = Instant::now();
            let broken = match &mut self.reply {
                None => match self.reopen(1).await {
                    Ok(()) => continue,
                    Err(error) if matches!(error.class(), Class::Transient { .. }) && !self.restart => error,
                    Err(error) => return Err(error),
                },
                Some(reply) => {
                    let crawl = self.client.inner.settings.timing.crawl;
                    match beside(paced(reply, &mut self.pace, crawl), self.ahead.as_mut()).await {
                        Err(Stopped) => {
                            (self.ahead, self.single) = (None, true);
                            continue;
                        }
                        Ok(Ok(Some(mut chunk))) => {
                            if let Some(ahead) = &self.ahead
                                && let before = ahead.begin_at() - self.received
                                && chunk.len() as u64 >= before
                            {
                                // From here on it comes in parts.
                                chunk.truncate(usize::try_from(before).unwrap_or(usize::MAX));
                                self.reply = None;
                            }
                            match self.took(chunk, started.elapsed())? {
                                Some(released) => return Ok(Some(released)),
                                None => continue,
                            }
                        }
                        Ok(Ok(None)) if self.received >= self.blob.size && self.skip == 0 => {
                            return self.verify().map(|()| None);
                        }
                        // Ended in good order, but too early.
                        Ok(Ok(None)) => self.broken(Problem::Unreachable(Trouble::Cut)),
                        Ok(Err(error)) => error,
                    }
                }
            };
            self.ahead = None;
            self.reply = None;
            let inner = &self.client.inner;
            let awaited = inner.limits.host(&self.place.host).is_awaited(inner.settings.timing.outage);
            self.fruitless = self.pace.slow.max(self.fruitless + u32::from(!awaited));
            if self.fruitless >= self.client.inner.settings.timing.resumes {
                return Err(broken);
            }
            sleep(self.client.inner.backoff(self.fruitless.saturating_sub(1))).await;
        }
    }

    /// The same from what is read ahead; nothing is read ahead any more once that has failed or ended.
    async fn advance_ahead(&mut self) -> Result<Option<Bytes>, Error> {
        let started = Instant::now();
        let Some(ahead) = &mut self.ahead else { return Ok(None) };
        match ahead.next().await {
            Ok(Some(chunk)) => {
                self.parted += chunk.len() as u64;
                self.took(chunk, started.elapsed())
            }
            Ok(None) => {
                self.ahead = None;
                Ok(None)
            }
            Err(Stopped) => {
                (self.ahead, self.single) = (None, true);
                Ok(None)
            }
        }
    }

    /// Takes in a frame that was waited for, and judges by that whether more is to be read at a time.
    fn took(&mut self, chunk: Bytes, waited: Duration) -> Result<Option<Bytes>, Error> {
        let length = chunk.len() as u64;
        let released = self.take(chunk)?;
        let lag = self.client.inner.settings.timing.lag;
        let Some(weighed) = self.balance.pass(Instant::now(), waited, length, lag) else { return Ok(released) };
        if let Some(ahead) = &mut self.ahead {
            if self.reply.is_none() && !ahead.pays(weighed.rate) {
                ahead.finish();
                self.single = true;
            }
        } else if weighed.slow
            && !self.single
            && self.skip == 0
            && self.reply.is_some()
            && self.blob.size - self.received > LEAST_LEFT
        {
            self.ahead = Ahead::begin(&self.client, &self.place, &self.blob, self.received, weighed.rate);
        }
        Ok(released)
    }

    /// Takes in a frame and gives out the one before it.
    fn take(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, Error> {
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
        self.skip -= known as u64;
        let mut chunk = chunk.split_off(known);
        if chunk.is_empty() {
            return Ok(None);
        }
        self.resumed += u64::from(self.fruitless > 0);
        self.fruitless = 0;
        let before = self.received;
        self.received += chunk.len() as u64;
        if self.received > self.blob.size {
            return Err(self.broken(Problem::Length { expected: self.blob.size, actual: self.received }));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
            self.checkpoints.pass(self.received, hasher);
        }
        let (host, side) = (&self.place.host, self.client.side());
        self.client.inner.limits.observer().bytes(host, side, chunk.len() as u64);
        let known = usize::try_from(self.wanted_from.saturating_sub(before)).unwrap_or(usize::MAX).min(chunk.len());
        let chunk = chunk.split_off(known);
        if chunk.is_empty() { Ok(None) } else { Ok(self.held.replace(chunk)) }
    }

    fn verify(&mut self) -> Result<(), Error> {
        let expected = &self.blob.digest;
        match self.hasher.take().map(Hasher::finish) {
            Some(actual) if actual == *expected => Ok(()),
            Some(actual) => {
                let (expected, actual) = (expected.to_string(), actual.to_string());
                if self.parted > 0 {
                    // Maybe the parts are not those that they are said to be.
                    self.client.inner.limits.host(&self.place.host).learn(Capability::Ranges, false);
                }
                Err(self.broken(Problem::Digest { expected, actual }))
            }
            None => Err(self.problem(Problem::Garbled("the blob was read to its end twice"))),
        }
    }

    /// Asks for the blob, or for the rest of it. `attempts` of zero means the usual number.
    async fn reopen(&mut self, attempts: u32) -> Result<(), Error> {
        let asked = self.request.asked.clone();
        let from = self.received;
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let mut ask = ask(&self.client, &self.place, &self.blob, asked, range.as_deref());
        ask.attempts = attempts;
        let reply = self.client.inner.send(ask).await?;
        self.request = reply.request.clone();
        // Links are signed for a time. The registry gives another one.
        let elsewhere = self.request.host_asked() != self.place.host;
        if elsewhere && matches!(reply.status().as_u16(), 401 | 403 | 404 | 410) {
            return Err(reply.error(Problem::Garbled("the address that the registry leads to does not give the blob")));
        }
        let limits = &self.client.inner.limits;
        let host = limits.host(&self.place.host);
        match reply.status().as_u16() {
            200..=299 if reply.is_html() => {
                return Err(reply.error(Problem::NotRegistry { status: reply.status().as_u16() }));
            }
            206 if from > 0 => {
                if !is_part(&reply, &self.blob, from) {
                    return Err(reply.error(Problem::Garbled("the registry sends another part than was asked for")));
                }
                self.skip = 0;
                if host.can(Capability::Ranges).is_none() {
                    host.learn(Capability::Ranges, true);
                }
            }
            200 => {
                if from > 0 {
                    host.learn(Capability::Ranges, false);
                }
                if let Some(actual) = reply.response.content_length().filter(|length| *length != self.blob.size) {
                    return Err(reply.broken(Problem::Length { expected: self.blob.size, actual }));
                }
                if let Some(announced) = super::client::content_digest(&reply)
                    && announced.algorithm() == self.blob.digest.algorithm()
                    && announced != self.blob.digest
                {
                    return Err(mismatch(&reply, &self.blob.digest, &announced));
                }
                if from > MAX_SKIP {
                    self.restart = true;
                    return Err(reply.error(Problem::Unreachable(Trouble::Cut)));
                }
                self.skip = from;
            }
            404 => {
                let request = reply.request.clone();
                reply.absent().await?;
                return Err(Error::new(request, Problem::Missing));
            }
            // The part that is left was asked for, and there is one.
            416 if from > 0 => {
                return Err(reply.error(Problem::Garbled("the registry has no part where the blob was cut")));
            }
            _ => return Err(reply.into_error().await),
        }
        if from > 0 {
            limits.observer().resumed(&self.place.host, self.client.side(), from.saturating_sub(self.skip));
        }
        self.reply = Some(reply);
        Ok(())
    }
}

/// Waits for something while more is read ahead, if anything is.
async fn beside<T>(awaited: impl Future<Output = T>, ahead: Option<&mut Ahead>) -> Result<T, Stopped> {
    match ahead {
        None => Ok(awaited.await),
        Some(ahead) => tokio::select! {
            biased;
            came = awaited => Ok(came),
            stopped = ahead.read_on() => Err(stopped),
        },
    }
}

/// The next bytes of a blob, or the stall that too few of them are.
pub(super) async fn paced(reply: &mut Reply, pace: &mut Pace, span: Duration) -> Result<Option<Bytes>, Error> {
    let since = Instant::now();
    let chunk = reply.chunk().await?;
    let Some(bytes) = &chunk else { return Ok(None) };
    if pace.crawls(since.elapsed(), bytes.len() as u64, span) {
        return Err(reply.broken(Problem::Unreachable(Trouble::Stall)));
    }
    Ok(chunk)
}

/// A request for a blob, or for a range of it.
pub(super) fn ask<'a>(
    client: &Client,
    place: &'a Place,
    blob: &Descriptor,
    asked: String,
    range: Option<&str>,
) -> Ask<'a> {
    let path = format!("blobs/{}", blob.digest);
    let mut ask = client.ask(place, Method::GET, &path, asked).header(ACCEPT_ENCODING, "identity").no_pages();
    if let Some(range) = range {
        ask = ask.header(RANGE, range);
    }
    ask.windowed = blob.size <= SMALL_BLOB;
    ask.answer = if blob.size > SHORT_BLOB { Length::Long } else { Length::Short };
    ask
}

/// Whether an answer with status 206 has what is in the blob from `from` on.
pub(super) fn is_part(reply: &Reply, blob: &Descriptor, from: u64) -> bool {
    let range = reply.text(CONTENT_RANGE).and_then(content_range);
    matches!(range, Some((start, total)) if start == from && total.is_none_or(|total| total == blob.size))
}

/// `bytes FIRST-LAST/TOTAL`: the first byte and the total, which may be `*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let first = range.split_once('-')?.0.trim().parse().ok()?;
    let total = total.trim();
    if total == "*" { Some((first, None)) } else { Some((first, Some(total.parse().ok()?))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn a_source_crawls_if_little_comes_in_a_span_of_waiting() {
        let span = Duration::from_mins(1);
        let mut pace = Pace::default();
        assert!(!pace.crawls(Duration::from_secs(44), 1, span));
        assert!(pace.crawls(Duration::from_secs(44), 1, span));
        // Each span is judged by itself.
        assert!(!pace.crawls(Duration::from_secs(44), 1, span));
        assert!(pace.crawls(Duration::from_secs(16), 1, span));
        assert_eq!(pace.slow, 2);
        // What our own side takes is not waited for.
        assert!(!pace.crawls(Duration::ZERO, 1, span));
        assert!(!pace.crawls(span, LEAST_PROGRESS, span));
        assert_eq!(pace.slow, 0);
    }

    #[test]
    fn checkpoints_lead_back_to_the_last_state_that_is_not_too_late() {
        let mut checkpoints = Checkpoints::default();
        let mut hasher = Hasher::new(crate::oci::Algorithm::Sha256);
        for offset in 1..=u64::try_from(CHECKPOINTS).unwrap() + 3 {
            hasher.update(b"x");
            // Frames do not end where we would like them to.
            checkpoints.pass(offset * CHECKPOINT_EVERY + offset, &hasher);
            checkpoints.pass(offset * CHECKPOINT_EVERY + offset + 1, &hasher);
        }
        assert_eq!(checkpoints.passed.len(), CHECKPOINTS);
        let (at, state) = checkpoints.back_to(10 * CHECKPOINT_EVERY).unwrap();
        assert_eq!(at, 9 * CHECKPOINT_EVERY + 9);
        assert_eq!(state.finish(), Digest::of(b"xxxxxxxxx"));
        assert!(checkpoints.back_to(3 * CHECKPOINT_EVERY).is_none(), "the first ones are gone");
        assert!(checkpoints.passed.is_empty());
    }

    #[test]
    fn a_content_range_is_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes */10", "items 5-9/10", "bytes 5-9", "bytes -5/10", "bytes 5-9/x"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
