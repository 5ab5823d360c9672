//! Operators' actions and their audit, and the display rows of processes.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::reader::Reader;
use super::select;
use super::unavailable;
use super::writer::{Step, Writer};
use crate::item::{Event, ItemId, Millis, Status};
use crate::store::{Action, EffectKeys, Filter, Order, OrderReport, Pod, Refusal, Run, Selection, StoreError};

/// So many items are changed in one transaction, so that the writer is never held for long.
const BATCH: usize = 200;
/// So many ids are shown as a sample, and so many refusals are explained.
const SAMPLE: usize = 20;
/// A pod that has been silent for so long is forgotten.
const POD_KEPT_MS: Millis = 24 * 3600 * 1000;

pub(super) async fn operate(writer: &Writer, reader: &Arc<Reader>, order: &Order) -> Result<OrderReport, StoreError> {
    let ids = match &order.selection {
        Selection::Ids(ids) => ids.clone(),
        Selection::Filter(filter) => {
            let filter = narrowed(filter, order.action);
            reader.run("finding the items", move |tx| select::matching(tx, &filter)).await?
        }
    };
    let mut report = OrderReport { matched: ids.len() as u64, ..OrderReport::default() };
    for batch in ids.chunks(BATCH) {
        let (batch, order) = (batch.to_vec(), order.clone());
        let part = writer.run("changing items", move |step| change_batch(step, &order, &batch)).await?;
        merge(&mut report, part);
    }
    Ok(report)
}

/// A filter means the items that the action applies to.
fn narrowed(filter: &Filter, action: Action) -> Filter {
    let applies = |status: &Status| next(action, *status).is_ok();
    let asked = if filter.status.is_empty() { Status::ALL.to_vec() } else { filter.status.clone() };
    let mut status: Vec<_> = asked.iter().copied().filter(applies).collect();
    if status.is_empty() {
        // None of the statuses allows it: let each item's refusal say so.
        status = asked;
    }
    Filter { status, ..filter.clone() }
}

fn merge(report: &mut OrderReport, part: OrderReport) {
    report.changed += part.changed;
    report.sample.extend(part.sample);
    report.sample.truncate(SAMPLE);
    report.refused.extend(part.refused);
    report.refused.truncate(SAMPLE);
}

fn change_batch(step: &mut Step<'_>, order: &Order, ids: &[ItemId]) -> Result<OrderReport, StoreError> {
    let mut report = OrderReport::default();
    let mut changes = Vec::new();
    for id in ids {
        match change(step, order, *id).map_err(unavailable("changing an item"))? {
            Ok(from) => {
                report.changed += 1;
                report.sample.push(*id);
                changes.push(json!({ "id": id, "from": from }));
            }
            Err(reason) => report.refused.push(Refusal { id: *id, reason }),
        }
    }
    if order.run == Run::Real && report.changed > 0 {
        audit(step, order, &changes).map_err(unavailable("writing the audit trail"))?;
    }
    Ok(report)
}

/// The status that the item had, or why the action does not apply to it.
fn change(step: &mut Step<'_>, order: &Order, id: ItemId) -> rusqlite::Result<Result<Status, String>> {
    let mut select = step.tx.prepare_cached("SELECT status, type FROM outbox_items WHERE id = ?1")?;
    let found: Option<(String, String)> = select.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((word, item_type)) = found else { return Ok(Err("there is no such item".into())) };
    let status: Status = match word.parse() {
        Ok(status) => status,
        Err(err) => return Ok(Err(format!("{err}"))),
    };
    if let Err(reason) = next(order.action, status) {
        return Ok(Err(reason));
    }
    if order.run == Run::Real {
        match order.action {
            Action::Replay { keys } => replay(step, id, status, &item_type, keys)?,
            Action::Purge => purge(step, id)?,
        }
    }
    Ok(Ok(status))
}

/// Whether the action applies to an item of this status; the error says why not.
fn next(action: Action, from: Status) -> Result<(), String> {
    match action {
        Action::Replay { .. } => from
            .next(Event::Replay)
            .map(|_| ())
            .map_err(|_| format!("it is {from}: only DONE and DLQ items can be replayed")),
        Action::Purge if matches!(from, Status::Done | Status::Dlq) => Ok(()),
        Action::Purge => Err(format!("it is {from}: only DONE and DLQ items can be purged")),
    }
}

/// A new life: attempts 0, replays + 1, available now; history, `last_error` and `maybe_executed` stay.
fn replay(step: &mut Step<'_>, id: ItemId, from: Status, item_type: &str, keys: EffectKeys) -> rusqlite::Result<()> {
    let mut update = step.tx.prepare_cached(
        "UPDATE outbox_items
         SET status = 'PENDING', attempts = 0, replays = replays + 1, effects = effects + ?3, available_at = ?2,
             done_at = NULL, dead_at = NULL, blocks_key = 0, given_back_since = NULL
         WHERE id = ?1 AND status IN ('DONE', 'DLQ')",
    )?;
    update.execute(params![id, step.now, u32::from(keys == EffectKeys::New)])?;
    if from == Status::Done {
        step.tally("done", "", item_type, "", -1);
    }
    step.makes_work = true;
    Ok(())
}

/// The schema's delete trigger takes the history along and keeps the totals.
fn purge(step: &mut Step<'_>, id: ItemId) -> rusqlite::Result<()> {
    let sql = "DELETE FROM outbox_items WHERE id = ?1 AND status IN ('DONE', 'DLQ')";
    step.tx.prepare_cached(sql)?.execute([id])?;
    step.makes_work = true;
    Ok(())
}

fn audit(step: &Step<'_>, order: &Order, changes: &[serde_json::Value]) -> rusqlite::Result<()> {
    let selection = match &order.selection {
        Selection::Ids(_) => json!({ "ids": changes.iter().map(|change| &change["id"]).collect::<Vec<_>>() }),
        Selection::Filter(filter) => json!({ "filter": filter }),
    };
    let mut insert = step.tx.prepare_cached(
        "INSERT INTO outbox_audit (at, actor, action, selection, reason, count, changes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    insert.execute(params![
        step.now,
        order.actor,
        order.action.as_str(),
        selection.to_string(),
        order.reason,
        changes.len() as u64,
        serde_json::Value::from(changes).to_string()
    ])?;
    Ok(())
}

pub(super) fn heartbeat(step: &mut Step<'_>, pod: &Pod) -> Result<(), StoreError> {
    write_pod(step, pod).map_err(unavailable("writing a heartbeat"))
}

fn write_pod(step: &Step<'_>, pod: &Pod) -> rusqlite::Result<()> {
    let mut write = step.tx.prepare_cached(
        "INSERT INTO outbox_pods (instance, role, ready, heartbeat_at, plugins) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET role = excluded.role, ready = excluded.ready,
             heartbeat_at = excluded.heartbeat_at, plugins = excluded.plugins",
    )?;
    write.execute(params![pod.instance, pod.role, pod.ready, step.now, pod.plugins.to_string()])?;
    let forget = "DELETE FROM outbox_pods WHERE heartbeat_at < ?1";
    step.tx.prepare_cached(forget)?.execute([step.now - POD_KEPT_MS])?;
    Ok(())
}
