//! The backend of real attempts: it sends requests over the network and maps the errors of the client.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::load::manifest::value::show_size;
use crate::outgoing::backend::{HostBackend, ResponseFuture, SendError};
use crate::outgoing::client;
use crate::outgoing::client::{ConnectError, HEAD_MAX, HEADERS_COUNT_MAX, HttpClient};
use crate::outgoing::grant::{Grants, http_lines};
use crate::outgoing::resolve::Resolver;
use crate::sandbox::observations::Denial;

/// The network of one plugin, with connections that no other plugin uses.
#[derive(Debug)]
pub(crate) struct Network {
    client: HttpClient,
}

impl Network {
    /// The network within these grants.
    pub(crate) fn new(grants: Arc<Grants>, resolver: Arc<dyn Resolver>) -> Self {
        Self { client: client::client(grants, resolver) }
    }
}

impl HostBackend for Network {
    fn send(&self, request: Request<WasiBody>, requested_timeout: Option<Duration>) -> ResponseFuture {
        let lines = http_lines(request.method(), request.uri());
        let sending = self.client.request(request);
        Box::pin(async move {
            let response = match requested_timeout {
                Some(requested_timeout) => {
                    tokio::time::timeout(requested_timeout, sending).await.map_err(|_| response_timeout())?
                }
                None => sending.await,
            };
            response.map(boxed).map_err(|err| explain(&err, &lines))
        })
    }
}

fn boxed(response: Response<hyper::body::Incoming>) -> Response<WasiBody> {
    response.map(|body| body.map_err(Error::Hyper).boxed_unsync())
}

fn response_timeout() -> SendError {
    SendError { error: Error::HttpResponseTimeout, was_sent: true, denial: None }
}

fn explain(err: &hyper_util::client::legacy::Error, lines: &str) -> SendError {
    if err.is_connect() { connect_failed(err, lines) } else { exchange_failed(err) }
}

fn exchange_failed(err: &hyper_util::client::legacy::Error) -> SendError {
    let (error, denial) = match (find::<Error>(err), find::<hyper::Error>(err)) {
        (Some(Error::HttpRequestBodySize(most)), _) => (Error::HttpRequestBodySize(*most), None),
        (_, Some(err)) if err.is_parse_too_large() => {
            let (bytes, count) = (show_size(HEAD_MAX as u64), HEADERS_COUNT_MAX);
            let what = format!("the head of an answer may have {bytes} and {count} headers");
            let error = Error::HttpResponseHeaderSectionSize(u32::try_from(HEAD_MAX).ok());
            (error, Some(Denial { what, lines: None }))
        }
        (_, Some(err)) if err.is_parse() => (Error::HttpProtocolError, None),
        _ => (Error::ConnectionTerminated, None),
    };
    SendError { error, was_sent: true, denial }
}

fn connect_failed(err: &hyper_util::client::legacy::Error, lines: &str) -> SendError {
    let (error, denial) = match find::<ConnectError>(err) {
        Some(reason @ ConnectError::OutOfScope { .. }) => {
            let lines = format!("{lines}\nprivate = true   # unless the address is link-local or metadata");
            let denial = Denial { what: reason.to_string(), lines: Some(lines) };
            (Error::DestinationIpProhibited, Some(denial))
        }
        Some(ConnectError::TimedOut { .. }) => (Error::ConnectionTimeout, None),
        Some(ConnectError::Unresolved { source, .. }) => {
            (Error::DnsError { rcode: Some(source.to_string()), info_code: None }, None)
        }
        Some(ConnectError::Refused { .. }) => (Error::ConnectionRefused, None),
        None => (Error::TlsProtocolError, None),
    };
    SendError { error, was_sent: false, denial }
}

fn find<'a, E: StdError + 'static>(err: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(err), |&err| err.source()).find_map(|err| err.downcast_ref())
}
