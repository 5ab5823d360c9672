//! `plugin check`: runs a handler through every schedule of crashes and faults, and prints the findings.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;

use outbox_check::{
    AcceptedFinding, CallLine, CallPosition, CaseProject, CheckOptions, CheckProgress, CheckReport, Finding,
    FindingKind, ProgressFn, check,
};

use crate::cli::context::Context;
use crate::cli::output::{count, short};
use crate::cli::progress::ProgressBar;

/// Crash a handler at every call of the host, deliver again, and compare what it has done
///
/// Each case is run once to learn its calls. Then every schedule of crashes and faults is played: before
/// and after each call of each attempt, after the return and after the commit, twice in a row, beside another
/// attempt, at receivers that answer 409, 429 or 500, or not at all. docs/testing-handlers.md has the rules.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The component, or its folder
    path: PathBuf,
    /// The folder of its cases; cases/ beside the component when left out
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// The component that takes its place between a crash and the redelivery, to check an upgrade
    #[arg(long, value_name = "FILE")]
    next: Option<PathBuf>,
    /// Play one schedule only, as a finding names it
    #[arg(long, value_name = "CASE/ID")]
    schedule: Option<String>,
}

pub(crate) async fn run(args: CheckArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let project = CaseProject::find(&args.path)?;
    let options = CheckOptions {
        component: project.component,
        cases: args.cases.unwrap_or(project.cases),
        next: args.next,
        only: args.schedule.as_deref().map(str::parse).transpose()?,
        cache: Some(context.config.cache_dir.clone()),
    };
    let reports = check(&options, progress_bars()).await?;
    context.output.emit(&reports, || reports.iter().map(summary).collect::<Vec<_>>().join("\n\n"))?;
    let has_no_findings = reports.iter().all(CheckReport::has_no_findings);
    Ok(if has_no_findings { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows one progress bar after the other, one for each round of each case.
fn progress_bars() -> Arc<ProgressFn> {
    let bar: Mutex<Option<ProgressBar>> = Mutex::new(None);
    Arc::new(move |CheckProgress { done, total, .. }| {
        let mut shown = bar.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = shown.get_or_insert_with(|| ProgressBar::new("schedules", total as u64));
        progress.show(done as u64);
        if done == total {
            progress.finish();
            *shown = None;
        }
    })
}

fn summary(report: &CheckReport) -> String {
    let mut parts = vec![format!("case {}", report.case), calls(report), schedules(report)];
    parts.extend(report.findings.iter().map(finding));
    parts.extend(report.accepted.iter().map(accepted));
    parts.extend(report.notes.iter().map(|note| format!("NOTE      {}", indented(&note.what))));
    parts.push(verdict(report));
    parts.join("\n")
}

/// The calls, with a heading where another attempt or another run begins.
fn calls(report: &CheckReport) -> String {
    let mut lines = Vec::new();
    let mut run = (None, 1);
    for line in &report.calls {
        let of = (line.schedule.as_ref(), line.attempt);
        if of != run {
            run = of;
            lines.push(heading(line));
        }
        let key = line.key.as_ref().map(|key| format!("   key {key}")).unwrap_or_default();
        lines.push(format!("{:>4}  {}{key}", line.number, short(&line.call, 100)));
    }
    lines.join("\n")
}

fn heading(line: &CallLine) -> String {
    match &line.schedule {
        None => format!("attempt {}", line.attempt),
        Some(schedule) => format!("attempt {} of {schedule}", line.attempt),
    }
}

fn schedules(report: &CheckReport) -> String {
    let groups: Vec<_> = report.groups.iter().map(|group| format!("{} {}", group.count, group.name)).collect();
    let seconds = report.elapsed.as_secs_f64();
    let groups = if groups.is_empty() { String::new() } else { format!(" ({})", groups.join(", ")) };
    format!("{} in {seconds:.1} s{groups}", count(report.schedules as u64, "schedule"))
}

fn finding(finding: &Finding) -> String {
    let word = word(finding.kind);
    let others = match finding.schedules {
        1 => String::new(),
        schedules => format!(", and {} more", schedules - 1),
    };
    let Finding { what, story, schedule, fix, .. } = finding;
    let (what, also) = (indented(what), also(&finding.also));
    format!("{word:9} {what}{also}\n          when {story} (--schedule {schedule}{others})\n          fix: {fix}")
}

fn accepted(accepted: &AcceptedFinding) -> String {
    let AcceptedFinding { finding, reason } = accepted;
    format!("ACCEPTED  {}: {}\n          because {reason}", word(finding.kind), indented(&finding.what))
}

fn word(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Changed => "CHANGED",
        FindingKind::Repeated => "REPEATED",
        FindingKind::Extra => "EXTRA",
        FindingKind::Lost => "LOST",
        FindingKind::Dead => "DEAD",
        FindingKind::State => "STATE",
        FindingKind::Followups => "FOLLOWUPS",
        FindingKind::Accept => "ACCEPT",
    }
}

/// The other calls at which the same happens.
fn also(calls: &[CallPosition]) -> String {
    let name = |at: &CallPosition| match at {
        CallPosition { call: 0, .. } => "the return".to_owned(),
        CallPosition { attempt: 1, call } => format!("call {call}"),
        CallPosition { attempt, call } => format!("call {call} of attempt {attempt}"),
    };
    let names: Vec<_> = calls.iter().map(name).collect();
    if names.is_empty() { String::new() } else { format!("\n          and so at {}", names.join(", ")) }
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n          ")
}

fn verdict(report: &CheckReport) -> String {
    match report.findings.len() {
        0 if report.schedules == 0 => "no schedule was played".to_owned(),
        0 => "every schedule ends with the same effects".to_owned(),
        findings if report.schedules == 0 => {
            format!("{} against it even when nothing goes wrong", count(findings as u64, "finding"))
        }
        findings => format!("{} against it", count(findings as u64, "finding")),
    }
}
