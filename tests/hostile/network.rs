//! Hostile servers, and host names that resolve to forbidden addresses.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox::runtime::{Resolver, SystemResolver};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A resolver that maps names to addresses which the tests choose.
#[derive(Debug)]
pub(crate) struct Names {
    rebound: AtomicU32,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self { rebound: AtomicU32::new(0) }
    }
}

#[async_trait::async_trait]
impl Resolver for Names {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let address = match host {
            "server.test" => [127, 0, 0, 1],
            "private.test" => [10, 0, 0, 1],
            // The first lookup returns an allowed address and the next one a forbidden address.
            "rebind.test" if self.rebound.fetch_add(1, Ordering::SeqCst) == 0 => [127, 0, 0, 1],
            "rebind.test" | "metadata.test" => [169, 254, 169, 254],
            _ => return SystemResolver.resolve(host, port).await,
        };
        Ok(vec![SocketAddr::from((address, port))])
    }
}

/// A hostile server. The path of a request chooses its behaviour.
pub(crate) struct Server {
    pub(crate) port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The server ignores connections that the client closes early.
                tokio::spawn(serve(stream, Arc::clone(&seen)));
            }
        });
        Self { port, heads }
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>) -> io::Result<()> {
    let mut bytes = vec![0; 16 << 10];
    let read = stream.read(&mut bytes).await?;
    let head = String::from_utf8_lossy(&bytes[..read]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    heads.lock().unwrap().push(head);
    match path.as_str() {
        "/bomb" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            let chunk = [b"10000\r\n".as_slice(), &vec![b'x'; 1 << 16], b"\r\n"].concat();
            endlessly(&mut stream, &chunk, Duration::ZERO).await
        }
        "/heads" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            endlessly(&mut stream, "x: y\r\n".repeat(1000).as_bytes(), Duration::ZERO).await
        }
        "/some-heads" => {
            let heads = "x: y\r\n".repeat(100);
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{heads}content-length: 0\r\n\r\n").as_bytes()).await
        }
        "/large" => {
            let body = "x".repeat(200 << 10);
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
                .await
        }
        "/slow-head" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await?;
            endlessly(&mut stream, b"y", Duration::from_millis(20)).await
        }
        "/slow-body" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await?;
            endlessly(&mut stream, b"y", Duration::from_millis(20)).await
        }
        "/never" => endlessly(&mut stream, b"", Duration::from_millis(20)).await,
        _ => {
            read_body(&mut stream, bytes[..read].to_vec()).await?;
            stream.write_all(answer(&path).as_bytes()).await
        }
    }
}

/// Reads a request to its end, so that the server does not answer a sender that stops in the middle.
async fn read_body(stream: &mut TcpStream, mut received: Vec<u8>) -> io::Result<()> {
    let head = String::from_utf8_lossy(&received).to_ascii_lowercase();
    let is_chunked = head.contains("transfer-encoding: chunked");
    let length: Option<usize> =
        head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let begin = head.find("\r\n\r\n").map_or(received.len(), |end| end + 4);
    let is_whole = |received: &[u8]| match length {
        Some(length) => received.len() >= begin + length,
        None => !is_chunked || received.ends_with(b"0\r\n\r\n"),
    };
    let mut bytes = vec![0; 16 << 10];
    while !is_whole(&received) {
        match stream.read(&mut bytes).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => received.extend_from_slice(&bytes[..read]),
        }
    }
    Ok(())
}

fn answer(path: &str) -> String {
    let end = "content-length: 0\r\nconnection: close\r\n\r\n";
    match path.strip_prefix("/to/") {
        Some(host) => format!("HTTP/1.1 302 Found\r\nlocation: http://{host}/\r\n{end}"),
        None => format!("HTTP/1.1 200 OK\r\n{end}"),
    }
}

async fn endlessly(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> io::Result<()> {
    loop {
        stream.write_all(bytes).await?;
        tokio::time::sleep(pause).await;
    }
}
