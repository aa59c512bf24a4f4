//! `spec.mirror`: the keys of an oc-mirror v2 `ImageSetConfiguration`, verbatim, so that a file is migrated by pasting.
//!
//! Keys that make no sense here are in the schema too: a rule refuses them with a sentence, where an unknown key would be
//! dropped without one.

use kube::KubeSchema;
use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{grammar, is_default};

/// What to mirror: the keys of `mirror` in an oc-mirror v2 `ImageSetConfiguration`, with the same meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(has(self.platform) && ((has(self.platform.channels) && size(self.platform.channels) > 0) || has(self.platform.release))) \
     || (has(self.operators) && size(self.operators) > 0) \
     || (has(self.additionalImages) && size(self.additionalImages) > 0) \
     || (has(self.helm) && ((has(self.helm.repositories) && size(self.helm.repositories) > 0) || (has(self.helm.local) && size(self.helm.local) > 0)))"
).message("nothing to mirror: give at least one of platform.channels, platform.release, operators, additionalImages or helm.repositories"))]
pub struct Content {
    /// OpenShift and OKD releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformContent>,
    /// Operator catalogs, whole or filtered. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic,
        validation = Rule::new(UNIQUE_CATALOGS)
            .message("two catalogs would land on one tag: give one of them a targetCatalog or targetTag"))]
    pub operators: Vec<Operator>,
    /// Single images. At most 1024.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub additional_images: Vec<AdditionalImage>,
    /// Helm charts and the images in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helm: Option<Helm>,
    /// Images that are not mirrored, whoever asks for them. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub blocked_images: Vec<BlockedImage>,
    /// Has no effect, as in oc-mirror; accepted so that files can be pasted, and answered with a warning. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub samples: Vec<Sample>,
}

/// A list of one list binds the keys to a name, so that each is made once.
///
/// The path is what follows the host, or all of a name without one; the tag what stands before the digest, or the digest.
const UNIQUE_CATALOGS: &str = "[self.map(o, (has(o.targetCatalog) ? '/' + o.targetCatalog : \
     o.catalog.contains('/') ? o.catalog.find(r'/[^:@]*') : '/' + o.catalog.find(r'^[^:@]*')) \
     + (has(o.targetTag) ? ':' + o.targetTag + '@' : (o.catalog + '@').find(r':[^/:@]+@')))]\
     .all(keys, keys.all(k, keys.exists_one(other, other == k)))";

/// Releases to mirror.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!(has(self.architectures) && size(self.architectures) > 0 && has(self.platforms) && size(self.platforms) > 0)"
).message("give architectures or platforms, not both"))]
pub struct PlatformContent {
    /// Build and push the update graph image. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub graph: bool,
    /// Release channels. At most 64, each name once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub channels: Vec<ReleaseChannel>,
    /// Architectures of single-architecture releases, or `multi`. Default: `amd64`. Example: `[amd64, arm64]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub architectures: Vec<String>,
    /// Platforms to keep of the multi-architecture release. Example: `[{os: linux, architecture: arm64}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub platforms: Vec<PlatformFilter>,
    /// One release by its payload image instead of channels. Must be an image reference; a path on disk is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(grammar::image())
        .message("release must be the image of a release payload, such as quay.io/openshift-release-dev/ocp-release:4.18.10-x86_64; a path on disk has no meaning here"))]
    #[x_kube(validation = Rule::new(grammar::HAS_TAG_OR_DIGEST)
        .message("release needs a tag or a digest: write HOST/PATH:TAG or HOST/PATH@sha256:HEX"))]
    pub release: Option<String>,
    /// Also mirror the disk image for `KubeVirt` that the release names. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kube_virt_container: bool,
}

