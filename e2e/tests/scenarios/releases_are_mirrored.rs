//! Releases: from channels to signed payloads in the target, and to what a cluster needs of them.

use std::process::{Command, Stdio};

use e2e::gpg::Signer;
use e2e::interruption::walk_every_tag;
use e2e::mirror_sets::{Kind, owned};
use e2e::operator::binary;
use e2e::process::RunFolder;
use e2e::proxy::Proxy;
use e2e::registry::Options;
use e2e::tools::say;
use e2e::upstream::{COMPONENTS, Upstream};
use e2e::wait::{LONG, condition, until, until_ready};
use e2e::world::{World, config_map};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use serde_json::{Value, json};

/// The world, and what releases are made from; nothing where there is no `GnuPG`, which is said.
async fn ground(scenario: &str) -> Option<(World, Upstream)> {
    if let Some(why) = Signer::unavailable() {
        say(&format!("SKIPPED: releases_are_mirrored::{scenario}, since {why}"));
        return None;
    }
    let world = World::start().await.expect("the world starts");
    let signer = tokio::task::block_in_place(|| Signer::new("releases <releases@example.com>")).expect("a key");
    let upstream = Upstream::start(signer).expect("the services start");
    let key = upstream.public_key().expect("a key");
    let keys = config_map(world.namespace(), "release-keys", "keys.asc", &key);
    world.cluster.apply_all(&[keys]).await.expect("a ConfigMap");
    Some((world, upstream))
}

