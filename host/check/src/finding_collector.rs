//! Collects the findings of all schedules of one case, in any order and with the same result.
//!
//! Findings of one kind at one call become one, with the shortest schedule. It keeps no run, so that its size depends
//! on the handler's calls and not on the number of schedules. It does not decide what a finding is; `finding_merge.rs`
//! decides which findings are one bug.

use std::collections::BTreeMap;

use crate::case::accept::CaseAccept;
use crate::check_report::{CallPosition, FindingKind, Note};
use crate::findings::comparison::RunFinding;
use crate::schedule::{ReceiverBehaviour, Schedule};

/// The findings and notes of the schedules so far.
#[derive(Debug, Default)]
pub(crate) struct FindingCollector {
    findings: BTreeMap<FindingKey, CollectedFinding>,
    /// The notes, each by what it is about, with the number of the first schedule that has it.
    notes: BTreeMap<NoteKey, (usize, Note)>,
    /// The number of schedules in which a disruption never happened.
    pub(crate) unreached: usize,
}

#[derive(Debug)]
struct CollectedFinding {
    /// The number of the first schedule that has it.
    first: usize,
    /// The length of the id and the number of the schedule that it shows.
    shown: (usize, usize),
    found: RunFinding,
}

/// What findings of different schedules have in common when they are one.
type FindingKey = (FindingKind, CallPosition);

/// The topic of a note, the call that it is about, and what else it is about.
type NoteKey = (NoteTopic, Option<CallPosition>, String);

/// What a note is about. There is one note for each topic and call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NoteTopic {
    /// The handler is not deterministic.
    Determinism,
    /// An effect that only a key protects.
    Keys,
    /// An effect that two attempts at the same time repeat.
    Overlap,
    /// A lookup that may say something else the next time.
    Lookup,
    /// A request for which the case has no answer.
    Unanswered,
    /// What was not tried.
    Bounds,
    /// What the case expects.
    Case,
}

impl FindingCollector {
    /// Adds the findings of the schedule with this number.
    pub(crate) fn collect(&mut self, number: usize, schedule: &Schedule, found: Vec<RunFinding>) {
        for found in found {
            if schedule.receivers == ReceiverBehaviour::Ignore {
                self.note_unprotected_repeat(number, &found);
            } else {
                self.add_finding(number, found);
            }
        }
    }

    /// A finding where receivers ignore keys is only a note, because the case does not say that its receivers do.
    fn note_unprotected_repeat(&mut self, number: usize, found: &RunFinding) {
        let finding = &found.finding;
        if finding.kind == FindingKind::Repeated {
            let what = format!("{}: it needs a receiver that honours them", finding.what);
            let at = CallPosition { attempt: finding.attempt, call: finding.call };
            self.note(number, NoteTopic::Keys, "", Note { at: Some(at), what });
        }
    }

    /// Adds a note of the schedule with this number, unless there is one of its topic about the same.
    pub(crate) fn note(&mut self, number: usize, topic: NoteTopic, about: &str, note: Note) {
        self.add_note((topic, note.at, about.to_owned()), number, note);
    }

    fn add_note(&mut self, key: NoteKey, number: usize, note: Note) {
        match self.notes.get_mut(&key) {
            Some(known) if number < known.0 => *known = (number, note),
            Some(_) => {}
            None => drop(self.notes.insert(key, (number, note))),
        }
    }

    /// Adds everything that another collector has.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.unreached += other.unreached;
        for (key, (number, note)) in other.notes {
            self.add_note(key, number, note);
        }
        for (key, found) in other.findings {
            self.add_collected(key, found);
        }
    }

    fn add_finding(&mut self, number: usize, found: RunFinding) {
        let finding = &found.finding;
        let key = (finding.kind, CallPosition { attempt: finding.attempt, call: finding.call });
        // The shorter a schedule, the easier it is to follow.
        let shown = (finding.schedule.id.len(), number);
        self.add_collected(key, CollectedFinding { first: number, shown, found });
    }

    fn add_collected(&mut self, key: FindingKey, more: CollectedFinding) {
        let Some(known) = self.findings.get_mut(&key) else {
            self.findings.insert(key, more);
            return;
        };
        let schedules = known.found.finding.schedules + more.found.finding.schedules;
        known.first = known.first.min(more.first);
        if more.shown < known.shown {
            (known.shown, known.found) = (more.shown, more.found);
        }
        known.found.finding.schedules = schedules;
    }

    /// Whether there is a finding beside those that a case accepts.
    pub(crate) fn has_findings_beside(&self, accepts: &[CaseAccept]) -> bool {
        let is_accepted = |found: &CollectedFinding| accepts.iter().any(|accept| accept.is_about(&found.found.finding));
        self.findings.values().any(|found| !is_accepted(found))
    }

    /// The findings, in the order of the schedules in which they were found first.
    pub(crate) fn findings(&mut self) -> Vec<RunFinding> {
        let mut findings: Vec<_> = std::mem::take(&mut self.findings).into_iter().collect();
        findings.sort_by_key(|(key, found)| (found.first, *key));
        findings.into_iter().map(|(_, found)| found.found).collect()
    }

    /// The notes, in the order of the schedules in which they were found first.
    pub(crate) fn notes(&mut self) -> Vec<Note> {
        let mut notes: Vec<_> = std::mem::take(&mut self.notes).into_iter().collect();
        notes.sort_by_key(|((topic, ..), (number, _))| (*number, *topic));
        notes.into_iter().map(|(_, (_, note))| note).collect()
    }
}
