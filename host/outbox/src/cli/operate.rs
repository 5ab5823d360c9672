//! `replay`, `dead`, `restore`, `reschedule`, `release` and `purge`: an operator's actions on items.
//!
//! The store audits each action in the transaction that performs it. Items that are named by id are changed at once.
//! A filter becomes a job; when this command is stopped, any host goes on with the job.

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{ArgGroup, Args};

use outbox_core::OnDead;
use outbox_item::{Millis, Status};
use outbox_store::{
    Action, EffectKeys, Execution, Filter, JobOutcome, JobPace, JobState, LeasePolicy, Operate, OperateReport,
    OperateRequest, Page, Selection,
};

use crate::cli::arguments::{
    AuditArgs, FilterArgs, TimeArg, UsageError, after, before, execution, parse_finished_status, percent,
};
use crate::cli::consent::{ConsentArgs, groups, unblocked};
use crate::cli::context::Context;
use crate::cli::output::{Times, count, or_dash, to_stderr};
use crate::cli::requests::{check_names, named_item, run_to_end};

/// Which items, and how the action is carried out.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["items", "status", "key", "key_prefix", "cid"]))]
struct Targets {
    /// The items, each by its id or its idempotency key
    #[arg(value_name = "ID|KEY", conflicts_with_all = ["FilterArgs", "status"])]
    items: Vec<String>,
    /// All items of this status that the filters let through
    #[arg(long)]
    status: Option<Status>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only count what would be changed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: ConsentArgs,
    /// Try at most this many items, those with the lowest ids
    #[arg(long, value_name = "COUNT", conflicts_with = "items")]
    limit: Option<NonZeroU32>,
    /// Try this many items, at most 1000, chosen at random
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["items", "limit"])]
    sample: Option<NonZeroU32>,
    /// Change no more than so many items each second
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "items")]
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
    /// Stop when more than this share of the replayed items that have ended is dead again, such as 20%
    ///
    /// The job then replays few items at a time, and waits for what becomes of them.
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with = "items")]
    stop_after: Option<u8>,
    /// Also a type or a saga of which nothing is known
    #[arg(long)]
    force: bool,
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
    /// Also a type or a saga of which nothing is known
    #[arg(long)]
    force: bool,
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
    /// Also a type or a saga of which nothing is known
    #[arg(long)]
    force: bool,
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
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["targets", "key", "key_prefix", "cid"]))]
pub(crate) struct PurgeArgs {
    /// DONE or DLQ; or items, each by its id or its idempotency key
    #[arg(value_name = "STATUS|ID|KEY")]
    targets: Vec<String>,
    /// Only items that have been DONE or DLQ for longer, such as 12h or 7d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Delete at most this many items, those with the lowest ids
    #[arg(long, value_name = "COUNT")]
    limit: Option<NonZeroU32>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only count what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Also a type or a saga of which nothing is known
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    consent: ConsentArgs,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn replay(args: ReplayArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let keys = if args.new_effects { EffectKeys::New } else { EffectKeys::Same };
    let options = Options { force: args.force, stop_after: args.stop_after };
    operate(args.targets, options, context, |_| Action::Replay { keys }).await
}

pub(crate) async fn dead(args: DeadArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let on_dead = if args.skip_key { OnDead::Skip } else { OnDead::Block };
    let lease = lease(args.force, context);
    operate(args.targets, Options::forced(args.force), context, |_| Action::Dead { on_dead, lease }).await
}

pub(crate) async fn restore(args: RestoreArgs, context: &Context) -> anyhow::Result<ExitCode> {
    operate(args.targets, Options::forced(args.force), context, |_| Action::Restore).await
}

pub(crate) async fn reschedule(args: RescheduleArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let RescheduleArgs { delay, at, force, targets } = args;
    let requested_time = |now| at.map_or_else(|| after(now, delay.unwrap_or_default()), |at| at.at(now));
    operate(targets, Options::forced(force), context, |now| Action::Reschedule { at: requested_time(now) }).await
}

pub(crate) async fn release(args: ReleaseArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let lease = lease(args.force, context);
    operate(args.targets, Options::forced(args.force), context, |_| Action::Release { lease }).await
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

/// What commands decide besides the items.
#[derive(Clone, Copy, Default)]
struct Options {
    /// Take names of which nothing is known.
    force: bool,
    stop_after: Option<u8>,
}

impl Options {
    fn forced(force: bool) -> Self {
        Self { force, ..Self::default() }
    }
}

/// Performs the action on the items that the arguments select. `action` receives the present time of the store.
async fn operate(
    targets: Targets,
    options: Options,
    context: &Context,
    action: impl FnOnce(Millis) -> Action,
) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let now = store.now().await?;
    let action = action(now);
    let Targets { items, status, filter, dry_run, consent, limit, sample, rate, audit } = targets;
    check(action, status)?;
    let selection = if items.is_empty() {
        let (first, sample) = (limit.map(NonZeroU32::get), sample.map(NonZeroU32::get));
        let as_of = consent.as_of.map(|as_of| as_of.at(now));
        Selection::Filter(Filter { first, sample, as_of, ..filter.filter(status, now) })
    } else if consent.as_of.is_some() {
        return Err(UsageError("items are named: leave --as-of out".into()).into());
    } else {
        named_items(&*store, &items, context).await?
    };
    let request = operate_request(action, selection, audit, execution(dry_run), context);
    let pace = JobPace { per_second: rate.map(NonZeroU32::get), stop_after: options.stop_after };
    carry_out(&*store, request, Manner { force: options.force, consent, pace }, context).await
}

async fn named_items(store: &dyn Operate, words: &[String], context: &Context) -> anyhow::Result<Selection> {
    let mut ids = Vec::new();
    for word in words {
        ids.push(named_item(store, word, context).await?);
    }
    Ok(Selection::Ids(ids))
}

/// How a request is carried out.
struct Manner {
    force: bool,
    consent: ConsentArgs,
    pace: JobPace,
}

/// Performs the request once its names are known and the operator has confirmed what needs it.
async fn carry_out(
    store: &dyn Operate,
    mut request: OperateRequest,
    manner: Manner,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    if let Selection::Filter(filter) = &request.selection {
        check_names(store, filter, manner.force).await?;
        if request.execution == Execution::Apply && !manner.consent.is_given(store, &mut request, context).await? {
            to_stderr("Nothing was done.");
            return Ok(ExitCode::FAILURE);
        }
    }
    let report = execute(store, &request, manner.pace, context).await?;
    print_report(&request, &report, context.output.times(store.now().await?), context)
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
    let PurgeArgs { targets, older_than, limit, filter, dry_run, force, consent, audit } = args;
    let selection = match purged_status(&targets)? {
        None if !targets.is_empty() => {
            let has_bound = older_than.is_some() || limit.is_some() || consent.as_of.is_some();
            if has_bound || filter.filter(None, now) != Filter::default() {
                let why = "items are named: leave --older-than, --as-of, --limit and filters out";
                return Err(UsageError(why.into()).into());
            }
            named_items(&*store, &targets, context).await?
        }
        status => {
            let filter = filter.filter(status, now);
            let finished_to = older_than.map(|age| before(now, age)).or(filter.finished_to);
            let (first, as_of) = (limit.map(NonZeroU32::get), consent.as_of.map(|as_of| as_of.at(now)));
            Selection::Filter(Filter { finished_to, first, as_of, ..filter })
        }
    };
    let unfinished = match &selection {
        Selection::Filter(filter) if filter.status.is_empty() => Some(unfinished(filter)),
        _ => None,
    };
    let request = operate_request(Action::Purge, selection, audit, execution(dry_run), context);
    let code = carry_out(&*store, request, Manner { force, consent, pace: JobPace::default() }, context).await?;
    let page = Page { limit: 1, before: None };
    if let Some(unfinished) = unfinished
        && let Some(first) = store.list(&unfinished, &page).await?.items.first()
    {
        let id = first.item.id;
        context
            .output
            .hint(&format!("Items that match are not finished and stay, such as {id}: outbox dead takes them."));
    }
    Ok(code)
}

/// The items that match and that no purge takes.
fn unfinished(filter: &Filter) -> Filter {
    Filter { status: vec![Status::Pending, Status::Claimed], first: None, sample: None, ..filter.clone() }
}

/// The status that the words name; `None` where they name items.
fn purged_status(words: &[String]) -> Result<Option<Status>, UsageError> {
    match words {
        [word] if word.parse::<Status>().is_ok() => parse_finished_status(word).map(Some).map_err(UsageError),
        words => match words.iter().find(|word| word.parse::<Status>().is_ok()) {
            Some(word) => Err(UsageError(format!("{word} means all items of a status: name either it or items"))),
            None => Ok(None),
        },
    }
}

/// Performs the request. For a filter, runs the job to its end.
async fn execute(
    store: &dyn Operate,
    request: &OperateRequest,
    pace: JobPace,
    context: &Context,
) -> anyhow::Result<OperateReport> {
    if request.execution == Execution::DryRun || matches!(request.selection, Selection::Ids(_)) {
        return Ok(store.operate(request).await?);
    }
    let Some(job) = store.start_job(request, pace).await? else {
        return Ok(OperateReport::default());
    };
    let job = run_to_end(store, job, context).await?;
    if request.action != Action::Purge {
        context.output.hint(&format!("outbox jobs show {} says what becomes of the items.", job.id));
    }
    if job.state == JobState::Stopped {
        let JobOutcome { done, dead, .. } = store.job_outcome(job.id).await?;
        let items = count(job.changed, "item");
        bail!("job {} stopped after {items}: {dead} of {} that ended are dead again", job.id, done + dead);
    }
    Ok(OperateReport {
        matched: job.matched,
        changed: job.changed,
        sample: job.sample,
        refused: job.refusals,
        groups: Vec::new(),
        unblocked_keys: 0,
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

/// Prints the report. The command fails when the store refused an item that was named by id.
fn print_report(
    request: &OperateRequest,
    report: &OperateReport,
    times: Times,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    context.output.emit(report, || summary(request, report, times))?;
    for refusal in &report.refused {
        context.output.hint(&format!("item {}: {}", refusal.id, refusal.reason));
    }
    Ok(if report.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(request: &OperateRequest, report: &OperateReport, times: Times) -> String {
    let verb = request.action.as_str();
    let items = count(report.changed, "item");
    let sample: Vec<_> = report.sample.iter().map(ToString::to_string).collect();
    let more = if report.changed > report.sample.len() as u64 { ", …" } else { "" };
    let sample = or_dash(Some(sample.join(", ").as_str()).filter(|sample| !sample.is_empty())) + more;
    match request.execution {
        Execution::DryRun => {
            let unblocked = unblocked(report).map(|what| format!(", and let {what} go on")).unwrap_or_default();
            let by_type = if report.groups.is_empty() { String::new() } else { format!("\n{}", groups(report, times)) };
            format!("{verb}: would change {items} ({sample}){unblocked}{by_type}")
        }
        Execution::Apply => format!("{verb}: changed {items} ({sample})"),
    }
}
