//! The item: what a caller enqueues and what a store keeps.
//!
//! Pure data. This file knows no store, no handler and no clock. The rules for the fields are in `validate.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::ItemId;
use crate::status::Status;
use crate::time::Millis;

/// The media type of an item whose caller named none.
pub const JSON: &str = "application/json";

/// An item that a caller wants to enqueue. [`NewItem::validate`] checks its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// The name of the effect. It selects the handler. Matches `[a-z0-9][a-z0-9._-]*`.
    pub item_type: String,
    /// The idempotency key: unique among all items, 1 to 255 printable ASCII bytes.
    pub idem_key: String,
    /// The bytes that the handler receives, unchanged.
    pub payload: Vec<u8>,
    /// The media type of `payload`.
    pub content_type: String,
    /// Names and values that the handler sees beside the payload, as an HTTP request could have them. Immutable.
    pub headers: BTreeMap<String, String>,
    /// Notes for operators. Handlers do not see them. Mutable.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The correlation id, 1 to 255 printable ASCII bytes. [`NewItem::correlation_id`] states the default.
    pub cid: Option<String>,
    /// The saga of which the item is a step. Matches `[A-Za-z0-9][A-Za-z0-9._-]*`.
    pub saga: Option<String>,
    /// Items with the same ordering key are handled one at a time, in the order of enqueue.
    pub ordering_key: Option<String>,
    /// Who shares the type with others, such as a tenant: workers claim the items of a type from its fairness keys in
    /// turn. 1 to 255 printable ASCII bytes.
    pub fairness_key: Option<String>,
    /// How long the item waits before a worker may claim it.
    pub delay: Duration,
}

impl NewItem {
    /// An item with a JSON payload and no optional field.
    pub fn new(item_type: &str, idem_key: &str, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            item_type: item_type.to_owned(),
            idem_key: idem_key.to_owned(),
            payload: payload.into(),
            content_type: JSON.to_owned(),
            headers: BTreeMap::new(),
            metadata: serde_json::Map::new(),
            cid: None,
            saga: None,
            ordering_key: None,
            fairness_key: None,
            delay: Duration::ZERO,
        }
    }

    /// The correlation id: `cid`, or the idempotency key when the caller set no `cid`. With this default a client that
    /// repeats a write finds the signals of the first one.
    pub fn correlation_id(&self) -> &str {
        self.cid.as_ref().unwrap_or(&self.idem_key)
    }

    /// The row of this item right after enqueue at `now`, as if the item had no delay.
    pub fn into_item(self, id: ItemId, now: Millis) -> Item {
        Item {
            id,
            cid: self.correlation_id().to_owned(),
            idem_key: self.idem_key,
            item_type: self.item_type,
            payload: self.payload,
            content_type: self.content_type,
            headers: self.headers,
            saga: self.saga,
            ordering_key: self.ordering_key,
            fairness_key: self.fairness_key,
            created_at: now,
            metadata: self.metadata,
            status: Status::Pending,
            attempts: 0,
            deliveries: 0,
            replays: 0,
            available_at: now,
            claimed_at: None,
            claimed_by: None,
            lease_until: None,
            losses: 0,
            give_backs: 0,
            maybe_executed: false,
            given_back_since: None,
            effect_generation: 0,
            last_error: None,
            done_at: None,
            dead_at: None,
            result: None,
            handler_digest: None,
        }
    }
}

/// One row of the items table.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The number that the store gives to the item at enqueue.
    pub id: ItemId,
    /// See [`NewItem::idem_key`]. Immutable, like every field from here to `created_at`.
    pub idem_key: String,
    /// See [`NewItem::item_type`].
    pub item_type: String,
    /// See [`NewItem::payload`].
    pub payload: Vec<u8>,
    /// See [`NewItem::content_type`].
    pub content_type: String,
    /// See [`NewItem::headers`].
    pub headers: BTreeMap<String, String>,
    /// See [`NewItem::cid`].
    pub cid: String,
    /// See [`NewItem::saga`].
    pub saga: Option<String>,
    /// See [`NewItem::ordering_key`].
    pub ordering_key: Option<String>,
    /// See [`NewItem::fairness_key`].
    pub fairness_key: Option<String>,
    /// When the store enqueued the item.
    pub created_at: Millis,
    /// See [`NewItem::metadata`]; operators may change it.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Changes by [`Status::next`] only.
    pub status: Status,
    /// Attempts since enqueue or the last replay. A claim adds one; a worker that gives back or releases the claim
    /// subtracts it.
    pub attempts: u32,
    /// Claims since enqueue; never falls.
    pub deliveries: u32,
    /// How often an operator replayed the item; never falls.
    pub replays: u32,
    /// No worker claims the item before this time. Replay, reschedule and every return to PENDING except a restore set
    /// it.
    pub available_at: Millis,
    /// When the present claim began; set while CLAIMED only.
    pub claimed_at: Option<Millis>,
    /// The instance id of the process that holds the claim; set while CLAIMED only.
    pub claimed_by: Option<String>,
    /// When the lease of the present claim ends; set while CLAIMED only.
    pub lease_until: Option<Millis>,
    /// Claims since enqueue or the last replay that ended without a settlement because their lease ran out; 0 once the
    /// item is DONE.
    pub losses: u32,
    /// Give-backs in the present series.
    pub give_backs: u32,
    /// Whether an earlier attempt may already have caused effects; a replay keeps it.
    pub maybe_executed: bool,
    /// When the present series of give-backs began. A worker's release keeps it; every other settlement unsets it.
    pub given_back_since: Option<Millis>,
    /// The generation of the outgoing idempotency keys of the item's effects; `replay --new-effects` adds one.
    pub effect_generation: u32,
    /// The message of the last failed attempt; a replay keeps it until the next attempt.
    pub last_error: Option<String>,
    /// When the item became DONE; set while DONE only.
    pub done_at: Option<Millis>,
    /// When the item was dead-lettered; set while DLQ only.
    pub dead_at: Option<Millis>,
    /// The result of the handler, if it returned one.
    pub result: Option<Vec<u8>>,
    /// The digest of the component that ran the last attempt.
    pub handler_digest: Option<String>,
}
