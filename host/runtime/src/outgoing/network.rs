//! The backend of real attempts: it sends requests over the network, and replaces connections that have died unused.
//!
//! A request that a reused connection has lost is sent again at once if the receiver surely did not get it. It does not
//! know what an error means for the guest; `send_failure` does.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::header::{DATE, HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Error as ClientError;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use wasmtime_wasi::clocks::wall_clock;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::outgoing::authorities::TlsConfig;
use crate::outgoing::backend::{HostBackend, ResponseFuture};
use crate::outgoing::client::{HttpClient, TimedConnector, client};
use crate::outgoing::connection::ConnectionState;
use crate::outgoing::grant::{Grants, http_lines};
use crate::outgoing::repeatable_body::{BodySending, RepeatableBody};
use crate::outgoing::resolve::Resolver;
use crate::outgoing::send_failure::{explain, response_timeout};

/// How often a request that surely was not received is sent again.
const RESENDS_MAX: u32 = 2;

/// What a request says about its sender where the guest says nothing.
const PRODUCT: HeaderValue = HeaderValue::from_static(concat!("outbox/", env!("CARGO_PKG_VERSION")));

/// The network of one plugin, with connections that no other plugin uses.
#[derive(Debug)]
pub(crate) struct Network {
    pool: Arc<ReceiverPool>,
}

impl Network {
    /// The network within these grants.
    pub(crate) fn new(grants: Arc<Grants>, resolver: Arc<dyn Resolver>, tls: &TlsConfig) -> Self {
        let connector = TimedConnector::new(grants, resolver, tls);
        Self { pool: Arc::new(ReceiverPool { clients: ArcSwap::from_pointee(client(connector.clone())), connector }) }
    }
}

impl HostBackend for Network {
    fn send(&self, mut request: Request<WasiBody>, requested_timeout: Option<Duration>) -> ResponseFuture {
        let lines = http_lines(request.method(), request.uri());
        request.headers_mut().entry(USER_AGENT).or_insert(PRODUCT);
        let pool = Arc::clone(&self.pool);
        Box::pin(async move {
            let sending = pool.send(request);
            let response = match requested_timeout {
                Some(requested_timeout) => {
                    tokio::time::timeout(requested_timeout, sending).await.map_err(|_| response_timeout())?
                }
                None => sending.await,
            };
            response.map(dated).map(boxed).map_err(|err| explain(&err, &lines))
        })
    }
}

/// Adds the date to an answer without one, as RFC 9110 asks of a recipient that has a clock: guests count a date in
/// `Retry-After` from it.
fn dated(mut response: Response<Incoming>) -> Response<Incoming> {
    response.headers_mut().entry(DATE).or_insert_with(|| {
        let now = httpdate::fmt_http_date(UNIX_EPOCH + wall_clock().now());
        HeaderValue::try_from(now).unwrap_or_else(|_| unreachable!("a date is a header value"))
    });
    response
}

fn boxed(response: Response<Incoming>) -> Response<WasiBody> {
    response.map(|body| body.map_err(Error::Hyper).boxed_unsync())
}

/// The connections of one plugin.
struct ReceiverPool {
    clients: ArcSwap<HttpClient>,
    connector: TimedConnector,
}

impl std::fmt::Debug for ReceiverPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiverPool").finish_non_exhaustive()
    }
}

impl ReceiverPool {
    async fn send(self: &Arc<Self>, request: Request<WasiBody>) -> Result<Response<Incoming>, ClientError> {
        let (head, body) = request.into_parts();
        let body = RepeatableBody::new(body);
        let mut resends = 0;
        loop {
            let (result, was_lost_unread) = self.send_once(Request::from_parts(head.clone(), body.sending())).await;
            if result.is_ok() || !was_lost_unread || resends == RESENDS_MAX || !body.is_repeatable() {
                return result;
            }
            resends += 1;
        }
    }

    /// Sends a request, and says whether a reused connection has lost it before the receiver got it.
    async fn send_once(
        self: &Arc<Self>,
        mut request: Request<BodySending>,
    ) -> (Result<Response<Incoming>, ClientError>, bool) {
        let connection = capture_connection(&mut request);
        let client = self.clients.load_full();
        let exchange = UnansweredRequest { pool: Arc::clone(self), client, connection, is_answered: false };
        let result = exchange.client.request(request).await;
        let was_lost_unread = result.is_err() && exchange.was_lost_unread();
        (exchange.ended(result), was_lost_unread)
    }

    /// Forgets the idle connections, unless that has been done since `used` was the client.
    fn renew(&self, used: &Arc<HttpClient>) {
        self.clients.compare_and_swap(used, Arc::new(client(self.connector.clone())));
    }
}

/// A request that was sent and has no answer yet. Dropped without one (an error, or a timeout), it makes the pool forget
/// its idle connections if it went out on a reused one: the others are likely to be as dead.
struct UnansweredRequest {
    pool: Arc<ReceiverPool>,
    client: Arc<HttpClient>,
    connection: CaptureConnection,
    is_answered: bool,
}

impl UnansweredRequest {
    fn state(&self) -> Option<Arc<ConnectionState>> {
        let mut extras = http::Extensions::new();
        self.connection.connection_metadata().as_ref()?.get_extras(&mut extras);
        extras.remove()
    }

    fn was_lost_unread(&self) -> bool {
        self.state().is_some_and(|state| state.is_reused() && state.has_lost_request_unread())
    }

    fn ended(mut self, result: Result<Response<Incoming>, ClientError>) -> Result<Response<Incoming>, ClientError> {
        if result.is_ok() {
            self.is_answered = true;
            if let Some(state) = self.state() {
                state.answered();
            }
        }
        result
    }
}

impl Drop for UnansweredRequest {
    fn drop(&mut self) {
        if !self.is_answered && self.state().is_some_and(|state| state.is_reused()) {
            self.pool.renew(&self.client);
        }
    }
}

#[cfg(test)]
mod tests;
