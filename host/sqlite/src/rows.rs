//! Reads items, from the view `outbox_status` or from `outbox_items`, and binds the parameters of filters.
//!
//! An item's row is read tolerantly: a part that cannot be read is a defect beside the item, so that operators can
//! still see the rest.

use std::sync::LazyLock;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Row, RowIndex, ToSql};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use outbox_item::{Item, ItemId, ItemSummary, Millis, NewItem, exact_object};
use outbox_store::engine::sql_filter::SqlParam;
use outbox_store::engine::stored::{RowName, json_or_text, parse_json, parse_word};

use crate::error::unusable;
use crate::nearest::Nearest;

/// The columns of `outbox_items` that [`enqueued`] reads, in its order.
pub(crate) const ENQUEUED_COLUMNS: &str = "id, idem_key, type, payload, content_type, headers, cid, saga, \
     ordering_key, created_at, metadata, available_at, fairness_key";

/// The columns of `outbox_status` that [`item`] reads, in its order. They begin with [`ENQUEUED_COLUMNS`].
pub(crate) const COLUMNS: &str = "id, idem_key, type, payload, content_type, headers, cid, saga, \
     ordering_key, created_at, metadata, available_at, fairness_key, status, attempts, deliveries, replays, claimed_at, \
     claimed_by, lease_until, losses, give_backs, maybe_executed, given_back_since, effects, last_error, done_at, dead_at, result, \
     handler_digest";

/// [`COLUMNS`] for a reader that needs neither the payload nor the result: both are read as if they were empty.
pub(crate) fn columns_without_bytes() -> &'static str {
    static COLUMNS_WITHOUT_BYTES: LazyLock<String> =
        LazyLock::new(|| COLUMNS.replace(" payload,", " x'' AS payload,").replace(" result,", " NULL AS result,"));
    &COLUMNS_WITHOUT_BYTES
}

/// The columns that [`summary`] reads: [`COLUMNS`] without the payload and the result, and sizes, which SQLite knows
/// without reading the values.
pub(crate) fn summary_columns() -> String {
    format!(
        "{}, octet_length(payload), octet_length(result),
         octet_length(headers) + octet_length(metadata) + coalesce(octet_length(last_error), 0)",
        columns_without_bytes()
    )
}

/// Decodes a row that was selected with [`summary_columns`]. Returns also about the bytes of its other columns.
pub(crate) fn summary(row: &Row<'_>) -> rusqlite::Result<(ItemSummary, usize)> {
    let beside = usize::try_from(row.get::<_, i64>(32)?).unwrap_or(0);
    Ok((ItemSummary { item: item(row)?.item, payload_bytes: row.get(30)?, result_bytes: row.get(31)? }, beside))
}

/// An item, and the first of its parts that could not be read.
pub(crate) struct DecodedItem {
    pub(crate) item: Item,
    pub(crate) defect: Option<String>,
}

/// Decodes a row that was selected with [`COLUMNS`].
pub(crate) fn item(row: &Row<'_>) -> rusqlite::Result<DecodedItem> {
    let DecodedItem { item, defect } = enqueued(row)?;
    let status: String = cell(row, 13)?;
    let item = Item {
        status: parse_word(&status, RowName::new("item", cell(row, 0)?), "status").map_err(unusable)?,
        attempts: cell(row, 14)?,
        deliveries: cell(row, 15)?,
        replays: cell(row, 16)?,
        claimed_at: optional_time(row, 17)?,
        claimed_by: cell(row, 18)?,
        lease_until: optional_time(row, 19)?,
        losses: cell(row, 20)?,
        give_backs: cell(row, 21)?,
        maybe_executed: cell(row, 22)?,
        given_back_since: optional_time(row, 23)?,
        effect_generation: cell(row, 24)?,
        last_error: cell(row, 25)?,
        done_at: optional_time(row, 26)?,
        dead_at: optional_time(row, 27)?,
        result: cell(row, 28)?,
        handler_digest: cell(row, 29)?,
        ..item
    };
    Ok(DecodedItem { item, defect })
}

