//! Operators' actions on items: by id here, by filter as a [`super::job`].
//!
//! Whether an item can take an action is decided by [`Action::apply`]; what it changes is written here,
//! with its audit, in one transaction.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::audit;
use super::decode::{self, COLUMNS};
use super::job::{self, EPOCH};
use super::settle::{dead_letter, write_history};
use super::step::Step;
use super::{SqliteStore, saga, select, unavailable};
use crate::item::{Item, ItemId, Millis, OnDead, Status};
use crate::saga::StepOutcome;
use crate::store::deed::{BATCH, Change, DEAD, Deed, MISSING, Outcomes, Subject, named, narrowed};
use crate::store::{Action, Attempted, EffectKeys, Order, OrderReport, Run, Selection, Standing, StoreError};

pub(super) async fn operate(store: &SqliteStore, order: &Order) -> Result<OrderReport, StoreError> {
    match (&order.selection, order.run) {
        (selection, Run::Dry) => {
            let (selection, action, now) = (selection.clone(), order.action, (store.clock)());
            store.reader.run("looking what an order would do", move |tx| preview(tx, &selection, action, now)).await
        }
        (Selection::Filter(_), Run::Real) => job::run(store, order).await,
        (Selection::Ids(ids), Run::Real) => change_all(store, order, ids).await,
    }
}

/// What the order would do. Reads only.
fn preview(tx: &Connection, selection: &Selection, action: Action, now: Millis) -> rusqlite::Result<OrderReport> {
    let ids = match selection {
        Selection::Ids(ids) => ids.clone(),
        Selection::Filter(filter) => select::matching(tx, &narrowed(filter, action))?,
    };
    let mut report = OrderReport::about(ids.len());
    for id in ids {
        let applied = subject(tx, id, now)?.map_or(Err(MISSING.into()), |subject| action.apply(subject.standing));
        report.add(id, applied.err());
    }
    Ok(report)
}

async fn change_all(store: &SqliteStore, order: &Order, ids: &[ItemId]) -> Result<OrderReport, StoreError> {
    let mut report = OrderReport::about(ids.len());
    for batch in ids.chunks(BATCH as usize) {
        let batch = batch.to_vec();
        let deed = Deed { action: order.action, actor: order.actor.clone(), reason: order.reason.clone(), job: None };
        let outcome = store.writer.run("changing items", move |step| {
            change_batch(step, &deed, &batch, None, named).map_err(unavailable("changing items"))
        });
        for (id, refused) in outcome.await? {
            report.add(id, refused);
        }
    }
    Ok(report)
}

/// Changes the items and appends one audit entry. An item that a job did not begin with is passed over;
/// of the others the outcome says why they were refused, if they were.
pub(super) fn change_batch(
    step: &mut Step<'_>,
    deed: &Deed,
    ids: &[ItemId],
    statuses: Option<&[Status]>,
    selection: impl FnOnce(&[Change]) -> Value,
) -> rusqlite::Result<Outcomes> {
    let mut outcomes = Vec::new();
    let mut changes = Vec::new();
    for id in ids {
        let found = subject(step.tx, *id, step.now)?;
        if statuses.is_some_and(|statuses| !found.as_ref().is_some_and(|found| found.began_with(deed, statuses))) {
            continue;
        }
        outcomes.push((*id, change(step, deed, *id, found, &mut changes)?));
    }
    if !changes.is_empty() {
        audit::append(step, &deed.entry(selection(&changes), &changes))?;
    }
    Ok(outcomes)
}

/// Performs the action, or says why not.
fn change(
    step: &mut Step<'_>,
    deed: &Deed,
    id: ItemId,
    found: Option<Subject>,
    changes: &mut Vec<Change>,
) -> rusqlite::Result<Option<String>> {
    let Some(subject) = found else { return Ok(Some(MISSING.into())) };
    let to = match deed.action.apply(subject.standing) {
        Ok(to) => to,
        Err(reason) => return Ok(Some(reason)),
    };
    let before = subject.facts();
    match (deed.action, to) {
        (Action::Replay { keys }, Some(to)) => replay(step, &subject.item, to, keys)?,
        (Action::Dead { on_dead, .. }, _) => dead(step, deed, subject.item, on_dead)?,
        (Action::Restore, Some(to)) => restore(step, id, to)?,
        (Action::Reschedule { at }, _) => reschedule(step, id, at)?,
        (Action::Release { .. }, Some(to)) => release(step, deed, &subject.item, to)?,
        (_, None) => purge(step, id)?,
        (Action::Purge, Some(_)) => {}
    }
    step.makes_work = true;
    let after = self::subject(step.tx, id, step.now)?.map(|subject| subject.facts()).unwrap_or_default();
    changes.push(Change::between(id, before, after));
    Ok(None)
}

pub(super) fn subject(tx: &Connection, id: ItemId, now: Millis) -> rusqlite::Result<Option<Subject>> {
    let sql = format!("SELECT {COLUMNS}, epoch, blocks_key FROM outbox_items WHERE id = ?1");
    let mut select = tx.prepare_cached(&sql)?;
    let found = select.query_row([id], |row| Ok((decode::item(row)?.item, row.get("epoch")?, row.get("blocks_key")?)));
    let Some((item, epoch, blocks_key)) = found.optional()? else { return Ok(None) };
    let standing = standing(tx, &item, now)?;
    Ok(Some(Subject { item, standing, epoch, blocks_key }))
}

