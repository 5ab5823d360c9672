//! One failed attempt, as the history of an item keeps it.

use serde::Serialize;

use outbox_item::Millis;

use crate::failure::FailureClass;
use crate::recording::Recording;

/// One attempt that did not end DONE, as the history keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailedAttempt {
    /// Which claim of all lives it was, from 1.
    pub delivery: u32,
    /// Which attempt of its life it was, from 1.
    pub attempt: u32,
    /// When the claim began.
    pub started_at: Millis,
    /// When the claim was settled, or found expired.
    pub ended_at: Millis,
    /// The instance id of the process that ran it.
    pub pod: String,
    /// What kind of failure it was.
    pub class: FailureClass,
    /// Stable and dotted, for grouping.
    pub code: String,
    /// For the person who reads it.
    pub message: String,
    /// The last that the handler wrote to its standard error and output, bounded.
    pub stderr: Option<String>,
    /// The digest of the component that ran it.
    pub handler_digest: Option<String>,
    /// Whether a request that may have had an effect had gone out.
    pub maybe_executed: bool,
    /// What it sent and was answered, as far as it was kept.
    #[serde(flatten)]
    pub recording: Recording,
}
