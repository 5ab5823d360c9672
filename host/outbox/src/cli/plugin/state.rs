//! `plugin state list|show|clear`: prints the stored state of plugins, and removes it.

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use serde::Serialize;
use serde_json::value::RawValue;

use outbox_core::StateVersion;
use outbox_item::{PayloadEncoding, payload_fields};
use outbox_store::{ClearStateRequest, Execution, Inspect, Operate, PluginData, StateEntry, StateQuery, StateTotal};

use crate::cli::arguments::AuditArgs;
use crate::cli::confirm;
use crate::cli::context::Context;
use crate::cli::output::{clean_lines, count, payload_text, size, table, to_stderr};

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// List the keys of a plugin; without one, how much each plugin keeps
    List {
        /// The plugin
        plugin: Option<String>,
        /// The maximum number of keys
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        limit: u32,
        /// Only keys after this one: the last of the page before
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
    },
    /// Show the value of a key
    Show {
        /// The plugin
        plugin: String,
        /// The key
        key: String,
    },
    /// Remove a key of a plugin, or all of them
    Clear(ClearArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ClearArgs {
    /// The plugin
    plugin: String,
    /// Only this key
    key: Option<String>,
    /// Only count what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before all keys are removed
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn run(args: StateCommand, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    match args {
        StateCommand::List { plugin: None, .. } => totals(&*store, context).await,
        StateCommand::List { plugin: Some(plugin), limit, after } => {
            list(&*store, StateQuery { plugin, after, limit }, context).await
        }
        StateCommand::Show { plugin, key } => show(&*store, &plugin, &key, context).await,
        StateCommand::Clear(args) => clear(&*store, args, context).await,
    }
}

async fn totals(store: &dyn Inspect, context: &Context) -> anyhow::Result<ExitCode> {
    let totals = store.state_totals().await?;
    let row = |total: &StateTotal| [total.plugin.clone(), total.keys.to_string(), size(total.bytes)];
    context.output.emit(&totals, || table(["PLUGIN", "KEYS", "SIZE"], totals.iter().map(row)))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(store: &dyn Inspect, query: StateQuery, context: &Context) -> anyhow::Result<ExitCode> {
    let entries = store.list_state(&query).await?;
    let row = |entry: &StateEntry| [entry.key.clone(), size(entry.bytes)];
    context.output.emit(&entries, || table(["KEY", "SIZE"], entries.iter().map(row)))?;
    if let Some(last) = entries.last().filter(|_| entries.len() == query.limit as usize) {
        context.output.hint(&format!("There may be more: add --after {:?}", last.key));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(store: &dyn PluginData, plugin: &str, key: &str, context: &Context) -> anyhow::Result<ExitCode> {
    let (Some(value), version) = store.read_state(plugin, key).await? else {
        bail!("plugin {plugin:?} keeps no {key:?} in {}", context.config.database);
    };
    context.output.emit(&document(plugin, key, &value, version), || clean_lines(&payload_text(&value)))?;
    Ok(ExitCode::SUCCESS)
}

/// A key of a plugin's state, as JSON shows it.
#[derive(Serialize)]
struct StateDocument<'a> {
    plugin: &'a str,
    key: &'a str,
    bytes: usize,
    version: StateVersion,
    value: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<PayloadEncoding>,
}

fn document<'a>(plugin: &'a str, key: &'a str, bytes: &[u8], version: StateVersion) -> StateDocument<'a> {
    let (value, encoding) = payload_fields(bytes);
    let value_encoding = Some(encoding).filter(|encoding| *encoding == PayloadEncoding::Base64);
    StateDocument { plugin, key, bytes: bytes.len(), version, value, value_encoding }
}

async fn clear(store: &dyn Operate, args: ClearArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let ClearArgs { plugin, key, dry_run, yes, audit } = args;
    let actor = audit.actor.unwrap_or_else(|| context.config.identity.to_string());
    let mut request = ClearStateRequest { plugin, key, actor, reason: audit.reason, execution: Execution::DryRun };
    let found = store.clear_state(&request).await?;
    if let (Some(key), 0) = (&request.key, found.keys) {
        bail!("plugin {:?} keeps no {key:?} in {}", request.plugin, context.config.database);
    }
    if dry_run {
        return print_total("would remove", &found, context);
    }
    if !yes && request.key.is_none() && found.keys > 0 && !is_confirmed(&found, context)? {
        to_stderr("Nothing was removed.");
        return Ok(ExitCode::FAILURE);
    }
    request.execution = Execution::Apply;
    print_total("removed", &store.clear_state(&request).await?, context)
}

fn is_confirmed(found: &StateTotal, context: &Context) -> anyhow::Result<bool> {
    let (keys, database) = (count(found.keys, "key"), &context.config.database);
    confirm::is_confirmed(
        &format!("This removes {keys} of plugin {:?} from {database}.", found.plugin),
        &["--yes"],
        context,
    )
}

fn print_total(verb: &str, total: &StateTotal, context: &Context) -> anyhow::Result<ExitCode> {
    let displayed =
        || format!("{verb} {} of plugin {:?} ({})", count(total.keys, "key"), total.plugin, size(total.bytes));
    context.output.emit(total, displayed)?;
    Ok(ExitCode::SUCCESS)
}
