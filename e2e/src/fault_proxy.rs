//! A proxy that understands HTTP and does to single requests what networks, balancers and registries do on bad days.
//!
//! It stands in front of a real registry on plain HTTP. Each request gets a connection of its own to the registry, so
//! that every answer ends where its connection ends; the client's connections are kept. Everything that passes is
//! counted per request: the proxy's log is what tests assert on.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::background::Background;
use crate::wait::eventually;

/// Bytes passed on at once.
const CHUNK: usize = 16 * 1024;
/// What the system keeps for a client that does not read.
const SEND_BUFFER: usize = 16 * 1024;
/// Longest head of a request or answer.
const MAX_HEAD: usize = 64 * 1024;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `GET /v2/`.
    Ping,
    /// Anything to a token server.
    Token,
    /// A manifest is looked for.
    HeadManifest,
    /// A manifest is read.
    GetManifest,
    /// A manifest is written.
    PutManifest,
    /// A blob is looked for.
    HeadBlob,
    /// A blob is read.
    GetBlob,
    /// An upload begins, or a blob is mounted.
    StartUpload,
    /// A part of a blob is sent.
    PatchUpload,
    /// A blob is sent, or its upload closed.
    PutUpload,
    /// The state of an upload is asked for.
    UploadStatus,
    /// An upload is given up.
    CancelUpload,
    /// Referrers are asked for.
    Referrers,
    /// Something else.
    Other,
}

impl Kind {
    fn of(method: &str, path: &str) -> Self {
        if path == "/v2/" || path == "/v2" {
            return Self::Ping;
        }
        if !path.starts_with("/v2/") {
            return Self::Token;
        }
        let upload = path.contains("/blobs/uploads/");
        let (blob, manifest) = (!upload && path.contains("/blobs/"), path.contains("/manifests/"));
        match method {
            "POST" if upload => Self::StartUpload,
            "PATCH" if upload => Self::PatchUpload,
            "PUT" if upload => Self::PutUpload,
            "GET" if upload => Self::UploadStatus,
            "DELETE" if upload => Self::CancelUpload,
            "HEAD" if blob => Self::HeadBlob,
            "GET" if blob => Self::GetBlob,
            "HEAD" if manifest => Self::HeadManifest,
            "GET" if manifest => Self::GetManifest,
            "PUT" if manifest => Self::PutManifest,
            "GET" if path.contains("/referrers/") => Self::Referrers,
            _ => Self::Other,
        }
    }
}

/// An answer that the proxy gives itself.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Reply {
    /// An empty answer.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new() }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a registry's error in it.
    #[must_use]
    pub fn error(mut self, code: &str, message: &str) -> Self {
        self.body = serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string();
        self.header("content-type", "application/json")
    }

    /// With a page of a balancer in it.
    #[must_use]
    pub fn page(mut self) -> Self {
        "<html><body>Application is not available</body></html>".clone_into(&mut self.body);
        self.header("content-type", "text/html")
    }
}

