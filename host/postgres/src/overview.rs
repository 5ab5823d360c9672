//! The totals of the outbox, at a cost that does not grow with the number of DONE items.
//!
//! Unfinished and dead items are counted in the partial indexes. Everything else is a counter that the causing
//! transaction keeps; the trigger `items_deleted` lowers the counter of DONE items when one is deleted.

use outbox_item::{Millis, Status};
use outbox_store::Overview;
use outbox_store::engine::counters::Counter;

use crate::error::PgError;
use crate::pods;
use crate::rows::{optional_time, unsigned};
use crate::tx::Query;

/// The totals at `now`, and the size of the database.
pub(crate) async fn overview(tx: &impl Query, now: Millis) -> Result<Overview, PgError> {
    let mut overview = Overview { now, ..Overview::default() };
    count_unfinished(tx, &mut overview).await?;
    read_counters(tx, &mut overview).await?;
    overview.sum_statuses();
    let statement = "SELECT (SELECT count(*) FROM outbox.items WHERE status = 'CLAIMED' AND lease_until <= $1),
                            (SELECT count(DISTINCT ordering_key) FROM outbox.items WHERE blocks_key),
                            pg_database_size(current_database()),
                            (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)) * 1000, 0)::bigint
                             FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid())";
    for row in tx.rows(statement, &[&now.get()]).await? {
        overview.expired_claims = unsigned(&row, 0)?;
        overview.blocked_keys = unsigned(&row, 1)?;
        overview.database_bytes = unsigned(&row, 2)?;
        overview.oldest_transaction_ms = unsigned(&row, 3)?;
    }
    overview.pods = pods::recent(tx, now).await?;
    Ok(overview)
}

/// Counts unfinished and dead items in the partial indexes, which hold no DONE item.
async fn count_unfinished(tx: &impl Query, overview: &mut Overview) -> Result<(), PgError> {
    const PARTS: [(Status, &str); 4] = [
        (Status::Pending, "status = 'PENDING' AND NOT held"),
        (Status::Pending, "status = 'PENDING' AND held"),
        (Status::Claimed, "status = 'CLAIMED'"),
        (Status::Dlq, "status = 'DLQ'"),
    ];
    for (status, part) in PARTS {
        // Only the indexes of PENDING items hold `available_at`.
        let oldest = if status == Status::Pending { "min(available_at)" } else { "NULL::bigint" };
        let statement = format!("SELECT type, count(*), {oldest} FROM outbox.items WHERE {part} GROUP BY type");
        for row in tx.rows(&statement, &[]).await? {
            overview.count(row.try_get(0)?, status, unsigned(&row, 1)?);
            if let Some(oldest) = optional_time(&row, 2)? {
                overview.record_oldest(row.try_get(0)?, oldest);
            }
        }
    }
    Ok(())
}

async fn read_counters(tx: &impl Query, overview: &mut Overview) -> Result<(), PgError> {
    let statement = "SELECT name, saga, type, outcome, sum(total)::bigint FROM outbox.counters GROUP BY 1, 2, 3, 4";
    for row in tx.rows(statement, &[]).await? {
        let [name, saga, item_type, outcome] = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
        if let Some(counter) = Counter::parse(name, saga, item_type, outcome) {
            overview.add_counter(counter, unsigned(&row, 4)?);
        }
    }
    Ok(())
}
