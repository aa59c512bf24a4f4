//! What can go wrong with a request, and what to tell people about it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use url::Url;

use super::Side;
use super::reply::DISK_FULL;
use crate::failure::{Failure, Reason, cut};

/// Longest text taken over from a registry's error answer.
const MAX_DETAIL: usize = 200;

/// A request that failed: what was asked, of whom, and why it failed.
///
/// Cheap to clone, so that those who wait for the same blob can share one failure.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    request: Request,
    problem: Problem,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Which request an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Whose registry it is.
    pub(super) side: Side,
    /// `host[:port]` as the user knows it.
    pub(super) host: String,
    /// The method, as far as a request was made.
    pub(super) method: Method,
    /// The address that answered last, without userinfo and query.
    pub(super) url: String,
    /// What was asked for, in words: `manifest a/b:1`.
    pub(super) asked: String,
}

impl Request {
    /// `host[:port]` that was asked last.
    pub(super) fn host_asked(&self) -> String {
        Url::parse(&self.url).map(|url| authority(&url)).unwrap_or_default()
    }
}

/// What went wrong, as one of a closed list that decides reason and class.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// No connection, or it broke, or nothing came in time.
    Unreachable(Trouble),
    /// The certificate is not one that we trust.
    Untrusted,
    /// The rate of requests is limited.
    RateLimited {
        /// How long to wait, as far as the registry says.
        after: Option<Duration>,
    },
    /// The registry, or its token service, refuses the credentials or wants some.
    Unauthorized(Refusal),
    /// An answer with a status that means failure.
    Status {
        /// The status.
        status: u16,
        /// The first code of the error envelope.
        code: Option<String>,
        /// The first message of the error envelope, cut.
        detail: Option<String>,
        /// How long to wait, as far as the registry says.
        after: Option<Duration>,
    },
    /// An answer that is not one of a registry: a page of a load balancer, or something else that is not JSON.
    NotRegistry {
        /// The status.
        status: u16,
    },
    /// An answer of the right kind that makes no sense.
    Garbled(&'static str),
    /// Content that is longer than what is taken.
    TooLarge {
        /// The bound in bytes.
        limit: u64,
        /// The announced length, if it was.
        length: Option<u64>,
    },
    /// A list of more entries than are taken.
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// Content that does not hash to its digest.
    Digest {
        /// What was asked for or announced.
        expected: String,
        /// What came.
        actual: String,
    },
    /// Content of another length than announced.
    Length {
        /// The length asked for.
        expected: u64,
        /// The length that came, or at which reading was stopped.
        actual: u64,
    },
    /// Redirects that lead nowhere.
    RedirectLoop {
        /// How many were followed.
        hops: usize,
    },
    /// A redirect, upload location or token realm that we do not follow.
    Policy {
        /// The host it names.
        host: String,
        /// Why not.
        why: Denied,
    },
    /// Content that exists by name but not in the registry any more.
    Missing,
}

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The name is not known.
    Name,
    /// No connection was made.
    Connect,
    /// The answer did not begin in time.
    Headers,
    /// Nothing moved for too long.
    Stall,
    /// The connection broke.
    Cut,
}

/// How credentials failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are none for this host, and it wants some.
    NoCredentials,
    /// They are refused.
    Rejected,
    /// They are accepted, but the token does not allow pushing.
    NoPush,
    /// They are accepted, but the token allows nothing at all in this repository: it may not exist.
    NoAccess,
    /// The registry asks for a way of logging in that we do not have.
    NoChallenge,
}

/// Why an address is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// From HTTPS to plain HTTP.
    Downgrade,
    /// A loopback, link-local or metadata address.
    Address,
    /// Not HTTP or HTTPS.
    Scheme,
    /// Another host, with credentials in what is sent.
    Credentials,
}

/// Whether the same request may succeed later without anybody changing anything on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may.
    Transient {
        /// Not before this time has passed, if the registry says so.
        after: Option<Duration>,
    },
    /// A person must act first.
    Permanent,
}

/// Whether an answer with this status may be another one a little later.
pub(super) fn passes(status: u16) -> bool {
    // A method or protocol that the server does not have, or no space, does not pass by waiting.
    matches!(status, 408 | 425 | 429 | 500..=599) && !matches!(status, 501 | 505 | 507)
}

/// An address as it may be shown: without userinfo, query and fragment.
pub(super) fn redact(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for addresses that cannot have userinfo.
    url.set_username("").ok();
    url.set_password(None).ok();
    cut(url.as_str(), 512)
}

