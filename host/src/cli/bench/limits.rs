//! The limits: what the disk and SQLite allow when nothing else is in the way.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::figures::Samples;
use super::site::{Keys, Site, TYPE, items};
use super::{millis, per_second};
use crate::item::{HostWrites, OnDead};
use crate::store::sqlite::limit::{Bare, ByHand};
use crate::store::{ClaimRequest, Settled, Settlement, TypeClaim};

/// The size of a batch where batches are made by hand.
const BATCH: usize = 100;
/// So many items are committed one at a time.
const SINGLES: u32 = 400;
/// So many pages are written through to the disk.
const FSYNCS: u32 = 150;
const PAGE: [u8; 4096] = [7; 4096];

/// How long it takes to make a page durable, many times, in milliseconds.
pub(super) fn fsync(site: &Site) -> anyhow::Result<Vec<f64>> {
    let mut file = tempfile::tempfile_in(site.path())?;
    let mut times = Vec::new();
    for _ in 0..FSYNCS {
        let begun = Instant::now();
        file.write_all(&PAGE)?;
        file.sync_data()?;
        times.push(millis(begun.elapsed()));
    }
    Ok(times)
}

/// The barest rows, committed one by one and all together.
pub(super) fn bare(site: &Site, count: u32, samples: &mut Samples) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(site.path())?;
    let bare = Bare::create(&folder.path().join("bare.sqlite"))?;
    for (name, count, at_a_time) in
        [("limit.commits", SINGLES.min(count), 1), ("limit.bare_bulk", count, super::enqueue::BULK)]
    {
        let items = items(TYPE, Keys::Timed, count);
        let begun = Instant::now();
        bare.enqueue(&items, at_a_time)?;
        samples.add(name, per_second(count, begun.elapsed()));
    }
    Ok(())
}

/// The store's own statements in batches, driven by hand.
pub(super) fn store(site: &Site, count: u32, samples: &mut Samples) -> anyhow::Result<()> {
    let bed = site.bed()?;
    let by_hand = ByHand::open(&bed.path)?;
    let items = items(TYPE, Keys::Timed, count);
    let begun = Instant::now();
    for batch in items.chunks(super::enqueue::BULK) {
        by_hand.enqueue(batch)?;
    }
    samples.add("limit.enqueue_bulk", per_second(count, begun.elapsed()));
    let begun = Instant::now();
    let mut left = items.len();
    while left > 0 {
        let drained = by_hand.drain(&request(), &done())?;
        anyhow::ensure!(drained > 0, "{left} items of the limit's store cannot be claimed");
        left -= drained;
    }
    samples.add("limit.drain", per_second(count, begun.elapsed()));
    Ok(())
}

fn request() -> ClaimRequest {
    let terms = TypeClaim {
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

fn done() -> Settled {
    let settlement = Settlement::Done { result: None, writes: HostWrites::default() };
    Settled { settlement, maybe_executed: false, stderr: None, handler_digest: None, exchanges: None }
}
