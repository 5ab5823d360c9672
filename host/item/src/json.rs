//! The JSON shape of items, read and written: HTTP, the command line and item files share it.
//!
//! This file knows the columns of an item and no transport. It does not validate fields.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::exact_json;
use crate::item::{Item, JSON, NewItem};

/// A new item as a caller writes it in JSON. An unknown member is an error, so that a caller notices a misspelt name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemDocument {
    /// See [`NewItem::item_type`].
    pub r#type: String,
    /// See [`NewItem::idem_key`]. When it is absent, the caller of [`ItemDocument::into_new_item`] supplies the key.
    pub idem_key: Option<String>,
    /// Any JSON value, stored byte for byte. With `payload_encoding` `base64` it is a string of base64.
    pub payload: Box<RawValue>,
    /// `json` (the default) or `base64`.
    #[serde(default)]
    pub payload_encoding: PayloadEncoding,
    /// See [`NewItem::content_type`].
    pub content_type: Option<String>,
    /// See [`NewItem::headers`].
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// See [`NewItem::metadata`]. A number that would lose digits is an error.
    #[serde(default, deserialize_with = "exact_json::deserialize")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// See [`NewItem::cid`].
    pub cid: Option<String>,
    /// See [`NewItem::saga`].
    pub saga: Option<String>,
    /// See [`NewItem::ordering_key`].
    pub ordering_key: Option<String>,
    /// See [`NewItem::fairness_key`].
    pub fairness_key: Option<String>,
    /// See [`NewItem::delay`], in milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
}

/// How a document encodes `payload`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadEncoding {
    /// A JSON value.
    #[default]
    Json,
    /// A string of base64 (standard alphabet, padded).
    Base64,
}

impl ItemDocument {
    /// Converts the document. `idem_key` is the key of a document that has none. Errors when a base64 payload is not
    /// valid base64.
    pub fn into_new_item(self, idem_key: &str) -> Result<NewItem, serde_json::Error> {
        let payload = match self.payload_encoding {
            PayloadEncoding::Json => Box::<str>::from(self.payload).into_string().into_bytes(),
            PayloadEncoding::Base64 => decode_base64(self.payload.get())?,
        };
        Ok(NewItem {
            item_type: self.r#type,
            idem_key: self.idem_key.unwrap_or_else(|| idem_key.to_owned()),
            payload,
            content_type: self.content_type.unwrap_or_else(|| JSON.to_owned()),
            headers: self.headers,
            metadata: self.metadata,
            cid: self.cid,
            saga: self.saga,
            ordering_key: self.ordering_key,
            fairness_key: self.fairness_key,
            delay: Duration::from_millis(self.delay_ms),
        })
    }
}

fn decode_base64(json: &str) -> Result<Vec<u8>, serde_json::Error> {
    let text: String = serde_json::from_str(json)?;
    BASE64.decode(text).map_err(|err| serde::de::Error::custom(format!("payload is not base64: {err}")))
}

/// The members `payload` and `payload_encoding` that show these bytes: their JSON on one line, with its numbers and its
/// order as they are, when the bytes are JSON; else base64.
pub fn payload_fields(payload: &[u8]) -> (Box<RawValue>, PayloadEncoding) {
    match serde_json::from_slice::<&RawValue>(payload) {
        Ok(value) => (raw(reformat(value.get(), None)), PayloadEncoding::Json),
        // Base64 needs no escapes.
        Err(_) => (raw(format!("\"{}\"", BASE64.encode(payload))), PayloadEncoding::Base64),
    }
}

/// [`payload_fields`] for a document that is built in memory: a number that does not fit into a double loses digits, and
/// bytes with a number beyond it are shown in base64.
pub fn payload_value(payload: &[u8]) -> serde_json::Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| BASE64.encode(payload).into())
}

fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("text that was JSON before its white space changed")
}

/// Levels that are indented. Deeper ones would make a short text long.
const INDENTED_LEVELS: usize = 32;

/// The JSON text with other white space: on one line, or with each member on a line of its own and this many spaces
/// for each level. Everything else stays as it is, so no number changes. `json` is valid JSON.
pub fn reformat(json: &str, indent: Option<usize>) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut level, mut is_string, mut is_escaped) = (0_usize, false, false);
    let mut chars = json.chars().peekable();
    let line = |text: &mut String, level: usize| {
        if let Some(indent) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * level.min(INDENTED_LEVELS)));
        }
    };
    while let Some(c) = chars.next() {
        if is_string {
            text.push(c);
            is_string = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
            continue;
        }
        match c {
            c if c.is_ascii_whitespace() => {}
            '"' => {
                text.push(c);
                is_string = true;
            }
            '{' | '[' => {
                text.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if chars.peek().is_some_and(|next| !matches!(next, '}' | ']')) {
                    level += 1;
                    line(&mut text, level);
                } else {
                    text.extend(chars.next());
                }
            }
            '}' | ']' => {
                level = level.saturating_sub(1);
                line(&mut text, level);
                text.push(c);
            }
            ',' => {
                text.push(c);
                line(&mut text, level);
            }
            ':' => text.push_str(if indent.is_some() { ": " } else { ":" }),
            c => text.push(c),
        }
    }
    text
}

/// What an item's JSON has of its payload and its result.
enum ShownBytes {
    Whole,
    Sizes { payload: u64, result: Option<u64> },
}

impl Serialize for Item {
    /// Writes an object whose member names are the column names.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(self, &ShownBytes::Whole, serializer)
    }
}

/// An item of a listing: without its payload and its result, which can be large.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemSummary {
    /// The item. Its payload is empty, and it has no result.
    pub item: Item,
    /// The size of its payload, in bytes.
    pub payload_bytes: u64,
    /// The size of its result, in bytes; `None` without a result.
    pub result_bytes: Option<u64>,
}

