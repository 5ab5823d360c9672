//! Operators' actions on items: what an action would do, and a batch of items that it changes.
//!
//! Whether an item can take an action is decided by [`Action::resulting_status`]; what it changes is written here for
//! many items at once, with its audit entry, in one transaction. It does not know whether the items were named or a job
//! found them.

use std::collections::{HashMap, HashSet};

use serde_json::Map;
use tokio_postgres::Row;

use outbox_core::{Destination, ItemMove, OnDead, Past};
use outbox_item::{ItemId, Millis, Status};
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};
use outbox_store::engine::counters::Counter;
use outbox_store::engine::operator_actions::{
    ActionContext, DEAD_BY_OPERATOR_CODE, ItemSnapshot, past_after_replay, restrict_to_applicable,
};
use outbox_store::engine::{ActionOutcomes, BATCH_SIZE, ItemChange};
use outbox_store::{Action, ClaimToken, EffectKeys, Eligibility, JobId, OperateReport, Refusal, Selection};

use crate::claim_end::{ClaimEnd, EndingClaim, write_claim_ends};
use crate::error::PgError;
use crate::places::{self, OldPlace, PlaceChange};
use crate::rows::numbers;
use crate::tx::{Query, WriteTx};
use crate::{audit, leases, ordering, queries, rows, saga_signals};

/// An item as an action finds it, and where.
#[derive(Clone)]
struct FoundItem {
    snapshot: ItemSnapshot,
    turn: Option<i64>,
    place: OldPlace,
}

/// What the action would do to the selection. Reads only.
pub(crate) async fn preview(
    tx: &impl Query,
    selection: &Selection,
    action: Action,
    now: Millis,
) -> Result<OperateReport, PgError> {
    let ids = match selection {
        Selection::Ids(ids) => ids.clone(),
        Selection::Filter(filter) => queries::matching(tx, &restrict_to_applicable(filter, action)).await?,
    };
    let mut report = OperateReport::of_matched(ids.len());
    let mut unblocked = HashSet::new();
    for batch in ids.chunks(BATCH_SIZE as usize) {
        let mut found = find(tx, batch, now).await?;
        let lost = find_lost(tx, action, batch, &found).await?;
        for id in batch {
            let before = found.get(id).map(|found| found.snapshot.clone());
            let applied = if lost.contains(id) { Ok(()) } else { try_action(&mut found, *id, action) };
            if let (Some(before), Ok(())) = (before, &applied) {
                report.count_in_group(&before.item);
                unblocked.extend(before.unblocked_key(action));
            }
            report.record(*id, applied.err());
        }
    }
    report.unblocked_keys = unblocked.len() as u64;
    Ok(report)
}

/// Changes the items and appends one audit entry. An item that was not eligible when the job began is passed over: it
/// is in no outcome.
pub(crate) async fn change_batch(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    ids: &[ItemId],
) -> Result<ActionOutcomes, PgError> {
    if context.action == Action::Purge {
        ordering::lock_deleted(tx, ids).await?;
    }
    ordering::lock_keys(tx, ids).await?;
    leases::lock_places(tx, ids).await?;
    let found = find(tx, ids, tx.now).await?;
    let lost = find_lost(tx, context.action, ids, &found).await?;
    let (outcomes, eligible) = sort_out(context, ids, found, &lost);
    if !eligible.is_empty() || !lost.is_empty() {
        perform(tx, context, &eligible).await?;
        restore_lost(tx, &lost).await?;
        tx.wakes_other_processes = true;
        let changes = changes(tx, &eligible, &lost).await?;
        audit::append(tx, &context.audit_entry(&changes)).await?;
    }
    Ok(outcomes)
}

/// The outcome of each id, and the items that take the action.
fn sort_out(
    context: &ActionContext,
    ids: &[ItemId],
    mut found: HashMap<ItemId, FoundItem>,
    lost: &HashSet<ItemId>,
) -> (ActionOutcomes, Vec<FoundItem>) {
    let (mut outcomes, mut eligible) = (Vec::new(), Vec::new());
    for id in ids {
        let before = found.get(id).cloned();
        if context.passes_over(before.as_ref().map(|before| &before.snapshot)) {
            continue;
        }
        let applied = if lost.contains(id) { Ok(()) } else { try_action(&mut found, *id, context.action) };
        eligible.extend(before.filter(|_| applied.is_ok()));
        outcomes.push((*id, applied.err()));
    }
    (outcomes, eligible)
}

