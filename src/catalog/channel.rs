//! One channel as a graph of updates, and the part of it that a range asks for.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::or_default;

/// An entry of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Name of a bundle.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The bundle that it updates.
    #[serde(default, deserialize_with = "or_default")]
    pub replaces: String,
    /// Further bundles that it updates, and that are not to be installed.
    #[serde(default, deserialize_with = "or_default")]
    pub skips: Vec<String>,
    /// Versions that it updates.
    #[serde(default, deserialize_with = "or_default")]
    pub skip_range: String,
}

impl Entry {
    /// What it updates, by name.
    fn updates(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.replaces.as_str())
            .chain(self.skips.iter().map(String::as_str))
            .filter(|name| !name.is_empty())
    }
}

/// Why entries are not a graph of updates with one newest bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Nothing.
    #[error("it has no entries")]
    Empty,
    /// One name, two entries.
    #[error("`{0}` is there twice")]
    Duplicate(String),
    /// An entry that updates itself.
    #[error("`{0}` replaces itself")]
    ReplacesItself(String),
    /// An entry that updates itself.
    #[error("`{0}` skips itself")]
    SkipsItself(String),
    /// A circle.
    #[error("the updates go round in a circle: {}", .0.join(", "))]
    Cycle(Vec<String>),
    /// Nothing that is not updated by something else.
    #[error("every entry is updated by another one, so that there is no newest")]
    NoHead,
    /// Several newest ones.
    #[error("{} are all updated by none of the others, so that there is no newest one", .0.join(", "))]
    Heads(Vec<String>),
}

/// A graph with one head.
pub(super) struct Graph<'a> {
    entries: BTreeMap<&'a str, &'a Entry>,
    head: &'a str,
}

impl<'a> Graph<'a> {
    /// Checks the entries of a channel.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub(super) fn new(entries: &'a [Entry]) -> Result<Self, GraphError> {
        if entries.is_empty() {
            return Err(GraphError::Empty);
        }
        let mut by_name = BTreeMap::new();
        for entry in entries {
            if by_name.insert(entry.name.as_str(), entry).is_some() {
                return Err(GraphError::Duplicate(entry.name.clone()));
            }
            if entry.replaces == entry.name {
                return Err(GraphError::ReplacesItself(entry.name.clone()));
            }
            if entry.skips.contains(&entry.name) {
                return Err(GraphError::SkipsItself(entry.name.clone()));
            }
        }
        if let Some(cycle) = cycle(&by_name) {
            return Err(GraphError::Cycle(cycle));
        }
        let heads = heads(entries);
        match heads.as_slice() {
            [head] => Ok(Self { entries: by_name, head }),
            [] => Err(GraphError::NoHead),
            several => Err(GraphError::Heads(several.iter().map(|name| format!("`{name}`")).collect())),
        }
    }

    /// The newest entry.
    pub(super) fn head(&self) -> &'a str {
        self.head
    }

    /// The head, what it replaces, what that replaces, and so on; the last name may be no entry.
    fn chain(&self) -> Vec<&'a str> {
        let next = |name: &&'a str| {
            let replaces = self.entries.get(*name)?.replaces.as_str();
            (!replaces.is_empty()).then_some(replaces)
        };
        std::iter::successors(Some(self.head), next).collect()
    }

    fn skips(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.entries.get(name).into_iter().flat_map(|entry| entry.skips.iter().map(String::as_str))
    }

    /// The shortest stretch of the chain that has everything in range on it, with those skipped by it that are in range. What
    /// lies between two of them is kept too, and so is an entry outside of the range if one inside is only reached by it.
    pub(super) fn cut(&self, in_range: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
        let chain = self.chain();
        let mut counted = BTreeSet::new();
        let mut count = 0_usize;
        // From the end of the chain up: how many in range are reached from here.
        let mut counts: Vec<usize> = chain
            .iter()
            .rev()
            .map(|node| {
                let new = std::iter::once(*node).chain(self.skips(node)).filter(|name| in_range(name));
                count += new.filter(|name| counted.insert(*name)).count();
                count
            })
            .collect();
        counts.reverse();
        let most = counts.first().copied().unwrap_or_default();
        let begin = counts.iter().rposition(|count| *count == most).unwrap_or_default();
        let end = counts.iter().position(|count| *count == 0).unwrap_or(chain.len());
        let mut kept = BTreeSet::new();
        for node in chain.get(begin..end).unwrap_or_default() {
            kept.insert(*node);
            kept.extend(self.skips(node).filter(|name| in_range(name)));
        }
        kept
    }

    /// Entries that no way from the head leads to, and that nobody skips.
    pub(super) fn stranded(&self) -> Vec<&'a str> {
        let skipped: BTreeSet<&str> =
            self.entries.values().flat_map(|entry| entry.skips.iter().map(String::as_str)).collect();
        let mut reached = BTreeSet::new();
        for node in self.chain() {
            // What was skipped is not gone on from.
            if reached.insert(node) && skipped.contains(node) && node != self.head {
                break;
            }
        }
        self.entries.keys().copied().filter(|name| !reached.contains(name) && !skipped.contains(name)).collect()
    }
}

