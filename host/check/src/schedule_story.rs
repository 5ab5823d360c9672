//! What happens in a schedule, as a clause for people.

use crate::schedule::{CrashPoint, Disruption, PlacedDisruption, ReceiverBehaviour, ResponseFault, Schedule};

impl Schedule {
    /// What happens, as a clause for people.
    pub(crate) fn story(&self) -> String {
        if self.disruptions.is_empty() {
            return "nothing goes wrong".to_owned();
        }
        let attempts: Vec<_> = self.disruptions.iter().map(placed_story).collect();
        let story = attempts.join(", ");
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

fn placed_story(placed: &PlacedDisruption) -> String {
    format!("attempt {} {}", placed.attempt, placed.disruption.story())
}

impl Disruption {
    fn story(self) -> String {
        match self {
            Self::Crash(point) => format!("dies {}", point.story()),
            Self::Reload(point) => format!("dies {} and the component is loaded anew", point.story()),
            Self::OverrunLease(point) => format!("stands still {} until another has run", point.story()),
            Self::Fault(call, fault) => fault.story(call),
            Self::Conflict(call) => {
                format!("is done, and another item changes what call {call} has read before the commit")
            }
        }
    }
}

impl ResponseFault {
    fn story(self, call: usize) -> String {
        match self {
            Self::NoResponse => format!("gets no answer to call {call}, which is carried out"),
            Self::ErrorAfterEffect => format!("gets 500 for call {call}, which is carried out"),
            Self::Broken => format!("loses the connection after call {call}, which is carried out"),
            Self::Error => format!("gets 500 for call {call}, which is not carried out"),
            Self::Unavailable => format!("gets 503 for call {call}, which is not carried out"),
            Self::GatewayTimeout => format!("gets 504 for call {call}, which is not carried out"),
            Self::Throttled => format!("gets 429 for call {call}, and so do the next two"),
            Self::Refused => format!("gets no connection for call {call}"),
            Self::Vanished => format!("gets no answer to call {call}, which is not carried out"),
            Self::SaysMore => format!("is told more by call {call} than the attempt before"),
            Self::SaysNothing => format!("is told by call {call} that nothing is left"),
            Self::Outage => format!("gets 500 for call {call}, and so do all attempts but the last"),
            Self::Unreachable => format!("gets no connection for call {call}, and so do all attempts but the last"),
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
