//! Settlements and claims of one process that share a transaction: what they write, and what a row that the database
//! refuses stops.

use futures_util::future::{Either, join_all, select, select_all};

use outbox::core::{HostWrites, Settlement, StateChange, StateKeyChange};
use outbox::item::{NewItem, Status};
use outbox::store::{BatchMode, Claim, SettleRequest, StoreError};

use super::SOON;
use crate::support::{Backend, Fixture, done, eventually, item, ordered, request, retry, settled};

/// A trigger that refuses the item 1 on its way out of or into a place.
fn refuse_item_one(event: &str, table: &str, row: &str) -> String {
    format!(
        "CREATE FUNCTION public.refuse_row() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'a bad row'; END $$;
         CREATE TRIGGER own BEFORE {event} ON outbox.{table} FOR EACH ROW WHEN ({row}.id = 1)
             EXECUTE FUNCTION public.refuse_row()"
    )
}

/// DONE with a result. With `reads`, the attempt has also read a key of state, which changes nothing and is checked.
fn completed(result: &str, reads: Vec<StateKeyChange>) -> SettleRequest {
    let writes = HostWrites { plugin: "p".into(), state: reads, ..HostWrites::default() };
    let settlement = Settlement::Done { result: Some(result.into()), writes };
    SettleRequest { handler_digest: Some("a digest".into()), ..settled(settlement) }
}

/// Completes items of every kind, some of them apart from the others of their lease, and returns what the tables have.
async fn tables_after_completions(reads: &[StateKeyChange]) -> String {
    let f = Fixture::new(Backend::Postgres).await;
    for (number, is_ordered) in [false, true, true, false, false].into_iter().enumerate() {
        let key = format!("k{number}");
        f.enqueue(if is_ordered { ordered(&key) } else { item(&key) }).await;
    }
    f.enqueue(NewItem { saga: Some("s".into()), ..item("of a saga") }).await;
    let again = f.enqueue(NewItem::new("sms", "again", "{}")).await;
    let first = f.claim_one("sms").await;
    f.store.settle(&first.reference(), retry(std::time::Duration::ZERO)).await.unwrap();
    f.clock.advance(std::time::Duration::from_secs(1));
    let claims = f.store.claim(&request(&["mail", "sms"], 9)).await.unwrap().claims;
    assert!(claims.iter().any(|claim| claim.item.id == again));
    assert_eq!(claims.len(), 6, "one of two with a key");
    let settle = async |claim: &Claim| {
        let result = claim.item.id.to_string();
        f.store.settle(&claim.reference(), completed(&result, reads.to_vec())).await.unwrap();
    };
    settle(&claims[1]).await;
    join_all(claims.iter().skip(2).map(settle)).await;
    let tables = [
        "done ORDER BY id",
        "queue ORDER BY id",
        "past ORDER BY id",
        "lanes ORDER BY id",
        "saga_open ORDER BY id",
        "totals ORDER BY name, saga, type, outcome",
        "handlers ORDER BY id",
    ];
    let rows = |table: &str| f.sql(&format!("SELECT * FROM outbox.{table}")).unwrap();
    let leases = f.sql("SELECT type, count, ids, turns FROM outbox.leases ORDER BY type").unwrap();
    tables.map(rows).join("\n--\n") + &leases
}

#[tokio::test]
async fn a_plain_completion_writes_what_the_decision_for_every_settlement_writes() {
    let read = StateKeyChange { key: "n".into(), read_version: None, change: StateChange::None };
    let (plain, decided) = (tables_after_completions(&[]).await, tables_after_completions(&[read]).await);
    assert_eq!(plain, decided);
    assert!(plain.contains("a digest"));
}

#[tokio::test]
async fn a_claim_that_is_asked_for_with_settlements_shares_their_commit() {
    let f = Fixture::new(Backend::Postgres).await;
    for key in ["a", "b", "c"] {
        f.enqueue(item(key)).await;
    }
    let claims = f.claim("mail", 2).await;
    let settle = async |claim: &Claim| f.store.settle(&claim.reference(), done()).await.unwrap();
    let wanted = request(&["mail"], 5);
    let (_, batch) = tokio::join!(join_all(claims.iter().map(settle)), f.store.claim(&wanted));
    assert_eq!(batch.unwrap().claims.len(), 1);
    let transactions = "SELECT count(*) FROM (SELECT xmin FROM outbox.done UNION SELECT xmin FROM outbox.leases) AS x";
    assert_eq!(f.sql(transactions).unwrap(), "1");
}

