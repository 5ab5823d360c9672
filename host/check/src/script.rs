//! Chooses the answer of a case for each request.
//!
//! It knows no idempotency keys and no effects; `receivers.rs` adds them.

use std::collections::BTreeSet;

use outbox_core::wildcard_matches;
use outbox_runtime::simulation::{OutgoingRequest, WorldResponse};

use crate::case::answer::{CaseAnswer, CaseFault};

/// The answers of a case, and which of them were given.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    answers: Vec<CaseAnswer>,
    /// How often each answer was given.
    given: Vec<u32>,
    /// The names of the answers that have taken effect.
    effective: BTreeSet<String>,
}

impl Script {
    /// A script of which no answer was given yet.
    pub(crate) fn new(answers: Vec<CaseAnswer>) -> Self {
        Self { given: vec![0; answers.len()], answers, effective: BTreeSet::new() }
    }

    /// The index of the answer that the request gets now.
    pub(crate) fn find(&self, request: &OutgoingRequest) -> Option<usize> {
        let fits = |(number, answer): (usize, &CaseAnswer)| {
            let is_left = answer.times.is_none_or(|times| self.given[number] < times);
            let is_time = answer.after.as_ref().is_none_or(|name| self.effective.contains(name));
            (is_left && is_time && answer.is_for(request)).then_some(number)
        };
        self.answers.iter().enumerate().find_map(fits)
    }

    /// Whether the case says how the answers to the request change: one of them is not given for ever.
    pub(crate) fn is_varied(&self, request: &OutgoingRequest) -> bool {
        let changes = |answer: &CaseAnswer| answer.after.is_some() || answer.times.is_some();
        self.answers.iter().any(|answer| answer.is_for(request) && changes(answer))
    }

    /// The header with the key of the request, if the case says that it is not `Idempotency-Key`.
    pub(crate) fn key_header(&self, request: &OutgoingRequest) -> Option<&str> {
        self.answers.iter().filter(|answer| answer.is_for(request)).find_map(|answer| answer.key_header.as_deref())
    }

    /// The answer at an index.
    pub(crate) fn answer(&self, number: usize) -> &CaseAnswer {
        &self.answers[number]
    }

    /// Gives an answer. It takes effect when its response is a success.
    pub(crate) fn give(&mut self, number: usize) -> WorldResponse {
        self.given[number] += 1;
        let answer = &self.answers[number];
        if let (Some(name), true) = (&answer.name, answer.is_success()) {
            self.effective.insert(name.clone());
        }
        answer.response()
    }

    /// Takes an answer and its effect back.
    pub(crate) fn undo(&mut self, number: usize) {
        self.given[number] -= 1;
        if let Some(name) = &self.answers[number].name {
            self.effective.remove(name);
        }
    }
}

impl CaseAnswer {
    /// Whether the answer is meant for the request, at some time.
    fn is_for(&self, request: &OutgoingRequest) -> bool {
        let has_header = |(name, pattern): (&String, &String)| {
            let mut headers = request.headers.iter();
            headers.any(|(known, value)| known.eq_ignore_ascii_case(name) && wildcard_matches(pattern, value))
        };
        self.method.as_ref().is_none_or(|method| *method == request.method)
            && wildcard_matches(&self.url, &request.url)
            && self.request_headers.iter().all(has_header)
            && self.request_body.as_ref().is_none_or(|pattern| body_matches(pattern, &request.body))
    }

    /// Whether the receiver carries out what has an effect.
    pub(crate) fn has_effect(&self) -> bool {
        self.is_effect && self.is_success()
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status) && !matches!(self.fault, Some(CaseFault::Refused))
    }

    fn response(&self) -> WorldResponse {
        match self.fault {
            Some(CaseFault::Refused) => WorldResponse::Refused,
            Some(CaseFault::Broken) => WorldResponse::Broken,
            Some(CaseFault::Silent) => WorldResponse::Silence,
            None => WorldResponse::Response {
                status: self.status,
                headers: self.headers.clone().into_iter().collect(),
                body: self.body.bytes().unwrap_or_default(),
            },
        }
    }
}

fn body_matches(pattern: &str, body: &[u8]) -> bool {
    wildcard_matches(pattern, &String::from_utf8_lossy(body))
}
