//! The decision: rules, what is kept of earlier ones, what the cluster lets us write.

use std::collections::{BTreeMap, BTreeSet};

use super::fit::Cluster;
use super::manifests::{CONFIG_MAP_LIMIT, Manifests, ObjectName, Stored};
use super::merge::MACHINE_CONFIG_LIMIT;
use super::mirror_sets::{Rule, Rules, Scope, rules};
use super::preflight::{Foreign, Wish, agree, policy_waits, target_notes};
use super::set::{Entries, Entry, Known, MirrorKind, MirrorSet, append, by_source, object_name};
use super::{Access, Apply, ClusterSnapshot, Conflict, Held, HeldReason, Note, NoteReason};
use crate::api::{ConflictPolicy, Disruption, MirrorSourcePolicy, Mode, OutputPolicy, Removal};
use crate::plan::{Category, Plan};
use crate::request::{ClusterOutputs, Identity, MirrorSetOutput, Target};

/// Share of [`MACHINE_CONFIG_LIMIT`], in percent, that all mirror sets together may take.
const LIMIT_PERCENT: usize = 60;
/// Share from which that is mentioned.
const NEAR_PERCENT: usize = 48;

/// All that a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The object.
    pub identity: &'a Identity,
    /// Where its images are.
    pub target: &'a Target,
    /// What it wants written.
    pub outputs: &'a ClusterOutputs,
    /// With [`Mode::Plan`] everything is published at most, and nothing is withdrawn.
    pub mode: Mode,
    /// What it wants mirrored, and what of that could not be resolved.
    pub plan: &'a Plan,
    /// Indexes of the plan's items that are in the target.
    pub verified: &'a BTreeSet<usize>,
    /// The cluster.
    pub cluster: &'a ClusterSnapshot,
    /// What was published last: rules in it stay even if the cluster has lost them.
    pub stored: &'a Stored,
}

/// What the cluster is to hold, and what stands against it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Objects to apply, IDMS first, sorted; those that need no write are included.
    pub apply: Vec<Apply>,
    /// Objects of ours to delete after that.
    pub remove: Vec<ObjectName>,
    /// Objects of ours that are not wanted any more and stay.
    pub retained: Vec<ObjectName>,
    /// Objects that are published and not written.
    pub published: Vec<ObjectName>,
    /// What is not written, or not completely.
    pub held: Vec<Held>,
    /// What somebody has to solve, sorted.
    pub conflicts: Vec<Conflict>,
    /// What to know.
    pub notes: Vec<Note>,
    /// Data of the `ConfigMap` `<name>-manifests`.
    pub manifests: BTreeMap<String, String>,
}

impl ClusterOutputs {
    /// What is wanted of a kind.
    pub(super) fn of(&self, kind: MirrorKind) -> MirrorSetOutput {
        match kind {
            MirrorKind::Digest => self.idms,
            MirrorKind::Tag => self.itms,
        }
    }
}

impl Cluster {
    pub(super) fn new(snapshot: &ClusterSnapshot, identity: &Identity) -> Self {
        let digest = snapshot.idms.iter().map(|set| Known::digest(set, identity));
        let tag = snapshot.itms.iter().map(|set| Known::tag(set, identity));
        let legacy = snapshot.icsp.iter().map(|set| Known::legacy(set, identity));
        let mut sets: Vec<_> = digest.chain(tag).chain(legacy).collect();
        sets.sort_by(|a, b| (a.kind, a.api_kind, &a.name).cmp(&(b.kind, b.api_kind, &b.name)));
        Self { sets, lists: snapshot.lists() }
    }
}

impl Desired {
    /// Decides.
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let mut decision = Decision::new(inputs);
        let mut wishes = decision.wishes();
        let (conflicts, notes) = agree(&mut wishes);
        decision.result.conflicts.extend(conflicts);
        decision.result.notes.extend(notes);
        let writable = decision.writable(&mut wishes);
        let too_large = decision.too_large(&wishes, &writable);
        for (object, wish) in &wishes {
            if !writable.contains(object) {
                decision.publish(object, wish);
            } else if too_large {
                decision.leave(object, wish);
            } else {
                decision.write(object, wish);
            }
        }
        decision.stale(&wishes);
        decision.finish()
    }
}

struct Decision<'a> {
    inputs: &'a Inputs<'a>,
    /// The cluster as it was.
    before: Vec<Known>,
    /// The cluster as it will be.
    cluster: Cluster,
    /// True if rules that are not wanted any more go.
    removing: bool,
    manifests: Manifests,
    result: Desired,
}

