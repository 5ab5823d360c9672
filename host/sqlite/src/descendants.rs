//! The rows of follow-ups that say from which item they descend.
//!
//! It does not enqueue: `enqueue` does. Whether there is room is decided by `outbox_store`.

use rusqlite::{OptionalExtension, params};

use outbox_core::{DESCENDANTS_PERIOD, HostWrites};
use outbox_item::ItemId;
use outbox_store::engine::descent::Descent;

use crate::write_tx::WriteTx;

/// The descent of the follow-ups in `writes`, which the handler of `parent` emitted.
pub(crate) fn of_followups(tx: &WriteTx<'_>, parent: ItemId, writes: &HostWrites) -> rusqlite::Result<Descent> {
    let sql = "SELECT root, depth FROM outbox_descendants WHERE id = ?1";
    let known = tx
        .connection
        .prepare_cached(sql)?
        .query_row([parent.get()], |row| Ok((ItemId::new(row.get(0)?), row.get(1)?)))
        .optional()?;
    let (root, depth): (_, u32) = known.unwrap_or((parent, 0));
    let max = writes.descendants_max;
    let present = max.map_or(Ok(0), |max| count(tx, root, max))?;
    Ok(Descent { root, depth: depth.saturating_add(1), max, present })
}

/// How many items descend from the root within [`DESCENDANTS_PERIOD`], counted up to `max`.
fn count(tx: &WriteTx<'_>, root: ItemId, max: u32) -> rusqlite::Result<u32> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM outbox_descendants WHERE root = ?1 AND created_at > ?2 LIMIT ?3)";
    let since = tx.now.saturating_sub(DESCENDANTS_PERIOD);
    tx.connection.prepare_cached(sql)?.query_row(params![root.get(), since.get(), max], |row| row.get(0))
}

/// Records a new follow-up.
pub(crate) fn record(tx: &WriteTx<'_>, descent: &Descent, id: ItemId) -> rusqlite::Result<()> {
    let sql = "INSERT INTO outbox_descendants (id, root, depth, created_at) VALUES (?1, ?2, ?3, ?4)";
    let values = params![id.get(), descent.root.get(), descent.depth, tx.now.get()];
    tx.connection.prepare_cached(sql)?.execute(values).map(drop)
}
