//! What releases need in the cluster beside mirror sets, and what a cluster finds of each.
//!
//! Signatures and the `UpdateService` follow the same policies as mirror sets and are published in the same `ConfigMap`. They
//! drain nothing and contradict nothing of others, so each is decided on its own: what becomes of it is its [`Fate`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use semver::Version;
use serde::Serialize;

use super::manifests::{SIGNATURES, Stored, UPDATE_SERVICE, text};
use super::merge::within;
use super::set::{Entries, is_own};
use super::{Access, HeldReason, signatures, update_service};
use crate::api::openshift::UpdateService;
use crate::api::{ConflictPolicy, Mode, OutputPolicy, ReleasePart, ReleaseStatus, Removal};
use crate::oci::{Digest, Reference};
use crate::plan::{Asked, Plan, PlanItem, TargetId};
use crate::request::{ClusterOutputs, Identity};
use crate::resolve::{self, Origin, OriginKind, Wanted};

/// A release that is wanted, with what proves that it is genuine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Version.
    pub version: String,
    /// Architecture, or `multi`.
    pub architecture: String,
    /// Digest of its payload.
    pub digest: Digest,
    /// Where its payload is in the target: repository and tag.
    pub payload: Reference,
    /// The signature files, as found in the stores. None if nobody looked.
    pub signatures: Vec<Vec<u8>>,
}

/// All releases of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Releases {
    /// The releases.
    pub list: Vec<Release>,
    /// Whether a graph of updates is wanted.
    pub graph_wanted: bool,
    /// The graph image by digest.
    pub graph: Option<Reference>,
}

impl Releases {
    /// The releases of what was resolved, and where the plan has them; those that are blocked are nowhere.
    pub fn of(wanted: &Wanted, plan: &Plan) -> Self {
        let place = |release: &resolve::release::Release| {
            let payload = |asked: &Asked| asked.origin.kind == OriginKind::Release && asked.named.tag().is_some();
            let mut items = plan.items.iter().filter(|item| item.digest == release.digest);
            items.find(|item| item.asked.iter().any(payload)).map(|item| item.destination.clone())
        };
        let list = wanted.releases.iter().filter_map(|release| {
            Some(Release {
                version: release.version.clone(),
                architecture: release.architecture.clone(),
                digest: release.digest.clone(),
                payload: place(release)?,
                signatures: release.signatures.clone(),
            })
        });
        let graph = |origin: &Origin| origin.kind == OriginKind::Graph;
        let image = plan.items.iter().find(|item| item.asked.iter().any(|asked| graph(&asked.origin)));
        let wanted = image.is_some() || plan.failures.iter().any(|(origin, _)| graph(origin));
        let image = image.map(|item| item.destination.repository().at(item.digest.clone()));
        Self { list: list.collect(), graph_wanted: wanted, graph: image }
    }
}

/// The cluster as far as releases are concerned; what cannot be written is not looked at either.
#[derive(Clone, Debug, Default)]
pub struct ReleaseSnapshot {
    /// What is under the names of our signatures, whoever wrote it.
    pub signatures: Vec<ConfigMap>,
    /// What is under the name of our `UpdateService`, whoever wrote it.
    pub update_service: Option<UpdateService>,
    /// Whether signatures can be written.
    pub signatures_access: Access,
    /// Whether an `UpdateService` can be written.
    pub update_service_access: Access,
}

/// All that is decided from.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseInputs<'a> {
    /// The object.
    pub identity: &'a Identity,
    /// What it wants written.
    pub outputs: &'a ClusterOutputs,
    /// With [`Mode::Plan`] everything is published at most, and nothing is withdrawn.
    pub mode: Mode,
    /// The releases that it wants.
    pub releases: &'a Releases,
    /// What it wants mirrored, and what of that could not be resolved.
    pub plan: &'a Plan,
    /// Indexes of the plan's items that are in the target.
    pub verified: &'a BTreeSet<usize>,
    /// The cluster.
    pub cluster: &'a ReleaseSnapshot,
    /// What was published last: signatures in it stay even if the cluster has lost them.
    pub stored: &'a Stored,
}

impl ReleaseInputs<'_> {
    /// The graph image, once it is in the target.
    fn graph(&self) -> Option<Reference> {
        let graph = self.releases.graph.clone()?;
        let is = |item: &PlanItem| {
            *item.destination.repository() == *graph.repository() && Some(&item.digest) == graph.digest()
        };
        let at = self.plan.items.iter().position(is);
        at.is_none_or(|at| self.verified.contains(&at)).then_some(graph)
    }
}

