//! Behaviour that only PostgreSQL has: a server that dies, many hosts, differing clocks, and the move from SQLite.

mod costs;
mod groups;
mod hindrances;
mod lock_order;
mod migration;
mod pooler;
mod restore;
mod sagas;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox::item::NewItem;
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::store::{BatchMode, Claim, ExportPosition, LeaseState, Renewal, Store, Transfer as _};
use serde_json::json;

use crate::support::host::{HostConfig, HostProcess};
use crate::support::postgres::{Cluster, Database, Durability};
use crate::support::stage::{Deployment, ids, write_memory};
use crate::support::{Backend, Fixture, TestDb, done, eventually, http, is_soak, item, report, request};

/// The limit for every expected event; it allows for a busy machine.
const SOON: Duration = Duration::from_mins(2);

/// Writes until `stop` is set. Repeats each write until it is acknowledged, and returns the ids of the items.
pub(crate) async fn write_through(host_url: String, caller: usize, stop: Arc<AtomicBool>) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let key = format!("{caller}-{number}");
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let url = format!("{host_url}/memory");
        loop {
            match http::send("POST", &url, &headers, r#"{"text":"x"}"#).await {
                Ok(answer) if answer.status == 202 => break acknowledged.extend(ids(&answer.json())),
                _ if stop.load(Ordering::SeqCst) => return acknowledged,
                // The server is down; this pause avoids useless load.
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
    }
    acknowledged
}

pub(crate) async fn is_ready(host: &HostProcess) -> bool {
    host.send("GET", "/readyz", &[], "").await.status == 200
}

/// An SQL condition that is true for these items.
pub(crate) fn among(ids: &[i64]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    format!("id = ANY('{{{}}}')", ids.join(","))
}

fn count(database: &Database, condition: &str) -> u64 {
    let counted = database.sql(&format!("SELECT count(*) FROM outbox.status WHERE {condition}"));
    counted.map_or(u64::MAX, |counted| counted.parse().unwrap())
}

#[tokio::test]
async fn whatever_was_acknowledged_is_done_however_often_the_server_is_killed() {
    let kills = if is_soak() { 10 } else { 2 };
    let cluster = Cluster::start(Durability::Honest);
    let database = Arc::new(cluster.database());
    let deployment = Deployment::on(TestDb::Postgres(Arc::clone(&database))).await;
    let plan = deployment.plan.clone().set("OUTBOX_VISIBILITY_SEC", "3").set("OUTBOX_MAX_RETRIES", "40");
    let hosts = [plan.start("serve").await, plan.start("serve").await, plan.start("serve").await];
    let stop = Arc::new(AtomicBool::new(false));
    let caller = |number: usize| write_through(hosts[number % 3].url.clone(), number, Arc::clone(&stop));
    let writing: Vec<_> = (0..6).map(|number| tokio::spawn(caller(number))).collect();
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(300..1_000))).await;
        cluster.kill();
        for host in &hosts {
            eventually("readiness is false", SOON, async || !is_ready(host).await).await;
        }
        cluster.run();
        for host in &hosts {
            eventually("the host recovers by itself", SOON, async || is_ready(host).await).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for written in writing {
        acknowledged.extend(written.await.unwrap());
    }
    eventually("everything is done", SOON, async || count(&database, "status <> 'DONE'") == 0).await;
    assert_eq!(count(&database, &among(&acknowledged)), acknowledged.len() as u64);
    let untold = "attempts > 1 + (SELECT count(*) FROM outbox.attempts WHERE item_id = id)";
    assert_eq!(count(&database, untold), 0, "every attempt but the last has its row");
    let (items, lost) = (acknowledged.len(), count(&database, "deliveries > 1"));
    report(&format!("{kills} kills of the server, {items} acknowledged items, {lost} of them repeated, all DONE"));
}

#[tokio::test]
async fn clocks_of_hosts_that_are_wrong_by_ten_minutes_steal_no_lease() {
    for wrong in ["+ 600000", "- 600000"] {
        let database = Cluster::shared().database();
        // The database's clock differs from those of both hosts by ten minutes.
        let body = format!("RETURN (extract(epoch FROM clock_timestamp()) * 1000)::bigint {wrong}");
        database.sql(&format!("CREATE OR REPLACE FUNCTION outbox.now() RETURNS bigint LANGUAGE sql {body}")).unwrap();
        let url = database.url();
        let open = || PostgresStore::open_existing(&url, PostgresOptions::default());
        let (mine, theirs): (Arc<dyn Store>, Arc<dyn Store>) = (open().await.unwrap(), open().await.unwrap());
        mine.enqueue(vec![item("k")], BatchMode::PerItem).await.unwrap();
        let claim = mine.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
        assert_eq!(theirs.expire_leases(&[]).await.unwrap(), 0);
        assert!(theirs.claim(&request(&["mail"], 1)).await.unwrap().claims.is_empty());
        let left = claim.item.lease_until.unwrap().since(theirs.now().await.unwrap()).as_millis();
        assert!((1..=60_000).contains(&left), "{left} ms of the lease are left");
        mine.settle(&claim.reference(), done()).await.unwrap();
    }
}

