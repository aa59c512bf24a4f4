//! Registries and balancers that answer with errors: those that pass, and those that do not.

use e2e::fault_proxy::{Fault, Kind, Reply, When};

use crate::way::{Extra, MIB, Way};

/// Kinds of requests that every copy makes.
const SOURCE: [Kind; 2] = [Kind::GetManifest, Kind::GetBlob];
const TARGET: [Kind; 3] = [Kind::StartUpload, Kind::PutUpload, Kind::PutManifest];

/// Answers each kind of request with this twice.
async fn passes(reply: Reply) {
    let mut way = Way::start().await;
    way.small(3).await;
    for kind in SOURCE {
        way.from.add(When::kind(kind).naming("/app-1/").times(2), Fault::Answer(reply.clone()));
    }
    for kind in TARGET {
        way.to.add(When::kind(kind).naming("/app-1/").times(2), Fault::Answer(reply.clone()));
    }
    way.survives(Extra { requests: 30, ..Extra::default() }).await;
    way.is_equal().await;
}

#[tokio::test]
async fn errors_of_servers_pass() {
    for status in [500, 502, 503, 504] {
        passes(Reply::status(status).error("UNKNOWN", "unknown error")).await;
    }
}

#[tokio::test]
async fn pages_of_balancers_pass_whatever_their_status() {
    for status in [404, 502, 503] {
        passes(Reply::status(status).page()).await;
    }
}

#[tokio::test]
async fn maintenance_is_waited_for_as_long_as_it_says() {
    passes(Reply::status(503).header("retry-after", "1").error("UNAVAILABLE", "maintenance")).await;
}

#[tokio::test]
async fn a_burst_of_errors_of_every_request_is_borne() {
    let mut way = Way::start().await;
    way.small(10).await;
    let broken = Reply::status(503).error("UNAVAILABLE", "service unavailable");
    // Six of ten answers, over a while.
    way.to.add(When::any().after(5).every(2).times(40), Fault::Answer(broken.clone()));
    way.from.add(When::any().after(5).every(2).times(40), Fault::Answer(broken));
    way.survives(Extra { requests: 200, ..Extra::default() }).await;
    way.is_equal().await;
}

/// A target that takes no content for one image says why; others come, and it is asked seldom.
async fn refused(reply: Reply, kind: Kind, reasons: &[&str]) {
    let mut way = Way::start().await;
    way.small(3).await;
    way.to.add(When::kind(kind).naming("/app-1/"), Fault::Answer(reply));
    let ran = way.run().await;
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.reason("app-1").is_some_and(|reason| reasons.contains(&reason)), "{ran}");
    for number in [0, 2] {
        assert!(way.at_target().digest(&format!("app-{number}"), "v1").await.expect("an answer").is_some(), "{ran}");
    }
    way.check(&ran, Extra { sent: 100_000, requests: 40, ..Extra::default() }).await;
    way.heals().await;
    way.is_equal().await;
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_named() {
    let denied = Reply::status(403).error("DENIED", "quota exceeded: storage quota of the project is used up");
    refused(denied.clone(), Kind::StartUpload, &["TargetQuota"]).await;
    refused(denied.clone(), Kind::PutUpload, &["TargetQuota"]).await;
    refused(denied, Kind::PutManifest, &["TargetQuota"]).await;
}

#[tokio::test]
async fn a_disk_that_is_full_is_named() {
    let full = Reply::status(500).error("UNKNOWN", "write /var/lib/registry: no space left on device");
    refused(full, Kind::PutUpload, &["TargetQuota", "TargetStorageFull"]).await;
    refused(Reply::status(507), Kind::PutUpload, &["TargetQuota", "TargetStorageFull"]).await;
}

#[tokio::test]
async fn a_target_that_is_read_only_is_named() {
    let denied =
        Reply::status(405).error("DENIED", "system is currently read-only. Pulls will succeed but pushes fail");
    refused(denied, Kind::StartUpload, &["TargetReadOnly", "RegistryError"]).await;
}

#[tokio::test]
async fn a_tag_that_may_not_move_is_named() {
    let immutable = Reply::status(409).error("TAG_IMMUTABLE", "tag is immutable");
    refused(immutable, Kind::PutManifest, &["TargetTagImmutable"]).await;
}

#[tokio::test]
async fn a_layer_that_is_too_large_is_named() {
    let large = Reply::status(413).error("SIZE_INVALID", "layer exceeds the limit of 20 GB");
    refused(large, Kind::PutUpload, &["TargetTooLarge"]).await;
}

#[tokio::test]
async fn a_repository_that_nobody_makes_is_named() {
    let unknown = Reply::status(404).error("NAME_UNKNOWN", "repository name not known to registry");
    refused(unknown, Kind::StartUpload, &["TargetRepoMissing"]).await;
}

#[tokio::test]
async fn requests_that_are_too_long_for_the_host_are_cut_into_parts() {
    let mut way = Way::start().await;
    way.layer(40 * MIB).await;
    let limit = When::kind(Kind::PutUpload).or(Kind::PatchUpload).of_least(20 * MIB);
    way.to.add(limit, Fault::Answer(Reply::status(413).page()));
    // Read whole, half, and in quarters: the first two are refused once they have been sent.
    way.survives(Extra { read: 80 * MIB, requests: 20, ..Extra::default() }).await;
    way.is_equal().await;
}
