use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::resolve::graph::testing;
use crate::resolve::payload::Component;

const KEYS: &str = include_str!("../testdata/signer.asc");
const SIGNED: &[u8] = include_bytes!("../testdata/good.sig");

fn request(platform: &Value) -> ReleaseRequest {
    let object = json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror", "metadata": {"name": "n", "namespace": "ns"},
        "spec": {"mirror": {"platform": platform}, "target": {"registry": "m.test"}},
    });
    crate::request::Request::try_new(&serde_json::from_value(object).unwrap()).unwrap().releases.unwrap()
}

fn channels(channels: &Value) -> ReleaseRequest {
    request(&json!({"channels": channels}))
}

/// Channels by name: versions, and edges by index.
type Channels<'a> = &'a [(&'a str, &'a [&'a str], &'a [(usize, usize)])];

/// Answers whatever is asked for, and notes which graphs that were.
fn drive(request: &ReleaseRequest, trust: &Trust, known: Channels<'_>) -> (Wanted, Vec<String>) {
    let mut documents = Documents::new();
    let mut asked = Vec::new();
    loop {
        let need = match step(request, trust, &documents) {
            Step::Done(wanted) => return (wanted, asked),
            Step::Need(need) => need,
        };
        for key in need {
            let document = match &key {
                DocumentKey::Graph(graph) => {
                    asked.push(format!("{} {}", graph.channel, graph.architecture));
                    let (versions, edges) = known
                        .iter()
                        .find(|(name, ..)| *name == graph.channel)
                        .map_or((&[][..], &[][..]), |(_, versions, edges)| (*versions, *edges));
                    Document::Graph(Arc::new(testing::graph(versions, edges, &[])))
                }
                DocumentKey::Payload(_) => Document::Payload(Arc::new(payload())),
                DocumentKey::Signatures(_) => Document::Signatures(Arc::new([SIGNED.to_vec()])),
                DocumentKey::TagDigest(_) => Document::Digest(Digest::of(b"payload")),
                other => panic!("releases need no {other:?}"),
            };
            assert!(documents.insert(key, Ok(document)).is_none(), "asked twice");
        }
    }
}

fn payload() -> Payload {
    let part = |name: &str| Component {
        name: name.to_owned(),
        image: format!("quay.io/o/art@{}", Digest::of(name.as_bytes())).parse().unwrap(),
    };
    let disk = |name: &str| (name.to_owned(), part(name).image);
    Payload {
        version: Some("4.18.10".to_owned()),
        components: vec![part("etcd"), part("cli")],
        boot_images: Some(BTreeMap::from([disk("x86_64"), disk("s390x")])),
    }
}

fn versions(wanted: &Wanted) -> Vec<&str> {
    wanted.releases.iter().map(|release| release.version.as_str()).collect()
}

fn failures(wanted: &Wanted) -> Vec<String> {
    wanted.failures.iter().map(|(origin, failure)| format!("{origin}: {}", failure.message)).collect()
}

fn tags(wanted: &Wanted) -> Vec<String> {
    let tag = |item: &Item| match (&item.destination.path, &item.destination.tag) {
        (PathRule::Replace(path), TagRule::Set(tag)) => format!("{path}:{tag}"),
        other => panic!("{other:?}"),
    };
    wanted.items.iter().map(tag).collect()
}

fn chosen(of: &Value, known: Channels<'_>) -> Wanted {
    drive(&channels(of), &Trust::Skip, known).0
}

const ONE: Channels<'static> =
    &[("stable-4.18", &["4.17.9", "4.18.1", "4.18.2", "4.18.3", "4.18.4"], &[(0, 1), (1, 2), (2, 4), (1, 3)])];

#[test]
fn a_channel_gives_its_newest_a_range_or_the_shortest_path() {
    for (channel, expected) in [
        (json!({"name": "stable-4.18"}), &["4.18.4"][..]),
        (json!({"name": "stable-4.18", "maxVersion": "4.18.2"}), &["4.18.2"]),
        (json!({"name": "stable-4.18", "maxVersion": "4.18.0"}), &["4.17.9"]),
        (json!({"name": "stable-4.18", "minVersion": "4.18.3"}), &["4.18.3", "4.18.4"]),
        (json!({"name": "stable-4.18", "minVersion": "4.18.0", "maxVersion": "4.18.2"}), &["4.18.1", "4.18.2"]),
        (json!({"name": "stable-4.18", "full": true}), &["4.17.9", "4.18.1", "4.18.2", "4.18.3", "4.18.4"]),
        (
            json!({"name": "stable-4.18", "minVersion": "4.17.9", "maxVersion": "4.18.4", "shortestPath": true}),
            &["4.17.9", "4.18.1", "4.18.2", "4.18.4"],
        ),
        // Nothing in a range is no fault.
        (json!({"name": "stable-4.18", "minVersion": "4.19.0", "maxVersion": "4.19.9"}), &[]),
    ] {
        let wanted = chosen(&json!([channel]), ONE);
        assert_eq!((versions(&wanted), wanted.failures.len()), (expected.to_vec(), 0), "{channel}");
    }
}

#[test]
fn what_is_not_there_is_told_with_what_is_near_it() {
    for (channel, text, left) in [
        (
            json!({"name": "stable-4.99"}),
            "release stable-4.99: the update service has no versions in channel `stable-4.99`",
            0,
        ),
        (
            json!({"name": "stable-4.18", "maxVersion": "4.1.0"}),
            "no version up to 4.1.0; the nearest are 4.17.9, 4.18.1",
            0,
        ),
        (
            json!({"name": "stable-4.18", "minVersion": "4.18.1", "maxVersion": "4.18.9", "shortestPath": true}),
            "no version 4.18.9; the nearest are 4.18.3, 4.18.4",
            0,
        ),
        (
            json!({"name": "stable-4.18", "minVersion": "4.18.3", "maxVersion": "4.18.4", "shortestPath": true}),
            "no upgrades lead from 4.18.3 to 4.18.4 in channel `stable-4.18`: they end at 4.18.3, and those to the target begin at",
            2,
        ),
    ] {
        let wanted = chosen(&json!([channel]), ONE);
        let found = failures(&wanted);
        assert!(found.len() == 1 && found[0].contains(text), "{found:?}");
        assert_eq!(wanted.releases.len(), left);
    }
}

const THREE: Channels<'static> = &[
    ("stable-4.17", &["4.17.1", "4.17.5", "4.17.9"], &[(0, 1), (1, 2)]),
    ("stable-4.18", &["4.17.9", "4.18.1", "4.18.6"], &[(0, 1), (1, 2)]),
    ("stable-4.19", &["4.18.6", "4.19.0", "4.19.3"], &[(0, 1), (1, 2)]),
    ("fast-4.18", &["4.17.9", "4.18.7"], &[(0, 1)]),
];

