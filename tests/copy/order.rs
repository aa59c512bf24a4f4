//! What is written in which order, and what is not written at all.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use imageset_mirror::copy::Finding;
use imageset_mirror::registry::Transferred;

use super::*;

#[tokio::test]
async fn blobs_come_before_their_manifest_children_before_the_index_and_the_tag_last() {
    let mut world = World::new().await;
    let children = [image(&world.source, "a/b", "", &["one"]), image(&world.source, "a/b", "", &["two"])];
    let top = index(&world.source, "a/b", "1", &[&children[0], &children[1]]);
    world.wants("a/b", &top, "m/a:1");
    let report = world.copy().await;
    assert_eq!(outcomes(&report), [&Outcome::Copied]);
    assert_eq!(world.target.lines().last().unwrap(), "PUT /v2/m/a/manifests/1");
    for (child, layer) in children.iter().zip(["one", "two"]) {
        let [upload] = world.sent(layer)[..] else { panic!("not sent once") };
        assert!(upload < world.at(&format!("PUT /v2/m/a/manifests/{child}")));
    }
    assert_eq!(world.target.manifest("m/a", "1"), world.source.manifest("a/b", "1"));
    assert_eq!(report.items[0].uploaded_bytes, "{}onetwo".len() as u64);
    assert_eq!(world.target.torn(), Vec::<String>::new());
}

#[tokio::test]
async fn a_tag_waits_for_everything_it_has_to_follow() {
    let mut world = World::new().await;
    let (first, second) = (image(&world.source, "a/b", "", &["one"]), image(&world.source, "a/c", "", &[]));
    let first = world.wants("a/b", &first, "m/a:1");
    let second = world.wants("a/c", &second, "m/c:1");
    world.items[second].after = vec![first];
    assert!(world.copy().await.complete());
    assert!(world.at("PUT /v2/m/a/manifests/1") < world.at("PUT /v2/m/c/manifests/1"));
}

#[tokio::test]
async fn what_follows_a_failed_image_is_not_tagged_and_says_which_it_was() {
    let mut world = World::new().await;
    let second = image(&world.source, "a/c", "", &["one"]);
    let first = world.wants("a/b", &Digest::of(b"nowhere"), "m/a:1");
    let second = world.wants("a/c", &second, "m/c:1");
    world.items[second].after = vec![first];
    let report = world.copy().await;
    assert_eq!(reason(&report, 1), Reason::DependencyFailed);
    assert!(format!("{:?}", report.items[1].outcome).contains("m/a:1"));
    assert_eq!(world.target.tags(), []);
}

#[derive(Default)]
struct Counted {
    uploaded: AtomicUsize,
    mounted: AtomicUsize,
    present: AtomicUsize,
}

