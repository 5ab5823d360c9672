//! Enumerates schedules from the calls of an attempt.
//!
//! Pure. It does not know which attempts there are; `exploration.rs` does. `docs/testing-handlers.md` states how many
//! schedules follow from the number of calls.

use crate::call_record::CallKind;
use crate::schedule::{CrashPoint, Disruption, ReceiverBehaviour, ResponseFault, Schedule};

/// Schedules with similar disruptions, with a name for people.
pub(crate) type NamedSchedules = (&'static str, Vec<Schedule>);

/// Every schedule with one disruption, in attempt number `attempt`, which makes these calls undisturbed.
pub(crate) fn single_disruptions(attempt: u32, calls: &[CallKind]) -> Vec<NamedSchedules> {
    let points = crash_points(calls.len());
    let before_commit = &points[..points.len() - 1];
    let of = |receivers, disruptions: Vec<Disruption>| -> Vec<_> {
        disruptions.into_iter().map(|disruption| Schedule::with_one(receivers, attempt, disruption)).collect()
    };
    let honoured = |disruptions| of(ReceiverBehaviour::Honour, disruptions);
    let crashes = each(&points, Disruption::Crash);
    let after_effects = effect_calls(calls).map(|call| Disruption::Crash(CrashPoint::After(call))).collect::<Vec<_>>();
    let mut conflicts = of(ReceiverBehaviour::Busy, after_effects.clone());
    conflicts.extend(of(ReceiverBehaviour::Abort, after_effects));
    vec![
        ("one crash", honoured(crashes.clone())),
        ("a crash and a reload", honoured(each(before_commit, Disruption::Reload))),
        ("an attempt that outlives its lease", honoured(each(before_commit, Disruption::OverrunLease))),
        ("receivers that ignore keys", of(ReceiverBehaviour::Ignore, crashes)),
        ("receivers that answer 409", conflicts),
        ("receivers at fault", honoured(response_faults(calls))),
        ("an outage until the last attempt", honoured(outages(calls))),
    ]
}

/// The schedules of `first` with a crash in the attempt after its last disruption, which makes this number of calls.
pub(crate) fn with_second_crash(first: &Schedule, calls: usize) -> Vec<Schedule> {
    let attempt = first.disruptions.last().map_or(1, |last| last.attempt + 1);
    each(&distinct_points(calls), Disruption::Crash).into_iter().map(|crash| first.and(attempt, crash)).collect()
}

/// Every schedule with a fault in two attempts one after the other, and every one with a fault after a crash: a handler
/// may take a failure for something else when it knows that it was tried before.
pub(crate) fn later_faults(attempt: u32, calls: &[CallKind]) -> Vec<NamedSchedules> {
    let (mut twice, mut after_crash) = (Vec::new(), Vec::new());
    for (call, fault) in
        numbered(calls).flat_map(|(call, kind)| faults_of(kind).iter().map(move |fault| (call, *fault)))
    {
        let disruption = Disruption::Fault(call, fault);
        let first = |first| Schedule::with_one(ReceiverBehaviour::Honour, attempt, first).and(attempt + 1, disruption);
        after_crash.push(first(Disruption::Crash(CrashPoint::Before(call))));
        // A receiver that throttles does so in the next attempt anyway.
        if fault != ResponseFault::Throttled {
            twice.push(first(disruption));
        }
    }
    vec![("a fault in two attempts", twice), ("a crash, then a fault", after_crash)]
}

/// The schedules of `reached` with one more disruption at a call that only they reach: call number `call` of attempt
/// number `attempt`.
pub(crate) fn disruptions_at_call(reached: &Schedule, attempt: u32, call: usize, kind: CallKind) -> Vec<Schedule> {
    let mut disruptions = each(&[CrashPoint::Before(call), CrashPoint::After(call)], Disruption::Crash);
    disruptions.push(Disruption::OverrunLease(CrashPoint::After(call)));
    disruptions.extend(faults_of(kind).iter().map(|fault| Disruption::Fault(call, *fault)));
    disruptions.into_iter().map(|disruption| reached.and(attempt, disruption)).collect()
}

/// The schedules in which the attempt is repeated, and its lookup number `call` says something else then.
pub(crate) fn changed_lookups(attempt: u32, call: usize) -> Vec<Schedule> {
    let crash = Disruption::Crash(CrashPoint::Return);
    let crashed = Schedule::with_one(ReceiverBehaviour::Honour, attempt, crash);
    let changes = [ResponseFault::SaysMore, ResponseFault::SaysNothing];
    changes.iter().map(|change| crashed.and(attempt + 1, Disruption::Fault(call, *change))).collect()
}

/// The schedule in which another item changes what call number `call` of the attempt has read, before its commit.
pub(crate) fn conflict(attempt: u32, call: usize) -> Schedule {
    Schedule::with_one(ReceiverBehaviour::Honour, attempt, Disruption::Conflict(call))
}

/// Whether a second crash follows this schedule: it has one fault or one crash that no other one covers.
pub(crate) fn is_followed_by_crash(schedule: &Schedule) -> bool {
    let [only] = &schedule.disruptions[..] else { return false };
    let is_honoured = schedule.receivers == ReceiverBehaviour::Honour;
    is_honoured
        && match only.disruption {
            Disruption::Fault(_, fault) => !matches!(
                fault,
                ResponseFault::Outage
                    | ResponseFault::Unreachable
                    | ResponseFault::Unavailable
                    | ResponseFault::GatewayTimeout
                    | ResponseFault::Broken
            ),
            Disruption::Crash(point) => matches!(point, CrashPoint::Before(1) | CrashPoint::After(_)),
            Disruption::Reload(_) | Disruption::OverrunLease(_) | Disruption::Conflict(_) => false,
        }
}

fn each(points: &[CrashPoint], disruption: fn(CrashPoint) -> Disruption) -> Vec<Disruption> {
    points.iter().map(|point| disruption(*point)).collect()
}

/// Before and after each call, after the return, and after the commit.
fn crash_points(calls: usize) -> Vec<CrashPoint> {
    let calls = (1..=calls).flat_map(|call| [CrashPoint::Before(call), CrashPoint::After(call)]);
    calls.chain([CrashPoint::Return, CrashPoint::Commit]).collect()
}

/// Before the first call, after each call, and after the return. A handler changes nothing outside itself between two
/// calls, so a crash after one call equals a crash before the next.
fn distinct_points(calls: usize) -> Vec<CrashPoint> {
    let first = std::iter::once(CrashPoint::Before(1));
    first.chain((1..=calls).map(CrashPoint::After)).chain([CrashPoint::Return]).collect()
}

fn response_faults(calls: &[CallKind]) -> Vec<Disruption> {
    let at = |(call, kind)| faults_of(kind).iter().map(move |fault| Disruption::Fault(call, *fault));
    numbered(calls).flat_map(at).collect()
}

fn outages(calls: &[CallKind]) -> Vec<Disruption> {
    let requests = numbered(calls).filter(|(_, kind)| *kind != CallKind::Stored).map(|(call, _)| call);
    let of = |call| [ResponseFault::Outage, ResponseFault::Unreachable].map(|fault| Disruption::Fault(call, fault));
    requests.flat_map(of).collect()
}

/// The faults that last for one request. Without an effect, it does not matter whether a request is carried out.
fn faults_of(kind: CallKind) -> &'static [ResponseFault] {
    match kind {
        CallKind::Effect => &[
            ResponseFault::NoResponse,
            ResponseFault::ErrorAfterEffect,
            ResponseFault::Broken,
            ResponseFault::Error,
            ResponseFault::Unavailable,
            ResponseFault::GatewayTimeout,
            ResponseFault::Throttled,
            ResponseFault::Refused,
            ResponseFault::Vanished,
        ],
        CallKind::Lookup => {
            &[ResponseFault::NoResponse, ResponseFault::Error, ResponseFault::Throttled, ResponseFault::Refused]
        }
        CallKind::Stored => &[],
    }
}

