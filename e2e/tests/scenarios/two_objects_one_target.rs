//! Objects of several namespaces share a target: they add up, and none takes anything from another.

use e2e::image::ImageSpec;
use e2e::mirror_sets::{Kind, owned, owned_rules};
use e2e::mirrorconf;
use e2e::operator::Overrides;
use e2e::wait::{LONG, condition, eventually, until_gone, until_ready, until_reason};
use e2e::world::World;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, DynamicObject};
use serde_json::json;

const OTHER: &str = "team-b";

/// Waits until whatever is made from now on is younger than this object: the API server counts in seconds.
async fn outlived(world: &World, object: &DynamicObject) {
    let made = object.creation_timestamp().expect("it was created").0.to_string();
    let probe = ["create", "configmap", "probe", "--dry-run=server", "-o", "jsonpath={.metadata.creationTimestamp}"];
    eventually(LONG, "a second to pass", || async {
        let now = world.cluster.kubectl(&probe).await?.ok()?;
        Ok((now > made).then_some(()))
    })
    .await
    .expect("time passes");
}

#[tokio::test]
async fn two_objects_share_a_target_and_the_older_one_owns_a_place_that_both_want() {
    let world = World::start().await.expect("the world starts");
    let own = world.namespace().to_owned();
    world.add_watched_namespace(OTHER).await.expect("a namespace");
    let source = world.source().expect("a client");
    let target = world.target().expect("a client");
    let push = |repository: &'static str, seed| source.push_image(repository, "v1", ImageSpec::seeded(seed));
    let app = push("team/app", 1).await.expect("an image").digest;
    let api = push("team/api", 2).await.expect("an image").digest;
    let tool = push("tools/tool", 3).await.expect("an image").digest;
    let impostor = push("impostor/tool", 4).await.expect("an image").digest;
    let (app, api) = (format!("team/app@{app}"), format!("team/api@{api}"));
    let namespaces = [own.as_str(), OTHER];
    let overrides = namespaces.iter().fold(Overrides::default(), |overrides, namespace| {
        overrides.flag("--watch-namespace", namespace).flag("--cluster-output-namespace", namespace)
    });
    let _operator = world.operator_with(&overrides).await.expect("the operator starts");
    let (ours, theirs) = (world.mirrors(&own).await.expect("a client"), world.mirrors(OTHER).await.expect("a client"));

    world.apply(&world.image_set_mirror(&own, "one", &[&app, "tools/tool:v1"])).await.expect("an object");
    let mut second = world.image_set_mirror(OTHER, "two", &[&api]);
    second["spec"]["clusterResources"] = json!({"removal": "Remove", "disruption": "AllowDrain"});
    world.apply(&second).await.expect("an object");
    let one = until_ready(&ours, "one", LONG).await.expect("one is ready");
    until_ready(&theirs, "two", LONG).await.expect("two is ready");
    let specs = [&app, &api].map(|image| format!("{}/{image}", world.source_host));
    let asked = specs.each_ref().map(String::as_str);
    let verdict = mirrorconf::judge_cluster(&world.cluster, &asked).await.expect("a verdict");
    assert_eq!(verdict.error, None);
    for (spec, image) in specs.iter().zip([&app, &api]) {
        assert_eq!(verdict.first(spec), Some(format!("{}/{image}", world.target_host).as_str()));
    }

    // The younger one that wants something else at a place is told whose it is, and nothing is overwritten.
    outlived(&world, &one).await;
    let mark = world.target.mark().await.expect("a mark");
    let mut third = world.image_set_mirror(OTHER, "three", &["impostor/tool:v1"]);
    third["spec"]["mirror"]["additionalImages"][0]["targetRepo"] = json!("tools/tool");
    world.apply(&third).await.expect("an object");
    let stalled = until_reason(&theirs, "three", ("Stalled", "True", "DestinationConflict"), LONG).await;
    let stalled = stalled.expect("it is found");
    let ready = condition(&stalled, "Ready").expect("the condition is there");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "DestinationConflict"), "{ready:?}");
    assert!(ready.message.contains(&format!("`{own}/one`")), "{ready:?}");
    assert!(ready.message.contains(&format!("{}/tools/tool:v1", world.target_host)), "{ready:?}");
    assert_eq!(target.digest("tools/tool", "v1").await.expect("an answer"), Some(tool.clone()));
    let requests = world.target.requests_since(mark).await.expect("the log");
    let written: Vec<_> = requests.iter().filter(|request| request.is_write()).collect();
    assert!(written.is_empty(), "{written:#?}");

    // What goes with one object is its own only.
    theirs.delete("two", &DeleteParams::default()).await.expect("it is deleted");
    until_gone(&theirs, "two", LONG).await.expect("it is gone");
    assert_eq!(owned(&world.cluster, Kind::Digest, OTHER, "two").await.expect("a list").len(), 0);
    let rules = owned_rules(&world.cluster, Kind::Digest, &own, "one").await.expect("rules");
    assert_eq!(rules.into_keys().collect::<Vec<_>>(), [format!("{}/team", world.source_host)]);
    target.walk("tools/tool", "v1").await.expect("content stays");
    let verdict = mirrorconf::judge_cluster(&world.cluster, &asked).await.expect("a verdict");
    assert_eq!(verdict.first(&specs[0]), Some(format!("{}/{app}", world.target_host).as_str()));
    let (repository, digest) = app.split_once('@').expect("a digest");
    assert!(target.manifest(repository, digest).await.expect("an answer").is_some());

    // When the older one leaves, its place is free.
    ours.delete("one", &DeleteParams::default()).await.expect("it is deleted");
    until_ready(&theirs, "three", LONG).await.expect("it goes on without a restart");
    assert_eq!(target.digest("tools/tool", "v1").await.expect("an answer"), Some(impostor));
}
