//! What a check reports: the calls, the number of schedules, the findings and the notes of each case.
//!
//! These types are the JSON of `outbox plugin check --json`. The rules that decide findings are in `findings/`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The result of all schedules of one case.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The name of the case.
    pub case: String,
    /// The calls of the undisturbed run, then those that only disturbed runs make. Findings refer to them by number.
    pub calls: Vec<CallLine>,
    /// The number of schedules in each group.
    #[serde(rename = "families")]
    pub groups: Vec<ScheduleGroup>,
    /// The number of schedules that were played.
    pub schedules: usize,
    /// The number of schedules in which a disruption never happened, because the handler did not make the call.
    pub unreached: usize,
    /// What the case accepts, and is not held against the handler.
    pub accepted: Vec<AcceptedFinding>,
    /// What is wrong with the handler.
    pub findings: Vec<Finding>,
    /// What else its author should know.
    pub notes: Vec<Note>,
    /// The duration of the check.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl CheckReport {
    /// Whether the check found nothing wrong.
    pub fn has_no_findings(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A group of schedules with similar disruptions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScheduleGroup {
    /// What the schedules have in common.
    pub name: &'static str,
    /// The number of schedules.
    pub count: usize,
}

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CallPosition {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The number of the call in its attempt, from 1; 0 for no particular call.
    pub call: usize,
}

/// One call of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallLine {
    /// The schedule whose run makes the call; `None` for the undisturbed run.
    pub schedule: Option<String>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The number of the call in its attempt, from 1.
    pub number: usize,
    /// The call as text.
    pub call: String,
    /// The idempotency key of a request that may have an effect.
    pub key: Option<String>,
}

/// The kind of a finding. Each kind has its rule in the file of `findings/` that this list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// The handler sent two different requests with one key (`changed.rs`).
    Changed,
    /// A receiver carried an effect out more than once (`repeated.rs`).
    Repeated,
    /// A receiver carried out an effect that the undisturbed run does not have (`repeated.rs`).
    Extra,
    /// The item is DONE and an effect is missing (`lost.rs`).
    Lost,
    /// The item is dead-lettered or never settled because of a fault that passes, or even when nothing goes wrong
    /// (`dead.rs`).
    Dead,
    /// The plugin state at the end differs (`stored.rs`).
    State,
    /// The follow-ups at the end differ (`stored.rs`).
    Followups,
    /// The case accepts a finding that there is not (`checker.rs`).
    Accept,
}

/// Something that is wrong with a handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The kind.
    pub kind: FindingKind,
    /// The number of the attempt that makes the call, from 1.
    pub attempt: u32,
    /// The number of the call that it is about, from 1; 0 for no particular call.
    pub call: usize,
    /// Other calls at which the same happens, with the same cure.
    pub also: Vec<CallPosition>,
    /// What happens.
    pub what: String,
    /// How the author can fix it.
    pub fix: String,
    /// The shortest schedule in which it happens at `call`.
    pub schedule: ScheduleId,
    /// What goes wrong in that schedule.
    pub story: String,
    /// The number of schedules in which it happens.
    pub schedules: usize,
}

/// A finding that the case accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AcceptedFinding {
    /// The finding.
    pub finding: Finding,
    /// Why it is no harm, as the case says.
    pub reason: String,
}

/// Something that the author should know and that is not wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The call that it is about, if it is about one.
    #[serde(flatten)]
    pub at: Option<CallPosition>,
    /// What the author should know.
    pub what: String,
}

/// The name of one schedule of one case, written `CASE/ID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct ScheduleId {
    /// The name of the case.
    pub case: String,
    /// The id of the schedule within the case, such as `crash:3a`.
    pub id: String,
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.case, self.id)
    }
}

impl From<ScheduleId> for String {
    fn from(schedule: ScheduleId) -> Self {
        schedule.to_string()
    }
}

/// The text is not `CASE/ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a schedule is named CASE/ID")]
pub struct InvalidScheduleId;

impl FromStr for ScheduleId {
    type Err = InvalidScheduleId;

    fn from_str(text: &str) -> Result<Self, InvalidScheduleId> {
        let (case, id) = text.split_once('/').ok_or(InvalidScheduleId)?;
        Ok(Self { case: case.to_owned(), id: id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_named_by_its_case_and_its_id() {
        let id: ScheduleId = "mail/ignore/crash:1a".parse().unwrap();
        assert_eq!((id.case.as_str(), id.id.as_str()), ("mail", "ignore/crash:1a"));
        assert_eq!(serde_json::to_value(&id).unwrap(), "mail/ignore/crash:1a");
        assert_eq!("mail".parse::<ScheduleId>(), Err(InvalidScheduleId));
    }
}