/// Whether the item can take the action. It is in its new status from then on, in case it is named again.
fn try_action(found: &mut HashMap<ItemId, FoundItem>, id: ItemId, action: Action) -> Result<(), Refusal> {
    let eligibility = &mut found.get_mut(&id).ok_or(Refusal::NoSuchItem)?.snapshot.eligibility;
    match action.resulting_status(*eligibility)? {
        Some(to) => *eligibility = Eligibility { status: to, is_leased: false, ..*eligibility },
        None => drop(found.remove(&id)),
    }
    Ok(())
}

/// What changed of the items, now that it has. A lost item had no status before.
async fn changes(tx: &WriteTx<'_>, eligible: &[FoundItem], lost: &HashSet<ItemId>) -> Result<Vec<ItemChange>, PgError> {
    let before = eligible.iter().map(|found| (found.snapshot.item.id, found.snapshot.audited_fields()));
    let before: Vec<_> = before.chain(lost.iter().map(|id| (*id, Map::new()))).collect();
    let ids: Vec<_> = before.iter().map(|(id, _)| *id).collect();
    let after = find(tx, &ids, tx.now).await?;
    let change = |(id, before)| {
        let after = after.get(&id).map(|after| after.snapshot.audited_fields()).unwrap_or_default();
        ItemChange::between(id, before, after)
    };
    Ok(before.into_iter().map(change).collect())
}

fn ids(found: &[FoundItem]) -> Vec<ItemId> {
    found.iter().map(|found| found.snapshot.item.id).collect()
}

/// The items as they stand, by id, without their payloads.
async fn find(tx: &impl Query, ids: &[ItemId], now: Millis) -> Result<HashMap<ItemId, FoundItem>, PgError> {
    let statement = format!(
        "SELECT {}, epoch, blocks_key, claim_token, turn,
             status = 'DLQ' AND EXISTS (
                 SELECT 1 FROM outbox.attempts AS last
                 WHERE last.item_id = item.id AND last.code = $2 AND last.class = 'operator'
                   AND last.delivery = (SELECT max(delivery) FROM outbox.attempts WHERE item_id = item.id)
             ) AS dead_by_operator,
             status IN ('DONE', 'DLQ') AND (
                 SELECT open.id FROM outbox.saga_open AS open WHERE open.saga = item.saga AND open.cid = item.cid
                 ORDER BY open.saga, open.cid, open.id LIMIT 1
             ) IS NOT NULL AS saga_is_open
         FROM outbox.items_of($1) AS item",
        rows::without_payload()
    );
    let rows = tx.rows(&statement, &[&numbers(ids), &DEAD_BY_OPERATOR_CODE]).await?;
    rows.iter().map(|row| found_item(row, now).map(|found| (found.snapshot.item.id, found))).collect()
}

/// Of the ids that have no status those of items that are in no place: a restore takes them back into the queue.
async fn find_lost(
    tx: &impl Query,
    action: Action,
    ids: &[ItemId],
    found: &HashMap<ItemId, FoundItem>,
) -> Result<HashSet<ItemId>, PgError> {
    let missing: Vec<_> = ids.iter().copied().filter(|id| !found.contains_key(id)).collect();
    if action != Action::Restore || missing.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = tx.rows("SELECT id FROM outbox.items WHERE id = ANY($1)", &[&numbers(&missing)]).await?;
    rows.iter().map(|row| Ok(ItemId::new(row.try_get(0)?))).collect()
}

fn found_item(row: &Row, now: Millis) -> Result<FoundItem, PgError> {
    let item = rows::item(row)?;
    let place = match item.status {
        Status::Pending => OldPlace::Queue { available_at: item.available_at },
        Status::Claimed => OldPlace::Lease(ClaimToken::new(row.try_get("claim_token")?)),
        Status::Done => OldPlace::Done,
        Status::Dlq => OldPlace::Dead,
    };
    let eligibility = Eligibility {
        status: item.status,
        is_leased: item.lease_until.is_some_and(|until| until > now),
        dead_by_operator: row.try_get("dead_by_operator")?,
        saga_is_open: row.try_get("saga_is_open")?,
    };
    let newest_job = JobId::new(row.try_get("epoch")?);
    let snapshot = ItemSnapshot { item, eligibility, newest_job, blocks_key: row.try_get("blocks_key")? };
    Ok(FoundItem { snapshot, turn: row.try_get("turn")?, place })
}