/// Text of a registry's answer, made fit to show: one line, no control characters, cut.
pub(super) fn clean(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cut(line.trim(), MAX_DETAIL)
}

impl Error {
    pub(super) fn new(request: Request, problem: Problem) -> Self {
        Self { inner: Arc::new(Inner { request, problem, source: None }) }
    }

    pub(super) fn with_source(
        request: Request,
        problem: Problem,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { inner: Arc::new(Inner { request, problem, source: Some(source.into()) }) }
    }

    /// What went wrong.
    pub fn problem(&self) -> &Problem {
        &self.inner.problem
    }

    /// Whose registry it is.
    pub fn side(&self) -> Side {
        self.inner.request.side
    }

    /// `host[:port]` of the registry.
    pub fn host(&self) -> &str {
        &self.inner.request.host
    }

    /// The method of the request.
    pub fn method(&self) -> &Method {
        &self.inner.request.method
    }

    /// The address that answered last, without userinfo and query.
    pub fn url(&self) -> &str {
        &self.inner.request.url
    }

    /// `host[:port]` that was asked last.
    pub(super) fn asked_of(&self) -> String {
        self.inner.request.host_asked()
    }

    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<StatusCode> {
        match self.inner.problem {
            Problem::Status { status, .. } | Problem::NotRegistry { status } => StatusCode::from_u16(status).ok(),
            Problem::RateLimited { .. } => Some(StatusCode::TOO_MANY_REQUESTS),
            Problem::Unauthorized(_) => Some(StatusCode::UNAUTHORIZED),
            _ => None,
        }
    }

    /// The first code of the registry's error envelope, such as `MANIFEST_BLOB_UNKNOWN`.
    pub fn code(&self) -> Option<&str> {
        match &self.inner.problem {
            Problem::Status { code, .. } => code.as_deref(),
            _ => None,
        }
    }

    /// Which of the closed list of reasons this is.
    pub fn reason(&self) -> Reason {
        let source = self.side() == Side::Source;
        let auth = if source { Reason::SourceAuth } else { Reason::TargetAuth };
        match &self.inner.problem {
            Problem::Unreachable(_) => Reason::NetworkUnreachable,
            Problem::Untrusted => Reason::TLSUntrusted,
            Problem::RateLimited { .. } => Reason::RateLimited,
            Problem::Unauthorized(Refusal::NoAccess) if !source => Reason::TargetRepoMissing,
            Problem::Unauthorized(_) => auth,
            Problem::Status { status, code, detail, .. } => {
                self.status_reason(*status, code.as_deref(), detail.as_deref())
            }
            Problem::Missing if source => Reason::SourceNotFound,
            Problem::NotRegistry { .. } | Problem::Garbled(_) | Problem::RedirectLoop { .. } | Problem::Missing => {
                Reason::RegistryError
            }
            Problem::TooLarge { .. } | Problem::TooMany { .. } => Reason::ManifestInvalid,
            Problem::Digest { .. } | Problem::Length { .. } => Reason::DigestMismatch,
            Problem::Policy { .. } => Reason::PolicyDenied,
        }
    }

    fn status_reason(&self, status: u16, code: Option<&str>, detail: Option<&str>) -> Reason {
        let method = self.method();
        let write = *method != Method::GET && *method != Method::HEAD;
        if self.side() == Side::Source {
            return match status {
                401 | 403 => Reason::SourceAuth,
                404 => Reason::SourceNotFound,
                _ => Reason::RegistryError,
            };
        }
        // No registry has a code of its own for an exceeded quota: it comes as DENIED or UNKNOWN with a sentence.
        let full = || detail == Some(DISK_FULL);
        let quota = || detail.is_some_and(|text| text.to_ascii_lowercase().contains("quota"));
        match (status, code) {
            (_, Some("QUOTA_EXCEEDED")) | (507, _) => Reason::TargetQuota,
            (500..=599, _) if full() => Reason::TargetQuota,
            (400..=403 | 405 | 409 | 412 | 413, _) if quota() => Reason::TargetQuota,
            (_, Some("TAG_IMMUTABLE")) => Reason::TargetTagImmutable,
            (409 | 412, _) if *method == Method::PUT => Reason::TargetTagImmutable,
            (_, Some("NAME_INVALID")) => Reason::PathTooDeep,
            (401 | 403, _) => Reason::TargetAuth,
            (413, _) => Reason::TargetTooLarge,
            (415, _) | (400, Some("UNSUPPORTED")) => Reason::UnsupportedMediaType,
            (404, Some("NAME_UNKNOWN" | "NOT_FOUND")) if write => Reason::TargetRepoMissing,
            (404, _) if *method == Method::POST => Reason::TargetRepoMissing,
            (400, Some("MANIFEST_INVALID")) => Reason::ManifestInvalid,
            _ => Reason::RegistryError,
        }
    }

