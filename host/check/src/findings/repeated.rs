//! `Repeated` and `Extra`: a receiver carried an effect out more than once, or one that the undisturbed run does not
//! have.

use crate::check_report::{Finding, FindingKind};
use crate::findings::comparison::{Comparison, call_label};
use crate::findings::effect_match::EffectMatch;
use crate::receivers::Effect;
use crate::schedule::ReceiverBehaviour;

/// The repeated effects, then the extra ones.
pub(super) fn repeated_effects(run: &Comparison<'_>) -> Vec<Finding> {
    let EffectMatch { expected, unexpected } = EffectMatch::of(run);
    // Where a receiver ignores keys, no handler can prevent two attempts at the same time from repeating an effect.
    let is_excused = |effect: &Effect| effect.is_unguarded && run.schedule.has_overlap();
    let repeated = expected.into_iter().filter(|(expected, same)| same.len() > 1 && !is_excused(expected));
    let mut found: Vec<_> = repeated.map(|(expected, same)| repeated_effect(run, expected, &same)).collect();
    found.extend(unexpected.into_iter().map(|effect| extra_effect(run, effect)));
    found
}

fn extra_effect(run: &Comparison<'_>, effect: &Effect) -> Finding {
    run.finding(
        FindingKind::Extra,
        effect.call,
        format!("{} is carried out, and without the disturbance it is not", call_label(effect.call, &effect.request)),
        "do the same in every attempt: what an attempt is told about earlier ones is for information",
    )
}

fn repeated_effect(run: &Comparison<'_>, expected: &Effect, same: &[&Effect]) -> Finding {
    let what = call_label(expected.call, &expected.request);
    let times = same.len();
    let (what, fix) = if expected.is_unguarded || run.schedule.receivers == ReceiverBehaviour::Ignore {
        (
            format!("{what} is carried out {times} times: nothing protects it where its receiver ignores keys"),
            "ask the receiver before whether it is done, or have it honour the `Idempotency-Key`",
        )
    } else {
        let (first, second) = (key(same[0]), key(same[1]));
        (
            format!("{what} is carried out {times} times, under the keys {first} and {second}"),
            fix_for_two_keys(same[0], same[1]),
        )
    };
    run.finding(FindingKind::Repeated, expected.call, what, fix)
}

fn key(effect: &Effect) -> &str {
    effect.request.key.as_deref().unwrap_or("-")
}

fn fix_for_two_keys(first: &Effect, second: &Effect) -> &'static str {
    if first.delivery == second.delivery {
        "leave trying again to the host: return the failure. Each request of an attempt has a key of its own, and one \
         that is sent again is a new one (or name the effect with `outbox-effect`)"
    } else {
        "make its URL and the name of its effect from the item alone, so that its key stays the same"
    }
}
