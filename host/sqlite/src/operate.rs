//! Operators' actions on items: what an action would do, and a batch of items that it changes.
//!
//! Whether an item can take an action is decided by [`Action::resulting_status`]; what it changes is written here, with
//! its audit entry, in one transaction. It does not know whether the items were named or a job found them.

use rusqlite::{Connection, OptionalExtension, params};

use outbox_core::OnDead;
use outbox_item::{Item, ItemId, Millis, Status};
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};
use outbox_store::engine::counters::Counter;
use outbox_store::engine::operator_actions::{
    ActionContext, DEAD_BY_OPERATOR_CODE, ItemSnapshot, restrict_to_applicable,
};
use outbox_store::engine::{ActionOutcomes, ItemChange};
use outbox_store::{Action, EffectKeys, Eligibility, JobId, OperateReport, Refusal, Selection, StoreError};

use crate::error::{unavailable, unusable};
use crate::expire::end_lease;
use crate::rows::COLUMNS;
use crate::settle::{dead_letter, write_history};
use crate::write_tx::{NEWEST_JOB_SQL, WriteTx};
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
    for id in ids {
        let applied = snapshot(tx, id, now)?
            .map_or(Err(Refusal::NoSuchItem), |snapshot| action.resulting_status(snapshot.eligibility));
        report.record(id, applied.err());
    }
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
    let Some(snapshot) = found else { return Ok(Some(Refusal::NoSuchItem)) };
    let to = match context.action.resulting_status(snapshot.eligibility) {
        Ok(to) => to,
        Err(refusal) => return Ok(Some(refusal)),
    };
    let before = snapshot.audited_fields();
    match (context.action, to) {
        (Action::Replay { keys }, Some(to)) => replay(tx, &snapshot.item, to, keys)?,
        (Action::Dead { on_dead, .. }, _) => dead_letter_by_operator(tx, context, snapshot.item, on_dead)?,
        (Action::Restore, Some(to)) => restore(tx, id, to)?,
        (Action::Reschedule { at }, _) => reschedule(tx, id, at)?,
        (Action::Release { .. }, Some(_)) => release(tx, context, &snapshot.item)?,
        (_, None) => purge(tx, id)?,
        (Action::Purge, Some(_)) => {}
    }
    tx.wakes_workers = true;
    let after =
        self::snapshot(tx.connection, id, tx.now)?.map(|snapshot| snapshot.audited_fields()).unwrap_or_default();
    changes.push(ItemChange::between(id, before, after));
    Ok(None)
}

/// The item as an action finds it at `now`.
fn snapshot(tx: &Connection, id: ItemId, now: Millis) -> rusqlite::Result<Option<ItemSnapshot>> {
    let sql = format!("SELECT {COLUMNS}, epoch, blocks_key FROM outbox_items WHERE id = ?1");
    let mut select = tx.prepare_cached(&sql)?;
    let found =
        select.query_row([id.get()], |row| Ok((rows::item(row)?.item, row.get("epoch")?, row.get("blocks_key")?)));
    let Some((item, newest_job, blocks_key)) = found.optional()? else { return Ok(None) };
    let eligibility = eligibility(tx, &item, now)?;
    Ok(Some(ItemSnapshot { item, eligibility, newest_job: JobId::new(newest_job), blocks_key }))
}

fn eligibility(tx: &Connection, item: &Item, now: Millis) -> rusqlite::Result<Eligibility> {
    let died = "SELECT 1 FROM outbox_attempts WHERE item_id = ?1 AND code = ?2 AND class = 'operator'
                AND delivery = (SELECT max(delivery) FROM outbox_attempts WHERE item_id = ?1)";
    let dead_by_operator =
        item.status == Status::Dlq && tx.prepare_cached(died)?.exists(params![item.id.get(), DEAD_BY_OPERATOR_CODE])?;
    let saga_is_open = match (&item.saga, item.status) {
        (Some(saga), Status::Done | Status::Dlq) => {
            saga_signals::has_items_in(tx, saga, &item.cid, "'PENDING', 'CLAIMED'")?
        }
        _ => false,
    };
    let is_leased = item.lease_until.is_some_and(|until| until > now);
    Ok(Eligibility { status: item.status, is_leased, dead_by_operator, saga_is_open })
}

