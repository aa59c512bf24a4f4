//! Planning: mapping, leaving out, uniting, ordering.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Asked, Blocked, Category, Collision, Plan, PlanError, PlanItem, TargetId, TargetRoot, Unmappable, mapping,
};
use crate::failure::Failure;
use crate::oci::{Digest, Reference, Tag};
use crate::request::Pattern;
use crate::resolve::{Item, ItemKey, Origin, OriginKind, PathRule, Rank, Source, Wanted};

/// One item of the plan while it is put together.
struct Draft {
    /// At least one; sorted once all are there.
    asked: Vec<Asked>,
    /// `None` once somebody wants all platforms.
    platforms: Option<BTreeSet<String>>,
    /// Who it must follow, as keys of the wanted list.
    after: BTreeSet<ItemKey>,
    unmet: Option<Failure>,
}

/// Where an item goes and what it is: what makes two wants one item.
type Place = (Reference, Digest);

impl Plan {
    /// Maps, filters, unites and orders what is wanted.
    ///
    /// An image is left out if one of `blocked` matches somewhere in its name as written or in its destination. What must
    /// follow it then follows what it would have followed.
    ///
    /// # Errors
    /// All collisions and all images without a place.
    pub fn new(wanted: &Wanted, root: &TargetRoot, blocked: &[Pattern], target: TargetId) -> Result<Self, PlanError> {
        let mut error = PlanError::default();
        let early = wanted
            .left_out
            .iter()
            .map(|left| Blocked { asked: asked(&left.origin, &left.named, None), pattern: left.pattern.clone() });
        let mut left_out: Vec<_> = early.collect();
        let mut places: BTreeMap<ItemKey, Place> = BTreeMap::new();
        for (key, item) in wanted.items.iter().enumerate() {
            let Source::Registry { digest, .. } = &item.source;
            let destination = mapping::destination(item, root);
            if let Some(pattern) = blocking(blocked, item, destination.as_ref().ok()) {
                left_out.push(Blocked { asked: asked_by(item), pattern: pattern.to_owned() });
                continue;
            }
            match destination {
                Ok(destination) => {
                    places.insert(key, (destination, digest.clone()));
                }
                Err(fault) => error.unmappable.push(Unmappable { origin: item.origin.clone(), error: fault }),
            }
        }
        let mut notes = wanted.notes.clone();
        part(wanted, &mut places, &mut notes);
        let drafts = unite(wanted, &places);
        error.collisions = collisions(&drafts);
        error.unmappable.sort_by(|a, b| a.origin.cmp(&b.origin));
        error.unmappable.dedup();
        let items = match order(wanted, &places, drafts) {
            Ok(items) => items,
            Err(cycle) => {
                error.cycle = cycle;
                Vec::new()
            }
        };
        if error != PlanError::default() {
            return Err(error);
        }
        left_out.sort_by(|a, b| (&a.asked, &a.pattern).cmp(&(&b.asked, &b.pattern)));
        left_out.dedup();
        let mut failures = wanted.failures.clone();
        failures.sort_by(|(a, x), (b, y)| (a, x.reason, &x.message).cmp(&(b, y.reason, &y.message)));
        failures.dedup();
        notes.sort_unstable();
        notes.dedup();
        Ok(Self { version: Self::VERSION, target, items, blocked: left_out, failures, notes, partial: false })
    }
}

fn asked_by(item: &Item) -> Asked {
    let Source::Registry { named, .. } = &item.source;
    asked(&item.origin, named, Some(&item.destination.path))
}

fn asked(origin: &Origin, named: &Reference, path: Option<&PathRule>) -> Asked {
    let category = match (origin.kind, path) {
        (OriginKind::Release, _) => Category::Release,
        (OriginKind::Operator, _) => Category::Operator,
        // A chart is pulled from where it is in the target; its images are not.
        (OriginKind::Graph | OriginKind::Catalog, _) | (OriginKind::Helm, Some(PathRule::Replace(_))) => {
            Category::Direct
        }
        (OriginKind::Additional | OriginKind::Helm, _) => Category::Generic,
    };
    let spelled = match path {
        // An additional image is named by its origin.
        Some(PathRule::Keep { written }) if origin.kind != OriginKind::Additional => Some(written),
        _ => None,
    };
    let spelled = spelled.filter(|written| **written != named.repository().to_string()).cloned();
    Asked { origin: origin.clone(), named: named.clone(), spelled, category }
}

