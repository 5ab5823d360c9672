//! Keeps the store in shape, in pieces small enough that other transactions do not wait long: running jobs and
//! retention.
//!
//! Autovacuum, which the schema configures, removes dead rows.

use std::time::Duration;

use outbox_item::Millis;
use outbox_store::engine::operate_flow;
use outbox_store::{MaintenanceReport, Retention, StoreError};

use crate::PostgresStore;
use crate::context::PgContext;
use crate::error::PgError;
use crate::tx::{Query, WriteTx};

/// Items that one transaction deletes.
const PRUNE_ITEMS: u32 = 500;
/// Signals that one transaction reads for deletion.
const PRUNE_SIGNALS: i64 = 2_000;
/// Jobs that one transaction reads for deletion.
const PRUNE_JOBS: i64 = 200;

/// Runs one piece of maintenance.
pub(crate) async fn run_maintenance(
    store: &PostgresStore,
    retention: Retention,
) -> Result<MaintenanceReport, StoreError> {
    let changed = operate_flow::run_due_jobs(store).await?;
    if retention == Retention::default() {
        return Ok(MaintenanceReport { changed, ..MaintenanceReport::default() });
    }
    let pg = &*store.pg;
    let (items, signals) = transact!(pg, "pruning", |tx| prune(tx, retention))?;
    Ok(MaintenanceReport { changed, items, signals })
}

/// Deletes what retention no longer keeps. Returns how many items and signals it deleted.
async fn prune(tx: &mut WriteTx<'_>, retention: Retention) -> Result<(u64, u64), PgError> {
    let now = tx.now;
    let before = |age: Duration| now.saturating_sub(age);
    let items = match retention.done.map(before) {
        Some(before) => prune_done(tx, before).await?,
        None => 0,
    };
    let signals = match retention.signals.map(before) {
        Some(before) => {
            prune_jobs(tx, before).await?;
            prune_alerts(tx, before).await?;
            prune_signals(tx, before).await?
        }
        None => 0,
    };
    Ok((items, signals))
}

/// Deletes items that became DONE before `before`. The items of a saga run are deleted once all of them are finished
/// and that old. Items that another process is deleting are left out. Returns how many it deleted.
async fn prune_done(tx: &WriteTx<'_>, before: Millis) -> Result<u64, PgError> {
    let select = format!(
        "SELECT id FROM outbox.items AS item
         WHERE status = 'DONE' AND done_at < $1
           AND (saga IS NULL OR NOT EXISTS (
                SELECT 1 FROM outbox.items AS other
                WHERE other.cid = item.cid AND other.saga = item.saga
                  AND coalesce(other.done_at, other.dead_at, $1) >= $1))
         ORDER BY done_at LIMIT {PRUNE_ITEMS} FOR UPDATE OF item SKIP LOCKED"
    );
    let rows = tx.rows(&select, &[&before.get()]).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(0);
    }
    let delete = "DELETE FROM outbox.items WHERE id = ANY($1::bigint[]) AND status = 'DONE' RETURNING id";
    Ok(tx.rows(delete, &[&ids]).await?.len() as u64)
}

/// Deletes old signals. Reads the oldest numbers only, because numbers ascend with time. Returns how many it deleted.
async fn prune_signals(tx: &WriteTx<'_>, before: Millis) -> Result<u64, PgError> {
    let delete = "DELETE FROM outbox.signals
                  WHERE ts < $1 AND seq < (SELECT min(seq) FROM outbox.signals) + $2 RETURNING seq";
    Ok(tx.rows(delete, &[&before.get(), &PRUNE_SIGNALS]).await?.len() as u64)
}

/// Deletes finished jobs. Reads the oldest only. The newest job stays, because items refer to its number.
async fn prune_jobs(tx: &WriteTx<'_>, before: Millis) -> Result<(), PgError> {
    let delete = "DELETE FROM outbox.jobs
                  WHERE ended_at < $1 AND id < (SELECT max(id) FROM outbox.jobs)
                    AND id < (SELECT min(id) FROM outbox.jobs) + $2";
    tx.rows(delete, &[&before.get(), &PRUNE_JOBS]).await.map(drop)
}

/// Deletes the rows that remember when old alerts were sent. There are about as many as types.
async fn prune_alerts(tx: &WriteTx<'_>, before: Millis) -> Result<(), PgError> {
    tx.rows("DELETE FROM outbox.alerts WHERE sent_at < $1", &[&before.get()]).await.map(drop)
}
