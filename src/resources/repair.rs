//! What needs no finished sync to decide from: putting back what somebody changed or deleted, and taking everything away.

use super::fit::Cluster;
use super::manifests::{ObjectName, Stored};
use super::preflight::Foreign;
use super::set::{Entries, Known};
use super::{Access, Apply, ClusterSnapshot, Conflict, Held, HeldReason};
use crate::api::{ConflictPolicy, OutputPolicy};
use crate::request::{ClusterOutputs, Identity};

/// What to write again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Repair {
    /// The objects, those that are as they should be included.
    pub apply: Vec<Apply>,
    /// What would drain nodes.
    pub held: Vec<Held>,
    /// What cannot be written.
    pub conflicts: Vec<Conflict>,
}

/// Compares the objects that were written with the cluster. The bytes are those that were published; what would drain
/// nodes or could not be merged is left as it is.
pub fn repair(identity: &Identity, outputs: &ClusterOutputs, stored: &Stored, snapshot: &ClusterSnapshot) -> Repair {
    let mut cluster = Cluster::new(snapshot, identity);
    let before = cluster.sets.clone();
    let foreign = Foreign::new(&before);
    let mut repair = Repair::default();
    for set in &stored.applied {
        let object = ObjectName { kind: set.kind(), name: set.name() };
        let wanted = outputs.of(object.kind).policy == OutputPolicy::Apply;
        if !wanted || snapshot.access(object.kind) != Access::Writable {
            continue;
        }
        let exists = before.iter().find(|known| known.is(object.kind, &object.name));
        if outputs.conflict_policy == ConflictPolicy::Refuse && exists.is_some_and(|known| !known.own) {
            repair.conflicts.push(Conflict::Name { kind: object.kind, name: object.name });
            continue;
        }
        let mut entries = set.entries();
        let current = cluster.current(object.kind, &object.name);
        for (scope, entry) in &set.entries() {
            let Some(theirs) = foreign.contradicting(scope, entry.policy) else { continue };
            match current.get(scope) {
                Some(current) => entries.insert(scope.clone(), current.clone()),
                None => entries.remove(scope),
            };
            let (ours, theirs) = (object.to_string(), theirs.title());
            repair.conflicts.push(Conflict::Policy { scope: scope.clone(), ours, theirs });
        }
        let fitted = cluster.fit(object.kind, &object.name, &entries, outputs.disruption);
        repair.held.extend(Held::disruption(&object, &fitted.held));
        if !fitted.entries.is_empty() {
            repair.apply.push(Apply::new(&object, identity, &fitted, exists));
        }
    }
    repair
}

/// What goes with the object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Withdrawal {
    /// Objects of ours to delete.
    pub remove: Vec<ObjectName>,
    /// Objects of ours whose deletion would drain nodes, although only reloads are allowed.
    pub held: Vec<Held>,
}

/// What to delete from the cluster when the object itself is deleted with `removal: Remove`.
pub fn withdraw(identity: &Identity, outputs: &ClusterOutputs, snapshot: &ClusterSnapshot) -> Withdrawal {
    let mut cluster = Cluster::new(snapshot, identity);
    let own = cluster.sets.iter().filter(|set| set.own);
    let objects: Vec<_> = own.map(|set| ObjectName { kind: set.kind, name: set.name.clone() }).collect();
    let mut withdrawal = Withdrawal::default();
    for object in objects {
        let current = cluster.current(object.kind, &object.name);
        let fitted = cluster.fit(object.kind, &object.name, &Entries::new(), outputs.disruption);
        if fitted.entries.is_empty() {
            withdrawal.remove.push(object);
        } else {
            cluster.set(object.kind, &object.name, &current);
            withdrawal.held.extend(Held::disruption(&object, &fitted.held));
        }
    }
    withdrawal
}

impl Held {
    /// For what would drain nodes; none if nothing would.
    pub(super) fn disruption(object: &ObjectName, why: &[String]) -> Option<Self> {
        let (first, more) = why.split_first()?;
        let more = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
        let message = format!("writing all of {object} would drain nodes: {first}{more}");
        Some(Self { object: object.clone(), reason: HeldReason::PendingDisruption, message })
    }
}

impl Apply {
    /// The object with what may be written of it, compared with what there is.
    pub(super) fn new(
        object: &ObjectName,
        identity: &Identity,
        fitted: &super::fit::Fitted,
        exists: Option<&Known>,
    ) -> Self {
        let same = |known: &Known| known.own && known.labelled && known.entries.iter().eq(fitted.entries.values());
        Self {
            object: super::MirrorSet::new(object.kind, &object.name, identity, &fitted.entries),
            changed: !exists.is_some_and(same),
            impact: fitted.impact.clone(),
        }
    }
}
