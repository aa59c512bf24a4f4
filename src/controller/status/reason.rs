//! The closed lists of condition types and reasons. Names are API: they are documented, and alerts match them.

use std::fmt;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All of them, in the order in which they are written.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the object.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }

            /// The one with this name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// Types of conditions.
    ConditionType {
        /// The set, as last resolved, is completely in the target and all resources to apply are in place. Always present.
        Ready,
        /// Working on a new generation, a request or a failure. Absent unless true.
        Reconciling,
        /// Needs a person, or made no progress for too long. Absent unless true.
        Stalled,
        /// The images that are wanted are known by digest.
        Resolved,
        /// Every planned image is in the target.
        Mirrored,
        /// The releases that are wanted are signed by trusted keys. Absent without releases.
        Verified,
        /// What the cluster needs to use the mirror is written as the policies say.
        ResourcesApplied,
        /// The last look at the sources found nothing newer than what is in the target.
        UpToDate,
        /// `spec.suspend` was seen. Absent unless true.
        Suspended,
    }
}

names! {
    /// Reasons of conditions.
    Reason {
        /// `Ready`, `Resolved` and `Mirrored` unknown: being worked on.
        Progressing,
        /// `Ready`, `Resolved` and `Mirrored` true: done.
        Succeeded,
        /// `Ready` true in plan mode: planned, nothing copied.
        Planned,
        /// `Mirrored` false: plan mode copies nothing.
        PlanOnly,
        /// `Reconciling`: finding out what is wanted.
        Resolving,
        /// `Reconciling`: making the plan.
        Planning,
        /// `Reconciling`: copying.
        Copying,
        /// `Reconciling`: writing to the cluster.
        Applying,
        /// `Reconciling`: waiting for other objects' syncs.
        Queued,
        /// `Reconciling`: the operator stopped in the middle; the next one goes on.
        Interrupted,
        /// `Reconciling`: something failed and is tried again.
        ProgressingWithRetry,
        /// Not everything that is wanted could be found out.
        ResolveFailed,
        /// Not everything could be copied.
        CopyFailed,
        /// A registry refuses the credentials, or there are none.
        AuthenticationFailed,
        /// The target registry cannot be reached.
        TargetUnreachable,
        /// No source registry can be reached.
        SourceUnreachable,
        /// The certificate of a registry is not signed by anybody whom we trust.
        CertificateNotTrusted,
        /// A registry limits the rate of requests.
        RateLimited,
        /// A defect of the operator ended the sync.
        InternalError,
        /// The Secret that the spec names does not exist.
        SecretNotFound,
        /// The Secret that the spec names does not hold credentials.
        SecretInvalid,
        /// The `ConfigMap` that the spec names, or its key, does not exist.
        ConfigMapNotFound,
        /// The certificates that the spec names cannot be read.
        TrustBundleInvalid,
        /// A Secret or `ConfigMap` that the spec names may not be read by the operator.
        ReferenceUnreadable,
        /// Images that were in the target are gone and are copied again.
        ContentMissing,
        /// A release signature is missing or wrong.
        SignatureInvalid,
        /// `Verified` true: a trusted key has signed each release.
        SignaturesValid,
        /// `Verified` false: the spec wants that nobody looks.
        SignaturesSkipped,
        /// The spec contradicts itself or cannot be understood.
        InvalidSpec,
        /// Another, older object wants other content at the same place.
        DestinationConflict,
        /// No image and no byte arrived for `spec.progressDeadline`.
        ProgressDeadlineExceeded,
        /// Suspended; as reason of `Ready`: before everything was in the target.
        Suspended,
        /// Being deleted.
        Deleting,
        /// `UpToDate` true: nothing newer than what is in the target.
        NoNewContent,
        /// `UpToDate` false: newer content was found and is being copied.
        NewContent,
        /// `UpToDate` false: looking for newer content or copying it failed; what was there still is.
        RefreshFailed,
        /// `ResourcesApplied` true: written.
        Applied,
        /// `ResourcesApplied` true: only in the `ConfigMap` with all manifests, as the policies say.
        Published,
        /// Not applied: the object's namespace may not write to the cluster.
        NamespaceNotAllowed,
        /// Not applied: the cluster does not have this kind.
        KindNotServed,
        /// Not applied: the cluster refuses it.
        AdmissionDenied,
        /// Not applied: it would make the cluster drain nodes, and `disruption` is `ReloadOnly`.
        PendingDisruption,
        /// Not applied: an object of this name is somebody else's.
        Conflict,
        /// Not applied: nodes could not merge it with a foreign mirror set.
        MirrorPolicyConflict,
        /// Not applied: the API server failed; tried again.
        ApplyFailed,
    }
}

impl Reason {
    /// A failure of a whole sync, which stays in `Ready` while the sync is tried again.
    pub(crate) fn is_sync_failure(self) -> bool {
        matches!(
            self,
            Self::ResolveFailed
                | Self::CopyFailed
                | Self::AuthenticationFailed
                | Self::TargetUnreachable
                | Self::SourceUnreachable
                | Self::CertificateNotTrusted
                | Self::RateLimited
                | Self::InternalError
                | Self::SignatureInvalid
                | Self::DestinationConflict
        )
    }

    /// Something that the spec names is missing or cannot be used.
    pub(crate) fn is_waiting(self) -> bool {
        matches!(
            self,
            Self::SecretNotFound
                | Self::SecretInvalid
                | Self::ConfigMapNotFound
                | Self::TrustBundleInvalid
                | Self::ReferenceUnreadable
        )
    }

    /// Trying again is no help, or only if somebody changes something elsewhere.
    pub(crate) fn needs_a_person(self) -> bool {
        matches!(
            self,
            Self::InvalidSpec
                | Self::SignatureInvalid
                | Self::DestinationConflict
                | Self::Conflict
                | Self::MirrorPolicyConflict
        )
    }

    /// A verdict on the spec alone, which goes when the spec is found valid.
    pub(crate) fn is_about_the_spec(self) -> bool {
        self == Self::InvalidSpec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_documented() {
        let page = include_str!("../../../docs/operating.md");
        let names =
            ConditionType::ALL.iter().map(|name| name.as_str()).chain(Reason::ALL.iter().map(|name| name.as_str()));
        for name in names {
            assert!(page.contains(&format!("\n| `{name}` | ")), "docs/operating.md has no row for {name}");
        }
    }

    #[test]
    fn names_are_unique_and_parse() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("Nonsense"), None);
        assert_eq!(ConditionType::ALL.first(), Some(&ConditionType::Ready));
    }
}
