//! Enqueueing: into the store's own transactions, and into an application's.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use tokio_postgres::Row;

use crate::error::PgError;
use crate::tx::{Query, Values, WriteTx};
use outbox_item::{ItemId, Millis, NewItem};
use outbox_store::engine::{millis, validate};
use outbox_store::{BatchMode, EnqueueReport, StoreError};

/// Enqueues an item inside the caller's transaction: it is handled if and only if that commits. The
/// database must have the outbox's schema. A key that exists with the same content gives the first id;
/// with other content it is [`StoreError::Conflict`], and the transaction goes on.
pub async fn enqueue_in(tx: &tokio_postgres::Transaction<'_>, item: &NewItem) -> Result<ItemId, StoreError> {
    validate(std::slice::from_ref(item))?;
    enqueue_one(tx, item).await.map_err(|err| err.into_store_error("enqueueing an item"))
}

async fn enqueue_one(tx: &tokio_postgres::Transaction<'_>, item: &NewItem) -> Result<ItemId, PgError> {
    // A second time, when another transaction took the key between the look and the insert.
    for _ in 0..2 {
        if let Some(id) = find(tx, std::slice::from_ref(item)).await?.pop().flatten() {
            return Ok(id);
        }
        if let Some(id) = insert(&SilentConflicts(tx), &[item], None).await?.remove(&item.idem_key) {
            return Ok(id);
        }
    }
    Err(PgError::LostRace)
}

/// An application's transaction in which an insert leaves out what is there already with other content, as if
/// it had the same. The schema would answer it with an error, which ends the transaction.
struct SilentConflicts<'a>(&'a tokio_postgres::Transaction<'a>);

impl Query for SilentConflicts<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        let Self(tx) = self;
        let statement = tx.prepare(sql).await?;
        // Sent together: whatever comes of this call, no other statement of the transaction is silent.
        let (silent, rows, loud) = tokio::join!(
            biased;
            tx.batch_execute("SET LOCAL outbox.conflict = 'silent'"),
            tx.query(&statement, values),
            tx.batch_execute("SET LOCAL outbox.conflict = ''")
        );
        silent?;
        let rows = rows?;
        loud?;
        Ok(rows)
    }
}

/// Enqueues valid items.
pub(crate) async fn enqueue(
    tx: &mut WriteTx<'_>,
    items: &[NewItem],
    mode: BatchMode,
) -> Result<EnqueueReport, PgError> {
    let mut ids = find(tx, items).await?;
    if mode == BatchMode::AllOrNothing && ids.iter().any(Option::is_some) {
        return Ok(EnqueueReport { ids, created: 0 });
    }
    let new = new_ones(items, &ids);
    lock_ordering_keys(tx, &new).await?;
    let created = insert(tx, &new, Some(tx.now)).await?;
    if created.len() < new.len() {
        return Err(PgError::LostRace);
    }
    for (index, item) in items.iter().enumerate() {
        if ids[index].is_none() {
            ids[index] = Some(created_id(&created, &new, item, index)?);
        }
    }
    tx.wakes_workers |= !created.is_empty();
    Ok(EnqueueReport { ids, created: created.len() })
}

/// The items that do not exist yet, the first of each key.
fn new_ones<'a>(items: &'a [NewItem], ids: &[Option<ItemId>]) -> Vec<&'a NewItem> {
    let mut keys = HashSet::new();
    let missing = items.iter().zip(ids).filter(|(_, id)| id.is_none());
    missing.map(|(item, _)| item).filter(|item| keys.insert(item.idem_key.as_str())).collect()
}

/// The id that was given to the item, or to the one with its key that stands before it.
fn created_id(
    created: &HashMap<String, ItemId>,
    new: &[&NewItem],
    item: &NewItem,
    index: usize,
) -> Result<ItemId, PgError> {
    let first = new.iter().find(|first| first.idem_key == item.idem_key).ok_or(PgError::LostRace)?;
    let id = *created.get(&item.idem_key).ok_or(PgError::LostRace)?;
    if has_same_content(first, item) {
        return Ok(id);
    }
    Err(StoreError::Conflict { index, idem_key: item.idem_key.clone(), first: id }.into())
}

/// The schema's insert trigger states the same rule for SQL callers, and [`find`] for what is stored.
fn has_same_content(a: &NewItem, b: &NewItem) -> bool {
    let content = |item: &NewItem| {
        let NewItem { item_type, content_type, saga, ordering_key, .. } = item;
        (item_type.clone(), content_type.clone(), saga.clone(), ordering_key.clone())
    };
    a.payload == b.payload && content(a) == content(b)
}

/// Enqueues what a handler emitted, valid already. A follow-up that exists is kept, whatever its content: it
/// never fails its parent.
pub(crate) async fn followups(tx: &mut WriteTx<'_>, items: &[NewItem]) -> Result<(), PgError> {
    if items.is_empty() {
        return Ok(());
    }
    let known = known(tx, items).await?;
    let ids: Vec<_> = items.iter().map(|item| known.get(&item.idem_key).copied()).collect();
    let new = new_ones(items, &ids);
    lock_ordering_keys(tx, &new).await?;
    let created = insert(tx, &new, Some(tx.now)).await?;
    if created.len() < new.len() {
        return Err(PgError::LostRace);
    }
    let mut fresh: HashSet<_> = created.keys().map(String::as_str).collect();
    for item in items {
        let outcome = if fresh.remove(item.idem_key.as_str()) { "created" } else { "kept" };
        tx.count("followup", "", &item.item_type, outcome, 1);
    }
    tx.wakes_workers |= !new.is_empty();
    Ok(())
}

