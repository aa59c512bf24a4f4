//! Kinds of OpenShift that are written or read here, as far as that is needed.
//!
//! Their schemas belong to OpenShift, so none is generated. Everything that an object of the cluster may leave out is
//! optional: a strange object is read as far as it goes. Formats: <https://github.com/openshift/api>, groups
//! `config.openshift.io/v1`, `operator.openshift.io/v1alpha1` and `machineconfiguration.openshift.io/v1`.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::MirrorSourcePolicy;

/// The namespace that the cluster's own configuration is published in, release signatures among it.
pub const CONFIG_MANAGED: &str = "openshift-config-managed";

/// Mirrors of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageMirrors {
    /// `host[:port][/path]`, or `*.domain`.
    pub source: String,
    /// Where nodes look first, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// Unset means that the source may be contacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror_source_policy: Option<MirrorSourcePolicy>,
}

/// Mirrors for pulls by digest.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "config.openshift.io",
    version = "v1",
    kind = "ImageDigestMirrorSet",
    plural = "imagedigestmirrorsets",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ImageDigestMirrorSetSpec {
    /// One entry for each source.
    #[serde(default)]
    pub image_digest_mirrors: Vec<ImageMirrors>,
}

/// Mirrors for pulls by tag.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "config.openshift.io",
    version = "v1",
    kind = "ImageTagMirrorSet",
    plural = "imagetagmirrorsets",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ImageTagMirrorSetSpec {
    /// One entry for each source.
    #[serde(default)]
    pub image_tag_mirrors: Vec<ImageMirrors>,
}

/// The predecessor of [`ImageDigestMirrorSet`]; only read.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "operator.openshift.io",
    version = "v1alpha1",
    kind = "ImageContentSourcePolicy",
    plural = "imagecontentsourcepolicies",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ImageContentSourcePolicySpec {
    /// One entry for each source; the source may always be contacted.
    #[serde(default)]
    pub repository_digest_mirrors: Vec<ImageMirrors>,
}

/// The cluster's image configuration, named `cluster`; only read.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "config.openshift.io",
    version = "v1",
    kind = "Image",
    plural = "images",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// What nodes may pull from and how.
    #[serde(default)]
    pub registry_sources: RegistrySources,
}

/// What nodes may pull from and how; each list holds `host[:port][/path]` or `*.domain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistrySources {
    /// Pulled from without TLS verification.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub insecure_registries: Vec<String>,
    /// Never pulled from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_registries: Vec<String>,
    /// If not empty, nothing else is pulled from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_registries: Vec<String>,
}

/// A service that tells clusters which updates there are.
///
/// Format: <https://github.com/openshift/cincinnati-operator>, group `updateservice.operator.openshift.io/v1`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "updateservice.operator.openshift.io",
    version = "v1",
    kind = "UpdateService",
    plural = "updateservices",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct UpdateServiceSpec {
    /// The image with the graph of updates.
    #[serde(default)]
    pub graph_data_image: String,
    /// The repository of the releases, without tag and digest.
    #[serde(default)]
    pub releases: String,
    /// Pods that answer.
    #[serde(default)]
    pub replicas: i32,
}

/// A catalog of operators, served by a pod that OLM makes from its image.
///
/// Format: <https://github.com/operator-framework/api>, group `operators.coreos.com/v1alpha1`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "operators.coreos.com",
    version = "v1alpha1",
    kind = "CatalogSource",
    plural = "catalogsources",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct CatalogSourceSpec {
    /// `grpc` for a catalog in an image.
    #[serde(default)]
    pub source_type: String,
    /// The image.
    #[serde(default)]
    pub image: String,
    /// What a template adds.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// A catalog of operators whose content OLM 1 reads from its image.
///
/// Format: <https://github.com/operator-framework/operator-controller>, group `olm.operatorframework.io/v1`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "olm.operatorframework.io",
    version = "v1",
    kind = "ClusterCatalog",
    plural = "clustercatalogs",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCatalogSpec {
    /// `{type: Image, image: {ref}}`.
    #[serde(default)]
    pub source: serde_json::Value,
    /// What the API server fills in.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// A group of nodes that are configured alike; only read.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1",
    kind = "MachineConfigPool",
    plural = "machineconfigpools",
    status = "MachineConfigPoolStatus",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfigPoolSpec {
    /// True while changes wait.
    #[serde(default)]
    pub paused: bool,
}

/// How far the nodes of a pool are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfigPoolStatus {
    /// All nodes.
    #[serde(default)]
    pub machine_count: i32,
    /// Nodes with the current configuration.
    #[serde(default)]
    pub updated_machine_count: i32,
    /// Nodes that could not take it.
    #[serde(default)]
    pub degraded_machine_count: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_the_cluster_are_read_with_what_they_leave_out() {
        let text = "apiVersion: config.openshift.io/v1\nkind: ImageDigestMirrorSet\nmetadata: {name: a}\nspec: {}\n";
        let set: ImageDigestMirrorSet = serde_yaml::from_str(text).unwrap();
        assert!(set.spec.image_digest_mirrors.is_empty());
        let text = "apiVersion: config.openshift.io/v1\nkind: Image\nmetadata: {name: cluster}\nspec: \
                    {additionalTrustedCA: {name: x}, registrySources: {allowedRegistries: [quay.io]}}\n";
        let image: Image = serde_yaml::from_str(text).unwrap();
        assert_eq!(image.spec.registry_sources.allowed_registries, ["quay.io"]);
    }
}
