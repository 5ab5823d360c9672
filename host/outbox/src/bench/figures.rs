//! The figures: their names and units, what each is compared with, and the samples of all rounds.
//!
//! This file measures nothing.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// A figure: its name, its unit, and the figure of the same round by which it is divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) relative_to: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    PerSecond,
    Milliseconds,
    Bytes,
}

impl Unit {
    /// The member that holds the value in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::PerSecond => "per_s",
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
        }
    }
}

const fn rate(name: &'static str, relative_to: &'static str) -> Figure {
    Figure { name, unit: Unit::PerSecond, relative_to }
}

const fn time(name: &'static str, relative_to: &'static str) -> Figure {
    Figure { name, unit: Unit::Milliseconds, relative_to }
}

const fn bytes(name: &'static str, relative_to: &'static str) -> Figure {
    Figure { name, unit: Unit::Bytes, relative_to }
}

/// A number of items, and the time that they took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    pub(crate) items: u32,
    pub(crate) took: Duration,
}

impl Rate {
    /// Items per second.
    pub(crate) fn per_second(self) -> f64 {
        f64::from(self.items) / self.took.as_secs_f64()
    }
}

impl AddAssign for Rate {
    fn add_assign(&mut self, other: Self) {
        self.items += other.items;
        self.took += other.took;
    }
}

/// A drain: how many items, how long it took, and the bytes that were written to files meanwhile, if that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drained {
    rate: Rate,
    written: Option<u64>,
}

impl Drained {
    /// Measures `drain`, which has to drain `count` items. `written` counts the bytes written so far.
    pub(crate) async fn measure(
        count: usize,
        written: impl Fn() -> Option<u64>,
        drain: impl AsyncFnOnce() -> anyhow::Result<usize>,
    ) -> anyhow::Result<Self> {
        let (begun, before) = (Instant::now(), written());
        let drained = drain().await?;
        let took = begun.elapsed();
        anyhow::ensure!(drained == count, "only {drained} of {count} items could be claimed");
        let written = before.zip(written()).map(|(before, after)| after - before);
        Ok(Self { rate: Rate { items: u32::try_from(count)?, took }, written })
    }
}

/// Every figure, in the order of the output. A limit is compared with itself.
pub(crate) const FIGURES: &[Figure] = &[
    time("fsync", "fsync"),
    rate("limit.commits", "limit.commits"),
    rate("limit.bare_bulk", "limit.bare_bulk"),
    rate("limit.enqueue_bulk", "limit.bare_bulk"),
    rate("limit.drain", "limit.drain"),
    rate("limit.drain_8kib", "limit.drain"),
    rate("limit.drain_old_schema", "limit.drain"),
    rate("limit.drain_old_schema_8kib", "limit.drain_8kib"),
    bytes("written.drain", "written.drain"),
    bytes("written.drain_8kib", "written.drain"),
    bytes("written.drain_old_schema", "written.drain"),
    bytes("written.drain_old_schema_8kib", "written.drain_8kib"),
    rate("drain.native", "limit.drain"),
    rate("drain.sandbox", "limit.drain"),
    rate("drain.sandbox_ordered", "limit.drain"),
    rate("drain.sandbox_ordered_1", "drain.sandbox_ordered"),
    rate("drain.sandbox_ordered_20", "drain.sandbox_ordered"),
    rate("drain.sandbox_ordered_20k", "drain.sandbox_ordered"),
    rate("drain.sandbox_shared", "drain.sandbox"),
    rate("drain.sandbox_traced", "drain.sandbox"),
    rate("drain.sandbox_1kib", "drain.sandbox"),
    rate("drain.sandbox_8kib", "drain.sandbox"),
    rate("drain.sandbox_64kib", "drain.sandbox"),
    rate("drain.handler", "limit.drain"),
    rate("drain.webhook", "limit.drain"),
    rate("drain.webhook_traced", "drain.webhook"),
    rate("drain.sandbox_1m_done", "limit.drain"),
    rate("drain.sandbox_1m_pending", "limit.drain"),
    rate("enqueue.callers_1", "limit.commits"),
    rate("enqueue.callers_8", "limit.commits"),
    rate("enqueue.callers_64", "limit.commits"),
    rate("enqueue.http_64", "limit.commits"),
    rate("enqueue.callers_64_1m_done", "enqueue.callers_64"),
    rate("enqueue.callers_64_1m_pending", "enqueue.callers_64"),
    rate("enqueue.callers_64_random", "enqueue.callers_64"),
    rate("enqueue.callers_64_random_1m_done", "enqueue.callers_64_random"),
    rate("enqueue.bulk", "limit.enqueue_bulk"),
    rate("enqueue.bulk_1m_done", "enqueue.bulk"),
    rate("enqueue.bulk_1m_pending", "enqueue.bulk"),
    rate("enqueue.bulk_random", "enqueue.bulk"),
    rate("enqueue.bulk_random_1m_done", "enqueue.bulk_random"),
    time("latency.idle_p50", "fsync"),
    time("latency.idle_p99", "fsync"),
    time("latency.other_process", "fsync"),
    time("latency.shared_p50", "fsync"),
    time("latency.shared_p99", "fsync"),
    time("load.compiled", "load.compiled"),
    time("load.cached", "load.compiled"),
    time("idle.cpu_per_s", "fsync"),
    bytes("memory.start", "memory.start"),
    bytes("memory.per_attempt", "memory.start"),
    bytes("memory.peak", "memory.start"),
];

