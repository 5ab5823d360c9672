//! The canary of a new version: decides from its first items whether it stays or is rolled back.
//!
//! A version fails by its own faults, and by failing more items for good, or retrying more, than the version before it.
//! It counts items, not attempts: an item that faults is given back and tried again, so counting attempts would
//! let one poison item roll a good version back. Time is an argument. Of items the canary knows only their keys; it
//! does not carry the rollback out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::load::manifest::canary_policy::CanaryPolicy;
use crate::reload::conduct::{CanarySample, FailureShares};

/// The longest canary: a version that gets few items is decided about by then.
const MAX_DURATION: Duration = Duration::from_mins(10);

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
        /// Items that ended at least once as `cause` says.
        failed: usize,
        /// What there was too much of.
        cause: CanarySample,
    },
}

/// The canary of one generation.
#[derive(Debug)]
pub(crate) struct Canary {
    policy: CanaryPolicy,
    /// How the version before it fared; `None` if that is not known.
    baseline: Option<FailureShares>,
    ends_at: Instant,
    counts: Mutex<CanaryCounts>,
}

#[derive(Debug)]
struct CanaryCounts {
    settled: BTreeSet<String>,
    faulted: BTreeSet<String>,
    permanent: BTreeSet<String>,
    retried: BTreeSet<String>,
    /// For each sample the first item with it, with the code of its failure, as the end of a sentence.
    examples: BTreeMap<CanarySample, String>,
    state: CanaryState,
}

impl Canary {
    /// A canary that begins now. A canary of no items has passed already.
    pub(crate) fn begin(policy: CanaryPolicy, baseline: Option<FailureShares>, now: Instant) -> Self {
        let state = if policy.items == 0 { CanaryState::Passed } else { CanaryState::Running };
        let [settled, faulted, permanent, retried] = [const { BTreeSet::new() }; 4];
        let counts = CanaryCounts { settled, faulted, permanent, retried, examples: BTreeMap::new(), state };
        Self { policy, baseline, ends_at: now + MAX_DURATION, counts: Mutex::new(counts) }
    }

    /// The canary of a version that needs none.
    pub(crate) fn skipped(now: Instant) -> Self {
        Self::begin(CanaryPolicy { items: 0, ..CanaryPolicy::default() }, None, now)
    }

    /// Counts an attempt at the item with this key. Returns the states before and after. The one before decides whether
    /// an item that faults is given back.
    pub(crate) fn record_attempt(&self, key: &str, sample: CanarySample, now: Instant) -> (CanaryState, CanaryState) {
        let before = self.review(now);
        let mut counts = self.counts();
        if counts.state == CanaryState::Running {
            counts.settled.insert(key.to_owned());
            match sample {
                CanarySample::Fine => false,
                CanarySample::Retry => counts.retried.insert(key.to_owned()),
                CanarySample::Permanent => counts.permanent.insert(key.to_owned()),
                CanarySample::Fault => counts.faulted.insert(key.to_owned()),
            };
            counts.state = self.evaluate(&counts, now);
        }
        (before, counts.state)
    }

    /// Remembers the failure of an attempt at the item with this key, as an example for operators.
    pub(crate) fn remember_failure(&self, key: &str, sample: CanarySample, code: &str) {
        let example = || format!(", such as the item with the key {key:?} ({code})");
        self.counts().examples.entry(sample).or_insert_with(example);
    }

    /// An item that ended so, as the end of a sentence.
    pub(crate) fn example(&self, sample: CanarySample) -> String {
        self.counts().examples.get(&sample).cloned().unwrap_or_default()
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
        let (settled, items) = (counts.settled.len(), self.policy.items as usize);
        let is_over = settled >= items || now >= self.ends_at;
        for (failed, most, cause) in [
            (counts.faulted.len(), self.policy.max_fault_ratio, CanarySample::Fault),
            (counts.permanent.len(), self.most(|before| before.permanent), CanarySample::Permanent),
            (counts.retried.len(), self.most(|before| before.retried), CanarySample::Retry),
        ] {
            // During the canary it fails only if no later success could bring the ratio down again.
            let is_too_many = is_more(failed, most, if is_over { settled } else { items });
            // A single item may be a poison item, so it decides only if the policy tolerates no failure of all items.
            let is_proof = failed > 1 || is_more(failed, most, items);
            if is_too_many && is_proof {
                return CanaryState::Failed { settled, failed, cause };
            }
        }
        if is_over { CanaryState::Passed } else { CanaryState::Running }
    }

    /// The largest share of items that may fail: that of the version before, and what the policy adds. Without a
    /// known share, every item may.
    fn most(&self, share: impl Fn(FailureShares) -> f64) -> f64 {
        self.baseline.map_or(1.0, |baseline| share(baseline) + self.policy.max_failure_increase)
    }

