//! Bulk jobs in the table `outbox.jobs`: which items a job is about and how far it is, so that any process can go on
//! with it after a crash.
//!
//! A batch is found by a read and made in a transaction of its own, which locks the job and checks each item again. Ids
//! only ascend, so no item is taken twice. The column `epoch` of an item's place says whether the item has been there
//! since before the job began, whatever the clocks say. A batch, its audit entry and the job's progress are one
//! transaction. When batches run is not known here.

use serde_json::json;
use tokio_postgres::Row;

use outbox_item::{ItemId, Millis};
use outbox_store::engine::operator_actions::{ActionContext, job_filter, matched_nothing};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::stored::{RowName, parse_word};
use outbox_store::engine::{JobBatch, JobProgress, JobStep, JobVerdict, WATCH_PAUSE};
use outbox_store::{DeadCause, Filter, Job, JobId, JobOutcome, JobPace, JobState, OperateRequest, StoreError};

use crate::context::PgContext;
use crate::error::PgError;
use crate::item_query::{self, ItemQuery, RangeLook};
use crate::operate::change_batch;
use crate::rows::{json_column, optional_time, time, unsigned, values};
use crate::tx::{Query, ReadTx, WriteTx, without_nul};
use crate::{PostgresStore, audit, content, queries};

/// The columns that [`decode`] reads, in its order.
const COLUMNS: &str = "id, action::text, filter::text, actor, reason, per_second, state, began_at, ended_at, next_at, \
     position, last_id, matched, changed, refused, sample::text, refusals::text, stop_after";

/// Records a job; makes no batch.
pub(crate) async fn start(
    store: &PostgresStore,
    request: &OperateRequest,
    pace: JobPace,
) -> Result<Option<Job>, StoreError> {
    let (pg, asked) = (&*store.pg, job_filter(request)?);
    let (filter, matched) = read!(pg, "counting what a job is about", |tx| select(tx, &asked))?;
    if matched == 0 {
        let entry = matched_nothing(request, &filter);
        transact!(pg, "recording an order", |tx| audit::append(tx, &entry))?;
        return Ok(None);
    }
    transact!(pg, "beginning a job", |tx| insert(tx, request, &filter, pace, matched)).map(Some)
}

/// The filter of the job, which names the items of a sample, and how many items match it.
async fn select(tx: &impl Query, asked: &Filter) -> Result<(Filter, i64), PgError> {
    if asked.sample.is_none() {
        return Ok((asked.clone(), count(tx, asked).await?));
    }
    let chosen = queries::matching(tx, asked).await?;
    let matched = i64::try_from(chosen.len()).unwrap_or(i64::MAX);
    Ok((asked.of_sample(chosen), matched))
}

async fn count(tx: &impl Query, filter: &Filter) -> Result<i64, PgError> {
    filter.validate()?;
    if filter.reads_content() {
        return Ok(i64::try_from(queries::matching(tx, filter).await?.len()).unwrap_or(i64::MAX));
    }
    let condition = SqlFilter::from_filter(filter);
    let statement = format!("SELECT count(*) FROM outbox.status WHERE {}", condition.sql);
    let rows = tx.rows(&statement, &values(&condition)).await?;
    let counted = unsigned(rows.first().ok_or(PgError::LostRace)?, 0)?;
    Ok(i64::try_from(filter.taken_of(counted)).unwrap_or(i64::MAX))
}

async fn insert(
    tx: &WriteTx<'_>,
    request: &OperateRequest,
    filter: &Filter,
    pace: JobPace,
    matched: i64,
) -> Result<Job, PgError> {
    let statement = format!(
        "INSERT INTO outbox.jobs (action, filter, actor, reason, per_second, began_at, next_at, last_id, matched,
                                  stop_after)
         VALUES ($1::text::json, $2::text::json, $3, $4, $5::bigint, $6::bigint, $6::bigint,
                 (SELECT coalesce(max(id), 0) FROM outbox.items), $7, $8::bigint)
         RETURNING {COLUMNS}"
    );
    let (action, filter) = (json!(request.action).to_string(), json!(filter).to_string());
    let (actor, reason) = (without_nul(&request.actor), request.reason.as_deref().map(without_nul));
    let (per_second, stop_after) = (pace.per_second.map(i64::from), pace.stop_after.map(i64::from));
    let now = tx.now.get();
    let rows =
        tx.rows(&statement, &[&action, &filter, &actor, &reason, &per_second, &now, &matched, &stop_after]).await?;
    decode(rows.first().ok_or(PgError::LostRace)?)
}

/// Makes the job's next batch, unless its rate says not yet. `None` when there is no such job.
pub(crate) async fn run_batch(store: &PostgresStore, id: JobId) -> Result<Option<Job>, StoreError> {
    let (pg, now) = (&*store.pg, store.pg.now().await?);
    let Some((job, step)) = read!(pg, "finding a job's next items", |tx| next_step(tx, id, now))? else {
        return Ok(None);
    };
    match step {
        JobStep::None => Ok(Some(job)),
        JobStep::Wait => transact!(pg, "letting a job wait", |tx| wait(tx, &job)),
        JobStep::Stop => transact!(pg, "stopping a job", |tx| stop(tx, &job)),
        JobStep::Batch(batch) => transact!(pg, "making a job's batch", |tx| apply_batch(tx, &job, &batch)),
    }
}

