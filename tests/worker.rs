//! The claim loop of the worker, tested with a scripted handler on a real store.

mod leases;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outbox::core::{
    Attempt, AttemptReport, BreakerPolicy, CrashBudget, Failure, FailureClass, Handler, HostWrites, KeyLimits, OnDead,
    Outcome, RetryPolicy, ServedType, StateChange, StateKeyChange,
};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{Filter, Page};
use outbox::worker::{Worker, WorkerSettings};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::support::{Fixture, eventually, item};

const SOON: Duration = Duration::from_secs(20);

type Script = dyn Fn(Attempt) -> futures_util::future::BoxFuture<'static, Outcome> + Send + Sync;

/// A handler whose outcomes the test defines.
pub(crate) struct Scripted {
    served_types: Mutex<Vec<ServedType>>,
    changes: watch::Sender<u64>,
    script: Box<Script>,
}

impl Scripted {
    pub(crate) fn new<F, Fut>(script: F) -> Arc<Self>
    where
        F: Fn(Attempt) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let script = Box::new(move |attempt| Box::pin(script(attempt)) as _);
        Arc::new(Self { served_types: Mutex::new(vec![served_type()]), changes: watch::Sender::new(0), script })
    }

    pub(crate) fn serve(&self, served_types: Vec<ServedType>) {
        *self.served_types.lock().unwrap() = served_types;
        self.changes.send_modify(|n| *n += 1);
    }
}

#[async_trait]
impl Handler for Scripted {
    fn served_types(&self) -> Vec<ServedType> {
        self.served_types.lock().unwrap().clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn handle(&self, attempt: Attempt) -> AttemptReport {
        AttemptReport::without_component((self.script)(attempt).await)
    }
}

pub(crate) fn served_type() -> ServedType {
    let retry = RetryPolicy { max_retries: 2, base: Duration::from_millis(1), cap: Duration::from_millis(2) };
    ServedType {
        item_type: "mail".into(),
        timeout: None,
        retry,
        concurrency: None,
        rate: None,
        per_key: KeyLimits::default(),
        on_dead: OnDead::Block,
        streak: 1,
        breaker: None,
    }
}

pub(crate) fn done() -> Outcome {
    Outcome::Done { result: None, writes: HostWrites::default() }
}

pub(crate) fn failed(class: FailureClass) -> Outcome {
    Outcome::Failed(Failure::new(class, "scripted", "scripted"))
}

fn settings(lease: Duration, drain: Duration) -> WorkerSettings {
    WorkerSettings {
        instance: "pod-1".into(),
        concurrency: 4,
        prefetch: 4,
        payload_bytes: 64 << 20,
        lease,
        drain,
        crash_budget: CrashBudget::default(),
    }
}

/// A worker that runs until the test stops it.
pub(crate) struct Running {
    stop: CancellationToken,
    worker: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(f: &Fixture, handler: &Arc<Scripted>, drain: Duration) -> Self {
        let stop = CancellationToken::new();
        let settings = settings(Duration::from_mins(1), drain);
        let worker = Worker::new(f.store.clone(), Arc::clone(handler) as _, settings);
        Self { stop: stop.clone(), worker: tokio::spawn(worker.run(stop)) }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.worker).await.expect("a shutdown is bounded").unwrap();
    }
}

pub(crate) async fn becomes(f: &Fixture, id: ItemId, status: Status) {
    eventually(&format!("item {id} is {status}"), SOON, async || {
        // The test's clock does not move by itself, and retries wait for it.
        f.clock.advance(Duration::from_millis(5));
        f.status(id).await == status
    })
    .await;
}

