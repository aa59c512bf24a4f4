//! Trying again, waiting, windows and what observers hear.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use imageset_mirror::failure::Reason;
use imageset_mirror::registry::{Capability, Class, Observer, Problem, RequestEvent, Throttle, Trouble, Windows, Work};

use super::fake::{answer, error, trickle};
use super::*;

#[tokio::test]
async fn answers_that_pass_are_tried_again() {
    for status in [408, 425, 500, 502, 503, 504, 522] {
        let fake = FakeRegistry::start().await;
        fake.put_manifest("a/b", "1", IMAGE, "{}");
        fake.times(4, ("GET", ""), move || answer(status, &[], ""));
        assert!(get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap().is_some(), "{status}");
        assert_eq!(fake.seen().len(), 5);
    }
}

#[tokio::test]
async fn trying_again_ends_with_the_answer_itself() {
    let fake = FakeRegistry::start().await;
    fake.rule(|_seen| Some(error(503, "UNAVAILABLE", "later")));
    let failed = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(fake.seen().len(), 5);
    assert_eq!(failed.reason(), Reason::RegistryError);
    assert_eq!(failed.status().unwrap(), 503);
    assert!(failed.failure().message.contains("UNAVAILABLE (later)"), "{}", failed.failure());
    assert!(failed.failure().transient);
}

