//! How many requests of one kind are under way at a host: as many as make it faster, shared fairly.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::gate::{Gate, Line, Load, Place, Waiter};

/// Who shares a window: one client, which is one side of one object.
pub type Share = u64;

/// The gain in bytes or requests per second that a larger window has to bring.
const GAIN: f64 = 1.03;
/// The least time that a rate is measured over: the rates of shorter ones differ by more than a window can bring.
const ROUND: Duration = Duration::from_millis(100);
/// What part of a window it grows by at a time, but at least one place.
const GROWTH: usize = 8;
/// What trouble leaves of a window.
const SHRINK: f64 = 0.7;
/// Trouble comes in bursts: those of one second are one.
const BURST: Duration = Duration::from_secs(1);
/// What was reached once counts half after this time: networks and registries change.
const HALF_LIFE: Duration = Duration::from_mins(10);

/// The size of a window: grows as long as that pays, shrinks at trouble.
#[derive(Debug)]
struct Size {
    places: usize,
    most: usize,
    /// What one round brought: at least as many successes as there are places, in at least [`ROUND`].
    successes: usize,
    amount: u64,
    since: Option<Instant>,
    /// Somebody was waiting all the time, so that the size was what mattered.
    full: bool,
    /// The best rate of a round, per second, and when it was seen.
    best: Option<(f64, Instant)>,
    shrunk: Option<Instant>,
}

impl Size {
    fn new(places: usize, most: usize) -> Self {
        let most = most.max(1);
        let places = places.clamp(1, most);
        Self { places, most, successes: 0, amount: 0, since: None, full: true, best: None, shrunk: None }
    }

    fn success(&mut self, now: Instant, amount: u64, waiting: bool) {
        let Some(since) = self.since else {
            // What came before it is not known, so it only starts the clock.
            self.since = Some(now);
            return;
        };
        self.successes += 1;
        self.amount = self.amount.saturating_add(amount);
        self.full &= waiting;
        let elapsed = now.saturating_duration_since(since);
        if self.successes < self.places || elapsed < ROUND {
            return;
        }
        if self.full {
            #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
            let rate = self.amount as f64 / elapsed.as_secs_f64();
            let best = self.best.map_or(0.0, |(best, seen)| {
                let age = now.saturating_duration_since(seen).as_secs_f64() / HALF_LIFE.as_secs_f64();
                best * 0.5_f64.powf(age)
            });
            if rate > best * GAIN {
                self.best = Some((rate, now));
                self.places = (self.places + (self.places / GROWTH).max(1)).min(self.most);
            }
        }
        (self.successes, self.amount, self.since, self.full) = (0, 0, Some(now), true);
    }

    fn trouble(&mut self, now: Instant) {
        if self.shrunk.is_some_and(|last| now.saturating_duration_since(last) < BURST) {
            return;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "1 to 64"
        )]
        let places = (self.places as f64 * SHRINK) as usize;
        self.places = places.max(1);
        (self.shrunk, self.best) = (Some(now), None);
        (self.successes, self.amount, self.since, self.full) = (0, 0, Some(now), true);
    }
}

/// A window of one host.
#[derive(Debug)]
pub(super) struct Window {
    size: Mutex<Size>,
    gate: Arc<Gate<Fair>>,
}

impl Window {
    /// A window that begins with `places` and never has more than `most`; zero counts as one.
    pub(super) fn new(places: usize, most: usize) -> Arc<Self> {
        let size = Size::new(places, most);
        let gate = Gate::new(size.places, Fair::default());
        Arc::new(Self { size: Mutex::new(size), gate })
    }

    fn change(&self, change: impl FnOnce(&mut Size)) {
        let places = {
            let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
            let before = size.places;
            change(&mut size);
            (size.places != before).then_some(size.places)
        };
        if let Some(places) = places {
            self.gate.resize(places);
        }
    }

    /// Waits for a place. Among those who wait, the share that has got least of the window is next, and within a share
    /// who came first. `cost` is what will be got: bytes, or one for a request.
    pub(super) async fn acquire(&self, share: Share, cost: u64) -> Place<Fair> {
        self.gate.enter((share, cost)).await
    }

    /// A place if one is free and nobody waits.
    pub(super) fn try_acquire(&self) -> Option<Place<Fair>> {
        self.gate.try_enter()
    }

