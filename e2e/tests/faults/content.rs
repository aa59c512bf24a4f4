//! The source sends something else than it should, and content comes and goes.

use e2e::fault_proxy::{Fault, Kind, When};
use e2e::image::ImageSpec;
use e2e::wait::LONG;

use crate::way::{Extra, MIB, Way};

const SIZE: u64 = 8 * MIB;
/// How often content that is wrong may be read.
const READS: u64 = 3;

/// The layer always comes like this: it is never sent to the end, the other images come, and no tag is moved for it.
async fn wrong_for_ever(fault: Fault) {
    let mut way = Way::start().await;
    let layer = way.layer(SIZE).await;
    way.small(2).await;
    way.from.add(When::kind(Kind::GetBlob).naming(&layer), fault);
    let ran = way.run().await;
    assert!(!ran.complete() && ran.code == Some(1), "{ran}");
    assert_eq!(ran.reason("app"), Some("DigestMismatch"), "{ran}");
    let reads = way.from.of(Kind::GetBlob).iter().filter(|seen| seen.path.contains(&layer)).count() as u64;
    assert!((1..=READS).contains(&reads), "{reads} reads");
    let target = way.at_target();
    assert_eq!(target.blob_size("app", &layer).await.expect("an answer"), None, "nothing was committed");
    for number in 0..2 {
        assert!(target.digest(&format!("app-{number}"), "v1").await.expect("an answer").is_some());
    }
    way.check(&ran, Extra { read: READS * SIZE, sent: READS * SIZE, requests: 20 }).await;
    way.heals().await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_flipped_byte_is_never_committed() {
    wrong_for_ever(Fault::Flip(1_000_000)).await;
}

#[tokio::test]
async fn a_length_that_is_a_lie_is_never_committed() {
    wrong_for_ever(Fault::Shorten(SIZE / 2)).await;
}

#[tokio::test]
async fn a_byte_that_is_flipped_once_is_read_again() {
    for fault in [Fault::Flip(1_000_000), Fault::Shorten(SIZE / 2)] {
        let mut way = Way::start().await;
        let layer = way.layer(SIZE).await;
        way.from.add(When::kind(Kind::GetBlob).naming(&layer).times(1), fault);
        way.survives(Extra { read: SIZE, sent: SIZE, requests: 6 }).await;
        way.is_equal().await;
    }
}

#[tokio::test]
async fn a_manifest_with_another_byte_is_never_put() {
    let mut way = Way::start().await;
    way.small(2).await;
    way.from.add(When::kind(Kind::GetManifest).naming("/app-0/manifests/sha256:"), Fault::Flip(100));
    let ran = way.run().await;
    assert_eq!(ran.reason("app-0"), Some("DigestMismatch"), "{ran}");
    assert_eq!(way.at_target().tags("app-0").await.expect("tags"), Vec::<String>::new());
    way.check(&ran, Extra { requests: 10, ..Extra::default() }).await;
    way.heals().await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_tag_that_moves_under_way_is_the_next_runs_work() {
    let mut way = Way::start().await;
    let layer = way.layer(SIZE).await;
    let before = way.at_source().digest("app", "v1").await.expect("an answer");
    way.from.add(When::kind(Kind::GetBlob).naming(&layer).times(1), Fault::Hold);
    let running = way.begin();
    way.from.until_held(1, LONG).await.expect("the copy is under way");
    way.at_source().push_image("app", "v1", ImageSpec::seeded(2)).await.expect("the tag moves");
    way.from.release();
    let ran = running.end().await;
    assert!(ran.complete(), "{ran}");
    way.check(&ran, Extra { requests: 4, ..Extra::default() }).await;
    assert_eq!(way.at_target().digest("app", "v1").await.expect("an answer"), before, "one digest per run");
}

#[tokio::test]
async fn an_image_that_vanishes_under_way_fails_alone() {
    let mut way = Way::start().await;
    way.small(3).await;
    way.from.add(When::kind(Kind::GetManifest).naming("/app-0/manifests/sha256:").times(1), Fault::Hold);
    let running = way.begin();
    way.from.until_held(1, LONG).await.expect("the copy is under way");
    let source = way.at_source();
    let digest = source.digest("app-0", "v1").await.expect("an answer").expect("it is there");
    source.delete_manifest("app-0", &digest).await.expect("it vanishes");
    way.from.release();
    let ran = running.end().await;
    assert_eq!(ran.reason("app-0"), Some("SourceNotFound"), "{ran}");
    for number in 1..3 {
        assert!(way.at_target().digest(&format!("app-{number}"), "v1").await.expect("an answer").is_some());
    }
    way.check(&ran, Extra { requests: 4, ..Extra::default() }).await;
}

#[tokio::test]
async fn what_was_removed_from_the_target_comes_back_and_nothing_else_is_sent() {
    let mut way = Way::start().await;
    way.small(5).await;
    way.survives(Extra::default()).await;
    let target = way.at_target();
    let digest = target.digest("app-3", "v1").await.expect("an answer").expect("it is there");
    target.delete_manifest("app-3", &digest).await.expect("it is removed");
    way.from.forget();
    way.to.forget();
    way.survives(Extra::default()).await;
    let blobs = way.to.of(Kind::PutUpload).into_iter().filter(|seen| !seen.path.contains("/imageset-mirror/"));
    assert_eq!(blobs.count(), 0, "its blobs are still there");
    let manifests = way.to.of(Kind::PutManifest).into_iter().filter(|seen| !seen.path.contains("/imageset-mirror/"));
    assert!(manifests.into_iter().all(|seen| seen.path.contains("/app-3/")), "the others are left alone");
    way.is_equal().await;
}
