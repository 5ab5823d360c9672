//! Bulk actions: a job remembers which items it is about and how far it is, so that any process can go
//! on with it, after any crash.
//!
//! A batch is found by a read and made in a transaction of its own, which locks the job and checks each
//! item again. Ids only ascend, so no item is taken twice; `epoch` on the item says whether it has been
//! in its status since before the job began, whatever the clocks say. A batch, its audit entry and the
//! job's progress are one transaction.

use serde_json::json;
use tokio_postgres::Row;

use crate::context::PgContext;
use crate::error::PgError;
use crate::operate::change_batch;
use crate::queries::{json_column, unsigned, values};
use crate::tx::{Query, WriteTx, without_nul};
use crate::{PostgresStore, queries};
use outbox_item::{ItemId, Millis};
use outbox_store::engine::operator_actions::{ActionContext, ItemChange, restrict_to_applicable};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::{Filter, Job, JobId, JobState, OperateReport, OperateRequest, Selection, StoreError};

/// The columns that [`decode`] reads, in its order.
const COLUMNS: &str = "id, action::text, filter::text, actor, reason, per_second, state, began_at, ended_at, next_at, \
     position, last_id, matched, changed, refused, sample::text, refusals::text";

/// Runs an order as a job, to its end.
pub(crate) async fn run(store: &PostgresStore, request: &OperateRequest) -> Result<OperateReport, StoreError> {
    let mut job = start(store, request, None).await?;
    while job.state == JobState::Running {
        tokio::time::sleep(job.delay_until_next_batch(store.pg.now().await?)).await;
        let Some(advanced) = run_batch(store, job.id).await? else { break };
        job = advanced;
    }
    Ok(job.into_report())
}

pub(crate) async fn start(
    store: &PostgresStore,
    request: &OperateRequest,
    per_second: Option<u32>,
) -> Result<Job, StoreError> {
    let Selection::Filter(filter) = &request.selection else {
        return Err(StoreError::Unusable("a job is about a filter: give ids to an order without one".into()));
    };
    let (pg, filter) = (&*store.pg, restrict_to_applicable(filter, request.action));
    let matched = read!(pg, "counting what a job is about", |tx| count(tx, &filter))?;
    transact!(pg, "beginning a job", |tx| insert(tx, request, &filter, per_second, matched))
}

async fn count(tx: &impl Query, filter: &Filter) -> Result<i64, PgError> {
    let condition = SqlFilter::from_filter(filter);
    let statement = format!("SELECT count(*) FROM outbox.items WHERE {}", condition.sql);
    let rows = tx.rows(&statement, &values(&condition)).await?;
    Ok(rows.first().ok_or(PgError::LostRace)?.try_get(0)?)
}

async fn insert(
    tx: &WriteTx<'_>,
    request: &OperateRequest,
    filter: &Filter,
    per_second: Option<u32>,
    matched: i64,
) -> Result<Job, PgError> {
    let statement = format!(
        "INSERT INTO outbox.jobs (action, filter, actor, reason, per_second, began_at, next_at, last_id, matched)
         VALUES ($1::text::json, $2::text::json, $3, $4, $5::bigint, $6::bigint, $6::bigint,
                 (SELECT coalesce(max(id), 0) FROM outbox.items), $7)
         RETURNING {COLUMNS}"
    );
    let (action, filter) = (json!(request.action).to_string(), json!(filter).to_string());
    let (actor, reason) = (without_nul(&request.actor), request.reason.as_deref().map(without_nul));
    let per_second = per_second.map(i64::from);
    let rows = tx.rows(&statement, &[&action, &filter, &actor, &reason, &per_second, &tx.now, &matched]).await?;
    decode(rows.first().ok_or(PgError::LostRace)?)
}

pub(crate) async fn run_batch(store: &PostgresStore, id: JobId) -> Result<Option<Job>, StoreError> {
    let (pg, now) = (&*store.pg, store.pg.now().await?);
    let Some((job, ids)) = read!(pg, "finding a job's next items", |tx| next_batch(tx, id, now))? else {
        return Ok(None);
    };
    let Some(ids) = ids else { return Ok(Some(job)) };
    transact!(pg, "making a job's batch", |tx| apply_batch(tx, &job, &ids))
}

