//! Decides which findings are one bug, so that a report tells each bug once.
//!
//! Findings of one kind with one cure and one reason are one bug at several calls. An effect too many of a request that
//! is repeated or changed is a consequence of that.

use crate::check_report::{CallPosition, FindingKind};
use crate::findings::comparison::RunFinding;

/// One finding for each bug.
pub(crate) fn merged(findings: Vec<RunFinding>) -> Vec<RunFinding> {
    let mut merged: Vec<RunFinding> = Vec::new();
    for found in findings {
        match merged.iter_mut().find(|known| is_same_bug(known, &found)) {
            Some(known) => absorb(known, found),
            None => merged.push(found),
        }
    }
    merged
}

fn is_same_bug(known: &RunFinding, found: &RunFinding) -> bool {
    let (first, second) = (&known.finding, &found.finding);
    first.kind == second.kind && first.fix == second.fix && known.reason == found.reason
}

/// The finding shows its first call and names the others.
fn absorb(known: &mut RunFinding, found: RunFinding) {
    let is_before = position(&found) < position(known) && found.finding.call > 0;
    let later = if is_before { std::mem::replace(known, found) } else { found };
    known.finding.also.extend(later.finding.also.iter().copied().chain([position(&later)]));
    known.finding.also.sort();
    known.finding.schedules += later.finding.schedules;
}

fn position(found: &RunFinding) -> CallPosition {
    CallPosition { attempt: found.finding.attempt, call: found.finding.call }
}

/// The findings without the effects too many of requests that another finding is about.
pub(crate) fn without_consequences(findings: Vec<RunFinding>) -> Vec<RunFinding> {
    let is_cause = |found: &&RunFinding| matches!(found.finding.kind, FindingKind::Changed | FindingKind::Repeated);
    let causes: Vec<_> = findings.iter().filter(is_cause).map(|found| found.call.clone()).collect();
    let is_consequence = |found: &RunFinding| found.finding.kind == FindingKind::Extra && causes.contains(&found.call);
    findings.into_iter().filter(|found| !is_consequence(found)).collect()
}
