//! Bulk actions: a job remembers which items it is about and how far it is, so that any process can go
//! on with it, after any crash.
//!
//! A batch is found on a reading connection and made on the writer, which checks each item again. Ids
//! only ascend, so no item is taken twice; `epoch` on the item says whether it has been in its status
//! since before the job began, whatever the clocks say. A batch, its audit entry and the job's progress
//! are one transaction.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::operate::change_batch;
use crate::queries::bound;
use crate::write_tx::WriteTx;
use crate::{SqliteStore, queries, unavailable};
use outbox_item::{ItemId, Millis};
use outbox_store::engine::operator_actions::{ActionContext, restrict_to_applicable};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::{Filter, Job, JobId, JobState, OperateReport, OperateRequest, Selection, StoreError};

/// SQL for the number of the newest job: written on an item whenever its status changes.
pub(crate) const NEWEST_JOB_SQL: &str = "(SELECT coalesce(max(id), 0) FROM outbox_jobs)";

/// The columns that [`decode`] reads, in its order.
const COLUMNS: &str = "id, action, filter, actor, reason, per_second, state, began_at, ended_at, next_at, position, \
     last_id, matched, changed, refused, sample, refusals";

/// Runs an order as a job, to its end.
pub(crate) async fn run(store: &SqliteStore, request: &OperateRequest) -> Result<OperateReport, StoreError> {
    let mut job = start(store, request, None).await?;
    while job.state == JobState::Running {
        tokio::time::sleep(job.delay_until_next_batch((store.clock)())).await;
        let Some(advanced) = run_batch(store, job.id).await? else { break };
        job = advanced;
    }
    Ok(job.into_report())
}

pub(crate) async fn start(
    store: &SqliteStore,
    request: &OperateRequest,
    per_second: Option<u32>,
) -> Result<Job, StoreError> {
    let Selection::Filter(filter) = &request.selection else {
        return Err(StoreError::Unusable("a job is about a filter: give ids to an order without one".into()));
    };
    let filter = restrict_to_applicable(filter, request.action);
    let counted = filter.clone();
    let matched = store.read_pool.run("counting what a job is about", move |tx| count(tx, &counted)).await?;
    let request = request.clone();
    let insert = move |tx: &mut WriteTx<'_>| insert(tx, &request, &filter, per_second, matched);
    store.writer.run("beginning a job", move |tx| insert(tx).map_err(unavailable("beginning a job"))).await
}

fn count(tx: &Connection, filter: &Filter) -> rusqlite::Result<u64> {
    let condition = SqlFilter::from_filter(filter);
    let sql = format!("SELECT count(*) FROM outbox_items WHERE {}", condition.sql);
    tx.prepare_cached(&sql)?.query_row(&*bound(&condition.params), |row| row.get(0))
}

fn insert(
    tx: &mut WriteTx<'_>,
    request: &OperateRequest,
    filter: &Filter,
    per_second: Option<u32>,
    matched: u64,
) -> rusqlite::Result<Job> {
    let mut insert = tx.connection.prepare_cached(&format!(
        "INSERT INTO outbox_jobs (action, filter, actor, reason, per_second, began_at, next_at, last_id, matched)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, (SELECT coalesce(max(id), 0) FROM outbox_items), ?7)
         RETURNING {COLUMNS}"
    ))?;
    let (action, filter) = (json!(request.action).to_string(), json!(filter).to_string());
    let values = params![action, filter, request.actor, request.reason, per_second, tx.now, matched];
    insert.query_row(values, decode)
}

pub(crate) async fn run_batch(store: &SqliteStore, id: JobId) -> Result<Option<Job>, StoreError> {
    let now = (store.clock)();
    let Some((job, ids)) = store.read_pool.run("finding a job's next items", move |tx| next_batch(tx, id, now)).await?
    else {
        return Ok(None);
    };
    let Some(ids) = ids else { return Ok(Some(job)) };
    let apply = move |tx: &mut WriteTx<'_>| apply_batch(tx, &job, &ids).map_err(unavailable("making a job's batch"));
    store.writer.run("making a job's batch", apply).await
}

