//! The log lines of failed attempts: one for each type and cause every ten seconds, with the number of attempts that it
//! stands for.
//!
//! Time is an argument. What a failure means for its item is decided elsewhere.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use outbox_core::{Failure, FailureClass, Settlement, SpanIds, fingerprint};
use outbox_item::Item;

/// The shortest time between two lines about one type and cause.
const INTERVAL: Duration = Duration::from_secs(10);

/// What has failed lately, by the fingerprint of the failure and what became of the item.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<HashMap<(String, &'static str), Cause>>);

#[derive(Debug)]
struct Cause {
    /// When its last line was written.
    written_at: Instant,
    /// The attempts since that line.
    count: u64,
    /// The next line, once there is such an attempt.
    line: Option<FailureLine>,
}

/// A line of the log about the first of some attempts that failed alike.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FailureLine {
    id: i64,
    item_type: String,
    cid: String,
    attempt: u32,
    class: &'static str,
    code: String,
    message: String,
    what: &'static str,
    spans: SpanIds,
}

impl FailureLog {
    /// Writes that an attempt has failed, or counts it for a later line.
    pub(crate) fn attempt_settled(&self, item: &Item, settlement: &Settlement, now: Instant) {
        let Some(failure) = settlement.failure() else { return };
        let what = match settlement {
            Settlement::Dead { .. } => "dead-lettered",
            Settlement::GiveBack { .. } => "given back",
            _ => "retry",
        };
        let key = (fingerprint(&item.item_type, failure, None), what);
        if let Some(line) = self.count(key, || FailureLine::new(item, failure, what), now) {
            line.write(1);
        }
    }

    /// Writes the lines that are due about attempts that were only counted, and forgets what fails no more.
    pub(crate) fn write_due(&self, now: Instant) {
        for (line, count) in self.due(now) {
            line.write(count);
        }
    }

    /// The line if it is the first of its kind for a while. Most attempts of an outage are counted, and cost no line.
    fn count(
        &self,
        key: (String, &'static str),
        line: impl FnOnce() -> FailureLine,
        now: Instant,
    ) -> Option<FailureLine> {
        let mut causes = self.lock();
        if let Some(cause) = causes.get_mut(&key) {
            cause.count += 1;
            cause.line.get_or_insert_with(line);
            return None;
        }
        causes.insert(key, Cause { written_at: now, count: 0, line: None });
        Some(line())
    }

    fn due(&self, now: Instant) -> Vec<(FailureLine, u64)> {
        let mut due = Vec::new();
        self.lock().retain(|_, cause| {
            if now - cause.written_at < INTERVAL {
                return true;
            }
            let (line, count) = (cause.line.take(), std::mem::take(&mut cause.count));
            cause.written_at = now;
            due.extend(line.map(|line| (line, count)));
            count > 0
        });
        due
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, &'static str), Cause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailureLine {
    fn new(item: &Item, failure: &Failure, what: &'static str) -> Self {
        Self {
            id: item.id.get(),
            item_type: item.item_type.clone(),
            cid: item.cid.clone(),
            attempt: item.attempts,
            class: failure.class.as_str(),
            code: failure.code.clone(),
            message: logged(failure).to_owned(),
            what,
            spans: SpanIds::of(item),
        }
    }

    /// Writes the line, which stands for `count` attempts.
    fn write(&self, count: u64) {
        tracing::warn!(
            item.id = self.id, item.type = self.item_type, item.cid = self.cid, attempt = self.attempt,
            class = self.class, code = self.code, count, trace_id = self.spans.trace_id, span_id = self.spans.attempt,
            "attempt failed, {}: {}", self.what, self.message
        );
    }
}

/// What the log says of a failure. The lines of a manifest after a denial have the path of the receiver, which can be a
/// secret; the history of the item shows them.
fn logged(failure: &Failure) -> &str {
    match failure.class {
        FailureClass::Denied => failure.message.lines().next().unwrap_or_default(),
        _ => &failure.message,
    }
}

#[cfg(test)]
mod tests {
    use outbox_item::{ItemId, Millis, NewItem};

    use super::*;

    fn line(log: &FailureLog, id: i64, message: &str, now: Instant) -> Option<i64> {
        let item = NewItem::new("t", &id.to_string(), "").into_item(ItemId::new(id), Millis::default());
        let failure = Failure::new(FailureClass::Retryable, "http", message);
        let line = || FailureLine::new(&item, &failure, "retry");
        log.count((fingerprint("t", &failure, None), "retry"), line, now).map(|line| line.id)
    }

    fn due(log: &FailureLog, now: Instant) -> Vec<(i64, u64)> {
        log.due(now).into_iter().map(|(line, count)| (line.id, count)).collect()
    }

    #[test]
    fn a_thousand_attempts_that_fail_alike_are_two_lines() {
        let (log, start) = (FailureLog::default(), Instant::now());
        let lines: Vec<_> = (1..=1_000).filter_map(|id| line(&log, id, &format!("no answer {id}"), start)).collect();
        assert_eq!((lines, due(&log, start)), (vec![1], vec![]));
        assert_eq!(line(&log, 7, "another cause", start), Some(7));
        let later = start + INTERVAL;
        assert_eq!((due(&log, later), due(&log, later)), (vec![(2, 999)], vec![]), "no other made a line");
    }

    #[test]
    fn what_a_manifest_does_not_grant_is_logged_without_the_path_of_the_receiver() {
        let message = "POST https://a is not granted\nthese lines would allow it:\npath = \"/bot-4711/send\"";
        let logged_as = |class| logged(&Failure::new(class, "c", message)).to_owned();
        assert_eq!(logged_as(FailureClass::Denied), "POST https://a is not granted");
        assert_eq!(logged_as(FailureClass::Permanent), message);
    }

    #[test]
    fn what_fails_again_after_a_quiet_time_is_written_at_once() {
        let (log, start) = (FailureLog::default(), Instant::now());
        assert_eq!(line(&log, 1, "no answer", start), Some(1));
        assert_eq!(due(&log, start + INTERVAL), []);
        assert_eq!(line(&log, 2, "no answer", start + INTERVAL), Some(2));
    }
}
