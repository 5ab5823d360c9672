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

mod alert;
mod attempted;
mod condition;
mod deed;
mod operations;
mod order;
mod overview;
pub mod postgres;
mod rate;
mod schema;
pub mod sqlite;
mod state;
mod stuck;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::item::{
    FailedAttempt, Failure, HostWrites, IllegalTransition, InvalidItem, Item, ItemId, Millis, NewItem, OnDead,
    STATE_VALUE_MAX, StateVersion, Status,
};
use crate::saga::Signal;

pub use alert::Alerts;
pub use operations::{
    Alert, AlertKind, AuditEntry, AuditQuery, Command, Control, Controlled, FailureGroup, Job, JobId, JobState,
    Operations, Pause, Stuck, StuckKind, StuckQuery,
};
pub use order::{Action, EffectKeys, Lease, Order, OrderReport, Refusal, Run, Selection, Standing};
pub use schema::Migration;
pub use state::{ClearState, StateEntry, StateQuery, StateTotal};
pub use transfer::{Columns, ExportPage, ExportPosition, Imported, Record};

use attempted::Attempted;
use rate::level;
use schema::{check_schema, refuse_newer};

/// Tells the time in Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// A durable outbox. Every method is safe to call from many tasks and many processes at once.
#[async_trait]
pub trait Store: Operations {
    /// The store's present time.
    async fn now(&self) -> Result<Millis, StoreError>;

    /// Enqueues the items in one transaction. Returns after the commit. When it returns
    /// [`StoreError::Unavailable`] the fate of the commit is unknown: repeat it with the same keys.
    async fn enqueue(&self, items: Vec<NewItem>, write: Write) -> Result<Enqueued, StoreError>;

    /// Ends expired leases, then claims what the request allows, fairly over its types. An item that
    /// has no attempt left by its type's policy is dead-lettered instead.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, StoreError>;

    /// Settles a claim, with its history row, signals and host writes, in one transaction.
    async fn settle(&self, claim: &ClaimRef, settled: Settled) -> Result<(), StoreError>;

    /// Ends a bounded batch of leases that have run out and says how many. Called at least once a
    /// second in every process that has the store open.
    async fn expire(&self) -> Result<u32, StoreError>;

    /// The items that match, newest first. Changes nothing.
    async fn list(&self, filter: &Filter, page: &Page) -> Result<Vec<Item>, StoreError>;

    /// One item with its history. Changes nothing.
    async fn show(&self, id: ItemId) -> Result<Option<Details>, StoreError>;

    /// An operator's action, audited in the transaction that performs it. A filter becomes a job, which
    /// this call sees to its end.
    async fn operate(&self, order: &Order) -> Result<OrderReport, StoreError>;

    /// The signals after `after`, oldest first, at most `limit`.
    async fn signals(&self, after: i64, limit: u32) -> Result<Vec<Signal>, StoreError>;

    /// Totals for the cockpit and the metrics, at a cost that does not grow with finished items.
    async fn overview(&self) -> Result<Overview, StoreError>;

    /// A bounded piece of what keeps the store in shape: batches of running jobs, what retention lets go,
    /// the write-ahead log. Called about once a second in every process that has the store open.
    async fn upkeep(&self, retention: &Retention) -> Result<Upkept, StoreError>;

    /// Shows this process to the cockpit. Nothing correct depends on it.
    async fn heartbeat(&self, pod: &Pod) -> Result<(), StoreError>;

    /// Adds one to the count of requests that lacked what the contract asks for.
    async fn count_violation(&self, violation: Violation) -> Result<(), StoreError>;

