//! What a plan changes against the one before.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Asked, Plan, PlanItem};
use crate::oci::{Digest, Reference};

/// The places of the target that two plans do not agree on, each list sorted by destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff<'a> {
    /// Places that only the later plan has.
    pub added: Vec<Entry<'a>>,
    /// Places that both have, with other content.
    pub changed: Vec<Change<'a>>,
    /// Places that only the earlier plan has, and that are not wanted any more.
    pub removed: Vec<Entry<'a>>,
    /// Places that only the earlier plan has while the later one is not whole: they may still be wanted.
    pub undecided: Vec<Entry<'a>>,
}

/// One place and what is wanted there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry<'a> {
    /// The place.
    pub destination: &'a Reference,
    /// Where the content comes from, in the words of the first who asked.
    pub source: String,
    /// The content.
    #[serde(flatten)]
    pub content: Content<'a>,
}

/// One place and what is wanted there in place of what was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change<'a> {
    /// The place.
    pub destination: &'a Reference,
    /// Where the content comes from, in the words of the first who asked.
    pub source: String,
    /// What was wanted.
    pub before: Content<'a>,
    /// What is wanted.
    pub after: Content<'a>,
}

/// What is wanted at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Content<'a> {
    /// The digest.
    pub digest: &'a Digest,
    /// The platforms of an index; empty for all.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub platforms: &'a BTreeSet<String>,
}

impl Diff<'_> {
    /// True if the plans agree on every place.
    pub fn is_empty(&self) -> bool {
        *self == Diff::default()
    }
}

impl Plan {
    /// What this plan changes against `previous`; everything is new against none.
    pub fn diff<'a>(&'a self, previous: Option<&'a Self>) -> Diff<'a> {
        let mut before: BTreeMap<_, _> =
            previous.into_iter().flat_map(|plan| &plan.items).map(|item| (&item.destination, item)).collect();
        let mut diff = Diff::default();
        // The order of the plan is not that of its destinations where one item follows another.
        let now: BTreeMap<_, _> = self.items.iter().map(|item| (&item.destination, item)).collect();
        for (destination, item) in now {
            match before.remove(destination) {
                None => diff.added.push(item.entry()),
                Some(old) if old.content() == item.content() => {}
                Some(old) => diff.changed.push(Change {
                    destination,
                    source: item.source(),
                    before: old.content(),
                    after: item.content(),
                }),
            }
        }
        let gone = before.into_values().map(PlanItem::entry);
        if self.whole() {
            diff.removed.extend(gone);
        } else {
            diff.undecided.extend(gone);
        }
        diff
    }
}

impl PlanItem {
    fn content(&self) -> Content<'_> {
        Content { digest: &self.digest, platforms: &self.platforms }
    }

    fn entry(&self) -> Entry<'_> {
        Entry { destination: &self.destination, source: self.source(), content: self.content() }
    }

    fn source(&self) -> String {
        self.asked.first().map(Asked::written).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Reason};
    use crate::plan::{Category, TargetId};
    use crate::resolve::{Origin, OriginKind};

    fn plan(items: &[(&str, &str, &[&str])]) -> Plan {
        let item = |(place, content, platforms): &(&str, &str, &[&str])| PlanItem {
            asked: vec![Asked {
                origin: Origin { kind: OriginKind::Additional, name: format!("quay.io/{place}") },
                named: format!("quay.io/{place}").parse().unwrap(),
                spelled: None,
                category: Category::Generic,
            }],
            digest: Digest::of(content.as_bytes()),
            destination: format!("m.io/{place}").parse().unwrap(),
            platforms: platforms.iter().map(|text| (*text).to_owned()).collect(),
            after: Vec::new(),
            unmet: None,
        };
        let items = items.iter().map(item).collect();
        let target = TargetId("t".to_owned());
        Plan {
            version: Plan::VERSION,
            target,
            items,
            blocked: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
            partial: false,
        }
    }

    fn places(entries: &[Entry<'_>]) -> Vec<String> {
        entries.iter().map(|entry| entry.destination.to_string()).collect()
    }

    #[test]
    fn each_place_is_added_changed_removed_or_not_mentioned() {
        let before = plan(&[("a:1", "a", &[]), ("b:1", "old", &[]), ("c:1", "c", &[]), ("d:1", "d", &["linux/arm64"])]);
        // In another order, as if something followed something else.
        let now = plan(&[("e:1", "e", &[]), ("d:1", "d", &[]), ("b:1", "new", &[]), ("a:1", "a", &[])]);
        let diff = now.diff(Some(&before));
        assert_eq!(places(&diff.added), ["m.io/e:1"]);
        assert_eq!(places(&diff.removed), ["m.io/c:1"]);
        assert_eq!(diff.undecided, []);
        let changed: Vec<_> = diff.changed.iter().map(|change| change.source.as_str()).collect();
        assert_eq!(changed, ["quay.io/b:1", "quay.io/d:1"], "other platforms are other content");
        assert_eq!(diff.changed[0].before.digest, &Digest::of(b"old"));
        assert_eq!(diff.changed[0].after.digest, &Digest::of(b"new"));
        assert!(before.diff(Some(&before)).is_empty());
        assert_eq!(before.diff(None).added.len(), 4);
    }

    #[test]
    fn nothing_is_removed_by_what_is_not_whole() {
        let before = plan(&[("a:1", "a", &[]), ("b:1", "b", &[])]);
        let mut failing = plan(&[("a:1", "a", &[])]);
        let origin = Origin { kind: OriginKind::Additional, name: "quay.io/b:1".to_owned() };
        failing.failures.push((origin, Failure::transient(Reason::NetworkUnreachable, "no")));
        let partial = Plan { partial: true, ..plan(&[("a:1", "a", &[])]) };
        for now in [failing, partial] {
            let diff = now.diff(Some(&before));
            assert_eq!((diff.removed.len(), places(&diff.undecided)), (0, vec!["m.io/b:1".to_owned()]));
        }
    }
}
