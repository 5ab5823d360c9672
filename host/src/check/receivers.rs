//! The receivers of a case: what they have carried out, and what they do with keys.
//!
//! An effect is a request that is not safe and that a receiver has carried out. Two PUTs, or two DELETEs,
//! of the same to the same URL are one effect, by the meaning of these methods.

use std::collections::BTreeMap;

use super::case::{Receiver, Reply};
use super::schedule::{Fault, Receivers};
use super::script::Script;
use crate::plugin::lab::{Answer, Request};

/// So many requests in a row are throttled.
const THROTTLED: u32 = 3;

/// Everything outside one item's attempts.
#[derive(Clone, Debug)]
pub(super) struct Town {
    receivers: Receivers,
    script: Script,
    kept: BTreeMap<String, Kept>,
    throttled: BTreeMap<(String, String), u32>,
    /// What was carried out, in order.
    pub(super) effects: Vec<Effect>,
    /// Requests that bore the key of something else.
    pub(super) clashes: Vec<Clash>,
    /// Requests that nothing in the case answers.
    pub(super) unanswered: Vec<String>,
}

/// Something that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) request: Request,
    /// Which delivery of the item asked for it, from 1.
    pub(super) delivery: u32,
    /// Which call of the attempt it was, from 1.
    pub(super) call: usize,
    /// Whether the case says that its receiver ignores keys.
    pub(super) is_unguarded: bool,
    /// Whether the case says that it may be missing.
    pub(super) is_optional: bool,
}

/// A request with the key of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clash {
    pub(super) first: Request,
    pub(super) second: Request,
    pub(super) call: usize,
}

/// What a receiver knows of a key.
#[derive(Clone, Debug)]
struct Kept {
    request: Request,
    answer: Answer,
    reply: usize,
    /// Whether its sender died before it was answered, and what has become of it.
    orphaned: Option<Receivers>,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub(super) delivery: u32,
    pub(super) call: usize,
}

impl Town {
    /// Receivers that have done nothing yet.
    pub(super) fn new(receivers: Receivers, replies: Vec<Reply>) -> Self {
        Self {
            receivers,
            script: Script::new(replies),
            kept: BTreeMap::new(),
            throttled: BTreeMap::new(),
            effects: Vec::new(),
            clashes: Vec::new(),
            unanswered: Vec::new(),
        }
    }

    /// Carries a request out, or not, and answers it.
    pub(super) fn receive(&mut self, request: &Request, sender: Sender, fault: Option<Fault>) -> Answer {
        let place = (request.method.clone(), request.url.clone());
        if fault == Some(Fault::Throttles) {
            self.throttled.insert(place.clone(), THROTTLED);
        }
        if let Some(left @ 1..) = self.throttled.get_mut(&place) {
            *left -= 1;
            return throttled();
        }
        if fault == Some(Fault::Fails) {
            return status(500);
        }
        let answer = self.handle(request, sender);
        match fault {
            Some(Fault::Silent) => Answer::Silence,
            Some(Fault::Lies) => status(500),
            _ => answer,
        }
    }

    fn handle(&mut self, request: &Request, sender: Sender) -> Answer {
        let known = request.key.as_ref().and_then(|key| self.kept.get_mut(key).map(|kept| (key, kept)));
        if let Some((key, kept)) = known {
            match kept.orphaned.take() {
                Some(Receivers::Abort) => {
                    let key = key.clone();
                    self.abort(&key);
                    return status(409);
                }
                Some(_) => return status(409),
                None if kept.request.is_same(request) => return kept.answer.clone(),
                None => {
                    let clash = Clash { first: kept.request.clone(), second: request.clone(), call: sender.call };
                    self.clashes.push(clash);
                    return status(422);
                }
            }
        }
        self.carry_out(request, sender)
    }

    fn carry_out(&mut self, request: &Request, sender: Sender) -> Answer {
        let Some(number) = self.script.find(request) else {
            self.unanswered.push(format!("{} {}", request.method, request.url));
            return Answer::Refused;
        };
        let answer = self.script.give(number);
        let reply = self.script.reply(number);
        if request.is_safe() || !reply.has_effect() {
            return answer;
        }
        let is_unguarded = reply.receiver == Receiver::Ignores;
        let effect = Effect {
            request: request.clone(),
            delivery: sender.delivery,
            call: sender.call,
            is_unguarded,
            is_optional: reply.optional,
        };
        if !self.is_repeated_by_nature(request) {
            self.effects.push(effect);
        }
        if let (Some(key), false, false) = (&request.key, is_unguarded, self.receivers == Receivers::Ignore) {
            let kept = Kept { request: request.clone(), answer: answer.clone(), reply: number, orphaned: None };
            self.kept.insert(key.clone(), kept);
        }
        answer
    }

    /// Whether the request leaves everything as it is.
    fn is_repeated_by_nature(&self, request: &Request) -> bool {
        let is_idempotent = matches!(request.method.as_str(), "PUT" | "DELETE");
        let last = self.effects.iter().rfind(|effect| effect.request.url == request.url);
        is_idempotent && last.is_some_and(|effect| effect.request.is_same(request))
    }

    /// Hears that whoever sent a request has died before its answer came.
    pub(super) fn orphan(&mut self, request: &Request) {
        if !matches!(self.receivers, Receivers::Busy | Receivers::Abort) {
            return;
        }
        if let Some(kept) = request.key.as_ref().and_then(|key| self.kept.get_mut(key)) {
            kept.orphaned = Some(self.receivers);
        }
    }

    /// What was begun under a key comes to nothing.
    fn abort(&mut self, key: &str) {
        let Some(kept) = self.kept.remove(key) else { return };
        self.script.undo(kept.reply);
        self.effects.retain(|effect| effect.request != kept.request);
    }
}

impl Request {
    /// Whether it asks for the same: its headers do not say what for.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.method == other.method && self.url == other.url && self.body == other.body
    }
}

fn status(status: u16) -> Answer {
    Answer::Response { status, headers: Vec::new(), body: Vec::new() }
}

fn throttled() -> Answer {
    let headers = vec![("retry-after".to_owned(), "7".to_owned())];
    Answer::Response { status: 429, headers, body: Vec::new() }
}