impl Observe for Counted {
    fn blob_settled(&self, how: Transferred) {
        let count = match how {
            Transferred::Uploaded { .. } => &self.uploaded,
            Transferred::Mounted => &self.mounted,
            Transferred::Present => &self.present,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_blob_of_two_repositories_is_sent_once_and_mounted_for_the_other() {
    let mut world = World::new().await;
    let (first, second) =
        (image(&world.source, "a/b", "", &["base"]), image(&world.source, "a/c", "", &["base", "own"]));
    world.wants("a/b", &first, "m/a:1");
    world.wants("a/c", &second, "m/c:1");
    let counted = Counted::default();
    let engine = world.engine(Attachments::Copy);
    let report = engine.run(&world.plan(), &Nothing, &counted, &Stop::default()).await;
    let Counted { uploaded, mounted, present } = counted;
    assert_eq!([uploaded, mounted, present].map(AtomicUsize::into_inner), [3, 2, 0]);
    assert!(report.complete());
    for text in ["base", "{}", "own"] {
        assert_eq!(world.sent(text).len(), 1, "{text}");
    }
    let sum = |of: fn(&imageset_mirror::copy::ItemReport) -> u64| report.items.iter().map(of).sum::<u64>();
    assert_eq!(sum(|item| item.mounted_bytes), "base{}".len() as u64);
    assert_eq!(sum(|item| item.uploaded_bytes), "base{}own".len() as u64);
}

#[tokio::test]
async fn blobs_that_an_interrupted_run_left_are_not_sent_again() {
    let mut world = World::new().await;
    let digest = image(&world.source, "a/b", "", &["one"]);
    world.wants("a/b", &digest, "m/a:1");
    for blob in ["{}", "one"] {
        world.target.put_blob("m/a", blob);
    }
    let report = world.copy().await;
    assert_eq!(report.items[0].present_bytes, "{}one".len() as u64);
    assert_eq!(report.items[0].uploaded_bytes, 0);
    assert_eq!(world.target.count("PUT"), 1);
}

#[tokio::test]
async fn small_blobs_take_one_request_each_where_the_target_is_known_to_take_them_whole() {
    const IMAGES: usize = 50;
    for known in [true, false] {
        let mut world = World::new().await;
        world.target.takes_whole();
        for number in 0..IMAGES {
            let name = format!("a/i{number}");
            let layers = [format!("{name} one"), format!("{name} two")];
            let digest = image(&world.source, &name, "", &[&layers[0], &layers[1]]);
            world.wants(&name, &digest, &format!("m/{name}:1"));
        }
        let target = client(Side::Target, &world.target);
        if known {
            let bytes = Bytes::from_static(b"ours");
            target.put_bytes(&world.target.repository("ours"), &Digest::of(&bytes), bytes).await.unwrap();
            world.target.clear();
        }
        assert!(world.copy_with(target).await.complete());
        assert_eq!(world.target.torn(), Vec::<String>::new());
        let seen = world.target.seen();
        let count = |is: fn(&fake::Seen) -> bool| seen.iter().filter(|seen| is(seen)).count();
        let sent = count(|seen| seen.method == "PUT" && seen.path.contains("/blobs/uploads/"));
        let asked = count(|seen| seen.method == "POST" && !seen.posts_whole());
        let whole = count(fake::Seen::posts_whole);
        // The layers and one config, which is mounted for the other images.
        let (blobs, mounted) = (2 * IMAGES + 1, IMAGES - 1);
        let expected = if known { (0, mounted, blobs) } else { (blobs, blobs + mounted, 0) };
        assert_eq!((sent, asked, whole), expected);
    }
}

#[tokio::test]
async fn what_an_interrupted_run_has_left_is_not_sent_again_to_find_out_what_the_target_can() {
    let mut world = World::new().await;
    let layers: Vec<_> = (0..200).map(|number| format!("layer {number}")).collect();
    let texts: Vec<_> = layers.iter().map(String::as_str).collect();
    let digest = image(&world.source, "a/b", "", &texts);
    world.wants("a/b", &digest, "m/a:1");
    for layer in &layers[..199] {
        world.target.put_blob("m/a", layer.clone());
    }
    assert!(world.copy().await.complete());
    assert_eq!(world.target.seen().iter().filter(|seen| seen.posts_whole()).count(), 0);
    for layer in &layers {
        assert_eq!(world.sent(layer).len(), usize::from(layer == "layer 199"), "{layer}");
    }
}

#[tokio::test]
async fn an_image_completed_before_costs_one_request() {
    let mut world = World::new().await;
    for name in ["a/b", "a/c"] {
        let child = image(&world.source, name, "", &["one"]);
        let digest = index(&world.source, name, "1", &[&child]);
        world.wants(name, &digest, &format!("m/{name}:1"));
    }
    assert!(world.copy_all().await.complete());
    world.target.clear();
    world.source.clear();
    let report = world.run(&Everything, Attachments::Copy).await;
    assert_eq!(outcomes(&report), [&Outcome::Present, &Outcome::Present]);
    let mut lines = world.target.lines();
    lines.sort();
    assert_eq!(lines, ["HEAD /v2/m/a/b/manifests/1", "HEAD /v2/m/a/c/manifests/1"]);
    assert!(world.source.seen().is_empty());
}

#[tokio::test]
async fn an_image_that_was_there_and_is_gone_comes_back_and_is_reported() {
    let mut world = World::new().await;
    let digest = image(&world.source, "a/b", "", &["one"]);
    world.wants("a/b", &digest, "m/a:1");
    assert!(world.copy().await.complete());
    world.target.lose_manifest("m/a", "1");
    let report = world.run(&Everything, Attachments::Skip).await;
    assert_eq!(outcomes(&report), [&Outcome::Copied]);
    assert!(report.items[0].restored);
}

#[tokio::test]
async fn an_index_that_somebody_else_left_sparse_is_filled() {
    let mut world = World::new().await;
    let children = [image(&world.source, "a/b", "", &["one"]), image(&world.source, "a/b", "", &["two"])];
    let top = index(&world.source, "a/b", "1", &[&children[0], &children[1]]);
    image(&world.target, "m/a", "", &["one"]);
    index_bytes(&world, &top);
    world.wants("a/b", &top, "m/a:1");
    let report = world.copy().await;
    assert_eq!(outcomes(&report), [&Outcome::Copied]);
    assert_eq!(world.target.torn(), Vec::<String>::new());
}

fn index_bytes(world: &World, top: &Digest) {
    let text = world.source.manifest("a/b", &top.to_string()).unwrap();
    world.target.put_manifest("m/a", "1", media_type::OCI_INDEX, text);
}

#[tokio::test]
async fn only_the_platforms_asked_for_are_copied() {
    let mut world = World::new().await;
    // Sparse indexes are refused by targets that look.
    world.target = FakeRegistry::start().await;
    let children = [image(&world.source, "a/b", "", &["one"]), image(&world.source, "a/b", "", &["two"])];
    let top = index(&world.source, "a/b", "1", &[&children[0], &children[1]]);
    let wanted = world.wants("a/b", &top, "m/a:1");
    world.items[wanted].platforms = ["linux/arm64".to_owned()].into();
    assert!(world.copy().await.complete());
    assert!(world.target.manifest("m/a", &children[1].to_string()).is_some());
    assert!(world.target.manifest("m/a", &children[0].to_string()).is_none());
    world.items[wanted].platforms = ["linux/riscv64".to_owned()].into();
    world.items[wanted].destination = format!("{}/m/d:1", world.target.host()).parse().unwrap();
    let report = world.copy().await;
    assert_eq!(reason(&report, 0), Reason::PlatformMissing);
}

#[tokio::test]
async fn a_survey_counts_bytes_and_writes_nothing() {
    let mut world = World::new().await;
    let digests = [image(&world.source, "a/b", "", &["one"]), image(&world.source, "a/c", "", &["three"])];
    world.wants("a/b", &digests[0], "m/a:1");
    assert!(world.copy().await.complete());
    world.wants("a/c", &digests[1], "m/c:1");
    world.target.clear();
    let survey = world.engine(Attachments::Copy).survey(&world.plan()).await;
    assert_eq!(survey.items[0].finding, Finding::Present);
    let asked = world.target.lines();
    assert_eq!(
        asked.iter().filter(|line| line.contains("/m/a/")).count(),
        1,
        "what is there is asked for once: {asked:?}"
    );
    assert_eq!(survey.items[1].finding, Finding::Missing);
    assert!(survey.items[1].missing_bytes >= "three".len() as u64);
    assert_eq!(survey.items[0].present_bytes + survey.items[1].missing_bytes, "{}onethree".len() as u64);
    assert_eq!(world.writes(), Vec::<String>::new());
}