#[test]
fn several_channels_are_joined_by_the_way_from_the_lowest_to_the_highest() {
    let request = channels(
        &json!([{"name": "stable-4.17", "minVersion": "4.17.5", "maxVersion": "4.17.5"}, {"name": "stable-4.19"}]),
    );
    let (wanted, asked) = drive(&request, &Trust::Skip, THREE);
    assert_eq!(versions(&wanted), ["4.17.5", "4.17.9", "4.18.1", "4.18.6", "4.19.0", "4.19.3"]);
    assert_eq!(
        asked,
        ["stable-4.17 amd64", "stable-4.19 amd64", "stable-4.18 amd64"],
        "what lies between is asked for too"
    );
    assert_eq!((wanted.notes.len(), wanted.failures.len()), (0, 0));
}

#[test]
fn channels_of_one_minor_are_joined_in_the_one_of_the_highest() {
    let wanted = chosen(&json!([{"name": "stable-4.18", "minVersion": "4.18.6"}, {"name": "fast-4.18"}]), THREE);
    assert_eq!(versions(&wanted), ["4.18.6", "4.18.7"]);
    assert!(
        wanted.notes[0].contains("channel `fast-4.18` has no version 4.18.6; the nearest are 4.17.9, 4.18.7"),
        "{:?}",
        wanted.notes
    );
}

#[test]
fn a_way_that_breaks_off_is_told_and_takes_nothing_away() {
    let broken: Channels<'_> = &[
        ("stable-4.17", &["4.17.1"], &[]),
        ("stable-4.18", &["4.18.1", "4.18.6"], &[(0, 1)]),
        ("stable-4.19", &["4.19.0"], &[]),
    ];
    let wanted = chosen(&json!([{"name": "stable-4.17"}, {"name": "stable-4.19"}]), broken);
    assert_eq!(versions(&wanted), ["4.17.1", "4.18.6", "4.19.0"]);
    assert!(
        wanted.notes[0].contains("no upgrades lead from 4.17.1 to 4.18.6: channel `stable-4.18` has no version 4.17.1")
    );
    let odd = chosen(
        &json!([{"name": "stable-4.17"}, {"name": "candidate"}]),
        &[("stable-4.17", &["4.17.1"], &[]), ("candidate", &["4.20.0"], &[])],
    );
    assert!(odd.notes[0].contains("PREFIX-MAJOR.MINOR"), "{:?}", odd.notes);
    assert_eq!(odd.releases.len(), 2);
}

#[test]
fn one_bad_channel_stops_no_other_and_okd_is_not_joined() {
    let wanted =
        chosen(&json!([{"name": "stable-4.17"}, {"name": "nowhere"}, {"name": "stable-4.19", "type": "okd"}]), THREE);
    assert_eq!(versions(&wanted), ["4.17.9", "4.19.3"]);
    assert_eq!(wanted.failures.len(), 1);
}

