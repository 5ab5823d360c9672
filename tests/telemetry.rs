//! Traces and log lines as a collector gets them, in the protocol's own types, and what becomes of a host whose collector
//! is away.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use outbox::core::hex;
use prost::Message;
use tokio::net::TcpListener;

use crate::support::downstream::{Downstream, ReceivedRequest};
use crate::support::host::{HostConfig, HostProcess};
use crate::support::stage::{Deployment, becomes};
use crate::support::{Backend, TestDb, eventually, on_each_backend};

/// The limit for everything that a test expects of a host; a minute allows for busy machines.
const SOON: Duration = Duration::from_mins(1);

/// The span of the application that enqueues.
const CALLER: &str = "00f067aa0ba902b7";

/// What a collector has received at a path, decoded.
fn received<M: Message + Default>(collector: &Downstream, path: &str) -> Vec<M> {
    let requests = collector.ledger.received();
    requests.iter().filter(|request| request.path == path).map(|request| M::decode(&*body(request)).unwrap()).collect()
}

/// The body of a request, decompressed.
fn body(request: &ReceivedRequest) -> Vec<u8> {
    if request.header("content-encoding") != "gzip" {
        return request.body.to_vec();
    }
    let mut body = Vec::new();
    GzDecoder::new(&*request.body).read_to_end(&mut body).unwrap();
    body
}

fn resources(collector: &Downstream) -> Vec<Resource> {
    let batches: Vec<ExportTraceServiceRequest> = received(collector, "/v1/traces");
    batches.into_iter().flat_map(|batch| batch.resource_spans).filter_map(|spans| spans.resource).collect()
}

fn spans(collector: &Downstream, trace: &str) -> Vec<Span> {
    let batches: Vec<ExportTraceServiceRequest> = received(collector, "/v1/traces");
    let scopes = batches.into_iter().flat_map(|batch| batch.resource_spans).flat_map(|spans| spans.scope_spans);
    scopes.flat_map(|scope| scope.spans).filter(|span| hex(&span.trace_id) == trace).collect()
}

fn lines(collector: &Downstream) -> Vec<LogRecord> {
    let batches: Vec<ExportLogsServiceRequest> = received(collector, "/v1/logs");
    let scopes = batches.into_iter().flat_map(|batch| batch.resource_logs).flat_map(|logs| logs.scope_logs);
    scopes.flat_map(|scope| scope.log_records).collect()
}

/// The settings that send telemetry to this URL soon.
fn sending_to(plan: &HostConfig, url: &str) -> HostConfig {
    let plan = plan.clone().set("OTEL_EXPORTER_OTLP_ENDPOINT", url).set("OTEL_BSP_SCHEDULE_DELAY", "20");
    plan.set("OTEL_SERVICE_NAME", "orders").set("OUTBOX_LOG", "json")
}

/// How an application enqueues.
#[derive(Clone, Copy, Debug)]
enum Way {
    Http,
    Sql,
    CommandLine,
}

