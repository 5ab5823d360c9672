//! What can be read of the outbox: lists, single items, signals and totals. Nothing here writes.

use rusqlite::{Connection, OptionalExtension, ToSql};

use crate::rows;
use crate::rows::COLUMNS;
use outbox_core::saga::Signal;
use outbox_core::{FailedAttempt, Recording};
use outbox_item::{Item, ItemId, Millis, Status};
use outbox_store::engine::POD_SHOWN_MS;
use outbox_store::engine::sql_filter::{SqlFilter, SqlParam};
use outbox_store::{Filter, ItemDetails, Overview, Page, Pod};

/// The values of a condition's parameters, as the driver binds them.
pub(crate) fn bound(params: &[SqlParam]) -> Vec<&dyn ToSql> {
    params.iter().map(bind).collect()
}

fn bind(param: &SqlParam) -> &dyn ToSql {
    match param {
        SqlParam::Text(text) => text,
        SqlParam::Number(number) => number,
    }
}

pub(crate) fn list(tx: &Connection, filter: &Filter, page: Page) -> rusqlite::Result<Vec<Item>> {
    let (sql, values) = search(filter, page);
    let mut select = tx.prepare_cached(&sql)?;
    let rows = select.query_map(&*bound(&values), |row| Ok(rows::item(row)?.item))?;
    rows.collect()
}

fn search(filter: &Filter, page: Page) -> (String, Vec<SqlParam>) {
    let mut condition = SqlFilter::from_filter(filter);
    condition.and("id < ?", page.before);
    let sql =
        format!("SELECT {COLUMNS} FROM outbox_items WHERE {} ORDER BY id DESC LIMIT {}", condition.sql, page.limit);
    (sql, condition.params)
}

pub(crate) fn get(tx: &Connection, id: ItemId) -> rusqlite::Result<Option<ItemDetails>> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_items WHERE id = ?1");
    let Some(found) = tx.prepare_cached(&sql)?.query_row([id], rows::item).optional()? else {
        return Ok(None);
    };
    let audit = crate::audit::entries_of_item(tx, id)?;
    Ok(Some(ItemDetails { item: found.item, failed_attempts: failed_attempts(tx, id)?, audit }))
}

fn failed_attempts(tx: &Connection, id: ItemId) -> rusqlite::Result<Vec<FailedAttempt>> {
    let mut select = tx.prepare_cached(
        "SELECT delivery, attempt, started_at, ended_at, pod, class, code, message, stderr, handler_digest,
                maybe_executed, exchanges
         FROM outbox_attempts WHERE item_id = ?1 ORDER BY delivery",
    )?;
    let rows = select.query_map([id], |row| {
        let class: String = row.get(5)?;
        let exchanges: Option<Vec<u8>> = row.get(11)?;
        Ok(FailedAttempt {
            delivery: row.get(0)?,
            attempt: row.get(1)?,
            started_at: row.get(2)?,
            ended_at: row.get(3)?,
            pod: row.get(4)?,
            class: serde_json::from_value(class.into()).map_err(|err| {
                rusqlite::Error::FromSqlConversionFailure(5, rusqlite::types::Type::Text, Box::new(err))
            })?,
            code: row.get(6)?,
            message: row.get(7)?,
            stderr: row.get(8)?,
            handler_digest: row.get(9)?,
            maybe_executed: row.get(10)?,
            recording: exchanges.and_then(|packed| Recording::decompress(&packed)).unwrap_or_default(),
        })
    })?;
    rows.collect()
}

pub(crate) fn signals(tx: &Connection, after: i64, limit: u32) -> rusqlite::Result<Vec<Signal>> {
    let mut select = tx
        .prepare_cached("SELECT seq, pod, signal, ts, data FROM outbox_signals WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let rows = select.query_map((after, limit), |row| {
        let data: String = row.get(4)?;
        Ok(Signal {
            seq: row.get(0)?,
            pod: row.get(1)?,
            signal: row.get(2)?,
            ts: row.get(3)?,
            data: serde_json::from_str(&data).unwrap_or(data.into()),
        })
    })?;
    rows.collect()
}

pub(crate) fn overview(tx: &Connection, now: Millis) -> rusqlite::Result<Overview> {
    let mut overview = Overview { now, ..Overview::default() };
    count_unfinished(tx, &mut overview)?;
    read_counters(tx, &mut overview)?;
    overview.sum_statuses();
    overview.expired_claims = tx
        .prepare_cached("SELECT count(*) FROM outbox_items WHERE status = 'CLAIMED' AND lease_until <= ?1")?
        .query_row([now], |row| row.get(0))?;
    overview.blocked_keys = tx
        .prepare_cached("SELECT count(DISTINCT ordering_key) FROM outbox_items WHERE blocks_key = 1")?
        .query_row([], |row| row.get(0))?;
    overview.pods = pods(tx, now)?;
    Ok(overview)
}

