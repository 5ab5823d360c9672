//! The item: what it consists of, which statuses it passes through, and what makes one valid.
//!
//! Pure data and pure rules. It knows no store, no handler, no clock and no network; everything else
//! in the crate is written in its terms.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: Unix milliseconds, as the store keeps them.
pub type Millis = i64;

/// The store's number of an item: given once, never again, ascending in the order of enqueueing.
pub type ItemId = i64;

/// Where an item is in its life. Stored and printed in the playbook's spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Status {
    /// Waits to be claimed. Entered by enqueue, retry, give-back, expiry, replay and restore.
    Pending,
    /// A worker holds its lease. Entered by a claim only.
    Claimed,
    /// Its handler succeeded. Left by a replay only; purged by retention.
    Done,
    /// Out of retries, or rejected. Waits for an operator, who replays, restores or purges it.
    Dlq,
}

/// What happens to an item. Every change of status is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// A worker takes the item, for the length of a lease.
    Claim,
    /// The handler succeeded.
    Complete,
    /// The attempt failed and is counted; there are retries left.
    Retry,
    /// The attempt is given back uncounted: shutdown, `defer`, a fault that is not the item's.
    GiveBack,
    /// The lease ended before the claim was settled.
    Expire,
    /// The attempt failed for good, or there are no retries left.
    DeadLetter,
    /// An operator starts a new life of a finished item.
    Replay,
    /// An operator takes back a dead-lettering.
    Restore,
    /// An operator moves the time before which the item is not claimed.
    Reschedule,
}

/// A transition that the item's status does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an item that is {from} cannot take the event {transition:?}")]
pub struct IllegalTransition {
    /// The status that the item has.
    pub from: Status,
    /// The transition that was tried.
    pub transition: Transition,
}

impl Status {
    /// Every status, in the order of an item's life.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Claimed, Self::Done, Self::Dlq];

    /// The only place that decides a transition; SQL repeats its precondition as a guard.
    pub fn next(self, transition: Transition) -> Result<Self, IllegalTransition> {
        match (self, transition) {
            (Self::Pending, Transition::Claim) => Ok(Self::Claimed),
            (Self::Claimed, Transition::Complete) => Ok(Self::Done),
            (Self::Pending, Transition::Reschedule)
            | (Self::Claimed, Transition::Retry | Transition::GiveBack | Transition::Expire)
            | (Self::Done | Self::Dlq, Transition::Replay)
            | (Self::Dlq, Transition::Restore) => Ok(Self::Pending),
            (Self::Claimed, Transition::DeadLetter) => Ok(Self::Dlq),
            (from, transition) => Err(IllegalTransition { from, transition }),
        }
    }

    /// The word that is stored and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Claimed => "CLAIMED",
            Self::Done => "DONE",
            Self::Dlq => "DLQ",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Status> for &'static str {
    fn from(status: Status) -> Self {
        status.as_str()
    }
}

impl TryFrom<String> for Status {
    type Error = UnknownStatus;

    fn try_from(word: String) -> Result<Self, UnknownStatus> {
        word.parse()
    }
}

/// A word that names no status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown status {0:?}: use PENDING, CLAIMED, DONE or DLQ (or DELIVERING, PUBLISHED, DELIVERED, DEAD)")]
pub struct UnknownStatus(pub String);

impl FromStr for Status {
    type Err = UnknownStatus;

    /// Accepts the playbook's words and those of the Open Outbox specification, in any case.
    fn from_str(word: &str) -> Result<Self, UnknownStatus> {
        match word.to_ascii_uppercase().as_str() {
            "PENDING" => Ok(Self::Pending),
            "CLAIMED" | "DELIVERING" => Ok(Self::Claimed),
            "DONE" | "PUBLISHED" | "DELIVERED" => Ok(Self::Done),
            "DLQ" | "DEAD" => Ok(Self::Dlq),
            _ => Err(UnknownStatus(word.to_owned())),
        }
    }
}

