//! `kill -9` of real hosts at random moments, under load.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::support::host::{HostConfig, HostProcess};
use crate::support::stage::{Deployment, becomes, ids, write_memory};
use crate::support::{Backend, TestDb, eventually, guests, is_soak, on_each_backend, report};

/// The number of callers that write at the same time.
const CALLERS: usize = 8;

/// Writes until the host no longer answers; returns the ids of the acknowledged items.
async fn write_until_it_dies(host_url: String, caller: String) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let key = format!("{caller}-{number}");
        let url = format!("{host_url}/memory");
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        match crate::support::http::send("POST", &url, &headers, r#"{"text":"x"}"#).await {
            Ok(answer) if answer.status == 202 => acknowledged.extend(ids(&answer.json())),
            _ => break,
        }
    }
    acknowledged
}

on_each_backend! {
    whatever_was_acknowledged_is_done_once_however_often_the_hosts_are_killed
    what_dies_in_flight_too_often_is_dead_lettered_with_one_row_per_kill
}

/// The number of hosts that share the store. With PostgreSQL they could run on different machines.
fn pods(backend: Backend) -> usize {
    match backend {
        Backend::Sqlite => 1,
        Backend::Postgres => 3,
    }
}

async fn start(plan: &HostConfig, pods: usize) -> Vec<HostProcess> {
    futures_util::future::join_all((0..pods).map(|_| plan.start("serve"))).await
}

/// The result of SQLite's integrity check. PostgreSQL has none, so there `ok` means that no item is still CLAIMED.
fn integrity(test_db: &TestDb) -> String {
    match test_db {
        TestDb::Sqlite(_) => test_db.sql("PRAGMA integrity_check").unwrap(),
        TestDb::Postgres(_) => {
            let claimed = "FROM outbox_status WHERE status = 'CLAIMED'";
            test_db.sql(&format!("SELECT CASE count(*) WHEN 0 THEN 'ok' END {claimed}")).unwrap()
        }
    }
}

/// Asserts that the history has one row for every attempt except the last, in order, and that each row is a lost
/// claim. A worker gives back a claim with too little of its lease left: that is a delivery, but no attempt.
fn history_tells_the_truth(item: &Value) {
    let rows = item["failed_attempts"].as_array().unwrap();
    let deliveries: Vec<_> = rows.iter().map(|row| row["delivery"].as_u64().unwrap()).collect();
    assert!(deliveries.is_sorted() && deliveries.last() < item["deliveries"].as_u64().as_ref(), "{item}");
    assert_eq!(item["attempts"].as_u64().unwrap(), rows.len() as u64 + 1, "{item}");
    assert!(rows.iter().all(|row| row["class"] == "lost"), "{item}");
}

mod on_each {
    use super::*;

    pub(super) async fn whatever_was_acknowledged_is_done_once_however_often_the_hosts_are_killed(backend: Backend) {
        let kills = if is_soak() { 25 } else { 5 };
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let plan = deployment.plan.clone().set("OUTBOX_VISIBILITY_SEC", "1").set("OUTBOX_MAX_RETRIES", "40");
        // Each request takes 30 ms, so a kill hits attempts in flight.
        deployment.vector.ledger.take(Duration::from_millis(30));
        let mut acknowledged = Vec::new();
        for round in 0..kills {
            let hosts = start(&plan, pods(backend)).await;
            let caller = |number: usize| {
                write_until_it_dies(hosts[number % hosts.len()].url.clone(), format!("{round}-{number}"))
            };
            let writing: Vec<_> = (0..CALLERS).map(|number| tokio::spawn(caller(number))).collect();
            for host in hosts {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(20..400))).await;
                host.kill();
            }
            for written in writing {
                acknowledged.extend(written.await.unwrap());
            }
        }
        let host = plan.start("serve").await;
        acknowledged.extend(ids(&write_memory(&host, "last").await));
        let mut lost = 0;
        for id in &acknowledged {
            let item = becomes(&host, *id, "DONE").await;
            history_tells_the_truth(&item);
            lost += item["failed_attempts"].as_array().unwrap().len();
        }
        assert_eq!(acknowledged.iter().collect::<BTreeSet<_>>().len(), acknowledged.len());
        let overview = plan.json(&["stats", "--json"]);
        assert_eq!(overview["by_status"]["DLQ"], 0);
        assert_eq!(integrity(&deployment.test_db), "ok");
        let items = acknowledged.len();
        report(&format!(
            "{backend:?}: {kills} kills, {items} acknowledged items, {lost} attempts lost in flight, all items DONE"
        ));
    }

    pub(super) async fn what_dies_in_flight_too_often_is_dead_lettered_with_one_row_per_kill(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        guests::install(&guests::chaos(1), guests::CHAOS_GRANTS, &deployment.plugins(), "chaos");
        let plan = deployment.plan.clone().set("OUTBOX_VISIBILITY_SEC", "4").set("OUTBOX_MAX_RETRIES", "2");
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
}
