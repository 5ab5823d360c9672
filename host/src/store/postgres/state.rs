//! Plugins' key-value state: read while an attempt runs, committed with its completion, within its quota.
//!
//! Optimistic: the commit checks the version of every key that the attempt touched, absence included, while
//! it holds the plugin's row of the totals. Of several attempts that touched a key, the first to commit
//! wins, so that one always makes progress.

use std::collections::HashMap;

use super::fault::Fault;
use super::step::{Sql, Step};
use crate::item::{HostWrites, STATE_VALUE_MAX, StateChange, StateTouch, StateVersion};
use crate::store::StoreError;

/// The value of a key and its version; both are `None` for a key that is absent.
pub(super) async fn read(sql: &impl Sql, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), Fault> {
    let statement = "SELECT value, version FROM outbox.state WHERE plugin = $1 AND key = $2";
    let rows = sql.rows(statement, &[&plugin, &key.as_bytes()]).await?;
    let Some(row) = rows.first() else { return Ok((None, None)) };
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Takes the plugins' rows of the totals, which whoever commits state waits for.
pub(super) async fn lock(step: &Step<'_>, plugins: &[&str]) -> Result<(), Fault> {
    let create = "INSERT INTO outbox.state_totals (plugin, keys, bytes)
                  SELECT name, 0, 0 FROM unnest($1::text[]) AS name ORDER BY name COLLATE \"C\"
                  ON CONFLICT DO NOTHING";
    step.rows(create, &[&plugins]).await?;
    let lock = "SELECT 1 FROM outbox.state_totals WHERE plugin = ANY($1::text[]) ORDER BY plugin FOR UPDATE";
    step.rows(lock, &[&plugins]).await.map(drop)
}

/// Writes what an attempt did to the state of its plugin, whose row of the totals is locked. When this is
/// refused, nothing has been written.
pub(super) async fn commit(step: &Step<'_>, writes: &HostWrites) -> Result<(), Fault> {
    let stored = stored(step, writes).await?;
    let mut grown: i64 = 0;
    for touch in &writes.state {
        grown += check(&writes.plugin, touch, stored.get(touch.key.as_bytes()))?;
    }
    let sql = "SELECT bytes FROM outbox.state_totals WHERE plugin = $1";
    let used = step.rows(sql, &[&writes.plugin]).await?.first().map_or(Ok(0), |row| row.try_get::<_, i64>(0))?;
    let [used, wanted] = [used, used + grown].map(|bytes| u64::try_from(bytes).unwrap_or(0));
    // What is over the quota already, because that was lowered, may shrink but not grow.
    if wanted > used.max(writes.state_quota) {
        let (plugin, quota) = (writes.plugin.clone(), writes.state_quota);
        return Err(StoreError::StateQuota { plugin, used, wanted, quota }.into());
    }
    apply(step, writes).await
}

/// What is stored under a key.
struct Stored {
    version: i64,
    bytes: i64,
}

async fn stored(step: &Step<'_>, writes: &HostWrites) -> Result<HashMap<Vec<u8>, Stored>, Fault> {
    let keys: Vec<_> = writes.state.iter().map(|touch| touch.key.as_bytes()).collect();
    let sql = "SELECT key, version, (octet_length(key) + octet_length(value))::bigint FROM outbox.state
               WHERE plugin = $1 AND key = ANY($2::bytea[])";
    let rows = step.rows(sql, &[&writes.plugin, &keys]).await?;
    let entry =
        |row: &tokio_postgres::Row| Ok((row.try_get(0)?, Stored { version: row.try_get(1)?, bytes: row.try_get(2)? }));
    rows.iter().map(entry).collect()
}

/// By how much the change makes the state grow, if it is allowed.
fn check(plugin: &str, touch: &StateTouch, stored: Option<&Stored>) -> Result<i64, StoreError> {
    let own = || (plugin.to_owned(), touch.key.clone());
    if stored.map(|stored| stored.version) != touch.seen {
        let (plugin, key) = own();
        return Err(StoreError::StateConflict { plugin, key });
    }
    let before = stored.map_or(0, |stored| stored.bytes);
    match &touch.change {
        StateChange::None => Ok(0),
        StateChange::Delete => Ok(-before),
        StateChange::Put(value) if value.len() > STATE_VALUE_MAX => {
            let (plugin, key) = own();
            Err(StoreError::StateValueTooLarge { plugin, key, bytes: value.len() })
        }
        StateChange::Put(value) => Ok(i64::try_from(touch.key.len() + value.len()).unwrap_or(i64::MAX) - before),
    }
}

async fn apply(step: &Step<'_>, writes: &HostWrites) -> Result<(), Fault> {
    let (mut keys, mut values, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    for touch in &writes.state {
        match &touch.change {
            StateChange::None => {}
            StateChange::Delete => deleted.push(touch.key.as_bytes()),
            StateChange::Put(value) => {
                keys.push(touch.key.as_bytes());
                values.push(value.as_slice());
            }
        }
    }
    if !deleted.is_empty() {
        let sql = "DELETE FROM outbox.state WHERE plugin = $1 AND key = ANY($2::bytea[])";
        step.rows(sql, &[&writes.plugin, &deleted]).await?;
    }
    if !keys.is_empty() {
        let sql = "INSERT INTO outbox.state (plugin, key, value)
                   SELECT $1::text, new.* FROM unnest($2::bytea[], $3::bytea[]) AS new
                   ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value, version = excluded.version";
        step.rows(sql, &[&writes.plugin, &keys, &values]).await?;
    }
    Ok(())
}
