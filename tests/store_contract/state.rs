//! The promises of every store about the state of plugins and about follow-ups.

use std::time::Duration;

use outbox::core::{
    DESCENDANTS_CODE, DESCENDANTS_PERIOD, Failure, FailureClass, HostWrites, OnDead, STATE_VALUE_MAX, Settlement,
    StateChange, StateKeyChange, StateVersion,
};
use outbox::item::{NewItem, Status};
use outbox::store::{
    Action, AuditQuery, Claim, ClearStateRequest, Execution, Selection, SettleRequest, SignalSeq, StateQuery,
    StateTotal, StoreError, StuckKind, StuckQuery,
};

use super::{REPLAY, operate_request};
use crate::support::{Fixture, item, settled};

promises! {
    of_several_attempts_that_touched_a_key_the_first_to_commit_wins
    a_key_that_was_only_read_conflicts_too_and_so_does_one_that_was_absent
    state_that_does_not_fit_the_quota_is_refused_and_what_shrinks_is_let_through
    state_is_counted_without_a_scan_and_can_be_listed_and_cleared
    all_keys_of_a_plugin_are_cleared_in_transactions_of_a_bounded_size
    a_replayed_item_commits_its_state_again_and_keeps_its_followups
    a_followup_that_exists_is_kept_and_counted_whatever_its_content
    a_followup_keeps_its_saga_open
    a_followup_that_breaks_a_rule_is_refused_with_everything_else
    as_many_items_descend_from_one_as_may_within_a_day_and_stuck_names_it_when_more_would
    a_followup_that_exists_takes_no_room_and_goes_with_its_item
}

fn key_change(key: &str, read_version: StateVersion, change: StateChange) -> StateKeyChange {
    StateKeyChange { key: key.into(), read_version, change }
}

fn put(key: &str, read_version: StateVersion, value: impl Into<Vec<u8>>) -> StateKeyChange {
    key_change(key, read_version, StateChange::Put(value.into()))
}

fn writes(state: Vec<StateKeyChange>, followups: Vec<NewItem>) -> HostWrites {
    HostWrites { plugin: "p".into(), state, state_quota: 1 << 20, followups, descendants_max: None }
}

fn finish(writes: HostWrites) -> SettleRequest {
    settled(Settlement::Done { result: None, writes })
}

async fn version(f: &Fixture, key: &str) -> StateVersion {
    f.store.read_state("p", key).await.unwrap().1
}

async fn commit(f: &Fixture, claim: &Claim, state: Vec<StateKeyChange>) -> Result<(), StoreError> {
    f.store.settle(&claim.reference(), finish(writes(state, Vec::new()))).await
}

async fn claims(f: &Fixture, count: u32) -> Vec<Claim> {
    for n in 0..count {
        f.enqueue(item(&format!("k{n}"))).await;
    }
    f.claim("mail", count).await
}

async fn totals(f: &Fixture) -> Vec<(u64, u64)> {
    f.store.state_totals().await.unwrap().into_iter().map(|total| (total.keys, total.bytes)).collect()
}

fn clear(key: Option<&str>, execution: Execution) -> ClearStateRequest {
    let (actor, reason) = ("ada@host".to_owned(), Some("reset".to_owned()));
    ClearStateRequest { plugin: "p".into(), key: key.map(str::to_owned), actor, reason, execution }
}

mod promise {
    use super::*;

    pub(super) async fn of_several_attempts_that_touched_a_key_the_first_to_commit_wins(f: Fixture) {
        let claims = claims(&f, 8).await;
        let settling = claims.iter().map(|claim| commit(&f, claim, vec![put("n", None, claim.item.idem_key.clone())]));
        let results = futures_util::future::join_all(settling).await;
        let winners: Vec<_> = claims.iter().zip(&results).filter(|(_, result)| result.is_ok()).collect();
        assert_eq!(winners.len(), 1);
        let (value, _) = f.store.read_state("p", "n").await.unwrap();
        assert_eq!(value.unwrap(), winners[0].0.item.idem_key.as_bytes());
        let conflicts = results.iter().filter(|result| matches!(result, Err(StoreError::StateConflict { .. })));
        assert_eq!(conflicts.count(), 7);
    }