/// An item that a caller wants to enqueue. [`NewItem::validate`] says whether it may be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// Which effect; chooses the handler. Matches `[a-z0-9][a-z0-9._-]*`.
    pub item_type: String,
    /// The caller's unique key, 1 to 255 printable ASCII bytes.
    pub idem_key: String,
    /// What the handler is given, byte for byte.
    pub payload: Vec<u8>,
    /// The media type of `payload`.
    pub content_type: String,
    /// What the handler is shown beside the payload. Immutable.
    pub headers: BTreeMap<String, String>,
    /// Notes for operators, not shown to handlers. Mutable.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The correlation id, 1 to 255 printable ASCII bytes. See [`NewItem::correlation_id`] when it is absent.
    pub cid: Option<String>,
    /// The saga that the item is a step of. Matches `[A-Za-z0-9][A-Za-z0-9._-]*`.
    pub saga: Option<String>,
    /// Items that share it are handled one at a time, in the order of enqueueing.
    pub ordering_key: Option<String>,
    /// How long the item waits before it may be claimed.
    pub delay: Duration,
}

impl NewItem {
    /// An item of JSON with nothing optional set.
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
            delay: Duration::ZERO,
        }
    }

    /// The correlation id, which is the item's own key when nobody has given one: so whoever repeats a write finds
    /// what the first one caused.
    pub fn correlation_id(&self) -> &str {
        self.cid.as_ref().unwrap_or(&self.idem_key)
    }

    /// The item as it stands when it has just been enqueued, at `now` and without a delay.
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

    /// Checks every field against the rules that the schema enforces too.
    pub fn validate(&self) -> Result<(), InvalidItem> {
        validate_type(&self.item_type)?;
        validate_key("idem_key", &self.idem_key)?;
        if let Some(cid) = &self.cid {
            validate_key("cid", cid)?;
        }
        if let Some(saga) = &self.saga {
            validate_saga(saga)?;
        }
        if let Some(key) = &self.ordering_key {
            validate_key("ordering_key", key)?;
        }
        validate_delay(self.delay)?;
        validate_key("content_type", &self.content_type)
    }
}

/// The media type of an item whose caller named none.
pub const JSON: &str = "application/json";

/// The longest `idem_key`, `cid`, `ordering_key`, type or saga, in bytes.
pub const KEY_MAX: usize = 255;

/// The longest delay of a new item: who means more has mistaken the unit.
pub const DELAY_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// A field of a new item that breaks a rule. Nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value:?}: it must be {accepted}")]
pub struct InvalidItem {
    /// The field's name, as in JSON and SQL.
    pub field: &'static str,
    /// What was given, cut to a readable length.
    pub value: String,
    /// What would have been accepted.
    pub accepted: &'static str,
}

/// Checks a type's spelling.
pub fn validate_type(item_type: &str) -> Result<(), InvalidItem> {
    let rest = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    require(is_name(item_type, first, rest), "type", item_type, "[a-z0-9][a-z0-9._-]*, at most 255 bytes")
}

/// Checks a saga's spelling.
pub fn validate_saga(saga: &str) -> Result<(), InvalidItem> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first = |b: u8| b.is_ascii_alphanumeric();
    require(is_name(saga, first, rest), "saga", saga, "[A-Za-z0-9][A-Za-z0-9._-]*, at most 255 bytes")
}

/// Checks an `idem_key`, a `cid` or anything that follows the same rule; `field` names it in the error.
pub fn validate_key(field: &'static str, key: &str) -> Result<(), InvalidItem> {
    let printable = key.bytes().all(|b| matches!(b, b' '..=b'~'));
    require(printable && (1..=KEY_MAX).contains(&key.len()), field, key, "1 to 255 printable ASCII bytes")
}

fn validate_delay(delay: Duration) -> Result<(), InvalidItem> {
    let most = "at most 315360000000, which is ten years";
    require(delay <= DELAY_MAX, "delay_ms", &delay.as_millis().to_string(), most)
}

fn is_name(word: &str, first: impl Fn(u8) -> bool, rest: impl Fn(u8) -> bool) -> bool {
    let bytes = word.as_bytes();
    bytes.len() <= KEY_MAX && bytes.first().is_some_and(|b| first(*b)) && bytes.iter().all(|b| rest(*b))
}

fn require(holds: bool, field: &'static str, value: &str, accepted: &'static str) -> Result<(), InvalidItem> {
    if holds {
        return Ok(());
    }
    Err(InvalidItem { field, value: value.chars().take(80).collect(), accepted })
}

