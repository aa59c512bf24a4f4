//! Whoever does without Helm gets the same: every folder of `config/`, and `install.yaml`.

use std::collections::BTreeSet;
use std::fs;

use e2e::chart::{NAME, objects, of_kind, template};
use e2e::cluster::Cluster;
use e2e::operator::{apply_config_default, repository};
use e2e::{manifests, tools};
use serde_json::Value;

async fn cluster_with_prometheus() -> Cluster {
    let cluster = Cluster::start_with(&[]).await.expect("the cluster starts");
    let crds = tokio::task::spawn_blocking(tools::prometheus_crds).await.expect("a task").expect("the CRDs");
    for kind in ["servicemonitors", "prometheusrules"] {
        let file = crds.join(format!("monitoring.coreos.com_{kind}.yaml"));
        cluster.add_crd(&fs::read_to_string(file).expect("a CRD")).await.expect("it is served");
    }
    cluster
}

#[tokio::test]
async fn every_folder_is_applied() {
    let cluster = cluster_with_prometheus().await;
    apply_config_default(&cluster).await.expect("the operator");
    let mut applied = BTreeSet::from(["crd", "rbac", "manager", "default"].map(ToOwned::to_owned));
    let args = ["create", "namespace", "openshift-config-managed"];
    cluster.kubectl(&args).await.expect("kubectl").ok().expect("a namespace of OpenShift");
    for folder in ["openshift", "prometheus", "network-policy", "admission", "containerd", "samples"] {
        let path = repository().join("config").join(folder).display().to_string();
        let output = cluster.kubectl(&["apply", "--server-side", "-k", &path]).await.expect("kubectl");
        assert!(output.success() && output.stderr.is_empty(), "{folder}: {output:?}");
        applied.insert(folder.to_owned());
    }
    let folders = fs::read_dir(repository().join("config")).expect("config").flatten();
    let with_manifests = folders.filter(|entry| entry.path().join("kustomization.yaml").exists());
    let there: BTreeSet<String> = with_manifests.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    assert_eq!(applied, there);
    let readme = fs::read_to_string(repository().join("config/README.md")).expect("config/README.md");
    for folder in there {
        assert!(readme.contains(&format!("| `{folder}` |")), "config/README.md says nothing about {folder}");
    }
}

#[tokio::test]
async fn one_file_installs_what_the_chart_installs() {
    let (file, chart) = tokio::task::spawn_blocking(|| {
        let chart = template(NAME, &["--no-hooks"]).expect("helm").ok().expect("the chart");
        (manifests::install_yaml().expect("install.yaml"), chart)
    })
    .await
    .expect("a task");
    let cluster = Cluster::start_with(&[]).await.expect("the cluster starts");
    let output = cluster.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &file).await.expect("kubectl");
    assert!(output.success() && output.stderr.is_empty(), "{output:?}");
    let without_labels = |text: &str| -> Vec<Value> {
        let mut objects = objects(text).expect("YAML");
        objects.retain(|object| object["kind"] != "Namespace");
        for object in &mut objects {
            object["metadata"]["labels"] = Value::Null;
        }
        objects
    };
    assert_eq!(without_labels(&file), without_labels(&chart));
    assert_eq!(of_kind(&objects(&file).expect("YAML"), "Namespace").len(), 1);
    assert!(!file.contains("managed-by: Helm") && !file.contains("helm.sh/chart"));
}
