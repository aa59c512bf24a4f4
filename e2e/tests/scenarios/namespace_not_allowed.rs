//! An object in a namespace that may not write to the cluster mirrors, publishes, and writes nothing cluster-wide.

use e2e::image::ImageSpec;
use e2e::mirror_sets::{Kind, owned, published};
use e2e::mirrorconf;
use e2e::operator::Overrides;
use e2e::wait::{LONG, condition, has_condition, until_ready};
use e2e::world::World;

#[tokio::test]
async fn a_namespace_that_may_not_write_to_the_cluster_gets_its_images_and_its_manifests() {
    let world = World::start().await.expect("the world starts");
    world.add_watched_namespace("tenant").await.expect("a namespace");
    let source = world.source().expect("a client");
    let app = source.push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let overrides =
        Overrides::default().flag("--watch-namespace", world.namespace()).flag("--watch-namespace", "tenant");
    let _operator = world.operator_with(&overrides).await.expect("the operator starts");
    let mark = world.cluster.audit_mark().expect("a mark");

    let image = format!("team/app@{}", app.digest);
    let mirrors = world.mirrors("tenant").await.expect("a client");
    world.apply(&world.image_set_mirror("tenant", "app", &[&image, "team/app:v1"])).await.expect("an object");
    let object = until_ready(&mirrors, "app", LONG).await.expect("Ready does not depend on it");

    let applied = condition(&object, "ResourcesApplied").expect("the condition is there");
    assert_eq!((applied.status.as_str(), applied.reason.as_str()), ("False", "NamespaceNotAllowed"), "{applied:?}");
    assert!(!has_condition(&object, "Stalled", "True"));
    world.target().expect("a client").walk("team/app", "v1").await.expect("the image is there");
    for kind in [Kind::Digest, Kind::Tag] {
        assert_eq!(owned(&world.cluster, kind, "tenant", "app").await.expect("a list").len(), 0);
    }
    let requests = world.operator_requests_since(mark).expect("the audit log");
    let written: Vec<_> = requests.iter().filter(|event| event.is_write() && event.namespace.is_empty()).collect();
    assert!(written.is_empty(), "it does not even try: {written:#?}");

    // Whoever administers the cluster can apply what is published, and nodes then find the image.
    let manifests = published(&world.cluster, "tenant", "app-manifests").await.expect("a ConfigMap");
    let idms = manifests.get("idms.yaml").expect("the digest rules are published");
    world.cluster.apply(idms).await.expect("the API server takes it");
    let spec = format!("{}/{image}", world.source_host);
    let verdict = mirrorconf::judge_cluster(&world.cluster, &[&spec]).await.expect("a verdict");
    assert_eq!(verdict.error, None);
    assert_eq!(verdict.first(&spec), Some(format!("{}/{image}", world.target_host).as_str()));
}
