//! Reading, writing and moving blobs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use imageset_mirror::failure::Reason;
use imageset_mirror::registry::{Observer, Problem, RequestEvent, Started, Throttle, Trouble, Windows};

use super::fake::{answer, cut, error, html, stall};
use super::*;

/// Large enough to be streamed.
pub(super) const LARGE: usize = 1 << 20;

/// A source with one blob in `a/b`, a target, and the blob.
pub(super) async fn pair(length: usize) -> (FakeRegistry, FakeRegistry, Bytes, Descriptor) {
    let (from, to) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let bytes = noise(length);
    from.put_blob("a/b", bytes.clone());
    let blob = descriptor(&bytes);
    (from, to, bytes, blob)
}

async fn read(client: &Client, repository: &Repository, blob: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut reader = client.open_blob(repository, blob).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_blob_is_moved_whatever_its_size() {
    for length in [0, 1, 256 << 10, (256 << 10) + 1, 3 << 20] {
        let (from, to, bytes, blob) = pair(length).await;
        let moved = copy(&from, &to, &blob).await.unwrap();
        assert_eq!(moved, Transferred::Uploaded { bytes: length as u64 });
        assert_eq!(to.blob("x/y", &blob.digest), Some(bytes), "{length}");
        assert_eq!(from.lines(), [format!("GET /v2/a/b/blobs/{}", blob.digest)]);
        assert_eq!(to.seen().len(), 2);
        let put = &to.seen()[1];
        assert_eq!(put.header("content-length"), Some(length.to_string().as_str()));
        assert_eq!(put.header("content-type"), Some("application/octet-stream"));
    }
}

#[tokio::test]
async fn a_transfer_may_move_between_threads_and_tells_of_its_bytes() {
    let (from, to, _, blob) = pair(LARGE).await;
    let (source, target) = (source(&from), target(&to));
    let (from, to) = (from.repository("a/b"), to.repository("x/y"));
    let told = AtomicU64::new(0);
    let on_bytes = |bytes| {
        told.fetch_add(bytes, Ordering::SeqCst);
    };
    let throttles = [Arc::new(Throttle::new(1 << 40))];
    let progress = Progress { on_bytes: &on_bytes, throttles: &throttles, breaks: None };
    is_send(transfer(&source, &from, &target, &to, &blob, None, progress)).await.unwrap();
    assert_eq!(told.load(Ordering::SeqCst), LARGE as u64);
}

#[tokio::test]
async fn a_blob_that_the_target_has_elsewhere_is_mounted() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    to.put_blob("other/home", bytes);
    to.wants_tokens(None);
    let (repository, home) = (to.repository("x/y"), to.repository("other/home"));
    let none = Progress::none();
    let moved =
        transfer(&source(&from), &from.repository("a/b"), &target(&to), &repository, &blob, Some(&home), none).await;
    assert_eq!(moved.unwrap(), Transferred::Mounted);
    assert!(from.seen().is_empty());
    let token = to.seen().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.query["scope"], ["repository:other/home:pull", "repository:x/y:pull,push"]);
}

#[tokio::test]
async fn a_blob_that_its_repository_has_already_is_found_by_the_request_that_would_begin_to_send_it() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    to.put_blob("x/y", bytes);
    to.wants_tokens(None);
    let repository = to.repository("x/y");
    let none = Progress::none();
    let moved =
        transfer(&source(&from), &from.repository("a/b"), &target(&to), &repository, &blob, Some(&repository), none)
            .await;
    assert_eq!(moved.unwrap(), Transferred::Mounted);
    assert!(from.seen().is_empty());
    let token = to.seen().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.query["scope"], ["repository:x/y:pull,push"], "no more than for sending it");
}

#[tokio::test]
async fn a_home_that_is_not_one_gives_the_session_for_the_upload() {
    for length in [10, LARGE] {
        let (from, to, bytes, blob) = pair(length).await;
        let (repository, home) = (to.repository("x/y"), to.repository("other/home"));
        let none = Progress::none();
        transfer(&source(&from), &from.repository("a/b"), &target(&to), &repository, &blob, Some(&home), none)
            .await
            .unwrap();
        assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
        assert_eq!((to.count("POST"), to.count("PUT")), (1, 1));
    }
}

