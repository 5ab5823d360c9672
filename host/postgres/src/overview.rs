//! The totals of the outbox, at a cost that does not grow with the number of DONE items.
//!
//! Waiting items are counted by `backlog`, claimed and dead ones in the tables of their places. Everything else is a total to which the causing
//! transaction adds; the trigger `items_deleted` lowers the total of DONE items when one is deleted.

use outbox_item::{Millis, Status};
use outbox_store::Overview;
use outbox_store::engine::counters::Counter;

use crate::error::PgError;
use crate::rows::{time, unsigned};
use crate::tx::Query;
use crate::{backlog, pods};

/// The totals at `now`, and the size of the database.
pub(crate) async fn overview(tx: &impl Query, now: Millis) -> Result<Overview, PgError> {
    let mut overview = Overview { now, ..Overview::default() };
    count_unfinished(tx, &mut overview).await?;
    read_counters(tx, &mut overview).await?;
    overview.sum_statuses();
    // A connection that is idle is in a transaction for a moment when it reads notifications, and the server says of that
    // one that it began with the last statement of the connection.
    let statement = "SELECT (SELECT coalesce(sum(count), 0)::bigint FROM outbox.leases WHERE lease_until <= $1),
                            (SELECT count(DISTINCT ordering_key) FROM outbox.dead WHERE blocks_key),
                            pg_database_size(current_database()),
                            (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)) * 1000, 0)::bigint
                             FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                                  AND state IS DISTINCT FROM 'idle')";
    for row in tx.rows(statement, &[&now.get()]).await? {
        overview.expired_claims = unsigned(&row, 0)?;
        overview.blocked_keys = unsigned(&row, 1)?;
        overview.database_bytes = unsigned(&row, 2)?;
        overview.oldest_transaction_ms = unsigned(&row, 3)?;
    }
    overview.pods = pods::recent(tx, now).await?;
    Ok(overview)
}

/// Counts the items that wait, are claimed, or are dead, by type.
async fn count_unfinished(tx: &impl Query, overview: &mut Overview) -> Result<(), PgError> {
    const PLACES: [(Status, &str); 2] = [
        (Status::Claimed, "SELECT type, sum(count)::bigint FROM outbox.leases GROUP BY type"),
        (Status::Dlq, "SELECT type, count(*) FROM outbox.dead GROUP BY type"),
    ];
    for backlog in backlog::read(tx, overview.now).await? {
        overview.count_waiting(backlog);
    }
    for (status, statement) in PLACES {
        for row in tx.rows(statement, &[]).await? {
            overview.count(row.try_get(0)?, status, unsigned(&row, 1)?);
        }
    }
    for row in tx.rows("SELECT type, available_at FROM outbox.oldest_ready()", &[]).await? {
        overview.record_oldest(row.try_get(0)?, time(&row, 1)?);
    }
    Ok(())
}

async fn read_counters(tx: &impl Query, overview: &mut Overview) -> Result<(), PgError> {
    for row in tx.rows("SELECT name, saga, type, outcome, total FROM outbox.totals", &[]).await? {
        let [name, saga, item_type, outcome] = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
        if let Some(counter) = Counter::parse(name, saga, item_type, outcome) {
            overview.add_counter(counter, unsigned(&row, 4)?);
        }
    }
    Ok(())
}