fn effect_calls(calls: &[CallKind]) -> impl Iterator<Item = usize> {
    numbered(calls).filter(|(_, kind)| *kind == CallKind::Effect).map(|(call, _)| call)
}

fn numbered(calls: &[CallKind]) -> impl Iterator<Item = (usize, CallKind)> {
    (1..).zip(calls.iter().copied())
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
        let expected = [
            ("one crash", 2 * n + 2),
            ("a crash and a reload", 2 * n + 1),
            ("an attempt that outlives its lease", 2 * n + 1),
            ("receivers that ignore keys", 2 * n + 2),
            ("receivers that answer 409", 2 * effects),
            ("receivers at fault", 9 * effects + 4 * lookups),
            ("an outage until the last attempt", 2 * (effects + lookups)),
        ];
        let found = single_disruptions(1, &calls);
        let counts: Vec<_> = found.iter().map(|(group, schedules)| (*group, schedules.len())).collect();
        assert_eq!(counts, expected);
        let followed =
            found.iter().flat_map(|(_, schedules)| schedules).filter(|schedule| is_followed_by_crash(schedule));
        assert_eq!(followed.count(), 6 * effects + 4 * lookups + n + 1);
        assert_eq!(with_second_crash(&found[0].1[0], n).len(), n + 2);
        let later = later_faults(1, &calls).into_iter().map(|(group, schedules)| (group, schedules.len()));
        let expected = [
            ("a fault in two attempts", 8 * effects + 3 * lookups),
            ("a crash, then a fault", 9 * effects + 4 * lookups),
        ];
        assert_eq!(later.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_two_schedules_have_one_id() {
        let calls = [CallKind::Effect, CallKind::Lookup, CallKind::Stored];
        let mut all: Vec<_> = [1, 2].into_iter().flat_map(|attempt| single_disruptions(attempt, &calls)).collect();
        let first = all[0].1[0].clone();
        all.push(("two crashes", with_second_crash(&first, 3)));
        all.extend(later_faults(1, &calls));
        all.push(("more", disruptions_at_call(&first, 3, 1, CallKind::Effect)));
        let ids: Vec<_> = all.iter().flat_map(|(_, schedules)| schedules).map(Schedule::to_string).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
}
