//! Whole syncs: what they cost when nothing has changed, and what counts as missing.

use imageset_mirror::registry::Client;
use imageset_mirror::request::Request;
use imageset_mirror::state::{Memory, Place};
use imageset_mirror::sync::{Copied, Copy, Sides, client_settings, resolve};

use super::*;

struct Object {
    world: World,
    request: Request,
    sides: Sides,
    place: Place,
    memory: Memory,
}

impl Object {
    async fn new(names: &[&str]) -> Self {
        let world = World::new().await;
        let images: Vec<_> =
            names.iter().map(|name| serde_json::json!({"name": format!("{}/{name}", world.source.host())})).collect();
        let object = serde_json::json!({
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
            "metadata": {"name": "name", "namespace": "ns", "uid": "u"},
            "spec": {
                "mirror": {"additionalImages": images},
                "source": {"hosts": [{"host": world.source.host(), "tls": "Plain"}]},
                "target": {"registry": world.target.host(), "tls": "Plain"},
            },
        });
        let request = Request::try_new(&serde_json::from_value(object).unwrap()).unwrap();
        let client = |side| Client::new(client_settings(&request, side), Arc::new(Limits::default())).unwrap();
        let sides = Sides { source: Arc::new(client(Side::Source)), target: Arc::new(client(Side::Target)) };
        let place = Place::new(&world.target.registry(), None, "cluster", "ns", "name").unwrap();
        Self { world, request, sides, place, memory: Memory::default() }
    }

    async fn sync(&self) -> Copied {
        let resolved = resolve(&self.request, &self.sides.source).await.unwrap();
        let copy = Copy {
            request: &self.request,
            sides: &self.sides,
            throttle: None,
            place: &self.place,
            memory: &self.memory,
            now: &|| "2026-01-02T03:04:05Z".to_owned(),
        };
        let copied = copy.run(&resolved.plan, &Unobserved, &Stop::default()).await.unwrap();
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
    assert_eq!(object.world.writes(), Vec::<String>::new());
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
