//! The samples of one scrape, and their text.
//!
//! It knows no metric and no store.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use outbox_core::{BUCKET_BOUNDS_MS, DurationHistogram};

use crate::metrics::catalog::{Metric, MetricKind};

/// The samples of one scrape, by metric.
#[derive(Debug, Default)]
pub(super) struct Exposition(Vec<Family>);

/// The samples of one metric, by the values of its labels.
#[derive(Debug)]
pub(super) struct Family {
    metric: &'static Metric,
    samples: BTreeMap<Vec<String>, Value>,
}

#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Seconds(f64),
    Durations(DurationHistogram),
}

impl Exposition {
    /// A metric. It is written although it gets no sample.
    pub(super) fn metric(&mut self, metric: &'static Metric) -> &mut Family {
        let index = self.0.len();
        self.0.push(Family { metric, samples: BTreeMap::new() });
        &mut self.0[index]
    }

    /// The text that a scraper reads.
    pub(super) fn into_text(self) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(self));
        prometheus_text::encode(&mut text, &registry).expect("writing to a string cannot fail");
        text
    }
}

impl Family {
    /// Adds to the sample with these values of the labels.
    pub(super) fn add<const N: usize>(&mut self, labels: [&str; N], number: u64) {
        match self.sample(labels, Value::Number(0)) {
            Value::Number(sum) => *sum = sum.saturating_add(number),
            value => *value = Value::Number(number),
        }
    }

    /// Raises the sample with these values of the labels to this time, in milliseconds.
    pub(super) fn raise<const N: usize>(&mut self, labels: [&str; N], milliseconds: u64) {
        let seconds = Duration::from_millis(milliseconds).as_secs_f64();
        match self.sample(labels, Value::Seconds(seconds)) {
            Value::Seconds(most) => *most = most.max(seconds),
            value => *value = Value::Seconds(seconds),
        }
    }

    /// Sets the histogram with these values of the labels.
    pub(super) fn durations<const N: usize>(&mut self, labels: [&str; N], durations: &DurationHistogram) {
        *self.sample(labels, Value::Number(0)) = Value::Durations(durations.clone());
    }

    fn sample<const N: usize>(&mut self, labels: [&str; N], first: Value) -> &mut Value {
        debug_assert_eq!(N, self.metric.labels.len(), "{}", self.metric.name);
        self.samples.entry(labels.map(str::to_owned).into()).or_insert(first)
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Metric { name, kind, labels, help, .. } = self.metric;
        // The library adds the ending of a counter to its name.
        let name = name.trim_end_matches("_total");
        let mut metric = encoder.encode_descriptor(name, help, None, kind.into())?;
        for (values, sample) in &self.samples {
            let labels: Vec<_> = labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            if labels.is_empty() {
                sample.encode(&mut metric, *kind)?;
            } else {
                sample.encode(&mut metric.encode_family(&labels)?, *kind)?;
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, encoder: &mut MetricEncoder<'_>, kind: MetricKind) -> fmt::Result {
        match self {
            Self::Number(number) if kind == MetricKind::Counter => {
                encoder.encode_counter::<NoLabelSet, _, u64>(number, None)
            }
            Self::Number(number) => encoder.encode_gauge(number),
            Self::Seconds(seconds) => encoder.encode_gauge(seconds),
            Self::Durations(durations) => {
                let buckets = buckets(durations);
                encoder.encode_histogram::<NoLabelSet>(durations.sum.as_secs_f64(), durations.count, &buckets, None)
            }
        }
    }
}

/// The upper bound of each bucket in seconds, and how many durations are in it and in no smaller one.
fn buckets(DurationHistogram { buckets, .. }: &DurationHistogram) -> Vec<(f64, u64)> {
    let bounds = BUCKET_BOUNDS_MS.map(|bound| Duration::from_millis(bound).as_secs_f64());
    bounds.into_iter().zip(*buckets).collect()
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

impl From<&MetricKind> for MetricType {
    fn from(kind: &MetricKind) -> Self {
        match kind {
            MetricKind::Counter => Self::Counter,
            MetricKind::Gauge => Self::Gauge,
            MetricKind::Histogram => Self::Histogram,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::catalog::{ATTEMPTS_RUNNING, OLDEST_PENDING, PLUGIN_GENERATION};

    #[test]
    fn a_sample_is_one_line_whatever_its_labels_contain() {
        let mut exposition = Exposition::default();
        exposition.metric(PLUGIN_GENERATION).add(["a\"b\\c\nd"], 1);
        exposition.metric(ATTEMPTS_RUNNING).add([], 2);
        let text = exposition.into_text();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples, ["outbox_plugin_generation{plugin=\"a\\\"b\\\\c\\nd\"} 1", "outbox_attempts_running 2"]);
    }

    #[test]
    fn what_has_the_same_labels_is_added_up_and_of_times_the_longest_counts() {
        let mut exposition = Exposition::default();
        let (running, pending) = (exposition.metric(ATTEMPTS_RUNNING), 61_005);
        running.add([], 1);
        running.add([], 2);
        let oldest = exposition.metric(OLDEST_PENDING);
        oldest.raise(["t"], pending);
        oldest.raise(["t"], 1);
        let text = exposition.into_text();
        assert!(text.contains("outbox_attempts_running 3\n"), "{text}");
        assert!(text.contains("outbox_oldest_pending_seconds{type=\"t\"} 61.005\n"), "{text}");
    }
}
