//! A receiver that is down for an hour of simulated time while its items keep coming: a worker with the breakers of a
//! host, a queue in memory and two receivers. Everybody can run a few minutes of it; `make soak` runs the hour.
//!
//! The breaker's own rules have tests in `outbox_core`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use outbox::core::{
    Attempt, AttemptReport, Breakers, CrashBudget, Failure, FailureClass, Handler, HostWrites, Outcome, RequestEnd,
    ServedType, Settlement,
};
use outbox::item::{Item, ItemId, Millis, NewItem, Status, millis};
use outbox::store::{
    Alert, Changes, Claim, ClaimBatch, ClaimRef, ClaimRequest, ClaimToken, LeaseState, Queue, Renewal, RenewedLease,
    SettleRequest, StoreError,
};
use outbox::worker::{Worker, WorkerSettings};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::support::stage::Deployment;
use crate::support::{eventually, is_soak, report};

const SOON: Duration = Duration::from_mins(1);

/// How long a receiver takes to answer.
const ANSWER: Duration = Duration::from_millis(50);
/// Items of each type in a second.
const RATE: i64 = 50;
/// Attempts at a time, and those that types below their floors may have in addition.
const CONCURRENCY: usize = 64;
const MOST_ATTEMPTS: usize = 80;

/// Items by type and due time, and what became of them.
#[derive(Default)]
struct Outbox {
    waiting: BTreeMap<String, BTreeMap<(Instant, ItemId), Item>>,
    claimed: HashMap<ItemId, Item>,
    done: HashMap<ItemId, Instant>,
    dead: BTreeSet<ItemId>,
    /// How many attempts at each item counted as failed.
    spent: HashMap<ItemId, u32>,
}

struct MemoryQueue {
    start: Instant,
    outbox: Mutex<Outbox>,
    changes: watch::Sender<u64>,
    alerts: Mutex<Vec<String>>,
}

impl MemoryQueue {
    fn new() -> Arc<Self> {
        let changes = watch::Sender::new(0);
        Arc::new(Self { start: Instant::now(), outbox: Mutex::default(), changes, alerts: Mutex::default() })
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap()
    }

    fn now(&self) -> Millis {
        Millis::new(millis(self.start.elapsed()))
    }

    fn add(&self, item_type: &str, id: i64) {
        let item = NewItem::new(item_type, &id.to_string(), "").into_item(ItemId::new(id), self.now());
        let waiting = &mut self.outbox().waiting;
        waiting.entry(item_type.to_owned()).or_default().insert((Instant::now(), item.id), item);
    }
}

impl Changes for MemoryQueue {
    fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
        let (mut outbox, now, mut batch) = (self.outbox(), Instant::now(), ClaimBatch::default());
        let outbox = &mut *outbox;
        for terms in &request.types {
            let Some(waiting) = outbox.waiting.get_mut(&terms.item_type) else { continue };
            for _ in 0..terms.limit.min(request.limit - u32::try_from(batch.claims.len()).unwrap()) {
                let Some(first) = waiting.first_entry().filter(|first| first.key().0 <= now) else { break };
                let waited = first.remove();
                let (attempts, claimed_at) = (waited.attempts + 1, Some(self.now()));
                let item = Item { status: Status::Claimed, attempts, claimed_at, ..waited };
                outbox.claimed.insert(item.id, item.clone());
                batch.claims.push(Claim { item, token: terms.token });
            }
        }
        let of_types = request.types.iter().filter_map(|terms| outbox.waiting.get(&terms.item_type));
        let due = of_types.filter_map(|waiting| waiting.first_key_value());
        batch.next_available_in = due.map(|((due, _), _)| *due - now).min();
        Ok(batch)
    }

    async fn abandon(&self, _: &[ClaimToken]) -> Result<u32, StoreError> {
        Ok(0)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<RenewedLease>, StoreError> {
        let ids: Vec<_> = self.outbox().claimed.keys().copied().collect();
        let held =
            |renewal: &Renewal| RenewedLease { token: renewal.token, state: LeaseState::Held { ids: ids.clone() } };
        Ok(renewals.iter().map(held).collect())
    }

    async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Result<(), StoreError> {
        let (mut outbox, now) = (self.outbox(), Instant::now());
        let item = outbox.claimed.remove(&claim.id).ok_or(StoreError::ClaimLost)?;
        let (item, delay) = match request.settlement {
            Settlement::Done { .. } => {
                outbox.done.insert(claim.id, now);
                return Ok(());
            }
            Settlement::Dead { .. } => {
                outbox.dead.insert(claim.id);
                return Ok(());
            }
            Settlement::Retry { delay, .. } => {
                *outbox.spent.entry(claim.id).or_default() += 1;
                (Item { give_backs: 0, given_back_since: None, ..item }, delay)
            }
            Settlement::GiveBack { delay, .. } => {
                let given_back_since = item.given_back_since.or(Some(self.now()));
                let (attempts, give_backs) = (item.attempts - 1, item.give_backs + 1);
                (Item { attempts, give_backs, given_back_since, ..item }, delay)
            }
            Settlement::Release => (Item { attempts: item.attempts - 1, ..item }, Duration::ZERO),
        };
        outbox.waiting.entry(item.item_type.clone()).or_default().insert((now + delay, item.id), item);
        Ok(())
    }

    async fn expire_leases_until(&self, _: Millis, _: &[ClaimToken]) -> Result<u32, StoreError> {
        Ok(0)
    }

    async fn send_alert(&self, alert: &Alert) -> Result<(), StoreError> {
        self.alerts.lock().unwrap().push(alert.message.clone());
        Ok(())
    }
}

