//! Finds what is stuck: a bounded number of entries of each kind. Nothing here writes.
//!
//! The reason and the command that helps are worded in `outbox_store`.

use rusqlite::{Connection, Params, Row, params};

use outbox_item::{ItemId, Millis};
use outbox_store::engine::{StuckItem, WaitingType};
use outbox_store::{StuckEntry, StuckQuery};

use crate::rows::time;

/// The stuck items and types at `now`, kind by kind.
pub(crate) fn stuck(tx: &Connection, query: &StuckQuery, now: Millis) -> rusqlite::Result<Vec<StuckEntry>> {
    let reader = StuckReader { tx, query, now };
    let kinds = [reader.expired()?, reader.failing()?, reader.blocked()?, reader.held()?, reader.waiting()?];
    Ok(kinds.into_iter().flatten().collect())
}

struct StuckReader<'a> {
    tx: &'a Connection,
    query: &'a StuckQuery,
    now: Millis,
}

impl StuckReader<'_> {
    fn rows<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.tx.prepare_cached(&format!("{sql} LIMIT {}", self.query.limit))?.query_map(values, read)?.collect()
    }

    fn expired(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT id, type, ordering_key, lease_until, claimed_by FROM outbox_items
                   WHERE status = 'CLAIMED' AND lease_until <= ?1 ORDER BY lease_until";
        self.rows(sql, [self.now.get()], |row| {
            let by: String = row.get(4)?;
            Ok(head(row)?.expired(time(row, 3)?, &by))
        })
    }

    fn failing(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let columns = "SELECT id, type, ordering_key, created_at, attempts, last_error FROM outbox_items";
        let sql = format!(
            "{columns} WHERE status = 'PENDING' AND attempts > 2 AND attempts >= ?1
             UNION ALL {columns} WHERE status = 'CLAIMED' AND attempts >= ?1 ORDER BY 5 DESC, 1"
        );
        self.rows(&sql, [self.query.attempts], |row| Ok(head(row)?.failing(time(row, 3)?, row.get(4)?, row.get(5)?)))
    }

    fn blocked(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT id, type, ordering_key, dead_at, last_error,
                          (SELECT count(*) FROM outbox_items AS behind
                           WHERE behind.ordering_key = head.ordering_key AND behind.ordering_key IS NOT NULL
                             AND behind.status = 'PENDING' AND behind.id > head.id)
                   FROM outbox_items AS head WHERE blocks_key = 1 ORDER BY dead_at";
        self.rows(sql, [], |row| Ok(head(row)?.blocking(time(row, 3)?, row.get(4)?, row.get(5)?)))
    }

    /// Heads of their ordering keys that are not available yet, with other items queued behind them.
    fn held(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT id, type, ordering_key, created_at, available_at - ?1,
                          (SELECT count(*) FROM outbox_items AS behind
                           WHERE behind.ordering_key = head.ordering_key AND behind.ordering_key IS NOT NULL
                             AND behind.status = 'PENDING' AND behind.held = 1) AS waiting
                   FROM outbox_items AS head
                   WHERE ordering_key IS NOT NULL AND held = 0 AND status = 'PENDING' AND available_at > ?1
                     AND waiting > 0 ORDER BY available_at DESC";
        self.rows(sql, [self.now.get()], |row| Ok(head(row)?.holding(time(row, 3)?, row.get(4)?, row.get(5)?)))
    }

    /// Types that have items which could be claimed.
    fn waiting(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT min(id), type, NULL, min(available_at), count(*),
                          (SELECT reason FROM outbox_pauses WHERE outbox_pauses.type = outbox_items.type),
                          EXISTS (SELECT 1 FROM outbox_pauses WHERE outbox_pauses.type = outbox_items.type)
                   FROM outbox_items WHERE status = 'PENDING' AND held = 0 AND available_at <= ?1
                   GROUP BY type ORDER BY min(available_at)";
        let found = self.rows(sql, params![self.now.get()], |row| {
            Ok(WaitingType {
                oldest: head(row)?,
                since: time(row, 3)?,
                count: row.get(4)?,
                pause_reason: row.get(5)?,
                is_paused: row.get(6)?,
            })
        })?;
        Ok(found.into_iter().filter_map(|waiting| waiting.diagnose(self.query, self.now)).collect())
    }
}

/// The first three columns of every row: id, type and ordering key.
fn head(row: &Row<'_>) -> rusqlite::Result<StuckItem> {
    Ok(StuckItem { id: ItemId::new(row.get(0)?), item_type: row.get(1)?, ordering_key: row.get(2)? })
}
