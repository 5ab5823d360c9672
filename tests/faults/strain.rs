//! Hosts under a strain from outside, while items come in and go out: thousands of idle connections, few descriptors, a
//! log that nobody reads, a full disk, values of 1 MiB. Whatever was acknowledged reaches its receiver once, and probes
//! are answered.
//!
//! The soak strains them more, and for longer, and limits the time that a probe takes.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::support::host::{HostConfig, HostProcess, unread_log};
use crate::support::stage::Deployment;
use crate::support::{Backend, TestDb, eventually, is_soak, on_each_backend, report};

on_each_backend! {
    values_of_a_mebibyte_arrive_whole
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
            self.host.send("GET", "/readyz", &[], "").await;
            self.slowest_probe.set(self.slowest_probe.get().max(asked.elapsed()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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
    eventually("it is ready", SOON, async || readiness().await == 200).await;
    report(&traffic.arrives_once(&deployment).await);
}

mod on_each {
    use super::*;

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
