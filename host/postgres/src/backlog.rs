//! The numbers of waiting items: counted in the queue while it is short, else kept in `outbox.backlog` by the upkeep.
//!
//! When which of the two is done is decided by `outbox_store::engine::backlog`.

use std::time::{Duration, Instant};

use tokio_postgres::Row;

use outbox_item::Millis;
use outbox_store::engine::backlog::{COUNTED_AT_ONCE, TypeBacklog, add_up, is_current, is_due, next_count};
use outbox_store::{RETRIES_LOOKED_AT, RetriesAhead, StoreError};

use crate::context::PgContext;
use crate::error::PgError;
use crate::rows::{time, unsigned};
use crate::tx::{Query, WriteTx};

/// Blocks of the queue's table that one transaction counts: about 15,000 items, each of which may need a look at its past.
const PART_BLOCKS: usize = 150;
/// How long other processes wait for the numbers of a process that counts.
const COUNT_MAX: Duration = Duration::from_mins(1);

/// The waiting items of each type at `now`.
pub(crate) async fn read(tx: &impl Query, now: Millis) -> Result<Vec<TypeBacklog>, PgError> {
    match read_known(tx, now).await? {
        Some(known) => Ok(known),
        None => count_all(tx).await,
    }
}

/// The waiting items of each type; `None` where the queue is long and no current count of it is kept.
pub(crate) async fn read_known(tx: &impl Query, now: Millis) -> Result<Option<Vec<TypeBacklog>>, PgError> {
    let first = count_first(tx).await?;
    if is_short(&first) {
        return Ok(Some(first));
    }
    let kept = tx.rows("SELECT type, waiting, retrying, oldest_at, next_at FROM outbox.backlog", &[]).await?;
    let is_kept = kept.first().map(|row| time(row, 4)).transpose()?.is_some_and(|next_at| is_current(next_at, now));
    is_kept.then(|| numbers(&kept)).transpose()
}

/// Counts a long queue anew when that is due, and keeps the numbers. No transaction writes while it counts.
pub(crate) async fn refresh(pg: &PgContext) -> Result<(), StoreError> {
    if !transact!(pg, "counting the queue", |tx| begin_count(tx))? {
        return Ok(());
    }
    let began = Instant::now();
    let counted = count_in_parts(pg).await?;
    let took = began.elapsed();
    transact!(pg, "keeping the numbers of the queue", |tx| keep(tx, &counted, next_count(tx.now, took)))
}

/// Counts the queue part by part, each in a transaction of its own, so that none keeps dead rows from being removed for
/// long. Rows that move meanwhile may be counted twice or not at all.
async fn count_in_parts(pg: &PgContext) -> Result<Vec<TypeBacklog>, StoreError> {
    let blocks = read!(pg, "counting the queue", |tx| blocks(tx))?;
    let mut parts = Vec::new();
    for first in (0..blocks).step_by(PART_BLOCKS) {
        let part = format!(
            "(SELECT id, type, again FROM outbox.queue WHERE ctid >= '({first},0)' AND ctid < '({},0)')",
            first.saturating_add(PART_BLOCKS as u64)
        );
        parts.extend(read!(pg, "counting the queue", |tx| count(tx, &part))?);
    }
    Ok(add_up(parts))
}

/// The size of the queue's table.
async fn blocks(tx: &impl Query) -> Result<u64, PgError> {
    let sql = "SELECT pg_relation_size('outbox.queue') / current_setting('block_size')::bigint";
    unsigned(tx.rows(sql, &[]).await?.first().ok_or(PgError::LostRace)?, 0)
}

/// Whether this process is to count the queue. Other processes leave it to this one meanwhile.
async fn begin_count(tx: &WriteTx<'_>) -> Result<bool, PgError> {
    if !lock_upkeep(tx).await? {
        return Ok(false);
    }
    let rows = tx.rows("SELECT max(next_at) FROM outbox.backlog", &[]).await?;
    let due: Option<i64> = rows.first().ok_or(PgError::LostRace)?.try_get(0)?;
    if due.is_some_and(|due| !is_due(Millis::new(due), tx.now)) {
        return Ok(false);
    }
    if is_short(&count_first(tx).await?) {
        if due.is_some() {
            keep(tx, &[], tx.now).await?;
        }
        return Ok(false);
    }
    let next_at = tx.now.saturating_add(COUNT_MAX).get();
    tx.rows("UPDATE outbox.backlog SET next_at = $1", &[&next_at]).await?;
    Ok(true)
}

