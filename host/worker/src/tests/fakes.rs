//! A queue in memory whose calls fail when a test says so, and a handler that takes as long as a test says.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use outbox_core::{
    Attempt, AttemptReport, CrashBudget, Failure, FailureClass, Handler, HostWrites, Outcome, RetryPolicy, ServedType,
    Settlement, Span, SpanSink, SuspectRoom, SuspectRun, TraceContext,
};
use outbox_item::{Item, ItemId, Millis, NewItem, Status};
use outbox_store::{
    Alert, Changes, Claim, ClaimBatch, ClaimRef, ClaimRequest, ClaimToken, LeaseState, Queue, Renewal, RenewedLease,
    SettleRequest, StoreError,
};

use crate::leases_in_hand::LeasesInHand;
use crate::{Worker, WorkerSettings};

pub(super) const LEASE: Duration = Duration::from_secs(10);
pub(super) const MARGIN: Duration = Duration::from_secs(2);

/// A call of the queue that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Claim,
    Renew,
    Settle,
    Abandon,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The store does nothing.
    Refused,
    /// Another transaction holds a lock that the store needs, so it does nothing.
    Locked,
    /// The store does what was asked, and the answer is lost.
    AnswerLost,
    /// The store never answers.
    NoAnswer,
    /// The store does what was asked after this time.
    Late(Duration),
    /// The store says after this time that it can never do what was asked.
    LateNever(Duration),
    /// A bug.
    Panic,
}

/// A store of items of one type. Another process ends each lease at the moment when it runs out.
pub(super) struct FakeQueue {
    pub(super) state: Mutex<FakeState>,
    pub(super) changes: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct FakeState {
    pub(super) waiting: Vec<Item>,
    pub(super) leases: HashMap<ClaimToken, FakeLease>,
    pub(super) settlements: Vec<(ItemId, Settlement)>,
    pub(super) lost: BTreeSet<ItemId>,
    pub(super) faults: HashMap<Call, Fault>,
    pub(super) abandoned: u32,
    /// What the worker said of its room for suspects, claim by claim.
    pub(super) rooms: Vec<SuspectRoom>,
    /// The calls that reached the store.
    pub(super) calls: HashMap<Call, usize>,
    /// How many renewals find their leases locked by another transaction.
    pub(super) busy_renewals: usize,
    /// What a look for expired leases was told to spare.
    pub(super) spared: Vec<ClaimToken>,
    /// By when a lease had to have run out for the last look.
    pub(super) expired_by: Option<Millis>,
    /// Leases that have run out. A call ends four of them.
    pub(super) expired_left: u32,
}

impl FakeState {
    fn claim(&mut self, request: &ClaimRequest) -> ClaimBatch {
        let mut batch = ClaimBatch::default();
        self.rooms.push(request.suspects.room);
        let most_losses = self.waiting.iter().map(|item| item.losses).max().filter(|losses| *losses > 0);
        let run = most_losses.map(|most| request.suspects.budget.run(request.suspects.room, most, 8));
        batch.lone_suspect_waits = run == Some(SuspectRun::AwaitIdle);
        let suspects = match run {
            Some(SuspectRun::Beside(most)) => most,
            Some(SuspectRun::Alone) => 1,
            _ => 0,
        };
        self.waiting.sort_by_key(|item| std::cmp::Reverse(item.losses));
        self.take(request, &mut batch, request.suspects.token, suspects, |item| item.losses > 0);
        if run != Some(SuspectRun::Alone) {
            let limit = request.types[0].limit.min(request.limit.saturating_sub(suspects));
            self.take(request, &mut batch, request.types[0].token, limit, |item| item.losses == 0);
        }
        batch
    }

