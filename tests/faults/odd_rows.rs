//! Rows that no statement of the host writes, on each engine: they stop nothing but themselves.

use std::time::Duration;

use outbox::item::{NewItem, Status};
use outbox::store::{Action, ClaimRequest, EffectKeys, Execution, Filter, OperateRequest, Selection, StuckQuery};

use crate::support::places::ALL_DONE;
use crate::support::{
    Backend, Fixture, START, all, dead, done, item, on_each_backend, ordered, request, retry, with_streaks,
};

on_each_backend! {
    a_count_that_the_host_cannot_hold_is_refused_by_the_schema
    an_item_whose_counts_are_at_their_limit_stops_no_claim_no_listing_and_no_expiry
    a_text_with_the_character_nul_is_refused_by_the_schema
    a_total_below_zero_is_shown_as_zero
    a_claim_of_the_future_by_a_process_that_is_gone_is_stuck
    an_id_without_an_item_leaves_the_queue_and_frees_its_key
    ids_without_an_item_hold_up_no_suspect_no_fairness_key_and_no_streak
}

/// The columns of `outbox_past` that count.
const COUNTS: [&str; 6] = ["attempts", "deliveries", "losses", "replays", "effects", "give_backs"];

/// The largest count that the schema allows.
const COUNT_MAX: u32 = 2_147_483_647;

/// The columns of text that callers give.
const TEXTS: [&str; 7] = ["idem_key", "type", "content_type", "cid", "saga", "ordering_key", "fairness_key"];

/// Deletes the items whose keys begin with `gone` from `outbox_items`, and leaves them in the queue.
fn delete_behind_the_guards(f: &Fixture) {
    let (before, after) = match f.backend() {
        Backend::Sqlite => ("DROP TRIGGER outbox_items_delete", "SELECT 1"),
        Backend::Postgres => (
            "ALTER TABLE outbox_items DISABLE TRIGGER items_deleted",
            "ALTER TABLE outbox_items ENABLE TRIGGER items_deleted",
        ),
    };
    f.sql(&format!(
        "{before}; DELETE FROM outbox_items WHERE idem_key LIKE 'gone%'; {after};
         DELETE FROM outbox_past WHERE id NOT IN (SELECT id FROM outbox_items)"
    ))
    .unwrap();
}

/// A claim of nine items that dead-letters none for its attempts.
fn without_end_of_retries() -> ClaimRequest {
    let mut request = request(&["mail"], 9);
    request.types.iter_mut().for_each(|terms| terms.max_retries = u32::MAX);
    request
}

async fn keys_of_claims(f: &Fixture) -> Vec<String> {
    f.clock.advance(Duration::from_secs(1));
    let claims = f.store.claim(&without_end_of_retries()).await.unwrap().claims;
    let mut keys: Vec<_> = claims.into_iter().map(|claim| claim.item.idem_key).collect();
    keys.sort();
    keys
}

/// An insert of an item that has `value`, an SQL expression, in this column.
fn insert_with(column: &str, value: &str) -> String {
    let (key, value) = (format!("'{column}'"), value.to_owned());
    let mut row = vec![("type", "'mail'".into()), ("idem_key", key), ("payload", "'{}'".into())];
    row.retain(|(name, _)| *name != column);
    row.push((column, value));
    let (names, values): (Vec<_>, Vec<_>) = row.into_iter().unzip();
    format!("INSERT INTO outbox_items ({}) VALUES ({})", names.join(", "), values.join(", "))
}

fn on(selection: Selection, action: Action) -> OperateRequest {
    OperateRequest {
        action,
        selection,
        actor: "ada@host".into(),
        reason: Some("room".into()),
        execution: Execution::Apply,
    }
}

mod on_each {
    use super::*;

