//! Export and import: rows to and from records, column by column. A record of an item is the same, byte for byte, as
//! the record that the SQLite store makes of it, but for the `turn` of an item with an ordering key.
//!
//! `outbox_store` lists the columns, and decides into which place an imported item goes; `column_type` knows their
//! types. Items are exported from the view `outbox.status`.

use std::collections::HashMap;

use serde_json::Value;

use outbox_item::{ItemId, Millis, Status};
use outbox_store::engine::counters::Counter;
use outbox_store::engine::moved_item::{MovedItem, enqueued_columns, is_same_item, refuse_odd_texts};
use outbox_store::engine::{
    ATTEMPT_COLUMNS, COUNTER_COLUMNS, DESCENT_COLUMNS, ENQUEUED_COLUMNS, ITEM_COLUMNS, SAGA_COLUMNS, STATE_COLUMNS,
    integer_column, item_conflict, refuse_claimed, state_conflict, text_column,
};
use outbox_store::{Execution, ExportPage, ExportPosition, ImportReport, Record, RecordColumns, StoreError};

use crate::column_type::{ColumnType, TURN};
use crate::error::PgError;
use crate::moved_rows;
use crate::ordering;
use crate::places::{self, OldPlace, PlaceChange};
use crate::record_columns::{insert, rows};
use crate::tx::{Query, Values, WriteTx, without_nul};

/// Records of one import: each takes about ten round trips.
pub(crate) const IMPORT_SIZE: usize = 8;
/// The sequence of the ids.
const IDS: &str = "outbox.items_id_seq";
/// The sequence of the places in the lines of ordering keys.
const TURNS: &str = "outbox.turn_seq";

/// At most `limit` records after the position: the items first, then the state, the totals, and what operators did.
pub(crate) async fn export(tx: &impl Query, after: ExportPosition, limit: u32) -> Result<ExportPage, PgError> {
    match after {
        ExportPosition::Item(id) => export_items(tx, id, limit).await,
        ExportPosition::State(version) => export_state(tx, version, limit).await,
        ExportPosition::Row { table, after } => moved_rows::export(tx, table, &after, limit).await,
    }
}

async fn export_items(tx: &impl Query, after: ItemId, limit: u32) -> Result<ExportPage, PgError> {
    let next = format!("SELECT id FROM outbox.items WHERE id > $1 ORDER BY id LIMIT {limit}");
    let ids = tx.rows(&next, &[&after.get()]).await?;
    let ids: Vec<i64> = ids.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let records = item_records(tx, items(tx, &ids).await?).await?;
    refuse_misplaced(&ids, &records)?;
    let next = Some(ids.last().map_or(ExportPosition::State(0), |last| ExportPosition::Item(ItemId::new(*last))));
    Ok(ExportPage { records, next })
}

/// The items' columns, by ascending id. An item has a `turn` if it has an ordering key; other engines have none.
async fn items(tx: &impl Query, ids: &[i64]) -> Result<Vec<RecordColumns>, PgError> {
    let columns = [ITEM_COLUMNS, &[TURN]].concat();
    let tail = "WHERE id = ANY($1) ORDER BY id";
    let mut items = rows(tx, "outbox.status", &columns, tail, &[&ids.to_vec()]).await?;
    for item in &mut items {
        if item.get(TURN).is_some_and(Value::is_null) {
            item.remove(TURN);
        }
    }
    Ok(items)
}

/// An item that is in no place, or in two, would be left out of the file, or be in it twice.
fn refuse_misplaced(ids: &[i64], records: &[Record]) -> Result<(), PgError> {
    let found = records.iter().filter_map(Record::item_id).map(ItemId::get);
    match ids.iter().copied().zip(found.chain(std::iter::repeat(0))).find(|(id, found)| id != found) {
        None if ids.len() == records.len() => Ok(()),
        misplaced => {
            let id = misplaced.map_or(0, |(id, _)| id);
            let message = format!("item {id} is not in exactly one place: `outbox doctor` says what to do about it");
            Err(StoreError::Unusable(message).into())
        }
    }
}

/// The items with their history and the runs of their sagas.
async fn item_records(tx: &impl Query, items: Vec<RecordColumns>) -> Result<Vec<Record>, PgError> {
    let ids: Vec<_> = items.iter().filter_map(|item| integer_column(item, "id")).collect();
    let tail = "WHERE item_id = ANY($1::bigint[]) ORDER BY item_id, delivery";
    let mut histories: HashMap<i64, Vec<RecordColumns>> = HashMap::new();
    for attempt in rows(tx, "outbox.attempts", ATTEMPT_COLUMNS, tail, &[&ids]).await? {
        histories.entry(integer_column(&attempt, "item_id").unwrap_or_default()).or_default().push(attempt);
    }
    let mut records = Vec::new();
    for item in items {
        let attempts = integer_column(&item, "id").and_then(|id| histories.remove(&id)).unwrap_or_default();
        let run = run(tx, &item).await?;
        records.push(Record::Item { item, attempts, run });
    }
    Ok(records)
}

