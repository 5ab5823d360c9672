//! Dead-lettered items grouped by what they died of.

use tokio_postgres::Row;

use crate::error::PgError;
use crate::queries::{unsigned, values};
use crate::tx::Query;
use outbox_item::Status;
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::{FailureGroup, Filter};

pub(crate) async fn groups(tx: &impl Query, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, PgError> {
    let condition = SqlFilter::from_filter(&Filter { status: vec![Status::Dlq], ..filter.clone() });
    let statement = format!(
        "SELECT died.*, sample.last_error, sample.handler_digest,
                (SELECT code FROM outbox.attempts WHERE item_id = sample.id ORDER BY delivery DESC LIMIT 1)
         FROM (SELECT fingerprint COLLATE \"C\" AS fingerprint, type, count(*) AS items, min(dead_at), max(dead_at),
                      max(id) AS newest
               FROM outbox.items WHERE {} AND fingerprint IS NOT NULL GROUP BY 1, 2
               ORDER BY items DESC, fingerprint LIMIT {limit}) AS died
         JOIN outbox.items AS sample ON sample.id = died.newest
         ORDER BY died.items DESC, died.fingerprint",
        condition.sql
    );
    tx.rows(&statement, &values(&condition)).await?.iter().map(group).collect()
}

fn group(row: &Row) -> Result<FailureGroup, PgError> {
    Ok(FailureGroup {
        fingerprint: row.try_get(0)?,
        r#type: row.try_get(1)?,
        count: unsigned(row, 2)?,
        first_at: row.try_get(3)?,
        last_at: row.try_get(4)?,
        sample: row.try_get(5)?,
        message: row.try_get(6)?,
        handler_digest: row.try_get(7)?,
        code: row.try_get(8)?,
    })
}
