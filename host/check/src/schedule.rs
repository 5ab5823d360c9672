//! What goes wrong in one run, with its id for programs and its story for people.
//!
//! Pure data. `schedule_enumeration.rs` lists the schedules of a handler, and `scheduled_run.rs` plays one. The id says
//! what happens: `crash:3a+crash:return` ends the first attempt after the effect of its third call, and the second
//! attempt after its return.

use std::fmt;

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
    /// The receiver does not carry the request out and responds with 500.
    Error,
    /// The receiver responds to the request and to the next two like it with 429 and carries none of them out.
    Throttled,
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
    /// What goes wrong in the first attempt, in the second, and so on.
    pub(crate) disruptions: Vec<Disruption>,
}

impl Schedule {
    /// A run in which the n-th attempt has the n-th disruption.
    pub(crate) fn new(receivers: ReceiverBehaviour, disruptions: &[Disruption]) -> Self {
        Self { receivers, disruptions: disruptions.to_vec() }
    }

    /// The run in which nothing goes wrong.
    pub(crate) fn undisturbed() -> Self {
        Self::new(ReceiverBehaviour::Honour, &[])
    }

    /// Whether two attempts run at the same time.
    pub(crate) fn has_overlap(&self) -> bool {
        self.disruptions.iter().any(|disruption| matches!(disruption, Disruption::OverrunLease(_)))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.receivers {
            ReceiverBehaviour::Honour => "",
            ReceiverBehaviour::Ignore => "ignore/",
            ReceiverBehaviour::Busy => "busy/",
            ReceiverBehaviour::Abort => "abort/",
        })?;
        let disruptions: Vec<_> = self.disruptions.iter().map(Disruption::to_string).collect();
        f.write_str(if disruptions.is_empty() { "undisturbed" } else { "" })?;
        f.write_str(&disruptions.join("+"))
    }
}

impl fmt::Display for Disruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(point) => write!(f, "crash:{point}"),
            Self::Reload(point) => write!(f, "reload:{point}"),
            Self::OverrunLease(point) => write!(f, "outlive:{point}"),
            Self::Fault(call, ResponseFault::NoResponse) => write!(f, "silent:{call}"),
            Self::Fault(call, ResponseFault::ErrorAfterEffect) => write!(f, "lies:{call}"),
            Self::Fault(call, ResponseFault::Error) => write!(f, "fails:{call}"),
            Self::Fault(call, ResponseFault::Throttled) => write!(f, "throttles:{call}"),
        }
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before(call) => write!(f, "{call}b"),
            Self::After(call) => write!(f, "{call}a"),
            Self::Return => f.write_str("return"),
            Self::Commit => f.write_str("commit"),
        }
    }
}

impl Schedule {
    /// What happens, as a clause for people.
    pub(crate) fn story(&self) -> String {
        let attempts = (1..)
            .zip(&self.disruptions)
            .map(|(attempt, disruption)| format!("attempt {attempt} {}", disruption.story()));
        let story = attempts.collect::<Vec<_>>().join(", ");
        match self.receivers {
            ReceiverBehaviour::Honour => story,
            ReceiverBehaviour::Ignore => format!("{story}, at receivers that ignore keys"),
            ReceiverBehaviour::Busy => {
                format!("{story}, and the receiver answers 409 until it has done what it was sent")
            }
            ReceiverBehaviour::Abort => {
                format!("{story}, and the receiver answers 409 until it has given up what it was sent")
            }
        }
    }
}

impl Disruption {
    fn story(self) -> String {
        match self {
            Self::Crash(point) => format!("dies {}", point.story()),
            Self::Reload(point) => format!("dies {} and the component is loaded anew", point.story()),
            Self::OverrunLease(point) => format!("stands still {} until another has run", point.story()),
            Self::Fault(call, ResponseFault::NoResponse) => {
                format!("gets no answer to call {call}, which is carried out")
            }
            Self::Fault(call, ResponseFault::ErrorAfterEffect) => {
                format!("gets 500 for call {call}, which is carried out")
            }
            Self::Fault(call, ResponseFault::Error) => format!("gets 500 for call {call}, which is not carried out"),
            Self::Fault(call, ResponseFault::Throttled) => format!("gets 429 for call {call}, and so do the next two"),
        }
    }
}

impl CrashPoint {
    fn story(self) -> String {
        match self {
            Self::Before(call) => format!("before call {call}"),
            Self::After(call) => format!("after call {call}, before its answer"),
            Self::Return => "after the return, before the commit".to_owned(),
            Self::Commit => "after the commit".to_owned(),
        }
    }
}