/// An object that wants these releases, and writes nothing of them but mirror sets to the cluster.
fn object(world: &World, upstream: &Upstream, platform: &Value) -> Value {
    let mut object = world.image_set_mirror(world.namespace(), "ocp", &[]);
    object["spec"]["mirror"] = json!({"platform": platform});
    upstream.named_in(&mut object, &world.source_host).expect("a source");
    object["spec"]["source"]["signatureKeys"] = json!({"name": "release-keys"});
    object["spec"]["clusterResources"] =
        json!({"releaseSignatures": {"policy": "Publish"}, "updateService": {"policy": "Publish"}});
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_across_minors_with_a_graph_become_ready_and_the_second_sync_reads_no_blob() {
    let Some((world, upstream)) = ground("channels_across_minors").await else { return };
    let source = world.source().expect("a client");
    let mut made = Vec::new();
    for version in ["4.17.1", "4.17.5", "4.18.1", "4.18.2", "4.19.0"] {
        made.push(upstream.release(&source, version, &["etcd", "cli", "oauth-proxy"]).await.expect("a release"));
    }
    // The last of a minor is the first of the channel of the next one.
    for (channel, releases) in [("stable-4.17", 0..2), ("stable-4.18", 1..4), ("stable-4.19", 3..5)] {
        upstream.channel(channel, &made[releases].iter().collect::<Vec<_>>());
    }
    upstream.base(&source).await.expect("a base");
    let mut operator = world.operator().await.expect("the operator starts");
    let channels = json!([{"name": "stable-4.17", "minVersion": "4.17.5"}, {"name": "stable-4.19"}]);
    let mut object = object(&world, &upstream, &json!({"channels": channels, "graph": true}));
    object["spec"]["mirror"]["additionalImages"] = json!([{"name": "registry.access.redhat.com/ubi9/ubi:latest"}]);
    let api = world.mirrors(world.namespace()).await.expect("a client");

    world.apply(&object).await.expect("accepted");
    let ready = until_ready(&api, "ocp", LONG).await.expect("Ready");

    let target = world.target().expect("a client");
    let tags = target.tags("openshift/release-images").await.expect("tags");
    assert_eq!(tags, ["4.17.5", "4.18.1", "4.18.2", "4.19.0"].map(|version| format!("{version}-x86_64")));
    let components = target.tags("openshift/release").await.expect("tags");
    assert_eq!(components.len(), 4 * 4);
    assert_eq!(
        target.digest("openshift/release-images", "4.18.2-x86_64").await.expect("it"),
        Some(made[3].digest.clone())
    );
    walk_every_tag(&target).await.expect("every tag is whole");

    let rules = owned(&world.cluster, Kind::Digest, world.namespace(), "ocp").await.expect("a list");
    let sources: Vec<_> =
        rules[0].data.pointer("/spec/imageDigestMirrors").and_then(Value::as_array).expect("rules").iter().collect();
    let host = &world.target_host;
    assert_eq!(
        sources.iter().map(|rule| (rule["source"].as_str(), rule["mirrors"][0].as_str())).collect::<Vec<_>>(),
        [
            (
                Some("quay.io/openshift-release-dev/ocp-release"),
                Some(format!("{host}/openshift/release-images").as_str())
            ),
            (Some(format!("quay.io/{COMPONENTS}").as_str()), Some(format!("{host}/openshift/release").as_str())),
        ]
    );
    let maps: Api<ConfigMap> = Api::namespaced(world.cluster.client().await.expect("a client"), world.namespace());
    let manifests = maps.get("ocp-manifests").await.expect("the manifests").data.unwrap_or_default();
    for release in &made[1..] {
        let key = release.digest.replace(':', "-");
        assert!(manifests["signatures.yaml"].contains(&key), "the signature of {}", release.version);
    }
    let graph = target.digest("openshift/graph-image", "latest").await.expect("the graph image").expect("it is there");
    let service = &manifests["updateservice.yaml"];
    assert!(service.contains(&format!("graphDataImage: {host}/openshift/graph-image@{graph}")), "{service}");
    assert!(service.contains(&format!("releases: {host}/openshift/release-images\n")), "{service}");
    let listed = ready.data.pointer("/status/mirrored/releases").and_then(Value::as_array).expect("releases");
    let versions: Vec<_> = listed.iter().filter_map(|release| release["version"].as_str()).collect();
    assert_eq!(versions, ["4.19.0", "4.18.2", "4.18.1", "4.17.5"]);
    assert!(listed.iter().all(|release| release["readyToUpgrade"] == true), "{listed:#?}");
    assert_eq!(condition(&ready, "Verified").expect("a condition").status, "True");

    // Nothing new: nothing is written, and nothing is read but what a tag names now.
    for process in ["the same", "another"] {
        if process == "another" {
            operator.terminate().await.expect("it ends");
            operator = world.operator().await.expect("another one starts");
        }
        let mark = world.target.mark().await.expect("the log");
        let read = world.source.mark().await.expect("the log");
        let request = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": process}}});
        e2e::interruption::patch(&api, "ocp", &request).await.expect("accepted");
        until(&api, "ocp", LONG, "synced again", |object| {
            let handled = object.data.pointer("/status/lastHandledRequest").and_then(Value::as_str);
            handled == Some(process) && condition(object, "Ready").is_some_and(|ready| ready.status == "True")
        })
        .await
        .expect("synced again");
        let since = world.target.requests_since(mark).await.expect("the log");
        assert!(since.iter().all(|request| !request.is_write()), "{process}: {since:#?}");
        let since = world.source.requests_since(read).await.expect("the log");
        assert!(since.iter().all(|request| request.path.ends_with("/manifests/latest")), "{process}: {since:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_not_signed_is_named_and_takes_nothing_else_away() {
    let Some((world, upstream)) = ground("a_release_that_is_not_signed").await else { return };
    let source = world.source().expect("a client");
    let signed = upstream.release(&source, "4.18.1", &["etcd"]).await.expect("a release");
    let unsigned = upstream.release(&source, "4.18.2", &["etcd"]).await.expect("a release");
    upstream.unsign(&unsigned);
    upstream.channel("stable-4.18", &[&signed, &unsigned]);
    let _operator = world.operator().await.expect("the operator starts");
    let channels = json!([{"name": "stable-4.18", "minVersion": "4.18.1"}, {"name": "stable-4.99"}]);
    world.apply(&object(&world, &upstream, &json!({"channels": channels}))).await.expect("accepted");
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let object = until(&api, "ocp", LONG, "synced", |object| {
        object.data.pointer("/status/failures").and_then(Value::as_array).is_some_and(|found| found.len() == 2)
            && condition(object, "Reconciling").is_none()
    })
    .await
    .expect("synced");
    let failures = object.data["status"]["failures"].to_string();
    for text in ["SignatureMissing", &unsigned.digest, "ReleaseNotFound", "stable-4.99"] {
        assert!(failures.contains(text), "{text}: {failures}");
    }
    let target = world.target().expect("a client");
    assert_eq!(target.tags("openshift/release-images").await.expect("tags"), ["4.18.1-x86_64"]);
    walk_every_tag(&target).await.expect("every tag is whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_has_its_tag_is_complete_whenever_the_copy_is_killed() {
    const TURNS: u64 = 20;
    if let Some(why) = Signer::unavailable() {
        return say(&format!("SKIPPED: releases_are_mirrored::a_payload_that_has_its_tag, since {why}"));
    }
    let (source, target) = (Options::distribution("source"), Options::distribution("target"));
    let (source, target) = tokio::try_join!(source.start(), target.start()).expect("the registries start");
    let signer = tokio::task::block_in_place(|| Signer::new("releases <releases@example.com>")).expect("a key");
    let upstream = Upstream::start(signer).expect("the services start");
    let remote = source.remote().expect("a client");
    let parts = ["etcd", "cli", "oauth-proxy", "console"];
    let first = upstream.release(&remote, "4.18.1", &parts).await.expect("a release");
    let second = upstream.release(&remote, "4.18.2", &parts).await.expect("a release");
    upstream.channel("stable-4.18", &[&first, &second]);
    let proxy = Proxy::start(&source.host()).expect("a proxy");
    let run = RunFolder::create("killed-release").expect("a folder");
    let key = run.write("keys.asc", upstream.public_key().expect("a key")).expect("a file");
    let object = json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror", "metadata": {"name": "ocp"},
        "spec": {
            "mirror": {"platform": {"channels": [{"name": "stable-4.18", "minVersion": "4.18.1"}]}},
            "source": {"hosts": [{"host": proxy.host(), "tls": "Plain"}]},
            "target": {"registry": target.host(), "tls": "Plain"},
        },
    });
    let mut object = object;
    upstream.named_in(&mut object, &proxy.host()).expect("a source");
    let file = run.write("imageset.yaml", object.to_string()).expect("a file");
    let start = |turn: u64| {
        let mut command = Command::new(binary().expect("the binary"));
        command.args(["mirror", "-f"]).arg(&file).arg("--signature-key").arg(&key);
        command.args(["--to", &format!("{}/turn-{turn}", target.host())]).env_clear().env("HOME", run.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    };
    // Once to its end: what is read in all.
    let before = proxy.bytes_to_client();
    let ended = tokio::task::block_in_place(|| start(0).wait()).expect("it ends");
    assert!(ended.success());
    let all = proxy.bytes_to_client() - before;

    let there = target.remote().expect("a client");
    let mut torn = 0;
    for turn in 1..=TURNS {
        proxy.hold_after(all * turn / (TURNS + 1));
        let mut copy = start(turn);
        proxy.until_held(LONG).await.expect("it is caught");
        copy.kill().expect("it is killed");
        copy.wait().expect("it is gone");
        proxy.cut();
        proxy.release();
        walk_every_tag(&there).await.expect("every tag is whole");
        let payloads = there.tags(&format!("turn-{turn}/openshift/release-images")).await.expect("tags");
        let components = there.tags(&format!("turn-{turn}/openshift/release")).await.expect("tags");
        for payload in &payloads {
            let own = components.iter().filter(|tag| tag.starts_with(&format!("{payload}-"))).count();
            assert_eq!(own, parts.len() + 1, "turn {turn}: {payload} has its tag, and {components:?}");
        }
        torn += usize::from(payloads.len() < 2);
    }
    assert!(torn > 0, "no turn was cut off before the end");
}
