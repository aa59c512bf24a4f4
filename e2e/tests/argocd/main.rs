//! The real Argo CD with our settings: what it shows, what it waits for, and what it leaves alone.
//!
//! `make e2e-argocd` runs it. It needs `redis-server` and git, and builds Argo CD the first time.
#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use e2e::argocd::{ArgoCd, CASCADE, Git, NAMESPACE, offline, resources, settings, state, writes_since};
use e2e::chart::{self, NAME};
use e2e::image::ImageSpec;
use e2e::interruption::{big, patch, proxy_before_source};
use e2e::mirror_sets::{Kind, owned};
use e2e::node::Node;
use e2e::operator::{Operator, Overrides, rendered_deployment, repository};
use e2e::readme::Script;
use e2e::registry::Options;
use e2e::tools::say;
use e2e::wait::{LONG, condition, eventually, has_condition, image_set_mirrors, until, until_gone, until_ready};
use e2e::world::{Setup, World};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use kube::core::ApiResource;
use serde_json::{Value, json};

/// Part of an image that has come in when the copy is held.
const PART: u64 = 1_500_000;
/// The Application of `config/argocd/apps/mirrors.yaml`.
const MIRRORS: &str = "mirrors";
const HEALTHY: (&str, &str) = ("Synced", "Healthy");
/// What the operator writes for an object.
const OUTPUTS: [&str; 3] = ["imagedigestmirrorsets", "imagetagmirrorsets", "configmaps"];

/// A file of `config/argocd`, with the repositories that it names replaced by ours.
fn example(file: &str, mirrors: &Git) -> Value {
    let text = fs::read_to_string(settings::folder().join(file)).expect("an example");
    let text = text.replace("https://git.example.com/platform/mirrors.git", &mirrors.url());
    assert!(text.contains(&mirrors.url()) || file.ends_with("operator.yaml"), "{file} names no repository of mirrors");
    serde_yaml::from_str(&text).expect("YAML")
}

/// A world with an Argo CD, a repository of mirrors and the Application for it, as shipped but for the repository.
struct Scene {
    argocd: ArgoCd,
    git: Git,
    _operator: Operator,
    world: World,
}

impl Scene {
    async fn start(world: World, settings: &[&str]) -> Self {
        let operator = world.operator_with(&Overrides::default()).await.expect("the operator starts");
        let argocd = ArgoCd::start(&world.cluster, settings).await.expect("Argo CD starts");
        let git = Git::create(world.cluster.run(), MIRRORS).expect("a repository");
        Self { argocd, git, _operator: operator, world }
    }

    /// Applies project and Application of the examples, with `change` on the latter.
    async fn follow(&self, change: impl Fn(&mut Value)) {
        let mut application = example("apps/mirrors.yaml", &self.git);
        change(&mut application);
        let objects = [example("apps/project.yaml", &self.git), application];
        self.world.cluster.apply_all(&objects).await.expect("Argo CD's API takes them");
    }

    /// Commits objects, a file each; an object that is null is removed.
    fn commit(&self, objects: &[(&str, &Value)]) -> String {
        let file = |name: &str| format!("mirrors/{name}.yaml");
        let names: Vec<String> = objects.iter().map(|(name, _)| file(name)).collect();
        let texts = objects.iter().map(|(_, object)| (!object.is_null()).then(|| object.to_string()));
        let files: Vec<(&str, Option<String>)> = names.iter().map(String::as_str).zip(texts).collect();
        self.git.push(&files).expect("a commit")
    }

    async fn mirrors(&self) -> Api<DynamicObject> {
        self.world.mirrors(self.world.namespace()).await.expect("a client")
    }

