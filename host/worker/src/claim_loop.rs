//! The claim loop of a worker: what it claims and when, and how it ends.
//!
//! It knows neither how an attempt is made, nor how its lease is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use outbox_core::{Breakers, CrashBudget, Handler, KeyLocks, Outage, ServedType, SpanSink, SuspectRoom};
use outbox_store::{Claim, ClaimBatch, ClaimRequest, ClaimTerms, ClaimToken, Queue, StoreError, SuspectTerms};

use crate::attempt::{AttemptContext, AttemptTask};
use crate::claim_shares::{ClaimLimits, ClaimShares};
use crate::lease_keeper::LeaseKeeper;
use crate::leases_in_hand::LeasesInHand;
use crate::prefetch::limits_at_once;
use crate::run_permits::RunPermits;
use crate::streak::Turn;
use crate::suspects::{PATIENCE_MAX, Suspects};
use crate::tally::Tally;
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
    /// In bytes: the worker claims no more while the payloads of the items that it has claimed are this large together.
    pub payload_bytes: u64,
    /// The length of a lease. The worker renews the leases of what it has in hand, so an attempt may be longer.
    pub lease: Duration,
    /// How long running attempts may continue after a shutdown is requested, before they are interrupted.
    pub drain: Duration,
    /// How often the process of an item may end before the store dead-letters it.
    pub crash_budget: CrashBudget,
}

/// The longest wait between two claims. It bounds the delay that a missed wake-up can cause.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// The least time between the last claim and one for types that other types leave nothing to. Short attempts lead to other
/// claims meanwhile.
const FLOOR_CLAIM_INTERVAL: Duration = Duration::from_millis(50);
/// How long a shutdown waits for the settlements of interrupted attempts. An item without one waits for its lease to
/// end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait after a failed claim, so that the worker does not claim in a busy loop while the store is down.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// A worker, ready to run.
pub struct Worker {
    attempts: Arc<AttemptContext>,
    settings: WorkerSettings,
    claim_shares: Arc<ClaimShares>,
    tasks: TaskTracker,
    leases: LeasesInHand,
    suspects: Mutex<Suspects>,
    claim_outage: Outage,
    last_claim: Mutex<Option<Instant>>,
}

impl Worker {
    /// A worker that claims from `queue` the types that `handler` serves.
    pub fn new(queue: Arc<dyn Queue>, handler: Arc<dyn Handler>, settings: WorkerSettings) -> Self {
        let attempts = AttemptContext {
            queue,
            handler,
            gave_up: CancellationToken::new(),
            breakers: Breakers::default(),
            failure_log: Arc::default(),
            host_faults: Arc::default(),
            tally: Tally::default(),
            spans: None,
            key_locks: KeyLocks::default(),
            run_permits: RunPermits::new(settings.concurrency),
            prefetch: Arc::default(),
            permit_freed: Arc::default(),
        };
        Self {
            attempts: Arc::new(attempts),
            claim_shares: ClaimShares::new(settings.concurrency, settings.payload_bytes),
            tasks: TaskTracker::new(),
            leases: LeasesInHand::new(settings.lease),
            suspects: Mutex::new(Suspects::new()),
            claim_outage: Outage::default(),
            last_claim: Mutex::default(),
            settings,
        }
    }

    /// The same worker with the breakers that its handler uses too.
    #[must_use]
    pub fn with_breakers(mut self, breakers: Breakers) -> Self {
        Arc::make_mut(&mut self.attempts).breakers = breakers;
        self
    }

    /// The same worker, which reports the spans of its attempts.
    #[must_use]
    pub fn with_spans(mut self, spans: Option<Arc<dyn SpanSink>>) -> Self {
        Arc::make_mut(&mut self.attempts).spans = spans;
        self
    }

    /// The leases that the worker has in hand, now and later.
    pub fn leases_in_hand(&self) -> LeasesInHand {
        self.leases.clone()
    }

    /// What the worker settles, now and later.
    pub fn tally(&self) -> Tally {
        self.attempts.tally.clone()
    }