    /// Whether trying again later can help.
    pub fn class(&self) -> Class {
        let soon = Class::Transient { after: None };
        match &self.inner.problem {
            Problem::RateLimited { after } => Class::Transient { after: *after },
            Problem::Status { status, after, .. } if passes(*status) => Class::Transient { after: *after },
            Problem::Unreachable(_)
            | Problem::NotRegistry { .. }
            | Problem::Garbled(_)
            | Problem::RedirectLoop { .. }
            | Problem::Digest { .. }
            | Problem::Length { .. } => soon,
            // Content that the target has lost in between: looked up and pushed again.
            Problem::Status { .. } if self.lost_content() || self.lost_session() => soon,
            Problem::Missing if self.side() == Side::Target => soon,
            _ => Class::Permanent,
        }
    }

    /// True if the target says that something the manifest points to is not there, although it was.
    pub fn lost_content(&self) -> bool {
        matches!(self.code(), Some("MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN" | "MANIFEST_UNKNOWN"))
            && self.side() == Side::Target
    }

    /// True if Harbor says that it does not find the manifest that it was just given: its parts do not see each other's
    /// writes at once.
    pub(super) fn lost_artifact(&self) -> bool {
        matches!(&self.inner.problem, Problem::Status { status: 404, detail: Some(detail), .. } if detail.starts_with("artifact "))
    }

    /// True if an upload session is gone or at another place than ours, so that a new one has to be begun.
    pub(super) fn lost_session(&self) -> bool {
        match &self.inner.problem {
            Problem::Status { status, code, .. } => {
                *status == 416
                    || matches!(code.as_deref(), Some("BLOB_UPLOAD_UNKNOWN" | "BLOB_UPLOAD_INVALID" | "RANGE_INVALID"))
            }
            _ => false,
        }
    }

    /// The failure to show: names the side, the host, what was asked for and what to do; nothing that changes from one
    /// attempt to the next.
    pub fn failure(&self) -> Failure {
        let request = &self.inner.request;
        let mut message = format!("{} registry `{}`, {}: {}", request.side, request.host, request.asked, self.what());
        let advice = self.advice();
        if !advice.is_empty() {
            message.push_str("; ");
            message.push_str(&advice);
        }
        let (reason, message) = (self.reason(), cut(&message, 1024));
        let side = Some(request.side);
        match self.class() {
            Class::Transient { after } => Failure { retry_after: after, side, ..Failure::transient(reason, message) },
            Class::Permanent => Failure { side, ..Failure::permanent(reason, message) },
        }
    }

    fn what(&self) -> String {
        match &self.inner.problem {
            Problem::Unreachable(Trouble::Name) => "the name is not known to DNS".to_owned(),
            Problem::Unreachable(Trouble::Connect) => "no connection".to_owned(),
            Problem::Unreachable(Trouble::Headers) => "no answer in time".to_owned(),
            Problem::Unreachable(Trouble::Stall) => "the transfer stalled".to_owned(),
            Problem::Unreachable(Trouble::Cut) => "the connection broke".to_owned(),
            Problem::Untrusted => format!("the certificate of `{}` is not trusted", self.contacted()),
            Problem::RateLimited { .. } => "the registry limits the rate of requests".to_owned(),
            Problem::Unauthorized(Refusal::NoCredentials) => {
                "the registry wants credentials and there are none".to_owned()
            }
            Problem::Unauthorized(Refusal::Rejected) => "the credentials are refused".to_owned(),
            Problem::Unauthorized(Refusal::NoPush) => "the credentials do not allow pushing".to_owned(),
            Problem::Unauthorized(Refusal::NoAccess) => "the credentials give no access to this repository".to_owned(),
            Problem::Unauthorized(Refusal::NoChallenge) => {
                "the registry names no way to log in that is supported".to_owned()
            }
            Problem::Status { status, code, detail, .. } => {
                let mut text = format!("the answer is {status}");
                if let Some(code) = code {
                    text.push(' ');
                    text.push_str(code);
                }
                if let Some(detail) = detail {
                    text.push_str(&format_args!(" ({detail})").to_string());
                }
                text
            }
            Problem::NotRegistry { status } => format!("the answer ({status}) does not come from a registry"),
            Problem::Garbled(what) => (*what).to_owned(),
            Problem::TooLarge { limit, length: Some(length) } => {
                format!("it is {length} bytes long, more than the {limit} that are taken")
            }
            Problem::TooLarge { limit, length: None } => format!("it is longer than the {limit} bytes that are taken"),
            Problem::TooMany { limit } => format!("it has more than the {limit} entries that are taken"),
            Problem::Digest { expected, actual } => format!("`{expected}` was expected, `{actual}` came"),
            Problem::Length { expected, actual } => format!("{expected} bytes were expected, {actual} came"),
            Problem::RedirectLoop { hops } => format!("redirected in a circle or too often ({hops} times)"),
            Problem::Policy { host, why: Denied::Downgrade } => {
                format!("sent to `{host}` over plain HTTP, which is not allowed")
            }
            Problem::Policy { host, why: Denied::Address } => {
                format!("sent to `{host}`, a loopback, link-local or metadata address, which is not allowed")
            }
            Problem::Policy { host, why: Denied::Credentials } => {
                format!("sent together with the credentials to `{host}`, which is not allowed")
            }
            Problem::Policy { host, why: Denied::Scheme } => format!("sent to `{host}` by something else than HTTP"),
            Problem::Missing => "it is not there".to_owned(),
        }
    }

