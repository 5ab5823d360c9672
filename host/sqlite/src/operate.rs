//! Operators' actions on items: what an action would do, and a batch of items that it changes.
//!
//! Whether an item can take an action is decided by [`Action::resulting_status`]; what it changes is written here, with
//! its audit entry, in one transaction. It does not know whether the items were named or a job found them.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Map, Value};

use outbox_core::{ItemMove, OnDead, Past};
use outbox_item::{Item, ItemId, Millis, Status};
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};
use outbox_store::engine::counters::Counter;
use outbox_store::engine::operator_actions::{
    ActionContext, DEAD_BY_OPERATOR_CODE, ItemSnapshot, past_after_replay, restrict_to_applicable,
};
use outbox_store::engine::{ActionOutcomes, ItemChange};
use outbox_store::{Action, EffectKeys, Eligibility, JobId, OperateReport, Refusal, Selection, StoreError};

use crate::error::unavailable;
use crate::expire::end_lease;
use crate::leases::{LeasedItem, leased_by_id, leave_lease};
use crate::past::{keep_due_time, read_pasts};
use crate::places::{leave_queue, reopen};
use crate::settle::{dead_letter, give_back_behind, write_history};
use crate::write_tx::WriteTx;
use crate::{audit, queries, rows, saga_signals};

/// What the action would do to the selection. Reads only.
pub(crate) fn preview(
    tx: &Connection,
    selection: &Selection,
    action: Action,
    now: Millis,
) -> rusqlite::Result<OperateReport> {
    let ids = match selection {
        Selection::Ids(ids) => ids.clone(),
        Selection::Filter(filter) => queries::matching(tx, &restrict_to_applicable(filter, action))?,
    };
    let mut report = OperateReport::of_matched(ids.len());
    let mut unblocked = BTreeSet::new();
    for id in ids {
        let found = snapshot(tx, id, now)?;
        let refusal = match &found {
            Some(snapshot) => action.resulting_status(snapshot.eligibility).err(),
            None => refuse_missing(tx, action, id)?,
        };
        if let (Some(found), None) = (found, &refusal) {
            report.count_in_group(&found.item);
            unblocked.extend(found.unblocked_key(action));
        }
        report.record(id, refusal);
    }
    report.unblocked_keys = unblocked.len() as u64;
    Ok(report)
}

/// Changes the items and appends one audit entry.
pub(crate) fn change_items(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    ids: &[ItemId],
) -> Result<ActionOutcomes, StoreError> {
    change_batch(tx, context, ids).map_err(unavailable("changing items"))
}

/// Changes the items and appends one audit entry. An item that was not eligible when the job began is passed over: it
/// is in no outcome.
pub(crate) fn change_batch(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    ids: &[ItemId],
) -> rusqlite::Result<ActionOutcomes> {
    let mut outcomes = Vec::new();
    let mut changes = Vec::new();
    for id in ids {
        let found = snapshot(tx.connection, *id, tx.now)?;
        if context.passes_over(found.as_ref()) {
            continue;
        }
        outcomes.push((*id, change(tx, context, *id, found, &mut changes)?));
    }
    if !changes.is_empty() {
        audit::append(tx, &context.audit_entry(&changes))?;
    }
    Ok(outcomes)
}

/// Performs the action, or returns why not.
fn change(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    id: ItemId,
    found: Option<ItemSnapshot>,
    changes: &mut Vec<ItemChange>,
) -> rusqlite::Result<Option<Refusal>> {
    let Some(mut snapshot) = found else { return change_missing(tx, context.action, id, changes) };
    let to = match context.action.resulting_status(snapshot.eligibility) {
        Ok(to) => to,
        Err(refusal) => return Ok(Some(refusal)),
    };
    if matches!(context.action, Action::Replay { .. }) {
        snapshot.item.result = result(tx, id)?;
    }
    let before = snapshot.audited_fields();
    match (context.action, to) {
        (Action::Replay { keys }, Some(_)) => replay(tx, &snapshot.item, keys)?,
        (Action::Dead { on_dead, .. }, _) => dead_letter_by_operator(tx, context, &snapshot.item, on_dead)?,
        (Action::Restore, Some(_)) => restore(tx, &snapshot.item)?,
        (Action::Reschedule { at }, _) => reschedule(tx, id, at)?,
        (Action::Release { .. }, Some(_)) => release(tx, context, id)?,
        (_, None) => purge(tx, id)?,
        (Action::Purge, Some(_)) => {}
    }
    record_change(tx, id, before, changes)?;
    Ok(None)
}

