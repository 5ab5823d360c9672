//! Items that wait, handled to their end by the worker of the product.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bench::enqueue::BULK;
use crate::bench::environment::{BenchStore, TYPE};
use crate::bench::figures::Rate;
use crate::config::Config;
use outbox_core::{Attempt, AttemptReport, Handler, HostWrites, OnDead, Outcome, RetryPolicy, ServedType};
use outbox_item::NewItem;
use outbox_store::BatchMode;
use outbox_worker::{Worker, WorkerSettings};

/// A drain that comes no further for so long has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked whether a drain has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A worker under way.
pub(crate) struct RunningWorker {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl RunningWorker {
    /// Starts to handle what is in a store.
    pub(crate) fn start(bench_store: &dyn BenchStore, handler: &Arc<dyn Handler>, config: &Config) -> Self {
        let settings = WorkerSettings {
            instance: "bench".to_owned(),
            concurrency: config.concurrency,
            prefetch: config.prefetch,
            lease: config.lease,
            drain: config.drain,
        };
        let stop = CancellationToken::new();
        let worker = Worker::new(Arc::clone(bench_store.store()), Arc::clone(handler), settings);
        Self { running: tokio::spawn(worker.run(stop.clone())), stop }
    }

    /// Returns when the worker has ended.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.running.await?)
    }
}

/// Enqueues the items and says how many a second are handled once the worker starts.
pub(crate) async fn drain(
    bench_store: &dyn BenchStore,
    handler: &Arc<dyn Handler>,
    config: &Config,
    items: Vec<NewItem>,
) -> anyhow::Result<f64> {
    let (item_type, count) = (items[0].item_type.clone(), items.len());
    let before = bench_store.done(&item_type).await?;
    let mut waiting = items.into_iter();
    while waiting.len() > 0 {
        bench_store.store().enqueue(waiting.by_ref().take(BULK).collect(), BatchMode::PerItem).await?;
    }
    let begun = Instant::now();
    let worker = RunningWorker::start(bench_store, handler, config);
    let (mut done, mut moved) = (0, begun);
    while done < count as u64 {
        tokio::time::sleep(POLL_INTERVAL).await;
        let now = bench_store.done(&item_type).await? - before;
        if now > done {
            (done, moved) = (now, Instant::now());
        }
        let reason = "see `outbox list` on what handlers of this kind answer";
        anyhow::ensure!(
            moved.elapsed() < STALL_TIMEOUT,
            "only {done} of {count} items of {item_type:?} were DONE: {reason}"
        );
    }
    let took = begun.elapsed();
    worker.end().await?;
    Ok(Rate { items: u32::try_from(count)?, took }.per_second())
}

/// A handler without a sandbox that does nothing.
pub(crate) struct NativeHandler {
    changes: watch::Sender<u64>,
}

impl NativeHandler {
    pub(crate) fn handler() -> Arc<dyn Handler> {
        Arc::new(Self { changes: watch::Sender::new(0) })
    }
}

#[async_trait]
impl Handler for NativeHandler {
    fn served_types(&self) -> Vec<ServedType> {
        vec![ServedType {
            item_type: TYPE.to_owned(),
            timeout: None,
            retry: RetryPolicy::default(),
            concurrency: None,
            rate: None,
            on_dead: OnDead::Block,
            breaker: None,
        }]
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn handle(&self, _: Attempt) -> AttemptReport {
        AttemptReport::without_component(Outcome::Done { result: None, writes: HostWrites::default() })
    }
}
