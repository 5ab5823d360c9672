//! Request bodies: which media type they are of, and that they could be read whole.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;

use crate::HttpState;
use crate::problem::ApiError;
use outbox_item::JSON;

/// A body as it arrived, or why it could not be read.
pub(crate) type BodyResult = Result<Bytes, BytesRejection>;

/// The media type of one JSON object per line.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// The media type that the request names, without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The bytes of a body that must be JSON.
///
/// The media type is asked for even where the body may be empty: a page on another site cannot send it
/// without the browser asking this host first, which says no.
pub(crate) fn json(state: &HttpState, headers: &HeaderMap, body: BodyResult) -> Result<Bytes, ApiError> {
    match media_type(headers) {
        given if given == JSON => read(state, body),
        given => Err(ApiError::WrongContentType { given, accepted: JSON }),
    }
}

/// The bytes of a body whose media type has been looked at.
pub(crate) fn read(state: &HttpState, body: BodyResult) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| ApiError::unreadable_body(&rejection, state.settings.max_body))
}
