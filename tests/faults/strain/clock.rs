//! The clocks of hosts and of their store are moved both ways by hours, while items come in and go out.
//!
//! On SQLite the store has the clock of its hosts; on PostgreSQL it has that of the server, and both are moved.

use std::sync::Arc;
use std::time::Duration;

use super::traffic::{Traffic, sized};
use crate::support::clock::ProcessClock;
use crate::support::host::HostProcess;
use crate::support::postgres::{Cluster, Database};
use crate::support::stage::Deployment;
use crate::support::{Backend, TestDb, on_each_backend, report};

on_each_backend! {
    clocks_that_are_moved_both_ways_lose_nothing_and_repeat_nothing
}

/// The length of a lease in seconds, and the time that an attempt takes. Leases are renewed after a third of their
/// length, so a busy machine has the rest of it to run a renewal. The clocks are moved during each attempt.
const LEASE: &str = "12";
const ATTEMPT: Duration = Duration::from_secs(5);

/// Two hosts of one store, and the clocks of the hosts and of the server.
struct Stage {
    deployment: Deployment,
    hosts: [HostProcess; 2],
    of_hosts: ProcessClock,
    of_server: Option<Arc<Database>>,
}

impl Stage {
    async fn new(backend: Backend) -> Self {
        let of_server = (backend == Backend::Postgres).then(|| Arc::new(Cluster::with_clock().database()));
        let test_db = of_server.clone().map_or_else(|| TestDb::new(backend), TestDb::Postgres);
        let deployment = Deployment::on(test_db).await;
        deployment.vector.ledger.take(ATTEMPT);
        let of_hosts = ProcessClock::in_file(&deployment.dir.path().join("clock"));
        let plan = deployment.plan.clone().set_all(&of_hosts.environment()).set("OUTBOX_VISIBILITY_SEC", LEASE);
        let plan = plan.set("OUTBOX_CONCURRENCY", "32");
        let hosts = [plan.start("serve").await, plan.start("serve").await];
        Self { deployment, hosts, of_hosts, of_server }
    }

    /// Moves the clocks of the hosts this far from the true time, and that of the server as far the other way.
    fn move_clocks(&self, hours: i64) {
        self.of_hosts.set(hours * 3_600);
        if let Some(database) = &self.of_server {
            database.cluster().clock().set(-hours * 3_600);
        }
    }

    /// An operator makes due what waits until the clock shows again what it showed.
    fn reschedule(&self) {
        let all = ["reschedule", "--status", "PENDING", "--type", "webhook", "--in", "0s", "--yes", "--json"];
        self.deployment.plan.json(&all);
    }

    /// How often the hosts have noticed that the clock of the store was moved.
    fn noticed(&self) -> usize {
        let log = std::fs::read_to_string(self.deployment.dir.path().join("host.log")).unwrap();
        log.matches("the clock of the store was moved").count()
    }
}

mod on_each {
    use super::*;

    pub(super) async fn clocks_that_are_moved_both_ways_lose_nothing_and_repeat_nothing(backend: Backend) {
        let stage = Stage::new(backend).await;
        let traffic = Traffic::to(&stage.hosts[0], 100).pausing(Duration::from_millis(50));
        let moves = sized(4, 60);
        let strain = async {
            traffic.goes_on(20).await;
            for number in 1..=moves {
                let hours = i64::try_from(number.div_ceil(10)).unwrap();
                stage.move_clocks(if number % 2 == 0 { -hours } else { hours });
                // Each process looks for leases that have run out once a second.
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                traffic.goes_on(1).await;
            }
            stage.move_clocks(0);
            traffic.goes_on(20).await;
        };
        traffic.during(strain).await;
        traffic.expect_readiness(&[200]);
        stage.reschedule();
        let figures = traffic.all_arrive_once(&stage.deployment).await;
        let count = |sql: &str| stage.deployment.test_db.sql(sql).unwrap();
        assert_eq!(count("SELECT count(*) FROM outbox_attempts"), "0");
        assert_eq!(count("SELECT count(*) FROM outbox_status WHERE deliveries <> 1"), "0");
        // The log repeats no line within ten seconds.
        assert!(stage.noticed() > 0, "no host noticed that the clock of the store was moved");
        let hours = "SELECT (max(created_at) - min(created_at)) / 3600000 FROM outbox_items";
        let hours = count(hours).parse::<usize>().unwrap();
        assert!(hours >= 2, "the clock of the store was {hours} hours ahead of itself");
        report(&format!("{figures}; {moves} moves of the clocks, over {hours} hours"));
    }
}
