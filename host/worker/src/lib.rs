//! The claim loop of one process: permits → claim → run → settle → wake.
//!
//! What a claim did not get stays at the store as a *long poll*, which may claim it together with what makes it
//! available.
//!
//! An item holds a *claim permit*, from the claim until it is settled, and a *run permit* while its attempt runs. There
//! are more of the first than of the second: while attempts are short, the next batch is claimed ahead.
//!
//! It promises that no attempt outlives its lease, that what fails is retried, given back or
//! dead-lettered by its type's policy, and that a shutdown gives back what it interrupts. It knows
//! [`Handler`] and [`Store`], and neither WebAssembly nor SQL.

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

use crate::attempt::AttemptTask;
use crate::breaker::Breakers;
use crate::prefetch::Prefetch;
use outbox_core::{Handler, KeyLocks, ServedType};
use outbox_store::{Claim, ClaimRequest, ClaimTerms, LongPoll, Store, StoreError};

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The instance id of this process, unique per boot.
    pub instance: String,
    /// Attempts in flight at a time.
    pub concurrency: usize,
    /// At most so many items are claimed ahead of the attempts in flight; 0 claims none ahead.
    pub prefetch: usize,
    /// The lease of a claim, unless its type's timeout needs a longer one.
    pub lease: Duration,
    /// How long attempts may go on after a shutdown was asked for, before they are interrupted.
    pub drain: Duration,
}

/// The loop looks for work at least this often, whatever wake-ups it may have missed.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// Interrupted attempts have this long to be given back to the store.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// After the store has failed, the next claim waits this long.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// A worker, ready to run.
pub struct Worker {
    store: Arc<dyn Store>,
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
    /// Whether the last claim failed: an outage is logged once.
    is_failing: AtomicBool,
}

impl Worker {
    /// A worker that claims from `store` what `handler` serves.
    pub fn new(store: Arc<dyn Store>, handler: Arc<dyn Handler>, settings: WorkerSettings) -> Self {
        let claim_permits = Arc::new(Semaphore::new(settings.concurrency.saturating_add(settings.prefetch)));
        let run_permits = Arc::new(Semaphore::new(settings.concurrency));
        Self {
            store,
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

    /// Claims and handles items until `stop` is cancelled; then drains, interrupts what is left after
    /// the drain time, and returns. Its time is bounded by the drain time and a few seconds.
    pub async fn run(self, stop: CancellationToken) {
        let mut store_changes = self.store.subscribe();
        let mut handler_changes = self.handler.changes();
        while !stop.is_cancelled() {
            // Mark what has been seen before looking, so that what comes while looking wakes the loop.
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
            // Others that were settled in the same commit give their permits back now: one claim for all.
            tokio::task::yield_now().await;
        }
        self.drain().await;
    }

    /// Claims once and starts what it got. Returns what to wait for unless something else wakes.
    async fn claim_once(&self) -> WaitPlan {
        let capacity = self.claim_capacity();
        let served_types = if capacity == 0 { Vec::new() } else { self.handler.served_types() };
        let served_types: Vec<_> = served_types.into_iter().map(Arc::new).collect();
        if served_types.is_empty() {
            return WaitPlan::of(IDLE_MAX);
        }
        // Taken before the claim is sent: the lease cannot begin earlier than this.
        let sent = Instant::now();
        let request = self.request(capacity, &served_types, sent);
        match self.store.claim_long_poll(&request).await {
            Ok((batch, long_poll)) => {
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("claiming goes on");
                }
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

    /// Cancels the long poll, and starts what was claimed for it until then.
    async fn collect_long_poll(&self, plan: WaitPlan) {
        let Some((long_poll, served_types)) = plan.long_poll else { return };
        match long_poll.cancel().await {
            Some(Ok((since, batch))) => self.start(batch.claims, &served_types, since.into()),
            Some(Err(err)) => self.report_claim_error(&err),
            None => {}
        }
    }

    fn report_claim_error(&self, err: &StoreError) {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %err, "claiming failed; trying again until it succeeds");
        }
    }

    /// How many items to claim now: one for each free claim permit, once less than half of what may wait does.
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
            lease: claim_deadline::lease_for(self.settings.lease, served_type.timeout),
            max_retries: served_type.retry.max_retries,
            concurrency: served_type.concurrency,
            rate: served_type.rate,
            on_dead: served_type.on_dead,
        };
        let types = served_types.iter().map(terms).filter(|terms| terms.limit > 0).collect();
        ClaimRequest { claimed_by: self.settings.instance.clone(), limit, types }
    }

