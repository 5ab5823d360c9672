//! Keeping a store in shape: jobs that go on, retention, and the rows of live processes.
//!
//! The callers decide when maintenance runs. Each engine decides what else it cleans up.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::StoreError;
use crate::history::HistoryMinute;
use crate::pods::Pod;

/// The background side of a store. Every process that has the store open calls these methods: maintenance about once a
/// second, the others every few seconds.
///
/// A caller may not assume that one call does all there is to do: each call does a bounded piece, so that workers
/// never wait for it for long. Correctness does not depend on them: a process that calls none only leaves work undone.
#[async_trait]
pub trait Maintain: Send + Sync + 'static {
    /// One bounded piece of maintenance: batches of running jobs, deletions that retention asks for, and what the
    /// engine's files need.
    async fn run_maintenance(&self, retention: &Retention) -> Result<MaintenanceReport, StoreError>;

    /// Shows this process to the cockpit. Errors while the store takes no writes, its own or those of items.
    async fn heartbeat(&self, pod: &Pod) -> Result<(), StoreError>;

    /// Ends the row of this process, which stops: it is not shown any more. One that leaves leases behind stays and is not
    /// ready, so that they are shown as its own until they end.
    async fn end_heartbeat(&self, instance: &str) -> Result<(), StoreError>;

    /// Adds figures to the rows of their minutes and types. A caller that gets no answer cannot know whether they were
    /// added.
    async fn add_history(&self, rows: &[HistoryMinute]) -> Result<(), StoreError>;
}

/// How long finished things stay. `None` keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// DONE items, from `done_at`, each with everything that belongs to it. Those of a saga go when all of its items
    /// are finished and old enough.
    pub done: Option<Duration>,
    /// Items in the DLQ, from `dead_at`, likewise. A key that such an item blocked is free again.
    pub dead: Option<Duration>,
    /// Signals, whose totals stay; finished jobs except the newest; and the times at which alerts were last sent.
    pub signals: Option<Duration>,
    /// Entries of the audit trail.
    pub audit: Option<Duration>,
    /// The figures of each minute and type.
    pub history: Option<Duration>,
}

/// What a piece of maintenance did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceReport {
    /// Items that jobs changed.
    pub changed: u64,
    /// Finished items that were deleted.
    pub items: u64,
    /// Signals that were deleted.
    pub signals: u64,
    /// Whether the next piece may delete items at once: retention had to stop at the bound of a piece.
    pub is_more: bool,
}
