//! Operators' actions on items: by id here, by filter as a [`super::job`].
//!
//! Whether an item can take an action is decided by [`Action::resulting_status`](crate::store::Action::apply); what it
//! changes is written here for many items at once, with its audit, in one transaction.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::Row;

use crate::claim_end::{ClaimEnd, NEWEST_JOB_SQL, write_claim_ends};
use crate::context::PgContext;
use crate::error::PgError;
use crate::tx::{Query, WriteTx};
use crate::{PostgresStore, audit, jobs, ordering, queries, rows, saga_signals};
use outbox_core::OnDead;
use outbox_item::{Item, ItemId, Millis, Status};
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::operator_actions::{
    ActionContext, ActionOutcomes, BATCH_SIZE, DEAD_BY_OPERATOR_CODE, ItemChange, ItemSnapshot, NO_SUCH_ITEM,
    ids_selection, restrict_to_applicable,
};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::{Action, EffectKeys, Eligibility, Execution, OperateReport, OperateRequest, Selection, StoreError};

pub(crate) async fn operate(store: &PostgresStore, request: &OperateRequest) -> Result<OperateReport, StoreError> {
    match (&request.selection, request.execution) {
        (selection, Execution::DryRun) => {
            let (pg, now) = (&*store.pg, store.pg.now().await?);
            read!(pg, "looking what an order would do", |tx| preview(tx, selection, request.action, now))
        }
        (Selection::Filter(_), Execution::Apply) => jobs::run(store, request).await,
        (Selection::Ids(ids), Execution::Apply) => change_all(store, request, ids).await,
    }
}

/// What the order would do. Reads only.
async fn preview(
    tx: &impl Query,
    selection: &Selection,
    action: Action,
    now: Millis,
) -> Result<OperateReport, PgError> {
    let ids = match selection {
        Selection::Ids(ids) => ids.clone(),
        Selection::Filter(filter) => {
            queries::ids(tx, &SqlFilter::from_filter(&restrict_to_applicable(filter, action)), u32::MAX).await?
        }
    };
    let mut report = OperateReport::of_matched(ids.len());
    for batch in ids.chunks(BATCH_SIZE as usize) {
        let mut found = snapshots(tx, batch, now, "").await?;
        for id in batch {
            let applied = try_action(&mut found, *id, action);
            report.record(*id, applied.err());
        }
    }
    Ok(report)
}

async fn change_all(
    store: &PostgresStore,
    request: &OperateRequest,
    ids: &[ItemId],
) -> Result<OperateReport, StoreError> {
    let (pg, mut report) = (&*store.pg, OperateReport::of_matched(ids.len()));
    let context = ActionContext {
        action: request.action,
        actor: request.actor.clone(),
        reason: request.reason.clone(),
        job: None,
    };
    for batch in ids.chunks(BATCH_SIZE as usize) {
        let outcomes = transact!(pg, "changing items", |tx| change_batch(tx, &context, batch, None, ids_selection))?;
        for (id, refused) in outcomes {
            report.record(id, refused);
        }
    }
    Ok(report)
}

/// Changes the items and appends one audit entry. An item that a job did not begin with is passed over;
/// of the others the outcome says why they were refused, if they were.
pub(crate) async fn change_batch(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    ids: &[ItemId],
    statuses: Option<&[Status]>,
    selection: impl FnOnce(&[ItemChange]) -> Value,
) -> Result<ActionOutcomes, PgError> {
    ordering::lock_keys(tx, ids).await?;
    let mut found = snapshots(tx, ids, tx.now, "FOR UPDATE OF item").await?;
    let (mut outcomes, mut eligible) = (Vec::new(), Vec::new());
    for id in ids {
        let before = found.get(id).cloned();
        if statuses.is_some_and(|statuses| {
            !before.as_ref().is_some_and(|found| found.was_eligible_at_job_start(context, statuses))
        }) {
            continue;
        }
        let applied = try_action(&mut found, *id, context.action);
        eligible.extend(before.filter(|_| applied.is_ok()));
        outcomes.push((*id, applied.err()));
    }
    if !eligible.is_empty() {
        perform(tx, context, &eligible).await?;
        tx.wakes_other_processes = true;
        let changes = changes(tx, &eligible).await?;
        audit::append(tx, &context.audit_entry(selection(&changes), &changes)).await?;
    }
    Ok(outcomes)
}