fn blocking<'a>(blocked: &'a [Pattern], item: &Item, destination: Option<&Reference>) -> Option<&'a str> {
    if blocked.is_empty() {
        return None;
    }
    let written = match item.origin.kind {
        OriginKind::Additional => item.origin.name.clone(),
        _ => asked_by(item).written(),
    };
    Pattern::blocking(blocked, &written, destination.map(ToString::to_string).as_deref())
}

/// Lets content that nobody named give way where a place is contested. Each image is found by its digest in any case, under a
/// tag made of it; the contested tag is for what the user named, else for what the highest version needs.
fn part(wanted: &Wanted, places: &mut BTreeMap<ItemKey, Place>, notes: &mut Vec<String>) {
    let mut rivals: BTreeMap<&Reference, BTreeMap<&Digest, (bool, &Rank)>> = BTreeMap::new();
    for (key, (destination, digest)) in &*places {
        let Some(item) = wanted.items.get(*key) else { continue };
        let claim = (item.rank.is_none(), item.rank.as_ref().unwrap_or(&None));
        let best = rivals.entry(destination).or_default().entry(digest).or_insert(claim);
        *best = claim.max(*best);
    }
    let mut winners: BTreeMap<Reference, Digest> = BTreeMap::new();
    for (destination, digests) in rivals.into_iter().filter(|(_, digests)| digests.len() > 1) {
        // Of equals, the one whose digest sorts first.
        let best = digests.iter().max_by(|(a, x), (b, y)| x.cmp(y).then_with(|| b.cmp(a)));
        winners.extend(best.map(|(digest, _)| (destination.clone(), (*digest).clone())));
    }
    for (key, (destination, digest)) in places {
        let Some(winner) = winners.get(destination).filter(|winner| *winner != digest) else { continue };
        if wanted.items.get(*key).is_some_and(|item| item.rank.is_some()) {
            let own = destination.repository().tagged(Tag::of_digest(digest));
            notes
                .push(format!("`{destination}` is for {winner}: {digest}, which is wanted there too, goes to `{own}`"));
            *destination = own;
        }
    }
}

fn unite(wanted: &Wanted, places: &BTreeMap<ItemKey, Place>) -> BTreeMap<Place, Draft> {
    let mut drafts: BTreeMap<Place, Draft> = BTreeMap::new();
    for (key, item) in wanted.items.iter().enumerate() {
        let Some(place) = places.get(&key) else { continue };
        let draft = drafts.entry(place.clone()).or_insert_with(|| Draft {
            // Nearly everything is asked for once.
            asked: Vec::with_capacity(1),
            platforms: Some(BTreeSet::new()),
            after: BTreeSet::new(),
            unmet: None,
        });
        draft.asked.push(asked_by(item));
        draft.after.extend(&item.after);
        if draft.unmet.is_none() {
            draft.unmet.clone_from(&item.unmet);
        }
        if item.platforms.is_empty() {
            draft.platforms = None;
        }
        if let Some(platforms) = &mut draft.platforms {
            platforms
                .extend(item.platforms.iter().map(|platform| format!("{}/{}", platform.os, platform.architecture)));
        }
    }
    for draft in drafts.values_mut() {
        draft.asked.sort_unstable();
        draft.asked.dedup();
    }
    drafts
}

/// Each further digest of a place against the one whose entry sorts first.
fn collisions(drafts: &BTreeMap<Place, Draft>) -> Vec<Collision> {
    let mut rivals: BTreeMap<&Reference, Vec<(&Asked, &Digest)>> = BTreeMap::new();
    for ((destination, digest), draft) in drafts {
        rivals.entry(destination).or_default().extend(draft.asked.first().map(|asked| (asked, digest)));
    }
    let mut collisions = Vec::new();
    for (destination, mut rivals) in rivals {
        rivals.sort();
        let mut rivals = rivals.into_iter();
        let Some((first, first_digest)) = rivals.next() else { continue };
        collisions.extend(rivals.map(|(second, second_digest)| Collision {
            destination: destination.clone(),
            first: first.origin.name.clone(),
            first_digest: first_digest.clone(),
            second: second.origin.name.clone(),
            second_digest: second_digest.clone(),
        }));
    }
    collisions
}