    /// `sent` is before all of these leases.
    fn start(&self, claims: Vec<Claim>, served_types: &[Arc<ServedType>], sent: Instant) {
        if claims.is_empty() {
            return;
        }
        let served_types: HashMap<_, _> =
            served_types.iter().map(|served_type| (served_type.item_type.as_str(), served_type)).collect();
        for claim in claims {
            let Some(served_type) = served_types.get(claim.item.item_type.as_str()) else { continue };
            let Ok(permit) = Arc::clone(&self.claim_permits).try_acquire_owned() else {
                unreachable!("this loop is the only one that takes permits, and claims no more than are free")
            };
            self.breakers.item_claimed(served_type);
            let task = AttemptTask {
                breakers: Arc::clone(&self.breakers),
                store: Arc::clone(&self.store),
                handler: Arc::clone(&self.handler),
                served_type: Arc::clone(served_type),
                claim_deadline: claim_deadline::ClaimDeadline::new(
                    sent,
                    claim_deadline::lease_for(self.settings.lease, served_type.timeout),
                    served_type.timeout,
                ),
                interrupt: self.interrupt.clone(),
                key_locks: self.key_locks.clone(),
                run_permits: Arc::clone(&self.run_permits),
                prefetch: Arc::clone(&self.prefetch),
                permit_freed: Arc::clone(&self.permit_freed),
            };
            let claim_permit = ClaimPermit { permit: Some(permit), permit_freed: Arc::clone(&self.permit_freed) };
            self.prefetch.item_claimed();
            // In a box, since a task is moved several times until it runs and once it has ended.
            self.tasks.spawn(Box::pin(async move {
                let _claim_permit = claim_permit;
                task.attempt(claim).await;
            }));
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

/// A worker that waits.
struct WaitPlan {
    wait: Duration,
    /// With the served types that it asks for.
    long_poll: Option<(LongPoll, Vec<Arc<ServedType>>)>,
}

impl WaitPlan {
    fn of(wait: Duration) -> Self {
        Self { wait, long_poll: None }
    }

    /// Whether there may be more to do once an attempt has ended. What a long poll asks for could have been claimed
    /// with the permits that there were, unless it depends on other attempts of its type.
    fn needs_permits(&self) -> bool {
        let depends =
            |served_type: &Arc<ServedType>| served_type.concurrency.is_some() || served_type.breaker.is_some();
        self.long_poll.as_ref().is_none_or(|(_, served_types)| served_types.iter().any(depends))
    }

    /// Returns when the time is over, or when the long poll has been fulfilled.
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

/// A permit whose return wakes the loop.
struct ClaimPermit {
    permit: Option<OwnedSemaphorePermit>,
    permit_freed: Arc<Notify>,
}

impl Drop for ClaimPermit {
    fn drop(&mut self) {
        // Before the wake-up, so that the loop finds it.
        self.permit.take();
        self.permit_freed.notify_one();
    }
}

/// Ends expired leases once a second, until `stop` is cancelled. Every process that has the store open
/// runs this, so that a lease ends even when nobody claims.
pub async fn expire_leases(store: Arc<dyn Store>, stop: CancellationToken) {
    let mut is_failing = false;
    while stop.run_until_cancelled(sleep(IDLE_MAX)).await.is_some() {
        match store.expire_leases().await {
            Ok(0) => is_failing = false,
            Ok(expired) => tracing::warn!(expired, "ended leases whose attempts were lost"),
            Err(err) if !is_failing => report_once(&mut is_failing, &err),
            Err(_) => {}
        }
    }
}

fn report_once(is_failing: &mut bool, err: &StoreError) {
    *is_failing = true;
    tracing::error!(error = %err, "ending expired leases failed; trying again each second");
}
