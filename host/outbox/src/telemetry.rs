//! The log: one subscriber for the process, which writes to standard error as text or JSON.
//!
//! This file decides the format and the filter of log lines. It knows no code that logs.

mod log_queue;
mod repetition;

use std::fmt::{self, Debug, Write as _};
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::LogFormat;
use crate::telemetry::log_queue::LogQueue;
use crate::telemetry::repetition::{LeftOut, RepetitionLayer, Repetitions};

/// How long the end of a process waits for the reader of its log.
const FLUSH_MAX: Duration = Duration::from_millis(200);

/// A filter that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG is {filter:?}: use a level or directives such as info,outbox=debug ({problem})")]
pub(crate) struct InvalidFilter {
    filter: String,
    problem: String,
}

/// The log of this process. Dropping it waits a moment until the lines so far are written.
pub(crate) struct Log {
    queue: Arc<LogQueue>,
}

impl Log {
    /// Starts to write log lines to standard error. `filter` is in the language of `RUST_LOG`. A process that has a
    /// subscriber already keeps it.
    pub(crate) fn start(format: LogFormat, filter: &str) -> anyhow::Result<Self> {
        let filter = parse(filter)?;
        let (queue, repetitions) = (Arc::<LogQueue>::default(), Arc::<Repetitions>::default());
        // A copy of the descriptor: a thread that waits in a write holds no lock that others need.
        let out = std::io::stderr().as_fd().try_clone_to_owned().context("opening standard error for the log")?;
        let ending = Arc::clone(&repetitions);
        let mut reported = 0;
        let pause = move |dropped| {
            let (left_out, next) = ending.ended(Instant::now());
            left_out.iter().for_each(LeftOut::log);
            report_dropped(dropped, &mut reported);
            next
        };
        queue.start(File::from(out), pause).context("starting the thread of the log")?;
        let writer = {
            let queue = Arc::clone(&queue);
            move || LineWriter(Arc::clone(&queue))
        };
        let registry = tracing_subscriber::registry()
            .with(filter)
            .with(RepetitionLayer { repetitions, queue: Arc::clone(&queue) });
        let started = match format {
            LogFormat::Text => {
                let fields = debug_fn(write_field).delimited(" ");
                let lines = tracing_subscriber::fmt::layer().with_writer(writer).fmt_fields(fields);
                registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()
            }
            LogFormat::Json => {
                let lines = tracing_subscriber::fmt::layer().with_writer(writer).json();
                registry.with(lines.flatten_event(true).with_current_span(false)).try_init()
            }
        };
        if let Err(err) = started {
            tracing::debug!(error = %err, "keeping the subscriber that is there");
        }
        Ok(Self { queue })
    }

    /// Writes a line that is no event, after the lines so far.
    pub(crate) fn print(&self, line: &str) {
        self.queue.push(format!("{line}\n").as_bytes());
    }

    /// Has panics logged as events. The usual way writes them to standard error and waits for its reader.
    pub(crate) fn log_panics() {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let words = panic.payload_as_str().unwrap_or("without words");
            tracing::error!(place, thread = std::thread::current().name(), "a part of the host panicked: {words}");
        }));
    }

    /// The number of lines that were dropped so far, at each call.
    pub(crate) fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let queue = Arc::clone(&self.queue);
        move || queue.dropped()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.flush(FLUSH_MAX);
    }
}

fn parse(filter: &str) -> Result<EnvFilter, InvalidFilter> {
    let invalid = |problem: ParseError| InvalidFilter { filter: filter.to_owned(), problem: problem.to_string() };
    EnvFilter::builder().parse(filter).map_err(invalid)
}

fn report_dropped(dropped: u64, reported: &mut u64) {
    let count = dropped - std::mem::replace(reported, dropped);
    if count > 0 {
        tracing::warn!(target: "outbox::log", count, "log lines were dropped: standard error was not read in time");
    }
}

/// Adds what is written to the queue, one line at a time.
struct LineWriter(Arc<LogQueue>);

impl io::Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a field of a text line. Values can be text from handlers and receivers: control characters in them are
/// escaped, so that no value begins a line of its own or controls the terminal.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaped { writer }, "{value:?}")
}

/// Writes text with its control characters escaped.
struct Escaped<'a, 'w> {
    writer: &'a mut Writer<'w>,
}

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            c if c.is_control() || is_separator(c) => write!(self.writer, "{}", c.escape_default()),
            c => self.writer.write_char(c),
        })
    }
}

/// Characters that some programs show as a new line, or that change the order in which they show a line.
fn is_separator(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_begin_a_line_of_its_own() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .with_writer(lines.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(said = %"a\nb\u{1b}[2J\r\0\u{2028}\u{202e}", "oops\n2026-01-01 INFO all is well\u{7f}");
        });
        let text = lines.text();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(
            text.contains(r"oops\n2026-01-01 INFO all is well\u{7f} said=a\nb\u{1b}[2J\r\u{0}\u{2028}\u{202e}"),
            "{text:?}"
        );
    }

    #[test]
    fn a_filter_that_is_not_understood_is_named() {
        let err = parse("outbox=loud").unwrap_err().to_string();
        assert!(err.starts_with("RUST_LOG is \"outbox=loud\""), "{err}");
    }

    /// A log that a test reads.
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl tracing_subscriber::fmt::MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }
}
