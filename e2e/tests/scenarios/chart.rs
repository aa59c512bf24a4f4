//! The chart says what it means: every value set of `ci/` renders as committed, is taken by the API server, and is understood
//! by the operator; every documented misuse is refused with a sentence.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::chart::{NAME, folder, helm, helm_of, objects, of_kind, template, value_sets};
use e2e::cluster::Cluster;
use e2e::operator::{binary, repository};
use e2e::tools::{self, Tool};
use e2e::wait::{SHORT, eventually};
use serde_json::{Value, json};

const CRD: &str = "imagesetmirrors.mirror.openshift.io";

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The objects that helm renders with these arguments.
fn rendered(more: &[&str]) -> Vec<Value> {
    let text = template(NAME, more).expect("helm").ok().expect("it renders");
    objects(&text).expect("YAML")
}

fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(objects, kind);
    let [object] = found.as_slice() else { panic!("{} objects of kind {kind}", found.len()) };
    object
}

#[test]
fn every_value_set_passes_the_linter_and_renders_as_committed() {
    let chart = folder().display().to_string();
    let sets = value_sets().expect("value sets");
    let names: Vec<&str> = sets.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["airgap", "all", "default", "ha", "monitoring", "openshift", "restricted"]);
    for (name, path) in &sets {
        let values = path.display().to_string();
        helm(None, &["lint", "--strict", &chart, "--values", &values]).expect("helm").ok().expect(name);
        let rendered = template(NAME, &["--values", &values]).expect("helm").ok().expect(name);
        // The CRD is compared with the one in `crds/` by another test.
        let documents: Vec<&str> =
            rendered.split("---\n").filter(|text| !text.contains("kind: CustomResourceDefinition")).collect();
        let rendered = documents.join("---\n");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/chart/{name}.yaml"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&golden, &rendered).expect("the snapshot is written");
        }
        let committed = fs::read_to_string(&golden).unwrap_or_default();
        let line = committed.lines().zip(rendered.lines()).find(|(old, new)| old != new);
        assert!(committed == rendered, "{name}: read the change, then run with UPDATE=1; the first: {line:?}");
    }
}

#[test]
fn the_chart_has_the_version_and_the_image_of_the_operator() {
    let chart: Value =
        serde_yaml::from_str(&fs::read_to_string(folder().join("Chart.yaml")).expect("Chart.yaml")).expect("a chart");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((text(&chart, "/version"), text(&chart, "/appVersion")), (version, version));
    let listed: Value = serde_yaml::from_str(text(&chart, "/annotations/artifacthub.io~1images")).expect("a list");
    let listed: BTreeSet<&str> = list(&listed, "").map(|image| text(image, "/image")).collect();
    let objects = rendered(&[]);
    let deployment = list(only(&objects, "Deployment"), "/spec/template/spec/containers");
    let test = list(only(&objects, "Pod"), "/spec/containers");
    let used: BTreeSet<&str> = deployment.chain(test).map(|container| text(container, "/image")).collect();
    assert_eq!(used, listed);
}

#[test]
fn the_chart_has_the_crd_that_is_committed_and_keeps_it() {
    let file = repository().join(format!("crds/{}_imagesetmirrors.yaml", "mirror.openshift.io"));
    let committed: Value = serde_yaml::from_str(&fs::read_to_string(file).expect("the CRD")).expect("YAML");
    let objects = rendered(&[]);
    let crd = only(&objects, "CustomResourceDefinition");
    assert_eq!(crd["spec"], committed["spec"]);
    assert_eq!(crd["metadata"]["name"], CRD);
    assert_eq!(crd["metadata"]["annotations"], json!({"helm.sh/resource-policy": "keep"}));
    let objects = rendered(&["--set", "crds.keep=false"]);
    assert_eq!(only(&objects, "CustomResourceDefinition")["metadata"]["annotations"], Value::Null);
    assert_eq!(of_kind(&rendered(&["--set", "crds.install=false"]), "CustomResourceDefinition").len(), 0);
}

