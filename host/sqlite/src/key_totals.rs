//! Counts items by fairness key and type.
//!
//! Every waiting, claimed and dead item is read once, without its payload.

use rusqlite::{Connection, Row, params};

use outbox_store::KeyTotals;

use crate::backlog::RETRIES;
use crate::rows::{cell, optional_time};

/// The totals of the keys with items of this type, or of any, those with the most waiting items first.
pub(crate) fn read(tx: &Connection, item_type: Option<&str>, limit: u32) -> rusqlite::Result<Vec<KeyTotals>> {
    let mut select = tx.prepare_cached(&TOTALS.replace("{RETRIES}", RETRIES))?;
    select.query_map(params![item_type, limit], totals)?.collect()
}

const TOTALS: &str = "SELECT key, type, sum(pending), sum(retrying), sum(claimed), sum(dead), min(due) FROM (
        SELECT fairness_key AS key, type, count(*) AS pending, sum({RETRIES}) AS retrying, 0 AS claimed, 0 AS dead,
               min(available_at) AS due
        FROM outbox_queue AS waiting WHERE fairness_key IS NOT NULL GROUP BY 1, 2
        UNION ALL
        SELECT item.fairness_key, lease.type, 0, 0, count(*), 0, NULL
        FROM outbox_leases AS lease CROSS JOIN json_each(lease.ids) AS leased
             CROSS JOIN outbox_items AS item INDEXED BY outbox_items_fair ON item.id = leased.value
        WHERE item.fairness_key IS NOT NULL GROUP BY 1, 2
        UNION ALL
        SELECT item.fairness_key, dead.type, 0, 0, 0, count(*), NULL
        FROM outbox_dead AS dead CROSS JOIN outbox_items AS item INDEXED BY outbox_items_fair ON item.id = dead.id
        WHERE item.fairness_key IS NOT NULL GROUP BY 1, 2)
    WHERE ?1 IS NULL OR type = ?1
    GROUP BY key, type ORDER BY 3 DESC, 5 DESC, 6 DESC, key, type LIMIT ?2";

fn totals(row: &Row<'_>) -> rusqlite::Result<KeyTotals> {
    Ok(KeyTotals {
        fairness_key: cell(row, 0)?,
        r#type: cell(row, 1)?,
        pending: cell(row, 2)?,
        retrying: cell(row, 3)?,
        claimed: cell(row, 4)?,
        dlq: cell(row, 5)?,
        first_due: optional_time(row, 6)?,
    })
}
