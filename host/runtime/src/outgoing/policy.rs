//! Decides which requests of a guest are sent, and which are denied.
//!
//! Only what the manifest grants is sent. Every request that may have an effect has an idempotency key that the guest
//! cannot choose. A denial is a typed error for the guest and is recorded for the operator. The host follows no
//! redirects; a guest that follows one sends a new request, which needs a grant again. `address` decides to which
//! addresses a host name may resolve, when the connection is made.

use std::sync::Arc;

use http::header::{EXPECT, HOST, HeaderName, TE, TRAILER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::Instant;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

use outbox_core::{RequestEnd, RequestSpan, TracedAttempt};

use crate::load::manifest::limits::Limits;
use crate::load::manifest::value::show_size;
use crate::outgoing::backend::{HostBackend, SendError};
use crate::outgoing::grant::{Grants, SecretHeader, http_lines, origin_of};
use crate::outgoing::host_headers::{HostHeaders, span_of};
use crate::outgoing::host_want::{causes, is_host_want};
use crate::outgoing::recorder::ExchangeHandle;
use crate::sandbox::observations::{AttemptObservations, Denial, InFlightRequest, NetworkFault, RequestKind};

/// Headers that concern one connection only, besides those that are forbidden by default.
const HOP_HEADERS: [HeaderName; 3] = [EXPECT, TE, TRAILER];

/// The grants and limits of one plugin's requests, made once per generation.
#[derive(Debug)]
pub(crate) struct OutgoingPolicy {
    grants: Arc<Grants>,
    limits: Limits,
}

impl OutgoingPolicy {
    /// The policy that follows from a manifest.
    pub(crate) fn new(grants: Arc<Grants>, limits: Limits) -> Self {
        Self { grants, limits }
    }
}

/// The requests of one attempt.
#[derive(Debug)]
pub(crate) struct OutgoingHttp {
    policy: Arc<OutgoingPolicy>,
    backend: Arc<dyn HostBackend>,
    host_headers: Option<HostHeaders>,
    observations: Arc<AttemptObservations>,
    deadline: Instant,
    requests_sent: u32,
    trace: Option<Arc<TracedAttempt>>,
}

type SendResult = Result<(Response<WasiBody>, BodyIo), Error>;
type BodyIo = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl OutgoingHttp {
    /// The requests of an attempt. Without host headers (there is no item) every request is denied.
    pub(crate) fn new(
        policy: Arc<OutgoingPolicy>,
        backend: Arc<dyn HostBackend>,
        host_headers: Option<HostHeaders>,
        observations: Arc<AttemptObservations>,
        deadline: Instant,
    ) -> Self {
        Self { policy, backend, host_headers, observations, deadline, requests_sent: 0, trace: None }
    }

    /// The same requests, with a span for each.
    pub(crate) fn traced(self, trace: Option<Arc<TracedAttempt>>) -> Self {
        Self { trace, ..self }
    }

    /// The span of a request that has the host's headers.
    fn span(&self, request: &Request<WasiBody>) -> Option<RequestSpan> {
        let trace = self.trace.as_ref().filter(|trace| trace.is_recorded())?;
        let span = span_of(request.headers())?;
        Some(trace.request(span, request.method().as_str(), &origin_of(request.uri())))
    }

    fn prepare(
        &mut self,
        request: Request<WasiBody>,
    ) -> Result<(Request<WasiBody>, ExchangeHandle), (Error, WasiBody)> {
        let (mut head, body) = request.into_parts();
        let original = head.clone();
        if let Err(error) = self.authorize(&mut head) {
            return Err((error, body));
        }
        if !self.observations.may_send(&origin_of(&head.uri)) {
            return Err((Error::ConnectionRefused, body));
        }
        let handle = self.observations.recorder.begin(original);
        let body = handle.capture_request(self.limit_request(body));
        Ok((Request::from_parts(head, body), handle))
    }

    fn authorize(&mut self, head: &mut http::request::Parts) -> Result<(), Error> {
        self.check_form(head)?;
        let policy = Arc::clone(&self.policy);
        let granted = policy.grants.allow(&head.method, &head.uri);
        let (Some(grant), Some(host_headers)) = (granted, self.host_headers.as_mut()) else {
            return Err(self.deny_request(head));
        };
        if self.requests_sent >= policy.limits.http_requests {
            return Err(self.deny_count());
        }
        self.requests_sent += 1;
        if let Err(accepted) = host_headers.set(&head.method, &head.uri.to_string(), &mut head.headers) {
            self.observations.deny(accepted, None);
            return Err(Error::HttpRequestDenied);
        }
        // The HTTP client sets it from the URL.
        head.headers.remove(HOST);
        for SecretHeader { header, value, .. } in &grant.secrets {
            head.headers.insert(header, value.clone());
        }
        Ok(())
    }

    /// Denies requests that no manifest can grant.
    fn check_form(&self, head: &http::request::Parts) -> Result<(), Error> {
        // A response to TRACE would show the guest the secrets that the host adds.
        if matches!(head.method, Method::CONNECT | Method::TRACE) {
            self.observations.deny(format!("{} is no method of an outgoing request", head.method), None);
            return Err(Error::HttpRequestMethodInvalid);
        }
        if head.uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            self.observations.deny("a URL with a name or a password in it is never sent".to_owned(), None);
            return Err(Error::HttpRequestUriInvalid);
        }
        Ok(())
    }

    fn deny_request(&self, head: &http::request::Parts) -> Error {
        // The path and the query may be secrets, which must not be logged. The lines have the path.
        let what = format!("{} {} is not granted", head.method, origin_of(&head.uri));
        self.observations.deny(what, Some(http_lines(&head.method, &head.uri)));
        Error::HttpRequestDenied
    }

    fn deny_count(&self) -> Error {
        let most = self.policy.limits.http_requests;
        let lines = format!("[limits]\nhttp_requests = {}", most.saturating_mul(2).max(1));
        self.observations.deny(
            format!("an attempt may send {most} requests (`limits.http_requests`), and this was one more"),
            Some(lines),
        );
        Error::HttpRequestDenied
    }

    fn limit_request(&self, body: WasiBody) -> WasiBody {
        limit_body(
            body,
            BodyLimit { what: "request", max: self.policy.limits.request, error: Error::HttpRequestBodySize },
            Arc::clone(&self.observations),
        )
    }
}

