//! What an object gets in the cluster: mirror sets, and `ConfigMap`s with what was planned and written.
//!
//! Mirror sets are computed only from a finished sync. Without one (after a restart, while a source is down) nothing is
//! computed, and what was written before is put back from the bytes of the `ConfigMap` `<name>-manifests`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt as _;
use serde_json::json;

use super::apply::{Cluster, Error, Slot};
use super::events::{EventNote, EventReason};
use super::extra_outputs::{self, Wave};
use super::recorder::Publisher;
use super::status::{Applied, Output};
use crate::api::{
    ImageSetMirror, MirrorSourcePolicy, Mode, OWNER_REF_ANNOTATION, OutputPolicy, PublishPolicy, Removal,
    ResourceState, ResourceStatus,
};
use crate::copy::{Finding, ItemReport, Outcome, Report, Survey, Surveyed};
use crate::metrics::{ApplyResult, Drift, Metrics};
use crate::oci::Digest;
use crate::plan::{Plan, PlanItem};
use crate::request::{CatalogOutput, ClusterOutputs, Identity, MirrorSetOutput, Request, UpdateServiceOutput};
use crate::resources::{
    Apply, CONFIG_MAP_LIMIT, ClusterSnapshot, Conflict, Desired, Entries, ExtraInputs, ExtraSnapshot, Extras, Fate,
    HeldReason, HostsInputs, Impact, Inputs, MirrorKind, MirrorSet, ObjectName, Releases, Stored, containerd,
    containerd_hosts, repair, withdraw,
};
use crate::sync::CatalogReport;

/// Group of mirror sets.
const GROUP: &str = "config.openshift.io";
/// Most bytes of a plan or report in one `ConfigMap`; the API server takes 1 MiB.
const PART: usize = 900 * 1024;
/// Most `ConfigMap`s that one is published in; the whole plan is in the target registry once it was mirrored.
const PARTS: usize = 4;
/// What a `ConfigMap` that is somebody else's is told about.
const FOREIGN: &str = "exists and was not written for this object: delete it, or give the object another name";
/// Kept free in each part for the line that says what was left out.
const ROOM: usize = 64;

/// After this time a deletion goes on without having removed everything.
pub(super) const CLEANUP_LIMIT: Duration = Duration::from_mins(30);

/// The object that is written for.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) object: &'a ImageSetMirror,
    pub(super) request: &'a Request,
}

impl Owner<'_> {
    pub(super) fn mark(&self) -> String {
        format!("{}/{}", self.request.identity.namespace, self.request.identity.name)
    }
}

/// What a finished sync has to say, or one that only planned: then all of it counts as there.
pub(super) struct Content<'a> {
    /// What is wanted.
    pub(super) plan: &'a Plan,
    /// Indexes of its items that are in the target.
    pub(super) verified: BTreeSet<usize>,
    /// The releases among it.
    pub(super) releases: Releases,
    /// The catalogs among it.
    pub(super) catalogs: &'a [CatalogReport],
}

/// Writes outputs.
pub(super) struct Outputs {
    allowed: BTreeSet<String>,
    pub(super) metrics: Metrics,
    /// What is written is decided from what all objects have written, so objects take turns.
    turn: tokio::sync::Mutex<()>,
}

impl Outputs {
    /// `allowed`: the namespaces whose objects may write to the cluster.
    pub(super) fn new(allowed: BTreeSet<String>, metrics: Metrics) -> Self {
        Self { allowed, metrics, turn: tokio::sync::Mutex::default() }
    }

    /// True if objects of the namespace may write to the cluster.
    pub(super) fn may(&self, namespace: &str) -> bool {
        self.allowed.contains(namespace)
    }

    /// True if the object wants anything of the cluster looked at.
    fn wants(request: &Request) -> bool {
        [request.cluster.idms.policy, request.cluster.itms.policy]
            .iter()
            .any(|policy| *policy != OutputPolicy::Disabled)
    }

    /// Writes what a finished sync allows. What nodes with containerd need does not depend on mirror sets, and comes first.
    pub(super) async fn write(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: Owner<'_>,
        content: &Content<'_>,
    ) -> Result<Applied, Error> {
        let mut hosts = write_hosts(cluster, owner, content.plan, &content.verified).await?;
        let mut applied = self.write_sets(cluster, events, owner, content).await?;
        applied.outputs.append(&mut hosts.outputs);
        applied.notes.append(&mut hosts.notes);
        Ok(applied)
    }

    async fn write_sets(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: Owner<'_>,
        content: &Content<'_>,
    ) -> Result<Applied, Error> {
        let request = owner.request;
        let identity = &request.identity;
        let Content { plan, verified, releases, catalogs } = content;
        let (catalogs, unusable) = extra_outputs::catalogs(cluster, owner, catalogs).await?;
        let manifests = format!("{}-manifests", identity.name);
        let slot = cluster.config_map(owner.object, &manifests).await?;
        let extras = extra_outputs::wants(request, releases, &catalogs);
        if !Self::wants(request) && !extras && !matches!(slot, Slot::Own(_)) {
            return Ok(Applied { releases: Some(Vec::new()), ..Applied::default() });
        }
        let stored = stored(&slot);
        let _turn = self.turn.lock().await;
        let snapshot = cluster.snapshot(self.may(&identity.namespace)).await?;
        let desired = Desired::new(&Inputs {
            identity,
            target: &request.target,
            outputs: &request.cluster,
            mode: request.mode,
            plan,
            verified,
            cluster: &snapshot,
            stored: &stored,
        });
        let found = extra_outputs::look(
            cluster,
            owner,
            self.may(&identity.namespace),
            !releases.list.is_empty(),
            &catalogs,
            &stored,
        )
        .await?;
        let released = ExtraInputs {
            identity,
            outputs: &request.cluster,
            mode: request.mode,
            releases,
            catalogs: &catalogs,
            plan,
            verified,
            cluster: &found,
            stored: &stored,
        };
        let mut decided = Extras::new(&released);
        for note in &desired.notes {
            tracing::debug!(namespace = identity.namespace, name = identity.name, reason = ?note.reason,
                message = note.message, "about the mirror sets");
        }
        let mut notes: Vec<_> = desired.notes.iter().map(|note| note.message.clone()).chain(unusable).collect();
        let data = together(&desired, &decided, &mut notes);
        if matches!(slot, Slot::Foreign) && !data.is_empty() {
            let held = decided.objects.iter().filter_map(|(object, fate)| extra_outputs::told(object, fate));
            let outputs = taken(&desired, &manifests).into_iter().chain(held).collect();
            return Ok(Applied { outputs, notes, ..Applied::default() });
        }
        let removes = request.cluster.removal == Removal::Remove;
        let written = |fate: &Fate| matches!(fate, Fate::Apply { .. } | Fate::Remove);
        let writes = !desired.apply.is_empty()
            || !desired.remove.is_empty()
            || decided.objects.iter().any(|(_, fate)| written(fate));
        // Before the first write that would have to be taken back, and gone when nothing would.
        if writes || !removes {
            cluster.finalizer(owner.object, removes).await?;
        }
        // Published first: after a crash in between, the objects are put right from these bytes.
        cluster.publish(owner.object, &manifests, data, &slot).await?;
        // Who updates by the mirror sets checks signatures first.
        let mut told = self.write_extras(cluster, events, owner, &mut decided, Wave::Signatures).await?;
        let (mut outputs, mut rules) = (BTreeMap::new(), Entries::new());
        for apply in &desired.apply {
            let output = self.apply(cluster, events, owner.object, apply).await?;
            if output.state == ResourceState::Applied && apply.object.kind() == MirrorKind::Digest {
                rules.extend(apply.object.entries());
            }
            if apply.changed && output.state == ResourceState::Applied {
                self.tell_written(events, owner, &apply.object, &snapshot).await;
            }
            outputs.insert(name_of(&apply.object), output);
        }
        for wave in [Wave::Catalogs, Wave::UpdateService] {
            told.extend(self.write_extras(cluster, events, owner, &mut decided, wave).await?);
        }
        for object in &desired.remove {
            if cluster.delete(object, &owner.mark()).await? {
                self.metrics.applied(object.kind.kind(), ApplyResult::Deleted);
                tracing::info!(%object, "mirror set deleted");
            }
        }
        self.count_refused(&desired);
        describe(&desired, &mut outputs);
        if let Some(rollout) = snapshot.rollout() {
            let (namespace, name) = (&identity.namespace, &identity.name);
            tracing::info!(namespace, name, rollout, "nodes take over mirror sets");
        }
        let rules = rules_for_digests(request, &desired, rules);
        let releases = decided.statuses(&released, rules.as_ref());
        Ok(Applied {
            outputs: told.into_iter().chain(outputs.into_values()).collect(),
            notes,
            releases: Some(releases),
        })
    }

