//! Keeps the store in shape, in pieces small enough that other writers do not wait long: running jobs, retention, the
//! numbers of a long queue, the write-ahead log and the file's free pages.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Params, Row, params};

use outbox_item::{ItemId, Millis};
use outbox_store::engine::operate_flow;
use outbox_store::engine::retention_look::{FinishedItem, ITEMS_MAX, Position, ROWS_MAX, RetentionLook, STEP_ITEMS};
use outbox_store::{JobId, MaintenanceReport, Retention, StoreError};

use crate::SqliteStore;
use crate::connection::{connect, wal_bytes};
use crate::error::unavailable;
use crate::rows::time;
use crate::write_tx::{WAL_MAX, WriteTx};
use crate::{audit, backlog, history};

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
    let items = prune_old(store, &DONE, &store.done_look, retention.done, ITEMS_MAX).await?;
    let items = items + prune_old(store, &DEAD, &store.dead_look, retention.dead, ITEMS_MAX - items).await?;
    let prune = move |tx: &mut WriteTx<'_>| prune_others(tx, retention).map_err(unavailable("pruning"));
    let signals = store.writer.run("pruning", prune).await?;
    backlog::refresh(store).await?;
    history::note_waiting(store).await?;
    let path = store.read_pool.path().to_owned();
    if wal_bytes(&path) > WAL_MAX {
        let truncated = tokio::task::spawn_blocking(move || truncate_wal(&path)).await;
        let tried = "cutting the write-ahead log";
        truncated
            .map_err(|source| StoreError::Unavailable { tried, source: source.into() })?
            .map_err(unavailable(tried))?;
    }
    let changed = operate_flow::run_due_jobs(store, log_failed_job).await?;
    Ok(MaintenanceReport { changed, items: items as u64, signals, is_more: items >= ITEMS_MAX })
}

fn log_failed_job(job: JobId, error: &StoreError) {
    tracing::error!(%job, %error, "a job's batch failed; the job is tried again");
}

/// Deletes at most `limit` items of the place that retention no longer keeps, a few in each transaction. Looks for them
/// beside the writer. Returns how many it deleted.
async fn prune_old(
    store: &SqliteStore,
    place: &'static FinishedPlace,
    look: &RetentionLook,
    age: Option<Duration>,
    limit: usize,
) -> Result<usize, StoreError> {
    let Some(age) = age.filter(|_| limit > 0) else { return Ok(0) };
    let (before, after) = ((store.clock)().saturating_sub(age), look.position());
    let read = store.read_pool.run("looking for old items", move |tx| finished_items(tx, place, before, after)).await?;
    let mut deleted = 0;
    for step in look.take(&read, limit).chunks(STEP_ITEMS) {
        let old = step.to_vec();
        let prune = move |tx: &mut WriteTx<'_>| prune_items(tx, place, before, &old).map_err(unavailable("pruning"));
        deleted += store.writer.run("pruning", prune).await?;
    }
    Ok(deleted)
}

/// The finished items after the position, in the order in which they were finished, at most [`ROWS_MAX`].
fn finished_items(
    tx: &Connection,
    place: &FinishedPlace,
    before: Millis,
    (at, id): Position,
) -> rusqlite::Result<Vec<FinishedItem>> {
    let (before, at) = (before.get(), at.get());
    let mut items = read_finished(tx, &finished_then(place), params![before, at, ROWS_MAX, id.get()])?;
    let left = i64::from(ROWS_MAX) - i64::try_from(items.len()).unwrap_or(i64::MAX);
    items.extend(read_finished(tx, &finished_later(place), params![before, at, left])?);
    Ok(items)
}

fn read_finished(tx: &Connection, sql: &str, values: impl Params) -> rusqlite::Result<Vec<FinishedItem>> {
    let read = |row: &Row<'_>| {
        let position = (time(row, 1)?, ItemId::new(row.get(0)?));
        Ok(FinishedItem { position, is_free: row.get(2)? })
    };
    tx.prepare_cached(sql)?.query_map(values, read)?.collect()
}

/// Deletes old signals, jobs, audit entries and rows of the history, and returns free pages. Returns how many signals it deleted.
fn prune_others(tx: &mut WriteTx<'_>, retention: Retention) -> rusqlite::Result<u64> {
    let now = tx.now;
    let before = |age: Duration| now.saturating_sub(age);
    retention.audit.map_or(Ok(()), |age| audit::prune(tx, before(age)))?;
    retention.history.map_or(Ok(()), |age| history::prune(tx, before(age)))?;
    let signals = match retention.signals.map(before) {
        Some(before) => {
            prune_jobs(tx, before)?;
            prune_alerts(tx, before)?;
            prune_signals(tx, before)?
        }
        None => 0,
    };
    vacuum(tx.connection)?;
    Ok(signals)
}

/// Where finished items are.
struct FinishedPlace {
    table: &'static str,
    finished_at: &'static str,
}