/// What is done to a request. Bytes are those of the body.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The proxy answers, once it has read the request.
    Answer(Reply),
    /// The request is served, and then another answer given.
    AnswerInstead(Reply),
    /// The connection is reset once this many bytes of the request have reached the server.
    ResetUp(u64),
    /// The connection is reset once this many bytes of the answer have reached the client.
    ResetDown(u64),
    /// The connection is closed in order, but too early.
    CloseDown(u64),
    /// After this many bytes nothing more comes until [`FaultProxy::release`], and then a reset.
    StallDown(u64),
    /// No byte of the request reaches the server until [`FaultProxy::release`], and then a reset.
    Hold,
    /// The request is served, but its answer held until [`FaultProxy::release`], and then lost.
    HoldAnswer,
    /// The request is served and its answer lost in a reset.
    LoseAnswer,
    /// The answer's body comes in pieces with a pause after each.
    Drip {
        /// Bytes of a piece.
        piece: usize,
        /// Time after each.
        pause: Duration,
    },
    /// The byte at this place of the answer is another one.
    Flip(u64),
    /// The answer says that it is only this long, and is.
    Shorten(u64),
    /// The request passes without this header.
    Without(&'static str),
    /// The answer passes with this header, whatever it had.
    With(&'static str, String),
    /// Served, but against another path: `from` in it is replaced by `to`.
    Path(String, String),
}

/// Which requests a fault meets: all of some kinds, narrowed down.
#[derive(Clone, Debug)]
pub struct When {
    kinds: Vec<Kind>,
    naming: String,
    least: u64,
    skip: u64,
    every: u64,
    times: u64,
    index: Option<usize>,
}

impl When {
    /// Every request.
    pub fn any() -> Self {
        Self { kinds: Vec::new(), naming: String::new(), least: 0, skip: 0, every: 1, times: u64::MAX, index: None }
    }

    /// Every request of a kind.
    pub fn kind(kind: Kind) -> Self {
        Self { kinds: vec![kind], ..Self::any() }
    }

    /// The request with this number; they are numbered from 0 in the order of their arrival.
    pub fn index(index: usize) -> Self {
        Self { index: Some(index), ..Self::any() }
    }

    /// Of this kind too.
    #[must_use]
    pub fn or(mut self, kind: Kind) -> Self {
        self.kinds.push(kind);
        self
    }

    /// Whose path or query has this in it.
    #[must_use]
    pub fn naming(self, text: &str) -> Self {
        Self { naming: text.to_owned(), ..self }
    }

    /// That bring at least this many bytes.
    #[must_use]
    pub fn of_least(self, bytes: u64) -> Self {
        Self { least: bytes, ..self }
    }

    /// Not the first few of these.
    #[must_use]
    pub fn after(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// Every so manieth of these.
    #[must_use]
    pub fn every(self, every: u64) -> Self {
        Self { every, ..self }
    }

    /// At most so often.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }
}

#[derive(Debug)]
struct Rule {
    when: When,
    fault: Fault,
    met: u64,
    done: u64,
}

impl Rule {
    fn meets(&mut self, index: usize, request: &Request) -> bool {
        let when = &self.when;
        let fits = when.index.is_none_or(|wanted| wanted == index)
            && (when.kinds.is_empty() || when.kinds.contains(&request.kind))
            && request.target.contains(&when.naming)
            && request.length >= when.least;
        if !fits {
            return false;
        }
        self.met += 1;
        let chosen =
            self.met > when.skip && (self.met - when.skip).is_multiple_of(when.every) && self.done < when.times;
        self.done += u64::from(chosen);
        chosen
    }
}

/// A request that came by, and what became of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it is about.
    pub kind: Kind,
    /// `GET`, `HEAD`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The credentials that it brought.
    pub authorization: Option<String>,
    /// The status that the client was given, if any.
    pub status: Option<u16>,
    /// Bytes of its body that went to the server.
    pub up: u64,
    /// Bytes of the answer's body that went to the client.
    pub down: u64,
    /// Whether something was done to it.
    pub faulty: bool,
}

impl Seen {
    /// The repository, if it is about one.
    pub fn repository(&self) -> Option<&str> {
        let path = self.path.strip_prefix("/v2/")?;
        let ends = ["/manifests/", "/blobs/", "/referrers/", "/tags/"];
        ends.iter().filter_map(|end| path.split_once(end)).map(|(name, _)| name).min_by_key(|name| name.len())
    }
}

/// Answers with 429 whatever exceeds the rate.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    tokens: f64,
    filled: Instant,
    reply: Reply,
}