    fn count_refused(&self, desired: &Desired) {
        let held = desired.held.iter().map(|held| held.object.kind);
        for kind in held.chain(desired.conflicts.iter().map(|conflict| about(conflict).0.kind)) {
            self.metrics.applied(kind.kind(), ApplyResult::Refused);
        }
    }

    /// What is known of the outputs if they could not be looked at: what was there before, and what went wrong.
    pub(super) fn failed(owner: Owner<'_>, before: &[ResourceStatus], message: String) -> Applied {
        let stays = |found: &&ResourceStatus| {
            matches!(found.state, ResourceState::Applied | ResourceState::Published | ResourceState::Retained)
        };
        let known = before.iter().filter(stays).map(|found| Output {
            group: found.group.clone(),
            kind: found.kind.clone(),
            name: found.name.clone(),
            state: found.state,
            hash: found.hash.clone(),
            impact: None,
            message: String::new(),
        });
        let manifests = format!("{}-manifests", owner.request.identity.name);
        let failed = config_map(&manifests, ResourceState::Failed, message);
        Applied { outputs: std::iter::once(failed).chain(known).collect(), ..Applied::default() }
    }

    async fn apply(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: &ImageSetMirror,
        apply: &Apply,
    ) -> Result<Output, Error> {
        let set = &apply.object;
        let mut output = output(&name_of(set), ResourceState::Applied, String::new());
        output.hash = hash(set);
        if !apply.changed {
            self.metrics.applied(set.kind().kind(), ApplyResult::Unchanged);
            return Ok(output);
        }
        if let Impact::Drain { why } = &apply.impact {
            let note = format!("writing {} drains nodes: {}", name_of(set), why.join("; "));
            let (kind, name) = (set.kind().kind(), set.name());
            let note = EventNote::about(EventReason::NodesWillDrain, kind, &name, &output.hash, &note);
            events.publish(owner, note).await;
        }
        match cluster.apply(set).await {
            Ok(()) => {
                self.metrics.applied(set.kind().kind(), ApplyResult::Applied);
                tracing::info!(kind = set.kind().kind(), object = set.name(), "mirror set written");
            }
            Err(error @ Error::Fenced { .. }) => return Err(error),
            Err(error) => {
                self.metrics.applied(set.kind().kind(), ApplyResult::Failed);
                let refused = matches!(error.code(), 403 | 422);
                output.state = if refused { ResourceState::AdmissionDenied } else { ResourceState::Failed };
                output.message = error.to_string();
            }
        }
        Ok(output)
    }

    /// Tells of an object that was written whether it was somebody else's, or ours and not what we had left.
    async fn tell_written(&self, events: &Publisher, owner: Owner<'_>, set: &MirrorSet, snapshot: &ClusterSnapshot) {
        let (kind, name, hash) = (set.kind().kind(), set.name(), hash(set));
        if snapshot_has_foreign(snapshot, set, &owner.mark()) {
            let note = format!("{kind} {name} was somebody else's and is ours now");
            events
                .publish(owner.object, EventNote::about(EventReason::ResourceAdopted, kind, &name, &hash, &note))
                .await;
            return;
        }
        let known = owner.object.status.iter().flat_map(|status| &status.resources);
        let mut left = known.filter(|found| found.kind == kind && found.name == name);
        if left.any(|found| found.state == ResourceState::Applied && found.hash == hash) {
            self.tell_repaired(events, owner, set).await;
        }
    }

    async fn tell_repaired(&self, events: &Publisher, owner: Owner<'_>, set: &MirrorSet) {
        self.metrics.drifted(Drift::Resource);
        let (kind, name) = (set.kind().kind(), set.name());
        let note = format!("{kind} {name} was changed or deleted and is put back");
        events
            .publish(owner.object, EventNote::about(EventReason::DriftRepaired, kind, &name, &hash(set), &note))
            .await;
    }

    /// Puts back what somebody changed or deleted, from what was published.
    pub(super) async fn repair(&self, cluster: &Cluster, events: &Publisher, owner: Owner<'_>) -> Result<(), Error> {
        let request = owner.request;
        let identity = &request.identity;
        if !self.may(&identity.namespace) {
            return Ok(());
        }
        let stored = stored(&cluster.config_map(owner.object, &format!("{}-manifests", identity.name)).await?);
        let _turn = self.turn.lock().await;
        self.repair_extras(cluster, events, owner, &stored).await?;
        if stored.applied.is_empty() || !Self::wants(request) {
            return Ok(());
        }
        let snapshot = cluster.snapshot(true).await?;
        let repair = repair(identity, &request.cluster, &stored, &snapshot);
        for apply in repair.apply.iter().filter(|apply| apply.changed) {
            let output = self.apply(cluster, events, owner.object, apply).await?;
            if output.state == ResourceState::Applied {
                self.tell_repaired(events, owner, &apply.object).await;
            } else {
                tracing::warn!(
                    namespace = identity.namespace,
                    name = identity.name,
                    message = output.message,
                    "a changed mirror set could not be put back"
                );
            }
        }
        for message in
            repair.conflicts.iter().map(ToString::to_string).chain(repair.held.iter().map(|held| held.message.clone()))
        {
            tracing::warn!(
                namespace = identity.namespace,
                name = identity.name,
                message,
                "a mirror set differs and stays so"
            );
        }
        Ok(())
    }

