//! Which things go wrong in one run, and all the runs there are for a handler with so many calls.
//!
//! Pure. A schedule's id says what happens in it: `crash:3a+crash:return` ends the first attempt after the
//! effect of its third call, and the second after it has returned.

use std::fmt;

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashPoint {
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
pub(crate) enum ResponseFault {
    /// It is carried out, and no answer comes.
    NoResponse,
    /// It is carried out, and the answer is 500.
    ErrorAfterEffect,
    /// It is not carried out, and the answer is 500.
    Error,
    /// It and the next two like it are not carried out, and the answer is 429.
    Throttled,
}

/// What goes wrong in one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disruption {
    /// The process dies.
    Crash(CrashPoint),
    /// The process dies, and the item is delivered to the component loaded anew.
    Reload(CrashPoint),
    /// The attempt stands still until its lease has ended and another has run; then it goes on.
    OverrunLease(CrashPoint),
    /// Something is the matter with the n-th call.
    Fault(usize, ResponseFault),
}

/// What receivers do with idempotency keys, where the case does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiverBehaviour {
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
pub(crate) struct Schedule {
    pub(crate) receivers: ReceiverBehaviour,
    /// What goes wrong in the first attempt, the second, and so on.
    pub(crate) disruptions: Vec<Disruption>,
}

impl Schedule {
    fn new(receivers: ReceiverBehaviour, disruptions: &[Disruption]) -> Self {
        Self { receivers, disruptions: disruptions.to_vec() }
    }

    /// The run in which nothing goes wrong.
    pub(crate) fn undisturbed() -> Self {
        Self::new(ReceiverBehaviour::Honour, &[])
    }

    /// Whether an attempt goes on beside another.
    pub(crate) fn has_overlap(&self) -> bool {
        self.disruptions.iter().any(|disruption| matches!(disruption, Disruption::OverrunLease(_)))
    }
}

/// A call of the undisturbed run, as far as schedules care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// A request that may have an effect.
    Effect,
    /// A request that has none.
    Lookup,
    /// Anything else.
    Stored,
}

/// Every schedule for a handler that makes these calls, by what they have in common.
pub(crate) fn all_schedules(calls: &[CallKind]) -> Vec<(&'static str, Vec<Schedule>)> {
    let points = crash_points(calls.len());
    let before_commit = &points[..points.len() - 1];
    let honoured = |disruptions: Vec<Disruption>| -> Vec<_> {
        disruptions.into_iter().map(|disruption| Schedule::new(ReceiverBehaviour::Honour, &[disruption])).collect()
    };
    let each = |points: &[CrashPoint], disruption: fn(CrashPoint) -> Disruption| {
        points.iter().map(|point| disruption(*point)).collect::<Vec<_>>()
    };
    let crashes = each(&points, Disruption::Crash);
    vec![
        ("one crash", honoured(crashes.clone())),
        ("a crash and a reload", honoured(each(before_commit, Disruption::Reload))),
        ("an attempt that outlives its lease", honoured(each(before_commit, Disruption::OverrunLease))),
        ("receivers that ignore keys", with_receivers_ignoring_keys(&crashes)),
        ("receivers that answer 409", with_conflict_answers(calls)),
        ("receivers at fault", honoured(response_faults(calls))),
        (
            "a fault, then a crash",
            pairs(&response_faults(calls), &each(&distinct_points(calls.len()), Disruption::Crash)),
        ),
        (
            "two crashes",
            pairs(
                &each(&effect_points(calls.len()), Disruption::Crash),
                &each(&distinct_points(calls.len()), Disruption::Crash),
            ),
        ),
    ]
}

/// Before and after each call, after the return, and after the commit.
fn crash_points(calls: usize) -> Vec<CrashPoint> {
    let calls = (1..=calls).flat_map(|call| [CrashPoint::Before(call), CrashPoint::After(call)]);
    calls.chain([CrashPoint::Return, CrashPoint::Commit]).collect()
}

/// Before the first call and after each: between the effect of one call and the next nothing happens that
/// lasts, so a crash there is the same wherever it falls.
fn effect_points(calls: usize) -> Vec<CrashPoint> {
    std::iter::once(CrashPoint::Before(1)).chain((1..=calls).map(CrashPoint::After)).collect()
}

/// The same, and after the return, for an attempt that may make more calls than the first.
fn distinct_points(calls: usize) -> Vec<CrashPoint> {
    effect_points(calls).into_iter().chain([CrashPoint::Return]).collect()
}

fn with_receivers_ignoring_keys(crashes: &[Disruption]) -> Vec<Schedule> {
    crashes.iter().map(|crash| Schedule::new(ReceiverBehaviour::Ignore, &[*crash])).collect()
}

