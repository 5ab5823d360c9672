//! What operators do to items, as far as it is the same in every store: what an action is about, what it
//! says in the history and in the audit trail, and what is reported of it.

use serde_json::{Map, Value, json};

use super::{Action, Control, Filter, InvalidAt, Job, JobId, OrderReport, Refusal, Standing};
use crate::item::{Class, Failure, Item, ItemId, Millis, Status, check_key, check_type};

/// So many items are changed in one transaction, so that nobody waits for it for long.
pub(super) const BATCH: u32 = 200;
/// So many ids are shown as a sample, and so many refusals are explained.
pub(super) const SAMPLE: usize = 20;
/// The code in the history row of an item that an operator dead-lettered.
pub(super) const DEAD: &str = "operator.dead";
/// Why nothing is done to an item that is not there.
pub(super) const MISSING: &str = "there is no such item";

/// The items that an action was tried on, and why it was refused where it was.
pub(super) type Outcomes = Vec<(ItemId, Option<String>)>;

impl Control {
    /// What the audit trail calls the thing that is said something about, and the job that it is.
    pub(super) fn about(&self) -> (&'static str, Option<JobId>) {
        match self {
            Self::Pause { .. } | Self::Resume { .. } => ("type", None),
            Self::Unblock { .. } => ("ordering_key", None),
            Self::Cancel { job } => ("job", Some(*job)),
            Self::Reserve { .. } => ("up_to", None),
        }
    }

    /// Errors when it is about something that there cannot be.
    pub(super) fn check(&self) -> Result<(), InvalidAt> {
        match self {
            Self::Pause { item_type } | Self::Resume { item_type } => check_type(item_type),
            Self::Unblock { ordering_key } => check_key("ordering_key", ordering_key),
            Self::Cancel { .. } | Self::Reserve { .. } => Ok(()),
        }
        .map_err(|source| InvalidAt { index: 0, source })
    }
}

/// What is done, by whom and why.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    pub(super) action: Action,
    pub(super) actor: String,
    pub(super) reason: Option<String>,
    pub(super) job: Option<JobId>,
}

impl Deed {
    /// What a job does.
    pub(super) fn of_job(job: &Job) -> Self {
        Self { action: job.action, actor: job.actor.clone(), reason: job.reason.clone(), job: Some(job.id) }
    }

    /// What the history of a dead-lettered item says of it.
    pub(super) fn death(&self) -> Failure {
        self.failure(DEAD, "dead-lettered")
    }

    /// What the history of a released item says of it.
    pub(super) fn release(&self) -> Failure {
        self.failure("operator.release", "released")
    }

    fn failure(&self, code: &str, done: &str) -> Failure {
        let reason = self.reason.as_deref().unwrap_or("no reason given");
        Failure::new(Class::Operator, code, format!("{done} by {}: {reason}", self.actor))
    }

    /// The entry in the audit trail about what was changed.
    pub(super) fn entry<'a>(&'a self, selection: Value, changes: &'a [Change]) -> Entry<'a> {
        let (action, reason) = (self.action.as_str(), self.reason.as_deref());
        Entry { actor: &self.actor, action, selection, reason, job: self.job, changes }
    }
}

/// An item as an action finds it.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) item: Item,
    pub(super) standing: Standing,
    pub(super) epoch: JobId,
    pub(super) blocks_key: bool,
}

impl Subject {
    /// Whether the item has been in a status that the job takes since before the job began.
    pub(super) fn began_with(&self, deed: &Deed, statuses: &[Status]) -> bool {
        statuses.contains(&self.item.status) && deed.job.is_some_and(|job| self.epoch < job)
    }

    /// What actions change of an item.
    pub(super) fn facts(&self) -> Map<String, Value> {
        let item = &self.item;
        let facts = json!({
            "status": item.status, "attempts": item.attempts, "deliveries": item.deliveries, "replays": item.replays,
            "effects": item.effects, "available_at": item.available_at, "maybe_executed": item.maybe_executed,
            "blocks_key": self.blocks_key,
        });
        facts.as_object().cloned().unwrap_or_default()
    }
}

