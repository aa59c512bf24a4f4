//! The `ConfigMap` that holds what is written, for people, for fleets, and for repair after a restart.
//!
//! | key | holds |
//! | --- | --- |
//! | `idms.yaml`, `itms.yaml` | the objects as they are written, or would be if they were |
//! | `idms-pending.yaml`, `itms-pending.yaml` | objects of which something is held back, complete |
//! | `signatures.yaml` | `ConfigMap`s with release signatures, whether they are written or not |
//! | `catalogsources.yaml`, `clustercatalogs.yaml` | catalogs of operators, whether they are written or not |
//! | `updateservice.yaml` | the `UpdateService`, whether it is written or not |
//! | `applied.yaml` | kinds and names of the objects of `idms.yaml` and `itms.yaml` that are written to this cluster |
//!
//! The bytes depend on nothing but that and the plan's digest.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::extras::Extra;
use super::set::{Entries, MirrorKind, MirrorSet};
use crate::api::openshift::UpdateService;
use crate::oci::Digest;
use crate::request::Identity;

/// Key of the list of what is written.
const APPLIED: &str = "applied.yaml";
/// Key of release signatures.
pub(super) const SIGNATURES: &str = "signatures.yaml";
/// Key of `CatalogSource`s.
pub(super) const CATALOG_SOURCES: &str = "catalogsources.yaml";
/// Key of `ClusterCatalog`s.
pub(super) const CLUSTER_CATALOGS: &str = "clustercatalogs.yaml";
/// Key of the `UpdateService`.
pub(super) const UPDATE_SERVICE: &str = "updateservice.yaml";
/// Most bytes of all values together that a `ConfigMap` is given.
pub const CONFIG_MAP_LIMIT: usize = 900 * 1024;

/// An object by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectName {
    /// The kind.
    pub kind: MirrorKind,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind, self.name)
    }
}

/// Why a `ConfigMap` of manifests cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading key `{key}` of the manifests")]
pub struct ManifestsError {
    /// The key.
    pub key: String,
    /// What is wrong.
    #[source]
    pub source: serde_yaml::Error,
}

/// Puts the data of the `ConfigMap` together.
#[derive(Default)]
pub(super) struct Manifests {
    documents: BTreeMap<String, Vec<String>>,
    applied: Vec<ObjectName>,
}

impl Manifests {
    /// Adds an object that is written to this cluster.
    pub(super) fn applied(&mut self, set: &MirrorSet) {
        self.applied.push(ObjectName { kind: set.kind(), name: set.name() });
        self.published(set);
    }

    /// Adds an object that is only published.
    pub(super) fn published(&mut self, set: &MirrorSet) {
        self.push(format!("{}.yaml", set.kind().short()), set);
    }

    /// Adds an object of which something is held back.
    pub(super) fn pending(&mut self, set: &MirrorSet) {
        self.push(format!("{}-pending.yaml", set.kind().short()), set);
    }

    fn push(&mut self, key: String, set: &MirrorSet) {
        // Objects are maps of strings and lists; nothing in them can fail to be written.
        self.documents.entry(key).or_default().extend(serde_yaml::to_string(set).ok());
    }

    /// The data, each value with a comment that names object and plan.
    pub(super) fn finish(mut self, identity: &Identity, plan: &Digest) -> BTreeMap<String, String> {
        self.applied.sort_unstable();
        if !self.applied.is_empty() {
            let applied = serde_yaml::to_string(&self.applied).ok();
            self.documents.entry(APPLIED.to_owned()).or_default().extend(applied);
        }
        let value = |(key, documents): (String, Vec<String>)| {
            let pending =
                if key.contains("pending") { "# Held back; the status of the object says why.\n" } else { "" };
            (key, text(identity, plan, pending, &documents))
        };
        self.documents.into_iter().map(value).collect()
    }
}

/// Documents under a comment that names object and plan.
pub(super) fn text(identity: &Identity, plan: &Digest, more: &str, documents: &[String]) -> String {
    let Identity { namespace, name, .. } = identity;
    format!("# ImageSetMirror {namespace}/{name}\n# Plan {plan}\n{more}---\n{}", documents.join("---\n"))
}

/// Keys of what is not a mirror set.
const OTHERS: [&str; 5] = [APPLIED, SIGNATURES, CATALOG_SOURCES, CLUSTER_CATALOGS, UPDATE_SERVICE];

/// All keys that the data can have.
pub fn manifest_keys() -> impl Iterator<Item = String> {
    let of_kind = |kind: MirrorKind| ["", "-pending"].map(|held| format!("{}{held}.yaml", kind.short()));
    MirrorKind::ALL.into_iter().flat_map(of_kind).chain(OTHERS.map(str::to_owned))
}

/// The keys of objects that a cluster is to have: neither what is held back nor the list of what is written.
pub fn object_keys() -> impl Iterator<Item = String> {
    manifest_keys().filter(|key| key != APPLIED && !key.contains("pending"))
}

/// What is under a key.
fn documents<T: DeserializeOwned>(data: &BTreeMap<String, String>, key: &str) -> Result<Vec<T>, ManifestsError> {
    let documents = data.get(key).into_iter().flat_map(|text| serde_yaml::Deserializer::from_str(text));
    let read = |document| T::deserialize(document).map_err(|source| ManifestsError { key: key.to_owned(), source });
    documents.map(read).collect()
}

/// What a `ConfigMap` of manifests holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// The objects that are written to this cluster.
    pub applied: Vec<MirrorSet>,
    /// The objects that are only published.
    pub published: Vec<MirrorSet>,
    /// Release signatures.
    pub signatures: Vec<ConfigMap>,
    /// The `UpdateService`.
    pub update_service: Option<UpdateService>,
    /// `CatalogSource`s and `ClusterCatalog`s.
    pub catalogs: Vec<Extra>,
}

impl Stored {
    /// Reads back what [`super::Desired::manifests`] gave; nothing from empty data. Objects that are held back are not
    /// part of it.
    ///
    /// # Errors
    /// If a value is not what was written there.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, ManifestsError> {
        let applied: Vec<ObjectName> = documents(data, APPLIED)?.pop().unwrap_or_default();
        let mut stored = Self { signatures: documents(data, SIGNATURES)?, ..Self::default() };
        stored.update_service = documents(data, UPDATE_SERVICE)?.pop();
        stored.catalogs.extend(documents(data, CATALOG_SOURCES)?.into_iter().map(Extra::CatalogSource));
        stored.catalogs.extend(documents(data, CLUSTER_CATALOGS)?.into_iter().map(Extra::ClusterCatalog));
        for kind in MirrorKind::ALL {
            let key = format!("{}.yaml", kind.short());
            let sets: Vec<MirrorSet> = match kind {
                MirrorKind::Digest => documents(data, &key)?.into_iter().map(MirrorSet::Digest).collect(),
                MirrorKind::Tag => documents(data, &key)?.into_iter().map(MirrorSet::Tag).collect(),
            };
            for set in sets {
                let applied = applied.contains(&ObjectName { kind, name: set.name() });
                if applied { &mut stored.applied } else { &mut stored.published }.push(set);
            }
        }
        Ok(stored)
    }

    /// The entries of one object.
    pub(super) fn entries(&self, object: &ObjectName) -> Entries {
        let sets = self.applied.iter().chain(&self.published);
        let found = sets.filter(|set| set.kind() == object.kind && set.name() == object.name);
        found.flat_map(MirrorSet::entries).collect()
    }
}
