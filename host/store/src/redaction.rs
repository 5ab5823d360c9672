//! What of an item's payload is not shown to people who look at it: members that the operator names.
//!
//! The payload is stored as it is, because handlers need it. A named member is replaced in the payload and in the result,
//! and its value wherever the history repeats it. All other bytes stay. Who looks is not known here.

mod document;
mod hidden_values;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::content::MemberIs;
use crate::filter::Filter;
use crate::inspect::ItemDetails;
use crate::redaction::document::{PartKind, has_half_character, json_text};
use crate::redaction::hidden_values::{HiddenValues, REDACTED, usual_number};

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
        details.item.result = details.item.result.map(|result| self.masked(result, &mut values));
        let hidden = HiddenValues::default().with(&values);
        details.item.result = details.item.result.map(|result| in_result(&hidden, &result));
        details.item.last_error = details.item.last_error.map(|error| hidden.text(&error));
        for attempt in &mut details.failed_attempts {
            hidden.attempt(attempt);
        }
        for entry in &mut details.audit {
            hidden.changes(&mut entry.changes);
        }
        details
    }

    /// A document without the named members, whose values are added to `values`. What is not JSON stays as it is.
    fn masked(&self, document: Vec<u8>, values: &mut Vec<String>) -> Vec<u8> {
        let Some(json) = json_text(&document) else { return document };
        let places = document::places(json, &self.paths);
        if places.is_empty() {
            return document;
        }
        for place in &places {
            collect(&json[place.clone()], values);
        }
        let mark = Value::from(REDACTED).to_string();
        document::with_replaced(json, places.into_iter().map(|place| (place, mark.as_str()))).into_bytes()
    }
}

/// Whether the member of the condition is hidden, is in something hidden, or contains it.
fn meets(path: &[String], condition: &MemberIs) -> bool {
    path.iter().zip(condition.names()).all(|(hidden, name)| hidden == "*" || hidden == name)
}

/// Adds the texts and the numbers in a hidden value. Of a text with half of a character, it adds what is around the half,
/// because nothing can spell the whole.
fn collect(json: &str, values: &mut Vec<String>) {
    for (kind, place) in document::parts(json) {
        let part = &json[place];
        match kind {
            PartKind::Name => {}
            PartKind::Number => values.extend([part.to_owned()].into_iter().chain(usual_number(part))),
            PartKind::Text if has_half_character(part) => {
                values.extend(document::decoded(part).split('\u{fffd}').map(str::to_owned));
            }
            PartKind::Text => values.push(document::decoded(part)),
        }
    }
}

