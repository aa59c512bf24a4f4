//! The mirror sets that a cluster holds, and what the operator publishes about them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait::openshift_config;

/// The annotation that names the `ImageSetMirror` a mirror set was written for.
pub const OWNER: &str = "mirror.openshift.io/owner-ref";

/// A kind of mirror set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ImageDigestMirrorSet`
    Digest,
    /// `ImageTagMirrorSet`
    Tag,
}

impl Kind {
    /// The name of the kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Digest => "ImageDigestMirrorSet",
            Self::Tag => "ImageTagMirrorSet",
        }
    }

    fn list(self) -> &'static str {
        match self {
            Self::Digest => "imageDigestMirrors",
            Self::Tag => "imageTagMirrors",
        }
    }

    /// An `Api` for the objects of this kind.
    ///
    /// # Errors
    /// When there is no client.
    pub async fn api(self, cluster: &Cluster) -> Result<Api<DynamicObject>> {
        let plural = match self {
            Self::Digest => "imagedigestmirrorsets",
            Self::Tag => "imagetagmirrorsets",
        };
        Ok(openshift_config(cluster.client().await?, self.name(), plural))
    }

    /// An object of somebody else with one rule.
    pub fn foreign(self, name: &str, source: &str, mirror: &str, policy: &str) -> Value {
        json!({
            "apiVersion": "config.openshift.io/v1",
            "kind": self.name(),
            "metadata": {"name": name},
            "spec": {self.list(): [{"source": source, "mirrors": [mirror], "mirrorSourcePolicy": policy}]},
        })
    }
}

/// The rules of an object, source to mirrors.
pub type Rules = BTreeMap<String, Vec<String>>;

/// The rules of one object.
pub fn rules_of(kind: Kind, object: &DynamicObject) -> Rules {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = object.data.pointer(&format!("/spec/{}", kind.list())).and_then(Value::as_array);
    let rule = |entry: &Value| {
        let mirrors = entry.get("mirrors").and_then(Value::as_array).into_iter().flatten().map(text).collect();
        (entry.get("source").map(text).unwrap_or_default(), mirrors)
    };
    entries.into_iter().flatten().map(rule).collect()
}

/// The objects of a kind that were written for an `ImageSetMirror`.
///
/// # Errors
/// When they cannot be listed.
pub async fn owned(cluster: &Cluster, kind: Kind, namespace: &str, name: &str) -> Result<Vec<DynamicObject>> {
    let owner = format!("{namespace}/{name}");
    let mut found = kind.api(cluster).await?.list(&kube::api::ListParams::default()).await?.items;
    found.retain(|object| object.annotations().get(OWNER) == Some(&owner));
    Ok(found)
}

/// All rules of a kind that were written for an `ImageSetMirror`.
///
/// # Errors
/// When they cannot be listed.
pub async fn owned_rules(cluster: &Cluster, kind: Kind, namespace: &str, name: &str) -> Result<Rules> {
    let objects = owned(cluster, kind, namespace, name).await?;
    Ok(objects.iter().flat_map(|object| rules_of(kind, object)).collect())
}

/// The data of a `ConfigMap` that the operator publishes beside its object, such as `<name>-manifests`; empty without one.
///
/// # Errors
/// When it cannot be read.
pub async fn published(cluster: &Cluster, namespace: &str, name: &str) -> Result<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client().await?, namespace);
    let found = api.get_opt(name).await.with_context(|| format!("reading ConfigMap `{name}`"))?;
    Ok(found.and_then(|map| map.data).unwrap_or_default())
}
