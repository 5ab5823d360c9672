//! Export and import: rows to and from records, column by column.
//!
//! It knows no column by name except those that identify a row; `outbox_store` lists the columns, and decides into
//! which place an imported item goes. Items are exported from the view `outbox_status`.

use rusqlite::{Connection, OptionalExtension, params};

use outbox_item::{ItemId, Status};
use outbox_store::engine::counters::Counter;
use outbox_store::engine::moved_item::{MovedItem, enqueued_columns, is_same_item, refuse_odd_texts};
use outbox_store::engine::{
    ATTEMPT_COLUMNS, COUNTER_COLUMNS, DESCENT_COLUMNS, ENQUEUED_COLUMNS, ITEM_COLUMNS, SAGA_COLUMNS, STATE_COLUMNS,
    integer_column, item_conflict, refuse_claimed, state_conflict, text_column,
};
use outbox_store::{Execution, ExportPage, ExportPosition, ImportReport, Record, RecordColumns, StoreError};

use crate::error::{unavailable, unusable};
use crate::moved_rows;
use crate::places::{arrive, leave_queue};
use crate::record_columns::{insert, rows};
use crate::write_tx::WriteTx;

/// At most `limit` records after the position: the items first, then the state, the totals, and what operators did.
pub(crate) fn export(tx: &Connection, after: ExportPosition, limit: u32) -> rusqlite::Result<ExportPage> {
    match after {
        ExportPosition::Item(id) => export_items(tx, id, limit),
        ExportPosition::State(version) => export_state(tx, version, limit),
        ExportPosition::Row { table, after } => moved_rows::export(tx, table, &after, limit),
    }
}

fn export_items(tx: &Connection, after: ItemId, limit: u32) -> rusqlite::Result<ExportPage> {
    let tail = format!("WHERE id > ?1 ORDER BY id LIMIT {limit}");
    let items = rows(tx, "outbox_status", ITEM_COLUMNS, &tail, [after.get()])?;
    let last = items.last().and_then(|item| item["id"].as_i64()).map(ItemId::new);
    let records = items.into_iter().map(|item| item_record(tx, item)).collect::<rusqlite::Result<_>>()?;
    Ok(ExportPage { records, next: Some(last.map_or(ExportPosition::State(0), ExportPosition::Item)) })
}

fn item_record(tx: &Connection, item: RecordColumns) -> rusqlite::Result<Record> {
    let attempts =
        rows(tx, "outbox_attempts", ATTEMPT_COLUMNS, "WHERE item_id = ?1 ORDER BY delivery", [item["id"].as_i64()])?;
    let key = [item["saga"].as_str(), item["cid"].as_str()];
    let run = rows(tx, "outbox_sagas", SAGA_COLUMNS, "WHERE saga = ?1 AND cid = ?2 AND run > 0", key)?.pop();
    Ok(Record::Item { item, attempts, run })
}

/// Values of state; after the last of them, the totals.
fn export_state(tx: &Connection, after: i64, limit: u32) -> rusqlite::Result<ExportPage> {
    let tail = format!("WHERE version > ?1 ORDER BY version LIMIT {limit}");
    let state = rows(tx, "outbox_state", STATE_COLUMNS, &tail, [after])?;
    if let Some(last) = state.last().and_then(|state| state["version"].as_i64()) {
        let records = state.into_iter().map(|state| Record::State { state }).collect();
        return Ok(ExportPage { records, next: Some(ExportPosition::State(last)) });
    }
    let totals =
        rows(tx, "outbox_counters", COUNTER_COLUMNS, "WHERE name <> 'done' ORDER BY name, saga, type, outcome", [])?;
    let records = totals.into_iter().map(|total| Record::Total { total }).collect();
    Ok(ExportPage { records, next: ExportPosition::table(0) })
}

/// Imports all records, or none when one conflicts with a row of this store.
pub(crate) fn import(
    tx: &mut WriteTx<'_>,
    records: &[Record],
    execution: Execution,
) -> Result<ImportReport, StoreError> {
    records.iter().try_for_each(refuse_odd_texts)?;
    let mut imported = ImportReport::default();
    for (index, record) in records.iter().enumerate() {
        let known = match record {
            Record::Item { item, .. } => is_known_item(tx.connection, index, item, record)?,
            Record::State { state } => is_known_state(tx.connection, state)?,
            Record::Total { total } => is_known_total(tx.connection, total).map_err(unavailable(TRIED))?,
            Record::Row { table, row } => moved_rows::is_known(tx.connection, table, row)?,
        };
        if known {
            imported.present += 1;
            continue;
        }
        imported.created += 1;
        if execution == Execution::Apply {
            create(tx, record).map_err(unavailable(TRIED))?;
        }
    }
    Ok(imported)
}

const TRIED: &str = "importing records";

/// Whether the same item is there. Another item with its id or its key is a conflict.
fn is_known_item(tx: &Connection, index: usize, item: &RecordColumns, record: &Record) -> Result<bool, StoreError> {
    refuse_claimed(item)?;
    let Some(first) = find_taken(tx, item).map_err(unavailable(TRIED))? else { return Ok(false) };
    let found = rows(tx, "outbox_status", ITEM_COLUMNS, "WHERE id = ?1", [first.get()]).map_err(unavailable(TRIED))?;
    let present = found.into_iter().next().map(|present| item_record(tx, present));
    match present.transpose().map_err(unavailable(TRIED))? {
        Some(present) if is_same_item(&present, record) => Ok(true),
        _ => Err(item_conflict(index, item, first)),
    }
}

