//! What can be read of the outbox: lists, single items and totals. Nothing here writes.

use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::audit;
use super::decode::{self, COLUMNS, count};
use super::fault::Fault;
use super::step::Sql;
use crate::item::{FailedAttempt, Item, ItemId, Millis, Recording, Status};
use crate::store::condition::{Condition, Value};
use crate::store::overview::POD_SHOWN_MS;
use crate::store::{Details, Filter, Overview, Page, Pod, StoreError};

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Text(text) => text.to_sql(ty, out),
            Self::Number(number) => number.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        <i64 as ToSql>::accepts(ty) || <String as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

/// The values of a condition's parameters.
pub(super) fn values(condition: &Condition) -> Vec<&(dyn ToSql + Sync)> {
    condition.values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

/// A column of a count.
pub(super) fn unsigned(row: &Row, column: usize) -> Result<u64, Fault> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
}

/// A column of JSON, selected as text.
pub(super) fn json<T: DeserializeOwned>(row: &Row, column: usize) -> Result<T, Fault> {
    let unreadable = |err| Fault::Refused(StoreError::Unusable(format!("a stored JSON cannot be read: {err}")));
    serde_json::from_str(row.try_get(column)?).map_err(unreadable)
}

pub(super) async fn list(sql: &impl Sql, filter: &Filter, page: &Page) -> Result<Vec<Item>, Fault> {
    let mut condition = Condition::of(filter);
    condition.and("id < ?", page.before);
    let statement =
        format!("SELECT {COLUMNS} FROM outbox.items WHERE {} ORDER BY id DESC LIMIT {}", condition.sql, page.limit);
    let rows = sql.rows(&statement, &values(&condition)).await?;
    rows.iter().map(|row| Ok(decode::item(row)?.item)).collect()
}

pub(super) async fn show(sql: &impl Sql, id: ItemId) -> Result<Option<Details>, Fault> {
    let statement = format!("SELECT {COLUMNS} FROM outbox.items WHERE id = $1");
    let rows = sql.rows(&statement, &[&id]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let item = decode::item(row)?.item;
    let (failed_attempts, audit) = (failed_attempts(sql, id).await?, audit::of_item(sql, id).await?);
    Ok(Some(Details { item, failed_attempts, audit }))
}

async fn failed_attempts(sql: &impl Sql, id: ItemId) -> Result<Vec<FailedAttempt>, Fault> {
    let statement = "SELECT delivery, attempt, started_at, ended_at, pod, to_json(class)::text, code, message, stderr,
                            handler_digest, maybe_executed, exchanges
                     FROM outbox.attempts WHERE item_id = $1 ORDER BY delivery";
    sql.rows(statement, &[&id]).await?.iter().map(failed_attempt).collect()
}

fn failed_attempt(row: &Row) -> Result<FailedAttempt, Fault> {
    let exchanges: Option<Vec<u8>> = row.try_get(11)?;
    Ok(FailedAttempt {
        delivery: count(row, 0)?,
        attempt: count(row, 1)?,
        started_at: row.try_get(2)?,
        ended_at: row.try_get(3)?,
        pod: row.try_get(4)?,
        class: json(row, 5)?,
        code: row.try_get(6)?,
        message: row.try_get(7)?,
        stderr: row.try_get(8)?,
        handler_digest: row.try_get(9)?,
        maybe_executed: row.try_get(10)?,
        recording: exchanges.and_then(|packed| Recording::unpack(&packed)).unwrap_or_default(),
    })
}

pub(super) async fn overview(sql: &impl Sql, now: Millis) -> Result<Overview, Fault> {
    let mut overview = Overview { now, ..Overview::default() };
    count_unfinished(sql, &mut overview).await?;
    read_counters(sql, &mut overview).await?;
    overview.sum_statuses();
    let statement = "SELECT (SELECT count(*) FROM outbox.items WHERE status = 'CLAIMED' AND lease_until <= $1),
                            (SELECT count(DISTINCT ordering_key) FROM outbox.items WHERE blocks_key),
                            pg_database_size(current_database()),
                            (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)) * 1000, 0)::bigint
                             FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid())";
    for row in sql.rows(statement, &[&now]).await? {
        overview.expired_claims = unsigned(&row, 0)?;
        overview.blocked_keys = unsigned(&row, 1)?;
        overview.database_bytes = unsigned(&row, 2)?;
        overview.oldest_transaction_ms = unsigned(&row, 3)?;
    }
    overview.pods = pods(sql, now).await?;
    Ok(overview)
}

/// From the partial indexes, which hold what is unfinished or dead, and no DONE item.
async fn count_unfinished(sql: &impl Sql, overview: &mut Overview) -> Result<(), Fault> {
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
        for row in sql.rows(&statement, &[]).await? {
            overview.count(row.try_get(0)?, status, unsigned(&row, 1)?);
            if let Some(oldest) = row.try_get(2)? {
                overview.note_oldest(row.try_get(0)?, oldest);
            }
        }
    }
    Ok(())
}

async fn read_counters(sql: &impl Sql, overview: &mut Overview) -> Result<(), Fault> {
    let statement = "SELECT name, saga, type, outcome, sum(total)::bigint FROM outbox.counters GROUP BY 1, 2, 3, 4";
    for row in sql.rows(statement, &[]).await? {
        let key = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
        overview.add_counter(key, unsigned(&row, 4)?);
    }
    Ok(())
}

async fn pods(sql: &impl Sql, now: Millis) -> Result<Vec<Pod>, Fault> {
    let statement = "SELECT instance, role, ready, heartbeat_at, plugins::text FROM outbox.pods
                     WHERE heartbeat_at > $1 ORDER BY instance COLLATE \"C\"";
    let pod = |row: &Row| {
        Ok(Pod {
            instance: row.try_get(0)?,
            role: row.try_get(1)?,
            ready: row.try_get(2)?,
            heartbeat_at: row.try_get(3)?,
            plugins: json(row, 4)?,
        })
    };
    sql.rows(statement, &[&(now - POD_SHOWN_MS)]).await?.iter().map(pod).collect()
}

/// The first ids, ascending, that fulfil the condition.
pub(super) async fn ids(sql: &impl Sql, condition: &Condition, limit: u32) -> Result<Vec<ItemId>, Fault> {
    let statement = format!("SELECT id FROM outbox.items WHERE {} ORDER BY id LIMIT {limit}", condition.sql);
    let rows = sql.rows(&statement, &values(condition)).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