impl Serialize for ItemSummary {
    /// Writes the object of the item with `payload_bytes` and `result_bytes` in place of the payload and the result.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sizes = ShownBytes::Sizes { payload: self.payload_bytes, result: self.result_bytes };
        serialize(&self.item, &sizes, serializer)
    }
}

fn serialize<S: Serializer>(item: &Item, content: &ShownBytes, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("id", &item.id)?;
    map.serialize_entry("idem_key", &item.idem_key)?;
    map.serialize_entry("type", &item.item_type)?;
    map.serialize_entry("status", &item.status)?;
    match content {
        ShownBytes::Whole => serialize_payload(&item.payload, &mut map)?,
        ShownBytes::Sizes { payload, .. } => map.serialize_entry("payload_bytes", payload)?,
    }
    map.serialize_entry("content_type", &item.content_type)?;
    map.serialize_entry("headers", &item.headers)?;
    map.serialize_entry("metadata", &item.metadata)?;
    map.serialize_entry("cid", &item.cid)?;
    map.serialize_entry("saga", &item.saga)?;
    map.serialize_entry("ordering_key", &item.ordering_key)?;
    map.serialize_entry("fairness_key", &item.fairness_key)?;
    map.serialize_entry("attempts", &item.attempts)?;
    map.serialize_entry("deliveries", &item.deliveries)?;
    map.serialize_entry("replays", &item.replays)?;
    map.serialize_entry("losses", &item.losses)?;
    map.serialize_entry("available_at", &item.available_at)?;
    map.serialize_entry("claimed_at", &item.claimed_at)?;
    map.serialize_entry("claimed_by", &item.claimed_by)?;
    map.serialize_entry("lease_until", &item.lease_until)?;
    map.serialize_entry("maybe_executed", &item.maybe_executed)?;
    map.serialize_entry("last_error", &item.last_error)?;
    map.serialize_entry("created_at", &item.created_at)?;
    map.serialize_entry("done_at", &item.done_at)?;
    map.serialize_entry("dead_at", &item.dead_at)?;
    match content {
        ShownBytes::Whole => {
            map.serialize_entry("result", &item.result.as_deref().map(|bytes| payload_fields(bytes).0))?;
        }
        ShownBytes::Sizes { result, .. } => map.serialize_entry("result_bytes", result)?,
    }
    map.serialize_entry("handler_digest", &item.handler_digest)?;
    map.end()
}

fn serialize_payload<M: SerializeMap>(payload: &[u8], map: &mut M) -> Result<(), M::Error> {
    let (payload, encoding) = payload_fields(payload);
    map.serialize_entry("payload", &payload)?;
    if encoding == PayloadEncoding::Base64 {
        map.serialize_entry("payload_encoding", &encoding)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<NewItem, serde_json::Error> {
        serde_json::from_str::<ItemDocument>(json)?.into_new_item("header-key")
    }

    #[test]
    fn a_json_payload_is_kept_byte_for_byte() {
        let item = parse(r#"{"type":"t","payload": {"b": 1.50,  "a":"ü"}}"#).unwrap();
        assert_eq!(item.payload, r#"{"b": 1.50,  "a":"ü"}"#.as_bytes());
        assert_eq!(item.idem_key, "header-key");
    }

    #[test]
    fn a_base64_payload_becomes_its_bytes_and_shows_as_base64_again() {
        let item = parse(r#"{"type":"t","idem_key":"k","payload":"/wA=","payload_encoding":"base64"}"#).unwrap();
        assert_eq!(item.payload, [0xff, 0]);
        assert_eq!(item.idem_key, "k");
        let (shown, encoding) = payload_fields(&item.payload);
        assert_eq!((shown.get(), encoding), (r#""/wA=""#, PayloadEncoding::Base64));
        assert!(parse(r#"{"type":"t","payload":"%","payload_encoding":"base64"}"#).is_err());
    }

    #[test]
    fn json_is_shown_with_its_numbers_and_its_order_as_they_are() {
        let json = r#"{"b": 12345678901234567890123, "a":[1.10,1e400, -0.0 ,9007199254740993.5],
            "b": "x , \"y\\" , "e":{ }, "f":[ ]}"#;
        let one_line =
            r#"{"b":12345678901234567890123,"a":[1.10,1e400,-0.0,9007199254740993.5],"b":"x , \"y\\","e":{},"f":[]}"#;
        let (shown, encoding) = payload_fields(json.as_bytes());
        assert_eq!((shown.get(), encoding), (one_line, PayloadEncoding::Json));
        let lines = "{\n  \"a\": [\n    1.0,\n    {}\n  ]\n}";
        assert_eq!(reformat(r#" {"a":[1.0 , { } ]}"#, Some(2)), lines);
        assert_eq!(payload_fields(br#"{"a":1"#).1, PayloadEncoding::Base64);
    }

    #[test]
    fn a_number_in_the_metadata_that_would_lose_digits_is_refused_in_words() {
        let with = |number: &str| parse(&format!(r#"{{"type":"t","payload":1,"metadata":{{"n":[{number}]}}}}"#));
        assert_eq!(with("1.50").unwrap().metadata["n"][0], 1.5);
        for number in ["12345678901234567890", "1e400"].map(|number| format!("{number}0")) {
            let err = with(&number).unwrap_err().to_string();
            assert!(
                err.contains(&format!("the number {number} in `metadata`")) && err.contains("as a string"),
                "{err}"
            );
        }
    }

    #[test]
    fn a_misspelt_field_is_an_error_that_names_it() {
        let err = parse(r#"{"type":"t","payload":1,"idem_kye":"k"}"#).unwrap_err();
        assert!(err.to_string().contains("idem_kye"), "{err}");
    }
}
