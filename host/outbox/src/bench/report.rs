//! The report: JSON for programs; for people a table of the figures, and a table of promised and measured ratios.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::bench::figures::{FIGURES, Figure, Samples, Unit};
use crate::cli::output::{size, table};

/// A promise of the documents: a figure, the figure by which it is divided, and the bound of the ratio.
pub(crate) type Target = (&'static str, &'static str, Bound);

/// The promises for a PostgreSQL server.
pub(crate) const POSTGRES_TARGETS: &[Target] = &[
    ("drain.sandbox_1m_done", "drain.sandbox", Bound::AtLeast(0.8)),
    ("drain.sandbox_1m_pending", "drain.sandbox", Bound::AtLeast(0.8)),
    ("drain.sandbox_shared", "drain.sandbox", Bound::Reported),
    ("drain.sandbox_traced", "drain.sandbox", Bound::Reported),
    ("drain.webhook_traced", "drain.webhook", Bound::Reported),
    ("latency.shared_p50", "latency.idle_p50", Bound::Reported),
    ("latency.shared_p99", "latency.idle_p99", Bound::Reported),
];

/// The promises for SQLite on a disk.
pub(crate) const SQLITE_TARGETS: &[Target] = &[
    ("drain.sandbox", "limit.drain", Bound::AtLeast(0.4)),
    ("drain.sandbox", "drain.native", Bound::AtLeast(0.4)),
    ("drain.sandbox_ordered", "drain.sandbox", Bound::AtLeast(0.4)),
    ("drain.sandbox_shared", "drain.sandbox", Bound::Reported),
    ("drain.sandbox_traced", "drain.sandbox", Bound::Reported),
    ("drain.webhook_traced", "drain.webhook", Bound::Reported),
    ("drain.sandbox_64kib", "drain.sandbox", Bound::AtLeast(0.15)),
    ("drain.sandbox_1m_done", "drain.sandbox", Bound::AtLeast(0.9)),
    ("drain.sandbox_1m_pending", "drain.sandbox", Bound::AtLeast(0.9)),
    ("enqueue.callers_64", "limit.commits", Bound::AtLeast(10.0)),
    ("enqueue.http_64", "limit.commits", Bound::AtLeast(5.0)),
    ("enqueue.bulk", "limit.enqueue_bulk", Bound::AtLeast(0.6)),
    ("enqueue.callers_64_1m_done", "enqueue.callers_64", Bound::AtLeast(0.9)),
    ("enqueue.callers_64_1m_pending", "enqueue.callers_64", Bound::AtLeast(0.9)),
    ("enqueue.callers_64_random_1m_done", "enqueue.callers_64_random", Bound::AtLeast(0.4)),
    ("enqueue.callers_64_random_1m_done", "enqueue.callers_64_1m_done", Bound::Reported),
    ("latency.idle_p50", "fsync", Bound::AtMost(6.0)),
    ("latency.idle_p99", "fsync", Bound::AtMost(20.0)),
    ("latency.shared_p50", "latency.idle_p50", Bound::Reported),
    ("latency.shared_p99", "latency.idle_p99", Bound::Reported),
];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing is promised, but the ratio is reported.
    Reported,
}

impl Bound {
    fn outcome(self, ratio: f64) -> &'static str {
        let is_kept = match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
            Self::Reported => return "",
        };
        if is_kept { "kept" } else { "NOT KEPT" }
    }

    fn describe(self) -> String {
        match self {
            Self::AtLeast(least) => format!("at least {least}"),
            Self::AtMost(most) => format!("at most {most}"),
            Self::Reported => "stated".to_owned(),
        }
    }
}

/// The medians of all rounds.
#[derive(Serialize)]
pub(crate) struct BenchReport<'a> {
    rounds: u32,
    figures: Vec<Map<String, Value>>,
    #[serde(skip)]
    samples: &'a Samples,
    #[serde(skip)]
    targets: &'static [Target],
}

impl<'a> BenchReport<'a> {
    pub(crate) fn new(rounds: u32, samples: &'a Samples, targets: &'static [Target]) -> Self {
        let figures = FIGURES.iter().filter_map(|figure| object(figure, samples)).collect();
        Self { rounds, figures, samples, targets }
    }

    /// The tables for people.
    pub(crate) fn page(&self) -> String {
        let rows = FIGURES.iter().filter_map(|figure| row(figure, self.samples));
        let figures = table(["FIGURE", "MEDIAN", "SPREAD", "RATIO"], rows);
        let rows = self.targets.iter().filter_map(|target| target_row(target, self.samples));
        let targets = table(["RATIO", "PROMISED", "MEASURED", ""], rows);
        format!("{figures}\n\n{targets}")
    }
}

fn object(figure: &Figure, samples: &Samples) -> Option<Map<String, Value>> {
    let name = figure.name;
    let mut object = Map::new();
    object.insert("name".into(), name.into());
    object.insert(figure.unit.as_str().into(), json!(rounded(samples.median(name)?)));
    object.insert("spread".into(), json!(rounded(samples.spread(name)?)));
    object.insert("ratio".into(), json!(rounded(samples.ratio(name, figure.relative_to)?)));
    Some(object)
}

/// The value with four digits, more than a measurement is accurate to.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

fn row(figure: &Figure, samples: &Samples) -> Option<[String; 4]> {
    let (name, relative_to) = (figure.name, figure.relative_to);
    let median = samples.median(name)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
    let value = match figure.unit {
        Unit::PerSecond => format!("{median:.0}/s"),
        Unit::Milliseconds => format!("{median:.3} ms"),
        Unit::Bytes => size(median as u64),
    };
    let spread = format!("{:.0} %", samples.spread(name)? * 100.0);
    let ratio = samples.ratio(name, relative_to)?;
    let ratio = if name == relative_to { String::new() } else { format!("{ratio:.2} of {relative_to}") };
    Some([name.to_owned(), value, spread, ratio])
}

fn target_row((name, relative_to, bound): &Target, samples: &Samples) -> Option<[String; 4]> {
    let ratio = samples.ratio(name, relative_to)?;
    let outcome = bound.outcome(ratio).to_owned();
    Some([format!("{name} / {relative_to}"), bound.describe(), format!("{ratio:.2}"), outcome])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_four_digits() {
        let shown = [123_456.0, 0.123_456, 0.0].map(|value| rounded(value).to_string());
        assert_eq!(shown, ["123500", "0.1235", "0"]);
    }

    #[test]
    fn what_is_promised_names_figures_that_exist() {
        for (name, relative_to, _) in SQLITE_TARGETS.iter().chain(POSTGRES_TARGETS) {
            for wanted in [name, relative_to] {
                assert!(FIGURES.iter().any(|figure| figure.name == *wanted), "{wanted}");
            }
        }
    }
}
