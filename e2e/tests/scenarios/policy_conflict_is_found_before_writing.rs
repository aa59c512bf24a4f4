//! A mirror set that nodes could not merge with the others of the cluster is never written.

use e2e::cluster::{AuditMark, Cluster, OpenShiftKind};
use e2e::image::ImageSpec;
use e2e::mirror_sets::{Kind, owned, owned_rules, published};
use e2e::mirrorconf::{self, Verdict};
use e2e::wait::{LONG, condition, eventually, has_condition, until_gone, until_ready, until_reason};
use e2e::world::{Setup, World};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject};
use serde_json::{Value, json};

const CONFLICT: (&str, &str, &str) = ("ResourcesApplied", "False", "MirrorPolicyConflict");

async fn world() -> World {
    let kinds = [OpenShiftKind::MIRROR_SETS.as_slice(), &[OpenShiftKind::ImageContentSourcePolicy]].concat();
    World::start_with(Setup { kinds, ..Setup::default() }).await.expect("the world starts")
}

/// An image in the source, as a reference by digest.
async fn image(world: &World, repository: &str, seed: u64) -> String {
    let source = world.source().expect("a client");
    let pushed = source.push_image(repository, "v1", ImageSpec::seeded(seed)).await.expect("an image");
    format!("{repository}@{}", pushed.digest)
}

/// Writes of mirror sets by the operator after a mark.
fn written(world: &World, mark: AuditMark) -> Vec<String> {
    let events = world.operator_requests_since(mark).expect("the audit log").into_iter();
    let writes = events.filter(|event| event.is_write() && event.resource.ends_with("mirrorsets"));
    writes.map(|event| format!("{} {}", event.verb, event.name)).collect()
}

fn closed(mut object: Value) -> Value {
    object["spec"]["clusterResources"] = json!({"imageDigestMirrorSet": {"mirrorSourcePolicy": "NeverContactSource"}});
    object
}

/// Nodes can merge what the cluster has now.
async fn mergeable(cluster: &Cluster, specs: &[&str]) -> Verdict {
    let verdict = mirrorconf::judge_cluster(cluster, specs).await.expect("a verdict");
    assert_eq!(verdict.error, None);
    verdict
}

fn assert_stalled(object: &DynamicObject, named: &[&str]) {
    for (kind, status) in [("Ready", "False"), ("Stalled", "True"), ("ResourcesApplied", "False")] {
        let found = condition(object, kind).expect("the condition is there");
        assert_eq!((found.status.as_str(), found.reason.as_str()), (status, "MirrorPolicyConflict"), "{found:?}");
        assert!(named.iter().all(|name| found.message.contains(name)), "{named:?} in {found:?}");
    }
    assert_eq!(condition(object, "Reconciling"), None);
    let mirrored = condition(object, "Mirrored").expect("the content is there all the same");
    assert_eq!(mirrored.status, "True");
}