    /// What a person can do about it; empty if there is nothing but waiting.
    fn advice(&self) -> String {
        let (source, host) = (self.side() == Side::Source, self.host());
        let secret = if source { "spec.source.credentials" } else { "spec.target.credentials" };
        let text = match self.reason() {
            Reason::SourceNotFound => "check the name, and whether the source still has it",
            Reason::SourceAuth | Reason::TargetAuth => match &self.inner.problem {
                Problem::Unauthorized(Refusal::NoCredentials) => {
                    return format!("add an entry for `{host}` to the Secret of `{secret}`");
                }
                _ if source => return format!("check the entry for `{host}` in the Secret of `{secret}`"),
                _ => {
                    return format!(
                        "check the entry for `{host}` in the Secret of `{secret}`: it must allow pulling and pushing"
                    );
                }
            },
            Reason::TargetRepoMissing => {
                "create the repository, project or organisation, or allow these credentials to push to it"
            }
            Reason::TargetQuota => "raise the quota or free space in the target",
            Reason::TargetTagImmutable => "allow this tag to be moved, or delete it in the target",
            Reason::TargetTooLarge => "raise the size limit of the target or of the proxy before it",
            Reason::PathTooDeep => "the target does not take this path: shorten it",
            Reason::RateLimited if source => "it goes on by itself; credentials may have a higher limit",
            Reason::RateLimited => "it goes on by itself",
            Reason::NetworkUnreachable => "check the name, the network, its proxies and firewalls",
            Reason::TLSUntrusted => {
                let field = if source { "spec.source.trustBundle" } else { "spec.target.trustBundle" };
                return format!("add the certificate authority that signed it to `{field}`");
            }
            Reason::RegistryError if matches!(self.problem(), Problem::Status { status: 405, .. }) => {
                "the registry may be in read-only mode"
            }
            Reason::RegistryError => "look into the registry, and into proxies before it",
            Reason::DigestMismatch => "the content was changed on its way or is damaged in the registry",
            Reason::ManifestInvalid if matches!(self.problem(), Problem::TooMany { .. }) => {
                "attachments can be left out with `spec.copy.attachments: Skip`"
            }
            Reason::ManifestInvalid if matches!(self.problem(), Problem::TooLarge { .. }) => {
                "this is not a manifest that registries take"
            }
            Reason::ManifestInvalid => "the target does not accept this manifest",
            Reason::UnsupportedMediaType => "allow this kind of manifest in the target",
            Reason::PolicyDenied => match &self.inner.problem {
                Problem::Policy { host, why: Denied::Scheme | Denied::Credentials } => {
                    return format!("correct what the registry says about `{host}`");
                }
                Problem::Policy { host, .. } if source => {
                    return format!("correct the address the registry gives, or name `{host}` in `spec.source.hosts`");
                }
                Problem::Policy { .. } => "correct the address the registry gives",
                _ => "",
            },
            _ => "",
        };
        text.to_owned()
    }

    /// The host that answered last.
    fn contacted(&self) -> String {
        match Url::parse(&self.inner.request.url) {
            Ok(url) => authority(&url),
            Err(_) => self.host().to_owned(),
        }
    }
}

