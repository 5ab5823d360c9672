//! The canary of a new version: decides from its first items whether it stays or is rolled back.
//!
//! It counts items, not attempts: an item that faults is given back and tried again, so counting attempts would
//! let one poison item roll a good version back. Time is an argument. Of items the canary knows only their keys; it
//! does not carry the rollback out.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::load::manifest::canary_policy::CanaryPolicy;

/// The longest canary: a version that gets few items is decided about by then.
const MAX_DURATION: Duration = Duration::from_mins(10);

/// What one attempt says about the component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CanarySample {
    /// The component was at fault.
    Fault,
    /// The attempt ended in another way.
    NoFault,
}

/// The state of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CanaryState {
    /// It still counts items.
    Running,
    /// The version stays. Later faults count as attempts at their items.
    Passed,
    /// The version must be rolled back.
    Failed {
        /// Items that the version was tried on.
        settled: usize,
        /// Items that the version faulted on at least once.
        faults: usize,
    },
}

/// The canary of one generation.
#[derive(Debug)]
pub(crate) struct Canary {
    policy: CanaryPolicy,
    ends_at: Instant,
    counts: Mutex<CanaryCounts>,
}

#[derive(Debug)]
struct CanaryCounts {
    settled: BTreeSet<String>,
    faulted: BTreeSet<String>,
    state: CanaryState,
}

impl Canary {
    /// A canary that begins now. A canary of no items has passed already.
    pub(crate) fn begin(policy: CanaryPolicy, now: Instant) -> Self {
        let state = if policy.items == 0 { CanaryState::Passed } else { CanaryState::Running };
        let counts = CanaryCounts { settled: BTreeSet::new(), faulted: BTreeSet::new(), state };
        Self { policy, ends_at: now + MAX_DURATION, counts: Mutex::new(counts) }
    }

    /// The canary of a version that needs none.
    pub(crate) fn skipped(now: Instant) -> Self {
        Self::begin(CanaryPolicy { items: 0, ..CanaryPolicy::default() }, now)
    }

    /// Counts an attempt at the item with this key. Returns the states before and after. The one before decides whether
    /// an item that faults is given back.
    pub(crate) fn record_attempt(&self, key: &str, sample: CanarySample, now: Instant) -> (CanaryState, CanaryState) {
        let before = self.review(now);
        let mut counts = self.counts();
        if counts.state == CanaryState::Running {
            counts.settled.insert(key.to_owned());
            if sample == CanarySample::Fault {
                counts.faulted.insert(key.to_owned());
            }
            counts.state = self.evaluate(&counts, now);
        }
        (before, counts.state)
    }

    /// The state at `now`.
    pub(crate) fn review(&self, now: Instant) -> CanaryState {
        let mut counts = self.counts();
        if counts.state == CanaryState::Running {
            counts.state = self.evaluate(&counts, now);
        }
        counts.state
    }

    fn evaluate(&self, counts: &CanaryCounts, now: Instant) -> CanaryState {
        let (settled, faults, items) = (counts.settled.len(), counts.faulted.len(), self.policy.items as usize);
        let is_over = settled >= items || now >= self.ends_at;
        // During the canary it fails only if no later success could bring the ratio down again.
        let is_too_many = self.is_too_many(faults, if is_over { settled } else { items });
        // A single item may be a poison item, so it decides only if the policy tolerates no fault among all items.
        let is_proof = faults > 1 || self.is_too_many(faults, items);
        if is_too_many && is_proof {
            return CanaryState::Failed { settled, faults };
        }
        if is_over { CanaryState::Passed } else { CanaryState::Running }
    }

    #[expect(clippy::cast_precision_loss, reason = "a manifest allows far fewer items than a float counts exactly")]
    fn is_too_many(&self, faults: usize, of: usize) -> bool {
        faults as f64 > self.policy.max_fault_ratio * of as f64
    }

    fn counts(&self) -> MutexGuard<'_, CanaryCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: CanaryPolicy = CanaryPolicy { items: 10, max_fault_ratio: 0.2 };

    fn sample(is_fault: bool) -> CanarySample {
        if is_fault { CanarySample::Fault } else { CanarySample::NoFault }
    }

