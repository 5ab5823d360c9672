//! The circuit breakers of a process: a type whose attempts keep failing is not claimed for a while, then
//! one item is tried.
//!
//! A breaker only ever stops *claiming*: what is in flight goes on, and what is not claimed stays PENDING,
//! so nothing can be lost by it. `now` is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::handler::Service;
use crate::item::{Class, Failure};
use crate::retry::BreakerPolicy;
use crate::store::Settlement;

/// The breakers of all types that have one.
#[derive(Default)]
pub(super) struct Breakers(Mutex<HashMap<String, State>>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// So many failures in a row.
    Closed(u32),
    /// Nothing is claimed until then.
    Open(Instant),
    /// One item is being tried.
    Trying,
}

/// What an attempt says about whoever its handler calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Good,
    Bad,
    None,
}

impl Breakers {
    /// How many items of the type may be claimed at `now`.
    pub(super) fn limit(&self, service: &Service, now: Instant) -> u32 {
        if service.breaker.is_none() {
            return u32::MAX;
        }
        match self.lock().get(&service.item_type) {
            None | Some(State::Closed(_)) => u32::MAX,
            Some(State::Open(until)) if *until <= now => 1,
            Some(State::Open(_) | State::Trying) => 0,
        }
    }

    /// Notes that an item of the type was claimed.
    pub(super) fn claimed(&self, service: &Service) {
        if let Some(state @ State::Open(_)) = self.lock().get_mut(&service.item_type) {
            *state = State::Trying;
        }
    }

    /// Notes how an attempt was settled. Returns whether that opened the breaker.
    pub(super) fn settled(&self, service: &Service, settlement: &Settlement, now: Instant) -> bool {
        let Some(policy) = service.breaker else { return false };
        let mut states = self.lock();
        let state = states.entry(service.item_type.clone()).or_insert(State::Closed(0));
        let next = state.after(sign(settlement), policy, now);
        let opened = matches!(next, State::Open(_)) && matches!(state, State::Closed(_));
        *state = next;
        opened
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn after(self, sign: Sign, policy: BreakerPolicy, now: Instant) -> Self {
        match (self, sign) {
            (_, Sign::Good) => Self::Closed(0),
            (Self::Closed(failures), Sign::Bad) if failures + 1 < policy.failures => Self::Closed(failures + 1),
            (Self::Closed(_) | Self::Trying, Sign::Bad) => Self::Open(now + policy.pause),
            // The item that was tried told nothing: try another.
            (Self::Trying, Sign::None) => Self::Open(now),
            (state, _) => state,
        }
    }
}

/// A handler that rejects or defers an item has reached whom it calls; one that was given back tells nothing.
fn sign(settlement: &Settlement) -> Sign {
    match settlement {
        Settlement::Done { .. } => Sign::Good,
        Settlement::Retry { failure, .. } | Settlement::Dead { failure, .. } => of_failure(failure),
        Settlement::GiveBack { .. } | Settlement::Release => Sign::None,
    }
}

fn of_failure(failure: &Failure) -> Sign {
    if failure.class == Class::Permanent { Sign::Good } else { Sign::Bad }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::item::{HostWrites, OnDead};
    use crate::retry::RetryPolicy;

    const PAUSE: Duration = Duration::from_secs(30);

    fn service() -> Service {
        Service {
            item_type: "t".into(),
            timeout: None,
            retry: RetryPolicy::default(),
            concurrency: None,
            rate: None,
            on_dead: OnDead::Block,
            breaker: Some(BreakerPolicy { failures: 3, pause: PAUSE }),
        }
    }

    fn done() -> Settlement {
        Settlement::Done { result: None, writes: HostWrites::default() }
    }

    fn failed(class: Class) -> Settlement {
        Settlement::Retry { failure: Failure::new(class, "c", "m"), delay: Duration::ZERO }
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_that_succeeds_between_them_does_not() {
        let (breakers, service, now) = (Breakers::default(), service(), Instant::now());
        for settlement in [failed(Class::Retryable), failed(Class::Timeout), done(), failed(Class::Trap)] {
            assert!(!breakers.settled(&service, &settlement, now));
        }
        assert!(!breakers.settled(&service, &failed(Class::Retryable), now));
        assert_eq!(breakers.limit(&service, now), u32::MAX);
        assert!(breakers.settled(&service, &failed(Class::Retryable), now));
        assert_eq!(breakers.limit(&service, now), 0);
    }

    #[test]
    fn an_item_that_is_rejected_says_nothing_bad_of_the_receiver() {
        let (breakers, service, now) = (Breakers::default(), service(), Instant::now());
        for _ in 0..9 {
            assert!(!breakers.settled(&service, &failed(Class::Permanent), now));
        }
        assert_eq!(breakers.limit(&service, now), u32::MAX);
    }

    #[test]
    fn after_the_pause_one_item_is_tried_and_decides() {
        let (breakers, service, start) = (Breakers::default(), service(), Instant::now());
        for _ in 0..3 {
            breakers.settled(&service, &failed(Class::Retryable), start);
        }
        assert_eq!(breakers.limit(&service, start + PAUSE - Duration::from_millis(1)), 0);
        let later = start + PAUSE;
        assert_eq!(breakers.limit(&service, later), 1);
        breakers.claimed(&service);
        assert_eq!(breakers.limit(&service, later), 0, "one is being tried");
        assert!(!breakers.settled(&service, &failed(Class::Retryable), later), "it was open already");
        assert_eq!(breakers.limit(&service, later), 0);
        assert_eq!(breakers.limit(&service, later + PAUSE), 1);
        breakers.claimed(&service);
        breakers.settled(&service, &Settlement::Release, later + PAUSE);
        assert_eq!(breakers.limit(&service, later + PAUSE), 1, "what was given back told nothing");
        breakers.claimed(&service);
        breakers.settled(&service, &done(), later + PAUSE);
        assert_eq!(breakers.limit(&service, later + PAUSE), u32::MAX);
    }

    #[test]
    fn a_type_without_a_breaker_is_always_claimed() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        let service = Service { breaker: None, ..service() };
        for _ in 0..99 {
            assert!(!breakers.settled(&service, &failed(Class::Retryable), now));
        }
        assert_eq!(breakers.limit(&service, now), u32::MAX);
    }
}
