//! The host stores the state and the follow-ups of a handler exactly once: under `kill -9`, failures and contention.
//! The tests run the chaos handler in the real host, and also show the limits of this promise.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::guests::{self, CHAOS_GRANTS};
use crate::support::host::{HostConfig, HostProcess};
use crate::support::stage::{Deployment, becomes};
use crate::support::{eventually, is_soak, report};

async fn deployment(manifest: &str) -> (Deployment, HostConfig) {
    let deployment = Deployment::new().await;
    guests::install(&guests::chaos(1), manifest, &deployment.plugins(), "chaos");
    let plan = deployment.plan.clone();
    plan.json(&["migrate", "--json"]);
    (deployment, plan)
}

fn enqueue(deployment: &Deployment, plan: &HostConfig, items: impl Iterator<Item = (String, Value)>) -> Vec<i64> {
    let line = |(key, payload)| json!({ "type": "chaos", "idem_key": key, "payload": payload }).to_string();
    let lines: Vec<_> = items.map(line).collect();
    std::fs::write(deployment.dir.path().join("items.ndjson"), lines.join("\n")).unwrap();
    let enqueued = plan.json(&["enqueue", "--from", "items.ndjson", "--json"]);
    enqueued["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// Increments a counter, emits a follow-up, and then fails every attempt before number `succeed_at`.
fn counting(succeed_at: u32) -> Value {
    let follow_up = json!({"do": "emit", "type": "chaos_other", "payload": {"do": "succeed"}});
    let flaky = json!({"do": "flaky", "succeed_at": succeed_at});
    json!({"do": "sequence", "steps": [{"do": "state_incr", "key": "n"}, follow_up, flaky]})
}

fn state(plan: &HostConfig, key: &str) -> Value {
    plan.json(&["plugin", "state", "show", "chaos", key, "--json"])["value"].clone()
}

/// How many items of the type are DONE; asserts that none was dead-lettered.
fn count_done(plan: &HostConfig, item_type: &str) -> u64 {
    let overview = plan.json(&["stats", "--json"]);
    assert_eq!(overview["by_status"]["DLQ"], 0, "{overview}");
    overview["by_type"][item_type]["DONE"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn a_counter_and_its_followups_are_exact_however_often_the_host_is_killed() {
    let (items, kills) = if is_soak() { (10_000_u64, 25) } else { (300, 5) };
    let (deployment, plan) = deployment(CHAOS_GRANTS).await;
    let plan = plan
        .set("OUTBOX_VISIBILITY_SEC", "2")
        .set("OUTBOX_MAX_RETRIES", "60")
        .set("OUTBOX_MAX_CRASHES", "100")
        .set("OUTBOX_BACKOFF_CAP_MS", "500");
    let begun = Instant::now();
    enqueue(&deployment, &plan, (0..items).map(|n| (format!("count-{n}"), counting(1 + fastrand::u32(..3)))));
    for _ in 0..kills {
        let host = plan.start("serve").await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..1_500))).await;
        host.kill();
    }
    let at_last_start = count_done(&plan, "chaos");
    let (_host, running) = (plan.start("serve").await, Instant::now());
    eventually("every item and every follow-up is done", Duration::from_secs(60 + items / 10), async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        count_done(&plan, "chaos") == items && count_done(&plan, "chaos_other") == items
    })
    .await;
    assert_eq!(state(&plan, "n"), items);
    let (took, rate) = (begun.elapsed(), per_second(items - at_last_start, running.elapsed()));
    report(&format!(
        "{items} increments of one key, {kills} kills: exact after {took:.1?}; {rate} a second at the end"
    ));
    report_attempts(&plan);
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(items: u64, time: Duration) -> f64 {
    (items as f64 / time.as_secs_f64()).round()
}

fn report_attempts(plan: &HostConfig) {
    report(&format!("settled attempts: {}", plan.json(&["stats", "--json"])["attempts"]["chaos"]));
}

#[tokio::test]
async fn two_hosts_that_count_with_one_key_lose_nothing_and_make_progress() {
    let items = if is_soak() { 2_000 } else { 200 };
    let (deployment, plan) = deployment(CHAOS_GRANTS).await;
    enqueue(&deployment, &plan, (0..items).map(|n| (format!("count-{n}"), counting(1))));
    let begun = Instant::now();
    let _hosts = (plan.start("serve").await, plan.start("serve").await);
    eventually("every item is done", Duration::from_mins(2), async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        count_done(&plan, "chaos") == items
    })
    .await;
    assert_eq!(state(&plan, "n"), items);
    report(&format!("{items} increments of one key by two hosts took {:.1?}", begun.elapsed()));
    report_attempts(&plan);
}

#[tokio::test]
async fn a_replay_counts_once_more() {
    let (deployment, plan) = deployment(CHAOS_GRANTS).await;
    let id = enqueue(&deployment, &plan, [("k".to_owned(), counting(1))].into_iter())[0];
    let host = plan.start("serve").await;
    becomes(&host, id, "DONE").await;
    plan.json(&["replay", &id.to_string(), "--json"]);
    eventually("it has been counted again", Duration::from_secs(30), async || state(&plan, "n") == 2).await;
    becomes(&host, id, "DONE").await;
    assert_eq!(plan.json(&["stats", "--json"])["followups"]["chaos_other"], json!({"created": 1, "kept": 1}));
}

