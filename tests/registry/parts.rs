//! Large blobs of a source that is waited for: parts of them are read ahead, and nothing else is different.

use std::sync::OnceLock;

use axum::response::Response;
use imageset_mirror::registry::Windows;

use super::fake::{Seen, answer, cut, error};
use super::*;

const MIB: usize = 1 << 20;
const PART: usize = MIB;
/// Of this, more than 64 MiB are left when the first frame has come.
const SIZE: usize = 66 * MIB;

fn bytes(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    bytes.into()
}

/// Made and hashed once.
fn large() -> (Bytes, Descriptor) {
    static LARGE: OnceLock<(Bytes, Descriptor)> = OnceLock::new();
    let make = || {
        let bytes = bytes(SIZE);
        let blob = descriptor(&bytes);
        (bytes, blob)
    };
    LARGE.get_or_init(make).clone()
}

/// A source with one blob in `a/b`, and a client that is told at once that it is slow.
struct Slow {
    from: FakeRegistry,
    source: Client,
    bytes: Bytes,
    blob: Descriptor,
}

impl Slow {
    async fn new() -> Self {
        Self::of(large(), Windows::default()).await
    }

    async fn of((bytes, blob): (Bytes, Descriptor), windows: Windows) -> Self {
        let from = FakeRegistry::start().await;
        from.keep_blob("a/b", &blob.digest, bytes.clone());
        let mut settings = settings(Side::Source, &[&from]);
        settings.timing.lag = Duration::ZERO;
        let source = Client::new(settings, Arc::new(Limits::new(windows))).unwrap();
        Self { from, source, bytes, blob }
    }

    /// Reads the blob, and sees that all places were given back.
    async fn read(&self) -> Result<(), Error> {
        let mut reader = self.source.open_blob(&self.from.repository("a/b"), &self.blob).await?;
        let mut at = 0;
        while let Some(chunk) = reader.next().await {
            let chunk = chunk?;
            assert!(self.bytes[at..].starts_with(&chunk), "other bytes at {at}");
            at += chunk.len();
        }
        assert_eq!(at, self.bytes.len());
        drop(reader);
        assert_eq!(self.source.limits().host(&self.from.host()).loads().read.taken, 0);
        Ok(())
    }

    /// Moves the blob, and sees that it has arrived.
    async fn moves(&self, to: &FakeRegistry) {
        let (from, repository) = (self.from.repository("a/b"), to.repository("x/y"));
        let none = Progress::none();
        transfer(&self.source, &from, &target(to), &repository, &self.blob, None, none).await.unwrap();
        assert!(to.blob("x/y", &self.blob.digest) == Some(self.bytes.clone()), "other bytes");
    }

    /// First and last byte of the parts that were asked for, which may have arrived in another order.
    fn parts(&self) -> Vec<(usize, usize)> {
        let seen = self.from.seen();
        let mut parts: Vec<_> =
            seen.iter().filter_map(Seen::range).filter_map(|(from, to)| Some((from, to?))).collect();
        parts.sort_unstable();
        parts
    }

    /// Where the blob was read on from as a whole.
    fn rests(&self) -> Vec<usize> {
        self.from.seen().iter().filter_map(Seen::range).filter(|(_, to)| to.is_none()).map(|it| it.0).collect()
    }

    /// Answers the part with this number, and those after it, in another way.
    fn answers(&self, number: usize, other: impl Fn((usize, usize)) -> Response + Send + Sync + 'static) {
        let asked = std::sync::Mutex::new(0);
        self.from.rule(move |seen| {
            let (from, to) = seen.range()?;
            let to = to?;
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            (*asked > number).then(|| other((from, to)))
        });
    }
}

#[tokio::test]
async fn a_blob_that_is_waited_for_comes_in_parts_each_of_which_is_asked_for_once() {
    let slow = Slow::new().await;
    slow.read().await.unwrap();
    let parts = slow.parts();
    let begin = parts[0].0;
    // The first frame, and as much as a part while the first one comes.
    assert!((PART..2 * PART).contains(&begin), "{begin}");
    let starts = (begin..SIZE).step_by(PART);
    assert_eq!(parts, starts.map(|start| (start, SIZE.min(start + PART) - 1)).collect::<Vec<_>>());
    assert_eq!(slow.from.count("GET"), 1 + parts.len());
    let host = slow.source.limits().host(&slow.from.host());
    assert_eq!(host.can(Capability::Ranges), Some(true));
}

