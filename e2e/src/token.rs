//! The token server of a registry that wants bearer tokens: a password in, a short-lived signed token out.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::background::Background;
use crate::image::{Login, USER_AGENT};

/// The name of the service and of the issuer.
pub const SERVICE: &str = "e2e";

const KEY_ID: &str = "e2e";

/// A running token server; dropping it ends it.
#[derive(Debug)]
pub struct TokenServer {
    realm: String,
    shared: Arc<Shared>,
    _server: Background,
}

#[derive(Debug)]
struct Shared {
    key: EcdsaKeyPair,
    login: Mutex<Login>,
    lifetime: AtomicI64,
    issued: AtomicU64,
    refused: AtomicU64,
}

impl TokenServer {
    /// Starts one on a free port of 127.0.0.1, over plain HTTP.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(login: &Login) -> Result<Self> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let pkcs8 = pkcs8.ok().context("making a key")?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref());
        let shared = Arc::new(Shared {
            key: key.ok().context("reading a key")?,
            login: Mutex::new(login.clone()),
            lifetime: AtomicI64::new(300),
            issued: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let realm = format!("http://{}/token", listener.local_addr()?);
        let router = Router::new().route("/token", get(issue)).with_state(Arc::clone(&shared));
        let server = Background::start("token-server", move || async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                axum::serve(listener, router).await.ok();
            }
        })?;
        Ok(Self { realm, shared, _server: server })
    }

    /// Where tokens are asked for.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// How many tokens were given out, the harness's own aside.
    pub fn issued(&self) -> u64 {
        self.shared.issued.load(Ordering::Relaxed)
    }

    /// How often somebody came with a wrong password or none.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Sets the life of tokens given out from now on, in seconds. The registry grants a minute more, so a life of -55
    /// makes tokens that work for five seconds; the answer's `expires_in` stays at 60 or above.
    pub fn set_lifetime(&self, seconds: i64) {
        self.shared.lifetime.store(seconds, Ordering::Relaxed);
    }

    /// Sets the only login that gets tokens.
    pub fn set_login(&self, login: &Login) {
        *self.shared.login.lock().unwrap_or_else(PoisonError::into_inner) = login.clone();
    }

    /// The public key, as the registry reads it.
    pub(crate) fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.shared.key.public_key().as_ref();
        let coordinate = |from: usize, to: usize| URL_SAFE_NO_PAD.encode(point.get(from..to).unwrap_or_default());
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": coordinate(1, 33), "y": coordinate(33, 65),
        }]})
    }
}

async fn issue(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let login = shared.login.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let expected = format!("Basic {}", STANDARD.encode(format!("{}:{}", login.user, login.password)));
    if text(header::AUTHORIZATION) != expected {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": "wrong user or password"}]});
        return (StatusCode::UNAUTHORIZED, json_body(&body)).into_response();
    }
    let scopes = query.iter().filter(|(name, _)| name == "scope").flat_map(|(_, scopes)| scopes.split(' '));
    let access: Vec<Value> = scopes.filter_map(parse_scope).collect();
    match token(&shared, &login.user, &access) {
        Ok(token) => {
            if !text(header::USER_AGENT).starts_with(USER_AGENT) {
                shared.issued.fetch_add(1, Ordering::Relaxed);
            }
            let expires_in = shared.lifetime.load(Ordering::Relaxed).max(60);
            json_body(&json!({"token": token, "expires_in": expires_in})).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

fn json_body(value: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string())
}

/// `repository:a/b:pull,push`; the name may have colons.
fn parse_scope(scope: &str) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let actions: Vec<&str> = actions.split(',').collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}

#[expect(clippy::disallowed_methods, reason = "a token is checked against the clock of another process")]
fn token(shared: &Shared, user: &str, access: &[Value]) -> Result<String> {
    let now = i64::try_from(std::time::SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let lifetime = shared.lifetime.load(Ordering::Relaxed);
    let claims = json!({
        "iss": SERVICE, "sub": user, "aud": SERVICE, "iat": now, "nbf": now - 120, "exp": now + lifetime,
        "jti": fastrand::u64(..).to_string(), "access": access,
    });
    let header = BTreeMap::from([("alg", "ES256"), ("typ", "JWT"), ("kid", KEY_ID)]);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!(header)), part(&claims));
    let signature = shared.key.sign(&SystemRandom::new(), signed.as_bytes()).ok().context("signing a token")?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
}
