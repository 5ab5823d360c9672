//! Operators' actions on items: by id here, by filter as a [`super::job`].
//!
//! Whether an item can take an action is decided by [`Action::resulting_status`]; what it changes is written here,
//! with its audit, in one transaction.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use crate::jobs::NEWEST_JOB_SQL;
use crate::rows::COLUMNS;
use crate::settle::{dead_letter, write_history};
use crate::write_tx::WriteTx;
use crate::{SqliteStore, audit, jobs, queries, rows, saga_signals, unavailable};
use outbox_core::OnDead;
use outbox_core::saga::StepOutcome;
use outbox_item::{Item, ItemId, Millis, Status};
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::operator_actions::{
    ActionContext, ActionOutcomes, BATCH_SIZE, DEAD_BY_OPERATOR_CODE, ItemChange, ItemSnapshot, NO_SUCH_ITEM,
    ids_selection, restrict_to_applicable,
};
use outbox_store::{Action, EffectKeys, Eligibility, Execution, OperateReport, OperateRequest, Selection, StoreError};

pub(crate) async fn operate(store: &SqliteStore, request: &OperateRequest) -> Result<OperateReport, StoreError> {
    match (&request.selection, request.execution) {
        (selection, Execution::DryRun) => {
            let (selection, action, now) = (selection.clone(), request.action, (store.clock)());
            store.read_pool.run("looking what an order would do", move |tx| preview(tx, &selection, action, now)).await
        }
        (Selection::Filter(_), Execution::Apply) => jobs::run(store, request).await,
        (Selection::Ids(ids), Execution::Apply) => change_all(store, request, ids).await,
    }
}

/// What the order would do. Reads only.
fn preview(tx: &Connection, selection: &Selection, action: Action, now: Millis) -> rusqlite::Result<OperateReport> {
    let ids = match selection {
        Selection::Ids(ids) => ids.clone(),
        Selection::Filter(filter) => queries::matching(tx, &restrict_to_applicable(filter, action))?,
    };
    let mut report = OperateReport::of_matched(ids.len());
    for id in ids {
        let applied = snapshot(tx, id, now)?
            .map_or(Err(NO_SUCH_ITEM.into()), |snapshot| action.resulting_status(snapshot.eligibility));
        report.record(id, applied.err());
    }
    Ok(report)
}

async fn change_all(
    store: &SqliteStore,
    request: &OperateRequest,
    ids: &[ItemId],
) -> Result<OperateReport, StoreError> {
    let mut report = OperateReport::of_matched(ids.len());
    for batch in ids.chunks(BATCH_SIZE as usize) {
        let batch = batch.to_vec();
        let context = ActionContext {
            action: request.action,
            actor: request.actor.clone(),
            reason: request.reason.clone(),
            job: None,
        };
        let outcome = store.writer.run("changing items", move |tx| {
            change_batch(tx, &context, &batch, None, ids_selection).map_err(unavailable("changing items"))
        });
        for (id, refused) in outcome.await? {
            report.record(id, refused);
        }
    }
    Ok(report)
}

/// Changes the items and appends one audit entry. An item that a job did not begin with is passed over;
/// of the others the outcome says why they were refused, if they were.
pub(crate) fn change_batch(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    ids: &[ItemId],
    statuses: Option<&[Status]>,
    selection: impl FnOnce(&[ItemChange]) -> Value,
) -> rusqlite::Result<ActionOutcomes> {
    let mut outcomes = Vec::new();
    let mut changes = Vec::new();
    for id in ids {
        let found = snapshot(tx.connection, *id, tx.now)?;
        if statuses.is_some_and(|statuses| {
            !found.as_ref().is_some_and(|found| found.was_eligible_at_job_start(context, statuses))
        }) {
            continue;
        }
        outcomes.push((*id, change(tx, context, *id, found, &mut changes)?));
    }
    if !changes.is_empty() {
        audit::append(tx, &context.audit_entry(selection(&changes), &changes))?;
    }
    Ok(outcomes)
}

