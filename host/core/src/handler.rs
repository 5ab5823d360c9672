//! The seam between the claim loop and whatever performs effects.
//!
//! The worker knows this trait and not WebAssembly; the plugin runtime implements it and does not know
//! the store. A scripted handler drives the worker's tests through the same door.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::host_writes::HostWrites;
use crate::key_locks::AttemptLocks;
use crate::recording::Recording;
use crate::retry::{BreakerPolicy, RetryPolicy};
use crate::settlement::OnDead;
use outbox_item::{Item, Millis};

/// Performs the effects of items.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// What can be handled right now. Asked before every claim, so it must be cheap.
    fn served_types(&self) -> Vec<ServedType>;

    /// Ticks whenever the answer of [`Self::served_types`] may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Makes one attempt. Returns by the attempt's deadline, and soon after `stop` is cancelled; a
    /// caller may drop the future, which abandons the attempt with its outcome unknown. A failure of
    /// the handler is a value in the report, never a panic.
    async fn handle(&self, attempt: Attempt) -> AttemptReport;
}

/// One type of item that is served, and on what terms.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedType {
    /// The type.
    pub item_type: String,
    /// The longest that one attempt may take; `None` leaves it to the lease.
    pub timeout: Option<Duration>,
    /// How its failures are retried.
    pub retry: RetryPolicy,
    /// How many of its items may be claimed at a time, in all processes together.
    pub concurrency: Option<u32>,
    /// How many of its items may be claimed per second, in all processes together.
    pub rate: Option<f64>,
    /// What a dead-lettered item means for those behind it with the same ordering key.
    pub on_dead: OnDead,
    /// When a process stops claiming its items for a while; `None` means never.
    pub breaker: Option<BreakerPolicy>,
}

/// One attempt at one item.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The item; `item.attempts` is the number of this attempt.
    pub item: Arc<Item>,
    /// When the attempt is stopped, on the monotonic clock.
    pub deadline: Instant,
    /// The same moment in the store's time, for the handler to read.
    pub deadline_at: Millis,
    /// Whether there is an outbox behind the item.
    pub mode: DeliveryMode,
    /// Cancelled when the process shuts down and will not wait any longer.
    pub stop: CancellationToken,
    /// The locks that the attempt takes before it touches keys of its plugin's state.
    pub locks: Arc<AttemptLocks>,
}

/// Whether there is an outbox behind an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The item is stored and will be tried again.
    Durable,
    /// The item exists in this call only: state and follow-ups are not available to it.
    Inline,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptReport {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether a request that may have had an effect went out.
    pub maybe_executed: bool,
    /// The last that the handler wrote to its standard error and output, bounded.
    pub stderr: Option<String>,
    /// The digest of the component that ran.
    pub digest: Option<String>,
    /// What it sent and was answered, bounded. Empty for an attempt that can only become DONE.
    pub recording: Recording,
}

impl AttemptReport {
    /// A report of an attempt that no component ran.
    pub fn without_component(outcome: Outcome) -> Self {
        Self { outcome, maybe_executed: false, stderr: None, digest: None, recording: Recording::default() }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The effect is done.
    Done {
        /// What the handler answered; stored on the item.
        result: Option<Vec<u8>>,
        /// What the host stores for the handler in the same transaction.
        writes: HostWrites,
    },
    /// It failed.
    Failed(Failure),
    /// The process shuts down; the attempt is given back without a trace.
    Interrupted,
    /// The type is no longer served here; the attempt is given back without a trace.
    NoHandler,
}
