//! `stuck`, `failures` and `audit`: what is stuck, why items are in the DLQ, and what operators did. All change
//! nothing.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use outbox_store::{AuditQuery, FailureGroup, JobId, StuckQuery};

use crate::cli::arguments::{FilterArgs, TimeArg};
use crate::cli::context::Context;
use crate::cli::output::{Times, audit_rows, clean, count, fields, or_dash, short, table};
use crate::cli::requests::{check_names, named_item};

/// Explain what does not move, each with the command that helps
#[derive(Debug, Args)]
pub(crate) struct StuckArgs {
    /// What could be claimed for longer than this is old
    #[arg(long, default_value = "5m", value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Duration,
    /// What was attempted at least so often fails repeatedly
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    attempts: u32,
    /// The maximum number of entries of each kind
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    limit: u32,
}

/// Group the DLQ by what its items died of, or waiting items by what they failed of
#[derive(Debug, Args)]
pub(crate) struct FailuresArgs {
    /// Items that wait for another attempt, instead of dead ones
    #[arg(long)]
    retrying: bool,
    #[command(flatten)]
    filter: FilterArgs,
    /// The maximum number of groups
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    limit: u32,
    /// Also a type or a saga of which nothing is known
    #[arg(long)]
    force: bool,
}

/// Show what operators did, newest first
#[derive(Debug, Args)]
pub(crate) struct AuditTrailArgs {
    /// Only what concerns this item
    #[arg(long, value_name = "ID|KEY")]
    item: Option<String>,
    /// Only what this actor did
    #[arg(long)]
    actor: Option<String>,
    /// Only this action: replay, dead, restore, reschedule, release, purge, unblock, pause, resume, switch, cancel,
    /// rollback
    #[arg(long)]
    action: Option<String>,
    /// Only batches of this job
    #[arg(long, value_name = "ID")]
    job: Option<JobId>,
    /// Only since: 2h (ago), 2026-01-31T12:00:00Z, or Unix milliseconds
    #[arg(long, value_name = "WHEN")]
    since: Option<TimeArg>,
    /// Only before: written like --since
    #[arg(long, value_name = "WHEN")]
    until: Option<TimeArg>,
    /// Only entries with a smaller number: the last of the page before
    #[arg(long, value_name = "SEQ")]
    before: Option<i64>,
    /// The maximum number of entries
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    limit: u32,
}

pub(crate) async fn stuck(args: StuckArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let overview = store.overview().await?;
    let StuckArgs { older_than, attempts, limit } = args;
    let query = StuckQuery { served: Some(overview.served_types(&[])), older_than, attempts, limit };
    let stuck = store.stuck(&query).await?;
    let times = context.output.times(overview.now);
    context.output.emit(&stuck, || {
        if stuck.is_empty() {
            return "Nothing is stuck.".to_owned();
        }
        stuck.iter().map(|stuck| paragraph(stuck, times)).collect::<Vec<_>>().join("\n\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn paragraph(stuck: &outbox_store::StuckEntry, times: Times) -> String {
    let about = [
        stuck.r#type.as_ref().map(|item_type| format!("type {item_type}")),
        stuck.ordering_key.as_ref().map(|key| format!("key {key}")),
        stuck.fairness_key.as_ref().map(|key| format!("fairness key {key}")),
        stuck.item.map(|id| format!("item {id}")),
    ];
    let about: Vec<_> = about.into_iter().flatten().collect();
    let head = format!("{}: {} ({} waiting)", stuck.kind.as_str(), about.join(", "), count(stuck.waiting, "item"));
    let about =
        [("  why", stuck.why.clone()), ("  since", times.both(stuck.since)), ("  helps", stuck.command.clone())];
    format!("{}\n{}", clean(&head), fields(&about))
}

pub(crate) async fn failures(args: FailuresArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let now = store.now().await?;
    let filter = args.filter.filter(None, now);
    check_names(&*store, &filter, args.force).await?;
    let times = context.output.times(now);
    if args.retrying {
        let groups = store.retrying_failures(&filter, args.limit).await?;
        context.output.emit(&groups, || group_rows(&groups, times))?;
        return Ok(ExitCode::SUCCESS);
    }
    let groups = store.failures(&filter, args.limit).await?;
    context.output.emit(&groups, || group_rows(&groups, times))?;
    if let Some(group) = groups.first() {
        let fingerprint = &group.fingerprint;
        context.output.hint(&format!("Replay a group: outbox replay --status DLQ --fingerprint {fingerprint}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn group_rows(groups: &[FailureGroup], times: Times) -> String {
    if groups.is_empty() {
        return "No failures.".to_owned();
    }
    let row = |group: &FailureGroup| {
        [
            group.fingerprint.clone(),
            group.r#type.clone(),
            group.count.to_string(),
            times.show(group.first_at),
            times.show(group.last_at),
            group.sample.to_string(),
            or_dash(group.code.as_deref()),
            short(&or_dash(group.message.as_deref()), 60),
        ]
    };
    table(["FINGERPRINT", "TYPE", "COUNT", "FIRST", "LAST", "SAMPLE", "CODE", "MESSAGE"], groups.iter().map(row))
}

pub(crate) async fn audit(args: AuditTrailArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let now = store.now().await?;
    let item = match &args.item {
        Some(word) => Some(named_item(&*store, word, context).await?),
        None => None,
    };
    let query = AuditQuery {
        item,
        actor: args.actor,
        action: args.action,
        job: args.job,
        from: args.since.map(|since| since.at(now)),
        to: args.until.map(|until| until.at(now)),
        before: args.before,
        limit: args.limit,
    };
    let entries = store.audit(&query).await?;
    context.output.emit(&entries, || audit_rows(&entries, context.output.times(now)))?;
    if let Some(last) = entries.last().filter(|_| entries.len() == args.limit as usize) {
        context.output.hint(&format!("There may be more: add --before {}", last.seq));
    }
    Ok(ExitCode::SUCCESS)
}
