//! Connections of clients that say nothing, or stop in the middle of a request.

use std::time::Duration;

use outbox::http::{HttpSettings, ServeLimits, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::HttpFixture;

/// The limit for each step of these tests; a step that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A host that serves connections.
struct Server {
    host: HttpFixture,
    address: std::net::SocketAddr,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(settings: HttpSettings, limits: ServeLimits) -> Self {
        let host = HttpFixture::new(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(run(listener, host.router.clone(), limits, host.stop.clone()));
        Self { host, address, serving }
    }

    async fn client(&self, sent: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        client
    }

    /// A client whose request was answered, and which keeps its connection.
    async fn served_client(&self) -> TcpStream {
        let mut client = self.client(HEALTH).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"{\"status\":\"ok\"}") {
            assert_ne!(timeout(TIMEOUT, client.read_buf(&mut answer)).await.unwrap().unwrap(), 0, "an answer");
        }
        client
    }
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HALF_A_BODY: &str =
    "POST /memory HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"a\"";

/// What the server sends until it closes the connection.
async fn until_closed(mut client: TcpStream) -> String {
    let mut answer = Vec::new();
    match timeout(TIMEOUT, client.read_to_end(&mut answer)).await.expect("the server closes the connection") {
        Ok(_) => String::from_utf8(answer).unwrap(),
        Err(reset) => reset.to_string(),
    }
}

#[tokio::test]
async fn a_connection_without_a_whole_head_is_closed_in_time() {
    let limits = ServeLimits { head_timeout: Duration::from_millis(100), ..ServeLimits::default() };
    let server = Server::start(HttpSettings::default(), limits).await;
    let idle = server.served_client().await;
    for client in [server.client("").await, server.client("GET /items HTTP/1.1\r\nHost: loc").await, idle] {
        until_closed(client).await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_in_time_is_refused() {
    let settings =
        HttpSettings { is_durable: true, body_timeout: Duration::from_millis(50), ..HttpSettings::default() };
    let server = Server::start(settings, ServeLimits::default()).await;
    let answer = until_closed(server.client(HALF_A_BODY).await).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("urn:outbox:problem:slow-body"), "{answer}");
    assert!(server.host.items().await.is_empty());
}

#[tokio::test]
async fn an_answer_before_the_body_says_that_the_connection_ends() {
    let server = Server::start(HttpSettings::default(), ServeLimits::default()).await;
    let answer = until_closed(server.client(&HALF_A_BODY.replace("/memory", "/nowhere")).await).await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let limits = ServeLimits { max_connections: 3, ..ServeLimits::default() };
    let server = Server::start(HttpSettings::default(), limits).await;
    let mut silent = Vec::new();
    for sent in ["", "GET /heal", HALF_A_BODY].into_iter().cycle().take(9) {
        silent.push(server.client(sent).await);
    }
    server.served_client().await;
    for client in silent.drain(..7) {
        until_closed(client).await;
    }
}

#[tokio::test]
async fn a_stop_cuts_connections_without_a_whole_head_at_once() {
    let limits = ServeLimits { drain: Duration::from_hours(1), ..ServeLimits::default() };
    let server = Server::start(HttpSettings::default(), limits).await;
    // The server has accepted the others when it answers the last one.
    let (silent, half_head) = (server.client("").await, server.client("GET /heal").await);
    let idle = server.served_client().await;
    server.host.stop.cancel();
    for client in [silent, half_head, idle] {
        until_closed(client).await;
    }
    timeout(TIMEOUT, server.serving).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_stop_cuts_half_requests_after_the_drain() {
    let limits = ServeLimits { drain: Duration::from_millis(200), ..ServeLimits::default() };
    let server = Server::start(HttpSettings { is_durable: true, ..HttpSettings::default() }, limits).await;
    let half_body = server.client(HALF_A_BODY).await;
    // The request that has only half a body is known to the server when one after it was answered.
    server.served_client().await;
    server.host.stop.cancel();
    until_closed(half_body).await;
    timeout(TIMEOUT, server.serving).await.expect("the server ends").unwrap();
}
