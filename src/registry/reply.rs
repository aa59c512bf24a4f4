//! Answers: bounded reading, and what an error says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use tokio::time::timeout;

use super::error::{Request, clean, passes};
use super::{Error, Limits, Permit, Problem, Trouble};

/// The longest `Retry-After` that is believed: sums of such times stay far below what a number can hold.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(30 * 24);

/// What an operating system says for `ENOSPC`.
pub(super) const DISK_FULL: &str = "no space left on device";

/// The most that is read of an answer that is an error.
pub(super) const MAX_ERROR: u64 = 64 << 10;

/// An answer whose headers are there and whose body is not read yet.
pub(super) struct Reply {
    pub(super) response: reqwest::Response,
    pub(super) request: Request,
    pub(super) stall: Duration,
    /// How long the whole body may take where it is read whole.
    pub(super) whole: Duration,
    /// Whose observer hears how it goes on.
    pub(super) limits: Arc<Limits>,
    /// Given back when the answer has been read.
    pub(super) permit: Option<Permit>,
}

impl Reply {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn text(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub(super) fn media_type(&self) -> &str {
        let value = self.text(CONTENT_TYPE).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim()
    }

    /// A page made for browsers.
    pub(super) fn is_html(&self) -> bool {
        let media_type = self.media_type();
        media_type.eq_ignore_ascii_case("text/html") || media_type.eq_ignore_ascii_case("application/xhtml+xml")
    }

    pub(super) fn error(&self, problem: Problem) -> Error {
        Error::new(self.request.clone(), problem)
    }

    /// The failure of an answer that did not come as it should, which is counted.
    pub(super) fn broken(&self, problem: Problem) -> Error {
        self.limits.broken(self.error(problem))
    }

    /// The next bytes of the body.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        match timeout(self.stall, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => {
                let error = error.without_url();
                let problem = Problem::Unreachable(if error.is_timeout() { Trouble::Stall } else { Trouble::Cut });
                Err(self.limits.broken(Error::with_source(self.request.clone(), problem, error)))
            }
            Err(_elapsed) => Err(self.broken(Problem::Unreachable(Trouble::Stall))),
        }
    }

    /// The whole body, if it is not longer than `limit` and comes within the time for whole answers.
    pub(super) async fn bytes(&mut self, limit: u64) -> Result<Bytes, Error> {
        match timeout(self.whole, self.collect(limit)).await {
            Ok(body) => body,
            Err(_elapsed) => Err(self.broken(Problem::Unreachable(Trouble::Stall))),
        }
    }

    async fn collect(&mut self, limit: u64) -> Result<Bytes, Error> {
        if let Some(length) = self.response.content_length().filter(|length| *length > limit) {
            return Err(self.error(Problem::TooLarge { limit, length: Some(length) }));
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > limit {
                return Err(self.error(Problem::TooLarge { limit, length: None }));
            }
        }
        Ok(body.into())
    }

    /// Reads the little that is left, so that the connection can be used again.
    pub(super) async fn drain(mut self) {
        self.bytes(MAX_ERROR).await.ok();
    }

    /// The failure that this answer is.
    pub(super) async fn into_error(mut self) -> Error {
        let status = self.status();
        let after = retry_after(self.response.headers());
        if status == StatusCode::TOO_MANY_REQUESTS {
            return self.error(Problem::RateLimited { after });
        }
        let code = status.as_u16();
        if self.is_html() && status.is_client_error() && status != StatusCode::PAYLOAD_TOO_LARGE && !passes(code) {
            return self.error(Problem::NotRegistry { status: code });
        }
        let body = self.bytes(MAX_ERROR).await.unwrap_or_default();
        let Envelope { code: name, message } = Envelope::read(&body).unwrap_or_default();
        // Whoever says so says it somewhere in what is meant for administrators, and not always in a message.
        let full = String::from_utf8_lossy(&body).to_ascii_lowercase().contains(DISK_FULL);
        let message = if full { Some(DISK_FULL.to_owned()) } else { message };
        self.error(Problem::Status { status: code, code: name, detail: message, after })
    }

    /// Reads a 404 as absence; an error if it does not come from a registry.
    pub(super) async fn absent(mut self) -> Result<(), Error> {
        let status = self.status().as_u16();
        if self.is_html() {
            return Err(self.error(Problem::NotRegistry { status }));
        }
        if self.request.method == Method::HEAD {
            return Ok(());
        }
        let body = self.bytes(MAX_ERROR).await?;
        if body.is_empty() || Envelope::read(&body).is_some() {
            Ok(())
        } else {
            Err(self.error(Problem::NotRegistry { status }))
        }
    }
}

