//! A small HTTP client over `wasi:http`: build a request, send it, classify the answer.
//!
//! The host adds the idempotency key and the tracing headers, enforces the manifest's grants, and
//! bounds every wait by the item's deadline. Redirects are not followed.
//!
//! A request without an answer fails with one of `upstream.connect` (or the connection broke),
//! `upstream.timeout`, `upstream.denied`, `upstream.invalid` (it cannot be sent) and
//! `upstream.request` (it is too large). Only the last is permanent.

mod response;
mod wire;

use std::time::Duration;

use serde::Serialize;

use crate::Failure;

pub use response::Response;
pub use wire::Pending;

/// A GET request.
pub fn get(url: impl Into<String>) -> Request {
    Request::new("GET", url)
}

/// A POST request.
pub fn post(url: impl Into<String>) -> Request {
    Request::new("POST", url)
}

/// A request that has not been sent.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

impl Request {
    /// A request with any method.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// Sets the body.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Sets the body to JSON, and its content type.
    pub fn json(self, value: &impl Serialize) -> Result<Self, Failure> {
        Ok(self.header("content-type", "application/json").body(serde_json::to_vec(value)?))
    }

    /// Names this effect, so that its idempotency key does not depend on method, URL or order.
    ///
    /// Needed where one attempt sends different things to one URL; the receiver never sees the name.
    pub fn effect(self, name: &str) -> Self {
        self.header("outbox-effect", name)
    }

    /// Waits no longer than this for the connection, for the answer's head, and between two parts of
    /// its body. The item's deadline holds as well.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Sends the request and waits for the whole answer, whatever its status.
    pub fn send(self) -> Result<Response, Failure> {
        self.start()?.wait()
    }

    /// Sends the request without waiting for the answer, so that several can be on their way.
    ///
    /// An item that is answered with `Ok` while a request is unanswered counts as failed.
    pub fn start(self) -> Result<Pending, Failure> {
        wire::start(&self)
    }
}
