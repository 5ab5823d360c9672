//! Export and import: rows to and from records, column by column. A record of an item is the same, byte for byte, as
//! the record that the SQLite store makes of it.
//!
//! `outbox_store` lists the columns, and `column_type` knows their types.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use outbox_item::{ItemId, Status};
use outbox_store::engine::counters::Counter;
use outbox_store::engine::{
    ATTEMPT_COLUMNS, COUNTER_COLUMNS, ITEM_COLUMNS, SAGA_COLUMNS, STATE_COLUMNS, integer_column, item_conflict,
    refuse_claimed, state_conflict, text_column,
};
use outbox_store::{Execution, ExportPage, ExportPosition, ImportReport, Record, RecordColumns};

use crate::column_type::{ColumnType, cell, to_json};
use crate::error::PgError;
use crate::tx::{NEWEST_JOB_SQL, Query, Values, WriteTx, without_nul};

/// At most `limit` records after the position: the items first, then the state, then the totals.
pub(crate) async fn export(tx: &impl Query, after: ExportPosition, limit: u32) -> Result<ExportPage, PgError> {
    match after {
        ExportPosition::Item(id) => export_items(tx, id, limit).await,
        ExportPosition::State(version) => export_state(tx, version, limit).await,
    }
}

async fn export_items(tx: &impl Query, after: ItemId, limit: u32) -> Result<ExportPage, PgError> {
    let tail = format!("WHERE id > $1 ORDER BY id LIMIT {limit}");
    let items = rows(tx, "outbox.items", ITEM_COLUMNS, &tail, &[&after.get()]).await?;
    let next = items.last().and_then(|item| integer_column(item, "id")).map(ItemId::new);
    let next = Some(next.map_or(ExportPosition::State(0), ExportPosition::Item));
    Ok(ExportPage { records: item_records(tx, items).await?, next })
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
    Ok(rows(tx, "outbox.sagas", SAGA_COLUMNS, "WHERE saga = $1 AND cid = $2", &[&saga, &cid]).await?.pop())
}

/// Values of state; after the last of them, the totals.
async fn export_state(tx: &impl Query, after: i64, limit: u32) -> Result<ExportPage, PgError> {
    let tail = format!("WHERE version > $1 ORDER BY version LIMIT {limit}");
    let state = rows(tx, "outbox.state", STATE_COLUMNS, &tail, &[&after]).await?;
    if let Some(last) = state.last().and_then(|state| integer_column(state, "version")) {
        let records = state.into_iter().map(|state| Record::State { state }).collect();
        return Ok(ExportPage { records, next: Some(ExportPosition::State(last)) });
    }
    let summed = "(SELECT name, saga, type, outcome, sum(total) AS total FROM outbox.counters GROUP BY 1, 2, 3, 4)
                  AS counters";
    let totals =
        rows(tx, summed, COUNTER_COLUMNS, "WHERE name <> 'done' ORDER BY name, saga, type, outcome", &[]).await?;
    Ok(ExportPage { records: totals.into_iter().map(|total| Record::Total { total }).collect(), next: None })
}

/// Imports all records, or none when one conflicts with a row of this store.
pub(crate) async fn import(
    tx: &mut WriteTx<'_>,
    records: &[Record],
    execution: Execution,
) -> Result<ImportReport, PgError> {
    if execution == Execution::Apply {
        reserve_for(tx, records).await?;
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
    }
}

/// Whether the same item is there. Another item with its id or its key is a conflict.
async fn is_known_item(tx: &impl Query, index: usize, item: &RecordColumns, record: &Record) -> Result<bool, PgError> {
    refuse_claimed(item)?;
    let values: Values<'_> = &[&integer_column(item, "id"), &text_column(item, "idem_key")];
    let found = rows(tx, "outbox.items", ITEM_COLUMNS, "WHERE id = $1 OR idem_key = $2 ORDER BY id", values).await?;
    let Some(present) = found.into_iter().next() else { return Ok(false) };
    let first = ItemId::new(integer_column(&present, "id").unwrap_or_default());
    if item_records(tx, vec![present]).await?.pop() == Some(record_without_nul(record)) {
        return Ok(true);
    }
    Err(item_conflict(index, item, first).into())
}

/// The record with its text as PostgreSQL can store it.
fn record_without_nul(record: &Record) -> Record {
    let keep = |columns: &RecordColumns| {
        let cell = |(name, value): (&String, &Value)| match value {
            Value::String(text) if ColumnType::of(name) != ColumnType::Bytes => {
                (name.clone(), without_nul(text).into())
            }
            value => (name.clone(), value.clone()),
        };
        columns.iter().map(cell).collect::<RecordColumns>()
    };
    match record {
        Record::Item { item, attempts, run } => Record::Item {
            item: keep(item),
            attempts: attempts.iter().map(keep).collect(),
            run: run.as_ref().map(keep),
        },
        other => other.clone(),
    }
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
    let statement = "SELECT sum(total)::bigint FROM outbox.counters
                     WHERE name = $1 AND saga = $2 AND type = $3 AND outcome = $4";
    let rows = tx.rows(statement, &[&name, &saga, &item_type, &outcome]).await?;
    let present: Option<i64> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
    Ok(present >= integer_column(total, "total"))
}

