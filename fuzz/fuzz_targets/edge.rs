//! For every path, headers and body of a request, the HTTP server answers 202 with the identity that the request
//! gave, or a problem document with a client error, and never a server error.

#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, Uri};
use libfuzzer_sys::fuzz_target;
use outbox::core::{Attempt, AttemptReport, Handler, Outcome, ServedType};
use outbox::http::{HostStatus, HttpSettings, HttpState, router};
use outbox::item::validate_key;
use outbox::sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

/// The number of writes after which the target opens a new file, so that the file stays small.
const WRITES_MAX: u32 = 10_000;

/// A handler that handles no items: the target tests everything up to the commit.
struct Nobody(watch::Sender<u64>);

#[async_trait]
impl Handler for Nobody {
    fn served_types(&self) -> Vec<ServedType> {
        Vec::new()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    async fn handle(&self, _: Attempt) -> AttemptReport {
        AttemptReport::without_component(Outcome::NoHandler)
    }
}

struct Host {
    runtime: Runtime,
    lenient: Router,
    strict: Router,
    writes: u32,
    _dir: TempDir,
}

impl Host {
    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("outbox.sqlite"), SqliteOptions::default()).unwrap();
        let service = |strict: bool| {
            router(HttpState {
                enqueue: store.clone(),
                inspect: store.clone(),
                operate: store.clone(),
                handler: Arc::new(Nobody(watch::Sender::new(0))),
                settings: HttpSettings { is_durable: true, is_strict: strict, ..HttpSettings::default() }.fixed(),
                status: Arc::new(|| HostStatus { is_scanned: true, ..HostStatus::default() }),
                trials: None,
                stop: CancellationToken::new(),
            })
        };
        let (lenient, strict) = (service(false), service(true));
        Self { runtime, lenient, strict, writes: 0, _dir: dir }
    }

    fn answer(&mut self, request: Request<Body>, strict: bool) -> Response<Body> {
        let router = if strict { &mut self.strict } else { &mut self.lenient };
        self.runtime.block_on(router.call(request)).unwrap()
    }
}

thread_local!(static HOST: RefCell<Host> = RefCell::new(Host::open()));

/// Builds a request: the first byte chooses the route, the next three lines are the two headers and a word of the path,
/// and the rest is the body.
fn request(input: &[u8]) -> Option<(Request<Body>, bool)> {
    let (choice, rest) = input.split_first()?;
    let mut lines = rest.splitn(4, |byte| *byte == b'\n');
    let (cid, key, word) = (lines.next()?, lines.next()?, std::str::from_utf8(lines.next()?).ok()?);
    let body = lines.next().unwrap_or_default().to_vec();
    let path = match choice & 3 {
        0 => "/memory".to_owned(),
        1 => "/items".to_owned(),
        2 => format!("/sagas/{word}"),
        _ => format!("/{word}"),
    };
    let media = if choice & 4 == 0 { "application/json" } else { "application/x-ndjson" };
    let method = if choice & 8 == 0 { "POST" } else { "GET" };
    let mut request = Request::builder().method(method).uri(path.parse::<Uri>().ok()?);
    request = request.header("host", "127.0.0.1").header("content-type", media);
    for (name, value) in [("x-correlation-id", cid), ("idempotency-key", key)] {
        if choice & 16 == 0 || !value.is_empty() {
            request = request.header(name, HeaderValue::from_bytes(value).ok()?);
        }
    }
    Some((request.body(Body::from(body)).ok()?, choice & 32 != 0))
}

fn valid(request: &Request<Body>, name: &str) -> Option<String> {
    let value = request.headers().get(name)?.to_str().ok()?;
    validate_key("key", value).is_ok().then(|| value.to_owned())
}

fuzz_target!(|input: &[u8]| {
    let Some((request, strict)) = request(input) else { return };
    let [cid, key] = ["x-correlation-id", "idempotency-key"].map(|name| valid(&request, name));
    let path = request.uri().path().to_owned();
    let answer = HOST.with_borrow_mut(|host| {
        if host.writes == WRITES_MAX {
            *host = Host::open();
        }
        host.writes += 1;
        host.answer(request, strict)
    });
    assert!(!answer.status().is_server_error(), "{answer:?}");
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    if answer.status() == StatusCode::ACCEPTED {
        assert!(!strict || (cid.is_some() && key.is_some()), "{answer:?}");
        // The items in a body may have their own keys.
        let is_saga = path == "/memory" || path.starts_with("/sagas/");
        assert!(!is_saga || cid.is_none() || header("x-correlation-id") == cid, "{answer:?}");
        assert!(!is_saga || key.is_none() || header("idempotency-key") == key, "{answer:?}");
    } else if answer.status().is_client_error() {
        assert_eq!(header("content-type").as_deref(), Some("application/problem+json"), "{answer:?}");
    }
});