/// What an action changed of one item.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) id: ItemId,
    pub(super) before: Value,
    pub(super) after: Value,
}

impl Change {
    /// The facts that are different afterwards; all of them before, when the item is gone.
    pub(super) fn between(id: ItemId, mut before: Map<String, Value>, mut after: Map<String, Value>) -> Self {
        before.retain(|name, value| after.get(name) != Some(value));
        after.retain(|name, _| before.contains_key(name));
        let after = if after.is_empty() { Value::Null } else { after.into() };
        Self { id, before: before.into(), after }
    }

    /// What unblocking does to an item that blocks its key.
    pub(super) fn unblocked(id: ItemId) -> Self {
        let blocks = |blocks_key: bool| json!({ "blocks_key": blocks_key });
        Self { id, before: blocks(true), after: blocks(false) }
    }
}

/// What stands in one new entry of the audit trail.
pub(super) struct Entry<'a> {
    pub(super) actor: &'a str,
    pub(super) action: &'a str,
    pub(super) selection: Value,
    pub(super) reason: Option<&'a str>,
    pub(super) job: Option<JobId>,
    /// The items that it concerns, with what changed.
    pub(super) changes: &'a [Change],
}

impl Entry<'_> {
    /// The changes as they are stored.
    pub(super) fn changes(&self) -> Value {
        self.changes
            .iter()
            .map(|change| json!({ "id": change.id, "before": change.before, "after": change.after }))
            .collect()
    }
}

/// The ids of what was changed, as the selection of an order that named them.
pub(super) fn named(changes: &[Change]) -> Value {
    json!({ "ids": changes.iter().map(|change| change.id).collect::<Vec<_>>() })
}

impl OrderReport {
    /// One about so many items.
    pub(super) fn about(matched: usize) -> Self {
        Self { matched: matched as u64, ..Self::default() }
    }

    /// Notes what became of an item.
    pub(super) fn add(&mut self, id: ItemId, refused: Option<String>) {
        match refused {
            None => {
                self.changed += 1;
                self.sample.push(id);
                self.sample.truncate(SAMPLE);
            }
            Some(reason) => {
                self.refused.push(Refusal { id, reason });
                self.refused.truncate(SAMPLE);
            }
        }
    }
}

/// A filter means the items that the action applies to.
pub(super) fn narrowed(filter: &Filter, action: Action) -> Filter {
    let asked = if filter.status.is_empty() { Status::ALL.to_vec() } else { filter.status.clone() };
    let mut status: Vec<_> = asked.iter().copied().filter(|status| action.applies_to(*status)).collect();
    if status.is_empty() {
        // None of the statuses allows it: let each item's refusal say so.
        status = asked;
    }
    Filter { status, ..filter.clone() }
}

impl Job {
    /// What was done of the order so far.
    pub(super) fn report(self) -> OrderReport {
        let Self { id, matched, changed, sample, refusals, .. } = self;
        OrderReport { matched, changed, sample, refused: refusals, job: Some(id) }
    }

    /// At most so many items in its next batch.
    pub(super) fn batch(&self) -> u32 {
        self.per_second.map_or(BATCH, |per_second| per_second.min(BATCH))
    }

    /// Whether a batch of these is its last.
    pub(super) fn ends_with(&self, ids: &[ItemId]) -> bool {
        ids.len() < self.batch() as usize
    }

    /// How far it has looked after a batch of these.
    pub(super) fn position_after(&self, ids: &[ItemId]) -> ItemId {
        ids.last().copied().filter(|_| !self.ends_with(ids)).unwrap_or(self.last_id)
    }

    /// The statuses of the items that it takes.
    pub(super) fn statuses(&self) -> &[Status] {
        if self.filter.status.is_empty() { &Status::ALL } else { &self.filter.status }
    }

    /// The job after a batch, and how long its rate makes it wait then.
    pub(super) fn after(&self, outcomes: Outcomes) -> (Self, Millis) {
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
    if list.len() < SAMPLE {
        list.push(one);
    }
}