    /// Removes what was written to the cluster for an object that is being deleted, as far as its spec asks for that. Of a
    /// spec that is not valid any more `clusterResources` still counts; `readable` is false if that cannot be read either.
    pub(super) async fn remove_all(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        object: &ImageSetMirror,
        readable: bool,
    ) -> Result<(), Error> {
        let spec = &object.spec.cluster_resources;
        if readable && spec.removal != Removal::Remove {
            return Ok(());
        }
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let mark = format!("{namespace}/{name}");
        let allowed = self.may(&namespace);
        let identity = Identity { namespace, name, uid: object.uid().unwrap_or_default() };
        let snapshot = cluster.snapshot(allowed).await?;
        // Nothing is wanted of any kind any more.
        let output = MirrorSetOutput { policy: OutputPolicy::Disabled, source_policy: MirrorSourcePolicy::default() };
        let outputs = ClusterOutputs {
            idms: output,
            itms: output,
            containerd_hosts: Some(PublishPolicy::Disabled),
            catalog_source: CatalogOutput::off(),
            cluster_catalog: CatalogOutput::off(),
            update_service: UpdateServiceOutput {
                policy: OutputPolicy::Disabled,
                namespace: String::new(),
                replicas: 0,
            },
            release_signatures: OutputPolicy::Disabled,
            disruption: spec.disruption,
            removal: Removal::Remove,
            conflict_policy: spec.conflict_policy,
        };
        let withdrawal = withdraw(&identity, &outputs, &snapshot);
        let obstacle = match (readable, allowed) {
            (false, _) => Some("its spec cannot be read"),
            (true, false) => Some("its namespace may not write to the cluster any more"),
            (true, true) => None,
        };
        if let Some(why) = obstacle {
            let held = withdrawal.held.iter().map(|held| &held.object);
            let sets = withdrawal.remove.iter().chain(held).map(ToString::to_string);
            let left: Vec<_> = sets.chain(extra_outputs::left(object)).collect();
            if !left.is_empty() {
                events.orphaned(object, &left.join(", "), why).await;
            }
            return Ok(());
        }
        for name in withdrawal.remove {
            if cluster.delete(&name, &mark).await? {
                self.metrics.applied(name.kind.kind(), ApplyResult::Deleted);
                let note = format!("deleted {name} with its object");
                let kind = name.kind.kind();
                let note = EventNote::about(EventReason::ResourceDeleted, kind, &name.name, "", &note);
                events.publish(object, note).await;
            }
        }
        self.remove_extras(cluster, events, object).await?;
        for held in withdrawal.held {
            let (kind, name) = (held.object.kind.kind(), &held.object.name);
            let note = format!("{} stays: {}; `disruption` is `ReloadOnly`", held.object, held.message);
            events.publish(object, EventNote::about(EventReason::CleanupAbandoned, kind, name, "", &note)).await;
        }
        Ok(())
    }

    /// Publishes a plan that is not copied, as `<name>-plan-<n>`; the first part has the mirror sets that would be written
    /// once everything is in the target.
    pub(super) async fn publish_plan(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: Owner<'_>,
        content: &Content<'_>,
        survey: &Survey,
    ) -> Result<(), Error> {
        let manifests = self.planned_manifests(cluster, owner, content).await?;
        let taken = manifests.iter().map(|(key, value)| key.len() + value.len()).sum();
        let lines = parts(&planned_lines(content.plan, survey), taken);
        publish(cluster, events, owner, "plan", &lines, manifests).await
    }

    async fn planned_manifests(
        &self,
        cluster: &Cluster,
        owner: Owner<'_>,
        content: &Content<'_>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let request = owner.request;
        let Content { plan, verified, releases, catalogs } = content;
        let (catalogs, _) = extra_outputs::catalogs(cluster, owner, catalogs).await?;
        if !Self::wants(request) && !extra_outputs::wants(request, releases, &catalogs) {
            return Ok(BTreeMap::new());
        }
        let identity = &request.identity;
        let stored = stored(&cluster.config_map(owner.object, &format!("{}-manifests", identity.name)).await?);
        let desired = Desired::new(&Inputs {
            identity,
            target: &request.target,
            outputs: &request.cluster,
            mode: Mode::Plan,
            plan,
            verified,
            cluster: &cluster.snapshot(self.may(&identity.namespace)).await?,
            stored: &stored,
        });
        let decided = Extras::new(&ExtraInputs {
            identity,
            outputs: &request.cluster,
            mode: Mode::Plan,
            releases,
            catalogs: &catalogs,
            plan,
            verified,
            cluster: &ExtraSnapshot::default(),
            stored: &stored,
        });
        Ok(together(&desired, &decided, &mut Vec::new()))
    }

    /// Publishes what a sync did, as `<name>-report-<n>`. A sync that had nothing to do for the same plan, after one
    /// that failed as little, leaves the report of that one: at rest nothing is written.
    pub(super) async fn publish_report(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: Owner<'_>,
        plan: &Plan,
        report: &Report,
        catalogs: &[CatalogReport],
    ) -> Result<(), Error> {
        let identity = &owner.request.identity;
        if report.items.iter().all(|item| item.outcome == Outcome::Present) {
            let data = cluster.config_map(owner.object, &part_name(&identity.name, "report", 0)).await?.data();
            let told = data.get("report.jsonl").and_then(|lines| lines.lines().next());
            if told == Some(report_head(plan, report).as_str()) {
                return Ok(());
            }
        }
        let lines = parts(&report_lines(plan, report, catalogs), 0);
        publish(cluster, events, owner, "report", &lines, BTreeMap::new()).await
    }
}

/// The name of the `index`th part of what is published.
fn part_name(object: &str, what: &str, index: usize) -> String {
    format!("{object}-{what}-{index}")
}

