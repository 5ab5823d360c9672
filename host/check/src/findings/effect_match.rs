//! Assigns the effects of a run to those of the undisturbed run. It does not judge the assignment.

use outbox_runtime::simulation::GuestCall;

use crate::call_record::PlayedAttempt;
use crate::findings::comparison::Comparison;
use crate::receivers::Effect;

/// The effects of a run, assigned to the expected ones.
pub(super) struct EffectMatch<'a> {
    /// Each expected effect with the effects of the run that are the same one.
    pub(super) expected: Vec<(&'a Effect, Vec<&'a Effect>)>,
    /// The effects of the run that no expected one matches.
    pub(super) unexpected: Vec<&'a Effect>,
}

impl<'a> EffectMatch<'a> {
    /// Assigns each effect of the run to the most similar expected one. Effects that only set what an expected URL is
    /// do not count one by one; what the URL ends as does.
    pub(super) fn of(run: &'a Comparison<'_>) -> Self {
        let mut expected: Vec<(&Effect, Vec<&Effect>)> =
            run.expected_effects().iter().map(|effect| (effect, Vec::new())).collect();
        let mut unexpected = Vec::new();
        for effect in &run.result.receivers.effects {
            match expected.iter_mut().max_by_key(|(candidate, _)| similarity(run, candidate, effect)) {
                Some((candidate, same)) if similarity(run, candidate, effect) > 0 => add(same, effect),
                _ if last_setting(run.expected_effects(), &effect.request.url).is_some() && effect.is_setting => {}
                _ => unexpected.push(effect),
            }
        }
        Self { expected, unexpected }
    }
}

/// Adds an effect to those that are the same one, unless it only sets the same URL again.
fn add<'a>(same: &mut Vec<&'a Effect>, effect: &'a Effect) {
    let is_set_again = |known: &&Effect| effect.is_setting && known.request.url == effect.request.url;
    if !same.iter().any(is_set_again) {
        same.push(effect);
    }
}

/// The last effect that sets what a URL is.
pub(super) fn last_setting<'a>(effects: &'a [Effect], url: &str) -> Option<&'a Effect> {
    effects.iter().rfind(|effect| effect.is_setting && effect.request.url == url)
}

/// How likely two effects are the same one: 4 for equal keys and requests, 0 for nothing in common.
fn similarity(run: &Comparison<'_>, expected: &Effect, effect: &Effect) -> u32 {
    let (has_same_key, asks_the_same) =
        (expected.request.key == effect.request.key, expected.request.asks_the_same(&effect.request));
    match () {
        () if has_same_key && asks_the_same => 4,
        () if has_same_key => 3,
        () if asks_the_same => 2,
        () if is_in_place(run, expected, effect) => 1,
        () => 0,
    }
}

/// Whether an effect may be another form of the expected one: it has the same place, and no attempt requests both.
fn is_in_place(run: &Comparison<'_>, expected: &Effect, effect: &Effect) -> bool {
    let requests = |attempt: &PlayedAttempt, effect: &Effect| {
        let is_it =
            |call: &GuestCall| matches!(call, GuestCall::Request(request) if request.asks_the_same(&effect.request));
        attempt.calls.iter().any(|record| is_it(&record.call))
    };
    let has_same_place = expected.at.call == effect.at.call && expected.request.method == effect.request.method;
    let mut attempts = run.result.attempts.values();
    has_same_place && !attempts.any(|attempt| requests(attempt, expected) && requests(attempt, effect))
}
