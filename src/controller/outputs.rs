//! What an object gets in the cluster: mirror sets, and `ConfigMap`s with what was planned and written.
//!
//! Mirror sets are computed only from a finished sync. Without one (after a restart, while a source is down) nothing is
//! computed, and what was written before is put back from the bytes of the `ConfigMap` `<name>-manifests`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt as _;
use serde_json::json;

use super::apply::{Cluster, Error};
use super::events::{EventNote, EventReason};
use super::recorder::Publisher;
use super::status::{Applied, Output};
use crate::api::{ImageSetMirror, OutputPolicy, Removal, ResourceState};
use crate::copy::{Finding, ItemReport, Outcome, Report, Survey, Surveyed};
use crate::metrics::{ApplyResult, Drift, Metrics};
use crate::oci::Digest;
use crate::plan::{Plan, PlanItem};
use crate::request::Request;
use crate::resources::{
    Apply, Conflict, Desired, HeldReason, Impact, Inputs, MirrorKind, MirrorSet, ObjectName, Stored, repair, withdraw,
};

/// Group of mirror sets.
const GROUP: &str = "config.openshift.io";
/// Most bytes of a plan or report in one `ConfigMap`; the API server takes 1 MiB.
const PART: usize = 900 * 1024;
/// Most `ConfigMap`s that one is published in; the whole plan is in the target registry once it was mirrored.
const PARTS: usize = 4;
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
    fn mark(&self) -> String {
        format!("{}/{}", self.request.identity.namespace, self.request.identity.name)
    }
}

/// Writes outputs.
pub(super) struct Outputs {
    allowed: BTreeSet<String>,
    metrics: Metrics,
    /// What is written is decided from what all objects have written, so objects take turns.
    turn: tokio::sync::Mutex<()>,
}

impl Outputs {
    /// `allowed`: the namespaces whose objects may write to the cluster.
    pub(super) fn new(allowed: BTreeSet<String>, metrics: Metrics) -> Self {
        Self { allowed, metrics, turn: tokio::sync::Mutex::default() }
    }

    fn may(&self, namespace: &str) -> bool {
        self.allowed.contains(namespace)
    }

    /// True if the object wants anything of the cluster looked at.
    fn wants(request: &Request) -> bool {
        [request.cluster.idms.policy, request.cluster.itms.policy]
            .iter()
            .any(|policy| *policy != OutputPolicy::Disabled)
    }

