//! What only a database server can do to a store: disappear, refuse connections, hold locks, and let other clients
//! commit in between. The clock is the database's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outbox::client::postgres::enqueue_in;
use outbox::item::{ItemId, NewItem, Status};
use outbox::postgres::{Notify, PostgresOptions, PostgresStore, migrate};
use outbox::store::{BatchMode, Filter, Page, SignalSeq, Store, StoreError};

use crate::support::postgres::{Cluster, Database, Durability};
use crate::support::{done, eventually, is_soak, item, ordered, request, retry};

const SOON: Duration = Duration::from_secs(20);

async fn open(url: &str, options: PostgresOptions) -> Arc<dyn Store> {
    PostgresStore::open_existing(url, options).await.unwrap()
}

/// Options with a short statement timeout.
fn hasty() -> PostgresOptions {
    PostgresOptions { statement_timeout: Duration::from_millis(600), connections: 2, ..PostgresOptions::default() }
}

async fn database() -> (Database, Arc<dyn Store>) {
    let database = Cluster::shared().database();
    let store = open(&database.url(), PostgresOptions::default()).await;
    (database, store)
}

async fn enqueue(store: &dyn Store, item: NewItem) -> ItemId {
    store.enqueue(vec![item], BatchMode::PerItem).await.unwrap().ids[0].unwrap()
}

/// Claims items until `stop` is set, and settles each of them; repeats after every error.
async fn work(store: Arc<dyn Store>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(claimed) = store.claim(&request(&["mail"], 8)).await else { continue };
        if claimed.claims.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for claim in claimed.claims {
            while matches!(store.settle(&claim.reference(), done()).await, Err(StoreError::Unavailable { .. })) {}
        }
    }
}

/// The number of items in a status, and how often an attempt ended as done.
async fn counts(store: &dyn Store, status: Status) -> (usize, u64) {
    let filter = Filter { status: vec![status], ..Filter::default() };
    let listed = store.list(&filter, &Page { limit: 10_000, before: None }).await.unwrap().items;
    let attempts = store.overview().await.unwrap().attempts;
    (listed.len(), attempts.get("mail").and_then(|outcomes| outcomes.get("done")).copied().unwrap_or(0))
}

#[tokio::test]
async fn a_probe_waits_for_no_call_that_waits_for_a_lock() {
    let database = Cluster::shared().database();
    let store = open(&database.url(), PostgresOptions { connections: 2, ..PostgresOptions::default() }).await;
    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE outbox.items IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waiting = (0..2).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.list(&Filter::default(), &Page { limit: 1, before: None }).await })
    });
    let waiting = waiting.collect::<Vec<_>>();
    let blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'outbox.items'::regclass";
    eventually("both connections wait", SOON, async || database.sql(blocked).unwrap() == "2").await;
    store.probe().await.unwrap();
    lock.commit().await.unwrap();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn ten_processes_migrate_an_empty_database_at_once() {
    let database = Cluster::shared().empty_database();
    let url = database.url();
    let migrating = (0..10).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { migrate(&url, &PostgresOptions::default(), Notify::Keep).await.unwrap() })
    });
    let mut created = 0;
    for migration in migrating.collect::<Vec<_>>() {
        created += usize::from(migration.await.unwrap().from == 0);
    }
    assert_eq!(created, 1);
    enqueue(&*open(&url, PostgresOptions::default()).await, item("k")).await;
}

#[tokio::test]
async fn a_database_without_an_outbox_is_named_with_what_creates_it() {
    let database = Cluster::shared().empty_database();
    let refused = PostgresStore::open_existing(&database.url(), PostgresOptions::default()).await;
    let Err(err @ StoreError::Unusable(_)) = refused else { panic!("there is no schema") };
    assert!(err.to_string().contains("outbox migrate"), "{err}");
}

#[tokio::test]
async fn an_insert_is_noticed_with_and_without_notifications() {
    for notify in [Notify::On, Notify::Off] {
        let database = Cluster::shared().database();
        migrate(&database.url(), &PostgresOptions::default(), notify).await.unwrap();
        let store = open(&database.url(), PostgresOptions::default()).await;
        // Waits until the store has handled the notifications of its own start, which must not count.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut changes = store.subscribe();
        changes.mark_unchanged();
        database.sql("SELECT outbox.enqueue('mail', 'k', '{}')").unwrap();
        tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.expect("noticed").unwrap();
    }
}