#[tokio::test]
async fn a_target_that_does_not_take_mounts_is_asked_once_more_without_and_then_always() {
    for status in [401, 403, 400, 405, 500] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |seen| {
            let mount = seen.query.contains_key("mount");
            mount.then(|| answer(status, &[("www-authenticate", "Basic")], ""))
        });
        let client = make(with_user(Side::Target, &fake, "pw"));
        let (repository, home) = (fake.repository("x/y"), fake.repository("other/home"));
        for _ in 0..2 {
            let started = client.start_upload(&repository, &Digest::of(b""), Some(&home)).await.unwrap();
            assert!(matches!(started, Started::Session(_)));
        }
        let asked = fake.seen().iter().filter(|seen| seen.query.contains_key("mount")).count();
        // The 401 is a challenge first; a 500 may have been an accident and is not remembered.
        let expected = match status {
            401 => 2,
            500 => 4,
            _ => 1,
        };
        assert_eq!(asked, expected, "{status}");
    }
}

#[tokio::test]
async fn where_mounts_are_refused_a_blob_that_is_there_is_present() {
    let (from, to, bytes, blob) = pair(10).await;
    to.rule(|seen| seen.query.contains_key("mount").then(|| error(405, "UNSUPPORTED", "")));
    let (source, target, repository, home) =
        (source(&from), target(&to), to.repository("x/y"), to.repository("other/home"));
    target.start_upload(&repository, &blob.digest, Some(&home)).await.unwrap();
    to.put_blob("x/y", bytes);
    let moved =
        transfer(&source, &from.repository("a/b"), &target, &repository, &blob, Some(&home), Progress::none()).await;
    assert_eq!(moved.unwrap(), Transferred::Present);
}

#[tokio::test]
async fn a_refusal_that_is_not_about_the_mount_is_not_remembered_as_one() {
    let fake = FakeRegistry::start().await;
    fake.times(2, ("POST", ""), || error(403, "DENIED", "no"));
    let client = target(&fake);
    let (repository, home) = (fake.repository("x/y"), fake.repository("other/home"));
    let failed = client.start_upload(&repository, &Digest::of(b""), Some(&home)).await.unwrap_err();
    assert_eq!(failed.reason(), Reason::TargetAuth);
    client.start_upload(&repository, &Digest::of(b""), Some(&home)).await.unwrap();
    assert_eq!(fake.seen().iter().filter(|seen| seen.query.contains_key("mount")).count(), 2);
}

#[tokio::test]
async fn a_broken_source_is_resumed_where_it_broke_and_the_upload_goes_on() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    for at in [100_000, 300_000] {
        let part = bytes.clone();
        let range = format!("bytes 100000-{}/{LARGE}", LARGE - 1);
        from.times(1, ("GET", ""), move || match at {
            100_000 => cut(200, &[], LARGE, part.slice(..at)),
            _ => cut(206, &[("content-range", &range)], LARGE - 100_000, part.slice(100_000..at)),
        });
    }
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    let ranges: Vec<_> = from.seen().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=300000-".to_owned())]);
    assert_eq!((to.count("POST"), to.count("PUT")), (1, 1));
}

#[tokio::test]
async fn a_source_that_ignores_ranges_is_read_again_up_to_where_it_broke() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    let part = bytes.clone();
    from.times(1, ("GET", ""), move || cut(200, &[], LARGE, part.slice(..400_000)));
    let whole = bytes.clone();
    from.rule(move |_seen| Some(answer(200, &[], whole.clone())));
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
}

#[tokio::test]
async fn another_part_than_asked_for_is_never_appended() {
    for range in ["bytes 5-9/1048576", "bytes 400000-1048575/9", "rubbish", ""] {
        let (from, to, bytes, blob) = pair(LARGE).await;
        let part = bytes.clone();
        from.times(1, ("GET", ""), move || cut(200, &[], LARGE, part.slice(..400_000)));
        from.rule(move |_seen| Some(answer(206, &[("content-range", range)], bytes.slice(400_000..))));
        let error = copy(&from, &to, &blob).await.unwrap_err();
        assert_eq!((error.side(), error.reason()), (Side::Source, Reason::RegistryError), "{range}");
        assert_eq!(to.blob("x/y", &blob.digest), None);
        assert_eq!(from.seen().len(), 5);
    }
}