#[tokio::test]
async fn of_two_settlements_of_one_claim_in_a_group_the_first_holds() {
    let f = Fixture::new(Backend::Postgres).await;
    let id = f.enqueue(item("a")).await;
    let claim = f.claim_one("mail").await.reference();
    let later = std::time::Duration::from_mins(1);
    let (first, second) = tokio::join!(f.store.settle(&claim, retry(later)), f.store.settle(&claim, done()));
    first.unwrap();
    assert!(matches!(second, Err(StoreError::ClaimLost)), "{second:?}");
    assert_eq!(f.status(id).await, Status::Pending);
}

#[tokio::test]
async fn a_settlement_that_waits_for_an_application_holds_up_neither_the_others_nor_a_claim() {
    let f = Fixture::new(Backend::Postgres).await;
    for key in ["a", "b", "c"] {
        f.enqueue(item(key)).await;
    }
    let claims = f.claim("mail", 3).await;
    let writes = HostWrites { followups: vec![NewItem::new("sms", "taken", "{}")], ..HostWrites::default() };
    let with_followup = settled(Settlement::Done { result: None, writes });
    let (waiting, plain, other) = (claims[0].reference(), claims[1].reference(), claims[2].reference());
    let wanted = request(&["mail"], 5);
    let takes_key = "INSERT INTO outbox.items (type, idem_key, payload) VALUES ('sms', 'taken', '{}')";
    f.in_transaction(takes_key, async || {
        for (settles, key) in [(plain, "d"), (other, "e")] {
            f.enqueue(item(key)).await;
            let (late, settled, claimed) = tokio::join!(
                f.store.settle(&waiting, with_followup.clone()),
                f.store.settle(&settles, done()),
                f.store.claim(&wanted)
            );
            assert!(matches!(late, Err(StoreError::Locked { .. })), "{late:?}");
            settled.unwrap();
            assert_eq!(claimed.unwrap().claims.len(), 1);
        }
    })
    .await;
    f.store.settle(&waiting, with_followup).await.unwrap();
}

/// DONE with a follow-up that has this idempotency key.
fn with_followup(key: &str) -> SettleRequest {
    let writes = HostWrites { followups: vec![NewItem::new("sms", key, "{}")], ..HostWrites::default() };
    settled(Settlement::Done { result: None, writes })
}

/// An insert of an application that takes idempotency keys, and holds them until its transaction ends.
const TAKES_KEYS: &str = "INSERT INTO outbox.items (type, idem_key, payload)
                          SELECT 'sms', 'taken ' || n, '{}' FROM generate_series(0, 2) AS n";

#[tokio::test]
async fn a_settlement_that_waits_for_an_application_is_answered_before_a_call_that_waits_as_long_as_others() {
    let f = Fixture::new(Backend::Postgres).await;
    f.enqueue(item("a")).await;
    let waiting = f.claim_one("mail").await.reference();
    f.in_transaction(TAKES_KEYS, async || {
        let call = f.store.enqueue(vec![NewItem::new("sms", "taken 0", "{}")], BatchMode::PerItem);
        let late = f.store.settle(&waiting, with_followup("taken 0"));
        let first = select(Box::pin(call), late).await;
        let Either::Right((late, _)) = first else { panic!("the call was answered first") };
        assert!(matches!(late, Err(StoreError::Locked { .. })), "{late:?}");
    })
    .await;
    f.store.settle(&waiting, with_followup("taken 0")).await.unwrap();
}

