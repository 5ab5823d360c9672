//! The words that the parts of an outbox share: handlers and their attempts, failures, retries, sagas, settlements.
//!
//! Two seams meet in this crate.
//!
//! **Worker and handler.** The worker claims an item, calls [`Handler::handle`] and gets an [`AttemptReport`]. It then
//! asks [`settlement_for`] what to do with the claim and passes the [`Settlement`] to the store. The worker sees no
//! WebAssembly. The plugin runtime implements [`Handler`] for all components of a folder.
//!
//! **Runtime and store.** The runtime reads plugin state through [`StateReader`] and shares quarantined components
//! through [`QuarantineStore`]. It never writes: a successful attempt reports its [`HostWrites`], and the store commits
//! them together with the completion. The runtime sees no store, so a guest has no way to reach the outbox.
//!
//! A handler can also be native Rust:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use outbox_core::{Attempt, AttemptReport, DeliveryMode, Handler, HostWrites, Outcome, ServedType};
//! use outbox_item::{ItemId, Millis, NewItem};
//! use tokio::sync::watch;
//! use tokio::time::Instant;
//!
//! /// Answers with the payload. The set of served types never changes.
//! struct Echo(watch::Sender<u64>);
//!
//! #[async_trait::async_trait]
//! impl Handler for Echo {
//!     fn served_types(&self) -> Vec<ServedType> {
//!         vec![ServedType::new("echo")]
//!     }
//!
//!     fn changes(&self) -> watch::Receiver<u64> {
//!         self.0.subscribe()
//!     }
//!
//!     async fn handle(&self, attempt: Attempt) -> AttemptReport {
//!         let result = Some(attempt.item.payload.clone());
//!         AttemptReport::without_component(Outcome::Done { result, writes: HostWrites::default() })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // A worker fills these fields from its claim.
//! let attempt = Attempt {
//!     item: Arc::new(NewItem::new("echo", "key-1", "hello").into_item(ItemId::new(1), Millis::default())),
//!     deadline: Instant::now() + Duration::from_secs(30),
//!     deadline_at: Millis::new(30_000),
//!     mode: DeliveryMode::Durable,
//!     stop: Default::default(),
//!     locks: Default::default(),
//!     trace: None,
//! };
//! let report = Echo(watch::Sender::new(0)).handle(attempt).await;
//! assert!(matches!(report.outcome, Outcome::Done { result: Some(result), .. } if result == b"hello"));
//! # }
//! ```

#![deny(missing_docs)]

mod breaker;
mod crash_budget;
mod digest;
mod failed_attempt;
mod failure;
mod fingerprint;
mod handler;
mod host_writes;
mod item_move;
mod key_locks;
mod metered;
mod on_dead;
mod outage_log;
mod plugin_ports;
mod plugin_status;
mod recording;
mod retry;
pub mod saga;
mod settlement;
mod spans;
mod spellings;
mod trace;
mod wildcard;

pub use crate::breaker::attempt_origins::{AttemptOrigins, BREAKER_OPEN};
pub use crate::breaker::breakers::Breakers;
pub use crate::breaker::origin::{BREAKER_ITEMS, BREAKER_OPEN_MAX, BREAKER_WINDOW, PROBE_MAX, PROBE_MIN};
pub use crate::breaker::origins::{BreakerNews, RequestEnd};
pub use crate::breaker::policy::{BreakerMode, BreakerPolicy};
pub use crate::breaker::status::{BreakerState, BreakerStatus};
pub use crate::crash_budget::{CrashBudget, SuspectRoom, SuspectRun, has_attempt_left};
pub use crate::digest::{ComponentDigest, InvalidDigest, hex, sha256};
pub use crate::failed_attempt::FailedAttempt;
pub use crate::failure::{Failure, FailureClass, HOST_RESOURCES, HOST_STATE};
pub use crate::fingerprint::{fingerprint, normalised};
pub use crate::handler::{
    Attempt, AttemptReport, DeliveryMode, Handler, KeyLimits, Outcome, STREAK_DEFAULT, ServedType,
};
pub use crate::host_writes::{
    DESCENDANTS_CODE, DESCENDANTS_PERIOD, HostWrites, STATE_KEY_MAX, STATE_VALUE_MAX, StateChange, StateKeyChange,
    StateVersion,
};
pub use crate::item_move::{AttemptTrace, ClaimedPast, Destination, ItemMove, Past};
pub use crate::key_locks::{AttemptLocks, KeyLockTimeout, KeyLocks};
pub use crate::metered::{AttemptDurations, BUCKET_BOUNDS_MS, DurationHistogram, MeteredHandler};
pub use crate::on_dead::OnDead;
pub use crate::outage_log::Outage;
pub use crate::plugin_ports::{
    OwnersError, PresentPlugin, QuarantineEntry, QuarantineError, QuarantineStore, StateReadError, StateReader,
    TypeOwner, TypeOwners,
};
pub use crate::plugin_status::{PluginLimits, PluginRuns, PluginState, PluginStatus, RefusedType};
pub use crate::recording::{RecordedBody, RecordedExchange, RecordedResponse, Recording};
pub use crate::retry::{MAX_RETRY_AFTER, MAX_UNCOUNTED_PERIOD, RetryPolicy};
pub use crate::settlement::{Circumstances, Settlement, settlement_for};
pub use crate::spans::{RequestSpan, Span, SpanFact, SpanSink, SpanWork, TracedAttempt};
pub use crate::spellings::spellings;
pub use crate::trace::{SpanIds, TRACEPARENT, TRACESTATE, TraceContext, trace_id_of};
pub use crate::wildcard::wildcard_matches;
