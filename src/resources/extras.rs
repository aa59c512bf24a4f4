//! What a cluster needs beside mirror sets: for releases and for catalogs of operators.
//!
//! These objects follow the same policies as mirror sets and are published in the same `ConfigMap`. They drain nothing and
//! contradict nothing of others, so each is decided on its own: what becomes of it is its [`Fate`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::catalogs::{self, Catalog, CatalogKind};
use super::manifests::{CATALOG_SOURCES, CLUSTER_CATALOGS, SIGNATURES, Stored, UPDATE_SERVICE, text};
use super::releases::{Release, Releases, position};
use super::set::is_own;
use super::{Access, HeldReason, signatures, update_service};
use crate::api::openshift::{CatalogSource, ClusterCatalog, UpdateService};
use crate::api::{ConflictPolicy, Mode, OWNER_REF_ANNOTATION, OutputPolicy, Removal};
use crate::oci::Reference;
use crate::plan::{Plan, PlanItem, TargetId};
use crate::request::{ClusterOutputs, Identity};

/// The cluster as far as these objects are concerned; what cannot be written is not looked at either.
#[derive(Clone, Debug, Default)]
pub struct ExtraSnapshot {
    /// What is under the names of our signatures, whoever wrote it.
    pub signatures: Vec<ConfigMap>,
    /// What is under the name of our `UpdateService`, whoever wrote it.
    pub update_service: Option<UpdateService>,
    /// What is under the names of our catalogs, whoever wrote it.
    pub catalogs: Vec<Extra>,
    /// Whether signatures can be written.
    pub signatures_access: Access,
    /// Whether an `UpdateService` can be written.
    pub update_service_access: Access,
    /// Whether a `CatalogSource` can be written.
    pub catalog_source_access: Access,
    /// Whether a `ClusterCatalog` can be written.
    pub cluster_catalog_access: Access,
}

impl ExtraSnapshot {
    /// Whether objects of a kind can be written.
    pub fn catalog_access(&self, kind: CatalogKind) -> Access {
        match kind {
            CatalogKind::Source => self.catalog_source_access,
            CatalogKind::Cluster => self.cluster_catalog_access,
        }
    }
}

/// All that is decided from.
#[derive(Clone, Copy, Debug)]
pub struct ExtraInputs<'a> {
    /// The object.
    pub identity: &'a Identity,
    /// What it wants written.
    pub outputs: &'a ClusterOutputs,
    /// With [`Mode::Plan`] everything is published at most, and nothing is withdrawn.
    pub mode: Mode,
    /// The releases that it wants.
    pub releases: &'a Releases,
    /// The catalogs that it wants.
    pub catalogs: &'a [Catalog],
    /// What it wants mirrored, and what of that could not be resolved.
    pub plan: &'a Plan,
    /// Indexes of the plan's items that are in the target.
    pub verified: &'a BTreeSet<usize>,
    /// The cluster.
    pub cluster: &'a ExtraSnapshot,
    /// What was published last: signatures in it stay even if the cluster has lost them.
    pub stored: &'a Stored,
}

impl ExtraInputs<'_> {
    /// The graph image, once it is in the target.
    pub(super) fn graph(&self) -> Option<Reference> {
        let graph = self.releases.graph.clone()?;
        let is = |item: &PlanItem| {
            *item.destination.repository() == *graph.repository() && Some(&item.digest) == graph.digest()
        };
        let at = self.plan.items.iter().position(is);
        at.is_none_or(|at| self.verified.contains(&at)).then_some(graph)
    }
}

/// An object that is written beside the mirror sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Extra {
    /// Signatures of releases.
    Signatures(ConfigMap),
    /// The update service.
    UpdateService(UpdateService),
    /// A catalog, for the OLM that reads `CatalogSource`s.
    CatalogSource(CatalogSource),
    /// A catalog, for the OLM that reads `ClusterCatalog`s.
    ClusterCatalog(ClusterCatalog),
}