/// Performs the action on items that can take it.
async fn perform(tx: &mut WriteTx<'_>, context: &ActionContext, found: &[FoundItem]) -> Result<(), PgError> {
    match context.action {
        Action::Replay { keys } => replay(tx, found, keys).await,
        Action::Dead { on_dead, .. } => dead_letter_by_operator(tx, context, found, on_dead).await,
        Action::Restore => restore(tx, found).await,
        Action::Reschedule { at } => places::reschedule(tx, &ids(found), at.max(tx.now)).await,
        Action::Release { .. } => release(tx, context, found).await,
        // The schema's delete trigger takes along what belongs to an item, keeps the totals, and finds the front of a
        // key that the item blocked.
        Action::Purge => {
            let statement = "DELETE FROM outbox.items WHERE id = ANY($1::bigint[])";
            tx.rows(statement, &[&numbers(&ids(found))]).await.map(drop)
        }
    }
}

/// See [`past_after_replay`]; the items are available now.
async fn replay(tx: &mut WriteTx<'_>, found: &[FoundItem], keys: EffectKeys) -> Result<(), PgError> {
    let past = |found: &FoundItem| past_after_replay(&found.snapshot.item, keys);
    let moves = found.iter().map(|found| into_queue(tx.now, past(found))).collect();
    for FoundItem { snapshot, .. } in found.iter().filter(|found| found.snapshot.item.status == Status::Done) {
        tx.count(Counter::Done { item_type: &snapshot.item.item_type }, -1);
    }
    change_places(tx, found, moves).await
}

/// Restores the items as they were before an operator dead-lettered them. `last_error` becomes the last failure that no
/// operator made so.
async fn restore(tx: &WriteTx<'_>, found: &[FoundItem]) -> Result<(), PgError> {
    let statement = "SELECT item, (SELECT message FROM outbox.attempts
                                   WHERE item_id = item AND NOT (code = $2 AND class = 'operator')
                                   ORDER BY delivery DESC LIMIT 1)
                     FROM unnest($1::bigint[]) AS item";
    let mut errors = HashMap::new();
    for row in tx.rows(statement, &[&numbers(&ids(found)), &DEAD_BY_OPERATOR_CODE]).await? {
        errors.insert(ItemId::new(row.try_get(0)?), row.try_get(1)?);
    }
    let before = |FoundItem { snapshot: ItemSnapshot { item, .. }, .. }: &FoundItem| {
        into_queue(item.available_at, Past { last_error: errors.remove(&item.id).flatten(), ..Past::of(item) })
    };
    let moves = found.iter().map(before).collect();
    change_places(tx, found, moves).await
}

/// SQL: puts items that are in no place into the queue. Nobody knows how far they came, so an attempt may have had
/// effects. The next delivery has a number that the history does not have yet. An item with an ordering key whose place
/// in the line is not known comes before those that were enqueued after it.
const RESTORE_LOST: &str = "WITH lost AS (SELECT * FROM outbox.items WHERE id = ANY($1)),
    past AS (INSERT INTO outbox.past AS known (id, attempts, deliveries, maybe_executed)
             SELECT id, 0, coalesce((SELECT max(delivery) FROM outbox.attempts WHERE item_id = lost.id), 0), true
             FROM lost
             ON CONFLICT (id) DO UPDATE
             SET maybe_executed = true, deliveries = greatest(known.deliveries, excluded.deliveries)),
    open AS (INSERT INTO outbox.saga_open (saga, cid, id) SELECT saga, cid, id FROM lost WHERE saga IS NOT NULL
             ON CONFLICT DO NOTHING)
    INSERT INTO outbox.queue (id, available_at, turn, epoch, again, held, losses, type, ordering_key, fairness_key)
    SELECT id, available_at,
           CASE WHEN ordering_key IS NOT NULL THEN coalesce(
               (SELECT lane.turn FROM outbox.lanes AS lane WHERE lane.id = lost.id),
               (SELECT min(later.turn) FROM outbox.queue AS later
                WHERE later.ordering_key = lost.ordering_key AND later.id > lost.id),
               nextval('outbox.turn_seq')) END,
           outbox.newest_job(), true, ordering_key IS NOT NULL,
           coalesce((SELECT losses FROM outbox.past AS known WHERE known.id = lost.id), 0), type,
           ordering_key, fairness_key
    FROM lost RETURNING ordering_key";

