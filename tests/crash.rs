//! `kill -9` of the real host at random moments, under load.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::support::guests;
use crate::support::stage::{Stage, becomes, ids, write_memory};
use crate::support::{eventually, is_soak, report};

/// Writes until the host does not answer any more; returns the ids that were acknowledged.
async fn write_until_it_dies(host_url: String, start: usize) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    for number in start.. {
        let key = format!("write-{number}");
        let url = format!("{host_url}/memory");
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        match crate::support::http::send("POST", &url, &headers, r#"{"text":"x"}"#).await {
            Ok(answer) if answer.status == 202 => acknowledged.extend(ids(&answer.json())),
            _ => break,
        }
    }
    acknowledged
}

#[tokio::test]
async fn whatever_was_acknowledged_is_done_once_however_often_the_host_is_killed() {
    let kills = if is_soak() { 25 } else { 5 };
    let stage = Stage::new().await;
    let plan = stage.plan.clone().set("OUTBOX_VISIBILITY_SEC", "1").set("OUTBOX_MAX_RETRIES", "40");
    let mut acknowledged = Vec::new();
    for round in 0..kills {
        let host = plan.start("serve").await;
        let writing = tokio::spawn(write_until_it_dies(host.url.clone(), round * 10_000));
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..400))).await;
        host.kill();
        acknowledged.extend(writing.await.unwrap());
    }
    let host = plan.start("serve").await;
    acknowledged.extend(ids(&write_memory(&host, "last").await));
    for id in &acknowledged {
        let item = becomes(&host, *id, "DONE").await;
        history_tells_the_truth(&item);
    }
    assert_eq!(acknowledged.iter().collect::<BTreeSet<_>>().len(), acknowledged.len());
    let overview = plan.json(&["stats", "--json"]);
    assert_eq!(overview["by_status"]["DLQ"], 0);
    assert_eq!(integrity(&stage), "ok\n");
    report(&format!("{kills} kills, {} acknowledged items, all DONE", acknowledged.len()));
}

fn integrity(stage: &Stage) -> String {
    let db = stage.dir.path().join("outbox.sqlite");
    let output = std::process::Command::new("sqlite3").arg(db).arg("PRAGMA integrity_check").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Every claim but the last has its row, in order; every row is of a lost claim or of a failed request.
fn history_tells_the_truth(item: &Value) {
    let rows = item["failed_attempts"].as_array().unwrap();
    let deliveries: Vec<_> = rows.iter().map(|row| row["delivery"].as_u64().unwrap()).collect();
    let expected: Vec<_> = (1..item["deliveries"].as_u64().unwrap()).collect();
    assert_eq!(deliveries, expected, "{item}");
    assert_eq!(item["attempts"], item["deliveries"], "{item}");
    assert!(rows.iter().all(|row| row["class"] == "lost"), "{item}");
}

#[tokio::test]
async fn what_dies_in_flight_too_often_is_dead_lettered_with_one_row_per_kill() {
    let stage = Stage::new().await;
    guests::install(&guests::chaos(1), guests::CHAOS_GRANTS, &stage.plugins(), "chaos");
    let plan = stage.plan.clone().set("OUTBOX_VISIBILITY_SEC", "4").set("OUTBOX_MAX_RETRIES", "2");
    let mut ids = Vec::new();
    for n in 0..8 {
        let payload = r#"{"do":"sleep","ms":60000}"#;
        let args = ["enqueue", "--type", "chaos", "--key", &format!("sleeper-{n}"), "--payload", payload, "--json"];
        if n == 0 {
            plan.json(&["migrate", "--json"]);
        }
        ids.push(plan.json(&args)["ids"][0].as_i64().unwrap());
    }
    for kill in 1..=3 {
        let host = plan.start("serve").await;
        eventually("all are in flight", Duration::from_secs(30), async || {
            let items = plan.json(&["list", "CLAIMED", "--json"]);
            let flying = items.as_array().unwrap();
            flying.len() == ids.len() && flying.iter().all(|item| item["attempts"] == kill)
        })
        .await;
        host.kill();
    }
    let host = plan.start("serve").await;
    for id in ids {
        let item = becomes(&host, id, "DLQ").await;
        let rows = item["failed_attempts"].as_array().unwrap();
        assert_eq!(rows.len(), 3, "{item}");
        assert!(rows.iter().all(|row| row["class"] == "lost"), "{item}");
        let pods: BTreeSet<_> = rows.iter().map(|row| row["pod"].to_string()).collect();
        assert_eq!(pods.len(), 3, "each kill was of another process");
    }
}
