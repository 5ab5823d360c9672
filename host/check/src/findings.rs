//! What a run has against it, compared with the run in which nothing goes wrong, in words for people.
//!
//! The rules are those of `docs/testing-handlers.md`: an effect is the same when its key is, or else what
//! it asks for; every effect of the undisturbed run must be there once, and no other.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::case_diff::displayed;
use crate::receivers::{Effect, KeyReuse};
use crate::schedule::{CrashPoint, Disruption, ReceiverBehaviour, ResponseFault, Schedule};
use crate::scheduled_run::RunResult;
use outbox_runtime::simulation::{GuestCall, OutgoingRequest};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// One key was sent with two different requests.
    Changed,
    /// An effect was carried out more than once.
    Repeated,
    /// An effect was carried out that the undisturbed run does not have.
    Extra,
    /// The item is done and an effect is missing.
    Lost,
    /// The item was dead-lettered, or never settled, because of something that passes.
    Dead,
    /// The plugin's state ends up different.
    State,
    /// Follow-ups end up different.
    Followups,
}

/// Something that is wrong with a handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The call that it is about: its line in the report.
    pub call: usize,
    /// What happens.
    pub what: String,
    /// What would mend it.
    pub fix: String,
    /// A schedule in which it happens, to be played again.
    pub schedule: String,
    /// What goes wrong in that schedule.
    pub story: String,
    /// In how many schedules it happens.
    pub schedules: usize,
}

/// Something to know that is not held against a handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The call that it is about, if it is about one.
    pub call: Option<usize>,
    /// What there is to know.
    pub what: String,
}

/// What of the undisturbed run may differ in others: it differs between two undisturbed runs already.
pub(crate) struct Baseline {
    pub(crate) result: RunResult,
    pub(crate) repeat: RunResult,
}

/// Everything that a run has against it.
pub(crate) fn detect_findings(baseline: &Baseline, result: &RunResult, schedule: &Schedule) -> Vec<Finding> {
    let detector = FindingDetector { baseline, result, schedule };
    let steps: [&dyn Fn() -> Vec<Finding>; 5] = [
        &|| detector.key_reuses(),
        &|| detector.repeated_effects(),
        &|| detector.unfinished_item(),
        &|| detector.lost_effects(),
        &|| detector.stored_differences(),
    ];
    // What follows from a thing is not reported beside it.
    steps.into_iter().map(|step| step()).find(|found| !found.is_empty()).unwrap_or_default()
}

struct FindingDetector<'a> {
    baseline: &'a Baseline,
    result: &'a RunResult,
    schedule: &'a Schedule,
}

