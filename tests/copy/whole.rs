//! Whole syncs: what they cost when nothing has changed, and what counts as missing.

use imageset_mirror::registry::Client;
use imageset_mirror::request::Request;
use imageset_mirror::state::{Memory, Place};
use imageset_mirror::sync::{Cache, Copied, Copy, Helm, Sides, client_settings, resolve};

use super::fake::error;
use super::*;

/// An object, and its registries.
pub(super) struct Object {
    pub(super) world: World,
    request: Request,
    sides: Sides,
    place: Place,
    memory: Memory,
    documents: Arc<Cache>,
}

impl Object {
    async fn new(names: &[&str]) -> Self {
        let world = World::new().await;
        let images: Vec<_> =
            names.iter().map(|name| serde_json::json!({"name": format!("{}/{name}", world.source.host())})).collect();
        Self::of(world, &serde_json::json!({"additionalImages": images}))
    }

    /// One that wants this.
    pub(super) fn of(world: World, mirror: &serde_json::Value) -> Self {
        let object = serde_json::json!({
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
            "metadata": {"name": "name", "namespace": "ns", "uid": "u"},
            "spec": {
                "mirror": mirror,
                "source": {"hosts": [{"host": world.source.host(), "tls": "Plain"}]},
                "target": {"registry": world.target.host(), "tls": "Plain"},
            },
        });
        let request = Request::try_new(&serde_json::from_value(object).unwrap()).unwrap();
        let client = |side| Client::new(client_settings(&request, side), Arc::new(Limits::default())).unwrap();
        let sides = Sides {
            source: Arc::new(client(Side::Source)),
            target: Arc::new(client(Side::Target)),
            signature_keys: None,
            helm: Helm::default(),
        };
        let place = Place::new(&world.target.registry(), None, "cluster", "ns", "name").unwrap();
        Self { world, request, sides, place, memory: Memory::default(), documents: Arc::default() }
    }

    /// Forgets what a process knows.
    pub(super) fn begin_anew(&mut self) {
        (self.memory, self.documents) = (Memory::default(), Arc::default());
    }

    pub(super) async fn sync(&self) -> Copied {
        self.sync_with(Trust::Remembered).await
    }

    pub(super) async fn sync_with(&self, trust: Trust) -> Copied {
        let Self { request, sides, place, memory, documents, .. } = self;
        let resolved = resolve(request, sides, documents, memory, place, trust).await.unwrap();
        let copy = Copy {
            request,
            sides,
            made: resolved.made.clone(),
            catalogs: resolved.catalogs.clone(),
            documents: resolved.documents.clone(),
            throttle: None,
            place,
            memory,
            trust,
            now: &|| "2026-01-02T03:04:05Z".to_owned(),
        };
        let copied = Box::pin(copy.run(&resolved.plan, &Unobserved, &Stop::default())).await.unwrap();
        assert_eq!(copied.state_failure, None);
        copied
    }
}

#[tokio::test]
async fn a_sync_of_an_unchanged_object_is_one_request_for_each_tag_and_one_for_each_image() {
    let object = Object::new(&["a/b:1", "a/b:2", "a/c:1"]).await;
    let source = &object.world.source;
    let digest = image(source, "a/b", "1", &["one"]);
    index(source, "a/b", "2", &[&digest]);
    image(source, "a/c", "1", &["one", "two"]);
    assert!(object.sync().await.report.complete());
    source.clear();
    object.world.target.clear();
    assert_eq!(outcomes(&object.sync().await.report), [&Outcome::Present; 3]);
    let expected = ["HEAD /v2/a/b/manifests/1", "HEAD /v2/a/b/manifests/2", "HEAD /v2/a/c/manifests/1"];
    for fake in [source, &object.world.target] {
        let mut lines = fake.lines();
        lines.sort();
        assert_eq!(lines, expected);
    }
}