async fn restore_lost(tx: &WriteTx<'_>, lost: &HashSet<ItemId>) -> Result<(), PgError> {
    if lost.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = lost.iter().map(|id| id.get()).collect();
    let rows = tx.rows(RESTORE_LOST, &[&ids]).await?;
    let keys: Vec<Option<&str>> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    ordering::find_fronts(tx, &keys.into_iter().flatten().collect::<Vec<_>>()).await
}

fn into_queue(available_at: Millis, past: Past) -> ItemMove {
    ItemMove { to: Destination::Queue { available_at }, past }
}

/// Moves each item as the move at its index says.
async fn change_places(tx: &WriteTx<'_>, found: &[FoundItem], moves: Vec<ItemMove>) -> Result<(), PgError> {
    let changes: Vec<_> = found.iter().zip(&moves).map(|(found, moved)| place_change(found, moved, tx.now)).collect();
    places::change_places(tx, &changes).await
}

fn place_change<'a>(found: &'a FoundItem, moved: &'a ItemMove, at: Millis) -> PlaceChange<'a> {
    let item = &found.snapshot.item;
    PlaceChange {
        id: item.id,
        item_type: &item.item_type,
        ordering_key: item.ordering_key.as_deref(),
        saga: item.saga.as_deref(),
        cid: &item.cid,
        turn: found.turn,
        from: found.place,
        at,
        moved,
    }
}

/// Dead-letters the items: those that wait are claimed by the operator, without a lease, because nobody else sees the
/// claim.
async fn dead_letter_by_operator(
    tx: &mut WriteTx<'_>,
    context: &ActionContext,
    found: &[FoundItem],
    on_dead: OnDead,
) -> Result<(), PgError> {
    let failure = context.dead_letter_failure();
    let end = |found: &FoundItem| {
        let mut claim = ending_claim(found, context, tx.now)?;
        claim.attempt.handler_digest.clone_from(&found.snapshot.item.handler_digest);
        Ok(ClaimEnd::dead_lettered(claim, on_dead, failure.clone()).with_history())
    };
    let claim_ends: Vec<_> = found.iter().map(end).collect::<Result<_, PgError>>()?;
    saga_signals::begin_runs_if_none(tx, found.iter().map(|found| &found.snapshot.item)).await?;
    write_claim_ends(tx, &claim_ends).await.map(drop)
}

/// The claim that the action ends. An operator who claims an item that waits attempts nothing: `attempts` stays. The
/// attempt of a worker whose claim is taken may still be acting.
fn ending_claim(found: &FoundItem, context: &ActionContext, now: Millis) -> Result<EndingClaim, PgError> {
    let item = &found.snapshot.item;
    let past = Past::of(item);
    let (attempt, past) = if item.status == Status::Pending {
        let past = Past { deliveries: past.deliveries.saturating_add(1), ..past };
        let claim = ClaimedItem { item, claimed_at: now, claimed_by: &context.actor };
        (AttemptRecord { delivery: past.deliveries, ..AttemptRecord::from_claim(&claim) }, past)
    } else {
        let attempt = AttemptRecord::from_claim(&ClaimedItem::of_row(item)?);
        (AttemptRecord { maybe_executed: true, ..attempt }, past)
    };
    Ok(EndingClaim { attempt, past, turn: found.turn, from: found.place })
}

/// Ends the claims; their attempts count.
async fn release(tx: &mut WriteTx<'_>, context: &ActionContext, found: &[FoundItem]) -> Result<(), PgError> {
    let (failure, now) = (context.release_failure(), tx.now);
    let end =
        |found: &FoundItem| Ok(ClaimEnd::ended_by_operator(ending_claim(found, context, now)?, failure.clone(), now));
    let claim_ends: Vec<_> = found.iter().map(end).collect::<Result<_, PgError>>()?;
    write_claim_ends(tx, &claim_ends).await.map(drop)
}
