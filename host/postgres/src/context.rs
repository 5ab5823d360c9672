//! What every call needs: connections, the clock, who this process is; and how often a call is made again.

use std::time::Duration;

use tokio::sync::watch;

use crate::PostgresOptions;
use crate::error::PgError;
use crate::health::Health;
use crate::pool::Pool;
use crate::tx::{ReadTx, WriteTx, database_time};
use outbox_item::Millis;
use outbox_store::engine::alerts::AlertSettings;
use outbox_store::{Clock, StoreError};

/// Runs the work in a transaction, commits it, and wakes whoever waits for what it made. A macro, because a
/// function that lends the transaction to a closure cannot promise that the closure's future is `Send`.
macro_rules! transact {
    ($pg:expr, $tried:literal, |$tx:ident| $work:expr) => {{
        let pg: &PgContext = $pg;
        let call = || async {
            let mut client = pg.pool.connection().await?;
            let mut transaction = pg.begin(&mut client).await?;
            let value = {
                let $tx = &mut transaction;
                $work.await?
            };
            if transaction.commit().await? {
                pg.wake();
            }
            Ok(value)
        };
        pg.with_retries($tried, call).await
    }};
}

/// Runs reads that all see one moment of the database.
macro_rules! read {
    ($pg:expr, $tried:literal, |$tx:ident| $work:expr) => {{
        let pg: &PgContext = $pg;
        let call = || async {
            let mut client = pg.pool.connection().await?;
            let read_tx = pg.begin_read(&mut client).await?;
            let $tx = &read_tx;
            $work.await
        };
        pg.with_retries($tried, call).await
    }};
}

/// How long a call waits before it is made again, after each failure that may have passed by then. Half of
/// it is drawn by lot, so that those who lost the same race do not meet again.
const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(320),
    Duration::from_secs(1),
];
/// The parts of a store that its calls share.
pub(crate) struct PgContext {
    pub(crate) pool: Pool,
    pub(crate) clock: Option<Clock>,
    pub(crate) instance: String,
    pub(crate) alerts: Option<AlertSettings>,
    pub(crate) changes: watch::Sender<u64>,
    /// Whether the schema notifies of inserts.
    pub(crate) notifies: bool,
    /// No attempt at a call takes longer.
    call_timeout: Duration,
    health: Health,
}

impl PgContext {
    pub(crate) fn new(pool: Pool, options: PostgresOptions, notifies: bool) -> Self {
        let PostgresOptions { instance, clock, alerts, statement_timeout, .. } = options;
        // Whatever the network does; longer than what the server is told.
        let call_timeout = statement_timeout.mul_f64(1.5);
        Self {
            call_timeout,
            pool,
            clock,
            instance,
            alerts,
            changes: watch::Sender::new(0),
            notifies,
            health: Health::default(),
        }
    }

    /// The store's present time.
    pub(crate) async fn now(&self) -> Result<Millis, StoreError> {
        if let Some(clock) = &self.clock {
            return Ok(clock());
        }
        read!(self, "asking for the time", |tx| database_time(tx))
    }

    /// Tells whoever waits in this process that there may be work.
    pub(crate) fn wake(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// Begins a transaction that writes.
    pub(crate) async fn begin<'a>(&'a self, client: &'a mut deadpool_postgres::Client) -> Result<WriteTx<'a>, PgError> {
        WriteTx::begin(client, self).await
    }

    /// Begins a transaction that reads one moment of the database.
    pub(crate) async fn begin_read<'a>(
        &self,
        client: &'a mut deadpool_postgres::Client,
    ) -> Result<ReadTx<'a>, PgError> {
        ReadTx::begin(client).await
    }

    /// Whether the database is out of order, as far as the last call could tell.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.health.is_unavailable()
    }

    /// Whether writes that need room are refused.
    pub(crate) fn is_full(&self) -> bool {
        self.health.is_full()
    }

    /// Notes a failure of what goes on by itself, which is tried again.
    pub(crate) fn record_background_failure(&self, tried: &'static str, err: &PgError) {
        self.health.record_failure(tried, err);
    }

    /// Makes a call, again while its failures may pass and it cannot have been committed.
    pub(crate) async fn with_retries<T, F, R>(&self, tried: &'static str, call: F) -> Result<T, StoreError>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T, PgError>>,
    {
        let mut delays = RETRY_DELAYS.iter();
        loop {
            let made = tokio::time::timeout(self.call_timeout, call()).await.unwrap_or(Err(PgError::TimedOut));
            let err = match made {
                Ok(value) => {
                    self.health.record_success();
                    return Ok(value);
                }
                Err(err) => err,
            };
            self.health.record_failure(tried, &err);
            match delays.next().filter(|_| err.is_retryable()) {
                Some(delay) => tokio::time::sleep(delay.mul_f64(f64::midpoint(1.0, fastrand::f64()))).await,
                None => return Err(err.into_store_error(tried)),
            }
        }
    }
}
