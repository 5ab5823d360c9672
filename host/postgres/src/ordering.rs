//! The ordering of items that share an ordering key: their claims are settled one after the other, in the order of the
//! commits that enqueued them.
//!
//! Each key has a line. `turn` is an item's place in it, which the schema draws while the transaction of the enqueue
//! commits. Of each key that a claim has met, one item is the front, and `outbox.lanes` names it: the one in a lease,
//! else the first of those that are in the queue or block the key. Every other item of the key is held as soon as a
//! claim meets it, and claims read items that are not held.
//!
//! A claim may take a *streak*: the front and the items that follow it at once, all into one lease. The lane lists them,
//! and only the lane's item can be settled, except by a release. When it is DONE, the lane moves to the next of the
//! streak; any other end ends the streak, and what follows goes back into the queue (`claim_end`).
//!
//! A transaction that moves an item of a key has the lock of its line until the commit, and finds the front anew after the move,
//! in a statement that began after the lock was had. A claim only tries the lock (`outbox.in_front`). Applications take
//! none. A dead-lettered item blocks its key while `blocks_key` is true; a replay, a restore or a purge ends that too.

use outbox_item::ItemId;

use crate::error::PgError;
use crate::rows::numbers;
use crate::tx::{Query, WriteTx};

/// Waits for the lines of the items' ordering keys. The transaction must not have locked a lease or a place yet.
pub(crate) async fn lock_keys(tx: &WriteTx<'_>, items: &[ItemId]) -> Result<(), PgError> {
    let sql = "SELECT outbox.lock_keys(ARRAY(SELECT ordering_key::text FROM outbox.items WHERE id = ANY($1)))";
    tx.rows(sql, &[&numbers(items)]).await.map(drop)
}

/// Waits for the lines of the ordering keys that the items block dead. The transaction must not have locked a lease or
/// a place yet.
pub(crate) async fn lock_blocked(tx: &WriteTx<'_>, items: &[ItemId]) -> Result<(), PgError> {
    let sql = "SELECT outbox.lock_keys(ARRAY(
                   SELECT ordering_key FROM outbox.dead WHERE id = ANY($1) AND blocks_key))";
    tx.rows(sql, &[&numbers(items)]).await.map(drop)
}

/// Waits for the lines of the keys. The transaction must not have locked a lease or a place yet.
pub(crate) async fn lock_lines(tx: &WriteTx<'_>, keys: &[&str]) -> Result<(), PgError> {
    if keys.is_empty() {
        return Ok(());
    }
    tx.rows("SELECT outbox.lock_keys($1)", &[&keys]).await.map(drop)
}

/// Locks those of the lines that no other transaction has locked, and returns their keys.
pub(crate) async fn try_lock_lines(tx: &WriteTx<'_>, keys: &[String]) -> Result<Vec<String>, PgError> {
    let sql = "SELECT key FROM unnest($1::text[]) AS key WHERE pg_try_advisory_xact_lock(7206002, hashtext(key))";
    tx.rows(sql, &[&keys]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Waits for the rows of items that the transaction will delete. It must not have locked a line yet.
pub(crate) async fn lock_deleted(tx: &WriteTx<'_>, items: &[ItemId]) -> Result<(), PgError> {
    let sql = "SELECT 1 FROM outbox.items WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    tx.rows(sql, &[&numbers(items)]).await.map(drop)
}

/// Finds the fronts of the keys anew. The transaction has moved items of theirs, under the locks of their lines.
pub(crate) async fn find_fronts(tx: &WriteTx<'_>, keys: &[&str]) -> Result<(), PgError> {
    find(tx, keys, false).await
}

/// [`find_fronts`] for keys of which the transaction has only made claimed items DONE. It need not look at a long line
/// each time.
pub(crate) async fn find_next_fronts(tx: &WriteTx<'_>, keys: &[&str]) -> Result<(), PgError> {
    find(tx, keys, true).await
}

async fn find(tx: &WriteTx<'_>, keys: &[&str], are_done: bool) -> Result<(), PgError> {
    if keys.is_empty() {
        return Ok(());
    }
    tx.rows("SELECT outbox.find_front($1, $2)", &[&keys, &are_done]).await.map(drop)
}

/// The first items that block the key, by ascending id.
pub(crate) async fn blocking(tx: &impl Query, ordering_key: &str, most: i64) -> Result<Vec<ItemId>, PgError> {
    let sql = "SELECT id FROM outbox.dead WHERE ordering_key = $1 AND blocks_key ORDER BY id LIMIT $2";
    tx.rows(sql, &[&ordering_key, &most]).await?.iter().map(|row| Ok(ItemId::new(row.try_get(0)?))).collect()
}

/// Locks the line of the key, then the first items that block it. Returns them by ascending id.
pub(crate) async fn lock_blocking(tx: &WriteTx<'_>, ordering_key: &str, most: i64) -> Result<Vec<ItemId>, PgError> {
    lock_lines(tx, &[ordering_key]).await?;
    let sql = "SELECT id FROM outbox.dead WHERE ordering_key = $1 AND blocks_key ORDER BY id LIMIT $2 FOR UPDATE";
    tx.rows(sql, &[&ordering_key, &most]).await?.iter().map(|row| Ok(ItemId::new(row.try_get(0)?))).collect()
}

/// Lets the items that are queued behind these blocking ones go on.
pub(crate) async fn unblock(tx: &WriteTx<'_>, ordering_key: &str, blocking: &[ItemId]) -> Result<(), PgError> {
    let sql = "UPDATE outbox.dead SET blocks_key = false WHERE id = ANY($1)";
    tx.rows(sql, &[&numbers(blocking)]).await?;
    find_fronts(tx, &[ordering_key]).await
}