#[tokio::test]
async fn late_settlements_that_are_tried_again_are_waited_for_by_no_settlement_and_no_claim() {
    let f = Fixture::new(Backend::Postgres).await;
    for key in ["a", "b", "c", "plain"] {
        f.enqueue(item(key)).await;
    }
    // A try of a late settlement locks its lease, so the other item is in another one.
    let (claims, plain) = (f.claim("mail", 3).await, f.claim_one("mail").await.reference());
    let late = |number: usize| {
        let (store, reference) = (f.store.clone(), claims[number].reference());
        async move { store.settle(&reference, with_followup(&format!("taken {number}"))).await }
    };
    f.in_transaction(TAKES_KEYS, async || {
        // The first try of each waits in a group, and then it leaves the groups.
        for refused in join_all([late(0), late(1), late(2)]).await {
            assert!(matches!(refused, Err(StoreError::Locked { .. })), "{refused:?}");
        }
        f.enqueue(item("d")).await;
        let wanted = request(&["mail"], 5);
        let others = async {
            let (settled, claimed) = tokio::join!(f.store.settle(&plain, done()), f.store.claim(&wanted));
            settled.unwrap();
            assert_eq!(claimed.unwrap().claims.len(), 1);
        };
        let first_late = select_all([late(0), late(1), late(2)].map(Box::pin));
        let first = select(first_late, Box::pin(others)).await;
        assert!(matches!(first, Either::Right(_)), "a late settlement was answered first");
    })
    .await;
    let all_done = "SELECT count(*) = 4 FROM outbox.done";
    eventually("all are settled", SOON, async || {
        join_all([late(0), late(1), late(2)]).await;
        f.sql(all_done).unwrap() == "t"
    })
    .await;
}

#[tokio::test]
async fn a_claim_has_a_commit_of_its_own_beside_the_settlement_of_a_saga() {
    let f = Fixture::new(Backend::Postgres).await;
    f.enqueue(NewItem { saga: Some("s".into()), ..item("a") }).await;
    let claim = f.claim_one("mail").await;
    f.enqueue(item("b")).await;
    let (reference, wanted) = (claim.reference(), request(&["mail"], 5));
    let (settled, batch) = tokio::join!(f.store.settle(&reference, done()), f.store.claim(&wanted));
    settled.unwrap();
    assert_eq!(batch.unwrap().claims.len(), 1);
    assert_eq!(f.sql("SELECT (SELECT xmin FROM outbox.done) = (SELECT xmin FROM outbox.leases)").unwrap(), "f");
}

#[tokio::test]
async fn a_settlement_that_the_database_refuses_stops_neither_the_others_nor_a_claim() {
    let trigger = refuse_item_one("INSERT", "done", "NEW");
    let faults = [(trigger, "DROP TRIGGER own ON outbox.done")];
    for (fault, remedy) in faults {
        let f = Fixture::new(Backend::Postgres).await;
        for number in 0..9 {
            f.enqueue(item(&format!("k{number}"))).await;
        }
        let claims = f.claim("mail", 8).await;
        f.sql(&fault).unwrap();
        let settle = async |claim: &Claim| f.store.settle(&claim.reference(), done()).await;
        let wanted = request(&["mail"], 5);
        let (settled, batch) = tokio::join!(join_all(claims.iter().map(settle)), f.store.claim(&wanted));
        let refused: Vec<_> = settled.iter().map(Result::is_err).collect();
        assert_eq!(refused, claims.iter().map(|claim| claim.item.id.get() == 1).collect::<Vec<_>>());
        assert!(matches!(settled[0], Err(StoreError::Unavailable { .. })), "{:?}", settled[0]);
        assert_eq!(batch.unwrap().claims.len(), 1);
        f.sql(remedy).unwrap();
        assert_eq!(f.status(claims[0].item.id).await, Status::Claimed, "its lease is left to end");
        f.store.settle(&claims[0].reference(), done()).await.unwrap();
    }
}

#[tokio::test]
async fn a_type_that_cannot_be_claimed_stops_neither_settlements_nor_other_types() {
    let f = Fixture::new(Backend::Postgres).await;
    f.enqueue(NewItem::new("sms", "bad", "{}")).await;
    f.enqueue(item("a")).await;
    let claim = f.claim_one("mail").await;
    f.sql(&refuse_item_one("DELETE", "queue", "OLD")).unwrap();
    f.enqueue(item("b")).await;
    let (reference, wanted) = (claim.reference(), request(&["sms", "mail"], 5));
    let (settled, batch) = tokio::join!(f.store.settle(&reference, done()), f.store.claim(&wanted));
    settled.unwrap();
    let claimed: Vec<_> = batch.unwrap().claims.into_iter().map(|claim| claim.item.idem_key).collect();
    assert_eq!(claimed, ["b"]);
    f.sql("DROP TRIGGER own ON outbox.queue").unwrap();
    assert_eq!(f.claim("sms", 1).await.len(), 1);
}
