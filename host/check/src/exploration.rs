//! Plays the schedules of one case in rounds, on all threads of the machine.
//!
//! The first round has one disruption in each attempt of the undisturbed run, the second one disturbs the next attempt
//! too, and the rounds after them disturb the calls that only a disturbed run makes, until there are no new ones. The
//! result does not depend on the order in which threads finish. This file does not decide what a finding is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use outbox_runtime::simulation::GuestCall;

use crate::call_record::{CallKind, CallRecord};
use crate::check_report::{CallLine, CallPosition, Note, ScheduleGroup};
use crate::finding_collector::{FindingCollector, NoteTopic};
use crate::findings::comparison::{Baseline, Comparison, RunFinding, call_line};
use crate::findings::{detect_findings, detect_notes, lookups};
use crate::schedule::{ReceiverBehaviour, Schedule};
use crate::schedule_enumeration::{
    NamedSchedules, changed_lookups, conflict, disruptions_at_call, is_followed_by_crash, later_faults,
    single_disruptions, with_second_crash,
};
use crate::scheduled_run::{CheckContext, RunResult, RunVariant, run_schedule};

/// The most schedules of one case: minutes of work. Their number grows with the square of the number of calls.
const SCHEDULES_MAX: usize = 50_000;
/// The most calls that are disturbed although the undisturbed run does not make them. A handler with a clock or a
/// random number in its URLs makes new calls for ever.
const NEW_CALLS_MAX: usize = 64;
/// The most disruptions of one run.
const DISRUPTIONS_MAX: usize = 4;

/// Receives the number of schedules of a round that have started, and the number of its schedules.
pub(crate) type RoundProgress<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What the schedules showed.
#[derive(Debug, Default)]
pub(crate) struct Explored {
    pub(crate) groups: Vec<ScheduleGroup>,
    /// The calls that were disturbed and that the undisturbed run does not make.
    pub(crate) new_calls: Vec<CallLine>,
    pub(crate) collector: FindingCollector,
    /// The number of schedules that were played.
    pub(crate) played: usize,
    /// The number of schedules that were left out.
    left_out: usize,
}

/// The check of one case.
pub(crate) struct Exploration<'a> {
    context: &'a Arc<CheckContext>,
    baseline: &'a Baseline,
    progress: &'a RoundProgress<'a>,
    /// The calls that are disturbed already, as text.
    known: BTreeSet<String>,
    /// The number and the kind of calls that differ in every run.
    unstable: BTreeSet<(usize, &'static str)>,
}

/// A call that the undisturbed run does not make.
struct NewCall {
    schedule: Schedule,
    at: CallPosition,
    record: CallRecord,
}

/// What the next round needs to know of the schedules of a round.
#[derive(Default)]
struct Round {
    collector: FindingCollector,
    /// For schedules that another crash follows, by their number: the calls of the attempt after the disruption.
    next_calls: BTreeMap<usize, usize>,
    /// The first run that makes each new call, by the text of the call.
    new_calls: BTreeMap<String, (usize, NewCall)>,
}

impl<'a> Exploration<'a> {
    /// An exploration that has played nothing yet.
    pub(crate) fn new(context: &'a Arc<CheckContext>, baseline: &'a Baseline, progress: &'a RoundProgress<'a>) -> Self {
        let (first, repeat) = (&baseline.result.attempts, &baseline.repeat.attempts);
        let calls = first.values().chain(repeat.values()).flat_map(|attempt| &attempt.calls);
        let known = calls.map(|record| record.call.to_string()).collect();
        let mut unstable = BTreeSet::new();
        for (attempt, record) in first {
            let again = repeat.get(attempt).map_or(&[][..], |record| &record.calls);
            for (number, (call, again)) in (1..).zip(record.calls.iter().zip(again)) {
                if call.call.to_string() != again.call.to_string() {
                    unstable.insert((number, method(&call.call)));
                }
            }
        }
        Self { context, baseline, progress, known, unstable }
    }

    /// Plays every schedule.
    pub(crate) fn explore(mut self) -> Explored {
        let mut explored = Explored::default();
        let mut singles = self.in_each_attempt(single_disruptions);
        singles.push(("lookups that say something else", self.changed_lookups()));
        singles.push(("another item that changes the state", self.conflicts()));
        let round = self.play(&mut explored, singles.clone());
        let singles = singles.into_iter().flat_map(|(_, schedules)| schedules).collect::<Vec<_>>();
        let mut pairs = second_crashes(&singles, &round.next_calls);
        pairs.extend(self.in_each_attempt(later_faults));
        let mut new_calls = round.new_calls;
        for (text, (number, call)) in self.play(&mut explored, pairs).new_calls {
            new_calls.entry(text).or_insert((number, call));
        }
        while !new_calls.is_empty() {
            let schedules = self.at_new_calls(&mut explored, new_calls);
            new_calls = self.play(&mut explored, vec![("calls that only a disturbance reaches", schedules)]).new_calls;
        }
        explored.note_bounds();
        explored
    }

