//! The claim loop of one process: permits → claim → run → settle → wake.
//!
//! What a claim did not get is *offered* to the store, which may claim it together with what makes it available.
//!
//! A claim takes a permit to be *in hand*, from the claim until it is settled, and one to *run*. There may
//! be more in hand than run: while attempts are short, the next batch is claimed ahead.
//!
//! It promises that no attempt outlives its lease, that what fails is retried, given back or
//! dead-lettered by its type's policy, and that a shutdown gives back what it interrupts. It knows
//! [`Handler`] and [`Store`], and neither WebAssembly nor SQL.

mod attempt;
mod breaker;
mod decide;
mod pace;
mod timing;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::handler::{Handler, Service, Turns};
use crate::store::{Claim, ClaimRequest, Offer, Store, StoreError, TypeClaim};
use attempt::Run;
use breaker::Breakers;
pub use decide::settlement;
use pace::Pace;

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
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// After the store has failed, the next claim waits this long.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// A worker, ready to run.
pub struct Worker {
    store: Arc<dyn Store>,
    handler: Arc<dyn Handler>,
    settings: WorkerSettings,
    in_hand: Arc<Semaphore>,
    running: Arc<Semaphore>,
    pace: Arc<Pace>,
    freed: Arc<Notify>,
    turns: Turns,
    tasks: TaskTracker,
    interrupt: CancellationToken,
    breakers: Arc<Breakers>,
    /// Whether the last claim failed: an outage is told once.
    is_failing: AtomicBool,
}

impl Worker {
    /// A worker that claims from `store` what `handler` serves.
    pub fn new(store: Arc<dyn Store>, handler: Arc<dyn Handler>, settings: WorkerSettings) -> Self {
        let in_hand = Arc::new(Semaphore::new(settings.concurrency.saturating_add(settings.prefetch)));
        let running = Arc::new(Semaphore::new(settings.concurrency));
        Self {
            store,
            handler,
            settings,
            in_hand,
            running,
            pace: Arc::default(),
            freed: Arc::default(),
            turns: Turns::default(),
            tasks: TaskTracker::new(),
            interrupt: CancellationToken::new(),
            breakers: Arc::default(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Claims and handles items until `stop` is cancelled; then drains, interrupts what is left after
    /// the drain time, and returns. Its time is bounded by the drain time and a few seconds.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes = self.store.changes();
        let mut services = self.handler.changes();
        while !stop.is_cancelled() {
            // Mark what has been seen before looking, so that what comes while looking wakes the loop.
            changes.mark_unchanged();
            services.mark_unchanged();
            let mut idle = self.step().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.freed.notified(), if idle.needs_permits() => {}
                _ = changes.changed() => {}
                _ = services.changed() => {}
                () = idle.passes() => {}
            }
            self.resume(idle).await;
            // Others that were settled in the same commit give their permits back now: one claim for all.
            tokio::task::yield_now().await;
        }
        self.drain().await;
    }

    /// Claims once and starts what it got. Returns what to wait for unless something else wakes.
    async fn step(&self) -> Idle {
        let free = self.wanted();
        let services = if free == 0 { Vec::new() } else { self.handler.services() };
        let services: Vec<_> = services.into_iter().map(Arc::new).collect();
        if services.is_empty() {
            return Idle::of(IDLE_MAX);
        }
        // Taken before the claim is sent: the lease cannot begin earlier than this.
        let sent = Instant::now();
        let request = self.request(free, &services, sent);
        match self.store.claim_and_offer(&request).await {
            Ok((claimed, offer)) => {
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("claiming goes on");
                }
                let got_all = claimed.claims.len() == free as usize;
                let wait = if got_all { Duration::ZERO } else { claimed.next_in.unwrap_or(IDLE_MAX).min(IDLE_MAX) };
                self.start(claimed.claims, &services, sent);
                Idle { wait, offer: offer.map(|offer| (offer, services)) }
            }
            Err(err) => {
                self.fail(&err);
                Idle::of(STORE_PAUSE)
            }
        }
    }

    /// Takes back what was offered, and starts what was claimed for it until then.
    async fn resume(&self, idle: Idle) {
        let Some((offer, services)) = idle.offer else { return };
        match offer.withdraw().await {
            Some(Ok((since, claimed))) => self.start(claimed.claims, &services, since.into()),
            Some(Err(err)) => self.fail(&err),
            None => {}
        }
    }

