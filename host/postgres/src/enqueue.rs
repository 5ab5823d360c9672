//! Enqueues items and follow-ups inside the store's own transactions.
//!
//! The values of an item and their order belong to `outbox_client::postgres_sql`, whose INSERT applications run. This file
//! knows nothing of claims and attempts.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Row;

use outbox_client::postgres_sql::{HAS_CONTENT, IDS_BY_KEY, InsertRow};
use outbox_core::HostWrites;
use outbox_item::{ItemId, Millis, NewItem, validate_items};
use outbox_store::engine::NewAuditEntry;
use outbox_store::engine::counters::{Counter, FollowupOutcome};
use outbox_store::engine::descent::Descent;
use outbox_store::{AnewRequest, BatchMode, EnqueueReport, StoreError};

use crate::audit;
use crate::context::{PgContext, Purpose};
use crate::descendants;
use crate::error::PgError;
use crate::tx::{Query, Values, WriteTx};

/// Enqueues one valid item as if its key were new, in one round trip. `None` when the key exists: then nothing was
/// written.
pub(crate) async fn enqueue_new(pg: &PgContext, item: &NewItem) -> Result<Option<ItemId>, StoreError> {
    let insert_new = async || {
        let client = pg.pool.connection(Purpose::Call).await?;
        let now = pg.tx.clock.as_ref().map(|clock| clock());
        match WriteTx::run_at_once(&client, &pg.tx, insert(&client, &[item], now)).await {
            Ok(ids) => Ok(ids.get(&item.idem_key).copied()),
            Err(err) if err.is_duplicate_key() => Ok(None),
            Err(err) => Err(err),
        }
    };
    let id = pg.with_retries("enqueueing items", insert_new).await?;
    if id.is_some() {
        pg.wake();
    }
    Ok(id)
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

/// Enqueues a valid item that an operator made from another, with its audit entry.
pub(crate) async fn enqueue_anew(tx: &mut WriteTx<'_>, request: &AnewRequest) -> Result<EnqueueReport, PgError> {
    let report = enqueue(tx, std::slice::from_ref(&request.item), BatchMode::AllOrNothing).await?;
    if let (1, [Some(new)]) = (report.created, &report.ids[..]) {
        let entry = NewAuditEntry::of_anew(request.old, *new, &request.actor, request.reason.as_deref());
        audit::append(tx, &entry).await?;
    }
    Ok(report)
}

/// The items that do not exist yet, the first of each key.
fn new_ones<'a>(items: &'a [NewItem], ids: &[Option<ItemId>]) -> Vec<&'a NewItem> {
    let mut keys = HashSet::new();
    let missing = items.iter().zip(ids).filter(|(_, id)| id.is_none());
    missing.map(|(item, _)| item).filter(|item| keys.insert(item.idem_key.as_str())).collect()
}

/// The id of the new item: its own, or that of an earlier item in the batch with the same key and content.
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

/// Whether two items of a batch have the same content. [`HAS_CONTENT`] compares the same fields with a stored item.
fn has_same_content(a: &NewItem, b: &NewItem) -> bool {
    let content = |item: &NewItem| {
        let NewItem { item_type, content_type, saga, ordering_key, .. } = item;
        (item_type.clone(), content_type.clone(), saga.clone(), ordering_key.clone())
    };
    a.payload == b.payload && content(a) == content(b)
}

/// What a handler emitted and the store can enqueue. A follow-up whose key exists is left out, also with other content:
/// it never fails its parent.
pub(crate) struct FollowupBatch<'a> {
    all: &'a [NewItem],
    new: Vec<&'a NewItem>,
    descent: Descent,
}

impl<'a> FollowupBatch<'a> {
    /// Those in `writes`, which the handler of `parent` emitted. Writes nothing. Errors when one is not valid, and with
    /// [`StoreError::Descendants`] when there would be too many new ones.
    pub(crate) async fn check(
        tx: &WriteTx<'_>,
        parent: ItemId,
        writes: &'a HostWrites,
    ) -> Result<Option<Self>, PgError> {
        let all = &writes.followups;
        if all.is_empty() {
            return Ok(None);
        }
        validate_items(all).map_err(StoreError::from)?;
        let known = known(tx, all).await?;
        let ids: Vec<_> = all.iter().map(|item| known.get(&item.idem_key).copied()).collect();
        let new = new_ones(all, &ids);
        let mut descent = descendants::of_followups(tx, parent, writes).await?;
        descent.take_room(new.len())?;
        Ok(Some(Self { all, new, descent }))
    }

