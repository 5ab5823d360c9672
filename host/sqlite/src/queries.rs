//! Reads items: lists, single items with their history, signals, and groups of failures.
//!
//! Nothing here writes. Items are read through the view `outbox_status`, which knows where the status of an item comes
//! from. Totals are in `overview`.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use outbox_core::{FailedAttempt, FailureClass, Recording};
use outbox_item::{ItemId, Status};
use outbox_store::engine::sql_filter::{SqlFilter, SqlParam};
use outbox_store::{
    ATTEMPTS_SHOWN, FailureGroup, Filter, ItemDetails, ItemPage, MisplacedItem, PAGE_BYTES, Page, Signal, SignalSeq,
};

use crate::audit;
use crate::content;
use crate::error::unusable;
use crate::id_search::ids;
use crate::page_look::look;
use crate::rows::{self, COLUMNS, bound, cell, json_value, time};

/// A page of the items that match, newest first.
pub(crate) fn list(tx: &Connection, filter: &Filter, page: Page) -> rusqlite::Result<ItemPage> {
    filter.validate().map_err(unusable)?;
    let page = Page { limit: filter.first.map_or(page.limit, |first| page.limit.min(first)), ..page };
    let (mut condition, mut end) = look(tx, filter, page)?;
    if filter.reads_content() {
        let (found, stopped) = content::newest(tx, filter, page, &condition)?;
        (condition, end) = (SqlFilter::all(), stopped.or(end));
        condition.and_ids(&found);
    }
    let mut select = tx.prepare_cached(&page_of(&condition, page.limit))?;
    let mut rows = select.query(&*bound(&condition.params))?;
    let (mut items, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let (summary, beside) = rows::summary(row)?;
        bytes += beside;
        if bytes > PAGE_BYTES && !items.is_empty() {
            return Ok(ItemPage::new(items, page, true));
        }
        items.push(summary);
    }
    Ok(ItemPage::new(items, page, false).with_end(end))
}

fn page_of(condition: &SqlFilter, limit: u32) -> String {
    let columns = rows::summary_columns();
    format!("SELECT {columns} FROM outbox_status WHERE {} ORDER BY id DESC LIMIT {limit}", condition.sql)
}

/// The item with its history and its audit entries.
pub(crate) fn get(tx: &Connection, id: ItemId) -> rusqlite::Result<Option<ItemDetails>> {
    let sql = format!("SELECT {COLUMNS} FROM outbox_status WHERE id = ?1");
    let Some(found) = tx.prepare_cached(&sql)?.query_row([id.get()], rows::item).optional()? else {
        return Ok(None);
    };
    let audit = audit::entries_of_item(tx, id)?;
    let count = "SELECT count(*) FROM outbox_attempts WHERE item_id = ?1";
    let failed_attempts_total = tx.prepare_cached(count)?.query_row([id.get()], |row| cell(row, 0))?;
    let failed_attempts = failed_attempts(tx, id)?;
    Ok(Some(ItemDetails { item: found.item, failed_attempts, failed_attempts_total, audit }))
}

fn failed_attempts(tx: &Connection, id: ItemId) -> rusqlite::Result<Vec<FailedAttempt>> {
    let mut select = tx.prepare_cached(
        "SELECT delivery, attempt, started_at, ended_at, pod, class, code, message, stderr, handler_digest,
                maybe_executed, exchanges
         FROM outbox_attempts WHERE item_id = ?1 ORDER BY delivery DESC LIMIT ?2",
    )?;
    let rows = select.query_map(params![id.get(), ATTEMPTS_SHOWN], |row| {
        let class: String = cell(row, 5)?;
        let exchanges: Option<Vec<u8>> = cell(row, 11)?;
        Ok(FailedAttempt {
            delivery: cell(row, 0)?,
            attempt: cell(row, 1)?,
            started_at: time(row, 2)?,
            ended_at: time(row, 3)?,
            pod: cell(row, 4)?,
            class: class.parse().unwrap_or(FailureClass::Undecodable),
            code: cell(row, 6)?,
            message: cell(row, 7)?,
            stderr: cell(row, 8)?,
            handler_digest: cell(row, 9)?,
            maybe_executed: cell(row, 10)?,
            recording: exchanges.and_then(|packed| Recording::decompress(&packed)).unwrap_or_default(),
        })
    })?;
    let mut newest_first: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    newest_first.reverse();
    Ok(newest_first)
}

