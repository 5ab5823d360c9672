//! Drains: waiting items, handled to their end by the worker of the host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use outbox_core::{Handler, SpanSink};
use outbox_item::NewItem;
use outbox_store::BatchMode;
use outbox_worker::{Tally, Worker, WorkerSettings};

use crate::bench::engine::{BULK, BenchStore, KeyOrder, Preload, TYPE, items};
use crate::bench::figures::Rate;
use crate::config::Config;

/// A drain without progress for this time has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A worker that settles nothing for this time may have settled more than it has counted.
const QUIET: Duration = Duration::from_millis(200);
/// The pause between two looks at whether a drain has ended. Short against every drain.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A drain of a component that does nothing, and the items that it drains.
pub(crate) struct DrainScenario {
    pub(crate) name: &'static str,
    pub(crate) preload: Preload,
    /// The number of ordering keys, of which each item has one; 0 for items without.
    ordering_keys: u32,
    /// The number of fairness keys, likewise.
    fairness_keys: u32,
    payload: DrainPayload,
    /// The number of items of a measurement is divided by this, where they are large or slow.
    divisor: u32,
}

/// The payload of a drained item.
#[derive(Clone, Copy, Debug)]
enum DrainPayload {
    /// That of all other measurements, about 200 bytes.
    Usual,
    Kibibytes(usize),
}

impl DrainScenario {
    const fn of(name: &'static str) -> Self {
        let (ordering_keys, fairness_keys, divisor) = (0, 0, 1);
        Self { name, preload: Preload::Nothing, ordering_keys, fairness_keys, payload: DrainPayload::Usual, divisor }
    }

    const fn after(name: &'static str, preload: Preload) -> Self {
        Self { preload, ..Self::of(name) }
    }

    const fn ordered(name: &'static str, ordering_keys: u32, divisor: u32) -> Self {
        Self { ordering_keys, divisor, ..Self::of(name) }
    }

    const fn shared(name: &'static str, fairness_keys: u32) -> Self {
        Self { fairness_keys, ..Self::of(name) }
    }

    const fn large(name: &'static str, kibibytes: usize, divisor: u32) -> Self {
        Self { payload: DrainPayload::Kibibytes(kibibytes), divisor, ..Self::of(name) }
    }

    /// The items of a measurement that takes `count` of them.
    pub(crate) fn items(&self, count: u32) -> Vec<NewItem> {
        let mut items = items(TYPE, KeyOrder::Timed, count / self.divisor);
        for (number, item) in (0..).zip(&mut items) {
            if self.ordering_keys > 0 {
                item.ordering_key = Some(format!("key-{}", number % self.ordering_keys));
            }
            if self.fairness_keys > 0 {
                item.fairness_key = Some(format!("tenant-{}", number % self.fairness_keys));
            }
            if let DrainPayload::Kibibytes(kibibytes) = self.payload {
                item.payload = vec![b'x'; kibibytes * 1024];
            }
        }
        items
    }
}

/// All drains of the component, in the order in which they run.
pub(crate) const DRAIN_SCENARIOS: &[DrainScenario] = &[
    DrainScenario::of("drain.sandbox"),
    DrainScenario::after("drain.sandbox_1m_done", Preload::Done),
    DrainScenario::after("drain.sandbox_1m_pending", Preload::Pending),
    DrainScenario::ordered("drain.sandbox_ordered", 1_000, 1),
    DrainScenario::ordered("drain.sandbox_ordered_1", 1, 20),
    DrainScenario::ordered("drain.sandbox_ordered_20", 20, 4),
    DrainScenario::ordered("drain.sandbox_ordered_20k", 20_000, 1),
    DrainScenario::shared("drain.sandbox_shared", 1_000),
    DrainScenario::large("drain.sandbox_1kib", 1, 1),
    DrainScenario::large("drain.sandbox_8kib", 8, 4),
    DrainScenario::large("drain.sandbox_64kib", 64, 10),
];

