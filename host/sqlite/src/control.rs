//! Operators' commands about types, keys, jobs and ids: pause, resume, unblock, switch, cancel, reserve.
//!
//! A command that would change nothing is not audited.

use rusqlite::{Connection, params};

use outbox_item::ItemId;
use outbox_store::engine::{BATCH_SIZE, NewAuditEntry};
use outbox_store::{Control, ControlReport, ControlRequest, Execution, JobId, KeyPause, Pause, StoreError};

use crate::error::unavailable;
use crate::rows::{cell, time};
use crate::write_tx::WriteTx;
use crate::{audit, ordering, owners, quarantine, transfer};

/// Carries one step of the command out, or only reports what it would change.
pub(crate) fn control(tx: &mut WriteTx<'_>, request: &ControlRequest) -> Result<ControlReport, StoreError> {
    request.control.validate()?;
    apply_if_changed(tx, request).map_err(unavailable("carrying out a command"))
}

fn apply_if_changed(tx: &mut WriteTx<'_>, request: &ControlRequest) -> rusqlite::Result<ControlReport> {
    let blocking = match &request.control {
        Control::Unblock { ordering_key } => ordering::blocking(tx.connection, ordering_key, most(request.execution))?,
        _ => Vec::new(),
    };
    if !would_change(tx, &request.control, &blocking)? {
        return Ok(ControlReport::default());
    }
    if request.execution == Execution::Apply {
        apply(tx, request, &blocking)?;
        audit::append(tx, &NewAuditEntry::of_control(request, &blocking))?;
    }
    Ok(ControlReport { changed: true, items: blocking })
}

/// Whether the command would change anything.
fn would_change(tx: &WriteTx<'_>, control: &Control, blocking: &[ItemId]) -> rusqlite::Result<bool> {
    match control {
        Control::Pause { item_type } => Ok(!is_paused(tx, item_type)?),
        Control::Resume { item_type } => is_paused(tx, item_type),
        Control::PauseKey { fairness_key, item_type } => {
            let is_same = |pause: &KeyPause| pause.fairness_key == *fairness_key && pause.r#type == *item_type;
            Ok(!key_pauses(tx.connection)?.iter().any(is_same))
        }
        Control::ResumeKey { fairness_key, item_type } => {
            let is_ended = |pause: &KeyPause| {
                pause.fairness_key == *fairness_key && (item_type.is_none() || pause.r#type == *item_type)
            };
            Ok(key_pauses(tx.connection)?.iter().any(is_ended))
        }
        Control::Unblock { .. } => Ok(!blocking.is_empty()),
        Control::Switch { role, item_type, plugin } => {
            Ok(!owners::owns(tx, role.as_deref().unwrap_or_default(), item_type, plugin)?)
        }
        Control::Cancel { job } => is_running(tx, *job),
        Control::RollBack { digest, .. } => {
            Ok(!quarantine::list(tx.connection)?.iter().any(|entry| entry.digest == *digest))
        }
        Control::ReserveIds { up_to } => Ok(transfer::reserved(tx.connection)? < *up_to),
    }
}

/// The items of one step.
fn most(execution: Execution) -> u32 {
    if execution == Execution::Apply { BATCH_SIZE } else { u32::MAX }
}

fn apply(tx: &mut WriteTx<'_>, request: &ControlRequest, blocking: &[ItemId]) -> rusqlite::Result<()> {
    tx.wakes_workers = true;
    match &request.control {
        Control::Pause { item_type } => {
            let sql = "INSERT INTO outbox_pauses (type, paused_at, actor, reason) VALUES (?1, ?2, ?3, ?4)";
            tx.connection.prepare_cached(sql)?.execute(params![item_type, tx.now.get(), request.actor, request.reason])
        }
        Control::Resume { item_type } => {
            tx.connection.prepare_cached("DELETE FROM outbox_pauses WHERE type = ?1")?.execute([item_type])
        }
        Control::PauseKey { fairness_key, item_type } => {
            let sql = "INSERT INTO outbox_key_pauses (fairness_key, type, paused_at, actor, reason)
                       VALUES (?1, coalesce(?2, ''), ?3, ?4, ?5)";
            let ControlRequest { actor, reason, .. } = request;
            tx.connection.prepare_cached(sql)?.execute(params![fairness_key, item_type, tx.now.get(), actor, reason])
        }
        Control::ResumeKey { fairness_key, item_type } => {
            let sql = "DELETE FROM outbox_key_pauses WHERE fairness_key = ?1 AND (?2 IS NULL OR type = ?2)";
            tx.connection.prepare_cached(sql)?.execute(params![fairness_key, item_type])
        }
        Control::Unblock { ordering_key } => ordering::unblock(tx, ordering_key, blocking),
        Control::Switch { role, item_type, plugin } => {
            owners::give(tx, role.as_deref().unwrap_or_default(), item_type, plugin)
        }
        Control::Cancel { job } => {
            let sql = "UPDATE outbox_jobs SET state = 'CANCELLED', ended_at = ?2 WHERE id = ?1 AND state = 'RUNNING'";
            tx.connection.prepare_cached(sql)?.execute([job.get(), tx.now.get()])
        }
        Control::RollBack { plugin, digest } => {
            return quarantine::insert(tx, digest, plugin, &request.rollback_reason()).map(drop);
        }
        Control::ReserveIds { up_to } => return transfer::reserve(tx.connection, *up_to),
    }
    .map(|_| ())
}

fn is_paused(tx: &WriteTx<'_>, item_type: &str) -> rusqlite::Result<bool> {
    tx.connection.prepare_cached("SELECT 1 FROM outbox_pauses WHERE type = ?1")?.exists([item_type])
}

fn is_running(tx: &WriteTx<'_>, job: JobId) -> rusqlite::Result<bool> {
    tx.connection.prepare_cached("SELECT 1 FROM outbox_jobs WHERE id = ?1 AND state = 'RUNNING'")?.exists([job.get()])
}

/// The paused types, by name.
pub(crate) fn pauses(tx: &Connection) -> rusqlite::Result<Vec<Pause>> {
    let mut select = tx.prepare_cached("SELECT type, paused_at, actor, reason FROM outbox_pauses ORDER BY type")?;
    let rows = select.query_map([], |row| {
        Ok(Pause { r#type: cell(row, 0)?, paused_at: time(row, 1)?, actor: cell(row, 2)?, reason: cell(row, 3)? })
    })?;
    rows.collect()
}

/// The paused fairness keys, by name.
pub(crate) fn key_pauses(tx: &Connection) -> rusqlite::Result<Vec<KeyPause>> {
    let sql = "SELECT fairness_key, nullif(type, ''), paused_at, actor, reason FROM outbox_key_pauses ORDER BY 1, type";
    let mut select = tx.prepare_cached(sql)?;
    let rows = select.query_map([], |row| {
        let (fairness_key, r#type, paused_at) = (cell(row, 0)?, cell(row, 1)?, time(row, 2)?);
        Ok(KeyPause { fairness_key, r#type, paused_at, actor: cell(row, 3)?, reason: cell(row, 4)? })
    })?;
    rows.collect()
}
