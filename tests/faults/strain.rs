//! Hosts under a strain from outside, while items come in and go out: thousands of idle connections, few descriptors, a
//! log that nobody reads, a full disk; and, in the files of this folder, a clock that is moved, locks that an application
//! holds, and large values. Whatever was acknowledged reaches its receiver once, and probes are answered.
//!
//! The soak strains them more, and for longer, and limits the time that a probe takes.

mod clock;
mod locks;
mod traffic;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::host::{HostConfig, HostProcess, unread_log};
use crate::support::postgres::{Cluster, Database};
use crate::support::stage::Deployment;
use crate::support::{Backend, TestDb, eventually, on_each_backend, report};
use traffic::{SOON, Traffic, sized};

on_each_backend! {
    idle_connections_by_the_thousand_keep_nothing_waiting
    a_host_with_few_descriptors_serves_beside_more_idle_connections_than_it_can_hold
    a_host_whose_descriptors_run_out_goes_on_as_idle_connections_make_room
    a_log_that_nobody_reads_holds_nothing_up
    a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room
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

/// The disk of a store. It has room for a few hundred items, and a test can take that.
enum SmallDisk {
    /// A file takes the room.
    Sqlite { ballast: PathBuf },
    /// A table takes the room.
    Postgres { database: Arc<Database> },
}

impl SmallDisk {
    async fn fill(&self) {
        match self {
            Self::Sqlite { ballast } => drop(std::fs::write(ballast, vec![0; 9 << 20])),
            Self::Postgres { database } => {
                let database = Arc::clone(database);
                // Traffic and probes go on in the thread of the test.
                tokio::task::spawn_blocking(move || fill(&database)).await.unwrap();
            }
        }
    }

    fn free(&self) {
        match self {
            Self::Sqlite { ballast } => std::fs::write(ballast, "").unwrap(),
            Self::Postgres { database } => drop(database.sql("DROP TABLE ballast").unwrap()),
        }
    }
}

fn fill(database: &Database) {
    database.sql("CREATE TABLE ballast (filler text)").unwrap();
    let insert = "INSERT INTO ballast SELECT repeat('x', 500) FROM generate_series(1, 1000)";
    let refusal = (0..).find_map(|_| database.sql(insert).err()).unwrap();
    assert!(refusal.contains("No space left"), "{refusal}");
}

/// A host whose store is on a disk of its own. This needs no root.
async fn on_a_small_disk(backend: Backend) -> (Deployment, HostProcess, SmallDisk) {
    match backend {
        Backend::Sqlite => {
            let deployment = Deployment::new().await;
            let host = on_a_mounted_disk(&deployment).set("OUTBOX_CONCURRENCY", "512").start("serve").await;
            let ballast = host.path(&deployment.dir.path().join("small/ballast"));
            (deployment, host, SmallDisk::Sqlite { ballast })
        }
        Backend::Postgres => {
            let database = Arc::new(Cluster::with_small_disk("40m").small_database());
            let deployment = Deployment::on(TestDb::Postgres(Arc::clone(&database))).await;
            let host = deployment.plan.clone().set("OUTBOX_CONCURRENCY", "512").start("serve").await;
            (deployment, host, SmallDisk::Postgres { database })
        }
    }
}

/// The same host, with its database on a disk of 14 MiB of which 9 MiB are taken.
fn on_a_mounted_disk(deployment: &Deployment) -> HostConfig {
    let small = deployment.dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mount =
        "mount -t tmpfs -o size=14m,mode=0700 none small && head -c 9m /dev/zero > small/ballast && exec \"$@\"";
    let script = format!("exec unshare --user --map-current-user --keep-caps --mount sh -c '{mount}' sh \"$@\"");
    let plan = deployment.plan.clone().set("OUTBOX_DB", &small.join("outbox.sqlite").display().to_string());
    plan.through(&script)
}

mod on_each {
    use super::*;

    pub(super) async fn idle_connections_by_the_thousand_keep_nothing_waiting(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let host = deployment.plan.start("serve").await;
        let traffic = Traffic::to(&host, 100);
        let strain = async {
            let _idle = idle_connections(&host, sized(1_100, 5_000)).await;
            traffic.goes_on(sized(20, 2_000)).await;
        };
        traffic.during(strain).await;
        traffic.expect_readiness(&[200]);
        report(&traffic.all_arrive_once(&deployment).await);
    }

    pub(super) async fn a_host_with_few_descriptors_serves_beside_more_idle_connections_than_it_can_hold(
        backend: Backend,
    ) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let plan = deployment.plan.clone().through("ulimit -n 100; exec \"$@\"").set("OUTBOX_CONCURRENCY", "64");
        deployment.vector.ledger.take(Duration::from_millis(50));
        let host = plan.start("serve").await;
        let _idle = idle_connections(&host, 500).await;
        let traffic = Traffic::to(&host, 100);
        traffic.during(traffic.goes_on(sized(100, 5_000))).await;
        traffic.expect_readiness(&[200]);
        report(&traffic.all_arrive_once(&deployment).await);
    }

    pub(super) async fn a_host_whose_descriptors_run_out_goes_on_as_idle_connections_make_room(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let host = deployment.plan.start("serve").await;
        let traffic = Traffic::to(&host, 100);
        let strain = async {
            // It began with room for a thousand connections.
            traffic.goes_on(20).await;
            host.limit_descriptors(100);
            let _idle = idle_connections(&host, 500).await;
            traffic.goes_on(sized(100, 1_000)).await;
        };
        traffic.during(strain).await;
        traffic.expect_readiness(&[200]);
        report(&traffic.all_arrive_once(&deployment).await);
    }

    pub(super) async fn a_log_that_nobody_reads_holds_nothing_up(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let (log, _unread) = unread_log();
        let host = deployment.plan.clone().set("RUST_LOG", "trace").start_logging_to(log, "serve").await;
        let traffic = Traffic::to(&host, 100);
        traffic.during(traffic.goes_on(sized(50, 5_000))).await;
        traffic.expect_readiness(&[200]);
        report(&traffic.all_arrive_once(&deployment).await);
        assert_eq!(host.terminate(), Some(0));
    }

    pub(super) async fn a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room(backend: Backend) {
        let (deployment, host, disk) = on_a_small_disk(backend).await;
        // So that hundreds of items are in flight when the disk becomes full, and are settled then.
        deployment.vector.ledger.take(Duration::from_secs(2));
        let traffic = Traffic::to(&host, 8_000).by(4);
        let why = async || host.send("GET", "/readyz", &[], "").await.json()["detail"].to_string();
        let strain = async {
            for _ in 0..sized(1, 5) {
                disk.fill().await;
                traffic.is_refused(sized(3, 50)).await;
                eventually("readiness says so", SOON, async || why().await.contains("the disk of the store is full"))
                    .await;
                disk.free();
                traffic.goes_on(10).await;
            }
        };
        traffic.during(strain).await;
        traffic.expect_readiness(&[200, 503]);
        eventually("it is ready", SOON, async || host.send("GET", "/readyz", &[], "").await.status == 200).await;
        report(&traffic.arrives_once(&deployment).await);
    }
}
