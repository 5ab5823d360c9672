//! What is stuck, why, and which command helps.
//!
//! The words are made here, for both engines. Which rows are looked at is the engine's.

use std::time::Duration;

use serde::Serialize;

use outbox_core::{Failure, FailureClass, fingerprint};
use outbox_item::{ItemId, Millis};

use crate::rates::{RateBucket, RateText};

/// From when on something counts as stuck.
#[derive(Clone, Debug, PartialEq)]
pub struct StuckQuery {
    /// The types that handlers serve; `None` when that is not known.
    pub served: Option<Vec<String>>,
    /// An item that could be claimed for longer than this is old, and so is a claim that is held for longer. A claim of a
    /// process that gives no sign of life is told at once.
    pub older_than: Duration,
    /// An item with at least this number of attempts in this life fails repeatedly. Items that wait for their next
    /// attempt are looked at from the third attempt on.
    pub attempts: u32,
    /// The largest number of entries of each kind.
    pub limit: u32,
}

impl Default for StuckQuery {
    /// Five minutes, three attempts, twenty of each kind.
    fn default() -> Self {
        Self { served: None, older_than: Duration::from_mins(5), attempts: 3, limit: 20 }
    }
}

/// Something that is stuck.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StuckEntry {
    /// The kind of standstill.
    pub kind: StuckKind,
    /// The item that it is about, or the first of those.
    pub item: Option<ItemId>,
    /// The item's type.
    pub r#type: Option<String>,
    /// The ordering key that waits.
    pub ordering_key: Option<String>,
    /// The fairness key that is paused.
    pub fairness_key: Option<String>,
    /// How many items it keeps from being handled.
    pub waiting: u64,
    /// Since when.
    pub since: Millis,
    /// What is known of the reason.
    pub why: String,
    /// The command that helps, or shows more.
    pub command: String,
}

impl StuckEntry {
    /// The database has refused the claims of the type since that time; `error` is its last message.
    pub fn refused(item_type: &str, since: Millis, error: &str) -> Self {
        Self {
            kind: StuckKind::Refused,
            item: None,
            r#type: Some(item_type.to_owned()),
            ordering_key: None,
            fairness_key: None,
            waiting: 0,
            since,
            why: format!("the database refuses the claims of the type: {error}"),
            command: format!("outbox list --type {item_type} --status PENDING"),
        }
    }
}

/// The kinds of standstill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StuckKind {
    /// A lease has ended and the item was not taken back.
    ExpiredClaim,
    /// A process has held a claim for long, or gives no sign of life, and the lease has not ended.
    LongClaim,
    /// A breaker is open: the receiver of a type's items fails.
    Breaker,
    /// Items fail again and again.
    Failing,
    /// No handler serves a type.
    Unhandled,
    /// A type or a fairness key is paused and items of it wait.
    Paused,
    /// A dead-lettered item blocks its ordering key.
    BlockedKey,
    /// An item that waits for its time holds others with its ordering key.
    HeldKey,
    /// The database refuses the claims of a type. Only the process whose claims they are says so.
    Refused,
    /// Too many items descend from one item, and some were dead-lettered for it.
    Descendants,
    /// Items could be claimed and are not.
    Old,
    /// An item has no status: it is in none of the places that a status is read from. Only a change by hand or a bug
    /// does this.
    Lost,
}

impl StuckKind {
    /// The word that is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExpiredClaim => "expired_claim",
            Self::LongClaim => "long_claim",
            Self::Breaker => "breaker",
            Self::Failing => "failing",
            Self::Unhandled => "unhandled",
            Self::Paused => "paused",
            Self::BlockedKey => "blocked_key",
            Self::HeldKey => "held_key",
            Self::Refused => "refused",
            Self::Descendants => "descendants",
            Self::Old => "old",
            Self::Lost => "lost",
        }
    }
}

/// The item that an entry is about, as an engine found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckItem {
    /// The item.
    pub id: ItemId,
    /// Its type.
    pub item_type: String,
    /// Its ordering key.
    pub ordering_key: Option<String>,
}

impl StuckItem {
    /// Its lease ended at `lease_until`; the process `by` holds the claim.
    pub fn expired(self, lease_until: Millis, by: &str) -> StuckEntry {
        let why = format!("the lease of {by} has ended, and no process that has the store open took the item back");
        let command = format!("outbox release {}", self.id);
        self.report(StuckKind::ExpiredClaim, lease_until, why, command)
    }

    /// The process `by` has held its claim since `claimed_at`, which is long ago or, at `now`, in the future.
    pub fn held_long(self, claimed_at: Millis, by: &str, now: Millis) -> StuckEntry {
        let (why, command) = if claimed_at > now {
            let why = format!("{by} claimed it while a clock was ahead, so its lease ends late");
            (why, format!("outbox release --force {}, if {by} has ended", self.id))
        } else {
            let why = "still renews the lease: its attempt takes long or does not end, or its settlement keeps failing";
            (format!("{by} {why}"), format!("outbox show {}", self.id))
        };
        self.report(StuckKind::LongClaim, claimed_at, why, command)
    }

