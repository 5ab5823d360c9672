//! Keeps the store in shape, in pieces small enough that other transactions do not wait long: running jobs, the totals
//! that transactions appended, the numbers of a long queue, and retention.
//!
//! Autovacuum, which the schema configures, removes dead rows. The trigger `items_deleted` deletes what belongs to a
//! deleted item.

use std::time::Duration;

use tokio_postgres::Row;

use outbox_item::{ItemId, Millis};
use outbox_store::engine::operate_flow;
use outbox_store::{JobId, MaintenanceReport, Retention, StoreError};

use crate::PostgresStore;
use crate::context::PgContext;
use crate::error::PgError;
use crate::ordering;
use crate::rows::numbers;
use crate::tx::{Query as _, WriteTx};
use crate::{audit, backlog};

/// Items that one transaction deletes, each with everything that belongs to it.
const PRUNE_ITEMS: i64 = 500;
/// Signals that one transaction reads for deletion.
const PRUNE_SIGNALS: i64 = 2_000;
/// Jobs that one transaction reads for deletion.
const PRUNE_JOBS: i64 = 200;

/// Runs one piece of maintenance.
pub(crate) async fn run_maintenance(
    store: &PostgresStore,
    retention: Retention,
) -> Result<MaintenanceReport, StoreError> {
    let pg = &*store.pg;
    transact!(pg, "adding up totals", |tx| fold_totals(tx))?;
    transact!(pg, "counting the queue", |tx| backlog::refresh(tx))?;
    let (items, signals) =
        if retention == Retention::default() { (0, 0) } else { transact!(pg, "pruning", |tx| prune(tx, retention))? };
    Ok(MaintenanceReport { changed: operate_flow::run_due_jobs(store, log_failed_job).await?, items, signals })
}

fn log_failed_job(job: JobId, error: &StoreError) {
    tracing::error!(%job, %error, "a job's batch failed; the job is tried again");
}

/// Adds up what transactions appended to the totals.
async fn fold_totals(tx: &WriteTx<'_>) -> Result<(), PgError> {
    tx.rows("SELECT outbox.fold()", &[]).await.map(drop)
}

/// Deletes what retention no longer keeps. Returns how many items and signals it deleted.
async fn prune(tx: &mut WriteTx<'_>, retention: Retention) -> Result<(u64, u64), PgError> {
    let now = tx.now;
    let before = |age: Duration| now.saturating_sub(age);
    let mut items = 0;
    // The DLQ first: it waits for lines of ordering keys, which must not follow the lock of an item.
    for (place, age) in [(&DEAD, retention.dead), (&DONE, retention.done)] {
        if let Some(age) = age {
            items += prune_items(tx, place, before(age), PRUNE_ITEMS - items).await?;
        }
    }
    let signals = match retention.signals.map(before) {
        Some(before) => {
            prune_jobs(tx, before).await?;
            prune_alerts(tx, before).await?;
            prune_signals(tx, before).await?
        }
        None => 0,
    };
    if let Some(age) = retention.audit {
        audit::prune(tx, before(age)).await?;
    }
    Ok((items.cast_unsigned(), signals))
}

/// Where finished items are.
struct FinishedPlace {
    table: &'static str,
    finished_at: &'static str,
}

const DONE: FinishedPlace = FinishedPlace { table: "outbox.done", finished_at: "done_at" };
const DEAD: FinishedPlace = FinishedPlace { table: "outbox.dead", finished_at: "dead_at" };

/// Deletes at most `limit` items that were finished before `before`. The items of a saga run are deleted once the run
/// has ended and that long ago. Items that another transaction is moving are left out. The schema's delete trigger
/// takes along what belongs to an item, and finds the front of a key that the item blocked. Returns how many items it
/// deleted.
async fn prune_items(tx: &mut WriteTx<'_>, place: &FinishedPlace, before: Millis, limit: i64) -> Result<i64, PgError> {
    let old = ids_of(&tx.rows(&old_items(place), &[&before.get(), &limit]).await?)?;
    if old.is_empty() {
        return Ok(0);
    }
    if place.table == DEAD.table {
        // A transaction waits for the line of a key before it locks an item that it takes out of it.
        ordering::lock_blocked(tx, &old).await?;
    }
    let locked = lock_old(tx, place, &old, before).await?;
    tx.rows("DELETE FROM outbox.items WHERE id = ANY($1::bigint[])", &[&numbers(&locked)]).await?;
    // An item that blocked its key may have been among them.
    tx.wakes_other_processes |= place.table == DEAD.table && !locked.is_empty();
    Ok(i64::try_from(locked.len()).unwrap_or(i64::MAX))
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
        "SELECT id FROM {table} WHERE id = ANY($1::bigint[]) AND {finished_at} < $2
         ORDER BY id FOR UPDATE SKIP LOCKED"
    );
    ids_of(&tx.rows(&places, &[&numbers(&items), &before.get()]).await?)
}

fn ids_of(rows: &[Row]) -> Result<Vec<ItemId>, PgError> {
    rows.iter().map(|row| Ok(ItemId::new(row.try_get(0)?))).collect()
}

fn old_items(FinishedPlace { table, finished_at }: &FinishedPlace) -> String {
    format!(
        "SELECT item.id FROM {table} AS finished JOIN outbox.items AS item ON item.id = finished.id
         WHERE finished.{finished_at} < $1
           AND (item.saga IS NULL OR NOT EXISTS (
                    SELECT 1 FROM outbox.saga_open AS open WHERE open.saga = item.saga AND open.cid = item.cid)
                AND NOT EXISTS (
                    SELECT 1 FROM outbox.sagas AS run
                    WHERE run.saga = item.saga AND run.cid = item.cid AND coalesce(run.ended_at, $1) >= $1))
         ORDER BY finished.{finished_at} LIMIT $2"
    )
}

/// Deletes old signals. Reads the oldest numbers only, because numbers ascend with time. Returns how many it deleted.
async fn prune_signals(tx: &WriteTx<'_>, before: Millis) -> Result<u64, PgError> {
    let delete = "DELETE FROM outbox.signals
                  WHERE ts < $1 AND seq < (SELECT min(seq) FROM outbox.signals) + $2 RETURNING seq";
    Ok(tx.rows(delete, &[&before.get(), &PRUNE_SIGNALS]).await?.len() as u64)
}

/// Deletes finished jobs. Reads the oldest only. The newest job stays, because the places of items refer to its
/// number.
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
