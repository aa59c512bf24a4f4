//! Manifests and referrers.

use std::sync::atomic::{AtomicUsize, Ordering};

use imageset_mirror::failure::Reason;
use imageset_mirror::registry::{Class, Problem};

use super::fake::{answer, cut, error, html};
use super::*;

#[tokio::test]
async fn a_tag_is_resolved_with_one_head() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_manifest("a/b", "1", IMAGE, "{}");
    let (client, repository, name) = (source(&fake), fake.repository("a/b"), tag("1"));
    assert_eq!(is_send(client.resolve(&repository, &name)).await.unwrap(), Some(digest));
    assert_eq!(fake.lines(), ["HEAD /v2/a/b/manifests/1"]);
}

#[tokio::test]
async fn a_missing_or_unreadable_digest_header_makes_a_get_whose_bytes_are_hashed() {
    for header in [None, Some("rubbish")] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |_seen| {
            let mut response = answer(200, &[("content-type", IMAGE)], "{}");
            if let Some(header) = header {
                response.headers_mut().insert("docker-content-digest", header.parse().unwrap());
            }
            Some(response)
        });
        let found = source(&fake).resolve(&fake.repository("a/b"), &tag("1")).await.unwrap();
        assert_eq!(found, Some(Digest::of(b"{}")));
        assert_eq!(fake.lines(), ["HEAD /v2/a/b/manifests/1", "GET /v2/a/b/manifests/1"]);
    }
}