    pub(super) async fn a_key_that_was_only_read_conflicts_too_and_so_does_one_that_was_absent(f: Fixture) {
        let claims = claims(&f, 5).await;
        commit(&f, &claims[0], vec![put("read", None, "1")]).await.unwrap();
        let first = version(&f, "read").await;
        commit(&f, &claims[1], vec![put("read", first, "2")]).await.unwrap();
        for read_version in [first, None] {
            let stale = vec![put("other", None, "x"), key_change("read", read_version, StateChange::None)];
            let err = commit(&f, &claims[2], stale).await.unwrap_err();
            assert!(matches!(err, StoreError::StateConflict { ref key, .. } if key == "read"), "{err}");
        }
        assert_eq!(version(&f, "other").await, None, "nothing of a refused settlement is kept");
        let present = version(&f, "read").await;
        commit(&f, &claims[2], vec![key_change("read", present, StateChange::Delete)]).await.unwrap();
        let gone = commit(&f, &claims[3], vec![key_change("read", present, StateChange::None)]).await.unwrap_err();
        assert!(matches!(gone, StoreError::StateConflict { .. }), "{gone}");
        commit(&f, &claims[3], vec![put("read", None, "2")]).await.unwrap();
        let again = commit(&f, &claims[4], vec![put("read", present, "3")]).await.unwrap_err();
        assert!(matches!(again, StoreError::StateConflict { .. }), "the same value written again is another");
    }

    pub(super) async fn state_that_does_not_fit_the_quota_is_refused_and_what_shrinks_is_let_through(f: Fixture) {
        let claims = claims(&f, 3).await;
        let tight = |quota, state| finish(HostWrites { state_quota: quota, ..writes(state, Vec::new()) });
        let fits = tight(10, vec![put("key", None, "1234567")]);
        f.store.settle(&claims[0].reference(), fits).await.unwrap();
        let over = tight(10, vec![put("more", None, "1")]);
        let err = f.store.settle(&claims[1].reference(), over).await.unwrap_err();
        assert!(matches!(err, StoreError::StateQuota { used: 10, wanted: 15, quota: 10, .. }), "{err}");
        assert!(err.to_string().contains("`limits.state_bytes` is 10"), "{err}");
        assert_eq!((totals(&f).await, f.status(claims[1].item.id).await), (vec![(1, 10)], Status::Claimed));
        let shrinks = tight(5, vec![put("key", version(&f, "key").await, "123456")]);
        f.store.settle(&claims[1].reference(), shrinks).await.unwrap();
        let large = |bytes| vec![put("large", None, vec![0; bytes])];
        let err = commit(&f, &claims[2], large(STATE_VALUE_MAX + 1)).await.unwrap_err();
        assert!(matches!(err, StoreError::StateValueTooLarge { ref key, .. } if key == "large"), "{err}");
        commit(&f, &claims[2], large(STATE_VALUE_MAX)).await.unwrap();
    }

    pub(super) async fn state_is_counted_without_a_scan_and_can_be_listed_and_cleared(f: Fixture) {
        let claims = claims(&f, 2).await;
        commit(&f, &claims[0], ["a", "b", "c"].map(|key| put(key, None, "123")).into()).await.unwrap();
        let gone = key_change("c", version(&f, "c").await, StateChange::Delete);
        commit(&f, &claims[1], vec![put("a", version(&f, "a").await, "12345"), gone]).await.unwrap();
        assert_eq!(totals(&f).await, [(2, 10)]);
        for (after, key, bytes) in [(None, "a", 5), (Some("a"), "b", 3)] {
            let query = StateQuery { plugin: "p".into(), after: after.map(str::to_owned), limit: 1 };
            let entries = f.store.list_state(&query).await.unwrap();
            assert_eq!((entries.len(), entries[0].key.as_str(), entries[0].bytes), (1, key, bytes));
            assert_eq!(entries[0].version, version(&f, key).await);
        }
        for execution in [Execution::DryRun, Execution::Apply] {
            let one = StateTotal { plugin: "p".into(), keys: 1, bytes: 6 };
            assert_eq!(f.store.clear_state(&clear(Some("a"), execution)).await.unwrap(), one);
        }
        assert_eq!((version(&f, "a").await, totals(&f).await), (None, vec![(1, 4)]));
        f.store.clear_state(&clear(None, Execution::Apply)).await.unwrap();
        assert_eq!(f.store.clear_state(&clear(None, Execution::Apply)).await.unwrap().keys, 0);
        assert!(totals(&f).await.is_empty());
    }