async fn run(tx: &impl Query, item: &RecordColumns) -> Result<Option<RecordColumns>, PgError> {
    let (saga, cid) = (text_column(item, "saga"), text_column(item, "cid"));
    if saga.is_empty() {
        return Ok(None);
    }
    Ok(rows(tx, "outbox.sagas", SAGA_COLUMNS, "WHERE saga = $1 AND cid = $2 AND run > 0", &[&saga, &cid]).await?.pop())
}

/// Values of state; after the last of them, the totals.
async fn export_state(tx: &impl Query, after: i64, limit: u32) -> Result<ExportPage, PgError> {
    let tail = format!("WHERE version > $1 ORDER BY version LIMIT {limit}");
    let state = rows(tx, "outbox.state", STATE_COLUMNS, &tail, &[&after]).await?;
    if let Some(last) = state.last().and_then(|state| integer_column(state, "version")) {
        let records = state.into_iter().map(|state| Record::State { state }).collect();
        return Ok(ExportPage { records, next: Some(ExportPosition::State(last)) });
    }
    let tail = "WHERE name <> 'done' ORDER BY name, saga, type, outcome";
    let totals = rows(tx, "outbox.totals", COUNTER_COLUMNS, tail, &[]).await?;
    let records = totals.into_iter().map(|total| Record::Total { total }).collect();
    Ok(ExportPage { records, next: ExportPosition::table(0) })
}

/// Imports all records, or none when one conflicts with a row of this store.
pub(crate) async fn import(
    tx: &mut WriteTx<'_>,
    records: &[Record],
    execution: Execution,
) -> Result<ImportReport, PgError> {
    records.iter().try_for_each(refuse_odd_texts)?;
    if execution == Execution::Apply {
        // Lines are waited for before anything else is locked, and the reservation can lock the table of the items.
        ordering::lock_lines(tx, &lines_of(records)).await?;
        reserve_for(tx, records).await?;
        // At once instead of at the commit, so that each item is in the queue when it is put into its place.
        tx.rows("SET CONSTRAINTS outbox.items_line_up IMMEDIATE", &[]).await?;
    }
    let mut imported = ImportReport::default();
    for (index, record) in records.iter().enumerate() {
        if is_known(tx, index, record).await? {
            imported.present += 1;
            continue;
        }
        imported.created += 1;
        if execution == Execution::Apply {
            create(tx, record).await?;
        }
    }
    Ok(imported)
}

async fn is_known(tx: &impl Query, index: usize, record: &Record) -> Result<bool, PgError> {
    match record {
        Record::Item { item, .. } => is_known_item(tx, index, item, record).await,
        Record::State { state } => is_known_state(tx, state).await,
        Record::Total { total } => is_known_total(tx, total).await,
        Record::Row { table, row } => moved_rows::is_known(tx, table, &without_nul_in(row)).await,
    }
}

/// Whether the same item is there. Another item with its id or its key is a conflict.
async fn is_known_item(tx: &impl Query, index: usize, item: &RecordColumns, record: &Record) -> Result<bool, PgError> {
    refuse_claimed(item)?;
    let find = "SELECT id FROM outbox.items WHERE id = $1 OR idem_key = $2 ORDER BY id LIMIT 1";
    let found = tx.rows(find, &[&integer_column(item, "id"), &text_column(item, "idem_key")]).await?;
    let Some(row) = found.first() else { return Ok(false) };
    let first = row.try_get(0)?;
    let present = item_records(tx, items(tx, &[first]).await?).await?;
    if present.first().is_some_and(|present| is_same_item(present, &record_without_nul(record))) {
        return Ok(true);
    }
    Err(item_conflict(index, item, ItemId::new(first)).into())
}

/// The record with its text as PostgreSQL can store it.
fn record_without_nul(record: &Record) -> Record {
    match record {
        Record::Item { item, attempts, run } => Record::Item {
            item: without_nul_in(item),
            attempts: attempts.iter().map(without_nul_in).collect(),
            run: run.as_ref().map(without_nul_in),
        },
        other => other.clone(),
    }
}

