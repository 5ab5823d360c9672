//! Groups the failures of items that wait for another attempt.
//!
//! Nothing here writes. What belongs to one group is decided in `outbox_store`.

use tokio_postgres::Row;

use outbox_item::{ItemId, Status};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::engine::{RetryingItems, retrying_groups};
use outbox_store::{FailureGroup, Filter};

use crate::error::PgError;
use crate::item_query::view_of;
use crate::queries::matching;
use crate::rows::{time, unsigned, values};
use crate::tx::Query;

/// The failures of the PENDING items that match, the largest group first.
pub(crate) async fn groups(tx: &impl Query, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, PgError> {
    let pending = Filter { status: vec![Status::Pending], ..filter.clone() };
    let mut matched = SqlFilter::from_filter(&pending);
    if filter.reads_content() {
        matched.and_ids(&matching(tx, &pending).await?);
    }
    let condition = if pending == (Filter { status: pending.status.clone(), ..Filter::default() }) {
        matched = SqlFilter::all();
        "true".to_owned()
    } else {
        format!("queue.id IN (SELECT id FROM {} WHERE {})", view_of(Status::Pending), matched.sql)
    };
    // Only an item that was claimed before has a past.
    let statement = format!(
        "SELECT type, message, digest, code, count(*), min(first_at), max(last_at), max(id)
         FROM (SELECT queue.id, queue.type, past.last_error AS message, handlers.digest,
                      (SELECT code FROM outbox.attempts WHERE item_id = queue.id
                       ORDER BY delivery DESC LIMIT 1) AS code,
                      (SELECT min(started_at) FROM outbox.attempts WHERE item_id = queue.id) AS first_at,
                      (SELECT max(ended_at) FROM outbox.attempts WHERE item_id = queue.id) AS last_at
               FROM outbox.queue JOIN outbox.past ON past.id = queue.id
                    LEFT JOIN outbox.handlers ON handlers.id = past.handler
               WHERE queue.again AND past.last_error IS NOT NULL AND {condition}) AS failed
         WHERE first_at IS NOT NULL GROUP BY type, message, digest, code"
    );
    let rows = tx.rows(&statement, &values(&matched)).await?;
    Ok(retrying_groups(rows.iter().map(retrying).collect::<Result<_, _>>()?, limit))
}

fn retrying(row: &Row) -> Result<RetryingItems, PgError> {
    Ok(RetryingItems {
        item_type: row.try_get(0)?,
        message: row.try_get(1)?,
        handler_digest: row.try_get(2)?,
        code: row.try_get(3)?,
        count: unsigned(row, 4)?,
        first_at: time(row, 5)?,
        last_at: time(row, 6)?,
        sample: ItemId::new(row.try_get(7)?),
    })
}