fn record_change(
    tx: &mut WriteTx<'_>,
    id: ItemId,
    before: Map<String, Value>,
    changes: &mut Vec<ItemChange>,
) -> rusqlite::Result<()> {
    tx.wakes_workers = true;
    let after = snapshot(tx.connection, id, tx.now)?.map(|snapshot| snapshot.audited_fields()).unwrap_or_default();
    changes.push(ItemChange::between(id, before, after));
    Ok(())
}

/// An id that has no status: there is no such item, or it is in no place. A restore takes the latter back into the
/// queue.
fn change_missing(
    tx: &mut WriteTx<'_>,
    action: Action,
    id: ItemId,
    changes: &mut Vec<ItemChange>,
) -> rusqlite::Result<Option<Refusal>> {
    if let Some(refusal) = refuse_missing(tx.connection, action, id)? {
        return Ok(Some(refusal));
    }
    restore_lost(tx, id)?;
    record_change(tx, id, Map::new(), changes)?;
    Ok(None)
}

fn refuse_missing(tx: &Connection, action: Action, id: ItemId) -> rusqlite::Result<Option<Refusal>> {
    let is_lost = action == Action::Restore
        && tx.prepare_cached("SELECT 1 FROM outbox_items WHERE id = ?1")?.exists([id.get()])?;
    Ok((!is_lost).then_some(Refusal::NoSuchItem))
}