#[tokio::test]
async fn the_next_process_knows_from_the_target_what_was_done() {
    let mut object = Object::new(&["a/b:1"]).await;
    image(&object.world.source, "a/b", "1", &["one"]);
    assert!(object.sync().await.report.complete());
    object.memory = Memory::default();
    object.world.target.clear();
    let copied = object.sync().await;
    assert_eq!((copied.added, copied.removed), (0, 0));
    assert_eq!(object.world.target.count("HEAD"), 1);
    // One look at the last plan, and nothing else of the state.
    assert_eq!(object.world.target.lines().len(), 2);
    assert_eq!(object.world.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_the_process_before_completed_is_missed_and_restored_in_the_next() {
    let mut object = Object::new(&["a/b:1"]).await;
    image(&object.world.source, "a/b", "1", &["one"]);
    assert!(object.sync().await.report.complete());
    object.world.target.lose_manifest("a/b", "1");
    object.memory = Memory::default();
    object.world.target.clear();
    assert!(object.sync().await.report.items[0].restored);
    // The ledger has it already.
    assert_eq!(object.world.target.count("-ledger"), 0);
    image(&object.world.source, "a/b", "1", &["two"]);
    assert_eq!(object.sync().await.removed, 1);
    assert_eq!(object.world.target.count("PUT /v2/imageset-mirror/state/manifests/"), 2);
}

#[tokio::test]
async fn a_tag_that_names_older_content_again_is_not_missing_content() {
    let object = Object::new(&["a/b:1"]).await;
    for layers in [["one"], ["two"], ["one"]] {
        image(&object.world.source, "a/b", "1", &layers);
        let copied = object.sync().await;
        assert_eq!(outcomes(&copied.report), [&Outcome::Copied]);
        assert!(!copied.report.items[0].restored);
    }
    object.world.target.lose_manifest("a/b", "1");
    assert!(object.sync().await.report.items[0].restored);
}

#[tokio::test]
async fn a_run_that_trusts_nothing_finds_what_was_lost_under_a_tag_that_is_right() {
    let mut world = World::new().await;
    let child = image(&world.source, "a/b", "", &["one", "two"]);
    let top = index(&world.source, "a/b", "1", &[&child]);
    world.wants("a/b", &top, "m/a:1");
    assert!(world.copy_all().await.complete());
    let lost = Digest::of(b"two");
    world.target.lose_blob("m/a", &lost);
    assert!(world.run(&Everything, Attachments::Copy).await.complete());
    assert_eq!(world.target.blob("m/a", &lost), None);
    let settings = CopySettings { trust: Trust::Nothing, ..CopySettings::default() };
    let (source, target) = (client(Side::Source, &world.source), client(Side::Target, &world.target));
    let engine = Engine::new(source, target, settings, Vec::new());
    world.target.clear();
    let report = engine.run(&world.plan(), &Everything, &Unobserved, &Stop::default()).await;
    assert_eq!(outcomes(&report), [&Outcome::Copied]);
    assert!(world.target.blob("m/a", &lost).is_some());
    // The tag names what it should, so it is not moved.
    assert_eq!(world.target.count("PUT /v2/m/a/manifests/1"), 0);
    assert_eq!(world.target.count("PUT /v2/m/a/manifests/sha256:"), 2);
}

#[tokio::test]
async fn what_could_not_be_resolved_once_was_not_removed() {
    let object = Object::new(&["a/b:1", "a/c:1"]).await;
    let source = &object.world.source;
    image(source, "a/b", "1", &["one"]);
    image(source, "a/c", "1", &["two"]);
    assert!(object.sync().await.report.complete());
    source.times(1, ("HEAD", "a/c/manifests/1"), || error(403, "DENIED", ""));
    let gap = object.sync().await;
    assert_eq!((gap.report.items.len(), gap.added, gap.removed), (1, 0, 0));
    let whole = object.sync().await;
    assert_eq!((whole.report.items.len(), whole.added, whole.removed), (2, 0, 0));
    // The next process reads the same from the target.
    source.times(1, ("HEAD", "a/c/manifests/1"), || error(403, "DENIED", ""));
    let object = Object { memory: Memory::default(), ..object };
    object.sync().await;
    assert_eq!(object.sync().await.added, 0);
}

#[tokio::test]
async fn a_referrer_that_cannot_be_listed_is_told_of_by_every_sync() {
    let subject = Digest::of(manifest(&["one"], None).as_bytes());
    let owner = format!("sha256-{}", subject.hex());
    let object = Object::new(&["a/b:1", &format!("a/b:{owner}")]).await;
    let source = &object.world.source;
    source.keeps_referrers();
    assert_eq!(image(source, "a/b", "1", &["one"]), subject);
    image(source, "a/b", &owner, &["other"]);
    referrer(source, "a/b", &["sbom"], &subject);
    for _ in 0..2 {
        let report = object.sync().await.report;
        assert!(report.complete());
        assert!(report.items.iter().any(imageset_mirror::copy::ItemReport::has_unlisted), "{report:#?}");
    }
}

#[tokio::test]
async fn one_manifest_may_be_that_of_several_platforms() {
    let mut world = World::new().await;
    let child = image(&world.source, "a/b", "", &["one"]);
    let top = index(&world.source, "a/b", "1", &[&child, &child]);
    let item = world.wants("a/b", &top, "m/a:1");
    world.items[item].platforms = ["linux/arm64".to_owned()].into();
    assert_eq!(outcomes(&world.copy().await), [&Outcome::Copied]);
    assert_eq!(world.target.count(&format!("PUT /v2/m/a/manifests/{child}")), 1);
}

#[tokio::test]
async fn layers_that_may_not_be_distributed_are_told_of_once() {
    let mut world = World::new().await;
    let mut foreign = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"windows");
    foreign["urls"] = serde_json::json!(["https://elsewhere.test/layer"]);
    let text = serde_json::json!({
        "schemaVersion": 2, "config": descriptor("a/config", b"{}"), "layers": [foreign, descriptor("a/layer", b"one")],
    });
    let digest = store(&world.source, "a/b", "1", &["one"], text.to_string());
    world.wants("a/b", &digest, "m/a:1");
    // This fake looks only whether what is named is there.
    world.target.put_blob("m/a", "windows");
    let report = world.copy().await;
    assert_eq!(outcomes(&report), [&Outcome::Copied]);
    assert_eq!(report.items[0].warnings.len(), 1);
    assert_eq!(report.items[0].warnings[0].reason, Reason::ForeignLayer);
}