    fn fail(&self, err: &StoreError) {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %err, "claiming failed; trying again until it succeeds");
        }
    }

    /// How many items to claim now: what fits in hand, once less than half of what may wait does.
    fn wanted(&self) -> u32 {
        let free = self.in_hand.available_permits();
        let ahead = self.pace.ahead(self.settings.prefetch, self.settings.concurrency);
        let wanted = free.saturating_sub(self.settings.prefetch - ahead);
        let enough_waits = ahead > 0 && self.pace.waiting() > ahead / 2;
        if enough_waits { 0 } else { u32::try_from(wanted).unwrap_or(u32::MAX) }
    }

    fn request(&self, limit: u32, services: &[Arc<Service>], now: Instant) -> ClaimRequest {
        let terms = |service: &Arc<Service>| TypeClaim {
            item_type: service.item_type.clone(),
            limit: self.breakers.limit(service, now),
            lease: timing::lease(self.settings.lease, service.timeout),
            max_retries: service.retry.max_retries,
            concurrency: service.concurrency,
            rate: service.rate,
            on_dead: service.on_dead,
        };
        let types = services.iter().map(terms).filter(|terms| terms.limit > 0).collect();
        ClaimRequest { claimed_by: self.settings.instance.clone(), limit, types }
    }

    /// `sent` is before all of these leases.
    fn start(&self, claims: Vec<Claim>, services: &[Arc<Service>], sent: Instant) {
        if claims.is_empty() {
            return;
        }
        let services: HashMap<_, _> = services.iter().map(|service| (service.item_type.as_str(), service)).collect();
        for claim in claims {
            let Some(service) = services.get(claim.item.item_type.as_str()) else { continue };
            let Ok(permit) = Arc::clone(&self.in_hand).try_acquire_owned() else {
                unreachable!("this loop is the only one that takes permits, and claims no more than are free")
            };
            self.breakers.claimed(service);
            let run = Run {
                breakers: Arc::clone(&self.breakers),
                store: Arc::clone(&self.store),
                handler: Arc::clone(&self.handler),
                service: Arc::clone(service),
                clock: timing::Clock::new(sent, timing::lease(self.settings.lease, service.timeout), service.timeout),
                interrupt: self.interrupt.clone(),
                turns: self.turns.clone(),
                running: Arc::clone(&self.running),
                pace: Arc::clone(&self.pace),
                freed: Arc::clone(&self.freed),
            };
            let slot = Slot { permit: Some(permit), freed: Arc::clone(&self.freed) };
            self.pace.wait();
            // In a box, since a task is moved several times until it runs and once it has ended.
            self.tasks.spawn(Box::pin(async move {
                let _slot = slot;
                run.attempt(claim).await;
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
            if timeout(SETTLE_MAX, self.tasks.wait()).await.is_err() {
                tracing::error!(in_flight = self.tasks.len(), "gave up on claims that could not be settled");
            }
        }
    }
}

/// A worker that waits.
struct Idle {
    wait: Duration,
    /// With the services that it is an offer of.
    offer: Option<(Offer, Vec<Arc<Service>>)>,
}

impl Idle {
    fn of(wait: Duration) -> Self {
        Self { wait, offer: None }
    }

    /// Whether there may be more to do once an attempt has ended. What an offer stands for could have been claimed with
    /// the permits that there were, unless it depends on other attempts of its type.
    fn needs_permits(&self) -> bool {
        let depends = |service: &Arc<Service>| service.concurrency.is_some() || service.breaker.is_some();
        self.offer.as_ref().is_none_or(|(_, services)| services.iter().any(depends))
    }

    /// Returns when the time is over, or when what was offered has been claimed.
    async fn passes(&mut self) {
        let taken_up = async {
            match &mut self.offer {
                Some((offer, _)) => offer.taken_up().await,
                None => std::future::pending().await,
            }
        };
        drop(timeout(self.wait, taken_up).await);
    }
}

/// A permit whose return wakes the loop.
struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Before the wake-up, so that the loop finds it.
        self.permit.take();
        self.freed.notify_one();
    }
}

/// Ends expired leases once a second, until `stop` is cancelled. Every process that has the store open
/// runs this, so that a lease ends even when nobody claims.
pub async fn maintain(store: Arc<dyn Store>, stop: CancellationToken) {
    let mut failing = false;
    while stop.run_until_cancelled(sleep(IDLE_MAX)).await.is_some() {
        match store.expire().await {
            Ok(0) => failing = false,
            Ok(expired) => tracing::warn!(expired, "ended leases whose attempts were lost"),
            Err(err) if !failing => report_once(&mut failing, &err),
            Err(_) => {}
        }
    }
}

fn report_once(failing: &mut bool, err: &StoreError) {
    *failing = true;
    tracing::error!(error = %err, "ending expired leases failed; trying again each second");
}