/// From the partial indexes, which hold what is unfinished or dead, and no DONE item.
fn count_unfinished(tx: &Connection, overview: &mut Overview) -> rusqlite::Result<()> {
    // Named, because the index in the order of ids would be searched row by row.
    const DLQ: &str = "outbox_items INDEXED BY outbox_items_dead WHERE status = 'DLQ'";
    const CLAIMED: &str = "outbox_items WHERE status = 'CLAIMED'";
    const PENDING: [&str; 2] =
        ["outbox_items WHERE status = 'PENDING' AND held = 0", "outbox_items WHERE status = 'PENDING' AND held = 1"];
    for (status, parts) in [(Status::Pending, &PENDING[..]), (Status::Claimed, &[CLAIMED]), (Status::Dlq, &[DLQ])] {
        for part in parts {
            let sql = format!("SELECT type, count(*) FROM {part} GROUP BY type");
            let mut select = tx.prepare_cached(&sql)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                overview.count(row.get(0)?, status, row.get(1)?);
            }
        }
    }
    PENDING.iter().try_for_each(|pending| record_oldest(tx, pending, overview))
}

fn record_oldest(tx: &Connection, pending: &str, overview: &mut Overview) -> rusqlite::Result<()> {
    let sql = format!("SELECT type, min(available_at) FROM {pending} GROUP BY type");
    let mut oldest = tx.prepare_cached(&sql)?;
    let mut rows = oldest.query([])?;
    while let Some(row) = rows.next()? {
        overview.record_oldest(row.get(0)?, row.get(1)?);
    }
    Ok(())
}

fn read_counters(tx: &Connection, overview: &mut Overview) -> rusqlite::Result<()> {
    let mut select = tx.prepare_cached("SELECT name, saga, type, outcome, total FROM outbox_counters")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let key: [String; 4] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
        overview.add_counter(key, row.get(4)?);
    }
    Ok(())
}

fn pods(tx: &Connection, now: Millis) -> rusqlite::Result<Vec<Pod>> {
    let mut select = tx.prepare_cached(
        "SELECT instance, role, ready, heartbeat_at, plugins FROM outbox_pods
         WHERE heartbeat_at > ?1 ORDER BY instance",
    )?;
    let rows = select.query_map([now - POD_SHOWN_MS], |row| {
        let plugins: String = row.get(4)?;
        Ok(Pod {
            instance: row.get(0)?,
            role: row.get(1)?,
            ready: row.get(2)?,
            heartbeat_at: row.get(3)?,
            plugins: serde_json::from_str(&plugins).unwrap_or_default(),
        })
    })?;
    rows.collect()
}

/// The ids of all items that match, ascending.
pub(crate) fn matching(tx: &Connection, filter: &Filter) -> rusqlite::Result<Vec<ItemId>> {
    ids(tx, &SqlFilter::from_filter(filter), u32::MAX)
}

/// The first ids, ascending, that fulfil the condition.
pub(crate) fn ids(tx: &Connection, condition: &SqlFilter, limit: u32) -> rusqlite::Result<Vec<ItemId>> {
    let sql = format!("SELECT id FROM outbox_items WHERE {} ORDER BY id LIMIT {limit}", condition.sql);
    let mut select = tx.prepare_cached(&sql)?;
    select.query_map(&*bound(&condition.params), |row| row.get(0))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn a_correlation_id_is_looked_up_in_the_index_and_among_the_keys() {
        let cid = Filter { cid: Some("c".into()), ..Filter::default() };
        let of_type = Filter { r#type: Some("t".into()), ..cid.clone() };
        let recent = Filter { created_from: Some(1), ..cid.clone() };
        let dead = Filter { status: vec![Status::Dlq], ..cid.clone() };
        for (filter, before) in
            [&cid, &of_type, &recent, &dead].into_iter().flat_map(|filter| [(filter, None), (filter, Some(9))])
        {
            let (sql, values) = search(filter, Page { limit: 100, before });
            let steps = plan(&sql, &*bound(&values));
            for index in ["outbox_items_cid (cid=?", "outbox_items_1 (idem_key=?"] {
                assert!(steps.iter().any(|line| line.contains(index)), "{steps:?}");
            }
        }
    }
}
