//! One transaction: its statements, its time, and the totals and signals that it writes at its end.
//!
//! Statements that are polled together are sent together, and the server runs them in that order. So a transaction
//! begins in one round trip with its first statements, and ends in one with its last. This file does not know where the
//! connection comes from, nor whether a failed transaction is repeated.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::time::Duration;

use deadpool_postgres::{Client, Transaction};
use futures_util::FutureExt as _;
use tokio_postgres::error::{DbError, Severity, SqlState};
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
/// for a lock (half of it) and for idle time (twice as long), and three ways of execution that the server must not choose.
/// It would choose them by statistics that are old while a queue fills or empties. Compiling a plan and starting
/// parallel workers take longer than most statements of this store. A merge join of a place and outbox.items, for the
/// next items after an id, reads outbox.items from its first row. The settings are made in each transaction, because a
/// pooler can give the next one another session.
pub(crate) fn settings(statement_timeout: Duration) -> String {
    let statement = statement_timeout.as_millis();
    let (lock, idle) = (statement / 2, statement * 2);
    format!(
        "SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock};
         SET LOCAL idle_in_transaction_session_timeout = {idle}; SET LOCAL jit = off;
         SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL enable_mergejoin = off"
    )
}

/// SQL: rows are looked up by index. By statistics from before a table grew, the server would read the whole table for
/// the few rows that a transaction writes.
pub(crate) const BY_INDEX: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off";

/// Something that runs statements: a transaction of this store, or the connection of one that is about to begin.
pub(crate) trait Query: Sync {
    /// The rows that the statement returns.
    fn rows(&self, sql: &str, values: Values<'_>) -> impl Future<Output = Result<Vec<Row>, PgError>> + Send;
}

impl Query for Transaction<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        Ok(self.query_typed(sql, &typed(values)).await?)
    }
}

impl Query for Client {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        Ok(self.query_typed(sql, &typed(values)).await?)
    }
}

impl Query for WriteTx<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        self.open.client.rows(sql, values).await
    }
}

/// A transaction on a connection that nothing else uses meanwhile. It is rolled back when it is dropped open.
struct OpenTransaction<'a> {
    client: &'a Client,
    is_open: bool,
}

impl<'a> OpenTransaction<'a> {
    /// Sends `begin`, which begins the transaction, together with the statements of `first`. Returns the replies to
    /// both.
    async fn begin<T>(
        client: &'a Client,
        begin: &str,
        first: impl Future<Output = Result<T, PgError>>,
    ) -> Result<(Self, Vec<SimpleQueryMessage>, T), PgError> {
        let open = Self { client, is_open: true };
        match tokio::join!(biased; client.simple_query(begin), first) {
            (Ok(reply), Ok(value)) => Ok((open, reply, value)),
            (Ok(_), Err(err)) => Err(err),
            (Err(err), first) => Err(not_begun(err, first.as_ref().err())),
        }
    }

    /// Sends `begin` alone.
    async fn begin_alone(client: &'a Client, begin: &str) -> Result<(Self, Vec<SimpleQueryMessage>), PgError> {
        let open = Self { client, is_open: true };
        let reply = client.simple_query(begin).await?;
        Ok((open, reply))
    }

    /// Sends a whole transaction at once. Returns what its statements return.
    async fn run<T>(
        client: &'a Client,
        begin: &str,
        statements: impl Future<Output = Result<T, PgError>>,
    ) -> Result<T, PgError> {
        let mut open = Self { client, is_open: true };
        let sent = tokio::join!(biased;
            client.simple_query(begin), statements, client.batch_execute("COMMIT"));
        open.is_open = false;
        match sent {
            (Err(err), made, _) => Err(not_begun(err, made.as_ref().err())),
            (Ok(_), Err(err), _) => Err(not_committed(err)),
            (Ok(_), Ok(_), Err(err)) => Err(not_committed(err.into())),
            (Ok(_), Ok(value), Ok(())) => Ok(value),
        }
    }

    /// Sends COMMIT together with the statements of `last`. A statement that fails makes the server roll back, and it
    /// answers the COMMIT without an error all the same: so the error of the statement counts.
    async fn commit(mut self, last: impl Future<Output = Result<(), PgError>>) -> Result<(), PgError> {
        self.is_open = false;
        let (ended, committed) = tokio::join!(biased; last, self.client.batch_execute("COMMIT"));
        ended.and_then(|()| Ok(committed?)).map_err(not_committed)
    }
}

impl Drop for OpenTransaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // The first poll sends the message; nothing waits for the reply.
            drop(self.client.batch_execute("ROLLBACK").now_or_never());
        }
    }
}

/// The error of a transaction whose beginning failed, by the error of the statements that were sent with it. When those
/// did not run into a failed transaction, they ran outside of one, and may have been committed.
fn not_begun(err: tokio_postgres::Error, first: Option<&PgError>) -> PgError {
    let has_failed = |err: &PgError| match err {
        PgError::Database(err) => err.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION),
        _ => false,
    };
    if is_answer(&err) && !first.is_some_and(has_failed) {
        return PgError::CommitUnknown(err);
    }
    PgError::Database(err)
}

/// The error of a transaction whose COMMIT was sent together with its last statements.
fn not_committed(err: PgError) -> PgError {
    match err {
        // The server refused a statement or the commit: nothing was committed.
        PgError::Database(err) if is_answer(&err) => PgError::Database(err),
        PgError::Database(err) => PgError::CommitUnknown(err),
        err => err,
    }
}

