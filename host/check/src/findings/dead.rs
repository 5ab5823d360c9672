//! `Dead`: the item is dead-lettered or never settled, although the fault passes.

use crate::check_report::{Finding, FindingKind};
use crate::findings::comparison::Comparison;
use crate::schedule::{CrashPoint, Disruption};

/// At most one finding: the item is not DONE, and in the undisturbed run it is.
pub(super) fn unfinished_item(run: &Comparison<'_>) -> Vec<Finding> {
    if !run.baseline.result.is_done() || run.result.is_done() {
        return Vec::new();
    }
    let call = disturbed_call(run);
    let failure = run.result.failure.as_ref();
    let why = failure.map(|failure| format!(" ({}: {})", failure.code, failure.message)).unwrap_or_default();
    let end = if run.result.is_settled() { "is dead-lettered" } else { "is never settled" };
    let what = format!("the item {end}{why} over {}, although the trouble passes", call_name(run, call));
    let fix = "answer what passes (409, 425, 429 and 5xx, a connection that broke) with a retryable failure";
    vec![run.finding(FindingKind::Dead, call, what, fix)]
}

/// The number of the call with the faulty response, else of the call at the last crash, from 1. 0 for a crash after all
/// calls.
fn disturbed_call(run: &Comparison<'_>) -> usize {
    let disruptions = &run.schedule.disruptions;
    let fault = disruptions.iter().find(|disruption| matches!(disruption, Disruption::Fault(..)));
    fault.or(disruptions.last()).map_or(0, |disruption| call_number(*disruption))
}

fn call_number(disruption: Disruption) -> usize {
    match disruption {
        Disruption::Fault(call, _) => call,
        Disruption::Crash(point) | Disruption::Reload(point) | Disruption::OverrunLease(point) => match point {
            CrashPoint::Before(call) | CrashPoint::After(call) => call,
            CrashPoint::Return | CrashPoint::Commit => 0,
        },
    }
}

fn call_name(run: &Comparison<'_>, number: usize) -> String {
    let call = number.checked_sub(1).and_then(|index| run.baseline.result.calls.get(index));
    call.map_or_else(|| "the return".to_owned(), |call| format!("call {number}, {call}"))
}