    pub(super) async fn all_keys_of_a_plugin_are_cleared_in_transactions_of_a_bounded_size(f: Fixture) {
        let claims = claims(&f, 1).await;
        let keys = (0..450).map(|number| put(&format!("{number:03}"), None, "1")).collect();
        commit(&f, &claims[0], keys).await.unwrap();
        assert_eq!(f.store.clear_state(&clear(None, Execution::DryRun)).await.unwrap().keys, 450);
        let cleared = f.store.clear_state(&clear(None, Execution::Apply)).await.unwrap();
        assert_eq!(cleared, StateTotal { plugin: "p".into(), keys: 450, bytes: 1_800 });
        let audited = f.store.audit(&AuditQuery::default()).await.unwrap();
        assert_eq!(audited.iter().map(|entry| entry.count).collect::<Vec<_>>(), [50, 200, 200]);
        assert!(totals(&f).await.is_empty());
    }

    pub(super) async fn a_replayed_item_commits_its_state_again_and_keeps_its_followups(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for life in 1..=2 {
            let claim = f.claim_one("mail").await;
            let counted = put("n", version(&f, "n").await, life.to_string());
            let emitted = NewItem::new("sms", "k/sms/1", "{}");
            f.store.settle(&claim.reference(), finish(writes(vec![counted], vec![emitted]))).await.unwrap();
            f.store.operate(&operate_request(REPLAY, Selection::Ids(vec![id]))).await.unwrap();
        }
        assert_eq!(f.store.read_state("p", "n").await.unwrap().0.as_deref(), Some(&b"2"[..]));
        assert_eq!(f.claim("sms", 9).await.len(), 1);
        assert_eq!(f.store.overview().await.unwrap().followups["sms"]["kept"], 1);
    }

