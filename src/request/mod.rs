//! The validated spec: what everything below works with.
//!
//! [`Request::try_new`] is the only way in and lists every fault at once, each with the field it is in and with what to write
//! instead. It checks all that the API server's rules check: objects may have been stored before a rule existed, and the
//! command line has no API server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use url::Url;

pub use crate::api::{
    Attachments, Charts, ConflictPolicy, Disruption, MirrorSourcePolicy, Mode, OutputPolicy, PublishPolicy,
    ReleaseSignatures, Removal, Tls,
};
use crate::oci::{Platform, Reference, Registry, RepositoryPath, Tag};

mod build;
mod chart_version;
mod content;
mod helm;
mod image_path;
mod key;
mod operators;
mod pattern;
mod release;
mod units;

pub use build::{is_forced, request_token};
pub use chart_version::{Constraint, loose};
pub use helm::{ChartPlace, ChartRepository, ChartRequest, HelmRequest};
pub use image_path::ImagePath;
pub use operators::CatalogRequest;
pub use release::{BootImage, MULTI, Product, ReleaseChannel, ReleaseChoice, ReleaseRequest, Versions};

/// One thing that is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, such as `spec.mirror.additionalImages[3].name`.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Everything that is wrong with a spec; at least one fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The faults, in the order of the fields.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Namespace; `default` for a file that names none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty outside a cluster.
    pub uid: String,
}

/// One entry of `additionalImages`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdditionalImage {
    /// The image as written.
    pub written: String,
    /// The same without tag and digest: destinations are made from this, not from what runtimes make of it.
    pub name: String,
    /// The image as container runtimes read it.
    pub named: Reference,
    /// Path in the target instead of the image's own.
    pub target_repo: Option<RepositoryPath>,
    /// Tag in the target instead of the image's own.
    pub target_tag: Option<Tag>,
    /// Platforms to copy of an index; empty for all.
    pub platforms: BTreeSet<Platform>,
    /// The expression of `blockedImages` that leaves it out: nobody is asked about it.
    pub blocked_by: Option<String>,
}

/// An expression of `blockedImages`.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The expression as written.
    pub text: String,
    /// The same, compiled; not anchored.
    pub regex: regex::Regex,
}

impl Pattern {
    /// The expression that leaves an image out: one that matches somewhere in its name as written or in its destination. The
    /// smallest of several, so that the order in which they are written does not matter.
    pub fn blocking<'a>(patterns: &'a [Self], written: &str, destination: Option<&str>) -> Option<&'a str> {
        let written = written.split_once("://").map_or(written, |(_, rest)| rest);
        let hit = |pattern: &&Self| {
            pattern.regex.is_match(written) || destination.is_some_and(|name| pattern.regex.is_match(name))
        };
        patterns.iter().filter(hit).map(|pattern| pattern.text.as_str()).min()
    }
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The registry.
    pub registry: Registry,
    /// Path below which everything is put.
    pub prefix: Option<RepositoryPath>,
    /// Name of the Secret with credentials.
    pub credentials: Option<String>,
    /// Name of the `ConfigMap` with certificates, and key in it.
    pub trust_bundle: Option<(String, String)>,
    /// How the registry is reached.
    pub tls: Tls,
}

/// Pull from other places than images name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What images name: a registry, or a registry and the beginning of a path.
    pub source: String,
    /// Where to pull from instead, in this order; same form.
    pub mirrors: Vec<String>,
}

/// Where from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Name of the Secret with credentials.
    pub credentials: Option<String>,
    /// Name of the `ConfigMap` with certificates, and key in it.
    pub trust_bundle: Option<(String, String)>,
    /// How single hosts are reached; others with [`Tls::Verify`].
    pub hosts: BTreeMap<Registry, Tls>,
    /// Other places to pull from, sorted by source.
    pub overrides: Vec<Override>,
    /// Where the graph of updates is asked for; none for the public service of a release's project.
    pub update_service: Option<Url>,
    /// Stores of release signatures, in order; empty for the public ones of a release's project.
    pub signature_stores: Vec<Url>,
    /// Name of the `ConfigMap` with the keys of signers, and key in it; none for those of Red Hat.
    pub signature_keys: Option<(String, String)>,
    /// Where the data of the update graph is; none for the public one.
    pub graph_data: Option<Url>,
    /// The image that the one with the update graph is built on; none for [`GRAPH_BASE_IMAGE`].
    pub graph_base_image: Option<Reference>,
}

/// Where releases are asked for if an object does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The graph of updates; none for the public service of a release's project.
    pub update_service: Option<Url>,
    /// Stores of release signatures, in order; empty for the public ones of a release's project.
    pub signature_stores: Vec<Url>,
}

/// How to copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// The most bulk transfers at a time.
    pub concurrency: Option<NonZeroUsize>,
    /// The most bytes a second.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// Whether attachments travel along.
    pub attachments: Attachments,
}

/// What happens to one kind of mirror set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorSetOutput {
    /// Whether it is written.
    pub policy: OutputPolicy,
    /// Whether nodes may fall back to the source.
    pub source_policy: MirrorSourcePolicy,
}

