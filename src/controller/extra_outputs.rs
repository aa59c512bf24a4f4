//! What the cluster gets beside mirror sets: signatures before them, and after them catalogs and the update service.

use std::collections::BTreeSet;

use kube::ResourceExt as _;

use super::apply::{Cluster, Error};
use super::events::{EventNote, EventReason};
use super::outputs::{Outputs, Owner, held_state};
use super::recorder::Publisher;
use super::status::Output;
use crate::api::{ImageSetMirror, Mode, OutputPolicy, ResourceState, ResourceStatus};
use crate::metrics::{ApplyResult, Drift};
use crate::oci::Digest;
use crate::request::{CATALOG_SOURCE_NAMESPACE, Identity, Request, UPDATE_SERVICE_NAMESPACE};
use crate::resources::catalogs::template;
use crate::resources::{
    Access, Catalog, CatalogKind, Extra, ExtraSnapshot, Extras, Fate, Releases, Stored, Template, extra_repair,
    signatures,
};
use crate::sync::CatalogReport;

/// Which objects are in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wave {
    /// What is written before mirror sets.
    Signatures,
    /// What is written after them.
    Catalogs,
    /// What is written last.
    UpdateService,
}

impl Wave {
    fn has(self, object: &Extra) -> bool {
        matches!(
            (self, object),
            (Self::Signatures, Extra::Signatures(_))
                | (Self::Catalogs, Extra::CatalogSource(_) | Extra::ClusterCatalog(_))
                | (Self::UpdateService, Extra::UpdateService(_))
        )
    }
}

/// True if releases or catalogs have any object of the cluster looked at.
pub(super) fn wants(request: &Request, releases: &Releases, catalogs: &[Catalog]) -> bool {
    let outputs = &request.cluster;
    let on = |policies: &[OutputPolicy]| policies.iter().any(|policy| *policy != OutputPolicy::Disabled);
    !releases.list.is_empty() && on(&[outputs.release_signatures, outputs.update_service.policy])
        || !catalogs.is_empty() && on(&CatalogKind::ALL.map(|kind| kind.output(outputs).policy))
}

/// The key of a template in its `ConfigMap`.
const TEMPLATE_KEY: &str = "catalogsource.yaml";

/// The catalogs that a sync was about, with the templates that the object names; and what is wrong with these.
pub(super) async fn catalogs(
    cluster: &Cluster,
    owner: Owner<'_>,
    reports: &[CatalogReport],
) -> Result<(Vec<Catalog>, Vec<String>), Error> {
    let (mut catalogs, mut notes) = (Vec::new(), Vec::new());
    for report in reports {
        let template = match &report.template {
            Some(name) if owner.request.cluster.catalog_source.policy != OutputPolicy::Disabled => {
                let text = cluster.text_of(&owner.request.identity.namespace, name, TEMPLATE_KEY).await?;
                let read = text.ok_or_else(|| format!("there is no such ConfigMap with a key `{TEMPLATE_KEY}`"));
                match read.and_then(|text| template(&text).map(|_| Template::Text(text))) {
                    Ok(template) => template,
                    Err(why) => {
                        notes.push(format!(
                            "the template `{name}` of catalog `{}` cannot be used, so its CatalogSource stays as it is: {why}",
                            report.source
                        ));
                        Template::Unreadable
                    }
                }
            }
            _ => Template::Plain,
        };
        catalogs.push(Catalog {
            source: report.source.clone(),
            target: report.target.clone(),
            digest: report.target_digest.clone(),
            published: report.published || owner.request.mode == Mode::Plan,
            template,
        });
    }
    Ok((catalogs, notes))
}

/// The objects beside mirror sets that an object is known to have in the cluster, and the namespace of each.
fn known(object: &ImageSetMirror) -> Vec<(ExtraName, String)> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let identity = Identity { namespace, name, uid: String::new() };
    let service = object.spec.cluster_resources.update_service.namespace.clone();
    let service = service.unwrap_or_else(|| UPDATE_SERVICE_NAMESPACE.to_owned());
    let sources = object.spec.cluster_resources.catalog_source.namespace.clone();
    let sources = sources.unwrap_or_else(|| CATALOG_SOURCE_NAMESPACE.to_owned());
    let there = |found: &&ResourceStatus| {
        matches!(found.state, ResourceState::Applied | ResourceState::Retained | ResourceState::Failed)
    };
    let resources = object.status.iter().flat_map(|status| &status.resources).filter(there);
    resources
        .filter_map(|found| match found.kind.as_str() {
            "UpdateService" => Some((ExtraName::UpdateService(found.name.clone()), service.clone())),
            "CatalogSource" => Some((ExtraName::Catalog(CatalogKind::Source, found.name.clone()), sources.clone())),
            "ClusterCatalog" => Some((ExtraName::Catalog(CatalogKind::Cluster, found.name.clone()), String::new())),
            "ConfigMap" if signatures::names(&identity).any(|name| name == found.name) => {
                Some((ExtraName::Signatures(found.name.clone()), signatures::NAMESPACE.to_owned()))
            }
            _ => None,
        })
        .collect()
}

