//! What a run has against it, compared with the run in which nothing goes wrong, in words for people.
//!
//! The rules are those of `docs/testing-handlers.md`: an effect is the same when its key is, or else what
//! it asks for; every effect of the undisturbed run must be there once, and no other.

use std::collections::BTreeMap;

use serde::Serialize;

use super::differences::shown;
use super::play::Played;
use super::receivers::{Clash, Effect};
use super::schedule::{Fault, Point, Receivers, Schedule, Step};
use crate::plugin::lab::{Call, Request};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
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
    pub kind: Kind,
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
pub(super) struct Reference {
    pub(super) played: Played,
    pub(super) again: Played,
}

/// Everything that a run has against it.
pub(super) fn judge(reference: &Reference, played: &Played, schedule: &Schedule) -> Vec<Finding> {
    let judge = Judge { reference, played, schedule };
    let steps: [&dyn Fn() -> Vec<Finding>; 5] =
        [&|| judge.clashes(), &|| judge.repeated(), &|| judge.ending(), &|| judge.lost(), &|| judge.stored()];
    // What follows from a thing is not told beside it.
    steps.into_iter().map(|step| step()).find(|found| !found.is_empty()).unwrap_or_default()
}

struct Judge<'a> {
    reference: &'a Reference,
    played: &'a Played,
    schedule: &'a Schedule,
}