/// An object that is written for releases.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ReleaseObject {
    /// Signatures.
    Signatures(ConfigMap),
    /// The update service.
    UpdateService(UpdateService),
}

impl ReleaseObject {
    /// The kind's name in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Signatures(_) => "ConfigMap",
            Self::UpdateService(_) => "UpdateService",
        }
    }

    /// The API group; empty for the core group.
    pub fn group(&self) -> &'static str {
        match self {
            Self::Signatures(_) => "",
            Self::UpdateService(_) => "updateservice.operator.openshift.io",
        }
    }

    /// The name.
    pub fn name(&self) -> String {
        match self {
            Self::Signatures(map) => map.name_any(),
            Self::UpdateService(service) => service.name_any(),
        }
    }

    /// True if the cluster's object has all that this one has.
    fn is_met_by(&self, found: &Self) -> bool {
        fn labelled(wanted: &impl kube::ResourceExt, found: &impl kube::ResourceExt) -> bool {
            wanted.labels().iter().all(|(key, value)| found.labels().get(key) == Some(value))
        }
        match (self, found) {
            (Self::Signatures(wanted), Self::Signatures(found)) => {
                wanted.binary_data == found.binary_data && labelled(wanted, found)
            }
            (Self::UpdateService(wanted), Self::UpdateService(found)) => {
                wanted.spec == found.spec && labelled(wanted, found)
            }
            _ => false,
        }
    }

    fn is_own(&self, identity: &Identity) -> bool {
        match self {
            Self::Signatures(map) => is_own(map, identity),
            Self::UpdateService(service) => is_own(service, identity),
        }
    }
}

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is to be in the cluster; `changed` if it must be written for that.
    Apply {
        /// Whether the cluster has something else, or nothing.
        changed: bool,
        /// Whether what the cluster has is somebody else's.
        adopted: bool,
    },
    /// Only published.
    Published,
    /// Only published, although it is to be written.
    Held {
        /// Why.
        reason: HeldReason,
        /// Why, in words.
        why: &'static str,
    },
    /// Not written: what is under its name is somebody else's.
    Conflict,
    /// It was to be written, and that failed; never decided, but noted by who writes.
    Failed,
    /// Not wanted any more, and to be deleted.
    Remove,
    /// Not wanted any more, and left in place.
    Retained,
}

impl Fate {
    /// True if the object will be where its policy wants it.
    fn is_good(&self) -> bool {
        matches!(self, Self::Apply { .. } | Self::Published)
    }
}

/// What is written for releases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReleaseObjects {
    /// The objects, signatures first.
    pub objects: Vec<(ReleaseObject, Fate)>,
    /// Data for the `ConfigMap` with all manifests.
    pub manifests: BTreeMap<String, String>,
}

impl ReleaseObjects {
    /// Decides.
    pub fn new(inputs: &ReleaseInputs<'_>) -> Self {
        // What is not in the target is as if it could not be made.
        let releases = Releases { graph: inputs.graph(), ..inputs.releases.clone() };
        let inputs = &ReleaseInputs { releases: &releases, ..*inputs };
        let decision = Decision { inputs, removing: removing(inputs) };
        let signatures = decision.signatures();
        let service = decision.update_service();
        let mut objects =
            decision.judged(signatures, inputs.outputs.release_signatures, inputs.cluster.signatures_access);
        objects.extend(decision.judged(
            service.into_iter().map(ReleaseObject::UpdateService).collect(),
            inputs.outputs.update_service.policy,
            inputs.cluster.update_service_access,
        ));
        let left = decision.left(&objects);
        objects.extend(left);
        let plan = inputs.plan.digest();
        let mut manifests = BTreeMap::new();
        for (key, kind) in [(SIGNATURES, "ConfigMap"), (UPDATE_SERVICE, "UpdateService")] {
            let shown = objects
                .iter()
                .filter(|(object, fate)| object.kind() == kind && !matches!(fate, Fate::Remove | Fate::Retained));
            // Objects are maps of strings; nothing in them can fail to be written.
            let documents: Vec<_> = shown.filter_map(|(object, _)| serde_yaml::to_string(object).ok()).collect();
            if !documents.is_empty() {
                manifests.insert(key.to_owned(), text(inputs.identity, &plan, "", &documents));
            }
        }
        Self { objects, manifests }
    }

