//! What an installation needs, asked of the cluster it runs in: the kind is served, the account may do what the operator does,
//! and the operator is ready.
//!
//! Permissions are those of [`rbac`], each asked for by itself with a `SelfSubjectAccessReview`, so that the answer is the
//! authorizer's own. Nothing is changed.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use url::Url;

use crate::api::rbac::{self, Rule};
use crate::api::{API_VERSION, KIND, PLURAL};
use crate::failure::chain;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Questions at the same time.
const WIDTH: usize = 8;

/// How the operator was installed.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The operator's own namespace.
    pub namespace: String,
    /// Namespaces whose objects it watches.
    pub watched: BTreeSet<String>,
    /// What it writes to the cluster: resources of [`rbac::OUTPUTS`], outputs of [`rbac::OPTIONAL`].
    pub outputs: BTreeSet<String>,
    /// Secrets that it may read; empty for all.
    pub secrets: BTreeSet<String>,
    /// The name of its lease, if replicas elect one that works.
    pub lease: Option<String>,
    /// Where it says that it is ready, if that is asked.
    pub ready: Option<Url>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What should be so.
    pub what: String,
    /// Why it is not, and what to do.
    pub problem: Option<String>,
}

/// Looks at everything. An API server that does not answer is one finding, not one for each question.
pub async fn run(client: &Client, installation: &Installation) -> Vec<Finding> {
    let mut findings = match served(client).await {
        Ok(finding) => vec![finding],
        Err(problem) => return vec![Finding { what: "the API server answers".to_owned(), problem: Some(problem) }],
    };
    let asked = stream::iter(permissions(installation)).map(|permission| allowed(client, permission)).buffered(WIDTH);
    findings.extend(asked.collect::<Vec<_>>().await);
    if let Some(url) = &installation.ready {
        findings.push(ready(url).await);
    }
    findings
}

async fn served(client: &Client) -> Result<Finding, String> {
    let there = match timed(client.list_api_group_resources(API_VERSION)).await {
        Ok(list) => list.resources.iter().any(|resource| resource.name == PLURAL && resource.kind == KIND),
        Err(Unanswered::Refused(404, _)) => false,
        Err(Unanswered::Refused(_, text) | Unanswered::Silent(text)) => return Err(text),
    };
    let problem = (!there).then(|| MISSING.to_owned());
    Ok(Finding { what: format!("{PLURAL} of {API_VERSION} are served"), problem })
}

const MISSING: &str = "the CRD is not installed, or of another version: apply what `imageset-mirror crd` prints";

/// One verb on one resource somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Permission {
    /// `None` is the whole cluster.
    namespace: Option<String>,
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    /// One object; `None` is all of them.
    name: Option<String>,
    role: &'static str,
}

impl Permission {
    fn attributes(&self) -> ResourceAttributes {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (self.resource, None),
        };
        ResourceAttributes {
            namespace: self.namespace.clone(),
            group: Some(self.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            verb: Some(self.verb.to_owned()),
            name: self.name.clone(),
            ..ResourceAttributes::default()
        }
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "may {} {}{dot}{}", self.verb, self.resource, self.group)?;
        if let Some(name) = &self.name {
            write!(f, " `{name}`")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace `{namespace}`"),
            None => write!(f, " in the cluster"),
        }
    }
}

/// Everything that an installation has to be allowed.
fn permissions(installation: &Installation) -> Vec<Permission> {
    let mut all = Vec::new();
    let mut add = |namespace: Option<&str>, role, rules: &[Rule]| {
        for rule in rules {
            for resource in rule.resources {
                let names = names(installation, rule, resource);
                for verb in rule.verbs.iter().filter(|verb| wanted(installation, resource, verb)) {
                    all.extend(names.iter().map(|name| Permission {
                        namespace: namespace.map(str::to_owned),
                        group: rule.group,
                        resource,
                        verb,
                        name: name.clone(),
                        role,
                    }));
                }
            }
        }
    };
    add(None, "cluster", rbac::CLUSTER);
    for namespace in &installation.watched {
        add(Some(namespace.as_str()), "watched", rbac::WATCHED);
    }
    for optional in rbac::OPTIONAL.iter().filter(|optional| installation.outputs.contains(optional.output)) {
        add(optional.namespace, optional.role, optional.rules);
    }
    if installation.lease.is_some() {
        add(Some(installation.namespace.as_str()), "leader-election", rbac::OWN);
    }
    all
}

