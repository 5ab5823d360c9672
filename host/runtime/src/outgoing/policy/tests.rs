//! Grants, host headers and limits of outgoing requests, against a real server.

use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Empty, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use outbox_core::{Span, SpanFact, SpanSink, SpanWork, TraceContext};
use outbox_item::{ItemId, Millis, NewItem};

use crate::load::manifest::Manifest;
use crate::load::manifest::environment::EnvLookup;
use crate::outgoing::authorities::TlsConfig;
use crate::outgoing::client::{HEAD_MAX, HEADERS_COUNT_MAX};
use crate::outgoing::network::Network;
use crate::outgoing::policy::*;
use crate::outgoing::resolve::{Resolver, SystemResolver};
use crate::sandbox::observations::SideEffects;

/// A server that answers everything alike and keeps the heads of what it was sent.
struct Server {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<u32>>,
}

impl Server {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (heads, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<u32>>::default());
        let server = Self { url, heads: Arc::clone(&heads), connections: Arc::clone(&connections) };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                *connections.lock().unwrap() += 1;
                let heads = Arc::clone(&heads);
                tokio::spawn(async move {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                        heads.lock().unwrap().push(String::from_utf8_lossy(&bytes[..read]).to_lowercase());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        server
    }

    fn last(&self) -> String {
        self.heads.lock().unwrap().last().cloned().unwrap()
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

fn outgoing(manifest: &str) -> OutgoingHttp {
    outgoing_with(manifest, Arc::new(SystemResolver))
}

fn outgoing_with(manifest: &str, resolver: Arc<dyn Resolver>) -> OutgoingHttp {
    let environment: EnvLookup = Arc::new(|name| (name == "TOKEN").then(|| "hush".to_owned()));
    let manifest = Manifest::parse(manifest, &environment).unwrap();
    let grants = Arc::new(manifest.grants);
    let network = Network::new(Arc::clone(&grants), resolver, &TlsConfig::public());
    OutgoingHttp::new(
        Arc::new(OutgoingPolicy::new(grants, manifest.limits)),
        Arc::new(network),
        Some(HostHeaders::from_parts("k1", "c1")),
        Arc::default(),
        Instant::now() + Duration::from_secs(30),
    )
}

fn granted(server: &Server, more: &str) -> OutgoingHttp {
    outgoing(&format!(
        "{more}\n[[grant.http]]\norigin = '{}'\nmethods = ['GET', 'POST']\npath = '/a*'\nsecrets = [{{ env = 'TOKEN', header = 'authorization', template = 'Bearer {{}}' }}]",
        server.url
    ))
}

async fn send(outgoing: &mut OutgoingHttp, method: &str, url: &str) -> Result<Response<WasiBody>, Error> {
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header("host", "forged")
        .header("authorization", "forged")
        .header("idempotency-key", "forged")
        .body(body)
        .unwrap();
    let sending = outgoing.send_request(request, None, Box::new(async { Ok(()) }));
    Ok(Pin::from(sending).await?.0)
}

async fn read(response: Response<WasiBody>) -> Result<Bytes, Error> {
    Ok(response.into_body().collect().await?.to_bytes())
}

#[tokio::test]
async fn what_is_granted_goes_out_with_what_only_the_host_can_say() {
    let server = Server::start(OK).await;
    let mut outgoing = granted(&server, "");
    let response = send(&mut outgoing, "POST", &format!("{}/a?b=1", server.url)).await.unwrap();
    assert_eq!(read(response).await.unwrap(), "hello");
    let head = server.last();
    assert!(head.starts_with("post /a?b=1 http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {}\r\n", server.url.trim_start_matches("http://"))), "{head}");
    assert!(head.contains("authorization: bearer hush\r\n"), "{head}");
    assert!(head.contains("idempotency-key: k1/") && head.contains("/1\r\n"), "{head}");
    assert!(head.contains("x-correlation-id: c1\r\n") && head.contains("traceparent: 00-"), "{head}");
    assert!(!head.contains("forged"), "{head}");
    assert_eq!(outgoing.observations.side_effects(), SideEffects::Possible);
    assert!(!outgoing.observations.has_unanswered_requests());
}

/// Keeps every span.
#[derive(Debug, Default)]
struct KeptSpans(Mutex<Vec<Span>>);

impl SpanSink for KeptSpans {
    fn is_recorded(&self, _: &str, _: Option<&TraceContext>) -> bool {
        true
    }

    fn record(&self, span: Span) {
        self.0.lock().unwrap().push(span);
    }
}

#[tokio::test]
async fn a_span_names_the_origin_of_a_receiver_and_nothing_that_can_be_secret() {
    let server = Server::start(OK).await;
    let spans = Arc::<KeptSpans>::default();
    let item = NewItem::new("t", "k", "").into_item(ItemId::new(1), Millis::default());
    let trace = TracedAttempt::new(Arc::clone(&spans) as _, Arc::new(item), Instant::now());
    let mut outgoing = granted(&server, "").traced(Some(Arc::clone(&trace)));
    trace.begin(Instant::now());
    send(&mut outgoing, "POST", &format!("{}/a-hush?key=hush", server.url)).await.unwrap();
    trace.end(Instant::now(), Instant::now(), None, Some("done"));
    let spans = spans.0.lock().unwrap();
    let request = spans.iter().find(|span| span.work == SpanWork::Request).unwrap();
    assert!(request.facts.contains(&("url.full", SpanFact::Text(server.url.clone()))), "{request:?}");
    assert!(!format!("{spans:?}").contains("hush"), "{spans:?}");
}

#[tokio::test]
async fn connections_are_used_again_and_safe_requests_execute_nothing() {
    let server = Server::start(OK).await;
    let mut outgoing = granted(&server, "");
    for _ in 0..8 {
        let response = send(&mut outgoing, "GET", &format!("{}/a", server.url)).await.unwrap();
        read(response).await.unwrap();
        // The connection goes back to the pool in a task of its own.
        tokio::task::yield_now().await;
    }
    assert!(*server.connections.lock().unwrap() < 8);
    assert!(!server.last().contains("idempotency-key"));
    assert_eq!(outgoing.observations.side_effects(), SideEffects::None);
}

#[tokio::test]
async fn what_is_not_granted_never_leaves_and_is_recorded_with_its_lines() {
    let server = Server::start(OK).await;
    let mut outgoing = granted(&server, "");
    let denied = send(&mut outgoing, "POST", &format!("{}/b?token=x", server.url)).await;
    assert!(matches!(denied, Err(Error::HttpRequestDenied)));
    assert!(server.heads.lock().unwrap().is_empty());
    let denial = outgoing.observations.denial().unwrap();
    assert_eq!(denial.what, format!("POST {} is not granted", server.url));
    let lines = denial.lines.clone().unwrap();
    let mut allowed = self::outgoing(&lines);
    send(&mut allowed, "POST", &format!("{}/b?token=x", server.url)).await.unwrap();
}

#[tokio::test]
async fn the_number_of_requests_and_the_size_of_answers_are_bounded() {
    let server = Server::start(OK).await;
    let url = format!("{}/a", server.url);
    let mut outgoing = granted(&server, "limits.response = '4B'");
    let response = send(&mut outgoing, "GET", &url).await.unwrap();
    assert!(matches!(read(response).await, Err(Error::HttpResponseBodySize(Some(4)))));
    let denial = outgoing.observations.denial().unwrap();
    assert_eq!(denial.what, "the body of a response was larger than `limits.response`, which is 4B");
    assert_eq!(denial.lines.as_deref(), Some("[limits]\nresponse = \"8B\""));
    let mut outgoing = granted(&server, "limits.http_requests = 1");
    send(&mut outgoing, "GET", &url).await.unwrap();
    assert!(matches!(send(&mut outgoing, "GET", &url).await, Err(Error::HttpRequestDenied)));
    assert!(outgoing.observations.denial().unwrap().lines.as_ref().unwrap().contains("http_requests = 2"));
}

#[tokio::test]
async fn the_head_of_an_answer_is_bounded() {
    for large in [format!("a: {}\r\n", "b".repeat(4 * HEAD_MAX)), "a: b\r\n".repeat(HEADERS_COUNT_MAX + 1)] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{large}\r\n");
        let server = Server::start(answer.leak()).await;
        let mut outgoing = granted(&server, "");
        let refused = send(&mut outgoing, "GET", &format!("{}/a", server.url)).await;
        assert!(matches!(refused, Err(Error::HttpResponseHeaderSectionSize(_))));
        assert!(outgoing.observations.denial().unwrap().what.contains("64KiB and 128 headers"));
    }
}

#[tokio::test]
async fn what_no_grant_can_mean_never_leaves_and_nothing_secret_is_told() {
    let server = Server::start(OK).await;
    let with_password = server.url.replace("http://", "http://user:hush@");
    for (method, url) in [("TRACE", server.url.clone()), ("CONNECT", server.url.clone()), ("GET", with_password)] {
        let mut outgoing = outgoing(&format!("[[grant.http]]\norigin = '{}'", server.url));
        assert!(send(&mut outgoing, method, &format!("{url}/a")).await.is_err());
        let denial = outgoing.observations.denial().unwrap();
        assert!(!denial.what.contains("hush"), "{denial:?}");
    }
    assert!(server.heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_request_body_that_is_too_large_is_cut_off() {
    let server = Server::start(OK).await;
    let outgoing = granted(&server, "limits.request = '4B'");
    let body = Full::new(Bytes::from_static(b"hello")).map_err(|never| match never {}).boxed_unsync();
    let limited = outgoing.limit_request(body);
    assert!(matches!(limited.collect().await, Err(Error::HttpRequestBodySize(Some(4)))));
}

#[tokio::test]
async fn a_request_that_found_no_connection_has_executed_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let mut outgoing = outgoing(&format!("[[grant.http]]\norigin = '{url}'"));
    assert!(matches!(send(&mut outgoing, "POST", &url).await, Err(Error::ConnectionRefused)));
    assert_eq!(outgoing.observations.side_effects(), SideEffects::None);
    assert!(!outgoing.observations.has_unanswered_requests());
}

/// A resolver that finds no name.
#[derive(Debug)]
struct NoNames;

#[async_trait::async_trait]
impl Resolver for NoNames {
    async fn resolve(&self, host: &str, _: u16) -> std::io::Result<Vec<std::net::SocketAddr>> {
        Err(std::io::Error::other(format!("no address of {host}")))
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_told_and_the_request_has_executed_nothing() {
    let url = "http://receiver.invalid";
    let mut outgoing = outgoing_with(&format!("[[grant.http]]\norigin = '{url}'"), Arc::new(NoNames));
    let answer = send(&mut outgoing, "POST", url).await;
    assert!(matches!(&answer, Err(Error::DnsError { rcode: Some(why), .. }) if why.contains("no address of")));
    assert_eq!(outgoing.observations.side_effects(), SideEffects::None);
    assert!(!outgoing.observations.has_unanswered_requests());
    let fault = outgoing.observations.network_fault().expect("the cause is kept");
    assert!(!fault.is_hosts && fault.what.contains("receiver.invalid"), "{fault:?}");
}

#[tokio::test]
async fn an_address_out_of_reach_is_a_denial() {
    let server = Server::start(OK).await;
    let mut outgoing =
        outgoing(&format!("[[grant.http]]\norigin = 'http://*:{}'", server.url.rsplit(':').next().unwrap()));
    assert!(matches!(send(&mut outgoing, "POST", &server.url).await, Err(Error::DestinationIpProhibited)));
    assert!(outgoing.observations.denial().unwrap().what.contains("does not reach"));
    assert_eq!(outgoing.observations.side_effects(), SideEffects::None);
    let mut metadata = self::outgoing("[[grant.http]]\norigin = 'http://169.254.169.254'");
    let answer = send(&mut metadata, "GET", "http://169.254.169.254/latest").await;
    assert!(matches!(answer, Err(Error::DestinationIpProhibited)));
}

#[tokio::test]
async fn a_request_that_is_dropped_unanswered_stays_unanswered() {
    let server = Server::start("").await;
    let mut outgoing = granted(&server, "");
    let url = format!("{}/a", server.url);
    let waiting = tokio::time::timeout(Duration::from_millis(50), send(&mut outgoing, "POST", &url)).await;
    assert!(waiting.is_err());
    assert!(outgoing.observations.has_unanswered_requests());
    assert_eq!(outgoing.observations.side_effects(), SideEffects::Possible);
}
