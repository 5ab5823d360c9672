//! The lease book of a process, shared by its claim loop, its attempts and the tasks that keep its leases.
//!
//! It reads the clock and locks the book. The book decides, and this file knows neither the store nor the handlers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use outbox_store::{Claim, ClaimRef, ClaimToken};

use crate::lease_book::LeaseBook;
use crate::lease_times::LeaseTimes;
use crate::lost_claims::LostClaims;

/// The leases that the worker of this process has in hand. Clones share them.
#[derive(Clone, Debug)]
pub struct LeasesInHand {
    times: LeaseTimes,
    book: Arc<Mutex<LeaseBook>>,
    lost_claims: Arc<Mutex<LostClaims>>,
    claim_was_lost: Arc<Notify>,
}

impl LeasesInHand {
    pub(crate) fn new(lease: Duration) -> Self {
        let times = LeaseTimes::new(lease);
        let book = Arc::new(Mutex::new(LeaseBook::new(times)));
        Self { times, book, lost_claims: Arc::default(), claim_was_lost: Arc::default() }
    }

    /// The tokens of the leases that this process must not end: it works on what they hold, or gives it back uncounted
    /// because the answer to their claim was lost.
    pub fn tokens(&self) -> Vec<ClaimToken> {
        let renewals = self.book().renewals(Instant::now());
        let in_book = renewals.into_iter().map(|renewal| renewal.token);
        in_book.chain(self.lost_claims().tokens()).collect()
    }

    /// What follows from the length of a lease.
    pub(crate) fn times(&self) -> LeaseTimes {
        self.times
    }

    /// Takes claimed items in hand. `sent` is a moment before the claims were requested.
    pub(crate) fn take(&self, claims: &[Claim], sent: Instant) -> Vec<ItemInHand> {
        let mut book = self.book();
        let take = |claim: &Claim| {
            let claim = claim.reference();
            ItemInHand { stop: book.add(&claim, sent), claim, leases: self.clone() }
        };
        claims.iter().map(take).collect()
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, LeaseBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lost_claims(&self) -> MutexGuard<'_, LostClaims> {
        self.lost_claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the answer to a claim with these tokens was lost.
    pub(crate) fn claim_lost(&self, tokens: &[ClaimToken]) {
        self.lost_claims().add(tokens);
        self.claim_was_lost.notify_one();
    }

    /// Returns after [`Self::claim_lost`] was called.
    pub(crate) async fn claim_was_lost(&self) {
        self.claim_was_lost.notified().await;
    }
}

/// A claimed item. It is in the lease book until it is dropped, which must be after its settlement.
#[derive(Debug)]
pub(crate) struct ItemInHand {
    leases: LeasesInHand,
    claim: ClaimRef,
    stop: CancellationToken,
}

impl ItemInHand {
    /// Cancelled when the attempt at the item must end, or must not begin.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// What follows from the length of the lease.
    pub(crate) fn times(&self) -> LeaseTimes {
        self.leases.times
    }

    /// See [`LeaseBook::begin_attempt`].
    pub(crate) fn begin_attempt(&self, now: Instant, timeout: Option<Duration>) -> Option<Instant> {
        self.leases.book().begin_attempt(&self.claim, now, timeout)
    }

    /// See [`LeaseBook::is_renewed_in_time`].
    pub(crate) fn is_renewed_in_time(&self, now: Instant) -> bool {
        self.leases.book().is_renewed_in_time(&self.claim, now)
    }

    /// See [`LeaseBook::end_attempt`].
    pub(crate) fn end_attempt(&self) {
        self.leases.book().end_attempt(&self.claim);
    }
}

impl Drop for ItemInHand {
    fn drop(&mut self) {
        self.leases.book().remove(&self.claim);
    }
}
