//! What is in place costs next to nothing: one look at each image, no write anywhere.

use std::collections::BTreeMap;

use e2e::cluster::AuditEvent;
use e2e::image::{Flavour, ImageSpec, Manifest};
use e2e::operator::Operator;
use e2e::registry::{LoggedRequest, Options};
use e2e::wait::{LONG, SHORT, condition, eventually, has_condition, until, until_ready};
use e2e::world::{Setup, World};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

const NAME: &str = "unchanged";

/// Tags at the source; the first is an index and the second is signed.
const TAGS: [(&str, &str); 4] = [("index", "v1"), ("team/signed", "v1"), ("team/app", "v1"), ("team/app", "v2")];

/// A world with an object that is Ready: four tags and a digest.
struct Synced {
    world: World,
    operator: Operator,
    mirrors: Api<DynamicObject>,
    by_digest: Manifest,
}

impl Synced {
    async fn start(setup: Setup) -> Self {
        let world = World::start_with(setup).await.expect("the world starts");
        let operator = world.operator().await.expect("the operator starts");
        let source = world.source().expect("a client");
        let docker = ImageSpec::seeded(1).flavour(Flavour::Docker);
        source.push_index("index", "v1", docker, &["amd64", "arm64"]).await.expect("an index");
        let signed = source.push_image("team/signed", "v1", ImageSpec::seeded(2)).await.expect("an image");
        source.push_signature("team/signed", &signed.digest, 3).await.expect("a signature");
        source.push_referrer("team/signed", &signed, 4).await.expect("a referrer");
        source.push_image("team/app", "v1", ImageSpec::seeded(5)).await.expect("an image");
        source.push_image("team/app", "v2", ImageSpec::seeded(6)).await.expect("an image");
        let by_digest = source.push_image("pinned", "v1", ImageSpec::seeded(7)).await.expect("an image");
        let digest = format!("pinned@{}", by_digest.digest);
        let tags = TAGS.map(|(repository, tag)| format!("{repository}:{tag}"));
        let images: Vec<&str> = tags.iter().map(String::as_str).chain([digest.as_str()]).collect();
        let mut object = world.image_set_mirror(world.namespace(), NAME, &images);
        object["spec"]["clusterResources"] =
            json!({"imageTagMirrorSet": {"policy": "Apply"}, "disruption": "AllowDrain"});
        object["spec"]["interval"] = json!("24h");
        if let Some(server) = world.source.token_server() {
            // The harness's token servers speak plain HTTP, to which a registry with TLS may lead only if it is allowed.
            let realm = server.realm().trim_start_matches("http://").trim_end_matches("/token");
            object["spec"]["source"]["hosts"] = json!([{"host": realm, "tls": "Plain"}]);
        }
        world.apply(&object).await.expect("the object is taken");
        let mirrors = world.mirrors(world.namespace()).await.expect("a client");
        until_ready(&mirrors, NAME, LONG).await.expect("it becomes Ready");
        // Events are written after the status that they tell of; the last ones are about the two mirror sets.
        let events: Api<Event> = Api::namespaced(world.cluster.client().await.expect("a client"), world.namespace());
        eventually(LONG, "the events of the first sync", || async {
            let events = events.list(&ListParams::default()).await?.items;
            let applied = events.iter().filter(|event| event.reason.as_deref() == Some("ResourceApplied")).count();
            Ok((applied == 2).then_some(()))
        })
        .await
        .expect("the events of the first sync are there");
        Self { world, operator, mirrors, by_digest }
    }

    async fn get(&self) -> DynamicObject {
        self.mirrors.get(NAME).await.expect("the object")
    }

    async fn annotate(&self, key: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.mirrors.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the annotation");
    }

    /// Asks for a sync and waits until its end is in the status.
    async fn sync_again(&self, token: &str) -> DynamicObject {
        let before = self.get().await.data["status"]["sync"]["lastSuccessTime"].clone();
        self.annotate("mirror.openshift.io/requested-at", token).await;
        until(&self.mirrors, NAME, LONG, "synced again", |object| {
            let status = &object.data["status"];
            status["lastHandledRequest"] == token && status["sync"]["lastSuccessTime"] != before
        })
        .await
        .expect("a second sync ends")
    }

    /// What a sync of this object asks of the target: one look at each tag that it keeps there.
    fn at_target(&self) -> BTreeMap<String, usize> {
        let kept = self.by_digest.digest.replace(':', "-");
        let tags = TAGS.into_iter().chain([("pinned", kept.as_str())]);
        tags.map(|(repository, tag)| (format!("HEAD /v2/{repository}/manifests/{tag} 200"), 1)).collect()
    }

    /// And of the source: what each tag is now. What is wanted by digest is not asked for.
    fn at_source() -> BTreeMap<String, usize> {
        TAGS.into_iter().map(|(repository, tag)| (format!("HEAD /v2/{repository}/manifests/{tag} 200"), 1)).collect()
    }

