//! What is written, kept, held back and reported.

use super::*;

fn names(objects: &[ObjectName]) -> Vec<String> {
    objects.iter().map(ToString::to_string).collect()
}

#[test]
fn objects_carry_marks_and_nothing_that_changes_by_itself() {
    let image = format!("quay.io/a/x:1{D}");
    let mut world = World::new(&[&image, "registry.redhat.io/ubi9/ubi:latest > team/base"]);
    let desired = world.apply();
    let objects: Vec<_> = desired.apply.iter().map(|apply| &apply.object).collect();
    insta::assert_yaml_snapshot!("objects", objects);
    insta::assert_yaml_snapshot!("manifests", desired.manifests);
    assert!(desired.apply.iter().all(|apply| apply.changed));
    assert_eq!(Stored::read(&desired.manifests).unwrap().applied, objects.into_iter().cloned().collect::<Vec<_>>());

    let again = world.apply();
    assert!(again.apply.iter().all(|apply| !apply.changed && apply.impact == Impact::None));
    assert_eq!(again.manifests, desired.manifests);
}

#[test]
fn a_failure_takes_no_rule_away() {
    let mut world = World::new(&["quay.io/a/x:1", "quay.io/b/y:1"]);
    world.outputs.removal = Removal::Remove;
    let before = world.apply();
    world.images = vec!["quay.io/a/x:1 !".to_owned()];
    world.failed = vec!["quay.io/b/y:1".to_owned()];
    let after = world.apply();
    assert_eq!(written(&after, MirrorKind::Tag), written(&before, MirrorKind::Tag));
    assert!(after.apply.iter().all(|apply| !apply.changed));
}

#[test]
fn only_a_complete_plan_and_remove_take_rules_away() {
    let mut world = World::new(&["quay.io/a/x:1", "quay.io/b/y:1"]);
    world.apply();
    world.images.truncate(1);
    assert_eq!(written(&world.apply(), MirrorKind::Tag).len(), 2, "retained");
    world.outputs.removal = Removal::Remove;
    world.images.push("quay.io/c/z:1 !".to_owned());
    assert_eq!(written(&world.apply(), MirrorKind::Tag).len(), 2, "not complete");
    world.images.truncate(1);
    assert_eq!(written(&world.apply(), MirrorKind::Tag), ["quay.io/a > m.lab:8443/ocp/a"]);
    world.images = vec!["quay.io/blocked:1".to_owned()];
    let desired = world.apply();
    assert_eq!(names(&desired.remove), ["ImageTagMirrorSet `mirrors-site-a-generic-8a0458b7`"]);
    assert!(desired.manifests.is_empty() && world.cluster.itms.is_empty());
}

#[test]
fn rules_that_the_cluster_lost_come_back_from_what_was_published() {
    let mut world = World::new(&["quay.io/a/x:1", "quay.io/b/y:1"]);
    world.apply();
    world.cluster.itms.clear();
    world.images.truncate(1);
    assert_eq!(written(&world.decide(), MirrorKind::Tag).len(), 2);
    let repair = repair(&world.identity, &world.outputs, &world.stored, &world.cluster);
    assert_eq!((repair.apply.len(), repair.apply[0].changed), (1, true));
}

#[test]
fn a_source_that_moves_in_the_target_keeps_its_old_mirror_behind_the_new_one() {
    let mut world = World::new(&["quay.io/a/x:1 > one"]);
    world.apply();
    world.images = vec!["quay.io/a/x:1 > two".to_owned()];
    assert_eq!(written(&world.apply(), MirrorKind::Tag), ["quay.io/a/x > m.lab:8443/ocp/two, m.lab:8443/ocp/one"]);
    world.images = vec!["quay.io/a/x:1 > one".to_owned()];
    assert_eq!(written(&world.apply(), MirrorKind::Tag), ["quay.io/a/x > m.lab:8443/ocp/one, m.lab:8443/ocp/two"]);
}

