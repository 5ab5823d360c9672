//! What an operator can do to an item, and whether an item is eligible for it. Pure.
//!
//! [`Action::resulting_status`] decides for every store, and asks [`Status::next`] for each transition. This file does
//! not know how a store carries out an action.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use outbox_core::OnDead;
use outbox_item::{ItemId, Millis, Status, Transition};

use crate::filter::Filter;

/// An operator's action on items. An action changes only what its description names. Apart from a purge, which deletes
/// the item, no action lowers `deliveries`, deletes history or clears `maybe_executed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Action {
    /// Makes DONE and DLQ items PENDING again: `attempts` 0, `replays` + 1, `available_at` now. An ordering key that
    /// the item blocked is free again. `last_error` stays until the next attempt. Effects may happen twice.
    Replay {
        /// Whether the outgoing keys stay the same or a new generation of them begins.
        keys: EffectKeys,
    },
    /// Dead-letters PENDING and CLAIMED items: the operator takes the claim and ends it, which leaves a history row
    /// of the class `operator`. `attempts` stays. An item without a claim gets `deliveries` + 1; an item with one
    /// gets `maybe_executed`, because the attempt may still be acting.
    Dead {
        /// What this means for the items behind it with the same ordering key.
        on_dead: OnDead,
        /// Whether a claim whose lease has not ended may be taken.
        lease: LeasePolicy,
    },
    /// Takes back an operator's [`Action::Dead`]: PENDING with the `attempts`, the `available_at` and the
    /// `last_error` that it had. For an item that failed, operators use replay instead.
    Restore,
    /// Moves the time before which a PENDING item is not claimed.
    Reschedule {
        /// The new `available_at`; a moment that has passed means now.
        at: Millis,
    },
    /// Ends the claim of CLAIMED items: PENDING, available now, `maybe_executed` set, with a history row of the class
    /// `operator`. The attempt counts, like one whose lease ended.
    Release {
        /// Whether a claim whose lease has not ended may be taken.
        lease: LeasePolicy,
    },
    /// Deletes DONE and DLQ items with their history, unless other items of their saga run are not finished.
    Purge,
}

impl Action {
    /// The action without its options.
    pub fn kind(self) -> ActionKind {
        match self {
            Self::Replay { .. } => ActionKind::Replay,
            Self::Dead { .. } => ActionKind::Dead,
            Self::Restore => ActionKind::Restore,
            Self::Reschedule { .. } => ActionKind::Reschedule,
            Self::Release { .. } => ActionKind::Release,
            Self::Purge => ActionKind::Purge,
        }
    }

    /// The word in the audit trail and on the command line.
    pub fn as_str(self) -> &'static str {
        self.kind().as_str()
    }

    /// The status of the item after the action; `None` when the action deletes the item. Errors with the reason why the
    /// item cannot take the action.
    pub fn resulting_status(self, eligibility: Eligibility) -> Result<Option<Status>, Refusal> {
        let from = eligibility.status;
        let wrong_status = || Refusal::WrongStatus { from, action: self.kind() };
        let next = |transition| from.next(transition).map_err(|_| wrong_status());
        match self {
            Self::Replay { .. } => next(Transition::Replay).map(Some),
            Self::Dead { lease, .. } => {
                let claimed = if from == Status::Pending { next(Transition::Claim)? } else { from };
                let dead = claimed.next(Transition::DeadLetter).map_err(|_| wrong_status())?;
                eligibility.check_lease(lease).map(|()| Some(dead))
            }
            Self::Restore => {
                let to = next(Transition::Restore)?;
                if eligibility.dead_by_operator { Ok(Some(to)) } else { Err(Refusal::NotByOperator) }
            }
            Self::Reschedule { .. } => next(Transition::Reschedule).map(Some),
            Self::Release { lease } => {
                let to = next(Transition::Expire)?;
                eligibility.check_lease(lease).map(|()| Some(to))
            }
            Self::Purge if !matches!(from, Status::Done | Status::Dlq) => Err(wrong_status()),
            Self::Purge if eligibility.saga_is_open => Err(Refusal::SagaOpen),
            Self::Purge => Ok(None),
        }
    }

    /// Whether an operator confirms the action on all items that match before it is carried out: it deletes, it takes
    /// items from workers, it may repeat effects that receivers have performed, or it moves the due time of every
    /// waiting item, also of those that were enqueued for later. An item that its key names is named.
    pub fn needs_confirmation(self, filter: &Filter) -> bool {
        let is_dangerous = match self {
            Self::Purge
            | Self::Dead { .. }
            | Self::Release { lease: LeasePolicy::Break }
            | Self::Replay { keys: EffectKeys::New } => true,
            Self::Replay { keys: EffectKeys::Same } => {
                filter.status.is_empty() || filter.status.contains(&Status::Done)
            }
            Self::Reschedule { .. } => filter.is_status_alone(),
            Self::Restore | Self::Release { lease: LeasePolicy::Respect } => false,
        };
        is_dangerous && filter.idem_key.is_none()
    }

    /// Whether there are items of this status that can take the action.
    pub fn applies_to(self, status: Status) -> bool {
        let eligible = Eligibility { status, is_leased: false, dead_by_operator: true, saga_is_open: false };
        self.resulting_status(eligible).is_ok()
    }
}

