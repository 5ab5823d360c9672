//! When a circuit breaker opens and for how long: the policy of one type and its default.
//!
//! Holds numbers only. The worker keeps the breakers and knows which failures count.

use std::time::Duration;

/// When a process stops claiming a type whose attempts keep failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open the breaker; at least 1.
    pub failures: u32,
    /// How long the process claims no items of the type. Then it claims one, and its result decides.
    pub pause: Duration,
}

impl Default for BreakerPolicy {
    /// Ten failures in a row are rarely the fault of ten items. In 30 seconds most receivers have restarted.
    fn default() -> Self {
        Self { failures: 10, pause: Duration::from_secs(30) }
    }
}
