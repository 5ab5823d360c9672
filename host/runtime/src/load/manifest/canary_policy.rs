//! `[reload]` of a manifest: how the canary of a new version goes, with its defaults.
//!
//! `reload::canary` carries the policy out.

use serde::Serialize;

use crate::load::manifest::error::ManifestError;
use crate::load::manifest::section::Section;
use crate::load::manifest::value::{count, ratio};

/// The most items of a canary. Their keys are kept in memory while the canary runs.
const ITEMS_MAX: u32 = 100_000;

/// How the canary of a new version goes: `[reload]` of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CanaryPolicy {
    /// Different items that the canary lasts; 0 is no canary. An item that is tried again counts once.
    #[serde(rename = "canary")]
    pub items: u32,
    /// The version is rolled back when it faults on more than this share of the items, from 0 to 1.
    pub max_fault_ratio: f64,
    /// The version is rolled back when the share of items that fail for good, or of those that are retried, is larger
    /// by more than this than that of the version before, from 0 to 1.
    pub max_failure_increase: f64,
}

impl Default for CanaryPolicy {
    /// A fifth of 20 items: a few poison items do not roll a good version back.
    fn default() -> Self {
        Self { items: 20, max_fault_ratio: 0.2, max_failure_increase: 0.2 }
    }
}

/// Reads `[reload]`.
pub(crate) fn read(mut section: Section<'_>) -> Result<CanaryPolicy, ManifestError> {
    let default = CanaryPolicy::default();
    let policy = CanaryPolicy {
        items: section.take("canary", count(0..=ITEMS_MAX))?.unwrap_or(default.items),
        max_fault_ratio: section.take("max_fault_ratio", |value| ratio(&value))?.unwrap_or(default.max_fault_ratio),
        max_failure_increase: section
            .take("max_failure_increase", |value| ratio(&value))?
            .unwrap_or(default.max_failure_increase),
    };
    section.finish()?;
    Ok(policy)
}
