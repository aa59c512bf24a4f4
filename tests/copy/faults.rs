//! Bad content, lost content, and being told to stop.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::fake::{answer, error};
use super::*;

#[tokio::test]
async fn one_bad_image_does_not_stop_the_others() {
    let mut world = World::new().await;
    let good = image(&world.source, "a/b", "", &["one"]);
    let half = image(&world.source, "a/c", "", &["two"]);
    world.source.lose_blob("a/c", &Digest::of(b"two"));
    world.wants("a/a", &Digest::of(b"nowhere"), "m/a:1");
    world.wants("a/c", &half, "m/c:1");
    world.wants("a/b", &good, "m/b:1");
    let report = world.copy().await;
    assert_eq!(reason(&report, 0), Reason::SourceNotFound);
    assert_eq!(reason(&report, 1), Reason::SourceNotFound);
    assert_eq!(report.items[2].outcome, Outcome::Copied);
    assert_eq!(world.target.tags(), [("m/b".to_owned(), "1".to_owned())]);
    let host = world.source.host();
    for item in &report.items[..2] {
        assert!(format!("{:?}", item.outcome).contains(&host), "{:?}", item.outcome);
    }
}

#[tokio::test]
async fn bytes_of_another_digest_are_never_committed() {
    for length in [3, 700_000] {
        let mut world = World::new().await;
        let (right, wrong) = ("r".repeat(length), "w".repeat(length));
        let digest = image(&world.source, "a/b", "", &[&right]);
        let path = format!("/v2/a/b/blobs/{}", Digest::of(right.as_bytes()));
        world.source.rule(move |seen| (seen.path == path).then(|| answer(200, &[], wrong.clone())));
        world.wants("a/b", &digest, "m/a:1");
        let report = world.copy().await;
        assert_eq!(reason(&report, 0), Reason::DigestMismatch);
        assert_eq!(world.target.tags(), []);
        let kept = world.target.blobs();
        assert!(kept.iter().all(|blob| *blob == Digest::of(b"{}").to_string()), "{kept:?}");
    }
}

