//! The rules that decide what is wrong with a handler, one file for each kind of finding.
//!
//! They compare a disrupted run with the undisturbed one, by the rules of `docs/testing-handlers.md`: every effect of
//! the undisturbed run must happen exactly once, and no other effect may happen. This file knows the order of the rules
//! and no rule.

mod changed;
pub(crate) mod comparison;
mod dead;
mod effect_match;
mod lost;
pub(crate) mod nondeterminism;
mod repeated;
mod stored;

use crate::check_report::Finding;
use crate::findings::comparison::Comparison;

/// The findings of one run. A rule runs only when the rules before it found nothing, because its findings would be
/// consequences of theirs.
pub(crate) fn detect_findings(run: &Comparison<'_>) -> Vec<Finding> {
    let rules = [
        changed::changed_requests,
        repeated::repeated_effects,
        dead::unfinished_item,
        lost::lost_effects,
        stored::stored_differences,
    ];
    rules.into_iter().map(|rule| rule(run)).find(|found| !found.is_empty()).unwrap_or_default()
}