    /// Claims and handles items until `stop` is cancelled. Then waits for running attempts for at most the drain time,
    /// interrupts the rest, and returns a few seconds later at the latest.
    ///
    /// # Panics
    /// When the task that renews leases has panicked, after it has interrupted all attempts: without renewal another
    /// process would attempt their items too.
    pub async fn run(self, stop: CancellationToken) {
        let leases = self.leases.clone();
        let keeper = Arc::new(LeaseKeeper::new(Arc::clone(&self.attempts.queue), leases.clone()));
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
        let mut store_changes = self.attempts.queue.subscribe();
        let mut handler_changes = self.attempts.handler.changes();
        while !stop.is_cancelled() {
            // Before the claim, so that a change during the claim wakes the loop.
            store_changes.mark_unchanged();
            handler_changes.mark_unchanged();
            self.attempts.failure_log.write_due(Instant::now());
            let mut plan = self.claim_once().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.attempts.permit_freed.notified(), if plan.needs_permits() => {}
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
        // Read before the claim is sent: no lease begins earlier.
        let sent = Instant::now();
        let host_limit = match self.attempts.host_faults.claim_limit(sent) {
            Ok(limit) => limit,
            Err(pause) => return WaitPlan::of(pause.min(IDLE_MAX)),
        };
        let served_types: Vec<_> = self.attempts.handler.served_types().into_iter().map(Arc::new).collect();
        self.attempts.run_permits.serve(served_types.len());
        let most = self.most_in_hand();
        if let Some(wait) = self.wait_for_floors(most, sent) {
            return WaitPlan::of(wait);
        }
        let limits = self.claim_shares.limits(&served_types, most);
        let longest = self.longest_claim(&served_types);
        let Some(room) = self.suspects().room(self.is_idle(), longest, sent) else {
            return WaitPlan::of(IDLE_MAX);
        };
        let limits = ClaimLimits { total: limits.total.min(host_limit), ..limits };
        let request = self.request(&limits, &served_types, room, sent);
        if request.types.is_empty() || request.limit == 0 {
            return WaitPlan::of(IDLE_MAX);
        }
        *self.last_claim() = Some(sent);
        match self.attempts.queue.claim_long_poll(&request).await {
            Ok((batch, long_poll)) => {
                self.report_claim_success();
                let got_all = reaches_a_limit(&request, &batch);
                let wait =
                    if got_all { Duration::ZERO } else { batch.next_available_in.unwrap_or(IDLE_MAX).min(IDLE_MAX) };
                self.start(batch, &served_types, room, sent);
                let leaves_out = request.types.len() < served_types.len();
                let long_poll = long_poll.map(|long_poll| (long_poll, served_types));
                WaitPlan { wait, long_poll, leaves_out, has_suspects: self.suspects().are_in_flight() }
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
        let (tokens, room) = (long_poll.tokens().to_vec(), long_poll.room());
        match long_poll.cancel().await {
            Some(Ok((since, batch))) => self.start(batch, &served_types, room, since.into()),
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

    /// The most items in hand: one for each attempt, and those that are claimed ahead. No more are claimed while more
    /// than half of these still wait.
    fn most_in_hand(&self) -> usize {
        let ahead = self.attempts.prefetch.allowance(self.settings.prefetch, self.settings.concurrency);
        let enough_waits = ahead > 0 && self.attempts.prefetch.waiting() > ahead / 2;
        if enough_waits { 0 } else { self.settings.concurrency + ahead }
    }

    /// How long to wait before a claim that is only for types below their floors: each attempt that ends would cause one.
    fn wait_for_floors(&self, most: usize, now: Instant) -> Option<Duration> {
        let next = (*self.last_claim())? + FLOOR_CLAIM_INTERVAL;
        (most == 0 && now < next).then(|| next - now)
    }

    fn last_claim(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last_claim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many attempts could begin at once: items that wait for a run permit come before new ones.
    fn free_runs(&self) -> u32 {
        let free = self.settings.concurrency.saturating_sub(self.claim_shares.in_hand());
        u32::try_from(free).unwrap_or(u32::MAX)
    }

    fn is_idle(&self) -> bool {
        self.claim_shares.in_hand() == 0
    }

    /// The longest time from a claim to its settlement: an attempt that lasts longer is one that the host cannot stop.
    fn longest_claim(&self, served_types: &[Arc<ServedType>]) -> Duration {
        let times = self.leases.times();
        let attempts = served_types.iter().map(|served_type| times.attempt_time(served_type.timeout));
        attempts.max().unwrap_or_default().saturating_add(times.lease())
    }

    fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(
        &self,
        limits: &ClaimLimits,
        served_types: &[Arc<ServedType>],
        room: SuspectRoom,
        now: Instant,
    ) -> ClaimRequest {
        let at_once = limits_at_once(served_types, self.free_runs());
        let at_once = at_once.into_iter().zip(&limits.at_once).map(|(shared, own)| shared.max(*own));
        let most = at_once.zip(&limits.of_types).map(|(at_once, limit)| at_once.min(*limit));
        let terms = |(served_type, most): (&Arc<ServedType>, u32)| ClaimTerms {
            item_type: served_type.item_type.clone(),
            token: ClaimToken::random(),
            limit: self
                .attempts
                .breakers
                .claim_limit(served_type, self.claim_shares.of_type(&served_type.item_type), now)
                .min(most),
            lease: self.settings.lease,
            max_retries: served_type.retry.max_retries,
            concurrency: served_type.concurrency,
            rate: served_type.rate,
            per_key: served_type.per_key,
            streak: self.streak(served_type),
            on_dead: served_type.on_dead,
        };
        let types = served_types.iter().zip(most).map(terms).filter(|terms| terms.limit > 0).collect();
        let suspects = SuspectTerms::new(room, self.settings.crash_budget);
        ClaimRequest { claimed_by: self.settings.instance.clone(), limit: limits.total, types, suspects }
    }

    /// How many items of one ordering key to claim together. All but the first are claimed ahead: not while attempts are
    /// long, and not for a type without retries, whose items would lose their only attempt with the process.
    fn streak(&self, served_type: &ServedType) -> u32 {
        let may_wait = self.settings.prefetch > 0 && served_type.retry.max_retries > 0;
        if may_wait { served_type.streak.min(self.attempts.prefetch.in_sequence()) } else { 1 }
    }

    /// Starts a task for each claim. `sent` is the moment before the claims were requested, with this room.
    fn start(&self, batch: ClaimBatch, served_types: &[Arc<ServedType>], room: SuspectRoom, sent: Instant) {
        self.suspects().claimed(room, &batch, Instant::now(), PATIENCE_MAX.mul_f64(fastrand::f64()));
        let mut claims = batch.claims;
        if claims.is_empty() {
            return;
        }
        let served_types: HashMap<_, _> =
            served_types.iter().map(|served_type| (served_type.item_type.as_str(), served_type)).collect();
        if served_types.values().any(|served_type| served_type.retry.max_retries == 0) {
            // Those without retries first, so that none of them waits for the attempt of another.
            let max_retries =
                |claim: &Claim| served_types.get(claim.item.item_type.as_str()).map(|it| it.retry.max_retries);
            claims.sort_by_key(|claim| max_retries(claim) != Some(0));
        }
        self.claim_shares.claimed(&claims);
        let (in_hand, turns) = (self.leases.take(&claims, sent), Turn::of_claims(&claims));
        for ((claim, in_hand), turn) in claims.into_iter().zip(in_hand).zip(turns) {
            let Some(served_type) = served_types.get(claim.item.item_type.as_str()) else { continue };
            self.attempts.breakers.item_claimed(served_type);
            self.attempts.host_faults.item_claimed(sent);
            self.attempts.prefetch.item_claimed();
            let context = Arc::clone(&self.attempts);
            let task = AttemptTask { context, served_type: Arc::clone(served_type), in_hand, turn, sent };
            let claim_permit = self.claim_shares.take(served_type, &claim, &self.attempts.permit_freed);
            let suspect = self.suspects().begin(&claim);
            let (reference, item) = (claim.reference(), Arc::new(claim.item));
            // Boxed, because tokio moves a task several times before it runs and once after it has ended.
            self.tasks.spawn(Box::pin(async move {
                // Freed in the reverse order: the loop wakes when the suspect is no longer in flight.
                let (_claim_permit, _suspect) = (claim_permit, suspect);
                task.attempt(reference, item).await;
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
            self.leases.book().interrupt_all();
            if timeout(SETTLE_TIMEOUT, self.tasks.wait()).await.is_err() {
                tracing::error!(in_flight = self.tasks.len(), "gave up on claims that could not be settled");
            }
            self.attempts.gave_up.cancel();
        }
    }
}

/// Whether a claim got all that it asked for, in all or of one type: then there may be more at once.
fn reaches_a_limit(request: &ClaimRequest, batch: &ClaimBatch) -> bool {
    let claimed =
        |terms: &ClaimTerms| batch.claims.iter().filter(|claim| claim.item.item_type == terms.item_type).count();
    batch.claims.len() >= request.limit as usize
        || request.types.iter().any(|terms| claimed(terms) >= terms.limit as usize)
}
