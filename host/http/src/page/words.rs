//! Numbers, times and lengths of time, as people read them.
//!
//! Pure. This file knows no view.

use std::time::{Duration, UNIX_EPOCH};

use askama::Template;

use outbox_item::{Millis, Status};

/// What is said of an action without a reason.
pub(super) const NO_REASON: &str = "no reason given";

/// A number with its thousands apart: `1,284`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and its noun, in the plural where it is not one: `1 item`, `1,284 items`.
pub(super) fn counted(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number))
}

/// A number of things that begins a sentence: `One thing`, `Three things`, `14 things`.
pub(super) fn begun(number: usize, noun: &str) -> String {
    const WORDS: [&str; 10] = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"];
    let ending = if number == 1 { "" } else { "s" };
    match WORDS.get(number) {
        Some(word) => format!("{word} {noun}{ending}"),
        None => format!("{number} {noun}{ending}"),
    }
}

/// A number of things within a sentence: `no thing`, `one thing`, `1,284 things`.
pub(super) fn within(number: u64, noun: &str) -> String {
    match number {
        0 => format!("no {noun}"),
        1 => format!("one {noun}"),
        _ => counted(number, noun),
    }
}

/// A large number in few characters: `24.1 M`.
pub(super) fn short_count(number: u64) -> String {
    for (unit, size) in [("G", 1_000_000_000), ("M", 1_000_000)] {
        if number >= size {
            let tenths = number / (size / 10);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    count(number)
}

/// Bytes: `84 B`, `1.2 MiB`.
pub(super) fn bytes(number: u64) -> String {
    for (unit, size) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if number >= size {
            let tenths = u128::from(number) * 10 / u128::from(size);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{number} B")
}

/// A length of time in one unit, or two below a day: `31 ms`, `1.4 s`, `4 min`, `2 h 5 min`, `6 d`.
pub(super) fn span(length: Duration) -> String {
    let (millis, seconds) = (length.as_millis(), length.as_secs());
    match seconds {
        0 => format!("{millis} ms"),
        1..10 => format!("{}.{} s", seconds, length.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 if seconds % 3_600 < 60 => format!("{} h", seconds / 3_600),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long something lasted, in words; a dash where it is not known.
pub(super) fn lasted(ms: Option<u64>) -> String {
    ms.map_or("–".to_owned(), |ms| span_ms(i64::try_from(ms).unwrap_or(i64::MAX)))
}

/// [`span`] of milliseconds; one that is negative is none.
pub(super) fn span_ms(millis: i64) -> String {
    span(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
}

/// How many of something happen each second or, where that is less than one, each minute.
pub(super) fn rate(number: u64, during: Duration) -> String {
    let seconds = during.as_secs().max(1);
    if number == 0 {
        return "0 /s".to_owned();
    }
    let tenths = number * 10 / seconds;
    match tenths {
        0..10 => format!("{} /min", (number * 60).div_ceil(seconds)),
        10..100 => format!("{}.{} /s", tenths / 10, tenths % 10),
        _ => format!("{} /s", count(tenths / 10)),
    }
}

/// A share in percent: `0.4 %`.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    let tenths = u128::from(part) * 1_000 / u128::from(whole);
    match (tenths, tenths % 10) {
        (0, _) if part > 0 => "< 0.1 %".to_owned(),
        (1_000.., _) | (_, 0) => format!("{} %", tenths / 10),
        _ => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

/// The first digits of a digest, enough to tell versions apart.
pub(super) fn short_digest(digest: &str) -> String {
    digest.chars().take(8).collect()
}

/// A text of at most so many characters; what is cut off is marked.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The class of the label of a status.
pub(super) fn status_class(status: Status) -> &'static str {
    match status {
        Status::Pending => "wait",
        Status::Claimed => "run",
        Status::Done => "done",
        Status::Dlq => "bad",
    }
}

/// A point in time: in UTC, and in the zone of the reader where the script runs. Its exact value is at hand.
#[derive(Template)]
#[template(source = r#"<time datetime="{{ exact }}" title="{{ exact }}">{{ text }}</time>"#, ext = "html")]
pub(super) struct Moment {
    exact: String,
    text: String,
}

impl Moment {
    /// The moment by the calendar and the clock, in UTC.
    pub(super) fn at(time: Millis) -> Self {
        let exact = exact(time);
        let text = exact.split('.').next().unwrap_or_default().replace('T', " ") + " UTC";
        Self { exact, text }
    }
}

/// The moment in RFC 3339, in UTC, with milliseconds.
pub(super) fn exact(time: Millis) -> String {
    /// The last moment of the year 9999, which RFC 3339 can write.
    const LAST: u64 = 253_402_300_799_999;
    let millis = u64::try_from(time.get()).unwrap_or(0).min(LAST);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

/// How long ago a moment was, with the moment itself at hand.
#[derive(Template)]
#[template(source = r#"<time datetime="{{ exact }}" title="{{ exact }}" data-ago>{{ text }}</time>"#, ext = "html")]
pub(super) struct Ago {
    exact: String,
    text: String,
}

impl Ago {
    /// How long before `now` the moment was. A moment that the store told after `now` was read is now too.
    pub(super) fn of(time: Millis, now: Millis) -> Self {
        let text = match now.since(time) {
            short if short < Duration::from_secs(2) => "now".to_owned(),
            long => format!("{} ago", span(long)),
        };
        Self { exact: exact(time), text }
    }

    /// What is read.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 2].map(|number| counted(number, "item")), ["1 item", "2 items"]);
        assert_eq!([1, 3, 14].map(|number| begun(number, "thing")), ["One thing", "Three things", "14 things"]);
        assert_eq!([0, 1, 1_284].map(|number| within(number, "thing")), ["no thing", "one thing", "1,284 things"]);
        assert_eq!([999_999, 24_190_000].map(short_count), ["999,999", "24.1 M"]);
        assert_eq!([84, 1_300_000].map(bytes), ["84 B", "1.2 MiB"]);
        assert_eq!(
            [(0, 0), (1, 10_000), (4, 1_000), (7, 7)].map(|(a, b)| share(a, b)),
            ["–", "< 0.1 %", "0.4 %", "100 %"]
        );
    }

    #[test]
    fn lengths_of_time_have_the_unit_that_fits() {
        for (millis, text) in [
            (31, "31 ms"),
            (1_450, "1.4 s"),
            (38_000, "38 s"),
            (240_000, "4 min"),
            (7_500_000, "2 h 5 min"),
            (7_200_000, "2 h"),
            (520_000_000, "6 d"),
        ] {
            assert_eq!(span_ms(millis), text);
        }
        let minute = Duration::from_mins(1);
        assert_eq!([0, 6, 90, 24_480].map(|number| rate(number, minute)), ["0 /s", "6 /min", "1.5 /s", "408 /s"]);
    }

    #[test]
    fn a_moment_has_its_exact_value_at_hand() {
        let html = Moment::at(Millis::new(1_800_000_000_123)).to_string();
        let exact = "2027-01-15T08:00:00.123Z";
        assert_eq!(html, format!("<time datetime=\"{exact}\" title=\"{exact}\">2027-01-15 08:00:00 UTC</time>"));
        assert_eq!(exact_of_last(), "9999-12-31T23:59:59.999Z");
        let ago = |time: i64| Ago::of(Millis::new(time), Millis::new(100_000)).to_string();
        assert!(ago(40_000).contains(">1 min ago<") && ago(130_000).contains(">now<") && ago(99_000).contains(">now<"));
    }

    fn exact_of_last() -> String {
        exact(Millis::MAX)
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!((cut("äöü", 2), cut("äöü", 3)), ("äö…".to_owned(), "äöü".to_owned()));
    }
}
