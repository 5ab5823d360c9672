//! What an operator wants done to items, and whether an item is eligible for it. Pure.
//!
//! [`Action::resulting_status`] decides for every store, and asks [`Status::next`] for each transition.

use serde::{Deserialize, Serialize};

use crate::inspect::Filter;
use crate::operations::JobId;
use outbox_core::OnDead;
use outbox_item::{ItemId, Millis, Status, Transition};

/// What an operator wants done.
#[derive(Clone, Debug, PartialEq)]
pub struct OperateRequest {
    /// The action.
    pub action: Action,
    /// To which items.
    pub selection: Selection,
    /// Who asks: `user@host`, or a name they gave.
    pub actor: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Whether it is done or only counted.
    pub execution: Execution,
}

/// An operator's action on items. What it does not name, it does not change; `deliveries`, the history
/// and `maybe_executed` are never taken back by any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Action {
    /// A new life for DONE and DLQ items: `attempts` 0, `replays` + 1, `available_at` now, a blocked key
    /// free again. `last_error` stays until the next attempt. Effects may happen twice.
    Replay {
        /// Whether the outgoing keys stay the same or a new generation of them begins.
        keys: EffectKeys,
    },
    /// Dead-letters PENDING and CLAIMED items: the operator takes the claim and ends it, which leaves a
    /// history row of the class `operator`. `attempts` stays; `deliveries` + 1 if nobody held a claim,
    /// else `maybe_executed` is set, for the attempt may still be acting.
    Dead {
        /// What this means for the items behind it with the same ordering key.
        on_dead: OnDead,
        /// Whether a claim whose lease has not ended may be taken.
        lease: LeasePolicy,
    },
    /// Takes back an operator's [`Action::Dead`]: PENDING with the `attempts`, the `available_at` and the
    /// `last_error` that it had. An item that died by itself is replayed instead.
    Restore,
    /// Moves the time before which a PENDING item is not claimed.
    Reschedule {
        /// The new `available_at`; a moment that has passed means now.
        at: Millis,
    },
    /// Ends the claim of CLAIMED items: PENDING, available now, `maybe_executed` set, with a history row
    /// of the class `operator`. The attempt counts, as one that was lost does.
    Release {
        /// Whether a claim whose lease has not ended may be taken.
        lease: LeasePolicy,
    },
    /// Deletes DONE and DLQ items with their history, unless their saga still has something to do.
    Purge,
}

impl Action {
    /// The word in the audit trail and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay { .. } => "replay",
            Self::Dead { .. } => "dead",
            Self::Restore => "restore",
            Self::Reschedule { .. } => "reschedule",
            Self::Release { .. } => "release",
            Self::Purge => "purge",
        }
    }

    /// The status that the action leads to, `None` when the item is gone then, or the reason why the item
    /// cannot take it.
    pub fn resulting_status(self, eligibility: Eligibility) -> Result<Option<Status>, String> {
        let from = eligibility.status;
        let refuse = |rule: &str| format!("it is {from}: {rule}");
        match self {
            Self::Replay { .. } => {
                from.next(Transition::Replay).map(Some).map_err(|_| refuse("only DONE and DLQ items can be replayed"))
            }
            Self::Dead { lease, .. } => {
                let claimed = if from == Status::Pending { from.next(Transition::Claim) } else { Ok(from) };
                let dead = claimed.and_then(|claimed| claimed.next(Transition::DeadLetter));
                let dead = dead.map_err(|_| refuse("only PENDING and CLAIMED items can be dead-lettered"))?;
                eligibility.check_lease(lease).map(|()| Some(dead))
            }
            Self::Restore => {
                let to = from.next(Transition::Restore).map_err(|_| refuse("only DLQ items can be restored"))?;
                let died = "no operator dead-lettered it, it failed: replay it instead";
                if eligibility.dead_by_operator { Ok(Some(to)) } else { Err(died.into()) }
            }
            Self::Reschedule { .. } => {
                from.next(Transition::Reschedule).map(Some).map_err(|_| refuse("only PENDING items can be rescheduled"))
            }
            Self::Release { lease } => {
                let to = from.next(Transition::Expire).map_err(|_| refuse("only CLAIMED items can be released"))?;
                eligibility.check_lease(lease).map(|()| Some(to))
            }
            Self::Purge if !matches!(from, Status::Done | Status::Dlq) => {
                Err(refuse("only DONE and DLQ items can be purged"))
            }
            Self::Purge if eligibility.saga_is_open => {
                Err("its saga has items that are not finished: they go together".into())
            }
            Self::Purge => Ok(None),
        }
    }

    /// Whether there are items of this status that can take the action.
    pub fn applies_to(self, status: Status) -> bool {
        let eligible = Eligibility { status, is_leased: false, dead_by_operator: true, saga_is_open: false };
        self.resulting_status(eligible).is_ok()
    }
}

