//! One background sync per object, keyed by what it reads: start, queue, supersede, cancel, drain.
//!
//! # Guarantees
//! - At most one sync of an object copies at a time, and at most the allowed number in the process; others are queued.
//! - An order with another key is prepared beside the running copy. If it comes to the same plan the copy goes on and
//!   counts for the new order, otherwise it is stopped, waited for, and the new plan is copied.
//! - A sync that panics has ended like any other.
//! - Whoever cancels can wait for the end. A dropped sync leaves nothing half-done that the next one would not repair.
//!
//! # Not done here
//! Whether and when to start is decided by [`super::schedule`]; what a sync does is the [`Work`].

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::clock::Clock;
use crate::copy::Stop;

/// How often a copy under way is told of in the log.
const SUMMARY_PERIOD: Duration = Duration::from_secs(30);

/// What a sync is made of; a trait so that queueing and superseding are tested without registries.
pub(super) trait Work: Send + Sync + 'static {
    /// What is wanted.
    type Order: Clone + Send + Sync + 'static;
    /// What was found out before copying.
    type Prepared: Send + Sync + 'static;
    /// How a sync ended.
    type Outcome: Clone + Send + Sync + 'static;
    /// Counts while copying.
    type Progress: Clone + Default + Send + Sync + 'static;

    /// Finds out what the order means now.
    fn prepare(&self, order: &Self::Order) -> impl Future<Output = Result<Self::Prepared, Self::Outcome>> + Send;

    /// True if copying one does for the other.
    fn same(&self, one: &Self::Prepared, other: &Self::Prepared) -> bool;

    /// What is known before the first image is done.
    fn begun(&self, prepared: &Self::Prepared) -> Self::Progress;

    /// Copies; ends soon after `stop.abort`.
    fn copy(
        &self,
        order: &Self::Order,
        prepared: &Self::Prepared,
        progress: &watch::Sender<Self::Progress>,
        stop: &Stop,
    ) -> impl Future<Output = Self::Outcome> + Send;

    /// The outcome of a sync that panicked.
    fn panicked(&self) -> Self::Outcome;

    /// What the log says a sync is about.
    fn span(&self, order: &Self::Order) -> tracing::Span;

    /// Told from time to time while copying.
    fn going_on(&self, progress: &Self::Progress);

    /// Told of the end of each sync: how it ended, or nothing if it was stopped.
    fn ended(&self, order: &Self::Order, outcome: Option<&Self::Outcome>, took: Duration);
}

/// At what point a sync is.
#[derive(Clone, Debug)]
pub(super) enum State<O, P> {
    /// No sync in this process yet.
    Idle,
    /// Waiting for a place.
    Queued,
    /// Finding out what to copy.
    Resolving {
        /// Key of the order that is looked at.
        key: String,
        /// Start of the sync.
        started: Timestamp,
    },
    /// Copying.
    Copying {
        /// Key of the order that it counts for.
        key: String,
        /// Start of the sync.
        started: Timestamp,
        /// Counts.
        progress: P,
        /// When the counts last changed.
        moved: Timestamp,
    },
    /// Over.
    Finished {
        /// Key of the order it counts for.
        key: String,
        /// Start.
        started: Timestamp,
        /// End.
        ended: Timestamp,
        /// Counts up with each finished sync of the object.
        number: u64,
        /// How it ended.
        outcome: O,
    },
    /// Stopped before it was done.
    Interrupted,
}

/// What is known about the sync of an object at one moment.
pub(super) struct Look<O, P> {
    /// At what point it is.
    pub(super) state: State<O, P>,
    /// The key of the order that is queued or being carried out, if any: not that of the state while a newer one is looked at.
    pub(super) active: Option<String>,
}