/// The job, with the ids of its next batch if one may be made now.
async fn next_batch(tx: &impl Query, id: JobId, now: Millis) -> Result<Option<(Job, Option<Vec<ItemId>>)>, PgError> {
    let Some(job) = read(tx, id).await? else { return Ok(None) };
    if job.state != JobState::Running || job.next_at > now {
        return Ok(Some((job, None)));
    }
    let mut condition = SqlFilter::from_filter(&job.filter);
    condition.and("id > ?", Some(job.scanned_up_to));
    condition.and("id <= ?", Some(job.last_id));
    condition.and("epoch < ?", Some(job.id));
    let ids = queries::ids(tx, &condition, job.batch_size()).await?;
    Ok(Some((job, Some(ids))))
}

/// Makes the batch, unless another process has made it, or the job was cancelled.
async fn apply_batch(tx: &mut WriteTx<'_>, job: &Job, ids: &[ItemId]) -> Result<Option<Job>, PgError> {
    let claim = "UPDATE outbox.jobs SET position = $3 WHERE id = $1 AND position = $2 AND state = 'RUNNING'
                 RETURNING id";
    // A last batch of a job whose every id was looked at leaves the position where it is.
    if tx.rows(claim, &[&job.id, &job.scanned_up_to, &job.scanned_up_to_after(ids)]).await?.is_empty() {
        return read(tx, job.id).await;
    }
    let selection = |_: &[ItemChange]| json!({ "filter": job.filter });
    let outcomes = change_batch(tx, &ActionContext::for_job(job), ids, Some(job.statuses()), selection).await?;
    let (after, wait) = job.after_batch(outcomes);
    write_progress(tx, &after, wait, job.is_last_batch(ids)).await?;
    read(tx, job.id).await
}

async fn write_progress(tx: &WriteTx<'_>, job: &Job, wait: Millis, is_last: bool) -> Result<(), PgError> {
    let statement = "UPDATE outbox.jobs
        SET changed = $2, refused = $3, sample = $4::text::json, refusals = $5::text::json,
            next_at = $6::bigint + $7::bigint, state = CASE WHEN $8 THEN 'DONE' ELSE state END,
            ended_at = CASE WHEN $8 THEN $6::bigint END
        WHERE id = $1";
    let (sample, refusals) = (json!(job.sample).to_string(), json!(job.refusals).to_string());
    let [changed, refused] = [job.changed, job.refused].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    tx.rows(statement, &[&job.id, &changed, &refused, &sample, &refusals, &tx.now, &wait, &is_last]).await.map(drop)
}

/// The jobs that may go on now.
pub(crate) async fn due(tx: &impl Query, now: Millis) -> Result<Vec<JobId>, PgError> {
    let statement = "SELECT id FROM outbox.jobs WHERE state = 'RUNNING' AND next_at <= $1 ORDER BY id";
    tx.rows(statement, &[&now]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

pub(crate) async fn list(tx: &impl Query, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, PgError> {
    let statement =
        format!("SELECT {COLUMNS} FROM outbox.jobs WHERE $1::bigint IS NULL OR id = $1 ORDER BY id DESC LIMIT {limit}");
    tx.rows(&statement, &[&id]).await?.iter().map(decode).collect()
}

async fn read(tx: &impl Query, id: JobId) -> Result<Option<Job>, PgError> {
    Ok(list(tx, Some(id), 1).await?.pop())
}

fn decode(row: &Row) -> Result<Job, PgError> {
    let per_second: Option<i32> = row.try_get(5)?;
    Ok(Job {
        id: row.try_get(0)?,
        action: json_column(row, 1)?,
        filter: json_column(row, 2)?,
        actor: row.try_get(3)?,
        reason: row.try_get(4)?,
        per_second: per_second.and_then(|per_second| u32::try_from(per_second).ok()),
        state: match row.try_get(6)? {
            "RUNNING" => JobState::Running,
            "DONE" => JobState::Done,
            _ => JobState::Cancelled,
        },
        began_at: row.try_get(7)?,
        ended_at: row.try_get(8)?,
        next_at: row.try_get(9)?,
        scanned_up_to: row.try_get(10)?,
        last_id: row.try_get(11)?,
        matched: unsigned(row, 12)?,
        changed: unsigned(row, 13)?,
        refused: unsigned(row, 14)?,
        sample: json_column(row, 15)?,
        refusals: json_column(row, 16)?,
    })
}
