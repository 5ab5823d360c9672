//! The breakers that manifests ask for: the worker claims no items of a type whose attempts keep failing for a while,
//! then claims one.
//!
//! A breaker only stops *claiming*: running attempts continue, and unclaimed items stay PENDING. It reads no clock;
//! `now` is an argument. Its policy and the policy's default are [`BreakerPolicy`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use outbox_item::millis;

use crate::breaker::policy::BreakerPolicy;
use crate::breaker::status::{BreakerState, BreakerStatus};
use crate::failure::{Failure, FailureClass};
use crate::handler::ServedType;
use crate::settlement::Settlement;

/// The breakers of all types that have one.
#[derive(Debug, Default)]
pub(crate) struct TypeBreakers(Mutex<HashMap<String, TypeBreaker>>);

#[derive(Debug, Default)]
struct TypeBreaker {
    phase: TypePhase,
    /// When it opened, and what failed last.
    outage: Option<(Instant, String)>,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TypePhase {
    /// Items are claimed. Holds the number of failures in a row.
    Closed(u32),
    /// No items are claimed before this moment.
    Open(Instant),
    /// One item has been claimed after the pause, and its attempt has not ended.
    HalfOpen,
}

impl Default for TypePhase {
    fn default() -> Self {
        Self::Closed(0)
    }
}

/// What the end of an attempt says about the receiver that its handler calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BreakerSignal {
    Success,
    Failure,
    Neutral,
}

impl TypeBreakers {
    /// The most items of the type that may be claimed at `now`.
    pub(crate) fn claim_limit(&self, served_type: &ServedType, now: Instant) -> u32 {
        if served_type.breaker.is_none() {
            return u32::MAX;
        }
        match self.lock().get(&served_type.item_type).map(|breaker| breaker.phase) {
            None | Some(TypePhase::Closed(_)) => u32::MAX,
            Some(TypePhase::Open(until)) if until <= now => 1,
            Some(TypePhase::Open(_) | TypePhase::HalfOpen) => 0,
        }
    }

    /// Records that an item of the type was claimed.
    pub(crate) fn item_claimed(&self, served_type: &ServedType) {
        if let Some(breaker) = self.lock().get_mut(&served_type.item_type)
            && matches!(breaker.phase, TypePhase::Open(_))
        {
            breaker.phase = TypePhase::HalfOpen;
        }
    }

    /// Records how an attempt was settled. Returns true when that opened a closed breaker.
    pub(crate) fn attempt_settled(&self, served_type: &ServedType, settlement: &Settlement, now: Instant) -> bool {
        let Some(policy) = served_type.breaker else { return false };
        let mut breakers = self.lock();
        let breaker = breakers.entry(served_type.item_type.clone()).or_default();
        let next = breaker.phase.after(signal_of(settlement), policy, now);
        let opened = matches!(next, TypePhase::Open(_)) && matches!(breaker.phase, TypePhase::Closed(_));
        breaker.phase = next;
        breaker.remember(opened, settlement, policy, now);
        opened
    }

