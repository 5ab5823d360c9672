//! The requests of one attempt, as the breakers of their origins see them.
//!
//! The breakers learn how the requests ended when the attempt has ended: an item counts as failed at an origin only if
//! its attempt failed, and the last request there decides. An answer before it, such as a token that was fetched, says
//! nothing about what fails afterwards. This file does not decide when a breaker opens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use outbox_item::ItemId;

use crate::breaker::origin::Passage;
use crate::breaker::origins::{OriginBreakers, OriginRequest, RequestEnd};
use crate::failure::{Failure, FailureClass};
use crate::handler::Outcome;

/// The code of a failure after a request that was not sent because a breaker is open.
pub const BREAKER_OPEN: &str = "breaker.open";

/// The requests of one attempt. Dropping it ends its probes.
#[derive(Debug)]
pub struct AttemptOrigins {
    breakers: Arc<OriginBreakers>,
    item_type: String,
    item: ItemId,
    /// One for each origin, in the order of the last requests.
    requests: Mutex<Vec<OriginRequest>>,
}

impl AttemptOrigins {
    pub(crate) fn new(breakers: Arc<OriginBreakers>, item_type: &str, item: ItemId) -> Self {
        Self { breakers, item_type: item_type.to_owned(), item, requests: Mutex::default() }
    }

    /// Whether a request to the origin may be sent at `now`.
    pub fn may_send(&self, origin: &str, now: Instant) -> bool {
        let mut requests = self.requests();
        let before = requests.iter().position(|known| known.origin == origin).map(|place| requests.remove(place));
        let before = before.map(|before| before.passage);
        let let_through = before.filter(|passage| matches!(passage, Passage::Probe | Passage::Returning));
        let passage = let_through.unwrap_or_else(|| self.breakers.pass(origin, &self.item_type, now));
        let end = match passage {
            Passage::Refused => RequestEnd::Refused(self.breakers.cause(origin, now)),
            _ => RequestEnd::Unanswered,
        };
        requests.push(OriginRequest { origin: origin.to_owned(), passage, end, at: now });
        passage != Passage::Refused
    }

    /// Records how a request to the origin ended at `now`.
    pub fn ended(&self, origin: &str, end: RequestEnd, now: Instant) {
        if let Some(known) = self.requests().iter_mut().find(|known| known.origin == origin) {
            (known.end, known.at) = (end, now);
        }
    }

    /// Tells the breakers how the attempt ended. Returns the outcome, which does not count as an attempt if a request was
    /// refused or the receiver of the last one is known to be out of order.
    pub fn finish(&self, outcome: Outcome, now: Instant) -> Outcome {
        let mut requests = std::mem::take(&mut *self.requests());
        let is_failed = match &outcome {
            Outcome::Done { .. } => false,
            Outcome::Failed(_) => true,
            Outcome::Interrupted | Outcome::NoHandler => {
                self.breakers.dropped(&requests, now);
                return outcome;
            }
        };
        if !has_waited(&outcome) {
            let unanswered = requests.iter_mut().filter(|request| request.end == RequestEnd::Unanswered);
            unanswered.for_each(|request| request.end = RequestEnd::Unknown);
        }
        self.breakers.attempt_ended(&self.item_type, self.item, &requests, is_failed, now);
        match outcome {
            Outcome::Failed(failure) => Outcome::Failed(self.judge(failure, &requests, now)),
            outcome => outcome,
        }
    }

    /// The failure, which does not count if it can follow from a request that was refused or whose receiver fails.
    fn judge(&self, failure: Failure, requests: &[OriginRequest], now: Instant) -> Failure {
        use FailureClass::{Deferred, Permanent, Retryable, Timeout, Trap};
        let is_refused = |request: &&OriginRequest| matches!(request.end, RequestEnd::Refused(_));
        let has_failed = |request: &&OriginRequest| {
            let is_failure = matches!(request.end, RequestEnd::Failed(_) | RequestEnd::Unanswered);
            is_failure && self.breakers.spares(&request.origin, now)
        };
        let blamed = requests.iter().find(is_refused).or_else(|| requests.iter().find(has_failed));
        let Some(OriginRequest { origin, end, .. }) = blamed else { return failure };
        match end {
            RequestEnd::Refused(cause)
                if matches!(failure.class, Retryable | Permanent | Deferred | Trap | Timeout) =>
            {
                let message = format!(
                    "the breaker of {origin} lets no request through now, so it was not sent; its receiver failed: {cause}"
                );
                Failure::new(Deferred, BREAKER_OPEN, message)
            }
            RequestEnd::Failed(_) | RequestEnd::Unanswered if matches!(failure.class, Retryable | Trap | Timeout) => {
                // The message stays, so that the failures before and after the opening are one group.
                Failure { class: Deferred, ..failure }
            }
            _ => failure,
        }
    }

