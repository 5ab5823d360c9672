//! The open breakers of all processes, as what is stuck.
//!
//! Pods tell which breakers are open; this file puts those of one receiver and type together. It reads no store.

use std::collections::BTreeMap;

use outbox_core::{BreakerState, BreakerStatus};
use outbox_item::Millis;

use crate::engine::backlog::TypeBacklog;
use crate::pods::Pod;
use crate::stuck::{StuckEntry, StuckKind};

/// The same breaker in several processes.
struct SharedBreaker<'a> {
    status: &'a BreakerStatus,
    processes: u64,
    since: Millis,
}

/// One entry for each receiver and type, the oldest outage first. `backlog` has the waiting items of each type.
pub fn open_breakers(pods: &[Pod], backlog: &[TypeBacklog], now: Millis) -> Vec<StuckEntry> {
    let mut shared: BTreeMap<(String, &str), SharedBreaker<'_>> = BTreeMap::new();
    let live = pods.iter().filter(|pod| pod.is_live(now));
    for (pod, status) in live.flat_map(|pod| pod.breakers.iter().map(move |status| (pod, status))) {
        if status.state == BreakerState::Closing {
            continue;
        }
        let since = Millis::new(pod.heartbeat_at.get().saturating_sub_unsigned(status.open_for_ms));
        for item_type in &status.types {
            let same =
                shared.entry((status.subject(), item_type)).or_insert(SharedBreaker { status, processes: 0, since });
            same.processes += 1;
            same.since = same.since.min(since);
        }
    }
    let waiting = |item_type: &str| {
        let of_type = backlog.iter().find(|backlog| backlog.item_type == item_type);
        of_type.map_or(0, |backlog| backlog.waiting)
    };
    let mut found: Vec<_> =
        shared.into_iter().map(|((_, item_type), shared)| shared.entry(item_type, waiting(item_type))).collect();
    found.sort_by_key(|entry| entry.since);
    found
}

impl SharedBreaker<'_> {
    fn entry(&self, item_type: &str, waiting: u64) -> StuckEntry {
        let subject = self.status.subject();
        let processes =
            if self.processes == 1 { "one process".to_owned() } else { format!("{} processes", self.processes) };
        let consequence = match (self.status.state, &self.status.origin) {
            (BreakerState::Expired, _) => "was open for a day, so failures count again",
            (_, Some(_)) => "is open, so items for it wait and use up no attempts",
            (_, None) => "is open, so its items wait",
        };
        StuckEntry {
            kind: StuckKind::Breaker,
            item: None,
            r#type: Some(item_type.to_owned()),
            ordering_key: None,
            fairness_key: None,
            waiting,
            since: self.since,
            why: format!(
                "the breaker of {subject} {consequence} (in {processes}); the last failure: {}",
                self.status.cause
            ),
            command: format!("outbox failures --retrying --type {item_type}"),
        }
    }
}
