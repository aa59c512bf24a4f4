//! The `ImageSetMirror` object as people write it and as the API server stores it.
//!
//! Names that appear in clusters are defined here, once. The types have no behaviour: [`crate::request`] turns a spec into
//! something that can be worked with, and lists what is wrong with it.

use crate::oci::Digest;

#[expect(unreachable_pub, reason = "the derived schema copies each type with its visibility")]
pub mod content;
pub mod crd;
pub mod grammar;
#[expect(unreachable_pub, reason = "the derived schema copies each type with its visibility")]
mod image_set_mirror;
pub mod openshift;
pub mod rbac;
pub mod schema;
#[expect(unreachable_pub, reason = "the derived schema copies each type with its visibility")]
mod status;

pub use image_set_mirror::{
    Attachments, ByteRate, CatalogName, CatalogSourceOutput, Charts, ClusterCatalogOutput, ClusterResources,
    ConflictPolicy, ContainerdHosts, CopyOptions, Disruption, HostSettings, ImageSetMirror, ImageSetMirrorSpec,
    KeyReference, KeyRingReference, MirrorSetOutput, MirrorSourcePolicy, Mode, NameReference, OutputPolicy, Override,
    PublishPolicy, ReleaseSignatures, ReleaseSignaturesOutput, Removal, Source, Target, Tls, UpdateServiceOutput,
    Verification,
};
pub use status::{
    BytesProgress, CatalogStatus, FailedImage, HistoryEntry, HistoryOutcome, ImageProgress, ImageSetMirrorStatus,
    MirroredStatus, PlanStatus, ProgressStatus, ReleasePart, ReleaseStatus, ResourceState, ResourceStatus, SyncStatus,
    limits,
};

/// The group as a literal, for [`concat!`].
macro_rules! group {
    () => {
        "mirror.openshift.io"
    };
}

/// API group.
pub const GROUP: &str = group!();
/// API version.
pub const VERSION: &str = "v1alpha1";
/// `group/version`.
pub const API_VERSION: &str = concat!(group!(), "/v1alpha1");
/// Kind.
pub const KIND: &str = "ImageSetMirror";
/// Plural.
pub const PLURAL: &str = "imagesetmirrors";
/// Short name for `kubectl get`.
pub const SHORT_NAME: &str = "imset";
/// Category: `kubectl get mirror` lists the objects with others of their kind.
pub const CATEGORY: &str = "mirror";
/// Field manager of every server-side apply, also of the status.
pub const FIELD_MANAGER: &str = "imageset-mirror";
/// Value of the label `app.kubernetes.io/managed-by`.
pub const MANAGED_BY: &str = FIELD_MANAGER;
/// The label [`MANAGED_BY`] is a value of.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Finalizer, set only when something would have to be removed from the cluster on deletion.
pub const FINALIZER: &str = concat!(group!(), "/cluster-resources");
/// Label of what we write: [`owner_hash`] of the object it is written for.
pub const OWNER_LABEL: &str = concat!(group!(), "/owner");
/// Annotation of what we write: `namespace/name` of the object it is written for.
pub const OWNER_REF_ANNOTATION: &str = concat!(group!(), "/owner-ref");
/// Annotation of the object: any new value asks for a sync now.
pub const REQUESTED_AT_ANNOTATION: &str = concat!(group!(), "/requested-at");
/// Annotation of the object: the value of [`REQUESTED_AT_ANNOTATION`], set together with it, makes the sync that it asks for
/// rely on nothing that is remembered or was found before.
pub const FORCE_AT_ANNOTATION: &str = concat!(group!(), "/force-at");
/// The same request in Flux's words.
pub const FLUX_REQUESTED_AT_ANNOTATION: &str = "reconcile.fluxcd.io/requestedAt";
/// Longest name of an object, so that names derived from it stay valid.
pub const MAX_NAME: usize = 52;

/// The owner mark of an object: the first 16 hexadecimal digits of SHA-256 over `namespace/name`.
///
/// Not the UID: an object restored from a backup has another one and must find what was written for it.
pub fn owner_hash(namespace: &str, name: &str) -> String {
    let digest = Digest::of(format!("{namespace}/{name}").as_bytes());
    digest.hex().chars().take(16).collect()
}

/// True for a value that stands for an absent key; such keys are not written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_mark_is_sixteen_digits_over_namespace_and_name() {
        assert_eq!(owner_hash("image-mirror", "ocp-4-18").len(), 16);
        assert_ne!(owner_hash("a-b", "c"), owner_hash("a", "b-c"));
        // `printf ns/name | sha256sum`
        assert_eq!(owner_hash("ns", "name"), "cb4d4463a5179180");
    }

    #[test]
    fn the_derived_kind_has_the_names_defined_here() {
        use kube::Resource as _;
        assert_eq!(ImageSetMirror::group(&()), GROUP);
        assert_eq!(ImageSetMirror::version(&()), VERSION);
        assert_eq!(ImageSetMirror::api_version(&()), API_VERSION);
        assert_eq!(ImageSetMirror::kind(&()), KIND);
        assert_eq!(ImageSetMirror::plural(&()), PLURAL);
    }
}