    /// It is dead-lettered, and `waiting` items wait behind it.
    pub fn blocking(self, dead_at: Millis, error: Option<String>, waiting: u64) -> StuckEntry {
        let id = self.id;
        let why = format!("item {id} is dead-lettered and blocks the key: {}", error.unwrap_or_default());
        let key = self.ordering_key.as_deref().unwrap_or_default();
        let command = format!("outbox replay {id}, or outbox unblock '{key}' to go on without it");
        StuckEntry { waiting, ..self.report(StuckKind::BlockedKey, dead_at, why, command) }
    }

    /// It is the head of its key and becomes available in `wait` milliseconds; `waiting` items wait behind it. One that was
    /// claimed before has most likely failed, and another attempt helps only when the cause is gone.
    pub fn holding(self, created_at: Millis, wait: i64, waiting: u64, was_claimed: bool) -> StuckEntry {
        let id = self.id;
        let why = format!("item {id} is in front of the key and is not available for another {} s", wait / 1000);
        let now = format!("outbox reschedule {id} --in 0s");
        let command = if was_claimed { format!("outbox show {id}; {now}, when its cause is gone") } else { now };
        StuckEntry { waiting, ..self.report(StuckKind::HeldKey, created_at, why, command) }
    }

    /// It is in no place, since some time after `created_at`.
    pub fn lost(self, created_at: Millis) -> StuckEntry {
        let why = "the item has no status, so no process will handle it: its row in a table of the outbox was deleted";
        let command = format!("outbox restore {}", self.id);
        self.report(StuckKind::Lost, created_at, why.to_owned(), command)
    }

    /// `dead` items that descend from it were dead-lettered since `dead_at`, because too many do.
    pub fn with_descendants(self, dead_at: Millis, dead: u64) -> StuckEntry {
        let Self { id, item_type, .. } = &self;
        let why = format!(
            "more items descend from item {id}, of the type {item_type}, than `limits.descendants` allows: {dead} of \
             them are dead-lettered, because their follow-ups would be too many"
        );
        let command = format!("outbox show {id}");
        StuckEntry { waiting: dead, ..self.report(StuckKind::Descendants, dead_at, why, command) }
    }

    fn report(self, kind: StuckKind, since: Millis, why: String, command: String) -> StuckEntry {
        let Self { id, item_type, ordering_key } = self;
        StuckEntry {
            kind,
            item: Some(id),
            r#type: Some(item_type),
            ordering_key,
            fairness_key: None,
            waiting: 1,
            since,
            why,
            command,
        }
    }
}

/// The claims of one type that a silent process holds, as an engine found them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentClaims {
    /// One of the items.
    pub item: StuckItem,
    /// How many items they are.
    pub count: u64,
    /// The process.
    pub pod: String,
    /// When it gave its last sign of life.
    pub last_sign: Millis,
    /// When the last of their leases ends.
    pub lease_until: Millis,
}

impl SilentClaims {
    /// The entry about them at `now`.
    pub fn entry(self, now: Millis) -> StuckEntry {
        let Self { item, count, pod, last_sign, lease_until } = self;
        let ends_in = lease_until.since(now).as_millis().div_ceil(1_000);
        let why = format!(
            "{pod} gives no sign of life and holds {count} claimed: other processes take them back when their leases \
             end, the last in {ends_in} s"
        );
        let item_type = &item.item_type;
        let command =
            format!("outbox release --status CLAIMED --type {item_type} --pod {pod} --force, if {pod} has ended");
        StuckEntry { waiting: count, ..item.report(StuckKind::LongClaim, last_sign, why, command) }
    }
}

/// An item that fails again and again, as an engine found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingItem {
    /// The item.
    pub item: StuckItem,
    /// When its first attempt of this life ended; when it was enqueued, if the history does not have that attempt.
    pub since: Millis,
    /// Its attempts in this life.
    pub attempts: u32,
    /// The last message.
    pub error: Option<String>,
}

impl FailingItem {
    fn cause(&self) -> String {
        let failure = Failure::new(FailureClass::Retryable, "", self.error.clone().unwrap_or_default());
        fingerprint(&self.item.item_type, &failure, None)
    }
}

/// The items that fail alike as one entry with their number, most attempts first, at most `limit` entries.
pub fn failing_groups(items: Vec<FailingItem>, limit: u32) -> Vec<StuckEntry> {
    let mut groups: Vec<(String, Vec<FailingItem>)> = Vec::new();
    for item in items {
        let cause = item.cause();
        match groups.iter().position(|(known, _)| *known == cause) {
            Some(place) => groups[place].1.push(item),
            None if groups.len() < limit as usize => groups.push((cause, vec![item])),
            None => {}
        }
    }
    groups.into_iter().filter_map(|(_, group)| failing_group(group)).collect()
}