    /// What a cluster finds of each release, newest first. `rules` are the rules for pulls by digest where their policy wants
    /// them; `None` if the policy wants none.
    pub fn statuses(&self, inputs: &ReleaseInputs<'_>, rules: Option<&Entries>) -> Vec<ReleaseStatus> {
        let mut list: Vec<_> = inputs.releases.list.iter().collect();
        list.sort_by_cached_key(|release| {
            let version = Version::parse(&release.version).ok();
            (std::cmp::Reverse(version), release.version.clone(), release.architecture.clone())
        });
        let status = |release: &&Release| {
            let missing = self.missing(inputs, release, rules);
            ReleaseStatus {
                version: release.version.clone(),
                architecture: release.architecture.clone(),
                digest: release.digest.to_string(),
                ready_to_upgrade: missing.is_empty(),
                missing: missing.into_iter().collect(),
            }
        };
        list.iter().map(status).collect()
    }

    fn missing(&self, inputs: &ReleaseInputs<'_>, release: &Release, rules: Option<&Entries>) -> BTreeSet<ReleasePart> {
        let items = &inputs.plan.items;
        let payload = position(inputs.plan, release);
        let needed: Vec<usize> =
            payload.and_then(|at| items.get(at)).map(|item| item.after.clone()).unwrap_or_default();
        let images = needed.iter().copied().chain(payload).filter_map(|at| items.get(at));
        let graph = !inputs.releases.graph_wanted || {
            let policy = inputs.outputs.update_service.policy;
            inputs.graph().is_some() && (policy == OutputPolicy::Disabled || self.has_service())
        };
        [
            (ReleasePart::Payload, payload.is_some_and(|at| inputs.verified.contains(&at))),
            (ReleasePart::Components, payload.is_some() && needed.iter().all(|at| inputs.verified.contains(at))),
            (
                ReleasePart::Signatures,
                inputs.outputs.release_signatures == OutputPolicy::Disabled || self.has_signature(&release.digest),
            ),
            (ReleasePart::Graph, graph),
            (ReleasePart::MirrorSet, rules.is_none_or(|rules| images.clone().all(|item| is_covered(item, rules)))),
        ]
        .into_iter()
        .filter_map(|(part, there)| (!there).then_some(part))
        .collect()
    }

    fn has_signature(&self, digest: &Digest) -> bool {
        self.objects.iter().any(|(object, fate)| match object {
            ReleaseObject::Signatures(map) => {
                let mut keys = map.binary_data.iter().flat_map(BTreeMap::keys);
                fate.is_good() && keys.any(|key| signatures::digest_of(key).as_ref() == Some(digest))
            }
            ReleaseObject::UpdateService(_) => false,
        })
    }

    fn has_service(&self) -> bool {
        self.objects.iter().any(|(object, fate)| matches!(object, ReleaseObject::UpdateService(_)) && fate.is_good())
    }
}

/// True if what is not wanted any more goes.
fn removing(inputs: &ReleaseInputs<'_>) -> bool {
    inputs.mode == Mode::Mirror
        && inputs.outputs.removal == Removal::Remove
        && inputs.plan.complete(inputs.verified)
        && (inputs.releases.graph.is_some() || !inputs.releases.graph_wanted)
}

/// The plan's item that is the payload of a release.
fn position(plan: &Plan, release: &Release) -> Option<usize> {
    plan.items.iter().position(|item| item.destination == release.payload && item.digest == release.digest)
}

/// True if nodes that ask for the image look where it is.
fn is_covered(item: &PlanItem, rules: &Entries) -> bool {
    let place = item.destination.repository().to_string();
    item.asked.iter().all(|asked| {
        let source = asked.named.repository().to_string();
        let rule = rules.values().filter(|rule| within(&source, &rule.source)).max_by_key(|rule| rule.source.len());
        // What keeps its name needs no rule.
        source == place
            || rule.is_some_and(|rule| {
                let rest = source.strip_prefix(&rule.source).unwrap_or_default();
                rule.mirrors.iter().any(|mirror| place.strip_prefix(mirror.as_str()) == Some(rest))
            })
    })
}

struct Decision<'a> {
    inputs: &'a ReleaseInputs<'a>,
    removing: bool,
}

