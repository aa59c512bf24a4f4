//! The operator runs on any Kubernetes, and uses OpenShift's kinds as soon as they are there.

use e2e::cluster::OpenShiftKind;
use e2e::image::ImageSpec;
use e2e::interruption::patch;
use e2e::mirror_sets::{Kind, owned, published};
use e2e::mirrorconf;
use e2e::operator::Overrides;
use e2e::wait::{LONG, condition, eventually, until_ready, until_reason};
use e2e::world::{Setup, World};
use serde_json::json;

#[tokio::test]
async fn rules_are_published_without_openshift_and_appear_by_themselves_with_it() {
    let world = World::start_with(Setup { kinds: Vec::new(), ..Setup::default() }).await.expect("the world starts");
    let namespace = world.namespace().to_owned();
    let source = world.source().expect("a client");
    let app = source.push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let image = format!("team/app@{}", app.digest);
    let overrides = Overrides::default().flag("--kinds-period", "2s");
    let mut operator = world.operator_with(&overrides).await.expect("the operator starts");
    let mark = world.cluster.audit_mark().expect("a mark");

    let mirrors = world.mirrors(&namespace).await.expect("a client");
    world.apply(&world.image_set_mirror(&namespace, "app", &[&image])).await.expect("an object");
    let object = until_ready(&mirrors, "app", LONG).await.expect("Ready does not depend on it");
    let applied = condition(&object, "ResourcesApplied").expect("the condition is there");
    assert_eq!((applied.status.as_str(), applied.reason.as_str()), ("False", "KindNotServed"), "{applied:?}");
    let manifests = published(&world.cluster, &namespace, "app-manifests").await.expect("a ConfigMap");
    assert!(manifests.get("idms.yaml").is_some_and(|text| text.contains("team")), "{manifests:?}");
    let hosts = published(&world.cluster, &namespace, "app-containerd-hosts").await.expect("a ConfigMap");
    let key = format!("{}_.hosts.toml", world.source_host.replace(':', "_"));
    assert_eq!(hosts.keys().collect::<Vec<_>>(), [&key, "ca.crt"], "nodes with containerd have what they need");
    let requests = world.operator_requests_since(mark).expect("the audit log");
    let asked: Vec<_> = requests
        .iter()
        .filter(|event| {
            event.group.ends_with("openshift.io")
                && event.resource.contains("set")
                && event.group != "mirror.openshift.io"
        })
        .collect();
    assert!(asked.is_empty(), "kinds that are not there are not asked for: {asked:#?}");

    world.cluster.add_kinds(&[OpenShiftKind::ImageDigestMirrorSet]).await.expect("the kind is served");
    until_reason(&mirrors, "app", ("ResourcesApplied", "True", "Applied"), LONG).await.expect("it is written");
    assert_eq!(owned(&world.cluster, Kind::Digest, &namespace, "app").await.expect("a list").len(), 1);
    let spec = format!("{}/{image}", world.source_host);
    let verdict = mirrorconf::judge_cluster(&world.cluster, &[&spec]).await.expect("a verdict");
    assert_eq!(verdict.first(&spec), Some(format!("{}/{image}", world.target_host).as_str()));

    // Nodes that use the files keep them; who did not have them gets none by default; and they go when that is said.
    assert_eq!(published(&world.cluster, &namespace, "app-containerd-hosts").await.expect("a ConfigMap"), hosts);
    world.apply(&world.image_set_mirror(&namespace, "later", &[&image])).await.expect("an object");
    until_reason(&mirrors, "later", ("ResourcesApplied", "True", "Applied"), LONG).await.expect("it is written");
    assert!(published(&world.cluster, &namespace, "later-containerd-hosts").await.expect("an answer").is_empty());
    let disabled = json!({"spec": {"clusterResources": {"containerdHosts": {"policy": "Disabled"}}}});
    patch(&mirrors, "app", &disabled).await.expect("accepted");
    eventually(LONG, "the ConfigMap to go", || async {
        let left = published(&world.cluster, &namespace, "app-containerd-hosts").await?;
        Ok(left.is_empty().then_some(()))
    })
    .await
    .expect("it goes");
    assert!(operator.process().try_wait().expect("a state").is_none(), "it is the same process");
}
