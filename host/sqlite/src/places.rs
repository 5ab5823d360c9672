//! Moves items between their places: `outbox_queue`, `outbox_leases`, `outbox_done` and `outbox_dead`.
//!
//! An item is in one place. What leaves a place arrives in another in the same transaction, with its past, its row
//! among the unfinished items of its saga, and the front of its ordering key. Where the end of a claim leads is decided
//! by [`ItemMove`]. History, totals, signals and alerts are not known here.
//!
//! A row that is in the way is replaced: a change from outside can leave an item in two places, and such an item must
//! stop no other one.

use std::sync::LazyLock;

use rusqlite::{OptionalExtension, ToSql, params};

use outbox_core::{Destination, ItemMove, Past};
use outbox_item::{Item, ItemId, Millis};
use outbox_store::engine::attempt_record::AttemptRecord;

use crate::batch::{Statements, slices};
use crate::ordering::find_front;
use crate::past::{COUNT_MAX, handler_number, write_past};
use crate::rows::time;
use crate::saga_signals::{self, SagaItem};
use crate::write_tx::{NEWEST_JOB_SQL, WriteTx};

/// Puts an item that has left its place where the end of its claim leads.
pub(crate) fn arrive(tx: &WriteTx<'_>, ended: &AttemptRecord, moved: &ItemMove) -> rusqlite::Result<()> {
    let past = &moved.past;
    match &moved.to {
        Destination::Queue { available_at } => {
            let queued = QueuedItem {
                id: ended.id,
                item_type: &ended.item_type,
                ordering_key: ended.ordering_key.as_deref(),
                available_at: *available_at,
            };
            to_queue(tx, &queued, past)?;
        }
        Destination::Done { result } => arrive_done(tx, ended.id, result.as_deref(), past)?,
        Destination::Dead { blocks_key, fingerprint } => {
            to_dead(tx, ended, past, *blocks_key, fingerprint)?;
        }
    }
    if let Some(saga) = &ended.saga {
        saga_signals::note_move(tx, &SagaItem { saga, cid: &ended.cid, id: ended.id }, moved.status())?;
    }
    ended.ordering_key.as_deref().map_or(Ok(()), |key| find_front(tx, key))
}

fn arrive_done(tx: &WriteTx<'_>, id: ItemId, result: Option<&[u8]>, past: &Past) -> rusqlite::Result<()> {
    if !past.was_claimed_once() {
        write_past(tx, id, past)?;
    }
    to_done(tx, &[DoneItem { id, handler_digest: past.handler_digest.as_deref(), result }])
}

/// Takes a finished item back into the queue.
pub(crate) fn reopen(tx: &WriteTx<'_>, item: &Item, available_at: Millis, past: &Past) -> rusqlite::Result<()> {
    leave_finished(tx, item.id)?;
    let ordering_key = item.ordering_key.as_deref();
    to_queue(tx, &QueuedItem { id: item.id, item_type: &item.item_type, ordering_key, available_at }, past)?;
    if let Some(saga) = &item.saga {
        saga_signals::note_reopened(tx, &SagaItem { saga, cid: &item.cid, id: item.id }, item.status)?;
    }
    ordering_key.map_or(Ok(()), |key| find_front(tx, key))
}

/// An item for `outbox_queue`.
struct QueuedItem<'a> {
    id: ItemId,
    item_type: &'a str,
    ordering_key: Option<&'a str>,
    available_at: Millis,
}

/// Puts an item that has left its place into the queue, with its past. An item with an ordering key is held until the
/// front of the key is found.
fn to_queue(tx: &WriteTx<'_>, item: &QueuedItem<'_>, past: &Past) -> rusqlite::Result<()> {
    let was_claimed = *past != Past::default();
    if was_claimed {
        write_past(tx, item.id, past)?;
    }
    let mut insert = tx.connection.prepare_cached(&format!(
        "INSERT INTO outbox_queue (id, type, available_at, held, again, losses, epoch, ordering_key, fairness_key)
         VALUES (?1, ?2, ?3, ?4 IS NOT NULL, ?5, ?6, {NEWEST_JOB_SQL}, ?4,
                 (SELECT fairness_key FROM outbox_items INDEXED BY outbox_items_fair
                  WHERE id = ?1 AND fairness_key IS NOT NULL))
         ON CONFLICT DO UPDATE
         SET available_at = excluded.available_at, held = excluded.held, again = excluded.again,
             losses = excluded.losses, epoch = excluded.epoch"
    ))?;
    let QueuedItem { id, item_type, ordering_key, available_at } = *item;
    let losses = past.losses.min(COUNT_MAX);
    insert.execute(params![id.get(), item_type, available_at.get(), ordering_key, was_claimed, losses]).map(|_| ())
}