/// `host[:port]` of an address, without a port that its scheme implies.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = &self.inner.request;
        write!(
            f,
            "{} `{}` ({} registry, {}): {}",
            request.method,
            request.url,
            request.side,
            request.asked,
            self.what()
        )
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("request", &self.inner.request)
            .field("problem", &self.inner.problem)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(side: Side, method: Method, problem: Problem) -> Error {
        let request = Request {
            side,
            host: "quay.example:8443".to_owned(),
            method,
            url: "https://quay.example:8443/v2/a/b/manifests/1".to_owned(),
            asked: "manifest `a/b:1`".to_owned(),
        };
        Error::new(request, problem)
    }

    fn status(status: u16, code: &str, detail: &str) -> Problem {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Problem::Status { status, code: text(code), detail: text(detail), after: None }
    }

    #[test]
    fn every_failure_names_side_host_wish_and_what_to_do() {
        let after = Some(Duration::from_secs(90));
        let digest = Problem::Digest { expected: "sha256:aa".to_owned(), actual: "sha256:bb".to_owned() };
        let policy = |why| Problem::Policy { host: "cdn.example".to_owned(), why };
        let problems = [
            Problem::Unreachable(Trouble::Name),
            Problem::Unreachable(Trouble::Connect),
            Problem::Unreachable(Trouble::Headers),
            Problem::Unreachable(Trouble::Stall),
            Problem::Unreachable(Trouble::Cut),
            Problem::Untrusted,
            Problem::RateLimited { after },
            Problem::Unauthorized(Refusal::NoCredentials),
            Problem::Unauthorized(Refusal::Rejected),
            Problem::Unauthorized(Refusal::NoPush),
            Problem::Unauthorized(Refusal::NoAccess),
            Problem::Unauthorized(Refusal::NoChallenge),
            status(400, "NAME_INVALID", "too deep"),
            status(400, "MANIFEST_INVALID", ""),
            status(403, "DENIED", "quota exceeded"),
            status(403, "DENIED", "no"),
            status(404, "NAME_UNKNOWN", "repository not found"),
            status(405, "", ""),
            status(409, "TAG_IMMUTABLE", ""),
            status(413, "", ""),
            status(415, "", ""),
            status(503, "UNAVAILABLE", ""),
            Problem::NotRegistry { status: 404 },
            Problem::Garbled("the token service does not answer with a token"),
            Problem::TooLarge { limit: 4_194_304, length: Some(5_000_000) },
            Problem::TooLarge { limit: 4_194_304, length: None },
            Problem::TooMany { limit: 10_000 },
            digest,
            Problem::Length { expected: 10, actual: 12 },
            Problem::RedirectLoop { hops: 3 },
            policy(Denied::Downgrade),
            policy(Denied::Address),
            policy(Denied::Scheme),
            policy(Denied::Credentials),
            Problem::Missing,
        ];
        let mut lines = Vec::new();
        for (side, method) in [(Side::Source, Method::GET), (Side::Target, Method::PUT)] {
            for problem in &problems {
                let error = failed(side, method.clone(), problem.clone());
                let failure = error.failure();
                assert!(failure.message.contains("quay.example:8443") && failure.message.contains(side.as_str()));
                // What differs from attempt to attempt is in the class, never in the message.
                assert!(!failure.message.contains("90"), "{failure}");
                lines.push(format!("{} {failure}", if failure.transient { "later" } else { "never" }));
            }
        }
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_server_error_passes_unless_waiting_cannot_help_and_hands_on_for_how_long() {
        let after = Some(Duration::from_secs(90));
        for (number, class) in [
            (408, Class::Transient { after }),
            (425, Class::Transient { after }),
            (503, Class::Transient { after }),
            (522, Class::Transient { after }),
            (400, Class::Permanent),
            (501, Class::Permanent),
            (507, Class::Permanent),
        ] {
            let problem = Problem::Status { status: number, code: None, detail: None, after };
            let error = failed(Side::Source, Method::GET, problem);
            assert_eq!(error.class(), class, "{number}");
            assert_eq!(error.failure().retry_after, after.filter(|_| class != Class::Permanent), "{number}");
        }
    }

    #[test]
    fn an_address_is_shown_without_secrets() {
        let url = Url::parse("https://me:pw@h.io:8443/v2/a?X-Signature=s3cret#f").unwrap();
        assert_eq!(redact(&url), "https://h.io:8443/v2/a");
    }
}