/// The job, with the ids of its next batch if one may be made now.
fn next_batch(tx: &Connection, id: JobId, now: Millis) -> rusqlite::Result<Option<(Job, Option<Vec<ItemId>>)>> {
    let Some(job) = read(tx, id)? else { return Ok(None) };
    if job.state != JobState::Running || job.next_at > now {
        return Ok(Some((job, None)));
    }
    let mut condition = SqlFilter::from_filter(&job.filter);
    condition.and("id > ?", Some(job.scanned_up_to));
    condition.and("id <= ?", Some(job.last_id));
    condition.and("epoch < ?", Some(job.id));
    let ids = queries::ids(tx, &condition, job.batch_size())?;
    Ok(Some((job, Some(ids))))
}

/// Makes the batch, unless another process has made it, or the job was cancelled.
fn apply_batch(tx: &mut WriteTx<'_>, job: &Job, ids: &[ItemId]) -> rusqlite::Result<Option<Job>> {
    let mut claim = tx
        .connection
        .prepare_cached("UPDATE outbox_jobs SET position = ?3 WHERE id = ?1 AND position = ?2 AND state = 'RUNNING'")?;
    // A last batch of a job whose every id was looked at leaves the position where it is.
    if claim.execute(params![job.id, job.scanned_up_to, job.scanned_up_to_after(ids)])? == 0 {
        return read(tx.connection, job.id);
    }
    let selection = |_: &[_]| json!({ "filter": job.filter });
    let outcomes = change_batch(tx, &ActionContext::for_job(job), ids, Some(job.statuses()), selection)?;
    let (after, wait) = job.after_batch(outcomes);
    write_progress(tx, &after, wait, job.is_last_batch(ids))?;
    read(tx.connection, job.id)
}

fn write_progress(tx: &WriteTx<'_>, job: &Job, wait: Millis, is_last: bool) -> rusqlite::Result<()> {
    let mut update = tx.connection.prepare_cached(
        "UPDATE outbox_jobs
         SET changed = ?2, refused = ?3, sample = ?4, refusals = ?5, next_at = ?6 + ?7,
             state = CASE WHEN ?8 THEN 'DONE' ELSE state END, ended_at = CASE WHEN ?8 THEN ?6 END
         WHERE id = ?1",
    )?;
    let (sample, refusals) = (json!(job.sample).to_string(), json!(job.refusals).to_string());
    update.execute(params![job.id, job.changed, job.refused, sample, refusals, tx.now, wait, is_last]).map(|_| ())
}

/// The jobs that may go on now.
pub(crate) fn due(tx: &Connection, now: Millis) -> rusqlite::Result<Vec<JobId>> {
    let sql = "SELECT id FROM outbox_jobs WHERE state = 'RUNNING' AND next_at <= ?1 ORDER BY id";
    tx.prepare_cached(sql)?.query_map([now], |row| row.get(0))?.collect()
}

pub(crate) fn list(tx: &Connection, id: Option<JobId>, limit: u32) -> rusqlite::Result<Vec<Job>> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_jobs WHERE ?1 IS NULL OR id = ?1 ORDER BY id DESC LIMIT ?2");
    tx.prepare_cached(&sql)?.query_map(params![id, limit], decode)?.collect()
}

fn read(tx: &Connection, id: JobId) -> rusqlite::Result<Option<Job>> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_jobs WHERE id = ?1");
    tx.prepare_cached(&sql)?.query_row([id], decode).optional()
}

fn decode(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: row.get(0)?,
        action: json_column(row, 1)?,
        filter: json_column(row, 2)?,
        actor: row.get(3)?,
        reason: row.get(4)?,
        per_second: row.get(5)?,
        state: match row.get::<_, String>(6)?.as_str() {
            "RUNNING" => JobState::Running,
            "DONE" => JobState::Done,
            _ => JobState::Cancelled,
        },
        began_at: row.get(7)?,
        ended_at: row.get(8)?,
        next_at: row.get(9)?,
        scanned_up_to: row.get(10)?,
        last_id: row.get(11)?,
        matched: row.get(12)?,
        changed: row.get(13)?,
        refused: row.get(14)?,
        sample: json_column(row, 15)?,
        refusals: json_column(row, 16)?,
    })
}

fn json_column<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let json: String = row.get(column)?;
    let failed = |err| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(err));
    serde_json::from_str(&json).map_err(failed)
}