/// What decides whether an item can take an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eligibility {
    /// Its status.
    pub status: Status,
    /// A claim holds it whose lease has not ended.
    pub is_leased: bool,
    /// It was an operator who dead-lettered it.
    pub dead_by_operator: bool,
    /// Other items of its saga run are not finished.
    pub saga_is_open: bool,
}

impl Eligibility {
    fn check_lease(self, lease: LeasePolicy) -> Result<(), String> {
        if !self.is_leased || lease == LeasePolicy::Break {
            return Ok(());
        }
        Err("its lease has not ended: force it, if you accept that the attempt may still be acting".into())
    }
}

/// Which idempotency keys the effects of a replayed item carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EffectKeys {
    /// Those of its earlier attempts: a receiver that honours them repeats nothing.
    Same,
    /// New ones: a receiver performs the effects again.
    New,
}

/// What an action does to a claim whose lease has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeasePolicy {
    /// It leaves the item alone.
    Respect,
    /// It takes the item all the same. The attempt may go on acting, but it can settle nothing.
    Break,
}

/// Which items a request is about.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one exists for each request")]
pub enum Selection {
    /// These; one that is missing or in the wrong status is reported.
    Ids(Vec<ItemId>),
    /// All that match when the request begins: it becomes a [`super::Job`].
    Filter(Filter),
}

/// Whether a request is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// It is.
    Apply,
    /// It is only counted, with a sample.
    DryRun,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OperateReport {
    /// How many items the selection named or matched.
    pub matched: u64,
    /// How many were changed, or would be.
    pub changed: u64,
    /// The first of them.
    pub sample: Vec<ItemId>,
    /// Those that the action does not apply to, with the reason; bounded.
    pub refused: Vec<Refusal>,
    /// The job that carried it out, when the selection was a filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// An item that the action did not apply to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The item.
    pub id: ItemId,
    /// Why, in words.
    pub reason: String,
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
            (Action::Reschedule { at: 1 }, "PENDING"),
            (Action::Release { lease: LeasePolicy::Respect }, "CLAIMED"),
            (Action::Purge, "DONE DLQ"),
        ] {
            let applies = Status::ALL.into_iter().filter(|status| action.applies_to(*status));
            assert_eq!(applies.map(Status::as_str).collect::<Vec<_>>().join(" "), statuses, "{action:?}");
        }
    }

    #[test]
    fn a_lease_that_has_not_ended_is_taken_by_force_only() {
        let leased = Eligibility { status: Status::Claimed, is_leased: true, ..PLAIN };
        for action in [|lease| Action::Release { lease }, |lease| Action::Dead { on_dead: OnDead::Skip, lease }] {
            assert!(action(LeasePolicy::Respect).resulting_status(leased).unwrap_err().contains("still be acting"));
            assert!(action(LeasePolicy::Break).resulting_status(leased).is_ok());
        }
    }

    #[test]
    fn what_failed_by_itself_is_not_restored_and_what_a_saga_needs_is_not_purged() {
        let dead = Eligibility { status: Status::Dlq, ..PLAIN };
        assert!(Action::Restore.resulting_status(dead).unwrap_err().contains("replay"));
        assert_eq!(
            Action::Restore.resulting_status(Eligibility { dead_by_operator: true, ..dead }),
            Ok(Some(Status::Pending))
        );
        assert!(
            Action::Purge.resulting_status(Eligibility { saga_is_open: true, ..dead }).unwrap_err().contains("saga")
        );
    }
}
