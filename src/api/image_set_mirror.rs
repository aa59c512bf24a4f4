//! The spec of `ImageSetMirror`.
//!
//! Nothing here has a schema default: what a user did not write is not written into the object for them. Defaults are
//! applied by [`crate::request`] and named in the documentation of each field.

use kube::core::Rule;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::status::ImageSetMirrorStatus;
use super::{grammar, is_default};

/// What to mirror, where to, and what the cluster gets for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "mirror.openshift.io",
    version = "v1alpha1",
    kind = "ImageSetMirror",
    plural = "imagesetmirrors",
    singular = "imagesetmirror",
    shortname = "imset",
    category = "mirror",
    namespaced,
    status = "ImageSetMirrorStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "ImageSetMirror keeps images in a target registry and writes what the cluster needs to pull them from there.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "True when everything is in the target"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why"),
    printcolumn(name = "Images", type_ = "string", json_path = ".status.progress.summary", description = "Images in the target, of all"),
    printcolumn(name = "Last Sync", type_ = "date", json_path = ".status.sync.lastSuccessTime", description = "Time since everything was found in the target"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target.registry", priority = 1),
    printcolumn(name = "Next Sync", type_ = "string", json_path = ".status.sync.nextTime", priority = 1),
    printcolumn(name = "Plan", type_ = "string", json_path = ".status.plan.digest", priority = 1),
    printcolumn(name = "Upgrade", type_ = "string", json_path = ".status.mirrored.releases[?(@.readyToUpgrade==true)].version", description = "Newest release that a cluster can be updated to", priority = 1),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 52")
        .message("metadata.name may have at most 52 characters: names of other objects are made from it")
)]
pub struct ImageSetMirrorSpec {
    /// What to mirror: the keys of `mirror` in an oc-mirror v2 `ImageSetConfiguration`, with the same meaning.
    pub mirror: Content,
    /// Where to.
    pub target: Target,
    /// How to reach the registries that images come from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub source: Source,
    /// Time from the end of a successful sync to the next one, give or take 5 %, as hours, minutes and seconds. At least `5m`.
    /// Default: none, a sync runs only on a change and on request. Example: `6h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = duration_rule(), validation = minimum_rule())]
    pub interval: Option<String>,
    /// Start nothing new and stop what is running; nothing is removed. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub suspend: bool,
    /// `Mirror` copies; `Plan` only looks what would be copied, and withdraws nothing. Default: `Mirror`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// If no image and no byte arrives for this long, the object is reported as stalled; copying is still tried, slowly. At
    /// least `5m`. Default: `2h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = duration_rule(), validation = minimum_rule())]
    pub progress_deadline: Option<String>,
    /// How to copy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub copy: CopyOptions,
    /// What must be proved before content counts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub verification: Verification,
    /// What is written to this cluster.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cluster_resources: ClusterResources,
}

fn duration_rule() -> Rule {
    Rule::new(grammar::matches(grammar::DURATION))
        .message("not a duration: write hours, minutes and seconds such as 6h, 90m or 1h30m")
}

fn minimum_rule() -> Rule {
    Rule::new(format!("!{} || duration(self) >= duration('5m')", grammar::matches(grammar::DURATION)))
        .message("too short: at least 5m")
}

/// The registry that images are copied to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(has(self.pathPrefix) ? self.pathPrefix : '') == (has(oldSelf.pathPrefix) ? oldSelf.pathPrefix : '')"
).message("pathPrefix cannot be changed: create a second ImageSetMirror to move to another place"))]
#[x_kube(validation = Rule::new(
    "!(has(self.tls) && self.tls == 'Plain' && has(self.trustBundle))"
).message("tls: Plain uses no certificates: leave out trustBundle, or use tls: Verify"))]
pub struct Target {
    /// The registry, `host` or `host:port`, lower case; cannot be changed. An IPv6 address is refused, since mirror sets cannot
    /// express one. Example: `registry.example.com:5000`.
    #[schemars(length(min = 1, max = 259))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("registry cannot be changed: create a second ImageSetMirror to move to another registry"))]
    #[x_kube(validation = Rule::new("!self.contains('/')")
        .message("write only HOST or HOST:PORT, without a scheme; a path belongs into target.pathPrefix"))]
    #[x_kube(validation = Rule::new("!self.contains('[') && !self.matches(r':[^/]*:')")
        .message("an IPv6 address cannot be expressed in mirror sets: use a host name"))]
    #[x_kube(validation = Rule::new(format!("self.matches(r'[/\\[]|:[^/]*:') || {}", grammar::matches(grammar::HOST)))
        .message("not a registry: write HOST or HOST:PORT in lower case"))]
    pub registry: String,
    /// Path below which everything is put; cannot be changed. Default: none, the registry's root. Example: `ocp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    #[x_kube(validation = Rule::new(format!("self == '' || {}", grammar::matches(grammar::PATH)))
        .message("not a repository path: write lower-case components separated by /, without host, tag, digest and leading or trailing /"))]
    pub path_prefix: Option<String>,
    /// A Secret in this namespace with the credentials for pushing, in its key `.dockerconfigjson`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<NameReference>,
    /// A `ConfigMap` in this namespace with certificates to trust in addition to the system's, in PEM. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_bundle: Option<KeyReference>,
    /// How the target is reached: `Verify` (HTTPS), `SkipVerify` (HTTPS, any certificate) or `Plain` (HTTP). Default: `Verify`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: Tls,
}