    /// A request has succeeded and brought `amount` bytes, or counts as one.
    pub(super) fn success(&self, amount: u64) {
        let full = self.gate.is_full();
        self.change(|size| size.success(Instant::now(), amount, full));
    }

    /// The host has asked for patience, or broken a connection.
    pub(super) fn trouble(&self) {
        self.change(|size| size.trouble(Instant::now()));
    }

    /// How much there is to do now.
    pub(super) fn load(&self) -> Load {
        self.gate.load()
    }
}

/// Those who wait, by whom they are for.
#[derive(Default)]
pub(super) struct Fair {
    /// None is empty.
    queues: BTreeMap<Share, Queue>,
    /// What the last one served had got when its turn came: who comes anew begins there.
    served: u64,
}

struct Queue {
    /// What this share has got since it began to wait, in the unit of the costs.
    served: u64,
    waiters: VecDeque<(u64, Waiter<Fair>)>,
}

impl Line for Fair {
    /// Whom it is for, and what it costs.
    type Ask = (Share, u64);

    fn join(&mut self, (share, cost): Self::Ask, waiter: Waiter<Self>) {
        let served = self.served;
        let queue = self.queues.entry(share).or_insert_with(|| Queue { served, waiters: VecDeque::new() });
        queue.waiters.push_back((cost, waiter));
    }

    fn next(&mut self) -> Option<Waiter<Self>> {
        let (&share, queue) = self.queues.iter_mut().min_by_key(|(share, queue)| (queue.served, **share))?;
        self.served = self.served.max(queue.served);
        let next = queue.waiters.pop_front();
        if let Some((cost, _)) = &next {
            queue.served = queue.served.saturating_add(*cost);
        }
        if queue.waiters.is_empty() {
            self.queues.remove(&share);
        }
        next.map(|(_cost, waiter)| waiter)
    }

    fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    fn waiting(&self) -> usize {
        let waiters = self.queues.values().flat_map(|queue| &queue.waiters);
        waiters.filter(|(_cost, waiter)| !waiter.is_gone()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays rounds at a host that answers each request after `latency`, and takes at most `capacity` a second.
    fn play(size: &mut Size, now: &mut Instant, rounds: usize, latency: f64, capacity: f64) {
        for _ in 0..rounds {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let places = size.places as f64;
            let each = 1.0 / (places / latency).min(capacity);
            for _ in 0..size.places {
                *now += Duration::from_secs_f64(each);
                size.success(*now, 1, true);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_grows_as_long_as_the_host_gets_faster() {
        let (mut size, mut now) = (Size::new(8, 64), Instant::now());
        play(&mut size, &mut now, 100, 0.02, 1000.0);
        // 20 places bring a thousand a second at 20 ms; what is measured of a round that grows is a little less.
        assert!((19..=22).contains(&size.places), "{}", size.places);
        let (mut size, mut now) = (Size::new(8, 64), Instant::now());
        play(&mut size, &mut now, 300, 0.02, f64::INFINITY);
        assert!(size.places >= 30, "{}", size.places);
        assert!(size.places <= 64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_nobody_waits_for_stays() {
        let (mut size, mut now) = (Size::new(4, 64), Instant::now());
        for _ in 0..100 {
            now += Duration::from_millis(1);
            size.success(now, 1, false);
        }
        assert_eq!(size.places, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_shrinks_a_window_once_a_second_and_never_to_nothing() {
        let (mut size, now) = (Size::new(20, 64), Instant::now());
        size.trouble(now);
        size.trouble(now + Duration::from_millis(999));
        assert_eq!(size.places, 14);
        for second in 1..20 {
            size.trouble(now + Duration::from_secs(second));
        }
        assert_eq!(size.places, 1);
    }

    #[tokio::test]
    async fn places_go_to_the_share_that_has_got_least() {
        let gate = Gate::new(1, Fair::default());
        // One object wants many large blobs, another came later and wants small ones.
        let asks = vec![(1, 100), (1, 100), (1, 100), (2, 10), (2, 10), (2, 10)];
        assert_eq!(crate::gate::tests::order(&gate, (0, 1), asks).await, [0, 3, 4, 5, 1, 2]);
    }
}
