//! Keeps the store in shape, in pieces small enough that other writers do not wait long: running jobs, retention, the
//! numbers of a long queue, the write-ahead log and the file's free pages.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use outbox_item::Millis;
use outbox_store::engine::operate_flow;
use outbox_store::{JobId, MaintenanceReport, Retention, StoreError};

use crate::SqliteStore;
use crate::connection::{connect, wal_bytes};
use crate::error::unavailable;
use crate::write_tx::{WAL_MAX, WriteTx};
use crate::{audit, backlog};

/// Items that one transaction deletes, each with everything that belongs to it.
const PRUNE_ITEMS: usize = 500;
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
    let prune = move |tx: &mut WriteTx<'_>| prune(tx, retention).map_err(unavailable("pruning"));
    let (items, signals) = store.writer.run("pruning", prune).await?;
    backlog::refresh(store).await?;
    let path = store.read_pool.path().to_owned();
    if wal_bytes(&path) > WAL_MAX {
        let truncated = tokio::task::spawn_blocking(move || truncate_wal(&path)).await;
        let tried = "cutting the write-ahead log";
        truncated
            .map_err(|source| StoreError::Unavailable { tried, source: source.into() })?
            .map_err(unavailable(tried))?;
    }
    Ok(MaintenanceReport { changed: operate_flow::run_due_jobs(store, log_failed_job).await?, items, signals })
}

fn log_failed_job(job: JobId, error: &StoreError) {
    tracing::error!(%job, %error, "a job's batch failed; the job is tried again");
}

/// Deletes what retention no longer keeps, and returns free pages. Returns how many items and signals it deleted.
fn prune(tx: &mut WriteTx<'_>, retention: Retention) -> rusqlite::Result<(u64, u64)> {
    let now = tx.now;
    let before = |age: Duration| now.saturating_sub(age);
    let (done, dead, signals) = (retention.done.map(before), retention.dead.map(before), retention.signals.map(before));
    let mut items = done.map_or(Ok(0), |before| prune_items(tx, &DONE, before, PRUNE_ITEMS))?;
    items += dead.map_or(Ok(0), |before| prune_items(tx, &DEAD, before, PRUNE_ITEMS - items))?;
    if let Some(before) = signals {
        prune_jobs(tx, before)?;
        prune_alerts(tx, before)?;
    }
    let signals = signals.map_or(Ok(0), |before| prune_signals(tx, before))?;
    retention.audit.map_or(Ok(()), |age| audit::prune(tx, before(age)))?;
    vacuum(tx.connection)?;
    Ok((items as u64, signals))
}

/// Where finished items are.
struct FinishedPlace {
    table: &'static str,
    finished_at: &'static str,
}

const DONE: FinishedPlace = FinishedPlace { table: "outbox_done", finished_at: "done_at" };
const DEAD: FinishedPlace = FinishedPlace { table: "outbox_dead", finished_at: "dead_at" };

/// Deletes at most `limit` items that were finished before `before`. The items of a saga run are deleted once the run
/// has ended and that long ago. The schema's delete trigger takes along what belongs to an item, and finds the front of
/// a key that the item blocked. Returns how many it deleted.
fn prune_items(tx: &mut WriteTx<'_>, place: &FinishedPlace, before: Millis, limit: usize) -> rusqlite::Result<usize> {
    let mut select = tx.connection.prepare_cached(&old_items(place))?;
    let ids: Vec<i64> =
        select.query_map(params![before.get(), limit], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut delete = tx.connection.prepare_cached("DELETE FROM outbox_items WHERE id = ?1")?;
    for id in &ids {
        delete.execute([id])?;
    }
    // An item that blocked its key may have been among them.
    tx.wakes_workers |= place.table == DEAD.table && !ids.is_empty();
    Ok(ids.len())
}

fn old_items(FinishedPlace { table, finished_at }: &FinishedPlace) -> String {
    format!(
        "SELECT item.id FROM {table} AS finished JOIN outbox_items AS item ON item.id = finished.id
         WHERE finished.{finished_at} < ?1
           AND (item.saga IS NULL OR NOT EXISTS (
                    SELECT 1 FROM outbox_saga_open AS open WHERE open.saga = item.saga AND open.cid = item.cid)
                AND NOT EXISTS (
                    SELECT 1 FROM outbox_sagas AS run
                    WHERE run.saga = item.saga AND run.cid = item.cid AND coalesce(run.ended_at, ?1) >= ?1))
         ORDER BY finished.{finished_at} LIMIT ?2"
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn retention_reads_the_oldest_finished_items_and_no_others() {
        for (place, index) in [(&DONE, "outbox_done_at (done_at<?)"), (&DEAD, "outbox_dead_at (dead_at<?)")] {
            let steps = plan(&old_items(place), params![1, 9]);
            assert!(steps.iter().any(|line| line.contains(index)), "{steps:?}");
            assert!(!steps.iter().any(|line| line.contains("TEMP B-TREE")), "{steps:?}");
            let probe = "SEARCH open USING PRIMARY KEY (saga=? AND cid=?)";
            assert!(steps.iter().any(|line| line.contains(probe)), "what is left of a saga is one look: {steps:?}");
        }
    }
}
