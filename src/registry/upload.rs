//! Writing blobs: sessions, mounts, and one request with all bytes.
//!
//! A small blob for which there is no session is sent with the request that would begin one, as far as its host is not known
//! to want it otherwise. A host that only begins a session has cost no request by that, and is not sent another.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LOCATION, RANGE};
use tokio::time::{Instant, sleep};
use url::Url;

use super::client::{Client, accepted};
use super::reply::Reply;
use super::transport::{Ask, Payload, Place, strip};
use super::{Capability, Class, Error, Problem, SMALL_BLOB, Timing, Trouble};
use crate::failure::Reason;
use crate::oci::{Digest, Repository};

/// The least that a target takes in one request but the last (OCI distribution-spec, "Pushing a blob in chunks").
const MIN_CHUNK: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// What a target said to the wish to write a blob.
#[derive(Debug)]
pub enum Started {
    /// It has taken the blob from its other repository.
    Mounted,
    /// It wants to be sent it.
    Session(Box<UploadSession>),
}

/// A place at a target to send one blob to, in one or in several requests. Dropping it leaves it to the target to clean up.
pub struct UploadSession {
    client: Client,
    place: Place,
    /// Changes with every answer of some registries.
    url: Url,
    digest: Digest,
    /// Bytes that the target has, as far as it has said so.
    offset: u64,
    /// The least that one request but the last may carry.
    min_chunk: u64,
    /// The length of the last request.
    length: u64,
    /// How much of that was handed to the connection.
    sent: u64,
    /// How many bytes the target says it has, in an answer that refused more.
    stated: Option<u64>,
}

/// What the target says about a session after a request that broke.
pub(super) enum Kept {
    /// It goes on at [`UploadSession::offset`].
    Here(Box<UploadSession>),
    /// It is gone, or of no use.
    Gone,
    /// The blob is there: only the answer was lost.
    Stored,
}

