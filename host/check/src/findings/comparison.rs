//! The two runs that the rules compare, and what all rules need to describe a finding. It contains no rule.

use std::fmt::Display;

use outbox_runtime::simulation::{GuestCall, OutgoingRequest};

use crate::call_record::{CallRecord, PlayedAttempt};
use crate::check_report::{CallLine, CallPosition, Finding, FindingKind, ScheduleId};
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

/// A finding in one run, with what it has in common with findings in others.
#[derive(Clone, Debug)]
pub(crate) struct RunFinding {
    pub(crate) finding: Finding,
    /// What the handler itself gives as the reason; empty without one. Findings of one kind with one cure and one
    /// reason are one bug.
    pub(crate) reason: String,
    /// The call that it is about, as text; empty for none.
    pub(crate) call: String,
    /// The line of its call, if the undisturbed run does not make the call.
    pub(crate) line: Option<CallLine>,
}

impl RunFinding {
    /// The finding, with the reason that the handler gives.
    pub(crate) fn because(self, reason: &str) -> Self {
        Self { reason: reason.to_owned(), ..self }
    }
}

impl Baseline {
    /// The calls of an undisturbed attempt.
    fn calls(&self, attempt: u32) -> &[CallRecord] {
        self.result.attempts.get(&attempt).map_or(&[], |attempt| &attempt.calls)
    }

    /// The undisturbed call at a position.
    pub(crate) fn call(&self, at: CallPosition) -> Option<&CallRecord> {
        at.call.checked_sub(1).and_then(|index| self.calls(at.attempt).get(index))
    }

    /// The first undisturbed call that matches; the first attempt and no call when none does.
    pub(crate) fn position_of(&self, is_meant: impl Fn(&GuestCall) -> bool) -> CallPosition {
        let in_attempt = |(number, attempt): (&u32, &PlayedAttempt)| {
            let index = attempt.calls.iter().position(|record| is_meant(&record.call))?;
            Some(CallPosition { attempt: *number, call: index + 1 })
        };
        self.result.attempts.iter().find_map(in_attempt).unwrap_or(CallPosition { attempt: 1, call: 0 })
    }

    /// The attempts that differ in their calls or answers from those before them, with their numbers.
    pub(crate) fn distinct_attempts(&self) -> Vec<(u32, &PlayedAttempt)> {
        let mut distinct: Vec<(u32, &PlayedAttempt)> = Vec::new();
        for (number, attempt) in &self.result.attempts {
            if !distinct.iter().any(|(_, known)| known.calls == attempt.calls) {
                distinct.push((*number, attempt));
            }
        }
        distinct
    }
}

impl Comparison<'_> {
    /// A finding in this run about a call, or about none in particular.
    pub(crate) fn finding(
        &self,
        kind: FindingKind,
        at: CallPosition,
        what: String,
        fix: impl Into<String>,
    ) -> RunFinding {
        let schedule = ScheduleId { case: self.case.to_owned(), id: self.schedule.to_string() };
        let story = self.schedule.story();
        let finding = Finding {
            kind,
            attempt: at.attempt,
            call: at.call,
            also: Vec::new(),
            what,
            fix: fix.into(),
            schedule,
            story,
            schedules: 1,
        };
        RunFinding { finding, reason: String::new(), call: self.call_text(at), line: self.line(at) }
    }

    /// The effects of the undisturbed run.
    pub(crate) fn expected_effects(&self) -> &[Effect] {
        &self.baseline.result.receivers.effects
    }

    /// The call at a position in this run.
    pub(crate) fn call(&self, at: CallPosition) -> Option<&CallRecord> {
        let attempt = self.result.attempts.get(&at.attempt)?;
        at.call.checked_sub(1).and_then(|index| attempt.calls.get(index))
    }

    /// Where the report lists the call that this run makes at a position: in the same place if it is there, else in the
    /// same place of the first attempt, else at the first one like it, else nowhere, and then the position itself.
    pub(crate) fn undisturbed_position(&self, at: CallPosition) -> CallPosition {
        let Some(record) = self.call(at) else { return at };
        let is_like = |known: &GuestCall| known.to_string() == record.call.to_string();
        let first_attempt = CallPosition { attempt: 1, ..at };
        let listed: Vec<_> = self.baseline.distinct_attempts().into_iter().map(|(attempt, _)| attempt).collect();
        let is_same = |at: &CallPosition| {
            listed.contains(&at.attempt) && self.baseline.call(*at).is_some_and(|known| is_like(&known.call))
        };
        let found = self.baseline.position_of(is_like);
        [at, first_attempt, found].into_iter().find(is_same).unwrap_or(at)
    }

    /// The undisturbed call at a position, else the one of this run; empty for no call.
    pub(crate) fn call_text(&self, at: CallPosition) -> String {
        let record = self.baseline.call(at).or_else(|| self.call(at));
        record.map(|record| record.call.to_string()).unwrap_or_default()
    }

    /// The line of a call that only this run makes.
    fn line(&self, at: CallPosition) -> Option<CallLine> {
        match self.baseline.call(at) {
            Some(_) => None,
            None => self.call(at).map(|record| call_line(Some(self.schedule), at, record)),
        }
    }
}

/// The line of a call in the report.
pub(crate) fn call_line(schedule: Option<&Schedule>, at: CallPosition, record: &CallRecord) -> CallLine {
    CallLine {
        schedule: schedule.map(Schedule::to_string),
        attempt: at.attempt,
        number: at.call,
        call: record.call.to_string(),
        key: record.key().map(str::to_owned),
    }
}

/// The number of a call, as part of a sentence.
pub(crate) fn call_number(at: CallPosition) -> String {
    match at.attempt {
        1 => format!("call {}", at.call),
        attempt => format!("call {} of attempt {attempt}", at.call),
    }
}

/// A call with its number, as part of a sentence.
pub(crate) fn call_name(at: CallPosition, call: &impl Display) -> String {
    format!("{}, {call}", call_number(at))
}

/// A request with the number of its call, as the subject of a sentence.
pub(crate) fn call_label(at: CallPosition, request: &OutgoingRequest) -> String {
    format!("{},", call_name(at, &format_args!("{} {}", request.method, request.url)))
}
