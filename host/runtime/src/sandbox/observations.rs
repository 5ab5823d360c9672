//! What the host observed of an attempt, independent of what the guest reports: denials and requests.
//!
//! The store of an attempt and the tasks of its requests share one record. It draws no conclusions.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::Method;
use tokio::time::Instant;

use outbox_core::{AttemptOrigins, Outcome, RequestEnd};

use crate::outgoing::recorder::Recorder;

/// Whether a request may have had an effect at its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SideEffects {
    /// No such request was sent.
    None,
    /// At least one was sent. If the attempt fails, its effect is unknown.
    Possible,
}

/// Whether a request can have an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// It only reads: GET, HEAD, OPTIONS.
    Safe,
    /// It may change something at the receiver.
    Effectful,
}

impl RequestKind {
    /// The kind of a request with this method.
    pub(crate) fn of(method: &Method) -> Self {
        if method.is_safe() { Self::Safe } else { Self::Effectful }
    }
}

/// The host's record of one attempt.
#[derive(Debug, Default)]
pub(crate) struct AttemptObservations {
    denial: OnceLock<Denial>,
    /// Of the request that ended last; a fault of the host stays.
    fault: Mutex<Option<NetworkFault>>,
    in_flight: AtomicU32,
    effectful_requests: AtomicU32,
    /// The breakers of the origins, if the attempt uses them.
    origins: Option<AttemptOrigins>,
    /// The requests and responses.
    pub(crate) recorder: Recorder,
}

/// Something that the host refused to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// What was refused, and why.
    pub what: String,
    /// The manifest lines that would allow it, if any would.
    pub lines: Option<String>,
}

/// Why a request got no answer, or not the whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkFault {
    /// The errors of the network in words.
    pub what: String,
    /// Whether this host lacks something, such as descriptors.
    pub is_hosts: bool,
}

impl AttemptObservations {
    /// The record of an attempt whose requests go through breakers, if there are any.
    pub(crate) fn with_breakers(origins: Option<AttemptOrigins>) -> Self {
        Self { origins, ..Self::default() }
    }

    /// Whether the breaker of the origin lets a request pass.
    pub(crate) fn may_send(&self, origin: &str) -> bool {
        self.origins.as_ref().is_none_or(|origins| origins.may_send(origin, Instant::now()))
    }

    /// Tells the breaker of the origin how a request ended.
    pub(crate) fn request_to(&self, origin: &str, end: RequestEnd) {
        if let Some(origins) = &self.origins {
            origins.ended(origin, end, Instant::now());
        }
    }

    /// The outcome of the attempt after its breakers have learnt of it.
    pub(crate) fn after_breakers(&self, outcome: Outcome) -> Outcome {
        match &self.origins {
            Some(origins) => origins.finish(outcome, Instant::now()),
            None => outcome,
        }
    }

    /// Records how a request ended: `None` if it was answered.
    pub(crate) fn request_ended(&self, fault: Option<NetworkFault>) {
        let mut last = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.as_ref().is_some_and(|last| last.is_hosts) {
            *last = fault;
        }
    }

    /// The fault of the request that ended last, or an earlier fault of the host.
    pub(crate) fn network_fault(&self) -> Option<NetworkFault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records a denial. Only the first is kept.
    pub(crate) fn deny(&self, what: String, lines: Option<String>) {
        // A later denial is most often a repetition of the same call.
        drop(self.denial.set(Denial { what, lines }));
    }

    /// The first denial, if there was one.
    pub(crate) fn denial(&self) -> Option<&Denial> {
        self.denial.get()
    }

    /// Whether a request has no response: it is in flight, or the guest dropped it.
    pub(crate) fn has_unanswered_requests(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Whether a request that may have had an effect was sent.
    pub(crate) fn side_effects(&self) -> SideEffects {
        if self.effectful_requests.load(Ordering::Acquire) > 0 { SideEffects::Possible } else { SideEffects::None }
    }

    /// Counts a request as in flight until the returned value is finished.
    pub(crate) fn request_started(self: &Arc<Self>, kind: RequestKind) -> InFlightRequest {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        let effectful = u32::from(kind == RequestKind::Effectful);
        self.effectful_requests.fetch_add(effectful, Ordering::AcqRel);
        InFlightRequest { observations: Arc::clone(self), effectful }
    }
}

/// A request on its way. If it is dropped without being finished, it counts as unanswered until the attempt ends.
#[derive(Debug)]
pub(crate) struct InFlightRequest {
    observations: Arc<AttemptObservations>,
    /// 1 if the request counts as effectful, else 0.
    effectful: u32,
}

impl InFlightRequest {
    /// The request got a response or failed.
    pub(crate) fn finish(self) {
        self.observations.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// The request never left the host.
    pub(crate) fn cancel(self) {
        self.observations.effectful_requests.fetch_sub(self.effectful, Ordering::AcqRel);
        self.finish();
    }
}
