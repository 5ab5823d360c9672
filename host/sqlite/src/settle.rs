//! Settles every claim except one that ends DONE without host writes: the item's row, history, signals and host writes.
//!
//! `complete` knows how an item becomes DONE. This file does not decide about retries: the settlement does.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use outbox_core::saga::StepOutcome;
use outbox_core::{ClaimEndKind, Failure, OnDead, Settlement, fingerprint};
use outbox_store::engine::attempt_record::{AttemptRecord, is_alert};
use outbox_store::engine::counters::Counter;
use outbox_store::{ClaimRef, SettleRequest, StoreError};

use crate::complete::{CompletionRow, complete};
use crate::error::unavailable;
use crate::rows::time;
use crate::write_tx::{NEWEST_JOB_SQL, WriteTx};
use crate::{alerts, enqueue, plugin_state, saga_signals};

const TRIED: &str = "settling a claim";

/// Settles the claim. Errors with [`StoreError::ClaimLost`] when its token is no longer on the row.
pub(crate) fn settle(tx: &mut WriteTx<'_>, claim: &ClaimRef, request: &SettleRequest) -> Result<(), StoreError> {
    let mut attempted = claimed(tx, claim).map_err(unavailable(TRIED))?.ok_or(StoreError::ClaimLost)?;
    attempted.maybe_executed = request.maybe_executed;
    attempted.handler_digest.clone_from(&request.handler_digest);
    attempted.exchanges.clone_from(&request.exchanges);
    let stderr = request.stderr.as_deref();
    match &request.settlement {
        Settlement::Done { result, writes } => {
            plugin_state::commit(tx, writes)?;
            enqueue::enqueue_followups(tx, &writes.followups)?;
            let completion = CompletionRow::new(claim.clone(), result.clone(), request.handler_digest.clone());
            return complete(tx, &[&completion]).into_iter().collect();
        }
        Settlement::Retry { failure, delay } => write_history(tx, &attempted, failure, stderr)
            .and_then(|()| requeue(tx, &attempted, &Requeue::retry(failure, *delay))),
        Settlement::GiveBack { failure, delay } => write_history(tx, &attempted, failure, stderr)
            .and_then(|()| requeue(tx, &attempted, &Requeue::give_back(failure, *delay))),
        Settlement::Dead { failure, on_dead } => {
            write_history(tx, &attempted, failure, stderr).and_then(|()| dead_letter(tx, &attempted, *on_dead, failure))
        }
        Settlement::Release => release(tx, &attempted),
    }
    .map_err(unavailable(TRIED))
}

/// The attempt, if the claim still holds.
fn claimed(tx: &WriteTx<'_>, claim: &ClaimRef) -> rusqlite::Result<Option<AttemptRecord>> {
    let mut select = tx.connection.prepare_cached(
        "SELECT type, saga, cid, attempts, deliveries, claimed_at, claimed_by, ordering_key, idem_key
         FROM outbox_items WHERE id = ?1 AND claim_token = ?2 AND status = 'CLAIMED'",
    )?;
    let attempted = |row: &rusqlite::Row<'_>| {
        Ok(AttemptRecord {
            id: claim.id,
            item_type: row.get(0)?,
            saga: row.get(1)?,
            cid: row.get(2)?,
            attempt: row.get(3)?,
            delivery: row.get(4)?,
            started_at: time(row, 5)?,
            pod: row.get(6)?,
            maybe_executed: false,
            handler_digest: None,
            exchanges: None,
            ordering_key: row.get(7)?,
            is_alert: is_alert(row.get_ref(8)?.as_str()?),
        })
    };
    select.query_row(params![claim.id.get(), claim.token.as_str()], attempted).optional()
}

/// How an item returns to PENDING after a failure.
struct Requeue<'a> {
    kind: ClaimEndKind,
    failure: &'a Failure,
    delay: Duration,
}

impl<'a> Requeue<'a> {
    fn retry(failure: &'a Failure, delay: Duration) -> Self {
        Self { kind: ClaimEndKind::Retry, failure, delay }
    }

    fn give_back(failure: &'a Failure, delay: Duration) -> Self {
        Self { kind: ClaimEndKind::GiveBack, failure, delay }
    }