    /// One value of a plugin's state, for an attempt that reads it.
    async fn read_state(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StoreError>;

    /// Withdraws a component from every process; one that is withdrawn already keeps its first reason.
    async fn quarantine(&self, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError>;

    /// The withdrawn components, the newest first.
    async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError>;

    /// Lets a withdrawn component run again, audited in the same transaction. False when it was not
    /// withdrawn; then nothing is audited.
    async fn release_quarantined(&self, digest: &str, actor: &str, reason: Option<&str>) -> Result<bool, StoreError>;

    /// How much state each plugin keeps, by name.
    async fn state_totals(&self) -> Result<Vec<StateTotal>, StoreError>;

    /// The keys of a plugin's state, in order.
    async fn list_state(&self, query: &StateQuery) -> Result<Vec<StateEntry>, StoreError>;

    /// Removes state of a plugin, audited in the transaction that does it, and says how much it was.
    /// Attempts that run meanwhile and have read what is removed are given back.
    async fn clear_state(&self, order: &ClearState) -> Result<StateTotal, StoreError>;

    /// Ticks after every change that may have made work available, by this process or another.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// What a caller may do something about.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The claim's token is no longer on the row: the lease ended and somebody else took over, or an
    /// operator did. Log it and go on.
    #[error("the claim was lost before it was settled")]
    ClaimLost,
    /// The key is taken by an item with other content. Nothing was stored.
    #[error("idem_key {idem_key:?} is already used by item {first} with other content")]
    Conflict {
        /// Which of the items, from 0.
        index: usize,
        /// The key.
        idem_key: String,
        /// The item that has it.
        first: ItemId,
    },
    /// A field breaks a rule. Nothing was stored.
    #[error(transparent)]
    Invalid(#[from] InvalidAt),
    /// The item's status does not allow the action.
    #[error("item {id}: {source}")]
    Illegal {
        /// The item.
        id: ItemId,
        /// What was tried.
        source: IllegalTransition,
    },
    /// What the settlement wanted to commit no longer fits the plugin's state.
    #[error("state key {key:?} of plugin {plugin:?} was changed by another attempt")]
    StateConflict {
        /// The plugin.
        plugin: String,
        /// The key.
        key: String,
    },
    /// One value is larger than a plugin may keep. The same settlement cannot succeed later.
    #[error("state key {key:?} of plugin {plugin:?} would have {bytes} bytes: the most is {STATE_VALUE_MAX}")]
    StateValueTooLarge {
        /// The plugin.
        plugin: String,
        /// The key.
        key: String,
        /// The size of the value.
        bytes: usize,
    },
    /// The plugin would keep more than it may. The same settlement cannot succeed unless its state shrinks
    /// or its manifest allows more.
    #[error(
        "the state of plugin {plugin:?} would have {wanted} bytes, {used} are used: `limits.state_bytes` is {quota}"
    )]
    StateQuota {
        /// The plugin.
        plugin: String,
        /// The bytes of its keys and values before the commit.
        used: u64,
        /// The bytes that they would have after it.
        wanted: u64,
        /// The bytes that they may have.
        quota: u64,
    },
    /// The engine did not answer, or answered with a fault that may pass. Worth trying again.
    #[error("{tried}: {source}")]
    Unavailable {
        /// What was tried.
        tried: &'static str,
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database cannot be used as it is: not a database, a newer schema, a missing table.
    #[error("{0}")]
    Unusable(String),
}

/// One of several new items breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source}")]
pub struct InvalidAt {
    /// Which of the items, from 0.
    pub index: usize,
    /// The broken rule.
    pub source: InvalidItem,
}

/// How several items are told apart from ones that exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// They are one write: if any key exists with the same content, nothing is created.
    Whole,
    /// Each is a write of its own: those that exist are kept, the others are created.
    Each,
}

/// What became of an enqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The id of each item, in the order given; `None` for one that was purged since the first write.
    pub ids: Vec<Option<ItemId>>,
    /// How many were created now; the others existed with the same content.
    pub created: usize,
}

/// What a worker may claim.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRequest {
    /// The instance id of the worker's process.
    pub claimed_by: String,
    /// At most so many items in all.
    pub limit: u32,
    /// The types it serves; no other item is touched.
    pub types: Vec<TypeClaim>,
}

/// On what terms items of one type are claimed.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeClaim {
    /// The type.
    pub item_type: String,
    /// At most so many of its items in one call.
    pub limit: u32,
    /// How long a claim holds.
    pub lease: Duration,
    /// Retries after the first attempt of a life.
    pub max_retries: u32,
    /// Claim no more than brings the type's claims, of all processes, to this number.
    pub concurrency: Option<u32>,
    /// Claim no more than this many per second, in all processes together.
    pub rate: Option<f64>,
    /// What dead-lettering one means for those behind it with the same ordering key.
    pub on_dead: OnDead,
}

