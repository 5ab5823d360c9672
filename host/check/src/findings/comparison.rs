//! The two runs that the rules compare, and what all rules need to describe a finding. It contains no rule.

use outbox_runtime::simulation::{GuestCall, OutgoingRequest};

use crate::check_report::{Finding, FindingKind, ScheduleId};
use crate::receivers::Effect;
use crate::schedule::Schedule;
use crate::scheduled_run::RunResult;

/// Two undisturbed runs. What differs between them may differ in every other run too.
pub(crate) struct Baseline {
    /// The run that others are compared with.
    pub(crate) result: RunResult,
    /// The same run at another time and with other random numbers.
    pub(crate) repeat: RunResult,
}

/// A disrupted run beside the undisturbed one.
pub(crate) struct Comparison<'a> {
    /// The name of the case.
    pub(crate) case: &'a str,
    pub(crate) baseline: &'a Baseline,
    pub(crate) result: &'a RunResult,
    pub(crate) schedule: &'a Schedule,
}

impl Comparison<'_> {
    /// A finding in this run.
    pub(crate) fn finding(&self, kind: FindingKind, call: usize, what: String, fix: &str) -> Finding {
        let schedule = ScheduleId { case: self.case.to_owned(), id: self.schedule.to_string() };
        Finding { kind, call, what, fix: fix.to_owned(), schedule, story: self.schedule.story(), schedules: 1 }
    }

    /// The effects of the undisturbed run.
    pub(crate) fn expected_effects(&self) -> &[Effect] {
        &self.baseline.result.receivers.effects
    }

    /// The number of the first undisturbed call that matches, from 1; 0 when no call does.
    pub(crate) fn call_of(&self, is_meant: impl Fn(&GuestCall) -> bool) -> usize {
        self.baseline.result.calls.iter().position(is_meant).map_or(0, |index| index + 1)
    }
}

/// A request with the number of its call, as the subject of a sentence.
pub(crate) fn call_label(call: usize, request: &OutgoingRequest) -> String {
    format!("call {call}, {} {},", request.method, request.url)
}
