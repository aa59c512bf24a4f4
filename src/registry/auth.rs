//! Logging in: challenges are answered when they come, tokens are kept while they last and fetched once for everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use secrecy::ExposeSecret as _;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use super::challenge::{Challenge, challenge};
use super::client::Inner;
use super::credentials::basic;
use super::reply::Reply;
use super::transport::{Ask, Payload, Place, strip};
use super::{Credential, Error, Problem, Refusal, Side};

/// What a token is to allow: `repository:path:pull,push`.
pub(super) type Scopes = BTreeSet<String>;

/// How long a token lasts whose answer does not say so.
const DEFAULT_LIFE: u64 = 60;
/// No token is kept for longer than this.
const MAX_LIFE: u64 = 24 * 60 * 60;
/// The longest answer of a token service.
const MAX_TOKEN: u64 = 256 << 10;
/// From how many tokens on those that nobody uses are dropped.
const MAX_SLOTS: usize = 1024;
/// Credentials that turned out unchanged are not read again for this long.
const RELOAD_PAUSE: Duration = Duration::from_secs(10);

/// What a client knows about logging in.
#[derive(Default)]
pub(super) struct Auth {
    /// By contacted host.
    challenges: Mutex<BTreeMap<String, Challenge>>,
    slots: Mutex<BTreeMap<SlotKey, Arc<Slot>>>,
    serial: AtomicU64,
    reloading: tokio::sync::Mutex<Option<Instant>>,
}

/// Host, key of the credential, generation of the credentials, scopes.
type SlotKey = (String, Option<String>, u64, Scopes);

/// The token for one key. The lock is held while it is fetched, so that it is fetched once.
#[derive(Default)]
struct Slot {
    /// Counts finished fetches.
    epoch: AtomicU64,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    failed: Option<Error>,
    /// Scopes that the registry named beyond ours.
    extra: Scopes,
}

struct Token {
    header: HeaderValue,
    serial: u64,
    renew_at: Instant,
    access: Access,
}

/// What a token says about itself, as far as it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Unknown,
    Nothing,
    PullOnly,
    Push,
}

/// What a request is sent with.
#[derive(Clone)]
pub(super) struct Grant {
    header: HeaderValue,
    /// Which token it is; none for what does not change.
    serial: Option<u64>,
    /// Made for this very request: a refusal is final.
    fresh: bool,
    access: Access,
}

/// The credentials of a client and how often they have changed.
pub(super) struct Loaded {
    pub(super) credentials: super::Credentials,
    pub(super) generation: u64,
}