/// What a claim call found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claimed {
    /// The claims, to be handled and settled.
    pub claims: Vec<Claim>,
    /// How long until an item of the requested types becomes available, if one waits for its time.
    pub next_in: Option<Duration>,
}

/// The exclusive, time-limited right to attempt one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The item, as it stands after the claim: `attempts` is the number of this attempt.
    pub item: Item,
    /// The proof that settles it.
    pub token: String,
}

impl Claim {
    /// What settling needs of it.
    pub fn reference(&self) -> ClaimRef {
        ClaimRef { id: self.item.id, token: self.token.clone() }
    }
}

/// Names a claim and proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// The item.
    pub id: ItemId,
    /// Its claim token.
    pub token: String,
}

/// A settlement with what there is to say about the attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// What becomes of the item.
    pub settlement: Settlement,
    /// Whether a request that may have had an effect went out.
    pub maybe_executed: bool,
    /// The last that the handler wrote, for the history.
    pub stderr: Option<String>,
    /// The digest of the component that ran.
    pub handler_digest: Option<String>,
}

/// What becomes of a claimed item.
#[derive(Clone, Debug, PartialEq)]
pub enum Settlement {
    /// DONE, with what the handler answered and what the host stores for it.
    Done {
        /// The handler's answer.
        result: Option<Vec<u8>>,
        /// State and follow-ups.
        writes: HostWrites,
    },
    /// PENDING after the delay; the attempt counts and has a history row.
    Retry {
        /// Why.
        failure: Failure,
        /// How long it waits.
        delay: Duration,
    },
    /// DLQ, with a history row.
    Dead {
        /// Why.
        failure: Failure,
        /// What this means for the items behind it with the same ordering key.
        on_dead: OnDead,
    },
    /// PENDING after the delay; the attempt does not count but has a history row.
    GiveBack {
        /// Why.
        failure: Failure,
        /// How long it waits.
        delay: Duration,
    },
    /// PENDING at once; the attempt does not count and leaves no trace.
    Release,
}

impl Settlement {
    /// Why the attempt did not end DONE, where there is a reason.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Retry { failure, .. } | Self::Dead { failure, .. } | Self::GiveBack { failure, .. } => Some(failure),
            Self::Done { .. } | Self::Release => None,
        }
    }
}

/// Which items. Fields that are empty or `None` do not restrict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Any of these statuses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<Status>,
    /// This type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// This saga.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saga: Option<String>,
    /// This correlation id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cid: Option<String>,
    /// This ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// Enqueued at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_from: Option<Millis>,
    /// Enqueued before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_to: Option<Millis>,
    /// Became DONE or DLQ at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_from: Option<Millis>,
    /// Became DONE or DLQ before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_to: Option<Millis>,
    /// Available at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_from: Option<Millis>,
    /// Available before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_to: Option<Millis>,
    /// In this group of like failures: see [`FailureGroup`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// Which part of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most so many.
    pub limit: u32,
    /// Only items with a smaller id: the last id of the page before.
    pub before: Option<ItemId>,
}

/// An item with its history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Details {
    /// The item.
    #[serde(flatten)]
    pub item: Item,
    /// Its attempts of all lives that did not end DONE, oldest first.
    pub failed_attempts: Vec<FailedAttempt>,
    /// What operators did to it, oldest first.
    pub audit: Vec<AuditEntry>,
}

/// How long things stay that nobody needs any more. `None` keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// DONE items, from `done_at`. Those of a saga go when all of its items are finished and old enough.
    pub done: Option<Duration>,
    /// Signals; their totals stay.
    pub signals: Option<Duration>,
}

/// What a piece of upkeep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upkept {
    /// Items that jobs changed.
    pub changed: u64,
    /// DONE items that were deleted.
    pub items: u64,
    /// Signals that were deleted.
    pub signals: u64,
}

/// A process that has the store open, for display.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pod {
    /// Unique per boot.
    pub instance: String,
    /// Its role, if it has one.
    pub role: Option<String>,
    /// Whether it answers `/readyz` with 200.
    pub ready: bool,
    /// When it last said so; written by the store.
    pub heartbeat_at: Millis,
    /// Its plugins with their generations and errors, as it describes them itself.
    pub plugins: serde_json::Value,
}

