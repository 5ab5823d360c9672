//! What a claim has come to so far, and what it may still take.
//!
//! It takes no items itself: `claim` and `suspects` do.

use std::time::Duration;

use rusqlite::params;

use outbox_item::Millis;
use outbox_store::{Claim, ClaimBatch, ClaimTerms};

use crate::claim_limits;
use crate::rows::optional_time;
use crate::write_tx::WriteTx;

/// Items that one transaction dead-letters because they have no attempt left or cannot be read, so that it stays short.
/// The next claim goes on.
const DROPPED_MAX: u32 = 250;

/// What a call has come to so far.
#[derive(Default)]
pub(crate) struct ClaimProgress {
    pub(crate) batch: ClaimBatch,
    /// Whether the queue has items with a fairness key.
    pub(crate) are_shared: bool,
    /// Items that left the queue without being claimed.
    dropped: u32,
}

impl ClaimProgress {
    /// No claims yet. `are_shared` says whether the queue has items with a fairness key.
    pub(crate) fn new(are_shared: bool) -> Self {
        Self { are_shared, ..Self::default() }
    }

    /// How many more items may turn out to be none that can be claimed.
    pub(crate) fn droppable(&self) -> u32 {
        DROPPED_MAX.saturating_sub(self.dropped)
    }

    /// Adds the claims of `taken` items. Returns how many claims there are.
    pub(crate) fn add(&mut self, taken: usize, claims: Vec<Claim>) -> u32 {
        let claimed = count(claims.len());
        self.dropped = self.dropped.saturating_add(count(taken).saturating_sub(claimed));
        if self.batch.claims.is_empty() {
            self.batch.claims = claims;
        } else {
            self.batch.claims.extend(claims);
        }
        claimed
    }
}

pub(crate) fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

/// How long until the due time that the statement finds for the type `?1` after the time `?2`; `None` if it finds none.
pub(crate) fn until_next(tx: &WriteTx<'_>, sql: &str, terms: &ClaimTerms) -> rusqlite::Result<Option<Duration>> {
    let mut select = tx.connection.prepare_cached(sql)?;
    let next = select.query_row(params![terms.item_type, tx.now.get()], |row| optional_time(row, 0))?;
    Ok(next.map(|at: Millis| at.since(tx.now)))
}

/// Lowers `next_available_in` to the shortest of these times.
pub(crate) fn wait_at_most<const N: usize>(claimed: &mut ClaimBatch, times: [Option<Duration>; N]) {
    claimed.next_available_in = times.into_iter().chain([claimed.next_available_in]).flatten().min();
}

/// How many more items of the type this call may claim.
pub(crate) fn allowed(tx: &WriteTx<'_>, terms: &ClaimTerms, claimed: &ClaimBatch) -> rusqlite::Result<u32> {
    let of_type = claimed.claims.iter().filter(|claim| claim.item.item_type == terms.item_type).count();
    Ok(terms.limit.saturating_sub(count(of_type)).min(claim_limits::free(tx, terms)?))
}
