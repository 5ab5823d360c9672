//! The audit trail: its entries as operators read them, and the entries that engines append.
//!
//! Each kind of entry is made by one constructor here, so that both engines record the same. Where entries are stored
//! is the engine's.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use outbox_item::{ItemId, Millis};

use crate::control::{Control, ControlRequest};
use crate::ids::JobId;
use crate::plugin_data::{ClearStateRequest, QuarantineRecord, StateTotal};

/// Which entries of the audit trail. Fields that are `None` do not restrict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditQuery {
    /// Entries that concern this item.
    pub item: Option<ItemId>,
    /// Entries of this actor.
    pub actor: Option<String>,
    /// Entries of this action.
    pub action: Option<String>,
    /// Entries of this job.
    pub job: Option<JobId>,
    /// Written at or after.
    pub from: Option<Millis>,
    /// Written before.
    pub to: Option<Millis>,
    /// Only entries with a smaller number: the last of the page before.
    pub before: Option<i64>,
    /// The largest number of entries; 0 means 100.
    pub limit: u32,
}

impl AuditQuery {
    /// The largest number of entries in the answer.
    pub fn page_size(&self) -> u32 {
        if self.limit == 0 { 100 } else { self.limit }
    }
}

/// One thing that an operator did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// Ascending in the order of commits.
    pub seq: i64,
    /// When.
    pub at: Millis,
    /// Who.
    pub actor: String,
    /// What: the word of the action or the control.
    pub action: String,
    /// To what: the ids, the filter, or the target of a control.
    pub selection: Value,
    /// Why.
    pub reason: Option<String>,
    /// The job that it is a batch of.
    pub job: Option<JobId>,
    /// How many items.
    pub count: u64,
    /// The items with what changed of each, before and after. In the trail of one item, that item only.
    pub changes: Value,
}

/// Bytes of a selection or of changes that a trail of many items shows; of longer ones it has the member `bytes` with
/// their size. The trail of one item has that item's part of them.
pub const AUDIT_VALUE_MAX: u32 = 64 << 10;

/// The changes of one item among those of an entry; all changes when no item is asked for.
pub fn changes_of(item: Option<ItemId>, changes: Value) -> Value {
    #[derive(Deserialize)]
    struct OfItem {
        id: ItemId,
    }
    let is_of = |change: &Value, id: ItemId| OfItem::deserialize(change).is_ok_and(|of| of.id == id);
    match (item, changes) {
        (Some(id), Value::Array(all)) => all.into_iter().filter(|change| is_of(change, id)).collect(),
        (_, changes) => changes,
    }
}

/// An entry that an engine appends to the audit trail, in the transaction that it records.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAuditEntry<'a> {
    /// Who.
    pub actor: &'a str,
    /// What: the word of the action or the control.
    pub action: &'static str,
    /// To what.
    pub selection: Value,
    /// Why.
    pub reason: Option<&'a str>,
    /// The job that it is a batch of, or that it cancelled.
    pub job: Option<JobId>,
    /// How many items, keys or components.
    pub count: u64,
    /// What changed, as [`AuditEntry::changes`] shows it.
    pub changes: Value,
    /// The items that it concerns.
    pub item_ids: Vec<ItemId>,
}

impl<'a> NewAuditEntry<'a> {
    /// A control; `unblocked` are the items that no longer block their ordering key.
    pub fn of_control(request: &'a ControlRequest, unblocked: &[ItemId]) -> Self {
        let (action, target) = request.control.action_and_target();
        if let Control::PauseKey { fairness_key, item_type } | Control::ResumeKey { fairness_key, item_type } =
            &request.control
        {
            let selection = json!({ "fairness_key": fairness_key, "type": item_type });
            return Self::of_items(&request.actor, action, selection, request.reason.as_deref(), &[]);
        }
        let (target_kind, job) = match &request.control {
            Control::Pause { .. } | Control::Resume { .. } | Control::Switch { .. } => ("type", None),
            Control::PauseKey { .. } | Control::ResumeKey { .. } => ("fairness_key", None),
            Control::Unblock { .. } => ("ordering_key", None),
            Control::Cancel { job } => ("job", Some(*job)),
            Control::RollBack { .. } => ("plugin", None),
            Control::ReserveIds { .. } => ("up_to", None),
        };
        let changes: Vec<_> = unblocked.iter().copied().map(ItemChange::unblocked).collect();
        let (selection, reason) = (json!({ target_kind: target }), request.reason.as_deref());
        Self { job, ..Self::of_items(&request.actor, action, selection, reason, &changes) }
    }

