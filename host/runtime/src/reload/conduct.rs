//! What attempts say about a version, and how its latest ones ended, so that the next version can be compared with it.
//!
//! Of items it knows the hashes of their keys. What follows from a comparison is decided by the canary.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

/// Attempts that are remembered: several times those of a usual canary, and little memory.
const ATTEMPTS: usize = 256;

/// Different items from which a version says something about the next one.
const COMPARABLE: usize = 10;

/// Different items after which a version without a predecessor is judged: more than a smoke test has.
const FIRST_ITEMS: usize = 50;

/// What one attempt says about the version, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CanarySample {
    /// Nothing bad.
    Fine,
    /// The attempt failed and is repeated.
    Retry,
    /// The item failed for good.
    Permanent,
    /// The component was at fault.
    Fault,
}

/// The latest attempts of one version.
#[derive(Debug, Default)]
pub(crate) struct Conduct(Mutex<ConductState>);

#[derive(Debug, Default)]
struct ConductState {
    latest: VecDeque<(u64, CanarySample)>,
    /// Attempts at which the component was at fault, of all.
    faults: u64,
    /// Whether an attempt has ended well, or with nothing worse than a retry.
    has_worked: bool,
}

/// The shares of the latest items that failed, from 0 to 1. An item counts once, by its worst attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FailureShares {
    /// Failed for good.
    pub(crate) permanent: f64,
    /// Had to be retried.
    pub(crate) retried: f64,
}

impl Conduct {
    /// Remembers an attempt at the item with this key. Returns whether all of the first items have failed for good, as
    /// soon as they are enough to tell.
    pub(crate) fn record(&self, key: &str, sample: CanarySample) -> bool {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.latest.len() == ATTEMPTS {
            state.latest.pop_front();
        }
        state.latest.push_back((hasher.finish(), sample));
        state.faults += u64::from(sample == CanarySample::Fault);
        state.has_worked |= sample != CanarySample::Permanent;
        !state.has_worked && state.worst().len() == FIRST_ITEMS
    }

    /// The attempts at which the component was at fault.
    pub(crate) fn faults(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).faults
    }

    /// The shares of failures; `None` while too few items are known to compare others with.
    pub(crate) fn shares(&self) -> Option<FailureShares> {
        let worst = self.0.lock().unwrap_or_else(PoisonError::into_inner).worst();
        let of = |sample| worst.values().filter(|worst| **worst == sample).count();
        let (permanent, retried) = (of(CanarySample::Permanent), of(CanarySample::Retry));
        (worst.len() >= COMPARABLE)
            .then(|| FailureShares { permanent: share(permanent, worst.len()), retried: share(retried, worst.len()) })
    }
}

#[expect(clippy::cast_precision_loss, reason = "the window is far smaller than what a float counts exactly")]
fn share(part: usize, of: usize) -> f64 {
    part as f64 / of as f64
}

impl ConductState {
    fn worst(&self) -> BTreeMap<u64, CanarySample> {
        let mut worst = BTreeMap::new();
        for (item, sample) in &self.latest {
            let known = worst.entry(*item).or_insert(*sample);
            *known = (*known).max(*sample);
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_counts_once_by_its_worst_attempt() {
        let conduct = Conduct::default();
        for key in 0..8 {
            conduct.record(&key.to_string(), CanarySample::Fine);
        }
        conduct.record("a", CanarySample::Retry);
        assert_eq!(conduct.shares(), None, "nine items say little");
        conduct.record("a", CanarySample::Fine);
        conduct.record("b", CanarySample::Retry);
        conduct.record("b", CanarySample::Permanent);
        assert_eq!(conduct.shares(), Some(FailureShares { permanent: 0.1, retried: 0.1 }));
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let conduct = Conduct::default();
        for key in 0..20 {
            conduct.record(&key.to_string(), CanarySample::Permanent);
        }
        for key in 100..100 + ATTEMPTS {
            conduct.record(&key.to_string(), CanarySample::Fine);
        }
        assert_eq!(conduct.shares(), Some(FailureShares { permanent: 0.0, retried: 0.0 }));
    }

    #[test]
    fn a_version_that_never_worked_is_told_once_and_one_success_clears_it() {
        let told = |samples: &[CanarySample]| {
            let conduct = Conduct::default();
            samples.iter().enumerate().filter(|(key, sample)| conduct.record(&key.to_string(), **sample)).count()
        };
        assert_eq!(told(&[CanarySample::Permanent; FIRST_ITEMS - 1]), 0);
        assert_eq!(told(&[CanarySample::Permanent; FIRST_ITEMS + 9]), 1);
        let mut cleared = [CanarySample::Permanent; FIRST_ITEMS + 9];
        cleared[3] = CanarySample::Fine;
        assert_eq!(told(&cleared), 0);
        let conduct = Conduct::default();
        assert!(!(0..99).any(|_| conduct.record("poison", CanarySample::Permanent)), "one item says nothing");
    }
}
