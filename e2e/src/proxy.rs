//! A TCP proxy that makes a network bad: slow, held, cut, refusing.
//!
//! It does not look into what it forwards, so TLS passes through it; the servers' certificates are valid for it, as it
//! listens on the same address.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::background::Background;
use crate::wait::eventually;

/// Bytes read at once: small, so that a slow rate flows evenly.
const CHUNK: usize = 16 * 1024;
/// How much of a delay is made up for: timers are late by more than a chunk takes on a fast line.
const LATENESS: Duration = Duration::from_millis(100);

/// What the proxy does at present.
#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    /// Bytes per second and direction, over all connections.
    rate: Option<u64>,
    /// Time before the first byte of each connection is forwarded.
    delay: Duration,
    /// New connections are closed at once.
    refuse: bool,
    /// Nothing is forwarded once this many bytes went to clients in all.
    hold_at: Option<u64>,
    /// Rises with each cut; a connection ends when it changes.
    epoch: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    to_client: AtomicU64,
    to_server: AtomicU64,
}

/// One direction's share of the rate: when the next byte may pass.
type Pace = Arc<tokio::sync::Mutex<Instant>>;

/// A running proxy; dropping it closes every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    counters: Arc<Counters>,
    _server: Background,
}

impl Proxy {
    /// Starts one in front of `upstream` (`127.0.0.1:<port>`), on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When it cannot listen, or `upstream` is not an address.
    pub fn start(upstream: &str) -> Result<Self> {
        let upstream: SocketAddr = upstream.parse().with_context(|| format!("`{upstream}` is not an address"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (mode, watched) = watch::channel(Mode::default());
        let counters = Arc::new(Counters::default());
        let shared = Arc::clone(&counters);
        let server = Background::start("proxy", move || async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                serve(listener, upstream, watched, shared).await;
            }
        })?;
        Ok(Self { address, mode, counters, _server: server })
    }