/// The registries that images come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// A Secret in this namespace with credentials for pulling, in its key `.dockerconfigjson`; keys may name a repository.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<NameReference>,
    /// A `ConfigMap` in this namespace with certificates to trust in addition to the system's, in PEM. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_bundle: Option<KeyReference>,
    /// How single hosts are reached; all others with `Verify`. At most 64, each host once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into()]))]
    pub hosts: Vec<HostSettings>,
    /// Pull from other places than images name. The longest source that is a prefix in whole path components is used; its
    /// mirrors are tried in order, the original place only if it is listed. At most 16, each source once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["source".into()]))]
    pub overrides: Vec<Override>,
    /// Where the graph of updates is asked for, with `http` or `https`; no credentials are sent. Default: the public service
    /// of the project that makes the release. Example: `https://osus.example.com/api/upgrades_info/v1/graph`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(endpoint("self")).message(ENDPOINT))]
    pub update_service: Option<String>,
    /// Stores of release signatures, asked in this order and in place of the public ones; `sha256=HEX/signature-N` is appended.
    /// No credentials are sent. At most 8. Default: the public stores of the project that makes the release. Example:
    /// `[https://mirror.example.com/signatures/release]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Atomic, validation = Rule::new(format!("self.all(s, {})", endpoint("s")))
        .message(ENDPOINT))]
    pub signature_stores: Vec<String>,
    /// A `ConfigMap` in this namespace with the `OpenPGP` keys, in ASCII armor, that release signatures are checked with.
    /// Default: the keys of Red Hat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_keys: Option<KeyRingReference>,
    /// Where the data of the update graph is, a .tar.gz that `platform.graph` makes an image of; no credentials are sent. Default:
    /// the public one. Example: `https://mirror.example.com/graph-data.tar.gz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(endpoint("self")).message(ENDPOINT))]
    pub graph_data: Option<String>,
    /// The image that the one with the update graph is built on; it has to have a shell and `cp`. Default:
    /// `registry.access.redhat.com/ubi9/ubi:latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(grammar::image())
        .message("not an image: write HOST/PATH:TAG or HOST/PATH@sha256:HEX, in lower case and without a scheme"))]
    #[x_kube(validation = Rule::new(grammar::HAS_TAG_OR_DIGEST)
        .message("the image needs a tag or a digest: write HOST/PATH:TAG or HOST/PATH@sha256:HEX"))]
    pub graph_base_image: Option<String>,
}

const ENDPOINT: &str =
    "not an address: write http:// or https://, a host and a path, without credentials, query and fragment";

/// A CEL expression: the text in `variable` is an address that is asked for something below its path.
fn endpoint(variable: &str) -> String {
    format!("isURL({variable}) && {variable}.matches(r'^https?://[^/?#@]+(/[^?#]*)?$')")
}

/// How one source host is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostSettings {
    /// The host contacted, with its port if images name one. Example: `registry.example.com:5000`.
    #[schemars(length(min = 1, max = 259))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::HOST))
        .message("not a registry: write HOST or HOST:PORT in lower case, without scheme and path"))]
    pub host: String,
    /// `Verify` (HTTPS), `SkipVerify` (HTTPS, any certificate) or `Plain` (HTTP).
    pub tls: Tls,
}

/// Another place to pull from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mirrors.exists(m, m != self.source)")
    .message("mirrors must name a place other than the source"))]
pub struct Override {
    /// What images name: a host, or a host and the beginning of a path. Example: `quay.io/org`.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = place_rule())]
    pub source: String,
    /// Where to pull from instead, in this order. At most 8. Example: `[proxy.example.com/quay/org]`.
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Atomic, validation = Rule::new(format!("self.all(m, m.matches(r'^({PLACE})$'))", PLACE = place()))
        .message("not a place in a registry: write HOST[:PORT] or HOST[:PORT]/PATH in lower case, without scheme, tag and digest"))]
    pub mirrors: Vec<String>,
}

fn place() -> String {
    format!("{}(/{})?", grammar::HOST, grammar::PATH)
}

