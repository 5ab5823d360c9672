//! The log: one subscriber for the process, which writes to standard error as text or JSON.
//!
//! This file decides the format and the filter of log lines. It knows no code that logs.

use std::fmt::{self, Debug, Write as _};
use std::io::IsTerminal as _;

use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::config::LogFormat;

/// A filter that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG is {filter:?}: use a level or directives such as info,outbox=debug ({problem})")]
pub(crate) struct InvalidFilter {
    filter: String,
    problem: String,
}

/// Starts to write log lines to standard error. `filter` is in the language of `RUST_LOG`. A process that has a
/// subscriber already keeps it.
pub(crate) fn start(format: LogFormat, filter: &str) -> Result<(), InvalidFilter> {
    let parsed = EnvFilter::builder()
        .parse(filter)
        .map_err(|err| InvalidFilter { filter: filter.to_owned(), problem: err.to_string() })?;
    let lines = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => {
            let fields = debug_fn(write_field).delimited(" ");
            lines.with_ansi(std::io::stderr().is_terminal()).fmt_fields(fields).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if let Err(err) = started {
        tracing::debug!(error = %err, "keeping the subscriber that is there");
    }
    Ok(())
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
            c if c.is_control() => write!(self.writer, "{}", c.escape_default()),
            c => self.writer.write_char(c),
        })
    }
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
            tracing::warn!(said = %"a\nb\u{1b}[2J\r\0", "oops\n2026-01-01 INFO all is well\u{7f}");
        });
        let text = lines.text();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.contains(r"oops\n2026-01-01 INFO all is well\u{7f} said=a\nb\u{1b}[2J\r\u{0}"), "{text:?}");
    }

    #[test]
    fn a_filter_that_is_not_understood_is_named() {
        let err = start(LogFormat::Text, "outbox=loud").unwrap_err().to_string();
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
