//! What the cluster is to hold, decided from values alone.
//!
//! [`Desired::new`] looks at a plan, at what of it is in the target, and at a snapshot of the cluster, and says which mirror
//! sets to apply, which to remove, and what is held back and why. It guarantees:
//!
//! - A rule is new only when every image behind it is in the target. A rule that is there stays, whatever fails: only
//!   `removal: Remove` takes rules away, and only when everything was resolved and is in the target.
//! - Nothing is written that nodes could not merge with the other mirror sets of the cluster.
//! - Under `disruption: ReloadOnly` nothing is written that drains nodes; what can be written without goes ahead.
//! - The same input gives the same bytes, and applying the result changes nothing the next time.
//!
//! It knows no client. With no finished sync there is nothing to decide from; [`repair`] then works from what was published.

use std::collections::BTreeSet;

use crate::api::openshift::{
    Image, ImageContentSourcePolicy, ImageDigestMirrorSet, ImageTagMirrorSet, MachineConfigPool, RegistrySources,
};

pub mod catalogs;
pub mod containerd;
mod desired;
pub mod extras;
mod fit;
mod manifests;
mod merge;
pub mod mirror_sets;
mod preflight;
pub mod releases;
mod repair;
mod set;
pub mod signatures;
mod update_service;

pub use catalogs::{Catalog, CatalogKind, Template};
pub use containerd::{ContainerdHosts, HostsInputs, containerd_hosts};
pub use desired::{Desired, Inputs};
pub use extras::{Extra, ExtraInputs, ExtraSnapshot, Extras, Fate, extra_repair};
pub use manifests::{CONFIG_MAP_LIMIT, ManifestsError, ObjectName, Stored, manifest_keys, object_keys};
pub use merge::{Impact, MACHINE_CONFIG_LIMIT, Merged};
pub use releases::{Release, Releases};
pub use repair::{Repair, Withdrawal, repair, withdraw};
pub use set::{Entries, Entry, MirrorKind, MirrorSet, object_name};

/// Whether a kind can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// It can.
    #[default]
    Writable,
    /// The cluster does not have the kind.
    NotServed,
    /// The namespace of the object may not write to the cluster.
    NamespaceNotAllowed,
    /// An admission policy refuses it.
    AdmissionDenied,
}

impl Access {
    /// Why nothing is written, if so, and that in words.
    fn refusal(self) -> Option<(HeldReason, &'static str)> {
        match self {
            Self::Writable => None,
            Self::NotServed => Some((HeldReason::KindNotServed, "the cluster does not have this kind")),
            Self::NamespaceNotAllowed => {
                Some((HeldReason::NamespaceNotAllowed, "objects of this namespace may not write to the cluster"))
            }
            Self::AdmissionDenied => {
                Some((HeldReason::AdmissionDenied, "an admission policy of the cluster refuses it"))
            }
        }
    }
}

/// The cluster as far as mirror sets are concerned.
#[derive(Clone, Debug, Default)]
pub struct ClusterSnapshot {
    /// All of them, ours and foreign.
    pub idms: Vec<ImageDigestMirrorSet>,
    /// All of them, ours and foreign.
    pub itms: Vec<ImageTagMirrorSet>,
    /// All of them.
    pub icsp: Vec<ImageContentSourcePolicy>,
    /// The image configuration named `cluster`.
    pub images: Option<Image>,
    /// The pools.
    pub pools: Vec<MachineConfigPool>,
    /// Whether IDMS can be written.
    pub idms_access: Access,
    /// Whether ITMS can be written.
    pub itms_access: Access,
}

impl ClusterSnapshot {
    /// Whether a kind can be written.
    pub fn access(&self, kind: MirrorKind) -> Access {
        match kind {
            MirrorKind::Digest => self.idms_access,
            MirrorKind::Tag => self.itms_access,
        }
    }

    fn lists(&self) -> RegistrySources {
        self.images.as_ref().map(|images| images.spec.registry_sources.clone()).unwrap_or_default()
    }