#[test]
fn drains_are_held_back_and_the_rest_goes_ahead() {
    let image = format!("quay.io/a/x{D}");
    let mut world = World::new(&[&image, "quay.io/b/y:1"]);
    world.outputs.disruption = Disruption::ReloadOnly;
    let desired = world.apply();
    assert_eq!(written(&desired, MirrorKind::Digest), ["quay.io/a > m.lab:8443/ocp/a"]);
    assert_eq!(desired.apply[0].impact, Impact::Reload);
    assert!(written(&desired, MirrorKind::Tag).is_empty());
    assert_eq!((desired.held.len(), desired.held[0].reason), (1, HeldReason::PendingDisruption));
    insta::assert_snapshot!(desired.held[0].message);
    assert!(desired.manifests["itms-pending.yaml"].contains("quay.io/b"));
    assert!(!desired.manifests.contains_key("itms.yaml"));
    // Nor does a repair do what was held back.
    assert!(
        repair(&world.identity, &world.outputs, &world.stored, &world.cluster).apply.iter().all(|apply| !apply.changed)
    );

    world.outputs.disruption = Disruption::AllowDrain;
    let desired = world.apply();
    assert!(matches!(desired.apply[1].impact, Impact::Drain { .. }));
    assert!(desired.held.is_empty() && !desired.manifests.contains_key("itms-pending.yaml"));
}

#[test]
fn a_rule_that_changes_in_part_changes_as_far_as_it_may() {
    let image = format!("quay.io/a/x{D}");
    let mut world = World::new(&[&format!("{image} > one")]);
    world.outputs.disruption = Disruption::ReloadOnly;
    world.apply();
    // Another mirror, and the old one is to go: only the first half drains nothing.
    world.images = vec![format!("{image} > two")];
    world.outputs.removal = Removal::Remove;
    let desired = world.apply();
    assert_eq!(written(&desired, MirrorKind::Digest), ["quay.io/a/x > m.lab:8443/ocp/one, m.lab:8443/ocp/two"]);
    assert_eq!(desired.held[0].reason, HeldReason::PendingDisruption);
    // A removal is held back completely.
    world.images = vec!["quay.io/blocked:1".to_owned()];
    let desired = world.apply();
    assert!(desired.remove.is_empty());
    assert_eq!(written(&desired, MirrorKind::Digest).len(), 1);
}

#[test]
fn a_rule_that_another_object_has_too_can_go_without_a_drain() {
    let image = format!("quay.io/a/x{D}");
    let mut world = World::new(&[&image]);
    world.outputs.disruption = Disruption::ReloadOnly;
    world.outputs.removal = Removal::Remove;
    world.foreign_idms("idms-generic-0", &[("quay.io/a", "m.lab:8443/ocp/a", None)]);
    let desired = world.apply();
    assert_eq!(desired.apply[0].impact, Impact::None, "a hand-over is nothing to nodes");
    world.images = vec!["quay.io/blocked:1".to_owned()];
    assert_eq!(world.apply().remove.len(), 1);
}

#[test]
fn kinds_are_applied_published_or_left_out() {
    let image = format!("quay.io/a/x:1{D}");
    let mut world = World::new(&[&image]);
    world.outputs.idms.policy = OutputPolicy::Publish;
    world.outputs.itms.policy = OutputPolicy::Disabled;
    let desired = world.apply();
    assert!(desired.apply.is_empty() && desired.held.is_empty());
    assert_eq!(desired.manifests.keys().collect::<Vec<_>>(), ["idms.yaml"]);
    assert_eq!(desired.published.len(), 1);
    assert!(world.stored.applied.is_empty() && world.stored.published.len() == 1);
    // What is published is not narrowed by a failure either.
    world.images = vec![format!("{image} !")];
    assert_eq!(world.apply().manifests, desired.manifests);
}

#[test]
fn a_kind_that_is_switched_off_stays_until_it_may_be_removed() {
    let mut world = World::new(&["quay.io/a/x:1"]);
    world.apply();
    world.outputs.itms.policy = OutputPolicy::Disabled;
    let desired = world.apply();
    assert_eq!((desired.retained.len(), desired.remove.len()), (1, 0));
    world.outputs.removal = Removal::Remove;
    assert_eq!(world.apply().remove.len(), 1);
}