impl Judge<'_> {
    fn clashes(&self) -> Vec<Finding> {
        self.played.town.clashes.iter().map(|clash| self.clash(clash)).collect()
    }

    fn clash(&self, Clash { first, second, call }: &Clash) -> Finding {
        let effects = &self.reference.played.town.effects;
        let is_of = |request: &Request| effects.iter().find(|effect| effect.request.is_same(request));
        match (is_of(first), is_of(second)) {
            (Some(owner), Some(other)) if owner.call != other.call => self.finding(
                Kind::Changed,
                other.call,
                format!(
                    "{} is sent with the key of call {}: a receiver that honours keys takes it for done, or refuses it",
                    named(other.call, second),
                    owner.call
                ),
                "name each of the two with the request header `outbox-effect`: without names, keys follow the order of \
                 equal methods and URLs, and an attempt that skips one shifts the others",
            ),
            (owner, _) => {
                let call = owner.map_or(*call, |owner| owner.call);
                self.finding(
                    Kind::Changed,
                    call,
                    format!(
                        "{} asks for something else when it is repeated, under the same key:\n  first {}\n  then  {}",
                        named(call, first),
                        line(first, second),
                        line(second, first)
                    ),
                    "make it from the item alone: clocks, random numbers, the number of the attempt and what receivers \
                     say are not the same the next time",
                )
            }
        }
    }

    /// For each effect of the reference, those of the run that are the same; then what is left over.
    fn mapped(&self) -> (Vec<(&Effect, Vec<&Effect>)>, Vec<&Effect>) {
        let mut mapped: Vec<(&Effect, Vec<&Effect>)> =
            self.reference.played.town.effects.iter().map(|effect| (effect, Vec::new())).collect();
        let mut rest = Vec::new();
        for effect in &self.played.town.effects {
            match mapped.iter_mut().max_by_key(|(known, _)| likeness(known, effect)) {
                Some((known, same)) if likeness(known, effect) > 0 => same.push(effect),
                _ => rest.push(effect),
            }
        }
        (mapped, rest)
    }

    fn repeated(&self) -> Vec<Finding> {
        let (mapped, rest) = self.mapped();
        let excused = |effect: &Effect| effect.is_unguarded && self.schedule.has_overlap();
        let twice = mapped.into_iter().filter(|(known, same)| same.len() > 1 && !excused(known));
        let mut found: Vec<_> = twice.map(|(known, same)| self.twice(known, &same)).collect();
        found.extend(rest.into_iter().map(|effect| {
            self.finding(
                Kind::Extra,
                effect.call,
                format!(
                    "{} is carried out, and without the disturbance it is not",
                    named(effect.call, &effect.request)
                ),
                "do the same in every attempt: what an attempt is told about earlier ones is for information",
            )
        }));
        found
    }

    fn twice(&self, known: &Effect, same: &[&Effect]) -> Finding {
        let what = named(known.call, &known.request);
        let (first, second) = (same[0], same[1]);
        if known.is_unguarded || self.schedule.receivers == Receivers::Ignore {
            return self.finding(
                Kind::Repeated,
                known.call,
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
        self.finding(Kind::Repeated, known.call, words, fix)
    }

    fn ending(&self) -> Vec<Finding> {
        if !self.reference.played.is_done() || self.played.is_done() {
            return Vec::new();
        }
        let call = self.disturbed_call();
        let failure = self.played.failure.as_ref();
        let why = failure.map(|failure| format!(" ({}: {})", failure.code, failure.message)).unwrap_or_default();
        let end = if self.played.is_settled() { "is dead-lettered" } else { "is never settled" };
        let what = format!("the item {end}{why} over {}, although the trouble passes", self.named_call(call));
        let fix = "answer what passes (409, 425, 429 and 5xx, a connection that broke) with a retryable failure";
        vec![self.finding(Kind::Dead, call, what, fix)]
    }

    fn lost(&self) -> Vec<Finding> {
        if !self.played.is_done() {
            return Vec::new();
        }
        let (mapped, _) = self.mapped();
        let missing = mapped.into_iter().filter(|(known, same)| same.is_empty() && !known.is_optional);
        missing.map(|(known, _)| self.missing(known)).collect()
    }

    fn missing(&self, known: &Effect) -> Finding {
        let what = format!("the item is done, and {} was never carried out", named(known.call, &known.request));
        let fix = match self.schedule.receivers {
            Receivers::Busy | Receivers::Abort => {
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
        self.finding(Kind::Lost, known.call, what, fix)
    }

    /// Whether something was the matter with a call of the very attempt that ended well.
    fn is_last_attempt_at_fault(&self) -> bool {
        let last = usize::try_from(self.played.rows.item.deliveries).unwrap_or_default();
        matches!(last.checked_sub(1).and_then(|index| self.schedule.steps.get(index)), Some(Step::Fault(..)))
    }

    fn stored(&self) -> Vec<Finding> {
        if !self.played.is_done() || !self.reference.played.is_done() {
            return Vec::new();
        }
        let mut found = self.state();
        found.extend(self.followups());
        found
    }

    fn state(&self) -> Vec<Finding> {
        let [expected, again, found] =
            [&self.reference.played, &self.reference.again, self.played].map(|played| values(&played.rows.state));
        let is_wrong = |key: &&&str| found.get(**key) != expected.get(**key) && expected.get(**key) == again.get(**key);
        let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let told = |key: &str| {
            let show =
                |of: &BTreeMap<&str, &[u8]>| of.get(key).map_or_else(|| "absent".to_owned(), |value| shown(value));
            let call = self
                .call_of(|call| matches!(call, Call::Put { key: put, .. } | Call::Delete { key: put } if put == key));
            let what =
                format!("the state {key} ends as {}, and without the disturbance as {}", show(&found), show(&expected));
            self.finding(Kind::State, call, what, "write to the state what does not depend on the attempt")
        };
        keys.iter().filter(|key| is_wrong(key)).map(|key| told(key)).collect()
    }

    fn followups(&self) -> Vec<Finding> {
        let [expected, again, found] = [&self.reference.played, &self.reference.again, self.played].map(|played| {
            let followups = played.rows.followups.iter();
            followups.map(|item| (item.idem_key.as_str(), item.payload.as_slice())).collect::<BTreeMap<_, _>>()
        });
        let is_wrong = |key: &&&str| found.get(**key) != expected.get(**key) && expected.get(**key) == again.get(**key);
        let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let told = |key: &str| {
            let emitted = self.reference.played.rows.followups.iter().chain(&self.played.rows.followups);
            let item_type = emitted.clone().find(|item| item.idem_key == key).map_or("", |item| &item.item_type);
            let call =
                self.call_of(|call| matches!(call, Call::Emit { item_type: emitted, .. } if emitted == item_type));
            let how = match (expected.get(key), found.get(key)) {
                (Some(_), None) => "is missing",
                (None, _) => "is one too many",
                _ => "has another payload",
            };
            let what = format!("the follow-up {key} {how}, compared with the undisturbed run");
            self.finding(
                Kind::Followups,
                call,
                what,
                "emit the same in every attempt: follow-ups come with the commit, once",
            )
        };
        keys.iter().filter(|key| is_wrong(key)).map(|key| told(key)).collect()
    }

    fn call_of(&self, is_meant: impl Fn(&Call) -> bool) -> usize {
        self.reference.played.calls.iter().position(is_meant).map_or(0, |index| index + 1)
    }

    /// The call at which something went wrong last.
    fn disturbed_call(&self) -> usize {
        let call = |step: &Step| match step {
            Step::Crash(point) | Step::Reload(point) | Step::Outlive(point) => match point {
                Point::Before(call) | Point::After(call) => Some(*call),
                Point::Return | Point::Commit => None,
            },
            Step::Fault(call, Fault::Silent | Fault::Lies | Fault::Fails | Fault::Throttles) => Some(*call),
        };
        let fault = self.schedule.steps.iter().find(|step| matches!(step, Step::Fault(..)));
        fault.or(self.schedule.steps.last()).and_then(call).unwrap_or(0)
    }

    fn named_call(&self, number: usize) -> String {
        let call = number.checked_sub(1).and_then(|index| self.reference.played.calls.get(index));
        call.map_or_else(|| "the return".to_owned(), |call| format!("call {number}, {call}"))
    }

    fn finding(&self, kind: Kind, call: usize, what: String, fix: &str) -> Finding {
        let (schedule, story) = (self.schedule.to_string(), self.schedule.story());
        Finding { kind, call, what, fix: fix.to_owned(), schedule, story, schedules: 1 }
    }
}

/// How sure it is that two effects are the same one.
fn likeness(known: &Effect, effect: &Effect) -> u32 {
    let (known_key, key) = (&known.request.key, &effect.request.key);
    match () {
        () if known_key == key && known.request.is_same(&effect.request) => 4,
        () if known_key == key => 3,
        () if known.request.is_same(&effect.request) => 2,
        () if known.call == effect.call && known.request.method == effect.request.method => 1,
        () => 0,
    }
}

fn values(state: &BTreeMap<String, (Vec<u8>, i64)>) -> BTreeMap<&str, &[u8]> {
    state.iter().map(|(key, (value, _))| (key.as_str(), value.as_slice())).collect()
}

fn named(call: usize, request: &Request) -> String {
    format!("call {call}, {} {},", request.method, request.url)
}

/// What a request asks for, as far as it differs from another.
fn line(request: &Request, other: &Request) -> String {
    if request.method == other.method && request.url == other.url {
        return shown(&request.body);
    }
    format!("{} {} {}", request.method, request.url, shown(&request.body))
}

/// Where two undisturbed runs part, if they do.
pub(super) fn divergence(reference: &Reference) -> Option<Note> {
    let (first, second) = (&reference.played.calls, &reference.again.calls);
    let index = (0..first.len().max(second.len())).find(|index| !is_alike(first.get(*index), second.get(*index)))?;
    let told = |call: Option<&Call>| call.map_or_else(|| "nothing".to_owned(), told);
    let what = format!(
        "the handler is not deterministic: run again at another time and with other random numbers, it differs first \
         at call {}:\n  first {}\n  then  {}",
        index + 1,
        told(first.get(index)),
        told(second.get(index))
    );
    Some(Note { call: Some(index + 1), what })
}

fn is_alike(first: Option<&Call>, second: Option<&Call>) -> bool {
    match (first, second) {
        (Some(Call::Request(first)), Some(Call::Request(second))) => first.is_same(second) && first.key == second.key,
        (first, second) => first == second,
    }
}

fn told(call: &Call) -> String {
    match call {
        Call::Request(request) => format!("{call} {}", shown(&request.body)),
        Call::Put { value, .. } => format!("{call} {}", shown(value)),
        Call::Emit { payload, .. } => format!("{call} {}", shown(payload)),
        Call::Get { .. } | Call::Delete { .. } => call.to_string(),
    }
}
