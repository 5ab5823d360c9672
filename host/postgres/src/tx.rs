//! One transaction: its statements, its time, and the totals and signals that it writes at its end.
//!
//! It does not know where its connection comes from, nor whether a failed transaction is repeated.

use std::collections::BTreeMap;
use std::future::{Ready, ready};

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};

use outbox_item::Millis;
use outbox_store::engine::alerts::AlertSettings;
use outbox_store::engine::counters::{Counter, CounterKey};
use outbox_store::{Clock, Violation};

use crate::error::PgError;

/// SQL for the number of the newest job. Every statement that changes an item's status writes it into `epoch`.
pub(crate) const NEWEST_JOB_SQL: &str = "(SELECT coalesce(max(id), 0) FROM outbox.jobs)";

/// What every writing transaction of a store has in common.
pub(crate) struct TxContext {
    /// A clock instead of the database's clock.
    pub(crate) clock: Option<Clock>,
    /// The instance id of this process.
    pub(crate) instance: String,
    /// Which alerts the store enqueues as items; `None` enqueues none.
    pub(crate) alerts: Option<AlertSettings>,
    /// Whether the schema notifies workers of inserts.
    pub(crate) notifies: bool,
}

/// The values of a statement.
pub(crate) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Something that runs statements: a transaction of this store.
pub(crate) trait Query: Sync {
    /// The rows that the statement returns.
    fn rows(&self, sql: &str, values: Values<'_>) -> impl Future<Output = Result<Vec<Row>, PgError>> + Send;
}

impl Query for Transaction<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        let statement = self.prepare_cached(sql).await?;
        Ok(self.query(&statement, values).await?)
    }
}

impl Query for WriteTx<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        self.tx.rows(sql, values).await
    }
}

/// A transaction that only reads. All its statements see one snapshot of the database.
pub(crate) struct ReadTx<'a> {
    tx: Transaction<'a>,
}

impl<'a> ReadTx<'a> {
    pub(crate) async fn begin(client: &'a mut Client) -> Result<Self, PgError> {
        let begin = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        Ok(Self { tx: begin.start().await? })
    }
}

impl Query for ReadTx<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        self.tx.rows(sql, values).await
    }
}

/// The time of the database's clock.
pub(crate) async fn database_time(tx: &impl Query) -> Result<Millis, PgError> {
    let rows = tx.rows("SELECT outbox.now()", &[]).await?;
    Ok(Millis::new(rows.first().ok_or(PgError::LostRace)?.try_get(0)?))
}

/// A transaction that writes. It is rolled back when it is dropped without a commit.
pub(crate) struct WriteTx<'a> {
    tx: Transaction<'a>,
    /// The store's time of this transaction.
    pub(crate) now: Millis,
    /// The instance id of this process.
    pub(crate) pod: &'a str,
    /// Which alerts the store enqueues as items; `None` enqueues none.
    pub(crate) alerts: Option<&'a AlertSettings>,
    /// Whether the transaction makes work available to the workers of this process.
    pub(crate) wakes_workers: bool,
    /// Whether it also wakes the workers of other processes at once.
    pub(crate) wakes_other_processes: bool,
    notifies: bool,
    counters: BTreeMap<[String; 4], i64>,
    signals: Vec<(String, String)>,
}

impl<'a> WriteTx<'a> {
    pub(crate) async fn begin(client: &'a mut Client, context: &'a TxContext) -> Result<Self, PgError> {
        // Explicit, because a database can have another default. Each statement must see what other transactions
        // committed while it waited for a lock.
        let begin = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
        let tx = begin.start().await?;
        let now = match &context.clock {
            Some(clock) => clock(),
            None => database_time(&tx).await?,
        };
        Ok(Self {
            tx,
            now,
            pod: &context.instance,
            alerts: context.alerts.as_ref(),
            wakes_workers: false,
            wakes_other_processes: false,
            notifies: context.notifies,
            counters: BTreeMap::new(),
            signals: Vec::new(),
        })
    }

    /// Adds to one of the totals in `outbox.counters`, at the end of this transaction.
    pub(crate) fn count(&mut self, counter: Counter<'_>, by: i64) {
        let CounterKey { name, saga, item_type, outcome } = counter.key();
        *self.counters.entry([name, saga, item_type, outcome].map(str::to_owned)).or_default() += by;
    }

    /// Appends a signal, at the end of this transaction.
    pub(crate) fn signal(&mut self, name: String, data: &serde_json::Value) {
        self.signals.push((name, data.to_string()));
    }

    /// Commits. Returns whether the transaction made work available to the workers of this process.
    pub(crate) async fn commit(mut self) -> Result<bool, PgError> {
        self.write_signals().await?;
        self.write_counters().await?;
        if self.wakes_other_processes && self.notifies {
            self.rows("SELECT pg_notify('outbox', '')", &[]).await?;
        }
        let wakes_workers = self.wakes_workers || self.wakes_other_processes;
        self.tx.commit().await.map_err(|err| match err.as_db_error() {
            // The server refused the commit: nothing was committed.
            Some(_) => PgError::Database(err),
            None => PgError::CommitUnknown(err),
        })?;
        Ok(wakes_workers)
    }

    /// Appends the signals under a lock that is held until the commit. So `seq` ascends in the order of commits, and a
    /// client that reads on from the last number misses none.
    async fn write_signals(&mut self) -> Result<(), PgError> {
        if self.signals.is_empty() {
            return Ok(());
        }
        let (names, data): (Vec<_>, Vec<_>) = std::mem::take(&mut self.signals).into_iter().unzip();
        self.rows("SELECT pg_advisory_xact_lock(7206003, 0)", &[]).await?;
        let sql = "INSERT INTO outbox.signals (pod, signal, ts, data)
                   SELECT $1::text, signal, $2::bigint, data::json
                   FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS new (signal, data, position)
                   ORDER BY position";
        self.rows(sql, &[&self.pod, &self.now.get(), &names, &data]).await.map(drop)
    }

    /// Writes the totals. The map's order is the same in every process, so that transactions that lock the same totals
    /// cannot deadlock.
    async fn write_counters(&mut self) -> Result<(), PgError> {
        if self.counters.is_empty() {
            return Ok(());
        }
        let mut columns: [Vec<String>; 4] = Default::default();
        let mut amounts = Vec::new();
        for (key, by) in std::mem::take(&mut self.counters) {
            for (column, word) in columns.iter_mut().zip(key) {
                column.push(word);
            }
            amounts.push(by);
        }
        let [names, sagas, types, outcomes] = columns;
        let sql = "INSERT INTO outbox.counters AS counter (name, saga, type, outcome, total)
                   SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
                   ON CONFLICT (name, saga, type, outcome, slot)
                   DO UPDATE SET total = counter.total + excluded.total";
        self.rows(sql, &[&names, &sagas, &types, &outcomes, &amounts]).await.map(drop)
    }
}

/// Counts a request that lacked something that the contract asks for.
pub(crate) fn count_violation(tx: &mut WriteTx<'_>, violation: Violation) -> Ready<Result<(), PgError>> {
    tx.count(Counter::Violation(violation), 1);
    ready(Ok(()))
}

/// The text with U+FFFD for each U+0000, which PostgreSQL refuses in text and handlers may write.
pub(crate) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
