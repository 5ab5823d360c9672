//! The simulated receivers of a run: they respond to requests, honour or ignore idempotency keys, and record effects.
//!
//! An effect is a request with an unsafe method that a receiver has carried out. Two equal PUTs or DELETEs in a row to
//! one URL are one effect, because these methods are idempotent. Each origin has its own keys. The receivers do not
//! know what effects are expected.

use std::collections::BTreeMap;

use outbox_runtime::simulation::{OutgoingRequest, WorldResponse};

use crate::call_record::{CallKind, CallRecord};
use crate::case::answer::{CaseAnswer, KeyHandling, Repeats};
use crate::check_report::CallPosition;
use crate::lookup_probe::{LookupChange, LookupValue, changed_body, lookup_value, read_back};
use crate::schedule::{ReceiverBehaviour, ResponseFault};
use crate::script::Script;

/// The number of requests in a row that a throttling receiver refuses: more than one, so that a handler which retries
/// at once fails too.
const THROTTLED_REQUESTS: u32 = 3;

/// All receivers of one run, for every attempt of it.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedReceivers {
    behaviour: ReceiverBehaviour,
    script: Script,
    /// The first request of each idempotency key, by the origin that received it.
    stored: BTreeMap<ReceivedKey, StoredResponse>,
    /// How many more requests of a target are throttled.
    throttled: BTreeMap<RequestTarget, u32>,
    /// The targets that are out of order until the last attempt, and what they answer.
    outages: BTreeMap<RequestTarget, WorldResponse>,
    /// All effects, in order.
    pub(crate) effects: Vec<Effect>,
    /// Requests that were sent with the key of a different request.
    pub(crate) key_reuses: Vec<KeyReuse>,
    /// Requests that got the response of an equal one of the same attempt.
    pub(crate) swallowed: Vec<SwallowedRequest>,
    /// The requests for which the case has no answer, as `METHOD URL`.
    pub(crate) unanswered: Vec<String>,
}

/// The origin of a receiver and an idempotency key.
type ReceivedKey = (String, String);

/// The method and the URL of a request.
type RequestTarget = (String, String);

/// A request that a receiver carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) request: OutgoingRequest,
    /// The call that sent it.
    pub(crate) at: CallPosition,
    /// The key that its receiver knows it by.
    pub(crate) key: Option<String>,
    /// Whether the case says that its receiver ignores keys.
    pub(crate) is_unguarded: bool,
    /// Whether the case says that the effect may be missing or one more.
    pub(crate) is_optional: bool,
    /// Whether it sets what its URL is, so that only the last such effect of a URL matters.
    pub(crate) is_setting: bool,
}

/// Two different requests with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyReuse {
    pub(crate) first: OutgoingRequest,
    pub(crate) first_at: CallPosition,
    pub(crate) second: OutgoingRequest,
    pub(crate) second_at: CallPosition,
}

/// Two equal requests with one key in one attempt. Both were answered, and the second was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SwallowedRequest {
    pub(crate) request: OutgoingRequest,
    pub(crate) first_at: CallPosition,
    pub(crate) second_at: CallPosition,
}

/// What a receiver keeps for a key.
#[derive(Clone, Debug)]
struct StoredResponse {
    request: OutgoingRequest,
    at: CallPosition,
    response: WorldResponse,
    /// The index of the answer in the script.
    answer: usize,
    /// The last call that got the response.
    answered: Option<CallPosition>,
    /// Set when the sender crashed before the response: how the receiver treats the next request with the key.
    orphaned: Option<ReceiverBehaviour>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) response: WorldResponse,
    pub(crate) kind: CallKind,
    /// What a lookup says that may be something else the next time.
    pub(crate) value: Option<LookupValue>,
}

impl SimulatedReceivers {
    /// Receivers that have received nothing yet.
    pub(crate) fn new(behaviour: ReceiverBehaviour, answers: Vec<CaseAnswer>) -> Self {
        Self {
            behaviour,
            script: Script::new(answers),
            stored: BTreeMap::new(),
            throttled: BTreeMap::new(),
            outages: BTreeMap::new(),
            effects: Vec::new(),
            key_reuses: Vec::new(),
            swallowed: Vec::new(),
            unanswered: Vec::new(),
        }
    }

    /// Carries a request out, or refuses it, and responds. `fault` is the disruption of this call, if it has one.
    pub(crate) fn receive(
        &mut self,
        request: &OutgoingRequest,
        at: CallPosition,
        fault: Option<ResponseFault>,
    ) -> Exchange {
        let (kind, is_open) = (self.kind(request), self.is_open(request));
        let mut response = self.respond(request, at, fault);
        let mut value = None;
        if let (CallKind::Lookup, WorldResponse::Response { status: 200..300, body, .. }) = (kind, &mut response) {
            value = lookup_value(body).filter(|_| is_open);
            if let Some(change) = lookup_change(fault) {
                *body = changed_body(body, change);
            }
        }
        Exchange { response, kind, value }
    }