#[tokio::test]
async fn resuming_without_progress_ends_and_with_progress_does_not() {
    let (from, _to, bytes, blob) = pair(LARGE).await;
    let served = Arc::new(AtomicUsize::new(0));
    let (counted, part) = (Arc::clone(&served), bytes.clone());
    // Ten breaks, each after some bytes, then only breaks.
    from.rule(move |seen| {
        let start = seen.header("range").map_or(0, |range| range[6..range.len() - 1].parse().unwrap());
        let end = if counted.fetch_add(1, Ordering::SeqCst) < 10 { start + 20_000 } else { start };
        let range = format!("bytes {start}-{}/{LARGE}", LARGE - 1);
        let status = if start == 0 { 200 } else { 206 };
        Some(cut(status, &[("content-range", &range)], LARGE - start, part.slice(start..end)))
    });
    let error = read(&source(&from), &from.repository("a/b"), &blob).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NetworkUnreachable);
    // The tenth break counts as the first without progress of its own.
    assert_eq!(served.load(Ordering::SeqCst), 14);
}

#[tokio::test]
async fn a_source_that_stalls_is_resumed() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    let part = bytes.clone();
    from.times(1, ("GET", ""), move || stall(LARGE, part.slice(..100_000)));
    let mut settings = settings(Side::Source, &[&from]);
    settings.timing.stall = Duration::from_millis(100);
    let (source, target) = (make(settings), target(&to));
    let (from_repository, to_repository) = (from.repository("a/b"), to.repository("x/y"));
    transfer(&source, &from_repository, &target, &to_repository, &blob, None, Progress::none()).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
}

#[tokio::test]
async fn a_source_that_crawls_is_asked_again_and_then_given_up() {
    let (from, _to, _bytes, blob) = pair(1000).await;
    let mut settings = settings(Side::Source, &[&from]);
    // Every wait ends a span, and a thousand bytes are too few for one.
    settings.timing.crawl = Duration::ZERO;
    let error = read(&make(settings), &from.repository("a/b"), &blob).await.unwrap_err();
    assert_eq!(error.problem(), &Problem::Unreachable(Trouble::Stall));
    assert_eq!(from.count("GET"), 5);
}

#[tokio::test]
async fn a_target_that_takes_nothing_more_is_given_up_as_stalled() {
    let (from, to, _, _) = pair(1).await;
    // More than what fits into the buffers of two sockets.
    let bytes = noise(24 << 20);
    from.put_blob("a/b", bytes.clone());
    to.hang("PUT");
    let mut settings = settings(Side::Target, &[&to]);
    settings.timing.stall = Duration::from_millis(200);
    settings.timing.blob_attempts = 1;
    let (from_repository, to_repository) = (from.repository("a/b"), to.repository("x/y"));
    let (source, target, blob) = (source(&from), make(settings), descriptor(&bytes));
    let error =
        transfer(&source, &from_repository, &target, &to_repository, &blob, None, Progress::none()).await.unwrap_err();
    assert_eq!((error.side(), error.problem()), (Side::Target, &Problem::Unreachable(Trouble::Stall)));
}

#[tokio::test]
async fn a_flipped_byte_is_never_committed() {
    for length in [1000, LARGE] {
        let (from, to, bytes, blob) = pair(length).await;
        let mut wrong = bytes.to_vec();
        wrong[length / 2] ^= 1;
        let wrong = Bytes::from(wrong);
        from.rule(move |_seen| Some(answer(200, &[], wrong.clone())));
        let error = copy(&from, &to, &blob).await.unwrap_err();
        assert_eq!((error.side(), error.reason()), (Side::Source, Reason::DigestMismatch));
        assert_eq!(to.blob("x/y", &blob.digest), None);
        assert!(to.blobs().is_empty(), "nothing at all is stored");
    }
}

#[tokio::test]
async fn another_length_than_announced_is_an_error_whether_said_or_not() {
    let (from, _to, bytes, blob) = pair(LARGE).await;
    let (client, repository) = (source(&from), from.repository("a/b"));
    let long = Bytes::from([&bytes[..], b"more"].concat());
    from.times(1, ("GET", ""), {
        let long = long.clone();
        move || answer(200, &[], long.clone())
    });
    let error = read(&client, &repository, &blob).await.unwrap_err();
    assert_eq!(error.problem(), &Problem::Length { expected: LARGE as u64, actual: LARGE as u64 + 4 });
    assert_eq!(error.reason(), Reason::DigestMismatch);
    // Without a length, the body itself says it.
    from.rule(move |_seen| {
        let parts: Vec<_> = long.chunks(10_000).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect();
        Some(answer(200, &[], axum::body::Body::from_stream(futures::stream::iter(parts))))
    });
    let error = read(&client, &repository, &blob).await.unwrap_err();
    assert!(matches!(error.problem(), Problem::Length { .. }), "{error}");
}