/// The result without the hidden values: JSON stays JSON, and only what is hidden changes.
fn in_result(hidden: &HiddenValues, result: &[u8]) -> Vec<u8> {
    match json_text(result) {
        Some(json) => hidden.document(json).into_bytes(),
        None => hidden.bytes(result),
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

    /// A payload or a stored value as it may be shown. A text of base64 may stand for bytes, also for JSON that no [`Value`]
    /// can hold; the bytes are hidden then.
    pub fn json(&self, value: Value) -> Value {
        let bytes = value.as_str().and_then(|text| BASE64.decode(text).ok()).unwrap_or_default();
        let shown = self.result(bytes.clone());
        if shown != bytes {
            return Value::from(BASE64.encode(shown));
        }
        let json = value.to_string();
        let shown = self.result(json.clone().into_bytes());
        if shown == json.as_bytes() {
            return value;
        }
        serde_json::from_slice(&shown).unwrap_or_else(|_| Value::from(REDACTED))
    }

    /// The result as it may be shown: JSON stays JSON, and only what is hidden changes.
    pub fn result(&self, result: Vec<u8>) -> Vec<u8> {
        let mut values = Vec::new();
        let masked = self.redaction.masked(result, &mut values);
        if values.is_empty() {
            return in_result(&self.hidden, &masked);
        }
        in_result(&self.hidden.clone().with(&values), &masked)
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
            r#"{"card":{"number":"[redacted]","cvc":123},"lines":[{"note":"[redacted]"},{"sku":"A1"}],"total":17.50}"#;
        assert_eq!((shown.as_str(), values), (expected, vec!["4111 1111".to_owned(), "for Ada".to_owned()]));
        let (shown, _) = masked("card, lines.1, card.number", order);
        assert_eq!(shown, r#"{"card":"[redacted]","lines":[{"note":"for Ada"},"[redacted]"],"total":17.50}"#);
        assert_eq!(masked("nothing", order), (order.to_owned(), Vec::new()), "not a byte changes");
        assert_eq!(masked("*", "no json").0, "no json");
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
        assert_eq!(String::from_utf8(result).unwrap(), r#"{"of":"[redacted]!","n":"[redacted]"}"#);
        assert_eq!(escaped.text(r#"cut off: {"of":"a \"b\" \u00e9","#), r#"cut off: {"of":"[redacted]","#);
        let followup = serde_json::json!({ "card": 550_077, "of": "4111 1111, 550077", "total": 5 });
        let shown = serde_json::json!({ "card": REDACTED, "of": "[redacted], [redacted]", "total": 5 });
        assert_eq!(veil.json(followup), shown);
        let beyond = |card: &str| Value::from(BASE64.encode(format!(r#"{{"card":"{card}","n":1e400}}"#)));
        assert_eq!(veil.json(beyond("5500 77")), beyond(REDACTED));
    }

    #[test]
    fn a_result_stays_json_and_repeats_no_hidden_value_as_a_name_or_under_a_repeated_one() {
        let veil = "card".parse::<Redaction>().unwrap().veil(br#"{"card":"4111 1111"}"#);
        let shown = |result: &str| String::from_utf8(veil.result(result.into())).unwrap();
        assert_eq!(shown(r#"{"of 4111 1111":{"4111 1111":1}}"#), r#"{"of [redacted]":{"[redacted]":1}}"#);
        assert_eq!(shown(r#"{"of":"4111 1111","of":"x"}"#), r#"{"of":"[redacted]","of":"x"}"#);
        assert_eq!(
            shown(r#"{"of": 17.50, "n": 12345678901234567890123}"#),
            r#"{"of": 17.50, "n": 12345678901234567890123}"#
        );
        assert_eq!(shown(r#"{"of": "4111 1111""#), r#"{"of": "[redacted]""#, "it is no JSON");
    }

    #[test]
    fn of_a_repeated_name_every_value_is_hidden_everywhere() {
        let (payload, values) = masked("a.card", r#"{"a":{"card":"4111 1111","card":"5500 77"},"a":{"card":1}}"#);
        let expected = r#"{"a":{"card":"[redacted]","card":"[redacted]"},"a":{"card":"[redacted]"}}"#;
        assert_eq!((payload.as_str(), &values[..2]), (expected, &["4111 1111".to_owned(), "5500 77".to_owned()][..]));
    }

    #[test]
    fn documents_that_are_beyond_usual_parsers_hide_their_members_and_keep_the_rest() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for rest in [r#""n":1e400"#, r#""note":"\ud83d""#, &format!(r#""x":{deep}"#), r#""n":12345678901234567890123"#]
        {
            let payload = |card: &str| format!(r#"{{"z":1.50,"card":"{card}", {rest}}}"#);
            let (shown, values) = masked("card", &payload("4111 1111"));
            assert!(shown == payload(REDACTED) && values == ["4111 1111"], "{}", &shown[..shown.len().min(80)]);
            let veil = "card".parse::<Redaction>().unwrap().veil(payload("4111 1111").as_bytes());
            let result = veil.result(format!(r#"{{"of":"4111 1111","card":"5500 77","t":"5500 77", {rest}}}"#).into());
            let expected = format!(r#"{{"of":"{REDACTED}","card":"{REDACTED}","t":"{REDACTED}", {rest}}}"#);
            assert!(result == expected.as_bytes(), "{rest:.80}");
        }
    }

    #[test]
    fn a_hidden_number_and_a_text_with_half_of_a_character_are_hidden_however_they_are_repeated() {
        let payload = r#"{"card":[12345678901234567890123,17.50,1e400,"4111 1111\ud83d \ude00 for Ada","41\ud83d"]}"#;
        let veil = "card".parse::<Redaction>().unwrap().veil(payload.as_bytes());
        let result = r#"{"a":12345678901234567890123,"b":17.5,"c":[17.50,1e400,1.2345678901234568e22],"d":18}"#;
        let shown = String::from_utf8(veil.result(result.into())).unwrap();
        let r = r#""[redacted]""#;
        assert_eq!(shown, format!(r#"{{"a":{r},"b":{r},"c":[{r},{r},{r}],"d":18}}"#));
        for told in ["sent 4111 1111\u{fffd}", r"sent 4111 1111\ud83d", "12345678901234567890123", "of for Ada"] {
            let shown = veil.text(told);
            assert!(shown.contains(REDACTED) && !shown.contains("1111") && !shown.contains("Ada"), "{shown}");
        }
        let shown = String::from_utf8(veil.result(br#""4111 1111\ud83d""#.to_vec())).unwrap();
        assert!(shown.starts_with("\"[redacted]"), "{shown}");
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
