//! `Repeated` and `Extra`: a receiver carried an effect out more than once, or one that the undisturbed run does not
//! have.

use crate::call_record::{CallKind, CallRecord};
use crate::check_report::{CallPosition, FindingKind, Note};
use crate::findings::comparison::{Comparison, RunFinding, call_label};
use crate::findings::effect_match::EffectMatch;
use crate::receivers::Effect;
use crate::schedule::ReceiverBehaviour;

/// The repeated effects, then the extra ones.
pub(super) fn repeated_effects(run: &Comparison<'_>) -> Vec<RunFinding> {
    let EffectMatch { expected, unexpected } = EffectMatch::of(run);
    let repeated = expected.into_iter().filter(|(expected, same)| same.len() > 1 && !is_excused(run, expected));
    let mut found: Vec<_> = repeated.map(|(expected, same)| repeated_effect(run, expected, &same)).collect();
    let extra = unexpected.into_iter().filter(|effect| !effect.is_optional);
    found.extend(extra.map(|effect| extra_effect(run, effect)));
    found
}

/// One note for each effect that two attempts at the same time repeat where its receiver ignores keys.
pub(super) fn overlap_notes(run: &Comparison<'_>) -> Vec<Note> {
    let expected = EffectMatch::of(run).expected;
    let repeated = expected.into_iter().filter(|(expected, same)| same.len() > 1 && is_excused(run, expected));
    repeated.map(|(expected, same)| overlap_note(expected, same.len())).collect()
}

/// One finding for each effect that two undisturbed attempts have.
pub(super) fn undisturbed_repeats(run: &Comparison<'_>) -> Vec<RunFinding> {
    let effects = run.expected_effects();
    let earlier = |effect: &Effect| {
        let is_earlier = |known: &&Effect| {
            known.at.attempt < effect.at.attempt && known.request.asks_the_same(&effect.request) && !effect.is_setting
        };
        effects.iter().find(is_earlier)
    };
    effects
        .iter()
        .filter_map(|effect| Some(repeated_effect(run, earlier(effect)?, &[earlier(effect)?, effect])))
        .collect()
}

/// Whether a repetition is no finding: where a receiver ignores keys, looking before does not help an attempt beside
/// which another one runs.
fn is_excused(run: &Comparison<'_>, effect: &Effect) -> bool {
    effect.is_unguarded && run.schedule.has_overlap()
}

fn overlap_note(effect: &Effect, times: usize) -> Note {
    let what = format!(
        "{} is carried out {times} times when an attempt outlives its lease and another one runs beside it, because \
         its receiver ignores keys. A PUT under a name that is made from the item is safe there too",
        call_label(effect.at, &effect.request)
    );
    Note { at: Some(effect.at), what }
}

fn extra_effect(run: &Comparison<'_>, effect: &Effect) -> RunFinding {
    let at = run.undisturbed_position(effect.at);
    let label = call_label(at, &effect.request);
    let what = format!("{label} is carried out, and without the disturbance it is not");
    let fix = match fault_before(run, effect.at).map(|record| record.kind) {
        Some(CallKind::Lookup) => {
            "a lookup that fails says neither yes nor no: return its failure, and take only the status that means no \
             for a no"
        }
        Some(_) => {
            "undo or replace only what was refused for good: after a failure that passes, return it, and the next \
             attempt goes on"
        }
        None => "do the same in every attempt: what an attempt is told about earlier ones is for information",
    };
    run.finding(FindingKind::Extra, at, what, fix)
}

/// The last call before another one in the same attempt that got a faulty response.
fn fault_before<'a>(run: &'a Comparison<'_>, at: CallPosition) -> Option<&'a CallRecord> {
    let calls = run.result.attempts.get(&at.attempt).map_or(&[][..], |attempt| &attempt.calls);
    calls.iter().take(at.call.saturating_sub(1)).rfind(|record| record.has_passing_trouble())
}

fn repeated_effect(run: &Comparison<'_>, expected: &Effect, same: &[&Effect]) -> RunFinding {
    let what = call_label(expected.at, &expected.request);
    let times = same.len();
    let (what, fix) = if expected.is_unguarded || run.schedule.receivers == ReceiverBehaviour::Ignore {
        (
            format!("{what} is carried out {times} times: nothing protects it where its receiver ignores keys"),
            "ask the receiver before whether it is done, or have it honour the `Idempotency-Key`",
        )
    } else {
        let (first, second) = (key(same[0]), key(same[1]));
        let other = same.iter().find(|effect| effect.request.url != expected.request.url);
        let times = match other {
            Some(Effect { request, .. }) => format!("and then {} {} in its place", request.method, request.url),
            None => format!("{times} times"),
        };
        (
            format!("{what} is carried out {times}, under the keys {first} and {second}"),
            fix_for_two_keys(same[0], same[1]),
        )
    };
    run.finding(FindingKind::Repeated, expected.at, what, fix)
}

fn key(effect: &Effect) -> &str {
    effect.key.as_deref().unwrap_or("-")
}

fn fix_for_two_keys(first: &Effect, second: &Effect) -> &'static str {
    if first.at.attempt == second.at.attempt {
        "leave trying again to the host: return the failure. Each request of an attempt has a key of its own, and one \
         that is sent again is a new one (or name the effect with `outbox-effect`)"
    } else {
        "make its URL and the name of its effect from the item alone, so that its key stays the same"
    }
}