/// Arguments of helm, and the text of the refusal.
const MISUSES: &[(&[&str], &str)] = &[
    (&["--set", "replicas=3"], "additional properties 'replicas' not allowed"),
    (&["--set", "image.tga=1"], "additional properties 'tga' not allowed"),
    (&["--set", "replicaCount=two"], "got string, want integer"),
    (&["--set", "replicaCount=-1"], "minimum: got -1, want 0"),
    (&["--set", "watchNamespaces=default"], "got string, want array"),
    (&["--set", "image.pullPolicy=Sometimes"], "value must be one of 'Always', 'IfNotPresent', 'Never'"),
    (&["--set", "openshift=yes"], "value must be one of 'auto', 'enabled', 'disabled'"),
    (&["--set", "admissionPolicy.enabled=maybe"], "value must be one of 'auto', true, false"),
    (&["--set", "serviceMonitor.renderMode=always"], "value must be one of 'skipIfMissing'"),
    (&["--set", "leaderElection.leaseDuration=60"], "got number, want string"),
    (&["--set-string", "sync.gap=a minute"], "does not match pattern"),
    (&["--set", "metrics.port=70000"], "maximum: got 70,000, want 65,535"),
    (
        &["--set", "leaderElection.enabled=false"],
        "replicaCount is 2, but leaderElection.enabled is false: two pods would work at the same time",
    ),
    (
        &["--set", "replicaCount=3,leaderElection.enabled=false"],
        "replicaCount is 3, but leaderElection.enabled is false",
    ),
    (&["--set", "image=operator:1.0"], "got string, want object"),
    (&["--set", "leaderElection.enable=false"], "additional properties 'enable' not allowed"),
    (&["--set", "leaderElection.enabled=no"], "got string, want boolean"),
    (&["--set", "admissionPolicy.limits.registry=a"], "additional properties 'registry' not allowed"),
    (&["--set", "admissionPolicy.limits.maxImages=-1"], "minimum: got -1, want 0"),
    (
        &["--set", "admissionPolicy.limits.registries={https://a.example.com}"],
        "admissionPolicy.limits.registries has \"https://a.example.com\", which is not a registry",
    ),
    (&["--set", "admissionPolicy.limits.verifyTLS=true,admissionPolicy.enabled=false"], "nothing would enforce them"),
    (
        &["--set", "admissionPolicy.limits.verifyTLS=true", "--kube-version", "1.29.0"],
        "they need Kubernetes 1.30 and admissionPolicy.enabled",
    ),
    (&["--set", "image.digest=sha256:abc"], "image.digest is \"sha256:abc\", which is not a digest"),
    (
        &["--set", "clusterOutputNamespaces={Team_A}"],
        "clusterOutputNamespaces has \"Team_A\", which is not the name of a namespace",
    ),
    (&["--set", "clusterOutputNamespaces={7}"], "got number, want string"),
    (&["--set", "watchNamespaces={*}"], "watchNamespaces has \"*\", which is not the name of a namespace"),
    (&["--set", "clusterOutputNamespaces={none,hub}"], "`none` stands alone"),
    (&["--set", "restricted=true,rbac.clusterWide=true"], "read Secrets in every namespace, which restricted refuses"),
    (&["--set", "restricted=true,rbac.aggregateToEdit=true"], "which restricted refuses"),
    (&["--set", "trustedCA.inject=true"], "trustedCA.configMap is empty"),
    (&["--set", "probePort=8080"], "metrics.port and probePort are both 8080"),
    (&["--set", "serviceMonitor.enabled=true,metrics.enabled=false"], "there is nothing to scrape"),
    (&["--set", "terminationGracePeriodSeconds=10"], "so 20 is the least"),
    (
        &["--set", "serviceMonitor.enabled=true,serviceMonitor.renderMode=failIfMissing"],
        "the cluster does not serve monitoring.coreos.com/v1/ServiceMonitor: install the Prometheus operator",
    ),
    (
        &["--kube-version", "1.28.0"],
        "chart requires kubeVersion: >=1.29.0-0 which is incompatible with Kubernetes v1.28.0",
    ),
];

