//! One request: address, TLS, redirects, waiting, trying again, and what becomes of the answer.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::auth::Scopes;
use super::client::Inner;
use super::error::{Request, authority, passes, redact};
use super::policy::{self, Guard, OutOfReach, Reach};
use super::reply::{MAX_ERROR, Reply, remaining};
use super::upload::Feed;
use super::{Denied, Error, Permit, Problem, RequestEvent, Tls, Trouble, Work};
use crate::oci::{Registry, Repository};

/// The most redirects that are followed.
const MAX_HOPS: usize = 10;

/// A repository at the host where it is asked for.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The repository, under the name that credentials are looked up by.
    pub(super) repository: Repository,
    /// `host[:port]` that is contacted.
    pub(super) host: String,
    /// The address of the host.
    pub(super) base: Url,
    /// How it is spoken to.
    pub(super) tls: Tls,
}

/// What is sent.
pub(super) enum Payload {
    Empty,
    Bytes(Bytes),
    /// Can be sent once, and never again.
    Stream(Feed),
}

/// A request to be made.
pub(super) struct Ask<'a> {
    pub(super) place: &'a Place,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    /// What a token must allow; none if `authorization` is all there is.
    pub(super) scopes: Option<Scopes>,
    /// Sent to the origin of `url` only.
    pub(super) authorization: Option<HeaderValue>,
    /// What is asked for, in words.
    pub(super) asked: String,
    /// How often to try in all.
    pub(super) attempts: u32,
    /// How long it waits in all because there are too many requests; none for the usual time.
    pub(super) max_throttled: Option<Duration>,
    /// A page made for browsers is not the registry's answer, and may be another one a little later.
    pub(super) no_pages: bool,
    /// Whether it takes a place in the window for metadata.
    pub(super) windowed: bool,
    /// How long its answer is.
    pub(super) answer: Length,
    /// Plain HTTP is allowed at other hosts, because the registry itself is spoken to in plain HTTP.
    pub(super) plain: bool,
}

impl<'a> Ask<'a> {
    pub(super) fn new(place: &'a Place, method: Method, url: Url, asked: String) -> Self {
        Self {
            place,
            method,
            url,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            scopes: None,
            authorization: None,
            asked,
            attempts: 0,
            max_throttled: None,
            no_pages: false,
            windowed: true,
            answer: Length::Short,
            plain: false,
        }
    }

    /// Not answered by a page.
    pub(super) fn no_pages(mut self) -> Self {
        self.no_pages = true;
        self
    }

    pub(super) fn header(mut self, name: http::HeaderName, value: &str) -> Self {
        // Values are made from parsed names and numbers, or checked before.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// Whether an answer is so long that buffers grow by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Length {
    Short,
    Long,
}

/// What connections are kept apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pool {
    /// Any certificate will do.
    pub(super) skip: bool,
    /// How far they reach.
    pub(super) reach: Option<Reach>,
    /// What answers come on them. Each keeps a buffer as large as it had for the last one.
    pub(super) answers: Length,
}

/// Connections to one host that are kept for later: as many as its windows begin with.
const MOST_IDLE: usize = 24;

/// One step of a request: a redirect changes where it goes, and maybe how.
struct Hop {
    method: Method,
    url: Url,
    /// Without what the request is to send: a 303 leads to something to be read.
    bare: bool,
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

impl Inner {
    /// Where `repository` is asked for.
    pub(super) fn place(&self, repository: Repository) -> Place {
        let registry = repository.registry();
        let tls = self.settings.tls.get(registry).copied().unwrap_or_default();
        let host = match registry.as_str() {
            "docker.io" | "index.docker.io" => "registry-1.docker.io",
            host => host,
        };
        let scheme = if tls == Tls::Plain { "http" } else { "https" };
        // A registry is a valid authority, so this does not fail; the fallback only keeps the types simple.
        let base = Url::parse(&format!("{scheme}://{host}/")).unwrap_or_else(|_| self.nowhere.clone());
        Place { host: host.to_owned(), base, tls, repository }
    }