    pub(super) async fn a_followup_that_exists_is_kept_and_counted_whatever_its_content(f: Fixture) {
        let kept = f.enqueue(NewItem::new("sms", "k/sms/1", r#"{"first":true}"#)).await;
        f.enqueue(item("k")).await;
        let claim = f.claim_one("mail").await;
        let emitted = vec![NewItem::new("sms", "k/sms/1", r#"{"other":1}"#), NewItem::new("sms", "k/sms/2", "{}")];
        f.store.settle(&claim.reference(), finish(writes(Vec::new(), emitted))).await.unwrap();
        assert_eq!(f.status(claim.item.id).await, Status::Done);
        assert_eq!(f.item(kept).await.payload, br#"{"first":true}"#);
        let counts = f.store.overview().await.unwrap().followups.remove("sms").unwrap();
        assert_eq!((counts["created"], counts["kept"]), (1, 1));
    }

    pub(super) async fn a_followup_keeps_its_saga_open(f: Fixture) {
        let step = |new: NewItem| NewItem { saga: Some("S".into()), cid: Some("c".into()), ..new };
        f.enqueue(step(item("k"))).await;
        let claim = f.claim_one("mail").await;
        let emitted = step(NewItem::new("sms", "k/sms/1", "{}"));
        f.store.settle(&claim.reference(), finish(writes(Vec::new(), vec![emitted]))).await.unwrap();
        let claim = f.claim_one("sms").await;
        f.store.settle(&claim.reference(), finish(HostWrites::default())).await.unwrap();
        let signals = f.store.signals(SignalSeq::START, 100).await.unwrap();
        let names: Vec<_> = signals.iter().map(|signal| signal.signal.as_str()).collect();
        assert_eq!(names, ["saga_begin.S", "saga_step.S.mail", "saga_step.S.sms", "saga_end.S"]);
    }

    pub(super) async fn a_followup_that_breaks_a_rule_is_refused_with_everything_else(f: Fixture) {
        let claim = claims(&f, 1).await.remove(0);
        let emitted = vec![NewItem::new("sms", "good", "{}"), NewItem::new("Bad Type", "bad", "{}")];
        let refused = finish(writes(vec![put("n", None, "1")], emitted));
        let err = f.store.settle(&claim.reference(), refused).await.unwrap_err();
        assert!(matches!(err, StoreError::Invalid(ref at) if at.index == 1), "{err}");
        assert_eq!((version(&f, "n").await, f.claim("sms", 9).await.len()), (None, 0));
    }

    pub(super) async fn as_many_items_descend_from_one_as_may_within_a_day_and_stuck_names_it_when_more_would(
        f: Fixture,
    ) {
        let root = f.enqueue(item("k")).await;
        let of_three = |keys: &[&str]| {
            let emitted = keys.iter().map(|key| NewItem::new("sms", key, "{}")).collect();
            finish(HostWrites { descendants_max: Some(3), ..writes(Vec::new(), emitted) })
        };
        f.store.settle(&f.claim_one("mail").await.reference(), of_three(&["a", "b"])).await.unwrap();
        let [first, second] = f.claim("sms", 9).await.try_into().unwrap();
        let err = f.store.settle(&first.reference(), of_three(&["a/1", "a/2"])).await.unwrap_err();
        assert!(matches!(err, StoreError::Descendants { root: found, max: 3 } if found == root), "{err}");
        assert_eq!((f.status(first.item.id).await, f.claim("sms", 9).await.len()), (Status::Claimed, 0));
        f.store.settle(&first.reference(), of_three(&["a/1"])).await.unwrap();
        let third = f.claim_one("sms").await;
        f.clock.advance(DESCENDANTS_PERIOD.saturating_sub(Duration::from_secs(1)));
        let err = f.store.settle(&second.reference(), of_three(&["b/1"])).await.unwrap_err();
        let failure = Failure::new(FailureClass::Contract, DESCENDANTS_CODE, err.to_string());
        let dead = settled(Settlement::Dead { failure, on_dead: OnDead::Skip });
        f.store.settle(&second.reference(), dead).await.unwrap();
        let stuck = f.store.stuck(&StuckQuery::default()).await.unwrap();
        let found = stuck.iter().find(|entry| entry.kind == StuckKind::Descendants).unwrap();
        assert_eq!((found.item, found.r#type.as_deref(), found.waiting), (Some(root), Some("mail"), 1));
        f.clock.advance(Duration::from_secs(1));
        f.store.settle(&third.reference(), of_three(&["a/1/1"])).await.unwrap();
    }

    pub(super) async fn a_followup_that_exists_takes_no_room_and_goes_with_its_item(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        for _ in 1..=2 {
            let emitted = vec![NewItem::new("sms", "k/sms/1", "{}")];
            let one = finish(HostWrites { descendants_max: Some(1), ..writes(Vec::new(), emitted) });
            f.store.settle(&f.claim_one("mail").await.reference(), one).await.unwrap();
            f.store.operate(&operate_request(REPLAY, Selection::Ids(vec![id]))).await.unwrap();
        }
        let recorded = || f.sql("SELECT root, depth FROM outbox_descendants").unwrap();
        assert_eq!(recorded().trim(), format!("{id}|1"));
        let followup = f.claim_one("sms").await;
        f.store.settle(&followup.reference(), finish(HostWrites::default())).await.unwrap();
        f.store.operate(&operate_request(Action::Purge, Selection::Ids(vec![followup.item.id]))).await.unwrap();
        assert_eq!(recorded().trim(), "");
    }
}
