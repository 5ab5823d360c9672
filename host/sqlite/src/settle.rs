//! Settles every claim except one that ends DONE without host writes: the item's place, history, signals and host
//! writes.
//!
//! `complete` knows how an item becomes DONE, and `places` how an item moves. This file does not decide about retries:
//! the settlement does.

use rusqlite::{OptionalExtension as _, params};

use outbox_core::saga::StepOutcome;
use outbox_core::{AttemptTrace, ClaimedPast, Destination, Failure, HostWrites, ItemMove, OnDead, Past, Settlement};
use outbox_item::{ItemId, Millis};
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::counters::Counter;
use outbox_store::{ClaimRef, ClaimToken, SettleRequest, StoreError};

use crate::complete::{CompletionRow, complete};
use crate::error::unavailable;
use crate::leases::{LeasedItem, leased_item, leave_lease, leave_with_items};
use crate::places::arrive;
use crate::write_tx::WriteTx;
use crate::{alerts, enqueue, ordering, plugin_state, saga_signals};

const TRIED: &str = "settling a claim";

/// Settles the claim. Errors with [`StoreError::ClaimLost`] when the item is no longer in the claim's lease, and with
/// [`StoreError::OutOfTurn`] when an earlier item of its streak is.
pub(crate) fn settle(tx: &mut WriteTx<'_>, claim: &ClaimRef, request: &SettleRequest) -> Result<(), StoreError> {
    let leased = leased_item(tx, claim).map_err(unavailable(TRIED))?.ok_or(StoreError::ClaimLost)?;
    if request.settlement != Settlement::Release && !is_in_turn(tx, &leased.attempt).map_err(unavailable(TRIED))? {
        return Err(StoreError::OutOfTurn);
    }
    match &request.settlement {
        Settlement::Done { result, writes } => {
            commit_writes(tx, claim.id, writes)?;
            let completion = CompletionRow::new(claim.clone(), result.clone(), request.handler_digest.clone());
            complete(tx, &[&completion]).into_iter().collect()
        }
        _ => end_claim(tx, leased, request).map_err(unavailable(TRIED)),
    }
}

fn is_in_turn(tx: &WriteTx<'_>, attempt: &AttemptRecord) -> rusqlite::Result<bool> {
    ordering::is_in_turn(tx, attempt.id, attempt.ordering_key.as_deref())
}

fn commit_writes(tx: &mut WriteTx<'_>, id: ItemId, writes: &HostWrites) -> Result<(), StoreError> {
    plugin_state::commit(tx, writes)?;
    enqueue::enqueue_followups(tx, id, writes)
}

/// Ends a claim that did not end DONE.
fn end_claim(tx: &mut WriteTx<'_>, leased: LeasedItem, request: &SettleRequest) -> rusqlite::Result<()> {
    leave_lease(tx, leased.token, vec![leased.attempt.id])?;
    give_back_behind(tx, &leased, &[])?;
    let mut attempted = AttemptRecord {
        maybe_executed: request.maybe_executed,
        handler_digest: request.handler_digest.clone(),
        exchanges: request.exchanges.clone(),
        ..leased.attempt
    };
    if let Some(failure) = request.settlement.failure() {
        // The row before is of an attempt that was given back in the same life of the item.
        if matches!(request.settlement, Settlement::GiveBack { .. }) && leased.past.give_backs > 0 {
            begin_where_equal_one_began(tx, &mut attempted, failure)?;
        }
        write_history(tx, &attempted, failure, request.stderr.as_deref())?;
    }
    match &request.settlement {
        Settlement::Dead { failure, on_dead } => dead_letter(tx, &attempted, &leased.past, *on_dead, failure),
        settlement => requeue(tx, &attempted, &leased.past, settlement),
    }
}

/// Gives back what follows the item in its streak, uncounted: the item leaves its lease without being DONE. The caller
/// ends the claims on `others` itself.
pub(crate) fn give_back_behind(tx: &mut WriteTx<'_>, leaving: &LeasedItem, others: &[ItemId]) -> rusqlite::Result<()> {
    let mut behind = streak_behind(tx, leaving)?;
    behind.retain(|id| !others.contains(id));
    give_back(tx, leaving.token, &behind).map(drop)
}

