//! The operators' side of a store: actions on items, bulk jobs, controls, and removing plugins' state.
//!
//! The store audits each change in the transaction that makes it. [`Action::resulting_status`] decides which item can
//! take which action; the callers decide who may ask.

use async_trait::async_trait;
use serde::Serialize;

use outbox_item::{Item, ItemId, Millis, NewItem, Status};

use crate::action::{Action, Execution, Refusal, RefusedItem};
use crate::control::{ControlReport, ControlRequest};
use crate::error::StoreError;
use crate::filter::Filter;
use crate::ids::JobId;
use crate::inspect::Inspect;
use crate::jobs::{Job, JobPace, SAMPLE_SIZE};
use crate::plugin_data::{ClearStateRequest, StateTotal};
use crate::queue::EnqueueReport;

/// What operators do. The HTTP server and the command line call it, a few times a day or in bursts of a script.
///
/// A caller may not assume that an item is still as it has seen it: each call looks again and reports the items that
/// it refused. It may not assume that a call which failed with [`StoreError::Unavailable`] changed nothing.
#[async_trait]
pub trait Operate: Inspect {
    /// Performs an action on items, or only counts. A filter becomes a job, and the call returns when the job has
    /// ended.
    async fn operate(&self, request: &OperateRequest) -> Result<OperateReport, StoreError>;

    /// Records a job for a request whose selection is a filter and returns at once; `None` when nothing matches, which
    /// leaves an entry in the audit trail and no job. The job takes the items that
    /// match and were in their status when it began, each at most once, at this pace.
    /// [`Maintain::run_maintenance`](crate::Maintain::run_maintenance) works on it in every process;
    /// [`Operate::run_job_batch`] hurries it.
    async fn start_job(&self, request: &OperateRequest, pace: JobPace) -> Result<Option<Job>, StoreError>;

    /// Makes the job's next batch, unless its rate says not yet, and returns its progress. `None` when there is no
    /// such job. Several processes may call it at once: one of them makes the batch.
    async fn run_job_batch(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// Enqueues an item that an operator made from another, and audits it as `anew` in the same transaction: the entry
    /// concerns both. An item with this key and content that exists is the answer, and is not audited again.
    async fn enqueue_anew(&self, request: &AnewRequest) -> Result<EnqueueReport, StoreError>;

    /// Changes types, ordering keys, jobs or ids rather than items.
    async fn control(&self, request: &ControlRequest) -> Result<ControlReport, StoreError>;

    /// Lets a quarantined component run again. False when it was not quarantined; then nothing is audited.
    async fn lift_quarantine(&self, digest: &str, actor: &str, reason: Option<&str>) -> Result<bool, StoreError>;

    /// Removes state of a plugin and returns how much it was: a bounded number of keys in each transaction, which has an
    /// audit entry of its own. Running attempts that have read what is removed are
    /// given back.
    async fn clear_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError>;
}

/// A new item that an operator made from an old one, which stays as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct AnewRequest {
    /// The old item.
    pub old: ItemId,
    /// The new one.
    pub item: NewItem,
    /// Who asks: `user@host`, or a name that the operator gave.
    pub actor: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

/// An action, and the items that it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct OperateRequest {
    /// The action.
    pub action: Action,
    /// To which items.
    pub selection: Selection,
    /// Who asks: `user@host`, or a name that the operator gave.
    pub actor: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Whether it is done or only counted.
    pub execution: Execution,
}

/// Which items a request is about.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one exists for each request")]
pub enum Selection {
    /// These; one that is missing or in the wrong status is reported.
    Ids(Vec<ItemId>),
    /// All that match when the request begins: it becomes a [`Job`].
    Filter(Filter),
}

/// What a request changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OperateReport {
    /// How many items the selection named or matched.
    pub matched: u64,
    /// How many were changed, or would be.
    pub changed: u64,
    /// The first of them.
    pub sample: Vec<ItemId>,
    /// Items that the action does not apply to, with the reason; bounded.
    pub refused: Vec<RefusedItem>,
    /// Of a dry run with a filter: what would be changed, by status and type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ItemGroup>,
    /// Of a dry run: how many ordering keys would go on, because a dead item no longer blocks them.
    #[serde(skip_serializing_if = "is_zero")]
    pub unblocked_keys: u64,
    /// The job that carried it out, when the selection was a filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl OperateReport {
    /// A report on `matched` items of which none has been tried.
    pub fn of_matched(matched: usize) -> Self {
        Self { matched: matched as u64, ..Self::default() }
    }

    /// Counts an item that would be changed, in the group of its status and type.
    pub fn count_in_group(&mut self, item: &Item) {
        let since = item.done_at.or(item.dead_at).or(item.claimed_at).unwrap_or(item.created_at);
        let found = self.groups.iter_mut().find(|group| group.status == item.status && group.r#type == item.item_type);
        match found {
            Some(group) => {
                group.count += 1;
                group.oldest = group.oldest.min(since);
                group.newest = group.newest.max(since);
            }
            None => self.groups.push(ItemGroup {
                status: item.status,
                r#type: item.item_type.clone(),
                count: 1,
                oldest: since,
                newest: since,
            }),
        }
    }

    /// Counts an item that was changed, or refused for this reason.
    pub fn record(&mut self, id: ItemId, refusal: Option<Refusal>) {
        match refusal {
            None => {
                self.changed += 1;
                self.sample.push(id);
                self.sample.truncate(SAMPLE_SIZE);
            }
            Some(reason) => {
                self.refused.push(RefusedItem { id, reason });
                self.refused.truncate(SAMPLE_SIZE);
            }
        }
    }
}

/// Items of one status and type that an action would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ItemGroup {
    /// Their status.
    pub status: Status,
    /// Their type.
    pub r#type: String,
    /// How many.
    pub count: u64,
    /// Since when the first of them has been in the status; of PENDING items, when it was enqueued.
    pub oldest: Millis,
    /// Likewise, of the last of them.
    pub newest: Millis,
}

impl From<Job> for OperateReport {
    /// What the job has done until now.
    fn from(job: Job) -> Self {
        let Job { id, matched, changed, sample, refusals, .. } = job;
        Self { matched, changed, sample, refused: refusals, groups: Vec::new(), unblocked_keys: 0, job: Some(id) }
    }
}