/// The job, with what it does now.
async fn next_step(tx: &ReadTx<'_>, id: JobId, now: Millis) -> Result<Option<(Job, JobStep)>, PgError> {
    let Some(job) = read(tx, id).await? else { return Ok(None) };
    if job.state != JobState::Running || job.next_at > now {
        return Ok(Some((job, JobStep::None)));
    }
    let verdict = if job.stop_after.is_some() { job.verdict(&outcome(tx, id).await?) } else { JobVerdict::GoOn };
    let step = match verdict {
        JobVerdict::Wait => JobStep::Wait,
        JobVerdict::Stop => JobStep::Stop,
        JobVerdict::GoOn => JobStep::Batch(next_batch(tx, &job).await?),
    };
    Ok(Some((job, step)))
}

/// SQL: the next items are read in the order of the ids, from where the last batch ended. By statistics that are older
/// than the job's own changes the server would collect and sort all items of the type for each batch.
const IN_ORDER: &str = "SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off";

async fn next_batch(tx: &ReadTx<'_>, job: &Job) -> Result<JobBatch, PgError> {
    let mut query = ItemQuery::with(&job.filter, SqlFilter::one_by_one(&job.filter));
    query.condition.and("epoch < ?", Some(job.id));
    tx.set(IN_ORDER).await?;
    let range = (job.scanned_up_to, job.last_id);
    let RangeLook { up_to, found } = item_query::look(tx, &query, range, job.batch_size()).await?;
    let mut matching = content::retain(tx, &job.filter, found.clone()).await?;
    matching.truncate(job.untried());
    Ok(job.batch_of(&found, matching, Some(up_to).filter(|up_to| *up_to < job.last_id)))
}

/// Lets the job look again later.
async fn wait(tx: &WriteTx<'_>, job: &Job) -> Result<Option<Job>, PgError> {
    let statement = "UPDATE outbox.jobs SET next_at = $2 WHERE id = $1 AND state = 'RUNNING'";
    tx.rows(statement, &[&job.id.get(), &tx.now.saturating_add(WATCH_PAUSE).get()]).await?;
    read(tx, job.id).await
}

async fn stop(tx: &WriteTx<'_>, job: &Job) -> Result<Option<Job>, PgError> {
    let statement = "UPDATE outbox.jobs SET state = 'STOPPED', ended_at = $2 WHERE id = $1 AND state = 'RUNNING'";
    tx.rows(statement, &[&job.id.get(), &tx.now.get()]).await?;
    read(tx, job.id).await
}

/// Makes the batch, unless another process makes it or has made it, or the job was cancelled. Waits for no other process.
async fn apply_batch(tx: &mut WriteTx<'_>, job: &Job, batch: &JobBatch) -> Result<Option<Job>, PgError> {
    let claim = "UPDATE outbox.jobs SET position = $3
                 WHERE id = (SELECT id FROM outbox.jobs WHERE id = $1 AND position = $2 AND state = 'RUNNING'
                             FOR UPDATE SKIP LOCKED)
                 RETURNING id";
    // A last batch of a job whose every id was looked at leaves the position where it is.
    let (from, to) = (job.scanned_up_to.get(), batch.up_to.get());
    if tx.rows(claim, &[&job.id.get(), &from, &to]).await?.is_empty() {
        return read(tx, job.id).await;
    }
    let outcomes = change_batch(tx, &ActionContext::of_job(job), &batch.matching).await?;
    write_progress(tx, &job.progress_after(batch, outcomes)).await?;
    read(tx, job.id).await
}

async fn write_progress(tx: &WriteTx<'_>, progress: &JobProgress) -> Result<(), PgError> {
    let JobProgress { job, delay, is_last } = progress;
    let statement = "UPDATE outbox.jobs
        SET changed = $2, refused = $3, sample = $4::text::json, refusals = $5::text::json,
            next_at = $6::bigint + $7::bigint, state = CASE WHEN $8 THEN 'DONE' ELSE state END,
            ended_at = CASE WHEN $8 THEN $6::bigint END
        WHERE id = $1";
    let (sample, refusals) = (json!(job.sample).to_string(), json!(job.refusals).to_string());
    let [changed, refused] = [job.changed, job.refused].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let id = job.id.get();
    tx.rows(statement, &[&id, &changed, &refused, &sample, &refusals, &tx.now.get(), delay, is_last]).await.map(drop)
}

/// The running jobs whose next batch may be made at `now`, oldest first.
pub(crate) async fn due(tx: &impl Query, now: Millis) -> Result<Vec<JobId>, PgError> {
    let statement = "SELECT id FROM outbox.jobs WHERE state = 'RUNNING' AND next_at <= $1 ORDER BY id";
    tx.rows(statement, &[&now.get()]).await?.iter().map(|row| Ok(JobId::new(row.try_get(0)?))).collect()
}

