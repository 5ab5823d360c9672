//! Keeps the store in shape, in pieces small enough that other transactions do not wait long: running jobs, the totals
//! that transactions appended, the numbers of a long queue, and retention.
//!
//! Autovacuum, which the schema configures, removes dead rows. The trigger `items_deleted` deletes what belongs to a
//! deleted item.

use std::time::Duration;

use tokio_postgres::Row;

use outbox_item::{ItemId, Millis};
use outbox_store::engine::operate_flow;
use outbox_store::engine::retention_look::{FinishedItem, ITEMS_MAX, Position, ROWS_MAX, RetentionLook, STEP_ITEMS};
use outbox_store::{JobId, MaintenanceReport, Retention, StoreError};

use crate::PostgresStore;
use crate::context::PgContext;
use crate::error::PgError;
use crate::ordering;
use crate::rows::{numbers, time};
use crate::tx::{BY_INDEX, Query, ReadTx, WriteTx};
use crate::{audit, backlog, history};

/// Signals that one transaction reads for deletion.
const PRUNE_SIGNALS: i64 = 2_000;
/// Transactions that add up totals in one run: enough for ten thousand changes of totals each second.
const FOLDS_MAX: u32 = 4;
/// Jobs that one transaction reads for deletion.
const PRUNE_JOBS: i64 = 200;

/// Runs one piece of maintenance.
pub(crate) async fn run_maintenance(
    store: &PostgresStore,
    retention: Retention,
) -> Result<MaintenanceReport, StoreError> {
    let pg = &*store.pg;
    for _ in 0..FOLDS_MAX {
        if !transact!(pg, "adding up totals", |tx| fold_totals(tx))? {
            break;
        }
    }
    backlog::refresh(pg).await?;
    transact!(pg, "keeping the numbers of the queue", |tx| history::note_waiting(tx))?;
    // The DLQ first: what it deletes lets other items of ordering keys go on.
    let items = prune_old(store, &DEAD, &store.dead_look, retention.dead, ITEMS_MAX).await?;
    let items = items + prune_old(store, &DONE, &store.done_look, retention.done, ITEMS_MAX - items).await?;
    let signals = prune_others(pg, retention).await?;
    let changed = operate_flow::run_due_jobs(store, log_failed_job).await?;
    Ok(MaintenanceReport { changed, items: items as u64, signals, is_more: items >= ITEMS_MAX })
}

fn log_failed_job(job: JobId, error: &StoreError) {
    tracing::error!(%job, %error, "a job's batch failed; the job is tried again");
}

/// Adds up a part of what transactions appended to the totals. Returns whether more may be left.
async fn fold_totals(tx: &WriteTx<'_>) -> Result<bool, PgError> {
    let rows = tx.rows("SELECT outbox.fold()", &[]).await?;
    rows.first().map_or(Ok(false), |row| Ok(row.try_get(0)?))
}

/// Deletes at most `limit` items of the place that retention no longer keeps, a few in each transaction. Returns how many
/// it deleted.
async fn prune_old(
    store: &PostgresStore,
    place: &FinishedPlace,
    look: &RetentionLook,
    age: Option<Duration>,
    limit: usize,
) -> Result<usize, StoreError> {
    let Some(age) = age.filter(|_| limit > 0) else { return Ok(0) };
    let pg = &*store.pg;
    let (before, after) = (pg.now().await?.saturating_sub(age), look.position());
    let read = read!(pg, "looking for old items", |tx| finished_items(tx, place, before, after))?;
    let mut deleted = 0;
    for old in look.take(&read, limit).chunks(STEP_ITEMS) {
        deleted += transact!(pg, "pruning", |tx| prune_items(tx, place, before, old))?;
    }
    Ok(deleted)
}

/// The finished items after the position, in the order in which they were finished, at most [`ROWS_MAX`].
async fn finished_items(
    tx: &ReadTx<'_>,
    FinishedPlace { table, finished_at }: &FinishedPlace,
    before: Millis,
    (at, id): Position,
) -> Result<Vec<FinishedItem>, PgError> {
    let sql = format!(
        "SELECT item.id, finished.{finished_at}, {IS_FREE}
         FROM {table} AS finished JOIN outbox.items AS item ON item.id = finished.id
         WHERE (finished.{finished_at}, finished.id) > ($2, $3) AND finished.{finished_at} < $1
         ORDER BY finished.{finished_at}, finished.id LIMIT {ROWS_MAX}"
    );
    tx.set(BY_INDEX).await?;
    let read = |row: &Row| {
        let position = (time(row, 1)?, ItemId::new(row.try_get(0)?));
        Ok(FinishedItem { position, is_free: row.try_get(2)? })
    };
    tx.rows(&sql, &[&before.get(), &at.get(), &id.get()]).await?.iter().map(read).collect()
}