    pub(super) fn request(&self, place: &Place, method: &Method, url: &Url, asked: &str) -> Request {
        Request {
            side: self.settings.side,
            host: place.repository.registry().as_str().to_owned(),
            method: method.clone(),
            url: redact(url),
            asked: asked.to_owned(),
        }
    }

    fn ask_error(&self, ask: &Ask<'_>, problem: Problem) -> Error {
        Error::new(self.request(ask.place, &ask.method, &ask.url, &ask.asked), problem)
    }

    /// A random time up to the bound of the `round`th wait.
    pub(super) fn backoff(&self, round: u32) -> Duration {
        let timing = &self.settings.timing;
        let bound = timing.backoff.saturating_mul(1 << round.min(16)).min(timing.max_backoff);
        bound.mul_f64(fastrand::f64())
    }

    /// Makes a request until it is answered in a way that does not pass by itself.
    ///
    /// Answers whose status [`passes`] come back as errors, and so does a final 401.
    pub(super) async fn send(&self, mut ask: Ask<'_>) -> Result<Reply, Error> {
        let timing = &self.settings.timing;
        let attempts = if ask.attempts == 0 { timing.attempts } else { ask.attempts };
        let max_throttled = ask.max_throttled.unwrap_or(timing.max_throttled);
        let name = authority(&ask.url);
        let host = self.limits.host(&name);
        // A token from the registry itself is a part of the request that it is for.
        let nested = ask.scopes.is_none() && name == authority(&ask.place.base);
        let (mut failed, mut limited, mut waited) = (0, 0, Duration::ZERO);
        loop {
            // First, so that of those who wait for a host only as many as fit go on together.
            let permit = if ask.windowed {
                Some(host.acquire(self.settings.side, Work::Metadata, self.share, 1).await)
            } else {
                None
            };
            while let Some(left) = host.held() {
                if waited.saturating_add(left) > max_throttled {
                    return Err(self.ask_error(&ask, Problem::RateLimited { after: Some(left) }));
                }
                waited = waited.saturating_add(left);
                sleep(left + self.backoff(0)).await;
            }
            let asked = Instant::now();
            let attempt = if nested {
                None
            } else {
                let admitted = host.admit(ask.url.path(), timing.outage).await;
                Some(admitted.map_err(|problem| self.ask_error(&ask, problem))?)
            };
            if limited > 0 {
                waited = waited.saturating_add(asked.elapsed());
            }
            let once = matches!(ask.payload, Payload::Stream(_));
            let error = match self.once(&mut ask, permit, failed + limited > 0).await {
                Ok(reply) if passes(reply.status().as_u16()) => reply.into_error().await,
                Ok(reply) if ask.no_pages && reply.is_html() && matches!(reply.status().as_u16(), 200..=299 | 404) => {
                    reply.error(Problem::NotRegistry { status: reply.status().as_u16() })
                }
                Ok(reply) => {
                    if let Some(attempt) = attempt {
                        attempt.answered();
                    }
                    return Ok(reply);
                }
                Err(error) => error,
            };
            // It may be that of the token service, which is known by itself.
            let own = error.asked_of() == name;
            let limit = matches!(error.problem(), Problem::RateLimited { .. });
            if let Some(attempt) = attempt {
                match error.problem() {
                    Problem::RateLimited { after } if own => attempt.refused(*after),
                    Problem::Unreachable(_) | Problem::Status { status: 502..=504, .. } if own => {
                        attempt.failed(error.problem());
                    }
                    _ => attempt.answered(),
                }
            }
            let (passing, told) = match error.problem() {
                Problem::Unreachable(_) => (true, None),
                Problem::RateLimited { after } => (true, *after),
                Problem::Status { status, after, .. } => (passes(*status), *after),
                Problem::NotRegistry { status: 200..=299 | 404 } => (ask.no_pages, None),
                _ => (false, None),
            };
            if !passing || once {
                return Err(error);
            }
            let round = if limit { limited } else { failed };
            let wait = self.backoff(round).max(told.unwrap_or_default());
            if limit {
                limited += 1;
                waited = waited.saturating_add(wait.max(timing.backoff));
                if waited > max_throttled {
                    return Err(error);
                }
            } else if ask.attempts == 1 || !host.is_awaited(timing.outage) {
                failed += 1;
                if failed >= attempts {
                    return Err(error);
                }
            }
            if wait > timing.max_retry_after.max(timing.max_backoff) {
                return Err(error);
            }
            tracing::debug!(host = ask.place.host, method = %ask.method, error = &error as &dyn StdError, "trying again");
            sleep(wait).await;
            if !limit {
                host.again().await;
            }
        }
    }

