//! `kill -9` of real hosts at random moments, under load.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

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

/// The default of `OUTBOX_MAX_CRASHES`.
const MAX_CRASHES: u64 = 5;
/// The items beside the one that ends its process.
const HEALTHY: usize = 200;
/// The limit for what a host does after its start: the leases of the one before it end first.
const SOON: Duration = Duration::from_mins(1);

/// An item whose attempt takes this long. The test kills the host while it runs.
fn sleeper(key: &str, ms: u64) -> Value {
    json!({ "type": "chaos", "idem_key": key, "payload": { "do": "sleep", "ms": ms } })
}

/// Enqueues the items with the command line.
fn enqueue(plan: &HostConfig, items: impl Iterator<Item = Value>) -> Vec<i64> {
    let lines: Vec<_> = items.map(|item| item.to_string()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let report = plan.json(&["enqueue", "--from", file.path().to_str().unwrap(), "--json"]);
    report["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

on_each_backend! {
    whatever_was_acknowledged_is_done_once_however_often_the_hosts_are_killed
    an_item_that_ends_its_process_is_dead_lettered_and_takes_no_other_along
    a_receiver_sees_a_key_in_order_and_again_in_order_after_each_kill
}

fn in_line(number: u64) -> Value {
    json!({
        "type": "vector_upsert", "idem_key": format!("in line {number}"), "ordering_key": "k",
        "payload": { "number": number }
    })
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

/// Asserts that one attempt counts, and that the history has a row, in order, for each lost claim. A worker gives back a
/// claim with too little of its lease left: that is a delivery without a row.
fn history_tells_the_truth(item: &Value) {
    let rows = item["failed_attempts"].as_array().unwrap();
    let deliveries: Vec<_> = rows.iter().map(|row| row["delivery"].as_u64().unwrap()).collect();
    assert!(deliveries.is_sorted() && deliveries.last() < item["deliveries"].as_u64().as_ref(), "{item}");
    assert_eq!((item["attempts"].as_u64(), item["losses"].as_u64()), (Some(1), Some(0)), "{item}");
    assert!(rows.iter().all(|row| row["class"] == "lost"), "{item}");
}

mod on_each {
    use super::*;

    pub(super) async fn whatever_was_acknowledged_is_done_once_however_often_the_hosts_are_killed(backend: Backend) {
        let kills = if is_soak() { 25 } else { 5 };
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let plan = deployment.plan.clone().set("OUTBOX_VISIBILITY_SEC", "1").set("OUTBOX_MAX_CRASHES", "100");
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

    pub(super) async fn an_item_that_ends_its_process_is_dead_lettered_and_takes_no_other_along(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        guests::install(&guests::chaos(1), guests::CHAOS_GRANTS, &deployment.plugins(), "chaos");
        let plan = deployment.plan.clone().set("OUTBOX_VISIBILITY_SEC", "2");
        plan.json(&["migrate", "--json"]);
        let poison = enqueue(&plan, [sleeper("poison", 60_000)].into_iter())[0];
        let healthy = enqueue(&plan, (0..HEALTHY).map(|number| sleeper(&format!("healthy-{number}"), 50)));
        for kill in 1..=MAX_CRASHES {
            let host = plan.start("serve").await;
            eventually(&format!("the poison is in flight for the {kill}. time"), SOON, async || {
                let item = plan.json(&["show", &poison.to_string(), "--json"]);
                item["status"] == "CLAIMED" && item["deliveries"] == kill
            })
            .await;
            if kill > MAX_CRASHES - 2 {
                let claimed = plan.json(&["list", "CLAIMED", "--json"]);
                assert_eq!(claimed.as_array().unwrap().len(), 1, "it is alone: {claimed}");
            }
            host.kill();
        }
        let host = plan.start("serve").await;
        let dead = becomes(&host, poison, "DLQ").await;
        let codes: Vec<_> = dead["failed_attempts"].as_array().unwrap().iter().map(|row| row["code"].clone()).collect();
        let mut expected = vec!["lease.expired"; 5];
        expected.push("crashes.exhausted");
        assert_eq!((codes, &dead["attempts"]), (expected.into_iter().map(Value::from).collect(), &Value::from(0)));
        let mut most = 0;
        for id in healthy {
            let item = becomes(&host, id, "DONE").await;
            history_tells_the_truth(&item);
            most = most.max(item["failed_attempts"].as_array().unwrap().len());
        }
        report(&format!(
            "{backend:?}: the poison is dead after {MAX_CRASHES} kills; others were lost {most} times at most"
        ));
    }

    pub(super) async fn a_receiver_sees_a_key_in_order_and_again_in_order_after_each_kill(backend: Backend) {
        let kills = if is_soak() { 25 } else { 3 };
        // So many that some are left after the last kill.
        let line = 130 * kills;
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let plan = deployment.plan.clone().set("OUTBOX_VISIBILITY_SEC", "1").set("OUTBOX_MAX_CRASHES", "100");
        plan.json(&["migrate", "--json"]);
        let items = enqueue(&plan, (0..line).map(in_line));
        let ledger = &deployment.vector.ledger;
        for _ in 0..kills {
            let (before, host) = (ledger.received().len(), plan.start("serve").await);
            let more = fastrand::usize(1..40);
            eventually("the host goes on", SOON, async || ledger.received().len() >= before + more).await;
            host.kill();
        }
        let host = plan.start("serve").await;
        let number = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["number"].as_u64().unwrap();
        let is_last = || ledger.received().last().is_some_and(|request| number(&request.body) == line - 1);
        // The soak leaves thousands of items, which are handled one after the other.
        eventually("the host comes to the end of the line", Duration::from_mins(10), async || is_last()).await;
        becomes(&host, *items.last().unwrap(), "DONE").await;
        let seen: Vec<_> = ledger.received().iter().map(|request| number(&request.body)).collect();
        // A repeat goes back to an item, and from there on everything is repeated.
        let goes_on = |pair: &&[u64]| pair[1] == pair[0] + 1 || pair[1] <= pair[0];
        assert!(seen.windows(2).all(|pair| goes_on(&pair)), "{seen:?}");
        assert_eq!((seen.first(), seen.last(), seen.iter().max()), (Some(&0), Some(&(line - 1)), Some(&(line - 1))));
        let repeats = seen.len() as u64 - line;
        report(&format!("{backend:?}: {kills} kills, {line} items of one key, {repeats} requests repeated in order"));
    }
}