/// The first entry of a registry's `{"errors": […]}`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
}

impl Envelope {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let errors = value.get("errors")?.as_array()?;
        let first = errors.first();
        let field = |name: &str| {
            let text = clean(first?.get(name)?.as_str()?);
            (!text.is_empty()).then_some(text)
        };
        let code = field("code").filter(|code| code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        Some(Self { code, message: field("message") })
    }
}

/// `Retry-After`: seconds, or a date, which is compared with the answer's own `Date`; at most 30 days.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    stated_wait(headers).map(|wait| wait.min(MAX_RETRY_AFTER))
}

fn stated_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp());
    let (until, now) = (date(text)?, date(headers.get(DATE)?.to_str().ok()?)?);
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

/// `ratelimit-remaining: 76;w=21600`, as Docker Hub writes it, or the same in one of the forms that `RateLimit` has had in
/// draft-ietf-httpapi-ratelimit-headers: how many requests may still be made. The least, where there are several.
pub(super) fn remaining(headers: &HeaderMap) -> Option<u64> {
    if let Some(value) = headers.get("ratelimit-remaining") {
        return value.to_str().ok()?.split([';', ',']).next()?.trim().parse().ok();
    }
    let parameters = headers.get("ratelimit")?.to_str().ok()?.split([';', ',']);
    let pairs = parameters.filter_map(|parameter| parameter.trim().split_once('='));
    pairs.filter(|(key, _)| matches!(*key, "remaining" | "r")).filter_map(|(_, count)| count.parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_of_a_limit_is_read_in_every_form() {
        let read = |name: &'static str, value: &str| {
            remaining(&HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]))
        };
        assert_eq!(read("ratelimit-remaining", "76;w=21600"), Some(76));
        assert_eq!(read("ratelimit-remaining", " 0 "), Some(0));
        assert_eq!(read("ratelimit", "limit=100, remaining=50, reset=5"), Some(50));
        assert_eq!(read("ratelimit", "\"burst\";r=3;t=1, \"day\";r=1000;t=3600"), Some(3));
        for bad in ["", "-1", "many", ";w=3"] {
            assert_eq!(read("ratelimit-remaining", bad), None, "{bad}");
            assert_eq!(read("ratelimit", bad), None, "{bad}");
        }
        assert_eq!(read("ratelimit-limit", "100;w=21600"), None);
    }

    fn after(value: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        retry_after(&headers).map(|time| time.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(after("120", None), Some(120));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(60));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(0));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT", None), None);
        assert_eq!(after("soon", now), None);
        assert_eq!(after("-1", now), None);
        let month = Some(30 * 24 * 60 * 60);
        assert_eq!(after("18446744073709551615", None), month);
        assert_eq!(after("Sun, 06 Nov 2095 08:49:37 GMT", now), month);
    }

    #[test]
    fn an_envelope_is_read_and_nothing_else() {
        let read = |text: &str| Envelope::read(text.as_bytes());
        let full = read(r#"{"errors":[{"code":"DENIED","message":"no\nway"}]}"#).unwrap();
        assert_eq!((full.code.as_deref(), full.message.as_deref()), (Some("DENIED"), Some("no way")));
        assert_eq!(read(r#"{"errors":[{"code":17,"message":null}]}"#), Some(Envelope::default()));
        assert_eq!(read(r#"{"errors":[]}"#), Some(Envelope::default()));
        assert_eq!(read(r#"{"message":"404 page not found"}"#), None);
        assert_eq!(read("<html>"), None);
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(10_000));
        assert!(read(&long).unwrap().message.unwrap().len() <= 200);
    }
}
