//! `plugin list` and `plugin inspect`: looking at plugins, from running hosts or from the folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use clap::Subcommand;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::output::{clean, fields, or_dash, short, size, table};
use crate::config::Config;
use crate::handler::StateReader;
use crate::item::StateVersion;
use crate::plugin::{self, Inspection, PluginSettings, Plugins, SystemResolver};
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
        Plugin::Inspect { file } => inspect(&file, context).await,
    }
}

/// Fails when the component would not be loaded.
async fn inspect(file: &Path, context: &Context) -> anyhow::Result<ExitCode> {
    let inspection = plugin::inspect(file, settings(&context.config, Arc::new(NoState))).await?;
    context.output.emit(&inspection, || page(&inspection))?;
    Ok(if inspection.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn page(inspection: &Inspection) -> String {
    let facts = fields(&[
        ("name", inspection.name.clone()),
        ("file", inspection.file.display().to_string()),
        ("size", size(inspection.size)),
        ("sha256", inspection.digest.clone()),
        ("compiled in", format!("{:.1?}", inspection.compile_time)),
        ("calls itself", or_dash(inspection.described_name.as_deref())),
        ("version", or_dash(inspection.version.as_deref())),
        ("types", or_dash(Some(inspection.types.join(", ").as_str()).filter(|types| !types.is_empty()))),
    ]);
    let list = |title: &str, lines: &[String]| {
        let lines: Vec<_> = lines.iter().map(|line| format!("  {}", clean(line))).collect();
        (!lines.is_empty()).then(|| format!("{title}\n{}", lines.join("\n")))
    };
    let grants: Vec<_> = inspection.missing_grants.iter().flat_map(|lines| lines.lines()).map(str::to_owned).collect();
    let parts = [
        Some(facts),
        list("Imports", &inspection.imports),
        list("Exports", &inspection.exports),
        list("Why it would not be loaded", &inspection.errors),
        list("Lines of its manifest that grant what it imports", &grants),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
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
    let plugins = start(config, Arc::new(NoState), stop).await?;
    Ok(members(&serde_json::to_value(plugins.status())?))
}

/// Loads the folder by this configuration and follows it until `stop` is cancelled.
pub(super) async fn start(
    config: &Config,
    state: Arc<dyn StateReader>,
    stop: CancellationToken,
) -> anyhow::Result<Arc<Plugins>> {
    let settings = settings(config, state);
    Plugins::start(settings, stop).await.context("starting the plugins (see OUTBOX_PLUGINS and OUTBOX_CACHE_DIR)")
}

fn settings(config: &Config, state: Arc<dyn StateReader>) -> PluginSettings {
    let environment = config.environment.clone();
    PluginSettings {
        dir: config.plugins.clone(),
        role: config.role.clone(),
        cache_dir: config.cache_dir.clone(),
        lease: config.lease,
        retry: config.retry,
        slots: config.concurrency,
        environment: Arc::new(move |name: &str| environment.get(name)),
        state,
        resolver: Arc::new(SystemResolver),
    }
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
            or_dash(word("state")),
            or_dash(word("error")),
        ]
    };
    table(["POD", "PLUGIN", "VERSION", "TYPES", "GENERATION", "DIGEST", "STATE", "ERROR"], plugins.iter().map(row))
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
