//! What operators say about types, keys and jobs: pausing, unblocking, cancelling.

use rusqlite::{Connection, params};
use serde_json::json;

use crate::write_tx::WriteTx;
use crate::{audit, transfer, unavailable};
use outbox_item::ItemId;
use outbox_store::engine::operator_actions::{ItemChange, NewAuditEntry};
use outbox_store::{Control, ControlReport, ControlRequest, Execution, JobId, Pause, StoreError};

pub(crate) fn control(tx: &mut WriteTx<'_>, request: &ControlRequest) -> Result<ControlReport, StoreError> {
    request.control.validate()?;
    apply_if_changed(tx, request).map_err(unavailable("carrying out a command"))
}

fn apply_if_changed(tx: &mut WriteTx<'_>, request: &ControlRequest) -> rusqlite::Result<ControlReport> {
    let blocking = match &request.control {
        Control::Unblock { ordering_key } => blocking(tx, ordering_key)?,
        _ => Vec::new(),
    };
    if !would_change(tx, &request.control, &blocking)? {
        return Ok(ControlReport::default());
    }
    if request.execution == Execution::Apply {
        apply(tx, request)?;
        record(tx, request, &blocking)?;
    }
    Ok(ControlReport { changed: true, items: blocking })
}

/// Whether the command would change anything.
fn would_change(tx: &WriteTx<'_>, control: &Control, blocking: &[ItemId]) -> rusqlite::Result<bool> {
    match control {
        Control::Pause { item_type } => Ok(!is_paused(tx, item_type)?),
        Control::Resume { item_type } => is_paused(tx, item_type),
        Control::Unblock { .. } => Ok(!blocking.is_empty()),
        Control::Cancel { job } => is_running(tx, *job),
        Control::ReserveIds { up_to } => Ok(transfer::reserved(tx.connection)? < *up_to),
    }
}

fn apply(tx: &mut WriteTx<'_>, request: &ControlRequest) -> rusqlite::Result<()> {
    tx.wakes_workers = true;
    match &request.control {
        Control::Pause { item_type } => {
            let sql = "INSERT INTO outbox_pauses (type, paused_at, actor, reason) VALUES (?1, ?2, ?3, ?4)";
            tx.connection.prepare_cached(sql)?.execute(params![item_type, tx.now, request.actor, request.reason])
        }
        Control::Resume { item_type } => {
            tx.connection.prepare_cached("DELETE FROM outbox_pauses WHERE type = ?1")?.execute([item_type])
        }
        Control::Unblock { ordering_key } => {
            let sql = "UPDATE outbox_items SET blocks_key = 0 WHERE ordering_key = ?1 AND blocks_key = 1";
            tx.connection.prepare_cached(sql)?.execute([ordering_key])
        }
        Control::Cancel { job } => {
            let sql = "UPDATE outbox_jobs SET state = 'CANCELLED', ended_at = ?2 WHERE id = ?1 AND state = 'RUNNING'";
            tx.connection.prepare_cached(sql)?.execute([*job, tx.now])
        }
        Control::ReserveIds { up_to } => return transfer::reserve(tx.connection, *up_to),
    }
    .map(|_| ())
}

fn record(tx: &WriteTx<'_>, request: &ControlRequest, blocking: &[ItemId]) -> rusqlite::Result<()> {
    let (action, target) = request.control.action_and_target();
    let (target_kind, job) = request.control.target_kind();
    let changes: Vec<_> = blocking.iter().copied().map(ItemChange::unblocked).collect();
    let selection = json!({ target_kind: target });
    let reason = request.reason.as_deref();
    audit::append(tx, &NewAuditEntry { actor: &request.actor, action, selection, reason, job, changes: &changes })
}

fn blocking(tx: &WriteTx<'_>, ordering_key: &str) -> rusqlite::Result<Vec<ItemId>> {
    let sql = "SELECT id FROM outbox_items WHERE ordering_key = ?1 AND blocks_key = 1 ORDER BY id";
    tx.connection.prepare_cached(sql)?.query_map([ordering_key], |row| row.get(0))?.collect()
}

fn is_paused(tx: &WriteTx<'_>, item_type: &str) -> rusqlite::Result<bool> {
    tx.connection.prepare_cached("SELECT 1 FROM outbox_pauses WHERE type = ?1")?.exists([item_type])
}

fn is_running(tx: &WriteTx<'_>, job: JobId) -> rusqlite::Result<bool> {
    tx.connection.prepare_cached("SELECT 1 FROM outbox_jobs WHERE id = ?1 AND state = 'RUNNING'")?.exists([job])
}

pub(crate) fn pauses(tx: &rusqlite::Transaction<'_>) -> rusqlite::Result<Vec<Pause>> {
    read_pauses(tx)
}

fn read_pauses(tx: &Connection) -> rusqlite::Result<Vec<Pause>> {
    let mut select = tx.prepare_cached("SELECT type, paused_at, actor, reason FROM outbox_pauses ORDER BY type")?;
    let rows = select.query_map([], |row| {
        Ok(Pause { r#type: row.get(0)?, paused_at: row.get(1)?, actor: row.get(2)?, reason: row.get(3)? })
    })?;
    rows.collect()
}
