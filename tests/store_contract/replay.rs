//! The promises of every store about what a replay keeps of the life before.

use outbox::core::{HostWrites, Settlement};
use outbox::store::{AuditQuery, SettleRequest};
use serde_json::{Value, json};

use super::{REPLAY, operate_request};
use crate::support::{Fixture, item, settled};

promises! {
    a_replay_of_a_done_item_leaves_its_result_and_its_component_in_the_audit_trail
}

mod promise {
    use outbox::store::Selection;

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
}
