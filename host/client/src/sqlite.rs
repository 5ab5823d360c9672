//! Enqueues inside a transaction of `rusqlite`.
//!
//! Owns the statement that inserts an item into `outbox_items`, the order of its parameters, and the query for the item
//! that already has a key. The host runs the same text. This file opens no database, begins no transaction and commits
//! none.

use std::time::SystemTime;

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension, Statement, ToSql, Transaction, params};

use outbox_item::{ItemId, Millis, NewItem};

use crate::error::EnqueueError;

/// Inserts one item. [`bind`] knows the order of the parameters. For several items, more of [`ROW`] follow, each after
/// a comma.
///
/// A trigger of the schema leaves out an item whose key is stored with the same content. With other content it makes
/// the statement fail.
pub const INSERT: &str = "INSERT INTO outbox_items (idem_key, type, payload, content_type, headers, metadata, cid, \
                          saga, ordering_key, available_at, created_at, fairness_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// The parameters of one item: the end of [`INSERT`].
pub const ROW: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// The number of parameters of one item.
pub const VALUES: usize = 12;

/// Enqueues an item inside the caller's transaction: the item exists if and only if the transaction commits. The
/// database must have the schema of the outbox.
///
/// Returns the id of the item. When the key is stored with the same content, this is the id of the first item, and
/// nothing changes. With other content the error is [`EnqueueError::Conflict`], and the transaction can go on.
/// [`EnqueueError::Database`] holds a [`rusqlite::Error`].
pub fn enqueue_in(tx: &Transaction<'_>, item: &NewItem) -> Result<ItemId, EnqueueError> {
    item.validate()?;
    let refused = match insert(tx, item, SystemTime::now().into()) {
        Ok(Some(id)) => return Ok(id),
        Ok(None) => rusqlite::Error::QueryReturnedNoRows,
        Err(err) => err,
    };
    match find_by_key(tx, item).map_err(EnqueueError::database)? {
        Some(KeyOwner { id, has_same_content: true }) => Ok(id),
        Some(KeyOwner { id, .. }) => Err(EnqueueError::conflict(item, id)),
        None => Err(EnqueueError::database(refused)),
    }
}

/// The id of the new item, or `None` when an item with its key and content exists.
fn insert(tx: &Connection, item: &NewItem, now: Millis) -> rusqlite::Result<Option<ItemId>> {
    let mut insert = tx.prepare_cached(INSERT)?;
    bind(&mut insert, 0, item, now)?;
    let inserted = insert.raw_execute()?;
    Ok((inserted > 0).then(|| ItemId::new(tx.last_insert_rowid())))
}

/// Binds the values of an item to a statement with at least `bound` + [`VALUES`] parameters, of which the first
/// `bound` are bound already. `now` is the time of creation; the delay of the item counts from there.
pub fn bind(insert: &mut Statement<'_>, bound: usize, item: &NewItem, now: Millis) -> rusqlite::Result<()> {
    let values: [&dyn ToSql; VALUES] = [
        &item.idem_key,
        &item.item_type,
        &Payload(&item.payload),
        &item.content_type,
        &json(serde_json::to_string(&item.headers))?,
        &json(serde_json::to_string(&item.metadata))?,
        &item.correlation_id(),
        &item.saga,
        &item.ordering_key,
        &now.saturating_add(item.delay).get(),
        &now.get(),
        &item.fairness_key,
    ];
    values.iter().enumerate().try_for_each(|(index, value)| insert.raw_bind_parameter(bound + index + 1, value))
}

/// The stored item that has the key of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyOwner {
    /// Its id.
    pub id: ItemId,
    /// Whether both have the same type, payload, content type, saga and ordering key.
    pub has_same_content: bool,
}

/// The stored item that has the item's key, if there is one. The schema's insert trigger compares the same columns.
pub fn find_by_key(connection: &Connection, item: &NewItem) -> rusqlite::Result<Option<KeyOwner>> {
    let mut select = connection.prepare_cached(
        "SELECT id, type = ?2 AND CAST(payload AS BLOB) = ?3 AND content_type = ?4
                AND saga IS ?5 AND ordering_key IS ?6
         FROM outbox_items WHERE idem_key = ?1",
    )?;
    let values = params![item.idem_key, item.item_type, item.payload, item.content_type, item.saga, item.ordering_key];
    select
        .query_row(values, |row| Ok(KeyOwner { id: ItemId::new(row.get(0)?), has_same_content: row.get(1)? }))
        .optional()
}

/// A payload as an SQL value: text if it is UTF-8, so that a person who reads the table sees it, else a blob. The bytes
/// are the same in both cases.
struct Payload<'a>(&'a [u8]);

impl ToSql for Payload<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match std::str::from_utf8(self.0) {
            Ok(text) => text.to_sql(),
            Err(_) => self.0.to_sql(),
        }
    }
}

fn json(text: serde_json::Result<String>) -> rusqlite::Result<String> {
    text.map_err(|err| rusqlite::Error::ToSqlConversionFailure(Box::new(err)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_ends_with_one_row_of_parameters() {
        assert!(INSERT.ends_with(ROW));
        assert_eq!(ROW.matches('?').count(), VALUES);
    }
}
