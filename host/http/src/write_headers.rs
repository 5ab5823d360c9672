//! The contract headers of a write: `X-Correlation-ID` and `Idempotency-Key`.
//!
//! They are taken as given and echoed. One that is absent, empty or malformed is missing: counted, then
//! refused in strict mode and otherwise generated. The route's payload rules are not known here.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::HttpState;
use crate::problem::ApiError;
use outbox_item::validate_key;
use outbox_store::Violation;

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a request said about its identity.
pub(crate) struct WriteHeaders {
    /// A valid `X-Correlation-ID`.
    pub(crate) cid: Option<String>,
    /// A valid `Idempotency-Key`.
    pub(crate) idem_key: Option<String>,
}

impl WriteHeaders {
    /// Reads the headers and counts those that are missing. Errors with `MissingHeaders` in strict mode.
    pub(crate) async fn read(state: &HttpState, headers: &HeaderMap) -> Result<Self, ApiError> {
        let parsed =
            Self { cid: valid_header(headers, &CORRELATION_ID), idem_key: valid_header(headers, &IDEMPOTENCY_KEY) };
        let missing = parsed.missing();
        for (_, violation) in &missing {
            count_violation(state, *violation).await;
        }
        if state.settings.strict && !missing.is_empty() {
            return Err(ApiError::MissingHeaders(missing.into_iter().map(|(name, _)| name).collect()));
        }
        Ok(parsed)
    }

    fn missing(&self) -> Vec<(&'static str, Violation)> {
        let cid = self.cid.is_none().then_some(("X-Correlation-ID", Violation::MissingCorrelationId));
        let idem_key = self.idem_key.is_none().then_some(("Idempotency-Key", Violation::MissingIdempotencyKey));
        cid.into_iter().chain(idem_key).collect()
    }

    /// Generates a missing key, ordered by time so that the store's unique index stays compact. A missing correlation
    /// id is the key: a write that is repeated has the same one again.
    pub(crate) fn into_identity(self) -> WriteIdentity {
        let idem_key = self.idem_key.unwrap_or_else(|| Uuid::now_v7().to_string());
        WriteIdentity { cid: self.cid.unwrap_or_else(|| idem_key.clone()), idem_key }
    }
}

/// The identity of a write: what its answer carries, whether given or generated.
pub(crate) struct WriteIdentity {
    /// The correlation id.
    pub(crate) cid: String,
    /// The idempotency key.
    pub(crate) idem_key: String,
}

impl WriteIdentity {
    /// The answer, or the refusal, with the identity in its headers.
    pub(crate) fn echo(&self, answer: Result<Response, ApiError>) -> Response {
        let mut response = answer.into_response();
        for (name, value) in [(CORRELATION_ID, &self.cid), (IDEMPOTENCY_KEY, &self.idem_key)] {
            // An item's own key is checked only later, so what a header cannot carry may get here.
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

fn valid_header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    validate_key("header", value).is_ok().then(|| value.to_owned())
}

/// A store that cannot count must not refuse the write: the write itself will say how the store is.
async fn count_violation(state: &HttpState, violation: Violation) {
    if let Err(err) = state.store.count_violation(violation).await {
        tracing::warn!(error = %err, violation = violation.as_str(), "a contract violation was not counted");
    }
}