#[tokio::test]
async fn items_are_handled_whether_they_were_there_before_or_come_later() {
    let f = Fixture::sqlite().await;
    let before = f.enqueue(item("before")).await;
    let worker = Running::start(&f, &Scripted::new(async |_| done()), SOON);
    becomes(&f, before, Status::Done).await;
    let later = f.enqueue(item("later")).await;
    becomes(&f, later, Status::Done).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_type_whose_attempts_do_not_end_leaves_attempts_to_another() {
    let f = Fixture::sqlite().await;
    let handler = Scripted::new(async |attempt: Attempt| {
        if attempt.item.item_type == "mail" {
            attempt.stop.cancelled().await;
            return Outcome::Interrupted;
        }
        done()
    });
    handler.serve(vec![served_type(), ServedType { item_type: "quick".into(), ..served_type() }]);
    for n in 0..20 {
        f.enqueue(item(&format!("slow-{n}"))).await;
    }
    let worker = Running::start(&f, &handler, Duration::ZERO);
    let claimed = || f.sql("SELECT count(*) FROM outbox_status WHERE status = 'CLAIMED'").unwrap();
    eventually("the slow type has every attempt", SOON, async || claimed().trim() == "4").await;
    for n in 0..8 {
        let quick = f.enqueue(NewItem::new("quick", &format!("quick-{n}"), "{}")).await;
        becomes(&f, quick, Status::Done).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_failing_item_is_retried_then_dead_lettered_and_others_go_on() {
    let f = Fixture::sqlite().await;
    let script = async |attempt: Attempt| match attempt.item.idem_key.as_str() {
        "poison" => failed(FailureClass::Retryable),
        "panic" => panic!("scripted panic"),
        "reject" => failed(FailureClass::Permanent),
        _ => done(),
    };
    let poison = f.enqueue(item("poison")).await;
    let panic = f.enqueue(item("panic")).await;
    let reject = f.enqueue(item("reject")).await;
    let good = f.enqueue(item("good")).await;
    let worker = Running::start(&f, &Scripted::new(script), SOON);
    becomes(&f, good, Status::Done).await;
    for (id, attempts, class) in
        [(poison, 3, FailureClass::Retryable), (panic, 3, FailureClass::Trap), (reject, 1, FailureClass::Permanent)]
    {
        becomes(&f, id, Status::Dlq).await;
        let history = f.store.get(id).await.unwrap().unwrap().failed_attempts;
        assert_eq!(history.iter().map(|row| row.class).collect::<Vec<_>>(), vec![class; attempts]);
    }
    worker.stop().await;
}

/// A success that writes one key of the state. `read_version` is the version that the attempt read before.
fn counted(read_version: Option<i64>, state_quota: u64) -> Outcome {
    let state = vec![StateKeyChange { key: "n".into(), read_version, change: StateChange::Put(b"1".into()) }];
    let writes = HostWrites { plugin: "p".into(), state, state_quota, followups: Vec::new(), ..HostWrites::default() };
    Outcome::Done { result: None, writes }
}

#[tokio::test]
async fn faults_that_are_not_the_items_are_given_back_with_a_trace_until_it_succeeds() {
    let f = Fixture::sqlite().await;
    let outcomes = |delivery| match delivery {
        1..=3 => failed(FailureClass::Host),
        4..=5 => failed(FailureClass::Plugin),
        // The store refuses this attempt, because no attempt has written this version.
        6 => counted(Some(99), 1024),
        _ => counted(None, 1024),
    };
    let id = f.enqueue(item("k")).await;
    let handler = Scripted::new(move |attempt: Attempt| async move { outcomes(attempt.item.deliveries) });
    let worker = Running::start(&f, &handler, SOON);
    becomes(&f, id, Status::Done).await;
    let shown = f.store.get(id).await.unwrap().unwrap();
    assert_eq!((shown.item.attempts, shown.item.deliveries), (1, 7), "none of them counts");
    let classes: Vec<_> = shown.failed_attempts.iter().map(|row| row.class).collect();
    assert_eq!(classes, [FailureClass::Host, FailureClass::Plugin, FailureClass::Conflict], "equal ones share a row");
    assert!(shown.failed_attempts.iter().all(|row| row.attempt == 1));
    worker.stop().await;
}

#[tokio::test]
async fn what_can_never_be_committed_fails_the_attempt_and_is_not_tried_until_the_lease_ends() {
    let f = Fixture::sqlite().await;
    let large = f.enqueue(item("large")).await;
    let invalid = f.enqueue(item("invalid")).await;
    let handler = Scripted::new(async |attempt: Attempt| {
        if attempt.item.idem_key == "large" {
            return counted(None, 1);
        }
        let followups = vec![NewItem::new("No Type", "k", "{}")];
        Outcome::Done { result: None, writes: HostWrites { followups, ..HostWrites::default() } }
    });
    let worker = Running::start(&f, &handler, SOON);
    for (id, words) in [(large, "`limits.state_bytes` is 1"), (invalid, "No Type")] {
        becomes(&f, id, Status::Dlq).await;
        let history = f.store.get(id).await.unwrap().unwrap().failed_attempts;
        assert_eq!(history.iter().map(|row| row.class).collect::<Vec<_>>(), [FailureClass::Contract; 3]);
        assert!(history[0].message.contains(words), "{}", history[0].message);
    }
    worker.stop().await;
}

#[tokio::test]
async fn no_more_attempts_run_than_there_are_permits() {
    let f = Fixture::sqlite().await;
    for n in 0..10 {
        f.enqueue(item(&n.to_string())).await;
    }
    let (started, mut starts) = mpsc::unbounded_channel();
    let (release, gate) = watch::channel(false);
    let worker = Running::start(
        &f,
        &Scripted::new(move |_| {
            let (started, mut gate) = (started.clone(), gate.clone());
            async move {
                started.send(()).unwrap();
                gate.wait_for(|open| *open).await.unwrap();
                done()
            }
        }),
        SOON,
    );
    for _ in 0..4 {
        starts.recv().await.unwrap();
    }
    assert_eq!(f.store.overview().await.unwrap().by_status["CLAIMED"], 4);
    assert!(starts.try_recv().is_err());
    release.send(true).unwrap();
    eventually("all are done", SOON, async || f.store.overview().await.unwrap().by_status["DONE"] == 10).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_type_that_nobody_serves_waits_and_is_handled_as_soon_as_somebody_does() {
    let f = Fixture::sqlite().await;
    let id = f.enqueue(item("k")).await;
    let handler = Scripted::new(async |_| done());
    handler.serve(Vec::new());
    let worker = Running::start(&f, &handler, SOON);
    tokio::task::yield_now().await;
    assert_eq!(f.status(id).await, Status::Pending);
    handler.serve(vec![served_type()]);
    becomes(&f, id, Status::Done).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_attempts_in_flight() {
    let f = Fixture::sqlite().await;
    let id = f.enqueue(item("k")).await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let handler = Scripted::new(move |_| {
        let started = started.clone();
        async move {
            started.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            done()
        }
    });
    let worker = Running::start(&f, &handler, SOON);
    starts.recv().await.unwrap();
    worker.stop().await;
    assert_eq!(f.status(id).await, Status::Done);
}

#[tokio::test]
async fn a_shutdown_gives_back_what_does_not_end_in_time() {
    let f = Fixture::sqlite().await;
    let polite = f.enqueue(item("polite")).await;
    let deaf = f.enqueue(item("deaf")).await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let handler = Scripted::new(move |attempt: Attempt| {
        let started = started.clone();
        async move {
            started.send(()).unwrap();
            if attempt.item.idem_key == "polite" {
                attempt.stop.cancelled().await;
                return Outcome::Interrupted;
            }
            std::future::pending().await
        }
    });
    let worker = Running::start(&f, &handler, Duration::ZERO);
    starts.recv().await.unwrap();
    starts.recv().await.unwrap();
    worker.stop().await;
    for (id, maybe_executed) in [(polite, false), (deaf, true)] {
        let shown = f.store.get(id).await.unwrap().unwrap();
        assert_eq!((shown.item.status, shown.item.attempts), (Status::Pending, 0));
        assert_eq!(shown.item.maybe_executed, maybe_executed);
        assert!(shown.failed_attempts.is_empty());
    }
}

#[tokio::test]
async fn without_a_timeout_the_deadline_lies_before_the_end_of_the_first_lease() {
    let f = Fixture::sqlite().await;
    f.enqueue(item("k")).await;
    let (seen, mut attempts) = mpsc::unbounded_channel();
    let handler = Scripted::new(move |attempt: Attempt| {
        seen.send((attempt.deadline_at, attempt.item.lease_until.unwrap())).unwrap();
        async { done() }
    });
    let worker = Running::start(&f, &handler, SOON);
    let (deadline_at, lease_until) = attempts.recv().await.unwrap();
    assert!(deadline_at < lease_until, "{deadline_at} {lease_until}");
    // The margin of five seconds, less the time between the claim and the attempt.
    assert!(lease_until.since(deadline_at) <= Duration::from_secs(5));
    worker.stop().await;
}

#[tokio::test]
async fn an_open_breaker_stops_claiming_its_type_only_and_tells_operators() {
    let f = Fixture::sqlite().await.with_alerts("alert").await;
    let breaker = Some(BreakerPolicy { failures: 3, pause: Duration::from_hours(1) });
    let retry = RetryPolicy { max_retries: 99, ..served_type().retry };
    let handler = Scripted::new(async |attempt: Attempt| match attempt.item.item_type.as_str() {
        "mail" => failed(FailureClass::Retryable),
        _ => done(),
    });
    handler.serve(vec![
        ServedType { breaker, retry, concurrency: Some(1), ..served_type() },
        ServedType { item_type: "sms".into(), ..served_type() },
    ]);
    let failing = f.enqueue(item("k")).await;
    let worker = Running::start(&f, &handler, SOON);
    eventually("the breaker is open", SOON, async || {
        f.clock.advance(Duration::from_millis(5));
        !f.store.list(&of_type("alert"), &ALL).await.unwrap().items.is_empty()
    })
    .await;
    let other = f.enqueue(NewItem::new("sms", "s", "{}")).await;
    becomes(&f, other, Status::Done).await;
    let left = f.item(failing).await;
    assert_eq!((left.status, left.attempts), (Status::Pending, 3));
    let alert = crate::support::listed(&*f.store, &of_type("alert"), 1).await.remove(0);
    let about: serde_json::Value = serde_json::from_slice(&alert.payload).unwrap();
    assert_eq!((&about["alert"], &about["type"]), (&"breaker_open".into(), &"mail".into()));
    worker.stop().await;
}

const ALL: Page = Page { limit: 10, before: None };

fn of_type(item_type: &str) -> Filter {
    Filter { r#type: Some(item_type.into()), ..Filter::default() }
}

/// Starts a worker, lets it handle the existing items, then enqueues items whose attempts never end, and waits until
/// `expected` of these are claimed.
async fn claim_long_ones(f: &Fixture, expected: usize) -> Running {
    let (began, mut running) = mpsc::unbounded_channel();
    let script = move |attempt: Attempt| {
        let began = began.clone();
        async move {
            if attempt.item.idem_key.starts_with("short") {
                return done();
            }
            began.send(()).unwrap();
            attempt.stop.cancelled().await;
            Outcome::Interrupted
        }
    };
    let worker = Running::start(f, &Scripted::new(script), Duration::ZERO);
    eventually("the short ones are done", SOON, async || {
        count(f, Status::Pending).await + count(f, Status::Claimed).await == 0
    })
    .await;
    let long = (0..20).map(|n| item(&format!("long {n}"))).collect();
    f.store.enqueue(long, outbox::store::BatchMode::PerItem).await.unwrap();
    for _ in 0..4 {
        tokio::time::timeout(SOON, running.recv()).await.expect("four run").unwrap();
    }
    eventually("as many are claimed as expected", SOON, async || count(f, Status::Claimed).await == expected).await;
    assert!(running.try_recv().is_err(), "no more than four run");
    worker
}

async fn count(f: &Fixture, status: Status) -> usize {
    let filter = Filter { status: vec![status], ..Filter::default() };
    f.store.list(&filter, &Page { limit: 100, before: None }).await.unwrap().items.len()
}

#[tokio::test]
async fn items_are_claimed_ahead_of_attempts_that_were_short_and_are_given_back_at_a_shutdown() {
    let f = Fixture::sqlite().await;
    for n in 0..40 {
        f.enqueue(item(&format!("short {n}"))).await;
    }
    claim_long_ones(&f, 8).await.stop().await;
    assert_eq!(count(&f, Status::Pending).await, 20);
    let items = crate::support::all(&*f.store).await;
    let attempted: Vec<_> = items.iter().filter(|item| item.status == Status::Pending && item.attempts > 0).collect();
    assert!(attempted.is_empty(), "{attempted:?}");
}

#[tokio::test]
async fn nothing_is_claimed_ahead_of_attempts_of_which_nothing_is_known() {
    let f = Fixture::sqlite().await;
    let worker = claim_long_ones(&f, 4).await;
    f.enqueue(item("more")).await;
    assert_eq!(count(&f, Status::Claimed).await, 4);
    worker.stop().await;
}
