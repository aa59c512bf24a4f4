//! A spec that changes while its images are being copied.

use e2e::image::signature_tag;
use e2e::interruption::{begun, big, hold_upload, is_at, patch, plan_digest, proxy_before_target, uploads, writes};
use e2e::proxy::Proxy;
use e2e::wait::{LONG, condition, has_condition, until, until_ready, until_reason};
use e2e::world::World;
use kube::api::{Api, DynamicObject};
use serde_json::json;

/// Slow enough that a copy is seen in the middle.
const SLOW: u64 = 1_000_000;
/// Part of an image that has gone out when the copy is held.
const PART: u64 = 1_500_000;

async fn start() -> (World, Proxy) {
    let mut world = World::start().await.expect("the world starts");
    let proxy = proxy_before_target(&mut world).await.expect("a proxy");
    (world, proxy)
}

/// Applies an object and catches its copy in the middle.
async fn caught(world: &World, proxy: &Proxy, name: &str, object: &serde_json::Value) -> Api<DynamicObject> {
    proxy.throttle(Some(SLOW));
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let (applied, held) = tokio::join!(world.apply(object), hold_upload(proxy, PART));
    applied.expect("the object is accepted");
    held.expect("the copy is caught");
    until(&api, name, LONG, "Copying", |object| is_at(object, "Copying")).await.expect("it copies");
    api
}

#[tokio::test]
async fn a_copy_of_another_plan_is_superseded_and_one_of_the_same_plan_goes_on() {
    let (world, proxy) = start().await;
    let source = world.source().expect("a client");
    for (repository, seed) in [("undisturbed", 1), ("same", 2), ("old", 3), ("new", 4)] {
        source.push_image(repository, "v1", big(seed)).await.expect("an image");
    }
    let target = world.target().expect("a client");
    let _operator = world.operator().await.expect("the operator starts");
    let namespace = world.namespace();

    // What an undisturbed copy costs.
    let api = world.mirrors(namespace).await.expect("a client");
    world.apply(&world.image_set_mirror(namespace, "undisturbed", &["undisturbed:v1"])).await.expect("accepted");
    until_ready(&api, "undisturbed", LONG).await.expect("Ready");
    let usual = begun(&world.target.requests().await.expect("the log"), "undisturbed");

    // Neither what sync does not read nor what leads to the same plan disturbs the copy.
    let mut object = world.image_set_mirror(namespace, "same", &["same:v1"]);
    object["spec"]["copy"] = json!({"concurrency": 2});
    let api = caught(&world, &proxy, "same", &object).await;
    for change in [json!({"interval": "6h"}), json!({"copy": {"concurrency": 3}})] {
        let patched = patch(&api, "same", &json!({"spec": change})).await.expect("accepted");
        until(&api, "same", LONG, "Copying for the new generation", |object| {
            is_at(object, "Copying") && object.metadata.generation == patched.metadata.generation
        })
        .await
        .expect("it goes on");
    }
    proxy.release();
    let object = until_ready(&api, "same", LONG).await.expect("Ready");
    assert_eq!(object.data["status"]["observedGeneration"], json!(3));
    let log = world.target.requests().await.expect("the log");
    assert_eq!(begun(&log, "same"), usual, "nothing was begun twice");
    assert!(uploads(&log).values().all(|count| *count == 1), "{:#?}", uploads(&log));
    target.walk("same", "v1").await.expect("everything is there");

    // Another plan takes the place of the copy.
    let api = caught(&world, &proxy, "changing", &world.image_set_mirror(namespace, "changing", &["old:v1"])).await;
    let before = plan_digest(&api.get("changing").await.expect("the object"));
    let images = json!([{"name": format!("{}/new:v1", world.source_host)}]);
    patch(&api, "changing", &json!({"spec": {"mirror": {"additionalImages": images}}})).await.expect("accepted");
    let changed = until(&api, "changing", LONG, "Copying the new plan", |object| {
        is_at(object, "Copying") && plan_digest(object) != before
    })
    .await
    .expect("the old copy is superseded");
    assert!(has_condition(&changed, "Ready", "Unknown"));
    // What the old copy had on the way is lost, so that only what is sent from now on arrives.
    proxy.cut();
    let mark = world.target.mark().await.expect("a mark");
    proxy.release();
    let object = until_ready(&api, "changing", LONG).await.expect("Ready");
    assert_eq!(object.data["status"]["observedGeneration"], json!(2));
    assert_eq!(object.data["status"]["progress"]["images"]["total"], json!(1));
    target.walk("new", "v1").await.expect("the new image is there");
    assert_eq!(target.digest("old", "v1").await.expect("an answer"), None);
    let log = world.target.requests_since(mark).await.expect("the log");
    let late: Vec<_> = writes(&log, "old").into_iter().filter(|request| request.status < 300).collect();
    assert!(late.is_empty(), "the old copy went on: {late:#?}");
}

#[tokio::test]
async fn a_copy_does_not_count_for_a_spec_that_asks_for_something_else_with_the_same_images() {
    let (world, proxy) = start().await;
    let source = world.source().expect("a client");
    let target = world.target().expect("a client");
    source.push_image("planned", "v1", big(1)).await.expect("an image");
    let signed = source.push_image("signed", "v1", big(2)).await.expect("an image");
    source.push_signature("signed", &signed.digest, 3).await.expect("a signature");
    let _operator = world.operator().await.expect("the operator starts");
    let namespace = world.namespace();

    let api = caught(&world, &proxy, "planned", &world.image_set_mirror(namespace, "planned", &["planned:v1"])).await;
    patch(&api, "planned", &json!({"spec": {"mode": "Plan"}})).await.expect("accepted");
    until(&api, "planned", LONG, "seen", |object| {
        object.data.pointer("/status/observedGeneration") == Some(&json!(2)) && is_at(object, "Copying")
    })
    .await
    .expect("the survey begins");
    proxy.release();
    until_reason(&api, "planned", ("Ready", "True", "Planned"), LONG).await.expect("planned");
    let mirrored = condition(&api.get("planned").await.expect("the object"), "Mirrored").expect("Mirrored");
    assert_eq!((mirrored.status.as_str(), mirrored.reason.as_str()), ("False", "PlanOnly"));
    assert_eq!(target.digest("planned", "v1").await.expect("an answer"), None, "plan mode copies nothing");

    let mut object = world.image_set_mirror(namespace, "signed", &["signed:v1"]);
    object["spec"]["copy"] = json!({"attachments": "Skip"});
    let api = caught(&world, &proxy, "signed", &object).await;
    patch(&api, "signed", &json!({"spec": {"copy": {"attachments": "Copy"}}})).await.expect("accepted");
    until(&api, "signed", LONG, "seen", |object| is_at(object, "Copying")).await.expect("the new copy begins");
    proxy.release();
    until_ready(&api, "signed", LONG).await.expect("Ready");
    let signature = target.digest("signed", &signature_tag(&signed.digest)).await.expect("an answer");
    assert!(signature.is_some(), "attachments were asked for in the meantime");
}
