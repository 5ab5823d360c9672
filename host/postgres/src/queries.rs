//! Reads items: lists, single items with their history, signals, and groups of failures.
//!
//! Nothing here writes. Items are read through the view `outbox.status` and its parts, one for each status. Totals are
//! in `overview`.

use tokio_postgres::Row;

use outbox_core::{FailedAttempt, FailureClass, Recording};
use outbox_item::{ItemId, Status};
use outbox_store::engine::sql_filter::SqlFilter;
use outbox_store::{
    ATTEMPTS_SHOWN, FailureGroup, Filter, ItemDetails, ItemPage, MisplacedItem, PAGE_BYTES, Page, Signal, SignalSeq,
};

use crate::audit;
use crate::content;
use crate::error::PgError;
use crate::item_query::{ItemQuery, ids, view_of};
use crate::page_look::look;
use crate::rows::{self, COLUMNS, count, json_value, time, unsigned, values};
use crate::tx::Query;

/// A page of the items that match, newest first.
pub(crate) async fn list(tx: &impl Query, filter: &Filter, page: &Page) -> Result<ItemPage, PgError> {
    filter.validate()?;
    let page = Page { limit: filter.first.map_or(page.limit, |first| page.limit.min(first)), ..*page };
    let (mut query, mut end) = look(tx, filter, page).await?;
    if filter.reads_content() {
        let (found, stopped) = content::newest(tx, filter, page, &query).await?;
        end = stopped.or(end);
        query.condition.and_ids(&found);
    }
    let first = query.first(&rows::summary_columns(), "id DESC", page.limit);
    // The server adds the sizes up, so that it sends no more than a page.
    let statement = format!(
        "SELECT * FROM (SELECT *, sum(beside) OVER (ORDER BY id DESC) AS bytes, count(*) OVER () AS found
                        FROM ({first}) AS listed) AS page
         WHERE bytes <= {PAGE_BYTES} OR bytes = beside ORDER BY id DESC"
    );
    let rows = tx.rows(&statement, &values(&query.condition)).await?;
    let found = rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>("found"))?;
    let items = rows.iter().map(rows::summary).collect::<Result<Vec<_>, _>>()?;
    let is_cut = i64::try_from(items.len()).is_ok_and(|sent| sent < found);
    Ok(ItemPage::new(items, page, is_cut).with_end(end))
}