fn failing_group(group: Vec<FailingItem>) -> Option<StuckEntry> {
    let count = group.len() as u64;
    let since = group.iter().map(|failing| failing.since).min()?;
    let FailingItem { item, attempts, error, .. } = group.into_iter().next()?;
    let error = error.unwrap_or_default();
    let (why, command) = if count == 1 {
        (format!("{attempts} attempts so far; the last: {error}"), format!("outbox show {}", item.id))
    } else {
        let why = format!("{count} items fail alike, with up to {attempts} attempts so far; the last: {error}");
        (why, format!("outbox failures --retrying --type {}", item.item_type))
    };
    Some(StuckEntry { waiting: count, ..item.report(StuckKind::Failing, since, why, command) })
}

/// Items of one type that could be claimed, as an engine found them.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingType {
    /// The oldest of them.
    pub oldest: StuckItem,
    /// Since when the oldest could be claimed.
    pub since: Millis,
    /// How many there are.
    pub count: u64,
    /// When the type was paused, if it is.
    pub paused_at: Option<Millis>,
    /// Why it is paused.
    pub pause_reason: Option<String>,
    /// Its token bucket, if a claim has taken one of its tokens.
    pub rate: Option<RateBucket>,
}

impl WaitingType {
    /// Why they are not claimed: the type is paused, no handler serves it, or workers do not keep up. `None` when the
    /// items have not waited long.
    pub fn diagnose(self, query: &StuckQuery, now: Millis) -> Option<StuckEntry> {
        let (kind, why, command) = self.diagnosis(query, now)?;
        let since = self.paused_at.unwrap_or(self.since);
        Some(StuckEntry { waiting: self.count, ..self.oldest.report(kind, since, why, command) })
    }

    fn diagnosis(&self, query: &StuckQuery, now: Millis) -> Option<(StuckKind, String, String)> {
        let item_type = &self.oldest.item_type;
        let is_unserved = query.served.as_ref().is_some_and(|served| !served.contains(item_type));
        let is_old = now.since(self.since) > query.older_than;
        if self.paused_at.is_some() {
            let reason = self.pause_reason.as_deref().unwrap_or("no reason given");
            Some((StuckKind::Paused, format!("the type is paused: {reason}"), format!("outbox resume {item_type}")))
        } else if is_unserved {
            let why = "no live process has a handler for the type".to_owned();
            Some((StuckKind::Unhandled, why, "outbox plugin list".to_owned()))
        } else if let Some(rate) = self.rate.filter(|rate| is_old && rate.is_used_up(now)) {
            let limit = |per_second| format!(" ({})", RateText::of(per_second).short());
            let limit = rate.per_second.map(limit).unwrap_or_default();
            let why =
                format!("more items come than the `rate` in the manifest of the type allows{limit}, so they wait");
            Some((StuckKind::Old, why, "outbox stats --last 1h".to_owned()))
        } else if is_old {
            let why = "the items may be claimed and are not: too few workers, or a limit of the type".to_owned();
            Some((StuckKind::Old, why, "outbox stats".to_owned()))
        } else {
            None
        }
    }
}

/// Items with a paused fairness key that could be claimed, as an engine found them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingKey {
    /// The oldest of them.
    pub oldest: StuckItem,
    /// When the key was paused.
    pub paused_at: Millis,
    /// How many there are of its type.
    pub count: u64,
    /// The key.
    pub fairness_key: String,
    /// Whether the items of every type are paused.
    pub is_of_all_types: bool,
    /// Why they are.
    pub pause_reason: Option<String>,
}

impl WaitingKey {
    /// The entry about them.
    pub fn paused(self) -> StuckEntry {
        let (key, reason) = (&self.fairness_key, self.pause_reason.as_deref().unwrap_or("no reason given"));
        let why = format!("the fairness key {key} is paused: {reason}");
        let of_type = if self.is_of_all_types { String::new() } else { format!("{} ", self.oldest.item_type) };
        let command = format!("outbox resume {of_type}--key='{}'", key.replace('\'', r"'\''"));
        let entry = self.oldest.report(StuckKind::Paused, self.paused_at, why, command);
        StuckEntry { waiting: self.count, fairness_key: Some(self.fairness_key), ..entry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_fail_alike_are_one_entry_with_their_number() {
        let failing = |id: i64, error: &str| FailingItem {
            item: StuckItem { id: ItemId::new(id), item_type: "mail".into(), ordering_key: None },
            since: Millis::new(1_000 - id),
            attempts: 9,
            error: Some(error.to_owned()),
        };
        let mut items: Vec<_> = (1..=300).map(|id| failing(id, &format!("no answer for order {id}"))).collect();
        items.push(failing(301, "the address is wrong"));
        let groups = failing_groups(items.clone(), 20);
        let about = |entry: &StuckEntry| (entry.item, entry.waiting, entry.since);
        let [many, one] = &groups[..] else { panic!("{groups:?}") };
        assert_eq!(about(many), (Some(ItemId::new(1)), 300, Millis::new(700)));
        assert!(many.why.starts_with("300 items fail alike"), "{}", many.why);
        assert_eq!((one.waiting, one.command.as_str()), (1, "outbox show 301"));
        assert_eq!(failing_groups(items, 1).len(), 1);
    }
}
