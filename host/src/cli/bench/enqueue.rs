//! Items that come in: one by one from callers that wait for each, over HTTP, and in bulk.

use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::drain::Native;
use super::figures::Rate;
use super::http::Caller;
use super::site::{Bed, Beside, Keys, PAYLOAD, TYPE, item, items};
use crate::edge::{self, Edge, EdgeSettings, HostStatus};
use crate::store::Write;

/// Who brings the items.
#[derive(Clone, Copy, Debug)]
enum By {
    /// So many callers of the library.
    Callers(u32),
    /// So many callers over HTTP.
    Http(u32),
    /// One caller, with many at a time.
    Bulk,
}

/// A figure of enqueueing.
pub(super) struct Enqueueing {
    pub(super) name: &'static str,
    by: By,
    pub(super) keys: Keys,
    pub(super) beside: Beside,
    /// So many items are enough, where each waits for a commit of its own.
    at_most: u32,
}

impl Enqueueing {
    /// Enqueues about so many items.
    pub(super) async fn take(&self, bed: &dyn Bed, items: u32) -> anyhow::Result<Rate> {
        let count = items.min(self.at_most);
        match self.by {
            By::Callers(number) => callers(bed, number, self.keys, count).await,
            By::Http(number) => http(bed, number, count).await,
            By::Bulk => bulk(bed, self.keys, count).await,
        }
    }
}

const fn figure(name: &'static str, by: By, keys: Keys, beside: Beside) -> Enqueueing {
    let at_most = match by {
        By::Callers(callers @ ..=8) => callers * 250,
        _ => u32::MAX,
    };
    Enqueueing { name, by, keys, beside, at_most }
}

/// In the order in which they are taken.
pub(super) const ENQUEUES: &[Enqueueing] = &[
    figure("enqueue.callers_1", By::Callers(1), Keys::Timed, Beside::Nothing),
    figure("enqueue.callers_8", By::Callers(8), Keys::Timed, Beside::Nothing),
    figure("enqueue.callers_64", By::Callers(64), Keys::Timed, Beside::Nothing),
    figure("enqueue.callers_64_1m_done", By::Callers(64), Keys::Timed, Beside::Done),
    figure("enqueue.callers_64_1m_pending", By::Callers(64), Keys::Timed, Beside::Pending),
    figure("enqueue.http_64", By::Http(64), Keys::Timed, Beside::Nothing),
    figure("enqueue.bulk", By::Bulk, Keys::Timed, Beside::Nothing),
    figure("enqueue.bulk_1m_done", By::Bulk, Keys::Timed, Beside::Done),
    figure("enqueue.bulk_1m_pending", By::Bulk, Keys::Timed, Beside::Pending),
    figure("enqueue.callers_64_random", By::Callers(64), Keys::Random, Beside::Nothing),
    figure("enqueue.callers_64_random_1m_done", By::Callers(64), Keys::Random, Beside::Random),
    figure("enqueue.bulk_random", By::Bulk, Keys::Random, Beside::Nothing),
    figure("enqueue.bulk_random_1m_done", By::Bulk, Keys::Random, Beside::Random),
];

/// So many items are enqueued at a time where they come in bulk.
pub(super) const BULK: usize = 1_000;

/// Callers who each enqueue one item, wait until it is durable, and enqueue the next.
async fn callers(bed: &dyn Bed, callers: u32, keys: Keys, count: u32) -> anyhow::Result<Rate> {
    let each = count.div_ceil(callers);
    let mut calling = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..callers {
        let store = Arc::clone(bed.store());
        calling.spawn(async move {
            for _ in 0..each {
                store.enqueue(vec![item(keys)], Write::Each).await?;
            }
            anyhow::Ok(())
        });
    }
    finish(calling).await?;
    Ok(Rate { items: each * callers, took: begun.elapsed() })
}

/// The same over HTTP, each caller with a connection of its own.
async fn http(bed: &dyn Bed, callers: u32, count: u32) -> anyhow::Result<Rate> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(edge::run(listener, edge::router(edge(bed, &stop)), stop.clone()));
    let each = count.div_ceil(callers);
    let body: Arc<str> = format!(r#"{{"type":"{TYPE}","payload":{PAYLOAD}}}"#).into();
    let mut connected = Vec::new();
    for _ in 0..callers {
        connected.push(Caller::connect(address).await?);
    }
    let mut calling = JoinSet::new();
    let begun = Instant::now();
    for mut caller in connected {
        let body = Arc::clone(&body);
        calling.spawn(async move {
            for _ in 0..each {
                caller.enqueue(&Keys::Timed.next(), &body).await?;
            }
            anyhow::Ok(())
        });
    }
    finish(calling).await?;
    let took = begun.elapsed();
    stop.cancel();
    serving.await??;
    Ok(Rate { items: each * callers, took })
}

fn edge(bed: &dyn Bed, stop: &CancellationToken) -> Edge {
    Edge {
        store: Arc::clone(bed.store()),
        handler: Native::handler(),
        settings: EdgeSettings { enabled: true, ..EdgeSettings::default() },
        status: Arc::new(HostStatus::default),
        stop: stop.clone(),
    }
}

/// One caller who enqueues many at a time.
async fn bulk(bed: &dyn Bed, keys: Keys, count: u32) -> anyhow::Result<Rate> {
    let mut items = items(TYPE, keys, count).into_iter();
    let begun = Instant::now();
    loop {
        let batch: Vec<_> = items.by_ref().take(BULK).collect();
        if batch.is_empty() {
            return Ok(Rate { items: count, took: begun.elapsed() });
        }
        bed.store().enqueue(batch, Write::Each).await?;
    }
}

async fn finish(mut calling: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(called) = calling.join_next().await {
        called??;
    }
    Ok(())
}