#[test]
fn every_misuse_is_refused_with_a_sentence() {
    for (args, expected) in MISUSES {
        let output = template(NAME, args).expect("helm");
        assert!(!output.success(), "{args:?} is taken");
        assert!(output.stderr.contains(expected), "{args:?}: {}", output.stderr);
    }
    // What is refused above is not refused for another reason.
    template(NAME, &["--set", "leaderElection.enabled=false,replicaCount=1"]).expect("helm").ok().expect("one pod");
    let digest = format!("image.digest=sha256:{}", "0".repeat(64));
    template(NAME, &["--set", &digest, "--kube-version", "1.29.0"]).expect("helm").ok().expect("a digest");
}

#[test]
fn names_fit_however_long_the_release_is_called() {
    let release = "r".repeat(53);
    let text = template(&release, &[]).expect("helm").ok().expect("it renders");
    for object in objects(&text).expect("YAML") {
        let name = object["metadata"]["name"].as_str().expect("a name");
        assert!(name.len() <= 63 || text_is_role(&object), "{name}");
        for (key, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
            assert!(value.as_str().is_some_and(|value| value.len() <= 63), "{key}: {value}");
        }
    }
}

/// Names of roles, bindings and policies have no such limit.
fn text_is_role(object: &Value) -> bool {
    let kind = text(object, "/kind");
    kind.contains("Role") || kind.contains("Policy")
}

/// Every permission of a role, by the part of the role's name that does not depend on the release.
fn permissions(objects: &[Value]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for role in objects.iter().filter(|object| ["Role", "ClusterRole"].contains(&text(object, "/kind"))) {
        let (kind, name) = (text(role, "/kind"), text(role, "/metadata/name"));
        for rule in list(role, "/rules") {
            for group in list(rule, "/apiGroups") {
                for resource in list(rule, "/resources") {
                    for verb in list(rule, "/verbs") {
                        let [verb, resource, group] = [verb, resource, group].map(|value| text(value, ""));
                        found.insert(format!("{kind} {name}: {verb} {resource} \"{group}\" {}", rule["resourceNames"]));
                    }
                }
            }
        }
    }
    found
}

#[test]
fn the_chart_grants_what_the_manifests_grant() {
    let of_folder = |folder: &str| {
        let mut committed = Vec::new();
        for entry in fs::read_dir(repository().join(folder)).expect("a folder") {
            let text = fs::read_to_string(entry.expect("a file").path()).expect("a manifest");
            committed.extend(objects(&text).expect("YAML"));
        }
        permissions(&committed)
    };
    let committed = of_folder("config/rbac");
    assert!(committed.len() > 40, "{committed:#?}");
    assert_eq!(permissions(&rendered(&[])), committed);

    let all = "openshift=enabled,outputs.catalogSource=true,outputs.clusterCatalog=true,outputs.updateService=true";
    let more: BTreeSet<String> = permissions(&rendered(&["--set", all])).difference(&committed).cloned().collect();
    assert_eq!(more.len(), 16, "{more:#?}");
    assert_eq!(more, of_folder("config/openshift"));
    let off = "openshift=enabled,outputs.releaseSignatures=false";
    assert_eq!(permissions(&rendered(&["--set", off])), committed);

    let without = permissions(&rendered(&["--set", "outputs.imageTagMirrorSet=false"]));
    let gone: BTreeSet<&str> = committed.difference(&without).map(String::as_str).collect();
    let expected = ["create", "delete", "patch"]
        .map(|verb| format!("ClusterRole {NAME}-cluster: {verb} imagetagmirrorsets \"config.openshift.io\" null"));
    assert_eq!(gone, expected.iter().map(String::as_str).collect());
    assert!(without.is_subset(&committed));

    let named = permissions(&rendered(&["--set", "rbac.secretNames={one,two}"]));
    let secrets: Vec<&String> = named.iter().filter(|permission| permission.contains(" secrets ")).collect();
    assert_eq!(secrets, [&format!("ClusterRole {NAME}-watched: get secrets \"\" [\"one\",\"two\"]")]);
}