/// Sorted by destination as far as `after` allows; the destinations of a cycle otherwise.
fn order(
    wanted: &Wanted,
    places: &BTreeMap<ItemKey, Place>,
    mut drafts: BTreeMap<Place, Draft>,
) -> Result<Vec<PlanItem>, Vec<Reference>> {
    let mut waits: BTreeMap<Place, BTreeSet<Place>> = BTreeMap::new();
    let mut releases: BTreeMap<Place, Vec<Place>> = BTreeMap::new();
    for (place, draft) in &drafts {
        let mut before = predecessors(wanted, places, &draft.after);
        before.remove(place);
        for earlier in &before {
            releases.entry(earlier.clone()).or_default().push(place.clone());
        }
        waits.insert(place.clone(), before);
    }
    let predecessors = waits.clone();
    let mut ready: BTreeSet<Place> =
        waits.iter().filter(|(_, before)| before.is_empty()).map(|(place, _)| place.clone()).collect();
    let mut positions: BTreeMap<Place, usize> = BTreeMap::new();
    let mut items = Vec::with_capacity(drafts.len());
    while let Some(place) = ready.pop_first() {
        for later in releases.remove(&place).unwrap_or_default() {
            if let Some(before) = waits.get_mut(&later) {
                before.remove(&place);
                if before.is_empty() {
                    ready.insert(later);
                }
            }
        }
        let Some(draft) = drafts.remove(&place) else { continue };
        let before = predecessors.get(&place).into_iter().flatten();
        let mut after: Vec<_> = before.filter_map(|earlier| positions.get(earlier).copied()).collect();
        after.sort_unstable();
        positions.insert(place.clone(), items.len());
        let (destination, digest) = place;
        items.push(PlanItem {
            asked: draft.asked,
            digest,
            destination,
            platforms: draft.platforms.unwrap_or_default(),
            after,
            unmet: draft.unmet,
        });
    }
    if drafts.is_empty() { Ok(items) } else { Err(drafts.into_keys().map(|(destination, _)| destination).collect()) }
}

