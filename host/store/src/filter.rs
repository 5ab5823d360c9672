//! Which items a reader or an operator means, and which part of them.
//!
//! A filter only describes; how an engine finds the items is not known here.

use serde::{Deserialize, Serialize};

use outbox_item::{ItemId, Millis, Status};

use crate::content::{CONDITIONS_MAX, MemberIs, StoredContent, all_hold, invalid};
use crate::error::StoreError;

/// The largest sample. A job names each of its items.
const SAMPLE_MAX: usize = 1_000;

/// Which items. Fields that are empty or `None` do not restrict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Any of these statuses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<Status>,
    /// This type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// This idempotency key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idem_key: Option<String>,
    /// Idempotency keys that begin so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<String>,
    /// This saga.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saga: Option<String>,
    /// This correlation id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cid: Option<String>,
    /// This ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// This fairness key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fairness_key: Option<String>,
    /// Claimed by this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Enqueued at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_from: Option<Millis>,
    /// Enqueued before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_to: Option<Millis>,
    /// Became DONE or DLQ at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_from: Option<Millis>,
    /// Became DONE or DLQ before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_to: Option<Millis>,
    /// Available at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_from: Option<Millis>,
    /// Available before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_to: Option<Millis>,
    /// In this group of like failures: see [`FailureGroup`](crate::FailureGroup).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The component with this digest made the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler_digest: Option<String>,
    /// The message of the last failure contains this text, in capital or small letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The payload is JSON with all of these members.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub payload: Vec<MemberIs>,
    /// All of these headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<MemberIs>,
    /// The metadata has all of these members.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<MemberIs>,
    /// The payload, the headers, the metadata or the message of the last failure contains this text, in capital or small
    /// letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Of an action: only this many of the items that match, those with the lowest ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u32>,
    /// Of an action: only this many of the items that match, chosen at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// One of these items: a sample that was chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<ItemId>,
    /// In their status since then or longer: became DONE or DLQ, or were claimed, at or before. Of PENDING items those
    /// that were enqueued by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Millis>,
}

impl Filter {
    /// Whether nothing but statuses restricts the items.
    pub fn is_status_alone(&self) -> bool {
        Self { status: Vec::new(), as_of: None, first: None, sample: None, ..self.clone() } == Self::default()
    }

    /// The same filter without the conditions on what items contain.
    #[must_use]
    pub fn without_content(&self) -> Self {
        Self { payload: Vec::new(), headers: Vec::new(), metadata: Vec::new(), text: None, ..self.clone() }
    }

    /// How many of `matching` items an action takes.
    pub fn taken_of(&self, matching: u64) -> u64 {
        let most = self.first.into_iter().chain(self.sample).min();
        most.map_or(matching, |most| matching.min(most.into()))
    }

    /// Those of the items that match, ascending, which an action takes.
    pub fn taken(&self, mut matching: Vec<ItemId>) -> Vec<ItemId> {
        matching.truncate(self.first.map_or(usize::MAX, |first| first as usize));
        let Some(sample) = self.sample.map(|sample| sample as usize) else { return matching };
        fastrand::shuffle(&mut matching);
        matching.truncate(sample);
        matching.sort_unstable();
        matching
    }

    /// The filter that only lets the chosen items through.
    #[must_use]
    pub fn of_sample(&self, chosen: Vec<ItemId>) -> Self {
        Self { sample: None, ids: chosen, ..self.clone() }
    }
}

impl Filter {
    /// Whether items must be read to know whether they match.
    pub fn reads_content(&self) -> bool {
        !(self.payload.is_empty() && self.headers.is_empty() && self.metadata.is_empty() && self.text.is_none())
    }

    /// Whether the content of an item fulfils the conditions on it. What is not JSON fulfils none.
    pub fn lets_through(&self, content: StoredContent<'_>) -> bool {
        all_hold(&self.payload, content.payload, MemberIs::holds_in)
            && all_hold(&self.headers, content.headers, MemberIs::holds_in_headers)
            && all_hold(&self.metadata, content.metadata, MemberIs::holds_in)
            && self.text.as_deref().is_none_or(|text| content.has_text(text))
    }