/// The item that has the id or the key.
fn find_taken(tx: &Connection, item: &RecordColumns) -> rusqlite::Result<Option<ItemId>> {
    let mut select =
        tx.prepare_cached("SELECT id FROM outbox_items WHERE id = ?1 OR idem_key = ?2 ORDER BY id LIMIT 1")?;
    let values = params![integer_column(item, "id"), text_column(item, "idem_key")];
    select.query_row(values, |row| row.get(0).map(ItemId::new)).optional()
}

fn is_known_state(tx: &Connection, state: &RecordColumns) -> Result<bool, StoreError> {
    let tail = "WHERE version = ?1 OR (plugin = ?2 AND key = ?3)";
    let values = params![integer_column(state, "version"), text_column(state, "plugin"), text_column(state, "key")];
    let found = rows(tx, "outbox_state", STATE_COLUMNS, tail, values).map_err(unavailable(TRIED))?;
    match found.first() {
        None => Ok(false),
        Some(present) if present == state => Ok(true),
        Some(_) => Err(state_conflict(state)),
    }
}

/// Whether the stored total is at least as high as the record's.
fn is_known_total(tx: &Connection, total: &RecordColumns) -> rusqlite::Result<bool> {
    let [name, saga, item_type, outcome] = ["name", "saga", "type", "outcome"].map(|name| total[name].as_str());
    let sql = "SELECT total FROM outbox_counters WHERE name = ?1 AND saga = ?2 AND type = ?3 AND outcome = ?4";
    let present: Option<i64> =
        tx.prepare_cached(sql)?.query_row([name, saga, item_type, outcome], |row| row.get(0)).optional()?;
    Ok(present >= total["total"].as_i64())
}

fn create(tx: &mut WriteTx<'_>, record: &Record) -> rusqlite::Result<()> {
    match record {
        Record::Item { item, attempts, run } => {
            for attempt in attempts {
                insert(tx.connection, "outbox_attempts", ATTEMPT_COLUMNS, attempt, "")?;
            }
            if let Some(run) = run {
                insert(tx.connection, "outbox_sagas", SAGA_COLUMNS, run, REPLACE_RUN)?;
            }
            create_item(tx, item, run.as_ref())
        }
        Record::State { state } => insert(tx.connection, "outbox_state", STATE_COLUMNS, state, ""),
        Record::Total { total } => insert(tx.connection, "outbox_counters", COUNTER_COLUMNS, total, REPLACE_TOTAL),
        Record::Row { table, row } => moved_rows::create(tx.connection, table, row),
    }
}

/// Each item of a run brings the run along. How many of its items are dead is counted as they come.
const REPLACE_RUN: &str =
    "ON CONFLICT DO UPDATE SET run = excluded.run, began_at = excluded.began_at, ended_at = excluded.ended_at";

const REPLACE_TOTAL: &str = "ON CONFLICT DO UPDATE SET total = excluded.total";

/// Enqueues the item as an application would, and moves it from the queue to its place.
fn create_item(tx: &mut WriteTx<'_>, item: &RecordColumns, run: Option<&RecordColumns>) -> rusqlite::Result<()> {
    let MovedItem { ended, moved, finished_at } = MovedItem::read(item).map_err(unusable)?;
    insert(tx.connection, "outbox_items", ENQUEUED_COLUMNS, &enqueued_columns(item), "")?;
    if integer_column(item, "root").is_some() {
        insert(tx.connection, "outbox_descendants", DESCENT_COLUMNS, item, "")?;
    }
    leave_queue(tx, ended.id)?;
    let finished_at = finished_at.unwrap_or(tx.now).get();
    if let (None, Status::Dlq, Some(saga)) = (run, moved.status(), &ended.saga) {
        begin_no_run(tx, saga, &ended.cid, finished_at)?;
    }
    arrive(tx, &ended, &moved)?;
    let set_time = match moved.status() {
        Status::Done => "UPDATE outbox_done SET done_at = ?2 WHERE id = ?1",
        _ => "UPDATE outbox_dead SET dead_at = ?2 WHERE id = ?1",
    };
    tx.connection.prepare_cached(set_time)?.execute([ended.id.get(), finished_at])?;
    if moved.status() == Status::Done {
        tx.count(Counter::Done { item_type: &ended.item_type }, 1);
    }
    tx.wakes_workers = true;
    Ok(())
}

/// Creates the row in which the dead items of a saga are counted that had no run. The number of the run is 0, and an
/// export leaves the row out.
fn begin_no_run(tx: &WriteTx<'_>, saga: &str, cid: &str, ended_at: i64) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO outbox_sagas (saga, cid, run, began_at, ended_at) VALUES (?1, ?2, 0, ?3, ?3)";
    tx.connection.prepare_cached(sql)?.execute(params![saga, cid, ended_at]).map(|_| ())
}

/// Keeps this store from giving out ids up to `up_to`.
pub(crate) fn reserve(tx: &Connection, up_to: ItemId) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'outbox_items', 0
         WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'outbox_items')",
        [],
    )?;
    let sql = "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'outbox_items' AND seq < ?1";
    tx.execute(sql, [up_to.get()]).map(|_| ())
}

/// The highest id that this store has given out or reserved.
pub(crate) fn reserved(tx: &Connection) -> rusqlite::Result<ItemId> {
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox_items'";
    tx.query_row(sql, [], |row| row.get(0).map(ItemId::new))
}