/// The ids of the items whose keys exist.
async fn known(tx: &impl Query, items: &[NewItem]) -> Result<HashMap<String, ItemId>, PgError> {
    let keys: Vec<_> = items.iter().map(|item| item.idem_key.as_str()).collect();
    let rows = tx.rows("SELECT idem_key, id FROM outbox.items WHERE idem_key = ANY($1::text[])", &[&keys]).await?;
    pairs(&rows)
}

fn pairs(rows: &[tokio_postgres::Row]) -> Result<HashMap<String, ItemId>, PgError> {
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The id of each item whose key exists with the same content. With other content it is a conflict.
async fn find(tx: &impl Query, items: &[NewItem]) -> Result<Vec<Option<ItemId>>, PgError> {
    let known = known(tx, items).await?;
    let mut ids = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let id = known.get(&item.idem_key).copied();
        if let Some(first) = id
            && !is_stored(tx, first, item).await?
        {
            return Err(StoreError::Conflict { index, idem_key: item.idem_key.clone(), first }.into());
        }
        ids.push(id);
    }
    Ok(ids)
}

/// Whether the item that is stored under the id has the content of this one.
async fn is_stored(tx: &impl Query, id: ItemId, item: &NewItem) -> Result<bool, PgError> {
    let compare = "SELECT type = $2::text AND payload = $3::bytea AND content_type = $4::text
                       AND saga IS NOT DISTINCT FROM $5::text AND ordering_key IS NOT DISTINCT FROM $6::text
                   FROM outbox.items WHERE id = $1::bigint";
    let NewItem { item_type, payload, content_type, saga, ordering_key, .. } = item;
    let rows = tx.rows(compare, &[&id, item_type, payload, content_type, saga, ordering_key]).await?;
    Ok(rows.first().ok_or(PgError::LostRace)?.try_get(0)?)
}

/// Takes the locks of the ordering keys in one order, so that writes with several keys do not wait in a
/// circle. The insert trigger takes each again.
async fn lock_ordering_keys(tx: &WriteTx<'_>, items: &[&NewItem]) -> Result<(), PgError> {
    let keys: Vec<_> = items.iter().filter_map(|item| item.ordering_key.as_deref()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let lock = "SELECT pg_advisory_xact_lock(7206001, hash)
                FROM (SELECT DISTINCT hashtext(key) AS hash FROM unnest($1::text[]) AS key ORDER BY hash) AS keys";
    tx.rows(lock, &[&keys]).await.map(drop)
}

/// Inserts items, at the database's time where no other is given, and returns the ids by key. What another
/// transaction has inserted meanwhile is left out.
pub(crate) async fn insert(
    tx: &impl Query,
    items: &[&NewItem],
    now: Option<Millis>,
) -> Result<HashMap<String, ItemId>, PgError> {
    let keys: Vec<_> = items.iter().map(|item| item.idem_key.as_str()).collect();
    let types: Vec<_> = items.iter().map(|item| item.item_type.as_str()).collect();
    let payloads: Vec<_> = items.iter().map(|item| item.payload.as_slice()).collect();
    let content_types: Vec<_> = items.iter().map(|item| item.content_type.as_str()).collect();
    let headers: Vec<_> = items.iter().map(|item| json(&item.headers)).collect::<Result<_, _>>()?;
    let metadata: Vec<_> = items.iter().map(|item| json(&item.metadata)).collect::<Result<_, _>>()?;
    let cids: Vec<_> = items.iter().map(|item| item.correlation_id()).collect();
    let sagas: Vec<_> = items.iter().map(|item| item.saga.as_deref()).collect();
    let orders: Vec<_> = items.iter().map(|item| item.ordering_key.as_deref()).collect();
    let delays: Vec<_> = items.iter().map(|item| millis(item.delay).min(DELAY_MAX)).collect();
    let statement = "INSERT INTO outbox.items (idem_key, type, payload, content_type, headers, metadata, cid, saga,
                                               ordering_key, created_at, available_at)
                     SELECT new.key, new.kind, new.body, new.media, new.heads::json, new.notes::json, new.correlation,
                            new.run, new.line, clock.now, clock.now + new.delay
                     FROM (SELECT coalesce($11::bigint, outbox.now()) AS now) AS clock,
                          unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[],
                                 $8::text[], $9::text[], $10::bigint[]) WITH ORDINALITY
                              AS new (key, kind, body, media, heads, notes, correlation, run, line, delay, position)
                     ORDER BY position
                     ON CONFLICT (idem_key) DO NOTHING RETURNING idem_key, id";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 11] =
        [&keys, &types, &payloads, &content_types, &headers, &metadata, &cids, &sagas, &orders, &delays, &now];
    pairs(&tx.rows(statement, &values).await?)
}

/// A longer delay would leave the range of the column.
const DELAY_MAX: Millis = Millis::MAX / 4;

fn json(value: &impl Serialize) -> Result<String, PgError> {
    let unusable = |err| StoreError::Unavailable { tried: "writing JSON", source: Box::new(err) };
    Ok(serde_json::to_string(value).map_err(unusable)?)
}
