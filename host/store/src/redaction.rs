//! What of an item's payload is not shown to people who look at it: members that the operator names.
//!
//! The payload is stored as it is, because handlers need it. A named member is replaced in the payload and in the result,
//! and its value wherever the history repeats it. Who looks is not known here.

use std::fmt;
use std::str::FromStr;
use std::string::FromUtf8Error;

use serde_json::Value;

use outbox_core::{FailedAttempt, RecordedBody, RecordedExchange, RecordedResponse};

use crate::inspect::ItemDetails;

/// What is shown instead of a member.
const REDACTED: &str = "[redacted]";

/// The shortest value that is removed from the history, in characters. Shorter ones occur by chance.
const LENGTH_MIN: usize = 4;

/// The members of payloads that are not shown: `card.number, lines.*.note`. `*` stands for every member of an object and
/// every element of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    paths: Vec<Vec<String>>,
}

/// A text that names no members.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("paths of members with commas between them, such as card.number, lines.*.note")]
pub struct InvalidRedaction;

impl FromStr for Redaction {
    type Err = InvalidRedaction;

    fn from_str(text: &str) -> Result<Self, InvalidRedaction> {
        let path = |path: &str| {
            let names: Vec<_> = path.trim().split('.').map(str::to_owned).collect();
            if names.iter().any(String::is_empty) { Err(InvalidRedaction) } else { Ok(names) }
        };
        Ok(Self { paths: text.split(',').map(path).collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.paths.iter().map(|path| path.join(".")).collect();
        f.write_str(&paths.join(", "))
    }
}

impl Redaction {
    /// What may be shown of an attempt that is in no history, at an item with this payload.
    pub fn veil(&self, payload: &[u8]) -> Veil {
        let mut values = Vec::new();
        self.masked(payload.to_vec(), &mut values);
        Veil { redaction: self.clone(), hidden: HiddenValues::new(values) }
    }

    /// The item as it may be shown.
    pub fn shown(&self, mut details: ItemDetails) -> ItemDetails {
        if self.paths.is_empty() {
            return details;
        }
        let mut values = Vec::new();
        details.item.payload = self.masked(details.item.payload, &mut values);
        details.item.result = details.item.result.map(|result| self.masked(result, &mut values));
        let hidden = HiddenValues::new(values);
        details.item.result = details.item.result.map(|result| hidden.document(result));
        details.item.last_error = details.item.last_error.map(|error| hidden.text(&error));
        for attempt in &mut details.failed_attempts {
            hidden.attempt(attempt);
        }
        for entry in &mut details.audit {
            hidden.json(&mut entry.changes);
        }
        details
    }

    /// A document without the named members, whose values are added to `values`. What is not JSON stays as it is.
    fn masked(&self, document: Vec<u8>, values: &mut Vec<String>) -> Vec<u8> {
        let Ok(mut json) = serde_json::from_slice::<Value>(&document) else { return document };
        let masked = self.paths.iter().filter(|path| mask(&mut json, path, values)).count();
        if masked == 0 { document } else { json.to_string().into_bytes() }
    }
}

/// Replaces what the path leads to. Returns whether it leads anywhere.
fn mask(within: &mut Value, path: &[String], values: &mut Vec<String>) -> bool {
    let Some((name, rest)) = path.split_first() else {
        collect(within, values);
        *within = Value::from(REDACTED);
        return true;
    };
    let found: Vec<&mut Value> = match within {
        Value::Object(members) if name == "*" => members.values_mut().collect(),
        Value::Object(members) => members.get_mut(name).into_iter().collect(),
        Value::Array(elements) if name == "*" => elements.iter_mut().collect(),
        Value::Array(elements) => {
            name.parse().ok().and_then(|index: usize| elements.get_mut(index)).into_iter().collect()
        }
        _ => Vec::new(),
    };
    found.into_iter().fold(false, |any, member| mask(member, rest, values) | any)
}

/// Adds the texts and the numbers in a value.
fn collect(value: &Value, values: &mut Vec<String>) {
    let text = match value {
        Value::Array(elements) => return elements.iter().for_each(|element| collect(element, values)),
        Value::Object(members) => return members.values().for_each(|member| collect(member, values)),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() >= LENGTH_MIN && value.as_bool().is_none() && !value.is_null() {
        values.push(text);
    }
}

/// Hides in texts and results what is hidden in the payload of one item.
#[derive(Clone, Debug)]
pub struct Veil {
    redaction: Redaction,
    hidden: HiddenValues,
}

impl Veil {
    /// The text as it may be shown.
    pub fn text(&self, text: &str) -> String {
        self.hidden.text(text)
    }

    /// A payload or a stored value as it may be shown.
    pub fn json(&self, mut value: Value) -> Value {
        for path in &self.redaction.paths {
            mask(&mut value, path, &mut Vec::new());
        }
        self.hidden.json(&mut value);
        value
    }

    /// The result as it may be shown.
    pub fn result(&self, result: Vec<u8>) -> Vec<u8> {
        let mut values = Vec::new();
        let masked = self.redaction.masked(result, &mut values);
        self.hidden.document(masked)
    }
}

/// Values that are removed from texts.
#[derive(Clone, Debug)]
struct HiddenValues(Vec<String>);

impl HiddenValues {
    /// The values as they are, and as JSON in a text has them. The longest are removed first, so that no part of one stays.
    fn new(values: Vec<String>) -> Self {
        let mut values: Vec<_> =
            values.into_iter().flat_map(|value| [in_json(&value), in_ascii(&value), value]).collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self(values)
    }

    fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, value| text.replace(value, REDACTED))
    }

    /// The document without the values: JSON stays JSON.
    fn document(&self, bytes: Vec<u8>) -> Vec<u8> {
        let Ok(shown) = serde_json::from_slice::<Value>(&bytes) else { return self.bytes(bytes) };
        let mut hidden = shown.clone();
        self.json(&mut hidden);
        if hidden == shown { bytes } else { hidden.to_string().into_bytes() }
    }

    /// Bytes that are no text stay as they are: no person can read them.
    fn bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        String::from_utf8(bytes).map_or_else(FromUtf8Error::into_bytes, |text| self.text(&text).into_bytes())
    }

