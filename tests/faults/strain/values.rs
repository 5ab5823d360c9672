//! Values as large as their limits allow: they are kept whole, shown, moved, and cost a bounded memory.

use std::time::Duration;

use serde_json::{Value, json};

use super::traffic::{SOON, Traffic, sized};
use crate::support::guests::{CHAOS_GRANTS, chaos, install};
use crate::support::host::{HostConfig, HostProcess};
use crate::support::stage::{Deployment, becomes, ids};
use crate::support::{Backend, TestDb, eventually, on_each_backend, report};

on_each_backend! {
    values_of_a_mebibyte_arrive_whole
    what_is_as_large_as_its_limit_is_kept_shown_and_moved
}

/// The bytes of a state value and of the payload of a follow-up, and of a result, an answer and a request.
const SMALLER: usize = 256 << 10;
const LARGER: usize = 1 << 20;
/// The bytes of an item's headers, of the message of a failure, and of what is kept of the output of an attempt.
const HEADERS: usize = 16 << 10;
const MESSAGE: usize = 4 << 10;
const OUTPUT: usize = 16 << 10;

/// The most memory of a host whose worker may hold payloads of 64 MiB, the default.
const HOST_MAX: u64 = 384 << 20;
/// How many MiB of payloads the worker of another host may hold.
const HELD_MIB: &str = "8";
/// The most memory of that host.
const HOLDING_MAX: u64 = 192 << 20;
/// The most memory, in KiB, of a process that moves items to another store.
const MOVE_MAX_KIB: usize = 192 << 10;

const MANIFEST: &str = r#"
[[grant.http]]
origin = "${BELIEF_URL}"

[limits]
result = "1MiB"
"#;