    /// Enqueues them.
    pub(crate) async fn enqueue(self, tx: &mut WriteTx<'_>) -> Result<(), PgError> {
        let created = insert(tx, &self.new, Some(tx.now)).await?;
        if created.len() < self.new.len() {
            return Err(PgError::LostRace);
        }
        if !created.is_empty() {
            let ids: Vec<_> = created.values().map(|id| id.get()).collect();
            descendants::record(tx, &self.descent, &ids).await?;
        }
        let mut fresh: HashSet<_> = created.keys().map(String::as_str).collect();
        for item in self.all {
            let is_new = fresh.remove(item.idem_key.as_str());
            let outcome = if is_new { FollowupOutcome::Created } else { FollowupOutcome::Kept };
            tx.count(Counter::Followup { item_type: &item.item_type, outcome }, 1);
        }
        tx.wakes_workers |= !self.new.is_empty();
        Ok(())
    }
}

/// The ids of the items whose keys exist.
async fn known(tx: &impl Query, items: &[NewItem]) -> Result<HashMap<String, ItemId>, PgError> {
    let keys: Vec<_> = items.iter().map(|item| item.idem_key.as_str()).collect();
    pairs(&tx.rows(IDS_BY_KEY, &[&keys]).await?)
}

fn pairs(rows: &[Row]) -> Result<HashMap<String, ItemId>, PgError> {
    rows.iter().map(|row| Ok((row.try_get(0)?, ItemId::new(row.try_get(1)?)))).collect()
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
    let NewItem { item_type, payload, content_type, saga, ordering_key, .. } = item;
    let rows = tx.rows(HAS_CONTENT, &[&id.get(), item_type, payload, content_type, saga, ordering_key]).await?;
    Ok(rows.first().ok_or(PgError::LostRace)?.try_get(0)?)
}

/// Inserts items and returns the ids by key. `now` is the time of creation; `None` takes the time of the database.
/// An item whose key another transaction inserted meanwhile is left out.
pub(crate) async fn insert(
    tx: &impl Query,
    items: &[&NewItem],
    now: Option<Millis>,
) -> Result<HashMap<String, ItemId>, PgError> {
    let unusable = |err| StoreError::Unavailable { tried: "writing JSON", source: Box::new(err) };
    let rows = items.iter().map(|item| InsertRow::new(item)).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
    let now = now.map(Millis::get);
    let created = match &rows[..] {
        [row] => insert_one(tx, row, now).await?,
        rows => insert_many(tx, rows, now).await?,
    };
    pairs(&created)
}

async fn insert_one(tx: &impl Query, row: &InsertRow<'_>, now: Option<i64>) -> Result<Vec<Row>, PgError> {
    let InsertRow { idem_key, item_type, payload, content_type, headers, metadata, cid, saga, .. } = row;
    let InsertRow { ordering_key, fairness_key, delay, .. } = row;
    let first: Values<'_> = &[idem_key, item_type, payload, content_type, headers, metadata];
    let second: Values<'_> = &[cid, saga, ordering_key, fairness_key, delay, &now];
    tx.rows(INSERT_ONE, &[first, second].concat()).await
}

/// Inserts one item. The parameters are those of `outbox_client::postgres_sql::INSERT`, whose plan an application's driver
/// keeps. Here no plan is kept between transactions, except in functions of the schema.
const INSERT_ONE: &str = "SELECT * FROM outbox.insert_item($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

/// Inserts many items. The parameters are arrays. For one item it would take the server twice the time of
/// [`INSERT_ONE`].
const INSERT_MANY: &str = "\
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

async fn insert_many(tx: &impl Query, rows: &[InsertRow<'_>], now: Option<i64>) -> Result<Vec<Row>, PgError> {
    fn column<'a, T>(rows: &'a [InsertRow<'_>], value: impl Fn(&'a InsertRow<'_>) -> T) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    let first: Values<'_> = &[
        &column(rows, |row| row.idem_key),
        &column(rows, |row| row.item_type),
        &column(rows, |row| row.payload),
        &column(rows, |row| row.content_type),
        &column(rows, |row| row.headers.as_str()),
        &column(rows, |row| row.metadata.as_str()),
    ];
    let second: Values<'_> = &[
        &column(rows, |row| row.cid),
        &column(rows, |row| row.saga),
        &column(rows, |row| row.ordering_key),
        &column(rows, |row| row.fairness_key),
        &column(rows, |row| row.delay),
        &now,
    ];
    tx.rows(INSERT_MANY, &[first, second].concat()).await
}
