//! What a client is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::{Credentials, Override};
use crate::failure::Side;
use crate::oci::Registry;

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tls {
    /// HTTPS with a certificate that is checked.
    #[default]
    Verify,
    /// HTTPS with any certificate.
    SkipVerify,
    /// Plain HTTP.
    Plain,
}

/// Reads the credentials again, when a registry has refused those we have.
pub type Reload =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Credentials, Box<dyn std::error::Error + Send + Sync>>> + Send + Sync>;

/// How long to wait and how often to try again. The defaults are what production uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For a connection to be made. Default 10 s.
    pub connect: Duration,
    /// For an answer to begin once the request is sent. Default 60 s.
    pub headers: Duration,
    /// For the answer to a whole blob, which the registry may still have to move. Default 5 min.
    pub closing: Duration,
    /// For the next bytes of a body in either direction. Default 45 s.
    pub stall: Duration,
    /// For a whole manifest, token or error to be read, once the answer has begun. Default 2 min.
    pub body: Duration,
    /// A source that sends less than 64 KiB of a blob in this time, not counting what others than the source take, is
    /// asked again. Default 60 s.
    pub crawl: Duration,
    /// How long most of the time of a transfer must have been spent waiting for the source until more of its blob is read
    /// at a time, if much of it is left; zero for at once. Default 2 s.
    pub lag: Duration,
    /// How often a request is made in all if it fails in a way that may pass. Default 5.
    pub attempts: u32,
    /// How long a host that has answered before and does not any more is waited for, by everybody together. Default 2 min.
    pub outage: Duration,
    /// How often a blob is sent in all if the target breaks it without having got further. Default 4.
    pub blob_attempts: u32,
    /// How often the reading of a blob is taken up again without a byte of progress. Default 5.
    pub resumes: u32,
    /// The first wait between attempts is at most this long; it doubles. Default 0.2 s.
    pub backoff: Duration,
    /// The longest wait between attempts. Default 30 s.
    pub max_backoff: Duration,
    /// The longest `Retry-After` that a request waits out by itself. Default 60 s.
    pub max_retry_after: Duration,
    /// The longest that a request waits in all because of answers with 429. Default 5 min.
    pub max_throttled: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            headers: Duration::from_mins(1),
            closing: Duration::from_mins(5),
            stall: Duration::from_secs(45),
            body: Duration::from_mins(2),
            crawl: Duration::from_mins(1),
            lag: Duration::from_secs(2),
            attempts: 5,
            outage: Duration::from_mins(2),
            blob_attempts: 4,
            resumes: 5,
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(30),
            max_retry_after: Duration::from_mins(1),
            max_throttled: Duration::from_mins(5),
        }
    }
}

/// What a client is made from. [`Settings::new`] gives an anonymous client that trusts the system's certificates.
#[derive(Clone)]
pub struct Settings {
    /// Whose registry it is.
    pub side: Side,
    /// The credentials of this side.
    pub credentials: Credentials,
    /// How to read the credentials again after a refusal.
    pub reload: Option<Reload>,
    /// Certificates in PEM to trust besides the system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
    pub trust_bundle: Option<Vec<u8>>,
    /// How to speak to a host, by exact `host[:port]`; [`Tls::Verify`] for all others. Hosts named here, and in
    /// `allowed`, may be named by redirects, upload locations and token realms wherever they are.
    pub tls: BTreeMap<Registry, Tls>,
    /// Further hosts that redirects, upload locations and token realms may name wherever they are.
    pub allowed: BTreeSet<Registry>,
    /// Where sources are really read from. Not used on the target side.
    pub overrides: Vec<Override>,
    /// The `User-Agent`.
    pub user_agent: String,
    /// Waiting and retrying.
    pub timing: Timing,
}

impl Settings {
    /// Anonymous, the system's certificates, no overrides.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            credentials: Credentials::none(),
            reload: None,
            trust_bundle: None,
            tls: BTreeMap::new(),
            allowed: BTreeSet::new(),
            overrides: Vec::new(),
            user_agent: concat!("imageset-mirror/", env!("CARGO_PKG_VERSION")).to_owned(),
            timing: Timing::default(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("side", &self.side)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .field("overrides", &self.overrides)
            .finish_non_exhaustive()
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The trust bundle is not PEM, or has no certificate in it.
    #[error("the trust bundle of the {side} side has no certificate in PEM (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate {
        /// Whose.
        side: Side,
    },
    /// The trust bundle has something in it that is not a certificate.
    #[error("the trust bundle of the {side} side contains a certificate that cannot be read")]
    BadCertificate {
        /// Whose.
        side: Side,
        /// What the TLS library says.
        #[source]
        source: reqwest::Error,
    },
    /// Something that a header cannot carry.
    #[error("the user agent `{text}` cannot be sent")]
    UserAgent {
        /// The text.
        text: String,
    },
}