    fn respond(&mut self, request: &OutgoingRequest, at: CallPosition, fault: Option<ResponseFault>) -> WorldResponse {
        self.begin(request, fault);
        if let Some(refusal) = self.refusal(request) {
            return refusal;
        }
        match fault {
            Some(ResponseFault::Error) => return status(500),
            Some(ResponseFault::Unavailable) => return status(503),
            Some(ResponseFault::GatewayTimeout) => return status(504),
            Some(ResponseFault::Refused) => return WorldResponse::Refused,
            Some(ResponseFault::Vanished) => return WorldResponse::Vanished,
            _ => {}
        }
        let response = self.handle(request, at);
        match fault {
            Some(ResponseFault::NoResponse) => return WorldResponse::Silence,
            Some(ResponseFault::ErrorAfterEffect) => return status(500),
            Some(ResponseFault::Broken) => return WorldResponse::Broken,
            _ => {}
        }
        if let Some(stored) = self.stored_mut(request) {
            stored.answered = Some(at);
        }
        response
    }

    /// Begins what lasts longer than one request.
    fn begin(&mut self, request: &OutgoingRequest, fault: Option<ResponseFault>) {
        match fault {
            Some(ResponseFault::Throttled) => drop(self.throttled.insert(target(request), THROTTLED_REQUESTS)),
            Some(ResponseFault::Outage) => drop(self.outages.insert(target(request), status(500))),
            Some(ResponseFault::Unreachable) => drop(self.outages.insert(target(request), WorldResponse::Refused)),
            _ => {}
        }
    }

    /// The answer of a receiver that is throttling or out of order.
    fn refusal(&mut self, request: &OutgoingRequest) -> Option<WorldResponse> {
        let target = target(request);
        if let Some(left @ 1..) = self.throttled.get_mut(&target) {
            *left -= 1;
            return Some(throttled());
        }
        self.outages.get(&target).cloned()
    }

    /// Every receiver is in order again.
    pub(crate) fn end_outages(&mut self) {
        self.outages.clear();
    }

    /// Whether the case leaves open how the answers to the request change.
    fn is_open(&self, request: &OutgoingRequest) -> bool {
        let is_stable = |answer: usize| self.script.answer(answer).is_stable;
        !self.script.is_varied(request) && !self.script.find(request).is_some_and(is_stable)
    }

    /// What the request may do, as the case says.
    fn kind(&self, request: &OutgoingRequest) -> CallKind {
        let is_effect = |answer: usize| self.script.answer(answer).is_effect;
        match CallRecord::kind_of(request) {
            CallKind::Effect if !self.script.find(request).is_none_or(is_effect) => CallKind::Lookup,
            kind => kind,
        }
    }

    fn handle(&mut self, request: &OutgoingRequest, at: CallPosition) -> WorldResponse {
        let Some(stored) = self.stored_mut(request) else { return self.execute(request, at) };
        let orphaned = stored.orphaned.take();
        let stored = stored.clone();
        match orphaned {
            Some(ReceiverBehaviour::Abort) => self.abort(request),
            Some(_) => {}
            None => return self.repeat(request, at, stored),
        }
        status(409)
    }

    /// Answers a request whose key is known.
    fn repeat(&mut self, request: &OutgoingRequest, at: CallPosition, stored: StoredResponse) -> WorldResponse {
        let StoredResponse { request: first, at: first_at, response, answered, .. } = stored;
        let second = request.clone();
        if !first.asks_the_same(request) {
            self.key_reuses.push(KeyReuse { first, first_at, second, second_at: at });
            return status(422);
        }
        if let Some(first_at) = answered.filter(|answered| answered.attempt == at.attempt) {
            self.swallowed.push(SwallowedRequest { request: second, first_at, second_at: at });
        }
        response
    }

    fn execute(&mut self, request: &OutgoingRequest, at: CallPosition) -> WorldResponse {
        let Some(answer) = self.script.find(request) else {
            self.unanswered.push(format!("{} {}", request.method, request.url));
            return WorldResponse::Refused;
        };
        let is_open = self.is_open(request);
        let mut response = self.script.give(answer);
        if let (true, WorldResponse::Response { body, .. }) = (is_open && request.method == "GET", &mut response)
            && let Some(last) = last_put(&self.effects, &request.url)
            && let Some(read) = read_back(body, &last.request.body)
        {
            *body = read;
        }
        if !request.is_safe() && self.script.answer(answer).has_effect() {
            self.record_effect(request, at, answer);
            self.store_response(request, at, answer, &response);
        }
        response
    }

