use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::{ImageSetMirror, grammar};

const A: &str = "sha256:f30638f60452062aba36a26ee6c036feead2f03b28f2c47f2b0a991e41baebea";
const B: &str = "sha256:030638f60452062aba36a26ee6c036feead2f03b28f2c47f2b0a991e41baebea";

fn object(spec: impl Into<Value>) -> ImageSetMirror {
    let spec = spec.into();
    let metadata = json!({"name": "set", "namespace": "team", "uid": "u-1", "generation": 7});
    serde_json::from_value(json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror", "metadata": metadata, "spec": spec,
    }))
    .unwrap()
}

fn base() -> Value {
    json!({"mirror": {"additionalImages": [{"name": "quay.io/a/b:1"}]}, "target": {"registry": "h.example:5000"}})
}

/// `base` with the value at a JSON pointer set.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = base();
    let mut node = &mut spec;
    for key in pointer.split('/') {
        node = match key.parse::<usize>() {
            Ok(index) => &mut node[index],
            Err(_) => &mut node[key],
        };
    }
    *node = value;
    spec
}

fn request(spec: Value) -> Request {
    Request::try_new(&object(spec)).unwrap()
}

fn faults(spec: Value) -> Vec<(String, String)> {
    let invalid = Request::try_new(&object(spec)).unwrap_err();
    invalid.faults.into_iter().map(|fault| (fault.field, fault.message)).collect()
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let request = request(base());
    assert_eq!(request.identity, Identity { namespace: "team".into(), name: "set".into(), uid: "u-1".into() });
    assert_eq!(request.generation, 7);
    assert_eq!(request.interval, None);
    assert_eq!(request.progress_deadline, Duration::from_hours(2));
    assert_eq!((request.mode, request.suspend), (Mode::Mirror, false));
    assert_eq!(request.copy, CopyOptions::default());
    assert_eq!(request.copy.attachments, Attachments::Copy);
    assert_eq!((request.target.tls, request.target.prefix.as_ref()), (Tls::Verify, None));
    let allow = MirrorSourcePolicy::AllowContactingSource;
    assert_eq!(request.cluster.idms, MirrorSetOutput { policy: OutputPolicy::Apply, source_policy: allow });
    assert_eq!(request.cluster.itms, MirrorSetOutput { policy: OutputPolicy::Publish, source_policy: allow });
    let service = UpdateServiceOutput {
        policy: OutputPolicy::Publish,
        namespace: "openshift-update-service".to_owned(),
        replicas: 2,
    };
    assert_eq!(request.cluster.update_service, service);
    assert_eq!(request.cluster.release_signatures, OutputPolicy::Apply);
    assert_eq!(request.release_signatures, ReleaseSignatures::Required);
    assert_eq!(request.cluster.disruption, Disruption::ReloadOnly);
    assert_eq!(request.cluster.removal, Removal::Retain);
    assert_eq!(request.cluster.conflict_policy, ConflictPolicy::Refuse);
    assert_eq!((request.request_token, request.warnings.len()), (None, 0));
}

#[test]
fn what_is_written_is_read() {
    let request = request(json!({
        "mirror": {
            "additionalImages": [
                {"name": format!("h:5000/p:t@{A}"), "targetRepo": "a/b", "targetTag": "9",
                 "platforms": [{"os": "linux", "architecture": "arm64"}]},
                {"name": "nginx:1.16.0"},
            ],
            "blockedImages": [{"name": "legacy"}],
            "samples": [{"name": "x"}],
        },
        "target": {"registry": "h.example:5000", "pathPrefix": "", "credentials": {"name": "push"},
                   "trustBundle": {"name": "ca"}, "tls": "SkipVerify"},
        "source": {"hosts": [{"host": "quay.io", "tls": "Plain"}], "trustBundle": {"name": "ca", "key": "x.pem"},
                   "overrides": [{"source": "quay.io/z", "mirrors": ["m"]}, {"source": "quay.io", "mirrors": ["m", "quay.io"]}]},
        "interval": "1h30m",
        "copy": {"concurrency": 8, "maxBytesPerSecond": "200Mi", "attachments": "Skip"},
    }));
    let first = &request.additional[0];
    assert_eq!((first.written.as_str(), first.name.as_str()), (&*format!("h:5000/p:t@{A}"), "h:5000/p"));
    assert_eq!(first.named.to_string(), format!("h:5000/p:t@{A}"));
    assert_eq!(first.target_repo.as_ref().unwrap().as_str(), "a/b");
    assert_eq!(first.target_tag.as_ref().unwrap().as_str(), "9");
    assert_eq!(first.platforms.len(), 1);
    assert_eq!(request.additional[1].name, "nginx");
    assert_eq!(request.additional[1].named.to_string(), "docker.io/library/nginx:1.16.0");
    assert!(request.blocked[0].regex.is_match("quay.io/legacy:1"));
    assert_eq!(request.target.credentials.as_deref(), Some("push"));
    assert_eq!(request.target.trust_bundle, Some(("ca".into(), "ca-bundle.crt".into())));
    assert_eq!(request.source.trust_bundle, Some(("ca".into(), "x.pem".into())));
    assert_eq!(request.source.hosts[&"quay.io".parse().unwrap()], Tls::Plain);
    assert_eq!(request.source.overrides[0].mirrors, ["m", "quay.io"]);
    assert_eq!(request.interval, Some(Duration::from_mins(90)));
    assert_eq!(request.copy.max_bytes_per_second.unwrap().get(), 200 << 20);
    assert_eq!(request.warnings, ["spec.mirror.samples has no effect, as in oc-mirror: it can be left out"]);
}

