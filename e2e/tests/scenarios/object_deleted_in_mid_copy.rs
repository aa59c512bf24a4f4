//! An object that is deleted while its images are being copied.

use e2e::interruption::{big, is_at, patch, proxy_before_source, writes};
use e2e::operator::{Operator, Overrides};
use e2e::proxy::Proxy;
use e2e::wait::{LONG, SHORT, openshift_config, until, until_gone, until_ready};
use e2e::world::World;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use serde_json::{Value, json};

/// Part of an image that has come in when the copy is held.
const PART: u64 = 1_500_000;
/// The namespace that is deleted.
const TENANT: &str = "tenant";

async fn start(overrides: &Overrides) -> (World, Proxy, Operator) {
    let mut world = World::start().await.expect("the world starts");
    let proxy = proxy_before_source(&mut world).await.expect("a proxy");
    world.add_access(TENANT).await.expect("a namespace");
    let subject = format!("--serviceaccount={}:{}", world.namespace(), world.deployment.service_account);
    let binding = ["-n", TENANT, "create", "rolebinding", "watched", "--clusterrole=imageset-mirror-watched", &subject];
    world.cluster.kubectl(&binding).await.expect("kubectl").ok().expect("a binding");
    let source = world.source().expect("a client");
    source.push_image("small", "v1", e2e::image::ImageSpec::seeded(1)).await.expect("an image");
    source.push_image("big", "v1", big(2)).await.expect("an image");
    let operator = world.operator_with(overrides).await.expect("the operator starts");
    (world, proxy, operator)
}

/// Applies an object and catches its copy in the middle.
async fn caught(world: &World, proxy: &Proxy, object: &Value) -> Api<DynamicObject> {
    let text = |key: &str| object["metadata"][key].as_str().expect("a name").to_owned();
    proxy.hold_after(PART);
    world.apply(object).await.expect("the object is accepted");
    proxy.until_held(LONG).await.expect("the copy is caught");
    let api = world.mirrors(&text("namespace")).await.expect("a client");
    until(&api, &text("name"), LONG, "Copying", |object| is_at(object, "Copying")).await.expect("it copies");
    api
}

/// Waits until the operator has nothing to do with the object any more.
async fn until_forgotten(operator: &mut Operator, name: &str) {
    let label = format!("name=\"{name}\"");
    operator.until_metrics(SHORT, |metrics| !metrics.contains(&label)).await.expect("the operator forgets it");
}

/// Ends the operator, which waits for everything it has begun, and looks that nothing more was written.
async fn nothing_more(world: &World, proxy: &Proxy, operator: &mut Operator) {
    let mark = world.target.mark().await.expect("a mark");
    proxy.release();
    assert!(operator.terminate().await.expect("it ends").success());
    let log = world.target.requests_since(mark).await.expect("the log");
    let late: Vec<_> = writes(&log, "big").into_iter().filter(|request| request.status < 300).collect();
    assert!(late.is_empty(), "the copy went on: {late:#?}");
    assert_eq!(world.target().expect("a client").digest("big", "v1").await.expect("an answer"), None);
}

#[tokio::test]
async fn its_copy_stops_and_nothing_holds_it() {
    let (world, proxy, mut operator) = start(&Overrides::default()).await;
    let object = world.image_set_mirror(world.namespace(), "set", &["big:v1"]);
    let api = caught(&world, &proxy, &object).await;
    let found = api.get("set").await.expect("the object");
    assert_eq!(found.metadata.finalizers.unwrap_or_default(), Vec::<String>::new(), "nothing is to be removed");
    api.delete("set", &DeleteParams::default()).await.expect("deleted");
    until_gone(&api, "set", SHORT).await.expect("gone");
    until_forgotten(&mut operator, "set").await;
    nothing_more(&world, &proxy, &mut operator).await;
}

#[tokio::test]
async fn its_copy_stops_when_the_whole_namespace_goes() {
    let overrides = Overrides::default().flag("--watch-namespace", TENANT);
    let (mut world, proxy, mut operator) = start(&overrides).await;
    world.refusals = Some("in a namespace that ends nothing may be made, and the permissions go with it");
    caught(&world, &proxy, &world.image_set_mirror(TENANT, "set", &["big:v1"])).await;
    let delete = ["delete", "namespace", TENANT, "--timeout=60s"];
    world.cluster.kubectl(&delete).await.expect("kubectl").ok().expect("nothing holds the namespace");
    until_forgotten(&mut operator, "set").await;
    nothing_more(&world, &proxy, &mut operator).await;
}

#[tokio::test]
async fn its_mirror_sets_go_with_it_if_it_says_so_even_without_the_target() {
    let (mut world, proxy, mut operator) = start(&Overrides::default()).await;
    let source = world.source().expect("a client");
    let digest = source.digest("small", "v1").await.expect("an answer").expect("the image");
    let small = format!("small@{digest}");
    let api = world.mirrors(world.namespace()).await.expect("a client");
    for (name, target_is_there) in [("first", true), ("second", false)] {
        let mut object = world.image_set_mirror(world.namespace(), name, &[&small]);
        object["spec"]["clusterResources"] = json!({"removal": "Remove", "disruption": "AllowDrain"});
        // Two objects on one target: each in its own place.
        object["spec"]["target"]["pathPrefix"] = json!(name);
        world.apply(&object).await.expect("accepted");
        let ready = until_ready(&api, name, LONG).await.expect("Ready");
        assert_eq!(ready.metadata.finalizers.unwrap_or_default(), ["mirror.openshift.io/cluster-resources"]);
        let client = world.cluster.client().await.expect("a client");
        let sets = openshift_config(client, "ImageDigestMirrorSet", "imagedigestmirrorsets");
        let written = sets.list(&ListParams::default()).await.expect("a list").items;
        assert_eq!(written.len(), 1, "{written:#?}");

        proxy.hold_after(PART);
        let images = [small.as_str(), "big:v1"].map(|image| json!({"name": format!("{}/{image}", world.source_host)}));
        patch(&api, name, &json!({"spec": {"mirror": {"additionalImages": images}}})).await.expect("accepted");
        proxy.until_held(LONG).await.expect("the copy is caught");
        if !target_is_there {
            world.target.stop().await.expect("it stops");
        }
        api.delete(name, &DeleteParams::default()).await.expect("deleted");
        until_gone(&api, name, SHORT).await.expect("gone");
        let left = sets.list(&ListParams::default()).await.expect("a list").items;
        assert_eq!(left.len(), 0, "{left:#?}");
        until_forgotten(&mut operator, name).await;
        proxy.release();
    }
    assert!(operator.terminate().await.expect("it ends").success());
}