#[test]
fn each_architecture_is_resolved_by_itself() {
    let request = request(&json!({"channels": [{"name": "stable-4.18"}], "architectures": ["amd64", "arm64"]}));
    let (wanted, asked) = drive(&request, &Trust::Skip, ONE);
    assert_eq!(asked, ["stable-4.18 amd64", "stable-4.18 arm64"]);
    let found = tags(&wanted);
    assert!(found.contains(&"openshift/release-images:4.18.4-x86_64".to_owned()), "{found:?}");
    assert!(found.contains(&"openshift/release-images:4.18.4-aarch64".to_owned()), "{found:?}");
    let several = request_with_platforms();
    let (wanted, asked) = drive(&several, &Trust::Skip, ONE);
    assert_eq!(asked, ["stable-4.18 multi"]);
    assert!(tags(&wanted).contains(&"openshift/release-images:4.18.4-multi".to_owned()));
    assert!(wanted.items.iter().all(|item| item.platforms.len() == 1));
}

fn request_with_platforms() -> ReleaseRequest {
    request(&json!({"channels": [{"name": "stable-4.18"}], "platforms": [{"os": "linux", "architecture": "arm64"}]}))
}

#[test]
fn the_payload_follows_all_that_it_consists_of() {
    let wanted = chosen(&json!([{"name": "stable-4.18"}]), ONE);
    assert_eq!(
        tags(&wanted),
        [
            "openshift/release:4.18.4-x86_64-cli",
            "openshift/release:4.18.4-x86_64-etcd",
            "openshift/release-images:4.18.4-x86_64"
        ]
    );
    assert_eq!(wanted.items[2].after, BTreeSet::from([0, 1]));
    assert_eq!(wanted.releases[0].payload, 2);
    let Source::Registry { named, digest } = &wanted.items[2].source;
    assert_eq!((named.tag().unwrap().as_str(), named.digest()), ("4.18.4-x86_64", Some(digest)));
}

#[test]
fn a_release_that_nobody_trusted_has_signed_is_not_wanted() {
    let trust = Trust::Keys(KeyRing::parse(KEYS).unwrap());
    // The file is about another payload.
    let (wanted, _) = drive(&channels(&json!([{"name": "stable-4.18"}])), &trust, ONE);
    assert!(wanted.items.is_empty() && wanted.releases.is_empty());
    let found = failures(&wanted);
    assert!(
        found[0].starts_with("release 4.18.4 amd64: no signature of") && found[0].contains("it is about"),
        "{found:?}"
    );
    assert_eq!(wanted.failures[0].1.reason, Reason::SignatureMissing);
}

#[test]
fn a_release_named_by_its_image_gets_the_tag_that_its_signer_knows() {
    let named = request(&json!({"release": format!("quay.io/mine/copy@{}", Digest::of(b"payload"))}));
    let (wanted, _) = drive(&named, &Trust::Keys(KeyRing::parse(KEYS).unwrap()), &[]);
    assert_eq!(tags(&wanted)[2], "openshift/release-images:4.18.10-x86_64");
    assert_eq!(wanted.releases[0].signatures, [SIGNED.to_vec()]);
    let Source::Registry { named: known, .. } = &wanted.items[2].source;
    assert_eq!(
        known.repository().to_string(),
        "quay.io/openshift-release-dev/ocp-release",
        "nodes ask for the signer's name"
    );
    let (wanted, _) = drive(&named, &Trust::Skip, &[]);
    assert_eq!(tags(&wanted)[2], format!("openshift/release-images:{}", Digest::of(b"payload").hex()));
    let tagged = request(&json!({"release": "quay.io/mine/copy:4.18.10-x86_64"}));
    let (wanted, _) = drive(&tagged, &Trust::Skip, &[]);
    assert_eq!((versions(&wanted), wanted.releases[0].architecture.as_str()), (vec!["4.18.10"], "amd64"));
}

#[test]
fn disk_images_are_components_like_others() {
    let with = |architectures: &Value| {
        let request = request(
            &json!({"channels": [{"name": "stable-4.18"}], "kubeVirtContainer": true, "architectures": architectures}),
        );
        let tags = tags(&drive(&request, &Trust::Skip, ONE).0);
        tags.into_iter().filter(|tag| tag.contains("kube-virt")).collect::<Vec<_>>()
    };
    assert_eq!(with(&json!([])), ["openshift/release:4.18.4-x86_64-kube-virt-container"]);
    assert_eq!(
        with(&json!(["multi"])),
        [
            "openshift/release:4.18.4-multi-kube-virt-container-s390x",
            "openshift/release:4.18.4-multi-kube-virt-container-x86_64"
        ]
    );
}