#[tokio::test]
async fn an_unknown_manifest_and_an_unknown_repository_are_absent() {
    for code in ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |_seen| Some(error(404, code, "no")));
        let (client, repository) = (source(&fake), fake.repository("a/b"));
        assert_eq!(client.resolve(&repository, &tag("1")).await.unwrap(), None);
        assert_eq!(get(&client, &repository, "1").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_page_instead_of_a_registrys_answer_is_never_absence() {
    for (status, media_type, body) in [
        (404, "text/html", "<html>"),
        (404, "text/plain", "page not found"),
        (404, "application/json", r#"{"message":"no route"}"#),
        (200, "text/html", "<html>"),
        (200, "application/octet-stream", " <!doctype html>"),
        (403, "text/html", "<html>"),
    ] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |_seen| Some(answer(status, &[("content-type", media_type)], body)));
        let (client, repository) = (source(&fake), fake.repository("a/b"));
        let mut failed = vec![get(&client, &repository, "1").await.unwrap_err()];
        // A HEAD with JSON has no body that would tell.
        if media_type != "application/json" {
            failed.push(client.resolve(&repository, &tag("1")).await.unwrap_err());
        }
        for error in failed {
            assert_eq!(error.reason(), Reason::RegistryError, "{status} {media_type}: {error}");
            assert!(matches!(error.class(), Class::Transient { .. }), "{error}");
            assert!(!error.to_string().contains("html>"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_manifest_comes_with_its_bytes_type_and_digest() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_manifest("a/b", "1", "application/vnd.acme+json", " {\"a\": 1}\n");
    let found = source(&fake).manifest(&fake.repository("a/b"), By::Digest(&digest)).await.unwrap().unwrap();
    assert_eq!(found.bytes(), &Bytes::from_static(b" {\"a\": 1}\n"));
    assert_eq!(found.media_type(), "application/vnd.acme+json");
    assert_eq!(found.digest(), &digest);
    let accept = fake.seen()[0].header("accept").unwrap().to_owned();
    assert!(accept.contains(media_type::OCI_INDEX) && accept.contains("*/*"), "{accept}");
}

#[tokio::test]
async fn a_digest_of_sha512_is_verified_as_such() {
    let fake = FakeRegistry::start().await;
    let mut hasher = imageset_mirror::oci::Hasher::new(imageset_mirror::oci::Algorithm::Sha512);
    hasher.update(b"{}");
    let digest = hasher.finish();
    fake.rule(|_seen| Some(answer(200, &[("content-type", IMAGE)], "{}")));
    let client = source(&fake);
    let found = client.manifest(&fake.repository("a/b"), By::Digest(&digest)).await.unwrap().unwrap();
    assert_eq!(found.digest(), &digest);
    let other: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
    let error = client.manifest(&fake.repository("a/b"), By::Digest(&other)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DigestMismatch);
}

#[tokio::test]
async fn bytes_that_hash_to_something_else_are_refused() {
    let fake = FakeRegistry::start().await;
    let wanted = Digest::of(b"wanted");
    fake.rule(|_seen| Some(answer(200, &[("content-type", IMAGE)], "{}")));
    let failed = source(&fake).manifest(&fake.repository("a/b"), By::Digest(&wanted)).await.unwrap_err();
    assert_eq!(failed.reason(), Reason::DigestMismatch);
    assert!(failed.to_string().contains(&wanted.to_string()), "{failed}");
}

#[tokio::test]
async fn a_digest_header_that_does_not_fit_the_bytes_or_the_wish_is_an_error() {
    let fake = FakeRegistry::start().await;
    let other = Digest::of(b"other").to_string();
    fake.rule(move |_seen| Some(answer(200, &[("docker-content-digest", &other)], "{}")));
    let (client, repository) = (source(&fake), fake.repository("a/b"));
    assert_eq!(get(&client, &repository, "1").await.unwrap_err().reason(), Reason::DigestMismatch);
    let wanted = Digest::of(b"{}");
    let error = client.head_manifest(&repository, By::Digest(&wanted)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DigestMismatch);
}

#[tokio::test]
async fn a_manifest_over_four_mebibytes_is_refused_whether_announced_or_not() {
    let long = vec![b' '; (4 << 20) + 1];
    for announced in [true, false] {
        let fake = FakeRegistry::start().await;
        let long = Bytes::from(long.clone());
        fake.rule(move |_seen| {
            let body = if announced {
                long.clone().into()
            } else {
                let parts: Vec<_> = long.chunks(1 << 16).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect();
                axum::body::Body::from_stream(futures::stream::iter(parts))
            };
            Some(answer(200, &[("content-type", IMAGE)], body))
        });
        let error = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
        assert_eq!(error.reason(), Reason::ManifestInvalid);
        let message = error.failure().message;
        assert!(message.contains("manifest `a/b:1`") && message.contains("4194304"), "{message}");
        assert_eq!(message.contains("4194305 bytes"), announced, "{message}");
    }
}

#[tokio::test]
async fn a_manifest_cut_short_is_read_again_and_then_fails_by_name() {
    let fake = FakeRegistry::start().await;
    fake.put_manifest("a/b", "1", IMAGE, "{}");
    fake.times(1, ("GET", "manifests/1"), || cut(200, &[], 100, Bytes::from_static(b"{")));
    let (client, repository) = (source(&fake), fake.repository("a/b"));
    assert!(get(&client, &repository, "1").await.unwrap().is_some());
    fake.times(100, ("GET", "manifests/1"), || cut(200, &[], 100, Bytes::from_static(b"{")));
    let error = get(&client, &repository, "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::NetworkUnreachable);
}

#[tokio::test]
async fn a_registry_that_takes_no_head_is_asked_with_get() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_manifest("a/b", "1", IMAGE, "{}");
    fake.times(1, ("HEAD", ""), || answer(405, &[], ""));
    assert_eq!(source(&fake).resolve(&fake.repository("a/b"), &tag("1")).await.unwrap(), Some(digest));
}

#[tokio::test]
async fn a_manifest_is_stored_byte_for_byte_under_its_tag() {
    let fake = FakeRegistry::start().await;
    let manifest = raw(" {\"schemaVersion\": 2}\n");
    let (client, repository) = (target(&fake), fake.repository("x/y"));
    let outcome = client.put_manifest(&repository, By::Tag(&tag("1")), &manifest).await.unwrap();
    assert!(!outcome.subject_processed);
    assert_eq!(fake.manifest("x/y", "1").as_ref(), Some(manifest.bytes()));
    assert_eq!(fake.seen()[0].header("content-type"), Some(IMAGE));
    assert_eq!(fake.lines(), ["PUT /v2/x/y/manifests/1"]);
}

#[tokio::test]
async fn a_registry_that_notes_the_subject_is_heard() {
    let fake = FakeRegistry::start().await;
    fake.rule(|_seen| Some(answer(201, &[("oci-subject", "sha256:x")], "")));
    let outcome = target(&fake).put_manifest(&fake.repository("x/y"), By::Tag(&tag("1")), &raw("{}")).await.unwrap();
    assert!(outcome.subject_processed);
}

#[tokio::test]
async fn a_manifest_stored_under_another_digest_is_a_failure() {
    let fake = FakeRegistry::start().await;
    let other = Digest::of(b"other").to_string();
    fake.rule(move |_seen| Some(answer(201, &[("docker-content-digest", &other)], "")));
    let error = target(&fake).put_manifest(&fake.repository("x/y"), By::Tag(&tag("1")), &raw("{}")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DigestMismatch);
}

#[tokio::test]
async fn what_a_target_refuses_has_its_own_reason() {
    for (status, code, message, reason) in [
        (403, "DENIED", "quota exceeded on namespace", Reason::TargetQuota),
        (403, "DENIED", "requested access is denied", Reason::TargetAuth),
        (404, "NAME_UNKNOWN", "no such project", Reason::TargetRepoMissing),
        (409, "TAG_IMMUTABLE", "", Reason::TargetTagImmutable),
        (412, "PRECONDITION", "immutable", Reason::TargetTagImmutable),
        (413, "SIZE_INVALID", "", Reason::TargetTooLarge),
        (415, "MANIFEST_INVALID", "", Reason::UnsupportedMediaType),
        (400, "MANIFEST_INVALID", "", Reason::ManifestInvalid),
        (400, "NAME_INVALID", "", Reason::PathTooDeep),
        (405, "DENIED", "read-only", Reason::RegistryError),
        (400, "MANIFEST_BLOB_UNKNOWN", "", Reason::RegistryError),
    ] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |_seen| Some(error(status, code, message)));
        let put = target(&fake).put_manifest(&fake.repository("x/y"), By::Tag(&tag("1")), &raw("{}")).await;
        let error = put.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert_eq!(error.code(), Some(code));
        assert_eq!(error.lost_content(), code == "MANIFEST_BLOB_UNKNOWN");
        assert_eq!(fake.seen().len(), 1, "none of these passes by itself");
    }
}

#[tokio::test]
async fn what_a_registry_says_is_cut_to_one_short_line() {
    let fake = FakeRegistry::start().await;
    fake.rule(|_seen| Some(error(400, "UNKNOWN", &format!("a\nb{}", "x".repeat(100_000)))));
    // Over the bound for answers that are errors, so nothing of it is used.
    let failed = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
    assert!(failed.failure().message.len() < 400);
    fake.rule(|_seen| Some(error(400, "UNKNOWN", "")));
    assert!(matches!(failed.problem(), Problem::Status { code: None, .. }));
}

#[tokio::test]
async fn referrers_are_asked_for_and_pages_are_joined() {
    let fake = FakeRegistry::start().await;
    let entry = |name: &str| format!(r#"{{"mediaType":"a/b","digest":"{}","size":3}}"#, Digest::of(name.as_bytes()));
    let (one, two) = (entry("1"), entry("2"));
    fake.rule(move |seen| {
        let second = seen.query.contains_key("page");
        let list = if second { &two } else { &one };
        let mut headers = vec![("content-type", media_type::OCI_INDEX)];
        if !second {
            headers.push(("link", "<?page=2>; rel=\"next\""));
        }
        Some(answer(200, &headers, format!(r#"{{"schemaVersion":2,"manifests":[{list}]}}"#)))
    });
    let subject = Digest::of(b"s");
    let found = target(&fake).referrers(&fake.repository("a/b"), &subject).await.unwrap().unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(fake.lines()[0], format!("GET /v2/a/b/referrers/{subject}"));
}

#[tokio::test]
async fn a_list_of_referrers_without_end_is_an_error() {
    let fake = FakeRegistry::start().await;
    fake.rule(|_seen| Some(answer(200, &[("link", "<?p=1>; rel=next")], r#"{"manifests":[]}"#)));
    let error = target(&fake).referrers(&fake.repository("a/b"), &Digest::of(b"s")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RegistryError);
    assert!(fake.seen().len() < 20);
}

#[tokio::test]
async fn a_list_of_referrers_is_bounded_over_all_its_pages() {
    let entry = |number: usize| format!(r#"{{"digest":"{}","size":3}}"#, Digest::of(&number.to_be_bytes()));
    let many = (0..4000).map(entry).collect::<Vec<_>>().join(",");
    let long = format!(r#"{},"annotations":{{"a":"{}"}}}}"#, entry(0).trim_end_matches('}'), "x".repeat(1_500_000));
    for (entries, pages) in [(many, 3), (long, 3)] {
        let fake = FakeRegistry::start().await;
        let left = AtomicUsize::new(10);
        fake.rule(move |_seen| {
            let next = format!("<?p={}>; rel=next", left.fetch_sub(1, Ordering::SeqCst));
            Some(answer(200, &[("link", &next)], format!(r#"{{"manifests":[{entries}]}}"#)))
        });
        let error = target(&fake).referrers(&fake.repository("a/b"), &Digest::of(b"s")).await.unwrap_err();
        assert_eq!((error.reason(), fake.seen().len()), (Reason::ManifestInvalid, pages), "{error}");
        assert!(!error.failure().transient);
    }
}

#[tokio::test]
async fn only_what_is_evidently_a_registry_can_say_that_it_keeps_no_referrers() {
    const MARKED: &[(&str, &str)] = &[("docker-distribution-api-version", "registry/2.0")];
    const PLAIN: &[(&str, &str)] = &[];
    for (headers, body, asked) in [
        (PLAIN, "404 page not found\n", 2),
        (PLAIN, "{}", 2),
        (MARKED, "404 page not found\n", 1),
        (PLAIN, r#"{"errors":[{"code":"UNSUPPORTED"}]}"#, 1),
    ] {
        for status in [404, 405] {
            let fake = FakeRegistry::start().await;
            fake.rule(move |_seen| Some(answer(status, headers, body)));
            let client = target(&fake);
            for _ in 0..2 {
                let found = client.referrers(&fake.repository("a/b"), &Digest::of(b"s")).await.unwrap();
                assert_eq!(found, None);
            }
            assert_eq!(fake.seen().len(), asked, "{status} {body}");
        }
    }
}

#[tokio::test]
async fn a_host_without_referrers_is_asked_once() {
    let fake = FakeRegistry::start().await;
    let (client, digest) = (target(&fake), Digest::of(b"s"));
    for _ in 0..2 {
        assert_eq!(client.referrers(&fake.repository("a/b"), &digest).await.unwrap(), None);
    }
    assert_eq!(fake.count("GET"), 1);
}

#[tokio::test]
async fn a_missing_repository_or_a_page_says_nothing_about_the_hosts_referrers() {
    let fake = FakeRegistry::start().await;
    let (client, digest) = (target(&fake), Digest::of(b"s"));
    fake.times(1, ("GET", ""), || error(404, "NAME_UNKNOWN", ""));
    fake.times(1, ("GET", ""), || html(404));
    fake.times(1, ("GET", ""), || answer(200, &[], r#"{"manifests":[]}"#));
    // What a registry written in Go may make of an empty list.
    fake.times(1, ("GET", ""), || answer(200, &[], r#"{"manifests":null}"#));
    for expected in [false, false, true, true] {
        let found = client.referrers(&fake.repository("a/b"), &digest).await.unwrap();
        assert_eq!(found.is_some(), expected);
    }
}
