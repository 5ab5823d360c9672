//! Enqueueing: into the store's own transactions, and into an application's.

use std::sync::LazyLock;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Statement, ToSql, params};

use crate::batch::{Statements, slices};
use crate::write_tx::WriteTx;
use crate::{system_clock, unavailable};
use outbox_item::{ItemId, Millis, NewItem};
use outbox_store::engine::{millis, validate};
use outbox_store::{BatchMode, EnqueueReport, StoreError};

const TRIED: &str = "enqueueing an item";

/// Enqueues an item inside the caller's transaction: it is handled if and only if that commits. The
/// database must have the outbox's schema. A key that exists with the same content gives the first id;
/// with other content it is [`StoreError::Conflict`], and the transaction goes on.
pub fn enqueue_in(tx: &rusqlite::Transaction<'_>, item: &NewItem) -> Result<ItemId, StoreError> {
    validate(std::slice::from_ref(item))?;
    create_one(tx, item, system_clock()).map(|created| created.id)
}

pub(crate) fn enqueue(tx: &mut WriteTx<'_>, items: &[NewItem], mode: BatchMode) -> Result<EnqueueReport, StoreError> {
    validate(items)?;
    if mode == BatchMode::AllOrNothing && items.len() > 1 {
        let ids = find_all(tx.connection, items)?;
        if ids.iter().any(Option::is_some) {
            return Ok(EnqueueReport { ids, created: 0 });
        }
    }
    let rows: Vec<_> = items.iter().collect();
    let mut enqueued = EnqueueReport { ids: Vec::with_capacity(items.len()), created: 0 };
    for (index, created) in create(tx, &rows).into_iter().enumerate() {
        let Created { id, is_new } = created.map_err(|err| err.at_index(index))?;
        enqueued.ids.push(Some(id));
        enqueued.created += usize::from(is_new);
    }
    Ok(enqueued)
}

/// What became of one item.
pub(crate) struct Created {
    pub(crate) id: ItemId,
    /// Whether it did not exist before.
    pub(crate) is_new: bool,
}

/// Creates valid items, each for itself: one that is refused changes nothing. Answers in their order.
pub(crate) fn create(tx: &mut WriteTx<'_>, items: &[&NewItem]) -> Vec<Result<Created, StoreError>> {
    let all: Vec<_> = slices(items).flat_map(|items| create_rows(tx, items)).collect();
    tx.wakes_workers |= all.iter().flatten().any(|created| created.is_new);
    all
}

/// Creates the items in one statement. Where the schema refuses that, they are created one by one, which tells
/// of each what became of it.
fn create_rows(tx: &WriteTx<'_>, rows: &[&NewItem]) -> Vec<Result<Created, StoreError>> {
    match create_in_one_statement(tx.connection, rows, tx.now) {
        Ok(created) => created.into_iter().map(Ok).collect(),
        Err(refused) if refused.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            rows.iter().map(|item| create_one(tx.connection, item, tx.now)).collect()
        }
        Err(broken) => {
            let message = broken.to_string();
            let failed = || StoreError::Unavailable { tried: TRIED, source: message.clone().into() };
            rows.iter().map(|_| Err(failed())).collect()
        }
    }
}

fn create_in_one_statement(tx: &Connection, rows: &[&NewItem], now: Millis) -> rusqlite::Result<Vec<Created>> {
    let count = insert_rows(tx, rows, now)?;
    let last = tx.last_insert_rowid();
    // Nobody else writes meanwhile, so the new ids follow each other in the order of the rows.
    let mut next = last - ItemId::try_from(count).unwrap_or_default() + 1;
    if count == rows.len() {
        return Ok((next..=last).map(|id| Created { id, is_new: true }).collect());
    }
    let left_out = |item: &&NewItem| {
        let (id, _) = existing(tx, item)?;
        let is_new = id == next && next <= last;
        next += ItemId::from(is_new);
        Ok(Created { id, is_new })
    };
    rows.iter().map(left_out).collect()
}

/// Inserts the item, and looks for one that has its key only when the schema has refused it.
fn create_one(tx: &Connection, item: &NewItem, now: Millis) -> Result<Created, StoreError> {
    let refused = match insert(tx, item, now) {
        Ok(Some(id)) => return Ok(Created { id, is_new: true }),
        Ok(None) => rusqlite::Error::QueryReturnedNoRows,
        Err(err) => err,
    };
    match find(tx, item, 0)? {
        Some(id) => Ok(Created { id, is_new: false }),
        None => Err(unavailable(TRIED)(refused)),
    }
}

/// Enqueues what a handler emitted. A follow-up that exists is kept, whatever its content: it never fails
/// its parent.
pub(crate) fn enqueue_followups(tx: &mut WriteTx<'_>, items: &[NewItem]) -> Result<(), StoreError> {
    validate(items)?;
    for item in items {
        let exists = existing(tx.connection, item).optional().map_err(unavailable(TRIED))?.is_some();
        if !exists {
            insert(tx.connection, item, tx.now).map_err(unavailable("enqueueing a follow-up"))?;
        }
        tx.count("followup", "", &item.item_type, if exists { "kept" } else { "created" }, 1);
        tx.wakes_workers |= !exists;
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
pub(crate) fn insert(tx: &Connection, item: &NewItem, now: Millis) -> rusqlite::Result<Option<ItemId>> {
    let inserted = insert_rows(tx, &[item], now)?;
    Ok((inserted > 0).then(|| tx.last_insert_rowid()))
}

/// The values of a new row.
const VALUES: usize = 11;

static INSERT: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(VALUES, |rows| {
        format!(
            "INSERT INTO outbox_items
                 (idem_key, type, payload, content_type, headers, metadata, cid, saga, ordering_key,
                  available_at, created_at)
             VALUES {rows}"
        )
    })
});

/// Inserts the items in one statement: all of them, but for those that exist with the same content, or none.
/// Returns how many were new.
fn insert_rows(tx: &Connection, items: &[&NewItem], now: Millis) -> rusqlite::Result<usize> {
    let mut insert = tx.prepare_cached(INSERT.of(items.len()))?;
    for (row, item) in items.iter().enumerate() {
        bind(&mut insert, row * VALUES, item, now)?;
    }
    insert.raw_execute()
}

/// Binds the values of an item behind those that are bound already.
fn bind(insert: &mut Statement<'_>, bound: usize, item: &NewItem, now: Millis) -> rusqlite::Result<()> {
    let values: [&dyn ToSql; VALUES] = [
        &item.idem_key,
        &item.item_type,
        &Payload(&item.payload),
        &item.content_type,
        &json(&item.headers)?,
        &json(&item.metadata)?,
        &item.correlation_id(),
        &item.saga,
        &item.ordering_key,
        &now.saturating_add(millis(item.delay)),
        &now,
    ];
    values.iter().enumerate().try_for_each(|(index, value)| insert.raw_bind_parameter(bound + index + 1, value))
}

/// Text where it is text, so that SQL readers see it; its bytes are the same either way.
struct Payload<'a>(&'a [u8]);

impl ToSql for Payload<'_> {
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