fn place_rule() -> Rule {
    Rule::new(grammar::matches(&place())).message(
        "not a place in a registry: write HOST[:PORT] or HOST[:PORT]/PATH in lower case, without scheme, tag and digest",
    )
}

/// The name of an object in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::OBJECT_NAME)).message("not the name of an object"))]
    pub name: String,
}

/// One key of a `ConfigMap` in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyReference {
    /// Name of the `ConfigMap`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::OBJECT_NAME)).message("not the name of an object"))]
    pub name: String,
    /// Key in it. Default: `ca-bundle.crt`, the key that OpenShift injects the cluster's bundle into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::CONFIG_KEY)).message("not a key of a ConfigMap"))]
    pub key: Option<String>,
}

/// One key of a `ConfigMap` in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRingReference {
    /// Name of the `ConfigMap`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::OBJECT_NAME)).message("not the name of an object"))]
    pub name: String,
    /// Key in it. Default: `keys.asc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::CONFIG_KEY)).message("not a key of a ConfigMap"))]
    pub key: Option<String>,
}

/// How a registry is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Tls {
    /// HTTPS, with a certificate that is checked.
    #[default]
    Verify,
    /// HTTPS, with any certificate.
    SkipVerify,
    /// HTTP.
    Plain,
}

/// Whether to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Copy, and write what the cluster needs.
    #[default]
    Mirror,
    /// Only find out what would be copied.
    Plan,
}

/// How to copy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyOptions {
    /// The most large transfers of this object at a time, 1 to 64, within what the operator's own flag allows. Default: chosen
    /// by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub concurrency: Option<i32>,
    /// The most bytes that this object reads from sources in a second: a number, or a number with `k`, `M`, `G`, `T`, `Ki`,
    /// `Mi`, `Gi` or `Ti`. Default: no limit. Example: `200Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rate")]
    pub max_bytes_per_second: Option<ByteRate>,
    /// Whether signatures and other attachments of an image (`sha256-….sig` tags, OCI referrers) are copied with it. Default:
    /// `Copy`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attachments: Attachments,
    /// Whether Helm charts themselves are copied, or only the images in them. Default: `Copy`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub charts: Charts,
}

/// A number of bytes, as a number or with a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ByteRate {
    /// Bytes.
    Number(i64),
    /// A number with an optional unit, such as `200Mi`.
    Text(String),
}

fn rate(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "minimum": 1,
        "maxLength": 20,
        "pattern": format!("^{}$", grammar::QUANTITY),
    })
}

/// Whether what is attached to an image travels with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Attachments {
    /// It does.
    #[default]
    Copy,
    /// It does not.
    Skip,
}

/// Whether Helm charts are in the target beside their images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Charts {
    /// They are, as OCI artifacts at `charts/REPOSITORY/CHART:VERSION`.
    #[default]
    Copy,
    /// They are not.
    Skip,
}

/// What must be proved before content counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// `Required`: a release is mirrored only if a trusted key has signed it. `Skip`: signatures are not looked at, and the
    /// condition `Verified` says so. Default: `Required`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub release_signatures: ReleaseSignatures,
}

/// Whether releases must be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ReleaseSignatures {
    /// They must.
    #[default]
    Required,
    /// Nobody looks.
    Skip,
}

/// What is written to this cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = never_contact_rule("imageDigestMirrorSet"))]
#[x_kube(validation = never_contact_rule("imageTagMirrorSet"))]
pub struct ClusterResources {
    /// The mirror set for pulls by digest. Default policy: `Apply`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_digest_mirror_set: MirrorSetOutput,
    /// The mirror set for pulls by tag. Default policy: `Publish`, since a change of it drains nodes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_tag_mirror_set: MirrorSetOutput,
    /// The `ConfigMap` `<name>-containerd-hosts` with `hosts.toml` files, for nodes with containerd. Pulls by tag are part of
    /// it if `imageTagMirrorSet.policy` is `Apply`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub containerd_hosts: ContainerdHosts,
    /// A `CatalogSource` for each catalog of `operators`. Default policy: `Publish`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub catalog_source: CatalogSourceOutput,
    /// A `ClusterCatalog` for each catalog of `operators`. Default policy: `Publish`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cluster_catalog: ClusterCatalogOutput,
    /// The `UpdateService` that tells clusters which updates there are; only with `platform.graph`. Default policy: `Publish`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub update_service: UpdateServiceOutput,
    /// The `ConfigMap`s in `openshift-config-managed` that a cluster checks releases with. Default policy: `Apply`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub release_signatures: ReleaseSignaturesOutput,
    /// Which changes may be written: `ReloadOnly` holds back those that make the cluster drain its nodes, `AllowDrain` does not.
    /// Default: `ReloadOnly`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disruption: Disruption,
    /// What happens to rules whose content left the set, and to all of them when the object is deleted: `Retain` or `Remove`.
    /// Default: `Retain`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub removal: Removal,
    /// What happens if an object with our name exists that is not ours: `Refuse` or `Adopt`. Default: `Refuse`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub conflict_policy: ConflictPolicy,
}

