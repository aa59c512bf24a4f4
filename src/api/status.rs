//! The status of `ImageSetMirror`: bounded in every list and string, under 64 KiB at most.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The bounds of the status; whoever writes it cuts to these.
pub mod limits {
    /// Entries of `failures`.
    pub const FAILURES: usize = 20;
    /// Entries of `resources`.
    pub const RESOURCES: usize = 48;
    /// Entries of `mirrored.releases`.
    pub const RELEASES: usize = 32;
    /// Entries of `mirrored.catalogs`.
    pub const CATALOGS: usize = 16;
    /// Bytes of each text of a catalog.
    pub const CATALOG_TEXT: usize = 96;
    /// Entries of `history`.
    pub const HISTORY: usize = 5;
    /// Conditions.
    pub const CONDITIONS: usize = 8;
    /// Bytes of an image, an origin or a message of a failure, and of most other texts.
    pub const TEXT: usize = 256;
    /// Bytes of a digest.
    pub const DIGEST: usize = 72;
    /// Bytes of a condition's message.
    pub const CONDITION_MESSAGE: usize = 1024;
}

/// What is known about the object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSetMirrorStatus {
    /// The generation of the spec that this status is about; -1 before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The last value of the annotation `mirror.openshift.io/requested-at` that was acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub last_handled_request: Option<String>,
    /// Conditions: Ready always; Reconciling, Stalled and Suspended only while they are true; and details.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// When syncs ran and will run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncStatus>,
    /// How far the current or last sync got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// What was last found to be wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// What was last found to be complete in the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirrored: Option<MirroredStatus>,
    /// The first images that are missing in the target; `progress.images.failed` is their true number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub failures: Vec<FailedImage>,
    /// What was written to this cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 48))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["group".into(), "kind".into(), "name".into()]))]
    pub resources: Vec<ResourceStatus>,
    /// The last syncs, newest first; equal ones are counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub history: Vec<HistoryEntry>,
}

/// When syncs ran and will run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    /// Start of the current or last sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// End of the last sync, whatever its outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt_time: Option<Time>,
    /// End of the last sync that found or made everything complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
    /// When the next sync is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,
    /// Syncs that failed since the last success.
    #[serde(default, skip_serializing_if = "super::is_default")]
    #[schemars(range(min = 0))]
    pub consecutive_failures: i64,
    /// Names what the last complete sync was made from: everything of the spec that a sync reads, and the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub key: Option<String>,
}

/// How far a sync got.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressStatus {
    /// Images in the target, of all: `412/430`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub summary: String,
    /// The same in numbers.
    #[serde(default)]
    pub images: ImageProgress,
    /// Bytes.
    #[serde(default)]
    pub bytes: BytesProgress,
}

/// Numbers of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageProgress {
    /// Images wanted.
    #[serde(default)]
    pub total: i64,
    /// Images copied by this sync.
    #[serde(default)]
    pub copied: i64,
    /// Images that were in the target already.
    #[serde(default)]
    pub present: i64,
    /// Images that could not be copied.
    #[serde(default)]
    pub failed: i64,
}

/// Numbers of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BytesProgress {
    /// Sent to the target.
    #[serde(default)]
    pub copied: i64,
    /// Taken by the target from another of its repositories.
    #[serde(default)]
    pub mounted: i64,
    /// In the target already.
    #[serde(default)]
    pub present: i64,
}

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Digest over what is copied and where to; equal plans have equal digests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 72))]
    pub digest: String,
    /// Images in the plan.
    #[serde(default)]
    pub images: i64,
    /// Images that the plan before did not have.
    #[serde(default)]
    pub added: i64,
    /// Images that the plan before had and this one has not.
    #[serde(default)]
    pub removed: i64,
    /// Images by the kind of content they belong to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub by_origin: BTreeMap<String, i64>,
}

/// What is complete in the target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirroredStatus {
    /// Digest of the plan that is complete; equals `plan.digest` when in sync.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 72))]
    pub digest: String,
    /// The releases, newest first; at most the 32 newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub releases: Vec<ReleaseStatus>,
    /// The catalogs of operators, in the order of the spec; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub catalogs: Vec<CatalogStatus>,
}

