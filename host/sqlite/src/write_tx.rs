//! One writing transaction: its connection, its reading of the clock, and the totals that it changes.
//!
//! Owns how a transaction begins and ends. What happens in between is its caller's.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use crate::{SqliteOptions, connect};
use outbox_item::Millis;

/// What SQLite keeps of the file itself. The system keeps the rest: with 64 MiB here, an item that was handled beside
/// a million others cost half as much again, because whatever SQLite does to its cache grows with it.
const CACHE_KIB: i32 = 8_000;

/// A connection that writes.
pub(crate) struct WriteConnection {
    connection: Connection,
    options: SqliteOptions,
}

impl WriteConnection {
    pub(crate) fn open(path: &Path, options: SqliteOptions) -> rusqlite::Result<Self> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // Never less than FULL: an acknowledged item survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "journal_size_limit", crate::maintain::WAL_MAX)?;
        connection.pragma_update(None, "recursive_triggers", false)?;
        Ok(Self { connection, options })
    }

    /// Does the work in one transaction and answers after its commit. An error leaves nothing behind.
    pub(crate) fn transact<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E>,
    ) -> Result<CommitResult<T>, E> {
        self.execute("BEGIN IMMEDIATE")?;
        let committed = self.commit(work);
        // Some failures have ended the transaction already.
        if committed.is_err() && !self.connection.is_autocommit() {
            self.execute("ROLLBACK")?;
        }
        committed
    }

    fn commit<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&mut WriteTx<'_>) -> Result<T, E>,
    ) -> Result<CommitResult<T>, E> {
        let mut tx = WriteTx {
            connection: &self.connection,
            now: (self.options.clock)(),
            pod: &self.options.instance,
            alerts: self.options.alerts.as_ref(),
            wakes_workers: false,
            counters: Vec::new(),
        };
        let value = work(&mut tx)?;
        tx.write_counters()?;
        self.execute("COMMIT")?;
        Ok(CommitResult { value, wakes_workers: tx.wakes_workers })
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

/// What a transaction came to.
pub(crate) struct CommitResult<T> {
    /// What its work answered.
    pub(crate) value: T,
    /// See [`WriteTx::wakes_workers`].
    pub(crate) wakes_workers: bool,
}

/// One transaction, as a request sees it.
pub(crate) struct WriteTx<'a> {
    /// The connection, inside the transaction.
    pub(crate) connection: &'a Connection,
    /// The store's time of this transaction, read while the write lock was held.
    pub(crate) now: Millis,
    /// The instance id of this process.
    pub(crate) pod: &'a str,
    /// What is alert_message as items, if anything.
    pub(crate) alerts: Option<&'a outbox_store::engine::alerts::AlertSettings>,
    /// Whether the transaction makes work available, so that workers should look.
    pub(crate) wakes_workers: bool,
    counters: Vec<CounterDelta>,
}

struct CounterDelta {
    key: CounterKey,
    by: i64,
}

/// Name, saga, type and outcome.
type CounterKey = (&'static str, [String; 3]);

impl WriteTx<'_> {
    /// Changes one of the totals in `outbox_counters`, in this transaction.
    pub(crate) fn count(&mut self, name: &'static str, saga: &str, item_type: &str, outcome: &str, by: i64) {
        self.counters.push(CounterDelta { key: (name, [saga, item_type, outcome].map(str::to_owned)), by });
    }

    /// Where the transaction stands, for [`Self::rewind_to`].
    pub(crate) fn mark(&self) -> TxMark {
        TxMark { counters: self.counters.len(), wakes_workers: self.wakes_workers }
    }

    /// Forgets what was noted since the mark; what was written is not touched.
    pub(crate) fn rewind_to(&mut self, mark: TxMark) {
        self.counters.truncate(mark.counters);
        self.wakes_workers = mark.wakes_workers;
    }

    /// Writes the totals: one statement for each that changed, however many requests changed it.
    fn write_counters(&mut self) -> rusqlite::Result<()> {
        let mut sums: BTreeMap<CounterKey, i64> = BTreeMap::new();
        for delta in self.counters.drain(..) {
            *sums.entry(delta.key).or_default() += delta.by;
        }
        let mut add = self.connection.prepare_cached(
            "INSERT INTO outbox_counters (name, saga, type, outcome, total) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET total = total + excluded.total",
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