    /// `127.0.0.1:<port>`: what a client is told.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Limits each direction to this many bytes per second over all connections; `None` lifts the limit at once.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.mode.send_modify(|mode| mode.rate = bytes_per_second);
    }

    /// Holds back the first byte of each new connection for this long.
    pub fn delay(&self, delay: Duration) {
        self.mode.send_modify(|mode| mode.delay = delay);
    }

    /// Forwards another `bytes` to clients, then nothing at all, with connections left open: the way to catch a transfer
    /// in the middle. [`Proxy::release`] lets go.
    pub fn hold_after(&self, bytes: u64) {
        let passed = self.bytes_to_client();
        self.mode.send_modify(|mode| mode.hold_at = Some(passed + bytes));
    }

    /// Forwards again.
    pub fn release(&self) {
        self.mode.send_modify(|mode| mode.hold_at = None);
    }

    /// Waits until the hold of [`Proxy::hold_after`] is reached.
    ///
    /// # Errors
    /// When the deadline has passed.
    pub async fn until_held(&self, deadline: Duration) -> Result<()> {
        eventually(deadline, "a transfer to reach the proxy's hold", || async {
            let hold_at = self.mode.borrow().hold_at.context("the proxy holds nothing")?;
            Ok((self.bytes_to_client() >= hold_at).then_some(()))
        })
        .await
    }

    /// Closes new connections at once, or accepts them again. Present connections go on; see [`Proxy::cut`].
    pub fn refuse(&self, refuse: bool) {
        self.mode.send_modify(|mode| mode.refuse = refuse);
    }

    /// Cuts every present connection.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.epoch += 1);
    }

    /// How many connections came in, the refused ones included.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// Bytes that went to clients.
    pub fn bytes_to_client(&self) -> u64 {
        self.counters.to_client.load(Ordering::Relaxed)
    }

    /// Bytes that went to the server.
    pub fn bytes_to_server(&self) -> u64 {
        self.counters.to_server.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    upstream: SocketAddr,
    mode: watch::Receiver<Mode>,
    counters: Arc<Counters>,
) {
    let now = Instant::now();
    let down: Pace = Arc::new(tokio::sync::Mutex::new(now));
    let up: Pace = Arc::new(tokio::sync::Mutex::new(now));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                counters.connections.fetch_add(1, Ordering::Relaxed);
                if mode.borrow().refuse {
                    continue;
                }
                let link = Link { mode: mode.clone(), counters: Arc::clone(&counters) };
                connections.spawn(link.forward(client, upstream, Arc::clone(&down), Arc::clone(&up)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

#[derive(Clone)]
struct Link {
    mode: watch::Receiver<Mode>,
    counters: Arc<Counters>,
}

impl Link {
    async fn forward(self, client: TcpStream, upstream: SocketAddr, down: Pace, up: Pace) {
        let (epoch, delay) = {
            let mode = self.mode.borrow();
            (mode.epoch, mode.delay)
        };
        let mut watched = self.mode.clone();
        let both = async {
            tokio::time::sleep(delay).await;
            let Ok(server) = TcpStream::connect(upstream).await else { return };
            // An error means that the system will not have it: then it is a little slower.
            client.set_nodelay(true).ok();
            server.set_nodelay(true).ok();
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            let upward = self.clone().pump(client_read, server_write, up, Direction::ToServer);
            let downward = self.clone().pump(server_read, client_write, down, Direction::ToClient);
            tokio::join!(upward, downward);
        };
        tokio::select! {
            () = both => {}
            _ = watched.wait_for(|mode| mode.epoch != epoch) => {}
        }
    }

    /// Copies until the sender ends, then passes the end on.
    async fn pump(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, pace: Pace, direction: Direction) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let Some(limit) = self.allowance(direction).await else { return };
            let Some(space) = buffer.get_mut(..limit) else { return };
            let length = match from.read(space).await {
                Ok(0) | Err(_) => break,
                Ok(length) => length,
            };
            self.wait_for_turn(&pace, length as u64).await;
            let Some(data) = buffer.get(..length) else { return };
            // Counted before it is written: who sees the bytes arrive finds them counted.
            let counter = match direction {
                Direction::ToClient => &self.counters.to_client,
                Direction::ToServer => &self.counters.to_server,
            };
            counter.fetch_add(length as u64, Ordering::Relaxed);
            if to.write_all(data).await.is_err() {
                return;
            }
        }
        to.shutdown().await.ok();
    }

    /// Waits while the proxy holds, then says how much may be read at once.
    async fn allowance(&mut self, direction: Direction) -> Option<usize> {
        let passed = || self.counters.to_client.load(Ordering::Relaxed);
        let left = |mode: &Mode| mode.hold_at.map_or(u64::MAX, |at| at.saturating_sub(passed()));
        let mode = *self.mode.wait_for(|mode| left(mode) > 0).await.ok()?;
        let left = match direction {
            Direction::ToClient => usize::try_from(left(&mode)).unwrap_or(usize::MAX),
            Direction::ToServer => usize::MAX,
        };
        Some(left.min(CHUNK))
    }

    /// Spreads chunks over time; a change of the rate takes effect on those that wait.
    async fn wait_for_turn(&mut self, pace: &Pace, length: u64) {
        let Some(rate) = self.mode.borrow_and_update().rate else { return };
        let mut next = pace.lock().await;
        let cost = Duration::from_micros(length.saturating_mul(1_000_000) / rate.max(1));
        let now = Instant::now();
        let turn = (*next).max(now.checked_sub(LATENESS).unwrap_or(now)) + cost;
        tokio::select! {
            () = sleep_until(turn) => {}
            _ = self.mode.wait_for(|mode| mode.rate != Some(rate)) => {}
        }
        *next = Instant::now().min(turn);
    }
}

#[derive(Clone, Copy)]
enum Direction {
    ToClient,
    ToServer,
}
