//! What operators say about types, keys and jobs: pausing, unblocking, cancelling.

use rusqlite::{Connection, params};
use serde_json::json;

use super::audit;
use super::step::Step;
use super::{transfer, unavailable};
use crate::item::ItemId;
use crate::store::deed::{Change, Entry};
use crate::store::{Command, Control, Controlled, JobId, Pause, Run, StoreError};

pub(super) fn control(step: &mut Step<'_>, command: &Command) -> Result<Controlled, StoreError> {
    command.control.check()?;
    carry_out(step, command).map_err(unavailable("carrying out a command"))
}

fn carry_out(step: &mut Step<'_>, command: &Command) -> rusqlite::Result<Controlled> {
    let blocking = match &command.control {
        Control::Unblock { ordering_key } => blocking(step, ordering_key)?,
        _ => Vec::new(),
    };
    if !differs(step, &command.control, &blocking)? {
        return Ok(Controlled::default());
    }
    if command.run == Run::Real {
        apply(step, command)?;
        record(step, command, &blocking)?;
    }
    Ok(Controlled { changed: true, items: blocking })
}

/// Whether the command would change anything.
fn differs(step: &Step<'_>, control: &Control, blocking: &[ItemId]) -> rusqlite::Result<bool> {
    match control {
        Control::Pause { item_type } => Ok(!is_paused(step, item_type)?),
        Control::Resume { item_type } => is_paused(step, item_type),
        Control::Unblock { .. } => Ok(!blocking.is_empty()),
        Control::Cancel { job } => is_running(step, *job),
        Control::Reserve { up_to } => Ok(transfer::reserved(step.tx)? < *up_to),
    }
}

fn apply(step: &mut Step<'_>, command: &Command) -> rusqlite::Result<()> {
    step.makes_work = true;
    match &command.control {
        Control::Pause { item_type } => {
            let sql = "INSERT INTO outbox_pauses (type, paused_at, actor, reason) VALUES (?1, ?2, ?3, ?4)";
            step.tx.prepare_cached(sql)?.execute(params![item_type, step.now, command.actor, command.reason])
        }
        Control::Resume { item_type } => {
            step.tx.prepare_cached("DELETE FROM outbox_pauses WHERE type = ?1")?.execute([item_type])
        }
        Control::Unblock { ordering_key } => {
            let sql = "UPDATE outbox_items SET blocks_key = 0 WHERE ordering_key = ?1 AND blocks_key = 1";
            step.tx.prepare_cached(sql)?.execute([ordering_key])
        }
        Control::Cancel { job } => {
            let sql = "UPDATE outbox_jobs SET state = 'CANCELLED', ended_at = ?2 WHERE id = ?1 AND state = 'RUNNING'";
            step.tx.prepare_cached(sql)?.execute([*job, step.now])
        }
        Control::Reserve { up_to } => return transfer::reserve(step.tx, *up_to),
    }
    .map(|_| ())
}

fn record(step: &Step<'_>, command: &Command, blocking: &[ItemId]) -> rusqlite::Result<()> {
    let (action, subject) = command.control.words();
    let (about, job) = command.control.about();
    let changes: Vec<_> = blocking.iter().copied().map(Change::unblocked).collect();
    let selection = json!({ about: subject });
    let reason = command.reason.as_deref();
    audit::append(step, &Entry { actor: &command.actor, action, selection, reason, job, changes: &changes })
}

fn blocking(step: &Step<'_>, ordering_key: &str) -> rusqlite::Result<Vec<ItemId>> {
    let sql = "SELECT id FROM outbox_items WHERE ordering_key = ?1 AND blocks_key = 1 ORDER BY id";
    step.tx.prepare_cached(sql)?.query_map([ordering_key], |row| row.get(0))?.collect()
}

fn is_paused(step: &Step<'_>, item_type: &str) -> rusqlite::Result<bool> {
    step.tx.prepare_cached("SELECT 1 FROM outbox_pauses WHERE type = ?1")?.exists([item_type])
}

fn is_running(step: &Step<'_>, job: JobId) -> rusqlite::Result<bool> {
    step.tx.prepare_cached("SELECT 1 FROM outbox_jobs WHERE id = ?1 AND state = 'RUNNING'")?.exists([job])
}

pub(super) fn pauses(tx: &rusqlite::Transaction<'_>) -> rusqlite::Result<Vec<Pause>> {
    read_pauses(tx)
}

fn read_pauses(tx: &Connection) -> rusqlite::Result<Vec<Pause>> {
    let mut select = tx.prepare_cached("SELECT type, paused_at, actor, reason FROM outbox_pauses ORDER BY type")?;
    let rows = select.query_map([], |row| {
        Ok(Pause { r#type: row.get(0)?, paused_at: row.get(1)?, actor: row.get(2)?, reason: row.get(3)? })
    })?;
    rows.collect()
}
