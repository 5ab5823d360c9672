//! Alerts: items that the outbox itself enqueues for operators, in the transaction of the event that they report.
//!
//! It decides which events become alerts, and their content. An alert that is dead-lettered causes no alert. How often
//! one is sent is limited by each engine, which counts the suppressed ones.

use std::time::Duration;

use serde_json::{Value, json};

use outbox_core::Failure;
use outbox_item::{Millis, NewItem};

use crate::engine::attempt_record::{ALERT_KEY_PREFIX, AttemptRecord};
use crate::queue::{Alert, AlertKind};

/// Which items carry alerts, and how often one is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertSettings {
    /// The type of the items. Its handler sends them to operators.
    pub item_type: String,
    /// The shortest time between two alerts of one kind about one subject.
    pub min_interval: Duration,
}

/// One alert, before the engine has decided whether it is sent.
pub struct AlertMessage {
    /// What happened, in a word.
    pub kind: &'static str,
    /// To what: a type or a plugin.
    pub subject: String,
    data: Value,
}

impl AlertMessage {
    fn new(kind: &'static str, subject: &str, data: Value) -> Self {
        Self { kind, subject: subject.to_owned(), data }
    }

    /// The item that carries the alert; `suppressed` alerts of its kind and subject were not sent before it.
    pub fn into_item(mut self, alerts: &AlertSettings, suppressed: u64, now: Millis) -> NewItem {
        self.data["alert"] = self.kind.into();
        self.data["at"] = now.get().into();
        self.data["suppressed"] = suppressed.into();
        let key = format!("{ALERT_KEY_PREFIX}{}:{}", self.kind, uuid::Uuid::now_v7());
        NewItem::new(&alerts.item_type, &key, self.data.to_string())
    }
}

/// The alerts about a dead-lettered item with the correlation id `cid`: one, or two when the item blocks its ordering
/// key, `blocked_key`.
pub fn dead_letter_messages(
    dead: &AttemptRecord,
    cid: &str,
    failure: &Failure,
    blocked_key: Option<&str>,
) -> Vec<AlertMessage> {
    if dead.is_alert {
        return Vec::new();
    }
    let data = json!({
        "item_id": dead.id, "type": dead.item_type, "cid": cid, "class": failure.class.as_str(),
        "code": failure.code, "message": failure.message, "command": format!("outbox show {}", dead.id),
    });
    let blocked = blocked_key.map(|key| {
        let data =
            json!({ "item_id": dead.id, "type": dead.item_type, "ordering_key": key, "command": "outbox stuck" });
        AlertMessage::new("key_blocked", &dead.item_type, data)
    });
    [AlertMessage::new("dlq", &dead.item_type, data)].into_iter().chain(blocked).collect()
}

/// The alert about an event that no transition of an item causes.
pub fn alert_message(alert: &Alert) -> AlertMessage {
    let kind = match alert.kind {
        AlertKind::BreakerOpen => "breaker_open",
    };
    let command = format!("outbox failures --retrying --type {}", alert.subject);
    let data = json!({ "type": alert.subject, "message": alert.message, "command": command });
    AlertMessage::new(kind, &alert.subject, data)
}

/// The alert about a component that was quarantined for every process.
pub fn quarantine_message(plugin: &str, digest: &str, reason: &str) -> AlertMessage {
    let data = json!({ "plugin": plugin, "digest": digest, "message": reason, "command": "outbox plugin list" });
    AlertMessage::new("plugin_quarantined", plugin, data)
}
