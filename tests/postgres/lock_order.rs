//! The order in which transactions wait for locks: lines of ordering keys, places of items, sagas. A client of the
//! database takes the part of a host that holds a lock, or of an application that deletes an item.

use std::time::Duration;

use futures_util::future::join_all;
use outbox::item::{ItemId, NewItem};
use outbox::store::{Action, Claim, EffectKeys, Execution, OperateRequest, Selection};
use tokio_postgres::Client;

use crate::support::{Backend, Fixture, TestDb, dead, done, eventually, item, ordered, retry};

/// The limit for every expected event; it allows for a busy machine.
const SOON: Duration = Duration::from_mins(1);

/// What holds the line of the key `k` until its transaction ends.
const HOLD_LINE: &str = "SELECT pg_advisory_xact_lock(7206002, hashtext('k'))";

async fn connect(f: &Fixture) -> Client {
    let TestDb::Postgres(database) = &f.test_db else { panic!("a test of PostgreSQL") };
    database.connect().await
}

/// Waits until a statement of another client waits for a lock of this kind.
async fn waits(f: &Fixture, kind: &str, statement: &str) {
    let found = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
         AND wait_event = '{kind}' AND query LIKE '{statement}%'"
    );
    eventually("it waits", SOON, async || f.sql(&found).unwrap() == "1").await;
}

/// A dead item that blocks the key `k`, and is a step of a saga.
async fn blocking(f: &Fixture) -> ItemId {
    let id = f.enqueue(NewItem { saga: Some("S".into()), cid: Some("c".into()), ..ordered("a") }).await;
    f.enqueue(ordered("behind")).await;
    f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
    id
}

#[tokio::test]
async fn an_application_that_deletes_a_blocking_item_waits_for_its_line_before_it_holds_anything_else() {
    let f = Fixture::new(Backend::Postgres).await;
    let id = blocking(&f).await;
    let (host, application) = (connect(&f).await, connect(&f).await);
    host.batch_execute(&format!("BEGIN; {HOLD_LINE}")).await.unwrap();
    let delete = format!("DELETE FROM outbox.items WHERE id = {id}");
    let deleting = tokio::spawn(async move { application.batch_execute(&delete).await });
    waits(&f, "advisory", "DELETE").await;
    let next = format!(
        "SELECT 1 FROM outbox.dead WHERE id = {id} FOR UPDATE NOWAIT; SELECT 1 FROM outbox.sagas FOR UPDATE NOWAIT"
    );
    host.batch_execute(&next).await.expect("whoever has the line waits for nothing of the deletion");
    host.batch_execute("COMMIT").await.unwrap();
    deleting.await.unwrap().unwrap();
    assert_eq!(f.claim_one("mail").await.item.idem_key, "behind");
}

#[tokio::test]
async fn an_application_that_deletes_an_item_waits_for_its_place_before_it_holds_its_saga() {
    let f = Fixture::new(Backend::Postgres).await;
    let id = blocking(&f).await;
    f.sql("UPDATE outbox.dead SET blocks_key = false").unwrap();
    let (host, application) = (connect(&f).await, connect(&f).await);
    host.batch_execute(&format!("BEGIN; SELECT 1 FROM outbox.dead WHERE id = {id} FOR UPDATE")).await.unwrap();
    let delete = format!("DELETE FROM outbox.items WHERE id = {id}");
    let deleting = tokio::spawn(async move { application.batch_execute(&delete).await });
    waits(&f, "transactionid", "DELETE").await;
    host.batch_execute("SELECT 1 FROM outbox.sagas FOR UPDATE NOWAIT").await.expect("the saga is free");
    host.batch_execute("COMMIT").await.unwrap();
    deleting.await.unwrap().unwrap();
    f.sql(
        "INSERT INTO outbox.lanes (ordering_key, id, turn) SELECT ordering_key, id, turn FROM outbox.queue
           ON CONFLICT (ordering_key) DO UPDATE SET id = excluded.id, turn = excluded.turn",
    )
    .unwrap();
}

#[tokio::test]
async fn an_operator_waits_for_no_row_of_an_item_that_an_application_is_deleting() {
    let f = Fixture::new(Backend::Postgres).await;
    let id = blocking(&f).await;
    let application = connect(&f).await;
    application.batch_execute(&format!("BEGIN; SELECT 1 FROM outbox.items WHERE id = {id} FOR UPDATE")).await.unwrap();
    let replay = OperateRequest {
        action: Action::Replay { keys: EffectKeys::Same },
        selection: Selection::Ids(vec![id]),
        actor: "ada@host".into(),
        reason: None,
        execution: Execution::Apply,
    };
    assert_eq!(f.store.operate(&replay).await.unwrap().changed, 1);
    let refused = application.batch_execute(&format!("DELETE FROM outbox.items WHERE id = {id}")).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("not finished"), "{refused:?}");
}

