//! Reads what items contain, for filters with conditions on it.
//!
//! Which items are read is bounded; whether they match is decided by [`Filter::lets_through`].

use rusqlite::{Connection, Row};

use outbox_item::ItemId;
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::{EXAMINED_MAX, StoredContent, too_many_to_examine};
use outbox_store::{Filter, Page};

use crate::error::unusable;
use crate::id_search::ids;
use crate::rows::{bound, bytes};

/// The items that the conditions on columns let through, ascending. Errors when they are too many to be read.
pub(crate) fn candidates(tx: &Connection, filter: &Filter) -> rusqlite::Result<Vec<ItemId>> {
    let found = ids(tx, &SqlFilter::from_filter(filter), EXAMINED_MAX + 1)?;
    if found.len() > EXAMINED_MAX as usize { Err(unusable(too_many_to_examine())) } else { Ok(found) }
}

/// Those of the items whose content matches.
pub(crate) fn retain(tx: &Connection, filter: &Filter, ids: Vec<ItemId>) -> rusqlite::Result<Vec<ItemId>> {
    if !filter.reads_content() {
        return Ok(ids);
    }
    let mut matching = Vec::new();
    for id in ids {
        if is_match(tx, filter, id)? {
            matching.push(id);
        }
    }
    Ok(matching)
}

/// The newest items of the page that match. Errors when too many had to be read to find them.
pub(crate) fn newest(tx: &Connection, filter: &Filter, page: Page) -> rusqlite::Result<Vec<ItemId>> {
    let mut condition = SqlFilter::in_order_of_ids(filter);
    condition.and("id < ?", page.before);
    let sql = format!("SELECT id FROM outbox_status WHERE {} ORDER BY id DESC LIMIT {EXAMINED_MAX}", condition.sql);
    let mut select = tx.prepare_cached(&sql)?;
    let (mut rows, mut examined, mut found) = (select.query(&*bound(&condition.params))?, 0, Vec::new());
    while let Some(row) = rows.next()? {
        let id = row.get(0).map(ItemId::new)?;
        examined += 1;
        if is_match(tx, filter, id)? {
            found.push(id);
        }
        if found.len() == page.limit as usize {
            return Ok(found);
        }
    }
    if examined == EXAMINED_MAX { Err(unusable(too_many_to_examine())) } else { Ok(found) }
}

fn is_match(tx: &Connection, filter: &Filter, id: ItemId) -> rusqlite::Result<bool> {
    let sql = "SELECT payload, headers, metadata FROM outbox_items WHERE id = ?1";
    let read = |row: &Row<'_>| {
        let content = StoredContent { payload: bytes(row, 0)?, headers: bytes(row, 1)?, metadata: bytes(row, 2)? };
        Ok(filter.lets_through(content))
    };
    tx.prepare_cached(sql)?.query_row([id.get()], read)
}
