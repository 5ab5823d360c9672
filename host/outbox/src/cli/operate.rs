//! `replay`, `dead`, `restore`, `reschedule`, `release` and `purge`: an operator's actions on items.
//!
//! The store audits each action in the transaction that performs it. Items that are named by id are changed at once.
//! A filter becomes a job; when this command is stopped, any host goes on with the job.

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};

use outbox_core::OnDead;
use outbox_item::{ItemId, Millis, Status};
use outbox_store::{Action, EffectKeys, Execution, LeasePolicy, Operate, OperateReport, OperateRequest, Selection};

use crate::cli::arguments::{
    AuditArgs, FilterArgs, TimeArg, UsageError, after, before, execution, parse_finished_status,
};
use crate::cli::confirm::{self, is_interactive};
use crate::cli::context::Context;
use crate::cli::output::{count, or_dash, to_stderr};
use crate::cli::requests::run_to_end;

/// Which items, and how the action is carried out.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["ids", "status"]))]
struct Targets {
    /// The ids of the items
    #[arg(value_name = "ID", conflicts_with = "FilterArgs")]
    ids: Vec<ItemId>,
    /// All items of this status that the filters let through
    #[arg(long)]
    status: Option<Status>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only count what would be changed
    #[arg(long)]
    dry_run: bool,
    /// Change no more than so many items each second
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "ids")]
    rate: Option<NonZeroU32>,
    #[command(flatten)]
    audit: AuditArgs,
}

/// Start a new life of DLQ or DONE items
///
/// The attempts begin at 0 again and the item is available at once, in its old place of its ordering key.
/// Its history and its last error stay. Effects may happen twice where receivers do not honour the
/// idempotency key.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Let receivers perform the effects again: send new idempotency keys
    #[arg(long)]
    new_effects: bool,
    #[command(flatten)]
    targets: Targets,
}

/// Dead-letter PENDING or CLAIMED items
///
/// Nothing is lost: `outbox restore` takes it back.
#[derive(Debug, Args)]
pub(crate) struct DeadArgs {
    /// Let what waits behind the item with the same ordering key go on without it
    #[arg(long)]
    skip_key: bool,
    /// Take claims whose lease has not ended, too: the old attempt may still be acting
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    targets: Targets,
}

/// Take back an operator's `outbox dead`
///
/// The item is PENDING again with the attempts and the time that it had. What failed by itself is
/// replayed instead.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    targets: Targets,
}

/// Move the time before which PENDING items are not claimed
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("when").required(true).args(["delay", "at"]))]
pub(crate) struct RescheduleArgs {
    /// In how long, such as 0s or 2h
    #[arg(long = "in", value_name = "TIME", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// When: 2026-01-31T12:00:00Z, or Unix milliseconds
    #[arg(long, value_name = "WHEN")]
    at: Option<TimeArg>,
    #[command(flatten)]
    targets: Targets,
}

/// End the claims of CLAIMED items, so that others can take them
///
/// The attempt counts, and the item is marked as maybe executed.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// End claims whose lease has not ended, too: the old attempt may still be acting
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    targets: Targets,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// DONE or DLQ
    #[arg(value_parser = parse_finished_status)]
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

pub(crate) async fn replay(args: ReplayArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let keys = if args.new_effects { EffectKeys::New } else { EffectKeys::Same };
    operate(args.targets, context, |_| Action::Replay { keys }).await
}

pub(crate) async fn dead(args: DeadArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let on_dead = if args.skip_key { OnDead::Skip } else { OnDead::Block };
    let lease = lease(args.force, context);
    operate(args.targets, context, |_| Action::Dead { on_dead, lease }).await
}

pub(crate) async fn restore(args: RestoreArgs, context: &Context) -> anyhow::Result<ExitCode> {
    operate(args.targets, context, |_| Action::Restore).await
}

pub(crate) async fn reschedule(args: RescheduleArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let RescheduleArgs { delay, at, targets } = args;
    let requested_time = |now| at.map_or_else(|| after(now, delay.unwrap_or_default()), |at| at.at(now));
    operate(targets, context, |now| Action::Reschedule { at: requested_time(now) }).await
}

pub(crate) async fn release(args: ReleaseArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let lease = lease(args.force, context);
    operate(args.targets, context, |_| Action::Release { lease }).await
}

