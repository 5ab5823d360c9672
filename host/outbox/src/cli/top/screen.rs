//! The lines of the screen, from the view and the size: the first sentence, what needs a person, the flow, the last hour,
//! and the tables. Where they do not all fit, the table that keys move through has the most room.
//!
//! Pure: it draws nothing, and the time is given.

use std::time::Instant;

use ratatui::text::{Line, Span};

use outbox_http::OverviewReport;
use outbox_item::{Millis, millis};

use crate::cli::output::{clean, span, utc};
use crate::cli::top::columns::{cells, cut, wrapped};
use crate::cli::top::flow::{flow, hour};
use crate::cli::top::panels::{PanelLines, panels};
use crate::cli::top::theme::Theme;
use crate::cli::top::view::{TopPanel, TopView};

/// A screen with this many lines has room for all figures of the last hour.
const TALL: usize = 34;

/// A screen with fewer lines leaves out the last hour.
const LOW: usize = 16;

/// Everything without an end of the screen and without colours.
pub(super) fn whole(view: &TopView, width: u16, now: Instant) -> Vec<Line<'static>> {
    let (width, theme) = (usize::from(width), Theme { is_coloured: false });
    let mut lines = head(view, theme, width, now);
    let Some(report) = &view.report else { return lines };
    lines.extend(figures(report, theme, width, usize::MAX));
    for panel in panels(report, theme, width) {
        lines.extend([Line::default(), Line::raw(panel.title)]);
        lines.extend(panel.head.into_iter().chain(panel.body));
    }
    lines
}

/// What a screen shows.
pub(super) struct TopScreen {
    /// As many as the screen is high.
    pub(super) lines: Vec<Line<'static>>,
    /// How far the table that keys move through can be scrolled.
    pub(super) scroll_max: usize,
}

/// What a screen of this size shows.
pub(super) fn screen(view: &TopView, theme: Theme, (width, height): (u16, u16), now: Instant) -> TopScreen {
    let (width, height) = (usize::from(width), usize::from(height));
    let (mut lines, mut scroll_max) = (head(view, theme, width, now), 0);
    let room = height.saturating_sub(1);
    if view.has_help {
        lines.extend(help());
    } else if let Some(report) = &view.report {
        lines.extend(figures(report, theme, width, height));
        lines.truncate(room);
        let tables = tables(panels(report, theme, width), view, room - lines.len());
        lines.extend(tables.lines);
        scroll_max = tables.scroll_max;
    }
    lines.resize(room, Line::default());
    lines.push(foot(view, width));
    TopScreen { lines, scroll_max }
}

/// Whether anything needs a person, how everything else is, and whether this is true now.
fn head(view: &TopView, theme: Theme, width: usize, now: Instant) -> Vec<Line<'static>> {
    let mut lines = vec![opening(view, theme)];
    if let Some(unreadable) = &view.unreadable {
        let since = span(millis(now.saturating_duration_since(unreadable.since)));
        let interval = humantime::format_duration(view.interval);
        let text = format!(
            "{} has not been readable for {since}: {} Trying again every {interval}.",
            view.source,
            sentence(&unreadable.why)
        );
        let style = theme.of_class("bad");
        lines.extend(wrapped(&text, width, 5).into_iter().map(|line| Line::styled(line, style)));
    }
    if let Some(report) = &view.report {
        let text = format!("{} Read at {}.", report.otherwise, clock(report.read_at));
        lines.extend(wrapped(&text, width, 2).into_iter().map(Line::raw));
    }
    lines
}

fn opening(view: &TopView, theme: Theme) -> Line<'static> {
    match &view.report {
        Some(report) => {
            let class = if report.needs.is_empty() { "done" } else { "bad" };
            Line::styled(format!("{}.", clean(&report.opening)), theme.of_class(class).patch(Theme::strong()))
        }
        None if view.unreadable.is_some() => {
            Line::styled("It is not known whether anything needs you.", theme.of_class("bad"))
        }
        None => Line::raw(format!("Reading {}…", view.source)),
    }
}

/// The text with a full stop at its end.
fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// The time of day.
fn clock(time: Millis) -> String {
    let exact = utc(time);
    exact.get(11..19).map_or(exact.clone(), |clock| format!("{clock} UTC"))
}

fn figures(report: &OverviewReport, theme: Theme, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    lines.extend(flow(report, theme));
    if height >= LOW {
        lines.extend(hour(report, theme, width, height >= TALL));
    }
    lines
}

