//! How many bytes a second pass, for one object or for all.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How much of the time in which nothing was taken may be made up for.
///
/// Timers and whoever handles a frame are late by milliseconds, in which a fast line passes many frames.
const BURST: Duration = Duration::from_millis(100);
/// The longest that one frame keeps those after it waiting: sums of such times stay far below what a clock can hold.
const MAX_WAIT: Duration = Duration::from_hours(30 * 24);

/// A bound on bytes per second, shared by everybody who has a clone of its `Arc`.
///
/// A token bucket that one frame may overdraw: frames pass whole, and who comes next waits for what is missing. In any
/// `t` seconds at most `rate * (t + 0.1)` bytes and one frame pass, also after a pause; and as many as the rate allows
/// if they are there.
#[derive(Debug)]
pub struct Throttle {
    per_second: u64,
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A bound of `per_second` bytes per second; zero counts as one.
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), next: Mutex::new(None) }
    }

    /// Waits until `bytes` more may pass. What was taken stays taken if the future is dropped.
    pub async fn take(&self, bytes: u64) {
        let now = Instant::now();
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            let at = next.map_or(now, |at| at.max(earliest));
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.per_second);
            *next = Some(at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(MAX_WAIT));
            at
        };
        if at > now {
            sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::future::join_all;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    /// As `Progress` has them: the object's own, then that of the process.
    type Chain = Vec<Arc<Throttle>>;

    fn throttle(per_second: u64) -> Arc<Throttle> {
        Arc::new(Throttle::new(per_second))
    }

    /// What passes within `time` where each chain is taken for one frame after the other, by so many tasks.
    async fn passed(chains: &[Chain], tasks: usize, frame: u64, time: Duration) -> Vec<u64> {
        let end = Instant::now() + time;
        let sums: Vec<AtomicU64> = chains.iter().map(|_| AtomicU64::new(0)).collect();
        let all = chains.iter().zip(&sums).flat_map(|chain| std::iter::repeat_n(chain, tasks));
        let all = all.map(|(chain, sum)| async move {
            loop {
                for throttle in chain {
                    throttle.take(frame).await;
                }
                if Instant::now() >= end {
                    return;
                }
                sum.fetch_add(frame, Ordering::Relaxed);
                // Whatever is done with a frame lets others have their turn.
                tokio::task::yield_now().await;
            }
        });
        tokio::time::timeout_at(end, join_all(all)).await.ok();
        sums.into_iter().map(AtomicU64::into_inner).collect()
    }

    /// Within 5 %, give or take one frame, which passes whole.
    fn assert_near(passed: u64, expected: u64, frame: u64, what: &str) {
        let off = expected / 20 + frame;
        assert!(passed.abs_diff(expected) <= off, "{what}: {passed} bytes, expected {expected}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_within_five_percent_for_any_frames_and_any_number_of_tasks() {
        for rate in [64 * KIB, MIB, 200 * MIB, KIB * MIB] {
            for frame in [16 * KIB, 64 * KIB + 7, 400 * KIB] {
                for tasks in [1, 16] {
                    // A minute, but not more frames than a test has time for.
                    let seconds = (100_000 * frame / rate).clamp(5, 60);
                    let chains = [vec![throttle(rate)]];
                    let sums = passed(&chains, tasks, frame, Duration::from_secs(seconds)).await;
                    let what = format!("{rate} B/s, {frame} B, {tasks} tasks, {seconds} s");
                    assert_near(sums[0], rate * seconds, frame, &what);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_only_a_tenth_of_a_second_is_made_up_for() {
        let chains = [vec![throttle(MIB)]];
        let minute = Duration::from_mins(1);
        let first = passed(&chains, 4, 16 * KIB, minute).await;
        assert_near(first[0], 60 * MIB, 16 * KIB, "before");
        tokio::time::advance(Duration::from_hours(1)).await;
        // At once, and within a second.
        let burst = passed(&chains, 1, 16 * KIB, Duration::from_millis(1)).await;
        assert!((MIB / 10..MIB / 10 + 33 * KIB).contains(&burst[0]), "{burst:?}");
        let second = passed(&chains, 1, 16 * KIB, Duration::from_secs(1)).await;
        assert_near(second[0], MIB, 16 * KIB, "after");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_of_more_than_a_second_passes_and_those_after_it_pay_for_it() {
        let throttle = throttle(1000);
        let start = Instant::now();
        for expected in [0, 10, 20] {
            throttle.take(10_000).await;
            assert_eq!(start.elapsed().as_secs(), expected);
        }
        // The smallest rate that can be asked for, and the largest frame.
        let throttle = Throttle::new(1);
        throttle.take(400 * KIB).await;
        throttle.take(1).await;
        assert_eq!((start.elapsed().as_secs() - 20) / 1000, 409);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_in_a_row_the_smaller_decides() {
        let minute = Duration::from_mins(1);
        for (own, all) in [(MIB, 10 * MIB), (10 * MIB, MIB), (MIB, MIB)] {
            let chains = [vec![throttle(own), throttle(all)]];
            let sums = passed(&chains, 8, 64 * KIB, minute).await;
            assert_near(sums[0], 60 * MIB, 64 * KIB, &format!("{own} and {all}"));
        }
        // Three objects with bounds of their own share that of the process.
        let all = throttle(4 * MIB);
        let chains = [MIB, 3 * MIB, 3 * MIB].map(|own| vec![throttle(own), Arc::clone(&all)]);
        let sums = passed(&chains, 4, 64 * KIB, minute).await;
        assert_near(sums.iter().sum(), 4 * 60 * MIB, 64 * KIB, "all");
        for (sum, own) in sums.iter().zip([1, 3, 3]) {
            assert!(*sum <= own * 63 * MIB, "{sums:?}");
        }
    }
}
