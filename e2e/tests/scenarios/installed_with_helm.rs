//! The operator as the chart installs it, for two namespaces only: it works there with the chart's permissions, asks for nothing
//! that it may not, and trusts the certificates that the chart mounts.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use e2e::chart::{folder, helm, hooks, of_kind};
use e2e::cluster::Cluster;
use e2e::image::ImageSpec;
use e2e::mirror_sets::{Kind, owned};
use e2e::operator::{EnvValue, Operator, Overrides, binary, parse_deployment};
use e2e::rbac;
use e2e::wait::{LONG, SHORT, condition, eventually, until_ready, until_reason};
use e2e::world::World;
use serde_json::json;

const RELEASE: &str = "hub";
const VALUES: &str = "--set=crds.install=false,watchNamespaces={team-a,team-b},clusterOutputNamespaces={team-a},\
    trustedCA.configMap=corporate-ca";

/// What the pod of `helm test` prints, run here under the operator's account, and the code it exits with.
async fn run_test(cluster: &Cluster, operator: &Operator) -> (Option<i32>, String) {
    let hooks = tokio::task::block_in_place(|| hooks(cluster, RELEASE, RELEASE)).expect("helm");
    let [pod] = of_kind(&hooks, "Pod")[..] else { panic!("{hooks:#?}") };
    let spec = &pod["spec"];
    let account = spec["serviceAccountName"].as_str().expect("an account");
    let kubeconfig = cluster.service_account_kubeconfig(RELEASE, account).await.expect("a kubeconfig");
    let args = spec["containers"][0]["args"].as_array().expect("arguments").iter();
    // Nobody but a node leads names and addresses of Services to a pod.
    let service = format!("--ready-url=http://{account}.{RELEASE}.svc:8081/readyz");
    let here = format!("--ready-url={}", operator.ready_url());
    let mut args: Vec<&str> = args.map(|arg| arg.as_str().expect("a text")).collect();
    *args.iter_mut().find(|arg| **arg == service).expect("the Service is asked") = &here;
    let mut command = Command::new(binary().expect("the binary"));
    command.args(args).env_clear().env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
    let output = tokio::task::block_in_place(|| command.output()).expect("it runs");
    (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
}

/// What helm prints for the release, in its namespace.
fn helm_ok(cluster: &Cluster, args: &[&str]) -> String {
    let args = [args, &["--namespace", RELEASE]].concat();
    tokio::task::block_in_place(|| helm(Some(cluster), &args)).expect("helm").ok().expect("helm succeeds")
}

fn install(cluster: &Cluster, values: &str) {
    helm_ok(cluster, &["install", RELEASE, &folder().display().to_string(), "--create-namespace", values]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_are_served_with_the_permissions_of_the_chart_and_its_certificates() {
    let world = World::start().await.expect("the world starts");
    let cluster = &world.cluster;
    for namespace in ["team-a", "team-b", "team-c"] {
        world.add_access(namespace).await.expect("a namespace");
    }
    install(cluster, VALUES);
    let deployment = parse_deployment(&helm_ok(cluster, &["get", "manifest", RELEASE])).expect("a Deployment");
    let account = deployment.service_account.as_str();
    assert_eq!((deployment.namespace.as_str(), account), (RELEASE, "hub-imageset-mirror"));
    let grants = rbac::grants(cluster, RELEASE, account).await.expect("grants");
    let places: BTreeSet<Option<&str>> = grants.iter().map(|grant| grant.namespace.as_deref()).collect();
    assert_eq!(places, BTreeSet::from([None, Some(RELEASE), Some("team-a"), Some("team-b")]));

    let roots =
        [("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"), ("SSL_CERT_DIR", "/etc/imageset-mirror/trusted-ca")];
    for (name, value) in roots {
        assert!(
            deployment.env.contains(&(name.to_owned(), EnvValue::Literal(value.to_owned()))),
            "{:?}",
            deployment.env
        );
    }
    // There is no kubelet that mounts the ConfigMap.
    let certificates = cluster.run().folder("trusted-ca").expect("a folder");
    let pem = [&world.source, &world.target].map(|registry| registry.ca_pem().expect("a certificate")).concat();
    fs::write(certificates.join("ca-bundle.crt"), pem).expect("a certificate");
    let overrides = Overrides::default().env("SSL_CERT_DIR", &certificates.display().to_string());
    let mut operator = Operator::start(cluster, &deployment, &overrides).await.expect("the operator starts");
    operator.until_ready(LONG).await.expect("it is ready");

    let source = world.source().expect("a client");
    let app = source.push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let image = format!("team/app@{}", app.digest);
    for (namespace, expected) in [("team-a", ("True", "Applied")), ("team-b", ("False", "NamespaceNotAllowed"))] {
        let mut object = world.image_set_mirror(namespace, "app", &[&image]);
        for side in ["source", "target"] {
            let side = object["spec"][side].as_object_mut().and_then(|side| side.remove("trustBundle"));
            assert_ne!(side, None, "the certificates come from the chart");
        }
        world.apply(&object).await.expect("an object");
        let object = until_ready(&world.mirrors(namespace).await.expect("a client"), "app", LONG).await;
        let applied = condition(&object.expect("it is mirrored"), "ResourcesApplied").expect("a condition");
        assert_eq!((applied.status.as_str(), applied.reason.as_str()), expected, "{applied:?}");
    }
    let (code, text) = run_test(cluster, &operator).await;
    assert!(code == Some(0) && text.ends_with(" checks, 0 failed\n"), "{text}");
    for namespace in ["team-a", "team-b"] {
        assert!(text.contains(&format!("ok      may get secrets in namespace `{namespace}`")), "{text}");
    }
    assert!(operator.terminate().await.expect("it ends").success());
    let events = cluster.audit().expect("the audit log").into_iter();
    let own: Vec<_> = events.filter(|event| event.is_by(RELEASE, account)).collect();
    assert!(own.len() > 20, "{own:#?}");
    let refused: Vec<_> = own.iter().filter(|event| event.is_refused()).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_election_there_is_no_lease_and_no_permission_for_one() {
    let world = World::start().await.expect("the world starts");
    let cluster = &world.cluster;
    world.add_access(RELEASE).await.expect("a namespace");
    install(cluster, "--set=crds.install=false,replicaCount=1,leaderElection.enabled=false");
    let deployment = parse_deployment(&helm_ok(cluster, &["get", "manifest", RELEASE])).expect("a Deployment");
    let account = deployment.service_account.as_str();
    let mut operator = Operator::start(cluster, &deployment, &Overrides::default()).await.expect("it starts");
    operator.until_ready(LONG).await.expect("it is ready");

    let source = world.source().expect("a client");
    let app = source.push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let object = world.image_set_mirror(RELEASE, "app", &[&format!("team/app@{}", app.digest)]);
    world.apply(&object).await.expect("an object");
    until_ready(&world.mirrors(RELEASE).await.expect("a client"), "app", LONG).await.expect("it works");
    assert!(operator.metrics().await.expect("metrics").contains("\nimagesetmirror_leader 1\n"));
    let (code, text) = run_test(cluster, &operator).await;
    assert!(code == Some(0) && !text.contains("leases"), "{text}");
    assert!(operator.terminate().await.expect("it ends").success());

    let args = ["get", "leases", "--namespace", RELEASE, "-o", "name"];
    assert_eq!(cluster.kubectl(&args).await.expect("kubectl").ok().expect("a list"), "");
    let grants = rbac::grants(cluster, RELEASE, account).await.expect("grants");
    assert!(!grants.is_empty() && grants.iter().all(|grant| grant.resource != "leases"), "{grants:#?}");
    let events = cluster.audit().expect("the audit log").into_iter();
    let own: Vec<_> = events.filter(|event| event.is_by(RELEASE, account)).collect();
    assert!(own.len() > 10 && own.iter().all(|event| event.resource != "leases"), "{own:#?}");
    assert!(!own.iter().any(e2e::cluster::AuditEvent::is_refused), "{own:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_the_chart_does_not_permit_is_named_and_the_other_is_written() {
    let world = World::start().await.expect("the world starts");
    let cluster = &world.cluster;
    world.add_access(RELEASE).await.expect("a namespace");
    install(
        cluster,
        "--set=crds.install=false,outputs.imageTagMirrorSet=false,rbac.secretNames={target-login,source-login}",
    );
    let deployment = parse_deployment(&helm_ok(cluster, &["get", "manifest", RELEASE])).expect("a Deployment");
    let mut operator = Operator::start(cluster, &deployment, &Overrides::default()).await.expect("it starts");
    operator.until_ready(LONG).await.expect("it is ready");

    let source = world.source().expect("a client");
    let app = source.push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let mut object = world.image_set_mirror(RELEASE, "app", &[&format!("team/app@{}", app.digest), "team/app:v1"]);
    object["spec"]["clusterResources"] = json!({"imageTagMirrorSet": {"policy": "Apply"}, "disruption": "AllowDrain"});
    world.apply(&object).await.expect("an object");
    let mirrors = world.mirrors(RELEASE).await.expect("a client");
    let object = until_reason(&mirrors, "app", ("ResourcesApplied", "False", "AdmissionDenied"), LONG).await;
    let applied = condition(&object.expect("it is refused"), "ResourcesApplied").expect("a condition");
    assert!(applied.message.contains("ImageTagMirrorSet"), "{applied:?}");
    until_ready(&mirrors, "app", LONG).await.expect("Ready does not depend on it");
    for (kind, count) in [(Kind::Digest, 1), (Kind::Tag, 0)] {
        assert_eq!(owned(cluster, kind, RELEASE, "app").await.expect("a list").len(), count, "{kind:?}");
    }

    // The test knows what was left out on purpose, and sees what is missing.
    let (code, text) = run_test(cluster, &operator).await;
    assert_eq!(code, Some(0), "{text}");
    let binding = ["delete", "rolebinding", "hub-imageset-mirror-watched", "--namespace", RELEASE];
    cluster.kubectl(&binding).await.expect("kubectl").ok().expect("it is deleted");
    let (cluster, operator) = (cluster, &operator);
    let text = eventually(SHORT, "the test to fail", || async move {
        let (code, text) = run_test(cluster, operator).await;
        Ok((code == Some(1)).then_some(text))
    });
    let text = text.await.expect("it fails");
    assert!(text.contains("failed  may get secrets `target-login` in namespace `hub`"), "{text}");
}
