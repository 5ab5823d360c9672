//! Plugins' key-value state: read while an attempt runs, committed with its completion, within its quota.
//!
//! Optimistic: the commit checks the version of every key that the attempt touched, absence included, while
//! it holds the plugin's row of the totals. Of several attempts that touched a key, the first to commit
//! wins, so that one always makes progress.

use std::collections::HashMap;

use crate::error::PgError;
use crate::tx::{Query, WriteTx};
use outbox_core::{HostWrites, STATE_VALUE_MAX, StateChange, StateKeyChange, StateVersion};
use outbox_store::StoreError;

/// The value of a key and its version; both are `None` for a key that is absent.
pub(crate) async fn read(tx: &impl Query, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), PgError> {
    let statement = "SELECT value, version FROM outbox.state WHERE plugin = $1 AND key = $2";
    let rows = tx.rows(statement, &[&plugin, &key.as_bytes()]).await?;
    let Some(row) = rows.first() else { return Ok((None, None)) };
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Takes the plugins' rows of the totals, which whoever commits state waits for.
pub(crate) async fn lock(tx: &WriteTx<'_>, plugins: &[&str]) -> Result<(), PgError> {
    let create = "INSERT INTO outbox.state_totals (plugin, keys, bytes)
                  SELECT name, 0, 0 FROM unnest($1::text[]) AS name ORDER BY name COLLATE \"C\"
                  ON CONFLICT DO NOTHING";
    tx.rows(create, &[&plugins]).await?;
    let lock = "SELECT 1 FROM outbox.state_totals WHERE plugin = ANY($1::text[]) ORDER BY plugin FOR UPDATE";
    tx.rows(lock, &[&plugins]).await.map(drop)
}

/// Writes what an attempt did to the state of its plugin, whose row of the totals is locked. When this is
/// refused, nothing has been written.
pub(crate) async fn commit(tx: &WriteTx<'_>, writes: &HostWrites) -> Result<(), PgError> {
    let stored = stored(tx, writes).await?;
    let mut growth: i64 = 0;
    for key_change in &writes.state {
        growth += validate(&writes.plugin, key_change, stored.get(key_change.key.as_bytes()))?;
    }
    let sql = "SELECT bytes FROM outbox.state_totals WHERE plugin = $1";
    let used = tx.rows(sql, &[&writes.plugin]).await?.first().map_or(Ok(0), |row| row.try_get::<_, i64>(0))?;
    let [used, wanted] = [used, used + growth].map(|bytes| u64::try_from(bytes).unwrap_or(0));
    // What is over the quota already, because that was lowered, may shrink but not grow.
    if wanted > used.max(writes.state_quota) {
        let (plugin, quota) = (writes.plugin.clone(), writes.state_quota);
        return Err(StoreError::StateQuota { plugin, used, wanted, quota }.into());
    }
    apply(tx, writes).await
}

/// What is stored under a key.
struct StoredKey {
    version: i64,
    bytes: i64,
}

async fn stored(tx: &WriteTx<'_>, writes: &HostWrites) -> Result<HashMap<Vec<u8>, StoredKey>, PgError> {
    let keys: Vec<_> = writes.state.iter().map(|key_change| key_change.key.as_bytes()).collect();
    let sql = "SELECT key, version, (octet_length(key) + octet_length(value))::bigint FROM outbox.state
               WHERE plugin = $1 AND key = ANY($2::bytea[])";
    let rows = tx.rows(sql, &[&writes.plugin, &keys]).await?;
    let entry = |row: &tokio_postgres::Row| {
        Ok((row.try_get(0)?, StoredKey { version: row.try_get(1)?, bytes: row.try_get(2)? }))
    };
    rows.iter().map(entry).collect()
}

/// By how much the change makes the state grow, if it is allowed.
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
