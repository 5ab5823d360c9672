//! The promises of every store about operators' actions on items, and about what needs their attention.

use std::time::Duration;

use outbox::core::{FailureClass, OnDead, Settlement};
use outbox::item::{ItemId, Millis, NewItem, Status};
use outbox::store::{
    Action, Control, Execution, Filter, LeasePolicy, MisplacedItem, OperateRequest, Page, Selection, StuckKind,
    StuckQuery,
};

use serde_json::Value;

use super::orders::{CAREFUL, FORCED, command, keyed, operate};
use super::{REPLAY, operate_request};
use crate::support::host::HostConfig;
use crate::support::{Fixture, START, after_start, dead, done, item, pod, request, retry, settled};

promises! {
    an_operators_dead_takes_pending_items_and_ended_claims_and_a_running_one_by_force_only
    a_restore_undoes_an_operators_dead_and_nothing_else
    a_second_restore_shows_the_last_failure_again_and_no_restored_item_counts_as_a_retry
    a_preview_counts_the_keys_that_go_on
    a_reschedule_moves_pending_items_only
    a_release_by_an_operator_counts_and_says_that_the_attempt_may_be_acting
    done_is_never_dead_lettered
    a_paused_type_is_not_claimed_until_it_is_resumed
    failures_are_grouped_by_what_they_have_in_common_and_a_group_is_replayed
    what_is_stuck_is_explained_with_the_command_that_helps
    items_that_the_rate_of_their_type_holds_back_are_said_to_be
    an_item_that_fails_does_so_since_its_first_attempt_of_this_life
    claims_of_a_process_that_gives_no_sign_of_life_are_stuck_at_once
    a_process_that_stops_is_not_shown_unless_it_leaves_leases_behind
    an_item_without_a_status_is_reported_and_a_restore_takes_it_back
    the_check_of_an_installation_names_items_in_two_places_and_in_none
}

fn of_status(status: Status) -> Filter {
    Filter { status: vec![status], ..Filter::default() }
}

mod promise {
    use super::*;

