//! What is said of things that do not move, whichever store found them.

use crate::operations::{StuckEntry, StuckKind, StuckQuery};
use outbox_item::{ItemId, Millis};

/// The item that something is said about.
pub struct StuckItem {
    pub id: ItemId,
    pub item_type: String,
    pub ordering_key: Option<String>,
}

impl StuckItem {
    pub fn expired(self, lease_until: Millis, by: &str) -> StuckEntry {
        let why = format!("the lease of {by} has ended, and no process that has the store open took the item back");
        let command = format!("outbox release {}", self.id);
        self.report(StuckKind::ExpiredClaim, lease_until, why, command)
    }

    pub fn failing(self, created_at: Millis, attempts: u32, error: Option<String>) -> StuckEntry {
        let why = format!("{attempts} attempts so far; the last: {}", error.unwrap_or_default());
        let command = format!("outbox show {}", self.id);
        self.report(StuckKind::Failing, created_at, why, command)
    }

    pub fn blocking(self, dead_at: Millis, error: Option<String>, waiting: u64) -> StuckEntry {
        let id = self.id;
        let why = format!("item {id} is dead-lettered and blocks the key: {}", error.unwrap_or_default());
        let key = self.ordering_key.as_deref().unwrap_or_default();
        let command = format!("outbox replay {id}, or outbox unblock '{key}' to go on without it");
        StuckEntry { waiting, ..self.report(StuckKind::BlockedKey, dead_at, why, command) }
    }

    /// In front of its key, and to be claimed only in `wait` milliseconds.
    pub fn holding(self, created_at: Millis, wait: Millis, waiting: u64) -> StuckEntry {
        let id = self.id;
        let why = format!("item {id} is in front of the key and is not available for another {} s", wait / 1000);
        let command = format!("outbox reschedule {id} --in 0s");
        StuckEntry { waiting, ..self.report(StuckKind::HeldKey, created_at, why, command) }
    }

    fn report(self, kind: StuckKind, since: Millis, why: String, command: String) -> StuckEntry {
        let Self { id, item_type, ordering_key } = self;
        StuckEntry { kind, item: Some(id), r#type: Some(item_type), ordering_key, waiting: 1, since, why, command }
    }
}

/// Items of a type that could be claimed.
pub struct WaitingType {
    /// The oldest of them.
    pub oldest: StuckItem,
    pub since: Millis,
    pub count: u64,
    pub is_paused: bool,
    pub pause_reason: Option<String>,
}

impl WaitingType {
    /// Why they are not: nobody may, nobody can, or nobody keeps up. `None` when they have not waited long.
    pub fn diagnose(self, query: &StuckQuery, now: Millis) -> Option<StuckEntry> {
        let item_type = &self.oldest.item_type;
        let is_unserved = query.served.as_ref().is_some_and(|served| !served.contains(item_type));
        let is_old = now - self.since > i64::try_from(query.older_than.as_millis()).unwrap_or(i64::MAX);
        let (kind, why, command) = if self.is_paused {
            let reason = self.pause_reason.unwrap_or_else(|| "no reason given".into());
            (StuckKind::Paused, format!("the type is paused: {reason}"), format!("outbox resume {item_type}"))
        } else if is_unserved {
            let why = "no live process has a handler for the type".to_owned();
            (StuckKind::Unhandled, why, "outbox plugin list".to_owned())
        } else if is_old {
            let why = "the items may be claimed and are not: too few workers, or a limit of the type".to_owned();
            (StuckKind::Old, why, "outbox stats".to_owned())
        } else {
            return None;
        };
        Some(StuckEntry { waiting: self.count, ..self.oldest.report(kind, self.since, why, command) })
    }
}