/// A new life: attempts 0, replays + 1, available now; history, `last_error` and `maybe_executed` stay.
fn replay(tx: &mut WriteTx<'_>, item: &Item, to: Status, keys: EffectKeys) -> rusqlite::Result<()> {
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL}, attempts = 0, replays = replays + 1, effects = effects + ?3,
             available_at = ?4, done_at = NULL, dead_at = NULL, blocks_key = 0, fingerprint = NULL,
             given_back_since = NULL
         WHERE id = ?1 AND status IN ('DONE', 'DLQ')"
    ))?;
    update.execute(params![item.id.get(), to.as_str(), u32::from(keys == EffectKeys::New), tx.now.get()])?;
    if item.status == Status::Done {
        tx.count(Counter::Done { item_type: &item.item_type }, -1);
    }
    Ok(())
}

/// The operator's claim and its end, in one transaction.
fn dead_letter_by_operator(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    item: Item,
    on_dead: OnDead,
) -> rusqlite::Result<()> {
    let had_claim = item.status == Status::Claimed;
    let item = if had_claim { item } else { claim_for_operator(tx, &context.actor, item)? };
    if let Some(saga) = &item.saga {
        saga_signals::begin_run_if_none(tx, saga, &item.cid, item.replays)?;
    }
    let claim = ClaimedItem::of_row(&item).map_err(unusable)?;
    let handler_digest = item.handler_digest.clone();
    let attempted = AttemptRecord { maybe_executed: had_claim, handler_digest, ..AttemptRecord::from_claim(&claim) };
    let failure = context.dead_letter_failure();
    write_history(tx, &attempted, &failure, None)?;
    dead_letter(tx, &attempted, on_dead, &failure)
}

/// Claims an item for an operator, who attempts nothing: `attempts` stays.
fn claim_for_operator(tx: &WriteTx<'_>, actor: &str, mut item: Item) -> rusqlite::Result<Item> {
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = 'CLAIMED', epoch = {NEWEST_JOB_SQL}, deliveries = deliveries + 1,
             claimed_at = ?2, claimed_by = ?3, claim_token = ?4, lease_until = ?2
         WHERE id = ?1 AND status = 'PENDING'"
    ))?;
    let token = uuid::Uuid::new_v4().simple().to_string();
    update.execute(params![item.id.get(), tx.now.get(), actor, token])?;
    item.deliveries += 1;
    (item.claimed_at, item.claimed_by) = (Some(tx.now), Some(actor.to_owned()));
    Ok(item)
}

/// As the item was before an operator dead-lettered it; its last failure is that before the operator's.
fn restore(tx: &WriteTx<'_>, id: ItemId, to: Status) -> rusqlite::Result<()> {
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL}, dead_at = NULL, blocks_key = 0, fingerprint = NULL,
             last_error = (SELECT message FROM outbox_attempts WHERE item_id = ?1
                           ORDER BY delivery DESC LIMIT 1 OFFSET 1)
         WHERE id = ?1 AND status = 'DLQ'"
    ))?;
    update.execute(params![id.get(), to.as_str()]).map(|_| ())
}

fn reschedule(tx: &WriteTx<'_>, id: ItemId, at: Millis) -> rusqlite::Result<()> {
    let sql = "UPDATE outbox_items SET available_at = ?2 WHERE id = ?1 AND status = 'PENDING'";
    tx.connection.prepare_cached(sql)?.execute([id.get(), at.max(tx.now).get()]).map(|_| ())
}

/// Ends the claim as if its lease had run out.
fn release(tx: &mut WriteTx<'_>, context: &ActionContext, item: &Item) -> rusqlite::Result<()> {
    let claim = ClaimedItem::of_row(item).map_err(unusable)?;
    let attempted = AttemptRecord { maybe_executed: true, ..AttemptRecord::from_claim(&claim) };
    end_lease(tx, &attempted, &context.release_failure())
}

/// The schema's delete trigger takes the history along and keeps the totals.
fn purge(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<()> {
    let sql = "DELETE FROM outbox_items WHERE id = ?1 AND status IN ('DONE', 'DLQ')";
    tx.connection.prepare_cached(sql)?.execute([id.get()]).map(|_| ())
}
