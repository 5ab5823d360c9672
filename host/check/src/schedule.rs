//! What goes wrong in one run, as pure data.
//!
//! `schedule_id.rs` writes and reads the id of a schedule, and `schedule_story.rs` tells it to people.
//! `schedule_enumeration.rs` lists the schedules of a handler, and `scheduled_run.rs` plays one.

use crate::check_report::CallPosition;

/// A moment in an attempt at which its process can crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    /// Before the effect of the n-th call, from 1.
    Before(usize),
    /// After the effect of the n-th call, before the handler sees the response.
    After(usize),
    /// After the handler returned, before the commit.
    Return,
    /// After the commit.
    Commit,
}

/// What goes wrong with the response to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseFault {
    /// The receiver carries the request out and sends no response.
    NoResponse,
    /// The receiver carries the request out and responds with 500.
    ErrorAfterEffect,
    /// The receiver carries the request out, and the connection breaks before the response.
    Broken,
    /// The receiver does not carry the request out and responds with 500.
    Error,
    /// The receiver does not carry the request out and responds with 503.
    Unavailable,
    /// A gateway responds with 504, and the request has not reached the receiver.
    GatewayTimeout,
    /// The receiver responds to the request and to the next two like it with 429 and carries none of them out.
    Throttled,
    /// The receiver refuses the connection.
    Refused,
    /// The request gets lost: there is no response, and the receiver does not carry it out.
    Vanished,
    /// The receiver says in its response that there is more.
    SaysMore,
    /// The receiver says in its response that there is nothing.
    SaysNothing,
    /// The receiver responds to the request and to each one like it with 500, and carries none of them out, until the
    /// last attempt of the item.
    Outage,
    /// The receiver refuses the connection of the request and of each one like it, until the last attempt of the item.
    Unreachable,
}

impl ResponseFault {
    /// Whether the receiver is out of order until the last attempt.
    pub(crate) fn is_outage(self) -> bool {
        matches!(self, Self::Outage | Self::Unreachable)
    }
}

/// What goes wrong in one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disruption {
    /// The process crashes.
    Crash(CrashPoint),
    /// The process crashes, and the reloaded component gets the next delivery.
    Reload(CrashPoint),
    /// The attempt pauses until its lease has ended and another attempt has run; then it continues.
    OverrunLease(CrashPoint),
    /// The response to the n-th call, from 1, is faulty.
    Fault(usize, ResponseFault),
    /// Another item changes the state that the n-th call, from 1, has read, before the commit.
    Conflict(usize),
}

impl Disruption {
    /// Whether a receiver is at fault, and no process crashes or pauses.
    pub(crate) fn is_fault(self) -> bool {
        matches!(self, Self::Fault(..))
    }
}

/// A disruption and the attempt in which it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlacedDisruption {
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    pub(crate) disruption: Disruption,
}

/// What receivers do with idempotency keys, unless the case says that a receiver ignores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiverBehaviour {
    /// They carry out each key once and repeat the response.
    Honour,
    /// They carry out every request.
    Ignore,
    /// They honour keys. When a request is repeated whose sender crashed before the response, they respond once with
    /// 409; the request was carried out.
    Busy,
    /// Like `Busy`, but the first request was aborted and had no effect.
    Abort,
}

/// Everything that goes wrong in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// What receivers do with keys in this run.
    pub(crate) receivers: ReceiverBehaviour,
    /// What goes wrong, in the order in which it happens.
    pub(crate) disruptions: Vec<PlacedDisruption>,
}

impl Schedule {
    /// The run in which nothing goes wrong.
    pub(crate) fn undisturbed() -> Self {
        Self { receivers: ReceiverBehaviour::Honour, disruptions: Vec::new() }
    }

    /// A run with one disruption.
    pub(crate) fn with_one(receivers: ReceiverBehaviour, attempt: u32, disruption: Disruption) -> Self {
        Self { receivers, disruptions: vec![PlacedDisruption { attempt, disruption }] }
    }

    /// The same run with one more disruption, after the others.
    pub(crate) fn and(&self, attempt: u32, disruption: Disruption) -> Self {
        let mut longer = self.clone();
        longer.disruptions.push(PlacedDisruption { attempt, disruption });
        longer
    }

    /// What goes wrong in an attempt.
    pub(crate) fn of_attempt(&self, attempt: u32) -> impl Iterator<Item = Disruption> {
        self.disruptions.iter().filter(move |placed| placed.attempt == attempt).map(|placed| placed.disruption)
    }

    /// Whether the component was loaded again before an attempt.
    pub(crate) fn is_reloaded_before(&self, attempt: u32) -> bool {
        let reloads = |placed: &PlacedDisruption| matches!(placed.disruption, Disruption::Reload(_));
        self.disruptions.iter().any(|placed| placed.attempt < attempt && reloads(placed))
    }

    /// Whether two attempts run at the same time.
    pub(crate) fn has_overlap(&self) -> bool {
        self.disruptions.iter().any(|placed| matches!(placed.disruption, Disruption::OverrunLease(_)))
    }

    /// Where a lookup says something else than before, if one does.
    pub(crate) fn changed_lookup(&self) -> Option<CallPosition> {
        self.disruptions.iter().find_map(|placed| match placed.disruption {
            Disruption::Fault(call, ResponseFault::SaysMore | ResponseFault::SaysNothing) => {
                Some(CallPosition { attempt: placed.attempt, call })
            }
            _ => None,
        })
    }

    /// Whether what the handler reads differs from the undisturbed run, so that what it stores may differ too.
    pub(crate) fn has_other_input(&self) -> bool {
        let is_conflict = |placed: &PlacedDisruption| matches!(placed.disruption, Disruption::Conflict(_));
        self.changed_lookup().is_some() || self.disruptions.iter().any(is_conflict)
    }

    /// Whether several requests get a faulty response, so that a short retry policy may be used up.
    pub(crate) fn has_several_faults(&self) -> bool {
        let is_throttled =
            |placed: &PlacedDisruption| matches!(placed.disruption, Disruption::Fault(_, ResponseFault::Throttled));
        let faults = self.disruptions.iter().filter(|placed| placed.disruption.is_fault()).count();
        faults > 1 || self.disruptions.iter().any(is_throttled)
    }

    /// Whether a receiver is out of order until the last attempt.
    pub(crate) fn has_outage(&self) -> bool {
        let is_outage =
            |placed: &PlacedDisruption| matches!(placed.disruption, Disruption::Fault(_, fault) if fault.is_outage());
        self.disruptions.iter().any(is_outage)
    }
}
