//! `[retry]` of a manifest: which values of the host's retry policy a plugin overrides.
//!
//! The defaults are the host's settings, and where those are silent [`RetryPolicy::default`].

use std::time::Duration;

use outbox_core::RetryPolicy;

use crate::load::manifest::error::ManifestError;
use crate::load::manifest::section::Section;
use crate::load::manifest::value::{count, duration};

/// The longest wait between two attempts, also for the pause of a breaker: 30 days. A longer one is a typing error.
pub(crate) const WAIT_MAX: Duration = Duration::from_hours(30 * 24);

/// The values of a retry policy that a manifest sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryOverrides {
    /// See [`RetryPolicy::max_retries`].
    pub max_retries: Option<u32>,
    /// See [`RetryPolicy::base`].
    pub base: Option<Duration>,
    /// See [`RetryPolicy::cap`].
    pub cap: Option<Duration>,
}

impl RetryOverrides {
    /// The host's policy with the values of the manifest in place of its own.
    pub(crate) fn applied_to(self, host: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_retries: self.max_retries.unwrap_or(host.max_retries),
            base: self.base.unwrap_or(host.base),
            cap: self.cap.unwrap_or(host.cap),
        }
    }
}

/// Reads `[retry]`.
pub(crate) fn read(mut section: Section<'_>) -> Result<RetryOverrides, ManifestError> {
    let retry = RetryOverrides {
        max_retries: section.take("max_retries", count(0..=u32::MAX))?,
        base: section.take("base", duration(WAIT_MAX))?,
        cap: section.take("cap", duration(WAIT_MAX))?,
    };
    section.finish()?;
    Ok(retry)
}
