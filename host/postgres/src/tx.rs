//! One transaction: its statements, its time, and the totals and signals that it writes at its end.
//!
//! It does not know where its connection comes from, nor whether a failed transaction is repeated.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::time::Duration;

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::{IsolationLevel, Row, SimpleQueryMessage};

use outbox_item::Millis;
use outbox_store::engine::alerts::AlertSettings;
use outbox_store::engine::counters::{Counter, CounterKey};
use outbox_store::{Clock, Violation};

use crate::error::PgError;
use crate::sql_value::typed;

pub(crate) use crate::sql_value::Values;

/// SQL for the number of the newest job. Every statement that puts an item into a place writes it into `epoch`.
pub(crate) const NEWEST_JOB_SQL: &str = "outbox.newest_job()";

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
    /// SQL that begins every transaction; see [`settings`].
    pub(crate) settings: String,
}

/// SQL with the settings of the present transaction: the limits of the server for the run of a statement, for the wait
/// for a lock (half of it) and for idle time (twice as long), and no compilation of plans, which takes longer than any
/// statement of this store. They are set in each transaction, because a pooler can give the next one another session.
pub(crate) fn settings(statement_timeout: Duration) -> String {
    let statement = statement_timeout.as_millis();
    let (lock, idle) = (statement / 2, statement * 2);
    format!(
        "SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock};
         SET LOCAL idle_in_transaction_session_timeout = {idle}; SET LOCAL jit = off"
    )
}

/// Something that runs statements: a transaction of this store.
pub(crate) trait Query: Sync {
    /// The rows that the statement returns.
    fn rows(&self, sql: &str, values: Values<'_>) -> impl Future<Output = Result<Vec<Row>, PgError>> + Send;
}

impl Query for Transaction<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        Ok(self.query_typed(sql, &typed(values)).await?)
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
    pub(crate) async fn begin(client: &'a mut Client, context: &TxContext) -> Result<Self, PgError> {
        let begin = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let tx = begin.start().await?;
        tx.batch_execute(&context.settings).await?;
        Ok(Self { tx })
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

/// The time in the reply to a batch of statements of which one reads it.
fn time_in(reply: &[SimpleQueryMessage]) -> Result<Millis, PgError> {
    let text = reply.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    text.and_then(|text| text.parse().ok()).map(Millis::new).ok_or(PgError::LostRace)
}

/// Begins a transaction in which each statement sees what other transactions committed while it waited for a lock. The
/// level is explicit, because a role or a database can have another default.
pub(crate) async fn begin_read_committed(client: &mut Client) -> Result<Transaction<'_>, PgError> {
    Ok(client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?)
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
        let tx = begin_read_committed(client).await?;
        let read = tx.simple_query(&format!("{}; SELECT outbox.now()", context.settings)).await?;
        let now = match &context.clock {
            Some(clock) => clock(),
            None => time_in(&read)?,
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

    /// Adds to one of the totals in `outbox.totals`, at the end of this transaction.
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

    /// Appends the changes of the totals, which maintenance adds up. No transaction waits for another's.
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
        let sql = "INSERT INTO outbox.deltas (name, saga, type, outcome, by)
                   SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])";
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