/// The failed attempts of an item in the DLQ, without the attempts that failed because of a conflict on a state key.
async fn failures(host: &HostProcess, id: i64) -> Vec<Value> {
    let item = becomes(host, id, "DLQ").await;
    let rows = item["failed_attempts"].as_array().unwrap().iter();
    rows.filter(|row| row["class"] != "conflict").cloned().collect()
}

#[tokio::test]
async fn what_a_handler_may_not_keep_or_emit_fails_with_the_name_of_the_limit() {
    let manifest = format!("retry.max_retries = 0\nlimits.state_bytes = '1KiB'\nlimits.followups = 2\n{CHAOS_GRANTS}");
    let (deployment, plan) = deployment(&manifest).await;
    let put = |key: &str, bytes: usize| json!({"do": "state_put", "key": key, "value": "x".repeat(bytes)});
    let emit = |fields: Value| {
        let mut emit = json!({"do": "emit", "type": "chaos_other", "payload": {"do": "succeed"}});
        emit.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        emit
    };
    let cases = [
        (
            json!({"do": "sequence", "steps": [put("a", 600), put("b", 600)]}),
            "contract",
            "`limits.state_bytes` is 1024",
        ),
        (put("a", 2_000), "denied", "`limits.state_bytes`"),
        (put("a", 300_000), "permanent", "larger than the host stores"),
        (put(&"k".repeat(600), 1), "permanent", "larger than the host stores"),
        (emit(json!({"type": "other"})), "denied", "emit = [\"chaos_other\", \"other\"]"),
        (emit(json!({"count": 3})), "denied", "`limits.followups`"),
        (emit(json!({"name": "a/b"})), "retryable", "without a slash"),
        (emit(json!({"ordering_key": "tab\t"})), "retryable", "ordering_key"),
    ];
    let payloads = cases.iter().enumerate().map(|(n, (payload, ..))| (format!("case-{n}"), payload.clone()));
    let ids = enqueue(&deployment, &plan, payloads);
    let fits = json!({"do": "sequence", "steps": [put("a", 600), emit(json!({"count": 2}))]});
    let good = enqueue(&deployment, &plan, [("good".to_owned(), fits)].into_iter())[0];
    let host = plan.start("serve").await;
    for (id, (payload, class, words)) in ids.into_iter().zip(cases) {
        let failures = failures(&host, id).await;
        assert_eq!(failures.len(), 1, "{payload}: it was tried again in vain");
        assert_eq!(failures[0]["class"], class, "{payload}: {}", failures[0]);
        assert!(failures[0]["message"].as_str().unwrap().contains(words), "{payload}: {}", failures[0]);
    }
    becomes(&host, good, "DONE").await;
    let totals = plan.json(&["plugin", "state", "list", "--json"]);
    assert_eq!((totals.as_array().unwrap().len(), &totals[0]["keys"]), (1, &json!(1)));
    assert_eq!(plan.json(&["stats", "--json"])["followups"]["chaos_other"], json!({"created": 2}));
}

#[tokio::test]
async fn an_outcome_that_is_unknown_is_recorded_and_told_to_the_next_attempt() {
    let server = FirstSilent::start().await;
    let manifest = format!("timeout = '1s'\n{CHAOS_GRANTS}\n[[grant.http]]\norigin = '{}'", server.url);
    let (deployment, plan) = deployment(&manifest).await;
    let call = |method: &str| json!({"do": "http", "method": method, "url": server.url});
    let told = |method: &str| json!({"do": "sequence", "steps": [call(method), {"do": "item"}]});
    let host = plan.start("serve").await;
    for (method, is_unknown) in [("POST", true), ("GET", false)] {
        server.fall_silent();
        let id = enqueue(&deployment, &plan, [(method.to_owned(), told(method))].into_iter())[0];
        let item = becomes(&host, id, "DONE").await;
        let failed = &item["failed_attempts"][0];
        assert_eq!((&failed["class"], &failed["maybe_executed"]), (&json!("timeout"), &json!(is_unknown)), "{failed}");
        assert_eq!(failed["message"].as_str().unwrap().contains("unknown"), is_unknown, "{failed}");
        let seen = &item["result"][1];
        assert_eq!((&seen["attempt"], &seen["maybe_executed"]), (&json!(2), &json!(is_unknown)), "{seen}");
        assert_eq!(item["maybe_executed"], is_unknown, "{item}");
    }
}

/// A server that never answers its first request and answers all later ones.
struct FirstSilent {
    url: String,
    is_silent: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl FirstSilent {
    async fn start() -> Self {
        use std::sync::atomic::{AtomicBool, Ordering};
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let is_silent = std::sync::Arc::new(AtomicBool::new(true));
        let state = std::sync::Arc::clone(&is_silent);
        let app = axum::Router::new().fallback(move || {
            let is_silent = state.swap(false, Ordering::SeqCst);
            async move {
                if is_silent {
                    std::future::pending::<()>().await;
                }
                "here"
            }
        });
        tokio::spawn(axum::serve(listener, app).into_future());
        Self { url, is_silent }
    }

    fn fall_silent(&self) {
        self.is_silent.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}
