//! Observation of the host: signals, the cockpit and probes.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt as _;
use outbox::core::{BreakerState, BreakerStatus, PluginState, PluginStatus};
use outbox::http::{HostStatus, HttpSettings, ServeLimits, run};
use outbox::store::{Maintain as _, Pod};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::{CONTRACT, HttpFixture, get, post, request};
use crate::support::pod;

/// The limit for each step of these tests; a step that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

async fn host_with_a_memory() -> HttpFixture {
    let host = HttpFixture::durable();
    host.send(post("/memory", &CONTRACT, "{}")).await;
    host
}

#[tokio::test]
async fn a_page_of_signals_is_an_array_that_can_be_continued() {
    let host = host_with_a_memory().await;
    host.complete("vector_upsert").await;
    let json_page = |path: &str| request("GET", path, &[("accept", "application/json")], "");
    let page = host.send(json_page("/signals")).await.json();
    let names: Vec<_> = page.as_array().unwrap().iter().map(|signal| signal["signal"].as_str().unwrap()).collect();
    assert_eq!(names, ["saga_begin.WriteMemorySaga", "saga_step.WriteMemorySaga.vector_upsert"]);
    assert_eq!(page[1]["data"]["cid"], "c-1");
    assert_eq!(host.send(json_page("/signals?after=1&limit=1")).await.json()[0]["seq"], 2);
    assert_eq!(host.send(json_page("/signals?after=2")).await.json(), json!([]));
}

#[tokio::test]
async fn a_stream_brings_old_and_new_signals_once_and_continues_where_a_client_was() {
    let host = host_with_a_memory().await;
    host.complete("vector_upsert").await;
    let mut events = Events::of(&host, get("/signals")).await;
    assert_eq!(events.next().await.unwrap(), (1, "saga_begin.WriteMemorySaga".into()));
    assert_eq!(events.next().await.unwrap().0, 2);
    host.complete("belief_recompute").await;
    assert_eq!(events.next().await.unwrap(), (3, "saga_step.WriteMemorySaga.belief_recompute".into()));
    assert_eq!(events.next().await.unwrap(), (4, "saga_end.WriteMemorySaga".into()));

    let mut again = Events::of(&host, request("GET", "/signals?after=0", &[("last-event-id", "3")], "")).await;
    assert_eq!(again.next().await.unwrap().0, 4);
    host.stop.cancel();
    assert_eq!(again.next().await, None);
    assert_eq!(events.next().await, None);
}

/// A client of the event stream.
struct Events {
    body: BodyDataStream,
    read: String,
}

impl Events {
    async fn of(host: &HttpFixture, request: axum::http::Request<Body>) -> Self {
        let response = host.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), read: String::new() }
    }

    /// The id and the name of the next signal; `None` when the stream ends.
    async fn next(&mut self) -> Option<(i64, String)> {
        while !self.read.contains("\n\n") {
            let bytes = timeout(TIMEOUT, self.body.next()).await.expect("an event or the end")?.unwrap();
            self.read.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        let (event, rest) = self.read.split_once("\n\n").unwrap();
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let (id, data): (_, Value) = (field("id:"), serde_json::from_str(&field("data:")).unwrap());
        assert_eq!(data["seq"].to_string(), id);
        self.read = String::from(rest);
        Some((id.parse().unwrap(), data["signal"].as_str().unwrap().to_owned()))
    }
}

#[tokio::test]
async fn many_streams_cost_the_store_as_little_as_one() {
    let host = host_with_a_memory().await;
    let mut streams = Vec::new();
    for _ in 0..512 {
        streams.push(Events::of(&host, get("/signals?after=1")).await);
    }
    host.send(get("/signals")).await.problem(503, "too-many-streams");
    let page = host.send(request("GET", "/signals", &[("accept", "application/json")], "")).await;
    assert_eq!(page.status, 200, "{page:?}");
    host.complete("vector_upsert").await;
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap().0, 2);
    }
    streams.pop();
    Events::of(&host, get("/signals?after=1")).await;
}

