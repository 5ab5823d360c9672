//! Dead-lettered items grouped by what they died of.

use rusqlite::{Connection, OptionalExtension};

use crate::queries::bound;
use outbox_item::Status;
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::{FailureGroup, Filter};

pub(crate) fn groups(tx: &Connection, filter: &Filter, limit: u32) -> rusqlite::Result<Vec<FailureGroup>> {
    let condition = SqlFilter::from_filter(&Filter { status: vec![Status::Dlq], ..filter.clone() });
    let sql = format!(
        "SELECT fingerprint, type, count(*), min(dead_at), max(dead_at), max(id)
         FROM outbox_items INDEXED BY outbox_items_failure
         WHERE {} AND fingerprint IS NOT NULL GROUP BY fingerprint, type
         ORDER BY count(*) DESC, fingerprint LIMIT {limit}",
        condition.sql
    );
    let mut select = tx.prepare_cached(&sql)?;
    let rows = select.query_map(&*bound(&condition.params), |row| {
        Ok(FailureGroup {
            fingerprint: row.get(0)?,
            r#type: row.get(1)?,
            count: row.get(2)?,
            first_at: row.get(3)?,
            last_at: row.get(4)?,
            sample: row.get(5)?,
            code: None,
            message: None,
            handler_digest: None,
        })
    })?;
    rows.map(|group| describe(tx, group?)).collect()
}

/// Adds what the group's sample died of.
fn describe(tx: &Connection, mut group: FailureGroup) -> rusqlite::Result<FailureGroup> {
    let mut select = tx.prepare_cached("SELECT last_error, handler_digest FROM outbox_items WHERE id = ?1")?;
    (group.message, group.handler_digest) = select.query_row([group.sample], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut last =
        tx.prepare_cached("SELECT code FROM outbox_attempts WHERE item_id = ?1 ORDER BY delivery DESC LIMIT 1")?;
    group.code = last.query_row([group.sample], |row| row.get(0)).optional()?;
    Ok(group)
}
