//! The headers of a write: `X-Correlation-ID` and `Idempotency-Key` of the contract, and `X-Fairness-Key`.
//!
//! Valid values are used unchanged and echoed in the response. The store counts a header that is absent, empty or malformed
//! as a violation. A malformed one is refused in every mode: a generated value would make a repeated write a new one.
//! Strict mode also refuses a write without one, and otherwise the host generates a value. Does not know what a route
//! writes.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use outbox_core::{TRACEPARENT, TRACESTATE, TraceContext};
use outbox_item::{NewItem, validate_key};
use outbox_store::Violation;

use crate::problem::ApiError;
use crate::state::HttpState;

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

const FAIRNESS_KEY: HeaderName = HeaderName::from_static("x-fairness-key");

/// The headers of a write request.
pub(crate) struct WriteHeaders {
    /// The `X-Correlation-ID`, if there is one.
    pub(crate) cid: Option<String>,
    /// The `Idempotency-Key`, if there is one.
    pub(crate) idem_key: Option<String>,
    /// The `X-Fairness-Key`, if there is one: for items that name none themselves.
    pub(crate) fairness_key: Option<String>,
    /// The headers of the trace that the client is in, if it is in one.
    pub(crate) trace: Vec<(&'static str, String)>,
}

impl WriteHeaders {
    /// Reads the headers and has the store count violations. Errors with [`ApiError::MissingHeaders`] in strict mode,
    /// and with [`ApiError::MalformedHeader`] in the others.
    pub(crate) async fn read(state: &HttpState, headers: &HeaderMap) -> Result<Self, ApiError> {
        let (cid, idem_key) = (header(headers, &CORRELATION_ID), header(headers, &IDEMPOTENCY_KEY));
        let (valid_cid, valid_key) = (cid.as_ref().ok().cloned(), idem_key.as_ref().ok().cloned());
        let trace = trace_headers(headers);
        let fairness_key = header(headers, &FAIRNESS_KEY);
        let parsed = Self { cid: valid_cid.flatten(), idem_key: valid_key.flatten(), fairness_key: None, trace };
        let missing = parsed.missing();
        for (_, violation) in &missing {
            count_violation(state, *violation).await;
        }
        if state.settings().is_strict && !missing.is_empty() {
            return Err(ApiError::MissingHeaders(missing.into_iter().map(|(name, _)| name).collect()));
        }
        cid.and(idem_key)?;
        Ok(Self { fairness_key: fairness_key?, ..parsed })
    }

    fn missing(&self) -> Vec<(&'static str, Violation)> {
        let cid = self.cid.is_none().then_some(("X-Correlation-ID", Violation::MissingCorrelationId));
        let idem_key = self.idem_key.is_none().then_some(("Idempotency-Key", Violation::MissingIdempotencyKey));
        cid.into_iter().chain(idem_key).collect()
    }

    /// Fills in what is missing. A generated key begins with the time, which keeps the store's unique index compact.
    /// A missing correlation id becomes the key, so that a repeated write has the same one.
    pub(crate) fn into_identity(self) -> WriteIdentity {
        let idem_key = self.idem_key.unwrap_or_else(|| Uuid::now_v7().to_string());
        let Self { cid, fairness_key, trace, .. } = self;
        WriteIdentity { cid: cid.unwrap_or_else(|| idem_key.clone()), idem_key, fairness_key, trace }
    }
}

/// The identity of a write, from its headers or generated. The response carries it.
pub(crate) struct WriteIdentity {
    /// The correlation id.
    pub(crate) cid: String,
    /// The idempotency key.
    pub(crate) idem_key: String,
    fairness_key: Option<String>,
    trace: Vec<(&'static str, String)>,
}

impl WriteIdentity {
    /// Gives an item the fairness key and the trace of the request, each unless the item names its own.
    pub(crate) fn pass_on(&self, item: &mut NewItem) {
        item.fairness_key = item.fairness_key.take().or_else(|| self.fairness_key.clone());
        if !item.headers.keys().any(|name| name.eq_ignore_ascii_case(TRACEPARENT)) {
            item.headers.extend(self.trace.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        }
    }

    /// The response, or the problem, with the identity in its headers.
    pub(crate) fn echo(&self, answer: Result<Response, ApiError>) -> Response {
        let mut response = answer.into_response();
        for (name, value) in [(CORRELATION_ID, &self.cid), (IDEMPOTENCY_KEY, &self.idem_key)] {
            // The keys in an item's JSON are validated later, so a value may not fit into a header.
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// The one value of the header; `None` when the header is absent or empty.
fn header(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(name).iter().filter(|value| !value.is_empty());
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| validate_key("header", text).is_ok() && values.next().is_none());
    text.map(|text| Some(text.to_owned())).ok_or_else(|| ApiError::MalformedHeader(name.clone()))
}

/// `traceparent` as it came, with its `tracestate`. A malformed one counts as missing, as W3C says.
fn trace_headers(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(parent) = text(TRACEPARENT) else { return Vec::new() };
    let Some(trace) = TraceContext::parse(parent, text(TRACESTATE)) else { return Vec::new() };
    let state = trace.state.map(|state| (TRACESTATE, state));
    [(TRACEPARENT, parent.to_owned())].into_iter().chain(state).collect()
}

/// Only logs a store that cannot count: the write itself reports the state of the store.
async fn count_violation(state: &HttpState, violation: Violation) {
    if let Err(err) = state.enqueue.count_violation(violation).await {
        tracing::warn!(error = %err, violation = violation.as_str(), "a contract violation was not counted");
    }
}
