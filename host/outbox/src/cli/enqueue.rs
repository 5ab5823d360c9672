//! `enqueue`: enqueues one item from arguments, or many from a file in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgGroup, Args};
use serde_json::json;

use outbox_item::{ItemDocument, JSON, NewItem};
use outbox_store::{BatchMode, EnqueueReport, Inspect, StoreError};

use crate::cli::arguments::UsageError;
use crate::cli::context::Context;
use crate::cli::output::count;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["payload", "payload_file", "stdin", "from"]))]
pub(crate) struct EnqueueArgs {
    /// Which effect; chooses the handler
    #[arg(long = "type", value_name = "TYPE", required_unless_present = "from")]
    item_type: Option<String>,
    /// The idempotency key; the same key with the same content enqueues nothing
    #[arg(long, required_unless_present = "from")]
    key: Option<String>,
    /// The payload; JSON unless --content-type says otherwise
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    payload: Option<String>,
    /// A file with the payload
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// Read the payload from standard input
    #[arg(value_name = "-", value_parser = ["-"], hide_possible_values = true)]
    stdin: Option<String>,
    /// The correlation id [default: the key]
    #[arg(long)]
    cid: Option<String>,
    /// The saga that the item is a step of
    #[arg(long)]
    saga: Option<String>,
    /// Items that share it are handled one at a time, in this order
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// Who shares the type with others, such as a tenant: workers take the items of its keys in turn
    #[arg(long, value_name = "KEY")]
    fairness_key: Option<String>,
    /// How long the item waits, such as 30s or 2h
    #[arg(long, value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// A header for the handler, as NAME=VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The media type of the payload [default: application/json]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A file with one item as JSON per line, as POST /items takes it; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ONE_ITEM)]
    from: Option<PathBuf>,
}

/// The arguments that describe one item. They conflict with `--from`, because a file has fields for them.
const ONE_ITEM: [&str; 9] =
    ["item_type", "key", "cid", "saga", "ordering_key", "fairness_key", "delay", "headers", "content_type"];

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("use NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn run(args: EnqueueArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let batch = match &args.from {
        Some(file) => read_batch(file)?,
        None => Batch { items: vec![item_from_args(args)?], lines: Vec::new(), file: String::new() },
    };
    let keys: Vec<_> = batch.items.iter().map(|item| item.idem_key.clone()).collect();
    let lines = LineNumbers { numbers: batch.lines, file: batch.file };
    let types: BTreeSet<_> = batch.items.iter().map(|item| item.item_type.clone()).collect();
    let store = context.store().await?;
    let enqueued = store.enqueue(batch.items, BatchMode::PerItem).await.map_err(|err| lines.locate(err))?;
    let value = json!({ "ids": enqueued.ids, "created": enqueued.created });
    context.output.emit(&value, || summary(&enqueued, &keys, &context.config.database.to_string()))?;
    hint_unhandled(&*store, &types, context).await;
    Ok(ExitCode::SUCCESS)
}

/// Says which types no host handles, where hosts run. What was enqueued stays, whatever becomes of this look.
async fn hint_unhandled(store: &dyn Inspect, types: &BTreeSet<String>, context: &Context) {
    let Ok(overview) = store.overview().await else { return };
    let served = overview.served_types(&[]);
    if served.is_empty() {
        return;
    }
    for item_type in types.iter().filter(|item_type| !served.contains(item_type)) {
        let served = served.join(", ");
        context.output.hint(&format!("No running host handles the type {item_type:?}; they handle {served}."));
    }
}

fn item_from_args(args: EnqueueArgs) -> anyhow::Result<NewItem> {
    let payload = payload(&args)?;
    let content_type = args.content_type.unwrap_or_else(|| JSON.to_owned());
    if content_type == JSON {
        serde_json::from_slice::<serde::de::IgnoredAny>(&payload).map_err(|err| {
            UsageError(format!("the payload is not JSON ({err}): correct it, or name what it is with --content-type"))
        })?;
    }
    let item = NewItem {
        content_type,
        headers: args.headers.into_iter().collect::<BTreeMap<_, _>>(),
        cid: args.cid,
        saga: args.saga,
        ordering_key: args.ordering_key,
        fairness_key: args.fairness_key,
        delay: args.delay.unwrap_or_default(),
        ..NewItem::new(&args.item_type.unwrap_or_default(), &args.key.unwrap_or_default(), payload)
    };
    item.validate().map_err(|err| UsageError(err.to_string()))?;
    Ok(item)
}

fn payload(args: &EnqueueArgs) -> anyhow::Result<Vec<u8>> {
    match (&args.payload, &args.payload_file) {
        (Some(payload), _) => Ok(payload.clone().into_bytes()),
        (None, Some(file)) => read(file),
        (None, None) => read(Path::new("-")),
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file != Path::new("-") {
        return std::fs::read(file).with_context(|| format!("reading {}", file.display()));
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("reading standard input")?;
    Ok(bytes)
}

/// Items with the line number of each. `lines` is empty for an item from arguments.
struct Batch {
    items: Vec<NewItem>,
    lines: Vec<usize>,
    file: String,
}

fn read_batch(path: &Path) -> anyhow::Result<Batch> {
    let file = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let text = String::from_utf8(read(path)?).with_context(|| format!("{file} is not UTF-8"))?;
    let mut batch = Batch { items: Vec::new(), lines: Vec::new(), file };
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = index + 1;
        batch.items.push(item_of(line).with_context(|| refusal_at_line(&batch.file, number))?);
        batch.lines.push(number);
    }
    if batch.items.is_empty() {
        bail!("{} has no items: write one JSON object per line", batch.file);
    }
    Ok(batch)
}

fn item_of(line: &str) -> anyhow::Result<NewItem> {
    let document: ItemDocument = serde_json::from_str(line)?;
    if document.idem_key.is_none() {
        bail!("idem_key is missing");
    }
    let item = document.into_new_item("")?;
    item.validate()?;
    Ok(item)
}

fn refusal_at_line(file: &str, line: usize) -> String {
    format!("nothing was enqueued: line {line} of {file}")
}

/// The line number of each item in the file; empty for an item from arguments.
struct LineNumbers {
    numbers: Vec<usize>,
    file: String,
}

impl LineNumbers {
    /// The error of the store, with the line of the item that caused it.
    fn locate(&self, err: StoreError) -> anyhow::Error {
        let index = match &err {
            StoreError::Conflict { index, .. } => *index,
            StoreError::Invalid(invalid) => invalid.index,
            _ => return err.into(),
        };
        match self.numbers.get(index) {
            Some(number) => anyhow!(err).context(refusal_at_line(&self.file, *number)),
            None => err.into(),
        }
    }
}

fn summary(enqueued: &EnqueueReport, keys: &[String], database: &str) -> String {
    match (&enqueued.ids[..], keys) {
        ([Some(id)], _) if enqueued.created == 1 => format!("Enqueued item {id} in {database}."),
        ([Some(id)], [key]) => format!("Item {id} has the key {key:?} and the same content already."),
        ([None], [key]) => format!("An item with the key {key:?} was enqueued before and has been purged."),
        (ids, _) => {
            let existed = ids.len() - enqueued.created;
            format!("Enqueued {} in {database}; {existed} existed already.", count(enqueued.created as u64, "item"))
        }
    }
}
