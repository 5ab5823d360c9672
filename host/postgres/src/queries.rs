//! What can be read of the outbox: lists, single items and totals. Nothing here writes.

use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::PgError;
use crate::rows::{COLUMNS, count};
use crate::tx::Query;
use crate::{audit, rows};
use outbox_core::{FailedAttempt, Recording};
use outbox_item::{Item, ItemId, Millis, Status};
use outbox_store::engine::POD_SHOWN_MS;
use outbox_store::engine::sql_filter::{SqlFilter, SqlParam};
use outbox_store::{Filter, ItemDetails, Overview, Page, Pod, StoreError};

/// The values of a condition's parameters.
pub(crate) fn values(condition: &SqlFilter) -> Vec<&(dyn ToSql + Sync)> {
    condition.params.iter().map(bind).collect()
}

fn bind(param: &SqlParam) -> &(dyn ToSql + Sync) {
    match param {
        SqlParam::Text(text) => text,
        SqlParam::Number(number) => number,
    }
}

/// A column of a count.
pub(crate) fn unsigned(row: &Row, column: usize) -> Result<u64, PgError> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
}

/// A column of JSON, selected as text.
pub(crate) fn json_column<T: DeserializeOwned>(row: &Row, column: usize) -> Result<T, PgError> {
    let unreadable = |err| PgError::Rejected(StoreError::Unusable(format!("a stored JSON cannot be read: {err}")));
    serde_json::from_str(row.try_get(column)?).map_err(unreadable)
}

pub(crate) async fn list(tx: &impl Query, filter: &Filter, page: &Page) -> Result<Vec<Item>, PgError> {
    let mut condition = SqlFilter::from_filter(filter);
    condition.and("id < ?", page.before);
    let statement =
        format!("SELECT {COLUMNS} FROM outbox.items WHERE {} ORDER BY id DESC LIMIT {}", condition.sql, page.limit);
    let rows = tx.rows(&statement, &values(&condition)).await?;
    rows.iter().map(|row| Ok(rows::item(row)?.item)).collect()
}

pub(crate) async fn get(tx: &impl Query, id: ItemId) -> Result<Option<ItemDetails>, PgError> {
    let statement = format!("SELECT {COLUMNS} FROM outbox.items WHERE id = $1");
    let rows = tx.rows(&statement, &[&id]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let item = rows::item(row)?.item;
    let (failed_attempts, audit) = (failed_attempts(tx, id).await?, audit::entries_of_item(tx, id).await?);
    Ok(Some(ItemDetails { item, failed_attempts, audit }))
}

async fn failed_attempts(tx: &impl Query, id: ItemId) -> Result<Vec<FailedAttempt>, PgError> {
    let statement = "SELECT delivery, attempt, started_at, ended_at, pod, to_json(class)::text, code, message, stderr,
                            handler_digest, maybe_executed, exchanges
                     FROM outbox.attempts WHERE item_id = $1 ORDER BY delivery";
    tx.rows(statement, &[&id]).await?.iter().map(failed_attempt).collect()
}

fn failed_attempt(row: &Row) -> Result<FailedAttempt, PgError> {
    let exchanges: Option<Vec<u8>> = row.try_get(11)?;
    Ok(FailedAttempt {
        delivery: count(row, 0)?,
        attempt: count(row, 1)?,
        started_at: row.try_get(2)?,
        ended_at: row.try_get(3)?,
        pod: row.try_get(4)?,
        class: json_column(row, 5)?,
        code: row.try_get(6)?,
        message: row.try_get(7)?,
        stderr: row.try_get(8)?,
        handler_digest: row.try_get(9)?,
        maybe_executed: row.try_get(10)?,
        recording: exchanges.and_then(|packed| Recording::decompress(&packed)).unwrap_or_default(),
    })
}

pub(crate) async fn overview(tx: &impl Query, now: Millis) -> Result<Overview, PgError> {
    let mut overview = Overview { now, ..Overview::default() };
    count_unfinished(tx, &mut overview).await?;
    read_counters(tx, &mut overview).await?;
    overview.sum_statuses();
    let statement = "SELECT (SELECT count(*) FROM outbox.items WHERE status = 'CLAIMED' AND lease_until <= $1),
                            (SELECT count(DISTINCT ordering_key) FROM outbox.items WHERE blocks_key),
                            pg_database_size(current_database()),
                            (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)) * 1000, 0)::bigint
                             FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid())";
    for row in tx.rows(statement, &[&now]).await? {
        overview.expired_claims = unsigned(&row, 0)?;
        overview.blocked_keys = unsigned(&row, 1)?;
        overview.database_bytes = unsigned(&row, 2)?;
        overview.oldest_transaction_ms = unsigned(&row, 3)?;
    }
    overview.pods = pods(tx, now).await?;
    Ok(overview)
}

/// From the partial indexes, which hold what is unfinished or dead, and no DONE item.
async fn count_unfinished(tx: &impl Query, overview: &mut Overview) -> Result<(), PgError> {
    const PARTS: [(Status, &str); 4] = [
        (Status::Pending, "status = 'PENDING' AND NOT held"),
        (Status::Pending, "status = 'PENDING' AND held"),
        (Status::Claimed, "status = 'CLAIMED'"),
        (Status::Dlq, "status = 'DLQ'"),
    ];
    for (status, part) in PARTS {
        // Of others the indexes do not know it.
        let oldest = if status == Status::Pending { "min(available_at)" } else { "NULL::bigint" };
        let statement = format!("SELECT type, count(*), {oldest} FROM outbox.items WHERE {part} GROUP BY type");
        for row in tx.rows(&statement, &[]).await? {
            overview.count(row.try_get(0)?, status, unsigned(&row, 1)?);
            if let Some(oldest) = row.try_get(2)? {
                overview.record_oldest(row.try_get(0)?, oldest);
            }
        }
    }
    Ok(())
}

async fn read_counters(tx: &impl Query, overview: &mut Overview) -> Result<(), PgError> {
    let statement = "SELECT name, saga, type, outcome, sum(total)::bigint FROM outbox.counters GROUP BY 1, 2, 3, 4";
    for row in tx.rows(statement, &[]).await? {
        let key = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
        overview.add_counter(key, unsigned(&row, 4)?);
    }
    Ok(())
}

async fn pods(tx: &impl Query, now: Millis) -> Result<Vec<Pod>, PgError> {
    let statement = "SELECT instance, role, ready, heartbeat_at, plugins::text FROM outbox.pods
                     WHERE heartbeat_at > $1 ORDER BY instance COLLATE \"C\"";
    let pod = |row: &Row| {
        Ok(Pod {
            instance: row.try_get(0)?,
            role: row.try_get(1)?,
            ready: row.try_get(2)?,
            heartbeat_at: row.try_get(3)?,
            plugins: json_column(row, 4)?,
        })
    };
    tx.rows(statement, &[&(now - POD_SHOWN_MS)]).await?.iter().map(pod).collect()
}

/// The first ids, ascending, that fulfil the condition.
pub(crate) async fn ids(tx: &impl Query, condition: &SqlFilter, limit: u32) -> Result<Vec<ItemId>, PgError> {
    let statement = format!("SELECT id FROM outbox.items WHERE {} ORDER BY id LIMIT {limit}", condition.sql);
    let rows = tx.rows(&statement, &values(condition)).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
