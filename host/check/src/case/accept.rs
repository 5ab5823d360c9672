//! A finding that the author of a case accepts, with the reason. This is the file format only; `checker.rs` applies it.

use serde::Deserialize;

use crate::check_report::{Finding, FindingKind};

/// A finding that the report shows and does not hold against the handler.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseAccept {
    /// The kind of the finding.
    pub(crate) finding: FindingKind,
    /// The number of its attempt, from 1.
    #[serde(default = "first")]
    pub(crate) attempt: u32,
    /// The number of its call, from 1; 0 for no particular call.
    pub(crate) call: usize,
    /// Why it is no harm.
    pub(crate) reason: String,
}

impl CaseAccept {
    /// Whether it is about the finding.
    pub(crate) fn is_about(&self, finding: &Finding) -> bool {
        (self.finding, self.attempt, self.call) == (finding.kind, finding.attempt, finding.call)
    }
}

fn first() -> u32 {
    1
}
