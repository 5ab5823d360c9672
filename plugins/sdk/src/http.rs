//! A small HTTP client over `wasi:http`: it builds a request, sends it and classifies the answer.
//!
//! The host adds the idempotency key and the tracing headers, enforces the manifest's grants, and ends every wait at
//! the item's deadline. The client follows no redirects.
//!
//! The failure of a request without an answer has one of these codes: `upstream.connect` (no connection, or it broke),
//! `upstream.timeout`, `upstream.denied` (not granted), `upstream.invalid` (the request cannot be sent) and
//! `upstream.request` (the request is too large). Only `upstream.request` is permanent.

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

/// A request that has not been sent yet.
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

    /// Sets the body to JSON, and the content type to `application/json`.
    pub fn json(self, value: &impl Serialize) -> Result<Self, Failure> {
        Ok(self.header("content-type", "application/json").body(serde_json::to_vec(value)?))
    }

    /// Names this effect. Its idempotency key then depends on the name instead of method, URL and order.
    ///
    /// An attempt that sends different things to one URL needs this. The receiver does not see the name.
    pub fn effect(self, name: &str) -> Self {
        self.header("outbox-effect", name)
    }

    /// Limits each wait: for the connection, for the head of the answer, and between two parts of its body. The item's
    /// deadline applies as well.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Sends the request and waits for the whole answer. Any status is an answer.
    pub fn send(self) -> Result<Response, Failure> {
        self.start()?.wait()
    }

    /// Sends the request and does not wait for the answer, so that several requests can run at the same time.
    ///
    /// The host fails an attempt that returns `Ok` while a request is unanswered.
    pub fn start(self) -> Result<Pending, Failure> {
        wire::start(&self)
    }
}
