//! What follows from a lookup that says something else in the next attempt.
//!
//! The case does not say that it does, so the run proves something only if the case answers all of its requests. What
//! follows from a bare number or boolean is held against the handler; what follows from a member of an object is a
//! note, because the member may be an id that never changes.

use crate::check_report::{CallPosition, Note};
use crate::finding_collector::NoteTopic;
use crate::findings::comparison::{Comparison, RunFinding, call_number};
use crate::lookup_probe::LookupValue;

/// How an author says what the receiver does.
const SAY_IT: &str = "`after` or `times` in the case say what a lookup says later, and `stable = true` that it never \
                      says anything else";

/// The findings and notes of a run whose call at `at` says something else than the attempt before.
pub(crate) fn judged(
    run: &Comparison<'_>,
    at: CallPosition,
    found: Vec<RunFinding>,
) -> (Vec<RunFinding>, Vec<(NoteTopic, Note)>) {
    if !run.result.receivers.unanswered.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let lookup = run.undisturbed_position(at);
    if run.baseline.call(lookup).and_then(|record| record.value) == Some(LookupValue::Bare) {
        return (found.into_iter().map(with_case_advice).collect(), Vec::new());
    }
    let note = |found: RunFinding| {
        let what = found.finding.what.lines().next()?.trim_end_matches(':').to_owned();
        let what = format!("when {} says something else in the next attempt, {what}. {SAY_IT}", call_number(lookup));
        Some((NoteTopic::Lookup, Note { at: Some(lookup), what }))
    };
    (Vec::new(), found.into_iter().filter_map(note).take(1).collect())
}

fn with_case_advice(mut found: RunFinding) -> RunFinding {
    found.finding.fix = format!("{}. {SAY_IT}", found.finding.fix);
    found
}
