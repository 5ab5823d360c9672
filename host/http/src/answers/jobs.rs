//! Jobs: how far they are, and what became of their items.

use serde::Serialize;
use utoipa::ToSchema;

use outbox_item::{ItemId, Millis};
use outbox_store::{Action, DeadCause, Filter, Job, JobId, JobOutcome, JobState, RefusedItem};

use crate::answers::sight::{Sight, Visible};
use crate::description::{ActionForm, FilterBody, Id, JobStateWord, RefusedItemForm, UnixMillis};

/// An action on all items that matched when it began.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobView {
    /// The number that the store gave to it.
    #[schema(value_type = Id)]
    id: JobId,
    /// What is done: `action`, with its options beside it.
    #[serde(flatten)]
    #[schema(value_type = ActionForm)]
    action: Action,
    /// To which items.
    #[schema(value_type = FilterBody)]
    filter: Filter,
    /// Who asked.
    actor: String,
    /// Why.
    #[schema(required = true)]
    reason: Option<String>,
    /// The most items each second.
    #[schema(required = true)]
    per_second: Option<u32>,
    /// The share of dead items, in percent, above which it stops.
    #[schema(required = true)]
    stop_after: Option<u8>,
    /// Whether it goes on.
    #[schema(value_type = JobStateWord)]
    state: JobState,
    /// When it began, in Unix milliseconds, like all times.
    #[schema(value_type = UnixMillis)]
    began_at: Millis,
    /// When it ended.
    #[schema(value_type = Option<UnixMillis>, required = true)]
    ended_at: Option<Millis>,
    /// When its next batch may begin.
    #[schema(value_type = UnixMillis)]
    next_at: Millis,
    /// Items up to this id have been looked at.
    #[schema(value_type = Id)]
    position: ItemId,
    /// Items after this id were enqueued too late.
    #[schema(value_type = Id)]
    last_id: ItemId,
    /// How many items matched shortly before it began.
    matched: u64,
    /// How many items were changed.
    changed: u64,
    /// How many items could not take the action.
    refused: u64,
    /// The first items that were changed.
    #[schema(value_type = Vec<Id>)]
    sample: Vec<ItemId>,
    /// The first items that could not take the action, with the reason.
    #[schema(value_type = Vec<RefusedItemForm>)]
    refusals: Vec<RefusedItem>,
    /// The members of which a part is left out, because the caller lacks the right `read-payload`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    hidden: Vec<&'static str>,
}

impl JobView {
    /// The job as its reader sees it.
    pub(crate) fn of(job: Job, sight: &Sight) -> Self {
        let (filter, is_cut) = sight.filter(job.filter);
        Self {
            id: job.id,
            action: job.action,
            filter,
            actor: job.actor,
            reason: job.reason,
            per_second: job.per_second,
            stop_after: job.stop_after,
            state: job.state,
            began_at: job.began_at,
            ended_at: job.ended_at,
            next_at: job.next_at,
            position: job.scanned_up_to,
            last_id: job.last_id,
            matched: job.matched,
            changed: job.changed,
            refused: job.refused,
            sample: job.sample,
            refusals: job.refusals,
            hidden: if is_cut { vec!["filter"] } else { Vec::new() },
        }
    }
}

/// The newest jobs.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobListView {
    /// The jobs, newest first.
    jobs: Vec<JobView>,
}

impl JobListView {
    /// The jobs as their reader sees them.
    pub(crate) fn of(jobs: Vec<Job>, sight: &Sight) -> Self {
        Self { jobs: jobs.into_iter().map(|job| JobView::of(job, sight)).collect() }
    }
}

/// A job, and what became of its items.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobDetailsView {
    #[serde(flatten)]
    job: JobView,
    /// What became of the items that it changed.
    outcome: OutcomeView,
}

impl JobDetailsView {
    /// The job as its reader sees it.
    pub(crate) fn of(job: Job, outcome: JobOutcome, sight: &Sight) -> Self {
        Self { job: JobView::of(job, sight), outcome: OutcomeView::of(outcome, sight) }
    }
}

/// What became of the items that a job changed.
#[derive(Serialize, ToSchema)]
struct OutcomeView {
    /// How many are DONE.
    done: u64,
    /// How many are PENDING or CLAIMED.
    waiting: u64,
    /// How many are in the DLQ.
    dead: u64,
    /// How many were deleted.
    gone: u64,
    /// How many an operator has replayed since. They are counted as they had ended before that.
    replayed_since: u64,
    /// The dead ones by the group of their failure, the largest group first.
    causes: Vec<CauseView>,
}

impl OutcomeView {
    fn of(outcome: JobOutcome, sight: &Sight) -> Self {
        let JobOutcome { done, waiting, dead, gone, replayed_since, causes } = outcome;
        let causes = causes.into_iter().map(|cause| CauseView::of(cause, sight)).collect();
        Self { done, waiting, dead, gone, replayed_since, causes }
    }
}

/// Items of a job that are in the DLQ for like failures.
#[derive(Serialize, ToSchema)]
struct CauseView {
    /// What the parameter `fingerprint` takes.
    fingerprint: String,
    /// How many.
    count: u64,
    /// The newest of them.
    #[schema(value_type = Id)]
    sample: ItemId,
    /// The message of that one.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = Option<String>, required = false)]
    message: Visible<Option<String>>,
    /// The members that are left out, because the caller lacks the right `read-payload`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    hidden: Vec<&'static str>,
}

impl CauseView {
    fn of(DeadCause { fingerprint, count, sample, message }: DeadCause, sight: &Sight) -> Self {
        Self { fingerprint, count, sample, message: sight.content(message), hidden: sight.hidden(&["message"]) }
    }
}