impl Extra {
    /// The kind's name in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Signatures(_) => "ConfigMap",
            Self::UpdateService(_) => "UpdateService",
            Self::CatalogSource(_) => CatalogKind::Source.kind(),
            Self::ClusterCatalog(_) => CatalogKind::Cluster.kind(),
        }
    }

    /// The API group; empty for the core group.
    pub fn group(&self) -> &'static str {
        match self {
            Self::Signatures(_) => "",
            Self::UpdateService(_) => "updateservice.operator.openshift.io",
            Self::CatalogSource(_) => CatalogKind::Source.group(),
            Self::ClusterCatalog(_) => CatalogKind::Cluster.group(),
        }
    }

    /// The name.
    pub fn name(&self) -> String {
        match self {
            Self::Signatures(map) => map.name_any(),
            Self::UpdateService(service) => service.name_any(),
            Self::CatalogSource(source) => source.name_any(),
            Self::ClusterCatalog(catalog) => catalog.name_any(),
        }
    }

    /// The namespace; empty for what has none.
    pub fn namespace(&self) -> String {
        let namespace = match self {
            Self::Signatures(map) => map.namespace(),
            Self::UpdateService(service) => service.namespace(),
            Self::CatalogSource(source) => source.namespace(),
            Self::ClusterCatalog(_) => None,
        };
        namespace.unwrap_or_default()
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
            (Self::CatalogSource(wanted), Self::CatalogSource(found)) => {
                has(&json!(found.spec), &json!(wanted.spec)) && labelled(wanted, found)
            }
            (Self::ClusterCatalog(wanted), Self::ClusterCatalog(found)) => {
                has(&json!(found.spec), &json!(wanted.spec)) && labelled(wanted, found)
            }
            _ => false,
        }
    }

    /// True if it was written for an object, this one or another.
    fn is_owned(&self) -> bool {
        let annotations = match self {
            Self::Signatures(map) => map.annotations(),
            Self::UpdateService(service) => service.annotations(),
            Self::CatalogSource(source) => source.annotations(),
            Self::ClusterCatalog(catalog) => catalog.annotations(),
        };
        annotations.contains_key(OWNER_REF_ANNOTATION)
    }

    fn is_own(&self, identity: &Identity) -> bool {
        match self {
            Self::Signatures(map) => is_own(map, identity),
            Self::UpdateService(service) => is_own(service, identity),
            Self::CatalogSource(source) => is_own(source, identity),
            Self::ClusterCatalog(catalog) => is_own(catalog, identity),
        }
    }
}

/// True if a value of the cluster has all that is wanted, whatever else the API server has filled in.
fn has(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| found.get(key).is_some_and(|found| has(found, value)))
        }
        _ => found == wanted,
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
    pub(super) fn is_good(&self) -> bool {
        matches!(self, Self::Apply { .. } | Self::Published)
    }
}

/// What is written beside the mirror sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// The objects, signatures first and the update service last.
    pub objects: Vec<(Extra, Fate)>,
    /// Data for the `ConfigMap` with all manifests.
    pub manifests: BTreeMap<String, String>,
}

impl Extras {
    /// Decides.
    pub fn new(inputs: &ExtraInputs<'_>) -> Self {
        // What is not in the target is as if it could not be made.
        let releases = Releases { graph: inputs.graph(), ..inputs.releases.clone() };
        let inputs = &ExtraInputs { releases: &releases, ..*inputs };
        let decision = Decision { inputs, removing: removing(inputs) };
        let signatures = decision.signatures();
        let service = decision.update_service();
        let mut objects =
            decision.judged(signatures, inputs.outputs.release_signatures, inputs.cluster.signatures_access);
        for kind in CatalogKind::ALL {
            let policy = kind.output(inputs.outputs).policy;
            objects.extend(decision.judged(decision.catalogs(kind), policy, inputs.cluster.catalog_access(kind)));
        }
        objects.extend(decision.judged(
            service.into_iter().map(Extra::UpdateService).collect(),
            inputs.outputs.update_service.policy,
            inputs.cluster.update_service_access,
        ));
        let left = decision.left(&objects);
        objects.extend(left);
        let plan = inputs.plan.digest();
        let mut manifests = BTreeMap::new();
        let keys = [
            (SIGNATURES, "ConfigMap"),
            (CATALOG_SOURCES, CatalogKind::Source.kind()),
            (CLUSTER_CATALOGS, CatalogKind::Cluster.kind()),
            (UPDATE_SERVICE, "UpdateService"),
        ];
        for (key, kind) in keys {
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
}

/// True if what is not wanted any more goes.
fn removing(inputs: &ExtraInputs<'_>) -> bool {
    inputs.mode == Mode::Mirror
        && inputs.outputs.removal == Removal::Remove
        && inputs.plan.complete(inputs.verified)
        && (inputs.releases.graph.is_some() || !inputs.releases.graph_wanted)
}

struct Decision<'a> {
    inputs: &'a ExtraInputs<'a>,
    removing: bool,
}

impl Decision<'_> {
    /// The releases whose payload is in the target.
    fn there(&self) -> impl Iterator<Item = &Release> + Clone {
        let inputs = self.inputs;
        let there = |release: &&Release| position(inputs.plan, release).is_some_and(|at| inputs.verified.contains(&at));
        inputs.releases.list.iter().filter(there)
    }

    fn signatures(&self) -> Vec<Extra> {
        let inputs = self.inputs;
        let found = inputs.cluster.signatures.iter().filter(|map| self.may_take(&Extra::Signatures((*map).clone())));
        let before: Vec<_> = found.chain(&inputs.stored.signatures).collect();
        let maps = signatures::maps(inputs.identity, self.there(), &before, self.removing);
        maps.into_iter().map(Extra::Signatures).collect()
    }

    fn update_service(&self) -> Option<UpdateService> {
        let inputs = self.inputs;
        let unwanted = self.removing && !inputs.releases.graph_wanted;
        let found = inputs.cluster.update_service.as_ref();
        let found = found.filter(|service| self.may_take(&Extra::UpdateService((*service).clone())));
        let before = found.or(inputs.stored.update_service.as_ref()).filter(|_| !unwanted);
        // Releases of one object lie in one repository.
        let repository = self.there().map(|release| release.payload.repository()).min();
        let output = &inputs.outputs.update_service;
        update_service::update_service(inputs.identity, output, inputs.releases, repository, before)
    }