    /// One attempt, logging in as far as needed.
    async fn once(&self, ask: &mut Ask<'_>, permit: Option<Permit>, retry: bool) -> Result<Reply, Error> {
        let reply = if let Some(scopes) = ask.scopes.clone() {
            self.authorized(ask, &scopes, retry).await
        } else {
            let authorization = ask.authorization.clone();
            self.follow(ask, authorization.as_ref(), retry).await
        };
        let mut reply = match (reply, &permit) {
            (Err(error), Some(permit)) if matches!(error.problem(), Problem::Unreachable(_)) => {
                permit.troubled();
                return Err(error);
            }
            (reply, _) => reply?,
        };
        if let Some(permit) = &permit {
            match reply.status().as_u16() {
                429 | 503 => permit.troubled(),
                _ => permit.succeeded(1),
            }
        }
        reply.permit = permit;
        Ok(reply)
    }

    /// Sends, and follows redirects.
    pub(super) async fn follow(
        &self,
        ask: &mut Ask<'_>,
        authorization: Option<&HeaderValue>,
        retry: bool,
    ) -> Result<Reply, Error> {
        let home = if ask.scopes.is_some() { &ask.place.base } else { &ask.url };
        let home = home.clone();
        let mut hop = Hop { method: ask.method.clone(), url: ask.url.clone(), bare: false };
        let mut authorization = authorization;
        let mut seen = vec![hop.url.clone()];
        loop {
            if !same_origin(&hop.url, &home) {
                authorization = None;
            }
            let client = self.route(ask, &hop.url).await?;
            let mut headers = ask.headers.clone();
            if hop.bare {
                headers.remove(CONTENT_LENGTH);
                headers.remove(CONTENT_TYPE);
            }
            if let Some(value) = authorization {
                headers.insert(AUTHORIZATION, value.clone());
            }
            let mut reply = self.exchange(ask, &client, &hop, headers, retry).await?;
            let status = reply.status().as_u16();
            let Some(location) = reply.text(LOCATION).filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308)) else {
                return Ok(reply);
            };
            let mut next = match hop.url.join(location) {
                Ok(next) => next,
                Err(error) => {
                    let problem = Problem::Garbled("a redirect leads to something that is not an address");
                    return Err(Error::with_source(reply.request.clone(), problem, error));
                }
            };
            strip(&mut next);
            if matches!(ask.payload, Payload::Stream(_)) {
                return Err(reply.error(Problem::Garbled("the registry redirects an upload")));
            }
            if status == 303 && hop.method != Method::HEAD {
                hop.method = Method::GET;
                hop.bare = true;
            }
            // A token may be asked for with a secret in the body.
            let secret = ask.scopes.is_none() && !hop.bare && !matches!(ask.payload, Payload::Empty);
            if secret && !same_origin(&next, &home) {
                let problem = Problem::Policy { host: authority(&next), why: Denied::Credentials };
                return Err(reply.error(problem));
            }
            if seen.contains(&next) || seen.len() > MAX_HOPS {
                return Err(reply.error(Problem::RedirectLoop { hops: seen.len() }));
            }
            if hop.url.scheme() == "https" && next.scheme() == "http" && self.tls_of(&next) != Some(Tls::Plain) {
                let problem = Problem::Policy { host: authority(&next), why: Denied::Downgrade };
                return Err(reply.error(problem));
            }
            seen.push(next.clone());
            hop.url = next;
            // The body of a redirect is of no use; a short one is read so that the connection stays.
            if reply.response.content_length().is_some_and(|length| length <= MAX_ERROR) {
                reply.bytes(MAX_ERROR).await.ok();
            }
        }
    }

    /// One request and the headers of its answer.
    async fn exchange(
        &self,
        ask: &mut Ask<'_>,
        client: &reqwest::Client,
        hop: &Hop,
        headers: HeaderMap,
        retry: bool,
    ) -> Result<Reply, Error> {
        let Hop { method, url, bare } = hop;
        let timing = &self.settings.timing;
        let request = self.request(ask.place, method, url, &ask.asked);
        let builder = client.request(method.clone(), url.clone()).headers(headers);
        let started = Instant::now();
        let limit = timing.connect + timing.headers;
        let result = match &mut ask.payload {
            Payload::Bytes(bytes) if !bare => {
                timeout(limit, builder.body(bytes.clone()).send()).await.map_err(|_elapsed| Trouble::Headers)
            }
            Payload::Empty | Payload::Bytes(_) => {
                timeout(limit, builder.send()).await.map_err(|_elapsed| Trouble::Headers)
            }
            Payload::Stream(feed) => match feed.body() {
                Some(body) => feed.guard(timing, builder.body(body).send()).await,
                None => return Err(Error::new(request, Problem::Unreachable(Trouble::Cut))),
            },
        };
        let status = match &result {
            Ok(Ok(response)) => Some(response.status().as_u16()),
            _ => None,
        };
        let told_to_wait =
            result.as_ref().is_ok_and(|sent| sent.as_ref().is_ok_and(|it| it.headers().contains_key(RETRY_AFTER)));
        let remaining = result.as_ref().ok().and_then(|sent| remaining(sent.as_ref().ok()?.headers()));
        let host = authority(url);
        if remaining == Some(0) {
            self.limits.host(&host).spent();
        }
        self.limits.observer().request(&RequestEvent {
            host: &host,
            side: self.settings.side,
            method,
            status,
            told_to_wait,
            retry,
            token: ask.scopes.is_none(),
            remaining,
            elapsed: started.elapsed(),
        });
        match result {
            Ok(Ok(response)) => {
                let limits = Arc::clone(&self.limits);
                Ok(Reply { response, request, stall: timing.stall, whole: timing.body, limits, permit: None })
            }
            Ok(Err(error)) => Err(self.limits.broken(classify(request, url, error))),
            Err(trouble) => Err(self.limits.broken(Error::new(request, Problem::Unreachable(trouble)))),
        }
    }

    /// How the user said that the host of `url` is spoken to; none if the user did not name it.
    fn tls_of(&self, url: &Url) -> Option<Tls> {
        let host = url.host_str()?;
        let port = url.port_or_known_default()?;
        let names = [authority(url), format!("{host}:{port}")];
        let mut registries = names.iter().filter_map(|name| name.parse::<Registry>().ok());
        let set = |registry: Registry| {
            let listed = self.settings.tls.get(&registry).copied();
            listed.or_else(|| self.settings.allowed.contains(&registry).then_some(Tls::Verify))
        };
        registries.find_map(set)
    }

    /// The connections to use for `url`, or why it is not contacted.
    async fn route(&self, ask: &Ask<'_>, url: &Url) -> Result<reqwest::Client, Error> {
        let denied = |why| {
            let request = self.request(ask.place, &ask.method, url, &ask.asked);
            Error::new(request, Problem::Policy { host: authority(url), why })
        };
        let place = ask.place;
        if same_origin(url, &place.base) {
            return self.connections(ask, place.tls != Tls::Verify, None);
        }
        let Some(host) = url.host_str() else { return Err(denied(Denied::Scheme)) };
        let named = self.tls_of(url);
        match url.scheme() {
            "https" => {}
            "http" if named == Some(Tls::Plain) || (ask.plain && place.tls == Tls::Plain) => {}
            "http" => return Err(denied(Denied::Downgrade)),
            _ => return Err(denied(Denied::Scheme)),
        }
        let skip = named == Some(Tls::SkipVerify) || url.scheme() == "http";
        if named.is_some() {
            return self.connections(ask, skip, None);
        }
        let reach = self.reach(place).await;
        if policy::literal(host).is_some_and(|address| !reach.allows(address)) {
            return Err(denied(Denied::Address));
        }
        self.connections(ask, skip, Some(reach))
    }

    /// Where the registry may lead us to, by where it is itself.
    async fn reach(&self, place: &Place) -> Reach {
        let known = self.reaches.lock().unwrap_or_else(PoisonError::into_inner).get(&place.host).copied();
        if let Some(reach) = known {
            return reach;
        }
        let host = place.base.host_str().unwrap_or_default();
        let addresses: Vec<IpAddr> = match policy::literal(host) {
            Some(address) => vec![address],
            // A name that only a proxy can resolve is elsewhere.
            None => tokio::net::lookup_host((host, 0))
                .await
                .map(|found| found.map(|address| address.ip()).collect())
                .unwrap_or_default(),
        };
        let reach = Reach::of(addresses);
        self.reaches.lock().unwrap_or_else(PoisonError::into_inner).insert(place.host.clone(), reach);
        reach
    }

    /// The pool of connections of a kind, made when first needed.
    fn connections(&self, ask: &Ask<'_>, skip: bool, reach: Option<Reach>) -> Result<reqwest::Client, Error> {
        let kind = Pool { skip, reach, answers: ask.answer };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&kind) {
            return Ok(pool.clone());
        }
        let pool = self.build(skip, reach).map_err(|error| {
            let request = self.request(ask.place, &ask.method, &ask.url, &ask.asked);
            Error::with_source(request, Problem::Untrusted, error)
        })?;
        pools.insert(kind, pool.clone());
        Ok(pool)
    }

    pub(super) fn build(&self, skip: bool, reach: Option<Reach>) -> Result<reqwest::Client, reqwest::Error> {
        let timing = &self.settings.timing;
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(self.user_agent.clone())
            // Sizes and digests are those of the bytes as stored.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .http1_only()
            .connect_timeout(timing.connect)
            .tcp_user_timeout(timing.stall)
            .pool_max_idle_per_host(MOST_IDLE);
        if skip {
            builder = builder.tls_danger_accept_invalid_certs(true);
        } else if !self.certificates.is_empty() {
            builder = builder.tls_certs_merge(self.certificates.iter().cloned());
        }
        if let Some(reach) = reach {
            builder = builder.dns_resolver(Arc::new(Guard::new(reach)));
        }
        builder.build()
    }
}