/// Deletes old signals, jobs, audit entries and rows of the history. Returns how many signals it deleted.
async fn prune_others(pg: &PgContext, retention: Retention) -> Result<u64, StoreError> {
    if let Some(age) = retention.audit {
        transact!(pg, "pruning the audit trail", |tx| audit::prune(tx, tx.now.saturating_sub(age)))?;
    }
    if let Some(age) = retention.history {
        transact!(pg, "pruning the history", |tx| history::prune(tx, tx.now.saturating_sub(age)))?;
    }
    let Some(age) = retention.signals else { return Ok(0) };
    transact!(pg, "pruning jobs and alerts", |tx| prune_jobs_and_alerts(tx, tx.now.saturating_sub(age)))?;
    transact!(pg, "pruning signals", |tx| prune_signals(tx, tx.now.saturating_sub(age)))
}

/// Where finished items are.
struct FinishedPlace {
    table: &'static str,
    finished_at: &'static str,
}

const DONE: FinishedPlace = FinishedPlace { table: "outbox.done", finished_at: "done_at" };
const DEAD: FinishedPlace = FinishedPlace { table: "outbox.dead", finished_at: "dead_at" };

/// Deletes those of the items that are still free and were finished before `before`. The items of a saga run are deleted
/// once the run has ended and that long ago. Items that another transaction is moving are left out. The schema's delete trigger
/// takes along what belongs to an item, and finds the front of a key that the item blocked. Returns how many items it
/// deleted.
async fn prune_items(
    tx: &mut WriteTx<'_>,
    place: &FinishedPlace,
    before: Millis,
    old: &[ItemId],
) -> Result<usize, PgError> {
    if old.is_empty() {
        return Ok(0);
    }
    if place.table == DEAD.table {
        // A transaction waits for the line of a key before it locks an item that it takes out of it.
        ordering::lock_blocked(tx, old).await?;
    }
    let locked = lock_old(tx, place, old, before).await?;
    tx.rows("DELETE FROM outbox.items WHERE id = ANY($1::bigint[])", &[&numbers(&locked)]).await?;
    // An item that blocked its key may have been among them.
    tx.wakes_other_processes |= place.table == DEAD.table && !locked.is_empty();
    Ok(locked.len())
}

/// Locks the items, then their places, as an operator's action does. Returns those that no other transaction has locked
/// and that are still there.
async fn lock_old(
    tx: &WriteTx<'_>,
    FinishedPlace { table, finished_at }: &FinishedPlace,
    old: &[ItemId],
    before: Millis,
) -> Result<Vec<ItemId>, PgError> {
    let items = "SELECT id FROM outbox.items WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED";
    let items = ids_of(&tx.rows(items, &[&numbers(old)]).await?)?;
    let places = format!(
        "SELECT finished.id FROM {table} AS finished JOIN outbox.items AS item ON item.id = finished.id
         WHERE finished.id = ANY($2::bigint[]) AND finished.{finished_at} < $1 AND {IS_FREE}
         ORDER BY finished.id FOR UPDATE OF finished SKIP LOCKED"
    );
    ids_of(&tx.rows(&places, &[&before.get(), &numbers(&items)]).await?)
}

fn ids_of(rows: &[Row]) -> Result<Vec<ItemId>, PgError> {
    rows.iter().map(|row| Ok(ItemId::new(row.try_get(0)?))).collect()
}

/// SQL that tells whether no run of a saga keeps the `item`. Single rows, because the server may answer whether there are
/// any by reading the whole table.
const IS_FREE: &str = "(item.saga IS NULL OR (
         SELECT open.id FROM outbox.saga_open AS open WHERE open.saga = item.saga AND open.cid = item.cid
         ORDER BY open.saga, open.cid, open.id LIMIT 1) IS NULL
     AND (
         SELECT run.run FROM outbox.sagas AS run
         WHERE run.saga = item.saga AND run.cid = item.cid AND coalesce(run.ended_at, $1) >= $1) IS NULL)";

/// Deletes old signals. Reads the oldest numbers only, because numbers ascend with time. Returns how many it deleted.
async fn prune_signals(tx: &WriteTx<'_>, before: Millis) -> Result<u64, PgError> {
    let delete = "DELETE FROM outbox.signals
                  WHERE ts < $1 AND seq IN (SELECT seq FROM outbox.signals ORDER BY seq LIMIT $2) RETURNING seq";
    Ok(tx.rows(delete, &[&before.get(), &PRUNE_SIGNALS]).await?.len() as u64)
}

async fn prune_jobs_and_alerts(tx: &WriteTx<'_>, before: Millis) -> Result<(), PgError> {
    prune_jobs(tx, before).await?;
    prune_alerts(tx, before).await
}

/// Deletes finished jobs. Reads the oldest only. The newest job stays, because the places of items refer to its
/// number.
async fn prune_jobs(tx: &WriteTx<'_>, before: Millis) -> Result<(), PgError> {
    let delete = "DELETE FROM outbox.jobs
                  WHERE ended_at < $1 AND id < outbox.newest_job()
                    AND id IN (SELECT id FROM outbox.jobs ORDER BY id LIMIT $2)";
    tx.rows(delete, &[&before.get(), &PRUNE_JOBS]).await.map(drop)
}

/// Deletes the rows that remember when old alerts were sent. There are about as many as types.
async fn prune_alerts(tx: &WriteTx<'_>, before: Millis) -> Result<(), PgError> {
    tx.rows("DELETE FROM outbox.alerts WHERE sent_at < $1", &[&before.get()]).await.map(drop)
}