#[test]
fn the_operator_understands_the_arguments_of_every_value_set() {
    let binary = binary().expect("an operator");
    for (name, path) in value_sets().expect("value sets") {
        let objects = rendered(&["--values", &path.display().to_string()]);
        let test = only(&objects, "Pod");
        for pod in [&only(&objects, "Deployment")["spec"]["template"], test] {
            let args = list(pod, "/spec/containers/0/args").filter_map(Value::as_str);
            // There is no API server, and the ports may be taken: it gives up, but not because of its arguments.
            let mut command = Command::new(&binary);
            command.args(args).env_clear().env("KUBECONFIG", "/nonexistent").stdin(Stdio::null());
            let output = command.output().expect("it runs");
            assert_eq!(output.status.code(), Some(1), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let output = command.arg("--no-such-flag").output().expect("it runs");
            assert_eq!(output.status.code(), Some(2), "{name}");
        }
    }
}

/// What `helm test` runs is part of no Service, budget or replica set of the operator; the operator's policy lets it ask for
/// readiness, and its own lets it out.
#[test]
fn the_test_is_none_of_the_operators_pods_and_reaches_it() {
    let objects = rendered(&["--set", "networkPolicy.enabled=true,probePort=9091"]);
    let test = &only(&objects, "Pod")["metadata"]["labels"];
    let operator = &only(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"];
    let selects = |selector: &Value, labels: &Value| {
        selector.as_object().is_some_and(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value))
    };
    for (kind, pointer) in [
        ("Service", "/spec/selector"),
        ("Deployment", "/spec/selector/matchLabels"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
    ] {
        let selector = only(&objects, kind).pointer(pointer).expect("a selector");
        assert_eq!((selects(selector, operator), selects(selector, test)), (true, false), "{kind}");
    }
    let policies = of_kind(&objects, "NetworkPolicy");
    let policy = |labels: &Value| {
        let mut of = policies.iter().filter(|policy| selects(&policy["spec"]["podSelector"]["matchLabels"], labels));
        let found = of.next().expect("a policy");
        assert_eq!(of.next(), None, "one policy for a pod");
        &found["spec"]
    };
    let allows = |rules: &Value, side: &str, labels: &Value, port: &Value| {
        list(rules, "").any(|rule| {
            list(rule, &format!("/{side}")).any(|peer| selects(&peer["podSelector"]["matchLabels"], labels))
                && list(rule, "/ports").any(|open| open["port"] == *port)
        })
    };
    assert!(allows(&policy(operator)["ingress"], "from", test, &json!("probes")), "{policies:#?}");
    assert!(allows(&policy(test)["egress"], "to", operator, &json!(9091)), "{policies:#?}");
    // Nothing of it is an object of the release, or stays.
    for object in [only(&objects, "Pod"), policies.iter().find(|it| it["spec"] == *policy(test)).expect("its policy")] {
        let annotations = &object["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/hook"], "test");
        assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded,hook-failed");
    }
}

/// The pod that the Deployment makes: admission judges pods, not what makes them.
fn pod_of(objects: &[Value]) -> Value {
    let deployment = only(objects, "Deployment");
    let template = &deployment["spec"]["template"];
    let mut metadata = template["metadata"].clone();
    metadata["name"] = json!("by-hand");
    metadata["namespace"] = deployment["metadata"]["namespace"].clone();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_with_restricted_pods_takes_every_value_set() {
    let cluster = Cluster::start().await.expect("the cluster starts");
    let crds = tokio::task::spawn_blocking(tools::prometheus_crds).await.expect("a task").expect("the CRDs");
    for kind in ["servicemonitors", "prometheusrules"] {
        let file = crds.join(format!("monitoring.coreos.com_{kind}.yaml"));
        cluster.add_crd(&fs::read_to_string(file).expect("a CRD")).await.expect("it is served");
    }
    for namespace in [NAME, "hub", "team-a", "team-b", "openshift-mirror", "openshift-config-managed"] {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}});
        cluster.apply_all(&[object]).await.expect("a namespace");
    }
    for (name, path) in value_sets().expect("value sets") {
        let mut objects = rendered(&["--values", &path.display().to_string()]);
        let account = only(&objects, "ServiceAccount").clone();
        cluster.apply_all(&[account]).await.expect("pods name a ServiceAccount that exists");
        let pod = pod_of(&objects);
        objects.push(pod);
        let everything = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let args = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = cluster.kubectl_with_input(&args, &everything).await.expect("kubectl");
        let (complaints, code) = (output.stderr.clone(), output.code);
        assert_eq!((complaints.as_str(), code), ("", Some(0)), "{name}");
        assert_eq!(output.stdout.lines().count(), objects.len(), "{name}: {}", output.stdout);
    }
    // The judge does judge.
    let values = "--set=securityContext.allowPrivilegeEscalation=true";
    let pod = pod_of(&rendered(&[values])).to_string();
    let output = cluster.kubectl_with_input(&["apply", "--dry-run=server", "-f", "-"], &pod).await.expect("kubectl");
    assert!(output.stderr.contains("violates PodSecurity"), "{}", output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_installed_changed_rolled_back_removed_and_taken_up_again() {
    goes_through_its_life(Tool::Helm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_helm_4_is_installed_changed_rolled_back_removed_and_taken_up_again() {
    goes_through_its_life(Tool::Helm4).await;
}

async fn goes_through_its_life(tool: Tool) {
    let cluster = Cluster::start().await.expect("the cluster starts");
    let chart = folder().display().to_string();
    let run = |args: &[&str]| {
        let output = tokio::task::block_in_place(|| helm_of(tool, Some(&cluster), args));
        output.expect("helm").ok().expect("helm succeeds")
    };
    let release = ["--namespace", NAME];
    let install = [&["install", NAME, &chart, "--create-namespace"], release.as_slice()].concat();
    let notes = run(&install);
    assert!(notes.contains("rollout status deployment/imageset-mirror"), "{notes}");
    assert!(!notes.contains("WARNING"), "{notes}");

    let object = json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
        "metadata": {"name": "kept", "namespace": NAME},
        "spec": {
            "mirror": {"additionalImages": [{"name": "quay.io/team/app:v1"}]},
            "target": {"registry": "registry.example.com"},
        },
    });
    let cluster = &cluster;
    let object = &object;
    eventually(SHORT, "the kind to be served", || async move {
        cluster.apply_all(std::slice::from_ref(object)).await?;
        Ok(Some(()))
    })
    .await
    .expect("an object");

    let replicas = || async {
        let path = "-o=jsonpath={.spec.replicas}";
        let args = ["get", "deployment", NAME, "--namespace", NAME, path];
        cluster.kubectl(&args).await.expect("kubectl").ok().expect("a Deployment")
    };
    assert_eq!(replicas().await, "2");
    let wide = "--set=replicaCount=1,rbac.clusterWide=true";
    let notes = run(&[&["upgrade", NAME, &chart, wide], release.as_slice()].concat());
    assert!(notes.contains("WARNING: rbac.clusterWide") && notes.contains("WARNING: there is one replica"), "{notes}");
    assert_eq!(replicas().await, "1");
    run(&[&["rollback", NAME, "1"], release.as_slice()].concat());
    assert_eq!(replicas().await, "2");

    run(&[&["uninstall", NAME], release.as_slice()].concat());
    let roles = cluster.kubectl(&["get", "clusterroles", "-o", "name"]).await.expect("kubectl").ok().expect("roles");
    assert!(!roles.contains(NAME), "{roles}");
    let kept = ["get", "imagesetmirrors", "kept", "--namespace", NAME, "-o=jsonpath={.metadata.uid}"];
    let uid = cluster.kubectl(&kept).await.expect("kubectl").ok().expect("the object is kept with its CRD");
    run(&install);
    let after = cluster.kubectl(&kept).await.expect("kubectl").ok().expect("the object");
    assert_eq!(after, uid);
}

/// There is no node here: the scenario says how the pod has ended, and helm does the rest.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_helm_test_stays_however_it_ends() {
    let cluster = Cluster::start().await.expect("the cluster starts");
    let chart = folder().display().to_string();
    let install =
        ["install", NAME, &chart, "--namespace", NAME, "--create-namespace", "--set=networkPolicy.enabled=true"];
    tokio::task::block_in_place(|| helm(Some(&cluster), &install)).expect("helm").ok().expect("a release");
    let cluster = &cluster;
    let list = async || {
        let selector = "--selector=app.kubernetes.io/component=test";
        let args = ["get", "pods,networkpolicies", selector, "--namespace", NAME, "-o", "name"];
        cluster.kubectl(&args).await.expect("kubectl").ok().expect("a list")
    };
    let pod = format!("pod/{NAME}-test");
    for tool in [Tool::Helm, Tool::Helm4] {
        for (phase, passes) in [("Succeeded", true), ("Failed", false)] {
            let status = format!(r#"--patch={{"status":{{"phase":"{phase}"}}}}"#);
            let patch = ["patch", &pod, "--subresource=status", "--type=merge", &status, "--namespace", NAME];
            let patch = &patch;
            let ended = async {
                let what = "the pod of the test";
                eventually(SHORT, what, || async move { Ok(Some(cluster.kubectl(patch).await?.ok()?)) })
                    .await
                    .expect(what);
            };
            let runtime = tokio::runtime::Handle::current();
            let output = tokio::task::block_in_place(|| {
                std::thread::scope(|scope| {
                    let test = scope.spawn(|| helm_of(tool, Some(cluster), &["test", NAME, "--namespace", NAME]));
                    runtime.block_on(ended);
                    test.join().expect("a thread")
                })
            });
            let output = output.expect("helm");
            assert_eq!(output.success(), passes, "{output:?}");
            assert_eq!(list().await, "", "{tool:?}, {phase}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_through_the_operator_what_is_denied_to_them() {
    let cluster = Cluster::start().await.expect("the cluster starts");
    let mut objects = rendered(&[]);
    objects.retain(|object| !["Pod", "Deployment"].contains(&text(object, "/kind")));
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}});
    objects.insert(0, namespace);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "tenant", "namespace": NAME},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("{NAME}-editor"),
        },
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": NAME}],
    });
    objects.push(binding);
    cluster.apply_all(&objects).await.expect("the release");
    let config = cluster.service_account_kubeconfig(NAME, "default").await.expect("a token").display().to_string();
    let mirror = |name: &str, idms: &str, itms: &str| {
        json!({
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
            "metadata": {"name": name, "namespace": NAME},
            "spec": {
                "mirror": {"additionalImages": [{"name": "quay.io/team/app:v1"}]},
                "target": {"registry": "registry.example.com"},
                "clusterResources": {"imageDigestMirrorSet": {"policy": idms}, "imageTagMirrorSet": {"policy": itms}},
            },
        })
        .to_string()
    };
    let of_releases = |signatures: &str, service: &str| {
        json!({
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
            "metadata": {"name": "releases", "namespace": NAME},
            "spec": {
                "mirror": {"platform": {"graph": true, "channels": [{"name": "stable-4.18"}]}},
                "target": {"registry": "registry.example.com"},
                "clusterResources": {
                    "imageDigestMirrorSet": {"policy": "Publish"},
                    "releaseSignatures": {"policy": signatures}, "updateService": {"policy": service},
                },
            },
        })
        .to_string()
    };
    let apply = ["--kubeconfig", &config, "apply", "--server-side", "-f", "-"];
    let (cluster, apply) = (&cluster, &apply);
    let refused = |object: String, expected: &'static str| {
        // A policy counts some time after it was made.
        async move {
            let object = &object;
            eventually(SHORT, expected, || async move {
                let args = [apply.as_slice(), &["--dry-run=server"]].concat();
                let output = cluster.kubectl_with_input(&args, object).await?;
                anyhow::ensure!(!output.success() && output.stderr.contains(expected), "{output:?}");
                Ok(Some(()))
            })
            .await
            .expect("it is refused");
        }
    };
    refused(mirror("refused", "Apply", "Publish"), "You may not create ImageDigestMirrorSets yourself").await;
    refused(mirror("refused", "Publish", "Apply"), "You may not create ImageTagMirrorSets yourself").await;
    refused(of_releases("Apply", "Publish"), "You may not create ConfigMaps in openshift-config-managed yourself")
        .await;
    refused(of_releases("Publish", "Apply"), "You may not create UpdateServices there yourself").await;
    for free in [mirror("own", "Publish", "Publish"), of_releases("Publish", "Publish")] {
        let output = cluster.kubectl_with_input(apply, &free).await.expect("kubectl");
        output.ok().expect("publishing is free");
    }

    // What an administrator has made, the tenant may annotate, but not change.
    cluster.apply(&mirror("given", "Apply", "Publish")).await.expect("the administrator may");
    let annotate = ["annotate", "imagesetmirror/given", "mirror.openshift.io/requested-at=1", "--namespace", NAME];
    let args = [&["--kubeconfig", config.as_str()], annotate.as_slice()].concat();
    cluster.kubectl(&args).await.expect("kubectl").ok().expect("metadata is free");
    let patch = r#"--patch={"spec":{"suspend":true}}"#;
    let change = ["--kubeconfig", &config, "patch", "imagesetmirror/given", "--type=merge", patch, "--namespace", NAME];
    let output = cluster.kubectl(&change).await.expect("kubectl");
    assert!(!output.success(), "{output:?}");
    assert!(output.stderr.contains("You may not create ImageDigestMirrorSets yourself"), "{}", output.stderr);
}

