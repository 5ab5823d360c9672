//! The state of the whole outbox in numbers, for the cockpit and the metrics.
//!
//! The totals come from the store. Which process serves which type is what the processes report, for display only.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use outbox_core::saga::SagaOutcome;
use outbox_core::{PluginLimits, PluginState, PluginStatus};
use outbox_item::{Millis, Status, millis};

use crate::engine::backlog::TypeBacklog;
use crate::engine::counters::Counter;
use crate::pods::Pod;

/// The state of the whole outbox in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overview {
    /// The store's time of this reading.
    pub now: Millis,
    /// Items per status, every status present. The PENDING ones of a long queue are those of a count a short time ago.
    pub by_status: BTreeMap<&'static str, u64>,
    /// Items per type and status.
    pub by_type: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// PENDING items per type that were claimed before, and wait for another attempt.
    pub retrying: BTreeMap<String, u64>,
    /// How long ago the oldest PENDING item of each type was enqueued, whether it is available or not.
    pub oldest_enqueued_ms: BTreeMap<String, i64>,
    /// How long the oldest available PENDING item of each type has been waiting.
    pub oldest_pending_ms: BTreeMap<String, i64>,
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
    /// Per [`Violation`](crate::Violation).
    pub contract_violations: BTreeMap<String, u64>,
    /// Processes seen in the last minutes.
    pub pods: Vec<Pod>,
    /// The size of the database in bytes, where the store knows it.
    pub database_bytes: u64,
    /// The size of the write-ahead log in bytes, where there is one.
    pub wal_bytes: u64,
    /// How long the oldest transaction of any session has been open, in milliseconds, where the engine knows: it keeps
    /// the database from removing dead rows.
    pub oldest_transaction_ms: u64,
}

impl Overview {
    /// The pods that are ready and report regularly.
    pub fn live_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.is_live(self.now))
    }

    /// The pods that report regularly, also those that are not ready.
    pub fn reporting_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| !pod.is_silent(self.now))
    }

    /// The plugins of live pods, without versions that only finish their last attempts.
    pub fn serving_plugins(&self) -> impl Iterator<Item = &PluginStatus> {
        let plugins = self.live_pods().flat_map(|pod| &pod.plugins);
        plugins.filter(|plugin| plugin.state != PluginState::Draining)
    }

    /// The limits of the type's claims, where it has some: those of the first version that has some.
    pub fn claim_limits_of(&self, item_type: &str) -> Option<&PluginLimits> {
        let of_type = |plugin: &&PluginStatus| plugin.types.iter().any(|known| known == item_type);
        let mut limits = self.serving_plugins().filter(of_type).filter_map(|plugin| plugin.limits.as_ref());
        limits.find(|limits| limits.has_claim_limit())
    }

    /// The types that a live pod serves, and those in `here`. A version that only finishes its last attempts serves
    /// none.
    pub fn served_types(&self, here: &[String]) -> Vec<String> {
        let types = self.serving_plugins().flat_map(|plugin| &plugin.types).map(String::as_str);
        let served: BTreeSet<&str> = types.chain(here.iter().map(String::as_str)).collect();
        served.into_iter().map(str::to_owned).collect()
    }

    /// The types with PENDING items that no live pod serves and that are not in `here`, with the number of the items.
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

    /// Adds the waiting items of a type.
    pub fn count_waiting(&mut self, TypeBacklog { item_type, waiting, retrying, oldest_at }: TypeBacklog) {
        self.oldest_enqueued_ms.insert(item_type.clone(), millis(self.now.since(oldest_at)));
        if retrying > 0 {
            self.retrying.insert(item_type.clone(), retrying);
        }
        self.count(item_type, Status::Pending, waiting);
    }

    /// Counts in an item of the type that has been available since `available_at`.
    pub fn record_oldest(&mut self, item_type: String, available_at: Millis) {
        let waiting = millis(self.now.since(available_at));
        let known = self.oldest_pending_ms.entry(item_type).or_default();
        *known = waiting.max(*known);
    }

    /// Sums the counts of the types. Called when all of them are counted.
    pub fn sum_statuses(&mut self) {
        for status in Status::ALL {
            let total = self.by_type.values().filter_map(|counts| counts.get(status.as_str())).sum();
            self.by_status.insert(status.as_str(), total);
        }
    }

    /// Puts one of the stored totals where readers find it.
    pub fn add_counter(&mut self, counter: Counter<'_>, total: u64) {
        let done = Status::Done.as_str();
        match counter {
            Counter::Done { item_type } => set(&mut self.by_type, item_type, done, total),
            Counter::Attempt { item_type, outcome } => set(&mut self.attempts, item_type, outcome.to_owned(), total),
            Counter::Followup { item_type, outcome } => {
                set(&mut self.followups, item_type, outcome.as_str().to_owned(), total);
            }
            Counter::SagaBegin { saga } => self.saga(saga).began = total,
            Counter::SagaStep { saga, item_type, outcome } => {
                set(&mut self.saga(saga).steps, item_type, outcome.as_str().to_owned(), total);
            }
            Counter::SagaEnd { saga, outcome: SagaOutcome::Ok } => self.saga(saga).ended_ok = total,
            Counter::SagaEnd { saga, outcome: SagaOutcome::Error } => self.saga(saga).ended_err = total,
            Counter::Violation(violation) => {
                self.contract_violations.insert(violation.as_str().to_owned(), total);
            }
        }
    }

    fn saga(&mut self, saga: &str) -> &mut SagaTotals {
        self.sagas.entry(saga.to_owned()).or_default()
    }
}

/// Sets the total of one outcome of one type.
fn set<K: Ord>(totals: &mut BTreeMap<String, BTreeMap<K, u64>>, item_type: &str, outcome: K, total: u64) {
    totals.entry(item_type.to_owned()).or_default().insert(outcome, total);
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

impl SagaTotals {
    /// Runs that have not ended.
    pub fn open(&self) -> u64 {
        self.began.saturating_sub(self.ended_ok + self.ended_err)
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::PluginStatus;

    use super::*;

    #[test]
    fn a_version_that_only_finishes_what_it_had_begun_serves_nothing() {
        let plugin = |state, types: &[&str]| PluginStatus {
            state,
            types: types.iter().map(|word| (*word).to_owned()).collect(),
            ..PluginStatus::default()
        };
        let plugins = vec![plugin(PluginState::Active, &["mail"]), plugin(PluginState::Draining, &["mail", "fax"])];
        let pod = Pod {
            instance: "pod-1".into(),
            role: None,
            ready: true,
            heartbeat_at: Millis::default(),
            plugins,
            breakers: vec![],
        };
        let waiting = BTreeMap::from([(Status::Pending.as_str(), 3)]);
        let by_type = ["mail", "fax", "sms"].map(|word| (word.to_owned(), waiting.clone())).into();
        let overview = Overview { pods: vec![pod], by_type, ..Overview::default() };
        assert_eq!(overview.served_types(&[]), ["mail"]);
        assert_eq!(overview.unhandled(&["sms".to_owned()]), BTreeMap::from([("fax", 3)]));
    }
}
