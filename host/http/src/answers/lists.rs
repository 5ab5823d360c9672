//! What operators look through: pauses, groups of failures, and what is stuck.

use serde::Serialize;
use utoipa::ToSchema;

use outbox_item::{ItemId, Millis};
use outbox_store::{FailureGroup, KeyPause, KeyTotals, Pause, StuckEntry, StuckKind};

use crate::answers::sight::{Sight, Visible};
use crate::description::{Id, StuckKindWord, UnixMillis};

/// What is paused.
#[derive(Serialize, ToSchema)]
pub(crate) struct PauseList {
    /// The types, by name.
    pauses: Vec<PauseView>,
    /// The fairness keys, by name.
    keys: Vec<KeyPauseView>,
}

/// A type that no worker claims.
#[derive(Serialize, ToSchema)]
struct PauseView {
    /// The type.
    r#type: String,
    /// Since when, in Unix milliseconds, like all times.
    #[schema(value_type = UnixMillis)]
    paused_at: Millis,
    /// Who paused it.
    actor: String,
    /// Why.
    #[schema(required = true)]
    reason: Option<String>,
}

/// A fairness key of which no worker claims items.
#[derive(Serialize, ToSchema)]
struct KeyPauseView {
    /// The key.
    fairness_key: String,
    /// The type whose items are paused; `null` for those of every type.
    #[schema(required = true)]
    r#type: Option<String>,
    /// Since when.
    #[schema(value_type = UnixMillis)]
    paused_at: Millis,
    /// Who paused it.
    actor: String,
    /// Why.
    #[schema(required = true)]
    reason: Option<String>,
}

impl PauseList {
    /// The pauses of types and of keys.
    pub(crate) fn of(pauses: Vec<Pause>, keys: Vec<KeyPause>) -> Self {
        let of_type = |Pause { r#type, paused_at, actor, reason }| PauseView { r#type, paused_at, actor, reason };
        let of_key = |KeyPause { fairness_key, r#type, paused_at, actor, reason }| KeyPauseView {
            fairness_key,
            r#type,
            paused_at,
            actor,
            reason,
        };
        Self { pauses: pauses.into_iter().map(of_type).collect(), keys: keys.into_iter().map(of_key).collect() }
    }
}

/// Fairness keys.
#[derive(Serialize, ToSchema)]
pub(crate) struct KeyTotalsList {
    /// The keys by type, those with the most waiting items first.
    keys: Vec<KeyTotalsView>,
}

/// The unfinished and dead items of one fairness key and type.
#[derive(Serialize, ToSchema)]
struct KeyTotalsView {
    /// The key.
    fairness_key: String,
    /// The type.
    r#type: String,
    /// Items that wait.
    pending: u64,
    /// Those of them that wait for another attempt.
    retrying: u64,
    /// Items that are claimed.
    claimed: u64,
    /// Items in the DLQ.
    dlq: u64,
    /// When the first of those that wait is due, or was.
    #[schema(value_type = Option<UnixMillis>, required = true)]
    first_due: Option<Millis>,
}

impl From<Vec<KeyTotals>> for KeyTotalsList {
    fn from(keys: Vec<KeyTotals>) -> Self {
        let view = |KeyTotals { fairness_key, r#type, pending, retrying, claimed, dlq, first_due }| KeyTotalsView {
            fairness_key,
            r#type,
            pending,
            retrying,
            claimed,
            dlq,
            first_due,
        };
        Self { keys: keys.into_iter().map(view).collect() }
    }
}

/// Groups of like failures.
#[derive(Serialize, ToSchema)]
pub(crate) struct FailureList {
    /// The groups, the largest first.
    failures: Vec<FailureGroupView>,
}

/// Items with the same failure.
#[derive(Serialize, ToSchema)]
struct FailureGroupView {
    /// What the parameter `fingerprint` takes.
    fingerprint: String,
    /// Their type.
    r#type: String,
    /// How many.
    count: u64,
    /// When the first of them was dead-lettered, or first attempted.
    #[schema(value_type = UnixMillis)]
    first_at: Millis,
    /// When the last of them was dead-lettered, or last attempted.
    #[schema(value_type = UnixMillis)]
    last_at: Millis,
    /// The newest of them.
    #[schema(value_type = Id)]
    sample: ItemId,
    /// The failure code of that one.
    #[schema(required = true)]
    code: Option<String>,
    /// Its message.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = Option<String>, required = false)]
    message: Visible<Option<String>>,
    /// The SHA-256 of the component that made its last attempt.
    #[schema(required = true)]
    handler_digest: Option<String>,
    /// The members that are left out, because the caller lacks the right `read-payload`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    hidden: Vec<&'static str>,
}

impl FailureList {
    /// The groups as their reader sees them.
    pub(crate) fn of(groups: Vec<FailureGroup>, sight: &Sight) -> Self {
        Self { failures: groups.into_iter().map(|group| FailureGroupView::of(group, sight)).collect() }
    }
}

impl FailureGroupView {
    fn of(group: FailureGroup, sight: &Sight) -> Self {
        Self {
            fingerprint: group.fingerprint,
            r#type: group.r#type,
            count: group.count,
            first_at: group.first_at,
            last_at: group.last_at,
            sample: group.sample,
            code: group.code,
            message: sight.content(group.message),
            handler_digest: group.handler_digest,
            hidden: sight.hidden(&["message"]),
        }
    }
}

/// What is stuck.
#[derive(Serialize, ToSchema)]
pub(crate) struct StuckList {
    /// The entries, by kind.
    stuck: Vec<StuckView>,
}

/// Something that is stuck.
#[derive(Serialize, ToSchema)]
struct StuckView {
    /// The kind of standstill.
    #[schema(value_type = StuckKindWord)]
    kind: StuckKind,
    /// The item that it is about, or the first of those.
    #[schema(value_type = Option<Id>, required = true)]
    item: Option<ItemId>,
    /// The item's type.
    #[schema(required = true)]
    r#type: Option<String>,
    /// The ordering key that waits.
    #[schema(required = true)]
    ordering_key: Option<String>,
    /// The fairness key that is paused.
    #[schema(required = true)]
    fairness_key: Option<String>,
    /// How many items it keeps from being handled.
    waiting: u64,
    /// Since when.
    #[schema(value_type = UnixMillis)]
    since: Millis,
    /// What is known of the reason.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = String, required = false)]
    why: Visible<String>,
    /// The command that helps, or shows more.
    command: String,
    /// The members that are left out, because the caller lacks the right `read-payload`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    hidden: Vec<&'static str>,
}

impl StuckList {
    /// The entries as their reader sees them.
    pub(crate) fn of(entries: Vec<StuckEntry>, sight: &Sight) -> Self {
        Self { stuck: entries.into_iter().map(|entry| StuckView::of(entry, sight)).collect() }
    }
}

/// Whether the reasons of this kind end with the message of a failure, or of a database that quotes a row.
pub(crate) fn quotes_content(kind: StuckKind) -> bool {
    matches!(kind, StuckKind::Failing | StuckKind::BlockedKey | StuckKind::Breaker | StuckKind::Refused)
}

impl StuckView {
    fn of(entry: StuckEntry, sight: &Sight) -> Self {
        let StuckEntry { kind, item, r#type, ordering_key, fairness_key, waiting, since, why, command } = entry;
        let (why, hidden) = if quotes_content(kind) {
            (sight.content(why), sight.hidden(&["why"]))
        } else {
            (Visible::Shown(why), Vec::new())
        };
        Self { kind, item, r#type, ordering_key, fairness_key, waiting, since, why, command, hidden }
    }
}
