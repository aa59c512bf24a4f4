//! Pods of the operator on a real node: kubelet, containerd and runc start them from the manifests as they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::cluster::{Cluster, client_of};
use e2e::image::ImageSpec;
use e2e::interruption::lease_holder;
use e2e::node::{self, Node};
use e2e::process::{Process, Program, RunFolder, target_folder};
use e2e::tools::{self, say};
use e2e::wait::{LONG, eventually, until_ready};
use e2e::world::World;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const LABEL: &str = "app.kubernetes.io/name=imageset-mirror";

/// A minute for the lease of a killed leader, and then what else takes its time.
const TAKEOVER: Duration = Duration::from_mins(4);

/// Whether a scenario has to be left out here, which is said with the reason.
fn skipped(scenario: &str) -> bool {
    let reason = Node::available().err();
    if let Some(reason) = &reason {
        say(&format!("SKIPPED: on_a_node::{scenario}, since {reason}"));
    }
    reason.is_some()
}

async fn until_available(world: &World) {
    let deployments: Api<Deployment> =
        Api::namespaced(world.cluster.client().await.expect("a client"), world.namespace());
    let (deployments, name) = (&deployments, &world.deployment.name);
    eventually(LONG, "two pods to be available", || async move {
        let status = deployments.get(name).await?.status.unwrap_or_default();
        Ok((status.available_replicas == Some(2) && status.unavailable_replicas.is_none()).then_some(()))
    })
    .await
    .expect("the Deployment is available");
}

async fn pods(world: &World) -> Vec<Pod> {
    let pods: Api<Pod> = Api::namespaced(world.cluster.client().await.expect("a client"), world.namespace());
    pods.list(&ListParams::default().labels(LABEL)).await.expect("the pods").items
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().expect("a pod has a name")
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().expect("a pod has a uid")
}

fn the_node(cluster: &Cluster) -> &Node {
    cluster.node().expect("a cluster with a node")
}

/// The operator's process in a pod.
fn process(world: &World, pod: &Pod) -> u32 {
    let processes = the_node(&world.cluster).processes(uid(pod)).expect("processes");
    let mut found = processes.keys().copied().filter(|id| {
        let program = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        program.starts_with(b"/usr/bin/imageset-mirror\0controller\0")
    });
    found.next().unwrap_or_else(|| panic!("no operator among {processes:?}"))
}

/// A field of `/proc/<id>/status`.
fn status(id: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a running process");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_start_matches(':').trim().to_owned()
}

/// Seconds from the start of the container to a ready pod, in whole ones as Kubernetes counts.
fn seconds_to_ready(pod: &Pod) -> i64 {
    let status = pod.status.as_ref().expect("a status");
    let container = status.container_statuses.iter().flatten().next().expect("a container");
    let running = container.state.as_ref().and_then(|state| state.running.as_ref()).expect("it runs");
    let ready = status.conditions.iter().flatten().find(|found| found.type_ == "Ready").expect("a condition");
    let (from, to) =
        (running.started_at.as_ref().expect("a start"), ready.last_transition_time.as_ref().expect("a time"));
    to.0.duration_since(from.0).as_secs()
}

#[tokio::test]
async fn two_pods_under_the_restricted_profile_become_available_and_mirror() {
    if skipped("two_pods_under_the_restricted_profile_become_available_and_mirror") {
        return;
    }
    let world = World::start_on_node().await.expect("the world starts");
    until_available(&world).await;
    let namespace = world.namespace();
    let enforced =
        ["get", "namespace", namespace, "-o", "jsonpath={.metadata.labels.pod-security\\.kubernetes\\.io/enforce}"];
    let enforced = world.cluster.kubectl(&enforced).await.expect("kubectl").ok().expect("the namespace");
    assert_eq!(enforced, "restricted");
    let pods = pods(&world).await;
    assert_eq!(pods.len(), 2);
    for pod in &pods {
        // What the kernel says of the process, whatever the manifest says.
        let id = process(&world, pod);
        assert_eq!(status(id, "Uid"), "65532\t65532\t65532\t65532");
        assert_eq!(u64::from_str_radix(&status(id, "CapBnd"), 16), Ok(0), "no capability can be had");
        assert_eq!(status(id, "NoNewPrivs"), "1");
        assert_eq!(status(id, "Seccomp"), "2", "a filter is in force");
        let mounts = std::fs::read_to_string(format!("/proc/{id}/mounts")).expect("mounts");
        let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).expect("a root");
        let options = root.split(' ').nth(3).unwrap_or_default();
        assert!(options.split(',').any(|option| option == "ro"), "the root can be written: {root}");
        say(&format!("{}: ready after {} s, resident {}", name(pod), seconds_to_ready(pod), status(id, "VmRSS")));
    }

    let pushed = world.source().expect("a client").push_image("apps/tool", "1", ImageSpec::seeded(1)).await;
    let pushed = pushed.expect("an image");
    world.apply(&world.image_set_mirror(namespace, "set", &["apps/tool:1"])).await.expect("accepted");
    let api = world.mirrors(namespace).await.expect("a client");
    until_ready(&api, "set", LONG).await.expect("Ready");
    let arrived = world.target().expect("a client").digest("apps/tool", "1").await.expect("an answer");
    assert_eq!(arrived, Some(pushed.digest));
    for pod in &pods {
        say(&format!("{}: resident {} after a sync", name(pod), status(process(&world, pod), "VmRSS")));
    }
}