/// The item with its history and its audit entries.
pub(crate) async fn get(tx: &impl Query, id: ItemId) -> Result<Option<ItemDetails>, PgError> {
    let statement = format!("SELECT {COLUMNS} FROM outbox.status WHERE id = $1");
    let rows = tx.rows(&statement, &[&id.get()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let item = rows::item(row)?;
    let total = "SELECT count(*) FROM outbox.attempts WHERE item_id = $1";
    let total = tx.rows(total, &[&id.get()]).await?;
    let failed_attempts_total = total.first().map_or(Ok(0), |row| unsigned(row, 0))?;
    let (failed_attempts, audit) = (failed_attempts(tx, id).await?, audit::entries_of_item(tx, id).await?);
    Ok(Some(ItemDetails { item, failed_attempts, failed_attempts_total, audit }))
}

async fn failed_attempts(tx: &impl Query, id: ItemId) -> Result<Vec<FailedAttempt>, PgError> {
    let statement = "SELECT delivery, attempt, started_at, ended_at, pod, class, code, message, stderr,
                            handler_digest, maybe_executed, exchanges
                     FROM outbox.attempts WHERE item_id = $1 ORDER BY delivery DESC LIMIT $2";
    let newest_first = tx.rows(statement, &[&id.get(), &i64::from(ATTEMPTS_SHOWN)]).await?;
    newest_first.iter().rev().map(failed_attempt).collect()
}

fn failed_attempt(row: &Row) -> Result<FailedAttempt, PgError> {
    let exchanges: Option<Vec<u8>> = row.try_get(11)?;
    Ok(FailedAttempt {
        delivery: count(row, 0)?,
        attempt: count(row, 1)?,
        started_at: time(row, 2)?,
        ended_at: time(row, 3)?,
        pod: row.try_get(4)?,
        class: row.try_get::<_, &str>(5)?.parse().unwrap_or(FailureClass::Undecodable),
        code: row.try_get(6)?,
        message: row.try_get(7)?,
        stderr: row.try_get(8)?,
        handler_digest: row.try_get(9)?,
        maybe_executed: row.try_get(10)?,
        recording: exchanges.and_then(|packed| Recording::decompress(&packed)).unwrap_or_default(),
    })
}

/// The signals after `after`, oldest first. Their numbers ascend in the order of commits, so a client that reads on
/// from the last one misses none.
pub(crate) async fn signals(tx: &impl Query, after: SignalSeq, limit: u32) -> Result<Vec<Signal>, PgError> {
    let statement = "SELECT seq, pod, signal, ts, data::text FROM outbox.signals WHERE seq > $1 ORDER BY seq LIMIT $2";
    let rows = tx.rows(statement, &[&after.get(), &i64::from(limit)]).await?;
    let signal = |row: &Row| {
        Ok(Signal {
            seq: SignalSeq::new(row.try_get(0)?),
            pod: row.try_get(1)?,
            signal: row.try_get(2)?,
            ts: time(row, 3)?,
            data: json_value(row, 4)?,
        })
    };
    rows.iter().map(signal).collect()
}

/// The number of the newest signal.
pub(crate) async fn newest_signal(tx: &impl Query) -> Result<SignalSeq, PgError> {
    let rows = tx.rows("SELECT coalesce(max(seq), 0) FROM outbox.signals", &[]).await?;
    rows.first().map_or(Ok(SignalSeq::START), |row| Ok(SignalSeq::new(row.try_get(0)?)))
}

/// The dead-lettered items that match, grouped by the fingerprint of their failure, the largest group first.
pub(crate) async fn failure_groups(tx: &impl Query, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, PgError> {
    filter.validate()?;
    let dead_items = Filter { status: vec![Status::Dlq], ..filter.clone() };
    let mut condition = SqlFilter::from_filter(&dead_items);
    if filter.reads_content() {
        condition.and_ids(&matching(tx, &dead_items).await?);
    }
    let dead = view_of(Status::Dlq);
    let statement = format!(
        "SELECT died.*, sample.last_error, sample.handler_digest,
                (SELECT code FROM outbox.attempts WHERE item_id = sample.id ORDER BY delivery DESC LIMIT 1)
         FROM (SELECT fingerprint COLLATE \"C\" AS fingerprint, type, count(*) AS items, min(dead_at), max(dead_at),
                      max(id) AS newest
               FROM {dead} WHERE {} GROUP BY 1, 2 ORDER BY items DESC, fingerprint LIMIT {limit}) AS died
         JOIN {dead} AS sample ON sample.id = died.newest
         ORDER BY died.items DESC, died.fingerprint",
        condition.sql
    );
    tx.rows(&statement, &values(&condition)).await?.iter().map(failure_group).collect()
}

fn failure_group(row: &Row) -> Result<FailureGroup, PgError> {
    Ok(FailureGroup {
        // Items of an earlier version may have none.
        fingerprint: row.try_get::<_, Option<String>>(0)?.unwrap_or_default(),
        r#type: row.try_get(1)?,
        count: unsigned(row, 2)?,
        first_at: time(row, 3)?,
        last_at: time(row, 4)?,
        sample: ItemId::new(row.try_get(5)?),
        message: row.try_get(6)?,
        handler_digest: row.try_get(7)?,
        code: row.try_get(8)?,
    })
}

/// The ids of the items that match and that an action takes, ascending.
pub(crate) async fn matching(tx: &impl Query, filter: &Filter) -> Result<Vec<ItemId>, PgError> {
    filter.validate()?;
    let first = filter.first.unwrap_or(u32::MAX);
    if !filter.reads_content() {
        return ids(tx, &ItemQuery::new(filter), first).await.map(|found| filter.taken(found));
    }
    let found = content::retain(tx, filter, content::candidates(tx, filter).await?).await?;
    Ok(filter.taken(found))
}

/// Items that are in no place or in several, by ascending id.
pub(crate) async fn misplaced(tx: &impl Query, limit: u32) -> Result<Vec<MisplacedItem>, PgError> {
    let statement = "SELECT item.id, count(place.id)
        FROM outbox.items AS item LEFT JOIN (
            SELECT id FROM outbox.queue UNION ALL SELECT unnest(ids) FROM outbox.leases
            UNION ALL SELECT id FROM outbox.done UNION ALL SELECT id FROM outbox.dead) AS place ON place.id = item.id
        GROUP BY item.id HAVING count(place.id) <> 1 ORDER BY item.id LIMIT $1";
    let misplaced = |row: &Row| {
        let places = u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX);
        Ok(MisplacedItem { id: ItemId::new(row.try_get(0)?), places })
    };
    tx.rows(statement, &[&i64::from(limit)]).await?.iter().map(misplaced).collect()
}
