//! How long something took, many times: counts in bins that can be added up over processes and minutes.
//!
//! The bins grow by the square root of two, from one millisecond to a day, so that a percentile is known to within a
//! fifth of its value. This file knows neither clocks nor databases.

use std::time::Duration;

/// The number of bins: one below a millisecond, and two for each power of two up to a day. The last has no end.
const BINS: usize = 55;

/// Counts of durations by bin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyBins {
    /// The count of each bin, up to the last that is not zero.
    counts: Vec<u64>,
}

impl LatencyBins {
    /// The counts that a store kept, by bin. Counts beyond the last bin are left out.
    pub fn from_counts(mut counts: Vec<u64>) -> Self {
        counts.truncate(BINS);
        Self { counts }
    }

    /// The count of each bin, up to the last that is not zero.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Counts a duration.
    pub fn count(&mut self, took: Duration) {
        let bin = bin_of(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        if self.counts.len() <= bin {
            self.counts.resize(bin + 1, 0);
        }
        self.counts[bin] = self.counts[bin].saturating_add(1);
    }

    /// Adds other counts to these.
    pub fn add(&mut self, others: &Self) {
        if self.counts.len() < others.counts.len() {
            self.counts.resize(others.counts.len(), 0);
        }
        for (count, other) in self.counts.iter_mut().zip(&others.counts) {
            *count = count.saturating_add(*other);
        }
    }

    /// The duration that this share of all durations does not exceed, from 0 to 1, in milliseconds; `None` without any.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let counts = self.counts.iter().map(|count| as_float(*count));
        let wanted = counts.clone().sum::<f64>() * share;
        let mut below = 0.0;
        for (bin, count) in counts.enumerate().filter(|(_, count)| *count > 0.0) {
            if below + count >= wanted {
                let part = ((wanted - below) / count).clamp(0.0, 1.0);
                let milliseconds = begin_of(bin) + (begin_of(bin + 1) - begin_of(bin)) * part;
                return Some(milliseconds.round() as u64);
            }
            below += count;
        }
        None
    }
}

/// The bin of a duration in milliseconds.
fn bin_of(milliseconds: u64) -> usize {
    let Some(power) = milliseconds.checked_ilog2() else { return 0 };
    let is_upper_half = u128::from(milliseconds).pow(2) >= 1 << (2 * power + 1);
    (1 + 2 * power as usize + usize::from(is_upper_half)).min(BINS - 1)
}

/// Where a bin begins, in milliseconds.
fn begin_of(bin: usize) -> f64 {
    if bin == 0 { 0.0 } else { 2.0_f64.powf((as_float(bin as u64) - 1.0) / 2.0) }
}

#[expect(clippy::cast_precision_loss, reason = "nearly")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bins(milliseconds: impl IntoIterator<Item = u64>) -> LatencyBins {
        let mut bins = LatencyBins::default();
        for time in milliseconds {
            bins.count(Duration::from_millis(time));
        }
        bins
    }

    #[test]
    fn a_duration_is_in_the_bin_that_begins_at_it_or_before() {
        for milliseconds in (0..5_000).chain([59_999, 86_400_000]) {
            let (bin, time) = (bin_of(milliseconds), as_float(milliseconds));
            assert!(begin_of(bin) <= time && time < begin_of(bin + 1), "{milliseconds}");
        }
        assert_eq!([bin_of(u64::MAX), bin_of(0), bin_of(1), bin_of(2), bin_of(3)], [BINS - 1, 0, 1, 3, 4]);
    }

    #[test]
    fn percentiles_are_within_a_fifth_of_the_truth() {
        let times = bins(1..=10_000);
        for (share, truth) in [(0.5, 5_000.0), (0.95, 9_500.0), (0.99, 9_900.0)] {
            let told = as_float(times.percentile(share).unwrap());
            assert!((told / truth - 1.0).abs() < 0.2, "{share}: {told}");
        }
        assert_eq!(bins([]).percentile(0.5), None);
        assert_eq!(bins([7]).percentile(0.0), Some(6));
    }

    #[test]
    fn counts_of_several_processes_are_those_of_all() {
        let mut sum = bins([1, 1, 900]);
        sum.add(&bins([5_000]));
        sum.add(&bins([]));
        assert_eq!(sum, bins([1, 1, 900, 5_000]));
        assert_eq!(LatencyBins::from_counts(sum.counts().to_vec()), sum);
        assert_eq!(LatencyBins::from_counts(vec![1; 99]).counts().len(), BINS);
    }
}
