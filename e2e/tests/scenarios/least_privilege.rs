//! What the operator may do is exactly what it does: roles compared with the API server's audit log.

use std::collections::BTreeMap;

use e2e::cluster::OpenShiftKind;
use e2e::image::ImageSpec;
use e2e::mirror_sets::{Kind, owned, published};
use e2e::operator::Overrides;
use e2e::rbac;
use e2e::wait::{LONG, condition, eventually, until, until_gone, until_ready, until_reason};
use e2e::world::{Setup, World};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

/// What is granted and not seen in the log, and why.
const UNSEEN: [(&str, &str); 3] = [
    (
        "update imagesetmirrors/finalizers.mirror.openshift.io in imageset-mirror (role imageset-mirror-watched)",
        "asked for by OpenShift's admission plugin when an object becomes the owner of another, never requested as such",
    ),
    ("create imagedigestmirrorsets.config.openshift.io in all namespaces (role imageset-mirror-cluster)", BY_APPLY),
    ("create imagetagmirrorsets.config.openshift.io in all namespaces (role imageset-mirror-cluster)", BY_APPLY),
];

const BY_APPLY: &str = "checked when server-side apply makes an object; the log has the patch";

const APPLIED: (&str, &str, &str) = ("ResourcesApplied", "True", "Applied");
const CRD: &str = "customresourcedefinitions/imagesetmirrors.mirror.openshift.io";
const SUSPEND: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/suspend";

fn with(mut object: Value, field: &str, value: Value) -> Value {
    object["spec"][field] = value;
    object
}