    fn attempt(&self, attempt: &mut FailedAttempt) {
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
        body.kept = self.bytes(std::mem::take(&mut body.kept));
    }

    fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(elements) => elements.iter_mut().for_each(|element| self.json(element)),
            Value::Object(members) => members.values_mut().for_each(|member| self.json(member)),
            Value::Number(number) if self.0.contains(&number.to_string()) => *value = Value::from(REDACTED),
            Value::Number(_) | Value::Bool(_) | Value::Null => {}
        }
    }
}

/// The text between the quotes of JSON.
fn in_json(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The same as those write it who escape all that is not ASCII.
fn in_ascii(text: &str) -> String {
    let escaped = |unit: u16| format!("\\u{unit:04x}");
    let of = |c: char| {
        if c.is_ascii() { c.to_string() } else { c.encode_utf16(&mut [0; 2]).iter().copied().map(escaped).collect() }
    };
    in_json(text).chars().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(rules: &str, document: &str) -> (String, Vec<String>) {
        let mut values = Vec::new();
        let masked = rules.parse::<Redaction>().unwrap().masked(document.into(), &mut values);
        (String::from_utf8(masked).unwrap(), values)
    }

    #[test]
    fn named_members_are_replaced_and_all_others_stay() {
        let order =
            r#"{"card":{"number":"4111 1111","cvc":123},"lines":[{"note":"for Ada"},{"sku":"A1"}],"total":17.50}"#;
        let (shown, values) = masked("card.number, lines.*.note", order);
        let expected =
            r#"{"card":{"cvc":123,"number":"[redacted]"},"lines":[{"note":"[redacted]"},{"sku":"A1"}],"total":17.5}"#;
        assert_eq!((shown.as_str(), values), (expected, vec!["4111 1111".to_owned(), "for Ada".to_owned()]));
        let (shown, values) = masked("card, lines.1", order);
        assert_eq!(shown, r#"{"card":"[redacted]","lines":[{"note":"for Ada"},"[redacted]"],"total":17.5}"#);
        assert_eq!(values, ["4111 1111"], "what is short is not searched for");
        assert_eq!(masked("nothing", order), (order.to_owned(), Vec::new()), "not a byte changes");
        assert_eq!(masked("*", "no json").0, "no json");
    }

    #[test]
    fn the_history_repeats_no_value_that_is_hidden() {
        let hidden = HiddenValues(vec!["4111 1111".into(), "for Ada".into()]);
        assert_eq!(hidden.text("card 4111 1111 of for Ada"), "card [redacted] of [redacted]");
        assert_eq!(hidden.bytes(vec![0xff, b'4']), [0xff, b'4']);
        let mut changes = serde_json::json!([{ "before": { "result": "for Ada" } }]);
        hidden.json(&mut changes);
        assert_eq!(changes[0]["before"]["result"], REDACTED);
    }

    #[test]
    fn an_attempt_that_is_in_no_history_repeats_no_value_that_is_hidden_either() {
        let rules: Redaction = "card".parse().unwrap();
        let veil = rules.veil(br#"{"card":"4111 1111"}"#);
        assert_eq!(veil.text("sent 4111 1111"), "sent [redacted]");
        assert_eq!(
            veil.result(br#"{"card":"77","of":"4111 1111"}"#.into()),
            br#"{"card":"[redacted]","of":"[redacted]"}"#
        );
        let escaped = rules.veil("{\"card\":[\"a \\\"b\\\" é\",12345]}".as_bytes());
        let result = escaped.result("{\"of\":\"a \\\"b\\\" é!\",\"n\":12345}".into());
        assert_eq!(String::from_utf8(result).unwrap(), r#"{"n":"[redacted]","of":"[redacted]!"}"#);
        assert_eq!(escaped.text(r#"cut off: {"of":"a \"b\" \u00e9","#), r#"cut off: {"of":"[redacted]","#);
        let followup = serde_json::json!({ "card": 77, "of": "4111 1111", "total": 5 });
        assert_eq!(veil.json(followup), serde_json::json!({ "card": REDACTED, "of": REDACTED, "total": 5 }));
    }

    #[test]
    fn paths_are_written_with_commas_and_have_no_empty_parts() {
        assert_eq!("a.b ,*.c".parse::<Redaction>().unwrap().to_string(), "a.b, *.c");
        for wrong in ["", "a..b", "a,", ".a"] {
            assert_eq!(wrong.parse::<Redaction>(), Err(InvalidRedaction), "{wrong}");
        }
    }
}
