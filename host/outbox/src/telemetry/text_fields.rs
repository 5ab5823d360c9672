//! The fields of a text line of the log, for people.
//!
//! Values can be text from handlers and receivers: control characters in them are escaped, so that no value begins a line
//! of its own or controls the terminal. The names of traces and spans are left out: they are for programs, which read
//! JSON.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Fields that programs read.
const FOR_PROGRAMS: [&str; 2] = ["trace_id", "span_id"];

/// Writes the message, and each field as `name=value`.
pub(super) struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = TextLine { writer, is_begun: false, written: Ok(()) };
        fields.record(&mut line);
        line.written
    }
}

struct TextLine<'w> {
    writer: Writer<'w>,
    is_begun: bool,
    written: fmt::Result,
}

impl TextLine<'_> {
    fn write(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if std::mem::replace(&mut self.is_begun, true) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            write!(self.writer, "{name}=")?;
        }
        write!(Escaped { writer: &mut self.writer }, "{value:?}")
    }
}

impl Visit for TextLine<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.written.is_ok() && !FOR_PROGRAMS.contains(&field.name()) {
            self.written = self.write(field.name(), value);
        }
    }
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
            .fmt_fields(TextFields)
            .with_writer(lines.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(trace_id = "4bf9", said = %"a\nb\u{1b}[2J\r\0\u{2028}\u{202e}", "oops\n2026-01-01 INFO all is well\u{7f}");
        });
        let text = lines.text();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(
            text.contains(r"oops\n2026-01-01 INFO all is well\u{7f} said=a\nb\u{1b}[2J\r\u{0}\u{2028}\u{202e}"),
            "{text:?}"
        );
        assert!(!text.contains("4bf9"), "{text:?}");
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
