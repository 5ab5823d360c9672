//! Request bodies: their media type, their size, and the JSON in them.
//!
//! Does not know which members a route expects, except `dry_run`, which all requests of operators share.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use outbox_item::JSON;
use outbox_store::Execution;

use crate::problem::ApiError;
use crate::server_state::ServerState;

/// A body as it arrived, or why it could not be read.
pub(crate) type BodyResult = Result<RequestBody, ApiError>;

/// A body that arrived in time.
pub(crate) struct RequestBody(Bytes);

impl FromRequest<Arc<ServerState>> for RequestBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<ServerState>) -> Result<Self, ApiError> {
        let settings = state.settings();
        let limit = settings.body_timeout;
        let read =
            timeout(limit, Bytes::from_request(request, state)).await.map_err(|_| ApiError::SlowBody { limit })?;
        read.map(Self).map_err(|rejection| ApiError::unreadable_body(&rejection, settings.max_body))
    }
}

/// The body of a form whose request was refused before anybody read it.
#[derive(Clone)]
pub(crate) struct UnreadBody(Arc<Mutex<Option<Body>>>);

impl UnreadBody {
    /// Sets the body aside.
    pub(crate) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// The body; the first caller takes it out.
    pub(crate) fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The media type of one JSON object per line.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// The media type of a form of a page.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// The media type that the request names, without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The bytes of a body that must be JSON.
///
/// Requires the media type even where the body may be empty. A browser does not send `application/json` for a page of
/// another site without a preflight request, which this host refuses.
pub(crate) fn json_bytes(headers: &HeaderMap, body: BodyResult) -> Result<Bytes, ApiError> {
    match media_type(headers) {
        given if given == JSON => read(body),
        given => Err(ApiError::WrongContentType { given, accepted: JSON }),
    }
}

/// The bytes of a body whose media type the caller has checked.
pub(crate) fn read(body: BodyResult) -> Result<Bytes, ApiError> {
    body.map(|RequestBody(bytes)| bytes)
}

/// The JSON of a body, or the default when the body is empty. `what` names the document in the problem.
pub(crate) fn json_or_default<T: DeserializeOwned + Default>(
    headers: &HeaderMap,
    body: BodyResult,
    what: &'static str,
) -> Result<T, ApiError> {
    let bytes = json_bytes(headers, body)?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(ApiError::invalid_json(what))
}

/// The member `dry_run` of an operator's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "bool", into = "bool")]
pub(crate) struct DryRun(pub(crate) Execution);

impl Default for DryRun {
    fn default() -> Self {
        Self(Execution::Apply)
    }
}

impl From<DryRun> for bool {
    fn from(DryRun(execution): DryRun) -> Self {
        execution == Execution::DryRun
    }
}

impl From<bool> for DryRun {
    fn from(dry_run: bool) -> Self {
        Self(if dry_run { Execution::DryRun } else { Execution::Apply })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dry_run_is_a_boolean_in_json() {
        let parse = |json: &str| serde_json::from_str::<DryRun>(json);
        assert_eq!(parse("true").unwrap(), DryRun(Execution::DryRun));
        assert_eq!(parse("false").unwrap(), DryRun::default());
        let (ours, of_bool) = (parse("5").unwrap_err(), serde_json::from_str::<bool>("5").unwrap_err());
        assert_eq!(ours.to_string(), of_bool.to_string());
    }
}
