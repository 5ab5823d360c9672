//! What a host does beside its work: it shows that it is there, deletes what is past its time, and lets
//! plugins read their state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use outbox_core::{
    Handler as _, MeteredHandler, QuarantineEntry, QuarantineError, QuarantineStore, StateReadError, StateReader,
    StateVersion,
};
use outbox_http::HostStatus;
use outbox_runtime::Plugins;
use outbox_store::{MaintenanceReport, Pod, QuarantineRecord, Retention, Store};

/// Three beats fit into the time after which a host is taken for gone.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// After a beat that the store refused, readiness returns within this.
const HEARTBEAT_RETRY: Duration = Duration::from_secs(1);

/// Upkeep comes in small pieces, so that jobs go on quickly and nobody waits for a piece.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// Lets attempts read the state of their plugin from the store.
pub(crate) struct StoreStateReader(pub(crate) Arc<dyn Store>);

#[async_trait]
impl StateReader for StoreStateReader {
    async fn read(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        self.0.read_state(plugin, key).await.map_err(StateReadError::new)
    }
}

/// Remembers in the store which components are quarantined, so that every process does.
pub(crate) struct StoreQuarantine(pub(crate) Arc<dyn Store>);

#[async_trait]
impl QuarantineStore for StoreQuarantine {
    async fn add(&self, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        let QuarantineEntry { digest, plugin, reason } = entry;
        self.0.quarantine(digest, plugin, reason).await.map_err(QuarantineError::new)
    }

    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        let entry = |record: QuarantineRecord| {
            let QuarantineRecord { digest, plugin, reason, .. } = record;
            QuarantineEntry { digest, plugin, reason }
        };
        Ok(self.0.list_quarantine().await.map_err(QuarantineError::new)?.into_iter().map(entry).collect())
    }
}

/// How the host fares, for probes, scrapes and the cockpit.
pub(crate) fn status(plugins: &Plugins, metered: &MeteredHandler, is_read_only: &AtomicBool) -> HostStatus {
    HostStatus {
        is_scanned: plugins.is_scanned(),
        is_read_only: is_read_only.load(Ordering::Relaxed),
        plugins: plugin_status(plugins),
        served_types: plugins.served_types().into_iter().map(|served_type| served_type.item_type).collect(),
        durations: metered.durations(),
    }
}

fn plugin_status(plugins: &Plugins) -> serde_json::Value {
    serde_json::to_value(plugins.status()).expect("the status of plugins has string keys only")
}

/// Shows this process to the cockpit, at every change of its plugins and every few seconds.
pub(crate) struct Heartbeat {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) instance: String,
    pub(crate) role: Option<String>,
    /// Set while the store refuses the beats.
    pub(crate) is_read_only: Arc<AtomicBool>,
}

impl Heartbeat {
    /// Beats until `end` is cancelled, and once more to say that the process is no longer ready.
    pub(crate) async fn run(self, end: CancellationToken) {
        let mut changes = self.plugins.changes();
        loop {
            self.beat(self.plugins.is_scanned()).await;
            let pause = if self.is_read_only.load(Ordering::Relaxed) { HEARTBEAT_RETRY } else { HEARTBEAT_INTERVAL };
            tokio::select! {
                () = end.cancelled() => break,
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.beat(false).await;
    }

    async fn beat(&self, ready: bool) {
        let pod = Pod {
            instance: self.instance.clone(),
            role: self.role.clone(),
            ready,
            heartbeat_at: 0,
            plugins: plugin_status(&self.plugins),
        };
        let beaten = self.store.heartbeat(&pod).await;
        let was_read_only = self.is_read_only.swap(beaten.is_err(), Ordering::Relaxed);
        match beaten {
            Err(err) if !was_read_only => {
                tracing::warn!(error = %err, "the store takes no writes: not ready until it does");
            }
            Ok(()) if was_read_only => tracing::info!("the store takes writes again"),
            _ => {}
        }
    }
}

/// Keeps the store in shape, piece by piece, until `end` is cancelled.
pub(crate) async fn maintenance_loop(store: Arc<dyn Store>, retention: Retention, end: CancellationToken) {
    let mut failing = false;
    while end.run_until_cancelled(tokio::time::sleep(MAINTENANCE_INTERVAL)).await.is_some() {
        match store.run_maintenance(&retention).await {
            Ok(upkept) => {
                failing = false;
                if upkept != MaintenanceReport::default() {
                    let MaintenanceReport { changed, items, signals } = upkept;
                    tracing::debug!(job.changed = changed, pruned.items = items, pruned.signals = signals, "upkeep");
                }
            }
            Err(err) if !failing => {
                failing = true;
                tracing::warn!(error = %err, "the upkeep of the store failed; trying again each second");
            }
            Err(_) => {}
        }
    }
}
