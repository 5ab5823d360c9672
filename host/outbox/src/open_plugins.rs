//! Starts the plugin runtime by the configuration, and scans the plugin folder once for commands that need no host.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use outbox_core::{PluginStatus, QuarantineStore, StateReader, TypeOwners};
use outbox_runtime::{EnvLookup, PluginSettings, Plugins, SystemResolver};

use crate::config::Config;
use crate::host::store_adapters::{StoreQuarantine, StoreTypeOwners, WithoutStore};
use crate::images::{self, Images};
use crate::open_store;

/// Starts to load and watch the plugin folder, until `stop` is cancelled.
pub(crate) fn start(
    config: &Config,
    state: Arc<dyn StateReader>,
    quarantine: Arc<dyn QuarantineStore>,
    owners: Arc<dyn TypeOwners>,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Plugins>> {
    start_with(settings(config, state, quarantine, owners), stop)
}

fn start_with(settings: PluginSettings, stop: &CancellationToken) -> anyhow::Result<Arc<Plugins>> {
    Plugins::start(settings, stop)
        .context("starting the plugins (see OUTBOX_PLUGINS, OUTBOX_PLUGIN_KEYS, OUTBOX_CA_FILE and OUTBOX_CACHE_DIR)")
}

/// Loads the folder once, as a host would, and returns the status of each file. Writes nothing.
pub(crate) async fn scan(config: &Config) -> anyhow::Result<Vec<PluginStatus>> {
    let stop = CancellationToken::new();
    let _stopped_at_the_end = stop.clone().drop_guard();
    let (quarantine, owners) = existing_records(config).await;
    let settings = settings(config, Arc::new(WithoutStore), quarantine, owners);
    let plugins = start_with(PluginSettings { keeps_in_cache: false, ..settings }, &stop)?;
    plugins.scanned().await;
    Ok(Images::new(config)?.shown(plugins.status()))
}

/// The quarantine of the store and the owners of types; empty when no store can be opened.
async fn existing_records(config: &Config) -> (Arc<dyn QuarantineStore>, Arc<dyn TypeOwners>) {
    match open_store::open_existing(config, "").await {
        Ok(store) => {
            let owners = StoreTypeOwners { store: store.clone(), role: config.role.clone(), is_host: false };
            (Arc::new(StoreQuarantine(store)), Arc::new(owners))
        }
        Err(_) => (Arc::new(WithoutStore), Arc::new(WithoutStore)),
    }
}

/// The settings of a plugin runtime that handles nothing: it can inspect components.
pub(crate) fn settings_without_store(config: &Config) -> PluginSettings {
    settings(config, Arc::new(WithoutStore), Arc::new(WithoutStore), Arc::new(WithoutStore))
}

fn settings(
    config: &Config,
    state: Arc<dyn StateReader>,
    quarantine: Arc<dyn QuarantineStore>,
    owners: Arc<dyn TypeOwners>,
) -> PluginSettings {
    PluginSettings {
        dirs: config.plugins.folder.iter().cloned().collect(),
        image_dirs: images::folders(config),
        role: config.role.clone(),
        cache_dir: config.cache_dir.clone(),
        keeps_in_cache: true,
        attempt_time: outbox_worker::attempt_time_without_timeout(config.lease),
        retry: config.retry,
        breaker: config.breaker.effective(),
        slots: outbox_worker::most_attempts(config.concurrency),
        environment: environment(config),
        keys: config.plugin_keys.clone(),
        ca_files: config.ca_files.clone(),
        state,
        quarantine,
        owners,
        resolver: Arc::new(SystemResolver),
    }
}

/// The variables that manifests may refer to: their values, or the files that hold them.
pub(crate) fn environment(config: &Config) -> EnvLookup {
    let environment = config.environment.clone();
    Arc::new(move |name: &str| environment.value_or_file(name))
}
