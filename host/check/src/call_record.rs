//! What is known of the calls of a run: where each one is, what it may do, and how it was answered.
//!
//! Pure data, without the bodies of requests and responses.

use outbox_core::Failure;
use outbox_runtime::simulation::{GuestCall, OutgoingRequest, WorldResponse};

use crate::lookup_probe::LookupValue;

/// What a call may do, as far as it matters for schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// A request that may have an effect.
    Effect,
    /// A request that has no effect.
    Lookup,
    /// A call that reads or writes state, or emits a follow-up.
    Stored,
}

/// A call of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallRecord {
    pub(crate) call: GuestCall,
    pub(crate) kind: CallKind,
    /// The status of the response; `None` without a response, and for calls that are no requests.
    pub(crate) status: Option<u16>,
    /// What it says that may be something else the next time; `None` when the case says how it changes.
    pub(crate) value: Option<LookupValue>,
}

/// What an attempt did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PlayedAttempt {
    /// Its calls, in order.
    pub(crate) calls: Vec<CallRecord>,
    /// How it failed, if its handler returned a failure or its deadline passed.
    pub(crate) failure: Option<Failure>,
}

impl CallRecord {
    /// A call that begins.
    pub(crate) fn new(call: GuestCall) -> Self {
        let kind = match &call {
            GuestCall::Request(request) => Self::kind_of(request),
            _ => CallKind::Stored,
        };
        Self { call, kind, status: None, value: None }
    }

    /// What a request may do by its method alone.
    pub(crate) fn kind_of(request: &OutgoingRequest) -> CallKind {
        if request.is_safe() { CallKind::Lookup } else { CallKind::Effect }
    }

    /// The idempotency key of a request that may have an effect.
    pub(crate) fn key(&self) -> Option<&str> {
        match &self.call {
            GuestCall::Request(request) => request.key.as_deref(),
            _ => None,
        }
    }

    /// Whether it is a request without a final answer: the receiver may answer otherwise the next time.
    pub(crate) fn has_passing_trouble(&self) -> bool {
        matches!(self.call, GuestCall::Request(_))
            && self.status.is_none_or(|status| matches!(status, 408 | 409 | 425 | 429 | 500..))
    }

    /// Whether it is a request that was answered with a status of success.
    pub(crate) fn is_answered_well(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// The status of a response, if there is one.
pub(crate) fn response_status(response: &WorldResponse) -> Option<u16> {
    match response {
        WorldResponse::Response { status, .. } => Some(*status),
        _ => None,
    }
}
