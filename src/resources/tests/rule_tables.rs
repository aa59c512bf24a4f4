//! Which rules a plan leads to.

use super::*;

/// The rules of a kind, as `source > mirror`, with the missing ones counted.
fn table(images: &[&str], kind: MirrorKind) -> Vec<String> {
    let world = World::new(images);
    let (plan, verified) = world.plan();
    let rules = rules(&plan, &verified, kind, ALLOW, Scope::Widest, &BTreeSet::new());
    let text = |rule: &mirror_sets::Rule| match rule.missing {
        0 => format!("{} > {}", rule.source, rule.mirror),
        missing => format!("{} > {} ({missing} of {})", rule.source, rule.mirror, rule.images),
    };
    rules.rules.iter().map(text).collect()
}

fn digest(images: &[&str]) -> Vec<String> {
    let images: Vec<_> = images
        .iter()
        .map(|image| match image.find(' ') {
            Some(at) => format!("{}{D}{}", &image[..at], &image[at..]),
            None => format!("{image}{D}"),
        })
        .collect();
    let images: Vec<_> = images.iter().map(String::as_str).collect();
    table(&images, MirrorKind::Digest)
}

#[test]
fn namespaces_are_used_where_source_and_target_end_alike() {
    // Spec 8.3, 3 to 7, and E69.
    assert_eq!(
        digest(&["registry.redhat.io/web-terminal/web-terminal-operator-bundle"]),
        ["registry.redhat.io/web-terminal > m.lab:8443/ocp/web-terminal"]
    );
    assert_eq!(digest(&["nvcr.io/nvidia/k8s/container-toolkit"]), ["nvcr.io/nvidia/k8s > m.lab:8443/ocp/nvidia/k8s"]);
    assert_eq!(
        digest(&["registry.redhat.io/ubi9/ubi > team/base"]),
        ["registry.redhat.io/ubi9/ubi > m.lab:8443/ocp/team/base"]
    );
    let images = [
        "gcr.io/kubebuilder/kube-rbac-proxy:v0.5.0",
        "quay.io/cockroachdb/cockroach-helm-operator:6.0.0",
        "quay.io/helmoperators/cockroachdb:v5.0.3",
        "quay.io/helmoperators/cockroachdb:v5.0.4",
    ];
    assert_eq!(
        table(&images, MirrorKind::Tag),
        [
            "gcr.io/kubebuilder > m.lab:8443/ocp/kubebuilder",
            "quay.io/cockroachdb > m.lab:8443/ocp/cockroachdb",
            "quay.io/helmoperators > m.lab:8443/ocp/helmoperators",
        ]
    );
    // E72: digests alone give nothing for tags.
    assert!(table(&images, MirrorKind::Digest).is_empty());
}

#[test]
fn repositories_are_used_when_asked_for() {
    // E71, E75.
    let world =
        World::new(&["quay.io/openshift-community-operators/cockroachdb:1", "registry.redhat.io/ubi8-minimal:1"]);
    let (plan, verified) = world.plan();
    let rules = rules(&plan, &verified, MirrorKind::Tag, ALLOW, Scope::Repository, &BTreeSet::new()).rules;
    let sources: Vec<_> = rules.iter().map(|rule| rule.source.as_str()).collect();
    assert_eq!(sources, ["quay.io/openshift-community-operators/cockroachdb", "registry.redhat.io/ubi8-minimal"]);
}

#[test]
fn a_tag_and_a_digest_are_in_both_kinds() {
    // E73.
    let image = format!("nvcr.io/nvidia/tool:v1{D}");
    assert_eq!(table(&[&image], MirrorKind::Digest), ["nvcr.io/nvidia > m.lab:8443/ocp/nvidia"]);
    assert_eq!(table(&[&image], MirrorKind::Tag), ["nvcr.io/nvidia > m.lab:8443/ocp/nvidia"]);
}

#[test]
fn a_bare_host_needs_everything_of_that_host() {
    // E70.
    assert_eq!(
        digest(&["quay.io/openshift-community-operators/cockroachdb", "registry.redhat.io/ubi8-minimal"]),
        [
            "quay.io/openshift-community-operators > m.lab:8443/ocp/openshift-community-operators",
            "registry.redhat.io > m.lab:8443/ocp",
        ]
    );
    // One image elsewhere, and the host is not redirected.
    assert_eq!(
        digest(&["registry.redhat.io/ubi8-minimal", "registry.redhat.io/ubi9/ubi > team/base"]),
        [
            "registry.redhat.io/ubi8-minimal > m.lab:8443/ocp/ubi8-minimal",
            "registry.redhat.io/ubi9/ubi > m.lab:8443/ocp/team/base",
        ]
    );
    // Also if the other is only known by tag.
    let other = format!("registry.redhat.io/ubi8-minimal{D}");
    assert_eq!(
        table(&[&other, "registry.redhat.io/x/y:1 > z"], MirrorKind::Digest),
        ["registry.redhat.io/ubi8-minimal > m.lab:8443/ocp/ubi8-minimal"]
    );
    // Spec 13, item 12: the target ends in the component, but not because the path was kept.
    assert_eq!(digest(&["quay.io/ubi > my/hubi"]), ["quay.io/ubi > m.lab:8443/ocp/my/hubi"]);
    assert_eq!(
        digest(&["quay.io/ubi > my/ubi", "quay.io/a/b"]),
        ["quay.io/a > m.lab:8443/ocp/a", "quay.io/ubi > m.lab:8443/ocp/my/ubi"]
    );
}

