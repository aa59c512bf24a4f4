//! A bounded number of places, and a line of those who wait for one that is not first come, first served.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Who is next.
pub trait Line: Sized {
    /// What somebody who waits says about what the place is for.
    type Ask;

    /// Somebody comes to wait.
    fn join(&mut self, ask: Self::Ask, waiter: Waiter<Self>);

    /// The next one, out of the line; none if nobody waits. May give out somebody who has gone.
    fn next(&mut self) -> Option<Waiter<Self>>;

    /// True if nobody waits.
    fn is_empty(&self) -> bool;

    /// How many wait, without those who have gone.
    fn waiting(&self) -> usize;
}

/// Somebody who waits.
pub struct Waiter<L: Line> {
    granted: oneshot::Sender<Place<L>>,
}

impl<L: Line> Waiter<L> {
    /// True if nobody wants the place any more.
    pub fn is_gone(&self) -> bool {
        self.granted.is_closed()
    }
}

/// How much a gate has to do at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// How many places there are.
    pub places: usize,
    /// How many are taken; more than there are right after there have come to be fewer.
    pub taken: usize,
    /// How many wait for one.
    pub waiting: usize,
}

/// Places, and the line before them.
///
/// Guarantees: never more places are taken than there are, except right after there have come to be fewer; a place is not
/// lost with somebody who stops waiting; whoever comes while others wait waits too.
pub struct Gate<L: Line> {
    state: Mutex<State<L>>,
}

struct State<L> {
    places: usize,
    taken: usize,
    line: L,
}

/// The right to be inside; given back when dropped.
pub struct Place<L: Line> {
    gate: Arc<Gate<L>>,
}

impl<L: Line> Gate<L> {
    /// A gate with so many places.
    pub fn new(places: usize, line: L) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { places, taken: 0, line }) })
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    pub async fn enter(self: &Arc<Self>, ask: L::Ask) -> Place<L> {
        let granted = {
            let mut state = self.lock();
            if state.line.is_empty() && state.taken < state.places {
                state.taken += 1;
                None
            } else {
                let (sender, granted) = oneshot::channel();
                state.line.join(ask, Waiter { granted: sender });
                Some(granted)
            }
        };
        let place = match granted {
            None => None,
            Some(granted) => {
                // Those who went away may have left free places behind.
                self.admit();
                granted.await.ok()
            }
        };
        // A line that loses somebody does not keep him outside for ever.
        place.unwrap_or_else(|| Place { gate: Arc::clone(self) })
    }

    /// A place if one is free and nobody waits.
    pub fn try_enter(self: &Arc<Self>) -> Option<Place<L>> {
        let mut state = self.lock();
        let free = state.line.is_empty() && state.taken < state.places;
        state.taken += usize::from(free);
        free.then(|| Place { gate: Arc::clone(self) })
    }

    /// Lets in as many as there are places.
    fn admit(self: &Arc<Self>) {
        loop {
            let waiter = {
                let mut state = self.lock();
                if state.taken >= state.places {
                    return;
                }
                let Some(waiter) = state.line.next() else { return };
                if waiter.is_gone() {
                    continue;
                }
                state.taken += 1;
                waiter
            };
            // The place of somebody who has gone in between comes back by being dropped: the lock is not held.
            drop(waiter.granted.send(Place { gate: Arc::clone(self) }));
        }
    }

    /// Changes the number of places. Nobody inside is sent away.
    pub fn resize(self: &Arc<Self>, places: usize) {
        self.lock().places = places;
        self.admit();
    }

    /// True if somebody waits.
    pub fn is_full(&self) -> bool {
        !self.lock().line.is_empty()
    }

    /// What there is to do now. Takes time with the number of those who wait.
    pub fn load(&self) -> Load {
        let state = self.lock();
        Load { places: state.places, taken: state.taken, waiting: state.line.waiting() }
    }
}

impl<L: Line> Drop for Place<L> {
    fn drop(&mut self) {
        {
            let mut state = self.gate.lock();
            state.taken = state.taken.saturating_sub(1);
        }
        self.gate.admit();
    }
}

impl<L: Line> fmt::Debug for Gate<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { places, taken, waiting } = self.load();
        let mut shown = f.debug_struct("Gate");
        shown.field("places", &places).field("taken", &taken).field("waiting", &waiting).finish()
    }
}

impl<L: Line> fmt::Debug for Place<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("gate", &self.gate).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Lets everybody wait behind one who is inside, and says in which order they come in.
    pub(crate) async fn order<L: Line>(gate: &Arc<Gate<L>>, first: L::Ask, asks: Vec<L::Ask>) -> Vec<usize> {
        let inside = gate.enter(first).await;
        let mut waiting: Vec<_> = asks.into_iter().map(|ask| Box::pin(gate.enter(ask))).enumerate().collect();
        for (_, one) in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        drop(inside);
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let mut entered = None;
            for (place, (number, one)) in waiting.iter_mut().enumerate() {
                if futures::poll!(one).is_ready() {
                    entered = Some((place, *number));
                    break;
                }
            }
            let (place, number) = entered.expect("somebody is inside");
            order.push(number);
            drop(waiting.remove(place));
        }
        order
    }

    struct Fifo(std::collections::VecDeque<Waiter<Self>>);

    impl Line for Fifo {
        type Ask = ();

        fn join(&mut self, (): (), waiter: Waiter<Self>) {
            self.0.push_back(waiter);
        }

        fn next(&mut self) -> Option<Waiter<Self>> {
            self.0.pop_front()
        }

        fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        fn waiting(&self) -> usize {
            self.0.iter().filter(|waiter| !waiter.is_gone()).count()
        }
    }

    #[tokio::test]
    async fn a_place_is_not_lost_with_one_who_stops_waiting() {
        let gate = Gate::new(1, Fifo(std::collections::VecDeque::new()));
        let first = gate.enter(()).await;
        let mut gone = Box::pin(gate.enter(()));
        let mut granted = Box::pin(gate.enter(()));
        let mut last = Box::pin(gate.enter(()));
        for one in [&mut gone, &mut granted, &mut last] {
            assert!(futures::poll!(one).is_pending());
        }
        assert_eq!(gate.load(), Load { places: 1, taken: 1, waiting: 3 });
        drop(gone);
        assert_eq!(gate.load(), Load { places: 1, taken: 1, waiting: 2 });
        drop(first);
        // Has the place, and never looks.
        drop(granted);
        assert!(futures::poll!(&mut last).is_ready());
        assert_eq!(gate.load(), Load { places: 1, taken: 0, waiting: 0 });
    }

    #[tokio::test]
    async fn more_places_let_in_who_waits_and_fewer_send_nobody_away() {
        let gate = Gate::new(1, Fifo(std::collections::VecDeque::new()));
        let _first = gate.enter(()).await;
        let mut second = Box::pin(gate.enter(()));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(gate.is_full());
        gate.resize(2);
        let _second = second.await;
        gate.resize(1);
        assert_eq!(gate.load(), Load { places: 1, taken: 2, waiting: 0 });
    }
}
