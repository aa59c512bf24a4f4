//! An operator that is asked to end while it copies.

use e2e::interruption::{big, is_at, lease_holder, proxy_before_source, quick_lease, uploads, walk_every_tag};
use e2e::operator::Operator;
use e2e::proxy::Proxy;
use e2e::wait::{LONG, SHORT, condition, eventually, until, until_ready};
use e2e::world::World;
use kube::api::{Api, DynamicObject};
use rustix::process::Signal;
use serde_json::json;

/// Part of an image that has come in when the copy is held.
const PART: u64 = 500_000;

/// A world with an operator that is caught copying.
async fn caught(grace_period: &str) -> (World, Proxy, Operator, Api<DynamicObject>) {
    let mut world = World::start().await.expect("the world starts");
    let proxy = proxy_before_source(&mut world).await.expect("a proxy");
    world.source().expect("a client").push_image("big", "v1", big(1)).await.expect("an image");
    let overrides = quick_lease().flag("--grace-period", grace_period);
    let operator = world.operator_with(&overrides).await.expect("the operator starts");
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let mut object = world.image_set_mirror(world.namespace(), "set", &["big:v1"]);
    object["spec"]["copy"] = json!({"concurrency": 1});
    proxy.hold_after(PART);
    world.apply(&object).await.expect("accepted");
    proxy.until_held(LONG).await.expect("the copy is caught");
    until(&api, "set", LONG, "Copying", |object| is_at(object, "Copying")).await.expect("it copies");
    (world, proxy, operator, api)
}

/// What an ended operator leaves behind, and that the next one finishes.
async fn left_in_order(world: &World, api: &Api<DynamicObject>) {
    assert_eq!(lease_holder(world).await.expect("the lease"), "", "the lease is given up");
    let object = api.get("set").await.expect("the object");
    assert!(is_at(&object, "Interrupted"), "{}", object.data["status"]);
    let ready = condition(&object, "Ready").expect("Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("Unknown", "Progressing"));
    let target = world.target().expect("a client");
    walk_every_tag(&target).await.expect("every tag is whole");
    let before = uploads(&world.target.requests().await.expect("the log"));

    let _next = world.operator_with(&quick_lease()).await.expect("the next one starts");
    until_ready(api, "set", LONG).await.expect("Ready");
    target.walk("big", "v1").await.expect("everything is there");
    let after = uploads(&world.target.requests().await.expect("the log"));
    assert!(after.values().all(|count| *count == 1), "sent twice: {after:#?}");
    assert!(before.len() < after.len());
}

#[tokio::test]
async fn transfers_that_stand_still_are_cut_off_and_said_to_be_interrupted() {
    let (world, proxy, mut operator, api) = caught("17s").await;
    let status = operator.terminate().await.expect("it ends within the grace period");
    assert!(status.success(), "{status}");
    proxy.release();
    left_in_order(&world, &api).await;
}

#[tokio::test]
async fn a_transfer_that_goes_on_may_end_and_nothing_new_is_begun() {
    let (world, proxy, mut operator, api) = caught("10m").await;
    operator.process().signal(Signal::TERM).expect("it is asked to end");
    let waiting = &operator;
    eventually(SHORT, "it not to be ready any more", || async { Ok((!waiting.is_ready().await).then_some(())) })
        .await
        .expect("it is not ready from the signal on");
    assert!(operator.process().try_wait().expect("a process").is_none(), "it waits for the transfer");
    let mark = world.target.mark().await.expect("the log");
    proxy.release();
    let status = operator.process().wait(LONG).await.expect("it ends");
    assert!(status.success(), "{status}");
    let since = world.target.requests_since(mark).await.expect("the log");
    let requests =
        |method| since.iter().filter(move |request| request.method == method && request.path.contains("/blobs/"));
    assert!(requests("PUT").count() > 0, "the transfer under way has ended: {since:#?}");
    assert_eq!(requests("POST").count(), 0, "no other was begun: {since:#?}");
    left_in_order(&world, &api).await;
}