/// Entries that no other one updates.
fn heads(entries: &[Entry]) -> Vec<&str> {
    let updated: BTreeSet<&str> = entries.iter().flat_map(Entry::updates).collect();
    entries.iter().map(|entry| entry.name.as_str()).filter(|name| !updated.contains(name)).collect()
}

/// The names along a circle of updates, if there is one.
fn cycle(entries: &BTreeMap<&str, &Entry>) -> Option<Vec<String>> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in entries.keys() {
        // Without recursion: channels are chains of hundreds.
        let mut way: Vec<(&str, Vec<&str>)> = Vec::new();
        let mut on_way: BTreeSet<&str> = BTreeSet::new();
        let mut open = vec![*start];
        loop {
            match open.pop() {
                Some(name) => {
                    if on_way.contains(name) {
                        let circle = way.iter().skip_while(|(on, _)| *on != name);
                        return Some(circle.map(|(on, _)| format!("`{on}`")).collect());
                    }
                    let Some(entry) = entries.get(name).filter(|_| !done.contains(name)) else { continue };
                    on_way.insert(entry.name.as_str());
                    way.push((entry.name.as_str(), std::mem::take(&mut open)));
                    open = entry.updates().collect();
                }
                None => {
                    let Some((name, rest)) = way.pop() else { break };
                    on_way.remove(name);
                    done.insert(name);
                    open = rest;
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name`, `name<replaced` or `name<replaced-skipped-skipped`.
    fn entries(texts: &[&str]) -> Vec<Entry> {
        let entry = |text: &&str| {
            let (name, rest) = text.split_once('<').unwrap_or((text, ""));
            let mut names = rest.split('-').map(str::to_owned);
            let replaces = names.next().unwrap_or_default();
            Entry { name: name.to_owned(), replaces, skips: names.collect(), skip_range: String::new() }
        };
        texts.iter().map(entry).collect()
    }

    fn cut(texts: &[&str], inside: &[&str]) -> Vec<String> {
        let entries = entries(texts);
        Graph::new(&entries).unwrap().cut(|name| inside.contains(&name)).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_range_keeps_the_stretch_between_what_is_in_it() {
        let chain = ["e<d", "d<c", "c<b", "b<a", "a"];
        assert_eq!(cut(&chain, &["b", "d"]), ["b", "c", "d"]);
        assert_eq!(cut(&chain, &["e"]), ["e"]);
        assert_eq!(cut(&chain, &[]), [""; 0]);
    }

    #[test]
    fn what_is_only_skipped_keeps_the_entry_that_skips_it() {
        assert_eq!(cut(&["c<-a-b", "a", "b"], &["a"]), ["a", "c"]);
        assert_eq!(cut(&["d<c-a", "c<b", "b", "a"], &["c", "a"]), ["a", "c", "d"]);
        // Something beside the chain is never reached by a range.
        assert_eq!(cut(&["c<-b", "b<a", "a"], &["a", "b"]), ["b", "c"]);
    }

    #[test]
    fn a_chain_may_end_in_something_that_is_not_there() {
        assert_eq!(cut(&["b<a"], &["b"]), ["b"]);
        assert_eq!(cut(&["b<a"], &["a", "b"]), ["a", "b"]);
    }

    #[test]
    fn what_is_no_graph_with_one_head_is_told() {
        let wrong = |texts: &[&str]| Graph::new(&entries(texts)).err();
        assert_eq!(wrong(&[]), Some(GraphError::Empty));
        assert_eq!(wrong(&["a", "a"]), Some(GraphError::Duplicate("a".to_owned())));
        assert_eq!(wrong(&["a<a"]), Some(GraphError::ReplacesItself("a".to_owned())));
        assert_eq!(wrong(&["a<-a"]), Some(GraphError::SkipsItself("a".to_owned())));
        assert!(matches!(wrong(&["h<a", "a<b", "b<c", "c<a"]), Some(GraphError::Cycle(way)) if way.len() == 3));
        assert!(matches!(wrong(&["a<-b", "b<-a"]), Some(GraphError::Cycle(_))));
        assert!(matches!(wrong(&["b", "a"]), Some(GraphError::Heads(heads)) if heads == ["`b`", "`a`"]));
    }

    #[test]
    fn what_no_way_leads_to_is_stranded() {
        let stranded = |texts: &[&str]| {
            Graph::new(&entries(texts)).unwrap().stranded().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(stranded(&["c<b", "b<a", "a"]), [""; 0]);
        assert_eq!(stranded(&["c<-b", "b<a", "a"]), ["a"]);
        assert_eq!(stranded(&["c<b-b", "b<a", "a"]), ["a"], "what is skipped is not gone on from");
    }

    #[test]
    fn a_chain_of_many_thousand_is_no_problem() {
        let many: Vec<Entry> = (0..20_000)
            .map(|number| Entry {
                name: format!("n{number}"),
                replaces: format!("n{}", number + 1),
                ..Entry::default()
            })
            .collect();
        assert_eq!(Graph::new(&many).unwrap().head(), "n0");
    }
}