#[tokio::test]
async fn an_export_has_what_a_transaction_commits_that_had_inserted_before_and_holds_up_nobody_afterwards() {
    let database = Cluster::shared().database();
    let store = PostgresStore::open_existing(&database.url(), PostgresOptions::default()).await.unwrap();
    let mut application = database.connect().await;
    let tx = application.transaction().await.unwrap();
    let insert = |key: &str| format!("INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', '{key}', '')");
    tx.batch_execute(&insert("late")).await.unwrap();
    database.sql(&insert("early")).unwrap();
    let exporting = async {
        let mut snapshot = store.begin_export().await.unwrap();
        database.sql(&insert("after")).unwrap();
        snapshot.page(ExportPosition::START, 9).await.unwrap().records
    };
    let committing = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'
                     AND relation = 'outbox.items'::regclass";
        eventually("the export waits", SOON, async || database.sql(waits).unwrap() == "1").await;
        tx.commit().await.unwrap();
    };
    let (records, ()) = futures_util::future::join(exporting, committing).await;
    assert_eq!(records.len(), 2, "{records:?}");
}

#[tokio::test]
async fn a_renewal_does_not_wait_for_a_lease_that_another_transaction_works_on() {
    let f = Fixture::new(Backend::Postgres).await;
    let items = vec![item("a"), NewItem::new("sms", "b", "{}")];
    f.store.enqueue(items, BatchMode::PerItem).await.unwrap();
    let claims = f.store.claim(&request(&["mail", "sms"], 2)).await.unwrap().claims;
    let [busy, free] = [&claims[0], &claims[1]];
    let renewals = [busy, free].map(|claim| Renewal { token: claim.token, lease: Duration::from_mins(1) });
    let works_on = format!("UPDATE outbox_leases SET epoch = epoch WHERE token = {}", busy.token);
    f.in_transaction(&works_on, async || {
        let renewed = f.store.renew(&renewals).await.unwrap();
        let state = |claim: &Claim| &renewed.iter().find(|renewed| renewed.token == claim.token).unwrap().state;
        assert_eq!(state(busy), &LeaseState::Busy);
        assert_eq!(state(free), &LeaseState::Held { ids: vec![free.item.id] });
    })
    .await;
    let renewed = f.store.renew(&renewals[..1]).await.unwrap();
    assert_eq!(renewed[0].state, LeaseState::Held { ids: vec![busy.item.id] });
}

#[tokio::test]
async fn a_live_queue_is_handed_over_from_sqlite_and_nothing_is_lost_or_done_twice() {
    let deployment = Deployment::on(TestDb::new(Backend::Sqlite)).await;
    deployment.vector.ledger.take(Duration::from_millis(20));
    let host = deployment.plan.start("serve").await;
    let mut acknowledged = Vec::new();
    for number in 0..30 {
        acknowledged.extend(ids(&write_memory(&host, &format!("w{number}")).await));
    }
    let file = deployment.dir.path().join("export.ndjson");
    let file = file.to_str().unwrap();
    // The export starts while some items are done and others are not. It runs on another thread, because the receivers
    // of this test must still answer the attempts in flight.
    let (plan, path) = (deployment.plan.clone(), file.to_owned());
    tokio::task::spawn_blocking(move || plan.json(&["export", &path, "--pause", "--json"])).await.unwrap();
    assert_eq!(host.terminate(), Some(0));

    let database = Cluster::shared().database();
    let moved = deployment.plan.clone().set("OUTBOX_DB", &database.url());
    assert_eq!(moved.json(&["import", file, "--json"])["verified"], true);
    assert_eq!(moved.json(&["import", file, "--dry-run", "--json"])["created"], 0);
    let host = moved.start("serve").await;
    assert_eq!(ids(&write_memory(&host, "w7").await), acknowledged[14..16], "the first write is remembered");
    acknowledged.extend(ids(&write_memory(&host, "new").await));
    eventually("everything is done", SOON, async || count(&database, "status <> 'DONE'") == 0).await;
    assert_eq!(count(&database, "true"), acknowledged.len() as u64);
    for ledger in [&deployment.vector.ledger, &deployment.belief.ledger] {
        let effects = ledger.effects();
        assert_eq!((effects.len(), effects.values().max()), (31, Some(&1)), "{effects:?}");
    }
}

