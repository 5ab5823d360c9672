//! The seam between the bench and the database engines, and the items that every measurement uses.
//!
//! It does not know which engines exist.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use outbox_item::{NewItem, Status};
use outbox_store::{ClaimRequest, Store, StoreError};

use crate::bench::figures::Drained;
use crate::bench::report::Target;

/// The type of the items that native and built-in handlers serve.
pub(crate) const TYPE: &str = "noop";
/// About 200 bytes of JSON, the size of a small event.
pub(crate) const PAYLOAD: &str = r#"{"user":"8f14e45f-ceea-4c1b-9b7e-0d3a3f5a1c77","memory":"likes small, sharp tools and long walks","tags":["a","b","c"],"weight":0.7310585786300049,"source":"bench","note":"about two hundred bytes"}"#;
/// Items per call where many are enqueued at a time.
pub(crate) const BULK: usize = 1_000;

/// The order of the idempotency keys of consecutive items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOrder {
    /// Ascending with time, as the host makes them.
    Timed,
    /// Random, as callers may choose them.
    Random,
}

impl KeyOrder {
    /// A new key.
    pub(crate) fn next(self) -> String {
        match self {
            Self::Timed => uuid::Uuid::now_v7().to_string(),
            Self::Random => uuid::Uuid::new_v4().to_string(),
        }
    }
}

/// The rows that a store holds before a measurement: a million, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Preload {
    Nothing,
    Done,
    /// DONE rows with random keys.
    Random,
    Pending,
}

/// New items of a type, each with a key of its own.
pub(crate) fn items(item_type: &str, keys: KeyOrder, count: u32) -> Vec<NewItem> {
    (0..count).map(|_| NewItem::new(item_type, &keys.next(), PAYLOAD)).collect()
}

/// One new item with a key of its own.
pub(crate) fn item(keys: KeyOrder) -> NewItem {
    NewItem::new(TYPE, &keys.next(), PAYLOAD)
}

/// A database engine on which the bench creates stores.
#[async_trait(?Send)]
pub(crate) trait BenchEngine {
    /// An empty store.
    async fn new_store(&self) -> anyhow::Result<Box<dyn BenchStore>>;

    /// The time to insert the items into an empty table without indexes, `at_a_time` of them per commit.
    async fn bare_inserts(&self, items: &[NewItem], at_a_time: usize) -> anyhow::Result<Duration>;

    /// The times, in milliseconds, of making one small write durable, measured `times` times.
    async fn fsync(&self, times: u32) -> anyhow::Result<Vec<f64>>;

    /// Drains the items with the statements of the schema before this one, `batch` of them at a time. `None` where there
    /// is nothing to compare.
    async fn drain_old_schema(&self, items: &[NewItem], batch: usize) -> anyhow::Result<Option<Drained>>;

    /// The bytes that this process has written to files so far; `None` where another process writes the database.
    fn written(&self) -> Option<u64>;

    /// The ratios that the documents promise for this engine.
    fn targets(&self) -> &'static [Target];

    /// Removes everything that dropped stores left behind.
    async fn clean_up(&self) -> anyhow::Result<()>;
}

/// A temporary store, and direct access to its database beside the calls of [`Store`].
#[async_trait(?Send)]
pub(crate) trait BenchStore {
    fn store(&self) -> &Arc<dyn Store>;

    /// The same store, opened a second time, as another process would.
    async fn other(&self) -> anyhow::Result<Arc<dyn Store>>;

    /// The number of DONE items of a type, read so cheaply that it does not disturb the measurement.
    async fn done(&self, item_type: &str) -> Result<u64, StoreError>;

    /// Enqueues the items with the statements of the store in one transaction, without the rest of the host.
    async fn enqueue(&self, items: &[NewItem]) -> Result<(), StoreError>;

    /// Claims and settles with the statements of the store until no item is left, without the rest of the host.
    /// Returns the number of items.
    async fn drain(&self, request: &ClaimRequest) -> Result<usize, StoreError>;

    /// Inserts rows that are not measured themselves.
    async fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError>;

    /// Does the clean-up work of the database now, so that it does not disturb measurements.
    async fn tidy(&self) -> Result<(), StoreError>;
}
