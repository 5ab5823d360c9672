//! The circuit breakers of a process: the worker claims no items of a type whose attempts keep failing for a while,
//! then claims one.
//!
//! A breaker only stops *claiming*: running attempts continue, and unclaimed items stay PENDING. It reads no clock;
//! `now` is an argument. Its policy and the policy's default are [`BreakerPolicy`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use outbox_core::{BreakerPolicy, Failure, FailureClass, ServedType, Settlement};

/// The breakers of all types that have one.
#[derive(Default)]
pub(crate) struct Breakers(Mutex<HashMap<String, BreakerState>>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum BreakerState {
    /// Items are claimed. Holds the number of failures in a row.
    Closed(u32),
    /// No items are claimed before this moment.
    Open(Instant),
    /// One item has been claimed after the pause, and its attempt has not ended.
    HalfOpen,
}

/// What the end of an attempt says about the receiver that its handler calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BreakerSignal {
    Success,
    Failure,
    Neutral,
}

impl Breakers {
    /// The most items of the type that may be claimed at `now`.
    pub(crate) fn claim_limit(&self, served_type: &ServedType, now: Instant) -> u32 {
        if served_type.breaker.is_none() {
            return u32::MAX;
        }
        match self.lock().get(&served_type.item_type) {
            None | Some(BreakerState::Closed(_)) => u32::MAX,
            Some(BreakerState::Open(until)) if *until <= now => 1,
            Some(BreakerState::Open(_) | BreakerState::HalfOpen) => 0,
        }
    }

    /// Records that an item of the type was claimed.
    pub(crate) fn item_claimed(&self, served_type: &ServedType) {
        if let Some(state @ BreakerState::Open(_)) = self.lock().get_mut(&served_type.item_type) {
            *state = BreakerState::HalfOpen;
        }
    }

    /// Records how an attempt was settled. Returns true when that opened a closed breaker.
    pub(crate) fn attempt_settled(&self, served_type: &ServedType, settlement: &Settlement, now: Instant) -> bool {
        let Some(policy) = served_type.breaker else { return false };
        let mut states = self.lock();
        let state = states.entry(served_type.item_type.clone()).or_insert(BreakerState::Closed(0));
        let next = state.after(signal_of(settlement), policy, now);
        let opened = matches!(next, BreakerState::Open(_)) && matches!(state, BreakerState::Closed(_));
        *state = next;
        opened
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, BreakerState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BreakerState {
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
    use outbox_core::{HostWrites, OnDead, RetryPolicy};

    const PAUSE: Duration = Duration::from_secs(30);

    fn served_type() -> ServedType {
        ServedType {
            item_type: "t".into(),
            timeout: None,
            retry: RetryPolicy::default(),
            concurrency: None,
            rate: None,
            on_dead: OnDead::Block,
            streak: 1,
            breaker: Some(BreakerPolicy { failures: 3, pause: PAUSE }),
        }
    }

    fn done() -> Settlement {
        Settlement::Done { result: None, writes: HostWrites::default() }
    }

    fn failed(class: FailureClass) -> Settlement {
        Settlement::Retry { failure: Failure::new(class, "c", "m"), delay: Duration::ZERO }
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_that_succeeds_between_them_does_not() {
        let (breakers, served_type, now) = (Breakers::default(), served_type(), Instant::now());
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
        let (breakers, served_type, now) = (Breakers::default(), served_type(), Instant::now());
        for _ in 0..9 {
            assert!(!breakers.attempt_settled(&served_type, &failed(FailureClass::Permanent), now));
        }
        assert_eq!(breakers.claim_limit(&served_type, now), u32::MAX);
    }

    #[test]
    fn a_deferral_neither_counts_nor_resets_the_count() {
        let (breakers, served_type, now) = (Breakers::default(), served_type(), Instant::now());
        let failure = Failure::new(FailureClass::Deferred, "c", "m");
        let deferred = Settlement::GiveBack { failure, delay: Duration::ZERO };
        for settlement in [failed(FailureClass::Retryable), failed(FailureClass::Retryable), deferred] {
            assert!(!breakers.attempt_settled(&served_type, &settlement, now));
        }
        assert!(breakers.attempt_settled(&served_type, &failed(FailureClass::Retryable), now));
    }

    #[test]
    fn after_the_pause_one_item_is_tried_and_decides() {
        let (breakers, served_type, start) = (Breakers::default(), served_type(), Instant::now());
        for _ in 0..3 {
            breakers.attempt_settled(&served_type, &failed(FailureClass::Retryable), start);
        }
        assert_eq!(breakers.claim_limit(&served_type, start + PAUSE - Duration::from_millis(1)), 0);
        let later = start + PAUSE;
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
        assert_eq!(breakers.claim_limit(&served_type, later + PAUSE), u32::MAX);
    }

    #[test]
    fn a_type_without_a_breaker_is_always_claimed() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        let served_type = ServedType { breaker: None, ..served_type() };
        for _ in 0..99 {
            assert!(!breakers.attempt_settled(&served_type, &failed(FailureClass::Retryable), now));
        }
        assert_eq!(breakers.claim_limit(&served_type, now), u32::MAX);
    }
}
