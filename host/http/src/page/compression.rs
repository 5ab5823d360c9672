//! Answers in fewer bytes, for browsers that accept gzip.
//!
//! Which answers may be compressed is decided by those who call this file.

use std::io::Write as _;

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::problem::ApiError;

/// The coding of compressed answers.
pub(super) const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Answers below this size are not worth compressing, in bytes.
const COMPRESSED_MIN: usize = 1_024;

/// The largest answer that is compressed, in bytes: a view is far smaller. A larger one is sent as it is.
const COMPRESSED_MAX: usize = 16 << 20;

/// The level for an answer that is sent once.
const FAST: Compression = Compression::new(6);

/// Whether gzip is among the accepted codings, and not with the weight 0.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').map(|coding| coding.replace(' ', "").to_ascii_lowercase()).any(|coding| {
        let (name, weight) = coding.split_once(";q=").unwrap_or((&coding, "1"));
        name == "gzip" && weight.parse().is_ok_and(|weight: f32| weight > 0.0)
    })
}

/// The text in as few bytes as possible, to be kept; `None` where that is not worth it.
pub(super) fn smallest(text: &[u8]) -> Option<Vec<u8>> {
    gzip(text, Compression::best())
}

/// The answer in fewer bytes, if it is a text that has an end and is not compressed yet.
pub(super) async fn compressed(answer: Response) -> Response {
    let size = answer.body().size_hint().exact();
    if !is_plain_text(answer.headers()) || size.is_none_or(|size| size > COMPRESSED_MAX as u64) {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    let Ok(plain) = to_bytes(body, COMPRESSED_MAX).await else { return ApiError::Internal.into_response() };
    let Some(smaller) = gzip(&plain, FAST) else { return Response::from_parts(parts, Body::from(plain)) };
    parts.headers.insert(CONTENT_ENCODING, GZIP);
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(smaller))
}

fn is_plain_text(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_text = |kind: &&str| media_type.starts_with(kind);
    !headers.contains_key(CONTENT_ENCODING)
        && ["text/html", "text/css", "text/javascript", "image/svg"].iter().any(is_text)
}

fn gzip(plain: &[u8], level: Compression) -> Option<Vec<u8>> {
    if plain.len() < COMPRESSED_MIN {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), level);
    encoder.write_all(plain).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_where_it_is_accepted() {
        let accepts = |accepted: &str| {
            accepts_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_str(accepted).unwrap())]))
        };
        for accepted in ["gzip", "deflate, GZIP;q=0.5", "br, gzip ;q=1"] {
            assert!(accepts(accepted), "{accepted}");
        }
        for refused in ["", "br", "gzip;q=0", "gzip;q=0.0, br"] {
            assert!(!accepts(refused), "{refused}");
        }
    }
}
