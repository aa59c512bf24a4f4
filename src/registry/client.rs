//! The operations on manifests, and what all operations share.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, LINK};
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use url::Url;

use super::auth::{Auth, Loaded};
use super::blob::BlobReader;
use super::policy::Reach;
use super::reply::{Envelope, MAX_ERROR, Reply};
use super::transport::{Ask, Length, Payload, Place, Pool};
use super::{
    Capability, Class, ConfigError, Error, Limits, MAX_MANIFEST, Problem, SMALL_BLOB, Settings, Share, Side, Work,
};
use crate::oci::{Descriptor, Digest, RawManifest, Repository, Tag, media_type};

/// The header with the digest of what is sent.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// What registries of the distribution project and those that follow it send with every answer.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The most pages of one list of referrers.
const MAX_PAGES: usize = 16;
/// The most entries of one list of referrers.
const MAX_REFERRERS: usize = 10_000;

/// The next number that a client is told apart by.
static SHARES: AtomicU64 = AtomicU64::new(0);

/// The most tags that one list may have: what registries allow to ask for at once.
const MAX_TAGS: usize = 1000;

/// How often a manifest is put in all to a registry that does not find it while it takes it.
const PUTS: u32 = 4;

/// How a manifest is named.
#[derive(Clone, Copy, Debug)]
pub enum By<'a> {
    /// By tag.
    Tag(&'a Tag),
    /// By digest.
    Digest(&'a Digest),
}

impl By<'_> {
    fn path(self) -> String {
        match self {
            Self::Tag(tag) => tag.to_string(),
            Self::Digest(digest) => digest.to_string(),
        }
    }

    fn asked(self, repository: &Repository) -> String {
        match self {
            Self::Tag(tag) => format!("manifest `{}:{tag}`", repository.path()),
            Self::Digest(digest) => format!("manifest `{}@{digest}`", repository.path()),
        }
    }
}

impl<'a> From<&'a Tag> for By<'a> {
    fn from(tag: &'a Tag) -> Self {
        Self::Tag(tag)
    }
}

impl<'a> From<&'a Digest> for By<'a> {
    fn from(digest: &'a Digest) -> Self {
        Self::Digest(digest)
    }
}

/// What a registry said about a manifest it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// The registry keeps referrers itself and has noted the manifest's subject (`OCI-Subject`).
    pub subject_processed: bool,
}

/// A client for one side with one set of credentials: connections, tokens, and what is known through these credentials.
///
/// Cheap to clone. Only what is in [`Limits`] is shared between clients.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    /// What its requests are counted under where windows are shared.
    pub(super) share: Share,
    pub(super) settings: Settings,
    pub(super) limits: Arc<Limits>,
    pub(super) user_agent: HeaderValue,
    pub(super) certificates: Vec<reqwest::Certificate>,
    pub(super) loaded: Mutex<Arc<Loaded>>,
    pub(super) auth: Auth,
    pub(super) pools: Mutex<BTreeMap<Pool, reqwest::Client>>,
    pub(super) reaches: Mutex<BTreeMap<String, Reach>>,
    /// Hosts where these credentials cannot mount from other repositories.
    pub(super) mountless: Mutex<BTreeSet<String>>,
    pub(super) nowhere: Url,
}

/// What became of the places tried so far.
#[derive(Default)]
pub(super) struct Tried {
    error: Option<Error>,
}

impl Tried {
    pub(super) fn failed(&mut self, error: Error) {
        tracing::debug!(error = &error as &dyn std::error::Error, "trying the next place");
        self.error.get_or_insert(error);
    }

    /// What went wrong first.
    pub(super) fn first(self) -> Option<Error> {
        self.error
    }

    /// Absent, if every place said so.
    fn absent<T>(self) -> Result<Option<T>, Error> {
        self.error.map_or(Ok(None), Err)
    }
}

/// What a HEAD said.
enum Head {
    Absent,
    Present(Digest),
    /// Only a GET can tell.
    Unsure,
}

