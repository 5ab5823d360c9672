//! When the worker may take suspects, and when it claims nothing because one of them must be alone.
//!
//! Pure but for a counter of what is in flight. [`CrashBudget`] says which suspects must be alone, and the store finds
//! them. Time is passed in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use outbox_core::{CrashBudget, SuspectRoom};
use outbox_store::{Claim, ClaimBatch};

/// How long a busy worker leaves a suspect that must be alone to other processes, at most. Each draws its own part, so
/// that as a rule one of them stops claiming and the others go on.
pub(crate) const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// What the worker does about suspects that must be alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SuspectPhase {
    /// It claims as usual.
    Open,
    /// One waits. Until then the worker leaves it to other processes, and claims as usual.
    Patient {
        /// When the patience ends.
        until: Instant,
    },
    /// The worker claims nothing until it has nothing in flight.
    Draining(ClaimStop),
    /// One is in flight, and the worker claims nothing.
    Alone(ClaimStop),
    /// The worker claims as usual for as long as it claimed nothing, so that suspects do not stop the others for ever.
    Resting {
        /// When it takes the next one.
        until: Instant,
    },
}

/// The worker claims nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClaimStop {
    /// When it stopped claiming.
    since: Instant,
    /// When it claims again although something is in flight: the host cannot stop that attempt.
    until: Instant,
}

impl ClaimStop {
    fn resting_from(self, now: Instant) -> SuspectPhase {
        SuspectPhase::Resting { until: now + (now - self.since) }
    }
}

/// The suspects of a worker.
#[derive(Debug)]
pub(crate) struct Suspects {
    phase: SuspectPhase,
    /// The longest time from a claim to its settlement.
    longest: Duration,
    in_flight: Arc<AtomicUsize>,
}

/// Counts a suspect as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct SuspectInFlight(Arc<AtomicUsize>);

impl Drop for SuspectInFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Suspects {
    pub(crate) fn new() -> Self {
        Self { phase: SuspectPhase::Open, longest: Duration::MAX, in_flight: Arc::default() }
    }

    /// Whether a suspect is in flight: the next ones wait for its end.
    pub(crate) fn are_in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Which suspects the worker may claim at `now`; `None` while it claims nothing at all. `is_idle` says that it has
    /// nothing in flight, and `longest` is the longest time from a claim to its settlement.
    pub(crate) fn room(&mut self, is_idle: bool, longest: Duration, now: Instant) -> Option<SuspectRoom> {
        self.longest = longest;
        match self.phase {
            SuspectPhase::Alone(stop) | SuspectPhase::Draining(stop) if !is_idle && now < stop.until => return None,
            SuspectPhase::Draining(stop) if !is_idle => {
                tracing::error!("the worker claims again: an attempt in flight has outlived its time and does not end");
                self.phase = stop.resting_from(now);
            }
            SuspectPhase::Alone(stop) => self.phase = stop.resting_from(now),
            SuspectPhase::Patient { until } if until <= now && !is_idle => {
                tracing::info!(
                    "claiming nothing until no attempt is in flight: an item with several losses runs alone"
                );
                self.phase = SuspectPhase::Draining(ClaimStop { since: now, until: now + longest });
                return None;
            }
            SuspectPhase::Resting { until } if until <= now => self.phase = SuspectPhase::Open,
            _ => {}
        }
        let is_resting = matches!(self.phase, SuspectPhase::Resting { .. });
        Some(match (self.are_in_flight(), is_idle && !is_resting) {
            (true, _) => SuspectRoom::None,
            (false, true) => SuspectRoom::Idle,
            (false, false) => SuspectRoom::Shared,
        })
    }

    /// Records what a claim with this room brought at `now`. `patience` is this worker's part of [`PATIENCE_MAX`].
    pub(crate) fn claimed(&mut self, room: SuspectRoom, batch: &ClaimBatch, now: Instant, patience: Duration) {
        if room == SuspectRoom::None {
            return;
        }
        let stopped = match self.phase {
            SuspectPhase::Draining(stop) => Some(stop),
            _ => None,
        };
        let is_alone = batch.claims.iter().any(|claim| CrashBudget::is_alone(claim.item.losses));
        self.phase = match (self.phase, stopped) {
            _ if is_alone => {
                let since = stopped.map_or(now, |stop| stop.since);
                SuspectPhase::Alone(ClaimStop { since, until: now + self.longest })
            }
            (_, Some(stop)) => stop.resting_from(now),
            (resting @ SuspectPhase::Resting { .. }, None) => resting,
            (patient @ SuspectPhase::Patient { .. }, None) if batch.lone_suspect_waits => patient,
            _ if batch.lone_suspect_waits => SuspectPhase::Patient { until: now + patience },
            _ => SuspectPhase::Open,
        };
    }

    /// Counts the item as in flight, if it is a suspect.
    pub(crate) fn begin(&self, claim: &Claim) -> Option<SuspectInFlight> {
        (claim.item.losses > 0).then(|| {
            self.in_flight.fetch_add(1, Ordering::AcqRel);
            SuspectInFlight(Arc::clone(&self.in_flight))
        })
    }
}

#[cfg(test)]
mod tests {
    use outbox_item::{Item, ItemId, Millis, NewItem};
    use outbox_store::ClaimToken;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_mins(1);

