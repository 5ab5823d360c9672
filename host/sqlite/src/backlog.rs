//! The numbers of waiting items: counted in the queue while it is short, else kept in `outbox_backlog` by the upkeep.
//!
//! When which of the two is done is decided by `outbox_store::engine::backlog`.

use std::time::Instant;

use rusqlite::{Connection, Row, params};

use outbox_item::Millis;
use outbox_store::engine::backlog::{COUNTED_AT_ONCE, TypeBacklog, is_current, is_due, next_count};
use outbox_store::{RETRIES_LOOKED_AT, RetriesAhead, StoreError};

use crate::SqliteStore;
use crate::error::unavailable;
use crate::rows::{cell, time};
use crate::write_tx::WriteTx;

/// The waiting items of each type at `now`.
pub(crate) fn read(tx: &Connection, now: Millis) -> rusqlite::Result<Vec<TypeBacklog>> {
    let first = count_first(tx)?;
    if is_short(&first) {
        return Ok(first);
    }
    let kept = kept(tx, now)?;
    if kept.is_empty() { count_all(tx) } else { Ok(kept) }
}

/// Counts a long queue anew when that is due, and keeps the numbers. Reads beside the writer, which only writes them.
pub(crate) async fn refresh(store: &SqliteStore) -> Result<(), StoreError> {
    let (now, began) = ((store.clock)(), Instant::now());
    let Some(counted) = store.read_pool.run("counting the queue", move |tx| recount(tx, now)).await? else {
        return Ok(());
    };
    let next_at = next_count(now, began.elapsed());
    let tried = "keeping the numbers of the queue";
    store.writer.run(tried, move |tx| keep(tx, &counted, next_at).map_err(unavailable(tried))).await
}

/// The numbers to keep; `None` when no count is due, or when the queue is short and nothing is kept.
fn recount(tx: &Connection, now: Millis) -> rusqlite::Result<Option<Vec<TypeBacklog>>> {
    let due: Option<i64> =
        tx.prepare_cached("SELECT max(next_at) FROM outbox_backlog")?.query_row([], |row| cell(row, 0))?;
    if due.is_some_and(|due| !is_due(Millis::new(due), now)) {
        return Ok(None);
    }
    if is_short(&count_first(tx)?) {
        return Ok(due.map(|_| Vec::new()));
    }
    count_all(tx).map(Some)
}

fn keep(tx: &WriteTx<'_>, counted: &[TypeBacklog], next_at: Millis) -> rusqlite::Result<()> {
    tx.connection.prepare_cached("DELETE FROM outbox_backlog")?.execute([])?;
    let mut insert = tx.connection.prepare_cached(
        "INSERT INTO outbox_backlog (type, waiting, retrying, oldest_at, next_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for TypeBacklog { item_type, waiting, retrying, oldest_at } in counted {
        insert.execute(params![item_type, waiting, retrying, oldest_at.get(), next_at.get()])?;
    }
    Ok(())
}

fn kept(tx: &Connection, now: Millis) -> rusqlite::Result<Vec<TypeBacklog>> {
    let next_at: Option<i64> =
        tx.prepare_cached("SELECT max(next_at) FROM outbox_backlog")?.query_row([], |row| cell(row, 0))?;
    if !next_at.is_some_and(|next_at| is_current(Millis::new(next_at), now)) {
        return Ok(Vec::new());
    }
    numbers(tx, "SELECT type, waiting, retrying, oldest_at FROM outbox_backlog")
}

/// When items that were claimed before are due, by minutes from `now`. The index of such items leads.
pub(crate) fn retries_ahead(tx: &Connection, now: Millis) -> rusqlite::Result<RetriesAhead> {
    let sql = format!(
        "SELECT CASE WHEN available_at > ?1 THEN (available_at - ?1) / 60000 ELSE -1 END AS ahead, count(*)
         FROM (SELECT available_at FROM outbox_queue WHERE again = 1 LIMIT {RETRIES_LOOKED_AT}) GROUP BY ahead"
    );
    let mut select = tx.prepare_cached(&sql)?;
    let rows = select.query_map([now.get()], |row| Ok((row.get(0)?, cell(row, 1)?)))?;
    let found: Vec<(i64, u64)> = rows.collect::<Result<_, _>>()?;
    let looked_at = found.iter().map(|(_, items)| items).sum();
    Ok(RetriesAhead::of_minutes(found, looked_at))
}

fn is_short(first: &[TypeBacklog]) -> bool {
    first.iter().map(|backlog| backlog.waiting).sum::<u64>() <= COUNTED_AT_ONCE.into()
}

/// Counts the queue, but no more than one item above the limit.
fn count_first(tx: &Connection) -> rusqlite::Result<Vec<TypeBacklog>> {
    count(tx, &format!("(SELECT id, type, again FROM outbox_queue LIMIT {})", COUNTED_AT_ONCE + 1))
}

fn count_all(tx: &Connection) -> rusqlite::Result<Vec<TypeBacklog>> {
    count(tx, "outbox_queue")
}

/// SQL: whether the item `waiting` waits for another attempt. One that an operator moved there and back has a past, too.
pub(crate) const RETRIES: &str = "waiting.again = 1 AND EXISTS (
    SELECT 1 FROM outbox_past AS past
    WHERE past.id = waiting.id AND (past.attempts > 0 OR past.losses > 0 OR past.give_backs > 0))";

/// The numbers of the items in `source`. Ids ascend, so the smallest one is that of the item that was enqueued first.
fn count(tx: &Connection, source: &str) -> rusqlite::Result<Vec<TypeBacklog>> {
    let sql = format!(
        "SELECT counted.type, waiting, retrying, item.created_at
         FROM (SELECT type, count(*) AS waiting, sum({RETRIES}) AS retrying, min(id) AS first
               FROM {source} AS waiting GROUP BY type) AS counted
              JOIN outbox_items AS item ON item.id = first"
    );
    numbers(tx, &sql)
}

fn numbers(tx: &Connection, sql: &str) -> rusqlite::Result<Vec<TypeBacklog>> {
    let backlog = |row: &Row<'_>| {
        Ok(TypeBacklog {
            item_type: cell(row, 0)?,
            waiting: cell(row, 1)?,
            retrying: cell(row, 2)?,
            oldest_at: time(row, 3)?,
        })
    };
    tx.prepare_cached(sql)?.query_map([], backlog)?.collect()
}