    /// What the end subtracts from `attempts`: 1 when the attempt does not count.
    fn attempts_to_subtract(&self) -> u32 {
        u32::from(self.kind == ClaimEndKind::GiveBack)
    }
}

/// Writes the row. The next attempt is at least one millisecond in the future.
fn requeue(tx: &mut WriteTx<'_>, attempted: &AttemptRecord, requeue: &Requeue<'_>) -> rusqlite::Result<()> {
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL},
             available_at = ?3, last_error = ?4, handler_digest = ?5, attempts = attempts - ?6,
             maybe_executed = maybe_executed OR ?7,
             given_back_since = CASE WHEN ?6 THEN coalesce(given_back_since, ?8) END,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![
        attempted.id.get(),
        requeue.kind.status().as_str(),
        tx.now.saturating_add(requeue.delay.max(Duration::from_millis(1))).get(),
        requeue.failure.message,
        attempted.handler_digest,
        requeue.attempts_to_subtract(),
        attempted.maybe_executed,
        tx.now.get()
    ])?;
    tx.wakes_workers = true;
    saga_signals::advance_run(tx, attempted, StepOutcome::Retried, requeue.failure.class.as_str())
}

/// Releases the claim of an attempt that never ran to its end (shutdown, or the plugin was removed): no history row,
/// and the attempt does not count.
fn release(tx: &mut WriteTx<'_>, attempted: &AttemptRecord) -> rusqlite::Result<()> {
    let status = ClaimEndKind::GiveBack.status();
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL},
             available_at = ?3, attempts = attempts - 1, maybe_executed = maybe_executed OR ?4,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![attempted.id.get(), status.as_str(), tx.now.get(), attempted.maybe_executed])?;
    tx.wakes_workers = true;
    Ok(())
}

/// Moves an item to the DLQ. The item is CLAIMED, or PENDING when a claim found that it has no retries left.
pub(crate) fn dead_letter(
    tx: &mut WriteTx<'_>,
    attempted: &AttemptRecord,
    on_dead: OnDead,
    failure: &Failure,
) -> rusqlite::Result<()> {
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL},
             dead_at = ?3, last_error = ?4, handler_digest = coalesce(?5, handler_digest),
             maybe_executed = maybe_executed OR ?6, blocks_key = ?7, fingerprint = ?8, given_back_since = NULL,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status IN ('PENDING', 'CLAIMED')"
    ))?;
    let blocks = attempted.ordering_key.is_some() && on_dead == OnDead::Block;
    let group = fingerprint(&attempted.item_type, failure, attempted.handler_digest.as_deref());
    update.execute(params![
        attempted.id.get(),
        ClaimEndKind::DeadLetter.status().as_str(),
        tx.now.get(),
        failure.message,
        attempted.handler_digest,
        attempted.maybe_executed,
        blocks,
        group
    ])?;
    tx.wakes_workers |= attempted.ordering_key.is_some();
    alerts::dead_lettered(tx, attempted, failure, blocks)?;
    saga_signals::advance_run(tx, attempted, StepOutcome::Dead, failure.class.as_str())
}

/// Writes the history row of an attempt that did not end DONE, and counts it.
pub(crate) fn write_history(
    tx: &mut WriteTx<'_>,
    attempted: &AttemptRecord,
    failure: &Failure,
    stderr: Option<&str>,
) -> rusqlite::Result<()> {
    let mut insert = tx.connection.prepare_cached(
        "INSERT INTO outbox_attempts
             (item_id, delivery, attempt, started_at, ended_at, pod, class, code, message, stderr,
              handler_digest, maybe_executed, exchanges)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    insert.execute(params![
        attempted.id.get(),
        attempted.delivery,
        attempted.attempt,
        attempted.started_at.get(),
        tx.now.get(),
        attempted.pod,
        failure.class.as_str(),
        failure.code,
        failure.message,
        stderr,
        attempted.handler_digest,
        attempted.maybe_executed,
        attempted.exchanges
    ])?;
    tx.count(Counter::Attempt { item_type: &attempted.item_type, outcome: failure.class.as_str() }, 1);
    Ok(())
}
