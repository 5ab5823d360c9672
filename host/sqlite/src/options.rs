//! What a caller decides when it opens a store.

use std::sync::Arc;

use outbox_item::Millis;
use outbox_store::Clock;
use outbox_store::engine::alerts::AlertSettings;

/// How a store is opened.
#[derive(Clone)]
pub struct SqliteOptions {
    /// The instance id of this process, which the store writes into claims and signals.
    pub instance: String,
    /// The store's clock.
    pub clock: Clock,
    /// Which events the store reports to operators as items; `None` reports none.
    pub alerts: Option<AlertSettings>,
}

impl Default for SqliteOptions {
    /// The system's clock, a new random instance id, and no alerts.
    fn default() -> Self {
        Self { instance: uuid::Uuid::new_v4().simple().to_string(), clock: Arc::new(system_clock), alerts: None }
    }
}

/// The system's time in Unix milliseconds.
pub(crate) fn system_clock() -> Millis {
    std::time::SystemTime::now().into()
}
