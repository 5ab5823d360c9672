//! The promises of every store about deleting old data and about the alerts that it sends by itself.

use std::time::Duration;

use outbox::item::{NewItem, Status};
use outbox::store::{Action, BatchMode, Retention, Selection, SignalSeq};

use super::{by_status, operate_request};
use crate::support::{Fixture, all, dead, done, item, ordered, request};

promises! {
    done_items_go_when_they_are_old_enough_and_the_total_follows
    a_piece_of_retention_says_whether_it_left_items
    a_sagas_items_go_together
    dead_items_go_with_everything_that_belongs_to_them_and_free_the_key_that_they_blocked
    old_entries_of_the_audit_trail_go_and_no_other_can_be_deleted
    signals_go_and_their_totals_stay
    finished_jobs_go_with_the_signals_and_the_newest_stays
    an_alert_that_was_forgotten_is_sent_like_the_first
    a_sagas_finished_items_are_not_purged_while_others_wait
    a_death_is_announced_once_in_a_while_and_an_alerts_death_never
    a_death_is_announced_after_the_clock_was_set_back
    a_quarantined_component_is_announced_once
}

const DAY: Duration = Duration::from_hours(24);

fn keep(done: Option<Duration>, signals: Option<Duration>) -> Retention {
    Retention { done, dead: None, signals, audit: None, history: None }
}

fn step(key: &str) -> NewItem {
    NewItem { saga: Some("S".into()), cid: Some("c".into()), ..item(key) }
}

mod promise {
    use super::*;

