//! PostgreSQL: the server of the store becomes read-only beside one that takes over, forgets how far its sequences
//! were, has a backup restored under running hosts, or has applications that hold every call up.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use outbox::item::ItemId;
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::store::{BatchMode, Claim, Store, StoreError};
use tokio::time::timeout;

use crate::support::postgres::{Cluster, Database, Durability};
use crate::support::{done, eventually, item, request};

const SOON: Duration = Duration::from_mins(2);

async fn open(url: &str) -> Arc<dyn Store> {
    PostgresStore::open(url, PostgresOptions::default()).await.unwrap()
}

async fn enqueue(store: &dyn Store, key: &str) -> Result<ItemId, StoreError> {
    Ok(store.enqueue(vec![item(key)], BatchMode::PerItem).await?.ids[0].unwrap())
}

#[tokio::test]
async fn connections_to_a_server_that_became_read_only_are_left_for_the_one_that_accepts_writes() {
    let first = Cluster::start(Durability::Honest);
    let database = Arc::new(first.database());
    let second = first.standby();
    let one = format!("127.0.0.1:{}", first.port);
    let both = database.url().replace(&one, &format!("{one},127.0.0.1:{}", second.port));
    let store = open(&both).await;
    // Connections of every purpose are open, and idle.
    enqueue(&*store, "before").await.unwrap();
    let claim = store.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
    store.probe().await.unwrap();
    let has_arrived = "SELECT count(*) FROM outbox.leases";
    eventually("the claim is replicated", SOON, async || second.sql(database.name(), has_arrived).unwrap() == "1")
        .await;
    first.sql("postgres", "ALTER SYSTEM SET default_transaction_read_only = on").unwrap();
    first.sql("postgres", "SELECT pg_reload_conf()").unwrap();
    eventually("no server takes writes", SOON, async || store.probe().await.is_err()).await;
    assert!(enqueue(&*store, "between").await.unwrap_err().to_string().contains("give the primary's address"));
    second.sql("postgres", "SELECT pg_promote()").unwrap();
    eventually("the probe finds the other server", SOON, async || store.probe().await.is_ok()).await;
    enqueue(&*store, "after").await.unwrap();
    store.settle(&claim.reference(), done()).await.unwrap();
    let stored = "SELECT string_agg(idem_key || ' ' || status, ',' ORDER BY id) FROM outbox.status";
    assert_eq!(second.sql(database.name(), stored).unwrap(), "before DONE,after PENDING");
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN outbox' OR query = '' AND
                   application_name = 'outbox'";
    eventually("it listens there", SOON, async || second.sql("postgres", listens).unwrap() != "0").await;
    drop(store);
}

/// Sequences of a restore that brought rows and no sequences.
fn reset_sequences(database: &Database) {
    let sequences = ["items_id", "signals_seq", "jobs_id", "audit_seq", "handlers_id", "turn", "state_version"];
    for sequence in sequences {
        database.sql(&format!("SELECT setval('outbox.{sequence}_seq', 1, false)")).unwrap();
    }
}

#[tokio::test]
async fn a_sequence_behind_the_ids_is_advanced_at_the_start() {
    let database = Cluster::shared().database();
    let restore = "INSERT INTO outbox.items (id, type, idem_key, payload, ordering_key)
                   SELECT n, 'mail', 'restored-' || n, '{}', 'line' FROM generate_series(1, 300) AS n";
    database.sql(restore).unwrap();
    reset_sequences(&database);
    let store = open(&database.url()).await;
    // An application first: what the host writes would advance the sequence too.
    database.sql("INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', 'plain', '{}')").unwrap();
    assert!(enqueue(&*store, "new").await.unwrap().get() > 300);
    let last_turn = "SELECT last_value > 300 FROM outbox.turn_seq";
    assert_eq!(database.sql(last_turn).unwrap(), "t", "nothing overtakes the restored items of a key");
}

