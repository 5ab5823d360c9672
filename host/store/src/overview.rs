//! The state of the whole outbox in numbers, for the cockpit and the metrics, and who takes part in it.
//!
//! The totals are the store's; who serves what is as the pods say, for display: nothing correct depends
//! on it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use outbox_item::{Millis, Status};

/// A process that has the store open, for display.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pod {
    /// Unique per boot.
    pub instance: String,
    /// Its role, if it has one.
    pub role: Option<String>,
    /// Whether it answers `/readyz` with 200.
    pub ready: bool,
    /// When it last said so; written by the store.
    pub heartbeat_at: Millis,
    /// Its plugins with their generations and errors, as it describes them itself.
    pub plugins: serde_json::Value,
}

/// What a request lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// `X-Correlation-ID`.
    MissingCorrelationId,
    /// `Idempotency-Key`.
    MissingIdempotencyKey,
}

impl Violation {
    /// The word in the cockpit and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingCorrelationId => "missing_correlation_id",
            Self::MissingIdempotencyKey => "missing_idempotency_key",
        }
    }
}

/// The state of the whole outbox in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overview {
    /// The store's time of this reading.
    pub now: Millis,
    /// Items per status, every status present.
    pub by_status: BTreeMap<&'static str, u64>,
    /// Items per type and status.
    pub by_type: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// How long the oldest available PENDING item of each type has been waiting.
    pub oldest_pending_ms: BTreeMap<String, Millis>,
    /// CLAIMED items whose lease has ended.
    pub expired_claims: u64,
    /// Ordering keys whose items wait behind a dead-lettered one.
    pub blocked_keys: u64,
    /// Settled attempts per type and outcome: `done`, or the failure's class.
    pub attempts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Emitted items per type: `created`, or `kept` because the key existed.
    pub followups: BTreeMap<String, BTreeMap<String, u64>>,
    /// Per saga.
    pub sagas: BTreeMap<String, SagaTotals>,
    /// Per [`Violation`].
    pub contract_violations: BTreeMap<String, u64>,
    /// Processes seen in the last minutes.
    pub pods: Vec<Pod>,
    /// The size of the database in bytes, where the store knows it.
    pub database_bytes: u64,
    /// The size of the write-ahead log in bytes, where there is one.
    pub wal_bytes: u64,
    /// How long the oldest transaction of anybody has been open, in milliseconds, where the engine tells:
    /// it keeps dead rows from being removed.
    pub oldest_transaction_ms: u64,
}

/// A pod that has not been heard of for so long is not shown.
pub const POD_SHOWN_MS: Millis = 120_000;
/// A pod that has been silent for longer than this has missed several heartbeats and is taken for gone.
const POD_GONE_MS: Millis = 15_000;

impl Overview {
    /// The pods that are there now.
    pub fn live_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.ready && self.now.saturating_sub(pod.heartbeat_at) < POD_GONE_MS)
    }

    /// The types that somebody serves: a living pod, or whoever serves `here`. A version that only
    /// finishes what it had begun serves none.
    pub fn served_types(&self, here: &[String]) -> Vec<String> {
        let plugins = self.live_pods().filter_map(|pod| pod.plugins.as_array()).flatten();
        let serving = plugins.filter(|plugin| plugin["state"] != "draining");
        let types = serving.filter_map(|plugin| plugin["types"].as_array()).flatten().filter_map(|word| word.as_str());
        let served: BTreeSet<&str> = types.chain(here.iter().map(String::as_str)).collect();
        served.into_iter().map(str::to_owned).collect()
    }

    /// The types whose PENDING items nobody serves, neither a living pod nor whoever serves `here`.
    pub fn unhandled(&self, here: &[String]) -> BTreeMap<&str, u64> {
        let served = self.served_types(here);
        let pending = |counts: &BTreeMap<_, _>| counts.get(Status::Pending.as_str()).copied().unwrap_or(0);
        let waiting = self.by_type.iter().map(|(item_type, counts)| (item_type.as_str(), pending(counts)));
        let is_served = |item_type: &str| served.iter().any(|served| served == item_type);
        waiting.filter(|(item_type, pending)| *pending > 0 && !is_served(item_type)).collect()
    }

    /// Adds items of a type and status.
    pub fn count(&mut self, item_type: String, status: Status, items: u64) {
        *self.by_type.entry(item_type).or_default().entry(status.as_str()).or_default() += items;
    }

    /// Notes that an item of the type has been available since then.
    pub fn record_oldest(&mut self, item_type: String, available_at: Millis) {
        let waiting = self.now.saturating_sub(available_at).max(0);
        let known = self.oldest_pending_ms.entry(item_type).or_default();
        *known = waiting.max(*known);
    }

    /// Sums up the types, once all of them are counted.
    pub fn sum_statuses(&mut self) {
        for status in Status::ALL {
            let total = self.by_type.values().filter_map(|counts| counts.get(status.as_str())).sum();
            self.by_status.insert(status.as_str(), total);
        }
    }

    /// Takes one of the stored totals: its name, saga, type and outcome.
    pub fn add_counter(&mut self, [name, saga, item_type, outcome]: [String; 4], total: u64) {
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

/// Totals of one saga; they outlive pruned signals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SagaTotals {
    /// Runs that began.
    pub began: u64,
    /// Runs that ended with every item DONE.
    pub ended_ok: u64,
    /// Runs that ended with an item in the DLQ.
    pub ended_err: u64,
    /// Settled attempts per type and outcome (`ok`, `retried`, `dead`).
    pub steps: BTreeMap<String, BTreeMap<String, u64>>,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_that_only_finishes_what_it_had_begun_serves_nothing() {
        let plugins = json!([
            { "name": "new", "state": "active", "types": ["mail"] },
            { "name": "old", "state": "draining", "types": ["mail", "fax"] },
        ]);
        let pod = Pod { instance: "pod-1".into(), role: None, ready: true, heartbeat_at: 0, plugins };
        let waiting = BTreeMap::from([(Status::Pending.as_str(), 3)]);
        let by_type = ["mail", "fax", "sms"].map(|word| (word.to_owned(), waiting.clone())).into();
        let overview = Overview { pods: vec![pod], by_type, ..Overview::default() };
        assert_eq!(overview.served_types(&[]), ["mail"]);
        assert_eq!(overview.unhandled(&["sms".to_owned()]), BTreeMap::from([("fax", 3)]));
    }
}
