//! Which things go wrong in one run, and all the runs there are for a handler with so many calls.
//!
//! Pure. A schedule's id says what happens in it: `crash:3a+crash:return` ends the first attempt after the
//! effect of its third call, and the second after it has returned.

use std::fmt;

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// Its n-th call has had no effect yet.
    Before(usize),
    /// Its n-th call has had its effect, and the handler does not know.
    After(usize),
    /// It has returned, and nothing is committed.
    Return,
    /// It is committed.
    Commit,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is carried out, and no answer comes.
    Silent,
    /// It is carried out, and the answer is 500.
    Lies,
    /// It is not carried out, and the answer is 500.
    Fails,
    /// It and the next two like it are not carried out, and the answer is 429.
    Throttles,
}

/// What goes wrong in one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The process dies.
    Crash(Point),
    /// The process dies, and the item is delivered to the component loaded anew.
    Reload(Point),
    /// The attempt stands still until its lease has ended and another has run; then it goes on.
    Outlive(Point),
    /// Something is the matter with the n-th call.
    Fault(usize, Fault),
}

/// What receivers do with idempotency keys, where the case does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receivers {
    /// They carry out a key once.
    Honour,
    /// They carry out whatever comes.
    Ignore,
    /// Like the first, and they answer 409 once when a request is repeated whose sender has died; it was
    /// carried out.
    Busy,
    /// The same, but it came to nothing.
    Abort,
}

/// Everything that goes wrong in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) receivers: Receivers,
    /// What goes wrong in the first attempt, the second, and so on.
    pub(super) steps: Vec<Step>,
}

impl Schedule {
    fn new(receivers: Receivers, steps: &[Step]) -> Self {
        Self { receivers, steps: steps.to_vec() }
    }

    /// The run in which nothing goes wrong.
    pub(super) fn undisturbed() -> Self {
        Self::new(Receivers::Honour, &[])
    }

    /// Whether an attempt goes on beside another.
    pub(super) fn has_overlap(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Outlive(_)))
    }
}

/// A call of the undisturbed run, as far as schedules care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    /// A request that may have an effect.
    Effect,
    /// A request that has none.
    Lookup,
    /// Anything else.
    Stored,
}

/// Every schedule for a handler that makes these calls, by what they have in common.
pub(super) fn all(calls: &[CallKind]) -> Vec<(&'static str, Vec<Schedule>)> {
    let points = points(calls.len());
    let before_commit = &points[..points.len() - 1];
    let honoured = |steps: Vec<Step>| -> Vec<_> {
        steps.into_iter().map(|step| Schedule::new(Receivers::Honour, &[step])).collect()
    };
    let each = |points: &[Point], step: fn(Point) -> Step| points.iter().map(|point| step(*point)).collect::<Vec<_>>();
    let crashes = each(&points, Step::Crash);
    vec![
        ("one crash", honoured(crashes.clone())),
        ("a crash and a reload", honoured(each(before_commit, Step::Reload))),
        ("an attempt that outlives its lease", honoured(each(before_commit, Step::Outlive))),
        ("receivers that ignore keys", ignoring(&crashes)),
        ("receivers that answer 409", conflicts(calls)),
        ("receivers at fault", honoured(faults(calls))),
        ("a fault, then a crash", pairs(&faults(calls), &each(&distinct(calls.len()), Step::Crash))),
        ("two crashes", pairs(&each(&effects(calls.len()), Step::Crash), &each(&distinct(calls.len()), Step::Crash))),
    ]
}

/// Before and after each call, after the return, and after the commit.
fn points(calls: usize) -> Vec<Point> {
    let calls = (1..=calls).flat_map(|call| [Point::Before(call), Point::After(call)]);
    calls.chain([Point::Return, Point::Commit]).collect()
}

/// Before the first call and after each: between the effect of one call and the next nothing happens that
/// lasts, so a crash there is the same wherever it falls.
fn effects(calls: usize) -> Vec<Point> {
    std::iter::once(Point::Before(1)).chain((1..=calls).map(Point::After)).collect()
}

/// The same, and after the return, for an attempt that may make more calls than the first.
fn distinct(calls: usize) -> Vec<Point> {
    effects(calls).into_iter().chain([Point::Return]).collect()
}

fn ignoring(crashes: &[Step]) -> Vec<Schedule> {
    crashes.iter().map(|crash| Schedule::new(Receivers::Ignore, &[*crash])).collect()
}

fn conflicts(calls: &[CallKind]) -> Vec<Schedule> {
    let effects = numbered(calls).filter(|(_, kind)| *kind == CallKind::Effect);
    let schedule = |receivers, call| Schedule::new(receivers, &[Step::Crash(Point::After(call))]);
    effects.flat_map(|(call, _)| [schedule(Receivers::Busy, call), schedule(Receivers::Abort, call)]).collect()
}

