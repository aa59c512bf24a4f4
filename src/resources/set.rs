//! Mirror sets as values: kinds, entries, names, marks, and conversion from and to the cluster's types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use crate::api::openshift::{
    ImageContentSourcePolicy, ImageDigestMirrorSet, ImageDigestMirrorSetSpec, ImageMirrors, ImageTagMirrorSet,
    ImageTagMirrorSetSpec,
};
use crate::api::{MANAGED_BY, MANAGED_BY_LABEL, MirrorSourcePolicy, OWNER_LABEL, OWNER_REF_ANNOTATION, owner_hash};
use crate::oci::Digest;
use crate::plan::Category;
use crate::request::Identity;

/// Longest name of an object.
const MAX_NAME: usize = 253;

/// The two kinds of mirror sets that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MirrorKind {
    /// For pulls by digest.
    #[serde(rename = "ImageDigestMirrorSet")]
    Digest,
    /// For pulls by tag.
    #[serde(rename = "ImageTagMirrorSet")]
    Tag,
}

impl MirrorKind {
    /// Both, in the order in which they are written.
    pub const ALL: [Self; 2] = [Self::Digest, Self::Tag];

    /// The kind's name in the API.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Digest => "ImageDigestMirrorSet",
            Self::Tag => "ImageTagMirrorSet",
        }
    }

    /// The short name, also the stem of keys in the `ConfigMap` of manifests.
    pub fn short(self) -> &'static str {
        match self {
            Self::Digest => "idms",
            Self::Tag => "itms",
        }
    }
}

impl fmt::Display for MirrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// Mirrors of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What nodes are asked for.
    pub source: String,
    /// Where they look, in order.
    pub mirrors: Vec<String>,
    /// Whether they may look at the source after that.
    pub policy: MirrorSourcePolicy,
}

impl Entry {
    /// True if nodes may not look at the source.
    pub fn never(&self) -> bool {
        self.policy == MirrorSourcePolicy::NeverContactSource
    }

    /// True if nodes take it into account, its policy included.
    pub fn real(&self) -> bool {
        self.mirrors.iter().any(|mirror| *mirror != self.source)
    }
}

/// Entries by source.
pub type Entries = BTreeMap<String, Entry>;

/// An object to apply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MirrorSet {
    /// For pulls by digest.
    Digest(ImageDigestMirrorSet),
    /// For pulls by tag.
    Tag(ImageTagMirrorSet),
}

impl MirrorSet {
    /// The kind.
    pub fn kind(&self) -> MirrorKind {
        match self {
            Self::Digest(_) => MirrorKind::Digest,
            Self::Tag(_) => MirrorKind::Tag,
        }
    }

    /// The name.
    pub fn name(&self) -> String {
        match self {
            Self::Digest(set) => set.name_any(),
            Self::Tag(set) => set.name_any(),
        }
    }

    /// The object of `identity` with these entries, labels and marks and nothing else.
    pub(super) fn new(kind: MirrorKind, name: &str, identity: &Identity, entries: &Entries) -> Self {
        let mirrors = entries.values().map(|entry| ImageMirrors {
            source: entry.source.clone(),
            mirrors: entry.mirrors.clone(),
            mirror_source_policy: Some(entry.policy),
        });
        let mirrors = mirrors.collect();
        let mut set = match kind {
            MirrorKind::Digest => {
                let spec = ImageDigestMirrorSetSpec { image_digest_mirrors: mirrors };
                Self::Digest(ImageDigestMirrorSet::new(name, spec))
            }
            MirrorKind::Tag => {
                let spec = ImageTagMirrorSetSpec { image_tag_mirrors: mirrors };
                Self::Tag(ImageTagMirrorSet::new(name, spec))
            }
        };
        match &mut set {
            Self::Digest(set) => mark(&mut set.metadata, identity),
            Self::Tag(set) => mark(&mut set.metadata, identity),
        }
        set
    }

    /// The entries by source.
    pub fn entries(&self) -> Entries {
        match self {
            Self::Digest(set) => by_source(entries(&set.spec.image_digest_mirrors)),
            Self::Tag(set) => by_source(entries(&set.spec.image_tag_mirrors)),
        }
    }
}

/// A mirror set of the cluster, whoever wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// The kind in the API: one of three.
    pub(super) api_kind: &'static str,
    /// What it is for.
    pub(super) kind: MirrorKind,
    /// The name.
    pub(super) name: String,
    /// True if it carries the mark of the object in question.
    pub(super) own: bool,
    /// True if its labels are those that are written now.
    pub(super) labelled: bool,
    /// The entries, as they stand.
    pub(super) entries: Vec<Entry>,
}

impl Known {
    pub(super) fn digest(set: &ImageDigestMirrorSet, identity: &Identity) -> Self {
        let entries = entries(&set.spec.image_digest_mirrors);
        Self::new(MirrorKind::Digest.kind(), MirrorKind::Digest, set, identity, entries)
    }

