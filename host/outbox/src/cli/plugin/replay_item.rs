//! `plugin replay-item`: simulates a failed attempt of an item again, perhaps with a changed component.
//!
//! Requests get their recorded answers, and state is read from the store as it is now. Nothing is sent or stored.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use outbox_core::{AttemptReport, FailedAttempt, Failure, FailureClass, HostWrites, Outcome};
use outbox_item::{ItemId, payload_value};
use outbox_runtime::simulation::{AttemptEnd, Divergence, ReplayedRequest, SimulatedPlugin, Simulator};
use outbox_store::{ItemDetails, Store};

use crate::cli::context::Context;
use crate::cli::output::{clean, fields, short, table};
use crate::cli::requests::find_named_item;
use crate::host::store_adapters::StoreStateReader;
use crate::open_plugins::{environment, scan};
use crate::rerun::{Rerun, followup, in_words, rerun, state_change};

#[derive(Debug, Args)]
pub(crate) struct ReplayItemArgs {
    /// The item's id or its idempotency key; the item itself stays as it is
    #[arg(value_name = "ID|KEY")]
    item: String,
    /// The component to run; without it, the one in the plugins folder that serves the item's type
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Which failed attempt, by its delivery; without it, the last
    #[arg(long, value_name = "NUMBER")]
    delivery: Option<u32>,
    /// Answer requests that were not recorded with this status, instead of stopping there
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(100..=599))]
    otherwise: Option<u16>,
}

/// The result of the simulated attempt, in the JSON shape of `outbox plugin replay-item --json`.
#[derive(Debug, Serialize)]
struct Simulated {
    item: ItemId,
    delivery: u32,
    plugin: String,
    file: PathBuf,
    /// The failure of the recorded attempt.
    recorded: FailureView,
    ending: RerunEnd,
    requests: Vec<ReplayedRequest>,
    divergences: Vec<Divergence>,
    /// The changes of state that the host would store.
    state: Vec<Value>,
    followups: Vec<Value>,
    stderr: Option<String>,
}

#[derive(Debug, Serialize)]
struct FailureView {
    class: FailureClass,
    code: String,
    message: String,
}

#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum RerunEnd {
    Done {
        result: Value,
    },
    Failed(FailureView),
    /// The attempt stopped at a request that was not recorded.
    Stopped,
}

impl From<Failure> for FailureView {
    fn from(failure: Failure) -> Self {
        Self { class: failure.class, code: failure.code, message: failure.message }
    }
}

