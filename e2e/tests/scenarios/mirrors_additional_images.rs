//! Additional images in every form arrive where oc-mirror would put them, and nodes find them there.

use std::collections::BTreeMap;

use e2e::cluster::Output;
use e2e::image::ImageSpec;
use e2e::mirrorconf;
use e2e::operator::{Operator, repository};
use e2e::wait::{LONG, SHORT, condition, eventually, openshift_config, until_ready};
use e2e::world::World;
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The operator's mark on what it writes names the object.
const OWNER: &str = "mirror.openshift.io/owner-ref";

/// One world for all tests of this file; they keep apart by object, target prefix and source host.
async fn world() -> &'static World {
    static WORLD: OnceCell<(World, Operator)> = OnceCell::const_new();
    let start = || async {
        let world = World::start().await.expect("the world starts");
        let operator = world.operator().await.expect("the operator starts");
        (world, operator)
    };
    &WORLD.get_or_init(start).await.0
}

/// An object of that name, which is also its prefix in the target; `<name>.example.com` leads to the source registry.
fn object(world: &World, name: &str, images: &Value, cluster_resources: &Value) -> Value {
    let mut object = world.image_set_mirror(world.namespace(), name, &[]);
    let spec = &mut object["spec"];
    spec["mirror"]["additionalImages"] = images.clone();
    spec["target"]["pathPrefix"] = json!(name);
    spec["source"]["overrides"] = json!([{"source": format!("{name}.example.com"), "mirrors": [world.source_host]}]);
    spec["clusterResources"] = cluster_resources.clone();
    object
}

/// Applies an object and waits for it the way a user does.
async fn apply_and_wait(world: &World, object: &Value) -> DynamicObject {
    world.apply(object).await.expect("the object is taken");
    let name = object["metadata"]["name"].as_str().expect("a name");
    let mirrors = world.mirrors(world.namespace()).await.expect("a client");
    // Beside our own wait, which shows the status if it is in vain.
    let (waited, ready) = tokio::join!(wait_for(world, name, "Ready"), until_ready(&mirrors, name, LONG));
    let ready = ready.expect("it becomes Ready");
    waited.ok().expect("kubectl wait returns");
    ready
}

/// `kubectl wait`, from right after the object was applied.
async fn wait_for(world: &World, name: &str, condition: &str) -> Output {
    let (condition, resource) = (format!("--for=condition={condition}"), format!("imagesetmirror/{name}"));
    let args = ["wait", &condition, "--timeout=180s", "-n", world.namespace(), &resource];
    world.cluster.kubectl(&args).await.expect("kubectl")
}

/// The rules, source to mirrors, of the mirror sets that carry the object's mark; each must allow pulls from the source.
async fn rules(world: &World, name: &str, kind: &str) -> BTreeMap<String, Vec<String>> {
    let (plural, list) = match kind {
        "ImageDigestMirrorSet" => ("imagedigestmirrorsets", "imageDigestMirrors"),
        _ => ("imagetagmirrorsets", "imageTagMirrors"),
    };
    let sets: Api<DynamicObject> = openshift_config(world.cluster.client().await.expect("a client"), kind, plural);
    let owner = format!("{}/{name}", world.namespace());
    let mut found = BTreeMap::new();
    for set in sets.list(&ListParams::default()).await.expect("a list") {
        if set.metadata.annotations.as_ref().and_then(|marks| marks.get(OWNER)) == Some(&owner) {
            collect(&set.data["spec"][list], &mut found);
        }
    }
    found
}

fn collect(entries: &Value, found: &mut BTreeMap<String, Vec<String>>) {
    for entry in entries.as_array().expect("entries") {
        assert_eq!(entry["mirrorSourcePolicy"], "AllowContactingSource");
        let mirrors = entry["mirrors"].as_array().expect("mirrors").iter();
        let mirrors = mirrors.map(|mirror| mirror.as_str().expect("a text").to_owned()).collect();
        let before = found.insert(entry["source"].as_str().expect("a source").to_owned(), mirrors);
        assert_eq!(before, None, "one entry for each source");
    }
}

fn expected(rules: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    rules.iter().map(|(source, mirror)| (source.clone(), vec![mirror.clone()])).collect()
}

