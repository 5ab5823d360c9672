//! From which item follow-ups descend, and the bound on their number.
//!
//! It does not enqueue: `enqueue` does.

use rusqlite::{Connection, OptionalExtension, params};

use outbox_core::{DESCENDANTS_PERIOD, HostWrites};
use outbox_item::{ItemId, Millis};
use outbox_store::StoreError;

use crate::write_tx::WriteTx;

/// The place of new follow-ups among the items that descend from their root.
pub(crate) struct Descent {
    root: ItemId,
    depth: u32,
    /// The most items that may descend from the root, and how many more may.
    bound: Option<(u32, u32)>,
}

impl Descent {
    /// That of the follow-ups in `writes`, which the handler of `parent` emitted.
    pub(crate) fn of_followups(tx: &WriteTx<'_>, parent: ItemId, writes: &HostWrites) -> rusqlite::Result<Self> {
        let sql = "SELECT root, depth FROM outbox_descendants WHERE id = ?1";
        let known = tx
            .connection
            .prepare_cached(sql)?
            .query_row([parent.get()], |row| Ok((ItemId::new(row.get(0)?), row.get(1)?)))
            .optional()?;
        let (root, depth): (_, u32) = known.unwrap_or((parent, 0));
        let present = |max| count(tx.connection, root, max, tx.now).map(|present| (max, max - present));
        let bound = writes.descendants_max.map(present).transpose()?;
        Ok(Self { root, depth: depth.saturating_add(1), bound })
    }

    /// Errors with [`StoreError::Descendants`] when no more items may descend from the root.
    pub(crate) fn take_room(&mut self) -> Result<(), StoreError> {
        let Some((max, room)) = &mut self.bound else { return Ok(()) };
        *room = room.checked_sub(1).ok_or(StoreError::Descendants { root: self.root, max: *max })?;
        Ok(())
    }

    /// Records a new follow-up.
    pub(crate) fn record(&self, tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<()> {
        let sql = "INSERT INTO outbox_descendants (id, root, depth, created_at) VALUES (?1, ?2, ?3, ?4)";
        let values = params![id.get(), self.root.get(), self.depth, tx.now.get()];
        tx.connection.prepare_cached(sql)?.execute(values).map(drop)
    }
}

/// How many items descend from the root within [`DESCENDANTS_PERIOD`], counted up to `max`.
fn count(tx: &Connection, root: ItemId, max: u32, now: Millis) -> rusqlite::Result<u32> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM outbox_descendants WHERE root = ?1 AND created_at > ?2 LIMIT ?3)";
    let since = now.saturating_sub(DESCENDANTS_PERIOD);
    tx.prepare_cached(sql)?.query_row(params![root.get(), since.get(), max], |row| row.get(0))
}
