//! A real node: kubelet, containerd and runc start pods, and nothing of them stays.

use std::path::{Path, PathBuf};

use e2e::cluster::client_of;
use e2e::node::{self, Node};
use e2e::process::{Process, Program, RunFolder, target_folder};
use e2e::tools::{self, say};
use e2e::wait::{LONG, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use rustix::process::Signal;
use serde_json::json;

/// Whether a scenario has to be left out here, which is said with the reason.
pub(crate) fn skipped(scenario: &str) -> bool {
    let reason = Node::available().err();
    if let Some(reason) = &reason {
        say(&format!("SKIPPED: {scenario}, since {reason}"));
    }
    reason.is_some()
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
    if skipped("on_a_node::nothing_is_left_of_a_node_whether_its_harness_ends_or_is_killed") {
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
