//! The ordering of items that share an ordering key: one of them is claimed at a time, in the order of enqueue.
//!
//! Of each key one item is the front, and `outbox_lanes` names it: the one in a lease, else the oldest that is in the
//! queue or blocks the key. Every other item of the key in the queue is held (`held = 1`), and claims read items with
//! `held = 0` only. The schema's triggers implement the rule:
//! - `outbox_joining_line_up` holds a new item if the key has a front already, also when an application inserts it.
//! - `outbox_fronts_moved` fires on an insert into the view `outbox_fronts`, and finds the front of that key anew.
//!
//! This file asks for that, and lets an operator unblock a key. A dead-lettered item blocks its key while
//! `blocks_key = 1`; a replay, a restore or a purge of the item ends it too.

use outbox_item::ItemId;

use crate::write_tx::WriteTx;

/// Finds the front of the key anew. The caller has moved an item of the key in this transaction.
pub(crate) fn find_front(tx: &WriteTx<'_>, ordering_key: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO outbox_fronts (ordering_key) VALUES (?1)";
    tx.connection.prepare_cached(sql)?.execute([ordering_key]).map(|_| ())
}

/// Finds the front anew of every key whose front is this id: for an id without an item, and for an item whose key cannot
/// be read.
pub(crate) fn find_fronts_behind(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<()> {
    let sql = "INSERT INTO outbox_fronts (ordering_key) SELECT ordering_key FROM outbox_lanes WHERE id = ?1";
    tx.connection.prepare_cached(sql)?.execute([id.get()]).map(|_| ())
}

/// The items that block the key, by ascending id.
pub(crate) fn blocking(tx: &WriteTx<'_>, ordering_key: &str) -> rusqlite::Result<Vec<ItemId>> {
    let sql = "SELECT id FROM outbox_dead WHERE ordering_key = ?1 AND blocks_key = 1 ORDER BY id";
    tx.connection.prepare_cached(sql)?.query_map([ordering_key], |row| row.get(0).map(ItemId::new))?.collect()
}

/// Lets the items that are queued behind the blocking ones go on. Returns how many items blocked the key.
pub(crate) fn unblock(tx: &WriteTx<'_>, ordering_key: &str) -> rusqlite::Result<usize> {
    let sql = "UPDATE outbox_dead SET blocks_key = 0 WHERE ordering_key = ?1 AND blocks_key = 1";
    let unblocked = tx.connection.prepare_cached(sql)?.execute([ordering_key])?;
    find_front(tx, ordering_key)?;
    Ok(unblocked)
}
