//! Alerts: items of the outbox itself that tell operators what happened, enqueued in the transaction in
//! which it happened.
//!
//! Each kind of alert about each subject is sent once in a while at most; the next one says how many were
//! not sent. What an alert itself dies of is never announced. Pure: what is said is decided here, and each
//! store sends it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Alert, AlertKind, Attempted};
use crate::item::{Failure, Millis, NewItem};

/// What is announced as items, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts {
    /// The type of the items; its handler sends them where operators look.
    pub item_type: String,
    /// A kind of alert about one subject is sent no more often than this.
    pub every: Duration,
}

/// The keys of alerts begin with this.
const PREFIX: &str = "outbox-alert:";

pub(super) fn is_alert(idem_key: &str) -> bool {
    idem_key.starts_with(PREFIX)
}

/// What is worth an alert, if none like it was sent a short time ago.
pub(super) struct Notice {
    /// What happened, in a word.
    pub(super) kind: &'static str,
    /// To what.
    pub(super) subject: String,
    about: Value,
}

impl Notice {
    fn new(kind: &'static str, subject: &str, about: Value) -> Self {
        Self { kind, subject: subject.to_owned(), about }
    }

    /// The item that carries it, with how many like it were not sent before.
    pub(super) fn item(mut self, alerts: &Alerts, suppressed: u64, now: Millis) -> NewItem {
        self.about["alert"] = self.kind.into();
        self.about["at"] = now.into();
        self.about["suppressed"] = suppressed.into();
        let key = format!("{PREFIX}{}:{}", self.kind, uuid::Uuid::now_v7());
        NewItem::new(&alerts.item_type, &key, self.about.to_string())
    }
}

/// An item was dead-lettered, and blocks its ordering key if it does.
pub(super) fn dead(dead: &Attempted, failure: &Failure, blocks: bool) -> Vec<Notice> {
    if dead.is_alert {
        return Vec::new();
    }
    let about = json!({
        "item_id": dead.id, "type": dead.item_type, "cid": dead.cid, "class": failure.class.as_str(),
        "code": failure.code, "message": failure.message, "command": format!("outbox show {}", dead.id),
    });
    let blocked = dead.ordering_key.as_deref().filter(|_| blocks).map(|key| {
        let command = format!("outbox unblock '{key}'");
        let about = json!({ "item_id": dead.id, "type": dead.item_type, "ordering_key": key, "command": command });
        Notice::new("key_blocked", &dead.item_type, about)
    });
    [Notice::new("dlq", &dead.item_type, about)].into_iter().chain(blocked).collect()
}

/// What no transition of an item announces.
pub(super) fn announced(alert: &Alert) -> Notice {
    let kind = match alert.kind {
        AlertKind::BreakerOpen => "breaker_open",
    };
    let about = json!({ "type": alert.subject, "message": alert.message, "command": "outbox failures" });
    Notice::new(kind, &alert.subject, about)
}

/// A component was withdrawn from every process.
pub(super) fn quarantined(plugin: &str, digest: &str, reason: &str) -> Notice {
    let about = json!({ "plugin": plugin, "digest": digest, "message": reason, "command": "outbox plugin list" });
    Notice::new("plugin_quarantined", plugin, about)
}
