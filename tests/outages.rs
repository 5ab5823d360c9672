//! Hosts while the PostgreSQL server has a full disk, is replaced by its standby, or has a clock that differs from
//! theirs. The servers and processes are real.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::postgres::{among, is_ready, write_through};
use crate::support::clock::offset_by;
use crate::support::host::HostProcess;
use crate::support::postgres::{Cluster, Durability, psql};
use crate::support::stage::{Deployment, ids, write_memory};
use crate::support::{Backend, TestDb, eventually, http};

/// The limit for every expected event; it allows for a busy machine.
const SOON: Duration = Duration::from_mins(2);

/// Sends one write to `/memory` under this key; the host may refuse it.
async fn try_to_write(host: &HostProcess, key: &str) -> http::HttpResponse {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    host.send("POST", "/memory", &headers, r#"{"text":"x"}"#).await
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_readiness_says_so_until_there_is_room_and_nothing_is_lost() {
    let cluster = Cluster::with_small_disk("40m");
    let database = Arc::new(cluster.small_database());
    let deployment = Deployment::on(TestDb::Postgres(Arc::clone(&database))).await;
    let host = deployment.plan.start("serve").await;
    let mut acknowledged = ids(&write_memory(&host, "before").await);
    database.sql("CREATE TABLE ballast (filler text)").unwrap();
    let fill = "INSERT INTO ballast SELECT repeat('x', 500) FROM generate_series(1, 1000)";
    let refusal = (0..).find_map(|_| database.sql(fill).err()).unwrap();
    assert!(refusal.contains("No space left"), "{refusal}");
    // The existing pages of the outbox's tables still have free space, so the first writes succeed.
    let mut number = 0;
    eventually("a write is refused", SOON, async || {
        number += 1;
        let answer = try_to_write(&host, &format!("w{number}")).await;
        if answer.status == 202 {
            acknowledged.extend(ids(&answer.json()));
        }
        answer.status == 503
    })
    .await;
    eventually("readiness is false", SOON, async || {
        try_to_write(&host, &format!("w{number}")).await;
        let answer = host.send("GET", "/readyz", &[], "").await;
        answer.status == 503 && answer.json()["detail"].to_string().contains("the disk of the store is full")
    })
    .await;
    database.sql("DROP TABLE ballast").unwrap();
    eventually("the host recovers by itself", SOON, async || is_ready(&host).await).await;
    acknowledged.extend(ids(&write_memory(&host, "after").await));
    eventually("everything is done", SOON, async || {
        database.sql("SELECT count(*) FROM outbox.status WHERE status <> 'DONE'").unwrap() == "0"
    })
    .await;
    let found = format!("SELECT count(*) FROM outbox.status WHERE {}", among(&acknowledged));
    assert_eq!(database.sql(&found).unwrap(), acknowledged.len().to_string());
    let log = std::fs::read_to_string(deployment.dir.path().join("host.log")).unwrap();
    assert_eq!(log.matches("the server's disk is full; writes are refused").count(), 1, "{log}");
}

#[tokio::test]
async fn a_standby_that_takes_over_is_found_without_a_restart_and_has_all_that_was_acknowledged() {
    let primary = Cluster::start(Durability::Honest);
    let database = Arc::new(primary.database());
    let standby = primary.standby();
    // The primary acknowledges a commit only when the standby has it too.
    primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
    primary.sql("postgres", "SELECT pg_reload_conf()").unwrap();
    let one = format!("127.0.0.1:{}", primary.port);
    let both = database.url().replace(&one, &format!("{one},127.0.0.1:{}", standby.port));
    let deployment = Deployment::on(TestDb::Postgres(Arc::clone(&database))).await;
    let plan = deployment.plan.clone().set("OUTBOX_DB", &both).set("OUTBOX_VISIBILITY_SEC", "3");
    let hosts = [plan.start("serve").await, plan.start("serve").await];
    let stop = Arc::new(AtomicBool::new(false));
    let caller = |number: usize| write_through(hosts[number % 2].url.clone(), number, Arc::clone(&stop));
    let writing: Vec<_> = (0..4).map(|number| tokio::spawn(caller(number))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    primary.kill();
    standby.sql("postgres", "SELECT pg_promote()").unwrap();
    // The new primary has no standby, so it must not wait for one.
    standby.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = ''").unwrap();
    standby.sql("postgres", "SELECT pg_reload_conf()").unwrap();
    for host in &hosts {
        eventually("the host goes on with the other server", SOON, async || is_ready(host).await).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for written in writing {
        acknowledged.extend(written.await.unwrap());
    }
    let there = database.url().replace(&one, &format!("127.0.0.1:{}", standby.port));
    let count =
        |condition: &str| psql(&there, &format!("SELECT count(*) FROM outbox.status WHERE {condition}")).unwrap();
    eventually("everything is done", SOON, async || count("status <> 'DONE'") == "0").await;
    assert_eq!(count(&among(&acknowledged)), acknowledged.len().to_string());
    assert!(acknowledged.len() > 20, "there were writes: {acknowledged:?}");
}

/// How many minutes the host's clock is ahead of ours. The keys that the host creates begin with its time.
async fn minutes_off(host: &HostProcess) -> i64 {
    let answer = host.send("POST", "/memory", &[("content-type", "application/json")], r#"{"text":"now"}"#).await;
    let key: uuid::Uuid = answer.json()["idem_key"].as_str().unwrap().parse().unwrap();
    let (seconds, _) = key.get_timestamp().unwrap().to_unix();
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    (i64::try_from(seconds).unwrap() - i64::try_from(ours).unwrap() + 30).div_euclid(60)
}

#[tokio::test]
async fn hosts_whose_clocks_are_twenty_minutes_apart_share_the_work_and_steal_no_lease() {
    let test_db = TestDb::new(Backend::Postgres);
    let deployment = Deployment::on(test_db.clone()).await;
    // Each attempt takes 700 ms of the lease of 4 s.
    deployment.vector.ledger.take(Duration::from_millis(700));
    let plan = deployment.plan.clone().set("OUTBOX_VISIBILITY_SEC", "4").set("OUTBOX_CONCURRENCY", "4");
    let mut hosts = Vec::new();
    for clock in ["+10m", "-10m"] {
        hosts.push(plan.clone().set_all(&offset_by(clock)).start("serve").await);
    }
    assert_eq!((minutes_off(&hosts[0]).await, minutes_off(&hosts[1]).await), (10, -10));
    for number in 0..24 {
        write_memory(&hosts[number % 2], &format!("w{number}")).await;
    }
    let count =
        |condition: &str| test_db.sql(&format!("SELECT count(*) FROM outbox_status WHERE {condition}")).unwrap();
    eventually("everything is done", SOON, async || count("status <> 'DONE'") == "0").await;
    assert_eq!(count("deliveries = 1"), "52");
    assert_eq!(test_db.sql("SELECT count(*) FROM outbox_attempts").unwrap(), "0");
    let effects = deployment.vector.ledger.effects();
    assert_eq!((effects.len(), effects.values().max()), (26, Some(&1)));
    let [fast, slow] = <[HostProcess; 2]>::try_from(hosts).ok().unwrap();
    // The leases of a killed host end by the database's clock, neither earlier nor later.
    write_memory(&fast, "a").await;
    fast.kill();
    write_memory(&slow, "b").await;
    eventually("everything is done", Duration::from_secs(30), async || count("status <> 'DONE'") == "0").await;
}
