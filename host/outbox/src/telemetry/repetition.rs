//! Which warnings and errors repeat: of those with one origin, type and cause, one line in ten seconds is written, and
//! the others are counted.
//!
//! A receiver that is down fails every attempt in the same way, and the log of each would hide everything else. What
//! handlers log is not counted here: it has a limit of its own. This file knows neither the format of lines nor where
//! they are written.

use std::collections::HashMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outbox_core::{Failure, FailureClass, fingerprint, normalised};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::telemetry::log_queue::LogQueue;

/// The time in which one line is written.
const WINDOW: Duration = Duration::from_secs(10);
/// Causes that are told apart at a time. The lines of further causes count as those of their origin.
const CAUSES_MAX: usize = 256;
/// Bytes of a line that are repeated where like lines are counted.
const SAMPLE_MAX: usize = 200;
/// Bytes of a cause that tell it apart: a reason of the host names a file or an image first, and what is wrong at its end.
const CAUSE_MAX: usize = 2_000;
/// Targets whose lines are all written: those of handlers, and those about lines.
const EXEMPT: [&str; 2] = ["outbox::plugin::log", TARGET];
/// The target of lines about lines.
const TARGET: &str = "outbox::log";

/// Lines that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) count: u64,
    /// The beginning of the line that was written instead.
    pub(crate) like: String,
}

impl LeftOut {
    /// Logs how many lines were left out.
    pub(crate) fn log(&self) {
        tracing::warn!(target: TARGET, count = self.count, like = %self.like, "lines were left out");
    }
}

/// The lines of the last seconds.
#[derive(Default)]
pub(crate) struct Repetitions {
    seen: Mutex<HashMap<String, Seen>>,
}

struct Seen {
    until: Instant,
    left_out: u64,
    like: String,
}

impl Repetitions {
    /// Whether to write a line, which is like `like`, at `now`. Errors with the end of the window when it is left out.
    fn admit(&self, origin: &str, cause: String, like: &str, now: Instant) -> Result<(), Instant> {
        let mut all = self.seen();
        all.retain(|_, seen| seen.until > now || seen.left_out > 0);
        let is_full = all.len() >= CAUSES_MAX && !all.contains_key(&cause);
        let cause = if is_full { origin.to_owned() } else { cause };
        let seen = all.entry(cause).or_insert_with(|| Seen { until: now, left_out: 0, like: String::new() });
        if seen.until <= now {
            seen.until = now + WINDOW;
            seen.like = like.chars().take(SAMPLE_MAX).collect();
            return Ok(());
        }
        seen.left_out += 1;
        Err(seen.until)
    }

    /// The lines that were left out in windows that have ended at `now`, and the end of the next window.
    pub(crate) fn ended(&self, now: Instant) -> (Vec<LeftOut>, Option<Instant>) {
        let mut seen = self.seen();
        let ended = seen.extract_if(|_, seen| seen.until <= now);
        let left_out = ended.map(|(_, Seen { left_out, like, .. })| LeftOut { count: left_out, like });
        let left_out = left_out.filter(|left_out| left_out.count > 0).collect();
        (left_out, seen.values().filter(|seen| seen.left_out > 0).map(|seen| seen.until).min())
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves repeated lines out.
pub(crate) struct RepetitionLayer {
    pub(crate) repetitions: Arc<Repetitions>,
    pub(crate) queue: Arc<LogQueue>,
}

impl<S: Subscriber> Layer<S> for RepetitionLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || EXEMPT.contains(&metadata.target()) {
            return true;
        }
        let mut words = EventWords::default();
        event.record(&mut words);
        let origin = format!("{}:{}", metadata.target(), metadata.line().unwrap_or_default());
        let cause = words.cause(&origin);
        let admitted = self.repetitions.admit(&origin, cause, &words.message, Instant::now());
        admitted.map_err(|until| self.queue.wake_at(until)).is_ok()
    }
}

/// The parts of an event that tell its type and cause.
#[derive(Default)]
struct EventWords {
    item_type: String,
    code: String,
    message: String,
    /// The values of fields with errors, whose texts others may have written.
    errors: String,
    /// The values of fields that name a place, or a cause in the words of the host.
    causes: String,
}

