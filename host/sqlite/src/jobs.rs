//! Bulk jobs in the table `outbox_jobs`: which items a job is about and how far it is, so that any process can go on
//! with it after a crash.
//!
//! A batch is found on a reading connection and made on the writer, which checks each item again. Ids only ascend, so
//! no item is taken twice. The column `epoch` of an item's place says whether the item has been there since before the
//! job began, whatever the clocks say. A batch, its audit entry and the job's progress are one transaction. When
//! batches run is not known here.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use outbox_item::{ItemId, Millis};
use outbox_store::engine::operator_actions::{ActionContext, job_filter, matched_nothing};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::stored::{RowName, parse_word};
use outbox_store::engine::{JobBatch, JobProgress, JobStep, JobVerdict, WATCH_PAUSE};
use outbox_store::{DeadCause, Filter, Job, JobId, JobOutcome, JobPace, JobState, OperateRequest, StoreError};

use crate::error::{unavailable, unusable};
use crate::id_search::ids;
use crate::operate::change_batch;
use crate::rows::{cell, json_column, optional_time, time};
use crate::write_tx::WriteTx;
use crate::{SqliteStore, audit, content, queries};

/// The columns that [`decode`] reads, in its order.
const COLUMNS: &str = "id, action, filter, actor, reason, per_second, state, began_at, ended_at, next_at, position, \
     last_id, matched, changed, refused, sample, refusals, stop_after";

/// Records a job; makes no batch.
pub(crate) async fn start(
    store: &SqliteStore,
    request: &OperateRequest,
    pace: JobPace,
) -> Result<Option<Job>, StoreError> {
    let asked = job_filter(request)?;
    let select = move |tx: &rusqlite::Transaction<'_>| select(tx, asked.clone());
    let (filter, matched) = store.read_pool.run("counting what a job is about", select).await?;
    let request = request.clone();
    let insert = move |tx: &mut WriteTx<'_>| {
        if matched == 0 {
            audit::append(tx, &matched_nothing(&request, &filter))?;
            return Ok(None);
        }
        insert(tx, &request, &filter, pace, matched).map(Some)
    };
    store.writer.run("beginning a job", move |tx| insert(tx).map_err(unavailable("beginning a job"))).await
}

/// The filter of the job, which names the items of a sample, and how many items match it.
fn select(tx: &Connection, asked: Filter) -> rusqlite::Result<(Filter, u64)> {
    if asked.sample.is_none() {
        let matched = queries::count(tx, &asked)?;
        return Ok((asked, matched));
    }
    let chosen = queries::matching(tx, &asked)?;
    let matched = chosen.len() as u64;
    Ok((asked.of_sample(chosen), matched))
}

fn insert(
    tx: &mut WriteTx<'_>,
    request: &OperateRequest,
    filter: &Filter,
    pace: JobPace,
    matched: u64,
) -> rusqlite::Result<Job> {
    let mut insert = tx.connection.prepare_cached(&format!(
        "INSERT INTO outbox_jobs (action, filter, actor, reason, per_second, began_at, next_at, last_id, matched, stop_after)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, (SELECT coalesce(max(id), 0) FROM outbox_items), ?7, ?8)
         RETURNING {COLUMNS}"
    ))?;
    let (action, filter) = (json!(request.action).to_string(), json!(filter).to_string());
    let JobPace { per_second, stop_after } = pace;
    let values = params![action, filter, request.actor, request.reason, per_second, tx.now.get(), matched, stop_after];
    insert.query_row(values, decode)
}

/// Makes the job's next batch, unless its rate says not yet. `None` when there is no such job.
pub(crate) async fn run_batch(store: &SqliteStore, id: JobId) -> Result<Option<Job>, StoreError> {
    let now = (store.clock)();
    let next = move |tx: &rusqlite::Transaction<'_>| next_step(tx, id, now);
    let Some((job, step)) = store.read_pool.run("finding a job's next items", next).await? else { return Ok(None) };
    if step == JobStep::None {
        return Ok(Some(job));
    }
    let apply = move |tx: &mut WriteTx<'_>| {
        let taken = match &step {
            JobStep::None => read(tx.connection, job.id),
            JobStep::Wait => wait(tx, &job),
            JobStep::Stop => stop(tx, &job),
            JobStep::Batch(batch) => apply_batch(tx, &job, batch),
        };
        taken.map_err(unavailable("making a job's batch"))
    };
    store.writer.run("making a job's batch", apply).await
}