    fn suspect(losses: u32) -> Claim {
        let item = NewItem::new("t", "k", "").into_item(ItemId::new(1), Millis::default());
        Claim { item: Item { losses, ..item }, token: ClaimToken::random() }
    }

    fn batch(claims: Vec<Claim>) -> ClaimBatch {
        ClaimBatch { claims, ..ClaimBatch::default() }
    }

    fn waiting() -> ClaimBatch {
        ClaimBatch { lone_suspect_waits: true, ..ClaimBatch::default() }
    }

    #[test]
    fn the_next_suspects_wait_for_those_in_flight_and_other_items_do_not() {
        let (mut suspects, now) = (Suspects::new(), Instant::now());
        assert!(suspects.begin(&suspect(0)).is_none());
        assert_eq!(suspects.room(false, LONGEST, now), Some(SuspectRoom::Shared));
        let in_flight = suspects.begin(&suspect(1));
        suspects.claimed(SuspectRoom::Shared, &batch(vec![suspect(1)]), now, SECOND);
        assert_eq!(suspects.room(false, LONGEST, now), Some(SuspectRoom::None));
        drop(in_flight);
        assert_eq!(suspects.room(true, LONGEST, now), Some(SuspectRoom::Idle));
    }

    #[test]
    fn a_busy_worker_is_patient_then_drains_then_takes_it_alone_then_rests_for_as_long() {
        let (mut suspects, start) = (Suspects::new(), Instant::now());
        suspects.claimed(SuspectRoom::Shared, &waiting(), start, SECOND);
        assert_eq!(suspects.room(false, LONGEST, start), Some(SuspectRoom::Shared), "another process may take it");
        suspects.claimed(SuspectRoom::Shared, &waiting(), start + SECOND / 2, SECOND);
        assert_eq!(suspects.room(false, LONGEST, start + SECOND), None, "the patience counts from the first look");
        assert_eq!(suspects.room(false, LONGEST, start + 2 * SECOND), None);
        assert_eq!(suspects.room(true, LONGEST, start + 3 * SECOND), Some(SuspectRoom::Idle));
        let in_flight = suspects.begin(&suspect(3));
        suspects.claimed(SuspectRoom::Idle, &batch(vec![suspect(3)]), start + 3 * SECOND, SECOND);
        assert_eq!(suspects.room(false, LONGEST, start + 4 * SECOND), None, "it is alone");
        drop(in_flight);
        let end = start + 5 * SECOND;
        assert_eq!(suspects.room(true, LONGEST, end), Some(SuspectRoom::Shared), "the others had to wait");
        suspects.claimed(SuspectRoom::Shared, &waiting(), end, SECOND);
        assert_eq!(suspects.room(false, LONGEST, end + 3 * SECOND), Some(SuspectRoom::Shared));
        assert_eq!(
            suspects.room(true, LONGEST, end + 4 * SECOND),
            Some(SuspectRoom::Idle),
            "four seconds without a claim"
        );
    }

    #[test]
    fn an_attempt_that_never_ends_does_not_stop_the_worker_for_ever() {
        let (mut suspects, start) = (Suspects::new(), Instant::now());
        suspects.claimed(SuspectRoom::Shared, &waiting(), start, Duration::ZERO);
        assert_eq!(suspects.room(false, LONGEST, start), None);
        assert_eq!(suspects.room(false, LONGEST, start + LONGEST), Some(SuspectRoom::Shared), "it gives up the drain");
        assert_eq!(suspects.room(true, LONGEST, start + 2 * LONGEST), Some(SuspectRoom::Idle));
        let alone = start + 2 * LONGEST;
        suspects.claimed(SuspectRoom::Idle, &batch(vec![suspect(3)]), alone, SECOND);
        assert_eq!(suspects.room(false, LONGEST, alone + LONGEST - SECOND), None);
        assert_eq!(suspects.room(false, LONGEST, alone + LONGEST), Some(SuspectRoom::Shared));
    }

    #[test]
    fn a_worker_goes_on_when_another_process_has_taken_the_suspect() {
        let (mut suspects, start) = (Suspects::new(), Instant::now());
        suspects.claimed(SuspectRoom::Shared, &waiting(), start, SECOND);
        suspects.claimed(SuspectRoom::Shared, &batch(vec![suspect(0)]), start, SECOND);
        assert_eq!(suspects.room(false, LONGEST, start + 2 * SECOND), Some(SuspectRoom::Shared));
        suspects.claimed(SuspectRoom::Shared, &waiting(), start, Duration::ZERO);
        assert_eq!(suspects.room(false, LONGEST, start), None);
        assert_eq!(suspects.room(true, LONGEST, start), Some(SuspectRoom::Idle));
        let idle = start + 2 * SECOND;
        suspects.claimed(SuspectRoom::Idle, &batch(vec![suspect(0)]), idle, SECOND);
        suspects.claimed(SuspectRoom::Shared, &waiting(), idle, Duration::ZERO);
        assert_eq!(suspects.room(false, LONGEST, idle), Some(SuspectRoom::Shared), "it rests as long as it has waited");
        assert_eq!(suspects.room(true, LONGEST, idle + 2 * SECOND), Some(SuspectRoom::Idle));
    }
}
