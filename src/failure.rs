//! Why something could not be done, in words and as one of a closed list of reasons.
//!
//! Every layer reports through these types, and status, reports, events and exit messages show them unchanged. The module
//! stands below all others, beside `oci`, because the registry client, the resolvers and the engine must agree on the list.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The closed list of reasons a failure may have.
///
/// Names are API: they appear in `status.failures[].reason`, in reports and in documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// The source registry says that the image, tag or repository does not exist.
    SourceNotFound,
    /// The source registry refuses our credentials, or there are none.
    SourceAuth,
    /// The target registry refuses our credentials, or they do not allow pushing.
    TargetAuth,
    /// The target registry does not create the repository, organisation or project.
    TargetRepoMissing,
    /// The target is out of quota.
    TargetQuota,
    /// The target does not allow the tag to move.
    TargetTagImmutable,
    /// The target takes no content of this size.
    TargetTooLarge,
    /// The target takes no path of this depth or length.
    PathTooDeep,
    /// The registry limits the rate of requests.
    RateLimited,
    /// The registry cannot be reached: name, connection or time.
    NetworkUnreachable,
    /// The certificate of the registry is not trusted.
    TLSUntrusted,
    /// The registry answers with an error of its own, or with something that is not a registry's answer.
    RegistryError,
    /// Content does not hash to its digest, or has another length than announced.
    DigestMismatch,
    /// A manifest, a chart or an index of charts that is too large, cannot be read or contradicts itself.
    ManifestInvalid,
    /// A media type that the target refuses or whose content cannot be found.
    UnsupportedMediaType,
    /// A layer that may only be fetched from elsewhere.
    ForeignLayer,
    /// The platform asked for is not in the index.
    PlatformMissing,
    /// The target keeps no referrers and their fallback tag is taken.
    ReferrersUnsupported,
    /// A redirect, location or token realm points where we do not go.
    PolicyDenied,
    /// An answer of the update service that is no update graph.
    GraphInvalid,
    /// A release that is not in its channel, or that no upgrade leads to.
    ReleaseNotFound,
    /// The payload of a release that cannot be read or contradicts itself.
    PayloadInvalid,
    /// A signature that is required is not there.
    SignatureMissing,
    /// A catalog that cannot be read or would not be valid.
    CatalogInvalid,
    /// What this item has to follow has failed.
    DependencyFailed,
    /// Stopped before it was done.
    Cancelled,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The serialised name is the variant's name.
        fmt::Debug::fmt(self, f)
    }
}

/// Whose registry a client talks to. It decides which reasons failures have and what tokens are asked to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Where content comes from: only read.
    Source,
    /// Where content goes.
    Target,
}

impl Side {
    /// The name in messages and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One failure: what kind, in words, and whether trying again can help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One of the closed list.
    pub reason: Reason,
    /// Names side and host and what to do; no credentials, no attempt counts, no times.
    pub message: String,
    /// True if the same request may succeed later without anybody changing the object.
    pub transient: bool,
    /// How long the registry asked to be left alone. For the process that was told, so it is in no report and no status.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// Whose registry it was, if it was one that failed.
    #[serde(skip)]
    pub side: Option<Side>,
}

impl Failure {
    /// One that a person has to mend.
    pub fn permanent(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), transient: false, retry_after: None, side: None }
    }

    /// One that may mend itself.
    pub fn transient(reason: Reason, message: impl Into<String>) -> Self {
        Self { transient: true, ..Self::permanent(reason, message) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

/// Prints an error and its sources once, skipping a link whose text the previous one already contains.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    for link in std::iter::successors(error.source(), |link| link.source()) {
        let message = link.to_string();
        if !last.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        last = message;
    }
    text
}

/// Cuts `text` to at most `max` bytes at a character boundary, ending in `…` if anything was cut.
pub fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mark = '…';
    let mut end = max.saturating_sub(mark.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_fits_and_ends_at_a_character() {
        assert_eq!(cut("short", 8), "short");
        assert_eq!(cut("äääääää", 8).len(), 7);
        assert!(cut("äääääää", 8).ends_with('…'));
    }

    #[test]
    fn a_chain_says_each_thing_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("opening `x`")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no such file"));
        assert_eq!(chain(&error), "opening `x`: no such file");
    }
}
