//! What releases get in the cluster: signatures before mirror sets, and after those the update service.

use kube::ResourceExt as _;

use super::apply::{Cluster, Error};
use super::events::{EventNote, EventReason};
use super::outputs::{Outputs, Owner, held_state};
use super::recorder::Publisher;
use super::status::Output;
use crate::api::{ImageSetMirror, OutputPolicy, ResourceState, ResourceStatus};
use crate::metrics::{ApplyResult, Drift};
use crate::oci::Digest;
use crate::request::{Identity, Request, UPDATE_SERVICE_NAMESPACE};
use crate::resources::{
    Access, Fate, ReleaseObject, ReleaseObjects, ReleaseSnapshot, Releases, Stored, release_repair, signatures,
};

/// Which objects are in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wave {
    /// What is written before mirror sets.
    Signatures,
    /// What is written after them.
    UpdateService,
}

impl Wave {
    fn has(self, object: &ReleaseObject) -> bool {
        matches!(
            (self, object),
            (Self::Signatures, ReleaseObject::Signatures(_)) | (Self::UpdateService, ReleaseObject::UpdateService(_))
        )
    }
}

/// True if releases have any object of the cluster looked at.
pub(super) fn wants(request: &Request, releases: &Releases) -> bool {
    let policies = [request.cluster.release_signatures, request.cluster.update_service.policy];
    !releases.list.is_empty() && policies.iter().any(|policy| *policy != OutputPolicy::Disabled)
}

/// The objects for releases that an object is known to have in the cluster, and the namespace of each.
fn known(object: &ImageSetMirror) -> Vec<(ReleaseName, String)> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let identity = Identity { namespace, name, uid: String::new() };
    let service = object.spec.cluster_resources.update_service.namespace.clone();
    let service = service.unwrap_or_else(|| UPDATE_SERVICE_NAMESPACE.to_owned());
    let there = |found: &&ResourceStatus| {
        matches!(found.state, ResourceState::Applied | ResourceState::Retained | ResourceState::Failed)
    };
    let resources = object.status.iter().flat_map(|status| &status.resources).filter(there);
    resources
        .filter_map(|found| match found.kind.as_str() {
            "UpdateService" => Some((ReleaseName::UpdateService(found.name.clone()), service.clone())),
            "ConfigMap" if signatures::names(&identity).any(|name| name == found.name) => {
                Some((ReleaseName::Signatures(found.name.clone()), signatures::NAMESPACE.to_owned()))
            }
            _ => None,
        })
        .collect()
}

/// The name of an object for releases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReleaseName {
    /// A `ConfigMap` with signatures.
    Signatures(String),
    /// An update service.
    UpdateService(String),
}

impl ReleaseName {
    /// Kind and name.
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Signatures(name) => ("ConfigMap", name),
            Self::UpdateService(name) => ("UpdateService", name),
        }
    }
}

impl std::fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{kind} `{name}`")
    }
}

/// The cluster as far as releases are concerned. Nothing is asked for that is not needed: where an output is off, the
/// permission for it may be missing.
pub(super) async fn look(
    cluster: &Cluster,
    owner: Owner<'_>,
    allowed: bool,
    wanted: bool,
    stored: &Stored,
) -> Result<ReleaseSnapshot, Error> {
    let served = cluster.served().await?;
    let (identity, outputs) = (&owner.request.identity, &owner.request.cluster);
    let access = |served: bool| match (served, allowed) {
        (false, _) => Access::NotServed,
        (true, false) => Access::NamespaceNotAllowed,
        (true, true) => Access::Writable,
    };
    let known = known(owner.object);
    let is = |wave: Wave| {
        known.iter().any(|(name, _)| matches!(name, ReleaseName::Signatures(_)) == (wave == Wave::Signatures))
    };
    let mut found = ReleaseSnapshot {
        // The namespace that signatures are written to is part of OpenShift.
        signatures_access: access(served.idms),
        update_service_access: access(served.update_services),
        ..ReleaseSnapshot::default()
    };
    let applied = outputs.release_signatures == OutputPolicy::Apply && (wanted || !stored.signatures.is_empty());
    if found.signatures_access == Access::Writable && (applied || is(Wave::Signatures)) {
        for name in signatures::names(identity) {
            found.signatures.extend(cluster.find_signatures(&name).await?);
        }
    }
    let service = &outputs.update_service;
    let applied = service.policy == OutputPolicy::Apply && (wanted || stored.update_service.is_some());
    if found.update_service_access == Access::Writable && (applied || is(Wave::UpdateService)) {
        found.update_service = cluster.find_update_service(&service.namespace, &identity.name).await?;
    }
    Ok(found)
}

impl Outputs {
    /// Writes what was decided for one wave, and tells what became of it.
    pub(super) async fn write_releases(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: Owner<'_>,
        decided: &mut ReleaseObjects,
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
                    if cluster.withdraw_release(object, &owner.mark()).await? {
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
                outputs.retain(|known: &Output| known.name != told.name);
                outputs.push(told);
            }
        }
        Ok(outputs)
    }

    async fn put(&self, cluster: &Cluster, object: &ReleaseObject, changed: bool) -> Result<Output, Error> {
        let mut output = output(object, ResourceState::Applied, String::new());
        if !changed {
            self.metrics.applied(object.kind(), ApplyResult::Unchanged);
            return Ok(output);
        }
        match cluster.apply_release(object).await {
            Ok(()) => {
                self.metrics.applied(object.kind(), ApplyResult::Applied);
                tracing::info!(kind = object.kind(), object = object.name(), "written for releases");
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
    async fn tell_put(&self, events: &Publisher, owner: Owner<'_>, object: &ReleaseObject, adopted: bool) {
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
    pub(super) async fn repair_releases(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: Owner<'_>,
        stored: &Stored,
    ) -> Result<(), Error> {
        if stored.signatures.is_empty() && stored.update_service.is_none() {
            return Ok(());
        }
        let snapshot = look(cluster, owner, true, false, stored).await?;
        for object in release_repair(&owner.request.identity, &owner.request.cluster, stored, &snapshot) {
            let written = self.put(cluster, &object, true).await?;
            if written.state == ResourceState::Applied {
                self.tell_put(events, owner, &object, false).await;
            } else {
                tracing::warn!(message = written.message, "a changed object for releases could not be put back");
            }
        }
        Ok(())
    }

    /// Removes what was written for releases of an object that is being deleted.
    pub(super) async fn remove_releases(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        object: &ImageSetMirror,
    ) -> Result<(), Error> {
        let mark = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        for (name, namespace) in known(object) {
            if cluster.delete_release(&name, &namespace, &mark).await? {
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

/// The names of what is in the cluster for the releases of an object.
pub(super) fn left(object: &ImageSetMirror) -> impl Iterator<Item = String> {
    known(object).into_iter().map(|(name, _)| name.to_string())
}

/// What becomes of objects that are not written now.
pub(super) fn told(object: &ReleaseObject, fate: &Fate) -> Option<Output> {
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
                "{} exists and was not written for this object: delete it, or set `clusterResources.conflictPolicy: Adopt`",
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

fn output(object: &ReleaseObject, state: ResourceState, message: String) -> Output {
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

fn hash(object: &ReleaseObject) -> String {
    Digest::of(&serde_json::to_vec(object).unwrap_or_default()).short().to_owned()
}
