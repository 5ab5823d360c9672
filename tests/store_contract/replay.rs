//! The promises of every store about what a replay keeps of the life before.

use std::time::Duration;

use outbox::core::{HostWrites, Settlement};
use outbox::store::{AuditQuery, SettleRequest};
use serde_json::{Value, json};

use super::{REPLAY, operate_request};
use crate::support::{Backend, Fixture, after_start, dead, done, failure, item, settled};

promises! {
    a_replay_of_a_done_item_leaves_its_result_and_its_component_in_the_audit_trail
    a_replay_ends_a_series_of_give_backs
    a_job_tells_what_became_of_its_items
    an_order_that_matches_nothing_leaves_an_audit_entry_and_no_job
}

mod promise {
    use outbox::item::Status;
    use outbox::store::{Action, Filter, Selection};

    use super::*;

    pub(super) async fn a_replay_of_a_done_item_leaves_its_result_and_its_component_in_the_audit_trail(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let done = Settlement::Done { result: Some(b"sent\0".to_vec()), writes: HostWrites::default() };
        let done = SettleRequest { handler_digest: Some("digest".into()), ..settled(done) };
        f.store.settle(&f.claim_one("mail").await.reference(), done).await.unwrap();
        f.store.operate(&operate_request(REPLAY, Selection::Ids(vec![id]))).await.unwrap();
        assert_eq!(f.item(id).await.result, None);
        let entry = f.store.audit(&AuditQuery::default()).await.unwrap().remove(0);
        let change = &entry.changes[0];
        assert_eq!(change["before"]["result"], json!({ "base64": "c2VudAA=" }));
        assert_eq!((&change["before"]["handler_digest"], &change["after"]["result"]), (&json!("digest"), &Value::Null));
    }

    pub(super) async fn a_replay_ends_a_series_of_give_backs(f: Fixture) {
        let id = f.enqueue(item("k")).await;
        let give_back = || Settlement::GiveBack { failure: failure(), delay: Duration::from_secs(1) };
        let claim_later = async || {
            f.clock.advance(Duration::from_secs(2));
            f.claim_one("mail").await.reference()
        };
        for _ in 0..2 {
            f.store.settle(&claim_later().await, settled(give_back())).await.unwrap();
        }
        let series = "SELECT give_backs, given_back_since IS NULL FROM outbox_past";
        let told = |given_back: u32, is_over| {
            let flag = if f.backend() == Backend::Sqlite { ["0", "1"] } else { ["f", "t"] };
            format!("{given_back}|{}", flag[usize::from(is_over)])
        };
        assert_eq!(f.sql(series).unwrap(), told(2, false));
        assert_eq!(f.item(id).await.given_back_since, Some(after_start(2_000)));
        f.store.settle(&claim_later().await, dead()).await.unwrap();
        // A series that goes on when the item dies, as an operator's action leaves it.
        f.sql("UPDATE outbox_past SET give_backs = 7, given_back_since = 9").unwrap();
        f.store.operate(&operate_request(REPLAY, Selection::Ids(vec![id]))).await.unwrap();
        assert_eq!(f.sql(series).unwrap(), told(0, true));
        f.store.settle(&claim_later().await, settled(give_back())).await.unwrap();
        assert_eq!(f.sql(series).unwrap(), told(1, false));
        assert_eq!(f.item(id).await.given_back_since, Some(after_start(8_000)));
    }

    pub(super) async fn a_job_tells_what_became_of_its_items(f: Fixture) {
        let mut ids = Vec::new();
        for key in ["a", "b", "c", "d", "e"] {
            ids.push(f.enqueue(item(key)).await);
            f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
        }
        let all = Selection::Filter(Filter { status: vec![Status::Dlq], ..Filter::default() });
        let report = f.store.operate(&operate_request(REPLAY, all)).await.unwrap();
        for settled in [done(), dead(), dead()] {
            f.store.settle(&f.claim_one("mail").await.reference(), settled).await.unwrap();
        }
        let purge = operate_request(Action::Purge, Selection::Ids(vec![ids[0]]));
        f.store.operate(&purge).await.unwrap();
        let outcome = f.store.job_outcome(report.job.unwrap()).await.unwrap();
        assert_eq!((outcome.done, outcome.dead, outcome.waiting, outcome.gone), (0, 2, 2, 1));
        assert_eq!(outcome.replayed_since, 0);
        let again = f.store.operate(&operate_request(REPLAY, Selection::Ids(vec![ids[1]]))).await.unwrap();
        assert_eq!(again.changed, 1);
        for _ in 0..3 {
            f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        }
        let after = f.store.job_outcome(report.job.unwrap()).await.unwrap();
        assert_eq!(
            (after.done, after.dead, after.waiting, after.gone),
            (2, 2, 0, 1),
            "a later replay changes no result"
        );
        assert_eq!((after.replayed_since, after.causes.len(), after.causes[0].count), (1, 1, 1));
        let cause = &outcome.causes[0];
        assert_eq!((cause.count, cause.sample, cause.message.as_deref()), (2, ids[2], Some("the receiver is down")));
    }

    pub(super) async fn an_order_that_matches_nothing_leaves_an_audit_entry_and_no_job(f: Fixture) {
        let nothing = Selection::Filter(Filter { status: vec![Status::Dlq], ..Filter::default() });
        let report = f.store.operate(&operate_request(REPLAY, nothing)).await.unwrap();
        assert_eq!((report.matched, report.job), (0, None));
        assert!(f.store.jobs(None, 9).await.unwrap().is_empty());
        let entry = f.store.audit(&AuditQuery::default()).await.unwrap().remove(0);
        assert_eq!((entry.action.as_str(), entry.count, entry.job), ("replay", 0, None));
        assert_eq!(entry.selection, json!({ "filter": { "status": ["DLQ"] } }));
    }
}
