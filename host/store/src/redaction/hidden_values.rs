//! The values that one item hides, wherever texts, bodies and documents repeat them.
//!
//! A text is read once, however many values there are. Which values are hidden is not decided here.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::{Number, Value};

use outbox_core::{FailedAttempt, RecordedBody, RecordedExchange, RecordedResponse, spellings};

use crate::redaction::document::{self, PartKind};

/// What is shown instead of a member or a value.
pub(super) const REDACTED: &str = "[redacted]";

/// The shortest value that is removed from the history, in characters. Shorter ones occur by chance.
const LENGTH_MIN: usize = 4;

/// The bytes with which a value begins. No value is shorter.
type Beginning = [u8; LENGTH_MIN];

/// Values that are removed from texts, in each way in which JSON, URLs and forms spell them.
#[derive(Clone, Debug, Default)]
pub(super) struct HiddenValues {
    /// Each spelling once, sorted.
    spellings: Vec<String>,
    beginnings: HashSet<Beginning>,
}

impl HiddenValues {
    /// These values and others. Shorter ones than are searched for are left out.
    pub(super) fn with(mut self, values: &[String]) -> Self {
        let values: HashSet<_> = values.iter().filter(|value| value.chars().count() >= LENGTH_MIN).collect();
        if values.is_empty() {
            return self;
        }
        self.spellings.extend(values.into_iter().flat_map(|value| spellings(value)));
        self.spellings.sort_unstable();
        self.spellings.dedup();
        self.beginnings = self.spellings.iter().filter_map(|value| beginning_of(value.as_bytes())).collect();
        self
    }

    /// The text with one mark for each value, and for values that overlap.
    pub(super) fn text(&self, text: &str) -> String {
        let (mut shown, mut end) = (String::with_capacity(text.len()), 0);
        for (at, c) in text.char_indices() {
            if let Some(length) = self.longest_at(&text.as_bytes()[at..]) {
                if at >= end {
                    shown.push_str(REDACTED);
                }
                end = end.max(at + length);
            }
            if at >= end {
                shown.push(c);
            }
        }
        shown
    }

    /// The length of the longest value with which a text begins.
    fn longest_at(&self, text: &[u8]) -> Option<usize> {
        self.beginnings.get(&beginning_of(text)?)?;
        let mut text = text;
        loop {
            // Of the values that are sorted before the text, the last has the most in common with it.
            let after = self.spellings.partition_point(|value| value.as_bytes() <= text);
            let value = self.spellings[..after].last()?.as_bytes();
            let common = value.iter().zip(text).take_while(|(a, b)| a == b).count();
            if common == value.len() {
                return Some(common);
            }
            text = &text[..common];
        }
    }

    /// Of bytes that are no text, every text among them.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            shown.extend(self.text(chunk.valid()).into_bytes());
            shown.extend_from_slice(chunk.invalid());
        }
        shown
    }

    /// The beginning of a body, which may end in the beginning of a value.
    fn beginning(&self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = self.bytes(bytes);
        let last = shown.len().saturating_sub(LENGTH_MIN);
        if let Some(end) = (0..=last).find(|at| self.has_beginning(&shown[*at..])) {
            shown.truncate(end);
            shown.extend_from_slice(REDACTED.as_bytes());
        }
        shown
    }

    /// Whether a value begins with these bytes.
    fn has_beginning(&self, bytes: &[u8]) -> bool {
        let is_known = beginning_of(bytes).is_some_and(|beginning| self.beginnings.contains(&beginning));
        let at = self.spellings.partition_point(|value| value.as_bytes() < bytes);
        is_known && self.spellings.get(at).is_some_and(|value| value.as_bytes().starts_with(bytes))
    }

    /// Hides the values in all that an attempt has left.
    pub(super) fn attempt(&self, attempt: &mut FailedAttempt) {
        attempt.message = self.text(&attempt.message);
        attempt.stderr = attempt.stderr.as_ref().map(|stderr| self.text(stderr));
        for RecordedExchange { url, headers, body, answer, .. } in &mut attempt.recording.exchanges {
            *url = self.text(url);
            self.message(headers, body);
            if let Some(RecordedResponse::Response { headers, body, .. }) = answer {
                self.message(headers, body);
            }
        }
    }

    fn message(&self, headers: &mut [(String, String)], body: &mut RecordedBody) {
        for (_, value) in headers {
            *value = self.text(value);
        }
        body.kept = if body.is_whole() { self.bytes(&body.kept) } else { self.beginning(&body.kept) };
    }

    /// Hides the values in the strings and the numbers of what the host writes. Names stay: the host gives them.
    pub(super) fn changes(&self, changes: &mut Value) {
        let json = changes.to_string();
        let pieces = document::parts(&json).filter(|(kind, _)| *kind != PartKind::Name);
        let shown = self.replaced(&json, pieces);
        if shown != json {
            *changes = serde_json::from_str(&shown).unwrap_or_else(|_| Value::from(REDACTED));
        }
    }

    /// Hides the values in the strings, the numbers and the names of a document that an application writes.
    pub(super) fn document(&self, json: &str) -> String {
        self.replaced(json, document::parts(json))
    }

    fn replaced(&self, json: &str, parts: impl Iterator<Item = (PartKind, Range<usize>)>) -> String {
        let mut names = ShownNames::default();
        let pieces =
            parts.filter_map(|(kind, place)| Some((place.clone(), self.piece(kind, &json[place], &mut names)?)));
        document::with_replaced(json, pieces)
    }

    /// What is shown instead of a part; `None` where nothing is hidden.
    fn piece(&self, kind: PartKind, part: &str, names: &mut ShownNames) -> Option<String> {
        if kind == PartKind::Number {
            return self.has_number(part).then(|| Value::from(REDACTED).to_string());
        }
        let text = document::decoded(part);
        let shown = Some(self.text(&text)).filter(|shown| *shown != text)?;
        Some(Value::from(if kind == PartKind::Name { names.of(text, shown) } else { shown }).to_string())
    }

    fn has_number(&self, number: &str) -> bool {
        let has = |number: &str| self.spellings.binary_search_by(|value| value.as_str().cmp(number)).is_ok();
        has(number) || usual_number(number).is_some_and(|number| has(&number))
    }
}

