//! What a host does beside its work: it shows that it is there, deletes what is past its time, and lets
//! plugins read their state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::edge::HostStatus;
use crate::handler::{Handler as _, Quarantine, StateReader, Timed, Withdrawal};
use crate::item::StateVersion;
use crate::plugin::Plugins;
use crate::store::{Pod, Quarantined, Retention, Store, Upkept};

/// Three beats fit into the time after which a host is taken for gone.
const BEAT: Duration = Duration::from_secs(5);

/// After a beat that the store refused, readiness returns within this.
const BEAT_AGAIN: Duration = Duration::from_secs(1);

/// Upkeep comes in small pieces, so that jobs go on quickly and nobody waits for a piece.
const UPKEEP: Duration = Duration::from_secs(1);

/// Lets attempts read the state of their plugin from the store.
pub(in crate::cli) struct StoredState(pub(in crate::cli) Arc<dyn Store>);

#[async_trait]
impl StateReader for StoredState {
    async fn read(&self, plugin: &str, key: &str) -> anyhow::Result<(Option<Vec<u8>>, StateVersion)> {
        Ok(self.0.read_state(plugin, key).await?)
    }
}

/// Remembers in the store which components are withdrawn, so that every process does.
pub(in crate::cli) struct StoredQuarantine(pub(in crate::cli) Arc<dyn Store>);

#[async_trait]
impl Quarantine for StoredQuarantine {
    async fn add(&self, withdrawal: &Withdrawal) -> anyhow::Result<()> {
        let Withdrawal { digest, plugin, reason } = withdrawal;
        Ok(self.0.quarantine(digest, plugin, reason).await?)
    }

    async fn list(&self) -> anyhow::Result<Vec<Withdrawal>> {
        let withdrawal = |entry: Quarantined| {
            let Quarantined { digest, plugin, reason, .. } = entry;
            Withdrawal { digest, plugin, reason }
        };
        Ok(self.0.quarantined().await?.into_iter().map(withdrawal).collect())
    }
}

/// How the host fares, for probes, scrapes and the cockpit.
pub(super) fn status(plugins: &Plugins, timed: &Timed, unwritable: &AtomicBool) -> HostStatus {
    HostStatus {
        scanned: plugins.is_scanned(),
        unwritable: unwritable.load(Ordering::Relaxed),
        plugins: described(plugins),
        served_types: plugins.services().into_iter().map(|service| service.item_type).collect(),
        durations: timed.durations(),
    }
}

fn described(plugins: &Plugins) -> serde_json::Value {
    serde_json::to_value(plugins.status()).expect("the status of plugins has string keys only")
}

/// Shows this process to the cockpit, at every change of its plugins and every few seconds.
pub(super) struct Heartbeat {
    pub(super) store: Arc<dyn Store>,
    pub(super) plugins: Arc<Plugins>,
    pub(super) instance: String,
    pub(super) role: Option<String>,
    /// Set while the store refuses the beats.
    pub(super) unwritable: Arc<AtomicBool>,
}

impl Heartbeat {
    /// Beats until `end` is cancelled, and once more to say that the process is no longer ready.
    pub(super) async fn run(self, end: CancellationToken) {
        let mut changes = self.plugins.changes();
        loop {
            self.beat(self.plugins.is_scanned()).await;
            let pause = if self.unwritable.load(Ordering::Relaxed) { BEAT_AGAIN } else { BEAT };
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
            plugins: described(&self.plugins),
        };
        let beaten = self.store.heartbeat(&pod).await;
        let was_unwritable = self.unwritable.swap(beaten.is_err(), Ordering::Relaxed);
        match beaten {
            Err(err) if !was_unwritable => {
                tracing::warn!(error = %err, "the store takes no writes: not ready until it does");
            }
            Ok(()) if was_unwritable => tracing::info!("the store takes writes again"),
            _ => {}
        }
    }
}

/// Keeps the store in shape, piece by piece, until `end` is cancelled.
pub(super) async fn upkeep(store: Arc<dyn Store>, retention: Retention, end: CancellationToken) {
    let mut failing = false;
    while end.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
        match store.upkeep(&retention).await {
            Ok(upkept) => {
                failing = false;
                if upkept != Upkept::default() {
                    let Upkept { changed, items, signals } = upkept;
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
