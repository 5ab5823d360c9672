//! How the numbers of a store become an [`Overview`].

use std::collections::BTreeMap;

use super::{Overview, SagaTotals};
use crate::item::{Millis, Status};

/// A pod that has not been heard of for so long is not shown.
pub(super) const POD_SHOWN_MS: Millis = 120_000;

impl Overview {
    /// Adds items of a type and status.
    pub(super) fn count(&mut self, item_type: String, status: Status, items: u64) {
        *self.by_type.entry(item_type).or_default().entry(status.as_str()).or_default() += items;
    }

    /// Notes that an item of the type has been available since then.
    pub(super) fn note_oldest(&mut self, item_type: String, available_at: Millis) {
        let waiting = self.now.saturating_sub(available_at).max(0);
        let known = self.oldest_pending_ms.entry(item_type).or_default();
        *known = waiting.max(*known);
    }

    /// Sums up the types, once all of them are counted.
    pub(super) fn sum_statuses(&mut self) {
        for status in Status::ALL {
            let total = self.by_type.values().filter_map(|counts| counts.get(status.as_str())).sum();
            self.by_status.insert(status.as_str(), total);
        }
    }

    /// Takes one of the stored totals: its name, saga, type and outcome.
    pub(super) fn add_counter(&mut self, [name, saga, item_type, outcome]: [String; 4], total: u64) {
        let done = Status::Done.as_str();
        match name.as_str() {
            "done" => drop(self.by_type.entry(item_type).or_default().insert(done, total)),
            "attempt" => drop(self.attempts.entry(item_type).or_default().insert(outcome, total)),
            "followup" => drop(self.followups.entry(item_type).or_default().insert(outcome, total)),
            "violation" => drop(self.contract_violations.insert(outcome, total)),
            _ => add_saga_counter(self.sagas.entry(saga).or_default(), &name, item_type, outcome, total),
        }
    }
}

fn add_saga_counter(totals: &mut SagaTotals, name: &str, item_type: String, outcome: String, total: u64) {
    match (name, outcome.as_str()) {
        ("saga_begin", _) => totals.began = total,
        ("saga_end", "ok") => totals.ended_ok = total,
        ("saga_end", _) => totals.ended_err = total,
        _ => {
            let steps: &mut BTreeMap<_, _> = totals.steps.entry(item_type).or_default();
            steps.insert(outcome, total);
        }
    }
}
