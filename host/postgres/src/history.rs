//! The figures of each minute and type.
//!
//! What they mean is decided in `outbox_store`; which process counts what, by the worker.

use tokio_postgres::Row;

use outbox_item::Millis;
use outbox_store::engine::backlog::waiting_rows;
use outbox_store::{HistoryMinute, LatencyBins, MinuteFigures, minute_of};

use crate::backlog;
use crate::error::PgError;
use crate::rows::{time, unsigned};
use crate::tx::{Query, WriteTx};

/// Rows that one transaction deletes.
const PRUNE_ROWS: i64 = 500;

/// Adds the figures to the rows of their minutes and types, in one order, so that processes do not wait for each other
/// in a circle.
pub(crate) async fn add(tx: &WriteTx<'_>, rows: &[HistoryMinute]) -> Result<(), PgError> {
    let column = |of: fn(&MinuteFigures) -> u64| -> Vec<i64> {
        rows.iter().map(|row| i64::try_from(of(&row.figures)).unwrap_or(i64::MAX)).collect()
    };
    let minutes: Vec<_> = rows.iter().map(|row| row.minute.get()).collect();
    let types: Vec<_> = rows.iter().map(|row| row.item_type.as_str()).collect();
    let (done, failed) = (column(|of| of.done), column(|of| of.failed));
    let (dead, given_back, waiting) = (column(|of| of.dead), column(|of| of.given_back), column(|of| of.waiting));
    let latencies: Vec<_> = rows.iter().map(|row| to_array(&row.figures.latency)).collect();
    let add = "INSERT INTO outbox.history_minutes AS kept
                   (minute, type, done, failed, dead, given_back, waiting, latency)
               SELECT minute, type, done, failed, dead, given_back, waiting, latency::bigint[]
               FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                           $7::bigint[], $8::text[])
                        AS added (minute, type, done, failed, dead, given_back, waiting, latency)
               ORDER BY minute, type COLLATE \"C\"
               ON CONFLICT (minute, type) DO UPDATE SET done = kept.done + excluded.done,
                   failed = kept.failed + excluded.failed, dead = kept.dead + excluded.dead,
                   given_back = kept.given_back + excluded.given_back,
                   waiting = greatest(kept.waiting, excluded.waiting),
                   latency = ARRAY (
                       SELECT coalesce(one, 0) + coalesce(other, 0)
                       FROM unnest(kept.latency, excluded.latency) WITH ORDINALITY AS bin (one, other, number)
                       ORDER BY number)";
    tx.rows(add, &[&minutes, &types, &done, &failed, &dead, &given_back, &waiting, &latencies]).await.map(drop)
}

/// The counts as the text of an array.
fn to_array(latency: &LatencyBins) -> String {
    let counts: Vec<_> = latency.counts().iter().map(ToString::to_string).collect();
    format!("{{{}}}", counts.join(","))
}

/// The rows of the minutes that began at `since` or later.
pub(crate) async fn since(tx: &impl Query, since: Millis) -> Result<Vec<HistoryMinute>, PgError> {
    let statement = "SELECT minute, type, done, failed, dead, given_back, waiting, latency
                     FROM outbox.history_minutes WHERE minute >= $1 ORDER BY minute, type";
    tx.rows(statement, &[&since.get()]).await?.iter().map(read_row).collect()
}

fn read_row(row: &Row) -> Result<HistoryMinute, PgError> {
    let counts: Vec<Option<i64>> = row.try_get(7)?;
    let counts = counts.into_iter().map(|count| count.and_then(|count| count.try_into().ok()).unwrap_or(0));
    let figures = MinuteFigures {
        done: unsigned(row, 2)?,
        failed: unsigned(row, 3)?,
        dead: unsigned(row, 4)?,
        given_back: unsigned(row, 5)?,
        waiting: unsigned(row, 6)?,
        latency: LatencyBins::from_counts(counts.collect()),
    };
    Ok(HistoryMinute { minute: time(row, 0)?, item_type: row.try_get(1)?, figures })
}

/// Writes down how much waits, once in each minute in which something does and as soon as it is known. One process at a
/// time does this.
pub(crate) async fn note_waiting(tx: &WriteTx<'_>) -> Result<(), PgError> {
    if !backlog::lock_upkeep(tx).await? {
        return Ok(());
    }
    let look = "SELECT FROM outbox.history_minutes WHERE minute = $1 AND waiting > 0 LIMIT 1";
    if !tx.rows(look, &[&minute_of(tx.now).get()]).await?.is_empty() {
        return Ok(());
    }
    let waiting = backlog::read_known(tx, tx.now).await?.unwrap_or_default();
    if waiting.is_empty() { Ok(()) } else { add(tx, &waiting_rows(&waiting, tx.now)).await }
}

/// Deletes rows of minutes that began before this time, the oldest first.
pub(crate) async fn prune(tx: &WriteTx<'_>, before: Millis) -> Result<(), PgError> {
    let delete = "DELETE FROM outbox.history_minutes WHERE (minute, type) IN (
                      SELECT minute, type FROM outbox.history_minutes WHERE minute < $1 ORDER BY minute LIMIT $2)";
    tx.rows(delete, &[&before.get(), &PRUNE_ROWS]).await.map(drop)
}
