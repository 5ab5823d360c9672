//! What the host itself saw of an attempt, whatever the guest says: denials, and requests that went out.
//!
//! Shared between the store of an attempt and the tasks of its requests, which outlive neither.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::recorder::Recorder;

/// The host's record of one attempt.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    denial: OnceLock<Denial>,
    in_flight: AtomicU32,
    maybe_executed: AtomicU32,
    /// What was sent and answered.
    pub(super) recorder: Recorder,
}

/// Something that the host did not let the guest do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    /// What it was.
    pub what: String,
    /// The manifest lines that would allow it, if any would.
    pub lines: Option<String>,
}

impl Evidence {
    /// Records a denial; the first is the one that is told.
    pub(super) fn deny(&self, what: String, lines: Option<String>) {
        // A later denial is most often the same call again.
        drop(self.denial.set(Denial { what, lines }));
    }

    /// The first denial, if there was one.
    pub(super) fn denial(&self) -> Option<&Denial> {
        self.denial.get()
    }

    /// Whether a request has not been answered: it runs still, or was dropped unanswered.
    pub(super) fn has_unanswered_requests(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Whether a request that may have had an effect went out.
    pub(super) fn maybe_executed(&self) -> bool {
        self.maybe_executed.load(Ordering::Acquire) > 0
    }

    /// Counts a request as on its way, until the flight that is returned has landed.
    pub(super) fn take_off(self: &Arc<Self>, is_safe: bool) -> Flight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        let effects = u32::from(!is_safe);
        self.maybe_executed.fetch_add(effects, Ordering::AcqRel);
        Flight { evidence: Arc::clone(self), effects }
    }
}

/// A request on its way. Dropped without landing, it counts as unanswered for good.
#[derive(Debug)]
pub(super) struct Flight {
    evidence: Arc<Evidence>,
    effects: u32,
}

impl Flight {
    /// The request has been answered, or has failed.
    pub(super) fn land(self) {
        self.evidence.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// The request never left the host.
    pub(super) fn call_off(self) {
        self.evidence.maybe_executed.fetch_sub(self.effects, Ordering::AcqRel);
        self.land();
    }
}
