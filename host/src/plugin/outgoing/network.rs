//! The network as what lies outside: a pooled client for each plugin, and what its errors mean.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, WasiBody};

use super::client::{self, ConnectError, HttpClient};
use super::resolve::Resolver;
use super::{HEAD_MAX, HEADERS_COUNT_MAX};
use crate::plugin::evidence::Denial;
use crate::plugin::grant::{Grants, http_lines};
use crate::plugin::manifest::show_size;
use crate::plugin::outside::{Outside, Sending, Unanswered};

/// The network as one plugin reaches it, with connections that no other plugin uses.
#[derive(Debug)]
pub(in crate::plugin) struct Network {
    client: HttpClient,
}

impl Network {
    /// The network within the reach of these grants.
    pub(in crate::plugin) fn new(grants: Arc<Grants>, resolver: Arc<dyn Resolver>) -> Self {
        Self { client: client::client(grants, resolver) }
    }
}

impl Outside for Network {
    fn send(&self, request: Request<WasiBody>, wish: Option<Duration>) -> Sending {
        let lines = http_lines(request.method(), request.uri());
        let answering = self.client.request(request);
        Box::pin(async move {
            let answered = match wish {
                Some(wish) => tokio::time::timeout(wish, answering).await.map_err(|_| overdue())?,
                None => answering.await,
            };
            answered.map(boxed).map_err(|err| explain(&err, &lines))
        })
    }
}

fn boxed(response: Response<hyper::body::Incoming>) -> Response<WasiBody> {
    response.map(|body| body.map_err(Error::Hyper).boxed_unsync())
}

fn overdue() -> Unanswered {
    Unanswered { error: Error::HttpResponseTimeout, was_sent: true, denial: None }
}

fn explain(err: &hyper_util::client::legacy::Error, lines: &str) -> Unanswered {
    if err.is_connect() { unconnected(err, lines) } else { interrupted(err) }
}

fn interrupted(err: &hyper_util::client::legacy::Error) -> Unanswered {
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
    Unanswered { error, was_sent: true, denial }
}

fn unconnected(err: &hyper_util::client::legacy::Error, lines: &str) -> Unanswered {
    let (error, denial) = match find::<ConnectError>(err) {
        Some(reason @ ConnectError::OutOfReach { .. }) => {
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
    Unanswered { error, was_sent: false, denial }
}

fn find<'a, E: StdError + 'static>(err: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(err), |&err| err.source()).find_map(|err| err.downcast_ref())
}