/// Publishes files for containerd.
async fn write_hosts(
    cluster: &Cluster,
    owner: Owner<'_>,
    plan: &Plan,
    verified: &BTreeSet<usize>,
) -> Result<Applied, Error> {
    let request = owner.request;
    let name = containerd::config_map(&request.identity.name);
    let slot = cluster.config_map(owner.object, &name).await?;
    let wanted = match request.cluster.containerd_hosts {
        Some(policy) => policy == PublishPolicy::Publish,
        // Who uses them does not lose them when the kind appears.
        None => matches!(slot, Slot::Own(_)) || !cluster.served().await?.has(MirrorKind::Digest.kind()),
    };
    if !wanted {
        cluster.publish(owner.object, &name, BTreeMap::new(), &slot).await?;
        return Ok(Applied::default());
    }
    let bundle = match &request.target.trust_bundle {
        Some((map, key)) => cluster.value(&request.identity.namespace, map, key).await?,
        None => None,
    };
    let made = containerd_hosts(&HostsInputs {
        identity: &request.identity,
        target: &request.target,
        trust_bundle: bundle.as_deref(),
        outputs: &request.cluster,
        plan,
        verified,
        before: &slot.data(),
    });
    let notes = made.notes.into_iter().map(|note| note.message).collect();
    if made.data.is_empty() {
        cluster.publish(owner.object, &name, made.data, &slot).await?;
        return Ok(Applied { notes, ..Applied::default() });
    }
    let bytes: usize = made.data.iter().map(|(key, value)| key.len() + value.len()).sum();
    let hash = Digest::of(&serde_json::to_vec(&made.data).unwrap_or_default()).short().to_owned();
    let output = if matches!(slot, Slot::Foreign) {
        config_map(&name, ResourceState::Conflict, FOREIGN.to_owned())
    } else if bytes > CONFIG_MAP_LIMIT {
        let message = format!("it would have {bytes} bytes, and is given at most {CONFIG_MAP_LIMIT}");
        config_map(&name, ResourceState::AdmissionDenied, message)
    } else {
        cluster.publish(owner.object, &name, made.data, &slot).await?;
        Output { hash, ..config_map(&name, ResourceState::Published, String::new()) }
    };
    Ok(Applied { outputs: vec![output], notes, ..Applied::default() })
}

/// All manifests. Mirror sets are put back from them, so signatures are left out where there is no room for both.
fn together(desired: &Desired, decided: &Extras, notes: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut data = desired.manifests.clone();
    let mut bytes: usize = data.iter().map(|(key, value)| key.len() + value.len()).sum();
    // The smallest first.
    let mut more: Vec<_> = decided.manifests.iter().collect();
    more.sort_by_key(|(_, value)| value.len());
    for (key, value) in more {
        bytes += key.len() + value.len();
        if bytes > CONFIG_MAP_LIMIT {
            notes.push(format!("`{key}` is not published: a ConfigMap is given at most {CONFIG_MAP_LIMIT} bytes"));
        } else {
            data.insert(key.clone(), value.clone());
        }
    }
    data
}

/// The rules for pulls by digest that are where their policy wants them; none if it wants none. `written`: those in the
/// cluster.
fn rules_for_digests(request: &Request, desired: &Desired, written: Entries) -> Option<Entries> {
    match request.cluster.idms.policy {
        OutputPolicy::Disabled => None,
        OutputPolicy::Apply => Some(written),
        OutputPolicy::Publish => {
            let published = Stored::read(&desired.manifests).unwrap_or_default().published;
            let sets = published.iter().filter(|set| set.kind() == MirrorKind::Digest);
            Some(sets.flat_map(MirrorSet::entries).collect())
        }
    }
}

/// Writes the parts, each under the key `<what>.jsonl` and the first with `more`, and removes what an earlier, longer list
/// has left. Nothing depends on them, so one that cannot be written because of its name is told and no more.
async fn publish(
    cluster: &Cluster,
    events: &Publisher,
    owner: Owner<'_>,
    what: &str,
    parts: &[String],
    more: BTreeMap<String, String>,
) -> Result<(), Error> {
    let mut more = Some(more);
    for index in 0..PARTS {
        let name = part_name(&owner.request.identity.name, what, index);
        let mut data = more.take().unwrap_or_default();
        data.extend(parts.get(index).map(|part| (format!("{what}.jsonl"), part.clone())));
        let slot = cluster.config_map(owner.object, &name).await?;
        if matches!(slot, Slot::Foreign) && !data.is_empty() {
            let note = format!("the {what} is not published: ConfigMap {name} {FOREIGN}");
            let note = EventNote::about(EventReason::ResourceConflict, "ConfigMap", &name, "", &note);
            events.publish_news(owner.object, note).await;
        }
        cluster.publish(owner.object, &name, data, &slot).await?;
    }
    Ok(())
}

/// What becomes of the objects if the manifests cannot be published: only published objects are written, so none is.
fn taken(desired: &Desired, manifests: &str) -> Vec<Output> {
    let mut outputs = BTreeMap::new();
    for apply in &desired.apply {
        let name = name_of(&apply.object);
        let (state, message) = if apply.changed {
            (ResourceState::Conflict, format!("not written before ConfigMap {manifests} is"))
        } else {
            (ResourceState::Applied, String::new())
        };
        outputs.insert(name.clone(), Output { hash: hash(&apply.object), ..output(&name, state, message) });
    }
    describe(desired, &mut outputs);
    let map = config_map(manifests, ResourceState::Conflict, FOREIGN.to_owned());
    std::iter::once(map).chain(outputs.into_values()).collect()
}

/// What became of a `ConfigMap`.
fn config_map(name: &str, state: ResourceState, message: String) -> Output {
    Output {
        group: String::new(),
        kind: "ConfigMap".to_owned(),
        name: name.to_owned(),
        state,
        hash: String::new(),
        impact: None,
        message,
    }
}

/// The plan, a line for each image.
fn planned_lines(plan: &Plan, survey: &Survey) -> Vec<String> {
    let line = |(item, found): (&PlanItem, &Surveyed)| {
        let state = match &found.finding {
            Finding::Present => "present".to_owned(),
            Finding::Missing => "missing".to_owned(),
            Finding::Failed(failure) => format!("failed: {failure}"),
        };
        json!({
            "source": item.pulled().map(|source| source.to_string()),
            "destination": item.destination,
            "digest": item.digest,
            "state": state,
            "missingBytes": found.missing_bytes,
        })
        .to_string()
    };
    plan.items.iter().zip(&survey.items).map(line).collect()
}

/// The first line of a report: what it is about, and how much of that failed.
fn report_head(plan: &Plan, report: &Report) -> String {
    let failed = plan.failures.len() + report.items.iter().filter(|item| !item.complete()).count();
    json!({"version": report.version, "target": report.target, "plan": plan.digest(), "failed": failed}).to_string()
}

/// A line that says what the report is about, one for each catalog, for each origin that was not resolved, and for each image.
fn report_lines(plan: &Plan, report: &Report, catalogs: &[CatalogReport]) -> Vec<String> {
    let unresolved = plan.failures.iter().map(|(origin, failure)| {
        json!({"source": origin.name, "outcome": {"failed": failure}, "stage": "Resolve"}).to_string()
    });
    let line = |(item, done): (&PlanItem, &ItemReport)| {
        let mut line = json!(done);
        if let (Some(line), Some(source)) = (line.as_object_mut(), item.pulled()) {
            line.insert("source".to_owned(), json!(source));
        }
        line.to_string()
    };
    let images = plan.items.iter().zip(&report.items).map(line);
    let catalogs = catalogs.iter().map(|catalog| json!({"catalog": catalog}).to_string());
    std::iter::once(report_head(plan, report)).chain(catalogs).chain(unresolved).chain(images).collect()
}