/// Performs the action, or says why not.
fn change(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    id: ItemId,
    found: Option<ItemSnapshot>,
    changes: &mut Vec<ItemChange>,
) -> rusqlite::Result<Option<String>> {
    let Some(snapshot) = found else { return Ok(Some(NO_SUCH_ITEM.into())) };
    let to = match context.action.resulting_status(snapshot.eligibility) {
        Ok(to) => to,
        Err(reason) => return Ok(Some(reason)),
    };
    let before = snapshot.audited_fields();
    match (context.action, to) {
        (Action::Replay { keys }, Some(to)) => replay(tx, &snapshot.item, to, keys)?,
        (Action::Dead { on_dead, .. }, _) => dead_letter_by_operator(tx, context, snapshot.item, on_dead)?,
        (Action::Restore, Some(to)) => restore(tx, id, to)?,
        (Action::Reschedule { at }, _) => reschedule(tx, id, at)?,
        (Action::Release { .. }, Some(to)) => release(tx, context, &snapshot.item, to)?,
        (_, None) => purge(tx, id)?,
        (Action::Purge, Some(_)) => {}
    }
    tx.wakes_workers = true;
    let after =
        self::snapshot(tx.connection, id, tx.now)?.map(|snapshot| snapshot.audited_fields()).unwrap_or_default();
    changes.push(ItemChange::between(id, before, after));
    Ok(None)
}

pub(crate) fn snapshot(tx: &Connection, id: ItemId, now: Millis) -> rusqlite::Result<Option<ItemSnapshot>> {
    let sql = format!("SELECT {COLUMNS}, epoch, blocks_key FROM outbox_items WHERE id = ?1");
    let mut select = tx.prepare_cached(&sql)?;
    let found = select.query_row([id], |row| Ok((rows::item(row)?.item, row.get("epoch")?, row.get("blocks_key")?)));
    let Some((item, newest_job, blocks_key)) = found.optional()? else { return Ok(None) };
    let eligibility = eligibility(tx, &item, now)?;
    Ok(Some(ItemSnapshot { item, eligibility, newest_job, blocks_key }))
}

fn eligibility(tx: &Connection, item: &Item, now: Millis) -> rusqlite::Result<Eligibility> {
    let died = "SELECT 1 FROM outbox_attempts WHERE item_id = ?1 AND code = ?2 AND class = 'operator'
                AND delivery = (SELECT max(delivery) FROM outbox_attempts WHERE item_id = ?1)";
    let dead_by_operator =
        item.status == Status::Dlq && tx.prepare_cached(died)?.exists(params![item.id, DEAD_BY_OPERATOR_CODE])?;
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
    update.execute(params![item.id, to.as_str(), u32::from(keys == EffectKeys::New), tx.now])?;
    if item.status == Status::Done {
        tx.count("done", "", &item.item_type, "", -1);
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
    let handler_digest = item.handler_digest.clone();
    let attempted = AttemptRecord { maybe_executed: had_claim, handler_digest, ..AttemptRecord::from_claim(&item) };
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
    update.execute(params![item.id, tx.now, actor, token])?;
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
    update.execute(params![id, to.as_str()]).map(|_| ())
}

fn reschedule(tx: &WriteTx<'_>, id: ItemId, at: Millis) -> rusqlite::Result<()> {
    let sql = "UPDATE outbox_items SET available_at = ?2 WHERE id = ?1 AND status = 'PENDING'";
    tx.connection.prepare_cached(sql)?.execute([id, at.max(tx.now)]).map(|_| ())
}

/// What an expired lease does, at an operator's word.
fn release(tx: &mut WriteTx<'_>, context: &ActionContext, item: &Item, to: Status) -> rusqlite::Result<()> {
    let attempted = AttemptRecord { maybe_executed: true, ..AttemptRecord::from_claim(item) };
    let failure = context.release_failure();
    write_history(tx, &attempted, &failure, None)?;
    let mut update = tx.connection.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {NEWEST_JOB_SQL}, available_at = ?3, maybe_executed = 1, last_error = ?4,
             given_back_since = NULL, claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![item.id, to.as_str(), tx.now, failure.message])?;
    saga_signals::advance_run(tx, &attempted, StepOutcome::Retried, failure.class.as_str())
}

/// The schema's delete trigger takes the history along and keeps the totals.
fn purge(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<()> {
    let sql = "DELETE FROM outbox_items WHERE id = ?1 AND status IN ('DONE', 'DLQ')";
    tx.connection.prepare_cached(sql)?.execute([id]).map(|_| ())
}
