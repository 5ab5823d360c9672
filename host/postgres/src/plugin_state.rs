//! The key-value state of plugins: read while an attempt runs, committed with its completion within the plugin's quota,
//! and listed or cleared by operators.
//!
//! Commits are optimistic: while it holds the lock of the plugin's totals, a commit checks the version of every key
//! that the attempt touched, also of absent keys. Of several attempts that touched a key the first to commit wins, so
//! one always makes progress. The trigger `state_counted` keeps each plugin's totals.

use std::collections::HashMap;

use tokio_postgres::Row;

use outbox_core::{HostWrites, STATE_VALUE_MAX, StateChange, StateKeyChange, StateVersion};
use outbox_store::engine::NewAuditEntry;
use outbox_store::engine::operate_flow::CLEARED_KEYS;
use outbox_store::{ClearStateRequest, StateEntry, StateQuery, StateTotal, StoreError};

use crate::audit;
use crate::error::PgError;
use crate::rows::unsigned;
use crate::tx::{Query, WriteTx};

/// The value of a key and its version; both are `None` for a key that is absent.
pub(crate) async fn read(tx: &impl Query, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), PgError> {
    let statement = "SELECT value, version FROM outbox.state WHERE plugin = $1 AND key = $2";
    let rows = tx.rows(statement, &[&plugin, &key.as_bytes()]).await?;
    let Some(row) = rows.first() else { return Ok((None, None)) };
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Locks the plugins' rows of the totals. Every commit of a plugin's state takes this lock.
pub(crate) async fn lock(tx: &WriteTx<'_>, plugins: &[&str]) -> Result<(), PgError> {
    let create = "INSERT INTO outbox.state_totals (plugin, keys, bytes)
                  SELECT name, 0, 0 FROM unnest($1::text[]) AS name ORDER BY name COLLATE \"C\"
                  ON CONFLICT DO NOTHING";
    tx.rows(create, &[&plugins]).await?;
    let lock = "SELECT 1 FROM outbox.state_totals WHERE plugin = ANY($1::text[]) ORDER BY plugin FOR UPDATE";
    tx.rows(lock, &[&plugins]).await.map(drop)
}

/// Writes what an attempt changed in the state of its plugin, whose row of the totals is locked. After a refusal
/// nothing has been written.
pub(crate) async fn commit(tx: &WriteTx<'_>, writes: &HostWrites) -> Result<(), PgError> {
    let stored = stored(tx, writes).await?;
    let mut growth: i64 = 0;
    for key_change in &writes.state {
        growth += validate(&writes.plugin, key_change, stored.get(key_change.key.as_bytes()))?;
    }
    let sql = "SELECT bytes FROM outbox.state_totals WHERE plugin = $1";
    let used = tx.rows(sql, &[&writes.plugin]).await?.first().map_or(Ok(0), |row| row.try_get::<_, i64>(0))?;
    let [used, wanted] = [used, used + growth].map(|bytes| u64::try_from(bytes).unwrap_or(0));
    // State that exceeds a quota lowered since may shrink but not grow.
    if wanted > used.max(writes.state_quota) {
        let (plugin, quota) = (writes.plugin.clone(), writes.state_quota);
        return Err(StoreError::StateQuota { plugin, used, wanted, quota }.into());
    }
    apply(tx, writes).await
}

/// The version and the size of one key.
struct StoredKey {
    version: i64,
    bytes: i64,
}

async fn stored(tx: &WriteTx<'_>, writes: &HostWrites) -> Result<HashMap<Vec<u8>, StoredKey>, PgError> {
    let keys: Vec<_> = writes.state.iter().map(|key_change| key_change.key.as_bytes()).collect();
    let sql = "SELECT key, version, (octet_length(key) + octet_length(value))::bigint FROM outbox.state
               WHERE plugin = $1 AND key = ANY($2::bytea[])";
    let rows = tx.rows(sql, &[&writes.plugin, &keys]).await?;
    let entry = |row: &Row| Ok((row.try_get(0)?, StoredKey { version: row.try_get(1)?, bytes: row.try_get(2)? }));
    rows.iter().map(entry).collect()
}

/// The bytes by which an allowed change makes the state grow.
fn validate(plugin: &str, key_change: &StateKeyChange, stored: Option<&StoredKey>) -> Result<i64, StoreError> {
    let own = || (plugin.to_owned(), key_change.key.clone());
    if stored.map(|stored| stored.version) != key_change.read_version {
        let (plugin, key) = own();
        return Err(StoreError::StateConflict { plugin, key });
    }
    let before = stored.map_or(0, |stored| stored.bytes);
    match &key_change.change {
        StateChange::None => Ok(0),
        StateChange::Delete => Ok(-before),
        StateChange::Put(value) if value.len() > STATE_VALUE_MAX => {
            let (plugin, key) = own();
            Err(StoreError::StateValueTooLarge { plugin, key, bytes: value.len() })
        }
        StateChange::Put(value) => Ok(i64::try_from(key_change.key.len() + value.len()).unwrap_or(i64::MAX) - before),
    }
}

async fn apply(tx: &WriteTx<'_>, writes: &HostWrites) -> Result<(), PgError> {
    let (mut keys, mut values, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    for key_change in &writes.state {
        match &key_change.change {
            StateChange::None => {}
            StateChange::Delete => deleted.push(key_change.key.as_bytes()),
            StateChange::Put(value) => {
                keys.push(key_change.key.as_bytes());
                values.push(value.as_slice());
            }
        }
    }
    if !deleted.is_empty() {
        let sql = "DELETE FROM outbox.state WHERE plugin = $1 AND key = ANY($2::bytea[])";
        tx.rows(sql, &[&writes.plugin, &deleted]).await?;
    }
    if !keys.is_empty() {
        let sql = "INSERT INTO outbox.state (plugin, key, value)
                   SELECT $1::text, new.* FROM unnest($2::bytea[], $3::bytea[]) AS new
                   ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value, version = excluded.version";
        tx.rows(sql, &[&writes.plugin, &keys, &values]).await?;
    }
    Ok(())
}

/// The number of keys and bytes of each plugin, by name.
pub(crate) async fn totals(tx: &impl Query) -> Result<Vec<StateTotal>, PgError> {
    let statement = "SELECT plugin, keys, bytes FROM outbox.state_totals WHERE keys > 0 ORDER BY plugin";
    let total =
        |row: &Row| Ok(StateTotal { plugin: row.try_get(0)?, keys: unsigned(row, 1)?, bytes: unsigned(row, 2)? });
    tx.rows(statement, &[]).await?.iter().map(total).collect()
}

/// The keys of a plugin after `query.after`, ascending.
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

/// The size of one key, or of all keys, of a plugin.
pub(crate) async fn count(tx: &impl Query, request: &ClearStateRequest) -> Result<StateTotal, PgError> {
    let one = "SELECT 1::bigint, (octet_length(value) + octet_length(key))::bigint FROM outbox.state
               WHERE plugin = $1 AND key = $2";
    let all = "SELECT keys, bytes FROM outbox.state_totals WHERE plugin = $1";
    let rows = match request.key.as_deref() {
        Some(key) => tx.rows(one, &[&request.plugin, &key.as_bytes()]).await?,
        None => tx.rows(all, &[&request.plugin]).await?,
    };
    let mut found = StateTotal { plugin: request.plugin.clone(), ..StateTotal::default() };
    if let Some(row) = rows.first() {
        (found.keys, found.bytes) = (unsigned(row, 0)?, unsigned(row, 1)?);
    }
    Ok(found)
}

/// Deletes one key, or the first keys, of a plugin, under the lock that commits of its state take. Returns how much that
/// is.
pub(crate) async fn clear_some(tx: &WriteTx<'_>, request: &ClearStateRequest) -> Result<StateTotal, PgError> {
    lock(tx, &[&request.plugin]).await?;
    let delete = format!(
        "DELETE FROM outbox.state
         WHERE plugin = $1 AND key = ANY (ARRAY(
             SELECT key FROM outbox.state WHERE plugin = $1 AND ($2::bytea IS NULL OR key = $2)
             ORDER BY plugin, key LIMIT {CLEARED_KEYS}))
         RETURNING (octet_length(value) + octet_length(key))::bigint"
    );
    let rows = tx.rows(&delete, &[&request.plugin, &request.key.as_deref().map(str::as_bytes)]).await?;
    let bytes = rows.iter().map(|row| unsigned(row, 0)).sum::<Result<u64, PgError>>()?;
    let cleared = StateTotal { plugin: request.plugin.clone(), keys: rows.len() as u64, bytes };
    if cleared.keys > 0 {
        audit::append(tx, &NewAuditEntry::of_cleared_state(request, &cleared)).await?;
    }
    Ok(cleared)
}
