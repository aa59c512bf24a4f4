//! What an object names in its namespace: credentials and certificates, read at the start of each sync and again after a
//! registry's refusal, never watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use tokio::time::Instant;

use crate::oci::Registry;
use crate::registry::{self, ConfigError, Credentials, Limits, Side};
use crate::request::Request;
use crate::sync::{Helm, Sides};

/// Longest wait for one object of the API server.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The key of a Secret that has an auth file.
const AUTH_KEY: &str = ".dockerconfigjson";

/// Why a sync cannot begin until somebody repairs something outside the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Which kind.
    pub(super) reason: ProblemReason,
    /// What to do about it.
    pub(super) message: String,
}

/// Kinds of problems; the names are reasons of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProblemReason {
    /// A Secret is not there.
    SecretNotFound,
    /// A Secret is there but has no usable credentials.
    SecretInvalid,
    /// A `ConfigMap` or its key is not there.
    ConfigMapNotFound,
    /// Certificates that cannot be read.
    TrustBundleInvalid,
    /// The API server does not answer or refuses.
    ReferenceUnreadable,
}

/// Clients that are kept for the next sync.
const MAX_CLIENTS: usize = 32;
/// A client that is older is made anew, so that nothing it has learnt about a registry stays for ever.
const MAX_AGE: Duration = Duration::from_hours(1);

/// All that makes two clients the same: what they know of presence and tokens is shared by those who may know it.
#[derive(Clone, PartialEq, Eq)]
struct Identity {
    side: Side,
    /// Whose Secret is read again after a refusal.
    secret: Option<(String, String)>,
    credentials: Credentials,
    trust_bundle: Option<Vec<u8>>,
    tls: BTreeMap<Registry, registry::Tls>,
    allowed: BTreeSet<Registry>,
    overrides: Vec<registry::Override>,
}

struct Kept {
    identity: Identity,
    made: Instant,
    client: Arc<registry::Client>,
}

/// Reads Secrets and `ConfigMap`s and makes registry clients of them.
///
/// Clients are kept, so that the next sync has connections and tokens already. A changed Secret, bundle or spec is another
/// client, and one that had a part in a sync that failed is not used again.
#[derive(Clone)]
pub(super) struct Access {
    client: Client,
    limits: Arc<Limits>,
    helm: Helm,
    /// The one used last is last.
    kept: Arc<Mutex<Vec<Kept>>>,
}

impl Access {
    pub(super) fn new(client: Client, limits: Arc<Limits>) -> Self {
        Self { client, limits, helm: Helm::default(), kept: Arc::default() }
    }

    /// Renders charts with this.
    pub(super) fn rendering(self, helm: Helm) -> Self {
        Self { helm, ..self }
    }

    /// Clients of both sides, with what the object names.
    pub(super) async fn sides(&self, request: &Request) -> Result<Sides, Problem> {
        let source = self.side(request, Side::Source).await?;
        let target = self.side(request, Side::Target).await?;
        let signature_keys = match &request.source.signature_keys {
            Some((name, key)) => {
                let field = "spec.source.signatureKeys";
                let keys = self.value(&request.identity.namespace, name, key, field, "the keys there, in ASCII armor");
                Some(keys.await?.into_bytes())
            }
            None => None,
        };
        Ok(Sides { source, target, signature_keys, helm: self.helm.clone() })
    }

