//! Orders of operators, as the tests of several topics give them.

use std::ops::Range;

use outbox::core::OnDead;
use outbox::item::{ItemId, NewItem};
use outbox::store::{Action, Control, ControlRequest, Execution, LeasePolicy, Selection};

use super::operate_request;
use crate::support::{Fixture, dead, item};

/// Dead-letters an item whatever its claim does.
pub(super) const FORCED: Action = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Break };
/// Dead-letters an item unless it is claimed.
pub(super) const CAREFUL: Action = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Respect };

pub(super) fn keyed(key: &str, ordering_key: &str) -> NewItem {
    NewItem { ordering_key: Some(ordering_key.into()), ..item(key) }
}

pub(super) fn command(control: Control) -> ControlRequest {
    ControlRequest { control, actor: "ada@host".into(), reason: Some("night".into()), execution: Execution::Apply }
}

pub(crate) fn unblock(key: &str) -> ControlRequest {
    command(Control::Unblock { ordering_key: key.into() })
}

/// Performs the action on one item; the error is the reason of a refusal.
pub(super) async fn operate(f: &Fixture, action: Action, id: ItemId) -> Result<(), String> {
    let mut report = f.store.operate(&operate_request(action, Selection::Ids(vec![id]))).await.unwrap();
    report.refused.pop().map_or(Ok(()), |refusal| Err(refusal.reason.to_string()))
}

/// Enqueues items and dead-letters them.
pub(super) async fn dead_items(f: &Fixture, keys: Range<u32>) -> Vec<ItemId> {
    let mut ids = Vec::new();
    for key in keys {
        ids.push(f.enqueue(item(&key.to_string())).await);
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
    }
    ids
}
