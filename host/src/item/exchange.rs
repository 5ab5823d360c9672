//! What an attempt sent and what it was answered, as the history keeps it.
//!
//! Pure data, and its packed form. It never holds a secret: whoever makes a recording has removed what
//! the host added to the requests, and every value that only the host may know.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use serde::{Deserialize, Serialize};

/// Half as small as no effort, in a third of the time of the best.
const EFFORT: u8 = 4;
/// Several times what a recording may have, so that nothing that was packed is refused.
const UNPACKED_MAX: usize = 8 << 20;

/// The requests of one attempt with their answers, in the order in which they were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// What was kept.
    pub exchanges: Vec<Exchange>,
    /// How many more requests were sent than an attempt's record has room for.
    #[serde(rename = "exchanges_left_out", default, skip_serializing_if = "is_zero")]
    pub left_out: u32,
}

/// One request and what came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The request's method.
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// The name that the handler gave to the effect, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// The handler's own headers, without those that the host adds.
    pub headers: Vec<(String, String)>,
    /// What the handler wrote.
    pub body: Body,
    /// What came back; none when the attempt ended before anything did.
    pub answer: Option<Answer>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// An answer of the receiver.
    Response {
        /// Its status.
        status: u16,
        /// Its headers.
        headers: Vec<(String, String)>,
        /// What the handler read of its body.
        body: Body,
    },
    /// No answer of the receiver, but an error.
    Error {
        /// The case of `error-code` in `wasi:http` that the handler saw.
        error: String,
    },
}

/// What was kept of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenBody", into = "WrittenBody")]
pub struct Body {
    /// Its bytes, or as many of the first as were kept.
    pub kept: Vec<u8>,
    /// How many bytes passed.
    pub length: u64,
    /// The SHA-256 of all bytes that passed, in hex, when not all were kept.
    pub sha256: Option<String>,
    /// Whether it was read to its end.
    pub is_ended: bool,
}

impl Body {
    /// A body that was kept whole.
    pub fn whole(kept: impl Into<Vec<u8>>) -> Self {
        let kept = kept.into();
        Self { length: kept.len() as u64, kept, sha256: None, is_ended: true }
    }

    /// Whether every byte of it is known.
    pub fn is_whole(&self) -> bool {
        self.is_ended && self.sha256.is_none()
    }
}

/// A body in JSON: text where it is text.
#[derive(Serialize, Deserialize)]
struct WrittenBody {
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

impl From<Body> for WrittenBody {
    fn from(body: Body) -> Self {
        let (text, base64) = match String::from_utf8(body.kept) {
            Ok(text) => (Some(text), None),
            Err(err) => (None, Some(BASE64.encode(err.as_bytes()))),
        };
        Self { text, base64, length: body.length, sha256: body.sha256, unfinished: !body.is_ended }
    }
}

impl TryFrom<WrittenBody> for Body {
    type Error = base64::DecodeError;

    fn try_from(written: WrittenBody) -> Result<Self, Self::Error> {
        let kept = match (written.text, written.base64) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(base64)) => BASE64.decode(base64)?,
            (None, None) => Vec::new(),
        };
        let WrittenBody { length, sha256, unfinished, .. } = written;
        Ok(Self { kept, length, sha256, is_ended: !unfinished })
    }
}

impl Recording {
    /// The recording as stores keep it: JSON, compressed by zlib. None when nothing was sent.
    pub fn pack(&self) -> Option<Vec<u8>> {
        if self.exchanges.is_empty() && self.left_out == 0 {
            return None;
        }
        let json = serde_json::to_vec(self).ok()?;
        Some(compress_to_vec_zlib(&json, EFFORT))
    }

    /// What was packed. None when the bytes are no recording.
    pub fn unpack(packed: &[u8]) -> Option<Self> {
        let json = decompress_to_vec_zlib_with_limit(packed, UNPACKED_MAX).ok()?;
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

    fn exchange(body: Body, answer: Option<Answer>) -> Exchange {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Exchange {
            method: "POST".into(),
            url: "http://a/b?c".into(),
            effect: Some("mail".into()),
            headers,
            body,
            answer,
        }
    }

    #[test]
    fn what_is_packed_is_unpacked_byte_for_byte() {
        let cut = Body { kept: vec![0xff, 0], length: 9, sha256: Some("d".into()), is_ended: false };
        let response = Answer::Response { status: 503, headers: vec![], body: cut };
        let error = Answer::Error { error: "connection-refused".into() };
        let exchanges = vec![
            exchange(Body::whole("{}"), Some(response)),
            exchange(Body::whole(vec![0x80]), Some(error)),
            exchange(Body::default(), None),
        ];
        let recording = Recording { exchanges, left_out: 2 };
        assert_eq!(Recording::unpack(&recording.pack().unwrap()), Some(recording));
    }

    #[test]
    fn nothing_sent_is_nothing_kept_and_what_is_no_recording_is_none() {
        assert_eq!(Recording::default().pack(), None);
        assert_eq!(Recording::unpack(b"hello"), None);
    }

    #[test]
    fn people_read_text_where_it_is_text() {
        let written = serde_json::to_value(Body::whole("hi")).unwrap();
        assert_eq!(written, serde_json::json!({ "text": "hi", "length": 2 }));
        let cut = Body { kept: vec![0xff], length: 7, sha256: Some("d".into()), is_ended: false };
        let written = serde_json::to_value(cut).unwrap();
        assert_eq!(written, serde_json::json!({ "base64": "/w==", "length": 7, "sha256": "d", "unfinished": true }));
    }
}