/// Reads one row, so that the database has to answer.
pub(crate) fn probe(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.prepare_cached("SELECT count(*) FROM (SELECT 1 FROM outbox_signals LIMIT 1)")?.query_row([], |_| Ok(()))
}

/// The signals after `after`, oldest first.
pub(crate) fn signals(tx: &Connection, after: SignalSeq, limit: u32) -> rusqlite::Result<Vec<Signal>> {
    let mut select = tx
        .prepare_cached("SELECT seq, pod, signal, ts, data FROM outbox_signals WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let rows = select.query_map((after.get(), limit), |row| {
        Ok(Signal {
            seq: SignalSeq::new(cell(row, 0)?),
            pod: cell(row, 1)?,
            signal: cell(row, 2)?,
            ts: time(row, 3)?,
            data: json_value(row, 4)?,
        })
    })?;
    rows.collect()
}

/// The number of the newest signal.
pub(crate) fn newest_signal(tx: &Transaction<'_>) -> rusqlite::Result<SignalSeq> {
    let mut select = tx.prepare_cached("SELECT coalesce(max(seq), 0) FROM outbox_signals")?;
    select.query_row([], |row| row.get(0)).map(SignalSeq::new)
}

/// The dead-lettered items that match, grouped by the fingerprint of their failure, the largest group first.
pub(crate) fn failure_groups(tx: &Connection, filter: &Filter, limit: u32) -> rusqlite::Result<Vec<FailureGroup>> {
    filter.validate().map_err(unusable)?;
    let dead = Filter { status: vec![Status::Dlq], ..filter.clone() };
    let found = if filter.reads_content() { Some(matching(tx, &dead)?) } else { None };
    let (sql, values) = group_search(&dead, found.as_deref(), limit);
    let mut select = tx.prepare_cached(&sql)?;
    let rows = select.query_map(&*bound(&values), |row| {
        Ok(FailureGroup {
            fingerprint: cell(row, 0)?,
            r#type: cell(row, 1)?,
            count: cell(row, 2)?,
            first_at: time(row, 3)?,
            last_at: time(row, 4)?,
            sample: ItemId::new(cell(row, 5)?),
            code: None,
            message: None,
            handler_digest: None,
        })
    })?;
    rows.map(|group| describe_sample(tx, group?)).collect()
}

/// Groups are counted in an index of `outbox_dead`. The items themselves are read for a filter only; `found` are the
/// items that match, where they are known.
fn group_search(dead: &Filter, found: Option<&[ItemId]>, limit: u32) -> (String, Vec<SqlParam>) {
    let all_dead = Filter { status: dead.status.clone(), ..Filter::default() };
    let mut condition = "fingerprint <> ''".to_owned();
    let mut params = Vec::new();
    if *dead != all_dead {
        let mut matching = SqlFilter::from_filter(dead);
        if let Some(found) = found {
            matching.and_ids(found);
        }
        condition = format!("{condition} AND id IN (SELECT id FROM outbox_status WHERE {})", matching.sql);
        params = matching.params;
    }
    let sql = format!(
        "SELECT fingerprint, type, count(*), min(dead_at), max(dead_at), max(id)
         FROM outbox_dead WHERE {condition} GROUP BY fingerprint, type
         ORDER BY count(*) DESC, fingerprint LIMIT {limit}"
    );
    (sql, params)
}

/// Adds the failure of the group's sample.
fn describe_sample(tx: &Connection, mut group: FailureGroup) -> rusqlite::Result<FailureGroup> {
    let mut select = tx.prepare_cached("SELECT last_error, handler_digest FROM outbox_status WHERE id = ?1")?;
    let sample = select.query_row([group.sample.get()], |row| Ok((cell(row, 0)?, cell(row, 1)?))).optional()?;
    (group.message, group.handler_digest) = sample.unwrap_or_default();
    let mut last =
        tx.prepare_cached("SELECT code FROM outbox_attempts WHERE item_id = ?1 ORDER BY delivery DESC LIMIT 1")?;
    group.code = last.query_row([group.sample.get()], |row| cell(row, 0)).optional()?;
    Ok(group)
}