fn standing(tx: &Connection, item: &Item, now: Millis) -> rusqlite::Result<Standing> {
    let died = "SELECT 1 FROM outbox_attempts WHERE item_id = ?1 AND code = ?2 AND class = 'operator'
                AND delivery = (SELECT max(delivery) FROM outbox_attempts WHERE item_id = ?1)";
    let dead_by_operator = item.status == Status::Dlq && tx.prepare_cached(died)?.exists(params![item.id, DEAD])?;
    let saga_goes_on = match (&item.saga, item.status) {
        (Some(saga), Status::Done | Status::Dlq) => saga::has(tx, saga, &item.cid, "'PENDING', 'CLAIMED'")?,
        _ => false,
    };
    let is_leased = item.lease_until.is_some_and(|until| until > now);
    Ok(Standing { status: item.status, is_leased, dead_by_operator, saga_goes_on })
}

/// A new life: attempts 0, replays + 1, available now; history, `last_error` and `maybe_executed` stay.
fn replay(step: &mut Step<'_>, item: &Item, to: Status, keys: EffectKeys) -> rusqlite::Result<()> {
    let mut update = step.tx.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {EPOCH}, attempts = 0, replays = replays + 1, effects = effects + ?3,
             available_at = ?4, done_at = NULL, dead_at = NULL, blocks_key = 0, fingerprint = NULL,
             given_back_since = NULL
         WHERE id = ?1 AND status IN ('DONE', 'DLQ')"
    ))?;
    update.execute(params![item.id, to.as_str(), u32::from(keys == EffectKeys::New), step.now])?;
    if item.status == Status::Done {
        step.tally("done", "", &item.item_type, "", -1);
    }
    Ok(())
}

/// The operator's claim and its end, in one transaction.
fn dead(step: &mut Step<'_>, deed: &Deed, item: Item, on_dead: OnDead) -> rusqlite::Result<()> {
    let had_claim = item.status == Status::Claimed;
    let item = if had_claim { item } else { take(step, &deed.actor, item)? };
    if let Some(saga) = &item.saga {
        saga::join(step, saga, &item.cid, item.replays)?;
    }
    let handler_digest = item.handler_digest.clone();
    let attempted = Attempted { maybe_executed: had_claim, handler_digest, ..Attempted::of(&item) };
    let failure = deed.death();
    write_history(step, &attempted, &failure, None)?;
    dead_letter(step, &attempted, on_dead, &failure)
}

/// Claims an item for an operator, who attempts nothing: `attempts` stays.
fn take(step: &Step<'_>, actor: &str, mut item: Item) -> rusqlite::Result<Item> {
    let mut update = step.tx.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = 'CLAIMED', epoch = {EPOCH}, deliveries = deliveries + 1,
             claimed_at = ?2, claimed_by = ?3, claim_token = ?4, lease_until = ?2
         WHERE id = ?1 AND status = 'PENDING'"
    ))?;
    let token = uuid::Uuid::new_v4().simple().to_string();
    update.execute(params![item.id, step.now, actor, token])?;
    item.deliveries += 1;
    (item.claimed_at, item.claimed_by) = (Some(step.now), Some(actor.to_owned()));
    Ok(item)
}

/// As the item was before an operator dead-lettered it; its last failure is that before the operator's.
fn restore(step: &Step<'_>, id: ItemId, to: Status) -> rusqlite::Result<()> {
    let mut update = step.tx.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {EPOCH}, dead_at = NULL, blocks_key = 0, fingerprint = NULL,
             last_error = (SELECT message FROM outbox_attempts WHERE item_id = ?1
                           ORDER BY delivery DESC LIMIT 1 OFFSET 1)
         WHERE id = ?1 AND status = 'DLQ'"
    ))?;
    update.execute(params![id, to.as_str()]).map(|_| ())
}

fn reschedule(step: &Step<'_>, id: ItemId, at: Millis) -> rusqlite::Result<()> {
    let sql = "UPDATE outbox_items SET available_at = ?2 WHERE id = ?1 AND status = 'PENDING'";
    step.tx.prepare_cached(sql)?.execute([id, at.max(step.now)]).map(|_| ())
}

/// What an expired lease does, at an operator's word.
fn release(step: &mut Step<'_>, deed: &Deed, item: &Item, to: Status) -> rusqlite::Result<()> {
    let attempted = Attempted { maybe_executed: true, ..Attempted::of(item) };
    let failure = deed.release();
    write_history(step, &attempted, &failure, None)?;
    let mut update = step.tx.prepare_cached(&format!(
        "UPDATE outbox_items
         SET status = ?2, epoch = {EPOCH}, available_at = ?3, maybe_executed = 1, last_error = ?4,
             given_back_since = NULL, claimed_at = NULL, claimed_by = NULL, claim_token = NULL, lease_until = NULL
         WHERE id = ?1 AND status = 'CLAIMED'"
    ))?;
    update.execute(params![item.id, to.as_str(), step.now, failure.message])?;
    saga::step(step, &attempted, StepOutcome::Retried, failure.class.as_str())
}

/// The schema's delete trigger takes the history along and keeps the totals.
fn purge(step: &Step<'_>, id: ItemId) -> rusqlite::Result<()> {
    let sql = "DELETE FROM outbox_items WHERE id = ?1 AND status IN ('DONE', 'DLQ')";
    step.tx.prepare_cached(sql)?.execute([id]).map(|_| ())
}