    /// What the operator has written for an object, with its resource versions.
    async fn outputs(&self, name: &str) -> BTreeMap<String, Option<String>> {
        let mut found = BTreeMap::new();
        for kind in [Kind::Digest, Kind::Tag] {
            for set in owned(&self.world.cluster, kind, self.world.namespace(), name).await.expect("a list") {
                found.insert(format!("{}/{}", kind.name(), set.name_any()), set.metadata.resource_version);
            }
        }
        let client = self.world.cluster.client().await.expect("a client");
        let maps: Api<ConfigMap> = Api::namespaced(client, self.world.namespace());
        for map in maps.list(&ListParams::default()).await.expect("a list") {
            if map.name_any().starts_with(&format!("{name}-")) {
                found.insert(format!("ConfigMap/{}", map.name_any()), map.metadata.resource_version);
            }
        }
        found
    }

    async fn push(&self, repository: &str, seed: u64) -> String {
        let source = self.world.source().expect("a client");
        source.push_image(repository, "v1", ImageSpec::seeded(seed)).await.expect("an image").digest
    }

    /// A sync with pruning, which has to succeed.
    async fn sync_with_pruning(&self) {
        let synced = self.argocd.sync(MIRRORS, true).await.expect("Argo CD syncs");
        let operation = &synced.data["status"]["operationState"];
        assert_eq!(operation["phase"], "Succeeded", "{operation}");
    }

    fn image_set_mirror(&self, name: &str, images: &[&str]) -> Value {
        let mut object = self.world.image_set_mirror(self.world.namespace(), name, images);
        object["spec"]["target"]["pathPrefix"] = json!(name);
        object["spec"]["interval"] = json!("6h");
        object
    }
}

/// The example with automated pruning, which it does not have.
fn pruning(application: &mut Value) {
    application["spec"]["syncPolicy"]["automated"]["prune"] = json!(true);
}

fn health_of(application: &DynamicObject, object: &str) -> Option<String> {
    resources(application).into_iter().find(|(name, _, _)| name == object).map(|(_, _, health)| health)
}

#[tokio::test]
#[ignore = "needs Argo CD and redis-server: make e2e-argocd"]
async fn healthy_means_ready_and_what_the_operator_writes_is_no_drift() {
    let mut world = World::start().await.expect("the world starts");
    let proxy = proxy_before_source(&mut world).await.expect("a proxy");
    world.source().expect("a client").push_image("big", "v1", big(1)).await.expect("an image");
    let scene = Scene::start(world, &["argocd-cm.yaml"]).await;
    let digest = scene.world.source().expect("a client").digest("big", "v1").await.expect("an answer").expect("a tag");
    let mut object = scene.image_set_mirror("set", &[&format!("big@{digest}")]);
    object["spec"]["copy"] = json!({"concurrency": 1});
    let commit = scene.commit(&[("set", &object)]);
    proxy.hold_after(PART);
    scene.follow(|_| ()).await;
    proxy.until_held(LONG).await.expect("the copy is caught");
    scene.argocd.until(MIRRORS, &commit, ("Synced", "Progressing")).await.expect("it waits for the copy");
    // The operator has spoken, and Argo CD has looked again after that.
    let mirrors = scene.mirrors().await;
    until(&mirrors, "set", LONG, "copying", |object| has_condition(object, "Reconciling", "True"))
        .await
        .expect("a word");
    let waiting = scene.argocd.refresh(MIRRORS).await.expect("refreshed");
    assert_eq!(state(&waiting), ("Synced".to_owned(), "Progressing".to_owned()));
    assert_eq!(health_of(&waiting, "ImageSetMirror/set").as_deref(), Some("Progressing"));

    proxy.release();
    let healthy = scene.argocd.until(MIRRORS, &commit, HEALTHY).await.expect("it becomes healthy");
    let ready = mirrors.get("set").await.expect("the object");
    assert!(has_condition(&ready, "Ready", "True"), "healthy, and yet {:?}", condition(&ready, "Ready"));
    assert_eq!(health_of(&healthy, "ImageSetMirror/set").as_deref(), Some("Healthy"));

    // Three syncs of Argo CD, each after one of the operator.
    until_ready(&mirrors, "set", LONG).await.expect("Ready");
    let outputs = scene.outputs("set").await;
    assert!(outputs.keys().any(|name| name.starts_with("ImageDigestMirrorSet/")), "{outputs:?}");
    assert!(outputs.contains_key("ConfigMap/set-manifests"), "{outputs:?}");
    let mark = scene.world.cluster.audit_mark().expect("a mark");
    for round in 1..=3 {
        let asked = format!("round {round}");
        let annotations = json!({"mirror.openshift.io/requested-at": asked});
        patch(&mirrors, "set", &json!({"metadata": {"annotations": annotations}})).await.expect("accepted");
        until(&mirrors, "set", LONG, "synced again", |object| {
            object.data.pointer("/status/lastHandledRequest") == Some(&json!(asked))
                && has_condition(object, "Ready", "True")
        })
        .await
        .expect("the operator syncs");
        scene.sync_with_pruning().await;
        let refreshed = scene.argocd.refresh(MIRRORS).await.expect("refreshed");
        assert_eq!(state(&refreshed), ("Synced".to_owned(), "Healthy".to_owned()), "round {round}");
        let listed = resources(&refreshed);
        assert_eq!(listed.len(), 1, "nothing but the object is of this Application: {listed:?}");
    }
    let report = "ConfigMap/set-report-0";
    let mut after = scene.outputs("set").await;
    let mut before = outputs;
    // What the operator itself may have written anew.
    before.remove(report);
    after.remove(report);
    assert_eq!(after, before, "outputs were touched");
    let writes = writes_since(&scene.world.cluster, mark, &OUTPUTS).expect("the log");
    assert!(writes.is_empty(), "{writes:#?}");
}

