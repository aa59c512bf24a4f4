//! Mirror sets that are applied already, while the operator or a source is away.

use e2e::image::ImageSpec;
use e2e::interruption::{patch, quick_lease};
use e2e::operator::Operator;
use e2e::wait::{LONG, eventually, openshift_config, until, until_ready, until_reason};
use e2e::world::World;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use serde_json::{Value, json};

/// The object's only mirror set, as it is stored.
async fn only(sets: &Api<DynamicObject>) -> DynamicObject {
    let mut found = sets.list(&ListParams::default()).await.expect("a list").items;
    assert_eq!(found.len(), 1, "{found:#?}");
    let mut set = found.remove(0);
    set.metadata.managed_fields = None;
    set
}

/// An operator that leads and has looked at the object.
async fn at_work(world: &World) -> Operator {
    let mut operator = world.operator_with(&quick_lease()).await.expect("the operator starts");
    let reconciled = |line: &str| {
        let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
        line.starts_with("imagesetmirror_reconcile_total{") && !line.contains("error") && count > Some(0.0)
    };
    let looked = operator.until_metrics(LONG, |metrics| metrics.lines().any(reconciled)).await;
    looked.expect("it looks at the object");
    operator
}

/// Waits until the mirror set says this again.
async fn until_back(sets: &Api<DynamicObject>, spec: &Value) {
    eventually(LONG, "the mirror set to be as it was", || async {
        let found = sets.list(&ListParams::default()).await?.items;
        Ok((found.len() == 1 && found[0].data["spec"] == *spec).then_some(()))
    })
    .await
    .expect("it is put back");
}

#[tokio::test]
async fn the_applied_rules_stay_byte_for_byte_and_come_back_if_somebody_changes_them() {
    let mut world = World::start().await.expect("the world starts");
    let source = world.source().expect("a client");
    let first = source.push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let second = source.push_image("other/app", "v1", ImageSpec::seeded(2)).await.expect("an image");
    // Nobody has to be asked what a digest means, but what a tag means.
    source.push_image("tagged", "v1", ImageSpec::seeded(3)).await.expect("an image");
    let namespace = world.namespace().to_owned();
    let api = world.mirrors(&namespace).await.expect("a client");
    let client = world.cluster.client().await.expect("a client");
    let sets = openshift_config(client, "ImageDigestMirrorSet", "imagedigestmirrorsets");
    let image = format!("team/app@{}", first.digest);
    world.apply(&world.image_set_mirror(&namespace, "set", &[&image, "tagged:v1"])).await.expect("accepted");

    let mut operator = at_work(&world).await;
    until_ready(&api, "set", LONG).await.expect("Ready");
    let applied = only(&sets).await;
    let spec = applied.data["spec"].clone();
    assert_eq!(spec["imageDigestMirrors"].as_array().map(Vec::len), Some(1), "{spec}");

    // A restart, and another one while the source is away.
    assert!(operator.terminate().await.expect("it ends").success());
    operator = at_work(&world).await;
    assert_eq!(only(&sets).await, applied, "after a restart");
    assert!(operator.terminate().await.expect("it ends").success());
    world.source.stop().await.expect("it stops");
    operator = at_work(&world).await;
    assert_eq!(only(&sets).await, applied, "after a restart without the source");

    // A refresh that fails leaves the object Ready, and the rules as they are.
    let request = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": "one"}}});
    eventually(LONG, "a refresh to fail", || async {
        patch(&api, "set", &request).await?;
        let object = api.get("set").await?;
        let failed = e2e::wait::condition(&object, "UpToDate").is_some_and(|found| found.reason == "RefreshFailed");
        Ok((failed && e2e::wait::has_condition(&object, "Ready", "True")).then_some(()))
    })
    .await
    .expect("the failure is said, and Ready stays");
    assert_eq!(only(&sets).await, applied, "after a sync that failed");

    // What somebody takes away or edits is put back: running, and after a restart; nobody asks the source for it.
    let logged = world.source.mark().await.expect("a mark");
    let name = applied.metadata.name.clone().expect("a name");
    let edit = json!({"spec": {"imageDigestMirrors": []}});
    sets.delete(&name, &DeleteParams::default()).await.expect("deleted");
    until_back(&sets, &spec).await;
    patch(&sets, &name, &edit).await.expect("edited");
    until_back(&sets, &spec).await;
    operator.kill();
    sets.delete(&name, &DeleteParams::default()).await.expect("deleted");
    operator = at_work(&world).await;
    until_back(&sets, &spec).await;
    operator.kill();
    patch(&sets, &name, &edit).await.expect("edited");
    operator = at_work(&world).await;
    until_back(&sets, &spec).await;
    assert_eq!(world.source.requests_since(logged).await.expect("the log"), []);
    let restored = only(&sets).await;

    // A new spec that cannot be resolved narrows nothing either: the object says that it is not done.
    let images = json!([{"name": format!("{}/other/app@{}", world.source_host, second.digest)}]);
    patch(&api, "set", &json!({"spec": {"mirror": {"additionalImages": images}}})).await.expect("accepted");
    until(&api, "set", LONG, "failing for the new spec", |object| {
        object.data.pointer("/status/observedGeneration") == Some(&json!(2))
            && e2e::wait::has_condition(object, "Ready", "False")
    })
    .await
    .expect("it says so");
    assert_eq!(only(&sets).await, restored, "while the new spec cannot be resolved");
    world.source.restart().await.expect("it starts again");
    until_reason(&api, "set", ("Ready", "True", "Succeeded"), LONG).await.expect("Ready");
    let rules = only(&sets).await.data["spec"]["imageDigestMirrors"].as_array().map(Vec::len);
    assert_eq!(rules, Some(2), "`removal` is `Retain`");
    assert!(operator.terminate().await.expect("it ends").success());
}
