//! Whether a host is there at all, and how much of what it is asked may be asked again.

use std::time::Duration;

use tokio::time::Instant;

use crate::registry::{Problem, Trouble};

/// Failures in a row, without an answer in between, after which a host counts as down.
const DOWN_AFTER: u32 = 4;
/// The time between two looks at a host that is down: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// What one request that was answered adds to what may be asked again.
const EARNED: f64 = 0.1;
/// How many requests may be asked again to begin with, and at most.
const RESERVE: f64 = 50.0;
/// With nothing left, one request in this time may be asked again.
const TRICKLE: Duration = Duration::from_secs(1);

/// What to do with a request.
#[derive(Debug, PartialEq)]
pub(super) enum Admission {
    /// Make it.
    Go,
    /// Wait until then, or until something has changed.
    Wait(Instant),
    /// The host has been down for too long: this is what it failed with.
    Down(Problem),
}

#[derive(Debug)]
struct Down {
    since: Instant,
    problem: Problem,
    look_at: Instant,
    pause: Duration,
    /// Somebody is looking.
    looking: bool,
    /// What the last look was at.
    looked_at: Option<Subject>,
}

/// Tells one thing that is asked for from others, however often it is asked for.
pub(super) type Subject = u64;

/// What is known about the health of one host.
#[derive(Debug)]
pub(super) struct Health {
    /// It has answered before: then it is waited for.
    known: bool,
    failures: u32,
    /// What failed first since the last answer, and whether something else did too: one thing alone that is never answered
    /// need not be the host.
    failed: Option<Subject>,
    several: bool,
    down: Option<Down>,
    reserve: f64,
    trickled: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self { known: false, failures: 0, failed: None, several: false, down: None, reserve: RESERVE, trickled: None }
    }
}

impl Health {
    /// Whether a request may be made. Of a host that is down only one at a time is, now and then, whoever it is.
    pub(super) fn admit(&mut self, now: Instant, subject: Subject, patience: Duration) -> Admission {
        let Some(down) = &mut self.down else { return Admission::Go };
        // What was looked at in vain lets others go first.
        let look_at = if down.looked_at == Some(subject) { down.look_at + LOOK.0 } else { down.look_at };
        if !down.looking && now >= look_at {
            (down.looking, down.looked_at) = (true, Some(subject));
            return Admission::Go;
        }
        let end = down.since + patience;
        if now >= end {
            return Admission::Down(down.problem.clone());
        }
        // Whoever looks may be dropped, and is then followed by another.
        if down.looking { Admission::Wait(end.min(now + LOOK.1)) } else { Admission::Wait(end.min(look_at)) }
    }

    /// A request was answered, whatever the answer.
    pub(super) fn answered(&mut self) {
        self.known = true;
        (self.failures, self.failed, self.several) = (0, None, false);
        self.down = None;
        self.reserve = (self.reserve + EARNED).min(RESERVE);
    }

    /// A request was not answered, or by something before the host that cannot reach it.
    pub(super) fn failed(&mut self, now: Instant, subject: Subject, problem: &Problem, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.several |= *self.failed.get_or_insert(subject) != subject;
        // Without a connection it is the host, whatever was asked for.
        self.several |= matches!(problem, Problem::Unreachable(Trouble::Connect | Trouble::Name));
        let told = match problem {
            Problem::Status { after, .. } => after.unwrap_or_default().min(LOOK.1),
            _ => Duration::ZERO,
        };
        if let Some(down) = &mut self.down {
            if down.looking {
                down.pause = (down.pause * 2).min(LOOK.1);
                down.look_at = now + down.pause.mul_f64(0.5 + jitter / 2.0).max(told);
                down.looking = false;
            }
            down.problem = problem.clone();
        } else if self.known && self.several && self.failures >= DOWN_AFTER {
            let look_at = now + LOOK.0.max(told);
            self.down = Some(Down {
                since: now,
                problem: problem.clone(),
                look_at,
                pause: LOOK.0,
                looking: false,
                looked_at: None,
            });
        }
    }

    /// Nobody knows how a request ended: whoever made it has gone.
    pub(super) fn unknown(&mut self) {
        if let Some(down) = &mut self.down {
            (down.looking, down.looked_at) = (false, None);
        }
    }

    /// True while the host counts as down.
    pub(super) fn is_down(&self) -> bool {
        self.down.is_some()
    }

    /// True while the host is down and is still waited for.
    pub(super) fn is_awaited(&self, now: Instant, patience: Duration) -> bool {
        self.down.as_ref().is_some_and(|down| now < down.since + patience)
    }

