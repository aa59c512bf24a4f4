//! Moving a blob from one registry to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::TryFutureExt as _;
use tokio::sync::mpsc;

use super::blob::BlobReader;
use super::upload::{Body, Kept, Patience, Started, UploadSession};
use super::{Client, Error, Problem, SMALL_BLOB, Throttle};
use crate::oci::{Descriptor, Repository};

/// How often a blob is read from its start in all if the source sends something else, or cannot send parts.
const READS: u32 = 3;

/// Bytes at a time of what is held whole.
const FRAME: usize = 64 << 10;

/// How often the transfers of something broke, and how they went on. Requests that are repeated at once, before anything was
/// moved, are none of these.
#[derive(Debug, Default)]
pub struct Breaks {
    /// Went on where they had broken.
    pub resumed: AtomicU64,
    /// Began again at the start.
    pub retried: AtomicU64,
}

/// What accompanies a transfer.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// Is told of bytes as they are handed to the target; those of a repeated attempt count again.
    pub on_bytes: &'a (dyn Fn(u64) + Send + Sync),
    /// All of them are waited for before a frame passes.
    pub throttles: &'a [Arc<Throttle>],
    /// Counts.
    pub breaks: Option<&'a Breaks>,
}

impl Progress<'_> {
    /// Lets nobody know, waits for nothing.
    pub fn none() -> Self {
        Self { on_bytes: &|_bytes| {}, throttles: &[], breaks: None }
    }

    fn resumed(&self, times: u64) {
        if let Some(breaks) = self.breaks {
            breaks.resumed.fetch_add(times, Ordering::Relaxed);
        }
    }

    fn retried(&self) {
        if let Some(breaks) = self.breaks {
            breaks.retried.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn pass(&self, bytes: u64) {
        for throttle in self.throttles {
            throttle.take(bytes).await;
        }
        (self.on_bytes)(bytes);
    }
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("throttles", &self.throttles).finish_non_exhaustive()
    }
}

/// How a blob came to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transferred {
    /// The repository had it already.
    Present,
    /// The target took it from another of its repositories; or, if it was asked to take it from the same, it had it.
    Mounted,
    /// It was sent.
    Uploaded {
        /// Its length.
        bytes: u64,
    },
}

/// Which side broke a transfer.
enum Broken {
    Source(Error),
    /// The source gives no parts, and the whole is too much to read again in place.
    Restart(Error),
    Target(Error),
}

/// Where a blob comes from.
#[derive(Clone, Copy, Debug)]
pub enum BlobSource<'a> {
    /// A repository of another registry.
    Registry(&'a Client, &'a Repository),
    /// It was made here, and is held whole.
    Made(&'a Bytes),
}

/// What a target says to the wish to bring it a blob.
#[derive(Debug)]
pub enum Offer {
    /// It is there already.
    Present,
    /// The target has taken it from another of its repositories; or, if it was asked to take it from the same, it had it.
    Mounted,
    /// It wants to be sent it; maybe the session for that is begun.
    Wanted(Option<Box<UploadSession>>),
}

/// Lets the target take a blob from its own repository `mount_from`, which may be `to` itself: then it is found out
/// whether the blob is there.
///
/// One request, whose answer is an upload session if the target cannot; where mounting is known not to work, it is looked
/// whether the blob is there.
pub async fn offer(
    target: &Client,
    to: &Repository,
    blob: &Descriptor,
    mount_from: &Repository,
) -> Result<Offer, Error> {
    if !target.mounts(to) {
        let there = target.blob_exists(to, &blob.digest).await?;
        return Ok(if there { Offer::Present } else { Offer::Wanted(None) });
    }
    Ok(match target.start_upload(to, &blob.digest, Some(mount_from)).await? {
        Started::Mounted => Offer::Mounted,
        Started::Session(session) => Offer::Wanted(Some(session)),
    })
}

/// Moves a blob: mounted from `mount_from` if the target can, otherwise sent.
///
/// # Errors
/// See [`offer`] and [`send`].
pub async fn transfer(
    source: &Client,
    from: &Repository,
    target: &Client,
    to: &Repository,
    blob: &Descriptor,
    mount_from: Option<&Repository>,
    progress: Progress<'_>,
) -> Result<Transferred, Error> {
    let offered = match mount_from {
        Some(mount_from) => offer(target, to, blob, mount_from).await?,
        None => Offer::Wanted(None),
    };
    match offered {
        Offer::Present => Ok(Transferred::Present),
        Offer::Mounted => Ok(Transferred::Mounted),
        Offer::Wanted(session) => send(BlobSource::Registry(source, from), target, to, blob, session, progress).await,
    }
}

