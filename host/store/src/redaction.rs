//! What of an item's payload is not shown to people who look at it: members that the operator names.
//!
//! The payload is stored as it is, because handlers need it. A named member is replaced in the payload and in the result,
//! and its value wherever the history repeats it. Who looks is not known here.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use outbox_core::{FailedAttempt, RecordedBody, RecordedExchange, RecordedResponse, spellings};

use crate::content::MemberIs;
use crate::filter::Filter;
use crate::inspect::ItemDetails;
use crate::repeated_names::has_repeated_names;

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
    /// The condition of the filter that asks for what is hidden, if there is one: each answer would tell a part of it.
    pub fn hidden_condition(&self, filter: &Filter) -> Option<String> {
        let text = filter.text.is_some().then(|| "text".to_owned());
        let is_hidden = |condition: &&MemberIs| self.paths.iter().any(|path| meets(path, condition));
        let member = || filter.payload.iter().find(is_hidden).map(|condition| format!("payload={condition}"));
        text.filter(|_| !self.paths.is_empty()).or_else(member)
    }

    /// What may be shown of an attempt that is in no history, at an item with this payload.
    pub fn veil(&self, payload: &[u8]) -> Veil {
        let mut values = Vec::new();
        self.masked(payload.to_vec(), &mut values);
        Veil { redaction: self.clone(), hidden: HiddenValues::default().with(&values) }
    }

    /// The item as it may be shown.
    pub fn shown(&self, mut details: ItemDetails) -> ItemDetails {
        if self.paths.is_empty() {
            return details;
        }
        let mut values = Vec::new();
        details.item.payload = self.masked(details.item.payload, &mut values);
        if let Some(result) = &details.item.result {
            self.masked(result.clone(), &mut values);
        }
        let veil = Veil { redaction: self.clone(), hidden: HiddenValues::default().with(&values) };
        let hidden = &veil.hidden;
        details.item.result = details.item.result.map(|result| veil.result(result));
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
        if masked == 0 && !has_repeated_names(&document) { document } else { json.to_string().into_bytes() }
    }
}

/// Whether the member of the condition is hidden, is in something hidden, or contains it.
fn meets(path: &[String], condition: &MemberIs) -> bool {
    path.iter().zip(condition.names()).all(|(hidden, name)| hidden == "*" || hidden == name)
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
        let mut values = Vec::new();
        for path in &self.redaction.paths {
            mask(&mut value, path, &mut values);
        }
        let hidden = self.hidden.clone().with(&values);
        hidden.json(&mut value);
        hidden.names(&mut value);
        value
    }

    /// The result as it may be shown: JSON stays JSON, and not a byte changes where nothing is hidden.
    pub fn result(&self, result: Vec<u8>) -> Vec<u8> {
        let Ok(stored) = serde_json::from_slice::<Value>(&result) else { return self.hidden.bytes(&result) };
        let shown = self.json(stored.clone());
        if shown == stored && !has_repeated_names(&result) { result } else { shown.to_string().into_bytes() }
    }
}

/// Values that are removed from texts, in each way in which JSON, URLs and forms spell them.
#[derive(Clone, Debug, Default)]
struct HiddenValues(Vec<String>);

impl HiddenValues {
    /// These values and others. The longest are removed first, so that no part of one stays.
    fn with(mut self, values: &[String]) -> Self {
        self.0.extend(values.iter().flat_map(|value| spellings(value)));
        self.0.sort_by_key(|value| std::cmp::Reverse(value.len()));
        self
    }

    fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, value| text.replace(value, REDACTED))
    }

    /// Of bytes that are no text, every text among them.
    fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            if chunk.valid().len() < LENGTH_MIN {
                shown.extend_from_slice(chunk.valid().as_bytes());
            } else {
                shown.extend(self.text(chunk.valid()).into_bytes());
            }
            shown.extend_from_slice(chunk.invalid());
        }
        shown
    }

    /// The beginning of a body, which may end in the beginning of a value.
    fn beginning(&self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = self.bytes(bytes);
        let partial = |value: &String| {
            (LENGTH_MIN..value.len()).rev().find(|length| shown.ends_with(&value.as_bytes()[..*length]))
        };
        if let Some(partial) = self.0.iter().filter_map(partial).max() {
            shown.truncate(shown.len() - partial);
            shown.extend_from_slice(REDACTED.as_bytes());
        }
        shown
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
        body.kept = if body.is_whole() { self.bytes(&body.kept) } else { self.beginning(&body.kept) };
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

    /// Hides the values in the names of members. For what applications write: names that the host gives stay.
    fn names(&self, value: &mut Value) {
        match value {
            Value::Array(elements) => elements.iter_mut().for_each(|element| self.names(element)),
            Value::Object(members) => {
                members.values_mut().for_each(|member| self.names(member));
                let all = std::mem::take(members).into_iter();
                members.extend(all.map(|(name, member)| (self.text(&name), member)));
            }
            _ => {}
        }
    }
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

    fn hidden(values: &[&str]) -> HiddenValues {
        HiddenValues::default().with(&values.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_history_repeats_no_value_that_is_hidden() {
        let hidden = hidden(&["4111 1111", "for Ada"]);
        assert_eq!(hidden.text("card 4111 1111 of for Ada"), "card [redacted] of [redacted]");
        let mut changes = serde_json::json!([{ "before": { "result": "for Ada" } }]);
        hidden.json(&mut changes);
        assert_eq!(changes[0]["before"]["result"], REDACTED);
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
        let mut body = RecordedBody { sha256: Some("ab".into()), ..RecordedBody::whole("Bearer 4111 1") };
        hidden.message(&mut [], &mut body);
        assert_eq!(body.kept, b"Bearer [redacted]");
        let mut whole = RecordedBody::whole("room 4111");
        hidden.message(&mut [], &mut whole);
        assert_eq!(whole.kept, b"room 4111");
    }

    #[test]
    fn an_attempt_that_is_in_no_history_repeats_no_value_that_is_hidden_either() {
        let rules: Redaction = "card".parse().unwrap();
        let veil = rules.veil(br#"{"card":"4111 1111"}"#);
        assert_eq!(veil.text("sent 4111 1111"), "sent [redacted]");
        assert_eq!(
            veil.result(br#"{"card":"5500 77","of":"4111 1111 and 5500 77"}"#.into()),
            br#"{"card":"[redacted]","of":"[redacted] and [redacted]"}"#
        );
        let escaped = rules.veil("{\"card\":[\"a \\\"b\\\" é\",12345]}".as_bytes());
        let result = escaped.result("{\"of\":\"a \\\"b\\\" é!\",\"n\":12345}".into());
        assert_eq!(String::from_utf8(result).unwrap(), r#"{"n":"[redacted]","of":"[redacted]!"}"#);
        assert_eq!(escaped.text(r#"cut off: {"of":"a \"b\" \u00e9","#), r#"cut off: {"of":"[redacted]","#);
        let followup = serde_json::json!({ "card": 550_077, "of": "4111 1111, 550077", "total": 5 });
        let shown = serde_json::json!({ "card": REDACTED, "of": "[redacted], [redacted]", "total": 5 });
        assert_eq!(veil.json(followup), shown);
    }

    #[test]
    fn a_result_stays_json_and_repeats_no_hidden_value_as_a_name_or_under_a_repeated_one() {
        let veil = "card".parse::<Redaction>().unwrap().veil(br#"{"card":"4111 1111"}"#);
        let shown = |result: &str| String::from_utf8(veil.result(result.into())).unwrap();
        assert_eq!(shown(r#"{"of 4111 1111":{"4111 1111":1}}"#), r#"{"of [redacted]":{"[redacted]":1}}"#);
        assert_eq!(shown(r#"{"of":"4111 1111","of":"x"}"#), r#"{"of":"x"}"#);
        assert_eq!(
            shown(r#"{"of": 17.50, "n": 12345678901234567890123}"#),
            r#"{"of": 17.50, "n": 12345678901234567890123}"#
        );
        assert_eq!(shown(r#"{"of": "4111 1111""#), r#"{"of": "[redacted]""#, "it is no JSON");
        let (payload, values) = masked("a.card", r#"{"a":{"card":"4111 1111"},"a":{}}"#);
        assert_eq!((payload.as_str(), values.len()), (r#"{"a":{}}"#, 0));
    }

    #[test]
    fn a_filter_asks_for_nothing_that_is_hidden() {
        let rules: Redaction = "card.number, lines.*.note".parse().unwrap();
        let with = |condition: &str| Filter { payload: vec![condition.parse().unwrap()], ..Filter::default() };
        for hidden in ["card.number=4", "$.card.number=4", "card={}", "card.number.first=4", "lines.0.note=x"] {
            assert_eq!(rules.hidden_condition(&with(hidden)), Some(format!("payload={hidden}")));
        }
        for shown in ["order=17", "card.kind=visa", "lines.0.sku=A1"] {
            assert_eq!(rules.hidden_condition(&with(shown)), None, "{shown}");
        }
        let text = Filter { text: Some("4111".into()), ..Filter::default() };
        assert_eq!(rules.hidden_condition(&text).as_deref(), Some("text"));
        let nothing = Redaction::default();
        assert_eq!((nothing.hidden_condition(&text), nothing.hidden_condition(&with("card.number=4"))), (None, None));
    }

    #[test]
    fn paths_are_written_with_commas_and_have_no_empty_parts() {
        assert_eq!("a.b ,*.c".parse::<Redaction>().unwrap().to_string(), "a.b, *.c");
        for wrong in ["", "a..b", "a,", ".a"] {
            assert_eq!(wrong.parse::<Redaction>(), Err(InvalidRedaction), "{wrong}");
        }
    }
}
