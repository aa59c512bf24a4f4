//! Answers that lead elsewhere: credentials stay, circles end, and some places are never gone to.

use e2e::fault_proxy::{Fault, Kind, Reply, When};

use crate::way::{Extra, MIB, Way};

#[tokio::test]
async fn a_redirect_to_another_host_is_followed_without_credentials() {
    let mut way = Way::start().await;
    let layer = way.layer(4 * MIB).await;
    let store = way.store().host();
    let redirect = Reply::status(307).header("location", &format!("http://{store}/v2/app/blobs/{layer}"));
    way.from.add(When::kind(Kind::GetBlob).naming(&layer), Fault::Answer(redirect));
    way.survives(Extra::default()).await;
    assert_eq!(way.others[0].of(Kind::GetBlob).len(), 1, "it was followed");
    way.is_equal().await;
}

#[tokio::test]
async fn circles_end() {
    let mut way = Way::start().await;
    let layer = way.layer(4 * MIB).await;
    way.small(1).await;
    let circle = Reply::status(307).header("location", &format!("/v2/app/blobs/{layer}"));
    way.from.add(When::kind(Kind::GetBlob).naming(&layer), Fault::Answer(circle));
    let ran = way.run().await;
    assert!(ran.reason("app").is_some(), "{ran}");
    assert!(way.from.of(Kind::GetBlob).len() <= 30, "{:#?}", way.from.of(Kind::GetBlob));
    way.check(&ran, Extra { requests: 30, ..Extra::default() }).await;
    way.heals().await;
    way.is_equal().await;
}

#[tokio::test]
async fn nobody_is_led_to_the_metadata_of_a_cloud() {
    let place = "http://169.254.169.254/latest/meta-data/";
    let mut way = Way::start().await;
    let layer = way.layer(4 * MIB).await;
    let redirect = Reply::status(307).header("location", place);
    way.from.add(When::kind(Kind::GetBlob).naming(&layer), Fault::Answer(redirect));
    let ran = way.run().await;
    assert_eq!(ran.reason("app"), Some("PolicyDenied"), "{ran}");
    way.check(&ran, Extra { requests: 10, ..Extra::default() }).await;
    way.heals().await;

    let mut way = Way::start().await;
    way.small(1).await;
    way.to.add(When::kind(Kind::StartUpload), Fault::Answer(Reply::status(202).header("location", place)));
    let ran = way.run().await;
    assert_eq!(ran.reason("app-0"), Some("PolicyDenied"), "{ran}");
    way.check(&ran, Extra { requests: 10, ..Extra::default() }).await;
    way.heals().await;

    let mut way = Way::with_tokens().await;
    way.small(1).await;
    let challenge = format!("Bearer realm=\"{place}\",service=\"e2e\"");
    way.to.add(When::any(), Fault::Answer(Reply::status(401).header("www-authenticate", &challenge)));
    let ran = way.run().await;
    assert_eq!(ran.reason("app-0"), Some("PolicyDenied"), "{ran}");
    way.check(&ran, Extra { requests: 10, ..Extra::default() }).await;
    way.heals().await;
}
