//! Bulk actions: a job remembers which items it is about and how far it is, so that any process can go
//! on with it, after any crash.
//!
//! A batch is found by a read and made in a transaction of its own, which locks the job and checks each
//! item again. Ids only ascend, so no item is taken twice; `epoch` on the item says whether it has been
//! in its status since before the job began, whatever the clocks say. A batch, its audit entry and the
//! job's progress are one transaction.

use serde_json::json;
use tokio_postgres::Row;

use super::PostgresStore;
use super::caller::Caller;
use super::fault::Fault;
use super::operate::change_batch;
use super::select::{self, json as parsed, unsigned, values};
use super::step::{Sql, Step, storable};
use crate::item::{ItemId, Millis};
use crate::store::condition::Condition;
use crate::store::deed::{Change, Deed, narrowed};
use crate::store::{Filter, Job, JobId, JobState, Order, OrderReport, Selection, StoreError};

/// The columns that [`decode`] reads, in its order.
const COLUMNS: &str = "id, action::text, filter::text, actor, reason, per_second, state, began_at, ended_at, next_at, \
     position, last_id, matched, changed, refused, sample::text, refusals::text";

/// Runs an order as a job, to its end.
pub(super) async fn run(store: &PostgresStore, order: &Order) -> Result<OrderReport, StoreError> {
    let mut job = begin(store, order, None).await?;
    while job.state == JobState::Running {
        tokio::time::sleep(job.wait(store.caller.now().await?)).await;
        let Some(advanced) = advance(store, job.id).await? else { break };
        job = advanced;
    }
    Ok(job.report())
}

pub(super) async fn begin(store: &PostgresStore, order: &Order, per_second: Option<u32>) -> Result<Job, StoreError> {
    let Selection::Filter(filter) = &order.selection else {
        return Err(StoreError::Unusable("a job is about a filter: give ids to an order without one".into()));
    };
    let (caller, filter) = (&*store.caller, narrowed(filter, order.action));
    let matched = read!(caller, "counting what a job is about", |tx| count(tx, &filter))?;
    transact!(caller, "beginning a job", |step| insert(step, order, &filter, per_second, matched))
}

async fn count(sql: &impl Sql, filter: &Filter) -> Result<i64, Fault> {
    let condition = Condition::of(filter);
    let statement = format!("SELECT count(*) FROM outbox.items WHERE {}", condition.sql);
    let rows = sql.rows(&statement, &values(&condition)).await?;
    Ok(rows.first().ok_or(Fault::Overtaken)?.try_get(0)?)
}

async fn insert(
    step: &Step<'_>,
    order: &Order,
    filter: &Filter,
    per_second: Option<u32>,
    matched: i64,
) -> Result<Job, Fault> {
    let statement = format!(
        "INSERT INTO outbox.jobs (action, filter, actor, reason, per_second, began_at, next_at, last_id, matched)
         VALUES ($1::text::json, $2::text::json, $3, $4, $5::bigint, $6::bigint, $6::bigint,
                 (SELECT coalesce(max(id), 0) FROM outbox.items), $7)
         RETURNING {COLUMNS}"
    );
    let (action, filter) = (json!(order.action).to_string(), json!(filter).to_string());
    let (actor, reason) = (storable(&order.actor), order.reason.as_deref().map(storable));
    let per_second = per_second.map(i64::from);
    let rows = step.rows(&statement, &[&action, &filter, &actor, &reason, &per_second, &step.now, &matched]).await?;
    decode(rows.first().ok_or(Fault::Overtaken)?)
}

pub(super) async fn advance(store: &PostgresStore, id: JobId) -> Result<Option<Job>, StoreError> {
    let (caller, now) = (&*store.caller, store.caller.now().await?);
    let Some((job, ids)) = read!(caller, "finding a job's next items", |tx| next(tx, id, now))? else {
        return Ok(None);
    };
    let Some(ids) = ids else { return Ok(Some(job)) };
    transact!(caller, "making a job's batch", |step| make(step, &job, &ids))
}