#[tokio::test]
async fn a_manifest_of_another_digest_is_never_put() {
    let mut world = World::new().await;
    let digest = image(&world.source, "a/b", "", &["one"]);
    let other = manifest(&[], None);
    world.source.rule(move |seen| seen.path.contains("/manifests/").then(|| answer(200, &[], other.clone())));
    world.wants("a/b", &digest, "m/a:1");
    assert_eq!(reason(&world.copy().await, 0), Reason::DigestMismatch);
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn content_that_the_target_has_lost_is_brought_again() {
    let mut world = World::new().await;
    // The first image makes the run believe in a blob that is not there.
    let (old, new) = (image(&world.source, "a/b", "", &["one"]), image(&world.source, "a/b", "", &["one", "two"]));
    image(&world.target, "m/a", "1", &["one"]);
    world.target.lose_blob("m/a", &Digest::of(b"one"));
    world.wants("a/b", &old, "m/a:1");
    let engine = world.engine(Attachments::Skip);
    let report = engine.run(&world.plan(), &Nothing, &Unobserved, &Stop::default()).await;
    assert_eq!(outcomes(&report), [&Outcome::Present], "a target is believed what it says about a manifest");
    world.wants("a/b", &new, "m/a:2");
    let report = engine.run(&world.plan(), &Nothing, &Unobserved, &Stop::default()).await;
    assert!(report.complete(), "{report:#?}");
    assert_eq!(world.target.count("PUT /v2/m/a/manifests/2"), 2);
    assert_eq!(world.target.torn(), Vec::<String>::new());
}

#[tokio::test]
async fn a_child_that_is_lost_under_way_is_brought_again() {
    let mut world = World::new().await;
    let child = image(&world.source, "a/b", "", &["one"]);
    let top = index(&world.source, "a/b", "1", &[&child]);
    world.wants("a/b", &top, "m/a:1");
    world.target.times(1, ("PUT", "/manifests/1"), || error(400, "MANIFEST_BLOB_UNKNOWN", "gone"));
    let report = world.copy().await;
    assert!(report.complete(), "{report:#?}");
    assert_eq!(world.target.count(&format!("HEAD /v2/m/a/manifests/{child}")), 2);
    assert_eq!(world.target.count("PUT /v2/m/a/manifests/1"), 2);
}

#[tokio::test]
async fn a_target_that_loses_content_for_ever_is_asked_twice() {
    let mut world = World::new().await;
    let digest = image(&world.source, "a/b", "", &["one"]);
    world.wants("a/b", &digest, "m/a:1");
    world.target.times(9, ("PUT", "/manifests/1"), || error(400, "MANIFEST_BLOB_UNKNOWN", "gone"));
    let report = world.copy().await;
    assert_eq!(reason(&report, 0), Reason::RegistryError);
    assert_eq!(world.target.count("PUT /v2/m/a/manifests/1"), 2);
}

#[tokio::test]
async fn items_that_share_children_and_blobs_all_complete_and_put_each_child_once() {
    let mut world = World::new().await;
    let children = [image(&world.source, "a/b", "", &["base", "x"]), image(&world.source, "a/b", "", &["base", "y"])];
    let tops = [
        index(&world.source, "a/b", "1", &[&children[0], &children[1]]),
        index(&world.source, "a/b", "2", &[&children[1], &children[0]]),
    ];
    for (to, top) in [("m/a:1", &tops[0]), ("m/a:2", &tops[1]), ("m/c:1", &tops[0]), ("m/c:2", &tops[1])] {
        world.wants("a/b", top, to);
    }
    assert!(world.copy().await.complete());
    for place in ["m/a", "m/c"] {
        for child in &children {
            assert_eq!(world.target.count(&format!("PUT /v2/{place}/manifests/{child}")), 1);
        }
    }
    assert_eq!(world.target.torn(), Vec::<String>::new());
}

#[tokio::test]
async fn a_shared_blob_that_fails_once_fails_one_image_and_not_both() {
    let mut world = World::new().await;
    let digests = [image(&world.source, "a/b", "", &["base"]), image(&world.source, "a/c", "", &["base"])];
    // Whoever asks first is refused for good.
    let asked = AtomicUsize::new(0);
    let path = format!("/blobs/{}", Digest::of(b"base"));
    world.source.rule(move |seen| {
        let first = seen.path.ends_with(&path) && asked.fetch_add(1, Ordering::Relaxed) == 0;
        first.then(|| error(403, "DENIED", "no"))
    });
    world.wants("a/b", &digests[0], "m/a:1");
    world.wants("a/c", &digests[1], "m/c:1");
    let report = world.copy().await;
    assert_eq!(report.items.iter().filter(|item| item.complete()).count(), 1, "{report:#?}");
}

#[tokio::test]
async fn indexes_that_nest_without_end_are_refused() {
    let mut world = World::new().await;
    let mut digest = image(&world.source, "a/b", "", &["one"]);
    for _ in 0..20 {
        digest = index(&world.source, "a/b", "", &[&digest]);
    }
    world.wants("a/b", &digest, "m/a:1");
    let report = world.copy().await;
    assert_eq!(reason(&report, 0), Reason::ManifestInvalid);
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_run_that_was_stopped_begins_nothing() {
    for by_abort in [true, false] {
        let mut world = World::new().await;
        let digest = image(&world.source, "a/b", "", &["one"]);
        world.wants("a/b", &digest, "m/a:1");
        let stop = Stop::default();
        if by_abort {
            stop.abort.cancel();
        } else {
            stop.drain.cancel();
        }
        let report = world.engine(Attachments::Copy).run(&world.plan(), &Nothing, &Unobserved, &stop).await;
        assert_eq!(outcomes(&report), [&Outcome::Cancelled]);
        assert!(world.target.seen().is_empty());
    }
}

#[tokio::test]
async fn draining_ends_items_as_cancelled_and_tags_nothing_incomplete() {
    let mut world = World::new().await;
    let digests = [image(&world.source, "a/b", "", &["one"]), image(&world.source, "a/c", "", &["two"])];
    let first = world.wants("a/b", &digests[0], "m/a:1");
    let second = world.wants("a/c", &digests[1], "m/c:1");
    world.items[second].after = vec![first];
    let stop = Stop::default();
    let drain = stop.drain.clone();
    world.source.rule(move |_seen| {
        drain.cancel();
        None
    });
    let report = world.engine(Attachments::Skip).run(&world.plan(), &Nothing, &Unobserved, &stop).await;
    assert_eq!(outcomes(&report), [&Outcome::Cancelled, &Outcome::Cancelled]);
    assert_eq!(world.target.tags(), []);
}

#[tokio::test]
async fn nothing_is_committed_once_somebody_else_may_be_in_charge() {
    struct Deposed;
    impl Observe for Deposed {
        fn may_commit(&self) -> bool {
            false
        }
    }
    let mut world = World::new().await;
    let digest = image(&world.source, "a/b", "", &["one"]);
    world.wants("a/b", &digest, "m/a:1");
    let report = world.engine(Attachments::Copy).run(&world.plan(), &Nothing, &Deposed, &Stop::default()).await;
    assert_eq!(outcomes(&report), [&Outcome::Cancelled]);
    assert_eq!(world.target.count("PUT /v2/m/a/manifests"), 0);
}
