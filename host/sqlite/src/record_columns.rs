//! Rows of this engine as columns of a record, and back.
//!
//! It knows no table.

use rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};
use serde_json::Value;

use outbox_store::RecordColumns;
use outbox_store::engine::{BINARY_COLUMNS, from_bytes, to_bytes};

/// Selected rows as records.
pub(crate) fn rows(
    tx: &Connection,
    table: &str,
    columns: &[&str],
    tail: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Vec<RecordColumns>> {
    let mut select = tx.prepare_cached(&format!("SELECT {} FROM {table} {tail}", columns.join(", ")))?;
    let read = |row: &rusqlite::Row<'_>| {
        let cell = |(index, name): (usize, &&str)| Ok(((*name).to_owned(), to_json(row.get_ref(index)?)));
        columns.iter().enumerate().map(cell).collect()
    };
    select.query_map(values, read)?.collect()
}

/// Inserts a record into a table.
pub(crate) fn insert(
    tx: &Connection,
    into: &str,
    columns: &[&str],
    row: &RecordColumns,
    tail: &str,
) -> rusqlite::Result<()> {
    let marks = vec!["?"; columns.len()].join(", ");
    let mut insert =
        tx.prepare_cached(&format!("INSERT INTO {into} ({}) VALUES ({marks}) {tail}", columns.join(", ")))?;
    let cells = columns.iter().map(|name| ColumnValue(name, row.get(*name).unwrap_or(&Value::Null)));
    insert.execute(params_from_iter(cells)).map(|_| ())
}

fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => from_bytes(bytes),
    }
}

/// A column's name, and its value in a record, as a parameter.
pub(crate) struct ColumnValue<'a>(pub(crate) &'a str, pub(crate) &'a Value);

impl ToSql for ColumnValue<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let failed = |err: Box<dyn std::error::Error + Send + Sync>| rusqlite::Error::ToSqlConversionFailure(err);
        let bytes = match self.1 {
            Value::Null => return Ok(ToSqlOutput::Owned(SqlValue::Null)),
            Value::Number(number) => {
                let number = number.as_i64().ok_or_else(|| failed(format!("{} is {number}", self.0).into()))?;
                return Ok(ToSqlOutput::Owned(SqlValue::Integer(number)));
            }
            Value::String(text) if !BINARY_COLUMNS.contains(&self.0) => {
                return Ok(ToSqlOutput::Borrowed(text.as_str().into()));
            }
            other => to_bytes(other).map_err(|err| failed(err.into()))?,
        };
        Ok(ToSqlOutput::Owned(SqlValue::Blob(bytes)))
    }
}
