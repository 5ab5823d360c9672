//! An application that holds locks of the store for longer than the host waits for them, and in the soak for longer than
//! a lease lasts.

use std::time::{Duration, Instant};

use super::traffic::{SOON, Traffic};
use crate::support::stage::Deployment;
use crate::support::{Backend, TestDb, is_soak, on_each_backend, report};

on_each_backend! {
    probes_are_answered_while_an_application_holds_locks
}

/// The length of a lease in the everyday suite. In the soak it is the default, a minute.
const LEASE: &str = "12";

/// How many callers enqueue at a time: more than the connections that the store has for them.
const CALLERS: usize = 16;

/// How long the store waits for the lock of the file, at least, before a write has failed.
const WAITS_AT_LEAST: Duration = Duration::from_secs(5);

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
                let path = test_db.address();
                // Traffic and probes go on in the thread of the test.
                Self::Sqlite(tokio::task::spawn_blocking(move || lock_file(&path)).await.unwrap())
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

fn lock_file(path: &str) -> rusqlite::Connection {
    let application = rusqlite::Connection::open(path).unwrap();
    application.busy_timeout(SOON).unwrap();
    application.execute_batch("BEGIN IMMEDIATE").unwrap();
    application
}

/// Rows and keys, as an application locks them that enqueues and reads in a long transaction.
const ROWS: &str = "SELECT FROM outbox.items FOR UPDATE;
                    INSERT INTO outbox.items (type, idem_key, payload, ordering_key)
                    SELECT 'webhook', 'held ' || n, '', 'line' FROM generate_series(1, 100) AS n";
/// The table into which items are enqueued.
const TABLE: &str = "LOCK TABLE outbox.items IN SHARE MODE";

/// For how long each lock is held after the host has met it.
async fn hold() {
    tokio::time::sleep(if is_soak() { Duration::from_mins(3) } else { Duration::from_secs(1) }).await;
}

/// The host can write nothing, says so after a while, and goes on when it can.
async fn hold_the_file(traffic: &Traffic<'_>, test_db: &TestDb) {
    traffic.becomes_ready(true).await;
    let (locked, since) = (LockedStore::lock(test_db, "").await, Instant::now());
    traffic.becomes_ready(false).await;
    assert!(since.elapsed() > WAITS_AT_LEAST, "the store waits for the lock, and a probe does not");
    traffic.expect_readiness(&[200, 503]);
    hold().await;
    traffic.is_probed().await;
    traffic.expect_readiness(&[503]);
    locked.unlock().await;
    traffic.becomes_ready(true).await;
}

/// The host goes on with all that the locks leave to it, and refuses the rest.
async fn hold_rows_and_a_table(traffic: &Traffic<'_>, test_db: &TestDb) {
    let locked = LockedStore::lock(test_db, ROWS).await;
    traffic.goes_on(20).await;
    hold().await;
    traffic.goes_on(20).await;
    locked.unlock().await;
    let locked = LockedStore::lock(test_db, TABLE).await;
    traffic.is_refused(1).await;
    hold().await;
    locked.unlock().await;
    traffic.expect_readiness(&[200]);
}

mod on_each {
    use super::*;

    pub(super) async fn probes_are_answered_while_an_application_holds_locks(backend: Backend) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let plan = deployment.plan.clone();
        let plan = if is_soak() { plan } else { plan.set("OUTBOX_VISIBILITY_SEC", LEASE) };
        let host = plan.start("serve").await;
        let traffic = Traffic::to(&host, 100).by(CALLERS);
        let strain = async {
            traffic.goes_on(5).await;
            match backend {
                Backend::Sqlite => hold_the_file(&traffic, &deployment.test_db).await,
                Backend::Postgres => hold_rows_and_a_table(&traffic, &deployment.test_db).await,
            }
            traffic.goes_on(20).await;
        };
        traffic.during(strain).await;
        report(&traffic.arrives_once(&deployment).await);
    }
}
