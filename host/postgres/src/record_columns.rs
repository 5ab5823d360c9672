//! Rows of this engine as columns of a record, and back.
//!
//! It knows no table. `column_type` knows the types of columns.

use serde_json::Value;
use tokio_postgres::Row;

use outbox_store::RecordColumns;

use crate::column_type::{ColumnType, cell, to_json};
use crate::error::PgError;
use crate::sql_value::SqlValue;
use crate::tx::{Query, Values, WriteTx};

/// Selected rows as records.
pub(crate) async fn rows(
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

/// Inserts a record into a table.
pub(crate) async fn insert(
    tx: &WriteTx<'_>,
    into: &str,
    columns: &[&str],
    row: &RecordColumns,
    tail: &str,
) -> Result<(), PgError> {
    let mark = |(index, name): (usize, &&str)| ColumnType::in_table(into, name).write(index + 1);
    let marks: Vec<_> = columns.iter().enumerate().map(mark).collect();
    let (names, marks) = (columns.join(", "), marks.join(", "));
    let statement = format!("INSERT INTO {into} ({names}) OVERRIDING SYSTEM VALUE VALUES ({marks}) {tail}");
    let cells: Vec<_> =
        columns.iter().map(|name| cell(name, row.get(*name).unwrap_or(&Value::Null))).collect::<Result<_, _>>()?;
    let values: Vec<&dyn SqlValue> = cells.iter().map(|cell| &**cell as &dyn SqlValue).collect();
    tx.rows(&statement, &values).await.map(drop)
}
