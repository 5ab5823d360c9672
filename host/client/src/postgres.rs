//! Enqueues inside a transaction of `tokio-postgres`.
//!
//! Owns how [`INSERT`] is sent so that a conflict does not end the transaction. The SQL text is that of
//! [`postgres_sql`](crate::postgres_sql). It opens no connection, begins no transaction and commits none.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Transaction};

use outbox_item::{ItemId, NewItem};

use crate::error::{EnqueueError, LostRace};
use crate::postgres_sql::{HAS_CONTENT, IDS_BY_KEY, INSERT, InsertRow};

/// Enqueues an item inside the caller's transaction: the item exists if and only if the transaction commits. The
/// database must have the schema of the outbox.
///
/// Returns the id of the item. When the key is stored with the same content, this is the id of the first item, and
/// nothing changes. With other content the error is [`EnqueueError::Conflict`], and the transaction can go on.
/// [`EnqueueError::Database`] holds a [`tokio_postgres::Error`]; when the server sent it, the transaction can only be
/// rolled back.
///
/// Items with the same ordering key are handled in the order in which their transactions committed. No insert waits
/// for that.
pub async fn enqueue_in(tx: &Transaction<'_>, item: &NewItem) -> Result<ItemId, EnqueueError> {
    item.validate()?;
    let row = InsertRow::new(item).map_err(EnqueueError::database)?;
    // A second time, when another transaction took the key between the look and the insert.
    for _ in 0..2 {
        if let Some(id) = find(tx, item).await? {
            return Ok(id);
        }
        if let Some(row) = insert_silently(tx, &row).await.map_err(EnqueueError::database)? {
            return row.try_get(1).map(ItemId::new).map_err(EnqueueError::database);
        }
    }
    Err(EnqueueError::database(LostRace))
}

/// The id of the stored item that has the item's key and content.
async fn find(tx: &Transaction<'_>, item: &NewItem) -> Result<Option<ItemId>, EnqueueError> {
    match key_owner(tx, item).await.map_err(EnqueueError::database)? {
        Some((first, false)) => Err(EnqueueError::conflict(item, first)),
        owner => Ok(owner.map(|(id, _)| id)),
    }
}

/// The id of the stored item that has the item's key, and whether the content is the same.
async fn key_owner(tx: &Transaction<'_>, item: &NewItem) -> Result<Option<(ItemId, bool)>, Error> {
    let NewItem { idem_key, item_type, payload, content_type, saga, ordering_key, .. } = item;
    let Some(row) = tx.query_opt(IDS_BY_KEY, &[&[idem_key].as_slice()]).await? else { return Ok(None) };
    let id: i64 = row.try_get(1)?;
    let content: [&(dyn ToSql + Sync); 6] = [&id, item_type, payload, content_type, saga, ordering_key];
    let compared = tx.query_opt(HAS_CONTENT, &content).await?;
    compared.map(|row| Ok((ItemId::new(id), row.try_get(0)?))).transpose()
}

/// Inserts one item and returns its row. An item whose key is stored is left out, also with other content: the
/// schema's error would end the transaction.
async fn insert_silently(tx: &Transaction<'_>, row: &InsertRow<'_>) -> Result<Option<Row>, Error> {
    let statement = tx.prepare(INSERT).await?;
    let values = insert_parameters(row);
    // Sent together: no other statement of the transaction is silent, even when the caller drops this future.
    let (silent, row, loud) = tokio::join!(
        biased;
        tx.batch_execute("SET LOCAL outbox.conflict = 'silent'"),
        tx.query_opt(&statement, &values),
        tx.batch_execute("SET LOCAL outbox.conflict = ''")
    );
    silent?;
    let row = row?;
    loud?;
    Ok(row)
}

/// The parameters of [`INSERT`] in their order, at the time of the database.
fn insert_parameters<'a>(row: &'a InsertRow<'_>) -> [&'a (dyn ToSql + Sync); 12] {
    let InsertRow { idem_key, item_type, payload, content_type, headers, metadata, cid, saga, .. } = row;
    let InsertRow { ordering_key, fairness_key, delay, .. } = row;
    [
        idem_key,
        item_type,
        payload,
        content_type,
        headers,
        metadata,
        cid,
        saga,
        ordering_key,
        fairness_key,
        delay,
        &None::<i64>,
    ]
}