/// Takes userinfo and fragment off an address that a registry gave us: the former would be sent as credentials.
pub(super) fn strip(url: &mut Url) {
    url.set_username("").ok();
    url.set_password(None).ok();
    url.set_fragment(None);
}

/// What an error of the HTTP library means.
fn classify(request: Request, url: &Url, error: reqwest::Error) -> Error {
    let error = error.without_url();
    let mut problem = if error.is_dns() {
        Problem::Unreachable(Trouble::Name)
    } else if error.is_connect() {
        Problem::Unreachable(Trouble::Connect)
    } else if error.is_timeout() {
        Problem::Unreachable(Trouble::Stall)
    } else {
        Problem::Unreachable(Trouble::Cut)
    };
    for link in links(&error) {
        if link.is::<OutOfReach>() {
            problem = Problem::Policy { host: authority(url), why: Denied::Address };
        } else if let Some(rustls::Error::InvalidCertificate(_)) = link.downcast_ref() {
            problem = Problem::Untrusted;
        } else if link.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            problem = Problem::Garbled("the answer is not HTTP that can be read");
        }
    }
    Error::with_source(request, problem, error)
}

/// An error and its sources; an I/O error hides what it wraps from `source`, so that is looked into too.
fn links<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |link| next_link(*link))
}

fn next_link<'a>(link: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match link.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => link.source(),
    }
}
