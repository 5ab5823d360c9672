//! Failed attempts to be known, counted for each address.
//!
//! An address has a number of attempts, which come back with time. The time is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failed attempts in a row that an address has.
const ATTEMPTS: u32 = 10;

/// After which time an address has one more attempt.
const REFILL: Duration = Duration::from_secs(6);

/// Addresses that are counted at a time. A further one takes the place of the one whose count ends first.
const ADDRESSES_MAX: usize = 10_000;

/// The failed attempts of the last minute.
#[derive(Default)]
pub(crate) struct Throttle {
    /// When each address has all of its attempts again.
    full_at: Mutex<BTreeMap<IpAddr, Instant>>,
}

impl Throttle {
    /// How long the address has to wait before another attempt; `None` when it need not wait.
    pub(crate) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let full_at = *self.counts().get(&address)?;
        let wait = (full_at + REFILL).saturating_duration_since(now).saturating_sub(REFILL * ATTEMPTS);
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts a failed attempt.
    pub(crate) fn failed(&self, address: IpAddr, now: Instant) {
        let mut counts = self.counts();
        if !counts.contains_key(&address) && counts.len() >= ADDRESSES_MAX {
            make_room(&mut counts, now);
        }
        let full_at = counts.entry(address).or_insert(now);
        *full_at = ((*full_at).max(now) + REFILL).min(now + REFILL * ATTEMPTS);
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Instant>> {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the addresses that have all of their attempts, or else the one that has them first.
fn make_room(counts: &mut BTreeMap<IpAddr, Instant>, now: Instant) {
    counts.retain(|_, full_at| *full_at > now);
    let first = counts.iter().min_by_key(|(_, full_at)| **full_at).map(|(address, _)| *address);
    if let Some(first) = first.filter(|_| counts.len() >= ADDRESSES_MAX) {
        counts.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn an_address_has_ten_attempts_and_one_more_every_six_seconds() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for attempt in 0..ATTEMPTS {
            assert_eq!(throttle.wait(address(1), start), None, "attempt {attempt}");
            throttle.failed(address(1), start);
        }
        assert_eq!(throttle.wait(address(1), start), Some(REFILL));
        assert_eq!(throttle.wait(address(2), start), None, "another address");
        assert_eq!(throttle.wait(address(1), start + REFILL / 2), Some(REFILL / 2));
        assert_eq!(throttle.wait(address(1), start + REFILL), None);
        throttle.failed(address(1), start + REFILL);
        assert_eq!(throttle.wait(address(1), start + REFILL), Some(REFILL));
    }

    #[test]
    fn failures_do_not_add_up_beyond_a_minute() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        (0..1_000).for_each(|_| throttle.failed(address(1), start));
        assert_eq!(throttle.wait(address(1), start), Some(REFILL));
    }

    #[test]
    fn the_number_of_addresses_is_bounded_and_those_that_fail_most_stay() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        (0..ATTEMPTS).for_each(|_| throttle.failed(address(0), start));
        for number in 1..=u32::try_from(ADDRESSES_MAX).unwrap() + 5 {
            throttle.failed(address(number), start);
        }
        assert_eq!(throttle.counts().len(), ADDRESSES_MAX);
        assert!(throttle.wait(address(0), start).is_some());
        throttle.failed(address(u32::MAX), start + Duration::from_hours(1));
        assert_eq!(throttle.counts().len(), 1, "those that may try again are forgotten");
    }
}
