//! The totals of the outbox, at a cost that does not grow with the number of DONE items.
//!
//! Waiting items are counted by `backlog`, claimed and dead ones in leases and in `outbox_dead`. Everything else is a
//! counter that the causing transaction keeps; the trigger `outbox_items_deleted` lowers the counter of DONE items
//! when one is deleted.

use rusqlite::Connection;

use outbox_item::{Millis, Status};
use outbox_store::Overview;
use outbox_store::engine::counters::Counter;

use crate::rows::{cell, time};
use crate::{backlog, pods};

/// The totals at `now`, without the sizes of the files.
pub(crate) fn overview(tx: &Connection, now: Millis) -> rusqlite::Result<Overview> {
    let mut overview = Overview { now, ..Overview::default() };
    count_unfinished(tx, &mut overview)?;
    read_counters(tx, &mut overview)?;
    overview.sum_statuses();
    overview.expired_claims = tx
        .prepare_cached("SELECT total(count) FROM outbox_leases WHERE lease_until <= ?1")?
        .query_row([now.get()], |row| cell(row, 0))?;
    overview.blocked_keys = tx
        .prepare_cached("SELECT count(DISTINCT ordering_key) FROM outbox_dead WHERE blocks_key = 1")?
        .query_row([], |row| cell(row, 0))?;
    overview.pods = pods::recent(tx, now)?;
    Ok(overview)
}

fn count_unfinished(tx: &Connection, overview: &mut Overview) -> rusqlite::Result<()> {
    for backlog in backlog::read(tx, overview.now)? {
        overview.count_waiting(backlog);
    }
    for (status, counts) in [
        (Status::Claimed, "SELECT type, total(count) FROM outbox_leases GROUP BY type"),
        (Status::Dlq, "SELECT type, count(*) FROM outbox_dead GROUP BY type"),
    ] {
        let mut select = tx.prepare_cached(counts)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            overview.count(cell(row, 0)?, status, cell(row, 1)?);
        }
    }
    record_oldest(tx, overview)
}

/// The first due time of each type among the items that can be claimed: one look-up in the index of those without a
/// fairness key and one in that of the others for each type, and all suspects, which are few.
const OLDEST: &str = "WITH RECURSIVE first (type, due) AS (
        SELECT * FROM (SELECT type, available_at FROM outbox_queue
                       WHERE held = 0 AND losses = 0 AND fairness_key IS NULL ORDER BY type, available_at LIMIT 1)
        UNION ALL
        SELECT (SELECT type FROM outbox_queue
                WHERE held = 0 AND losses = 0 AND fairness_key IS NULL AND type > first.type
                ORDER BY type, available_at LIMIT 1),
               (SELECT available_at FROM outbox_queue
                WHERE held = 0 AND losses = 0 AND fairness_key IS NULL AND type > first.type
                ORDER BY type, available_at LIMIT 1)
        FROM first WHERE first.type IS NOT NULL),
    shared (type, due) AS (
        SELECT * FROM (SELECT type, available_at FROM outbox_queue INDEXED BY outbox_queue_fair_due
                       WHERE held = 0 AND losses = 0 AND fairness_key IS NOT NULL ORDER BY type, available_at LIMIT 1)
        UNION ALL
        SELECT (SELECT type FROM outbox_queue INDEXED BY outbox_queue_fair_due
                WHERE held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND type > shared.type
                ORDER BY type, available_at LIMIT 1),
               (SELECT available_at FROM outbox_queue INDEXED BY outbox_queue_fair_due
                WHERE held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND type > shared.type
                ORDER BY type, available_at LIMIT 1)
        FROM shared WHERE shared.type IS NOT NULL)
    SELECT type, due FROM first WHERE type IS NOT NULL
    UNION ALL SELECT type, due FROM shared WHERE type IS NOT NULL
    UNION ALL SELECT type, available_at FROM outbox_queue WHERE held = 0 AND losses > 0";

fn record_oldest(tx: &Connection, overview: &mut Overview) -> rusqlite::Result<()> {
    let mut select = tx.prepare_cached(OLDEST)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        overview.record_oldest(cell(row, 0)?, time(row, 1)?);
    }
    Ok(())
}

fn read_counters(tx: &Connection, overview: &mut Overview) -> rusqlite::Result<()> {
    let mut select = tx.prepare_cached("SELECT name, saga, type, outcome, total FROM outbox_counters")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let words: [String; 4] = [cell(row, 0)?, cell(row, 1)?, cell(row, 2)?, cell(row, 3)?];
        let [name, saga, item_type, outcome] = words.each_ref().map(String::as_str);
        if let Some(counter) = Counter::parse(name, saga, item_type, outcome) {
            // Below zero after a change from outside: it must not keep the other totals from being read.
            let total = u64::try_from(cell::<i64>(row, 4)?).unwrap_or_default();
            overview.add_counter(counter, total);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn the_oldest_item_of_each_type_is_one_look_up() {
        let steps = plan(OLDEST, []);
        // In the order of the index, each scan ends at its first row.
        let reads_all = |line: &str| line.contains("SCAN outbox_queue") && !line.contains("INDEX outbox_queue_");
        assert!(!steps.iter().any(|line| reads_all(line)), "{steps:?}");
        assert!(!steps.iter().any(|line| line.contains("TEMP B-TREE")), "{steps:?}");
    }
}