pub(super) fn secret_header(scheme: &str, secret: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("{scheme} {secret}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

impl Inner {
    /// What a token must allow for requests to a repository, and to mount from another.
    pub(super) fn scopes(&self, place: &Place, mount: Option<&str>) -> Scopes {
        let actions = if self.settings.side == Side::Target { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", place.repository.path());
        let from = mount.map(|path| format!("repository:{path}:pull"));
        std::iter::once(own).chain(from).collect()
    }

    pub(super) fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends with what is known, and answers the challenge if that is refused.
    pub(super) async fn authorized(&self, ask: &mut Ask<'_>, scopes: &Scopes, retry: bool) -> Result<Reply, Error> {
        let place = ask.place;
        let mut loaded = self.loaded();
        let (mut reloaded, mut widened, mut narrowed) = (false, false, false);
        let known = self.known(place);
        let mut grant = match known {
            Some(known) => match self.answer(ask, &loaded, scopes, &known, None).await {
                Ok(grant) => Some(grant),
                // Let the registry refuse it: it may not want any for this.
                Err(error) if matches!(error.problem(), Problem::Unauthorized(_)) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        loop {
            let streamed = matches!(ask.payload, Payload::Stream(_));
            let reply = self.follow(ask, grant.as_ref().map(|grant| &grant.header), retry).await?;
            let from_registry = reply.response.url().origin() == place.base.origin();
            let serial = grant.as_ref().and_then(|grant| grant.serial);
            if let (Some(serial), Some(known)) = (serial, self.known(place))
                && from_registry
                && !streamed
                && !narrowed
                && too_long(&reply)
            {
                narrowed = true;
                self.expire(place, &loaded, scopes, serial).await;
                reply.drain().await;
                grant = Some(self.answer(ask, &loaded, scopes, &known, None).await?);
                continue;
            }
            if reply.status() != StatusCode::UNAUTHORIZED || !from_registry {
                return Ok(reply);
            }
            let request = reply.request.clone();
            let refused = |refusal| Error::new(request.clone(), Problem::Unauthorized(refusal));
            let Some(challenge) = challenge(reply.response.headers()) else {
                let refusal = if grant.is_some() { Refusal::Rejected } else { Refusal::NoChallenge };
                return Err(refused(refusal));
            };
            reply.drain().await;
            if streamed {
                // The blob has to be begun again, and that is when a new token is fetched.
                if let Some(serial) = serial {
                    self.expire(place, &loaded, scopes, serial).await;
                }
                return Err(refused(Refusal::Rejected));
            }
            self.remember(place, &challenge);
            // A registry may want more than we thought; that is asked for once.
            let more = !widened && wants_more(&challenge, scopes);
            widened |= more;
            let answer = match &grant {
                Some(grant) if grant.fresh && !(more && grant.serial.is_some()) => {
                    let credential = loaded.credentials.lookup(&place.repository);
                    Err(refused(refusal(credential.is_some(), grant.access, self.settings.side)))
                }
                _ => self.answer(ask, &loaded, scopes, &challenge, grant.as_ref()).await,
            };
            grant = match answer {
                Ok(grant) => Some(grant),
                Err(error) if matches!(error.problem(), Problem::Unauthorized(_)) && !reloaded => {
                    reloaded = true;
                    if loaded.credentials.lookup(&place.repository).is_none() || !self.reload(&loaded).await {
                        return Err(error);
                    }
                    loaded = self.loaded();
                    Some(self.answer(ask, &loaded, scopes, &challenge, None).await?)
                }
                Err(error) => return Err(error),
            };
        }
    }

    fn known(&self, place: &Place) -> Option<Challenge> {
        self.auth.challenges.lock().unwrap_or_else(PoisonError::into_inner).get(&place.host).cloned()
    }

    fn remember(&self, place: &Place, challenge: &Challenge) {
        let mut known = self.auth.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        let challenge = match challenge.clone() {
            // The scope was that of one request.
            Challenge::Bearer { realm, service, scope: _ } => Challenge::Bearer { realm, service, scope: None },
            Challenge::Basic => Challenge::Basic,
        };
        known.insert(place.host.clone(), challenge);
    }

    /// Reads the credentials again; true if they differ from `seen`.
    pub(super) async fn reload(&self, seen: &Loaded) -> bool {
        let Some(reload) = &self.settings.reload else { return false };
        let mut last = self.auth.reloading.lock().await;
        if self.loaded().generation != seen.generation {
            return true;
        }
        if last.is_some_and(|at| at.elapsed() < RELOAD_PAUSE) {
            return false;
        }
        let credentials = match reload().await {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::debug!(error = &*error as &dyn std::error::Error, "credentials could not be read again");
                return false;
            }
        };
        if credentials == seen.credentials {
            *last = Some(Instant::now());
            return false;
        }
        *last = None;
        let next = Arc::new(Loaded { credentials, generation: seen.generation + 1 });
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.auth.slots.lock().unwrap_or_else(PoisonError::into_inner).clear();
        true
    }

    /// What to send in answer to a challenge.
    async fn answer(
        &self,
        ask: &Ask<'_>,
        loaded: &Loaded,
        scopes: &Scopes,
        challenge: &Challenge,
        rejected: Option<&Grant>,
    ) -> Result<Grant, Error> {
        let place = ask.place;
        let refused = |refusal| {
            let request = self.request(place, &ask.method, &ask.url, &ask.asked);
            Error::new(request, Problem::Unauthorized(refusal))
        };
        let credential = loaded.credentials.lookup(&place.repository).map(|(_, credential)| credential);
        let fixed = match (credential, challenge) {
            (Some(Credential::Registry(token)), _) => secret_header("Bearer", token.expose_secret()),
            (Some(Credential::Basic { username, password }), Challenge::Basic) => {
                secret_header("Basic", basic(username, password).expose_secret())
            }
            (None, Challenge::Basic) => return Err(refused(Refusal::NoCredentials)),
            (Some(Credential::Identity(_)), Challenge::Basic) => return Err(refused(Refusal::NoChallenge)),
            (_, Challenge::Bearer { realm, service, scope }) => {
                let bearer = Bearer { realm, service: service.as_deref() };
                return self.token(ask, loaded, scopes, bearer, scope.as_deref(), rejected).await;
            }
        };
        let header = fixed.ok_or_else(|| refused(Refusal::Rejected))?;
        Ok(Grant { header, serial: None, fresh: true, access: Access::Unknown })
    }

    fn slot(&self, place: &Place, loaded: &Loaded, scopes: &Scopes) -> Arc<Slot> {
        let key = loaded.credentials.lookup(&place.repository).map(|(key, _)| key.to_owned());
        let mut slots = self.auth.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_SLOTS {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry((place.host.clone(), key, loaded.generation, scopes.clone())).or_default())
    }

    /// Makes the next request fetch a new token, if the one that was refused is still the newest.
    async fn expire(&self, place: &Place, loaded: &Loaded, scopes: &Scopes, serial: u64) {
        let slot = self.slot(place, loaded, scopes);
        let mut state = slot.state.lock().await;
        if state.token.as_ref().is_some_and(|token| token.serial == serial) {
            state.token = None;
            // What a registry asked for besides made the token longer.
            state.extra.clear();
        }
    }

    /// A token: the one we have, or a new one. Those who come while it is fetched wait and share what comes of it.
    async fn token(
        &self,
        ask: &Ask<'_>,
        loaded: &Loaded,
        scopes: &Scopes,
        bearer: Bearer<'_>,
        wanted: Option<&str>,
        rejected: Option<&Grant>,
    ) -> Result<Grant, Error> {
        let slot = self.slot(ask.place, loaded, scopes);
        let seen = slot.epoch.load(Ordering::Acquire);
        let mut state = slot.state.lock().await;
        let rejected = rejected.and_then(|grant| grant.serial);
        if let Some(token) = &state.token
            && rejected != Some(token.serial)
            && Instant::now() < token.renew_at
        {
            let Token { header, serial, access, .. } = token;
            return Ok(Grant { header: header.clone(), serial: Some(*serial), fresh: false, access: *access });
        }
        if slot.epoch.load(Ordering::Acquire) != seen
            && let Some(error) = &state.failed
        {
            return Err(error.clone());
        }
        let named = wanted.into_iter().flat_map(|text| text.split(' ')).filter(|scope| scope_is_new(scope, scopes));
        state.extra.extend(named.take(4).map(str::to_owned));
        let all: Scopes = scopes.union(&state.extra).cloned().collect();
        // Boxed because a token is asked for by the same means as everything else.
        let result = Box::pin(self.fetch(ask, loaded, &all, bearer)).await;
        slot.epoch.fetch_add(1, Ordering::Release);
        match result {
            Ok((header, life, access)) => {
                let serial = self.auth.serial.fetch_add(1, Ordering::Relaxed);
                let renew_at = Instant::now() + Duration::from_secs(life).mul_f64(0.8);
                let grant = Grant { header: header.clone(), serial: Some(serial), fresh: true, access };
                state.token = Some(Token { header, serial, renew_at, access });
                state.failed = None;
                Ok(grant)
            }
            Err(error) => {
                state.token = None;
                state.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Asks the token service.
    async fn fetch(
        &self,
        ask: &Ask<'_>,
        loaded: &Loaded,
        scopes: &Scopes,
        bearer: Bearer<'_>,
    ) -> Result<(HeaderValue, u64, Access), Error> {
        let place = ask.place;
        let asked = format!("token for `{}`", place.repository.path());
        let garbled =
            |url: &Url, what| Error::new(self.request(place, &Method::GET, url, &asked), Problem::Garbled(what));
        let mut url =
            Url::parse(bearer.realm).map_err(|_invalid| garbled(&place.base, "the token realm is not an address"))?;
        strip(&mut url);
        let credential = loaded.credentials.lookup(&place.repository).map(|(_, credential)| credential);
        let mut token = if let Some(Credential::Identity(secret)) = credential {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token")
                .append_pair("service", bearer.service.unwrap_or_default())
                .append_pair("client_id", "imageset-mirror")
                .append_pair("scope", &scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
                .append_pair("refresh_token", secret.expose_secret());
            let mut token = Ask::new(place, Method::POST, url.clone(), asked.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            token.payload = Payload::Bytes(Bytes::from(form.finish()));
            token
        } else {
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = bearer.service {
                    query.append_pair("service", service);
                }
                for scope in scopes {
                    query.append_pair("scope", scope);
                }
            }
            let mut token = Ask::new(place, Method::GET, url.clone(), asked.clone());
            if let Some(Credential::Basic { username, password }) = credential {
                token.authorization = secret_header("Basic", basic(username, password).expose_secret());
            }
            token
        }
        .header(ACCEPT, "application/json");
        token.windowed = false;
        token.plain = true;
        let mut reply = self.send(token.no_pages()).await?;
        match reply.status().as_u16() {
            200..=299 => {}
            401 | 403 if !reply.is_html() => {
                let refusal = if credential.is_some() { Refusal::Rejected } else { Refusal::NoCredentials };
                return Err(reply.error(Problem::Unauthorized(refusal)));
            }
            _ => return Err(reply.into_error().await),
        }
        let body = match reply.bytes(MAX_TOKEN).await {
            Err(error) if matches!(error.problem(), Problem::TooLarge { .. }) => {
                return Err(reply.error(Problem::Garbled("the token service answers with far too much")));
            }
            body => body?,
        };
        let (token, life) = read(&body)
            .ok_or_else(|| reply.error(Problem::Garbled("the token service does not answer with a token")))?;
        let header = secret_header("Bearer", &token)
            .ok_or_else(|| reply.error(Problem::Garbled("the token cannot be sent in a header")))?;
        Ok((header, life, access(&token, place.repository.path().as_str())))
    }
}

/// Where tokens come from.
#[derive(Clone, Copy)]
struct Bearer<'a> {
    realm: &'a str,
    service: Option<&'a str>,
}

/// Whether an answer may say that the headers of the request, of which the token is the longest, are too long for a proxy.
fn too_long(reply: &Reply) -> bool {
    match reply.status().as_u16() {
        431 => true,
        // Registries answer in JSON.
        400 => reply.is_html(),
        _ => false,
    }
}

fn wants_more(challenge: &Challenge, ours: &Scopes) -> bool {
    match challenge {
        Challenge::Bearer { scope: Some(scope), .. } => scope.split(' ').any(|scope| scope_is_new(scope, ours)),
        _ => false,
    }
}

fn scope_is_new(scope: &str, ours: &Scopes) -> bool {
    let fits = !scope.is_empty() && scope.len() <= 512 && scope.bytes().all(|b| (b'!'..=b'~').contains(&b));
    // `repository:a:pull` is part of `repository:a:pull,push`.
    fits && !ours.iter().any(|own| own == scope || own.strip_prefix(scope).is_some_and(|rest| rest.starts_with(',')))
}

/// Why a fresh answer to the challenge was refused.
fn refusal(credentials: bool, access: Access, side: Side) -> Refusal {
    match (credentials, side, access) {
        (false, _, _) => Refusal::NoCredentials,
        (true, Side::Target, Access::Nothing) => Refusal::NoAccess,
        (true, Side::Target, Access::PullOnly) => Refusal::NoPush,
        (true, _, _) => Refusal::Rejected,
    }
}

/// The token and its life in seconds.
fn read(body: &[u8]) -> Option<(String, u64)> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| value.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let token = text("token").or_else(|| text("access_token"))?;
    let life = value.get("expires_in").and_then(|life| match life {
        serde_json::Value::String(text) => text.parse().ok(),
        life => life.as_u64(),
    });
    Some((token, life.filter(|life| *life > 0).unwrap_or(DEFAULT_LIFE).min(MAX_LIFE)))
}

/// What a token allows in a repository, if it is a JSON web token with a list of accesses. It is only read to word
/// failures, so its signature does not matter.
fn access(token: &str, path: &str) -> Access {
    let claims = || {
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
        serde_json::from_slice::<serde_json::Value>(&payload).ok()
    };
    let Some(claims) = claims() else { return Access::Unknown };
    let Some(list) = claims.get("access").and_then(|access| access.as_array()) else { return Access::Unknown };
    let field = |entry: &serde_json::Value, name: &str, wanted: &str| {
        entry.get(name).and_then(|value| value.as_str()) == Some(wanted)
    };
    let actions: Vec<&str> = list
        .iter()
        .filter(|entry| field(entry, "type", "repository") && field(entry, "name", path))
        .filter_map(|entry| entry.get("actions")?.as_array())
        .flatten()
        .filter_map(|action| action.as_str())
        .collect();
    match actions.as_slice() {
        [] => Access::Nothing,
        actions if actions.contains(&"push") || actions.contains(&"*") => Access::Push,
        _ => Access::PullOnly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_answer_is_read_leniently_and_rubbish_is_refused() {
        for (text, expected) in [
            (r#"{"token":"a","expires_in":300}"#, Some(("a", 300))),
            (r#"{"access_token":"a"}"#, Some(("a", 60))),
            (r#"{"token":"a","access_token":"b","expires_in":"90"}"#, Some(("a", 90))),
            (r#"{"token":"a","expires_in":-5}"#, Some(("a", 60))),
            (r#"{"token":"a","expires_in":1e300}"#, Some(("a", 60))),
            (r#"{"token":"a","expires_in":18446744073709551615}"#, Some(("a", MAX_LIFE))),
            (r#"{"token":""}"#, None),
            (r#"{"token":7}"#, None),
            ("[]", None),
            ("<html>", None),
        ] {
            let actual = read(text.as_bytes());
            assert_eq!(actual.as_ref().map(|(token, life)| (token.as_str(), *life)), expected, "{text}");
        }
    }

    #[test]
    fn what_a_token_allows_is_read_from_it_if_it_says_so() {
        let token = |claims: &str| format!("x.{}.y", URL_SAFE_NO_PAD.encode(claims));
        for (claims, expected) in [
            (r#"{"access":[]}"#, Access::Nothing),
            (r#"{"access":[{"type":"repository","name":"a/b","actions":[]}]}"#, Access::Nothing),
            (r#"{"access":[{"type":"repository","name":"a/c","actions":["push"]}]}"#, Access::Nothing),
            (r#"{"access":[{"type":"repository","name":"a/b","actions":["pull"]}]}"#, Access::PullOnly),
            (r#"{"access":[{"type":"repository","name":"a/b","actions":["pull","push"]}]}"#, Access::Push),
            (r#"{"sub":"me"}"#, Access::Unknown),
        ] {
            assert_eq!(access(&token(claims), "a/b"), expected, "{claims}");
        }
        assert_eq!(access("opaque", "a/b"), Access::Unknown);
    }

    #[test]
    fn only_scopes_that_ours_do_not_cover_are_added() {
        let ours = Scopes::from(["repository:a/b:pull,push".to_owned()]);
        for (scope, new) in [
            ("repository:a/b:pull,push", false),
            ("repository:a/b:pull", false),
            ("repository:a/bc:pull", true),
            ("registry:catalog:*", true),
            ("", false),
            ("a\nb", false),
        ] {
            assert_eq!(scope_is_new(scope, &ours), new, "{scope}");
        }
    }
}