#[tokio::test]
async fn a_stop_ends_the_open_streams_and_the_listener() {
    let host = host_with_a_memory().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(run(listener, host.router.clone(), ServeLimits::default(), host.stop.clone()));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(format!("GET /signals HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = [0; 15];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    host.stop.cancel();
    timeout(TIMEOUT, served).await.expect("the server stops").unwrap();
}

#[tokio::test]
async fn the_cockpit_shows_sagas_violations_pods_and_plugins() {
    let plugins = vec![PluginStatus {
        name: "vector".into(),
        types: vec!["vector_upsert".into()],
        generation: Some(1),
        state: PluginState::Active,
        ..PluginStatus::default()
    }];
    let shown = json!([{
        "name": "vector", "types": ["vector_upsert"], "generation": 1, "error": null, "grants": [], "image": null, "limits": null,
        "runs": { "attempts": 0, "cpu_ms": 0, "faults": 0 }, "state": "active",
        "digest": null, "file": "", "previous": null, "refused": [], "role": null, "version": null,
    }]);
    let status = HostStatus {
        is_scanned: true,
        plugins: plugins.clone(),
        served_types: vec!["vector_upsert".into()],
        ..HostStatus::default()
    };
    let host = HttpFixture::with_status(HttpSettings { is_durable: true, ..HttpSettings::default() }, status);
    let empty = host.send(get("/status/cockpit")).await.json();
    let none = json!({ "ok": 0, "retried": 0, "dead": 0 });
    assert_eq!(
        empty["governor"],
        json!({
            "sagas": { "WriteMemorySaga": {
                "began": 0, "ended_ok": 0, "ended_err": 0,
                "steps": { "vector_upsert": none, "belief_recompute": none },
            } },
            "contract_violations": { "missing_correlation_id": 0, "missing_idempotency_key": 0 },
        })
    );
    let breaker = BreakerStatus {
        cause: "status 503".into(),
        items: 20,
        open_for_ms: 61_000,
        origin: Some("https://a".into()),
        state: BreakerState::Open,
        types: vec!["vector_upsert".into()],
    };
    let pod = Pod { plugins: plugins.clone(), breakers: vec![breaker.clone()], ..pod("pod-1") };
    host.store.heartbeat(&pod).await.unwrap();
    host.send(post("/memory", &[CONTRACT[1]], "{}")).await;
    host.complete("vector_upsert").await;

    let cockpit = host.send(get("/status/cockpit")).await.json();
    let saga = &cockpit["governor"]["sagas"]["WriteMemorySaga"];
    assert_eq!((&saga["began"], &saga["ended_ok"]), (&json!(1), &json!(0)));
    assert_eq!(saga["steps"]["vector_upsert"], json!({ "ok": 1, "retried": 0, "dead": 0 }));
    assert_eq!(cockpit["governor"]["contract_violations"]["missing_correlation_id"], 1);
    assert_eq!(cockpit["outbox"]["by_status"], json!({ "PENDING": 1, "CLAIMED": 0, "DONE": 1, "DLQ": 0 }));
    assert_eq!(cockpit["outbox"]["by_type"]["belief_recompute"]["PENDING"], 1);
    assert_eq!(cockpit["outbox"]["unhandled"], json!({ "belief_recompute": 1 }));
    assert!(cockpit["outbox"]["oldest_pending_ms"].is_i64());
    assert_eq!(cockpit["pods"]["pod-1"]["ready"], true);
    assert_eq!((&cockpit["pods"]["pod-1"]["plugins"], &cockpit["plugins"]), (&shown, &shown));
    assert_eq!(cockpit["pods"]["pod-1"]["breakers"][0]["origin"], "https://a");
    assert!(cockpit["generated_at"].as_i64().unwrap() > 0);
}

#[tokio::test]
async fn readiness_needs_the_store_and_the_first_scan_and_says_what_is_missing() {
    let host = HttpFixture::with_status(HttpSettings::default(), HostStatus::default());
    assert_eq!(host.send(get("/healthz")).await.json(), json!({ "status": "ok" }));
    let problem = host.send(get("/readyz")).await.problem(503, "not-ready");
    assert_eq!(problem["missing"].as_array().unwrap().len(), 1, "{problem}");
    host.sqlite().execute_batch("DROP TABLE outbox_signals").unwrap();
    let problem = host.send(get("/readyz")).await.problem(503, "not-ready");
    assert_eq!(problem["missing"].as_array().unwrap().len(), 2, "{problem}");

    let ready = HttpFixture::durable();
    assert_eq!(ready.send(get("/readyz")).await.json(), json!({ "status": "ok" }));
}

#[tokio::test]
async fn a_worker_answers_probes_and_scrapes_and_takes_no_writes() {
    let host = HttpFixture::durable();
    let state = outbox::http::HttpState {
        enqueue: host.store.clone(),
        inspect: host.store.clone(),
        operate: host.store.clone(),
        handler: host.handler.clone(),
        settings: HttpSettings { is_durable: true, ..HttpSettings::default() }.fixed(),
        status: std::sync::Arc::new(HostStatus::default),
        trials: None,
        stop: host.stop.clone(),
    };
    let worker = HttpFixture { router: outbox::http::worker_router(state), ..host };
    assert_eq!(worker.send(get("/metrics")).await.status, 200);
    assert_eq!(worker.send(get("/metrics/store")).await.status, 200);
    assert_eq!(worker.send(get("/healthz")).await.status, 200);
    worker.send(post("/memory", &CONTRACT, "{}")).await.problem(404, "no-route");
}
