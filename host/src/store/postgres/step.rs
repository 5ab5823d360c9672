//! One transaction, as a request sees it: its statements, its time, and what is written at its end.

use std::collections::BTreeMap;
use std::future::{Ready, ready};

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};

use super::caller::Caller;
use super::fault::Fault;
use crate::item::Millis;
use crate::store::{Alerts, Violation};

/// The values of a statement.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Where statements can be sent: this store's transactions, and an application's.
pub(super) trait Sql: Sync {
    /// The rows that the statement returns.
    fn rows(&self, sql: &str, values: Values<'_>) -> impl Future<Output = Result<Vec<Row>, Fault>> + Send;
}

impl Sql for tokio_postgres::Transaction<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Fault> {
        Ok(self.query(sql, values).await?)
    }
}

impl Sql for Transaction<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Fault> {
        let statement = self.prepare_cached(sql).await?;
        Ok(self.query(&statement, values).await?)
    }
}

impl Sql for Step<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Fault> {
        self.tx.rows(sql, values).await
    }
}

/// A transaction that only reads, all of it at one moment of the database.
pub(super) struct Reading<'a> {
    tx: Transaction<'a>,
}

impl<'a> Reading<'a> {
    pub(super) async fn begin(client: &'a mut Client) -> Result<Self, Fault> {
        let begin = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        Ok(Self { tx: begin.start().await? })
    }
}

impl Sql for Reading<'_> {
    async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Fault> {
        self.tx.rows(sql, values).await
    }
}

/// The database's clock.
pub(super) async fn database_time(sql: &impl Sql) -> Result<Millis, Fault> {
    let rows = sql.rows("SELECT outbox.now()", &[]).await?;
    Ok(rows.first().ok_or(Fault::Overtaken)?.try_get(0)?)
}

/// A transaction that writes. Dropped without a commit, it leaves nothing.
pub(super) struct Step<'a> {
    tx: Transaction<'a>,
    /// The store's time of this transaction.
    pub(super) now: Millis,
    /// The instance id of this process.
    pub(super) pod: &'a str,
    /// What is announced as items, if anything.
    pub(super) alerts: Option<&'a Alerts>,
    /// Whether the transaction makes work available, so that workers of this process should look.
    pub(super) makes_work: bool,
    /// Whether those of the other processes should look at once, too.
    pub(super) makes_work_elsewhere: bool,
    notifies: bool,
    tallies: BTreeMap<[String; 4], i64>,
    signals: Vec<(String, String)>,
}

impl<'a> Step<'a> {
    pub(super) async fn begin(client: &'a mut Client, caller: &'a Caller) -> Result<Self, Fault> {
        // Named, because a database can have another default, and each statement must see what has been
        // committed while it waited for a lock.
        let begin = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
        let tx = begin.start().await?;
        let now = match &caller.clock {
            Some(clock) => clock(),
            None => database_time(&tx).await?,
        };
        Ok(Self {
            tx,
            now,
            pod: &caller.instance,
            alerts: caller.alerts.as_ref(),
            makes_work: false,
            makes_work_elsewhere: false,
            notifies: caller.notifies,
            tallies: BTreeMap::new(),
            signals: Vec::new(),
        })
    }

    /// Changes one of the totals in `outbox.counters`, at the end of this transaction.
    pub(super) fn tally(&mut self, name: &str, saga: &str, item_type: &str, outcome: &str, by: i64) {
        *self.tallies.entry([name, saga, item_type, outcome].map(str::to_owned)).or_default() += by;
    }

    /// Appends a signal, at the end of this transaction.
    pub(super) fn signal(&mut self, name: String, data: &serde_json::Value) {
        self.signals.push((name, data.to_string()));
    }

    /// Commits, and says whether workers of this process should look for work.
    pub(super) async fn commit(mut self) -> Result<bool, Fault> {
        self.write_signals().await?;
        self.write_tallies().await?;
        if self.makes_work_elsewhere && self.notifies {
            self.rows("SELECT pg_notify('outbox', '')", &[]).await?;
        }
        let makes_work = self.makes_work || self.makes_work_elsewhere;
        self.tx.commit().await.map_err(|err| match err.as_db_error() {
            // The server said no: nothing was committed.
            Some(_) => Fault::Database(err),
            None => Fault::Committing(err),
        })?;
        Ok(makes_work)
    }

    /// Whoever appends signals waits for whoever did before to commit, so that `seq` ascends in the order of
    /// commits and nobody who reads on from the last one misses any.
    async fn write_signals(&mut self) -> Result<(), Fault> {
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
    async fn write_tallies(&mut self) -> Result<(), Fault> {
        if self.tallies.is_empty() {
            return Ok(());
        }
        let mut columns: [Vec<String>; 4] = Default::default();
        let mut amounts = Vec::new();
        for (key, by) in std::mem::take(&mut self.tallies) {
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

pub(super) fn tally_violation(step: &mut Step<'_>, violation: Violation) -> Ready<Result<(), Fault>> {
    step.tally("violation", "", "", violation.as_str(), 1);
    ready(Ok(()))
}

/// Text that PostgreSQL can keep: it refuses the character U+0000, which handlers may well write.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