/// Ends the streak of an item that leaves its lease at that item. Returns what follows it, which has to leave too.
pub(crate) fn streak_behind(tx: &WriteTx<'_>, leaving: &LeasedItem) -> rusqlite::Result<Vec<ItemId>> {
    let key = leaving.attempt.ordering_key.as_deref();
    key.map_or(Ok(Vec::new()), |key| ordering::cut_streak(tx, key, leaving.attempt.id))
}

/// Takes the items out of the lease, as if it had never been given. Returns their number.
pub(crate) fn give_back(tx: &mut WriteTx<'_>, token: ClaimToken, ids: &[ItemId]) -> rusqlite::Result<usize> {
    if ids.is_empty() {
        return Ok(0);
    }
    let items = leave_with_items(tx, token, ids)?;
    for leased in &items {
        requeue(tx, &leased.attempt, &leased.past, &Settlement::Release)?;
    }
    Ok(items.len())
}

/// Puts an item that has left its lease back into the queue.
pub(crate) fn requeue(
    tx: &mut WriteTx<'_>,
    attempted: &AttemptRecord,
    past: &Past,
    settlement: &Settlement,
) -> rusqlite::Result<()> {
    let moved = ItemMove::settled(claimed_past(attempted, past), settlement, trace(attempted), tx.now);
    arrive(tx, attempted, &moved)?;
    tx.wakes_workers = true;
    let Some(failure) = settlement.failure() else { return Ok(()) };
    saga_signals::advance_run(tx, attempted, StepOutcome::Retried, failure.class.as_str())
}

/// Moves an item that has left its place to the DLQ.
pub(crate) fn dead_letter(
    tx: &mut WriteTx<'_>,
    attempted: &AttemptRecord,
    past: &Past,
    on_dead: OnDead,
    failure: &Failure,
) -> rusqlite::Result<()> {
    let moved = ItemMove::dead_lettered(claimed_past(attempted, past), failure, on_dead, trace(attempted));
    arrive(tx, attempted, &moved)?;
    tx.wakes_workers |= attempted.ordering_key.is_some();
    let blocks = matches!(moved.to, Destination::Dead { blocks_key: true, .. });
    alerts::dead_lettered(tx, attempted, failure, blocks)?;
    saga_signals::advance_run(tx, attempted, StepOutcome::Dead, failure.class.as_str())
}

/// The item as the rule about its move sees it.
pub(crate) fn claimed_past<'a>(attempted: &'a AttemptRecord, past: &'a Past) -> ClaimedPast<'a> {
    ClaimedPast { item_type: &attempted.item_type, is_ordered: attempted.ordering_key.is_some(), past }
}

fn trace(attempted: &AttemptRecord) -> AttemptTrace<'_> {
    AttemptTrace { maybe_executed: attempted.maybe_executed, handler_digest: attempted.handler_digest.as_deref() }
}

/// Lets an attempt that is given back take the place of the one before it in the history, if that failed alike: the
/// row then tells of all of them, from the begin of the first.
fn begin_where_equal_one_began(
    tx: &WriteTx<'_>,
    attempted: &mut AttemptRecord,
    failure: &Failure,
) -> rusqlite::Result<()> {
    let mut delete = tx.connection.prepare_cached(
        "DELETE FROM outbox_attempts
         WHERE item_id = ?1 AND attempt = ?2 AND class = ?3 AND code = ?4 AND message = ?5
           AND delivery = (SELECT max(delivery) FROM outbox_attempts WHERE item_id = ?1)
         RETURNING started_at, maybe_executed",
    )?;
    let (class, code, message) = (failure.class.as_str(), &failure.code, &failure.message);
    let values = params![attempted.id.get(), attempted.attempt, class, code, message];
    let earlier: Option<(i64, bool)> = delete.query_row(values, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    if let Some((started_at, maybe_executed)) = earlier {
        attempted.started_at = Millis::new(started_at);
        attempted.maybe_executed |= maybe_executed;
    }
    Ok(())
}

/// Writes the history row of an attempt that did not end DONE, and counts it. Once an item's deliveries are at the
/// largest number that the schema allows, the newest attempt replaces the one before it.
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
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT DO UPDATE
         SET attempt = ?3, started_at = ?4, ended_at = ?5, pod = ?6, class = ?7, code = ?8, message = ?9, stderr = ?10,
             handler_digest = ?11, maybe_executed = ?12, exchanges = ?13",
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