/// The tables in this many lines. Each has its title if possible.
fn tables(panels: Vec<PanelLines>, view: &TopView, room: usize) -> TopScreen {
    let given = shares(&panels, view.focus, room.saturating_sub(panels.len()));
    let used: usize = given.iter().map(|lines| lines + 1).sum();
    let has_gaps = room >= used + panels.len();
    let mut shown = TopScreen { lines: Vec::new(), scroll_max: 0 };
    for (panel, given) in panels.into_iter().zip(given) {
        if has_gaps {
            shown.lines.push(Line::default());
        }
        if panel.panel == view.focus {
            shown.scroll_max = panel.hidden(given);
        }
        shown.lines.extend(window(panel, given, view));
    }
    shown.lines.truncate(room);
    shown
}

/// How many lines each table gets beside its title: the one that keys move through three fifths of the room if it needs
/// them, then the others in their order, and it again what they leave.
fn shares(panels: &[PanelLines], focus: TopPanel, room: usize) -> Vec<usize> {
    let wanted: Vec<usize> = panels.iter().map(PanelLines::height).collect();
    let mut given = vec![0; panels.len()];
    let mut left = room;
    let focused = panels.iter().position(|panel| panel.panel == focus);
    let first = focused.map(|index| (index, room * 3 / 5 + 1));
    let others = (0..panels.len()).filter(|index| Some(*index) != focused).map(|index| (index, room));
    let turns = first.into_iter().chain(others).chain(focused.map(|index| (index, room)));
    for (index, most) in turns {
        let more = (wanted[index] - given[index]).min(most).min(left);
        given[index] += more;
        left -= more;
    }
    given
}

/// The title, and as many lines as the table gets.
fn window(panel: PanelLines, given: usize, view: &TopView) -> Vec<Line<'static>> {
    let (is_focused, hidden) = (panel.panel == view.focus, panel.hidden(given));
    let above = if is_focused { view.scroll.min(hidden) } else { 0 };
    let below = hidden - above;
    let PanelLines { title, head, body, .. } = panel;
    let room = body.len() - hidden;
    let head = head.filter(|_| given > 0);
    let mut line = vec![Span::styled(title, if is_focused { Theme::marked() } else { Theme::strong() })];
    if above + below > 0 {
        let more = match (above, below) {
            (0, below) => format!("  {below} lines below"),
            (above, 0) => format!("  {above} lines above"),
            (above, below) => format!("  {above} lines above, {below} below"),
        };
        line.push(Span::styled(more, Theme::soft()));
    }
    let shown = body.into_iter().skip(above).take(room);
    [Line::from(line)].into_iter().chain(head).chain(shown).collect()
}

fn help() -> Vec<Line<'static>> {
    const KEYS: [(&str, &str); 7] = [
        ("q, Esc, Ctrl-C", "end"),
        ("p, Space", "pause the updates, or go on"),
        ("Tab, →", "the next table"),
        ("Shift-Tab, ←", "the table before"),
        ("↑ ↓ PgUp PgDn", "scroll the table"),
        ("Home, End", "its beginning, its end"),
        ("?", "this help, or back"),
    ];
    let key = |(keys, about): (&str, &str)| Line::raw(format!("  {keys}{}{about}", " ".repeat(18 - cells(keys))));
    [Line::default()].into_iter().chain(KEYS.map(key)).collect()
}

/// The keys, and where the figures come from.
fn foot(view: &TopView, width: usize) -> Line<'static> {
    let keys = "q quit  p pause  Tab next table  ↑↓ scroll  ? help";
    let state = if view.is_paused {
        "PAUSED: p goes on".to_owned()
    } else {
        format!("{}, every {}", view.source, humantime::format_duration(view.interval))
    };
    let style = if view.is_paused { Theme::marked() } else { Theme::soft() };
    let left = width.saturating_sub(cells(keys) + 2);
    if cells(&state) <= left || left >= 20 {
        let state = cut(&clean(&state), left);
        let gap = " ".repeat(width - cells(keys) - cells(&state));
        return Line::from(vec![Span::styled(keys, Theme::soft()), Span::raw(gap), Span::styled(state, style)]);
    }
    let text = if view.is_paused { state } else { keys.to_owned() };
    Line::styled(cut(&text, width), style)
}

#[cfg(test)]
mod tests;
