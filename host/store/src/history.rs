//! The figures of each minute and type: what the hosts settled, how long it took, and how much waited.
//!
//! Each host counts what it settles and adds it to the store's rows every few seconds, so the rows are sums over all
//! hosts and outlive them. What a killed host had counted since then is lost. For display only.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use outbox_item::Millis;

use crate::latency_bins::LatencyBins;

/// How long the time is that one row is about.
const MINUTE: Duration = Duration::from_mins(1);
/// The most types that a minute has rows of from one host, and that a report shows. The others share [`OTHER_TYPES`].
pub const TYPES_MAX: usize = 100;
/// The name for all other types. No type has such a name.
pub const OTHER_TYPES: &str = "_other";
/// The longest time that a report is about.
pub const HISTORY_MAX: Duration = Duration::from_hours(24);
/// The most steps of a report. A step is several minutes where there would be more.
const STEPS_MAX: u64 = 120;

/// What happened to the items of one type in one minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryMinute {
    /// When the minute began, in the store's time.
    pub minute: Millis,
    /// The type.
    pub item_type: String,
    /// Its figures.
    pub figures: MinuteFigures,
}

/// What happened in one minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MinuteFigures {
    /// Items that became DONE.
    pub done: u64,
    /// Attempts that failed and count, also the last one of an item.
    pub failed: u64,
    /// Items that an attempt moved to the DLQ.
    pub dead: u64,
    /// Attempts that failed and do not count.
    pub given_back: u64,
    /// The items that waited when the upkeep first counted some in this minute.
    pub waiting: u64,
    /// From the enqueue of each item that became DONE to its settlement; replayed items are left out.
    pub latency: LatencyBins,
}

impl MinuteFigures {
    /// Adds the figures of other items in the same minute.
    pub fn add(&mut self, others: &Self) {
        self.waiting = self.waiting.saturating_add(others.waiting);
        self.add_events(others);
    }

    /// Adds the figures of the same items in another minute.
    fn add_minute(&mut self, other: &Self) {
        self.waiting = self.waiting.max(other.waiting);
        self.add_events(other);
    }

    fn add_events(&mut self, others: &Self) {
        self.done = self.done.saturating_add(others.done);
        self.failed = self.failed.saturating_add(others.failed);
        self.dead = self.dead.saturating_add(others.dead);
        self.given_back = self.given_back.saturating_add(others.given_back);
        self.latency.add(&others.latency);
    }
}

/// When the minute began that this time is in.
pub fn minute_of(time: Millis) -> Millis {
    let minute = i64::try_from(MINUTE.as_millis()).unwrap_or(i64::MAX);
    Millis::new(time.get() - time.get().rem_euclid(minute))
}

/// What happened lately, in steps of equal length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryReport {
    /// The store's time of this reading.
    pub now: Millis,
    /// How long a step is, in milliseconds: a minute or several.
    pub step_ms: u64,
    /// All types together.
    pub total: HistorySeries,
    /// Each type of which something is known, by name: at most 100 and `_other`.
    pub types: BTreeMap<String, HistorySeries>,
}

/// The figures of a type, or of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistorySeries {
    /// Of the whole time.
    pub sum: HistoryFigures,
    /// Of each step, oldest first, also where nothing happened. The last one is not over yet.
    pub steps: Vec<HistoryStep>,
}

/// The figures of one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryStep {
    /// When it began.
    pub at: Millis,
    /// Its figures.
    #[serde(flatten)]
    pub figures: HistoryFigures,
}

/// What happened in some minutes. Members are those of [`MinuteFigures`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistoryFigures {
    /// Items that became DONE.
    pub done: u64,
    /// Attempts that failed and count.
    pub failed: u64,
    /// Items that an attempt moved to the DLQ.
    pub dead: u64,
    /// Attempts that failed and do not count.
    pub given_back: u64,
    /// The most items that waited.
    pub waiting: u64,
    /// The latency that half of the items did not exceed, in milliseconds; `None` when none became DONE.
    pub p50_ms: Option<u64>,
    /// The latency that 95% of them did not exceed.
    pub p95_ms: Option<u64>,
    /// The latency that 99% of them did not exceed.
    pub p99_ms: Option<u64>,
}

impl From<&MinuteFigures> for HistoryFigures {
    fn from(figures: &MinuteFigures) -> Self {
        let MinuteFigures { done, failed, dead, given_back, waiting, ref latency } = *figures;
        let [p50_ms, p95_ms, p99_ms] = [0.5, 0.95, 0.99].map(|share| latency.percentile(share));
        Self { done, failed, dead, given_back, waiting, p50_ms, p95_ms, p99_ms }
    }
}

/// The minutes of each series, by the time at which each began.
type Minutes = BTreeMap<Millis, MinuteFigures>;

impl HistoryReport {
    /// When the first minute of a report about this time before `now` began.
    pub fn begin(now: Millis, last: Duration) -> Millis {
        let span = last.clamp(MINUTE, HISTORY_MAX);
        minute_of(now.saturating_sub(span.saturating_sub(MINUTE)))
    }

