//! Plays every schedule of every case, on as many threads as the machine has, and gathers what was found.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::case::Case;
use super::play::{Played, Setting, play};
use super::schedule::{CallKind, Receivers, Schedule, all};
use super::verdict::{Finding, Kind, Note, Reference, divergence, judge};
use crate::plugin::lab::{Call, Lab};

/// What is to be checked.
#[derive(Clone, Debug, Default)]
pub struct Checking {
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
pub struct Checked {
    /// The case.
    pub case: String,
    /// The calls of the undisturbed run: what findings refer to.
    pub calls: Vec<Line>,
    /// How many schedules there are, by what they have in common.
    pub families: Vec<Family>,
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
    pub took: Duration,
}

impl Checked {
    /// Whether nothing is held against the handler.
    pub fn is_acquitted(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Schedules that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Family {
    /// What they have in common.
    pub name: &'static str,
    /// How many there are.
    pub count: usize,
}

/// One call of the undisturbed run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its number, from 1.
    pub number: usize,
    /// What it is.
    pub call: String,
    /// The key that it is sent with, if it may have an effect.
    pub key: Option<String>,
}

/// Hears how many schedules of a case were played, of how many.
pub type Progress = Arc<dyn Fn(&str, usize, usize) + Send + Sync>;

/// Checks a component with every case of a folder.
pub async fn check(checking: &Checking, progress: Progress) -> anyhow::Result<Vec<Checked>> {
    let only =
        checking.only.as_deref().map(|id| id.split_once('/').context("a schedule is named CASE/ID")).transpose()?;
    let mut cases = Case::read_all(&checking.cases)?;
    if let Some((case, _)) = only {
        cases.retain(|known| known.name == case);
        if cases.is_empty() {
            bail!("{} has no case {case:?}", checking.cases.display());
        }
    }
    let lab = Lab::open(&checking.component).await?;
    let next = match &checking.next {
        Some(next) => Some(Lab::open(next).await?),
        None => None,
    };
    let mut checked = Vec::new();
    for case in cases {
        let name = case.name.clone();
        let setting = setting(&lab, next.as_ref().unwrap_or(&lab), case).await;
        let setting = Arc::new(setting.with_context(|| format!("case {name}"))?);
        let (only, progress) = (only.map(|(_, id)| id.to_owned()), Arc::clone(&progress));
        let exploring = move || explore(&setting, only.as_deref(), &*progress);
        let explored = tokio::task::spawn_blocking(exploring).await?;
        checked.push(explored.with_context(|| format!("case {name}"))?);
    }
    Ok(checked)
}

async fn setting(lab: &Lab, next: &Lab, case: Case) -> anyhow::Result<Setting> {
    let (environment, config) = (case.environment(), case.configuration());
    let subject = lab.subject(&environment, config.clone()).await?;
    let reloaded = next.subject(&environment, config).await.context("the component that is reloaded")?;
    let item_type = &case.item.r#type;
    if !subject.types().contains(item_type) {
        bail!("its item is of the type {item_type:?}, and the handler handles {}", subject.types().join(", "));
    }
    Ok(Setting { subject, reloaded, before: case.stored_before(), case })
}

fn explore(setting: &Arc<Setting>, only: Option<&str>, progress: &Told) -> anyhow::Result<Checked> {
    let begun = Instant::now();
    let undisturbed = Schedule::undisturbed();
    let reference = Reference { played: play(setting, &undisturbed, 0), again: play(setting, &undisturbed, 1) };
    usable(&reference.played)?;
    let kinds: Vec<_> = reference.played.calls.iter().map(kind).collect();
    let families = all(&kinds);
    let counts = families.iter().map(|(name, schedules)| Family { name, count: schedules.len() }).collect();
    let mut schedules: Vec<_> = families.into_iter().flat_map(|(_, schedules)| schedules).collect();
    if let Some(id) = only {
        schedules.retain(|schedule| schedule.to_string() == id);
        if schedules.is_empty() {
            bail!("no schedule has the id {id:?}: the handler makes {} calls now", kinds.len());
        }
    }
    let found = play_all(setting, &reference, &schedules, progress);
    let name = &setting.case.name;
    let mut notes: Vec<_> = divergence(&reference).into_iter().collect();
    notes.extend(found.notes);
    Ok(Checked {
        case: name.clone(),
        calls: lines(&reference.played.calls),
        families: counts,
        schedules: schedules.len(),
        unreached: found.unreached,
        findings: found.findings.into_iter().map(|finding| with_case(finding, name)).collect(),
        notes,
        took: begun.elapsed(),
    })
}

type Told = dyn Fn(&str, usize, usize) + Send + Sync;

/// Errors when there is nothing to compare with.
fn usable(reference: &Played) -> anyhow::Result<()> {
    if let Some(request) = reference.town.unanswered.first() {
        bail!("no [[answer]] of the case fits the request {request}");
    }
    if !reference.is_settled() {
        let failure = reference.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        bail!("its item is never settled even when nothing goes wrong: {failure}");
    }
    Ok(())
}

fn kind(call: &Call) -> CallKind {
    match call {
        Call::Request(request) if request.is_safe() => CallKind::Lookup,
        Call::Request(_) => CallKind::Effect,
        _ => CallKind::Stored,
    }
}

fn lines(calls: &[Call]) -> Vec<Line> {
    let key = |call: &Call| match call {
        Call::Request(request) => request.key.clone(),
        _ => None,
    };
    (1..).zip(calls).map(|(number, call)| Line { number, call: call.to_string(), key: key(call) }).collect()
}

fn with_case(finding: Finding, case: &str) -> Finding {
    Finding { schedule: format!("{case}/{}", finding.schedule), ..finding }
}

#[derive(Default)]
struct Gathered {
    findings: Vec<Finding>,
    notes: Vec<Note>,
    unreached: usize,
}

fn play_all(setting: &Arc<Setting>, reference: &Reference, schedules: &[Schedule], progress: &Told) -> Gathered {
    let (next, gathered) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((index, schedule)) = pick(&next, schedules) {
            progress(&setting.case.name, index, schedules.len());
            let played = play(setting, schedule, 0);
            let found = judge(reference, &played, schedule);
            gathered.lock().unwrap_or_else(PoisonError::into_inner).push((index, found, played));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    progress(&setting.case.name, schedules.len(), schedules.len());
    let mut gathered = gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
    gathered.sort_by_key(|(index, ..)| *index);
    let mut all = Gathered::default();
    for (index, found, played) in gathered {
        all.take(&schedules[index], found, &played);
    }
    all
}

fn pick<'a>(next: &AtomicUsize, schedules: &'a [Schedule]) -> Option<(usize, &'a Schedule)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    schedules.get(index).map(|schedule| (index, schedule))
}

impl Gathered {
    fn take(&mut self, schedule: &Schedule, found: Vec<Finding>, played: &Played) {
        self.unreached += usize::from(!played.is_whole);
        for request in &played.town.unanswered {
            self.note(None, format!("no [[answer]] of the case fits the request {request}, made in {schedule}"));
        }
        for finding in found {
            if schedule.receivers == Receivers::Ignore {
                self.ignored(&finding);
            } else {
                self.find(finding);
            }
        }
    }

    /// What happens where receivers ignore keys is for information, unless the case says that they do.
    fn ignored(&mut self, finding: &Finding) {
        if finding.kind == Kind::Repeated {
            let what = format!("{}: it needs a receiver that honours them", finding.what);
            self.note(Some(finding.call), what);
        }
    }

    fn note(&mut self, call: Option<usize>, what: String) {
        let is_known = self.notes.iter().any(|note| note.call == call && (call.is_some() || note.what == what));
        if !is_known {
            self.notes.push(Note { call, what });
        }
    }

    fn find(&mut self, finding: Finding) {
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
