//! Components that are withdrawn from every process.

use serde_json::json;
use tokio_postgres::Row;

use super::fault::Fault;
use super::step::{Sql, Step, storable};
use super::{alert, audit};
use crate::store::Quarantined;
use crate::store::deed::Entry;

const COLUMNS: &str = "digest, plugin, reason, at, pod";

pub(super) async fn add(step: &mut Step<'_>, digest: &str, plugin: &str, reason: &str) -> Result<(), Fault> {
    let statement = "INSERT INTO outbox.quarantine (digest, plugin, reason, at, pod) VALUES ($1, $2, $3, $4, $5)
                     ON CONFLICT DO NOTHING RETURNING digest";
    let inserted = step.rows(statement, &[&digest, &plugin, &storable(reason), &step.now, &step.pod]).await?;
    if inserted.is_empty() {
        return Ok(());
    }
    alert::send(step, crate::store::alert::quarantined(plugin, digest, reason)).await
}

pub(super) async fn list(sql: &impl Sql) -> Result<Vec<Quarantined>, Fault> {
    let statement = format!("SELECT {COLUMNS} FROM outbox.quarantine ORDER BY at DESC, digest");
    sql.rows(&statement, &[]).await?.iter().map(quarantined).collect()
}

fn quarantined(row: &Row) -> Result<Quarantined, Fault> {
    Ok(Quarantined {
        digest: row.try_get(0)?,
        plugin: row.try_get(1)?,
        reason: row.try_get(2)?,
        at: row.try_get(3)?,
        pod: row.try_get(4)?,
    })
}

/// Whether the component was withdrawn.
pub(super) async fn release(step: &Step<'_>, digest: &str, actor: &str, reason: Option<&str>) -> Result<bool, Fault> {
    let statement = format!("DELETE FROM outbox.quarantine WHERE digest = $1 RETURNING {COLUMNS}");
    let deleted = step.rows(&statement, &[&digest]).await?;
    let Some(row) = deleted.first() else { return Ok(false) };
    let selection = json!({ "digest": digest });
    let entry = Entry { actor, action: "release-plugin", selection, reason, job: None, changes: &[] };
    audit::append_about(step, &entry, 1, &json!([quarantined(row)?])).await?;
    Ok(true)
}
