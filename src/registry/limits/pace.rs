//! How many requests a second a host wants, once it has said that there were too many.

use std::time::Duration;

use tokio::time::Instant;

/// Refusals that come this close after the last reduction belong to it.
const BURST: Duration = Duration::from_secs(1);
/// What a refusal leaves of the rate that was reached.
const REDUCE: f64 = 0.85;
/// The time after which the rate is back where it was; then it is held for a while, and then raised more and more.
///
/// This is the shape of CUBIC (RFC 9438, section 4.2), with a rate for the window.
const BACK_AFTER: f64 = 4.0;
/// Beyond this multiple of what was refused, nothing is paced any more.
const FREE_AT: f64 = 4.0;
/// The lowest rate, and the lowest one after a first refusal, per second.
const LEAST: f64 = 0.5;
const LEAST_FIRST: f64 = 10.0;
/// Refusals within a second that let the host be left alone by everybody, and not only by those who were refused.
const MANY: u32 = 3;

/// Requests in the last seconds, in parts of a second.
#[derive(Debug, Default)]
struct Meter {
    slots: [u32; Self::SLOTS],
    /// Number of the newest slot since the first request.
    newest: u64,
    first: Option<Instant>,
}

impl Meter {
    const SLOTS: usize = 20;
    const SLOT: Duration = Duration::from_millis(100);

    fn advance(&mut self, now: Instant) {
        let first = *self.first.get_or_insert(now);
        let slot = now.saturating_duration_since(first).as_millis() / Self::SLOT.as_millis();
        let slot = u64::try_from(slot).unwrap_or(u64::MAX);
        let steps = slot.saturating_sub(self.newest).min(Self::SLOTS as u64);
        for _ in 0..steps {
            self.slots.rotate_right(1);
            if let Some(newest) = self.slots.first_mut() {
                *newest = 0;
            }
        }
        self.newest = self.newest.max(slot);
    }

    fn count(&mut self, now: Instant) {
        self.advance(now);
        if let Some(newest) = self.slots.first_mut() {
            *newest = newest.saturating_add(1);
        }
    }

    /// Per second, of the better of the last two seconds: limits are often counted by the second.
    fn rate(&mut self, now: Instant) -> f64 {
        self.advance(now);
        let (one, two) = self.slots.split_at(Self::SLOTS / 2);
        f64::from(one.iter().sum::<u32>().max(two.iter().sum::<u32>()))
    }
}

#[derive(Debug)]
struct Rate {
    /// What the host took before it refused, per second.
    reached: f64,
    since: Instant,
    /// When the next request may go.
    next: Instant,
}

impl Rate {
    fn now(&self, now: Instant) -> f64 {
        let time = now.saturating_duration_since(self.since).as_secs_f64();
        let shape = (1.0 - REDUCE) / BACK_AFTER.powi(3);
        self.reached * (1.0 + shape * (time - BACK_AFTER).powi(3))
    }
}

/// The pace at which one host is asked; free until it refuses something.
#[derive(Debug, Default)]
pub(super) struct Pace {
    taken: Meter,
    rate: Option<Rate>,
    refused: u32,
    refused_since: Option<Instant>,
}

impl Pace {
    /// When a request that wants to go now may go. The time is taken, also if the request is never made.
    pub(super) fn next(&mut self, now: Instant) -> Instant {
        let Some(rate) = &mut self.rate else { return now };
        let per_second = rate.now(now);
        if per_second > rate.reached * FREE_AT {
            self.rate = None;
            return now;
        }
        let at = rate.next.max(now);
        rate.next = at + Duration::from_secs_f64(1.0 / per_second.max(LEAST));
        at
    }

    /// The host has answered a request without asking for patience.
    pub(super) fn taken(&mut self, now: Instant) {
        self.taken.count(now);
    }

    /// The host has refused a request because there were too many; how long everybody should leave it alone.
    pub(super) fn refused(&mut self, now: Instant, after: Option<Duration>) -> Option<Duration> {
        if self.refused_since.is_none_or(|since| now.saturating_duration_since(since) >= BURST) {
            (self.refused, self.refused_since) = (0, Some(now));
            let taken = self.taken.rate(now);
            // One refusal after a few requests says little: what was reached by then is not the limit.
            let reached = match &self.rate {
                None => taken.max(LEAST_FIRST),
                Some(rate) => taken.clamp(LEAST, rate.now(now).max(LEAST)),
            };
            self.rate = Some(Rate { reached, since: now, next: now });
        }
        self.refused += 1;
        after.filter(|_| self.refused >= MANY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that takes so many requests in each second, and has these in flight at the same time.
    fn run(limit: u32, requests: u32, in_flight: usize) -> (u32, f64) {
        let start = Instant::now();
        let mut pace = Pace::default();
        let (mut second, mut used, mut refused, mut done) = (0, 0, 0, 0);
        let mut held = start;
        // When each of those in flight will be at the host.
        let mut flights = vec![start; in_flight];
        let mut last = start;
        while done < requests {
            flights.sort_unstable();
            let now = flights[0].max(held);
            last = now;
            let this = (now - start).as_secs();
            if this != second {
                (second, used) = (this, 0);
            }
            let pause = if used < limit {
                used += 1;
                done += 1;
                pace.taken(now);
                Duration::from_millis(1)
            } else {
                refused += 1;
                let wait = Duration::from_secs(1);
                if let Some(hold) = pace.refused(now, Some(wait)) {
                    held = held.max(now + hold);
                }
                wait
            };
            let ready = now + pause;
            flights[0] = pace.next(ready).max(ready);
        }
        (refused, (last - start).as_secs_f64())
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_met_with_few_refusals_and_little_lost() {
        for limit in [20, 50, 200] {
            let requests = limit * 15;
            let (refused, seconds) = run(limit, requests, 16);
            assert!(seconds < 15.0 * 1.5, "{limit}: {seconds} s");
            // Those that were in flight at the first refusal cannot be helped.
            assert!(refused <= 16 + requests / 100, "{limit}: {refused} of {requests}");
        }
        let (_, seconds) = run(1, 20, 16);
        assert!(seconds < 40.0, "{seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_paced_before_a_refusal_and_long_after() {
        let mut pace = Pace::default();
        let now = Instant::now();
        assert_eq!((pace.next(now), pace.next(now)), (now, now));
        for _ in 0..100 {
            pace.taken(now);
        }
        assert_eq!(pace.refused(now, None), None);
        pace.next(now);
        assert!(pace.next(now) > now);
        let later = now + Duration::from_mins(1);
        assert_eq!((pace.next(later), pace.next(later)), (later, later));
    }

    #[tokio::test(start_paused = true)]
    async fn the_third_refusal_within_a_second_is_for_everybody() {
        let mut pace = Pace::default();
        let now = Instant::now();
        let told = Some(Duration::from_secs(7));
        assert_eq!([pace.refused(now, told), pace.refused(now, told)], [None, None]);
        assert_eq!(pace.refused(now, told), told);
        assert_eq!(pace.refused(now, None), None);
        assert_eq!(pace.refused(now + BURST, told), None);
    }
}
