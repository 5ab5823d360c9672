//! Reads items: lists, single items with their history, signals, and groups of failures.
//!
//! Nothing here writes. Totals are in `overview`.

use rusqlite::{Connection, OptionalExtension};

use outbox_core::{FailedAttempt, Recording};
use outbox_item::{Item, ItemId, Status};
use outbox_store::engine::sql_filter::{SqlFilter, SqlParam};
use outbox_store::engine::stored::{RowName, parse_word};
use outbox_store::{FailureGroup, Filter, ItemDetails, Page, Signal, SignalSeq};

use crate::audit;
use crate::error::unusable;
use crate::rows::{self, COLUMNS, bound, json_column, time};

/// The items that match, newest first.
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

/// The item with its history and its audit entries.
pub(crate) fn get(tx: &Connection, id: ItemId) -> rusqlite::Result<Option<ItemDetails>> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_items WHERE id = ?1");
    let Some(found) = tx.prepare_cached(&sql)?.query_row([id.get()], rows::item).optional()? else {
        return Ok(None);
    };
    let audit = audit::entries_of_item(tx, id)?;
    Ok(Some(ItemDetails { item: found.item, failed_attempts: failed_attempts(tx, id)?, audit }))
}

fn failed_attempts(tx: &Connection, id: ItemId) -> rusqlite::Result<Vec<FailedAttempt>> {
    let mut select = tx.prepare_cached(
        "SELECT delivery, attempt, started_at, ended_at, pod, class, code, message, stderr, handler_digest,
                maybe_executed, exchanges
         FROM outbox_attempts WHERE item_id = ?1 ORDER BY delivery",
    )?;
    let rows = select.query_map([id.get()], |row| {
        let class: String = row.get(5)?;
        let exchanges: Option<Vec<u8>> = row.get(11)?;
        Ok(FailedAttempt {
            delivery: row.get(0)?,
            attempt: row.get(1)?,
            started_at: time(row, 2)?,
            ended_at: time(row, 3)?,
            pod: row.get(4)?,
            class: parse_word(&class, RowName::new("a failed attempt of item", id.get()), "class").map_err(unusable)?,
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

/// The signals after `after`, oldest first.
pub(crate) fn signals(tx: &Connection, after: SignalSeq, limit: u32) -> rusqlite::Result<Vec<Signal>> {
    let mut select = tx
        .prepare_cached("SELECT seq, pod, signal, ts, data FROM outbox_signals WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let rows = select.query_map((after.get(), limit), |row| {
        Ok(Signal {
            seq: SignalSeq::new(row.get(0)?),
            pod: row.get(1)?,
            signal: row.get(2)?,
            ts: time(row, 3)?,
            data: json_column(row, 4, "data", "signal")?,
        })
    })?;
    rows.collect()
}

/// The dead-lettered items that match, grouped by the fingerprint of their failure, the largest group first.
pub(crate) fn failure_groups(tx: &Connection, filter: &Filter, limit: u32) -> rusqlite::Result<Vec<FailureGroup>> {
    let condition = SqlFilter::from_filter(&Filter { status: vec![Status::Dlq], ..filter.clone() });
    let sql = format!(
        "SELECT fingerprint, type, count(*), min(dead_at), max(dead_at), max(id)
         FROM outbox_items INDEXED BY outbox_items_failure
         WHERE {} AND fingerprint IS NOT NULL GROUP BY fingerprint, type
         ORDER BY count(*) DESC, fingerprint LIMIT {limit}",
        condition.sql
    );
    let mut select = tx.prepare_cached(&sql)?;
    let rows = select.query_map(&*bound(&condition.params), |row| {
        Ok(FailureGroup {
            fingerprint: row.get(0)?,
            r#type: row.get(1)?,
            count: row.get(2)?,
            first_at: time(row, 3)?,
            last_at: time(row, 4)?,
            sample: ItemId::new(row.get(5)?),
            code: None,
            message: None,
            handler_digest: None,
        })
    })?;
    rows.map(|group| describe_sample(tx, group?)).collect()
}

/// Adds the failure of the group's sample.
fn describe_sample(tx: &Connection, mut group: FailureGroup) -> rusqlite::Result<FailureGroup> {
    let mut select = tx.prepare_cached("SELECT last_error, handler_digest FROM outbox_items WHERE id = ?1")?;
    (group.message, group.handler_digest) =
        select.query_row([group.sample.get()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut last =
        tx.prepare_cached("SELECT code FROM outbox_attempts WHERE item_id = ?1 ORDER BY delivery DESC LIMIT 1")?;
    group.code = last.query_row([group.sample.get()], |row| row.get(0)).optional()?;
    Ok(group)
}

/// The ids of all items that match, ascending.
pub(crate) fn matching(tx: &Connection, filter: &Filter) -> rusqlite::Result<Vec<ItemId>> {
    ids(tx, &SqlFilter::from_filter(filter), u32::MAX)
}

/// The ids of the first `limit` items that fulfil the condition, ascending.
pub(crate) fn ids(tx: &Connection, condition: &SqlFilter, limit: u32) -> rusqlite::Result<Vec<ItemId>> {
    let sql = format!("SELECT id FROM outbox_items WHERE {} ORDER BY id LIMIT {limit}", condition.sql);
    let mut select = tx.prepare_cached(&sql)?;
    select.query_map(&*bound(&condition.params), |row| row.get(0).map(ItemId::new))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;
    use outbox_item::Millis;

    #[test]
    fn a_correlation_id_is_looked_up_in_the_index_and_among_the_keys() {
        let cid = Filter { cid: Some("c".into()), ..Filter::default() };
        let of_type = Filter { r#type: Some("t".into()), ..cid.clone() };
        let recent = Filter { created_from: Some(Millis::new(1)), ..cid.clone() };
        let dead = Filter { status: vec![Status::Dlq], ..cid.clone() };
        for (filter, before) in [&cid, &of_type, &recent, &dead]
            .into_iter()
            .flat_map(|filter| [(filter, None), (filter, Some(ItemId::new(9)))])
        {
            let (sql, values) = search(filter, Page { limit: 100, before });
            let steps = plan(&sql, &*bound(&values));
            for index in ["outbox_items_cid (cid=?", "outbox_items_1 (idem_key=?"] {
                assert!(steps.iter().any(|line| line.contains(index)), "{steps:?}");
            }
        }
    }
}
