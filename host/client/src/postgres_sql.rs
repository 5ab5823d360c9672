//! The SQL text that every PostgreSQL driver runs, and the values of its parameters.
//!
//! The host runs the same text. This file knows no driver: each driver binds the values itself.

use serde_json::Error;

use outbox_item::{NewItem, millis};

/// Inserts items and returns `(idem_key, id)` of each new one. The first eleven parameters are the columns of
/// [`InsertColumns`]; the last one is the time of creation, or `NULL` for the time of the database.
///
/// The statement leaves out an item whose key another transaction inserted meanwhile, and an item whose key is stored
/// with the same content. With other content it fails with `unique_violation`.
pub const INSERT: &str = "\
    INSERT INTO outbox.items (idem_key, type, payload, content_type, headers, metadata, cid, saga,
                              ordering_key, fairness_key, created_at, available_at)
    SELECT new.key, new.kind, new.body, new.media, new.heads::json, new.notes::json, new.correlation,
           new.run, new.line, new.tenant, clock.now, clock.now + new.delay
    FROM (SELECT coalesce($12::bigint, outbox.now()) AS now) AS clock,
         unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::text[], $9::text[], $10::text[], $11::bigint[]) WITH ORDINALITY
             AS new (key, kind, body, media, heads, notes, correlation, run, line, tenant, delay, position)
    ORDER BY position
    ON CONFLICT (idem_key) DO NOTHING RETURNING idem_key, id";

/// Returns `(idem_key, id)` of each item whose key is in `$1`, an array of text.
pub const IDS_BY_KEY: &str = "SELECT idem_key, id FROM outbox.items WHERE idem_key = ANY($1::text[])";

/// Whether the item with the id `$1` has the type `$2`, the payload `$3`, the content type `$4`, the saga `$5` and the
/// ordering key `$6`. The schema's insert trigger compares the same columns.
pub const HAS_CONTENT: &str = "\
    SELECT type = $2::text AND payload = $3::bytea AND content_type = $4::text
           AND saga IS NOT DISTINCT FROM $5::text AND ordering_key IS NOT DISTINCT FROM $6::text
    FROM outbox.items WHERE id = $1::bigint";

/// Items as the columns that [`INSERT`] takes, in the order of its parameters.
#[derive(Debug)]
pub struct InsertColumns<'a> {
    /// `$1`
    pub idem_keys: Vec<&'a str>,
    /// `$2`
    pub types: Vec<&'a str>,
    /// `$3`
    pub payloads: Vec<&'a [u8]>,
    /// `$4`
    pub content_types: Vec<&'a str>,
    /// `$5`: JSON objects.
    pub headers: Vec<String>,
    /// `$6`: JSON objects.
    pub metadata: Vec<String>,
    /// `$7`
    pub cids: Vec<&'a str>,
    /// `$8`
    pub sagas: Vec<Option<&'a str>>,
    /// `$9`
    pub ordering_keys: Vec<Option<&'a str>>,
    /// `$10`
    pub fairness_keys: Vec<Option<&'a str>>,
    /// `$11`: from the time of creation, in milliseconds.
    pub delays: Vec<i64>,
}

impl<'a> InsertColumns<'a> {
    /// The columns of the items. Fails when headers or metadata cannot be written as JSON.
    pub fn new(items: &[&'a NewItem]) -> Result<Self, Error> {
        Ok(Self {
            idem_keys: items.iter().map(|item| item.idem_key.as_str()).collect(),
            types: items.iter().map(|item| item.item_type.as_str()).collect(),
            payloads: items.iter().map(|item| item.payload.as_slice()).collect(),
            content_types: items.iter().map(|item| item.content_type.as_str()).collect(),
            headers: items.iter().map(|item| serde_json::to_string(&item.headers)).collect::<Result<_, _>>()?,
            metadata: items.iter().map(|item| serde_json::to_string(&item.metadata)).collect::<Result<_, _>>()?,
            cids: items.iter().map(|item| item.correlation_id()).collect(),
            sagas: items.iter().map(|item| item.saga.as_deref()).collect(),
            ordering_keys: items.iter().map(|item| item.ordering_key.as_deref()).collect(),
            fairness_keys: items.iter().map(|item| item.fairness_key.as_deref()).collect(),
            delays: items.iter().map(|item| millis(item.delay).min(DELAY_COLUMN_MAX)).collect(),
        })
    }
}

/// A longer delay in milliseconds could leave the range of the column `available_at`.
const DELAY_COLUMN_MAX: i64 = i64::MAX / 4;
