//! Stores behind `PgBouncer` in transaction mode, which gives each transaction another session.
//!
//! `make soak` runs the whole contract of a store through it; these tests are the part for every day.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use outbox::item::{Item, NewItem, Status};
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::store::{
    Action, BatchMode, EffectKeys, Execution, Filter, OperateRequest, Page, Retention, Selection, Store,
};

use crate::support::pooler::Route;
use crate::support::postgres::{Cluster, Database, psql};
use crate::support::stage::{Deployment, becomes};
use crate::support::{Backend, TestDb, done, item, request, retry};

async fn open(database: &Database, route: Route) -> Arc<PostgresStore> {
    let (url, listen_url) = route.urls(database);
    PostgresStore::open(&url, PostgresOptions { listen_url, ..PostgresOptions::default() }).await.unwrap()
}

/// Claims and settles until nothing is left. Each item fails once.
async fn drain(store: Arc<dyn Store>) -> Vec<Item> {
    let (mut drained, mut empty) = (Vec::new(), 0);
    while empty < 20 {
        let claims = store.claim(&request(&["mail"], 10)).await.unwrap().claims;
        empty = if claims.is_empty() { empty + 1 } else { 0 };
        let settled = claims.into_iter().map(async |claim| {
            let fails = claim.item.attempts == 1;
            let settlement = if fails { retry(Duration::ZERO) } else { done() };
            store.settle(&claim.reference(), settlement).await.unwrap();
            (!fails).then_some(claim.item)
        });
        drained.extend(futures_util::future::join_all(settled).await.into_iter().flatten());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drained
}

#[tokio::test]
async fn many_workers_share_three_sessions_and_lose_nothing() {
    let database = Cluster::shared().database();
    let store: Arc<dyn Store> = open(&database, Route::Pooled).await;
    let keyed = |number: usize| NewItem {
        ordering_key: number.is_multiple_of(3).then(|| format!("key-{}", number % 7)),
        ..item(&format!("item-{number}"))
    };
    store.enqueue((0..200).map(keyed).collect(), BatchMode::PerItem).await.unwrap();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let store: Arc<dyn Store> = open(&database, Route::Pooled).await;
        workers.extend((0..2).map(|_| tokio::spawn(drain(Arc::clone(&store)))));
    }
    let mut drained = Vec::new();
    for worker in workers {
        drained.extend(worker.await.unwrap());
    }
    let keys: BTreeSet<_> = drained.iter().map(|item| item.idem_key.as_str()).collect();
    assert_eq!((keys.len(), drained.len()), (200, 200));
    let (pooled, _) = Route::Pooled.urls(&database);
    let left = "SELECT (SELECT count(*) FROM pg_prepared_statements)
                       + (SELECT count(*) FROM pg_settings WHERE source = 'session'
                          AND name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'jit'))";
    for _ in 0..9 {
        assert_eq!(psql(&pooled, left).unwrap(), "0", "statements and settings that transactions left in a session");
    }
}

#[tokio::test]
async fn what_operators_and_the_upkeep_do_works_through_a_pooler() {
    let database = Cluster::shared().database();
    let store: Arc<dyn Store> = open(&database, Route::PooledAlone).await;
    store.enqueue(vec![item("a"), item("b")], BatchMode::AllOrNothing).await.unwrap();
    let claim = store.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
    store.settle(&claim.reference(), done()).await.unwrap();
    let order = OperateRequest {
        action: Action::Replay { keys: EffectKeys::Same },
        selection: Selection::Filter(Filter { status: vec![Status::Done], ..Filter::default() }),
        actor: "ada".into(),
        reason: None,
        execution: Execution::Apply,
    };
    assert_eq!(store.operate(&order).await.unwrap().changed, 1);
    store.run_maintenance(&Retention::default()).await.unwrap();
    let listed = store.list(&Filter::default(), &Page { limit: 9, before: None }).await.unwrap().items;
    assert_eq!(listed.iter().filter(|listed| listed.item.status == Status::Pending).count(), 2);
}

#[tokio::test]
async fn a_store_knows_whether_notifications_reach_it_and_says_why_not() {
    let database = Cluster::shared().database();
    assert_eq!(open(&database, Route::Direct).await.diagnose().await.unwrap().polls_because, None);
    assert_eq!(open(&database, Route::Pooled).await.diagnose().await.unwrap().polls_because, None);
    let why = open(&database, Route::PooledAlone).await.diagnose().await.unwrap().polls_because.unwrap();
    assert!(why.contains("pooler in transaction mode"), "{why}");
    let (url, _) = Route::Pooled.urls(&database);
    let nowhere = Some("postgres://outbox@127.0.0.1:1/app".to_owned());
    let deaf = PostgresStore::open(&url, PostgresOptions { listen_url: nowhere, ..PostgresOptions::default() });
    let why = deaf.await.unwrap().diagnose().await.unwrap().polls_because.unwrap();
    assert!(why.contains("127.0.0.1") && why.contains("failed"), "{why}");
}

#[tokio::test]
async fn a_host_behind_a_pooler_handles_what_is_inserted_with_and_without_a_url_to_listen_at() {
    let deployment = Deployment::on(TestDb::new(Backend::Postgres)).await;
    let TestDb::Postgres(database) = &deployment.test_db else { unreachable!("it was made so") };
    for (number, route) in [Route::Pooled, Route::PooledAlone].into_iter().enumerate() {
        let (url, listen_url) = route.urls(database);
        let plan = deployment.plan.clone().set("OUTBOX_DB", &url);
        let plan = listen_url.iter().fold(plan, |plan, url| plan.set("OUTBOX_DB_LISTEN", url));
        let host = plan.start("serve").await;
        database.sql(&format!("SELECT outbox.enqueue('webhook', 'k{number}', '{{}}')")).unwrap();
        becomes(&host, 1 + i64::try_from(number).unwrap(), "DONE").await;
        let doctor = plan.json(&["doctor", "--json"]);
        let notify = doctor.as_array().unwrap().iter().find(|finding| finding["check"] == "notify").unwrap();
        assert_eq!(notify["result"], if route == Route::Pooled { "ok" } else { "warn" }, "{notify}");
        assert_eq!(host.terminate(), Some(0));
    }
}