#[tokio::test]
#[ignore = "needs Argo CD and redis-server: make e2e-argocd"]
async fn suspended_by_hand_is_no_drift_and_stalled_is_degraded() {
    let world = World::start().await.expect("the world starts");
    let scene = Scene::start(world, &["argocd-cm.yaml"]).await;
    let digest = scene.push("app", 1).await;
    let mut object = scene.image_set_mirror("set", &[&format!("app@{digest}")]);
    let commit = scene.commit(&[("set", &object)]);
    scene.follow(|_| ()).await;
    scene.argocd.until(MIRRORS, &commit, HEALTHY).await.expect("Ready");
    let mirrors = scene.mirrors().await;
    patch(&mirrors, "set", &json!({"spec": {"suspend": true}})).await.expect("accepted");
    scene.argocd.until(MIRRORS, &commit, ("Synced", "Suspended")).await.expect("seen");
    let refreshed = scene.argocd.refresh(MIRRORS).await.expect("refreshed");
    assert_eq!(state(&refreshed), ("Synced".to_owned(), "Suspended".to_owned()));
    let suspended = mirrors.get("set").await.expect("the object");
    assert_eq!(suspended.data["spec"]["suspend"], true, "self-heal leaves alone what is not in Git");
    patch(&mirrors, "set", &json!({"spec": {"suspend": null}})).await.expect("accepted");
    scene.argocd.until(MIRRORS, &commit, HEALTHY).await.expect("resumed");

    let images = object["spec"]["mirror"]["additionalImages"].clone();
    let other = scene.push("other", 2).await;
    let place = |name: &str, digest: &str| {
        let name = format!("{}/{name}@{digest}", scene.world.source_host);
        json!({"name": name, "targetRepo": "same", "targetTag": "v1"})
    };
    object["spec"]["mirror"]["additionalImages"] = json!([place("app", &digest), place("other", &other)]);
    let contradiction = scene.commit(&[("set", &object)]);
    scene.argocd.refresh(MIRRORS).await.expect("refreshed");
    scene.argocd.until(MIRRORS, &contradiction, ("Synced", "Degraded")).await.expect("nobody tries that again");
    let stalled = mirrors.get("set").await.expect("the object");
    assert!(has_condition(&stalled, "Stalled", "True"), "{:?}", stalled.data["status"]);
    object["spec"]["mirror"]["additionalImages"] = images;
    let repaired = scene.commit(&[("set", &object)]);
    scene.argocd.refresh(MIRRORS).await.expect("refreshed");
    scene.argocd.until(MIRRORS, &repaired, HEALTHY).await.expect("Ready again");
}

