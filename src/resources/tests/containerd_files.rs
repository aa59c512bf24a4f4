//! Files for containerd.

use super::super::containerd::{CA_KEY, folder_of};
use super::*;

const REMOVE: Removal = Removal::Remove;

impl World {
    fn hosts(&self, before: &BTreeMap<String, String>) -> ContainerdHosts {
        let (plan, verified) = self.plan();
        let bundle = self.target.trust_bundle.as_ref().map(|_| "a certificate\n");
        containerd_hosts(&HostsInputs {
            identity: &self.identity,
            target: &self.target,
            trust_bundle: bundle,
            outputs: &self.outputs,
            plan: &plan,
            verified: &verified,
            before,
        })
    }

    fn first(&self) -> ContainerdHosts {
        self.hosts(&BTreeMap::new())
    }
}

/// All files, and all notes.
fn shown_files(hosts: &ContainerdHosts) -> String {
    let files = hosts.data.iter().map(|(key, text)| format!("--- {key}\n{text}"));
    files.chain(hosts.notes.iter().map(|note| format!("({:?}) {}\n", note.reason, note.message))).collect()
}

fn with_digest(name: &str) -> String {
    format!("{name}{D}")
}

#[test]
fn hosts_are_found_below_the_prefix_and_what_lies_elsewhere_is_named() {
    let images = [
        "quay.io/a/x:1",
        "registry.test:5000/b/y:1",
        "docker.io/library/nginx:1",
        "nginx:2",
        "ghcr.io/c/z:1 > elsewhere",
        "ghcr.io/d/z:1 > ghcr/d/z",
        "ghcr.io/e/z:1 > not-e/z",
        "m.lab:8443/own:1",
    ];
    let mut world = World::new(&images);
    world.target.trust_bundle = Some(("ca".to_owned(), "ca-bundle.crt".to_owned()));
    insta::assert_snapshot!(shown_files(&world.first()));
}