/// Refuses whatever was used too often.
#[derive(Debug)]
struct Expiry {
    after: u64,
    uses: BTreeMap<String, u64>,
    reply: Reply,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    /// New connections are reset.
    refuse: bool,
    /// Rises with each cut.
    cuts: u64,
    /// Rises with each release.
    releases: u64,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Seen>>,
    mode: watch::Sender<Mode>,
    held: watch::Sender<usize>,
    refused: Mutex<u64>,
    bucket: Mutex<Option<Bucket>>,
    expiry: Mutex<Option<Expiry>>,
    /// Replaced in the headers of answers.
    names: Mutex<BTreeMap<String, String>>,
    /// Sent to the server in place of what the client sends.
    authorization: Mutex<Option<String>>,
}

/// A running proxy; dropping it closes every connection.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: Background,
}

impl FaultProxy {
    /// Starts one in front of `upstream` (`127.0.0.1:<port>`), on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When it cannot listen, or `upstream` is not an address.
    pub fn start(upstream: &str) -> Result<Self> {
        let upstream: SocketAddr = upstream.parse().with_context(|| format!("`{upstream}` is not an address"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        // Connections inherit it. What a reset takes away is what was counted and is still here.
        set_socket_send_buffer_size(&listener, SEND_BUFFER)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            rules: Mutex::default(),
            log: Mutex::default(),
            mode: watch::channel(Mode::default()).0,
            held: watch::channel(0).0,
            refused: Mutex::default(),
            bucket: Mutex::default(),
            expiry: Mutex::default(),
            names: Mutex::default(),
            authorization: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let server = Background::start("fault-proxy", move || async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                serve(listener, serving).await;
            }
        })?;
        Ok(Self { address, shared, _server: server })
    }

    /// `127.0.0.1:<port>`: what a client is told.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Does `fault` to the requests that `when` says. Of several that meet a request, the first is done.
    pub fn add(&self, when: When, fault: Fault) {
        lock(&self.shared.rules).push(Rule { when, fault, met: 0, done: 0 });
    }

    /// Ends all faults, held requests included.
    pub fn heal(&self) {
        lock(&self.shared.rules).clear();
        lock(&self.shared.bucket).take();
        lock(&self.shared.expiry).take();
        self.shared.mode.send_modify(|mode| mode.refuse = false);
        self.release();
    }

    /// Resets new connections, and those that are there; or accepts them again.
    pub fn refuse(&self, refuse: bool) {
        self.shared.mode.send_modify(|mode| {
            mode.refuse = refuse;
            mode.cuts += 1;
        });
    }

    /// Resets what is held.
    pub fn release(&self) {
        self.shared.mode.send_modify(|mode| mode.releases += 1);
    }

    /// Waits until this many requests have been held in all.
    ///
    /// # Errors
    /// When the deadline has passed.
    pub async fn until_held(&self, count: usize, deadline: Duration) -> Result<()> {
        let mut held = self.shared.held.subscribe();
        let waiting = held.wait_for(|held| *held >= count);
        tokio::time::timeout(deadline, waiting).await.context("no request was held")?.context("the proxy has ended")?;
        Ok(())
    }

    /// How many requests have been held so far.
    pub fn held(&self) -> usize {
        *self.shared.held.borrow()
    }

    /// Waits until this many connections have been refused in all.
    ///
    /// # Errors
    /// When the deadline has passed.
    pub async fn until_refused(&self, count: u64, deadline: Duration) -> Result<()> {
        eventually(deadline, "connections to be refused", || async { Ok((self.refused() >= count).then_some(())) })
            .await
    }

    /// How many connections were refused.
    pub fn refused(&self) -> u64 {
        *lock(&self.shared.refused)
    }

    /// Takes no more than this many requests a second; others get `reply`.
    pub fn limit(&self, per_second: u32, reply: Reply) {
        let rate = f64::from(per_second);
        *lock(&self.shared.bucket) = Some(Bucket { rate, tokens: rate, filled: Instant::now(), reply });
    }

    /// Lets each token be used so often; then the answer is `reply`.
    pub fn expire_tokens_after(&self, uses: u64, reply: Reply) {
        *lock(&self.shared.expiry) = Some(Expiry { after: uses, uses: BTreeMap::new(), reply });
    }

