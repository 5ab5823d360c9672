//! Settling a claim: what becomes of the item, its history row, its signals and its host writes. How an item becomes
//! DONE is not known here.

use rusqlite::{OptionalExtension, params};

use super::complete::{Completion, complete};
use super::job::EPOCH;
use super::step::Step;
use super::{alert, saga, state, unavailable};
use crate::item::{Event, Failure, Millis, OnDead, Status, fingerprint};
use crate::saga::StepOutcome;
use crate::store::alert::is_alert;
use crate::store::{Attempted, ClaimRef, Settled, Settlement, StoreError, millis};

const TRIED: &str = "settling a claim";

pub(super) fn settle(step: &mut Step<'_>, claim: &ClaimRef, settled: &Settled) -> Result<(), StoreError> {
    let mut attempted = claimed(step, claim).map_err(unavailable(TRIED))?.ok_or(StoreError::ClaimLost)?;
    attempted.maybe_executed = settled.maybe_executed;
    attempted.handler_digest.clone_from(&settled.handler_digest);
    attempted.exchanges.clone_from(&settled.exchanges);
    let stderr = settled.stderr.as_deref();
    match &settled.settlement {
        Settlement::Done { result, writes } => {
            state::commit(step, writes)?;
            super::enqueue::enqueue_followups(step, &writes.followups)?;
            let completion = Completion::new(claim.clone(), result.clone(), settled.handler_digest.clone());
            return complete(step, &[&completion]).into_iter().collect();
        }
        Settlement::Retry { failure, delay } => write_history(step, &attempted, failure, stderr)
            .and_then(|()| put_back(step, &attempted, &PutBack::retry(failure, millis(*delay)))),
        Settlement::GiveBack { failure, delay } => write_history(step, &attempted, failure, stderr)
            .and_then(|()| put_back(step, &attempted, &PutBack::give_back(failure, millis(*delay)))),
        Settlement::Dead { failure, on_dead } => write_history(step, &attempted, failure, stderr)
            .and_then(|()| dead_letter(step, &attempted, *on_dead, failure)),
        Settlement::Release => release(step, &attempted),
    }
    .map_err(unavailable(TRIED))
}

/// The attempt, if the claim still holds.
fn claimed(step: &Step<'_>, claim: &ClaimRef) -> rusqlite::Result<Option<Attempted>> {
    let mut select = step.tx.prepare_cached(
        "SELECT type, saga, cid, attempts, deliveries, claimed_at, claimed_by, ordering_key, idem_key
         FROM outbox_items WHERE id = ?1 AND claim_token = ?2 AND status = 'CLAIMED'",
    )?;
    let attempted = |row: &rusqlite::Row<'_>| {
        Ok(Attempted {
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
struct PutBack<'a> {
    event: Event,
    failure: &'a Failure,
    delay: Millis,
}

impl<'a> PutBack<'a> {
    fn retry(failure: &'a Failure, delay: Millis) -> Self {
        Self { event: Event::Retry, failure, delay }
    }

    fn give_back(failure: &'a Failure, delay: Millis) -> Self {
        Self { event: Event::GiveBack, failure, delay }
    }

    /// By how much the attempts fall: a give-back does not count.
    fn uncounted(&self) -> u32 {
        u32::from(self.event == Event::GiveBack)
    }
}

/// A retry is always in the future, by a millisecond at least.
fn put_back(step: &mut Step<'_>, attempted: &Attempted, back: &PutBack<'_>) -> rusqlite::Result<()> {
    let Ok(status) = Status::Claimed.next(back.event) else { return Ok(()) };
    let mut update = step.tx.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {EPOCH}, available_at = ?3, last_error = ?4, handler_digest = ?5, attempts = attempts - ?6,
             maybe_executed = maybe_executed OR ?7,
             given_back_since = CASE WHEN ?6 THEN coalesce(given_back_since, ?8) END,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![
        attempted.id,
        status.as_str(),
        step.now.saturating_add(back.delay.max(1)),
        back.failure.message,
        attempted.handler_digest,
        back.uncounted(),
        attempted.maybe_executed,
        step.now
    ])?;
    step.makes_work = true;
    saga::step(step, attempted, StepOutcome::Retried, back.failure.class.as_str())
}

/// Shutdown, or a plugin that has gone: the attempt is given back without a trace.
fn release(step: &mut Step<'_>, attempted: &Attempted) -> rusqlite::Result<()> {
    let Ok(status) = Status::Claimed.next(Event::GiveBack) else { return Ok(()) };
    let mut update = step.tx.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {EPOCH}, available_at = ?3, attempts = attempts - 1, maybe_executed = maybe_executed OR ?4,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![attempted.id, status.as_str(), step.now, attempted.maybe_executed])?;
    step.makes_work = true;
    Ok(())
}

/// Moves an item to the DLQ, whether its claim is on the row or was refused to it.
pub(super) fn dead_letter(
    step: &mut Step<'_>,
    attempted: &Attempted,
    on_dead: OnDead,
    failure: &Failure,
) -> rusqlite::Result<()> {
    let Ok(status) = Status::Claimed.next(Event::DeadLetter) else { return Ok(()) };
    let mut update = step.tx.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {EPOCH}, dead_at = ?3, last_error = ?4, handler_digest = coalesce(?5, handler_digest),
             maybe_executed = maybe_executed OR ?6, blocks_key = ?7, fingerprint = ?8, given_back_since = NULL,
             claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status IN ('PENDING', 'CLAIMED')"
    ))?;
    let blocks = attempted.ordering_key.is_some() && on_dead == OnDead::Block;
    let group = fingerprint(&attempted.item_type, failure, attempted.handler_digest.as_deref());
    update.execute(params![
        attempted.id,
        status.as_str(),
        step.now,
        failure.message,
        attempted.handler_digest,
        attempted.maybe_executed,
        blocks,
        group
    ])?;
    step.makes_work |= attempted.ordering_key.is_some();
    alert::dead(step, attempted, failure, blocks)?;
    saga::step(step, attempted, StepOutcome::Dead, failure.class.as_str())
}

/// One row of history for an attempt that did not end DONE.
pub(super) fn write_history(
    step: &mut Step<'_>,
    attempted: &Attempted,
    failure: &Failure,
    stderr: Option<&str>,
) -> rusqlite::Result<()> {
    let mut insert = step.tx.prepare_cached(
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
        step.now,
        attempted.pod,
        failure.class.as_str(),
        failure.code,
        failure.message,
        stderr,
        attempted.handler_digest,
        attempted.maybe_executed,
        attempted.exchanges
    ])?;
    step.tally("attempt", "", &attempted.item_type, failure.class.as_str(), 1);
    Ok(())
}