fn never_contact_rule(field: &str) -> Rule {
    Rule::new(format!(
        "!has(self.{field}) || !has(self.{field}.mirrorSourcePolicy) || self.{field}.mirrorSourcePolicy != 'NeverContactSource' \
         || ((!has(self.{field}.policy) || self.{field}.policy != 'Disabled') && (!has(self.removal) || self.removal == 'Retain'))"
    ))
    .message(&*format!(
        "{field}.mirrorSourcePolicy: NeverContactSource needs policy Apply or Publish and removal: Retain, or pulls of what was removed would fail"
    ))
}

/// What happens to one kind of mirror set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorSetOutput {
    /// `Apply` writes it to this cluster and publishes it, `Publish` only puts it into the `ConfigMap` with all manifests,
    /// `Disabled` does neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<OutputPolicy>,
    /// Whether nodes may fall back to the original registry: `AllowContactingSource` or `NeverContactSource`. Default:
    /// `AllowContactingSource`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mirror_source_policy: MirrorSourcePolicy,
}

/// What happens to files for containerd.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerdHosts {
    /// `Publish` or `Disabled`. Default: `Publish` on a cluster without `ImageDigestMirrorSet`, that is, anywhere but on
    /// OpenShift; what was published by default stays so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PublishPolicy>,
}

/// What happens to `CatalogSource`s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogSourceOutput {
    /// `Apply` writes them to this cluster and publishes them, `Publish` only puts them into the `ConfigMap` with all manifests,
    /// `Disabled` does neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<OutputPolicy>,
    /// Namespace that OLM offers catalogs from to all others. What was written to another one before stays there. Default:
    /// `openshift-marketplace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::LABEL)).message("not a namespace"))]
    pub namespace: Option<String>,
    /// Names of single ones. Default of each: `cs-` and the last component of the catalog's path in the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["catalog".into()]))]
    pub names: Vec<CatalogName>,
}

/// What happens to `ClusterCatalog`s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCatalogOutput {
    /// `Apply` writes them to this cluster and publishes them, `Publish` only puts them into the `ConfigMap` with all manifests,
    /// `Disabled` does neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<OutputPolicy>,
    /// Names of single ones. Default of each: `cc-` and the last component of the catalog's path in the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["catalog".into()]))]
    pub names: Vec<CatalogName>,
}

/// The name of what shows a catalog to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogName {
    /// The catalog as in `operators`.
    #[schemars(length(min = 1, max = 512))]
    pub catalog: String,
    /// The name. Example: `redhat-operators`, once `OperatorHub` does not have that one any more.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::LABEL)).message("not a name: write lower-case letters, digits and `-`"))]
    pub name: String,
}

/// What happens to the `UpdateService`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateServiceOutput {
    /// `Apply` writes it to this cluster and publishes it, `Publish` only puts it into the `ConfigMap` with all manifests,
    /// `Disabled` does neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<OutputPolicy>,
    /// Namespace of the update service's operator. What was written to another one before stays there. Default:
    /// `openshift-update-service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::LABEL)).message("not a namespace"))]
    pub namespace: Option<String>,
    /// Pods that answer, 1 to 100. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: Option<i32>,
}

/// What happens to release signatures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseSignaturesOutput {
    /// `Apply` writes them to this cluster and publishes them, `Publish` only puts them into the `ConfigMap` with all manifests,
    /// `Disabled` does neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<OutputPolicy>,
}

/// Whether something is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PublishPolicy {
    /// It is.
    Publish,
    /// It is not.
    Disabled,
}

/// Whether something is written to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OutputPolicy {
    /// Written to the cluster, and published.
    Apply,
    /// Only published.
    Publish,
    /// Neither.
    Disabled,
}

/// Whether nodes may pull from the source when the mirror does not have an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MirrorSourcePolicy {
    /// They may.
    #[default]
    AllowContactingSource,
    /// They may not.
    NeverContactSource,
}

/// Which changes of mirror sets may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Disruption {
    /// Those that nodes take over without being drained.
    #[default]
    ReloadOnly,
    /// All.
    AllowDrain,
}

/// What happens to rules that are not wanted any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Removal {
    /// They stay.
    #[default]
    Retain,
    /// They are removed.
    Remove,
}

/// What happens to a foreign object with our name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConflictPolicy {
    /// It stays as it is, and the conflict is reported.
    #[default]
    Refuse,
    /// It is taken over.
    Adopt,
}