impl Decision<'_> {
    /// The releases whose payload is in the target.
    fn there(&self) -> impl Iterator<Item = &Release> + Clone {
        let inputs = self.inputs;
        let there = |release: &&Release| position(inputs.plan, release).is_some_and(|at| inputs.verified.contains(&at));
        inputs.releases.list.iter().filter(there)
    }

    fn signatures(&self) -> Vec<ReleaseObject> {
        let inputs = self.inputs;
        let found =
            inputs.cluster.signatures.iter().filter(|map| self.may_take(&ReleaseObject::Signatures((*map).clone())));
        let before: Vec<_> = found.chain(&inputs.stored.signatures).collect();
        let maps = signatures::maps(inputs.identity, self.there(), &before, self.removing);
        maps.into_iter().map(ReleaseObject::Signatures).collect()
    }

    fn update_service(&self) -> Option<UpdateService> {
        let inputs = self.inputs;
        let unwanted = self.removing && !inputs.releases.graph_wanted;
        let found = inputs.cluster.update_service.as_ref();
        let found = found.filter(|service| self.may_take(&ReleaseObject::UpdateService((*service).clone())));
        let before = found.or(inputs.stored.update_service.as_ref()).filter(|_| !unwanted);
        // Releases of one object lie in one repository.
        let repository = self.there().map(|release| release.payload.repository()).min();
        let output = &inputs.outputs.update_service;
        update_service::update_service(inputs.identity, output, inputs.releases, repository, before)
    }

    fn may_take(&self, found: &ReleaseObject) -> bool {
        found.is_own(self.inputs.identity) || self.inputs.outputs.conflict_policy == ConflictPolicy::Adopt
    }

    /// What the cluster has under the name of an object.
    fn found(&self) -> Vec<ReleaseObject> {
        let cluster = self.inputs.cluster;
        let maps = cluster.signatures.iter().cloned().map(ReleaseObject::Signatures);
        maps.chain(cluster.update_service.iter().cloned().map(ReleaseObject::UpdateService)).collect()
    }

    fn judged(&self, objects: Vec<ReleaseObject>, policy: OutputPolicy, access: Access) -> Vec<(ReleaseObject, Fate)> {
        let policy = match (policy, self.inputs.mode) {
            (OutputPolicy::Disabled, _) => return Vec::new(),
            (OutputPolicy::Apply, Mode::Mirror) => OutputPolicy::Apply,
            _ => OutputPolicy::Publish,
        };
        let found = self.found();
        let fate = |object: &ReleaseObject| {
            if policy == OutputPolicy::Publish {
                return Fate::Published;
            }
            if let Some((reason, why)) = access.refusal() {
                return Fate::Held { reason, why };
            }
            match found.iter().find(|found| found.kind() == object.kind() && found.name() == object.name()) {
                Some(found) if !self.may_take(found) => Fate::Conflict,
                Some(found) => {
                    let adopted = !found.is_own(self.inputs.identity);
                    Fate::Apply { changed: adopted || !object.is_met_by(found), adopted }
                }
                None => Fate::Apply { changed: true, adopted: false },
            }
        };
        objects
            .into_iter()
            .map(|object| {
                let fate = fate(&object);
                (object, fate)
            })
            .collect()
    }

    /// Objects of ours in the cluster that nothing is wanted of there any more.
    fn left(&self, judged: &[(ReleaseObject, Fate)]) -> Vec<(ReleaseObject, Fate)> {
        let applied = |found: &ReleaseObject| {
            judged.iter().any(|(object, fate)| {
                matches!(fate, Fate::Apply { .. }) && object.kind() == found.kind() && object.name() == found.name()
            })
        };
        let own = self.found().into_iter().filter(|found| found.is_own(self.inputs.identity) && !applied(found));
        own.map(|found| {
            let access = match &found {
                ReleaseObject::Signatures(_) => self.inputs.cluster.signatures_access,
                ReleaseObject::UpdateService(_) => self.inputs.cluster.update_service_access,
            };
            let goes = self.removing && access == Access::Writable;
            (found, if goes { Fate::Remove } else { Fate::Retained })
        })
        .collect()
    }
}

/// What to write again of what was published as written: what the cluster has lost or somebody has changed.
pub fn release_repair(
    identity: &Identity,
    outputs: &ClusterOutputs,
    stored: &Stored,
    snapshot: &ReleaseSnapshot,
) -> Vec<ReleaseObject> {
    let plan = Plan {
        version: Plan::VERSION,
        target: TargetId(String::new()),
        items: Vec::new(),
        blocked: Vec::new(),
        failures: Vec::new(),
        notes: Vec::new(),
        partial: false,
    };
    let inputs = ReleaseInputs {
        identity,
        outputs,
        mode: Mode::Mirror,
        releases: &Releases { graph_wanted: true, ..Releases::default() },
        plan: &plan,
        verified: &BTreeSet::new(),
        cluster: snapshot,
        stored,
    };
    // Nothing is wanted and nothing goes, so what was published is what comes out.
    let decided = ReleaseObjects::new(&inputs).objects.into_iter();
    let changed =
        |(object, fate): (ReleaseObject, Fate)| matches!(fate, Fate::Apply { changed: true, .. }).then_some(object);
    decided.filter_map(changed).collect()
}