/// An item for `outbox_done`.
pub(crate) struct DoneItem<'a> {
    pub(crate) id: ItemId,
    pub(crate) handler_digest: Option<&'a str>,
    pub(crate) result: Option<&'a [u8]>,
}

/// The number of values of one row of [`INSERT_DONE`].
const DONE_VALUES: usize = 3;

static INSERT_DONE: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(DONE_VALUES, |rows| {
        format!(
            "INSERT INTO outbox_done (id, done_at, epoch, handler, result)
             SELECT column1, ?1, {NEWEST_JOB_SQL}, column2, column3 FROM (VALUES {rows}) WHERE true
             ON CONFLICT DO UPDATE
             SET done_at = excluded.done_at, epoch = excluded.epoch, handler = excluded.handler,
                 result = excluded.result"
        )
    })
});

/// Puts items that have left their place among the DONE ones.
pub(crate) fn to_done(tx: &WriteTx<'_>, items: &[DoneItem<'_>]) -> rusqlite::Result<()> {
    let mut handlers = HandlerNumbers::default();
    for items in slices(items) {
        let mut insert = tx.connection.prepare_cached(INSERT_DONE.of(items.len()))?;
        insert.raw_bind_parameter(1, tx.now.get())?;
        for (row, item) in items.iter().enumerate() {
            let handler = handlers.number(tx, item.handler_digest)?;
            let values: [&dyn ToSql; DONE_VALUES] = [&item.id.get(), &handler, &item.result];
            for (column, value) in values.into_iter().enumerate() {
                insert.raw_bind_parameter(row * DONE_VALUES + column + 2, value)?;
            }
        }
        insert.raw_execute()?;
    }
    Ok(())
}

/// The number of the last component that was asked for: items that become DONE together have mostly the same.
#[derive(Default)]
struct HandlerNumbers<'a> {
    last: Option<(&'a str, i64)>,
}

impl<'a> HandlerNumbers<'a> {
    fn number(&mut self, tx: &WriteTx<'_>, digest: Option<&'a str>) -> rusqlite::Result<Option<i64>> {
        let Some(digest) = digest else { return Ok(None) };
        let known = self.last.filter(|(last, _)| *last == digest);
        let found = known.map_or_else(|| handler_number(tx, digest).map(|number| (digest, number)), Ok)?;
        self.last = Some(found);
        Ok(Some(found.1))
    }
}

/// Puts an item that has left its place among the dead ones, with its past.
fn to_dead(
    tx: &WriteTx<'_>,
    ended: &AttemptRecord,
    past: &Past,
    blocks_key: bool,
    fingerprint: &str,
) -> rusqlite::Result<()> {
    write_past(tx, ended.id, past)?;
    let mut insert = tx.connection.prepare_cached(&format!(
        "INSERT INTO outbox_dead
             (id, dead_at, epoch, handler, type, ordering_key, blocks_key, fingerprint, last_error)
         SELECT id, ?2, {NEWEST_JOB_SQL}, handler, ?3, ?4, ?5, ?6, coalesce(last_error, '')
         FROM outbox_past WHERE id = ?1
         ON CONFLICT DO UPDATE
         SET dead_at = excluded.dead_at, epoch = excluded.epoch, handler = excluded.handler,
             blocks_key = excluded.blocks_key, fingerprint = excluded.fingerprint, last_error = excluded.last_error"
    ))?;
    insert.execute(params![
        ended.id.get(),
        tx.now.get(),
        ended.item_type,
        ended.ordering_key,
        blocks_key,
        fingerprint
    ])?;
    Ok(())
}

/// Whether the item is in a place besides the queue.
pub(crate) fn is_beside_the_queue(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<bool> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM outbox_done WHERE id = ?1) OR EXISTS (SELECT 1 FROM outbox_dead WHERE id = ?1)
               OR EXISTS (SELECT 1 FROM outbox_leases, json_each(outbox_leases.ids) WHERE value = ?1)";
    tx.connection.prepare_cached(sql)?.query_row([id.get()], |row| row.get(0))
}

/// Takes the item out of the queue. Returns its due time, if it was there.
pub(crate) fn leave_queue(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<Option<Millis>> {
    let sql = "DELETE FROM outbox_queue WHERE id = ?1 RETURNING available_at";
    tx.connection.prepare_cached(sql)?.query_row([id.get()], |row| time(row, 0)).optional()
}

/// Takes the item out of the place of the DONE or of the dead ones.
fn leave_finished(tx: &WriteTx<'_>, id: ItemId) -> rusqlite::Result<()> {
    for sql in ["DELETE FROM outbox_done WHERE id = ?1", "DELETE FROM outbox_dead WHERE id = ?1"] {
        tx.connection.prepare_cached(sql)?.execute([id.get()])?;
    }
    Ok(())
}
