//! `plugin state list|show|clear`: what plugins keep, looked at and removed.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use serde_json::{Value, json};

use super::Context;
use super::arguments::AuditArgs;
use super::output::{clean, count, size, table, to_stderr};
use crate::item::{PayloadEncoding, StateVersion, payload_fields};
use crate::store::{ClearState, Run, StateEntry, StateQuery, StateTotal, Store};

#[derive(Debug, Subcommand)]
pub(super) enum State {
    /// List the keys of a plugin; without one, how much each plugin keeps
    List {
        /// The plugin
        plugin: Option<String>,
        /// At most so many
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
    Clear(Clear),
}

#[derive(Debug, clap::Args)]
pub(super) struct Clear {
    /// The plugin
    plugin: String,
    /// Only this key
    key: Option<String>,
    /// Only count what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(super) async fn run(args: State, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    match args {
        State::List { plugin: None, .. } => totals(&*store, context).await,
        State::List { plugin: Some(plugin), limit, after } => {
            list(&*store, StateQuery { plugin, after, limit }, context).await
        }
        State::Show { plugin, key } => show(&*store, &plugin, &key, context).await,
        State::Clear(args) => clear(&*store, args, context).await,
    }
}

async fn totals(store: &dyn Store, context: &Context) -> anyhow::Result<ExitCode> {
    let totals = store.state_totals().await?;
    let row = |total: &StateTotal| [total.plugin.clone(), total.keys.to_string(), size(total.bytes)];
    context.output.emit(&totals, || table(["PLUGIN", "KEYS", "SIZE"], totals.iter().map(row)))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(store: &dyn Store, query: StateQuery, context: &Context) -> anyhow::Result<ExitCode> {
    let entries = store.list_state(&query).await?;
    let row = |entry: &StateEntry| [entry.key.clone(), size(entry.bytes)];
    context.output.emit(&entries, || table(["KEY", "SIZE"], entries.iter().map(row)))?;
    if let Some(last) = entries.last().filter(|_| entries.len() == query.limit as usize) {
        context.output.hint(&format!("There may be more: add --after {:?}", last.key));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(store: &dyn Store, plugin: &str, key: &str, context: &Context) -> anyhow::Result<ExitCode> {
    let (Some(value), version) = store.read_state(plugin, key).await? else {
        bail!("plugin {plugin:?} keeps no {key:?} in {}", context.config.database);
    };
    context.output.emit(&document(plugin, key, &value, version), || told(&value))?;
    Ok(ExitCode::SUCCESS)
}

fn document(plugin: &str, key: &str, bytes: &[u8], version: StateVersion) -> Value {
    let (value, encoding) = payload_fields(bytes);
    let mut document =
        json!({ "plugin": plugin, "key": key, "bytes": bytes.len(), "version": version, "value": value });
    if encoding == PayloadEncoding::Base64 {
        document["value_encoding"] = json!(encoding);
    }
    document
}

fn told(bytes: &[u8]) -> String {
    let text = match payload_fields(bytes) {
        (value, PayloadEncoding::Json) => format!("{value:#}"),
        (value, PayloadEncoding::Base64) => format!("base64: {}", value.as_str().unwrap_or_default()),
    };
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

async fn clear(store: &dyn Store, args: Clear, context: &Context) -> anyhow::Result<ExitCode> {
    let Clear { plugin, key, dry_run, yes, audit } = args;
    let actor = audit.actor.unwrap_or_else(|| context.config.identity.to_string());
    let mut order = ClearState { plugin, key, actor, reason: audit.reason, run: Run::Dry };
    let found = store.clear_state(&order).await?;
    if let (Some(key), 0) = (&order.key, found.keys) {
        bail!("plugin {:?} keeps no {key:?} in {}", order.plugin, context.config.database);
    }
    if dry_run {
        return conclude("would remove", &found, context);
    }
    if !yes && found.keys > 0 && io::stdin().is_terminal() && !confirmed(&found, context)? {
        to_stderr("Nothing was removed.");
        return Ok(ExitCode::FAILURE);
    }
    order.run = Run::Real;
    conclude("removed", &store.clear_state(&order).await?, context)
}

fn confirmed(found: &StateTotal, context: &Context) -> anyhow::Result<bool> {
    let (keys, database) = (count(found.keys, "key"), &context.config.database);
    to_stderr(&format!("Remove {keys} of plugin {:?} from {database}? [y/N]", found.plugin));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn conclude(verb: &str, total: &StateTotal, context: &Context) -> anyhow::Result<ExitCode> {
    let told = || format!("{verb} {} of plugin {:?} ({})", count(total.keys, "key"), total.plugin, size(total.bytes));
    context.output.emit(total, told)?;
    Ok(ExitCode::SUCCESS)
}
