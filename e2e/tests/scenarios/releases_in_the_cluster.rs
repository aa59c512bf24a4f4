//! What releases leave in a cluster, judged by what reads it there: the code of OpenShift's version operator takes the signatures
//! that are genuine and no other, an update service is taken as its operator reads it, people see what they can update to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use e2e::cluster::{Cluster, OpenShiftKind};
use e2e::gpg::Signer;
use e2e::operator::repository;
use e2e::relverify::judge;
use e2e::tools::say;
use imageset_mirror::api::ImageSetMirror;
use imageset_mirror::oci::{Digest, Reference};
use imageset_mirror::plan::{Plan, PlanItem, TargetId};
use imageset_mirror::request::Request;
use imageset_mirror::resources::{ExtraInputs, ExtraSnapshot, Extras, Release, Releases, Stored};
use serde_json::json;

fn payload(version: &str) -> Digest {
    Digest::of(version.as_bytes())
}

fn release(version: &str, signature: Vec<u8>) -> Release {
    let payload_at: Reference =
        format!("registry.example.com/openshift/release-images:{version}-x86_64").parse().expect("a reference");
    Release {
        version: version.to_owned(),
        architecture: "amd64".to_owned(),
        digest: payload(version),
        payload: payload_at,
        signatures: vec![signature],
    }
}

/// What is published of these releases once their payloads and a graph are in the target.
fn published(list: Vec<Release>) -> BTreeMap<String, String> {
    let object: ImageSetMirror = serde_json::from_value(json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
        "metadata": {"name": "releases", "namespace": "mirrors"},
        "spec": {"mirror": {"additionalImages": [{"name": "quay.io/a/b:1"}]}, "target": {"registry": "registry.example.com"}},
    }))
    .expect("an object");
    let request = Request::try_new(&object).expect("a valid one");
    let item = |release: &Release| PlanItem {
        asked: Vec::new(),
        digest: release.digest.clone(),
        destination: release.payload.clone(),
        platforms: BTreeSet::new(),
        after: Vec::new(),
        unmet: None,
    };
    let plan = Plan {
        version: Plan::VERSION,
        target: TargetId("target".to_owned()),
        items: list.iter().map(item).collect(),
        blocked: Vec::new(),
        failures: Vec::new(),
        notes: Vec::new(),
        partial: false,
    };
    let graph = format!("registry.example.com/openshift/graph-image@{}", payload("graph"));
    let graph: Reference = graph.parse().expect("a reference");
    let objects = Extras::new(&ExtraInputs {
        catalogs: &[],
        identity: &request.identity,
        outputs: &request.cluster,
        mode: request.mode,
        verified: &(0..list.len()).collect(),
        releases: &Releases { list, graph_wanted: true, graph: Some(graph) },
        plan: &plan,
        cluster: &ExtraSnapshot::default(),
        stored: &Stored::default(),
    });
    objects.manifests
}

#[tokio::test]
async fn the_version_operator_takes_what_is_genuine_and_nothing_else() {
    if let Some(reason) = Signer::unavailable() {
        say(&format!("SKIPPED: the_version_operator_takes_what_is_genuine_and_nothing_else, since {reason}"));
        return;
    }
    let (signer, stranger) =
        (Signer::new("release <release@example.com>").expect("a key"), Signer::new("other").expect("a key"));
    let of = |signer: &Signer, signed: &str| {
        let name = format!("quay.io/openshift-release-dev/ocp-release:{signed}-x86_64");
        signer.sign_release(&payload(signed).to_string(), &name).expect("a signature")
    };
    let mut truncated = of(&signer, "4.18.5");
    truncated.truncate(truncated.len() / 2);
    let manifests = published(vec![
        release("4.18.1", of(&signer, "4.18.1")),
        release("4.18.2", of(&signer, "4.18.2")),
        release("4.18.3", of(&stranger, "4.18.3")),
        release("4.18.4", of(&signer, "4.18.1")),
        release("4.18.5", truncated),
    ]);

    let cluster = Cluster::start_with(&[]).await.expect("the cluster starts");
    let args = ["create", "namespace", "openshift-config-managed"];
    cluster.kubectl(&args).await.expect("kubectl").ok().expect("a namespace of OpenShift");
    let apply = ["apply", "--server-side", "--field-manager=imageset-mirror", "-f", "-"];
    cluster
        .kubectl_with_input(&apply, &manifests["signatures.yaml"])
        .await
        .expect("kubectl")
        .ok()
        .expect("it is taken");

    let versions = ["4.18.1", "4.18.2", "4.18.3", "4.18.4", "4.18.5", "4.18.6"];
    let digests = versions.map(|version| payload(version).to_string());
    let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
    let verdict = judge(&cluster, &signer, &digests).await.expect("a verdict");
    let taken: Vec<&str> =
        versions.into_iter().filter(|version| verdict[&payload(version).to_string()].is_empty()).collect();
    assert_eq!(taken, ["4.18.1", "4.18.2"], "{verdict:#?}");

    // It is the label that makes them count.
    let label = "release.openshift.io/verification-signatures";
    let (space, less) = ("--namespace=openshift-config-managed", format!("{label}-"));
    let unlabel = ["label", "configmaps", space, "--selector", label, &less];
    cluster.kubectl(&unlabel).await.expect("kubectl").ok().expect("it is changed");
    let verdict = judge(&cluster, &signer, &digests[..1]).await.expect("a verdict");
    assert!(verdict.values().all(|why| !why.is_empty()), "{verdict:#?}");
}

