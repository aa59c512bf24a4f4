//! Too many requests, in all shapes: waited for, obeyed, and never the end of an image.

use std::time::{Duration, UNIX_EPOCH};

use e2e::fault_proxy::{Fault, Kind, Reply, When};

use crate::way::{Extra, MIB, Way, thorough};

/// More often than any request is tried when it fails.
const STORM: u64 = 8;

/// The shapes of the answer: all of them, or the plainest and the one that takes most to understand.
#[expect(clippy::disallowed_methods, reason = "a date is one of the real clock")]
fn shapes() -> Vec<Reply> {
    let limited = || Reply::status(429);
    let soon = std::time::SystemTime::now() + Duration::from_secs(2);
    let seconds = soon.duration_since(UNIX_EPOCH).expect("now is after 1970").as_secs();
    let date = limited().header("retry-after", &http_date(seconds));
    if !thorough() {
        return vec![limited(), date];
    }
    vec![
        limited(),
        date,
        limited().error("TOOMANYREQUESTS", "you have reached your pull rate limit"),
        limited().page(),
        limited().header("retry-after", "0"),
    ]
}

/// A date as HTTP writes it.
fn http_date(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][usize::try_from(days % 7).expect("few")];
    // Howard Hinnant's civil_from_days, from 0000-03-01 on.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let part = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * part + 2) / 5 + 1;
    let month = if part < 10 { part + 3 } else { part - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        [usize::try_from(month - 1).expect("a month")];
    format!("{weekday}, {day:02} {name} {year} {:02}:{:02}:{:02} GMT", time / 3600, time / 60 % 60, time % 60)
}

#[test]
fn dates_are_those_of_http() {
    assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
}

/// A storm on one kind of request, in every shape.
async fn storm(kind: Kind, at_target: bool) {
    for reply in shapes() {
        let mut way = Way::start().await;
        way.small(2).await;
        let proxy = if at_target { &way.to } else { &way.from };
        proxy.add(When::kind(kind).naming("/app-").times(STORM), Fault::Answer(reply));
        way.survives(Extra { requests: 3 * usize::try_from(STORM).expect("few"), ..Extra::default() }).await;
        let proxy = if at_target { &way.to } else { &way.from };
        let limited = proxy.seen().iter().filter(|seen| seen.status == Some(429)).count() as u64;
        assert_eq!(limited, STORM, "the storm was met: {:#?}", proxy.seen());
        way.is_equal().await;
    }
}

#[tokio::test]
async fn a_storm_on_manifests_of_the_source_fails_nothing() {
    storm(Kind::GetManifest, false).await;
}

#[tokio::test]
async fn a_storm_on_blobs_of_the_source_fails_nothing() {
    storm(Kind::GetBlob, false).await;
}

#[tokio::test]
async fn a_storm_on_looks_at_the_target_fails_nothing() {
    storm(Kind::HeadManifest, true).await;
}

#[tokio::test]
async fn a_storm_on_beginnings_of_uploads_fails_nothing() {
    storm(Kind::StartUpload, true).await;
}

#[tokio::test]
async fn a_storm_on_uploads_fails_nothing() {
    storm(Kind::PutUpload, true).await;
}

#[tokio::test]
async fn a_storm_on_manifests_of_the_target_fails_nothing() {
    storm(Kind::PutManifest, true).await;
}

#[tokio::test]
async fn a_storm_on_parts_of_a_blob_fails_nothing() {
    let mut way = Way::start().await;
    way.layer(40 * MIB).await;
    let long = When::kind(Kind::PutUpload).of_least(20 * MIB);
    way.to.add(long, Fault::Answer(Reply::status(413).page()));
    way.to.add(When::kind(Kind::PatchUpload).after(1).times(STORM), Fault::Answer(Reply::status(429)));
    let sent = (STORM + 2) * 40 * MIB;
    way.survives(Extra { read: sent, sent, requests: 60 }).await;
    assert_eq!(way.to.seen().iter().filter(|seen| seen.status == Some(429)).count() as u64, STORM);
    way.is_equal().await;
}

#[tokio::test]
async fn a_storm_on_tokens_fails_nothing() {
    for reply in shapes() {
        let mut way = Way::with_tokens().await;
        way.small(2).await;
        let tokens = way.tokens.as_ref().expect("a token server");
        tokens.add(When::any().times(STORM), Fault::Answer(reply));
        way.survives(Extra { requests: 40, ..Extra::default() }).await;
        way.is_equal().await;
    }
}

#[tokio::test]
async fn seconds_to_wait_are_obeyed_by_all() {
    let mut way = Way::start().await;
    way.small(4).await;
    let limited = Reply::status(429).header("retry-after", "2");
    way.to.add(When::kind(Kind::StartUpload).naming("/app-").times(4), Fault::Answer(limited));
    way.survives(Extra { requests: 12, ..Extra::default() }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_wait_that_is_absurd_is_not_waited_for_and_costs_few_requests() {
    let mut way = Way::start().await;
    way.small(10).await;
    let limited = Reply::status(429).header("retry-after", "31536000");
    way.to.add(When::kind(Kind::StartUpload).or(Kind::HeadManifest).naming("/app-"), Fault::Answer(limited));
    let ran = way.run().await;
    assert_eq!(ran.code, Some(1), "{ran}");
    for number in 0..10 {
        assert_eq!(ran.reason(&format!("app-{number}")), Some("RateLimited"), "{ran}");
    }
    way.check(&ran, Extra::default()).await;
    way.heals().await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_rate_limit_fails_nothing_and_is_soon_kept_to() {
    for reply in [Reply::status(429), Reply::status(429).header("retry-after", "1")] {
        let mut way = Way::start().await;
        way.small(40).await;
        way.to.limit(60, reply);
        way.survives(Extra { requests: 200, ..Extra::default() }).await;
        let seen = way.to.seen();
        let limited = seen.iter().filter(|seen| seen.status == Some(429)).count();
        // Whole windows of requests are under way when the limit is first met; asked again without a pace, most would be refused.
        assert!(limited <= seen.len() / 4, "{limited} of {} requests were refused", seen.len());
        way.is_equal().await;
    }
}