#[tokio::test]
async fn a_missing_blob_is_missing_and_a_page_is_not() {
    let fake = FakeRegistry::start().await;
    let (client, repository, blob) = (source(&fake), fake.repository("a/b"), descriptor(&noise(LARGE)));
    let error = read(&client, &repository, &blob).await.unwrap_err();
    assert_eq!(error.reason(), Reason::SourceNotFound);
    assert!(!client.blob_exists(&repository, &blob.digest).await.unwrap());
    fake.rule(|_seen| Some(html(404)));
    let error = read(&client, &repository, &blob).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RegistryError);
    assert_eq!(client.blob_exists(&repository, &blob.digest).await.unwrap_err().reason(), Reason::RegistryError);
}

#[tokio::test]
async fn a_large_blob_is_not_read_into_memory() {
    let (from, _to, _, blob) = pair(LARGE).await;
    let error = source(&from).blob_bytes(&from.repository("a/b"), &blob).await.unwrap_err();
    assert!(matches!(error.problem(), Problem::TooLarge { limit: 262_144, .. }), "{error}");
}

#[tokio::test]
async fn a_refused_upload_of_which_the_target_has_nothing_is_begun_again() {
    for length in [1000, LARGE] {
        for (status, code) in [(500, "UNKNOWN"), (404, "BLOB_UPLOAD_UNKNOWN"), (416, "RANGE_INVALID"), (429, "X")] {
            let (from, to, bytes, blob) = pair(length).await;
            to.times(2, ("PUT", ""), move || error(status, code, ""));
            copy(&from, &to, &blob).await.unwrap_or_else(|error| panic!("{length} {status}: {error}"));
            assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
            // Nothing is lost by being told to wait, if all bytes are at hand.
            let kept = length < LARGE && status == 429;
            assert_eq!((to.count("POST"), to.count("PUT")), (if kept { 1 } else { 3 }, 3), "{length} {status}");
        }
    }
}

#[tokio::test]
async fn what_a_target_has_kept_of_a_broken_upload_is_not_sent_again() {
    const LENGTH: usize = 5 << 20;
    let (from, to, bytes, blob) = pair(LENGTH).await;
    let cuts = [1_500_000, 700_000, 1];
    to.breaks_uploads(cuts, true);
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    assert_eq!(to.count("POST"), 1);
    // The first request, one for each break, and the one that closes.
    assert_eq!((to.count("PUT"), to.count("PATCH")), (2, 3));
    let ranges: Vec<_> = to.seen().iter().filter_map(|seen| Some(seen.header("content-range")?.to_owned())).collect();
    assert_eq!(ranges, ["1500000-5242879", "2200000-5242879", "2200001-5242879"]);
    // From the last state of the hash, not from the start.
    let read: Vec<_> = from.seen().iter().filter_map(|seen| Some(seen.header("range")?.to_owned())).collect();
    assert!(read.iter().all(|range| range[6..range.len() - 1].parse::<usize>().unwrap() >= 1 << 20), "{read:?}");
}

#[tokio::test]
async fn breaks_with_progress_do_not_count() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    to.breaks_uploads([20_000; 10], true);
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    assert_eq!((to.count("POST"), to.count("PATCH")), (1, 10));
}

#[tokio::test]
async fn a_target_that_loses_uploads_gets_the_blob_from_the_start_and_is_asked_about_that_once() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    to.breaks_uploads([100_000, 100_000], false);
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    assert_eq!((to.count("POST"), to.count("PUT"), to.count("PATCH")), (3, 3, 0));
    assert_eq!(to.count("GET /v2/x/y/blobs/uploads/"), 1);
}

#[tokio::test]
async fn an_upload_that_stands_elsewhere_than_the_target_said_is_set_right() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    to.breaks_uploads([100_000], true);
    // One too many, as Quay counts.
    to.rule(|seen| {
        let asked = seen.method == "GET" && seen.path.contains("/blobs/uploads/");
        asked.then(|| answer(204, &[("range", "bytes=0-100000")], ""))
    });
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    let ranges: Vec<_> = to.seen().iter().filter_map(|seen| Some(seen.header("content-range")?.to_owned())).collect();
    assert_eq!(ranges, [format!("100001-{}", LARGE - 1), format!("100000-{}", LARGE - 1)]);
}

