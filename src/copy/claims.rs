//! Who brings what: each blob is uploaded once per run, each manifest put once per repository, everybody else waits.
//!
//! Nobody waits in a circle: a claim on a manifest is held while claims on what it names are waited for, and content
//! that is named by its digest cannot name what names it. Claims on blobs are held for one transfer only.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::index::{Index, Key, key, make_room};
use crate::oci::{Digest, Repository};

/// What the repositories of one target are known to have, and what is on its way.
///
/// Guarantees: of one digest at most one upload is under way; a claim that is dropped (failure, cancellation) frees its
/// place, so that another may try. Knowledge lasts for one run only: the target is the truth. Memory: about 60 bytes for a
/// digest, about 20 for each further repository that has it, and the names of the repositories.
pub struct Claims {
    sharing: Sharing,
    state: Mutex<State>,
}

/// Whether repositories can take content from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// They can (blobs are mounted): the second repository waits for the first.
    Mounts,
    /// They cannot (manifests): each repository by itself.
    Apart,
}

/// No repository.
const NONE: u32 = u32::MAX;

#[derive(Default)]
struct State {
    digests: Index<Key>,
    repositories: Index<Repository>,
    /// The first two repositories that have the content, by digest: what it is mounted from.
    homes: Vec<[u32; 2]>,
    /// Who else has it: digest and repository.
    further: HashSet<(u32, u32)>,
    /// What is on its way, by digest.
    flights: HashMap<u32, Flight>,
    /// What repositories have taken content from, by repository: a token for that is there.
    lenders: HashMap<u32, Vec<u32>>,
}

/// One digest on its way.
#[derive(Default)]
struct Flight {
    /// Repositories that somebody is bringing it to.
    to: Vec<u32>,
    /// How many wait for one of those.
    waiting: usize,
    changed: Arc<Notify>,
}

/// What to do about one digest in one repository.
pub enum Turn<'a> {
    /// Nothing: it is there.
    Present,
    /// Bring it, and say so on the claim.
    Yours {
        /// The right to do so.
        claim: Claim<'a>,
        /// A repository of the same registry that has it.
        home: Option<Repository>,
    },
}

/// The right to bring one digest to one repository; dropping it without [`Claim::done`] gives it back.
pub struct Claim<'a> {
    claims: &'a Claims,
    repository: u32,
    digest: u32,
}

/// One who waits, until dropped.
struct Waiting<'a> {
    claims: &'a Claims,
    digest: u32,
}

/// What a look found.
enum Look<'a> {
    Turn(Turn<'a>),
    /// Somebody is bringing it. Hears of every change since the look.
    Wait(u32, OwnedNotified),
}

impl Claims {
    /// Nothing is known.
    pub fn new(sharing: Sharing) -> Self {
        Self { sharing, state: Mutex::default() }
    }

    /// Content that was found in `repository`: nobody has to bring it, and others can take it from there.
    pub fn found<'a>(&self, repository: &Repository, digests: impl Iterator<Item = &'a Digest>) {
        let mut state = self.lock();
        let repository = state.repositories.number(repository);
        for digest in digests {
            let digest = state.digest(digest);
            state.has(digest, repository);
            if let Some(flight) = state.flights.get(&digest) {
                flight.changed.notify_waiters();
            }
        }
    }

    /// Forgets what `repository` is known to have: it said that something is not there. Claims under way stay.
    pub fn forget(&self, repository: &Repository) {
        let mut state = self.lock();
        let Some(repository) = state.repositories.get(repository) else { return };
        for homes in &mut state.homes {
            *homes = match *homes {
                [first, second] if first == repository => [second, NONE],
                [first, second] if second == repository => [first, NONE],
                both => both,
            };
        }
        state.further.retain(|(_digest, other)| *other != repository);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait for somebody else to bring `digest` to a repository of theirs.
    pub(super) fn waiting(&self, digest: &Digest) -> usize {
        let state = self.lock();
        let number = state.digests.get(&key(digest));
        number.and_then(|number| state.flights.get(&number)).map_or(0, |flight| flight.waiting)
    }

    /// Waits until `digest` is in `repository` or it is the caller's turn to bring it.
    pub async fn turn(&self, repository: &Repository, digest: &Digest) -> Turn<'_> {
        loop {
            match self.look(repository, digest) {
                Look::Turn(turn) => return turn,
                Look::Wait(digest, changed) => {
                    let _waiting = Waiting { claims: self, digest };
                    changed.await;
                }
            }
        }
    }

    fn look(&self, repository: &Repository, digest: &Digest) -> Look<'_> {
        let mut state = self.lock();
        let (repository, digest) = (state.repositories.number(repository), state.digest(digest));
        if state.is_in(digest, repository) {
            return Look::Turn(Turn::Present);
        }
        let home = state.home(digest, repository);
        let flight = state.flights.entry(digest).or_default();
        // Without a home only one goes; with one, every repository may mount at the same time.
        let first = self.sharing == Sharing::Mounts && home.is_none() && !flight.to.is_empty();
        if first || flight.to.contains(&repository) {
            flight.waiting += 1;
            // `notify_waiters` reaches those that were made before it, polled or not.
            return Look::Wait(digest, Arc::clone(&flight.changed).notified_owned());
        }
        flight.to.push(repository);
        let home = home.and_then(|home| {
            let lenders = state.lenders.entry(repository).or_default();
            if !lenders.contains(&home) {
                lenders.push(home);
            }
            state.repositories.value(home).cloned()
        });
        Look::Turn(Turn::Yours { claim: Claim { claims: self, repository, digest }, home })
    }
}