#[test]
fn one_image_elsewhere_has_a_narrower_rule_than_its_namespace() {
    assert_eq!(
        digest(&["quay.io/a/x", "quay.io/a/y > other/y", "quay.io/b/z"]),
        ["quay.io/a > m.lab:8443/ocp/a", "quay.io/a/y > m.lab:8443/ocp/other/y", "quay.io/b > m.lab:8443/ocp/b",]
    );
    // Also if it lies deeper.
    assert_eq!(
        digest(&["quay.io/a/x", "quay.io/a/deep/y > other/y"]),
        ["quay.io/a > m.lab:8443/ocp/a", "quay.io/a/deep/y > m.lab:8443/ocp/other/y",]
    );
    // Both rules wait for it: until its own is there, the other one would lead it astray.
    assert_eq!(
        table(&["quay.io/a/x:1", "quay.io/a/y:1 > other/y !"], MirrorKind::Tag),
        ["quay.io/a > m.lab:8443/ocp/a (1 of 2)", "quay.io/a/y > m.lab:8443/ocp/other/y (1 of 1)",]
    );
    // Two places that both end alike would be two mirrors of one namespace.
    assert_eq!(
        digest(&["quay.io/a/x", "quay.io/a/y > other/a/y"]),
        ["quay.io/a/x > m.lab:8443/ocp/a/x", "quay.io/a/y > m.lab:8443/ocp/other/a/y",]
    );
    // A name that only begins alike is another namespace.
    assert_eq!(
        digest(&["quay.io/a/x", "quay.io/a-b/y > other/y"]),
        ["quay.io/a > m.lab:8443/ocp/a", "quay.io/a-b/y > m.lab:8443/ocp/other/y",]
    );
}

#[test]
fn a_closed_namespace_needs_everything_of_it() {
    let images = [format!("quay.io/a/x{D}"), format!("quay.io/a/y{D} > other/y")];
    let (plan, verified) = World::new(&[&images[0], &images[1]]).plan();
    let rules = rules(&plan, &verified, MirrorKind::Digest, NEVER, Scope::Widest, &BTreeSet::new()).rules;
    let sources: Vec<_> = rules.iter().map(|rule| rule.source.as_str()).collect();
    assert_eq!(sources, ["quay.io/a/x", "quay.io/a/y"]);
}

#[test]
fn docker_hub_sources_are_named_as_nodes_ask_for_them() {
    assert_eq!(
        table(&["nginx:1.16.0", "acme/tool:1", "docker.io/acme/app:1"], MirrorKind::Tag),
        [
            "docker.io/acme > m.lab:8443/ocp/acme",
            "docker.io/acme/tool > m.lab:8443/ocp/tool",
            "docker.io/library/nginx > m.lab:8443/ocp/nginx",
        ]
    );
    assert_eq!(table(&["docker.io/library/nginx:1"], MirrorKind::Tag), ["docker.io/library > m.lab:8443/ocp/library"]);
}

#[test]
fn the_targets_own_names_keep_their_meaning() {
    // E74: the source path within the target's own.
    assert_eq!(table(&["m.lab:8443/ocp/a/b:1"], MirrorKind::Tag), ["m.lab:8443/ocp/a/b > m.lab:8443/ocp/ocp/a/b"]);
    let mut world = World::new(&["m.lab:8443/a/b:1"]);
    world.target.prefix = None;
    assert!(world.apply().apply.is_empty(), "an image that is in its place needs no rule");
}

#[test]
fn a_rule_waits_for_everything_behind_it() {
    assert_eq!(
        table(&["quay.io/a/x:1", "quay.io/a/y:1 !", "quay.io/b/z:1"], MirrorKind::Tag),
        ["quay.io/a > m.lab:8443/ocp/a (1 of 2)", "quay.io/b > m.lab:8443/ocp/b",]
    );
    // A tag that is missing does not keep digests waiting.
    let image = format!("quay.io/a/x{D}");
    assert_eq!(table(&[&image, "quay.io/a/y:1 !"], MirrorKind::Digest), ["quay.io/a > m.lab:8443/ocp/a"]);
    // What is blocked is not behind it.
    assert_eq!(table(&["quay.io/a/x:1", "quay.io/a/blocked:1 !"], MirrorKind::Tag), ["quay.io/a > m.lab:8443/ocp/a"]);
}

#[test]
fn a_closed_source_waits_for_tags_and_digests() {
    let image = format!("quay.io/a/x{D}");
    let (plan, verified) = World::new(&[&image, "quay.io/a/y:1 !"]).plan();
    let rules = rules(&plan, &verified, MirrorKind::Digest, NEVER, Scope::Widest, &BTreeSet::new()).rules;
    assert_eq!((rules[0].missing, rules[0].images), (1, 2));
}

#[test]
fn what_could_not_be_resolved_delays_rules_that_it_might_contradict() {
    let image = format!("quay.io/a/x{D}");
    let mut world = World::new(&[&image, "quay.io/b/z:1", "quay.io/c/r:1 > r"]);
    world.failed = vec!["quay.io/a/y:1".to_owned(), "quay.io/c/s:1".to_owned()];
    let desired = world.apply();
    assert!(written(&desired, MirrorKind::Digest).is_empty(), "`y` may belong elsewhere");
    assert_eq!(written(&desired, MirrorKind::Tag), ["quay.io/b > m.lab:8443/ocp/b", "quay.io/c/r > m.lab:8443/ocp/r"]);
    assert!(reasons(&desired).contains(&NoteReason::RuleWaits));
}

#[test]
fn what_cannot_be_expressed_is_reported_and_stops_nothing_else() {
    let desired = World::new(&["[::1]:5000/a/b:1", "quay.io/a/b:2"]).decide();
    assert_eq!(written(&desired, MirrorKind::Tag), ["quay.io/a > m.lab:8443/ocp/a"]);
    assert_eq!(reasons(&desired), [NoteReason::NotExpressible]);
}