    /// Claims up to `limit` of the items that wait. Of the one ordering key it takes a streak, unless an item of the key
    /// is in a lease.
    fn take(
        &mut self,
        request: &ClaimRequest,
        batch: &mut ClaimBatch,
        token: ClaimToken,
        limit: u32,
        is_meant: impl Fn(&Item) -> bool,
    ) {
        let is_leased = self.leases.values().flat_map(|lease| &lease.items).any(|item| item.ordering_key.is_some());
        let mut free = if is_leased { 0 } else { request.types[0].streak };
        let mut is_free = |item: &Item| {
            let is_keyed = u32::from(item.ordering_key.is_some());
            free.checked_sub(is_keyed).inspect(|left| free = *left).is_some()
        };
        let waiting = self.waiting.extract_if(.., |item| is_meant(item) && is_free(item));
        let items: Vec<_> = waiting.take(limit as usize).map(claimed).collect();
        batch.claims.extend(items.iter().map(|item| Claim { item: item.clone(), token }));
        if !items.is_empty() {
            self.leases.insert(token, FakeLease { end: Instant::now() + request.types[0].lease, items });
        }
    }
}

pub(super) struct FakeLease {
    pub(super) end: Instant,
    pub(super) items: Vec<Item>,
}

impl FakeQueue {
    pub(super) fn with_items(count: i64) -> Arc<Self> {
        let queue = Self { state: Mutex::default(), changes: watch::Sender::new(0) };
        queue.add_items(1..=count);
        Arc::new(queue)
    }

    pub(super) fn add_items(&self, ids: impl Iterator<Item = i64>) {
        let item = |id: i64| NewItem::new("t", &id.to_string(), "").into_item(ItemId::new(id), Millis::default());
        self.state().waiting.extend(ids.map(item));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Adds an item that was in so many leases which ran out.
    pub(super) fn add_suspect(&self, id: i64, losses: u32) {
        self.add_items(id..=id);
        self.state().waiting.last_mut().expect("it waits").losses = losses;
    }

    /// Adds items that share an ordering key.
    pub(super) fn add_line(&self, ids: impl Iterator<Item = i64>) {
        let item = |id: i64| NewItem { ordering_key: Some("k".into()), ..NewItem::new("t", &id.to_string(), "") };
        let items = ids.map(|id| item(id).into_item(ItemId::new(id), Millis::default()));
        self.state().waiting.extend(items);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The state, after the leases that have run out were ended.
    pub(super) fn state(&self) -> MutexGuard<'_, FakeState> {
        let (mut state, now) = (self.state.lock().expect("no panic"), Instant::now());
        let ended: Vec<_> = state.leases.extract_if(|_, lease| lease.end <= now).collect();
        for item in ended.into_iter().flat_map(|(_, lease)| lease.items) {
            state.lost.insert(item.id);
            state.waiting.push(Item { losses: item.losses + 1, ..item });
        }
        state
    }

    pub(super) fn set_fault(&self, call: Call, fault: Fault) {
        self.state().faults.insert(call, fault);
    }

    pub(super) fn heal(&self) {
        self.state().faults.clear();
    }

    pub(super) fn calls(&self, call: Call) -> usize {
        self.state().calls.get(&call).copied().unwrap_or_default()
    }

    /// Runs a call, unless it is to be refused.
    pub(super) async fn call<T>(
        &self,
        call: Call,
        run: impl FnOnce(&mut FakeState) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let fault = self.state().faults.get(&call).copied();
        *self.state().calls.entry(call).or_default() += 1;
        let unavailable = |source: &str| StoreError::Unavailable { tried: "a call", source: source.into() };
        match fault {
            None => run(&mut self.state()),
            Some(Fault::Refused) => Err(unavailable("refused")),
            Some(Fault::Locked) => Err(StoreError::Locked { tried: "a call" }),
            Some(Fault::AnswerLost) => run(&mut self.state()).and_then(|_| Err(unavailable("the answer was lost"))),
            Some(Fault::Late(delay)) => {
                sleep(delay).await;
                run(&mut self.state())
            }
            Some(Fault::LateNever(delay)) => {
                sleep(delay).await;
                Err(StoreError::StateConflict { plugin: "p".into(), key: "k".into() })
            }
            Some(Fault::NoAnswer) => std::future::pending().await,
            Some(Fault::Panic) => panic!("a bug"),
        }
    }

    /// An operator takes an item out of its lease, and with it what follows it in its streak.
    pub(super) fn release_by_force(&self, id: ItemId) {
        for lease in self.state().leases.values_mut() {
            let key = lease.items.iter().find(|item| item.id == id).and_then(|item| item.ordering_key.clone());
            lease.items.retain(|item| item.id != id && (key.is_none() || item.ordering_key != key || item.id < id));
        }
    }

    pub(super) fn settled(&self) -> Vec<ItemId> {
        self.state().settlements.iter().map(|(id, _)| *id).collect()
    }
}

impl Changes for FakeQueue {
    fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[async_trait]
impl Queue for FakeQueue {
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
        self.call(Call::Claim, |state| Ok(state.claim(request))).await
    }