impl<'a> Decision<'a> {
    fn new(inputs: &'a Inputs<'a>) -> Self {
        let cluster = Cluster::new(inputs.cluster, inputs.identity);
        let complete = inputs.plan.complete(inputs.verified);
        Self {
            inputs,
            before: cluster.sets.clone(),
            cluster,
            removing: complete && inputs.outputs.removal == Removal::Remove && inputs.mode == Mode::Mirror,
            manifests: Manifests::default(),
            result: Desired::default(),
        }
    }

    /// True if a kind is to be written to the cluster.
    fn applies(&self, kind: MirrorKind) -> bool {
        self.inputs.mode == Mode::Mirror && self.inputs.outputs.of(kind).policy == OutputPolicy::Apply
    }

    /// The sources of our rules that will still be there. Under `ReloadOnly` removals wait, so they all are.
    fn standing(&self) -> BTreeSet<String> {
        if self.removing && self.inputs.outputs.disruption == Disruption::AllowDrain {
            return BTreeSet::new();
        }
        let own = self.before.iter().filter(|set| set.own).flat_map(|set| &set.entries);
        let stored = self.inputs.stored.applied.iter().chain(&self.inputs.stored.published);
        let stored = stored.flat_map(|set| set.entries().into_keys());
        own.map(|entry| entry.source.clone()).chain(stored).collect()
    }

    /// What each object is to hold, the rest of the cluster aside.
    fn wishes(&mut self) -> BTreeMap<ObjectName, Wish> {
        let mut wishes = BTreeMap::new();
        let standing = self.standing();
        let (mut waiting, mut inexpressible, mut open) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for kind in MirrorKind::ALL {
            let output = self.inputs.outputs.of(kind);
            if output.policy == OutputPolicy::Disabled {
                continue;
            }
            let never = output.source_policy == MirrorSourcePolicy::NeverContactSource;
            let refused = never && self.inputs.outputs.removal != Removal::Retain;
            let found = if refused {
                self.result.conflicts.push(Conflict::NeverWithRemoval { kind });
                Rules::default()
            } else {
                rules(self.inputs.plan, self.inputs.verified, kind, output.source_policy, Scope::Widest, &standing)
            };
            let unready = found.rules.iter().filter(|rule| !rule.ready());
            waiting.extend(unready.map(|Rule { source, mirror, images, missing, .. }| {
                format!("the rule from `{source}` to `{mirror}` waits for {missing} of {images} images")
            }));
            inexpressible.extend(
                found.inexpressible.into_iter().map(|name| {
                    format!("`{name}` has an IPv6 address as its registry, which mirror sets cannot express")
                }),
            );
            for category in Category::RULED {
                let object = ObjectName { kind, name: object_name(self.inputs.identity, category) };
                let base = self.base(&object);
                let rules = found.rules.iter().filter(|rule| rule.category == category);
                let kept = if self.removing && !refused { Entries::new() } else { base.clone() };
                let settled = self.inputs.plan.whole();
                let entries = combine(kept, rules, output.source_policy, settled);
                if base.is_empty() && entries.is_empty() {
                    continue;
                }
                let loose = |entry: &&Entry| never && !refused && !entry.never();
                open.extend(entries.values().filter(loose).map(|entry| policy_waits(&entry.source)));
                wishes.insert(object, Wish { policy: output.source_policy, base, entries });
            }
        }
        let sums = [
            (NoteReason::RuleWaits, waiting),
            (NoteReason::PolicyWaits, open),
            (NoteReason::NotExpressible, inexpressible),
        ];
        self.result.notes.extend(sums.into_iter().filter_map(|(reason, cases)| Note::summed(reason, cases)));
        wishes
    }

    /// The entries that an object has: in the cluster if it is ours or may be taken over, and in what was published.
    fn base(&self, object: &ObjectName) -> Entries {
        let adopt = self.inputs.outputs.conflict_policy == ConflictPolicy::Adopt;
        let sets = self.before.iter().filter(|set| set.is(object.kind, &object.name) && (set.own || adopt));
        let mut base = by_source(sets.flat_map(|set| set.entries.iter().cloned()));
        for (source, stored) in self.inputs.stored.entries(object) {
            match base.get_mut(&source) {
                Some(entry) => append(&mut entry.mirrors, &stored.mirrors),
                None => {
                    base.insert(source, stored);
                }
            }
        }
        base
    }

