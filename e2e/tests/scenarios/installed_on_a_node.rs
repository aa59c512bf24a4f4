//! The operator in its real image on a real node, installed by the commands of the README and handled through helm and kubectl
//! only.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use e2e::chart::{self, NAME};
use e2e::cluster::{Cluster, Output};
use e2e::container;
use e2e::image::ImageSpec;
use e2e::interruption::{LAYERS, begun, big, patch, proxy_before_source, uploads, writes};
use e2e::mirror_sets::{Kind, owned};
use e2e::node;
use e2e::operator::{owners_are_taken, parse_deployment, repository};
use e2e::pods;
use e2e::rbac;
use e2e::readme::Script;
use e2e::registry::Registry;
use e2e::tools::say;
use e2e::wait::{LONG, condition, eventually, has_condition, until, until_ready};
use e2e::world::{Setup, World};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::on_a_node::skipped;

/// The image that the README's commands name, without its tag: every registry's name leads to the one of the node.
const IMAGE: &str = "registry.example.com:5000/ops/imageset-mirror";

/// The part of an image that has come in when a copy is held: one layer and a half.
const PART: u64 = 1_500_000;

/// How long 2 GiB may take on a busy machine.
const HUGE: Duration = Duration::from_mins(10);

/// A minute for the lease of a leader that could not give it back, and then what else takes its time.
const TAKEOVER: Duration = Duration::from_mins(4);

/// A cluster with a node that knows the operator's image with these tags, and two registries; nothing if that cannot be had
/// here, which is said.
async fn ground(scenario: &str, tags: &[&'static str]) -> Option<(Cluster, Registry, Registry)> {
    let scenario = format!("installed_on_a_node::{scenario}");
    if skipped(&scenario) {
        return None;
    }
    let made = tags.iter().map(|&tag| tokio::task::spawn_blocking(move || container::operator_image(0, tag)));
    let mut images = Vec::new();
    for image in made.collect::<Vec<_>>() {
        match image.await.expect("no panic") {
            Ok(image) => images.push(image),
            Err(error) => {
                say(&format!("SKIPPED: {scenario}, since the image cannot be made: {error:#}"));
                return None;
            }
        }
    }
    let (cluster, source, target) = Setup { node: true, ..Setup::default() }.start().await.expect("the servers start");
    for (image, tag) in images.iter().zip(tags) {
        let node = pods::node(&cluster).expect("a node");
        node.push(image, &format!("{IMAGE}:{tag}")).await.expect("pushed");
    }
    Some((cluster, source, target))
}

/// Runs the commands below a heading of the README, as they are, in what looks like a clone.
async fn follow_readme(heading: &str, cluster: &Cluster) {
    let clone = cluster.run().folder("clone").expect("a folder");
    for folder in ["charts", "config"] {
        // It is there already the second time.
        symlink(repository().join(folder), clone.join(folder)).ok();
    }
    let script = Script::below(heading).expect("commands");
    script.run(cluster, &clone).await.expect("a shell").ok().expect("every command succeeds");
}

/// The world around what is installed, as soon as it works in a namespace.
async fn world_around(cluster: Cluster, source: Registry, target: Registry, namespace: &str) -> World {
    let get = ["get", "deployment", NAME, "--namespace", NAME, "--output", "yaml"];
    let deployment = parse_deployment(&cluster.kubectl(&get).await.expect("kubectl").ok().expect("it is there"));
    let deployment = deployment.expect("a Deployment");
    owners_are_taken(&cluster, &deployment, namespace).await.expect("the operator may write");
    let world = World::around(cluster, source, target, deployment).await.expect("a world");
    pods::until_available(&world).await.expect("available");
    world
}

/// `helm test` of what is installed. The node has no DNS for Services, so one of their pods is what the name leads to.
async fn passes_its_test(world: &World) {
    let pods = pods::list(world).await.expect("the pods");
    let ready = pods.iter().find(|pod| pods::is_ready(pod)).expect("a pod that is ready");
    let address = ready.status.as_ref().and_then(|status| status.pod_ip.as_deref()).expect("an address");
    let name = format!("{NAME}.{}.svc", world.namespace());
    pods::node(&world.cluster).expect("a node").names(&[(&name, address)]).await.expect("names");
    let tested = helm(&world.cluster, &["test", NAME, "--timeout=3m"]);
    assert!(tested.success(), "{tested:?}");
}

fn helm(cluster: &Cluster, args: &[&str]) -> Output {
    let args = [args, &["--namespace", NAME]].concat();
    tokio::task::block_in_place(|| chart::helm(Some(cluster), &args)).expect("helm")
}

/// `helm upgrade` of what is installed, with one more value.
fn upgrade(cluster: &Cluster, more: &[&str]) -> Output {
    let chart = chart::folder().display().to_string();
    helm(cluster, &[&["upgrade", NAME, &chart, "--reuse-values"], more].concat())
}

async fn kubectl(world: &World, args: &[&str]) -> String {
    world.cluster.kubectl(args).await.expect("kubectl").ok().expect("kubectl succeeds")
}

/// The tags of the images that pods run.
async fn tags(world: &World) -> BTreeSet<String> {
    let pods = pods::list(world).await.expect("the pods");
    let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref());
    statuses.flatten().filter_map(|status| Some(status.image.rsplit_once(':')?.1.to_owned())).collect()
}