#[test]
fn every_fault_is_found_at_once() {
    let found = faults(json!({
        "mirror": {
            "platform": {"graph": true, "channels": [{"name": "a", "minVersion": "4.018.1"}, {"name": "b"}, {"name": "b"}]},
            "operators": [{"catalog": "oci:///x", "targetCatalogSourceTemplate": "a/b.yaml"}],
            "helm": {"local": [{"name": "a"}]},
            "additionalImages": [{"name": "quay.io/a"}, {"name": "b:1", "targetTag": "-"}],
            "blockedImages": [{"name": "("}],
        },
        "target": {"registry": "https://h/p", "pathPrefix": "A", "tls": "Plain", "trustBundle": {"name": "ca"}},
        "source": {"overrides": [{"source": "quay.io", "mirrors": ["quay.io"]}]},
        "interval": "1s",
        "progressDeadline": "soon",
        "copy": {"concurrency": 100, "maxBytesPerSecond": "fast"},
        "clusterResources": {"imageDigestMirrorSet": {"mirrorSourcePolicy": "NeverContactSource"}, "removal": "Remove"},
    }));
    let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.target.registry",
            "spec.target.pathPrefix",
            "spec.target.trustBundle",
            "spec.mirror.platform.channels[0].minVersion",
            "spec.mirror.operators[0].catalog",
            "spec.mirror.operators[0].targetCatalogSourceTemplate",
            "spec.mirror.helm.local",
            "spec.mirror.additionalImages[0].name",
            "spec.mirror.additionalImages[1].targetTag",
            "spec.mirror.blockedImages[0].name",
            "spec.source.overrides[0].mirrors",
            "spec.interval",
            "spec.progressDeadline",
            "spec.copy.maxBytesPerSecond",
            "spec.copy.concurrency",
            "spec.clusterResources.imageDigestMirrorSet.mirrorSourcePolicy",
            "spec.mirror.platform.channels[2].name",
        ]
    );
}

#[test]
fn images_that_would_meet_are_named_both() {
    let meeting = |first: Value, second: Value| with("mirror/additionalImages", json!([first, second]));
    let found =
        faults(meeting(json!({"name": format!("quay.io/a:t@{A}")}), json!({"name": format!("docker.io/a:t@{B}")})));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "spec.mirror.additionalImages[1]");
    for part in [format!("quay.io/a:t@{A}"), format!("docker.io/a:t@{B}"), "`a:t`".into(), "targetRepo".into()] {
        assert!(found[0].1.contains(&part), "{}", found[0].1);
    }
    for (first, second) in [
        (json!({"name": format!("quay.io/a@{A}")}), json!({"name": format!("quay.io/a@{B}")})),
        (json!({"name": format!("quay.io/a:t@{A}")}), json!({"name": format!("docker.io/a:t@{A}")})),
        (json!({"name": format!("quay.io/a:t@{A}")}), json!({"name": format!("quay.io/a:u@{B}")})),
        (json!({"name": format!("quay.io/a:t@{A}")}), json!({"name": format!("b.io/a:t@{B}"), "targetRepo": "b"})),
        (json!({"name": "quay.io/a:t"}), json!({"name": "docker.io/a:t"})),
    ] {
        assert!(Request::try_new(&object(meeting(first, second))).is_ok());
    }
    let found = faults(meeting(
        json!({"name": format!("quay.io/a@{A}"), "targetTag": "1"}),
        json!({"name": format!("quay.io/a@{B}"), "targetTag": "1"}),
    ));
    assert_eq!(found.len(), 1);
}

