//! The limits: the speed of the disk and of the engine without the host.

use std::time::{Duration, Instant};

use outbox_core::{CrashBudget, KeyLimits, OnDead, SuspectRoom};
use outbox_item::NewItem;
use outbox_store::{ClaimRequest, ClaimTerms, ClaimToken, SuspectTerms};

use crate::bench::engine::{BULK, BenchStore, KeyOrder, TYPE, items};
use crate::bench::environment::BenchEnvironment;
use crate::bench::figures::{Drained, Rate, Samples};

/// Items per claim in the drain without the host.
const BATCH: usize = 100;
/// Bytes of a large payload.
const LARGE: usize = 8 << 10;
/// The number of items of a measurement is divided by this, where they are large.
const LARGE_DIVISOR: u32 = 4;
/// Items that are committed one at a time.
const SINGLES: u32 = 400;
/// Small writes that are made durable, one after the other.
const FSYNCS: u32 = 150;

/// The times, in milliseconds, of making one small write durable.
pub(crate) async fn fsync(environment: &BenchEnvironment) -> anyhow::Result<Vec<f64>> {
    environment.engine().fsync(FSYNCS).await
}

/// Rows per second when each row of a table without indexes is committed alone.
pub(crate) async fn commits(environment: &BenchEnvironment, most: u32) -> anyhow::Result<f64> {
    bare(environment, SINGLES.min(most), 1).await
}

/// Rows per second when [`BULK`] rows of a table without indexes are committed together.
pub(crate) async fn bare_bulk(environment: &BenchEnvironment, count: u32) -> anyhow::Result<f64> {
    bare(environment, count, BULK).await
}

async fn bare(environment: &BenchEnvironment, count: u32, at_a_time: usize) -> anyhow::Result<f64> {
    let took = environment.engine().bare_inserts(&items(TYPE, KeyOrder::Timed, count), at_a_time).await?;
    Ok(Rate { items: count, took }.per_second())
}

/// Measures the statements of the store in batches, without the rest of the host.
pub(crate) async fn store(environment: &BenchEnvironment, count: u32, samples: &mut Samples) -> anyhow::Result<()> {
    let bench_store = environment.new_store().await?;
    let items = items(TYPE, KeyOrder::Timed, count);
    let begun = Instant::now();
    for batch in items.chunks(BULK) {
        bench_store.enqueue(batch).await?;
    }
    samples.add("limit.enqueue_bulk", Rate { items: count, took: begun.elapsed() }.per_second());
    let drained = drain(environment, &*bench_store, items.len()).await?;
    samples.add_drain(["limit.drain", "written.drain"], drained);
    Ok(())
}

/// Measures claims and settlements of items with [`LARGE`] bytes.
pub(crate) async fn large(environment: &BenchEnvironment, count: u32, samples: &mut Samples) -> anyhow::Result<()> {
    let (bench_store, items) = (environment.new_store().await?, large_items(count));
    for batch in items.chunks(BULK) {
        bench_store.enqueue(batch).await?;
    }
    let drained = drain(environment, &*bench_store, items.len()).await?;
    samples.add_drain(["limit.drain_8kib", "written.drain_8kib"], drained);
    Ok(())
}

async fn drain(environment: &BenchEnvironment, bench_store: &dyn BenchStore, count: usize) -> anyhow::Result<Drained> {
    let request = request();
    let drained = async || Ok(bench_store.drain(&request).await?);
    Drained::measure(count, || environment.engine().written(), drained).await
}

/// Measures both sizes with the schema before this one.
pub(crate) async fn old_schema(
    environment: &BenchEnvironment,
    count: u32,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let usual = (items(TYPE, KeyOrder::Timed, count), ["limit.drain_old_schema", "written.drain_old_schema"]);
    let large = (large_items(count), ["limit.drain_old_schema_8kib", "written.drain_old_schema_8kib"]);
    for (items, names) in [usual, large] {
        if let Some(drained) = environment.engine().drain_old_schema(&items, BATCH).await? {
            samples.add_drain(names, drained);
        }
    }
    Ok(())
}

fn large_items(count: u32) -> Vec<NewItem> {
    let mut items = items(TYPE, KeyOrder::Timed, count / LARGE_DIVISOR);
    for item in &mut items {
        item.payload = vec![b'x'; LARGE];
    }
    items
}

fn request() -> ClaimRequest {
    let terms = ClaimTerms {
        item_type: TYPE.to_owned(),
        token: ClaimToken::random(),
        limit: u32::MAX,
        lease: Duration::from_mins(1),
        max_retries: 8,
        concurrency: None,
        rate: None,
        per_key: KeyLimits::default(),
        streak: 1,
        on_dead: OnDead::Block,
    };
    let suspects = SuspectTerms::new(SuspectRoom::None, CrashBudget::default());
    let limit = u32::try_from(BATCH).unwrap_or(u32::MAX);
    ClaimRequest { claimed_by: "bench".to_owned(), limit, types: vec![terms], suspects }
}