#[tokio::test]
async fn a_blob_of_which_little_is_left_comes_as_a_whole() {
    let few = bytes(64 * MIB);
    let slow = Slow::of((few.clone(), descriptor(&few)), Windows::default()).await;
    slow.read().await.unwrap();
    assert_eq!(slow.from.count("GET"), 1);
}

#[tokio::test]
async fn a_source_whose_places_are_taken_is_read_by_one_connection() {
    let slow = Slow::of(large(), Windows::at_most(1)).await;
    slow.read().await.unwrap();
    assert_eq!(slow.from.count("GET"), 1);
}

#[tokio::test]
async fn a_source_that_gives_the_whole_instead_of_a_part_is_asked_once_and_for_all() {
    let slow = Slow::new().await;
    let whole = slow.bytes.clone();
    slow.answers(0, move |_| answer(200, &[], whole.clone()));
    slow.read().await.unwrap();
    assert_eq!((slow.parts().len(), slow.rests()), (1, vec![]));
    slow.read().await.unwrap();
    assert_eq!(slow.parts().len(), 1);
}

#[tokio::test]
async fn a_part_that_is_not_to_be_had_is_read_as_usual_and_no_other_is_asked_for() {
    type Other = Box<dyn Fn((usize, usize)) -> Response + Send + Sync>;
    let range = |(from, to): (usize, usize)| format!("bytes {from}-{to}/{SIZE}");
    let part = |(from, to): (usize, usize)| large().0.slice(from..=to);
    let short = move |at| answer(206, &[("content-range", &range(at))], part(at).slice(..1000));
    let long = move |at: (usize, usize)| answer(206, &[("content-range", &range(at))], part((at.0, at.1 + 1)));
    let broken = move |at| cut(206, &[("content-range", &range(at))], PART, part(at).slice(..1000));
    let others: [Other; 8] = [
        Box::new(|_| error(404, "BLOB_UNKNOWN", "")),
        Box::new(|_| error(429, "TOOMANYREQUESTS", "")),
        Box::new(|_| error(503, "UNAVAILABLE", "")),
        Box::new(|_| answer(416, &[], "")),
        Box::new(move |at| answer(206, &[("content-range", &range((0, PART - 1)))], part(at))),
        Box::new(short),
        Box::new(long),
        Box::new(broken),
    ];
    for (kind, other) in others.into_iter().enumerate() {
        let slow = Slow::new().await;
        // Five have been right.
        slow.answers(5, other);
        slow.read().await.unwrap();
        let (parts, rests) = (slow.parts(), slow.rests());
        assert!((6..=5 + 4).contains(&parts.len()), "{kind}: {parts:?}");
        let [rest] = rests[..] else { panic!("{kind}: {rests:?}") };
        assert!(rest <= parts[parts.len() - 1].1, "{kind}: {rest} of {parts:?}");
    }
}

#[tokio::test]
async fn bytes_that_are_wrong_in_parts_are_read_again_without() {
    let (slow, to) = (Slow::new().await, FakeRegistry::start().await);
    slow.answers(7, |(from, to)| {
        answer(206, &[("content-range", &format!("bytes {from}-{to}/{SIZE}"))], vec![0; to + 1 - from])
    });
    slow.moves(&to).await;
    let whole = slow.from.seen().iter().filter(|seen| seen.range().is_none()).count();
    assert_eq!(whole, 2);
    assert_eq!(slow.source.limits().host(&slow.from.host()).can(Capability::Ranges), Some(false));
}

#[tokio::test]
async fn what_a_target_has_kept_is_not_sent_again_if_the_blob_came_in_parts() {
    let (slow, to) = (Slow::new().await, FakeRegistry::start().await);
    to.breaks_uploads([20 * MIB, 11 * MIB], true);
    slow.moves(&to).await;
    let ranges = to.seen().into_iter().filter_map(|seen| Some(seen.header("content-range")?.to_owned()));
    let rests = [20 * MIB, 31 * MIB].map(|start| format!("{start}-{}", SIZE - 1));
    assert_eq!(ranges.collect::<Vec<_>>(), rests);
    // Read on from a state of the hash, and not from the start.
    assert_eq!(slow.rests().len(), 2);
    assert!(slow.rests()[0] > 18 * MIB, "{:?}", slow.rests());
}