    /// Keeps these clients no longer.
    pub(super) fn forget(&self, sides: &Sides) {
        let used = |kept: &Kept| [&sides.source, &sides.target].into_iter().any(|side| Arc::ptr_eq(side, &kept.client));
        self.kept().retain(|kept| !used(kept));
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client of that identity, if there is one that is not too old.
    fn known(&self, identity: &Identity) -> Option<Arc<registry::Client>> {
        let mut all = self.kept();
        all.retain(|kept| kept.made.elapsed() < MAX_AGE);
        let found = all.iter().position(|kept| kept.identity == *identity)?;
        let kept = all.remove(found);
        let client = Arc::clone(&kept.client);
        all.push(kept);
        Some(client)
    }

    fn keep(&self, identity: Identity, client: &Arc<registry::Client>) {
        let mut all = self.kept();
        if all.len() >= MAX_CLIENTS {
            all.remove(0);
        }
        all.push(Kept { identity, made: Instant::now(), client: Arc::clone(client) });
    }

    async fn side(&self, request: &Request, side: Side) -> Result<Arc<registry::Client>, Problem> {
        let namespace = request.identity.namespace.clone();
        let (secret, bundle, field) = match side {
            Side::Source => (&request.source.credentials, &request.source.trust_bundle, "spec.source"),
            Side::Target => (&request.target.credentials, &request.target.trust_bundle, "spec.target"),
        };
        let credentials = match secret {
            Some(name) => self.credentials(&namespace, name, field).await?,
            None => Credentials::none(),
        };
        let trust_bundle = match bundle {
            Some((name, key)) => {
                let field = format!("{field}.trustBundle");
                Some(self.value(&namespace, name, key, &field, "the certificates there, in PEM").await?.into_bytes())
            }
            None => None,
        };
        let mut settings = crate::sync::client_settings(request, side);
        settings.credentials = credentials;
        settings.trust_bundle = trust_bundle;
        let identity = Identity {
            side,
            secret: secret.clone().map(|name| (namespace.clone(), name)),
            credentials: settings.credentials.clone(),
            trust_bundle: settings.trust_bundle.clone(),
            tls: settings.tls.clone(),
            allowed: settings.allowed.clone(),
            overrides: settings.overrides.clone(),
        };
        if let Some(client) = self.known(&identity) {
            return Ok(client);
        }
        if let Some(name) = secret.clone() {
            let access = self.clone();
            settings.reload = Some(Arc::new(move || {
                let (access, namespace, name) = (access.clone(), namespace.clone(), name.clone());
                Box::pin(async move {
                    access.credentials(&namespace, &name, field).await.map_err(|problem| problem.message.into())
                })
            }));
        }
        let made = registry::Client::new(settings, Arc::clone(&self.limits)).map_err(|error| {
            let reason = match error {
                ConfigError::NoCertificate { .. } | ConfigError::BadCertificate { .. } => {
                    ProblemReason::TrustBundleInvalid
                }
                ConfigError::UserAgent { .. } => ProblemReason::ReferenceUnreadable,
            };
            let message = format!("{field}.trustBundle: {}", crate::failure::chain(&error));
            Problem { reason, message }
        })?;
        let client = Arc::new(made);
        self.keep(identity, &client);
        Ok(client)
    }

    async fn credentials(&self, namespace: &str, name: &str, field: &str) -> Result<Credentials, Problem> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let problem = |reason, message: String| Problem { reason, message: format!("{field}.credentials: {message}") };
        let secret = timed(api.get_opt(name)).await.map_err(|text| {
            problem(ProblemReason::ReferenceUnreadable, format!("Secret `{name}` cannot be read: {text}"))
        })?;
        let Some(secret) = secret else {
            let message = format!("Secret `{name}` is not in namespace `{namespace}`: create it; no restart is needed");
            return Err(problem(ProblemReason::SecretNotFound, message));
        };
        let data: BTreeMap<_, _> = secret.data.unwrap_or_default();
        let Some(bytes) = data.get(AUTH_KEY) else {
            let message = format!(
                "Secret `{name}` has no key `{AUTH_KEY}`: make it with `kubectl create secret docker-registry`, or put an \
                 auth file under that key"
            );
            return Err(problem(ProblemReason::SecretInvalid, message));
        };
        Credentials::parse(&bytes.0).map_err(|error| {
            let text = crate::failure::chain(&error);
            problem(ProblemReason::SecretInvalid, format!("key `{AUTH_KEY}` of Secret `{name}`: {text}"))
        })
    }

    /// What is under a key of a `ConfigMap`; `advice` names what belongs there.
    async fn value(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
        field: &str,
        advice: &str,
    ) -> Result<String, Problem> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let problem = |reason, message: String| Problem { reason, message: format!("{field}: {message}") };
        let map = timed(api.get_opt(name)).await.map_err(|text| {
            problem(ProblemReason::ReferenceUnreadable, format!("ConfigMap `{name}` cannot be read: {text}"))
        })?;
        let Some(map) = map else {
            let message =
                format!("ConfigMap `{name}` is not in namespace `{namespace}`: create it; no restart is needed");
            return Err(problem(ProblemReason::ConfigMapNotFound, message));
        };
        let Some(value) = map.data.and_then(|mut data| data.remove(key)) else {
            let message = format!("ConfigMap `{name}` has no key `{key}`: add {advice}");
            return Err(problem(ProblemReason::ConfigMapNotFound, message));
        };
        Ok(value)
    }
}

