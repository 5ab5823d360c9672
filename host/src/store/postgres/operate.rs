//! Operators' actions on items: by id here, by filter as a [`super::job`].
//!
//! Whether an item can take an action is decided by [`Action::apply`](crate::store::Action::apply); what it
//! changes is written here for many items at once, with its audit, in one transaction.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::Row;

use super::caller::Caller;
use super::decode;
use super::ending::{EPOCH, Ending, finish};
use super::fault::Fault;
use super::select;
use super::step::{Sql, Step};
use super::{PostgresStore, audit, front, job, saga};
use crate::item::{Item, ItemId, Millis, OnDead, Status};
use crate::store::condition::Condition;
use crate::store::deed::{BATCH, Change, DEAD, Deed, MISSING, Outcomes, Subject, named, narrowed};
use crate::store::{Action, Attempted, EffectKeys, Order, OrderReport, Run, Selection, Standing, StoreError};

pub(super) async fn operate(store: &PostgresStore, order: &Order) -> Result<OrderReport, StoreError> {
    match (&order.selection, order.run) {
        (selection, Run::Dry) => {
            let (caller, now) = (&*store.caller, store.caller.now().await?);
            read!(caller, "looking what an order would do", |tx| preview(tx, selection, order.action, now))
        }
        (Selection::Filter(_), Run::Real) => job::run(store, order).await,
        (Selection::Ids(ids), Run::Real) => change_all(store, order, ids).await,
    }
}

/// What the order would do. Reads only.
async fn preview(sql: &impl Sql, selection: &Selection, action: Action, now: Millis) -> Result<OrderReport, Fault> {
    let ids = match selection {
        Selection::Ids(ids) => ids.clone(),
        Selection::Filter(filter) => select::ids(sql, &Condition::of(&narrowed(filter, action)), u32::MAX).await?,
    };
    let mut report = OrderReport::about(ids.len());
    for batch in ids.chunks(BATCH as usize) {
        let mut found = subjects(sql, batch, now, "").await?;
        for id in batch {
            let applied = judge(&mut found, *id, action);
            report.add(*id, applied.err());
        }
    }
    Ok(report)
}

async fn change_all(store: &PostgresStore, order: &Order, ids: &[ItemId]) -> Result<OrderReport, StoreError> {
    let (caller, mut report) = (&*store.caller, OrderReport::about(ids.len()));
    let deed = Deed { action: order.action, actor: order.actor.clone(), reason: order.reason.clone(), job: None };
    for batch in ids.chunks(BATCH as usize) {
        let outcomes = transact!(caller, "changing items", |step| change_batch(step, &deed, batch, None, named))?;
        for (id, refused) in outcomes {
            report.add(id, refused);
        }
    }
    Ok(report)
}

/// Changes the items and appends one audit entry. An item that a job did not begin with is passed over;
/// of the others the outcome says why they were refused, if they were.
pub(super) async fn change_batch(
    step: &mut Step<'_>,
    deed: &Deed,
    ids: &[ItemId],
    statuses: Option<&[Status]>,
    selection: impl FnOnce(&[Change]) -> Value,
) -> Result<Outcomes, Fault> {
    front::wait(step, ids).await?;
    let mut found = subjects(step, ids, step.now, "FOR UPDATE OF item").await?;
    let (mut outcomes, mut willing) = (Vec::new(), Vec::new());
    for id in ids {
        let before = found.get(id).cloned();
        if statuses.is_some_and(|statuses| !before.as_ref().is_some_and(|found| found.began_with(deed, statuses))) {
            continue;
        }
        let applied = judge(&mut found, *id, deed.action);
        willing.extend(before.filter(|_| applied.is_ok()));
        outcomes.push((*id, applied.err()));
    }
    if !willing.is_empty() {
        perform(step, deed, &willing).await?;
        step.makes_work_elsewhere = true;
        let changes = changes(step, &willing).await?;
        audit::append(step, &deed.entry(selection(&changes), &changes)).await?;
    }
    Ok(outcomes)
}

/// Whether the item can take the action. It is in its new status from then on, in case it is named again.
fn judge(found: &mut HashMap<ItemId, Subject>, id: ItemId, action: Action) -> Result<(), String> {
    let subject = found.get_mut(&id).ok_or(MISSING)?;
    match action.apply(subject.standing)? {
        Some(to) => subject.standing = Standing { status: to, is_leased: false, ..subject.standing },
        None => drop(found.remove(&id)),
    }
    Ok(())
}

/// What changed of the items, now that it has.
async fn changes(step: &Step<'_>, willing: &[Subject]) -> Result<Vec<Change>, Fault> {
    let after = subjects(step, &ids(willing), step.now, "").await?;
    let change = |before: &Subject| {
        let after = after.get(&before.item.id).map(Subject::facts).unwrap_or_default();
        Change::between(before.item.id, before.facts(), after)
    };
    Ok(willing.iter().map(change).collect())
}

fn ids(subjects: &[Subject]) -> Vec<ItemId> {
    subjects.iter().map(|subject| subject.item.id).collect()
}

/// The items as they stand, by id, without their payloads.
async fn subjects(sql: &impl Sql, ids: &[ItemId], now: Millis, lock: &str) -> Result<HashMap<ItemId, Subject>, Fault> {
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
             ) AS saga_goes_on
         FROM outbox.items AS item WHERE id = ANY($1::bigint[]) ORDER BY id {lock}",
        decode::without_payload()
    );
    let rows = sql.rows(&statement, &[&ids, &DEAD]).await?;
    rows.iter().map(|row| subject(row, now).map(|subject| (subject.item.id, subject))).collect()
}