    /// The report about this time before `now`, from the rows since [`HistoryReport::begin`].
    pub fn new(now: Millis, last: Duration, rows: Vec<HistoryMinute>) -> Self {
        let (begin, end) = (Self::begin(now, last), minute_of(now));
        let minutes = end.since(begin).as_secs() / MINUTE.as_secs() + 1;
        let step = MINUTE * u32::try_from(minutes.div_ceil(STEPS_MAX)).unwrap_or(u32::MAX);
        let mut total = Minutes::new();
        let mut types: BTreeMap<String, Minutes> = BTreeMap::new();
        let shown = shown_types(&rows);
        for HistoryMinute { minute, item_type, figures } in rows.into_iter().filter(|row| row.minute <= end) {
            total.entry(minute).or_default().add(&figures);
            let name = if shown.contains(&item_type) { item_type } else { OTHER_TYPES.to_owned() };
            types.entry(name).or_default().entry(minute).or_default().add(&figures);
        }
        let series = |minutes: &Minutes| HistorySeries::new(minutes, begin, end, step);
        let types = types.iter().map(|(name, minutes)| (name.clone(), series(minutes))).collect();
        let step_ms = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
        Self { now, step_ms, total: series(&total), types }
    }
}

/// The types with the most attempts and waiting items, as many as a report shows.
fn shown_types(rows: &[HistoryMinute]) -> Vec<String> {
    let mut activity: BTreeMap<&str, u64> = BTreeMap::new();
    for HistoryMinute { item_type, figures, .. } in rows.iter().filter(|row| row.item_type != OTHER_TYPES) {
        let known = activity.entry(item_type).or_default();
        for events in [figures.done, figures.failed, figures.given_back, figures.waiting] {
            *known = known.saturating_add(events);
        }
    }
    let mut types: Vec<_> = activity.into_iter().collect();
    types.sort_by_key(|(_, events)| std::cmp::Reverse(*events));
    types.into_iter().take(TYPES_MAX).map(|(name, _)| name.to_owned()).collect()
}

impl HistorySeries {
    fn new(minutes: &Minutes, begin: Millis, end: Millis, step: Duration) -> Self {
        let (mut sum, mut steps, mut at) = (MinuteFigures::default(), Vec::new(), begin);
        while at <= end {
            let next = at.saturating_add(step);
            let mut figures = MinuteFigures::default();
            for (_, minute) in minutes.range(at..next) {
                figures.add_minute(minute);
            }
            sum.add_minute(&figures);
            steps.push(HistoryStep { at, figures: (&figures).into() });
            at = next;
        }
        Self { sum: (&sum).into(), steps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis::new(1_800_000_030_000);

    fn row(minutes_ago: i64, item_type: &str, done: u64, waiting: u64) -> HistoryMinute {
        let mut latency = LatencyBins::default();
        for _ in 0..done {
            latency.count(Duration::from_millis(100));
        }
        let figures = MinuteFigures { done, waiting, latency, ..MinuteFigures::default() };
        let minute = minute_of(Millis::new(NOW.get() - minutes_ago * 60_000));
        HistoryMinute { minute, item_type: item_type.to_owned(), figures }
    }

    #[test]
    fn a_report_has_each_minute_and_adds_up_what_happened_and_not_what_waited() {
        let hour = Duration::from_hours(1);
        let rows = vec![row(59, "mail", 3, 10), row(1, "mail", 2, 4), row(1, "sms", 1, 7)];
        let report = HistoryReport::new(NOW, hour, rows);
        assert_eq!((report.step_ms, report.total.steps.len()), (60_000, 60));
        assert_eq!(HistoryReport::begin(NOW, hour), report.total.steps[0].at);
        let done: Vec<_> = report.total.steps.iter().map(|step| step.figures.done).collect();
        assert_eq!((done[0], done[58], done[59]), (3, 3, 0));
        assert_eq!((report.total.sum.done, report.total.sum.waiting), (6, 11));
        assert_eq!((report.types["mail"].sum.done, report.types["mail"].sum.waiting), (5, 10));
        assert_eq!(report.types["sms"].steps[58].figures.p99_ms, Some(128));
        assert_eq!(report.types["sms"].steps[0].figures.p50_ms, None);
    }

    #[test]
    fn a_long_time_is_told_in_a_bounded_number_of_steps() {
        let report = HistoryReport::new(NOW, Duration::from_hours(99), vec![row(1_439, "mail", 1, 0)]);
        assert_eq!((report.step_ms, report.total.steps.len(), report.total.sum.done), (720_000, 120, 1));
        let short = HistoryReport::new(NOW, Duration::ZERO, vec![]);
        assert_eq!((short.total.steps.len(), short.types.len()), (1, 0));
    }

    #[test]
    fn types_without_end_are_a_hundred_and_the_rest() {
        let rows = (0..300).map(|number| row(0, &format!("t{number}"), number, 0)).collect();
        let report = HistoryReport::new(NOW, Duration::from_mins(1), rows);
        assert_eq!((report.types.len(), report.types["t299"].sum.done), (101, 299));
        assert_eq!(report.types[OTHER_TYPES].sum.done, (0..200).sum::<u64>());
        assert_eq!(report.total.sum.done, (0..300).sum::<u64>());
    }
}
