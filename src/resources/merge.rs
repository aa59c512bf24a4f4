//! What nodes get: all mirror sets of a cluster merged into one registry configuration, and what a change of it does to
//! them.
//!
//! The Machine Config Operator merges every IDMS, ITMS and ICSP with the lists of the image configuration and rolls the
//! result to each node. The nodes reload for any change and are drained for most; the rules here are those of its merge and
//! of its check before a drain, as far as they tell the two apart. Merging is by whole objects, so a rule that moves from
//! one object to another changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::api::openshift::RegistrySources;

use super::{Entry, MirrorKind};

/// Bytes that a rendered machine configuration may have before it is refused.
pub const MACHINE_CONFIG_LIMIT: usize = 1_572_864;

/// How an endpoint is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pull {
    DigestOnly,
    TagOnly,
}

/// A mirror in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    location: String,
    pull: Pull,
    insecure: bool,
}

/// What applies to one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    mirrors: Vec<Endpoint>,
    blocked: bool,
    insecure: bool,
}

impl Block {
    /// The first mirror at a place.
    fn find(&self, location: &str) -> Option<&Endpoint> {
        self.mirrors.iter().find(|mirror| mirror.location == location)
    }
}

/// The merged configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    blocks: BTreeMap<String, Block>,
}

/// What nodes do when a configuration replaces another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Impact {
    /// Nothing: the merged configuration stays as it is.
    None,
    /// The container runtime reloads its configuration; pods stay.
    Reload,
    /// Nodes are drained, one after another.
    Drain {
        /// What causes it, by source, sorted.
        why: Vec<String>,
    },
}

/// True if `inner` is `outer` or lies below it. `outer` may be `*.domain`.
pub(super) fn within(inner: &str, outer: &str) -> bool {
    if let Some(domain) = outer.strip_prefix('*') {
        let host = inner.split(['/', ':']).next().unwrap_or_default();
        return inner == outer || host.ends_with(domain);
    }
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Merged {
    /// Merges the entries of all objects with the lists of the image configuration.
    pub fn new<'a>(entries: impl IntoIterator<Item = (MirrorKind, &'a Entry)>, lists: &RegistrySources) -> Self {
        let mut blocks: BTreeMap<String, Block> = BTreeMap::new();
        let mut sources: BTreeMap<(Pull, &str), Vec<&Entry>> = BTreeMap::new();
        for (kind, entry) in entries {
            // Without a real mirror an entry counts for nothing, its policy included.
            if entry.mirrors.iter().any(|mirror| *mirror != entry.source) {
                let pull = match kind {
                    MirrorKind::Digest => Pull::DigestOnly,
                    MirrorKind::Tag => Pull::TagOnly,
                };
                sources.entry((pull, &entry.source)).or_default().push(entry);
            }
        }
        // Digest mirrors come first: a look-up by location finds them before tag mirrors of the same place.
        for ((pull, source), entries) in &sources {
            let block = blocks.entry((*source).to_owned()).or_default();
            block.blocked |= entries.iter().any(|entry| entry.never());
            let locations = union(entries.iter().map(|entry| entry.mirrors.as_slice()));
            let endpoint = |location: String| Endpoint { location, pull: *pull, insecure: false };
            block.mirrors.extend(locations.into_iter().map(endpoint));
        }
        flag(&mut blocks, lists);
        inherit(&mut blocks, sources.into_keys().map(|(_, source)| source));
        Self { blocks }
    }

    /// Roughly how many bytes this takes in a rendered machine configuration: the text, in base64.
    pub fn size(&self) -> usize {
        let text: usize = self
            .blocks
            .iter()
            .map(|(scope, block)| {
                let mirrors: usize = block.mirrors.iter().map(|mirror| mirror.location.len() + 90).sum();
                scope.len() + 60 + mirrors
            })
            .sum();
        text.div_ceil(3) * 4
    }

    /// What nodes do when `new` replaces this.
    pub fn impact(&self, new: &Self) -> Impact {
        if self == new {
            return Impact::None;
        }
        let mut why = BTreeSet::new();
        for (scope, old) in &self.blocks {
            match new.blocks.get(scope) {
                Some(new) => why.extend(drains(scope, old, new)),
                None => {
                    why.insert(format!("`{scope}` has no rule any more"));
                }
            }
        }
        for (scope, block) in new.blocks.iter().filter(|(scope, _)| !self.blocks.contains_key(*scope)) {
            if block.mirrors.is_empty() || block.mirrors.iter().any(|mirror| mirror.pull != Pull::DigestOnly) {
                why.insert(format!("`{scope}` gets a mirror for tags"));
            }
        }
        if why.is_empty() { Impact::Reload } else { Impact::Drain { why: why.into_iter().collect() } }
    }
}

