//! The statuses of an item and the transitions between them.
//!
//! [`Status::next`] is the only function that decides a transition. It is pure: the stores repeat its precondition in
//! the SQL statement that writes the new status. This file knows no item and no reason for a transition.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The status of an item. Stores and JSON use the upper-case words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Status {
    /// The item waits for a claim. Enqueue, retry, give-back, expiry, replay and restore lead here.
    Pending,
    /// A worker holds a lease on the item. Only a claim leads here.
    Claimed,
    /// The handler succeeded. Only a replay leaves this status; retention purges the item.
    Done,
    /// The item is dead-lettered: it has no retries left, or the handler rejected it. An operator replays, restores or
    /// purges it.
    Dlq,
}

/// An event that moves an item from one status to the next. Every change of status is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// A worker claims the item for the length of a lease.
    Claim,
    /// The handler succeeded.
    Complete,
    /// The attempt failed and counts; retries are left.
    Retry,
    /// The worker gives back or releases the claim, and the attempt does not count: the process shuts down, the handler
    /// defers, or the item did not cause the fault.
    GiveBack,
    /// The lease ended before the worker settled the claim, or an operator released the item.
    Expire,
    /// The attempt failed permanently, or no retries are left.
    DeadLetter,
    /// An operator makes a finished item PENDING again; its attempts count from zero.
    Replay,
    /// An operator reverses the dead-lettering by an operator.
    Restore,
    /// An operator changes the time before which no worker claims the item.
    Reschedule,
}

/// The status of the item does not allow the transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an item that is {from} cannot take the event {transition:?}")]
pub struct IllegalTransition {
    /// The present status of the item.
    pub from: Status,
    /// The refused transition.
    pub transition: Transition,
}

impl Status {
    /// Every status, in the order in which an item passes through them.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Claimed, Self::Done, Self::Dlq];

    /// Returns the status after a transition. Errors when no such transition exists.
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

    /// The word that stores keep and that JSON shows.
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

/// The word names no status. The field holds the word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown status {0:?}: use PENDING, CLAIMED, DONE or DLQ (or DELIVERING, PUBLISHED, DELIVERED, DEAD)")]
pub struct UnknownStatus(pub String);

impl FromStr for Status {
    type Err = UnknownStatus;

    /// Accepts the words of [`Status::as_str`] and those of the Open Outbox specification, in upper or lower case.
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
    fn only_the_documented_transitions_exist() {
        let allowed: Vec<_> = Status::ALL
            .into_iter()
            .flat_map(|from| TRANSITIONS.map(|transition| (from, transition)))
            .filter_map(|(from, transition)| from.next(transition).ok().map(|to| (from, transition, to)))
            .collect();
        assert_eq!(
            allowed,
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
    fn both_vocabularies_are_understood() {
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
}