#[tokio::test]
#[ignore = "needs Argo CD and redis-server: make e2e-argocd"]
async fn a_commit_that_is_refused_does_not_keep_the_next_one_waiting_for_ever() {
    let world = World::start().await.expect("the world starts");
    let scene = Scene::start(world, &["argocd-cm.yaml"]).await;
    let digest = scene.push("app", 1).await;
    let mut object = scene.image_set_mirror("set", &[&format!("app@{digest}")]);
    object["spec"]["mirror"]["blockedImages"] = json!([{"name": "("}]);
    scene.commit(&[("set", &object)]);
    scene.follow(|_| ()).await;
    until(scene.argocd.applications(), MIRRORS, LONG, "refused", |application| {
        application.data["status"]["operationState"].to_string().contains("not a regular expression")
    })
    .await
    .expect("the API server's words are shown");
    object["spec"]["mirror"]["blockedImages"] = json!([{"name": "(a|b)"}]);
    let repaired = scene.commit(&[("set", &object)]);
    eventually(LONG, "Argo CD to give the refused commit up", || async {
        let application = scene.argocd.refresh(MIRRORS).await?;
        Ok((state(&application) == ("Synced".to_owned(), "Healthy".to_owned())).then_some(()))
    })
    .await
    .expect("it takes the next one");
    scene.argocd.until(MIRRORS, &repaired, HEALTHY).await.expect("Ready");
}

#[tokio::test]
#[ignore = "needs Argo CD and redis-server: make e2e-argocd"]
async fn prune_and_self_heal_touch_nothing_that_the_operator_wrote() {
    let world = World::start().await.expect("the world starts");
    let scene = Scene::start(world, &["argocd-cm.yaml"]).await;
    let (first, second) = (scene.push("first", 1).await, scene.push("second", 2).await);
    // With every mark by which Argo CD and Flux know their own: none of them may arrive on an output.
    let mut marked = scene.image_set_mirror("first", &[&format!("first@{first}")]);
    marked["metadata"]["labels"] = json!({
        "app.kubernetes.io/instance": MIRRORS, "kustomize.toolkit.fluxcd.io/name": MIRRORS, "team": "platform",
    });
    let tag = json!({"name": format!("{}/first:v1", scene.world.source_host)});
    marked["spec"]["mirror"]["additionalImages"].as_array_mut().expect("a list").push(tag);
    marked["spec"]["clusterResources"] = json!({"imageTagMirrorSet": {"policy": "Apply"}, "disruption": "AllowDrain"});
    let mut other = scene.image_set_mirror("second", &[&format!("second@{second}")]);
    // Beside a rule for tags of the same source a further rule drains nodes.
    other["spec"]["clusterResources"] = json!({"disruption": "AllowDrain"});
    let commit = scene.commit(&[("first", &marked), ("second", &other)]);
    scene.follow(pruning).await;
    scene.argocd.until(MIRRORS, &commit, HEALTHY).await.expect("both are Ready");
    let cluster = &scene.world.cluster;
    let mut written = Vec::new();
    for kind in [Kind::Digest, Kind::Tag] {
        written.extend(owned(cluster, kind, scene.world.namespace(), "first").await.expect("a list"));
    }
    assert_eq!(written.len(), 2, "{written:?}");
    let client = cluster.client().await.expect("a client");
    let maps: Api<DynamicObject> =
        Api::namespaced_with(client, scene.world.namespace(), &ApiResource::erase::<ConfigMap>(&()));
    written.extend(maps.list(&ListParams::default()).await.expect("a list"));
    written.retain(|output| output.name_any().contains("first-"));
    assert!(written.len() > 3, "mirror sets, manifests and report: {written:?}");
    let given = marks(&scene.mirrors().await.get("first").await.expect("the object"));
    assert_eq!(given.len(), 4, "the object has them: {given:?}");
    for output in &written {
        assert_eq!(marks(output), Vec::<String>::new(), "{} has marks of its object", output.name_any());
    }

    // What somebody changes by hand in the object is put back; that is no reason to touch what was written for it.
    let mirrors = scene.mirrors().await;
    let outputs = scene.outputs("first").await;
    let mark = cluster.audit_mark().expect("a mark");
    patch(&mirrors, "first", &json!({"spec": {"interval": "12h"}})).await.expect("accepted");
    until(&mirrors, "first", LONG, "as it is in Git", |object| {
        object.data.pointer("/spec/interval") == Some(&json!("6h")) && object.metadata.generation >= Some(3)
    })
    .await
    .expect("self-heal");
    until_ready(&mirrors, "first", LONG).await.expect("Ready");
    scene.argocd.until(MIRRORS, &commit, HEALTHY).await.expect("healthy again");
    let without_report = |mut outputs: BTreeMap<String, Option<String>>| {
        outputs.retain(|name, _| !name.starts_with("ConfigMap/first-report"));
        outputs
    };
    assert_eq!(without_report(scene.outputs("first").await), without_report(outputs));

    // Pruning works on an object that has left Git …
    let namespace = scene.world.namespace();
    let written = owned(cluster, Kind::Digest, namespace, "second").await.expect("a list");
    assert_eq!(written.len(), 1);
    scene.commit(&[("second", &Value::Null)]);
    scene.argocd.refresh(MIRRORS).await.expect("refreshed");
    until_gone(&mirrors, "second", LONG).await.expect("pruned");
    // … but not on what was written for it.
    let left = owned(cluster, Kind::Digest, namespace, "second").await.expect("a list");
    let uids = |sets: &[DynamicObject]| sets.iter().map(ResourceExt::uid).collect::<Vec<_>>();
    assert_eq!(uids(&left), uids(&written));
    let writes = writes_since(cluster, mark, &OUTPUTS).expect("the log");
    assert!(writes.is_empty(), "{writes:#?}");
}

