//! What the worker does while its own host fails attempts: it claims slowly, and it tells a fault of the host from one
//! that follows an item around.
//!
//! Pure but for its memory; time is passed in. It does not know what the host lacks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;

use outbox_core::{Failure, FailureClass, HOST_RESOURCES, HOST_STATE, Settlement};
use outbox_item::{Item, ItemId};

/// The pause between two claims after the first fault. Each further one doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause: a host whose fault has passed goes on soon.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// The faults of this host.
#[derive(Debug, Default)]
pub(crate) struct HostFaults(Mutex<FaultState>);

#[derive(Debug, Default)]
struct FaultState {
    /// How long to pause between claims, once attempts fail by what the whole process lacks.
    pause: Option<Duration>,
    /// Since when the pause is so long.
    since: Option<Instant>,
    /// When the next item may be claimed.
    until: Option<Instant>,
    /// Of each type, how its last attempts at two different items ended, the later one first. Types are left out when
    /// none of these attempts failed by a fault of the host.
    last: HashMap<String, Vec<(ItemId, LastEnd)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastEnd {
    HostFault,
    Other,
}

impl HostFaults {
    /// The most items that may be claimed at `now`, and how long to wait if there are none.
    pub(crate) fn claim_limit(&self, now: Instant) -> Result<u32, Duration> {
        let state = self.lock();
        match state.until {
            _ if state.pause.is_none() => Ok(u32::MAX),
            Some(until) if now < until => Err(until - now),
            _ => Ok(1),
        }
    }

    /// Records that an item was claimed at `now`.
    pub(crate) fn item_claimed(&self, now: Instant) {
        let mut state = self.lock();
        state.until = state.pause.map(|pause| now + pause);
    }

    /// Whether the last attempt at another item of the type failed by a fault of the host too.
    pub(crate) fn others_fail_too(&self, item: &Item) -> bool {
        let state = self.lock();
        let other = state.last.get(&item.item_type).and_then(|last| last.iter().find(|(id, _)| *id != item.id));
        other.is_some_and(|(_, end)| *end == LastEnd::HostFault)
    }

    /// Records how an attempt was settled at `now`.
    pub(crate) fn attempt_settled(&self, item: &Item, settlement: &Settlement, now: Instant) {
        let end = match settlement {
            Settlement::Release => return,
            settlement if settlement.failure().is_some_and(is_host_fault) => LastEnd::HostFault,
            _ => LastEnd::Other,
        };
        let mut state = self.lock();
        if settlement.failure().is_some_and(concerns_the_process) {
            state.pause_from(now);
        } else {
            (state.pause, state.since, state.until) = (None, None, None);
        }
        state.note_end(item, end);
    }

    fn lock(&self) -> MutexGuard<'_, FaultState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultState {
    fn note_end(&mut self, item: &Item, end: LastEnd) {
        if end == LastEnd::HostFault {
            self.last.entry_ref(item.item_type.as_str()).or_default();
        }
        let Some(last) = self.last.get_mut(item.item_type.as_str()) else { return };
        last.retain(|(id, _)| *id != item.id);
        last.insert(0, (item.id, end));
        last.truncate(2);
        if last.iter().all(|(_, end)| *end == LastEnd::Other) {
            self.last.remove(item.item_type.as_str());
        }
    }

    /// Attempts that were claimed together fail together: only a fault after the pause makes the next one longer.
    fn pause_from(&mut self, now: Instant) {
        if self.since.zip(self.pause).is_some_and(|(since, pause)| now < since + pause) {
            return;
        }
        let pause = self.pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX));
        if self.pause.is_none() {
            tracing::error!(
                "attempts fail because this host lacks something: claiming slowly until one ends otherwise"
            );
        }
        (self.pause, self.since, self.until) = (Some(pause), Some(now), Some(now + pause));
    }
}

fn is_host_fault(failure: &Failure) -> bool {
    failure.class == FailureClass::Host
}

/// Whether the fault would meet every attempt of this process. A component without an instance is one plugin's.
fn concerns_the_process(failure: &Failure) -> bool {
    is_host_fault(failure) && [HOST_RESOURCES, HOST_STATE].contains(&failure.code.as_str())
}

#[cfg(test)]
mod tests {
    use outbox_core::HostWrites;
    use outbox_item::{Millis, NewItem};

    use super::*;

    fn item(id: i64) -> Item {
        NewItem::new("t", "k", "").into_item(ItemId::new(id), Millis::default())
    }

    fn given_back(class: FailureClass, code: &str) -> Settlement {
        Settlement::GiveBack { failure: Failure::new(class, code, "m"), delay: Duration::ZERO }
    }

    fn done() -> Settlement {
        Settlement::Done { result: None, writes: HostWrites::default() }
    }

    #[test]
    fn a_fault_of_the_host_slows_claims_down_until_an_attempt_ends_otherwise() {
        let (faults, start) = (HostFaults::default(), Instant::now());
        let fault = given_back(FailureClass::Host, HOST_RESOURCES);
        assert_eq!(faults.claim_limit(start), Ok(u32::MAX));
        for id in 1..=64 {
            faults.attempt_settled(&item(id), &fault, start);
        }
        assert_eq!(faults.claim_limit(start), Err(PAUSE_MIN), "attempts that fail together count once");
        let second = start + PAUSE_MIN;
        assert_eq!(faults.claim_limit(second), Ok(1));
        faults.item_claimed(second);
        assert_eq!(faults.claim_limit(second), Err(PAUSE_MIN), "one item at a time");
        faults.attempt_settled(&item(1), &fault, second);
        assert_eq!(faults.claim_limit(second), Err(2 * PAUSE_MIN), "also when it fails at once");
        faults.attempt_settled(&item(1), &Settlement::Release, second);
        assert!(faults.claim_limit(second).is_err(), "a release says nothing");
        faults.attempt_settled(&item(1), &done(), second);
        assert_eq!(faults.claim_limit(second), Ok(u32::MAX));
    }

    #[test]
    fn the_pause_has_an_end_and_a_plugin_without_an_instance_slows_nothing() {
        let (faults, mut now) = (HostFaults::default(), Instant::now());
        for _ in 0..20 {
            faults.attempt_settled(&item(1), &given_back(FailureClass::Host, HOST_STATE), now);
            now += PAUSE_MAX;
        }
        assert_eq!(faults.claim_limit(now - PAUSE_MAX), Err(PAUSE_MAX));
        let faults = HostFaults::default();
        faults.attempt_settled(&item(1), &given_back(FailureClass::Host, "host.instance"), now);
        assert_eq!(faults.claim_limit(now), Ok(u32::MAX));
    }

    #[test]
    fn others_fail_too_if_the_last_attempt_at_another_item_did() {
        let (faults, now) = (HostFaults::default(), Instant::now());
        let fault = given_back(FailureClass::Host, HOST_RESOURCES);
        faults.attempt_settled(&item(1), &fault, now);
        faults.attempt_settled(&item(1), &fault, now);
        assert!(!faults.others_fail_too(&item(1)), "it is alone");
        assert!(faults.others_fail_too(&item(2)));
        faults.attempt_settled(&item(2), &fault, now);
        faults.attempt_settled(&item(1), &fault, now);
        assert!(faults.others_fail_too(&item(1)) && faults.others_fail_too(&item(2)));
        faults.attempt_settled(&item(2), &done(), now);
        assert!(!faults.others_fail_too(&item(1)));
    }
}
