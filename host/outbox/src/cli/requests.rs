//! Requests to the store that several verbs make: one item with its history, a control request, a job to its end.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use outbox_item::ItemId;
use outbox_store::{
    Control, ControlReport, ControlRequest, Execution, Filter, Inspect, ItemDetails, Job, JobState,
    OTHER_PROCESS_PAUSE, Operate, item_with_key,
};

use crate::cli::arguments::{AuditArgs, not_forced};
use crate::cli::context::Context;
use crate::cli::output::count;
use crate::cli::progress::ProgressBar;

/// The longest pause between two looks at a job that a host works on at the same time.
const JOB_WAIT_MAX: Duration = Duration::from_millis(500);

/// One item with its history. Errors when there is none.
pub(crate) async fn find_item(store: &dyn Inspect, id: ItemId, context: &Context) -> anyhow::Result<ItemDetails> {
    let missing = || format!("there is no item {id} in {}: it was never there, or was purged", context.config.database);
    store.get(id).await?.with_context(missing)
}

/// The item that an argument names: by its id, or else by its idempotency key. A number that no item has or had as its
/// key is an id, also when the item was purged.
pub(crate) async fn named_item(store: &dyn Inspect, word: &str, context: &Context) -> anyhow::Result<ItemId> {
    let id = word.parse().ok();
    if let Some(id) = id
        && store.get(id).await?.is_some()
    {
        return Ok(id);
    }
    let database = &context.config.database;
    let missing =
        || format!("no item in {database} has the key {word:?}: outbox list --key-prefix finds keys that begin so");
    item_with_key(store, word).await?.or(id).with_context(missing)
}

/// The item that an argument names, with its history.
pub(crate) async fn find_named_item(store: &dyn Inspect, word: &str, context: &Context) -> anyhow::Result<ItemDetails> {
    find_item(store, named_item(store, word, context).await?, context).await
}

/// Errors when a type or a saga of the filter is unknown, unless the command is forced.
pub(crate) async fn check_names(store: &dyn Inspect, filter: &Filter, force: bool) -> anyhow::Result<()> {
    if force || filter.r#type.is_none() && filter.saga.is_none() {
        return Ok(());
    }
    store.overview().await?.check_filter(filter, &[]).map_err(|unknown| not_forced(&unknown))
}

/// Sends a control request and prints its report. A request that changes nothing is no failure.
pub(crate) async fn send_control(
    store: &dyn Operate,
    control: Control,
    execution: Execution,
    audit: AuditArgs,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let (actor, reason) = audit.actor_and_reason(context);
    let request = ControlRequest { control, actor, reason, execution };
    let report = store.control(&request).await?;
    context.output.emit(&report, || control_summary(&request, &report))?;
    Ok(ExitCode::SUCCESS)
}

fn control_summary(request: &ControlRequest, report: &ControlReport) -> String {
    let (verb, subject) = request.control.action_and_target();
    let items = match report.items.len() as u64 {
        0 => String::new(),
        items => format!(", past {}", count(items, "dead item")),
    };
    match (report.changed, request.execution) {
        (false, _) => format!("{verb} {subject}: nothing to do"),
        (true, Execution::DryRun) => format!("{verb} {subject}: would be done{items}"),
        (true, Execution::Apply) => format!("{verb} {subject}: done{items}"),
    }
}

/// Runs the batches of a job until none is left, and shows the progress on a terminal. When this process ends
/// earlier, any host goes on with the job.
pub(crate) async fn run_to_end(store: &dyn Operate, mut job: Job, context: &Context) -> anyhow::Result<Job> {
    let mut progress = ProgressBar::new(job.action.as_str(), job.matched);
    let mut is_first_batch = true;
    while job.state == JobState::Running {
        tokio::time::sleep(job.delay_until_next_batch(store.now().await?).min(JOB_WAIT_MAX)).await;
        let before = job.scanned_up_to;
        job = store.run_job_batch(job.id).await?.unwrap_or(job);
        if job.state == JobState::Running && job.scanned_up_to == before {
            tokio::time::sleep(OTHER_PROCESS_PAUSE).await;
        }
        if std::mem::take(&mut is_first_batch) && job.state == JobState::Running {
            let id = job.id;
            context.output.hint(&format!("Job {id} goes on without this command; outbox jobs cancel {id} stops it."));
        }
        progress.show(job.changed + job.refused);
    }
    progress.finish();
    if job.state == JobState::Cancelled {
        context.output.hint(&format!("Job {} was cancelled; what it had changed stays changed.", job.id));
    }
    Ok(job)
}