    fn record_effect(&mut self, request: &OutgoingRequest, at: CallPosition, answer: usize) {
        let repeats = self.script.answer(answer).repeats_of(&request.method);
        if repeats == Repeats::Same && self.is_known(request) {
            return;
        }
        let is_setting = repeats == Repeats::Same && is_idempotent(&request.method);
        let (is_unguarded, is_optional) = (self.ignores_keys(answer), self.script.answer(answer).is_optional);
        let (request, key) = (request.clone(), self.received_key(request).map(|(_, key)| key));
        self.effects.push(Effect { request, at, key, is_unguarded, is_optional, is_setting });
    }

    fn store_response(&mut self, request: &OutgoingRequest, at: CallPosition, answer: usize, response: &WorldResponse) {
        let Some(key) = self.received_key(request) else { return };
        if self.ignores_keys(answer) || self.behaviour == ReceiverBehaviour::Ignore {
            return;
        }
        let (request, response) = (request.clone(), response.clone());
        self.stored.insert(key, StoredResponse { request, at, response, answer, answered: None, orphaned: None });
    }

    fn stored_mut(&mut self, request: &OutgoingRequest) -> Option<&mut StoredResponse> {
        self.received_key(request).and_then(|key| self.stored.get_mut(&key))
    }

    /// The key of the request with the origin of its URL, whose keys are its own.
    fn received_key(&self, request: &OutgoingRequest) -> Option<ReceivedKey> {
        let path = request.url.match_indices('/').nth(2).map_or(request.url.len(), |(index, _)| index);
        let key = match self.script.key_header(request) {
            Some(header) => {
                request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(header)).map(|(_, key)| key)
            }
            None => request.key.as_ref(),
        };
        Some((request.url[..path].to_owned(), key?.clone()))
    }

    fn ignores_keys(&self, answer: usize) -> bool {
        self.script.answer(answer).key_handling == KeyHandling::Ignores
    }

    /// Whether the request changes nothing: it repeats the last one to its URL, or, if its method does not set what
    /// the URL is, any one.
    fn is_known(&self, request: &OutgoingRequest) -> bool {
        let mut same_url = self.effects.iter().rev().filter(|effect| effect.request.url == request.url);
        let asks_the_same = |effect: &Effect| effect.request.asks_the_same(request);
        if is_idempotent(&request.method) {
            same_url.next().is_some_and(asks_the_same)
        } else {
            same_url.any(asks_the_same)
        }
    }

    /// The sender of the request crashed before it got the response.
    pub(crate) fn orphan(&mut self, request: &OutgoingRequest) {
        if !matches!(self.behaviour, ReceiverBehaviour::Busy | ReceiverBehaviour::Abort) {
            return;
        }
        let behaviour = self.behaviour;
        if let Some(stored) = self.stored_mut(request) {
            stored.orphaned = Some(behaviour);
        }
    }

    /// Undoes the request that was sent with the key of this one, and forgets the key.
    fn abort(&mut self, request: &OutgoingRequest) {
        let Some(stored) = self.received_key(request).and_then(|key| self.stored.remove(&key)) else { return };
        self.script.undo(stored.answer);
        self.effects.retain(|effect| effect.request != stored.request);
    }
}

fn lookup_change(fault: Option<ResponseFault>) -> Option<LookupChange> {
    match fault {
        Some(ResponseFault::SaysMore) => Some(LookupChange::More),
        Some(ResponseFault::SaysNothing) => Some(LookupChange::Nothing),
        _ => None,
    }
}

/// The last effect that says what a URL is, if that is a PUT.
fn last_put<'a>(effects: &'a [Effect], url: &str) -> Option<&'a Effect> {
    let last = effects.iter().rfind(|effect| effect.is_setting && effect.request.url == url);
    last.filter(|effect| effect.request.method == "PUT")
}

/// Whether the method says what its URL is afterwards.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "PUT" | "DELETE")
}

fn target(request: &OutgoingRequest) -> RequestTarget {
    (request.method.clone(), request.url.clone())
}

fn status(status: u16) -> WorldResponse {
    WorldResponse::Response { status, headers: Vec::new(), body: Vec::new() }
}

fn throttled() -> WorldResponse {
    let headers = vec![("retry-after".to_owned(), "7".to_owned())];
    WorldResponse::Response { status: 429, headers, body: Vec::new() }
}

#[cfg(test)]
mod tests;
