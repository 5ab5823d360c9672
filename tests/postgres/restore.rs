//! Items that are written after the rows that say what became of them, as a restore of the data alone writes them: an
//! item that is finished does not go into the queue.

use std::time::Duration;

use outbox::item::NewItem;

use crate::support::{Backend, Fixture, dead, done, item, ordered};

/// The tables that are restored, in the order in which their rows are written: items come last.
const RESTORED: [&str; 5] = ["past", "sagas", "done", "dead", "items"];

/// The tables whose rows follow from the others.
const DERIVED: [&str; 3] = ["queue", "lanes", "saga_open"];

fn keyed(key: &str) -> NewItem {
    NewItem { ordering_key: Some(key.into()), ..item(key) }
}

fn step(key: &str) -> NewItem {
    NewItem { saga: Some("S".into()), cid: Some("c".into()), ..item(key) }
}

/// Items that are DONE or dead: alone, with an ordering key, and in a saga. Three others wait: one that was lost once,
/// one behind a dead item, and an unfinished step of the saga.
async fn furnish(f: &Fixture) {
    let finished = [
        (item("done"), done()),
        (keyed("done, keyed"), done()),
        (NewItem { ordering_key: Some("step".into()), ..step("done, a step") }, done()),
        (step("dead, a step"), dead()),
        (ordered("dead, keyed"), dead()),
    ];
    for (new, end) in finished {
        f.enqueue(new).await;
        f.store.settle(&f.claim_one("mail").await.reference(), end).await.unwrap();
    }
    f.enqueue(keyed("lost")).await;
    f.claim_one("mail").await;
    f.clock.advance(Duration::from_mins(2));
    assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 1);
    f.enqueue(ordered("behind")).await;
    f.enqueue(step("waiting, a step")).await;
}

/// Runs these statements of each table, each table in a transaction of its own.
fn for_each(f: &Fixture, tables: &[&str], statements: &str) {
    for table in tables {
        f.sql(&statements.replace("{}", table)).unwrap();
    }
}

#[tokio::test]
async fn an_item_that_is_restored_after_its_place_stays_finished_and_the_others_wait() {
    let f = Fixture::new(Backend::Postgres).await;
    furnish(&f).await;
    let statuses = || f.sql("SELECT idem_key, status, losses, deliveries FROM outbox.status ORDER BY id").unwrap();
    let open = || f.sql("SELECT id FROM outbox.saga_open").unwrap();
    let before = (statuses(), open());
    for_each(&f, &RESTORED, "CREATE TABLE kept_{} AS SELECT * FROM outbox.{}");
    for_each(&f, &[&RESTORED[..], &DERIVED].concat(), "TRUNCATE outbox.{}");
    for_each(&f, &RESTORED, "INSERT INTO outbox.{} SELECT * FROM kept_{}");
    assert_eq!((statuses(), open()), before);
    let waiting = "SELECT item.idem_key FROM outbox.queue JOIN outbox.items AS item USING (id) ORDER BY id";
    assert_eq!(f.sql(waiting).unwrap(), "lost\nbehind\nwaiting, a step");
    let lost = f.claim_one("mail").await.item;
    assert_eq!((lost.idem_key.as_str(), lost.losses, lost.deliveries), ("lost", 1, 2), "a suspect comes first");
    let claims = f.claim("mail", 9).await;
    let keys: Vec<_> = claims.iter().map(|claim| claim.item.idem_key.as_str()).collect();
    assert_eq!(keys, ["waiting, a step"], "the dead item blocks its key");
}

/// An item with an ordering key gets into the queue when its transaction commits, which is after it was finished here.
#[tokio::test]
async fn an_item_that_is_written_and_finished_in_one_transaction_is_not_queued_at_its_commit() {
    let f = Fixture::new(Backend::Postgres).await;
    let insert = "INSERT INTO outbox.items (id, type, idem_key, payload, ordering_key) VALUES";
    f.sql(&format!(
        "BEGIN;
         {insert} (1, 'mail', 'done', '', 'done'), (2, 'mail', 'dead', '', 'k');
         INSERT INTO outbox.done (id, done_at, epoch, turn) VALUES (1, 1, 0, 1);
         INSERT INTO outbox.dead (id, dead_at, epoch, type, turn, ordering_key) VALUES (2, 1, 0, 'mail', 2, 'k');
         COMMIT"
    ))
    .unwrap();
    assert_eq!(f.sql("SELECT count(*) FROM outbox.queue").unwrap(), "0");
    assert!(f.claim("mail", 9).await.is_empty());
    f.sql("SELECT setval('outbox.items_id_seq', 2)").unwrap();
    f.enqueue(ordered("next")).await;
    assert_eq!(f.claim_one("mail").await.item.idem_key, "next");
}