#[tokio::test]
#[ignore = "needs Argo CD and redis-server: make e2e-argocd"]
async fn a_mirror_set_that_carries_a_mark_is_saved_by_the_exclusions_or_by_the_project() {
    let world = World::start().await.expect("the world starts");
    let mut marked = Kind::Digest.foreign("marked", "a.example.com", "mirror.example.com", "AllowContactingSource");
    let id = format!("{MIRRORS}:config.openshift.io/ImageDigestMirrorSet:{}/marked", world.namespace());
    marked["metadata"]["annotations"] = json!({"argocd.argoproj.io/tracking-id": id});
    // Before each Argo CD starts: one that has just seen the whole cluster has seen it, if it looks at the kind at all.
    world.apply(&marked).await.expect("accepted");
    let mut scene = Scene::start(world, &["argocd-cm.yaml", "argocd-cm-exclusions.yaml"]).await;
    let sets = Kind::Digest.api(&scene.world.cluster).await.expect("a client");
    let is_there = async || sets.get_opt("marked").await.expect("an answer").is_some();
    let digest = scene.push("app", 1).await;
    let commit = scene.commit(&[("set", &scene.image_set_mirror("set", &[&format!("app@{digest}")]))]);
    scene.follow(|application| application["spec"]["project"] = json!("default")).await;
    scene.argocd.until(MIRRORS, &commit, HEALTHY).await.expect("Ready");
    scene.sync_with_pruning().await;
    assert!(is_there().await, "the exclusions hide it");

    let without = json!({"data": {"resource.exclusions": null}}).to_string();
    let change = ["patch", "configmap", "argocd-cm", "-n", NAMESPACE, "--type=merge", "-p", &without];
    scene.world.cluster.kubectl(&change).await.expect("kubectl").ok().expect("no exclusions");
    scene.argocd.patch(MIRRORS, &json!({"spec": {"project": MIRRORS}})).await.expect("accepted");
    scene.argocd.restart(&scene.world.cluster).await.expect("Argo CD starts again");
    // An Application that it reads before the projects is invalid for it until it looks again.
    scene.argocd.refresh(MIRRORS).await.expect("refreshed");
    scene.sync_with_pruning().await;
    assert!(is_there().await, "the project does not let the Application have it");

    scene.argocd.patch(MIRRORS, &json!({"spec": {"project": "default"}})).await.expect("accepted");
    scene.argocd.refresh(MIRRORS).await.expect("refreshed");
    scene.sync_with_pruning().await;
    assert!(!is_there().await, "the mark is one that Argo CD goes by");
    let ours = owned(&scene.world.cluster, Kind::Digest, scene.world.namespace(), "set").await.expect("a list");
    assert_eq!(ours.len(), 1, "which is why ours carry none");
}

