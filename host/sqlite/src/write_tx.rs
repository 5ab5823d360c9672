//! One writing transaction: its connection, its reading of the clock, and the totals that it changes.
//!
//! Owns how a transaction begins and ends. It does not know what a request does in between.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use outbox_item::Millis;
use outbox_store::engine::alerts::AlertSettings;
use outbox_store::engine::counters::{Counter, CounterKey};
use outbox_store::engine::fair_keys::LastServed;

use crate::connection::connect;
use crate::options::SqliteOptions;
use crate::sequences;

/// SQL for the number of the newest job. Every statement that puts an item into a place writes it into `epoch`.
pub(crate) const NEWEST_JOB_SQL: &str = "(SELECT coalesce(max(id), 0) FROM outbox_jobs)";

/// The size in bytes to which the write-ahead log is cut after a checkpoint. Maintenance truncates a log that is longer
/// because readers held it.
pub(crate) const WAL_MAX: u64 = 64 * 1024 * 1024;

/// The page cache of the writing connection, in KiB. The system's cache holds the rest. With 64 MiB here, an item among
/// a million others costs 1.5 times as much, because the cost of some operations of SQLite grows with its own cache.
const CACHE_KIB: i32 = 8_000;

/// A connection that writes.
pub(crate) struct WriteConnection {
    connection: Connection,
    options: SqliteOptions,
    last_served: LastServed,
}

impl WriteConnection {
    pub(crate) fn open(path: &Path, options: SqliteOptions) -> rusqlite::Result<Self> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // Never less than FULL: an acknowledged item survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "journal_size_limit", WAL_MAX)?;
        // Explicit, because a build of SQLite can have another default.
        connection.pragma_update(None, "recursive_triggers", false)?;
        // This also opens the write-ahead log, which SQLite does at the first read.
        sequences::set_back(&connection)?;
        Ok(Self { connection, options, last_served: LastServed::default() })
    }

    /// Runs `work` in one transaction and returns after the commit. After an error the transaction is rolled back.
    pub(crate) fn transact<E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&mut WriteTx<'_>) -> Result<(), E>,
    ) -> Result<Committed, E> {
        self.execute("BEGIN IMMEDIATE")?;
        let committed = self.commit(work);
        // SQLite has already rolled back after some failures, such as a full disk.
        if committed.is_err() {
            self.roll_back()?;
        }
        committed
    }

    /// Ends the transaction that a panic left open.
    pub(crate) fn roll_back(&self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() { Ok(()) } else { self.execute("ROLLBACK") }
    }

    fn commit<E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&mut WriteTx<'_>) -> Result<(), E>,
    ) -> Result<Committed, E> {
        let changes = self.connection.total_changes();
        let mut tx = WriteTx {
            connection: &self.connection,
            now: (self.options.clock)(),
            pod: &self.options.instance,
            alerts: self.options.alerts.as_ref(),
            last_served: &self.last_served,
            wakes_workers: false,
            is_apart: false,
            asks_apart: false,
            counters: Vec::new(),
        };
        work(&mut tx)?;
        tx.write_counters()?;
        self.execute("COMMIT")?;
        let changes = self.connection.total_changes() - changes;
        Ok(Committed { wakes_workers: tx.wakes_workers, changes })
    }

    /// Mends what makes SQLite refuse new rows as if the disk were full.
    pub(crate) fn mend(&self) -> rusqlite::Result<()> {
        sequences::set_back(&self.connection)
    }

    /// Moves the write-ahead log into the database and empties it.
    pub(crate) fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        execute(&self.connection, sql)
    }
}

/// Runs a statement that has no parameters and no rows.
pub(crate) fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}

/// A committed transaction.
pub(crate) struct Committed {
    /// See [`WriteTx::wakes_workers`].
    pub(crate) wakes_workers: bool,
    /// How many rows it changed, those of triggers included.
    pub(crate) changes: u64,
}

/// One transaction, as a request sees it.
pub(crate) struct WriteTx<'a> {
    /// The connection, inside the transaction.
    pub(crate) connection: &'a Connection,
    /// The store's time of this transaction, read while the write lock was held.
    pub(crate) now: Millis,
    /// The instance id of this process.
    pub(crate) pod: &'a str,
    /// Which alerts the store enqueues as items; `None` enqueues none.
    pub(crate) alerts: Option<&'a AlertSettings>,
    /// Which fairness keys were served last.
    pub(crate) last_served: &'a LastServed,
    /// Whether the transaction makes work available, so that waiting workers must claim again.
    pub(crate) wakes_workers: bool,
    /// Whether each request runs in a savepoint, because one of the group has failed before.
    pub(crate) is_apart: bool,
    /// Whether a request wants to run again in a savepoint, where it can leave out what made it fail.
    pub(crate) asks_apart: bool,
    counters: Vec<CounterDelta>,
}

struct CounterDelta {
    key: OwnedCounterKey,
    by: i64,
}

/// A [`CounterKey`] that outlives the request that counts: the name, and the columns `saga`, `type` and `outcome`.
type OwnedCounterKey = (&'static str, [String; 3]);

impl WriteTx<'_> {
    /// Adds to one of the totals in `outbox_counters`, in this transaction.
    pub(crate) fn count(&mut self, counter: Counter<'_>, by: i64) {
        let CounterKey { name, saga, item_type, outcome } = counter.key();
        self.counters.push(CounterDelta { key: (name, [saga, item_type, outcome].map(str::to_owned)), by });
    }

    /// The present state of what the transaction notes in memory, for [`Self::rewind_to`].
    pub(crate) fn mark(&self) -> TxMark {
        TxMark { counters: self.counters.len(), wakes_workers: self.wakes_workers }
    }

    /// Forgets the counts and the wake-up noted since the mark. Rows that were written stay.
    pub(crate) fn rewind_to(&mut self, mark: TxMark) {
        self.counters.truncate(mark.counters);
        self.wakes_workers = mark.wakes_workers;
    }

    /// Runs `work` in a savepoint, so that work that fails changes nothing. The outer error is that of the savepoint.
    pub(crate) fn in_savepoint<T, E>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> rusqlite::Result<Result<T, E>> {
        let mark = self.mark();
        execute(self.connection, "SAVEPOINT part")?;
        let done = work(self);
        if done.is_err() {
            self.rewind_to(mark);
            execute(self.connection, "ROLLBACK TO part")?;
        }
        execute(self.connection, "RELEASE part")?;
        Ok(done)
    }

    /// Writes the totals, with one statement for each total that changed.
    fn write_counters(&mut self) -> rusqlite::Result<()> {
        let mut sums: BTreeMap<OwnedCounterKey, i64> = BTreeMap::new();
        for delta in self.counters.drain(..) {
            *sums.entry(delta.key).or_default() += delta.by;
        }
        let mut add = self.connection.prepare_cached(
            "INSERT INTO outbox_counters (name, saga, type, outcome, total) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET total = CAST(total + excluded.total AS INTEGER)",
        )?;
        for ((name, [saga, item_type, outcome]), by) in sums {
            add.execute(params![name, saga, item_type, outcome, by])?;
        }
        Ok(())
    }
}

/// See [`WriteTx::mark`].
#[derive(Clone, Copy)]
pub(crate) struct TxMark {
    counters: usize,
    wakes_workers: bool,
}
