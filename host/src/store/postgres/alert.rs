//! Sending what [`crate::store::alert`] says, in the transaction in which it happened.

use super::enqueue::insert;
use super::fault::Fault;
use super::step::{Sql as _, Step};
use crate::item::{Failure, Millis};
use crate::store::alert::{self, Notice};
use crate::store::{Attempted, millis};

/// Announces that an item was dead-lettered, and that it blocks its ordering key if it does.
pub(super) async fn dead(step: &mut Step<'_>, dead: &Attempted, failure: &Failure, blocks: bool) -> Result<(), Fault> {
    for notice in alert::dead(dead, failure, blocks) {
        send(step, notice).await?;
    }
    Ok(())
}

/// Enqueues an alert, unless one of its kind about the subject was sent a short time ago.
pub(super) async fn send(step: &mut Step<'_>, notice: Notice) -> Result<(), Fault> {
    let Some(alerts) = step.alerts else { return Ok(()) };
    let every = millis(alerts.every);
    let Some(suppressed) = admitted(step, notice.kind, &notice.subject, every).await? else { return Ok(()) };
    insert(step, &[&notice.item(alerts, suppressed, step.now)], Some(step.now)).await?;
    step.makes_work = true;
    Ok(())
}

/// How many alerts were held back since the last, when this one may be sent.
async fn admitted(step: &Step<'_>, kind: &str, subject: &str, every: Millis) -> Result<Option<u64>, Fault> {
    let create = "INSERT INTO outbox.alerts (kind, subject, sent_at, suppressed)
                  VALUES ($1::text, $2::text, -9223372036854775808, 0) ON CONFLICT DO NOTHING";
    step.rows(create, &[&kind, &subject]).await?;
    let lock = "SELECT sent_at <= $3::bigint, suppressed FROM outbox.alerts
                WHERE kind = $1 AND subject = $2 FOR UPDATE";
    let found = step.rows(lock, &[&kind, &subject, &step.now.saturating_sub(every)]).await?;
    let row = found.first().ok_or(Fault::Overtaken)?;
    let (is_due, suppressed): (bool, i64) = (row.try_get(0)?, row.try_get(1)?);
    let write = "UPDATE outbox.alerts
                 SET sent_at = CASE WHEN $3 THEN $4 ELSE sent_at END, suppressed = CASE WHEN $3 THEN 0 ELSE suppressed + 1 END
                 WHERE kind = $1 AND subject = $2";
    step.rows(write, &[&kind, &subject, &is_due, &step.now]).await?;
    Ok(is_due.then(|| u64::try_from(suppressed).unwrap_or_default()))
}
