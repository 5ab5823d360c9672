//! The key-value state of plugins: read while an attempt runs, committed with its completion within the plugin's quota,
//! and listed or cleared by operators.
//!
//! Commits are optimistic: a commit checks the version of every key that the attempt touched, also of absent keys. Of
//! several attempts that touched a key the first to commit wins, so one always makes progress. The triggers
//! `outbox_state_inserted` and `outbox_state_deleted` keep each plugin's totals.

use rusqlite::{Connection, OptionalExtension, Row, params};

use outbox_core::{HostWrites, STATE_VALUE_MAX, StateChange, StateKeyChange, StateVersion};
use outbox_store::engine::NewAuditEntry;
use outbox_store::engine::operate_flow::CLEARED_KEYS;
use outbox_store::{ClearStateRequest, StateEntry, StateQuery, StateTotal, StoreError};

use crate::audit;
use crate::error::unavailable;
use crate::rows::cell;
use crate::write_tx::WriteTx;

const READING: &str = "checking a plugin's state";

/// The value of a key and its version; both are `None` for a key that is absent.
pub(crate) fn read(tx: &Connection, plugin: &str, key: &str) -> rusqlite::Result<(Option<Vec<u8>>, StateVersion)> {
    let mut select = tx.prepare_cached("SELECT value, version FROM outbox_state WHERE plugin = ?1 AND key = ?2")?;
    let found = select.query_row([plugin, key], |row| Ok((cell(row, 0)?, cell(row, 1)?))).optional()?;
    Ok(found.unwrap_or((None, None)))
}

/// Writes what an attempt changed in the state of its plugin. After an error some of it may have been written.
pub(crate) fn commit(tx: &WriteTx<'_>, writes: &HostWrites) -> Result<(), StoreError> {
    if writes.state.is_empty() {
        return Ok(());
    }
    for key_change in &writes.state {
        validate(tx, &writes.plugin, key_change)?;
    }
    let used = bytes(tx.connection, &writes.plugin).map_err(unavailable(READING))?;
    for key_change in &writes.state {
        apply(tx, &writes.plugin, key_change).map_err(unavailable("writing a plugin's state"))?;
    }
    let wanted = bytes(tx.connection, &writes.plugin).map_err(unavailable(READING))?;
    // State that exceeds a quota lowered since may shrink but not grow.
    if wanted <= used.max(writes.state_quota) {
        return Ok(());
    }
    Err(StoreError::StateQuota { plugin: writes.plugin.clone(), used, wanted, quota: writes.state_quota })
}

fn validate(tx: &WriteTx<'_>, plugin: &str, key_change: &StateKeyChange) -> Result<(), StoreError> {
    let own = || (plugin.to_owned(), key_change.key.clone());
    if version(tx.connection, plugin, &key_change.key).map_err(unavailable(READING))? != key_change.read_version {
        let (plugin, key) = own();
        return Err(StoreError::StateConflict { plugin, key });
    }
    match &key_change.change {
        StateChange::Put(value) if value.len() > STATE_VALUE_MAX => {
            let (plugin, key) = own();
            Err(StoreError::StateValueTooLarge { plugin, key, bytes: value.len() })
        }
        _ => Ok(()),
    }
}

fn version(tx: &Connection, plugin: &str, key: &str) -> rusqlite::Result<StateVersion> {
    let sql = "SELECT version FROM outbox_state WHERE plugin = ?1 AND key = ?2";
    tx.prepare_cached(sql)?.query_row([plugin, key], |row| cell(row, 0)).optional()
}

/// The bytes of the plugin's keys and values.
fn bytes(tx: &Connection, plugin: &str) -> rusqlite::Result<u64> {
    let sql = "SELECT bytes FROM outbox_state_totals WHERE plugin = ?1";
    Ok(tx.prepare_cached(sql)?.query_row([plugin], |row| cell(row, 0)).optional()?.unwrap_or(0))
}

