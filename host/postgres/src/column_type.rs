//! The types of exported columns: how a column is selected, written, and turned into a record's value and back.
//!
//! It knows no table. Which columns are exported is listed in `outbox_store`.

use serde_json::Value;
use tokio_postgres::Row;

use outbox_store::StoreError;
use outbox_store::engine::{from_bytes, to_bytes};

use crate::error::PgError;
use crate::sql_value::SqlValue;
use crate::tx::without_nul;

/// The kind of a column's type, which decides how export reads it and import writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnType {
    Text,
    Json,
    Number,
    Flag,
    Bytes,
}

/// The place of an item in the line of its ordering key: a column that only this engine has.
pub(crate) const TURN: &str = "turn";

/// The type of each exported column. A name means the same in every table that has it.
const COLUMNS: &[(&str, ColumnType)] = &[
    ("id", ColumnType::Number),
    ("item_id", ColumnType::Number),
    ("idem_key", ColumnType::Text),
    ("type", ColumnType::Text),
    ("payload", ColumnType::Bytes),
    ("content_type", ColumnType::Text),
    ("headers", ColumnType::Json),
    ("metadata", ColumnType::Json),
    ("cid", ColumnType::Text),
    ("saga", ColumnType::Text),
    ("ordering_key", ColumnType::Text),
    ("status", ColumnType::Text),
    ("attempts", ColumnType::Number),
    ("deliveries", ColumnType::Number),
    ("replays", ColumnType::Number),
    ("effects", ColumnType::Number),
    ("available_at", ColumnType::Number),
    ("given_back_since", ColumnType::Number),
    ("maybe_executed", ColumnType::Flag),
    ("blocks_key", ColumnType::Flag),
    ("fingerprint", ColumnType::Text),
    ("last_error", ColumnType::Text),
    ("created_at", ColumnType::Number),
    ("done_at", ColumnType::Number),
    ("dead_at", ColumnType::Number),
    ("result", ColumnType::Bytes),
    ("handler_digest", ColumnType::Text),
    ("losses", ColumnType::Number),
    ("give_backs", ColumnType::Number),
    ("fairness_key", ColumnType::Text),
    ("root", ColumnType::Number),
    ("depth", ColumnType::Number),
    (TURN, ColumnType::Number),
    ("delivery", ColumnType::Number),
    ("attempt", ColumnType::Number),
    ("started_at", ColumnType::Number),
    ("ended_at", ColumnType::Number),
    ("pod", ColumnType::Text),
    ("class", ColumnType::Text),
    ("code", ColumnType::Text),
    ("message", ColumnType::Text),
    ("stderr", ColumnType::Text),
    ("exchanges", ColumnType::Bytes),
    ("run", ColumnType::Number),
    ("began_at", ColumnType::Number),
    ("version", ColumnType::Number),
    ("plugin", ColumnType::Text),
    ("key", ColumnType::Bytes),
    ("value", ColumnType::Bytes),
    ("name", ColumnType::Text),
    ("outcome", ColumnType::Text),
    ("total", ColumnType::Number),
    ("paused_at", ColumnType::Number),
    ("actor", ColumnType::Text),
    ("reason", ColumnType::Text),
    ("digest", ColumnType::Text),
    ("at", ColumnType::Number),
    ("action", ColumnType::Text),
    ("filter", ColumnType::Json),
    ("per_second", ColumnType::Number),
    ("stop_after", ColumnType::Number),
    ("state", ColumnType::Text),
    ("next_at", ColumnType::Number),
    ("position", ColumnType::Number),
    ("last_id", ColumnType::Number),
    ("matched", ColumnType::Number),
    ("changed", ColumnType::Number),
    ("refused", ColumnType::Number),
    ("sample", ColumnType::Json),
    ("refusals", ColumnType::Json),
    ("seq", ColumnType::Number),
    ("signal", ColumnType::Text),
    ("ts", ColumnType::Number),
    ("data", ColumnType::Json),
    ("selection", ColumnType::Json),
    ("job", ColumnType::Number),
    ("count", ColumnType::Number),
    ("changes", ColumnType::Json),
];

