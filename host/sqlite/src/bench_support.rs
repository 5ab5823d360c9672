//! What a SQLite file allows on this disk: the store's own statements, and the barest possible ones,
//! driven by hand with nothing beside. It is what `outbox bench` measures the host against.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use crate::complete::{CompletionRow, complete};
use crate::enqueue::insert;
use crate::write_tx::{WriteConnection, WriteTx};
use crate::{SqliteOptions, claim, connect, connect_read_only, enqueue, unavailable};
use outbox_item::{NewItem, Status};
use outbox_store::{BatchMode, ClaimRequest, StoreError};

/// A store without its threads: each transaction is made on the thread that asks for it.
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
        let claims = self.transact(|tx| claim::claim(tx, request))?.claims;
        let done: Vec<_> = claims.iter().map(|claim| CompletionRow::new(claim.reference(), None, None)).collect();
        let all: Vec<_> = done.iter().collect();
        self.transact(|tx| complete(tx, &all).into_iter().collect::<Result<(), _>>())?;
        Ok(claims.len())
    }

    /// Puts rows in place, in one transaction, as they are when the items were enqueued, and handled if
    /// `status` is DONE. Leaves nothing in the write-ahead log that others would have to tidy away.
    pub fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError> {
        const TRIED: &str = "filling the database";
        self.transact(|tx| fill(tx, items, status).map_err(unavailable(TRIED)))?;
        self.connection.checkpoint().map_err(unavailable(TRIED))
    }

    fn transact<T>(&self, work: impl FnOnce(&mut WriteTx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let committed = self.connection.transact(|tx| work(tx).map_err(CommitFailed));
        committed.map(|committed| committed.value).map_err(|CommitFailed(err)| err)
    }
}

/// Why a transaction was taken back.
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
        let sql = "UPDATE outbox_items SET status = 'DONE', attempts = 1, deliveries = 1, done_at = ?1
                   WHERE status = 'PENDING' AND held = 0";
        let done = tx.connection.prepare_cached(sql)?.execute([tx.now])?;
        let item_type = items.first().map_or("", |item| &item.item_type);
        tx.count("done", "", item_type, "", i64::try_from(done).unwrap_or(i64::MAX));
    }
    Ok(())
}

/// Reads how much has been done, at a cost that disturbs nobody.
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

/// A file of SQLite with the least that a durable queue can have: a row, and a key that is unique.
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

    /// Inserts and commits the items, so many at a time.
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