#[tokio::test]
async fn a_write_that_meets_a_number_in_use_advances_the_sequence_and_succeeds() {
    let database = Cluster::shared().database();
    let store = open(&database.url()).await;
    // More than a call that is only repeated passes over.
    for number in 1..=20 {
        enqueue(&*store, &format!("k{number}")).await.unwrap();
    }
    reset_sequences(&database);
    let diagnosed = PostgresStore::open_existing(&database.url(), PostgresOptions::default()).await.unwrap();
    let behind: Vec<_> = diagnosed.diagnose().await.unwrap().sequences_behind;
    assert_eq!(
        behind.iter().map(|found| (found.sequence.as_str(), found.highest)).collect::<Vec<_>>(),
        [("outbox.items_id_seq", 20)]
    );
    assert!(enqueue(&*store, "new").await.unwrap().get() > 20);
    assert_eq!(diagnosed.diagnose().await.unwrap().sequences_behind, []);
}

#[tokio::test]
async fn calls_that_wait_for_an_application_keep_no_connection_from_workers_and_probes() {
    let database = Cluster::shared().database();
    let store = open(&database.url()).await;
    enqueue(&*store, "k").await.unwrap();
    let claim = store.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
    let mut application = database.connect().await;
    let tx = application.transaction().await.unwrap();
    tx.batch_execute("LOCK TABLE outbox.items IN EXCLUSIVE MODE").await.unwrap();
    let keys: Vec<_> = (0..PostgresOptions::default().connections * 2).map(|n| format!("waits-{n}")).collect();
    let waiting = join_all(keys.iter().map(|key| enqueue(&*store, key)));
    let meanwhile = async {
        let waits = "SELECT count(*) >= 8 FROM pg_stat_activity WHERE datname = current_database()
                     AND wait_event_type = 'Lock'";
        eventually("every connection for calls waits", SOON, async || database.sql(waits).unwrap() == "t").await;
        store.probe().await.unwrap();
        store.settle(&claim.reference(), done()).await.unwrap();
        assert!(store.claim(&request(&["mail"], 1)).await.unwrap().claims.is_empty());
        assert_eq!(database.sql(waits).unwrap(), "t", "they wait still");
        tx.rollback().await.unwrap();
    };
    let (waited, ()) = timeout(SOON, futures_util::future::join(waiting, meanwhile)).await.expect("they go on");
    assert!(waited.iter().any(Result::is_ok), "{waited:?}");
}

async fn claim_one(store: &dyn Store) -> Claim {
    store.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0)
}

/// Settles until the store has a connection for it.
async fn settle(store: &dyn Store, claim: &Claim) -> Result<(), StoreError> {
    loop {
        match store.settle(&claim.reference(), done()).await {
            Err(StoreError::Unavailable { .. }) => {}
            settled => return settled,
        }
    }
}

#[tokio::test]
async fn a_claim_from_before_a_restore_settles_nothing_that_was_claimed_after_it() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    database.sql("INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', 'k', '{}')").unwrap();
    let (name, admin) = (database.name(), |sql: &str| cluster.sql("postgres", sql).unwrap());
    admin(&format!("CREATE DATABASE {name}_backup OWNER outbox TEMPLATE {name}"));
    let survivor = open(&database.url()).await;
    let before = claim_one(&*survivor).await;
    admin(&format!("DROP DATABASE {name} WITH (FORCE)"));
    admin(&format!("ALTER DATABASE {name}_backup RENAME TO {name}"));
    let restarted = open(&database.url()).await;
    let after = claim_one(&*restarted).await;
    assert_eq!(after.item.id, before.item.id);
    let late = timeout(SOON, settle(&*survivor, &before)).await.expect("it finds the database again");
    assert!(matches!(late, Err(StoreError::ClaimLost)), "{late:?}");
    assert_eq!(database.sql("SELECT status FROM outbox.status").unwrap(), "CLAIMED");
    restarted.settle(&after.reference(), done()).await.unwrap();
}