    /// The objects of one kind for all catalogs that were published, and those that were written for others before.
    fn catalogs(&self, kind: CatalogKind) -> Vec<Extra> {
        let inputs = self.inputs;
        let found = inputs.cluster.catalogs.iter().filter(|found| self.may_take(found));
        // What was published goes before what somebody has made of it.
        let before = inputs.stored.catalogs.iter().chain(found).filter(|known| known.kind() == kind.kind());
        let before: Vec<&Extra> = before.collect();
        catalogs::objects(inputs, kind, &before, self.removing)
    }

    fn may_take(&self, found: &Extra) -> bool {
        let adopt = self.inputs.outputs.conflict_policy == ConflictPolicy::Adopt;
        // Two objects that take it from each other would never come to rest.
        found.is_own(self.inputs.identity) || adopt && !found.is_owned()
    }

    /// What the cluster has under the name of an object.
    fn found(&self) -> Vec<Extra> {
        let cluster = self.inputs.cluster;
        let maps = cluster.signatures.iter().cloned().map(Extra::Signatures);
        let services = cluster.update_service.iter().cloned().map(Extra::UpdateService);
        maps.chain(services).chain(cluster.catalogs.iter().cloned()).collect()
    }

    fn judged(&self, objects: Vec<Extra>, policy: OutputPolicy, access: Access) -> Vec<(Extra, Fate)> {
        let policy = match (policy, self.inputs.mode) {
            (OutputPolicy::Disabled, _) => return Vec::new(),
            (OutputPolicy::Apply, Mode::Mirror) => OutputPolicy::Apply,
            _ => OutputPolicy::Publish,
        };
        let found = self.found();
        let fate = |object: &Extra| {
            if policy == OutputPolicy::Publish {
                return Fate::Published;
            }
            if let Some((reason, why)) = access.refusal() {
                return Fate::Held { reason, why };
            }
            match found.iter().find(|found| same(object, found)) {
                Some(found) if !self.may_take(found) => Fate::Conflict,
                Some(found) => {
                    let adopted = !found.is_own(self.inputs.identity);
                    Fate::Apply { changed: adopted || !object.is_met_by(found) || self.is_new(object), adopted }
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

    /// True if something else was published for a catalog before: what that had and this has not has to go as well.
    fn is_new(&self, object: &Extra) -> bool {
        let stored = self.inputs.stored.catalogs.iter().find(|stored| same(stored, object));
        stored.is_some_and(|stored| json!(stored) != json!(object))
    }

    /// Objects of ours in the cluster that nothing is wanted of there any more.
    fn left(&self, judged: &[(Extra, Fate)]) -> Vec<(Extra, Fate)> {
        let applied = |found: &Extra| {
            judged.iter().any(|(object, fate)| matches!(fate, Fate::Apply { .. }) && same(object, found))
        };
        let own = self.found().into_iter().filter(|found| found.is_own(self.inputs.identity) && !applied(found));
        own.map(|found| {
            let access = match &found {
                Extra::Signatures(_) => self.inputs.cluster.signatures_access,
                Extra::UpdateService(_) => self.inputs.cluster.update_service_access,
                Extra::CatalogSource(_) => self.inputs.cluster.catalog_source_access,
                Extra::ClusterCatalog(_) => self.inputs.cluster.cluster_catalog_access,
            };
            let goes = self.removing && access == Access::Writable;
            (found, if goes { Fate::Remove } else { Fate::Retained })
        })
        .collect()
    }
}

/// True if both are under one name.
fn same(one: &Extra, other: &Extra) -> bool {
    let name = |object: &Extra| (object.kind(), object.namespace(), object.name());
    name(one) == name(other)
}

/// What to write again of what was published as written: what the cluster has lost or somebody has changed.
pub fn extra_repair(
    identity: &Identity,
    outputs: &ClusterOutputs,
    stored: &Stored,
    snapshot: &ExtraSnapshot,
) -> Vec<Extra> {
    let plan = Plan {
        version: Plan::VERSION,
        target: TargetId(String::new()),
        items: Vec::new(),
        blocked: Vec::new(),
        failures: Vec::new(),
        notes: Vec::new(),
        partial: false,
    };
    let inputs = ExtraInputs {
        identity,
        outputs,
        mode: Mode::Mirror,
        catalogs: &[],
        releases: &Releases { graph_wanted: true, ..Releases::default() },
        plan: &plan,
        verified: &BTreeSet::new(),
        cluster: snapshot,
        stored,
    };
    // Nothing is wanted and nothing goes, so what was published is what comes out.
    let decided = Extras::new(&inputs).objects.into_iter();
    let changed = |(object, fate): (Extra, Fate)| matches!(fate, Fate::Apply { changed: true, .. }).then_some(object);
    decided.filter_map(changed).collect()
}
