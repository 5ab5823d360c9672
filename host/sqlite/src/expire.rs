//! Ends leases that ran out.
//!
//! It knows the claim's row and its history. Who calls it, and how often, is the caller's.

use rusqlite::params;

use outbox_core::saga::StepOutcome;
use outbox_core::{ClaimEndKind, Failure, FailureClass};
use outbox_store::StoreError;
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};

use crate::error::{unavailable, unusable};
use crate::rows::{self, COLUMNS};
use crate::saga_signals;
use crate::settle::write_history;
use crate::write_tx::{NEWEST_JOB_SQL, WriteTx};

/// Expired leases that one transaction ends, so that it stays short; the rest follow in the next.
const EXPIRE_MAX: u32 = 100;

/// Ends a batch of leases that have run out, of any type: the item is PENDING again at once, and its history says
/// that the attempt was lost. Returns how many leases it ended.
pub(crate) fn expire_leases(tx: &mut WriteTx<'_>) -> Result<u32, StoreError> {
    let expired = expired(tx).map_err(unavailable("finding expired leases"))?;
    for attempted in &expired {
        expire_claim(tx, attempted).map_err(unavailable("ending an expired lease"))?;
    }
    tx.wakes_workers |= !expired.is_empty();
    Ok(u32::try_from(expired.len()).unwrap_or(u32::MAX))
}

fn expired(tx: &WriteTx<'_>) -> rusqlite::Result<Vec<AttemptRecord>> {
    let mut select = tx.connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM outbox_items
         WHERE status = 'CLAIMED' AND lease_until <= ?1 ORDER BY lease_until LIMIT ?2"
    ))?;
    let attempted = |row: &rusqlite::Row<'_>| {
        let item = rows::item(row)?.item;
        let claimed = ClaimedItem::of_row(&item).map_err(unusable)?;
        Ok(AttemptRecord { maybe_executed: true, ..AttemptRecord::from_claim(&claimed) })
    };
    select.query_map(params![tx.now.get(), EXPIRE_MAX], attempted)?.collect()
}

fn expire_claim(tx: &mut WriteTx<'_>, attempted: &AttemptRecord) -> rusqlite::Result<()> {
    let message = format!("the lease ended before {} settled the attempt: it died or was suspended", attempted.pod);
    let failure = Failure::new(FailureClass::Lost, "lease.expired", message);
    end_lease(tx, attempted, &failure)
}

/// The claim ends without a settlement: PENDING at once, with `failure` in the history.
pub(crate) fn end_lease(tx: &mut WriteTx<'_>, attempted: &AttemptRecord, failure: &Failure) -> rusqlite::Result<()> {
    write_history(tx, attempted, failure, None)?;
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL},
             available_at = ?3, maybe_executed = 1, last_error = ?4, given_back_since = NULL,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![
        attempted.id.get(),
        ClaimEndKind::Expire.status().as_str(),
        tx.now.get(),
        failure.message
    ])?;
    saga_signals::advance_run(tx, attempted, StepOutcome::Retried, failure.class.as_str())
}