/// The newest jobs, or only this one.
pub(crate) async fn list(tx: &impl Query, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, PgError> {
    let statement =
        format!("SELECT {COLUMNS} FROM outbox.jobs WHERE $1::bigint IS NULL OR id = $1 ORDER BY id DESC LIMIT {limit}");
    let mut jobs = Vec::new();
    for row in &tx.rows(&statement, &[&id.map(JobId::get)]).await? {
        match decode(row) {
            Ok(job) => jobs.push(job),
            // One that is asked for by its number is an error.
            Err(err) if id.is_some() => return Err(err),
            Err(err) => tracing::warn!(error = err.message(), "a job is left out of the list"),
        }
    }
    Ok(jobs)
}

/// SQL: how many of the items that the job changed are where, by the group of their failure. Of an item that an
/// operator has replayed since, its status before that: the audit trail has it.
const OUTCOME: &str = "WITH changed AS (
        SELECT item_id, max(seq) AS seq FROM outbox.audit_items
        WHERE seq IN (SELECT seq FROM outbox.audit WHERE job = $1) GROUP BY item_id),
    ended AS MATERIALIZED (
        SELECT changed.item_id, min(later.seq) AS seq
        FROM changed JOIN outbox.audit_items AS later ON later.item_id = changed.item_id AND later.seq > changed.seq
             JOIN outbox.audit AS entry ON entry.seq = later.seq
        WHERE entry.action = 'replay' GROUP BY changed.item_id),
    former AS MATERIALIZED (
        SELECT (change ->> 'id')::bigint AS item_id, entry.seq, change -> 'before' ->> 'status' AS status
        FROM outbox.audit AS entry CROSS JOIN LATERAL json_array_elements(entry.changes) AS change
        WHERE entry.seq IN (SELECT seq FROM ended))
    SELECT place, fingerprint COLLATE \"C\" AS fingerprint, count(*), max(id) FROM (
        SELECT changed.item_id AS id,
               CASE WHEN former.status IS NOT NULL THEN former.status
                    WHEN EXISTS (SELECT 1 FROM outbox.done WHERE id = changed.item_id) THEN 'done'
                    WHEN EXISTS (SELECT 1 FROM outbox.dead WHERE id = changed.item_id) THEN 'dead'
                    WHEN EXISTS (SELECT 1 FROM outbox.items WHERE id = changed.item_id) THEN 'waiting'
                    ELSE 'gone' END AS place,
               CASE WHEN former.status IS NULL
                    THEN (SELECT fingerprint FROM outbox.dead WHERE id = changed.item_id) END AS fingerprint
        FROM changed LEFT JOIN ended ON ended.item_id = changed.item_id
             LEFT JOIN former ON former.item_id = ended.item_id AND former.seq = ended.seq) AS item
    GROUP BY 1, 2 ORDER BY count(*) DESC, 2";

/// What became of the items that the job changed.
pub(crate) async fn outcome(tx: &impl Query, id: JobId) -> Result<JobOutcome, PgError> {
    let mut outcome = JobOutcome::default();
    for row in tx.rows(OUTCOME, &[&id.get()]).await? {
        let count = unsigned(&row, 2)?;
        outcome.count(row.try_get(0)?, count);
        if let Some(fingerprint) = row.try_get(1)? {
            let sample = ItemId::new(row.try_get(3)?);
            let found = tx.rows("SELECT last_error FROM outbox.dead WHERE id = $1", &[&sample.get()]).await?;
            let message = found.first().map(|row| row.try_get(0)).transpose()?;
            outcome.causes.push(DeadCause { fingerprint, count, sample, message });
        }
    }
    Ok(outcome)
}

async fn read(tx: &impl Query, id: JobId) -> Result<Option<Job>, PgError> {
    Ok(list(tx, Some(id), 1).await?.pop())
}

/// How errors name the row of a job.
const JOB: &str = "job";

fn decode(row: &Row) -> Result<Job, PgError> {
    let number = row.try_get(0)?;
    let per_second: Option<i32> = row.try_get(5)?;
    Ok(Job {
        id: JobId::new(number),
        action: json_column(row, 1, "action", JOB)?,
        filter: json_column(row, 2, "filter", JOB)?,
        actor: row.try_get(3)?,
        reason: row.try_get(4)?,
        per_second: per_second.and_then(|per_second| u32::try_from(per_second).ok()),
        stop_after: row.try_get::<_, Option<i32>>(17)?.and_then(|percent| u8::try_from(percent).ok()),
        state: parse_word(row.try_get(6)?, RowName::new(JOB, number), "state")?,
        began_at: time(row, 7)?,
        ended_at: optional_time(row, 8)?,
        next_at: time(row, 9)?,
        scanned_up_to: ItemId::new(row.try_get(10)?),
        last_id: ItemId::new(row.try_get(11)?),
        matched: unsigned(row, 12)?,
        changed: unsigned(row, 13)?,
        refused: unsigned(row, 14)?,
        sample: json_column(row, 15, "sample", JOB).unwrap_or_default(),
        refusals: json_column(row, 16, "refusals", JOB).unwrap_or_default(),
    })
}