    async fn abandon(&self, tokens: &[ClaimToken]) -> Result<u32, StoreError> {
        self.call(Call::Abandon, |state| {
            let taken: Vec<_> = tokens.iter().filter_map(|token| state.leases.remove(token)).collect();
            let items = taken.into_iter().flat_map(|lease| lease.items).collect::<Vec<_>>();
            let count = u32::try_from(items.len()).expect("a few");
            state.abandoned += count;
            state.waiting.extend(items);
            Ok(count)
        })
        .await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<RenewedLease>, StoreError> {
        self.call(Call::Renew, |state| {
            let is_busy = state.busy_renewals > 0;
            state.busy_renewals = state.busy_renewals.saturating_sub(1);
            let renew = |renewal: &Renewal| match state.leases.get_mut(&renewal.token) {
                None => LeaseState::Gone,
                Some(_) if is_busy => LeaseState::Busy,
                Some(lease) => {
                    lease.end = Instant::now() + renewal.lease;
                    LeaseState::Held { ids: lease.items.iter().map(|item| item.id).collect() }
                }
            };
            let states: Vec<_> = renewals.iter().map(renew).collect();
            Ok(renewals.iter().zip(states).map(|(r, state)| RenewedLease { token: r.token, state }).collect())
        })
        .await
    }

    async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Result<(), StoreError> {
        self.call(Call::Settle, |state| {
            let lease = state.leases.get_mut(&claim.token).ok_or(StoreError::ClaimLost)?;
            let place = lease.items.iter().position(|item| item.id == claim.id).ok_or(StoreError::ClaimLost)?;
            let key = lease.items[place].ordering_key.clone();
            let is_behind = |item: &Item| key.is_some() && item.ordering_key == key;
            if request.settlement != Settlement::Release && lease.items[..place].iter().any(is_behind) {
                return Err(StoreError::OutOfTurn);
            }
            let item = lease.items.remove(place);
            if request.settlement == Settlement::Release {
                state.waiting.push(item);
            }
            if !matches!(request.settlement, Settlement::Done { .. }) {
                let behind = lease.items.extract_if(place.., |item| is_behind(item));
                state.waiting.extend(behind);
            }
            state.settlements.push((claim.id, request.settlement));
            Ok(())
        })
        .await
    }

    async fn expire_leases_until(&self, latest: Millis, spared: &[ClaimToken]) -> Result<u32, StoreError> {
        let mut state = self.state();
        (state.spared, state.expired_by) = (spared.to_vec(), Some(latest));
        let ended = state.expired_left.min(4);
        state.expired_left -= ended;
        Ok(ended)
    }

    async fn send_alert(&self, _: &Alert) -> Result<(), StoreError> {
        Ok(())
    }
}

pub(super) fn claimed(item: Item) -> Item {
    Item { status: Status::Claimed, attempts: 1, claimed_at: Some(Millis::default()), ..item }
}

/// A handler that takes some time, and stops early when it is interrupted.
pub(super) struct SlowHandler {
    pub(super) takes: Mutex<Duration>,
    pub(super) max_retries: u32,
    pub(super) changes: watch::Sender<u64>,
    pub(super) begun: Mutex<Vec<ItemId>>,
    pub(super) interrupted_at: Mutex<HashMap<ItemId, Instant>>,
    /// The item whose attempts fail.
    pub(super) fails_at: Mutex<Option<ItemId>>,
    /// Whether an attempt asks for a follow-up.
    pub(super) writes: AtomicBool,
    /// How many attempts at items with an ordering key run, and how many ran at once at most.
    pub(super) at_once: Mutex<(usize, usize)>,
}

impl SlowHandler {
    pub(super) fn taking(takes: Duration) -> Arc<Self> {
        Self::with_retries(takes, 8)
    }

    pub(super) fn with_retries(takes: Duration, max_retries: u32) -> Arc<Self> {
        let (takes, begun, interrupted_at) = (Mutex::new(takes), Mutex::default(), Mutex::default());
        Arc::new(Self {
            takes,
            max_retries,
            changes: watch::Sender::new(0),
            begun,
            interrupted_at,
            fails_at: Mutex::default(),
            writes: AtomicBool::new(false),
            at_once: Mutex::default(),
        })
    }