fn beginning_of(text: &[u8]) -> Option<Beginning> {
    text.first_chunk().copied()
}

/// The number as programs write it that read it as a double; `None` where they cannot.
pub(super) fn usual_number(number: &str) -> Option<String> {
    Some(serde_json::from_str::<Number>(number).ok()?.to_string())
}

/// The names of a document in which something is hidden. Those that would become equal have numbers, so that no member
/// takes the place of another.
#[derive(Default)]
struct ShownNames {
    names: HashMap<String, String>,
    equal: HashMap<String, usize>,
}

impl ShownNames {
    fn of(&mut self, name: String, shown: String) -> String {
        let equal = &mut self.equal;
        let numbered = || {
            let number = equal.entry(shown.clone()).or_default();
            *number += 1;
            if *number == 1 { shown } else { format!("{shown} ({number})") }
        };
        self.names.entry(name).or_insert_with(numbered).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(values: &[&str]) -> HiddenValues {
        HiddenValues::default().with(&values.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_history_repeats_no_value_that_is_hidden() {
        let hidden = hidden(&["4111 1111", "for Ada"]);
        assert_eq!(hidden.text("card 4111 1111 of for Ada"), "card [redacted] of [redacted]");
        let mut changes = serde_json::json!([{ "before": { "result": "for Ada", "for Ada": 1 } }]);
        hidden.changes(&mut changes);
        assert_eq!(changes, serde_json::json!([{ "before": { "result": REDACTED, "for Ada": 1 } }]));
    }

    #[test]
    fn of_values_that_begin_alike_or_overlap_nothing_stays() {
        let hidden = hidden(&["4111", "4111 1111", "4111 2", "1111 22", "Ada Ü"]);
        for (told, shown) in [
            ("4111 1111!", "[redacted]!"),
            ("4111 1112", "[redacted] 1112"),
            ("4111 1111 22.", "[redacted]."),
            ("41114111", "[redacted][redacted]"),
            ("411", "411"),
            ("Ada Ö", "Ada Ö"),
            ("Ada Ü4111 2", "[redacted][redacted]"),
        ] {
            assert_eq!(hidden.text(told), shown, "{told}");
        }
        assert_eq!(HiddenValues::default().text("4111"), "4111");
    }

    #[test]
    fn the_time_that_a_text_needs_does_not_grow_with_the_number_of_values() {
        let values: Vec<_> = (0..20_000).map(|number| format!("note {number}")).collect();
        let (hidden, result) = (HiddenValues::default().with(&values), serde_json::json!(values).to_string());
        let begun = std::time::Instant::now();
        let shown = hidden.document(&result);
        // One search for each value would take minutes.
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(shown, serde_json::json!(vec![REDACTED; 20_000]).to_string());
    }

    #[test]
    fn a_value_is_hidden_however_a_request_spells_it() {
        let address = hidden(&["Große Str. 1\nUlm", "4111 1111"]);
        for sent in [
            "Große Str. 1\nUlm",
            r#"{"to":"Große Str. 1\nUlm"}"#,
            r#"{"to": "Gro\u00dfe Str. 1\nUlm"}"#,
            "/?to=Gro%C3%9Fe%20Str.%201%0AUlm&card=4111%201111",
            "to=Gro%C3%9Fe+Str.+1%0AUlm&card=4111+1111",
        ] {
            let shown = address.text(sent);
            assert!(shown.contains(REDACTED) && !shown.contains("Ulm") && !shown.contains("4111"), "{shown}");
        }
    }

    #[test]
    fn a_value_is_hidden_also_beside_bytes_that_are_no_text_and_where_a_body_was_cut() {
        let hidden = hidden(&["4111 1111"]);
        assert_eq!(hidden.bytes(b"\xff\xd8 4111 1111\x80 4"), b"\xff\xd8 [redacted]\x80 4");
        assert_eq!(hidden.beginning(b"card=4111 11"), b"card=[redacted]");
        assert_eq!(hidden.beginning(b"card=4111%20"), b"card=[redacted]");
        assert_eq!((hidden.beginning(b"411"), hidden.beginning(b"4111 2")), (b"411".to_vec(), b"4111 2".to_vec()));
        let mut body = RecordedBody { sha256: Some("ab".into()), ..RecordedBody::whole("Bearer 4111 1") };
        hidden.message(&mut [], &mut body);
        assert_eq!(body.kept, b"Bearer [redacted]");
        let mut whole = RecordedBody::whole("room 4111");
        hidden.message(&mut [], &mut whole);
        assert_eq!(whole.kept, b"room 4111");
    }

    #[test]
    fn names_that_become_equal_stay_different() {
        let hidden = hidden(&["4111 1", "4222 2"]);
        assert_eq!(
            hidden.document(r#"{"4111 1":{"4111 1":1},"4222 2":2,"x":3}"#),
            r#"{"[redacted]":{"[redacted]":1},"[redacted] (2)":2,"x":3}"#
        );
    }
}