#[test]
fn ten_processes_that_migrate_at_once_make_one_schema_without_a_superuser() {
    let database = Cluster::shared().empty_database();
    let plan = HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), &std::env::temp_dir());
    let plan = plan.set("OUTBOX_DB", &database.url());
    let started: Vec<_> = (0..10)
        .map(|_| plan.command(&["migrate", "--json"]).stdout(std::process::Stdio::piped()).spawn().unwrap())
        .collect();
    let mut created = 0;
    for child in started {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        created += usize::from(told["from"] == 0);
        assert!(!told["database"].to_string().contains("outbox@"), "{told}");
    }
    assert_eq!(created, 1);
    assert_eq!(database.sql("SELECT count(*) FROM outbox.migrations").unwrap(), "1");
    let doctor = plan.json(&["doctor", "--json"]);
    let of = |check: &str| doctor.as_array().unwrap().iter().find(|finding| finding["check"] == check).cloned();
    for check in ["database", "privileges", "autovacuum", "notify"] {
        assert_eq!(of(check).unwrap()["result"], "ok", "{doctor}");
    }
}

#[tokio::test]
async fn each_right_that_a_role_lacks_is_named() {
    let database = Cluster::shared().database();
    database.cluster().sql("postgres", "CREATE ROLE half_a_host LOGIN").unwrap();
    let rights = "GRANT USAGE ON SCHEMA outbox TO half_a_host;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA outbox TO half_a_host;
        GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA outbox TO half_a_host;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO half_a_host";
    database.sql(rights).unwrap();
    let url = database.url_of("half_a_host");
    let missing = async || {
        let store = PostgresStore::open_existing(&url, PostgresOptions::default()).await.unwrap();
        store.diagnose().await.unwrap().missing
    };
    assert_eq!(missing().await, Vec::<String>::new());
    let fewer = "REVOKE ALL ON outbox.status_dlq FROM half_a_host; REVOKE INSERT ON outbox.dead FROM half_a_host;
        REVOKE ALL ON FUNCTION outbox.fold() FROM half_a_host; REVOKE USAGE ON outbox.turn_seq FROM half_a_host";
    database.sql(fewer).unwrap();
    let expected = [
        "EXECUTE on outbox.fold()",
        "INSERT on outbox.dead",
        "SELECT on outbox.status_dlq",
        "USAGE on outbox.turn_seq",
    ];
    assert_eq!(missing().await, expected);
}

#[tokio::test]
async fn without_notifications_workers_find_what_is_inserted_all_the_same() {
    let deployment = Deployment::on(TestDb::new(Backend::Postgres)).await;
    deployment.plan.json(&["migrate", "--no-notify", "--json"]);
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname = 'items_wake'";
    assert_eq!(deployment.test_db.sql(triggers).unwrap(), "0");
    let host = deployment.plan.start("serve").await;
    deployment.test_db.sql("SELECT outbox.enqueue('webhook', 'k', '{}')").unwrap();
    crate::support::stage::becomes(&host, 1, "DONE").await;
    deployment.plan.json(&["migrate", "--notify", "--json"]);
    assert_eq!(deployment.test_db.sql(triggers).unwrap(), "1");
}

#[test]
fn inspection_creates_nothing_and_nothing_says_the_password() {
    let database = Cluster::shared().empty_database();
    let plan = HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), &std::env::temp_dir());
    let url = database.url().replace("outbox@", "outbox:hunter2@");
    for (url, says) in [(url.as_str(), "outbox migrate"), ("postgres://ada:hunter2@127.0.0.1:1/app", "connect")] {
        for verb in ["list", "doctor", "stats"] {
            let plan = plan.clone().set("OUTBOX_MIGRATE", "never");
            let output = plan.set("OUTBOX_DB", url).run(&[verb]);
            let told = [output.stdout, output.stderr].concat();
            let told = String::from_utf8(told).unwrap();
            assert_eq!(output.status.code(), Some(1), "{verb}: {told}");
            assert!(told.contains(says) && !told.contains("hunter2"), "{verb}: {told}");
        }
    }
    let first = plan.clone().set("OUTBOX_DB", &database.url()).run(&["doctor"]).stdout;
    assert!(String::from_utf8(first).unwrap().contains("`outbox serve` creates it"));
    assert_eq!(database.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'outbox'").unwrap(), "0");
    let told = plan.set("OUTBOX_DB", &database.url()).json(&["migrate", "--json"]);
    assert_eq!((&told["from"], &told["to"]), (&json!(0), &json!(2)));
}
