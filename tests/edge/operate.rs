//! Inspection, operators' actions, and the authorization of both.

use axum::http::StatusCode;
use outbox::http::{AccessSettings, HttpSettings};
use outbox::item::Status;
use serde_json::{Value, json};

use super::{CONTRACT, HttpFixture, get, post, request};

async fn host_with(types: &[&str]) -> HttpFixture {
    let host = HttpFixture::durable();
    for (index, item_type) in types.iter().enumerate() {
        let body = json!({ "type": item_type, "idem_key": format!("k-{index}"), "payload": index }).to_string();
        assert_eq!(host.send(post("/items", &CONTRACT, &body)).await.status, StatusCode::ACCEPTED);
    }
    host
}

fn ids(listing: &Value) -> Vec<i64> {
    listing["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_listing_is_newest_first_filtered_and_paged() {
    let host = host_with(&["a", "b", "a", "a"]).await;
    host.dead_letter("b").await;
    for (query, expected) in [
        ("", vec![4, 3, 2, 1]),
        ("?status=DLQ", vec![2]),
        ("?status=DEAD", vec![2]),
        ("?status=pending&type=a", vec![4, 3, 1]),
        ("?status=PENDING,DLQ&before=3", vec![2, 1]),
        ("?cid=c-1&limit=4", vec![4, 3, 2, 1]),
        ("?cid=other", vec![]),
        ("?created_to=1", vec![]),
    ] {
        let answer = host.send(get(&format!("/items{query}"))).await;
        assert_eq!(ids(&answer.json()), expected, "{query}");
    }
    let first = host.send(get("/items?limit=3")).await.json();
    let item = &first["items"][0];
    assert_eq!((&item["payload_bytes"], &item["result_bytes"]), (&json!(1), &Value::Null));
    assert!(item.get("payload").is_none() && item.get("result").is_none(), "{item}");
    assert_eq!((ids(&first), &first["next"]), (vec![4, 3, 2], &json!(2)));
    let last = host.send(get("/items?limit=3&before=2")).await.json();
    assert_eq!((ids(&last), &last["next"]), (vec![1], &Value::Null));
}

#[tokio::test]
async fn an_item_is_shown_with_its_history() {
    let host = host_with(&["a"]).await;
    host.dead_letter("a").await;
    let item = host.send(get("/items/1")).await.json();
    assert_eq!((&item["status"], &item["payload"], &item["idem_key"]), (&json!("DLQ"), &json!(0), &json!("k-0")));
    assert_eq!(item["failed_attempts"][0]["code"], "card.declined");
}

#[tokio::test]
async fn members_of_the_payload_that_an_operator_hides_are_not_shown() {
    let redaction = "card.number".parse().unwrap();
    let host = HttpFixture::new(HttpSettings { is_durable: true, redaction, ..HttpSettings::default() });
    let body = json!({ "type": "a", "idem_key": "k", "payload": { "card": { "number": "4111 1111", "of": "Ada" } } });
    assert_eq!(host.send(post("/items", &CONTRACT, &body.to_string())).await.status, StatusCode::ACCEPTED);
    for path in ["/items/1", "/items/k"] {
        let item = host.send(get(path)).await.json();
        assert_eq!(item["payload"], json!({ "card": { "number": "[redacted]", "of": "Ada" } }), "{path}");
    }
    let beyond = r#"{"type":"a","idem_key":"beyond","payload":{"card":{"number":"4111 1111"},"n":1e400}}"#;
    assert_eq!(host.send(post("/items", &CONTRACT, beyond)).await.status, StatusCode::ACCEPTED);
    let shown = host.send(get("/items/beyond")).await.text;
    assert!(shown.contains(r#""payload":{"card":{"number":"[redacted]"},"n":1e400}"#), "{shown}");
    for path in ["/items?text=4111", "/items?payload=card.number=4111%201111", "/failures?text=4111"] {
        let problem = host.send(get(path)).await.problem(400, "invalid-request");
        assert!(problem["detail"].as_str().unwrap().contains("OUTBOX_REDACT"), "{path}: {problem}");
    }
    let order = r#"{"filter": {"status": ["DLQ"], "text": "4111"}, "dry_run": true}"#;
    host.send(post("/items:replay", &[], order)).await.problem(400, "invalid-request");
    assert_eq!(host.send(get("/items?payload=card.of=Ada")).await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_replay_starts_a_new_life_and_is_audited_with_actor_and_reason() {
    let host = host_with(&["a", "a"]).await;
    host.dead_letter("a").await;
    let order = r#"{"reason": "card renewed"}"#;
    let answer = host.send(post("/items/1/replay", &[("x-actor", "ops@desk")], order)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["changed"], 1);
    assert_eq!(host.items().await[0].status, Status::Pending);

    let problem = host.send(post("/items/1/replay", &[], "")).await.problem(409, "refused");
    assert!(problem["detail"].as_str().unwrap().contains("PENDING"), "{problem}");
    host.send(post("/items/99/replay", &[], "")).await.problem(404, "no-item");

    host.complete("a").await;
    host.send(post("/items:replay", &[("x-actor", "header")], r#"{"ids": [1, "2"], "actor": "body"}"#)).await;
    host.dead_letter("a").await;
    host.send(post("/items:replay", &[], r#"{"filter": {"status": ["DLQ"]}}"#)).await;
    let audit = audit(&host);
    let expected = [("ops@desk (claimed)", Some("card renewed")), ("body (claimed)", None), ("http (no name)", None)];
    assert_eq!(audit, expected.map(|(actor, reason)| (actor.to_owned(), reason.map(str::to_owned))));
}

fn audit(host: &HttpFixture) -> Vec<(String, Option<String>)> {
    let sqlite = host.sqlite();
    let mut select = sqlite.prepare("SELECT actor, reason FROM outbox_audit ORDER BY rowid").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let host = host_with(&["a", "b"]).await;
    host.dead_letter("a").await;
    host.complete("b").await;
    for path in ["/items:replay", "/items:purge"] {
        let order = r#"{"filter": {"status": ["DEAD", "PUBLISHED"]}, "dry_run": true}"#;
        let report = host.send(post(path, &[], order)).await.json();
        assert_eq!((&report["matched"], &report["changed"]), (&json!(2), &json!(2)), "{path}");
    }
    let statuses: Vec<_> = host.items().await.into_iter().map(|item| item.status).collect();
    assert_eq!(statuses, [Status::Dlq, Status::Done]);
    assert!(audit(&host).is_empty());
}

#[tokio::test]
async fn a_purge_removes_what_matches_and_a_replay_revives_what_matches() {
    let host = host_with(&["a", "a", "b"]).await;
    host.dead_letter("a").await;
    host.dead_letter("b").await;
    host.complete("a").await;
    let report = confirmed(&host, "/items:purge", json!({ "filter": { "status": ["DONE"] } })).await;
    assert_eq!((&report["changed"], &report["sample"]), (&json!(1), &json!([2])));
    let report = host.send(post("/items:replay", &[], r#"{"filter": {"status": ["DLQ"], "type": "b"}}"#)).await.json();
    assert_eq!((&report["changed"], &report["sample"]), (&json!(1), &json!([3])));
    let left: Vec<_> = host.items().await.into_iter().map(|item| (item.id.get(), item.status)).collect();
    assert_eq!(left, [(1, Status::Dlq), (3, Status::Pending)]);
}

/// Sends a dry run, and then the order with its confirmation.
async fn confirmed(host: &HttpFixture, path: &str, mut order: Value) -> Value {
    order["dry_run"] = json!(true);
    let preview = host.send(post(path, &[], &order.to_string())).await.json();
    order.as_object_mut().unwrap().remove("dry_run");
    order["confirm"] = preview["confirm"].clone();
    let answer = host.send(post(path, &[], &order.to_string())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn what_deletes_takes_work_away_or_repeats_effects_needs_the_confirmation_of_a_dry_run() {
    let host = host_with(&["a", "b", "c", "c"]).await;
    host.dead_letter("a").await;
    host.complete("b").await;
    for (path, order) in [
        ("/items:purge", json!({ "filter": { "status": ["DLQ"] } })),
        ("/items:replay", json!({ "filter": { "status": ["DONE"] } })),
        ("/items:replay", json!({ "filter": { "status": ["DLQ"] }, "new_effects": true })),
        ("/items:reschedule", json!({ "filter": { "status": ["PENDING"] }, "delay_ms": 0 })),
        ("/items:dead", json!({ "filter": { "status": ["PENDING"], "type": "c" }, "background": true })),
    ] {
        let problem = host.send(post(path, &[], &order.to_string())).await.problem(428, "confirmation-needed");
        let waiting = ["/items:dead", "/items:reschedule"].contains(&path);
        assert_eq!(problem["count"], if waiting { 2 } else { 1 }, "{path} {order}");
        assert!(problem["confirm"].is_string() && problem["as_of"].is_number(), "{problem}");
    }
    let statuses: Vec<_> = host.items().await.into_iter().map(|item| item.status).collect();
    assert_eq!(statuses, [Status::Dlq, Status::Done, Status::Pending, Status::Pending], "nothing was done");
    let report = confirmed(&host, "/items:dead", json!({ "filter": { "status": ["PENDING"], "type": "c" } })).await;
    assert_eq!(report["changed"], 2);
}

#[tokio::test]
async fn a_confirmed_action_takes_the_items_of_its_dry_run_and_no_later_ones() {
    let host = host_with(&["a", "b"]).await;
    host.dead_letter("a").await;
    let filter = json!({ "status": ["DLQ"] });
    let order = json!({ "filter": filter, "dry_run": true });
    let preview = host.send(post("/items:purge", &[], &order.to_string())).await.json();
    assert_eq!((&preview["count"], &preview["changed"]), (&json!(1), &json!(1)));
    let group = &preview["groups"][0];
    assert_eq!((&group["status"], &group["type"], &group["count"]), (&json!("DLQ"), &json!("a"), &json!(1)));
    host.dead_letter("b").await;
    host.sqlite().execute("UPDATE outbox_dead SET dead_at = ?1 + 1 WHERE id = 2", [preview["as_of"].as_i64()]).unwrap();
    let order = json!({ "filter": filter, "confirm": preview["confirm"] });
    assert_eq!(host.send(post("/items:purge", &[], &order.to_string())).await.json()["changed"], 1);
    let left: Vec<_> = host.items().await.into_iter().map(|item| item.id.get()).collect();
    assert_eq!(left, [2]);
    for (path, order) in [
        ("/items:replay", json!({ "filter": { "status": ["DLQ"] }, "confirm": preview["confirm"] })),
        ("/items:purge", json!({ "filter": { "status": ["DLQ"], "type": "b" }, "confirm": preview["confirm"] })),
        ("/items:purge", json!({ "ids": [2], "confirm": preview["confirm"] })),
        ("/items/2/replay", json!({ "confirm": preview["confirm"] })),
    ] {
        host.send(post(path, &[], &order.to_string())).await.problem(400, "invalid-request");
    }
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_refused_with_the_nearest_unless_it_is_forced() {
    let host = host_with(&["webhook"]).await;
    for (path, order) in [
        ("/types/webhok/resume", json!({})),
        ("/types/webhok/pause", json!({})),
        ("/items:replay", json!({ "filter": { "status": ["DLQ"], "type": "webhok" } })),
    ] {
        let problem = host.send(post(path, &[], &order.to_string())).await.problem(404, "unknown-name");
        assert_eq!(problem["nearest"], json!(["webhook"]), "{path}");
        let mut order = order;
        order["force"] = json!(true);
        assert_eq!(host.send(post(path, &[], &order.to_string())).await.status, 200, "{path}");
    }
    assert_eq!(host.send(post("/types/webhok/resume", &[], "{}")).await.json()["changed"], true, "it is paused");
    host.send(post("/keys/order-7/unblock", &[], "{}")).await.problem(404, "unknown-name");
}

#[tokio::test]
async fn an_item_is_named_by_its_key_and_found_by_what_it_contains() {
    let host = host_with(&["a", "a"]).await;
    assert_eq!(host.send(get("/items/k-1")).await.json()["id"], 2);
    let problem = host.send(get("/items/k-2")).await.problem(404, "no-item");
    assert!(problem["detail"].as_str().unwrap().contains("k-2"), "{problem}");
    for query in ["idem_key=k-1", "key_prefix=k-1", "headers=none=0&idem_key=k-1"] {
        let expected = if query.contains("none") { vec![] } else { vec![2] };
        assert_eq!(ids(&host.send(get(&format!("/items?{query}"))).await.json()), expected, "{query}");
    }
    host.send(get("/items?payload=order")).await.problem(400, "invalid-request");
    host.send(get("/items?key_prefix=")).await.problem(400, "invalid-item");
    let dead = host.send(post("/items/k-0/dead", &[], "{}")).await;
    assert_eq!(dead.json()["sample"], json!([1]));
    let order = json!({ "filter": { "status": ["DLQ"], "idem_key": "k-0" } });
    assert_eq!(host.send(post("/items:purge", &[], &order.to_string())).await.json()["changed"], 1);
    host.send(post("/items/k-0/dead", &[], "{}")).await.problem(404, "no-item");
}

#[tokio::test]
async fn new_effects_are_asked_for_in_words() {
    let host = host_with(&["a"]).await;
    host.complete("a").await;
    host.send(post("/items/1/replay", &[], r#"{"new_effects": true}"#)).await;
    assert_eq!(host.items().await[0].effect_generation, 1);
}

#[tokio::test]
async fn an_order_that_does_not_say_which_items_is_refused() {
    let host = host_with(&["a"]).await;
    host.complete("a").await;
    for (path, order, word) in [
        ("/items:purge", "", "invalid-request"),
        ("/items:purge", r#"{"filter": {}}"#, "invalid-request"),
        ("/items:purge", r#"{"filter": {"type": "a"}}"#, "invalid-request"),
        ("/items:replay", r#"{"ids": []}"#, "invalid-request"),
        ("/items:replay", r#"{"ids": ["x"]}"#, "invalid-json"),
        ("/items:replay", r#"{"filter": {"status": ["DLQ"]}, "stop_after": 100}"#, "invalid-request"),
        ("/items:dead", r#"{"filter": {"status": ["PENDING"]}, "stop_after": 20}"#, "invalid-request"),
        ("/items:replay", r#"{"ids": [1], "filter": {"status": ["DONE"]}}"#, "invalid-request"),
        ("/items:purge", r#"{"ids": [1], "new_effects": true}"#, "invalid-request"),
        ("/items:purge", r#"{"ids": [1], "dryrun": true}"#, "invalid-json"),
        ("/items:purge", r#"{"filter": {"status": ["OLD"]}}"#, "invalid-json"),
        ("/items/1/replay", r#"{"ids": [1]}"#, "invalid-request"),
    ] {
        host.send(post(path, &[], order)).await.problem(400, word);
    }
    assert_eq!(host.items().await[0].status, Status::Done);
}

#[tokio::test]
async fn with_a_token_every_route_but_the_probes_needs_it() {
    let access = AccessSettings::with_admin("s3cret");
    let host = HttpFixture::new(HttpSettings { is_durable: true, access, ..HttpSettings::default() });
    for path in ["/items", "/metrics", "/metrics/store", "/status/cockpit", "/signals", "/nowhere"] {
        let answer = host.send(get(path)).await;
        answer.problem(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    host.send(post("/memory", &[("authorization", "Bearer wrong")], "{}")).await.problem(401, "unauthorized");
    let bearer = [("authorization", "Bearer s3cret"), ("host", "outbox.example")];
    assert_eq!(host.send(post("/memory", &bearer, "{}")).await.status, 202);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(host.send(request("GET", path, &[("host", "10.0.0.7")], "")).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn without_a_token_only_known_hosts_are_answered_for() {
    let hosts = vec!["outbox.internal".into()];
    let host = HttpFixture::new(HttpSettings { is_durable: true, hosts, ..HttpSettings::default() });
    for (name, status) in
        [("127.0.0.1:7070", 200), ("[::1]:7070", 200), ("outbox.internal", 200), ("evil.example", 421)]
    {
        assert_eq!(host.send(request("GET", "/items", &[("host", name)], "")).await.status.as_u16(), status, "{name}");
    }
    host.send(post("/memory", &[("host", "evil.example")], "{}")).await.problem(421, "wrong-host");
    assert!(host.items().await.is_empty());
}