/// Reads, verifies and sends a blob at the same time, in `session` if one was begun. One that was made here is sent in the same way.
///
/// The last byte is released to the target only after length and digest match. A source that breaks off is resumed where
/// it broke; a target that does, where it says that it is: what it has is not sent again, and what has to be read again
/// is read from the last state of the hash that was kept before that. Breaks that are followed by progress do not count.
/// A target that has lost the session gets the blob from the start. Takes a place in the windows of both hosts for a blob
/// above [`SMALL_BLOB`], and holds one frame of it in memory, or some parts if the source is slow; smaller ones are held whole.
///
/// # Errors
/// The failure of the side that broke it; [`Error::side`] says which.
pub async fn send(
    from: BlobSource<'_>,
    target: &Client,
    to: &Repository,
    blob: &Descriptor,
    session: Option<Box<UploadSession>>,
    progress: Progress<'_>,
) -> Result<Transferred, Error> {
    if blob.size <= SMALL_BLOB {
        return send_small(from, target, to, blob, session, progress).await;
    }
    let done = Transferred::Uploaded { bytes: blob.size };
    // The source's first: see `Host::acquire`.
    let reading = match from {
        BlobSource::Registry(source, repository) => Some(source.bulk(repository, blob.size).await),
        BlobSource::Made(_) => None,
    };
    let writing = target.bulk(to, blob.size).await;
    let (mut session, mut reader) = (session, None);
    let (mut patience, mut reads, mut most) = (Patience::default(), 1, 0);
    loop {
        let start = async {
            match session.take() {
                Some(begun) => Ok(Started::Session(begun)),
                None => target.start_upload(to, &blob.digest, None).await,
            }
        };
        let read = async {
            match reader.take() {
                Some(open) => Ok(open),
                None => from.open(blob).await,
            }
        };
        let (opened, started) = futures::join!(read, start);
        let mut begun = match started? {
            Started::Mounted => return Ok(Transferred::Mounted),
            Started::Session(begun) => begun,
        };
        let mut open = match opened {
            Ok(open) => open,
            Err(error) if reads < READS && is_other(&error) => {
                progress.retried();
                reads += 1;
                session = Some(begun);
                continue;
            }
            Err(error) => {
                abandon(Some(begun)).await;
                return Err(error);
            }
        };
        if begun.offset() < open.released() {
            open.rewind(begun.offset());
        }
        let delivered = deliver(&mut open, &mut begun, target, blob.size, progress).await;
        progress.resumed(open.take_resumed());
        match delivered {
            Ok(()) => {
                if let Some(reading) = &reading {
                    reading.succeeded(blob.size);
                }
                writing.succeeded(blob.size);
                return Ok(done);
            }
            Err(Broken::Source(error)) => {
                abandon(Some(begun)).await;
                return Err(error);
            }
            Err(Broken::Restart(error)) => {
                abandon(Some(begun)).await;
                reads += 1;
                if reads > READS {
                    return Err(error);
                }
                progress.retried();
            }
            Err(Broken::Target(error)) => {
                if matches!(error.problem(), Problem::Unreachable(_) | Problem::RateLimited { .. }) {
                    writing.troubled();
                }
                if target.shorten(&begun, &error) {
                    // Refused by its length alone: the session is as it was.
                    (session, reader) = (Some(begun), Some(open));
                    continue;
                }
                if let Err(error) = patience.wait(target, error.clone()).await {
                    abandon(Some(begun)).await;
                    return Err(error);
                }
                match kept(begun, &error, blob.size, open.released(), progress).await {
                    Kept::Stored => return Ok(done),
                    Kept::Here(kept) => {
                        if kept.offset() > most {
                            most = kept.offset();
                            patience.renew();
                        }
                        session = Some(kept);
                    }
                    Kept::Gone => {}
                }
                reader = Some(open);
            }
        }
    }
}

/// Reads a blob whole and sends it in one piece.
async fn send_small(
    from: BlobSource<'_>,
    target: &Client,
    to: &Repository,
    blob: &Descriptor,
    session: Option<Box<UploadSession>>,
    progress: Progress<'_>,
) -> Result<Transferred, Error> {
    let read = match from {
        BlobSource::Registry(source, repository) => read_small(source, repository, blob, progress).await,
        BlobSource::Made(bytes) => Ok(bytes.clone()),
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) => {
            abandon(session).await;
            return Err(error);
        }
    };
    progress.pass(blob.size).await;
    match session {
        Some(session) => target.send_bytes(to, session, bytes).await?,
        None => target.put_bytes(to, &blob.digest, bytes).await?,
    }
    Ok(Transferred::Uploaded { bytes: blob.size })
}

impl BlobSource<'_> {
    async fn open(self, blob: &Descriptor) -> Result<Reader, Error> {
        Ok(match self {
            Self::Registry(source, from) => {
                Reader::Registry(Box::new(BlobReader::open(source, from, blob, None).await?))
            }
            Self::Made(bytes) => Reader::Made { bytes: bytes.clone(), released: 0 },
        })
    }
}

