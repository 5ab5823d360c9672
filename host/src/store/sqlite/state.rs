//! Plugins' key-value state: read while an attempt runs, committed with its completion, within its quota.
//!
//! Optimistic: the commit checks the version of every key that the attempt touched, absence included.
//! Of several attempts that touched a key, the first to commit wins, so that one always makes progress.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::step::Step;
use super::{audit, unavailable};
use crate::item::{HostWrites, STATE_VALUE_MAX, StateChange, StateTouch, StateVersion};
use crate::store::deed::Entry;
use crate::store::{ClearState, Run, StateEntry, StateQuery, StateTotal, StoreError};

const READING: &str = "checking a plugin's state";

/// The value of a key and its version; both are `None` for a key that is absent.
pub(super) fn read(tx: &Connection, plugin: &str, key: &str) -> rusqlite::Result<(Option<Vec<u8>>, StateVersion)> {
    let mut select = tx.prepare_cached("SELECT value, version FROM outbox_state WHERE plugin = ?1 AND key = ?2")?;
    let found = select.query_row([plugin, key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.unwrap_or((None, None)))
}

pub(super) fn commit(step: &Step<'_>, writes: &HostWrites) -> Result<(), StoreError> {
    if writes.state.is_empty() {
        return Ok(());
    }
    for touch in &writes.state {
        validate(step, &writes.plugin, touch)?;
    }
    let used = bytes(step.tx, &writes.plugin).map_err(unavailable(READING))?;
    for touch in &writes.state {
        apply(step, &writes.plugin, touch).map_err(unavailable("writing a plugin's state"))?;
    }
    let wanted = bytes(step.tx, &writes.plugin).map_err(unavailable(READING))?;
    // What is over the quota already, because that was lowered, may shrink but not grow.
    if wanted <= used.max(writes.state_quota) {
        return Ok(());
    }
    Err(StoreError::StateQuota { plugin: writes.plugin.clone(), used, wanted, quota: writes.state_quota })
}

fn validate(step: &Step<'_>, plugin: &str, touch: &StateTouch) -> Result<(), StoreError> {
    let own = || (plugin.to_owned(), touch.key.clone());
    if version(step.tx, plugin, &touch.key).map_err(unavailable(READING))? != touch.seen {
        let (plugin, key) = own();
        return Err(StoreError::StateConflict { plugin, key });
    }
    match &touch.change {
        StateChange::Put(value) if value.len() > STATE_VALUE_MAX => {
            let (plugin, key) = own();
            Err(StoreError::StateValueTooLarge { plugin, key, bytes: value.len() })
        }
        _ => Ok(()),
    }
}

fn version(tx: &Connection, plugin: &str, key: &str) -> rusqlite::Result<StateVersion> {
    let sql = "SELECT version FROM outbox_state WHERE plugin = ?1 AND key = ?2";
    tx.prepare_cached(sql)?.query_row([plugin, key], |row| row.get(0)).optional()
}

/// How much the plugin keeps; the schema's triggers count it.
fn bytes(tx: &Connection, plugin: &str) -> rusqlite::Result<u64> {
    let sql = "SELECT bytes FROM outbox_state_totals WHERE plugin = ?1";
    Ok(tx.prepare_cached(sql)?.query_row([plugin], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn apply(step: &Step<'_>, plugin: &str, touch: &StateTouch) -> rusqlite::Result<()> {
    match &touch.change {
        StateChange::None => Ok(()),
        StateChange::Delete => delete(step, plugin, &touch.key),
        StateChange::Put(value) => {
            delete(step, plugin, &touch.key)?;
            let sql = "INSERT INTO outbox_state (plugin, key, value) VALUES (?1, ?2, ?3)";
            step.tx.prepare_cached(sql)?.execute(params![plugin, touch.key, value])?;
            Ok(())
        }
    }
}

fn delete(step: &Step<'_>, plugin: &str, key: &str) -> rusqlite::Result<()> {
    step.tx.prepare_cached("DELETE FROM outbox_state WHERE plugin = ?1 AND key = ?2")?.execute([plugin, key])?;
    Ok(())
}

pub(super) fn totals(tx: &rusqlite::Transaction<'_>) -> rusqlite::Result<Vec<StateTotal>> {
    let sql = "SELECT plugin, keys, bytes FROM outbox_state_totals WHERE keys > 0 ORDER BY plugin";
    tx.prepare_cached(sql)?.query_map([], total)?.collect()
}

fn total(row: &Row<'_>) -> rusqlite::Result<StateTotal> {
    Ok(StateTotal { plugin: row.get(0)?, keys: row.get(1)?, bytes: row.get(2)? })
}

pub(super) fn list(tx: &Connection, query: &StateQuery) -> rusqlite::Result<Vec<StateEntry>> {
    let mut select = tx.prepare_cached(
        "SELECT plugin, key, length(value), version FROM outbox_state
         WHERE plugin = ?1 AND key > ?2 ORDER BY key LIMIT ?3",
    )?;
    let after = query.after.as_deref().unwrap_or_default();
    let rows = select.query_map(params![query.plugin, after, query.limit], |row| {
        Ok(StateEntry { plugin: row.get(0)?, key: row.get(1)?, bytes: row.get(2)?, version: row.get(3)? })
    })?;
    rows.collect()
}

pub(super) fn clear(step: &mut Step<'_>, order: &ClearState) -> Result<StateTotal, StoreError> {
    let cleared = matching(step, order).map_err(unavailable("counting a plugin's state"))?;
    if order.run == Run::Real && cleared.keys > 0 {
        remove(step, order, &cleared).map_err(unavailable("clearing a plugin's state"))?;
    }
    Ok(cleared)
}

fn matching(step: &Step<'_>, order: &ClearState) -> rusqlite::Result<StateTotal> {
    let mut count = step.tx.prepare_cached(
        "SELECT ?1, count(*), coalesce(sum(length(value) + length(CAST(key AS BLOB))), 0) FROM outbox_state
         WHERE plugin = ?1 AND (?2 IS NULL OR key = ?2)",
    )?;
    count.query_row(params![order.plugin, order.key], total)
}

fn remove(step: &Step<'_>, order: &ClearState, cleared: &StateTotal) -> rusqlite::Result<()> {
    let delete = "DELETE FROM outbox_state WHERE plugin = ?1 AND (?2 IS NULL OR key = ?2)";
    step.tx.prepare_cached(delete)?.execute(params![order.plugin, order.key])?;
    let entry = Entry {
        actor: &order.actor,
        action: "clear_state",
        selection: json!({ "plugin": order.plugin, "key": order.key }),
        reason: order.reason.as_deref(),
        job: None,
        changes: &[],
    };
    audit::append_removal(step, &entry, cleared.keys, &json!([cleared]))
}