#[tokio::test]
#[ignore = "needs Argo CD and redis-server: make e2e-argocd"]
async fn deleting_the_application_takes_of_an_object_what_its_removal_says() {
    let world = World::start().await.expect("the world starts");
    let scene = Scene::start(world, &["argocd-cm.yaml"]).await;
    let (kept, removed) = (scene.push("kept", 1).await, scene.push("removed", 2).await);
    let kept = scene.image_set_mirror("kept", &[&format!("kept@{kept}")]);
    let mut removed = scene.image_set_mirror("removed", &[&format!("removed@{removed}")]);
    removed["spec"]["clusterResources"] = json!({"removal": "Remove", "disruption": "AllowDrain"});
    let commit = scene.commit(&[("kept", &kept), ("removed", &removed)]);
    scene.follow(|_| ()).await;
    scene.argocd.until(MIRRORS, &commit, HEALTHY).await.expect("both are Ready");
    let (cluster, namespace) = (&scene.world.cluster, scene.world.namespace());
    let uids = async |name: &str| -> Vec<Option<String>> {
        let sets = owned(cluster, Kind::Digest, namespace, name).await.expect("a list");
        sets.iter().map(ResourceExt::uid).collect()
    };
    let written = uids("kept").await;
    assert_eq!((written.len(), uids("removed").await.len()), (1, 1));
    let mark = cluster.audit_mark().expect("a mark");

    // As shipped the Application takes nothing along.
    let (applications, mirrors) = (scene.argocd.applications(), scene.mirrors().await);
    applications.delete(MIRRORS, &DeleteParams::default()).await.expect("deleted");
    until_gone(applications, MIRRORS, LONG).await.expect("gone");
    for name in ["kept", "removed"] {
        let object = mirrors.get(name).await.expect("the object");
        assert!(object.metadata.deletion_timestamp.is_none() && has_condition(&object, "Ready", "True"));
    }

    scene.follow(|application| application["metadata"]["finalizers"] = json!([CASCADE])).await;
    scene.argocd.until(MIRRORS, &commit, HEALTHY).await.expect("it takes them back");
    applications.delete(MIRRORS, &DeleteParams::default()).await.expect("deleted");
    until_gone(applications, MIRRORS, LONG).await.expect("gone");
    for name in ["kept", "removed"] {
        until_gone(&mirrors, name, LONG).await.expect("gone");
    }
    assert_eq!(uids("kept").await, written, "mirror sets stay, and they are the same");
    assert_eq!(uids("removed").await, Vec::<Option<String>>::new(), "the object says that they go");
    let writes = writes_since(cluster, mark, &OUTPUTS).expect("the log");
    assert!(writes.is_empty(), "the operator removed them: {writes:#?}");
}

