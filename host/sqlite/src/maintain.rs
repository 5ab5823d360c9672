//! Keeps the store in shape, in pieces small enough that other writers do not wait long: running jobs, retention, the
//! write-ahead log and the file's free pages.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use outbox_item::Millis;
use outbox_store::engine::operate_flow;
use outbox_store::{MaintenanceReport, Retention, StoreError};

use crate::SqliteStore;
use crate::connection::{connect, wal_bytes};
use crate::error::unavailable;
use crate::write_tx::{WAL_MAX, WriteTx};

/// Items that one transaction deletes.
const PRUNE_ITEMS: u32 = 500;
/// Signals that one transaction reads for deletion.
const PRUNE_SIGNALS: u32 = 2_000;
/// Jobs that one transaction reads for deletion.
const PRUNE_JOBS: u32 = 200;
/// How long the truncation of the log waits for readers. Writers wait with it.
const TRUNCATE_TIMEOUT: Duration = Duration::from_millis(50);
/// Free pages that one transaction returns to the file system.
const VACUUM_PAGES: u32 = 256;

/// Runs one piece of maintenance.
pub(crate) async fn run_maintenance(
    store: &SqliteStore,
    retention: Retention,
) -> Result<MaintenanceReport, StoreError> {
    let changed = operate_flow::run_due_jobs(store).await?;
    let prune = move |tx: &mut WriteTx<'_>| prune(tx, retention).map_err(unavailable("pruning"));
    let (items, signals) = store.writer.run("pruning", prune).await?;
    let path = store.read_pool.path().to_owned();
    if wal_bytes(&path) > WAL_MAX {
        let truncated = tokio::task::spawn_blocking(move || truncate_wal(&path)).await;
        let tried = "cutting the write-ahead log";
        truncated
            .map_err(|source| StoreError::Unavailable { tried, source: source.into() })?
            .map_err(unavailable(tried))?;
    }
    Ok(MaintenanceReport { changed, items, signals })
}

/// Deletes what retention no longer keeps, and returns free pages. Returns how many items and signals it deleted.
fn prune(tx: &mut WriteTx<'_>, retention: Retention) -> rusqlite::Result<(u64, u64)> {
    let before = |age: Duration| tx.now.saturating_sub(age);
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

/// Deletes items that became DONE before `before`. The items of a saga run are deleted once all of them are finished
/// and that old. Returns how many it deleted.
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
    let ids: Vec<i64> =
        select.query_map(params![before.get(), PRUNE_ITEMS], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut delete = tx.connection.prepare_cached("DELETE FROM outbox_items WHERE id = ?1 AND status = 'DONE'")?;
    for id in &ids {
        delete.execute([id])?;
    }
    Ok(ids.len() as u64)
}

/// Deletes old signals. Reads the oldest numbers only, because numbers ascend with time. Returns how many it deleted.
fn prune_signals(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<u64> {
    let sql = "DELETE FROM outbox_signals
               WHERE ts < ?1 AND seq < (SELECT min(seq) FROM outbox_signals) + ?2";
    Ok(tx.connection.prepare_cached(sql)?.execute(params![before.get(), PRUNE_SIGNALS])? as u64)
}

/// Deletes finished jobs. Reads the oldest only. The newest job stays, because items refer to its number.
fn prune_jobs(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM outbox_jobs
               WHERE ended_at < ?1 AND id < (SELECT max(id) FROM outbox_jobs)
                 AND id < (SELECT min(id) FROM outbox_jobs) + ?2";
    tx.connection.prepare_cached(sql)?.execute(params![before.get(), PRUNE_JOBS])
}

/// Deletes the rows that remember when old alerts were sent. There are about as many as types.
fn prune_alerts(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<usize> {
    tx.connection.prepare_cached("DELETE FROM outbox_alerts WHERE sent_at < ?1")?.execute([before.get()])
}

/// Returns free pages to the file system once they are a quarter of the file. Has no effect on a file that was created
/// without incremental vacuum.
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

/// Checkpoints the write-ahead log and truncates it. A reader that still needs the log prevents this until the next
/// call.
fn truncate_wal(path: &Path) -> rusqlite::Result<()> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(TRUNCATE_TIMEOUT)?;
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        tracing::warn!(wal.max = WAL_MAX, "the write-ahead log is long and a reader keeps it: trying again");
    }
    Ok(())
}