    /// Replaces a text in the headers of answers: how a token server comes to lie behind a proxy.
    pub fn rename(&self, from: &str, to: &str) {
        lock(&self.shared.names).insert(from.to_owned(), to.to_owned());
    }

    /// Sends these credentials to the server, whatever the client sends: how content comes to lie on a host that wants none.
    pub fn authorize(&self, header: &str) {
        *lock(&self.shared.authorization) = Some(header.to_owned());
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.log).clone()
    }

    /// All requests of a kind so far.
    pub fn of(&self, kind: Kind) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.kind == kind).collect()
    }

    /// Forgets the requests so far; the next has number 0.
    pub fn forget(&self) {
        lock(&self.shared.log).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if shared.mode.borrow().refuse {
                    *lock(&shared.refused) += 1;
                    client.set_zero_linger().ok();
                    continue;
                }
                connections.spawn(connection(client, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// How a connection goes on after a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Keep,
    Close,
    Reset,
}

type Reader = BufReader<OwnedReadHalf>;

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    // An error means that the system will not have it: then it is a little slower.
    client.set_nodelay(true).ok();
    let mut mode = shared.mode.subscribe();
    let cuts = mode.borrow().cuts;
    let (reader, mut writer) = client.into_split();
    let mut reader = BufReader::new(reader);
    let requests = async {
        loop {
            let next = match read_head(&mut reader).await {
                Ok(Some(head)) => exchange(&head, &mut reader, &mut writer, &shared).await.unwrap_or(Next::Reset),
                Ok(None) | Err(_) => Next::Close,
            };
            if next != Next::Keep {
                return next;
            }
        }
    };
    let next = tokio::select! {
        next = requests => next,
        _ = mode.wait_for(|mode| mode.cuts != cuts) => Next::Reset,
    };
    if next == Next::Reset {
        writer.as_ref().set_zero_linger().ok();
    }
}

#[derive(Debug)]
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    fn bytes(&self) -> Vec<u8> {
        let lines = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("{}\r\n{}\r\n", self.first, lines.collect::<String>()).into_bytes()
    }
}

async fn read_head(reader: &mut Reader) -> io::Result<Option<Head>> {
    let (mut lines, mut total) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        total += reader.read_line(&mut line).await?;
        if line.is_empty() || total > MAX_HEAD {
            return Ok(None);
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let mut lines = lines.into_iter();
    let first = lines.next();
    let headers =
        lines.filter_map(|line| line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned())));
    let headers = headers.collect();
    Ok(first.map(|first| Head { first, headers }))
}

struct Request {
    kind: Kind,
    method: String,
    target: String,
    length: u64,
}

impl Shared {
    /// Takes note of a request, and says what to do to it.
    fn enter(&self, head: &Head, request: &Request) -> (usize, Option<Fault>) {
        let mut log = lock(&self.log);
        let index = log.len();
        let limited = lock(&self.bucket).as_mut().and_then(|bucket| {
            let now = Instant::now();
            let gained = now.duration_since(bucket.filled).as_secs_f64() * bucket.rate;
            (bucket.tokens, bucket.filled) = ((bucket.tokens + gained).min(bucket.rate), now);
            if bucket.tokens < 1.0 {
                return Some(Fault::Answer(bucket.reply.clone()));
            }
            bucket.tokens -= 1.0;
            None
        });
        let expired = || self.expired(head.header("authorization")?);
        let ruled = || {
            let mut rules = lock(&self.rules);
            rules.iter_mut().find_map(|rule| rule.meets(index, request).then(|| rule.fault.clone()))
        };
        let fault = limited.or_else(expired).or_else(ruled);
        log.push(Seen {
            kind: request.kind,
            method: request.method.clone(),
            path: request.target.clone(),
            authorization: head.header("authorization").map(ToOwned::to_owned),
            status: None,
            up: 0,
            down: 0,
            faulty: fault.is_some(),
        });
        (index, fault)
    }

