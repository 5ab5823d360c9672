//! What every call of a store needs: connections, the clock, the identity of this process, and repetition after
//! failures that may pass.
//!
//! It does not know what a call does.

use std::time::Duration;

use tokio::sync::{Notify, watch};

use outbox_item::Millis;
use outbox_store::engine::fair_keys::LastServed;
use outbox_store::{DiskFull, StoreError};

use crate::diagnostics;
use crate::error::PgError;
use crate::group_size::GroupSize;
use crate::health::Health;
use crate::known_digests::KnownDigests;
use crate::late_settlements::LateSettlements;
use crate::looks::Looks;
use crate::options::PostgresOptions;
use crate::pool::Pool;
pub(crate) use crate::pool::Purpose;
use crate::refused_types::RefusedTypes;
use crate::sequences;
use crate::tx::{ReadTx, TxContext, WriteTx, database_time, settings};

/// Runs the work in a transaction, commits it, and wakes the workers of this process if it made work available. A
/// macro, because a function that lends the transaction to a closure cannot promise that the closure's future is
/// `Send`.
macro_rules! transact {
    ($pg:expr, $tried:literal, |$tx:ident| $work:expr) => {
        transact!($pg, $crate::pool::Purpose::Call, $tried, |$tx| $work)
    };
    ($pg:expr, $purpose:expr, $tried:literal, |$tx:ident| $work:expr) => {{
        let pg: &PgContext = $pg;
        let call = || async {
            let client = pg.pool.connection($purpose).await?;
            let mut transaction = pg.begin(&client).await?;
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

/// Runs reads that all see one snapshot of the database.
macro_rules! read {
    ($pg:expr, $tried:literal, |$tx:ident| $work:expr) => {{
        let pg: &PgContext = $pg;
        let call = || async {
            let client = pg.pool.connection($crate::pool::Purpose::Call).await?;
            let read_tx = pg.begin_read(&client).await?;
            let $tx = &read_tx;
            $work.await
        };
        pg.with_retries($tried, call).await
    }};
}

/// Waits between the attempts of one call, after failures that may pass. The actual wait is a random part of it, from
/// half to all, so that calls that lost the same race do not collide again.
const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(320),
    Duration::from_secs(1),
];

/// The longest attempt of one call, as a multiple of the statement timeout. It is longer than the limits that the
/// server enforces, so it ends a call only when the network does not answer.
const CALL_TIMEOUT_FACTOR: f64 = 1.5;

/// The parts of a store that its calls share.
pub(crate) struct PgContext {
    pub(crate) pool: Pool,
    pub(crate) tx: TxContext,
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) looks: Looks,
    /// Which fairness keys were served last.
    pub(crate) last_served: LastServed,
    pub(crate) refused_types: RefusedTypes,
    /// Told of each claim that brought something.
    pub(crate) claimed: Notify,
    pub(crate) group_size: GroupSize,
    pub(crate) known_digests: KnownDigests,
    pub(crate) late_settlements: LateSettlements,
    /// The longest attempt of one call.
    call_timeout: Duration,
    health: Health,
}

impl PgContext {
    pub(crate) fn new(pool: Pool, options: PostgresOptions, notifies: bool) -> Self {
        let PostgresOptions { instance, clock, alerts, statement_timeout, .. } = options;
        Self {
            pool,
            tx: TxContext { clock, instance, alerts, notifies, settings: settings(statement_timeout) },
            changes: watch::Sender::new(0),
            looks: Looks::default(),
            last_served: LastServed::default(),
            refused_types: RefusedTypes::default(),
            claimed: Notify::new(),
            group_size: GroupSize::default(),
            known_digests: KnownDigests::default(),
            late_settlements: LateSettlements::default(),
            call_timeout: statement_timeout.mul_f64(CALL_TIMEOUT_FACTOR),
            health: Health::default(),
        }
    }

    /// The store's present time.
    pub(crate) async fn now(&self) -> Result<Millis, StoreError> {
        if let Some(clock) = &self.tx.clock {
            return Ok(clock());
        }
        read!(self, "asking for the time", |tx| database_time(tx))
    }

    /// Errors unless the server answers and takes writes. Leaves a server that has become read-only.
    pub(crate) async fn probe(&self) -> Result<(), StoreError> {
        let ask = async || {
            let client = self.pool.connection(Purpose::Probe).await?;
            diagnostics::refuse_read_only(&client).await
        };
        self.with_retries("asking whether the database answers", ask).await?;
        let full = || StoreError::Unavailable { tried: "writing items", source: DiskFull.into() };
        if self.is_full() { Err(full()) } else { Ok(()) }
    }

    /// Wakes everything in this process that waits for work.
    pub(crate) fn wake(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// Begins a transaction that writes.
    pub(crate) async fn begin<'a>(&'a self, client: &'a deadpool_postgres::Client) -> Result<WriteTx<'a>, PgError> {
        WriteTx::begin(client, &self.tx).await
    }

    /// Begins a transaction that writes in one round trip with its first statements.
    pub(crate) async fn begin_with<'a, T>(
        &'a self,
        client: &'a deadpool_postgres::Client,
        first: impl Future<Output = Result<T, PgError>>,
    ) -> Result<(WriteTx<'a>, T), PgError> {
        WriteTx::begin_with(client, &self.tx, first).await
    }

    /// Begins a transaction that reads one snapshot of the database.
    pub(crate) async fn begin_read<'a>(&self, client: &'a deadpool_postgres::Client) -> Result<ReadTx<'a>, PgError> {
        ReadTx::begin(client, &self.tx).await
    }

    /// Whether the last call found the database unavailable.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.health.is_unavailable()
    }

    /// Whether the server's disk was full a short time ago.
    pub(crate) fn is_full(&self) -> bool {
        self.health.is_full()
    }

    /// Records a failure of a background task, which tries again by itself.
    pub(crate) fn record_background_failure(&self, tried: &'static str, err: &PgError) {
        self.record_failure(tried, err);
    }

    fn record_failure(&self, tried: &'static str, err: &PgError) {
        self.health.record_failure(tried, err);
        if err.is_about_the_server() {
            self.pool.leave_server();
            self.known_digests.forget();
        }
    }

    /// Mends what made the call fail, where the store can.
    async fn mend(&self, err: &PgError) {
        if !err.is_about_numbers() {
            return;
        }
        let advanced = async { sequences::advance(&self.pool.connection(Purpose::Call).await?).await };
        if let Err(err) = advanced.await {
            tracing::error!(
                error = err.message(),
                "a sequence is behind the numbers in use, or at its end, and cannot be moved"
            );
        }
    }

    /// Runs a call, and repeats it while its failures may pass and it cannot have been committed.
    pub(crate) async fn with_retries<T, F, R>(&self, tried: &'static str, call: F) -> Result<T, StoreError>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T, PgError>>,
    {
        self.repeat(tried, PgError::is_retryable, call).await.map_err(|err| err.into_store_error(tried))
    }

    /// Like [`Self::with_retries`], for a caller that asks what failed and after which failures to repeat.
    pub(crate) async fn repeat<T, F, R>(
        &self,
        tried: &'static str,
        after: fn(&PgError) -> bool,
        call: F,
    ) -> Result<T, PgError>
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
            self.record_failure(tried, &err);
            self.mend(&err).await;
            match delays.next().filter(|_| after(&err)) {
                Some(delay) => tokio::time::sleep(delay.mul_f64(f64::midpoint(1.0, fastrand::f64()))).await,
                None => return Err(err),
            }
        }
    }
}
