//! The source breaks off, stalls, crawls, or cannot give parts.

use std::time::Duration;

use e2e::fault_proxy::{Fault, Kind, Reply, When};
use e2e::wait::LONG;

use crate::way::{Extra, MIB, Way, left_out};

const SIZE: u64 = 24 * MIB;
/// What one break of a download may cost in bytes that are read again.
const PER_BREAK: u64 = 256 * 1024;

async fn breaks(fault: Fault, times: u64) {
    let mut way = Way::start().await;
    let layer = way.layer(SIZE).await;
    way.from.add(When::kind(Kind::GetBlob).naming(&layer).times(times), fault);
    let extra = Extra { read: times * PER_BREAK, sent: 0, requests: usize::try_from(times).expect("few") };
    let ran = way.survives(extra).await;
    let reads = way.from.of(Kind::GetBlob).into_iter().filter(|seen| seen.path.contains(&layer)).count() as u64;
    assert_eq!(reads, times + 1, "each break is followed by one request for the rest");
    assert_eq!((ran.sum("resumed"), ran.sum("retried")), (times, 0), "the report tells of each break");
    way.is_equal().await;
}

#[tokio::test]
async fn one_reset_is_followed_by_the_rest_alone() {
    breaks(Fault::ResetDown(5 * MIB), 1).await;
}

#[tokio::test]
async fn twenty_resets_with_progress_are_not_too_many() {
    breaks(Fault::ResetDown(768 * 1024), 20).await;
}

#[tokio::test]
async fn an_early_end_is_no_different() {
    breaks(Fault::CloseDown(SIZE * 7 / 10), 1).await;
}

#[tokio::test]
async fn a_source_that_ignores_ranges_is_read_again_and_nothing_is_corrupt() {
    let mut way = Way::start().await;
    let layer = way.layer(SIZE).await;
    let reads = || When::kind(Kind::GetBlob).naming(&layer);
    way.from.add(reads().times(1), Fault::ResetDown(5 * MIB));
    way.from.add(reads(), Fault::Without("range"));
    way.survives(Extra { read: 5 * MIB + PER_BREAK, requests: 4, ..Extra::default() }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn another_part_than_asked_for_is_never_used() {
    let mut way = Way::start().await;
    let layer = way.layer(SIZE).await;
    let reads = || When::kind(Kind::GetBlob).naming(&layer);
    way.from.add(reads().times(1), Fault::ResetDown(5 * MIB));
    let wrong = format!("bytes 0-{}/{SIZE}", SIZE - 1);
    way.from.add(reads().times(1), Fault::With("content-range", wrong));
    way.survives(Extra { read: SIZE, sent: SIZE, requests: 6 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_link_that_has_expired_is_asked_for_again_through_the_registry() {
    let mut way = Way::start().await;
    let layer = way.layer(SIZE).await;
    let store = way.store();
    store.add(When::any().times(1), Fault::ResetDown(5 * MIB));
    store.add(When::any().times(1), Fault::Answer(Reply::status(403)));
    let link = format!("http://{}/v2/app/blobs/{layer}?X-Amz-Signature=secret", store.host());
    let redirect = Reply::status(307).header("location", &link);
    way.from.add(When::kind(Kind::GetBlob).naming(&layer), Fault::Answer(redirect));
    way.survives(Extra { requests: 6, ..Extra::default() }).await;
    let read: u64 = way.others[0].seen().iter().map(|seen| seen.down).sum();
    assert!(read <= SIZE + PER_BREAK, "{read} bytes read of {SIZE}");
    way.is_equal().await;
}

#[tokio::test]
async fn while_one_source_stalls_the_other_images_move() {
    let mut way = Way::start().await;
    let layer = way.layer(SIZE).await;
    way.small(5).await;
    way.from.add(When::kind(Kind::GetBlob).naming(&layer).times(1), Fault::StallDown(MIB));
    let running = way.begin();
    way.from.until_held(1, LONG).await.expect("the stall");
    let target = way.at_target();
    for number in 0..5 {
        let repository = format!("app-{number}");
        e2e::wait::eventually(LONG, "the others to be there", || async { target.digest(&repository, "v1").await })
            .await
            .expect("it arrives");
    }
    assert_eq!(target.digest("app", "v1").await.expect("an answer"), None, "nothing incomplete is tagged");
    way.from.release();
    let ran = running.end().await;
    assert!(ran.complete(), "{ran}");
    way.check(&ran, Extra { read: PER_BREAK, requests: 2, ..Extra::default() }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_stall_and_a_crawl_are_noticed_by_themselves() {
    if left_out("downloads::a_stall_and_a_crawl_are_noticed_by_themselves") {
        return;
    }
    let mut way = Way::start().await;
    let layer = way.layer(SIZE).await;
    let reads = || When::kind(Kind::GetBlob).naming(&layer).times(1);
    way.from.add(reads(), Fault::StallDown(5 * MIB));
    way.from.add(reads(), Fault::Drip { piece: 1, pause: Duration::from_secs(5) });
    way.survives(Extra { read: 2 * PER_BREAK, requests: 2, ..Extra::default() }).await;
    way.is_equal().await;
}

/// The largest layer of these, most of which is read in parts where each connection is slow.
const LARGE: u64 = 96 * MIB;
/// What may be read in parts and never be used: as much as is held ahead.
const AHEAD: u64 = 4 * MIB;

/// How often the layer was asked for, and how many of the answers were parts.
fn reads(way: &Way, layer: &str) -> (usize, usize) {
    let reads = way.from.of(Kind::GetBlob).into_iter().filter(|seen| seen.path.contains(layer)).collect::<Vec<_>>();
    (reads.len(), reads.iter().filter(|seen| seen.status == Some(206)).count())
}

#[tokio::test]
async fn a_large_layer_of_which_each_connection_is_slow_comes_in_parts_and_is_read_once() {
    let mut way = Way::start().await;
    let layer = way.layer(LARGE).await;
    // About 3 MiB a second.
    let slow = Fault::Drip { piece: 16 * 1024, pause: Duration::from_millis(4) };
    way.from.add(When::kind(Kind::GetBlob).naming(&layer), slow);
    way.survives(Extra { read: AHEAD, requests: 120, ..Extra::default() }).await;
    let (asked, parts) = reads(&way, &layer);
    assert!(parts >= 16, "{parts} parts");
    assert_eq!(asked, parts + 1, "all but the first answer are parts");
    way.is_equal().await;
}

#[tokio::test]
async fn a_large_layer_of_a_fast_source_comes_as_a_whole() {
    let mut way = Way::start().await;
    let layer = way.layer(LARGE).await;
    way.survives(Extra::default()).await;
    assert_eq!(reads(&way, &layer), (1, 0));
    way.is_equal().await;
}
