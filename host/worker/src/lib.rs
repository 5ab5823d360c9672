//! The worker of one process: it claims items, runs their handlers, and settles the claims.
//!
//! No attempt outlives its lease. A failed item is retried, given back or dead-lettered by the policy of its
//! type, and a shutdown releases the attempts that it interrupts. The worker sees [`Handler`] and [`Queue`]; it knows
//! neither WebAssembly nor SQL, and cannot list or change items except through its claims.
//!
//! An item holds a *claim permit* from its claim to its settlement, and a *run permit* while its attempt runs. There
//! are more claim permits than run permits, so that a worker with short attempts claims the next batch ahead. The part
//! of a request that a claim did not fill stays at the store as a *long poll*: the store may fulfil it in the
//! transaction that makes the items available.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use async_trait::async_trait;
//! use outbox_core::{Attempt, AttemptReport, Handler, HostWrites, Outcome, ServedType};
//! use outbox_item::NewItem;
//! use outbox_sqlite::{SqliteOptions, SqliteStore};
//! use outbox_store::{BatchMode, Enqueue as _};
//! use outbox_worker::{Worker, WorkerSettings};
//! use tokio::sync::watch;
//! use tokio_util::sync::CancellationToken;
//!
//! /// Prints one greeting, then stops the worker.
//! struct Greeter {
//!     changes: watch::Sender<u64>,
//!     stop: CancellationToken,
//! }
//!
//! #[async_trait]
//! impl Handler for Greeter {
//!     fn served_types(&self) -> Vec<ServedType> {
//!         vec![ServedType::new("greeting")]
//!     }
//!
//!     fn changes(&self) -> watch::Receiver<u64> {
//!         self.changes.subscribe()
//!     }
//!
//!     async fn handle(&self, attempt: Attempt) -> AttemptReport {
//!         println!("Hello, {}!", String::from_utf8_lossy(&attempt.item.payload));
//!         self.stop.cancel();
//!         AttemptReport::without_component(Outcome::Done { result: None, writes: HostWrites::default() })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("outbox.sqlite");
//! let store = SqliteStore::open(&path, SqliteOptions::default())?;
//! store.enqueue(vec![NewItem::new("greeting", "key-1", "Ada")], BatchMode::PerItem).await?;
//!
//! let stop = CancellationToken::new();
//! let greeter = Greeter { changes: watch::Sender::new(0), stop: stop.clone() };
//! let settings = WorkerSettings {
//!     instance: "host-1".into(),
//!     concurrency: 8,
//!     prefetch: 0,
//!     lease: Duration::from_mins(1),
//!     drain: Duration::from_secs(5),
//! };
//! Worker::new(store, Arc::new(greeter), settings).run(stop).await;
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]

mod attempt;
mod breaker;
mod claim_deadline;
mod prefetch;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use outbox_core::{Handler, KeyLocks, ServedType};
use outbox_store::{Claim, ClaimRequest, ClaimTerms, LongPoll, Queue, StoreError};

use crate::attempt::AttemptTask;
use crate::breaker::Breakers;
use crate::claim_deadline::{ClaimDeadline, lease_for};
use crate::prefetch::Prefetch;

/// The operator's settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The instance id of this process, unique per boot.
    pub instance: String,
    /// The most attempts at a time.
    pub concurrency: usize,
    /// The most items that are claimed ahead of the running attempts; 0 claims none ahead.
    pub prefetch: usize,
    /// The lease of a claim, unless its type's timeout needs a longer one.
    pub lease: Duration,
    /// How long running attempts may continue after a shutdown is requested, before they are interrupted.
    pub drain: Duration,
}

/// The longest wait between two claims, and between two checks for expired leases. It bounds the delay that a missed
/// wake-up can cause.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// How long a shutdown waits for the settlements of interrupted attempts. An item without one waits for its lease to
/// end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait after a failed claim, so that the worker does not claim in a busy loop while the store is down.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// A worker, ready to run.
pub struct Worker {
    queue: Arc<dyn Queue>,
    handler: Arc<dyn Handler>,
    settings: WorkerSettings,
    claim_permits: Arc<Semaphore>,
    run_permits: Arc<Semaphore>,
    prefetch: Arc<Prefetch>,
    permit_freed: Arc<Notify>,
    key_locks: KeyLocks,
    tasks: TaskTracker,
    interrupt: CancellationToken,
    breakers: Arc<Breakers>,
    /// Whether the last claim failed, so that each outage is logged once.
    is_failing: AtomicBool,
}

