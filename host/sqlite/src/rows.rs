//! From a row of `outbox_items` to an [`Item`], tolerantly: whatever stands there can be shown.

use std::collections::BTreeMap;

use rusqlite::{Row, types::ValueRef};
use serde::de::DeserializeOwned;

use outbox_item::{Item, Status};

/// The columns that [`item`] reads, in its order.
pub(crate) const COLUMNS: &str = "id, idem_key, type, payload, content_type, headers, cid, saga, ordering_key, \
     created_at, metadata, status, attempts, deliveries, replays, available_at, claimed_at, claimed_by, \
     lease_until, maybe_executed, given_back_since, effects, last_error, done_at, dead_at, result, handler_digest";

/// An item, with what could not be read of it, if anything.
pub(crate) struct DecodedItem {
    pub(crate) item: Item,
    pub(crate) defect: Option<String>,
}

/// Decodes a row that was selected with [`COLUMNS`].
pub(crate) fn item(row: &Row<'_>) -> rusqlite::Result<DecodedItem> {
    let mut defects = Vec::new();
    let item = Item {
        id: row.get(0)?,
        idem_key: text(row, 1, &mut defects)?,
        item_type: text(row, 2, &mut defects)?,
        payload: bytes(row, 3)?,
        content_type: text(row, 4, &mut defects)?,
        headers: json::<BTreeMap<_, _>>(row, 5, "headers", &mut defects)?,
        cid: text(row, 6, &mut defects)?,
        saga: row.get(7)?,
        ordering_key: row.get(8)?,
        created_at: row.get(9)?,
        metadata: json(row, 10, "metadata", &mut defects)?,
        status: text(row, 11, &mut defects)?.parse::<Status>().map_err(|err| invalid(11, err))?,
        attempts: row.get(12)?,
        deliveries: row.get(13)?,
        replays: row.get(14)?,
        available_at: row.get(15)?,
        claimed_at: row.get(16)?,
        claimed_by: row.get(17)?,
        lease_until: row.get(18)?,
        maybe_executed: row.get(19)?,
        given_back_since: row.get(20)?,
        effect_generation: row.get(21)?,
        last_error: row.get(22)?,
        done_at: row.get(23)?,
        dead_at: row.get(24)?,
        result: row.get(25)?,
        handler_digest: row.get(26)?,
    };
    Ok(DecodedItem { item, defect: defects.into_iter().next() })
}

/// Text means its UTF-8 bytes.
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

fn invalid(column: usize, err: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(err))
}