#[test]
fn kinds_that_cannot_be_written_are_published_instead() {
    for (access, reason) in [
        (Access::NotServed, HeldReason::KindNotServed),
        (Access::NamespaceNotAllowed, HeldReason::NamespaceNotAllowed),
        (Access::AdmissionDenied, HeldReason::AdmissionDenied),
    ] {
        let mut world = World::new(&["quay.io/a/x:1"]);
        world.cluster.itms_access = access;
        let desired = world.decide();
        assert_eq!(desired.held.iter().map(|held| held.reason).collect::<Vec<_>>(), [reason]);
        assert!(desired.apply.is_empty() && desired.conflicts.is_empty());
        assert!(desired.manifests.contains_key("itms.yaml") && !desired.manifests.contains_key("applied.yaml"));
    }
}

#[test]
fn an_object_of_our_name_that_is_not_ours_is_refused_or_adopted() {
    let mut world = World::new(&["quay.io/a/x:1"]);
    world.foreign_itms("mirrors-site-a-generic-8a0458b7", &[("quay.io/z", "elsewhere.io/z", None)]);
    let refused = world.decide();
    insta::assert_snapshot!(refused.conflicts[0]);
    assert!(refused.apply.is_empty());
    world.outputs.conflict_policy = ConflictPolicy::Adopt;
    let adopted = world.apply();
    assert!(adopted.conflicts.is_empty());
    assert_eq!(written(&adopted, MirrorKind::Tag), ["quay.io/a > m.lab:8443/ocp/a", "quay.io/z > elsewhere.io/z"]);
    assert_eq!(world.cluster.itms[0].metadata.annotations.as_ref().unwrap()[OWNER_REF_ANNOTATION], "mirrors/site-a");
}

#[test]
fn a_policy_that_contradicts_another_object_is_never_written() {
    let image = format!("quay.io/a/x{D}");
    let other = format!("quay.io/b/x{D}");
    let mut world = World::new(&[&image, &other]);
    world.foreign_idms("other", &[("quay.io/a", "cache.io/a", Some(NEVER))]);
    let desired = world.apply();
    insta::assert_snapshot!(desired.conflicts[0]);
    assert_eq!(written(&desired, MirrorKind::Digest), ["quay.io/b > m.lab:8443/ocp/b"]);

    // ICSP always allows.
    let mut world = World::new(&[&image]);
    world.outputs.idms.source_policy = NEVER;
    let spec =
        ImageContentSourcePolicySpec { repository_digest_mirrors: mirrors(&[("quay.io/a", "cache.io/a", None)]) };
    world.cluster.icsp.push(ImageContentSourcePolicy::new("old", spec));
    let desired = world.decide();
    assert_eq!((desired.apply.len(), desired.conflicts.len()), (0, 1));
    assert!(desired.conflicts[0].to_string().contains("ImageContentSourcePolicy `old`"));
}

#[test]
fn a_contradiction_that_comes_later_leaves_our_rule_as_it_is() {
    let mut world = World::new(&["quay.io/a/x:1"]);
    world.apply();
    world.foreign_idms("other", &[("quay.io/a", "cache.io/a", Some(NEVER))]);
    let desired = world.decide();
    assert_eq!(desired.conflicts.len(), 1);
    assert_eq!((desired.apply.len(), desired.apply[0].changed), (1, false));
}

#[test]
fn our_own_kinds_must_agree() {
    let image = format!("quay.io/a/x:1{D}");
    let mut world = World::new(&[&image]);
    world.outputs.idms.source_policy = NEVER;
    let desired = world.decide();
    assert_eq!((desired.conflicts.len(), desired.apply.len()), (1, 0));
    world.outputs.itms.source_policy = NEVER;
    let desired = world.apply();
    assert!(desired.conflicts.is_empty());
    assert_eq!(written(&desired, MirrorKind::Tag), ["quay.io/a > m.lab:8443/ocp/a never"]);
}

