//! Schema 1, in which claims and settlements rewrite the wide row of an item: what `limit.drain` is compared with.
//!
//! Its statements are those of the last version that worked on schema 1, without ordering keys and sagas. The next
//! release deletes this file.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Row, params, params_from_iter};

use outbox_client::sqlite::bind;
use outbox_item::{Millis, NewItem};
use outbox_store::StoreError;

use crate::connection::connect;
use crate::error::unavailable;
use crate::migrate::SCHEMA_1;

/// The parameters are those of today's insert: the last one is the fairness key, which schema 1 does not have.
const INSERT: &str = "
    INSERT INTO outbox_items (idem_key, type, payload, content_type, headers, metadata, cid, saga, ordering_key,
                              available_at, created_at)
    SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE ? IS NULL";

const CLAIM: &str = "
    UPDATE outbox_items
    SET status = 'CLAIMED', epoch = 0, attempts = attempts + 1, deliveries = deliveries + 1, claimed_at = ?2,
        claimed_by = 'bench', claim_token = ?4 || id, lease_until = ?2 + 60000
    WHERE id IN (SELECT id FROM outbox_items
                 WHERE type = ?1 AND status = 'PENDING' AND held = 0 AND available_at <= ?2
                 ORDER BY available_at, id LIMIT ?3)
    RETURNING id, claim_token, idem_key, type, payload, content_type, headers, cid, metadata, attempts";

/// Ends with one row of parameters for each item.
const COMPLETE: &str = "
    UPDATE outbox_items NOT INDEXED
    SET status = 'DONE', epoch = 0, done_at = new.at, last_error = NULL, given_back_since = NULL, claimed_at = NULL,
        claimed_by = NULL, claim_token = NULL, lease_until = NULL
    FROM (SELECT column1 AS item, column2 AS token, column3 AS at FROM (VALUES ROWS)) AS new
    WHERE id = new.item AND claim_token = new.token AND status = 'CLAIMED'
    RETURNING id, type, saga, cid, attempts";

/// A claimed item: its id and its token.
type Claimed = (i64, String);

/// A SQLite file with schema 1.
pub struct WideTable {
    connection: Connection,
}

impl WideTable {
    /// Creates the file and enqueues the items in one transaction.
    pub fn create(path: &Path, items: &[NewItem]) -> Result<Self, StoreError> {
        Self::try_create(path, items).map_err(unavailable("creating a database with schema 1"))
    }

    fn try_create(path: &Path, items: &[NewItem]) -> rusqlite::Result<Self> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA_1)?;
        let tx = connection.unchecked_transaction()?;
        for item in items {
            let mut insert = tx.prepare_cached(INSERT)?;
            bind(&mut insert, 0, item, NOW)?;
            insert.raw_execute()?;
        }
        tx.commit()?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(Self { connection })
    }

    /// Claims `batch` items of the type in one transaction and makes them DONE in another, until none is left. Returns
    /// the number of items.
    pub fn drain(&self, item_type: &str, batch: usize) -> Result<usize, StoreError> {
        let mut count = 0;
        loop {
            let drained = self.drain_batch(item_type, batch).map_err(unavailable("draining schema 1"))?;
            count += drained;
            if drained == 0 {
                return Ok(count);
            }
        }
    }

    fn drain_batch(&self, item_type: &str, batch: usize) -> rusqlite::Result<usize> {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let tx = self.connection.unchecked_transaction()?;
        let values = params![item_type, NOW.get(), i64::try_from(batch).unwrap_or(i64::MAX), token];
        let claimed: Vec<_> =
            tx.prepare_cached(CLAIM)?.query_map(values, read_claimed)?.collect::<rusqlite::Result<_>>()?;
        tx.commit()?;
        self.complete(&claimed)
    }

    fn complete(&self, claimed: &[Claimed]) -> rusqlite::Result<usize> {
        if claimed.is_empty() {
            return Ok(0);
        }
        let rows = vec!["(?, ?, ?)"; claimed.len()].join(", ");
        let values = claimed.iter().flat_map(|(id, token)| [id.to_string(), token.clone(), NOW.get().to_string()]);
        let tx = self.connection.unchecked_transaction()?;
        let done = tx
            .prepare_cached(&COMPLETE.replace("ROWS", &rows))?
            .query_map(params_from_iter(values), |row| row.get::<_, i64>(0))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        tx.commit()?;
        Ok(done.len())
    }
}

/// The time of every statement.
const NOW: Millis = Millis::new(1_800_000_000_000);

/// Reads everything that a handler would need.
fn read_claimed(row: &Row<'_>) -> rusqlite::Result<Claimed> {
    let claimed = (row.get(0)?, row.get(1)?);
    for text in [2, 3, 5, 6, 7, 8] {
        row.get::<_, String>(text)?;
    }
    row.get_ref(4)?.as_bytes().map(<[u8]>::to_vec)?;
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_drained_once() {
        let items: Vec<_> = (0..25).map(|n| NewItem::new("t", &format!("k{n}"), "{}")).collect();
        let wide = WideTable::create(Path::new(":memory:"), &items).unwrap();
        assert_eq!((wide.drain("t", 10).unwrap(), wide.drain("t", 10).unwrap()), (25, 0));
    }
}
