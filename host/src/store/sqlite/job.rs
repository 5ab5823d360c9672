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

use super::operate::change_batch;
use super::select;
use super::step::Step;
use super::{SqliteStore, unavailable};
use crate::item::{ItemId, Millis};
use crate::store::condition::Condition;
use crate::store::deed::{Deed, narrowed};
use crate::store::{Filter, Job, JobId, JobState, Order, OrderReport, Selection, StoreError};

/// SQL for the number of the newest job: written on an item whenever its status changes.
pub(super) const EPOCH: &str = "(SELECT coalesce(max(id), 0) FROM outbox_jobs)";

/// The columns that [`decode`] reads, in its order.
const COLUMNS: &str = "id, action, filter, actor, reason, per_second, state, began_at, ended_at, next_at, position, \
     last_id, matched, changed, refused, sample, refusals";

/// Runs an order as a job, to its end.
pub(super) async fn run(store: &SqliteStore, order: &Order) -> Result<OrderReport, StoreError> {
    let mut job = begin(store, order, None).await?;
    while job.state == JobState::Running {
        tokio::time::sleep(job.wait((store.clock)())).await;
        let Some(advanced) = advance(store, job.id).await? else { break };
        job = advanced;
    }
    Ok(job.report())
}

pub(super) async fn begin(store: &SqliteStore, order: &Order, per_second: Option<u32>) -> Result<Job, StoreError> {
    let Selection::Filter(filter) = &order.selection else {
        return Err(StoreError::Unusable("a job is about a filter: give ids to an order without one".into()));
    };
    let filter = narrowed(filter, order.action);
    let counted = filter.clone();
    let matched = store.reader.run("counting what a job is about", move |tx| count(tx, &counted)).await?;
    let order = order.clone();
    let insert = move |step: &mut Step<'_>| insert(step, &order, &filter, per_second, matched);
    store.writer.run("beginning a job", move |step| insert(step).map_err(unavailable("beginning a job"))).await
}

fn count(tx: &Connection, filter: &Filter) -> rusqlite::Result<u64> {
    let condition = Condition::of(filter);
    let sql = format!("SELECT count(*) FROM outbox_items WHERE {}", condition.sql);
    tx.prepare_cached(&sql)?.query_row(rusqlite::params_from_iter(&condition.values), |row| row.get(0))
}

fn insert(
    step: &mut Step<'_>,
    order: &Order,
    filter: &Filter,
    per_second: Option<u32>,
    matched: u64,
) -> rusqlite::Result<Job> {
    let mut insert = step.tx.prepare_cached(&format!(
        "INSERT INTO outbox_jobs (action, filter, actor, reason, per_second, began_at, next_at, last_id, matched)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, (SELECT coalesce(max(id), 0) FROM outbox_items), ?7)
         RETURNING {COLUMNS}"
    ))?;
    let (action, filter) = (json!(order.action).to_string(), json!(filter).to_string());
    let values = params![action, filter, order.actor, order.reason, per_second, step.now, matched];
    insert.query_row(values, decode)
}

pub(super) async fn advance(store: &SqliteStore, id: JobId) -> Result<Option<Job>, StoreError> {
    let now = (store.clock)();
    let Some((job, ids)) = store.reader.run("finding a job's next items", move |tx| next(tx, id, now)).await? else {
        return Ok(None);
    };
    let Some(ids) = ids else { return Ok(Some(job)) };
    let make = move |step: &mut Step<'_>| make(step, &job, &ids).map_err(unavailable("making a job's batch"));
    store.writer.run("making a job's batch", make).await
}

/// The job, with the ids of its next batch if one may be made now.
fn next(tx: &Connection, id: JobId, now: Millis) -> rusqlite::Result<Option<(Job, Option<Vec<ItemId>>)>> {
    let Some(job) = read(tx, id)? else { return Ok(None) };
    if job.state != JobState::Running || job.next_at > now {
        return Ok(Some((job, None)));
    }
    let mut condition = Condition::of(&job.filter);
    condition.and("id > ?", Some(job.position));
    condition.and("id <= ?", Some(job.last_id));
    condition.and("epoch < ?", Some(job.id));
    let ids = select::ids(tx, &condition, job.batch())?;
    Ok(Some((job, Some(ids))))
}

/// Makes the batch, unless another process has made it, or the job was cancelled.
fn make(step: &mut Step<'_>, job: &Job, ids: &[ItemId]) -> rusqlite::Result<Option<Job>> {
    let mut claim = step
        .tx
        .prepare_cached("UPDATE outbox_jobs SET position = ?3 WHERE id = ?1 AND position = ?2 AND state = 'RUNNING'")?;
    // A last batch of a job whose every id was looked at leaves the position where it is.
    if claim.execute(params![job.id, job.position, job.position_after(ids)])? == 0 {
        return read(step.tx, job.id);
    }
    let selection = |_: &[_]| json!({ "filter": job.filter });
    let outcomes = change_batch(step, &Deed::of_job(job), ids, Some(job.statuses()), selection)?;
    let (after, wait) = job.after(outcomes);
    progress(step, &after, wait, job.ends_with(ids))?;
    read(step.tx, job.id)
}

fn progress(step: &Step<'_>, job: &Job, wait: Millis, is_last: bool) -> rusqlite::Result<()> {
    let mut update = step.tx.prepare_cached(
        "UPDATE outbox_jobs
         SET changed = ?2, refused = ?3, sample = ?4, refusals = ?5, next_at = ?6 + ?7,
             state = CASE WHEN ?8 THEN 'DONE' ELSE state END, ended_at = CASE WHEN ?8 THEN ?6 END
         WHERE id = ?1",
    )?;
    let (sample, refusals) = (json!(job.sample).to_string(), json!(job.refusals).to_string());
    update.execute(params![job.id, job.changed, job.refused, sample, refusals, step.now, wait, is_last]).map(|_| ())
}

/// The jobs that may go on now.
pub(super) fn due(tx: &Connection, now: Millis) -> rusqlite::Result<Vec<JobId>> {
    let sql = "SELECT id FROM outbox_jobs WHERE state = 'RUNNING' AND next_at <= ?1 ORDER BY id";
    tx.prepare_cached(sql)?.query_map([now], |row| row.get(0))?.collect()
}

pub(super) fn list(tx: &Connection, id: Option<JobId>, limit: u32) -> rusqlite::Result<Vec<Job>> {
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
        action: parsed(row, 1)?,
        filter: parsed(row, 2)?,
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
        position: row.get(10)?,
        last_id: row.get(11)?,
        matched: row.get(12)?,
        changed: row.get(13)?,
        refused: row.get(14)?,
        sample: parsed(row, 15)?,
        refusals: parsed(row, 16)?,
    })
}

fn parsed<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let json: String = row.get(column)?;
    let failed = |err| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(err));
    serde_json::from_str(&json).map_err(failed)
}