fn subject(row: &Row, now: Millis) -> Result<Subject, Fault> {
    let item = decode::item(row)?.item;
    let standing = Standing {
        status: item.status,
        is_leased: item.lease_until.is_some_and(|until| until > now),
        dead_by_operator: row.try_get("dead_by_operator")?,
        saga_goes_on: row.try_get("saga_goes_on")?,
    };
    Ok(Subject { item, standing, epoch: row.try_get("epoch")?, blocks_key: row.try_get("blocks_key")? })
}

/// Performs the action on items that can take it.
async fn perform(step: &mut Step<'_>, deed: &Deed, subjects: &[Subject]) -> Result<(), Fault> {
    match deed.action {
        Action::Replay { keys } => replay(step, subjects, keys).await,
        Action::Dead { on_dead, .. } => dead(step, deed, subjects, on_dead).await,
        Action::Restore => restore(step, &ids(subjects)).await,
        Action::Reschedule { at } => {
            let statement = "UPDATE outbox.items SET available_at = $2 WHERE id = ANY($1::bigint[])";
            step.rows(statement, &[&ids(subjects), &at.max(step.now)]).await.map(drop)
        }
        Action::Release { .. } => release(step, deed, subjects).await,
        // The schema's delete trigger takes the history along and keeps the totals.
        Action::Purge => {
            let statement = "DELETE FROM outbox.items WHERE id = ANY($1::bigint[])";
            step.rows(statement, &[&ids(subjects)]).await.map(drop)
        }
    }
}

/// A new life: attempts 0, replays + 1, available now; history, `last_error` and `maybe_executed` stay.
async fn replay(step: &mut Step<'_>, subjects: &[Subject], keys: EffectKeys) -> Result<(), Fault> {
    let statement = format!(
        "UPDATE outbox.items
         SET status = 'PENDING', epoch = {EPOCH}, attempts = 0, replays = replays + 1, effects = effects + $2::bigint,
             available_at = $3, done_at = NULL, dead_at = NULL, blocks_key = false, fingerprint = NULL,
             given_back_since = NULL
         WHERE id = ANY($1::bigint[])"
    );
    step.rows(&statement, &[&ids(subjects), &i64::from(keys == EffectKeys::New), &step.now]).await?;
    for subject in subjects.iter().filter(|subject| subject.item.status == Status::Done) {
        step.tally("done", "", &subject.item.item_type, "", -1);
    }
    Ok(())
}

/// The operator's claim of those that nobody has claimed, and the end of all claims.
async fn dead(step: &mut Step<'_>, deed: &Deed, subjects: &[Subject], on_dead: OnDead) -> Result<(), Fault> {
    let (taken, had): (Vec<_>, Vec<_>) = subjects.iter().partition(|subject| subject.item.status == Status::Pending);
    let ids: Vec<_> = taken.iter().map(|subject| subject.item.id).collect();
    // An operator attempts nothing: `attempts` stays.
    step.rows("UPDATE outbox.items SET deliveries = deliveries + 1 WHERE id = ANY($1::bigint[])", &[&ids]).await?;
    let take = |subject: &&Subject| Item {
        deliveries: subject.item.deliveries + 1,
        claimed_at: Some(step.now),
        claimed_by: Some(deed.actor.clone()),
        ..subject.item.clone()
    };
    let taken: Vec<Item> = taken.iter().map(take).collect();
    let had: Vec<Item> = had.iter().map(|subject| subject.item.clone()).collect();
    let (failure, now) = (deed.death(), step.now);
    let end = |(item, maybe_executed): (&Item, bool)| {
        let handler_digest = item.handler_digest.clone();
        let attempted = Attempted { maybe_executed, handler_digest, ..Attempted::of(item) };
        Ending::dead(item, attempted, on_dead, failure.clone(), now).map(Ending::recorded)
    };
    let all = taken.iter().map(|item| (item, false)).chain(had.iter().map(|item| (item, true)));
    let endings: Vec<_> = all.map(end).collect::<Result<_, _>>()?;
    saga::join(step, &[taken, had].concat()).await?;
    finish(step, &endings).await
}

/// As the items were before an operator dead-lettered them; their last failure is that before the operator's.
async fn restore(step: &Step<'_>, ids: &[ItemId]) -> Result<(), Fault> {
    let statement = format!(
        "UPDATE outbox.items
         SET status = 'PENDING', epoch = {EPOCH}, dead_at = NULL, blocks_key = false, fingerprint = NULL,
             last_error = (SELECT message FROM outbox.attempts WHERE item_id = id
                           ORDER BY delivery DESC LIMIT 1 OFFSET 1)
         WHERE id = ANY($1::bigint[])"
    );
    step.rows(&statement, &[&ids]).await.map(drop)
}

/// What an expired lease does, at an operator's word.
async fn release(step: &mut Step<'_>, deed: &Deed, subjects: &[Subject]) -> Result<(), Fault> {
    let (failure, now) = (deed.release(), step.now);
    let end = |subject: &Subject| Ending::lost(&subject.item, failure.clone(), now);
    let endings: Vec<_> = subjects.iter().map(end).collect::<Result<_, _>>()?;
    finish(step, &endings).await
}
