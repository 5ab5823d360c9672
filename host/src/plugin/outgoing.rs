//! Outgoing HTTP: what a guest sends passes here, is judged, stamped and counted, and only then sent.
//!
//! Promises: nothing leaves that the manifest does not grant; every request that may have an effect
//! bears a key that the guest cannot choose; a denial is a typed error to the guest and is recorded.
//! No redirect is followed: a guest that follows one comes through here again.

mod address;
mod client;
mod keys;
mod network;
mod resolve;

use std::sync::Arc;

use http::header::{EXPECT, HOST, HeaderName, TE, TRAILER};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::Instant;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

use super::evidence::{Denial, Evidence, Flight};
use super::grant::{Grants, Secret, http_lines};
use super::manifest::{Limits, show_size};
use super::outside::{Outside, Unanswered};
pub(super) use keys::{CORRELATION_ID, IDEMPOTENCY_KEY, Keys, TRACEPARENT, effects_root};
pub(super) use network::Network;
pub use resolve::{Resolver, SystemResolver};

/// Bytes of the head of an answer: status line and headers.
const HEAD_MAX: usize = 64 << 10;
/// Headers of an answer.
const HEADERS_COUNT_MAX: usize = 128;
/// Headers that are between two neighbours on the way, beside those that are forbidden by default.
const HOP_HEADERS: [HeaderName; 3] = [EXPECT, TE, TRAILER];

/// What outgoing HTTP needs to know of a plugin; made once per generation.
#[derive(Debug)]
pub(super) struct OutgoingPolicy {
    grants: Arc<Grants>,
    limits: Limits,
}

impl OutgoingPolicy {
    /// The policy that follows from a manifest.
    pub(super) fn new(grants: Arc<Grants>, limits: Limits) -> Self {
        Self { grants, limits }
    }
}

/// The outgoing side of one attempt.
#[derive(Debug)]
pub(super) struct Outgoing {
    policy: Arc<OutgoingPolicy>,
    outside: Arc<dyn Outside>,
    keys: Option<Keys>,
    evidence: Arc<Evidence>,
    deadline: Instant,
    sent: u32,
}

type Answer = Result<(Response<WasiBody>, Trailing), Error>;
type Trailing = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl Outgoing {
    /// The outgoing side of an attempt; without keys everything is denied.
    pub(super) fn new(
        policy: Arc<OutgoingPolicy>,
        outside: Arc<dyn Outside>,
        keys: Option<Keys>,
        evidence: Arc<Evidence>,
        deadline: Instant,
    ) -> Self {
        Self { policy, outside, keys, evidence, deadline, sent: 0 }
    }

    fn admit(&mut self, request: Request<WasiBody>) -> Result<Request<WasiBody>, (Error, WasiBody)> {
        let (mut head, body) = request.into_parts();
        match self.judge(&mut head) {
            Ok(()) => Ok(Request::from_parts(head, self.cap_request(body))),
            Err(error) => Err((error, body)),
        }
    }

    fn judge(&mut self, head: &mut http::request::Parts) -> Result<(), Error> {
        self.check_form(head)?;
        let policy = Arc::clone(&self.policy);
        let (Some(rule), Some(keys)) = (policy.grants.allow(&head.method, &head.uri), self.keys.as_mut()) else {
            return Err(self.deny_request(head));
        };
        if self.sent >= policy.limits.http_requests {
            return Err(self.deny_count());
        }
        self.sent += 1;
        if let Err(accepted) = keys.stamp(&head.method, &head.uri.to_string(), &mut head.headers) {
            self.evidence.deny(accepted, None);
            return Err(Error::HttpRequestDenied);
        }
        // The client writes it from the URL.
        head.headers.remove(HOST);
        for Secret { header, value } in &rule.secrets {
            head.headers.insert(header, value.clone());
        }
        Ok(())
    }

    /// Refuses requests that no grant can mean.
    fn check_form(&self, head: &http::request::Parts) -> Result<(), Error> {
        // An answer to TRACE would show the guest the secrets that the host adds.
        if matches!(head.method, Method::CONNECT | Method::TRACE) {
            self.evidence.deny(format!("{} is no method of an outgoing request", head.method), None);
            return Err(Error::HttpRequestMethodInvalid);
        }
        if head.uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            self.evidence.deny("a URL with a name or a password in it is never sent".to_owned(), None);
            return Err(Error::HttpRequestUriInvalid);
        }
        Ok(())
    }

    fn deny_request(&self, head: &http::request::Parts) -> Error {
        // The query may hold what nobody should read in a log.
        let what = format!("{} {} is not granted", head.method, without_query(&head.uri));
        self.evidence.deny(what, Some(http_lines(&head.method, &head.uri)));
        Error::HttpRequestDenied
    }

    fn deny_count(&self) -> Error {
        let most = self.policy.limits.http_requests;
        let lines = format!("[limits]\nhttp_requests = {}", most.saturating_mul(2).max(1));
        self.evidence.deny(
            format!("an attempt may send {most} requests (`limits.http_requests`), and this was one more"),
            Some(lines),
        );
        Error::HttpRequestDenied
    }

    fn cap_request(&self, body: WasiBody) -> WasiBody {
        let most = self.policy.limits.request;
        cap(body, Cap { what: "request", most, error: Error::HttpRequestBodySize }, Arc::clone(&self.evidence))
    }
}