fn faults(calls: &[CallKind]) -> Vec<Step> {
    let of = |kind| -> &[Fault] {
        match kind {
            CallKind::Effect => &[Fault::Silent, Fault::Lies, Fault::Fails, Fault::Throttles],
            CallKind::Lookup => &[Fault::Silent, Fault::Fails, Fault::Throttles],
            CallKind::Stored => &[],
        }
    };
    let at = |(call, kind)| of(kind).iter().map(move |fault| Step::Fault(call, *fault));
    numbered(calls).flat_map(at).collect()
}

fn numbered(calls: &[CallKind]) -> impl Iterator<Item = (usize, CallKind)> {
    (1..).zip(calls.iter().copied())
}

fn pairs(first: &[Step], second: &[Step]) -> Vec<Schedule> {
    let with = |first: Step| second.iter().map(move |second| Schedule::new(Receivers::Honour, &[first, *second]));
    first.iter().flat_map(|first| with(*first)).collect()
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.receivers {
            Receivers::Honour => "",
            Receivers::Ignore => "ignore/",
            Receivers::Busy => "busy/",
            Receivers::Abort => "abort/",
        })?;
        let steps: Vec<_> = self.steps.iter().map(Step::to_string).collect();
        f.write_str(if steps.is_empty() { "undisturbed" } else { "" })?;
        f.write_str(&steps.join("+"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(point) => write!(f, "crash:{point}"),
            Self::Reload(point) => write!(f, "reload:{point}"),
            Self::Outlive(point) => write!(f, "outlive:{point}"),
            Self::Fault(call, Fault::Silent) => write!(f, "silent:{call}"),
            Self::Fault(call, Fault::Lies) => write!(f, "lies:{call}"),
            Self::Fault(call, Fault::Fails) => write!(f, "fails:{call}"),
            Self::Fault(call, Fault::Throttles) => write!(f, "throttles:{call}"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before(call) => write!(f, "{call}b"),
            Self::After(call) => write!(f, "{call}a"),
            Self::Return => f.write_str("return"),
            Self::Commit => f.write_str("commit"),
        }
    }
}

impl Schedule {
    /// What happens, in words.
    pub(super) fn story(&self) -> String {
        let attempts = (1..).zip(&self.steps).map(|(attempt, step)| format!("attempt {attempt} {}", step.story()));
        let story = attempts.collect::<Vec<_>>().join(", ");
        match self.receivers {
            Receivers::Honour => story,
            Receivers::Ignore => format!("{story}, at receivers that ignore keys"),
            Receivers::Busy => format!("{story}, and the receiver answers 409 until it has done what it was sent"),
            Receivers::Abort => format!("{story}, and the receiver answers 409 until it has given up what it was sent"),
        }
    }
}

impl Step {
    fn story(self) -> String {
        match self {
            Self::Crash(point) => format!("dies {}", point.story()),
            Self::Reload(point) => format!("dies {} and the component is loaded anew", point.story()),
            Self::Outlive(point) => format!("stands still {} until another has run", point.story()),
            Self::Fault(call, Fault::Silent) => format!("gets no answer to call {call}, which is carried out"),
            Self::Fault(call, Fault::Lies) => format!("gets 500 for call {call}, which is carried out"),
            Self::Fault(call, Fault::Fails) => format!("gets 500 for call {call}, which is not carried out"),
            Self::Fault(call, Fault::Throttles) => format!("gets 429 for call {call}, and so do the next two"),
        }
    }
}

impl Point {
    fn story(self) -> String {
        match self {
            Self::Before(call) => format!("before call {call}"),
            Self::After(call) => format!("after call {call}, before its answer"),
            Self::Return => "after the return, before the commit".to_owned(),
            Self::Commit => "after the commit".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The numbers that the documentation states, for N calls of which E may have an effect and L look up.
    #[test]
    fn the_number_of_schedules_follows_from_the_calls() {
        let calls = [CallKind::Effect, CallKind::Lookup, CallKind::Stored, CallKind::Effect];
        let (n, effects, lookups) = (4, 2, 1);
        let faults = 4 * effects + 3 * lookups;
        let expected = [
            ("one crash", 2 * n + 2),
            ("a crash and a reload", 2 * n + 1),
            ("an attempt that outlives its lease", 2 * n + 1),
            ("receivers that ignore keys", 2 * n + 2),
            ("receivers that answer 409", 2 * effects),
            ("receivers at fault", faults),
            ("a fault, then a crash", faults * (n + 2)),
            ("two crashes", (n + 1) * (n + 2)),
        ];
        let found = all(&calls);
        let found: Vec<_> = found.into_iter().map(|(family, schedules)| (family, schedules.len())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn no_two_schedules_have_one_id() {
        let all = all(&[CallKind::Effect, CallKind::Lookup, CallKind::Stored]);
        let ids: Vec<_> = all.iter().flat_map(|(_, schedules)| schedules).map(Schedule::to_string).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
}