#[tokio::test]
async fn items_of_one_ordering_key_are_handled_in_the_order_of_their_commits_and_no_insert_waits() {
    let (database, store) = database().await;
    let (mut first, mut second) = (database.connect().await, database.connect().await);
    let one = first.transaction().await.unwrap();
    let slow = enqueue_in(&one, &ordered("a")).await.unwrap();
    let two = second.transaction().await.unwrap();
    let quick =
        tokio::time::timeout(SOON, enqueue_in(&two, &ordered("b"))).await.expect("it waits for nobody").unwrap();
    two.commit().await.unwrap();
    enqueue(&*store, item("c")).await;
    one.commit().await.unwrap();
    assert!(slow < quick, "the order is not that of the ids");
    let claims = store.claim(&request(&["mail"], 9)).await.unwrap().claims;
    assert_eq!(claims.len(), 2, "one of the key, and one without a key");
    let front = claims.iter().find(|claim| claim.item.ordering_key.is_some()).unwrap();
    assert_eq!(front.item.id, quick);
    store.settle(&front.reference(), done()).await.unwrap();
    assert_eq!(store.claim(&request(&["mail"], 9)).await.unwrap().claims[0].item.id, slow);
}

#[tokio::test]
async fn transactions_that_enqueue_for_the_same_keys_crosswise_do_not_wait_for_each_other() {
    let (database, store) = database().await;
    let (mut first, mut second) = (database.connect().await, database.connect().await);
    let (one, two) = (first.transaction().await.unwrap(), second.transaction().await.unwrap());
    let of = |key: &str, name: &str| NewItem { ordering_key: Some(key.into()), ..item(name) };
    let crosswise = async {
        for (tx, key, name) in [(&one, "a", "1a"), (&two, "b", "2b"), (&one, "b", "1b"), (&two, "a", "2a")] {
            enqueue_in(tx, &of(key, name)).await.unwrap();
        }
    };
    tokio::time::timeout(SOON, crosswise).await.expect("none waits");
    two.commit().await.unwrap();
    one.commit().await.unwrap();
    for expected in [["2a", "2b"], ["1a", "1b"]] {
        let claims = store.claim(&request(&["mail"], 9)).await.unwrap().claims;
        let names: BTreeSet<_> = claims.iter().map(|claim| claim.item.idem_key.as_str()).collect();
        assert_eq!(names, expected.into());
        for claim in &claims {
            store.settle(&claim.reference(), done()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn one_transaction_may_enqueue_for_very_many_ordering_keys() {
    let (database, store) = database().await;
    let mut application = database.connect().await;
    let tx = application.transaction().await.unwrap();
    let keys = if is_soak() { 100_000 } else { 2_000 };
    let many = format!(
        "INSERT INTO outbox.items (type, idem_key, payload, ordering_key)
         SELECT 'mail', 'n' || n, '{{}}', 'key' || n FROM generate_series(1, {keys}) AS n;
         SET CONSTRAINTS ALL IMMEDIATE"
    );
    tx.batch_execute(&many).await.unwrap();
    // The room of a server for locks depends on its settings.
    let locks = tx.query_one("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()", &[]).await.unwrap();
    assert!(locks.get::<_, i64>(0) < 100, "a lock for each key");
    tx.commit().await.unwrap();
    assert_eq!(store.claim(&request(&["mail"], 9)).await.unwrap().claims.len(), 9);
}

#[tokio::test]
async fn an_open_insert_with_the_same_ordering_key_keeps_nobody_from_settling() {
    let (database, store) = database().await;
    enqueue(&*store, ordered("a")).await;
    let claim = store.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
    let mut application = database.connect().await;
    let open = application.transaction().await.unwrap();
    let next = enqueue_in(&open, &ordered("b")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(3), store.settle(&claim.reference(), done())).await.unwrap().unwrap();
    open.commit().await.unwrap();
    assert_eq!(store.claim(&request(&["mail"], 1)).await.unwrap().claims[0].item.id, next);
}

/// The ordering keys that are being handled now, and the handled items of all keys in order.
type Handled = (BTreeSet<String>, Vec<(String, ItemId)>);

fn note(handled: &mut Handled, key: String, id: ItemId) {
    handled.0.remove(&key);
    handled.1.push((key, id));
}

#[tokio::test]
async fn many_claimers_handle_each_ordering_key_one_at_a_time_and_in_order() {
    let (database, store) = database().await;
    let mut items = Vec::new();
    for n in 0..120 {
        items.push(NewItem { ordering_key: Some(format!("k{}", n % 4)), ..item(&n.to_string()) });
    }
    store.enqueue(items, BatchMode::PerItem).await.unwrap();
    let handled = Arc::new(std::sync::Mutex::new(Handled::default()));
    let claimers = (0..3).map(|_| {
        let (url, handled) = (database.url(), Arc::clone(&handled));
        tokio::spawn(async move {
            let store = open(&url, PostgresOptions::default()).await;
            while handled.lock().unwrap().1.len() < 120 {
                for claim in store.claim(&request(&["mail"], 3)).await.unwrap().claims {
                    let key = claim.item.ordering_key.clone().unwrap();
                    assert!(handled.lock().unwrap().0.insert(key.clone()), "two at a time of {key}");
                    tokio::task::yield_now().await;
                    note(&mut handled.lock().unwrap(), key, claim.item.id);
                    store.settle(&claim.reference(), done()).await.unwrap();
                }
            }
        })
    });
    for claimer in claimers.collect::<Vec<_>>() {
        tokio::time::timeout(Duration::from_mins(1), claimer).await.unwrap().unwrap();
    }
    let handled = handled.lock().unwrap();
    for key in 0..4 {
        let ids: Vec<_> = handled.1.iter().filter(|(of, _)| *of == format!("k{key}")).map(|(_, id)| *id).collect();
        assert!(ids.is_sorted() && ids.len() == 30, "{ids:?}");
    }
}

#[tokio::test]
async fn connections_that_are_cut_lose_nothing_and_settle_nothing_twice() {
    let (database, store) = database().await;
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3).map(|_| tokio::spawn(work(Arc::clone(&store), Arc::clone(&stop)))).collect();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'outbox'";
    for n in 0..100 {
        while store.enqueue(vec![item(&n.to_string())], BatchMode::PerItem).await.is_err() {}
        if n % 10 == 0 {
            database.sql(cut).unwrap();
        }
    }
    // Items that were claimed by a commit whose answer was lost become ready again when their lease ends.
    eventually("all are done", SOON, async || {
        database.sql("UPDATE outbox.leases SET lease_until = 0 WHERE claimed_at < outbox.now() - 2000").unwrap();
        store.expire_leases(&[]).await.is_ok() && counts(&*store, Status::Done).await == (100, 100)
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_used_again_without_opening_the_store_again() {
    let cluster = Cluster::start(Durability::Hasty);
    let database = cluster.database();
    let store = open(&database.url(), hasty()).await;
    enqueue(&*store, item("before")).await;
    cluster.stop();
    let start = Instant::now();
    let gone = store.enqueue(vec![item("meanwhile")], BatchMode::PerItem).await.unwrap_err();
    assert!(matches!(gone, StoreError::Unavailable { .. }), "{gone}");
    assert!(store.signals(SignalSeq::START, 1).await.is_err());
    assert!(start.elapsed() < SOON, "it gives up in bounded time");
    cluster.run();
    let mut changes = store.subscribe();
    eventually("the store answers", SOON, async || store.signals(SignalSeq::START, 1).await.is_ok()).await;
    enqueue(&*store, item("after")).await;
    eventually("inserts are noticed again", SOON, async || {
        tokio::time::sleep(Duration::from_millis(700)).await;
        changes.mark_unchanged();
        let key = uuid::Uuid::new_v4();
        database.sql(&format!("SELECT outbox.enqueue('mail', '{key}', '{{}}')")).unwrap();
        tokio::time::timeout(Duration::from_millis(300), changes.changed()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_lock_that_others_hold_is_waited_for_in_bounded_time() {
    let database = Cluster::shared().database();
    let store = open(&database.url(), hasty()).await;
    enqueue(&*store, item("k")).await;
    let claim = store.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
    let mut application = database.connect().await;
    let holding = application.transaction().await.unwrap();
    holding.batch_execute("LOCK TABLE outbox.leases IN EXCLUSIVE MODE").await.unwrap();
    let start = Instant::now();
    let reference = claim.reference();
    let calls = (0..3).map(|_| store.settle(&reference, done()));
    for late in futures_util::future::join_all(calls).await {
        assert!(matches!(late, Err(StoreError::Locked { .. })), "{late:?}");
    }
    assert!(start.elapsed() < SOON);
    holding.commit().await.unwrap();
    store.settle(&claim.reference(), done()).await.unwrap();
}

#[tokio::test]
async fn more_calls_than_connections_wait_their_turn_or_say_that_none_became_free() {
    let database = Cluster::shared().database();
    let patient = open(&database.url(), PostgresOptions { connections: 2, ..PostgresOptions::default() }).await;
    let store = open(&database.url(), hasty()).await;
    let many = (0..50).map(|n| patient.enqueue(vec![item(&n.to_string())], BatchMode::PerItem));
    assert!(futures_util::future::join_all(many).await.iter().all(Result::is_ok));
    let mut application = database.connect().await;
    let holding = application.transaction().await.unwrap();
    holding.batch_execute("LOCK TABLE outbox.items IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let stuck = (0..6).map(|n| store.enqueue(vec![item(&format!("x{n}"))], BatchMode::PerItem));
    let words: Vec<_> =
        futures_util::future::join_all(stuck).await.into_iter().map(|late| late.unwrap_err().to_string()).collect();
    assert!(words.iter().any(|words| words.contains("no connection became free")), "{words:?}");
    holding.rollback().await.unwrap();
    enqueue(&*store, item("again")).await;
}

#[tokio::test]
async fn a_server_that_became_read_only_is_said_to_be_and_used_again_when_it_is_not() {
    let (database, store) = database().await;
    enqueue(&*store, item("before")).await;
    let name = database.sql("SELECT current_database()").unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outbox'
               AND datname = current_database()";
    database.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on; {cut}")).unwrap();
    let refused = store.enqueue(vec![item("k")], BatchMode::PerItem).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused}");
    assert!(refused.to_string().contains("read-only"), "{refused}");
    database.cluster().sql("postgres", &format!("ALTER DATABASE {name} RESET ALL")).unwrap();
    database.sql(cut).unwrap();
    enqueue(&*store, item("k")).await;
}

#[tokio::test]
async fn of_several_addresses_the_one_that_takes_writes_is_used() {
    let database = Cluster::shared().database();
    let url = database.url().replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:");
    enqueue(&*open(&url, PostgresOptions::default()).await, item("k")).await;
}

#[tokio::test]
async fn two_that_enqueue_the_same_keys_at_once_agree_on_who_was_first() {
    let (_database, store) = database().await;
    for round in 0..20 {
        let write = || (0..5).map(|n| item(&format!("{round}:{n}"))).collect::<Vec<_>>();
        let reversed = || write().into_iter().rev().collect::<Vec<_>>();
        let (a, b) = tokio::join!(
            store.enqueue(write(), BatchMode::AllOrNothing),
            store.enqueue(reversed(), BatchMode::AllOrNothing)
        );
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.created + b.created, 5, "{a:?} {b:?}");
        assert_eq!(a.ids, b.ids.into_iter().rev().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_handlers_write_is_kept_although_the_database_refuses_some_characters() {
    let (_database, store) = database().await;
    let id = enqueue(&*store, item("k")).await;
    let claim = store.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
    let mut settled = retry(Duration::ZERO);
    settled.stderr = Some("a\0b".into());
    store.settle(&claim.reference(), settled).await.unwrap();
    let kept = store.get(id).await.unwrap().unwrap().failed_attempts.remove(0);
    assert_eq!(kept.stderr.as_deref(), Some("a\u{FFFD}b"));
}
