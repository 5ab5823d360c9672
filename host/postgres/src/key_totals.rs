//! Counts items by fairness key and type.
//!
//! Every waiting, claimed and dead item is read once, without its payload.

use tokio_postgres::Row;

use outbox_store::KeyTotals;

use crate::backlog::RETRIES;
use crate::error::PgError;
use crate::rows::{optional_time, unsigned};
use crate::tx::Query;

/// The totals of the keys with items of this type, or of any, those with the most waiting items first.
pub(crate) async fn read(tx: &impl Query, item_type: Option<&str>, limit: u32) -> Result<Vec<KeyTotals>, PgError> {
    tx.rows(&TOTALS.replace("{RETRIES}", RETRIES), &[&item_type, &i64::from(limit)]).await?.iter().map(totals).collect()
}

const TOTALS: &str = "SELECT key, type, sum(pending)::bigint, sum(retrying)::bigint, sum(claimed)::bigint,
           sum(dead)::bigint, min(due) FROM (
        SELECT fairness_key AS key, type, count(*) AS pending, count(*) FILTER (WHERE {RETRIES}) AS retrying,
               0::bigint AS claimed, 0::bigint AS dead, min(available_at) AS due
        FROM outbox.queue AS waiting WHERE fairness_key IS NOT NULL GROUP BY 1, 2
        UNION ALL
        SELECT item.fairness_key, lease.type, 0, 0, count(*), 0, NULL
        FROM outbox.leases AS lease CROSS JOIN LATERAL unnest(lease.ids) AS leased (id)
             JOIN outbox.items AS item ON item.id = leased.id
        WHERE item.fairness_key IS NOT NULL GROUP BY 1, 2
        UNION ALL
        SELECT item.fairness_key, dead.type, 0, 0, 0, count(*), NULL
        FROM outbox.dead JOIN outbox.items AS item ON item.id = dead.id
        WHERE item.fairness_key IS NOT NULL GROUP BY 1, 2) AS part
    WHERE $1::text IS NULL OR type = $1
    GROUP BY key, type ORDER BY 3 DESC, 5 DESC, 6 DESC, key, type LIMIT $2";

fn totals(row: &Row) -> Result<KeyTotals, PgError> {
    Ok(KeyTotals {
        fairness_key: row.try_get(0)?,
        r#type: row.try_get(1)?,
        pending: unsigned(row, 2)?,
        retrying: unsigned(row, 3)?,
        claimed: unsigned(row, 4)?,
        dlq: unsigned(row, 5)?,
        first_due: optional_time(row, 6)?,
    })
}
