//! The `ConfigMap` that holds what is written, for people, for fleets, and for repair after a restart.
//!
//! | key | holds |
//! | --- | --- |
//! | `idms.yaml`, `itms.yaml` | the objects as they are written, or would be if they were |
//! | `idms-pending.yaml`, `itms-pending.yaml` | objects of which something is held back, complete |
//! | `applied.yaml` | kinds and names of the objects of the first two keys that are written to this cluster |
//!
//! The bytes depend on nothing but that and the plan's digest.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::set::{Entries, MirrorKind, MirrorSet};
use crate::oci::Digest;
use crate::request::Identity;

/// Key of the list of what is written.
const APPLIED: &str = "applied.yaml";
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
        let header = format!("# ImageSetMirror {}/{}\n# Plan {plan}\n", identity.namespace, identity.name);
        let value = |(key, documents): (String, Vec<String>)| {
            let pending =
                if key.contains("pending") { "# Held back; the status of the object says why.\n" } else { "" };
            (key, format!("{header}{pending}---\n{}", documents.join("---\n")))
        };
        self.documents.into_iter().map(value).collect()
    }
}

/// All keys that the data can have.
pub fn manifest_keys() -> impl Iterator<Item = String> {
    let of_kind = |kind: MirrorKind| ["", "-pending"].map(|held| format!("{}{held}.yaml", kind.short()));
    MirrorKind::ALL.into_iter().flat_map(of_kind).chain([APPLIED.to_owned()])
}

/// What a `ConfigMap` of manifests holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// The objects that are written to this cluster.
    pub applied: Vec<MirrorSet>,
    /// The objects that are only published.
    pub published: Vec<MirrorSet>,
}

impl Stored {
    /// Reads back what [`super::Desired::manifests`] gave; nothing from empty data. Objects that are held back are not
    /// part of it.
    ///
    /// # Errors
    /// If a value is not what was written there.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, ManifestsError> {
        let error = |key: &str| {
            let key = key.to_owned();
            |source| ManifestsError { key, source }
        };
        let applied: Vec<ObjectName> = match data.get(APPLIED) {
            Some(list) => serde_yaml::from_str(list).map_err(error(APPLIED))?,
            None => Vec::new(),
        };
        let mut stored = Self::default();
        for kind in MirrorKind::ALL {
            let key = format!("{}.yaml", kind.short());
            let Some(text) = data.get(&key) else { continue };
            for document in serde_yaml::Deserializer::from_str(text) {
                let set = match kind {
                    MirrorKind::Digest => Deserialize::deserialize(document).map(MirrorSet::Digest),
                    MirrorKind::Tag => Deserialize::deserialize(document).map(MirrorSet::Tag),
                };
                let set = set.map_err(error(&key))?;
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