    /// The objects that may be written; what nodes could not merge is taken out of their wishes.
    fn writable(&mut self, wishes: &mut BTreeMap<ObjectName, Wish>) -> BTreeSet<ObjectName> {
        let outputs = self.inputs.outputs;
        let mut writable = BTreeSet::new();
        let applied: Vec<_> = wishes.keys().filter(|object| self.applies(object.kind)).cloned().collect();
        for object in applied {
            if let Some((reason, why)) = self.inputs.cluster.access(object.kind).refusal() {
                let message = format!("{object} is only published: {why}");
                self.result.held.push(Held { object, reason, message });
                continue;
            }
            let foreign = self.before.iter().any(|set| set.is(object.kind, &object.name) && !set.own);
            if foreign && outputs.conflict_policy == ConflictPolicy::Refuse {
                self.result.conflicts.push(Conflict::Name { kind: object.kind, name: object.name });
                continue;
            }
            writable.insert(object);
        }
        // What is taken over does not stand against itself.
        for set in &mut self.before {
            set.own |= writable.iter().any(|object| set.is(object.kind, &object.name));
        }
        let foreign = Foreign::new(&self.before);
        for (object, wish) in wishes.iter_mut().filter(|(object, _)| writable.contains(*object)) {
            for (scope, entry) in wish.entries.clone() {
                if let Some(theirs) = foreign.contradicting(&scope, entry.policy) {
                    wish.keep(&scope);
                    let (ours, theirs) = (object.to_string(), theirs.title());
                    self.result.conflicts.push(Conflict::Policy { scope, ours, theirs });
                }
            }
        }
        writable
    }

    /// True if nodes could not be given what is wanted, and would be given more than now.
    fn too_large(&mut self, wishes: &BTreeMap<ObjectName, Wish>, writable: &BTreeSet<ObjectName>) -> bool {
        let now = self.cluster.merged().size();
        let mut wanted = Cluster { sets: self.cluster.sets.clone(), lists: self.cluster.lists.clone() };
        for (object, wish) in wishes.iter().filter(|(object, _)| writable.contains(*object)) {
            wanted.fit(object.kind, &object.name, &wish.entries, self.inputs.outputs.disruption);
        }
        let size = wanted.merged().size();
        let percent = size * 100 / MACHINE_CONFIG_LIMIT;
        if size > now && percent >= LIMIT_PERCENT {
            for (object, _) in wishes.iter().filter(|(object, _)| writable.contains(*object)) {
                let message = format!(
                    "with {object} the mirror sets of the cluster would take {percent} % of what nodes can be given; at \
                     most {LIMIT_PERCENT} % is written: use fewer and wider rules"
                );
                self.result.held.push(Held { object: object.clone(), reason: HeldReason::TooLarge, message });
            }
            return true;
        }
        if percent >= NEAR_PERCENT {
            let message = format!("the mirror sets of the cluster take {percent} % of what nodes can be given");
            self.result.notes.push(Note { reason: NoteReason::NearLimit, message });
        }
        false
    }

    fn publish(&mut self, object: &ObjectName, wish: &Wish) {
        if !wish.entries.is_empty() {
            self.manifests.published(&self.set(object, &wish.entries));
            self.result.published.push(object.clone());
        }
    }

    /// Leaves the cluster as it is and publishes what would be written.
    fn leave(&mut self, object: &ObjectName, wish: &Wish) {
        let current = self.cluster.current(object.kind, &object.name);
        if !current.is_empty() {
            self.write(object, &Wish { entries: current.clone(), ..wish.clone() });
        }
        if wish.entries != current {
            self.manifests.pending(&self.set(object, &wish.entries));
        }
    }

    fn write(&mut self, object: &ObjectName, wish: &Wish) {
        let disruption = self.inputs.outputs.disruption;
        let fitted = self.cluster.fit(object.kind, &object.name, &wish.entries, disruption);
        let held = Held::disruption(object, &fitted.held);
        if held.is_some() && !wish.entries.is_empty() {
            self.manifests.pending(&self.set(object, &wish.entries));
        }
        self.result.held.extend(held);
        let exists = self.before.iter().find(|set| set.is(object.kind, &object.name));
        if !fitted.entries.is_empty() {
            let apply = Apply::new(object, self.inputs.identity, &fitted, exists);
            self.manifests.applied(&apply.object);
            self.result.apply.push(apply);
        } else if exists.is_some() {
            let list = if self.removing { &mut self.result.remove } else { &mut self.result.retained };
            list.push(object.clone());
        }
    }

