//! What operators do to items, as far as it is the same in every store: what an action is about, what it
//! says in the history and in the audit trail, and what is reported of it.

use serde_json::{Map, Value, json};

use crate::error::InvalidAt;
use crate::inspect::Filter;
use crate::operate::{Action, Eligibility, OperateReport, Refusal};
use crate::operations::{Control, Job, JobId};
use outbox_core::{Failure, FailureClass};
use outbox_item::{Item, ItemId, Millis, Status, validate_key, validate_type};

/// So many items are changed in one transaction, so that nobody waits for it for long.
pub const BATCH_SIZE: u32 = 200;
/// So many ids are shown as a sample, and so many refusals are explained.
pub const SAMPLE_SIZE: usize = 20;
/// The code in the history row of an item that an operator dead-lettered.
pub const DEAD_BY_OPERATOR_CODE: &str = "operator.dead";
/// Why nothing is done to an item that is not there.
pub const NO_SUCH_ITEM: &str = "there is no such item";

/// The items that an action was tried on, and why it was refused where it was.
pub type ActionOutcomes = Vec<(ItemId, Option<String>)>;

impl Control {
    /// What the audit trail calls the thing that is said something about, and the job that it is.
    pub fn target_kind(&self) -> (&'static str, Option<JobId>) {
        match self {
            Self::Pause { .. } | Self::Resume { .. } => ("type", None),
            Self::Unblock { .. } => ("ordering_key", None),
            Self::Cancel { job } => ("job", Some(*job)),
            Self::ReserveIds { .. } => ("up_to", None),
        }
    }

    /// Errors when it is about something that there cannot be.
    pub fn validate(&self) -> Result<(), InvalidAt> {
        match self {
            Self::Pause { item_type } | Self::Resume { item_type } => validate_type(item_type),
            Self::Unblock { ordering_key } => validate_key("ordering_key", ordering_key),
            Self::Cancel { .. } | Self::ReserveIds { .. } => Ok(()),
        }
        .map_err(|source| InvalidAt { index: 0, source })
    }
}

/// What is done, by whom and why.
#[derive(Clone, Debug)]
pub struct ActionContext {
    pub action: Action,
    pub actor: String,
    pub reason: Option<String>,
    pub job: Option<JobId>,
}

impl ActionContext {
    /// What a job does.
    pub fn for_job(job: &Job) -> Self {
        Self { action: job.action, actor: job.actor.clone(), reason: job.reason.clone(), job: Some(job.id) }
    }

    /// What the history of a dead-lettered item says of it.
    pub fn dead_letter_failure(&self) -> Failure {
        self.failure(DEAD_BY_OPERATOR_CODE, "dead-lettered")
    }

    /// What the history of a released item says of it.
    pub fn release_failure(&self) -> Failure {
        self.failure("operator.release", "released")
    }

    fn failure(&self, code: &str, done: &str) -> Failure {
        let reason = self.reason.as_deref().unwrap_or("no reason given");
        Failure::new(FailureClass::Operator, code, format!("{done} by {}: {reason}", self.actor))
    }

    /// The entry in the audit trail about what was changed.
    pub fn audit_entry<'a>(&'a self, selection: Value, changes: &'a [ItemChange]) -> NewAuditEntry<'a> {
        let (action, reason) = (self.action.as_str(), self.reason.as_deref());
        NewAuditEntry { actor: &self.actor, action, selection, reason, job: self.job, changes }
    }
}

/// An item as an action finds it.
#[derive(Clone, Debug)]
pub struct ItemSnapshot {
    pub item: Item,
    pub eligibility: Eligibility,
    pub newest_job: JobId,
    pub blocks_key: bool,
}

impl ItemSnapshot {
    /// Whether the item has been in a status that the job takes since before the job began.
    pub fn was_eligible_at_job_start(&self, context: &ActionContext, statuses: &[Status]) -> bool {
        statuses.contains(&self.item.status) && context.job.is_some_and(|job| self.newest_job < job)
    }

    /// What actions change of an item.
    pub fn audited_fields(&self) -> Map<String, Value> {
        let item = &self.item;
        let fields = json!({
            "status": item.status, "attempts": item.attempts, "deliveries": item.deliveries, "replays": item.replays,
            "effects": item.effect_generation, "available_at": item.available_at, "maybe_executed": item.maybe_executed,
            "blocks_key": self.blocks_key,
        });
        fields.as_object().cloned().unwrap_or_default()
    }
}

/// What an action changed of one item.
#[derive(Clone, Debug)]
pub struct ItemChange {
    pub id: ItemId,
    pub before: Value,
    pub after: Value,
}

