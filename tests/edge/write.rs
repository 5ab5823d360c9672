//! Writes over HTTP: what the host stores, what it answers, and what it refuses.

use outbox::core::saga::SagaDefinition;
use outbox::core::{DeliveryMode, Failure, FailureClass, HostWrites, Outcome};
use outbox::http::HttpSettings;
use outbox::item::Status;
use outbox::store::Inspect as _;
use serde_json::json;

use super::{CONTRACT, HttpFixture, Scripted, get, post, request};

const BODY: &str = "{ \"text\": \"ü\",  \"n\": 1.50 }\n";

#[tokio::test]
async fn a_memory_write_becomes_two_items_that_carry_the_body_byte_for_byte() {
    let host = HttpFixture::durable();
    let answer = host.send(post("/memory", &CONTRACT, BODY)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json(), json!({ "cid": "c-1", "idem_key": "k-1", "outbox_ids": [1, 2] }));
    assert_eq!(answer.header("x-correlation-id"), Some("c-1"));
    assert_eq!(answer.header("idempotency-key"), Some("k-1"));
    assert_eq!(answer.header("idempotent-replayed"), None);

    let items = host.items().await;
    let keys: Vec<_> = items.iter().map(|item| (item.item_type.as_str(), item.idem_key.as_str())).collect();
    assert_eq!(keys, [("vector_upsert", "k-1:vector_upsert"), ("belief_recompute", "k-1:belief_recompute")]);
    for item in items {
        assert_eq!(item.payload, BODY.as_bytes());
        assert_eq!((item.cid.as_str(), item.saga.as_deref()), ("c-1", Some("WriteMemorySaga")));
        assert_eq!(item.status, Status::Pending);
    }
}

#[tokio::test]
async fn a_repeated_write_is_answered_like_the_first_with_the_cid_of_the_repetition() {
    let host = HttpFixture::durable();
    host.send(post("/memory", &CONTRACT, BODY)).await;
    let headers = [("x-correlation-id", "c-2"), ("idempotency-key", "k-1")];
    let answer = host.send(post("/memory", &headers, BODY)).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.json(), json!({ "cid": "c-2", "idem_key": "k-1", "outbox_ids": [1, 2] }));
    assert_eq!(answer.header("idempotent-replayed"), Some("true"));
    assert_eq!(host.items().await.len(), 2);
}

#[tokio::test]
async fn a_write_without_a_correlation_id_has_its_key_as_one_and_so_has_its_repetition() {
    let host = HttpFixture::durable();
    for _ in 0..2 {
        let answer = host.send(post("/memory", &[("idempotency-key", "k-1")], BODY)).await;
        assert_eq!(answer.json(), json!({ "cid": "k-1", "idem_key": "k-1", "outbox_ids": [1, 2] }));
        assert_eq!(answer.header("x-correlation-id"), Some("k-1"));
    }
    assert!(host.items().await.iter().all(|item| item.cid == "k-1"));
}

#[tokio::test]
async fn a_key_with_other_content_is_a_conflict_that_names_the_key_and_the_first_item() {
    let host = HttpFixture::durable();
    host.send(post("/memory", &CONTRACT, BODY)).await;
    let answer = host.send(post("/memory", &CONTRACT, "{}")).await;
    let problem = answer.problem(422, "conflict");
    assert_eq!((&problem["idem_key"], &problem["first_id"]), (&json!("k-1:vector_upsert"), &json!(1)));
    assert_eq!(answer.header("idempotency-key"), Some("k-1"));
}

#[tokio::test]
async fn missing_headers_are_generated_in_time_order_and_counted() {
    let host = HttpFixture::durable();
    let first = host.send(post("/memory", &[], BODY)).await;
    let second = host.send(post("/memory", &[("x-correlation-id", ""), ("idempotency-key", "")], BODY)).await;
    let key = |answer: &super::HttpResponse| answer.json()["idem_key"].as_str().unwrap().to_owned();
    assert!(key(&first) < key(&second), "{first:?} {second:?}");
    assert_eq!(first.header("idempotency-key"), Some(key(&first).as_str()));
    assert_eq!(first.header("x-correlation-id"), first.json()["cid"].as_str());
    let counted = host.store.overview().await.unwrap().contract_violations;
    assert_eq!((counted["missing_correlation_id"], counted["missing_idempotency_key"]), (2, 2));
}

