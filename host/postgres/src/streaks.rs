//! Streaks: items that follow the front of their ordering key at once, and share its lease.
//!
//! A streak consists of items of one key and one type that are due and are claimed for the first time: what has failed
//! or was given back before is claimed alone. The function `outbox.take_streaks` of the schema takes them. This file
//! knows in which order the settlements of a group may end their claims, and asks no database.

use std::collections::HashMap;

use outbox_core::Settlement;
use outbox_store::{SettleRequest, StoreError};

use crate::leases::LeasedItem;

/// The place of a claimed item in the streak of its ordering key.
pub(crate) struct StreakTurn {
    /// The key, and how many items are in front; `None` without a key.
    place: Option<(String, Option<i32>)>,
}

impl StreakTurn {
    pub(crate) fn of(leased: &LeasedItem) -> Self {
        Self { place: leased.attempt.ordering_key.clone().map(|key| (key, leased.ahead)) }
    }
}

/// How far each streak is settled in a transaction.
#[derive(Default)]
pub(crate) struct Streaks(HashMap<String, StreakState>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreakState {
    /// The number of items that are DONE, from the front on.
    Done(i32),
    /// An item left the lease otherwise, and what follows it is given back.
    Ended,
}

impl Streaks {
    /// Whether the claim can end. Errors with [`StoreError::OutOfTurn`] while an item in front of it is not settled.
    pub(crate) fn check(&self, turn: &StreakTurn, settled: &SettleRequest) -> Result<(), StoreError> {
        let Some((key, ahead)) = &turn.place else { return Ok(()) };
        match self.0.get(key).copied().unwrap_or(StreakState::Done(0)) {
            StreakState::Ended => Err(StoreError::ClaimLost),
            StreakState::Done(_) if settled.settlement == Settlement::Release => Ok(()),
            StreakState::Done(done) if *ahead == Some(done) => Ok(()),
            StreakState::Done(_) => Err(StoreError::OutOfTurn),
        }
    }

    /// Records that the claim ends.
    pub(crate) fn settled(&mut self, turn: StreakTurn, settled: &SettleRequest) {
        let Some((key, ahead)) = turn.place else { return };
        let state = match settled.settlement {
            Settlement::Done { .. } => StreakState::Done(ahead.unwrap_or_default() + 1),
            _ => StreakState::Ended,
        };
        self.0.insert(key, state);
    }
}
