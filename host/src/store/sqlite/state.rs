//! Plugins' key-value state: read while an attempt runs, committed with its completion, within its quota.
//!
//! Optimistic: the commit checks the version of every key that the attempt touched, absence included.
//! Of several attempts that touched a key, the first to commit wins, so that one always makes progress.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::unavailable;
use super::writer::Step;
use crate::item::{HostWrites, STATE_VALUE_MAX, StateChange, StateTouch, StateVersion};
use crate::store::{ClearState, Run, StateEntry, StateQuery, StateTotal, StoreError};

const WRITING: &str = "writing a plugin's state";

/// The value of a key and its version; both are `None` for a key that is absent.
pub(super) fn read(tx: &Connection, plugin: &str, key: &str) -> rusqlite::Result<(Option<Vec<u8>>, StateVersion)> {
    let mut select = tx.prepare_cached("SELECT value, version FROM outbox_state WHERE plugin = ?1 AND key = ?2")?;
    let found = select.query_row([plugin, key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.unwrap_or((None, None)))
}

/// By how much a commit changes what the plugin keeps.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Growth {
    keys: i64,
    bytes: i64,
}

pub(super) fn commit(step: &Step<'_>, writes: &HostWrites) -> Result<(), StoreError> {
    let mut growth = Growth::default();
    for touch in &writes.state {
        let one = validate(step, &writes.plugin, touch)?;
        growth = Growth { keys: growth.keys + one.keys, bytes: growth.bytes + one.bytes };
    }
    for touch in &writes.state {
        apply(step, &writes.plugin, touch).map_err(unavailable(WRITING))?;
    }
    charge(step, writes, growth)
}

fn validate(step: &Step<'_>, plugin: &str, touch: &StateTouch) -> Result<Growth, StoreError> {
    let (version, stored) = stored(step.tx, plugin, &touch.key).map_err(unavailable("checking a plugin's state"))?;
    if version != touch.seen {
        return Err(StoreError::StateConflict { plugin: plugin.to_owned(), key: touch.key.clone() });
    }
    let after = match &touch.change {
        StateChange::None => stored,
        StateChange::Delete => None,
        StateChange::Put(value) if value.len() > STATE_VALUE_MAX => {
            let (plugin, key) = (plugin.to_owned(), touch.key.clone());
            return Err(StoreError::StateValueTooLarge { plugin, key, bytes: value.len() });
        }
        StateChange::Put(value) => Some(signed(value.len())),
    };
    let size = |value: Option<i64>| value.map_or(0, |bytes| bytes + signed(touch.key.len()));
    Ok(Growth {
        keys: i64::from(after.is_some()) - i64::from(stored.is_some()),
        bytes: size(after) - size(stored),
    })
}

/// The version of a key, and the size of its value.
fn stored(tx: &Connection, plugin: &str, key: &str) -> rusqlite::Result<(StateVersion, Option<i64>)> {
    let sql = "SELECT version, length(value) FROM outbox_state WHERE plugin = ?1 AND key = ?2";
    let found = tx.prepare_cached(sql)?.query_row([plugin, key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.unwrap_or((None, None)))
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
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

/// Adds the growth to the plugin's total. What is over the quota already may shrink, but not grow.
fn charge(step: &Step<'_>, writes: &HostWrites, growth: Growth) -> Result<(), StoreError> {
    if growth == Growth::default() {
        return Ok(());
    }
    let total = add(step, &writes.plugin, growth).map_err(unavailable(WRITING))?;
    if growth.bytes <= 0 || u64::try_from(total).is_ok_and(|total| total <= writes.state_quota) {
        return Ok(());
    }
    Err(StoreError::StateQuota {
        plugin: writes.plugin.clone(),
        used: u64::try_from(total - growth.bytes).unwrap_or(0),
        wanted: u64::try_from(total).unwrap_or(0),
        quota: writes.state_quota,
    })
}

/// The bytes of the plugin's state after the growth.
fn add(step: &Step<'_>, plugin: &str, growth: Growth) -> rusqlite::Result<i64> {
    let found = "INSERT OR IGNORE INTO outbox_state_totals (plugin, keys, bytes) VALUES (?1, 0, 0)";
    step.tx.prepare_cached(found)?.execute([plugin])?;
    let mut update = step.tx.prepare_cached(
        "UPDATE outbox_state_totals SET keys = keys + ?2, bytes = bytes + ?3 WHERE plugin = ?1 RETURNING bytes",
    )?;
    update.query_row(params![plugin, growth.keys, growth.bytes], |row| row.get(0))
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
    let mut update = step.tx.prepare_cached(
        "UPDATE outbox_state_totals SET keys = keys - ?2, bytes = bytes - ?3 WHERE plugin = ?1",
    )?;
    update.execute(params![order.plugin, cleared.keys, cleared.bytes])?;
    let mut audit = step.tx.prepare_cached(
        "INSERT INTO outbox_audit (at, actor, action, selection, reason, count, changes)
         VALUES (?1, ?2, 'clear_state', ?3, ?4, ?5, ?6)",
    )?;
    let selection = json!({ "plugin": order.plugin, "key": order.key });
    audit.execute(params![
        step.now,
        order.actor,
        selection.to_string(),
        order.reason,
        cleared.keys,
        json!([cleared]).to_string()
    ])?;
    Ok(())
}