    /// Takes the right to make a failed request again; or when to ask for it again.
    pub(super) fn again(&mut self, now: Instant) -> Result<(), Instant> {
        if self.down.is_some() {
            // One at a time, as it is.
            return Ok(());
        }
        if self.reserve >= 1.0 {
            self.reserve -= 1.0;
            return Ok(());
        }
        match self.trickled.map(|last| last + TRICKLE).filter(|next| *next > now) {
            Some(next) => Err(next),
            None => {
                self.trickled = Some(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(15);
    const CUT: Problem = Problem::Unreachable(Trouble::Cut);

    fn broken(now: Instant) -> Health {
        let mut health = Health::default();
        health.answered();
        for subject in 0..DOWN_AFTER {
            assert_eq!(health.admit(now, subject.into(), PATIENCE), Admission::Go);
            health.failed(now, subject.into(), &CUT, 1.0);
        }
        health
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_down_is_looked_at_by_one_at_a_time_and_ever_more_rarely() {
        let start = Instant::now();
        let mut health = broken(start);
        assert!(health.is_down());
        let (mut now, mut looks) = (start, 0);
        while now < start + PATIENCE {
            match health.admit(now, looks, PATIENCE) {
                Admission::Go => {
                    looks += 1;
                    // A second one has to wait.
                    assert!(matches!(health.admit(now, 0, PATIENCE), Admission::Wait(_)));
                    health.failed(now, looks, &CUT, 1.0);
                }
                Admission::Wait(until) => now = until,
                Admission::Down(_) => unreachable!("not yet"),
            }
        }
        assert!((30..50).contains(&looks), "{looks}");
        assert_eq!(health.admit(now, 1, PATIENCE), Admission::Down(CUT));
        // It may come back all the same.
        assert_eq!(health.admit(now + LOOK.1, 1, PATIENCE), Admission::Go);
        health.answered();
        assert_eq!(health.admit(now, 1, PATIENCE), Admission::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_never_answered_is_not_waited_for() {
        let (mut health, now) = (Health::default(), Instant::now());
        for subject in 0..100 {
            health.failed(now, subject, &CUT, 1.0);
        }
        assert_eq!(health.admit(now, 1, PATIENCE), Admission::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn single_failures_between_answers_do_not_take_a_host_down() {
        let (mut health, now) = (Health::default(), Instant::now());
        for subject in 0..100 {
            health.answered();
            health.failed(now, subject, &CUT, 1.0);
        }
        assert!(!health.is_down());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_looks_and_goes_away_is_followed_by_another() {
        let start = Instant::now();
        let mut health = broken(start);
        let now = start + LOOK.0;
        assert_eq!(health.admit(now, 1, PATIENCE), Admission::Go);
        health.unknown();
        assert_eq!(health.admit(now, 1, PATIENCE), Admission::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_asked_again_is_a_tenth_of_what_is_answered_and_a_trickle() {
        let (mut health, start) = (Health::default(), Instant::now());
        let again = |health: &mut Health, now| health.again(now).is_ok();
        let reserve = (0..1000).filter(|_| again(&mut health, start)).count();
        // The reserve, and the first of the trickle.
        assert_eq!(reserve, 51);
        for _ in 0..105 {
            health.answered();
        }
        assert_eq!((0..1000).filter(|_| again(&mut health, start)).count(), 10);
        assert_eq!(health.again(start), Err(start + TRICKLE));
        assert_eq!(health.again(start + TRICKLE), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_thing_that_is_never_answered_does_not_take_a_host_down_unless_nothing_gets_through() {
        let now = Instant::now();
        for (problem, down) in [(CUT, false), (Problem::Unreachable(Trouble::Connect), true)] {
            let mut health = Health::default();
            health.answered();
            for _ in 0..100 {
                health.failed(now, 7, &problem, 1.0);
            }
            assert_eq!(health.is_down(), down, "{problem:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_looked_at_in_vain_lets_others_go_first() {
        let start = Instant::now();
        let mut health = broken(start);
        let now = start + LOOK.0;
        assert_eq!(health.admit(now, 7, PATIENCE), Admission::Go);
        health.failed(now, 7, &CUT, 1.0);
        let now = now + LOOK.0 * 2;
        assert_eq!(health.admit(now, 7, PATIENCE), Admission::Wait(now + LOOK.0));
        assert_eq!(health.admit(now, 8, PATIENCE), Admission::Go);
    }
}
