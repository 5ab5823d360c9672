//! Serves a router on a listener: the time limits of a connection, how connections begin, and how they end.
//!
//! A client without a token can open connections, so each has limits before its first request. This file knows no
//! route; the time limit of a body is in `body`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::access::PeerAddress;
use crate::connections::{ConnectionPlace, Connections, RequestInProgress};

/// The largest head in bytes, and the most bytes of a connection that are read ahead.
const READ_MAX: usize = 64 * 1024;
/// How long the system keeps a connection whose client acknowledges nothing.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that wait to be accepted; the system allows no more than its own limit, usually as many. A client that finds
/// the queue full tries again after a second.
const ACCEPT_QUEUE: u32 = 4_096;
/// The pause after a connection could not be accepted and none could be closed for it. The system has no descriptors then,
/// which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// A connection that is younger may have its request on the way: it is not closed for want of descriptors.
const SILENCE: Duration = Duration::from_millis(30);
/// The pause after some were closed for it. Their tasks free their descriptors meanwhile.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// The most connections that are open at a time. A new one takes the place of one that waits for a request; without
    /// such a one it is closed at once.
    pub max_connections: usize,
    /// How long the head of a request may take to arrive, from the beginning of the connection or the end of the
    /// response before.
    pub head_timeout: Duration,
    /// How long requests in progress may go on after the server was stopped.
    pub drain: Duration,
}

impl Default for ServeLimits {
    /// 1024 connections, 30 seconds for a head, and 20 seconds for the requests in progress.
    fn default() -> Self {
        Self { max_connections: 1024, head_timeout: Duration::from_secs(30), drain: Duration::from_secs(20) }
    }
}

/// Listens at an address. A crowd of connections that arrive at once waits in the queue, so it keeps no other client out.
///
/// # Errors
/// When the system refuses the address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A host that starts again takes over the port from connections that are closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_QUEUE)
}

/// Serves until `stop` is cancelled. Then closes the connections without a request at once, lets the requests in
/// progress go on for the drain time at most, and returns.
pub async fn run(listener: TcpListener, router: Router, limits: ServeLimits, stop: CancellationToken) {
    let connections = Connections::new(limits.max_connections);
    let mut tasks = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                if let Some(place) = connections.admit() {
                    let peer = PeerAddress::new(peer.ip());
                    tasks.spawn(serve(stream, peer, router.clone(), place, limits, stop.clone()));
                } else {
                    tracing::warn!(max = limits.max_connections, "a connection was closed: all are in use");
                }
            }
            Err(err) => make_room(&connections, &err, SILENCE).await,
        }
        while tasks.try_join_next().is_some() {}
    }
    drop(listener);
    let ended = timeout(limits.drain, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(connections = tasks.len(), "requests did not end in time and are cut off");
    }
}

/// After a failure of the listener that is none of one client. Closes connections that have been silent for this time.
async fn make_room(connections: &Connections, err: &io::Error, silence: Duration) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(err.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::warn!(error = %err, "a connection could not be accepted");
    sleep(if connections.close_some_waiting(silence) > 0 { ROOM_PAUSE } else { ACCEPT_PAUSE }).await;
}

async fn serve(
    stream: TcpStream,
    peer: PeerAddress,
    router: Router,
    place: Arc<ConnectionPlace>,
    limits: ServeLimits,
    stop: CancellationToken,
) {
    if let Err(err) = set_options(&stream) {
        tracing::debug!(error = %err, "a connection is served without the limits of its socket");
    }
    let service = service_fn(|request| respond(router.clone(), &place, peer, request));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_buf_size(READ_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = place.closed() => return,
        () = stop.cancelled() => {
            if place.is_idle() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = ended {
        tracing::debug!(error = %err, "a connection ended early");
    }
}

/// Answers are sent at once, and a client that is gone or reads nothing is noticed.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SEND_TIMEOUT))?;
    socket.set_keepalive(true)
}

async fn respond(
    mut router: Router,
    place: &Arc<ConnectionPlace>,
    peer: PeerAddress,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let in_progress = place.begin_request();
    request.extensions_mut().insert(peer);
    let is_cut = Arc::<AtomicBool>::default();
    let awaited = |body| AwaitedBody { body, place: Arc::clone(place), has_ended: false, is_cut: Arc::clone(&is_cut) };
    let request = request.map(|body| Body::new(awaited(body)));
    let mut response = Result::<_, Infallible>::unwrap_or_else(router.call(request).await, |never| match never {});
    // A refusal of the head does not read the body, and the connection cannot be used again.
    place.request_received();
    if is_cut.load(Ordering::Relaxed) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| ResponseBody { body, _in_progress: in_progress }))
}

/// A body for which its connection waits.
struct AwaitedBody {
    body: Incoming,
    place: Arc<ConnectionPlace>,
    has_ended: bool,
    /// Set when the route has not read the body to its end.
    is_cut: Arc<AtomicBool>,
}

impl HttpBody for AwaitedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.has_ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AwaitedBody {
    /// The body has been read, or the handler does not wait for it.
    fn drop(&mut self) {
        self.is_cut.store(!self.has_ended && !self.body.is_end_stream(), Ordering::Relaxed);
        self.place.request_received();
    }
}

/// A body that ends its request when it has been sent.
struct ResponseBody {
    body: Body,
    _in_progress: RequestInProgress,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// `EMFILE` of Linux.
    const NO_DESCRIPTORS: i32 = 24;

    #[tokio::test]
    async fn hundreds_of_connections_wait_to_be_accepted() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let mut waiting = Vec::new();
        for _ in 0..400 {
            let connecting = timeout(Duration::from_secs(10), TcpStream::connect(listener.local_addr().unwrap()));
            waiting.push(connecting.await.expect("the queue has room").unwrap());
        }
    }

    #[tokio::test]
    async fn without_descriptors_the_connection_that_has_waited_longest_makes_room() {
        let connections = Connections::new(9);
        let (longest, later) = (connections.admit().unwrap(), connections.admit().unwrap());
        make_room(&connections, &io::Error::from_raw_os_error(NO_DESCRIPTORS), Duration::from_hours(1)).await;
        assert!(longest.closed().now_or_never().is_none(), "its request may be on the way");
        make_room(&connections, &io::ErrorKind::ConnectionAborted.into(), Duration::ZERO).await;
        assert!(longest.closed().now_or_never().is_none(), "one client gave up");
        make_room(&connections, &io::Error::from_raw_os_error(NO_DESCRIPTORS), Duration::ZERO).await;
        assert!(longest.closed().now_or_never().is_some());
        assert!(later.closed().now_or_never().is_none());
    }

    #[tokio::test]
    async fn without_descriptors_a_crowd_of_silent_connections_makes_room_at_few_looks() {
        let connections = Connections::new(1_000);
        let silent: Vec<_> = (0..400).map(|_| connections.admit().unwrap()).collect();
        let mut looks = 0;
        while silent.iter().any(|place| place.closed().now_or_never().is_none()) {
            make_room(&connections, &io::Error::from_raw_os_error(NO_DESCRIPTORS), Duration::ZERO).await;
            looks += 1;
        }
        assert!(looks < 50, "{looks}");
    }
}
