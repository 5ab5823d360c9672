//! The pooled HTTP client of one plugin. Its connector checks each address before it connects.
//!
//! Every plugin has connections of its own, so no plugin can see the traffic of another.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;
use tower_service::Service;

use crate::outgoing::address;
use crate::outgoing::authorities::TlsConfig;
use crate::outgoing::connect_error::{CONNECT_TIMEOUT, ConnectError};
use crate::outgoing::connection::ReceiverConnection;
use crate::outgoing::grant::Grants;
use crate::outgoing::happy_eyeballs;
use crate::outgoing::host_want::open_fault;
use crate::outgoing::repeatable_body::BodySending;
use crate::outgoing::resolve::{Resolver, addresses};

/// The client of one plugin.
pub(crate) type HttpClient = Client<TimedConnector, BodySending>;

/// Bytes of the head of a response: status line and headers.
pub(crate) const HEAD_MAX: usize = 64 << 10;
/// Headers of a response.
pub(crate) const HEADERS_COUNT_MAX: usize = 128;
/// The time for the name, the connection and TLS together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Shorter than the 60 seconds after which common servers close an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// Idle connections per host: about as many as attempts run at a time, so that bursts can reuse them.
const IDLE_CONNECTIONS: usize = 32;

/// A client without connections.
pub(crate) fn client(connector: TimedConnector) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .http1_max_buf_size(HEAD_MAX)
        .http1_max_headers(HEADERS_COUNT_MAX)
        .build(connector)
}

/// Connects within a bounded time: a receiver that accepts a connection may never answer the TLS handshake.
#[derive(Clone)]
pub(crate) struct TimedConnector(HttpsConnector<Connector>);

impl TimedConnector {
    /// A connector to what the grants allow.
    pub(crate) fn new(grants: Arc<Grants>, resolver: Arc<dyn Resolver>, tls: &TlsConfig) -> Self {
        let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls.client());
        Self(builder.https_or_http().enable_http1().wrap_connector(Connector { grants, resolver }))
    }
}

impl Service<Uri> for TimedConnector {
    type Response = MaybeHttpsStream<TokioIo<ReceiverConnection>>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move { timeout(HANDSHAKE_TIMEOUT, connecting).await? })
    }
}

/// Connects to the addresses that the plugin's grants allow.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    grants: Arc<Grants>,
    resolver: Arc<dyn Resolver>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<ReceiverConnection>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> Result<TokioIo<ReceiverConnection>, ConnectError> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let addresses = self.allowed_addresses(uri, &host).await?;
        match timeout(CONNECT_TIMEOUT, happy_eyeballs::connect(&addresses)).await {
            Err(_) => Err(ConnectError::TimedOut { host, addresses }),
            Ok(Err(failures)) => Err(ConnectError::Failed { host, failures }),
            Ok(Ok(stream)) => match ReceiverConnection::new(stream) {
                Ok(connection) => Ok(TokioIo::new(connection)),
                Err(err) => Err(ConnectError::Failed { host, failures: vec![(addresses[0], err)] }),
            },
        }
    }

    async fn allowed_addresses(&self, uri: &Uri, host: &str) -> Result<Vec<SocketAddr>, ConnectError> {
        let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default_port);
        let addresses = match timeout(CONNECT_TIMEOUT, addresses(&*self.resolver, host, port)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(source)) => return Err(unresolved(host, source)),
            Err(_) => return Err(ConnectError::ResolvedLate { host: host.to_owned() }),
        };
        let scope = self.grants.address_scope(uri);
        let allowed: Vec<_> =
            addresses.iter().copied().filter(|address| address::is_allowed(scope, address.ip())).collect();
        if allowed.is_empty() {
            return Err(ConnectError::OutOfScope { host: host.to_owned(), addresses });
        }
        Ok(allowed)
    }
}

fn unresolved(host: &str, answer: io::Error) -> ConnectError {
    ConnectError::Unresolved { host: host.to_owned(), source: open_fault().unwrap_or(answer) }
}
