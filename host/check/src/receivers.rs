//! The receivers of a case: what they have carried out, and what they do with keys.
//!
//! An effect is a request that is not safe and that a receiver has carried out. Two PUTs, or two DELETEs,
//! of the same to the same URL are one effect, by the meaning of these methods.

use std::collections::BTreeMap;

use crate::case::{CaseAnswer, KeyHandling};
use crate::schedule::{ReceiverBehaviour, ResponseFault};
use crate::script::Script;
use outbox_runtime::simulation::{OutgoingRequest, WorldResponse};

/// So many requests in a row are throttled.
const THROTTLED_REQUESTS: u32 = 3;

/// Everything outside one item's attempts.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedReceivers {
    behaviour: ReceiverBehaviour,
    script: Script,
    stored: BTreeMap<String, StoredResponse>,
    throttled: BTreeMap<(String, String), u32>,
    /// What was carried out, in order.
    pub(crate) effects: Vec<Effect>,
    /// Requests that bore the key of something else.
    pub(crate) key_reuses: Vec<KeyReuse>,
    /// Requests that nothing in the case answers.
    pub(crate) unanswered: Vec<String>,
}

/// Something that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) request: OutgoingRequest,
    /// Which delivery of the item asked for it, from 1.
    pub(crate) delivery: u32,
    /// Which call of the attempt it was, from 1.
    pub(crate) call: usize,
    /// Whether the case says that its receiver ignores keys.
    pub(crate) is_unguarded: bool,
    /// Whether the case says that it may be missing.
    pub(crate) is_optional: bool,
}

/// A request with the key of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyReuse {
    pub(crate) first: OutgoingRequest,
    pub(crate) second: OutgoingRequest,
    pub(crate) call: usize,
}

/// What a receiver knows of a key.
#[derive(Clone, Debug)]
struct StoredResponse {
    request: OutgoingRequest,
    answer: WorldResponse,
    answer_number: usize,
    /// Whether its sender died before it was answered, and what has become of it.
    orphaned: Option<ReceiverBehaviour>,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestOrigin {
    pub(crate) delivery: u32,
    pub(crate) call: usize,
}

impl SimulatedReceivers {
    /// Receivers that have done nothing yet.
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

    /// Carries a request out, or not, and answers it.
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
        let known = request.key.as_ref().and_then(|key| self.stored.get_mut(key).map(|stored| (key, stored)));
        if let Some((key, stored)) = known {
            match stored.orphaned.take() {
                Some(ReceiverBehaviour::Abort) => {
                    let key = key.clone();
                    self.abort(&key);
                    return status(409);
                }
                Some(_) => return status(409),
                None if stored.request.asks_the_same(request) => return stored.answer.clone(),
                None => {
                    let key_reuse =
                        KeyReuse { first: stored.request.clone(), second: request.clone(), call: origin.call };
                    self.key_reuses.push(key_reuse);
                    return status(422);
                }
            }
        }
        self.execute(request, origin)
    }

    fn execute(&mut self, request: &OutgoingRequest, origin: RequestOrigin) -> WorldResponse {
        let Some(number) = self.script.find(request) else {
            self.unanswered.push(format!("{} {}", request.method, request.url));
            return WorldResponse::Refused;
        };
        let answer = self.script.give(number);
        let scripted = self.script.answer(number);
        if request.is_safe() || !scripted.has_effect() {
            return answer;
        }
        let is_unguarded = scripted.key_handling == KeyHandling::Ignores;
        let effect = Effect {
            request: request.clone(),
            delivery: origin.delivery,
            call: origin.call,
            is_unguarded,
            is_optional: scripted.optional,
        };
        if !self.is_idempotent_repeat(request) {
            self.effects.push(effect);
        }
        if let (Some(key), false, false) = (&request.key, is_unguarded, self.behaviour == ReceiverBehaviour::Ignore) {
            let stored = StoredResponse {
                request: request.clone(),
                answer: answer.clone(),
                answer_number: number,
                orphaned: None,
            };
            self.stored.insert(key.clone(), stored);
        }
        answer
    }

    /// Whether the request leaves everything as it is.
    fn is_idempotent_repeat(&self, request: &OutgoingRequest) -> bool {
        let is_idempotent = matches!(request.method.as_str(), "PUT" | "DELETE");
        let last = self.effects.iter().rfind(|effect| effect.request.url == request.url);
        is_idempotent && last.is_some_and(|effect| effect.request.asks_the_same(request))
    }

    /// Hears that whoever sent a request has died before its answer came.
    pub(crate) fn orphan(&mut self, request: &OutgoingRequest) {
        if !matches!(self.behaviour, ReceiverBehaviour::Busy | ReceiverBehaviour::Abort) {
            return;
        }
        if let Some(stored) = request.key.as_ref().and_then(|key| self.stored.get_mut(key)) {
            stored.orphaned = Some(self.behaviour);
        }
    }

    /// What was begun under a key comes to nothing.
    fn abort(&mut self, key: &str) {
        let Some(stored) = self.stored.remove(key) else { return };
        self.script.undo(stored.answer_number);
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
