//! The ordering of items that share an ordering key: their claims are settled one after the other, in the order of
//! enqueue.
//!
//! Of each key one item is the front, and `outbox_lanes` names it: the one in a lease, else the oldest that is in the
//! queue or blocks the key. Every other item of the key in the queue is held (`held = 1`), and claims read items with
//! `held = 0` only. The schema's triggers implement the rule:
//! - `outbox_joining_line_up` holds a new item if the key has a front already, also when an application inserts it.
//! - `outbox_fronts_moved` fires on an insert into the view `outbox_fronts`, and finds the front of that key anew.
//!
//! A claim may take a *streak*: the front and the items that follow it at once, all into one lease. The lane lists them,
//! and only the lane's item can be settled, except by a release. When it is DONE, the lane moves to the next of the
//! streak; any other end ends the streak, and what follows goes back into the queue.
//!
//! This file asks for that, and lets an operator unblock a key. A dead-lettered item blocks its key while
//! `blocks_key = 1`; a replay, a restore or a purge of the item ends it too.

use rusqlite::{Connection, OptionalExtension, Row, params};

use outbox_item::ItemId;

use crate::id_list::{id_list, read_ids};
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

/// Decodes the front of a key and what follows it in its lease: the columns `id` and `streak` of a lane, from this
/// place of the row on. Nothing where there is no lane.
pub(crate) fn read_line(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<ItemId>> {
    let Some(front) = row.get(column)? else { return Ok(Vec::new()) };
    let mut line = vec![ItemId::new(front)];
    if row.get_ref(column + 1)? != rusqlite::types::ValueRef::Null {
        line.extend(read_ids(row, column + 1)?);
    }
    Ok(line)
}

/// The front of the key, and what follows it in its lease.
fn line(tx: &WriteTx<'_>, ordering_key: &str) -> rusqlite::Result<Vec<ItemId>> {
    let sql = "SELECT id, streak FROM outbox_lanes WHERE ordering_key = ?1";
    let found = tx.connection.prepare_cached(sql)?.query_row([ordering_key], |row| read_line(row, 0)).optional()?;
    Ok(found.unwrap_or_default())
}

/// Whether a claim on the item can be settled: it has no ordering key, or no earlier item of its streak is in the lease.
pub(crate) fn is_in_turn(tx: &WriteTx<'_>, id: ItemId, ordering_key: Option<&str>) -> rusqlite::Result<bool> {
    ordering_key.map_or(Ok(true), |key| Ok(line(tx, key)?.first() == Some(&id)))
}

/// Makes the first of these items the front of the key, and the others its streak. All of them are in one lease.
pub(crate) fn set_line(tx: &WriteTx<'_>, ordering_key: &str, line: &[ItemId]) -> rusqlite::Result<()> {
    let Some((front, streak)) = line.split_first() else { return find_front(tx, ordering_key) };
    let streak = (!streak.is_empty()).then(|| id_list(streak));
    let sql = "UPDATE outbox_lanes SET id = ?2, streak = ?3 WHERE ordering_key = ?1";
    tx.connection.prepare_cached(sql)?.execute(params![ordering_key, front.get(), streak]).map(|_| ())
}

/// Ends the streak of the key at an item that leaves the lease. Returns what follows the item: it has to leave as well.
pub(crate) fn cut_streak(tx: &WriteTx<'_>, ordering_key: &str, leaving: ItemId) -> rusqlite::Result<Vec<ItemId>> {
    let mut line = line(tx, ordering_key)?;
    let Some(place) = line.iter().position(|id| *id == leaving) else { return Ok(Vec::new()) };
    let behind = line.split_off(place + 1);
    if line.len() > 1 {
        line.pop();
    } else if behind.is_empty() {
        return Ok(behind);
    }
    set_line(tx, ordering_key, &line)?;
    Ok(behind)
}

/// The first items that block the key, by ascending id.
pub(crate) fn blocking(db: &Connection, ordering_key: &str, most: u32) -> rusqlite::Result<Vec<ItemId>> {
    let sql = "SELECT id FROM outbox_dead WHERE ordering_key = ?1 AND blocks_key = 1 ORDER BY id LIMIT ?2";
    let mut select = db.prepare_cached(sql)?;
    select.query_map(params![ordering_key, most], |row| row.get(0).map(ItemId::new))?.collect()
}

/// Lets the items that are queued behind these blocking ones go on. Returns how many of them blocked the key.
pub(crate) fn unblock(tx: &WriteTx<'_>, ordering_key: &str, blocking: &[ItemId]) -> rusqlite::Result<usize> {
    let sql = "UPDATE outbox_dead SET blocks_key = 0
               WHERE id IN (SELECT value FROM json_each(?2)) AND ordering_key = ?1 AND blocks_key = 1";
    let unblocked = tx.connection.prepare_cached(sql)?.execute(params![ordering_key, id_list(blocking)])?;
    find_front(tx, ordering_key)?;
    Ok(unblocked)
}