    /// Whether a token has been used often enough.
    fn expired(&self, token: &str) -> Option<Fault> {
        let mut expiry = lock(&self.expiry);
        let expiry = expiry.as_mut()?;
        let uses = expiry.uses.entry(token.to_owned()).or_default();
        *uses += 1;
        (*uses > expiry.after).then(|| Fault::Answer(expiry.reply.clone()))
    }

    fn note(&self, index: usize, change: impl FnOnce(&mut Seen)) {
        // It may be forgotten meanwhile.
        if let Some(seen) = lock(&self.log).get_mut(index) {
            change(seen);
        }
    }

    async fn hold(&self) {
        let mut mode = self.mode.subscribe();
        let releases = mode.borrow().releases;
        self.held.send_modify(|held| *held += 1);
        // An error means that the proxy ends.
        mode.wait_for(|mode| mode.releases != releases).await.ok();
    }
}

async fn exchange(head: &Head, client: &mut Reader, writer: &mut OwnedWriteHalf, shared: &Shared) -> io::Result<Next> {
    let mut words = head.first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let request = Request {
        kind: Kind::of(method, path),
        method: method.to_owned(),
        target: target.to_owned(),
        length: head.length().unwrap_or(0),
    };
    let (index, fault) = shared.enter(head, &request);
    let (hold, reply) = match &fault {
        Some(Fault::Hold) => (true, None),
        Some(Fault::Answer(reply)) => (false, Some(reply.clone())),
        // Content of unknown length is nothing that a registry is sent.
        _ if head.header("transfer-encoding").is_some() => (false, Some(Reply::status(411))),
        _ => (false, None),
    };
    if hold {
        shared.hold().await;
        return Ok(Next::Reset);
    }
    if let Some(reply) = reply {
        tokio::io::copy(&mut client.take(request.length), &mut tokio::io::sink()).await?;
        return answer(writer, &reply, method, index, shared).await;
    }
    forward(head, &request, fault.as_ref(), index, client, writer, shared).await
}

async fn answer(
    writer: &mut OwnedWriteHalf,
    reply: &Reply,
    method: &str,
    index: usize,
    shared: &Shared,
) -> io::Result<Next> {
    let mut head = Head { first: format!("HTTP/1.1 {} Fault", reply.status), headers: reply.headers.clone() };
    head.set("content-length", &reply.body.len().to_string());
    shared.note(index, |seen| seen.status = Some(reply.status));
    writer.write_all(&head.bytes()).await?;
    if method != "HEAD" {
        writer.write_all(reply.body.as_bytes()).await?;
    }
    Ok(Next::Keep)
}

/// Sends a request on and its answer back, at the same time: a server may answer before it has read everything.
async fn forward(
    head: &Head,
    request: &Request,
    fault: Option<&Fault>,
    index: usize,
    client: &mut Reader,
    writer: &mut OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<Next> {
    let server = TcpStream::connect(shared.upstream).await?;
    server.set_nodelay(true).ok();
    let (server_reader, mut server_writer) = server.into_split();
    let mut asked = Head { first: head.first.clone(), headers: head.headers.clone() };
    asked.set("connection", "close");
    match fault {
        Some(Fault::Without(name)) => asked.remove(name),
        Some(Fault::Path(from, to)) => asked.first = asked.first.replace(from, to),
        _ => {}
    }
    if let Some(value) = lock(&shared.authorization).as_ref() {
        asked.set("authorization", value);
    }
    let up = async {
        server_writer.write_all(&asked.bytes()).await?;
        let mut left = match fault {
            Some(Fault::ResetUp(bytes)) => request.length.min(*bytes),
            _ => request.length,
        };
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let space = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let length = client.read(buffer.get_mut(..space).unwrap_or_default()).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            shared.note(index, |seen| seen.up += length as u64);
            server_writer.write_all(buffer.get(..length).unwrap_or_default()).await?;
            left -= length as u64;
        }
        if matches!(fault, Some(Fault::ResetUp(_))) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok::<_, io::Error>(server_writer)
    };
    let down = back(request, fault, index, BufReader::new(server_reader), writer, shared);
    tokio::pin!(up, down);
    tokio::select! {
        biased;
        // The writing half must live as long as the answer takes: its end would be one of the request.
        sent = &mut up => match sent {
            Ok(_server_writer) => down.await,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => down.await.map(|_| Next::Close),
            Err(_) => Ok(Next::Reset),
        },
        next = &mut down => next.map(|next| if next == Next::Keep { Next::Close } else { next }),
    }
}