/// The values of every figure, one per round.
#[derive(Debug, Default)]
pub(crate) struct Samples(BTreeMap<&'static str, Vec<f64>>);

impl Samples {
    /// Adds the value of a round.
    pub(crate) fn add(&mut self, name: &'static str, value: f64) {
        debug_assert!(FIGURES.iter().any(|figure| figure.name == name), "{name} is not listed");
        self.0.entry(name).or_default().push(value);
    }

    /// Adds a drain: items per second, and bytes per item.
    pub(crate) fn add_drain(&mut self, [rate, bytes]: [&'static str; 2], drained: Drained) {
        self.add(rate, drained.rate.per_second());
        if let Some(written) = drained.written {
            self.add(bytes, float(written) / f64::from(drained.rate.items));
        }
    }

    /// The median, if the figure was taken.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        median(self.of(name).to_vec())
    }

    /// The distance between the lowest and the highest value, as a fraction of the median.
    pub(crate) fn spread(&self, name: &str) -> Option<f64> {
        let low = self.of(name).iter().copied().reduce(f64::min)?;
        let high = self.of(name).iter().copied().reduce(f64::max)?;
        Some((high - low) / self.median(name)?)
    }

    /// The median of the ratios of one figure to another, round by round, because a noisy round disturbs both alike.
    pub(crate) fn ratio(&self, name: &str, relative_to: &str) -> Option<f64> {
        median(self.of(name).iter().zip(self.of(relative_to)).map(|(value, other)| value / other).collect())
    }

    fn of(&self, name: &str) -> &[f64] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(values[middle - 1], upper) })
}

/// The value below which the given fraction of the values is.
pub(crate) fn percentile(mut values: Vec<f64>, part: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((values.len().saturating_sub(1)) as f64 * part).round() as usize;
    values.get(index).copied()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "a figure has four digits")]
pub(crate) fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut samples = Samples::default();
        for (limit, drain) in [(100.0, 50.0), (10.0, 6.0), (100.0, 70.0)] {
            samples.add("limit.drain", limit);
            samples.add("drain.native", drain);
        }
        assert_eq!(samples.ratio("drain.native", "limit.drain"), Some(0.6));
        assert_eq!(samples.median("drain.native"), Some(50.0));
        assert_eq!(samples.spread("limit.drain"), Some(0.9));
        assert_eq!(samples.ratio("drain.webhook", "limit.drain"), None);
    }

    #[test]
    fn every_figure_is_listed_once_and_compared_with_one_that_exists() {
        for figure in FIGURES {
            assert_eq!(FIGURES.iter().filter(|other| other.name == figure.name).count(), 1, "{}", figure.name);
            assert!(FIGURES.iter().any(|other| other.name == figure.relative_to), "{}", figure.name);
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(values.clone(), 0.5), Some(51.0));
        assert_eq!(percentile(values, 0.99), Some(99.0));
        assert_eq!(percentile(Vec::new(), 0.5), None);
    }
}
