//! Sending what [`crate::store::alert`] says, in the transaction in which it happened.

use crate::enqueue::insert;
use crate::error::PgError;
use crate::tx::{Query as _, WriteTx};
use outbox_core::Failure;
use outbox_item::Millis;
use outbox_store::engine::alerts::AlertMessage;
use outbox_store::engine::attempt_record::AttemptRecord;
use outbox_store::engine::{alerts, millis};

/// Tells operators that an item was dead-lettered, and that it blocks its ordering key if it does.
pub(crate) async fn dead_lettered(
    tx: &mut WriteTx<'_>,
    dead: &AttemptRecord,
    failure: &Failure,
    blocks: bool,
) -> Result<(), PgError> {
    for message in alerts::dead_letter_messages(dead, failure, blocks) {
        send(tx, message).await?;
    }
    Ok(())
}

/// Enqueues an alert, unless one of its kind about the subject was sent a short time ago.
pub(crate) async fn send(tx: &mut WriteTx<'_>, message: AlertMessage) -> Result<(), PgError> {
    let Some(alerts) = tx.alerts else { return Ok(()) };
    let min_interval = millis(alerts.min_interval);
    let Some(suppressed) = pass_rate_limit(tx, message.kind, &message.subject, min_interval).await? else {
        return Ok(());
    };
    insert(tx, &[&message.into_item(alerts, suppressed, tx.now)], Some(tx.now)).await?;
    tx.wakes_workers = true;
    Ok(())
}

/// How many alerts were held back since the last, when this one may be sent.
async fn pass_rate_limit(
    tx: &WriteTx<'_>,
    kind: &str,
    subject: &str,
    min_interval: Millis,
) -> Result<Option<u64>, PgError> {
    let create = "INSERT INTO outbox.alerts (kind, subject, sent_at, suppressed)
                  VALUES ($1::text, $2::text, -9223372036854775808, 0) ON CONFLICT DO NOTHING";
    tx.rows(create, &[&kind, &subject]).await?;
    let lock = "SELECT sent_at <= $3::bigint, suppressed FROM outbox.alerts
                WHERE kind = $1 AND subject = $2 FOR UPDATE";
    let found = tx.rows(lock, &[&kind, &subject, &tx.now.saturating_sub(min_interval)]).await?;
    let row = found.first().ok_or(PgError::LostRace)?;
    let (is_due, suppressed): (bool, i64) = (row.try_get(0)?, row.try_get(1)?);
    let write = "UPDATE outbox.alerts
                 SET sent_at = CASE WHEN $3 THEN $4 ELSE sent_at END, suppressed = CASE WHEN $3 THEN 0 ELSE suppressed + 1 END
                 WHERE kind = $1 AND subject = $2";
    tx.rows(write, &[&kind, &subject, &is_due, &tx.now]).await?;
    Ok(is_due.then(|| u64::try_from(suppressed).unwrap_or_default()))
}
