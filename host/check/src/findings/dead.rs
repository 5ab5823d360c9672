//! `Dead`: the item is dead-lettered or never settled, although the fault passes, or although nothing goes wrong.

use outbox_core::{Failure, FailureClass};
use outbox_runtime::simulation::GuestCall;

use crate::call_record::{CallRecord, PlayedAttempt};
use crate::case::Case;
use crate::check_report::{CallPosition, FindingKind};
use crate::findings::comparison::{Comparison, RunFinding, call_name};

/// What an author does about a failure that passes.
const RETRYABLE: &str = "answer what passes (409, 425, 429 and 5xx, a connection that broke) with a retryable failure";

/// At most one finding: the item is not DONE, and in the undisturbed run it is. In an outage a handler may give up, and
/// several faults may use up the retries: then an operator sees it. After a change from outside, a handler may wait for
/// another one, which does not come here.
pub(super) fn unfinished_item(run: &Comparison<'_>) -> Vec<RunFinding> {
    if !run.baseline.result.is_done() || run.result.is_done() || is_excused(run) {
        return Vec::new();
    }
    let found = run.result.last_failed().map(|(attempt, record, failure)| after_failure(run, attempt, record, failure));
    vec![found.unwrap_or_else(|| without_failure(run))]
}

fn is_excused(run: &Comparison<'_>) -> bool {
    let is_final = |(.., failure): (u32, &PlayedAttempt, &Failure)| failure.class == FailureClass::Permanent;
    let has_used_up_retries = run.result.is_settled() && !run.result.last_failed().is_some_and(is_final);
    let waits = !run.result.is_settled();
    run.schedule.has_outage()
        || run.schedule.has_several_faults() && has_used_up_retries
        || run.schedule.has_other_input() && waits
}

/// At most one finding: the undisturbed run does not end as DONE, and the case does not expect that.
pub(super) fn undisturbed_end(run: &Comparison<'_>) -> Vec<RunFinding> {
    let end = format!("the item {}{} even when nothing goes wrong", end(run), reason(run));
    let Some((attempt, record, _)) = run.result.last_failed() else {
        return vec![run.finding(FindingKind::Dead, CallPosition { attempt: 1, call: 0 }, end, RETRYABLE)];
    };
    let at = decisive_position(run, attempt, record);
    let what = format!("{end}, at {}", named(run, at));
    let fix = "make the case one that succeeds, so that there is something to compare: an answer that fails at first \
               has `times`. If the item must end like this, say so with `outcome = \"permanent\"` under [expect]";
    vec![run.finding(FindingKind::Dead, at, what, fix)]
}

/// Whether the case expects that its item is not DONE in the end: it names a failure that no later attempt mends.
pub(super) fn is_expected(case: &Case) -> bool {
    let outcome = case.expect.as_ref().map_or("done", |expect| expect.outcome.as_str());
    let passes = [FailureClass::Retryable, FailureClass::Deferred, FailureClass::Conflict];
    outcome != "done" && !passes.iter().any(|class| class.as_str() == outcome)
}

fn after_failure(run: &Comparison<'_>, attempt: u32, record: &PlayedAttempt, failure: &Failure) -> RunFinding {
    let at = decisive_position(run, attempt, record);
    let last = last_request(record).map(|(_, last)| last);
    let end = format!("the item {}{}", end(run), reason(run));
    let finding = |what, fix: &str| run.finding(FindingKind::Dead, at, what, fix).because(&failure.code);
    if last.is_some_and(CallRecord::has_passing_trouble) {
        return finding(format!("{end} over {}, although the trouble passes", named(run, at)), RETRYABLE);
    }
    if last.is_some_and(|last| is_gone(run, last)) {
        let fix = "gone is what it wanted: take 404 and 410 of a repeated DELETE for done";
        return finding(format!("{end}, because {} was carried out before", named(run, at)), fix);
    }
    if failure.class == FailureClass::Trap {
        let fix =
            "do the work in every attempt: one that traps over what an earlier attempt left behind traps each time";
        return finding(format!("{end} at {}, although the trouble passes", named(run, at)), fix);
    }
    if let Some(effect) = run.result.receivers.effects.iter().rfind(|effect| effect.at.attempt <= attempt) {
        let own = run.undisturbed_position(effect.at);
        let request = format!("{} {}", effect.request.method, effect.request.url);
        return finding(format!("{end} after {} was carried out", call_name(own, &request)), &decide_before(failure));
    }
    let fix =
        format!("the handler itself says {}: fail for good only over what is the same in every attempt", failure.code);
    finding(format!("{end} at {}, although the trouble passes", named(run, at)), &fix)
}

/// What an author does about a handler that gives up after its own effect.
fn decide_before(failure: &Failure) -> String {
    format!(
        "the handler itself says {}: what its clock, its state or a receiver says is not what it was before its own \
         effect. Decide before the first effect; once `maybe_executed` is set, go on to the end",
        failure.code
    )
}

/// The attempts crashed, and none of them failed.
fn without_failure(run: &Comparison<'_>) -> RunFinding {
    let what = format!("the item {} over crashes, although they pass", end(run));
    run.finding(FindingKind::Dead, CallPosition { attempt: 1, call: 0 }, what, "allow more retries in the manifest")
}

/// Where the report lists the call that decides a failed attempt. An attempt without calls fails in the same way each
/// time, so its number does not matter.
fn decisive_position(run: &Comparison<'_>, attempt: u32, record: &PlayedAttempt) -> CallPosition {
    match decisive_call(record) {
        0 => CallPosition { attempt: 1, call: 0 },
        call => run.undisturbed_position(CallPosition { attempt, call }),
    }
}

/// The number of the call that decides a failed attempt: its last request if that one was not answered well, else the
/// last call.
fn decisive_call(record: &PlayedAttempt) -> usize {
    let bad = last_request(record).filter(|(_, last)| !last.is_answered_well());
    bad.map_or(record.calls.len(), |(number, _)| number)
}

fn last_request(record: &PlayedAttempt) -> Option<(usize, &CallRecord)> {
    let is_request = |(_, record): &(usize, &CallRecord)| matches!(record.call, GuestCall::Request(_));
    (1..).zip(&record.calls).filter(is_request).last()
}

/// Whether a DELETE finds nothing because an earlier attempt deleted it.
fn is_gone(run: &Comparison<'_>, last: &CallRecord) -> bool {
    let GuestCall::Request(request) = &last.call else { return false };
    let is_repeat = run.result.receivers.effects.iter().any(|effect| effect.request.asks_the_same(request));
    request.method == "DELETE" && matches!(last.status, Some(404 | 410)) && is_repeat
}

fn end(run: &Comparison<'_>) -> &'static str {
    if run.result.is_settled() { "is dead-lettered" } else { "is never settled" }
}

fn reason(run: &Comparison<'_>) -> String {
    let failure = run.result.last_failed().map(|(.., failure)| format!(" ({}: {})", failure.code, failure.message));
    failure.unwrap_or_default()
}

fn named(run: &Comparison<'_>, at: CallPosition) -> String {
    let call = run.call_text(at);
    if call.is_empty() { "the return".to_owned() } else { call_name(at, &call) }
}