/// A range of versions in a release channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.shortestPath) || !self.shortestPath || (has(self.minVersion) && has(self.maxVersion))"
).message("shortestPath needs minVersion and maxVersion"))]
#[x_kube(validation = Rule::new(
    "!(has(self.full) && self.full && has(self.shortestPath) && self.shortestPath)"
).message("give full or shortestPath, not both"))]
pub struct ReleaseChannel {
    /// Name of the channel. Example: `stable-4.18`.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// Which project's releases: `ocp` or `okd`. Default: `ocp`.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub kind: ReleaseKind,
    /// Lowest version. Default: the channel's newest. Example: `4.18.10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = VERSION))]
    pub min_version: Option<String>,
    /// Highest version; alone it means the channel's newest version not above it, which differs from oc-mirror. Default: the
    /// channel's newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = VERSION))]
    pub max_version: Option<String>,
    /// Only the versions of the shortest upgrade from `minVersion` to `maxVersion`. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shortest_path: bool,
    /// Every version of the channel. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub full: bool,
}

/// The project that makes a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ReleaseKind {
    /// OpenShift Container Platform.
    #[default]
    Ocp,
    /// OKD.
    Okd,
}

// Too many places for a rule with a sentence: the cost limit of the API server allows a pattern only.
const VERSION: &str = r"^v?[0-9]+(\.[0-9]+(\.[0-9]+)?)?(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$";

/// One platform of a multi-platform image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformFilter {
    /// Operating system. Example: `linux`.
    #[schemars(length(min = 1, max = 32))]
    pub os: String,
    /// CPU architecture in Go's spelling. Example: `amd64`.
    #[schemars(length(min = 1, max = 32))]
    pub architecture: String,
}

/// An operator catalog.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operator {
    /// The catalog's image. Example: `registry.redhat.io/redhat/redhat-operator-index:v4.18`.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('oci://')")
        .message("a catalog on disk (oci://) cannot be read here: push it to a registry and name it there"))]
    #[x_kube(validation = Rule::new(format!("self.startsWith('oci://') || {}", grammar::image()))
        .message("not an image: write HOST/PATH:TAG or HOST/PATH@sha256:HEX, in lower case and without a scheme"))]
    #[x_kube(validation = Rule::new(format!("self.startsWith('oci://') || {}", grammar::HAS_TAG_OR_DIGEST))
        .message("the catalog needs a tag or a digest: write HOST/PATH:TAG or HOST/PATH@sha256:HEX"))]
    pub catalog: String,
    /// Repository path in the target, instead of the catalog's own. Example: `ops/redhat-index`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = path_rule())]
    pub target_catalog: Option<String>,
    /// Tag in the target, instead of the catalog's own. Example: `v4.18-site-a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = tag_rule())]
    pub target_tag: Option<String>,
    /// Mirror every channel and version, not only the heads. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub full: bool,
    /// Has no effect: dependencies are not followed, as in oc-mirror.
    #[serde(default, skip_serializing_if = "is_default")]
    pub skip_dependencies: bool,
    /// Name of a `ConfigMap` in this namespace whose key `catalogsource.yaml` is a template. In an oc-mirror file this is a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(grammar::matches(grammar::OBJECT_NAME))
        .message("not the name of a ConfigMap: put the template into one with `kubectl create configmap NAME --from-file=catalogsource.yaml=FILE` and write NAME"))]
    pub target_catalog_source_template: Option<String>,
    /// Platforms to keep of the catalog and its images. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub platforms: Vec<PlatformFilter>,
    /// Packages to keep. Default: all. At most 512, each name once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub packages: Vec<Package>,
}

/// A package of a catalog.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!(has(self.minVersion) || has(self.maxVersion)) || !has(self.channels) \
     || !self.channels.exists(c, has(c.minVersion) || has(c.maxVersion))"
).message("give minVersion and maxVersion for the package or for its channels, not for both"))]
pub struct Package {
    /// Name of the package. Example: `local-storage-operator`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The channel that becomes the default, needed if the package's own is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub default_channel: Option<String>,
    /// Lowest version. Example: `4.18.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = VERSION))]
    pub min_version: Option<String>,
    /// Highest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = VERSION))]
    pub max_version: Option<String>,
    /// Channels to keep. Default: all. At most 32, each name once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub channels: Vec<PackageChannel>,
}