async fn back(
    request: &Request,
    fault: Option<&Fault>,
    index: usize,
    mut server: Reader,
    client: &mut OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<Next> {
    let Some(mut head) = read_head(&mut server).await? else { return Ok(Next::Reset) };
    if matches!(fault, Some(Fault::LoseAnswer | Fault::HoldAnswer | Fault::AnswerInstead(_))) {
        tokio::io::copy(&mut server, &mut tokio::io::sink()).await?;
    }
    match fault {
        Some(Fault::LoseAnswer) => return Ok(Next::Reset),
        Some(Fault::HoldAnswer) => {
            shared.hold().await;
            return Ok(Next::Reset);
        }
        Some(Fault::AnswerInstead(reply)) => return answer(client, reply, &request.method, index, shared).await,
        Some(Fault::Shorten(length)) if head.length().is_some_and(|whole| whole > *length) => {
            head.set("content-length", &length.to_string());
        }
        Some(Fault::With(name, value)) => head.set(name, value),
        _ => {}
    }
    head.remove("connection");
    for (from, to) in lock(&shared.names).iter() {
        head.headers.iter_mut().for_each(|(_, value)| *value = value.replace(from, to));
    }
    let status = head.first.split(' ').nth(1).and_then(|status| status.parse().ok());
    shared.note(index, |seen| seen.status = status);
    client.write_all(&head.bytes()).await?;
    if request.method == "HEAD" {
        return Ok(Next::Keep);
    }
    body(fault, index, &mut server, client, shared).await
}

async fn body(
    fault: Option<&Fault>,
    index: usize,
    server: &mut Reader,
    client: &mut OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<Next> {
    let (end, next) = match fault {
        Some(Fault::ResetDown(bytes) | Fault::StallDown(bytes)) => (*bytes, Next::Reset),
        Some(Fault::CloseDown(bytes)) => (*bytes, Next::Close),
        Some(Fault::Shorten(bytes)) => (*bytes, Next::Keep),
        _ => (u64::MAX, Next::Keep),
    };
    let piece = if let Some(Fault::Drip { piece, .. }) = fault { *piece } else { CHUNK };
    let (mut buffer, mut passed) = (vec![0; piece.clamp(1, CHUNK)], 0_u64);
    while passed < end {
        let space = buffer.len().min(usize::try_from(end - passed).unwrap_or(usize::MAX));
        let Some(space) = buffer.get_mut(..space) else { break };
        let length = server.read(space).await?;
        let Some(bytes) = space.get_mut(..length).filter(|bytes| !bytes.is_empty()) else {
            // The answer was shorter than the place of the fault.
            return Ok(Next::Keep);
        };
        if let Some(Fault::Flip(place)) = fault
            && let Some(byte) = place.checked_sub(passed).and_then(|at| bytes.get_mut(usize::try_from(at).ok()?))
        {
            *byte = !*byte;
        }
        // Counted before it is written: who sees the bytes arrive finds them counted.
        shared.note(index, |seen| seen.down += length as u64);
        client.write_all(bytes).await?;
        passed += length as u64;
        if let Some(Fault::Drip { pause, .. }) = fault {
            tokio::time::sleep(*pause).await;
        }
    }
    if matches!(fault, Some(Fault::StallDown(_))) {
        shared.hold().await;
    }
    Ok(next)
}