/// The job, with what it does now.
fn next_step(tx: &Connection, id: JobId, now: Millis) -> rusqlite::Result<Option<(Job, JobStep)>> {
    let Some(job) = read(tx, id)? else { return Ok(None) };
    if job.state != JobState::Running || job.next_at > now {
        return Ok(Some((job, JobStep::None)));
    }
    let verdict = if job.stop_after.is_some() { job.verdict(&outcome(tx, id)?) } else { JobVerdict::GoOn };
    let step = match verdict {
        JobVerdict::Wait => JobStep::Wait,
        JobVerdict::Stop => JobStep::Stop,
        JobVerdict::GoOn => JobStep::Batch(next_batch(tx, &job)?),
    };
    Ok(Some((job, step)))
}

fn next_batch(tx: &Connection, job: &Job) -> rusqlite::Result<JobBatch> {
    let mut condition = SqlFilter::in_order_of_ids(&job.filter);
    condition.and("id > ?", Some(job.scanned_up_to));
    condition.and("id <= ?", Some(job.last_id));
    condition.and("epoch < ?", Some(job.id));
    let looked_at = ids(tx, &condition, job.batch_size())?;
    let mut matching = content::retain(tx, &job.filter, looked_at.clone())?;
    matching.truncate(job.untried());
    Ok(job.batch_of(&looked_at, matching, None))
}

/// Lets the job look again later.
fn wait(tx: &WriteTx<'_>, job: &Job) -> rusqlite::Result<Option<Job>> {
    let sql = "UPDATE outbox_jobs SET next_at = ?2 WHERE id = ?1 AND state = 'RUNNING'";
    tx.connection.prepare_cached(sql)?.execute([job.id.get(), tx.now.saturating_add(WATCH_PAUSE).get()])?;
    read(tx.connection, job.id)
}

fn stop(tx: &WriteTx<'_>, job: &Job) -> rusqlite::Result<Option<Job>> {
    let sql = "UPDATE outbox_jobs SET state = 'STOPPED', ended_at = ?2 WHERE id = ?1 AND state = 'RUNNING'";
    tx.connection.prepare_cached(sql)?.execute([job.id.get(), tx.now.get()])?;
    read(tx.connection, job.id)
}

/// Makes the batch, unless another process has made it, or the job was cancelled.
fn apply_batch(tx: &mut WriteTx<'_>, job: &Job, batch: &JobBatch) -> rusqlite::Result<Option<Job>> {
    let mut claim = tx
        .connection
        .prepare_cached("UPDATE outbox_jobs SET position = ?3 WHERE id = ?1 AND position = ?2 AND state = 'RUNNING'")?;
    // A last batch of a job whose every id was looked at leaves the position where it is.
    if claim.execute([job.id.get(), job.scanned_up_to.get(), batch.up_to.get()])? == 0 {
        return read(tx.connection, job.id);
    }
    let outcomes = change_batch(tx, &ActionContext::of_job(job), &batch.matching)?;
    write_progress(tx, &job.progress_after(batch, outcomes))?;
    read(tx.connection, job.id)
}

fn write_progress(tx: &WriteTx<'_>, progress: &JobProgress) -> rusqlite::Result<()> {
    let mut update = tx.connection.prepare_cached(
        "UPDATE outbox_jobs
         SET changed = ?2, refused = ?3, sample = ?4, refusals = ?5, next_at = ?6 + ?7,
             state = CASE WHEN ?8 THEN 'DONE' ELSE state END, ended_at = CASE WHEN ?8 THEN ?6 END
         WHERE id = ?1",
    )?;
    let JobProgress { job, delay, is_last } = progress;
    let (sample, refusals) = (json!(job.sample).to_string(), json!(job.refusals).to_string());
    let values = params![job.id.get(), job.changed, job.refused, sample, refusals, tx.now.get(), delay, is_last];
    update.execute(values).map(|_| ())
}

/// The running jobs whose next batch may be made at `now`, oldest first.
pub(crate) fn due(tx: &Connection, now: Millis) -> rusqlite::Result<Vec<JobId>> {
    let sql = "SELECT id FROM outbox_jobs WHERE state = 'RUNNING' AND next_at <= ?1 ORDER BY id";
    tx.prepare_cached(sql)?.query_map([now.get()], |row| cell(row, 0).map(JobId::new))?.collect()
}

/// The newest jobs, or only this one.
pub(crate) fn list(tx: &Connection, id: Option<JobId>, limit: u32) -> rusqlite::Result<Vec<Job>> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_jobs WHERE ?1 IS NULL OR id = ?1 ORDER BY id DESC LIMIT ?2");
    let mut select = tx.prepare_cached(&sql)?;
    let mut rows = select.query(params![id.map(JobId::get), limit])?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        match decode(row) {
            Ok(job) => jobs.push(job),
            // One that is asked for by its number is an error.
            Err(err) if id.is_some() => return Err(err),
            Err(err) => tracing::warn!(error = %unavailable("listing jobs")(err), "a job is left out of the list"),
        }
    }
    Ok(jobs)
}

