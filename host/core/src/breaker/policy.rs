//! When breakers open: the policy of one type in its manifest, and where the breakers of origins apply.
//!
//! Holds numbers and choices only. `breaker/origin.rs` is the breaker of an origin; the worker keeps those of types.

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

/// For which plugins a process keeps breakers of origins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerMode {
    /// For none: each failure counts.
    Off,
    /// For those whose manifests set neither `max_retries` nor `[breaker]`.
    #[default]
    Auto,
    /// For those whose manifests have no `[breaker]`.
    On,
}

impl BreakerMode {
    /// Whether the requests of a plugin go through the breakers of their origins.
    pub fn applies(self, sets_max_retries: bool, has_own_breaker: bool) -> bool {
        match self {
            Self::Off => false,
            Self::Auto => !sets_max_retries && !has_own_breaker,
            Self::On => !has_own_breaker,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_that_are_set_by_hand_mean_what_they_say_and_an_own_breaker_comes_first() {
        let modes = [BreakerMode::Off, BreakerMode::Auto, BreakerMode::On];
        assert_eq!(modes.map(|mode| mode.applies(false, false)), [false, true, true]);
        assert_eq!(modes.map(|mode| mode.applies(true, false)), [false, false, true]);
        assert_eq!(modes.map(|mode| mode.applies(false, true)), [false; 3]);
    }
}
