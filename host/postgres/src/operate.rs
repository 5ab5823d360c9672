//! Operators' actions on items: what an action would do, and a batch of items that it changes.
//!
//! Whether an item can take an action is decided by [`Action::resulting_status`]; what it changes is written here for
//! many items at once, with its audit entry, in one transaction. It does not know whether the items were named or a job
//! found them.

use std::collections::HashMap;

use tokio_postgres::Row;

use outbox_core::OnDead;
use outbox_item::{Item, ItemId, Millis, Status};
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};
use outbox_store::engine::counters::Counter;
use outbox_store::engine::operator_actions::{
    ActionContext, DEAD_BY_OPERATOR_CODE, ItemSnapshot, restrict_to_applicable,
};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::{ActionOutcomes, BATCH_SIZE, ItemChange};
use outbox_store::{Action, EffectKeys, Eligibility, JobId, OperateReport, Refusal, Selection};

use crate::claim_end::{ClaimEnd, write_claim_ends};
use crate::error::PgError;
use crate::rows::numbers;
use crate::tx::{NEWEST_JOB_SQL, Query, WriteTx};
use crate::{audit, ordering, queries, rows, saga_signals};

/// What the action would do to the selection. Reads only.
pub(crate) async fn preview(
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

/// Changes the items and appends one audit entry. An item that was not eligible when the job began is passed over: it
/// is in no outcome.
pub(crate) async fn change_batch(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    ids: &[ItemId],
) -> Result<ActionOutcomes, PgError> {
    ordering::lock_keys(tx, ids).await?;
    let mut found = snapshots(tx, ids, tx.now, "FOR UPDATE OF item").await?;
    let (mut outcomes, mut eligible) = (Vec::new(), Vec::new());
    for id in ids {
        let before = found.get(id).cloned();
        if context.passes_over(before.as_ref()) {
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
        audit::append(tx, &context.audit_entry(&changes)).await?;
    }
    Ok(outcomes)
}

/// Whether the item can take the action. It is in its new status from then on, in case it is named again.
fn try_action(found: &mut HashMap<ItemId, ItemSnapshot>, id: ItemId, action: Action) -> Result<(), Refusal> {
    let snapshot = found.get_mut(&id).ok_or(Refusal::NoSuchItem)?;
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
    let rows = tx.rows(&statement, &[&numbers(ids), &DEAD_BY_OPERATOR_CODE]).await?;
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
    let newest_job = JobId::new(row.try_get("epoch")?);
    Ok(ItemSnapshot { item, eligibility, newest_job, blocks_key: row.try_get("blocks_key")? })
}

/// Performs the action on items that can take it.
async fn perform(tx: &mut WriteTx<'_>, context: &ActionContext, snapshots: &[ItemSnapshot]) -> Result<(), PgError> {
    match context.action {
        Action::Replay { keys } => replay(tx, snapshots, keys).await,
        Action::Dead { on_dead, .. } => dead_letter_by_operator(tx, context, snapshots, on_dead).await,
        Action::Restore => restore(tx, &ids(snapshots)).await,
        Action::Reschedule { at } => {
            let statement = "UPDATE outbox.items SET available_at = $2 WHERE id = ANY($1::bigint[])";
            tx.rows(statement, &[&numbers(&ids(snapshots)), &at.max(tx.now).get()]).await.map(drop)
        }
        Action::Release { .. } => release(tx, context, snapshots).await,
        // The schema's delete trigger takes the history along and keeps the totals.
        Action::Purge => {
            let statement = "DELETE FROM outbox.items WHERE id = ANY($1::bigint[])";
            tx.rows(statement, &[&numbers(&ids(snapshots))]).await.map(drop)
        }
    }
}

/// A new life: attempts 0, replays + 1, available now; history, `last_error` and `maybe_executed` stay.
async fn replay(tx: &mut WriteTx<'_>, snapshots: &[ItemSnapshot], keys: EffectKeys) -> Result<(), PgError> {
    let statement = format!(
        "UPDATE outbox.items
         SET status = 'PENDING', epoch = {NEWEST_JOB_SQL},
             attempts = 0, replays = replays + 1, effects = effects + $2::bigint,
             available_at = $3, done_at = NULL, dead_at = NULL, blocks_key = false, fingerprint = NULL,
             given_back_since = NULL
         WHERE id = ANY($1::bigint[])"
    );
    tx.rows(&statement, &[&numbers(&ids(snapshots)), &i64::from(keys == EffectKeys::New), &tx.now.get()]).await?;
    for snapshot in snapshots.iter().filter(|snapshot| snapshot.item.status == Status::Done) {
        tx.count(Counter::Done { item_type: &snapshot.item.item_type }, -1);
    }
    Ok(())
}

/// Claims the unclaimed items for the operator, and ends all claims.
async fn dead_letter_by_operator(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    snapshots: &[ItemSnapshot],
    on_dead: OnDead,
) -> Result<(), PgError> {
    let (taken, had): (Vec<_>, Vec<_>) = snapshots.iter().partition(|snapshot| snapshot.item.status == Status::Pending);
    let ids: Vec<_> = taken.iter().map(|snapshot| snapshot.item.id.get()).collect();
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
        let (claim, handler_digest) = (ClaimedItem::of_row(item)?, item.handler_digest.clone());
        let attempted = AttemptRecord { maybe_executed, handler_digest, ..AttemptRecord::from_claim(&claim) };
        Ok(ClaimEnd::dead_lettered(item, attempted, on_dead, failure.clone(), now).with_history())
    };
    let all = taken.iter().map(|item| (item, false)).chain(had.iter().map(|item| (item, true)));
    let claim_ends: Vec<_> = all.map(end).collect::<Result<_, PgError>>()?;
    saga_signals::begin_runs_if_none(tx, &[taken, had].concat()).await?;
    write_claim_ends(tx, &claim_ends).await
}

/// Restores the items as they were before an operator dead-lettered them. `last_error` becomes the failure before the
/// operator's.
async fn restore(tx: &WriteTx<'_>, ids: &[ItemId]) -> Result<(), PgError> {
    let statement = format!(
        "UPDATE outbox.items
         SET status = 'PENDING', epoch = {NEWEST_JOB_SQL}, dead_at = NULL, blocks_key = false, fingerprint = NULL,
             last_error = (SELECT message FROM outbox.attempts WHERE item_id = id
                           ORDER BY delivery DESC LIMIT 1 OFFSET 1)
         WHERE id = ANY($1::bigint[])"
    );
    tx.rows(&statement, &[&numbers(ids)]).await.map(drop)
}

/// Ends the claims as if their leases had run out.
async fn release(tx: &mut WriteTx<'_>, context: &ActionContext, snapshots: &[ItemSnapshot]) -> Result<(), PgError> {
    let (failure, now) = (context.release_failure(), tx.now);
    let end = |snapshot: &ItemSnapshot| {
        Ok(ClaimEnd::lease_ended(&ClaimedItem::of_row(&snapshot.item)?, failure.clone(), now))
    };
    let claim_ends: Vec<_> = snapshots.iter().map(end).collect::<Result<_, PgError>>()?;
    write_claim_ends(tx, &claim_ends).await
}
