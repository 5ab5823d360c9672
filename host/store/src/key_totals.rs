//! The totals of fairness keys, by type: whose items wait, are claimed, or are dead.
//!
//! Values only; how an engine counts is not known here.

use serde::Serialize;

use outbox_item::Millis;

/// The unfinished and dead items of one fairness key and type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyTotals {
    /// The key.
    pub fairness_key: String,
    /// The type.
    pub r#type: String,
    /// Items that wait.
    pub pending: u64,
    /// Those of them that wait for another attempt.
    pub retrying: u64,
    /// Items that are claimed.
    pub claimed: u64,
    /// Items in the DLQ.
    pub dlq: u64,
    /// When the first of those that wait is due, or was; `None` when none waits.
    pub first_due: Option<Millis>,
}