impl std::fmt::Debug for UploadSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UploadSession")
            .field("host", &self.place.host)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Begins to write a blob, or lets the target mount it from its own repository `from`, which these credentials must
    /// be allowed to pull. `from` may be `repository` itself, which finds out whether the blob is there already.
    ///
    /// If the target does not take the wish to mount, the upload is begun without it, and that is remembered.
    pub async fn start_upload(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> Result<Started, Error> {
        let place = self.home(repository);
        let host = self.inner.limits.host(&place.host);
        let mountless = || self.inner.mountless.lock().unwrap_or_else(PoisonError::into_inner);
        let from = from
            .filter(|from| from.registry() == repository.registry())
            .filter(|_| host.can(Capability::Mount) != Some(false) && !mountless().contains(&place.host));
        // What to remember if the same request without a mount is taken.
        let mut learn = None;
        if let Some(from) = from {
            let from = from.path().as_str();
            let mut ask = self.post(&place, digest);
            ask.url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
            // From the repository itself: whether it is there, and the upload if it is not.
            let other = (from != place.repository.path().as_str()).then_some(from);
            ask.scopes = Some(self.inner.scopes(&place, other));
            ask.attempts = 2;
            match self.inner.send(ask).await {
                Ok(reply) => match reply.status().as_u16() {
                    201 => {
                        accepted(&reply, digest)?;
                        host.learn(Capability::Mount, true);
                        reply.drain().await;
                        return Ok(Started::Mounted);
                    }
                    202 => {
                        return self.session(place.clone(), digest, reply).await.map(Started::Session);
                    }
                    401 | 403 => learn = Some(false),
                    400..=499 => learn = Some(true),
                    _ => {}
                },
                Err(error) => match error.problem() {
                    Problem::Unauthorized(_) => learn = Some(false),
                    // A host that cannot mount this blob now may well take it, and a connection that broke is tried again without.
                    Problem::Status { .. } | Problem::Unreachable(_) => {}
                    _ => return Err(error),
                },
            }
        }
        let reply = self.inner.send(self.post(&place, digest)).await?;
        if reply.status().as_u16() != 202 {
            return Err(if reply.status().is_success() {
                reply.error(Problem::Garbled("the registry does not begin an upload as it should"))
            } else {
                reply.into_error().await
            });
        }
        match learn {
            Some(true) => host.learn(Capability::Mount, false),
            Some(false) => {
                mountless().insert(place.host.clone());
            }
            None => {}
        }
        self.session(place.clone(), digest, reply).await.map(Started::Session)
    }

    /// Whether the target of `repository` may take blobs from its other repositories, as far as is known.
    pub(super) fn mounts(&self, repository: &Repository) -> bool {
        let place = self.home(repository);
        let mountless = self.inner.mountless.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.limits.host(&place.host).can(Capability::Mount) != Some(false) && !mountless.contains(&place.host)
    }

    /// The most bytes to send to a session in one request: all, unless its host has refused as much.
    pub(super) fn chunk(&self, session: &UploadSession) -> u64 {
        let most = self.inner.limits.host(&session.place.host).chunk();
        most.map_or(u64::MAX, |most| most.max(session.min_chunk))
    }

    /// Takes note that a request to a session was refused for its length; false if smaller ones make no sense.
    pub(super) fn shorten(&self, session: &UploadSession, error: &Error) -> bool {
        let refused = error.status().is_some_and(|status| status.as_u16() == 413);
        // With a reason of its own it is the blob that is too large, and not the request.
        let refused = refused && error.reason() == Reason::TargetTooLarge && session.min_chunk < session.length;
        refused && self.inner.limits.host(&session.place.host).shorten(session.length)
    }

    fn post<'a>(&self, place: &'a Place, digest: &Digest) -> Ask<'a> {
        let asked = format!("upload of `{}@{digest}`", place.repository.path());
        let mut ask = self.ask(place, Method::POST, "blobs/uploads/", asked);
        ask.payload = Payload::Bytes(Bytes::new());
        ask.header(CONTENT_LENGTH, "0").no_pages()
    }

    async fn session(&self, place: Place, digest: &Digest, reply: Reply) -> Result<Box<UploadSession>, Error> {
        let location = reply.text(LOCATION).and_then(|text| reply.response.url().join(text).ok());
        let Some(mut url) = location else {
            return Err(reply.error(Problem::Garbled("the registry does not say where to upload to")));
        };
        strip(&mut url);
        let min_chunk = reply.text(MIN_CHUNK).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        reply.drain().await;
        let (client, digest) = (self.clone(), digest.clone());
        Ok(Box::new(UploadSession {
            client,
            place,
            url,
            digest,
            offset: 0,
            min_chunk,
            length: 0,
            sent: 0,
            stated: None,
        }))
    }

    /// Whether the target of `repository` takes a small blob with one request, as far as [`put_bytes`](Self::put_bytes) has
    /// found out: then it is better sent than asked for first.
    pub fn posts_whole(&self, repository: &Repository) -> Option<bool> {
        self.inner.limits.host(&self.home(repository).host).can(Capability::SinglePost)
    }

    /// Writes a blob of at most [`SMALL_BLOB`] bytes, in one request where the target takes that, and beginning again if it
    /// breaks off.
    pub async fn put_bytes(&self, repository: &Repository, digest: &Digest, bytes: Bytes) -> Result<(), Error> {
        match self.post_whole(repository, digest, &bytes).await? {
            Some(session) => self.send_bytes(repository, session, bytes).await,
            None => Ok(()),
        }
    }

    /// Sends a small blob with the request that would begin its upload, unless that is known not to work; a session if it
    /// is still to be sent.
    async fn post_whole(
        &self,
        repository: &Repository,
        digest: &Digest,
        bytes: &Bytes,
    ) -> Result<Option<Box<UploadSession>>, Error> {
        let begin = || async {
            Ok(match self.start_upload(repository, digest, None).await? {
                Started::Session(session) => Some(session),
                Started::Mounted => None,
            })
        };
        let place = self.home(repository);
        let host = self.inner.limits.host(&place.host);
        let (known, size) = (host.can(Capability::SinglePost), bytes.len() as u64);
        if known == Some(false) || size > SMALL_BLOB {
            return begin().await;
        }
        let mut ask = self.post(&place, digest).header(CONTENT_LENGTH, &size.to_string());
        ask = ask.header(CONTENT_TYPE, "application/octet-stream");
        ask.url.query_pairs_mut().append_pair("digest", &digest.to_string());
        ask.payload = Payload::Bytes(bytes.clone());
        // What breaks it may be its form: it is followed by the other way, which is tried as often as others.
        ask.attempts = 1;
        let learn = match self.inner.send(ask).await {
            Ok(reply) => match reply.status().as_u16() {
                201 => {
                    accepted(&reply, digest)?;
                    self.inner.limits.observer().bytes(&place.host, self.side(), size);
                    reply.drain().await;
                    // The first time it is looked at, in case that was said of the session.
                    if known == Some(true) || self.blob_exists(repository, digest).await? {
                        host.learn(Capability::SinglePost, true);
                        return Ok(None);
                    }
                    true
                }
                202 => {
                    host.learn(Capability::SinglePost, false);
                    return self.session(place.clone(), digest, reply).await.map(Some);
                }
                _ => true,
            },
            Err(error) => match error.problem() {
                Problem::Status { .. } | Problem::Unreachable(_) | Problem::NotRegistry { .. } => known.is_none(),
                _ => return Err(error),
            },
        };
        let begun = begin().await?;
        // Not before: whatever is refused this too was not refused for its form.
        if learn {
            host.learn(Capability::SinglePost, false);
        }
        Ok(begun)
    }

    /// The same in a session that was begun.
    pub(super) async fn send_bytes(
        &self,
        repository: &Repository,
        mut session: Box<UploadSession>,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let digest = session.digest.clone();
        let mut patience = Patience::default();
        loop {
            let Err(error) = session.put_bytes(bytes.clone()).await else { return Ok(()) };
            let gone = is_gone(&error);
            let next = patience.wait(self, error).await;
            if !gone {
                session.cancel().await;
            }
            next?;
            // A connection may break, or a proxy lose patience, after the target has taken everything.
            if self.blob_exists(repository, &digest).await.unwrap_or(false) {
                return Ok(());
            }
            match self.start_upload(repository, &digest, None).await? {
                Started::Mounted => return Ok(()),
                Started::Session(new) => session = new,
            }
        }
    }
}

