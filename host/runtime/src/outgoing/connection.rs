//! One TCP connection to a receiver, and what the host knows about its death.
//!
//! A connection that waits in the pool can die without a sign: a firewall forgets it, or the other machine restarts. So
//! the connection counts what was written, and at its end asks the kernel how much of that the other side has
//! acknowledged. It does not know which requests it carries.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long an idle connection is silent before the kernel asks whether the other side still knows it, how long it
/// waits for each answer, and how often it asks: a dead connection leaves the pool within half a minute.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
/// Milliseconds. How long sent bytes may stay unacknowledged before the connection counts as dead: several
/// retransmissions, and shorter than most attempts.
const USER_TIMEOUT_MS: u32 = 10_000;

/// A connection to a receiver.
#[derive(Debug)]
pub(crate) struct ReceiverConnection {
    stream: TcpStream,
    state: Arc<ConnectionState>,
}

/// What the host knows about one connection. The requests that it carries share it.
#[derive(Debug, Default)]
pub(crate) struct ConnectionState {
    /// Bytes written in all.
    written: AtomicU64,
    /// Bytes that were written when the last answer began.
    written_at_answer: AtomicU64,
    has_answered: AtomicBool,
    has_ended: AtomicBool,
    /// Bytes that the other side had not acknowledged when the connection ended.
    unacknowledged: AtomicU64,
}

impl ConnectionState {
    /// Whether it has carried an answer before.
    pub(crate) fn is_reused(&self) -> bool {
        self.has_answered.load(Ordering::Acquire)
    }

    /// Records that the request which it carries is being answered.
    pub(crate) fn answered(&self) {
        self.written_at_answer.store(self.written.load(Ordering::Acquire), Ordering::Release);
        self.has_answered.store(true, Ordering::Release);
    }

    /// Whether the connection has ended, and the other side has acknowledged no byte of the request after the last
    /// answer: then it surely did not process that request.
    pub(crate) fn has_lost_request_unread(&self) -> bool {
        let sent = self.written.load(Ordering::Acquire) - self.written_at_answer.load(Ordering::Acquire);
        self.has_ended.load(Ordering::Acquire) && self.unacknowledged.load(Ordering::Acquire) >= sent
    }
}

impl ReceiverConnection {
    /// A connection whose death the kernel notices.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        // Small requests must not wait for the acknowledgement of earlier ones.
        stream.set_nodelay(true)?;
        let (idle, interval, count) = KEEPALIVE;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, idle)?;
        sockopt::set_tcp_keepintvl(&stream, interval)?;
        sockopt::set_tcp_keepcnt(&stream, count)?;
        sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS)?;
        Ok(Self { stream, state: Arc::default() })
    }

    fn ended(&self) {
        self.state.unacknowledged.store(unacknowledged(&self.stream), Ordering::Release);
        self.state.has_ended.store(true, Ordering::Release);
    }

    fn wrote(&self, result: &io::Result<usize>) {
        match result {
            Ok(bytes) => {
                self.state.written.fetch_add(*bytes as u64, Ordering::AcqRel);
            }
            Err(_) => self.ended(),
        }
    }
}

/// Bytes in the send queue that the other side has not acknowledged; 0 if the kernel does not tell.
#[expect(unsafe_code, reason = "the number has no safe function; see SAFETY")]
fn unacknowledged(stream: &TcpStream) -> u64 {
    /// `SIOCOUTQ` of Linux.
    const UNACKNOWLEDGED: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: the kernel writes one int for this request, and the stream owns an open socket.
    let queued = unsafe {
        let request = rustix::ioctl::Getter::<UNACKNOWLEDGED, std::ffi::c_int>::new();
        rustix::ioctl::ioctl(stream, request)
    };
    queued.ok().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}

impl Connection for ReceiverConnection {
    fn connected(&self) -> Connected {
        Connected::new().extra(Arc::clone(&self.state))
    }
}

impl AsyncRead for ReceiverConnection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut this.stream).poll_read(context, buffer));
        if result.is_err() || buffer.filled().len() == before {
            this.ended();
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for ReceiverConnection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_write(context, bytes));
        this.wrote(&result);
        Poll::Ready(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_write_vectored(context, slices));
        this.wrote(&result);
        Poll::Ready(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (ReceiverConnection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (ReceiverConnection::new(stream).unwrap(), listener.accept().await.unwrap().0)
    }

    async fn answered_once() -> (ReceiverConnection, TcpStream) {
        let (mut ours, mut theirs) = pair().await;
        ours.write_all(b"request").await.unwrap();
        theirs.read_exact(&mut [0; 7]).await.unwrap();
        theirs.write_all(b"answer").await.unwrap();
        ours.read_exact(&mut [0; 6]).await.unwrap();
        assert!(!ours.state.is_reused());
        ours.state.answered();
        (ours, theirs)
    }

    #[tokio::test]
    async fn a_request_to_a_connection_that_the_other_side_has_closed_was_surely_not_processed() {
        let (mut ours, theirs) = answered_once().await;
        assert!(ours.state.is_reused() && !ours.state.has_lost_request_unread());
        drop(theirs);
        ours.write_all(b"request").await.unwrap();
        assert_eq!(ours.read(&mut [0; 6]).await.unwrap_or(0), 0);
        assert!(ours.state.has_lost_request_unread());
    }

    #[tokio::test]
    async fn a_request_that_the_other_side_has_received_may_have_been_processed() {
        let (mut ours, mut theirs) = answered_once().await;
        ours.write_all(b"request").await.unwrap();
        theirs.read_exact(&mut [0; 7]).await.unwrap();
        drop(theirs);
        assert_eq!(ours.read(&mut [0; 6]).await.unwrap_or(0), 0);
        assert!(ours.state.is_reused() && !ours.state.has_lost_request_unread());
    }

    #[tokio::test]
    async fn the_kernel_asks_idle_connections_whether_they_live_and_gives_up_unacknowledged_bytes() {
        let (ours, _theirs) = pair().await;
        assert!(sockopt::socket_keepalive(&ours.stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&ours.stream).unwrap(), KEEPALIVE.0);
        assert_eq!(sockopt::tcp_user_timeout(&ours.stream).unwrap(), USER_TIMEOUT_MS);
    }
}