    /// An operator made the item `new` from the item `old`.
    pub fn of_anew(old: ItemId, new: ItemId, actor: &'a str, reason: Option<&'a str>) -> Self {
        let changes = json!([{ "id": new, "before": null, "after": { "anew_from": old } }]);
        let none = Self::of_items(actor, "anew", json!({ "from": old, "to": new }), reason, &[]);
        Self { count: 1, changes, item_ids: vec![old, new], ..none }
    }

    /// A component left the quarantine; `lifted` is the record that was removed.
    pub fn of_lifted_quarantine(lifted: &QuarantineRecord, actor: &'a str, reason: Option<&'a str>) -> Self {
        let selection = json!({ "digest": lifted.digest });
        let changes = json!([lifted]);
        let none = Self::of_items(actor, "release-plugin", selection, reason, &[]);
        Self { count: 1, changes, ..none }
    }

    /// State of a plugin was removed; `cleared` is how much.
    pub fn of_cleared_state(request: &'a ClearStateRequest, cleared: &StateTotal) -> Self {
        let selection = json!({ "plugin": request.plugin, "key": request.key });
        let changes = json!([cleared]);
        let none = Self::of_items(&request.actor, "clear_state", selection, request.reason.as_deref(), &[]);
        Self { count: cleared.keys, changes, ..none }
    }

    /// Something that changed items.
    pub fn of_items(
        actor: &'a str,
        action: &'static str,
        selection: Value,
        reason: Option<&'a str>,
        changes: &[ItemChange],
    ) -> Self {
        let change = |change: &ItemChange| json!({ "id": change.id, "before": change.before, "after": change.after });
        let (count, item_ids) = (changes.len() as u64, item_ids(changes));
        let changes = changes.iter().map(change).collect();
        Self { actor, action, selection, reason, job: None, count, changes, item_ids }
    }
}

fn item_ids(changes: &[ItemChange]) -> Vec<ItemId> {
    changes.iter().map(|change| change.id).collect()
}

/// What an action changed of one item.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemChange {
    /// The item.
    pub id: ItemId,
    /// The facts that are different now, as they were.
    pub before: Value,
    /// The same facts, as they are; `null` when the item is gone.
    pub after: Value,
}

impl ItemChange {
    /// The facts that are different afterwards; all of them before, when the item is gone, except its result: whoever
    /// purges an item wants that gone too.
    pub fn between(id: ItemId, mut before: Map<String, Value>, mut after: Map<String, Value>) -> Self {
        if after.is_empty() {
            before.remove("result");
        }
        before.retain(|name, value| after.get(name) != Some(value));
        after.retain(|name, _| before.contains_key(name));
        let after = if after.is_empty() { Value::Null } else { after.into() };
        Self { id, before: before.into(), after }
    }

    /// The item no longer blocks its ordering key.
    pub fn unblocked(id: ItemId) -> Self {
        let blocks = |blocks_key: bool| json!({ "blocks_key": blocks_key });
        Self { id, before: blocks(true), after: blocks(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Execution;

    #[test]
    fn an_entry_about_items_names_each_of_them() {
        let fields =
            |status: &str| Map::from_iter([("status".to_owned(), status.into()), ("replays".into(), 0.into())]);
        let changes =
            [ItemChange::between(ItemId::new(3), fields("DLQ"), Map::new()), ItemChange::unblocked(ItemId::new(4))];
        let entry = NewAuditEntry::of_items("ada", "purge", Value::Null, None, &changes);
        assert_eq!((entry.count, &entry.item_ids), (2, &vec![ItemId::new(3), ItemId::new(4)]));
        let gone = json!({ "id": 3, "before": { "status": "DLQ", "replays": 0 }, "after": null });
        let unblocked = json!({ "id": 4, "before": { "blocks_key": true }, "after": { "blocks_key": false } });
        assert_eq!(entry.changes, json!([gone, unblocked]));
    }

    #[test]
    fn the_result_of_an_item_that_is_gone_is_in_no_entry() {
        let done = || Map::from_iter([("status".to_owned(), "DONE".into()), ("result".into(), "r".into())]);
        let replayed = Map::from_iter([("status".to_owned(), "PENDING".into())]);
        let before = |after| ItemChange::between(ItemId::new(3), done(), after).before;
        assert_eq!(before(replayed), json!({ "status": "DONE", "result": "r" }));
        assert_eq!(before(Map::new()), json!({ "status": "DONE" }));
    }

    #[test]
    fn an_entry_of_a_cancelled_job_names_the_job() {
        let job = JobId::new(5);
        let control = Control::Cancel { job };
        let request = ControlRequest { control, actor: "ada".into(), reason: None, execution: Execution::Apply };
        let entry = NewAuditEntry::of_control(&request, &[]);
        assert_eq!((entry.action, entry.job, entry.count), ("cancel", Some(job), 0));
        assert_eq!((entry.selection, entry.changes), (json!({ "job": "5" }), json!([])));
    }
}
