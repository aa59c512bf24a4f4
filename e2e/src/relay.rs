//! A TCP relay that makes a distance: what passes arrives later, as much at once as the sender likes.
//!
//! It does not look into what it forwards, so TLS passes through it. For a narrow line there is [`crate::proxy`].

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::background::Background;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Chunks of one direction of a connection that are on their way: 16 MiB, more than a window of TCP.
const ON_THE_WAY: usize = 256;

/// A running relay; dropping it closes every connection.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    _server: Background,
}

impl Relay {
    /// Starts one in front of `upstream` (`127.0.0.1:<port>`), this far away: half of `round_trip` in each direction, and
    /// a whole one for each new connection.
    ///
    /// # Errors
    /// When it cannot listen, or `upstream` is not an address.
    pub fn start(upstream: &str, round_trip: Duration) -> Result<Self> {
        let upstream: SocketAddr = upstream.parse().with_context(|| format!("`{upstream}` is not an address"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        let server = Background::start("relay", move || async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                serve(listener, upstream, round_trip, &count).await;
            }
        })?;
        Ok(Self { address, connections, _server: server })
    }

    /// `127.0.0.1:<port>`: what a client is told.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// How many connections came in.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(listener: tokio::net::TcpListener, upstream: SocketAddr, round_trip: Duration, count: &AtomicU64) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                connections.spawn(forward(client, upstream, round_trip));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(client: TcpStream, upstream: SocketAddr, round_trip: Duration) {
    // The client is connected at once; over a real distance that takes as long as a question and its answer.
    sleep(round_trip).await;
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    // An error means that the system will not have it: then it is a little slower.
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::join!(carry(client_read, server_write, round_trip / 2), carry(server_read, client_write, round_trip / 2));
}

/// Copies until the sender ends, everything as late as the first byte, then passes the end on.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            match from.read_buf(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if sender.send((Instant::now() + delay, chunk)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        to.shutdown().await.ok();
    };
    tokio::join!(read, write);
}
