//! What a host does beside its work: it shows that it is there, deletes what is past its time, and lets
//! plugins read their state.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::cli::arguments::before;
use crate::edge::HostStatus;
use crate::handler::{Handler as _, Quarantine, StateReader, Withdrawal};
use crate::item::{StateVersion, Status};
use crate::plugin::Plugins;
use crate::store::{Action, Filter, Order, Page, Pod, Quarantined, Run, Selection, Store, StoreError};

/// Three beats fit into the time after which a host is taken for gone.
const BEAT: Duration = Duration::from_secs(5);

/// Retention is counted in hours and days; looking more often would only cost.
const RETENTION_PERIOD: Duration = Duration::from_mins(10);

/// Lets attempts read the state of their plugin from the store.
pub(super) struct StoredState(pub(super) Arc<dyn Store>);

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
pub(super) fn status(plugins: &Plugins) -> HostStatus {
    HostStatus {
        scanned: plugins.is_scanned(),
        plugins: described(plugins),
        served_types: plugins.services().into_iter().map(|service| service.item_type).collect(),
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
}

impl Heartbeat {
    /// Beats until `end` is cancelled, and once more to say that the process is no longer ready.
    pub(super) async fn run(self, end: CancellationToken) {
        let mut changes = self.plugins.changes();
        loop {
            self.beat(self.plugins.is_scanned()).await;
            tokio::select! {
                () = end.cancelled() => break,
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(BEAT) => {}
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
        if let Err(err) = self.store.heartbeat(&pod).await {
            tracing::warn!(error = %err, "this process could not show itself to the cockpit");
        }
    }
}

/// Deletes items that have been DONE for longer than `age`, until `end` is cancelled.
pub(super) async fn retain_done(store: Arc<dyn Store>, age: Duration, end: CancellationToken) {
    loop {
        match purge_done(&*store, age).await {
            Ok(0) => {}
            Ok(purged) => tracing::info!(items = purged, "purged what was DONE for longer than OUTBOX_RETAIN_DONE"),
            Err(err) => tracing::warn!(error = %err, "could not purge DONE items; trying again later"),
        }
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(RETENTION_PERIOD) => {}
        }
    }
}

/// Looks first, so that the audit trail tells of purges and not of looking.
async fn purge_done(store: &dyn Store, age: Duration) -> Result<u64, StoreError> {
    let finished_to = Some(before(store.now().await?, age));
    let filter = Filter { status: vec![Status::Done], finished_to, ..Filter::default() };
    if store.list(&filter, &Page { limit: 1, before: None }).await?.is_empty() {
        return Ok(0);
    }
    let order = Order {
        action: Action::Purge,
        selection: Selection::Filter(filter),
        actor: "outbox".to_owned(),
        reason: Some("OUTBOX_RETAIN_DONE".to_owned()),
        run: Run::Real,
    };
    Ok(store.operate(&order).await?.changed)
}
