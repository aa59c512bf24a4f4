//! When the next sync of an object is due. Pure: the time is an argument, the jitter comes from the object's UID, so that
//! what is shown as `status.sync.nextTime` is what happens.
//!
//! The rules: a new or changed object syncs at once; so does one whose request annotation has a new value, but not more often
//! than every [`Seen::sync_gap`]; a failed sync is tried again after 5 s to 5 min; a complete one after `spec.interval`, counted from the
//! start of the last complete sync, which is when the sources were looked at. An object that has synced its key and is not
//! due gets no job, also after a restart of the operator.

use std::hash::Hasher as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::{ImageSetMirrorStatus, SyncStatus};

use super::status::{self, Seen};

/// Wait after the first failure.
const SHORTEST_BACKOFF: Duration = Duration::from_secs(5);
/// Longest wait after failures.
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
/// Wait after a failure that a person has to repair outside the object.
const PERMANENT_BACKOFF: Duration = Duration::from_mins(10);
/// A registry that asks for more patience than this is asked again all the same.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);
/// Wall-clock times are looked at again at least this often, since timers follow another clock.
const LONGEST_SLEEP: Duration = Duration::from_mins(5);
/// When to look again for something missing that nothing announces: first, and at the latest.
const SHORTEST_RECHECK: Duration = Duration::from_secs(10);
const LONGEST_RECHECK: Duration = Duration::from_mins(1);

/// The job of an object in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job<'a> {
    /// None, or it has ended.
    None,
    /// Queued or running.
    Active {
        /// Its key.
        key: &'a str,
    },
    /// It ended because something that the object names is missing or cannot be used.
    Waiting {
        /// Its key.
        key: &'a str,
        /// When it ended.
        since: Timestamp,
        /// How many in a row have ended so, at least one.
        rounds: u32,
    },
}

/// Whether anything but a sync can tell what an object's cluster objects should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// They are as they should be, or will be brought in line without a sync.
    Settled,
    /// What is known of them is not the last word, and this process has had no sync to compute them from.
    Open,
}

/// Why a sync starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The object was never synced.
    New,
    /// The spec differs from what was synced, or from what is being synced.
    Changed,
    /// The request annotation has a new value.
    Requested,
    /// `spec.interval` has passed.
    Interval,
    /// The last one failed.
    Retry,
    /// An earlier one did not end or left cluster objects open, or what was read from the spec changed without a new generation.
    Resume,
}

/// What to do about syncing an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start a sync of [`Seen::key`] now, beside or instead of one of another key.
    Start {
        /// Why.
        why: Why,
    },
    /// Nothing before then.
    Wait {
        /// When to ask again at the latest.
        until: Timestamp,
    },
    /// Nothing before something changes.
    Nothing,
}

impl Decision {
    /// After how long to ask again; at most five minutes.
    pub fn requeue(self, now: Timestamp) -> Option<Duration> {
        match self {
            Self::Wait { until } => {
                let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                // The end of a second, not its beginning: times are whole seconds.
                Some((left + Duration::from_millis(50)).min(LONGEST_SLEEP))
            }
            Self::Start { .. } | Self::Nothing => None,
        }
    }
}

/// The part of a job's key that stands for the request: the annotation's value, or the last one handled if the annotation
/// is gone. Removing the annotation asks for nothing.
pub fn effective_token<'a>(status: Option<&'a ImageSetMirrorStatus>, token: Option<&'a str>) -> Option<&'a str> {
    token.or_else(|| status?.last_handled_request.as_deref())
}

/// Decides. `status` is the one that [`status::next`] made from the last observation.
pub fn decide(
    status: Option<&ImageSetMirrorStatus>,
    seen: &Seen,
    job: Job<'_>,
    outlook: Outlook,
    now: Timestamp,
) -> Decision {
    match (decide_at_once(status, seen, job, outlook, now), job) {
        (Decision::Start { why }, Job::Waiting { key, since, rounds }) if key == seen.key => {
            let pause = recheck(rounds, &seen.uid);
            at(sane(add(since, pause), Some(pause), now), why, now)
        }
        (decision, _) => decision,
    }
}