#[tokio::test]
async fn a_malformed_header_is_refused_in_every_mode_and_stores_nothing() {
    for is_durable in [true, false] {
        let host = HttpFixture::new(HttpSettings { is_durable, ..HttpSettings::default() });
        let long = "k".repeat(256);
        for path in ["/memory", "/sagas/WriteMemorySaga", "/items"] {
            for name in ["idempotency-key", "x-correlation-id"] {
                for value in ["schlüssel", "a\tb", &long] {
                    let problem = host.send(post(path, &[(name, value)], BODY)).await.problem(400, "malformed-header");
                    assert!(problem["detail"].as_str().unwrap().contains(name), "{problem}");
                }
            }
        }
        let mut twice = post("/memory", &CONTRACT, BODY);
        twice.headers_mut().append("idempotency-key", "k-2".parse().unwrap());
        host.send(twice).await.problem(400, "malformed-header");
        assert!(host.items().await.is_empty() && host.handler.attempts.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_payload_is_shown_with_its_numbers_as_they_are() {
    let host = HttpFixture::durable();
    let payload = r#"{"account":12345678901234567890123,"price":1.10,"id":9007199254740993.5,"far":1e400}"#;
    host.send(post("/items", &[], &format!(r#"{{"type":"t","payload":{payload}}}"#))).await;
    let shown = host.send(get("/items/1")).await.text;
    assert!(shown.contains(&format!(r#""payload":{payload}"#)), "{shown}");

    let inline = HttpFixture::new(HttpSettings::default());
    let result = Some(payload.as_bytes().to_vec());
    inline.handler.answers("t", Outcome::Done { result, writes: HostWrites::default() });
    let answer = inline.send(post("/items", &[], r#"{"type":"t","payload":1}"#)).await.text;
    assert!(answer.contains(&format!(r#""result":{payload}"#)), "{answer}");
}

#[tokio::test]
async fn writes_are_refused_with_429_while_too_many_items_wait() {
    let host = HttpFixture::new(HttpSettings { is_durable: true, max_pending: Some(3), ..HttpSettings::default() });
    let item = |key: &str| format!(r#"{{"type":"email","idem_key":"{key}","payload":1}}"#);
    for key in ["a", "b", "c"] {
        assert_eq!(host.send(post("/items", &[], &item(key))).await.status, 202);
    }
    for write in [post("/items", &[], &item("d")), post("/memory", &CONTRACT, BODY)] {
        let answer = host.send(write).await;
        assert_eq!(answer.problem(429, "too-many-pending")["limit"], 3);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(host.items().await.len(), 3);
    host.complete("email").await;
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    tokio::time::resume();
    assert_eq!(host.send(post("/items", &[], &item("d"))).await.status, 202, "the number is read again");
}

#[tokio::test]
async fn strict_mode_refuses_every_write_without_both_headers_and_names_what_is_missing() {
    for is_durable in [true, false] {
        let host = HttpFixture::new(HttpSettings { is_durable, is_strict: true, ..HttpSettings::default() });
        for path in ["/memory", "/sagas/WriteMemorySaga", "/items"] {
            for (headers, missing) in [
                (vec![], json!(["X-Correlation-ID", "Idempotency-Key"])),
                (vec![("x-correlation-id", "c")], json!(["Idempotency-Key"])),
                (vec![("x-correlation-id", ""), ("idempotency-key", "k")], json!(["X-Correlation-ID"])),
                (vec![("x-correlation-id", "c"), ("idempotency-key", "a\tb")], json!(["Idempotency-Key"])),
            ] {
                let problem = host.send(post(path, &headers, BODY)).await.problem(400, "missing-headers");
                assert_eq!(problem["missing"], missing, "{path} {headers:?}");
            }
        }
        assert!(host.items().await.is_empty());
        let counted = host.store.overview().await.unwrap().contract_violations;
        assert_eq!((counted["missing_correlation_id"], counted["missing_idempotency_key"]), (6, 9));
    }
    let host = HttpFixture::new(HttpSettings { is_durable: true, is_strict: true, ..HttpSettings::default() });
    assert_eq!(host.send(post("/memory", &CONTRACT, BODY)).await.status, 202);
}

#[tokio::test]
async fn a_declared_saga_can_be_written_and_an_unknown_one_lists_those_declared() {
    let mail = SagaDefinition { name: "MailSaga".into(), steps: vec!["email".into()] };
    let sagas = vec![SagaDefinition::write_memory(), mail];
    let host = HttpFixture::new(HttpSettings { is_durable: true, sagas, ..HttpSettings::default() });
    assert_eq!(host.send(post("/sagas/MailSaga", &CONTRACT, BODY)).await.json()["outbox_ids"], json!([1]));
    assert_eq!(host.items().await[0].idem_key, "k-1:email");
    let problem = host.send(post("/sagas/Mail%20Saga", &CONTRACT, BODY)).await.problem(404, "unknown-saga");
    assert_eq!(problem["declared"], json!(["WriteMemorySaga", "MailSaga"]));
}

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let host = HttpFixture::new(HttpSettings { is_durable: true, max_body: 64, ..HttpSettings::default() });
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(64));
    let ndjson = [("content-type", "application/x-ndjson")];
    for (request, status, word) in [
        (get("/nowhere"), 404, "no-route"),
        (get("/memory"), 405, "wrong-method"),
        (request("DELETE", "/items/1", &[], ""), 405, "wrong-method"),
        (post("/memory", &[], &large), 413, "too-large"),
        (post("/items", &ndjson, &large), 413, "too-large"),
        (post("/memory", &[("content-type", "text/plain")], "{}"), 415, "wrong-content-type"),
        (post("/items", &[("content-type", "")], "{}"), 415, "wrong-content-type"),
        (post("/items/1/replay", &[("content-type", "text/plain")], ""), 415, "wrong-content-type"),
        (post("/memory", &[], "[1]"), 400, "invalid-request"),
        (post("/memory", &[], ""), 400, "invalid-json"),
        (post("/memory", &[("idempotency-key", &"k".repeat(250))], "{}"), 400, "invalid-item"),
        (post("/items", &[], r#"{"type":"T","payload":1}"#), 400, "invalid-item"),
        (post("/items", &[], r#"{"type":"t","payload":1,"headers":{"Host":"x"}}"#), 400, "invalid-item"),
        (post("/items", &[], r#"{"type":"t","payload":1,"idem_kye":"k"}"#), 400, "invalid-json"),
        (post("/items", &ndjson, "\n\n"), 400, "invalid-request"),
        (get("/items?stauts=DLQ"), 400, "invalid-request"),
        (get("/items/one"), 404, "no-item"),
        (get("/items/7"), 404, "no-item"),
        (get("/items/%ff"), 400, "invalid-request"),
        (get("/signals?after=x"), 400, "invalid-request"),
        (get("/signals?limit=257"), 400, "invalid-request"),
    ] {
        host.send(request).await.problem(status, word);
    }
    assert!(host.items().await.is_empty());
    assert_eq!(host.send(get("/memory")).await.header("allow"), Some("POST"));
}

#[tokio::test]
async fn invalid_json_is_refused_with_its_position() {
    let host = HttpFixture::durable();
    let problem = host.send(post("/memory", &[], "{\n  \"a\": x }")).await.problem(400, "invalid-json");
    assert_eq!((&problem["line"], &problem["column"]), (&json!(2), &json!(8)));
}

#[tokio::test]
async fn one_item_takes_its_identity_from_itself_before_the_headers() {
    let host = HttpFixture::durable();
    let answer = host.send(post("/items", &CONTRACT, r#"{"type":"email","payload": {"a":  1}}"#)).await;
    assert_eq!(answer.json(), json!({ "cid": "c-1", "idem_key": "k-1", "outbox_ids": [1] }));
    let own = r#"{"type":"email","idem_key":"own","cid":"mine","payload":"/wA=","payload_encoding":"base64"}"#;
    let answer = host.send(post("/items", &CONTRACT, own)).await;
    assert_eq!(answer.json(), json!({ "cid": "mine", "idem_key": "own", "outbox_ids": [2] }));
    let payloads: Vec<_> = host.items().await.into_iter().map(|item| item.payload).collect();
    assert_eq!(payloads, [br#"{"a":  1}"#.to_vec(), vec![0xff, 0]]);
}

const NDJSON: [(&str, &str); 3] = [CONTRACT[0], CONTRACT[1], ("content-type", "application/x-ndjson")];

#[tokio::test]
async fn a_batch_is_written_whole_and_its_repetition_creates_nothing() {
    let host = HttpFixture::durable();
    let batch = "{\"type\":\"a\",\"idem_key\":\"own\",\"payload\":1}\n\r\n{\"type\":\"b\",\"payload\":2}";
    let answer = host.send(post("/items", &NDJSON, batch)).await;
    assert_eq!(answer.json(), json!({ "cid": "c-1", "idem_key": "k-1", "outbox_ids": [1, 2] }));
    let keys: Vec<_> = host.items().await.into_iter().map(|item| item.idem_key).collect();
    assert_eq!(keys, ["own", "k-1:3"]);
    let answer = host.send(post("/items", &NDJSON, batch)).await;
    assert_eq!(answer.json()["outbox_ids"], json!([1, 2]));
    assert_eq!(answer.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn a_batch_with_known_and_new_items_creates_the_new_ones() {
    let host = HttpFixture::durable();
    host.send(post("/items", &CONTRACT, r#"{"type":"a","idem_key":"known","payload":1}"#)).await;
    let batch = "{\"type\":\"b\",\"payload\":2}\n{\"type\":\"a\",\"idem_key\":\"known\",\"payload\":1}\n";
    let answer = host.send(post("/items", &NDJSON, batch)).await;
    assert_eq!(answer.json()["outbox_ids"], json!([2, 1]), "{answer:?}");
    assert_eq!(answer.header("idempotent-replayed"), None);
    assert_eq!(host.items().await.len(), 2);
}

#[tokio::test]
async fn a_bad_line_refuses_the_whole_batch_and_is_named() {
    let host = HttpFixture::durable();
    host.send(post("/items", &CONTRACT, r#"{"type":"a","idem_key":"taken","payload":1}"#)).await;
    let good = r#"{"type":"a","idem_key":"good","payload":1}"#;
    for (bad, status, word) in [
        ("{\"type\":", 400, "invalid-json"),
        (r#"{"type":"A","payload":1}"#, 400, "invalid-item"),
        (r#"{"type":"a","payload":"%","payload_encoding":"base64"}"#, 400, "invalid-json"),
        (r#"{"type":"a","idem_key":"taken","payload":2}"#, 422, "conflict"),
    ] {
        let batch = format!("{good}\n\n{bad}\n");
        let problem = host.send(post("/items", &NDJSON, &batch)).await.problem(status, word);
        assert_eq!(problem["line"], 3, "{problem}");
        assert!(problem["detail"].as_str().unwrap().starts_with("line 3: "), "{problem}");
    }
    assert_eq!(host.items().await.len(), 1);
}

#[tokio::test]
async fn a_store_that_fails_is_503_and_never_a_fall_back_to_inline() {
    let host = HttpFixture::durable();
    host.handler.answers("vector_upsert", Scripted::done());
    host.handler.answers("belief_recompute", Scripted::done());
    host.sqlite().execute_batch("DROP TABLE outbox_items").unwrap();
    let answer = host.send(post("/memory", &CONTRACT, BODY)).await;
    let problem = answer.problem(503, "store-unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("with the same key"), "{problem}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(host.handler.attempts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn inline_the_steps_run_once_in_order_and_nothing_is_stored() {
    let host = HttpFixture::new(HttpSettings::default());
    host.handler.answers("vector_upsert", Scripted::done());
    host.handler.answers("belief_recompute", Outcome::Done { result: None, writes: HostWrites::default() });
    let answer = host.send(post("/memory", &CONTRACT, BODY)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let steps = json!([
        { "type": "vector_upsert", "outcome": "ok", "result": { "rows": 1 } },
        { "type": "belief_recompute", "outcome": "ok", "result": null },
    ]);
    assert_eq!(answer.json(), json!({ "mode": "inline", "cid": "c-1", "idem_key": "k-1", "steps": steps }));
    assert_eq!(answer.header("x-correlation-id"), Some("c-1"));

    let attempts = host.handler.attempts.lock().unwrap().clone();
    let keys: Vec<_> = attempts.iter().map(|attempt| attempt.item.idem_key.as_str()).collect();
    assert_eq!(keys, ["k-1:vector_upsert", "k-1:belief_recompute"]);
    for attempt in &attempts {
        assert_eq!((attempt.mode, attempt.item.attempts), (DeliveryMode::Inline, 1));
        assert_eq!(attempt.item.payload, BODY.as_bytes());
        assert!(attempt.deadline_at > attempt.item.created_at);
    }
    assert!(host.items().await.is_empty());
}

#[tokio::test]
async fn inline_a_failed_step_is_502_with_the_result_of_every_step() {
    let host = HttpFixture::new(HttpSettings::default());
    let failure = Failure::new(FailureClass::Permanent, "vector.full", "no room");
    host.handler.answers("vector_upsert", Outcome::Failed(failure));
    host.handler.answers("belief_recompute", Scripted::done());
    let problem = host.send(post("/memory", &CONTRACT, BODY)).await.problem(502, "inline-failed");
    assert_eq!(problem["mode"], "inline");
    assert_eq!(problem["steps"][0]["outcome"], "permanent");
    assert_eq!(problem["steps"][0]["code"], "vector.full");
    assert_eq!(problem["steps"][1]["outcome"], "ok");
}

#[tokio::test]
async fn inline_nothing_runs_when_a_step_has_no_handler() {
    let host = HttpFixture::new(HttpSettings::default());
    host.handler.answers("vector_upsert", Scripted::done());
    let problem = host.send(post("/memory", &CONTRACT, BODY)).await.problem(503, "unserved");
    assert_eq!(problem["missing"], json!(["belief_recompute"]));
    assert!(host.handler.attempts.lock().unwrap().is_empty());
    host.send(post("/items", &CONTRACT, r#"{"type":"email","payload":1}"#)).await.problem(503, "unserved");
    let answer = host.send(post("/items", &CONTRACT, r#"{"type":"vector_upsert","payload":1}"#)).await;
    assert_eq!(answer.json()["steps"][0]["outcome"], "ok", "{answer:?}");
}

#[tokio::test]
async fn the_trace_of_a_client_goes_with_its_items() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const OWN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let host = HttpFixture::durable();
    let trace = [("traceparent", PARENT), ("tracestate", "vendor=1")];
    let plain = r#"{"type": "a", "idem_key": "a", "payload": 1}"#;
    let own = format!(r#"{{"type": "a", "idem_key": "b", "payload": 1, "headers": {{"Traceparent": "{OWN}"}}}}"#);
    for body in [plain, &own] {
        assert_eq!(host.send(post("/items", &trace, body)).await.status, 202);
    }
    let malformed = [("traceparent", "00-1-1-1"), ("tracestate", "vendor=1")];
    let body = r#"{"type": "a", "idem_key": "c", "payload": 1}"#;
    assert_eq!(host.send(post("/items", &malformed, body)).await.status, 202);
    let headers: Vec<_> = host.items().await.into_iter().map(|item| serde_json::json!(item.headers)).collect();
    assert_eq!(headers[0], serde_json::json!({ "traceparent": PARENT, "tracestate": "vendor=1" }));
    assert_eq!(headers[1], serde_json::json!({ "Traceparent": OWN }));
    assert_eq!(headers[2], serde_json::json!({}));
}
