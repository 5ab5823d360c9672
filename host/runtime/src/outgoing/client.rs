//! The pooled HTTP client of one plugin. Its connector checks each address before it connects.
//!
//! Every plugin has connections of its own, so no plugin can see the traffic of another.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use wasmtime_wasi_http::WasiBody;

use crate::outgoing::address;
use crate::outgoing::grant::Grants;
use crate::outgoing::resolve::{Resolver, addresses};

/// The client of one plugin.
pub(crate) type HttpClient = Client<HttpsConnector<Connector>, WasiBody>;

/// Bytes of the head of a response: status line and headers.
pub(crate) const HEAD_MAX: usize = 64 << 10;
/// Headers of a response.
pub(crate) const HEADERS_COUNT_MAX: usize = 128;
/// Longer than a connection within a continent takes, much shorter than an attempt.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than the 60 seconds after which common servers close an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// Idle connections per host: about as many as attempts run at a time, so that bursts can reuse them.
const IDLE_CONNECTIONS: usize = 32;

/// A client that connects only to what the grants allow.
pub(crate) fn client(grants: Arc<Grants>, resolver: Arc<dyn Resolver>) -> HttpClient {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(Connector { grants, resolver });
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .http1_max_buf_size(HEAD_MAX)
        .http1_max_headers(HEADERS_COUNT_MAX)
        .build(connector)
}

/// Connects to the addresses that the plugin's grants allow.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    grants: Arc<Grants>,
    resolver: Arc<dyn Resolver>,
}

/// Why there is no connection. No byte of the request was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The host name has no address.
    #[error("{host} could not be resolved: {source}")]
    Unresolved { host: String, source: io::Error },
    /// The grants allow none of the host's addresses.
    #[error("{host} is at {addresses:?}, which its grant does not reach")]
    OutOfScope { host: String, addresses: Vec<SocketAddr> },
    /// No address answered in time.
    #[error("no connection to {host} within {CONNECT_TIMEOUT:?}")]
    TimedOut { host: String },
    /// No address accepted the connection.
    #[error("no connection to {host}: {source}")]
    Refused { host: String, source: io::Error },
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let connecting = connector.connect(&uri);
            let timed_out = |_| ConnectError::TimedOut { host: uri.host().unwrap_or_default().to_owned() };
            tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(timed_out)?
        })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> Result<TokioIo<TcpStream>, ConnectError> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default_port);
        let addresses = match addresses(&*self.resolver, &host, port).await {
            Ok(addresses) => addresses,
            Err(source) => return Err(ConnectError::Unresolved { host, source }),
        };
        let scope = self.grants.address_scope(uri);
        let allowed: Vec<_> =
            addresses.iter().copied().filter(|address| address::is_allowed(scope, address.ip())).collect();
        if allowed.is_empty() {
            return Err(ConnectError::OutOfScope { host, addresses });
        }
        match TcpStream::connect(&allowed[..]).await {
            Ok(stream) => {
                // Small requests must not wait for the acknowledgement of earlier ones.
                stream.set_nodelay(true).map_err(|source| ConnectError::Refused { host, source })?;
                Ok(TokioIo::new(stream))
            }
            Err(source) => Err(ConnectError::Refused { host, source }),
        }
    }
}