async fn timed<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(super::apply::describe(&error)),
        Err(_elapsed) => Err(format!("the API server did not answer for {} s", TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::Server;
    use super::*;

    const SECRET: &str = "/api/v1/namespaces/team/secrets/login";

    fn secret(password: &str) -> Value {
        let auths = json!({"auths": {"registry.test": {"username": "me", "password": password}}}).to_string();
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login", "namespace": "team"},
               "data": {AUTH_KEY: k8s_openapi::ByteString(auths.into_bytes())}})
    }

    fn request(name: &str, tls: &str) -> Request {
        let object = json!({
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
            "metadata": {"name": name, "namespace": "team", "uid": name, "generation": 1},
            "spec": {
                "mirror": {"additionalImages": [{"name": "quay.test/a:1"}]},
                "target": {"registry": "registry.test", "credentials": {"name": "login"}, "tls": tls},
            },
        });
        Request::try_new(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_client_is_kept_for_those_with_the_same_credentials_and_settings_until_a_sync_fails() {
        let server = Arc::new(Server::default());
        server.put(SECRET, secret("one"));
        let access = Access::new(server.client(), Arc::default());
        let sides = async |name: &str, tls: &str| access.sides(&request(name, tls)).await.unwrap();
        let same = |one: &Sides, other: &Sides| {
            (Arc::ptr_eq(&one.source, &other.source), Arc::ptr_eq(&one.target, &other.target))
        };
        let first = sides("a", "Verify").await;
        assert_eq!(same(&first, &sides("a", "Verify").await), (true, true));
        assert_eq!(same(&first, &sides("b", "Verify").await), (true, true), "another object with the same rights");
        assert_eq!(same(&first, &sides("b", "SkipVerify").await), (true, false));
        server.put(SECRET, secret("two"));
        let second = sides("a", "Verify").await;
        assert_eq!(same(&first, &second), (true, false), "the Secret is read at each sync");
        access.forget(&second);
        assert_eq!(same(&second, &sides("a", "Verify").await), (false, false));
    }

    #[tokio::test]
    async fn keys_of_signers_come_from_a_config_map_that_is_named() {
        let server = Arc::new(Server::default());
        server.put(SECRET, secret("one"));
        let access = Access::new(server.client(), Arc::default());
        let mut request = request("a", "Verify");
        assert_eq!(access.sides(&request).await.unwrap().signature_keys, None);
        request.source.signature_keys = Some(("keys".to_owned(), "keys.asc".to_owned()));
        let problem = access.sides(&request).await.err().unwrap();
        assert_eq!(problem.reason, ProblemReason::ConfigMapNotFound);
        assert!(problem.message.starts_with("spec.source.signatureKeys: ConfigMap `keys`"), "{}", problem.message);
        let map = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": data});
        let path = "/api/v1/namespaces/team/configmaps/keys";
        server.put(path, map(json!({"other": "armor"})));
        let problem = access.sides(&request).await.err().unwrap();
        assert!(
            problem.message.ends_with("has no key `keys.asc`: add the keys there, in ASCII armor"),
            "{}",
            problem.message
        );
        server.put(path, map(json!({"keys.asc": "armor"})));
        assert_eq!(access.sides(&request).await.unwrap().signature_keys.as_deref(), Some(b"armor".as_slice()));
    }

    #[tokio::test]
    async fn not_more_clients_are_kept_than_the_bound_and_the_oldest_go_first() {
        let server = Arc::new(Server::default());
        server.put(SECRET, secret("one"));
        let access = Access::new(server.client(), Arc::default());
        let first = access.sides(&request("a", "Verify")).await.unwrap();
        for n in 0..MAX_CLIENTS {
            server.put(SECRET, secret(&n.to_string()));
            access.sides(&request("a", "Verify")).await.unwrap();
        }
        assert_eq!(access.kept().len(), MAX_CLIENTS);
        server.put(SECRET, secret("one"));
        let again = access.sides(&request("a", "Verify")).await.unwrap();
        assert!(Arc::ptr_eq(&first.source, &again.source), "used all the time");
        assert!(!Arc::ptr_eq(&first.target, &again.target));
    }
}
