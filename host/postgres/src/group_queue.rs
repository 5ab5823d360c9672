//! The queue of this process's settlements and claims, and the tasks that commit them in groups. What is queued while a
//! group is committed forms the next group (`gather`), so that one round of statements and one flush to the disk serve
//! many. A request that finds the queue idle is committed at once, unless the group before was large. Late settlements
//! pass by the queue.
//!
//! It does not know what a request does, nor how a group runs (`group`).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use outbox_store::{ClaimBatch, ClaimRef, ClaimRequest, SettleRequest, StoreError};

use crate::context::PgContext;
use crate::gather::Gatherer;
use crate::group::{Group, QueuedClaim, QueuedRequest, QueuedSettlement, settle_late};

/// The most groups that are committed at the same time.
const TASKS: usize = 2;
/// How long a group is committed before the next one begins beside it. A commit takes a few milliseconds; one that
/// takes longer waits for a lock or for the network, and holds up nothing else.
const TURN_MAX: Duration = Duration::from_millis(20);
/// The most requests in one group, so that the first one does not wait long for its reply.
const GROUP_MAX: usize = 512;

/// The queue of settlements and claims of this process.
pub(crate) struct GroupQueue {
    pg: Arc<PgContext>,
    queue: mpsc::UnboundedSender<QueuedRequest>,
}

impl GroupQueue {
    pub(crate) fn start(pg: &Arc<PgContext>) -> Self {
        let (queue, requests) = mpsc::unbounded_channel();
        let requests = Arc::new(Mutex::new(Gatherer::new(requests)));
        for _ in 0..TASKS {
            let (pg, requests) = (Arc::clone(pg), Arc::clone(&requests));
            tokio::spawn(async move {
                while AssertUnwindSafe(serve(&pg, &requests)).catch_unwind().await.is_err() {
                    tracing::error!("the queue of settlements and claims panicked and goes on");
                }
            });
        }
        Self { pg: Arc::clone(pg), queue }
    }

    /// Returns after the commit of the group. A queued settlement is committed even if its caller stops waiting.
    pub(crate) async fn settle(&self, claim: ClaimRef, settled: SettleRequest) -> Result<(), StoreError> {
        let tried = "settling a claim";
        if self.pg.late_settlements.contains(&claim) {
            let (reply, answer) = oneshot::channel();
            let (pg, settlement) = (Arc::clone(&self.pg), QueuedSettlement { claim, settled, reply });
            tokio::spawn(async move { settle_late(&pg, settlement).await });
            return answer.await.map_err(|_| stopped(tried))?;
        }
        self.submit(tried, |reply| QueuedRequest::Settle(QueuedSettlement { claim, settled, reply })).await
    }

    /// Claims in the next group. Returns after its commit.
    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<ClaimBatch, StoreError> {
        self.submit("claiming items", |reply| QueuedRequest::Claim(QueuedClaim { request, reply })).await
    }

    async fn submit<T>(
        &self,
        tried: &'static str,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> QueuedRequest,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(request(reply)).map_err(|_| stopped(tried))?;
        answer.await.map_err(|_| stopped(tried))?
    }
}

fn stopped(tried: &'static str) -> StoreError {
    StoreError::Unavailable { tried, source: "the store was closed, or failed".into() }
}

/// Commits groups until the store has been dropped and the queue is empty. The lock of the queue is the turn of a task.
async fn serve(pg: &PgContext, queue: &Mutex<Gatherer<QueuedRequest>>) {
    loop {
        let mut turn = queue.lock().await;
        let requests = turn.next(GROUP_MAX).await;
        if requests.is_empty() {
            return;
        }
        let mut commit = std::pin::pin!(commit(pg, requests));
        if timeout(TURN_MAX, commit.as_mut()).await.is_err() {
            drop(turn);
            commit.await;
        }
    }
}

/// Commits the requests in groups. A panic ends the requests of its group, not the task.
async fn commit(pg: &PgContext, requests: Vec<QueuedRequest>) {
    for group in Group::divide(requests, pg.group_size.weight_max()) {
        if AssertUnwindSafe(group.commit(pg)).catch_unwind().await.is_err() {
            tracing::error!("a group of settlements and claims panicked; its callers repeat them");
        }
    }
}
