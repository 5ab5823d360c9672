//! Settling a claim: what becomes of the item, its history row, its signals and its host writes. How an item becomes
//! DONE is not known here.

use rusqlite::{OptionalExtension, params};

use crate::complete::{CompletionRow, complete};
use crate::jobs::NEWEST_JOB_SQL;
use crate::write_tx::WriteTx;
use crate::{alerts, plugin_state, saga_signals, unavailable};
use outbox_core::saga::StepOutcome;
use outbox_core::{Failure, OnDead, Settlement, fingerprint};
use outbox_item::{Millis, Status, Transition};
use outbox_store::engine::alerts::is_alert;
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::millis;
use outbox_store::{ClaimRef, SettleRequest, StoreError};

const TRIED: &str = "settling a claim";

pub(crate) fn settle(tx: &mut WriteTx<'_>, claim: &ClaimRef, request: &SettleRequest) -> Result<(), StoreError> {
    let mut attempted = claimed(tx, claim).map_err(unavailable(TRIED))?.ok_or(StoreError::ClaimLost)?;
    attempted.maybe_executed = request.maybe_executed;
    attempted.handler_digest.clone_from(&request.handler_digest);
    attempted.exchanges.clone_from(&request.exchanges);
    let stderr = request.stderr.as_deref();
    match &request.settlement {
        Settlement::Done { result, writes } => {
            plugin_state::commit(tx, writes)?;
            crate::enqueue::enqueue_followups(tx, &writes.followups)?;
            let completion = CompletionRow::new(claim.clone(), result.clone(), request.handler_digest.clone());
            return complete(tx, &[&completion]).into_iter().collect();
        }
        Settlement::Retry { failure, delay } => write_history(tx, &attempted, failure, stderr)
            .and_then(|()| requeue(tx, &attempted, &Requeue::retry(failure, millis(*delay)))),
        Settlement::GiveBack { failure, delay } => write_history(tx, &attempted, failure, stderr)
            .and_then(|()| requeue(tx, &attempted, &Requeue::give_back(failure, millis(*delay)))),
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
            started_at: row.get(5)?,
            pod: row.get(6)?,
            maybe_executed: false,
            handler_digest: None,
            exchanges: None,
            ordering_key: row.get(7)?,
            is_alert: is_alert(row.get_ref(8)?.as_str()?),
        })
    };
    select.query_row(params![claim.id, claim.token], attempted).optional()
}

/// How an item goes back to PENDING after a failure.
struct Requeue<'a> {
    transition: Transition,
    failure: &'a Failure,
    delay: Millis,
}

impl<'a> Requeue<'a> {
    fn retry(failure: &'a Failure, delay: Millis) -> Self {
        Self { transition: Transition::Retry, failure, delay }
    }

    fn give_back(failure: &'a Failure, delay: Millis) -> Self {
        Self { transition: Transition::GiveBack, failure, delay }
    }

    /// By how much the attempts fall: a give-back does not count.
    fn attempts_to_subtract(&self) -> u32 {
        u32::from(self.transition == Transition::GiveBack)
    }
}

/// A retry is always in the future, by a millisecond at least.
fn requeue(tx: &mut WriteTx<'_>, attempted: &AttemptRecord, requeue: &Requeue<'_>) -> rusqlite::Result<()> {
    let Ok(status) = Status::Claimed.next(requeue.transition) else { return Ok(()) };
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL}, available_at = ?3, last_error = ?4, handler_digest = ?5, attempts = attempts - ?6,
             maybe_executed = maybe_executed OR ?7,
             given_back_since = CASE WHEN ?6 THEN coalesce(given_back_since, ?8) END,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![
        attempted.id,
        status.as_str(),
        tx.now.saturating_add(requeue.delay.max(1)),
        requeue.failure.message,
        attempted.handler_digest,
        requeue.attempts_to_subtract(),
        attempted.maybe_executed,
        tx.now
    ])?;
    tx.wakes_workers = true;
    saga_signals::advance_run(tx, attempted, StepOutcome::Retried, requeue.failure.class.as_str())
}

/// Shutdown, or a plugin that has gone: the attempt is given back without a trace.
fn release(tx: &mut WriteTx<'_>, attempted: &AttemptRecord) -> rusqlite::Result<()> {
    let Ok(status) = Status::Claimed.next(Transition::GiveBack) else { return Ok(()) };
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL}, available_at = ?3, attempts = attempts - 1, maybe_executed = maybe_executed OR ?4,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![attempted.id, status.as_str(), tx.now, attempted.maybe_executed])?;
    tx.wakes_workers = true;
    Ok(())
}

/// Moves an item to the DLQ, whether its claim is on the row or was refused to it.
pub(crate) fn dead_letter(
    tx: &mut WriteTx<'_>,
    attempted: &AttemptRecord,
    on_dead: OnDead,
    failure: &Failure,
) -> rusqlite::Result<()> {
    let Ok(status) = Status::Claimed.next(Transition::DeadLetter) else { return Ok(()) };
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL}, dead_at = ?3, last_error = ?4, handler_digest = coalesce(?5, handler_digest),
             maybe_executed = maybe_executed OR ?6, blocks_key = ?7, fingerprint = ?8, given_back_since = NULL,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status IN ('PENDING', 'CLAIMED')"
    ))?;
    let blocks = attempted.ordering_key.is_some() && on_dead == OnDead::Block;
    let group = fingerprint(&attempted.item_type, failure, attempted.handler_digest.as_deref());
    update.execute(params![
        attempted.id,
        status.as_str(),
        tx.now,
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

/// One row of history for an attempt that did not end DONE.
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
        attempted.id,
        attempted.delivery,
        attempted.attempt,
        attempted.started_at,
        tx.now,
        attempted.pod,
        failure.class.as_str(),
        failure.code,
        failure.message,
        stderr,
        attempted.handler_digest,
        attempted.maybe_executed,
        attempted.exchanges
    ])?;
    tx.count("attempt", "", &attempted.item_type, failure.class.as_str(), 1);
    Ok(())
}
