//! The figures of the last hour and of the next, for the charts of the page and for the overview in words.
//!
//! This file knows neither HTML nor requests.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use outbox_store::{HistoryFigures, HistorySeries, HistoryStep, RetriesAhead};

use crate::glance::Glance;
use crate::page::words::{count, lasted};

/// The figures of each minute of the last hour, oldest first, with what they say in words; and the retries of the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HourFigures {
    /// Items that became DONE in each minute.
    pub done: Vec<u64>,
    /// How many in all.
    pub done_in_all: String,
    /// The most in a minute.
    pub most_done: String,
    /// The latency that half of the items of each minute did not exceed, in milliseconds; null where no item became DONE.
    pub p50_ms: Vec<Option<u64>>,
    /// The same of 95% of the items.
    pub p95_ms: Vec<Option<u64>>,
    /// The same of 99% of the items.
    pub p99_ms: Vec<Option<u64>>,
    /// The three of the whole hour.
    pub latency: String,
    /// Items that waited in each minute.
    pub waiting: Vec<u64>,
    /// The most of them.
    pub most_waiting: String,
    /// Items due for another attempt in each of the next 60 minutes.
    pub retries: Vec<u64>,
    /// How many in all.
    pub due: String,
}

impl HourFigures {
    pub(crate) fn of(glance: &Glance) -> Self {
        let HistorySeries { sum, steps } = &glance.history.total;
        let (done, waiting) = (line(steps, |figures| figures.done), line(steps, |figures| figures.waiting));
        let most = |line: &[u64]| count(line.iter().max().copied().unwrap_or(0));
        Self {
            done_in_all: count(sum.done),
            most_done: most(&done),
            p50_ms: line(steps, |figures| figures.p50_ms),
            p95_ms: line(steps, |figures| figures.p95_ms),
            p99_ms: line(steps, |figures| figures.p99_ms),
            latency: format!("p50 {} · p95 {} · p99 {}", lasted(sum.p50_ms), lasted(sum.p95_ms), lasted(sum.p99_ms)),
            most_waiting: most(&waiting),
            retries: glance.retries.minutes.clone(),
            due: due(&glance.retries),
            done,
            waiting,
        }
    }
}

fn line<T>(steps: &[HistoryStep], figure: fn(&HistoryFigures) -> T) -> Vec<T> {
    steps.iter().map(|step| figure(&step.figures)).collect()
}

/// How many items are due in the next hour, such as `12 due in the next hour`; `12+`, where the store counted only a part
/// of them.
fn due(ahead: &RetriesAhead) -> String {
    let more = if ahead.is_whole { "" } else { "+" };
    format!("{}{more} due in the next hour", count(ahead.minutes.iter().sum()))
}