/// Simulates the attempt. The command fails unless the attempt ends with success.
pub(crate) async fn run(args: ReplayItemArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let details = find_named_item(&*store, &args.item, context).await?;
    let attempt = chosen(&details, args.delivery)?.clone();
    let item_type = &details.item.item_type;
    let file = match args.plugin {
        Some(file) => file,
        None => serving(item_type, context).await?,
    };
    let simulator = Simulator::open(&file, Some(&context.config.cache_dir)).await?;
    let plugin = simulator.plugin(&environment(&context.config), BTreeMap::new()).await?;
    if !plugin.types().contains(item_type) {
        let handled = plugin.types().join(", ");
        bail!("{} handles {handled}, and item {} is of type {item_type}", file.display(), details.item.id);
    }
    let rerun = simulate(&plugin, file, &details, attempt, args.otherwise, store).await;
    context.output.emit(&rerun, || page(&rerun))?;
    Ok(if matches!(rerun.ending, RerunEnd::Done { .. }) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(details: &ItemDetails, delivery: Option<u32>) -> anyhow::Result<&FailedAttempt> {
    let attempts = &details.failed_attempts;
    let found = match delivery {
        None => attempts.last(),
        Some(delivery) => attempts.iter().find(|attempt| attempt.delivery == delivery),
    };
    let known = || attempts.iter().map(|attempt| attempt.delivery.to_string()).collect::<Vec<_>>().join(", ");
    found.with_context(|| match delivery {
        Some(delivery) => {
            format!("delivery {delivery} is no failed attempt of item {}: there are [{}]", details.item.id, known())
        }
        None => format!("item {} has no failed attempt that could be run again", details.item.id),
    })
}

/// The component in the plugin folder that gets items of this type.
async fn serving(item_type: &str, context: &Context) -> anyhow::Result<PathBuf> {
    let plugins = scan(&context.config).await?;
    let file = plugins.into_iter().find(|plugin| plugin.types.iter().any(|served| served == item_type));
    let file = file.map(|plugin| plugin.file);
    file.with_context(|| {
        let places = &context.config.plugins;
        format!("no plugin of {places} serves {item_type}: name a component with --plugin, or look with `outbox plugin list`")
    })
}

async fn simulate(
    plugin: &SimulatedPlugin,
    file: PathBuf,
    details: &ItemDetails,
    attempt: FailedAttempt,
    otherwise: Option<u16>,
    store: Arc<dyn Store>,
) -> Simulated {
    let Rerun { ending, requests, divergences } =
        rerun(plugin, details, &attempt, otherwise, Arc::new(StoreStateReader(store))).await;
    let (ending, writes, stderr) = ended(ending);
    Simulated {
        item: details.item.id,
        delivery: attempt.delivery,
        plugin: plugin.name().to_owned(),
        file,
        recorded: FailureView { class: attempt.class, code: attempt.code, message: attempt.message },
        ending,
        requests,
        divergences,
        state: writes.state.iter().filter_map(state_change).collect(),
        followups: writes.followups.iter().map(followup).collect(),
        stderr,
    }
}

fn ended(ending: AttemptEnd) -> (RerunEnd, HostWrites, Option<String>) {
    let AttemptEnd::Reported(AttemptReport { outcome, stderr, .. }) = ending else {
        return (RerunEnd::Stopped, HostWrites::default(), None);
    };
    match outcome {
        Outcome::Done { result, writes } => {
            (RerunEnd::Done { result: result.map_or(Value::Null, |result| payload_value(&result)) }, writes, stderr)
        }
        Outcome::Failed(failure) => (RerunEnd::Failed(failure.into()), HostWrites::default(), stderr),
        Outcome::Interrupted | Outcome::NoHandler => (RerunEnd::Stopped, HostWrites::default(), stderr),
    }
}

fn page(rerun: &Simulated) -> String {
    let failed =
        |FailureView { class, code, message }: &FailureView| format!("failed, {class} {code}: {}", clean(message));
    let now = match &rerun.ending {
        RerunEnd::Done { result: Value::Null } => "done".to_owned(),
        RerunEnd::Done { result } => format!("done: {}", short(&result.to_string(), 200)),
        RerunEnd::Failed(failure) => failed(failure),
        RerunEnd::Stopped => "stopped at a request that was not recorded (--otherwise STATUS goes on)".to_owned(),
    };
    let facts = fields(&[
        ("item", format!("{}, delivery {}", rerun.item, rerun.delivery)),
        ("plugin", format!("{} ({})", rerun.plugin, rerun.file.display())),
        ("then", failed(&rerun.recorded)),
        ("now", now),
    ]);
    let lines =
        |title: &str, lines: Vec<String>| (!lines.is_empty()).then(|| format!("{title}\n  {}", lines.join("\n  ")));
    let formatted = |values: &[Value]| values.iter().map(|value| short(&clean(&value.to_string()), 200)).collect();
    let parts = [
        Some(facts),
        (!rerun.requests.is_empty())
            .then(|| format!("Requests, none of which was sent\n{}", requests(&rerun.requests))),
        lines("Where it leaves the recording", rerun.divergences.iter().map(|found| clean(&in_words(found))).collect()),
        lines("State that would be written", formatted(&rerun.state)),
        lines("Follow-ups that would be enqueued", formatted(&rerun.followups)),
        lines("What it wrote", rerun.stderr.iter().flat_map(|text| text.lines()).map(clean).collect()),
        Some("The state was read as it is now. Nothing was sent or stored.".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

fn requests(requests: &[ReplayedRequest]) -> String {
    let row = |sent: &ReplayedRequest| {
        let origin = if sent.is_recorded { "recorded" } else { "--otherwise" };
        [sent.method.clone(), short(&clean(&sent.url), 100), sent.answer.clone(), origin.to_owned()]
    };
    table(["METHOD", "URL", "ANSWER", "FROM"], requests.iter().map(row))
}