#[test]
fn a_source_is_closed_only_when_all_of_it_is_there() {
    let image = format!("quay.io/a/x:1{D}");
    let mut world = World::new(&[&image]);
    world.apply();
    world.outputs.idms.source_policy = NEVER;
    world.outputs.itms.source_policy = NEVER;
    world.images = vec![image.clone(), "quay.io/a/y:2 !".to_owned()];
    let desired = world.apply();
    assert_eq!(written(&desired, MirrorKind::Digest), ["quay.io/a > m.lab:8443/ocp/a"]);
    assert!(reasons(&desired).contains(&NoteReason::PolicyWaits));
    world.images.truncate(1);
    let desired = world.apply();
    assert_eq!(written(&desired, MirrorKind::Digest), ["quay.io/a > m.lab:8443/ocp/a never"]);
    assert_eq!(written(&desired, MirrorKind::Tag), ["quay.io/a > m.lab:8443/ocp/a never"]);
    assert!(desired.conflicts.is_empty() && desired.notes.is_empty(), "{:?}", desired.notes);
}

#[test]
fn closed_sources_and_removal_do_not_go_together() {
    let mut world = World::new(&[&format!("quay.io/a/x{D}")]);
    world.outputs.idms.source_policy = NEVER;
    world.outputs.removal = Removal::Remove;
    let desired = world.decide();
    assert!(desired.apply.is_empty());
    assert_eq!(desired.conflicts, [Conflict::NeverWithRemoval { kind: MirrorKind::Digest }]);
}

#[test]
fn what_foreign_rules_and_the_image_configuration_do_to_ours_is_noted() {
    let mut world = World::new(&[&format!("quay.io/a/x{D}"), &format!("quay.io/b/y{D}")]);
    world.outputs.idms.source_policy = NEVER;
    world.foreign_idms("f", &[("quay.io/a/x", "n.io/x", None), ("quay.io", "n.io", None), ("*.io", "n.io", None)]);
    world.foreign_idms("g", &[("quay.io/b", "n.io/b", Some(NEVER))]);
    let mut spec = ImageSpec::default();
    spec.registry_sources.blocked_registries = vec!["m.lab:8443/ocp".to_owned()];
    spec.registry_sources.allowed_registries = vec!["quay.io".to_owned()];
    world.cluster.images = Some(Image::new("cluster", spec));
    world.target.tls = Tls::Plain;
    let notes: Vec<_> =
        world.decide().notes.into_iter().map(|note| format!("{:?}: {}", note.reason, note.message)).collect();
    insta::assert_yaml_snapshot!(notes);
}

#[test]
fn what_nodes_cannot_be_given_is_not_written() {
    let mut world = World::new(&["quay.io/a/x:1"]);
    let many: Vec<_> = (0..4200).map(|n| format!("registry.example.io/team/image-{n}")).collect();
    let entries: Vec<_> = many.iter().map(|source| (source.as_str(), "mirror.lab:8443/team/image", None)).collect();
    world.foreign_idms("many", &entries);
    let desired = world.apply();
    assert!(desired.apply.is_empty());
    assert_eq!(desired.held[0].reason, HeldReason::TooLarge);
    assert!(desired.manifests.contains_key("itms-pending.yaml"));
}

#[test]
fn thousands_of_held_rules_are_sorted_out_quickly() {
    let tags = (0..2000).map(|n| format!("q{n}.io/a/x:{n}"));
    let digests = (0..2000).map(|n| format!("r{n}.io/n{n}/x{D}"));
    let images: Vec<_> = tags.chain(digests).collect();
    let mut world = World::new(&images.iter().map(String::as_str).collect::<Vec<_>>());
    world.outputs.disruption = Disruption::ReloadOnly;
    let desired = world.decide();
    assert_eq!((written(&desired, MirrorKind::Digest).len(), written(&desired, MirrorKind::Tag).len()), (2000, 0));
}

