//! What a `ServiceAccount` may do, compared with what it did.

use anyhow::Result;
use serde_json::Value;

use crate::cluster::{AuditEvent, Cluster};

/// One permission: a verb on a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Where it holds; `None` is the whole cluster.
    pub namespace: Option<String>,
    /// API group; empty for the core group.
    pub group: String,
    /// Plural name, with `/subresource` if it is one.
    pub resource: String,
    /// The verb.
    pub verb: String,
    /// The object names that it is limited to; none means all.
    pub names: Vec<String>,
    /// The role that grants it.
    pub role: String,
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, group, resource, verb, role, .. } = self;
        let place = namespace.as_deref().unwrap_or("all namespaces");
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "{verb} {resource}{dot}{group} in {place} (role {role})")
    }
}

impl Grant {
    /// Whether this permission covers a request.
    pub fn covers(&self, event: &AuditEvent) -> bool {
        let resource = match event.subresource.as_str() {
            "" => event.resource.clone(),
            subresource => format!("{}/{subresource}", event.resource),
        };
        let any_of = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        any_of(&self.verb, &event.verb)
            && any_of(&self.group, &event.group)
            && any_of(&self.resource, &resource)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == event.namespace)
            && (self.names.is_empty() || self.names.contains(&event.name))
    }
}

/// Every permission that roles and bindings give to an account by name. What all authenticated users may do is left out.
///
/// # Errors
/// When the API server does not answer.
pub async fn grants(cluster: &Cluster, namespace: &str, account: &str) -> Result<Vec<Grant>> {
    let kinds = "clusterrolebindings,rolebindings,clusterroles,roles";
    let text = cluster.kubectl(&["get", kinds, "--all-namespaces", "--output", "json"]).await?.ok()?;
    let list: Value = serde_json::from_str(&text)?;
    let items: Vec<&Value> = list.get("items").and_then(Value::as_array).into_iter().flatten().collect();
    let mut found = Vec::new();
    for binding in items.iter().filter(|item| text_at(item, "/kind").ends_with("RoleBinding")) {
        let scope = text_at(binding, "/metadata/namespace");
        let bound = list_at(binding, "/subjects").any(|subject| {
            text_at(subject, "/kind") == "ServiceAccount"
                && text_at(subject, "/name") == account
                && text_at(subject, "/namespace") == namespace
        });
        if !bound {
            continue;
        }
        let (kind, name) = (text_at(binding, "/roleRef/kind"), text_at(binding, "/roleRef/name"));
        let role = items.iter().find(|item| {
            text_at(item, "/kind") == kind
                && text_at(item, "/metadata/name") == name
                && (kind == "ClusterRole" || text_at(item, "/metadata/namespace") == scope)
        });
        for permissions in role.into_iter().flat_map(|role| list_at(role, "/rules")) {
            found.extend(expand(permissions, (!scope.is_empty()).then_some(scope), name));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The permissions that none of these requests used.
pub fn unused<'a>(grants: &'a [Grant], events: &[AuditEvent]) -> Vec<&'a Grant> {
    grants.iter().filter(|grant| !events.iter().any(|event| !event.is_refused() && grant.covers(event))).collect()
}

fn expand(permissions: &Value, namespace: Option<&str>, role: &str) -> Vec<Grant> {
    let texts =
        |key: &str| list_at(permissions, key).filter_map(Value::as_str).map(ToOwned::to_owned).collect::<Vec<_>>();
    let names = texts("/resourceNames");
    let mut found = Vec::new();
    for group in texts("/apiGroups") {
        for resource in texts("/resources") {
            for verb in texts("/verbs") {
                found.push(Grant {
                    namespace: namespace.map(ToOwned::to_owned),
                    group: group.clone(),
                    resource: resource.clone(),
                    verb,
                    names: names.clone(),
                    role: role.to_owned(),
                });
            }
        }
    }
    found
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list_at<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}