async fn create(tx: &mut WriteTx<'_>, record: &Record) -> Result<(), PgError> {
    match record {
        Record::Item { item, attempts, run } => {
            insert(tx, "outbox.items", ITEM_COLUMNS, item, "").await?;
            let set_epoch = format!("UPDATE outbox.items SET epoch = {NEWEST_JOB_SQL} WHERE id = $1");
            tx.rows(&set_epoch, &[&integer_column(item, "id")]).await?;
            for attempt in attempts {
                insert(tx, "outbox.attempts", ATTEMPT_COLUMNS, attempt, "").await?;
            }
            if let Some(run) = run {
                let replace = "ON CONFLICT (saga, cid) DO UPDATE
                               SET run = excluded.run, began_at = excluded.began_at, ended_at = excluded.ended_at";
                insert(tx, "outbox.sagas", SAGA_COLUMNS, run, replace).await?;
            }
            if text_column(item, "status") == Status::Done.as_str() {
                tx.count(Counter::Done { item_type: text_column(item, "type") }, 1);
            }
            tx.wakes_other_processes = true;
            Ok(())
        }
        Record::State { state } => insert(tx, "outbox.state", STATE_COLUMNS, state, "").await,
        Record::Total { total } => {
            let key = ["name", "saga", "type", "outcome"].map(|name| text_column(total, name));
            let clear = "DELETE FROM outbox.counters WHERE name = $1 AND saga = $2 AND type = $3 AND outcome = $4";
            tx.rows(clear, &[&key[0], &key[1], &key[2], &key[3]]).await?;
            insert(tx, "outbox.counters", COUNTER_COLUMNS, total, "").await
        }
    }
}

/// Keeps this store from giving out the numbers of the records.
async fn reserve_for(tx: &WriteTx<'_>, records: &[Record]) -> Result<(), PgError> {
    if let Some(last) = records.iter().filter_map(Record::item_id).max() {
        reserve(tx, last).await?;
    }
    let version = |record: &Record| match record {
        Record::State { state } => integer_column(state, "version"),
        _ => None,
    };
    match records.iter().filter_map(version).max() {
        Some(last) => advance_sequence(tx, "outbox.state", "outbox.state_version_seq", last).await,
        None => Ok(()),
    }
}

/// Keeps this store from giving out ids up to `up_to`.
pub(crate) async fn reserve(tx: &WriteTx<'_>, up_to: ItemId) -> Result<(), PgError> {
    advance_sequence(tx, "outbox.items", "outbox.items_id_seq", up_to.get()).await
}

/// The highest id that this store has given out or reserved.
pub(crate) async fn reserved(tx: &impl Query) -> Result<ItemId, PgError> {
    sequence_value(tx, "outbox.items_id_seq").await.map(ItemId::new)
}

async fn sequence_value(tx: &impl Query, sequence: &str) -> Result<i64, PgError> {
    let statement = format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}");
    Ok(tx.rows(&statement, &[]).await?.first().ok_or(PgError::LostRace)?.try_get(0)?)
}

/// Advances a sequence to `up_to`, unless it is past it. The table's lock makes inserts wait, so that the sequence is
/// not set back below a number that an insert has just taken.
async fn advance_sequence(tx: &WriteTx<'_>, table: &str, sequence: &str, up_to: i64) -> Result<(), PgError> {
    if sequence_value(tx, sequence).await? >= up_to {
        return Ok(());
    }
    tx.rows(&format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"), &[]).await?;
    let set_value = format!("SELECT setval('{sequence}', greatest(last_value, $1)) FROM {sequence}");
    tx.rows(&set_value, &[&up_to]).await.map(drop)
}

async fn rows(
    tx: &impl Query,
    table: &str,
    columns: &[&str],
    tail: &str,
    values: Values<'_>,
) -> Result<Vec<RecordColumns>, PgError> {
    let list: Vec<_> = columns.iter().map(|column| ColumnType::of(column).read(column)).collect();
    let statement = format!("SELECT {} FROM {table} {tail}", list.join(", "));
    let read = |row: &Row| {
        let cell = |(index, name): (usize, &&str)| Ok(((*name).to_owned(), to_json(row, index, ColumnType::of(name))?));
        columns.iter().enumerate().map(cell).collect()
    };
    tx.rows(&statement, values).await?.iter().map(read).collect()
}

async fn insert(
    tx: &WriteTx<'_>,
    into: &str,
    columns: &[&str],
    row: &RecordColumns,
    tail: &str,
) -> Result<(), PgError> {
    let marks: Vec<_> = columns.iter().enumerate().map(|(index, name)| ColumnType::of(name).write(index + 1)).collect();
    let statement = format!("INSERT INTO {into} ({}) VALUES ({}) {tail}", columns.join(", "), marks.join(", "));
    let cells: Vec<_> =
        columns.iter().map(|name| cell(name, row.get(*name).unwrap_or(&Value::Null))).collect::<Result<_, _>>()?;
    let values: Vec<&(dyn ToSql + Sync)> = cells.iter().map(|cell| &**cell as &(dyn ToSql + Sync)).collect();
    tx.rows(&statement, &values).await.map(drop)
}
