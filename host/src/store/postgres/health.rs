//! Says once that the database is gone and once that it is back, however many calls notice; and that it has no
//! room, which calls that need none do not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::fault::Fault;

/// Where a write found no room, others are not invited for so long. Then they are: nothing else would tell
/// that there is room again.
const FULL: Duration = Duration::from_secs(10);

/// Whether the database answered last time, and when it had no room.
#[derive(Default)]
pub(super) struct Health {
    is_gone: AtomicBool,
    full_at: Mutex<Option<Instant>>,
}

impl Health {
    /// Whether the last call found the database out of order.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    /// A call was answered.
    pub(super) fn answered(&self) {
        if self.is_gone.swap(false, Ordering::Relaxed) {
            tracing::info!("the database answers again");
        }
    }

    /// Whether a write found no room a moment ago.
    pub(super) fn is_full(&self) -> bool {
        let full_at = *self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        full_at.is_some_and(|at| at.elapsed() < FULL)
    }

    /// A call failed.
    pub(super) fn failed(&self, tried: &'static str, fault: &Fault) {
        if fault.is_lack_of_room() {
            let was_full = self.is_full();
            *self.full_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            if !was_full {
                tracing::error!(tried, error = fault.words(), "the server's disk is full; writes are refused");
            }
        } else if fault.is_outage() && !self.is_gone.swap(true, Ordering::Relaxed) {
            tracing::error!(tried, error = fault.words(), "the database does not serve; trying again");
        } else {
            tracing::debug!(tried, error = fault.words(), "a call failed");
        }
    }
}