#[tokio::test]
#[ignore = "needs Argo CD and redis-server: make e2e-argocd"]
async fn the_commands_of_the_readme_bring_chart_project_and_mirrors() {
    let pods = Node::available();
    if let Err(reason) = &pods {
        say(&format!(
            "SKIPPED: argocd: an Application with the chart that is Healthy, since {reason}; the operator is a process"
        ));
    }
    let (source, target) = (Options::distribution("source"), Options::distribution("target"));
    let setup = Setup { node: pods.is_ok(), source, target, ..Setup::default() };
    let (cluster, source, target) = setup.start().await.expect("cluster and registries start");
    let argocd = ArgoCd::start(&cluster, &[]).await.expect("Argo CD starts");
    let manifest = source.remote().expect("a client").push_image("app", "v1", ImageSpec::seeded(1)).await;
    let digest = manifest.expect("an image").digest;
    let (mut source_host, mut registry) = (source.host(), target.host());
    if let Some(node) = cluster.node() {
        source_host = node.publish(source.port()).await.expect("pods reach it");
        registry = node.publish(target.port()).await.expect("pods reach it");
        node.push_operator(&format!("{registry}/ops/imageset-mirror:0.1.0")).await.expect("the operator's image");
    }

    // A clone of this repository, whose address is another one, and whose sample names images that can be had here.
    let chart = Git::create(cluster.run(), "operator").expect("a repository");
    copy(&chart::folder(), &chart.tree().join("charts").join(NAME));
    copy(&repository().join("config"), &chart.tree().join("config"));
    let application = chart.tree().join("config/argocd/apps/operator.yaml");
    let text = fs::read_to_string(&application).expect("the Application of the chart");
    let address = "https://github.com/imageset-mirror/imageset-mirror.git";
    assert_eq!(text.matches(address).count(), 1);
    fs::write(application, text.replace(address, &chart.url())).expect("written");
    let object = json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
        "metadata": {"name": "set", "namespace": NAME},
        "spec": {
            "mirror": {"additionalImages": [{"name": format!("{source_host}/app@{digest}")}]},
            "source": {"hosts": [{"host": source_host, "tls": "Plain"}]},
            "target": {"registry": "registry.example.com:5000", "tls": "Plain"},
        },
    });
    let chart_commit =
        chart.push(&[("config/samples/additional-images.yaml", Some(object.to_string()))]).expect("a commit");
    chart.tag("v0.1.0").expect("a tag");
    let git = Git::create(cluster.run(), MIRRORS).expect("a repository");
    cluster.run().write(".gitconfig", "[user]\nname = e2e\nemail = e2e@example.com\n").expect("an identity");
    Script::below("### With Argo CD")
        .and_then(|script| {
            script.with("MIRRORS=https://git.example.com/platform/mirrors.git", &format!("MIRRORS={}", git.url()))
        })
        .and_then(|script| script.with("REGISTRY=registry.example.com:5000", &format!("REGISTRY={registry}")))
        .expect("the commands")
        .run(&cluster, chart.tree())
        .await
        .expect("a shell")
        .ok()
        .expect("every command succeeds");
    let commit = git.pull().expect("the commands have pushed");

    argocd.until("root", &commit, HEALTHY).await.expect("it has brought the others");
    // Without pods the Deployment is never available, and somebody else has to start what it says.
    let operator_app = if cluster.node().is_some() { HEALTHY } else { ("Synced", "Progressing") };
    argocd.until(NAME, &chart_commit, operator_app).await.expect("the chart is there");
    let mut operator = None;
    if cluster.node().is_none() {
        let deployment = rendered_deployment(&cluster).await.expect("the Deployment");
        let started = Operator::start(&cluster, &deployment, &Overrides::default()).await.expect("it starts");
        operator.insert(started).until_ready(LONG).await.expect("it is ready");
    }
    argocd.until(MIRRORS, &commit, HEALTHY).await.expect("and the mirror is Ready");
    let mirrors = image_set_mirrors(cluster.client().await.expect("a client"), NAME);
    assert!(has_condition(&mirrors.get("set").await.expect("the object"), "Ready", "True"));
    for round in 1..=3 {
        for (name, state_of) in [(NAME, operator_app), (MIRRORS, HEALTHY), ("root", HEALTHY)] {
            let synced = argocd.sync(name, true).await.expect("Argo CD syncs");
            let operation = &synced.data["status"]["operationState"];
            assert_eq!(operation["phase"], "Succeeded", "{operation}");
            let refreshed = argocd.refresh(name).await.expect("refreshed");
            assert_eq!(state(&refreshed), (state_of.0.to_owned(), state_of.1.to_owned()), "{name}, round {round}");
        }
    }

    // The repository of mirrors brings mirrors only.
    let intruder = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "intruder"}});
    git.push(&[("mirrors/intruder.yaml", Some(intruder.to_string()))]).expect("a commit");
    argocd.refresh(MIRRORS).await.expect("refreshed");
    until(argocd.applications(), MIRRORS, LONG, "refused", |application| {
        application.data["status"]["operationState"].to_string().contains("is not permitted in project mirrors")
    })
    .await
    .expect("the project refuses it");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await.expect("a client"), NAME);
    assert!(maps.get_opt("intruder").await.expect("an answer").is_none());

    // The operator goes with its Application, the kind and its objects stay.
    for (name, finalizers) in [("root", json!([])), (NAME, json!([CASCADE]))] {
        argocd.patch(name, &json!({"metadata": {"finalizers": finalizers}})).await.expect("accepted");
        argocd.applications().delete(name, &DeleteParams::default()).await.expect("deleted");
        until_gone(argocd.applications(), name, LONG).await.expect("gone");
    }
    let deployments: Api<Deployment> = Api::namespaced(cluster.client().await.expect("a client"), NAME);
    assert!(deployments.get_opt(NAME).await.expect("an answer").is_none());
    let object = mirrors.get("set").await.expect("the object is still there");
    assert_eq!(object.metadata.deletion_timestamp, None);
}

