//! What keeps the store in shape, in pieces small enough that nobody waits for them: running jobs,
//! retention, the write-ahead log and the file's free pages.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use crate::write_tx::WriteTx;
use crate::{SqliteStore, connect, file_bytes, jobs, path_with_suffix, unavailable};
use outbox_item::{ItemId, Millis};
use outbox_store::engine::millis;
use outbox_store::{MaintenanceReport, Retention, StoreError};

/// So many batches of each job are made in one piece of upkeep.
const JOB_BATCHES: usize = 10;
/// So many items are deleted in one transaction.
const PRUNE_ITEMS: u32 = 500;
/// So many signals are looked at in one transaction.
const PRUNE_SIGNALS: u32 = 2_000;
/// So many jobs are looked at in one transaction.
const PRUNE_JOBS: u32 = 200;
/// A write-ahead log that is longer has lost against its readers, and is cut when they let go.
pub(crate) const WAL_MAX: u64 = 64 * 1024 * 1024;
/// Cutting the log waits for readers no longer than this, because writers wait with it.
const TRUNCATE_TIMEOUT: Duration = Duration::from_millis(50);
/// So many free pages are given back to the file system in one transaction.
const VACUUM_PAGES: u32 = 256;

pub(crate) async fn run_maintenance(
    store: &SqliteStore,
    retention: Retention,
) -> Result<MaintenanceReport, StoreError> {
    let changed = run_due_jobs(store).await?;
    let prune = move |tx: &mut WriteTx<'_>| prune(tx, retention).map_err(unavailable("pruning"));
    let (items, signals) = store.writer.run("pruning", prune).await?;
    let path = store.read_pool.path().to_owned();
    if file_bytes(&path_with_suffix(&path, "-wal")) > WAL_MAX {
        let truncated = tokio::task::spawn_blocking(move || truncate_wal(&path)).await;
        let tried = "cutting the write-ahead log";
        truncated
            .map_err(|source| StoreError::Unavailable { tried, source: source.into() })?
            .map_err(unavailable(tried))?;
    }
    Ok(MaintenanceReport { changed, items, signals })
}

/// How many items the running jobs changed.
async fn run_due_jobs(store: &SqliteStore) -> Result<u64, StoreError> {
    let now = (store.clock)();
    let mut changed = 0;
    for id in store.read_pool.run("looking for running jobs", move |tx| jobs::due(tx, now)).await? {
        let before = store.read_pool.run("reading a job", move |tx| jobs::list(tx, Some(id), 1)).await?;
        let mut after = None;
        for _ in 0..JOB_BATCHES {
            after = jobs::run_batch(store, id).await?;
        }
        let of = |job: Option<&outbox_store::Job>| job.map_or(0, |job| job.changed);
        changed += of(after.as_ref()).saturating_sub(of(before.first()));
    }
    Ok(changed)
}

/// How many items and signals were deleted.
fn prune(tx: &mut WriteTx<'_>, retention: Retention) -> rusqlite::Result<(u64, u64)> {
    let before = |age: Duration| tx.now.saturating_sub(millis(age));
    let (done, signals) = (retention.done.map(before), retention.signals.map(before));
    let items = done.map_or(Ok(0), |before| prune_done(tx, before))?;
    if let Some(before) = signals {
        prune_jobs(tx, before)?;
        prune_alerts(tx, before)?;
    }
    let signals = signals.map_or(Ok(0), |before| prune_signals(tx, before))?;
    vacuum(tx.connection)?;
    Ok((items, signals))
}

/// Deletes DONE items from before. Those of a saga go when all of its items are finished and that old.
fn prune_done(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<u64> {
    let mut select = tx.connection.prepare_cached(
        "SELECT id FROM outbox_items AS item
         WHERE status = 'DONE' AND done_at < ?1
           AND (saga IS NULL OR NOT EXISTS (
                SELECT 1 FROM outbox_items AS other
                WHERE other.cid = item.cid AND other.saga = item.saga
                  AND coalesce(other.done_at, other.dead_at, ?1) >= ?1))
         ORDER BY done_at LIMIT ?2",
    )?;
    let ids: Vec<ItemId> =
        select.query_map(params![before, PRUNE_ITEMS], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut delete = tx.connection.prepare_cached("DELETE FROM outbox_items WHERE id = ?1 AND status = 'DONE'")?;
    for id in &ids {
        delete.execute([id])?;
    }
    Ok(ids.len() as u64)
}

/// Looks at the oldest signals only: they lie in the order of time.
fn prune_signals(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<u64> {
    let sql = "DELETE FROM outbox_signals
               WHERE ts < ?1 AND seq < (SELECT min(seq) FROM outbox_signals) + ?2";
    Ok(tx.connection.prepare_cached(sql)?.execute(params![before, PRUNE_SIGNALS])? as u64)
}

/// Looks at the oldest jobs only. The newest stays, finished or not: items refer to its number.
fn prune_jobs(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM outbox_jobs
               WHERE ended_at < ?1 AND id < (SELECT max(id) FROM outbox_jobs)
                 AND id < (SELECT min(id) FROM outbox_jobs) + ?2";
    tx.connection.prepare_cached(sql)?.execute(params![before, PRUNE_JOBS])
}

/// Forgets when alerts were sent, about as many subjects as there are types.
fn prune_alerts(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<usize> {
    tx.connection.prepare_cached("DELETE FROM outbox_alerts WHERE sent_at < ?1")?.execute([before])
}

/// Gives free pages back once they are a quarter of the file, if the file was made for that.
fn vacuum(tx: &Connection) -> rusqlite::Result<()> {
    let ask = |pragma: &str| tx.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, u32>(0));
    let (free, pages) = (ask("freelist_count")?, ask("page_count")?);
    if free < VACUUM_PAGES || free < pages / 4 {
        return Ok(());
    }
    let mut vacuum = tx.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

fn truncate_wal(path: &Path) -> rusqlite::Result<()> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(TRUNCATE_TIMEOUT)?;
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        tracing::warn!(wal.max = WAL_MAX, "the write-ahead log is long and a reader keeps it: trying again");
    }
    Ok(())
}