    pub(super) async fn a_count_that_the_host_cannot_hold_is_refused_by_the_schema(backend: Backend) {
        let f = Fixture::new(backend).await;
        f.enqueue(item("k")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::from_millis(1))).await.unwrap();
        for column in COUNTS {
            for count in ["5000000000", "-1"] {
                let planted = f.sql(&format!("UPDATE outbox_past SET {column} = {count}"));
                assert!(planted.is_err(), "{column} = {count} was accepted");
            }
        }
        assert_eq!(keys_of_claims(&f).await, ["k"]);
    }

    pub(super) async fn an_item_whose_counts_are_at_their_limit_stops_no_claim_no_listing_and_no_expiry(
        backend: Backend,
    ) {
        let f = Fixture::new(backend).await;
        let worn = f.enqueue(item("worn")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::from_millis(1))).await.unwrap();
        // The number of losses decides whether the item is claimed.
        let counts = COUNTS.iter().filter(|column| **column != "losses");
        let limits = counts.map(|column| format!("{column} = {COUNT_MAX}")).collect::<Vec<_>>().join(", ");
        f.sql(&format!("UPDATE outbox_past SET {limits}")).unwrap();
        let good = f.enqueue(item("good")).await;
        for _ in 0..2 {
            assert_eq!(keys_of_claims(&f).await, ["good", "worn"]);
            f.clock.advance(Duration::from_mins(2));
            assert_eq!(f.store.expire_leases(&[]).await.unwrap(), 2);
        }
        assert_eq!(all(&*f.store).await.len(), 2);
        f.clock.advance(Duration::from_secs(1));
        for claim in f.store.claim(&without_end_of_retries()).await.unwrap().claims {
            let settlement = if claim.item.id == worn { dead() } else { done() };
            f.store.settle(&claim.reference(), settlement).await.unwrap();
        }
        assert_eq!((f.status(worn).await, f.status(good).await), (Status::Dlq, Status::Done));
        let replay = on(Selection::Ids(vec![worn]), Action::Replay { keys: EffectKeys::New });
        assert_eq!(f.store.operate(&replay).await.unwrap().changed, 1);
        let again = f.item(worn).await;
        assert_eq!((again.status, again.attempts, again.deliveries), (Status::Pending, 0, COUNT_MAX));
        f.store.stuck(&StuckQuery::default()).await.unwrap();
        assert_eq!(f.store.overview().await.unwrap().by_status["PENDING"], 1);
    }

    pub(super) async fn a_text_with_the_character_nul_is_refused_by_the_schema(backend: Backend) {
        let f = Fixture::new(backend).await;
        let nul = if backend == Backend::Sqlite { "char(0)" } else { "chr(0)" };
        for column in TEXTS {
            let planted = f.sql(&insert_with(column, &format!("'a' || {nul} || '1'")));
            let why = planted.expect_err(column);
            assert!(why.contains("CHECK constraint failed") || why.contains("null character"), "{column}: {why}");
            f.sql(&insert_with(column, "'a' || '1'")).unwrap();
        }
        assert_eq!(all(&*f.store).await.len(), TEXTS.len());
    }

    pub(super) async fn a_total_below_zero_is_shown_as_zero(backend: Backend) {
        let f = Fixture::new(backend).await;
        f.enqueue(item("handled")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        for key in ["a", "b", "c"] {
            f.enqueue(item(key)).await;
        }
        // Items that became DONE without being counted.
        f.sql(ALL_DONE).unwrap();
        let finished = Selection::Filter(Filter { status: vec![Status::Done], ..Filter::default() });
        assert_eq!(f.store.operate(&on(finished, Action::Purge)).await.unwrap().changed, 4);
        let total = f.store.overview().await.expect("the totals are shown").by_status.get("DONE").copied();
        assert_eq!(total.unwrap_or_default(), 0);
    }

    pub(super) async fn a_claim_of_the_future_by_a_process_that_is_gone_is_stuck(backend: Backend) {
        let f = Fixture::new(backend).await;
        let id = f.enqueue(item("k")).await;
        let far = START.get() + 10 * 365 * 86_400_000;
        let ids = if backend == Backend::Sqlite { format!("[{id}]") } else { format!("{{{id}}}") };
        f.sql(&format!(
            "INSERT INTO outbox_leases (token, type, pod, claimed_at, lease_until, epoch, count, ids)
             VALUES (7, 'mail', 'gone-pod', {far} - 60000, {far}, 0, 1, '{ids}');
             DELETE FROM outbox_queue WHERE id = {id}"
        ))
        .unwrap();
        let stuck = f.store.stuck(&StuckQuery::default()).await.unwrap();
        let entry = stuck.iter().find(|entry| entry.item == Some(id)).expect("the claim is reported");
        assert!(entry.why.contains("gone-pod") && entry.command.contains("release"), "{entry:?}");
    }

    pub(super) async fn an_id_without_an_item_leaves_the_queue_and_frees_its_key(backend: Backend) {
        let f = Fixture::new(backend).await;
        let (turn, first) = if backend == Backend::Sqlite { ("", "") } else { (", turn", ", 0") };
        f.sql(&format!(
            "INSERT INTO outbox_queue (id, type, available_at, ordering_key{turn}) VALUES (98, 'mail', 0, 'k'{first});
             INSERT INTO outbox_lanes (ordering_key, id{turn}) VALUES ('k', 98{first});
             INSERT INTO outbox_queue (id, type, available_at) VALUES (99, 'mail', 0)"
        ))
        .unwrap();
        let [behind, beside] = [f.enqueue(ordered("behind")).await, f.enqueue(item("beside")).await];
        let mut claimed = Vec::new();
        for _ in 0..2 {
            claimed.extend(f.claim("mail", 9).await);
        }
        let mut ids: Vec<_> = claimed.iter().map(|claim| claim.item.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [behind, beside]);
        assert_eq!(f.sql("SELECT count(*) FROM outbox_queue").unwrap(), "0");
        for claim in claimed {
            f.store.settle(&claim.reference(), done()).await.unwrap();
        }
        assert_eq!(f.sql("SELECT count(*) FROM outbox_leases").unwrap(), "0", "no lease has the ids");
    }

    pub(super) async fn ids_without_an_item_hold_up_no_suspect_no_fairness_key_and_no_streak(backend: Backend) {
        let f = Fixture::new(backend).await;
        let shared = |key: &str| NewItem { fairness_key: Some("acme".into()), ..item(key) };
        let suspects = [f.enqueue(item("gone, lost")).await, f.enqueue(item("lost")).await];
        for (id, losses) in suspects.into_iter().zip([4, 3]) {
            f.sql(&format!(
                "INSERT INTO outbox_past (id, attempts, deliveries, losses) VALUES ({id}, 0, {losses}, {losses});
                 UPDATE outbox_queue SET again = (1 = 1), losses = {losses} WHERE id = {id}"
            ))
            .unwrap();
        }
        for new in [shared("gone, shared"), shared("shared"), item("gone"), item("beside")] {
            f.enqueue(new).await;
        }
        for key in ["front", "gone in a line", "behind"] {
            f.enqueue(ordered(key)).await;
        }
        delete_behind_the_guards(&f);
        let mut handled = Vec::new();
        for _ in 0..4 {
            let claims = f.store.claim(&with_streaks(request(&["mail"], 9), 9)).await.unwrap().claims;
            for claim in claims {
                f.store.settle(&claim.reference(), done()).await.unwrap();
                handled.push(claim.item.idem_key);
            }
        }
        let place = |key: &str| handled.iter().position(|handled| handled == key);
        assert!(place("front") < place("behind"), "{handled:?}");
        handled.sort();
        assert_eq!(handled, ["behind", "beside", "front", "lost", "shared"]);
        for table in ["queue", "leases", "lanes"] {
            assert_eq!(f.sql(&format!("SELECT count(*) FROM outbox_{table}")).unwrap(), "0", "{table}");
        }
    }
}
