//! Operators' actions on items: by id here, by filter as a [`super::job`].
//!
//! Whether an item can take an action is decided by [`Action::apply`]; what it changes is written here,
//! with its audit, in one transaction.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value, json};

use super::audit::{self, Change};
use super::decode::{self, COLUMNS};
use super::job::{self, EPOCH};
use super::settle::{dead_letter, write_history};
use super::writer::Step;
use super::{SqliteStore, saga, select, unavailable};
use crate::item::{Class, Failure, Item, ItemId, Millis, OnDead, Status};
use crate::saga::StepOutcome;
use crate::store::{
    Action, Attempted, EffectKeys, Filter, JobId, Order, OrderReport, Refusal, Run, Selection, Standing, StoreError,
};

/// So many items are changed in one transaction, so that the writer is never held for long.
pub(super) const BATCH: u32 = 200;
/// So many ids are shown as a sample, and so many refusals are explained.
pub(super) const SAMPLE: usize = 20;
/// The code in the history row of an item that an operator dead-lettered.
const DEAD: &str = "operator.dead";

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
    let mut report = OrderReport { matched: ids.len() as u64, ..OrderReport::default() };
    for id in ids {
        let applied = subject(tx, id, now)?.map_or(Err(MISSING.into()), |subject| action.apply(subject.standing));
        report.add(id, applied.err());
    }
    Ok(report)
}

async fn change_all(store: &SqliteStore, order: &Order, ids: &[ItemId]) -> Result<OrderReport, StoreError> {
    let mut report = OrderReport { matched: ids.len() as u64, ..OrderReport::default() };
    for batch in ids.chunks(BATCH as usize) {
        let (batch, order) = (batch.to_vec(), order.clone());
        let outcome = store.writer.run("changing items", move |step| {
            let deed = Deed { action: order.action, actor: &order.actor, reason: order.reason.as_deref(), job: None };
            let selection = |changes: &[Change]| json!({ "ids": changes.iter().map(|c| c.id).collect::<Vec<_>>() });
            change_batch(step, &deed, &batch, None, selection).map_err(unavailable("changing items"))
        });
        for (id, refused) in outcome.await? {
            report.add(id, refused);
        }
    }
    Ok(report)
}

impl OrderReport {
    fn add(&mut self, id: ItemId, refused: Option<String>) {
        match refused {
            None => {
                self.changed += 1;
                self.sample.push(id);
                self.sample.truncate(SAMPLE);
            }
            Some(reason) => {
                self.refused.push(Refusal { id, reason });
                self.refused.truncate(SAMPLE);
            }
        }
    }
}

/// A filter means the items that the action applies to.
pub(super) fn narrowed(filter: &Filter, action: Action) -> Filter {
    let asked = if filter.status.is_empty() { Status::ALL.to_vec() } else { filter.status.clone() };
    let mut status: Vec<_> = asked.iter().copied().filter(|status| action.applies_to(*status)).collect();
    if status.is_empty() {
        // None of the statuses allows it: let each item's refusal say so.
        status = asked;
    }
    Filter { status, ..filter.clone() }
}

/// What is done, by whom and why.
pub(super) struct Deed<'a> {
    pub(super) action: Action,
    pub(super) actor: &'a str,
    pub(super) reason: Option<&'a str>,
    pub(super) job: Option<JobId>,
}

impl Deed<'_> {
    /// What the item's history says of it.
    fn failure(&self, code: &str, done: &str) -> Failure {
        let message = format!("{done} by {}: {}", self.actor, self.reason.unwrap_or("no reason given"));
        Failure::new(Class::Operator, code, message)
    }
}

/// An item as an action finds it.
pub(super) struct Subject {
    item: Item,
    standing: Standing,
    epoch: JobId,
    blocks_key: bool,
}

const MISSING: &str = "there is no such item";

/// Changes the items and appends one audit entry. An item that a job did not begin with is passed over;
/// of the others the outcome says why they were refused, if they were.
pub(super) fn change_batch(
    step: &mut Step<'_>,
    deed: &Deed<'_>,
    ids: &[ItemId],
    statuses: Option<&[Status]>,
    selection: impl FnOnce(&[Change]) -> Value,
) -> rusqlite::Result<Vec<(ItemId, Option<String>)>> {
    let mut outcomes = Vec::new();
    let mut changes = Vec::new();
    for id in ids {
        let found = subject(step.tx, *id, step.now)?;
        if statuses.is_some_and(|statuses| !found.as_ref().is_some_and(|found| began_with(found, deed, statuses))) {
            continue;
        }
        outcomes.push((*id, change(step, deed, *id, found, &mut changes)?));
    }
    if !changes.is_empty() {
        let (actor, action, reason, job) = (deed.actor, deed.action.as_str(), deed.reason, deed.job);
        let selection = selection(&changes);
        audit::append(step, &audit::Entry { actor, action, selection, reason, job, changes: &changes })?;
    }
    Ok(outcomes)
}

/// Whether the item has been in a status that the job takes since before the job began.
fn began_with(subject: &Subject, deed: &Deed<'_>, statuses: &[Status]) -> bool {
    statuses.contains(&subject.item.status) && deed.job.is_some_and(|job| subject.epoch < job)
}

/// Performs the action, or says why not.
fn change(
    step: &mut Step<'_>,
    deed: &Deed<'_>,
    id: ItemId,
    found: Option<Subject>,
    changes: &mut Vec<Change>,
) -> rusqlite::Result<Option<String>> {
    let Some(subject) = found else { return Ok(Some(MISSING.into())) };
    let to = match deed.action.apply(subject.standing) {
        Ok(to) => to,
        Err(reason) => return Ok(Some(reason)),
    };
    let before = facts(&subject);
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
    let after = self::subject(step.tx, id, step.now)?.map(|subject| facts(&subject)).unwrap_or_default();
    changes.push(difference(id, before, after));
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

/// What actions change of an item.
fn facts(subject: &Subject) -> Map<String, Value> {
    let item = &subject.item;
    let facts = json!({
        "status": item.status, "attempts": item.attempts, "deliveries": item.deliveries, "replays": item.replays,
        "effects": item.effects, "available_at": item.available_at, "maybe_executed": item.maybe_executed,
        "blocks_key": subject.blocks_key,
    });
    facts.as_object().cloned().unwrap_or_default()
}

/// The facts that are different afterwards; all of them before, when the item is gone.
fn difference(id: ItemId, mut before: Map<String, Value>, mut after: Map<String, Value>) -> Change {
    before.retain(|name, value| after.get(name) != Some(value));
    after.retain(|name, _| before.contains_key(name));
    let after = if after.is_empty() { Value::Null } else { after.into() };
    Change { id, before: before.into(), after }
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
fn dead(step: &mut Step<'_>, deed: &Deed<'_>, item: Item, on_dead: OnDead) -> rusqlite::Result<()> {
    let had_claim = item.status == Status::Claimed;
    let item = if had_claim { item } else { take(step, deed.actor, item)? };
    if let Some(saga) = &item.saga {
        saga::join(step, saga, &item.cid, item.replays)?;
    }
    let handler_digest = item.handler_digest.clone();
    let attempted = Attempted { maybe_executed: had_claim, handler_digest, ..Attempted::of(&item) };
    let failure = deed.failure(DEAD, "dead-lettered");
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
fn release(step: &mut Step<'_>, deed: &Deed<'_>, item: &Item, to: Status) -> rusqlite::Result<()> {
    let attempted = Attempted { maybe_executed: true, ..Attempted::of(item) };
    let failure = deed.failure("operator.release", "released");
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