/// JSON lines in parts that fit into `ConfigMap`s, in the first of which `taken` bytes are taken. What does not fit is left out, and the last line says how much.
fn parts(lines: &[String], taken: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    for (index, line) in lines.iter().enumerate() {
        let taken = if parts.len() == 1 { taken } else { 0 };
        let full = parts.last().is_some_and(|part| taken + part.len() + line.len() + ROOM > PART);
        if full && parts.len() == PARTS {
            if let Some(part) = parts.last_mut() {
                part.push_str(&json!({"linesLeftOut": lines.len() - index}).to_string());
                part.push('\n');
            }
            break;
        }
        if full {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts
}

fn stored(slot: &Slot) -> Stored {
    Stored::read(&slot.data()).unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "what was published cannot be read; it is not used");
        Stored::default()
    })
}

fn name_of(set: &MirrorSet) -> ObjectName {
    ObjectName { kind: set.kind(), name: set.name() }
}

fn output(object: &ObjectName, state: ResourceState, message: String) -> Output {
    Output {
        group: GROUP.to_owned(),
        kind: object.kind.kind().to_owned(),
        name: object.name.clone(),
        state,
        hash: String::new(),
        impact: None,
        message,
    }
}

fn hash(set: &MirrorSet) -> String {
    let bytes = serde_json::to_vec(set).unwrap_or_default();
    Digest::of(&bytes).short().to_owned()
}

/// Adds to `outputs` everything of `desired` that is not simply written. What stands against an object wins over that a
/// part of it was written.
fn describe(desired: &Desired, outputs: &mut BTreeMap<ObjectName, Output>) {
    for object in &desired.published {
        let published = || output(object, ResourceState::Published, String::new());
        outputs.entry(object.clone()).or_insert_with(published);
    }
    for object in &desired.retained {
        let message = "not wanted any more, and `removal` is `Retain`".to_owned();
        outputs.entry(object.clone()).or_insert_with(|| output(object, ResourceState::Retained, message));
    }
    for held in &desired.held {
        let mut output = output(&held.object, held_state(held.reason), held.message.clone());
        output.impact = (held.reason == HeldReason::PendingDisruption).then(|| held.message.clone());
        outputs.insert(held.object.clone(), output);
    }
    for conflict in &desired.conflicts {
        let (object, state) = about(conflict);
        let output = output(&object, state, conflict.to_string());
        outputs.insert(object, output);
    }
}

/// The state of an object that is held back.
pub(super) fn held_state(reason: HeldReason) -> ResourceState {
    match reason {
        HeldReason::KindNotServed => ResourceState::KindNotServed,
        HeldReason::NamespaceNotAllowed => ResourceState::NamespaceNotAllowed,
        HeldReason::AdmissionDenied | HeldReason::TooLarge => ResourceState::AdmissionDenied,
        HeldReason::PendingDisruption => ResourceState::PendingDisruption,
    }
}

/// Which object a conflict keeps from being written, and its state.
fn about(conflict: &Conflict) -> (ObjectName, ResourceState) {
    match conflict {
        Conflict::Name { kind, name } => (ObjectName { kind: *kind, name: name.clone() }, ResourceState::Conflict),
        Conflict::Policy { ours, .. } => (named(ours), ResourceState::MirrorPolicyConflict),
        Conflict::NeverWithRemoval { kind } => {
            (ObjectName { kind: *kind, name: String::new() }, ResourceState::MirrorPolicyConflict)
        }
    }
}

/// True if the cluster had an object of this name that did not carry our mark.
fn snapshot_has_foreign(snapshot: &ClusterSnapshot, set: &MirrorSet, mark: &str) -> bool {
    fn foreign<K: kube::ResourceExt>(sets: &[K], name: &str, mark: &str) -> bool {
        let of_others = |found: &K| found.annotations().get(OWNER_REF_ANNOTATION).is_none_or(|owner| owner != mark);
        sets.iter().any(|found| found.name_any() == name && of_others(found))
    }
    match set.kind() {
        MirrorKind::Digest => foreign(&snapshot.idms, &set.name(), mark),
        MirrorKind::Tag => foreign(&snapshot.itms, &set.name(), mark),
    }
}

