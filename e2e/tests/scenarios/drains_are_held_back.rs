//! What makes nodes drain is written only if the object allows it, and a rule only when its content is there.

use e2e::image::{ImageSpec, Remote};
use e2e::mirror_sets::{Kind, Rules, owned, owned_rules, published};
use e2e::wait::{LONG, condition, has_condition, until, until_ready, until_reason};
use e2e::world::World;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

const PENDING: (&str, &str, &str) = ("ResourcesApplied", "False", "PendingDisruption");
const APPLIED: (&str, &str, &str) = ("ResourcesApplied", "True", "Applied");

struct Scene {
    world: World,
    namespace: String,
    mirrors: Api<DynamicObject>,
}

impl Scene {
    async fn start() -> Self {
        let world = World::start().await.expect("the world starts");
        let namespace = world.namespace().to_owned();
        let mirrors = world.mirrors(&namespace).await.expect("a client");
        Self { world, namespace, mirrors }
    }

    async fn apply(&self, images: &[&str], resources: Value) {
        let mut object = self.world.image_set_mirror(&self.namespace, "set", images);
        object["spec"]["clusterResources"] = resources;
        self.world.apply(&object).await.expect("the object is taken");
    }

    async fn rules(&self, kind: Kind) -> Rules {
        owned_rules(&self.world.cluster, kind, &self.namespace, "set").await.expect("rules")
    }

    /// The sources of the rules, without the host.
    async fn sources(&self, kind: Kind) -> Vec<String> {
        let host = format!("{}/", self.world.source_host);
        self.rules(kind).await.into_keys().map(|source| source.replace(&host, "")).collect()
    }

    async fn pending(&self, kind: &str) -> Option<String> {
        let manifests = published(&self.world.cluster, &self.namespace, "set-manifests").await.expect("a ConfigMap");
        manifests.get(&format!("{kind}-pending.yaml")).cloned()
    }