fn with_conflict_answers(calls: &[CallKind]) -> Vec<Schedule> {
    let effects = numbered(calls).filter(|(_, kind)| *kind == CallKind::Effect);
    let schedule = |receivers, call| Schedule::new(receivers, &[Disruption::Crash(CrashPoint::After(call))]);
    effects
        .flat_map(|(call, _)| [schedule(ReceiverBehaviour::Busy, call), schedule(ReceiverBehaviour::Abort, call)])
        .collect()
}

fn response_faults(calls: &[CallKind]) -> Vec<Disruption> {
    let of = |kind| -> &[ResponseFault] {
        match kind {
            CallKind::Effect => &[
                ResponseFault::NoResponse,
                ResponseFault::ErrorAfterEffect,
                ResponseFault::Error,
                ResponseFault::Throttled,
            ],
            CallKind::Lookup => &[ResponseFault::NoResponse, ResponseFault::Error, ResponseFault::Throttled],
            CallKind::Stored => &[],
        }
    };
    let at = |(call, kind)| of(kind).iter().map(move |fault| Disruption::Fault(call, *fault));
    numbered(calls).flat_map(at).collect()
}

fn numbered(calls: &[CallKind]) -> impl Iterator<Item = (usize, CallKind)> {
    (1..).zip(calls.iter().copied())
}

fn pairs(first: &[Disruption], second: &[Disruption]) -> Vec<Schedule> {
    let with = |first: Disruption| {
        second.iter().map(move |second| Schedule::new(ReceiverBehaviour::Honour, &[first, *second]))
    };
    first.iter().flat_map(|first| with(*first)).collect()
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.receivers {
            ReceiverBehaviour::Honour => "",
            ReceiverBehaviour::Ignore => "ignore/",
            ReceiverBehaviour::Busy => "busy/",
            ReceiverBehaviour::Abort => "abort/",
        })?;
        let disruptions: Vec<_> = self.disruptions.iter().map(Disruption::to_string).collect();
        f.write_str(if disruptions.is_empty() { "undisturbed" } else { "" })?;
        f.write_str(&disruptions.join("+"))
    }
}

impl fmt::Display for Disruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(point) => write!(f, "crash:{point}"),
            Self::Reload(point) => write!(f, "reload:{point}"),
            Self::OverrunLease(point) => write!(f, "outlive:{point}"),
            Self::Fault(call, ResponseFault::NoResponse) => write!(f, "silent:{call}"),
            Self::Fault(call, ResponseFault::ErrorAfterEffect) => write!(f, "lies:{call}"),
            Self::Fault(call, ResponseFault::Error) => write!(f, "fails:{call}"),
            Self::Fault(call, ResponseFault::Throttled) => write!(f, "throttles:{call}"),
        }
    }
}

impl fmt::Display for CrashPoint {
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
    pub(crate) fn story(&self) -> String {
        let attempts = (1..)
            .zip(&self.disruptions)
            .map(|(attempt, disruption)| format!("attempt {attempt} {}", disruption.story()));
        let story = attempts.collect::<Vec<_>>().join(", ");
        match self.receivers {
            ReceiverBehaviour::Honour => story,
            ReceiverBehaviour::Ignore => format!("{story}, at receivers that ignore keys"),
            ReceiverBehaviour::Busy => {
                format!("{story}, and the receiver answers 409 until it has done what it was sent")
            }
            ReceiverBehaviour::Abort => {
                format!("{story}, and the receiver answers 409 until it has given up what it was sent")
            }
        }
    }
}

impl Disruption {
    fn story(self) -> String {
        match self {
            Self::Crash(point) => format!("dies {}", point.story()),
            Self::Reload(point) => format!("dies {} and the component is loaded anew", point.story()),
            Self::OverrunLease(point) => format!("stands still {} until another has run", point.story()),
            Self::Fault(call, ResponseFault::NoResponse) => {
                format!("gets no answer to call {call}, which is carried out")
            }
            Self::Fault(call, ResponseFault::ErrorAfterEffect) => {
                format!("gets 500 for call {call}, which is carried out")
            }
            Self::Fault(call, ResponseFault::Error) => format!("gets 500 for call {call}, which is not carried out"),
            Self::Fault(call, ResponseFault::Throttled) => format!("gets 429 for call {call}, and so do the next two"),
        }
    }
}

impl CrashPoint {
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
        let found = all_schedules(&calls);
        let found: Vec<_> = found.into_iter().map(|(family, schedules)| (family, schedules.len())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn no_two_schedules_have_one_id() {
        let all = all_schedules(&[CallKind::Effect, CallKind::Lookup, CallKind::Stored]);
        let ids: Vec<_> = all.iter().flat_map(|(_, schedules)| schedules).map(Schedule::to_string).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
}