    /// How often the operator has reconciled.
    async fn reconciles(&self) -> u64 {
        let metrics = self.operator.metrics().await.expect("metrics");
        let counts = metrics.lines().filter(|line| line.starts_with("imagesetmirror_reconcile_total"));
        counts.map(|line| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a number")).sum()
    }

    /// Changes something about the object that concerns nobody, and waits until the operator has looked at it.
    async fn provoke_reconcile(&self, value: &str) {
        let before = self.reconciles().await;
        self.annotate("example.com/unrelated", value).await;
        eventually(SHORT, "a reconcile", || async { Ok((self.reconciles().await > before).then_some(())) })
            .await
            .expect("the operator looks at the object");
    }
}

fn counted(requests: &[LoggedRequest]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(format!("{} {} {}", request.method, request.path, request.status)).or_default() += 1;
    }
    counts
}

/// Writes but for the lease, which says that the operator is alive.
fn writes(events: Vec<AuditEvent>) -> Vec<String> {
    let writes = events.into_iter().filter(|event| event.is_write() && event.resource != "leases");
    writes.map(|event| format!("{} {}/{} {}", event.verb, event.resource, event.subresource, event.name)).collect()
}

/// The status without what one more sync may change.
fn lasting(object: &DynamicObject) -> Value {
    let mut status = object.data["status"].clone();
    let fields = status.as_object_mut().expect("a status");
    for field in ["lastHandledRequest", "sync", "history"] {
        fields.remove(field);
    }
    status
}

#[tokio::test]
async fn a_second_sync_asks_once_for_each_image_and_tag_and_writes_nothing() {
    // Nobody wants a password here: what is asked is what the sync needs.
    let setup = Setup {
        source: Options::distribution("source").tls(),
        target: Options::distribution("target").tls(),
        ..Setup::default()
    };
    let synced = Synced::start(setup).await;
    let world = &synced.world;
    let before = synced.get().await;
    let audit = world.cluster.audit_mark().expect("the audit log");
    let (source, target) = (world.source.mark().await.expect("the log"), world.target.mark().await.expect("the log"));

    let after = synced.sync_again("second").await;

    let asked = world.target.requests_since(target).await.expect("the log");
    assert_eq!(counted(&asked), synced.at_target());
    let asked = world.source.requests_since(source).await.expect("the log");
    assert_eq!(counted(&asked), Synced::at_source());

    // In the status that it started and that it ended, and one event that says that somebody asked.
    let is_event = |write: &String| write.starts_with("create events/ unchanged.");
    let written = eventually(LONG, "the event that says so", || async {
        let written = writes(world.operator_requests_since(audit)?);
        Ok(written.iter().any(is_event).then_some(written))
    })
    .await
    .expect("the audit log");
    let (events, others): (Vec<_>, Vec<_>) = written.into_iter().partition(is_event);
    assert!(others.len() <= 2, "{others:#?}");
    assert!(others.iter().all(|write| *write == format!("patch imagesetmirrors/status {NAME}")), "{others:#?}");
    assert_eq!(events.len(), 1, "SyncRequested: {events:#?}");
    assert_eq!(lasting(&before), lasting(&after), "nothing else has changed, not even a time of transition");
    assert!(has_condition(&after, "Ready", "True") && condition(&after, "Reconciling").is_none());
}

#[tokio::test]
async fn registries_with_passwords_are_asked_no_more_than_others() {
    let setup =
        Setup { source: Options::distribution("source").tls().token("puller", "source-password"), ..Setup::default() };
    let synced = Synced::start(setup).await;
    let world = &synced.world;
    let tokens = world.source.token_server().expect("there is one");
    let issued = tokens.issued();
    let (source, target) = (world.source.mark().await.expect("the log"), world.target.mark().await.expect("the log"));
    synced.sync_again("second").await;

    // What the first sync has learnt of both registries, tokens included, is still good.
    assert_eq!(counted(&world.target.requests_since(target).await.expect("the log")), synced.at_target());
    assert_eq!(counted(&world.source.requests_since(source).await.expect("the log")), Synced::at_source());
    assert_eq!(tokens.issued(), issued);
}

#[tokio::test]
async fn a_look_at_an_unchanged_object_costs_no_write_and_no_registry_request() {
    let mut synced = Synced::start(Setup::default()).await;
    // Whatever still comes of the first sync.
    synced.provoke_reconcile("settle").await;
    let audit = synced.world.cluster.audit_mark().expect("the audit log");
    let source = synced.world.source.mark().await.expect("the log");
    let target = synced.world.target.mark().await.expect("the log");
    let status = synced.get().await.data["status"].clone();
    for value in ["once", "twice", "three times"] {
        synced.provoke_reconcile(value).await;
    }
    assert_eq!(writes(synced.world.operator_requests_since(audit).expect("the audit log")), Vec::<String>::new());

    // Nor does a new process have anything to find out.
    synced.operator.terminate().await.expect("it ends");
    synced.operator = synced.world.operator().await.expect("another one starts");
    eventually(LONG, "the new process to look at the object", || async {
        Ok((synced.reconciles().await > 0).then_some(()))
    })
    .await
    .expect("it does");
    synced.provoke_reconcile("after the restart").await;
    let written = writes(synced.world.operator_requests_since(audit).expect("the audit log"));
    assert_eq!(written, Vec::<String>::new());
    assert_eq!(synced.world.source.requests_since(source).await.expect("the log"), []);
    assert_eq!(synced.world.target.requests_since(target).await.expect("the log"), []);
    assert_eq!(synced.get().await.data["status"], status);
}