    pub(super) fn set_takes(&self, takes: Duration) {
        *self.takes.lock().expect("no panic") = takes;
    }

    pub(super) fn begun(&self) -> Vec<ItemId> {
        self.begun.lock().expect("no panic").clone()
    }

    pub(super) fn interrupted_at(&self, id: ItemId) -> Option<Instant> {
        self.interrupted_at.lock().expect("no panic").get(&id).copied()
    }
}

#[async_trait]
impl Handler for SlowHandler {
    fn served_types(&self) -> Vec<ServedType> {
        let retry = RetryPolicy { max_retries: self.max_retries, ..RetryPolicy::default() };
        vec![ServedType { timeout: Some(Duration::from_hours(1)), retry, ..ServedType::new("t") }]
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn handle(&self, attempt: Attempt) -> AttemptReport {
        self.begun.lock().expect("no panic").push(attempt.item.id);
        let takes = *self.takes.lock().expect("no panic");
        let _running = attempt.item.ordering_key.as_ref().map(|_| Running::begin(&self.at_once));
        let outcome = tokio::select! {
            () = sleep(takes) => self.outcome(&attempt),
            () = attempt.stop.cancelled() => Outcome::Interrupted,
        };
        if outcome == Outcome::Interrupted {
            self.interrupted_at.lock().expect("no panic").insert(attempt.item.id, Instant::now());
        }
        AttemptReport::without_component(outcome)
    }
}

impl SlowHandler {
    fn outcome(&self, attempt: &Attempt) -> Outcome {
        if *self.fails_at.lock().expect("no panic") == Some(attempt.item.id) {
            return Outcome::Failed(Failure::new(FailureClass::Retryable, "c", "it fails"));
        }
        let followups =
            if self.writes.load(Ordering::Relaxed) { vec![NewItem::new("t", "next", "")] } else { Vec::new() };
        Outcome::Done { result: None, writes: HostWrites { followups, ..HostWrites::default() } }
    }

    /// How many attempts at items with an ordering key ran at once at most.
    pub(super) fn most_at_once(&self) -> usize {
        self.at_once.lock().expect("no panic").1
    }
}

/// An attempt that runs at an item with an ordering key.
struct Running<'a>(&'a Mutex<(usize, usize)>);

impl<'a> Running<'a> {
    fn begin(at_once: &'a Mutex<(usize, usize)>) -> Self {
        let mut counts = at_once.lock().expect("no panic");
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        Self(at_once)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().expect("no panic").0 -= 1;
    }
}

/// Keeps every span.
#[derive(Debug, Default)]
pub(super) struct KeptSpans(pub(super) Mutex<Vec<Span>>);

impl SpanSink for KeptSpans {
    fn is_recorded(&self, _: &str, _: Option<&TraceContext>) -> bool {
        true
    }

    fn record(&self, span: Span) {
        self.0.lock().expect("no panic").push(span);
    }
}

/// A worker that runs until it is stopped.
pub(super) struct StartedWorker {
    pub(super) stop: CancellationToken,
    pub(super) task: tokio::task::JoinHandle<()>,
    pub(super) leases: LeasesInHand,
}

impl StartedWorker {
    pub(super) fn start(queue: &Arc<FakeQueue>, handler: &Arc<SlowHandler>) -> Self {
        Self::traced(queue, handler, None)
    }

    /// The same, and reports spans to `spans`.
    pub(super) fn traced(queue: &Arc<FakeQueue>, handler: &Arc<SlowHandler>, spans: Option<Arc<dyn SpanSink>>) -> Self {
        let drain = Duration::ZERO;
        let (instance, crash_budget) = ("pod".into(), CrashBudget::default());
        let (concurrency, prefetch, payload_bytes) = (4, 4, 64 << 20);
        let settings =
            WorkerSettings { instance, concurrency, prefetch, payload_bytes, lease: LEASE, drain, crash_budget };
        let stop = CancellationToken::new();
        let worker = Worker::new(Arc::clone(queue) as _, Arc::clone(handler) as _, settings).with_spans(spans);
        let leases = worker.leases_in_hand();
        Self { task: tokio::spawn(worker.run(stop.clone())), stop, leases }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        timeout(Duration::from_secs(6), self.task).await.expect("a shutdown is bounded").expect("no panic");
    }
}
