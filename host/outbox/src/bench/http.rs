//! A minimal HTTP receiver and a minimal HTTP caller. Both use little processor time, because they share the machine
//! with the host that is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

/// Answers every request with 200, at once or after [`Self::release`]. Dropping it stops it.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    held: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
    _stop: DropGuard,
}

impl Receiver {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listening for the bench's requests")?;
        let address = listener.local_addr()?;
        let (open, gate) = watch::channel(true);
        let (held, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let serving = serve(listener, Arc::clone(&held), gate, stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Ok(Self { address, held, open, _stop: stop.drop_guard() })
    }

    /// Delays the answers of all requests until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.open.send_replace(false);
    }

    /// Answers the waiting requests.
    pub(crate) fn release(&self) {
        self.open.send_replace(true);
    }

    /// The number of waiting requests.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, held: Arc<AtomicUsize>, gate: watch::Receiver<bool>, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let answering = answer(stream, Arc::clone(&held), gate.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(answering));
    }
}

/// Answers the requests of one connection until it ends or breaks.
async fn answer(mut stream: TcpStream, held: Arc<AtomicUsize>, mut gate: watch::Receiver<bool>) {
    let mut bytes = Vec::new();
    stream.set_nodelay(true).ok();
    while receive(&mut stream, &mut bytes).await.is_ok() {
        held.fetch_add(1, Ordering::Relaxed);
        let is_open = gate.wait_for(|open| *open).await.is_ok();
        held.fetch_sub(1, Ordering::Relaxed);
        if !is_open || stream.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

/// Reads one message and returns its first line.
async fn receive(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> anyhow::Result<String> {
    loop {
        if let Some(length) = message_length(bytes) {
            let first = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let first = String::from_utf8_lossy(first).into_owned();
            bytes.drain(..length);
            return Ok(first);
        }
        if stream.read_buf(bytes).await? == 0 {
            bail!("the connection was closed");
        }
    }
}

/// The length of the first message in bytes; `None` until all of it has arrived. A message has a body only if it has a
/// `content-length` or is chunked.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let fields = || text.lines().filter_map(|line| line.split_once(':'));
    let field =
        |wanted: &str| fields().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim());
    if field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Some(head - 2 + memmem::find(&bytes[head - 2..], b"\r\n0\r\n\r\n")? + 7);
    }
    let length = head + field("content-length").map_or(Some(0), |length| length.parse::<usize>().ok())?;
    (bytes.len() >= length).then_some(length)
}

/// A caller with one connection to the host.
pub(crate) struct HttpCaller {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl HttpCaller {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connecting to the host's HTTP")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, bytes: Vec::new() })
    }

    /// Enqueues an item and returns when it is acknowledged.
    pub(crate) async fn enqueue(&mut self, key: &str, body: &str) -> anyhow::Result<()> {
        let request = format!(
            "POST /items HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nx-correlation-id: {key}\r\n\
             idempotency-key: {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        let status = receive(&mut self.stream, &mut self.bytes).await?;
        anyhow::ensure!(status.contains(" 202 "), "the host answered {status:?} to an item");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_where_its_head_says() {
        for (text, length) in [
            ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcPOST", Some(41)),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", None),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nPOST", Some(59)),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", None),
            ("GET / HTTP/1.1\r\n\r\n", Some(18)),
            ("GET / HTTP/1.1\r\n", None),
        ] {
            assert_eq!(message_length(text.as_bytes()), length, "{text:?}");
        }
    }
}