impl ItemChange {
    /// The facts that are different afterwards; all of them before, when the item is gone.
    pub fn between(id: ItemId, mut before: Map<String, Value>, mut after: Map<String, Value>) -> Self {
        before.retain(|name, value| after.get(name) != Some(value));
        after.retain(|name, _| before.contains_key(name));
        let after = if after.is_empty() { Value::Null } else { after.into() };
        Self { id, before: before.into(), after }
    }

    /// What unblocking does to an item that blocks its key.
    pub fn unblocked(id: ItemId) -> Self {
        let blocks = |blocks_key: bool| json!({ "blocks_key": blocks_key });
        Self { id, before: blocks(true), after: blocks(false) }
    }
}

/// What stands in one new entry of the audit trail.
pub struct NewAuditEntry<'a> {
    pub actor: &'a str,
    pub action: &'a str,
    pub selection: Value,
    pub reason: Option<&'a str>,
    pub job: Option<JobId>,
    /// The items that it concerns, with what changed.
    pub changes: &'a [ItemChange],
}

impl NewAuditEntry<'_> {
    /// The changes as they are stored.
    pub fn changes_json(&self) -> Value {
        self.changes
            .iter()
            .map(|change| json!({ "id": change.id, "before": change.before, "after": change.after }))
            .collect()
    }
}

/// The ids of what was changed, as the selection of a request for ids.
pub fn ids_selection(changes: &[ItemChange]) -> Value {
    json!({ "ids": changes.iter().map(|change| change.id).collect::<Vec<_>>() })
}

impl OperateReport {
    /// One about so many items.
    pub fn of_matched(matched: usize) -> Self {
        Self { matched: matched as u64, ..Self::default() }
    }

    /// Notes what became of an item.
    pub fn record(&mut self, id: ItemId, refused: Option<String>) {
        match refused {
            None => {
                self.changed += 1;
                self.sample.push(id);
                self.sample.truncate(SAMPLE_SIZE);
            }
            Some(reason) => {
                self.refused.push(Refusal { id, reason });
                self.refused.truncate(SAMPLE_SIZE);
            }
        }
    }
}

/// A filter means the items that the action applies to.
pub fn restrict_to_applicable(filter: &Filter, action: Action) -> Filter {
    let asked = if filter.status.is_empty() { Status::ALL.to_vec() } else { filter.status.clone() };
    let mut status: Vec<_> = asked.iter().copied().filter(|status| action.applies_to(*status)).collect();
    if status.is_empty() {
        // None of the statuses allows it: let each item's refusal say so.
        status = asked;
    }
    Filter { status, ..filter.clone() }
}

impl Job {
    /// What the job has done so far.
    pub fn into_report(self) -> OperateReport {
        let Self { id, matched, changed, sample, refusals, .. } = self;
        OperateReport { matched, changed, sample, refused: refusals, job: Some(id) }
    }

    /// At most so many items in its next batch.
    pub fn batch_size(&self) -> u32 {
        self.per_second.map_or(BATCH_SIZE, |per_second| per_second.min(BATCH_SIZE))
    }

    /// Whether a batch of these is its last.
    pub fn is_last_batch(&self, ids: &[ItemId]) -> bool {
        ids.len() < self.batch_size() as usize
    }

    /// How far it has looked after a batch of these.
    pub fn scanned_up_to_after(&self, ids: &[ItemId]) -> ItemId {
        ids.last().copied().filter(|_| !self.is_last_batch(ids)).unwrap_or(self.last_id)
    }

    /// The statuses of the items that it takes.
    pub fn statuses(&self) -> &[Status] {
        if self.filter.status.is_empty() { &Status::ALL } else { &self.filter.status }
    }

    /// The job after a batch, and how long its rate makes it wait then.
    pub fn after_batch(&self, outcomes: ActionOutcomes) -> (Self, Millis) {
        let mut job = self.clone();
        let made = i64::try_from(outcomes.len()).unwrap_or(i64::MAX);
        for (id, refusal) in outcomes {
            match refusal {
                None => {
                    job.changed += 1;
                    push_bounded(&mut job.sample, id);
                }
                Some(reason) => {
                    job.refused += 1;
                    push_bounded(&mut job.refusals, Refusal { id, reason });
                }
            }
        }
        (job, self.per_second.map_or(0, |per_second| made * 1000 / i64::from(per_second)))
    }
}

fn push_bounded<T>(list: &mut Vec<T>, one: T) {
    if list.len() < SAMPLE_SIZE {
        list.push(one);
    }
}