impl WasiHttpHooks for OutgoingHttp {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name) || HOP_HEADERS.contains(name))
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    // Guests that write a whole body before they send the request must not block: nothing reads the body yet.
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
        _: BodyIo,
    ) -> Box<dyn Future<Output = SendResult> + Send> {
        let (request, handle) = match self.prepare(request) {
            Ok(prepared) => prepared,
            Err((error, body)) => {
                tokio::spawn(drain(body));
                return Box::new(async { Err(error) });
            }
        };
        // Only a timeout that ends before the attempt's deadline gets a timer. At the deadline the attempt ends; its
        // guest must not see a timeout that it might report as its own failure.
        let requested_timeout = options.and_then(|options| options.first_byte_timeout);
        let requested_timeout =
            requested_timeout.filter(|requested_timeout| Instant::now() + *requested_timeout < self.deadline);
        let in_flight = self.observations.request_started(RequestKind::of(request.method()));
        let (origin, span) = (origin_of(request.uri()), self.span(&request));
        let sending = self.backend.send(request, requested_timeout);
        let exchange = ExchangeInProgress {
            origin,
            response_limit: self.policy.limits.response,
            observations: Arc::clone(&self.observations),
            handle,
            span,
        };
        Box::new(async move { exchange.finish(sending.await, in_flight) })
    }
}

/// Reads and discards the body that the guest may still be writing. Otherwise the guest would see a broken stream
/// instead of the reason.
async fn drain(mut body: WasiBody) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// A request that was sent and has no response yet.
struct ExchangeInProgress {
    origin: String,
    response_limit: u64,
    observations: Arc<AttemptObservations>,
    handle: ExchangeHandle,
    span: Option<RequestSpan>,
}

impl ExchangeInProgress {
    fn finish(mut self, result: Result<Response<WasiBody>, SendError>, in_flight: InFlightRequest) -> SendResult {
        self.observations.request_to(&self.origin, request_end(&result));
        if let Some(span) = self.span.take() {
            end_span(span, &result);
        }
        let response =
            self.response_or_error(result, in_flight).inspect_err(|error| self.handle.request_failed(error))?;
        let (head, body) = response.into_parts();
        self.handle.response_received(&head);
        Ok((Response::from_parts(head, self.handle.capture_response(body)), Box::new(async { Ok(()) })))
    }

