//! Remembers whether the database was available at the last call, and logs each change of that once. Remembers also
//! that the server's disk was full, which calls that need no room do not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::PgError;

/// How long the store reports a full disk after a write found no room. Then it invites writes again, because only a
/// write can show that there is room.
const DISK_FULL_PERIOD: Duration = Duration::from_secs(10);

/// Whether the database answered the last call, and when its disk was full.
#[derive(Default)]
pub(crate) struct Health {
    is_unavailable: AtomicBool,
    full_at: Mutex<Option<Instant>>,
}

impl Health {
    /// Whether the last call found the database unavailable.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.is_unavailable.load(Ordering::Relaxed)
    }

    /// Records that a call was answered.
    pub(crate) fn record_success(&self) {
        if self.is_unavailable.swap(false, Ordering::Relaxed) {
            tracing::info!("the database answers again");
        }
    }

    /// Whether a write found no room less than [`DISK_FULL_PERIOD`] ago.
    pub(crate) fn is_full(&self) -> bool {
        let full_at = *self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        full_at.is_some_and(|at| at.elapsed() < DISK_FULL_PERIOD)
    }

    /// Records that a call failed.
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
