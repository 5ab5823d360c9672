//! Merges the findings of all schedules of one case: equal findings become one, with the shortest schedule.
//!
//! It does not decide what a finding is.

use crate::check_report::{Finding, FindingKind, Note};
use crate::schedule::{ReceiverBehaviour, Schedule};
use crate::scheduled_run::RunResult;

/// The findings and notes of the schedules so far.
#[derive(Default)]
pub(crate) struct FindingCollector {
    pub(crate) findings: Vec<Finding>,
    pub(crate) notes: Vec<Note>,
    /// The number of schedules in which a disruption never happened.
    pub(crate) unreached: usize,
}

impl FindingCollector {
    /// Adds the findings of one schedule.
    pub(crate) fn collect(&mut self, schedule: &Schedule, found: Vec<Finding>, result: &RunResult) {
        self.unreached += usize::from(!result.has_reached_all);
        for request in &result.receivers.unanswered {
            self.add_note(None, format!("no [[answer]] of the case fits the request {request}, made in {schedule}"));
        }
        for finding in found {
            if schedule.receivers == ReceiverBehaviour::Ignore {
                self.note_unprotected_repeat(&finding);
            } else {
                self.add_finding(finding);
            }
        }
    }

    /// A finding where receivers ignore keys is only a note, because the case does not say that its receivers do.
    fn note_unprotected_repeat(&mut self, finding: &Finding) {
        if finding.kind == FindingKind::Repeated {
            let what = format!("{}: it needs a receiver that honours them", finding.what);
            self.add_note(Some(finding.call), what);
        }
    }

    fn add_note(&mut self, call: Option<usize>, what: String) {
        let is_known = self.notes.iter().any(|note| note.call == call && (call.is_some() || note.what == what));
        if !is_known {
            self.notes.push(Note { call, what });
        }
    }

    fn add_finding(&mut self, finding: Finding) {
        let is_like = |known: &&mut Finding| known.kind == finding.kind && known.call == finding.call;
        match self.findings.iter_mut().find(is_like) {
            // The shorter a schedule, the easier it is to follow.
            Some(known) if finding.schedule.id.len() < known.schedule.id.len() => {
                *known = Finding { schedules: known.schedules + 1, ..finding };
            }
            Some(known) => known.schedules += 1,
            None => self.findings.push(finding),
        }
    }
}