    /// How far nodes have taken over what was written, such as `3/6 nodes updated`; none if all have, or without pools.
    pub fn rollout(&self) -> Option<String> {
        let statuses = self.pools.iter().filter_map(|pool| pool.status.as_ref());
        let (all, updated, degraded) = statuses.fold((0, 0, 0), |(all, updated, degraded), status| {
            let degraded = degraded + status.degraded_machine_count;
            (all + status.machine_count, updated + status.updated_machine_count, degraded)
        });
        let paused = self.pools.iter().any(|pool| pool.spec.paused);
        let suffix = match (degraded, paused) {
            (0, false) => String::new(),
            (0, true) => ", a pool is paused".to_owned(),
            (degraded, _) => format!(", {degraded} degraded"),
        };
        (updated < all || degraded > 0).then(|| format!("{updated}/{all} nodes updated{suffix}"))
    }
}

/// An object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Apply {
    /// The object.
    pub object: MirrorSet,
    /// False if the cluster has exactly this already, and nothing needs to be written.
    pub changed: bool,
    /// What nodes do when it is written.
    pub impact: Impact,
}

/// Why an output is not in the cluster as it is wanted. Ready does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldReason {
    /// The cluster does not have the kind; the object is published.
    KindNotServed,
    /// The namespace may not write to the cluster; the object is published.
    NamespaceNotAllowed,
    /// An admission policy refuses it; the object is published.
    AdmissionDenied,
    /// Writing all of it would drain nodes.
    PendingDisruption,
    /// The mirror sets of the cluster together would grow beyond what nodes can be given.
    TooLarge,
}

/// An output that is not written, or not completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What is held back.
    pub object: ObjectName,
    /// Why.
    pub reason: HeldReason,
    /// Why, in a sentence.
    pub message: String,
}

/// Something that keeps us from writing and that somebody has to solve; Ready is false until then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Conflict {
    /// An object of our name is not ours.
    #[error(
        "{kind} `{name}` exists and was not written for this object: delete it, or set `clusterResources.conflictPolicy: \
         Adopt`"
    )]
    Name {
        /// The kind.
        kind: MirrorKind,
        /// The name.
        name: String,
    },
    /// Two objects give one source different policies.
    #[error(
        "{ours} and {theirs} would have different values of `mirrorSourcePolicy` for `{scope}`, and nodes would then take \
         over no change of any mirror set: make them equal"
    )]
    Policy {
        /// The source.
        scope: String,
        /// Our object, kind and name.
        ours: String,
        /// The other, kind and name.
        theirs: String,
    },
    /// `NeverContactSource` with rules that may be removed.
    #[error(
        "`mirrorSourcePolicy: NeverContactSource` of {kind} needs `clusterResources.removal: Retain`: without its rule a \
         source would be contacted again"
    )]
    NeverWithRemoval {
        /// The kind.
        kind: MirrorKind,
    },
}

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteReason {
    /// Rules that wait for images.
    RuleWaits,
    /// Sources whose policy is not tightened yet.
    PolicyWaits,
    /// Names that a mirror set, or a file for containerd, cannot express.
    NotExpressible,
    /// Tags that nodes with containerd do not look for in the mirror.
    TagsShared,
    /// A foreign rule hides one of ours in part.
    HiddenByForeign,
    /// A rule of ours hides a foreign one in part.
    HidesForeign,
    /// A foreign rule names other mirrors for one of our sources.
    MergedWithForeign,
    /// A foreign rule with a wildcard lies above one of ours.
    ForeignWildcard,
    /// Pulls by tag fail.
    TagPullsFail,
    /// Nodes may not pull from the target.
    TargetBlocked,
    /// Nodes may pull from other registries only.
    TargetNotAllowed,
    /// Nodes verify the target's certificate.
    TargetNotInsecure,
    /// The mirror sets of the cluster come near the limit.
    NearLimit,
    /// The manifests do not fit into a `ConfigMap`.
    ManifestsTooLarge,
}

/// Something to know that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is about; one note for each.
    pub reason: NoteReason,
    /// One sentence; the first case and how many more there are.
    pub message: String,
}

impl Note {
    /// One note for many cases; none for none.
    fn summed(reason: NoteReason, cases: BTreeSet<String>) -> Option<Self> {
        let more = cases.len().saturating_sub(1);
        let first = cases.into_iter().next()?;
        let message = if more == 0 { first } else { format!("{first} (and {more} more)") };
        Some(Self { reason, message })
    }
}

#[cfg(test)]
mod tests;
