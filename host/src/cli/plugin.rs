//! `plugin list`, `plugin inspect`, `plugin quarantine` and `plugin release`: looking at plugins, from
//! running hosts or from the folder, and at the components that were withdrawn.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::arguments::AuditArgs;
use super::output::{clean, fields, or_dash, relative, short, size, table};
use super::serve::StoredQuarantine;
use super::{Context, database};
use crate::config::Config;
use crate::handler::{Quarantine, StateReader, Withdrawal};
use crate::item::{Millis, StateVersion};
use crate::plugin::{self, Inspection, PluginSettings, Plugins, SystemResolver};
use crate::store::{Overview, Pod, Quarantined};

#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// List the plugins of running hosts; without one, those that the folder would give
    List,
    /// Show what a component is, asks for and is granted
    Inspect {
        /// The component's file
        file: PathBuf,
    },
    /// List the components that were withdrawn because they kept faulting
    Quarantine,
    /// Let a quarantined component run again
    Release(Release),
    /// Look at what plugins keep, or remove it
    #[command(subcommand)]
    State(super::state::State),
}

#[derive(Debug, Args)]
pub(super) struct Release {
    /// The component's SHA-256, or as much of its beginning as tells it apart
    digest: String,
    /// Only say what would be released
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(super) async fn run(args: Plugin, context: &Context) -> anyhow::Result<ExitCode> {
    match args {
        Plugin::List => list(context).await,
        Plugin::Inspect { file } => inspect(&file, context).await,
        Plugin::Quarantine => quarantine(context).await,
        Plugin::Release(args) => release(args, context).await,
        Plugin::State(args) => super::state::run(args, context).await,
    }
}

/// Fails when the component would not be loaded.
async fn inspect(file: &Path, context: &Context) -> anyhow::Result<ExitCode> {
    let settings = settings(&context.config, Arc::new(NoStore), Arc::new(NoStore));
    let inspection = plugin::inspect(file, settings).await?;
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
    let running = match context.existing_store().await {
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

async fn quarantine(context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let (now, quarantined) = (store.now().await?, store.quarantined().await?);
    context.output.emit(&quarantined, || withdrawn_rows(now, &quarantined))?;
    Ok(ExitCode::SUCCESS)
}

fn withdrawn_rows(now: Millis, quarantined: &[Quarantined]) -> String {
    if quarantined.is_empty() {
        return "No component is quarantined.".to_owned();
    }
    let row = |entry: &Quarantined| {
        [entry.plugin.clone(), entry.digest.clone(), relative(now, entry.at), entry.pod.clone(), clean(&entry.reason)]
    };
    table(["PLUGIN", "DIGEST", "SINCE", "POD", "REASON"], quarantined.iter().map(row))
}

/// Hosts load the component again, on probation, when they look next.
async fn release(args: Release, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let found = find(store.quarantined().await?, &args.digest)?;
    let actor = args.audit.actor.unwrap_or_else(|| context.config.identity.to_string());
    if !args.dry_run && !store.release_quarantined(&found.digest, &actor, args.audit.reason.as_deref()).await? {
        bail!("{} was released by somebody else meanwhile", found.digest);
    }
    let done = if args.dry_run { "would release" } else { "released" };
    context.output.emit(&found, || format!("{done} {} of plugin {}: {}", found.digest, found.plugin, found.reason))?;
    Ok(ExitCode::SUCCESS)
}

fn find(quarantined: Vec<Quarantined>, digest: &str) -> anyhow::Result<Quarantined> {
    let mut found = quarantined.into_iter().filter(|entry| entry.digest.starts_with(digest));
    let Some(first) = found.next() else {
        bail!("no component with the digest {digest:?} is quarantined: look with `outbox plugin quarantine`");
    };
    match found.next() {
        None => Ok(first),
        Some(second) => bail!("{digest:?} may be {} or {}: give more of the digest", first.digest, second.digest),
    }
}

/// Loads the folder as a host would, and says what came of each file.
pub(super) async fn scan(config: &Config) -> anyhow::Result<Vec<Value>> {
    let stop = CancellationToken::new();
    let _stopped_at_the_end = stop.clone().drop_guard();
    let plugins = start(config, Arc::new(NoStore), known_quarantine(config).await, &stop)?;
    plugins.scanned().await;
    Ok(members(&serde_json::to_value(plugins.status())?))
}

/// What the store has withdrawn, if there is one.
async fn known_quarantine(config: &Config) -> Arc<dyn Quarantine> {
    match database::open_existing(config, "").await {
        Ok(store) => Arc::new(StoredQuarantine(store)),
        Err(_) => Arc::new(NoStore),
    }
}

/// Begins to follow the folder by this configuration, until `stop` is cancelled.
pub(super) fn start(
    config: &Config,
    state: Arc<dyn StateReader>,
    quarantine: Arc<dyn Quarantine>,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Plugins>> {
    Plugins::start(settings(config, state, quarantine), stop)
        .context("starting the plugins (see OUTBOX_PLUGINS, OUTBOX_PLUGIN_KEYS and OUTBOX_CACHE_DIR)")
}

fn settings(config: &Config, state: Arc<dyn StateReader>, quarantine: Arc<dyn Quarantine>) -> PluginSettings {
    let environment = config.environment.clone();
    PluginSettings {
        dir: config.plugins.clone(),
        role: config.role.clone(),
        cache_dir: config.cache_dir.clone(),
        lease: config.lease,
        retry: config.retry,
        slots: config.concurrency,
        environment: Arc::new(move |name: &str| environment.get(name)),
        keys: config.plugin_keys.clone(),
        state,
        quarantine,
        resolver: Arc::new(SystemResolver),
    }
}

/// Stands where nothing is handled, so nothing is read, and where no store says what is withdrawn.
struct NoStore;

#[async_trait]
impl StateReader for NoStore {
    async fn read(&self, plugin: &str, key: &str) -> anyhow::Result<(Option<Vec<u8>>, StateVersion)> {
        bail!("no store is open to read {key:?} of plugin {plugin:?} from")
    }
}

#[async_trait]
impl Quarantine for NoStore {
    async fn add(&self, withdrawal: &Withdrawal) -> anyhow::Result<()> {
        bail!("no store is open to quarantine {} in", withdrawal.digest)
    }

    async fn list(&self) -> anyhow::Result<Vec<Withdrawal>> {
        Ok(Vec::new())
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