impl Worker {
    /// A worker that claims from `queue` the types that `handler` serves.
    pub fn new(queue: Arc<dyn Queue>, handler: Arc<dyn Handler>, settings: WorkerSettings) -> Self {
        let claim_permits = Arc::new(Semaphore::new(settings.concurrency.saturating_add(settings.prefetch)));
        let run_permits = Arc::new(Semaphore::new(settings.concurrency));
        Self {
            queue,
            handler,
            settings,
            claim_permits,
            run_permits,
            prefetch: Arc::default(),
            permit_freed: Arc::default(),
            key_locks: KeyLocks::default(),
            tasks: TaskTracker::new(),
            interrupt: CancellationToken::new(),
            breakers: Arc::default(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Claims and handles items until `stop` is cancelled. Then waits for running attempts for at most the drain time,
    /// interrupts the rest, and returns a few seconds later at the latest.
    pub async fn run(self, stop: CancellationToken) {
        let mut store_changes = self.queue.subscribe();
        let mut handler_changes = self.handler.changes();
        while !stop.is_cancelled() {
            // Before the claim, so that a change during the claim wakes the loop.
            store_changes.mark_unchanged();
            handler_changes.mark_unchanged();
            let mut plan = self.claim_once().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.permit_freed.notified(), if plan.needs_permits() => {}
                _ = store_changes.changed() => {}
                _ = handler_changes.changed() => {}
                () = plan.elapsed_or_fulfilled() => {}
            }
            self.collect_long_poll(plan).await;
            // Attempts that were settled in the same commit return their permits now, and share the next claim.
            tokio::task::yield_now().await;
        }
        self.drain().await;
    }

    /// Claims once and starts the claimed items. Returns what to wait for before the next claim.
    async fn claim_once(&self) -> WaitPlan {
        let capacity = self.claim_capacity();
        let served_types = if capacity == 0 { Vec::new() } else { self.handler.served_types() };
        let served_types: Vec<_> = served_types.into_iter().map(Arc::new).collect();
        if served_types.is_empty() {
            return WaitPlan::of(IDLE_MAX);
        }
        // Read before the claim is sent: no lease begins earlier.
        let sent = Instant::now();
        let request = self.request(capacity, &served_types, sent);
        match self.queue.claim_long_poll(&request).await {
            Ok((batch, long_poll)) => {
                self.report_claim_success();
                let got_all = batch.claims.len() == capacity as usize;
                let wait =
                    if got_all { Duration::ZERO } else { batch.next_available_in.unwrap_or(IDLE_MAX).min(IDLE_MAX) };
                self.start(batch.claims, &served_types, sent);
                WaitPlan { wait, long_poll: long_poll.map(|long_poll| (long_poll, served_types)) }
            }
            Err(err) => {
                self.report_claim_error(&err);
                WaitPlan::of(STORE_RETRY_DELAY)
            }
        }
    }

    /// Cancels the long poll, and starts the items that the store has already claimed for it.
    async fn collect_long_poll(&self, plan: WaitPlan) {
        let Some((long_poll, served_types)) = plan.long_poll else { return };
        match long_poll.cancel().await {
            Some(Ok((since, batch))) => self.start(batch.claims, &served_types, since.into()),
            Some(Err(err)) => self.report_claim_error(&err),
            None => {}
        }
    }

    fn report_claim_success(&self) {
        if self.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("claiming goes on");
        }
    }

    fn report_claim_error(&self, err: &StoreError) {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %err, "claiming failed; trying again until it succeeds");
        }
    }

    /// How many items to claim now: one per free claim permit, but none while more than half of the prefetched items
    /// still wait.
    fn claim_capacity(&self) -> u32 {
        let free = self.claim_permits.available_permits();
        let ahead = self.prefetch.allowance(self.settings.prefetch, self.settings.concurrency);
        let capacity = free.saturating_sub(self.settings.prefetch - ahead);
        let enough_waits = ahead > 0 && self.prefetch.waiting() > ahead / 2;
        if enough_waits { 0 } else { u32::try_from(capacity).unwrap_or(u32::MAX) }
    }

    fn request(&self, limit: u32, served_types: &[Arc<ServedType>], now: Instant) -> ClaimRequest {
        let terms = |served_type: &Arc<ServedType>| ClaimTerms {
            item_type: served_type.item_type.clone(),
            limit: self.breakers.claim_limit(served_type, now),
            lease: lease_for(self.settings.lease, served_type.timeout),
            max_retries: served_type.retry.max_retries,
            concurrency: served_type.concurrency,
            rate: served_type.rate,
            on_dead: served_type.on_dead,
        };
        let types = served_types.iter().map(terms).filter(|terms| terms.limit > 0).collect();
        ClaimRequest { claimed_by: self.settings.instance.clone(), limit, types }
    }

    /// Starts a task for each claim. `sent` is the moment before the claims were requested.
    fn start(&self, claims: Vec<Claim>, served_types: &[Arc<ServedType>], sent: Instant) {
        if claims.is_empty() {
            return;
        }
        let served_types: HashMap<_, _> =
            served_types.iter().map(|served_type| (served_type.item_type.as_str(), served_type)).collect();
        for claim in claims {
            let Some(served_type) = served_types.get(claim.item.item_type.as_str()) else { continue };
            self.breakers.item_claimed(served_type);
            self.prefetch.item_claimed();
            let (task, claim_permit) = (self.attempt_task(served_type, sent), self.claim_permit());
            // Boxed, because tokio moves a task several times before it runs and once after it has ended.
            self.tasks.spawn(Box::pin(async move {
                let _claim_permit = claim_permit;
                task.attempt(claim).await;
            }));
        }
    }

    fn claim_permit(&self) -> ClaimPermit {
        let Ok(permit) = Arc::clone(&self.claim_permits).try_acquire_owned() else {
            unreachable!("only this loop takes claim permits, and it claims no more items than permits are free")
        };
        ClaimPermit { permit: Some(permit), permit_freed: Arc::clone(&self.permit_freed) }
    }

    fn attempt_task(&self, served_type: &Arc<ServedType>, sent: Instant) -> AttemptTask {
        let lease = lease_for(self.settings.lease, served_type.timeout);
        AttemptTask {
            breakers: Arc::clone(&self.breakers),
            queue: Arc::clone(&self.queue),
            handler: Arc::clone(&self.handler),
            served_type: Arc::clone(served_type),
            claim_deadline: ClaimDeadline::new(sent, lease, served_type.timeout),
            interrupt: self.interrupt.clone(),
            key_locks: self.key_locks.clone(),
            run_permits: Arc::clone(&self.run_permits),
            prefetch: Arc::clone(&self.prefetch),
            permit_freed: Arc::clone(&self.permit_freed),
        }
    }

    async fn drain(self) {
        self.tasks.close();
        let in_flight = self.tasks.len();
        if in_flight > 0 {
            tracing::info!(in_flight, drain = ?self.settings.drain, "waiting for attempts in flight");
        }
        if timeout(self.settings.drain, self.tasks.wait()).await.is_err() {
            tracing::warn!(in_flight = self.tasks.len(), "interrupting the attempts that are left");
            self.interrupt.cancel();
            if timeout(SETTLE_TIMEOUT, self.tasks.wait()).await.is_err() {
                tracing::error!(in_flight = self.tasks.len(), "gave up on claims that could not be settled");
            }
        }
    }
}