/// An [`Action`] without its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// [`Action::Replay`].
    Replay,
    /// [`Action::Dead`].
    Dead,
    /// [`Action::Restore`].
    Restore,
    /// [`Action::Reschedule`].
    Reschedule,
    /// [`Action::Release`].
    Release,
    /// [`Action::Purge`].
    Purge,
}

impl ActionKind {
    const ALL: [Self; 6] = [Self::Replay, Self::Dead, Self::Restore, Self::Reschedule, Self::Release, Self::Purge];

    /// The word in the audit trail and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Dead => "dead",
            Self::Restore => "restore",
            Self::Reschedule => "reschedule",
            Self::Release => "release",
            Self::Purge => "purge",
        }
    }

    /// Which statuses can take the action, in words.
    fn status_rule(self) -> &'static str {
        match self {
            Self::Replay => "only DONE and DLQ items can be replayed",
            Self::Dead => "only PENDING and CLAIMED items can be dead-lettered",
            Self::Restore => "only DLQ items can be restored",
            Self::Reschedule => "only PENDING items can be rescheduled",
            Self::Release => "only CLAIMED items can be released",
            Self::Purge => "only DONE and DLQ items can be purged",
        }
    }
}

/// The facts that decide whether an item can take an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eligibility {
    /// Its status.
    pub status: Status,
    /// A claim holds it whose lease has not ended.
    pub is_leased: bool,
    /// An operator dead-lettered it.
    pub dead_by_operator: bool,
    /// Other items of its saga run are not finished.
    pub saga_is_open: bool,
}

impl Eligibility {
    fn check_lease(self, lease: LeasePolicy) -> Result<(), Refusal> {
        if self.is_leased && lease == LeasePolicy::Respect { Err(Refusal::LeaseHeld) } else { Ok(()) }
    }
}

/// Why an item cannot take an action. JSON and the store contain its text, which is for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No item has the id.
    NoSuchItem,
    /// The item's status does not allow the action.
    WrongStatus {
        /// The status that the item has.
        from: Status,
        /// What was tried.
        action: ActionKind,
    },
    /// A claim holds the item, its lease has not ended, and the action respects leases.
    LeaseHeld,
    /// The item is in the DLQ because it failed, so there is nothing to restore.
    NotByOperator,
    /// Other items of the same saga run are not finished.
    SagaOpen,
    /// A text that another version of this program stored.
    Other(String),
}

const NO_SUCH_ITEM: &str = "there is no such item";
const LEASE_HELD: &str = "its lease has not ended: force it, if you accept that the attempt may still be acting";
const NOT_BY_OPERATOR: &str = "no operator dead-lettered it, it failed: replay it instead";
const SAGA_OPEN: &str = "its saga has items that are not finished: they go together";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchItem => f.write_str(NO_SUCH_ITEM),
            Self::WrongStatus { from, action } => write!(f, "it is {from}: {}", action.status_rule()),
            Self::LeaseHeld => f.write_str(LEASE_HELD),
            Self::NotByOperator => f.write_str(NOT_BY_OPERATOR),
            Self::SagaOpen => f.write_str(SAGA_OPEN),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl FromStr for Refusal {
    type Err = Infallible;

    /// The refusal with this text.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            NO_SUCH_ITEM => Self::NoSuchItem,
            LEASE_HELD => Self::LeaseHeld,
            NOT_BY_OPERATOR => Self::NotByOperator,
            SAGA_OPEN => Self::SagaOpen,
            _ => wrong_status(text).unwrap_or_else(|| Self::Other(text.to_owned())),
        })
    }
}

fn wrong_status(text: &str) -> Option<Refusal> {
    let (word, rule) = text.strip_prefix("it is ")?.split_once(": ")?;
    let from = Status::ALL.into_iter().find(|status| status.as_str() == word)?;
    let action = ActionKind::ALL.into_iter().find(|action| action.status_rule() == rule)?;
    Some(Refusal::WrongStatus { from, action })
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Refusal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(text.parse().unwrap_or_else(|never: Infallible| match never {}))
    }
}

/// An item that an action did not apply to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedItem {
    /// The item.
    pub id: ItemId,
    /// Why.
    pub reason: Refusal,
}

/// Which idempotency keys the effects of a replayed item carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EffectKeys {
    /// The keys of its earlier attempts: a receiver that honours keys repeats no effect.
    Same,
    /// New keys: a receiver performs the effects again.
    New,
}

/// What an action does to a claim whose lease has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeasePolicy {
    /// The action refuses the item.
    Respect,
    /// The action ends the claim. Its attempt may still send requests, but can no longer settle.
    Break,
}

