//! Sagas: which items a write becomes, and how the signals of their progress are named.
//!
//! Pure. Which transition causes which signal is decided here; the store writes the signals in the
//! transaction of that transition.

use serde::Serialize;
use serde_json::{Value, json};

use outbox_item::{Millis, NewItem};

/// A saga that writes may start: a name and the types of its steps, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaDefinition {
    /// The saga's name, as in its signals.
    pub name: String,
    /// One item is enqueued for each.
    pub steps: Vec<String>,
}

impl SagaDefinition {
    /// The playbook's own saga: the write behind `POST /memory`.
    pub fn write_memory() -> Self {
        Self { name: "WriteMemorySaga".into(), steps: vec!["vector_upsert".into(), "belief_recompute".into()] }
    }

    /// The items of one write: each step gets the whole body and the key `<idem_key>:<type>`.
    pub fn items(&self, cid: &str, idem_key: &str, body: &[u8]) -> Vec<NewItem> {
        self.steps.iter().map(|step| self.item(step, cid, idem_key, body)).collect()
    }

    fn item(&self, step: &str, cid: &str, idem_key: &str, body: &[u8]) -> NewItem {
        let mut item = NewItem::new(step, &format!("{idem_key}:{step}"), body);
        item.cid = Some(cid.to_owned());
        item.saga = Some(self.name.clone());
        item
    }
}

/// A notice of a saga's progress, as it is stored and streamed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Signal {
    /// Ascending in the order of commits.
    pub seq: i64,
    /// The instance id of the process whose transition caused it.
    pub pod: String,
    /// `saga_begin.<Saga>`, `saga_step.<Saga>.<type>` or `saga_end.<Saga>`.
    pub signal: String,
    /// When it was caused.
    pub ts: Millis,
    /// `cid` always; `item_id`, `attempt` and `outcome` for a step; `outcome` for an end.
    pub data: Value,
}

/// The name of the signal that a run of the saga began.
pub fn begin_signal(saga: &str) -> String {
    format!("saga_begin.{saga}")
}

/// The name of the signal that an attempt of one of the saga's items was settled.
pub fn step_signal(saga: &str, item_type: &str) -> String {
    format!("saga_step.{saga}.{item_type}")
}

/// The name of the signal that no item of the run is left to do.
pub fn end_signal(saga: &str) -> String {
    format!("saga_end.{saga}")
}

/// What the signal of a begin tells.
pub fn begin_data(cid: &str, run: i64, is_replay: bool) -> Value {
    json!({ "cid": cid, "run": run, "replay": is_replay })
}

/// What the signal of an end tells.
pub fn end_data(cid: &str, outcome: SagaOutcome) -> Value {
    json!({ "cid": cid, "outcome": outcome })
}

/// How a run of a saga ended, as its signal and the totals say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SagaOutcome {
    /// Every item is DONE.
    Ok,
    /// At least one item was dead-lettered.
    Error,
}

impl SagaOutcome {
    /// The outcome of a run that has no item left to do, given whether one of them was dead-lettered.
    pub fn of_run(has_dead: bool) -> Self {
        if has_dead { Self::Error } else { Self::Ok }
    }

    /// The word that is stored and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

/// How an attempt of a step ended, as its signal and the totals say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    /// The item is DONE.
    Ok,
    /// The item will be tried again.
    Retried,
    /// The item was dead-lettered.
    Dead,
}

impl StepOutcome {
    /// The word that is stored and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Retried => "retried",
            Self::Dead => "dead",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_becomes_one_item_per_step_with_a_key_of_its_own() {
        let items = SagaDefinition::write_memory().items("c1", "k1", b"{}");
        let keys: Vec<_> = items.iter().map(|item| item.idem_key.as_str()).collect();
        assert_eq!(keys, ["k1:vector_upsert", "k1:belief_recompute"]);
        assert!(items.iter().all(|item| item.saga.as_deref() == Some("WriteMemorySaga")));
        assert!(items.iter().all(|item| item.cid.as_deref() == Some("c1")));
    }

    #[test]
    fn signals_are_named_as_the_playbook_names_them() {
        assert_eq!(begin_signal("WriteMemorySaga"), "saga_begin.WriteMemorySaga");
        assert_eq!(step_signal("WriteMemorySaga", "vector_upsert"), "saga_step.WriteMemorySaga.vector_upsert");
        assert_eq!(end_signal("WriteMemorySaga"), "saga_end.WriteMemorySaga");
    }
}
