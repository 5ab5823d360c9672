//! Plugins' state as operators see it.

use serde_json::json;
use tokio_postgres::Row;

use crate::error::PgError;
use crate::queries::unsigned;
use crate::tx::{Query, WriteTx};
use crate::{audit, plugin_state};
use outbox_store::engine::operator_actions::NewAuditEntry;
use outbox_store::{ClearStateRequest, Execution, StateEntry, StateQuery, StateTotal};

pub(crate) async fn totals(tx: &impl Query) -> Result<Vec<StateTotal>, PgError> {
    let statement = "SELECT plugin, keys, bytes FROM outbox.state_totals WHERE keys > 0 ORDER BY plugin";
    let total =
        |row: &Row| Ok(StateTotal { plugin: row.try_get(0)?, keys: unsigned(row, 1)?, bytes: unsigned(row, 2)? });
    tx.rows(statement, &[]).await?.iter().map(total).collect()
}

pub(crate) async fn list(tx: &impl Query, query: &StateQuery) -> Result<Vec<StateEntry>, PgError> {
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
    tx.rows(&statement, &[&query.plugin, &after]).await?.iter().map(entry).collect()
}

/// Waits for whoever is committing state of the plugin, as they wait for each other.
pub(crate) async fn clear(tx: &WriteTx<'_>, request: &ClearStateRequest) -> Result<StateTotal, PgError> {
    plugin_state::lock(tx, &[&request.plugin]).await?;
    let cleared = matching(tx, request).await?;
    if request.execution == Execution::Apply && cleared.keys > 0 {
        remove(tx, request, &cleared).await?;
    }
    Ok(cleared)
}

async fn matching(tx: &WriteTx<'_>, request: &ClearStateRequest) -> Result<StateTotal, PgError> {
    let statement = "SELECT count(*), coalesce(sum(octet_length(value) + octet_length(key)), 0)::bigint
                     FROM outbox.state WHERE plugin = $1 AND ($2::bytea IS NULL OR key = $2)";
    let rows = tx.rows(statement, &[&request.plugin, &request.key.as_deref().map(str::as_bytes)]).await?;
    let row = rows.first().ok_or(PgError::LostRace)?;
    Ok(StateTotal { plugin: request.plugin.clone(), keys: unsigned(row, 0)?, bytes: unsigned(row, 1)? })
}

async fn remove(tx: &WriteTx<'_>, request: &ClearStateRequest, cleared: &StateTotal) -> Result<(), PgError> {
    let statement = "DELETE FROM outbox.state WHERE plugin = $1 AND ($2::bytea IS NULL OR key = $2)";
    tx.rows(statement, &[&request.plugin, &request.key.as_deref().map(str::as_bytes)]).await?;
    let entry = NewAuditEntry {
        actor: &request.actor,
        action: "clear_state",
        selection: json!({ "plugin": request.plugin, "key": request.key }),
        reason: request.reason.as_deref(),
        job: None,
        changes: &[],
    };
    audit::append_entry(tx, &entry, cleared.keys, &json!([cleared])).await
}
