//! `Lost`: the item is DONE, and an expected effect never happened.

use crate::check_report::{Finding, FindingKind};
use crate::findings::comparison::{Comparison, call_label};
use crate::findings::effect_match::EffectMatch;
use crate::receivers::Effect;
use crate::schedule::{Disruption, ReceiverBehaviour};

/// One finding for each missing effect that the case does not call optional.
pub(super) fn lost_effects(run: &Comparison<'_>) -> Vec<Finding> {
    if !run.result.is_done() {
        return Vec::new();
    }
    let expected = EffectMatch::of(run).expected;
    let missing = expected.into_iter().filter(|(expected, same)| same.is_empty() && !expected.is_optional);
    missing.map(|(expected, _)| lost_effect(run, expected)).collect()
}

fn lost_effect(run: &Comparison<'_>, expected: &Effect) -> Finding {
    let label = call_label(expected.call, &expected.request);
    let what = format!("the item is done, and {label} was never carried out");
    let fix = match run.schedule.receivers {
        ReceiverBehaviour::Busy | ReceiverBehaviour::Abort => {
            "409 says that the request is under way, not that it is done: return a retryable failure"
        }
        _ if has_fault_in_last_attempt(run) => {
            "return the failure of this call instead of going on: then the host tries again"
        }
        _ => {
            "do it in every attempt: that an earlier one began says nothing about whether it is done, and under its \
             key it is done once"
        }
    };
    run.finding(FindingKind::Lost, expected.call, what, fix)
}

/// Whether the attempt that made the item DONE got a faulty response.
fn has_fault_in_last_attempt(run: &Comparison<'_>) -> bool {
    let last = usize::try_from(run.result.snapshot.item.deliveries).unwrap_or_default();
    let disruption = last.checked_sub(1).and_then(|index| run.schedule.disruptions.get(index));
    matches!(disruption, Some(Disruption::Fault(..)))
}