impl Client {
    /// Makes a client; no request is sent. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// A trust bundle without certificates or with something else in it, or a user agent that cannot be sent.
    pub fn new(settings: Settings, limits: Arc<Limits>) -> Result<Self, ConfigError> {
        let side = settings.side;
        let user_agent = HeaderValue::from_str(&settings.user_agent)
            .map_err(|_invalid| ConfigError::UserAgent { text: settings.user_agent.clone() })?;
        let certificates = match &settings.trust_bundle {
            None => Vec::new(),
            Some(pem) => {
                let found = reqwest::Certificate::from_pem_bundle(pem)
                    .map_err(|source| ConfigError::BadCertificate { side, source })?;
                if found.is_empty() {
                    return Err(ConfigError::NoCertificate { side });
                }
                found
            }
        };
        let nowhere = Url::parse("https://registry.invalid/").map_err(|_never| ConfigError::NoCertificate { side })?;
        let loaded = Arc::new(Loaded { credentials: settings.credentials.clone(), generation: 0 });
        let inner = Inner {
            share: SHARES.fetch_add(1, Ordering::Relaxed),
            settings,
            limits,
            user_agent,
            certificates,
            loaded: Mutex::new(loaded),
            auth: Auth::default(),
            pools: Mutex::default(),
            reaches: Mutex::default(),
            mountless: Mutex::default(),
            nowhere,
        };
        if !inner.certificates.is_empty() {
            // Certificates are read when connections are set up, so that is done now.
            let first = Pool { skip: false, reach: None, answers: Length::Short };
            let pool = inner.build(false, None).map_err(|source| ConfigError::BadCertificate { side, source })?;
            inner.pools.lock().unwrap_or_else(PoisonError::into_inner).insert(first, pool);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whose registry it talks to.
    pub fn side(&self) -> Side {
        self.inner.settings.side
    }

    /// What it shares with the other clients of the process.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.inner.limits
    }

    /// The places where content named as being in `repository` is asked for, in order.
    pub(super) fn places(&self, repository: &Repository, asked: &str) -> Result<Vec<Place>, Error> {
        let inner = &self.inner;
        let found = match self.side() {
            Side::Source => super::overrides::places(&inner.settings.overrides, repository),
            Side::Target => vec![repository.clone()],
        };
        if found.is_empty() {
            let place = inner.place(repository.clone());
            return Err(Error::new(inner.request(&place, &Method::GET, &place.base, asked), Problem::Missing));
        }
        Ok(found.into_iter().map(|repository| inner.place(repository)).collect())
    }

    /// The one place that is written to.
    pub(super) fn home(&self, repository: &Repository) -> Place {
        self.inner.place(repository.clone())
    }

    /// A request for `path` below a repository.
    pub(super) fn ask<'a>(&self, place: &'a Place, method: Method, path: &str, asked: String) -> Ask<'a> {
        let mut url = place.base.clone();
        url.set_path(&format!("/v2/{}/{path}", place.repository.path()));
        let mut ask = Ask::new(place, method, url, asked);
        ask.scopes = Some(self.inner.scopes(place, None));
        ask
    }

    /// The digest a tag names now; none if there is no such tag. One HEAD, and a GET only if the registry does not say.
    pub async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>, Error> {
        self.head_manifest(repository, By::Tag(tag)).await
    }

    /// The digest of a manifest; none if it is not there.
    ///
    /// # Errors
    /// Also if a manifest asked for by digest is served under another one.
    pub async fn head_manifest(&self, repository: &Repository, by: By<'_>) -> Result<Option<Digest>, Error> {
        let mut tried = Tried::default();
        for place in self.places(repository, &by.asked(repository))? {
            let found = match self.head_at(&place, by).await {
                Ok(Head::Absent) => Ok(None),
                Ok(Head::Present(digest)) => Ok(Some(digest)),
                Ok(Head::Unsure) => {
                    self.manifest_at(&place, by).await.map(|found| found.map(|manifest| manifest.digest().clone()))
                }
                Err(error) => Err(error),
            };
            match found {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => tried.failed(error),
            }
        }
        tried.absent()
    }

    async fn head_at(&self, place: &Place, by: By<'_>) -> Result<Head, Error> {
        let path = format!("manifests/{}", by.path());
        let ask = self.ask(place, Method::HEAD, &path, by.asked(&place.repository)).header(ACCEPT, media_type::ACCEPT);
        let reply = self.inner.send(ask.no_pages()).await?;
        match reply.status().as_u16() {
            200..=299 if reply.is_html() => Err(reply.error(Problem::NotRegistry { status: reply.status().as_u16() })),
            200..=299 => match (content_digest(&reply), by) {
                (Some(digest), By::Digest(wanted)) if digest.algorithm() == wanted.algorithm() && digest != *wanted => {
                    Err(mismatch(&reply, wanted, &digest))
                }
                (_, By::Digest(wanted)) => Ok(Head::Present(wanted.clone())),
                (Some(digest), By::Tag(_)) => Ok(Head::Present(digest)),
                (None, By::Tag(_)) => Ok(Head::Unsure),
            },
            404 => {
                let media_type = reply.media_type();
                // Proxies answer in plain text, and so do some registries: only the body of a GET tells which it is.
                let certain = reply.is_html() || media_type.is_empty() || media_type.contains("json");
                if certain { reply.absent().await.map(|()| Head::Absent) } else { Ok(Head::Unsure) }
            }
            405 => Ok(Head::Unsure),
            _ => Err(reply.into_error().await),
        }
    }

    /// A manifest, verified against the digest asked for and the one announced; none if it is not there.
    ///
    /// # Errors
    /// Also if it is longer than 4 MiB, hashes to something else, or is a page of some proxy.
    pub async fn manifest(&self, repository: &Repository, by: By<'_>) -> Result<Option<RawManifest>, Error> {
        let mut tried = Tried::default();
        for place in self.places(repository, &by.asked(repository))? {
            match self.manifest_at(&place, by).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => tried.failed(error),
            }
        }
        tried.absent()
    }

    async fn manifest_at(&self, place: &Place, by: By<'_>) -> Result<Option<RawManifest>, Error> {
        let path = format!("manifests/{}", by.path());
        // A break in the body is tried again like one before it.
        let mut round = 0;
        loop {
            let ask =
                self.ask(place, Method::GET, &path, by.asked(&place.repository)).header(ACCEPT, media_type::ACCEPT);
            let mut reply = self.inner.send(ask.no_pages()).await?;
            match reply.status().as_u16() {
                200..=299 => {}
                404 => return reply.absent().await.map(|()| None),
                _ => return Err(reply.into_error().await),
            }
            match reply.bytes(MAX_MANIFEST).await {
                Ok(bytes) => return verified(&reply, bytes, by).map(Some),
                Err(error) => {
                    round += 1;
                    if !matches!(error.problem(), Problem::Unreachable(_))
                        || round >= self.inner.settings.timing.attempts
                    {
                        return Err(error);
                    }
                    tokio::time::sleep(self.inner.backoff(round)).await;
                }
            }
        }
    }

    /// Stores a manifest, byte for byte. What it points to must be there.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        by: By<'_>,
        manifest: &RawManifest,
    ) -> Result<PutOutcome, Error> {
        let place = self.home(repository);
        let path = format!("manifests/{}", by.path());
        let mut round = 0;
        let reply = loop {
            let mut ask = self.ask(&place, Method::PUT, &path, by.asked(repository));
            ask = ask.header(CONTENT_TYPE, manifest.media_type());
            ask.payload = Payload::Bytes(manifest.bytes().clone());
            let reply = self.inner.send(ask.no_pages()).await?;
            if reply.status().is_success() {
                break reply;
            }
            let error = reply.into_error().await;
            round += 1;
            if !error.lost_artifact() || round >= PUTS {
                return Err(error);
            }
            tokio::time::sleep(self.inner.backoff(round)).await;
        };
        accepted(&reply, manifest.digest())?;
        let subject_processed = reply.response.headers().contains_key(OCI_SUBJECT);
        reply.drain().await;
        Ok(PutOutcome { subject_processed })
    }

    /// Whether a blob is there.
    pub async fn blob_exists(&self, repository: &Repository, digest: &Digest) -> Result<bool, Error> {
        let asked = format!("blob `{}@{digest}`", repository.path());
        let mut tried = Tried::default();
        for place in self.places(repository, &asked)? {
            let ask = self.ask(&place, Method::HEAD, &format!("blobs/{digest}"), asked.clone());
            let found = match self.inner.send(ask.no_pages()).await {
                Ok(reply) => match reply.status().as_u16() {
                    200..=299 if reply.is_html() => {
                        Err(reply.error(Problem::NotRegistry { status: reply.status().as_u16() }))
                    }
                    200..=299 => Ok(true),
                    404 => reply.absent().await.map(|()| false),
                    _ => Err(reply.into_error().await),
                },
                Err(error) => Err(error),
            };
            match found {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => tried.failed(error),
            }
        }
        tried.absent().map(|found| found.unwrap_or(false))
    }

    /// A blob of at most [`SMALL_BLOB`] bytes, verified.
    pub async fn blob_bytes(&self, repository: &Repository, blob: &Descriptor) -> Result<Bytes, Error> {
        let reader = BlobReader::open(self, repository, blob, None).await?;
        if blob.size > SMALL_BLOB {
            return Err(reader.problem(Problem::TooLarge { limit: SMALL_BLOB, length: Some(blob.size) }));
        }
        reader.whole().await
    }

    /// Begins to read a blob; waits for a place in the window of the host.
    pub async fn open_blob(&self, repository: &Repository, blob: &Descriptor) -> Result<BlobReader, Error> {
        let permit = self.bulk(repository, blob.size).await;
        BlobReader::open(self, repository, blob, Some(permit)).await
    }

    /// A place in the window for blobs of the host of `repository`.
    pub(super) async fn bulk(&self, repository: &Repository, bytes: u64) -> super::Permit {
        let first = self.places(repository, "blob").ok().and_then(|places| places.into_iter().next());
        let place = first.unwrap_or_else(|| self.home(repository));
        self.inner.limits.host(&place.host).acquire(self.side(), Work::Bulk, self.inner.share, bytes).await
    }

    /// What refers to a manifest, maybe nothing; none if the registry does not keep referrers.
    ///
    /// # Errors
    /// Also if the list has more than 10,000 entries or is longer than 4 MiB in all.
    pub async fn referrers(&self, repository: &Repository, digest: &Digest) -> Result<Option<Vec<Descriptor>>, Error> {
        let asked = format!("referrers of `{}@{digest}`", repository.path());
        let mut tried = Tried::default();
        for place in self.places(repository, &asked)? {
            match self.referrers_at(&place, digest, &asked).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => tried.failed(error),
            }
        }
        tried.absent()
    }

    /// The tags of a repository that begin with `prefix`, if one answer names all its tags; none if the registry does not
    /// list them, lists more than fit into one answer, or reads the repository from more than one place.
    ///
    /// One request, and never a second one for more: registries limit lists more than anything else.
    pub async fn tags(&self, repository: &Repository, prefix: &str) -> Result<Option<BTreeSet<String>>, Error> {
        let asked = format!("tags of `{}`", repository.path());
        let places = self.places(repository, &asked)?;
        let [place] = places.as_slice() else { return Ok(None) };
        let mut ask = self.ask(place, Method::GET, "tags/list", asked);
        ask.url.query_pairs_mut().append_pair("n", &MAX_TAGS.to_string());
        let mut reply = match self.inner.send(ask).await {
            Ok(reply) => reply,
            // Whoever may pull need not be allowed to list.
            Err(error) if error.class() == Class::Permanent => return Ok(None),
            Err(error) => return Err(error),
        };
        if reply.status().as_u16() == 404 {
            // Of a repository that has manifests, this says that none of them has a tag.
            let body = reply.bytes(MAX_ERROR).await.unwrap_or_default();
            let unknown =
                Envelope::read(&body).is_some_and(|envelope| envelope.code.as_deref() == Some("NAME_UNKNOWN"));
            return Ok(unknown.then(BTreeSet::new));
        }
        if !reply.status().is_success() || reply.is_html() || next_page(&reply).is_some() {
            reply.drain().await;
            return Ok(None);
        }
        let bytes = match reply.bytes(MAX_MANIFEST).await {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.problem(), Problem::TooLarge { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(TagList { tags }) = serde_json::from_slice(&bytes) else { return Ok(None) };
        let tags = tags.unwrap_or_default();
        // A proxy may have taken the link to the next page away.
        let complete = tags.len() < MAX_TAGS;
        Ok(complete.then(|| tags.into_iter().filter(|tag| tag.starts_with(prefix)).map(Cow::into_owned).collect()))
    }

    /// Whether the registry of `repository` keeps referrers itself; none as long as nobody has found out.
    pub fn keeps_referrers(&self, repository: &Repository) -> Option<bool> {
        let places = self.places(repository, "referrers").ok()?;
        let can = |place: &Place| self.inner.limits.host(&place.host).can(Capability::Referrers);
        places.iter().map(can).reduce(|one, other| if one == other { one } else { None })?
    }

    async fn referrers_at(
        &self,
        place: &Place,
        digest: &Digest,
        asked: &str,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let host = self.inner.limits.host(&place.host);
        // One request finds out for everybody.
        let _finding_out = host.find_out_about_referrers().await;
        if host.can(Capability::Referrers) == Some(false) {
            return Ok(None);
        }
        let mut ask = self.ask(place, Method::GET, &format!("referrers/{digest}"), asked.to_owned());
        let mut entries: Vec<Descriptor> = Vec::new();
        let mut left = MAX_MANIFEST;
        for page in 0..MAX_PAGES {
            ask = ask.header(ACCEPT, media_type::OCI_INDEX);
            let mut reply = self.inner.send(ask).await?;
            let (html, first) = (reply.is_html(), page == 0);
            match reply.status().as_u16() {
                200..=299 if !html => {}
                // A page of a proxy may be gone the next time, so it is not remembered.
                200..=299 | 404 | 405 if html && first => return Ok(None),
                404 | 405 if first => {
                    if knows_no_referrers(&mut reply).await? {
                        host.learn(Capability::Referrers, false);
                    }
                    return Ok(None);
                }
                _ => return Err(reply.into_error().await),
            }
            let next = next_page(&reply);
            let bytes = reply.bytes(left).await?;
            left = left.saturating_sub(bytes.len() as u64);
            let Ok(Page { manifests }) = serde_json::from_slice(&bytes) else {
                if first && serde_json::from_slice::<AnyPage>(&bytes).is_err() {
                    if speaks_as_registry(&reply) {
                        host.learn(Capability::Referrers, false);
                    }
                    return Ok(None);
                }
                return Err(reply.error(Problem::Garbled("a page of the list of referrers is not an index")));
            };
            host.learn(Capability::Referrers, true);
            entries.extend(manifests.unwrap_or_default());
            if entries.len() > MAX_REFERRERS {
                return Err(reply.error(Problem::TooMany { limit: MAX_REFERRERS }));
            }
            let Some(next) = next.filter(|next| next.origin() == place.base.origin()) else {
                return Ok(Some(entries));
            };
            reply.drain().await;
            ask = Ask::new(place, Method::GET, next, asked.to_owned());
            ask.scopes = Some(self.inner.scopes(place, None));
        }
        let url = place.base.clone();
        let request = self.inner.request(place, &Method::GET, &url, asked);
        Err(Error::new(request, Problem::Garbled("the list of referrers does not end")))
    }
}

/// Whether a 404 or 405 says that the registry has no referrers API, and not only that this is not to be had now: the
/// page of a load balancer says nothing about the registry behind it, nor does a repository that is not there.
async fn knows_no_referrers(reply: &mut Reply) -> Result<bool, Error> {
    let body = match reply.bytes(MAX_ERROR).await {
        Ok(body) => body,
        Err(error) if matches!(error.problem(), Problem::TooLarge { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(match Envelope::read(&body) {
        Some(Envelope { code, .. }) => {
            !matches!(code.as_deref(), Some("NAME_UNKNOWN" | "MANIFEST_UNKNOWN" | "NOT_FOUND"))
        }
        None => speaks_as_registry(reply),
    })
}

/// A page of a list of referrers; some registries write a list without any as `null`.
#[derive(Deserialize)]
struct Page {
    #[serde(deserialize_with = "Option::deserialize")]
    manifests: Option<Vec<Descriptor>>,
}

/// A list of tags; some registries write a list without any as `null`.
#[derive(Deserialize)]
struct TagList<'a> {
    #[serde(borrow)]
    tags: Option<Vec<Cow<'a, str>>>,
}

/// The shape that every page has, whatever is in it.
#[derive(Deserialize)]
struct AnyPage {
    #[serde(rename = "manifests")]
    _manifests: serde::de::IgnoredAny,
}

/// Whether the answer carries the mark that registries put on theirs, even on those without a body of their own.
fn speaks_as_registry(reply: &Reply) -> bool {
    reply.response.headers().contains_key(API_VERSION)
}

/// The address of the next page.
fn next_page(reply: &Reply) -> Option<Url> {
    let link = reply.text(LINK)?;
    let (target, parameters) = link.split(',').find_map(|part| part.trim().strip_prefix('<')?.split_once('>'))?;
    let is_next = parameters.split(';').any(|parameter| {
        matches!(parameter.trim().split_once('='), Some((name, value))
            if name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"') == "next")
    });
    if is_next { reply.response.url().join(target).ok() } else { None }
}

/// The announced digest; one that cannot be read counts as none.
pub(super) fn content_digest(reply: &Reply) -> Option<Digest> {
    reply.text(CONTENT_DIGEST)?.trim().parse().ok()
}

pub(super) fn mismatch(reply: &Reply, expected: &Digest, actual: &Digest) -> Error {
    reply.broken(Problem::Digest { expected: expected.to_string(), actual: actual.to_string() })
}

/// Checks what a registry says about content that it took.
pub(super) fn accepted(reply: &Reply, sent: &Digest) -> Result<(), Error> {
    if reply.is_html() {
        return Err(reply.error(Problem::NotRegistry { status: reply.status().as_u16() }));
    }
    match content_digest(reply) {
        Some(digest) if digest.algorithm() == sent.algorithm() && digest != *sent => {
            Err(mismatch(reply, sent, &digest))
        }
        _ => Ok(()),
    }
}

fn verified(reply: &Reply, bytes: Bytes, by: By<'_>) -> Result<RawManifest, Error> {
    let page = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<');
    if reply.is_html() || page {
        return Err(reply.error(Problem::NotRegistry { status: reply.status().as_u16() }));
    }
    let media_type = reply.media_type().to_owned();
    let hash = |digest: &Digest| {
        let mut hasher = crate::oci::Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        hasher.finish()
    };
    let wanted = match by {
        By::Digest(digest) => Some(digest.clone()),
        By::Tag(_) => None,
    };
    let announced = content_digest(reply);
    for expected in wanted.iter().chain(&announced) {
        let actual = hash(expected);
        if actual != *expected {
            return Err(mismatch(reply, expected, &actual));
        }
    }
    Ok(match wanted.or(announced) {
        Some(digest) => RawManifest::verified(bytes, media_type, digest),
        None => RawManifest::new(bytes, media_type),
    })
}
