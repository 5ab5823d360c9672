//! What SQLite allows on this disk: the store's own statements, and the cheapest possible ones, each run directly on
//! the caller's thread. `outbox bench` compares the host with these.
//!
//! No production code uses this module; it needs the feature `bench-support`.

mod wide_table;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use outbox_item::{NewItem, Status};
use outbox_store::engine::counters::Counter;
use outbox_store::{BatchMode, ClaimRequest, StoreError};

use crate::complete::{CompletionRow, complete};
use crate::connection::{connect, connect_read_only};
use crate::enqueue::insert;
use crate::error::unavailable;
use crate::options::SqliteOptions;
use crate::write_tx::{WriteConnection, WriteTx};
use crate::{SqliteStore, bad_rows, enqueue};

pub use crate::bench_support::wide_table::WideTable;

/// A store without its threads: each transaction runs on the caller's thread.
pub struct DirectStore {
    connection: WriteConnection,
}

impl DirectStore {
    /// Opens a file that has the outbox's schema.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection =
            WriteConnection::open(path, SqliteOptions::default()).map_err(unavailable("opening the database"))?;
        Ok(Self { connection })
    }

    /// Enqueues the items in one transaction.
    pub fn enqueue(&self, items: &[NewItem]) -> Result<(), StoreError> {
        self.transact(|tx| enqueue::enqueue(tx, items, BatchMode::PerItem)).map(|_| ())
    }

    /// Claims a batch in one transaction and makes it DONE in another. Returns how many items it had.
    pub fn drain(&self, request: &ClaimRequest) -> Result<usize, StoreError> {
        let claims = self.transact(|tx| bad_rows::claim(tx, request))?.claims;
        let done: Vec<_> = claims.iter().map(|claim| CompletionRow::new(claim.reference(), None, None)).collect();
        let all: Vec<_> = done.iter().collect();
        self.transact(|tx| complete(tx, &all).into_iter().collect::<Result<(), _>>())?;
        Ok(claims.len())
    }

    /// Writes the rows that enqueued items have, or handled items if `status` is DONE, in one transaction. Items with
    /// an ordering key stay enqueued. Empties the write-ahead log afterwards, so that a measurement does not pay for
    /// this.
    pub fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError> {
        const TRIED: &str = "filling the database";
        self.transact(|tx| fill(tx, items, status).map_err(unavailable(TRIED)))?;
        self.connection.checkpoint().map_err(unavailable(TRIED))
    }

    fn transact<T>(&self, work: impl FnOnce(&mut WriteTx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut value = None;
        let committed = self.connection.transact(|tx| work(tx).map(|made| value = Some(made)).map_err(CommitFailed));
        committed.map_err(|CommitFailed(err)| err)?;
        value.ok_or_else(|| StoreError::Unavailable { tried: "committing by hand", source: "nothing was run".into() })
    }
}

/// The rows that the largest transaction of the store has changed since it was opened, those of triggers included.
pub fn most_changes(store: &SqliteStore) -> u64 {
    store.writer.most_changes()
}

/// The time that the longest transaction of the store has taken since the last call, its commit included.
pub fn longest_transaction(store: &SqliteStore) -> Duration {
    store.writer.take_longest()
}

/// Why a transaction was rolled back.
struct CommitFailed(StoreError);

impl From<rusqlite::Error> for CommitFailed {
    fn from(err: rusqlite::Error) -> Self {
        Self(unavailable("committing by hand")(err))
    }
}

fn fill(tx: &mut WriteTx<'_>, items: &[NewItem], status: Status) -> rusqlite::Result<()> {
    for item in items {
        insert(tx.connection, item, tx.now)?;
    }
    if status == Status::Done {
        let done = "INSERT INTO outbox_done (id, done_at, epoch)
                    SELECT id, ?1, 0 FROM outbox_queue WHERE ordering_key IS NULL";
        let done = tx.connection.prepare_cached(done)?.execute([tx.now.get()])?;
        tx.connection.prepare_cached("DELETE FROM outbox_queue WHERE ordering_key IS NULL")?.execute([])?;
        let item_type = items.first().map_or("", |item| &item.item_type);
        tx.count(Counter::Done { item_type }, i64::try_from(done).unwrap_or(i64::MAX));
    }
    Ok(())
}

/// Reads how many items are DONE, at a cost that does not disturb the measurement.
pub struct DoneCounter {
    connection: Connection,
}

impl DoneCounter {
    /// Opens a file that has the outbox's schema.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { connection: connect_read_only(path).map_err(unavailable("opening the database to read totals"))? })
    }

    /// How many items of the type are DONE.
    pub fn done(&self, item_type: &str) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(sum(total), 0) FROM outbox_counters WHERE name = 'done' AND type = ?1";
        let read = |connection: &Connection| connection.prepare_cached(sql)?.query_row([item_type], |row| row.get(0));
        read(&self.connection).map_err(unavailable("reading a total"))
    }
}

/// A SQLite file with the least that a durable queue needs: rows with a unique key.
pub struct BareTable {
    connection: Connection,
}

impl BareTable {
    /// Creates the file.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let create = |path| {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
            let connection = connect(path, flags)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection
                .execute_batch("CREATE TABLE bare (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, payload)")?;
            Ok(connection)
        };
        Ok(Self { connection: create(path).map_err(unavailable("creating a bare database"))? })
    }

    /// Inserts the items, and commits after every `batch_size` of them.
    pub fn enqueue(&self, items: &[NewItem], batch_size: usize) -> Result<(), StoreError> {
        let insert = |items: &[NewItem]| {
            let transaction = self.connection.unchecked_transaction()?;
            let mut insert = transaction.prepare_cached("INSERT INTO bare (key, payload) VALUES (?1, ?2)")?;
            for item in items {
                insert.execute(params![item.idem_key, item.payload])?;
            }
            drop(insert);
            transaction.commit()
        };
        items.chunks(batch_size).try_for_each(insert).map_err(unavailable("inserting into a bare database"))
    }
}