#[tokio::test]
async fn the_other_pod_takes_over_from_a_killed_leader() {
    if skipped("the_other_pod_takes_over_from_a_killed_leader") {
        return;
    }
    let world = World::start_on_node().await.expect("the world starts");
    until_available(&world).await;
    let pods = pods(&world).await;
    let leader = async || {
        let holder = lease_holder(&world).await?;
        Ok(holder.split_once('_').map(|(pod, _)| pod.to_owned()))
    };
    let first = eventually(LONG, "a pod to lead", leader).await.expect("a leader");
    let (killed, other): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| name(pod) == first);
    let ([killed], [other]) = (killed.as_slice(), other.as_slice()) else { panic!("{first} leads, of {pods:?}") };

    // No pod can come in its place before the other has had to take over.
    world.cluster.kubectl(&["cordon", node::NAME]).await.expect("kubectl").ok().expect("cordoned");
    let delete = ["delete", "pod", name(killed), "--namespace", world.namespace(), "--force", "--grace-period=0"];
    let id = i32::try_from(process(&world, killed)).ok().and_then(Pid::from_raw).expect("a process id");
    world.cluster.kubectl(&delete).await.expect("kubectl").ok().expect("deleted");
    kill_process(id, Signal::KILL).ok();

    let source = world.source().expect("a client");
    source.push_image("apps/tool", "1", ImageSpec::seeded(1)).await.expect("an image");
    let namespace = world.namespace();
    world.apply(&world.image_set_mirror(namespace, "set", &["apps/tool:1"])).await.expect("accepted");
    let api = world.mirrors(namespace).await.expect("a client");
    until_ready(&api, "set", TAKEOVER).await.expect("Ready");
    assert_eq!(leader().await.expect("the lease").as_deref(), Some(name(other)));

    world.cluster.kubectl(&["uncordon", node::NAME]).await.expect("kubectl").ok().expect("uncordoned");
    until_available(&world).await;
}

/// What of a node is left on this machine.
fn left_of(node: &str) -> Vec<String> {
    let mut left = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    left.extend(mounts.lines().filter(|line| line.contains(node)).map(ToOwned::to_owned));
    for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroup.contains(node) {
            left.push(entry.path().display().to_string());
        }
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("our cgroups");
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (hierarchy, path) = (fields.next().expect("a hierarchy"), fields.next().expect("a path"));
        let folder = format!("/sys/fs/cgroup/{}{path}/{node}", hierarchy.trim_start_matches("name="));
        left.extend(Some(folder).filter(|folder| Path::new(folder).exists()));
    }
    left
}

#[tokio::test]
async fn nothing_is_left_of_a_node_whether_its_harness_ends_or_is_killed() {
    if skipped("nothing_is_left_of_a_node_whether_its_harness_ends_or_is_killed") {
        return;
    }
    for signal in [Signal::INT, Signal::KILL] {
        let run = RunFolder::create("harness").expect("a folder");
        let program = Program::new("harness", env!("CARGO_BIN_EXE_e2e"))
            .args(["up", "--node"])
            .env("CARGO_TARGET_DIR", &target_folder().display().to_string())
            .env("IMAGESET_MIRROR_CACHE", &tools::cache().expect("a cache").display().to_string())
            .env("HOME", &run.path().display().to_string());
        let mut harness = Process::spawn(&program, &run.logs()).expect("it starts");
        let output = harness.stdout().to_owned();
        let (kubeconfig, node) = harness
            .ready(LONG, || async {
                let text = std::fs::read_to_string(&output)?;
                let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(PathBuf::from);
                let up = value("export KUBECONFIG=").zip(value("node: "));
                Ok(up.filter(|_| text.contains("Ctrl-C")))
            })
            .await
            .expect("it comes up");
        let name = node.file_name().and_then(|name| name.to_str()).expect("a name");
        let pods: Api<Pod> = Api::namespaced(client_of(&kubeconfig).await.expect("a client"), "default");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pause"},
            "spec": {"containers": [{"name": "pause", "image": node::PAUSE_IMAGE}]},
        });
        let pod = serde_json::from_value(pod).expect("a pod");
        pods.create(&PostParams::default(), &pod).await.expect("accepted");
        let api = &pods;
        eventually(LONG, "a pod to run", || async move {
            let phase = api.get("pause").await?.status.and_then(|status| status.phase);
            Ok((phase.as_deref() == Some("Running")).then_some(()))
        })
        .await
        .expect("it runs");
        // First processes of node and pod, control plane, kubelet, containerd, its shim, and a folder for each hierarchy.
        assert!(left_of(name).len() > 15, "{:#?}", left_of(name));
        harness.signal(signal).expect("it runs");
        harness.wait(LONG).await.expect("it ends");
        eventually(LONG, "the node to be gone", || async {
            let left = left_of(name);
            anyhow::ensure!(left.is_empty() && !node.exists(), "left: {left:#?}");
            Ok(Some(()))
        })
        .await
        .expect("nothing is left");
    }
}
