//! The figures of each minute and type.
//!
//! What they mean is decided in `outbox_store`; which process counts what, by the worker.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use outbox_item::Millis;
use outbox_store::engine::backlog::{TypeBacklog, waiting_rows};
use outbox_store::{HistoryMinute, LatencyBins, MinuteFigures, StoreError, minute_of};

use crate::SqliteStore;
use crate::backlog;
use crate::error::unavailable;
use crate::rows::{cell, time};
use crate::write_tx::WriteTx;

/// Rows that one transaction deletes.
const PRUNE_ROWS: u32 = 500;

/// Adds the figures to the rows of their minutes and types.
pub(crate) fn add(tx: &Connection, rows: &[HistoryMinute]) -> rusqlite::Result<()> {
    let mut write = tx.prepare_cached(
        "INSERT INTO outbox_history_minutes (minute, type, done, failed, dead, given_back, waiting, latency)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT DO UPDATE SET done = done + excluded.done, failed = failed + excluded.failed,
             dead = dead + excluded.dead, given_back = given_back + excluded.given_back,
             waiting = max(waiting, excluded.waiting), latency = excluded.latency",
    )?;
    for HistoryMinute { minute, item_type, figures } in rows {
        let MinuteFigures { done, failed, dead, given_back, waiting, latency } = figures;
        let mut latencies = latencies(tx, *minute, item_type)?;
        latencies.add(latency);
        let latencies = to_json(&latencies);
        write.execute(params![minute.get(), item_type, done, failed, dead, given_back, waiting, latencies])?;
    }
    Ok(())
}

/// The latencies that the row has. Only the writer adds to them, so they are still there when it writes the sum.
fn latencies(tx: &Connection, minute: Millis, item_type: &str) -> rusqlite::Result<LatencyBins> {
    let mut select = tx.prepare_cached("SELECT latency FROM outbox_history_minutes WHERE minute = ?1 AND type = ?2")?;
    let kept: Option<String> = select.query_row(params![minute.get(), item_type], |row| cell(row, 0)).optional()?;
    Ok(from_json(kept.as_deref().unwrap_or("[]")))
}

fn to_json(latency: &LatencyBins) -> String {
    // An array of numbers can always be written.
    serde_json::to_string(latency.counts()).unwrap_or_else(|_| "[]".to_owned())
}

/// What was changed by hand and is no array of counts counts as none.
fn from_json(json: &str) -> LatencyBins {
    LatencyBins::from_counts(serde_json::from_str(json).unwrap_or_default())
}

/// The rows of the minutes that began at `since` or later.
pub(crate) fn since(tx: &Connection, since: Millis) -> rusqlite::Result<Vec<HistoryMinute>> {
    let mut select = tx.prepare_cached(
        "SELECT minute, type, done, failed, dead, given_back, waiting, latency
         FROM outbox_history_minutes WHERE minute >= ?1 ORDER BY minute, type",
    )?;
    select.query_map([since.get()], read_row)?.collect()
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<HistoryMinute> {
    let latency: String = cell(row, 7)?;
    let figures = MinuteFigures {
        done: cell(row, 2)?,
        failed: cell(row, 3)?,
        dead: cell(row, 4)?,
        given_back: cell(row, 5)?,
        waiting: cell(row, 6)?,
        latency: from_json(&latency),
    };
    Ok(HistoryMinute { minute: time(row, 0)?, item_type: cell(row, 1)?, figures })
}

/// Writes down how much waits, once in each minute in which something does. Reads beside the writer.
pub(crate) async fn note_waiting(store: &SqliteStore) -> Result<(), StoreError> {
    let now = (store.clock)();
    let waiting = store.read_pool.run("counting the queue", move |tx| unnoted(tx, now)).await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let rows = waiting_rows(&waiting, now);
    let tried = "keeping the numbers of the queue";
    store.writer.run(tried, move |tx| add(tx.connection, &rows).map_err(unavailable(tried))).await
}

/// How much of each type waits; none where this minute has it already.
fn unnoted(tx: &Connection, now: Millis) -> rusqlite::Result<Vec<TypeBacklog>> {
    if is_noted(tx, now)? { Ok(Vec::new()) } else { backlog::read(tx, now) }
}

fn is_noted(tx: &Connection, now: Millis) -> rusqlite::Result<bool> {
    let look = "SELECT EXISTS (SELECT 1 FROM outbox_history_minutes WHERE minute = ?1 AND waiting > 0)";
    tx.prepare_cached(look)?.query_row([minute_of(now).get()], |row| row.get(0))
}

/// Deletes rows of minutes that began before this time, the oldest first.
pub(crate) fn prune(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<()> {
    let delete = "DELETE FROM outbox_history_minutes WHERE (minute, type) IN (
                      SELECT minute, type FROM outbox_history_minutes WHERE minute < ?1 ORDER BY minute LIMIT ?2)";
    tx.connection.prepare_cached(delete)?.execute(params![before.get(), PRUNE_ROWS]).map(drop)
}
