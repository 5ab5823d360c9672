//! Enqueueing: into the store's own transactions, and into an application's.

use rusqlite::{Connection, OptionalExtension, params};

use super::step::Step;
use super::{system_clock, unavailable};
use crate::item::{ItemId, Millis, NewItem};
use crate::store::{Enqueued, InvalidAt, StoreError, Write};

const TRIED: &str = "enqueueing an item";

/// Enqueues an item inside the caller's transaction: it is handled if and only if that commits. The
/// database must have the outbox's schema. A key that exists with the same content gives the first id;
/// with other content it is [`StoreError::Conflict`], and the transaction goes on.
pub fn enqueue_in(tx: &rusqlite::Transaction<'_>, item: &NewItem) -> Result<ItemId, StoreError> {
    validate(std::slice::from_ref(item))?;
    create(tx, item, system_clock(), 0).map(|(id, _)| id)
}

pub(super) fn enqueue(step: &mut Step<'_>, items: &[NewItem], write: Write) -> Result<Enqueued, StoreError> {
    validate(items)?;
    let mut ids = match write {
        Write::Whole if items.len() > 1 => find_all(step.tx, items)?,
        Write::Whole | Write::Each => vec![None; items.len()],
    };
    if ids.iter().any(Option::is_some) {
        return Ok(Enqueued { ids, created: 0 });
    }
    let mut created = 0;
    for (index, item) in items.iter().enumerate() {
        let (id, is_new) = create(step.tx, item, step.now, index)?;
        created += usize::from(is_new);
        ids[index] = Some(id);
    }
    step.makes_work |= created > 0;
    Ok(Enqueued { ids, created })
}

/// Inserts the item, and looks for one that has its key only when the schema has refused it.
fn create(tx: &Connection, item: &NewItem, now: Millis, index: usize) -> Result<(ItemId, bool), StoreError> {
    let refused = match insert(tx, item, now) {
        Ok(Some(id)) => return Ok((id, true)),
        Ok(None) => rusqlite::Error::QueryReturnedNoRows,
        Err(err) => err,
    };
    match find(tx, item, index)? {
        Some(id) => Ok((id, false)),
        None => Err(unavailable(TRIED)(refused)),
    }
}

/// Enqueues what a handler emitted. A follow-up that exists is kept, whatever its content: it never fails
/// its parent.
pub(super) fn enqueue_followups(step: &mut Step<'_>, items: &[NewItem]) -> Result<(), StoreError> {
    validate(items)?;
    for item in items {
        let exists = existing(step.tx, item).optional().map_err(unavailable(TRIED))?.is_some();
        if !exists {
            insert(step.tx, item, step.now).map_err(unavailable("enqueueing a follow-up"))?;
        }
        step.tally("followup", "", &item.item_type, if exists { "kept" } else { "created" }, 1);
        step.makes_work |= !exists;
    }
    Ok(())
}

fn validate(items: &[NewItem]) -> Result<(), StoreError> {
    for (index, item) in items.iter().enumerate() {
        item.validate().map_err(|source| InvalidAt { index, source })?;
    }
    Ok(())
}

fn find_all(tx: &Connection, items: &[NewItem]) -> Result<Vec<Option<ItemId>>, StoreError> {
    items.iter().enumerate().map(|(index, item)| find(tx, item, index)).collect()
}

/// The id of the item that has the key already, if its content is the same.
fn find(tx: &Connection, item: &NewItem, index: usize) -> Result<Option<ItemId>, StoreError> {
    let existing = existing(tx, item).optional().map_err(unavailable(TRIED))?;
    match existing {
        None => Ok(None),
        Some((id, true)) => Ok(Some(id)),
        Some((first, false)) => Err(StoreError::Conflict { index, idem_key: item.idem_key.clone(), first }),
    }
}

/// The schema's insert trigger states the same rule for SQL callers.
fn existing(tx: &Connection, item: &NewItem) -> rusqlite::Result<(ItemId, bool)> {
    let mut select = tx.prepare_cached(
        "SELECT id, type = ?2 AND CAST(payload AS BLOB) = ?3 AND content_type = ?4
                AND saga IS ?5 AND ordering_key IS ?6
         FROM outbox_items WHERE idem_key = ?1",
    )?;
    select.query_row(
        params![item.idem_key, item.item_type, item.payload, item.content_type, item.saga, item.ordering_key],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// The id of the new item, or `None` when one with its key and content exists.
pub(super) fn insert(tx: &Connection, item: &NewItem, now: Millis) -> rusqlite::Result<Option<ItemId>> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO outbox_items
             (idem_key, type, payload, content_type, headers, metadata, cid, saga, ordering_key,
              available_at, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    let cid = item.cid.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let inserted = insert.execute(params![
        item.idem_key,
        item.item_type,
        Payload(&item.payload),
        item.content_type,
        json(&item.headers)?,
        json(&item.metadata)?,
        cid,
        item.saga,
        item.ordering_key,
        now.saturating_add(millis(item.delay)),
        now
    ])?;
    Ok((inserted > 0).then(|| tx.last_insert_rowid()))
}

/// Text where it is text, so that SQL readers see it; its bytes are the same either way.
struct Payload<'a>(&'a [u8]);

impl rusqlite::ToSql for Payload<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match std::str::from_utf8(self.0) {
            Ok(text) => text.to_sql(),
            Err(_) => self.0.to_sql(),
        }
    }
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|err| rusqlite::Error::ToSqlConversionFailure(Box::new(err)))
}

/// A duration in the store's unit.
pub(super) fn millis(duration: std::time::Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