/// Why the change of one block drains nodes.
fn drains(scope: &str, old: &Block, new: &Block) -> Option<String> {
    if old == new {
        return None;
    }
    if old.blocked != new.blocked {
        return Some(format!("`{scope}` changes its source policy"));
    }
    if old.insecure != new.insecure {
        return Some(format!("`{scope}` changes its TLS policy"));
    }
    if let Some(gone) = old.mirrors.iter().find(|mirror| new.find(&mirror.location).is_none()) {
        return Some(format!("`{scope}` loses the mirror `{}`", gone.location));
    }
    // The look-up is by location alone, so where a place serves digests and tags its tag half always counts as changed.
    let tags = new.mirrors.iter().find(|mirror| {
        mirror.pull != Pull::DigestOnly && old.find(&mirror.location).is_none_or(|before| before.pull != mirror.pull)
    });
    tags.map(|mirror| format!("`{scope}` has the mirror `{}` for tags besides what changes", mirror.location))
}

/// All locations in an order that keeps each list's own where the lists agree.
fn union<'a>(lists: impl Iterator<Item = &'a [String]>) -> Vec<String> {
    let mut merged: Vec<String> = Vec::new();
    for list in lists {
        let mut at = 0;
        for location in list {
            if let Some(known) = merged.iter().position(|known| known == location) {
                at = at.max(known + 1);
            } else {
                merged.insert(at, location.clone());
                at += 1;
            }
        }
    }
    merged
}

/// Applies the blocked and insecure lists: to their own scopes and to everything below.
fn flag(blocks: &mut BTreeMap<String, Block>, lists: &RegistrySources) {
    for scope in lists.blocked_registries.iter().chain(&lists.insecure_registries) {
        blocks.entry(scope.clone()).or_default();
    }
    for (scope, block) in blocks {
        block.blocked |= lists.blocked_registries.iter().any(|outer| within(scope, outer));
        block.insecure |= lists.insecure_registries.iter().any(|outer| within(scope, outer));
        for mirror in &mut block.mirrors {
            mirror.insecure = lists.insecure_registries.iter().any(|outer| within(&mirror.location, outer));
        }
    }
}