fn without_nul_in(columns: &RecordColumns) -> RecordColumns {
    let cell = |(name, value): (&String, &Value)| match value {
        Value::String(text) if ColumnType::of(name) != ColumnType::Bytes => (name.clone(), without_nul(text).into()),
        value => (name.clone(), value.clone()),
    };
    columns.iter().map(cell).collect()
}

async fn is_known_state(tx: &impl Query, state: &RecordColumns) -> Result<bool, PgError> {
    let tail = "WHERE version = $1 OR (plugin = $2 AND key = $3)";
    let key = text_column(state, "key").as_bytes();
    let values: Values<'_> = &[&integer_column(state, "version"), &text_column(state, "plugin"), &key];
    match rows(tx, "outbox.state", STATE_COLUMNS, tail, values).await?.first() {
        None => Ok(false),
        Some(present) if present == state => Ok(true),
        Some(_) => Err(state_conflict(state).into()),
    }
}

/// Whether the stored total is at least as high as the record's.
async fn is_known_total(tx: &impl Query, total: &RecordColumns) -> Result<bool, PgError> {
    let [name, saga, item_type, outcome] = ["name", "saga", "type", "outcome"].map(|name| text_column(total, name));
    let statement = "SELECT total FROM outbox.totals WHERE name = $1 AND saga = $2 AND type = $3 AND outcome = $4";
    let rows = tx.rows(statement, &[&name, &saga, &item_type, &outcome]).await?;
    let present: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(present >= integer_column(total, "total"))
}

async fn create(tx: &mut WriteTx<'_>, record: &Record) -> Result<(), PgError> {
    match record {
        Record::Item { item, attempts, run } => create_item(tx, item, attempts, run.as_ref()).await,
        Record::State { state } => insert(tx, "outbox.state", STATE_COLUMNS, state, "").await,
        Record::Total { total } => create_total(tx, total).await,
        Record::Row { table, row } => moved_rows::create(tx, table, row).await,
    }
}

async fn create_item(
    tx: &mut WriteTx<'_>,
    item: &RecordColumns,
    attempts: &[RecordColumns],
    run: Option<&RecordColumns>,
) -> Result<(), PgError> {
    let imported = MovedItem::read(item)?;
    insert(tx, "outbox.items", ENQUEUED_COLUMNS, &enqueued_columns(item), "").await?;
    if integer_column(item, "root").is_some() {
        insert(tx, "outbox.descendants", DESCENT_COLUMNS, item, "").await?;
    }
    for attempt in attempts {
        insert(tx, "outbox.attempts", ATTEMPT_COLUMNS, attempt, "").await?;
    }
    if let Some(run) = run {
        // The number of dead items stays: each dead item is counted when it arrives.
        let replace = "ON CONFLICT (saga, cid) DO UPDATE
                       SET run = excluded.run, began_at = excluded.began_at, ended_at = excluded.ended_at";
        insert(tx, "outbox.sagas", SAGA_COLUMNS, run, replace).await?;
    }
    if run.is_none() && imported.moved.status() == Status::Dlq {
        begin_no_run(tx, item, imported.finished_at).await?;
    }
    put_into_place(tx, item, &imported).await?;
    if imported.moved.status() == Status::Done {
        tx.count(Counter::Done { item_type: &imported.ended.item_type }, 1);
    }
    tx.wakes_other_processes = true;
    Ok(())
}

/// Creates the row in which the dead items of a saga are counted that had no run. The number of the run is 0, and an
/// export leaves the row out.
async fn begin_no_run(tx: &WriteTx<'_>, item: &RecordColumns, ended_at: Option<Millis>) -> Result<(), PgError> {
    let (saga, cid) = (text_column(item, "saga"), text_column(item, "cid"));
    if saga.is_empty() {
        return Ok(());
    }
    let insert = "INSERT INTO outbox.sagas (saga, cid, run, began_at, ended_at) VALUES ($1::text, $2::text, 0, $3, $3)
                  ON CONFLICT DO NOTHING";
    tx.rows(insert, &[&saga, &cid, &ended_at.unwrap_or(tx.now).get()]).await.map(drop)
}

/// Moves a new item from the queue to the place where it was.
async fn put_into_place(tx: &WriteTx<'_>, item: &RecordColumns, imported: &MovedItem) -> Result<(), PgError> {
    let MovedItem { ended, moved, finished_at } = imported;
    let available_at = Millis::new(integer_column(item, "available_at").unwrap_or_default());
    let change = PlaceChange {
        id: ended.id,
        item_type: &ended.item_type,
        ordering_key: ended.ordering_key.as_deref(),
        saga: ended.saga.as_deref(),
        cid: &ended.cid,
        turn: turn(item),
        from: OldPlace::Queue { available_at },
        at: finished_at.unwrap_or(tx.now),
        moved,
    };
    places::change_places(tx, &[change]).await
}

