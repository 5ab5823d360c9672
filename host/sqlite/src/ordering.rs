//! The ordering of items that share an ordering key: one of them is claimed at a time, in the order of enqueue.
//!
//! The schema's triggers implement the rule, so that it also holds for items that an application inserts with SQL. Of
//! each key one item is the head: the one that is CLAIMED, else the oldest that is not finished or blocks the key.
//! Every other PENDING item of the key is held (`held = 1`), and claims read items with `held = 0` only.
//! - `outbox_items_front_insert`, `outbox_items_front_update` and `outbox_items_front_delete` fire on every change that
//!   can move the head. They insert the key into the view `outbox_fronts`.
//! - `outbox_fronts_moved` fires on that insert and writes `held` of the key's items anew.
//!
//! This file holds the part that Rust has in it: an operator unblocks a key. A dead-lettered item blocks its key while
//! `blocks_key = 1`; `settle` sets that, and a replay, a restore or a purge of the item ends it too.

use outbox_item::ItemId;

use crate::write_tx::WriteTx;

/// The items that block the key, by ascending id.
pub(crate) fn blocking(tx: &WriteTx<'_>, ordering_key: &str) -> rusqlite::Result<Vec<ItemId>> {
    let sql = "SELECT id FROM outbox_items WHERE ordering_key = ?1 AND blocks_key = 1 ORDER BY id";
    tx.connection.prepare_cached(sql)?.query_map([ordering_key], |row| row.get(0).map(ItemId::new))?.collect()
}

/// Lets the items that are queued behind the blocking ones go on. Returns how many items blocked the key.
pub(crate) fn unblock(tx: &WriteTx<'_>, ordering_key: &str) -> rusqlite::Result<usize> {
    let sql = "UPDATE outbox_items SET blocks_key = 0 WHERE ordering_key = ?1 AND blocks_key = 1";
    tx.connection.prepare_cached(sql)?.execute([ordering_key])
}
