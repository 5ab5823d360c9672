//! What operators say about types, keys and jobs: pausing, unblocking, cancelling.

use serde_json::json;
use tokio_postgres::Row;

use super::fault::Fault;
use super::step::{Sql, Step, storable};
use super::{audit, transfer};
use crate::item::ItemId;
use crate::store::deed::{Change, Entry};
use crate::store::{Command, Control, Controlled, Pause, Run};

pub(super) async fn control(step: &mut Step<'_>, command: &Command) -> Result<Controlled, Fault> {
    let blocking = match &command.control {
        Control::Unblock { ordering_key } => blocking(step, ordering_key).await?,
        _ => Vec::new(),
    };
    if !differs(step, &command.control, &blocking).await? {
        return Ok(Controlled::default());
    }
    if command.run == Run::Real {
        apply(step, command).await?;
        record(step, command, &blocking).await?;
        step.makes_work_elsewhere = true;
    }
    Ok(Controlled { changed: true, items: blocking })
}

/// Whether the command would change anything.
async fn differs(step: &Step<'_>, control: &Control, blocking: &[ItemId]) -> Result<bool, Fault> {
    match control {
        Control::Pause { item_type } => Ok(!is_paused(step, item_type).await?),
        Control::Resume { item_type } => is_paused(step, item_type).await,
        Control::Unblock { .. } => Ok(!blocking.is_empty()),
        Control::Cancel { job } => {
            let statement = "SELECT 1 FROM outbox.jobs WHERE id = $1 AND state = 'RUNNING' FOR UPDATE";
            Ok(!step.rows(statement, &[job]).await?.is_empty())
        }
        Control::Reserve { up_to } => Ok(transfer::reserved(step).await? < *up_to),
    }
}

async fn apply(step: &Step<'_>, command: &Command) -> Result<(), Fault> {
    match &command.control {
        Control::Pause { item_type } => {
            let statement = "INSERT INTO outbox.pauses (type, paused_at, actor, reason) VALUES ($1, $2, $3, $4)";
            let (actor, reason) = (storable(&command.actor), command.reason.as_deref().map(storable));
            step.rows(statement, &[item_type, &step.now, &actor, &reason]).await
        }
        Control::Resume { item_type } => step.rows("DELETE FROM outbox.pauses WHERE type = $1", &[item_type]).await,
        Control::Unblock { ordering_key } => {
            let statement = "UPDATE outbox.items SET blocks_key = false WHERE ordering_key = $1 AND blocks_key";
            step.rows(statement, &[ordering_key]).await
        }
        Control::Cancel { job } => {
            let statement = "UPDATE outbox.jobs SET state = 'CANCELLED', ended_at = $2 WHERE id = $1";
            step.rows(statement, &[job, &step.now]).await
        }
        Control::Reserve { up_to } => return transfer::reserve(step, *up_to).await,
    }
    .map(drop)
}

async fn record(step: &Step<'_>, command: &Command, blocking: &[ItemId]) -> Result<(), Fault> {
    let (action, subject) = command.control.words();
    let (about, job) = command.control.about();
    let changes: Vec<_> = blocking.iter().copied().map(Change::unblocked).collect();
    let (selection, reason) = (json!({ about: subject }), command.reason.as_deref());
    audit::append(step, &Entry { actor: &command.actor, action, selection, reason, job, changes: &changes }).await
}

/// The items that block the key, locked after the key's front.
async fn blocking(step: &Step<'_>, ordering_key: &str) -> Result<Vec<ItemId>, Fault> {
    step.rows("SELECT pg_advisory_xact_lock(7206002, hashtext($1))", &[&ordering_key]).await?;
    let statement = "SELECT id FROM outbox.items WHERE ordering_key = $1 AND blocks_key ORDER BY id FOR UPDATE";
    step.rows(statement, &[&ordering_key]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn is_paused(step: &Step<'_>, item_type: &str) -> Result<bool, Fault> {
    Ok(!step.rows("SELECT 1 FROM outbox.pauses WHERE type = $1", &[&item_type]).await?.is_empty())
}

pub(super) async fn pauses(sql: &impl Sql) -> Result<Vec<Pause>, Fault> {
    let pause = |row: &Row| {
        Ok(Pause {
            r#type: row.try_get(0)?,
            paused_at: row.try_get(1)?,
            actor: row.try_get(2)?,
            reason: row.try_get(3)?,
        })
    };
    let statement = "SELECT type, paused_at, actor, reason FROM outbox.pauses ORDER BY type";
    sql.rows(statement, &[]).await?.iter().map(pause).collect()
}
