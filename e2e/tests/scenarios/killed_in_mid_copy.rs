//! An operator that is killed while it copies.

use std::collections::BTreeSet;

use e2e::image::ImageSpec;
use e2e::interruption::{big, proxy_before_source, quick_lease, uploads, walk_every_tag};
use e2e::wait::{LONG, eventually, until_ready};
use e2e::world::World;
use serde_json::json;

/// Bytes that come in between two kills: with what they are of, more than one layer and less than all.
const STEP: u64 = 2_500_000;

#[tokio::test]
async fn no_tag_names_missing_content_and_the_next_one_finishes_without_sending_anything_twice() {
    let mut world = World::start().await.expect("the world starts");
    let proxy = proxy_before_source(&mut world).await.expect("a proxy");
    let source = world.source().expect("a client");
    source.push_image("small", "v1", ImageSpec::seeded(1)).await.expect("an image");
    source.push_index("index", "v1", big(2), &["amd64", "arm64"]).await.expect("an index");
    let signed = source.push_image("signed", "v1", ImageSpec::seeded(3).layers(2, 1_000_000)).await.expect("an image");
    source.push_signature("signed", &signed.digest, 4).await.expect("a signature");
    let target = world.target().expect("a client");
    let namespace = world.namespace();
    let api = world.mirrors(namespace).await.expect("a client");
    let mut object = world.image_set_mirror(namespace, "set", &["index:v1", "signed:v1", "small:v1"]);
    object["spec"]["copy"] = json!({"concurrency": 1});
    world.apply(&object).await.expect("accepted");

    let mut there: BTreeSet<(String, String)> = BTreeSet::new();
    for round in 0..3 {
        proxy.hold_after(STEP);
        let mut operator = world.operator_with(&quick_lease()).await.expect("the operator starts");
        proxy.until_held(LONG).await.expect("the copy is caught");
        let before = there.len();
        eventually(LONG, "a blob to have arrived", || async {
            Ok((uploads(&world.target.requests().await?).len() > before).then_some(()))
        })
        .await
        .expect("something has arrived");
        operator.kill();
        proxy.cut();
        proxy.release();
        walk_every_tag(&target).await.expect("every tag is whole at the moment of the kill");
        let log = world.target.requests().await.expect("the log");
        let sent = uploads(&log);
        assert!(sent.values().all(|count| *count == 1), "sent twice in round {round}: {sent:#?}");
        there = sent.into_keys().collect();
    }

    let _operator = world.operator_with(&quick_lease()).await.expect("the operator starts");
    until_ready(&api, "set", LONG).await.expect("Ready");
    for repository in ["index", "signed", "small"] {
        let wanted = source.walk(repository, "v1").await.expect("the source is whole");
        assert_eq!(target.walk(repository, "v1").await.expect("the target is whole"), wanted, "{repository}");
    }
    // Three images, the signature, ledger and plan.
    assert!(walk_every_tag(&target).await.expect("every tag is whole") >= 6);
    let sent = uploads(&world.target.requests().await.expect("the log"));
    assert!(sent.values().all(|count| *count == 1), "sent twice: {sent:#?}");
    assert!(sent.len() > there.len(), "the last one had something to do");
}