/// True if a session that was answered like this is of no use any more, so that a new one has to be begun.
fn is_gone(error: &Error) -> bool {
    error.lost_session() || error.status().is_some_and(|status| status.as_u16() == 404)
}

/// How much of a target's trouble with one blob was borne already.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Failures in a row that were followed by no progress.
    fruitless: u32,
    /// Time spent because there were too many requests.
    throttled: Duration,
}

impl Patience {
    /// The target has taken more of the blob than ever before.
    pub(super) fn renew(&mut self) {
        self.fruitless = 0;
    }

    /// Waits as long as it takes before the next attempt.
    ///
    /// # Errors
    /// The error itself, if another attempt makes no sense or would be one too many. Too many requests are no attempt.
    pub(super) async fn wait(&mut self, client: &Client, error: Error) -> Result<(), Error> {
        let timing = &client.inner.settings.timing;
        let gone = is_gone(&error);
        let limited = matches!(error.problem(), Problem::RateLimited { .. });
        let after = match error.class() {
            Class::Transient { after } => after.unwrap_or_default(),
            Class::Permanent if gone || matches!(error.problem(), Problem::Unauthorized(_)) => Duration::ZERO,
            Class::Permanent => return Err(error),
        };
        let awaited = client.inner.limits.host(&error.asked_of()).is_awaited(timing.outage);
        if !limited && !awaited {
            self.fruitless += 1;
        }
        if self.fruitless >= timing.blob_attempts || after > timing.max_retry_after {
            return Err(error);
        }
        let wait = client.inner.backoff(self.fruitless.saturating_sub(1)).max(after);
        if limited {
            self.throttled = self.throttled.saturating_add(wait.max(timing.backoff));
            if self.throttled > timing.max_throttled {
                return Err(error);
            }
        }
        tracing::debug!(error = &error as &dyn std::error::Error, "going on with the upload");
        sleep(wait).await;
        Ok(())
    }
}

