//! Who brings what: each blob is uploaded once per run, each manifest put once per repository, everybody else waits.
//!
//! Nobody waits in a circle: a claim on a manifest is held while claims on what it names are waited for, and content
//! that is named by its digest cannot name what names it. Claims on blobs are held for one transfer only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::oci::{Digest, Repository};

/// What one repository of the target is known to have, and what is on its way.
///
/// Guarantees: of one digest at most one upload is under way; a claim that is dropped (failure, cancellation) frees its
/// place, so that another may try. Knowledge lasts for one run only: the target is the truth.
pub(super) struct Claims {
    sharing: Sharing,
    state: Mutex<State>,
    changed: Notify,
}

/// Whether repositories can take content from each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// They can (blobs are mounted): the second repository waits for the first.
    Mounts,
    /// They cannot (manifests): each repository by itself.
    Apart,
}

#[derive(Default)]
struct State {
    /// Repositories that have the content, by digest.
    homes: BTreeMap<Digest, BTreeSet<Repository>>,
    /// Repositories that somebody is bringing the content to.
    inflight: BTreeMap<Digest, BTreeSet<Repository>>,
}

/// What to do about one digest in one repository.
pub(super) enum Turn<'a> {
    /// Nothing: it is there.
    Present,
    /// Bring it, and say so on the claim. `home` is a repository of the same registry that has it.
    Yours { claim: Claim<'a>, home: Option<Repository> },
}

/// The right to bring one digest to one repository; dropping it without [`Claim::done`] gives it back.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    repository: Repository,
    digest: Digest,
}

impl Claims {
    pub(super) fn new(sharing: Sharing) -> Self {
        Self { sharing, state: Mutex::default(), changed: Notify::new() }
    }

    /// Content that was found in `repository`: nobody has to bring it, and others can take it from there.
    pub(super) fn found<'a>(&self, repository: &Repository, digests: impl Iterator<Item = &'a Digest>) {
        let mut state = self.lock();
        for digest in digests {
            state.homes.entry(digest.clone()).or_default().insert(repository.clone());
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Forgets what `repository` is known to have: it said that something is not there. Claims under way stay.
    pub(super) fn forget(&self, repository: &Repository) {
        self.lock().homes.retain(|_digest, homes| {
            homes.remove(repository);
            !homes.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `digest` is in `repository` or it is the caller's turn to bring it.
    pub(super) async fn turn(&self, repository: &Repository, digest: &Digest) -> Turn<'_> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no change in between is missed.
            changed.as_mut().enable();
            if let Some(turn) = self.look(repository, digest) {
                return turn;
            }
            changed.await;
        }
    }

    fn look(&self, repository: &Repository, digest: &Digest) -> Option<Turn<'_>> {
        let mut state = self.lock();
        let home = match state.homes.get(digest) {
            Some(homes) if homes.contains(repository) => return Some(Turn::Present),
            Some(homes) => homes.first().cloned(),
            None => None,
        };
        let inflight = state.inflight.entry(digest.clone()).or_default();
        // Without a home only one goes; with one, every repository may mount at the same time.
        let first = self.sharing == Sharing::Mounts && home.is_none() && !inflight.is_empty();
        if first || inflight.contains(repository) {
            return None;
        }
        inflight.insert(repository.clone());
        let claim = Claim { claims: self, repository: repository.clone(), digest: digest.clone() };
        Some(Turn::Yours { claim, home })
    }
}

impl Claim<'_> {
    /// The content is in the repository now.
    pub(super) fn done(self) {
        self.claims.lock().homes.entry(self.digest.clone()).or_default().insert(self.repository.clone());
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.claims.lock();
        if let Some(inflight) = state.inflight.get_mut(&self.digest) {
            inflight.remove(&self.repository);
            if inflight.is_empty() {
                state.inflight.remove(&self.digest);
            }
        }
        drop(state);
        self.claims.changed.notify_waiters();
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
}
