//! The totals of the outbox, at a cost that does not grow with the number of DONE items.
//!
//! Unfinished and dead items are counted where they are: in the queue, in leases and in `outbox_dead`. Everything else
//! is a counter that the causing transaction keeps; the trigger `outbox_items_deleted` lowers the counter of DONE items
//! when one is deleted.

use rusqlite::Connection;

use outbox_item::{Millis, Status};
use outbox_store::Overview;
use outbox_store::engine::counters::Counter;

use crate::pods;
use crate::rows::time;

/// The totals at `now`, without the sizes of the files.
pub(crate) fn overview(tx: &Connection, now: Millis) -> rusqlite::Result<Overview> {
    let mut overview = Overview { now, ..Overview::default() };
    count_unfinished(tx, &mut overview)?;
    read_counters(tx, &mut overview)?;
    overview.sum_statuses();
    overview.expired_claims = tx
        .prepare_cached("SELECT coalesce(sum(count), 0) FROM outbox_leases WHERE lease_until <= ?1")?
        .query_row([now.get()], |row| row.get(0))?;
    overview.blocked_keys = tx
        .prepare_cached("SELECT count(DISTINCT ordering_key) FROM outbox_dead WHERE blocks_key = 1")?
        .query_row([], |row| row.get(0))?;
    overview.pods = pods::recent(tx, now)?;
    Ok(overview)
}

/// The queue in three parts, each of which is read in one index: items without a fairness key, with one, and those that
/// are held behind another item of their ordering key.
const QUEUE: [&str; 3] = [
    "outbox_queue WHERE held = 0 AND fairness_key IS NULL",
    "outbox_queue WHERE held = 0 AND fairness_key IS NOT NULL",
    "outbox_queue INDEXED BY outbox_queue_line WHERE ordering_key IS NOT NULL AND held = 1",
];

fn count_unfinished(tx: &Connection, overview: &mut Overview) -> rusqlite::Result<()> {
    for part in QUEUE {
        count_queued(tx, part, overview)?;
    }
    for (status, counts) in [
        (Status::Claimed, "SELECT type, sum(count) FROM outbox_leases GROUP BY type"),
        (Status::Dlq, "SELECT type, count(*) FROM outbox_dead GROUP BY type"),
    ] {
        let mut select = tx.prepare_cached(counts)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            overview.count(row.get(0)?, status, row.get(1)?);
        }
    }
    Ok(())
}

fn count_queued(tx: &Connection, part: &str, overview: &mut Overview) -> rusqlite::Result<()> {
    let sql = format!("SELECT type, count(*), min(available_at) FROM {part} GROUP BY type");
    let mut select = tx.prepare_cached(&sql)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let item_type: String = row.get(0)?;
        overview.count(item_type.clone(), Status::Pending, row.get(1)?);
        overview.record_oldest(item_type, time(row, 2)?);
    }
    Ok(())
}

fn read_counters(tx: &Connection, overview: &mut Overview) -> rusqlite::Result<()> {
    let mut select = tx.prepare_cached("SELECT name, saga, type, outcome, total FROM outbox_counters")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let words: [String; 4] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
        let [name, saga, item_type, outcome] = words.each_ref().map(String::as_str);
        if let Some(counter) = Counter::parse(name, saga, item_type, outcome) {
            // Below zero after a change from outside: it must not keep the other totals from being read.
            let total = u64::try_from(row.get::<_, i64>(4)?).unwrap_or_default();
            overview.add_counter(counter, total);
        }
    }
    Ok(())
}