/// A channel of a package.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageChannel {
    /// Name of the channel. Example: `stable`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Lowest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = VERSION))]
    pub min_version: Option<String>,
    /// Highest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = VERSION))]
    pub max_version: Option<String>,
}

fn path_rule() -> Rule {
    Rule::new(grammar::matches(grammar::PATH)).message(
        "not a repository path: write lower-case components separated by /, without host, tag, digest and leading or trailing /",
    )
}

fn tag_rule() -> Rule {
    Rule::new(grammar::matches(grammar::TAG))
        .message("not a tag: at most 128 letters, digits, _, . and -, starting with a letter, a digit or _")
}

/// One image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdditionalImage {
    /// The image, with a tag, a digest or both; `latest` is not assumed. Example: `quay.io/org/app:1.2`.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.contains('://')")
        .message("write the image without a scheme: HOST/PATH:TAG; an image on disk (oci://) has to be pushed to a registry first"))]
    #[x_kube(validation = Rule::new(format!("self.contains('://') || {}", grammar::image()))
        .message("not an image: write HOST/PATH:TAG or HOST/PATH@sha256:HEX, in lower case, without spaces, and with a host name rather than an IPv6 address"))]
    #[x_kube(validation = Rule::new(format!("self.contains('://') || {}", grammar::HAS_TAG_OR_DIGEST))
        .message("the image needs a tag or a digest: write HOST/PATH:TAG or HOST/PATH@sha256:HEX (latest is not assumed)"))]
    pub name: String,
    /// Repository path in the target, instead of the image's own. Example: `team/base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = path_rule())]
    pub target_repo: Option<String>,
    /// Tag in the target, instead of the image's own. Example: `v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = tag_rule())]
    pub target_tag: Option<String>,
    /// Platforms to copy of a multi-platform image; the index itself stays as it is. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub platforms: Vec<PlatformFilter>,
}

/// Helm charts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Helm {
    /// Chart repositories. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub repositories: Vec<ChartRepository>,
    /// Charts on disk; refused, since there is no disk here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Atomic, validation = Rule::new("size(self) == 0")
        .message("charts on disk cannot be read here: use repositories, with an https:// or oci:// address"))]
    pub local: Vec<Chart>,
}

/// A chart repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.url.startsWith('oci://') || (has(self.charts) && size(self.charts) > 0)")
    .message("a registry does not list the charts below a path: name those that are wanted"))]
pub struct ChartRepository {
    /// Name of the repository, part of the charts' path in the target. Example: `podinfo`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Address: of the folder with `index.yaml`, or what stands before the charts' names in a registry. Example:
    /// `https://example.org/charts` or `oci://example.org/charts`.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() in ['http', 'https', 'oci']")
        .message("not the address of a chart repository: write https://HOST/PATH or oci://HOST/PATH"))]
    pub url: String,
    /// Charts to mirror. Default: all, in every version, but for libraries; with `oci://` at least one has to be named. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub charts: Vec<Chart>,
}

/// A Helm chart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Chart {
    /// Name of the chart.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Version of the chart, or a range such as `^1.2` of which the newest is taken. Default: the newest that is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub version: Option<String>,
    /// Path of a chart on disk; has a meaning under `local` only, which is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub path: Option<String>,
    /// `JSONPath` expressions that find further images in what the chart renders to. Example: `{.spec.custom.image}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub image_paths: Vec<String>,
    /// Platforms to copy of the chart's images. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub platforms: Vec<PlatformFilter>,
    /// Values to render the chart with, on top of its own. Not a key of oc-mirror, which renders with the chart's own only.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub values: serde_json::Map<String, serde_json::Value>,
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// An expression for images that are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedImage {
    /// Regular expression (RE2), not anchored, matched against the source and the destination of an image. Example:
    /// `^quay\.io/acme/legacy`.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("''.matches(self) in [true, false]")
        .message("not a regular expression of the RE2 dialect"))]
    pub name: String,
}

/// Has no effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Has no effect.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
