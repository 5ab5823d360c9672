//! An attempt at an item, as the history, the alerts and the signals of every store describe it.
//!
//! It knows the item and its claim, and nothing of how an attempt ends.

use serde_json::{Value, json};

use outbox_core::saga::StepOutcome;
use outbox_item::{Item, ItemId, Millis};

use crate::error::StoreError;

/// The idempotency keys of alert items begin with this, so that a dead alert causes no alert.
pub(crate) const ALERT_KEY_PREFIX: &str = "outbox-alert:";

/// Whether the idempotency key is that of an alert item.
pub fn is_alert(idem_key: &str) -> bool {
    idem_key.starts_with(ALERT_KEY_PREFIX)
}

/// An item with the claim that holds it.
#[derive(Clone, Copy, Debug)]
pub struct ClaimedItem<'a> {
    /// The item.
    pub item: &'a Item,
    /// When the claim began.
    pub claimed_at: Millis,
    /// Who holds the claim: the instance id of a process, or the name of an operator.
    pub claimed_by: &'a str,
}

impl<'a> ClaimedItem<'a> {
    /// The claim that the item's row records. Errors with [`StoreError::Unusable`] when the row records none, which the
    /// schemas rule out for a CLAIMED item.
    pub fn of_row(item: &'a Item) -> Result<Self, StoreError> {
        let claim = item.claimed_at.zip(item.claimed_by.as_deref());
        let (claimed_at, claimed_by) =
            claim.ok_or_else(|| StoreError::Unusable(format!("item {} has no claim on its row", item.id)))?;
        Ok(Self { item, claimed_at, claimed_by })
    }
}

/// What the history, the alerts and the signals need to know of an attempt.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// The item.
    pub id: ItemId,
    /// The item's type.
    pub item_type: String,
    /// The item's saga.
    pub saga: Option<String>,
    /// The item's correlation id.
    pub cid: String,
    /// The number of the attempt since the last replay, from 1.
    pub attempt: u32,
    /// The number of the claim since the item was enqueued, from 1.
    pub delivery: u32,
    /// When the claim began.
    pub started_at: Millis,
    /// Who held the claim.
    pub pod: String,
    /// Whether the attempt may have caused effects.
    pub maybe_executed: bool,
    /// The component that ran the attempt.
    pub handler_digest: Option<String>,
    /// The recorded requests and responses of the attempt, compressed as they are stored.
    pub exchanges: Option<Vec<u8>>,
    /// The item's ordering key.
    pub ordering_key: Option<String>,
    /// Whether the item is an alert itself.
    pub is_alert: bool,
}

impl AttemptRecord {
    /// The attempt that the claim made, without what only its end tells: no effects, no digest, no recording.
    pub fn from_claim(claim: &ClaimedItem<'_>) -> Self {
        let ClaimedItem { item, claimed_at, claimed_by } = *claim;
        Self {
            id: item.id,
            item_type: item.item_type.clone(),
            saga: item.saga.clone(),
            cid: item.cid.clone(),
            attempt: item.attempts,
            delivery: item.deliveries,
            started_at: claimed_at,
            pod: claimed_by.to_owned(),
            maybe_executed: false,
            handler_digest: None,
            exchanges: None,
            ordering_key: item.ordering_key.clone(),
            is_alert: is_alert(&item.idem_key),
        }
    }

    /// The step of its saga that the attempt made; `None` when the item has no saga.
    pub fn saga_step(&self) -> Option<SagaStep<'_>> {
        let Self { id, item_type, cid, attempt, .. } = self;
        self.saga.as_deref().map(|saga| SagaStep { saga, cid, item_type, item_id: *id, attempt: *attempt })
    }
}

/// What the signals need to know of an attempt at an item of a saga.
pub struct SagaStep<'a> {
    /// The saga.
    pub saga: &'a str,
    /// The item's correlation id.
    pub cid: &'a str,
    /// The item's type.
    pub item_type: &'a str,
    /// The item.
    pub item_id: ItemId,
    /// The number of the attempt since the last replay, from 1.
    pub attempt: u32,
}

impl SagaStep<'_> {
    /// The data of the step's signal; `class` is `done` or the failure's class.
    pub fn signal_data(&self, outcome: StepOutcome, class: &str) -> Value {
        json!({
            "cid": self.cid, "item_id": self.item_id, "attempt": self.attempt, "outcome": outcome, "class": class,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outbox_item::NewItem;

    #[test]
    fn a_claim_is_never_made_up() {
        let mut item = NewItem::new("t", "k", "").into_item(ItemId::new(7), Millis::default());
        let missing = ClaimedItem::of_row(&item).map(|_| ()).unwrap_err();
        assert_eq!(missing.to_string(), "item 7 has no claim on its row");
        item.claimed_at = Some(Millis::new(5));
        assert!(ClaimedItem::of_row(&item).is_err());
        item.claimed_by = Some("pod-1".into());
        let attempted = AttemptRecord::from_claim(&ClaimedItem::of_row(&item).unwrap());
        assert_eq!((attempted.started_at, attempted.pod.as_str()), (Millis::new(5), "pod-1"));
    }
}