impl ColumnType {
    /// The type of an exported column. A name that no table exports occurs only in records of a newer program, and is
    /// text.
    pub(crate) fn of(column: &str) -> Self {
        COLUMNS.iter().find(|(name, _)| *name == column).map_or(Self::Text, |(_, kind)| *kind)
    }

    /// The type of a column of this table. One name has another type in one table.
    pub(crate) fn in_table(table: &str, column: &str) -> Self {
        if (table, column) == ("outbox.jobs", "action") { Self::Json } else { Self::of(column) }
    }

    /// SQL that reads the column.
    pub(crate) fn read(self, column: &str) -> String {
        match self {
            Self::Text | Self::Json => format!("{column}::text"),
            Self::Number => format!("{column}::bigint"),
            Self::Flag => format!("{column}::integer::bigint"),
            Self::Bytes => column.to_owned(),
        }
    }

    /// SQL that writes the parameter of this number.
    pub(crate) fn write(self, parameter: usize) -> String {
        match self {
            Self::Text => format!("${parameter}::text"),
            Self::Json => format!("${parameter}::text::json"),
            Self::Number => format!("${parameter}::bigint"),
            Self::Flag => format!("(${parameter}::bigint <> 0)"),
            Self::Bytes => format!("${parameter}::bytea"),
        }
    }
}

/// The value of a selected column, as a record has it.
pub(crate) fn to_json(row: &Row, index: usize, kind: ColumnType) -> Result<Value, PgError> {
    Ok(match kind {
        ColumnType::Text | ColumnType::Json => {
            row.try_get::<_, Option<String>>(index)?.map_or(Value::Null, Value::from)
        }
        ColumnType::Number | ColumnType::Flag => row.try_get::<_, Option<i64>>(index)?.map_or(Value::Null, Value::from),
        ColumnType::Bytes => row.try_get::<_, Option<&[u8]>>(index)?.map_or(Value::Null, from_bytes),
    })
}

/// The value of a record's column, as a parameter of the column's type.
pub(crate) fn cell(name: &str, value: &Value) -> Result<Box<dyn SqlValue + Send>, StoreError> {
    let unfit = || StoreError::Unusable(format!("{name} cannot be {value}"));
    Ok(match (ColumnType::of(name), value) {
        (ColumnType::Text | ColumnType::Json, value) => Box::new(match value {
            Value::Null => None,
            value => Some(without_nul(value.as_str().ok_or_else(unfit)?)),
        }),
        (ColumnType::Number | ColumnType::Flag, value) => Box::new(match value {
            Value::Null => None,
            value => Some(value.as_i64().ok_or_else(unfit)?),
        }),
        (ColumnType::Bytes, value) => Box::new(match value {
            Value::Null => None,
            value => Some(to_bytes(value).map_err(|_| unfit())?),
        }),
    })
}

#[cfg(test)]
mod tests {
    use outbox_store::engine::{
        ATTEMPT_COLUMNS, COUNTER_COLUMNS, ITEM_COLUMNS, MOVED_TABLES, SAGA_COLUMNS, STATE_COLUMNS,
    };

    use super::*;

    #[test]
    fn every_exported_column_has_a_type_and_no_other_name_has_one() {
        let moved = MOVED_TABLES.iter().flat_map(|table| table.columns);
        let mut exported =
            [ITEM_COLUMNS, ATTEMPT_COLUMNS, SAGA_COLUMNS, STATE_COLUMNS, COUNTER_COLUMNS, &[TURN]].concat();
        exported.extend(moved);
        let typed: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
        for name in &exported {
            assert_eq!(typed.iter().filter(|typed| *typed == name).count(), 1, "{name}");
        }
        for name in typed {
            assert!(exported.contains(&name), "{name}");
        }
    }
}