/// A catalog of operators.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogStatus {
    /// The catalog as in `operators`.
    #[schemars(length(max = 96))]
    pub source: String,
    /// Its digest in the source.
    #[schemars(length(max = 71))]
    pub resolved: String,
    /// Where it is in the target.
    #[schemars(length(max = 96))]
    pub target: String,
    /// Its digest there.
    #[schemars(length(max = 71))]
    pub target_digest: String,
    /// True if it is there with every image that it lists. If not, what was there before is.
    pub published: bool,
    /// Packages in it.
    pub packages: i64,
    /// Bundles in it.
    pub bundles: i64,
    /// Images that they need.
    pub images: i64,
    /// How many bundles are left out, since an image that they need does not exist.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub left_out: i64,
    /// The first of them; or what was asked for and is not there, or is needed and was not asked for. The report has it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 96))]
    pub message: String,
}

/// A release, and what a cluster finds of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseStatus {
    /// Version.
    #[schemars(length(max = 48))]
    pub version: String,
    /// Architecture, or `multi`.
    #[schemars(length(max = 16))]
    pub architecture: String,
    /// Digest of its payload.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// True if nothing is missing: a cluster that uses the mirror can be updated to this release.
    pub ready_to_upgrade: bool,
    /// What is not there, as far as the object asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub missing: Vec<ReleasePart>,
}

/// What a cluster needs of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ReleasePart {
    /// The payload, in the target.
    Payload,
    /// Every image that the payload names, in the target.
    Components,
    /// The signatures, written or published as the policy says.
    Signatures,
    /// The graph image in the target, and the `UpdateService` written or published as the policy says.
    Graph,
    /// Mirror rules for all of its images, written or published as the policy says.
    MirrorSet,
}

/// An image that is missing in the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedImage {
    /// The image.
    #[schemars(length(max = 256))]
    pub image: String,
    /// What asked for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub origin: String,
    /// At which stage it failed: `Resolve` or `Copy`.
    #[schemars(length(max = 32))]
    pub stage: String,
    /// One of a closed list of reasons.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What happened and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub message: String,
}

/// An object of the cluster that was written for this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// API group; empty for the core group.
    #[serde(default)]
    #[schemars(length(max = 48))]
    pub group: String,
    /// Kind.
    #[schemars(length(max = 32))]
    pub kind: String,
    /// Name.
    #[schemars(length(max = 144))]
    pub name: String,
    /// What became of it.
    pub state: ResourceState,
    /// Names its content.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16))]
    pub hash: String,
    /// What writing the held-back change would do to nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub impact: Option<String>,
}

/// What became of an object that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResourceState {
    /// Written.
    Applied,
    /// Only in the `ConfigMap` with all manifests.
    Published,
    /// Not wanted any more and left in place.
    Retained,
    /// Held back: writing it would drain nodes.
    PendingDisruption,
    /// Not written: the namespace may not write to the cluster.
    NamespaceNotAllowed,
    /// Not written: the cluster does not have this kind.
    KindNotServed,
    /// Not written: the cluster refuses it.
    AdmissionDenied,
    /// Not written: an object of this name is somebody else's.
    Conflict,
    /// Not written: nodes could not merge it with a foreign mirror set.
    MirrorPolicyConflict,
    /// Not written: the API server failed.
    Failed,
}

/// One sync, or several equal ones in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Digest of the plan.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 72))]
    pub digest: String,
    /// How it ended.
    pub outcome: HistoryOutcome,
    /// End of the first of them.
    pub first_time: Time,
    /// End of the last of them.
    pub last_time: Time,
    /// How long the last of them took. Example: `38m12s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 32))]
    pub duration: String,
    /// How many there were.
    #[serde(default)]
    pub count: i64,
    /// Images in the plan.
    #[serde(default)]
    pub images: i64,
    /// Bytes that the last of them sent to the target.
    #[serde(default)]
    pub bytes: i64,
}