/// Asserts that nodes look for each of these first in the target, and find that digest there.
async fn assert_nodes_find(world: &World, pulls: &[(String, &str)]) {
    let specs: Vec<&str> = pulls.iter().map(|(spec, _)| spec.as_str()).collect();
    let verdict = mirrorconf::judge_cluster(&world.cluster, &specs).await.expect("a verdict");
    assert_eq!(verdict.error, None, "nodes can merge the mirror sets");
    let target = world.target().expect("a client");
    for (spec, digest) in pulls {
        let first = verdict.first(spec).expect("an answer");
        let below = first.strip_prefix(&format!("{}/", world.target_host));
        let below = below.unwrap_or_else(|| panic!("{spec} is looked for in {first}, not in the target"));
        let (repository, reference) = below.split_once('@').or_else(|| below.rsplit_once(':')).expect("a reference");
        let found = target.digest(repository, reference).await.expect("an answer");
        assert_eq!(found.as_deref(), Some(*digest), "{spec} leads to {first}");
    }
}

async fn push(world: &World, repository: &str, tag: &str, seed: u64) -> String {
    let source = world.source().expect("a client");
    source.push_image(repository, tag, ImageSpec::seeded(seed)).await.expect("an image").digest
}

async fn manifests(world: &World, name: &str) -> BTreeMap<String, String> {
    let map = format!("{name}-manifests");
    let args = ["get", "configmap", &map, "-n", world.namespace(), "-o", "jsonpath={.data}"];
    let data = world.cluster.kubectl(&args).await.expect("kubectl").ok().expect("the ConfigMap is there");
    serde_json::from_str(&data).expect("texts by key")
}

#[tokio::test]
async fn every_form_of_a_reference_lands_where_oc_mirror_puts_it_and_nodes_find_it() {
    let world = world().await;
    let app = push(world, "team/app", "v1", 1).await;
    let db = push(world, "team/db", "v2", 2).await;
    let tool = push(world, "deep/er/nested/path/tool", "v3", 3).await;
    let single = push(world, "single", "v4", 4).await;
    let moved = push(world, "was/here", "v5", 5).await;
    let ported = push(world, "ported/app", "v6", 6).await;
    let (host, port_host) = ("forms.example.com", world.source_host.as_str());
    let images = json!([
        {"name": format!("{host}/team/app:v1")},
        {"name": format!("{host}/team/app@{app}"), "targetTag": "pinned"},
        {"name": format!("{host}/team/db@{db}")},
        {"name": format!("{host}/deep/er/nested/path/tool:v3@{tool}")},
        {"name": format!("{host}/single:v4")},
        {"name": format!("{host}/was/here:v5"), "targetRepo": "renamed/by/hand"},
        {"name": format!("{host}/was/here:v5"), "targetRepo": "renamed/by/hand", "targetTag": "again"},
        {"name": format!("{port_host}/ported/app:v6")},
        {"name": format!("{port_host}/ported/app@{ported}")},
    ]);
    let apply = json!({"imageTagMirrorSet": {"policy": "Apply"}, "disruption": "AllowDrain"});
    let ready = apply_and_wait(world, &object(world, "forms", &images, &apply)).await;
    assert_eq!(ready.data["status"]["progress"]["summary"], "9/9", "{}", ready.data["status"]);

    let target = world.target().expect("a client");
    let by_digest = |digest: &str| digest.replace(':', "-");
    for (repository, tag, digest) in [
        ("team/app", "v1".to_owned(), &app),
        ("team/app", "pinned".to_owned(), &app),
        ("team/db", by_digest(&db), &db),
        ("deep/er/nested/path/tool", "v3".to_owned(), &tool),
        ("single", "v4".to_owned(), &single),
        ("renamed/by/hand", "v5".to_owned(), &moved),
        ("renamed/by/hand", "again".to_owned(), &moved),
        ("ported/app", "v6".to_owned(), &ported),
        ("ported/app", by_digest(&ported), &ported),
    ] {
        let found = target.digest(&format!("forms/{repository}"), &tag).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(digest), "{repository}:{tag}");
    }
    assert_eq!(target.tags("forms/team/db").await.expect("tags"), [by_digest(&db)], "and nothing else");

    let mirror = format!("{}/forms", world.target_host);
    let wide = |at: &str, below: &str| (format!("{at}/{below}"), format!("{mirror}/{below}"));
    let shared = [wide(host, "team"), wide(host, "deep/er/nested/path"), wide(port_host, "ported")];
    assert_eq!(rules(world, "forms", "ImageDigestMirrorSet").await, expected(&shared));
    // Only one component of `single` is its path, but the whole host cannot be mirrored at one place: `was/here` is not.
    let by_tag = [wide(host, "single"), (format!("{host}/was/here"), format!("{mirror}/renamed/by/hand"))];
    let by_tag = [shared.as_slice(), &by_tag].concat();
    assert_eq!(rules(world, "forms", "ImageTagMirrorSet").await, expected(&by_tag));

    let pulls = [
        (format!("{host}/team/app:v1"), app.as_str()),
        (format!("{host}/team/app@{app}"), &app),
        (format!("{host}/team/db@{db}"), &db),
        (format!("{host}/deep/er/nested/path/tool:v3"), &tool),
        (format!("{host}/deep/er/nested/path/tool@{tool}"), &tool),
        (format!("{host}/single:v4"), &single),
        (format!("{host}/was/here:v5"), &moved),
        (format!("{port_host}/ported/app:v6"), &ported),
        (format!("{port_host}/ported/app@{ported}"), &ported),
    ];
    assert_nodes_find(world, &pulls).await;
}

