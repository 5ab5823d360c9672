//! Items that wait, handled to their end by the worker of the product.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::enqueue::BULK;
use super::figures::Rate;
use super::site::{Bed, TYPE};
use crate::config::Config;
use crate::handler::{Attempt, Handler, Outcome, Report, Service};
use crate::item::{HostWrites, NewItem, OnDead};
use crate::retry::RetryPolicy;
use crate::store::Write;
use crate::worker::{Worker, WorkerSettings};

/// A drain that comes no further for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether a drain has ended.
const LOOK: Duration = Duration::from_millis(1);

/// A worker under way.
pub(super) struct Working {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Working {
    /// Starts to handle what is in a store.
    pub(super) fn start(bed: &dyn Bed, handler: &Arc<dyn Handler>, config: &Config) -> Self {
        let settings = WorkerSettings {
            instance: "bench".to_owned(),
            concurrency: config.concurrency,
            prefetch: config.prefetch,
            lease: config.lease,
            drain: config.drain,
        };
        let stop = CancellationToken::new();
        let worker = Worker::new(Arc::clone(bed.store()), Arc::clone(handler), settings);
        Self { running: tokio::spawn(worker.run(stop.clone())), stop }
    }

    /// Returns when the worker has ended.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.running.await?)
    }
}

/// Enqueues the items and says how many a second are handled once the worker starts.
pub(super) async fn drain(
    bed: &dyn Bed,
    handler: &Arc<dyn Handler>,
    config: &Config,
    items: Vec<NewItem>,
) -> anyhow::Result<f64> {
    let (item_type, count) = (items[0].item_type.clone(), items.len());
    let before = bed.done(&item_type).await?;
    let mut waiting = items.into_iter();
    while waiting.len() > 0 {
        bed.store().enqueue(waiting.by_ref().take(BULK).collect(), Write::Each).await?;
    }
    let begun = Instant::now();
    let working = Working::start(bed, handler, config);
    let (mut done, mut moved) = (0, begun);
    while done < count as u64 {
        tokio::time::sleep(LOOK).await;
        let now = bed.done(&item_type).await? - before;
        if now > done {
            (done, moved) = (now, Instant::now());
        }
        let reason = "see `outbox list` on what handlers of this kind answer";
        anyhow::ensure!(
            moved.elapsed() < PATIENCE,
            "only {done} of {count} items of {item_type:?} were DONE: {reason}"
        );
    }
    let took = begun.elapsed();
    working.end().await?;
    Ok(Rate { items: u32::try_from(count)?, took }.per_second())
}

/// A handler without a sandbox that does nothing.
pub(super) struct Native {
    changes: watch::Sender<u64>,
}

impl Native {
    pub(super) fn handler() -> Arc<dyn Handler> {
        Arc::new(Self { changes: watch::Sender::new(0) })
    }
}

#[async_trait]
impl Handler for Native {
    fn services(&self) -> Vec<Service> {
        vec![Service {
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

    async fn handle(&self, _: Attempt) -> Report {
        Report::bare(Outcome::Done { result: None, writes: HostWrites::default() })
    }
}