/// Enqueues an item, and waits until it has this status.
async fn handled(host: &HostProcess, item: &Value, status: &str) -> Value {
    let answer = host.send("POST", "/items", &[("content-type", "application/json")], &item.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    becomes(host, ids(&answer.json())[0], status).await
}

/// The same for an item of the chaos handler.
async fn obeyed(host: &HostProcess, key: &str, order: Value, status: &str) -> Value {
    handled(host, &json!({ "type": "chaos", "idem_key": key, "payload": order }), status).await
}

/// State, follow-up, result, answer, messages, output and headers: one item or two for each.
async fn one_of_each(host: &HostProcess, deployment: &Deployment, number: usize) {
    let key = format!("large {number}");
    let followup = json!({ "do": "succeed", "result": "f".repeat(SMALLER - 28) });
    let steps = json!([
        { "do": "state_put", "key": key, "value": "s".repeat(SMALLER - 2) },
        { "do": "emit", "type": "chaos_other", "payload": followup },
    ]);
    obeyed(host, &key, json!({ "do": "sequence", "steps": steps }), "DONE").await;
    let result = json!({ "do": "big_result", "bytes": LARGER - 2 });
    obeyed(host, &format!("result {number}"), result, "DONE").await;
    let call = json!({ "do": "http", "url": deployment.belief.url(), "body": "b", "body_times": LARGER });
    let called = obeyed(host, &format!("call {number}"), call, "DONE").await;
    assert_eq!(called["result"]["body"].as_str().unwrap().len(), LARGER - 100);
    let trap = json!({ "do": "trap", "message": "m".repeat(LARGER - 200) });
    let dead = obeyed(host, &format!("trap {number}"), trap, "DLQ").await;
    assert_eq!(dead["last_error"].as_str().unwrap().len(), MESSAGE, "the message is cut");
    let line = "o".repeat(1 << 10);
    let printed = json!([
        { "do": "log", "message": line, "lines": 1 << 10 },
        { "do": "stderr", "message": line, "lines": 1 << 10 },
        { "do": "reject" },
    ]);
    let dead = obeyed(host, &format!("output {number}"), json!({ "do": "sequence", "steps": printed }), "DLQ").await;
    assert_eq!(dead["failed_attempts"][0]["stderr"].as_str().unwrap().len(), OUTPUT, "the output is cut");
    let headers = json!({ "x-large": "h".repeat(HEADERS - "x-large".len()) });
    let filler = "p".repeat(LARGER - HEADERS - 200);
    let key = format!("headers {number}");
    let item = json!({ "type": "webhook", "idem_key": key, "headers": headers, "payload": filler });
    handled(host, &item, "DONE").await;
}

/// What the receivers got is whole.
fn assert_arrived(deployment: &Deployment, count: usize) {
    let requests = deployment.vector.ledger.received();
    let large: Vec<_> = requests.iter().map(|request| request.header("x-large").len()).filter(|len| *len > 0).collect();
    assert_eq!(large, vec![HEADERS - "x-large".len(); count]);
    let calls: Vec<_> = deployment.belief.ledger.received().iter().map(|request| request.body.len()).collect();
    assert_eq!(calls, vec![LARGER; count]);
}

/// What the store has is whole.
async fn assert_stored(test_db: &TestDb, count: usize) {
    let rows = |sql: &str| test_db.sql(sql).unwrap();
    let sizes = "SELECT count(*), min(length(result)), max(length(result)) FROM outbox_done AS done
                 JOIN outbox_items AS item ON item.id = done.id WHERE type = ";
    let results = format!("{sizes}'chaos' AND idem_key LIKE 'result %'");
    assert_eq!(rows(&results), format!("{count}|{LARGER}|{LARGER}"));
    let state = format!("SELECT count(*) FROM outbox_state WHERE length(value) = {SMALLER}");
    assert_eq!(rows(&state), count.to_string());
    let kept = format!("{count}|{0}|{0}", SMALLER - 26);
    let followups = format!("{sizes}'chaos_other'");
    eventually("the follow-ups are done", SOON, async || rows(&followups) == kept).await;
}

/// A listing has no payload and no result; an item has both; the page of an item has a part of them.
async fn assert_shown(host: &HostProcess) {
    let listing = host.send("GET", "/items?limit=1000", &[], "").await;
    let listed = listing.json()["items"].as_array().unwrap().clone();
    assert!(!listed.is_empty() && listing.body.len() < listed.len() * (HEADERS + MESSAGE + 2_000), "{listed:?}");
    let result = listed.iter().find(|item| item["result_bytes"] == LARGER).expect("one has a large result");
    let item = host.send("GET", &format!("/items/{}", result["id"]), &[], "").await;
    assert_eq!(item.json()["result"].as_str().unwrap().len(), LARGER - 2);
    let page = host.send("GET", &format!("/cockpit/items/{}", result["id"]), &[], "").await;
    assert!(page.status == 200 && page.body.len() < SMALLER, "{}: {} bytes", page.status, page.body.len());
}

/// Moves everything to an empty store, in processes with little memory.
fn assert_moved(deployment: &Deployment, backend: Backend) {
    let plan = deployment.plan.clone().through(&format!("ulimit -d {MOVE_MAX_KIB}; exec \"$@\""));
    let target = TestDb::new(backend);
    let there: HostConfig = plan.clone().set("OUTBOX_DB", &target.address());
    let exported = plan.json(&["export", "moved.ndjson", "--pause", "--json"]);
    there.json(&["migrate", "--json"]);
    let imported = there.json(&["import", "moved.ndjson", "--json"]);
    assert_eq!((&imported["created"], &imported["verified"]), (&exported["records"], &json!(true)), "{imported}");
    let payloads = "SELECT count(*), sum(length(payload)), sum(length(headers)) FROM outbox_items";
    let payloads = if backend == Backend::Postgres { &payloads.replace("headers", "headers::text") } else { payloads };
    assert_eq!(target.sql(payloads).unwrap(), deployment.test_db.sql(payloads).unwrap());
}

mod on_each {
    use super::*;

    pub(super) async fn what_is_as_large_as_its_limit_is_kept_shown_and_moved(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        install(&chaos(1), &format!("{CHAOS_GRANTS}{MANIFEST}"), &deployment.plugins(), "chaos");
        deployment.belief.ledger.answer_with_body(&"a".repeat(LARGER - 100));
        let host = deployment.plan.clone().set("OUTBOX_MAX_RETRIES", "0").start("serve").await;
        let traffic = Traffic::to(&host, 100);
        let count = sized(2, 100);
        let strain = async {
            for number in 0..count {
                one_of_each(&host, &deployment, number).await;
            }
            assert_shown(&host).await;
        };
        traffic.during(strain).await;
        assert_stored(&deployment.test_db, count).await;
        traffic.expect_readiness(&[200]);
        report(&traffic.all_arrive_once(&deployment).await);
        assert_arrived(&deployment, count);
        assert!(host.peak() < HOST_MAX, "the host had {} bytes", host.peak());
        assert_moved(&deployment, backend);
    }

    pub(super) async fn values_of_a_mebibyte_arrive_whole(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let host = deployment.plan.clone().set("OUTBOX_PAYLOAD_MIB", HELD_MIB).start("serve").await;
        // So more of them wait than the worker may hold.
        deployment.vector.ledger.take(Duration::from_millis(500));
        // The rest is for the request around it.
        let bytes = LARGER - 100;
        let traffic = Traffic::to(&host, bytes);
        traffic.during(traffic.goes_on(sized(24, 300))).await;
        traffic.expect_readiness(&[200]);
        report(&traffic.all_arrive_once(&deployment).await);
        let sizes: Vec<_> = deployment.vector.ledger.received().iter().map(|request| request.body.len()).collect();
        assert!(sizes.iter().all(|size| *size == bytes + 2), "with quotes: {sizes:?}");
        assert!(host.peak() < HOLDING_MAX, "the host had {} bytes", host.peak());
    }
}