/// A component that no process runs any more, because it kept faulting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// The SHA-256 of the component in hex.
    pub digest: String,
    /// The plugin that it was.
    pub plugin: String,
    /// What it did, in words.
    pub reason: String,
    /// When it was withdrawn.
    pub at: Millis,
    /// The process that withdrew it.
    pub pod: String,
}

/// What a request lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// `X-Correlation-ID`.
    MissingCorrelationId,
    /// `Idempotency-Key`.
    MissingIdempotencyKey,
}

impl Violation {
    /// The word in the cockpit and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingCorrelationId => "missing_correlation_id",
            Self::MissingIdempotencyKey => "missing_idempotency_key",
        }
    }
}

/// The state of the whole outbox in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overview {
    /// The store's time of this reading.
    pub now: Millis,
    /// Items per status, every status present.
    pub by_status: BTreeMap<&'static str, u64>,
    /// Items per type and status.
    pub by_type: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// How long the oldest available PENDING item of each type has been waiting.
    pub oldest_pending_ms: BTreeMap<String, Millis>,
    /// CLAIMED items whose lease has ended.
    pub expired_claims: u64,
    /// Ordering keys whose items wait behind a dead-lettered one.
    pub blocked_keys: u64,
    /// Settled attempts per type and outcome: `done`, or the failure's class.
    pub attempts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Emitted items per type: `created`, or `kept` because the key existed.
    pub followups: BTreeMap<String, BTreeMap<String, u64>>,
    /// Per saga.
    pub sagas: BTreeMap<String, SagaTotals>,
    /// Per [`Violation`].
    pub contract_violations: BTreeMap<String, u64>,
    /// Processes seen in the last minutes.
    pub pods: Vec<Pod>,
    /// The size of the database in bytes, where the store knows it.
    pub database_bytes: u64,
    /// The size of the write-ahead log in bytes, where there is one.
    pub wal_bytes: u64,
    /// How long the oldest transaction of anybody has been open, in milliseconds, where the engine tells:
    /// it keeps dead rows from being removed.
    pub oldest_transaction_ms: u64,
}

/// A pod that has been silent for longer than this has missed several heartbeats and is taken for gone.
const POD_GONE_MS: Millis = 15_000;

impl Overview {
    /// The pods that are there now.
    pub fn living_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.ready && self.now.saturating_sub(pod.heartbeat_at) < POD_GONE_MS)
    }

    /// The types that somebody serves: a living pod, or whoever serves `here`.
    pub fn served(&self, here: &[String]) -> Vec<String> {
        let plugins = self.living_pods().filter_map(|pod| pod.plugins.as_array()).flatten();
        let types = plugins.filter_map(|plugin| plugin["types"].as_array()).flatten().filter_map(|word| word.as_str());
        let served: BTreeSet<&str> = types.chain(here.iter().map(String::as_str)).collect();
        served.into_iter().map(str::to_owned).collect()
    }

    /// The types whose PENDING items nobody serves, neither a living pod nor whoever serves `here`.
    pub fn unhandled(&self, here: &[String]) -> BTreeMap<&str, u64> {
        let served = self.served(here);
        let pending = |counts: &BTreeMap<_, _>| counts.get(Status::Pending.as_str()).copied().unwrap_or(0);
        let waiting = self.by_type.iter().map(|(item_type, counts)| (item_type.as_str(), pending(counts)));
        let is_served = |item_type: &str| served.iter().any(|served| served == item_type);
        waiting.filter(|(item_type, pending)| *pending > 0 && !is_served(item_type)).collect()
    }
}

/// Totals of one saga; they outlive pruned signals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SagaTotals {
    /// Runs that began.
    pub began: u64,
    /// Runs that ended with every item DONE.
    pub ended_ok: u64,
    /// Runs that ended with an item in the DLQ.
    pub ended_err: u64,
    /// Settled attempts per type and outcome (`ok`, `retried`, `dead`).
    pub steps: BTreeMap<String, BTreeMap<String, u64>>,
}

/// A duration in the store's unit.
fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

fn validate(items: &[NewItem]) -> Result<(), StoreError> {
    for (index, item) in items.iter().enumerate() {
        item.validate().map_err(|source| InvalidAt { index, source })?;
    }
    Ok(())
}
