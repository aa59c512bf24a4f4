//! Hosts that are not there for a while, or at all.

use e2e::fault_proxy::{Fault, Kind, When};
use e2e::image::ImageSpec;
use e2e::wait::LONG;

use crate::way::{Extra, MIB, Way, left_out, thorough};

#[tokio::test]
async fn a_target_that_was_never_there_costs_few_connections_and_heals() {
    let mut way = Way::start().await;
    way.small(20).await;
    way.to.refuse(true);
    let ran = way.run().await;
    assert_eq!(ran.code, Some(1), "{ran}");
    for number in 0..20 {
        assert_eq!(ran.reason(&format!("app-{number}")), Some("NetworkUnreachable"), "{ran}");
    }
    assert!(way.to.refused() <= 60, "{} connections were tried", way.to.refused());
    way.heals().await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_target_that_goes_away_and_comes_back_loses_nothing() {
    let mut way = Way::start().await;
    way.small(10).await;
    way.layer(16 * MIB).await;
    way.to.add(When::kind(Kind::PutUpload).naming("/app/").of_least(MIB).times(1), Fault::Hold);
    let running = way.begin();
    way.to.until_held(1, LONG).await.expect("the copy is under way");
    way.to.refuse(true);
    way.to.until_refused(10, LONG).await.expect("it is missed");
    way.to.refuse(false);
    let ran = running.end().await;
    assert!(ran.complete(), "{ran}");
    assert!(way.to.refused() <= 100, "{} connections were tried", way.to.refused());
    way.check(&ran, Extra { read: 17 * MIB, sent: 16 * MIB, requests: 60 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_source_that_goes_away_and_comes_back_is_read_on() {
    let mut way = Way::start().await;
    way.small(10).await;
    let layer = way.layer(16 * MIB).await;
    way.from.add(When::kind(Kind::GetBlob).naming(&layer).times(1), Fault::StallDown(5 * MIB));
    let running = way.begin();
    way.from.until_held(1, LONG).await.expect("the copy is under way");
    way.from.refuse(true);
    way.from.until_refused(4, LONG).await.expect("it is missed");
    way.from.refuse(false);
    let ran = running.end().await;
    assert!(ran.complete(), "{ran}");
    way.check(&ran, Extra { read: 4 * MIB, sent: MIB, requests: 40 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_target_that_is_restarted_under_way_is_gone_on_with() {
    let mut way = Way::start().await;
    way.small(10).await;
    way.layer(16 * MIB).await;
    way.to.add(When::kind(Kind::PutUpload).naming("/app/").of_least(MIB).times(1), Fault::ResetUp(6 * MIB));
    way.to.add(When::kind(Kind::UploadStatus).times(1), Fault::Hold);
    let running = way.begin();
    way.to.until_held(1, LONG).await.expect("the copy is under way");
    way.target.restart().await.expect("it starts again");
    way.to.release();
    let ran = running.end().await;
    assert!(ran.complete(), "{ran}");
    way.check(&ran, Extra { read: 17 * MIB, sent: 16 * MIB, requests: 60 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn one_connection_in_twenty_and_a_blackout_cost_two_percent() {
    let mut way = Way::start().await;
    let (images, layer) = if thorough() { (200, MIB) } else { (30, MIB) };
    for number in 0..images {
        way.image(&format!("app-{number}"), ImageSpec::seeded(number).layers(2, layer)).await;
    }
    way.from.add(When::kind(Kind::GetBlob).every(20), Fault::ResetDown(layer / 2));
    way.to.add(When::any().after(100).every(20), Fault::LoseAnswer);
    way.to.add(When::any().after(60).times(1), Fault::Hold);
    let running = way.begin();
    way.to.until_held(1, LONG).await.expect("the copy is under way");
    way.to.refuse(true);
    way.to.until_refused(5, LONG).await.expect("it is missed");
    way.to.refuse(false);
    let ran = running.end().await;
    assert!(ran.complete(), "{ran}");
    let size = 2 * layer * images;
    // Besides two percent, what was under way when the light went out.
    let extra = size / 50 + 16 * layer;
    way.check(&ran, Extra { read: extra, sent: extra, requests: 4 * way.images() + 200 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_registry_that_accepts_and_says_nothing_is_given_up() {
    if left_out("outages::a_registry_that_accepts_and_says_nothing_is_given_up") {
        return;
    }
    let mut way = Way::start().await;
    way.small(3).await;
    way.from.add(When::kind(Kind::GetManifest).naming("/app-1/").times(1), Fault::Hold);
    way.survives(Extra { requests: 4, ..Extra::default() }).await;
    way.is_equal().await;
}