#[tokio::test]
async fn a_target_that_refuses_long_requests_gets_parts() {
    const LENGTH: usize = 3 << 20;
    let (from, to, bytes, blob) = pair(LENGTH).await;
    to.rule(|seen| {
        let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
        (length > 1 << 20).then(|| answer(413, &[("content-type", "text/html")], "<html>too large</html>"))
    });
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    // 3 MiB and half of that were refused; then four parts of 768 KiB, and the close.
    assert_eq!((to.count("POST"), to.count("PATCH"), to.count("PUT")), (1, 1 + 4, 2));
}

#[tokio::test]
async fn a_target_that_always_breaks_is_given_up_and_its_sessions_are_cancelled() {
    for length in [1000, LARGE] {
        let (from, to, _, blob) = pair(length).await;
        to.rule(|seen| (seen.method == "PUT").then(|| error(500, "UNKNOWN", "")));
        let error = copy(&from, &to, &blob).await.unwrap_err();
        assert_eq!((error.side(), error.reason()), (Side::Target, Reason::RegistryError));
        assert_eq!((to.count("PUT"), to.count("DELETE")), (4, 4));
    }
}

#[tokio::test]
async fn a_refusal_by_the_target_is_final() {
    for length in [1000, LARGE] {
        let (from, to, _, blob) = pair(length).await;
        to.rule(|seen| (seen.method == "PUT").then(|| error(413, "SIZE_INVALID", "")));
        let error = copy(&from, &to, &blob).await.unwrap_err();
        assert_eq!(error.reason(), Reason::TargetTooLarge);
        // A long one is tried in parts, in case only the request was too long.
        assert_eq!(to.count("PUT"), if length < LARGE { 1 } else { 2 });
    }
}

#[tokio::test]
async fn a_blob_that_was_stored_although_the_answer_got_lost_is_not_sent_again() {
    for length in [1000, LARGE] {
        let (from, to, bytes, blob) = pair(length).await;
        let stored = Arc::new(to);
        to_store_and_fail(&stored, bytes);
        copy(&from, &stored, &blob).await.unwrap();
        assert_eq!((stored.count("PUT"), stored.count("HEAD")), (1, 1));
    }
}

/// Stores the blob at the first PUT, and answers as an impatient proxy.
fn to_store_and_fail(fake: &Arc<FakeRegistry>, bytes: Bytes) {
    let store = fake.store();
    fake.times(1, ("PUT", ""), move || {
        store("x/y", bytes.clone());
        answer(504, &[], "")
    });
}

#[tokio::test]
async fn a_token_that_ends_during_an_upload_is_renewed_and_the_blob_sent_again() {
    for length in [1000, LARGE] {
        let (from, to, bytes, blob) = pair(length).await;
        to.wants_tokens(None);
        to.expires_in(3600);
        let forget = to.forgetting();
        let once = AtomicUsize::new(0);
        to.rule(move |seen| {
            if seen.method == "PUT" && once.fetch_add(1, Ordering::SeqCst) == 0 {
                forget();
            }
            None
        });
        copy(&from, &to, &blob).await.unwrap();
        assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
        assert_eq!(to.count("GET /token"), 2);
    }
}

#[tokio::test]
async fn a_token_that_ends_during_a_download_is_renewed_and_the_download_resumed() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    from.wants_tokens(None);
    from.expires_in(3600);
    let forget = from.forgetting();
    let part = bytes.clone();
    let once = AtomicUsize::new(0);
    from.rule(move |seen| {
        // The second request is the one with a token.
        let cut_it = seen.path.contains("/blobs/") && once.fetch_add(1, Ordering::SeqCst) == 1;
        cut_it.then(|| {
            forget();
            cut(200, &[], LARGE, part.slice(..100_000))
        })
    });
    copy(&from, &to, &blob).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    assert_eq!(from.count("GET /token"), 2);
}

#[tokio::test]
async fn a_digest_that_the_target_confirms_wrongly_is_a_failure() {
    for length in [1000, LARGE] {
        let (from, to, _, blob) = pair(length).await;
        let other = Digest::of(b"other").to_string();
        to.after("PUT", move || answer(201, &[("docker-content-digest", &other)], ""));
        let error = copy(&from, &to, &blob).await.unwrap_err();
        assert_eq!((error.side(), error.reason()), (Side::Target, Reason::DigestMismatch));
    }
}

#[tokio::test]
async fn an_upload_without_a_location_is_an_error_by_name() {
    let fake = FakeRegistry::start().await;
    fake.rule(|_seen| Some(answer(202, &[], "")));
    let error = target(&fake).start_upload(&fake.repository("x/y"), &Digest::of(b""), None).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RegistryError);
    assert!(error.failure().message.contains("where to upload"), "{}", error.failure());
}