const DONE: FinishedPlace = FinishedPlace { table: "outbox_done", finished_at: "done_at" };
const DEAD: FinishedPlace = FinishedPlace { table: "outbox_dead", finished_at: "dead_at" };

/// Deletes those of the items that are still free and were finished before `before`. The items of a saga run are deleted
/// once the run has ended and that long ago. The schema's delete trigger takes along what belongs to an item, and finds
/// the front of a key that the item blocked. Returns how many it deleted.
fn prune_items(tx: &mut WriteTx<'_>, place: &FinishedPlace, before: Millis, old: &[ItemId]) -> rusqlite::Result<usize> {
    let mut check = tx.connection.prepare_cached(&still_free(place))?;
    let mut delete = tx.connection.prepare_cached("DELETE FROM outbox_items WHERE id = ?1")?;
    let mut deleted = 0;
    for id in old.iter().map(|id| id.get()) {
        if check.exists(params![before.get(), id])? {
            deleted += delete.execute([id])?;
        }
    }
    // An item that blocked its key may have been among them.
    tx.wakes_workers |= place.table == DEAD.table && deleted > 0;
    Ok(deleted)
}

/// SQL that tells whether no run of a saga keeps the `finished` item. It reads an index, and not past the payload of the
/// item.
const IS_FREE: &str = "NOT EXISTS (
         SELECT 1 FROM outbox_items AS step INDEXED BY outbox_items_linked
         WHERE step.id = finished.id AND step.saga IS NOT NULL
           AND (EXISTS (SELECT 1 FROM outbox_saga_open AS open WHERE open.saga = step.saga AND open.cid = step.cid)
                OR EXISTS (
                    SELECT 1 FROM outbox_sagas AS run
                    WHERE run.saga = step.saga AND run.cid = step.cid AND coalesce(run.ended_at, ?1) >= ?1)))";

fn finished_then(FinishedPlace { table, finished_at }: &FinishedPlace) -> String {
    format!(
        "SELECT item.id, finished.{finished_at}, {IS_FREE}
         FROM {table} AS finished CROSS JOIN outbox_items AS item ON item.id = finished.id
         WHERE finished.{finished_at} = ?2 AND ?2 < ?1 AND finished.id > ?4
         ORDER BY finished.id LIMIT ?3"
    )
}

fn finished_later(FinishedPlace { table, finished_at }: &FinishedPlace) -> String {
    format!(
        "SELECT item.id, finished.{finished_at}, {IS_FREE}
         FROM {table} AS finished CROSS JOIN outbox_items AS item ON item.id = finished.id
         WHERE finished.{finished_at} > ?2 AND finished.{finished_at} < ?1
         ORDER BY finished.{finished_at}, finished.id LIMIT ?3"
    )
}

fn still_free(FinishedPlace { table, finished_at }: &FinishedPlace) -> String {
    format!(
        "SELECT 1 FROM {table} AS finished JOIN outbox_items AS item ON item.id = finished.id
         WHERE finished.id = ?2 AND finished.{finished_at} < ?1 AND {IS_FREE}"
    )
}

/// Deletes old signals. Reads the oldest numbers only, because numbers ascend with time. Returns how many it deleted.
fn prune_signals(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<u64> {
    let sql = "DELETE FROM outbox_signals
               WHERE ts < ?1 AND seq IN (SELECT seq FROM outbox_signals ORDER BY seq LIMIT ?2)";
    Ok(tx.connection.prepare_cached(sql)?.execute(params![before.get(), PRUNE_SIGNALS])? as u64)
}

/// Deletes finished jobs. Reads the oldest only. The newest job stays, because items refer to its number.
fn prune_jobs(tx: &WriteTx<'_>, before: Millis) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM outbox_jobs
               WHERE ended_at < ?1 AND id < (SELECT max(id) FROM outbox_jobs)
                 AND id IN (SELECT id FROM outbox_jobs ORDER BY id LIMIT ?2)";
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
        for (place, index) in [(&DONE, "outbox_done_at (done_at"), (&DEAD, "outbox_dead_at (dead_at")] {
            let then = (plan(&finished_then(place), params![9, 1, 9, 1]), "=? AND rowid>?)");
            let later = (plan(&finished_later(place), params![9, 1, 9]), ">? AND ");
            for (steps, range) in [then, later] {
                assert!(steps.iter().any(|line| line.contains(index) && line.contains(range)), "{steps:?}");
                assert!(!steps.iter().any(|line| line.contains("TEMP B-TREE")), "{steps:?}");
                let probe = "SEARCH open USING PRIMARY KEY (saga=? AND cid=?)";
                assert!(steps.iter().any(|line| line.contains(probe)), "what is left of a saga is one look: {steps:?}");
                let step = "SEARCH step USING COVERING INDEX outbox_items_linked";
                assert!(steps.iter().any(|line| line.contains(step)), "no payload is read past: {steps:?}");
            }
        }
    }
}
