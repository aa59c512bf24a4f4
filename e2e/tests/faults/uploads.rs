//! The target breaks off, loses sessions, loses answers, or says something else about what it has.

use e2e::fault_proxy::{Fault, Kind, Reply, When};
use e2e::registry::Options;

use crate::way::{Extra, IN_FLIGHT, MIB, Way, debian};

const SIZE: u64 = 32 * MIB;

/// Uploads of the layer, in one request or in parts.
fn uploads() -> When {
    When::kind(Kind::PutUpload).or(Kind::PatchUpload).of_least(MIB)
}

/// Breaks the upload in its middle a few times. `per_break` are the bytes that each may cost again.
async fn breaks(mut way: Way, times: u64, per_break: u64) {
    way.layer(SIZE).await;
    for _ in 0..times {
        way.to.add(uploads().times(1), Fault::ResetUp(6 * MIB));
    }
    // What was on its way to the target when it broke is read again.
    let read = times * (per_break + IN_FLIGHT);
    let requests = 4 * usize::try_from(times).expect("few");
    let ran = way.survives(Extra { read, sent: times * per_break, requests }).await;
    assert_eq!(ran.sum("resumed") + ran.sum("retried"), times, "the report tells of each break");
    assert_eq!(way.to.seen().iter().filter(|seen| seen.faulty).count() as u64, times);
    way.is_equal().await;
}

#[tokio::test]
async fn a_target_that_keeps_sessions_is_sent_at_most_a_mebibyte_again_per_break() {
    breaks(Way::start().await, 4, MIB).await;
}

#[tokio::test]
async fn breaks_at_the_first_bytes_are_told_from_what_was_kept() {
    // Distribution says `0-0` both of a session with one byte and of one with none.
    for bytes in [0, 1, 2] {
        let mut way = Way::start().await;
        way.layer(SIZE).await;
        way.to.add(uploads().times(1), Fault::ResetUp(bytes));
        way.survives(Extra { read: IN_FLIGHT, sent: MIB, requests: 8 }).await;
        way.is_equal().await;
    }
}

#[tokio::test]
async fn a_session_that_was_gone_on_with_is_closed_without_data() {
    let mut way = Way::start().await;
    let layer = way.layer(SIZE).await;
    way.to.add(uploads().times(1), Fault::ResetUp(6 * MIB));
    way.survives(Extra { read: IN_FLIGHT + MIB, sent: MIB, requests: 4 }).await;
    let closing = way.to.of(Kind::PutUpload).into_iter().rfind(|seen| seen.path.contains(&layer[7..]));
    // Distribution appends what such a request brings, whatever range it names.
    assert_eq!(closing.map(|seen| (seen.up, seen.status)), Some((0, Some(201))));
    way.is_equal().await;
}

#[tokio::test]
async fn a_target_that_loses_sessions_is_sent_the_blob_again() {
    // olareg gives a session up with the request that broke.
    breaks(Way::to(Options::olareg("target")).await, 2, 7 * MIB).await;
}

#[tokio::test]
async fn debians_registry_is_sent_at_most_what_it_had_not_kept() {
    let Some(target) = debian("uploads::debians_registry_is_sent_at_most_what_it_had_not_kept").await else { return };
    breaks(Way::to(target).await, 2, 7 * MIB).await;
}

#[tokio::test]
async fn a_session_that_is_unknown_is_begun_anew() {
    let mut way = Way::start().await;
    way.layer(SIZE).await;
    let unknown = Reply::status(404).error("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
    way.to.add(uploads().times(1), Fault::Answer(unknown));
    way.survives(Extra { read: SIZE, requests: 4, ..Extra::default() }).await;
    assert!(way.to.of(Kind::StartUpload).len() >= 3, "config, layer, and the layer again");
    way.is_equal().await;
}

#[tokio::test]
async fn a_break_whose_session_is_gone_costs_the_blob_once() {
    let mut way = Way::start().await;
    way.layer(SIZE).await;
    way.to.add(uploads().times(1), Fault::ResetUp(6 * MIB));
    let unknown = Reply::status(404).error("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
    way.to.add(When::kind(Kind::UploadStatus), Fault::Answer(unknown));
    way.survives(Extra { read: 7 * MIB + IN_FLIGHT, sent: 7 * MIB, requests: 4 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_refused_range_is_put_right_with_what_the_target_says() {
    let mut way = Way::start().await;
    way.layer(SIZE).await;
    let refused = Reply::status(416).error("RANGE_INVALID", "invalid content range");
    way.to.add(uploads().times(1), Fault::ResetUp(6 * MIB));
    way.to.add(When::kind(Kind::PatchUpload).times(2), Fault::Answer(refused));
    way.survives(Extra { read: 2 * SIZE, sent: SIZE, requests: 16 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_blob_whose_answer_is_lost_is_not_sent_again() {
    for fault in [Fault::LoseAnswer, Fault::AnswerInstead(Reply::status(504).page())] {
        let mut way = Way::start().await;
        way.layer(SIZE).await;
        way.to.add(uploads().times(1), fault);
        // The end of the source's answer may be in flight; nothing of it is asked for again.
        way.survives(Extra { requests: 3, ..Extra::default() }).await;
        way.is_equal().await;
    }
}

#[tokio::test]
async fn a_small_blob_whose_answer_is_lost_is_not_sent_again() {
    let mut way = Way::start().await;
    way.small(1).await;
    way.to.add(When::kind(Kind::PutUpload).of_least(1000).times(1), Fault::LoseAnswer);
    way.survives(Extra { requests: 3, ..Extra::default() }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_closing_request_that_is_refused_although_the_blob_is_there_is_no_failure() {
    for status in [404, 416] {
        let mut way = Way::start().await;
        way.layer(SIZE).await;
        way.to.add(When::kind(Kind::PutUpload).of_least(MIB).times(1), Fault::AnswerInstead(Reply::status(status)));
        way.survives(Extra { requests: 4, ..Extra::default() }).await;
        way.is_equal().await;
    }
}

#[tokio::test]
async fn a_manifest_whose_answer_is_lost_is_no_failure() {
    let mut way = Way::start().await;
    way.small(1).await;
    way.to.add(When::kind(Kind::PutManifest).naming("/app-0/").times(1), Fault::LoseAnswer);
    way.to.add(When::kind(Kind::PutManifest).naming("/app-0/").times(1), Fault::AnswerInstead(Reply::status(504)));
    way.survives(Extra { requests: 4, ..Extra::default() }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_blob_that_is_gone_before_its_manifest_comes_is_brought_again() {
    let mut way = Way::start().await;
    let layer = way.layer(2 * MIB).await;
    way.to.add(When::kind(Kind::PutManifest).naming("/app/").times(1), Fault::Hold);
    let running = way.begin();
    way.to.until_held(1, e2e::wait::LONG).await.expect("the manifest is on its way");
    way.at_target().delete_blob("app", &layer).await.expect("the blob is lost");
    way.to.release();
    let ran = running.end().await;
    assert!(ran.complete(), "{ran}");
    way.check(&ran, Extra { read: 3 * MIB, sent: 3 * MIB, requests: 10 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn locations_may_be_relative() {
    for target in [Options::olareg("target"), Options::distribution("target")] {
        let mut way = Way::to(target).await;
        // olareg's are; those of distribution are made so.
        let absolute = format!("http://{}/", way.to.host());
        way.to.rename(&absolute, "/");
        way.layer(2 * MIB).await;
        way.survives(Extra::default()).await;
        way.is_equal().await;
    }
}
