//! Checks every case of a component and reports what it found.
//!
//! `exploration.rs` plays the schedules. This file does not decide what a schedule or a finding is.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context as _, bail};

use outbox_runtime::simulation::Simulator;

use crate::case::Case;
use crate::case::accept::CaseAccept;
use crate::check_report::{AcceptedFinding, CallLine, CallPosition, CheckReport, FindingKind, Note, ScheduleId};
use crate::exploration::{Exploration, Explored};
use crate::finding_collector::{FindingCollector, NoteTopic};
use crate::finding_merge::{merged, without_consequences};
use crate::findings::comparison::{Baseline, Comparison, RunFinding, call_line, call_number};
use crate::findings::detect_undisturbed_findings;
use crate::findings::nondeterminism::nondeterminism;
use crate::schedule::Schedule;
use crate::scheduled_run::{CheckContext, RunVariant, run_schedule};

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// The file of the component.
    pub component: PathBuf,
    /// The folder of its cases.
    pub cases: PathBuf,
    /// The file of the component after a reload; the same component when absent.
    pub next: Option<PathBuf>,
    /// The only schedule to play; all schedules of all cases when absent.
    pub only: Option<ScheduleId>,
    /// The folder of compiled code; the components are compiled when absent.
    pub cache: Option<PathBuf>,
}

/// How far the check of one case has come.
#[derive(Clone, Copy, Debug)]
pub struct CheckProgress<'a> {
    /// The name of the case.
    pub case: &'a str,
    /// The number of schedules of the present round that have started; equal to `total` when the round is over.
    pub done: usize,
    /// The number of schedules of the present round. What a round shows decides on the next one.
    pub total: usize,
}

