//! The claim loop of a worker: what it claims and when, and how it ends.
//!
//! It knows neither how an attempt is made, nor how its lease is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use outbox_core::{Handler, KeyLocks, Outage, ServedType};
use outbox_store::{Claim, ClaimRequest, ClaimTerms, ClaimToken, Queue, StoreError};

use crate::attempt::AttemptTask;
use crate::breaker::Breakers;
use crate::lease_keeper::LeaseKeeper;
use crate::leases_in_hand::{ItemInHand, LeasesInHand};
use crate::prefetch::Prefetch;
use crate::wait_plan::WaitPlan;

/// The operator's settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The instance id of this process, unique per boot.
    pub instance: String,
    /// The most attempts at a time.
    pub concurrency: usize,
    /// The most items that are claimed ahead of the running attempts; 0 claims none ahead.
    pub prefetch: usize,
    /// The length of a lease. The worker renews the leases of what it has in hand, so an attempt may be longer.
    pub lease: Duration,
    /// How long running attempts may continue after a shutdown is requested, before they are interrupted.
    pub drain: Duration,
}

/// The longest wait between two claims. It bounds the delay that a missed wake-up can cause.
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
    leases: LeasesInHand,
    /// Cancelled when the worker waits for no settlement any more.
    gave_up: CancellationToken,
    breakers: Arc<Breakers>,
    claim_outage: Outage,
}

impl Worker {
    /// A worker that claims from `queue` the types that `handler` serves.
    pub fn new(queue: Arc<dyn Queue>, handler: Arc<dyn Handler>, settings: WorkerSettings) -> Self {
        let claim_permits = Arc::new(Semaphore::new(settings.concurrency.saturating_add(settings.prefetch)));
        let run_permits = Arc::new(Semaphore::new(settings.concurrency));
        let leases = LeasesInHand::new(settings.lease);
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
            leases,
            gave_up: CancellationToken::new(),
            breakers: Arc::default(),
            claim_outage: Outage::default(),
        }
    }

    /// The leases that the worker has in hand, now and later.
    pub fn leases_in_hand(&self) -> LeasesInHand {
        self.leases.clone()
    }

    /// Claims and handles items until `stop` is cancelled. Then waits for running attempts for at most the drain time,
    /// interrupts the rest, and returns a few seconds later at the latest.
    ///
    /// # Panics
    /// When the task that renews leases has panicked, after it has interrupted all attempts: without renewal another
    /// process would attempt their items too.
    pub async fn run(self, stop: CancellationToken) {
        let leases = self.leases.clone();
        let keeper = Arc::new(LeaseKeeper::new(Arc::clone(&self.queue), leases.clone()));
        // A task of its own, so that a busy claim loop delays no renewal.
        let task = Arc::clone(&keeper);
        let keeping = AbortOnDropHandle::new(tokio::spawn(async move { task.run().await }));
        tokio::select! {
            () = self.claim_until_stopped(stop) => keeper.abandon_at_end().await,
            Err(crash) = keeping => {
                // No task renews the leases any more, nor interrupts the attempts before the leases end.
                leases.book().interrupt_all();
                panic!("the task that keeps leases ended: {crash}");
            }
        }
    }

    async fn claim_until_stopped(self, stop: CancellationToken) {
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
        let capacity = self.capacity_for(&served_types, capacity);
        let served_types: Vec<_> = served_types.into_iter().map(Arc::new).collect();
        if capacity == 0 || served_types.is_empty() {
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
                self.report_lost_claim(&request.tokens(), &err);
                WaitPlan::of(STORE_RETRY_DELAY)
            }
        }
    }

    /// Cancels the long poll, and starts the items that the store has already claimed for it.
    async fn collect_long_poll(&self, plan: WaitPlan) {
        let Some((long_poll, served_types)) = plan.long_poll else { return };
        let tokens = long_poll.tokens().to_vec();
        match long_poll.cancel().await {
            Some(Ok((since, batch))) => self.start(batch.claims, &served_types, since.into()),
            Some(Err(err)) => self.report_lost_claim(&tokens, &err),
            None => {}
        }
    }

    fn report_claim_success(&self) {
        if self.claim_outage.succeeded() {
            tracing::info!("claiming goes on");
        }
    }

    /// The claim may have been committed all the same, with leases of these tokens.
    fn report_lost_claim(&self, tokens: &[ClaimToken], err: &StoreError) {
        // A database that cannot be used as it is has committed nothing.
        if !matches!(err, StoreError::Unusable(_)) {
            self.leases.claim_lost(tokens);
        }
        if self.claim_outage.failed() {
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

    /// How many of `capacity` items of these types to claim now. A worker that serves a type without retries claims
    /// nothing ahead: an item of it whose process dies would lose its only attempt before that began.
    fn capacity_for(&self, served_types: &[ServedType], capacity: u32) -> u32 {
        if served_types.iter().all(|served_type| served_type.retry.max_retries > 0) {
            return capacity;
        }
        let free = self.claim_permits.available_permits().saturating_sub(self.settings.prefetch);
        capacity.min(u32::try_from(free).unwrap_or(u32::MAX))
    }

    fn request(&self, limit: u32, served_types: &[Arc<ServedType>], now: Instant) -> ClaimRequest {
        let terms = |served_type: &Arc<ServedType>| ClaimTerms {
            item_type: served_type.item_type.clone(),
            token: ClaimToken::random(),
            limit: self.breakers.claim_limit(served_type, now),
            lease: self.settings.lease,
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
        let in_hand = self.leases.take(&claims, sent);
        for (claim, in_hand) in claims.into_iter().zip(in_hand) {
            let Some(served_type) = served_types.get(claim.item.item_type.as_str()) else { continue };
            self.breakers.item_claimed(served_type);
            self.prefetch.item_claimed();
            let (task, claim_permit) = (self.attempt_task(served_type, in_hand, sent), self.claim_permit());
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

    fn attempt_task(&self, served_type: &Arc<ServedType>, in_hand: ItemInHand, sent: Instant) -> AttemptTask {
        AttemptTask {
            breakers: Arc::clone(&self.breakers),
            queue: Arc::clone(&self.queue),
            handler: Arc::clone(&self.handler),
            served_type: Arc::clone(served_type),
            in_hand,
            sent,
            gave_up: self.gave_up.clone(),
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
            self.leases.book().interrupt_all();
            if timeout(SETTLE_TIMEOUT, self.tasks.wait()).await.is_err() {
                tracing::error!(in_flight = self.tasks.len(), "gave up on claims that could not be settled");
            }
            self.gave_up.cancel();
        }
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
