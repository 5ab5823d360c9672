//! An operator's action, as an engine carries it out: the items as they are found, and what the history records.
//!
//! Whether an item can take the action is decided by [`Action::resulting_status`]; the statements are the engine's.

use serde_json::{Map, Value, json};

use outbox_core::{Failure, FailureClass, Past};
use outbox_item::{Item, Status};

use crate::action::{Action, EffectKeys, Eligibility};
use crate::audit::{ItemChange, NewAuditEntry};
use crate::error::StoreError;
use crate::filter::Filter;
use crate::ids::JobId;
use crate::jobs::Job;
use crate::operate::{OperateRequest, Selection};
use crate::transfer::{base64_of, from_bytes};

/// The code in the history row of an item that an operator dead-lettered.
pub const DEAD_BY_OPERATOR_CODE: &str = "operator.dead";

/// The past of an item after a replay: a new life, in which no attempt counts yet. `last_error`, `maybe_executed` and the
/// deliveries stay.
pub fn past_after_replay(item: &Item, keys: EffectKeys) -> Past {
    let before = Past::of(item);
    Past {
        attempts: 0,
        replays: before.replays.saturating_add(1),
        effect_generation: before.effect_generation.saturating_add(u32::from(keys == EffectKeys::New)),
        losses: 0,
        give_backs: 0,
        given_back_since: None,
        ..before
    }
}

/// What an operator does to items, with the facts that the history and the audit trail record.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionContext {
    /// The action.
    pub action: Action,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// The job that it is a batch of.
    pub job: Option<Job>,
}

impl ActionContext {
    /// What a request for ids does.
    pub fn of_request(request: &OperateRequest) -> Self {
        Self { action: request.action, actor: request.actor.clone(), reason: request.reason.clone(), job: None }
    }

    /// What a batch of a job does.
    pub fn of_job(job: &Job) -> Self {
        Self { action: job.action, actor: job.actor.clone(), reason: job.reason.clone(), job: Some(job.clone()) }
    }

    /// Whether a job leaves the item out: it is gone, or was not eligible when the job began.
    pub fn passes_over(&self, found: Option<&ItemSnapshot>) -> bool {
        self.job.as_ref().is_some_and(|job| !found.is_some_and(|found| found.was_eligible_at_start_of(job)))
    }

    /// The failure in the history of a dead-lettered item.
    pub fn dead_letter_failure(&self) -> Failure {
        self.failure(DEAD_BY_OPERATOR_CODE, "dead-lettered")
    }

    /// The failure in the history of a released item.
    pub fn release_failure(&self) -> Failure {
        self.failure("operator.release", "released")
    }

    /// The entry in the audit trail about what was changed.
    pub fn audit_entry(&self, changes: &[ItemChange]) -> NewAuditEntry<'_> {
        let selection = match &self.job {
            Some(job) => json!({ "filter": job.filter }),
            None => json!({ "ids": changes.iter().map(|change| change.id).collect::<Vec<_>>() }),
        };
        let (action, reason) = (self.action.as_str(), self.reason.as_deref());
        let job = self.job.as_ref().map(|job| job.id);
        NewAuditEntry { job, ..NewAuditEntry::of_items(&self.actor, action, selection, reason, changes) }
    }

    fn failure(&self, code: &str, done: &str) -> Failure {
        let reason = self.reason.as_deref().unwrap_or("no reason given");
        Failure::new(FailureClass::Operator, code, format!("{done} by {}: {reason}", self.actor))
    }
}

/// An item as an action finds it.
#[derive(Clone, Debug)]
pub struct ItemSnapshot {
    /// The item.
    pub item: Item,
    /// What decides whether it can take the action.
    pub eligibility: Eligibility,
    /// The newest job at the time of the item's last transition.
    pub newest_job: JobId,
    /// Whether it blocks its ordering key.
    pub blocks_key: bool,
}

impl ItemSnapshot {
    /// Whether the item has been in a status that the job takes since before the job began.
    fn was_eligible_at_start_of(&self, job: &Job) -> bool {
        job.statuses().contains(&self.item.status) && self.newest_job < job.id
    }

    /// The ordering key that goes on after the action, because the item no longer blocks it.
    pub fn unblocked_key(&self, action: Action) -> Option<String> {
        let ends_block = self.blocks_key && matches!(action, Action::Purge | Action::Replay { .. } | Action::Restore);
        self.item.ordering_key.clone().filter(|_| ends_block)
    }

    /// The facts that actions can change, for the audit trail, and what names the item once it is gone.
    pub fn audited_fields(&self) -> Map<String, Value> {
        let item = &self.item;
        let mut fields = json!({
            "type": item.item_type, "idem_key": item.idem_key, "status": item.status, "attempts": item.attempts, "deliveries": item.deliveries, "replays": item.replays,
            "effects": item.effect_generation, "available_at": item.available_at, "maybe_executed": item.maybe_executed,
            "blocks_key": self.blocks_key,
        });
        if item.status == Status::Done {
            // A replay deletes both; here they stay.
            fields["handler_digest"] = json!(item.handler_digest);
            fields["result"] = json!(item.result.as_deref().map(audited_result));
        }
        fields.as_object().cloned().unwrap_or_default()
    }
}

/// The largest result that the audit trail keeps, in bytes: one entry has those of a whole batch.
const AUDITED_RESULT_MAX: usize = 65_536;

/// The result, or its size if it is larger than the audit trail keeps.
fn audited_result(result: &[u8]) -> Value {
    if result.len() > AUDITED_RESULT_MAX {
        return json!({ "bytes": result.len() });
    }
    // PostgreSQL's JSON takes no NUL.
    if result.contains(&0) { base64_of(result) } else { from_bytes(result) }
}

/// The filter restricted to the statuses that the action applies to.
pub fn restrict_to_applicable(filter: &Filter, action: Action) -> Filter {
    let asked = if filter.status.is_empty() { Status::ALL.to_vec() } else { filter.status.clone() };
    let mut status: Vec<_> = asked.iter().copied().filter(|status| action.applies_to(*status)).collect();
    if status.is_empty() {
        // No status allows the action: the refusal of each item then says so.
        status = asked;
    }
    Filter { status, ..filter.clone() }
}

/// The filter of the job that the request begins; errors for a request about ids.
pub fn job_filter(request: &OperateRequest) -> Result<Filter, StoreError> {
    match &request.selection {
        Selection::Filter(filter) => {
            filter.validate()?;
            Ok(restrict_to_applicable(filter, request.action))
        }
        Selection::Ids(_) => {
            Err(StoreError::Unusable("a job is about a filter: give ids to an order without one".into()))
        }
    }
}

/// The entry in the audit trail about a request that matched nothing.
pub fn matched_nothing<'a>(request: &'a OperateRequest, filter: &Filter) -> NewAuditEntry<'a> {
    let (action, reason) = (request.action.as_str(), request.reason.as_deref());
    NewAuditEntry::of_items(&request.actor, action, json!({ "filter": filter }), reason, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_trail_has_a_result_as_text_as_base64_or_by_its_size() {
        assert_eq!(audited_result(b"sent"), "sent");
        assert_eq!(audited_result(b"a\0"), json!({ "base64": "YQA=" }));
        assert_eq!(audited_result(&vec![b'a'; AUDITED_RESULT_MAX + 1]), json!({ "bytes": AUDITED_RESULT_MAX + 1 }));
    }
}
