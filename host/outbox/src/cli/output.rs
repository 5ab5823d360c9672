//! How results look: tables with relative times for people, JSON for programs.
//!
//! What comes from items is untrusted text; control characters never reach the terminal from here.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Cell, Table};
use serde::Serialize;

use outbox_item::Millis;

/// Where results go and how they look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: OutputFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputFormat {
    Human,
    Json,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { format: if json { OutputFormat::Json } else { OutputFormat::Human } }
    }

    /// Prints a result: as JSON, or in the words of `people`.
    pub(crate) fn emit<T: Serialize>(self, value: &T, people: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = match self.format {
            OutputFormat::Human => people(),
            OutputFormat::Json if io::stdout().is_terminal() => serde_json::to_string_pretty(value)?,
            OutputFormat::Json => serde_json::to_string(value)?,
        };
        to_stdout(&text)
    }

    /// Prints one of an endless row of results: JSON takes exactly one line.
    pub(crate) fn emit_line<T: Serialize>(self, value: &T, people: impl FnOnce() -> String) -> anyhow::Result<()> {
        match self.format {
            OutputFormat::Human => to_stdout(&people()),
            OutputFormat::Json => to_stdout(&serde_json::to_string(value)?),
        }
    }

    /// Tells people something that is not part of the result.
    pub(crate) fn hint(self, text: &str) {
        if self.format == OutputFormat::Human {
            to_stderr(text);
        }
    }
}

/// Writes a result. Errors with the pipe's error when nobody reads it any more.
pub(crate) fn to_stdout(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n'))?;
    Ok(out.flush()?)
}

/// Writes a line for people. A closed standard error leaves nobody to tell.
pub(crate) fn to_stderr(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// A table without borders: its columns can be cut out with `awk`.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.map(Cell::new));
    for row in rows {
        table.add_row(row.map(|cell| Cell::new(clean(&cell))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Lines of a name and a value, the values under each other.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows.iter().map(|(name, value)| format!("{name:width$}  {}", clean(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// The text without what would steer a terminal or break a row.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The text, or its beginning when it is longer than `most` characters.
pub(crate) fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The word, or a dash where there is none.
pub(crate) fn or_dash(word: Option<&str>) -> String {
    word.unwrap_or("-").to_owned()
}

/// How far a moment is from `now`: `3m ago`, `in 20s`.
pub(crate) fn relative(now: Millis, then: Millis) -> String {
    if then > now { format!("in {}", span(then - now)) } else { format!("{} ago", span(now - then)) }
}

/// [`relative`], or a dash for a moment that has not come to be.
pub(crate) fn relative_or_dash(now: Millis, then: Option<Millis>) -> String {
    then.map_or_else(|| "-".to_owned(), |then| relative(now, then))
}

/// A length of time in its largest unit.
pub(crate) fn span(ms: Millis) -> String {
    const UNITS: [(Millis, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match UNITS.into_iter().find(|(unit, _)| ms >= *unit) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

/// A size in the largest binary unit that leaves at least one before the point.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).min(4);
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power as usize - 1])
}

/// `1 item`, `2 items`.
pub(crate) fn count(number: u64, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_largest_unit() {
        for (then, displayed) in [
            (0, "3m ago"),
            (179_999, "1ms ago"),
            (180_000, "0ms ago"),
            (200_000, "in 20s"),
            (180_000 + 7_200_000, "in 2h"),
        ] {
            assert_eq!(relative(180_000, then), displayed);
        }
        assert_eq!(span(8 * 86_400_000), "8d");
    }

    #[test]
    fn sizes_are_told_in_their_largest_unit() {
        for (bytes, displayed) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB")] {
            assert_eq!(size(bytes), displayed);
        }
        assert_eq!(size(u64::MAX), "16777215.9 TiB");
    }

    #[test]
    fn text_of_items_cannot_steer_the_terminal() {
        assert!(!table(["a"], [["\u{1b}[2Jx\ny".to_owned()]]).contains('\u{1b}'));
        assert_eq!(fields(&[("a", "x\ny".to_owned()), ("long", "z".to_owned())]), "a     x\u{fffd}y\nlong  z");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(short("äöü", 2), "äö…");
        assert_eq!(short("äöü", 3), "äöü");
    }
}