fn decide_at_once(
    status: Option<&ImageSetMirrorStatus>,
    seen: &Seen,
    job: Job<'_>,
    outlook: Outlook,
    now: Timestamp,
) -> Decision {
    if seen.suspend || seen.key.is_empty() {
        return Decision::Nothing;
    }
    match job {
        Job::Active { key } if key == seen.key => return Decision::Nothing,
        Job::Active { .. } => return Decision::Start { why: Why::Changed },
        Job::None | Job::Waiting { .. } => {}
    }
    let Some(status) = status.filter(|status| status.observed_generation.is_some_and(|observed| observed >= 0)) else {
        return Decision::Start { why: Why::New };
    };
    let nothing = SyncStatus::default();
    let sync = status.sync.as_ref().unwrap_or(&nothing);
    let failing = sync.consecutive_failures > 0;
    let same_generation = status.observed_generation == Some(seen.generation);
    let requested = seen.request_token.is_some() && seen.request_token != status.last_handled_request;

    if sync.key.as_deref() == Some(seen.key.as_str()) && status::is_settled(status) && !failing {
        if outlook == Outlook::Open {
            return Decision::Start { why: Why::Resume };
        }
        return match after_success(sync, seen) {
            None => Decision::Nothing,
            Some(due) => at(sane(due, seen.interval, now), Why::Interval, now),
        };
    }
    if requested && same_generation {
        let started = sync.start_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
        // A start in the future is a clock that was set back.
        let free = if started > now { now } else { add(started, seen.sync_gap) };
        return at(free, Why::Requested, now);
    }
    if failing && same_generation {
        let due = sync.next_time.as_ref().map(|time| time.0);
        return at(sane(due.unwrap_or(now), Some(LONGEST_RETRY_AFTER), now), Why::Retry, now);
    }
    Decision::Start { why: if same_generation { Why::Resume } else { Why::Changed } }
}

fn at(due: Timestamp, why: Why, now: Timestamp) -> Decision {
    if due <= now { Decision::Start { why } } else { Decision::Wait { until: due } }
}

/// `due`, unless it lies so far ahead that the clock must have been set back since it was computed.
fn sane(due: Timestamp, longest: Option<Duration>, now: Timestamp) -> Timestamp {
    longest.map_or(due, |longest| due.min(add(now, longest.mul_f64(1.1))))
}

/// When the sync after a complete one is due.
pub(super) fn after_success(sync: &SyncStatus, seen: &Seen) -> Option<Timestamp> {
    let interval = seen.interval?;
    let success = sync.last_success_time.as_ref()?.0;
    let start = sync.start_time.as_ref().map(|time| time.0).filter(|start| *start <= success);
    let attempt = sync.last_attempt_time.as_ref().map_or(success, |time| time.0);
    let due = add(start.unwrap_or(success), jittered(interval, &seen.uid));
    // A copy may take longer than the interval.
    Some(due.max(add(attempt, seen.sync_gap)))
}

/// When to try again after the given number of failures in a row, the last of which ended at `ended`.
pub(super) fn after_failure(
    ended: Timestamp,
    failures: i64,
    uid: &str,
    permanent: bool,
    retry_after: Option<Duration>,
) -> Timestamp {
    let wait = if permanent { PERMANENT_BACKOFF } else { backoff(failures, uid) };
    add(ended, wait.max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)))
}

/// 5 s, doubled with each failure up to 5 min, less up to a fifth.
fn backoff(failures: i64, uid: &str) -> Duration {
    doubled(SHORTEST_BACKOFF, LONGEST_BACKOFF, failures, uid)
}

/// 10 s, doubled with each sync that ended waiting up to 1 min, less up to a fifth.
fn recheck(rounds: u32, uid: &str) -> Duration {
    doubled(SHORTEST_RECHECK, LONGEST_RECHECK, rounds.into(), uid)
}

fn doubled(shortest: Duration, longest: Duration, times: i64, uid: &str) -> Duration {
    let doublings = u32::try_from(times.saturating_sub(1).clamp(0, 16)).unwrap_or_default();
    let full = shortest.saturating_mul(1 << doublings).min(longest);
    full.mul_f64(1.0 - 0.2 * fraction(uid, times))
}

/// The interval, up to 5 % shorter or longer.
fn jittered(interval: Duration, uid: &str) -> Duration {
    interval.mul_f64(0.95 + 0.1 * fraction(uid, 0))
}

