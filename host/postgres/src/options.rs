//! What a caller decides when it opens a store.

use std::time::Duration;

use outbox_store::Clock;
use outbox_store::engine::alerts::AlertSettings;

/// How a store is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// The instance id of this process, which the store writes into claims and signals.
    pub instance: String,
    /// A clock instead of the database's clock, for tests.
    pub clock: Option<Clock>,
    /// Which events the store reports to operators as items; `None` reports none.
    pub alerts: Option<AlertSettings>,
    /// The most connections for calls, at least two. Workers have four more, probes one, and one listens for changes.
    pub connections: usize,
    /// The URL at which the store listens for notifications; `None` uses the URL of the database. It must lead to a
    /// session of its own, which a pooler in transaction mode does not give.
    pub listen_url: Option<String>,
    /// The longest run of a statement. A wait for a lock or for a connection takes at most half of it.
    pub statement_timeout: Duration,
    /// Root certificates in PEM with which the server's certificate is checked, instead of the public roots.
    pub root_certificates: Option<Vec<u8>>,
}

impl Default for PostgresOptions {
    /// The database's clock, a new random instance id, no alerts, eight connections for calls, and ten seconds per statement.
    fn default() -> Self {
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let (connections, statement_timeout) = (8, Duration::from_secs(10));
        Self {
            instance,
            clock: None,
            alerts: None,
            connections,
            listen_url: None,
            statement_timeout,
            root_certificates: None,
        }
    }
}
