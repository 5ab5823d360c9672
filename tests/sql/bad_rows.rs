//! Rows that no statement of the host writes, in a SQLite file: they stop no other item.

use std::time::Duration;

use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{BatchMode, Claim, ClaimRequest};

use crate::support::{Fixture, done, item, ordered, request, retry, with_streaks};

fn keyed(idem_key: &str, ordering_key: &str) -> NewItem {
    NewItem { ordering_key: Some(ordering_key.into()), ..item(idem_key) }
}

/// The largest count that the schema allows.
const COUNT_MAX: u32 = 2_147_483_647;

fn without_end_of_retries(limit: u32) -> ClaimRequest {
    let mut request = request(&["mail"], limit);
    request.types.iter_mut().for_each(|terms| terms.max_retries = u32::MAX);
    request
}

#[tokio::test]
async fn an_item_whose_counts_are_at_their_limit_is_claimed_and_settled_with_the_others() {
    let f = Fixture::sqlite().await;
    let worn = f.enqueue(item("worn")).await;
    f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::from_millis(1))).await.unwrap();
    f.sql(&format!("UPDATE outbox_past SET attempts = {COUNT_MAX}, deliveries = {COUNT_MAX}")).unwrap();
    f.enqueue(item("other")).await;
    f.clock.advance(Duration::from_secs(1));
    let claims = f.store.claim(&without_end_of_retries(9)).await.unwrap().claims;
    assert_eq!(claims.len(), 2);
    for claim in &claims {
        f.store.settle(&claim.reference(), done()).await.unwrap();
    }
    let worn = f.item(worn).await;
    assert_eq!((worn.status, worn.attempts, worn.deliveries), (Status::Done, COUNT_MAX, COUNT_MAX));
}

#[tokio::test]
async fn an_id_without_an_item_leaves_an_expired_lease_and_the_others_are_pending_again() {
    let f = Fixture::sqlite().await;
    let id = f.enqueue(item("k")).await;
    f.claim_one("mail").await;
    f.sql("UPDATE outbox_leases SET ids = '[1,99]', count = 2, lease_until = 1").unwrap();
    assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 2);
    assert_eq!(f.status(id).await, Status::Pending);
    assert_eq!(f.sql("SELECT count(*) FROM outbox_leases").unwrap(), "0");
}

#[tokio::test]
async fn an_id_without_an_item_in_a_lease_frees_its_key_when_the_lease_ends() {
    let f = Fixture::sqlite().await;
    let ghost_in_front = |key: &str| {
        let lane = format!("UPDATE outbox_lanes SET id = 99 WHERE ordering_key = '{key}'");
        let lease = "UPDATE outbox_leases SET ids = json_insert(ids, '$[#]', 99), count = count + 1";
        f.sql(&format!("{lane}; UPDATE outbox_queue SET held = 1 WHERE ordering_key = '{key}'; {lease}")).unwrap();
    };
    f.enqueue(item("a")).await;
    let request = without_end_of_retries(1);
    f.store.claim(&request).await.unwrap();
    let abandoned = f.enqueue(keyed("abandoned", "k1")).await;
    ghost_in_front("k1");
    assert_eq!(f.store.abandon(&[request.types[0].token]).await.unwrap(), 1);
    assert_eq!(f.sql("SELECT count(*) FROM outbox_leases").unwrap(), "0");
    assert_eq!(f.claim("mail", 9).await.len(), 2, "a, and the item behind the id");
    assert_eq!(f.status(abandoned).await, Status::Claimed);

    let expired = f.enqueue(keyed("expired", "k2")).await;
    ghost_in_front("k2");
    f.sql("UPDATE outbox_leases SET lease_until = 1").unwrap();
    f.store.expire_leases(&[]).await.unwrap();
    assert_eq!(f.claim("mail", 9).await.len(), 3);
    assert_eq!(f.status(expired).await, Status::Claimed);
}