/// Whether the server answered a statement with this error and goes on to the next. An error that ends the connection
/// does not say whether a commit took place, nor does one of a pooler, which gives no severity.
fn is_answer(err: &tokio_postgres::Error) -> bool {
    err.as_db_error().and_then(DbError::parsed_severity) == Some(Severity::Error)
}

/// A transaction that only reads. All its statements see one snapshot of the database.
pub(crate) struct ReadTx<'a> {
    open: OpenTransaction<'a>,
}

impl<'a> ReadTx<'a> {
    pub(crate) async fn begin(client: &'a Client, context: &TxContext) -> Result<Self, PgError> {
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {}", context.settings);
        Ok(Self { open: OpenTransaction::begin_alone(client, &begin).await?.0 })
    }

    /// Makes settings for the rest of the transaction.
    pub(crate) async fn set(&self, settings: &str) -> Result<(), PgError> {
        Ok(self.open.client.batch_execute(settings).await?)
    }
}

impl Query for ReadTx<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        self.open.client.rows(sql, values).await
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

/// Begins a transaction in which each statement sees what other transactions committed while it waited for a lock. The
/// level is explicit, because a role or a database can have another default.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

fn begin_sql(context: &TxContext) -> String {
    format!("{BEGIN}; {}; {BY_INDEX}; SELECT outbox.now()", context.settings)
}

/// A transaction that writes. It is rolled back when it is dropped without a commit.
pub(crate) struct WriteTx<'a> {
    open: OpenTransaction<'a>,
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
    pub(crate) async fn begin(client: &'a Client, context: &'a TxContext) -> Result<Self, PgError> {
        let (open, reply) = OpenTransaction::begin_alone(client, &begin_sql(context)).await?;
        Self::new(open, context, &reply)
    }

    /// Runs a whole transaction in one round trip: statements that need no answer of each other.
    pub(crate) async fn run_at_once<T>(
        client: &'a Client,
        context: &'a TxContext,
        statements: impl Future<Output = Result<T, PgError>>,
    ) -> Result<T, PgError> {
        OpenTransaction::run(client, &format!("{BEGIN}; {}", context.settings), statements).await
    }

    /// Begins in one round trip with the statements of `first`, which run on the client. Returns what they return.
    pub(crate) async fn begin_with<T>(
        client: &'a Client,
        context: &'a TxContext,
        first: impl Future<Output = Result<T, PgError>>,
    ) -> Result<(Self, T), PgError> {
        let (open, reply, value) = OpenTransaction::begin(client, &begin_sql(context), first).await?;
        Ok((Self::new(open, context, &reply)?, value))
    }

    fn new(open: OpenTransaction<'a>, context: &'a TxContext, reply: &[SimpleQueryMessage]) -> Result<Self, PgError> {
        let now = match &context.clock {
            Some(clock) => clock(),
            None => time_in(reply)?,
        };
        Ok(Self {
            open,
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
    pub(crate) async fn commit(self) -> Result<bool, PgError> {
        let Self { open, now, pod, counters, signals, .. } = self;
        let wakes_others = self.wakes_other_processes && self.notifies;
        let client = open.client;
        let last = async {
            // Polled in this order.
            let (locked, signalled, counted, notified) = tokio::join!(biased;
                lock_signals(client, &signals),
                write_signals(client, pod, now, &signals),
                write_counters(client, &counters),
                notify(client, wakes_others),
            );
            locked.and(signalled).and(counted).and(notified)
        };
        open.commit(last).await?;
        Ok(self.wakes_workers || self.wakes_other_processes)
    }
}

/// Takes the lock under which signals are appended, and which is held until the commit. So `seq` ascends in the order
/// of commits, and a client that reads on from the last number misses none.
async fn lock_signals(tx: &impl Query, signals: &[(String, String)]) -> Result<(), PgError> {
    if signals.is_empty() {
        return Ok(());
    }
    tx.rows("SELECT pg_advisory_xact_lock(7206003, 0)", &[]).await.map(drop)
}

async fn write_signals(tx: &impl Query, pod: &str, now: Millis, signals: &[(String, String)]) -> Result<(), PgError> {
    if signals.is_empty() {
        return Ok(());
    }
    let (names, data): (Vec<_>, Vec<_>) = signals.iter().map(|(name, data)| (name.as_str(), data.as_str())).unzip();
    let sql = "INSERT INTO outbox.signals (pod, signal, ts, data)
               SELECT $1::text, signal, $2::bigint, data::json
               FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS new (signal, data, position)
               ORDER BY position";
    tx.rows(sql, &[&pod, &now.get(), &names, &data]).await.map(drop)
}

/// Appends the changes of the totals, which maintenance adds up. No transaction waits for another's.
async fn write_counters(tx: &impl Query, counters: &BTreeMap<[String; 4], i64>) -> Result<(), PgError> {
    if counters.is_empty() {
        return Ok(());
    }
    let column = |place: usize| counters.keys().map(|key| key[place].as_str()).collect::<Vec<_>>();
    let (names, sagas, types, outcomes) = (column(0), column(1), column(2), column(3));
    let amounts: Vec<_> = counters.values().copied().collect();
    let sql = "INSERT INTO outbox.deltas (name, saga, type, outcome, by)
               SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])";
    tx.rows(sql, &[&names, &sagas, &types, &outcomes, &amounts]).await.map(drop)
}

/// Wakes the workers of other processes, if the transaction made work for them.
async fn notify(tx: &impl Query, wakes_others: bool) -> Result<(), PgError> {
    if !wakes_others {
        return Ok(());
    }
    tx.rows("SELECT pg_notify('outbox', '')", &[]).await.map(drop)
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
