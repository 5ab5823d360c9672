//! The seam between the worker and the code that performs effects.
//!
//! The worker calls [`Handler`] and does not know WebAssembly. The plugin runtime implements it and does not know the
//! store. Tests and benchmarks implement it natively.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use outbox_item::{Item, Millis};

use crate::breaker::policy::BreakerPolicy;
use crate::digest::ComponentDigest;
use crate::failure::Failure;
use crate::host_writes::HostWrites;
use crate::key_locks::AttemptLocks;
use crate::on_dead::OnDead;
use crate::recording::Recording;
use crate::retry::RetryPolicy;
use crate::spans::TracedAttempt;

/// Performs the effects of items.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The types that can be handled now. The worker asks before every claim, so the call must be cheap.
    fn served_types(&self) -> Vec<ServedType>;

    /// A receiver that changes whenever the result of [`Self::served_types`] may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Makes one attempt. Returns by the deadline of the attempt, and soon after `stop` is cancelled. A caller may drop
    /// the future; the attempt then ends with an unknown outcome. A failure of the handler is a value in the report,
    /// never a panic.
    async fn handle(&self, attempt: Attempt) -> AttemptReport;
}

/// The most items of one ordering key in a claim, where a type has no other number: long enough that a commit costs each
/// item little, and short enough that few items are given back when one fails.
pub const STREAK_DEFAULT: u32 = 16;

/// One item type that a handler serves, and its limits and policies.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedType {
    /// The type.
    pub item_type: String,
    /// The longest duration of one attempt, which may exceed the lease. `None` means what fits into a lease.
    pub timeout: Option<Duration>,
    /// How failed items are retried.
    pub retry: RetryPolicy,
    /// The maximum number of claimed items at a time, across all processes. `None` means no limit.
    pub concurrency: Option<u32>,
    /// The maximum number of claims per second, across all processes. `None` means no limit.
    pub rate: Option<f64>,
    /// What may be claimed of each fairness key of the type.
    pub per_key: KeyLimits,
    /// What a dead-lettered item means for the items queued behind it with the same ordering key.
    pub on_dead: OnDead,
    /// The most items of one ordering key that a worker claims together. 1 claims an item only after the one before it
    /// has been settled.
    pub streak: u32,
    /// When a process stops claiming items of the type for a while. `None` means never.
    pub breaker: Option<BreakerPolicy>,
}

/// The limits of each fairness key of a type, across all processes. Items without a key have none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KeyLimits {
    /// The maximum number of claimed items of a key at a time. `None` means no limit.
    pub concurrency: Option<u32>,
    /// The maximum number of claims of a key per second. `None` means no limit.
    pub rate: Option<f64>,
}

impl KeyLimits {
    /// Whether there is any.
    pub const fn is_any(&self) -> bool {
        self.concurrency.is_some() || self.rate.is_some()
    }
}

impl ServedType {
    /// A type with the default retries and no limits.
    pub fn new(item_type: impl Into<String>) -> Self {
        Self {
            item_type: item_type.into(),
            timeout: None,
            retry: RetryPolicy::default(),
            concurrency: None,
            rate: None,
            per_key: KeyLimits::default(),
            on_dead: OnDead::default(),
            streak: STREAK_DEFAULT,
            breaker: None,
        }
    }
}

/// One attempt at one item.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The claimed item; `item.attempts` is the number of this attempt, from 1.
    pub item: Arc<Item>,
    /// When the attempt ends at the latest, on the monotonic clock.
    pub deadline: Instant,
    /// The same moment in the store's time, for the handler to read.
    pub deadline_at: Millis,
    /// Whether a store keeps the item.
    pub mode: DeliveryMode,
    /// Cancelled when the process shuts down and its grace period is over, and when the claim may hold no longer.
    pub stop: CancellationToken,
    /// The locks that the attempt takes before it touches contended keys of its plugin's state.
    pub locks: Arc<AttemptLocks>,
    /// Records the spans of the attempt; `None` when the settings ask for none.
    pub trace: Option<Arc<TracedAttempt>>,
}

/// Whether a store keeps the item of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// A store keeps the item, and a failed attempt can be retried.
    Durable,
    /// The item exists in this call only. State and follow-ups are not available to the handler.
    Inline,
}

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptReport {
    /// How the attempt ended.
    pub outcome: Outcome,
    /// Whether the attempt sent a request that may have had an effect.
    pub maybe_executed: bool,
    /// The end of what the handler wrote to its standard error and output, bounded.
    pub stderr: Option<String>,
    /// The digest of the component that ran.
    pub digest: Option<ComponentDigest>,
    /// The requests and responses, bounded. Empty for an attempt that can only become DONE, because its history gets no
    /// row.
    pub recording: Recording,
}

impl AttemptReport {
    /// The report of an attempt that no component ran: no effects, no output, no recording.
    pub fn without_component(outcome: Outcome) -> Self {
        Self { outcome, maybe_executed: false, stderr: None, digest: None, recording: Recording::default() }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The effect is done.
    Done {
        /// The result of the handler; the store keeps it on the item.
        result: Option<Vec<u8>>,
        /// What the store writes for the handler in the same transaction.
        writes: HostWrites,
    },
    /// The attempt failed.
    Failed(Failure),
    /// The attempt did not start or did not end, because the process shuts down or the claim may hold no longer.
    /// The worker releases the claim: the attempt does not count, and the history gets no row.
    Interrupted,
    /// This process no longer serves the type. The worker releases the claim: the attempt does not count, and the
    /// history gets no row.
    NoHandler,
}