/// A number from 0 to 1 that depends on nothing but its arguments.
fn fraction(uid: &str, salt: i64) -> f64 {
    // FNV-1a, finished so that similar inputs are far apart: any fixed function does, since nothing depends on secrecy.
    let mut hash = Fnv::default();
    hash.write(uid.as_bytes());
    hash.write(&salt.to_le_bytes());
    let mixed = (hash.finish() ^ (hash.finish() >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let top = u32::try_from(mixed >> 32).unwrap_or_default();
    f64::from(top) / f64::from(u32::MAX)
}

struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Whole seconds, and never out of range.
fn add(time: Timestamp, duration: Duration) -> Timestamp {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    time.checked_add(seconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use proptest::prelude::*;

    use crate::api::Mode;

    use super::*;

    const HOUR: i64 = 3600;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn seen() -> Seen {
        Seen {
            generation: 1,
            uid: "uid".to_owned(),
            suspend: false,
            mode: Mode::Mirror,
            release_signatures: crate::api::ReleaseSignatures::Required,
            interval: Some(Duration::from_hours(1)),
            progress_deadline: Duration::from_hours(2),
            request_token: None,
            key: "key".to_owned(),
            sync_gap: Duration::from_mins(1),
            watched_since: t(0),
            last_progress: None,
        }
    }

    /// Synced from 0 to 10.
    fn synced() -> ImageSetMirrorStatus {
        ImageSetMirrorStatus {
            observed_generation: Some(1),
            conditions: vec![Condition {
                type_: "Mirrored".to_owned(),
                status: "True".to_owned(),
                reason: "Succeeded".to_owned(),
                message: String::new(),
                last_transition_time: Time(t(10)),
                observed_generation: Some(1),
            }],
            sync: Some(SyncStatus {
                start_time: Some(Time(t(0))),
                last_attempt_time: Some(Time(t(10))),
                last_success_time: Some(Time(t(10))),
                key: Some("key".to_owned()),
                ..SyncStatus::default()
            }),
            ..ImageSetMirrorStatus::default()
        }
    }

    fn failed(failures: i64, next: i64) -> ImageSetMirrorStatus {
        let mut status = synced();
        let sync = status.sync.get_or_insert_default();
        sync.consecutive_failures = failures;
        sync.next_time = Some(Time(t(next)));
        status
    }

    fn start(why: Why) -> Decision {
        Decision::Start { why }
    }

    fn wait(seconds: i64) -> Decision {
        Decision::Wait { until: t(seconds) }
    }

    #[test]
    fn every_situation_has_its_answer() {
        let due = after_success(synced().sync.as_ref().unwrap(), &seen()).unwrap();
        let due = due.as_second() - 1_700_000_000;
        assert!((HOUR * 95 / 100..=HOUR * 105 / 100 + 1).contains(&due), "{due}");
        let requested = || Seen { request_token: Some("a".to_owned()), key: "key+a".to_owned(), ..seen() };
        let changed = || Seen { generation: 2, key: "other".to_owned(), ..seen() };
        let unsettled = || ImageSetMirrorStatus { conditions: vec![], ..synced() };
        let active = Job::Active { key: "key" };
        let waiting = Job::Waiting { key: "key", since: t(15), rounds: 1 };
        let again = Job::Waiting { key: "key", since: t(15), rounds: 9 };
        let first = add(t(15), recheck(1, "uid")).as_second() - 1_700_000_000;
        let later = add(t(15), recheck(9, "uid")).as_second() - 1_700_000_000;
        assert!((23..=25).contains(&first) && (63..=75).contains(&later), "{first} {later}");
        let new = ImageSetMirrorStatus { observed_generation: Some(-1), ..ImageSetMirrorStatus::default() };
        for (name, status, seen, job, now, wanted) in vec![
            ("no status", None, seen(), Job::None, 0, start(Why::New)),
            ("the schema's default", Some(new), seen(), Job::None, 0, start(Why::New)),
            ("suspended", None, Seen { suspend: true, ..seen() }, Job::None, 0, Decision::Nothing),
            ("invalid", None, Seen { key: String::new(), ..seen() }, Job::None, 0, Decision::Nothing),
            ("under way", None, seen(), active, 0, Decision::Nothing),
            ("another under way", Some(synced()), changed(), active, 20, start(Why::Changed)),
            ("not due", Some(synced()), seen(), Job::None, 20, wait(due)),
            ("due", Some(synced()), seen(), Job::None, due, start(Why::Interval)),
            ("no interval", Some(synced()), Seen { interval: None, ..seen() }, Job::None, HOUR * 9, Decision::Nothing),
            ("another interval", Some(synced()), Seen { generation: 2, ..seen() }, Job::None, 20, wait(due)),
            ("changed", Some(synced()), changed(), Job::None, 20, start(Why::Changed)),
            ("changed while failing", Some(failed(3, 99)), changed(), Job::None, 20, start(Why::Changed)),
            ("asked for too early", Some(synced()), requested(), Job::None, 59, wait(60)),
            ("asked for", Some(synced()), requested(), Job::None, 60, start(Why::Requested)),
            ("asked for while failing", Some(failed(3, 99)), requested(), Job::None, 60, start(Why::Requested)),
            ("failed", Some(failed(1, 15)), seen(), Job::None, 14, wait(15)),
            ("failed and due", Some(failed(1, 15)), seen(), Job::None, 15, start(Why::Retry)),
            ("something is missing", Some(unsettled()), seen(), waiting, 20, wait(first)),
            ("something may be there", Some(unsettled()), seen(), waiting, first, start(Why::Resume)),
            ("missing for long", Some(unsettled()), seen(), again, 20, wait(later)),
            ("missing, and changed", Some(unsettled()), changed(), waiting, 20, start(Why::Changed)),
            ("missing, and due", Some(synced()), seen(), waiting, due, start(Why::Interval)),
            ("ended in the middle", Some(unsettled()), seen(), Job::None, 20, start(Why::Resume)),
            ("clock set back", Some(synced()), seen(), Job::None, -9 * HOUR, wait(-9 * HOUR + HOUR * 110 / 100)),
            ("clock set back, asked for", Some(synced()), requested(), Job::None, -HOUR, start(Why::Requested)),
        ] {
            assert_eq!(decide(status.as_ref(), &seen, job, Outlook::Settled, t(now)), wanted, "{name}");
        }
    }

    #[test]
    fn cluster_objects_that_are_open_are_looked_at_by_a_sync() {
        let decide = |status: &_, seen: &_, job| decide(Some(status), seen, job, Outlook::Open, t(20));
        assert_eq!(decide(&synced(), &seen(), Job::None), start(Why::Resume));
        assert_eq!(
            decide(&failed(1, 30), &seen(), Job::None),
            wait(30),
            "a failed sync is tried again in its own time"
        );
        assert_eq!(decide(&synced(), &seen(), Job::Active { key: "key" }), Decision::Nothing);
        assert_eq!(decide(&synced(), &Seen { suspend: true, ..seen() }, Job::None), Decision::Nothing);
        let waiting = Job::Waiting { key: "key", since: t(19), rounds: 1 };
        assert!(matches!(decide(&synced(), &seen(), waiting), Decision::Wait { .. }));
    }

    #[test]
    fn a_request_that_was_handled_or_taken_back_asks_for_nothing() {
        let mut status = synced();
        status.last_handled_request = Some("a".to_owned());
        assert_eq!(effective_token(Some(&status), None), Some("a"));
        assert_eq!(effective_token(Some(&status), Some("b")), Some("b"));
        assert_eq!(effective_token(None, None), None);
        let seen = Seen { request_token: Some("a".to_owned()), ..seen() };
        assert!(matches!(decide(Some(&status), &seen, Job::None, Outlook::Settled, t(20)), Decision::Wait { .. }));
    }

    #[test]
    fn a_copy_longer_than_the_interval_leaves_a_pause() {
        let mut sync = synced().sync.unwrap();
        sync.last_attempt_time = Some(Time(t(2 * HOUR)));
        sync.last_success_time = Some(Time(t(2 * HOUR)));
        assert_eq!(after_success(&sync, &seen()), Some(t(2 * HOUR + 60)));
    }

    #[test]
    fn failures_are_tried_again_ever_more_slowly() {
        let waits: Vec<_> = (1..12).map(|n| backoff(n, "uid").as_secs_f64()).collect();
        for (n, wait) in waits.iter().enumerate() {
            let full = (5.0 * f64::from(1 << n)).min(300.0);
            assert!((full * 0.8..=full).contains(wait), "{n}: {wait}");
        }
        let patient = after_failure(t(0), 1, "uid", false, Some(Duration::from_secs(100)));
        assert_eq!(patient, t(100), "a registry's wish is honoured");
        assert_eq!(after_failure(t(0), 1, "uid", false, Some(Duration::from_hours(100))), t(HOUR));
        assert_eq!(after_failure(t(0), 1, "uid", true, None), t(600));
    }

    #[test]
    fn nobody_sleeps_for_more_than_five_minutes() {
        assert_eq!(wait(HOUR).requeue(t(0)), Some(Duration::from_mins(5)));
        assert_eq!(wait(1).requeue(t(0)), Some(Duration::from_millis(1050)));
        assert_eq!(wait(0).requeue(t(5)), Some(Duration::from_millis(50)));
        assert_eq!(Decision::Nothing.requeue(t(0)), None);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_bounds_and_is_always_the_same(uid in ".{0,40}", seconds in 300u64..1_000_000) {
            let interval = Duration::from_secs(seconds);
            let jittered = jittered(interval, &uid);
            prop_assert!(jittered >= interval.mul_f64(0.949) && jittered <= interval.mul_f64(1.051));
            prop_assert_eq!(jittered, super::jittered(interval, &uid));
        }

        #[test]
        fn any_time_gets_an_answer(now in -1_000_000i64..1_000_000, failures in 0i64..100, next in -1000i64..1000) {
            let status = failed(failures, next);
            if let Decision::Wait { until } = decide(Some(&status), &seen(), Job::None, Outlook::Settled, t(now)) {
                prop_assert!(until > t(now));
                prop_assert!(until <= t(now + HOUR * 120 / 100), "never further away than the interval");
            }
        }
    }

    #[test]
    fn objects_are_spread() {
        let fractions: Vec<_> = (0..200).map(|n| fraction(&format!("uid-{n}"), 0)).collect();
        for tenth in 0..10u8 {
            let from = f64::from(tenth) / 10.0;
            assert!(fractions.iter().any(|found| (from..from + 0.1).contains(found)), "none in {from}");
        }
    }
}
