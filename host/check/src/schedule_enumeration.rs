//! Enumerates the schedules of a handler from the calls of its undisturbed run.
//!
//! Pure. `docs/testing-handlers.md` states how many schedules follow from the number of calls.

use crate::schedule::{CrashPoint, Disruption, ReceiverBehaviour, ResponseFault, Schedule};

/// A call of the undisturbed run, as far as it matters for schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// A request that may have an effect.
    Effect,
    /// A request that has no effect.
    Lookup,
    /// A call that reads or writes state, or emits a follow-up.
    Stored,
}

/// Every schedule for a handler that makes these calls, in groups with a name for people.
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

/// Before the first call and after each call. A handler changes nothing outside itself between two calls, so a crash
/// after one call equals a crash before the next.
fn effect_points(calls: usize) -> Vec<CrashPoint> {
    std::iter::once(CrashPoint::Before(1)).chain((1..=calls).map(CrashPoint::After)).collect()
}

/// The effect points and the return, for an attempt that may make more calls than the first one.
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
