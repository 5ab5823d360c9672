//! What operators say about types, keys and jobs: pausing, unblocking, cancelling.

use serde_json::json;
use tokio_postgres::Row;

use crate::error::PgError;
use crate::tx::{Query, WriteTx, without_nul};
use crate::{audit, transfer};
use outbox_item::ItemId;
use outbox_store::engine::operator_actions::{ItemChange, NewAuditEntry};
use outbox_store::{Control, ControlReport, ControlRequest, Execution, Pause};

pub(crate) async fn control(tx: &mut WriteTx<'_>, request: &ControlRequest) -> Result<ControlReport, PgError> {
    let blocking = match &request.control {
        Control::Unblock { ordering_key } => blocking(tx, ordering_key).await?,
        _ => Vec::new(),
    };
    if !would_change(tx, &request.control, &blocking).await? {
        return Ok(ControlReport::default());
    }
    if request.execution == Execution::Apply {
        apply(tx, request).await?;
        record(tx, request, &blocking).await?;
        tx.wakes_other_processes = true;
    }
    Ok(ControlReport { changed: true, items: blocking })
}

/// Whether the command would change anything.
async fn would_change(tx: &WriteTx<'_>, control: &Control, blocking: &[ItemId]) -> Result<bool, PgError> {
    match control {
        Control::Pause { item_type } => Ok(!is_paused(tx, item_type).await?),
        Control::Resume { item_type } => is_paused(tx, item_type).await,
        Control::Unblock { .. } => Ok(!blocking.is_empty()),
        Control::Cancel { job } => {
            let statement = "SELECT 1 FROM outbox.jobs WHERE id = $1 AND state = 'RUNNING' FOR UPDATE";
            Ok(!tx.rows(statement, &[job]).await?.is_empty())
        }
        Control::ReserveIds { up_to } => Ok(transfer::reserved(tx).await? < *up_to),
    }
}

async fn apply(tx: &WriteTx<'_>, request: &ControlRequest) -> Result<(), PgError> {
    match &request.control {
        Control::Pause { item_type } => {
            let statement = "INSERT INTO outbox.pauses (type, paused_at, actor, reason) VALUES ($1, $2, $3, $4)";
            let (actor, reason) = (without_nul(&request.actor), request.reason.as_deref().map(without_nul));
            tx.rows(statement, &[item_type, &tx.now, &actor, &reason]).await
        }
        Control::Resume { item_type } => tx.rows("DELETE FROM outbox.pauses WHERE type = $1", &[item_type]).await,
        Control::Unblock { ordering_key } => {
            let statement = "UPDATE outbox.items SET blocks_key = false WHERE ordering_key = $1 AND blocks_key";
            tx.rows(statement, &[ordering_key]).await
        }
        Control::Cancel { job } => {
            let statement = "UPDATE outbox.jobs SET state = 'CANCELLED', ended_at = $2 WHERE id = $1";
            tx.rows(statement, &[job, &tx.now]).await
        }
        Control::ReserveIds { up_to } => return transfer::reserve(tx, *up_to).await,
    }
    .map(drop)
}

async fn record(tx: &WriteTx<'_>, request: &ControlRequest, blocking: &[ItemId]) -> Result<(), PgError> {
    let (action, target) = request.control.action_and_target();
    let (target_kind, job) = request.control.target_kind();
    let changes: Vec<_> = blocking.iter().copied().map(ItemChange::unblocked).collect();
    let (selection, reason) = (json!({ target_kind: target }), request.reason.as_deref());
    audit::append(tx, &NewAuditEntry { actor: &request.actor, action, selection, reason, job, changes: &changes }).await
}

/// The items that block the key, locked after the key's front.
async fn blocking(tx: &WriteTx<'_>, ordering_key: &str) -> Result<Vec<ItemId>, PgError> {
    tx.rows("SELECT pg_advisory_xact_lock(7206002, hashtext($1))", &[&ordering_key]).await?;
    let statement = "SELECT id FROM outbox.items WHERE ordering_key = $1 AND blocks_key ORDER BY id FOR UPDATE";
    tx.rows(statement, &[&ordering_key]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn is_paused(tx: &WriteTx<'_>, item_type: &str) -> Result<bool, PgError> {
    Ok(!tx.rows("SELECT 1 FROM outbox.pauses WHERE type = $1", &[&item_type]).await?.is_empty())
}

pub(crate) async fn pauses(tx: &impl Query) -> Result<Vec<Pause>, PgError> {
    let pause = |row: &Row| {
        Ok(Pause {
            r#type: row.try_get(0)?,
            paused_at: row.try_get(1)?,
            actor: row.try_get(2)?,
            reason: row.try_get(3)?,
        })
    };
    let statement = "SELECT type, paused_at, actor, reason FROM outbox.pauses ORDER BY type";
    tx.rows(statement, &[]).await?.iter().map(pause).collect()
}
