//! Waiting for conditions, and reading the conditions of our objects.
//!
//! Nothing in the suite sleeps for a fixed time: everything polls for what it needs and gives up at a deadline, saying
//! what it waited for and what it last saw.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

/// How long a condition may take that involves a start or a sync: generous, since no test asserts time.
pub const LONG: Duration = Duration::from_mins(3);

/// How long a condition may take that depends on one request or one reconcile.
pub const SHORT: Duration = Duration::from_mins(1);

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(250);

/// Calls `attempt` until it yields a value, or until `deadline` has passed.
///
/// An error counts as "not yet"; the last one is part of the final message.
///
/// # Errors
/// When the deadline has passed.
pub async fn eventually<T, F, Fut>(deadline: Duration, what: &str, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        let last = match tokio::time::timeout(left.max(Duration::from_secs(1)), attempt()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("the last attempt did not return".to_owned()),
        };
        if start.elapsed() >= deadline {
            let last = last.map(|error| format!("; last error: {error}")).unwrap_or_default();
            bail!("waited {} s for {what}, in vain{last}", deadline.as_secs());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// One entry of `status.conditions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Ready`, `Reconciling`, …
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The machine-readable reason.
    pub reason: String,
    /// The sentence for people.
    pub message: String,
    /// The generation that this condition speaks about.
    pub observed_generation: Option<i64>,
}

/// An `Api` for `ImageSetMirror` objects of one namespace, without the operator's own types.
pub fn image_set_mirrors(client: kube::Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("mirror.openshift.io", "v1alpha1", "ImageSetMirror");
    Api::namespaced_with(client, namespace, &ApiResource::from_gvk_with_plural(&kind, "imagesetmirrors"))
}

/// An `Api` for a cluster-scoped kind of `config.openshift.io/v1`, such as `ImageDigestMirrorSet`.
pub fn openshift_config(client: kube::Client, kind: &str, plural: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("config.openshift.io", "v1", kind);
    Api::all_with(client, &ApiResource::from_gvk_with_plural(&kind, plural))
}

/// The conditions of any object.
pub fn conditions(object: &DynamicObject) -> Vec<Condition> {
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let entries = object.data.pointer("/status/conditions").and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .map(|entry| Condition {
            kind: text(entry, "type"),
            status: text(entry, "status"),
            reason: text(entry, "reason"),
            message: text(entry, "message"),
            observed_generation: entry.get("observedGeneration").and_then(Value::as_i64),
        })
        .collect()
}

/// The condition of that type, if the object has it.
pub fn condition(object: &DynamicObject, kind: &str) -> Option<Condition> {
    conditions(object).into_iter().find(|condition| condition.kind == kind)
}

/// Whether the condition of that type has that status for the object's current generation.
pub fn has_condition(object: &DynamicObject, kind: &str, status: &str) -> bool {
    let generation = object.metadata.generation;
    condition(object, kind).is_some_and(|found| {
        found.status == status && (found.observed_generation.is_none() || found.observed_generation == generation)
    })
}

/// Waits until the named object meets `accept`, and returns it; the message at the deadline shows its last conditions.
///
/// # Errors
/// When the deadline has passed.
pub async fn until(
    api: &Api<DynamicObject>,
    name: &str,
    deadline: Duration,
    what: &str,
    accept: impl Fn(&DynamicObject) -> bool,
) -> Result<DynamicObject> {
    let accept = &accept;
    eventually(deadline, &format!("`{name}` to be {what}"), || async move {
        let object = api.get(name).await.with_context(|| format!("reading `{name}`"))?;
        if accept(&object) {
            return Ok(Some(object));
        }
        let status = object.data.get("status").cloned().unwrap_or_default();
        bail!("status is {status}")
    })
    .await
}

/// Waits until the object is Ready for its current generation.
///
/// # Errors
/// When the deadline has passed.
pub async fn until_ready(api: &Api<DynamicObject>, name: &str, deadline: Duration) -> Result<DynamicObject> {
    until(api, name, deadline, "Ready", |object| has_condition(object, "Ready", "True")).await
}

/// Waits until a condition of the current generation has this status and reason.
///
/// # Errors
/// When the deadline has passed.
pub async fn until_reason(
    api: &Api<DynamicObject>,
    name: &str,
    (kind, status, reason): (&str, &str, &str),
    deadline: Duration,
) -> Result<DynamicObject> {
    until(api, name, deadline, &format!("{kind}={status}/{reason}"), |object| {
        has_condition(object, kind, status) && condition(object, kind).is_some_and(|found| found.reason == reason)
    })
    .await
}

/// Waits until no object of that name exists any more.
///
/// # Errors
/// When the deadline has passed.
pub async fn until_gone(api: &Api<DynamicObject>, name: &str, deadline: Duration) -> Result<()> {
    eventually(deadline, &format!("`{name}` to be gone"), || async move {
        match api.get(name).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Some(())),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(None),
        }
    })
    .await
}
