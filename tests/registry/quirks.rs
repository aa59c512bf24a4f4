//! What particular registries do that the specification does not say, one test each where no other file has it.

use super::blobs::{LARGE, pair};
use super::fake::{answer, error};
use super::*;

#[tokio::test]
async fn ranges_as_quay_writes_them_before_anything_was_sent_mean_nothing() {
    for range in ["bytes=0--1", "0--1", "bytes=0-0", "0-0", ""] {
        let (from, to, bytes, blob) = pair(LARGE).await;
        to.times(1, ("PUT", ""), || error(500, "UNKNOWN", "not now"));
        to.rule(move |seen| {
            let status = seen.method == "GET" && seen.path.contains("/blobs/uploads/");
            status.then(|| answer(204, &[("range", range)], ""))
        });
        copy(&from, &to, &blob).await.unwrap();
        assert_eq!(to.blob("x/y", &blob.digest), Some(bytes), "{range}");
    }
}

#[tokio::test]
async fn replicas_without_a_common_secret_are_sent_the_blob_again() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    to.times(2, ("PUT", ""), || error(400, "BLOB_UPLOAD_INVALID", "blob upload invalid"));
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    assert!(to.count("POST") <= 3, "{:?}", to.lines());
}

#[tokio::test]
async fn a_wish_to_mount_always_says_from_where() {
    let fake = FakeRegistry::start().await;
    let (client, repository) = (target(&fake), fake.repository("x/y"));
    for from in [&repository, &fake.repository("other/home")] {
        client.start_upload(&repository, &Digest::of(b""), Some(from)).await.unwrap();
    }
    client.start_upload(&repository, &Digest::of(b""), None).await.unwrap();
    let asked: Vec<_> = fake.seen().into_iter().map(|seen| seen.query).collect();
    let mounts = asked.iter().filter(|query| query.contains_key("mount")).count();
    let sources = asked.iter().filter(|query| query.contains_key("from")).count();
    assert_eq!((mounts, sources, asked.len()), (2, 2, 3), "one without a mount has neither");
}

#[tokio::test]
async fn uploads_lead_to_absolute_and_relative_addresses_below_any_path() {
    for form in ["absolute", "path", "relative", "query"] {
        let (from, to, bytes, blob) = pair(1000).await;
        let (host, store) = (to.host(), to.store());
        to.rule(move |seen| {
            let location = match form {
                "absolute" => format!("http://{host}/forge/uploads/1?a=b%2Fc"),
                "path" => "/forge/uploads/1?a=b%2Fc".to_owned(),
                // From `/v2/x/y/blobs/uploads/` up to the root.
                "relative" => "../../../../../forge/uploads/1?a=b%2Fc".to_owned(),
                _ => "?a=b%2Fc".to_owned(),
            };
            (seen.method == "POST").then(|| answer(202, &[("location", &location)], ""))
        });
        let blob_bytes = bytes.clone();
        to.rule(move |seen| {
            let state = seen.query.get("a").is_some_and(|values| values == &["b/c"]);
            let path = if form == "query" { "/v2/x/y/blobs/uploads/" } else { "/forge/uploads/1" };
            (seen.method == "PUT" && seen.path == path && state && seen.query.contains_key("digest")).then(|| {
                store("x/y", blob_bytes.clone());
                answer(201, &[], "")
            })
        });
        copy(&from, &to, &blob).await.unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(to.blob("x/y", &blob.digest), Some(bytes), "{form}");
    }
}

#[tokio::test]
async fn parts_may_be_taken_with_another_answer_than_specified() {
    const LENGTH: usize = 3 << 20;
    let (from, to, bytes, blob) = pair(LENGTH).await;
    to.rule(|seen| {
        let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
        (length > 1 << 20).then(|| answer(413, &[("content-type", "text/html")], "<html>too large</html>"))
    });
    // As ECR does: 201 where 202 is specified. What it has taken is seen by what it says about the whole.
    let store = to.store();
    let whole = bytes.clone();
    to.after("PATCH", || answer(201, &[], ""));
    to.rule(move |seen| {
        let closes = seen.method == "PUT" && seen.header("content-length") == Some("0");
        closes.then(|| {
            store("x/y", whole.clone());
            answer(201, &[], "")
        })
    });
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    assert_eq!((to.count("POST"), to.count("PATCH")), (1, 1 + 4), "{:?}", to.lines());
}

#[tokio::test]
async fn a_header_that_is_too_long_is_answered_with_a_narrow_token_once() {
    for status in [400, 431] {
        let fake = FakeRegistry::start().await;
        fake.put_manifest("a/b", "1", IMAGE, "{}");
        fake.wants_tokens(None);
        let refused = std::sync::atomic::AtomicBool::new(false);
        fake.rule(move |seen| {
            let long = seen.header("authorization").is_some() && seen.path.contains("/manifests/");
            let first = long && !refused.swap(true, std::sync::atomic::Ordering::SeqCst);
            first.then(|| answer(status, &[("content-type", "text/html")], "<html>Request Header Too Large</html>"))
        });
        let found = get(&source(&fake), &fake.repository("a/b"), "1").await;
        assert!(found.unwrap_or_else(|error| panic!("{status}: {error}")).is_some());
        assert_eq!(fake.count("GET /token"), 2, "{status}");
    }
}

#[tokio::test]
async fn a_manifest_that_harbor_does_not_find_while_it_is_put_is_put_again() {
    let fake = FakeRegistry::start().await;
    fake.times(2, ("PUT", "/manifests/v1"), || error(404, "NOT_FOUND", "artifact x/y:v1 not found"));
    let manifest = raw("{}");
    target(&fake).put_manifest(&fake.repository("x/y"), By::Tag(&tag("v1")), &manifest).await.unwrap();
    assert_eq!(fake.manifest("x/y", "v1").as_ref(), Some(manifest.bytes()));
    assert_eq!(fake.count("PUT"), 3);
}
