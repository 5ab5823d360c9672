//! The SQL text that every PostgreSQL driver runs, and the values of its parameters.
//!
//! The host binds the same values, and inserts by a function of the schema. This file knows no driver: each driver binds
//! the values itself.

use serde_json::Error;

use outbox_item::{NewItem, millis};

/// Inserts an item and returns its `(idem_key, id)` if it is new. The first eleven parameters are the values of
/// [`InsertRow`]; the last one is the time of creation, or `NULL` for the time of the database.
///
/// The statement leaves out an item whose key another transaction inserted meanwhile, and an item whose key is stored
/// with the same content. With other content it fails with `unique_violation`.
pub const INSERT: &str = "\
    INSERT INTO outbox.items (idem_key, type, payload, content_type, headers, metadata, cid, saga,
                              ordering_key, fairness_key, created_at, available_at)
    SELECT $1::text, $2::text, $3::bytea, $4::text, $5::text::json, $6::text::json, $7::text, $8::text, $9::text,
           $10::text, clock.now, clock.now + $11::bigint
    FROM (SELECT coalesce($12::bigint, outbox.now()) AS now) AS clock
    ON CONFLICT (idem_key) DO NOTHING RETURNING idem_key, id";

/// Returns `(idem_key, id)` of each item whose key is in `$1`, an array of text.
pub const IDS_BY_KEY: &str = "SELECT idem_key, id FROM outbox.items WHERE idem_key = ANY($1::text[])";

/// Whether the item with the id `$1` has the type `$2`, the payload `$3`, the content type `$4`, the saga `$5` and the
/// ordering key `$6`. The schema's insert trigger compares the same columns.
pub const HAS_CONTENT: &str = "\
    SELECT type = $2::text AND payload = $3::bytea AND content_type = $4::text
           AND saga IS NOT DISTINCT FROM $5::text AND ordering_key IS NOT DISTINCT FROM $6::text
    FROM outbox.items WHERE id = $1::bigint";

/// An item as the values that [`INSERT`] takes, in the order of its parameters.
#[derive(Debug)]
pub struct InsertRow<'a> {
    /// `$1`
    pub idem_key: &'a str,
    /// `$2`
    pub item_type: &'a str,
    /// `$3`
    pub payload: &'a [u8],
    /// `$4`
    pub content_type: &'a str,
    /// `$5`: a JSON object.
    pub headers: String,
    /// `$6`: a JSON object.
    pub metadata: String,
    /// `$7`
    pub cid: &'a str,
    /// `$8`
    pub saga: Option<&'a str>,
    /// `$9`
    pub ordering_key: Option<&'a str>,
    /// `$10`
    pub fairness_key: Option<&'a str>,
    /// `$11`: from the time of creation, in milliseconds.
    pub delay: i64,
}

impl<'a> InsertRow<'a> {
    /// The values of the item. Fails when headers or metadata cannot be written as JSON.
    pub fn new(item: &'a NewItem) -> Result<Self, Error> {
        Ok(Self {
            idem_key: &item.idem_key,
            item_type: &item.item_type,
            payload: &item.payload,
            content_type: &item.content_type,
            headers: serde_json::to_string(&item.headers)?,
            metadata: serde_json::to_string(&item.metadata)?,
            cid: item.correlation_id(),
            saga: item.saga.as_deref(),
            ordering_key: item.ordering_key.as_deref(),
            fairness_key: item.fairness_key.as_deref(),
            delay: millis(item.delay).min(DELAY_COLUMN_MAX),
        })
    }
}

/// A longer delay in milliseconds could leave the range of the column `available_at`.
const DELAY_COLUMN_MAX: i64 = i64::MAX / 4;
