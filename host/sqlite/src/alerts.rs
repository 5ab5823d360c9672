//! Sending what [`crate::store::alert`] says, in the transaction in which it happened.

use rusqlite::{OptionalExtension, params};

use crate::enqueue::insert;
use crate::unavailable;
use crate::write_tx::WriteTx;
use outbox_core::Failure;
use outbox_item::Millis;
use outbox_store::engine::alerts::AlertMessage;
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::{alerts, millis};
use outbox_store::{Alert, StoreError};

/// Tells operators that an item was dead-lettered, and that it blocks its ordering key if it does.
pub(crate) fn dead_lettered(
    tx: &mut WriteTx<'_>,
    dead: &AttemptRecord,
    failure: &Failure,
    blocks: bool,
) -> rusqlite::Result<()> {
    alerts::dead_letter_messages(dead, failure, blocks).into_iter().try_for_each(|message| send(tx, message))
}

/// Sends what no transition of an item tells.
pub(crate) fn send_alert(tx: &mut WriteTx<'_>, alert: &Alert) -> Result<(), StoreError> {
    send(tx, alerts::alert_message(alert)).map_err(unavailable("announcing an alert"))
}

/// Announces that a component was quarantined for every process.
pub(crate) fn quarantined(tx: &mut WriteTx<'_>, plugin: &str, digest: &str, reason: &str) -> rusqlite::Result<()> {
    send(tx, alerts::quarantine_message(plugin, digest, reason))
}

/// Enqueues an alert, unless one of its kind about the subject was sent a short time ago.
fn send(tx: &mut WriteTx<'_>, message: AlertMessage) -> rusqlite::Result<()> {
    let Some(alerts) = tx.alerts else { return Ok(()) };
    let min_interval = millis(alerts.min_interval);
    let Some(suppressed) = pass_rate_limit(tx, message.kind, &message.subject, min_interval)? else { return Ok(()) };
    insert(tx.connection, &message.into_item(alerts, suppressed, tx.now), tx.now)?;
    tx.wakes_workers = true;
    Ok(())
}

/// How many alerts were held back since the last, when this one may be sent.
fn pass_rate_limit(tx: &WriteTx<'_>, kind: &str, subject: &str, min_interval: Millis) -> rusqlite::Result<Option<u64>> {
    let mut select = tx
        .connection
        .prepare_cached("SELECT sent_at, suppressed FROM outbox_alerts WHERE kind = ?1 AND subject = ?2")?;
    let last: Option<(Millis, u64)> =
        select.query_row([kind, subject], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let is_early = last.is_some_and(|(sent_at, _)| tx.now < sent_at.saturating_add(min_interval));
    let mut write = tx.connection.prepare_cached(if is_early {
        "UPDATE outbox_alerts SET suppressed = suppressed + 1 WHERE kind = ?1 AND subject = ?2 AND ?3"
    } else {
        "INSERT INTO outbox_alerts (kind, subject, sent_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET sent_at = excluded.sent_at, suppressed = 0"
    })?;
    write.execute(params![kind, subject, tx.now])?;
    Ok((!is_early).then(|| last.map_or(0, |(_, suppressed)| suppressed)))
}
