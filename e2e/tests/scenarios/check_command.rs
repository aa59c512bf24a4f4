//! `imageset-mirror check`, asked under the operator's own account: what is missing is named, and nothing else.

use std::path::Path;
use std::process::{Command, Stdio};

use e2e::cluster::Cluster;
use e2e::operator::{Operator, Overrides, apply_config_default, binary};
use e2e::wait::{LONG, SHORT, eventually};
use serde_json::json;

const CRD: &str = "customresourcedefinitions/imagesetmirrors.mirror.openshift.io";

/// The exit code and the lines of standard output.
async fn check(kubeconfig: &Path, args: &[&str]) -> (Option<i32>, Vec<String>) {
    let mut command = Command::new(binary().expect("the binary"));
    command.arg("check").args(args).env_clear().env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    (output.status.code(), text.lines().map(ToOwned::to_owned).collect())
}

/// Waits for an exit code, since the API server hears of changed roles a little late, and gives the lines that failed.
async fn failures(kubeconfig: &Path, args: &[&str], code: i32) -> Vec<String> {
    let what = format!("`check` to exit with {code}");
    let lines = eventually(SHORT, &what, || async {
        let (found, lines) = check(kubeconfig, args).await;
        anyhow::ensure!(found == Some(code), "{found:?}: {lines:#?}");
        Ok(Some(lines))
    });
    let lines = lines.await.expect("the exit code");
    lines.into_iter().filter(|line| line.starts_with("failed")).collect()
}

async fn delete(cluster: &Cluster, object: &str) {
    cluster.kubectl(&["delete", object]).await.expect("kubectl").ok().expect("it is deleted");
}

#[tokio::test]
async fn enough_permissions_pass_and_each_missing_one_is_named() {
    let cluster = Cluster::start().await.expect("the cluster starts");
    let deployment = apply_config_default(&cluster).await.expect("config/default is applied");
    let (namespace, account) = (deployment.namespace.as_str(), deployment.service_account.as_str());
    let kubeconfig = cluster.service_account_kubeconfig(namespace, account).await.expect("a kubeconfig");
    let mut operator = Operator::start(&cluster, &deployment, &Overrides::default()).await.expect("it starts");
    operator.until_ready(LONG).await.expect("it is ready");
    let own = format!("--namespace={namespace}");
    let ready = format!("--ready-url={}", operator.ready_url());

    assert_eq!(failures(&kubeconfig, &[&own, &ready], 0).await, Vec::<String>::new());
    let (code, lines) = check(&kubeconfig, &[&own, &ready, "--output=everything"]).await;
    assert_eq!((code, lines), (Some(2), Vec::new()));

    operator.terminate().await.expect("it ends");
    let lines = failures(&kubeconfig, &[&own, &ready], 1).await;
    assert!(lines.len() == 1 && lines[0].starts_with("failed  the operator is ready"), "{lines:#?}");

    let team = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    cluster.apply(&team.to_string()).await.expect("a namespace");
    let lines = failures(&kubeconfig, &[&own, "--watch-namespace", namespace, "--watch-namespace=team"], 1).await;
    let named = |line: &String| line.contains("RoleBinding in namespace `team`");
    assert!(!lines.is_empty() && lines.iter().all(named), "{lines:#?}");

    let role = "clusterrole/imageset-mirror-cluster";
    let text = cluster.kubectl(&["get", role, "--output=json"]).await.expect("kubectl").ok().expect("a role");
    let mut object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for rule in object["rules"].as_array_mut().expect("rules") {
        if rule["resources"] == json!(["imagedigestmirrorsets", "imagetagmirrorsets"]) {
            rule["verbs"] = json!(["get", "list", "watch"]);
        }
    }
    let looking = json!([{"op": "replace", "path": "/rules", "value": object["rules"]}]).to_string();
    let args = ["patch", role, "--type=json", "--patch", &looking];
    cluster.kubectl(&args).await.expect("kubectl").ok().expect("the role is narrower");
    let lines = failures(&kubeconfig, &[&own], 1).await;
    let verbs = ["create", "patch", "delete"];
    let written = |line: &String| verbs.iter().any(|verb| line.starts_with(&format!("failed  may {verb} image")));
    assert!(lines.len() == 6 && lines.iter().all(written), "{lines:#?}");
    assert_eq!(failures(&kubeconfig, &[&own, "--output=none"], 0).await, Vec::<String>::new());

    delete(&cluster, CRD).await;
    let lines = failures(&kubeconfig, &[&own, "--output=none"], 1).await;
    assert!(lines.len() == 1 && lines[0].contains("the CRD is not installed"), "{lines:#?}");
}