/// What happens to the `UpdateService`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateServiceOutput {
    /// Whether it is written.
    pub policy: OutputPolicy,
    /// Where.
    pub namespace: String,
    /// Its pods.
    pub replicas: i32,
}

/// What happens to the objects of one kind for catalogs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogOutput {
    /// Whether they are written.
    pub policy: OutputPolicy,
    /// Where; none for a kind without namespaces.
    pub namespace: Option<String>,
    /// What the default name begins with.
    pub prefix: &'static str,
    /// Other names, by the catalog as written.
    pub names: BTreeMap<String, String>,
    /// Default names that several catalogs would have: each of these gets its tag as well.
    pub contested: BTreeSet<String>,
}

impl CatalogOutput {
    /// Nothing is written.
    pub fn off() -> Self {
        Self {
            policy: OutputPolicy::Disabled,
            namespace: None,
            prefix: "",
            names: BTreeMap::new(),
            contested: BTreeSet::new(),
        }
    }

    /// The name of the object for a catalog that is written as `source` and lies at `path` and `tag` in the target.
    pub fn name(&self, source: &str, path: &str, tag: &str) -> String {
        if let Some(name) = self.names.get(source) {
            return name.clone();
        }
        let name = operators::object_name(self.prefix, path);
        if self.contested.contains(&name) { operators::with_tag(&name, tag) } else { name }
    }
}

/// What is written to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOutputs {
    /// `ImageDigestMirrorSet`.
    pub idms: MirrorSetOutput,
    /// `ImageTagMirrorSet`.
    pub itms: MirrorSetOutput,
    /// Files for containerd; none to decide by what the cluster serves.
    pub containerd_hosts: Option<PublishPolicy>,
    /// `CatalogSource`s.
    pub catalog_source: CatalogOutput,
    /// `ClusterCatalog`s.
    pub cluster_catalog: CatalogOutput,
    /// `UpdateService`.
    pub update_service: UpdateServiceOutput,
    /// `ConfigMap`s with release signatures.
    pub release_signatures: OutputPolicy,
    /// Which changes may be written.
    pub disruption: Disruption,
    /// What happens to rules that are not wanted any more.
    pub removal: Removal,
    /// What happens to foreign objects with our names.
    pub conflict_policy: ConflictPolicy,
}

/// A spec without faults, with defaults filled in.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which object this is.
    pub identity: Identity,
    /// Generation of the spec; 0 outside a cluster.
    pub generation: i64,
    /// `platform`; none if it asks for no release.
    pub releases: Option<ReleaseRequest>,
    /// `operators`, in the user's order.
    pub catalogs: Vec<CatalogRequest>,
    /// `helm`; none if it asks for no chart.
    pub helm: Option<HelmRequest>,
    /// `additionalImages`, in the user's order.
    pub additional: Vec<AdditionalImage>,
    /// `blockedImages`, in the user's order.
    pub blocked: Vec<Pattern>,
    /// Where to.
    pub target: Target,
    /// Where from.
    pub source: Source,
    /// Time between syncs; none to sync on change and request only.
    pub interval: Option<Duration>,
    /// Do nothing.
    pub suspend: bool,
    /// Copy or only plan.
    pub mode: Mode,
    /// No progress for this long is reported as stalled.
    pub progress_deadline: Duration,
    /// How to copy.
    pub copy: CopyOptions,
    /// Whether releases must be signed.
    pub release_signatures: ReleaseSignatures,
    /// What is written to the cluster.
    pub cluster: ClusterOutputs,
    /// Value of the annotation that asks for a sync.
    pub request_token: Option<String>,
    /// What has no effect, in sentences for the user.
    pub warnings: Vec<String>,
}

/// Default of `progressDeadline`.
pub const PROGRESS_DEADLINE: Duration = Duration::from_hours(2);
/// Least value of `interval` and `progressDeadline`.
pub const SHORTEST: Duration = Duration::from_mins(5);
/// Default of the key of a trust bundle: the one OpenShift injects the cluster's bundle into.
pub const TRUST_BUNDLE_KEY: &str = "ca-bundle.crt";
/// Default of the key of the keys that signatures are checked with.
pub const SIGNATURE_KEYS_KEY: &str = "keys.asc";
/// Default of the image that the one with the update graph is built on: that of oc-mirror.
pub const GRAPH_BASE_IMAGE: &str = "registry.access.redhat.com/ubi9/ubi:latest";
/// Default of the namespace of `CatalogSource`s: the one that OLM offers to all others on OpenShift.
pub const CATALOG_SOURCE_NAMESPACE: &str = "openshift-marketplace";
/// Default of the namespace of the `UpdateService`: the one that its operator is installed in.
pub const UPDATE_SERVICE_NAMESPACE: &str = "openshift-update-service";
/// Default of the replicas of the `UpdateService`.
pub const UPDATE_SERVICE_REPLICAS: i32 = 2;

#[cfg(test)]
mod tests;
