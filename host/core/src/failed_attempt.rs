//! One failed attempt, as the history of an item shows it.
//!
//! Pure data. The stores write and read it; this file does not know how.

use serde::Serialize;

use outbox_item::Millis;

use crate::failure::FailureClass;
use crate::recording::Recording;

/// One attempt that failed, or attempts in a row that were given back for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailedAttempt {
    /// The number of the claim since enqueue, from 1; of the last claim, if there were several.
    pub delivery: u32,
    /// The number of the attempt since enqueue or the last replay, from 1.
    pub attempt: u32,
    /// When the claim began; of the first one, if there were several.
    pub started_at: Millis,
    /// When the worker settled the claim, or the store found it expired.
    pub ended_at: Millis,
    /// The instance id of the process that ran it.
    pub pod: String,
    /// The kind of the failure.
    pub class: FailureClass,
    /// See [`Failure::code`](crate::Failure::code).
    pub code: String,
    /// See [`Failure::message`](crate::Failure::message).
    pub message: String,
    /// The end of what the handler wrote to its standard error and output, bounded.
    pub stderr: Option<String>,
    /// The digest of the component that ran.
    pub handler_digest: Option<String>,
    /// Whether the attempt sent a request that may have had an effect.
    pub maybe_executed: bool,
    /// The requests and responses of the attempt, as far as the host kept them.
    #[serde(flatten)]
    pub recording: Recording,
}
