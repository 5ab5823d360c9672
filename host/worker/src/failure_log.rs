//! The log lines of failed attempts: one for each type and cause every ten seconds, with the number of attempts that it
//! stands for.
//!
//! Time is an argument. What a failure means for its item is decided elsewhere.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use outbox_core::{Settlement, SpanIds, fingerprint};
use outbox_item::Item;

/// The shortest time between two lines about one type and cause.
const INTERVAL: Duration = Duration::from_secs(10);

/// What has failed lately, by the fingerprint of the failure and what became of the item.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<HashMap<(String, &'static str), Cause>>);

#[derive(Debug)]
struct Cause {
    line: FailureLine,
    /// When its last line was written.
    written_at: Instant,
    /// The attempts since that line.
    count: u64,
}

/// A line of the log about the last of some attempts that failed alike.
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
        let Some(line) = FailureLine::new(item, settlement) else { return };
        let Some(failure) = settlement.failure() else { return };
        let key = (fingerprint(&item.item_type, failure, None), line.what);
        if let Some(line) = self.count(key, line, now) {
            line.write(1);
        }
    }

    /// Writes the lines that are due about attempts that were only counted, and forgets what fails no more.
    pub(crate) fn write_due(&self, now: Instant) {
        for (line, count) in self.due(now) {
            line.write(count);
        }
    }

    /// The line if it is the first of its kind for a while.
    fn count(&self, key: (String, &'static str), line: FailureLine, now: Instant) -> Option<FailureLine> {
        let mut causes = self.lock();
        if let Some(cause) = causes.get_mut(&key) {
            cause.count += 1;
            cause.line = line;
            return None;
        }
        causes.insert(key, Cause { line: line.clone(), written_at: now, count: 0 });
        Some(line)
    }

    fn due(&self, now: Instant) -> Vec<(FailureLine, u64)> {
        let mut due = Vec::new();
        self.lock().retain(|_, cause| {
            if now - cause.written_at < INTERVAL {
                return true;
            }
            let count = std::mem::take(&mut cause.count);
            cause.written_at = now;
            if count > 0 {
                due.push((cause.line.clone(), count));
            }
            count > 0
        });
        due
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, &'static str), Cause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailureLine {
    fn new(item: &Item, settlement: &Settlement) -> Option<Self> {
        let failure = settlement.failure()?;
        let what = match settlement {
            Settlement::Dead { .. } => "dead-lettered",
            Settlement::GiveBack { .. } => "given back",
            _ => "retry",
        };
        Some(Self {
            id: item.id.get(),
            item_type: item.item_type.clone(),
            cid: item.cid.clone(),
            attempt: item.attempts,
            class: failure.class.as_str(),
            code: failure.code.clone(),
            message: failure.message.clone(),
            what,
            spans: SpanIds::of(item),
        })
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

#[cfg(test)]
mod tests {
    use outbox_core::{Failure, FailureClass};
    use outbox_item::{ItemId, Millis, NewItem};

    use super::*;

    fn line(log: &FailureLog, id: i64, message: &str, now: Instant) -> Option<i64> {
        let item = NewItem::new("t", &id.to_string(), "").into_item(ItemId::new(id), Millis::default());
        let failure = Failure::new(FailureClass::Retryable, "http", message);
        let settlement = Settlement::Retry { failure: failure.clone(), delay: Duration::ZERO };
        let line = FailureLine::new(&item, &settlement).expect("it failed");
        log.count((fingerprint("t", &failure, None), line.what), line, now).map(|line| line.id)
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
        assert_eq!((due(&log, later), due(&log, later)), (vec![(1_000, 999)], vec![]));
    }

    #[test]
    fn what_fails_again_after_a_quiet_time_is_written_at_once() {
        let (log, start) = (FailureLog::default(), Instant::now());
        assert_eq!(line(&log, 1, "no answer", start), Some(1));
        assert_eq!(due(&log, start + INTERVAL), []);
        assert_eq!(line(&log, 2, "no answer", start + INTERVAL), Some(2));
    }
}