/// Nobody knows how far the item came, so an attempt may have had effects.
fn restore_lost(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<()> {
    let sql = format!("SELECT {} FROM outbox_items WHERE id = ?1", rows::ENQUEUED_COLUMNS);
    let item = tx.connection.prepare_cached(&sql)?.query_row([id.get()], rows::enqueued)?.item;
    let known = read_pasts(tx, &[id])?.remove(&id).unwrap_or_default();
    reopen(tx, &item, item.available_at, &Past { maybe_executed: true, ..known })
}

/// The item as an action finds it at `now`, without its payload and its result.
fn snapshot(tx: &Connection, id: ItemId, now: Millis) -> rusqlite::Result<Option<ItemSnapshot>> {
    // Leases are searched last: their ids are lists, and most actions are about items elsewhere.
    let found =
        find(tx, id, "status <> 'CLAIMED'")?.map_or_else(|| find(tx, id, "status = 'CLAIMED'"), |it| Ok(Some(it)))?;
    let Some((item, newest_job, blocks_key)) = found else { return Ok(None) };
    let eligibility = eligibility(tx, &item, now)?;
    Ok(Some(ItemSnapshot { item, eligibility, newest_job: JobId::new(newest_job), blocks_key }))
}

/// The item, the number of the newest job when it came to its place, and whether it blocks its key.
fn find(tx: &Connection, id: ItemId, condition: &str) -> rusqlite::Result<Option<(Item, i64, bool)>> {
    let columns = rows::columns_without_bytes();
    let sql = format!("SELECT {columns}, epoch, blocks_key FROM outbox_status WHERE id = ?1 AND {condition}");
    let read = |row: &Row<'_>| Ok((rows::item(row)?.item, row.get("epoch")?, row.get("blocks_key")?));
    tx.prepare_cached(&sql)?.query_row([id.get()], read).optional()
}

fn eligibility(tx: &Connection, item: &Item, now: Millis) -> rusqlite::Result<Eligibility> {
    let died = "SELECT 1 FROM outbox_attempts WHERE item_id = ?1 AND code = ?2 AND class = 'operator'
                AND delivery = (SELECT max(delivery) FROM outbox_attempts WHERE item_id = ?1)";
    let dead_by_operator =
        item.status == Status::Dlq && tx.prepare_cached(died)?.exists(params![item.id.get(), DEAD_BY_OPERATOR_CODE])?;
    let saga_is_open = match (&item.saga, item.status) {
        (Some(saga), Status::Done | Status::Dlq) => saga_signals::has_open_items(tx, saga, &item.cid)?,
        _ => false,
    };
    let is_leased = item.lease_until.is_some_and(|until| until > now);
    Ok(Eligibility { status: item.status, is_leased, dead_by_operator, saga_is_open })
}

/// The result of a DONE item, which snapshots leave out.
fn result(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<Option<Vec<u8>>> {
    let sql = "SELECT result FROM outbox_done WHERE id = ?1";
    tx.connection.prepare_cached(sql)?.query_row([id.get()], |row| row.get(0)).optional().map(Option::flatten)
}

/// See [`past_after_replay`]; the item is available now.
fn replay(tx: &mut WriteTx<'_>, item: &Item, keys: EffectKeys) -> rusqlite::Result<()> {
    if item.status == Status::Done {
        tx.count(Counter::Done { item_type: &item.item_type }, -1);
    }
    reopen(tx, item, tx.now, &past_after_replay(item, keys))
}

/// The operator's claim and its end, in one transaction. Nobody else sees the claim, so it has no lease.
fn dead_letter_by_operator(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    item: &Item,
    on_dead: OnDead,
) -> rusqlite::Result<()> {
    let leased = if item.status == Status::Claimed { leave_lease_of(tx, item.id)? } else { None };
    let (attempt, past) = match leased {
        Some(LeasedItem { attempt, past, .. }) => (AttemptRecord { maybe_executed: true, ..attempt }, past),
        None => claim_for_operator(tx, &context.actor, item)?,
    };
    let attempted = AttemptRecord { handler_digest: item.handler_digest.clone(), ..attempt };
    if let Some(saga) = &item.saga {
        saga_signals::begin_run_if_none(tx, saga, &item.cid, item.replays)?;
    }
    let failure = context.dead_letter_failure();
    write_history(tx, &attempted, &failure, None)?;
    dead_letter(tx, &attempted, &past, on_dead, &failure)
}

/// Takes a PENDING item out of the queue for an operator, who attempts nothing: `attempts` stays.
fn claim_for_operator(tx: &WriteTx<'_>, actor: &str, item: &Item) -> rusqlite::Result<(AttemptRecord, Past)> {
    // The row that this may create becomes that of a dead item, which always has one.
    leave_queue(tx, item.id)?.map_or(Ok(()), |due| keep_due_time(tx, item.id, due))?;
    let past = Past::of(item);
    let past = Past { deliveries: past.deliveries.saturating_add(1), ..past };
    let claim = ClaimedItem { item, claimed_at: tx.now, claimed_by: actor };
    let attempt = AttemptRecord { delivery: past.deliveries, ..AttemptRecord::from_claim(&claim) };
    Ok((attempt, past))
}

/// Takes the item out of its lease, if it is in one. What follows it in its streak is given back.
fn leave_lease_of(tx: &mut WriteTx<'_>, id: ItemId) -> rusqlite::Result<Option<LeasedItem>> {
    let Some(leased) = leased_by_id(tx, id)? else { return Ok(None) };
    leave_lease(tx, leased.token, vec![id])?;
    give_back_behind(tx, &leased, &[])?;
    Ok(Some(leased))
}

/// As the item was before an operator dead-lettered it; its last failure is one that no operator made so.
fn restore(tx: &WriteTx<'_>, item: &Item) -> rusqlite::Result<()> {
    let before = "SELECT message FROM outbox_attempts WHERE item_id = ?1 AND NOT (code = ?2 AND class = 'operator')
                  ORDER BY delivery DESC LIMIT 1";
    let values = params![item.id.get(), DEAD_BY_OPERATOR_CODE];
    let last_error = tx.connection.prepare_cached(before)?.query_row(values, |row| row.get(0)).optional()?;
    reopen(tx, item, item.available_at, &Past { last_error, ..Past::of(item) })
}

fn reschedule(tx: &WriteTx<'_>, id: ItemId, at: Millis) -> rusqlite::Result<()> {
    let sql = "UPDATE outbox_queue SET available_at = ?2 WHERE id = ?1";
    tx.connection.prepare_cached(sql)?.execute([id.get(), at.max(tx.now).get()]).map(|_| ())
}

/// Ends the claim; its attempt counts.
fn release(tx: &mut WriteTx<'_>, context: &ActionContext, id: ItemId) -> rusqlite::Result<()> {
    let Some(leased) = leave_lease_of(tx, id)? else { return Ok(()) };
    end_lease(tx, &leased, &context.release_failure(), ItemMove::ended_by_operator)
}

/// The schema's delete trigger takes along what belongs to the item, keeps the totals, and finds the front of a key
/// that the item blocked.
fn purge(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<()> {
    tx.connection.prepare_cached("DELETE FROM outbox_items WHERE id = ?1")?.execute([id.get()]).map(|_| ())
}
