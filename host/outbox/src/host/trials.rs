//! Trials of the cockpit: the component that this process runs for a type, in a simulation of its own.
//!
//! It takes the component from the plugin's file, and only if the file has the very bytes that this process has loaded:
//! what was never accepted here does not run here, not even without a network.

use std::path::PathBuf;
use std::sync::Arc;

use outbox_core::{AttemptReport, Outcome, PluginState, PluginStatus};
use outbox_http::{TrialEnd, TrialOrder, TrialReport, TrialRequest, Trials};
use outbox_runtime::simulation::{AttemptEnd, ReplayedRequest, Simulator};
use outbox_runtime::{EnvLookup, Plugins};
use outbox_store::Store;

use crate::config::Config;
use crate::host::joined_work::JoinedWork;
use crate::host::store_adapters::StoreStateReader;
use crate::open_plugins::environment;
use crate::rerun::{Rerun, followup, in_words, rerun, state_change};

/// What a trial needs of the host.
struct TrialRoom {
    plugins: Arc<Plugins>,
    store: Arc<dyn Store>,
    environment: EnvLookup,
    cache_dir: PathBuf,
    /// Components that are being compiled. A compilation cannot be stopped, and can take longer than a person waits.
    compilations: JoinedWork<Result<Arc<Simulator>, String>>,
}

/// Trials with the plugins of this process.
pub(crate) fn trials(config: &Config, plugins: Arc<Plugins>, store: Arc<dyn Store>) -> Trials {
    let (environment, cache_dir) = (environment(config), config.cache_dir.clone());
    let compilations = JoinedWork::default();
    let room = Arc::new(TrialRoom { plugins, store, environment, cache_dir, compilations });
    Arc::new(move |order| {
        let room = Arc::clone(&room);
        Box::pin(async move { room.run(order).await })
    })
}

impl TrialRoom {
    async fn run(&self, TrialOrder { details, attempt, otherwise }: TrialOrder) -> Result<TrialReport, String> {
        let running = self.running(&details.item.item_type)?;
        let simulator = self.simulator(&running).await?;
        let plugin = simulator.plugin(&self.environment, std::collections::BTreeMap::new()).await;
        let plugin = plugin.map_err(|err| err.to_string())?;
        let state = Arc::new(StoreStateReader(self.store.clone()));
        let rerun = rerun(&plugin, &details, &attempt, otherwise, state).await;
        Ok(report(plugin.name(), simulator.digest().to_string(), rerun))
    }

    /// The component of the plugin, if its file has the version that this process runs. Another one is not compiled. One
    /// that is being compiled for an earlier trial is waited for, also when that trial was given up.
    async fn simulator(&self, running: &PluginStatus) -> Result<Arc<Simulator>, String> {
        let digest = running.digest.clone().unwrap_or_default();
        let key = format!("{digest} {}", running.file.display());
        let compiled = self.compilations.result(&key, open(running.clone(), self.cache_dir.clone(), digest)).await;
        compiled.unwrap_or_else(|| Err("the host met a fault of its own while it compiled the component".to_owned()))
    }

    /// The plugin of this process that gets items of the type.
    fn running(&self, item_type: &str) -> Result<PluginStatus, String> {
        let serves = |plugin: &PluginStatus| {
            plugin.state == PluginState::Active && plugin.types.iter().any(|served| served == item_type)
        };
        let found = self.plugins.status().into_iter().find(serves);
        found.ok_or_else(|| format!("this process has no handler for {item_type}: use the cockpit of one that has it"))
    }
}

async fn open(running: PluginStatus, cache_dir: PathBuf, digest: String) -> Result<Arc<Simulator>, String> {
    let opened = Simulator::open_version(&running.file, Some(&cache_dir), &digest).await;
    let name = &running.name;
    opened.map_err(|err| format!("{:#}", anyhow::Error::new(err)))?.map(Arc::new).ok_or_else(|| {
        format!(
            "the file of the plugin {name} is not the version that this process runs, so there is nothing to try it with: \
             the view Plugins says why"
        )
    })
}

fn report(plugin: &str, digest: String, Rerun { ending, requests, divergences }: Rerun) -> TrialReport {
    let requests = requests.into_iter().map(|ReplayedRequest { method, url, answer, is_recorded }| TrialRequest {
        method,
        url,
        answer,
        is_recorded,
    });
    let report = TrialReport {
        plugin: plugin.to_owned(),
        digest,
        ending: TrialEnd::Stopped,
        requests: requests.collect(),
        differences: divergences.iter().map(in_words).collect(),
        state: Vec::new(),
        followups: Vec::new(),
        stderr: None,
    };
    match ending {
        AttemptEnd::Crashed => report,
        AttemptEnd::Reported(AttemptReport { outcome, stderr, .. }) => ended(TrialReport { stderr, ..report }, outcome),
    }
}

fn ended(report: TrialReport, outcome: Outcome) -> TrialReport {
    match outcome {
        Outcome::Done { result, writes } => TrialReport {
            ending: TrialEnd::Done { result },
            state: writes.state.iter().filter_map(state_change).collect(),
            followups: writes.followups.iter().map(followup).collect(),
            ..report
        },
        Outcome::Failed(failure) => {
            let (class, code, message) = (failure.class, failure.code, failure.message);
            TrialReport { ending: TrialEnd::Failed { class, code, message }, ..report }
        }
        Outcome::Interrupted | Outcome::NoHandler => report,
    }
}
