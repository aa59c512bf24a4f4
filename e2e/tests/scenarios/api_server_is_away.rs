//! The API server goes away in the middle of a copy and comes back before the leader has to give up.

use e2e::interruption::{big, proxy_before_source, uploads};
use e2e::operator::Overrides;
use e2e::wait::{LONG, eventually, until_ready};
use e2e::world::World;

/// Part of an image that has come in when the copy is held.
const PART: u64 = 1_500_000;

#[tokio::test]
async fn the_copy_goes_on_without_it_and_is_told_when_it_is_back() {
    let mut world = World::start().await.expect("the world starts");
    world.refusals = Some("an API server that has just started may not know every role yet");
    let proxy = proxy_before_source(&mut world).await.expect("a proxy");
    world.source().expect("a client").push_image("big", "v1", big(1)).await.expect("an image");
    let target = world.target().expect("a client");
    let mut operator = world.operator_with(&Overrides::default()).await.expect("the operator starts");
    proxy.hold_after(PART);
    world.apply(&world.image_set_mirror(world.namespace(), "set", &["big:v1"])).await.expect("accepted");
    proxy.until_held(LONG).await.expect("the copy is caught");

    world.cluster.stop_apiserver();
    proxy.release();
    let arrived = || async { Ok(target.digest("big", "v1").await?.is_some().then_some(())) };
    eventually(LONG, "the image to arrive without an API server", arrived).await.expect("nobody is asked");
    world.cluster.start_apiserver().await.expect("it comes back");

    let api = world.mirrors(world.namespace()).await.expect("a client");
    until_ready(&api, "set", LONG).await.expect("Ready");
    assert_eq!(operator.process().try_wait().expect("a process"), None, "nobody had to start it again");
    target.walk("big", "v1").await.expect("everything is there");
    let sent = uploads(&world.target.requests().await.expect("the log"));
    assert!(sent.values().all(|count| *count == 1), "sent twice: {sent:#?}");
}