/// The name of an object beside mirror sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExtraName {
    /// A `ConfigMap` with signatures.
    Signatures(String),
    /// An update service.
    UpdateService(String),
    /// A catalog.
    Catalog(CatalogKind, String),
}

impl ExtraName {
    /// Kind and name.
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Signatures(name) => ("ConfigMap", name),
            Self::UpdateService(name) => ("UpdateService", name),
            Self::Catalog(kind, name) => (kind.kind(), name),
        }
    }
}

impl std::fmt::Display for ExtraName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{kind} `{name}`")
    }
}

/// The cluster as far as these objects are concerned. Nothing is asked for that is not needed: where an output is off, the
/// permission for it may be missing.
pub(super) async fn look(
    cluster: &Cluster,
    owner: Owner<'_>,
    allowed: bool,
    releasing: bool,
    catalogs: &[Catalog],
    stored: &Stored,
) -> Result<ExtraSnapshot, Error> {
    let served = cluster.served().await?;
    let (identity, outputs) = (&owner.request.identity, &owner.request.cluster);
    let access = |served: bool| match (served, allowed) {
        (false, _) => Access::NotServed,
        (true, false) => Access::NamespaceNotAllowed,
        (true, true) => Access::Writable,
    };
    let known = known(owner.object);
    let has_signatures = known.iter().any(|(name, _)| matches!(name, ExtraName::Signatures(_)));
    let has_service = known.iter().any(|(name, _)| matches!(name, ExtraName::UpdateService(_)));
    let mut found = ExtraSnapshot {
        // The namespace that signatures are written to is part of OpenShift.
        signatures_access: access(served.idms),
        update_service_access: access(served.update_services),
        catalog_source_access: access(served.catalog_sources),
        cluster_catalog_access: access(served.cluster_catalogs),
        ..ExtraSnapshot::default()
    };
    let applied = outputs.release_signatures == OutputPolicy::Apply && (releasing || !stored.signatures.is_empty());
    if found.signatures_access == Access::Writable && (applied || has_signatures) {
        for name in signatures::names(identity) {
            found.signatures.extend(cluster.find_signatures(&name).await?);
        }
    }
    let service = &outputs.update_service;
    let applied = service.policy == OutputPolicy::Apply && (releasing || stored.update_service.is_some());
    if found.update_service_access == Access::Writable && (applied || has_service) {
        found.update_service = cluster.find_update_service(&service.namespace, &identity.name).await?;
    }
    for kind in CatalogKind::ALL {
        let output = kind.output(outputs);
        let there = known.iter().filter_map(|(name, _)| match name {
            ExtraName::Catalog(of, name) if *of == kind => Some(name.clone()),
            _ => None,
        });
        let mut names: BTreeSet<String> = there.collect();
        if output.policy == OutputPolicy::Apply {
            names.extend(stored.catalogs.iter().filter(|object| object.kind() == kind.kind()).map(Extra::name));
            names.extend(catalogs.iter().map(|catalog| catalog.name(outputs, kind)));
        }
        if found.catalog_access(kind) != Access::Writable {
            continue;
        }
        let namespace = output.namespace.as_deref().unwrap_or_default();
        for name in names {
            found.catalogs.extend(cluster.find_catalog(kind, namespace, &name).await?);
        }
    }
    Ok(found)
}

impl Outputs {
    /// Writes what was decided for one wave, and tells what became of it.
    pub(super) async fn write_extras(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: Owner<'_>,
        decided: &mut Extras,
        wave: Wave,
    ) -> Result<Vec<Output>, Error> {
        let mut outputs = Vec::new();
        for (object, fate) in decided.objects.iter_mut().filter(|(object, _)| wave.has(object)) {
            let told = match *fate {
                Fate::Apply { changed, adopted } => {
                    let written = self.put(cluster, object, changed).await?;
                    if written.state != ResourceState::Applied {
                        *fate = Fate::Failed;
                    } else if changed {
                        self.tell_put(events, owner, object, adopted).await;
                    }
                    Some(written)
                }
                Fate::Remove => {
                    if cluster.withdraw_extra(object, &owner.mark()).await? {
                        self.metrics.applied(object.kind(), ApplyResult::Deleted);
                    }
                    None
                }
                _ => told(object, fate),
            };
            if matches!(fate, Fate::Held { .. } | Fate::Conflict) {
                self.metrics.applied(object.kind(), ApplyResult::Refused);
            }
            // What is published and still in the cluster is one object of the status: what is in the cluster stays known.
            if let Some(told) = told {
                outputs.retain(|known: &Output| (&known.kind, &known.name) != (&told.kind, &told.name));
                outputs.push(told);
            }
        }
        Ok(outputs)
    }