/// One row of the items table.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Given by the store at enqueue.
    pub id: ItemId,
    /// See [`NewItem::idem_key`]. Immutable, like every field down to `created_at`.
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
    /// When it was enqueued; written by the store.
    pub created_at: Millis,
    /// See [`NewItem::metadata`]; operators may change it.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Moved by [`Status::next`] only.
    pub status: Status,
    /// Attempts of this life: raised by the claim, lowered by a give-back, 0 after a replay.
    pub attempts: u32,
    /// Claims of all lives; never falls.
    pub deliveries: u32,
    /// How often an operator replayed it; never falls.
    pub replays: u32,
    /// Not claimed before this; moved by retries, give-backs, replay and reschedule.
    pub available_at: Millis,
    /// When the present claim began; set while CLAIMED only.
    pub claimed_at: Option<Millis>,
    /// The instance id of the process that holds the claim; set while CLAIMED only.
    pub claimed_by: Option<String>,
    /// When the present claim's lease ends; set while CLAIMED only.
    pub lease_until: Option<Millis>,
    /// An earlier attempt may already have caused effects; kept by a replay.
    pub maybe_executed: bool,
    /// When the give-backs in a row began, if the last settlement was one.
    pub given_back_since: Option<Millis>,
    /// Which generation of outgoing keys its effects carry: raised by `replay --new-effects`.
    pub effect_generation: u32,
    /// The message of the last failed attempt; kept by a replay until the next attempt.
    pub last_error: Option<String>,
    /// When it became DONE; set while DONE only.
    pub done_at: Option<Millis>,
    /// When it was dead-lettered; set while DLQ only.
    pub dead_at: Option<Millis>,
    /// What the handler answered, if it answered anything.
    pub result: Option<Vec<u8>>,
    /// The digest of the component that ran the last attempt.
    pub handler_digest: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSITIONS: [Transition; 9] = [
        Transition::Claim,
        Transition::Complete,
        Transition::Retry,
        Transition::GiveBack,
        Transition::Expire,
        Transition::DeadLetter,
        Transition::Replay,
        Transition::Restore,
        Transition::Reschedule,
    ];

    #[test]
    fn only_the_drawn_transitions_exist() {
        let drawn: Vec<_> = Status::ALL
            .into_iter()
            .flat_map(|from| TRANSITIONS.map(|transition| (from, transition)))
            .filter_map(|(from, transition)| from.next(transition).ok().map(|to| (from, transition, to)))
            .collect();
        assert_eq!(
            drawn,
            [
                (Status::Pending, Transition::Claim, Status::Claimed),
                (Status::Pending, Transition::Reschedule, Status::Pending),
                (Status::Claimed, Transition::Complete, Status::Done),
                (Status::Claimed, Transition::Retry, Status::Pending),
                (Status::Claimed, Transition::GiveBack, Status::Pending),
                (Status::Claimed, Transition::Expire, Status::Pending),
                (Status::Claimed, Transition::DeadLetter, Status::Dlq),
                (Status::Done, Transition::Replay, Status::Pending),
                (Status::Dlq, Transition::Replay, Status::Pending),
                (Status::Dlq, Transition::Restore, Status::Pending),
            ]
        );
    }

    #[test]
    fn the_words_of_both_seeds_are_understood() {
        for (word, status) in [
            ("pending", Status::Pending),
            ("DELIVERING", Status::Claimed),
            ("PUBLISHED", Status::Done),
            ("delivered", Status::Done),
            ("DEAD", Status::Dlq),
            ("DLQ", Status::Dlq),
        ] {
            assert_eq!(word.parse(), Ok(status), "{word}");
        }
        assert!("FAILED".parse::<Status>().is_err());
    }

    #[test]
    fn a_bad_field_is_named_with_its_value_and_what_is_accepted() {
        let good = NewItem::new("vector_upsert", "k1", "{}");
        assert_eq!(good.validate(), Ok(()));
        let check = |change: fn(&mut NewItem), field: &str| {
            let mut item = good.clone();
            change(&mut item);
            assert_eq!(item.validate().unwrap_err().field, field);
        };
        check(|i| i.item_type = "Vector".into(), "type");
        check(|i| i.item_type = String::new(), "type");
        check(|i| i.idem_key = String::new(), "idem_key");
        check(|i| i.idem_key = "k".repeat(256), "idem_key");
        check(|i| i.idem_key = "schlüssel".into(), "idem_key");
        check(|i| i.cid = Some("a\nb".into()), "cid");
        check(|i| i.saga = Some("-x".into()), "saga");
        check(|i| i.ordering_key = Some(String::new()), "ordering_key");
    }
}
