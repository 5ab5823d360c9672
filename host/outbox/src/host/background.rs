//! The background work of a host: its heartbeat, the maintenance of the store, and its status.
//!
//! Items are claimed, handled and settled correctly without this work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use outbox_core::{Handler as _, MeteredHandler, Outage};
use outbox_http::HostStatus;
use outbox_item::Millis;
use outbox_runtime::Plugins;
use outbox_store::{Maintain, MaintenanceReport, Pod, Retention};
use outbox_worker::Tally;

use crate::images::Images;

/// Three heartbeats fit into the time after which other pods consider a pod gone.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// The pause after a heartbeat that the store rejected. The host is ready again within this time after the store is.
const HEARTBEAT_RETRY: Duration = Duration::from_secs(1);

/// Maintenance runs in small pieces, so that jobs go on quickly and no write waits long for a piece.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// The pause after a piece that left items to delete. So retention keeps up with thousands of items a second, and leaves
/// the store to others half of the time or more.
const RETENTION_PAUSE: Duration = Duration::from_millis(50);

/// The state of the host, for probes, metrics and the cockpit. A host that claims no items serves no types of the store.
pub(crate) fn status(
    plugins: &Plugins,
    images: &Images,
    metered: &MeteredHandler,
    write_outage: &Outage,
    has_worker: bool,
) -> HostStatus {
    let found = plugins.status();
    let served_types = if has_worker { plugins.served_types() } else { Vec::new() };
    HostStatus {
        is_scanned: plugins.is_scanned(),
        images_without_version: images.without_version(&found),
        is_read_only: write_outage.is_ongoing(),
        plugins: images.shown(found),
        served_types: served_types.into_iter().map(|served_type| served_type.item_type).collect(),
        durations: metered.durations(),
        attempts_running: metered.running(),
        breakers: plugins.breakers().status(Instant::now()),
        ..HostStatus::default()
    }
}

/// Writes the row of this process that the cockpit shows, at every change of its plugins and every few seconds, and adds
/// what it has settled to the history.
#[derive(Clone)]
pub(crate) struct Heartbeat {
    pub(crate) store: Arc<dyn Maintain>,
    pub(crate) plugins: Arc<Plugins>,
    /// The images that some of the plugins are from.
    pub(crate) images: Arc<Images>,
    pub(crate) instance: String,
    pub(crate) role: Option<String>,
    /// Whether the process claims items. Without, its plugins handle no item of the store.
    pub(crate) has_worker: bool,
    /// What the worker has settled.
    pub(crate) tally: Tally,
    /// Lasts while the store rejects heartbeats.
    pub(crate) write_outage: Arc<Outage>,
}

impl Heartbeat {
    /// Writes heartbeats until `end` is cancelled, and then ends the row.
    pub(crate) async fn run(self, end: CancellationToken) {
        let mut changes = self.plugins.changes();
        loop {
            self.beat(self.plugins.is_scanned()).await;
            add_history(&*self.store, &self.tally).await;
            let pause = if self.write_outage.is_ongoing() { HEARTBEAT_RETRY } else { HEARTBEAT_INTERVAL };
            tokio::select! {
                () = end.cancelled() => break,
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Err(err) = self.store.end_heartbeat(&self.instance).await {
            tracing::debug!(error = %err, "the store shows this process until it has been silent for long");
        }
    }

    async fn beat(&self, is_ready: bool) {
        let found = self.plugins.status();
        let pod = Pod {
            instance: self.instance.clone(),
            role: self.role.clone(),
            ready: is_ready && self.images.without_version(&found).is_empty(),
            heartbeat_at: Millis::default(),
            plugins: if self.has_worker { self.images.shown(found) } else { Vec::new() },
            breakers: self.plugins.breakers().status(Instant::now()),
        };
        match self.store.heartbeat(&pod).await {
            Ok(()) => {
                if self.write_outage.succeeded() {
                    tracing::info!("the store takes writes again");
                }
            }
            Err(err) => {
                if self.write_outage.failed() {
                    tracing::warn!(error = %err, "the store takes no writes: not ready until it does");
                }
            }
        }
    }
}

/// Adds what the worker has settled to the store's history. What the store does not take is tried again; it may have
/// taken it all the same.
pub(crate) async fn add_history(store: &dyn Maintain, tally: &Tally) {
    let rows = tally.take();
    if rows.is_empty() {
        return;
    }
    if let Err(err) = store.add_history(&rows).await {
        tracing::debug!(error = %err, "the history waits for the store");
        tally.put_back(rows);
    }
}

/// Runs pieces of maintenance until `end` is cancelled.
pub(crate) async fn maintenance_loop(
    store: Arc<dyn Maintain>,
    retention: watch::Receiver<Retention>,
    end: CancellationToken,
) {
    let (outage, mut pause) = (Outage::default(), MAINTENANCE_INTERVAL);
    while end.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = MAINTENANCE_INTERVAL;
        let retention = *retention.borrow();
        match store.run_maintenance(&retention).await {
            Ok(report) => {
                outage.succeeded();
                if report.is_more {
                    pause = RETENTION_PAUSE;
                }
                if report != MaintenanceReport::default() {
                    let MaintenanceReport { changed, items, signals, .. } = report;
                    tracing::debug!(job.changed = changed, pruned.items = items, pruned.signals = signals, "upkeep");
                }
            }
            Err(err) => {
                if outage.failed() {
                    tracing::warn!(error = %err, "the upkeep of the store failed; trying again each second");
                }
            }
        }
    }
}