    pub(super) async fn an_operators_dead_takes_pending_items_and_ended_claims_and_a_running_one_by_force_only(
        f: Fixture,
    ) {
        let pending = f.enqueue(item("a")).await;
        operate(&f, CAREFUL, pending).await.unwrap();
        let shown = f.store.get(pending).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.item.deliveries), (Status::Dlq, 0, 1));
        assert_eq!((shown.failed_attempts[0].class, shown.item.maybe_executed), (FailureClass::Operator, false));
        assert!(shown.item.last_error.unwrap().contains("repaired"), "the reason is in the history");

        let claimed = f.enqueue(item("b")).await;
        let claim = f.claim_one("mail").await;
        assert!(operate(&f, CAREFUL, claimed).await.unwrap_err().contains("still be acting"));
        operate(&f, FORCED, claimed).await.unwrap();
        assert!(f.store.settle(&claim.reference(), done()).await.is_err(), "the claim was taken");
        let taken = f.item(claimed).await;
        assert_eq!((taken.status, taken.attempts, taken.deliveries, taken.maybe_executed), (Status::Dlq, 1, 1, true));

        let ended = f.enqueue(item("c")).await;
        f.claim_one("mail").await;
        f.clock.advance(Duration::from_mins(1));
        operate(&f, CAREFUL, ended).await.unwrap();
        assert_eq!(f.status(ended).await, Status::Dlq);
    }

    pub(super) async fn a_second_restore_shows_the_last_failure_again_and_no_restored_item_counts_as_a_retry(
        f: Fixture,
    ) {
        let id = f.enqueue(item("a")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), retry(Duration::from_hours(1))).await.unwrap();
        let unclaimed = f.enqueue(item("b")).await;
        for _ in 0..2 {
            for item in [id, unclaimed] {
                operate(&f, CAREFUL, item).await.unwrap();
                operate(&f, Action::Restore, item).await.unwrap();
            }
        }
        let failed = f.item(id).await.last_error;
        assert_eq!(failed.as_deref(), Some("the receiver is down"));
        assert_eq!(f.item(unclaimed).await.last_error, None);
        assert_eq!(f.store.overview().await.unwrap().retrying["mail"], 1);
    }

    pub(super) async fn a_preview_counts_the_keys_that_go_on(f: Fixture) {
        for key in ["a", "b"] {
            let front = f.enqueue(keyed(&format!("{key} 1"), key)).await;
            f.enqueue(keyed(&format!("{key} 2"), key)).await;
            operate(&f, CAREFUL, front).await.unwrap();
        }
        let preview = |action| OperateRequest {
            execution: Execution::DryRun,
            ..operate_request(action, Selection::Filter(of_status(Status::Dlq)))
        };
        for action in [Action::Purge, REPLAY] {
            assert_eq!(f.store.operate(&preview(action)).await.unwrap().unblocked_keys, 2, "{action:?}");
        }
    }

    pub(super) async fn a_restore_undoes_an_operators_dead_and_nothing_else(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), retry(Duration::from_secs(30))).await.unwrap();
        let before = f.item(id).await;
        operate(&f, CAREFUL, id).await.unwrap();
        operate(&f, Action::Restore, id).await.unwrap();
        let after = f.item(id).await;
        assert_eq!(after, outbox::item::Item { deliveries: before.deliveries + 1, ..before });
        f.clock.advance(Duration::from_secs(30));
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
        assert!(operate(&f, Action::Restore, id).await.unwrap_err().contains("replay"));
    }

    pub(super) async fn a_reschedule_moves_pending_items_only(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        operate(&f, Action::Reschedule { at: after_start(5_000) }, id).await.unwrap();
        assert!(f.claim("mail", 1).await.is_empty());
        operate(&f, Action::Reschedule { at: Millis::new(0) }, id).await.unwrap();
        assert_eq!(f.item(id).await.available_at, START, "a moment that has passed means now");
        assert_eq!(f.claim("mail", 1).await.len(), 1);
        assert!(operate(&f, Action::Reschedule { at: Millis::new(0) }, id).await.unwrap_err().contains("CLAIMED"));
    }

    pub(super) async fn a_release_by_an_operator_counts_and_says_that_the_attempt_may_be_acting(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        let old = f.claim_one("mail").await;
        let careful = Action::Release { lease: LeasePolicy::Respect };
        assert!(operate(&f, careful, id).await.unwrap_err().contains("still be acting"));
        operate(&f, Action::Release { lease: LeasePolicy::Break }, id).await.unwrap();
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts, shown.item.maybe_executed), (Status::Pending, 1, true));
        assert_eq!(shown.failed_attempts[0].code, "operator.release");
        assert_eq!(f.claim_one("mail").await.item.attempts, 2);
        assert!(f.store.settle(&old.reference(), done()).await.is_err());
        assert!(operate(&f, careful, ItemId::new(99)).await.unwrap_err().contains("no such item"));
    }

    pub(super) async fn done_is_never_dead_lettered(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        for action in [FORCED, Action::Restore, Action::Release { lease: LeasePolicy::Break }] {
            assert!(operate(&f, action, id).await.unwrap_err().contains("it is DONE"), "{action:?}");
        }
    }

    pub(super) async fn a_paused_type_is_not_claimed_until_it_is_resumed(f: Fixture) {
        f.enqueue(item("a")).await;
        let late = NewItem { delay: Duration::from_secs(5), ..item("b") };
        f.enqueue(late).await;
        let pause = command(Control::Pause { item_type: "mail".into() });
        assert!(f.store.control(&pause).await.unwrap().changed);
        assert!(!f.store.control(&pause).await.unwrap().changed, "it was paused already");
        let nothing = f.second().await.claim(&request(&["mail"], 10)).await.unwrap();
        assert_eq!((nothing.claims.len(), nothing.next_available_in), (0, None));
        let pauses = f.store.pauses().await.unwrap();
        assert_eq!((pauses[0].r#type.as_str(), pauses[0].actor.as_str()), ("mail", "ada@host"));
        f.store.control(&command(Control::Resume { item_type: "mail".into() })).await.unwrap();
        assert_eq!(f.claim("mail", 10).await.len(), 1);
        assert!(f.store.control(&command(Control::Pause { item_type: "No".into() })).await.is_err());
    }

    pub(super) async fn failures_are_grouped_by_what_they_have_in_common_and_a_group_is_replayed(f: Fixture) {
        for (key, message) in [("a", "no user 17"), ("b", "no user 4711"), ("c", "no money")] {
            f.enqueue(item(key)).await;
            let claim = f.claim_one("mail").await;
            let failure = outbox::core::Failure::new(FailureClass::Permanent, "refused", message);
            let dead = settled(Settlement::Dead { failure, on_dead: OnDead::Block });
            f.store.settle(&claim.reference(), dead).await.unwrap();
            f.clock.advance(Duration::from_secs(1));
        }
        let groups = f.store.failures(&Filter::default(), 10).await.unwrap();
        let counts: Vec<_> = groups.iter().map(|group| (group.count, group.message.as_deref())).collect();
        assert_eq!(counts, [(2, Some("no user 4711")), (1, Some("no money"))]);
        assert_eq!(
            (groups[0].first_at, groups[0].last_at, groups[0].code.as_deref()),
            (START, after_start(1_000), Some("refused"))
        );
        let group = Filter { fingerprint: Some(groups[0].fingerprint.clone()), ..of_status(Status::Dlq) };
        assert_eq!(f.store.operate(&operate_request(REPLAY, Selection::Filter(group))).await.unwrap().changed, 2);
        assert_eq!(f.store.failures(&Filter::default(), 10).await.unwrap().len(), 1);
    }

    pub(super) async fn what_is_stuck_is_explained_with_the_command_that_helps(f: Fixture) {
        let blocked = f.enqueue(keyed("1", "o")).await;
        f.enqueue(keyed("2", "o")).await;
        operate(&f, CAREFUL, blocked).await.unwrap();
        let late = f.enqueue(NewItem { delay: Duration::from_hours(9), ..keyed("3", "p") }).await;
        f.enqueue(keyed("4", "p")).await;
        let lost = f.enqueue(item("5")).await;
        f.claim_one("mail").await;
        for (key, item_type) in [("6", "sms"), ("7", "fax"), ("8", "push")] {
            f.enqueue(NewItem::new(item_type, key, "{}")).await;
        }
        f.clock.advance(Duration::from_secs(1));
        f.store.control(&command(Control::Pause { item_type: "sms".into() })).await.unwrap();
        f.clock.advance(Duration::from_mins(10));
        let served = Some(vec!["mail".into(), "sms".into(), "push".into()]);
        let query = StuckQuery { served, attempts: 1, ..StuckQuery::default() };
        let stuck = f.store.stuck(&query).await.unwrap();
        let found = |kind| stuck.iter().find(|stuck| stuck.kind == kind).map(|stuck| stuck.command.clone());
        assert_eq!(found(StuckKind::ExpiredClaim), Some(format!("outbox release {lost}")));
        assert_eq!(found(StuckKind::Failing), Some(format!("outbox show {lost}")));
        assert_eq!(found(StuckKind::HeldKey), Some(format!("outbox reschedule {late} --in 0s")));
        assert_eq!(found(StuckKind::Paused).as_deref(), Some("outbox resume sms"));
        let paused = stuck.iter().find(|stuck| stuck.kind == StuckKind::Paused).map(|stuck| stuck.since);
        assert_eq!(paused, Some(after_start(1_000)));
        assert!(found(StuckKind::BlockedKey).unwrap().contains("outbox unblock 'o'"));
        let of = |kind| stuck.iter().find(|stuck| stuck.kind == kind).and_then(|stuck| stuck.r#type.as_deref());
        assert_eq!((of(StuckKind::Unhandled), of(StuckKind::Old)), (Some("fax"), Some("push")));
        assert!(stuck.iter().all(|stuck| !stuck.why.is_empty() && stuck.waiting >= 1), "{stuck:?}");
    }

    pub(super) async fn items_that_the_rate_of_their_type_holds_back_are_said_to_be(f: Fixture) {
        for key in ["1", "2"] {
            f.enqueue(item(key)).await;
        }
        f.clock.advance(Duration::from_mins(10));
        let why = async || {
            let stuck = f.store.stuck(&StuckQuery::default()).await.unwrap();
            stuck.into_iter().find(|stuck| stuck.kind == StuckKind::Old).unwrap().why
        };
        assert!(why().await.contains("too few workers"));
        let claim = async |rate: f64| {
            let mut limited = request(&["mail"], 1);
            limited.types[0].rate = Some(rate);
            assert_eq!(f.store.claim(&limited).await.unwrap().claims.len(), 1);
        };
        claim(1.0).await;
        assert!(why().await.contains("allows (1/s), so they wait"), "{}", why().await);
        f.enqueue(item("3")).await;
        f.clock.advance(Duration::from_mins(20));
        assert!(why().await.contains("too few workers"), "no worker came to it for minutes");
        claim(5.0 / 3_600.0).await;
        f.clock.advance(Duration::from_mins(11));
        assert!(why().await.contains("allows (5/h), so they wait"), "its next token comes in a minute");
        f.clock.advance(Duration::from_mins(3));
        assert!(why().await.contains("too few workers"), "it came two minutes ago");
    }

    pub(super) async fn an_item_that_fails_does_so_since_its_first_attempt_of_this_life(f: Fixture) {
        let id = f.enqueue(item("1")).await;
        let query = StuckQuery { attempts: 1, ..StuckQuery::default() };
        let since = async || {
            let stuck = f.store.stuck(&query).await.unwrap();
            stuck.iter().find(|stuck| stuck.kind == StuckKind::Failing).map(|stuck| stuck.since)
        };
        let fail = async || {
            f.clock.advance(Duration::from_hours(1));
            let mut patient = request(&["mail"], 1);
            patient.types[0].max_retries = 9;
            let claim = f.store.claim(&patient).await.unwrap().claims.remove(0);
            f.store.settle(&claim.reference(), retry(Duration::from_secs(1))).await.unwrap();
            f.clock.now()
        };
        let first = [fail().await, fail().await, fail().await];
        assert_eq!(since().await, Some(first[0]), "not since it was enqueued, an hour before");
        operate(&f, CAREFUL, id).await.unwrap();
        operate(&f, REPLAY, id).await.unwrap();
        let second = [fail().await, fail().await, fail().await];
        assert_eq!(since().await, Some(second[0]), "a replay begins a new life");
    }

    pub(super) async fn claims_of_a_process_that_gives_no_sign_of_life_are_stuck_at_once(f: Fixture) {
        for key in ["1", "2"] {
            f.enqueue(item(key)).await;
        }
        f.enqueue(NewItem::new("sms", "3", "{}")).await;
        let beat = async |instance: &str| f.store.heartbeat(&pod(instance)).await.unwrap();
        let claim = async |instance: &str, item_type: &str| {
            let mut wanted = request(&[item_type], 9);
            wanted.claimed_by = instance.into();
            f.store.claim(&wanted).await.unwrap();
        };
        beat("gone").await;
        beat("alive").await;
        claim("gone", "mail").await;
        claim("alive", "sms").await;
        f.clock.advance(Duration::from_secs(14));
        assert_eq!(f.store.stuck(&StuckQuery::default()).await.unwrap(), [], "one may miss two of its reports");
        beat("alive").await;
        f.clock.advance(Duration::from_secs(1));
        let stuck = f.store.stuck(&StuckQuery::default()).await.unwrap();
        let [entry] = &stuck[..] else { panic!("{stuck:?}") };
        assert_eq!((entry.kind, entry.waiting, entry.since), (StuckKind::LongClaim, 2, START));
        assert!(entry.why.contains("gone gives no sign of life and holds 2 claimed"), "{}", entry.why);
        assert!(entry.command.starts_with("outbox release --status CLAIMED --type mail --pod gone --force"));
        let long = StuckQuery { older_than: Duration::from_secs(1), ..StuckQuery::default() };
        let long: Vec<_> = f.store.stuck(&long).await.unwrap().into_iter().map(|entry| entry.why).collect();
        assert!(long.len() == 2 && long[1].contains("alive still renews the lease"), "{long:?}");
        let of_pod = Filter { pod: Some("gone".into()), ..Filter::default() };
        let listed = f.store.list(&of_pod, &Page { limit: 9, before: None }).await.unwrap().items;
        assert_eq!(listed.len(), 2);
        let release = Action::Release { lease: LeasePolicy::Break };
        let report = f.store.operate(&operate_request(release, Selection::Filter(of_pod))).await.unwrap();
        assert_eq!(report.changed, 2, "and none of the other process");
    }

    pub(super) async fn a_process_that_stops_is_not_shown_unless_it_leaves_leases_behind(f: Fixture) {
        for instance in ["other", "stopped", "leaving"] {
            f.store.heartbeat(&pod(instance)).await.unwrap();
        }
        f.enqueue(item("1")).await;
        let mut wanted = request(&["mail"], 9);
        wanted.claimed_by = "leaving".into();
        f.store.claim(&wanted).await.unwrap();
        for instance in ["stopped", "leaving"] {
            f.store.end_heartbeat(instance).await.unwrap();
        }
        let pods = f.store.overview().await.unwrap().pods;
        let shown: Vec<_> = pods.iter().map(|pod| (pod.instance.as_str(), pod.ready)).collect();
        assert_eq!(shown, [("leaving", false), ("other", true)]);
    }

    pub(super) async fn an_item_without_a_status_is_reported_and_a_restore_takes_it_back(f: Fixture) {
        let id = f.enqueue(item("a")).await;
        f.enqueue(item("b")).await;
        assert!(f.store.misplaced(9).await.unwrap().is_empty());
        f.sql(&format!("DELETE FROM outbox_queue WHERE id = {id}")).unwrap();
        assert_eq!(f.store.misplaced(9).await.unwrap(), [MisplacedItem { id, places: 0 }]);
        let stuck = f.store.stuck(&StuckQuery::default()).await.unwrap();
        assert_eq!((stuck[0].kind, stuck[0].command.clone()), (StuckKind::Lost, format!("outbox restore {id}")));
        assert!(operate(&f, REPLAY, id).await.unwrap_err().contains("no such item"));
        operate(&f, Action::Restore, id).await.unwrap();
        assert!(f.store.misplaced(9).await.unwrap().is_empty());
        let restored = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((restored.item.status, restored.item.maybe_executed), (Status::Pending, true));
        assert_eq!(restored.audit.len(), 1);
        assert_eq!(f.claim("mail", 9).await.len(), 2);
    }

    pub(super) async fn the_check_of_an_installation_names_items_in_two_places_and_in_none(f: Fixture) {
        let [lost, waiting] = [f.enqueue(item("lost")).await, f.enqueue(item("waiting")).await];
        let claimed = f.enqueue(NewItem::new("sms", "claimed", "{}")).await;
        let claim = f.claim_one("sms").await;
        let folder = tempfile::tempdir().unwrap();
        let host = HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), folder.path());
        let host = host.set("OUTBOX_DB", &f.test_db.address());
        let check = || {
            let told: Value = serde_json::from_slice(&host.run(&["doctor", "--json"]).stdout).unwrap();
            told.as_array().unwrap().iter().find(|result| result["check"] == "places").unwrap().clone()
        };
        assert_eq!(check()["result"], "ok");
        f.sql(&format!("CREATE TABLE kept AS SELECT * FROM outbox_queue; DELETE FROM outbox_queue WHERE id = {lost}"))
            .unwrap();
        let told = check();
        assert!(told["result"] == "fail" && told["advice"].to_string().contains(&format!("outbox restore {lost}")));
        let among_done = "outbox_done (done_at, epoch, id) VALUES (1, 0, ";
        let among_dead =
            "outbox_dead (dead_at, epoch, type, fingerprint, last_error, id) VALUES (1, 0, 'mail', '', '', ";
        for (id, place) in [(waiting, among_done), (waiting, among_dead), (claimed, among_done)] {
            f.sql(&format!("INSERT INTO {place}{id})")).unwrap();
            let told = check();
            assert!(told["message"].to_string().contains(&format!("several statuses at once: {id}\"")), "{told}");
            f.sql("DELETE FROM outbox_done; DELETE FROM outbox_dead").unwrap();
        }
        f.sql(&format!("INSERT INTO outbox_queue SELECT * FROM kept WHERE id = {lost}")).unwrap();
        assert_eq!(check()["result"], "ok");
        f.store.settle(&claim.reference(), done()).await.unwrap();
    }
}