/// The place of the item in the line of its ordering key. An engine without turns orders a line by ids.
fn turn(item: &RecordColumns) -> Option<i64> {
    let has_key = !text_column(item, "ordering_key").is_empty();
    has_key.then(|| integer_column(item, TURN).or_else(|| integer_column(item, "id"))).flatten()
}

/// The ordering keys of the records.
fn lines_of(records: &[Record]) -> Vec<&str> {
    let items = records.iter().filter_map(|record| match record {
        Record::Item { item, .. } => Some(text_column(item, "ordering_key")),
        Record::State { .. } | Record::Total { .. } | Record::Row { .. } => None,
    });
    items.filter(|key| !key.is_empty()).collect()
}

async fn create_total(tx: &WriteTx<'_>, total: &RecordColumns) -> Result<(), PgError> {
    let key = ["name", "saga", "type", "outcome"].map(|name| text_column(total, name));
    for table in ["outbox.deltas", "outbox.counters"] {
        let clear = format!("DELETE FROM {table} WHERE name = $1 AND saga = $2 AND type = $3 AND outcome = $4");
        tx.rows(&clear, &[&key[0], &key[1], &key[2], &key[3]]).await?;
    }
    insert(tx, "outbox.counters", COUNTER_COLUMNS, total, "").await
}

/// Keeps this store from giving out the numbers of the records.
async fn reserve_for(tx: &WriteTx<'_>, records: &[Record]) -> Result<(), PgError> {
    if let Some(last) = records.iter().filter_map(Record::item_id).max() {
        reserve(tx, last).await?;
    }
    if let Some(last) = records.iter().filter_map(last_turn).max() {
        advance_sequence(tx, "outbox.items", TURNS, last).await?;
    }
    let version = |record: &Record| match record {
        Record::State { state } => integer_column(state, "version"),
        _ => None,
    };
    if let Some(last) = records.iter().filter_map(version).max() {
        advance_sequence(tx, "outbox.state", "outbox.state_version_seq", last).await?;
    }
    for (table, column, sequence) in [("jobs", "id", "jobs_id_seq"), ("signals", "seq", "signals_seq_seq")] {
        let number = |record: &Record| match record {
            Record::Row { table: name, row } if name == table => integer_column(row, column),
            _ => None,
        };
        if let Some(last) = records.iter().filter_map(number).max() {
            advance_sequence(tx, &format!("outbox.{table}"), &format!("outbox.{sequence}"), last).await?;
        }
    }
    Ok(())
}

fn last_turn(record: &Record) -> Option<i64> {
    match record {
        Record::Item { item, .. } => turn(item),
        Record::State { .. } | Record::Total { .. } | Record::Row { .. } => None,
    }
}

/// Keeps this store from giving out ids up to `up_to`, and the places in lines that imported items may have with them:
/// what is enqueued before the import comes after what is imported.
pub(crate) async fn reserve(tx: &WriteTx<'_>, up_to: ItemId) -> Result<(), PgError> {
    advance_sequence(tx, "outbox.items", IDS, up_to.get()).await?;
    advance_sequence(tx, "outbox.items", TURNS, up_to.get()).await
}

/// The highest id that this store has given out or reserved.
pub(crate) async fn reserved(tx: &impl Query) -> Result<ItemId, PgError> {
    sequence_value(tx, IDS).await.map(ItemId::new)
}

async fn sequence_value(tx: &impl Query, sequence: &str) -> Result<i64, PgError> {
    let statement = format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}");
    Ok(tx.rows(&statement, &[]).await?.first().ok_or(PgError::LostRace)?.try_get(0)?)
}

/// Advances a sequence to `up_to`, unless it is past it. The table's lock waits for the transactions that have inserted
/// into it and makes inserts wait, so that the sequence is not set back below a number that one of them takes.
async fn advance_sequence(tx: &WriteTx<'_>, table: &str, sequence: &str, up_to: i64) -> Result<(), PgError> {
    if sequence_value(tx, sequence).await? >= up_to {
        return Ok(());
    }
    tx.rows(&format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"), &[]).await?;
    let set_value = format!("SELECT setval('{sequence}', greatest(last_value, $1)) FROM {sequence}");
    tx.rows(&set_value, &[&up_to]).await.map(drop)
}