    async fn put(&self, cluster: &Cluster, object: &Extra, changed: bool) -> Result<Output, Error> {
        let mut output = output(object, ResourceState::Applied, String::new());
        if !changed {
            self.metrics.applied(object.kind(), ApplyResult::Unchanged);
            return Ok(output);
        }
        match cluster.apply_extra(object).await {
            Ok(()) => {
                self.metrics.applied(object.kind(), ApplyResult::Applied);
                tracing::info!(kind = object.kind(), object = object.name(), "written beside the mirror sets");
            }
            Err(error @ Error::Fenced { .. }) => return Err(error),
            Err(error) => {
                self.metrics.applied(object.kind(), ApplyResult::Failed);
                // 404: the namespace does not exist.
                let refused = matches!(error.code(), 403 | 404 | 422);
                output.state = if refused { ResourceState::AdmissionDenied } else { ResourceState::Failed };
                output.message = error.to_string();
            }
        }
        Ok(output)
    }

    /// Tells of an object that was written whether it was somebody else's, or ours and not what we had left.
    async fn tell_put(&self, events: &Publisher, owner: Owner<'_>, object: &Extra, adopted: bool) {
        let (kind, name, hash) = (object.kind(), object.name(), hash(object));
        let resources = owner.object.status.iter().flat_map(|status| &status.resources);
        let mut left = resources.filter(|found| found.kind == kind && found.name == name);
        let (reason, note) = if adopted {
            (EventReason::ResourceAdopted, format!("{kind} {name} was somebody else's and is ours now"))
        } else if left.any(|found| found.state == ResourceState::Applied && found.hash == hash) {
            self.metrics.drifted(Drift::Resource);
            (EventReason::DriftRepaired, format!("{kind} {name} was changed or deleted and is put back"))
        } else {
            return;
        };
        events.publish(owner.object, EventNote::about(reason, kind, &name, &hash, &note)).await;
    }

    /// Puts back what somebody changed or deleted, from what was published.
    pub(super) async fn repair_extras(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: Owner<'_>,
        stored: &Stored,
    ) -> Result<(), Error> {
        if stored.signatures.is_empty() && stored.update_service.is_none() && stored.catalogs.is_empty() {
            return Ok(());
        }
        let snapshot = look(cluster, owner, true, false, &[], stored).await?;
        for object in extra_repair(&owner.request.identity, &owner.request.cluster, stored, &snapshot) {
            let written = self.put(cluster, &object, true).await?;
            if written.state == ResourceState::Applied {
                self.tell_put(events, owner, &object, false).await;
            } else {
                tracing::warn!(message = written.message, "a changed object could not be put back");
            }
        }
        Ok(())
    }

    /// Removes what was written beside the mirror sets of an object that is being deleted.
    pub(super) async fn remove_extras(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        object: &ImageSetMirror,
    ) -> Result<(), Error> {
        let mark = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        for (name, namespace) in known(object) {
            if cluster.delete_extra(&name, &namespace, &mark).await? {
                let (kind, own) = name.parts();
                self.metrics.applied(kind, ApplyResult::Deleted);
                let note = format!("deleted {name} with its object");
                let note = EventNote::about(EventReason::ResourceDeleted, kind, own, "", &note);
                events.publish(object, note).await;
            }
        }
        Ok(())
    }
}

/// The names of what is in the cluster beside the mirror sets of an object.
pub(super) fn left(object: &ImageSetMirror) -> impl Iterator<Item = String> {
    known(object).into_iter().map(|(name, _)| name.to_string())
}

/// What becomes of objects that are not written now.
pub(super) fn told(object: &Extra, fate: &Fate) -> Option<Output> {
    let title = || format!("{} `{}`", object.kind(), object.name());
    Some(match fate {
        Fate::Published => output(object, ResourceState::Published, String::new()),
        Fate::Held { reason, why } => {
            output(object, held_state(*reason), format!("{} is only published: {why}", title()))
        }
        Fate::Conflict => output(
            object,
            ResourceState::Conflict,
            format!(
                "{} exists and was not written for this object: delete it, give ours another name, or, unless it is another \
                 ImageSetMirror's, set `clusterResources.conflictPolicy: Adopt`",
                title()
            ),
        ),
        Fate::Retained => {
            let message = "not wanted any more, and `removal` is `Retain`".to_owned();
            output(object, ResourceState::Retained, message)
        }
        Fate::Apply { .. } | Fate::Failed | Fate::Remove => return None,
    })
}

fn output(object: &Extra, state: ResourceState, message: String) -> Output {
    Output {
        group: object.group().to_owned(),
        kind: object.kind().to_owned(),
        name: object.name(),
        state,
        hash: if state == ResourceState::Applied { hash(object) } else { String::new() },
        impact: None,
        message,
    }
}

fn hash(object: &Extra) -> String {
    Digest::of(&serde_json::to_vec(object).unwrap_or_default()).short().to_owned()
}