/// Whether the item can take the action. It is in its new status from then on, in case it is named again.
fn try_action(found: &mut HashMap<ItemId, ItemSnapshot>, id: ItemId, action: Action) -> Result<(), String> {
    let snapshot = found.get_mut(&id).ok_or(NO_SUCH_ITEM)?;
    match action.resulting_status(snapshot.eligibility)? {
        Some(to) => snapshot.eligibility = Eligibility { status: to, is_leased: false, ..snapshot.eligibility },
        None => drop(found.remove(&id)),
    }
    Ok(())
}

/// What changed of the items, now that it has.
async fn changes(tx: &WriteTx<'_>, eligible: &[ItemSnapshot]) -> Result<Vec<ItemChange>, PgError> {
    let after = snapshots(tx, &ids(eligible), tx.now, "").await?;
    let change = |before: &ItemSnapshot| {
        let after = after.get(&before.item.id).map(ItemSnapshot::audited_fields).unwrap_or_default();
        ItemChange::between(before.item.id, before.audited_fields(), after)
    };
    Ok(eligible.iter().map(change).collect())
}

fn ids(snapshots: &[ItemSnapshot]) -> Vec<ItemId> {
    snapshots.iter().map(|snapshot| snapshot.item.id).collect()
}

/// The items as they stand, by id, without their payloads.
async fn snapshots(
    tx: &impl Query,
    ids: &[ItemId],
    now: Millis,
    lock: &str,
) -> Result<HashMap<ItemId, ItemSnapshot>, PgError> {
    let statement = format!(
        "SELECT {}, epoch, blocks_key,
             status = 'DLQ' AND EXISTS (
                 SELECT 1 FROM outbox.attempts AS last
                 WHERE last.item_id = item.id AND last.code = $2 AND last.class = 'operator'
                   AND last.delivery = (SELECT max(delivery) FROM outbox.attempts WHERE item_id = item.id)
             ) AS dead_by_operator,
             status IN ('DONE', 'DLQ') AND EXISTS (
                 SELECT 1 FROM outbox.items AS other
                 WHERE other.saga = item.saga AND other.cid = item.cid AND other.status IN ('PENDING', 'CLAIMED')
             ) AS saga_is_open
         FROM outbox.items AS item WHERE id = ANY($1::bigint[]) ORDER BY id {lock}",
        rows::without_payload()
    );
    let rows = tx.rows(&statement, &[&ids, &DEAD_BY_OPERATOR_CODE]).await?;
    rows.iter().map(|row| snapshot(row, now).map(|snapshot| (snapshot.item.id, snapshot))).collect()
}

fn snapshot(row: &Row, now: Millis) -> Result<ItemSnapshot, PgError> {
    let item = rows::item(row)?.item;
    let eligibility = Eligibility {
        status: item.status,
        is_leased: item.lease_until.is_some_and(|until| until > now),
        dead_by_operator: row.try_get("dead_by_operator")?,
        saga_is_open: row.try_get("saga_is_open")?,
    };
    Ok(ItemSnapshot { item, eligibility, newest_job: row.try_get("epoch")?, blocks_key: row.try_get("blocks_key")? })
}

/// Performs the action on items that can take it.
async fn perform(tx: &mut WriteTx<'_>, context: &ActionContext, snapshots: &[ItemSnapshot]) -> Result<(), PgError> {
    match context.action {
        Action::Replay { keys } => replay(tx, snapshots, keys).await,
        Action::Dead { on_dead, .. } => dead_letter_by_operator(tx, context, snapshots, on_dead).await,
        Action::Restore => restore(tx, &ids(snapshots)).await,
        Action::Reschedule { at } => {
            let statement = "UPDATE outbox.items SET available_at = $2 WHERE id = ANY($1::bigint[])";
            tx.rows(statement, &[&ids(snapshots), &at.max(tx.now)]).await.map(drop)
        }
        Action::Release { .. } => release(tx, context, snapshots).await,
        // The schema's delete trigger takes the history along and keeps the totals.
        Action::Purge => {
            let statement = "DELETE FROM outbox.items WHERE id = ANY($1::bigint[])";
            tx.rows(statement, &[&ids(snapshots)]).await.map(drop)
        }
    }
}

