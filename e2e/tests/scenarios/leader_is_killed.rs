//! Two replicas, one of which leads.

use e2e::image::ImageSpec;
use e2e::interruption::{
    big, lease_holder, patch, proxy_before_source, quick_lease, until_leader, uploads, walk_every_tag,
};
use e2e::operator::Operator;
use e2e::wait::{LONG, SHORT, eventually, until_ready};
use e2e::world::World;
use serde_json::json;

/// Part of an image that has come in when the copy is held.
const PART: u64 = 1_500_000;

/// The value of `imagesetmirror_leader`.
async fn leads(operator: &Operator) -> bool {
    let metrics = operator.metrics().await.expect("metrics");
    metrics.lines().any(|line| line == "imagesetmirror_leader 1")
}

/// Reconciles that a replica has made.
async fn reconciles(operator: &Operator) -> f64 {
    let metrics = operator.metrics().await.expect("metrics");
    let counts = metrics.lines().filter(|line| line.starts_with("imagesetmirror_reconcile_total{"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn the_other_replica_takes_over_and_finishes() {
    let mut world = World::start().await.expect("the world starts");
    let proxy = proxy_before_source(&mut world).await.expect("a proxy");
    let source = world.source().expect("a client");
    source.push_image("big", "v1", big(1)).await.expect("an image");
    source.push_image("small", "v1", ImageSpec::seeded(2)).await.expect("an image");
    let target = world.target().expect("a client");
    let namespace = world.namespace();
    let api = world.mirrors(namespace).await.expect("a client");

    let mut first = world.operator_with(&quick_lease()).await.expect("the operator starts");
    until_leader(&world, first.pod_name()).await.expect("the first leads");
    let mut second = world.operator_with(&quick_lease()).await.expect("a second one is ready without leading");
    proxy.hold_after(PART);
    world.apply(&world.image_set_mirror(namespace, "set", &["big:v1"])).await.expect("accepted");
    proxy.until_held(LONG).await.expect("the copy is caught");
    assert_eq!((leads(&first).await, leads(&second).await), (true, false));
    assert!(second.is_ready().await);
    assert!(reconciles(&first).await > 0.0);
    assert!(reconciles(&second).await < 0.5, "only the leader looks at objects");

    // Killed: the lease expires, and the second goes on.
    first.kill();
    walk_every_tag(&target).await.expect("every tag is whole");
    until_leader(&world, second.pod_name()).await.expect("the second takes over");
    proxy.release();
    until_ready(&api, "set", LONG).await.expect("Ready");
    target.walk("big", "v1").await.expect("everything is there");
    let sent = uploads(&world.target.requests().await.expect("the log"));
    assert!(sent.values().all(|count| *count == 1), "sent twice: {sent:#?}");

    // Asked to end: the lease is free at once, and a third one needs no patience.
    let third = world.operator_with(&quick_lease()).await.expect("a third one starts");
    assert!(second.terminate().await.expect("it ends").success());
    let holder = lease_holder(&world).await.expect("the lease");
    assert!(holder.is_empty() || holder.starts_with(&format!("{}_", third.pod_name())), "`{holder}` holds the lease");
    until_leader(&world, third.pod_name()).await.expect("the third leads");
    world.apply(&world.image_set_mirror(namespace, "more", &["small:v1"])).await.expect("accepted");
    until_ready(&api, "more", LONG).await.expect("Ready");
}

#[tokio::test]
async fn a_leader_that_was_frozen_writes_nothing_after_another_has_taken_over() {
    let mut world = World::start().await.expect("the world starts");
    let proxy = proxy_before_source(&mut world).await.expect("a proxy");
    let source = world.source().expect("a client");
    source.push_image("big", "v1", big(1)).await.expect("an image");
    let manifest = source.push_image("small", "v1", ImageSpec::seeded(2)).await.expect("an image");
    let namespace = world.namespace();
    let api = world.mirrors(namespace).await.expect("a client");

    let mut frozen = world.operator_with(&quick_lease()).await.expect("the operator starts");
    until_leader(&world, frozen.pod_name()).await.expect("the first leads");
    let successor = world.operator_with(&quick_lease()).await.expect("a second one starts");
    let small = format!("small@{}", manifest.digest);
    proxy.hold_after(PART);
    world.apply(&world.image_set_mirror(namespace, "set", &["big:v1", &small])).await.expect("accepted");
    proxy.until_held(LONG).await.expect("the copy is caught");

    frozen.freeze().expect("it stands still");
    until_leader(&world, successor.pod_name()).await.expect("the second takes over");
    // Of another spec than the frozen one knows, so that it would have something to write.
    let images = json!([{"name": format!("{}/{small}", world.source_host)}]);
    patch(&api, "set", &json!({"spec": {"mirror": {"additionalImages": images}}})).await.expect("accepted");
    proxy.release();
    let ready = until_ready(&api, "set", LONG).await.expect("Ready");
    let mark = world.cluster.audit_mark().expect("audit");
    let at_target = world.target.mark().await.expect("the log");
    frozen.thaw().expect("it goes on");
    let status = frozen.process().wait(SHORT).await.expect("it ends by itself");
    assert!(status.success(), "{status}");
    // Something of the successor's after the end of the other: all that came before is in the log.
    eventually(SHORT, "the successor to renew", || async {
        let events = world.operator_requests_since(mark)?;
        Ok((events.iter().filter(|event| event.resource == "leases").count() > 2).then_some(()))
    })
    .await
    .expect("it renews");
    let events = world.operator_requests_since(mark).expect("audit");
    // Events change nothing, and those of the successor may come after the status that they tell of.
    let telling = ["leases", "events"];
    let writes: Vec<_> =
        events.iter().filter(|event| event.is_write() && !telling.contains(&event.resource.as_str())).collect();
    assert!(writes.is_empty(), "{writes:#?}");
    // The frozen one was in the middle of `big`, which nobody wants any more.
    let log = world.target.requests_since(at_target).await.expect("the log");
    let taken: Vec<_> = log.iter().filter(|request| request.is_write() && request.status < 300).collect();
    assert!(taken.is_empty(), "{taken:#?}");
    assert_eq!(world.target().expect("a client").digest("big", "v1").await.expect("an answer"), None);
    let after = api.get("set").await.expect("the object");
    assert_eq!(after.metadata.resource_version, ready.metadata.resource_version);
    let holder = lease_holder(&world).await.expect("the lease");
    assert!(holder.starts_with(&format!("{}_", successor.pod_name())), "`{holder}` holds the lease");
}