/// The syncs of all objects of this process.
pub(super) struct Jobs<W: Work> {
    work: Arc<W>,
    clock: Clock,
    places: Arc<Semaphore>,
    tracker: TaskTracker,
    /// Called with the object's id when a sync begins to copy or ends.
    wake: Arc<dyn Fn(&str) + Send + Sync>,
    by_id: Mutex<BTreeMap<String, Arc<Job<W>>>>,
    drain: CancellationToken,
    abort: CancellationToken,
}

struct Job<W: Work> {
    id: String,
    inner: Mutex<Inner<W>>,
    progress: watch::Sender<W::Progress>,
}

struct Inner<W: Work> {
    state: State<W::Outcome, W::Progress>,
    finished: u64,
    /// The second after the end of the last sync: the next one starts then at the earliest, so that start and end tell the
    /// syncs of an object apart although they are whole seconds.
    free: Timestamp,
    moved: Timestamp,
    /// The running task, if any.
    running: Option<Running<W>>,
}

struct Running<W: Work> {
    orders: watch::Sender<(String, W::Order)>,
    stop: Stop,
    ended: CancellationToken,
}

impl<W: Work> Job<W> {
    fn lock(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State<W::Outcome, W::Progress>) {
        self.lock().state = state;
    }
}

impl<W: Work> Jobs<W> {
    /// No jobs yet; at most `at_once` syncs at the same time.
    pub(super) fn new(work: Arc<W>, at_once: usize, clock: Clock, wake: Arc<dyn Fn(&str) + Send + Sync>) -> Self {
        Self {
            work,
            clock,
            places: Arc::new(Semaphore::new(at_once.max(1))),
            tracker: TaskTracker::new(),
            wake,
            by_id: Mutex::default(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Job<W>>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self, id: &str) -> Arc<Job<W>> {
        let now = self.clock.now_in_seconds();
        let mut jobs = self.lock();
        let job = jobs.entry(id.to_owned()).or_insert_with(|| {
            Arc::new(Job {
                id: id.to_owned(),
                inner: Mutex::new(Inner { state: State::Idle, finished: 0, free: now, moved: now, running: None }),
                progress: watch::Sender::new(W::Progress::default()),
            })
        });
        Arc::clone(job)
    }

    /// What is known about the object's sync now. It may end at any time, which is told.
    pub(super) fn look(&self, id: &str) -> Look<W::Outcome, W::Progress> {
        let Some(job) = self.lock().get(id).cloned() else { return Look { state: State::Idle, active: None } };
        let inner = job.lock();
        let active = inner.running.as_ref().map(|running| running.orders.borrow().0.clone());
        let state = match &inner.state {
            State::Copying { key, started, .. } => State::Copying {
                key: key.clone(),
                started: *started,
                progress: job.progress.borrow().clone(),
                moved: inner.moved,
            },
            state => state.clone(),
        };
        Look { state, active }
    }

    /// Starts a sync, or hands the order to the one that runs.
    pub(super) fn start(&self, id: &str, key: String, order: W::Order) {
        if self.drain.is_cancelled() {
            return;
        }
        let job = self.job(id);
        let mut inner = job.lock();
        if let Some(running) = &inner.running {
            if running.orders.borrow().0 != key {
                running.orders.send_replace((key, order));
            }
            return;
        }
        let span = self.work.span(&order);
        let (orders, receiver) = watch::channel((key.clone(), order));
        let stop = Stop { drain: self.drain.child_token(), abort: self.abort.child_token() };
        let ended = CancellationToken::new();
        inner.running = Some(Running { orders, stop: stop.clone(), ended: ended.clone() });
        let free = self.places.available_permits() > 0;
        let started = self.clock.now_in_seconds().max(inner.free);
        inner.state = if free { State::Resolving { key, started } } else { State::Queued };
        drop(inner);
        let task = Task {
            job: Arc::clone(&job),
            work: Arc::clone(&self.work),
            clock: self.clock.clone(),
            places: Arc::clone(&self.places),
            wake: Arc::clone(&self.wake),
            stop,
            begun: Instant::now(),
        };
        let task = async move {
            // Whatever happens to the task, the job is free for the next one afterwards.
            let _ended = ended.drop_guard();
            if AssertUnwindSafe(task.run(receiver.clone())).catch_unwind().await.is_err() {
                task.panicked(&receiver);
            }
            (task.wake)(&task.job.id);
        };
        self.tracker.spawn(task.instrument(span));
    }

    /// Stops the object's sync and waits for its end; at once if there is none.
    pub(super) async fn cancel(&self, id: &str) {
        let Some(job) = self.lock().get(id).cloned() else { return };
        let ended = {
            let inner = job.lock();
            inner.running.as_ref().map(|running| {
                running.stop.abort.cancel();
                running.ended.clone()
            })
        };
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
    }

    /// Forgets the object; its sync is stopped.
    pub(super) async fn forget(&self, id: &str) {
        self.cancel(id).await;
        self.lock().remove(id);
    }

    /// Begins nothing new, lets transfers end for `patience`, then stops everything and waits for the end.
    pub(super) async fn shut_down(&self, patience: Duration) {
        self.drain.cancel();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_err() {
            self.abort.cancel();
            self.tracker.wait().await;
        }
    }

    /// Stops everything at once and waits for the end.
    pub(super) async fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

struct Task<W: Work> {
    job: Arc<Job<W>>,
    work: Arc<W>,
    clock: Clock,
    places: Arc<Semaphore>,
    wake: Arc<dyn Fn(&str) + Send + Sync>,
    stop: Stop,
    begun: Instant,
}

/// How one pass over the orders ended.
enum Pass<O> {
    Outcome(O),
    Interrupted,
}

impl<O> Pass<O> {
    /// A copy that ended after it was told to stop is not a sync that ended.
    fn of(outcome: O, stop: &Stop) -> Self {
        if stop.abort.is_cancelled() || stop.drain.is_cancelled() { Self::Interrupted } else { Self::Outcome(outcome) }
    }
}

type Orders<W> = watch::Receiver<(String, <W as Work>::Order)>;

/// An order and what came of looking at it.
struct Found<W: Work> {
    key: String,
    order: W::Order,
    prepared: Result<W::Prepared, W::Outcome>,
}

impl<W: Work> Task<W> {
    async fn run(&self, mut orders: Orders<W>) {
        let place = tokio::select! {
            biased;
            () = self.stop.drain.cancelled() => None,
            () = self.stop.abort.cancelled() => None,
            place = Arc::clone(&self.places).acquire_owned() => place.ok(),
        };
        loop {
            let started = self.clock.now_in_seconds().max(self.job.lock().free);
            let begun = Instant::now();
            let pass = if place.is_some() { self.sync(&mut orders, started).await } else { Pass::Interrupted };
            let mut inner = self.job.lock();
            // An order that came in at the last moment is not lost: `start` hands over under this lock.
            let late = orders.has_changed().unwrap_or(false) && !self.stop.abort.is_cancelled();
            if late && matches!(pass, Pass::Outcome(_)) {
                continue;
            }
            let (key, order) = orders.borrow().clone();
            let outcome = match pass {
                Pass::Interrupted => None,
                Pass::Outcome(outcome) => Some(outcome),
            };
            self.work.ended(&order, outcome.as_ref(), begun.elapsed());
            self.end(&mut inner, key, started, outcome);
            break;
        }
    }

    /// Notes the end of the sync, and makes room for the next one.
    fn end(&self, inner: &mut Inner<W>, key: String, started: Timestamp, outcome: Option<W::Outcome>) {
        inner.state = match outcome {
            None => State::Interrupted,
            Some(outcome) => {
                inner.finished += 1;
                let ended = self.clock.now_in_seconds().max(started);
                inner.free = ended.checked_add(SignedDuration::from_secs(1)).unwrap_or(ended);
                State::Finished { key, started, ended, number: inner.finished, outcome }
            }
        };
        inner.running = None;
    }

    fn panicked(&self, orders: &Orders<W>) {
        let outcome = self.work.panicked();
        let mut inner = self.job.lock();
        let started = match &inner.state {
            State::Resolving { started, .. } | State::Copying { started, .. } => *started,
            _ => self.clock.now_in_seconds(),
        };
        let (key, order) = orders.borrow().clone();
        self.work.ended(&order, Some(&outcome), self.begun.elapsed());
        self.end(&mut inner, key, started, Some(outcome));
    }

    /// Prepares the newest order and copies it, until one is done.
    async fn sync(&self, orders: &mut Orders<W>, started: Timestamp) -> Pass<W::Outcome> {
        self.job.set(State::Resolving { key: orders.borrow().0.clone(), started });
        (self.wake)(&self.job.id);
        let Some(mut found) = self.prepare(orders).await else { return Pass::Interrupted };
        loop {
            let current = match found.prepared {
                Ok(current) => current,
                Err(outcome) => return Pass::Outcome(outcome),
            };
            match self.copy(orders, (found.key, &found.order), &current, started).await {
                Ok(pass) => return pass,
                Err(next) => found = *next,
            }
        }
    }

    /// Prepares the newest order, anew whenever another one comes in; nothing if stopped.
    async fn prepare(&self, orders: &mut Orders<W>) -> Option<Found<W>> {
        loop {
            let (key, order) = orders.borrow_and_update().clone();
            if let State::Resolving { key: shown, .. } = &mut self.job.lock().state {
                shown.clone_from(&key);
            }
            tokio::select! {
                biased;
                () = self.stop.abort.cancelled() => return None,
                () = self.stop.drain.cancelled() => return None,
                prepared = self.work.prepare(&order) => return Some(Found { key, order, prepared }),
                Ok(()) = orders.changed() => {}
            }
        }
    }

    /// Copies `current` to its end, or returns what is to be copied instead.
    async fn copy(
        &self,
        orders: &mut Orders<W>,
        (key, order): (String, &W::Order),
        current: &W::Prepared,
        started: Timestamp,
    ) -> Result<Pass<W::Outcome>, Box<Found<W>>> {
        let stop = Stop { drain: self.stop.drain.child_token(), abort: self.stop.abort.child_token() };
        self.job.progress.send_replace(self.work.begun(current));
        {
            let mut inner = self.job.lock();
            inner.moved = self.clock.now_in_seconds();
            inner.state = State::Copying { key, started, progress: W::Progress::default(), moved: inner.moved };
        }
        (self.wake)(&self.job.id);
        let copying = self.work.copy(order, current, &self.job.progress, &stop);
        tokio::pin!(copying);
        let mut counts = self.job.progress.subscribe();
        let mut beside = orders.clone();
        let mut told = tokio::time::interval_at(tokio::time::Instant::now() + SUMMARY_PERIOD, SUMMARY_PERIOD);
        loop {
            tokio::select! {
                _ = told.tick() => self.work.going_on(&self.job.progress.borrow()),
                outcome = &mut copying => return Ok(Pass::of(outcome, &stop)),
                Ok(()) = counts.changed() => {
                    counts.mark_unchanged();
                    self.job.lock().moved = self.clock.now_in_seconds();
                }
                Ok(()) = beside.changed() => {
                    let next = tokio::select! {
                        outcome = &mut copying => return Ok(Pass::of(outcome, &stop)),
                        next = self.prepare(&mut beside) => next,
                    };
                    match next {
                        // Stopped: the copy ends by itself.
                        None => {}
                        // What `beside` has seen is what this copy counts for from here on.
                        Some(Found { key: newest, prepared: Ok(next), .. }) if self.work.same(current, &next) => {
                            *orders = beside.clone();
                            if let State::Copying { key, .. } = &mut self.job.lock().state {
                                *key = newest;
                            }
                            (self.wake)(&self.job.id);
                        }
                        Some(next) => {
                            stop.abort.cancel();
                            (&mut copying).await;
                            *orders = beside.clone();
                            return Err(Box::new(next));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans are the part of an order before the colon; what happens next is decided by the test.
    #[derive(Default)]
    struct Fake {
        told: Mutex<Vec<String>>,
        /// Orders whose copies may end.
        open: watch::Sender<Vec<String>>,
        /// Orders that may be prepared; all of them if none is named.
        prepared: watch::Sender<Option<Vec<String>>>,
    }

    impl Fake {
        fn tell(&self, text: String) {
            self.told.lock().unwrap().push(text);
        }

        fn told(&self) -> Vec<String> {
            self.told.lock().unwrap().clone()
        }

        fn open(&self, order: &str) {
            self.open.send_modify(|open| open.push(order.to_owned()));
        }
    }

    impl Work for Fake {
        type Order = String;
        type Prepared = String;
        type Outcome = String;
        type Progress = u32;

        async fn prepare(&self, order: &String) -> Result<String, String> {
            self.tell(format!("prepare {order}"));
            let mut prepared = self.prepared.subscribe();
            prepared.wait_for(|list| list.as_ref().is_none_or(|list| list.contains(order))).await.unwrap();
            assert_ne!(order, "panic", "as the test wants it");
            if order == "bad" { Err("bad".to_owned()) } else { Ok(order.clone()) }
        }

        fn same(&self, one: &String, other: &String) -> bool {
            one.split(':').next() == other.split(':').next()
        }

        fn begun(&self, _prepared: &String) -> u32 {
            0
        }

        async fn copy(&self, order: &String, prepared: &String, progress: &watch::Sender<u32>, stop: &Stop) -> String {
            assert_eq!(order, prepared);
            self.tell(format!("copy {order}"));
            progress.send_replace(1);
            let mut open = self.open.subscribe();
            tokio::select! {
                () = stop.abort.cancelled() => self.tell(format!("aborted {order}")),
                _ = open.wait_for(|open| open.contains(order)) => self.tell(format!("copied {order}")),
            }
            format!("done {order}")
        }

        fn panicked(&self) -> String {
            "panicked".to_owned()
        }

        fn span(&self, order: &String) -> tracing::Span {
            tracing::info_span!("sync", order)
        }

        fn going_on(&self, progress: &u32) {
            self.tell(format!("going on {progress}"));
        }

        fn ended(&self, order: &String, outcome: Option<&String>, _took: Duration) {
            self.tell(format!("ended {order}: {}", outcome.map_or("stopped", String::as_str)));
        }
    }

    struct Table {
        work: Arc<Fake>,
        jobs: Arc<Jobs<Fake>>,
        wakes: watch::Receiver<u32>,
    }

    fn table(at_once: usize) -> Table {
        let work = Arc::new(Fake::default());
        let (wake, wakes) = watch::channel(0);
        let wake = Arc::new(move |_: &str| wake.send_modify(|count| *count += 1));
        let clock = Clock::from_fn(|| Timestamp::UNIX_EPOCH);
        Table { jobs: Arc::new(Jobs::new(Arc::clone(&work), at_once, clock, wake)), work, wakes }
    }

    impl Table {
        fn start(&self, id: &str, order: &str) {
            self.jobs.start(id, format!("key of {order}"), order.to_owned());
        }

        /// Lets everything run until nothing moves any more.
        async fn settle(&self) {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }

        fn state(&self, id: &str) -> String {
            match self.jobs.look(id).state {
                State::Idle => "idle".to_owned(),
                State::Queued => "queued".to_owned(),
                State::Resolving { key, .. } => format!("resolving {key}"),
                State::Copying { key, progress, .. } => format!("copying {key} {progress}"),
                State::Finished { key, number, outcome, .. } => format!("finished {key} {number} {outcome}"),
                State::Interrupted => "interrupted".to_owned(),
            }
        }
    }

    #[tokio::test]
    async fn a_sync_runs_to_its_end() {
        let table = table(1);
        assert_eq!(table.state("a"), "idle");
        table.start("a", "1");
        assert_eq!(table.state("a"), "resolving key of 1");
        table.settle().await;
        assert_eq!(table.state("a"), "copying key of 1 1");
        let before = table.jobs.look("a");
        table.start("a", "1");
        table.work.open("1");
        table.settle().await;
        assert_eq!(table.state("a"), "finished key of 1 1 done 1");
        assert_eq!(table.jobs.look("a").active, None);
        assert!(matches!(before.state, State::Copying { .. }));
        assert_eq!(before.active.as_deref(), Some("key of 1"), "what was seen of one moment does not change");
        assert_eq!(table.work.told(), ["prepare 1", "copy 1", "copied 1", "ended 1: done 1"]);
        assert!(*table.wakes.borrow() >= 3, "begin, copy and end are told");
        table.start("a", "bad");
        table.settle().await;
        assert_eq!(table.state("a"), "finished key of bad 2 bad");
    }

    #[tokio::test]
    async fn syncs_within_one_second_have_times_of_their_own() {
        let table = table(1);
        let times = || match table.jobs.look("a").state {
            State::Finished { started, ended, .. } => (started.as_second(), ended.as_second()),
            _ => panic!("{}", table.state("a")),
        };
        for (order, second) in [("1", 0), ("2", 1), ("3", 2)] {
            table.work.open(order);
            table.start("a", order);
            table.settle().await;
            assert_eq!(times(), (second, second));
        }
    }

    #[tokio::test]
    async fn those_above_the_limit_wait_for_a_place() {
        let table = table(1);
        table.start("a", "1");
        table.settle().await;
        table.start("b", "2");
        table.start("c", "3");
        table.settle().await;
        assert_eq!([table.state("b"), table.state("c")], ["queued", "queued"]);
        table.jobs.cancel("b").await;
        assert_eq!(table.state("b"), "interrupted");
        table.work.open("1");
        table.settle().await;
        assert_eq!(table.state("c"), "copying key of 3 1");
        assert!(!table.work.told().contains(&"prepare 2".to_owned()));
    }

    #[tokio::test]
    async fn an_order_of_another_plan_supersedes_the_copy() {
        let table = table(1);
        table.start("a", "old");
        table.settle().await;
        table.work.prepared.send_replace(Some(vec![]));
        table.start("a", "new");
        table.settle().await;
        assert_eq!(table.state("a"), "copying key of old 1", "it goes on while the new order is looked at");
        table.work.prepared.send_replace(None);
        table.settle().await;
        assert_eq!(table.state("a"), "copying key of new 1");
        table.work.open("new");
        table.settle().await;
        assert_eq!(table.state("a"), "finished key of new 1 done new");
        let expected = ["prepare old", "copy old", "prepare new", "aborted old", "copy new", "copied new"];
        assert_eq!(table.work.told()[..6], expected);
    }

    #[tokio::test]
    async fn an_order_of_the_same_plan_lets_the_copy_go_on() {
        let table = table(1);
        table.start("a", "plan:1");
        table.settle().await;
        let before = *table.wakes.borrow();
        table.start("a", "plan:2");
        table.settle().await;
        assert_eq!(table.state("a"), "copying key of plan:2 1");
        assert!(*table.wakes.borrow() > before, "that it counts for another order is told");
        table.work.open("plan:1");
        table.settle().await;
        assert_eq!(table.state("a"), "finished key of plan:2 1 done plan:1");
        assert_eq!(table.work.told().iter().filter(|told| told.starts_with("copy ")).count(), 1);
    }

    #[tokio::test]
    async fn a_newer_order_replaces_the_one_that_is_looked_at() {
        let table = table(1);
        table.work.prepared.send_replace(Some(vec![]));
        table.start("a", "1");
        table.settle().await;
        table.start("a", "2");
        table.settle().await;
        assert_eq!(table.state("a"), "resolving key of 2");
        table.work.prepared.send_replace(None);
        table.settle().await;
        assert_eq!(table.work.told(), ["prepare 1", "prepare 2", "copy 2"]);
    }

    #[tokio::test]
    async fn an_order_that_comes_at_the_last_moment_is_not_lost() {
        let table = table(1);
        table.start("a", "1");
        table.settle().await;
        // The copy ends before the new order is prepared.
        table.work.prepared.send_replace(Some(vec![]));
        table.start("a", "2");
        table.settle().await;
        table.work.open("1");
        table.settle().await;
        table.work.prepared.send_replace(None);
        table.settle().await;
        assert_eq!(table.state("a"), "copying key of 2 1");
        table.work.open("2");
        table.settle().await;
        assert_eq!(table.state("a"), "finished key of 2 1 done 2");
        assert!(!table.work.told().contains(&"ended 1: done 1".to_owned()), "nothing is reported for the old order");
    }

    #[tokio::test]
    async fn who_cancels_waits_for_the_end() {
        let table = table(1);
        table.jobs.cancel("nobody").await;
        table.start("a", "1");
        table.settle().await;
        table.jobs.cancel("a").await;
        assert_eq!(table.work.told()[2..], ["aborted 1", "ended 1: stopped"]);
        assert_eq!(table.state("a"), "interrupted");
        table.start("a", "2");
        table.settle().await;
        assert_eq!(table.state("a"), "copying key of 2 1");
        table.jobs.forget("a").await;
        assert_eq!(table.state("a"), "idle");
    }

    #[tokio::test]
    async fn a_superseded_copy_can_be_cancelled_as_well() {
        let table = table(1);
        table.start("a", "1");
        table.settle().await;
        table.work.prepared.send_replace(Some(vec![]));
        table.start("a", "2");
        table.settle().await;
        table.jobs.cancel("a").await;
        assert_eq!(table.state("a"), "interrupted");
        assert!(!table.work.told().contains(&"copy 2".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_lets_transfers_end_and_begins_nothing() {
        let table = table(1);
        table.start("a", "1");
        table.settle().await;
        table.start("b", "2");
        let jobs = Arc::clone(&table.jobs);
        let stopping = TaskTracker::new().spawn(async move { jobs.shut_down(Duration::from_mins(1)).await });
        table.settle().await;
        assert_eq!(table.state("b"), "interrupted");
        table.start("c", "3");
        assert_eq!(table.state("c"), "idle");
        assert!(!stopping.is_finished());
        table.work.open("1");
        stopping.await.unwrap();
        assert_eq!(table.state("a"), "interrupted", "what was not begun is not known");
        assert!(table.work.told().contains(&"copied 1".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_copy_is_told_of_from_time_to_time() {
        let table = table(1);
        table.start("a", "1");
        table.settle().await;
        for _ in 0..2 {
            tokio::time::advance(SUMMARY_PERIOD).await;
            table.settle().await;
        }
        assert_eq!(table.work.told()[2..], ["going on 1", "going on 1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_takes_too_long_is_cut_off() {
        let table = table(1);
        table.start("a", "1");
        table.settle().await;
        table.jobs.shut_down(Duration::from_mins(1)).await;
        assert!(table.work.told().contains(&"aborted 1".to_owned()));
        assert_eq!(table.state("a"), "interrupted");
    }

    #[tokio::test]
    async fn a_sync_that_panics_has_ended() {
        let table = table(1);
        table.start("a", "panic");
        table.settle().await;
        assert_eq!(table.state("a"), "finished key of panic 1 panicked");
        assert_eq!(table.work.told(), ["prepare panic", "ended panic: panicked"], "and is counted");
        table.start("a", "1");
        table.settle().await;
        assert_eq!(table.state("a"), "copying key of 1 1");
        table.jobs.abort().await;
        assert_eq!(table.state("a"), "interrupted");
    }
}