/// How a sync ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HistoryOutcome {
    /// Everything is in the target.
    Succeeded,
    /// Something is missing.
    Failed,
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn a_status_at_all_its_bounds_stays_small() {
        let text = |length: usize| "ä".repeat(length / 2);
        let time = Time(Timestamp::UNIX_EPOCH);
        let status = ImageSetMirrorStatus {
            observed_generation: Some(i64::MAX),
            last_handled_request: Some(text(limits::TEXT)),
            conditions: (0..limits::CONDITIONS)
                .map(|_| Condition {
                    type_: text(64),
                    status: "Unknown".into(),
                    reason: text(64),
                    message: text(limits::CONDITION_MESSAGE),
                    observed_generation: Some(i64::MAX),
                    last_transition_time: time.clone(),
                })
                .collect(),
            plan: Some(PlanStatus {
                digest: text(limits::DIGEST),
                by_origin: (0..8).map(|n| (format!("{}{n}", text(60)), i64::MAX)).collect(),
                ..PlanStatus::default()
            }),
            mirrored: Some(MirroredStatus {
                digest: text(limits::DIGEST),
                releases: vec![
                    ReleaseStatus {
                        version: text(48),
                        architecture: text(16),
                        digest: text(70),
                        ready_to_upgrade: false,
                        missing: vec![
                            ReleasePart::Payload,
                            ReleasePart::Components,
                            ReleasePart::Signatures,
                            ReleasePart::Graph,
                            ReleasePart::MirrorSet,
                        ],
                    };
                    limits::RELEASES
                ],
                catalogs: vec![
                    CatalogStatus {
                        source: text(limits::CATALOG_TEXT),
                        resolved: text(70),
                        target: text(limits::CATALOG_TEXT),
                        target_digest: text(70),
                        published: false,
                        packages: i64::MAX,
                        bundles: i64::MAX,
                        images: i64::MAX,
                        left_out: i64::MAX,
                        message: text(limits::CATALOG_TEXT),
                    };
                    limits::CATALOGS
                ],
            }),
            failures: vec![
                FailedImage {
                    image: text(limits::TEXT),
                    origin: text(limits::TEXT),
                    stage: text(32),
                    reason: text(64),
                    message: text(limits::TEXT),
                };
                limits::FAILURES
            ],
            resources: vec![
                ResourceStatus {
                    group: text(48),
                    kind: text(32),
                    name: text(144),
                    state: ResourceState::PendingDisruption,
                    hash: text(16),
                    impact: None,
                };
                limits::RESOURCES
            ],
            history: vec![
                HistoryEntry {
                    digest: text(limits::DIGEST),
                    outcome: HistoryOutcome::Succeeded,
                    first_time: time.clone(),
                    last_time: time.clone(),
                    duration: text(32),
                    count: i64::MAX,
                    images: i64::MAX,
                    bytes: i64::MAX,
                };
                limits::HISTORY
            ],
            ..ImageSetMirrorStatus::default()
        };
        let size = serde_json::to_string(&status).unwrap().len();
        assert!(size < 64 * 1024, "{size}");
    }

    #[test]
    fn the_bounds_of_the_schema_are_the_constants() {
        let schema = &super::super::schema::SCHEMA["properties"]["status"]["properties"];
        for (list, limit) in [
            ("failures", limits::FAILURES),
            ("resources", limits::RESOURCES),
            ("history", limits::HISTORY),
            ("conditions", limits::CONDITIONS),
        ] {
            assert_eq!(schema[list]["maxItems"], limit, "{list}");
        }
        let releases = &schema["mirrored"]["properties"]["releases"];
        assert_eq!(releases["maxItems"], limits::RELEASES);
        let catalogs = &schema["mirrored"]["properties"]["catalogs"];
        assert_eq!(catalogs["maxItems"], limits::CATALOGS);
        assert_eq!(catalogs["items"]["properties"]["message"]["maxLength"], limits::CATALOG_TEXT);
        assert_eq!(schema["failures"]["items"]["properties"]["message"]["maxLength"], limits::TEXT);
    }
}