/// Receives the progress of a check, from several threads.
pub type ProgressFn = dyn Fn(CheckProgress<'_>) + Send + Sync;

/// Checks a component with the cases of a folder. Errors when the component, a case file or a schedule id is unusable;
/// what is wrong with the handler is in the reports.
pub async fn check(options: &CheckOptions, progress: Arc<ProgressFn>) -> anyhow::Result<Vec<CheckReport>> {
    let cases = selected_cases(options)?;
    let simulator = Simulator::open(&options.component, options.cache.as_deref()).await?;
    let next = match &options.next {
        Some(next) => Some(Simulator::open(next, options.cache.as_deref()).await?),
        None => None,
    };
    let mut reports = Vec::new();
    for case in cases {
        let name = case.name.clone();
        let context = check_context(&simulator, next.as_ref().unwrap_or(&simulator), case).await;
        let context = Arc::new(context.with_context(|| format!("case {name}"))?);
        let (only, progress) = (options.only.clone(), Arc::clone(&progress));
        let run = move || check_case(&context, only.as_ref(), &*progress);
        let report = tokio::task::spawn_blocking(run).await?;
        reports.push(report.with_context(|| format!("case {name}"))?);
    }
    Ok(reports)
}

fn selected_cases(options: &CheckOptions) -> anyhow::Result<Vec<Case>> {
    let mut cases = Case::read_all(&options.cases)?;
    if let Some(ScheduleId { case, .. }) = &options.only {
        cases.retain(|known| known.name == *case);
        if cases.is_empty() {
            bail!("{} has no case {case:?}", options.cases.display());
        }
    }
    Ok(cases)
}

async fn check_context(simulator: &Simulator, next: &Simulator, case: Case) -> anyhow::Result<CheckContext> {
    let (environment, config) = (case.environment(), case.configuration());
    let plugin = simulator.plugin(&environment, config.clone()).await?;
    let reloaded = next.plugin(&environment, config).await.context("the component that is reloaded")?;
    let item_type = &case.item.r#type;
    if !plugin.types().contains(item_type) {
        bail!("its item is of the type {item_type:?}, and the handler handles {}", plugin.types().join(", "));
    }
    let initial_state = case.initial_state();
    Ok(CheckContext { plugin, reloaded, case, initial_state, others_state: OnceLock::new() })
}

fn check_case(
    context: &Arc<CheckContext>,
    only: Option<&ScheduleId>,
    progress: &ProgressFn,
) -> anyhow::Result<CheckReport> {
    let begun = Instant::now();
    let baseline = run_baseline(context)?;
    let accepts = &context.case.accept;
    let undisturbed = judge_undisturbed(context, &baseline);
    let mut explored = match only {
        Some(only) => play_only(context, &baseline, only)?,
        None if undisturbed.has_findings_beside(accepts) => Explored::default(),
        None => explore(context, &baseline, progress),
    };
    explored.collector.absorb(undisturbed);
    let found = without_consequences(explored.collector.findings());
    let (accepted, findings) = accepted(accepts, found);
    let mut findings = merged(findings);
    if only.is_none() && explored.played > 0 {
        findings.extend(unused_accepts(&context.case, &baseline, &accepted));
    }
    Ok(CheckReport {
        case: context.case.name.clone(),
        calls: call_lines(&baseline, explored.new_calls, &findings),
        groups: explored.groups,
        schedules: explored.played,
        unreached: explored.collector.unreached,
        accepted,
        findings: findings.into_iter().map(|found| found.finding).collect(),
        notes: explored.collector.notes(),
        elapsed: begun.elapsed(),
    })
}

/// Takes the findings that a case accepts out of the others.
fn accepted(accepts: &[CaseAccept], found: Vec<RunFinding>) -> (Vec<AcceptedFinding>, Vec<RunFinding>) {
    let (mut accepted, mut others) = (Vec::new(), Vec::new());
    for found in found {
        match accepts.iter().find(|accept| accept.is_about(&found.finding)) {
            Some(CaseAccept { reason, .. }) => {
                accepted.push(AcceptedFinding { finding: found.finding, reason: reason.clone() });
            }
            None => others.push(found),
        }
    }
    (accepted, others)
}

/// A finding for each `[[accept]]` that is about none.
fn unused_accepts(case: &Case, baseline: &Baseline, accepted: &[AcceptedFinding]) -> Vec<RunFinding> {
    let schedule = Schedule::undisturbed();
    let run = Comparison { case: &case.name, baseline, result: &baseline.result, schedule: &schedule };
    let is_used = |accept: &CaseAccept| accepted.iter().any(|accepted| accept.is_about(&accepted.finding));
    let finding = |accept: &CaseAccept| {
        let CaseAccept { finding, attempt, call, .. } = accept;
        let at = CallPosition { attempt: *attempt, call: *call };
        let what = format!("the [[accept]] of {finding:?} at {} is about no finding", call_number(at));
        run.finding(
            FindingKind::Accept,
            at,
            what,
            "remove it from the case, or correct its kind, its attempt and its call",
        )
    };
    case.accept.iter().filter(|accept| !is_used(accept)).map(finding).collect()
}

fn explore(context: &Arc<CheckContext>, baseline: &Baseline, progress: &ProgressFn) -> Explored {
    let case = context.case.name.as_str();
    let progress = |done, total| progress(CheckProgress { case, done, total });
    Exploration::new(context, baseline, &progress).explore()
}

/// Plays one schedule. Errors when there is none with the id.
fn play_only(context: &Arc<CheckContext>, baseline: &Baseline, only: &ScheduleId) -> anyhow::Result<Explored> {
    let schedule = only.id.parse().ok();
    let explored = schedule.and_then(|schedule| Exploration::new(context, baseline, &|_, _| {}).play_one(&schedule));
    let calls = baseline.result.attempts.values().next().map_or(0, |attempt| attempt.calls.len());
    explored.with_context(|| format!("no schedule has the id {:?}: the handler makes {calls} calls now", only.id))
}

fn run_baseline(context: &Arc<CheckContext>) -> anyhow::Result<Baseline> {
    let undisturbed = Schedule::undisturbed();
    let result = run_schedule(context, &undisturbed, RunVariant::Standard);
    if let Some(request) = result.receivers.unanswered.first() {
        bail!("no [[answer]] of the case fits the request {request}");
    }
    let state = result.snapshot.state.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    context.others_state.get_or_init(|| state);
    Ok(Baseline { result, repeat: run_schedule(context, &undisturbed, RunVariant::OtherTimeAndSeed) })
}

/// The findings and notes of the undisturbed run.
fn judge_undisturbed(context: &CheckContext, baseline: &Baseline) -> FindingCollector {
    let (case, schedule) = (&context.case, Schedule::undisturbed());
    let run = Comparison { case: &case.name, baseline, result: &baseline.result, schedule: &schedule };
    let mut collector = FindingCollector::default();
    collector.collect(0, &schedule, detect_undisturbed_findings(&run, case));
    if let Some(note) = nondeterminism(baseline) {
        collector.note(0, NoteTopic::Determinism, "", note);
    }
    if !baseline.result.is_done() && !collector.has_findings_beside(&[]) {
        let what = "the item is dead-lettered even when nothing goes wrong, as the case expects: what an item that is \
                    done leaves behind is not compared";
        collector.note(0, NoteTopic::Case, "", Note { at: None, what: what.to_owned() });
    }
    collector
}

/// The calls of the undisturbed run, then those that only disturbed runs make.
fn call_lines(baseline: &Baseline, new_calls: Vec<CallLine>, findings: &[RunFinding]) -> Vec<CallLine> {
    let mut lines = Vec::new();
    for (attempt, record) in baseline.distinct_attempts() {
        for (call, record) in (1..).zip(&record.calls) {
            lines.push(call_line(None, CallPosition { attempt, call }, record));
        }
    }
    lines.extend(new_calls);
    for line in findings.iter().filter_map(|found| found.line.clone()) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}
