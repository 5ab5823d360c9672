//! Sending what [`crate::store::alert`] says, in the transaction in which it happened.

use rusqlite::{OptionalExtension, params};

use super::enqueue::insert;
use super::step::Step;
use super::unavailable;
use crate::item::{Failure, Millis};
use crate::store::alert::{self, Notice};
use crate::store::{Alert, Attempted, StoreError, millis};

/// Announces that an item was dead-lettered, and that it blocks its ordering key if it does.
pub(super) fn dead(step: &mut Step<'_>, dead: &Attempted, failure: &Failure, blocks: bool) -> rusqlite::Result<()> {
    alert::dead(dead, failure, blocks).into_iter().try_for_each(|notice| send(step, notice))
}

/// Announces what no transition of an item does.
pub(super) fn announce(step: &mut Step<'_>, alert: &Alert) -> Result<(), StoreError> {
    send(step, alert::announced(alert)).map_err(unavailable("announcing an alert"))
}

/// Announces that a component was withdrawn from every process.
pub(super) fn quarantined(step: &mut Step<'_>, plugin: &str, digest: &str, reason: &str) -> rusqlite::Result<()> {
    send(step, alert::quarantined(plugin, digest, reason))
}

/// Enqueues an alert, unless one of its kind about the subject was sent a short time ago.
fn send(step: &mut Step<'_>, notice: Notice) -> rusqlite::Result<()> {
    let Some(alerts) = step.alerts else { return Ok(()) };
    let every = millis(alerts.every);
    let Some(suppressed) = admitted(step, notice.kind, &notice.subject, every)? else { return Ok(()) };
    insert(step.tx, &notice.item(alerts, suppressed, step.now), step.now)?;
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
