//! The breaker of one origin: opens when many different items fail there and none succeeds, asks with one request at a
//! time whether the receiver is back, and lets attempts return slowly.
//!
//! Pure; time is an argument. It knows neither types nor how a request is sent.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use outbox_item::ItemId;

use crate::breaker::status::BreakerState;

/// How many different items fail before it opens: more than a few poisonous ones, and few enough that an outage costs
/// few attempts.
pub const BREAKER_ITEMS: usize = 20;
/// How close together they fail.
pub const BREAKER_WINDOW: Duration = Duration::from_mins(1);
/// The wait before the first probe. Each that fails doubles it.
pub const PROBE_MIN: Duration = Duration::from_secs(5);
/// The longest wait between two probes: the longest time that a receiver that is back stays unnoticed.
pub const PROBE_MAX: Duration = Duration::from_mins(1);
/// How long failures do not count.
pub const BREAKER_OPEN_MAX: Duration = Duration::from_hours(24);
/// Attempts at a time at which the limit ends. It begins at 1, and each success adds one: so it doubles with each round
/// of attempts.
const RAMP_END: u32 = 256;
/// How many different items fail while the limit lasts, without a success between them, before it opens again.
const REOPEN_ITEMS: usize = 5;
/// How long the limit lasts at most, for an origin that gets few requests.
const RAMP_MAX: Duration = Duration::from_mins(1);

/// What a request to the origin may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It is sent.
    Free,
    /// It is sent, and its end decides whether the receiver is back.
    Probe,
    /// It is sent, as one of few attempts at a time: the receiver has just come back.
    Returning,
    /// It is not sent.
    Refused,
}

/// What a change of the breaker means to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerTurn {
    /// An outage began, or goes on after it seemed to have ended.
    Opened,
    /// An outage that began so long ago ended.
    Closed(Duration),
}

/// The breaker of one origin.
#[derive(Debug)]
pub(crate) enum OriginBreaker {
    /// Requests are sent. Holds the items that have failed since the last success, with the times of their failures.
    Closed(HashMap<ItemId, Instant>),
    /// Only probes are sent.
    Open(OriginOutage),
    /// Requests are sent, and at most `limit` attempts at a time are made.
    Closing {
        outage: OriginOutage,
        limit: u32,
        /// The attempts that were let through and go on.
        running: u32,
        since: Instant,
        /// The items that have failed since the last success.
        failed: HashSet<ItemId>,
    },
}

/// An outage of the origin.
#[derive(Clone, Debug)]
pub(crate) struct OriginOutage {
    pub(crate) since: Instant,
    pub(crate) cause: String,
    pub(crate) items: u32,
    pause: Duration,
    next_probe: Instant,
    /// Since when a probe is under way.
    probing_since: Option<Instant>,
}

impl Default for OriginBreaker {
    fn default() -> Self {
        Self::Closed(HashMap::new())
    }
}

impl OriginBreaker {
    /// What a request may do at `now`. A probe must be ended by one of the other methods.
    pub(crate) fn pass(&mut self, now: Instant) -> Passage {
        match self {
            Self::Open(outage) if outage.is_expired(now) => Passage::Free,
            Self::Open(outage) if outage.is_probe_due(now) => {
                outage.probing_since = Some(now);
                Passage::Probe
            }
            Self::Open(_) => Passage::Refused,
            Self::Closing { limit, running, since, .. } if now - *since < RAMP_MAX => {
                if *running >= *limit {
                    return Passage::Refused;
                }
                *running += 1;
                Passage::Returning
            }
            Self::Closed(_) | Self::Closing { .. } => Passage::Free,
        }
    }

    /// An attempt that was [`Passage::Returning`] has ended.
    pub(crate) fn returned(&mut self) {
        if let Self::Closing { running, .. } = self {
            *running = running.saturating_sub(1);
        }
    }