#[tokio::test]
async fn a_foreign_mirror_set_with_another_policy_keeps_us_from_writing_for_its_source_only() {
    let world = world().await;
    let namespace = world.namespace().to_owned();
    let (app, tool) = (image(&world, "team/app", 1).await, image(&world, "free/tool", 2).await);
    let host = &world.source_host;
    let (contested, free) = (format!("{host}/team"), format!("{host}/free"));
    let theirs = |policy| Kind::Digest.foreign("theirs", &contested, "other.example.com/team", policy).to_string();
    world.cluster.apply(&theirs("NeverContactSource")).await.expect("a foreign mirror set");
    let (app_spec, tool_spec) = (format!("{host}/{app}"), format!("{host}/{tool}"));
    let specs = [app_spec.as_str(), tool_spec.as_str()];
    mergeable(&world.cluster, &specs).await;

    let mark = world.cluster.audit_mark().expect("the audit log");
    let _operator = world.operator().await.expect("the operator starts");
    let mirrors = world.mirrors(&namespace).await.expect("a client");
    world.apply(&world.image_set_mirror(&namespace, "ours", &[&app, &tool])).await.expect("an object");
    let object = until_reason(&mirrors, "ours", CONFLICT, LONG).await.expect("the conflict is found");

    let sets = owned(&world.cluster, Kind::Digest, &namespace, "ours").await.expect("a list");
    let name = sets.first().expect("the other source has its rule").name_any();
    assert_stalled(&object, &["`theirs`", &format!("`{name}`"), &contested]);
    assert_eq!(written(&world, mark), [format!("patch {name}")], "found before, not written and taken back");
    let rules = owned_rules(&world.cluster, Kind::Digest, &namespace, "ours").await.expect("rules");
    assert_eq!(rules.keys().collect::<Vec<_>>(), [&free], "nothing for the contested source");
    let verdict = mergeable(&world.cluster, &specs).await;
    assert_eq!(verdict.first(&tool_spec), Some(format!("{}/{tool}", world.target_host).as_str()));
    assert!(verdict.first(&app_spec).is_some_and(|first| first.starts_with("other.example.com/")), "{verdict:?}");

    world.cluster.apply(&theirs("AllowContactingSource")).await.expect("they give in");
    let object = until_ready(&mirrors, "ours", LONG).await.expect("it goes on by itself");
    assert_eq!(condition(&object, "Stalled"), None);
    let rules = owned_rules(&world.cluster, Kind::Digest, &namespace, "ours").await.expect("rules");
    assert_eq!(rules.keys().collect::<Vec<_>>(), [&free, &contested]);
    let verdict = mergeable(&world.cluster, &specs).await;
    let ours = format!("{}/{app}", world.target_host);
    assert!(verdict.pulls[0].lookups.contains(&ours), "{verdict:?}");
}

#[tokio::test]
async fn old_policies_and_other_objects_of_ours_count_like_foreign_ones() {
    let world = world().await;
    let namespace = world.namespace().to_owned();
    let (legacy, shared) = (image(&world, "legacy/app", 1).await, image(&world, "shared/app", 2).await);
    let host = &world.source_host;
    // An ImageContentSourcePolicy always lets nodes contact the source.
    let policy = json!({
        "apiVersion": "operator.openshift.io/v1alpha1", "kind": "ImageContentSourcePolicy",
        "metadata": {"name": "from-old-times"},
        "spec": {"repositoryDigestMirrors": [{"source": format!("{host}/legacy"), "mirrors": ["old.example.com/legacy"]}]},
    });
    world.cluster.apply(&policy.to_string()).await.expect("a policy");
    let _operator = world.operator().await.expect("the operator starts");
    let mirrors = world.mirrors(&namespace).await.expect("a client");

    let mark = world.cluster.audit_mark().expect("the audit log");
    let object = world.image_set_mirror(&namespace, "legacy", &[&legacy]);
    world.apply(&closed(object)).await.expect("an object");
    let object = until_reason(&mirrors, "legacy", CONFLICT, LONG).await.expect("the conflict is found");
    assert_stalled(&object, &["ImageContentSourcePolicy `from-old-times`", "ImageDigestMirrorSet `"]);
    assert_eq!(owned(&world.cluster, Kind::Digest, &namespace, "legacy").await.expect("a list").len(), 0);
    assert_eq!(written(&world, mark), Vec::<String>::new());
    let spec = format!("{host}/{legacy}");
    mergeable(&world.cluster, &[&spec]).await;
    let delete = ["delete", "imagecontentsourcepolicies", "from-old-times"];
    world.cluster.kubectl(&delete).await.expect("kubectl").ok().expect("it is deleted");
    until_ready(&mirrors, "legacy", LONG).await.expect("it goes on by itself");
    assert!(mergeable(&world.cluster, &[&spec]).await.pulls[0].source_blocked);

    // Two that disagree, at the same time: one of them is first, whichever, and the other does not write.
    let object = |name| world.image_set_mirror(&namespace, name, &[&shared]);
    let both = format!("{}\n---\n{}", object("open"), closed(object("closed")));
    world.cluster.apply(&both).await.expect("two objects");
    let settled =
        |object: &DynamicObject| has_condition(object, "Ready", "True") || has_condition(object, "Stalled", "True");
    let (one, other) = eventually(LONG, "both to be decided", || async {
        let (one, other) = (mirrors.get("open").await?, mirrors.get("closed").await?);
        Ok((settled(&one) && settled(&other)).then_some((one, other)))
    })
    .await
    .expect("both are decided");
    let spec = format!("{host}/{shared}");
    mergeable(&world.cluster, &[&spec]).await;
    let ready = [&one, &other].map(|object| has_condition(object, "Ready", "True"));
    assert_ne!(ready[0], ready[1], "{one:#?} {other:#?}");
    let (first, second) = if ready[0] { ("open", other) } else { ("closed", one) };
    let winner = owned(&world.cluster, Kind::Digest, &namespace, first).await.expect("a list");
    assert_stalled(&second, &[&format!("`{}`", winner[0].name_any())]);
    assert_eq!(owned(&world.cluster, Kind::Digest, &namespace, &second.name_any()).await.expect("a list").len(), 0);

    let agree = if first == "open" { object("closed") } else { closed(object("open")) };
    world.apply(&agree).await.expect("they agree");
    until_ready(&mirrors, &second.name_any(), LONG).await.expect("it is solved");
    assert_eq!(owned(&world.cluster, Kind::Digest, &namespace, &second.name_any()).await.expect("a list").len(), 1);
    mergeable(&world.cluster, &[&spec]).await;
}