#[tokio::test]
async fn an_expiry_that_meets_an_id_without_an_item_waits_for_no_line() {
    let f = Fixture::new(Backend::Postgres).await;
    let id = f.enqueue(ordered("gone")).await;
    f.claim_one("mail").await;
    f.enqueue(item("beside")).await;
    f.claim_one("mail").await;
    f.enqueue(ordered("behind")).await;
    f.sql(&format!(
        "ALTER TABLE outbox.items DISABLE TRIGGER items_deleted; DELETE FROM outbox.items WHERE id = {id};
         ALTER TABLE outbox.items ENABLE TRIGGER items_deleted"
    ))
    .unwrap();
    f.clock.advance(Duration::from_mins(2));
    let host = connect(&f).await;
    host.batch_execute(&format!("BEGIN; {HOLD_LINE}")).await.unwrap();
    assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 1, "the item beside it");
    assert_eq!(f.sql("SELECT ids FROM outbox.leases").unwrap(), format!("{{{id}}}"), "the id stays in its lease");
    host.batch_execute("COMMIT").await.unwrap();
    f.store.expire_leases(&[]).await.unwrap();
    assert_eq!(f.sql("SELECT count(*) FROM outbox.leases").unwrap(), "0");
    assert_eq!(f.claim("mail", 9).await.len(), 2, "the key is free");
}

/// A third transaction holds the lease that comes first, until both processes wait for it. Neither may have the other
/// lease then, for which the one could wait that gets the first.
#[tokio::test]
async fn two_processes_that_settle_parts_of_the_same_leases_wait_for_them_in_one_order() {
    let f = Fixture::new(Backend::Postgres).await;
    let other = f.another().await;
    // A group that waits for a tenth of a second is divided, as a rule.
    f.sql("ALTER FUNCTION outbox.lock_leases SET lock_timeout = '1min'").unwrap();
    for number in 0..8 {
        f.enqueue(item(&number.to_string())).await;
    }
    let mut leases = [f.claim("mail", 4).await, f.claim("mail", 4).await];
    leases.sort_by_key(|claims| claims[0].token);
    let [first, second] = &leases;
    let lock = |claim: &Claim| format!("SELECT 1 FROM outbox.leases WHERE token = {} FOR UPDATE", claim.token);
    let third = connect(&f).await;
    third.batch_execute(&format!("BEGIN; {}", lock(&first[0]))).await.unwrap();
    let settle = async |process: &Fixture, claim: &Claim, is_done: bool| {
        let end = if is_done { done() } else { retry(Duration::from_hours(1)) };
        process.store.settle(&claim.reference(), end).await.unwrap();
    };
    // Each process completes items of one lease and fails those of the other, in the same group.
    let of_one = [(&second[0], true), (&first[0], false), (&second[1], true), (&first[1], false)];
    let of_other = [(&first[2], true), (&second[2], false), (&first[3], true), (&second[3], false)];
    let one = join_all(of_one.map(|(claim, is_done)| settle(&f, claim, is_done)));
    let two = join_all(of_other.map(|(claim, is_done)| settle(&other, claim, is_done)));
    let let_go = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("both wait", SOON, async || f.sql(waiting).unwrap() == "2").await;
        third.batch_execute(&format!("{} NOWAIT", lock(&second[0]))).await.expect("the second lease is free");
        third.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(one, two, let_go);
    assert_eq!(f.sql("SELECT count(*) FROM outbox.done").unwrap(), "4");
}

#[tokio::test]
async fn workers_read_what_others_committed_whatever_isolation_the_database_prefers() {
    let TestDb::Postgres(database) = TestDb::new(Backend::Postgres) else { panic!("a test of PostgreSQL") };
    database
        .sql(&format!("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'", database.name()))
        .unwrap();
    let f = Fixture::on(TestDb::Postgres(database)).await;
    f.sql(
        "CREATE TABLE public.seen (level text);
         CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES (current_setting('transaction_isolation')); RETURN NULL; END $$;
         CREATE TRIGGER own AFTER INSERT OR DELETE ON outbox.leases EXECUTE FUNCTION public.see();
         CREATE TRIGGER own AFTER INSERT ON outbox.done EXECUTE FUNCTION public.see();
         CREATE TRIGGER own AFTER INSERT ON outbox.dead EXECUTE FUNCTION public.see()",
    )
    .unwrap();
    for (key, end) in [("a", done()), ("b", dead())] {
        f.enqueue(ordered(key)).await;
        f.store.settle(&f.claim_one("mail").await.reference(), end).await.unwrap();
    }
    assert_eq!(f.sql("SELECT DISTINCT level FROM public.seen").unwrap(), "read committed");
}

#[tokio::test]
async fn an_item_that_is_deleted_before_its_enqueue_is_committed_blocks_no_key() {
    let f = Fixture::new(Backend::Postgres).await;
    let refused = f.sql(
        "BEGIN;
         INSERT INTO outbox.items (type, idem_key, payload, ordering_key) VALUES ('mail', 'gone', '', 'k');
         DELETE FROM outbox.items WHERE idem_key = 'gone';
         COMMIT",
    );
    assert!(refused.unwrap_err().contains("not finished"));
    f.enqueue(ordered("next")).await;
    assert_eq!(f.claim_one("mail").await.item.idem_key, "next");
}