#[tokio::test]
async fn a_host_whose_images_all_keep_their_path_is_mirrored_as_one() {
    let world = world().await;
    let first = push(world, "one", "v1", 11).await;
    let second = push(world, "a/two", "v1", 12).await;
    let host = "whole.example.com";
    let images = json!([{"name": format!("{host}/one@{first}")}, {"name": format!("{host}/a/two@{second}")}]);
    apply_and_wait(world, &object(world, "whole", &images, &json!({}))).await;
    let mirror = format!("{}/whole", world.target_host);
    let found = rules(world, "whole", "ImageDigestMirrorSet").await;
    assert_eq!(found.get(host), Some(&vec![mirror]), "{found:?}");
    let pulls = [(format!("{host}/one@{first}"), first.as_str()), (format!("{host}/a/two@{second}"), &second)];
    assert_nodes_find(world, &pulls).await;
}

#[tokio::test]
async fn tag_mirror_sets_are_only_published_unless_asked_for() {
    let world = world().await;
    let digest = push(world, "published/app", "v1", 21).await;
    let host = "publish.example.com";
    let images = json!([{"name": format!("{host}/published/app:v1@{digest}")}]);
    apply_and_wait(world, &object(world, "publish", &images, &json!({}))).await;
    let source = format!("{host}/published");
    let rule = expected(&[(source, format!("{}/publish/published", world.target_host))]);
    assert_eq!(rules(world, "publish", "ImageDigestMirrorSet").await, rule);
    assert_eq!(rules(world, "publish", "ImageTagMirrorSet").await, BTreeMap::new());

    let data = manifests(world, "publish").await;
    assert_eq!(data.keys().collect::<Vec<_>>(), ["applied.yaml", "idms.yaml", "itms.yaml"]);
    for (key, list) in [("idms.yaml", "imageDigestMirrors"), ("itms.yaml", "imageTagMirrors")] {
        let set: Value = serde_yaml::from_str(&data[key]).expect("one object");
        let mut found = BTreeMap::new();
        collect(&set["spec"][list], &mut found);
        assert_eq!(found, rule, "{key}");
        let check = world.cluster.kubectl_with_input(&["apply", "--dry-run=server", "-f", "-"], &data[key]).await;
        check.expect("kubectl").ok().expect("what is published can be applied as it is");
    }
    assert!(
        data["applied.yaml"].contains("ImageDigestMirrorSet") && !data["applied.yaml"].contains("ImageTagMirrorSet")
    );

    // By tag nodes are still led to the source, until somebody applies what is published.
    let pull = format!("{host}/published/app:v1");
    let verdict = mirrorconf::judge_cluster(&world.cluster, &[&pull]).await.expect("a verdict");
    assert_eq!(verdict.first(&pull), Some(pull.as_str()));
}

#[tokio::test]
async fn blocked_images_are_neither_copied_nor_named_in_a_mirror_set() {
    let world = world().await;
    let wanted = push(world, "keep/app", "v1", 31).await;
    let blocked = push(world, "legacy/app", "v1", 32).await;
    let host = "blocked.example.com";
    let images =
        json!([{"name": format!("{host}/keep/app@{wanted}")}, {"name": format!("{host}/legacy/app@{blocked}")}]);
    let mut object = object(world, "blocked", &images, &json!({}));
    object["spec"]["mirror"]["blockedImages"] = json!([{"name": r"^blocked\.example\.com/legacy/"}]);
    let ready = apply_and_wait(world, &object).await;
    assert_eq!(ready.data["status"]["progress"]["summary"], "1/1");
    assert_eq!(ready.data["status"]["failures"], Value::Null);
    let target = world.target().expect("a client");
    assert_eq!(target.tags("blocked/legacy/app").await.expect("tags"), Vec::<String>::new());
    let found = rules(world, "blocked", "ImageDigestMirrorSet").await;
    let everywhere = found.keys().all(|source| !source.contains("legacy"));
    assert!(!found.is_empty() && everywhere, "{found:?}");
}

