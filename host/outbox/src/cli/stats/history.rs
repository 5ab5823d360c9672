//! `stats --last`: what happened lately, by type: as lines of bars in a terminal, as numbers elsewhere.

use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;
use std::time::Duration;

use outbox_store::{HISTORY_MAX, HistoryFigures, HistoryReport, HistorySeries};

use crate::cli::arguments::UsageError;
use crate::cli::context::Context;
use crate::cli::output::{Times, or_dash, span, sparkline, table};

/// The most bars of a line: it fits into a narrow terminal beside the name and the numbers.
const BARS_MAX: usize = 60;

pub(super) async fn run(last: Duration, context: &Context) -> anyhow::Result<ExitCode> {
    if !(Duration::from_mins(1)..=HISTORY_MAX).contains(&last) {
        let problem = format!("--last is {}: use a time from 1m to 24h", humantime::format_duration(last));
        return Err(UsageError(problem).into());
    }
    let store = context.existing_store().await?;
    let now = store.now().await?;
    let report = HistoryReport::new(now, last, store.history(HistoryReport::begin(now, last)).await?);
    let times = context.output.times(now);
    let people = || if stdout().is_terminal() { bars(&report) } else { numbers(&report, times) };
    context.output.emit(&report, people)?;
    Ok(ExitCode::SUCCESS)
}

/// The series with their names: each type, then all of them.
fn series(report: &HistoryReport) -> impl Iterator<Item = (&str, &HistorySeries)> {
    let types = report.types.iter().map(|(name, series)| (name.as_str(), series));
    types.chain([("(all)", &report.total)])
}

/// A line of bars for each type and figure, with the sum or the peak and the scale.
fn bars(report: &HistoryReport) -> String {
    let rows = series(report).flat_map(|(name, series)| {
        let line = |figure: fn(&HistoryFigures) -> u64| {
            sparkline(&series.steps.iter().map(|step| figure(&step.figures)).collect::<Vec<_>>(), BARS_MAX)
        };
        let HistoryFigures { done, failed, given_back, waiting, p95_ms, .. } = series.sum;
        let row = |figure: &str, bars, number: String| [name.to_owned(), figure.to_owned(), bars, number];
        [
            row("done", line(|of| of.done), done.to_string()),
            row(
                "failed",
                line(|of| of.failed.saturating_add(of.given_back)),
                failed.saturating_add(given_back).to_string(),
            ),
            row("waiting", line(|of| of.waiting), format!("{waiting} at most")),
            row("p95", line(|of| of.p95_ms.unwrap_or(0)), milliseconds(p95_ms)),
        ]
    });
    let step = span(i64::try_from(report.step_ms).unwrap_or(i64::MAX));
    table(["TYPE", &format!("EACH {step}"), "", "IN ALL"], rows)
}

/// A row for each type and step in which something happened or waited.
fn numbers(report: &HistoryReport, times: Times) -> String {
    let rows = series(report).flat_map(|(name, series)| {
        let steps = series.steps.iter().filter(|step| step.figures != HistoryFigures::default());
        let steps = steps.map(|step| row(name, times.show(step.at), &step.figures));
        steps.chain([row(name, "(all)".to_owned(), &series.sum)])
    });
    let header = ["TYPE", "SINCE", "DONE", "FAILED", "DEAD", "GIVEN BACK", "WAITING", "P50", "P95", "P99"];
    table(header, rows)
}

fn row(name: &str, since: String, figures: &HistoryFigures) -> [String; 10] {
    let HistoryFigures { done, failed, dead, given_back, waiting, p50_ms, p95_ms, p99_ms } = *figures;
    let [done, failed, dead, given_back, waiting] = [done, failed, dead, given_back, waiting].map(|n| n.to_string());
    let [p50, p95, p99] = [p50_ms, p95_ms, p99_ms].map(milliseconds);
    [name.to_owned(), since, done, failed, dead, given_back, waiting, p50, p95, p99]
}

fn milliseconds(time: Option<u64>) -> String {
    or_dash(time.map(|time| format!("{time}ms")).as_deref())
}
