//! What a guest asks of the host, and what a world answers, in words that can be compared and shown.

use std::fmt;

use http::header::{CONTENT_LENGTH, HeaderName};
use http::request::Parts;
use serde::Serialize;

use crate::outgoing::backend::HostCall;
use crate::outgoing::host_headers::{CORRELATION_ID, IDEMPOTENCY_KEY, TRACEPARENT};

/// A call of the host that may have an effect, or answer differently the next time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestCall {
    /// A request is sent.
    Request(OutgoingRequest),
    /// A key of the state is read.
    Get {
        /// The key.
        key: String,
    },
    /// A key of the state is set.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// A key of the state is removed.
    Delete {
        /// The key.
        key: String,
    },
    /// A follow-up is emitted.
    Emit {
        /// Its type.
        item_type: String,
        /// Its payload.
        payload: Vec<u8>,
        /// What tells it from others of its type.
        name: Option<String>,
    },
}

/// A request as a receiver gets it, apart from what the host adds and nobody chooses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutgoingRequest {
    /// The method.
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// The headers that the guest set, in the order of their names.
    pub headers: Vec<(String, String)>,
    /// The `Idempotency-Key` that the host gave it; none for a safe request.
    pub key: Option<String>,
    /// The body.
    #[serde(skip)]
    pub body: Vec<u8>,
}

impl OutgoingRequest {
    /// Whether it asks for the same: its headers do not say what for.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.method == other.method && self.url == other.url && self.body == other.body
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorldResponse {
    /// It is answered.
    Response {
        /// The status code.
        status: u16,
        /// The headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// There is nobody to connect to: it was never sent.
    Refused,
    /// It was sent, and the connection broke.
    Broken,
    /// It was sent, and there is no answer for as long as anybody waits.
    Silence,
}

/// Headers that say how the request came to be, not what it asks for.
const HOST_HEADERS: [HeaderName; 4] = [IDEMPOTENCY_KEY, CORRELATION_ID, TRACEPARENT, CONTENT_LENGTH];

impl OutgoingRequest {
    /// The request without what the host added. Secrets are left out with it.
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

    /// Whether it can have no effect.
    pub fn is_safe(&self) -> bool {
        self.key.is_none()
    }
}

impl GuestCall {
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