/// Runs promtool beside the tests of the alerts.
fn promtool(args: &[&str]) {
    let mut command = Command::new(tools::ensure(Tool::Promtool).expect("promtool"));
    command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/alerts"));
    let output = command.output().expect("promtool runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {args:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn alerts_fire_when_they_should() {
    let alerts = folder().join("files/alerts.yaml").display().to_string();
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", &alerts]);
    promtool(&["test", "rules", "alerts.yaml"]);
}

#[test]
fn every_query_of_the_dashboard_is_understood() {
    let text = fs::read_to_string(folder().join("files/dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let queries = list(&dashboard, "/panels").flat_map(|panel| list(panel, "/targets"));
    let rules: Vec<Value> = queries
        .enumerate()
        .map(|(number, target)| {
            let query = text_of_query(target);
            json!({"record": format!("query:{number}"), "expr": query})
        })
        .collect();
    assert!(rules.len() > 12, "{rules:#?}");
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
    fs::write(&file, json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).expect("rules");
    promtool(&["check", "rules", "--lint-fatal", &file.path().display().to_string()]);
}

/// A query as Grafana sends it.
fn text_of_query(target: &Value) -> String {
    text(target, "/expr").replace("$__rate_interval", "5m").replace("$namespace", ".*")
}

#[test]
fn every_alert_is_tested_and_has_a_runbook_that_is_there() {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rules: Value = serde_yaml::from_str(&read(&folder().join("files/alerts.yaml"))).expect("rules");
    let tests = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/alerts/alerts.yaml"));
    let readme = read(&folder().join("README.md"));
    let alerts: Vec<&Value> = list(&rules, "/groups").flat_map(|group| list(group, "/rules")).collect();
    assert_eq!(alerts.len(), 6);
    for alert in alerts {
        let name = text(alert, "/alert");
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} is not tested");
        assert!(readme.contains(&format!("\n### {name}\n")), "{name} has no runbook");
        assert!(text(alert, "/annotations/runbook_url").ends_with(&format!("#{}", name.to_lowercase())), "{name}");
        assert!(["warning", "critical"].contains(&text(alert, "/labels/severity")), "{name}");
        assert!(!text(alert, "/annotations/summary").is_empty() && !text(alert, "/annotations/description").is_empty());
    }
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let documented = ["mod.rs", "registry.rs"]
        .map(|file| fs::read_to_string(repository().join("src/metrics").join(file)).expect("the metrics"))
        .concat();
    let sources = ["files/alerts.yaml", "files/dashboard.json"]
        .map(|file| fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}")));
    serde_json::from_str::<Value>(&sources[1]).expect("the dashboard is JSON");
    let mut names = BTreeSet::new();
    for source in &sources {
        for part in source.split("imagesetmirror_").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let name = ["_total", "_seconds_bucket", "_seconds"]
                .iter()
                .fold(name, |name, suffix| name.strip_suffix(suffix).map_or(name.clone(), ToOwned::to_owned));
            names.insert(name);
        }
    }
    assert!(names.len() > 12, "{names:?}");
    for name in names {
        assert!(documented.contains(&format!("\"{name}\"")), "no metric imagesetmirror_{name}");
    }
}
