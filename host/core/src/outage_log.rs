//! The outages of something that is called again and again, so that each one is logged once.
//!
//! This file knows neither what is called nor the log.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the latest of repeated calls failed. Before the first call there is no outage.
#[derive(Debug, Default)]
pub struct Outage {
    is_ongoing: AtomicBool,
}

impl Outage {
    /// Records a failed call. Returns true when an outage begins with it.
    pub fn failed(&self) -> bool {
        !self.is_ongoing.swap(true, Ordering::Relaxed)
    }

    /// Records a successful call. Returns true when an outage ends with it.
    pub fn succeeded(&self) -> bool {
        self.is_ongoing.swap(false, Ordering::Relaxed)
    }

    /// Whether the latest call failed.
    pub fn is_ongoing(&self) -> bool {
        self.is_ongoing.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outage_is_reported_once_whatever_comes_between_them() {
        let outage = Outage::default();
        let calls = ["fails", "fails", "succeeds", "fails", "succeeds", "succeeds", "fails", "fails"];
        let changes = calls.map(|call| if call == "fails" { outage.failed() } else { outage.succeeded() });
        assert_eq!(changes, [true, false, true, true, true, false, true, false]);
        assert!(outage.is_ongoing());
    }

    #[test]
    fn a_success_without_an_outage_ends_none() {
        let outage = Outage::default();
        assert!(!outage.succeeded());
        assert!(!outage.is_ongoing());
    }
}
