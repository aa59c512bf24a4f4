//! What the rest of the cluster means for our rules: policies that cannot be merged, rules that hide each other, and an
//! image configuration that keeps nodes from the mirror.

use std::collections::{BTreeMap, BTreeSet};

use super::merge::within;
use super::set::{Entries, Entry, Known};
use super::{Conflict, Note, NoteReason, ObjectName};
use crate::api::openshift::RegistrySources;
use crate::api::{MirrorSourcePolicy, Tls};
use crate::request::Target;

/// The foreign entries of a cluster, by source.
pub(super) struct Foreign<'a> {
    entries: BTreeMap<&'a str, Vec<(&'a Known, &'a Entry)>>,
}

impl<'a> Foreign<'a> {
    /// Takes all sets that are not ours.
    pub(super) fn new(sets: &'a [Known]) -> Self {
        let mut entries: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for set in sets.iter().filter(|set| !set.own) {
            for entry in set.entries.iter().filter(|entry| entry.real()) {
                entries.entry(&entry.source).or_default().push((set, entry));
            }
        }
        Self { entries }
    }

    /// The first object that gives `source` another policy. Nodes could then merge nothing at all.
    pub(super) fn contradicting(&self, source: &str, policy: MirrorSourcePolicy) -> Option<&'a Known> {
        let entries = self.entries.get(source)?;
        entries.iter().find(|(_, entry)| entry.policy != policy).map(|(set, _)| *set)
    }

    /// What our rules and foreign ones do to each other, short of a contradiction.
    pub(super) fn notes(&self, ours: &Entries) -> Vec<Note> {
        let mut found: BTreeMap<NoteReason, BTreeSet<String>> = BTreeMap::new();
        let mut add = |reason, message| found.entry(reason).or_default().insert(message);
        for (source, entry) in ours {
            let below = self.entries.range(source.as_str()..).take_while(|(name, _)| name.starts_with(source.as_str()));
            for (name, sets) in below.filter(|(name, _)| **name != source && within(name, source)) {
                let Some((set, _)) = sets.first() else { continue };
                let message = format!("`{name}` in {} hides our rule for `{source}` there", set.title());
                add(NoteReason::HiddenByForeign, message);
            }
            for (outer, sets) in above(source).filter_map(|outer| self.entries.get_key_value(outer)) {
                let Some((set, _)) = sets.first() else { continue };
                let message = format!("our rule for `{source}` hides `{outer}` in {} there", set.title());
                add(NoteReason::HidesForeign, message);
            }
            let others = self.entries.get(source.as_str()).into_iter().flatten();
            if let Some((set, _)) = others.into_iter().find(|(_, other)| other.mirrors != entry.mirrors) {
                let message = format!("{} names other mirrors for `{source}`; nodes choose the order", set.title());
                add(NoteReason::MergedWithForeign, message);
            }
            for (wildcard, sets) in
                self.entries.iter().filter(|(name, _)| name.starts_with('*') && within(source, name))
            {
                let Some((set, _)) = sets.first() else { continue };
                let message =
                    format!("`{wildcard}` in {} lies above `{source}`; nodes may refuse all rules", set.title());
                add(NoteReason::ForeignWildcard, message);
            }
        }
        found.into_iter().filter_map(|(reason, messages)| Note::summed(reason, messages)).collect()
    }
}

/// The names that `source` lies below, without itself.
fn above(source: &str) -> impl Iterator<Item = &str> {
    source.match_indices('/').filter_map(|(at, _)| source.get(..at))
}

/// Where nodes may pull the target's images from, by the image configuration.
pub(super) fn target_notes(target: &Target, lists: &RegistrySources) -> Vec<Note> {
    let place = match &target.prefix {
        Some(prefix) => format!("{}/{prefix}", target.registry),
        None => target.registry.to_string(),
    };
    let listed = |list: &[String]| list.iter().any(|outer| within(&place, outer));
    let mut notes = Vec::new();
    let mut note = |reason, message: String| notes.push(Note { reason, message });
    let config = "the cluster's image configuration (`images.config.openshift.io/cluster`)";
    if listed(&lists.blocked_registries) {
        note(NoteReason::TargetBlocked, format!("{config} blocks `{place}`: nodes cannot pull from the mirror"));
    }
    if !lists.allowed_registries.is_empty() && !listed(&lists.allowed_registries) {
        let message =
            format!("{config} does not list `{place}` in `allowedRegistries`: nodes cannot pull from the mirror");
        note(NoteReason::TargetNotAllowed, message);
    }
    if target.tls != Tls::Verify && !listed(&lists.insecure_registries) {
        let message = format!("{config} does not list `{place}` in `insecureRegistries`: nodes verify its certificate");
        note(NoteReason::TargetNotInsecure, message);
    }
    notes
}

/// Our own rules for a source must agree across objects, too.
///
/// Where they do not because one of them was tightened before another may be, all stay loose. Where they were asked to
/// differ, that is a conflict, and `wishes` keep what is there.
pub(super) fn agree(wishes: &mut BTreeMap<ObjectName, Wish>) -> (Vec<Conflict>, Vec<Note>) {
    let mut holders: BTreeMap<String, Vec<(ObjectName, MirrorSourcePolicy, MirrorSourcePolicy)>> = BTreeMap::new();
    for (name, wish) in &*wishes {
        for (source, entry) in &wish.entries {
            holders.entry(source.clone()).or_default().push((name.clone(), entry.policy, wish.policy));
        }
    }
    let (mut conflicts, mut waiting) = (Vec::new(), BTreeSet::new());
    for (source, holders) in holders {
        let Some(((first, policy, asked), rest)) = holders.split_first() else { continue };
        let Some((second, ..)) = rest.iter().find(|(_, other, _)| other != policy) else { continue };
        let alike = rest.iter().all(|(.., other)| other == asked);
        for (name, ..) in &holders {
            let Some(wish) = wishes.get_mut(name) else { continue };
            if alike {
                if let Some(entry) = wish.entries.get_mut(&source) {
                    entry.policy = MirrorSourcePolicy::AllowContactingSource;
                }
            } else {
                wish.keep(&source);
            }
        }
        if alike {
            waiting.insert(policy_waits(&source));
        } else {
            conflicts.push(Conflict::Policy { scope: source, ours: first.to_string(), theirs: second.to_string() });
        }
    }
    (conflicts, Note::summed(NoteReason::PolicyWaits, waiting).into_iter().collect())
}

/// A source that is to be closed and cannot be yet.
pub(super) fn policy_waits(source: &str) -> String {
    format!("`{source}` may still be contacted: not all its images are known to be in the target")
}

/// What an object is to hold.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// What the user asked for.
    pub(super) policy: MirrorSourcePolicy,
    /// What it holds now, in the cluster or in what was published.
    pub(super) base: Entries,
    /// What it is to hold.
    pub(super) entries: Entries,
}

impl Wish {
    /// Leaves a source as it is now.
    pub(super) fn keep(&mut self, source: &str) {
        match self.base.get(source) {
            Some(entry) => self.entries.insert(source.to_owned(), entry.clone()),
            None => self.entries.remove(source),
        };
    }
}