impl UploadSession {
    fn ask(&self, method: Method) -> Ask<'_> {
        let asked = format!("upload of `{}@{}`", self.place.repository.path(), self.digest);
        let mut ask = Ask::new(&self.place, method, self.url.clone(), asked);
        ask.scopes = Some(self.client.inner.scopes(&self.place, None));
        // What a broken upload leaves behind differs from registry to registry: it is begun again as a whole.
        ask.attempts = 1;
        ask
    }

    fn closing(&self) -> Ask<'_> {
        let mut ask = self.ask(Method::PUT).header(CONTENT_TYPE, "application/octet-stream");
        ask.url.query_pairs_mut().append_pair("digest", &self.digest.to_string());
        ask
    }

    /// Lets the observer know that the upload goes on after a break.
    pub(super) fn tell_resumed(&self) {
        self.client.inner.limits.observer().resumed(&self.place.host, self.client.side(), self.offset);
    }

    /// How many bytes from the start the target has.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Sends all `size` bytes of the blob in one request, and checks what the target says about them.
    ///
    /// The stream must end with an error rather than early if it is not complete; a frame at a time is taken from it.
    pub async fn put(
        &mut self,
        size: u64,
        body: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    ) -> Result<(), Error> {
        let ask = self.closing().header(CONTENT_LENGTH, &size.to_string());
        let (reply, sent) = self.client.feed(ask, size, Box::pin(body)).await;
        (self.length, self.sent) = (size, sent);
        let reply = self.finish(reply?).await?;
        if sent != size {
            return Err(reply.error(Problem::Length { expected: size, actual: sent }));
        }
        reply.drain().await;
        Ok(())
    }

    /// Sends the next `length` bytes from [`UploadSession::offset`] on.
    ///
    /// What a target says about how much it has is a hint: some count one too many. What was sent and taken counts.
    pub(super) async fn patch(&mut self, length: u64, body: Body) -> Result<(), Error> {
        let last = (self.offset + length).saturating_sub(1);
        let ask = self
            .ask(Method::PATCH)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_RANGE, &format!("{}-{last}", self.offset))
            .header(CONTENT_LENGTH, &length.to_string());
        let (reply, sent) = self.client.feed(ask, length, body).await;
        (self.length, self.sent) = (length, sent);
        let reply = reply?;
        if !reply.status().is_success() {
            self.moved(&reply);
            self.stated = reply.text(RANGE).and_then(received);
            return Err(reply.into_error().await);
        }
        if sent != length {
            return Err(reply.error(Problem::Length { expected: length, actual: sent }));
        }
        self.moved(&reply);
        self.offset += length;
        reply.drain().await;
        Ok(())
    }

    /// Ends a session whose bytes the target has all.
    pub(super) async fn close(&mut self) -> Result<(), Error> {
        (self.length, self.sent) = (0, 0);
        let mut ask = self.closing().header(CONTENT_LENGTH, "0");
        ask.payload = Payload::Bytes(Bytes::new());
        let reply = self.client.inner.send(ask).await?;
        let reply = self.finish(reply).await?;
        reply.drain().await;
        Ok(())
    }

    /// Sends a small blob.
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<(), Error> {
        debug_assert!(bytes.len() as u64 <= SMALL_BLOB, "larger blobs are streamed");
        let size = bytes.len() as u64;
        let mut ask = self.closing().header(CONTENT_LENGTH, &size.to_string());
        ask.payload = Payload::Bytes(bytes);
        let reply = self.client.inner.send(ask).await?;
        let reply = self.finish(reply).await?;
        self.client.inner.limits.observer().bytes(&self.place.host, self.client.side(), size);
        reply.drain().await;
        Ok(())
    }

    /// What has become of the session after a request that broke with `error`.
    ///
    /// Asks whether the blob is there if everything was sent, and for the session's state unless the target is known to
    /// lose sessions with the connection. A session that is not gone on with is given up.
    pub(super) async fn after(mut self: Box<Self>, error: &Error, size: u64) -> Kept {
        // Where the request broke before its end, the target cannot have all of it.
        let cut = matches!(error.problem(), Problem::Unreachable(_)) && self.offset + self.sent < size;
        let gone = matches!(error.code(), Some("BLOB_UPLOAD_UNKNOWN"))
            || error.status().is_some_and(|status| status.as_u16() == 404);
        if !cut && self.client.blob_exists(&self.place.repository, &self.digest).await.unwrap_or(false) {
            return Kept::Stored;
        }
        let host = self.client.inner.limits.host(&self.place.host);
        if gone || host.can(Capability::Resume) == Some(false) {
            return Kept::Gone;
        }
        if let Some(offset) = self.stated.take().filter(|offset| *offset <= size) {
            self.offset = offset;
            return Kept::Here(self);
        }
        match self.status().await {
            Ok(Some(offset)) if offset <= size => {
                host.learn(Capability::Resume, true);
                self.offset = offset;
                Kept::Here(self)
            }
            Ok(Some(_more)) => {
                self.cancel().await;
                Kept::Gone
            }
            Ok(None) => {
                // A session that has got nothing, or that was refused, says nothing about those that break.
                if matches!(error.problem(), Problem::Unreachable(_))
                    && self.sent > 0
                    && host.can(Capability::Resume).is_none()
                {
                    host.learn(Capability::Resume, false);
                }
                Kept::Gone
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the state of an upload is not to be had");
                self.cancel().await;
                Kept::Gone
            }
        }
    }

    /// How many bytes the target says it has; none if it does not know the session any more.
    async fn status(&mut self) -> Result<Option<u64>, Error> {
        let mut ask = self.ask(Method::GET);
        ask.attempts = 0;
        let reply = self.client.inner.send(ask).await?;
        match reply.status().as_u16() {
            200..=299 if !reply.is_html() => {
                let Some(offset) = reply.text(RANGE).and_then(received) else {
                    return Err(reply.error(Problem::Garbled("the registry does not say how much it has of an upload")));
                };
                self.moved(&reply);
                reply.drain().await;
                Ok(Some(offset))
            }
            404 | 410 => {
                reply.drain().await;
                Ok(None)
            }
            _ => Err(reply.into_error().await),
        }
    }

    /// Takes over the address that an answer gives for the next request.
    fn moved(&mut self, reply: &Reply) {
        if let Some(mut url) = reply.text(LOCATION).and_then(|text| reply.response.url().join(text).ok()) {
            strip(&mut url);
            self.url = url;
        }
    }

    async fn finish(&self, reply: Reply) -> Result<Reply, Error> {
        if !reply.status().is_success() {
            return Err(reply.into_error().await);
        }
        accepted(&reply, &self.digest)?;
        Ok(reply)
    }

    /// Gives the session up, as far as the target takes notice.
    pub async fn cancel(self) {
        if let Ok(reply) = self.client.inner.send(self.ask(Method::DELETE)).await {
            reply.drain().await;
        }
    }
}

