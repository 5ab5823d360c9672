//! Enqueues alerts, which [`outbox_store::engine::alerts`] words, in the transaction of the event that they report.
//!
//! Owns the rate limit per kind and subject.

use std::time::Duration;

use outbox_core::Failure;
use outbox_store::engine::alerts::{self, AlertMessage};
use outbox_store::engine::attempt_record::AttemptRecord;

use crate::enqueue::insert;
use crate::error::PgError;
use crate::tx::{Query as _, WriteTx};

/// An item that was dead-lettered, and the ordering key that it blocks.
pub(crate) struct DeadItem<'a> {
    pub(crate) attempt: &'a AttemptRecord,
    pub(crate) failure: &'a Failure,
    pub(crate) blocked_key: Option<&'a str>,
}

/// Alerts operators that items were dead-lettered and, if so, that they block ordering keys. The rows of the rate limits
/// are locked in one order, so that two transactions do not wait for each other.
pub(crate) async fn dead_lettered(tx: &mut WriteTx<'_>, dead: &[DeadItem<'_>]) -> Result<(), PgError> {
    if tx.alerts.is_none() {
        return Ok(());
    }
    let of = |dead: &DeadItem<'_>| {
        alerts::dead_letter_messages(dead.attempt, &dead.attempt.cid, dead.failure, dead.blocked_key)
    };
    let mut messages: Vec<_> = dead.iter().flat_map(of).collect();
    messages.sort_by(|a, b| (a.kind, &a.subject).cmp(&(b.kind, &b.subject)));
    for message in messages {
        send(tx, message).await?;
    }
    Ok(())
}

/// Enqueues an alert, unless one of its kind about its subject was sent less than `min_interval` ago.
pub(crate) async fn send(tx: &mut WriteTx<'_>, message: AlertMessage) -> Result<(), PgError> {
    let Some(alerts) = tx.alerts else { return Ok(()) };
    let Some(suppressed) = pass_rate_limit(tx, message.kind, &message.subject, alerts.min_interval).await? else {
        return Ok(());
    };
    insert(tx, &[&message.into_item(alerts, suppressed, tx.now)], Some(tx.now)).await?;
    tx.wakes_workers = true;
    Ok(())
}

/// The number of alerts suppressed since the last one, when this one may be sent; else `None`, and it is counted as
/// suppressed.
async fn pass_rate_limit(
    tx: &WriteTx<'_>,
    kind: &str,
    subject: &str,
    min_interval: Duration,
) -> Result<Option<u64>, PgError> {
    let create = "INSERT INTO outbox.alerts (kind, subject, sent_at, suppressed)
                  VALUES ($1::text, $2::text, -9223372036854775808, 0) ON CONFLICT DO NOTHING";
    tx.rows(create, &[&kind, &subject]).await?;
    // An alert of the future was sent before the clock was set back.
    let lock = "SELECT sent_at <= $3::bigint OR sent_at > $4::bigint, suppressed FROM outbox.alerts
                WHERE kind = $1 AND subject = $2 FOR UPDATE";
    let (earliest, latest) = (tx.now.saturating_sub(min_interval).get(), tx.now.saturating_add(min_interval).get());
    let found = tx.rows(lock, &[&kind, &subject, &earliest, &latest]).await?;
    let row = found.first().ok_or(PgError::LostRace)?;
    let (is_due, suppressed): (bool, i64) = (row.try_get(0)?, row.try_get(1)?);
    let write = "UPDATE outbox.alerts
                 SET sent_at = CASE WHEN $3 THEN $4 ELSE sent_at END,
                     suppressed = CASE WHEN $3 THEN 0 ELSE least(suppressed, 9223372036854775806) + 1 END
                 WHERE kind = $1 AND subject = $2";
    tx.rows(write, &[&kind, &subject, &is_due, &tx.now.get()]).await?;
    Ok(is_due.then(|| u64::try_from(suppressed).unwrap_or_default()))
}
