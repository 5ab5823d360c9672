//! What operators ask of a store besides looking at items and changing them: jobs, groups of failures,
//! what is stuck, pauses, blocked keys, the audit trail, and moving to another store.
//!
//! Reads change nothing. Everything else is audited in the transaction that does it.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::inspect::Filter;
use crate::operate::{Action, Execution, OperateRequest, Refusal};
use crate::transfer::{ExportPage, ExportPosition, ImportReport, Record};
use outbox_item::{ItemId, Millis};

/// The operators' side of a durable outbox.
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Records a job for a request whose selection is a filter and returns at once. The job takes the
    /// items that match and were in their status when it began, each at most once, `per_second` at most.
    /// [`super::Store::run_maintenance`] works on it in every process; [`Operations::run_job_batch`] hurries it.
    async fn start_job(&self, request: &OperateRequest, per_second: Option<u32>) -> Result<Job, StoreError>;

    /// Makes the job's next batch, unless its rate says not yet, and tells how far it is. `None` when
    /// there is no such job. Several processes may do it at once: a batch is made by one of them.
    async fn run_job_batch(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// The newest jobs, or only this one.
    async fn jobs(&self, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError>;

    /// Does what concerns types, keys and jobs rather than items.
    async fn control(&self, request: &ControlRequest) -> Result<ControlReport, StoreError>;

    /// The types that are paused, by name.
    async fn pauses(&self) -> Result<Vec<Pause>, StoreError>;

    /// The DLQ items that match, grouped by what they died of, the largest group first.
    async fn failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError>;

    /// What does not move, why, and what helps; a bounded number of each kind.
    async fn stuck(&self, query: &StuckQuery) -> Result<Vec<StuckEntry>, StoreError>;

    /// The audit trail, newest first.
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError>;

    /// A part of everything that another store needs to take over, from `ExportPosition::Item(0)` on.
    async fn export(&self, after: ExportPosition, limit: u32) -> Result<ExportPage, StoreError>;

    /// Enqueues an alert for operators, where alerts are configured and none of its kind about the
    /// subject was sent a short time ago.
    async fn send_alert(&self, alert: &Alert) -> Result<(), StoreError>;

    /// Creates the records with the ids, keys and history that they had, all or none. A record that is
    /// there already, the same in every column, is left alone, so that an import can be repeated, and a
    /// dry run afterwards verifies it. Errors with [`StoreError::Conflict`] when an id or a key is taken
    /// by another item.
    async fn import(&self, records: Vec<Record>, execution: Execution) -> Result<ImportReport, StoreError>;
}

/// Something that operators want to be told of and that no transition of an item tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// What happened.
    pub kind: AlertKind,
    /// To what: a type.
    pub subject: String,
    /// In words.
    pub message: String,
}

/// What an [`Alert`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertKind {
    /// A process does not claim the type for a while, because its attempts keep failing.
    BreakerOpen,
}

/// The number of a job.
pub type JobId = i64;

/// An action on all items that matched when it began.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Given by the store.
    pub id: JobId,
    /// What is done.
    #[serde(flatten)]
    pub action: Action,
    /// To which items.
    pub filter: Filter,
    /// Who asked.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// At most so many items each second.
    pub per_second: Option<u32>,
    /// Whether it goes on.
    pub state: JobState,
    /// When it began.
    pub began_at: Millis,
    /// When it had nothing left to do, or was cancelled.
    pub ended_at: Option<Millis>,
    /// Not before this is the next batch made.
    pub next_at: Millis,
    /// Items up to this id have been looked at.
    #[serde(rename = "position")]
    pub scanned_up_to: ItemId,
    /// Items after this id were enqueued too late.
    pub last_id: ItemId,
    /// How many matched shortly before it began.
    pub matched: u64,
    /// How many were changed so far.
    pub changed: u64,
    /// How many could not take the action.
    pub refused: u64,
    /// The first that were changed.
    pub sample: Vec<ItemId>,
    /// The first that could not take the action, with the reason.
    pub refusals: Vec<Refusal>,
}

impl Job {
    /// How long until the next batch may be made, at the store's time `now`.
    pub fn delay_until_next_batch(&self, now: Millis) -> Duration {
        Duration::from_millis(u64::try_from(self.next_at - now).unwrap_or(0))
    }
}

/// Whether a job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobState {
    /// Any process that has the store open goes on with it.
    Running,
    /// Every item that it was about has been looked at.
    Done,
    /// An operator stopped it; what it had changed stays changed.
    Cancelled,
}

impl JobState {
    /// The word that is stored and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Done => "DONE",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// An operator's word on types, keys and jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlRequest {
    /// What is wanted.
    pub control: Control,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// Whether it is done or only counted.
    pub execution: Execution,
}

/// What concerns types, keys and jobs rather than items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Nobody claims items of the type any more; attempts under way go on.
    Pause {
        /// The type, whether or not there are items of it.
        item_type: String,
    },
    /// Items of the type are claimed again.
    Resume {
        /// The type.
        item_type: String,
    },
    /// What waits behind dead-lettered items of the ordering key goes on without them; they stay in the
    /// DLQ, and a replay of one puts it in front again.
    Unblock {
        /// The ordering key.
        ordering_key: String,
    },
    /// Stops a job; what it had changed stays changed.
    Cancel {
        /// The job.
        job: JobId,
    },
    /// New items get ids above this one, so that an import of ids up to it finds them free.
    ReserveIds {
        /// The last id that is kept free.
        up_to: ItemId,
    },
}