    /// Asks for a sync.
    async fn request(&self, token: &str) {
        let patch = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": token}}});
        self.mirrors.patch("set", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the object is taken");
    }
}

async fn push(remote: &Remote, repository: &str, seed: u64) -> String {
    let pushed = remote.push_image(repository, "v1", ImageSpec::seeded(seed)).await.expect("an image");
    format!("{repository}@{}", pushed.digest)
}

#[tokio::test]
async fn what_drains_nodes_waits_for_permission() {
    let scene = Scene::start().await;
    let source = scene.world.source().expect("a client");
    let (one, two) = (push(&source, "one/app", 1).await, push(&source, "two/app", 2).await);
    push(&source, "three/app", 3).await;
    let all = [one.as_str(), two.as_str(), "one/app:v1", "three/app:v1"];
    let _operator = scene.world.operator().await.expect("the operator starts");

    // A rule for tags is one that drains. It is held back; what does not drain goes ahead.
    scene.apply(&all, json!({"imageTagMirrorSet": {"policy": "Apply"}})).await;
    let object = until_ready(&scene.mirrors, "set", LONG).await.expect("Ready does not depend on it");
    let applied = condition(&object, "ResourcesApplied").expect("the condition is there");
    assert_eq!((applied.status.as_str(), applied.reason.as_str()), (PENDING.1, PENDING.2), "{applied:?}");
    assert_eq!(scene.sources(Kind::Digest).await, ["one", "two"]);
    assert_eq!(owned(&scene.world.cluster, Kind::Tag, &scene.namespace, "set").await.expect("a list").len(), 0);
    let pending = scene.pending("itms").await.expect("what is held back is published");
    assert!(pending.contains("kind: ImageTagMirrorSet") && pending.contains("/one"), "{pending}");
    let resources = object.data.pointer("/status/resources").and_then(Value::as_array).expect("resources").clone();
    let held = resources.iter().find(|entry| entry["kind"] == "ImageTagMirrorSet").expect("it is listed");
    assert_eq!(held["state"], "PendingDisruption", "{held}");
    assert!(held["impact"].as_str().is_some_and(|impact| impact.contains("drain")), "{held}");

    let allowed = |removal: &str| json!({"imageTagMirrorSet": {"policy": "Apply"}, "disruption": "AllowDrain", "removal": removal});
    scene.apply(&all, allowed("Retain")).await;
    until_reason(&scene.mirrors, "set", APPLIED, LONG).await.expect("now it is written");
    assert_eq!(scene.sources(Kind::Tag).await, ["one", "three"]);
    assert_eq!(scene.pending("itms").await, None);

    // By default nothing is taken away, even if draining is allowed.
    let first = [one.as_str(), "one/app:v1"];
    let before = (scene.rules(Kind::Digest).await, scene.rules(Kind::Tag).await);
    scene.apply(&first, allowed("Retain")).await;
    until_ready(&scene.mirrors, "set", LONG).await.expect("it is ready");
    assert_eq!((scene.rules(Kind::Digest).await, scene.rules(Kind::Tag).await), before);

    // Removal drains, too.
    scene.apply(&first, json!({"imageTagMirrorSet": {"policy": "Apply"}, "removal": "Remove"})).await;
    let held = until_reason(&scene.mirrors, "set", PENDING, LONG).await.expect("it is held back");
    assert!(has_condition(&held, "Ready", "True"));
    assert_eq!((scene.rules(Kind::Digest).await, scene.rules(Kind::Tag).await), before);
    assert!(scene.pending("idms").await.is_some_and(|text| !text.contains("/two")));
    assert!(scene.pending("itms").await.is_some_and(|text| !text.contains("/three")));

    scene.apply(&first, allowed("Remove")).await;
    until_reason(&scene.mirrors, "set", APPLIED, LONG).await.expect("now it is removed");
    assert_eq!(scene.sources(Kind::Digest).await, ["one"]);
    assert_eq!(scene.sources(Kind::Tag).await, ["one"]);
}

#[tokio::test]
async fn a_rule_follows_its_content_and_no_failure_takes_one_away() {
    let scene = Scene::start().await;
    let source = scene.world.source().expect("a client");
    let (one, two) = (push(&source, "one/app", 1).await, push(&source, "two/app", 2).await);
    let here = push(&source, "three/here", 3).await;
    // The image is known, and is not where it should be.
    let missing = push(&source, "elsewhere/missing", 4).await.replace("elsewhere", "three");
    let _operator = scene.world.operator().await.expect("the operator starts");
    let free = json!({"removal": "Remove", "disruption": "AllowDrain"});
    scene.apply(&[&one, &two], free.clone()).await;
    until_ready(&scene.mirrors, "set", LONG).await.expect("it is ready");
    let sets = Kind::Digest.api(&scene.world.cluster).await.expect("a client");
    let name = owned(&scene.world.cluster, Kind::Digest, &scene.namespace, "set").await.expect("a list")[0].name_any();
    let before = sets.get(&name).await.expect("it is there");

    // `two` leaves the set, but something is missing: neither is its rule removed, nor one for `three` written.
    scene.apply(&[&one, &here, &missing], free.clone()).await;
    let incomplete =
        until(&scene.mirrors, "set", LONG, "incomplete", |object| has_condition(object, "Ready", "False")).await;
    incomplete.expect("one image is missing");
    let target = scene.world.target().expect("a client");
    let (repository, digest) = here.split_once('@').expect("a digest");
    assert!(target.manifest(repository, digest).await.expect("an answer").is_some(), "the other one is copied");
    let after = sets.get(&name).await.expect("it is there");
    assert_eq!(after.resource_version(), before.resource_version(), "{:?}", scene.rules(Kind::Digest).await);

    // Nobody asks for it: what failed is tried again.
    source.push_image("three/missing", "v1", ImageSpec::seeded(4)).await.expect("an image");
    until_ready(&scene.mirrors, "set", LONG).await.expect("everything is there");
    assert_eq!(scene.sources(Kind::Digest).await, ["one", "three"], "both at once, after a complete sync");

    // Content that vanishes from the source afterwards takes no rule with it. A tag is what is asked for at every sync.
    let tagged = push(&source, "four/app", 5).await;
    scene.apply(&[&one, &here, &missing, &tagged, "four/app:v1"], free).await;
    until_ready(&scene.mirrors, "set", LONG).await.expect("everything is there");
    assert_eq!(scene.sources(Kind::Digest).await, ["four", "one", "three"]);
    let before = sets.get(&name).await.expect("it is there");
    source.delete_manifest("four/app", tagged.split_once('@').expect("a digest").1).await.expect("it is deleted");
    scene.request("now").await;
    let failed = until_reason(&scene.mirrors, "set", ("UpToDate", "False", "RefreshFailed"), LONG).await;
    assert!(has_condition(&failed.expect("the sync notices"), "Ready", "True"), "what was there is there");
    let after = sets.get(&name).await.expect("it is there");
    assert_eq!(after.resource_version(), before.resource_version(), "{:?}", scene.rules(Kind::Digest).await);
}
