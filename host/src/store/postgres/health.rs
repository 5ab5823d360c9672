//! Says once that the database is gone and once that it is back, however many calls notice.

use std::sync::atomic::{AtomicBool, Ordering};

use super::fault::Fault;

/// Whether the database answered last time.
#[derive(Default)]
pub(super) struct Health {
    is_gone: AtomicBool,
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

    /// A call failed.
    pub(super) fn failed(&self, tried: &'static str, fault: &Fault) {
        if fault.is_outage() && !self.is_gone.swap(true, Ordering::Relaxed) {
            tracing::error!(tried, error = fault.words(), "the database does not serve; trying again");
        } else {
            tracing::debug!(tried, error = fault.words(), "a call failed");
        }
    }
}