    /// Writes what a finished sync allows.
    pub(super) async fn write(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        owner: Owner<'_>,
        plan: &Plan,
        verified: &BTreeSet<usize>,
    ) -> Result<Applied, Error> {
        let request = owner.request;
        let identity = &request.identity;
        let manifests = format!("{}-manifests", identity.name);
        let current = cluster.config_map(&identity.namespace, &manifests).await?;
        if !Self::wants(request) && current.is_none() {
            return Ok(Applied::default());
        }
        let stored = stored(current.as_ref());
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
        for note in &desired.notes {
            tracing::info!(namespace = identity.namespace, name = identity.name, reason = ?note.reason,
                message = note.message, "about the mirror sets");
        }
        let removes = request.cluster.removal == Removal::Remove;
        let writes = !desired.apply.is_empty() || !desired.remove.is_empty();
        // Before the first write that would have to be taken back, and gone when nothing would.
        if writes || !removes {
            cluster.finalizer(owner.object, removes).await?;
        }
        // Published first: after a crash in between, the objects are put right from these bytes.
        match (&current, desired.manifests.is_empty()) {
            (None, true) => {}
            (Some(_), true) => cluster.delete_config_map(&identity.namespace, &manifests).await?,
            (_, false) => {
                let data = desired.manifests.clone();
                cluster.apply_config_map(owner.object, &manifests, data, current.as_ref()).await?;
            }
        }
        let mut outputs = BTreeMap::new();
        for apply in &desired.apply {
            let output = self.apply(cluster, events, owner.object, apply).await?;
            outputs.insert(name_of(&apply.object), output);
        }
        for object in &desired.remove {
            if cluster.delete(object, &owner.mark()).await? {
                tracing::info!(%object, "mirror set deleted");
            }
        }
        describe(&desired, &mut outputs);
        if let Some(rollout) = snapshot.rollout() {
            tracing::info!(
                namespace = identity.namespace,
                name = identity.name,
                rollout,
                "nodes take over mirror sets"
            );
        }
        Ok(Applied { outputs: outputs.into_values().collect() })
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
            return Ok(output);
        }
        if let Impact::Drain { why } = &apply.impact {
            let note = format!("writing {} drains nodes: {}", name_of(set), why.join("; "));
            events.publish(owner, EventNote::new(EventReason::NodesWillDrain, &set.name(), &note)).await;
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

    /// Puts back what somebody changed or deleted, from what was published.
    pub(super) async fn repair(&self, cluster: &Cluster, events: &Publisher, owner: Owner<'_>) -> Result<(), Error> {
        let request = owner.request;
        let identity = &request.identity;
        if !Self::wants(request) || !self.may(&identity.namespace) {
            return Ok(());
        }
        let current = cluster.config_map(&identity.namespace, &format!("{}-manifests", identity.name)).await?;
        let stored = stored(current.as_ref());
        if stored.applied.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let snapshot = cluster.snapshot(true).await?;
        let repair = repair(identity, &request.cluster, &stored, &snapshot);
        for apply in repair.apply.iter().filter(|apply| apply.changed) {
            self.metrics.drifted(Drift::Resource);
            let output = self.apply(cluster, events, owner.object, apply).await?;
            if output.state != ResourceState::Applied {
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

    /// Removes what was written to the cluster for an object that is being deleted, as far as its spec asks for that.
    pub(super) async fn remove_all(
        &self,
        cluster: &Cluster,
        events: &Publisher,
        object: &ImageSetMirror,
    ) -> Result<(), Error> {
        let namespace = object.namespace().unwrap_or_default();
        // A spec that is not valid any more asks for nothing that could be relied on.
        let Ok(request) = Request::try_new(object) else { return Ok(()) };
        if request.cluster.removal != Removal::Remove || !self.may(&namespace) {
            return Ok(());
        }
        let snapshot = cluster.snapshot(true).await?;
        let withdrawal = withdraw(&request.identity, &request.cluster, &snapshot);
        let owner = Owner { object, request: &request }.mark();
        for name in withdrawal.remove {
            if cluster.delete(&name, &owner).await? {
                let note = format!("deleted {name} with its object");
                events.publish(object, EventNote::new(EventReason::ResourceDeleted, &name.name, &note)).await;
            }
        }
        for held in withdrawal.held {
            let note = format!("{} stays: {}; `disruption` is `ReloadOnly`", held.object, held.message);
            events.publish(object, EventNote::new(EventReason::CleanupAbandoned, &held.object.name, &note)).await;
        }
        Ok(())
    }

    /// Publishes a plan that is not copied, as `<name>-plan-<n>`.
    pub(super) async fn publish_plan(
        &self,
        cluster: &Cluster,
        owner: Owner<'_>,
        plan: &Plan,
        survey: &Survey,
    ) -> Result<(), Error> {
        publish(cluster, owner, "plan", &parts(&planned_lines(plan, survey))).await
    }

    /// Publishes what a sync did, as `<name>-report-<n>`. A sync that had nothing to do for the same plan leaves the report
    /// of the one that did: at rest nothing is written.
    pub(super) async fn publish_report(
        &self,
        cluster: &Cluster,
        owner: Owner<'_>,
        plan: &Plan,
        report: &Report,
    ) -> Result<(), Error> {
        let identity = &owner.request.identity;
        if report.items.iter().all(|item| item.outcome == Outcome::Present) {
            let current = cluster.config_map(&identity.namespace, &part_name(&identity.name, "report", 0)).await?;
            let data = current.and_then(|map| map.data).unwrap_or_default();
            let told = data.get("report.jsonl").and_then(|lines| lines.lines().next());
            if told == Some(report_head(plan, report).as_str()) {
                return Ok(());
            }
        }
        publish(cluster, owner, "report", &parts(&report_lines(plan, report))).await
    }
}

/// The name of the `index`th part of what is published.
fn part_name(object: &str, what: &str, index: usize) -> String {
    format!("{object}-{what}-{index}")
}

/// Writes the parts, each under the key `<what>.jsonl`, and removes what an earlier, longer list has left.
async fn publish(cluster: &Cluster, owner: Owner<'_>, what: &str, parts: &[String]) -> Result<(), Error> {
    let identity = &owner.request.identity;
    for index in 0..PARTS {
        let name = part_name(&identity.name, what, index);
        let current = cluster.config_map(&identity.namespace, &name).await?;
        match (parts.get(index), current) {
            (Some(part), current) => {
                let data = BTreeMap::from([(format!("{what}.jsonl"), part.clone())]);
                cluster.apply_config_map(owner.object, &name, data, current.as_ref()).await?;
            }
            (None, Some(_)) => cluster.delete_config_map(&identity.namespace, &name).await?,
            (None, None) => {}
        }
    }
    Ok(())
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

/// The first line of a report: what it is about.
fn report_head(plan: &Plan, report: &Report) -> String {
    json!({"version": report.version, "target": report.target, "plan": plan.digest()}).to_string()
}

/// A line that says what the report is about, one for each origin that was not resolved, one for each image.
fn report_lines(plan: &Plan, report: &Report) -> Vec<String> {
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
    std::iter::once(report_head(plan, report)).chain(unresolved).chain(images).collect()
}

/// JSON lines in parts that fit into `ConfigMap`s. What does not fit is left out, and the last line says how much.
fn parts(lines: &[String]) -> Vec<String> {
    let mut parts = vec![String::new()];
    for (index, line) in lines.iter().enumerate() {
        let full = parts.last().is_some_and(|part| part.len() + line.len() + ROOM > PART);
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

fn stored(map: Option<&k8s_openapi::api::core::v1::ConfigMap>) -> Stored {
    let data = map.and_then(|map| map.data.clone()).unwrap_or_default();
    Stored::read(&data).unwrap_or_else(|error| {
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
        let state = match held.reason {
            HeldReason::KindNotServed => ResourceState::KindNotServed,
            HeldReason::NamespaceNotAllowed => ResourceState::NamespaceNotAllowed,
            HeldReason::AdmissionDenied | HeldReason::TooLarge => ResourceState::AdmissionDenied,
            HeldReason::PendingDisruption => ResourceState::PendingDisruption,
        };
        let mut output = output(&held.object, state, held.message.clone());
        output.impact = (held.reason == HeldReason::PendingDisruption).then(|| held.message.clone());
        outputs.insert(held.object.clone(), output);
    }
    for conflict in &desired.conflicts {
        let (object, state) = match conflict {
            Conflict::Name { kind, name } => (ObjectName { kind: *kind, name: name.clone() }, ResourceState::Conflict),
            Conflict::Policy { ours, .. } => (named(ours), ResourceState::MirrorPolicyConflict),
            Conflict::NeverWithRemoval { kind } => {
                (ObjectName { kind: *kind, name: String::new() }, ResourceState::MirrorPolicyConflict)
            }
        };
        let output = output(&object, state, conflict.to_string());
        outputs.insert(object, output);
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
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let lines: Vec<String> =
            (0..40_000).map(|n| format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(100))).collect();
        let parts = parts(&lines);
        assert_eq!(parts.len(), PARTS);
        assert!(parts.iter().all(|part| part.len() <= PART && part.ends_with('\n')));
        let kept = parts.iter().map(|part| part.lines().count()).sum::<usize>() - 1;
        let last = parts.last().and_then(|part| part.lines().last()).unwrap();
        assert_eq!(last, format!("{{\"linesLeftOut\":{}}}", lines.len() - kept));
    }

    #[test]
    fn short_lists_are_one_part() {
        assert_eq!(parts(&["{}".to_owned(), "{}".to_owned()]), ["{}\n{}\n"]);
        assert_eq!(parts(&[]), [""]);
    }
}
