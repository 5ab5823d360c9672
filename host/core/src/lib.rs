//! The words that the parts of the host share: handlers and their attempts, failures, retries, sagas, settlements.
//!
//! Two seams meet here. The worker calls a [`Handler`] and does not know WebAssembly. The plugin runtime implements
//! it, reads state through [`StateReader`], and does not know the store.

mod failure;
mod fingerprint;
mod handler;
mod history;
mod host_writes;
mod key_locks;
mod metered;
mod plugin_ports;
mod recording;
mod retry;
pub mod saga;
mod settlement;

pub use failure::{Failure, FailureClass};
pub use fingerprint::fingerprint;
pub use handler::{Attempt, AttemptReport, DeliveryMode, Handler, Outcome, ServedType};
pub use history::FailedAttempt;
pub use host_writes::{HostWrites, STATE_KEY_MAX, STATE_VALUE_MAX, StateChange, StateKeyChange, StateVersion};
pub use key_locks::{AttemptLocks, KeyLockTimeout, KeyLocks};
pub use metered::{AttemptDurations, BUCKET_BOUNDS_MS, DurationHistogram, MeteredHandler};
pub use plugin_ports::{QuarantineEntry, QuarantineError, QuarantineStore, StateReadError, StateReader};
pub use recording::{RecordedBody, RecordedExchange, RecordedResponse, Recording};
pub use retry::{BreakerPolicy, MAX_RETRY_AFTER, MAX_UNCOUNTED_PERIOD, RetryPolicy};
pub use saga::{
    SagaDefinition, SagaOutcome, Signal, StepOutcome, begin_data, begin_signal, end_data, end_signal, step_signal,
};
pub use settlement::{OnDead, Settlement, settlement_for};
