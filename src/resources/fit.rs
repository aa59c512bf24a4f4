//! What of a change can be written without draining nodes.

use std::collections::BTreeMap;

use super::merge::{Impact, Merged};
use super::set::{Entries, Entry, Known, MirrorKind, append, by_source};
use crate::api::Disruption;
use crate::api::openshift::RegistrySources;

/// All mirror sets of the cluster as they will be, changed step by step.
pub(super) struct Cluster {
    pub(super) sets: Vec<Known>,
    pub(super) lists: RegistrySources,
}

/// What may be written of a wanted set.
pub(super) struct Fitted {
    /// The entries to write.
    pub(super) entries: Entries,
    /// What nodes do then.
    pub(super) impact: Impact,
    /// Why the rest may not be written; empty if all of it may.
    pub(super) held: Vec<String>,
}

/// The change of one source in one object: what it becomes, or nothing.
type Change = (String, Option<Entry>);

impl Cluster {
    pub(super) fn merged(&self) -> Merged {
        let entries = self.sets.iter().flat_map(|set| set.entries.iter().map(|entry| (set.kind, entry)));
        Merged::new(entries, &self.lists)
    }

    /// The entries that an object has now.
    pub(super) fn current(&self, kind: MirrorKind, name: &str) -> Entries {
        by_source(self.sets.iter().filter(|set| set.is(kind, name)).flat_map(|set| set.entries.iter().cloned()))
    }

    /// Makes `entries` the entries of an object.
    pub(super) fn set(&mut self, kind: MirrorKind, name: &str, entries: &Entries) {
        let entries: Vec<_> = entries.values().cloned().collect();
        match self.sets.iter_mut().find(|set| set.is(kind, name)) {
            Some(set) => set.entries = entries,
            None => self.sets.push(Known {
                api_kind: kind.kind(),
                kind,
                name: name.to_owned(),
                own: true,
                labelled: true,
                entries,
            }),
        }
    }

    /// Writes what may be written of `wanted` into an object, and tells what that was.
    pub(super) fn fit(&mut self, kind: MirrorKind, name: &str, wanted: &Entries, disruption: Disruption) -> Fitted {
        let before = self.merged();
        let current = self.current(kind, name);
        self.set(kind, name, wanted);
        let impact = before.impact(&self.merged());
        if disruption == Disruption::AllowDrain || !matches!(impact, Impact::Drain { .. }) {
            return Fitted { entries: wanted.clone(), impact, held: Vec::new() };
        }
        self.set(kind, name, &current);
        let mut held = Vec::new();
        let changes = self.harmless(kind, name, &current, wanted, &mut held);
        let mut entries = current;
        self.take(kind, name, &mut entries, &changes, &mut held);
        self.set(kind, name, &entries);
        let impact = before.impact(&self.merged());
        held.sort_unstable();
        held.dedup();
        Fitted { entries, impact, held }
    }

    /// The changes that drain nothing as far as their own source goes. Cheap, because sources are looked at one by one.
    fn harmless(
        &self,
        kind: MirrorKind,
        name: &str,
        current: &Entries,
        wanted: &Entries,
        held: &mut Vec<String>,
    ) -> Vec<Change> {
        let mut others: BTreeMap<&str, Vec<(MirrorKind, &Entry)>> = BTreeMap::new();
        for set in self.sets.iter().filter(|set| !set.is(kind, name)) {
            for entry in &set.entries {
                others.entry(&entry.source).or_default().push((set.kind, entry));
            }
        }
        let merged = |source: &str, entry: Option<&Entry>| {
            let others = others.get(source).into_iter().flatten().copied();
            Merged::new(others.chain(entry.map(|entry| (kind, entry))), &RegistrySources::default())
        };
        let mut changes = Vec::new();
        let gone = current.keys().filter(|source| !wanted.contains_key(*source)).map(|source| (source, None));
        for (source, entry) in wanted.iter().map(|(source, entry)| (source, Some(entry))).chain(gone) {
            let now = current.get(source);
            if now == entry {
                continue;
            }
            let before = merged(source, now);
            match before.impact(&merged(source, entry)) {
                Impact::Drain { why } => {
                    held.extend(why);
                    let Some(softer) = now.zip(entry).map(|(now, entry)| softened(now, entry)) else { continue };
                    if !matches!(before.impact(&merged(source, Some(&softer))), Impact::Drain { .. }) {
                        changes.push((source.clone(), Some(softer)));
                    }
                }
                Impact::None | Impact::Reload => changes.push((source.clone(), entry.cloned())),
            }
        }
        changes
    }

    /// Takes as many changes as drain nothing. A source can take something away from others only through the lists of the
    /// image configuration, so this rarely has to look closer.
    fn take(
        &mut self,
        kind: MirrorKind,
        name: &str,
        entries: &mut Entries,
        changes: &[Change],
        held: &mut Vec<String>,
    ) {
        if changes.is_empty() {
            return;
        }
        self.set(kind, name, entries);
        let before = self.merged();
        let mut next = entries.clone();
        for (source, entry) in changes {
            match entry {
                Some(entry) => next.insert(source.clone(), entry.clone()),
                None => next.remove(source),
            };
        }
        self.set(kind, name, &next);
        match (before.impact(&self.merged()), changes) {
            (Impact::Drain { why }, [_]) => held.extend(why),
            (Impact::Drain { .. }, _) => {
                let (first, second) = changes.split_at(changes.len() / 2);
                self.take(kind, name, entries, first, held);
                self.take(kind, name, entries, second, held);
            }
            _ => *entries = next,
        }
    }
}

/// What there is, with the mirrors that are new.
fn softened(now: &Entry, wanted: &Entry) -> Entry {
    let mut entry = now.clone();
    append(&mut entry.mirrors, &wanted.mirrors);
    entry
}