    /// Errors when a text is empty, which a script passes by mistake and which would restrict nothing or everything, when
    /// the filter has more conditions on the content than a reader checks, or a larger sample than a job can hold.
    pub fn validate(&self) -> Result<(), StoreError> {
        let texts = [
            ("type", &self.r#type),
            ("idem_key", &self.idem_key),
            ("key_prefix", &self.key_prefix),
            ("saga", &self.saga),
            ("cid", &self.cid),
            ("ordering_key", &self.ordering_key),
            ("fairness_key", &self.fairness_key),
            ("pod", &self.pod),
            ("fingerprint", &self.fingerprint),
            ("error", &self.error),
            ("text", &self.text),
        ];
        if let Some((field, _)) = texts.iter().find(|(_, text)| text.as_deref() == Some("")) {
            return Err(invalid(field, "an empty filter".into(), "a text, or no such filter"));
        }
        let sample = self.sample.map_or(self.ids.len(), |sample| sample as usize);
        if sample > SAMPLE_MAX || self.sample == Some(0) {
            return Err(invalid("sample", sample.to_string(), "from 1 to 1000 items"));
        }
        for (field, conditions) in
            [("payload", &self.payload), ("headers", &self.headers), ("metadata", &self.metadata)]
        {
            if conditions.len() > CONDITIONS_MAX {
                return Err(invalid(field, format!("{} conditions", conditions.len()), "8 conditions at most"));
            }
        }
        Ok(())
    }
}

/// Which part of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The largest number of items.
    pub limit: u32,
    /// Only items with a smaller id: the last id of the page before.
    pub before: Option<ItemId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(text: &str) -> MemberIs {
        text.parse().unwrap()
    }

    #[test]
    fn all_conditions_hold_and_what_is_not_json_fulfils_none() {
        let filter = Filter {
            payload: vec![condition("order=17")],
            headers: vec![condition("X-Tenant=acme.eu")],
            metadata: vec![condition("team=a")],
            ..Filter::default()
        };
        let content = StoredContent {
            payload: br#"{"order":17}"#,
            headers: br#"{"x-tenant":"acme.eu"}"#,
            metadata: br#"{"team":"a"}"#,
            last_error: b"",
        };
        assert!(filter.reads_content() && filter.lets_through(content));
        assert!(!filter.lets_through(StoredContent { headers: b"{}", ..content }));
        assert!(!filter.lets_through(StoredContent { payload: b"order=17", ..content }));
        assert!(!filter.lets_through(StoredContent { metadata: b"\xff", ..content }));
    }

    #[test]
    fn a_text_is_found_in_each_part_of_an_item_in_capital_or_small_letters() {
        let empty = StoredContent { payload: b"", headers: b"", metadata: b"", last_error: b"" };
        let has = |content: StoredContent<'_>, text: &str| {
            Filter { text: Some(text.into()), ..Filter::default() }.lets_through(content)
        };
        for content in [
            StoredContent { payload: "\u{ff}Ärger".as_bytes(), ..empty },
            StoredContent { headers: "ärger".as_bytes(), ..empty },
            StoredContent { metadata: "ÄRGER".as_bytes(), ..empty },
            StoredContent { last_error: "viel Ärger".as_bytes(), ..empty },
        ] {
            assert!(has(content, "äRGer") && !has(content, "Ärgernis"));
        }
        assert!(has(StoredContent { payload: b"\xffabc", ..empty }, "ABC"), "also beside bytes that are no text");
        assert!(!has(StoredContent { payload: b"a", headers: b"b", ..empty }, "ab"), "parts are not joined");
    }

    #[test]
    fn a_filter_has_a_bounded_number_of_conditions_on_content() {
        let many = Filter { payload: vec![condition("a=1"); 9], ..Filter::default() };
        assert!(many.validate().unwrap_err().to_string().contains("8 conditions"));
    }

    #[test]
    fn a_sample_is_drawn_from_all_that_match_and_is_bounded() {
        let all: Vec<_> = (1..=1_000).map(ItemId::new).collect();
        let sample = Filter { sample: Some(10), ..Filter::default() };
        let taken = sample.taken(all.clone());
        assert!(taken.len() == 10 && taken.is_sorted() && sample.taken_of(1_000) == 10);
        assert!((0..9).any(|_| sample.taken(all.clone()) != taken), "ten samples are all alike");
        assert_eq!(Filter { first: Some(2), ..Filter::default() }.taken(all), [1, 2].map(ItemId::new));
        assert_eq!(sample.of_sample(taken.clone()).ids, taken);
        for wrong in [0, 1_001] {
            assert!(Filter { sample: Some(wrong), ..Filter::default() }.validate().is_err());
        }
    }
}
