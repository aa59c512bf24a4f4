//! The limits that a chart's values set hold for whoever writes an object, administrators included, from the moment they are
//! set: target registries, verified certificates, sizes.

use std::fs;

use e2e::chart::{NAME, objects, of_kind, template};
use e2e::cluster::Cluster;
use e2e::operator::repository;
use e2e::wait::{SHORT, eventually};
use serde_json::{Value, json};

const LIMITS: &str = "--set=admissionPolicy.limits.registries={registry.example.com,registry.example.com:5000},\
    admissionPolicy.limits.verifyTLS=true,admissionPolicy.limits.maxImages=2,admissionPolicy.limits.maxConcurrency=8";

/// An object within the limits, with these fields of its spec changed.
fn mirror(name: &str, changes: &[(&str, Value)]) -> Value {
    let mut spec = json!({
        "mirror": {"additionalImages": [{"name": "quay.io/team/app:v1"}]},
        "target": {"registry": "registry.example.com:5000"},
        "copy": {"concurrency": 8},
    });
    for (field, value) in changes {
        spec[field] = value.clone();
    }
    json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
        "metadata": {"name": name, "namespace": NAME}, "spec": spec,
    })
}

async fn refusal(cluster: &Cluster, object: &Value) -> anyhow::Result<String> {
    let args = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
    let output = cluster.kubectl_with_input(&args, &object.to_string()).await?;
    Ok(if output.success() { String::new() } else { output.stderr })
}

/// Waits until an object is refused with these words, or, if there are none, is taken: a policy counts some time after it was made.
async fn judged(cluster: &Cluster, object: &Value, words: &str) {
    eventually(SHORT, &format!("the answer `{words}`"), || async move {
        let said = refusal(cluster, object).await?;
        anyhow::ensure!(said.contains(words) && said.is_empty() == words.is_empty(), "{said}");
        Ok(Some(()))
    })
    .await
    .expect("it is judged as the limits say");
}

#[tokio::test]
async fn objects_beyond_the_limits_are_refused_and_others_are_taken() {
    let cluster = Cluster::start().await.expect("the cluster starts");
    let crd = repository().join("crds/mirror.openshift.io_imagesetmirrors.yaml");
    cluster.add_crd(&fs::read_to_string(crd).expect("the CRD")).await.expect("it is served");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}});
    let elsewhere = ("target", json!({"registry": "other.example.com"}));
    let before = mirror("before", std::slice::from_ref(&elsewhere));
    cluster.apply_all(&[namespace, before]).await.expect("nothing is limited yet");
    let rendered = objects(&template(NAME, &[LIMITS]).expect("helm").ok().expect("it renders")).expect("YAML");
    let wanted = ["ConfigMap", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
    let policies: Vec<Value> = wanted.iter().flat_map(|kind| of_kind(&rendered, kind)).cloned().collect();
    assert_eq!(policies.len(), 5, "two policies with a binding each, and the limits");
    cluster.apply_all(&policies).await.expect("policies");

    let image = |name: &str| json!({"name": format!("quay.io/team/{name}:v1")});
    let hosts = |mode: &str| json!({"hosts": [{"host": "quay.io", "tls": mode}]});
    for (change, words) in [
        (elsewhere, "other.example.com is not a target that is allowed here"),
        (
            ("target", json!({"registry": "registry.example.com:5000", "tls": "SkipVerify"})),
            "only Verify is allowed here",
        ),
        (("source", hosts("Plain")), "only Verify is allowed here"),
        (
            ("mirror", json!({"additionalImages": [image("a"), image("b"), image("c")]})),
            "spec.mirror.additionalImages: at most 2 images are allowed here",
        ),
        (("copy", json!({"concurrency": 9})), "spec.copy.concurrency: at most 8 is allowed here"),
    ] {
        judged(&cluster, &mirror("refused", &[change]), words).await;
    }
    let most = ("mirror", json!({"additionalImages": [image("a"), image("b")]}));
    for object in [mirror("taken", &[]), mirror("taken", &[most, ("source", hosts("Verify"))])] {
        judged(&cluster, &object, "").await;
    }

    // What was there before may be annotated, but not changed.
    let annotate = ["annotate", "imagesetmirror/before", "mirror.openshift.io/requested-at=1", "--namespace", NAME];
    cluster.kubectl(&annotate).await.expect("kubectl").ok().expect("metadata is free");
    let patch = r#"--patch={"spec":{"suspend":true}}"#;
    let change = ["patch", "imagesetmirror/before", "--type=merge", patch, "--namespace", NAME];
    let output = cluster.kubectl(&change).await.expect("kubectl");
    assert!(output.stderr.contains("not a target that is allowed here"), "{output:?}");

    // Another limit counts without a new policy; without any, nothing is taken.
    let limits = format!("configmap/{NAME}-limits");
    let patch = r#"--patch={"data":{"registries":"other.example.com"}}"#;
    let args = ["patch", &limits, "--type=merge", patch, "--namespace", NAME];
    cluster.kubectl(&args).await.expect("kubectl").ok().expect("the limits are changed");
    judged(&cluster, &mirror("refused", &[]), "allowed are: other.example.com").await;
    let args = ["delete", &limits, "--namespace", NAME];
    cluster.kubectl(&args).await.expect("kubectl").ok().expect("the limits are deleted");
    judged(&cluster, &mirror("refused", &[]), "no params found").await;
}
