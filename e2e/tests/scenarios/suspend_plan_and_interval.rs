//! What a user steers a sync with: suspend, plan mode, requests; and what can be seen of it: events and metrics.

use std::collections::BTreeSet;

use e2e::image::ImageSpec;
use e2e::interruption::{big, is_at, patch, proxy_before_source, quick_lease, uploads};
use e2e::operator::Operator;
use e2e::registry::LogMark;
use e2e::wait::{LONG, condition, eventually, has_condition, until, until_ready, until_reason};
use e2e::world::World;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::{Value, json};

/// Part of an image that has come in when the copy is held.
const PART: u64 = 1_500_000;

/// Reasons of the events about an object, each once.
async fn reasons(world: &World, name: &str) -> BTreeSet<String> {
    let events: Api<Event> = Api::namespaced(world.cluster.client().await.expect("a client"), world.namespace());
    let events = events.list(&ListParams::default()).await.expect("a list").items;
    let about = events.into_iter().filter(|event| {
        event.regarding.as_ref().is_some_and(|regarding| {
            regarding.kind.as_deref() == Some("ImageSetMirror") && regarding.name.as_deref() == Some(name)
        })
    });
    about.filter_map(|event| event.reason).collect()
}

/// Waits until there are events of all these reasons: they are written after the status that they tell of.
async fn until_told(world: &World, name: &str, wanted: &[&str]) {
    eventually(LONG, &format!("events {wanted:?}"), || async {
        let told = reasons(world, name).await;
        anyhow::ensure!(wanted.iter().all(|reason| told.contains(*reason)), "only {told:?}");
        Ok(Some(()))
    })
    .await
    .expect("the events are there");
}

/// Nothing came to the target after the mark; what was cut off may be logged as a failure late.
async fn at_rest(world: &World, mark: LogMark) {
    let mut log = world.target.requests_since(mark).await.expect("the log");
    log.retain(|request| request.status < 500);
    assert_eq!(log, [], "suspended, and yet at work");
}

/// The value of a line of `/metrics`, given up to the space.
async fn metric(operator: &Operator, series: &str) -> Option<f64> {
    let text = operator.metrics().await.expect("metrics");
    let prefix = format!("{series} ");
    text.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok())
}

fn last_attempt(object: &DynamicObject) -> Value {
    object.data.pointer("/status/sync/lastAttemptTime").cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_suspended_copy_stops_and_a_resumed_one_goes_on() {
    let mut world = World::start().await.expect("the world starts");
    let proxy = proxy_before_source(&mut world).await.expect("a proxy");
    world.source().expect("a client").push_image("big", "v1", big(1)).await.expect("an image");
    let mut operator = world.operator_with(&quick_lease()).await.expect("the operator starts");
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let mut object = world.image_set_mirror(world.namespace(), "set", &["big:v1"]);
    object["spec"]["copy"] = json!({"concurrency": 1});
    proxy.hold_after(PART);
    world.apply(&object).await.expect("accepted");
    proxy.until_held(LONG).await.expect("the copy is caught");

    patch(&api, "set", &json!({"spec": {"suspend": true}})).await.expect("accepted");
    let suspended = until_reason(&api, "set", ("Suspended", "True", "Suspended"), LONG).await.expect("confirmed");
    let ready = condition(&suspended, "Ready").expect("Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Suspended"));
    assert_eq!(condition(&suspended, "Reconciling"), None);
    assert_eq!(suspended.data["status"]["observedGeneration"], json!(2));
    until_told(&world, "set", &["Suspended"]).await;
    // The operator ends only after everything that it has begun: what it did not do until then it did not do.
    let mark = world.target.mark().await.expect("a mark");
    proxy.release();
    assert!(operator.terminate().await.expect("it ends").success());
    at_rest(&world, mark).await;
    operator = world.operator_with(&quick_lease()).await.expect("the operator starts");
    let series = "imagesetmirror_suspended{namespace=\"imageset-mirror\",name=\"set\"} 1";
    let seen = operator.until_metrics(LONG, |metrics| metrics.lines().any(|line| line == series)).await;
    seen.expect("it is known to be suspended");
    at_rest(&world, mark).await;

    patch(&api, "set", &json!({"spec": {"suspend": false}})).await.expect("accepted");
    let resumed = until_ready(&api, "set", LONG).await.expect("Ready");
    assert_eq!(condition(&resumed, "Suspended"), None);
    until_told(&world, "set", &["Resumed", "MirrorSucceeded"]).await;
    world.target().expect("a client").walk("big", "v1").await.expect("everything is there");
    let sent = uploads(&world.target.requests().await.expect("the log"));
    assert!(sent.values().all(|count| *count == 1), "sent twice: {sent:#?}");
}

