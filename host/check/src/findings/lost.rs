//! `Lost`: the item is DONE, and an expected effect never happened.

use crate::call_record::CallRecord;
use crate::check_report::FindingKind;
use crate::findings::comparison::{Comparison, RunFinding, call_label};
use crate::findings::effect_match::{EffectMatch, last_setting};
use crate::receivers::{Effect, SwallowedRequest};
use crate::schedule::ReceiverBehaviour;

/// One finding for each missing effect that the case does not call optional.
pub(super) fn lost_effects(run: &Comparison<'_>) -> Vec<RunFinding> {
    if !run.result.is_done() {
        return Vec::new();
    }
    let expected = EffectMatch::of(run).expected;
    let is_set = |effect: &Effect| last_setting(&run.result.receivers.effects, &effect.request.url).is_some();
    let is_missing = |effect: &Effect| !(effect.is_optional || effect.is_setting && is_set(effect));
    let missing = expected.into_iter().filter(|(expected, same)| same.is_empty() && is_missing(expected));
    missing.map(|(expected, _)| lost_effect(run, expected)).collect()
}

/// One finding for each request that one before it in the same attempt hides from its receiver, by its key.
pub(super) fn swallowed_requests(run: &Comparison<'_>) -> Vec<RunFinding> {
    let swallowed = &run.result.receivers.swallowed;
    swallowed.iter().map(|swallowed| swallowed_request(run, swallowed)).collect()
}

fn swallowed_request(run: &Comparison<'_>, swallowed: &SwallowedRequest) -> RunFinding {
    let SwallowedRequest { request, first_at, second_at } = swallowed;
    let key = request.key.as_deref().unwrap_or_default();
    let what = format!(
        "{} is never carried out: it has the key of call {}, {key}, and asks for the same, so its receiver takes it \
         for that one",
        call_label(*second_at, request),
        first_at.call
    );
    let fix = "give every effect of an attempt a name of its own in the request header `outbox-effect`";
    run.finding(FindingKind::Lost, *second_at, what, fix)
}

fn lost_effect(run: &Comparison<'_>, expected: &Effect) -> RunFinding {
    let label = call_label(expected.at, &expected.request);
    let what = format!("the item is done, and {label} was never carried out");
    let fix = match run.schedule.receivers {
        ReceiverBehaviour::Busy | ReceiverBehaviour::Abort => {
            "409 says that the request is under way, not that it is done: return a retryable failure"
        }
        _ if run.schedule.has_outage() => {
            "leave the end of the retries to the host: the failure of the last attempt dead-letters the item, and an \
             operator sees it"
        }
        _ if has_fault_in_last_attempt(run) => {
            "return the failure of this call instead of going on: then the host tries again"
        }
        _ => {
            "do it in every attempt: that an earlier one began says nothing about whether it is done, and under its \
             key it is done once"
        }
    };
    run.finding(FindingKind::Lost, expected.at, what, fix)
}

/// Whether the attempt that made the item DONE got a faulty response.
fn has_fault_in_last_attempt(run: &Comparison<'_>) -> bool {
    let last = run.result.attempts.get(&run.result.snapshot.item.deliveries);
    last.is_some_and(|last| last.calls.iter().any(CallRecord::has_passing_trouble))
}