impl Control {
    /// The word in the audit trail and on the command line, and what it is said about.
    pub fn action_and_target(&self) -> (&'static str, String) {
        match self {
            Self::Pause { item_type } => ("pause", item_type.clone()),
            Self::Resume { item_type } => ("resume", item_type.clone()),
            Self::Unblock { ordering_key } => ("unblock", ordering_key.clone()),
            Self::Cancel { job } => ("cancel", job.to_string()),
            Self::ReserveIds { up_to } => ("reserve", up_to.to_string()),
        }
    }
}

/// What a command came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ControlReport {
    /// Whether anything was, or would be, different from before.
    pub changed: bool,
    /// The dead-lettered items that no longer block, of an unblocking.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<ItemId>,
}

/// A type that nobody claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// The type.
    pub r#type: String,
    /// Since when.
    pub paused_at: Millis,
    /// Who paused it.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
}

/// DLQ items that died of the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureGroup {
    /// What [`Filter::fingerprint`] takes.
    pub fingerprint: String,
    /// Their type.
    pub r#type: String,
    /// How many.
    pub count: u64,
    /// When the first of them died.
    pub first_at: Millis,
    /// When the last of them died.
    pub last_at: Millis,
    /// The newest of them.
    pub sample: ItemId,
    /// The sample's failure code.
    pub code: Option<String>,
    /// The sample's message.
    pub message: Option<String>,
    /// The component that the sample died in.
    pub handler_digest: Option<String>,
}

/// From when on something counts as stuck.
#[derive(Clone, Debug, PartialEq)]
pub struct StuckQuery {
    /// The types that handlers serve; `None` when that is not known.
    pub served: Option<Vec<String>>,
    /// An item that could be claimed for longer than this is old.
    pub older_than: Duration,
    /// An item that was attempted at least so often in this life fails repeatedly; what waits for its next
    /// attempt is looked at from the third on.
    pub attempts: u32,
    /// At most so many of each kind.
    pub limit: u32,
}

impl Default for StuckQuery {
    /// Five minutes, three attempts, twenty of each kind.
    fn default() -> Self {
        Self { served: None, older_than: Duration::from_mins(5), attempts: 3, limit: 20 }
    }
}

/// Something that does not move.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StuckEntry {
    /// What kind of standstill it is.
    pub kind: StuckKind,
    /// The item that it is about, or the first of those.
    pub item: Option<ItemId>,
    /// The item's type.
    pub r#type: Option<String>,
    /// The ordering key that waits.
    pub ordering_key: Option<String>,
    /// How many items it keeps from being handled.
    pub waiting: u64,
    /// Since when.
    pub since: Millis,
    /// What is known of the reason.
    pub why: String,
    /// The command that helps, or shows more.
    pub command: String,
}

/// The kinds of standstill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StuckKind {
    /// A lease has ended and the item was not taken back.
    ExpiredClaim,
    /// An item fails again and again.
    Failing,
    /// No handler serves a type.
    Unhandled,
    /// A type is paused and items of it wait.
    Paused,
    /// A dead-lettered item blocks its ordering key.
    BlockedKey,
    /// An item that waits for its time holds others with its ordering key.
    HeldKey,
    /// Items could be claimed and are not.
    Old,
}

impl StuckKind {
    /// The word that is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExpiredClaim => "expired_claim",
            Self::Failing => "failing",
            Self::Unhandled => "unhandled",
            Self::Paused => "paused",
            Self::BlockedKey => "blocked_key",
            Self::HeldKey => "held_key",
            Self::Old => "old",
        }
    }
}

/// Which entries of the audit trail. Fields that are `None` do not restrict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditQuery {
    /// Entries that concern this item.
    pub item: Option<ItemId>,
    /// Entries of this actor.
    pub actor: Option<String>,
    /// Entries of this action.
    pub action: Option<String>,
    /// Entries of this job.
    pub job: Option<JobId>,
    /// Written at or after.
    pub from: Option<Millis>,
    /// Written before.
    pub to: Option<Millis>,
    /// Only entries with a smaller number: the last of the page before.
    pub before: Option<i64>,
    /// At most so many; 0 stands for a hundred.
    pub limit: u32,
}

/// One thing that an operator did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// Ascending in the order of commits.
    pub seq: i64,
    /// When.
    pub at: Millis,
    /// Who.
    pub actor: String,
    /// What: the word of the action or the control.
    pub action: String,
    /// To what: the ids, the filter, or what a control is about.
    pub selection: serde_json::Value,
    /// Why.
    pub reason: Option<String>,
    /// The job that it is a batch of.
    pub job: Option<JobId>,
    /// How many items.
    pub count: u64,
    /// The items with what changed of each, before and after. Of one item's trail, that item only.
    pub changes: serde_json::Value,
}
