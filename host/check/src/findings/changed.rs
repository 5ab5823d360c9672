//! `Changed`: the handler sent two different requests with one idempotency key, or set a URL to something else.

use outbox_runtime::simulation::OutgoingRequest;

use crate::check_report::{CallPosition, FindingKind};
use crate::display::displayed;
use crate::findings::comparison::{Comparison, RunFinding, call_label};
use crate::findings::effect_match::last_setting;
use crate::receivers::{Effect, KeyReuse};

/// How an author keeps a request the same in every attempt.
const FROM_THE_ITEM: &str = "make it from the item alone: clocks, random numbers, the number of the attempt and what \
                             receivers say are not the same the next time";

/// One finding for each key that was used twice.
pub(super) fn changed_requests(run: &Comparison<'_>) -> Vec<RunFinding> {
    run.result.receivers.key_reuses.iter().map(|key_reuse| changed_request(run, key_reuse)).collect()
}

/// One finding for each URL that ends as something else, although the item is done. What a URL ends as is not compared
/// when that differs between the two undisturbed runs already.
pub(super) fn changed_ends(run: &Comparison<'_>) -> Vec<RunFinding> {
    if !run.result.is_done() {
        return Vec::new();
    }
    let expected = run.expected_effects();
    let is_last = |effect: &&Effect| last_setting(expected, &effect.request.url) == Some(*effect);
    expected.iter().filter(is_last).filter_map(|effect| changed_end(run, effect)).collect()
}

fn changed_end(run: &Comparison<'_>, expected: &Effect) -> Option<RunFinding> {
    let end = |effects| last_setting(effects, &expected.request.url);
    let found = end(&run.result.receivers.effects)?;
    let is_stable = |again: &Effect| again.request.asks_the_same(&expected.request);
    if found.request.asks_the_same(&expected.request)
        || !end(&run.baseline.repeat.receivers.effects).is_some_and(is_stable)
    {
        return None;
    }
    let label = call_label(expected.at, &expected.request);
    let shown = |effect: &Effect| format!("{} {}", effect.request.method, displayed(&effect.request.body));
    let (found, expected_end) = (shown(found), shown(expected));
    let what = format!(
        "{label} is not the last of its URL, or asks for something else:\n  ends as {found}\n  not     {expected_end}"
    );
    Some(run.finding(FindingKind::Changed, expected.at, what, FROM_THE_ITEM))
}

fn changed_request(run: &Comparison<'_>, key_reuse: &KeyReuse) -> RunFinding {
    let KeyReuse { first, first_at, second, second_at } = key_reuse;
    if first_at.attempt == second_at.attempt {
        return shared_name(run, key_reuse);
    }
    let effects = run.expected_effects();
    let effect_of = |request: &OutgoingRequest| effects.iter().find(|effect| effect.request.asks_the_same(request));
    match (effect_of(first), effect_of(second)) {
        (Some(owner), Some(other)) if owner.at != other.at => shifted_key(run, owner, other, second),
        (owner, _) => {
            let at = owner.map_or_else(|| run.undisturbed_position(*second_at), |owner| owner.at);
            changed_repeat(run, at, first, second)
        }
    }
}

/// Two requests of one attempt have one key.
fn shared_name(run: &Comparison<'_>, key_reuse: &KeyReuse) -> RunFinding {
    let KeyReuse { first, first_at, second, second_at } = key_reuse;
    let key = first.key.as_deref().unwrap_or_default();
    let what = format!(
        "{} has the key of call {}, {key}: a receiver that honours keys takes it for done, or refuses it",
        call_label(*second_at, second),
        first_at.call
    );
    let fix = "give every effect of an attempt a name of its own in the request header `outbox-effect`";
    run.finding(FindingKind::Changed, *second_at, what, fix)
}

/// The key of one expected effect was used for another.
fn shifted_key(run: &Comparison<'_>, owner: &Effect, other: &Effect, second: &OutgoingRequest) -> RunFinding {
    run.finding(
        FindingKind::Changed,
        other.at,
        format!(
            "{} is sent with the key of call {}: a receiver that honours keys takes it for done, or refuses it",
            call_label(other.at, second),
            owner.at.call
        ),
        "name each of the two with the request header `outbox-effect`: without names, keys follow the order of equal \
         methods and URLs, and an attempt that skips one shifts the others",
    )
}

/// One effect was requested again with other content.
fn changed_repeat(
    run: &Comparison<'_>,
    at: CallPosition,
    first: &OutgoingRequest,
    second: &OutgoingRequest,
) -> RunFinding {
    let what = format!(
        "{} asks for something else when it is repeated, under the same key:\n  first {}\n  then  {}",
        call_label(at, first),
        request_summary(first, second),
        request_summary(second, first)
    );
    run.finding(FindingKind::Changed, at, what, FROM_THE_ITEM)
}

/// The part of a request in which it differs from another one.
fn request_summary(request: &OutgoingRequest, other: &OutgoingRequest) -> String {
    if request.method == other.method && request.url == other.url {
        return displayed(&request.body);
    }
    format!("{} {} {}", request.method, request.url, displayed(&request.body))
}
