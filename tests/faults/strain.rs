//! Hosts under a strain from outside, while items come in and go out: thousands of idle connections, few descriptors, a
//! log that nobody reads, a full disk, values of 1 MiB. Whatever was acknowledged reaches its receiver once, and probes
//! are answered.
//!
//! The soak strains them more, and for longer, and limits the time that a probe takes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::support::guests::{CHAOS_GRANTS, chaos, install};
use crate::support::host::{HostConfig, HostProcess, unread_log};
use crate::support::stage::{Deployment, becomes, ids};
use crate::support::{Backend, TestDb, eventually, is_soak, on_each_backend, report};

on_each_backend! {
    values_of_a_mebibyte_arrive_whole
    results_state_followups_and_messages_are_kept_as_far_as_their_limits_go
    probes_are_answered_while_an_application_holds_locks
}

const SOON: Duration = Duration::from_mins(3);
const PROBE_MAX: Duration = Duration::from_secs(1);

/// How much of something the everyday suite and the soak take.
fn sized(suite: usize, soak: usize) -> usize {
    if is_soak() { soak } else { suite }
}

/// A host to which items are written and probes are sent, one after the other.
struct Traffic<'a> {
    host: &'a HostProcess,
    filler: String,
    acknowledged: RefCell<Vec<String>>,
    refused: Cell<usize>,
    slowest_probe: Cell<Duration>,
    /// The statuses of the answers about readiness.
    readiness: RefCell<BTreeSet<u16>>,
    stop: CancellationToken,
}