#[tokio::test]
async fn answers_that_do_not_pass_are_not_tried_again() {
    for status in [400, 403, 405, 409, 501, 505, 507] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |_seen| Some(error(status, "X", "")));
        assert!(get(&source(&fake), &fake.repository("a/b"), "1").await.is_err());
        assert_eq!(fake.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn too_many_requests_do_not_count_as_attempts() {
    let fake = FakeRegistry::start().await;
    fake.put_manifest("a/b", "1", IMAGE, "{}");
    fake.times(8, ("GET", ""), || answer(429, &[("content-type", "text/html")], "<html>"));
    assert!(get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap().is_some());
    assert_eq!(fake.seen().len(), 9);
}

#[tokio::test]
async fn a_host_that_stops_answering_is_waited_for_by_all_together() {
    let fake = FakeRegistry::start().await;
    fake.put_manifest("a/b", "1", IMAGE, "{}");
    let mut settings = settings(Side::Source, &[&fake]);
    settings.timing.outage = Duration::from_secs(30);
    let (client, repository) = (make(settings), fake.repository("a/b"));
    assert!(get(&client, &repository, "1").await.unwrap().is_some());
    // More than any one request would be tried: they are those of looks at the host.
    fake.times(9, ("GET", ""), || answer(503, &[], ""));
    let names: Vec<_> = (0..20).map(|name| name.to_string()).collect();
    for name in &names {
        fake.put_manifest("a/b", name, IMAGE, "{}");
    }
    let all = futures::future::join_all(names.iter().map(|name| get(&client, &repository, name))).await;
    assert!(all.into_iter().all(|found| found.unwrap().is_some()));
    // Those in flight when it went down fail each by itself; after that one at a time looks.
    assert_eq!(fake.seen().len(), 1 + 9 + 20);
}

#[tokio::test]
async fn a_host_that_stays_down_is_asked_now_and_then_and_nobody_waits_for_ever() {
    let fake = FakeRegistry::start().await;
    fake.put_manifest("a/b", "1", IMAGE, "{}");
    let mut settings = settings(Side::Source, &[&fake]);
    settings.timing.outage = Duration::from_millis(700);
    let (client, repository) = (make(settings), fake.repository("a/b"));
    assert!(get(&client, &repository, "1").await.unwrap().is_some());
    fake.rule(|_seen| Some(answer(503, &[], "")));
    let names: Vec<_> = (0..200).map(|name| name.to_string()).collect();
    let all = futures::future::join_all(names.iter().map(|name| get(&client, &repository, name))).await;
    for found in all {
        let error = found.unwrap_err();
        assert_eq!((error.status().unwrap().as_u16(), error.failure().transient), (503, true));
    }
    // Sixteen may be in flight when it goes down, and some looks follow.
    let asked = fake.seen().len();
    assert!(asked <= 1 + 16 + 8, "{asked}");
}

#[tokio::test]
async fn waiting_for_a_rate_limit_is_bounded_in_all() {
    let fake = FakeRegistry::start().await;
    fake.rule(|_seen| Some(answer(429, &[("retry-after", "0")], "")));
    let mut settings = settings(Side::Source, &[&fake]);
    settings.timing.max_throttled = Duration::from_millis(20);
    let error = get(&make(settings), &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::RateLimited);
}

#[tokio::test]
async fn a_long_retry_after_is_handed_on_and_others_are_held_off() {
    let fake = FakeRegistry::start().await;
    fake.rule(|_seen| Some(answer(429, &[("retry-after", "21600")], "")));
    let client = source(&fake);
    let error = get(&client, &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.class(), Class::Transient { after: Some(Duration::from_hours(6)) });
    let left = client.limits().host(&fake.host()).held().unwrap();
    assert!(left <= Duration::from_mins(1) && left > Duration::from_secs(50), "{left:?}");
}

#[tokio::test]
async fn an_absurd_retry_after_counts_as_a_month() {
    let fake = FakeRegistry::start().await;
    let month = Some(Duration::from_hours(30 * 24));
    for status in [429, 503] {
        fake.times(1, ("GET", ""), move || answer(status, &[("retry-after", "18446744073709551615")], ""));
        // Another client, because a host that asked for patience is left alone by all that share its limits.
        let error = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
        assert_eq!(error.class(), Class::Transient { after: month }, "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_trickles_is_given_up_as_a_whole() {
    let fake = FakeRegistry::start().await;
    fake.rule(|_seen| Some(trickle()));
    let mut settings = settings(Side::Source, &[&fake]);
    settings.timing.body = Duration::from_millis(50);
    settings.timing.attempts = 2;
    let error = get(&make(settings), &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.problem(), &Problem::Unreachable(Trouble::Stall));
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn a_refused_connection_is_unreachable_after_some_attempts() {
    let fake = FakeRegistry::start().await;
    let (client, repository) = (source(&fake), fake.repository("a/b"));
    drop(fake);
    let error = get(&client, &repository, "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::NetworkUnreachable);
    assert_eq!(error.problem(), &Problem::Unreachable(Trouble::Connect));
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_said_to_be_unknown() {
    let repository: Repository = "registry.invalid/a/b".parse().unwrap();
    let mut settings = Settings { timing: timing(), ..Settings::new(Side::Source) };
    settings.timing.attempts = 1;
    let error = get(&make(settings), &repository, "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::NetworkUnreachable);
    assert!(error.failure().message.contains("registry.invalid"), "{}", error.failure());
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let repository: Repository = format!("{}/a/b", listener.local_addr().unwrap()).parse().unwrap();
    let mut settings = Settings::new(Side::Source);
    settings.tls.insert(repository.registry().clone(), Tls::Plain);
    settings.timing = Timing { connect: Duration::ZERO, headers: Duration::from_millis(50), attempts: 1, ..timing() };
    settings.timing.connect = Duration::from_millis(50);
    let error = get(&make(settings), &repository, "1").await.unwrap_err();
    assert_eq!(error.problem(), &Problem::Unreachable(Trouble::Headers));
}

#[tokio::test]
async fn what_is_not_http_is_a_registry_error() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let repository: Repository = format!("{}/a/b", listener.local_addr().unwrap()).parse().unwrap();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        // First rubbish, then headers without end.
        for endless in [false, true] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _some = stream.read(&mut [0; 4096]).await.unwrap();
            if endless {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
                while stream.write_all(&[b"x: ".as_slice(), &[b'y'; 4096], b"\r\n"].concat()).await.is_ok() {}
            } else {
                stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await.unwrap();
            }
        }
    });
    let mut settings = Settings { timing: Timing { attempts: 1, ..timing() }, ..Settings::new(Side::Source) };
    settings.tls.insert(repository.registry().clone(), Tls::Plain);
    let client = make(settings);
    for _ in 0..2 {
        let error = get(&client, &repository, "1").await.unwrap_err();
        assert_eq!(error.reason(), Reason::RegistryError, "{error:?}");
    }
}

#[tokio::test]
async fn a_window_bounds_what_is_under_way_and_metadata_does_not_wait_for_blobs() {
    let limits = Limits::new(Windows { source_bulk: 1, target_bulk: 1, metadata: 1, ..Windows::default() });
    let host = limits.host("h");
    let reading = host.acquire(Side::Source, Work::Bulk, 0, 1).await;
    let _writing = host.acquire(Side::Target, Work::Bulk, 0, 1).await;
    let _asking = host.acquire(Side::Source, Work::Metadata, 0, 1).await;
    let next = host.acquire(Side::Source, Work::Bulk, 0, 1);
    tokio::pin!(next);
    assert!(futures::poll!(&mut next).is_pending());
    drop(reading);
    assert!(futures::poll!(&mut next).is_ready());
    assert!(futures::poll!(Box::pin(limits.host("other").acquire(Side::Source, Work::Bulk, 0, 1))).is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_throttle_lets_bytes_pass_at_its_rate() {
    let throttle = Throttle::new(1000);
    let start = tokio::time::Instant::now();
    for _ in 0..5 {
        throttle.take(1000).await;
    }
    assert_eq!(start.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_and_is_never_longer_than_a_minute() {
    let host = Limits::default().host("h");
    host.hold(Duration::from_hours(1));
    assert!(host.held().unwrap() <= Duration::from_mins(1));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(host.held(), None);
}

#[test]
fn what_a_host_can_do_is_remembered() {
    let limits = Limits::default();
    assert_eq!(limits.host("h").can(Capability::Referrers), None);
    limits.host("h").learn(Capability::Referrers, false);
    assert_eq!(limits.host("h").can(Capability::Referrers), Some(false));
    assert_eq!(limits.host("h").can(Capability::Mount), None);
    assert_eq!(limits.host("i").can(Capability::Referrers), None);
}

#[derive(Default)]
struct Counting {
    events: Mutex<Vec<String>>,
    throttled: AtomicUsize,
    remaining: Mutex<Vec<Option<u64>>>,
}

impl Observer for Counting {
    fn request(&self, event: &RequestEvent<'_>) {
        self.throttled.fetch_add(usize::from(event.throttled()), Ordering::SeqCst);
        self.remaining.lock().unwrap().push(event.remaining);
        let status = event.status.map_or("-".to_owned(), |status| status.to_string());
        let marks = [(event.retry, " retry"), (event.token, " token")];
        let marks: String = marks.iter().filter(|(set, _)| *set).map(|(_, mark)| *mark).collect();
        self.events.lock().unwrap().push(format!("{} {} {status}{marks}", event.side, event.method));
    }
}

#[tokio::test]
async fn an_observer_hears_of_every_request() {
    let fake = FakeRegistry::start().await;
    fake.put_manifest("a/b", "1", IMAGE, "{}");
    fake.wants_tokens(None);
    fake.times(1, ("GET /v2", ""), || answer(429, &[], ""));
    fake.times(1, ("GET /v2", ""), || answer(503, &[("retry-after", "0"), ("ratelimit-remaining", "0;w=21600")], ""));
    let counting = Arc::new(Counting::default());
    let limits = Arc::new(Limits::observed(Windows::default(), Arc::<Counting>::clone(&counting)));
    let client = Client::new(settings(Side::Source, &[&fake]), limits).unwrap();
    get(&client, &fake.repository("a/b"), "1").await.unwrap();
    assert_eq!(
        *counting.events.lock().unwrap(),
        [
            "source GET 429",
            "source GET 503 retry",
            "source GET 401 retry",
            "source GET 200 token",
            "source GET 200 retry"
        ]
    );
    assert_eq!(counting.throttled.load(Ordering::SeqCst), 2);
    assert_eq!(*counting.remaining.lock().unwrap(), [None, Some(0), None, None, None]);
}
