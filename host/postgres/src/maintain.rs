//! What keeps the store in shape, in pieces small enough that nobody waits for them: running jobs and
//! retention. Dead rows are autovacuum's, which the schema sets up.

use std::time::Duration;

use crate::context::PgContext;
use crate::error::PgError;
use crate::tx::{Query, WriteTx};
use crate::{PostgresStore, jobs};
use outbox_item::{ItemId, Millis};
use outbox_store::engine::millis;
use outbox_store::{Job, MaintenanceReport, Retention, StoreError};

/// So many batches of each job are made in one piece of upkeep.
const JOB_BATCHES: usize = 10;
/// So many items are deleted in one transaction.
const PRUNE_ITEMS: u32 = 500;
/// So many signals are looked at in one transaction.
const PRUNE_SIGNALS: i64 = 2_000;
/// So many jobs are looked at in one transaction.
const PRUNE_JOBS: i64 = 200;

pub(crate) async fn run_maintenance(
    store: &PostgresStore,
    retention: Retention,
) -> Result<MaintenanceReport, StoreError> {
    let changed = run_due_jobs(store).await?;
    if retention == Retention::default() {
        return Ok(MaintenanceReport { changed, ..MaintenanceReport::default() });
    }
    let pg = &*store.pg;
    let (items, signals) = transact!(pg, "pruning", |tx| prune(tx, retention))?;
    Ok(MaintenanceReport { changed, items, signals })
}

/// How many items the running jobs changed.
async fn run_due_jobs(store: &PostgresStore) -> Result<u64, StoreError> {
    let (pg, now) = (&*store.pg, store.pg.now().await?);
    let mut changed = 0;
    for id in read!(pg, "looking for running jobs", |tx| jobs::due(tx, now))? {
        let before = read!(pg, "reading a job", |tx| jobs::list(tx, Some(id), 1))?;
        let mut after = None;
        for _ in 0..JOB_BATCHES {
            after = jobs::run_batch(store, id).await?;
        }
        let of = |job: Option<&Job>| job.map_or(0, |job| job.changed);
        changed += of(after.as_ref()).saturating_sub(of(before.first()));
    }
    Ok(changed)
}

/// How many items and signals were deleted.
async fn prune(tx: &mut WriteTx<'_>, retention: Retention) -> Result<(u64, u64), PgError> {
    let now = tx.now;
    let before = |age: Duration| now.saturating_sub(millis(age));
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

/// Deletes DONE items from before. Those of a saga go when all of its items are finished and that old. What
/// another process is just deleting is left to it.
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
    let rows = tx.rows(&select, &[&before]).await?;
    let ids: Vec<ItemId> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(0);
    }
    let delete = "DELETE FROM outbox.items WHERE id = ANY($1::bigint[]) AND status = 'DONE' RETURNING id";
    Ok(tx.rows(delete, &[&ids]).await?.len() as u64)
}

/// Looks at the oldest signals only: they lie in the order of time.
async fn prune_signals(tx: &WriteTx<'_>, before: Millis) -> Result<u64, PgError> {
    let delete = "DELETE FROM outbox.signals
                  WHERE ts < $1 AND seq < (SELECT min(seq) FROM outbox.signals) + $2 RETURNING seq";
    Ok(tx.rows(delete, &[&before, &PRUNE_SIGNALS]).await?.len() as u64)
}

/// Looks at the oldest jobs only. The newest stays, finished or not: items refer to its number.
async fn prune_jobs(tx: &WriteTx<'_>, before: Millis) -> Result<(), PgError> {
    let delete = "DELETE FROM outbox.jobs
                  WHERE ended_at < $1 AND id < (SELECT max(id) FROM outbox.jobs)
                    AND id < (SELECT min(id) FROM outbox.jobs) + $2";
    tx.rows(delete, &[&before, &PRUNE_JOBS]).await.map(drop)
}

/// Forgets when alerts were sent, about as many subjects as there are types.
async fn prune_alerts(tx: &WriteTx<'_>, before: Millis) -> Result<(), PgError> {
    tx.rows("DELETE FROM outbox.alerts WHERE sent_at < $1", &[&before]).await.map(drop)
}
