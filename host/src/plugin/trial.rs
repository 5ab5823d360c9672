//! The probation of a new version: how many of its first attempts may fault before it is withdrawn.
//!
//! Time is an argument. It knows neither items nor components.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::manifest::Reload;

/// A version that gets few items is not watched for ever.
const LONGEST: Duration = Duration::from_mins(10);

/// What a probation has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its attempts are still counted.
    Watched,
    /// It stays, and what faults from now on is the item's affair.
    Passed,
    /// So many of so many attempts were faults of its own: it goes.
    Failed {
        /// Attempts that had settled.
        settled: u32,
        /// Those that were faults.
        faults: u32,
    },
}

/// The probation of one generation.
#[derive(Debug)]
pub(super) struct Trial {
    terms: Reload,
    until: Instant,
    count: Mutex<Count>,
}

#[derive(Debug)]
struct Count {
    settled: u32,
    faults: u32,
    standing: Standing,
}

impl Trial {
    /// A probation that begins now. One of no attempts is over before it begins.
    pub(super) fn begin(terms: Reload, now: Instant) -> Self {
        let standing = if terms.canary == 0 { Standing::Passed } else { Standing::Watched };
        Self { terms, until: now + LONGEST, count: Mutex::new(Count { settled: 0, faults: 0, standing }) }
    }

    /// That of a version that has nothing to prove.
    pub(super) fn waived(now: Instant) -> Self {
        Self::begin(Reload { canary: 0, ..Reload::default() }, now)
    }

    /// Counts an attempt that has settled. Answers the standing in which it was made, which decides
    /// whether a fault is given back, and the one that follows.
    pub(super) fn settle(&self, is_fault: bool, now: Instant) -> (Standing, Standing) {
        let before = self.review(now);
        let mut count = self.count();
        if count.standing == Standing::Watched {
            count.settled += 1;
            count.faults += u32::from(is_fault);
            count.standing = self.judge(&count, now);
        }
        (before, count.standing)
    }

    /// The standing, after a look at the time.
    pub(super) fn review(&self, now: Instant) -> Standing {
        let mut count = self.count();
        if count.standing == Standing::Watched {
            count.standing = self.judge(&count, now);
        }
        count.standing
    }

    fn judge(&self, count: &Count, now: Instant) -> Standing {
        let is_over = count.settled >= self.terms.canary || now >= self.until;
        // While it lasts, only what no later success could make good counts.
        let of = if is_over { count.settled } else { self.terms.canary };
        if f64::from(count.faults) > self.terms.max_fault_ratio * f64::from(of) {
            return Standing::Failed { settled: count.settled, faults: count.faults };
        }
        if is_over { Standing::Passed } else { Standing::Watched }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Reload = Reload { canary: 10, max_fault_ratio: 0.2 };

    /// The standing after attempts that each settled as a fault (`!`) or otherwise (`.`).
    fn after(attempts: &str) -> Standing {
        let now = Instant::now();
        let trial = Trial::begin(TERMS, now);
        attempts.chars().fold(Standing::Watched, |_, attempt| trial.settle(attempt == '!', now).1)
    }

    #[test]
    fn it_passes_with_as_many_faults_as_the_ratio_allows_and_fails_with_one_more() {
        assert_eq!(after("!!......."), Standing::Watched);
        assert_eq!(after("!!........"), Standing::Passed);
        assert_eq!(after("........!!"), Standing::Passed);
        assert_eq!(after(".......!!!"), Standing::Failed { settled: 10, faults: 3 });
    }

    #[test]
    fn it_ends_as_soon_as_no_success_could_save_it() {
        assert_eq!(after("!!"), Standing::Watched);
        assert_eq!(after("!!!"), Standing::Failed { settled: 3, faults: 3 });
        assert_eq!(after("!!!........"), Standing::Failed { settled: 3, faults: 3 });
    }

    #[test]
    fn the_attempt_that_ends_it_was_made_during_it_and_the_next_was_not() {
        let now = Instant::now();
        let trial = Trial::begin(Reload { canary: 1, max_fault_ratio: 1.0 }, now);
        assert_eq!(trial.settle(true, now), (Standing::Watched, Standing::Passed));
        assert_eq!(trial.settle(true, now), (Standing::Passed, Standing::Passed));
    }

    #[test]
    fn after_ten_minutes_it_is_judged_by_what_has_settled() {
        let now = Instant::now();
        let end = now + LONGEST;
        for (faults, standing) in [(0, Standing::Passed), (1, Standing::Failed { settled: 2, faults: 1 })] {
            let trial = Trial::begin(TERMS, now);
            trial.settle(faults == 1, now);
            trial.settle(false, now);
            assert_eq!(trial.review(end - Duration::from_millis(1)), Standing::Watched);
            assert_eq!(trial.review(end), standing);
        }
        assert_eq!(
            Trial::begin(TERMS, now).review(end),
            Standing::Passed,
            "without an attempt nothing speaks against it"
        );
    }

    #[test]
    fn a_probation_of_no_attempts_is_none() {
        let now = Instant::now();
        assert_eq!(Trial::waived(now).settle(true, now).0, Standing::Passed);
    }
}