/// SQL: how many of the items that the job changed are where, by the group of their failure. Of an item that an
/// operator has replayed since, its status before that: the audit trail has it.
const OUTCOME: &str = "WITH changed AS (
        SELECT item_id, max(seq) AS seq FROM outbox_audit_items
        WHERE seq IN (SELECT seq FROM outbox_audit WHERE job = $1) GROUP BY item_id),
    ended AS (
        SELECT changed.item_id, min(later.seq) AS seq
        FROM changed JOIN outbox_audit_items AS later ON later.item_id = changed.item_id AND later.seq > changed.seq
             JOIN outbox_audit AS entry ON entry.seq = later.seq
        WHERE entry.action = 'replay' GROUP BY changed.item_id),
    former AS (
        SELECT change.value ->> '$.id' AS item_id, entry.seq, change.value ->> '$.before.status' AS status
        FROM (SELECT DISTINCT seq FROM ended) AS end CROSS JOIN outbox_audit AS entry ON entry.seq = end.seq
             CROSS JOIN json_each(entry.changes) AS change)
    SELECT place, fingerprint, count(*), max(id) FROM (
        SELECT changed.item_id AS id,
               CASE WHEN former.status IS NOT NULL THEN former.status
                    WHEN EXISTS (SELECT 1 FROM outbox_done WHERE id = changed.item_id) THEN 'done'
                    WHEN EXISTS (SELECT 1 FROM outbox_dead WHERE id = changed.item_id) THEN 'dead'
                    WHEN EXISTS (SELECT 1 FROM outbox_items WHERE id = changed.item_id) THEN 'waiting'
                    ELSE 'gone' END AS place,
               CASE WHEN former.status IS NULL
                    THEN (SELECT fingerprint FROM outbox_dead WHERE id = changed.item_id) END AS fingerprint
        FROM changed LEFT JOIN ended ON ended.item_id = changed.item_id
             LEFT JOIN former ON former.item_id = ended.item_id AND former.seq = ended.seq) AS item
    GROUP BY place, fingerprint ORDER BY count(*) DESC, fingerprint";

/// What became of the items that the job changed.
pub(crate) fn outcome(tx: &Connection, id: JobId) -> rusqlite::Result<JobOutcome> {
    let mut outcome = JobOutcome::default();
    let mut select = tx.prepare_cached(OUTCOME)?;
    let mut rows = select.query([id.get()])?;
    while let Some(row) = rows.next()? {
        let (place, count): (String, u64) = (row.get(0)?, row.get(2)?);
        outcome.count(&place, count);
        if let Some(fingerprint) = row.get(1)? {
            let sample = ItemId::new(row.get(3)?);
            let sql = "SELECT last_error FROM outbox_dead WHERE id = ?1";
            let message = tx.prepare_cached(sql)?.query_row([sample.get()], |row| row.get(0)).optional()?;
            outcome.causes.push(DeadCause { fingerprint, count, sample, message });
        }
    }
    Ok(outcome)
}

fn read(tx: &Connection, id: JobId) -> rusqlite::Result<Option<Job>> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_jobs WHERE id = ?1");
    tx.prepare_cached(&sql)?.query_row([id.get()], decode).optional()
}

/// How errors name the row of a job.
const JOB: &str = "job";

fn decode(row: &Row<'_>) -> rusqlite::Result<Job> {
    let number = cell(row, 0)?;
    let state: String = cell(row, 6)?;
    Ok(Job {
        id: JobId::new(number),
        action: json_column(row, 1, "action", JOB)?,
        filter: json_column(row, 2, "filter", JOB)?,
        actor: cell(row, 3)?,
        reason: cell(row, 4)?,
        per_second: cell(row, 5)?,
        stop_after: cell::<Option<u32>>(row, 17)?.and_then(|percent| u8::try_from(percent).ok()),
        state: parse_word(&state, RowName::new(JOB, number), "state").map_err(unusable)?,
        began_at: time(row, 7)?,
        ended_at: optional_time(row, 8)?,
        next_at: time(row, 9)?,
        scanned_up_to: ItemId::new(cell(row, 10)?),
        last_id: ItemId::new(cell(row, 11)?),
        matched: cell(row, 12)?,
        changed: cell(row, 13)?,
        refused: cell(row, 14)?,
        sample: json_column(row, 15, "sample", JOB).unwrap_or_default(),
        refusals: json_column(row, 16, "refusals", JOB).unwrap_or_default(),
    })
}