impl FindingDetector<'_> {
    fn key_reuses(&self) -> Vec<Finding> {
        self.result.receivers.key_reuses.iter().map(|key_reuse| self.key_reuse(key_reuse)).collect()
    }

    fn key_reuse(&self, KeyReuse { first, second, call }: &KeyReuse) -> Finding {
        let effects = &self.baseline.result.receivers.effects;
        let is_of = |request: &OutgoingRequest| effects.iter().find(|effect| effect.request.asks_the_same(request));
        match (is_of(first), is_of(second)) {
            (Some(owner), Some(other)) if owner.call != other.call => self.finding(
                FindingKind::Changed,
                other.call,
                format!(
                    "{} is sent with the key of call {}: a receiver that honours keys takes it for done, or refuses it",
                    call_label(other.call, second),
                    owner.call
                ),
                "name each of the two with the request header `outbox-effect`: without names, keys follow the order of \
                 equal methods and URLs, and an attempt that skips one shifts the others",
            ),
            (owner, _) => {
                let call = owner.map_or(*call, |owner| owner.call);
                self.finding(
                    FindingKind::Changed,
                    call,
                    format!(
                        "{} asks for something else when it is repeated, under the same key:\n  first {}\n  then  {}",
                        call_label(call, first),
                        request_summary(first, second),
                        request_summary(second, first)
                    ),
                    "make it from the item alone: clocks, random numbers, the number of the attempt and what receivers \
                     say are not the same the next time",
                )
            }
        }
    }

    /// For each effect of the baseline, those of the run that are the same; then what is left over.
    fn matched_effects(&self) -> (Vec<(&Effect, Vec<&Effect>)>, Vec<&Effect>) {
        let mut matched_effects: Vec<(&Effect, Vec<&Effect>)> =
            self.baseline.result.receivers.effects.iter().map(|effect| (effect, Vec::new())).collect();
        let mut rest = Vec::new();
        for effect in &self.result.receivers.effects {
            match matched_effects.iter_mut().max_by_key(|(expected_effect, _)| similarity(expected_effect, effect)) {
                Some((expected_effect, same)) if similarity(expected_effect, effect) > 0 => same.push(effect),
                _ => rest.push(effect),
            }
        }
        (matched_effects, rest)
    }

    fn repeated_effects(&self) -> Vec<Finding> {
        let (matched_effects, rest) = self.matched_effects();
        let excused = |effect: &Effect| effect.is_unguarded && self.schedule.has_overlap();
        let twice =
            matched_effects.into_iter().filter(|(expected_effect, same)| same.len() > 1 && !excused(expected_effect));
        let mut found: Vec<_> =
            twice.map(|(expected_effect, same)| self.repeated_effect(expected_effect, &same)).collect();
        found.extend(rest.into_iter().map(|effect| {
            self.finding(
                FindingKind::Extra,
                effect.call,
                format!(
                    "{} is carried out, and without the disturbance it is not",
                    call_label(effect.call, &effect.request)
                ),
                "do the same in every attempt: what an attempt is told about earlier ones is for information",
            )
        }));
        found
    }

    fn repeated_effect(&self, expected_effect: &Effect, same: &[&Effect]) -> Finding {
        let what = call_label(expected_effect.call, &expected_effect.request);
        let (first, second) = (same[0], same[1]);
        if expected_effect.is_unguarded || self.schedule.receivers == ReceiverBehaviour::Ignore {
            return self.finding(
                FindingKind::Repeated,
                expected_effect.call,
                format!(
                    "{what} is carried out {} times: nothing protects it where its receiver ignores keys",
                    same.len()
                ),
                "ask the receiver before whether it is done, or have it honour the `Idempotency-Key`",
            );
        }
        let keys = format!(
            "under the keys {} and {}",
            first.request.key.as_deref().unwrap_or("-"),
            second.request.key.as_deref().unwrap_or("-")
        );
        let fix = if first.delivery == second.delivery {
            "leave trying again to the host: return the failure. Each request of an attempt has a key of its own, and \
             one that is sent again is a new one (or name the effect with `outbox-effect`)"
        } else {
            "make its URL and the name of its effect from the item alone, so that its key stays the same"
        };
        let words = format!("{what} is carried out {} times, {keys}", same.len());
        self.finding(FindingKind::Repeated, expected_effect.call, words, fix)
    }

    fn unfinished_item(&self) -> Vec<Finding> {
        if !self.baseline.result.is_done() || self.result.is_done() {
            return Vec::new();
        }
        let call = self.disturbed_call();
        let failure = self.result.failure.as_ref();
        let why = failure.map(|failure| format!(" ({}: {})", failure.code, failure.message)).unwrap_or_default();
        let end = if self.result.is_settled() { "is dead-lettered" } else { "is never settled" };
        let what = format!("the item {end}{why} over {}, although the trouble passes", self.call_name(call));
        let fix = "answer what passes (409, 425, 429 and 5xx, a connection that broke) with a retryable failure";
        vec![self.finding(FindingKind::Dead, call, what, fix)]
    }

    fn lost_effects(&self) -> Vec<Finding> {
        if !self.result.is_done() {
            return Vec::new();
        }
        let (matched_effects, _) = self.matched_effects();
        let missing = matched_effects
            .into_iter()
            .filter(|(expected_effect, same)| same.is_empty() && !expected_effect.is_optional);
        missing.map(|(expected_effect, _)| self.lost_effect(expected_effect)).collect()
    }

    fn lost_effect(&self, expected_effect: &Effect) -> Finding {
        let what = format!(
            "the item is done, and {} was never carried out",
            call_label(expected_effect.call, &expected_effect.request)
        );
        let fix = match self.schedule.receivers {
            ReceiverBehaviour::Busy | ReceiverBehaviour::Abort => {
                "409 says that the request is under way, not that it is done: return a retryable failure"
            }
            _ if self.is_last_attempt_at_fault() => {
                "return the failure of this call instead of going on: then the host tries again"
            }
            _ => {
                "do it in every attempt: that an earlier one began says nothing about whether it is done, and under \
                  its key it is done once"
            }
        };
        self.finding(FindingKind::Lost, expected_effect.call, what, fix)
    }

    /// Whether something was the matter with a call of the very attempt that ended well.
    fn is_last_attempt_at_fault(&self) -> bool {
        let last = usize::try_from(self.result.snapshot.item.deliveries).unwrap_or_default();
        matches!(
            last.checked_sub(1).and_then(|index| self.schedule.disruptions.get(index)),
            Some(Disruption::Fault(..))
        )
    }

    fn stored_differences(&self) -> Vec<Finding> {
        if !self.result.is_done() || !self.baseline.result.is_done() {
            return Vec::new();
        }
        let mut found = self.state();
        found.extend(self.followups());
        found
    }

    fn state(&self) -> Vec<Finding> {
        let [expected, repeat, found] =
            [&self.baseline.result, &self.baseline.repeat, self.result].map(|result| values(&result.snapshot.state));
        let is_wrong =
            |key: &&&str| found.get(**key) != expected.get(**key) && expected.get(**key) == repeat.get(**key);
        let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let describe = |key: &str| {
            let show =
                |of: &BTreeMap<&str, &[u8]>| of.get(key).map_or_else(|| "absent".to_owned(), |value| displayed(value));
            let call = self.call_of(
                |call| matches!(call, GuestCall::Put { key: put, .. } | GuestCall::Delete { key: put } if put == key),
            );
            let what =
                format!("the state {key} ends as {}, and without the disturbance as {}", show(&found), show(&expected));
            self.finding(FindingKind::State, call, what, "write to the state what does not depend on the attempt")
        };
        keys.iter().filter(|key| is_wrong(key)).map(|key| describe(key)).collect()
    }

    fn followups(&self) -> Vec<Finding> {
        let [expected, repeat, found] = [&self.baseline.result, &self.baseline.repeat, self.result].map(|result| {
            let followups = result.snapshot.followups.iter();
            followups.map(|item| (item.idem_key.as_str(), item.payload.as_slice())).collect::<BTreeMap<_, _>>()
        });
        let is_wrong =
            |key: &&&str| found.get(**key) != expected.get(**key) && expected.get(**key) == repeat.get(**key);
        let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let describe = |key: &str| {
            let emitted = self.baseline.result.snapshot.followups.iter().chain(&self.result.snapshot.followups);
            let item_type = emitted.clone().find(|item| item.idem_key == key).map_or("", |item| &item.item_type);
            let call =
                self.call_of(|call| matches!(call, GuestCall::Emit { item_type: emitted, .. } if emitted == item_type));
            let how = match (expected.get(key), found.get(key)) {
                (Some(_), None) => "is missing",
                (None, _) => "is one too many",
                _ => "has another payload",
            };
            let what = format!("the follow-up {key} {how}, compared with the undisturbed run");
            self.finding(
                FindingKind::Followups,
                call,
                what,
                "emit the same in every attempt: follow-ups come with the commit, once",
            )
        };
        keys.iter().filter(|key| is_wrong(key)).map(|key| describe(key)).collect()
    }

    fn call_of(&self, is_meant: impl Fn(&GuestCall) -> bool) -> usize {
        self.baseline.result.calls.iter().position(is_meant).map_or(0, |index| index + 1)
    }

    /// The call at which something went wrong last.
    fn disturbed_call(&self) -> usize {
        let call = |step: &Disruption| match step {
            Disruption::Crash(point) | Disruption::Reload(point) | Disruption::OverrunLease(point) => match point {
                CrashPoint::Before(call) | CrashPoint::After(call) => Some(*call),
                CrashPoint::Return | CrashPoint::Commit => None,
            },
            Disruption::Fault(
                call,
                ResponseFault::NoResponse
                | ResponseFault::ErrorAfterEffect
                | ResponseFault::Error
                | ResponseFault::Throttled,
            ) => Some(*call),
        };
        let fault = self.schedule.disruptions.iter().find(|step| matches!(step, Disruption::Fault(..)));
        fault.or(self.schedule.disruptions.last()).and_then(call).unwrap_or(0)
    }

    fn call_name(&self, number: usize) -> String {
        let call = number.checked_sub(1).and_then(|index| self.baseline.result.calls.get(index));
        call.map_or_else(|| "the return".to_owned(), |call| format!("call {number}, {call}"))
    }

    fn finding(&self, kind: FindingKind, call: usize, what: String, fix: &str) -> Finding {
        let (schedule, story) = (self.schedule.to_string(), self.schedule.story());
        Finding { kind, call, what, fix: fix.to_owned(), schedule, story, schedules: 1 }
    }
}

