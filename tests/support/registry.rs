//! A registry in memory on a loopback port, with faults as a test wants them.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::serve::IncomingStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Method};
use imageset_mirror::oci::{Digest, Registry, Repository};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, Vec<String>>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The other end of the connection.
    pub(crate) peer: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The first and, if it says so, the last byte that it asks for.
    pub(crate) fn range(&self) -> Option<(usize, Option<usize>)> {
        let (from, to) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()))
    }

    /// Whether it is to begin an upload and brings all of it.
    pub(crate) fn posts_whole(&self) -> bool {
        self.method == Method::POST && self.query.contains_key("digest")
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name)?.first().map(String::as_str)
    }
}

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;
type Late = (&'static str, Box<dyn Fn() -> Response + Send + Sync>);
type Rule = Box<dyn Fn(&Seen) -> Option<Answer> + Send + Sync>;

/// How the registry wants clients to log in.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    /// Not at all.
    Anonymous,
    /// `user:password` with every request.
    Basic(String),
    /// Tokens from `realm`, given to `user:password`, or to everybody.
    Bearer { realm: String, user: Option<String> },
}

#[derive(Default)]
struct Content {
    blobs: BTreeMap<(String, String), Bytes>,
    manifests: BTreeMap<(String, String), (String, Bytes)>,
    /// What each upload has got so far.
    sessions: BTreeMap<String, Vec<u8>>,
    /// What came before a connection broke is kept, as distribution 3 does.
    resumes: bool,
    tokens: BTreeSet<String>,
    issued: usize,
    log: Vec<Seen>,
    /// Manifests are taken only if what they name is there.
    strict: bool,
    /// Referrers are listed by their API.
    referrers: bool,
}

struct Shared {
    content: Mutex<Content>,
    /// After how many bytes the connections of the next uploads break.
    cuts: Mutex<VecDeque<usize>>,
    login: Mutex<Login>,
    /// A blob is taken with the request that would begin its upload.
    whole: AtomicBool,
    rules: Mutex<Vec<Rule>>,
    late: Mutex<Vec<Late>>,
    /// What tokens say about how long they last.
    expires_in: Mutex<Option<u64>>,
}

/// A running registry; stops when dropped.
pub(crate) struct FakeRegistry {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl FakeRegistry {
    /// Serves plain HTTP on `127.0.0.1`.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(listener, address, "http")
    }

    /// Serves HTTPS on `127.0.0.1` with this certificate.
    pub(crate) async fn start_tls(config: rustls::ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(Tls { listener, acceptor: Arc::new(config).into() }, address, "https")
    }

    fn serve<L>(listener: L, address: SocketAddr, scheme: &'static str) -> Self
    where
        L: axum::serve::Listener,
        L::Addr: std::fmt::Debug,
        Peer: for<'a> Connected<IncomingStream<'a, L>>,
    {
        let shared = Arc::new(Shared {
            content: Mutex::default(),
            cuts: Mutex::default(),
            login: Mutex::new(Login::Anonymous),
            whole: AtomicBool::new(false),
            rules: Mutex::default(),
            late: Mutex::default(),
            expires_in: Mutex::default(),
        });
        let app = axum::Router::new().fallback(handle).with_state(Arc::clone(&shared));
        let app = app.into_make_service_with_connect_info::<Peer>();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, scheme, shared, _serving: serving }
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn registry(&self) -> Registry {
        self.host().parse().unwrap()
    }

    pub(crate) fn repository(&self, path: &str) -> Repository {
        Repository::new(self.registry(), path.parse().unwrap())
    }

    /// An address at this server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub(crate) fn login(&self, login: Login) {
        *self.shared.login.lock().unwrap() = login;
    }

    /// Wants tokens from its own `/token`, given to `user:password` or to everybody.
    pub(crate) fn wants_tokens(&self, user: Option<&str>) {
        self.login(Login::Bearer { realm: self.url("/token"), user: user.map(str::to_owned) });
    }

