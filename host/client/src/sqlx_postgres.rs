//! Enqueues inside a PostgreSQL transaction of sqlx.
//!
//! Owns how [`INSERT`] is sent so that a conflict does not end the transaction. The SQL text is that of
//! [`postgres_sql`](crate::postgres_sql). It opens no connection, begins no transaction and commits none. It needs the
//! crates `sqlx-core` and `sqlx-postgres`, whose types the façade `sqlx` re-exports, and no runtime of its own.

use sqlx_core::acquire::Acquire;
use sqlx_core::error::Error;
use sqlx_core::query::{Query, query};
use sqlx_core::row::Row;
use sqlx_core::transaction::Transaction;
use sqlx_postgres::{PgArguments, Postgres};

use outbox_item::{ItemId, NewItem};

use crate::error::{EnqueueError, LostRace};
use crate::postgres_sql::{HAS_CONTENT, IDS_BY_KEY, INSERT, InsertRow};

/// Enqueues an item inside the caller's transaction: the item exists if and only if the transaction commits. The
/// database must have the schema of the outbox.
///
/// Returns the id of the item. When the key is stored with the same content, this is the id of the first item, and
/// nothing changes. With other content the error is [`EnqueueError::Conflict`], and the transaction can go on.
/// [`EnqueueError::Database`] holds a [`sqlx_core::error::Error`].
///
/// A new item is inserted inside a savepoint, so that an item that the database refuses does not end the transaction.
/// Items with the same ordering key are handled in the order in which their transactions committed. No insert waits
/// for that.
pub async fn enqueue_in(tx: &mut Transaction<'_, Postgres>, item: &NewItem) -> Result<ItemId, EnqueueError> {
    item.validate()?;
    let row = InsertRow::new(item).map_err(EnqueueError::database)?;
    // A second time, when another transaction took the key between the look and the insert.
    for _ in 0..2 {
        if let Some(id) = find(tx, item).await? {
            return Ok(id);
        }
        if let Some(id) = insert(tx, &row).await.map_err(EnqueueError::database)? {
            return Ok(id);
        }
    }
    Err(EnqueueError::database(LostRace))
}

/// The id of the stored item that has the item's key and content.
async fn find(tx: &mut Transaction<'_, Postgres>, item: &NewItem) -> Result<Option<ItemId>, EnqueueError> {
    match key_owner(tx, item).await.map_err(EnqueueError::database)? {
        Some((first, false)) => Err(EnqueueError::conflict(item, first)),
        owner => Ok(owner.map(|(id, _)| id)),
    }
}

/// The id of the stored item that has the item's key, and whether the content is the same.
async fn key_owner(tx: &mut Transaction<'_, Postgres>, item: &NewItem) -> Result<Option<(ItemId, bool)>, Error> {
    let NewItem { idem_key, item_type, payload, content_type, saga, ordering_key, .. } = item;
    let look = query(IDS_BY_KEY).bind([idem_key.as_str()]);
    let Some(row) = look.fetch_optional(&mut **tx).await? else { return Ok(None) };
    let id: i64 = row.try_get(1)?;
    let compare = query(HAS_CONTENT).bind(id).bind(item_type).bind(payload).bind(content_type);
    let compared = compare.bind(saga).bind(ordering_key).fetch_optional(&mut **tx).await?;
    compared.map(|row| Ok((ItemId::new(id), row.try_get(0)?))).transpose()
}

/// The id of the new item, or `None` when an item that has its key is stored.
async fn insert(tx: &mut Transaction<'_, Postgres>, row: &InsertRow<'_>) -> Result<Option<ItemId>, Error> {
    // When the caller drops this future, sqlx rolls back to the savepoint before the next statement.
    let mut savepoint = Acquire::begin(&mut *tx).await?;
    match insert_statement(row).fetch_optional(&mut *savepoint).await {
        Ok(row) => {
            savepoint.commit().await?;
            row.map(|row| row.try_get(1).map(ItemId::new)).transpose()
        }
        Err(err) => {
            savepoint.rollback().await?;
            if has_other_content(&err) { Ok(None) } else { Err(err) }
        }
    }
}

/// [`INSERT`] with its parameters, at the time of the database.
fn insert_statement<'a>(row: &'a InsertRow<'_>) -> Query<'a, Postgres, PgArguments> {
    let InsertRow { idem_key, item_type, payload, content_type, headers, metadata, cid, saga, .. } = row;
    let insert = query(INSERT).bind(*idem_key).bind(*item_type).bind(*payload).bind(*content_type).bind(headers);
    let insert = insert.bind(metadata).bind(*cid).bind(*saga).bind(row.ordering_key).bind(row.fairness_key);
    insert.bind(row.delay).bind(None::<i64>)
}

/// Whether the schema refused the insert because another transaction stored the key with other content meanwhile.
fn has_other_content(err: &Error) -> bool {
    let refused = err.as_database_error();
    refused.is_some_and(|refused| refused.is_unique_violation() && refused.constraint() == Some("items_idem_key"))
}
