//! Which plugin owns a type in a role.
//!
//! What changes when a process reports its plugins is decided in `outbox_store`.

use tokio_postgres::Row;

use outbox_core::{PresentPlugin, TypeOwner};
use outbox_item::Millis;
use outbox_store::OwnerRecord;
use outbox_store::engine::type_owners::{OwnerChange, OwnerRow, owner_changes};

use crate::error::PgError;
use crate::rows::time;
use crate::tx::{Query, WriteTx, without_nul};

/// The owners in a role, as the store keeps them.
pub(crate) async fn rows(tx: &impl Query, role: &str) -> Result<Vec<OwnerRow>, PgError> {
    let statement = "SELECT type, plugin, gone_since FROM outbox.owners WHERE role = $1 ORDER BY type";
    let row = |row: &Row| {
        let gone_since: Option<i64> = row.try_get(2)?;
        Ok(OwnerRow { item_type: row.try_get(0)?, plugin: row.try_get(1)?, gone_since: gone_since.map(Millis::new) })
    };
    tx.rows(statement, &[&role]).await?.iter().map(row).collect()
}

/// Takes the plugins of a process into account and returns the owners in its role. One process at a time does this.
pub(crate) async fn write(
    tx: &mut WriteTx<'_>,
    role: &str,
    present: &[PresentPlugin],
) -> Result<Vec<OwnerRow>, PgError> {
    tx.rows("LOCK TABLE outbox.owners IN SHARE ROW EXCLUSIVE MODE", &[]).await?;
    for change in owner_changes(&rows(tx, role).await?, present, tx.now) {
        apply(tx, role, &change).await?;
    }
    rows(tx, role).await
}

async fn apply(tx: &WriteTx<'_>, role: &str, change: &OwnerChange) -> Result<(), PgError> {
    let set_gone = "UPDATE outbox.owners SET gone_since = $3::bigint WHERE role = $1 AND type = $2";
    match change {
        OwnerChange::Gone(item_type) => tx.rows(set_gone, &[&role, item_type, &Some(tx.now.get())]).await.map(drop),
        OwnerChange::Back(item_type) => tx.rows(set_gone, &[&role, item_type, &None::<i64>]).await.map(drop),
        OwnerChange::Free(item_type) => {
            let delete = "DELETE FROM outbox.owners WHERE role = $1 AND type = $2";
            tx.rows(delete, &[&role, item_type]).await.map(drop)
        }
        OwnerChange::Take { item_type, plugin } => give(tx, role, item_type, plugin).await,
    }
}

/// Gives the type to the plugin, whichever owned it before.
pub(crate) async fn give(tx: &WriteTx<'_>, role: &str, item_type: &str, plugin: &str) -> Result<(), PgError> {
    let statement = "INSERT INTO outbox.owners (role, type, plugin, since) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (role, type) DO UPDATE SET plugin = excluded.plugin, since = excluded.since,
                         gone_since = NULL";
    tx.rows(statement, &[&role, &item_type, &without_nul(plugin), &tx.now.get()]).await.map(drop)
}

/// Whether the plugin owns the type.
pub(crate) async fn owns(tx: &impl Query, role: &str, item_type: &str, plugin: &str) -> Result<bool, PgError> {
    let statement = "SELECT 1 FROM outbox.owners WHERE role = $1 AND type = $2 AND plugin = $3";
    Ok(!tx.rows(statement, &[&role, &item_type, &without_nul(plugin)]).await?.is_empty())
}

/// The owners without what the runtime does not need.
pub(crate) fn owners(rows: Vec<OwnerRow>) -> Vec<TypeOwner> {
    rows.into_iter().map(|OwnerRow { item_type, plugin, .. }| TypeOwner { item_type, plugin }).collect()
}

/// The owners in every role.
pub(crate) async fn list(tx: &impl Query) -> Result<Vec<OwnerRecord>, PgError> {
    let statement = "SELECT role, type, plugin, since, gone_since FROM outbox.owners ORDER BY role, type";
    let record = |row: &Row| {
        let (role, gone_since): (String, Option<i64>) = (row.try_get(0)?, row.try_get(4)?);
        Ok(OwnerRecord {
            gone_since: gone_since.map(Millis::new),
            plugin: row.try_get(2)?,
            role: Some(role).filter(|role| !role.is_empty()),
            since: time(row, 3)?,
            r#type: row.try_get(1)?,
        })
    };
    tx.rows(statement, &[]).await?.iter().map(record).collect()
}