#[test]
fn a_narrower_rule_that_stays_gets_the_mirror_of_the_wider_one() {
    // Once by tag and elsewhere, now by digest and in its own place: the old rule would hide the new one.
    let mut world = World::new(&["quay.io/a/x:1 > one"]);
    world.apply();
    world.images = vec![format!("quay.io/a/x{D}"), "quay.io/a/x:2".to_owned(), "quay.io/a/y:1".to_owned()];
    let desired = world.apply();
    let rules = ["quay.io/a > m.lab:8443/ocp/a", "quay.io/a/x > m.lab:8443/ocp/a/x"];
    assert_eq!(written(&desired, MirrorKind::Digest), rules);
    assert_eq!(
        written(&desired, MirrorKind::Tag),
        ["quay.io/a > m.lab:8443/ocp/a", "quay.io/a/x > m.lab:8443/ocp/a/x, m.lab:8443/ocp/one",]
    );
    world.outputs.removal = Removal::Remove;
    let desired = world.apply();
    assert_eq!(written(&desired, MirrorKind::Digest), rules[..1]);
    assert_eq!(written(&desired, MirrorKind::Tag), rules[..1]);
}

#[test]
fn a_plan_publishes_and_withdraws_nothing() {
    let mut world = World::new(&["quay.io/a/x:1", "quay.io/b/y:1"]);
    world.outputs.removal = Removal::Remove;
    world.apply();
    world.mode = Mode::Plan;
    world.images.truncate(1);
    let desired = world.decide();
    assert!(desired.apply.is_empty() && desired.remove.is_empty());
    assert_eq!((desired.retained.len(), desired.published.len()), (1, 1));
}

#[test]
fn a_deleted_object_takes_its_rules_along_if_nodes_are_not_drained_or_may_be() {
    let mut world = World::new(&["quay.io/a/x:1", &format!("quay.io/a/x{D}")]);
    world.apply();
    world.foreign_idms("same", &[("quay.io/a", "m.lab:8443/ocp/a", None)]);
    let gone = withdraw(&world.identity, &world.outputs, &world.cluster);
    assert_eq!((gone.remove.len(), gone.held.len()), (2, 0));
    world.outputs.disruption = Disruption::ReloadOnly;
    let gone = withdraw(&world.identity, &world.outputs, &world.cluster);
    // The rule for tags is the same place as the one for digests, which another object keeps: nodes only reload.
    assert_eq!((gone.remove.len(), gone.held.len()), (2, 0));
    world.drop(&ObjectName { kind: MirrorKind::Digest, name: "same".to_owned() });
    assert_eq!(withdraw(&world.identity, &world.outputs, &world.cluster).held.len(), 1);
}

#[test]
fn a_rollout_is_told_in_nodes() {
    let pool = |paused, machine_count, updated_machine_count, degraded_machine_count| {
        let mut pool = MachineConfigPool::new("p", MachineConfigPoolSpec { paused });
        pool.status = Some(MachineConfigPoolStatus { machine_count, updated_machine_count, degraded_machine_count });
        pool
    };
    let rollout = |pools: Vec<_>| ClusterSnapshot { pools, ..ClusterSnapshot::default() }.rollout();
    assert_eq!(rollout(vec![pool(false, 3, 3, 0)]), None);
    assert_eq!(rollout(vec![pool(false, 3, 3, 0), pool(false, 3, 0, 0)]).as_deref(), Some("3/6 nodes updated"));
    assert_eq!(rollout(vec![pool(true, 3, 1, 0)]).as_deref(), Some("1/3 nodes updated, a pool is paused"));
    assert_eq!(rollout(vec![pool(false, 3, 2, 1)]).as_deref(), Some("2/3 nodes updated, 1 degraded"));
}

#[test]
fn damaged_manifests_are_an_error_that_names_the_key() {
    let data = BTreeMap::from([("applied.yaml".to_owned(), "- x".to_owned())]);
    assert!(Stored::read(&data).unwrap_err().to_string().contains("`applied.yaml`"));
    assert_eq!(Stored::read(&BTreeMap::new()).unwrap(), Stored::default());
}