/// Scopes that exist only because of the lists get the mirrors of the first source above them.
fn inherit<'a>(blocks: &mut BTreeMap<String, Block>, sources: impl Iterator<Item = &'a str>) {
    let bare: Vec<_> = blocks.iter().filter(|(_, block)| block.mirrors.is_empty()).map(|(s, _)| s.clone()).collect();
    if bare.is_empty() {
        return;
    }
    for source in sources {
        let Some(mirrors) = blocks.get(source).map(|block| block.mirrors.clone()) else { continue };
        for scope in bare.iter().filter(|scope| *scope != source && within(scope, source)) {
            let (Some(block), Some(rest)) = (blocks.get_mut(scope), scope.strip_prefix(source)) else { continue };
            if block.mirrors.is_empty() {
                let below =
                    |mirror: &Endpoint| Endpoint { location: format!("{}{rest}", mirror.location), ..mirror.clone() };
                block.mirrors = mirrors.iter().map(below).collect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MirrorSourcePolicy;

    fn entry(source: &str, mirrors: &[&str]) -> Entry {
        let mirrors = mirrors.iter().map(|mirror| (*mirror).to_owned()).collect();
        Entry { source: source.to_owned(), mirrors, policy: MirrorSourcePolicy::AllowContactingSource }
    }

    /// Entries as text: `d source mirror…`, `t …`, with `!` after the kind for `NeverContactSource`.
    fn merged(lines: &[&str], lists: &RegistrySources) -> Merged {
        let entries: Vec<_> = lines
            .iter()
            .map(|line| {
                let words: Vec<_> = line.split(' ').collect();
                let kind = if words[0].starts_with('d') { MirrorKind::Digest } else { MirrorKind::Tag };
                let mut entry = entry(words[1], &words[2..]);
                if words[0].ends_with('!') {
                    entry.policy = MirrorSourcePolicy::NeverContactSource;
                }
                (kind, entry)
            })
            .collect();
        Merged::new(entries.iter().map(|(kind, entry)| (*kind, entry)), lists)
    }

    fn class(old: &[&str], new: &[&str]) -> &'static str {
        let lists = RegistrySources::default();
        match merged(old, &lists).impact(&merged(new, &lists)) {
            Impact::None => "none",
            Impact::Reload => "reload",
            Impact::Drain { .. } => "drain",
        }
    }

    #[test]
    fn changes_are_classed_as_the_machine_config_daemon_does() {
        for (name, old, new, expected) in [
            ("split, order", vec!["d q m", "d p m"], vec!["d p m", "d q m", "d q m"], "none"),
            ("new digest source", vec![], vec!["d q m", "d! p m"], "reload"),
            ("digest mirror added", vec!["d q m"], vec!["d q m n"], "reload"),
            ("mirror order", vec!["d q m n"], vec!["d q n m"], "reload"),
            ("new tag source", vec![], vec!["t q m"], "drain"),
            ("tags for a digest source", vec!["d q m"], vec!["d q m", "t q m"], "drain"),
            ("source removed", vec!["d q m", "d p m"], vec!["d p m"], "drain"),
            ("mirror removed", vec!["d q m n"], vec!["d q n"], "drain"),
            ("source kept by another", vec!["d q m", "d q m n"], vec!["d q m n"], "none"),
            ("policy switched", vec!["d q m"], vec!["d! q m"], "drain"),
            ("safe addition beside tags of the same place", vec!["d q m", "t q m"], vec!["d q m n", "t q m"], "drain"),
            ("safe addition beside tags of another place", vec!["d q m", "t q o"], vec!["d q m n", "t q o"], "reload"),
            ("digests where tags are", vec!["t q m"], vec!["d q m", "t q m"], "reload"),
            ("tags removed, digests keep the place", vec!["d q m", "t q m"], vec!["d q m"], "reload"),
            ("an entry without a mirror", vec![], vec!["d! q q", "t p"], "none"),
        ] {
            assert_eq!(class(&old, &new), expected, "{name}");
        }
    }

    #[test]
    fn listed_scopes_inherit_from_above_and_a_wider_rule_can_take_that_away() {
        let lists = RegistrySources { blocked_registries: vec!["q.io/a/b".to_owned()], ..RegistrySources::default() };
        let old = merged(&["d q.io/a m/a"], &lists);
        assert_eq!(old.blocks["q.io/a/b"].mirrors[0].location, "m/a/b");
        let new = merged(&["d q.io/a m/a", "d q.io n"], &lists);
        let Impact::Drain { why } = old.impact(&new) else { panic!("no drain") };
        assert_eq!(why, ["`q.io/a/b` loses the mirror `m/a/b`"]);
        assert_eq!(old.impact(&merged(&["d q.io/a m/a", "d p.io m"], &lists)), Impact::Reload);
    }

    #[test]
    fn insecure_lists_reach_sources_and_mirrors() {
        let lists = RegistrySources { insecure_registries: vec!["*.lab".to_owned()], ..RegistrySources::default() };
        let merged = merged(&["d q.io/a m.lab:5000/a"], &lists);
        assert!(merged.blocks["q.io/a"].mirrors[0].insecure && !merged.blocks["q.io/a"].insecure);
    }

    #[test]
    fn scopes_nest_by_whole_components() {
        for (inner, outer, expected) in [
            ("q.io/a", "q.io/a", true),
            ("q.io/a/b", "q.io/a", true),
            ("q.io/ab", "q.io/a", false),
            ("q.io", "q.io/a", false),
            ("x.q.io:5000/a", "*.q.io", true),
            ("q.io/a", "*.q.io", false),
            ("*.q.io", "*.q.io", true),
        ] {
            assert_eq!(within(inner, outer), expected, "{inner} in {outer}");
        }
    }

    #[test]
    fn five_thousand_entries_are_about_what_a_machine_configuration_holds() {
        let lines: Vec<_> =
            (0..5000).map(|n| format!("d registry.example.io/team/image-{n} mirror.lab:8443/team/image-{n}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let size = merged(&lines, &RegistrySources::default()).size();
        assert!((MACHINE_CONFIG_LIMIT * 6 / 10..MACHINE_CONFIG_LIMIT).contains(&size), "{size}");
    }
}
