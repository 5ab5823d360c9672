//! The flow of operators' requests and of jobs, from one transaction to the next. The same for every engine.
//!
//! What one transaction does is an engine's: [`OperateSteps`].

use async_trait::async_trait;

use outbox_item::ItemId;

use crate::action::{Action, Execution};
use crate::engine::operator_actions::ActionContext;
use crate::error::StoreError;
use crate::ids::JobId;
use crate::jobs::{ActionOutcomes, BATCH_SIZE, Job, JobPace, JobState, OTHER_PROCESS_PAUSE};
use crate::operate::{Operate, OperateReport, OperateRequest, Selection};
use crate::plugin_data::{ClearStateRequest, StateTotal};

/// Batches of each job in one piece of maintenance. Few, so that no job delays the others for long.
const JOB_BATCHES: usize = 20;

/// Keys of a plugin's state that one transaction removes, so that it stays short.
pub const CLEARED_KEYS: u32 = 200;

/// The steps of a request that an engine takes, each in a transaction of its own.
#[async_trait]
pub trait OperateSteps: Operate {
    /// What the action would do to the selection. Reads only.
    async fn preview(&self, selection: &Selection, action: Action) -> Result<OperateReport, StoreError>;

    /// Performs the action on these items and audits it. At most [`BATCH_SIZE`] ids are given.
    async fn change_items(&self, context: &ActionContext, ids: &[ItemId]) -> Result<ActionOutcomes, StoreError>;

    /// How much state the request is about. Reads only.
    async fn count_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError>;

    /// Removes up to [`CLEARED_KEYS`] keys that the request is about, and audits that. Returns how much it removed.
    async fn clear_some_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError>;

    /// The running jobs whose next batch may be made now, oldest first.
    async fn due_jobs(&self) -> Result<Vec<JobId>, StoreError>;
}

/// Carries out a request: [`Operate::operate`] of every engine.
pub async fn operate<S: OperateSteps>(store: &S, request: &OperateRequest) -> Result<OperateReport, StoreError> {
    match (&request.selection, request.execution) {
        (selection, Execution::DryRun) => store.preview(selection, request.action).await,
        (Selection::Filter(_), Execution::Apply) => run_as_job(store, request).await,
        (Selection::Ids(ids), Execution::Apply) => change_in_batches(store, request, ids).await,
    }
}

async fn run_as_job<S: OperateSteps>(store: &S, request: &OperateRequest) -> Result<OperateReport, StoreError> {
    let Some(mut job) = store.start_job(request, JobPace::default()).await? else {
        return Ok(OperateReport::default());
    };
    while job.state == JobState::Running {
        tokio::time::sleep(job.delay_until_next_batch(store.now().await?)).await;
        let Some(advanced) = store.run_job_batch(job.id).await? else { break };
        if advanced.state == JobState::Running && advanced.scanned_up_to == job.scanned_up_to {
            tokio::time::sleep(OTHER_PROCESS_PAUSE).await;
        }
        job = advanced;
    }
    Ok(job.into())
}

async fn change_in_batches<S: OperateSteps>(
    store: &S,
    request: &OperateRequest,
    ids: &[ItemId],
) -> Result<OperateReport, StoreError> {
    let (context, mut report) = (ActionContext::of_request(request), OperateReport::of_matched(ids.len()));
    for batch in ids.chunks(BATCH_SIZE as usize) {
        for (id, refusal) in store.change_items(&context, batch).await? {
            report.record(id, refusal);
        }
    }
    Ok(report)
}

/// Removes state of a plugin: [`Operate::clear_state`] of every engine. Keys that attempts add meanwhile may stay.
pub async fn clear_state<S: OperateSteps>(store: &S, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
    let found = store.count_state(request).await?;
    if request.execution == Execution::DryRun {
        return Ok(found);
    }
    let mut cleared = StateTotal { plugin: request.plugin.clone(), ..StateTotal::default() };
    while cleared.keys < found.keys {
        let step = store.clear_some_state(request).await?;
        if step.keys == 0 {
            break;
        }
        cleared.keys += step.keys;
        cleared.bytes += step.bytes;
    }
    Ok(cleared)
}

/// Makes batches of the jobs that are due, and returns how many items they changed: a part of
/// [`Maintain::run_maintenance`](crate::Maintain::run_maintenance). A job that fails stops no other: `failed` is told.
pub async fn run_due_jobs<S: OperateSteps>(store: &S, failed: fn(JobId, &StoreError)) -> Result<u64, StoreError> {
    let mut changed = 0;
    for id in store.due_jobs().await? {
        match run_due_job(store, id).await {
            Ok(items) => changed += items,
            Err(err) => failed(id, &err),
        }
    }
    Ok(changed)
}

/// Makes batches of the job, and returns how many items they changed.
async fn run_due_job<S: OperateSteps>(store: &S, id: JobId) -> Result<u64, StoreError> {
    let before = store.jobs(Some(id), 1).await?;
    let mut after = None;
    for _ in 0..JOB_BATCHES {
        after = store.run_job_batch(id).await?;
    }
    let items = |job: Option<&Job>| job.map_or(0, |job| job.changed);
    Ok(items(after.as_ref()).saturating_sub(items(before.first())))
}
