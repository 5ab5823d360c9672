//! Which plugin owns a type in a role.
//!
//! What changes when a process reports its plugins is decided in `outbox_store`.

use rusqlite::{Connection, params};

use outbox_core::{PresentPlugin, TypeOwner};
use outbox_item::Millis;
use outbox_store::engine::type_owners::{OwnerChange, OwnerRow, owner_changes};
use outbox_store::{OwnerRecord, StoreError};

use crate::SqliteStore;
use crate::error::unavailable;
use crate::rows::{cell, time};
use crate::write_tx::WriteTx;

/// Takes the plugins of a process into account and returns the owners in its role. Writes only what changes.
pub(crate) async fn exchange(
    store: &SqliteStore,
    role: String,
    present: Vec<PresentPlugin>,
) -> Result<Vec<TypeOwner>, StoreError> {
    let (tried, now) = ("reading the owners of types", (store.clock)());
    let of_role = role.clone();
    let rows = store.read_pool.run(tried, move |tx| rows(tx, &of_role)).await?;
    if owner_changes(&rows, &present, now).is_empty() {
        return Ok(rows.into_iter().map(owner).collect());
    }
    let tried = "writing the owners of types";
    store.writer.run(tried, move |tx| write(tx, &role, &present).map_err(unavailable(tried))).await
}

fn write(tx: &mut WriteTx<'_>, role: &str, present: &[PresentPlugin]) -> rusqlite::Result<Vec<TypeOwner>> {
    for change in owner_changes(&rows(tx.connection, role)?, present, tx.now) {
        apply(tx, role, &change)?;
    }
    Ok(rows(tx.connection, role)?.into_iter().map(owner).collect())
}

fn apply(tx: &WriteTx<'_>, role: &str, change: &OwnerChange) -> rusqlite::Result<()> {
    let set_gone = "UPDATE outbox_owners SET gone_since = ?3 WHERE role = ?1 AND type = ?2";
    match change {
        OwnerChange::Gone(item_type) => {
            tx.connection.prepare_cached(set_gone)?.execute(params![role, item_type, tx.now.get()])
        }
        OwnerChange::Back(item_type) => {
            tx.connection.prepare_cached(set_gone)?.execute(params![role, item_type, None::<i64>])
        }
        OwnerChange::Free(item_type) => tx
            .connection
            .prepare_cached("DELETE FROM outbox_owners WHERE role = ?1 AND type = ?2")?
            .execute([role, item_type]),
        OwnerChange::Take { item_type, plugin } => give(tx, role, item_type, plugin),
    }
    .map(drop)
}

/// Gives the type to the plugin, whichever owned it before.
pub(crate) fn give(tx: &WriteTx<'_>, role: &str, item_type: &str, plugin: &str) -> rusqlite::Result<usize> {
    let sql = "INSERT OR REPLACE INTO outbox_owners (role, type, plugin, since) VALUES (?1, ?2, ?3, ?4)";
    tx.connection.prepare_cached(sql)?.execute(params![role, item_type, plugin, tx.now.get()])
}

/// Whether the plugin owns the type.
pub(crate) fn owns(tx: &WriteTx<'_>, role: &str, item_type: &str, plugin: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM outbox_owners WHERE role = ?1 AND type = ?2 AND plugin = ?3";
    tx.connection.prepare_cached(sql)?.exists([role, item_type, plugin])
}

fn rows(tx: &Connection, role: &str) -> rusqlite::Result<Vec<OwnerRow>> {
    let sql = "SELECT type, plugin, gone_since FROM outbox_owners WHERE role = ?1 ORDER BY type";
    let mut select = tx.prepare_cached(sql)?;
    let rows = select.query_map([role], |row| {
        let gone_since: Option<i64> = cell(row, 2)?;
        Ok(OwnerRow { item_type: cell(row, 0)?, plugin: cell(row, 1)?, gone_since: gone_since.map(Millis::new) })
    })?;
    rows.collect()
}

fn owner(OwnerRow { item_type, plugin, .. }: OwnerRow) -> TypeOwner {
    TypeOwner { item_type, plugin }
}

/// The owners in every role.
pub(crate) fn list(tx: &Connection) -> rusqlite::Result<Vec<OwnerRecord>> {
    let sql = "SELECT role, type, plugin, since, gone_since FROM outbox_owners ORDER BY role, type";
    let mut select = tx.prepare_cached(sql)?;
    let rows = select.query_map([], |row| {
        let (role, gone_since): (String, Option<i64>) = (cell(row, 0)?, cell(row, 4)?);
        Ok(OwnerRecord {
            gone_since: gone_since.map(Millis::new),
            plugin: cell(row, 2)?,
            role: Some(role).filter(|role| !role.is_empty()),
            since: time(row, 3)?,
            r#type: cell(row, 1)?,
        })
    })?;
    rows.collect()
}