#[tokio::test]
async fn an_override_is_read_from_in_order_and_never_named_in_the_cluster() {
    let world = world().await;
    let digest = push(world, "held/elsewhere/app", "v1", 41).await;
    let host = "override.example.com";
    let images = json!([{"name": format!("{host}/original/app@{digest}")}]);
    let mut object = object(world, "override", &images, &json!({}));
    let (empty, real) =
        (format!("{}/nothing/here", world.source_host), format!("{}/held/elsewhere", world.source_host));
    object["spec"]["source"]["overrides"] = json!([
        {"source": host, "mirrors": [format!("{}/wrong", world.source_host)]},
        {"source": format!("{host}/original"), "mirrors": [empty, real]},
    ]);
    apply_and_wait(world, &object).await;
    let found = rules(world, "override", "ImageDigestMirrorSet").await;
    let mirror = format!("{}/override/original", world.target_host);
    assert_eq!(found, expected(&[(format!("{host}/original"), mirror)]));
    let published = manifests(world, "override").await;
    assert!(published.values().all(|text| !text.contains(&world.source_host)), "{published:?}");
    assert_nodes_find(world, &[(format!("{host}/original/app@{digest}"), digest.as_str())]).await;
}

#[tokio::test]
async fn two_entries_for_one_place_are_refused_before_the_first_byte() {
    let world = world().await;
    let first = push(world, "clash/one", "v1", 51).await;
    let second = push(world, "clash/two", "v1", 52).await;
    assert_ne!(first, second);
    let host = "clash.example.com";
    let entry = |name: &str| json!({"name": format!("{host}/clash/{name}:v1"), "targetRepo": "same"});
    world
        .apply(&object(world, "clash", &json!([entry("one"), entry("two")]), &json!({})))
        .await
        .expect("the object is taken");
    let mirrors = world.mirrors(world.namespace()).await.expect("a client");
    let stalled = eventually(SHORT, "the object to be refused", || async {
        Ok(condition(&mirrors.get("clash").await?, "Stalled").filter(|stalled| stalled.status == "True"))
    })
    .await
    .expect("it is refused");
    for name in ["clash.example.com/clash/one:v1", "clash.example.com/clash/two:v1", "targetRepo"] {
        assert!(stalled.message.contains(name), "{stalled:?}");
    }
    let target = world.target().expect("a client");
    let repositories = target.repositories().await.expect("a catalog");
    assert!(repositories.iter().all(|name| !name.starts_with("clash/")), "{repositories:?}");
}

#[tokio::test]
async fn a_wait_ends_when_a_changed_spec_is_mirrored_and_not_before() {
    let world = world().await;
    let first = push(world, "changed/first", "v1", 61).await;
    let second = push(world, "changed/second", "v1", 62).await;
    let host = "changed.example.com";
    let mut images = vec![json!({"name": format!("{host}/changed/first@{first}")})];
    apply_and_wait(world, &object(world, "changed", &json!(images), &json!({}))).await;
    images.push(json!({"name": format!("{host}/changed/second@{second}")}));
    world.apply(&object(world, "changed", &json!(images), &json!({}))).await.expect("the object is taken");
    wait_for(world, "changed", "Ready").await.ok().expect("kubectl wait returns");
    let target = world.target().expect("a client");
    target.walk("changed/changed/second", &second.replace(':', "-")).await.expect("it is there by then");
}

#[tokio::test]
async fn what_the_readme_names_can_be_applied_as_it_is() {
    let world = world().await;
    for file in ["additional-images.yaml", "all-fields.yaml", "secrets.yaml"] {
        let path = repository().join("config/samples").join(file).display().to_string();
        let args = ["apply", "--dry-run=server", "-f", &path];
        world.cluster.kubectl(&args).await.expect("kubectl").ok().expect("the API server takes it");
    }
    // The namespace enforces the restricted profile, and the pods of the Deployment are let in.
    let selector = "app.kubernetes.io/name=imageset-mirror";
    eventually(SHORT, "two pods", || async {
        let args = ["get", "pods", "-n", world.namespace(), "-l", selector, "-o", "name"];
        let pods = world.cluster.kubectl(&args).await?.ok()?;
        Ok((pods.lines().count() == 2).then_some(()))
    })
    .await
    .expect("the pods are made");
}
