//! The requests and responses of one attempt, as the history keeps them, and their compressed form.
//!
//! Pure data. A recording holds no secret, because the recorder of the runtime removes the headers that the host adds
//! and the values of secrets before it makes one. This file cannot check that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use serde::{Deserialize, Serialize};

/// The zlib level. It halves the size of a recording and takes a third of the time of the best level.
const COMPRESSION_LEVEL: u8 = 4;
/// The largest decompressed recording, in bytes: several times the limit of the recorder, so that every stored
/// recording can be read, and small enough that damaged bytes cannot exhaust the memory.
const DECOMPRESSED_MAX: usize = 8 << 20;

/// The requests of one attempt with their answers, in the order in which they were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// The exchanges that the host kept.
    pub exchanges: Vec<RecordedExchange>,
    /// The number of requests beyond the limit of a recording.
    #[serde(rename = "exchanges_left_out", default, skip_serializing_if = "is_zero")]
    pub omitted: u32,
}

/// One request and its response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedExchange {
    /// The method.
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// The value of the header `outbox-effect`, if the handler set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// The headers that the handler set, without those that the host adds.
    pub headers: Vec<(String, String)>,
    /// The body that the handler sent.
    pub body: RecordedBody,
    /// The response or error; `None` when the attempt ended first.
    pub answer: Option<RecordedResponse>,
}

/// What the handler received for one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecordedResponse {
    /// A response of the receiver.
    Response {
        /// The HTTP status.
        status: u16,
        /// The response headers.
        headers: Vec<(String, String)>,
        /// The part of the body that the handler read.
        body: RecordedBody,
    },
    /// An error in place of a response.
    Error {
        /// The case of `error-code` in `wasi:http` that the handler received.
        error: String,
    },
}

/// A body, or the first part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BodyDocument", into = "BodyDocument")]
pub struct RecordedBody {
    /// The first bytes; all of them when `sha256` is `None`.
    pub kept: Vec<u8>,
    /// The number of bytes that passed, kept or not.
    pub length: u64,
    /// The SHA-256 of all bytes that passed, in hex; `None` when all of them were kept.
    pub sha256: Option<String>,
    /// Whether the body passed to its end.
    pub is_ended: bool,
}

impl RecordedBody {
    /// A complete body.
    pub fn whole(kept: impl Into<Vec<u8>>) -> Self {
        let kept = kept.into();
        Self { length: kept.len() as u64, kept, sha256: None, is_ended: true }
    }

    /// Whether every byte of the body is known.
    pub fn is_whole(&self) -> bool {
        self.is_ended && self.sha256.is_none()
    }
}

/// The JSON shape of a body: `text` when the bytes are UTF-8, else `base64`.
#[derive(Serialize, Deserialize)]
struct BodyDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unfinished: bool,
}

impl From<RecordedBody> for BodyDocument {
    fn from(body: RecordedBody) -> Self {
        let (text, base64) = match String::from_utf8(body.kept) {
            Ok(text) => (Some(text), None),
            Err(err) => (None, Some(BASE64.encode(err.as_bytes()))),
        };
        Self { text, base64, length: body.length, sha256: body.sha256, unfinished: !body.is_ended }
    }
}

impl TryFrom<BodyDocument> for RecordedBody {
    type Error = base64::DecodeError;

    fn try_from(document: BodyDocument) -> Result<Self, Self::Error> {
        let kept = match (document.text, document.base64) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(base64)) => BASE64.decode(base64)?,
            (None, None) => Vec::new(),
        };
        let BodyDocument { length, sha256, unfinished, .. } = document;
        Ok(Self { kept, length, sha256, is_ended: !unfinished })
    }
}

impl Recording {
    /// The stored form: JSON, compressed by zlib. `None` when the attempt sent nothing.
    pub fn compress(&self) -> Option<Vec<u8>> {
        if self.exchanges.is_empty() && self.omitted == 0 {
            return None;
        }
        let json = serde_json::to_vec(self).ok()?;
        Some(compress_to_vec_zlib(&json, COMPRESSION_LEVEL))
    }

    /// Reads the stored form. `None` when the bytes are no recording.
    pub fn decompress(compressed: &[u8]) -> Option<Self> {
        let json = decompress_to_vec_zlib_with_limit(compressed, DECOMPRESSED_MAX).ok()?;
        serde_json::from_slice(&json).ok()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(body: RecordedBody, answer: Option<RecordedResponse>) -> RecordedExchange {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        RecordedExchange {
            method: "POST".into(),
            url: "http://a/b?c".into(),
            effect: Some("mail".into()),
            headers,
            body,
            answer,
        }
    }

    #[test]
    fn what_is_compressed_is_decompressed_byte_for_byte() {
        let cut = RecordedBody { kept: vec![0xff, 0], length: 9, sha256: Some("d".into()), is_ended: false };
        let response = RecordedResponse::Response { status: 503, headers: vec![], body: cut };
        let error = RecordedResponse::Error { error: "connection-refused".into() };
        let exchanges = vec![
            exchange(RecordedBody::whole("{}"), Some(response)),
            exchange(RecordedBody::whole(vec![0x80]), Some(error)),
            exchange(RecordedBody::default(), None),
        ];
        let recording = Recording { exchanges, omitted: 2 };
        assert_eq!(Recording::decompress(&recording.compress().unwrap()), Some(recording));
    }

    #[test]
    fn nothing_sent_is_nothing_kept_and_what_is_no_recording_is_none() {
        assert_eq!(Recording::default().compress(), None);
        assert_eq!(Recording::decompress(b"hello"), None);
    }

    #[test]
    fn people_read_text_where_it_is_text() {
        let document = serde_json::to_value(RecordedBody::whole("hi")).unwrap();
        assert_eq!(document, serde_json::json!({ "text": "hi", "length": 2 }));
        let cut = RecordedBody { kept: vec![0xff], length: 7, sha256: Some("d".into()), is_ended: false };
        let document = serde_json::to_value(cut).unwrap();
        assert_eq!(document, serde_json::json!({ "base64": "/w==", "length": 7, "sha256": "d", "unfinished": true }));
    }
}
