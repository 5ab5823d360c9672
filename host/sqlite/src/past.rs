//! What happened to items before: the table `outbox_past`, and the digests of components in `outbox_handlers`.
//!
//! An item without a row was never claimed while it is in the queue, and was claimed once elsewhere. This file does not
//! know when a past changes.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Row, params};

use outbox_core::Past;
use outbox_item::{ItemId, Millis};

use crate::id_list::id_list;
use crate::rows::{cell, optional_time};
use crate::write_tx::WriteTx;

/// The largest number of attempts and of deliveries that the schema allows. A claim does not count further, so that an
/// item with a wrong row does not stop the claims of the others.
pub(crate) const COUNT_MAX: u32 = 2_147_483_647;

/// The columns of `outbox_status` that [`past`] reads.
pub(crate) const PAST: &str = "attempts, deliveries, losses, replays, effects, give_backs, maybe_executed, \
     given_back_since, handler_digest, last_error";

/// Decodes a row of which [`PAST`] is the beginning.
pub(crate) fn past(row: &Row<'_>) -> rusqlite::Result<Past> {
    Ok(Past {
        attempts: cell(row, 0)?,
        deliveries: cell(row, 1)?,
        losses: cell(row, 2)?,
        replays: cell(row, 3)?,
        effect_generation: cell(row, 4)?,
        give_backs: cell(row, 5)?,
        maybe_executed: cell(row, 6)?,
        given_back_since: optional_time(row, 7)?,
        handler_digest: cell(row, 8)?,
        last_error: cell(row, 9)?,
    })
}

/// The pasts of those of the items that have a row.
pub(crate) fn read_pasts(tx: &WriteTx<'_>, ids: &[ItemId]) -> rusqlite::Result<HashMap<ItemId, Past>> {
    let mut select = tx.connection.prepare_cached(&format!(
        "SELECT {PAST}, id
         FROM outbox_past LEFT JOIN (SELECT id AS number, digest AS handler_digest FROM outbox_handlers)
              ON number = handler
         WHERE id IN (SELECT value FROM json_each(?1))"
    ))?;
    let read = |row: &Row<'_>| Ok((cell(row, "id").map(ItemId::new)?, past(row)?));
    select.query_map([id_list(ids)], read)?.collect()
}

/// Writes the item's row, whether there is one or not, except its due time.
pub(crate) fn write_past(tx: &WriteTx<'_>, id: ItemId, past: &Past) -> rusqlite::Result<()> {
    let mut write = tx.connection.prepare_cached(
        "INSERT INTO outbox_past
             (id, attempts, deliveries, losses, replays, effects, give_backs, maybe_executed, given_back_since,
              handler, last_error)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT DO UPDATE
         SET attempts = ?2, deliveries = ?3, losses = ?4, replays = ?5, effects = ?6, give_backs = ?7,
             maybe_executed = ?8, given_back_since = ?9, handler = ?10, last_error = ?11",
    )?;
    let handler = past.handler_digest.as_deref().map(|digest| handler_number(tx, digest)).transpose()?;
    let cut = |number: u32| number.min(COUNT_MAX);
    write.execute(params![
        id.get(),
        cut(past.attempts),
        cut(past.deliveries),
        cut(past.losses),
        cut(past.replays),
        cut(past.effect_generation),
        cut(past.give_backs),
        past.maybe_executed,
        past.given_back_since.map(Millis::get),
        handler,
        past.last_error
    ])?;
    Ok(())
}

/// Counts a claim of items that have a row.
pub(crate) fn count_claim(tx: &WriteTx<'_>, ids: &[ItemId]) -> rusqlite::Result<()> {
    let mut count = tx.connection.prepare_cached(
        "UPDATE outbox_past SET attempts = min(attempts + 1, ?2), deliveries = min(deliveries + 1, ?2)
         WHERE id IN (SELECT value FROM json_each(?1))",
    )?;
    count.execute(params![id_list(ids), COUNT_MAX]).map(|_| ())
}

/// Keeps the due time of an item that leaves the queue. The caller knows that the item has a row, or that the time is
/// not its first one. A row that this creates says otherwise what its absence says of an item in the queue.
pub(crate) fn keep_due_time(tx: &WriteTx<'_>, id: ItemId, available_at: Millis) -> rusqlite::Result<()> {
    let mut write = tx.connection.prepare_cached(
        "INSERT INTO outbox_past (id, attempts, deliveries, available_at) VALUES (?1, 0, 0, ?2)
         ON CONFLICT DO UPDATE SET available_at = excluded.available_at",
    )?;
    write.execute([id.get(), available_at.get()]).map(|_| ())
}

/// The number of the component. A digest that is new gets one.
pub(crate) fn handler_number(tx: &WriteTx<'_>, digest: &str) -> rusqlite::Result<i64> {
    let mut find = tx.connection.prepare_cached("SELECT id FROM outbox_handlers WHERE digest = ?1")?;
    if let Some(number) = find.query_row([digest], |row| cell(row, 0)).optional()? {
        return Ok(number);
    }
    let mut add = tx.connection.prepare_cached("INSERT INTO outbox_handlers (digest) VALUES (?1) RETURNING id")?;
    add.query_row([digest], |row| cell(row, 0))
}
