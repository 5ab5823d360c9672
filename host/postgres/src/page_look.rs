//! Which items a page of a list looks at, and under which condition: see `outbox_store::engine::LookEnd`.
//!
//! It reads ids and keys only. What is read of the items is not known here.

use outbox_item::{ItemId, Millis, Status};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::{KEYS_SORTED_MAX, LOOKED_AT_MAX, LookEnd, needs_look};
use outbox_store::{Filter, Page};

use crate::error::PgError;
use crate::item_query::ItemQuery;
use crate::rows::{unsigned, values};
use crate::tx::Query;

/// The page's items, and where it stops to look; `None` where an index finds them, or where the page looks at every item.
pub(crate) async fn look(
    tx: &impl Query,
    filter: &Filter,
    page: Page,
) -> Result<(ItemQuery, Option<LookEnd>), PgError> {
    let is_found_by_key = has_few_keys(tx, filter).await?;
    let mut query = if is_found_by_key || filter.key_prefix.is_none() {
        ItemQuery::new(filter)
    } else {
        ItemQuery::with(filter, SqlFilter::in_order_of_ids_without_keys(filter))
    };
    let end = if is_found_by_key || !needs_look(filter) { None } else { end(tx, filter, page).await? };
    query.condition.and("id < ?", page.before);
    query.condition.and("id >= ?", end.map(|end| end.last));
    Ok((query, end))
}

/// Whether the items are found by the beginning of their keys.
async fn has_few_keys(tx: &impl Query, filter: &Filter) -> Result<bool, PgError> {
    let Some(condition) = SqlFilter::of_key_prefix(filter) else { return Ok(false) };
    let statement = format!(
        "SELECT count(*) FROM (SELECT 1 FROM outbox.items WHERE {} LIMIT {}) AS found",
        condition.sql,
        KEYS_SORTED_MAX + 1
    );
    let rows = tx.rows(&statement, &values(&condition)).await?;
    let found = rows.first().map_or(Ok(0), |row| unsigned(row, 0))?;
    Ok(found <= KEYS_SORTED_MAX.into())
}

async fn end(tx: &impl Query, filter: &Filter, page: Page) -> Result<Option<LookEnd>, PgError> {
    let before = page.before.map_or(i64::MAX, ItemId::get);
    let last = |place: &str| {
        format!("(SELECT id FROM {place} WHERE id < $1 ORDER BY id DESC LIMIT 1 OFFSET {})", LOOKED_AT_MAX - 1)
    };
    let places: Vec<_> = places(&filter.status).into_iter().map(last).collect();
    if places.is_empty() {
        return Ok(None);
    }
    let statement = format!(
        "SELECT id, created_at FROM outbox.items WHERE id = (SELECT max(id) FROM ({}) AS ends)",
        places.join(" UNION ALL ")
    );
    let rows = tx.rows(&statement, &[&before]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (last, enqueued_at) = (ItemId::new(row.try_get(0)?), Millis::new(row.try_get(1)?));
    Ok(Some(LookEnd::at_row(filter, last, Some(enqueued_at))))
}

/// The tables of the places with many items, one for each of the statuses.
fn places(statuses: &[Status]) -> Vec<&'static str> {
    let all = [(Status::Pending, "outbox.queue"), (Status::Done, "outbox.done"), (Status::Dlq, "outbox.dead")];
    let wanted = all.into_iter().filter(|(status, _)| statuses.is_empty() || statuses.contains(status));
    wanted.map(|(_, place)| place).collect()
}
