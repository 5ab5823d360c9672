//! Every refusal of the HTTP server, and its response as problem+json (RFC 9457).
//!
//! `detail` says what was tried and what the client can do; further members carry data for programs. Errors of the
//! database are logged here, once, and not shown to clients.

pub(crate) mod document;
pub(crate) mod examples;
mod words;

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;

use outbox_item::{InvalidItem, ItemId, Millis};
use outbox_store::{JobId, StoreError, UnknownName};

use crate::access::{FORM_VALID, Right};
use crate::problem::document::ProblemDocument;

/// A refusal; its `Display` is the `detail` of the problem.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("there is nothing at {0}")]
    NoRoute(String),
    #[error("{path} does not take {method}; the Allow header lists what it takes")]
    WrongMethod { method: Method, path: String },
    #[error("{0}")]
    Unauthorized(Unidentified),
    #[error("this needs the right `{right}`, which {caller} does not have: use a token that has it")]
    Forbidden { right: Right, caller: String },
    #[error("a page of another site sent this request: only pages of this host may change anything with its cookie")]
    CrossSite,
    #[error("the page of this form was open for more than {} hours: look at it again before you send it", FORM_VALID.as_secs() / 3_600)]
    ExpiredForm,
    #[error("too many tokens from this address were wrong: try again in {} seconds", seconds(*.wait))]
    TooManyAttempts { wait: Duration },
    #[error("the host does not answer for Host {0:?}: use a loopback name, add it to OUTBOX_HOSTS or set OUTBOX_TOKEN")]
    WrongHost(String),
    #[error("the request body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("content-type is {given:?}: send {accepted}")]
    WrongContentType { given: String, accepted: &'static str },
    #[error("strict mode refuses a write without a valid {}: 1 to 255 printable ASCII bytes", .0.join(" and "))]
    MissingHeaders(Vec<&'static str>),
    #[error("the header {0} is malformed: send it once, with 1 to 255 printable ASCII characters, or leave it out")]
    MalformedHeader(HeaderName),
    #[error("{what} is not as expected: {}", words::plain(source))]
    InvalidJson { what: &'static str, source: serde_json::Error, at_line: Option<usize> },
    #[error("{0}")]
    Invalid(String),
    #[error("{source}")]
    InvalidItem { source: InvalidItem, at_line: Option<usize> },
    #[error("idem_key {idem_key:?} is already used by item {first} with other content: nothing was stored")]
    Conflict { idem_key: String, first: ItemId, at_line: Option<usize> },
    #[error("no saga {name:?} is declared; declared are {}", .declared.join(", "))]
    UnknownSaga { name: String, declared: Vec<String> },
    #[error("there is no item {0}, by its id or its idempotency key")]
    NoItem(String),
    #[error("there is no job {0}")]
    NoJob(JobId),
    #[error("{action} would change {count} items: repeat the request with the member `confirm` of this answer")]
    ConfirmationNeeded { action: &'static str, count: u64, as_of: Millis, confirm: String },
    #[error("{0}: correct it, or force the request")]
    UnknownName(UnknownName),
    #[error("item {id} cannot take this: {reason}")]
    Refused { id: ItemId, reason: String },
    #[error("no handler here serves {}: nothing was run", .missing.join(", "))]
    Unserved { missing: Vec<String>, served: Vec<String> },
    #[error("{failed} of {count} inline steps failed; nothing will be tried again")]
    Inline { failed: usize, count: usize, steps: Box<RawValue>, cid: String, idem_key: String },
    #[error("the request body did not arrive within {} seconds: send it again at once", .limit.as_secs())]
    SlowBody { limit: Duration },
    #[error("{max} or more items wait (OUTBOX_MAX_PENDING): repeat the request with the same key")]
    TooManyPending { max: u64 },
    #[error("no more streams of signals at a time: read pages instead, with Accept: application/json")]
    TooManyStreams,
    #[error("the store is unavailable while {tried}: repeat the request with the same key")]
    Unavailable { tried: &'static str },
    #[error("not ready: {}", .0.join("; "))]
    NotReady(Vec<String>),
    #[error("the host met a fault of its own; its log says more")]
    Internal,
}

/// Why it is unknown who sends a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unidentified {
    #[error("this request needs `Authorization: Bearer` with a token of this host, or the cookie of `POST /login`")]
    Absent,
    #[error("the token is none of this host's: `outbox token new` makes one, and OUTBOX_TOKEN may be another")]
    Wrong,
    #[error("the token of {name} has expired: `outbox token new` makes another")]
    Expired { name: String },
    #[error("the header {header} names no user: 1 to 64 letters, digits and . _ @ + -")]
    ProxyUser { header: HeaderName },
}

/// Whole seconds, rounded up.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl ApiError {
    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute(_) | Self::UnknownSaga { .. } | Self::NoItem(_) | Self::NoJob(_) | Self::UnknownName(_) => {
                StatusCode::NOT_FOUND
            }
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } | Self::CrossSite | Self::ExpiredForm => StatusCode::FORBIDDEN,
            Self::WrongHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyPending { .. } | Self::TooManyAttempts { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::WrongContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::MissingHeaders(_)
            | Self::MalformedHeader(_)
            | Self::InvalidJson { .. }
            | Self::Invalid(_)
            | Self::InvalidItem { .. } => StatusCode::BAD_REQUEST,
            Self::Conflict { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Refused { .. } => StatusCode::CONFLICT,
            Self::ConfirmationNeeded { .. } => StatusCode::PRECONDITION_REQUIRED,
            Self::Inline { .. } => StatusCode::BAD_GATEWAY,
            Self::Unserved { .. } | Self::Unavailable { .. } | Self::NotReady(_) | Self::TooManyStreams => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable word at the end of the problem's `type`, on which programs branch.
    pub(crate) fn problem_type(&self) -> &'static str {
        match self {
            Self::NoRoute(_) => "no-route",
            Self::WrongMethod { .. } => "wrong-method",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::CrossSite => "cross-site",
            Self::ExpiredForm => "expired-form",
            Self::TooManyAttempts { .. } => "too-many-attempts",
            Self::WrongHost(_) => "wrong-host",
            Self::TooLarge { .. } => "too-large",
            Self::WrongContentType { .. } => "wrong-content-type",
            Self::MissingHeaders(_) => "missing-headers",
            Self::MalformedHeader(_) => "malformed-header",
            Self::InvalidJson { .. } => "invalid-json",
            Self::Invalid(_) => "invalid-request",
            Self::InvalidItem { .. } => "invalid-item",
            Self::Conflict { .. } => "conflict",
            Self::UnknownSaga { .. } => "unknown-saga",
            Self::NoItem(_) => "no-item",
            Self::NoJob(_) => "no-job",
            Self::Refused { .. } => "refused",
            Self::ConfirmationNeeded { .. } => "confirmation-needed",
            Self::UnknownName(_) => "unknown-name",
            Self::Unserved { .. } => "unserved",
            Self::Inline { .. } => "inline-failed",
            Self::SlowBody { .. } => "slow-body",
            Self::TooManyPending { .. } => "too-many-pending",
            Self::TooManyStreams => "too-many-streams",
            Self::Unavailable { .. } => "store-unavailable",
            Self::NotReady(_) => "not-ready",
            Self::Internal => "internal",
        }
    }

    /// The document of the problem. Members that only some problems have are left out of the others.
    pub(crate) fn document(&self) -> ProblemDocument<'_> {
        let status = self.status();
        let document = ProblemDocument {
            r#type: format!("urn:outbox:problem:{}", self.problem_type()),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: self.detail(),
            ..ProblemDocument::default()
        };
        self.with_members(document)
    }

    fn with_members<'a>(&'a self, document: ProblemDocument<'a>) -> ProblemDocument<'a> {
        match self {
            Self::TooLarge { limit } => ProblemDocument { limit: Some(*limit as u64), ..document },
            Self::Forbidden { right, .. } => ProblemDocument { right: Some(right.as_str()), ..document },
            Self::TooManyPending { max } => ProblemDocument { limit: Some(*max), ..document },
            Self::MissingHeaders(missing) => ProblemDocument { missing: missing.clone(), ..document },
            Self::NotReady(missing) => {
                ProblemDocument { missing: missing.iter().map(String::as_str).collect(), ..document }
            }
            Self::InvalidJson { source, at_line, .. } => {
                // Each line of a batch is parsed alone, so the parser reports line 1. An error about the content of
                // a value has no position: line 0.
                let has_position = source.line() > 0;
                let line = at_line.or(has_position.then_some(source.line()));
                ProblemDocument { line, column: has_position.then_some(source.column()), ..document }
            }
            Self::InvalidItem { source, at_line } => {
                ProblemDocument { field: Some(source.field), line: *at_line, ..document }
            }
            Self::Conflict { idem_key, first, at_line } => {
                ProblemDocument { idem_key: Some(idem_key), first_id: Some(*first), line: *at_line, ..document }
            }
            Self::ConfirmationNeeded { count, as_of, confirm, .. } => {
                ProblemDocument { count: Some(*count), as_of: Some(*as_of), confirm: Some(confirm), ..document }
            }
            Self::UnknownName(UnknownName { nearest, .. }) => {
                ProblemDocument { nearest: Some(texts(nearest)), ..document }
            }
            Self::UnknownSaga { declared, .. } => ProblemDocument { declared: Some(texts(declared)), ..document },
            Self::Unserved { missing, served } => {
                ProblemDocument { missing: texts(missing), served: Some(texts(served)), ..document }
            }
            Self::Inline { cid, idem_key, steps, .. } => ProblemDocument {
                mode: Some("inline"),
                cid: Some(cid),
                idem_key: Some(idem_key),
                steps: Some(steps),
                ..document
            },
            _ => document,
        }
    }

    /// The message, after the line of the batch if there is one.
    fn detail(&self) -> String {
        match self {
            Self::InvalidJson { at_line: Some(line), .. }
            | Self::InvalidItem { at_line: Some(line), .. }
            | Self::Conflict { at_line: Some(line), .. } => format!("line {line}: {self}"),
            _ => self.to_string(),
        }
    }
}

fn texts(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// A problem in words, beside its document: a page says it to a person.
#[derive(Clone, Debug)]
pub(crate) struct ToldProblem {
    /// The stable word.
    pub(crate) word: &'static str,
    /// The text of the status.
    pub(crate) title: &'static str,
    /// What was tried, and what to do.
    pub(crate) detail: String,
    /// Whether a token was given and refused.
    pub(crate) is_about_a_token: bool,
}

impl From<&ApiError> for ToldProblem {
    fn from(err: &ApiError) -> Self {
        let is_about_a_token = !matches!(err, ApiError::Unauthorized(Unidentified::Absent));
        let title = err.status().canonical_reason().unwrap_or("Error");
        Self { word: err.problem_type(), title, detail: err.detail(), is_about_a_token }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.document())).into_response();
        response.extensions_mut().insert(ToldProblem::from(&self));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self {
            Self::Unauthorized(_) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::TooManyAttempts { wait } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds(wait)));
            }
            Self::Unavailable { .. } | Self::TooManyPending { .. } | Self::TooManyStreams => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(err: StoreError) -> Self {
        match err {
            StoreError::Conflict { idem_key, first, .. } => Self::Conflict { idem_key, first, at_line: None },
            StoreError::Invalid(invalid) => invalid.source.into(),
            StoreError::Unavailable { tried, source } => {
                tracing::warn!(error = %source, "the store is unavailable while {tried}");
                Self::Unavailable { tried }
            }
            StoreError::Unusable(reason) => {
                tracing::error!(error = reason, "the store cannot be used");
                Self::Unavailable { tried: "using the database" }
            }
            err @ (StoreError::ClaimLost
            | StoreError::OutOfTurn
            | StoreError::Locked { .. }
            | StoreError::StateConflict { .. }
            | StoreError::StateValueTooLarge { .. }
            | StoreError::StateQuota { .. }
            | StoreError::Descendants { .. }) => {
                tracing::error!(error = %err, "a request met an error that only a settlement can meet");
                Self::Internal
            }
        }
    }
}

