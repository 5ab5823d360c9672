//! Enqueueing: one item at a time by callers that wait for each, over HTTP, and in bulk.

use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use outbox_http::{HostStatus, HttpSettings, HttpState, ServeLimits};
use outbox_store::BatchMode;

use crate::bench::engine::{BULK, BenchStore, KeyOrder, PAYLOAD, Preload, TYPE, item, items};
use crate::bench::figures::Rate;
use crate::bench::http::HttpCaller;
use crate::bench::native_handler::NativeHandler;

/// How the items are enqueued.
#[derive(Clone, Copy, Debug)]
enum EnqueueMode {
    /// By this number of callers of the library, one item at a time.
    Callers(u32),
    /// By this number of callers over HTTP, one item at a time.
    Http(u32),
    /// By one caller, with [`BULK`] items at a time.
    Bulk,
}

/// A figure of enqueueing.
pub(crate) struct EnqueueScenario {
    pub(crate) name: &'static str,
    mode: EnqueueMode,
    pub(crate) keys: KeyOrder,
    pub(crate) preload: Preload,
    /// The maximum of items. A few are enough where each waits for a commit of its own.
    at_most: u32,
}

impl EnqueueScenario {
    /// Enqueues about `items` items and returns the rate.
    pub(crate) async fn take(&self, bench_store: &dyn BenchStore, items: u32) -> anyhow::Result<Rate> {
        let count = items.min(self.at_most);
        match self.mode {
            EnqueueMode::Callers(number) => callers(bench_store, number, self.keys, count).await,
            EnqueueMode::Http(number) => http(bench_store, number, count).await,
            EnqueueMode::Bulk => bulk(bench_store, self.keys, count).await,
        }
    }
}

const fn scenario(name: &'static str, mode: EnqueueMode, keys: KeyOrder, preload: Preload) -> EnqueueScenario {
    let at_most = match mode {
        EnqueueMode::Callers(callers @ ..=8) => callers * 250,
        _ => u32::MAX,
    };
    EnqueueScenario { name, mode, keys, preload, at_most }
}

/// All scenarios, in the order in which they run.
pub(crate) const ENQUEUE_SCENARIOS: &[EnqueueScenario] = &[
    scenario("enqueue.callers_1", EnqueueMode::Callers(1), KeyOrder::Timed, Preload::Nothing),
    scenario("enqueue.callers_8", EnqueueMode::Callers(8), KeyOrder::Timed, Preload::Nothing),
    scenario("enqueue.callers_64", EnqueueMode::Callers(64), KeyOrder::Timed, Preload::Nothing),
    scenario("enqueue.callers_64_1m_done", EnqueueMode::Callers(64), KeyOrder::Timed, Preload::Done),
    scenario("enqueue.callers_64_1m_pending", EnqueueMode::Callers(64), KeyOrder::Timed, Preload::Pending),
    scenario("enqueue.http_64", EnqueueMode::Http(64), KeyOrder::Timed, Preload::Nothing),
    scenario("enqueue.bulk", EnqueueMode::Bulk, KeyOrder::Timed, Preload::Nothing),
    scenario("enqueue.bulk_1m_done", EnqueueMode::Bulk, KeyOrder::Timed, Preload::Done),
    scenario("enqueue.bulk_1m_pending", EnqueueMode::Bulk, KeyOrder::Timed, Preload::Pending),
    scenario("enqueue.callers_64_random", EnqueueMode::Callers(64), KeyOrder::Random, Preload::Nothing),
    scenario("enqueue.callers_64_random_1m_done", EnqueueMode::Callers(64), KeyOrder::Random, Preload::Random),
    scenario("enqueue.bulk_random", EnqueueMode::Bulk, KeyOrder::Random, Preload::Nothing),
    scenario("enqueue.bulk_random_1m_done", EnqueueMode::Bulk, KeyOrder::Random, Preload::Random),
];

/// Each caller enqueues one item, waits until it is durable, and enqueues the next.
async fn callers(bench_store: &dyn BenchStore, callers: u32, keys: KeyOrder, count: u32) -> anyhow::Result<Rate> {
    let each = count.div_ceil(callers);
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..callers {
        let store = Arc::clone(bench_store.store());
        tasks.spawn(async move {
            for _ in 0..each {
                store.enqueue(vec![item(keys)], BatchMode::PerItem).await?;
            }
            anyhow::Ok(())
        });
    }
    finish(tasks).await?;
    Ok(Rate { items: each * callers, took: begun.elapsed() })
}

/// The same over HTTP. Each caller has its own connection.
async fn http(bench_store: &dyn BenchStore, callers: u32, count: u32) -> anyhow::Result<Rate> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let routes = outbox_http::router(http_state(bench_store, &stop));
    let serving = tokio::spawn(outbox_http::run(listener, routes, ServeLimits::default(), stop.clone()));
    let each = count.div_ceil(callers);
    let body: Arc<str> = format!(r#"{{"type":"{TYPE}","payload":{PAYLOAD}}}"#).into();
    let mut connected = Vec::new();
    for _ in 0..callers {
        connected.push(HttpCaller::connect(address).await?);
    }
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for mut caller in connected {
        let body = Arc::clone(&body);
        tasks.spawn(async move {
            for _ in 0..each {
                caller.enqueue(&KeyOrder::Timed.next(), &body).await?;
            }
            anyhow::Ok(())
        });
    }
    finish(tasks).await?;
    let took = begun.elapsed();
    stop.cancel();
    serving.await?;
    Ok(Rate { items: each * callers, took })
}

fn http_state(bench_store: &dyn BenchStore, stop: &CancellationToken) -> HttpState {
    HttpState {
        enqueue: bench_store.store().clone(),
        inspect: bench_store.store().clone(),
        operate: bench_store.store().clone(),
        handler: NativeHandler::handler(),
        settings: HttpSettings { is_durable: true, ..HttpSettings::default() }.fixed(),
        status: Arc::new(HostStatus::default),
        trials: None,
        stop: stop.clone(),
    }
}

/// One caller enqueues [`BULK`] items at a time.
async fn bulk(bench_store: &dyn BenchStore, keys: KeyOrder, count: u32) -> anyhow::Result<Rate> {
    let mut items = items(TYPE, keys, count).into_iter();
    let begun = Instant::now();
    loop {
        let batch: Vec<_> = items.by_ref().take(BULK).collect();
        if batch.is_empty() {
            return Ok(Rate { items: count, took: begun.elapsed() });
        }
        bench_store.store().enqueue(batch, BatchMode::PerItem).await?;
    }
}

async fn finish(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(called) = tasks.join_next().await {
        called??;
    }
    Ok(())
}