#[tokio::test]
#[ignore = "needs Argo CD and redis-server: make e2e-argocd"]
async fn its_own_command_line_reads_our_settings() {
    let mut object = json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
        "metadata": {"name": "set", "namespace": "ns", "generation": 1},
        "spec": {"target": {"registry": "registry.example.com"}},
        "status": {"observedGeneration": 1, "conditions": [
            {"type": "Ready", "status": "True", "reason": "Succeeded", "message": "3 images in the target"},
        ]},
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("set.yaml");
    fs::write(&file, object.to_string()).expect("a file");
    let offline = |command: &str, more: &[&str]| {
        offline(command, &file, more).expect("argocd").ok().unwrap_or_else(|error| panic!("{command}: {error:#}"))
    };
    let health = offline("health", &[]);
    assert!(health.contains("STATUS: Healthy") && health.contains("Succeeded: 3 images in the target"), "{health}");
    let listed = offline("list-actions", &[]);
    for action in settings::ACTIONS {
        let line = listed.lines().find(|line| line.split_whitespace().next() == Some(action));
        let disabled = line.unwrap_or_else(|| panic!("{action} is not offered: {listed}")).contains("true");
        assert_eq!(disabled, action == "resume", "{listed}");
    }
    for (action, changed) in [
        ("sync-now", &["mirror.openshift.io/requested-at"][..]),
        ("force-verify", &["mirror.openshift.io/requested-at", "mirror.openshift.io/force-at"]),
        ("suspend", &["suspend: true"]),
    ] {
        let printed = offline("run-action", &[action]);
        assert!(changed.iter().all(|text| printed.contains(text)), "{action}: {printed}");
    }
    object["spec"]["suspend"] = json!(true);
    fs::write(&file, object.to_string()).expect("a file");
    assert!(offline("health", &[]).contains("STATUS: Suspended"));
    let printed = offline("run-action", &["resume"]);
    assert!(printed.lines().any(|line| line.starts_with('<') && line.contains("suspend: true")), "{printed}");
}

/// Labels and annotations that tools know their own by, or that somebody has given the object.
fn marks(object: &DynamicObject) -> Vec<String> {
    let keys = object.labels().keys().chain(object.annotations().keys());
    let foreign = keys.filter(|key| {
        let tools = ["argocd.argoproj.io/", "kustomize.toolkit.fluxcd.io/"];
        tools.iter().any(|tool| key.starts_with(tool)) || ["app.kubernetes.io/instance", "team"].contains(&key.as_str())
    });
    foreign.cloned().collect()
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target);
        } else {
            fs::copy(&source, &target).expect("a file");
        }
    }
}