/// The places to follow; what is left out hands on what it would have followed itself.
fn predecessors(wanted: &Wanted, places: &BTreeMap<ItemKey, Place>, after: &BTreeSet<ItemKey>) -> BTreeSet<Place> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut open: Vec<_> = after.iter().copied().collect();
    while let Some(key) = open.pop() {
        if !seen.insert(key) {
            continue;
        }
        match places.get(&key) {
            Some(place) => {
                found.insert(place.clone());
            }
            None => open.extend(wanted.items.get(key).into_iter().flat_map(|item| &item.after)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy};
    use regex::Regex;

    use super::*;
    use crate::failure::{Failure, Reason};
    use crate::oci::Platform;
    use crate::resolve::{DestinationRule, TagRule};

    fn item(written: &str, content: &str) -> Item {
        let named: Reference = written.parse().unwrap();
        let digest = named.digest().cloned().unwrap_or_else(|| Digest::of(content.as_bytes()));
        Item {
            origin: Origin { kind: OriginKind::Additional, name: written.to_owned() },
            source: Source::Registry { named, digest },
            destination: DestinationRule {
                path: PathRule::Keep { written: Reference::split(written).0.to_owned() },
                tag: TagRule::Keep,
            },
            platforms: BTreeSet::new(),
            after: BTreeSet::new(),
            rank: None,
            unmet: None,
        }
    }

    fn wanted(items: Vec<Item>) -> Wanted {
        Wanted { items, ..Wanted::default() }
    }

    fn root() -> TargetRoot {
        TargetRoot { registry: "m.io".parse().unwrap(), prefix: Some("ocp".parse().unwrap()) }
    }

    fn pattern(text: &str) -> Pattern {
        Pattern { text: text.to_owned(), regex: Regex::new(text).unwrap() }
    }

    fn plan(wanted: &Wanted, blocked: &[&str]) -> Result<Plan, PlanError> {
        let blocked: Vec<_> = blocked.iter().map(|text| pattern(text)).collect();
        Plan::new(wanted, &root(), &blocked, TargetId("t".to_owned()))
    }

    fn destinations(plan: &Plan) -> Vec<String> {
        plan.items.iter().map(|item| item.destination.to_string()).collect()
    }

    #[test]
    fn equal_place_and_digest_is_one_item_that_names_everybody() {
        let amd = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned() };
        let arm = Platform { os: "linux".to_owned(), architecture: "arm64".to_owned() };
        let mut first = item("quay.io/a/b:1", "x");
        first.platforms.insert(arm);
        let mut second = item("ghcr.io/a/b:1", "x");
        second.platforms.insert(amd);
        let both = plan(&wanted(vec![first.clone(), second.clone()]), &[]).unwrap();
        let asked: Vec<_> = both.items[0].asked.iter().map(|asked| asked.origin.name.as_str()).collect();
        assert_eq!((both.items.len(), asked), (1, vec!["ghcr.io/a/b:1", "quay.io/a/b:1"]));
        assert_eq!(both.items[0].platforms.iter().collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
        assert_eq!(both.by_origin(), BTreeMap::from([(OriginKind::Additional, 1)]));

        second.platforms.clear();
        let all = plan(&wanted(vec![first, second]), &[]).unwrap();
        assert!(all.items[0].platforms.is_empty());
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let long = format!("quay.io/{}:1", "a".repeat(255));
        let items =
            vec![item("quay.io/a/b:1", "x"), item("ghcr.io/a/b:1", "y"), item("x.io/a/b:1", "z"), item(&long, "l")];
        let error = plan(&wanted(items), &[]).unwrap_err();
        assert_eq!((error.collisions.len(), error.unmappable.len()), (2, 1));
        let text = error.to_string();
        assert!(text.contains("`ghcr.io/a/b:1`") && text.contains("would both become `m.io/ocp/a/b:1`"), "{text}");
        assert!(text.contains("259 characters"), "{text}");
    }

    #[test]
    fn blocking_matches_anywhere_in_origin_or_destination() {
        // E86 with the names of its table.
        let names =
            ["a", "b", "c", "d", "e", "f"].map(|letter| format!("registry/name/namespace/sometestimage-{letter}:1"));
        let wanted = wanted(names.iter().map(|name| item(name, name)).collect());
        for (patterns, left) in [
            (vec!["sometestimage-a", "sometestimage-c", "sometestimage-e"], 3),
            (vec!["sometestimage-z"], 6),
            (vec!["^registry/name/"], 0),
            (vec!["^m\\.io/ocp/name"], 0),
            (vec!["^docker"], 6),
            (vec!["-(a|b)"], 4),
        ] {
            let plan = plan(&wanted, &patterns).unwrap();
            assert_eq!((plan.items.len(), plan.blocked.len()), (left, 6 - left), "{patterns:?}");
        }
    }

    #[test]
    fn a_blocked_image_is_no_fault_and_no_collision() {
        let items = vec![item("quay.io/a/b:1", "x"), item("ghcr.io/a/b:1", "y")];
        let plan = plan(&wanted(items), &["^ghcr"]).unwrap();
        assert_eq!(plan.blocked[0].pattern, "^ghcr");
        assert_eq!(destinations(&plan), ["m.io/ocp/a/b:1"]);
    }

    #[test]
    fn what_follows_comes_later_also_across_what_is_left_out() {
        // a follows b, b (left out) follows c: a follows c.
        let mut items = vec![item("q.io/x/a:1", "a"), item("q.io/x/b:1", "b"), item("q.io/x/c:1", "c")];
        items[0].after.insert(1);
        items[1].after.insert(2);
        let plan = plan(&wanted(items), &["/b:"]).unwrap();
        assert_eq!(destinations(&plan), ["m.io/ocp/x/c:1", "m.io/ocp/x/a:1"]);
        assert_eq!(plan.items[1].after, [0]);
    }

    #[test]
    fn a_cycle_is_named_instead_of_cut() {
        let mut items = vec![item("q.io/x/a:1", "a"), item("q.io/x/b:1", "b")];
        items[0].after.insert(1);
        items[1].after.insert(0);
        assert_eq!(plan(&wanted(items), &[]).unwrap_err().cycle.len(), 2);
    }

    #[test]
    fn the_digest_is_of_contents_and_places_alone() {
        let mut one = wanted(vec![item("quay.io/a/b:1", "x")]);
        let before = plan(&one, &[]).unwrap().digest();
        one.items.push(item("ghcr.io/a/b:1", "x"));
        let failure = Failure::permanent(Reason::SourceNotFound, "no");
        one.failures.push((one.items[0].origin.clone(), failure));
        assert_eq!(plan(&one, &[]).unwrap().digest(), before);
        assert_ne!(plan(&wanted(vec![item("quay.io/a/b:1", "y")]), &[]).unwrap().digest(), before);
        assert_ne!(plan(&wanted(vec![item("quay.io/a/b:2", "x")]), &[]).unwrap().digest(), before);
    }

    #[test]
    fn mapping_lines_name_each_source_as_it_was_written() {
        let digest = Digest::of(b"d");
        let tagged = format!("quay.io/a/c:1@{digest}");
        let items = ["nginx:1.16.0", "quay.io/a/b:1", "ghcr.io/a/b:1"].map(|name| item(name, "x"));
        let items = items.into_iter().chain([item(&tagged, ""), item(&tagged, "")]).collect();
        assert_eq!(
            plan(&wanted(items), &[]).unwrap().mapping(),
            [
                "docker://ghcr.io/a/b:1=docker://m.io/ocp/a/b:1",
                "docker://nginx:1.16.0=docker://m.io/ocp/nginx:1.16.0",
                "docker://quay.io/a/b:1=docker://m.io/ocp/a/b:1",
                &format!("docker://quay.io/a/c@{digest}=docker://m.io/ocp/a/c:1"),
            ]
        );
    }

    #[test]
    fn the_graph_has_items_and_what_they_follow() {
        let mut items = vec![item("q.io/x/a:1", "a"), item("q.io/x/b:1", "b")];
        items[0].after.insert(1);
        assert_eq!(
            plan(&wanted(items), &[]).unwrap().dot(),
            "digraph plan {\n  node [shape=box];\n  n0 [label=\"m.io/ocp/x/b:1\\nq.io/x/b:1\"];\n  n1 \
             [label=\"m.io/ocp/x/a:1\\nq.io/x/a:1\"];\n  n1 -> n0;\n}\n"
        );
        assert_eq!(super::super::quoted("a\"b\\c"), r#"a\"b\\c"#);
    }

    #[test]
    fn what_moved_is_added_and_removed() {
        let now = plan(&wanted(vec![item("q.io/x/a:1", "new"), item("q.io/x/b:1", "b")]), &[]).unwrap();
        let reference = |name: &str| name.parse::<Reference>().unwrap();
        let previous = [
            (reference("m.io/ocp/x/a:1"), Digest::of(b"old")),
            (reference("m.io/ocp/x/b:1"), Digest::of(b"b")),
            (reference("m.io/ocp/x/c:1"), Digest::of(b"c")),
        ];
        assert_eq!(now.added(&previous).len(), 1);
        assert_eq!(now.removed(&previous), [&previous[0], &previous[2]]);
    }

    #[test]
    fn a_plan_is_read_back_as_it_was_written() {
        let plan = plan(&wanted(vec![item("q.io/x/a:1", "a")]), &[]).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        insta::assert_yaml_snapshot!(plan);
    }

    /// Wants without collisions, with `after` pointing to smaller keys, and a permutation.
    fn permuted() -> impl Strategy<Value = (Vec<(String, Vec<usize>)>, Vec<usize>)> {
        proptest::collection::vec(("[a-c]/[a-c]:[12]", proptest::collection::vec(0_usize..8, 0..3)), 1..8)
            .prop_flat_map(|wants| {
                let order: Vec<_> = (0..wants.len()).collect();
                (Just(wants), Just(order).prop_shuffle())
            })
    }

    proptest::proptest! {
        #[test]
        fn the_order_of_what_is_wanted_does_not_matter((wants, permutation) in permuted()) {
            let build = |order: &[usize]| {
                let at = |key: usize| order.iter().position(|k| *k == key).unwrap();
                let items = order.iter().map(|key| {
                    let (name, after) = &wants[*key];
                    // Content follows from the name, so equal places have equal digests; later names follow earlier ones.
                    let mut item = item(&format!("q.io/{name}"), name);
                    item.after = after.iter().filter(|k| **k < wants.len() && wants[**k].0 < *name).map(|k| at(*k)).collect();
                    item
                });
                plan(&wanted(items.collect()), &["a/b"]).unwrap()
            };
            let straight: Vec<_> = (0..wants.len()).collect();
            let plan = build(&straight);
            for (index, item) in plan.items.iter().enumerate() {
                proptest::prop_assert!(item.after.iter().all(|before| *before < index));
                proptest::prop_assert!(!item.asked.is_empty());
            }
            proptest::prop_assert_eq!(plan, build(&permutation));
        }
    }
}
