//! Alerts: items of the outbox itself that tell operators what happened, enqueued in the transaction in
//! which it happened.
//!
//! Each kind of alert about each subject is sent once in a while at most; the next one says how many were
//! not sent. What an alert itself dies of is never sent as one. Pure: what is said is decided here, and each
//! store sends it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::attempt_record::AttemptRecord;
use crate::operations::{Alert, AlertKind};
use outbox_core::Failure;
use outbox_item::{Millis, NewItem};

/// What is sent as items, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertSettings {
    /// The type of the items; its handler sends them where operators look.
    pub item_type: String,
    /// A kind of alert about one subject is sent no more often than this.
    pub min_interval: Duration,
}

/// The keys of alerts begin with this.
const PREFIX: &str = "outbox-alert:";

pub fn is_alert(idem_key: &str) -> bool {
    idem_key.starts_with(PREFIX)
}

/// What is worth an alert, if none like it was sent a short time ago.
pub struct AlertMessage {
    /// What happened, in a word.
    pub kind: &'static str,
    /// To what.
    pub subject: String,
    data: Value,
}

impl AlertMessage {
    fn new(kind: &'static str, subject: &str, data: Value) -> Self {
        Self { kind, subject: subject.to_owned(), data }
    }

    /// The item that carries it, with how many like it were not sent before.
    pub fn into_item(mut self, alerts: &AlertSettings, suppressed: u64, now: Millis) -> NewItem {
        self.data["alert"] = self.kind.into();
        self.data["at"] = now.into();
        self.data["suppressed"] = suppressed.into();
        let key = format!("{PREFIX}{}:{}", self.kind, uuid::Uuid::now_v7());
        NewItem::new(&alerts.item_type, &key, self.data.to_string())
    }
}

/// An item was dead-lettered, and blocks its ordering key if it does.
pub fn dead_letter_messages(dead: &AttemptRecord, failure: &Failure, blocks: bool) -> Vec<AlertMessage> {
    if dead.is_alert {
        return Vec::new();
    }
    let data = json!({
        "item_id": dead.id, "type": dead.item_type, "cid": dead.cid, "class": failure.class.as_str(),
        "code": failure.code, "message": failure.message, "command": format!("outbox show {}", dead.id),
    });
    let blocked = dead.ordering_key.as_deref().filter(|_| blocks).map(|key| {
        let command = format!("outbox unblock '{key}'");
        let data = json!({ "item_id": dead.id, "type": dead.item_type, "ordering_key": key, "command": command });
        AlertMessage::new("key_blocked", &dead.item_type, data)
    });
    [AlertMessage::new("dlq", &dead.item_type, data)].into_iter().chain(blocked).collect()
}

/// The message of what no transition of an item tells.
pub fn alert_message(alert: &Alert) -> AlertMessage {
    let kind = match alert.kind {
        AlertKind::BreakerOpen => "breaker_open",
    };
    let data = json!({ "type": alert.subject, "message": alert.message, "command": "outbox failures" });
    AlertMessage::new(kind, &alert.subject, data)
}

/// A component was quarantined for every process.
pub fn quarantine_message(plugin: &str, digest: &str, reason: &str) -> AlertMessage {
    let data = json!({ "plugin": plugin, "digest": digest, "message": reason, "command": "outbox plugin list" });
    AlertMessage::new("plugin_quarantined", plugin, data)
}
