//! Small blobs that are sent with the request that would begin their upload.

use imageset_mirror::failure::Reason;
use imageset_mirror::registry::Problem;

use super::fake::{Seen, answer, error, html};
use super::*;

/// Different small blobs.
fn blobs(count: u8) -> Vec<(Digest, Bytes)> {
    let bytes = (0..count).map(|number| Bytes::from(vec![number; 1000]));
    bytes.map(|bytes| (Digest::of(&bytes), bytes)).collect()
}

/// Puts some blobs one after the other, and sees that they are there; what each took.
async fn put(fake: &FakeRegistry, client: &Client, count: u8) -> Vec<Vec<&'static str>> {
    let repository = fake.repository("x/y");
    let mut all = Vec::new();
    for (digest, bytes) in blobs(count) {
        fake.clear();
        client.put_bytes(&repository, &digest, bytes.clone()).await.unwrap();
        assert_eq!(fake.blob("x/y", &digest), Some(bytes));
        all.push(fake.seen().iter().filter_map(kind).collect());
    }
    all
}

fn kind(seen: &Seen) -> Option<&'static str> {
    Some(match seen.method.as_str() {
        "POST" if seen.posts_whole() => "whole",
        "POST" => "begin",
        "PUT" => "send",
        "HEAD" => "look",
        _ => return None,
    })
}

#[tokio::test]
async fn a_target_that_takes_blobs_whole_gets_each_in_one_request() {
    let fake = FakeRegistry::start().await;
    fake.takes_whole();
    // That it is there is looked at once.
    assert_eq!(put(&fake, &target(&fake), 3).await, [vec!["whole", "look"], vec!["whole"], vec!["whole"]]);
    let post = &fake.seen()[0];
    assert_eq!(post.path, "/v2/x/y/blobs/uploads/");
    assert_eq!(post.header("content-length"), Some("1000"));
    assert_eq!(post.header("content-type"), Some("application/octet-stream"));
}

#[tokio::test]
async fn a_target_that_begins_a_session_instead_is_not_asked_again_and_it_has_cost_nothing() {
    let fake = FakeRegistry::start().await;
    let asked = put(&fake, &target(&fake), 3).await;
    assert_eq!(asked, [vec!["whole", "send"], vec!["begin", "send"], vec!["begin", "send"]]);
    assert_eq!(fake.seen()[0].header("content-length"), Some("0"));
}

#[tokio::test]
async fn a_target_that_refuses_it_is_sent_the_blob_as_usual_and_that_is_remembered() {
    for status in [400, 403, 404, 405, 411, 413, 415, 500] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |seen| seen.posts_whole().then(|| answer(status, &[], "")));
        let asked = put(&fake, &target(&fake), 2).await;
        assert_eq!(asked, [vec!["whole", "begin", "send"], vec!["begin", "send"]], "{status}");
    }
    let fake = FakeRegistry::start().await;
    fake.rule(|seen| seen.posts_whole().then(|| html(200)));
    assert_eq!(put(&fake, &target(&fake), 2).await, [vec!["whole", "begin", "send"], vec!["begin", "send"]]);
}

#[tokio::test]
async fn a_connection_that_breaks_is_followed_by_an_upload_as_usual() {
    let fake = FakeRegistry::start().await;
    fake.breaks_uploads([10], false);
    let client = target(&fake);
    assert_eq!(put(&fake, &client, 2).await, [vec!["whole", "begin", "send"], vec!["begin", "send"]]);
    // Where it is known to work that was an accident.
    client.limits().host(&fake.host()).learn(Capability::SinglePost, true);
    fake.takes_whole();
    fake.breaks_uploads([10], false);
    assert_eq!(put(&fake, &client, 2).await, [vec!["whole", "begin", "send"], vec!["whole"]]);
}

#[tokio::test]
async fn a_target_that_says_it_has_taken_a_blob_and_has_not_is_not_believed() {
    let fake = FakeRegistry::start().await;
    fake.rule(|seen| seen.posts_whole().then(|| answer(201, &[], "")));
    let asked = put(&fake, &target(&fake), 2).await;
    assert_eq!(asked, [vec!["whole", "look", "begin", "send"], vec!["begin", "send"]]);
}

#[tokio::test]
async fn a_refusal_that_is_not_about_the_form_is_not_remembered_as_one() {
    let fake = FakeRegistry::start().await;
    fake.takes_whole();
    fake.times(2, ("POST", ""), || error(403, "DENIED", "no"));
    let (client, (digest, bytes)) = (target(&fake), blobs(1).remove(0));
    let failed = client.put_bytes(&fake.repository("x/y"), &digest, bytes).await.unwrap_err();
    assert_eq!(failed.reason(), Reason::TargetAuth);
    assert_eq!(put(&fake, &client, 1).await, [vec!["whole", "look"]]);
}

#[tokio::test]
async fn a_login_and_a_wait_are_followed_by_the_same_request() {
    let fake = FakeRegistry::start().await;
    fake.takes_whole();
    fake.wants_tokens(None);
    fake.times(2, ("POST", ""), || error(429, "TOOMANYREQUESTS", ""));
    assert_eq!(put(&fake, &target(&fake), 1).await, [vec!["whole", "whole", "whole", "whole", "look"]]);
    assert_eq!(fake.count("GET /token"), 1);
}

#[tokio::test]
async fn a_digest_that_is_confirmed_wrongly_is_a_failure() {
    let fake = FakeRegistry::start().await;
    let other = Digest::of(b"other").to_string();
    fake.rule(move |seen| seen.posts_whole().then(|| answer(201, &[("docker-content-digest", &other)], "")));
    let (digest, bytes) = blobs(1).remove(0);
    let failed = target(&fake).put_bytes(&fake.repository("x/y"), &digest, bytes).await.unwrap_err();
    assert!(matches!(failed.problem(), Problem::Digest { .. }), "{failed}");
}

#[tokio::test]
async fn only_small_blobs_are_sent_so() {
    for (length, expected) in [(256 << 10, vec!["whole", "look"]), ((256 << 10) + 1, vec!["begin", "send"])] {
        let (from, to, bytes, blob) = super::blobs::pair(length).await;
        to.takes_whole();
        copy(&from, &to, &blob).await.unwrap();
        assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
        assert_eq!(to.seen().iter().filter_map(kind).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn it_is_known_to_work_or_not_once_a_blob_was_put() {
    for whole in [true, false] {
        let fake = FakeRegistry::start().await;
        if whole {
            fake.takes_whole();
        }
        let (client, repository) = (target(&fake), fake.repository("x/y"));
        client.start_upload(&repository, &Digest::of(b"absent"), Some(&repository)).await.unwrap();
        assert_eq!(client.posts_whole(&repository), None);
        put(&fake, &client, 1).await;
        assert_eq!(client.posts_whole(&repository), Some(whole));
    }
}
