//! `top`: the overview of the cockpit in a terminal, read again every few seconds.
//!
//! The words are those of the cockpit. The files below know where they come from (`source.rs`), what the person looks at
//! (`view.rs`), what the lines of the screen are (`screen.rs`), and the terminal (`terminal.rs`).

mod columns;
mod flow;
mod panels;
mod screen;
mod source;
mod terminal;
mod theme;
mod view;

use std::io::{IsTerminal as _, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::terminal::size;

use crate::cli::arguments::UsageError;
use crate::cli::context::Context;
use crate::cli::top::source::OverviewSource;
use crate::cli::top::theme::Theme;
use crate::cli::top::view::TopView;

/// The shortest time between two readings, which spares the store.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// The width of the overview in characters where no terminal has one.
const PLAIN_WIDTH: u16 = 100;

/// Watch whether anything needs a person: the overview of the cockpit in a terminal
///
/// Keys: q ends it, p pauses the updates, Tab and the arrows move through the tables, ? says more.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Ask the host at this URL instead of the database. `OUTBOX_TOKEN` is sent to the host at `OUTBOX_LISTEN` only
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A file with the token that is sent to the host at the URL, whichever that is
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// The time between two readings
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = interval)]
    interval: Duration,
    /// Print the overview once as plain text, as happens where the output is no terminal
    #[arg(long)]
    once: bool,
}

impl TopArgs {
    /// Whether log lines would be written over the overview.
    pub(crate) fn hides_the_log(&self) -> bool {
        !self.once && stdout().is_terminal() && stderr().is_terminal()
    }
}

/// A time such as `5s`, or a number of seconds.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs).ok();
    let length = seconds.or_else(|| humantime::parse_duration(text).ok());
    let length = length.ok_or("use a time such as 2s, or a number of seconds")?;
    if length < INTERVAL_MIN { Err("use 200ms or more".to_owned()) } else { Ok(length) }
}

pub(crate) async fn run(args: TopArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let variable = |name| context.config.environment.get(name);
    let theme = Theme { is_coloured: variable("NO_COLOR").is_none() };
    let is_dumb = variable("TERM").is_some_and(|name| name == "dumb");
    let output = context.output;
    let source = OverviewSource::new(args.url.as_deref(), args.token_file.as_deref(), context.config.clone());
    let source = source.map_err(UsageError)?;
    if args.once || output.is_json() || is_dumb || !stdout().is_terminal() {
        let report = source.read().await?;
        let view = TopView { report: Some(report.clone()), ..TopView::new(source.name(), args.interval) };
        output.emit(&report, || plain(&view))?;
        return Ok(ExitCode::SUCCESS);
    }
    let view = TopView::new(source.name(), args.interval);
    terminal::run(view, theme, source).await?;
    Ok(ExitCode::SUCCESS)
}

/// The whole overview as text, as wide as the terminal if there is one.
fn plain(view: &TopView) -> String {
    let width = if stdout().is_terminal() { size().map_or(PLAIN_WIDTH, |(columns, _)| columns) } else { PLAIN_WIDTH };
    let lines = screen::whole(view, width, Instant::now());
    let text = |line: ratatui::text::Line<'static>| line.to_string().trim_end().to_owned();
    lines.into_iter().map(text).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_time_or_a_number_of_seconds_and_not_too_short() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("5"), Ok(Duration::from_secs(5)));
        assert!(interval("0").unwrap_err().contains("200ms") && interval("soon").unwrap_err().contains("2s"));
    }
}