    /// Plays one schedule. `None` when a disruption never happens.
    pub(crate) fn play_one(self, schedule: &Schedule) -> Option<Explored> {
        let mut explored = Explored::default();
        let round = self.run_round(0, std::slice::from_ref(schedule));
        (explored.collector, explored.played) = (round.collector, 1);
        (explored.collector.unreached == 0).then_some(explored)
    }

    /// The schedules of all attempts of the undisturbed run that differ, in groups of one name.
    fn in_each_attempt(&self, enumerate: fn(u32, &[CallKind]) -> Vec<NamedSchedules>) -> Vec<NamedSchedules> {
        let mut groups: Vec<NamedSchedules> = Vec::new();
        for (attempt, record) in self.baseline.distinct_attempts() {
            let kinds: Vec<_> = record.calls.iter().map(|record| record.kind).collect();
            for (name, schedules) in enumerate(attempt, &kinds) {
                match groups.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => known.extend(schedules),
                    None => groups.push((name, schedules)),
                }
            }
        }
        groups
    }

    /// The schedules in which a lookup says something else in the next attempt, for lookups that an effect follows.
    fn changed_lookups(&self) -> Vec<Schedule> {
        let mut schedules = Vec::new();
        for (attempt, record) in self.baseline.distinct_attempts() {
            let last_effect = record.calls.iter().rposition(|record| record.kind == CallKind::Effect).unwrap_or(0);
            let lookups = (1..).zip(&record.calls).take(last_effect).filter(|(_, record)| record.value.is_some());
            schedules.extend(lookups.flat_map(|(call, _)| changed_lookups(attempt, call)));
        }
        schedules
    }

    /// The schedules in which another item changes the state that an attempt has read. A key that names the item
    /// belongs to it alone.
    fn conflicts(&self) -> Vec<Schedule> {
        let (own, before) = (&self.context.case.item.key, &self.context.initial_state);
        let after = &self.baseline.result.snapshot.state;
        let is_shared = |key: &str| {
            let changes = after.get(key).is_some_and(|(value, _)| before.get(key) != Some(value));
            changes && !key.contains(own.as_str())
        };
        let mut schedules = Vec::new();
        for (attempt, record) in self.baseline.distinct_attempts() {
            let mut keys = BTreeSet::new();
            for (call, record) in (1..).zip(&record.calls) {
                if let GuestCall::Get { key } = &record.call
                    && is_shared(key)
                    && keys.insert(key)
                {
                    schedules.push(conflict(attempt, call));
                }
            }
        }
        schedules
    }

    /// The schedules that disturb new calls, which are known from then on.
    fn at_new_calls(
        &mut self,
        explored: &mut Explored,
        new_calls: BTreeMap<String, (usize, NewCall)>,
    ) -> Vec<Schedule> {
        let mut new_calls: Vec<_> = new_calls.into_values().collect();
        new_calls.sort_by_key(|(number, call)| (*number, call.at));
        let mut schedules = Vec::new();
        for (_, NewCall { schedule, at, record }) in new_calls {
            self.known.insert(record.call.to_string());
            let more = disruptions_at_call(&schedule, at.attempt, at.call, record.kind);
            if explored.new_calls.len() >= NEW_CALLS_MAX || schedule.disruptions.len() >= DISRUPTIONS_MAX {
                explored.left_out += more.len();
                continue;
            }
            explored.new_calls.push(call_line(Some(&schedule), at, &record));
            schedules.extend(more);
        }
        schedules
    }

    /// Plays groups of schedules as one round.
    fn play(&self, explored: &mut Explored, groups: Vec<NamedSchedules>) -> Round {
        let mut all = Vec::new();
        for (name, schedules) in groups {
            let wanted = schedules.len();
            let schedules = thinned(schedules, SCHEDULES_MAX.saturating_sub(explored.played + all.len()));
            explored.left_out += wanted - schedules.len();
            explored.count(name, schedules.len());
            all.extend(schedules);
        }
        let mut round = self.run_round(explored.played, &all);
        explored.played += all.len();
        explored.collector.absorb(std::mem::take(&mut round.collector));
        round
    }

    /// Plays schedules, the first of which has the number `first`.
    fn run_round(&self, first: usize, schedules: &[Schedule]) -> Round {
        let (next, round) = (AtomicUsize::new(0), Mutex::new(Round::default()));
        let work = || {
            while let Some((index, schedule)) = next_schedule(&next, schedules) {
                (self.progress)(index, schedules.len());
                let result = run_schedule(self.context, schedule, RunVariant::Standard);
                self.judge(&round, first + index, index, schedule, &result);
            }
        };
        run_on_all_threads(work);
        if !schedules.is_empty() {
            (self.progress)(schedules.len(), schedules.len());
        }
        round.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what one run shows to its round. `index` is the place of the schedule in the round.
    fn judge(&self, round: &Mutex<Round>, number: usize, index: usize, schedule: &Schedule, result: &RunResult) {
        let case = self.context.case.name.as_str();
        let run = Comparison { case, baseline: self.baseline, result, schedule };
        let (found, notes) = judged(&run);
        let new_calls = self.new_calls(schedule, result);
        let mut round = round.lock().unwrap_or_else(PoisonError::into_inner);
        round.collector.collect(number, schedule, found);
        round.collector.unreached += usize::from(!result.has_reached_all);
        for (topic, note) in notes {
            round.collector.note(number, topic, "", note);
        }
        for request in &result.receivers.unanswered {
            let what = format!("no [[answer]] of the case fits the request {request}, made in {schedule}");
            round.collector.note(number, NoteTopic::Unanswered, request, Note { at: None, what });
        }
        if is_followed_by_crash(schedule) {
            let next = schedule.disruptions.last().and_then(|last| result.attempts.get(&(last.attempt + 1)));
            round.next_calls.extend(next.map(|next| (index, next.calls.len())));
        }
        for (text, call) in new_calls {
            round.add_new_call(text, number, call);
        }
    }

    /// The calls of a run that are not disturbed yet, each at its first place.
    fn new_calls(&self, schedule: &Schedule, result: &RunResult) -> BTreeMap<String, NewCall> {
        let mut new_calls = BTreeMap::new();
        if schedule.receivers == ReceiverBehaviour::Ignore {
            return new_calls;
        }
        for (attempt, record) in &result.attempts {
            for (call, record) in (1..).zip(&record.calls) {
                let text = record.call.to_string();
                let is_unstable = self.unstable.contains(&(call, method(&record.call)));
                if is_unstable || self.known.contains(&text) || result.receivers.unanswered.contains(&text) {
                    continue;
                }
                let at = CallPosition { attempt: *attempt, call };
                let new = || NewCall { schedule: schedule.clone(), at, record: without_body(record) };
                new_calls.entry(text).or_insert_with(new);
            }
        }
        new_calls
    }
}