    pub(crate) fn expires_in(&self, seconds: u64) {
        *self.shared.expires_in.lock().unwrap() = Some(seconds);
    }

    /// Makes all tokens invalid.
    pub(crate) fn forget_tokens(&self) {
        self.shared.content.lock().unwrap().tokens.clear();
    }

    /// Answers requests that `answer` wants to answer.
    pub(crate) fn rule(&self, answer: impl Fn(&Seen) -> Option<Response> + Send + Sync + 'static) {
        let rule: Rule = Box::new(move |seen| {
            let response = answer(seen)?;
            Some(Box::pin(std::future::ready(response)))
        });
        self.shared.rules.lock().unwrap().push(rule);
    }

    /// Answers the first `times` requests whose line (`GET /v2/…`) starts and ends like this.
    pub(crate) fn times(
        &self,
        times: usize,
        (start, end): (&'static str, &'static str),
        answer: impl Fn() -> Response + Send + Sync + 'static,
    ) {
        let left = Mutex::new(times);
        self.rule(move |seen| {
            let line = seen.line();
            let mut left = left.lock().unwrap();
            if *left == 0 || !line.starts_with(start) || !line.ends_with(end) {
                return None;
            }
            *left -= 1;
            Some(answer())
        });
    }

    pub(crate) fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.keep_blob(repository, &digest, bytes);
        digest
    }

    /// Has a blob whose digest is known.
    pub(crate) fn keep_blob(&self, repository: &str, digest: &Digest, bytes: Bytes) {
        self.shared.content.lock().unwrap().blobs.insert((repository.to_owned(), digest.to_string()), bytes);
    }

    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let mut content = self.shared.content.lock().unwrap();
        for name in [tag.to_owned(), digest.to_string()] {
            content.manifests.insert((repository.to_owned(), name), (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    pub(crate) fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        let content = self.shared.content.lock().unwrap();
        content.blobs.get(&(repository.to_owned(), digest.to_string())).cloned()
    }

    pub(crate) fn manifest(&self, repository: &str, name: &str) -> Option<Bytes> {
        let content = self.shared.content.lock().unwrap();
        content.manifests.get(&(repository.to_owned(), name.to_owned())).map(|(_, bytes)| bytes.clone())
    }

    /// Digests of all blobs in all repositories.
    pub(crate) fn blobs(&self) -> Vec<String> {
        self.shared.content.lock().unwrap().blobs.keys().map(|(_, digest)| digest.clone()).collect()
    }

    /// Stores blobs, from within a rule.
    pub(crate) fn store(&self) -> impl Fn(&str, Bytes) + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move |repository, bytes| {
            let key = (repository.to_owned(), Digest::of(&bytes).to_string());
            shared.content.lock().unwrap().blobs.insert(key, bytes);
        }
    }

    /// Makes all tokens invalid, from within a rule.
    pub(crate) fn forgetting(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.content.lock().unwrap().tokens.clear()
    }

    /// Never answers requests of this method, nor reads what they send.
    pub(crate) fn hang(&self, method: &'static str) {
        let rule: Rule =
            Box::new(move |seen| (seen.method == method).then(|| -> Answer { Box::pin(std::future::pending()) }));
        self.shared.rules.lock().unwrap().push(rule);
    }

    /// Answers requests of this method with `answer` once they are read.
    pub(crate) fn after(&self, method: &'static str, answer: impl Fn() -> Response + Send + Sync + 'static) {
        self.shared.late.lock().unwrap().push((method, Box::new(answer)));
    }

    /// Breaks the connections of the next uploads after so many bytes each. What came before is kept if `kept`, and lost
    /// with the upload otherwise.
    pub(crate) fn breaks_uploads(&self, after: impl IntoIterator<Item = usize>, kept: bool) {
        self.shared.cuts.lock().unwrap().extend(after);
        self.shared.content.lock().unwrap().resumes = kept;
    }

    /// Takes manifests only if everything they name is there.
    pub(crate) fn strict(&self) {
        self.shared.content.lock().unwrap().strict = true;
    }

    /// Keeps referrers and lists them.
    pub(crate) fn keeps_referrers(&self) {
        self.shared.content.lock().unwrap().referrers = true;
    }

    /// Takes a blob with the request that would begin its upload.
    pub(crate) fn takes_whole(&self) {
        self.shared.whole.store(true, Ordering::Relaxed);
    }

    /// Loses a blob of one repository.
    pub(crate) fn lose_blob(&self, repository: &str, digest: &Digest) {
        let lost = self.shared.content.lock().unwrap().blobs.remove(&(repository.to_owned(), digest.to_string()));
        assert!(lost.is_some(), "{repository} has no blob {digest}");
    }

    /// Loses a manifest under one name.
    pub(crate) fn lose_manifest(&self, repository: &str, name: &str) {
        let lost = self.shared.content.lock().unwrap().manifests.remove(&(repository.to_owned(), name.to_owned()));
        assert!(lost.is_some(), "{repository} has no manifest {name}");
    }

    /// Repository and tag of everything that is tagged.
    pub(crate) fn tags(&self) -> Vec<(String, String)> {
        let content = self.shared.content.lock().unwrap();
        content.manifests.keys().filter(|(_, name)| !name.contains(':')).cloned().collect()
    }

    /// What cannot be read although a tag leads to it; empty if every tag names complete content.
    pub(crate) fn torn(&self) -> Vec<String> {
        let content = self.shared.content.lock().unwrap();
        let tagged = content.manifests.keys().filter(|(_, name)| !name.contains(':'));
        tagged.flat_map(|(repository, tag)| content.missing(repository, tag)).collect()
    }

    /// Forgets the requests so far.
    pub(crate) fn clear(&self) {
        self.shared.content.lock().unwrap().log.clear();
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.content.lock().unwrap().log.clone()
    }

    /// `METHOD path` of all requests so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    /// How many requests so far have a line that starts like this.
    pub(crate) fn count(&self, start: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(start)).count()
    }
}

