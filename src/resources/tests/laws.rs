//! What holds for every input.

use proptest::prelude::*;

use crate::plan::PlanItem;

use super::merge::{Merged, within};
use super::*;

/// What the schemas of the kinds accept as a source without wildcard and as a mirror.
static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
    let component = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*";
    let label = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?";
    Regex::new(&format!(r"^{label}(\.{label})*(:[0-9]+)?(/{component})*$")).unwrap()
});

/// An image in the words of [`World::images`], without `!`, and whether it is in the target. Tags are numbered, so that no two
/// images contend for one place.
fn images() -> impl Strategy<Value = Vec<(String, bool)>> {
    let host = prop_oneof![Just("q.io"), Just("r.io:5000"), Just("m.lab:8443"), Just("[::1]")];
    let path = "[ab](/[ab]){0,2}";
    let target = proptest::option::weighted(0.2, "[ab](/[ab]){0,1}");
    let one = (host, path, 0..3, target, any::<bool>());
    proptest::collection::vec(one, 0..7).prop_map(|images| {
        let text = |(index, (host, path, form, target, there)): (usize, (&str, String, i32, Option<String>, bool))| {
            let name = match form {
                0 => format!("{host}/{path}:t{index}"),
                1 => format!("{host}/{path}{D}"),
                _ => format!("{host}/{path}:t{index}{D}"),
            };
            (target.map_or(name.clone(), |target| format!("{name} > {target}")), there)
        };
        images.into_iter().enumerate().map(text).collect()
    })
}

fn marked(images: &[(String, bool)]) -> Vec<String> {
    images.iter().map(|(image, there)| if *there { image.clone() } else { format!("{image} !") }).collect()
}

fn outputs() -> impl Strategy<Value = (Disruption, Removal, MirrorSourcePolicy, bool)> {
    let disruption = prop_oneof![Just(Disruption::ReloadOnly), Just(Disruption::AllowDrain)];
    let removal = prop_oneof![Just(Removal::Retain), Just(Removal::Remove)];
    (disruption, removal, prop_oneof![Just(ALLOW), Just(NEVER)], any::<bool>())
}

fn world(images: &[(String, bool)], options: (Disruption, Removal, MirrorSourcePolicy, bool)) -> World {
    let mut world = World::new(&[]);
    world.images = marked(images);
    let (disruption, removal, policy, foreign) = options;
    world.outputs.disruption = disruption;
    world.outputs.removal = removal;
    world.outputs.idms.source_policy = policy;
    world.outputs.itms.source_policy = policy;
    if foreign {
        world.foreign_idms("f", &[("q.io/a", "n.io/a", None), ("r.io:5000", "n.io", Some(NEVER))]);
        world.foreign_itms("g", &[("q.io/b", "m.lab:8443/ocp/b", None)]);
        let mut spec = ImageSpec::default();
        spec.registry_sources.blocked_registries = vec!["q.io/a/b".to_owned()];
        world.cluster.images = Some(Image::new("cluster", spec));
    }
    world
}

fn merged(world: &World) -> Merged {
    let sets = MirrorKind::ALL.map(|kind| entries(world, kind).into_iter().map(move |entry| (kind, entry)));
    let sets: Vec<_> = sets.into_iter().flatten().collect();
    Merged::new(sets.iter().map(|(kind, entry)| (*kind, entry)), &world.cluster.lists())
}

fn entries(world: &World, kind: MirrorKind) -> Vec<Entry> {
    let sets: Vec<_> = match kind {
        MirrorKind::Digest => world.cluster.idms.iter().cloned().map(MirrorSet::Digest).collect(),
        MirrorKind::Tag => world.cluster.itms.iter().cloned().map(MirrorSet::Tag).collect(),
    };
    sets.iter().flat_map(|set| set.entries().into_values()).collect()
}