/// A worker that runs until `end` is called.
pub(crate) struct RunningWorker {
    stop: CancellationToken,
    running: JoinHandle<()>,
    tally: Tally,
}

impl RunningWorker {
    /// Starts to handle the items of a store.
    pub(crate) fn start(bench_store: &dyn BenchStore, handler: &Arc<dyn Handler>, config: &Config) -> Self {
        Self::traced(bench_store, handler, config, None)
    }

    /// The same, and reports spans to `spans`.
    fn traced(
        bench_store: &dyn BenchStore,
        handler: &Arc<dyn Handler>,
        config: &Config,
        spans: Option<Arc<dyn SpanSink>>,
    ) -> Self {
        let settings = WorkerSettings {
            instance: "bench".to_owned(),
            concurrency: config.concurrency,
            prefetch: config.prefetch,
            payload_bytes: 64 << 20,
            lease: config.lease,
            drain: config.drain,
            crash_budget: config.crash_budget,
        };
        let stop = CancellationToken::new();
        let worker = Worker::new(bench_store.store().clone(), Arc::clone(handler), settings).with_spans(spans);
        let tally = worker.tally();
        Self { running: tokio::spawn(worker.run(stop.clone())), stop, tally }
    }

    /// The number of items that the worker has settled as DONE since the last call. Asks no store.
    fn newly_done(&self) -> u64 {
        self.tally.take().iter().map(|row| row.figures.done).sum()
    }

    /// Stops the worker and returns when it has ended.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.running.await?)
    }
}

/// Enqueues the items, starts a worker, and returns the number of items that it handles per second. The worker reports
/// spans to `spans`.
pub(crate) async fn drain(
    bench_store: &dyn BenchStore,
    handler: &Arc<dyn Handler>,
    config: &Config,
    spans: Option<Arc<dyn SpanSink>>,
    items: Vec<NewItem>,
) -> anyhow::Result<f64> {
    let (item_type, count) = (items[0].item_type.clone(), u32::try_from(items.len())?);
    let before = bench_store.done(&item_type).await?;
    enqueue(bench_store, items).await?;
    let begun = Instant::now();
    let worker = RunningWorker::traced(bench_store, handler, config, spans);
    wait_for_done(bench_store, &worker, &item_type, before, count.into()).await?;
    let took = begun.elapsed();
    worker.end().await?;
    Ok(Rate { items: count, took }.per_second())
}

async fn enqueue(bench_store: &dyn BenchStore, items: Vec<NewItem>) -> anyhow::Result<()> {
    let mut waiting = items.into_iter();
    while waiting.len() > 0 {
        bench_store.store().enqueue(waiting.by_ref().take(BULK).collect(), BatchMode::PerItem).await?;
    }
    Ok(())
}

/// Returns when `count` items more than `before` are DONE. The store is asked only when the worker has settled that many,
/// or none for [`QUIET`], so that the question takes no time from the drain. Errors when none is settled for
/// [`STALL_TIMEOUT`].
async fn wait_for_done(
    bench_store: &dyn BenchStore,
    worker: &RunningWorker,
    item_type: &str,
    before: u64,
    count: u64,
) -> anyhow::Result<()> {
    let (mut settled, mut done, mut moved) = (0, 0, Instant::now());
    while done < count {
        tokio::time::sleep(POLL_INTERVAL).await;
        let newly_done = worker.newly_done();
        if newly_done > 0 {
            (settled, moved) = (settled + newly_done, Instant::now());
        }
        if settled >= count || moved.elapsed() > QUIET {
            done = bench_store.done(item_type).await? - before;
        }
        anyhow::ensure!(
            moved.elapsed() < STALL_TIMEOUT,
            "only {done} of {count} items of {item_type:?} were DONE: \
             see `outbox list` on what handlers of this kind answer"
        );
    }
    Ok(())
}
