//! What the host itself saw of an attempt, whatever the guest says: denials, and requests that went out.
//!
//! Shared between the store of an attempt and the tasks of its requests, which outlive neither.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::outgoing::recorder::Recorder;

/// The host's record of one attempt.
#[derive(Debug, Default)]
pub(crate) struct AttemptObservations {
    denial: OnceLock<Denial>,
    in_flight: AtomicU32,
    maybe_executed: AtomicU32,
    /// What was sent and answered.
    pub(crate) recorder: Recorder,
}

/// Something that the host did not let the guest do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// What it was.
    pub what: String,
    /// The manifest lines that would allow it, if any would.
    pub lines: Option<String>,
}

impl AttemptObservations {
    /// Records a denial; only the first is kept.
    pub(crate) fn deny(&self, what: String, lines: Option<String>) {
        // A later denial is most often the same call again.
        drop(self.denial.set(Denial { what, lines }));
    }

    /// The first denial, if there was one.
    pub(crate) fn denial(&self) -> Option<&Denial> {
        self.denial.get()
    }

    /// Whether a request has not been answered: it runs still, or was dropped unanswered.
    pub(crate) fn has_unanswered_requests(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Whether a request that may have had an effect went out.
    pub(crate) fn maybe_executed(&self) -> bool {
        self.maybe_executed.load(Ordering::Acquire) > 0
    }

    /// Counts a request as in flight until the value that is returned is finished.
    pub(crate) fn request_started(self: &Arc<Self>, is_safe: bool) -> InFlightRequest {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        let side_effects = u32::from(!is_safe);
        self.maybe_executed.fetch_add(side_effects, Ordering::AcqRel);
        InFlightRequest { observations: Arc::clone(self), side_effects }
    }
}

/// A request on its way. Dropped without being finished, it counts as unanswered for good.
#[derive(Debug)]
pub(crate) struct InFlightRequest {
    observations: Arc<AttemptObservations>,
    side_effects: u32,
}

impl InFlightRequest {
    /// The request has been answered, or has failed.
    pub(crate) fn finish(self) {
        self.observations.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// The request never left the host.
    pub(crate) fn cancel(self) {
        self.observations.maybe_executed.fetch_sub(self.side_effects, Ordering::AcqRel);
        self.finish();
    }
}
