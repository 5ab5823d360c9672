//! Reads what items contain, for filters with conditions on it.
//!
//! Which items are read is bounded; whether they match is decided by [`Filter::lets_through`].

use rusqlite::{Connection, OptionalExtension as _, Row};

use outbox_item::ItemId;
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::{EXAMINED_MAX, LookEnd, READ_MAX, StoredContent, too_many_to_examine};
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

/// The newest items of the page that match, among those that fulfil the condition; and where the reading stopped, if it did
/// before the page was full or every item was read.
pub(crate) fn newest(
    tx: &Connection,
    filter: &Filter,
    page: Page,
    condition: &SqlFilter,
) -> rusqlite::Result<(Vec<ItemId>, Option<LookEnd>)> {
    let sql = format!("SELECT id FROM outbox_status WHERE {} ORDER BY id DESC LIMIT {READ_MAX}", condition.sql);
    let mut select = tx.prepare_cached(&sql)?;
    let (mut rows, mut read, mut found) = (select.query(&*bound(&condition.params))?, 0, Vec::new());
    while let Some(row) = rows.next()? {
        let id = row.get(0).map(ItemId::new)?;
        read += 1;
        if is_match(tx, filter, id)? {
            found.push(id);
        }
        if found.len() == page.limit as usize {
            break;
        }
        if read == READ_MAX {
            return Ok((found, Some(LookEnd::at_content(id))));
        }
    }
    Ok((found, None))
}

fn is_match(tx: &Connection, filter: &Filter, id: ItemId) -> rusqlite::Result<bool> {
    // The message of the last failure is beside the items: it is read where it is asked for.
    let sql = match filter.text {
        Some(_) => "SELECT payload, headers, metadata, coalesce(last_error, '') FROM outbox_status WHERE id = ?1",
        None => "SELECT payload, headers, metadata, '' FROM outbox_items WHERE id = ?1",
    };
    let read = |row: &Row<'_>| {
        let content = StoredContent {
            payload: bytes(row, 0)?,
            headers: bytes(row, 1)?,
            metadata: bytes(row, 2)?,
            last_error: bytes(row, 3)?,
        };
        Ok(filter.lets_through(content))
    };
    Ok(tx.prepare_cached(sql)?.query_row([id.get()], read).optional()?.unwrap_or(false))
}