impl From<UnknownName> for ApiError {
    fn from(unknown: UnknownName) -> Self {
        Self::UnknownName(unknown)
    }
}

impl From<InvalidItem> for ApiError {
    fn from(source: InvalidItem) -> Self {
        Self::InvalidItem { source, at_line: None }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::Invalid(rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::Invalid(rejection.body_text())
    }
}

impl ApiError {
    /// Converts the parser's error about the document `what`; for use with `map_err`.
    pub(crate) fn invalid_json(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::InvalidJson { what, source, at_line: None }
    }

    /// The same refusal with the line of the batch where it was found, from 1.
    pub(crate) fn on_line(mut self, line: Option<usize>) -> Self {
        match &mut self {
            Self::InvalidJson { at_line, .. } | Self::InvalidItem { at_line, .. } | Self::Conflict { at_line, .. } => {
                *at_line = line;
            }
            _ => {}
        }
        self
    }

    /// The problem of a body that could not be read; `limit` is the largest size in bytes.
    pub(crate) fn unreadable_body(rejection: &BytesRejection, limit: usize) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::TooLarge { limit };
        }
        Self::Invalid(rejection.body_text())
    }
}

/// The response to a path without a route.
pub(crate) async fn no_route(uri: Uri) -> ApiError {
    ApiError::NoRoute(uri.path().to_owned())
}

/// The response to a method that the route does not have.
pub(crate) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::WrongMethod { method, path: uri.path().to_owned() }
}
