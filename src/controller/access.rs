//! What an object names in its namespace: credentials and certificates, read at the start of each sync and again after a
//! registry's refusal, never watched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

use crate::registry::{self, ConfigError, Credentials, Limits, Side};
use crate::request::Request;
use crate::sync::Sides;

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

/// Reads Secrets and `ConfigMap`s and makes registry clients of them.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) client: Client,
    pub(super) limits: Arc<Limits>,
}

impl Access {
    /// Clients of both sides, with what the object names.
    pub(super) async fn sides(&self, request: &Request) -> Result<Sides, Problem> {
        Ok(Sides {
            source: Arc::new(self.side(request, Side::Source).await?),
            target: Arc::new(self.side(request, Side::Target).await?),
        })
    }

    async fn side(&self, request: &Request, side: Side) -> Result<registry::Client, Problem> {
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
            Some((name, key)) => Some(self.bundle(&namespace, name, key, field).await?),
            None => None,
        };
        let mut settings = crate::sync::client_settings(request, side);
        settings.credentials = credentials;
        settings.trust_bundle = trust_bundle;
        if let Some(name) = secret.clone() {
            let access = self.clone();
            settings.reload = Some(Arc::new(move || {
                let (access, namespace, name) = (access.clone(), namespace.clone(), name.clone());
                Box::pin(async move {
                    access.credentials(&namespace, &name, field).await.map_err(|problem| problem.message.into())
                })
            }));
        }
        registry::Client::new(settings, Arc::clone(&self.limits)).map_err(|error| {
            let reason = match error {
                ConfigError::NoCertificate { .. } | ConfigError::BadCertificate { .. } => {
                    ProblemReason::TrustBundleInvalid
                }
                ConfigError::UserAgent { .. } => ProblemReason::ReferenceUnreadable,
            };
            let message = format!("{field}.trustBundle: {}", crate::failure::chain(&error));
            Problem { reason, message }
        })
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

    async fn bundle(&self, namespace: &str, name: &str, key: &str, field: &str) -> Result<Vec<u8>, Problem> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let problem = |reason, message: String| Problem { reason, message: format!("{field}.trustBundle: {message}") };
        let map = timed(api.get_opt(name)).await.map_err(|text| {
            problem(ProblemReason::ReferenceUnreadable, format!("ConfigMap `{name}` cannot be read: {text}"))
        })?;
        let Some(map) = map else {
            let message =
                format!("ConfigMap `{name}` is not in namespace `{namespace}`: create it; no restart is needed");
            return Err(problem(ProblemReason::ConfigMapNotFound, message));
        };
        let Some(bundle) = map.data.and_then(|mut data| data.remove(key)) else {
            let message = format!("ConfigMap `{name}` has no key `{key}`: add the certificates there, in PEM");
            return Err(problem(ProblemReason::ConfigMapNotFound, message));
        };
        Ok(bundle.into_bytes())
    }
}

async fn timed<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(super::apply::describe(&error)),
        Err(_elapsed) => Err(format!("the API server did not answer for {} s", TIMEOUT.as_secs())),
    }
}