/// A new life: attempts 0, replays + 1, available now; history, `last_error` and `maybe_executed` stay.
async fn replay(tx: &mut WriteTx<'_>, snapshots: &[ItemSnapshot], keys: EffectKeys) -> Result<(), PgError> {
    let statement = format!(
        "UPDATE outbox.items
         SET status = 'PENDING', epoch = {NEWEST_JOB_SQL}, attempts = 0, replays = replays + 1, effects = effects + $2::bigint,
             available_at = $3, done_at = NULL, dead_at = NULL, blocks_key = false, fingerprint = NULL,
             given_back_since = NULL
         WHERE id = ANY($1::bigint[])"
    );
    tx.rows(&statement, &[&ids(snapshots), &i64::from(keys == EffectKeys::New), &tx.now]).await?;
    for snapshot in snapshots.iter().filter(|snapshot| snapshot.item.status == Status::Done) {
        tx.count("done", "", &snapshot.item.item_type, "", -1);
    }
    Ok(())
}

/// The operator's claim of those that nobody has claimed, and the end of all claims.
async fn dead_letter_by_operator(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    snapshots: &[ItemSnapshot],
    on_dead: OnDead,
) -> Result<(), PgError> {
    let (taken, had): (Vec<_>, Vec<_>) = snapshots.iter().partition(|snapshot| snapshot.item.status == Status::Pending);
    let ids: Vec<_> = taken.iter().map(|snapshot| snapshot.item.id).collect();
    // An operator attempts nothing: `attempts` stays.
    tx.rows("UPDATE outbox.items SET deliveries = deliveries + 1 WHERE id = ANY($1::bigint[])", &[&ids]).await?;
    let claim_for_operator = |snapshot: &&ItemSnapshot| Item {
        deliveries: snapshot.item.deliveries + 1,
        claimed_at: Some(tx.now),
        claimed_by: Some(context.actor.clone()),
        ..snapshot.item.clone()
    };
    let taken: Vec<Item> = taken.iter().map(claim_for_operator).collect();
    let had: Vec<Item> = had.iter().map(|snapshot| snapshot.item.clone()).collect();
    let (failure, now) = (context.dead_letter_failure(), tx.now);
    let end = |(item, maybe_executed): (&Item, bool)| {
        let handler_digest = item.handler_digest.clone();
        let attempted = AttemptRecord { maybe_executed, handler_digest, ..AttemptRecord::from_claim(item) };
        ClaimEnd::dead_lettered(item, attempted, on_dead, failure.clone(), now).map(ClaimEnd::with_history)
    };
    let all = taken.iter().map(|item| (item, false)).chain(had.iter().map(|item| (item, true)));
    let claim_ends: Vec<_> = all.map(end).collect::<Result<_, _>>()?;
    saga_signals::begin_runs_if_none(tx, &[taken, had].concat()).await?;
    write_claim_ends(tx, &claim_ends).await
}

/// As the items were before an operator dead-lettered them; their last failure is that before the operator's.
async fn restore(tx: &WriteTx<'_>, ids: &[ItemId]) -> Result<(), PgError> {
    let statement = format!(
        "UPDATE outbox.items
         SET status = 'PENDING', epoch = {NEWEST_JOB_SQL}, dead_at = NULL, blocks_key = false, fingerprint = NULL,
             last_error = (SELECT message FROM outbox.attempts WHERE item_id = id
                           ORDER BY delivery DESC LIMIT 1 OFFSET 1)
         WHERE id = ANY($1::bigint[])"
    );
    tx.rows(&statement, &[&ids]).await.map(drop)
}

/// What an expired lease does, at an operator's word.
async fn release(tx: &mut WriteTx<'_>, context: &ActionContext, snapshots: &[ItemSnapshot]) -> Result<(), PgError> {
    let (failure, now) = (context.release_failure(), tx.now);
    let end = |snapshot: &ItemSnapshot| ClaimEnd::lease_ended(&snapshot.item, failure.clone(), now);
    let claim_ends: Vec<_> = snapshots.iter().map(end).collect::<Result<_, _>>()?;
    write_claim_ends(tx, &claim_ends).await
}
