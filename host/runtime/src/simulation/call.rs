//! The calls of a simulated guest and the responses of its world, as values that can be compared and shown.

use std::fmt;

use http::header::{CONTENT_LENGTH, HeaderName};
use http::request::Parts;
use serde::Serialize;

use crate::outgoing::backend::HostCall;
use crate::outgoing::host_headers::{CORRELATION_ID, TRACEPARENT, TRACESTATE};
use crate::outgoing::idempotency_key::IDEMPOTENCY_KEY;

/// A call of the host that may have an effect, or that may return something else the next time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestCall {
    /// The guest sends a request.
    Request(OutgoingRequest),
    /// The guest reads a key of its state.
    Get {
        /// The key.
        key: String,
    },
    /// The guest sets a key of its state.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// The guest removes a key of its state.
    Delete {
        /// The key.
        key: String,
    },
    /// The guest emits a follow-up.
    Emit {
        /// The item's type.
        item_type: String,
        /// The item's payload.
        payload: Vec<u8>,
        /// The name that the guest gave the item, which is the end of its key.
        name: Option<String>,
    },
}

/// A request as a receiver gets it, without the headers that only the host sets, except the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutgoingRequest {
    /// The method.
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// The headers that the guest set, sorted by name.
    pub headers: Vec<(String, String)>,
    /// The `Idempotency-Key` that the host made; `None` for a safe request.
    pub key: Option<String>,
    /// The body.
    #[serde(skip)]
    pub body: Vec<u8>,
}

impl OutgoingRequest {
    /// Whether two requests ask for the same effect: same method, URL and body. Headers are not compared.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.method == other.method && self.url == other.url && self.body == other.body
    }
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorldResponse {
    /// The receiver responds.
    Response {
        /// The status code.
        status: u16,
        /// The headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// No connection is made, so the request is not sent.
    Refused,
    /// The request is sent, and the connection breaks before the response.
    Broken,
    /// The request gets lost, and no response comes before the guest's timeout. Without one, the host's wait for a
    /// connection ends.
    Vanished,
    /// The request is sent, and no response comes before the guest's timeout or the deadline.
    Silence,
}

/// Headers that the host sets. They do not say what the request asks for.
const HOST_HEADERS: [HeaderName; 5] = [IDEMPOTENCY_KEY, CORRELATION_ID, TRACEPARENT, TRACESTATE, CONTENT_LENGTH];

impl OutgoingRequest {
    /// The request without the headers of the host and without secret headers.
    pub(crate) fn new(head: &Parts, body: Vec<u8>) -> Self {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let of_guest =
            head.headers.iter().filter(|(name, value)| !HOST_HEADERS.contains(name) && !value.is_sensitive());
        let mut headers: Vec<_> = of_guest.map(|(name, value)| (name.to_string(), text(value))).collect();
        headers.sort();
        Self {
            method: head.method.to_string(),
            url: head.uri.to_string(),
            headers,
            key: head.headers.get(IDEMPOTENCY_KEY).map(text),
            body,
        }
    }

    /// Whether the request has no side effect.
    pub fn is_safe(&self) -> bool {
        self.key.is_none()
    }
}

impl GuestCall {
    /// The same call as a value of its own.
    pub(crate) fn from_host_call(call: HostCall<'_>) -> Self {
        match call {
            HostCall::Get(key) => Self::Get { key: key.to_owned() },
            HostCall::Put(key, value) => Self::Put { key: key.to_owned(), value: value.to_vec() },
            HostCall::Delete(key) => Self::Delete { key: key.to_owned() },
            HostCall::Emit(request) => Self::Emit {
                item_type: request.type_.clone(),
                payload: request.payload.clone(),
                name: request.name.clone(),
            },
        }
    }
}

impl fmt::Display for GuestCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(OutgoingRequest { method, url, .. }) => write!(f, "{method} {url}"),
            Self::Get { key } => write!(f, "state get {key}"),
            Self::Put { key, .. } => write!(f, "state put {key}"),
            Self::Delete { key } => write!(f, "state delete {key}"),
            Self::Emit { item_type, name: Some(name), .. } => write!(f, "emit {item_type} {name}"),
            Self::Emit { item_type, .. } => write!(f, "emit {item_type}"),
        }
    }
}
