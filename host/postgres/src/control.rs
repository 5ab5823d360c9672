//! Operators' commands about types, keys, jobs and ids: pause, resume, unblock, switch, cancel, reserve.
//!
//! A command that would change nothing is not audited.

use tokio_postgres::Row;

use crate::error::PgError;
use crate::rows::time;
use crate::tx::{Query, WriteTx, without_nul};
use crate::{audit, ordering, owners, quarantine, transfer};
use outbox_item::ItemId;
use outbox_store::engine::{BATCH_SIZE, NewAuditEntry};
use outbox_store::{Control, ControlReport, ControlRequest, Execution, KeyPause, Pause};

/// Carries one step of the command out, or only reports what it would change.
pub(crate) async fn control(tx: &mut WriteTx<'_>, request: &ControlRequest) -> Result<ControlReport, PgError> {
    let blocking = match &request.control {
        Control::Unblock { ordering_key } => ordering::lock_blocking(tx, ordering_key, most(request.execution)).await?,
        _ => Vec::new(),
    };
    if !would_change(tx, &request.control, &blocking).await? {
        return Ok(ControlReport::default());
    }
    if request.execution == Execution::Apply {
        apply(tx, request, &blocking).await?;
        audit::append(tx, &NewAuditEntry::of_control(request, &blocking)).await?;
        tx.wakes_other_processes = true;
    }
    Ok(ControlReport { changed: true, items: blocking })
}

/// Whether the command would change anything.
async fn would_change(tx: &WriteTx<'_>, control: &Control, blocking: &[ItemId]) -> Result<bool, PgError> {
    match control {
        Control::Pause { item_type } => Ok(!is_paused(tx, item_type).await?),
        Control::Resume { item_type } => is_paused(tx, item_type).await,
        Control::PauseKey { fairness_key, item_type } => {
            let is_same = |pause: &KeyPause| pause.fairness_key == *fairness_key && pause.r#type == *item_type;
            Ok(!key_pauses(tx).await?.iter().any(is_same))
        }
        Control::ResumeKey { fairness_key, item_type } => {
            let is_ended = |pause: &KeyPause| {
                pause.fairness_key == *fairness_key && (item_type.is_none() || pause.r#type == *item_type)
            };
            Ok(key_pauses(tx).await?.iter().any(is_ended))
        }
        Control::Unblock { .. } => Ok(!blocking.is_empty()),
        Control::Switch { role, item_type, plugin } => {
            Ok(!owners::owns(tx, role.as_deref().unwrap_or_default(), item_type, plugin).await?)
        }
        Control::Cancel { job } => {
            let statement = "SELECT 1 FROM outbox.jobs WHERE id = $1 AND state = 'RUNNING' FOR UPDATE";
            Ok(!tx.rows(statement, &[&job.get()]).await?.is_empty())
        }
        Control::RollBack { digest, .. } => {
            Ok(!quarantine::list(tx).await?.iter().any(|entry| entry.digest == *digest))
        }
        Control::ReserveIds { up_to } => Ok(transfer::reserved(tx).await? < *up_to),
    }
}

/// The items of one step.
fn most(execution: Execution) -> i64 {
    if execution == Execution::Apply { i64::from(BATCH_SIZE) } else { i64::MAX }
}

async fn apply(tx: &WriteTx<'_>, request: &ControlRequest, blocking: &[ItemId]) -> Result<(), PgError> {
    match &request.control {
        Control::Pause { item_type } => {
            let statement = "INSERT INTO outbox.pauses (type, paused_at, actor, reason) VALUES ($1, $2, $3, $4)";
            let (actor, reason) = (without_nul(&request.actor), request.reason.as_deref().map(without_nul));
            tx.rows(statement, &[item_type, &tx.now.get(), &actor, &reason]).await
        }
        Control::Resume { item_type } => tx.rows("DELETE FROM outbox.pauses WHERE type = $1", &[item_type]).await,
        Control::PauseKey { fairness_key, item_type } => {
            let statement = "INSERT INTO outbox.key_pauses (fairness_key, type, paused_at, actor, reason)
                             VALUES ($1, coalesce($2::text, ''), $3, $4, $5)";
            let (actor, reason) = (without_nul(&request.actor), request.reason.as_deref().map(without_nul));
            tx.rows(statement, &[fairness_key, item_type, &tx.now.get(), &actor, &reason]).await
        }
        Control::ResumeKey { fairness_key, item_type } => {
            let statement = "DELETE FROM outbox.key_pauses WHERE fairness_key = $1 AND ($2::text IS NULL OR type = $2)";
            tx.rows(statement, &[fairness_key, item_type]).await
        }
        Control::Unblock { ordering_key } => return ordering::unblock(tx, ordering_key, blocking).await,
        Control::Switch { role, item_type, plugin } => {
            return owners::give(tx, role.as_deref().unwrap_or_default(), item_type, plugin).await;
        }
        Control::Cancel { job } => {
            let statement = "UPDATE outbox.jobs SET state = 'CANCELLED', ended_at = $2 WHERE id = $1";
            tx.rows(statement, &[&job.get(), &tx.now.get()]).await
        }
        Control::RollBack { plugin, digest } => {
            return quarantine::insert(tx, digest, plugin, &request.rollback_reason()).await.map(drop);
        }
        Control::ReserveIds { up_to } => return transfer::reserve(tx, *up_to).await,
    }
    .map(drop)
}

async fn is_paused(tx: &WriteTx<'_>, item_type: &str) -> Result<bool, PgError> {
    Ok(!tx.rows("SELECT 1 FROM outbox.pauses WHERE type = $1", &[&item_type]).await?.is_empty())
}

/// The paused types, by name.
pub(crate) async fn pauses(tx: &impl Query) -> Result<Vec<Pause>, PgError> {
    let pause = |row: &Row| {
        Ok(Pause { r#type: row.try_get(0)?, paused_at: time(row, 1)?, actor: row.try_get(2)?, reason: row.try_get(3)? })
    };
    let statement = "SELECT type, paused_at, actor, reason FROM outbox.pauses ORDER BY type";
    tx.rows(statement, &[]).await?.iter().map(pause).collect()
}

/// The paused fairness keys, by name.
pub(crate) async fn key_pauses(tx: &impl Query) -> Result<Vec<KeyPause>, PgError> {
    let pause = |row: &Row| {
        let (fairness_key, r#type, paused_at) = (row.try_get(0)?, row.try_get(1)?, time(row, 2)?);
        Ok(KeyPause { fairness_key, r#type, paused_at, actor: row.try_get(3)?, reason: row.try_get(4)? })
    };
    let statement = "SELECT fairness_key, nullif(type, ''), paused_at, actor, reason FROM outbox.key_pauses
                     ORDER BY fairness_key, type";
    tx.rows(statement, &[]).await?.iter().map(pause).collect()
}
