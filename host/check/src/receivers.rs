//! The simulated receivers of a run: they respond to requests, honour or ignore idempotency keys, and record effects.
//!
//! An effect is a request with an unsafe method that a receiver has carried out. Two equal PUTs or DELETEs in a row to
//! one URL are one effect, because these methods are idempotent. The receivers do not know what effects are expected.

use std::collections::BTreeMap;

use outbox_runtime::simulation::{OutgoingRequest, WorldResponse};

use crate::case::answer::{CaseAnswer, KeyHandling};
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
    /// The first request of each idempotency key.
    stored: BTreeMap<String, StoredResponse>,
    /// How many more requests of a method and URL are throttled.
    throttled: BTreeMap<(String, String), u32>,
    /// All effects, in order.
    pub(crate) effects: Vec<Effect>,
    /// Requests that were sent with the key of a different request.
    pub(crate) key_reuses: Vec<KeyReuse>,
    /// The requests for which the case has no answer, as `METHOD URL`.
    pub(crate) unanswered: Vec<String>,
}

/// A request that a receiver carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) request: OutgoingRequest,
    /// The number of the delivery that sent it, from 1.
    pub(crate) delivery: u32,
    /// The number of the call in its attempt, from 1.
    pub(crate) call: usize,
    /// Whether the case says that its receiver ignores keys.
    pub(crate) is_unguarded: bool,
    /// Whether the case says that the effect may be missing.
    pub(crate) is_optional: bool,
}

/// Two different requests with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyReuse {
    pub(crate) first: OutgoingRequest,
    pub(crate) second: OutgoingRequest,
    /// The number of the second call in its attempt, from 1.
    pub(crate) call: usize,
}

/// What a receiver keeps for a key.
#[derive(Clone, Debug)]
struct StoredResponse {
    request: OutgoingRequest,
    response: WorldResponse,
    /// The index of the answer in the script.
    answer: usize,
    /// Set when the sender crashed before the response: how the receiver treats the next request with the key.
    orphaned: Option<ReceiverBehaviour>,
}

/// The delivery and the call that send a request, both from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestOrigin {
    pub(crate) delivery: u32,
    pub(crate) call: usize,
}

impl SimulatedReceivers {
    /// Receivers that have received nothing yet.
    pub(crate) fn new(behaviour: ReceiverBehaviour, answers: Vec<CaseAnswer>) -> Self {
        Self {
            behaviour,
            script: Script::new(answers),
            stored: BTreeMap::new(),
            throttled: BTreeMap::new(),
            effects: Vec::new(),
            key_reuses: Vec::new(),
            unanswered: Vec::new(),
        }
    }

    /// Carries a request out, or refuses it, and responds. `fault` is the disruption of this call, if it has one.
    pub(crate) fn receive(
        &mut self,
        request: &OutgoingRequest,
        origin: RequestOrigin,
        fault: Option<ResponseFault>,
    ) -> WorldResponse {
        let target = (request.method.clone(), request.url.clone());
        if fault == Some(ResponseFault::Throttled) {
            self.throttled.insert(target.clone(), THROTTLED_REQUESTS);
        }
        if let Some(left @ 1..) = self.throttled.get_mut(&target) {
            *left -= 1;
            return throttled();
        }
        if fault == Some(ResponseFault::Error) {
            return status(500);
        }
        let answer = self.handle(request, origin);
        match fault {
            Some(ResponseFault::NoResponse) => WorldResponse::Silence,
            Some(ResponseFault::ErrorAfterEffect) => status(500),
            _ => answer,
        }
    }

    fn handle(&mut self, request: &OutgoingRequest, origin: RequestOrigin) -> WorldResponse {
        let stored = request.key.as_ref().and_then(|key| self.stored.get_mut(key));
        let Some(stored) = stored else { return self.execute(request, origin) };
        match stored.orphaned.take() {
            Some(ReceiverBehaviour::Abort) => self.abort(request),
            Some(_) => {}
            None if stored.request.asks_the_same(request) => return stored.response.clone(),
            None => {
                let first = stored.request.clone();
                self.key_reuses.push(KeyReuse { first, second: request.clone(), call: origin.call });
                return status(422);
            }
        }
        status(409)
    }

    fn execute(&mut self, request: &OutgoingRequest, origin: RequestOrigin) -> WorldResponse {
        let Some(answer) = self.script.find(request) else {
            self.unanswered.push(format!("{} {}", request.method, request.url));
            return WorldResponse::Refused;
        };
        let response = self.script.give(answer);
        if !request.is_safe() && self.script.answer(answer).has_effect() {
            self.record_effect(request, origin, answer);
            self.store_response(request, answer, &response);
        }
        response
    }

    fn record_effect(&mut self, request: &OutgoingRequest, origin: RequestOrigin, answer: usize) {
        if self.is_idempotent_repeat(request) {
            return;
        }
        let RequestOrigin { delivery, call } = origin;
        let (is_unguarded, is_optional) = (self.ignores_keys(answer), self.script.answer(answer).is_optional);
        self.effects.push(Effect { request: request.clone(), delivery, call, is_unguarded, is_optional });
    }

    fn store_response(&mut self, request: &OutgoingRequest, answer: usize, response: &WorldResponse) {
        let Some(key) = &request.key else { return };
        if self.ignores_keys(answer) || self.behaviour == ReceiverBehaviour::Ignore {
            return;
        }
        let (request, response) = (request.clone(), response.clone());
        self.stored.insert(key.clone(), StoredResponse { request, response, answer, orphaned: None });
    }

    fn ignores_keys(&self, answer: usize) -> bool {
        self.script.answer(answer).key_handling == KeyHandling::Ignores
    }

    /// Whether the request repeats the last one to its URL and its method is idempotent.
    fn is_idempotent_repeat(&self, request: &OutgoingRequest) -> bool {
        let is_idempotent = matches!(request.method.as_str(), "PUT" | "DELETE");
        let last = self.effects.iter().rfind(|effect| effect.request.url == request.url);
        is_idempotent && last.is_some_and(|effect| effect.request.asks_the_same(request))
    }

    /// The sender of the request crashed before it got the response.
    pub(crate) fn orphan(&mut self, request: &OutgoingRequest) {
        if !matches!(self.behaviour, ReceiverBehaviour::Busy | ReceiverBehaviour::Abort) {
            return;
        }
        if let Some(stored) = request.key.as_ref().and_then(|key| self.stored.get_mut(key)) {
            stored.orphaned = Some(self.behaviour);
        }
    }

    /// Undoes the request that was sent with the key of this one, and forgets the key.
    fn abort(&mut self, request: &OutgoingRequest) {
        let Some(stored) = request.key.as_ref().and_then(|key| self.stored.remove(key)) else { return };
        self.script.undo(stored.answer);
        self.effects.retain(|effect| effect.request != stored.request);
    }
}

fn status(status: u16) -> WorldResponse {
    WorldResponse::Response { status, headers: Vec::new(), body: Vec::new() }
}

fn throttled() -> WorldResponse {
    let headers = vec![("retry-after".to_owned(), "7".to_owned())];
    WorldResponse::Response { status: 429, headers, body: Vec::new() }
}