impl State {
    fn digest(&mut self, digest: &Digest) -> u32 {
        let number = self.digests.number(&key(digest));
        if number as usize == self.homes.len() {
            make_room(&mut self.homes);
            self.homes.push([NONE; 2]);
        }
        number
    }

    fn homes(&self, digest: u32) -> [u32; 2] {
        self.homes.get(digest as usize).copied().unwrap_or([NONE; 2])
    }

    fn is_in(&self, digest: u32, repository: u32) -> bool {
        self.homes(digest).contains(&repository) || self.further.contains(&(digest, repository))
    }

    fn has(&mut self, digest: u32, repository: u32) {
        if self.is_in(digest, repository) {
            return;
        }
        match self.homes.get_mut(digest as usize) {
            Some([home @ NONE, _] | [_, home @ NONE]) => *home = repository,
            _ => drop(self.further.insert((digest, repository))),
        }
    }

    /// Where `repository` takes a digest from: if it can, from where it has taken others, since each further one costs a
    /// token of its own where there are tokens.
    fn home(&self, digest: u32, repository: u32) -> Option<u32> {
        let homes = self.homes(digest).into_iter().filter(|home| *home != NONE);
        let lenders = self.lenders.get(&repository).map_or(&[][..], Vec::as_slice);
        homes.min_by_key(|home| !lenders.contains(home))
    }
}

impl Claim<'_> {
    /// The content is in the repository now.
    pub fn done(self) {
        self.claims.lock().has(self.digest, self.repository);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.claims.lock();
        if let Some(flight) = state.flights.get_mut(&self.digest) {
            flight.to.retain(|repository| *repository != self.repository);
            flight.changed.notify_waiters();
            if flight.to.is_empty() && flight.waiting == 0 {
                state.flights.remove(&self.digest);
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.claims.lock();
        if let Some(flight) = state.flights.get_mut(&self.digest) {
            flight.waiting = flight.waiting.saturating_sub(1);
            if flight.to.is_empty() && flight.waiting == 0 {
                state.flights.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Repository {
        format!("mirror.test/{name}").parse().unwrap()
    }

    #[tokio::test]
    async fn the_second_repository_waits_for_the_first_and_then_mounts() {
        let claims = Claims::new(Sharing::Mounts);
        let digest = Digest::of(b"x");
        let (first, second) = (repository("a"), repository("b"));
        let Turn::Yours { claim, home: None } = claims.turn(&first, &digest).await else { panic!("not first") };
        let waiting = claims.turn(&second, &digest);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        claim.done();
        let Turn::Yours { home, .. } = waiting.await else { panic!("not ours") };
        assert_eq!(home, Some(first.clone()));
        assert!(matches!(claims.turn(&first, &digest).await, Turn::Present));
    }

    #[tokio::test]
    async fn a_dropped_claim_lets_the_next_one_try() {
        let claims = Claims::new(Sharing::Mounts);
        let digest = Digest::of(b"x");
        let first = claims.turn(&repository("a"), &digest).await;
        let second_repository = repository("b");
        let second = claims.turn(&second_repository, &digest);
        tokio::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        drop(first);
        assert!(matches!(second.await, Turn::Yours { home: None, .. }));
    }

    #[tokio::test]
    async fn what_repositories_cannot_share_is_brought_to_each_at_the_same_time() {
        let claims = Claims::new(Sharing::Apart);
        let digest = Digest::of(b"x");
        let _first = claims.turn(&repository("a"), &digest).await;
        assert!(matches!(claims.turn(&repository("b"), &digest).await, Turn::Yours { .. }));
        let again = repository("a");
        let again = claims.turn(&again, &digest);
        tokio::pin!(again);
        assert!(futures::poll!(again.as_mut()).is_pending());
    }

    #[tokio::test]
    async fn what_is_found_is_present_and_what_is_forgotten_is_brought_again() {
        let claims = Claims::new(Sharing::Mounts);
        let (digest, here) = (Digest::of(b"x"), repository("a"));
        claims.found(&here, [&digest].into_iter());
        assert!(matches!(claims.turn(&here, &digest).await, Turn::Present));
        let Turn::Yours { home, .. } = claims.turn(&repository("b"), &digest).await else { panic!("not ours") };
        assert_eq!(home.as_ref(), Some(&here));
        claims.forget(&here);
        assert!(matches!(claims.turn(&here, &digest).await, Turn::Yours { home: None, .. }));
    }

    #[tokio::test]
    async fn what_is_taken_comes_from_where_others_were_taken_if_it_can() {
        let claims = Claims::new(Sharing::Mounts);
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let (early, late, here) = (repository("a"), repository("b"), repository("c"));
        claims.found(&late, [&one, &two].into_iter());
        claims.forget(&late);
        claims.found(&late, [&one].into_iter());
        claims.found(&early, [&two].into_iter());
        claims.found(&late, [&two].into_iter());
        for digest in [&one, &two] {
            let Turn::Yours { home, claim } = claims.turn(&here, digest).await else { panic!("not ours") };
            assert_eq!(home.as_ref(), Some(&late));
            claim.done();
        }
        let Turn::Yours { home, .. } = claims.turn(&repository("d"), &two).await else { panic!("not ours") };
        assert_eq!(home.as_ref(), Some(&early));
    }

    #[tokio::test]
    async fn those_who_wait_are_counted_until_they_go() {
        let claims = Claims::new(Sharing::Mounts);
        let (digest, first, second) = (Digest::of(b"x"), repository("a"), repository("b"));
        let claim = claims.turn(&first, &digest).await;
        let mut waiting = Box::pin(claims.turn(&second, &digest));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert_eq!(claims.waiting(&digest), 1);
        drop(waiting);
        assert_eq!(claims.waiting(&digest), 0);
        drop(claim);
        assert!(claims.lock().flights.is_empty());
    }
}