#[test]
fn a_target_that_is_more_than_a_registry_is_refused_with_what_to_write() {
    for (registry, advice) in [
        ("https://h.example:5000/ocp/x", "write `registry: h.example:5000` and `pathPrefix: ocp/x`"),
        ("h.example/ocp", "write `registry: h.example` and `pathPrefix: ocp`"),
        ("h.example/", "write `registry: h.example`"),
        ("http://h.example", "write `registry: h.example`, and `tls: Plain` for plain HTTP"),
        ("[2001:db8::1]:5000", "which mirror sets cannot express: use a host name"),
        ("2001:db8::1", "which mirror sets cannot express: use a host name"),
        ("H.example", "in lower case"),
        ("h.example:99999", "not a registry host"),
        ("", "not a registry host"),
    ] {
        let found = faults(with("target/registry", json!(registry)));
        assert_eq!(found.len(), 1, "{registry}: {found:?}");
        assert!(found[0].1.contains(advice), "{registry}: {found:?}");
    }
}

#[test]
fn a_path_that_gets_too_long_in_the_target_is_found_before_it_is_pushed() {
    let mut spec = with("mirror/additionalImages/0/name", json!(format!("quay.io/{}:1", "a".repeat(200))));
    spec["target"]["pathPrefix"] = json!("b".repeat(60));
    let found = faults(spec);
    assert!(found[0].1.contains("261 characters") && found[0].1.contains("targetRepo"), "{found:?}");
}

#[test]
fn what_is_blocked_meets_nothing_and_is_never_too_long() {
    let mut spec = with(
        "mirror",
        json!({
            "additionalImages": [
                {"name": format!("quay.io/a:t@{A}")},
                {"name": format!("gone.io/a:t@{B}")},
                {"name": format!("gone.io/{}:1", "a".repeat(200))},
                {"name": "quay.io/x/b:1", "targetRepo": "away/b"},
            ],
            "blockedImages": [{"name": r"^h\.example:5000/b+/away/b:1$"}, {"name": "^gone"}, {"name": "gone.io"}],
        }),
    );
    spec["target"]["pathPrefix"] = json!("b".repeat(60));
    let request = request(spec);
    let blocked: Vec<_> = request.additional.iter().map(|image| image.blocked_by.as_deref()).collect();
    assert_eq!(blocked, [None, Some("^gone"), Some("^gone"), Some(r"^h\.example:5000/b+/away/b:1$")]);
}

#[test]
fn names_are_those_of_kubernetes() {
    for (field, text, good) in [
        ("name", "a.b-c.9", true),
        ("name", "My_Set", false),
        ("name", "a..b", false),
        ("name", "-a", false),
        ("namespace", "team-1", true),
        ("namespace", "", true),
        ("namespace", "a.b", false),
        ("namespace", "Team", false),
    ] {
        let mut object = object(base());
        let slot = if field == "name" { &mut object.metadata.name } else { &mut object.metadata.namespace };
        *slot = Some(text.to_owned());
        let fields = Request::try_new(&object).err().map(|invalid| invalid.faults[0].field.clone());
        assert_eq!(fields, (!good).then(|| format!("metadata.{field}")), "{text}");
    }
}

#[test]
fn the_place_of_our_own_records_is_nobodys_destination() {
    for (prefix, image, field) in [
        ("", json!({"name": "q.io/a:1", "targetRepo": "imageset-mirror/state"}), "additionalImages[0].targetRepo"),
        ("", json!({"name": "q.io/a:1", "targetRepo": "x/imageset-mirror/state/y"}), "additionalImages[0].targetRepo"),
        ("imageset-mirror", json!({"name": "q.io/state:1"}), "additionalImages[0].name"),
        ("x", json!({"name": "q.io/imageset-mirror/state:1"}), "additionalImages[0].name"),
        ("x/imageset-mirror/state", json!({"name": "q.io/a:1"}), "pathPrefix"),
    ] {
        let mut spec = with("mirror/additionalImages", json!([image]));
        spec["target"]["pathPrefix"] = json!(prefix);
        let found = faults(spec);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0.ends_with(field) && found[0].1.contains("records of what was mirrored"), "{found:?}");
    }
    let near = json!([{"name": "q.io/a:1", "targetRepo": "my-imageset-mirror/state"}]);
    assert!(Request::try_new(&object(with("mirror/additionalImages", near))).is_ok());
}