    pub(super) fn tag(set: &ImageTagMirrorSet, identity: &Identity) -> Self {
        Self::new(MirrorKind::Tag.kind(), MirrorKind::Tag, set, identity, entries(&set.spec.image_tag_mirrors))
    }

    pub(super) fn legacy(set: &ImageContentSourcePolicy, identity: &Identity) -> Self {
        let entries = entries(&set.spec.repository_digest_mirrors);
        Self::new("ImageContentSourcePolicy", MirrorKind::Digest, set, identity, entries)
    }

    fn new(
        api_kind: &'static str,
        kind: MirrorKind,
        object: &impl kube::ResourceExt,
        identity: &Identity,
        entries: Vec<Entry>,
    ) -> Self {
        let label = |key, value: &str| object.labels().get(key).is_some_and(|found| found == value);
        let owner = owner_hash(&identity.namespace, &identity.name);
        Self {
            api_kind,
            kind,
            name: object.name_any(),
            own: is_own(object, identity) && api_kind == kind.kind(),
            labelled: label(MANAGED_BY_LABEL, MANAGED_BY) && label(OWNER_LABEL, &owner),
            entries,
        }
    }

    /// True if this is the object of that kind and name.
    pub(super) fn is(&self, kind: MirrorKind, name: &str) -> bool {
        self.api_kind == kind.kind() && self.name == name
    }

    /// For messages.
    pub(super) fn title(&self) -> String {
        format!("{} `{}`", self.api_kind, self.name)
    }
}

fn owner_ref(identity: &Identity) -> String {
    format!("{}/{}", identity.namespace, identity.name)
}

/// Marks an object as written for `identity`.
pub(super) fn mark(metadata: &mut ObjectMeta, identity: &Identity) {
    let owner = owner_hash(&identity.namespace, &identity.name);
    let labels = [(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()), (OWNER_LABEL.to_owned(), owner)];
    metadata.labels = Some(labels.into());
    metadata.annotations = Some([(OWNER_REF_ANNOTATION.to_owned(), owner_ref(identity))].into());
}

/// True if an object was written for `identity`.
pub(super) fn is_own(object: &impl kube::ResourceExt, identity: &Identity) -> bool {
    object.annotations().get(OWNER_REF_ANNOTATION).is_some_and(|owner| *owner == owner_ref(identity))
}

fn entries(mirrors: &[ImageMirrors]) -> Vec<Entry> {
    let entry = |mirrors: &ImageMirrors| Entry {
        source: mirrors.source.clone(),
        mirrors: mirrors.mirrors.clone(),
        policy: mirrors.mirror_source_policy.unwrap_or_default(),
    };
    mirrors.iter().map(entry).collect()
}

/// One entry for each source.
pub(super) fn by_source(entries: impl IntoIterator<Item = Entry>) -> Entries {
    let mut found = Entries::new();
    for entry in entries {
        match found.get_mut(&entry.source) {
            Some(known) => {
                known.policy = known.policy.max(entry.policy);
                append(&mut known.mirrors, &entry.mirrors);
            }
            None => {
                found.insert(entry.source.clone(), entry);
            }
        }
    }
    found
}

/// Appends what is not there yet.
pub(super) fn append(mirrors: &mut Vec<String>, more: &[String]) {
    let mut known: BTreeSet<_> = mirrors.iter().cloned().collect();
    mirrors.extend(more.iter().filter(|mirror| known.insert((*mirror).clone())).cloned());
}

/// The name of the mirror sets of a category.
pub fn object_name(identity: &Identity, category: Category) -> String {
    let category = match category {
        Category::Generic => "generic",
        Category::Release => "release",
        Category::Operator => "operator",
        Category::Direct => "direct",
    };
    derived_name(identity, category)
}

/// `<namespace>-<name>-<category>-<hash8>`, a valid name also for the longest namespace and name.
///
/// The hash keeps `a-b`/`c` and `a`/`b-c` apart.
pub(super) fn derived_name(identity: &Identity, category: &str) -> String {
    let hash = Digest::of(owner_ref(identity).as_bytes());
    let tail = format!("-{category}-{}", hash.hex().get(..8).unwrap_or_default());
    let stem = format!("{}-{}", identity.namespace, identity.name);
    let stem = stem.get(..MAX_NAME - tail.len()).unwrap_or(&stem).trim_end_matches(['.', '-']);
    format!("{stem}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(namespace: &str, name: &str) -> Identity {
        Identity { namespace: namespace.to_owned(), name: name.to_owned(), uid: String::new() }
    }

    #[test]
    fn names_are_unique_and_valid() {
        assert_eq!(object_name(&identity("ns", "name"), Category::Generic), "ns-name-generic-cb4d4463");
        let one = object_name(&identity("a-b", "c"), Category::Generic);
        let other = object_name(&identity("a", "b-c"), Category::Generic);
        assert_ne!(one, other);
        let long = object_name(&identity(&"n".repeat(63), &"x.".repeat(126)), Category::Generic);
        assert!(long.len() <= 253 && !long.contains(".-") && long.contains("x-generic-"), "{long}");
    }
}
