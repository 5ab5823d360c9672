//! Groups the failures of items that wait for another attempt.
//!
//! Nothing here writes. What belongs to one group is decided in `outbox_store`.

use rusqlite::{Connection, Row};

use outbox_item::{ItemId, Status};
use outbox_store::engine::sql_filter::{SqlFilter, SqlParam};
use outbox_store::engine::{RetryingItems, retrying_groups};
use outbox_store::{FailureGroup, Filter};

use crate::queries::matching;
use crate::rows::{bound, cell, time};

/// The failures of the PENDING items that match, the largest group first.
pub(crate) fn groups(tx: &Connection, filter: &Filter, limit: u32) -> rusqlite::Result<Vec<FailureGroup>> {
    let (condition, values) = condition(tx, filter)?;
    // Only an item that was claimed before has a past.
    let sql = format!(
        "SELECT type, message, digest, code, count(*), min(first_at), max(last_at), max(id)
         FROM (SELECT waiting.id, waiting.type, past.last_error AS message, handler.digest,
                      (SELECT code FROM outbox_attempts WHERE item_id = waiting.id
                       ORDER BY delivery DESC LIMIT 1) AS code,
                      (SELECT min(started_at) FROM outbox_attempts WHERE item_id = waiting.id) AS first_at,
                      (SELECT max(ended_at) FROM outbox_attempts WHERE item_id = waiting.id) AS last_at
               FROM outbox_queue AS waiting JOIN outbox_past AS past ON past.id = waiting.id
                    LEFT JOIN outbox_handlers AS handler ON handler.id = past.handler
               WHERE waiting.again = 1 AND past.last_error IS NOT NULL AND {condition})
         WHERE first_at IS NOT NULL GROUP BY type, message, digest, code"
    );
    let mut select = tx.prepare_cached(&sql)?;
    let found = select.query_map(&*bound(&values), retrying)?.collect::<rusqlite::Result<_>>()?;
    Ok(retrying_groups(found, limit))
}

fn condition(tx: &Connection, filter: &Filter) -> rusqlite::Result<(String, Vec<SqlParam>)> {
    let pending = Filter { status: vec![Status::Pending], ..filter.clone() };
    if pending == (Filter { status: pending.status.clone(), ..Filter::default() }) {
        return Ok(("1 = 1".to_owned(), Vec::new()));
    }
    let mut matched = SqlFilter::from_filter(&pending);
    if filter.reads_content() {
        matched.and_ids(&matching(tx, &pending)?);
    }
    Ok((format!("waiting.id IN (SELECT id FROM outbox_status WHERE {})", matched.sql), matched.params))
}

fn retrying(row: &Row<'_>) -> rusqlite::Result<RetryingItems> {
    Ok(RetryingItems {
        item_type: cell(row, 0)?,
        message: cell(row, 1)?,
        handler_digest: cell(row, 2)?,
        code: cell(row, 3)?,
        count: cell(row, 4)?,
        first_at: time(row, 5)?,
        last_at: time(row, 6)?,
        sample: ItemId::new(cell(row, 7)?),
    })
}