#[tokio::test]
async fn an_item_whose_deliveries_are_at_their_limit_fails_as_often_as_the_others() {
    let f = Fixture::sqlite().await;
    let worn = f.enqueue(item("worn")).await;
    for _ in 0..3 {
        let claims = f.store.claim(&without_end_of_retries(9)).await.unwrap().claims;
        f.store.settle(&claims[0].reference(), retry(Duration::from_millis(1))).await.unwrap();
        f.sql(&format!("UPDATE outbox_past SET attempts = {COUNT_MAX}, deliveries = {COUNT_MAX}")).unwrap();
        f.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(f.status(worn).await, Status::Pending);
    let history = "SELECT group_concat(delivery) FROM outbox_attempts";
    assert_eq!(f.sql(history).unwrap(), format!("1,{COUNT_MAX}"));
}

#[tokio::test]
async fn an_item_whose_lease_cannot_be_ended_holds_up_no_other() {
    let f = Fixture::sqlite().await;
    let (bad, beside) = (f.enqueue(item("bad")).await, f.enqueue(item("beside")).await);
    assert_eq!(f.claim("mail", 2).await.len(), 2);
    f.clock.advance(Duration::from_secs(1));
    let later = f.enqueue(item("later")).await;
    f.claim_one("mail").await;
    f.sql(&format!(
        "CREATE TRIGGER own BEFORE INSERT ON outbox_attempts WHEN NEW.item_id = {bad}
         BEGIN SELECT RAISE(ABORT, 'a bad row'); END;
         UPDATE outbox_leases SET lease_until = 1"
    ))
    .unwrap();
    assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 2);
    assert_eq!([f.status(beside).await, f.status(later).await], [Status::Pending; 2]);
    assert_eq!(f.status(bad).await, Status::Claimed);
    f.sql("DROP TRIGGER own").unwrap();
    assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_key_or_a_saga_that_is_no_text_stops_no_claim_of_its_type() {
    let f = Fixture::sqlite().await;
    f.sql(
        "PRAGMA ignore_check_constraints = ON;
         INSERT INTO outbox_items (type, idem_key, payload, ordering_key) VALUES
             ('mail', 'first', '', CAST(x'6b00ff' AS TEXT)), ('mail', 'second', '', CAST(x'6b00ff' AS TEXT));
         INSERT INTO outbox_items (type, idem_key, payload, saga) VALUES ('mail', 'saga', '', CAST(x'6b00ff' AS TEXT))",
    )
    .unwrap();
    let sound = f.enqueue(item("sound")).await;
    assert_eq!(f.claim("mail", 9).await.len(), 1);
    assert_eq!(f.status(sound).await, Status::Claimed);
    let dead = "SELECT group_concat(idem_key) FROM outbox_status WHERE status = 'DLQ'";
    assert_eq!(f.sql(dead).unwrap(), "first,second,saga");
}

/// A trigger that refuses this statement on an item of a table.
fn refuse(id: ItemId, event: &str, table: &str, row: &str) -> String {
    format!(
        "CREATE TRIGGER own BEFORE {event} ON {table} WHEN {row}.id = {id} BEGIN SELECT RAISE(ABORT, 'a bad row'); END"
    )
}

async fn keys_of_claims(f: &Fixture, types: &[&str]) -> Vec<String> {
    let claims = f.store.claim(&request(types, 9)).await.unwrap().claims;
    let mut keys: Vec<_> = claims.into_iter().map(|claim| claim.item.idem_key).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_row_that_makes_a_claim_fail_stops_neither_its_type_nor_others_and_is_tried_again_later() {
    for (has_past, is_suspect) in [(false, false), (true, false), (true, true)] {
        let f = Fixture::sqlite().await;
        let bad = f.enqueue(item("bad")).await;
        if has_past {
            f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::from_millis(1))).await.unwrap();
        }
        if is_suspect {
            f.sql("UPDATE outbox_past SET losses = 1; UPDATE outbox_queue SET losses = 1").unwrap();
        }
        f.enqueue(item("beside")).await;
        f.enqueue(NewItem::new("sms", "other", "{}")).await;
        // The first refuses the claim; the second what it writes of an item that was claimed before.
        let fault = if has_past { ("UPDATE", "outbox_past", "NEW") } else { ("INSERT", "outbox_leases", "1") };
        let trigger = match fault {
            (event, table, "NEW") => refuse(bad, event, table, "NEW"),
            (event, table, _) => format!(
                "CREATE TRIGGER own BEFORE {event} ON {table}
                 WHEN EXISTS (SELECT 1 FROM json_each(NEW.ids) WHERE value = {bad})
                 BEGIN SELECT RAISE(ABORT, 'a bad row'); END"
            ),
        };
        f.sql(&trigger).unwrap();
        f.clock.advance(Duration::from_secs(1));
        assert_eq!(keys_of_claims(&f, &["mail", "sms"]).await, ["beside", "other"], "{has_past} {is_suspect}");
        assert_eq!(f.status(bad).await, Status::Pending);
        f.enqueue(item("later")).await;
        assert_eq!(keys_of_claims(&f, &["mail", "sms"]).await, ["later"], "the bad one waits");
        f.sql("DROP TRIGGER own").unwrap();
        f.clock.advance(Duration::from_mins(1));
        assert_eq!(keys_of_claims(&f, &["mail"]).await, ["bad"]);
    }
}

