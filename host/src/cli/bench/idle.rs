//! A host that has little to do: how soon it notices, what it costs, and what one attempt takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::drain::Working;
use super::figures::{Samples, percentile};
use super::http::Receiver;
use super::process;
use super::site::{Bed, Keys, TYPE, item, items};
use crate::config::Config;
use crate::handler::Handler;
use crate::item::NewItem;
use crate::store::{Store, Write};

/// Items that are enqueued one after the other, each when the one before is DONE.
const LATENCIES: u32 = 300;
/// Items that another process enqueues.
const NOTICED: u32 = 10;
/// How long a host is watched that has nothing to do.
const IDLE: Duration = Duration::from_secs(1);
/// How often it is looked whether an item is DONE.
const LOOK: Duration = Duration::from_micros(50);
/// Whatever has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time from enqueue to DONE, by this process and by another, and the processor time of doing nothing.
pub(super) async fn idle(
    bed: &dyn Bed,
    handler: &Arc<dyn Handler>,
    config: &Config,
    count: u32,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let working = Working::start(bed, handler, config);
    let mut times = Vec::new();
    for _ in 0..LATENCIES.min(count) {
        times.push(latency(bed, &**bed.store()).await?);
    }
    samples.add("latency.idle_p50", percentile(times.clone(), 0.5).unwrap_or_default());
    samples.add("latency.idle_p99", percentile(times, 0.99).unwrap_or_default());
    let other = bed.other().await?;
    let mut times = Vec::new();
    for _ in 0..NOTICED {
        times.push(latency(bed, &*other).await?);
    }
    drop(other);
    samples.add("latency.other_process", percentile(times, 1.0).unwrap_or_default());
    let before = process::cpu();
    tokio::time::sleep(IDLE).await;
    if let Some((before, after)) = before.zip(process::cpu()) {
        samples.add("idle.cpu_per_s", after.saturating_sub(before).as_secs_f64() * 1e3 / IDLE.as_secs_f64());
    }
    working.end().await
}

/// Milliseconds from the enqueue of an item until it is DONE.
async fn latency(bed: &dyn Bed, from: &dyn Store) -> anyhow::Result<f64> {
    let before = bed.done(TYPE).await?;
    let begun = Instant::now();
    from.enqueue(vec![item(Keys::Timed)], Write::Each).await?;
    // Nothing of the host runs on this thread: looking from it takes little from what is measured.
    while bed.done(TYPE).await? == before {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "an item was not DONE within {PATIENCE:?}");
        std::thread::sleep(LOOK);
    }
    Ok(super::millis(begun.elapsed()))
}

/// The memory of one attempt in flight: of all that fit, waiting for the answers of a receiver.
pub(super) async fn memory_per_attempt(
    bed: &dyn Bed,
    handler: &Arc<dyn Handler>,
    receiver: &Receiver,
    config: &Config,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let attempts = u32::try_from(config.concurrency)?;
    let items: Vec<NewItem> = items("webhook", Keys::Timed, attempts);
    receiver.hold();
    let before = process::resident();
    bed.store().enqueue(items, Write::Each).await?;
    let working = Working::start(bed, handler, config);
    let begun = Instant::now();
    while receiver.held() < config.concurrency {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "only {} attempts called the receiver", receiver.held());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if let Some((before, after)) = before.zip(process::resident()) {
        samples.add("memory.per_attempt", super::float(after.saturating_sub(before)) / f64::from(attempts));
    }
    receiver.release();
    working.end().await
}