    fn response_or_error(
        &self,
        result: Result<Response<WasiBody>, SendError>,
        in_flight: InFlightRequest,
    ) -> Result<Response<WasiBody>, Error> {
        match result {
            Ok(response) => {
                in_flight.finish();
                self.observations.request_ended(None);
                Ok(self.limit_response(response))
            }
            Err(SendError { error, was_sent, denial, fault }) => {
                self.observations.request_ended(fault.map(|fault| *fault));
                if was_sent {
                    in_flight.finish();
                } else {
                    in_flight.cancel();
                }
                if let Some(Denial { what, lines }) = denial {
                    self.observations.deny(what, lines);
                }
                Err(error)
            }
        }
    }

    fn limit_response(&self, response: Response<WasiBody>) -> Response<WasiBody> {
        let limit = BodyLimit { what: "response", max: self.response_limit, error: Error::HttpResponseBodySize };
        response.map(|body| limit_body(body, limit, Arc::clone(&self.observations)))
    }
}

fn end_span(span: RequestSpan, result: &Result<Response<WasiBody>, SendError>) {
    match result {
        Ok(response) => span.answered(response.status().as_u16()),
        Err(SendError { fault: Some(fault), .. }) => span.failed(fault.what.clone()),
        Err(SendError { denial: Some(denial), .. }) => span.failed(denial.what.clone()),
        Err(SendError { error, .. }) => span.failed(error.to_string()),
    }
}

/// What the end of a request says about its receiver.
fn request_end(result: &Result<Response<WasiBody>, SendError>) -> RequestEnd {
    match result {
        Ok(response) if is_failure(response.status()) => RequestEnd::Failed(format!("status {}", response.status())),
        Ok(_) => RequestEnd::Answered,
        Err(SendError { denial: Some(_), .. } | SendError { error: Error::HttpRequestBodySize(_), .. }) => {
            RequestEnd::Unknown
        }
        Err(SendError { fault: Some(fault), .. }) if fault.is_hosts => RequestEnd::Unknown,
        Err(SendError { fault: Some(fault), .. }) => RequestEnd::Failed(fault.what.clone()),
        Err(SendError { fault: None, .. }) => RequestEnd::Failed("no answer in the handler's time".to_owned()),
    }
}

/// Whether a receiver that answers so is out of order or asks for fewer requests.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// The largest size of a body, and the error of a larger one.
struct BodyLimit {
    what: &'static str,
    max: u64,
    error: fn(Option<u64>) -> Error,
}

fn limit_body(body: WasiBody, limit: BodyLimit, observations: Arc<AttemptObservations>) -> WasiBody {
    let limited = Limited::new(body, usize::try_from(limit.max).unwrap_or(usize::MAX));
    limited
        .map_err(move |err| match err.downcast::<Error>() {
            Ok(err) => {
                observations.request_ended(broken_body(&err));
                *err
            }
            Err(err) if err.is::<LengthLimitError>() => limit.exceeded(&observations),
            Err(err) => Error::InternalError(Some(err.to_string())),
        })
        .boxed_unsync()
}

/// What the words for the end of a response are that its receiver did not finish.
fn broken_body(err: &Error) -> Option<NetworkFault> {
    let Error::Hyper(err) = err else { return None };
    let words: Vec<_> = causes(err).map(ToString::to_string).collect();
    let what = format!("the response broke off: {}", words.join(": "));
    Some(NetworkFault { what, is_hosts: is_host_want(err) })
}

impl BodyLimit {
    fn exceeded(&self, observations: &AttemptObservations) -> Error {
        let Self { what, max, error } = self;
        let lines = format!("[limits]\n{what} = \"{}\"", show_size(max.saturating_mul(2)));
        observations.deny(
            format!("the body of a {what} was larger than `limits.{what}`, which is {}", show_size(*max)),
            Some(lines),
        );
        error(Some(*max))
    }
}

#[cfg(test)]
mod tests;
