//! Conditions on what an item contains: members of its payload, of its headers and of its metadata.
//!
//! No index knows what an item contains, so an engine reads the items that the other conditions of a filter let
//! through, and asks the filter: for an action at most [`EXAMINED_MAX`] of them, for a page fewer (`engine/look.rs`). It
//! does not know how they are read.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use outbox_item::{InvalidAt, InvalidItem};

use crate::error::StoreError;

/// Items that a reader examines at most for one action: at 1 KiB each, a few seconds of reading.
pub const EXAMINED_MAX: u32 = 100_000;

/// The longest path or value of a condition, in bytes.
const LENGTH_MAX: usize = 255;

/// Conditions on the payload, on the headers and on the metadata that a filter may have each.
pub(crate) const CONDITIONS_MAX: usize = 8;

/// A member of a JSON document has a value: `order.id=17`. The path names members and, by numbers from 0, elements of
/// lists; `$.` may precede it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberIs {
    path: String,
    value: String,
}

impl MemberIs {
    /// Whether the document has the member with the value. A text is compared without its quotes, everything else as it
    /// is written in compact JSON.
    pub(crate) fn holds_in(&self, document: &Value) -> bool {
        self.names().try_fold(document, member).is_some_and(|found| self.equals(found))
    }

    /// The names of its path, from the outermost on.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.path.strip_prefix("$.").unwrap_or(&self.path).split('.')
    }

    /// Likewise for a header, whose name has no parts and is in any case.
    pub(crate) fn holds_in_headers(&self, headers: &Value) -> bool {
        let headers = headers.as_object().into_iter().flatten();
        let mut named = headers.filter(|(name, _)| name.eq_ignore_ascii_case(&self.path));
        named.any(|(_, value)| self.equals(value))
    }

    fn equals(&self, found: &Value) -> bool {
        let written = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        written == self.value
    }
}

fn member<'a>(within: &'a Value, name: &str) -> Option<&'a Value> {
    match within {
        Value::Object(members) => members.get(name),
        Value::Array(elements) => elements.get(name.parse::<usize>().ok()?),
        _ => None,
    }
}

impl fmt::Display for MemberIs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.path, self.value)
    }
}

/// A text that is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no condition: write PATH=VALUE, each of at most {LENGTH_MAX} bytes, such as order.id=17")]
pub struct InvalidCondition(String);

impl FromStr for MemberIs {
    type Err = InvalidCondition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits =
            |(path, value): &(&str, &str)| !path.is_empty() && path.len() <= LENGTH_MAX && value.len() <= LENGTH_MAX;
        let (path, value) =
            text.split_once('=').filter(fits).ok_or_else(|| InvalidCondition(text.chars().take(80).collect()))?;
        Ok(Self { path: path.to_owned(), value: value.to_owned() })
    }
}

impl Serialize for MemberIs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemberIs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What an item contains, as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredContent<'a> {
    /// The payload.
    pub payload: &'a [u8],
    /// The headers, as a JSON text.
    pub headers: &'a [u8],
    /// The metadata, as a JSON text.
    pub metadata: &'a [u8],
    /// The message of its last failure; empty without one.
    pub last_error: &'a [u8],
}

impl StoredContent<'_> {
    /// Whether a part of it contains the text, in capital or small letters.
    pub(crate) fn has_text(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let has = |part: &[u8]| String::from_utf8_lossy(part).to_lowercase().contains(&text);
        [self.payload, self.headers, self.metadata, self.last_error].into_iter().any(has)
    }
}

/// The error when more items than [`EXAMINED_MAX`] would have to be read.
pub fn too_many_to_examine() -> StoreError {
    let accepted = "together with conditions that let at most 100000 items through, such as a type, a status or a time, \
                    because each of these items is read";
    invalid("filter", "a condition on what items contain".to_owned(), accepted)
}

pub(crate) fn invalid(field: &'static str, value: String, accepted: &'static str) -> StoreError {
    StoreError::Invalid(InvalidAt { index: 0, source: InvalidItem { field, value, accepted } })
}

/// Whether the JSON fulfils all conditions. What is not JSON fulfils none.
pub(crate) fn all_hold(conditions: &[MemberIs], json: &[u8], holds: fn(&MemberIs, &Value) -> bool) -> bool {
    if conditions.is_empty() {
        return true;
    }
    serde_json::from_slice(json).is_ok_and(|document| conditions.iter().all(|condition| holds(condition, &document)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(text: &str) -> MemberIs {
        text.parse().unwrap()
    }

    #[test]
    fn a_member_is_found_by_its_path_and_compared_as_text() {
        let order = serde_json::json!({
            "order": 17, "to": { "name": "Ada", "vip": true, "notes": null }, "lines": [{ "sku": "a=b" }], "total": 1.50
        });
        for (text, expected) in [
            ("order=17", true),
            ("$.order=17", true),
            ("order=18", false),
            ("order=", false),
            ("to.name=Ada", true),
            ("to.name=\"Ada\"", false),
            ("to.vip=true", true),
            ("to.notes=null", true),
            ("lines.0.sku=a=b", true),
            ("lines.1.sku=a=b", false),
            ("total=1.5", true),
            ("to={\"name\":\"Ada\",\"notes\":null,\"vip\":true}", true),
            ("nothing=null", false),
        ] {
            assert_eq!(condition(text).holds_in(&order), expected, "{text}");
        }
    }

    #[test]
    fn a_condition_is_written_with_an_equals_sign_and_is_short() {
        for text in ["", "order", "=17", &format!("a={}", "x".repeat(256)), &format!("{}=x", "a".repeat(256))] {
            assert!(text.parse::<MemberIs>().unwrap_err().to_string().contains("PATH=VALUE"), "{text}");
        }
    }
}
