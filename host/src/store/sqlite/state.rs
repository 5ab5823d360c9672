//! Plugins' key-value state: read while an attempt runs, committed with its completion.
//!
//! Optimistic: the commit checks the version of every key that the attempt touched, absence included.
//! Of several attempts that touched a key, the first to commit wins, so that one always makes progress.

use rusqlite::{Connection, OptionalExtension, params};

use super::unavailable;
use super::writer::Step;
use crate::item::{HostWrites, StateChange, StateTouch, StateVersion};
use crate::store::StoreError;

/// The value of a key and its version; both are `None` for a key that is absent.
pub(super) fn read(tx: &Connection, plugin: &str, key: &str) -> rusqlite::Result<(Option<Vec<u8>>, StateVersion)> {
    let mut select = tx.prepare_cached("SELECT value, version FROM outbox_state WHERE plugin = ?1 AND key = ?2")?;
    let found = select.query_row([plugin, key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.unwrap_or((None, None)))
}

pub(super) fn commit(step: &Step<'_>, writes: &HostWrites) -> Result<(), StoreError> {
    for touch in &writes.state {
        validate(step, &writes.plugin, touch)?;
    }
    for touch in &writes.state {
        apply(step, &writes.plugin, touch).map_err(unavailable("writing a plugin's state"))?;
    }
    Ok(())
}

fn validate(step: &Step<'_>, plugin: &str, touch: &StateTouch) -> Result<(), StoreError> {
    let (_, version) = read(step.tx, plugin, &touch.key).map_err(unavailable("checking a plugin's state"))?;
    if version == touch.seen {
        return Ok(());
    }
    Err(StoreError::StateConflict { plugin: plugin.to_owned(), key: touch.key.clone() })
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
