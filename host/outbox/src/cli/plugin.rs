//! The verbs about plugins, a file each below `plugin/`, and what they share: the settings of the plugin
//! runtime, and a scan of the folder for who has no running host to ask.

mod build;
mod check;
mod inspect;
mod kit;
mod list;
mod new;
mod quarantine;
mod replay_item;
mod state;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use clap::Subcommand;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::cli::Context;
use crate::cli::serve::background::StoreQuarantine;
use crate::config::Config;
use crate::open_store;
use outbox_core::{QuarantineEntry, QuarantineError, QuarantineStore, StateReadError, StateReader, StateVersion};
use outbox_runtime::{EnvLookup, PluginSettings, Plugins, SystemResolver};

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List the plugins of running hosts; without one, those that the folder would give
    List,
    New(new::NewArgs),
    Build(build::BuildArgs),
    /// Show what a component is, asks for and is granted
    Inspect {
        /// The component's file
        file: PathBuf,
    },
    Test(test::TestArgs),
    Check(check::CheckArgs),
    /// List the components that were withdrawn because they kept faulting
    Quarantine,
    /// Let a quarantined component run again
    Release(quarantine::LiftQuarantineArgs),
    /// Run a handler on an item's failed attempt again, with the recorded answers and without touching anything
    ReplayItem(replay_item::ReplayItemArgs),
    /// Look at what plugins keep, or remove it
    #[command(subcommand)]
    State(state::StateCommand),
}

pub(crate) async fn run(args: PluginCommand, context: &Context) -> anyhow::Result<ExitCode> {
    match args {
        PluginCommand::List => list::run(context).await,
        PluginCommand::New(args) => new::run(args, context),
        PluginCommand::Build(args) => build::run(&args, context),
        PluginCommand::Inspect { file } => inspect::run(&file, context).await,
        PluginCommand::Test(args) => test::run(args, context).await,
        PluginCommand::Check(args) => check::run(args, context).await,
        PluginCommand::Quarantine => quarantine::list(context).await,
        PluginCommand::Release(args) => quarantine::release(args, context).await,
        PluginCommand::ReplayItem(args) => replay_item::run(args, context).await,
        PluginCommand::State(args) => crate::cli::plugin::state::run(args, context).await,
    }
}

/// Loads the folder as a host would, and says what came of each file.
pub(crate) async fn scan(config: &Config) -> anyhow::Result<Vec<Value>> {
    let stop = CancellationToken::new();
    let _stopped_at_the_end = stop.clone().drop_guard();
    let plugins = start(config, Arc::new(WithoutStore), known_quarantine(config).await, &stop)?;
    plugins.scanned().await;
    Ok(members(&serde_json::to_value(plugins.status())?))
}

fn members(array: &Value) -> Vec<Value> {
    array.as_array().into_iter().flatten().filter(|member| member.is_object()).cloned().collect()
}

/// The store's quarantine, if there is one.
async fn known_quarantine(config: &Config) -> Arc<dyn QuarantineStore> {
    match open_store::open_existing(config, "").await {
        Ok(store) => Arc::new(StoreQuarantine(store)),
        Err(_) => Arc::new(WithoutStore),
    }
}

/// Begins to follow the folder by this configuration, until `stop` is cancelled.
pub(crate) fn start(
    config: &Config,
    state: Arc<dyn StateReader>,
    quarantine: Arc<dyn QuarantineStore>,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Plugins>> {
    Plugins::start(settings(config, state, quarantine), stop)
        .context("starting the plugins (see OUTBOX_PLUGINS, OUTBOX_PLUGIN_KEYS and OUTBOX_CACHE_DIR)")
}

/// The environment that manifests may name.
fn environment(config: &Config) -> EnvLookup {
    let environment = config.environment.clone();
    Arc::new(move |name: &str| environment.get(name))
}

fn settings(config: &Config, state: Arc<dyn StateReader>, quarantine: Arc<dyn QuarantineStore>) -> PluginSettings {
    PluginSettings {
        dir: config.plugins.clone(),
        role: config.role.clone(),
        cache_dir: config.cache_dir.clone(),
        lease: config.lease,
        retry: config.retry,
        slots: config.concurrency,
        environment: environment(config),
        keys: config.plugin_keys.clone(),
        state,
        quarantine,
        resolver: Arc::new(SystemResolver),
    }
}

/// Stands where nothing is handled, so nothing is read, and where no store says what is quarantined.
pub(crate) struct WithoutStore;

#[async_trait]
impl StateReader for WithoutStore {
    async fn read(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        Err(StateReadError::new(format!("no store is open to read {key:?} of plugin {plugin:?} from")))
    }
}

#[async_trait]
impl QuarantineStore for WithoutStore {
    async fn add(&self, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        Err(QuarantineError::new(format!("no store is open to quarantine {} in", entry.digest)))
    }

    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        Ok(Vec::new())
    }
}
