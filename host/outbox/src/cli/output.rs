//! The form of results: tables for people, with times as distances or in UTC, and JSON for programs.
//!
//! Text from items is untrusted. Every helper here removes control characters, so that they never reach the terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{Cell, Table};
use serde::Serialize;

use outbox_item::{Millis, PayloadEncoding, millis, payload_fields, reformat};
use outbox_store::AuditEntry;

/// Prints results in the format that the user asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: OutputFormat,
    times: TimeForm,
}

/// How people read a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeForm {
    /// As its distance from now.
    Distance,
    /// As the time in UTC, in the form of the log.
    Utc,
}

/// Shows points in time to people who read them at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    now: Millis,
    form: TimeForm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// Tables and sentences for people.
    Human,
    /// JSON for programs.
    Json,
}

impl Output {
    pub(crate) fn new(format: OutputFormat, times: TimeForm) -> Self {
        Self { format, times }
    }

    /// How points in time are shown at `now`, the present time of the store.
    pub(crate) fn times(self, now: Millis) -> Times {
        Times { now, form: self.times }
    }

    /// Whether programs read the result.
    pub(crate) fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Prints a result: as JSON, or as the text that `people` returns.
    pub(crate) fn emit<T: Serialize>(self, value: &T, people: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = match self.format {
            OutputFormat::Human => people(),
            OutputFormat::Json if io::stdout().is_terminal() => serde_json::to_string_pretty(value)?,
            OutputFormat::Json => serde_json::to_string(value)?,
        };
        to_stdout(&text)
    }

    /// Prints one of an endless sequence of results. JSON takes exactly one line.
    pub(crate) fn emit_line<T: Serialize>(self, value: &T, people: impl FnOnce() -> String) -> anyhow::Result<()> {
        match self.format {
            OutputFormat::Human => to_stdout(&people()),
            OutputFormat::Json => to_stdout(&serde_json::to_string(value)?),
        }
    }

    /// Prints a hint for people to standard error. Prints nothing for programs.
    pub(crate) fn hint(self, text: &str) {
        if self.format == OutputFormat::Human {
            to_stderr(text);
        }
    }
}

/// Writes a result to standard output. Errors with `BrokenPipe` when the reader has closed the pipe.
pub(crate) fn to_stdout(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n'))?;
    Ok(out.flush()?)
}

/// Writes a line for people to standard error. Does nothing when standard error is closed.
pub(crate) fn to_stderr(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// A table without borders, so that tools such as `awk` can read its columns.
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

/// Lines of a name and a value. All values begin in the same column, and so do their further lines: no line of a value
/// can be taken for a name.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let indented = format!("\n{:width$}  ", "");
    let lines =
        rows.iter().map(|(name, value)| format!("{name:width$}  {}", clean_lines(value).replace('\n', &indented)));
    lines.collect::<Vec<_>>().join("\n")
}

/// The text on one line with every control character replaced, so that it cannot control the terminal or break a row.
pub(crate) fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// [`clean`], but line breaks stay.
pub(crate) fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// The bytes as indented JSON, or as base64 when they are no JSON.
pub(crate) fn payload_text(bytes: &[u8]) -> String {
    match payload_fields(bytes) {
        (value, PayloadEncoding::Json) => reformat(value.get(), Some(2)),
        (value, PayloadEncoding::Base64) => format!("base64: {}", value.get().trim_matches('"')),
    }
}

/// The text, or its first `most` characters and an ellipsis when it is longer.
pub(crate) fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The word, or a dash when there is none.
pub(crate) fn or_dash(word: Option<&str>) -> String {
    word.unwrap_or("-").to_owned()
}

impl Times {
    /// The point in time in the form that the user asked for: `3m ago` and `in 20s`, or `2026-01-31T12:00:00.000Z`.
    pub(crate) fn show(self, then: Millis) -> String {
        match self.form {
            TimeForm::Distance => relative(self.now, then),
            TimeForm::Utc => utc(then),
        }
    }

    /// Both forms: `3m ago, 2026-01-31T12:00:00.000Z`.
    pub(crate) fn both(self, then: Millis) -> String {
        format!("{}, {}", relative(self.now, then), utc(then))
    }

    /// [`Times::both`], or a dash when there is no point in time.
    pub(crate) fn both_or_dash(self, then: Option<Millis>) -> String {
        then.map_or_else(|| "-".to_owned(), |then| self.both(then))
    }
}

fn relative(now: Millis, then: Millis) -> String {
    if then > now {
        format!("in {}", span(millis(then.since(now))))
    } else {
        format!("{} ago", span(millis(now.since(then))))
    }
}

/// The time in UTC. Times that no calendar has are shown in milliseconds.
pub(crate) fn utc(time: Millis) -> String {
    /// The last millisecond of the year 9999.
    const LAST: i64 = 253_402_300_799_999;
    match u64::try_from(time.get()) {
        Ok(since_epoch) if time.get() <= LAST => {
            humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(since_epoch)).to_string()
        }
        _ => format!("{} ms since 1970", time.get()),
    }
}

