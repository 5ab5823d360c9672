//! `plugin list` and `plugin inspect`: looking at plugins, from running hosts or from the folder.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Subcommand;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::output::{or_dash, short, table};
use crate::config::Config;
use crate::handler::{Handler as _, StateReader};
use crate::item::StateVersion;
use crate::plugin::{self, Environment, PluginSettings, Plugins};
use crate::store::{Overview, Pod};

#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// List the plugins of running hosts; without one, those that the folder would give
    List,
    /// Show what a component is, asks for and is granted
    Inspect {
        /// The component's file
        file: PathBuf,
    },
}

pub(super) async fn run(args: Plugin, context: &Context) -> anyhow::Result<ExitCode> {
    match args {
        Plugin::List => list(context).await,
        Plugin::Inspect { file } => {
            let inspection = plugin::inspect(&file, environment(&context.config)).await?;
            let inspection = serde_json::to_value(inspection)?;
            context.output.emit(&inspection, || format!("{inspection:#}"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(context: &Context) -> anyhow::Result<ExitCode> {
    let running = match context.existing_store() {
        Ok(store) => of_running_hosts(&store.overview().await?),
        // Without a database no host runs, and the folder can still be looked at.
        Err(_) => Vec::new(),
    };
    let found = if running.is_empty() { scan(&context.config).await? } else { running };
    context.output.emit(&found, || rows(&found))?;
    Ok(ExitCode::SUCCESS)
}

fn of_running_hosts(overview: &Overview) -> Vec<Value> {
    let pods = overview.living_pods();
    pods.flat_map(|pod| members(&pod.plugins).into_iter().map(|plugin| with_pod(plugin, pod))).collect()
}

fn with_pod(mut plugin: Value, pod: &Pod) -> Value {
    plugin["pod"] = json!(pod.instance);
    plugin
}

fn members(array: &Value) -> Vec<Value> {
    array.as_array().into_iter().flatten().filter(|member| member.is_object()).cloned().collect()
}

/// Loads the folder as a host would, and says what came of each file.
pub(super) async fn scan(config: &Config) -> anyhow::Result<Vec<Value>> {
    let stop = CancellationToken::new();
    let _stopped_at_the_end = stop.clone().drop_guard();
    let plugins = Plugins::start(settings(config), stop).await?;
    let mut changes = plugins.changes();
    while !plugins.is_scanned() {
        // A scan that changes nothing may not tick, so the wait is bounded.
        tokio::time::timeout(Duration::from_millis(50), changes.changed()).await.ok();
    }
    Ok(members(&serde_json::to_value(plugins.status())?))
}

/// How plugins are loaded where no item is handled.
fn settings(config: &Config) -> PluginSettings {
    settings_with(config, Arc::new(NoState))
}

/// How plugins are loaded, by this configuration.
pub(super) fn settings_with(config: &Config, state: Arc<dyn StateReader>) -> PluginSettings {
    PluginSettings {
        dir: config.plugins.clone(),
        role: config.role.clone(),
        cache_dir: config.cache_dir.clone(),
        retry: config.retry,
        slots: config.concurrency,
        environment: environment(config),
        state,
    }
}

/// What manifests may name of the environment.
fn environment(config: &Config) -> Environment {
    let environment = config.environment.clone();
    Arc::new(move |name: &str| environment.get(name))
}

/// Stands where nothing is handled, so nothing is read.
struct NoState;

#[async_trait]
impl StateReader for NoState {
    async fn read(&self, plugin: &str, key: &str) -> anyhow::Result<(Option<Vec<u8>>, StateVersion)> {
        anyhow::bail!("no store is open to read {key:?} of plugin {plugin:?} from")
    }
}

fn rows(plugins: &[Value]) -> String {
    if plugins.is_empty() {
        return "No plugins.".to_owned();
    }
    let row = |plugin: &Value| {
        let word = |member: &str| plugin[member].as_str();
        [
            or_dash(word("pod")),
            or_dash(word("name")),
            or_dash(word("version")),
            listed(&plugin["types"]),
            plugin["generation"].as_u64().map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            short(&or_dash(word("digest")), 12),
            or_dash(word("error")),
        ]
    };
    table(["POD", "PLUGIN", "VERSION", "TYPES", "GENERATION", "DIGEST", "ERROR"], plugins.iter().map(row))
}

fn listed(words: &Value) -> String {
    let words: Vec<_> = words.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    or_dash(Some(words.join(", ").as_str()).filter(|words| !words.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_that_still_beat_are_asked_for_their_plugins() {
        let pod = |instance: &str, heartbeat_at| Pod {
            instance: instance.to_owned(),
            role: None,
            ready: true,
            heartbeat_at,
            plugins: json!([{ "name": "webhook" }]),
        };
        let overview = Overview { now: 100_000, pods: vec![pod("a", 99_000), pod("b", 80_000)], ..Overview::default() };
        assert_eq!(of_running_hosts(&overview), [json!({ "name": "webhook", "pod": "a" })]);
    }
}