#[tokio::test]
async fn a_transfer_may_be_dropped_at_any_time_and_begun_again() {
    let (from, to, bytes, blob) = pair(LARGE).await;
    let (source, target) = (source(&from), target(&to));
    let (from_repository, to_repository) = (from.repository("a/b"), to.repository("x/y"));
    let none = Progress::none();
    for polls in 1..60 {
        let mut moving = Box::pin(transfer(&source, &from_repository, &target, &to_repository, &blob, None, none));
        for _ in 0..polls {
            if futures::poll!(&mut moving).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    transfer(&source, &from_repository, &target, &to_repository, &blob, None, none).await.unwrap();
    assert_eq!(to.blob("x/y", &blob.digest), Some(bytes));
    assert_eq!(to.blobs().len(), 1);
}

/// What an observer is told besides requests.
#[derive(Default)]
struct Heard {
    events: Mutex<Vec<String>>,
    bytes: [AtomicU64; 2],
}

impl Observer for Heard {
    fn request(&self, _event: &RequestEvent<'_>) {}

    fn bytes(&self, _host: &str, side: Side, count: u64) {
        self.bytes[usize::from(side == Side::Target)].fetch_add(count, Ordering::SeqCst);
    }

    fn resumed(&self, _host: &str, side: Side, kept: u64) {
        self.events.lock().unwrap().push(format!("{side} resumed after {kept}"));
    }

    fn broke(&self, _host: &str, problem: &Problem) {
        let what = match problem {
            Problem::Unreachable(trouble) => format!("{trouble:?}"),
            Problem::Digest { .. } => "Digest".to_owned(),
            other => panic!("{other:?}"),
        };
        self.events.lock().unwrap().push(what);
    }
}

#[tokio::test]
async fn an_observer_hears_of_breaks_and_of_what_they_did_not_cost() {
    const ALL: u64 = LARGE as u64;
    let moved = async |from: &FakeRegistry, to: &FakeRegistry, blob: &Descriptor| {
        let heard = Arc::new(Heard::default());
        let limits = Arc::new(Limits::observed(Windows::default(), Arc::<Heard>::clone(&heard)));
        let client = |side, fake| {
            let mut settings = settings(side, &[fake]);
            settings.timing.stall = Duration::from_millis(100);
            Client::new(settings, Arc::clone(&limits)).unwrap()
        };
        let (source, target) = (client(Side::Source, from), client(Side::Target, to));
        let (from, to) = (from.repository("a/b"), to.repository("x/y"));
        let done = transfer(&source, &from, &target, &to, blob, None, Progress::none()).await;
        let events = std::mem::take(&mut *heard.events.lock().unwrap());
        (done.is_ok(), events, [0, 1].map(|side| heard.bytes[side].load(Ordering::SeqCst)))
    };
    let (from, to, bytes, blob) = pair(LARGE).await;
    let part = bytes.clone();
    from.times(1, ("GET", ""), move || cut(200, &[], LARGE, part.slice(..100_000)));
    let (done, events, counted) = moved(&from, &to, &blob).await;
    assert_eq!((done, counted), (true, [ALL, ALL]));
    assert_eq!(events, ["Cut", "source resumed after 100000"]);

    let (from, to, bytes, blob) = pair(LARGE).await;
    // One that takes no part of it as known is read from the start.
    let (part, whole) = (bytes.clone(), bytes.clone());
    from.times(1, ("GET", ""), move || stall(LARGE, part.slice(..100_000)));
    from.rule(move |_seen| Some(answer(200, &[], whole.clone())));
    let (done, events, counted) = moved(&from, &to, &blob).await;
    assert_eq!((done, counted), (true, [ALL, ALL]));
    assert_eq!(events, ["Stall", "source resumed after 0"]);

    let (from, to, _bytes, blob) = pair(LARGE).await;
    to.breaks_uploads([700_000], true);
    let (done, events, [_read, written]) = moved(&from, &to, &blob).await;
    assert!(done);
    assert_eq!(events, ["Cut", "target resumed after 700000"]);
    assert!(written >= ALL, "what was on its way is written again: {written}");

    let (from, to, bytes, blob) = pair(LARGE).await;
    let wrong = Bytes::from([&[bytes[0] ^ 1], &bytes[1..]].concat());
    from.rule(move |_seen| Some(answer(200, &[], wrong.clone())));
    let (done, events, _counted) = moved(&from, &to, &blob).await;
    assert!(!done);
    assert_eq!(events, ["Digest"; 3]);
}