impl EventWords {
    /// The same for events that differ in numbers and ids only.
    fn cause(&self, origin: &str) -> String {
        let causes = normalised(&whole_numbers(&self.causes), CAUSE_MAX);
        let message = whole_numbers(&format!("{} {}", self.errors, self.message));
        let failure = Failure::new(FailureClass::Host, &self.code, message);
        fingerprint(&self.item_type, &failure, Some(&format!("{origin} {causes}")))
    }
}

/// The text with a digit in place of each decimal point, so that `1.5s` and `12s` are both one number.
fn whole_numbers(text: &str) -> String {
    let mut chars: Vec<_> = text.chars().collect();
    for at in 1..chars.len().saturating_sub(1) {
        if chars[at] == '.' && chars[at - 1].is_ascii_digit() && chars[at + 1].is_ascii_digit() {
            chars[at] = '0';
        }
    }
    chars.into_iter().collect()
}

impl Visit for EventWords {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let target = match field.name() {
            "message" => &mut self.message,
            "item.type" => &mut self.item_type,
            "code" => &mut self.code,
            "error" | "tried" => &mut self.errors,
            "reason" | "part" | "file" | "path" => &mut self.causes,
            name if name.starts_with("plugin") => &mut self.causes,
            _ => return,
        };
        // Writing to a String cannot fail.
        write!(target, "{value:?} ").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(repetitions: &Repetitions, cause: &str, now: Instant) -> bool {
        repetitions.admit("origin", cause.to_owned(), cause, now).is_ok()
    }

    #[test]
    fn one_line_of_a_cause_is_written_and_the_others_are_counted() {
        let (repetitions, start) = (Repetitions::default(), Instant::now());
        assert!(admit(&repetitions, "down", start) && admit(&repetitions, "full", start));
        for _ in 0..37 {
            assert!(!admit(&repetitions, "down", start + WINDOW / 2));
        }
        assert_eq!(repetitions.ended(start + WINDOW / 2), (vec![], Some(start + WINDOW)));
        let left_out = LeftOut { count: 37, like: "down".to_owned() };
        assert_eq!(repetitions.ended(start + WINDOW), (vec![left_out], None));
        assert!(admit(&repetitions, "down", start + WINDOW), "the next window has a line of its own");
    }

    #[test]
    fn any_number_of_causes_takes_bounded_room() {
        let (repetitions, start) = (Repetitions::default(), Instant::now());
        let written = (0..10_000).filter(|number| admit(&repetitions, &number.to_string(), start)).count();
        assert_eq!(written, CAUSES_MAX + 1);
        let (left_out, _) = repetitions.ended(start + WINDOW);
        assert_eq!(left_out.iter().map(|left_out| left_out.count).sum::<u64>(), 10_000 - written as u64);
    }

    #[test]
    fn types_and_causes_are_told_apart_and_numbers_are_not() {
        let words = |item_type: &str, message: &str| EventWords {
            item_type: item_type.into(),
            message: message.into(),
            ..EventWords::default()
        };
        let cause = |item_type: &str, message: &str| words(item_type, message).cause("origin");
        assert_eq!(cause("mail", "retry in 1.5s: refused"), cause("mail", "retry in 12s: refused"));
        assert_ne!(cause("mail", "refused"), cause("sms", "refused"));
        assert_ne!(cause("mail", "refused"), cause("mail", "not found"));
    }

    #[test]
    fn two_reasons_about_one_image_with_a_long_name_are_two_causes() {
        let image = format!("oci://r.example/{}:stable@sha256:{}", "team/".repeat(50), "a".repeat(64));
        let cause =
            |reason: &str| EventWords { causes: format!("{image}: {reason}"), ..EventWords::default() }.cause("origin");
        assert_ne!(cause("the registry does not answer: refused"), cause("the registry does not answer: reset"));
        assert_ne!(cause("the registry answers 500"), cause("the registry answers 429"));
        assert_eq!(cause("it has 3 components"), cause("it has 2 components"));
    }
}
