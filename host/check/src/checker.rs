//! Plays every schedule of every case, on all threads of the machine, and reports what it found.
//!
//! It does not decide what a schedule or a finding is.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail};

use outbox_runtime::simulation::{GuestCall, Simulator};

use crate::case::Case;
use crate::check_report::{CallLine, CheckReport, ScheduleGroup, ScheduleId};
use crate::finding_collector::FindingCollector;
use crate::findings::comparison::{Baseline, Comparison};
use crate::findings::detect_findings;
use crate::findings::nondeterminism::nondeterminism;
use crate::schedule::Schedule;
use crate::schedule_enumeration::{CallKind, all_schedules};
use crate::scheduled_run::{CheckContext, RunResult, RunVariant, run_schedule};

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
}

/// How far the check of one case has come.
#[derive(Clone, Copy, Debug)]
pub struct CheckProgress<'a> {
    /// The name of the case.
    pub case: &'a str,
    /// The number of its schedules that have started; equal to `total` when all of them are finished.
    pub done: usize,
    /// The number of its schedules.
    pub total: usize,
}

/// Receives the progress of a check, from several threads.
pub type ProgressFn = dyn Fn(CheckProgress<'_>) + Send + Sync;

/// Checks a component with the cases of a folder. Errors when the component, a case file or a schedule id is unusable;
/// what is wrong with the handler is in the reports.
pub async fn check(options: &CheckOptions, progress: Arc<ProgressFn>) -> anyhow::Result<Vec<CheckReport>> {
    let cases = selected_cases(options)?;
    let simulator = Simulator::open(&options.component).await?;
    let next = match &options.next {
        Some(next) => Some(Simulator::open(next).await?),
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
    Ok(CheckContext { plugin, reloaded, initial_state: case.initial_state(), case })
}

fn check_case(
    context: &Arc<CheckContext>,
    only: Option<&ScheduleId>,
    progress: &ProgressFn,
) -> anyhow::Result<CheckReport> {
    let begun = Instant::now();
    let baseline = run_baseline(context)?;
    let calls = &baseline.result.calls;
    let kinds: Vec<_> = calls.iter().map(call_kind).collect();
    let groups = all_schedules(&kinds);
    let counts = groups.iter().map(|(name, schedules)| ScheduleGroup { name, count: schedules.len() }).collect();
    let mut schedules: Vec<_> = groups.into_iter().flat_map(|(_, schedules)| schedules).collect();
    if let Some(only) = only {
        retain_schedule(&mut schedules, only, kinds.len())?;
    }
    let found = run_all(context, &baseline, &schedules, progress);
    let mut notes: Vec<_> = nondeterminism(&baseline).into_iter().collect();
    notes.extend(found.notes);
    Ok(CheckReport {
        case: context.case.name.clone(),
        calls: call_lines(calls),
        groups: counts,
        schedules: schedules.len(),
        unreached: found.unreached,
        findings: found.findings,
        notes,
        elapsed: begun.elapsed(),
    })
}

/// Errors when no schedule has the id. `calls` is the number of calls that the handler makes undisturbed.
fn retain_schedule(schedules: &mut Vec<Schedule>, only: &ScheduleId, calls: usize) -> anyhow::Result<()> {
    let id = &only.id;
    schedules.retain(|schedule| schedule.to_string() == *id);
    if schedules.is_empty() {
        bail!("no schedule has the id {id:?}: the handler makes {calls} calls now");
    }
    Ok(())
}

fn run_baseline(context: &Arc<CheckContext>) -> anyhow::Result<Baseline> {
    let undisturbed = Schedule::undisturbed();
    let result = run_schedule(context, &undisturbed, RunVariant::Standard);
    ensure_usable(&result)?;
    Ok(Baseline { result, repeat: run_schedule(context, &undisturbed, RunVariant::OtherTimeAndSeed) })
}

/// Errors when the undisturbed run is no baseline for comparisons.
fn ensure_usable(baseline: &RunResult) -> anyhow::Result<()> {
    if let Some(request) = baseline.receivers.unanswered.first() {
        bail!("no [[answer]] of the case fits the request {request}");
    }
    if !baseline.is_settled() {
        let failure = baseline.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        bail!("its item is never settled even when nothing goes wrong: {failure}");
    }
    Ok(())
}

fn call_kind(call: &GuestCall) -> CallKind {
    match call {
        GuestCall::Request(request) if request.is_safe() => CallKind::Lookup,
        GuestCall::Request(_) => CallKind::Effect,
        _ => CallKind::Stored,
    }
}

fn call_lines(calls: &[GuestCall]) -> Vec<CallLine> {
    let key = |call: &GuestCall| match call {
        GuestCall::Request(request) => request.key.clone(),
        _ => None,
    };
    (1..).zip(calls).map(|(number, call)| CallLine { number, call: call.to_string(), key: key(call) }).collect()
}

fn run_all(
    context: &Arc<CheckContext>,
    baseline: &Baseline,
    schedules: &[Schedule],
    progress: &ProgressFn,
) -> FindingCollector {
    let case = context.case.name.as_str();
    let (next, collected) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((index, schedule)) = next_schedule(&next, schedules) {
            progress(CheckProgress { case, done: index, total: schedules.len() });
            let result = run_schedule(context, schedule, RunVariant::Standard);
            let found = detect_findings(&Comparison { case, baseline, result: &result, schedule });
            collected.lock().unwrap_or_else(PoisonError::into_inner).push((index, found, result));
        }
    };
    run_on_all_threads(work);
    progress(CheckProgress { case, done: schedules.len(), total: schedules.len() });
    let mut collected = collected.into_inner().unwrap_or_else(PoisonError::into_inner);
    collected.sort_by_key(|(index, ..)| *index);
    let mut all = FindingCollector::default();
    for (index, found, result) in collected {
        all.collect(&schedules[index], found, &result);
    }
    all
}

fn run_on_all_threads(work: impl Fn() + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

fn next_schedule<'a>(next: &AtomicUsize, schedules: &'a [Schedule]) -> Option<(usize, &'a Schedule)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    schedules.get(index).map(|schedule| (index, schedule))
}