async fn enqueue(deployment: &Deployment, host: &HostProcess, way: Way, key: &str, traceparent: &str) {
    match way {
        Way::Http => {
            let body = format!(r#"{{"type":"webhook","idem_key":"{key}","payload":{{}}}}"#);
            let headers = [("content-type", "application/json"), ("traceparent", traceparent)];
            assert_eq!(host.send("POST", "/items", &headers, &body).await.status, 202);
        }
        Way::Sql => {
            let insert = format!(
                "INSERT INTO outbox_items (type, idem_key, payload, headers)
                 VALUES ('webhook', '{key}', '{{}}', '{{\"traceparent\": \"{traceparent}\"}}')"
            );
            deployment.test_db.sql(&insert).unwrap();
        }
        Way::CommandLine => {
            let header = format!("traceparent={traceparent}");
            deployment.plan.json(&[
                "enqueue",
                "--type",
                "webhook",
                "--key",
                key,
                "--payload",
                "{}",
                "--header",
                &header,
                "--json",
            ]);
        }
    }
}

mod on_each {
    use super::*;

    pub(super) async fn a_trace_that_begins_in_an_application_is_seen_whole(backend: Backend) {
        let (deployment, collector) = (Deployment::on(TestDb::new(backend)).await, Downstream::start().await);
        let host = sending_to(&deployment.plan, &collector.url()).start("serve").await;
        for (number, way) in [Way::Http, Way::Sql, Way::CommandLine].into_iter().enumerate() {
            let (key, trace) = (format!("k{number}"), format!("4bf92f3577b34da6a3ce929d0e0e473{number}"));
            let requests = || {
                let received = deployment.vector.ledger.received();
                received
                    .into_iter()
                    .filter(|request| request.header("traceparent").contains(&trace))
                    .collect::<Vec<_>>()
            };
            deployment.vector.ledger.answer_with(503, None);
            enqueue(&deployment, &host, way, &key, &format!("00-{trace}-{CALLER}-01")).await;
            eventually("two attempts have failed", SOON, async || requests().len() >= 2).await;
            deployment.vector.ledger.answer_with(200, None);
            let id = deployment.plan.json(&["list", "--key", &key, "--json"])[0]["id"].as_i64().unwrap();
            becomes(&host, id, "DONE").await;
            let has_end = |span: &Span| span.name == "settlement webhook" && text(span, "outbox.settlement") == "done";
            eventually("the trace has arrived", SOON, async || spans(&collector, &trace).iter().any(has_end)).await;
            let sent: Vec<_> = requests().iter().map(|request| request.header("traceparent").to_owned()).collect();
            is_whole(&spans(&collector, &trace), &sent, &deployment.vector.url());
        }
        let resource = resources(&collector).remove(0);
        let name = resource.attributes.iter().find(|fact| fact.key == "service.name").unwrap();
        assert_eq!(name.value.clone().unwrap().value, Some(Value::StringValue("orders".into())));
        logs_have_the_same_ids(&deployment, &collector, &host).await;
        assert_eq!(host.terminate(), Some(0));
    }
}

on_each_backend! {
    a_trace_that_begins_in_an_application_is_seen_whole
}

/// A fact about a span that is a text.
fn text(span: &Span, name: &str) -> String {
    let fact = span.attributes.iter().find(|fact| fact.key == name).and_then(|fact| fact.value.clone()?.value);
    match fact {
        Some(Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

fn has_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

/// One enqueueing below the caller, and below it each attempt with its wait, its request and its settlement. All failed
/// but the last. `sent` are the headers that the receiver got.
fn is_whole(spans: &[Span], sent: &[String], receiver: &str) {
    let named = |name: &str| {
        let mut found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        found.sort_by_key(|span| span.start_time_unix_nano);
        found
    };
    let [enqueue] = &named("enqueue webhook")[..] else { panic!("one enqueueing: {spans:?}") };
    assert_eq!((hex(&enqueue.parent_span_id), enqueue.kind()), (CALLER.to_owned(), SpanKind::Producer));
    let (attempts, waits) = (named("attempt webhook"), named("wait webhook"));
    let (requests, settlements) = (named("request POST"), named("settlement webhook"));
    let counts = [attempts.len(), waits.len(), requests.len(), settlements.len()];
    assert_eq!(counts, [sent.len(); 4], "{spans:?}");
    let (last, failed) = attempts.split_last().unwrap();
    assert!(failed.len() >= 2 && failed.iter().all(|span| has_failed(span)) && !has_failed(last), "{attempts:?}");
    assert!(failed.iter().all(|span| text(span, "outbox.failure.code") == "upstream.503"), "{failed:?}");
    let by_attempt = |spans: &[&Span]| -> BTreeMap<Vec<u8>, Vec<u8>> {
        spans.iter().map(|span| (span.parent_span_id.clone(), span.span_id.clone())).collect()
    };
    let (requests_of, settlements_of) = (by_attempt(&requests), by_attempt(&settlements));
    for (attempt, wait) in attempts.iter().zip(&waits) {
        assert_eq!((&attempt.parent_span_id, &wait.parent_span_id), (&enqueue.span_id, &enqueue.span_id));
        assert_eq!(attempt.start_time_unix_nano, wait.end_time_unix_nano);
        assert!(attempt.kind() == SpanKind::Consumer && attempt.start_time_unix_nano <= attempt.end_time_unix_nano);
        assert!(settlements_of.contains_key(&attempt.span_id), "{spans:?}");
        let request = hex(&requests_of[&attempt.span_id]);
        assert!(sent.iter().any(|header| header.contains(&request)), "the receiver was told of {request}: {sent:?}");
    }
    assert!(requests.iter().all(|span| span.kind() == SpanKind::Client && text(span, "url.full") == receiver));
}

/// The line about a failed attempt has the names of its trace and span, in the log and at the collector.
async fn logs_have_the_same_ids(deployment: &Deployment, collector: &Downstream, host: &HostProcess) {
    let log = std::fs::read_to_string(deployment.dir.path().join("host.log")).unwrap();
    let parsed = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let line =
        parsed.into_iter().find(|line| line["message"].as_str().is_some_and(|text| text.starts_with("attempt failed")));
    let line = line.unwrap_or_else(|| panic!("no attempt failed in {log}"));
    let (trace, span) = (line["trace_id"].as_str().unwrap(), line["span_id"].as_str().unwrap());
    assert!(spans(collector, trace).iter().any(|found| hex(&found.span_id) == span && has_failed(found)), "{line}");
    let is_it = |line: &LogRecord| hex(&line.trace_id) == trace && hex(&line.span_id) == span;
    eventually("the line has arrived", SOON, async || lines(collector).iter().any(is_it)).await;
    assert_eq!(host.send("GET", "/healthz", &[], "").await.status, 200);
}

#[tokio::test]
async fn a_sampler_decides_which_traces_are_recorded_and_receivers_are_told() {
    let (deployment, collector) = (Deployment::new().await, Downstream::start().await);
    let plan = sending_to(&deployment.plan, &collector.url()).set("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    let host = plan.start("serve").await;
    for (key, trace, flags) in [("no", "1".repeat(32), "00"), ("yes", "2".repeat(32), "01")] {
        enqueue(&deployment, &host, Way::Http, key, &format!("00-{trace}-{CALLER}-{flags}")).await;
        eventually("the receiver is told", SOON, async || {
            let sent = deployment.vector.ledger.received();
            sent.iter().any(|request| {
                let header = request.header("traceparent");
                header.contains(&trace) && header.ends_with(&format!("-{flags}"))
            })
        })
        .await;
    }
    eventually("the recorded one arrives", SOON, async || !spans(&collector, &"2".repeat(32)).is_empty()).await;
    assert_eq!(host.terminate(), Some(0));
    assert_eq!(spans(&collector, &"1".repeat(32)), []);
}

#[tokio::test]
async fn without_a_variable_that_asks_for_it_nothing_is_sent() {
    let (deployment, collector) = (Deployment::new().await, Downstream::start().await);
    let off = sending_to(&deployment.plan, &collector.url()).set("OTEL_SDK_DISABLED", "true");
    let unasked = deployment.plan.clone().set("OTEL_SERVICE_NAME", "orders");
    for (key, plan) in [("off", off), ("unasked", unasked)] {
        let host = plan.start("serve").await;
        enqueue(&deployment, &host, Way::CommandLine, key, &format!("00-{}-{CALLER}-01", "3".repeat(32))).await;
        let id = plan.json(&["list", "--key", key, "--json"])[0]["id"].as_i64().unwrap();
        becomes(&host, id, "DONE").await;
        assert_eq!(host.terminate(), Some(0));
    }
    assert_eq!(collector.ledger.received().len(), 0);
    let log = std::fs::read_to_string(deployment.dir.path().join("host.log")).unwrap();
    assert!(!log.contains("collector"), "{log}");
}

#[tokio::test]
async fn no_secret_in_the_url_of_a_receiver_or_of_a_collector_is_logged_or_sent() {
    const SECRET: &str = "hunter2";
    let (deployment, collector) = (Deployment::new().await, Downstream::start().await);
    let place = collector.url().replace("http://", &format!("http://ada:{SECRET}@"));
    let hook = format!("{}/bot-{SECRET}/send?key={SECRET}", deployment.vector.url());
    let plan = sending_to(&deployment.plan, &format!("{place}/{SECRET}")).set("WEBHOOK_URL", &hook);
    let plan = plan.set("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip").set("RUST_LOG", "info,outbox=debug");
    deployment.vector.ledger.answer_with(503, None);
    let host = plan.start("serve").await;
    let trace = "5".repeat(32);
    enqueue(&deployment, &host, Way::Http, "k", &format!("00-{trace}-{CALLER}-01")).await;
    let arrived = || collector.ledger.received().iter().map(body).collect::<Vec<_>>().concat();
    let has = |text: &str| String::from_utf8_lossy(&arrived()).contains(text);
    eventually("a request and the line about it have arrived", SOON, async || {
        has("request POST") && has("attempt failed, retry")
    })
    .await;
    collector.ledger.answer_with(400, None);
    let log = || std::fs::read_to_string(deployment.dir.path().join("host.log")).unwrap();
    eventually("it is said", SOON, async || log().contains("the collector takes no telemetry")).await;
    assert_eq!(host.terminate(), Some(0));
    assert!(!log().contains(SECRET), "{}", log());
    assert!(log().contains(&collector.url()), "{}", log());
    assert!(!has(SECRET), "{}", String::from_utf8_lossy(&arrived()));
    let requests = collector.ledger.received();
    assert!(requests.iter().all(|request| request.header("content-encoding") == "gzip"));
}

// The collector answers while the test waits for the end of a process.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_of_a_host_arrive_also_when_it_cannot_start() {
    let (deployment, collector) = (Deployment::new().await, Downstream::start().await);
    let plan = sending_to(&deployment.plan, &collector.url()).set("OTEL_BSP_SCHEDULE_DELAY", "60000");
    let bodies = || {
        let told = lines(&collector).into_iter().filter_map(|line| line.body?.value);
        told.map(|value| format!("{value:?}")).collect::<Vec<_>>().join("\n")
    };
    let host = plan.start("serve").await;
    assert_eq!(host.terminate(), Some(0));
    assert!(bodies().contains("\"stopped\""), "{}", bodies());
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let output = plan.set("OUTBOX_LISTEN", &taken.local_addr().unwrap().to_string()).run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(bodies().contains("the host ends: listening on"), "{}", bodies());
}

#[tokio::test]
async fn a_collector_that_is_away_or_does_not_answer_holds_up_neither_items_nor_the_end_of_the_host() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    for (number, url) in ["http://127.0.0.1:1", &silent_url].into_iter().enumerate() {
        let deployment = Deployment::new().await;
        let plan = sending_to(&deployment.plan, url).set("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000");
        let host = plan.set("OUTBOX_LOG", "text").start("serve").await;
        for item in 0..3 {
            let args = ["enqueue", "--type", "webhook", "--key", &format!("k{item}"), "--payload", "{}", "--json"];
            becomes(&host, deployment.plan.json(&args)["ids"][0].as_i64().unwrap(), "DONE").await;
        }
        let log = || std::fs::read_to_string(deployment.dir.path().join("host.log")).unwrap();
        if number == 0 {
            eventually("it is said", SOON, async || log().contains("the collector takes no telemetry")).await;
        }
        assert_eq!(host.terminate(), Some(0));
        let said = log().matches("the collector takes no telemetry: ").count();
        assert!(said <= 2, "{said} lines: {}", log());
    }
}