/// Each source and mirror on its own, with the kind.
fn pairs(world: &World) -> BTreeSet<(MirrorKind, String, String)> {
    let pair = |kind, entry: Entry| entry.mirrors.into_iter().map(move |mirror| (kind, entry.source.clone(), mirror));
    MirrorKind::ALL
        .into_iter()
        .flat_map(|kind| entries(world, kind).into_iter().flat_map(move |e| pair(kind, e)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn applying_a_decision_settles_it(first in images(), second in images(), options in outputs()) {
        let mut world = world(&first, options);
        world.apply();
        world.images = marked(&second);
        let decided = world.apply();
        let again = world.apply();
        prop_assert_eq!(&again.manifests, &decided.manifests);
        prop_assert!(again.apply.iter().all(|apply| !apply.changed && apply.impact == Impact::None));
        prop_assert!(again.remove.is_empty());
        let repair = repair(&world.identity, &world.outputs, &world.stored, &world.cluster);
        prop_assert!(repair.apply.iter().all(|apply| !apply.changed));
        prop_assert_eq!(world.decide(), world.decide());
    }

    #[test]
    fn the_order_of_images_does_not_matter(images in images(), options in outputs()) {
        let forward = world(&images, options).decide();
        let mut turned = images.clone();
        turned.reverse();
        prop_assert_eq!(world(&turned, options).decide(), forward);
    }

    #[test]
    fn nothing_is_narrowed_unless_removal_was_asked_for_and_all_is_there(
        first in images(), second in images(), options in outputs(), failed in any::<bool>(),
    ) {
        let mut world = world(&first, options);
        world.apply();
        let before = pairs(&world);
        world.images = marked(&second);
        world.failed.extend(failed.then(|| "q.io/lost:1".to_owned()));
        let (plan, verified) = world.plan();
        world.apply();
        if world.outputs.removal == Removal::Retain || !plan.complete(&verified) {
            prop_assert!(before.is_subset(&pairs(&world)), "{:?}", before.difference(&pairs(&world)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn reload_only_drains_nothing(first in images(), second in images(), options in outputs()) {
        let mut world = world(&first, (Disruption::AllowDrain, options.1, options.2, options.3));
        world.apply();
        let before = merged(&world);
        world.images = marked(&second);
        world.outputs.disruption = Disruption::ReloadOnly;
        world.apply();
        let impact = before.impact(&merged(&world));
        prop_assert!(!matches!(impact, Impact::Drain { .. }), "{:?}", impact);
    }

    #[test]
    fn nodes_find_everything_whatever_was_there_before(first in images(), second in images()) {
        let mut world = World::new(&[]);
        world.images = marked(&first);
        world.apply();
        world.images = second.into_iter().map(|(image, _)| image).collect();
        world.apply();
        let both: Vec<_> = MirrorKind::ALL.into_iter().flat_map(|kind| entries(&world, kind)).collect();
        for item in &world.plan().0.items {
            for asked in &item.asked {
                let source = asked.named.repository().to_string();
                let place = item.destination.repository().to_string();
                if asked.named.repository().registry().is_ipv6() || source == place {
                    continue;
                }
                // The most specific rule applies alone, whatever it is for.
                let scope = both.iter().map(|entry| entry.source.as_str()).filter(|scope| within(&source, scope));
                let scope = scope.max_by_key(|scope| scope.len()).unwrap();
                let rest = source.strip_prefix(scope).unwrap();
                let named = [
                    (MirrorKind::Digest, asked.named.digest().is_some()),
                    (MirrorKind::Tag, asked.named.tag().is_some()),
                ];
                for (kind, _) in named.into_iter().filter(|(_, named)| *named) {
                    let entry = entries(&world, kind).into_iter().find(|entry| entry.source == scope);
                    let found = entry.iter().flat_map(|entry| &entry.mirrors).any(|mirror| format!("{mirror}{rest}") == place);
                    prop_assert!(found, "{} by {:?}: {:?}, not {}", source, kind, entry, place);
                }
            }
        }
    }

    #[test]
    fn nodes_find_every_image_that_a_rule_covers(images in images()) {
        let mut world = World::new(&[]);
        world.images = marked(&images);
        world.apply();
        let (plan, verified) = world.plan();
        let sources = |item: &PlanItem| item.asked.iter().map(|asked| asked.named.repository().to_string()).collect::<Vec<_>>();
        let waiting = plan.items.iter().enumerate().filter(|(index, _)| !verified.contains(index));
        let waiting: BTreeSet<String> = waiting.flat_map(|(_, item)| sources(item)).collect();
        for item in verified.iter().map(|index| &plan.items[*index]) {
            for asked in &item.asked {
                let source = asked.named.repository().to_string();
                // A mirror waits for all that is to be in it; until then its images may be looked for in another mirror of their
                // repository, which is complete.
                if waiting.contains(&source) {
                    continue;
                }
                for kind in MirrorKind::ALL {
                    let named = if kind == MirrorKind::Digest { asked.named.digest().is_some() } else { asked.named.tag().is_some() };
                    let all = entries(&world, kind);
                    let covering = all.iter().filter(|entry| within(&source, &entry.source));
                    let Some(entry) = covering.max_by_key(|entry| entry.source.len()).filter(|_| named) else { continue };
                    let rest = source.strip_prefix(&entry.source).unwrap();
                    let place = item.destination.repository().to_string();
                    // A tag may be named for a digest image as well; its repository alone matters here.
                    let found = entry.mirrors.iter().any(|mirror| format!("{mirror}{rest}") == place);
                    prop_assert!(found, "{} by {:?}: {}, not {}", source, kind, shown(entry), place);
                }
            }
        }
    }

    #[test]
    fn sources_and_mirrors_are_what_the_kinds_accept(images in images(), options in outputs()) {
        let desired = world(&images, options).decide();
        for apply in &desired.apply {
            let entries = apply.object.entries();
            prop_assert!(!entries.is_empty());
            for entry in entries.values() {
                prop_assert!(GRAMMAR.is_match(&entry.source), "{}", entry.source);
                prop_assert!(!entry.mirrors.is_empty());
                let unique: BTreeSet<_> = entry.mirrors.iter().collect();
                prop_assert_eq!(unique.len(), entry.mirrors.len());
                for mirror in &entry.mirrors {
                    prop_assert!(GRAMMAR.is_match(mirror), "{}", mirror);
                    prop_assert!(mirror != &entry.source);
                }
            }
        }
    }
}
