//! An attempt, as the history and the signals of every store tell of it.

use serde_json::{Value, json};

use crate::engine::alerts::is_alert;
use outbox_core::saga::StepOutcome;
use outbox_item::{Item, ItemId, Millis};

/// What the history and the signals need to know of an attempt.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    pub id: ItemId,
    pub item_type: String,
    pub saga: Option<String>,
    pub cid: String,
    pub attempt: u32,
    pub delivery: u32,
    pub started_at: Millis,
    pub pod: String,
    pub maybe_executed: bool,
    pub handler_digest: Option<String>,
    /// What it sent and was answered, as it is stored.
    pub exchanges: Option<Vec<u8>>,
    pub ordering_key: Option<String>,
    pub is_alert: bool,
}

impl AttemptRecord {
    /// The attempt that the item's present claim made.
    pub fn from_claim(item: &Item) -> Self {
        Self {
            id: item.id,
            item_type: item.item_type.clone(),
            saga: item.saga.clone(),
            cid: item.cid.clone(),
            attempt: item.attempts,
            delivery: item.deliveries,
            started_at: item.claimed_at.unwrap_or_default(),
            pod: item.claimed_by.clone().unwrap_or_default(),
            maybe_executed: false,
            handler_digest: None,
            exchanges: None,
            ordering_key: item.ordering_key.clone(),
            is_alert: is_alert(&item.idem_key),
        }
    }

    /// The step of its saga that it made, if it has one.
    pub fn saga_step(&self) -> Option<SagaStep<'_>> {
        let Self { id, item_type, cid, attempt, .. } = self;
        self.saga.as_deref().map(|saga| SagaStep { saga, cid, item_type, item_id: *id, attempt: *attempt })
    }
}

/// What the signals need to know of an attempt at an item of a saga.
pub struct SagaStep<'a> {
    pub saga: &'a str,
    pub cid: &'a str,
    pub item_type: &'a str,
    pub item_id: ItemId,
    pub attempt: u32,
}

impl SagaStep<'_> {
    /// What the signal of the step tells; `class` is `done` or the failure's class.
    pub fn signal_data(&self, outcome: StepOutcome, class: &str) -> Value {
        json!({
            "cid": self.cid, "item_id": self.item_id, "attempt": self.attempt, "outcome": outcome, "class": class,
        })
    }
}