/// Whether the store carries a request out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The store carries it out.
    Apply,
    /// The store only counts what the request would change, and returns a sample.
    DryRun,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Eligibility =
        Eligibility { status: Status::Pending, is_leased: false, dead_by_operator: false, saga_is_open: false };

    #[test]
    fn each_action_applies_to_its_own_statuses_only() {
        let dead = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Respect };
        let replay = Action::Replay { keys: EffectKeys::Same };
        for (action, statuses) in [
            (replay, "DONE DLQ"),
            (dead, "PENDING CLAIMED"),
            (Action::Restore, "DLQ"),
            (Action::Reschedule { at: Millis::new(1) }, "PENDING"),
            (Action::Release { lease: LeasePolicy::Respect }, "CLAIMED"),
            (Action::Purge, "DONE DLQ"),
        ] {
            let applies = Status::ALL.into_iter().filter(|status| action.applies_to(*status));
            assert_eq!(applies.map(Status::as_str).collect::<Vec<_>>().join(" "), statuses, "{action:?}");
        }
    }

    #[test]
    fn what_deletes_takes_work_away_or_repeats_effects_is_confirmed() {
        let [same, new] = [EffectKeys::Same, EffectKeys::New].map(|keys| Action::Replay { keys });
        let release = |lease| Action::Release { lease };
        let dead = Action::Dead { on_dead: OnDead::Block, lease: LeasePolicy::Respect };
        for (action, statuses, expected) in [
            (Action::Purge, &[Status::Dlq][..], true),
            (dead, &[Status::Pending], true),
            (release(LeasePolicy::Break), &[Status::Claimed], true),
            (release(LeasePolicy::Respect), &[Status::Claimed], false),
            (new, &[Status::Dlq], true),
            (same, &[Status::Dlq], false),
            (same, &[Status::Dlq, Status::Done], true),
            (same, &[], true),
            (Action::Restore, &[Status::Dlq], false),
            (Action::Reschedule { at: Millis::new(1) }, &[Status::Pending], true),
        ] {
            let filter = Filter { status: statuses.to_vec(), ..Filter::default() };
            assert_eq!(action.needs_confirmation(&filter), expected, "{action:?} of {statuses:?}");
            let named = Filter { idem_key: Some("k".into()), ..filter };
            assert!(!action.needs_confirmation(&named), "{action:?} of one item");
        }
    }

    #[test]
    fn a_reschedule_is_confirmed_where_nothing_but_the_status_chooses_the_items() {
        let at_once = Action::Reschedule { at: Millis::new(1) };
        let all = Filter { status: vec![Status::Pending], as_of: Some(Millis::new(1)), ..Filter::default() };
        assert!(at_once.needs_confirmation(&all));
        let failed = Filter { error: Some("refused".into()), ..all };
        assert!(!at_once.needs_confirmation(&failed));
    }

    #[test]
    fn a_lease_that_has_not_ended_is_taken_by_force_only() {
        let leased = Eligibility { status: Status::Claimed, is_leased: true, ..PLAIN };
        for action in [|lease| Action::Release { lease }, |lease| Action::Dead { on_dead: OnDead::Skip, lease }] {
            let refusal = action(LeasePolicy::Respect).resulting_status(leased).unwrap_err();
            assert!(refusal.to_string().contains("still be acting"));
            assert_eq!(refusal, Refusal::LeaseHeld);
            assert!(action(LeasePolicy::Break).resulting_status(leased).is_ok());
        }
    }

    #[test]
    fn what_failed_by_itself_is_not_restored_and_what_a_saga_needs_is_not_purged() {
        let dead = Eligibility { status: Status::Dlq, ..PLAIN };
        assert!(Action::Restore.resulting_status(dead).unwrap_err().to_string().contains("replay"));
        assert_eq!(
            Action::Restore.resulting_status(Eligibility { dead_by_operator: true, ..dead }),
            Ok(Some(Status::Pending))
        );
        let open = Eligibility { saga_is_open: true, ..dead };
        assert!(Action::Purge.resulting_status(open).unwrap_err().to_string().contains("saga"));
    }

    #[test]
    fn a_refusal_is_stored_as_its_text_and_read_back() {
        let wrong = Status::ALL
            .into_iter()
            .flat_map(|from| ActionKind::ALL.into_iter().map(move |action| Refusal::WrongStatus { from, action }));
        let plain = [Refusal::NoSuchItem, Refusal::LeaseHeld, Refusal::NotByOperator, Refusal::SagaOpen];
        let other = ["", "it is late", "it is LATE: only DLQ items can be restored"].map(|t| Refusal::Other(t.into()));
        for refusal in wrong.chain(plain).chain(other) {
            let refused = RefusedItem { id: ItemId::new(7), reason: refusal.clone() };
            let json = serde_json::to_value(&refused).expect("it is JSON");
            assert_eq!(json, serde_json::json!({ "id": 7, "reason": refusal.to_string() }));
            assert_eq!(serde_json::from_value::<RefusedItem>(json).expect("it is a refusal"), refused);
        }
    }

    #[test]
    fn a_wrong_status_names_the_statuses_that_fit() {
        let refusal = Action::Purge.resulting_status(PLAIN).unwrap_err();
        assert_eq!(refusal.to_string(), "it is PENDING: only DONE and DLQ items can be purged");
    }
}