#[test]
fn the_key_changes_with_what_a_sync_reads_and_with_nothing_else() {
    let key = request(base()).key();
    assert_eq!(key.len(), 64);
    assert_eq!(key, request(base()).key());
    let changes = [
        ("mirror/additionalImages/0/name", json!("quay.io/a/b:2")),
        ("mirror/platform", json!({"channels": [{"name": "a"}]})),
        ("mirror/platform", json!({"channels": [{"name": "a", "type": "okd"}]})),
        ("mirror/platform", json!({"channels": [{"name": "a", "full": true}]})),
        ("mirror/platform", json!({"channels": [{"name": "a", "maxVersion": "4.1.2"}]})),
        ("mirror/platform", json!({"channels": [{"name": "a"}], "architectures": ["arm64"]})),
        ("mirror/platform", json!({"channels": [{"name": "a"}], "architectures": ["multi"]})),
        (
            "mirror/platform",
            json!({"channels": [{"name": "a"}], "platforms": [{"os": "linux", "architecture": "arm64"}]}),
        ),
        ("mirror/platform", json!({"channels": [{"name": "a"}], "kubeVirtContainer": true})),
        ("mirror/platform", json!({"release": "quay.io/a/b:1"})),
        ("mirror/additionalImages/0/targetRepo", json!("x")),
        ("mirror/additionalImages/0/targetTag", json!("x")),
        ("mirror/additionalImages/0/platforms", json!([{"os": "linux", "architecture": "amd64"}])),
        ("mirror/blockedImages", json!([{"name": "x"}])),
        ("target/registry", json!("other.example")),
        ("target/pathPrefix", json!("x")),
        ("target/credentials", json!({"name": "x"})),
        ("target/trustBundle", json!({"name": "x"})),
        ("target/trustBundle", json!({"name": "x", "key": "y"})),
        ("target/tls", json!("Plain")),
        ("source/credentials", json!({"name": "x"})),
        ("source/trustBundle", json!({"name": "x"})),
        ("source/hosts", json!([{"host": "quay.io", "tls": "Plain"}])),
        ("source/hosts", json!([{"host": "quay.io", "tls": "SkipVerify"}])),
        ("source/overrides", json!([{"source": "quay.io", "mirrors": ["x"]}])),
        ("source/overrides", json!([{"source": "quay.io", "mirrors": ["x", "y"]}])),
        ("source/updateService", json!("https://a.test/graph")),
        ("source/signatureStores", json!(["https://a.test/"])),
        ("source/signatureStores", json!(["https://a.test/", "https://b.test/"])),
        ("source/signatureKeys", json!({"name": "x"})),
        ("source/signatureKeys", json!({"name": "x", "key": "y"})),
        ("verification/releaseSignatures", json!("Skip")),
        ("mode", json!("Plan")),
        ("copy/concurrency", json!(3)),
        ("copy/maxBytesPerSecond", json!(3)),
        ("copy/attachments", json!("Skip")),
    ];
    let mut keys = BTreeSet::from([key.clone()]);
    for (pointer, value) in changes {
        assert!(keys.insert(request(with(pointer, value.clone())).key()), "{pointer}: {value} gives a known key");
    }
    for (pointer, value) in [
        ("interval", json!("6h")),
        ("suspend", json!(true)),
        ("progressDeadline", json!("6h")),
        ("mirror/samples", json!([{"name": "x"}])),
        ("target/pathPrefix", json!("")),
        ("target/tls", json!("Verify")),
        ("clusterResources/imageDigestMirrorSet/policy", json!("Disabled")),
        ("clusterResources/imageTagMirrorSet/mirrorSourcePolicy", json!("NeverContactSource")),
        ("clusterResources/disruption", json!("AllowDrain")),
        ("clusterResources/removal", json!("Remove")),
        ("clusterResources/conflictPolicy", json!("Adopt")),
        ("clusterResources/updateService", json!({"policy": "Apply", "namespace": "osus", "replicas": 1})),
        ("clusterResources/releaseSignatures/policy", json!("Publish")),
    ] {
        assert_eq!(request(with(pointer, value)).key(), key, "{pointer}");
    }
    let mut object = object(base());
    object.metadata.generation = Some(8);
    assert_eq!(Request::try_new(&object).unwrap().key(), key);
    for (annotation, value) in [
        ("mirror.openshift.io/requested-at", "x"),
        ("mirror.openshift.io/requested-at", "y"),
        ("reconcile.fluxcd.io/requestedAt", "z"),
    ] {
        object.metadata.annotations.get_or_insert_default().insert(annotation.into(), value.into());
        assert!(keys.insert(Request::try_new(&object).unwrap().key()), "{annotation}={value}");
    }
    assert_eq!(request_token(&object).as_deref(), Some("y,z"));
}