    pub(super) async fn done_items_go_when_they_are_old_enough_and_the_total_follows(f: Fixture) {
        for key in ["old", "young"] {
            f.enqueue(item(key)).await;
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), done()).await.unwrap();
            f.clock.advance(DAY);
        }
        f.enqueue(item("dead")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
        f.clock.advance(Duration::from_secs(1));
        assert_eq!(f.store.run_maintenance(&Retention::default()).await.unwrap().items, 0, "by default nothing goes");
        assert_eq!(f.store.run_maintenance(&keep(Some(DAY + DAY), None)).await.unwrap().items, 1);
        let left: Vec<_> = all(&*f.store).await.into_iter().map(|item| item.idem_key).collect();
        assert_eq!(left, ["dead", "young"]);
        assert_eq!(f.store.overview().await.unwrap().by_status["DONE"], 1);
    }

    pub(super) async fn a_piece_of_retention_says_whether_it_left_items(f: Fixture) {
        let keys = (0..501).map(|number| item(&format!("k{number}"))).collect();
        f.store.enqueue(keys, BatchMode::PerItem).await.unwrap();
        loop {
            let claims = f.store.claim(&request(&["mail"], 250)).await.unwrap().claims;
            if claims.is_empty() {
                break;
            }
            for claim in claims {
                f.store.settle(&claim.reference(), done()).await.unwrap();
            }
        }
        f.clock.advance(DAY + Duration::from_secs(1));
        for expected in [(500, true), (1, false)] {
            let piece = f.store.run_maintenance(&keep(Some(DAY), None)).await.unwrap();
            assert_eq!((piece.items, piece.is_more), expected);
        }
    }

    pub(super) async fn a_sagas_items_go_together(f: Fixture) {
        for key in ["a", "b"] {
            f.enqueue(step(key)).await;
        }
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        f.clock.advance(DAY * 2);
        assert_eq!(
            f.store.run_maintenance(&keep(Some(DAY), None)).await.unwrap().items,
            0,
            "one of them is not finished"
        );
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        f.clock.advance(Duration::from_hours(23));
        assert_eq!(f.store.run_maintenance(&keep(Some(DAY), None)).await.unwrap().items, 0, "one of them is young");
        f.clock.advance(Duration::from_hours(2));
        assert_eq!(f.store.run_maintenance(&keep(Some(DAY), None)).await.unwrap().items, 2);
    }

    pub(super) async fn dead_items_go_with_everything_that_belongs_to_them_and_free_the_key_that_they_blocked(
        f: Fixture,
    ) {
        let first = f.enqueue(ordered("first")).await;
        let behind = f.enqueue(ordered("behind")).await;
        f.enqueue(step("dead step")).await;
        for claim in f.claim("mail", 2).await {
            f.store.settle(&claim.reference(), dead()).await.unwrap();
        }
        assert!(f.claim("mail", 9).await.is_empty(), "the key is blocked");
        let keep_dead = |dead| Retention { dead: Some(dead), ..Retention::default() };
        f.clock.advance(DAY);
        assert_eq!(f.store.run_maintenance(&keep_dead(DAY)).await.unwrap().items, 0, "none is old enough");
        f.clock.advance(Duration::from_secs(1));
        assert_eq!(f.store.run_maintenance(&keep_dead(DAY)).await.unwrap().items, 2);
        assert!(f.store.get(first).await.unwrap().is_none());
        for table in ["outbox_attempts", "outbox_past", "outbox_dead", "outbox_sagas"] {
            assert_eq!(f.sql(&format!("SELECT count(*) FROM {table}")).unwrap(), "0", "{table}");
        }
        assert_eq!(f.claim_one("mail").await.item.id, behind);
    }

    pub(super) async fn old_entries_of_the_audit_trail_go_and_no_other_can_be_deleted(f: Fixture) {
        let replay = async |key: &str| {
            let id = f.enqueue(item(key)).await;
            f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
            f.store.operate(&operate_request(Action::Purge, Selection::Ids(vec![id]))).await.unwrap();
        };
        replay("old").await;
        f.clock.advance(DAY + Duration::from_secs(1));
        replay("young").await;
        let keep = Retention { audit: Some(DAY), ..Retention::default() };
        let counts = || f.sql("SELECT (SELECT count(*) FROM outbox_audit), (SELECT count(*) FROM outbox_audit_items)");
        for left in ["2|1", "1|1", "1|1"] {
            f.store.run_maintenance(&keep).await.unwrap();
            assert_eq!(counts().unwrap().trim(), left);
        }
        for refused in
            ["DELETE FROM outbox_audit", "UPDATE outbox_audit SET count = 7", "DELETE FROM outbox_audit_items"]
        {
            let told = f.sql(refused).unwrap_err();
            assert!(told.contains("append-only"), "{told}");
        }
    }

    pub(super) async fn signals_go_and_their_totals_stay(f: Fixture) {
        f.enqueue(step("a")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        f.clock.advance(DAY + Duration::from_secs(1));
        f.enqueue(step("b")).await;
        f.claim_one("mail").await;
        assert_eq!(f.store.run_maintenance(&keep(None, Some(DAY))).await.unwrap().signals, 3);
        let left = f.store.signals(SignalSeq::START, 10).await.unwrap();
        assert_eq!(left.iter().map(|signal| signal.seq.get()).collect::<Vec<_>>(), [4]);
        let saga = f.store.overview().await.unwrap().sagas.remove("S").unwrap();
        assert_eq!((saga.began, saga.ended_ok), (2, 1));
    }

    pub(super) async fn a_sagas_finished_items_are_not_purged_while_others_wait(f: Fixture) {
        let id = f.enqueue(step("a")).await;
        f.enqueue(step("b")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        let report = f.store.operate(&operate_request(Action::Purge, Selection::Ids(vec![id]))).await.unwrap();
        assert!(report.refused[0].reason.to_string().contains("saga"), "{report:?}");
        assert_eq!(f.status(id).await, Status::Done);
    }

    pub(super) async fn a_death_is_announced_once_in_a_while_and_an_alerts_death_never(f: Fixture) {
        let f = f.with_alerts("webhook").await;
        let die = async |item: NewItem| {
            let item_type = item.item_type.clone();
            f.enqueue(item).await;
            let claim = f.claim_one(&item_type).await;
            f.store.settle(&claim.reference(), dead()).await.unwrap();
        };
        die(NewItem { ordering_key: Some("o".into()), ..item("a") }).await;
        die(item("b")).await;
        f.clock.advance(Duration::from_mins(5));
        die(item("c")).await;
        let alerts = f.claim("webhook", 10).await;
        let told: Vec<serde_json::Value> =
            alerts.iter().map(|claim| serde_json::from_slice(&claim.item.payload).unwrap()).collect();
        let kinds: Vec<_> = told.iter().map(|told| told["alert"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["dlq", "key_blocked", "dlq"]);
        assert_eq!((&told[0]["command"], &told[2]["suppressed"]), (&"outbox show 1".into(), &1.into()));
        assert_eq!((&told[1]["command"], &told[2]["cid"]), (&"outbox stuck".into(), &"c".into()));
        for alert in alerts {
            f.store.settle(&alert.reference(), dead()).await.unwrap();
        }
        assert!(f.claim("webhook", 10).await.is_empty());
        assert!(f.store.failures(&outbox::store::Filter::default(), 9).await.unwrap().len() >= 2);
    }

    pub(super) async fn a_death_is_announced_after_the_clock_was_set_back(f: Fixture) {
        let f = f.with_alerts("webhook").await;
        let announced = async |key: &str| {
            f.enqueue(item(key)).await;
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), dead()).await.unwrap();
            f.claim("webhook", 10).await.len()
        };
        assert_eq!(announced("first").await, 1);
        f.clock.jump(-60_000);
        assert_eq!(announced("within the period").await, 0);
        f.clock.jump(-3_600_000);
        assert_eq!(announced("the last alert was of the future").await, 1);
        assert_eq!(announced("within the period again").await, 0);
    }

    pub(super) async fn finished_jobs_go_with_the_signals_and_the_newest_stays(f: Fixture) {
        let ids = async || f.store.jobs(None, 9).await.unwrap().iter().map(|job| job.id).collect::<Vec<_>>();
        for key in ["a", "b", "c"] {
            f.enqueue(item(key)).await;
            f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
            f.store.operate(&operate_request(Action::Purge, by_status(Status::Done))).await.unwrap();
        }
        let before = ids().await;
        f.clock.advance(DAY);
        f.store.run_maintenance(&Retention::default()).await.unwrap();
        f.store.run_maintenance(&keep(None, Some(DAY + DAY))).await.unwrap();
        assert_eq!(ids().await, before, "none of them is old enough");
        f.clock.advance(DAY + DAY);
        f.store.run_maintenance(&keep(None, Some(DAY))).await.unwrap();
        assert_eq!(ids().await, [*before.iter().max().unwrap()]);
    }

    pub(super) async fn an_alert_that_was_forgotten_is_sent_like_the_first(f: Fixture) {
        let f = f.with_alerts("webhook").await;
        let die = async |key: &str| {
            f.enqueue(item(key)).await;
            let claim = f.claim_one("mail").await;
            f.store.settle(&claim.reference(), dead()).await.unwrap();
        };
        die("a").await;
        die("b").await;
        f.clock.advance(DAY + DAY);
        f.store.run_maintenance(&keep(None, Some(DAY))).await.unwrap();
        die("c").await;
        let alerts = f.claim("webhook", 10).await;
        let told = |claim: &outbox::store::Claim| -> serde_json::Value {
            serde_json::from_slice(&claim.item.payload).unwrap()
        };
        let suppressed: Vec<_> = alerts.iter().map(|alert| told(alert)["suppressed"].clone()).collect();
        assert_eq!(suppressed, [0, 0]);
    }

    pub(super) async fn a_quarantined_component_is_announced_once(f: Fixture) {
        let f = f.with_alerts("webhook").await;
        for reason in ["it traps", "it traps again"] {
            f.store.quarantine("3fa9", "mailer", reason).await.unwrap();
        }
        let alerts = f.claim("webhook", 10).await;
        assert_eq!(alerts.len(), 1);
        let told: serde_json::Value = serde_json::from_slice(&alerts[0].item.payload).unwrap();
        assert_eq!((&told["alert"], &told["plugin"]), (&"plugin_quarantined".into(), &"mailer".into()));
        assert_eq!((&told["digest"], &told["message"]), (&"3fa9".into(), &"it traps".into()));
    }
}