#[tokio::test]
async fn an_update_service_is_taken_as_its_operator_reads_it() {
    let manifests = published(vec![release("4.18.1", Vec::new())]);
    let cluster = Cluster::start_with(&[OpenShiftKind::UpdateService]).await.expect("the cluster starts");
    let args = ["create", "namespace", "openshift-update-service"];
    cluster.kubectl(&args).await.expect("kubectl").ok().expect("its namespace");
    let apply = ["apply", "--server-side", "--validate=strict", "-f", "-"];
    let output = cluster.kubectl_with_input(&apply, &manifests["updateservice.yaml"]).await.expect("kubectl");
    assert!(output.success() && output.stderr.is_empty(), "{output:?}");
    let get = ["get", "updateservice/releases", "--namespace=openshift-update-service", "--output=jsonpath={.spec}"];
    let spec = cluster.kubectl(&get).await.expect("kubectl").ok().expect("it is there");
    let spec: serde_json::Value = serde_json::from_str(&spec).expect("JSON");
    let graph = format!("registry.example.com/openshift/graph-image@{}", payload("graph"));
    let expected =
        json!({"graphDataImage": graph, "releases": "registry.example.com/openshift/release-images", "replicas": 2});
    assert_eq!(spec, expected);
}

#[tokio::test]
async fn the_newest_release_that_is_ready_is_a_column() {
    let cluster = Cluster::start_with(&[]).await.expect("the cluster starts");
    let crd = repository().join("crds/mirror.openshift.io_imagesetmirrors.yaml");
    cluster.add_crd(&fs::read_to_string(crd).expect("the CRD")).await.expect("it is served");
    let object = json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
        "metadata": {"name": "releases", "namespace": "default"},
        "spec": {"mirror": {"platform": {"channels": [{"name": "stable-4.18"}]}}, "target": {"registry": "r.example.com"}},
    });
    cluster.apply_all(&[object]).await.expect("an object");
    let release = |version: &str, missing: &[&str]| {
        json!({"version": version, "architecture": "amd64", "digest": payload(version), "missing": missing,
               "readyToUpgrade": missing.is_empty()})
    };
    let releases = [release("4.18.3", &["Signatures"]), release("4.18.2", &[]), release("4.18.1", &[])];
    let status = json!({"status": {"mirrored": {"releases": releases}}}).to_string();
    let patch = ["patch", "imset/releases", "--subresource=status", "--type=merge", "--patch", &status];
    cluster.kubectl(&patch).await.expect("kubectl").ok().expect("it is taken");
    let table = cluster.kubectl(&["get", "imset", "--output=wide"]).await.expect("kubectl").ok().expect("a table");
    let mut lines = table.lines();
    let (head, row) = (lines.next().expect("a head"), lines.next().expect("a row"));
    let column = head.find("UPGRADE").expect("the column");
    assert_eq!(row[column..].split_whitespace().next(), Some("4.18.2"), "{table}");
}
