//! Which of an object's transfers is next.

use std::sync::Arc;

use super::claims::Claims;
use crate::gate::{Line, Waiter};
use crate::oci::Digest;

/// A blob that is to be moved.
pub(super) struct Transfer {
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
    /// The number of the item in the plan that wants it.
    pub(super) item: usize,
}

/// The transfers that wait: first those that others wait to mount, then in turn the longest, so that none is begun when all
/// the others are done, and one of the oldest item, so that images get complete.
pub(super) struct Transfers {
    claims: Arc<Claims>,
    waiting: Vec<(Transfer, Waiter<Self>)>,
    longest: bool,
}

impl Transfers {
    /// Nobody waits.
    pub(super) fn new(claims: Arc<Claims>) -> Self {
        Self { claims, waiting: Vec::new(), longest: false }
    }

    fn pick(&mut self) -> Option<usize> {
        let transfers = self.waiting.iter().map(|(transfer, _)| transfer).enumerate();
        let wanted = transfers.clone().map(|(index, transfer)| (self.claims.waiting(&transfer.digest), index));
        // Among equals the first that came.
        if let Some((_, index)) =
            wanted.filter(|(wanted, _)| *wanted > 0).max_by_key(|(wanted, index)| (*wanted, usize::MAX - index))
        {
            return Some(index);
        }
        self.longest = !self.longest;
        let best = if self.longest {
            transfers.max_by_key(|(index, transfer)| (transfer.size, usize::MAX - index))
        } else {
            transfers.min_by_key(|(index, transfer)| (transfer.item, *index))
        };
        best.map(|(index, _)| index)
    }
}

impl Line for Transfers {
    type Ask = Transfer;

    fn join(&mut self, transfer: Transfer, waiter: Waiter<Self>) {
        self.waiting.push((transfer, waiter));
    }

    fn next(&mut self) -> Option<Waiter<Self>> {
        let index = self.pick()?;
        Some(self.waiting.remove(index).1)
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn waiting(&self) -> usize {
        self.waiting.iter().filter(|(_transfer, waiter)| !waiter.is_gone()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::claims::{Sharing, Turn};
    use crate::gate::Gate;
    use crate::gate::tests::order;
    use crate::oci::Repository;

    #[tokio::test]
    async fn what_others_wait_for_comes_first_then_the_longest_and_the_oldest_in_turn() {
        let repository = |name: &str| -> Repository { format!("mirror.test/{name}").parse().unwrap() };
        let claims = Arc::new(Claims::new(Sharing::Mounts));
        let transfer = |name: &str, size, item| Transfer { digest: Digest::of(name.as_bytes()), size, item };
        let shared = Digest::of(b"shared");
        let Turn::Yours { claim: _claim, .. } = claims.turn(&repository("a"), &shared).await else {
            panic!("not ours")
        };
        let (b, c) = (repository("b"), repository("c"));
        let mut waiting = [Box::pin(claims.turn(&b, &shared)), Box::pin(claims.turn(&c, &shared))];
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let asks = vec![
            transfer("small and old", 1, 0),
            transfer("large and new", 1000, 9),
            transfer("middle", 100, 5),
            transfer("shared", 10, 7),
        ];
        let gate = Gate::new(1, Transfers::new(Arc::clone(&claims)));
        assert_eq!(order(&gate, transfer("first", 0, 0), asks).await, [3, 1, 0, 2]);
    }
}