/// A blob that is being read.
enum Reader {
    Registry(Box<BlobReader>),
    Made { bytes: Bytes, released: usize },
}

impl Reader {
    /// See [`BlobReader::next`].
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        match self {
            Self::Registry(reader) => reader.next().await,
            Self::Made { bytes, released } => {
                let end = bytes.len().min(*released + FRAME);
                let frame = bytes.slice(*released..end);
                *released = end;
                (!frame.is_empty()).then_some(Ok(frame))
            }
        }
    }

    /// See [`BlobReader::put_back`].
    fn put_back(&mut self, frame: Bytes) {
        match self {
            Self::Registry(reader) => reader.put_back(frame),
            Self::Made { released, .. } => *released -= frame.len(),
        }
    }

    /// See [`BlobReader::released`].
    fn released(&self) -> u64 {
        match self {
            Self::Registry(reader) => reader.released(),
            Self::Made { released, .. } => *released as u64,
        }
    }

    /// See [`BlobReader::rewind`].
    fn rewind(&mut self, offset: u64) {
        match self {
            Self::Registry(reader) => reader.rewind(offset),
            // As far as something was released, it fits.
            Self::Made { released, .. } => *released = usize::try_from(offset).unwrap_or(*released),
        }
    }

    /// See [`BlobReader::must_restart`].
    fn must_restart(&self) -> bool {
        match self {
            Self::Registry(reader) => reader.must_restart(),
            Self::Made { .. } => false,
        }
    }

    /// See [`BlobReader::take_resumed`].
    fn take_resumed(&mut self) -> u64 {
        match self {
            Self::Registry(reader) => reader.take_resumed(),
            Self::Made { .. } => 0,
        }
    }
}

/// What a target has kept of an upload that broke with `error`, if the source can go on from there.
async fn kept(session: Box<UploadSession>, error: &Error, size: u64, released: u64, progress: Progress<'_>) -> Kept {
    match session.after(error, size).await {
        Kept::Stored => Kept::Stored,
        Kept::Here(kept) if kept.offset() <= released => {
            progress.resumed(1);
            kept.tell_resumed();
            Kept::Here(kept)
        }
        other => {
            progress.retried();
            if let Kept::Here(more) = other {
                // More than it was sent is not ours.
                more.cancel().await;
            }
            Kept::Gone
        }
    }
}

/// A blob that is held whole, read again if the source sends something else.
async fn read_small(
    source: &Client,
    from: &Repository,
    blob: &Descriptor,
    progress: Progress<'_>,
) -> Result<Bytes, Error> {
    let mut reads = 1;
    loop {
        match source.blob_bytes(from, blob).await {
            Err(error) if reads < READS && is_other(&error) => {
                progress.retried();
                reads += 1;
            }
            result => return result,
        }
    }
}

/// True if something came that is not what was asked for.
fn is_other(error: &Error) -> bool {
    matches!(error.problem(), Problem::Digest { .. } | Problem::Length { .. })
}

async fn abandon(session: Option<Box<UploadSession>>) {
    if let Some(session) = session {
        session.cancel().await;
    }
}

/// Sends what the target has not got yet: in one request, unless it takes only parts or has some already.
async fn deliver(
    reader: &mut Reader,
    session: &mut UploadSession,
    target: &Client,
    size: u64,
    progress: Progress<'_>,
) -> Result<(), Broken> {
    let chunk = target.chunk(session);
    if session.offset() == 0 && chunk >= size {
        return stream(reader, size, progress, |body| session.put(size, body)).await;
    }
    while session.offset() < size {
        let length = chunk.min(size - session.offset());
        stream(reader, length, progress, |body| session.patch(length, body)).await?;
    }
    session.close().await.map_err(Broken::Target)
}

/// Reads and sends the next `length` bytes at the same time, with one frame between the two.
async fn stream<F>(
    reader: &mut Reader,
    length: u64,
    progress: Progress<'_>,
    write: impl FnOnce(Body) -> F,
) -> Result<(), Broken>
where
    F: Future<Output = Result<(), Error>>,
{
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let body = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (Ok(chunk), receiver))
    });
    let read = async move {
        let mut left = length;
        while left > 0 {
            let mut chunk = match reader.next().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) if reader.must_restart() || is_other(&error) => return Err(Broken::Restart(error)),
                Some(Err(error)) => return Err(Broken::Source(error)),
                None => break,
            };
            let fits = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            reader.put_back(chunk.split_off(fits));
            left -= chunk.len() as u64;
            progress.pass(chunk.len() as u64).await;
            if sender.send(chunk).await.is_err() {
                // The request has ended; its result says why.
                break;
            }
        }
        Ok(())
    };
    let write = write(Box::pin(body)).map_err(Broken::Target);
    // The first error drops the other side, which closes a connection that is short of the announced length.
    futures::try_join!(read, write).map(|_| ())
}
