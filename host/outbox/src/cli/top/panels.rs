//! The tables of the overview as lines: what needs a person, types, sagas, plugins and processes.
//!
//! Each has all of its lines; which of them fit on the screen is decided elsewhere.

use ratatui::style::Style;
use ratatui::text::Line;

use outbox_http::{Need, OverviewReport, SagaRow, TypeRow};

use crate::cli::output::sparkline;
use crate::cli::top::columns::{TableCell, TableColumn, lines, wrapped};
use crate::cli::top::theme::Theme;
use crate::cli::top::view::TopPanel;

/// The bars of the last hour of one type.
const TYPE_BARS: usize = 20;

/// The most lines that one cause takes.
const CAUSE_LINES: usize = 3;

/// A table with all of its lines.
pub(super) struct PanelLines {
    pub(super) panel: TopPanel,
    pub(super) title: String,
    /// The titles of the columns, which stay above the lines.
    pub(super) head: Option<Line<'static>>,
    pub(super) body: Vec<Line<'static>>,
}

impl PanelLines {
    /// How many lines it needs below its title.
    pub(super) fn height(&self) -> usize {
        self.body.len() + usize::from(self.head.is_some())
    }

    /// How many lines of its body do not fit where it has room for `given` lines below its title.
    pub(super) fn hidden(&self, given: usize) -> usize {
        self.body.len().saturating_sub(given.saturating_sub(usize::from(self.head.is_some())))
    }
}

/// The tables that are shown of this overview, in their order.
pub(super) fn panels(report: &OverviewReport, theme: Theme, width: usize) -> Vec<PanelLines> {
    let shown = TopPanel::ALL.into_iter().filter(|panel| panel.is_shown(report));
    shown.map(|panel| panel_lines(panel, report, theme, width)).collect()
}

fn panel_lines(panel: TopPanel, report: &OverviewReport, theme: Theme, width: usize) -> PanelLines {
    match panel {
        TopPanel::Needs => needs(report, theme, width),
        TopPanel::Types => {
            let rows = report.types.iter().map(|row| type_cells(row, theme)).collect();
            table(panel, named("Types", report.types.len(), report.more_types), &TYPES, rows, width)
        }
        TopPanel::Sagas => {
            let rows = report.sagas.iter().map(|saga| saga_cells(saga, theme)).collect();
            table(panel, named("Sagas", report.sagas.len(), 0), &SAGAS, rows, width)
        }
        TopPanel::Plugins => {
            let rows = report.plugins.iter().map(|row| {
                let state = (row.state.clone(), theme.of_class(&row.class));
                vec![plain(&row.name), state, plain(&row.digest), plain(&row.pods)]
            });
            table(panel, named("Plugins", report.plugins.len(), 0), &PLUGINS, rows.collect(), width)
        }
        TopPanel::Pods => {
            let rows = report.pods.iter().map(|row| {
                let state = (row.state.clone(), theme.of_class(&row.class));
                vec![plain(&row.name), state, plain(&row.seen.ago), plain(&row.role)]
            });
            table(panel, named("Processes", report.pods.len(), 0), &PODS, rows.collect(), width)
        }
    }
}

fn named(name: &str, rows: usize, more: u64) -> String {
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{name} ({rows}{more})")
}

fn table(
    panel: TopPanel,
    title: String,
    columns: &[TableColumn],
    rows: Vec<Vec<TableCell>>,
    width: usize,
) -> PanelLines {
    let mut all = lines(columns, rows, Theme::soft(), width).into_iter();
    let head = all.next();
    let body: Vec<_> = all.collect();
    let head = head.filter(|_| !body.is_empty());
    PanelLines { panel, title, head, body }
}

fn plain(text: &impl ToString) -> TableCell {
    (text.to_string(), Style::new())
}

const fn word(title: &'static str, rank: u8) -> TableColumn {
    TableColumn { title, rank, is_number: false }
}

const fn number(title: &'static str, rank: u8) -> TableColumn {
    TableColumn { title, rank, is_number: true }
}

const TYPES: [TableColumn; 11] = [
    word("TYPE", 0),
    word("STATE", 1),
    number("WAITING", 2),
    number("RETRYING", 8),
    number("IN HAND", 6),
    number("DONE", 3),
    number("FAILING", 5),
    number("DEAD", 4),
    number("OLDEST", 7),
    number("P95", 9),
    word("DONE, LAST HOUR", 10),
];

const SAGAS: [TableColumn; 5] =
    [word("SAGA", 0), number("BEGAN", 3), number("OPEN", 1), number("ENDED OK", 4), number("WITH ERRORS", 2)];

const PLUGINS: [TableColumn; 4] = [word("PLUGIN", 0), word("STATE", 1), word("DIGEST", 2), number("PROCESSES", 3)];

const PODS: [TableColumn; 4] = [word("PROCESS", 0), word("STATE", 1), word("SEEN", 2), word("ROLE", 3)];

fn type_cells(row: &TypeRow, theme: Theme) -> Vec<TableCell> {
    vec![
        plain(&row.name),
        (row.state.text.clone(), theme.of_class(&row.state.class)),
        plain(&row.waiting),
        plain(&row.retrying),
        plain(&row.claimed),
        plain(&row.done_rate),
        plain(&row.failing),
        trouble(row.dead, theme),
        plain(&row.oldest),
        plain(&row.p95),
        (sparkline(&row.done_each_minute, TYPE_BARS), theme.bars()),
    ]
}

fn saga_cells(saga: &SagaRow, theme: Theme) -> Vec<TableCell> {
    vec![
        plain(&saga.name),
        plain(&saga.began),
        plain(&saga.open),
        plain(&saga.ended_ok),
        trouble(saga.ended_err, theme),
    ]
}

/// A number that should be 0.
fn trouble(number: u64, theme: Theme) -> TableCell {
    (number.to_string(), if number > 0 { theme.of_class("bad") } else { Style::new() })
}

fn needs(report: &OverviewReport, theme: Theme, width: usize) -> PanelLines {
    let title = named("What needs you", report.needs.len(), report.more_needs);
    let body = report.needs.iter().flat_map(|need| need_lines(need, theme, width)).collect();
    PanelLines { panel: TopPanel::Needs, title, head: None, body }
}

/// What it is and when it began, why, and the command that helps.
fn need_lines(need: &Need, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let since = need.since.as_ref().filter(|since| since.ago != "now");
    let since = since.map(|since| format!(", {}", since.ago)).unwrap_or_default();
    let sign = if need.level == "urgent" { "!" } else { "-" };
    let (what, command) = (format!("{sign} {}{since}", need.what), format!("→ {}", need.command));
    let (urgent, room) = (theme.of_class(&need.level), width.saturating_sub(2));
    let whats = wrapped(&what, width, 2).into_iter().map(move |line| Line::styled(line, urgent));
    let causes = wrapped(&need.cause, room, CAUSE_LINES).into_iter().map(|line| Line::raw(format!("  {line}")));
    let commands = wrapped(&command, room, 2).into_iter().map(|line| Line::styled(format!("  {line}"), Theme::soft()));
    whats.chain(causes).chain(commands).collect()
}