#[tokio::test]
async fn a_planned_set_is_published_and_copied_only_when_the_mode_says_so() {
    let world = World::start().await.expect("the world starts");
    let manifest = world.source().expect("a client").push_image("app", "v1", ImageSpec::seeded(1)).await;
    let digest = manifest.expect("an image").digest;
    let _operator = world.operator_with(&quick_lease()).await.expect("the operator starts");
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let mut object = world.image_set_mirror(world.namespace(), "set", &["app:v1"]);
    object["spec"]["mode"] = json!("Plan");
    world.apply(&object).await.expect("accepted");
    let planned = until_reason(&api, "set", ("Ready", "True", "Planned"), LONG).await.expect("planned");
    let mirrored = condition(&planned, "Mirrored").expect("Mirrored");
    assert_eq!((mirrored.status.as_str(), mirrored.reason.as_str()), ("False", "PlanOnly"));
    assert_eq!(planned.data["status"]["plan"]["images"], json!(1));
    let log = world.target.requests().await.expect("the log");
    assert!(log.iter().all(|request| !request.is_write()), "plan mode writes nothing: {log:#?}");

    let client = world.cluster.client().await.expect("a client");
    let maps: Api<ConfigMap> = Api::namespaced(client, world.namespace());
    let map = eventually(LONG, "the plan to be published", || async { Ok(maps.get_opt("set-plan-0").await?) }).await;
    let map = map.expect("the plan is published");
    let lines = map.data.unwrap_or_default().remove("plan.jsonl").expect("the plan");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["state"], "missing");
    assert_eq!(lines[0]["digest"], json!(digest));
    assert_eq!(lines[0]["destination"], json!(format!("{}/app:v1", world.target_host)));
    let owners = map.metadata.owner_references.unwrap_or_default();
    assert_eq!(owners.iter().map(|owner| owner.name.as_str()).collect::<Vec<_>>(), ["set"]);

    patch(&api, "set", &json!({"spec": {"mode": "Mirror"}})).await.expect("accepted");
    let ready = until_reason(&api, "set", ("Ready", "True", "Succeeded"), LONG).await.expect("Ready");
    assert!(has_condition(&ready, "Mirrored", "True"));
    world.target().expect("a client").walk("app", "v1").await.expect("everything is there");
}

#[tokio::test]
async fn a_request_starts_a_sync_that_is_told_and_a_quiet_one_tells_nothing_else() {
    let world = World::start().await.expect("the world starts");
    let manifest = world.source().expect("a client").push_image("app", "v1", ImageSpec::seeded(1)).await;
    let image = format!("app@{}", manifest.expect("an image").digest);
    let operator = world.operator_with(&quick_lease()).await.expect("the operator starts");
    let standby = world.operator_with(&quick_lease()).await.expect("a standby is ready");
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let mut object = world.image_set_mirror(world.namespace(), "set", &[&image]);
    object["spec"]["interval"] = json!("6h");
    world.apply(&object).await.expect("accepted");
    let ready = until_ready(&api, "set", LONG).await.expect("Ready");
    assert!(ready.data["status"]["sync"]["nextTime"].is_string(), "the next sync is announced");
    let first = ["ResolveSucceeded", "MirrorSucceeded", "ResourceApplied"];
    until_told(&world, "set", &first).await;
    let told = reasons(&world, "set").await;

    assert!(standby.is_ready().await);
    assert_eq!(metric(&standby, "imagesetmirror_leader").await, Some(0.0));
    assert_eq!(metric(&operator, "imagesetmirror_leader").await, Some(1.0));
    let object = "namespace=\"imageset-mirror\",name=\"set\"";
    for (series, least) in [
        (format!("imagesetmirror_condition{{{object},type=\"Ready\",status=\"True\"}}"), 1.0),
        (format!("imagesetmirror_plan_images{{{object},origin=\"additional\"}}"), 1.0),
        (format!("imagesetmirror_sync_total{{{object},outcome=\"succeeded\"}}"), 1.0),
        (format!("imagesetmirror_last_success_timestamp_seconds{{{object}}}"), 1.0),
        ("imagesetmirror_images_total{outcome=\"copied\"}".to_owned(), 1.0),
        ("imagesetmirror_bytes_total{direction=\"written\"}".to_owned(), 6000.0),
    ] {
        let value = metric(&operator, &series).await.unwrap_or_default();
        assert!(value >= least, "{series} is {value} in\n{}", operator.metrics().await.expect("metrics"));
    }

    let written = world.target.mark().await.expect("a mark");
    let request = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": "now, please"}}});
    patch(&api, "set", &request).await.expect("accepted");
    let again = until(&api, "set", LONG, "synced again", |object| {
        object.data.pointer("/status/lastHandledRequest") == Some(&json!("now, please"))
            && last_attempt(object) != last_attempt(&ready)
    })
    .await
    .expect("the request is handled");
    assert!(has_condition(&again, "Ready", "True") && !is_at(&again, "Copying"));
    until_told(&world, "set", &["SyncRequested"]).await;
    let mut expected = told;
    expected.insert("SyncRequested".to_owned());
    assert_eq!(reasons(&world, "set").await, expected, "a quiet sync is no news");
    let log = world.target.requests_since(written).await.expect("the log");
    assert!(log.iter().all(|request| !request.is_write()), "nothing was to be written: {log:#?}");
}
