//! Actions on several items, on types and on ordering keys, and the overviews for operators.

use std::time::Duration;

use axum::http::StatusCode;
use outbox::item::Status;
use serde_json::{Value, json};

use super::{CONTRACT, HttpFixture, get, post};

async fn enqueue(host: &HttpFixture, key: &str, ordering_key: Option<&str>) {
    let body = json!({ "type": "a", "idem_key": key, "payload": 1, "ordering_key": ordering_key }).to_string();
    assert_eq!(host.send(post("/items", &CONTRACT, &body)).await.status, StatusCode::ACCEPTED);
}

async fn status(host: &HttpFixture, id: usize) -> Status {
    host.items().await[id - 1].status
}

async fn send(host: &HttpFixture, path: &str, body: &Value) -> Value {
    let answer = host.send(post(path, &[], &body.to_string())).await;
    assert!(answer.status.is_success(), "{path}: {answer:?}");
    answer.json()
}

#[tokio::test]
async fn an_item_is_dead_lettered_restored_rescheduled_and_released() {
    let host = HttpFixture::durable();
    enqueue(&host, "k", None).await;
    send(&host, "/items/1/dead", &json!({ "reason": "wrong address" })).await;
    assert_eq!(status(&host, 1).await, Status::Dlq);
    send(&host, "/items/1/restore", &json!({})).await;
    assert_eq!(status(&host, 1).await, Status::Pending);
    send(&host, "/items/1/reschedule", &json!({ "delay_ms": 3_600_000 })).await;
    let item = host.items().await.remove(0);
    assert!(item.available_at.since(item.created_at) > Duration::from_mins(50));
    send(&host, "/items:reschedule", &json!({ "ids": [1], "available_at": 0 })).await;
    host.claim("a").await;
    let refused = host.send(post("/items/1/release", &[], "")).await.problem(409, "refused");
    assert!(refused["detail"].as_str().unwrap().contains("lease"), "{refused}");
    send(&host, "/items/1/release", &json!({ "force": true })).await;
    assert_eq!(status(&host, 1).await, Status::Pending);
    let shown = host.send(get("/items/1")).await.json();
    let trail: Vec<_> = shown["audit"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(trail, ["dead", "restore", "reschedule", "reschedule", "release"]);
    assert_eq!(shown["audit"][0]["reason"], "wrong address");
}

#[tokio::test]
async fn what_belongs_to_another_action_is_refused() {
    let host = HttpFixture::durable();
    enqueue(&host, "k", None).await;
    for (path, order, word) in [
        ("/items/1/replay", r#"{"force": true}"#, "invalid-request"),
        ("/items/1/restore", r#"{"skip_key": true}"#, "invalid-request"),
        ("/items/1/dead", r#"{"delay_ms": 1}"#, "invalid-request"),
        ("/items/1/reschedule", "{}", "invalid-request"),
        ("/items/1/reschedule", r#"{"delay_ms": 1, "available_at": 1}"#, "invalid-request"),
        ("/items:dead", r#"{"ids": [1], "background": true}"#, "invalid-request"),
        ("/items:dead", r#"{"filter": {"status": ["PENDING"]}, "per_second": 0}"#, "invalid-request"),
        ("/items/1/dead", r#"{"forced": true}"#, "invalid-json"),
        ("/types/A/pause", "", "invalid-item"),
    ] {
        host.send(post(path, &[], order)).await.problem(400, word);
    }
    for path in ["/items/1/purge", "/items/1/explode", "/types/a/explode"] {
        host.send(post(path, &[], "")).await.problem(404, "no-route");
    }
    assert_eq!(status(&host, 1).await, Status::Pending);
}

#[tokio::test]
async fn a_bulk_action_goes_on_as_a_job_that_is_watched_and_cancelled() {
    let host = HttpFixture::durable();
    for key in ["a", "b", "c"] {
        enqueue(&host, key, None).await;
        host.dead_letter("a").await;
    }
    let order = json!({ "filter": { "status": ["DLQ"] }, "per_second": 1, "reason": "fixed" });
    let answer = host.send(post("/items:replay", &[("x-actor", "ops")], &order.to_string())).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let job = answer.json();
    assert_eq!((&job["action"], &job["matched"], &job["state"]), (&json!("replay"), &json!(3), &json!("RUNNING")));
    assert_eq!(send(&host, "/jobs/1/cancel", &json!({})).await["changed"], true);
    let job = host.send(get("/jobs/1")).await.json();
    assert_eq!((&job["state"], &job["actor"]), (&json!("CANCELLED"), &json!("ops (claimed)")));
    assert_eq!(host.send(get("/jobs?limit=5")).await.json()["jobs"].as_array().unwrap().len(), 1);
    host.send(get("/jobs/9")).await.problem(404, "no-job");
    host.send(post("/jobs/9/cancel", &[], "")).await.problem(404, "no-job");
    let report = send(&host, "/items:replay", &json!({ "filter": { "status": ["DLQ"] } })).await;
    assert_eq!((&report["changed"], &report["job"]), (&json!(3), &json!(2)));
}

#[tokio::test]
async fn a_blocked_key_is_found_explained_and_unblocked() {
    let host = HttpFixture::durable();
    enqueue(&host, "1", Some("order/7")).await;
    enqueue(&host, "2", Some("order/7")).await;
    host.dead_letter("a").await;
    let stuck = host.send(get("/stuck")).await.json()["stuck"][0].clone();
    assert_eq!((&stuck["kind"], &stuck["waiting"]), (&json!("blocked_key"), &json!(1)));
    assert!(stuck["command"].as_str().unwrap().contains("outbox unblock 'order/7'"), "{stuck}");
    let dry = send(&host, "/keys/order%2F7/unblock", &json!({ "dry_run": true })).await;
    assert_eq!(dry, json!({ "changed": true, "items": [1] }));
    send(&host, "/keys/order%2F7/unblock", &json!({ "reason": "goes on without it" })).await;
    assert_eq!(host.claim("a").await.item.id, 2);
    let entry = host.send(get("/audit?action=unblock")).await.json()["entries"][0].clone();
    assert_eq!((&entry["reason"], &entry["actor"]), (&json!("goes on without it"), &json!("http (no name)")));
}

#[tokio::test]
async fn a_paused_type_is_listed_and_resumed() {
    let host = HttpFixture::durable();
    enqueue(&host, "k", None).await;
    send(&host, "/types/a/pause", &json!({ "reason": "deploy" })).await;
    let pauses = host.send(get("/pauses")).await.json();
    assert_eq!((&pauses["pauses"][0]["type"], &pauses["pauses"][0]["reason"]), (&json!("a"), &json!("deploy")));
    assert_eq!(host.send(get("/stuck")).await.json()["stuck"][0]["command"], "outbox resume a");
    send(&host, "/types/a/resume", &json!({})).await;
    assert_eq!(host.claim("a").await.item.id, 1);
}

#[tokio::test]
async fn a_fairness_key_of_a_request_or_an_item_is_counted_paused_and_resumed() {
    let host = HttpFixture::durable();
    let batch = "{\"type\":\"a\",\"payload\":1}\n{\"type\":\"a\",\"payload\":2,\"fairness_key\":\"globex\"}";
    let ndjson = ("content-type", "application/x-ndjson");
    let write = |key: &str| post("/items", &[CONTRACT[0], CONTRACT[1], ndjson, ("x-fairness-key", key)], batch);
    host.send(write("a\tb")).await.problem(400, "malformed-header");
    assert_eq!(host.send(write("acme")).await.status, StatusCode::ACCEPTED);
    let listed = host.send(get("/items?fairness_key=globex")).await.json();
    assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["fairness_key"]), (&json!(2), &json!("globex")));
    let keys = host.send(get("/fairness-keys?type=a&limit=9")).await.json();
    assert_eq!((&keys["keys"][0]["fairness_key"], &keys["keys"][1]["pending"]), (&json!("acme"), &json!(1)));
    send(&host, "/fairness-keys/acme/pause", &json!({ "type": "a", "reason": "a flood" })).await;
    let paused = host.send(get("/pauses")).await.json()["keys"][0].clone();
    assert_eq!((&paused["fairness_key"], &paused["type"]), (&json!("acme"), &json!("a")));
    assert_eq!(host.claim("a").await.item.id, 2);
    assert!(host.send(get("/metrics/store")).await.text.contains("outbox_paused_keys 1"));
    send(&host, "/fairness-keys/acme/resume", &json!({})).await;
    assert_eq!(host.claim("a").await.item.id, 1);
}

#[tokio::test]
async fn a_group_of_failures_is_listed_and_replayed() {
    let host = HttpFixture::durable();
    for key in ["a", "b"] {
        enqueue(&host, key, None).await;
        host.dead_letter("a").await;
    }
    let group = host.send(get("/failures?type=a")).await.json()["failures"][0].clone();
    assert_eq!((&group["count"], &group["code"]), (&json!(2), &json!("card.declined")));
    let fingerprint = group["fingerprint"].as_str().unwrap();
    let listed = host.send(get(&format!("/items?fingerprint={fingerprint}"))).await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    let order = json!({ "filter": { "status": ["DLQ"], "fingerprint": fingerprint } });
    assert_eq!(send(&host, "/items:replay", &order).await["changed"], 2);
    let none = host.send(get("/failures")).await.json();
    assert_eq!(none, json!({ "failures": [] }));
    host.send(get("/audit?who=me")).await.problem(400, "invalid-request");
}