/// Decodes a row that was selected with [`ENQUEUED_COLUMNS`]: the item as it was when it was enqueued.
pub(crate) fn enqueued(row: &Row<'_>) -> rusqlite::Result<DecodedItem> {
    let mut defects = Vec::new();
    let enqueued = NewItem {
        idem_key: text(row, 1, &mut defects)?,
        item_type: text(row, 2, &mut defects)?,
        payload: bytes(row, 3)?.to_vec(),
        content_type: text(row, 4, &mut defects)?,
        headers: json(row, 5, "headers", &mut defects)?,
        cid: Some(text(row, 6, &mut defects)?),
        saga: optional_text(row, 7, &mut defects)?,
        ordering_key: optional_text(row, 8, &mut defects)?,
        fairness_key: optional_text(row, 12, &mut defects)?,
        metadata: metadata(row, 10, &mut defects)?,
        delay: Duration::ZERO,
    };
    let item = Item { available_at: time(row, 11)?, ..enqueued.into_item(ItemId::new(cell(row, 0)?), time(row, 9)?) };
    Ok(DecodedItem { item, defect: defects.into_iter().next() })
}

/// A column that holds a point in time.
pub(crate) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Millis> {
    cell(row, column).map(Millis::new)
}

/// The value of a column, or what is nearest to it: a row that no host wrote stops no reader of others.
pub(crate) fn cell<T: Nearest>(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<T> {
    row.get_ref(column).map(T::nearest)
}

/// A column that holds a point in time or is empty.
pub(crate) fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Millis>> {
    Ok(cell::<Option<i64>>(row, column)?.map(Millis::new))
}

/// The bytes of a column that holds text or a blob.
pub(crate) fn bytes<'row>(row: &'row Row<'_>, column: usize) -> rusqlite::Result<&'row [u8]> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes),
        other => Err(rusqlite::Error::InvalidColumnType(column, "payload".into(), other.data_type())),
    }
}

fn text(row: &Row<'_>, column: usize, defects: &mut Vec<String>) -> rusqlite::Result<String> {
    String::from_utf8(bytes(row, column)?.to_vec()).or_else(|err| {
        defects.push(format!("column {column} is not UTF-8"));
        Ok(String::from_utf8_lossy(err.as_bytes()).into_owned())
    })
}

fn optional_text(row: &Row<'_>, column: usize, defects: &mut Vec<String>) -> rusqlite::Result<Option<String>> {
    if row.get_ref(column)? == ValueRef::Null { Ok(None) } else { text(row, column, defects).map(Some) }
}

/// A text as it is, or as much of it as is UTF-8: for a reader that must not stop at an odd row.
pub(crate) fn text_or_like(row: &Row<'_>, column: &str) -> rusqlite::Result<String> {
    let bytes = bytes(row, row.as_ref().column_index(column)?)?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// As [`text_or_like`], of a column that may be empty.
pub(crate) fn optional_text_or_like(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<String>> {
    if row.get_ref(column)? == ValueRef::Null { Ok(None) } else { text_or_like(row, column).map(Some) }
}

fn json<T: DeserializeOwned + Default>(
    row: &Row<'_>,
    column: usize,
    name: &str,
    defects: &mut Vec<String>,
) -> rusqlite::Result<T> {
    Ok(serde_json::from_slice(bytes(row, column)?).unwrap_or_else(|err| {
        defects.push(format!("{name} cannot be read: {err}"));
        T::default()
    }))
}

/// The metadata of an item; empty where they cannot be read, which is a defect.
fn metadata(row: &Row<'_>, column: usize, defects: &mut Vec<String>) -> rusqlite::Result<Map<String, Value>> {
    let text = String::from_utf8_lossy(bytes(row, column)?);
    Ok(exact_object(&text).unwrap_or_else(|err| {
        defects.push(format!("metadata cannot be read: {err}"));
        Map::new()
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
    let text: String = cell(row, column)?;
    parse_json(&text, RowName::new(kind, cell(row, 0)?), name).map_err(unusable)
}

/// A column of any JSON. Where it cannot be read, its text is used instead.
pub(crate) fn json_value(row: &Row<'_>, column: usize) -> rusqlite::Result<Value> {
    let text: String = cell(row, column)?;
    Ok(json_or_text(&text))
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

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn the_columns_of_an_item_begin_with_those_that_its_caller_gave() {
        assert!(COLUMNS.starts_with(ENQUEUED_COLUMNS));
    }

    #[test]
    fn a_count_that_does_not_fit_is_read_and_stops_no_reader_of_others() {
        let database = Connection::open_in_memory().unwrap();
        let sql = "SELECT 5000000000, -1, 'many', NULL";
        let counts = database.query_row(sql, [], |row| (0..4).map(|column| cell(row, column)).collect());
        let counts: Vec<u32> = counts.unwrap();
        assert_eq!(counts, [u32::MAX, 0, 0, 0]);
    }
}