#[test]
fn what_the_operator_was_started_with_counts_where_an_object_says_nothing() {
    let stores = ["https://a.test/".to_owned(), "https://b.test/".to_owned()];
    let endpoints = Endpoints::try_new(Some("https://graph.test"), &stores).unwrap();
    let mut silent = request(base());
    let key = silent.key();
    silent.source.complete(&endpoints);
    assert_eq!(silent.source.update_service, endpoints.update_service);
    assert_eq!(silent.source.signature_stores, endpoints.signature_stores);
    assert_ne!(silent.key(), key, "another operator, another sync");
    let mut own =
        request(with("source", json!({"updateService": "https://own.test", "signatureStores": ["https://c.test"]})));
    let before = own.source.clone();
    own.source.complete(&endpoints);
    assert_eq!(own.source, before);
    assert_eq!(Endpoints::try_new(Some(""), &[String::new()]), Ok(Endpoints::default()));
    let wrong = Endpoints::try_new(Some("graph"), &["store".to_owned()]).unwrap_err().to_string();
    assert!(
        wrong.contains("--update-service: `graph` is not") && wrong.contains("--signature-store: `store`"),
        "{wrong}"
    );
}

#[test]
fn the_samples_are_valid() {
    for text in [
        include_str!("../../config/samples/additional-images.yaml"),
        include_str!("../../config/samples/all-fields.yaml"),
    ] {
        let object: ImageSetMirror = serde_yaml::from_str(text).unwrap();
        let request = Request::try_new(&object).unwrap();
        assert!(request.warnings.is_empty());
    }
}

/// Text near the grammar of names.
fn near() -> impl Strategy<Value = String> {
    r"[a-c0-9A_.:/@-]{0,16}|[a-c0-9.-]{1,8}(:[0-9]{1,6})?(/[a-c0-9._-]{1,6}){0,3}(:[a-cA0-9._-]{1,5})?"
}

proptest! {
    #[test]
    fn reading_an_object_never_panics(name in ".{0,12}", text in near(), other in near(), number: i64) {
        let spec = json!({
            "mirror": {"additionalImages": [{"name": text, "targetRepo": other, "targetTag": name}],
                       "operators": [{"catalog": other, "targetTag": text}], "blockedImages": [{"name": name}]},
            "target": {"registry": other, "pathPrefix": text},
            "source": {"overrides": [{"source": text, "mirrors": [other, name]}], "hosts": [{"host": text, "tls": "Plain"}]},
            "interval": name, "copy": {"maxBytesPerSecond": number},
        });
        drop(Request::try_new(&object(spec)));
    }

    #[test]
    fn the_rules_of_the_schema_and_the_types_accept_the_same_names(text in near()) {
        let whole = |pattern: &str| regex::Regex::new(&format!("^({pattern})$")).unwrap().is_match(&text);
        let image = format!("({}/)?{}(:{})?(@{})?", grammar::HOST, grammar::PATH, grammar::TAG, grammar::DIGEST);
        // The types know more: the range of ports, the length of names, and that a tag or digest is needed.
        if text.parse::<Registry>().is_ok() {
            prop_assert!(whole(grammar::HOST), "{text}");
        }
        if whole(grammar::HOST) && !text.contains(':') {
            prop_assert!(text.parse::<Registry>().is_ok(), "{text}");
        }
        prop_assert_eq!(text.parse::<RepositoryPath>().is_ok(), whole(grammar::PATH));
        prop_assert_eq!(text.parse::<Tag>().is_ok(), whole(grammar::TAG));
        if text.parse::<Reference>().is_ok() {
            prop_assert!(whole(&image), "{text}");
        }
    }
}

#[test]
fn a_sync_is_forced_if_both_annotations_have_one_value() {
    let ask = |requested: &str, forced: &str| {
        let mut object = ImageSetMirror::default();
        let values = [("mirror.openshift.io/requested-at", requested), ("mirror.openshift.io/force-at", forced)];
        object.metadata.annotations = Some(values.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        is_forced(&object)
    };
    assert!(ask("1", "1"));
    assert!(!ask("2", "1") && !ask("", "") && !is_forced(&ImageSetMirror::default()));
}