    /// An attempt ended at `now` whose last request was answered at `at`. An answer from before the outage, or before the
    /// failures since, says nothing about them: an attempt can go on for long after its answer.
    pub(crate) fn succeeded(&mut self, at: Instant, now: Instant) -> Option<BreakerTurn> {
        match self {
            Self::Closed(failed) => failed.retain(|_, failed_at| *failed_at > at),
            Self::Open(outage) if at < outage.since => {}
            Self::Open(outage) => {
                let lasted = at - outage.since;
                let outage = OriginOutage { pause: PROBE_MIN, probing_since: None, ..outage.clone() };
                *self = Self::Closing { outage, limit: 1, running: 0, since: now, failed: HashSet::new() };
                return Some(BreakerTurn::Closed(lasted));
            }
            Self::Closing { since, .. } if at < *since => {}
            Self::Closing { limit, since, failed, .. } => {
                failed.clear();
                *limit += 1;
                if *limit >= RAMP_END || now - *since >= RAMP_MAX {
                    *self = Self::default();
                }
            }
        }
        None
    }

    /// An attempt at the item failed by `cause`.
    pub(crate) fn failed(&mut self, item: ItemId, cause: &str, was_probe: bool, now: Instant) -> Option<BreakerTurn> {
        match self {
            Self::Closed(failed) => {
                failed.insert(item, now);
                failed.retain(|_, at| now - *at <= BREAKER_WINDOW);
                if failed.len() >= BREAKER_ITEMS {
                    *self = Self::Open(OriginOutage::begin(cause, now));
                    return Some(BreakerTurn::Opened);
                }
            }
            Self::Open(outage) => {
                cause.clone_into(&mut outage.cause);
                if was_probe {
                    outage.wait_longer(now);
                }
            }
            Self::Closing { since, .. } if now - *since >= RAMP_MAX => {
                *self = Self::default();
                return self.failed(item, cause, false, now);
            }
            Self::Closing { outage, limit, failed, .. } => {
                failed.insert(item);
                *limit = (*limit / 2).max(1);
                if failed.len() >= REOPEN_ITEMS {
                    cause.clone_into(&mut outage.cause);
                    outage.wait_longer(now);
                    *self = Self::Open(outage.clone());
                    return Some(BreakerTurn::Opened);
                }
            }
        }
        None
    }

    /// A probe ended without an answer about the receiver.
    pub(crate) fn probe_dropped(&mut self, now: Instant) {
        if let Self::Open(outage) = self {
            outage.probing_since = None;
            outage.next_probe = now + PROBE_MIN;
        }
    }

    /// Whether failures do not count at `now`: until the receiver is known to be well.
    pub(crate) fn spares(&self, now: Instant) -> bool {
        self.outage(now).is_some_and(|(_, state)| state != BreakerState::Expired)
    }

    /// Whether only probes are sent at `now`.
    #[cfg(test)]
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        matches!(self, Self::Open(outage) if !outage.is_expired(now))
    }

    /// Whether nothing is left to remember at `now`.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        match self {
            Self::Closed(failed) => failed.values().all(|at| now - *at > BREAKER_WINDOW),
            Self::Open(_) => false,
            Self::Closing { since, .. } => now - *since >= RAMP_MAX,
        }
    }

    /// The most attempts at a time of a type that uses no other origin; `None` for any number.
    pub(crate) fn at_once(&self, now: Instant) -> Option<u32> {
        match self {
            Self::Open(outage) if !outage.is_expired(now) => Some(u32::from(outage.is_probe_due(now))),
            Self::Closing { limit, since, .. } if now - *since < RAMP_MAX => Some(*limit),
            _ => None,
        }
    }

    /// The outage and what the breaker does about it; `None` if it is closed.
    pub(crate) fn outage(&self, now: Instant) -> Option<(&OriginOutage, BreakerState)> {
        match self {
            Self::Open(outage) if outage.is_expired(now) => Some((outage, BreakerState::Expired)),
            Self::Open(outage) => Some((outage, BreakerState::Open)),
            Self::Closing { outage, since, .. } if now - *since < RAMP_MAX => Some((outage, BreakerState::Closing)),
            _ => None,
        }
    }
}

impl OriginOutage {
    fn begin(cause: &str, now: Instant) -> Self {
        let items = u32::try_from(BREAKER_ITEMS).unwrap_or(u32::MAX);
        let cause = cause.to_owned();
        Self { since: now, cause, items, pause: PROBE_MIN, next_probe: now + PROBE_MIN, probing_since: None }
    }

    fn is_expired(&self, now: Instant) -> bool {
        now - self.since >= BREAKER_OPEN_MAX
    }

    fn is_probe_due(&self, now: Instant) -> bool {
        // One that takes long, for whatever reason, holds back no other.
        let is_probing = self.probing_since.is_some_and(|since| now - since < PROBE_MAX);
        !is_probing && self.next_probe <= now
    }

