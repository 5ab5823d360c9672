//! A program that reads the SQLite file for long keeps the write-ahead log from being emptied: the log grows, and nothing
//! waits for the reader.

use std::time::Duration;

use outbox::store::Retention;
use tokio::time::timeout;

use crate::support::{Fixture, item};

/// The size above which maintenance cuts the log.
const WAL_MAX: u64 = 64 << 20;

/// Much longer than maintenance and a write take, and shorter than a connection waits for a lock: 10 s.
const SOON: Duration = Duration::from_secs(8);

/// Writes as much as that, in one transaction of an application.
fn write(f: &Fixture, bytes: u64) {
    let half = 512 << 10;
    f.sql(&format!(
        "CREATE TABLE IF NOT EXISTS own (bytes BLOB);
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {bytes} / {half} + 1)
         INSERT INTO own SELECT zeroblob({half}) FROM numbers"
    ))
    .unwrap();
}

async fn wal_bytes(f: &Fixture) -> u64 {
    f.store.overview().await.unwrap().wal_bytes
}

#[tokio::test]
async fn a_long_reader_keeps_the_log_and_holds_up_neither_maintenance_nor_writes() {
    let f = Fixture::sqlite().await;
    let reader = rusqlite::Connection::open(f.test_db.address()).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM outbox_items", [], |_| Ok(())).unwrap();
    write(&f, WAL_MAX);
    for key in ["a", "b"] {
        let (maintenance, retention) = (f.store.clone(), Retention::default());
        let cutting = tokio::spawn(async move { maintenance.run_maintenance(&retention).await });
        timeout(SOON, f.enqueue(item(key))).await.expect("the write waits for the reader");
        timeout(SOON, cutting).await.expect("maintenance waits for the reader").unwrap().unwrap();
        assert!(wal_bytes(&f).await > WAL_MAX, "operators see how long the log is");
    }
    drop(reader);
    f.store.run_maintenance(&Retention::default()).await.unwrap();
    assert!(wal_bytes(&f).await <= WAL_MAX, "the log is cut once nobody reads it");
    assert_eq!(f.claim("mail", 9).await.len(), 2);
}
