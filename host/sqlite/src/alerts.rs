//! Enqueues alerts, which [`outbox_store::engine::alerts`] words, in the transaction of the event that they report.
//!
//! Owns the rate limit per kind and subject.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use outbox_core::Failure;
use outbox_item::Millis;
use outbox_store::engine::alerts::{self, AlertMessage};
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::{Alert, StoreError};

use crate::enqueue::insert;
use crate::error::unavailable;
use crate::rows::{cell, text_or_like, time};
use crate::write_tx::WriteTx;

/// Alerts operators that an item was dead-lettered and, if so, that it blocks its ordering key.
pub(crate) fn dead_lettered(
    tx: &mut WriteTx<'_>,
    dead: &AttemptRecord,
    failure: &Failure,
    blocks: bool,
) -> rusqlite::Result<()> {
    if tx.alerts.is_none() {
        return Ok(());
    }
    // The record of an attempt has it for steps of sagas only.
    let mut select = tx.connection.prepare_cached("SELECT cid FROM outbox_items WHERE id = ?1")?;
    let cid = select.query_row([dead.id.get()], |row| text_or_like(row, "cid"))?;
    drop(select);
    let blocked_key = dead.ordering_key.as_deref().filter(|_| blocks);
    let messages = alerts::dead_letter_messages(dead, &cid, failure, blocked_key);
    messages.into_iter().try_for_each(|message| send(tx, message))
}

/// Alerts operators to an event that is no transition of an item.
pub(crate) fn send_alert(tx: &mut WriteTx<'_>, alert: &Alert) -> Result<(), StoreError> {
    send(tx, alerts::alert_message(alert)).map_err(unavailable("announcing an alert"))
}

/// Alerts operators that a component was quarantined for every process.
pub(crate) fn quarantined(tx: &mut WriteTx<'_>, plugin: &str, digest: &str, reason: &str) -> rusqlite::Result<()> {
    send(tx, alerts::quarantine_message(plugin, digest, reason))
}

/// Enqueues an alert, unless one of its kind about its subject was sent less than `min_interval` ago.
fn send(tx: &mut WriteTx<'_>, message: AlertMessage) -> rusqlite::Result<()> {
    let Some(alerts) = tx.alerts else { return Ok(()) };
    let Some(suppressed) = pass_rate_limit(tx, message.kind, &message.subject, alerts.min_interval)? else {
        return Ok(());
    };
    insert(tx.connection, &message.into_item(alerts, suppressed, tx.now), tx.now)?;
    tx.wakes_workers = true;
    Ok(())
}

/// The number of alerts suppressed since the last one, when this one may be sent; else `None`, and it is counted as
/// suppressed.
fn pass_rate_limit(
    tx: &WriteTx<'_>,
    kind: &str,
    subject: &str,
    min_interval: Duration,
) -> rusqlite::Result<Option<u64>> {
    let mut select = tx
        .connection
        .prepare_cached("SELECT sent_at, suppressed FROM outbox_alerts WHERE kind = ?1 AND subject = ?2")?;
    let last: Option<(Millis, u64)> =
        select.query_row([kind, subject], |row| Ok((time(row, 0)?, cell(row, 1)?))).optional()?;
    // An alert of the future was sent before the clock was set back.
    let is_early =
        last.is_some_and(|(sent_at, _)| tx.now.since(sent_at) < min_interval && sent_at.since(tx.now) <= min_interval);
    let mut write = tx.connection.prepare_cached(if is_early {
        "UPDATE outbox_alerts SET suppressed = CAST(suppressed + 1 AS INTEGER) WHERE kind = ?1 AND subject = ?2 AND ?3"
    } else {
        "INSERT INTO outbox_alerts (kind, subject, sent_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET sent_at = excluded.sent_at, suppressed = 0"
    })?;
    write.execute(params![kind, subject, tx.now.get()])?;
    Ok((!is_early).then(|| last.map_or(0, |(_, suppressed)| suppressed)))
}