/// How sure it is that two effects are the same one.
fn similarity(expected_effect: &Effect, effect: &Effect) -> u32 {
    let (known_key, key) = (&expected_effect.request.key, &effect.request.key);
    match () {
        () if known_key == key && expected_effect.request.asks_the_same(&effect.request) => 4,
        () if known_key == key => 3,
        () if expected_effect.request.asks_the_same(&effect.request) => 2,
        () if expected_effect.call == effect.call && expected_effect.request.method == effect.request.method => 1,
        () => 0,
    }
}

fn values(state: &BTreeMap<String, (Vec<u8>, i64)>) -> BTreeMap<&str, &[u8]> {
    state.iter().map(|(key, (value, _))| (key.as_str(), value.as_slice())).collect()
}

fn call_label(call: usize, request: &OutgoingRequest) -> String {
    format!("call {call}, {} {},", request.method, request.url)
}

/// What a request asks for, as far as it differs from another.
fn request_summary(request: &OutgoingRequest, other: &OutgoingRequest) -> String {
    if request.method == other.method && request.url == other.url {
        return displayed(&request.body);
    }
    format!("{} {} {}", request.method, request.url, displayed(&request.body))
}

/// Where two undisturbed runs part, if they do.
pub(crate) fn nondeterminism(baseline: &Baseline) -> Option<Note> {
    let (first, second) = (&baseline.result.calls, &baseline.repeat.calls);
    let index = (0..first.len().max(second.len())).find(|index| !is_alike(first.get(*index), second.get(*index)))?;
    let describe = |call: Option<&GuestCall>| call.map_or_else(|| "nothing".to_owned(), call_summary);
    let what = format!(
        "the handler is not deterministic: run again at another time and with other random numbers, it differs first \
         at call {}:\n  first {}\n  then  {}",
        index + 1,
        describe(first.get(index)),
        describe(second.get(index))
    );
    Some(Note { call: Some(index + 1), what })
}

fn is_alike(first: Option<&GuestCall>, second: Option<&GuestCall>) -> bool {
    match (first, second) {
        (Some(GuestCall::Request(first)), Some(GuestCall::Request(second))) => {
            first.asks_the_same(second) && first.key == second.key
        }
        (first, second) => first == second,
    }
}

fn call_summary(call: &GuestCall) -> String {
    match call {
        GuestCall::Request(request) => format!("{call} {}", displayed(&request.body)),
        GuestCall::Put { value, .. } => format!("{call} {}", displayed(value)),
        GuestCall::Emit { payload, .. } => format!("{call} {}", displayed(payload)),
        GuestCall::Get { .. } | GuestCall::Delete { .. } => call.to_string(),
    }
}