    fn counts(&self) -> MutexGuard<'_, CanaryCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a manifest allows far fewer items than a float counts exactly")]
fn is_more(failed: usize, most: f64, of: usize) -> bool {
    failed as f64 > most * of as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: CanaryPolicy = CanaryPolicy { items: 10, max_fault_ratio: 0.2, max_failure_increase: 0.2 };

    fn sample(is_fault: bool) -> CanarySample {
        if is_fault { CanarySample::Fault } else { CanarySample::Fine }
    }

    /// The state of a canary that its items have faulted in.
    fn faulty(settled: usize, faults: usize) -> CanaryState {
        CanaryState::Failed { settled, failed: faults, cause: CanarySample::Fault }
    }

    /// The state after the samples of different items, for a version that follows one with these shares.
    fn compared(baseline: Option<FailureShares>, samples: &[CanarySample]) -> CanaryState {
        let now = Instant::now();
        let canary = Canary::begin(POLICY, baseline, now);
        let record =
            |(number, sample): (usize, &CanarySample)| canary.record_attempt(&number.to_string(), *sample, now).1;
        samples.iter().enumerate().map(record).last().unwrap()
    }

    #[test]
    fn a_version_that_fails_more_items_for_good_than_the_one_before_fails() {
        use CanarySample::{Fine, Permanent};
        let before = |permanent| Some(FailureShares { permanent, retried: 0.0 });
        let failed = |settled, failed| CanaryState::Failed { settled, failed, cause: Permanent };
        assert_eq!(compared(before(0.0), &[Permanent; 3]), failed(3, 3));
        assert_eq!(compared(before(0.0), &[&[Permanent; 2][..], &[Fine; 8]].concat()), CanaryState::Passed);
        assert_eq!(compared(before(0.5), &[&[Permanent; 7][..], &[Fine; 3]].concat()), CanaryState::Passed);
        assert_eq!(compared(before(0.5), &[Permanent; 8]), failed(8, 8));
        assert_eq!(compared(before(1.0), &[Permanent; 10]), CanaryState::Passed, "the receiver refuses everything");
        assert_eq!(compared(None, &[Permanent; 10]), CanaryState::Passed, "nothing is known to compare with");
    }

    #[test]
    fn a_version_that_retries_more_items_than_the_one_before_fails() {
        use CanarySample::{Fine, Retry};
        let before = |retried| Some(FailureShares { permanent: 0.0, retried });
        assert_eq!(compared(before(0.0), &[&[Retry; 2][..], &[Fine; 8]].concat()), CanaryState::Passed);
        let failed = CanaryState::Failed { settled: 3, failed: 3, cause: Retry };
        assert_eq!(compared(before(0.0), &[Retry; 3]), failed);
        assert_eq!(compared(before(0.9), &[Retry; 10]), CanaryState::Passed, "an outage began before the version");
    }

    /// The state after items that each settled with a fault (`!`) or otherwise (`.`).
    fn after(items: &str) -> CanaryState {
        let now = Instant::now();
        let canary = Canary::begin(POLICY, None, now);
        let record =
            |(number, sign): (usize, char)| canary.record_attempt(&number.to_string(), sample(sign == '!'), now).1;
        items.chars().enumerate().map(record).last().unwrap()
    }

    #[test]
    fn it_passes_with_as_many_faults_as_the_ratio_allows_and_fails_with_one_more() {
        assert_eq!(after("!!......."), CanaryState::Running);
        assert_eq!(after("!!........"), CanaryState::Passed);
        assert_eq!(after("........!!"), CanaryState::Passed);
        assert_eq!(after(".......!!!"), faulty(10, 3));
    }

    #[test]
    fn it_ends_as_soon_as_no_success_could_save_it() {
        assert_eq!(after("!!"), CanaryState::Running);
        assert_eq!(after("!!!"), faulty(3, 3));
        assert_eq!(after("!!!........"), faulty(3, 3));
    }

    #[test]
    fn an_item_that_comes_again_and_again_counts_once_and_a_fault_of_it_stays() {
        let now = Instant::now();
        let canary = Canary::begin(POLICY, None, now);
        for _ in 0..100 {
            assert_eq!(canary.record_attempt("poison", CanarySample::Fault, now).1, CanaryState::Running);
        }
        assert_eq!(canary.record_attempt("poison", CanarySample::Fine, now).1, CanaryState::Running);
        assert_eq!(canary.record_attempt("flaky", CanarySample::Fault, now).1, CanaryState::Running);
        assert_eq!(canary.record_attempt("flaky", CanarySample::Fine, now).1, CanaryState::Running);
        assert_eq!(canary.record_attempt("third", CanarySample::Fault, now).1, faulty(3, 3));
    }

    #[test]
    fn one_item_alone_condemns_only_where_the_terms_say_so() {
        let now = Instant::now();
        let policy = |items, max_fault_ratio| CanaryPolicy { items, max_fault_ratio, ..POLICY };
        for (policy, state) in
            [(policy(10, 0.2), CanaryState::Passed), (policy(10, 0.0), faulty(1, 1)), (policy(1, 0.2), faulty(1, 1))]
        {
            let canary = Canary::begin(policy, None, now);
            canary.record_attempt("poison", CanarySample::Fault, now);
            assert_eq!(canary.review(now + MAX_DURATION), state, "{policy:?}");
        }
    }

    #[test]
    fn the_attempt_that_ends_it_was_made_during_it_and_the_next_was_not() {
        let now = Instant::now();
        let canary = Canary::begin(CanaryPolicy { items: 1, max_fault_ratio: 1.0, ..POLICY }, None, now);
        assert_eq!(canary.record_attempt("a", CanarySample::Fault, now), (CanaryState::Running, CanaryState::Passed));
        assert_eq!(canary.record_attempt("b", CanarySample::Fault, now), (CanaryState::Passed, CanaryState::Passed));
    }

    #[test]
    fn after_ten_minutes_it_is_judged_by_what_has_settled() {
        let now = Instant::now();
        let end = now + MAX_DURATION;
        for (faults, state) in [(1, CanaryState::Passed), (2, faulty(3, 2))] {
            let canary = Canary::begin(POLICY, None, now);
            for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
                canary.record_attempt(key, sample(number < faults), now);
            }
            assert_eq!(canary.review(end - Duration::from_millis(1)), CanaryState::Running);
            assert_eq!(canary.review(end), state);
        }
        assert_eq!(
            Canary::begin(POLICY, None, now).review(end),
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
