//! How items flow, and the last hour as bars.

use ratatui::text::{Line, Span};

use outbox_http::OverviewReport;

use crate::cli::output::sparkline;
use crate::cli::top::columns::cells;
use crate::cli::top::theme::Theme;

/// The widest number of the flow.
const NUMBER: usize = 10;

/// The width of the names of the last hour's figures.
const NAME: usize = 11;

/// The most bars of a line: one for each minute.
const BARS: usize = 60;

/// A line for each status: how many items or how fast, and what is known besides.
pub(super) fn flow(report: &OverviewReport, theme: Theme) -> Vec<Line<'static>> {
    let flow = &report.flow;
    let line = |status: &str, number: &str, about: String, style| {
        let number = format!("{number:>NUMBER$}");
        Line::from(vec![
            Span::raw(format!("{status:8}")),
            Span::styled(number, style),
            Span::styled(about, Theme::soft()),
        ])
    };
    let dead = if flow.dead == "0" { Theme::strong() } else { theme.of_class("bad") };
    vec![
        line(
            "PENDING",
            &flow.waiting,
            format!("  oldest {} · {} wait for a retry", flow.oldest, flow.retrying),
            Theme::strong(),
        ),
        line("CLAIMED", &flow.claimed, format!("  retries {}", flow.retry_rate), Theme::strong()),
        line("DONE", &flow.done_rate, format!("  {} in all · p95 {}", flow.done, flow.p95), Theme::strong()),
        line("DLQ", &flow.dead, format!("  {} in the last hour", flow.dead_lately), dead),
    ]
}

/// The last hour: what was done and how long it took, and with `is_tall` also what waited and what is due.
pub(super) fn hour(report: &OverviewReport, theme: Theme, width: usize, is_tall: bool) -> Vec<Line<'static>> {
    let hour = &report.hour;
    let done = format!("{} done, at most {} in a minute", hour.done_in_all, hour.most_done);
    let p95: Vec<u64> = hour.p95_ms.iter().map(|ms| ms.unwrap_or(0)).collect();
    let mut figures = vec![("Throughput", &hour.done[..], done), ("Latency", &p95, hour.latency.clone())];
    if is_tall {
        figures.push(("Waiting", &hour.waiting, format!("at most {}", hour.most_waiting)));
        figures.push(("Retries", &hour.retries, hour.due.clone()));
    }
    let widest = figures.iter().map(|(_, _, about)| cells(about)).max().unwrap_or(0);
    let room = width.saturating_sub(NAME + 2 + widest).min(BARS);
    let bars = figures.iter().map(|(_, values, _)| sparkline(values, room)).collect::<Vec<_>>();
    let room = bars.iter().map(|bars| cells(bars)).max().unwrap_or(0);
    let line = |((name, _, about), bars): ((&'static str, &[u64], String), String)| {
        let bars = Span::styled(format!("{bars:room$}  "), theme.bars());
        Line::from(vec![Span::raw(format!("{name:NAME$}")), bars, Span::styled(about, Theme::soft())])
    };
    figures.into_iter().zip(bars).map(line).collect()
}