#[tokio::test]
async fn an_object_of_our_name_that_is_not_ours_is_named_or_taken_over() {
    let world = world().await;
    let namespace = world.namespace().to_owned();
    let app = image(&world, "team/app", 1).await;
    let _operator = world.operator().await.expect("the operator starts");
    let mirrors = world.mirrors(&namespace).await.expect("a client");
    let mut object = world.image_set_mirror(&namespace, "ours", &[&app]);
    world.apply(&object).await.expect("an object");
    until_ready(&mirrors, "ours", LONG).await.expect("it is ready");
    let name = owned(&world.cluster, Kind::Digest, &namespace, "ours").await.expect("a list")[0].name_any();

    // The object goes, and somebody else takes the name that it used.
    mirrors.delete("ours", &DeleteParams::default()).await.expect("it is deleted");
    until_gone(&mirrors, "ours", LONG).await.expect("it is gone");
    eventually(LONG, "its manifests to be collected", || async {
        let manifests = published(&world.cluster, &namespace, "ours-manifests").await?;
        Ok(manifests.is_empty().then_some(()))
    })
    .await
    .expect("they go with it");
    let sets: Api<DynamicObject> = Kind::Digest.api(&world.cluster).await.expect("a client");
    sets.get(&name).await.expect("by default rules outlive the object");
    sets.delete(&name, &DeleteParams::default()).await.expect("it is deleted");
    let theirs = Kind::Digest.foreign(&name, "quay.io/theirs", "other.example.com/theirs", "AllowContactingSource");
    world.cluster.apply(&theirs.to_string()).await.expect("a foreign mirror set");
    let before = sets.get(&name).await.expect("it is there");

    world.apply(&object).await.expect("an object");
    let refused = until_reason(&mirrors, "ours", ("ResourcesApplied", "False", "Conflict"), LONG).await;
    let refused = refused.expect("it is refused");
    let ready = condition(&refused, "Ready").expect("the condition is there");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Conflict"));
    assert!(ready.message.contains(&format!("`{name}`")) && ready.message.contains("Adopt"), "{ready:?}");
    assert!(has_condition(&refused, "Stalled", "True"));
    let after = sets.get(&name).await.expect("it is there");
    assert_eq!(after.resource_version(), before.resource_version(), "it is not touched");

    object["spec"]["clusterResources"] = json!({"conflictPolicy": "Adopt"});
    world.apply(&object).await.expect("the object is changed");
    until_ready(&mirrors, "ours", LONG).await.expect("it is taken over");
    let rules = owned_rules(&world.cluster, Kind::Digest, &namespace, "ours").await.expect("rules");
    let ours = format!("{}/team", world.source_host);
    let expected = [
        (ours.as_str(), format!("{}/team", world.target_host)),
        ("quay.io/theirs", "other.example.com/theirs".to_owned()),
    ];
    let expected = expected.map(|(source, mirror)| (source.to_owned(), vec![mirror])).into_iter().collect();
    assert_eq!(rules, expected, "what nodes had is kept");
}
