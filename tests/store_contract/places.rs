//! The check that ends every test of a store finds what it is for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use outbox::item::NewItem;

use crate::support::{Fixture, dead, done, item, ordered, retry};

promises! {
    a_contradiction_between_the_tables_is_named
    a_test_that_leaves_an_item_in_two_places_fails
}

/// The tables whose rows follow from each other.
const TABLES: [&str; 7] = ["queue", "leases", "done", "dead", "past", "lanes", "saga_open"];

/// Items in every place: 1 is DONE, 2 is CLAIMED, 3 waits behind it, 4 blocks its key, 5 waits for a retry, 6 is the
/// only one of its key, and 7 is an unfinished step of a saga.
async fn furnish(f: &Fixture) {
    f.enqueue(item("done")).await;
    f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
    f.enqueue(ordered("claimed")).await;
    f.claim_one("mail").await;
    f.enqueue(ordered("behind")).await;
    f.enqueue(NewItem { ordering_key: Some("dead".into()), ..item("dead") }).await;
    f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
    f.enqueue(item("retry")).await;
    f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::from_secs(9))).await.unwrap();
    f.enqueue(NewItem { ordering_key: Some("single".into()), ..item("single") }).await;
    f.enqueue(NewItem { saga: Some("S".into()), cid: Some("c".into()), ..item("step") }).await;
}

/// Statements that plant a fault among the items of [`furnish`], each with words of the sentence that names it.
const PLANTED: [(&str, &str); 15] = [
    ("INSERT INTO outbox_done (id, done_at, epoch) VALUES (6, 1, 0)", "item 6 is in 2 places"),
    ("DELETE FROM outbox_queue WHERE id = 6", "item 6 is in 0 places"),
    ("UPDATE outbox_done SET id = 99", "no item has the id 99, which is in done"),
    ("DELETE FROM outbox_lanes WHERE ordering_key = 'k'", "item 2 is claimed and its key k is not"),
    ("UPDATE outbox_lanes SET id = 3 WHERE ordering_key = 'k'", "item 2 is claimed and neither in front of its key k"),
    ("UPDATE outbox_lanes SET id = 1 WHERE ordering_key = 'dead'", "the lane of key dead belongs to item 1"),
    ("UPDATE outbox_dead SET blocks_key = (1 = 0)", "the lane of key dead belongs to item 4"),
    ("DELETE FROM outbox_lanes WHERE ordering_key = 'dead'", "dead item 4 blocks the key dead, which has no lane"),
    ("UPDATE outbox_queue SET held = (1 = 1) WHERE id = 6", "item 6 is held and nothing of the key single"),
    ("DELETE FROM outbox_saga_open", "item 7 is unfinished and not open in its saga S"),
    ("UPDATE outbox_saga_open SET id = 1", "item 1 is open in the saga S and not unfinished there"),
    ("UPDATE outbox_queue SET again = (1 = 0) WHERE id = 5", "wrong about whether item 5 has a past"),
    ("UPDATE outbox_queue SET losses = 3 WHERE id = 5", "wrong about the losses of item 5"),
    ("UPDATE outbox_past SET id = 99 WHERE id = 5", "there is a past of item 99"),
    ("UPDATE outbox_dead SET last_error = 'another'", "dead item 4 has another last error than its past"),
];

/// Runs one statement for each of [`TABLES`].
fn for_each_table(f: &Fixture, statement: impl Fn(&str) -> String) {
    f.sql(&TABLES.map(statement).join("; ")).unwrap();
}

mod promise {
    use super::*;

    pub(super) async fn a_contradiction_between_the_tables_is_named(f: Fixture) {
        furnish(&f).await;
        for_each_table(&f, |table| format!("CREATE TABLE kept_{table} AS SELECT * FROM outbox_{table}"));
        assert_eq!(f.test_db.faults(), [""; 0]);
        for (fault, words) in PLANTED {
            f.sql(fault).unwrap();
            let named = f.test_db.faults();
            assert!(named.iter().any(|sentence| sentence.contains(words)), "{fault}: {named:?}");
            for_each_table(&f, |table| {
                format!("DELETE FROM outbox_{table}; INSERT INTO outbox_{table} SELECT * FROM kept_{table}")
            });
            assert_eq!(f.test_db.faults(), [""; 0], "after the repair of {fault}");
        }
    }

    pub(super) async fn a_test_that_leaves_an_item_in_two_places_fails(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        f.sql(&format!("INSERT INTO outbox_done (id, done_at, epoch) VALUES ({id}, 1, 0)")).unwrap();
        let ended = catch_unwind(AssertUnwindSafe(|| drop(f)));
        assert!(ended.unwrap_err().downcast_ref::<String>().unwrap().contains("item 1 is in 2 places"));
    }
}
