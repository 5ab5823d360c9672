//! Runs every schedule of every case, on as many threads as the machine has, and collects the findings.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::case::Case;
use crate::findings::{Baseline, Finding, FindingKind, Note, detect_findings, nondeterminism};
use crate::schedule::{CallKind, ReceiverBehaviour, Schedule, all_schedules};
use crate::scheduled_run::{CheckContext, RunResult, run_schedule};
use outbox_runtime::simulation::{GuestCall, Simulator};

/// What is to be checked.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// The component.
    pub component: PathBuf,
    /// The folder of its cases.
    pub cases: PathBuf,
    /// The component that takes its place at a reload; the same, unless one is given.
    pub next: Option<PathBuf>,
    /// Only this schedule, `CASE/ID`.
    pub only: Option<String>,
}

/// What came of one case.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The case.
    pub case: String,
    /// The calls of the undisturbed run: what findings refer to.
    pub calls: Vec<CallLine>,
    /// How many schedules there are, by what they have in common.
    #[serde(rename = "families")]
    pub groups: Vec<ScheduleGroup>,
    /// How many were played.
    pub schedules: usize,
    /// In how many of them something of the schedule never came to pass, because the handler had no such
    /// call by then.
    pub unreached: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What else there is to know.
    pub notes: Vec<Note>,
    /// How long it took.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl CheckReport {
    /// Whether nothing is held against the handler.
    pub fn has_no_findings(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Schedules that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScheduleGroup {
    /// What they have in common.
    pub name: &'static str,
    /// How many there are.
    pub count: usize,
}

/// One call of the undisturbed run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallLine {
    /// Its number, from 1.
    pub number: usize,
    /// What it is.
    pub call: String,
    /// The key that it is sent with, if it may have an effect.
    pub key: Option<String>,
}

/// Called with the case, how many of its schedules have run, and how many there are.
pub type ProgressFn = dyn Fn(&str, usize, usize) + Send + Sync;

/// Checks a component with every case of a folder.
pub async fn check(options: &CheckOptions, progress: Arc<ProgressFn>) -> anyhow::Result<Vec<CheckReport>> {
    let only =
        options.only.as_deref().map(|id| id.split_once('/').context("a schedule is named CASE/ID")).transpose()?;
    let mut cases = Case::read_all(&options.cases)?;
    if let Some((case, _)) = only {
        cases.retain(|known| known.name == case);
        if cases.is_empty() {
            bail!("{} has no case {case:?}", options.cases.display());
        }
    }
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
        let (only, progress) = (only.map(|(_, id)| id.to_owned()), Arc::clone(&progress));
        let run = move || check_case(&context, only.as_deref(), &*progress);
        let report = tokio::task::spawn_blocking(run).await?;
        reports.push(report.with_context(|| format!("case {name}"))?);
    }
    Ok(reports)
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

fn check_case(context: &Arc<CheckContext>, only: Option<&str>, progress: &ProgressFn) -> anyhow::Result<CheckReport> {
    let begun = Instant::now();
    let undisturbed = Schedule::undisturbed();
    let baseline =
        Baseline { result: run_schedule(context, &undisturbed, 0), repeat: run_schedule(context, &undisturbed, 1) };
    ensure_usable(&baseline.result)?;
    let kinds: Vec<_> = baseline.result.calls.iter().map(call_kind).collect();
    let groups = all_schedules(&kinds);
    let counts = groups.iter().map(|(name, schedules)| ScheduleGroup { name, count: schedules.len() }).collect();
    let mut schedules: Vec<_> = groups.into_iter().flat_map(|(_, schedules)| schedules).collect();
    if let Some(id) = only {
        schedules.retain(|schedule| schedule.to_string() == id);
        if schedules.is_empty() {
            bail!("no schedule has the id {id:?}: the handler makes {} calls now", kinds.len());
        }
    }
    let found = run_all(context, &baseline, &schedules, progress);
    let name = &context.case.name;
    let mut notes: Vec<_> = nondeterminism(&baseline).into_iter().collect();
    notes.extend(found.notes);
    Ok(CheckReport {
        case: name.clone(),
        calls: call_lines(&baseline.result.calls),
        groups: counts,
        schedules: schedules.len(),
        unreached: found.unreached,
        findings: found.findings.into_iter().map(|finding| with_case(finding, name)).collect(),
        notes,
        elapsed: begun.elapsed(),
    })
}

/// Errors when there is nothing to compare with.
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

fn with_case(finding: Finding, case: &str) -> Finding {
    Finding { schedule: format!("{case}/{}", finding.schedule), ..finding }
}

#[derive(Default)]
struct FindingCollector {
    findings: Vec<Finding>,
    notes: Vec<Note>,
    unreached: usize,
}

fn run_all(
    context: &Arc<CheckContext>,
    baseline: &Baseline,
    schedules: &[Schedule],
    progress: &ProgressFn,
) -> FindingCollector {
    let (next, collected) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((index, schedule)) = next_schedule(&next, schedules) {
            progress(&context.case.name, index, schedules.len());
            let result = run_schedule(context, schedule, 0);
            let found = detect_findings(baseline, &result, schedule);
            collected.lock().unwrap_or_else(PoisonError::into_inner).push((index, found, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    progress(&context.case.name, schedules.len(), schedules.len());
    let mut collected = collected.into_inner().unwrap_or_else(PoisonError::into_inner);
    collected.sort_by_key(|(index, ..)| *index);
    let mut all = FindingCollector::default();
    for (index, found, result) in collected {
        all.collect(&schedules[index], found, &result);
    }
    all
}

fn next_schedule<'a>(next: &AtomicUsize, schedules: &'a [Schedule]) -> Option<(usize, &'a Schedule)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    schedules.get(index).map(|schedule| (index, schedule))
}

impl FindingCollector {
    fn collect(&mut self, schedule: &Schedule, found: Vec<Finding>, result: &RunResult) {
        self.unreached += usize::from(!result.has_reached_all);
        for request in &result.receivers.unanswered {
            self.add_note(None, format!("no [[answer]] of the case fits the request {request}, made in {schedule}"));
        }
        for finding in found {
            if schedule.receivers == ReceiverBehaviour::Ignore {
                self.note_unprotected_repeat(&finding);
            } else {
                self.add_finding(finding);
            }
        }
    }

    /// What happens where receivers ignore keys is for information, unless the case says that they do.
    fn note_unprotected_repeat(&mut self, finding: &Finding) {
        if finding.kind == FindingKind::Repeated {
            let what = format!("{}: it needs a receiver that honours them", finding.what);
            self.add_note(Some(finding.call), what);
        }
    }

    fn add_note(&mut self, call: Option<usize>, what: String) {
        let is_known = self.notes.iter().any(|note| note.call == call && (call.is_some() || note.what == what));
        if !is_known {
            self.notes.push(Note { call, what });
        }
    }

    fn add_finding(&mut self, finding: Finding) {
        let is_like = |known: &&mut Finding| known.kind == finding.kind && known.call == finding.call;
        match self.findings.iter_mut().find(is_like) {
            // The shorter a schedule, the easier it is to follow.
            Some(known) if finding.schedule.len() < known.schedule.len() => {
                *known = Finding { schedules: known.schedules + 1, ..finding };
            }
            Some(known) => known.schedules += 1,
            None => self.findings.push(finding),
        }
    }
}