/// An answer with these headers.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// A registry's error.
pub(crate) fn error(status: u16, code: &str, message: &str) -> Response {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
    answer(status, &[("content-type", "application/json")], body.to_string())
}

/// What registries of the distribution project say about addresses that they do not know.
fn no_such_page() -> Response {
    let headers = [("content-type", "text/plain; charset=utf-8"), ("docker-distribution-api-version", "registry/2.0")];
    answer(404, &headers, "404 page not found\n")
}

/// A page of a load balancer.
pub(crate) fn html(status: u16) -> Response {
    answer(status, &[("content-type", "text/html; charset=utf-8")], "<html>not here</html>")
}

/// Announces `length` bytes, sends `bytes` and breaks the connection.
pub(crate) fn cut(status: u16, headers: &[(&str, &str)], length: usize, bytes: Bytes) -> Response {
    // What is sent leaves the buffers while the stream has nothing more to give.
    let end = futures::stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    });
    let sent = futures::stream::iter((!bytes.is_empty()).then_some(Ok(bytes)));
    let mut response = answer(status, headers, Body::from_stream(sent.chain(end)));
    response.headers_mut().insert("content-length", length.into());
    response
}

/// Announces `length` bytes, sends `bytes` and then nothing more.
pub(crate) fn stall(length: usize, bytes: Bytes) -> Response {
    let endless = futures::stream::iter([Ok::<_, Infallible>(bytes)]).chain(futures::stream::pending());
    let mut response = answer(200, &[], Body::from_stream(endless));
    response.headers_mut().insert("content-length", length.into());
    response
}

/// Sends a byte every few milliseconds, without end.
pub(crate) fn trickle() -> Response {
    let endless = futures::stream::unfold((), |()| async {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
    });
    answer(200, &[], Body::from_stream(endless))
}

/// The other end of a connection.
#[derive(Clone)]
struct Peer(String);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(stream.remote_addr().to_string())
    }
}

impl Connected<IncomingStream<'_, Tls>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Tls>) -> Self {
        Self(stream.remote_addr().to_string())
    }
}