/// Reads "Kind `name`" back into its parts.
fn named(title: &str) -> ObjectName {
    let kind = MirrorKind::ALL.into_iter().find(|kind| title.starts_with(kind.kind())).unwrap_or(MirrorKind::Digest);
    let name = title.split('`').nth(1).unwrap_or_default().to_owned();
    ObjectName { kind, name }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::super::testing::{Server, object};
    use super::*;
    use crate::api::ReleasePart;
    use crate::copy::ItemReport;
    use crate::failure::{Failure, Reason};
    use crate::lease::Fence;
    use crate::metrics::Build;
    use crate::plan::{TargetId, TargetRoot};
    use crate::resolve::{DestinationRule, Item, Origin, OriginKind, PathRule, Source, TagRule, Wanted};
    use crate::resources::Release;

    const MAPS: &str = "/api/v1/namespaces/team/configmaps";
    const IDMS: &str = "/apis/config.openshift.io/v1/imagedigestmirrorsets";

    /// An object with one image that is in the target, and a cluster that may have OpenShift's kinds.
    struct World {
        server: Arc<Server>,
        cluster: Cluster,
        events: Publisher,
        outputs: Outputs,
        object: ImageSetMirror,
        request: Request,
        plan: Plan,
        releases: Releases,
        catalogs: Vec<CatalogReport>,
    }

    impl World {
        fn new(openshift: bool) -> Self {
            let server = Arc::new(Server::default());
            if openshift {
                let resource = json!({"name": "imagedigestmirrorsets", "singularName": "", "namespaced": false,
                                      "kind": "ImageDigestMirrorSet", "verbs": []});
                let list = json!({"kind": "APIResourceList", "groupVersion": "config.openshift.io/v1",
                                  "resources": [resource]});
                server.put("/apis/config.openshift.io/v1", list);
            }
            let client = server.client();
            let object = object();
            let request = Request::try_new(&object).unwrap();
            let mut registry = prometheus_client::registry::Registry::default();
            let metrics = Metrics::register(&mut registry, Build { version: "1", revision: "1", rustc: "1" });
            let item = |image: &crate::request::AdditionalImage| Item {
                origin: Origin { kind: OriginKind::Additional, name: image.named.to_string() },
                source: Source::Registry { named: image.named.clone(), digest: image.named.digest().cloned().unwrap() },
                destination: DestinationRule {
                    path: PathRule::Keep { written: "quay.io/a/b".to_owned() },
                    tag: TagRule::Keep,
                },
                platforms: BTreeSet::new(),
                after: BTreeSet::new(),
                rank: None,
                unmet: None,
            };
            let wanted = Wanted { items: request.additional.iter().map(item).collect(), ..Wanted::default() };
            let root = TargetRoot { registry: request.target.registry.clone(), prefix: None };
            Self {
                cluster: Cluster::new(client.clone(), Fence::always(), Duration::from_mins(1)),
                events: Publisher::new(client, "pod"),
                outputs: Outputs::new(BTreeSet::from(["team".to_owned()]), metrics),
                plan: Plan::new(&wanted, &root, &[], TargetId("t".to_owned())).unwrap(),
                server,
                object,
                request,
                releases: Releases::default(),
                catalogs: Vec::new(),
            }
        }

        fn owner(&self) -> Owner<'_> {
            Owner { object: &self.object, request: &self.request }
        }

        async fn write(&self) -> Result<Applied, Error> {
            let verified = BTreeSet::from([0]);
            let content =
                Content { plan: &self.plan, verified, releases: self.releases.clone(), catalogs: &self.catalogs };
            self.outputs.write(&self.cluster, &self.events, self.owner(), &content).await
        }

        async fn report(&self, outcome: Outcome) {
            let report = self.report_of(outcome);
            let published =
                self.outputs.publish_report(&self.cluster, &self.events, self.owner(), &self.plan, &report, &[]).await;
            published.unwrap();
        }

        fn report_of(&self, outcome: Outcome) -> Report {
            let item = &self.plan.items[0];
            let item = ItemReport {
                destination: item.destination.clone(),
                digest: item.digest.clone(),
                outcome,
                uploaded_bytes: 0,
                mounted_bytes: 0,
                present_bytes: 0,
                resumed: 0,
                retried: 0,
                restored: false,
                warnings: vec![],
            };
            Report { version: Report::VERSION, target: self.plan.target.clone(), items: vec![item] }
        }
    }

    fn users_map(name: &str) -> (String, Value) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"mine": "yes"},
                         "metadata": {"name": name, "uid": "x", "resourceVersion": "1"}});
        (format!("{MAPS}/{name}"), map)
    }

    #[tokio::test]
    async fn a_config_map_of_somebody_else_is_neither_written_nor_deleted() {
        let world = World::new(true);
        let (path, map) = users_map("set-manifests");
        world.server.put(&path, map.clone());
        let applied = world.write().await.unwrap();
        let conflict = applied.outputs.iter().find(|output| output.kind == "ConfigMap").unwrap();
        assert_eq!((conflict.name.as_str(), conflict.state), ("set-manifests", ResourceState::Conflict));
        assert!(applied.outputs.iter().all(|output| output.state == ResourceState::Conflict), "{applied:?}");
        assert_eq!(world.server.get(&path), Some(map));
        assert!(world.server.writes().is_empty(), "and no mirror set that could not be put back");

        let reports: Vec<_> = (0..PARTS).map(|n| users_map(&format!("set-report-{n}"))).collect();
        for (path, map) in &reports {
            world.server.put(path, map.clone());
        }
        world.report(Outcome::Copied).await;
        assert_eq!(world.server.writes(), ["POST ResourceConflict"], "part 0 is told, the others would be free");
        world.report(Outcome::Copied).await;
        assert!(world.server.writes().is_empty(), "told once");
        assert!(reports.iter().all(|(path, map)| world.server.get(path).as_ref() == Some(map)));
    }

    #[tokio::test]
    async fn what_is_ours_is_written_once_and_removed_when_it_is_not_needed() {
        let world = World::new(true);
        let applied = world.write().await.unwrap();
        assert_eq!(applied.outputs[0].state, ResourceState::Applied);
        let set = format!("{IDMS}/{}", applied.outputs[0].name);
        let map = format!("{MAPS}/set-manifests");
        assert_eq!(world.server.writes(), [format!("PATCH {map}"), format!("PATCH {set}")]);
        let written = world.server.get(&map).unwrap();
        assert_eq!(written["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
        world.write().await.unwrap();
        assert!(world.server.writes().is_empty(), "at rest nothing is written");
        world
            .cluster
            .publish(&world.object, "set-manifests", BTreeMap::new(), &Slot::Own(Box::default()))
            .await
            .unwrap_err();
        let slot = world.cluster.config_map(&world.object, "set-manifests").await.unwrap();
        world.cluster.publish(&world.object, "set-manifests", BTreeMap::new(), &slot).await.unwrap();
        assert_eq!(world.server.get(&map), None);
    }

    const SIGNATURES: &str = "/api/v1/namespaces/openshift-config-managed/configmaps";
    const SERVICES: &str =
        "/apis/updateservice.operator.openshift.io/v1/namespaces/openshift-update-service/updateservices";

    /// The world with one release in the target, whose payload is the one image, and with a graph.
    fn released() -> World {
        let mut world = World::new(true);
        let resource = json!({"name": "updateservices", "singularName": "", "namespaced": true, "kind": "UpdateService",
                              "verbs": []});
        let group = "updateservice.operator.openshift.io/v1";
        let list = json!({"kind": "APIResourceList", "groupVersion": group, "resources": [resource]});
        world.server.put(&format!("/apis/{group}"), list);
        world.request.cluster.update_service.policy = OutputPolicy::Apply;
        let item = &world.plan.items[0];
        let release = Release {
            version: "4.18.1".to_owned(),
            architecture: "amd64".to_owned(),
            digest: item.digest.clone(),
            payload: item.destination.clone(),
            signatures: vec![b"signed".to_vec()],
        };
        let graph = item.destination.repository().at(item.digest.clone());
        world.releases = Releases { list: vec![release], graph_wanted: true, graph: Some(graph) };
        world
    }

    /// What a reconcile leaves in the status, as far as it is looked at by the next.
    fn remember(world: &mut World, applied: &Applied) {
        let resource = |output: &Output| {
            json!({"group": output.group, "kind": output.kind, "name": output.name, "state": output.state,
                   "hash": output.hash})
        };
        let resources: Vec<_> = applied.outputs.iter().map(resource).collect();
        world.object.status = Some(serde_json::from_value(json!({"resources": resources})).unwrap());
    }

    #[tokio::test]
    async fn signatures_come_before_mirror_sets_and_the_update_service_after_them() {
        let mut world = released();
        let applied = world.write().await.unwrap();
        let writes = world.server.writes();
        let kinds: Vec<_> = writes.iter().map(|write| write.rsplit('/').nth(1).unwrap_or_default()).collect();
        assert_eq!(kinds, ["configmaps", "configmaps", "imagedigestmirrorsets", "updateservices"], "{writes:?}");
        assert!(writes[0].ends_with("/team/configmaps/set-manifests"), "{writes:?}");
        assert!(writes[1].starts_with(&format!("PATCH {SIGNATURES}/team-set-signatures-")), "{writes:?}");
        assert!(applied.outputs.iter().all(|output| output.state == ResourceState::Applied), "{applied:?}");
        assert!(applied.releases.as_ref().unwrap()[0].ready_to_upgrade, "{:?}", applied.releases);
        remember(&mut world, &applied);
        world.write().await.unwrap();
        assert!(world.server.writes().is_empty(), "at rest nothing is written");

        let map = format!("{SIGNATURES}/{}", writes[1].rsplit('/').next().unwrap());
        let service = format!("{SERVICES}/set");
        assert_eq!(world.server.get(&service).unwrap()["spec"]["replicas"], 2);
        world.server.remove(&map);
        world.server.remove(&service);
        world.outputs.repair(&world.cluster, &world.events, world.owner()).await.unwrap();
        let repaired = world.server.writes();
        assert_eq!(
            repaired,
            [
                format!("PATCH {map}"),
                "POST DriftRepaired".to_owned(),
                format!("PATCH {service}"),
                "POST DriftRepaired".to_owned()
            ]
        );

        world.object.spec.cluster_resources.removal = Removal::Remove;
        world.object.spec.cluster_resources.disruption = crate::api::Disruption::AllowDrain;
        world.outputs.remove_all(&world.cluster, &world.events, &world.object, true).await.unwrap();
        assert_eq!((world.server.get(&map), world.server.get(&service)), (None, None));
    }

    #[tokio::test]
    async fn an_output_for_releases_that_is_off_is_not_asked_for() {
        let mut world = released();
        world.server.refused.lock().unwrap().extend([SIGNATURES.to_owned(), SERVICES.to_owned()]);
        world.request.cluster.release_signatures = OutputPolicy::Publish;
        world.request.cluster.update_service.policy = OutputPolicy::Publish;
        let applied = world.write().await.unwrap();
        let states: Vec<_> = applied.outputs.iter().map(|output| (output.kind.as_str(), output.state)).collect();
        let published = ResourceState::Published;
        let expected =
            [("ConfigMap", published), ("UpdateService", published), ("ImageDigestMirrorSet", ResourceState::Applied)];
        assert_eq!(states, expected);
        let data = world.server.get(&format!("{MAPS}/set-manifests")).unwrap()["data"].clone();
        assert!(data["signatures.yaml"].as_str().unwrap().contains("binaryData"), "{data}");
        assert!(data["updateservice.yaml"].as_str().unwrap().contains("graphDataImage"), "{data}");
        world.request.cluster.release_signatures = OutputPolicy::Disabled;
        world.request.cluster.update_service.policy = OutputPolicy::Disabled;
        world.write().await.unwrap();
        let data = world.server.get(&format!("{MAPS}/set-manifests")).unwrap()["data"].clone();
        assert!(data.get("signatures.yaml").is_none() && data.get("updateservice.yaml").is_none(), "{data}");
    }

    #[tokio::test]
    async fn what_is_written_no_more_stays_known_and_goes_with_the_object() {
        let mut world = released();
        let applied = world.write().await.unwrap();
        remember(&mut world, &applied);
        world.request.cluster.release_signatures = OutputPolicy::Publish;
        for _ in 0..2 {
            let applied = world.write().await.unwrap();
            remember(&mut world, &applied);
            let map = applied.outputs.iter().find(|output| output.kind == "ConfigMap").unwrap();
            assert_eq!(map.state, ResourceState::Retained, "{applied:?}");
        }
        world.server.writes();
        world.object.spec.cluster_resources.removal = Removal::Remove;
        world.outputs.remove_all(&world.cluster, &world.events, &world.object, true).await.unwrap();
        let deleted: Vec<_> = world.server.writes().into_iter().filter(|write| write.starts_with("DELETE")).collect();
        assert!(deleted.iter().any(|write| write.starts_with(&format!("DELETE {SIGNATURES}/"))), "{deleted:?}");
    }

    #[tokio::test]
    async fn what_the_cluster_refuses_for_releases_does_not_stop_the_rest() {
        let world = released();
        let free = world.server.writes();
        assert!(free.is_empty());
        let applied = world.write().await.unwrap();
        let map = applied.outputs.iter().find(|output| output.kind == "ConfigMap").unwrap().name.clone();
        world.server.remove(&format!("{SIGNATURES}/{map}"));
        world.server.refused_writes.lock().unwrap().push(SIGNATURES.to_owned());
        let applied = world.write().await.unwrap();
        let output = applied.outputs.iter().find(|output| output.name == map).unwrap();
        assert_eq!(output.state, ResourceState::AdmissionDenied);
        assert!(output.message.contains("applying ConfigMap"), "{output:?}");
        assert_eq!(applied.releases.as_ref().unwrap()[0].missing, [ReleasePart::Signatures]);
        assert!(applied.outputs.iter().any(|output| output.kind == "UpdateService"), "{applied:?}");
    }

    #[tokio::test]
    async fn a_cluster_without_openshift_gets_releases_published() {
        let mut world = released();
        world.server.remove("/apis/config.openshift.io/v1");
        world.server.remove("/apis/updateservice.operator.openshift.io/v1");
        world.server.refused.lock().unwrap().extend([SIGNATURES.to_owned(), SERVICES.to_owned()]);
        world.request.cluster.itms.policy = OutputPolicy::Disabled;
        let applied = world.write().await.unwrap();
        let states: BTreeSet<_> = applied
            .outputs
            .iter()
            .filter(|output| !output.name.ends_with("-containerd-hosts"))
            .map(|output| output.state as u8)
            .collect();
        assert_eq!(states, BTreeSet::from([ResourceState::KindNotServed as u8]), "{applied:?}");
        assert_eq!(
            applied.releases.unwrap()[0].missing,
            [ReleasePart::Signatures, ReleasePart::Graph, ReleasePart::MirrorSet]
        );
    }

    #[tokio::test]
    async fn what_somebody_changed_is_put_back_and_told() {
        let mut world = World::new(true);
        let applied = world.write().await.unwrap();
        let output = &applied.outputs[0];
        let status = json!({"resources": [{"group": GROUP, "kind": output.kind, "name": output.name,
                                           "state": "Applied", "hash": output.hash}]});
        world.object.status = Some(serde_json::from_value(status).unwrap());
        let path = format!("{IDMS}/{}", output.name);
        world.server.remove(&path);
        world.server.writes();
        world.write().await.unwrap();
        assert_eq!(world.server.writes(), [format!("PATCH {path}"), "POST DriftRepaired".to_owned()]);
    }

    #[tokio::test]
    async fn what_is_taken_over_is_told() {
        let mut world = World::new(true);
        let path = format!("{IDMS}/{}", world.write().await.unwrap().outputs[0].name);
        let mut set = world.server.get(&path).unwrap();
        set["metadata"]["annotations"] = json!({});
        set["metadata"]["labels"] = json!({});
        world.server.put(&path, set);
        world.request.cluster.conflict_policy = crate::api::ConflictPolicy::Adopt;
        world.server.writes();
        world.write().await.unwrap();
        assert_eq!(world.server.writes(), [format!("PATCH {path}"), "POST ResourceAdopted".to_owned()]);
    }

    #[tokio::test]
    async fn what_a_deleted_object_leaves_behind_is_removed_or_named() {
        let mut world = World::new(true);
        let path = format!("{IDMS}/{}", world.write().await.unwrap().outputs[0].name);
        world.object.spec.cluster_resources.removal = Removal::Remove;
        world.object.spec.cluster_resources.disruption = crate::api::Disruption::AllowDrain;
        // Not valid any more, but what is to be removed can be read.
        world.object.spec.mirror = crate::api::ImageSetMirrorSpec::default().mirror;
        world.server.writes();
        for (readable, allowed) in [(false, true), (true, false)] {
            let namespaces = allowed.then(|| "team".to_owned()).into_iter().collect();
            let outputs = Outputs::new(namespaces, world.outputs.metrics.clone());
            outputs.remove_all(&world.cluster, &world.events, &world.object, readable).await.unwrap();
            assert_eq!(world.server.writes(), ["POST CleanupAbandoned"]);
            world.events = Publisher::new(world.server.client(), "pod");
        }
        assert!(world.server.get(&path).is_some());
        world.outputs.remove_all(&world.cluster, &world.events, &world.object, true).await.unwrap();
        assert_eq!(world.server.writes(), [format!("DELETE {path}"), "POST ResourceDeleted".to_owned()]);
        world.outputs.remove_all(&world.cluster, &world.events, &world.object, false).await.unwrap();
        assert!(world.server.writes().is_empty(), "nothing is left to be named");
    }

    #[tokio::test]
    async fn a_namespace_that_goes_is_told_from_one_that_refuses() {
        let world = World::new(true);
        assert!(!world.cluster.is_ending("team").await);
        world.server.refused.lock().unwrap().push("/api/v1/namespaces/other/".to_owned());
        assert!(!world.cluster.is_ending("other").await);
        world.server.ending.lock().unwrap().push("team".to_owned());
        assert!(world.cluster.is_ending("team").await);
    }

    #[tokio::test]
    async fn a_plan_shows_the_mirror_sets_that_would_be_written() {
        let world = World::new(true);
        let found = Surveyed { finding: Finding::Missing, missing_bytes: 1, present_bytes: 0 };
        let survey = Survey { items: vec![found] };
        let owner = world.owner();
        let outputs = &world.outputs;
        let (verified, releases) = (BTreeSet::from([0]), Releases::default());
        let content = Content { plan: &world.plan, verified, releases, catalogs: &[] };
        let published = outputs.publish_plan(&world.cluster, &world.events, owner, &content, &survey).await;
        published.unwrap();
        let plan = format!("{MAPS}/set-plan-0");
        assert_eq!(world.server.writes(), [format!("PATCH {plan}")], "neither mirror sets nor their manifests");
        let data = world.server.get(&plan).unwrap()["data"].clone();
        assert!(data["plan.jsonl"].as_str().unwrap().contains("missing"));
        assert!(data["idms.yaml"].as_str().unwrap().contains("source: quay.io/a"), "{data}");
    }

    #[tokio::test]
    async fn a_report_of_failures_is_replaced_by_one_of_a_retry_that_finds_everything() {
        let world = World::new(false);
        world.report(Outcome::Failed(Failure::transient(Reason::RegistryError, "no"))).await;
        let report = || world.server.get(&format!("{MAPS}/set-report-0")).unwrap()["data"]["report.jsonl"].to_string();
        assert!(report().contains("RegistryError"));
        world.report(Outcome::Present).await;
        assert!(!report().contains("RegistryError"));
        world.server.writes();
        world.report(Outcome::Present).await;
        assert!(world.server.writes().is_empty());
    }

    #[tokio::test]
    async fn outputs_that_could_not_be_looked_at_are_told_and_what_was_written_stays_known() {
        let world = World::new(true);
        let before = crate::api::ResourceStatus {
            group: GROUP.to_owned(),
            kind: "ImageDigestMirrorSet".to_owned(),
            name: "one".to_owned(),
            state: ResourceState::Applied,
            hash: "aa".to_owned(),
            impact: None,
        };
        world.server.refused.lock().unwrap().push(IDMS.to_owned());
        let error = world.write().await.unwrap_err();
        let applied = Outputs::failed(world.owner(), &[before], error.to_string());
        let states: Vec<_> = applied.outputs.iter().map(|output| (output.kind.as_str(), output.state)).collect();
        let expected = [("ConfigMap", ResourceState::Failed), ("ImageDigestMirrorSet", ResourceState::Applied)];
        assert_eq!(states, expected);
        assert!(applied.outputs[0].message.contains("listing ImageDigestMirrorSet"), "{:?}", applied.outputs[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_in_flight_is_given_up_when_the_lease_does_not_protect_it_any_more() {
        let (service, mut silent) =
            tower_test::mock::pair::<http::Request<kube::client::Body>, http::Response<kube::client::Body>>();
        let until = tokio::time::Instant::now() + Duration::from_secs(7);
        let cluster = Cluster::new(kube::Client::new(service, "team"), Fence::ending(until), Duration::from_mins(1));
        let status = crate::api::ImageSetMirrorStatus::default();
        let (written, _request) = tokio::join!(cluster.status("team", "set", &status), silent.next_request());
        assert!(matches!(written, Err(Error::Fenced { .. })), "{written:?}");
        assert_eq!(tokio::time::Instant::now(), until);
        assert!(matches!(cluster.status("team", "set", &status).await, Err(Error::Fenced { .. })));
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let lines: Vec<String> =
            (0..40_000).map(|n| format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(100))).collect();
        let short = parts(&lines, PART / 2);
        assert!(short[0].len() <= PART / 2 && short[1].len() > PART / 2, "the first has less room");
        let parts = parts(&lines, 0);
        assert_eq!(parts.len(), PARTS);
        assert!(parts.iter().all(|part| part.len() <= PART && part.ends_with('\n')));
        let kept = parts.iter().map(|part| part.lines().count()).sum::<usize>() - 1;
        let last = parts.last().and_then(|part| part.lines().last()).unwrap();
        assert_eq!(last, format!("{{\"linesLeftOut\":{}}}", lines.len() - kept));
    }

    #[test]
    fn short_lists_are_one_part() {
        assert_eq!(parts(&["{}".to_owned(), "{}".to_owned()], 0), ["{}\n{}\n"]);
        assert_eq!(parts(&[], 0), [""]);
    }
}