    /// The breakers that are not closed.
    pub(crate) fn status(&self, now: Instant) -> Vec<BreakerStatus> {
        let breakers = self.lock();
        let mut status: Vec<_> =
            breakers.iter().filter_map(|(item_type, breaker)| breaker.status(item_type, now)).collect();
        status.sort_by(|a, b| a.types.cmp(&b.types));
        status
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, TypeBreaker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TypeBreaker {
    fn remember(&mut self, opened: bool, settlement: &Settlement, policy: BreakerPolicy, now: Instant) {
        let cause = settlement.failure().map(|failure| failure.message.clone()).unwrap_or_default();
        match (&mut self.outage, self.phase) {
            (outage, TypePhase::Closed(_)) => *outage = None,
            (outage, _) if opened => {
                *outage = Some((now, cause));
                self.failures = policy.failures;
            }
            (Some((_, known)), _) if signal_of(settlement) == BreakerSignal::Failure => *known = cause,
            _ => {}
        }
    }

    fn status(&self, item_type: &str, now: Instant) -> Option<BreakerStatus> {
        let (since, cause) = self.outage.as_ref()?;
        Some(BreakerStatus {
            cause: cause.clone(),
            items: self.failures,
            open_for_ms: u64::try_from(millis(now - *since)).unwrap_or_default(),
            origin: None,
            state: BreakerState::Open,
            types: vec![item_type.to_owned()],
        })
    }
}

impl TypePhase {
    fn after(self, signal: BreakerSignal, policy: BreakerPolicy, now: Instant) -> Self {
        match (self, signal) {
            (_, BreakerSignal::Success) => Self::Closed(0),
            (Self::Closed(failures), BreakerSignal::Failure) if failures + 1 < policy.failures => {
                Self::Closed(failures + 1)
            }
            (Self::Closed(_) | Self::HalfOpen, BreakerSignal::Failure) => Self::Open(now + policy.pause),
            // The attempt was given back or released, and decides nothing: the next item decides.
            (Self::HalfOpen, BreakerSignal::Neutral) => Self::Open(now),
            (state, _) => state,
        }
    }
}

/// A handler that rejects an item for good has reached the receiver. An attempt that does not count, such as a
/// deferral, says nothing about the receiver.
fn signal_of(settlement: &Settlement) -> BreakerSignal {
    match settlement {
        Settlement::Done { .. } => BreakerSignal::Success,
        Settlement::Retry { failure, .. } | Settlement::Dead { failure, .. } => signal_of_failure(failure),
        Settlement::GiveBack { .. } | Settlement::Release => BreakerSignal::Neutral,
    }
}

fn signal_of_failure(failure: &Failure) -> BreakerSignal {
    if failure.class == FailureClass::Permanent { BreakerSignal::Success } else { BreakerSignal::Failure }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host_writes::HostWrites;

    const PAUSE: Duration = Duration::from_secs(30);

    fn served_type() -> ServedType {
        ServedType { breaker: Some(BreakerPolicy { failures: 3, pause: PAUSE }), ..ServedType::new("t") }
    }

    fn done() -> Settlement {
        Settlement::Done { result: None, writes: HostWrites::default() }
    }

    fn failed(class: FailureClass) -> Settlement {
        Settlement::Retry { failure: Failure::new(class, "c", "m"), delay: Duration::ZERO }
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_that_succeeds_between_them_does_not() {
        let (breakers, served_type, now) = (TypeBreakers::default(), served_type(), Instant::now());
        for settlement in
            [failed(FailureClass::Retryable), failed(FailureClass::Timeout), done(), failed(FailureClass::Trap)]
        {
            assert!(!breakers.attempt_settled(&served_type, &settlement, now));
        }
        assert!(!breakers.attempt_settled(&served_type, &failed(FailureClass::Retryable), now));
        assert_eq!(breakers.claim_limit(&served_type, now), u32::MAX);
        assert!(breakers.attempt_settled(&served_type, &failed(FailureClass::Retryable), now));
        assert_eq!(breakers.claim_limit(&served_type, now), 0);
    }

    #[test]
    fn an_item_that_is_rejected_says_nothing_bad_of_the_receiver() {
        let (breakers, served_type, now) = (TypeBreakers::default(), served_type(), Instant::now());
        for _ in 0..9 {
            assert!(!breakers.attempt_settled(&served_type, &failed(FailureClass::Permanent), now));
        }
        assert_eq!(breakers.claim_limit(&served_type, now), u32::MAX);
    }

    #[test]
    fn a_deferral_neither_counts_nor_resets_the_count() {
        let (breakers, served_type, now) = (TypeBreakers::default(), served_type(), Instant::now());
        let failure = Failure::new(FailureClass::Deferred, "c", "m");
        let deferred = Settlement::GiveBack { failure, delay: Duration::ZERO };
        for settlement in [failed(FailureClass::Retryable), failed(FailureClass::Retryable), deferred] {
            assert!(!breakers.attempt_settled(&served_type, &settlement, now));
        }
        assert!(breakers.attempt_settled(&served_type, &failed(FailureClass::Retryable), now));
    }

    #[test]
    fn after_the_pause_one_item_is_tried_and_decides() {
        let (breakers, served_type, start) = (TypeBreakers::default(), served_type(), Instant::now());
        for _ in 0..3 {
            breakers.attempt_settled(&served_type, &failed(FailureClass::Retryable), start);
        }
        assert_eq!(breakers.claim_limit(&served_type, start + PAUSE - Duration::from_millis(1)), 0);
        let later = start + PAUSE;
        let status = breakers.status(later);
        assert_eq!((status[0].open_for_ms, status[0].cause.as_str(), status[0].items), (30_000, "m", 3));
        assert_eq!(breakers.claim_limit(&served_type, later), 1);
        breakers.item_claimed(&served_type);
        assert_eq!(breakers.claim_limit(&served_type, later), 0, "one is being tried");
        assert!(
            !breakers.attempt_settled(&served_type, &failed(FailureClass::Retryable), later),
            "it was open already"
        );
        assert_eq!(breakers.claim_limit(&served_type, later), 0);
        assert_eq!(breakers.claim_limit(&served_type, later + PAUSE), 1);
        breakers.item_claimed(&served_type);
        breakers.attempt_settled(&served_type, &Settlement::Release, later + PAUSE);
        assert_eq!(breakers.claim_limit(&served_type, later + PAUSE), 1, "a release decides nothing");
        breakers.item_claimed(&served_type);
        breakers.attempt_settled(&served_type, &done(), later + PAUSE);
        assert_eq!((breakers.claim_limit(&served_type, later + PAUSE), breakers.status(later)), (u32::MAX, vec![]));
    }

    #[test]
    fn a_type_without_a_breaker_is_always_claimed() {
        let (breakers, now) = (TypeBreakers::default(), Instant::now());
        let served_type = ServedType { breaker: None, ..served_type() };
        for _ in 0..99 {
            assert!(!breakers.attempt_settled(&served_type, &failed(FailureClass::Retryable), now));
        }
        assert_eq!(breakers.claim_limit(&served_type, now), u32::MAX);
    }
}
