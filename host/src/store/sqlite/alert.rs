//! Alerts: items of the outbox itself that tell operators what happened, enqueued in the transaction in
//! which it happened.
//!
//! Each kind of alert about each subject is sent once in a while at most; the next one says how many were
//! not sent. What an alert itself dies of is never announced.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};
use serde_json::{Value, json};

use super::enqueue::{insert, millis};
use super::settle::Attempted;
use super::step::Step;
use super::unavailable;
use crate::item::{Failure, Millis, NewItem};
use crate::store::{Alert, AlertKind, StoreError};

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

/// Announces that an item was dead-lettered, and that it blocks its ordering key if it does.
pub(super) fn dead(step: &mut Step<'_>, dead: &Attempted, failure: &Failure, blocks: bool) -> rusqlite::Result<()> {
    if dead.is_alert {
        return Ok(());
    }
    let about = json!({
        "item_id": dead.id, "type": dead.item_type, "cid": dead.cid, "class": failure.class.as_str(),
        "code": failure.code, "message": failure.message, "command": format!("outbox show {}", dead.id),
    });
    send(step, "dlq", &dead.item_type, about)?;
    if let Some(key) = dead.ordering_key.as_deref().filter(|_| blocks) {
        let command = format!("outbox unblock '{key}'");
        let about = json!({ "item_id": dead.id, "type": dead.item_type, "ordering_key": key, "command": command });
        send(step, "key_blocked", &dead.item_type, about)?;
    }
    Ok(())
}

/// Announces what no transition of an item does.
pub(super) fn announce(step: &mut Step<'_>, alert: &Alert) -> Result<(), StoreError> {
    let kind = match alert.kind {
        AlertKind::BreakerOpen => "breaker_open",
    };
    let about = json!({ "type": alert.subject, "message": alert.message, "command": "outbox failures" });
    send(step, kind, &alert.subject, about).map_err(unavailable("announcing an alert"))
}

/// Announces that a component was withdrawn from every process.
pub(super) fn quarantined(step: &mut Step<'_>, plugin: &str, digest: &str, reason: &str) -> rusqlite::Result<()> {
    let about = json!({ "plugin": plugin, "digest": digest, "message": reason, "command": "outbox plugin list" });
    send(step, "plugin_quarantined", plugin, about)
}

/// Enqueues an alert, unless one of its kind about the subject was sent a short time ago.
fn send(step: &mut Step<'_>, kind: &str, subject: &str, mut about: Value) -> rusqlite::Result<()> {
    let Some(alerts) = step.alerts else { return Ok(()) };
    let Some(suppressed) = admitted(step, kind, subject, millis(alerts.every))? else { return Ok(()) };
    about["alert"] = kind.into();
    about["at"] = step.now.into();
    about["suppressed"] = suppressed.into();
    let key = format!("{PREFIX}{kind}:{}", uuid::Uuid::now_v7());
    insert(step.tx, &NewItem::new(&alerts.item_type, &key, about.to_string()), step.now)?;
    step.makes_work = true;
    Ok(())
}

/// How many alerts were held back since the last, when this one may be sent.
fn admitted(step: &Step<'_>, kind: &str, subject: &str, every: Millis) -> rusqlite::Result<Option<u64>> {
    let mut select =
        step.tx.prepare_cached("SELECT sent_at, suppressed FROM outbox_alerts WHERE kind = ?1 AND subject = ?2")?;
    let last: Option<(Millis, u64)> =
        select.query_row([kind, subject], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let is_early = last.is_some_and(|(sent_at, _)| step.now < sent_at.saturating_add(every));
    let mut write = step.tx.prepare_cached(if is_early {
        "UPDATE outbox_alerts SET suppressed = suppressed + 1 WHERE kind = ?1 AND subject = ?2 AND ?3"
    } else {
        "INSERT INTO outbox_alerts (kind, subject, sent_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET sent_at = excluded.sent_at, suppressed = 0"
    })?;
    write.execute(params![kind, subject, step.now])?;
    Ok((!is_early).then(|| last.map_or(0, |(_, suppressed)| suppressed)))
}
