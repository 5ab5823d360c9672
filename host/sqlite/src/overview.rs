//! The totals of the outbox, at a cost that does not grow with the number of DONE items.
//!
//! Unfinished and dead items are counted in the partial indexes. Everything else is a counter that the causing
//! transaction keeps; the trigger `outbox_items_deleted` lowers the counter of DONE items when one is deleted.

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
        .prepare_cached("SELECT count(*) FROM outbox_items WHERE status = 'CLAIMED' AND lease_until <= ?1")?
        .query_row([now.get()], |row| row.get(0))?;
    overview.blocked_keys = tx
        .prepare_cached("SELECT count(DISTINCT ordering_key) FROM outbox_items WHERE blocks_key = 1")?
        .query_row([], |row| row.get(0))?;
    overview.pods = pods::recent(tx, now)?;
    Ok(overview)
}

/// Counts unfinished and dead items in the partial indexes, which hold no DONE item.
fn count_unfinished(tx: &Connection, overview: &mut Overview) -> rusqlite::Result<()> {
    // The index is named because SQLite prefers `outbox_items_dlq`, which has no types: it would read each row.
    const DLQ: &str = "outbox_items INDEXED BY outbox_items_dead WHERE status = 'DLQ'";
    const CLAIMED: &str = "outbox_items WHERE status = 'CLAIMED'";
    const PENDING: [&str; 2] =
        ["outbox_items WHERE status = 'PENDING' AND held = 0", "outbox_items WHERE status = 'PENDING' AND held = 1"];
    for (status, parts) in [(Status::Pending, &PENDING[..]), (Status::Claimed, &[CLAIMED]), (Status::Dlq, &[DLQ])] {
        for part in parts {
            let sql = format!("SELECT type, count(*) FROM {part} GROUP BY type");
            let mut select = tx.prepare_cached(&sql)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                overview.count(row.get(0)?, status, row.get(1)?);
            }
        }
    }
    PENDING.iter().try_for_each(|pending| record_oldest(tx, pending, overview))
}

fn record_oldest(tx: &Connection, pending: &str, overview: &mut Overview) -> rusqlite::Result<()> {
    let sql = format!("SELECT type, min(available_at) FROM {pending} GROUP BY type");
    let mut oldest = tx.prepare_cached(&sql)?;
    let mut rows = oldest.query([])?;
    while let Some(row) = rows.next()? {
        overview.record_oldest(row.get(0)?, time(row, 1)?);
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
            overview.add_counter(counter, row.get(4)?);
        }
    }
    Ok(())
}
