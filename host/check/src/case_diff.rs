//! Compares what a handler did with what its case expects, and writes the differences as lines for people.
//!
//! Pure: it runs no handler and reads no file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde_json::Value;

use outbox_item::NewItem;
use outbox_runtime::simulation::OutgoingRequest;

use crate::case::Case;
use crate::case::content::{Content, state_bytes};
use crate::case::expect::{Expect, ExpectedFollowup, ExpectedRequest};
use crate::case_run::CaseOutcome;
use crate::display::displayed;

/// The differences; none when everything is as expected.
pub(crate) fn differences(case: &Case, found: &CaseOutcome) -> Vec<String> {
    let mut lines: Vec<_> =
        found.unanswered.iter().map(|request| format!("no [[answer]] fits the request {request}")).collect();
    let Some(expect) = &case.expect else {
        lines.push("the case has no [expect]: --update writes what the handler does now".to_owned());
        return lines;
    };
    let mut differences = Differences { lines };
    differences.outcome(expect, found);
    differences.requests(&expect.request, &found.requests);
    differences.state(&expected_state(case, expect), &found.state);
    differences.followups(&expect.followup, &found.followups);
    if let (false, Some(stderr)) = (differences.lines.is_empty(), &found.stderr) {
        differences.lines.push(format!("the handler wrote:\n{}", stderr.trim_end()));
    }
    differences.lines
}

fn expected_state(case: &Case, expect: &Expect) -> BTreeMap<String, Vec<u8>> {
    let as_bytes =
        |state: &BTreeMap<String, Value>| state.iter().map(|(key, value)| (key.clone(), state_bytes(value))).collect();
    expect.state.as_ref().map_or_else(|| case.initial_state(), as_bytes)
}

struct Differences {
    lines: Vec<String>,
}

impl Differences {
    fn compare<T: PartialEq + Display>(&mut self, what: &str, expected: &T, found: &T) {
        if expected != found {
            self.lines.push(format!("{what}: expected {expected}, got {found}"));
        }
    }

    fn outcome(&mut self, expect: &Expect, found: &CaseOutcome) {
        let message = found.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        if expect.outcome != found.outcome {
            let why = if message.is_empty() { String::new() } else { format!(": {message}") };
            self.lines.push(format!("outcome: expected {}, got {}{why}", expect.outcome, found.outcome));
        }
        if let Some(code) = &expect.code {
            let found = found.failure.as_ref().map(|failure| failure.code.clone()).unwrap_or_default();
            self.compare("code", code, &found);
        }
        if let Some(expected) = &expect.message {
            self.compare("message", expected, &message);
        }
        if let Some(seconds) = expect.retry_after {
            let found = found.failure.as_ref().and_then(|failure| failure.retry_after);
            self.compare("retry_after", &seconds, &found.map_or(0, |wait| wait.as_secs()));
        }
        let result = Content { body: expect.result.clone(), json: expect.result_json.clone() };
        self.bytes("result", &result, found.result.as_deref().unwrap_or_default());
    }

    fn requests(&mut self, expected: &[ExpectedRequest], found: &[OutgoingRequest]) {
        for (number, pair) in zip_longest(expected, found) {
            let what = format!("request {number}");
            match pair {
                (Some(expected), Some(found)) => self.request(&what, expected, found),
                (Some(expected), None) => {
                    self.lines.push(format!("{what}: expected {} {}, got none", expected.method, expected.url));
                }
                (None, found) => {
                    let found = found.map(|found| format!("{} {}", found.method, found.url)).unwrap_or_default();
                    self.lines.push(format!("{what}: expected none, got {found}"));
                }
            }
        }
    }

    fn request(&mut self, what: &str, expected: &ExpectedRequest, found: &OutgoingRequest) {
        let line = |method: &str, url: &str| format!("{method} {url}");
        self.compare(what, &line(&expected.method, &expected.url), &line(&found.method, &found.url));
        for (name, value) in &expected.headers {
            let found = found.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
            let found = found.map_or("none", |(_, value)| value);
            self.compare(&format!("{what}, header {name}"), &value.as_str(), &found);
        }
        if let Some(key) = &expected.key {
            self.compare(&format!("{what}, key"), &key.as_str(), &found.key.as_deref().unwrap_or("none"));
        }
        self.bytes(&format!("{what}, body"), &expected.body, &found.body);
    }

    fn state(&mut self, expected: &BTreeMap<String, Vec<u8>>, found: &BTreeMap<String, Vec<u8>>) {
        let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        for key in keys {
            let value =
                |of: &BTreeMap<String, Vec<u8>>| of.get(key).map_or_else(|| "nothing".to_owned(), |v| displayed(v));
            self.compare(&format!("state {key}"), &value(expected), &value(found));
        }
    }

    fn followups(&mut self, expected: &[ExpectedFollowup], found: &[NewItem]) {
        for (number, pair) in zip_longest(expected, found) {
            let what = format!("follow-up {number}");
            match pair {
                (Some(expected), Some(found)) => self.followup(&what, expected, found),
                (expected, found) => {
                    let expected = expected.map_or("none", |expected| &expected.r#type);
                    let found = found.map_or("none", |found| &found.item_type);
                    self.lines.push(format!("{what}: expected {expected}, got {found}"));
                }
            }
        }
    }

    fn followup(&mut self, what: &str, expected: &ExpectedFollowup, found: &NewItem) {
        self.compare(what, &expected.r#type, &found.item_type);
        if let Some(key) = &expected.key {
            self.compare(&format!("{what}, key"), key, &found.idem_key);
        }
        let or_none = |key: &Option<String>| key.clone().unwrap_or_else(|| "none".to_owned());
        self.compare(&format!("{what}, ordering_key"), &or_none(&expected.ordering_key), &or_none(&found.ordering_key));
        self.compare(&format!("{what}, delay_ms"), &u128::from(expected.delay_ms), &found.delay.as_millis());
        self.bytes(&format!("{what}, payload"), &expected.payload, &found.payload);
    }

    /// Compares text byte for byte and JSON by value.
    fn bytes(&mut self, what: &str, expected: &Content, found: &[u8]) {
        let is_equal = match (&expected.body, &expected.json) {
            (None, Some(json)) => serde_json::from_slice::<Value>(found).is_ok_and(|found| found == *json),
            _ => expected.bytes().unwrap_or_default() == found,
        };
        if !is_equal {
            let expected = expected.bytes().unwrap_or_default();
            self.lines.push(format!("{what}:\n  expected {}\n  got      {}", displayed(&expected), displayed(found)));
        }
    }
}

fn zip_longest<'a, A, B>(a: &'a [A], b: &'a [B]) -> impl Iterator<Item = (usize, (Option<&'a A>, Option<&'a B>))> {
    (0..a.len().max(b.len())).map(|index| (index + 1, (a.get(index), b.get(index))))
}