fn lease(force: bool, context: &Context) -> LeasePolicy {
    if !force {
        return LeasePolicy::Respect;
    }
    context
        .output
        .hint("With --force: an attempt whose claim is taken may still be acting, but it can settle nothing.");
    LeasePolicy::Break
}

/// Performs the action on the items that the arguments select. `action` receives the present time of the store.
async fn operate(
    targets: Targets,
    context: &Context,
    action: impl FnOnce(Millis) -> Action,
) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let now = store.now().await?;
    let action = action(now);
    let Targets { ids, status, filter, dry_run, rate, audit } = targets;
    check(action, status)?;
    let selection = if ids.is_empty() { Selection::Filter(filter.filter(status, now)) } else { Selection::Ids(ids) };
    let request = operate_request(action, selection, audit, execution(dry_run), context);
    let report = execute(&*store, &request, rate, context).await?;
    print_report(&request, &report, context)
}

fn check(action: Action, status: Option<Status>) -> Result<(), UsageError> {
    let accepted: Vec<_> = Status::ALL.into_iter().filter(|status| action.applies_to(*status)).collect();
    match status {
        Some(status) if !accepted.contains(&status) => {
            let words: Vec<_> = accepted.into_iter().map(Status::as_str).collect();
            let (action, words) = (action.as_str(), words.join(" or "));
            Err(UsageError(format!("--status is {status}, and {action} is for {words} items: use {words}")))
        }
        _ => Ok(()),
    }
}

pub(crate) async fn purge(args: PurgeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let now = store.now().await?;
    let mut filter = args.filter.filter(Some(args.status), now);
    filter.finished_to = args.older_than.map(|age| before(now, age)).or(filter.finished_to);
    let mut request = operate_request(Action::Purge, Selection::Filter(filter), args.audit, Execution::DryRun, context);
    if !args.dry_run && !args.yes && is_interactive() {
        let found = store.operate(&request).await?.matched;
        if found > 0 && !is_confirmed(found, args.status, context)? {
            to_stderr("Nothing was deleted.");
            return Ok(ExitCode::FAILURE);
        }
    }
    request.execution = execution(args.dry_run);
    let report = execute(&*store, &request, None, context).await?;
    print_report(&request, &report, context)
}

/// Performs the request. For a filter, runs the job to its end.
async fn execute(
    store: &dyn Operate,
    request: &OperateRequest,
    rate: Option<NonZeroU32>,
    context: &Context,
) -> anyhow::Result<OperateReport> {
    if request.execution == Execution::DryRun || matches!(request.selection, Selection::Ids(_)) {
        return Ok(store.operate(request).await?);
    }
    let job = store.start_job(request, rate.map(NonZeroU32::get)).await?;
    let job = run_to_end(store, job, context).await?;
    Ok(OperateReport {
        matched: job.matched,
        changed: job.changed,
        sample: job.sample,
        refused: job.refusals,
        job: Some(job.id),
    })
}

fn operate_request(
    action: Action,
    selection: Selection,
    audit: AuditArgs,
    execution: Execution,
    context: &Context,
) -> OperateRequest {
    let (actor, reason) = audit.actor_and_reason(context);
    OperateRequest { action, selection, actor, reason, execution }
}

fn is_confirmed(found: u64, status: Status, context: &Context) -> anyhow::Result<bool> {
    let database = &context.config.database;
    let items = count(found, "item");
    confirm::is_confirmed(&format!("Delete {items} that are {status} from {database}, with their history?"))
}

/// Prints the report. The command fails when the store refused an item that was named by id.
fn print_report(request: &OperateRequest, report: &OperateReport, context: &Context) -> anyhow::Result<ExitCode> {
    context.output.emit(report, || summary(request, report))?;
    for refusal in &report.refused {
        context.output.hint(&format!("item {}: {}", refusal.id, refusal.reason));
    }
    Ok(if report.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(request: &OperateRequest, report: &OperateReport) -> String {
    let verb = request.action.as_str();
    let items = count(report.changed, "item");
    let sample: Vec<_> = report.sample.iter().map(ToString::to_string).collect();
    let sample = or_dash(Some(sample.join(", ").as_str()).filter(|sample| !sample.is_empty()));
    match request.execution {
        Execution::DryRun => format!("{verb}: would change {items} ({sample})"),
        Execution::Apply => format!("{verb}: changed {items} ({sample})"),
    }
}