#[test]
fn tags_are_looked_for_only_if_the_mirror_set_for_tags_is_applied() {
    let mut world = World::new(&["quay.io/a/x:1"]);
    let file = |world: &World| world.first().data["quay.io.hosts.toml"].clone();
    assert!(file(&world).contains(r#"capabilities = ["pull", "resolve"]"#));
    world.outputs.itms.policy = OutputPolicy::Publish;
    assert!(file(&world).contains(r#"capabilities = ["pull"]"#));
}

#[test]
fn tags_are_not_looked_for_where_two_hosts_fill_one_repository() {
    let world = World::new(&["quay.io/a/x:1", "ghcr.io/a/x:2", "ghcr.io/b/y:1"]);
    let hosts = world.first();
    assert!(hosts.data.values().all(|text| !text.contains("resolve")), "{hosts:?}");
    assert_eq!(hosts.notes[0].reason, NoteReason::TagsShared);
    assert_eq!(
        hosts.notes[0].message,
        "tags of `ghcr.io` are not looked for in the mirror: `m.lab:8443/ocp/a/x` has images of `quay.io`, too (and 1 more)"
    );
}

#[test]
fn tags_wait_for_all_images_and_digests_for_one_repository() {
    let world = World::new(&["quay.io/a/x:1", "quay.io/b/y:1 !"]);
    let file = &world.first().data["quay.io.hosts.toml"];
    assert!(file.contains(r#"capabilities = ["pull"]"#), "{file}");
    let world = World::new(&["quay.io/a/x:1", "quay.io/a/x:2 !"]);
    let hosts = world.first();
    assert_eq!((hosts.data.len(), hosts.notes[0].reason), (0, NoteReason::RuleWaits));
    let mut world = World::new(&["quay.io/a/x:1"]);
    world.failed.push("quay.io/a/x:2".to_owned());
    let file = &world.first().data["quay.io.hosts.toml"];
    assert!(file.contains(r#"capabilities = ["pull"]"#), "{file}");
}

#[test]
fn a_host_is_closed_only_when_all_that_is_planned_of_it_can_be_found() {
    let file = |images: &[&str], failed: &[&str]| {
        let mut world = World::new(images);
        world.outputs.idms.source_policy = NEVER;
        world.failed = failed.iter().map(|image| (*image).to_owned()).collect();
        let hosts = world.first();
        (hosts.data["quay.io.hosts.toml"].clone(), hosts.notes.iter().map(|note| note.reason).collect::<Vec<_>>())
    };
    let (closed, notes) = file(&["quay.io/a/x:1"], &[]);
    assert_eq!(
        closed,
        "# ImageSetMirror mirrors/site-a\nserver = \"https://m.lab:8443/v2/ocp\"\ncapabilities = [\"pull\", \"resolve\"]\n\
         override_path = true\n"
    );
    assert!(notes.is_empty(), "{notes:?}");
    let waits = [
        file(&["quay.io/a/x:1", "quay.io/b/y:1 !"], &[]),
        file(&["quay.io/a/x:1", "quay.io/b/y:1 > z"], &[]),
        file(&["quay.io/a/x:1"], &["quay.io/a/y:1"]),
    ];
    for (text, notes) in waits {
        assert!(!text.contains("server") && notes.contains(&NoteReason::PolicyWaits), "{text}{notes:?}");
    }
}

#[test]
fn a_target_without_a_prefix_and_each_way_to_reach_it() {
    let mut world = World::new(&["quay.io/a/x:1"]);
    world.target.prefix = None;
    world.target.trust_bundle = Some(("ca".to_owned(), "ca-bundle.crt".to_owned()));
    world.outputs.itms.policy = OutputPolicy::Publish;
    let mut found = Vec::new();
    for tls in [Tls::Verify, Tls::SkipVerify, Tls::Plain] {
        world.target.tls = tls;
        let data = world.first().data;
        let text = data["quay.io.hosts.toml"].clone();
        found.push((text.lines().skip(2).collect::<Vec<_>>().join("; "), data.contains_key(CA_KEY)));
    }
    let pull = "capabilities = [\"pull\"]";
    let expected = [
        (format!("[host.\"https://m.lab:8443\"]; {pull}; ca = \"ca.crt\""), true),
        (format!("[host.\"https://m.lab:8443\"]; {pull}; skip_verify = true"), false),
        (format!("[host.\"http://m.lab:8443\"]; {pull}"), false),
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_was_published_stays_behind_what_is_planned_until_it_may_be_removed() {
    let mut world = World::new(&["quay.io/a/x:1", "ghcr.io/b/y:1"]);
    let first = world.first();
    assert_eq!(world.hosts(&first.data), first, "nothing changes at rest");
    let mut lost = world.clone();
    lost.images = vec!["quay.io/a/x:1 !".to_owned(), "ghcr.io/b/y:1".to_owned()];
    assert_eq!(lost.hosts(&first.data).data, first.data, "an image that is lost takes nothing away");

    world.target.registry = "n.lab".parse().unwrap();
    world.images = vec!["quay.io/a/x:1".to_owned()];
    let moved = world.hosts(&first.data).data;
    let places: Vec<_> = moved["quay.io.hosts.toml"].lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(places, ["[host.\"https://n.lab/v2/ocp\"]", "[host.\"https://m.lab:8443/v2/ocp\"]"]);
    assert_eq!(moved["ghcr.io.hosts.toml"], first.data["ghcr.io.hosts.toml"]);

    world.outputs.itms.policy = OutputPolicy::Publish;
    assert!(world.hosts(&moved).data.values().all(|text| !text.contains("resolve")), "also of what was published");
    world.outputs.removal = REMOVE;
    let hosts = world.hosts(&moved).data;
    assert_eq!(hosts.keys().collect::<Vec<_>>(), ["quay.io.hosts.toml"]);
    assert!(!hosts["quay.io.hosts.toml"].contains("m.lab"));
}

#[test]
fn a_closed_host_stays_closed_when_an_image_is_lost_and_opens_on_request() {
    let mut world = World::new(&["quay.io/a/x:1"]);
    world.outputs.idms.source_policy = NEVER;
    let first = world.first().data;
    world.images = vec!["quay.io/a/x:1 !".to_owned()];
    assert_eq!(world.hosts(&first).data, first);
    world.outputs.idms.source_policy = ALLOW;
    assert!(world.hosts(&first).data["quay.io.hosts.toml"].contains("[host."));
}

#[test]
fn certificates_stay_as_long_as_a_file_needs_them() {
    let mut world = World::new(&["quay.io/a/x:1"]);
    world.target.trust_bundle = Some(("ca".to_owned(), "ca-bundle.crt".to_owned()));
    let first = world.first().data;
    world.target.trust_bundle = None;
    world.target.registry = "n.lab".parse().unwrap();
    let moved = world.hosts(&first).data;
    assert_eq!(moved.get(CA_KEY), first.get(CA_KEY), "the old mirror is still listed");
    world.outputs.removal = REMOVE;
    assert!(!world.hosts(&moved).data.contains_key(CA_KEY));
}

#[test]
fn keys_are_keys_and_name_the_folders_of_containerd() {
    let image = with_digest("registry.test:5000/a/x");
    let world = World::new(&[&image]);
    let data = world.first().data;
    let keys: Vec<_> = data.keys().map(String::as_str).collect();
    assert_eq!(keys, ["registry.test_5000_.hosts.toml"]);
    assert_eq!(folder_of(keys[0]), Some("registry.test_5000_"));
    assert_eq!([CA_KEY, "_default.hosts.toml", ".hosts.toml"].map(folder_of), [None; 3]);
    assert_eq!(world.hosts(&data).data, data, "and are read back");
}