impl Client {
    /// Sends a body that can be sent once; the answer, and how many bytes of the body the connection took.
    async fn feed(&self, mut ask: Ask<'_>, size: u64, body: Body) -> (Result<Reply, Error>, u64) {
        let teller = Teller { client: self.clone(), host: ask.place.host.clone() };
        let feed = Feed::new(size, body, teller);
        let counts = Arc::clone(&feed.counts);
        ask.payload = Payload::Stream(feed);
        ask.windowed = false;
        let reply = self.inner.send(ask).await;
        (reply, counts.bytes.load(Ordering::Acquire))
    }
}

/// `FIRST-LAST` of what a target has, as registries really write it: with or without `bytes=`, with `-1` for nothing at
/// all. `0-0` is written for one byte as well as for none, and says nothing.
fn received(text: &str) -> Option<u64> {
    let text = text.trim();
    let range = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches(['=', ' ']));
    let (first, last) = range.split_once('-')?;
    if first.trim().parse::<u64>().ok()? != 0 {
        return None;
    }
    match last.trim().parse::<i64>().ok()? {
        ..0 => Some(0),
        0 => None,
        last => Some(last.unsigned_abs() + 1),
    }
}

/// What is sent in one request.
pub(super) type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// A body that can be sent once, and what is known about how far it has come.
pub(super) struct Feed {
    /// Taken once; the lock only lets the request be looked at from several threads.
    body: Mutex<Option<Body>>,
    size: u64,
    counts: Arc<Counts>,
    teller: Teller,
}

