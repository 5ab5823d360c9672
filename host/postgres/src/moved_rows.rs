//! Export and import of tables that are moved row by row: what operators did.
//!
//! `outbox_store` lists the tables, their keys and their columns, and decides which of two rows with one key stays.

use serde_json::Value;

use outbox_store::engine::{MOVED_TABLES, MovedTable, moved_table, refuse_running_job, row_conflict};
use outbox_store::{ExportPage, ExportPosition, Record, RecordColumns};

use crate::column_type::cell;
use crate::error::PgError;
use crate::record_columns::{insert, rows};
use crate::sql_value::SqlValue;
use crate::tx::{Query, WriteTx};

/// At most `limit` rows of the table with this index after the key; an empty key begins it.
pub(crate) async fn export(tx: &impl Query, index: usize, after: &[Value], limit: u32) -> Result<ExportPage, PgError> {
    let Some(table) = MOVED_TABLES.get(index) else { return Ok(ExportPage { records: Vec::new(), next: None }) };
    let key = table.key.join(", ");
    let begin = if after.is_empty() { String::new() } else { format!("WHERE ({key}) > ({})", marks(after.len())) };
    let found = select(tx, table, &format!("{begin} ORDER BY {key} LIMIT {limit}"), after).await?;
    found.iter().try_for_each(|row| refuse_running_job(table.name, row))?;
    let next = match found.last() {
        Some(last) => Some(ExportPosition::Row { table: index, after: table.key_of(last) }),
        None => ExportPosition::table(index + 1),
    };
    let record = |row| Record::Row { table: table.name.to_owned(), row };
    Ok(ExportPage { records: found.into_iter().map(record).collect(), next })
}

/// Whether the row is there, or another that replaces it. A different row with its key is a conflict.
pub(crate) async fn is_known(tx: &impl Query, table: &str, row: &RecordColumns) -> Result<bool, PgError> {
    refuse_running_job(table, row)?;
    let table = moved_table(table)?;
    // A file of this store itself: the row is here under the number that it had.
    if find(tx, table, row).await?.as_ref() == Some(row) {
        return Ok(true);
    }
    let row = table.imported(row);
    match find(tx, table, &row).await? {
        None => Ok(false),
        Some(present) if table.stands_for(&present, &row) => Ok(true),
        Some(present) if table.gives_way(&present) => Ok(false),
        Some(_) => Err(row_conflict(table, &row).into()),
    }
}

async fn find(tx: &impl Query, table: &MovedTable, row: &RecordColumns) -> Result<Option<RecordColumns>, PgError> {
    let key = table.key_of(row);
    let tail = format!("WHERE ({}) = ({})", table.key.join(", "), marks(key.len()));
    Ok(select(tx, table, &tail, &key).await?.pop())
}

/// The rows of the table. `key` has the parameters of `tail`, which are columns of the key.
async fn select(tx: &impl Query, table: &MovedTable, tail: &str, key: &[Value]) -> Result<Vec<RecordColumns>, PgError> {
    let cells: Vec<_> = table.key.iter().zip(key).map(|(name, value)| cell(name, value)).collect::<Result<_, _>>()?;
    let values: Vec<&dyn SqlValue> = cells.iter().map(|cell| &**cell as &dyn SqlValue).collect();
    rows(tx, &name(table), table.columns, tail, &values).await
}

/// Inserts the row, in place of one that gives way to it.
pub(crate) async fn create(tx: &WriteTx<'_>, table: &str, row: &RecordColumns) -> Result<(), PgError> {
    let table = moved_table(table)?;
    let row = table.imported(row);
    if let Some(present) = find(tx, table, &row).await?
        && table.gives_way(&present)
    {
        let delete =
            format!("DELETE FROM {} WHERE ({}) = ({})", name(table), table.key.join(", "), marks(table.key.len()));
        let key = table.key_of(&row);
        let cells: Vec<_> =
            table.key.iter().zip(&key).map(|(name, value)| cell(name, value)).collect::<Result<_, _>>()?;
        let values: Vec<&dyn SqlValue> = cells.iter().map(|cell| &**cell as &dyn SqlValue).collect();
        tx.rows(&delete, &values).await?;
    }
    insert(tx, &name(table), table.columns, &row, "").await
}

fn name(table: &MovedTable) -> String {
    format!("outbox.{}", table.name)
}

fn marks(count: usize) -> String {
    (1..=count).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}