    /// The state after items that each settled with a fault (`!`) or otherwise (`.`).
    fn after(items: &str) -> CanaryState {
        let now = Instant::now();
        let canary = Canary::begin(POLICY, now);
        let record =
            |(number, sign): (usize, char)| canary.record_attempt(&number.to_string(), sample(sign == '!'), now).1;
        items.chars().enumerate().map(record).last().unwrap()
    }

    #[test]
    fn it_passes_with_as_many_faults_as_the_ratio_allows_and_fails_with_one_more() {
        assert_eq!(after("!!......."), CanaryState::Running);
        assert_eq!(after("!!........"), CanaryState::Passed);
        assert_eq!(after("........!!"), CanaryState::Passed);
        assert_eq!(after(".......!!!"), CanaryState::Failed { settled: 10, faults: 3 });
    }

    #[test]
    fn it_ends_as_soon_as_no_success_could_save_it() {
        assert_eq!(after("!!"), CanaryState::Running);
        assert_eq!(after("!!!"), CanaryState::Failed { settled: 3, faults: 3 });
        assert_eq!(after("!!!........"), CanaryState::Failed { settled: 3, faults: 3 });
    }

    #[test]
    fn an_item_that_comes_again_and_again_counts_once_and_a_fault_of_it_stays() {
        let now = Instant::now();
        let canary = Canary::begin(POLICY, now);
        for _ in 0..100 {
            assert_eq!(canary.record_attempt("poison", CanarySample::Fault, now).1, CanaryState::Running);
        }
        assert_eq!(canary.record_attempt("poison", CanarySample::NoFault, now).1, CanaryState::Running);
        assert_eq!(canary.record_attempt("flaky", CanarySample::Fault, now).1, CanaryState::Running);
        assert_eq!(canary.record_attempt("flaky", CanarySample::NoFault, now).1, CanaryState::Running);
        assert_eq!(
            canary.record_attempt("third", CanarySample::Fault, now).1,
            CanaryState::Failed { settled: 3, faults: 3 }
        );
    }

    #[test]
    fn one_item_alone_condemns_only_where_the_terms_say_so() {
        let now = Instant::now();
        let policy = |items, max_fault_ratio| CanaryPolicy { items, max_fault_ratio };
        for (policy, state) in [
            (policy(10, 0.2), CanaryState::Passed),
            (policy(10, 0.0), CanaryState::Failed { settled: 1, faults: 1 }),
            (policy(1, 0.2), CanaryState::Failed { settled: 1, faults: 1 }),
        ] {
            let canary = Canary::begin(policy, now);
            canary.record_attempt("poison", CanarySample::Fault, now);
            assert_eq!(canary.review(now + MAX_DURATION), state, "{policy:?}");
        }
    }

    #[test]
    fn the_attempt_that_ends_it_was_made_during_it_and_the_next_was_not() {
        let now = Instant::now();
        let canary = Canary::begin(CanaryPolicy { items: 1, max_fault_ratio: 1.0 }, now);
        assert_eq!(canary.record_attempt("a", CanarySample::Fault, now), (CanaryState::Running, CanaryState::Passed));
        assert_eq!(canary.record_attempt("b", CanarySample::Fault, now), (CanaryState::Passed, CanaryState::Passed));
    }

    #[test]
    fn after_ten_minutes_it_is_judged_by_what_has_settled() {
        let now = Instant::now();
        let end = now + MAX_DURATION;
        for (faults, state) in [(1, CanaryState::Passed), (2, CanaryState::Failed { settled: 3, faults: 2 })] {
            let canary = Canary::begin(POLICY, now);
            for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
                canary.record_attempt(key, sample(number < faults), now);
            }
            assert_eq!(canary.review(end - Duration::from_millis(1)), CanaryState::Running);
            assert_eq!(canary.review(end), state);
        }
        assert_eq!(
            Canary::begin(POLICY, now).review(end),
            CanaryState::Passed,
            "without an attempt nothing speaks against it"
        );
    }

    #[test]
    fn a_canary_of_no_items_is_none() {
        let now = Instant::now();
        assert_eq!(Canary::skipped(now).record_attempt("a", CanarySample::Fault, now).0, CanaryState::Passed);
    }
}