/// The ids of the items that match and that an action takes, ascending.
pub(crate) fn matching(tx: &Connection, filter: &Filter) -> rusqlite::Result<Vec<ItemId>> {
    filter.validate().map_err(unusable)?;
    let first = filter.first.unwrap_or(u32::MAX);
    if !filter.reads_content() {
        return ids(tx, &SqlFilter::from_filter(filter), first).map(|found| filter.taken(found));
    }
    let found = content::retain(tx, filter, content::candidates(tx, filter)?)?;
    Ok(filter.taken(found))
}

/// How many items match and are taken by an action.
pub(crate) fn count(tx: &Connection, filter: &Filter) -> rusqlite::Result<u64> {
    if filter.reads_content() {
        return Ok(matching(tx, filter)?.len() as u64);
    }
    let (sql, values) = count_search(filter);
    let count = tx.prepare_cached(&sql)?.query_row(&*bound(&values), |row| cell(row, 0))?;
    Ok(filter.taken_of(count))
}

fn count_search(filter: &Filter) -> (String, Vec<SqlParam>) {
    let condition = SqlFilter::from_filter(filter);
    (format!("SELECT count(*) FROM outbox_status WHERE {}", condition.sql), condition.params)
}

/// Items that are in no place or in several. An id that is in two leases counts once: ids are claimed from the queue.
pub(crate) fn misplaced(tx: &Connection, limit: u32) -> rusqlite::Result<Vec<MisplacedItem>> {
    let mut select = tx.prepare_cached(
        "SELECT id, places FROM (
             SELECT id, (id IN (SELECT id FROM outbox_queue)) + (id IN (SELECT id FROM outbox_done))
                        + (id IN (SELECT id FROM outbox_dead))
                        + (id IN (SELECT leased.value FROM outbox_leases, json_each(ids) AS leased)) AS places
             FROM outbox_items)
         WHERE places <> 1 ORDER BY id LIMIT ?1",
    )?;
    let rows =
        select.query_map([limit], |row| Ok(MisplacedItem { id: ItemId::new(cell(row, 0)?), places: cell(row, 1)? }))?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::id_search::id_search;
    use crate::migrate::empty_outbox;
    use outbox_item::Millis;

    /// An outbox with one item of each status, and `more` items of each of these.
    fn outbox_with(more: u32, statuses: &[Status]) -> Connection {
        let database = empty_outbox();
        // PENDING last: the others are put into their places from the queue.
        for status in Status::ALL.into_iter().rev() {
            let items = if statuses.contains(&status) { 1 + more } else { 1 };
            add(&database, status, items);
        }
        database
    }

    fn add(database: &Connection, status: Status, items: u32) {
        let place = match status {
            Status::Pending => "",
            Status::Claimed => {
                "INSERT INTO outbox_leases (token, type, pod, claimed_at, lease_until, epoch, count, ids)
                 SELECT 1, 't', 'pod', 1, 2, 0, count(*), json_group_array(id) FROM outbox_queue"
            }
            Status::Done => "INSERT INTO outbox_done (id, done_at, epoch) SELECT id, 1, 0 FROM outbox_queue",
            Status::Dlq => {
                "INSERT INTO outbox_dead (id, dead_at, epoch, type, fingerprint, last_error)
                 SELECT id, 1, 0, type, 'f', 'e' FROM outbox_queue"
            }
        };
        let insert = format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {items})
             INSERT INTO outbox_items (type, idem_key, payload, cid)
             SELECT 't', '{status}' || n, '', '{status}' || n FROM numbers"
        );
        database.execute_batch(&insert).unwrap();
        if status != Status::Pending {
            database.execute_batch(&format!("{place}; DELETE FROM outbox_queue")).unwrap();
        }
    }

    /// How many steps the engine takes to run the statement.
    fn steps(database: &Connection, (sql, values): &(String, Vec<SqlParam>)) -> i32 {
        let mut select = database.prepare(sql).unwrap();
        let mut rows = select.query(&*bound(values)).unwrap();
        while rows.next().unwrap().is_some() {}
        drop(rows);
        select.get_status(StatementStatus::VmStep)
    }

    fn page(before: Option<ItemId>) -> Page {
        Page { limit: 1_000, before }
    }

    /// The statement of a page where few items are in the store.
    fn search(filter: &Filter, page: Page) -> (String, Vec<SqlParam>) {
        let (condition, _) = look(&empty_outbox(), filter, page).unwrap();
        (page_of(&condition, page.limit), condition.params)
    }

    fn statements(filter: &Filter) -> [(String, Vec<SqlParam>); 4] {
        let condition = SqlFilter::from_filter(filter);
        [
            search(filter, page(None)),
            search(filter, page(Some(ItemId::new(1_000_000)))),
            (id_search(&condition, 1_000), condition.params),
            count_search(filter),
        ]
    }

    #[test]
    fn a_list_by_one_status_reads_only_the_items_of_that_status() {
        for status in Status::ALL {
            let others: Vec<_> = Status::ALL.into_iter().filter(|other| *other != status).collect();
            let (few, many) = (outbox_with(0, &[]), outbox_with(500, &others));
            let filter = Filter { status: vec![status], ..Filter::default() };
            let of_type = Filter { r#type: Some("t".into()), ..filter.clone() };
            for statement in [filter, of_type].iter().flat_map(statements) {
                assert_eq!(steps(&few, &statement), steps(&many, &statement), "{}", statement.0);
            }
        }
    }

    #[test]
    fn a_page_of_the_dlq_costs_the_same_however_many_items_failed_alike() {
        let (few, many) = (outbox_with(100, &[Status::Dlq]), outbox_with(600, &[Status::Dlq]));
        let dead = Filter { status: vec![Status::Dlq], ..Filter::default() };
        let of_type = Filter { r#type: Some("t".into()), ..dead.clone() };
        let alike = Filter { fingerprint: Some("f".into()), ..dead };
        for filter in [of_type, alike] {
            let batch = SqlFilter::in_order_of_ids(&filter);
            let list = search(&filter, Page { limit: 50, before: None });
            for statement in [list, (id_search(&batch, 50), batch.params)] {
                assert_eq!(steps(&few, &statement), steps(&many, &statement), "{}", statement.0);
            }
        }
    }

    #[test]
    fn a_correlation_id_and_a_key_are_looked_up_whatever_else_there_is() {
        let others = [Status::Pending, Status::Done, Status::Dlq];
        let (few, many) = (outbox_with(0, &[]), outbox_with(500, &others));
        let cid = Filter { cid: Some("DLQ1".into()), ..Filter::default() };
        let of_type = Filter { r#type: Some("t".into()), ..cid.clone() };
        let recent = Filter { created_from: Some(Millis::new(1)), ..cid.clone() };
        let dead = Filter { status: vec![Status::Dlq], fingerprint: Some("f".into()), ..cid.clone() };
        let key = ("SELECT id FROM outbox_status WHERE idem_key = $1".to_owned(), vec![SqlParam::Text("DONE1".into())]);
        let by_key = Filter { idem_key: Some("DONE1".into()), ..Filter::default() };
        let dead_by_key = Filter { status: vec![Status::Dlq], idem_key: Some("DLQ1".into()), ..Filter::default() };
        let by_prefix = Filter { key_prefix: Some("CLAIMED1".into()), r#type: Some("t".into()), ..Filter::default() };
        let id = ("SELECT id FROM outbox_status WHERE id = $1".to_owned(), vec![SqlParam::Number(1)]);
        let few_found = [cid, of_type, recent, dead, by_key, dead_by_key, by_prefix];
        for statement in few_found.iter().flat_map(statements).chain([key, id]) {
            assert_eq!(steps(&few, &statement), steps(&many, &statement), "{}", statement.0);
        }
    }

    #[test]
    fn failures_are_grouped_without_a_look_at_items() {
        let (sql, values) = group_search(&Filter { status: vec![Status::Dlq], ..Filter::default() }, None, 9);
        let steps = crate::migrate::plan(&sql, &*bound(&values));
        assert!(steps.iter().any(|line| line.contains("COVERING INDEX outbox_dead_failure")), "{steps:?}");
        assert!(!steps.iter().any(|line| line.contains("outbox_items")), "{steps:?}");
    }
}