/// Locks the numbers of the queue until the commit. Returns whether no other transaction has the lock. Never waits.
pub(crate) async fn lock_upkeep(tx: &WriteTx<'_>) -> Result<bool, PgError> {
    let rows = tx.rows("SELECT pg_try_advisory_xact_lock(7206008, 0)", &[]).await?;
    rows.first().map_or(Ok(false), |row| Ok(row.try_get(0)?))
}

async fn keep(tx: &WriteTx<'_>, counted: &[TypeBacklog], next_at: Millis) -> Result<(), PgError> {
    tx.rows("DELETE FROM outbox.backlog", &[]).await?;
    let types: Vec<_> = counted.iter().map(|backlog| backlog.item_type.as_str()).collect();
    let column = |number: fn(&TypeBacklog) -> u64| -> Vec<i64> {
        counted.iter().map(|backlog| i64::try_from(number(backlog)).unwrap_or(i64::MAX)).collect()
    };
    let (waiting, retrying) = (column(|backlog| backlog.waiting), column(|backlog| backlog.retrying));
    let oldest: Vec<_> = counted.iter().map(|backlog| backlog.oldest_at.get()).collect();
    let insert = "INSERT INTO outbox.backlog (type, waiting, retrying, oldest_at, next_at)
                  SELECT *, $5::bigint FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])";
    tx.rows(insert, &[&types, &waiting, &retrying, &oldest, &next_at.get()]).await.map(drop)
}

/// When items that were claimed before are due, by minutes from `now`. The index of such items leads.
pub(crate) async fn retries_ahead(tx: &impl Query, now: Millis) -> Result<RetriesAhead, PgError> {
    let sql = format!(
        "SELECT CASE WHEN available_at > $1 THEN (available_at - $1) / 60000 ELSE -1 END AS ahead, count(*)
         FROM (SELECT available_at FROM outbox.queue WHERE again LIMIT {RETRIES_LOOKED_AT}) AS looked_at GROUP BY ahead"
    );
    let rows = tx.rows(&sql, &[&now.get()]).await?;
    let read = |row: &Row| Ok::<_, PgError>((row.try_get(0)?, unsigned(row, 1)?));
    let found: Vec<(i64, u64)> = rows.iter().map(read).collect::<Result<_, _>>()?;
    let looked_at = found.iter().map(|(_, items)| items).sum();
    Ok(RetriesAhead::of_minutes(found, looked_at))
}

fn is_short(first: &[TypeBacklog]) -> bool {
    first.iter().map(|backlog| backlog.waiting).sum::<u64>() <= COUNTED_AT_ONCE.into()
}

/// Counts the queue, but no more than one item above the limit.
async fn count_first(tx: &impl Query) -> Result<Vec<TypeBacklog>, PgError> {
    count(tx, &format!("(SELECT id, type, again FROM outbox.queue LIMIT {})", COUNTED_AT_ONCE + 1)).await
}

async fn count_all(tx: &impl Query) -> Result<Vec<TypeBacklog>, PgError> {
    count(tx, "outbox.queue").await
}

/// SQL: whether the item `waiting` waits for another attempt. One that an operator moved there and back has a past, too.
pub(crate) const RETRIES: &str = "waiting.again AND (
    SELECT past.attempts > 0 OR past.losses > 0 OR past.give_backs > 0 FROM outbox.past WHERE past.id = waiting.id)";

/// The numbers of the items in `source`. Ids ascend in the order of inserts, so the smallest one is that of the item
/// that was enqueued first.
async fn count(tx: &impl Query, source: &str) -> Result<Vec<TypeBacklog>, PgError> {
    let sql = format!(
        "SELECT counted.type, waiting, retrying, item.created_at
         FROM (SELECT type, count(*) AS waiting, count(*) FILTER (WHERE {RETRIES}) AS retrying, min(id) AS first
               FROM {source} AS waiting GROUP BY type) AS counted
              JOIN outbox.items AS item ON item.id = first"
    );
    numbers(&tx.rows(&sql, &[]).await?)
}

fn numbers(rows: &[Row]) -> Result<Vec<TypeBacklog>, PgError> {
    let backlog = |row: &Row| {
        Ok(TypeBacklog {
            item_type: row.try_get(0)?,
            waiting: unsigned(row, 1)?,
            retrying: unsigned(row, 2)?,
            oldest_at: time(row, 3)?,
        })
    };
    rows.iter().map(backlog).collect()
}