async fn handle(State(shared): State<Arc<Shared>>, ConnectInfo(peer): ConnectInfo<Peer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
        query.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    let mut seen = Seen {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query,
        headers: parts.headers,
        body: Bytes::new(),
        peer: peer.0,
    };
    let mut body = body;
    if seen.path == "/token" {
        seen.body = axum::body::to_bytes(std::mem::take(&mut body), usize::MAX).await.unwrap_or_default();
    }
    shared.content.lock().unwrap().log.push(seen.clone());
    let scripted = shared.rules.lock().unwrap().iter().find_map(|rule| rule(&seen));
    if let Some(scripted) = scripted {
        return scripted.await;
    }
    if seen.path == "/token" {
        return shared.token(&seen);
    }
    if let Some(refusal) = shared.refuses(&seen) {
        return refusal;
    }
    let mut frames = body.into_data_stream();
    let mut received = Vec::new();
    let uploads = seen.path.contains("/blobs/uploads/");
    let carries = uploads && (matches!(seen.method, Method::PUT | Method::PATCH) || seen.posts_whole());
    let cut = if carries { shared.cuts.lock().unwrap().pop_front() } else { None };
    while let Some(frame) = frames.next().await {
        received.extend_from_slice(frame.as_deref().unwrap_or_default());
        let cut_here = cut.is_some_and(|cut| received.len() >= cut);
        if frame.is_err() || cut_here {
            received.truncate(cut.unwrap_or(usize::MAX));
            shared.broken(&seen, &received);
            // Ends the connection without an answer, and without the noise of a panic.
            std::panic::resume_unwind(Box::new("the connection broke"));
        }
    }
    seen.body = received.into();
    let late =
        shared.late.lock().unwrap().iter().find(|(method, _)| seen.method == *method).map(|(_, answer)| answer());
    late.unwrap_or_else(|| shared.serve(&seen))
}

