//! Reads rows of the view `outbox.status`, decodes columns, and binds the parameters of filters.
//!
//! The view shows an item together with the place where it is; this file does not know the places. An item's row is
//! read tolerantly: a part that cannot be read is empty, so that operators can still see the rest.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio_postgres::Row;

use outbox_item::{Item, ItemId, ItemSummary, Millis, exact_object};
use outbox_store::engine::sql_filter::{SqlFilter, SqlParam};
use outbox_store::engine::stored::{RowName, json_or_text, parse_json, parse_word};

use crate::error::PgError;
use crate::sql_value::SqlValue;

/// The columns that [`item`] reads, in its order.
pub(crate) const COLUMNS: &str = "id, idem_key, type, payload, content_type, headers::text, cid, saga, ordering_key, \
     created_at, metadata::text, status, attempts, deliveries, replays, available_at, claimed_at, claimed_by, \
     lease_until, maybe_executed, given_back_since, effects, last_error, done_at, dead_at, result, handler_digest, \
     losses, give_backs, fairness_key";

/// Decodes a row that was selected with [`COLUMNS`]. Parts that cannot be read are empty.
pub(crate) fn item(row: &Row) -> Result<Item, PgError> {
    let mut ignored = Vec::new();
    Ok(Item {
        id: ItemId::new(row.try_get(0)?),
        idem_key: row.try_get(1)?,
        item_type: row.try_get(2)?,
        payload: row.try_get(3)?,
        content_type: row.try_get(4)?,
        headers: headers(row.try_get(5)?, &mut ignored),
        cid: row.try_get(6)?,
        saga: row.try_get(7)?,
        ordering_key: row.try_get(8)?,
        created_at: time(row, 9)?,
        metadata: metadata(row.try_get(10)?, &mut ignored),
        status: parse_word(row.try_get(11)?, RowName::new("item", row.try_get(0)?), "status")?,
        attempts: count(row, 12)?,
        deliveries: count(row, 13)?,
        replays: count(row, 14)?,
        available_at: time(row, 15)?,
        claimed_at: optional_time(row, 16)?,
        claimed_by: row.try_get(17)?,
        lease_until: optional_time(row, 18)?,
        maybe_executed: row.try_get(19)?,
        given_back_since: optional_time(row, 20)?,
        effect_generation: count(row, 21)?,
        last_error: row.try_get(22)?,
        done_at: optional_time(row, 23)?,
        dead_at: optional_time(row, 24)?,
        result: row.try_get(25)?,
        handler_digest: row.try_get(26)?,
        losses: count(row, 27)?,
        give_backs: count(row, 28)?,
        fairness_key: row.try_get(29)?,
    })
}

/// The columns that [`summary`] reads: [`COLUMNS`] without the payload and the result, the sizes of both, and about the
/// bytes of the rest. Each has a name, because a listing is read from a subquery.
pub(crate) fn summary_columns() -> String {
    let columns = COLUMNS
        .replace("payload,", "''::bytea AS payload,")
        .replace("result,", "NULL::bytea AS result,")
        .replace("headers::text", "headers::text AS headers")
        .replace("metadata::text", "metadata::text AS metadata");
    format!(
        "{columns}, octet_length(payload)::bigint AS payload_bytes, octet_length(result)::bigint AS result_bytes,
         (octet_length(headers::text) + octet_length(metadata::text) + octet_length(coalesce(last_error, '')))::bigint
             AS beside"
    )
}

/// Decodes a row that was selected with [`summary_columns`].
pub(crate) fn summary(row: &Row) -> Result<ItemSummary, PgError> {
    let result_bytes = row.try_get::<_, Option<i64>>("result_bytes")?;
    Ok(ItemSummary {
        item: item(row)?,
        payload_bytes: u64::try_from(row.try_get::<_, i64>("payload_bytes")?).unwrap_or(0),
        result_bytes: result_bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
    })
}

/// A column that holds a point in time.
pub(crate) fn time(row: &Row, column: usize) -> Result<Millis, PgError> {
    Ok(Millis::new(row.try_get(column)?))
}

/// A column that holds a point in time or is empty.
pub(crate) fn optional_time(row: &Row, column: usize) -> Result<Option<Millis>, PgError> {
    Ok(row.try_get::<_, Option<i64>>(column)?.map(Millis::new))
}

/// A column of type `integer` that is never negative.
pub(crate) fn count(row: &Row, column: usize) -> Result<u32, PgError> {
    Ok(u32::try_from(row.try_get::<_, i32>(column)?).unwrap_or(0))
}

/// The headers of an item; empty where they cannot be read, which is a defect.
pub(crate) fn headers(text: &str, defects: &mut Vec<String>) -> BTreeMap<String, String> {
    serde_json::from_str(text).unwrap_or_else(|err| {
        defects.push(format!("headers cannot be read: {err}"));
        BTreeMap::new()
    })
}

/// The metadata of an item; empty where they cannot be read, which is a defect.
pub(crate) fn metadata(text: &str, defects: &mut Vec<String>) -> Map<String, Value> {
    exact_object(text).unwrap_or_else(|err| {
        defects.push(format!("metadata cannot be read: {err}"));
        Map::new()
    })
}

/// [`COLUMNS`] with an empty payload, for callers that do not need the payload, which can be large.
pub(crate) fn without_payload() -> String {
    COLUMNS.replace("payload", "''::bytea")
}

/// A column of type `bigint` that is never negative.
pub(crate) fn unsigned(row: &Row, column: usize) -> Result<u64, PgError> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
}

/// A column of JSON, selected as text, of a row whose first column is its number. Errors with `StoreError::Unusable`,
/// which names the row by `kind` and number, when the JSON cannot be read.
pub(crate) fn json_column<T: DeserializeOwned>(
    row: &Row,
    column: usize,
    name: &str,
    kind: &'static str,
) -> Result<T, PgError> {
    Ok(parse_json(row.try_get(column)?, RowName::new(kind, row.try_get(0)?), name)?)
}

/// A column of any JSON, selected as text. Where it cannot be read, its text is used instead.
pub(crate) fn json_value(row: &Row, column: usize) -> Result<Value, PgError> {
    Ok(json_or_text(row.try_get(column)?))
}

/// The ids as an array parameter.
pub(crate) fn numbers(ids: &[ItemId]) -> Vec<i64> {
    ids.iter().map(|id| id.get()).collect()
}

/// The values of a filter's parameters.
pub(crate) fn values(condition: &SqlFilter) -> Vec<&dyn SqlValue> {
    condition.params.iter().map(bind).collect()
}

fn bind(param: &SqlParam) -> &dyn SqlValue {
    match param {
        SqlParam::Text(text) => text,
        SqlParam::Number(number) => number,
    }
}