/// What the loop waits for between two claims.
struct WaitPlan {
    /// The longest wait.
    wait: Duration,
    /// The long poll at the store, with the types that it asks for.
    long_poll: Option<(LongPoll, Vec<Arc<ServedType>>)>,
}

impl WaitPlan {
    fn of(wait: Duration) -> Self {
        Self { wait, long_poll: None }
    }

    /// Whether the loop claims again when a permit is freed. With a long poll at the store this is only needed for
    /// types with a limit that the end of an attempt can lift.
    fn needs_permits(&self) -> bool {
        let depends =
            |served_type: &Arc<ServedType>| served_type.concurrency.is_some() || served_type.breaker.is_some();
        self.long_poll.as_ref().is_none_or(|(_, served_types)| served_types.iter().any(depends))
    }

    /// Returns when the wait is over or the long poll is fulfilled.
    async fn elapsed_or_fulfilled(&mut self) {
        let fulfilled = async {
            match &mut self.long_poll {
                Some((long_poll, _)) => long_poll.fulfilled().await,
                None => std::future::pending().await,
            }
        };
        drop(timeout(self.wait, fulfilled).await);
    }
}

/// A claim permit that wakes the loop when it is dropped.
struct ClaimPermit {
    permit: Option<OwnedSemaphorePermit>,
    permit_freed: Arc<Notify>,
}

impl Drop for ClaimPermit {
    fn drop(&mut self) {
        // Before the wake-up, so that the loop finds the permit.
        self.permit.take();
        self.permit_freed.notify_one();
    }
}

/// Ends expired leases once a second until `stop` is cancelled. Every process that has the store open runs this, so
/// that leases end even when no worker claims.
pub async fn expire_leases(queue: Arc<dyn Queue>, stop: CancellationToken) {
    let mut is_failing = false;
    while stop.run_until_cancelled(sleep(IDLE_MAX)).await.is_some() {
        let result = queue.expire_leases().await;
        let is_outage_start = begins_outage(&mut is_failing, &result);
        match result {
            Ok(0) => {}
            Ok(expired) => tracing::warn!(expired, "ended leases whose attempts were lost"),
            Err(err) if is_outage_start => {
                tracing::error!(error = %err, "ending expired leases failed; trying again each second");
            }
            Err(_) => {}
        }
    }
}

/// Remembers whether the call failed. Returns true for the first failure after a success.
fn begins_outage<T>(is_failing: &mut bool, result: &Result<T, StoreError>) -> bool {
    let was_failing = std::mem::replace(is_failing, result.is_err());
    *is_failing && !was_failing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outage_is_reported_once_whatever_the_calls_between_them_returned() {
        let lost = || Err(StoreError::ClaimLost);
        let mut is_failing = false;
        let results = [lost(), lost(), Ok(3), lost(), Ok(0), lost(), lost()];
        let reported = results.map(|result: Result<u32, _>| begins_outage(&mut is_failing, &result));
        assert_eq!(reported, [true, false, false, true, false, true, false]);
    }
}