    fn wait_longer(&mut self, now: Instant) {
        self.probing_since = None;
        self.pause = (self.pause * 2).min(PROBE_MAX);
        self.next_probe = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fail(breaker: &mut OriginBreaker, id: i64, now: Instant) -> Option<BreakerTurn> {
        breaker.failed(ItemId::new(id), "status 503", false, now)
    }

    fn opened(now: Instant) -> OriginBreaker {
        let mut breaker = OriginBreaker::default();
        let turns: Vec<_> = (1..=20).filter_map(|id| fail(&mut breaker, id, now)).collect();
        assert_eq!(turns, [BreakerTurn::Opened]);
        breaker
    }

    fn probe_fails(breaker: &mut OriginBreaker, now: Instant) {
        assert_eq!(breaker.pass(now), Passage::Probe);
        assert_eq!(breaker.failed(ItemId::new(1), "status 503", true, now), None);
    }

    #[test]
    fn twenty_items_that_fail_within_a_minute_open_it_and_nineteen_do_not() {
        let now = Instant::now();
        let mut breaker = OriginBreaker::default();
        for id in (1..=19).cycle().take(1_000) {
            assert_eq!(fail(&mut breaker, id, now), None, "an item that fails again is one item");
        }
        assert_eq!((breaker.pass(now), breaker.at_once(now)), (Passage::Free, None));
        let later = now + BREAKER_WINDOW + SECOND;
        assert_eq!(fail(&mut breaker, 20, later), None, "the others failed too long ago");
        let breaker = opened(now);
        assert!(breaker.is_open(now));
        assert_eq!(breaker.at_once(now), Some(0));
    }

    #[test]
    fn one_success_among_the_failures_keeps_it_closed() {
        let now = Instant::now();
        let mut breaker = OriginBreaker::default();
        for id in 1..=100 {
            assert_eq!(fail(&mut breaker, id, now), None);
            if id % 19 == 0 {
                assert_eq!(breaker.succeeded(now, now), None);
            }
        }
    }

    #[test]
    fn one_probe_at_a_time_is_sent_after_five_seconds_and_then_after_twice_as_long_up_to_a_minute() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for pause in [5, 10, 20, 40, 60, 60, 60] {
            now += Duration::from_secs(pause - 1);
            assert_eq!((breaker.pass(now), breaker.at_once(now)), (Passage::Refused, Some(0)), "{pause}");
            now += SECOND;
            assert_eq!(breaker.at_once(now), Some(1));
            assert_eq!(breaker.pass(now), Passage::Probe);
            assert_eq!((breaker.pass(now), breaker.at_once(now)), (Passage::Refused, Some(0)), "one at a time");
            assert_eq!(fail(&mut breaker, 7, now), None, "a request that was sent before says nothing");
            assert_eq!(breaker.pass(now), Passage::Refused);
            assert_eq!(breaker.failed(ItemId::new(1), "refused", true, now), None);
        }
        assert_eq!(breaker.outage(now).map(|(outage, _)| outage.cause.as_str()), Some("refused"));
    }