/// A span of time in its largest whole unit.
pub(crate) fn span(ms: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match UNITS.into_iter().find(|(unit, _)| ms >= *unit) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

/// A number of bytes in the largest binary unit in which it is at least 1.
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

/// The error with its causes, each told once: an error may contain the text of its cause, or a cause that of its error,
/// as those of SQLite do.
pub(crate) fn whole_error(err: &anyhow::Error) -> String {
    let mut text = err.to_string();
    for cause in err.chain().skip(1).map(ToString::to_string) {
        let last = text.rsplit(": ").next().unwrap_or_default();
        if !text.contains(&cause) && !cause.ends_with(last) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// One character for each number, of a height relative to the largest; several numbers share one where there are more than
/// `most`.
pub(crate) fn sparkline(numbers: &[u64], most: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let each = numbers.len().div_ceil(most.max(1)).max(1);
    let heights: Vec<u64> = numbers.chunks(each).map(|some| some.iter().copied().max().unwrap_or(0)).collect();
    let highest = heights.iter().copied().max().unwrap_or(0).max(1);
    let bar = |height: &u64| {
        let step = u128::from(*height) * 7 / u128::from(highest);
        if *height == 0 { ' ' } else { BARS[usize::try_from(step).unwrap_or(7)] }
    };
    heights.iter().map(bar).collect()
}

/// The table of audit entries, which `audit` and `show` print.
pub(crate) fn audit_rows(entries: &[AuditEntry], times: Times) -> String {
    if entries.is_empty() {
        return "No entries.".to_owned();
    }
    let row = |entry: &AuditEntry| {
        [
            entry.seq.to_string(),
            times.show(entry.at),
            entry.actor.clone(),
            entry.action.clone(),
            entry.count.to_string(),
            entry.job.map_or_else(|| "-".to_owned(), |job| job.to_string()),
            short(&entry.selection.to_string(), 50),
            short(&or_dash(entry.reason.as_deref()), 40),
        ]
    };
    table(["SEQ", "WHEN", "ACTOR", "ACTION", "ITEMS", "JOB", "SELECTION", "REASON"], entries.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_whichever_of_two_errors_contains_the_other() {
        let told = |cause: &'static str, what: &'static str| whole_error(&anyhow::anyhow!(cause).context(what));
        assert_eq!(told("no such file", "opening a: no such file"), "opening a: no such file");
        assert_eq!(told("Error code 266: disk I/O error", "opening a: disk I/O error"), "opening a: disk I/O error");
        assert_eq!(told("it is full", "writing a"), "writing a: it is full");
    }

    #[test]
    fn times_are_told_in_their_largest_unit() {
        for (then, displayed) in [
            (0, "3m ago"),
            (179_999, "1ms ago"),
            (180_000, "0ms ago"),
            (200_000, "in 20s"),
            (180_000 + 7_200_000, "in 2h"),
        ] {
            assert_eq!(relative(Millis::new(180_000), Millis::new(then)), displayed);
        }
        assert_eq!(span(8 * 86_400_000), "8d");
    }

    #[test]
    fn a_point_in_time_is_told_as_a_distance_or_in_utc() {
        let (now, then) = (Millis::new(1_769_860_980_000), Millis::new(1_769_860_800_000));
        let times = |form| Output::new(OutputFormat::Human, form).times(now);
        assert_eq!(times(TimeForm::Distance).show(then), "3m ago");
        assert_eq!(times(TimeForm::Utc).show(then), "2026-01-31T12:00:00.000Z");
        assert_eq!(times(TimeForm::Distance).both(then), "3m ago, 2026-01-31T12:00:00.000Z");
        assert_eq!(times(TimeForm::Utc).show(Millis::new(i64::MAX)), "9223372036854775807 ms since 1970");
        assert_eq!(times(TimeForm::Utc).show(Millis::new(-1)), "-1 ms since 1970");
    }

    #[test]
    fn a_cause_that_its_error_tells_already_is_not_told_again() {
        let io = std::io::Error::other("no space left");
        let store = outbox_store::StoreError::Unavailable { tried: "copying the database", source: io.into() };
        let told = whole_error(&anyhow::Error::from(store).context("backing up"));
        assert_eq!(told, "backing up: copying the database: no space left");
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
        assert_eq!(fields(&[("a", "x\ny".to_owned()), ("long", "z".to_owned())]), "a     x\n      y\nlong  z");
    }

    #[test]
    fn a_line_of_bars_is_relative_to_its_largest_number_and_never_too_long() {
        assert_eq!(sparkline(&[0, 1, 4, 8], 60), " ▁▄█");
        assert_eq!(sparkline(&[0, u64::MAX], 60), " █");
        assert_eq!(sparkline(&[], 60), "");
        assert_eq!(sparkline(&[1; 120], 60).chars().count(), 60);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(short("äöü", 2), "äö…");
        assert_eq!(short("äöü", 3), "äöü");
    }
}
