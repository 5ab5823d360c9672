//! The probation of a new version: how many of its first items may fault before it is withdrawn.
//!
//! Items count, not attempts: an item that faults is given back and comes again, so that one poisonous
//! item among few others would otherwise speak for all. Time is an argument; of items it knows their keys.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::manifest::Reload;

/// A version that gets few items is not watched for ever.
const LONGEST: Duration = Duration::from_mins(10);

/// What a probation has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its items are still counted.
    Watched,
    /// It stays, and what faults from now on is the item's affair.
    Passed,
    /// It faulted on so many of so many items: it goes.
    Failed {
        /// Items that it had been given and that had settled.
        settled: usize,
        /// Those that it had faulted on, once or more.
        faults: usize,
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
    settled: BTreeSet<String>,
    faulted: BTreeSet<String>,
    standing: Standing,
}

impl Trial {
    /// A probation that begins now. One of no items is over before it begins.
    pub(super) fn begin(terms: Reload, now: Instant) -> Self {
        let standing = if terms.canary == 0 { Standing::Passed } else { Standing::Watched };
        let count = Count { settled: BTreeSet::new(), faulted: BTreeSet::new(), standing };
        Self { terms, until: now + LONGEST, count: Mutex::new(count) }
    }

    /// That of a version that has nothing to prove.
    pub(super) fn waived(now: Instant) -> Self {
        Self::begin(Reload { canary: 0, ..Reload::default() }, now)
    }

    /// Counts an attempt at an item that has settled. Answers the standing in which it was made, which
    /// decides whether a fault is given back, and the one that follows.
    pub(super) fn settle(&self, key: &str, is_fault: bool, now: Instant) -> (Standing, Standing) {
        let before = self.review(now);
        let mut count = self.count();
        if count.standing == Standing::Watched {
            count.settled.insert(key.to_owned());
            if is_fault {
                count.faulted.insert(key.to_owned());
            }
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
        let (settled, faults, canary) = (count.settled.len(), count.faulted.len(), self.terms.canary as usize);
        let is_over = settled >= canary || now >= self.until;
        // While it lasts, only what no later success could make good counts.
        let is_too_many = self.is_too_many(faults, if is_over { settled } else { canary });
        // One item may be the poison itself, unless the terms condemn by a single one of all.
        let is_proof = faults > 1 || self.is_too_many(faults, canary);
        if is_too_many && is_proof {
            return Standing::Failed { settled, faults };
        }
        if is_over { Standing::Passed } else { Standing::Watched }
    }

    #[expect(clippy::cast_precision_loss, reason = "a manifest allows far fewer items than a float counts exactly")]
    fn is_too_many(&self, faults: usize, of: usize) -> bool {
        faults as f64 > self.terms.max_fault_ratio * of as f64
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Reload = Reload { canary: 10, max_fault_ratio: 0.2 };

    /// The standing after items that each settled with a fault (`!`) or otherwise (`.`).
    fn after(items: &str) -> Standing {
        let now = Instant::now();
        let trial = Trial::begin(TERMS, now);
        let settle = |(number, sign): (usize, char)| trial.settle(&number.to_string(), sign == '!', now).1;
        items.chars().enumerate().map(settle).last().unwrap()
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
    fn an_item_that_comes_again_and_again_counts_once_and_a_fault_of_it_stays() {
        let now = Instant::now();
        let trial = Trial::begin(TERMS, now);
        for _ in 0..100 {
            assert_eq!(trial.settle("poison", true, now).1, Standing::Watched);
        }
        assert_eq!(trial.settle("poison", false, now).1, Standing::Watched);
        assert_eq!(trial.settle("flaky", true, now).1, Standing::Watched);
        assert_eq!(trial.settle("flaky", false, now).1, Standing::Watched);
        assert_eq!(trial.settle("third", true, now).1, Standing::Failed { settled: 3, faults: 3 });
    }

    #[test]
    fn one_item_alone_condemns_only_where_the_terms_say_so() {
        let now = Instant::now();
        let terms = |canary, max_fault_ratio| Reload { canary, max_fault_ratio };
        for (terms, standing) in [
            (terms(10, 0.2), Standing::Passed),
            (terms(10, 0.0), Standing::Failed { settled: 1, faults: 1 }),
            (terms(1, 0.2), Standing::Failed { settled: 1, faults: 1 }),
        ] {
            let trial = Trial::begin(terms, now);
            trial.settle("poison", true, now);
            assert_eq!(trial.review(now + LONGEST), standing, "{terms:?}");
        }
    }

    #[test]
    fn the_attempt_that_ends_it_was_made_during_it_and_the_next_was_not() {
        let now = Instant::now();
        let trial = Trial::begin(Reload { canary: 1, max_fault_ratio: 1.0 }, now);
        assert_eq!(trial.settle("a", true, now), (Standing::Watched, Standing::Passed));
        assert_eq!(trial.settle("b", true, now), (Standing::Passed, Standing::Passed));
    }

    #[test]
    fn after_ten_minutes_it_is_judged_by_what_has_settled() {
        let now = Instant::now();
        let end = now + LONGEST;
        for (faults, standing) in [(1, Standing::Passed), (2, Standing::Failed { settled: 3, faults: 2 })] {
            let trial = Trial::begin(TERMS, now);
            for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
                trial.settle(key, number < faults, now);
            }
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
    fn a_probation_of_no_items_is_none() {
        let now = Instant::now();
        assert_eq!(Trial::waived(now).settle("a", true, now).0, Standing::Passed);
    }
}