/// The digests in the fields of a manifest that name other manifests, and in those that name blobs.
fn parts(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    let json: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let digests = |field: &str| {
        let one = json[field].is_object().then(|| json[field].clone());
        let all = json[field].as_array().cloned().unwrap_or_default();
        one.into_iter().chain(all).map(|part| part["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    (digests("manifests"), [digests("config"), digests("layers")].concat())
}

impl Content {
    /// What is missing below and including a manifest.
    fn missing(&self, repository: &str, name: &str) -> Vec<String> {
        let key = |name: &str| (repository.to_owned(), name.to_owned());
        let Some((_, bytes)) = self.manifests.get(&key(name)) else { return vec![format!("{repository} {name}")] };
        let (children, blobs) = parts(bytes);
        let below = children.iter().flat_map(|child| self.missing(repository, child));
        let blobs = blobs.iter().filter(|blob| !self.blobs.contains_key(&key(blob)));
        below.chain(blobs.map(|blob| format!("{repository} {blob}"))).collect()
    }
}

impl Shared {
    fn referrers(&self, repository: &str, subject: &str) -> Response {
        let content = self.content.lock().unwrap();
        if !content.referrers {
            return no_such_page();
        }
        let mut entries = Vec::new();
        for ((place, name), (media_type, bytes)) in &content.manifests {
            let json: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
            if place == repository && name.contains(':') && json["subject"]["digest"] == subject {
                entries.push(serde_json::json!({"mediaType": media_type, "digest": name, "size": bytes.len()}));
            }
        }
        let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
        answer(200, &[("content-type", "application/vnd.oci.image.index.v1+json")], index.to_string())
    }

    fn tag_list(&self, repository: &str) -> Response {
        let content = self.content.lock().unwrap();
        let names = content.manifests.keys().filter(|(place, name)| place == repository && !name.contains(':'));
        let tags: Vec<_> = names.map(|(_, name)| name.clone()).collect();
        if tags.is_empty() {
            return error(404, "NAME_UNKNOWN", "no such repository");
        }
        answer(200, &[], serde_json::json!({"name": repository, "tags": tags}).to_string())
    }

    fn token(&self, seen: &Seen) -> Response {
        let Login::Bearer { user, .. } = self.login.lock().unwrap().clone() else { return error(404, "UNKNOWN", "") };
        if let Some(user) = user {
            let basic = format!("Basic {}", STANDARD.encode(&user));
            if seen.method == Method::GET && seen.header("authorization") != Some(&basic) {
                return error(401, "UNAUTHORIZED", "wrong password");
            }
        }
        let mut content = self.content.lock().unwrap();
        content.issued += 1;
        let token = format!("token-{}", content.issued);
        content.tokens.insert(token.clone());
        let mut body = serde_json::json!({ "token": token });
        if let Some(seconds) = *self.expires_in.lock().unwrap() {
            body["expires_in"] = seconds.into();
        }
        answer(200, &[("content-type", "application/json")], body.to_string())
    }

    fn refuses(&self, seen: &Seen) -> Option<Response> {
        let sent = seen.header("authorization");
        let challenge = match self.login.lock().unwrap().clone() {
            Login::Anonymous => return None,
            Login::Basic(user) => {
                if sent == Some(&format!("Basic {}", STANDARD.encode(&user))) {
                    return None;
                }
                "Basic realm=\"fake\"".to_owned()
            }
            Login::Bearer { realm, .. } => {
                let token = sent.and_then(|sent| sent.strip_prefix("Bearer ")).unwrap_or_default();
                if self.content.lock().unwrap().tokens.contains(token) {
                    return None;
                }
                format!("Bearer realm=\"{realm}\",service=\"fake\"")
            }
        };
        let mut refusal = error(401, "UNAUTHORIZED", "log in");
        refusal.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
        Some(refusal)
    }

    fn serve(&self, seen: &Seen) -> Response {
        let Some(rest) = seen.path.strip_prefix("/v2/") else { return error(404, "UNKNOWN", "no such page") };
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            return self.manifests(seen, repository, name);
        }
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            return self.tag_list(repository);
        }
        if let Some((repository, subject)) = rest.split_once("/referrers/") {
            return self.referrers(repository, subject);
        }
        if let Some((repository, session)) = rest.split_once("/blobs/uploads/") {
            return self.uploads(seen, repository, session);
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            return self.blobs(seen, repository, digest);
        }
        no_such_page()
    }

    fn manifests(&self, seen: &Seen, repository: &str, name: &str) -> Response {
        let mut content = self.content.lock().unwrap();
        if seen.method == Method::PUT {
            let media_type = seen.header("content-type").unwrap().to_owned();
            let (children, blobs) = parts(&seen.body);
            let has = |map: bool, digest: &String| {
                let key = (repository.to_owned(), digest.clone());
                if map { content.manifests.contains_key(&key) } else { content.blobs.contains_key(&key) }
            };
            if content.strict && !(children.iter().all(|one| has(true, one)) && blobs.iter().all(|one| has(false, one)))
            {
                return error(400, "MANIFEST_BLOB_UNKNOWN", "something it names is not there");
            }
            let json: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
            let subject = json["subject"]["digest"].as_str().filter(|_| content.referrers).map(str::to_owned);
            let digest = Digest::of(&seen.body).to_string();
            for name in [name.to_owned(), digest.clone()] {
                content.manifests.insert((repository.to_owned(), name), (media_type.clone(), seen.body.clone()));
            }
            let mut headers = vec![("docker-content-digest", digest.as_str())];
            headers.extend(subject.as_deref().map(|subject| ("oci-subject", subject)));
            return answer(201, &headers, "");
        }
        match content.manifests.get(&(repository.to_owned(), name.to_owned())) {
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            Some((media_type, bytes)) => {
                let digest = Digest::of(bytes).to_string();
                answer(200, &[("content-type", media_type), ("docker-content-digest", &digest)], bytes.clone())
            }
        }
    }

    fn blobs(&self, seen: &Seen, repository: &str, digest: &str) -> Response {
        let content = self.content.lock().unwrap();
        let Some(bytes) = content.blobs.get(&(repository.to_owned(), digest.to_owned())).cloned() else {
            return error(404, "BLOB_UNKNOWN", "blob unknown");
        };
        match seen.range() {
            Some((from, to)) => {
                let to = to.unwrap_or(bytes.len() - 1);
                let range = format!("bytes {from}-{to}/{}", bytes.len());
                answer(206, &[("content-range", &range)], bytes.slice(from..=to))
            }
            None => answer(200, &[("docker-content-digest", digest)], bytes),
        }
    }

    fn uploads(&self, seen: &Seen, repository: &str, session: &str) -> Response {
        let mut content = self.content.lock().unwrap();
        if seen.method == Method::POST {
            if let (Some(digest), Some(from)) = (seen.query("mount"), seen.query("from"))
                && let Some(bytes) = content.blobs.get(&(from.to_owned(), digest.to_owned())).cloned()
            {
                content.blobs.insert((repository.to_owned(), digest.to_owned()), bytes);
                return answer(201, &[("docker-content-digest", digest)], "");
            }
            if let Some(digest) = seen.query("digest").filter(|_| self.whole.load(Ordering::Relaxed)) {
                if Digest::of(&seen.body).to_string() != digest {
                    return error(400, "DIGEST_INVALID", "wrong digest");
                }
                content.blobs.insert((repository.to_owned(), digest.to_owned()), seen.body.clone());
                return answer(201, &[("docker-content-digest", digest)], "");
            }
            let id = format!("session-{}", content.log.len());
            content.sessions.insert(id.clone(), Vec::new());
            // Relative, with a query of its own.
            return answer(202, &[("location", &format!("/v2/{repository}/blobs/uploads/{id}?_state=a%2Bb"))], "");
        }
        let Some(mut stored) = content.sessions.remove(session) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
        };
        if seen.query("_state") != Some("a+b") {
            return error(400, "BLOB_UPLOAD_INVALID", "wrong state");
        }
        if seen.method == Method::DELETE {
            return answer(204, &[], "");
        }
        if seen.method == Method::PUT {
            stored.extend_from_slice(&seen.body);
            let digest = Digest::of(&stored).to_string();
            if seen.query("digest") != Some(&digest) {
                return error(400, "DIGEST_INVALID", "wrong digest");
            }
            content.blobs.insert((repository.to_owned(), digest.clone()), stored.into());
            return answer(201, &[("docker-content-digest", &digest)], "");
        }
        let location = format!("/v2/{repository}/blobs/uploads/{session}?_state=a%2Bb");
        let status = if seen.method == Method::PATCH {
            let start = seen.header("content-range").and_then(|range| range.split_once('-')?.0.parse().ok());
            if start.is_some_and(|start: usize| start != stored.len()) {
                let range = format!("0-{}", stored.len().saturating_sub(1));
                content.sessions.insert(session.to_owned(), stored);
                return answer(416, &[("range", &range), ("location", &location)], "");
            }
            stored.extend_from_slice(&seen.body);
            202
        } else {
            204
        };
        let range = format!("0-{}", stored.len().saturating_sub(1));
        content.sessions.insert(session.to_owned(), stored);
        answer(status, &[("range", &range), ("location", &location)], "")
    }

    /// What is left of an upload whose connection broke after `bytes`.
    fn broken(&self, seen: &Seen, bytes: &[u8]) {
        let Some((_, session)) = seen.path.split_once("/blobs/uploads/") else { return };
        let mut content = self.content.lock().unwrap();
        if !content.resumes {
            content.sessions.remove(session);
        } else if let Some(stored) = content.sessions.get_mut(session) {
            stored.extend_from_slice(bytes);
        }
    }
}

struct Tls {
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = tokio_rustls::server::TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            // A client that does not trust us ends the handshake.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// An authority, and certificates signed by it.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { pem, issuer: rcgen::Issuer::new(parameters, key) }
    }

    /// A server on `127.0.0.1`.
    pub(crate) fn server(&self) -> rustls::ServerConfig {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap()
    }
}
