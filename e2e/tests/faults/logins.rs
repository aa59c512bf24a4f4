//! Tokens that expire under way, that lack rights, and token servers that have troubles of their own.

use e2e::fault_proxy::{Fault, Kind, Reply, When};
use e2e::image::ImageSpec;

use crate::way::{Extra, MIB, Way};

#[tokio::test]
async fn tokens_that_last_three_requests_fail_nothing() {
    let mut way = Way::with_tokens().await;
    way.small(5).await;
    way.layer(4 * MIB).await;
    way.to.expire_tokens_after(3, way.challenge());
    way.survives(Extra { read: 8 * MIB, sent: 8 * MIB, requests: 200 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_token_that_ends_while_a_blob_is_sent_is_renewed_once() {
    let mut way = Way::with_tokens().await;
    way.layer(16 * MIB).await;
    let sends = When::kind(Kind::PutUpload).of_least(MIB).times(1);
    way.to.add(sends, Fault::Answer(way.challenge()));
    way.survives(Extra { read: 16 * MIB, sent: 16 * MIB, requests: 6 }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn one_token_is_asked_for_by_all_who_wait_for_it() {
    let mut way = Way::with_tokens().await;
    for number in 0..8 {
        way.tagged("app", &format!("v{number}"), ImageSpec::seeded(number).layers(6, 2048)).await;
    }
    way.survives(Extra::default()).await;
    let tokens = way.tokens.as_ref().expect("a token server").seen().len();
    // Its repository, with and without the right to mount, and that of the record.
    assert!(tokens <= 6, "{tokens} tokens were asked for");
}

#[tokio::test]
async fn a_token_without_the_right_to_push_is_an_error_by_name_and_no_loop() {
    let mut way = Way::with_tokens().await;
    way.small(4).await;
    way.tokens.as_ref().expect("a token server").add(When::any(), Fault::Path("push".to_owned(), "pull".to_owned()));
    let ran = way.run().await;
    assert_eq!(ran.code, Some(1), "{ran}");
    for number in 0..4 {
        let reason = ran.reason(&format!("app-{number}"));
        assert!(matches!(reason, Some("TargetAuth" | "TargetRepoMissing")), "{reason:?}: {ran}");
    }
    let tokens = way.tokens.as_ref().expect("a token server").seen().len();
    // Two for each of the sixteen blobs, and for tags, images and the record.
    assert!(tokens <= 2 * 16 + 4 + 12, "{tokens} tokens were asked for");
    // Requests that begin together are refused together, before there is a token.
    way.check(&ran, Extra { requests: 8, ..Extra::default() }).await;
    way.heals().await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_token_server_in_trouble_is_tried_again() {
    let troubles = [
        Reply::status(500),
        Reply::status(503).header("retry-after", "1"),
        Reply::status(502).page(),
        Reply::status(200).page(),
    ];
    for reply in troubles {
        let mut way = Way::with_tokens().await;
        way.small(3).await;
        way.tokens.as_ref().expect("a token server").add(When::any().times(2), Fault::Answer(reply));
        way.survives(Extra { requests: 10, ..Extra::default() }).await;
        way.is_equal().await;
    }
}

#[tokio::test]
async fn a_token_server_whose_connections_break_is_tried_again() {
    let mut way = Way::with_tokens().await;
    way.small(3).await;
    way.tokens.as_ref().expect("a token server").add(When::any().times(2), Fault::LoseAnswer);
    way.survives(Extra { requests: 10, ..Extra::default() }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn clocks_of_others_have_no_say() {
    for date in ["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 2100 23:59:59 GMT"] {
        let mut way = Way::with_tokens().await;
        way.small(3).await;
        let tokens = way.tokens.as_ref().expect("a token server");
        tokens.add(When::any(), Fault::With("date", date.to_owned()));
        way.to.add(When::any(), Fault::With("date", date.to_owned()));
        way.survives(Extra::default()).await;
        let tokens = way.tokens.as_ref().expect("a token server").seen().len();
        assert!(tokens <= 12, "{tokens} tokens were asked for");
        way.is_equal().await;
    }
}

#[tokio::test]
async fn wrong_credentials_are_an_error_by_name_and_no_loop() {
    let mut way = Way::start().await;
    way.small(6).await;
    let refused = Reply::status(401).header("www-authenticate", "Basic realm=\"e2e\"");
    way.from.add(When::any(), Fault::Answer(refused.error("UNAUTHORIZED", "authentication required")));
    let ran = way.run().await;
    assert_eq!(ran.code, Some(1), "{ran}");
    for number in 0..6 {
        assert_eq!(ran.reason(&format!("app-{number}")), Some("SourceAuth"), "{ran}");
    }
    way.check(&ran, Extra::default()).await;
    way.heals().await;
    way.is_equal().await;
}
