//! Reads what items contain, for filters with conditions on it.
//!
//! Which items are read is bounded; whether they match is decided by [`Filter::lets_through`].

use std::collections::HashSet;

use tokio_postgres::Row;

use outbox_item::ItemId;
use outbox_store::engine::{EXAMINED_MAX, LookEnd, READ_MAX, StoredContent, too_many_to_examine};
use outbox_store::{Filter, Page};

use crate::error::PgError;
use crate::item_query::{ItemQuery, ids};
use crate::rows::{numbers, values};
use crate::tx::Query;

/// Items whose content is in memory at a time: a payload can have a megabyte.
const CHUNK: usize = 50;

/// The items that the conditions on columns let through, ascending. Errors when they are too many to be read.
pub(crate) async fn candidates(tx: &impl Query, filter: &Filter) -> Result<Vec<ItemId>, PgError> {
    let found = ids(tx, &ItemQuery::new(filter), EXAMINED_MAX + 1).await?;
    if found.len() > EXAMINED_MAX as usize { Err(too_many_to_examine().into()) } else { Ok(found) }
}

/// Those of the items whose content matches, in the same order.
pub(crate) async fn retain(tx: &impl Query, filter: &Filter, ids: Vec<ItemId>) -> Result<Vec<ItemId>, PgError> {
    if !filter.reads_content() {
        return Ok(ids);
    }
    let mut matching = Vec::new();
    for chunk in ids.chunks(CHUNK) {
        matching.extend(matching_of(tx, filter, chunk).await?);
    }
    Ok(matching)
}

/// The newest items of the page that match, among those of the query; and where the reading stopped, if it did before the
/// page was full or every item was read.
pub(crate) async fn newest(
    tx: &impl Query,
    filter: &Filter,
    page: Page,
    query: &ItemQuery,
) -> Result<(Vec<ItemId>, Option<LookEnd>), PgError> {
    let rows = tx.rows(&query.first("id", "id DESC", READ_MAX), &values(&query.condition)).await?;
    let ids: Vec<_> = rows.iter().map(|row| Ok(ItemId::new(row.try_get(0)?))).collect::<Result<_, PgError>>()?;
    let mut found = Vec::new();
    for chunk in ids.chunks(CHUNK) {
        found.extend(matching_of(tx, filter, chunk).await?);
        if found.len() >= page.limit as usize {
            found.truncate(page.limit as usize);
            return Ok((found, None));
        }
    }
    let is_cut = ids.len() == READ_MAX as usize;
    Ok((found, ids.last().copied().filter(|_| is_cut).map(LookEnd::at_content)))
}

async fn matching_of(tx: &impl Query, filter: &Filter, ids: &[ItemId]) -> Result<Vec<ItemId>, PgError> {
    // The message of the last failure is in the past of an item. A DONE item shows none.
    let statement = "SELECT item.id, item.payload, item.headers::text, item.metadata::text,
            CASE WHEN past.last_error IS NULL OR EXISTS (SELECT 1 FROM outbox.done WHERE done.id = item.id)
                 THEN '' ELSE past.last_error END
        FROM outbox.items AS item LEFT JOIN outbox.past ON past.id = item.id WHERE item.id = ANY($1::bigint[])";
    let mut matching = HashSet::new();
    for row in tx.rows(statement, &[&numbers(ids)]).await? {
        if is_match(&row, filter)? {
            matching.insert(ItemId::new(row.try_get(0)?));
        }
    }
    Ok(ids.iter().copied().filter(|id| matching.contains(id)).collect())
}

fn is_match(row: &Row, filter: &Filter) -> Result<bool, PgError> {
    let (payload, headers, metadata): (&[u8], &str, &str) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    let (headers, metadata, last_error) =
        (headers.as_bytes(), metadata.as_bytes(), row.try_get::<_, &str>(4)?.as_bytes());
    let content = StoredContent { payload, headers, metadata, last_error };
    Ok(filter.lets_through(content))
}
