//! Rows that no statement of the host writes, and locks that others hold: on PostgreSQL too they stop nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox::item::Status;
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::store::{Action, Execution, OperateRequest, Queue as _, Retention, Selection};

use crate::support::postgres::Cluster;
use crate::support::{Backend, Fixture, TestDb, done, item, ordered, request, with_streaks};

/// A history row of the item's first delivery.
const FIRST_DELIVERY: &str = "\
    INSERT INTO outbox.attempts (item_id, delivery, attempt, started_at, ended_at, pod, class, code, message,
                                 maybe_executed)
    VALUES (1, 1, 1, 1, 1, 'pod', 'lost', 'c', 'an earlier end', true)";

/// A statement that locks the line of the ordering key `k`.
const LOCK_LINE: &str = "SELECT pg_advisory_xact_lock(7206002, hashtext('k'))";

#[tokio::test]
async fn a_history_row_that_is_there_already_keeps_no_lease_from_ending() {
    let f = Fixture::new(Backend::Postgres).await;
    let id = f.enqueue(item("k")).await;
    f.claim_one("mail").await;
    f.sql(&format!("{FIRST_DELIVERY}; UPDATE outbox.leases SET lease_until = 1")).unwrap();
    assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 1);
    assert_eq!(f.status(id).await, Status::Pending);
}

/// The index of fairness keys is in the order of bytes. Earlier versions of the server than 15 have no such databases.
#[tokio::test]
async fn keys_are_served_in_turn_whatever_the_collation_of_the_database_is() {
    let cluster = Cluster::shared();
    let create = "CREATE DATABASE collated OWNER outbox TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
    if cluster.sql("postgres", "SHOW server_version_num").unwrap().parse::<u32>().unwrap() < 150_000 {
        return;
    }
    cluster.sql("postgres", create).unwrap();
    let url = cluster.url("outbox", "collated");
    let store = PostgresStore::open(&url, PostgresOptions::default()).await.unwrap();
    let insert = "INSERT INTO outbox.items (type, idem_key, payload, fairness_key, available_at)
        SELECT 'mail', key || n, '{}', key, 0 FROM unnest('{Zeta,acme,Acme,globex,acme-2,acme_1}'::text[]) AS key,
            generate_series(1, 3) AS n";
    cluster.sql("collated", insert).unwrap();
    let mut served = Vec::new();
    while let Some(claim) = store.claim(&request(&["mail"], 1)).await.unwrap().claims.pop() {
        served.extend(claim.item.fairness_key);
    }
    assert_eq!(served.len(), 18);
    for round in served.chunks(6) {
        assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 6, "{served:?}");
    }
    drop(store);
    cluster.sql("postgres", "DROP DATABASE collated WITH (FORCE)").unwrap();
}

#[tokio::test]
async fn a_restored_item_that_was_lost_goes_on_with_the_numbers_of_its_history() {
    let f = Fixture::new(Backend::Postgres).await;
    let id = f.enqueue(item("k")).await;
    f.sql(&format!("{FIRST_DELIVERY}; DELETE FROM outbox.queue")).unwrap();
    let restore = OperateRequest {
        action: Action::Restore,
        selection: Selection::Ids(vec![id]),
        actor: "ada".into(),
        reason: None,
        execution: Execution::Apply,
    };
    f.store.operate(&restore).await.unwrap();
    assert_eq!(f.claim_one("mail").await.item.deliveries, 2);
}

#[tokio::test]
async fn a_lease_that_cannot_be_ended_holds_up_no_other() {
    let f = Fixture::new(Backend::Postgres).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(f.enqueue(item(&format!("k{number}"))).await);
        f.claim_one("mail").await;
    }
    f.sql(
        "CREATE FUNCTION public.refuse_row() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'a bad row'; END $$;
         CREATE TRIGGER own BEFORE INSERT ON outbox.attempts FOR EACH ROW WHEN (NEW.item_id = 1)
             EXECUTE FUNCTION public.refuse_row();
         UPDATE outbox.leases SET lease_until = 1",
    )
    .unwrap();
    let (mut ended, mut calls) = (0, 0);
    while ended < 5 && calls < 10 {
        // A call fails when it ends none, and when a busy server answers too late.
        ended += f.store.expire_leases(&[]).await.unwrap_or_default();
        calls += 1;
    }
    assert_eq!((ended, f.status(ids[0]).await), (5, Status::Claimed));
    f.sql("DROP TRIGGER own ON outbox.attempts").unwrap();
    assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_claim_that_passes_over_a_key_for_its_lock_asks_to_be_repeated_soon() {
    let f = Fixture::new(Backend::Postgres).await;
    f.enqueue(ordered("a")).await;
    f.in_transaction(LOCK_LINE, async || {
        let batch = f.store.claim(&request(&["mail"], 1)).await.unwrap();
        assert!(batch.claims.is_empty());
        assert_eq!(batch.next_available_in, Some(Duration::from_millis(10)));
    })
    .await;
    assert_eq!(f.claim("mail", 1).await.len(), 1);
}

#[tokio::test]
async fn retention_does_not_wait_for_the_line_of_a_done_item() {
    let f = Fixture::new(Backend::Postgres).await;
    f.enqueue(ordered("a")).await;
    f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
    f.clock.advance(Duration::from_secs(9));
    let retention = Retention { done: Some(Duration::from_secs(1)), ..Retention::default() };
    f.in_transaction(LOCK_LINE, async || {
        assert_eq!(f.store.run_maintenance(&retention).await.unwrap().items, 1);
    })
    .await;
}

