//! Reads rows of `outbox_items`, and binds the parameters of filters.
//!
//! An item's row is read tolerantly: a part that cannot be read is a defect beside the item, so that operators can
//! still see the rest.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Row, ToSql};
use serde::de::DeserializeOwned;

use outbox_item::{Item, ItemId, Millis};
use outbox_store::engine::sql_filter::SqlParam;
use outbox_store::engine::stored::{RowName, parse_json, parse_word};

use crate::error::unusable;

/// The columns that [`item`] reads, in its order.
pub(crate) const COLUMNS: &str = "id, idem_key, type, payload, content_type, headers, cid, saga, ordering_key, \
     created_at, metadata, status, attempts, deliveries, replays, available_at, claimed_at, claimed_by, \
     lease_until, maybe_executed, given_back_since, effects, last_error, done_at, dead_at, result, handler_digest";

/// An item, and the first of its parts that could not be read.
pub(crate) struct DecodedItem {
    pub(crate) item: Item,
    pub(crate) defect: Option<String>,
}

/// Decodes a row that was selected with [`COLUMNS`].
pub(crate) fn item(row: &Row<'_>) -> rusqlite::Result<DecodedItem> {
    let mut defects = Vec::new();
    let item = Item {
        id: ItemId::new(row.get(0)?),
        idem_key: text(row, 1, &mut defects)?,
        item_type: text(row, 2, &mut defects)?,
        payload: bytes(row, 3)?,
        content_type: text(row, 4, &mut defects)?,
        headers: json::<BTreeMap<_, _>>(row, 5, "headers", &mut defects)?,
        cid: text(row, 6, &mut defects)?,
        saga: row.get(7)?,
        ordering_key: row.get(8)?,
        created_at: time(row, 9)?,
        metadata: json(row, 10, "metadata", &mut defects)?,
        status: parse_word(&text(row, 11, &mut defects)?, RowName::new("item", row.get(0)?), "status")
            .map_err(unusable)?,
        attempts: row.get(12)?,
        deliveries: row.get(13)?,
        replays: row.get(14)?,
        available_at: time(row, 15)?,
        claimed_at: optional_time(row, 16)?,
        claimed_by: row.get(17)?,
        lease_until: optional_time(row, 18)?,
        maybe_executed: row.get(19)?,
        given_back_since: optional_time(row, 20)?,
        effect_generation: row.get(21)?,
        last_error: row.get(22)?,
        done_at: optional_time(row, 23)?,
        dead_at: optional_time(row, 24)?,
        result: row.get(25)?,
        handler_digest: row.get(26)?,
    };
    Ok(DecodedItem { item, defect: defects.into_iter().next() })
}

/// A column that holds a point in time.
pub(crate) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Millis> {
    row.get(column).map(Millis::new)
}

/// A column that holds a point in time or is empty.
pub(crate) fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Millis>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Millis::new))
}

/// The bytes of a column that holds text or a blob.
fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes.to_vec()),
        other => Err(rusqlite::Error::InvalidColumnType(column, "payload".into(), other.data_type())),
    }
}

fn text(row: &Row<'_>, column: usize, defects: &mut Vec<String>) -> rusqlite::Result<String> {
    String::from_utf8(bytes(row, column)?).or_else(|err| {
        defects.push(format!("column {column} is not UTF-8"));
        Ok(String::from_utf8_lossy(err.as_bytes()).into_owned())
    })
}

fn json<T: DeserializeOwned + Default>(
    row: &Row<'_>,
    column: usize,
    name: &str,
    defects: &mut Vec<String>,
) -> rusqlite::Result<T> {
    Ok(serde_json::from_slice(&bytes(row, column)?).unwrap_or_else(|err| {
        defects.push(format!("{name} cannot be read: {err}"));
        T::default()
    }))
}

/// A column of JSON, of a row whose first column is its number. Errors with `StoreError::Unusable`, which names the row
/// by `kind` and number, when the JSON cannot be read.
pub(crate) fn json_column<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
    name: &str,
    kind: &'static str,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    parse_json(text, RowName::new(kind, row.get(0)?), name).map_err(unusable)
}

/// The values of a filter's parameters, as the driver binds them.
pub(crate) fn bound(params: &[SqlParam]) -> Vec<&dyn ToSql> {
    params.iter().map(bind).collect()
}

fn bind(param: &SqlParam) -> &dyn ToSql {
    match param {
        SqlParam::Text(text) => text,
        SqlParam::Number(number) => number,
    }
}
