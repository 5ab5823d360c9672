//! Says once that the database is gone and once that it is back, however many calls notice; and that it has no
//! room, which calls that need none do not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::PgError;

/// Where a write found no room, others are not invited for so long. Then they are: nothing else would tell
/// that there is room again.
const DISK_FULL_PERIOD: Duration = Duration::from_secs(10);

/// Whether the database answered last time, and when it had no room.
#[derive(Default)]
pub(crate) struct Health {
    is_unavailable: AtomicBool,
    full_at: Mutex<Option<Instant>>,
}

impl Health {
    /// Whether the last call found the database out of order.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.is_unavailable.load(Ordering::Relaxed)
    }

    /// A call was answered.
    pub(crate) fn record_success(&self) {
        if self.is_unavailable.swap(false, Ordering::Relaxed) {
            tracing::info!("the database answers again");
        }
    }

    /// Whether a write found no room a moment ago.
    pub(crate) fn is_full(&self) -> bool {
        let full_at = *self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        full_at.is_some_and(|at| at.elapsed() < DISK_FULL_PERIOD)
    }

    /// A call failed.
    pub(crate) fn record_failure(&self, tried: &'static str, err: &PgError) {
        if err.is_disk_full() {
            let was_full = self.is_full();
            *self.full_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            if !was_full {
                tracing::error!(tried, error = err.message(), "the server's disk is full; writes are refused");
            }
        } else if err.is_outage() && !self.is_unavailable.swap(true, Ordering::Relaxed) {
            tracing::error!(tried, error = err.message(), "the database does not serve; trying again");
        } else {
            tracing::debug!(tried, error = err.message(), "a call failed");
        }
    }
}
