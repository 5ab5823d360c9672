//! The durable outbox: what every store promises, by capability. An engine implements the promises.
//!
//! # Capabilities
//! A caller holds only the traits that it uses: [`Enqueue`] writes items, [`Queue`] claims and settles them,
//! [`Inspect`] reads, [`Operate`] acts for operators, [`PluginData`] serves the plugin runtime, [`Maintain`] works in
//! the background, [`Transfer`] moves everything to another store. [`Changes`] wakes waiting tasks. [`Store`] is all
//! of them. Every method is safe to call from many tasks and many processes at once.
//!
//! ```
//! use outbox_item::{ItemId, NewItem};
//! use outbox_store::{BatchMode, Enqueue, StoreError};
//!
//! /// Repeating it with the same order creates nothing new and returns the same id.
//! async fn send_receipt(store: &dyn Enqueue, order: u64) -> Result<Option<ItemId>, StoreError> {
//!     let item = NewItem::new("send_receipt", &format!("receipt-{order}"), format!(r#"{{"order":{order}}}"#));
//!     let report = store.enqueue(vec![item], BatchMode::PerItem).await?;
//!     Ok(report.ids[0])
//! }
//! ```
//!
//! # Claiming
//! A claim moves PENDING items whose time has come to CLAIMED, with a lease and a token that is never used again. A
//! caller sees a claim only after it has been committed.
//!
//! # Fencing
//! A claim is settled by presenting its token. The settlement is accepted while the token is on the row, even after
//! the lease has ended; when it is gone the answer is [`StoreError::ClaimLost`]. Until then the worker may renew the
//! lease.
//!
//! # Time
//! The store is the one authority on time: it reads its clock once per transaction and everything in that transaction
//! uses this reading. Callers give durations; the exceptions are an operator's `available_at` and the bounds of
//! filters.
//!
//! The store knows no handlers, no plugins, no HTTP, and no retry policy: the worker decides each settlement.

#![deny(missing_docs)]

mod action;
mod audit;
mod changes;
mod claim;
mod content;
mod control;
pub mod engine;
mod error;
mod filter;
mod history;
mod ids;
mod inspect;
mod jobs;
mod key_totals;
mod latency_bins;
mod long_poll;
mod look;
mod maintain;
mod moved_tables;
mod names;
mod operate;
mod overview;
mod plugin_data;
mod pods;
mod queue;
mod rates;
mod redaction;
mod renewal;
mod retrying;
mod rollback;
mod stuck;
mod stuck_breakers;
mod transfer;

use std::sync::Arc;

use outbox_item::Millis;

pub use crate::action::{Action, ActionKind, EffectKeys, Eligibility, Execution, LeasePolicy, Refusal, RefusedItem};
pub use crate::audit::{AUDIT_VALUE_MAX, AuditEntry, AuditQuery};
pub use crate::changes::Changes;
pub use crate::claim::{
    Claim, ClaimBatch, ClaimRef, ClaimRequest, ClaimTerms, LONGEST_LEASE_SECONDS, SettleRequest, SuspectTerms,
};
pub use crate::content::{InvalidCondition, MemberIs};
pub use crate::control::{Control, ControlReport, ControlRequest, KeyPause, Pause};
pub use crate::engine::alerts::AlertSettings;
pub use crate::engine::counters::Violation;
pub use crate::engine::schema_version::{Migration, MigrationPlan, MigrationStep, ReplacedSql};
pub use crate::error::{DiskFull, StoreError};
pub use crate::filter::{Filter, Page};
pub use crate::history::{
    HISTORY_MAX, HistoryFigures, HistoryMinute, HistoryReport, HistorySeries, HistoryStep, MinuteFigures, OTHER_TYPES,
    TYPES_MAX, minute_of,
};
pub use crate::ids::{ClaimToken, JobId, SignalSeq};
pub use crate::inspect::{
    ATTEMPTS_SHOWN, ENTRIES_SHOWN, FailureGroup, Inspect, ItemDetails, ItemPage, MisplacedItem, PAGE_BYTES,
    RETRIES_LOOKED_AT, RetriesAhead, Signal,
};
pub use crate::jobs::{DeadCause, Job, JobOutcome, JobPace, JobState, OTHER_PROCESS_PAUSE};
pub use crate::key_totals::KeyTotals;
pub use crate::latency_bins::LatencyBins;
pub use crate::long_poll::{LongPoll, LongPollResult};
pub use crate::maintain::{Maintain, MaintenanceReport, Retention};
pub use crate::moved_tables::{IMPORT_PAUSE_REASON, RecordColumns};
pub use crate::names::{UnknownName, item_with_key, unknown_fairness_key, unknown_ordering_key};
pub use crate::operate::{AnewRequest, ItemGroup, Operate, OperateReport, OperateRequest, Selection};
pub use crate::overview::{Overview, SagaTotals};
pub use crate::plugin_data::{
    ClearStateRequest, OwnerRecord, PluginData, QuarantineRecord, StateEntry, StateQuery, StateTotal,
};
pub use crate::pods::Pod;
pub use crate::queue::{Alert, AlertKind, BatchMode, Enqueue, EnqueueReport, Queue};
pub use crate::rates::{DUE_KEYS_LOOKED_AT, RateText, RatedType, ReachedRates};
pub use crate::redaction::{InvalidRedaction, Redaction, Veil};
pub use crate::renewal::{LeaseState, Renewal, RenewedLease};
pub use crate::rollback::CannotRollBack;
pub use crate::stuck::{StuckEntry, StuckKind, StuckQuery};
pub use crate::transfer::{ExportPage, ExportPosition, ExportSnapshot, ImportReport, Record, Transfer};
pub use outbox_core::Settlement;

/// Returns the present time in Unix milliseconds. A store calls it once per transaction; tests give their own.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// Everything that a store can do. Only a composition root holds it, and gives each part the capabilities that it uses:
/// an `Arc<dyn Store>` coerces to an `Arc<dyn Queue>`, and so on.
pub trait Store: Enqueue + Queue + Operate + PluginData + Maintain + Transfer {}

impl<S: Enqueue + Queue + Operate + PluginData + Maintain + Transfer + ?Sized> Store for S {}
