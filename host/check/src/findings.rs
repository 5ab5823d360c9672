//! The rules that decide what is wrong with a handler, one file for each kind of finding.
//!
//! They compare a disrupted run with the undisturbed one, by the rules of `docs/testing-handlers.md`: every effect of
//! the undisturbed run must happen exactly once, and no other effect may happen. This file knows the order of the rules
//! and no rule.

mod changed;
pub(crate) mod comparison;
mod dead;
mod effect_match;
pub(crate) mod lookups;
mod lost;
pub(crate) mod nondeterminism;
mod repeated;
mod stored;

use crate::case::Case;
use crate::check_report::Note;
use crate::findings::comparison::{Comparison, RunFinding};

/// A rule: what it finds in a run.
type Rule = fn(&Comparison<'_>) -> Vec<RunFinding>;

/// The findings of a disrupted run.
pub(crate) fn detect_findings(run: &Comparison<'_>) -> Vec<RunFinding> {
    if run.schedule.has_other_input() {
        return first_found(
            run,
            &[changed::changed_requests, repeated::repeated_effects, dead::unfinished_item, lost::lost_effects],
        );
    }
    first_found(
        run,
        &[
            changed::changed_requests,
            repeated::repeated_effects,
            changed::changed_ends,
            dead::unfinished_item,
            lost::lost_effects,
            stored::stored_differences,
        ],
    )
}

/// The findings of the undisturbed run, beside itself.
pub(crate) fn detect_undisturbed_findings(run: &Comparison<'_>, case: &Case) -> Vec<RunFinding> {
    let found = first_found(run, &[changed::changed_requests, lost::swallowed_requests, repeated::undisturbed_repeats]);
    if found.is_empty() && !run.result.is_done() && !dead::is_expected(case) {
        return dead::undisturbed_end(run);
    }
    found
}

/// What the author should know about a disrupted run.
pub(crate) fn detect_notes(run: &Comparison<'_>) -> Vec<Note> {
    if run.schedule.has_overlap() { repeated::overlap_notes(run) } else { Vec::new() }
}

/// The findings of the first rule that finds something. Those of the rules after it would be consequences.
fn first_found(run: &Comparison<'_>, rules: &[Rule]) -> Vec<RunFinding> {
    rules.iter().map(|rule| rule(run)).find(|found| !found.is_empty()).unwrap_or_default()
}
