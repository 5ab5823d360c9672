//! One transaction, as a request sees it: its statements, its time, and what is written at its end.

use std::collections::BTreeMap;
use std::future::{Ready, ready};

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};

use crate::context::PgContext;
use crate::error::PgError;
use outbox_item::Millis;
use outbox_store::Violation;
use outbox_store::engine::alerts::AlertSettings;

/// The values of a statement.
pub(crate) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Where statements can be sent: this store's transactions, and an application's.
pub(crate) trait Query: Sync {
    /// The rows that the statement returns.
    fn rows(&self, sql: &str, values: Values<'_>) -> impl Future<Output = Result<Vec<Row>, PgError>> + Send;
}

impl Query for tokio_postgres::Transaction<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        Ok(self.query(sql, values).await?)
    }
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

/// A transaction that only reads, all of it at one moment of the database.
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

/// The database's clock.
pub(crate) async fn database_time(tx: &impl Query) -> Result<Millis, PgError> {
    let rows = tx.rows("SELECT outbox.now()", &[]).await?;
    Ok(rows.first().ok_or(PgError::LostRace)?.try_get(0)?)
}

/// A transaction that writes. Dropped without a commit, it leaves nothing.
pub(crate) struct WriteTx<'a> {
    tx: Transaction<'a>,
    /// The store's time of this transaction.
    pub(crate) now: Millis,
    /// The instance id of this process.
    pub(crate) pod: &'a str,
    /// What is alert_message as items, if anything.
    pub(crate) alerts: Option<&'a AlertSettings>,
    /// Whether the transaction makes work available, so that workers of this process should look.
    pub(crate) wakes_workers: bool,
    /// Whether those of the other processes should look at once, too.
    pub(crate) wakes_other_processes: bool,
    notifies: bool,
    counters: BTreeMap<[String; 4], i64>,
    signals: Vec<(String, String)>,
}

impl<'a> WriteTx<'a> {
    pub(crate) async fn begin(client: &'a mut Client, pg: &'a PgContext) -> Result<Self, PgError> {
        // Named, because a database can have another default, and each statement must see what has been
        // committed while it waited for a lock.
        let begin = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
        let tx = begin.start().await?;
        let now = match &pg.clock {
            Some(clock) => clock(),
            None => database_time(&tx).await?,
        };
        Ok(Self {
            tx,
            now,
            pod: &pg.instance,
            alerts: pg.alerts.as_ref(),
            wakes_workers: false,
            wakes_other_processes: false,
            notifies: pg.notifies,
            counters: BTreeMap::new(),
            signals: Vec::new(),
        })
    }

    /// Changes one of the totals in `outbox.counters`, at the end of this transaction.
    pub(crate) fn count(&mut self, name: &str, saga: &str, item_type: &str, outcome: &str, by: i64) {
        *self.counters.entry([name, saga, item_type, outcome].map(str::to_owned)).or_default() += by;
    }

    /// Appends a signal, at the end of this transaction.
    pub(crate) fn signal(&mut self, name: String, data: &serde_json::Value) {
        self.signals.push((name, data.to_string()));
    }

    /// Commits, and says whether workers of this process should look for work.
    pub(crate) async fn commit(mut self) -> Result<bool, PgError> {
        self.write_signals().await?;
        self.write_counters().await?;
        if self.wakes_other_processes && self.notifies {
            self.rows("SELECT pg_notify('outbox', '')", &[]).await?;
        }
        let wakes_workers = self.wakes_workers || self.wakes_other_processes;
        self.tx.commit().await.map_err(|err| match err.as_db_error() {
            // The server said no: nothing was committed.
            Some(_) => PgError::Database(err),
            None => PgError::CommitUnknown(err),
        })?;
        Ok(wakes_workers)
    }

    /// Whoever appends signals waits for whoever did before to commit, so that `seq` ascends in the order of
    /// commits and nobody who reads on from the last one misses any.
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
        self.rows(sql, &[&self.pod, &self.now, &names, &data]).await.map(drop)
    }

    /// In one order everywhere, so that nobody waits in a circle.
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

pub(crate) fn count_violation(tx: &mut WriteTx<'_>, violation: Violation) -> Ready<Result<(), PgError>> {
    tx.count("violation", "", "", violation.as_str(), 1);
    ready(Ok(()))
}

/// Text that PostgreSQL can keep: it refuses the character U+0000, which handlers may well write.
pub(crate) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
