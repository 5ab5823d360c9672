//! The filters of lists: as the address has them, as a form shows them, and as a command repeats them.
//!
//! The names in the address are those of the JSON interface (`query.rs`), and `last` besides: items that were enqueued
//! since so long ago.

use std::time::Duration;

use outbox_item::{ItemId, Millis, Status};
use outbox_store::{Filter, Page};

use crate::glance::Glance;
use crate::page::words::status_class;
use crate::problem::ApiError;
use crate::query::filter_and_page;

/// The spans that `last` can name.
const SPANS: [(&str, &str, Duration); 4] = [
    ("15m", "last 15 minutes", Duration::from_mins(15)),
    ("1h", "last hour", Duration::from_hours(1)),
    ("24h", "last 24 hours", Duration::from_hours(24)),
    ("7d", "last 7 days", Duration::from_hours(24 * 7)),
];

/// The parameters that the form has fields for. Others stay as they are, in hidden fields.
const SHOWN: [&str; 11] =
    ["status", "type", "saga", "cid", "key_prefix", "text", "error", "payload", "headers", "metadata", "last"];

/// What the address of a list asks for.
pub(super) struct Asked {
    pub(super) filter: Filter,
    pub(super) page: Page,
    /// The parameters as they were given, without empty ones and without those of the page.
    given: Vec<(String, String)>,
}

impl Asked {
    /// Reads the parameters of an address. `now` is the store's time.
    pub(super) fn read(parameters: Vec<(String, String)>, now: Millis) -> Result<Self, ApiError> {
        let given = parameters.into_iter().map(|(name, value)| (name, value.trim().to_owned()));
        let given: Vec<_> = given.filter(|(_, value)| !value.is_empty()).collect();
        let (last, known): (Vec<_>, Vec<_>) = given.iter().cloned().partition(|(name, _)| name == "last");
        let (mut filter, page) = filter_and_page(known)?;
        for (_, word) in last {
            filter.created_from = Some(now.saturating_sub(span_of(&word)?));
        }
        let of_page = |name: &str| matches!(name, "limit" | "before");
        let given = given.into_iter().filter(|(name, _)| !of_page(name)).collect();
        Ok(Self { filter, page, given })
    }

    /// Whether many items are read to find those that match. Such a view does not read itself again.
    pub(super) fn costs_much(&self) -> bool {
        self.filter.reads_content() || self.filter.error.is_some() || self.filter.key_prefix.is_some()
    }

    /// The parameters as the query of an address.
    pub(super) fn query(&self) -> String {
        serde_urlencoded::to_string(&self.given).unwrap_or_default()
    }

    /// The query of the page after the one that ends with this item.
    pub(super) fn address_before(&self, last: ItemId) -> String {
        let mut parameters = self.given.clone();
        parameters.push(("before".to_owned(), last.to_string()));
        if self.page.limit != 100 {
            parameters.push(("limit".to_owned(), self.page.limit.to_string()));
        }
        serde_urlencoded::to_string(parameters).unwrap_or_default()
    }

    /// A command that lists, or acts on, the same items.
    pub(super) fn command(&self, verb: &str) -> String {
        let mut words = vec!["outbox".to_owned(), verb.to_owned()];
        for (name, value) in &self.given {
            let flag = match name.as_str() {
                "status" if verb == "list" => {
                    words.push(quoted(value));
                    continue;
                }
                "last" => {
                    words.extend(["--since".to_owned(), quoted(value)]);
                    continue;
                }
                "idem_key" => "key",
                "headers" => "header",
                "created_from" => "since",
                "created_to" => "until",
                "finished_from" => "finished-since",
                "finished_to" => "finished-until",
                "available_from" => "available-since",
                "available_to" => "available-until",
                other => other,
            };
            words.extend([format!("--{}", flag.replace('_', "-")), quoted(value)]);
        }
        words.join(" ")
    }