#[tokio::test]
async fn retention_leaves_out_an_item_that_another_transaction_has_locked() {
    for lock in [
        "SELECT FROM outbox.items WHERE idem_key = 'locked' FOR UPDATE",
        // As an operator's action does, which has not locked the item itself.
        "SELECT outbox.lock_places(ARRAY(SELECT id FROM outbox.items WHERE idem_key = 'locked'))",
    ] {
        let f = Fixture::new(Backend::Postgres).await;
        for key in ["locked", "free"] {
            f.enqueue(item(key)).await;
            f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        }
        f.clock.advance(Duration::from_secs(9));
        let retention = Retention { done: Some(Duration::from_secs(1)), ..Retention::default() };
        f.in_transaction(lock, async || {
            assert_eq!(f.store.run_maintenance(&retention).await.unwrap().items, 1);
        })
        .await;
        assert_eq!(f.store.run_maintenance(&retention).await.unwrap().items, 1);
    }
}

#[tokio::test]
async fn a_long_line_in_front_costs_the_others_few_claims() {
    let f = Fixture::new(Backend::Postgres).await;
    f.sql(
        "INSERT INTO outbox.items (type, idem_key, payload, ordering_key, available_at)
         SELECT 'mail', 'k' || n, '', 'k', 0 FROM generate_series(1, 30000) AS n",
    )
    .unwrap();
    for _ in 0..101 {
        f.store.claim(&request(&["mail"], 10)).await.unwrap();
    }
    assert_eq!(f.sql("SELECT count(*) FROM outbox.queue WHERE NOT held").unwrap(), "0");
}

#[tokio::test]
async fn a_job_that_cannot_be_read_stops_neither_retention_nor_totals() {
    let f = Fixture::new(Backend::Postgres).await;
    f.enqueue(item("a")).await;
    f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
    f.sql(
        r#"INSERT INTO outbox.jobs (action, filter, actor, state, began_at, next_at, last_id, matched)
           VALUES ('{"action":"dance"}', '{}', 'ada', 'RUNNING', 1, 1, 9, 0)"#,
    )
    .unwrap();
    f.clock.advance(Duration::from_secs(9));
    let retention = Retention { done: Some(Duration::from_secs(1)), ..Retention::default() };
    assert_eq!(f.store.run_maintenance(&retention).await.unwrap().items, 1);
    f.store.run_maintenance(&retention).await.unwrap();
    assert_eq!(f.sql("SELECT count(*) FROM outbox.deltas").unwrap(), "0");
}

/// While another transaction claims the most suspect item, a claim takes no other in its stead: one that must be alone
/// would have company.
#[tokio::test]
async fn a_suspect_that_another_claim_takes_is_not_replaced_by_one_that_must_be_alone() {
    let f = Fixture::new(Backend::Postgres).await;
    let (exhausted, lone) = (f.enqueue(item("exhausted")).await, f.enqueue(item("lone")).await);
    for (id, losses) in [(exhausted, 5), (lone, 4)] {
        f.sql(&format!(
            "INSERT INTO outbox.past (id, attempts, deliveries, losses) VALUES ({id}, 0, {losses}, {losses});
             UPDATE outbox.queue SET again = true, losses = {losses} WHERE id = {id}"
        ))
        .unwrap();
    }
    let fresh = f.enqueue(item("fresh")).await;
    let TestDb::Postgres(database) = &f.test_db else { unreachable!("the fixture is one of PostgreSQL") };
    let mut other = database.connect().await;
    let claiming = other.transaction().await.unwrap();
    claiming.batch_execute(&format!("SELECT FROM outbox.queue WHERE id = {exhausted} FOR UPDATE")).await.unwrap();
    let claims = f.store.claim(&request(&["mail"], 9)).await.unwrap().claims;
    assert_eq!(claims.iter().map(|claim| claim.item.id).collect::<Vec<_>>(), [fresh]);
    claiming.rollback().await.unwrap();
    assert!(f.claim("mail", 9).await.is_empty());
    assert_eq!((f.status(exhausted).await, f.status(lone).await), (Status::Dlq, Status::Pending));
    assert_eq!(f.claim_one("mail").await.item.id, lone);
}

/// The place in the line is drawn before the commit, so that a transaction which commits late can bring an item in front
/// of one that has the lane already.
#[tokio::test]
async fn an_item_that_becomes_visible_late_follows_no_item_that_it_precedes() {
    let f = Fixture::new(Backend::Postgres).await;
    f.enqueue(ordered("first")).await;
    let first = f.claim("mail", 1).await.remove(0);
    let insert = "SET CONSTRAINTS ALL IMMEDIATE;
                  INSERT INTO outbox_items (type, idem_key, payload, ordering_key) VALUES ('mail', 'late', '{}', 'k')";
    let mut next = None;
    f.in_transaction(insert, async || {
        next = Some(f.enqueue(ordered("next")).await);
        f.store.settle(&first.reference(), done()).await.unwrap();
    })
    .await;
    let claim = async || {
        let batch = f.store.claim(&with_streaks(request(&["mail"], 9), 9)).await.unwrap();
        batch.claims
    };
    let claims = claim().await;
    assert_eq!(claims.iter().map(|claim| Some(claim.item.id)).collect::<Vec<_>>(), [next]);
    f.store.settle(&claims[0].reference(), done()).await.unwrap();
    let claims = claim().await;
    assert_eq!(claims.iter().map(|claim| claim.item.idem_key.as_str()).collect::<Vec<_>>(), ["late"]);
}