/// Tells the observer what goes to one host.
#[derive(Clone)]
struct Teller {
    client: Client,
    host: String,
}

#[derive(Default)]
struct Counts {
    bytes: AtomicU64,
    /// The connection wants more and the stream has none: a stall is not the target's.
    starved: AtomicBool,
}

impl Feed {
    fn new(size: u64, body: Body, teller: Teller) -> Self {
        Self { body: Mutex::new(Some(body)), size, counts: Arc::default(), teller }
    }

    /// The body, the first time.
    pub(super) fn body(&mut self) -> Option<reqwest::Body> {
        let body = self.body.get_mut().unwrap_or_else(PoisonError::into_inner).take()?;
        let counted = Counted { body, counts: Arc::clone(&self.counts), teller: self.teller.clone() };
        Some(reqwest::Body::wrap_stream(counted))
    }

    /// Waits for the answer as long as bytes move, then for as long as a target may need to store them.
    pub(super) async fn guard<T>(&self, timing: &Timing, answer: impl Future<Output = T>) -> Result<T, Trouble> {
        let mut answer = std::pin::pin!(answer);
        let mut seen = 0;
        let mut since = Instant::now();
        // Often enough to notice within a tenth of the bound.
        let tick = (timing.stall / 10).max(Duration::from_millis(10));
        loop {
            match tokio::time::timeout(tick, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_elapsed) => {
                    let bytes = self.counts.bytes.load(Ordering::Acquire);
                    let starved = self.counts.starved.load(Ordering::Acquire);
                    if bytes != seen || starved {
                        (seen, since) = (bytes, Instant::now());
                    }
                    let (bound, trouble) = if bytes >= self.size {
                        (timing.closing, Trouble::Headers)
                    } else if bytes == 0 {
                        (timing.connect + timing.stall, Trouble::Stall)
                    } else {
                        (timing.stall, Trouble::Stall)
                    };
                    if since.elapsed() >= bound {
                        return Err(trouble);
                    }
                }
            }
        }
    }
}

struct Counted {
    body: Body,
    counts: Arc<Counts>,
    teller: Teller,
}

impl Stream for Counted {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.body.as_mut().poll_next(context);
        self.counts.starved.store(item.is_pending(), Ordering::Release);
        if let Poll::Ready(Some(Ok(chunk))) = &item {
            let length = chunk.len() as u64;
            self.counts.bytes.fetch_add(length, Ordering::AcqRel);
            let Teller { client, host } = &self.teller;
            client.inner.limits.observer().bytes(host, client.side(), length);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_has_is_read_as_registries_write_it() {
        // distribution, the specification, Quay's fresh session, Quay's PATCH.
        for (text, bytes) in [("0-99", 100), ("bytes=0-99", 100), ("bytes=0--1", 0), (" bytes 0-9 ", 10)] {
            assert_eq!(received(text), Some(bytes), "{text}");
        }
        for bad in ["", "0-0", "99", "5-9", "bytes=", "0-", "x-y"] {
            assert_eq!(received(bad), None, "{bad}");
        }
    }
}