    fn requests(&self) -> MutexGuard<'_, Vec<OriginRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the attempt ended because it waited for an answer for too long. A component that breaks off says nothing about
/// the receiver.
fn has_waited(outcome: &Outcome) -> bool {
    let Outcome::Failed(failure) = outcome else { return false };
    matches!(failure.class, FailureClass::Timeout | FailureClass::Retryable)
}

impl Drop for AttemptOrigins {
    fn drop(&mut self) {
        let requests = std::mem::take(&mut *self.requests());
        if !requests.is_empty() {
            self.breakers.dropped(&requests, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::breaker::origin::BREAKER_WINDOW;
    use crate::breaker::origins::BreakerNews;
    use crate::host_writes::HostWrites;

    const A: &str = "https://a";
    const B: &str = "https://b";

    fn failed(class: FailureClass) -> Outcome {
        Outcome::Failed(Failure::new(class, "http", "it fails"))
    }

    fn done() -> Outcome {
        Outcome::Done { result: None, writes: HostWrites::default() }
    }

    /// An attempt at item `id` of the type that sends one request to the origin. `None` if the request was refused.
    fn attempt(
        breakers: &Arc<OriginBreakers>,
        item_type: &str,
        id: i64,
        origin: &str,
        ok: bool,
        now: Instant,
    ) -> Outcome {
        let origins = AttemptOrigins::new(Arc::clone(breakers), item_type, ItemId::new(id));
        if !origins.may_send(origin, now) {
            return origins.finish(failed(FailureClass::Permanent), now);
        }
        origins.ended(origin, if ok { RequestEnd::Answered } else { RequestEnd::Failed("status 503".into()) }, now);
        origins.finish(if ok { done() } else { failed(FailureClass::Retryable) }, now)
    }

    fn open(breakers: &Arc<OriginBreakers>, item_type: &str, now: Instant) {
        for id in 1..=20 {
            attempt(breakers, item_type, id, A, false, now);
        }
        assert!(breakers.is_open(A, now));
    }

    fn class_of(outcome: &Outcome) -> FailureClass {
        let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
        failure.class
    }

    #[test]
    fn a_request_to_an_open_breaker_is_not_sent_and_its_attempt_does_not_count_whatever_the_guest_says() {
        let (breakers, now) = (Arc::default(), Instant::now());
        open(&breakers, "t", now);
        let Outcome::Failed(failure) = attempt(&breakers, "t", 21, A, true, now) else { panic!("it was sent") };
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Deferred, BREAKER_OPEN));
        assert!(failure.message.contains(A) && failure.message.ends_with("status 503"), "{}", failure.message);
        assert_eq!(attempt(&breakers, "t", 22, B, true, now), done(), "another origin is not concerned");
    }

    #[test]
    fn an_attempt_that_was_under_way_and_a_probe_that_fails_do_not_count() {
        let (breakers, now) = (Arc::default(), Instant::now());
        let under_way = AttemptOrigins::new(Arc::clone(&breakers), "t", ItemId::new(99));
        assert!(under_way.may_send(A, now));
        assert_eq!(class_of(&attempt(&breakers, "t", 50, A, false, now)), FailureClass::Retryable, "it counts before");
        open(&breakers, "t", now);
        assert_eq!(class_of(&under_way.finish(failed(FailureClass::Timeout), now)), FailureClass::Deferred);
        let due = now + Duration::from_secs(5);
        assert_eq!(class_of(&attempt(&breakers, "t", 1, A, false, due)), FailureClass::Deferred);
        let later = due + Duration::from_secs(10);
        assert_eq!(attempt(&breakers, "t", 1, A, true, later), done());
        assert!(!breakers.is_open(A, later));
    }

    #[test]
    fn a_probe_may_send_several_requests_and_the_last_one_decides() {
        let (breakers, now) = (Arc::default(), Instant::now());
        open(&breakers, "t", now);
        let due = now + Duration::from_secs(5);
        let probe = AttemptOrigins::new(Arc::clone(&breakers), "t", ItemId::new(1));
        for _ in 0..3 {
            assert!(probe.may_send(A, due));
            probe.ended(A, RequestEnd::Answered, due);
        }
        probe.finish(done(), due);
        assert!(!breakers.is_open(A, due));
    }

    #[test]
    fn a_probe_that_is_dropped_or_interrupted_lets_another_follow() {
        let (breakers, now) = (Arc::default(), Instant::now());
        open(&breakers, "t", now);
        let probe = || AttemptOrigins::new(Arc::clone(&breakers), "t", ItemId::new(1));
        let due = now + Duration::from_secs(5);
        let interrupted = probe();
        assert!(interrupted.may_send(A, due));
        assert_eq!(interrupted.finish(Outcome::Interrupted, due), Outcome::Interrupted);
        assert!(!probe().may_send(A, due));
        let second = due + Duration::from_secs(5);
        let dropped = probe();
        assert!(dropped.may_send(A, second));
        drop(dropped);
        assert!(probe().may_send(A, second + Duration::from_secs(5)));
    }

    #[test]
    fn a_type_whose_last_attempts_all_ended_there_is_held_back_and_one_that_goes_elsewhere_too_is_not() {
        let (breakers, now) = (Arc::default(), Instant::now());
        for id in 100..120 {
            attempt(&breakers, "mixed", id, if id % 2 == 0 { A } else { B }, id % 2 == 1, now);
            attempt(&breakers, "other", id, B, true, now);
        }
        open(&breakers, "single", now);
        let at_once = |item_type: &str, now| breakers.at_once(item_type, now);
        assert_eq!(["single", "mixed", "other", "unknown"].map(|of| at_once(of, now)), [Some(0), None, None, None]);
        for id in 200..230 {
            attempt(&breakers, "mixed", id, A, true, now);
        }
        assert_eq!(at_once("mixed", now), None, "it went elsewhere within the last minute");
        let later = now + BREAKER_WINDOW + Duration::from_secs(1);
        assert_eq!([at_once("single", later), at_once("mixed", later)], [Some(1); 2]);
        attempt(&breakers, "mixed", 300, A, true, later);
        assert_eq!([at_once("single", later), at_once("mixed", later)], [Some(1); 2], "and slowly");
        attempt(&breakers, "single", 301, A, true, later);
        assert_eq!([at_once("single", later), at_once("mixed", later)], [Some(2); 2]);
    }

    #[test]
    fn an_attempt_without_a_request_says_nothing_and_one_that_succeeds_elsewhere_fails_nowhere() {
        let (breakers, now) = (Arc::<OriginBreakers>::default(), Instant::now());
        for id in 1..=40 {
            let origins = AttemptOrigins::new(Arc::clone(&breakers), "t", ItemId::new(id));
            assert!(origins.may_send(A, now) && origins.may_send(B, now));
            origins.ended(A, RequestEnd::Failed("status 500".into()), now);
            origins.ended(B, RequestEnd::Answered, now);
            assert_eq!(origins.finish(done(), now), done());
        }
        assert_eq!(breakers.status(now), [], "the items were delivered");
        open(&breakers, "u", now);
        let idle = AttemptOrigins::new(Arc::clone(&breakers), "u", ItemId::new(1));
        assert_eq!(class_of(&idle.finish(failed(FailureClass::Permanent), now)), FailureClass::Permanent);
        assert_eq!(breakers.at_once("u", now), None, "not all of its attempts end there");
    }

    #[test]
    fn an_attempt_that_was_refused_one_request_does_not_count_whatever_it_sends_afterwards() {
        let (breakers, now) = (Arc::default(), Instant::now());
        open(&breakers, "t", now);
        for class in [FailureClass::Permanent, FailureClass::Retryable] {
            let origins = AttemptOrigins::new(Arc::clone(&breakers), "t", ItemId::new(30));
            assert!(!origins.may_send(A, now) && origins.may_send(B, now));
            origins.ended(B, RequestEnd::Answered, now);
            assert_eq!(class_of(&origins.finish(failed(class), now)), FailureClass::Deferred);
        }
    }

    #[test]
    fn a_component_that_breaks_off_while_it_waits_says_nothing_about_the_receiver() {
        let (breakers, now) = (Arc::<OriginBreakers>::default(), Instant::now());
        for (class, is_open) in [(FailureClass::Trap, false), (FailureClass::Cpu, false), (FailureClass::Timeout, true)]
        {
            for id in 1..=20 {
                let origins = AttemptOrigins::new(Arc::clone(&breakers), "t", ItemId::new(id));
                assert!(origins.may_send(A, now));
                origins.finish(failed(class), now);
            }
            assert_eq!(breakers.is_open(A, now), is_open, "{class}");
        }
    }

    #[test]
    fn a_type_whose_plugin_uses_no_breakers_any_more_and_an_origin_that_nobody_calls_are_forgotten() {
        let (breakers, now) = (Arc::default(), Instant::now());
        open(&breakers, "t", now);
        assert_eq!(breakers.at_once("t", now), Some(0));
        breakers.forget("t");
        assert_eq!(breakers.at_once("t", now), None);
        let quiet = Duration::from_mins(10);
        assert_eq!(breakers.status(now + quiet.saturating_sub(Duration::from_secs(1))).len(), 1);
        assert_eq!(breakers.status(now + quiet), []);
    }

    #[test]
    fn operators_are_told_of_each_outage_once() {
        let (breakers, now) = (Arc::default(), Instant::now());
        open(&breakers, "t", now);
        attempt(&breakers, "u", 30, A, false, now);
        let minute = now + Duration::from_mins(1);
        let status = breakers.status(minute);
        assert_eq!((status[0].open_for_ms, status[0].items, status[0].types.len()), (60_000, 20, 2), "{status:?}");
        let news = breakers.take_news();
        assert!(matches!(&news[..], [BreakerNews::Opened(status)] if status.cause == "status 503"), "{news:?}");
        attempt(&breakers, "t", 30, A, true, minute);
        let news = breakers.take_news();
        assert!(matches!(&news[..], [BreakerNews::Closed(status)] if status.open_for_ms == 60_000), "{news:?}");
        assert_eq!(breakers.take_news(), []);
    }
}
