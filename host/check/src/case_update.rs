//! Writes what a handler did into its case file, as what the case expects from then on.
//!
//! The tables of `[expect]` are the last ones of a case file. An update replaces the end of the file from the first of
//! them and keeps the text before it byte for byte.

use std::fmt::Write as _;

use anyhow::Context as _;

use outbox_item::NewItem;

use crate::case::Case;
use crate::case_run::CaseOutcome;

/// Replaces the expectation in the case file.
pub(crate) fn update_case(case: &Case, outcome: &CaseOutcome) -> anyhow::Result<()> {
    let file = &case.file;
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let text = format!("{}\n\n{}", before_expectation(&text).trim_end(), expectation(case, outcome));
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// The text up to the first table of the expectation.
fn before_expectation(text: &str) -> &str {
    let is_expectation = |line: &str| line.starts_with("[expect") || line.starts_with("[[expect");
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if is_expectation(line) {
            return &text[..start];
        }
        start += line.len();
    }
    text
}

fn expectation(case: &Case, outcome: &CaseOutcome) -> String {
    let mut toml = format!("[expect]\noutcome = {}\n", quoted(outcome.outcome));
    write_answer(&mut toml, outcome);
    for request in &outcome.requests {
        let (method, url) = (quoted(&request.method), quoted(&request.url));
        write!(toml, "\n[[expect.request]]\nmethod = {method}\nurl = {url}\n").ok();
        line(&mut toml, "body", &request.body);
    }
    if outcome.state != case.initial_state() {
        toml.push_str("\n[expect.state]\n");
        for (key, value) in &outcome.state {
            writeln!(toml, "{} = {}", quoted(key), quoted(&String::from_utf8_lossy(value))).ok();
        }
    }
    outcome.followups.iter().for_each(|item| write_followup(&mut toml, item));
    toml
}

fn write_answer(toml: &mut String, outcome: &CaseOutcome) {
    if let Some(failure) = &outcome.failure {
        line(toml, "code", failure.code.as_bytes());
    }
    if let Some(wait) = outcome.failure.as_ref().and_then(|failure| failure.retry_after) {
        writeln!(toml, "retry_after = {}", wait.as_secs()).ok();
    }
    if let Some(result) = &outcome.result {
        line(toml, "result", result);
    }
}

fn write_followup(toml: &mut String, item: &NewItem) {
    write!(toml, "\n[[expect.followup]]\ntype = {}\n", quoted(&item.item_type)).ok();
    line(toml, "payload", &item.payload);
    if let Some(key) = &item.ordering_key {
        line(toml, "ordering_key", key.as_bytes());
    }
    if !item.delay.is_zero() {
        writeln!(toml, "delay_ms = {}", item.delay.as_millis()).ok();
    }
}

fn line(toml: &mut String, key: &str, value: &[u8]) {
    if !value.is_empty() {
        writeln!(toml, "{key} = {}", quoted(&String::from_utf8_lossy(value))).ok();
    }
}

/// A TOML string: a literal one where possible, else a basic one with escapes.
fn quoted(text: &str) -> String {
    if text.contains(|c: char| c == '\'' || c.is_control()) {
        let escaped = serde_json::Value::from(text).to_string();
        return escaped.replace('\u{7f}', "\\u007f");
    }
    format!("'{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_string_holds_it_is_read_as_it_was_written() {
        for text in ["", "plain", "it's", "two\nlines", "\u{7f}\u{0}\t", "{\"a\": 'b'}", "ü\\"] {
            let table: toml::Table = format!("a = {}", quoted(text)).parse().unwrap();
            assert_eq!(table["a"].as_str(), Some(text));
        }
    }

    #[test]
    fn only_the_expectation_is_replaced() {
        assert_eq!(before_expectation("[item]\na = 1\n[[expect.request]]\nb = 2\n"), "[item]\na = 1\n");
        assert_eq!(before_expectation("[item]\na = '[expect]'\n"), "[item]\na = '[expect]'\n");
    }
}