/// The names that a rule is for, as this installation has them; `None` is all objects.
fn names(installation: &Installation, rule: &Rule, resource: &str) -> Vec<Option<String>> {
    match resource {
        "secrets" if !installation.secrets.is_empty() => installation.secrets.iter().cloned().map(Some).collect(),
        "leases" if !rule.names.is_empty() => vec![installation.lease.clone()],
        _ if rule.names.is_empty() => vec![None],
        _ => rule.names.iter().map(|name| Some((*name).to_owned())).collect(),
    }
}

/// Outputs that are off are still looked at, and not written.
fn wanted(installation: &Installation, resource: &str, verb: &str) -> bool {
    let output = rbac::OUTPUTS.iter().any(|(name, _)| *name == resource);
    !output || installation.outputs.contains(resource) || rbac::LOOKING.contains(&verb)
}

async fn allowed(client: &Client, permission: Permission) -> Finding {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(permission.attributes()),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let problem = match timed(reviews.create(&PostParams::default(), &review)).await {
        Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => None,
        Ok(answer) => {
            let reason = answer.status.and_then(|status| status.evaluation_error.or(status.reason));
            let reason = reason.filter(|text| !text.is_empty()).map(|text| format!(" ({text})")).unwrap_or_default();
            Some(format!("not allowed{reason}: {}", remedy(&permission)))
        }
        Err(Unanswered::Refused(_, text) | Unanswered::Silent(text)) => Some(format!("cannot be asked: {text}")),
    };
    Finding { what: permission.to_string(), problem }
}

fn remedy(permission: &Permission) -> String {
    let (name, role) = (rbac::NAME, permission.role);
    let binding = if permission.namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
    let place = permission.namespace.as_ref().map(|it| format!(" in namespace `{it}`")).unwrap_or_default();
    let optional = rbac::OPTIONAL.iter().any(|optional| optional.role == permission.role);
    let output = optional || rbac::OUTPUTS.iter().any(|(name, _)| *name == permission.resource);
    let or = if output { ", or leave that output out of --output" } else { "" };
    format!("bind the role `{name}-{role}` to this account with a {binding}{place}{or}")
}

async fn ready(url: &Url) -> Finding {
    let ask = async {
        // A Service of this cluster is never behind a proxy.
        let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        let answer = client.get(url.clone()).send().await?;
        let status = answer.status();
        Ok::<_, reqwest::Error>((status, answer.text().await?))
    };
    let problem = match ask.await {
        Ok((status, _)) if status.is_success() => None,
        Ok((status, text)) => {
            let faults: Vec<&str> = text.lines().take(5).collect();
            Some(format!("status {}: {}; its log says more", status.as_u16(), faults.join("; ")))
        }
        Err(error) => {
            let text = chain(&error.without_url());
            Some(format!("{text}: is a pod of the operator running, and its Service in place?"))
        }
    };
    Finding { what: format!("the operator is ready, asked at {url}"), problem }
}

/// Why there is no answer of the API server.
enum Unanswered {
    /// It said no, with this status.
    Refused(u16, String),
    /// It said nothing that can be understood.
    Silent(String),
}

async fn timed<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Unanswered> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Error::Api(status))) => {
            let text = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
            Err(Unanswered::Refused(status.code, text))
        }
        Ok(Err(error)) => Err(Unanswered::Silent(chain(&error))),
        Err(_elapsed) => Err(Unanswered::Silent(format!("no answer for {} s", TIMEOUT.as_secs()))),
    }
}

#[cfg(test)]
mod tests;
