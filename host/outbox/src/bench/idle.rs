//! An idle host: the time until it notices an item, its processor time, and the memory of one attempt; and the time that an
//! item takes beside the many of another fairness key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use outbox_core::Handler;
use outbox_item::{NewItem, Status};
use outbox_store::{BatchMode, Enqueue};

use crate::bench::drain::RunningWorker;
use crate::bench::engine::{BULK, BenchStore, KeyOrder, TYPE, item, items};
use crate::bench::figures::{Samples, float, milliseconds, percentile};
use crate::bench::http::Receiver;
use crate::bench::process;
use crate::config::Config;

/// Items that this process enqueues, each after the one before is DONE.
const LATENCIES: u32 = 300;
/// Items that are enqueued as by another process, each after the one before is DONE.
const NOTICED: u32 = 10;
/// Items of one fairness key that are enqueued beside the many of another, each after the one before is DONE.
const BESIDE: u32 = 40;
/// The items of the other fairness key, as a multiple of those of a measurement.
const FLOOD: u32 = 5;
/// How long the processor time of an idle host is measured.
const IDLE: Duration = Duration::from_secs(1);
/// The pause between two looks at whether an item is DONE. Short against the latency that is measured.
const POLL_INTERVAL: Duration = Duration::from_micros(50);
/// Something that has not happened within this time has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Measures the time from enqueue to DONE, for items of this process and of another, and the processor time of an
/// idle host.
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
    add_percentiles(samples, ["latency.idle_p50", "latency.idle_p99"], times);
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
async fn latency(bench_store: &dyn BenchStore, from: &dyn Enqueue) -> anyhow::Result<f64> {
    let before = bench_store.done(TYPE).await?;
    let begun = Instant::now();
    from.enqueue(vec![item(KeyOrder::Timed)], BatchMode::PerItem).await?;
    // No part of the host runs on this thread, so blocking it disturbs the measurement little.
    while bench_store.done(TYPE).await? == before {
        anyhow::ensure!(begun.elapsed() < STALL_TIMEOUT, "an item was not DONE within {STALL_TIMEOUT:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(milliseconds(begun.elapsed()))
}

/// Measures the time from enqueue to DONE of single items of a fairness key, while another key has many waiting.
pub(crate) async fn shared(
    bench_store: &dyn BenchStore,
    handler: &Arc<dyn Handler>,
    config: &Config,
    count: u32,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let of = |tenant: &str, item: NewItem| NewItem { fairness_key: Some(tenant.to_owned()), ..item };
    let mut flood = items(TYPE, KeyOrder::Timed, count.saturating_mul(FLOOD)).into_iter().map(|item| of("many", item));
    while flood.len() > 0 {
        bench_store.store().enqueue(flood.by_ref().take(BULK).collect(), BatchMode::PerItem).await?;
    }
    let worker = RunningWorker::start(bench_store, handler, config);
    let mut times = Vec::new();
    for _ in 0..BESIDE {
        times.push(time_until_done(bench_store, of("few", item(KeyOrder::Timed))).await?);
    }
    add_percentiles(samples, ["latency.shared_p50", "latency.shared_p99"], times);
    worker.end().await
}

/// Adds the median and the 99th percentile.
fn add_percentiles(samples: &mut Samples, [median, highest]: [&'static str; 2], times: Vec<f64>) {
    samples.add(median, percentile(times.clone(), 0.5).unwrap_or_default());
    samples.add(highest, percentile(times, 0.99).unwrap_or_default());
}

/// Milliseconds from the enqueue of the item until it is DONE, beside others.
async fn time_until_done(bench_store: &dyn BenchStore, item: NewItem) -> anyhow::Result<f64> {
    let (store, begun) = (bench_store.store(), Instant::now());
    let enqueued = store.enqueue(vec![item], BatchMode::PerItem).await?;
    let id = enqueued.ids.first().copied().flatten().context("the item was enqueued before")?;
    while store.get(id).await?.is_none_or(|found| found.item.status != Status::Done) {
        anyhow::ensure!(begun.elapsed() < STALL_TIMEOUT, "item {id} was not DONE within {STALL_TIMEOUT:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(milliseconds(begun.elapsed()))
}

/// Measures the memory of one attempt in flight: starts as many as the host allows, and lets all of them wait for the
/// answers of a receiver.
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
        samples.add("memory.per_attempt", float(after.saturating_sub(before)) / f64::from(attempts));
    }
    receiver.release();
    worker.end().await
}
