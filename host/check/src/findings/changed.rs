//! `Changed`: the handler sent two different requests with one idempotency key.

use outbox_runtime::simulation::OutgoingRequest;

use crate::check_report::{Finding, FindingKind};
use crate::display::displayed;
use crate::findings::comparison::{Comparison, call_label};
use crate::receivers::{Effect, KeyReuse};

/// One finding for each key that was used twice.
pub(super) fn changed_requests(run: &Comparison<'_>) -> Vec<Finding> {
    run.result.receivers.key_reuses.iter().map(|key_reuse| changed_request(run, key_reuse)).collect()
}

fn changed_request(run: &Comparison<'_>, key_reuse: &KeyReuse) -> Finding {
    let KeyReuse { first, second, call } = key_reuse;
    let effects = run.expected_effects();
    let effect_of = |request: &OutgoingRequest| effects.iter().find(|effect| effect.request.asks_the_same(request));
    match (effect_of(first), effect_of(second)) {
        (Some(owner), Some(other)) if owner.call != other.call => shifted_key(run, owner, other, second),
        (owner, _) => changed_repeat(run, owner.map_or(*call, |owner| owner.call), first, second),
    }
}

/// The key of one expected effect was used for another.
fn shifted_key(run: &Comparison<'_>, owner: &Effect, other: &Effect, second: &OutgoingRequest) -> Finding {
    run.finding(
        FindingKind::Changed,
        other.call,
        format!(
            "{} is sent with the key of call {}: a receiver that honours keys takes it for done, or refuses it",
            call_label(other.call, second),
            owner.call
        ),
        "name each of the two with the request header `outbox-effect`: without names, keys follow the order of equal \
         methods and URLs, and an attempt that skips one shifts the others",
    )
}

/// One effect was requested again with other content.
fn changed_repeat(run: &Comparison<'_>, call: usize, first: &OutgoingRequest, second: &OutgoingRequest) -> Finding {
    run.finding(
        FindingKind::Changed,
        call,
        format!(
            "{} asks for something else when it is repeated, under the same key:\n  first {}\n  then  {}",
            call_label(call, first),
            request_summary(first, second),
            request_summary(second, first)
        ),
        "make it from the item alone: clocks, random numbers, the number of the attempt and what receivers say are \
         not the same the next time",
    )
}

/// The part of a request in which it differs from another one.
fn request_summary(request: &OutgoingRequest, other: &OutgoingRequest) -> String {
    if request.method == other.method && request.url == other.url {
        return displayed(&request.body);
    }
    format!("{} {} {}", request.method, request.url, displayed(&request.body))
}
