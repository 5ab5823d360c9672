//! Finds the ids of the items that fulfil a condition, in the order of their ids.
//!
//! It knows no filter: others make the condition.

use rusqlite::Connection;

use outbox_item::ItemId;
use outbox_store::engine::sql_filter::SqlFilter;

use crate::rows::{bound, cell};

/// The ids of the first `limit` items that fulfil the condition, ascending.
pub(crate) fn ids(tx: &Connection, condition: &SqlFilter, limit: u32) -> rusqlite::Result<Vec<ItemId>> {
    let mut select = tx.prepare_cached(&id_search(condition, limit))?;
    select.query_map(&*bound(&condition.params), |row| cell(row, 0).map(ItemId::new))?.collect()
}

/// SQL that finds them.
pub(crate) fn id_search(condition: &SqlFilter, limit: u32) -> String {
    format!("SELECT id FROM outbox_status WHERE {} ORDER BY id LIMIT {limit}", condition.sql)
}
