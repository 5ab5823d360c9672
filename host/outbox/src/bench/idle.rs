//! A host that has little to do: how soon it notices, what it costs, and what one attempt takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bench::drain::RunningWorker;
use crate::bench::environment::{BenchStore, KeyOrder, TYPE, item, items};
use crate::bench::figures::{Samples, percentile};
use crate::bench::http::Receiver;
use crate::bench::process;
use crate::config::Config;
use outbox_core::Handler;
use outbox_item::NewItem;
use outbox_store::{BatchMode, Store};

/// Items that are enqueued one after the other, each when the one before is DONE.
const LATENCIES: u32 = 300;
/// Items that another process enqueues.
const NOTICED: u32 = 10;
/// How long a host is watched that has nothing to do.
const IDLE: Duration = Duration::from_secs(1);
/// How often it is looked whether an item is DONE.
const POLL_INTERVAL: Duration = Duration::from_micros(50);
/// Whatever has not happened by then will not.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The time from enqueue to DONE, by this process and by another, and the processor time of doing nothing.
pub(crate) async fn idle(
    bench_store: &dyn BenchStore,
    handler: &Arc<dyn Handler>,
    config: &Config,
    count: u32,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let worker = RunningWorker::start(bench_store, handler, config);
    let mut times = Vec::new();
    for _ in 0..LATENCIES.min(count) {
        times.push(latency(bench_store, &**bench_store.store()).await?);
    }
    samples.add("latency.idle_p50", percentile(times.clone(), 0.5).unwrap_or_default());
    samples.add("latency.idle_p99", percentile(times, 0.99).unwrap_or_default());
    let other = bench_store.other().await?;
    let mut times = Vec::new();
    for _ in 0..NOTICED {
        times.push(latency(bench_store, &*other).await?);
    }
    drop(other);
    samples.add("latency.other_process", percentile(times, 1.0).unwrap_or_default());
    let before = process::cpu();
    tokio::time::sleep(IDLE).await;
    if let Some((before, after)) = before.zip(process::cpu()) {
        samples.add("idle.cpu_per_s", after.saturating_sub(before).as_secs_f64() * 1e3 / IDLE.as_secs_f64());
    }
    worker.end().await
}

/// Milliseconds from the enqueue of an item until it is DONE.
async fn latency(bench_store: &dyn BenchStore, from: &dyn Store) -> anyhow::Result<f64> {
    let before = bench_store.done(TYPE).await?;
    let begun = Instant::now();
    from.enqueue(vec![item(KeyOrder::Timed)], BatchMode::PerItem).await?;
    // Nothing of the host runs on this thread: looking from it takes little from what is measured.
    while bench_store.done(TYPE).await? == before {
        anyhow::ensure!(begun.elapsed() < STALL_TIMEOUT, "an item was not DONE within {STALL_TIMEOUT:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(super::millis(begun.elapsed()))
}

/// The memory of one attempt in flight: of all that fit, waiting for the answers of a receiver.
pub(crate) async fn memory_per_attempt(
    bench_store: &dyn BenchStore,
    handler: &Arc<dyn Handler>,
    receiver: &Receiver,
    config: &Config,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let attempts = u32::try_from(config.concurrency)?;
    let items: Vec<NewItem> = items("webhook", KeyOrder::Timed, attempts);
    receiver.hold();
    let before = process::resident();
    bench_store.store().enqueue(items, BatchMode::PerItem).await?;
    let worker = RunningWorker::start(bench_store, handler, config);
    let begun = Instant::now();
    while receiver.held() < config.concurrency {
        anyhow::ensure!(begun.elapsed() < STALL_TIMEOUT, "only {} attempts called the receiver", receiver.held());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if let Some((before, after)) = before.zip(process::resident()) {
        samples.add("memory.per_attempt", crate::bench::float(after.saturating_sub(before)) / f64::from(attempts));
    }
    receiver.release();
    worker.end().await
}