impl WasiHttpHooks for Outgoing {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name) || HOP_HEADERS.contains(name))
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    // Guests that write a whole body before they send it must not wait for a reader for ever.
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        16
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        64 << 10
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Trailing,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let request = match self.admit(request) {
            Ok(request) => request,
            Err((error, body)) => {
                tokio::spawn(drain(body));
                return Box::new(async { Err(error) });
            }
        };
        // Only a wish for less than the attempt has gets a timer: at the deadline itself the attempt
        // ends, and its guest is not told of a timeout that it might pass on as its own failure.
        let wish = options.and_then(|options| options.first_byte_timeout);
        let wish = wish.filter(|wish| Instant::now() + *wish < self.deadline);
        let flight = self.evidence.take_off(request.method().is_safe());
        let sending = self.outside.send(request, wish);
        let exchange = Exchange { most: self.policy.limits.response, evidence: Arc::clone(&self.evidence) };
        Box::new(async move { exchange.finish(sending.await, flight) })
    }
}

/// Reads and throws away the body that the guest may still write, while it gets the error: else it
/// sees a broken stream and not the reason.
async fn drain(mut body: WasiBody) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// What there is to do when a request has been answered, or has not.
struct Exchange {
    most: u64,
    evidence: Arc<Evidence>,
}

impl Exchange {
    fn finish(self, answered: Result<Response<WasiBody>, Unanswered>, flight: Flight) -> Answer {
        match answered {
            Ok(response) => {
                flight.land();
                Ok((self.cap_response(response), Box::new(async { Ok(()) })))
            }
            Err(Unanswered { error, was_sent, denial }) => {
                if was_sent {
                    flight.land();
                } else {
                    flight.call_off();
                }
                if let Some(Denial { what, lines }) = denial {
                    self.evidence.deny(what, lines);
                }
                Err(error)
            }
        }
    }

    fn cap_response(&self, response: Response<WasiBody>) -> Response<WasiBody> {
        let most = Cap { what: "response", most: self.most, error: Error::HttpResponseBodySize };
        response.map(|body| cap(body, most, Arc::clone(&self.evidence)))
    }
}

/// How large a body may be, and what its reader is told when it is larger.
struct Cap {
    what: &'static str,
    most: u64,
    error: fn(Option<u64>) -> Error,
}

fn cap(body: WasiBody, cap: Cap, evidence: Arc<Evidence>) -> WasiBody {
    let limited = Limited::new(body, usize::try_from(cap.most).unwrap_or(usize::MAX));
    limited
        .map_err(move |err| match err.downcast::<Error>() {
            Ok(err) => *err,
            Err(err) if err.is::<LengthLimitError>() => cap.exceeded(&evidence),
            Err(err) => Error::InternalError(Some(err.to_string())),
        })
        .boxed_unsync()
}

impl Cap {
    fn exceeded(&self, evidence: &Evidence) -> Error {
        let Self { what, most, error } = self;
        let lines = format!("[limits]\n{what} = \"{}\"", show_size(most.saturating_mul(2)));
        evidence.deny(
            format!("the body of a {what} was larger than `limits.{what}`, which is {}", show_size(*most)),
            Some(lines),
        );
        error(Some(*most))
    }
}

fn without_query(uri: &http::Uri) -> String {
    let text = uri.to_string();
    text.split('?').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
