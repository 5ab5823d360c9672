//! What the receivers of a case answer, in the order of the case. It knows no keys and no effects.

use std::collections::BTreeSet;

use super::case::{CaseFault, Reply};
use crate::plugin::lab::{Answer, Request};

/// The answers of a case and which of them were given.
#[derive(Clone, Debug)]
pub(super) struct Script {
    replies: Vec<Reply>,
    given: Vec<u32>,
    effective: BTreeSet<String>,
}

impl Script {
    /// Nothing answered yet.
    pub(super) fn new(replies: Vec<Reply>) -> Self {
        Self { given: vec![0; replies.len()], replies, effective: BTreeSet::new() }
    }

    /// The number of the reply that a request would get now.
    pub(super) fn find(&self, request: &Request) -> Option<usize> {
        let fits = |(number, reply): (usize, &Reply)| {
            let is_left = reply.times.is_none_or(|times| self.given[number] < times);
            let is_time = reply.after.as_ref().is_none_or(|name| self.effective.contains(name));
            let is_meant = reply.method.as_ref().is_none_or(|method| *method == request.method);
            (is_left && is_time && is_meant && matches(&reply.url, &request.url)).then_some(number)
        };
        self.replies.iter().enumerate().find_map(fits)
    }

    /// A reply, by its number.
    pub(super) fn reply(&self, number: usize) -> &Reply {
        &self.replies[number]
    }

    /// Gives a reply; its effect happens when it says that all is well.
    pub(super) fn give(&mut self, number: usize) -> Answer {
        self.given[number] += 1;
        let reply = &self.replies[number];
        if let (Some(name), true) = (&reply.name, reply.has_effect()) {
            self.effective.insert(name.clone());
        }
        reply.answer()
    }

    /// Takes a reply back, with its effect.
    pub(super) fn undo(&mut self, number: usize) {
        self.given[number] -= 1;
        if let Some(name) = &self.replies[number].name {
            self.effective.remove(name);
        }
    }
}

impl Reply {
    /// Whether the receiver has done what it was asked for.
    pub(super) fn has_effect(&self) -> bool {
        (200..300).contains(&self.status) && !matches!(self.fault, Some(CaseFault::Refused))
    }

    fn answer(&self) -> Answer {
        match self.fault {
            Some(CaseFault::Refused) => Answer::Refused,
            Some(CaseFault::Broken) => Answer::Broken,
            Some(CaseFault::Silent) => Answer::Silence,
            None => Answer::Response {
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
