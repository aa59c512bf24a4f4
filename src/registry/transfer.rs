//! Moving a blob from one registry to another.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::blob::BlobReader;
use super::upload::{Started, UploadSession};
use super::{Client, Error, SMALL_BLOB, Throttle};
use crate::oci::{Descriptor, Repository};

/// What accompanies a transfer.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// Is told of bytes as they are handed to the target; those of a repeated attempt count again.
    pub on_bytes: &'a (dyn Fn(u64) + Send + Sync),
    /// All of them are waited for before a frame passes.
    pub throttles: &'a [Arc<Throttle>],
}

impl Progress<'_> {
    /// Lets nobody know, waits for nothing.
    pub fn none() -> Self {
        Self { on_bytes: &|_bytes| {}, throttles: &[] }
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

/// Moves a blob: mounted from `mount_from` if the target can, otherwise read, verified and sent at the same time.
///
/// Looks whether the target has it only by trying to mount it, or where that is known not to work. A source that breaks off is resumed; if the target does, the blob is begun
/// again, a bounded number of times. Takes a place in the windows of both hosts for a blob above [`SMALL_BLOB`].
///
/// # Errors
/// The failure of the side that broke it; [`Error::side`] says which.
pub async fn transfer(
    source: &Client,
    from: &Repository,
    target: &Client,
    to: &Repository,
    blob: &Descriptor,
    mount_from: Option<&Repository>,
    progress: Progress<'_>,
) -> Result<Transferred, Error> {
    let done = Transferred::Uploaded { bytes: blob.size };
    let mut session = None;
    if mount_from.is_some() {
        if !target.mounts(to) && target.blob_exists(to, &blob.digest).await? {
            return Ok(Transferred::Present);
        }
        match target.start_upload(to, &blob.digest, mount_from).await? {
            Started::Mounted => return Ok(Transferred::Mounted),
            Started::Session(begun) => session = Some(begun),
        }
    }
    if blob.size <= SMALL_BLOB {
        let bytes = match source.blob_bytes(from, blob).await {
            Ok(bytes) => bytes,
            Err(error) => {
                abandon(session).await;
                return Err(error);
            }
        };
        progress.pass(blob.size).await;
        if let Some(session) = session {
            let Err(error) = session.put_bytes(bytes.clone()).await else { return Ok(done) };
            if target.settle(session, error, 1).await? {
                return Ok(done);
            }
        }
        return target.put_bytes(to, &blob.digest, bytes).await.map(|()| done);
    }
    // The source's first: see `Host::acquire`.
    let _reading = source.bulk(from).await;
    let _writing = target.bulk(to).await;
    let mut round = 0;
    loop {
        let start = async {
            match session.take() {
                Some(begun) => Ok(Started::Session(begun)),
                None => target.start_upload(to, &blob.digest, None).await,
            }
        };
        let (reader, started) = futures::join!(BlobReader::open(source, from, blob, None), start);
        let begun = match started {
            Ok(Started::Mounted) => return Ok(Transferred::Mounted),
            Ok(Started::Session(begun)) => begun,
            Err(error) => return Err(error),
        };
        let reader = match reader {
            Ok(reader) => reader,
            Err(error) => {
                abandon(Some(begun)).await;
                return Err(error);
            }
        };
        let broken = match stream(reader, &begun, blob.size, progress).await {
            Ok(()) => return Ok(done),
            Err(broken) => broken,
        };
        round += 1;
        match broken {
            Broken::Target(error) => {
                if target.settle(begun, error, round).await? {
                    return Ok(done);
                }
            }
            Broken::Source(error) => {
                abandon(Some(begun)).await;
                return Err(error);
            }
            Broken::Restart(error) => {
                abandon(Some(begun)).await;
                if round >= source.inner.settings.timing.blob_attempts {
                    return Err(error);
                }
            }
        }
    }
}

async fn abandon(session: Option<Box<UploadSession>>) {
    if let Some(session) = session {
        session.cancel().await;
    }
}

/// Reads and sends at the same time, with one frame between the two.
async fn stream(
    mut reader: BlobReader,
    session: &UploadSession,
    size: u64,
    progress: Progress<'_>,
) -> Result<(), Broken> {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let body = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (Ok(chunk), receiver))
    });
    let read = async move {
        while let Some(chunk) = reader.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) if reader.must_restart() => return Err(Broken::Restart(error)),
                Err(error) => return Err(Broken::Source(error)),
            };
            progress.pass(chunk.len() as u64).await;
            if sender.send(chunk).await.is_err() {
                // The request has ended; its result says why.
                break;
            }
        }
        Ok(())
    };
    let write = async { session.put(size, body).await.map_err(Broken::Target) };
    // The first error drops the other side, which closes a connection that is short of the announced length.
    futures::try_join!(read, write).map(|_| ())
}
