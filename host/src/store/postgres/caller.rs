//! What every call needs: connections, the clock, who this process is; and how often a call is made again.

use std::time::Duration;

use tokio::sync::watch;

use super::PostgresOptions;
use super::fault::Fault;
use super::health::Health;
use super::pool::Pool;
use super::step::{Reading, Step, database_time};
use crate::item::Millis;
use crate::store::{Alerts, Clock, StoreError};

/// Runs the work in a transaction, commits it, and wakes whoever waits for what it made. A macro, because a
/// function that lends the transaction to a closure cannot promise that the closure's future is `Send`.
macro_rules! transact {
    ($caller:expr, $tried:literal, |$step:ident| $work:expr) => {{
        let caller: &Caller = $caller;
        let call = || async {
            let mut client = caller.pool.connection().await?;
            let mut transaction = caller.begin(&mut client).await?;
            let value = {
                let $step = &mut transaction;
                $work.await?
            };
            if transaction.commit().await? {
                caller.wake();
            }
            Ok(value)
        };
        caller.persist($tried, call).await
    }};
}

/// Runs reads that all see one moment of the database.
macro_rules! read {
    ($caller:expr, $tried:literal, |$tx:ident| $work:expr) => {{
        let caller: &Caller = $caller;
        let call = || async {
            let mut client = caller.pool.connection().await?;
            let reading = caller.look(&mut client).await?;
            let $tx = &reading;
            $work.await
        };
        caller.persist($tried, call).await
    }};
}

/// How long a call waits before it is made again, after each failure that may have passed by then. Half of
/// it is drawn by lot, so that those who lost the same race do not meet again.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(320),
    Duration::from_secs(1),
];
/// The parts of a store that its calls share.
pub(super) struct Caller {
    pub(super) pool: Pool,
    pub(super) clock: Option<Clock>,
    pub(super) instance: String,
    pub(super) alerts: Option<Alerts>,
    pub(super) changes: watch::Sender<u64>,
    /// Whether the schema notifies of inserts.
    pub(super) notifies: bool,
    /// No attempt at a call takes longer.
    longest: Duration,
    health: Health,
}

impl Caller {
    pub(super) fn new(pool: Pool, options: PostgresOptions, notifies: bool) -> Self {
        let PostgresOptions { instance, clock, alerts, patience, .. } = options;
        // Whatever the network does; longer than what the server is told.
        let longest = patience.mul_f64(1.5);
        Self {
            longest,
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
    pub(super) async fn now(&self) -> Result<Millis, StoreError> {
        if let Some(clock) = &self.clock {
            return Ok(clock());
        }
        read!(self, "asking for the time", |tx| database_time(tx))
    }

    /// Tells whoever waits in this process that there may be work.
    pub(super) fn wake(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// Begins a transaction that writes.
    pub(super) async fn begin<'a>(&'a self, client: &'a mut deadpool_postgres::Client) -> Result<Step<'a>, Fault> {
        Step::begin(client, self).await
    }

    /// Begins a transaction that reads one moment of the database.
    pub(super) async fn look<'a>(&self, client: &'a mut deadpool_postgres::Client) -> Result<Reading<'a>, Fault> {
        Reading::begin(client).await
    }

    /// Whether the database is out of order, as far as the last call could tell.
    pub(super) fn is_out(&self) -> bool {
        self.health.is_gone()
    }

    /// Whether writes that need room are refused.
    pub(super) fn is_full(&self) -> bool {
        self.health.is_full()
    }

    /// Notes a failure of what goes on by itself, which is tried again.
    pub(super) fn note(&self, tried: &'static str, fault: &Fault) {
        self.health.failed(tried, fault);
    }

    /// Makes a call, again while its failures may pass and it cannot have been committed.
    pub(super) async fn persist<T, F, R>(&self, tried: &'static str, call: F) -> Result<T, StoreError>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T, Fault>>,
    {
        let mut pauses = PAUSES.iter();
        loop {
            let made = tokio::time::timeout(self.longest, call()).await.unwrap_or(Err(Fault::Late));
            let fault = match made {
                Ok(value) => {
                    self.health.answered();
                    return Ok(value);
                }
                Err(fault) => fault,
            };
            self.health.failed(tried, &fault);
            match pauses.next().filter(|_| fault.may_pass()) {
                Some(pause) => tokio::time::sleep(pause.mul_f64(f64::midpoint(1.0, fastrand::f64()))).await,
                None => return Err(fault.explain(tried)),
            }
        }
    }
}
