//! From a row of `outbox.items` to an [`Item`], tolerantly: whatever stands there can be shown.

use serde::de::DeserializeOwned;
use tokio_postgres::Row;

use crate::error::PgError;
use outbox_item::{Item, Status};
use outbox_store::StoreError;

/// The columns that [`item`] reads, in its order.
pub(crate) const COLUMNS: &str = "id, idem_key, type, payload, content_type, headers::text, cid, saga, ordering_key, \
     created_at, metadata::text, status, attempts, deliveries, replays, available_at, claimed_at, claimed_by, \
     lease_until, maybe_executed, given_back_since, effects, last_error, done_at, dead_at, result, handler_digest";

/// An item, with what could not be read of it, if anything.
pub(crate) struct DecodedItem {
    pub(crate) item: Item,
    pub(crate) defect: Option<String>,
}

/// Decodes a row that was selected with [`COLUMNS`].
pub(crate) fn item(row: &Row) -> Result<DecodedItem, PgError> {
    let mut defects = Vec::new();
    let item = Item {
        id: row.try_get(0)?,
        idem_key: row.try_get(1)?,
        item_type: row.try_get(2)?,
        payload: row.try_get(3)?,
        content_type: row.try_get(4)?,
        headers: json(row.try_get(5)?, "headers", &mut defects),
        cid: row.try_get(6)?,
        saga: row.try_get(7)?,
        ordering_key: row.try_get(8)?,
        created_at: row.try_get(9)?,
        metadata: json(row.try_get(10)?, "metadata", &mut defects),
        status: status(row.try_get(11)?)?,
        attempts: count(row, 12)?,
        deliveries: count(row, 13)?,
        replays: count(row, 14)?,
        available_at: row.try_get(15)?,
        claimed_at: row.try_get(16)?,
        claimed_by: row.try_get(17)?,
        lease_until: row.try_get(18)?,
        maybe_executed: row.try_get(19)?,
        given_back_since: row.try_get(20)?,
        effect_generation: count(row, 21)?,
        last_error: row.try_get(22)?,
        done_at: row.try_get(23)?,
        dead_at: row.try_get(24)?,
        result: row.try_get(25)?,
        handler_digest: row.try_get(26)?,
    };
    Ok(DecodedItem { item, defect: defects.into_iter().next() })
}

/// A column of whole numbers that are never negative.
pub(crate) fn count(row: &Row, column: usize) -> Result<u32, PgError> {
    Ok(u32::try_from(row.try_get::<_, i32>(column)?).unwrap_or(0))
}

fn status(word: &str) -> Result<Status, PgError> {
    word.parse().map_err(|err| PgError::Rejected(StoreError::Unusable(format!("outbox.items: {err}"))))
}

fn json<T: DeserializeOwned + Default>(text: &str, name: &str, defects: &mut Vec<String>) -> T {
    serde_json::from_str(text).unwrap_or_else(|err| {
        defects.push(format!("{name} cannot be read: {err}"));
        T::default()
    })
}

/// [`COLUMNS`] for those who do not need the payload, which can be large.
pub(crate) fn without_payload() -> String {
    COLUMNS.replace("payload", "''::bytea")
}
