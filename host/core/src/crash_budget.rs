//! How often the process of an item may end without a settlement, and in which company such an item runs again.
//!
//! Pure. A lease that runs out is a loss for every item in it, although at most one of them can have ended the process.
//! So an item with losses is a *suspect*: the more losses it has, the fewer others run beside it, until an item that
//! ends its process is alone with it. This file does not know how a store finds suspects, nor what a worker has in
//! hand.

use std::ops::RangeInclusive;

/// Whether an item whose turn it is has an attempt left: fewer attempts than its type allows. A loss may be the attempt
/// of a type without retries, so an item of such a type has none left after it.
pub fn has_attempt_left(max_retries: u32, attempts: u32, losses: u32) -> bool {
    attempts <= max_retries && (losses == 0 || max_retries > 0)
}

/// The losses after which an item is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashBudget {
    /// At this number of losses an item has no attempt left. At least [`Self::LEAST`].
    pub max_crashes: u32,
}

impl Default for CrashBudget {
    /// Two losses in company, one to find the item among its neighbours, and two alone.
    fn default() -> Self {
        Self { max_crashes: 5 }
    }
}

/// The number of losses from which on an item is alone in its process.
const ALONE_FROM: u32 = 3;

/// What the process that claims has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspectRoom {
    /// Suspects, or the process takes none now.
    None,
    /// Other items.
    Shared,
    /// Nothing.
    Idle,
}

/// What a claim does about the suspects of a type that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspectRun {
    /// It takes none.
    None,
    /// It takes none, and the process must have nothing in flight before it can.
    AwaitIdle,
    /// It takes at most this number, those with the most losses first, and other items beside them.
    Beside(u32),
    /// It takes the one with the most losses, and no other item.
    Alone,
}

impl CrashBudget {
    /// The least number of losses that a budget can have: three in company, and two alone.
    pub const LEAST: u32 = ALONE_FROM + 2;

    /// Whether an item with this number of losses is dead-lettered instead of being attempted.
    pub fn is_exhausted(self, losses: u32) -> bool {
        losses >= self.max_crashes
    }

    /// Whether an item with this number of losses is attempted only while its process has nothing else in flight.
    pub fn is_alone(losses: u32) -> bool {
        losses >= ALONE_FROM
    }

    /// What a claim of a type with `max_retries` does, whose most suspect due item has `most_losses` of at least 1.
    pub fn run(self, room: SuspectRoom, most_losses: u32, max_retries: u32) -> SuspectRun {
        match room {
            // What is dead-lettered is not attempted, so it needs no room.
            _ if max_retries == 0 => SuspectRun::Beside(u32::MAX),
            _ if self.is_exhausted(most_losses) => SuspectRun::Beside(1),
            SuspectRoom::None => SuspectRun::None,
            SuspectRoom::Idle if Self::is_alone(most_losses) => SuspectRun::Alone,
            SuspectRoom::Shared if Self::is_alone(most_losses) => SuspectRun::AwaitIdle,
            _ if most_losses == 1 => SuspectRun::Beside(4),
            _ => SuspectRun::Beside(2),
        }
    }

    /// The losses that the items of such a run have: a store that looks for them later than it has decided may find
    /// others, which do not belong to it.
    pub fn losses_in_run(self, most_losses: u32, max_retries: u32) -> RangeInclusive<u32> {
        let least = match most_losses {
            _ if max_retries == 0 => 1,
            exhausted if self.is_exhausted(exhausted) => self.max_crashes,
            alone if Self::is_alone(alone) => ALONE_FROM,
            _ => 1,
        };
        least..=most_losses
    }
}

#[cfg(test)]
mod tests {
    use super::SuspectRun::{Alone, Beside};
    use super::*;

    const BUDGET: CrashBudget = CrashBudget { max_crashes: 5 };

    #[test]
    fn the_more_losses_an_item_has_the_fewer_run_beside_it() {
        let runs = [1, 2, 3, 4, 5].map(|losses| BUDGET.run(SuspectRoom::Idle, losses, 8));
        assert_eq!(runs, [Beside(4), Beside(2), Alone, Alone, Beside(1)], "the last one is dead-lettered");
    }

    #[test]
    fn a_busy_process_takes_no_item_that_must_be_alone_and_only_one_run_at_a_time() {
        assert_eq!(BUDGET.run(SuspectRoom::Shared, 2, 8), SuspectRun::Beside(2));
        assert_eq!(BUDGET.run(SuspectRoom::Shared, 3, 8), SuspectRun::AwaitIdle);
        assert!((1..5).all(|losses| BUDGET.run(SuspectRoom::None, losses, 8) == SuspectRun::None));
        assert_eq!(BUDGET.run(SuspectRoom::None, 5, 8), SuspectRun::Beside(1), "it is not attempted");
    }

    #[test]
    fn the_last_two_losses_happen_alone_whatever_the_budget_is() {
        for max_crashes in CrashBudget::LEAST..20 {
            let budget = CrashBudget { max_crashes };
            assert!(!budget.is_exhausted(max_crashes - 1) && budget.is_exhausted(max_crashes));
            assert!((max_crashes - 2..max_crashes).all(CrashBudget::is_alone), "{max_crashes}");
        }
        assert!((0..3).all(|losses| !CrashBudget::is_alone(losses)));
    }

    #[test]
    fn an_item_that_must_be_alone_is_in_no_run_beside_others() {
        let runs = [1, 2, 3, 4, 5, 6].map(|losses| BUDGET.losses_in_run(losses, 8));
        assert_eq!(runs, [1..=1, 1..=2, 3..=3, 3..=4, 5..=5, 5..=6]);
        assert_eq!(BUDGET.losses_in_run(6, 0), 1..=6, "none of them is attempted");
    }

    #[test]
    fn a_loss_is_the_failure_of_a_type_without_retries() {
        assert!(has_attempt_left(0, 0, 0) && !has_attempt_left(0, 0, 1) && !has_attempt_left(0, 1, 0));
        assert!(has_attempt_left(1, 0, 3) && has_attempt_left(1, 1, 0) && !has_attempt_left(1, 2, 0));
        assert_eq!(BUDGET.run(SuspectRoom::Shared, 4, 0), SuspectRun::Beside(u32::MAX), "none of them is attempted");
    }
}
