//! The limits: what the disk and the engine allow when nothing else is in the way.

use std::time::{Duration, Instant};

use crate::bench::enqueue::BULK;
use crate::bench::environment::{BenchEnvironment, KeyOrder, TYPE, items};
use crate::bench::figures::{Rate, Samples};
use outbox_core::OnDead;
use outbox_store::{ClaimRequest, ClaimTerms};

/// The size of a batch where batches are made by hand.
const BATCH: usize = 100;
/// So many items are committed one at a time.
const SINGLES: u32 = 400;
/// So often the least is made durable.
const FSYNCS: u32 = 150;

/// How long it takes to make the least durable, many times, in milliseconds.
pub(crate) async fn fsync(environment: &BenchEnvironment) -> anyhow::Result<Vec<f64>> {
    environment.engine().fsync(FSYNCS).await
}

/// The rate at which the barest rows are committed one by one.
pub(crate) async fn commits(environment: &BenchEnvironment, most: u32) -> anyhow::Result<f64> {
    bare(environment, SINGLES.min(most), 1).await
}

/// The rate at which the barest rows are committed in bulk.
pub(crate) async fn bare_bulk(environment: &BenchEnvironment, count: u32) -> anyhow::Result<f64> {
    bare(environment, count, BULK).await
}

async fn bare(environment: &BenchEnvironment, count: u32, at_a_time: usize) -> anyhow::Result<f64> {
    let took = environment.engine().bare_inserts(&items(TYPE, KeyOrder::Timed, count), at_a_time).await?;
    Ok(Rate { items: count, took }.per_second())
}

/// The store's own statements in batches, driven by hand.
pub(crate) async fn store(environment: &BenchEnvironment, count: u32, samples: &mut Samples) -> anyhow::Result<()> {
    let bench_store = environment.new_store().await?;
    let items = items(TYPE, KeyOrder::Timed, count);
    let begun = Instant::now();
    for batch in items.chunks(BULK) {
        bench_store.enqueue(batch).await?;
    }
    samples.add("limit.enqueue_bulk", Rate { items: count, took: begun.elapsed() }.per_second());
    let begun = Instant::now();
    let drained = bench_store.drain(&request()).await?;
    anyhow::ensure!(drained == items.len(), "only {drained} of {count} items of the limit's store could be claimed");
    samples.add("limit.drain", Rate { items: count, took: begun.elapsed() }.per_second());
    Ok(())
}

fn request() -> ClaimRequest {
    let terms = ClaimTerms {
        item_type: TYPE.to_owned(),
        limit: u32::MAX,
        lease: Duration::from_mins(1),
        max_retries: 8,
        concurrency: None,
        rate: None,
        on_dead: OnDead::Block,
    };
    ClaimRequest { claimed_by: "bench".to_owned(), limit: u32::try_from(BATCH).unwrap_or(u32::MAX), types: vec![terms] }
}