/// Everything that the operator does for objects of one namespace.
async fn live(world: &World, mirrors: &Api<DynamicObject>) {
    let namespace = world.namespace();
    let source = world.source().expect("a client");
    let mut images = Vec::new();
    for (seed, repository) in (1..).zip(["one/app", "two/app"]) {
        let pushed = source.push_image(repository, "v1", ImageSpec::seeded(seed)).await.expect("an image");
        images.extend([format!("{repository}@{}", pushed.digest), format!("{repository}:v1")]);
    }
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let free = json!({"imageTagMirrorSet": {"policy": "Apply"}, "removal": "Remove", "disruption": "AllowDrain"});
    let none = json!({
        "imageDigestMirrorSet": {"policy": "Disabled"}, "imageTagMirrorSet": {"policy": "Disabled"},
        "removal": "Remove", "disruption": "AllowDrain",
    });
    let timing = [("--lease-duration", "15s"), ("--renew-deadline", "10s"), ("--retry-period", "2s")];
    let overrides = timing.iter().fold(Overrides::default(), |overrides, (flag, value)| overrides.flag(flag, value));
    let mut first = world.operator_with(&overrides).await.expect("the operator starts");
    let object =
        |images: &[&str]| with(world.image_set_mirror(namespace, "wide", images), "clusterResources", free.clone());

    // Mirror, write both kinds, take a rule away, sync once more.
    world.apply(&object(&images)).await.expect("an object");
    until_reason(mirrors, "wide", APPLIED, LONG).await.expect("it is written");
    world.apply(&object(&images[..2])).await.expect("an image leaves");
    until(mirrors, "wide", LONG, "synced", |object| {
        let generation = object.metadata.generation;
        object.data.pointer("/status/plan/images").and_then(Value::as_i64) == Some(2)
            && object.data.pointer("/status/observedGeneration").and_then(Value::as_i64) == generation
    })
    .await
    .expect("it is smaller");
    until_reason(mirrors, "wide", APPLIED, LONG).await.expect("it is written");
    for token in ["once", "twice"] {
        let patch = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": token}}});
        mirrors.patch("wide", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the object is taken");
        until(mirrors, "wide", LONG, "synced", |object| {
            object.data.pointer("/status/lastHandledRequest").and_then(Value::as_str) == Some(token)
        })
        .await
        .expect("it is synced");
    }

    // What happens again soon is told by the event that there is.
    for suspend in [true, false, true, false] {
        let patch = json!({"spec": {"suspend": suspend}});
        mirrors.patch("wide", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the object is taken");
        let status = if suspend { "suspended" } else { "resumed" };
        until(mirrors, "wide", LONG, status, |object| condition(object, "Suspended").is_some() == suspend)
            .await
            .expect("it is noted");
    }

    // A plan, and an object that wants nothing of the cluster any more.
    let plan = with(world.image_set_mirror(namespace, "planned", &images), "mode", json!("Plan"));
    world.apply(&plan).await.expect("an object");
    until_ready(mirrors, "planned", LONG).await.expect("it is planned");
    assert!(!published(&world.cluster, namespace, "planned-plan-0").await.expect("a ConfigMap").is_empty());
    let brief = world.image_set_mirror(namespace, "brief", &images[2..]);
    world.apply(&with(brief.clone(), "clusterResources", free.clone())).await.expect("an object");
    until_reason(mirrors, "brief", APPLIED, LONG).await.expect("it is written");
    world.apply(&with(brief, "clusterResources", none)).await.expect("the object is changed");
    eventually(LONG, "everything of it to be withdrawn", || async {
        let rest = published(&world.cluster, namespace, "brief-manifests").await?.len();
        let rules = owned(&world.cluster, Kind::Digest, namespace, "brief").await?.len();
        Ok((rest + rules == 0).then_some(()))
    })
    .await
    .expect("it is withdrawn");

    // An object that another version of the CRD let in.
    let strange = |kind: &str| json!([{"op": "replace", "path": format!("{SUSPEND}/type"), "value": kind}]).to_string();
    for (step, kind) in ["string", "boolean"].into_iter().enumerate() {
        let patch = strange(kind);
        let args = ["patch", CRD, "--type=json", "--patch", &patch];
        world.cluster.kubectl(&args).await.expect("kubectl").ok().expect("the CRD is changed");
        if step == 0 {
            let object = with(world.image_set_mirror(namespace, "strange", &images), "suspend", json!("maybe"));
            eventually(LONG, "the changed CRD to count", || async { world.apply(&object).await.map(Some) })
                .await
                .expect("it is let in");
            until_reason(mirrors, "strange", ("Stalled", "True", "InvalidSpec"), LONG).await.expect("it is named");
            mirrors.delete("strange", &DeleteParams::default()).await.expect("it is deleted");
            until_gone(mirrors, "strange", LONG).await.expect("it is gone");
        }
    }

    // Another process takes over, and cleans up after an object.
    let second = world.operator_with(&overrides).await.expect("a second one starts");
    first.terminate().await.expect("the first one ends");
    eventually(LONG, "the second one to lead", || async {
        let metrics = second.metrics().await?;
        let leader = metrics.lines().find(|line| line.starts_with("imagesetmirror_leader")).map(ToOwned::to_owned);
        anyhow::ensure!(leader.as_deref() == Some("imagesetmirror_leader 1"), "{leader:?}");
        Ok(Some(()))
    })
    .await
    .expect("it leads");
    mirrors.delete("wide", &DeleteParams::default()).await.expect("it is deleted");
    until_gone(mirrors, "wide", LONG).await.expect("it is gone");
    for kind in [Kind::Digest, Kind::Tag] {
        assert_eq!(owned(&world.cluster, kind, namespace, "wide").await.expect("a list").len(), 0);
    }
}

#[tokio::test]
async fn no_request_is_refused_and_no_permission_is_unused() {
    let setup = Setup { kinds: OpenShiftKind::ALL.to_vec(), ..Setup::default() };
    let world = World::start_with(setup).await.expect("the world starts");
    let mirrors = world.mirrors(world.namespace()).await.expect("a client");
    let mark = world.cluster.audit_mark().expect("a mark");
    live(&world, &mirrors).await;

    let events = world.operator_requests_since(mark).expect("the audit log");
    assert!(events.len() > 50, "{events:#?}");
    let refused: Vec<_> = events.iter().filter(|event| event.is_refused()).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let enumerated: Vec<_> = events.iter().filter(|event| event.resource == "secrets" && event.verb != "get").collect();
    assert!(enumerated.is_empty(), "{enumerated:#?}");
    let is_mirror_set = |resource: &str| resource.ends_with("mirrorsets");
    let prefix = format!("{}-", world.namespace());
    let foreign: Vec<_> = events
        .iter()
        .filter(|event| event.is_write() && is_mirror_set(&event.resource) && !event.name.starts_with(&prefix))
        .collect();
    assert!(foreign.is_empty(), "{foreign:#?}");

    let account = &world.deployment.service_account;
    let grants = rbac::grants(&world.cluster, world.namespace(), account).await.expect("grants");
    let unused: Vec<String> = rbac::unused(&grants, &events).into_iter().map(ToString::to_string).collect();
    let reasons: BTreeMap<&str, &str> = UNSEEN.into_iter().collect();
    let unexplained: Vec<_> = unused.iter().filter(|grant| !reasons.contains_key(grant.as_str())).collect();
    assert!(unexplained.is_empty(), "granted and never used: {unexplained:#?}");
    let stale: Vec<_> = reasons.keys().filter(|reason| !unused.iter().any(|grant| grant == *reason)).collect();
    assert!(stale.is_empty(), "used after all, or not granted: {stale:#?}");
}