impl Round {
    fn add_new_call(&mut self, text: String, number: usize, call: NewCall) {
        let is_later = self.new_calls.get(&text).is_some_and(|(known, _)| *known < number);
        if !is_later {
            self.new_calls.insert(text, (number, call));
        }
    }
}

impl Explored {
    fn count(&mut self, name: &'static str, count: usize) {
        match self.groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.count += count,
            None if count > 0 => self.groups.push(ScheduleGroup { name, count }),
            None => {}
        }
    }

    fn note_bounds(&mut self) {
        if self.left_out > 0 {
            let what = format!(
                "{} more schedules were not played: at most {SCHEDULES_MAX} are, and at most {NEW_CALLS_MAX} calls \
                 are disturbed that the undisturbed run does not make",
                self.left_out
            );
            self.collector.note(usize::MAX, NoteTopic::Bounds, "", Note { at: None, what });
        }
    }
}

/// The findings and notes of a run.
fn judged(run: &Comparison<'_>) -> (Vec<RunFinding>, Vec<(NoteTopic, Note)>) {
    let found = detect_findings(run);
    match run.schedule.changed_lookup() {
        Some(at) => lookups::judged(run, at, found),
        None => (found, detect_notes(run).into_iter().map(|note| (NoteTopic::Overlap, note)).collect()),
    }
}

/// A fault or a crash, then a crash of the next attempt at each of its calls.
fn second_crashes(singles: &[Schedule], next_calls: &BTreeMap<usize, usize>) -> Vec<NamedSchedules> {
    let (mut after_faults, mut after_crashes) = (Vec::new(), Vec::new());
    for (index, calls) in next_calls {
        let pairs = with_second_crash(&singles[*index], *calls);
        let is_fault = singles[*index].disruptions.iter().any(|placed| placed.disruption.is_fault());
        if is_fault { after_faults.extend(pairs) } else { after_crashes.extend(pairs) }
    }
    vec![("a fault, then a crash", after_faults), ("two crashes", after_crashes)]
}

/// At most `most` of the schedules, spread evenly.
fn thinned(schedules: Vec<Schedule>, most: usize) -> Vec<Schedule> {
    let step = schedules.len().div_ceil(most.max(1)).max(1);
    schedules.into_iter().step_by(step).take(most).collect()
}

/// The record of a call without what may be large.
fn without_body(record: &CallRecord) -> CallRecord {
    let mut record = record.clone();
    match &mut record.call {
        GuestCall::Request(request) => request.body.clear(),
        GuestCall::Put { value: bytes, .. } | GuestCall::Emit { payload: bytes, .. } => bytes.clear(),
        GuestCall::Get { .. } | GuestCall::Delete { .. } => {}
    }
    record
}

/// What kind of call it is, without its target.
fn method(call: &GuestCall) -> &'static str {
    match call {
        GuestCall::Request(request) if request.is_safe() => "lookup",
        GuestCall::Request(_) => "effect",
        GuestCall::Get { .. } => "get",
        GuestCall::Put { .. } => "put",
        GuestCall::Delete { .. } => "delete",
        GuestCall::Emit { .. } => "emit",
    }
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