    fn value(&self, name: &str) -> String {
        let mut values = self.given.iter().filter(|(known, _)| known == name);
        values.next().map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

fn span_of(word: &str) -> Result<Duration, ApiError> {
    let known = SPANS.iter().find(|(known, ..)| *known == word).map(|(_, _, span)| *span);
    known.ok_or_else(|| ApiError::Invalid(format!("last is {word:?}: it must be 15m, 1h, 24h or 7d")))
}

/// A word of a command line, in quotes where the shell needs them.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@,+".contains(&byte);
    if word.bytes().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// The form above a list.
pub(super) struct FilterForm {
    pub(super) statuses: Vec<StatusChoice>,
    pub(super) types: Vec<String>,
    pub(super) sagas: Vec<String>,
    pub(super) r#type: String,
    pub(super) saga: String,
    pub(super) cid: String,
    pub(super) key_prefix: String,
    pub(super) text: String,
    pub(super) error: String,
    pub(super) payload: String,
    pub(super) headers: String,
    pub(super) metadata: String,
    pub(super) spans: Vec<SpanChoice>,
    /// What the form has no fields for, or more values than fields.
    pub(super) others: Vec<(String, String)>,
    pub(super) is_filtered: bool,
    pub(super) is_detailed: bool,
}

/// A status that can be ticked.
pub(super) struct StatusChoice {
    pub(super) word: &'static str,
    pub(super) class: &'static str,
    pub(super) is_chosen: bool,
}

/// A span of time that can be chosen.
pub(super) struct SpanChoice {
    pub(super) word: &'static str,
    pub(super) text: &'static str,
    pub(super) is_chosen: bool,
}

impl FilterForm {
    /// The form for what was asked, with the types and sagas that are known.
    pub(super) fn of(asked: &Asked, glance: &Glance) -> Self {
        let value = |name| asked.value(name);
        let chosen = &asked.filter.status;
        let status = |status: Status| StatusChoice {
            word: status.as_str(),
            class: status_class(status),
            is_chosen: chosen.contains(&status),
        };
        let span = |(word, text, _): (&'static str, &'static str, Duration)| SpanChoice {
            word,
            text,
            is_chosen: value("last") == word,
        };
        let details = ["cid", "error", "payload", "headers", "metadata"];
        Self {
            statuses: Status::ALL.map(status).into(),
            types: glance.overview.by_type.keys().cloned().collect(),
            sagas: glance.overview.sagas.keys().cloned().collect(),
            r#type: value("type"),
            saga: value("saga"),
            cid: value("cid"),
            key_prefix: value("key_prefix"),
            text: value("text"),
            error: value("error"),
            payload: value("payload"),
            headers: value("headers"),
            metadata: value("metadata"),
            spans: SPANS.map(span).into(),
            others: others(asked),
            is_filtered: !asked.given.is_empty(),
            is_detailed: asked.given.iter().any(|(name, _)| details.contains(&name.as_str())),
        }
    }
}

/// The values that no field of the form shows: of other parameters, and further conditions on content.
fn others(asked: &Asked) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    let is_other = |(name, _): &&(String, String)| {
        let is_first = !seen.contains(name);
        seen.push(name.clone());
        !SHOWN.contains(&name.as_str()) || (name != "status" && !is_first)
    };
    asked.given.iter().filter(is_other).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis::new(1_800_000_000_000);

    fn asked(pairs: &[(&str, &str)]) -> Asked {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Asked::read(pairs, NOW).unwrap()
    }

    #[test]
    fn empty_fields_of_a_form_restrict_nothing() {
        let asked = asked(&[("type", ""), ("saga", " "), ("status", "DLQ"), ("limit", "7")]);
        assert_eq!(asked.filter, Filter { status: vec![Status::Dlq], ..Filter::default() });
        assert_eq!((asked.page.limit, asked.query().as_str()), (7, "status=DLQ"));
        assert_eq!(asked.address_before(ItemId::new(9)), "status=DLQ&before=9&limit=7");
    }

    #[test]
    fn a_span_is_a_time_of_enqueueing() {
        let asked = asked(&[("last", "1h")]);
        assert_eq!(asked.filter.created_from, Some(Millis::new(1_800_000_000_000 - 3_600_000)));
        let wrong = Asked::read(vec![("last".into(), "1y".into())], NOW).err().unwrap().to_string();
        assert!(wrong.contains("15m, 1h, 24h or 7d"), "{wrong}");
    }

    #[test]
    fn the_command_finds_the_same_items() {
        let asked = asked(&[("status", "DLQ"), ("type", "mail"), ("key_prefix", "order 1"), ("payload", "a=it's")]);
        assert_eq!(asked.command("list"), r"outbox list DLQ --type mail --key-prefix 'order 1' --payload 'a=it'\''s'");
    }

    #[test]
    fn what_no_field_shows_stays_in_the_form() {
        let asked = asked(&[
            ("status", "DLQ"),
            ("status", "DONE"),
            ("payload", "a=1"),
            ("payload", "b=2"),
            ("fingerprint", "f"),
        ]);
        let kept = others(&asked);
        let kept: Vec<_> = kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(kept, [("payload", "b=2"), ("fingerprint", "f")]);
    }
}
