//! Which items a page of a list looks at, and under which condition: see `outbox_store::engine::LookEnd`.
//!
//! It reads ids and keys only. What is read of the items is not known here.

use rusqlite::{Connection, OptionalExtension as _};

use outbox_item::{ItemId, Millis, Status};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::{KEYS_SORTED_MAX, LOOKED_AT_MAX, LookEnd, needs_look};
use outbox_store::{Filter, Page};

use crate::rows::{bound, cell};

/// The condition of the page's items, and where it stops to look; `None` where an index finds them, or where the page looks
/// at every item.
pub(crate) fn look(tx: &Connection, filter: &Filter, page: Page) -> rusqlite::Result<(SqlFilter, Option<LookEnd>)> {
    let is_found_by_key = has_few_keys(tx, filter)?;
    let mut condition = if is_found_by_key || filter.key_prefix.is_none() {
        SqlFilter::in_order_of_ids(filter)
    } else {
        SqlFilter::in_order_of_ids_without_keys(filter)
    };
    let end = if is_found_by_key || !needs_look(filter) { None } else { end(tx, filter, page)? };
    condition.and("id < ?", page.before);
    condition.and("id >= ?", end.map(|end| end.last));
    Ok((condition, end))
}

/// Whether the items are found by the beginning of their keys.
fn has_few_keys(tx: &Connection, filter: &Filter) -> rusqlite::Result<bool> {
    let Some(condition) = SqlFilter::of_key_prefix(filter) else { return Ok(false) };
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM outbox_items WHERE {} LIMIT {})",
        condition.sql,
        KEYS_SORTED_MAX + 1
    );
    let found: u32 = tx.prepare_cached(&sql)?.query_row(&*bound(&condition.params), |row| cell(row, 0))?;
    Ok(found <= KEYS_SORTED_MAX)
}

fn end(tx: &Connection, filter: &Filter, page: Page) -> rusqlite::Result<Option<LookEnd>> {
    let mut last = None;
    for place in places(&filter.status) {
        let sql = format!("SELECT id FROM {place} WHERE id < ?1 ORDER BY id DESC LIMIT 1 OFFSET {}", LOOKED_AT_MAX - 1);
        let before = page.before.map_or(i64::MAX, ItemId::get);
        last = last.max(tx.prepare_cached(&sql)?.query_row([before], |row| cell::<i64>(row, 0)).optional()?);
    }
    let Some(last) = last else { return Ok(None) };
    let enqueued = "SELECT created_at FROM outbox_items WHERE id = ?1";
    let enqueued_at = tx.prepare_cached(enqueued)?.query_row([last], |row| cell(row, 0)).optional()?;
    Ok(Some(LookEnd::at_row(filter, ItemId::new(last), enqueued_at.map(Millis::new))))
}

/// The tables of the places with many items, one for each of the statuses.
fn places(statuses: &[Status]) -> Vec<&'static str> {
    let all = [(Status::Pending, "outbox_queue"), (Status::Done, "outbox_done"), (Status::Dlq, "outbox_dead")];
    let wanted = all.into_iter().filter(|(status, _)| statuses.is_empty() || statuses.contains(status));
    wanted.map(|(_, place)| place).collect()
}