/// A receiver, and how many requests it has had and has at a time.
#[derive(Default)]
struct TestReceiver {
    is_down: AtomicBool,
    requests: AtomicUsize,
    at_once: AtomicUsize,
    /// The most requests at a time in each interval of the length of an answer, since the receiver is back.
    most_at_once: Mutex<BTreeMap<u128, usize>>,
    back_at: Mutex<Option<Instant>>,
}

impl TestReceiver {
    /// Answers, or refuses at once while it is down.
    async fn answer(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.is_down.load(Ordering::Relaxed) {
            return false;
        }
        let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(back_at) = *self.back_at.lock().unwrap() {
            let interval = back_at.elapsed().as_millis() / ANSWER.as_millis();
            let mut most = self.most_at_once.lock().unwrap();
            let known = most.entry(interval).or_default();
            *known = now.max(*known);
        }
        sleep(ANSWER).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        true
    }
}

/// Sends each item of the type `failing` to one receiver and all others to another one, as the plugin runtime does.
struct Sender {
    breakers: Breakers,
    failing: TestReceiver,
    healthy: TestReceiver,
    changes: watch::Sender<u64>,
}

#[async_trait]
impl Handler for Sender {
    fn served_types(&self) -> Vec<ServedType> {
        ["failing", "healthy"].map(ServedType::new).into()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn handle(&self, attempt: Attempt) -> AttemptReport {
        let is_failing = attempt.item.item_type == "failing";
        let (origin, receiver) =
            if is_failing { ("https://failing", &self.failing) } else { ("https://healthy", &self.healthy) };
        let requests = self.breakers.attempt(&attempt.item);
        let is_answered = requests.may_send(origin, Instant::now()) && {
            let is_answered = receiver.answer().await;
            let refused = || RequestEnd::Failed("connection refused".to_owned());
            requests.ended(origin, if is_answered { RequestEnd::Answered } else { refused() }, Instant::now());
            is_answered
        };
        let outcome = if is_answered {
            Outcome::Done { result: None, writes: HostWrites::default() }
        } else {
            Outcome::Failed(Failure::new(FailureClass::Retryable, "http", "no answer"))
        };
        AttemptReport::without_component(requests.finish(outcome, Instant::now()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_few_attempts_and_no_item_and_its_backlog_is_delivered_soon_after() {
    let outage = if is_soak() { Duration::from_hours(1) } else { Duration::from_mins(3) };
    let (queue, breakers) = (MemoryQueue::new(), Breakers::default());
    let (failing, healthy) = (TestReceiver::default(), TestReceiver::default());
    let sender = Sender { breakers: breakers.clone(), failing, healthy, changes: watch::Sender::new(0) };
    let sender = Arc::new(sender);
    let settings = WorkerSettings {
        instance: "pod-1".into(),
        concurrency: CONCURRENCY,
        prefetch: 256,
        payload_bytes: 64 << 20,
        lease: Duration::from_mins(1),
        drain: Duration::ZERO,
        crash_budget: CrashBudget::default(),
    };
    let worker = Worker::new(Arc::clone(&queue) as _, Arc::clone(&sender) as _, settings).with_breakers(breakers);
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(stop.clone()));

    // Ten seconds before the outage, the outage, and half a minute after it.
    let begins = queue.start + Duration::from_secs(10);
    let ends = begins + outage;
    let last = millis(outage + Duration::from_secs(40)) / 1000 * RATE;
    for number in 0..last {
        sleep_until(
            queue.start + Duration::from_secs(1) * u32::try_from(number).unwrap() / u32::try_from(RATE).unwrap(),
        )
        .await;
        let is_down = (begins..ends).contains(&Instant::now());
        if sender.failing.is_down.swap(is_down, Ordering::Relaxed) && !is_down {
            *sender.failing.back_at.lock().unwrap() = Some(Instant::now());
        }
        queue.add("failing", 2 * number);
        queue.add("healthy", 2 * number + 1);
        queue.changes.send_modify(|count| *count += 1);
    }
    while Instant::now() < ends + Duration::from_mins(10) {
        sleep(Duration::from_secs(1)).await;
    }

    stop.cancel();
    running.await.unwrap();
    let outbox = queue.outbox();
    assert_eq!(outbox.dead, BTreeSet::new());
    assert_eq!(outbox.done.len(), usize::try_from(2 * last).unwrap(), "everything is delivered ten minutes later");
    let spent = outbox.spent.values().sum::<u32>() as usize;
    assert!(outbox.spent.values().all(|attempts| *attempts == 1), "one attempt at most: {:?}", outbox.spent);
    assert!((1..=20 + MOST_ATTEMPTS).contains(&spent), "the first twenty, and those under way: {spent}");
    let enqueued =
        |id: &ItemId| queue.start + Duration::from_millis(u64::try_from(id.get() / 2 * 1000 / RATE).unwrap());
    let waited = |(id, done): (&ItemId, &Instant)| *done - enqueued(id);
    let healthy = outbox.done.iter().filter(|(id, _)| id.get() % 2 == 1).map(waited).max().unwrap();
    assert!(healthy < Duration::from_secs(2), "the other type is not held up: {healthy:?}");
    let delivered = outbox.done.values().max().unwrap().saturating_duration_since(ends);
    ramp_is_slow(&sender.failing);
    let alerts = queue.alerts.lock().unwrap();
    assert!(alerts.len() == 1 && alerts[0].contains("https://failing"), "{alerts:?}");
    report(&format!(
        "outage of {outage:?}: {last} items of each type, {spent} attempts spent, all delivered {delivered:?} after its \
         end; another type waited {healthy:?} at most"
    ));
}

/// Attempts at a time begin at one, and at most double with each round of answers.
fn ramp_is_slow(receiver: &TestReceiver) {
    let most = receiver.most_at_once.lock().unwrap();
    let first = *most.keys().next().expect("it was called again");
    for (interval, at_once) in most.iter() {
        // An attempt can begin late in an interval and end early in the next, so that two roundings add up.
        let rounds = u32::try_from(interval - first + 2).unwrap().min(16);
        assert!(*at_once <= 1 << rounds, "{at_once} at a time {} intervals after the first", interval - first);
    }
    assert!(*most.values().max().unwrap() > CONCURRENCY / 4, "it returns to many at a time: {most:?}");
}

#[tokio::test]
async fn operators_see_an_outage_its_cause_and_how_much_waits_and_no_item_dies() {
    let deployment = Deployment::new().await;
    let host = deployment.plan.clone().set("OUTBOX_BACKOFF_BASE_MS", "60000").start("serve").await;
    deployment.vector.ledger.answer_with(503, None);
    for number in 0..30 {
        let args = ["enqueue", "--type", "webhook", "--key", &format!("k{number}"), "--payload", "{}", "--json"];
        deployment.plan.json(&args);
    }
    let mut stuck = Value::Null;
    eventually("the breaker is shown", SOON, async || {
        stuck = deployment.plan.json(&["stuck", "--json"]);
        stuck[0]["kind"] == "breaker"
    })
    .await;
    assert_eq!((&stuck[0]["type"], &stuck[0]["waiting"]), (&json!("webhook"), &json!(30)));
    assert!(stuck[0]["why"].as_str().unwrap().ends_with("status 503 Service Unavailable"), "{stuck}");
    let groups = deployment.plan.json(&["failures", "--retrying", "--json"]);
    assert!(groups[0]["count"].as_u64().unwrap() >= 20, "{groups}");
    let metrics = String::from_utf8(host.send("GET", "/metrics", &[], "").await.body.to_vec()).unwrap();
    assert!(metrics.contains("outbox_breaker{subject=\"http"), "{metrics}");
    let stats = deployment.plan.json(&["stats", "--json"]);
    assert_eq!((&stats["by_status"]["DLQ"], &stats["by_status"]["PENDING"]), (&json!(0), &json!(30)));
    let log = std::fs::read_to_string(deployment.dir.path().join("host.log")).unwrap();
    let lines = log.matches("attempt failed").count();
    assert!((1..10).contains(&lines), "{lines} lines: {log}");
}
