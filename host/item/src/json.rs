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
    /// See [`NewItem::metadata`].
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// See [`NewItem::cid`].
    pub cid: Option<String>,
    /// See [`NewItem::saga`].
    pub saga: Option<String>,
    /// See [`NewItem::ordering_key`].
    pub ordering_key: Option<String>,
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
            delay: Duration::from_millis(self.delay_ms),
        })
    }
}

fn decode_base64(json: &str) -> Result<Vec<u8>, serde_json::Error> {
    let text: String = serde_json::from_str(json)?;
    BASE64.decode(text).map_err(|err| serde::de::Error::custom(format!("payload is not base64: {err}")))
}

/// The members `payload` and `payload_encoding` that show these bytes: JSON when the bytes are JSON, else base64.
pub fn payload_fields(payload: &[u8]) -> (serde_json::Value, PayloadEncoding) {
    match serde_json::from_slice(payload) {
        Ok(value) => (value, PayloadEncoding::Json),
        Err(_) => (BASE64.encode(payload).into(), PayloadEncoding::Base64),
    }
}

impl Serialize for Item {
    /// Writes an object whose member names are the column names.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("idem_key", &self.idem_key)?;
        map.serialize_entry("type", &self.item_type)?;
        map.serialize_entry("status", &self.status)?;
        let (payload, encoding) = payload_fields(&self.payload);
        map.serialize_entry("payload", &payload)?;
        if encoding == PayloadEncoding::Base64 {
            map.serialize_entry("payload_encoding", &encoding)?;
        }
        map.serialize_entry("content_type", &self.content_type)?;
        map.serialize_entry("headers", &self.headers)?;
        map.serialize_entry("metadata", &self.metadata)?;
        map.serialize_entry("cid", &self.cid)?;
        map.serialize_entry("saga", &self.saga)?;
        map.serialize_entry("ordering_key", &self.ordering_key)?;
        map.serialize_entry("attempts", &self.attempts)?;
        map.serialize_entry("deliveries", &self.deliveries)?;
        map.serialize_entry("replays", &self.replays)?;
        map.serialize_entry("losses", &self.losses)?;
        map.serialize_entry("available_at", &self.available_at)?;
        map.serialize_entry("claimed_at", &self.claimed_at)?;
        map.serialize_entry("claimed_by", &self.claimed_by)?;
        map.serialize_entry("lease_until", &self.lease_until)?;
        map.serialize_entry("maybe_executed", &self.maybe_executed)?;
        map.serialize_entry("last_error", &self.last_error)?;
        map.serialize_entry("created_at", &self.created_at)?;
        map.serialize_entry("done_at", &self.done_at)?;
        map.serialize_entry("dead_at", &self.dead_at)?;
        let result = self.result.as_deref().map(|bytes| payload_fields(bytes).0);
        map.serialize_entry("result", &result)?;
        map.serialize_entry("handler_digest", &self.handler_digest)?;
        map.end()
    }
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
        assert_eq!(payload_fields(&item.payload), ("/wA=".into(), PayloadEncoding::Base64));
        assert!(parse(r#"{"type":"t","payload":"%","payload_encoding":"base64"}"#).is_err());
    }

    #[test]
    fn a_misspelt_field_is_an_error_that_names_it() {
        let err = parse(r#"{"type":"t","payload":1,"idem_kye":"k"}"#).unwrap_err();
        assert!(err.to_string().contains("idem_kye"), "{err}");
    }
}
