//! Plugins' state as operators see it.

use serde_json::json;
use tokio_postgres::Row;

use super::audit;
use super::fault::Fault;
use super::select::unsigned;
use super::state;
use super::step::{Sql, Step};
use crate::store::deed::Entry;
use crate::store::{ClearState, Run, StateEntry, StateQuery, StateTotal};

pub(super) async fn totals(sql: &impl Sql) -> Result<Vec<StateTotal>, Fault> {
    let statement = "SELECT plugin, keys, bytes FROM outbox.state_totals WHERE keys > 0 ORDER BY plugin";
    let total =
        |row: &Row| Ok(StateTotal { plugin: row.try_get(0)?, keys: unsigned(row, 1)?, bytes: unsigned(row, 2)? });
    sql.rows(statement, &[]).await?.iter().map(total).collect()
}

pub(super) async fn list(sql: &impl Sql, query: &StateQuery) -> Result<Vec<StateEntry>, Fault> {
    let statement = format!(
        "SELECT plugin, key, octet_length(value)::bigint, version FROM outbox.state
         WHERE plugin = $1 AND key > $2 ORDER BY key LIMIT {}",
        query.limit
    );
    let after = query.after.as_deref().unwrap_or_default().as_bytes();
    let entry = |row: &Row| {
        let key: &[u8] = row.try_get(1)?;
        let key = String::from_utf8_lossy(key).into_owned();
        Ok(StateEntry { plugin: row.try_get(0)?, key, bytes: unsigned(row, 2)?, version: row.try_get(3)? })
    };
    sql.rows(&statement, &[&query.plugin, &after]).await?.iter().map(entry).collect()
}

/// Waits for whoever is committing state of the plugin, as they wait for each other.
pub(super) async fn clear(step: &Step<'_>, order: &ClearState) -> Result<StateTotal, Fault> {
    state::lock(step, &[&order.plugin]).await?;
    let cleared = matching(step, order).await?;
    if order.run == Run::Real && cleared.keys > 0 {
        remove(step, order, &cleared).await?;
    }
    Ok(cleared)
}

async fn matching(step: &Step<'_>, order: &ClearState) -> Result<StateTotal, Fault> {
    let statement = "SELECT count(*), coalesce(sum(octet_length(value) + octet_length(key)), 0)::bigint
                     FROM outbox.state WHERE plugin = $1 AND ($2::bytea IS NULL OR key = $2)";
    let rows = step.rows(statement, &[&order.plugin, &order.key.as_deref().map(str::as_bytes)]).await?;
    let row = rows.first().ok_or(Fault::Overtaken)?;
    Ok(StateTotal { plugin: order.plugin.clone(), keys: unsigned(row, 0)?, bytes: unsigned(row, 1)? })
}

async fn remove(step: &Step<'_>, order: &ClearState, cleared: &StateTotal) -> Result<(), Fault> {
    let statement = "DELETE FROM outbox.state WHERE plugin = $1 AND ($2::bytea IS NULL OR key = $2)";
    step.rows(statement, &[&order.plugin, &order.key.as_deref().map(str::as_bytes)]).await?;
    let entry = Entry {
        actor: &order.actor,
        action: "clear_state",
        selection: json!({ "plugin": order.plugin, "key": order.key }),
        reason: order.reason.as_deref(),
        job: None,
        changes: &[],
    };
    audit::append_about(step, &entry, cleared.keys, &json!([cleared])).await
}