#[tokio::test]
async fn a_bad_row_behind_the_front_of_its_key_does_not_stop_the_front() {
    let f = Fixture::sqlite().await;
    f.enqueue(ordered("front")).await;
    let bad = f.enqueue(ordered("bad")).await;
    f.sql(&refuse(bad, "DELETE", "outbox_queue", "OLD")).unwrap();
    let claims = f.store.claim(&with_streaks(request(&["mail"], 9), 9)).await.unwrap().claims;
    assert_eq!(claims.iter().map(|claim| claim.item.idem_key.as_str()).collect::<Vec<_>>(), ["front"]);
}

#[tokio::test]
async fn a_claim_that_fails_takes_along_no_settlement_and_no_new_item_of_its_commit() {
    let f = Fixture::sqlite().await;
    let [finished, failed] = [f.enqueue(item("finished")).await, f.enqueue(item("failed")).await];
    let claims = f.claim("mail", 2).await;
    let waiting = f.enqueue(item("waiting")).await;
    // No lease can be written, and no item can be set aside: the claim fails as a whole.
    let refuses = "BEGIN SELECT RAISE(ABORT, 'a bad table'); END";
    f.sql(&format!(
        "CREATE TRIGGER own_lease BEFORE INSERT ON outbox_leases {refuses};
                    CREATE TRIGGER own_queue BEFORE UPDATE ON outbox_queue {refuses}"
    ))
    .unwrap();
    let settle = |claim: &Claim, how| {
        let (store, reference) = (f.store.clone(), claim.reference());
        tokio::spawn(async move { store.settle(&reference, how).await })
    };
    let (store, enqueues) = (f.store.clone(), f.store.clone());
    let mut begun = None;
    // The writer waits for the application's commit. What is asked for meanwhile is one group.
    f.in_transaction("CREATE TABLE own (id INTEGER)", async || {
        let first = tokio::spawn(async move { enqueues.enqueue(vec![item("first")], BatchMode::PerItem).await });
        // The writer takes the first request by itself.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let claim = tokio::spawn(async move { store.claim(&request(&["mail"], 9)).await });
        let settled = [settle(&claims[0], done()), settle(&claims[1], retry(Duration::from_mins(1)))];
        tokio::task::yield_now().await;
        begun = Some((first, claim, settled));
    })
    .await;
    let (first, claim, settled) = begun.unwrap();
    assert!(claim.await.unwrap().unwrap_err().to_string().contains("claiming items"));
    for settled in settled {
        settled.await.unwrap().unwrap();
    }
    first.await.unwrap().unwrap();
    f.sql("DROP TRIGGER own_lease; DROP TRIGGER own_queue").unwrap();
    assert_eq!((f.status(finished).await, f.item(failed).await.attempts), (Status::Done, 1));
    assert_eq!([f.status(failed).await, f.status(waiting).await], [Status::Pending; 2]);
    assert_eq!(f.claim("mail", 9).await.len(), 2, "the one that waited, and the new one");
}
