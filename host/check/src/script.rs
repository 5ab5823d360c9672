//! What the receivers of a case answer, in the order of the case. It knows no keys and no effects.

use std::collections::BTreeSet;

use crate::case::{CaseAnswer, CaseFault};
use outbox_runtime::simulation::{OutgoingRequest, WorldResponse};

/// The answers of a case and which of them were given.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    answers: Vec<CaseAnswer>,
    given: Vec<u32>,
    effective: BTreeSet<String>,
}

impl Script {
    /// Nothing answered yet.
    pub(crate) fn new(answers: Vec<CaseAnswer>) -> Self {
        Self { given: vec![0; answers.len()], answers, effective: BTreeSet::new() }
    }

    /// The number of the answer that a request would get now.
    pub(crate) fn find(&self, request: &OutgoingRequest) -> Option<usize> {
        let fits = |(number, answer): (usize, &CaseAnswer)| {
            let is_left = answer.times.is_none_or(|times| self.given[number] < times);
            let is_time = answer.after.as_ref().is_none_or(|name| self.effective.contains(name));
            let is_meant = answer.method.as_ref().is_none_or(|method| *method == request.method);
            (is_left && is_time && is_meant && matches(&answer.url, &request.url)).then_some(number)
        };
        self.answers.iter().enumerate().find_map(fits)
    }

    /// An answer, by its number.
    pub(crate) fn answer(&self, number: usize) -> &CaseAnswer {
        &self.answers[number]
    }

    /// Gives an answer; its effect happens when it says that all is well.
    pub(crate) fn give(&mut self, number: usize) -> WorldResponse {
        self.given[number] += 1;
        let answer = &self.answers[number];
        if let (Some(name), true) = (&answer.name, answer.has_effect()) {
            self.effective.insert(name.clone());
        }
        answer.response()
    }

    /// Takes an answer back, with its effect.
    pub(crate) fn undo(&mut self, number: usize) {
        self.given[number] -= 1;
        if let Some(name) = &self.answers[number].name {
            self.effective.remove(name);
        }
    }
}

impl CaseAnswer {
    /// Whether the receiver has done what it was asked for.
    pub(crate) fn has_effect(&self) -> bool {
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

/// Whether a text fits a pattern in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<_> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text) in
            [("a", "a"), ("*", ""), ("a*", "abc"), ("a*c", "abc"), ("*b*", "abc"), ("a*b*c", "a-b-c")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*c", "ab"), ("a*b*c", "a-c"), ("ab*ba", "aba")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