fn apply(tx: &WriteTx<'_>, plugin: &str, key_change: &StateKeyChange) -> rusqlite::Result<()> {
    match &key_change.change {
        StateChange::None => Ok(()),
        StateChange::Delete => delete(tx, plugin, &key_change.key),
        StateChange::Put(value) => {
            delete(tx, plugin, &key_change.key)?;
            let sql = "INSERT INTO outbox_state (plugin, key, value) VALUES (?1, ?2, ?3)";
            tx.connection.prepare_cached(sql)?.execute(params![plugin, key_change.key, value])?;
            Ok(())
        }
    }
}

fn delete(tx: &WriteTx<'_>, plugin: &str, key: &str) -> rusqlite::Result<()> {
    tx.connection.prepare_cached("DELETE FROM outbox_state WHERE plugin = ?1 AND key = ?2")?.execute([plugin, key])?;
    Ok(())
}

/// The number of keys and bytes of each plugin, by name.
pub(crate) fn totals(tx: &Connection) -> rusqlite::Result<Vec<StateTotal>> {
    let sql = "SELECT plugin, keys, bytes FROM outbox_state_totals WHERE keys > 0 ORDER BY plugin";
    tx.prepare_cached(sql)?.query_map([], total)?.collect()
}

fn total(row: &Row<'_>) -> rusqlite::Result<StateTotal> {
    Ok(StateTotal { plugin: cell(row, 0)?, keys: cell(row, 1)?, bytes: cell(row, 2)? })
}

/// The keys of a plugin after `query.after`, ascending.
pub(crate) fn list(tx: &Connection, query: &StateQuery) -> rusqlite::Result<Vec<StateEntry>> {
    let mut select = tx.prepare_cached(
        "SELECT plugin, key, length(value), version FROM outbox_state
         WHERE plugin = ?1 AND key > ?2 ORDER BY key LIMIT ?3",
    )?;
    let after = query.after.as_deref().unwrap_or_default();
    let rows = select.query_map(params![query.plugin, after, query.limit], |row| {
        Ok(StateEntry { plugin: cell(row, 0)?, key: cell(row, 1)?, bytes: cell(row, 2)?, version: cell(row, 3)? })
    })?;
    rows.collect()
}

/// The size of one key, or of all keys, of a plugin.
pub(crate) fn count(tx: &Connection, request: &ClearStateRequest) -> rusqlite::Result<StateTotal> {
    let found = if let Some(key) = &request.key {
        let sql = "SELECT plugin, 1, length(value) + length(CAST(key AS BLOB)) FROM outbox_state
                   WHERE plugin = ?1 AND key = ?2";
        tx.prepare_cached(sql)?.query_row([&request.plugin, key], total).optional()?
    } else {
        let sql = "SELECT plugin, keys, bytes FROM outbox_state_totals WHERE plugin = ?1";
        tx.prepare_cached(sql)?.query_row([&request.plugin], total).optional()?
    };
    Ok(found.unwrap_or_else(|| StateTotal { plugin: request.plugin.clone(), ..StateTotal::default() }))
}

/// Deletes one key, or the first keys, of a plugin. Returns how much that is.
pub(crate) fn clear_some(tx: &mut WriteTx<'_>, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
    let cleared = remove(tx, request).map_err(unavailable("clearing a plugin's state"))?;
    if cleared.keys > 0 {
        let entry = NewAuditEntry::of_cleared_state(request, &cleared);
        audit::append(tx, &entry).map_err(unavailable("auditing what was cleared"))?;
    }
    Ok(cleared)
}

fn remove(tx: &WriteTx<'_>, request: &ClearStateRequest) -> rusqlite::Result<StateTotal> {
    let mut delete = tx.connection.prepare_cached(
        "DELETE FROM outbox_state
         WHERE version IN (SELECT version FROM outbox_state
                           WHERE plugin = ?1 AND (?2 IS NULL OR key = ?2) ORDER BY key LIMIT ?3)
         RETURNING length(value) + length(CAST(key AS BLOB))",
    )?;
    let values = params![request.plugin, request.key, CLEARED_KEYS];
    let sizes: Vec<u64> = delete.query_map(values, |row| cell(row, 0))?.collect::<rusqlite::Result<_>>()?;
    Ok(StateTotal { plugin: request.plugin.clone(), keys: sizes.len() as u64, bytes: sizes.iter().sum() })
}