    #[test]
    fn a_probe_without_an_answer_is_followed_by_another() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        now += PROBE_MIN;
        assert_eq!(breaker.pass(now), Passage::Probe);
        breaker.probe_dropped(now);
        assert_eq!(breaker.pass(now), Passage::Refused);
        assert_eq!(breaker.pass(now + PROBE_MIN), Passage::Probe);
    }

    #[test]
    fn a_success_closes_it_and_the_attempts_at_a_time_grow_from_one() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let now = start + PROBE_MIN;
        assert_eq!(breaker.pass(now), Passage::Probe);
        assert_eq!(breaker.succeeded(now, now), Some(BreakerTurn::Closed(PROBE_MIN)));
        for limit in 1..RAMP_END {
            assert_eq!((breaker.at_once(now), breaker.pass(now)), (Some(limit), Passage::Returning));
            breaker.returned();
            assert_eq!(breaker.succeeded(now, now), None);
        }
        assert_eq!(breaker.at_once(now), None);
        assert!(breaker.outage(now).is_none());
    }

    #[test]
    fn a_receiver_that_is_back_gets_as_many_attempts_at_a_time_as_have_succeeded_whatever_else_they_call() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.succeeded(now, now);
        assert_eq!((breaker.pass(now), breaker.pass(now)), (Passage::Returning, Passage::Refused));
        breaker.returned();
        breaker.succeeded(now, now);
        let passages = [(); 3].map(|()| breaker.pass(now));
        assert_eq!(passages, [Passage::Returning, Passage::Returning, Passage::Refused]);
        assert_eq!(breaker.pass(now + RAMP_MAX), Passage::Free);
    }

    #[test]
    fn attempts_return_slowly_also_after_a_probe_that_goes_on_for_long_after_its_answer() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let (answered, ended) = (start + PROBE_MIN, start + PROBE_MIN + RAMP_MAX);
        assert_eq!(breaker.pass(answered), Passage::Probe);
        assert_eq!(breaker.succeeded(answered, ended), Some(BreakerTurn::Closed(PROBE_MIN)));
        assert_eq!([breaker.pass(ended), breaker.pass(ended)], [Passage::Returning, Passage::Refused]);
    }

    #[test]
    fn an_answer_from_before_the_failures_says_nothing_about_them() {
        let start = Instant::now();
        let mut breaker = OriginBreaker::default();
        for id in 1..=19 {
            fail(&mut breaker, id, start + SECOND);
        }
        breaker.succeeded(start, start + SECOND);
        assert_eq!(fail(&mut breaker, 20, start + SECOND), Some(BreakerTurn::Opened));
        assert_eq!(breaker.succeeded(start, start + SECOND), None);
        assert!(breaker.is_open(start + SECOND), "nor that the outage has ended");
    }

    #[test]
    fn a_probe_that_takes_long_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let due = now + PROBE_MIN;
        assert_eq!((breaker.pass(due), breaker.pass(due)), (Passage::Probe, Passage::Refused));
        assert_eq!(breaker.pass(due + PROBE_MAX), Passage::Probe);
    }

    #[test]
    fn a_receiver_that_gets_few_requests_has_no_limit_after_a_minute() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        now += PROBE_MIN;
        breaker.pass(now);
        breaker.succeeded(now, now);
        now += RAMP_MAX;
        assert_eq!(breaker.at_once(now), None);
        fail(&mut breaker, 1, now);
        assert!(!breaker.is_open(now), "it is like any other closed one");
    }

    #[test]
    fn failures_while_it_closes_halve_the_attempts_and_five_items_in_a_row_open_it_again() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let now = start + PROBE_MIN;
        breaker.pass(now);
        for _ in 0..8 {
            breaker.succeeded(now, now);
        }
        let limits: Vec<_> = (1..=4).map(|id| (fail(&mut breaker, id, now), breaker.at_once(now))).collect();
        assert_eq!(limits, [(None, Some(4)), (None, Some(2)), (None, Some(1)), (None, Some(1))]);
        breaker.succeeded(now, now);
        for id in [1, 1, 1, 2, 3, 4] {
            fail(&mut breaker, id, now);
            assert!(!breaker.is_open(now) && breaker.spares(now), "four items, one of them often");
        }
        assert_eq!(fail(&mut breaker, 5, now), Some(BreakerTurn::Opened), "operators were told that it had closed");
        assert!(breaker.is_open(now));
        assert_eq!(breaker.outage(now).map(|(outage, _)| outage.since), Some(start), "it is the same outage");
        assert_eq!(breaker.pass(now + PROBE_MIN), Passage::Refused, "and the pauses go on growing");
        assert_eq!(breaker.pass(now + 2 * PROBE_MIN), Passage::Probe);
    }

    #[test]
    fn after_a_day_failures_count_again_until_a_request_is_answered() {
        let start = Instant::now();
        let mut breaker = opened(start);
        probe_fails(&mut breaker, start + PROBE_MIN);
        let end = start + BREAKER_OPEN_MAX;
        assert!(breaker.is_open(end - SECOND));
        assert!(!breaker.is_open(end));
        assert_eq!((breaker.pass(end), breaker.at_once(end)), (Passage::Free, None));
        fail(&mut breaker, 1, end);
        assert_eq!(breaker.outage(end).map(|(_, state)| state), Some(BreakerState::Expired));
        assert_eq!(breaker.succeeded(end, end), Some(BreakerTurn::Closed(BREAKER_OPEN_MAX)));
    }
}
