//! `jobs`: lists bulk jobs, shows one, goes on with one or cancels it.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::Serialize;

use outbox_store::{Control, DeadCause, Inspect, Job, JobId, JobOutcome};

use crate::cli::arguments::{AuditArgs, execution};
use crate::cli::context::Context;
use crate::cli::output::{Times, clean, count, fields, or_dash, short, table};
use crate::cli::requests::{run_to_end, send_control};

/// Causes of dead items that a page shows. `--json` has all.
const CAUSES_SHOWN: usize = 10;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct JobsArgs {
    #[command(subcommand)]
    command: Option<JobCommand>,
    /// The maximum number of jobs, up to 1000
    #[arg(long, default_value_t = 20, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Show one job
    Show {
        /// The job's number
        id: JobId,
    },
    /// Go on with a job here, instead of leaving it to the hosts
    Resume {
        /// The job's number
        id: JobId,
    },
    /// Stop a job; what it has changed stays changed
    Cancel {
        /// The job's number
        id: JobId,
        /// Only say whether it would be stopped
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        audit: AuditArgs,
    },
}

pub(crate) async fn run(args: JobsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let job = match args.command {
        None => {
            let jobs = store.jobs(None, args.limit).await?;
            let now = store.now().await?;
            context.output.emit(&jobs, || rows(&jobs, context.output.times(now)))?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(JobCommand::Cancel { id, dry_run, audit }) => {
            find(&*store, id).await?;
            return send_control(&*store, Control::Cancel { job: id }, execution(dry_run), audit, context).await;
        }
        Some(JobCommand::Show { id }) => find(&*store, id).await?,
        Some(JobCommand::Resume { id }) => run_to_end(&*store, find(&*store, id).await?, context).await?,
    };
    let now = store.now().await?;
    let details = JobPage { outcome: store.job_outcome(job.id).await?, job };
    context.output.emit(&details, || page(&details, context.output.times(now)))?;
    Ok(ExitCode::SUCCESS)
}

/// A job, and what became of its items.
#[derive(Serialize)]
struct JobPage {
    #[serde(flatten)]
    job: Job,
    outcome: JobOutcome,
}

async fn find(store: &dyn Inspect, id: JobId) -> anyhow::Result<Job> {
    match store.jobs(Some(id), 1).await?.pop() {
        Some(job) => Ok(job),
        None => bail!("there is no job {id}: outbox jobs lists them"),
    }
}

fn rows(jobs: &[Job], times: Times) -> String {
    if jobs.is_empty() {
        return "No jobs.".to_owned();
    }
    let row = |job: &Job| {
        [
            job.id.to_string(),
            job.action.as_str().to_owned(),
            job.state.as_str().to_owned(),
            format!("{} of {}", job.changed, job.matched),
            job.refused.to_string(),
            times.show(job.began_at),
            job.actor.clone(),
            short(&or_dash(job.reason.as_deref()), 40),
        ]
    };
    table(["JOB", "ACTION", "STATE", "CHANGED", "REFUSED", "BEGAN", "ACTOR", "REASON"], jobs.iter().map(row))
}

fn page(JobPage { job, outcome }: &JobPage, times: Times) -> String {
    let JobOutcome { done, waiting, dead, gone, replayed_since, causes } = outcome;
    let since = match replayed_since {
        0 => String::new(),
        items => format!(" ({} replayed since)", count(*items, "item")),
    };
    let rate =
        job.per_second.map_or_else(|| "-".to_owned(), |rate| format!("{} each second", count(rate.into(), "item")));
    let mut rows = vec![
        ("job", job.id.to_string()),
        ("action", job.action.as_str().to_owned()),
        ("filter", serde_json::json!(job.filter).to_string()),
        ("state", job.state.as_str().to_owned()),
        ("changed", format!("{} of {}", job.changed, job.matched)),
        ("refused", job.refused.to_string()),
        ("its items", format!("{done} done, {waiting} waiting, {dead} dead, {gone} deleted{since}")),
        ("rate", rate),
        ("stops after", job.stop_after.map_or_else(|| "-".to_owned(), |percent| format!("{percent}% dead again"))),
        ("began", times.both(job.began_at)),
        ("ended", times.both_or_dash(job.ended_at)),
        ("actor", job.actor.clone()),
        ("reason", or_dash(job.reason.as_deref())),
    ];
    let cause = |cause: &DeadCause| {
        let message = short(&clean(&or_dash(cause.message.as_deref())), 80);
        format!("{} of {}, such as item {}: {message}", cause.count, cause.fingerprint, cause.sample)
    };
    rows.extend(causes.iter().take(CAUSES_SHOWN).map(|group| ("dead", cause(group))));
    rows.extend(job.refusals.iter().map(|refusal| ("refused", format!("{}: {}", refusal.id, refusal.reason))));
    fields(&rows)
}