/// Pushes an image to the source, mirrors it and waits; the image is named by digest, so that there is a rule for it.
async fn mirror(world: &World, namespace: &str, name: &str, seed: u64) -> DynamicObject {
    let repository = format!("apps/{name}");
    let pushed = world.source().expect("a client").push_image(&repository, "1", ImageSpec::seeded(seed)).await;
    let image = format!("{repository}@{}", pushed.expect("an image").digest);
    world.apply(&world.image_set_mirror(namespace, name, &[&image])).await.expect("accepted");
    until_ready(&world.mirrors(namespace).await.expect("a client"), name, TAKEOVER).await.expect("Ready")
}

/// Asks for a sync and waits until it has been done.
async fn sync(world: &World, name: &str, request: &str) {
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let asked = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": request}}});
    patch(&api, name, &asked).await.expect("accepted");
    until(&api, name, TAKEOVER, "synced again", |object| {
        let handled = object.data.pointer("/status/lastHandledRequest").and_then(Value::as_str);
        handled == Some(request) && has_condition(object, "Ready", "True")
    })
    .await
    .expect("synced again");
}

async fn digest_rule(world: &World, name: &str) -> DynamicObject {
    let mut found = owned(&world.cluster, Kind::Digest, world.namespace(), name).await.expect("a list");
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_lives_from_its_installation_to_the_end_of_its_namespace() {
    let scenario = "a_release_lives_from_its_installation_to_the_end_of_its_namespace";
    let Some((cluster, source, target)) = ground(scenario, &["0.1.0", "next"]).await else { return };
    follow_readme("### With Helm", &cluster).await;
    let mut world = world_around(cluster, source, target, NAME).await;
    passes_its_test(&world).await;
    let namespace = world.namespace().to_owned();
    let api = world.mirrors(&namespace).await.expect("a client");
    all_are_confined(&world).await;
    mirror(&world, &namespace, "set", 1).await;

    // An upgrade, while the copy of an image stands still in its second layer.
    let proxy = proxy_before_source(&mut world).await.expect("a proxy");
    world.source().expect("a client").push_image("big", "v1", big(2)).await.expect("an image");
    let mut object = world.image_set_mirror(&namespace, "big", &["big:v1"]);
    object["spec"]["copy"] = json!({"concurrency": 1});
    proxy.hold_after(PART);
    world.apply(&object).await.expect("accepted");
    proxy.until_held(LONG).await.expect("the copy is caught");
    let leader = pods::leader(&world).await.expect("a leader");
    upgrade(&world.cluster, &["--set=image.tag=next"]).ok().expect("upgraded");
    eventually(LONG, "the leader to be asked to end", || async {
        let pod = pods::named(&world, &leader).await?;
        Ok(pod.metadata.deletion_timestamp.map(|_| ()))
    })
    .await
    .expect("it is asked");
    let sent = uploads(&world.target.requests().await.expect("the log"));
    assert!(
        sent.keys().filter(|(repository, _)| repository == "big").count() < LAYERS,
        "it is not finished: {sent:#?}"
    );
    proxy.release();
    until_ready(&api, "big", TAKEOVER).await.expect("Ready");
    pods::until_available(&world).await.expect("available");
    assert_eq!(tags(&world).await, BTreeSet::from(["next".to_owned()]));
    let target = world.target().expect("a client");
    target.walk("big", "v1").await.expect("everything is there");
    let mut log = world.target.requests().await.expect("the log");
    let sent = uploads(&log);
    assert!(sent.values().all(|count| *count == 1), "sent twice: {sent:#?}");
    // What was asked for and found there already has not been begun; what was under way may have been cut off.
    log.retain(|request| request.status == 202);
    let begun = begun(&log, "big");
    assert!((LAYERS + 1..=LAYERS + 2).contains(&begun), "layers and config, begun {begun} times: {log:#?}");

    // An upgrade that cannot work takes nothing away.
    let failed = upgrade(&world.cluster, &["--set=image.tag=missing", "--wait", "--timeout=15s"]);
    assert!(!failed.success(), "there is no such image");
    let ready = pods::list(&world).await.expect("the pods").iter().filter(|pod| pods::is_ready(pod)).count();
    assert_eq!(ready, 2);
    sync(&world, "set", "during").await;
    helm(&world.cluster, &["rollback", NAME, "2", "--wait"]).ok().expect("rolled back");
    pods::until_available(&world).await.expect("available");
    assert_eq!(tags(&world).await, BTreeSet::from(["next".to_owned()]));

    // Removed: what users made stays, and what was made for them.
    world.assert_nothing_refused();
    let (object, rule) = (api.get("set").await.expect("the object"), digest_rule(&world, "set").await);
    helm(&world.cluster, &["uninstall", NAME, "--wait"]).ok().expect("removed");
    let kept = api.get("set").await.expect("kind and object stay");
    assert_eq!(kept.metadata.uid, object.metadata.uid);
    assert_eq!(digest_rule(&world, "set").await.metadata.uid, rule.metadata.uid);

    // Taken up again, with nothing to do.
    let mark = world.target.mark().await.expect("the log");
    follow_readme("### With Helm", &world.cluster).await;
    pods::until_available(&world).await.expect("available");
    // With the release went the permission to give the lease back.
    world.forget_refusals().expect("audit");
    sync(&world, "set", "again").await;
    let requests = world.target.requests_since(mark).await.expect("the log");
    for repository in ["apps/set", "big"] {
        let written = writes(&requests, repository);
        assert!(written.is_empty(), "{written:#?}");
    }
    assert_eq!(api.get("set").await.expect("the object").metadata.uid, object.metadata.uid);
    assert_eq!(digest_rule(&world, "set").await.metadata.resource_version, rule.metadata.resource_version);

    // The namespace with everything in it: also with an object that waits for the operator.
    mirror(&world, &namespace, "swept", 3).await;
    digest_rule(&world, "swept").await;
    let removal = json!({"spec": {"clusterResources": {"removal": "Remove", "disruption": "AllowDrain"}}});
    patch(&api, "swept", &removal).await.expect("accepted");
    until(&api, "swept", LONG, "held by the operator", |object| {
        object.metadata.finalizers.as_ref().is_some_and(|held| !held.is_empty())
    })
    .await
    .expect("it is held");
    world.assert_nothing_refused();
    world.refusals = Some("with its namespace go the operator's roles");
    kubectl(&world, &["delete", "namespace", &namespace, "--timeout=3m"]).await;
    let namespaces: Api<Namespace> = Api::all(world.cluster.client().await.expect("a client"));
    assert!(namespaces.get_opt(&namespace).await.expect("an answer").is_none());
    assert_eq!(digest_rule(&world, "set").await.metadata.uid, rule.metadata.uid, "what is to be retained stays");
    assert!(owned(&world.cluster, Kind::Digest, &namespace, "swept").await.expect("a list").is_empty());
}

async fn all_are_confined(world: &World) {
    for pod in pods::list(world).await.expect("the pods") {
        pods::confined(pods::process(world, &pod).expect("it runs")).expect("the kernel says so");
    }
}

async fn say_figures(world: &World) {
    say(&pods::figures(world).await.expect("figures").join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_installs_takes_every_sample_and_outlives_kill_drain_and_lack_of_memory() {
    let scenario = "what_kubectl_installs_takes_every_sample_and_outlives_kill_drain_and_lack_of_memory";
    let Some((cluster, source, target)) = ground(scenario, &["0.1.0"]).await else { return };
    follow_readme("### With kubectl", &cluster).await;
    let world = world_around(cluster, source, target, NAME).await;
    let enforced = "jsonpath={.metadata.labels.pod-security\\.kubernetes\\.io/enforce}";
    assert_eq!(kubectl(&world, &["get", "namespace", world.namespace(), "--output", enforced]).await, "restricted");
    all_are_confined(&world).await;
    say_figures(&world).await;
    every_sample_is_taken(&world).await;
    the_other_pod_takes_over_from_a_killed_leader(&world).await;
    a_drain_leaves_one_pod(&world).await;
    a_leader_without_memory_comes_back(&world).await;
}

async fn every_sample_is_taken(world: &World) {
    let samples = repository().join("config/samples");
    let mut files: Vec<_> =
        fs::read_dir(samples).expect("a folder").map(|entry| entry.expect("a file").path()).collect();
    files.retain(|file| file.file_name().is_some_and(|name| name != "kustomization.yaml"));
    // Credentials first.
    files.sort_by_key(|file| (file.file_name().is_some_and(|name| name != "secrets.yaml"), file.clone()));
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let mut taken = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("a sample");
        // A field that nobody knows is refused.
        kubectl(world, &["apply", "--server-side", "--validate=strict", "-f", &file.display().to_string()]).await;
        for object in chart::of_kind(&chart::objects(&text).expect("objects"), "ImageSetMirror") {
            taken.push(object["metadata"]["name"].as_str().expect("a name").to_owned());
        }
    }
    assert!(files.len() >= 3 && taken.len() >= 2, "{files:?}: {taken:?}");
    for name in &taken {
        // Their registries are nowhere, but there is nothing to be said against the objects.
        let object = until(&api, name, LONG, "looked at", |object| {
            condition(object, "Ready")
                .is_some_and(|ready| ready.observed_generation == object.metadata.generation && ready.status == "False")
        });
        let ready = condition(&object.await.expect("it is looked at"), "Ready").expect("a condition");
        let expected = ["TargetUnreachable", "SourceUnreachable", "TrustBundleInvalid", "ResolveFailed"];
        assert!(expected.contains(&ready.reason.as_str()), "{name}: {ready:?}");
        kubectl(world, &["delete", "imagesetmirror", name, "--namespace", world.namespace()]).await;
    }
}

async fn the_other_pod_takes_over_from_a_killed_leader(world: &World) {
    let first = eventually(LONG, "a pod to lead", || async { Ok(Some(pods::leader(world).await?)) }).await;
    let killed = pods::named(world, &first.expect("a leader")).await.expect("its pod");
    let id = pods::process(world, &killed).expect("it runs");
    // No pod can come in its place before the other has had to take over.
    kubectl(world, &["cordon", node::NAME]).await;
    let name = pods::name(&killed);
    kubectl(world, &["delete", "pod", name, "--namespace", world.namespace(), "--force", "--grace-period=0"]).await;
    kill_process(i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id"), Signal::KILL).ok();
    mirror(world, world.namespace(), "after-kill", 11).await;
    let leader = pods::leader(world).await.expect("a leader");
    assert_ne!(leader, name);
    kubectl(world, &["uncordon", node::NAME]).await;
    pods::until_available(world).await.expect("available");
}

/// With one node there is nowhere to go for the pods of a drained one.
async fn a_drain_leaves_one_pod(world: &World) {
    let drain = ["drain", node::NAME, "--delete-emptydir-data", "--timeout=20s"];
    let drained = world.cluster.kubectl(&drain).await.expect("kubectl");
    let refused = "Cannot evict pod as it would violate the pod's disruption budget";
    assert!(!drained.success() && drained.stderr.contains(refused), "{drained:#?}");
    let ready = pods::list(world).await.expect("the pods").iter().filter(|pod| pods::is_ready(pod)).count();
    assert_eq!(ready, 1);
    mirror(world, world.namespace(), "while-drained", 12).await;
    kubectl(world, &["uncordon", node::NAME]).await;
    pods::until_available(world).await.expect("available");
    sync(world, "while-drained", "after").await;
}

async fn a_leader_without_memory_comes_back(world: &World) {
    let leader = pods::named(world, &pods::leader(world).await.expect("a leader")).await.expect("its pod");
    pods::starve(pods::process(world, &leader).expect("it runs")).expect("a smaller limit");
    let source = world.source().expect("a client");
    source.push_image("big", "v1", big(13)).await.expect("an image");
    world.apply(&world.image_set_mirror(world.namespace(), "big", &["big:v1"])).await.expect("accepted");
    let name = pods::name(&leader);
    eventually(LONG, "the leader to be killed for want of memory", || async {
        let status = pods::named(world, name).await?.status.unwrap_or_default();
        let last = status.container_statuses.unwrap_or_default().into_iter().find_map(|it| it.last_state?.terminated);
        Ok(last.filter(|last| last.reason.as_deref() == Some("OOMKilled")))
    })
    .await
    .expect("it is");
    let api = world.mirrors(world.namespace()).await.expect("a client");
    until_ready(&api, "big", TAKEOVER).await.expect("Ready by itself");
    pods::until_available(world).await.expect("available");
}

const TEAMS: [&str; 2] = ["team-a", "team-b"];

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_are_served_with_roles_there_only_and_a_layer_is_copied_that_is_larger_than_memory() {
    let scenario = "two_namespaces_are_served_with_roles_there_only_and_a_layer_is_copied_that_is_larger_than_memory";
    let Some((cluster, source, target)) = ground(scenario, &["0.1.0"]).await else { return };
    for namespace in TEAMS.into_iter().chain(["team-c"]) {
        cluster.kubectl(&["create", "namespace", namespace]).await.expect("kubectl").ok().expect("created");
    }
    let chart = chart::folder().display().to_string();
    let install = ["install", NAME, &chart, "--create-namespace", "--wait"];
    let values = format!(
        "--set=image.registry=registry.example.com:5000,image.repository=ops/imageset-mirror,watchNamespaces={{{0}}},\
         clusterOutputNamespaces={{team-a}}",
        TEAMS.join(",")
    );
    helm(&cluster, &[install.as_slice(), &[&values]].concat()).ok().expect("installed");
    let world = world_around(cluster, source, target, TEAMS[0]).await;
    let grants = rbac::grants(&world.cluster, NAME, &world.deployment.service_account).await.expect("grants");
    let places: BTreeSet<Option<&str>> = grants.iter().map(|grant| grant.namespace.as_deref()).collect();
    assert_eq!(places, BTreeSet::from([None, Some(NAME), Some("team-a"), Some("team-b")]));
    for namespace in TEAMS.into_iter().chain(["team-c"]) {
        world.add_access(namespace).await.expect("access");
    }
    // Before the others: it would have had its turn.
    let elsewhere = world.image_set_mirror("team-c", "set", &["apps/set:1"]);
    world.apply(&elsewhere).await.expect("accepted");
    for (namespace, applied) in TEAMS.into_iter().zip(["Applied", "NamespaceNotAllowed"]) {
        let object = mirror(&world, namespace, "set", 21).await;
        assert_eq!(condition(&object, "ResourcesApplied").expect("a condition").reason, applied);
    }
    let unseen = world.mirrors("team-c").await.expect("a client").get("set").await.expect("the object");
    assert_eq!(condition(&unseen, "Ready"), None);
    say_figures(&world).await;

    // One layer, larger than the limit by far.
    let huge = ImageSpec::seeded(22).layers(1, 2 << 30);
    let pushed = world.source().expect("a client").push_image("huge", "v1", huge).await.expect("an image");
    let image = format!("huge@{}", pushed.digest);
    world.apply(&world.image_set_mirror("team-a", "huge", &[&image])).await.expect("accepted");
    let api = world.mirrors("team-a").await.expect("a client");
    until_ready(&api, "huge", HUGE).await.expect("Ready");
    for pod in pods::list(&world).await.expect("the pods") {
        let id = pods::process(&world, &pod).expect("it runs");
        let memory = |file| pods::memory(id, file).expect("its cgroup");
        assert_eq!(memory("memory.limit_in_bytes"), 512 << 20, "the limit of the chart is in force");
        assert_eq!(memory("memory.failcnt"), 0, "it was never reached");
        let restarts = pod.status.and_then(|status| Some(status.container_statuses?.first()?.restart_count));
        assert_eq!(restarts, Some(0));
        say(&format!(
            "after 2 GiB: resident at most {}, cgroup at most {} kB",
            pods::status(id, "VmHWM").expect("it runs"),
            memory("memory.max_usage_in_bytes") / 1024
        ));
    }
}
