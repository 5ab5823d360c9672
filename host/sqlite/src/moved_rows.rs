//! Export and import of tables that are moved row by row: what operators did.
//!
//! `outbox_store` lists the tables, their keys and their columns, and decides which of two rows with one key stays.

use rusqlite::{Connection, params_from_iter};
use serde_json::Value;

use outbox_store::engine::{MOVED_TABLES, MovedTable, moved_table, refuse_running_job, row_conflict};
use outbox_store::{ExportPage, ExportPosition, Record, RecordColumns, StoreError};

use crate::error::{unavailable, unusable};
use crate::record_columns::{ColumnValue, insert, rows};

/// At most `limit` rows of the table with this index after the key; an empty key begins it.
pub(crate) fn export(tx: &Connection, index: usize, after: &[Value], limit: u32) -> rusqlite::Result<ExportPage> {
    let Some(table) = MOVED_TABLES.get(index) else { return Ok(ExportPage { records: Vec::new(), next: None }) };
    let key = table.key.join(", ");
    let begin = if after.is_empty() { String::new() } else { format!("WHERE ({key}) > ({})", marks(after.len())) };
    let tail = format!("{begin} ORDER BY {key} LIMIT {limit}");
    let found = rows(tx, &name(table), table.columns, &tail, params_from_iter(key_values(table, after)))?;
    found.iter().try_for_each(|row| refuse_running_job(table.name, row)).map_err(unusable)?;
    let next = match found.last() {
        Some(last) => Some(ExportPosition::Row { table: index, after: table.key_of(last) }),
        None => ExportPosition::table(index + 1),
    };
    let record = |row| Record::Row { table: table.name.to_owned(), row };
    Ok(ExportPage { records: found.into_iter().map(record).collect(), next })
}

/// Whether the row is there, or another that replaces it. A different row with its key is a conflict.
pub(crate) fn is_known(tx: &Connection, table: &str, row: &RecordColumns) -> Result<bool, StoreError> {
    refuse_running_job(table, row)?;
    let table = moved_table(table)?;
    // A file of this store itself: the row is here under the number that it had.
    if find(tx, table, row).map_err(unavailable("importing records"))?.as_ref() == Some(row) {
        return Ok(true);
    }
    let row = table.imported(row);
    match find(tx, table, &row).map_err(unavailable("importing records"))? {
        None => Ok(false),
        Some(present) if table.stands_for(&present, &row) => Ok(true),
        Some(present) if table.gives_way(&present) => Ok(false),
        Some(_) => Err(row_conflict(table, &row)),
    }
}

fn find(tx: &Connection, table: &MovedTable, row: &RecordColumns) -> rusqlite::Result<Option<RecordColumns>> {
    let key = table.key_of(row);
    let tail = format!("WHERE ({}) = ({})", table.key.join(", "), marks(key.len()));
    Ok(rows(tx, &name(table), table.columns, &tail, params_from_iter(key_values(table, &key)))?.pop())
}

/// Inserts the row, in place of one that gives way to it.
pub(crate) fn create(tx: &Connection, table: &str, row: &RecordColumns) -> rusqlite::Result<()> {
    let table = moved_table(table).map_err(unusable)?;
    let row = table.imported(row);
    if find(tx, table, &row)?.is_some() {
        let delete =
            format!("DELETE FROM {} WHERE ({}) = ({})", name(table), table.key.join(", "), marks(table.key.len()));
        let key = table.key_of(&row);
        tx.prepare_cached(&delete)?.execute(params_from_iter(key_values(table, &key)))?;
    }
    insert(tx, &name(table), table.columns, &row, "")
}

fn name(table: &MovedTable) -> String {
    format!("outbox_{}", table.name)
}

fn key_values<'a>(table: &'a MovedTable, key: &'a [Value]) -> impl Iterator<Item = ColumnValue<'a>> {
    table.key.iter().zip(key).map(|(name, value)| ColumnValue(name, value))
}

fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}