    /// Objects of ours that nothing is wanted of any more.
    fn stale(&mut self, wishes: &BTreeMap<ObjectName, Wish>) {
        let outputs = self.inputs.outputs;
        let own = self.before.iter().filter(|set| set.own);
        let objects = own.map(|set| ObjectName { kind: set.kind, name: set.name.clone() });
        let stale = |object: &ObjectName| !wishes.contains_key(object) || !self.applies(object.kind);
        let stale: Vec<_> = objects.filter(stale).collect();
        for object in stale {
            if !self.removing || self.inputs.cluster.access(object.kind) != Access::Writable {
                self.result.retained.push(object);
                continue;
            }
            let current = self.cluster.current(object.kind, &object.name);
            let fitted = self.cluster.fit(object.kind, &object.name, &Entries::new(), outputs.disruption);
            if fitted.entries.is_empty() {
                self.result.remove.push(object);
            } else {
                self.cluster.set(object.kind, &object.name, &current);
                self.result.held.extend(Held::disruption(&object, &fitted.held));
                self.result.retained.push(object);
            }
        }
    }

    fn finish(mut self) -> Desired {
        let foreign = Foreign::new(&self.before);
        let written: Vec<_> = self.result.apply.iter().map(|apply| apply.object.entries()).collect();
        let ours = by_source(written.into_iter().flat_map(Entries::into_values));
        self.result.notes.extend(foreign.notes(&ours));
        self.result.notes.extend(self.tags_fail(&ours));
        if !self.result.apply.is_empty() && self.inputs.cluster.images.is_some() {
            self.result.notes.extend(target_notes(self.inputs.target, &self.cluster.lists));
        }
        self.result.manifests = self.manifests.finish(self.inputs.identity, &self.inputs.plan.digest());
        let bytes: usize = self.result.manifests.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > CONFIG_MAP_LIMIT {
            let message = format!("the manifests have {bytes} bytes; a ConfigMap is given at most {CONFIG_MAP_LIMIT}");
            self.result.notes.push(Note { reason: NoteReason::ManifestsTooLarge, message });
        }
        self.result.conflicts.sort();
        self.result.conflicts.dedup();
        self.result.notes.sort_by(|a, b| (a.reason, &a.message).cmp(&(b.reason, &b.message)));
        self.result.notes.dedup_by(|later, first| later.reason == first.reason && later.message == first.message);
        self.result
    }

    /// A closed source without mirrors for tags: its pulls by tag fail.
    fn tags_fail(&self, ours: &Entries) -> Option<Note> {
        let sets = self.cluster.sets.iter().filter(|set| set.kind == MirrorKind::Tag);
        let tagged: BTreeSet<_> = sets.flat_map(|set| set.entries.iter().map(|entry| entry.source.as_str())).collect();
        let closed = ours.values().filter(|entry| entry.never() && !tagged.contains(entry.source.as_str()));
        let cases = closed.map(|entry| {
            format!("pulls by tag from `{}` fail: it may not be contacted and has no mirror for tags", entry.source)
        });
        Note::summed(NoteReason::TagPullsFail, cases.collect())
    }

    fn set(&self, object: &ObjectName, entries: &Entries) -> MirrorSet {
        MirrorSet::new(object.kind, &object.name, self.inputs.identity, entries)
    }
}

/// Adds the rules that are ready to what there is.
///
/// Mirrors that the plan names come first, so that a tag is looked for where it is kept current. If something could not be
/// resolved (`settled` is false) the plan does not know all of them, and the order stays.
fn combine<'a>(
    mut entries: Entries,
    rules: impl Iterator<Item = &'a Rule>,
    policy: MirrorSourcePolicy,
    settled: bool,
) -> Entries {
    if policy == MirrorSourcePolicy::AllowContactingSource {
        for entry in entries.values_mut() {
            entry.policy = policy;
        }
    }
    let mut sources: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        sources.entry(&rule.source).or_default().push(rule);
    }
    for (source, rules) in sources {
        let known = entries.get(source);
        let has = |mirror: &String| known.is_some_and(|entry| entry.mirrors.contains(mirror));
        let planned = rules.iter().filter(|rule| has(&rule.mirror) && settled || rule.ready() && !has(&rule.mirror));
        let mut mirrors: Vec<_> = planned.map(|rule| rule.mirror.clone()).collect();
        append(&mut mirrors, known.map(|entry| entry.mirrors.as_slice()).unwrap_or_default());
        if mirrors.is_empty() {
            continue;
        }
        let before = known.map(|entry| entry.policy).unwrap_or_default();
        let policy = if rules.iter().all(|rule| rule.ready()) { policy } else { before };
        entries.insert(source.to_owned(), Entry { source: source.to_owned(), mirrors, policy });
    }
    entries
}
