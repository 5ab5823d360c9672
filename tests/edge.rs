//! The HTTP server on a real SQLite file: what callers, operators, probes and scrapers rely on.

mod access;
mod connections;
mod description;
mod metrics;
mod observe;
mod operate;
mod operations;
mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use outbox::core::{
    Attempt, AttemptReport, Failure, FailureClass, Handler, HostWrites, KeyLimits, OnDead, Outcome, RetryPolicy,
    ServedType, Settlement,
};
use outbox::http::{HostStatus, HttpSettings, HttpState, router};
use outbox::item::Item;
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::{Claim, ClaimTerms, ClaimToken, Filter, Queue};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::support::places::SqliteFolder;

/// The router with a store of its own.
struct HttpFixture {
    router: Router,
    store: Arc<SqliteStore>,
    handler: Arc<Scripted>,
    stop: CancellationToken,
    folder: SqliteFolder,
}

impl HttpFixture {
    fn durable() -> Self {
        Self::new(HttpSettings { is_durable: true, ..HttpSettings::default() })
    }

    fn new(settings: HttpSettings) -> Self {
        Self::with_status(settings, HostStatus { is_scanned: true, ..HostStatus::default() })
    }

    fn with_status(settings: HttpSettings, status: HostStatus) -> Self {
        let folder = SqliteFolder::new();
        let store = SqliteStore::open(&folder.file(), SqliteOptions::default()).unwrap();
        let handler = Arc::new(Scripted::default());
        let stop = CancellationToken::new();
        let router = router(HttpState {
            enqueue: store.clone(),
            inspect: store.clone(),
            operate: store.clone(),
            handler: handler.clone(),
            settings: settings.fixed(),
            status: Arc::new(move || status.clone()),
            trials: None,
            stop: stop.clone(),
        });
        Self { router, store, handler, stop, folder }
    }

    async fn send(&self, request: Request<Body>) -> HttpResponse {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        HttpResponse { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn items(&self) -> Vec<Item> {
        let mut items = crate::support::listed(&*self.store, &Filter::default(), 100).await;
        items.reverse();
        items
    }

    async fn claim(&self, item_type: &str) -> Claim {
        let terms = ClaimTerms {
            item_type: item_type.into(),
            token: ClaimToken::random(),
            limit: u32::MAX,
            lease: Duration::from_mins(1),
            max_retries: 8,
            concurrency: None,
            rate: None,
            per_key: KeyLimits::default(),
            streak: 1,
            on_dead: OnDead::Block,
        };
        let request = crate::support::request_of(vec![terms], 1);
        self.store.claim(&request).await.unwrap().claims.pop().unwrap()
    }

    async fn complete(&self, item_type: &str) {
        self.settle(item_type, Settlement::Done { result: None, writes: HostWrites::default() }).await;
    }

    async fn dead_letter(&self, item_type: &str) {
        let failure = Failure::new(FailureClass::Permanent, "card.declined", "no such card");
        self.settle(item_type, Settlement::Dead { failure, on_dead: OnDead::Block }).await;
    }

    async fn settle(&self, item_type: &str, settlement: Settlement) {
        let claim = self.claim(item_type).await;
        let settled = crate::support::settled(settlement);
        self.store.settle(&claim.reference(), settled).await.unwrap();
    }

    /// A connection of another program to the same file.
    fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.file()).unwrap()
    }
}

/// An answer with its whole body.
#[derive(Debug)]
struct HttpResponse {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl HttpResponse {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts that the answer is a problem document of this status and type, and returns the body.
    fn problem(&self, status: u16, word: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!(body["type"], format!("urn:outbox:problem:{word}"), "{body}");
        assert_eq!(body["status"], status, "{body}");
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        body
    }
}

/// A request to a host that listens on loopback; `headers` are added after the default ones.
fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
    for (name, value) in [("host", "localhost:7070"), ("content-type", "application/json")].iter().chain(headers) {
        let name: axum::http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

fn post(path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    request("POST", path, headers, body)
}

fn get(path: &str) -> Request<Body> {
    request("GET", path, &[], "")
}

/// The headers that the contract defines for a write.
const CONTRACT: [(&str, &str); 2] = [("x-correlation-id", "c-1"), ("idempotency-key", "k-1")];

/// A handler that serves the types for which a test has set an outcome, and records its attempts.
#[derive(Default)]
struct Scripted {
    outcomes: Mutex<BTreeMap<String, Outcome>>,
    attempts: Mutex<Vec<Attempt>>,
}

impl Scripted {
    fn answers(&self, item_type: &str, outcome: Outcome) {
        self.outcomes.lock().unwrap().insert(item_type.into(), outcome);
    }

    fn done() -> Outcome {
        Outcome::Done { result: Some(br#"{"rows":1}"#.to_vec()), writes: HostWrites::default() }
    }
}

#[async_trait]
impl Handler for Scripted {
    fn served_types(&self) -> Vec<ServedType> {
        let served_type = |item_type: &String| ServedType {
            item_type: item_type.clone(),
            timeout: None,
            retry: RetryPolicy::default(),
            concurrency: None,
            rate: None,
            per_key: KeyLimits::default(),
            streak: 1,
            on_dead: OnDead::Block,
            breaker: None,
        };
        self.outcomes.lock().unwrap().keys().map(served_type).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }

    async fn handle(&self, attempt: Attempt) -> AttemptReport {
        let outcome = self.outcomes.lock().unwrap()[&attempt.item.item_type].clone();
        self.attempts.lock().unwrap().push(attempt);
        AttemptReport::without_component(outcome)
    }
}
