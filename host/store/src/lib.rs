//! The durable outbox: what every store promises, whatever engine is below it.
//!
//! # Claiming
//! A claim moves PENDING items whose time has come to CLAIMED, with a lease and a token that is never
//! used again. A caller sees a claim only after it has been committed.
//!
//! # Fencing
//! A claim is settled by presenting its token. The settlement is accepted while the token is on the
//! row, even after the lease has ended; when it is gone the answer is [`StoreError::ClaimLost`].
//!
//! # Time
//! The store is the one authority on time: it reads its clock once per step and everything in that step
//! uses this reading. Callers give durations, never instants.
//!
//! The store knows no handlers, no plugins, no HTTP, and no policy of retries: whoever settles decides.

pub mod engine;
mod error;
mod inspect;
mod long_poll;
mod operate;
mod operations;
mod overview;
mod plugin_data;
mod queue;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::watch;

use outbox_core::StateVersion;
use outbox_core::saga::Signal;
use outbox_item::{Item, ItemId, Millis, NewItem};

pub use crate::engine::alerts::AlertSettings;
pub use crate::engine::schema_version::Migration;
pub use crate::error::{InvalidAt, StoreError};
pub use crate::inspect::{Filter, ItemDetails, Page};
pub use crate::long_poll::{LongPoll, LongPollResult};
pub use crate::operate::{
    Action, EffectKeys, Eligibility, Execution, LeasePolicy, OperateReport, OperateRequest, Refusal, Selection,
};
pub use crate::operations::{
    Alert, AlertKind, AuditEntry, AuditQuery, Control, ControlReport, ControlRequest, FailureGroup, Job, JobId,
    JobState, Operations, Pause, StuckEntry, StuckKind, StuckQuery,
};
pub use crate::overview::{Overview, Pod, SagaTotals, Violation};
pub use crate::plugin_data::{ClearStateRequest, StateEntry, StateQuery, StateTotal};
pub use crate::queue::{Claim, ClaimBatch, ClaimRef, ClaimRequest, ClaimTerms, SettleRequest};
pub use crate::transfer::{ExportPage, ExportPosition, ImportReport, Record, RecordColumns};
pub use outbox_core::Settlement;

/// Tells the time in Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// A durable outbox. Every method is safe to call from many tasks and many processes at once.
#[async_trait]
pub trait Store: Operations {
    /// The store's present time.
    async fn now(&self) -> Result<Millis, StoreError>;

    /// Enqueues the items in one transaction. Returns after the commit. When it returns
    /// [`StoreError::Unavailable`] the fate of the commit is unknown: repeat it with the same keys.
    async fn enqueue(&self, items: Vec<NewItem>, mode: BatchMode) -> Result<EnqueueReport, StoreError>;

    /// Ends expired leases, then claims what the request allows, fairly over its types. An item that
    /// has no attempt left by its type's policy is dead-lettered instead.
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimBatch, StoreError>;

    /// Claims, and leaves what the request has not got as a long poll from this commit on: where the engine
    /// can, the transaction that makes work for it claims this too. The answer to the claim itself is as ever.
    async fn claim_long_poll(&self, request: &ClaimRequest) -> Result<(ClaimBatch, Option<LongPoll>), StoreError> {
        Ok((self.claim(request).await?, None))
    }

    /// Settles a claim, with its history row, signals and host writes, in one transaction.
    async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Result<(), StoreError>;

    /// Ends a bounded batch of leases that have run out and says how many. Called at least once a
    /// second in every process that has the store open.
    async fn expire_leases(&self) -> Result<u32, StoreError>;

    /// The items that match, newest first. Changes nothing.
    async fn list(&self, filter: &Filter, page: &Page) -> Result<Vec<Item>, StoreError>;

    /// One item with its history. Changes nothing.
    async fn get(&self, id: ItemId) -> Result<Option<ItemDetails>, StoreError>;

    /// An operator's action, audited in the transaction that performs it. A filter becomes a job, which
    /// this call sees to its end.
    async fn operate(&self, request: &OperateRequest) -> Result<OperateReport, StoreError>;

    /// The signals after `after`, oldest first, at most `limit`.
    async fn signals(&self, after: i64, limit: u32) -> Result<Vec<Signal>, StoreError>;

    /// Totals for the cockpit and the metrics, at a cost that does not grow with finished items.
    async fn overview(&self) -> Result<Overview, StoreError>;

    /// A bounded piece of maintenance: batches of running jobs, what retention lets go,
    /// the write-ahead log. Called about once a second in every process that has the store open.
    async fn run_maintenance(&self, retention: &Retention) -> Result<MaintenanceReport, StoreError>;

    /// Shows this process to the cockpit. Nothing correct depends on it. Errors while the store takes no writes,
    /// its own or those of items.
    async fn heartbeat(&self, pod: &Pod) -> Result<(), StoreError>;

    /// Adds one to the count of requests that lacked what the contract asks for.
    async fn count_violation(&self, violation: Violation) -> Result<(), StoreError>;

    /// One value of a plugin's state, for an attempt that reads it.
    async fn read_state(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StoreError>;

    /// Quarantines a component for every process; one that is quarantined already keeps its first reason.
    async fn quarantine(&self, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError>;

    /// The quarantined components, the newest first.
    async fn list_quarantine(&self) -> Result<Vec<QuarantineRecord>, StoreError>;

    /// Lets a quarantined component run again, audited in the same transaction. False when it was not
    /// quarantined; then nothing is audited.
    async fn lift_quarantine(&self, digest: &str, actor: &str, reason: Option<&str>) -> Result<bool, StoreError>;

    /// How much state each plugin keeps, by name.
    async fn state_totals(&self) -> Result<Vec<StateTotal>, StoreError>;

    /// The keys of a plugin's state, in order.
    async fn list_state(&self, query: &StateQuery) -> Result<Vec<StateEntry>, StoreError>;

    /// Removes state of a plugin, audited in the transaction that does it, and says how much it was.
    /// Attempts that run meanwhile and have read what is removed are given back.
    async fn clear_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError>;

    /// Ticks after every change that may have made work available, by this process or another.
    fn subscribe(&self) -> watch::Receiver<u64>;
}

/// How several items are told apart from ones that exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// They are one write: if any key exists with the same content, nothing is created.
    AllOrNothing,
    /// Each is a write of its own: those that exist are kept, the others are created.
    PerItem,
}

/// What became of an enqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnqueueReport {
    /// The id of each item, in the order given; `None` for one that was purged since the first write.
    pub ids: Vec<Option<ItemId>>,
    /// How many were created now; the others existed with the same content.
    pub created: usize,
}

/// How long things stay that nobody needs any more. `None` keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// DONE items, from `done_at`. Those of a saga go when all of its items are finished and old enough.
    pub done: Option<Duration>,
    /// Signals, whose totals stay, finished jobs but the newest, and when alerts were last sent.
    pub signals: Option<Duration>,
}

/// What a piece of maintenance did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceReport {
    /// Items that jobs changed.
    pub changed: u64,
    /// DONE items that were deleted.
    pub items: u64,
    /// Signals that were deleted.
    pub signals: u64,
}

/// A quarantined component, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuarantineRecord {
    /// The SHA-256 of the component in hex.
    pub digest: String,
    /// The plugin that it was.
    pub plugin: String,
    /// What it did, in words.
    pub reason: String,
    /// When it was quarantined.
    pub at: Millis,
    /// The process that quarantined it.
    pub pod: String,
}
