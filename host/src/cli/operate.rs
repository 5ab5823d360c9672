//! `replay` and `purge`: an operator's actions, audited by the store in the transaction that performs them.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::arguments::{AuditArgs, FilterArgs, before, finished};
use super::output::{count, or_dash, to_stderr};
use super::{Context, shown};
use crate::item::{ItemId, Status};
use crate::store::{Action, EffectKeys, Order, OrderReport, Run, Selection};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["ids", "status"]))]
pub(super) struct Replay {
    /// The ids of the items
    #[arg(value_name = "ID", conflicts_with = "FilterArgs")]
    ids: Vec<ItemId>,
    /// All items of this status, DLQ or DONE, that the filters let through
    #[arg(long, value_parser = finished)]
    status: Option<Status>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only count what would be replayed
    #[arg(long)]
    dry_run: bool,
    /// Let receivers perform the effects again: send new idempotency keys
    #[arg(long)]
    new_effects: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

#[derive(Debug, Args)]
pub(super) struct Purge {
    /// DONE or DLQ
    #[arg(value_parser = finished)]
    status: Status,
    /// Only items that have been DONE or DLQ for longer, such as 12h or 7d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only count what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(super) async fn replay(args: Replay, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let now = store.now().await?;
    let filter = args.filter.filter(args.status, now);
    let selection = if args.ids.is_empty() { Selection::Filter(filter) } else { Selection::Ids(args.ids) };
    let keys = if args.new_effects { EffectKeys::New } else { EffectKeys::Same };
    let order = order(Action::Replay { keys }, selection, args.audit, run(args.dry_run), context);
    let report = store.operate(&order).await?;
    conclude(&order, &report, context)
}

pub(super) async fn purge(args: Purge, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let now = store.now().await?;
    let mut filter = args.filter.filter(Some(args.status), now);
    filter.finished_to = args.older_than.map(|age| before(now, age));
    let mut order = order(Action::Purge, Selection::Filter(filter), args.audit, Run::Dry, context);
    if !args.dry_run && !args.yes && io::stdin().is_terminal() {
        let found = store.operate(&order).await?.matched;
        if found > 0 && !confirmed(found, args.status, context)? {
            to_stderr("Nothing was deleted.");
            return Ok(ExitCode::FAILURE);
        }
    }
    order.run = run(args.dry_run);
    let report = store.operate(&order).await?;
    conclude(&order, &report, context)
}

fn run(dry_run: bool) -> Run {
    if dry_run { Run::Dry } else { Run::Real }
}

fn order(action: Action, selection: Selection, audit: AuditArgs, run: Run, context: &Context) -> Order {
    let actor = audit.actor.unwrap_or_else(|| context.config.identity.to_string());
    Order { action, selection, actor, reason: audit.reason, run }
}

fn confirmed(found: u64, status: Status, context: &Context) -> anyhow::Result<bool> {
    let database = shown(&context.config.database);
    to_stderr(&format!("Delete {} that are {status} from {database}, with their history? [y/N]", count(found, "item")));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Prints the report. Items that were named but refused make the command fail.
fn conclude(order: &Order, report: &OrderReport, context: &Context) -> anyhow::Result<ExitCode> {
    context.output.emit(report, || told(order, report))?;
    for refusal in &report.refused {
        context.output.hint(&format!("item {}: {}", refusal.id, refusal.reason));
    }
    Ok(if report.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn told(order: &Order, report: &OrderReport) -> String {
    let verb = order.action.as_str();
    let items = count(report.changed, "item");
    let sample: Vec<_> = report.sample.iter().map(ToString::to_string).collect();
    let sample = or_dash(Some(sample.join(", ").as_str()).filter(|sample| !sample.is_empty()));
    match order.run {
        Run::Dry => format!("{verb}: would change {items} ({sample})"),
        Run::Real => format!("{verb}: changed {items} ({sample})"),
    }
}