/// The job, with the ids of its next batch if one may be made now.
async fn next(sql: &impl Sql, id: JobId, now: Millis) -> Result<Option<(Job, Option<Vec<ItemId>>)>, Fault> {
    let Some(job) = read(sql, id).await? else { return Ok(None) };
    if job.state != JobState::Running || job.next_at > now {
        return Ok(Some((job, None)));
    }
    let mut condition = Condition::of(&job.filter);
    condition.and("id > ?", Some(job.position));
    condition.and("id <= ?", Some(job.last_id));
    condition.and("epoch < ?", Some(job.id));
    let ids = select::ids(sql, &condition, job.batch()).await?;
    Ok(Some((job, Some(ids))))
}

/// Makes the batch, unless another process has made it, or the job was cancelled.
async fn make(step: &mut Step<'_>, job: &Job, ids: &[ItemId]) -> Result<Option<Job>, Fault> {
    let claim = "UPDATE outbox.jobs SET position = $3 WHERE id = $1 AND position = $2 AND state = 'RUNNING'
                 RETURNING id";
    // A last batch of a job whose every id was looked at leaves the position where it is.
    if step.rows(claim, &[&job.id, &job.position, &job.position_after(ids)]).await?.is_empty() {
        return read(step, job.id).await;
    }
    let selection = |_: &[Change]| json!({ "filter": job.filter });
    let outcomes = change_batch(step, &Deed::of_job(job), ids, Some(job.statuses()), selection).await?;
    let (after, wait) = job.after(outcomes);
    progress(step, &after, wait, job.ends_with(ids)).await?;
    read(step, job.id).await
}

async fn progress(step: &Step<'_>, job: &Job, wait: Millis, is_last: bool) -> Result<(), Fault> {
    let statement = "UPDATE outbox.jobs
        SET changed = $2, refused = $3, sample = $4::text::json, refusals = $5::text::json,
            next_at = $6::bigint + $7::bigint, state = CASE WHEN $8 THEN 'DONE' ELSE state END,
            ended_at = CASE WHEN $8 THEN $6::bigint END
        WHERE id = $1";
    let (sample, refusals) = (json!(job.sample).to_string(), json!(job.refusals).to_string());
    let [changed, refused] = [job.changed, job.refused].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    step.rows(statement, &[&job.id, &changed, &refused, &sample, &refusals, &step.now, &wait, &is_last]).await.map(drop)
}

/// The jobs that may go on now.
pub(super) async fn due(sql: &impl Sql, now: Millis) -> Result<Vec<JobId>, Fault> {
    let statement = "SELECT id FROM outbox.jobs WHERE state = 'RUNNING' AND next_at <= $1 ORDER BY id";
    sql.rows(statement, &[&now]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

pub(super) async fn list(sql: &impl Sql, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, Fault> {
    let statement =
        format!("SELECT {COLUMNS} FROM outbox.jobs WHERE $1::bigint IS NULL OR id = $1 ORDER BY id DESC LIMIT {limit}");
    sql.rows(&statement, &[&id]).await?.iter().map(decode).collect()
}

async fn read(sql: &impl Sql, id: JobId) -> Result<Option<Job>, Fault> {
    Ok(list(sql, Some(id), 1).await?.pop())
}

fn decode(row: &Row) -> Result<Job, Fault> {
    let per_second: Option<i32> = row.try_get(5)?;
    Ok(Job {
        id: row.try_get(0)?,
        action: parsed(row, 1)?,
        filter: parsed(row, 2)?,
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
        position: row.try_get(10)?,
        last_id: row.try_get(11)?,
        matched: unsigned(row, 12)?,
        changed: unsigned(row, 13)?,
        refused: unsigned(row, 14)?,
        sample: parsed(row, 15)?,
        refusals: parsed(row, 16)?,
    })
}
