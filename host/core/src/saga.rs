//! Sagas: the items that one write becomes, and the names, data and outcomes of the signals of a run.
//!
//! Pure. The stores decide when a signal is due: they write it in the transaction of the transition that causes it.

use serde::Serialize;
use serde_json::{Value, json};

use outbox_item::NewItem;

/// A saga that a write can start: its name and the types of its steps, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaDefinition {
    /// The name of the saga, as in its signals.
    pub name: String,
    /// The item types of the steps. A write enqueues one item for each.
    pub steps: Vec<String>,
}

impl SagaDefinition {
    /// The built-in saga behind `POST /memory`.
    pub fn write_memory() -> Self {
        Self { name: "WriteMemorySaga".into(), steps: vec!["vector_upsert".into(), "belief_recompute".into()] }
    }

    /// The items of one write. Each step gets the whole body and the idempotency key `<idem_key>:<type>`.
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

/// The name of the signal that a run began.
pub fn begin_signal(saga: &str) -> String {
    format!("saga_begin.{saga}")
}

/// The name of the signal for a settled attempt of one step.
pub fn step_signal(saga: &str, item_type: &str) -> String {
    format!("saga_step.{saga}.{item_type}")
}

/// The name of the signal that a run ended: no item of it is PENDING or CLAIMED.
pub fn end_signal(saga: &str) -> String {
    format!("saga_end.{saga}")
}

/// The data of a begin signal. `run` counts the runs of this saga and correlation id from 1.
pub fn begin_data(cid: &str, run: i64, cause: RunCause) -> Value {
    json!({ "cid": cid, "run": run, "replay": cause == RunCause::Replay })
}

/// The data of an end signal.
pub fn end_data(cid: &str, outcome: SagaOutcome) -> Value {
    json!({ "cid": cid, "outcome": outcome })
}

/// Why the item that begins a run was in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunCause {
    /// A caller enqueued it.
    #[default]
    Enqueue,
    /// An operator replayed it.
    Replay,
}

impl RunCause {
    /// The cause of a run that begins with an item which operators have replayed this often.
    pub const fn of_replays(replays: u32) -> Self {
        if replays == 0 { Self::Enqueue } else { Self::Replay }
    }
}

/// How a run of a saga ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SagaOutcome {
    /// Every item is DONE.
    Ok,
    /// At least one item was dead-lettered.
    Error,
}

impl SagaOutcome {
    /// The outcome of an ended run with this number of items in the DLQ.
    pub const fn of_run(dead_items: i64) -> Self {
        if dead_items == 0 { Self::Ok } else { Self::Error }
    }

    /// The word in signals and counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

/// How an attempt of a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    /// The item is DONE.
    Ok,
    /// The item is PENDING again.
    Retried,
    /// The item was dead-lettered.
    Dead,
}

impl StepOutcome {
    /// The word in signals and counters.
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
    fn a_run_says_whether_a_replay_began_it_and_whether_an_item_is_dead() {
        let begun = |replays| begin_data("c1", 2, RunCause::of_replays(replays));
        assert_eq!(begun(0), json!({ "cid": "c1", "run": 2, "replay": false }));
        assert_eq!(begun(1), json!({ "cid": "c1", "run": 2, "replay": true }));
        assert_eq!((SagaOutcome::of_run(0), SagaOutcome::of_run(1)), (SagaOutcome::Ok, SagaOutcome::Error));
    }

    #[test]
    fn signals_are_named_by_saga_and_step() {
        assert_eq!(begin_signal("WriteMemorySaga"), "saga_begin.WriteMemorySaga");
        assert_eq!(step_signal("WriteMemorySaga", "vector_upsert"), "saga_step.WriteMemorySaga.vector_upsert");
        assert_eq!(end_signal("WriteMemorySaga"), "saga_end.WriteMemorySaga");
    }
}