impl<'a> Traffic<'a> {
    fn to(host: &'a HostProcess, bytes: usize) -> Self {
        Self {
            host,
            filler: "x".repeat(bytes),
            acknowledged: RefCell::default(),
            refused: Cell::default(),
            slowest_probe: Cell::default(),
            readiness: RefCell::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Goes on until the strain has ended.
    async fn during(&self, strain: impl Future<Output = ()>) {
        let strained = async {
            strain.await;
            self.stop.cancel();
        };
        tokio::join!(strained, self.write(), self.probe());
    }

    async fn write(&self) {
        for number in 0.. {
            if self.stop.is_cancelled() {
                break;
            }
            let item = json!({ "type": "webhook", "idem_key": format!("item {number}"), "payload": self.filler });
            let headers = [("content-type", "application/json")];
            let answer = self.host.send("POST", "/items", &headers, &item.to_string()).await;
            match answer.status.as_u16() {
                202 => self.acknowledged.borrow_mut().push(format!("item {number}")),
                503 => self.refused.set(self.refused.get() + 1),
                _ => panic!("{answer:?}"),
            }
        }
    }

    async fn probe(&self) {
        while !self.stop.is_cancelled() {
            let asked = Instant::now();
            assert_eq!(self.host.send("GET", "/healthz", &[], "").await.status, 200);
            let ready = self.host.send("GET", "/readyz", &[], "").await.status.as_u16();
            self.readiness.borrow_mut().insert(ready);
            self.slowest_probe.set(self.slowest_probe.get().max(asked.elapsed()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Checks that each of these statuses was an answer about readiness, and no other one.
    fn expect_readiness(&self, statuses: &[u16]) {
        assert_eq!(*self.readiness.borrow(), statuses.iter().copied().collect());
    }

    /// Waits until so many more items are acknowledged.
    async fn goes_on(&self, items: usize) {
        let enough = self.acknowledged.borrow().len() + items;
        eventually("writes go on", SOON, async || self.acknowledged.borrow().len() >= enough).await;
    }

    /// Each acknowledged item arrives, and none arrives twice. Returns what became of the writes and the probes.
    async fn arrives_once(&self, deployment: &Deployment) -> String {
        let acknowledged = self.acknowledged.borrow().clone();
        let ledger = &deployment.vector.ledger;
        // The key of a request begins with that of its item.
        let all_arrived = || {
            let effects = ledger.effects();
            let arrived: HashSet<_> = effects.keys().filter_map(|key| key.split('/').next()).collect();
            acknowledged.iter().all(|key| arrived.contains(key.as_str()))
        };
        eventually("every acknowledged item arrives", SOON, async || all_arrived()).await;
        let effects = ledger.effects();
        let repeated: Vec<_> = effects.iter().filter(|(_, times)| **times > 1).collect();
        assert!(repeated.is_empty(), "{repeated:?}");
        let (refused, slowest) = (self.refused.get(), self.slowest_probe.get());
        assert!(!is_soak() || slowest < PROBE_MAX, "the slowest probe took {slowest:?}");
        let (items, memory) = (acknowledged.len(), self.host.resident() >> 20);
        format!("{items} items acknowledged, {refused} refused; the slowest probe took {slowest:?}; {memory} MiB")
    }
}

/// Connections on which nothing is sent.
async fn idle_connections(host: &HostProcess, count: usize) -> Vec<TcpStream> {
    let address = host.url.trim_start_matches("http://");
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(TcpStream::connect(address).await.unwrap());
    }
    connections
}

#[tokio::test]
async fn idle_connections_by_the_thousand_keep_nothing_waiting() {
    let deployment = Deployment::new().await;
    let host = deployment.plan.start("serve").await;
    let traffic = Traffic::to(&host, 100);
    let strain = async {
        let _idle = idle_connections(&host, sized(1_100, 5_000)).await;
        traffic.goes_on(sized(20, 2_000)).await;
    };
    traffic.during(strain).await;
    traffic.expect_readiness(&[200]);
    report(&traffic.arrives_once(&deployment).await);
}

#[tokio::test]
async fn a_host_with_few_descriptors_serves_beside_more_idle_connections_than_it_can_hold() {
    let deployment = Deployment::new().await;
    let plan = deployment.plan.clone().through("ulimit -n 100; exec \"$@\"").set("OUTBOX_CONCURRENCY", "64");
    deployment.vector.ledger.take(Duration::from_millis(50));
    let host = plan.start("serve").await;
    let _idle = idle_connections(&host, 500).await;
    let traffic = Traffic::to(&host, 100);
    traffic.during(traffic.goes_on(sized(100, 5_000))).await;
    report(&traffic.arrives_once(&deployment).await);
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    let deployment = Deployment::new().await;
    let (log, _unread) = unread_log();
    let host = deployment.plan.clone().set("RUST_LOG", "debug").start_logging_to(log, "serve").await;
    let traffic = Traffic::to(&host, 100);
    traffic.during(traffic.goes_on(sized(50, 5_000))).await;
    traffic.expect_readiness(&[200]);
    report(&traffic.arrives_once(&deployment).await);
    assert_eq!(host.terminate(), Some(0));
}

/// The same host, with its database on a disk of 14 MiB of which 9 MiB are taken. This needs no root.
fn on_a_small_disk(deployment: &Deployment) -> HostConfig {
    let small = deployment.dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mount =
        "mount -t tmpfs -o size=14m,mode=0700 none small && head -c 9m /dev/zero > small/ballast && exec \"$@\"";
    let script = format!("exec unshare --user --map-current-user --keep-caps --mount sh -c '{mount}' sh \"$@\"");
    let plan = deployment.plan.clone().set("OUTBOX_DB", &small.join("outbox.sqlite").display().to_string());
    plan.through(&script)
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room() {
    let deployment = Deployment::new().await;
    let host = on_a_small_disk(&deployment).start("serve").await;
    let traffic = Traffic::to(&host, 8_000);
    let readiness = async || host.send("GET", "/readyz", &[], "").await.status.as_u16();
    let strain = async {
        let ballast = host.path(&deployment.dir.path().join("small/ballast"));
        for _ in 0..sized(1, 5) {
            drop(std::fs::write(&ballast, vec![0; 9 << 20]));
            let refused = traffic.refused.get() + sized(3, 50);
            eventually("writes are refused", SOON, async || traffic.refused.get() >= refused).await;
            let why = async || host.send("GET", "/readyz", &[], "").await.json()["detail"].to_string();
            eventually("readiness says so", SOON, async || why().await.contains("the disk of the store is full")).await;
            std::fs::write(&ballast, "").unwrap();
            traffic.goes_on(10).await;
        }
    };
    traffic.during(strain).await;
    traffic.expect_readiness(&[200, 503]);
    eventually("it is ready", SOON, async || readiness().await == 200).await;
    report(&traffic.arrives_once(&deployment).await);
}

/// Enqueues an item of the chaos handler, and waits until it has this status.
async fn handled(host: &HostProcess, key: &str, payload: Value, status: &str) -> Value {
    let item = json!({ "type": "chaos", "idem_key": key, "payload": payload }).to_string();
    let answer = host.send("POST", "/items", &[("content-type", "application/json")], &item).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    becomes(host, ids(&answer.json())[0], status).await
}

/// An application that holds locks until its transaction ends.
enum LockedStore {
    Sqlite(rusqlite::Connection),
    Postgres(tokio_postgres::Client),
}

impl LockedStore {
    /// Takes the lock of the file on SQLite. On PostgreSQL these statements take locks.
    async fn lock(test_db: &TestDb, on_postgresql: &str) -> Self {
        match test_db {
            TestDb::Sqlite(_) => {
                let application = rusqlite::Connection::open(test_db.address()).unwrap();
                application.busy_timeout(SOON).unwrap();
                application.execute_batch("BEGIN IMMEDIATE").unwrap();
                Self::Sqlite(application)
            }
            TestDb::Postgres(database) => {
                let application = database.connect().await;
                application.batch_execute(&format!("BEGIN; {on_postgresql}")).await.unwrap();
                Self::Postgres(application)
            }
        }
    }

    async fn unlock(self) {
        match self {
            Self::Sqlite(application) => application.execute_batch("ROLLBACK").unwrap(),
            Self::Postgres(application) => application.batch_execute("ROLLBACK").await.unwrap(),
        }
    }
}

/// Rows and keys, as an application locks them that enqueues and reads in a long transaction.
const ROWS: &str = "SELECT FROM outbox.items FOR UPDATE;
                    INSERT INTO outbox.items (type, idem_key, payload, ordering_key)
                    SELECT 'webhook', 'held ' || n, '', 'line' FROM generate_series(1, 100) AS n";
/// The table into which items are enqueued.
const TABLE: &str = "LOCK TABLE outbox.items IN SHARE MODE";

mod on_each {
    use super::*;

    pub(super) async fn probes_are_answered_while_an_application_holds_locks(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let host = deployment.plan.start("serve").await;
        let traffic = Traffic::to(&host, 100);
        let hold = if is_soak() { Duration::from_mins(3) } else { Duration::ZERO };
        let strain = async {
            traffic.goes_on(5).await;
            if backend == Backend::Postgres {
                let locked = LockedStore::lock(&deployment.test_db, ROWS).await;
                traffic.goes_on(20).await;
                tokio::time::sleep(hold).await;
                traffic.goes_on(20).await;
                locked.unlock().await;
            }
            let (locked, refused) = (LockedStore::lock(&deployment.test_db, TABLE).await, traffic.refused.get());
            eventually("a write is refused", SOON, async || traffic.refused.get() > refused).await;
            tokio::time::sleep(hold).await;
            locked.unlock().await;
            traffic.goes_on(20).await;
        };
        traffic.during(strain).await;
        // On SQLite the host can write nothing; on PostgreSQL it goes on with what it has.
        traffic.expect_readiness(if backend == Backend::Sqlite { &[200, 503] } else { &[200] });
        report(&traffic.arrives_once(&deployment).await);
    }

    pub(super) async fn results_state_followups_and_messages_are_kept_as_far_as_their_limits_go(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let manifest = format!("{CHAOS_GRANTS}\n[limits]\nresult = '1MiB'\n");
        install(&chaos(1), &manifest, &deployment.plugins(), "chaos");
        let host = deployment.plan.clone().set("OUTBOX_MAX_RETRIES", "0").start("serve").await;
        let traffic = Traffic::to(&host, 100);
        // With the quotes of JSON, and with the rest of the payload of a follow-up: 256 KiB, 1 MiB and 256 KiB.
        let (state_bytes, result_bytes, followup_bytes) = ((256 << 10) - 2, (1 << 20) - 2, (256 << 10) - 28);
        let strain = async {
            for number in 0..sized(2, 200) {
                let key = format!("large {number}");
                let followup = json!({ "do": "succeed", "result": "f".repeat(followup_bytes) });
                let steps = json!([
                    { "do": "state_put", "key": key, "value": "s".repeat(state_bytes) },
                    { "do": "emit", "type": "chaos_other", "payload": followup },
                ]);
                handled(&host, &key, json!({ "do": "sequence", "steps": steps }), "DONE").await;
                let result = json!({ "do": "big_result", "bytes": result_bytes });
                handled(&host, &format!("result {number}"), result, "DONE").await;
                let trap = json!({ "do": "trap", "message": "m".repeat((1 << 20) - 200) });
                let dead = handled(&host, &format!("trap {number}"), trap, "DLQ").await;
                assert_eq!(dead["last_error"].as_str().unwrap().len(), 4 << 10, "the message is cut");
            }
        };
        traffic.during(strain).await;
        let sizes = "SELECT count(*), min(length(result)), max(length(result)) FROM outbox_done AS done
                     JOIN outbox_items AS item ON item.id = done.id WHERE type = ";
        let rows = |sql: &str| deployment.test_db.sql(sql).unwrap();
        let count = sized(2, 200);
        let results = format!("{sizes}'chaos' AND idem_key LIKE 'result %'");
        assert_eq!(rows(&results), format!("{count}|{0}|{0}", result_bytes + 2));
        let state = format!("SELECT count(*) FROM outbox_state WHERE length(value) = {}", state_bytes + 2);
        assert_eq!(rows(&state), count.to_string());
        let followups = format!("{sizes}'chaos_other'");
        let kept = format!("{count}|{0}|{0}", followup_bytes + 2);
        eventually("the follow-ups are done", SOON, async || rows(&followups) == kept).await;
        traffic.expect_readiness(&[200]);
        report(&traffic.arrives_once(&deployment).await);
    }

    pub(super) async fn values_of_a_mebibyte_arrive_whole(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let host = deployment.plan.start("serve").await;
        // The rest is for the request around it.
        let bytes = (1 << 20) - 100;
        let traffic = Traffic::to(&host, bytes);
        traffic.during(traffic.goes_on(sized(5, 300))).await;
        report(&traffic.arrives_once(&deployment).await);
        let sizes: Vec<_> = deployment.vector.ledger.received().iter().map(|request| request.body.len()).collect();
        assert!(sizes.iter().all(|size| *size == bytes + 2), "with quotes: {sizes:?}");
    }
}
