//! Writing blobs: sessions, mounts, and one request with all bytes.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use tokio::time::{Instant, sleep};
use url::Url;

use super::client::{Client, accepted};
use super::reply::Reply;
use super::transport::{Ask, Payload, Place, strip};
use super::{Capability, Class, Error, Problem, SMALL_BLOB, Timing, Trouble};
use crate::oci::{Digest, Repository};

/// What a target said to the wish to write a blob.
#[derive(Debug)]
pub enum Started {
    /// It has taken the blob from its other repository.
    Mounted,
    /// It wants to be sent it.
    Session(Box<UploadSession>),
}

/// A place at a target to send one blob to. Dropping it leaves it to the target to clean up.
pub struct UploadSession {
    client: Client,
    place: Place,
    url: Url,
    digest: Digest,
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
                    202 => return self.session(place.clone(), digest, reply).await.map(Started::Session),
                    401 | 403 => learn = Some(false),
                    400..=499 => learn = Some(true),
                    _ => {}
                },
                Err(error) => match error.problem() {
                    Problem::Unauthorized(_) => learn = Some(false),
                    // A host that cannot mount this blob now may well take it.
                    Problem::Status { .. } => {}
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

    fn post<'a>(&self, place: &'a Place, digest: &Digest) -> Ask<'a> {
        let asked = format!("upload of `{}@{digest}`", place.repository.path());
        let mut ask = self.ask(place, Method::POST, "blobs/uploads/", asked);
        ask.payload = Payload::Bytes(Bytes::new());
        ask.header(CONTENT_LENGTH, "0")
    }

    async fn session(&self, place: Place, digest: &Digest, reply: Reply) -> Result<Box<UploadSession>, Error> {
        let location = reply.text(LOCATION).and_then(|text| reply.response.url().join(text).ok());
        let Some(mut url) = location else {
            return Err(reply.error(Problem::Garbled("the registry does not say where to upload to")));
        };
        strip(&mut url);
        reply.drain().await;
        Ok(Box::new(UploadSession { client: self.clone(), place, url, digest: digest.clone() }))
    }

    /// Writes a blob of at most [`SMALL_BLOB`] bytes, beginning again if the target breaks off.
    pub async fn put_bytes(&self, repository: &Repository, digest: &Digest, bytes: Bytes) -> Result<(), Error> {
        let mut round = 0;
        loop {
            let Started::Session(session) = self.start_upload(repository, digest, None).await? else { return Ok(()) };
            let Err(error) = session.put_bytes(bytes.clone()).await else { return Ok(()) };
            round += 1;
            if self.settle(session, error, round).await? {
                return Ok(());
            }
        }
    }

    /// After a broken upload: waits before the next attempt, true if the blob is there after all.
    ///
    /// # Errors
    /// The error that broke the upload, if another attempt makes no sense.
    pub(super) async fn settle(&self, session: Box<UploadSession>, error: Error, round: u32) -> Result<bool, Error> {
        let timing = &self.inner.settings.timing;
        let (repository, digest) = (session.place.repository.clone(), session.digest.clone());
        let gone = error.lost_session() || error.status().is_some_and(|status| status.as_u16() == 404);
        if !gone {
            session.cancel().await;
        }
        let after = match error.class() {
            Class::Transient { after } => after.unwrap_or_default(),
            Class::Permanent if gone || matches!(error.problem(), Problem::Unauthorized(_)) => Duration::ZERO,
            Class::Permanent => return Err(error),
        };
        if round >= timing.blob_attempts || after > timing.max_retry_after {
            return Err(error);
        }
        tracing::debug!(error = &error as &dyn std::error::Error, "beginning the upload again");
        sleep(self.inner.backoff(round - 1).max(after)).await;
        // A connection may break, or a proxy lose patience, after the target has taken everything.
        Ok(self.blob_exists(&repository, &digest).await.unwrap_or(false))
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

    /// Sends all `size` bytes of the blob in one request, and checks what the target says about them.
    ///
    /// The stream must end with an error rather than early if it is not complete; a frame at a time is taken from it.
    pub async fn put(
        &self,
        size: u64,
        body: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    ) -> Result<(), Error> {
        let mut ask = self.closing().header(CONTENT_LENGTH, &size.to_string());
        let feed = Feed::new(size, Box::pin(body));
        let counts = Arc::clone(&feed.counts);
        ask.payload = Payload::Stream(feed);
        ask.windowed = false;
        let reply = self.client.inner.send(ask).await?;
        let sent = counts.bytes.load(Ordering::Acquire);
        let reply = self.finish(reply).await?;
        if sent != size {
            return Err(reply.error(Problem::Length { expected: size, actual: sent }));
        }
        self.client.inner.limits.observer().bytes(&self.place.host, self.client.side(), size);
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

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// A body that can be sent once, and what is known about how far it has come.
pub(super) struct Feed {
    /// Taken once; the lock only lets the request be looked at from several threads.
    body: Mutex<Option<Body>>,
    size: u64,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    bytes: AtomicU64,
    /// The connection wants more and the stream has none: a stall is not the target's.
    starved: AtomicBool,
}

impl Feed {
    fn new(size: u64, body: Body) -> Self {
        Self { body: Mutex::new(Some(body)), size, counts: Arc::default() }
    }

    /// The body, the first time.
    pub(super) fn body(&mut self) -> Option<reqwest::Body> {
        let body = self.body.get_mut().unwrap_or_else(PoisonError::into_inner).take()?;
        let counted = Counted { body, counts: Arc::clone(&self.counts) };
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
}

impl Stream for Counted {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.body.as_mut().poll_next(context);
        self.counts.starved.store(item.is_pending(), Ordering::Release);
        if let Poll::Ready(Some(Ok(chunk))) = &item {
            self.counts.bytes.fetch_add(chunk.len() as u64, Ordering::AcqRel);
        }
        item
    }
}
