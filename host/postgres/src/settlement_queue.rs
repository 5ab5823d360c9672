//! Commits the settlements of this process in groups: the settlements that queue while a group is committed form the
//! next group, so that one round of statements and one flush to the disk serve many. A settlement that finds the queue
//! idle is committed at once.
//!
//! It does not know what a settlement changes.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};

use outbox_store::{ClaimRef, SettleRequest, StoreError};

use crate::context::PgContext;
use crate::settle::settle;

const TRIED: &str = "settling a claim";

/// Groups that are committed at the same time: while one waits for a lock, the other goes on.
const CONCURRENT_GROUPS: usize = 2;
/// The most settlements in one group, so that the first one does not wait long for its reply.
const GROUP_MAX: usize = 256;

/// The queue of settlements of this process.
pub(crate) struct SettlementQueue {
    queue: mpsc::UnboundedSender<QueuedSettlement>,
}

struct QueuedSettlement {
    claim: ClaimRef,
    settled: SettleRequest,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

impl QueuedSettlement {
    fn reply(self, result: Result<(), StoreError>) {
        // A caller that no longer waits has dropped the receiver; its claim is settled nevertheless.
        drop(self.reply.send(result));
    }
}

impl SettlementQueue {
    pub(crate) fn start(pg: &Arc<PgContext>) -> Self {
        let (queue, requests) = mpsc::unbounded_channel();
        let requests = Arc::new(Mutex::new(requests));
        for _ in 0..CONCURRENT_GROUPS {
            tokio::spawn(serve(Arc::clone(pg), Arc::clone(&requests)));
        }
        Self { queue }
    }

    /// Returns after the commit of the group. A queued settlement is committed even if its caller stops waiting.
    pub(crate) async fn settle(&self, claim: ClaimRef, settled: SettleRequest) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || StoreError::Unavailable { tried: TRIED, source: "the store was closed".into() };
        self.queue.send(QueuedSettlement { claim, settled, reply }).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// Commits groups until the store has been dropped and the queue is empty.
async fn serve(pg: Arc<PgContext>, requests: Arc<Mutex<mpsc::UnboundedReceiver<QueuedSettlement>>>) {
    loop {
        let mut group = Vec::new();
        if requests.lock().await.recv_many(&mut group, GROUP_MAX).await == 0 {
            return;
        }
        commit(&pg, group).await;
    }
}

/// Commits a group. When the transaction fails, each settlement gets a transaction of its own, so that one that the
/// database refuses does not take the others with it.
async fn commit(pg: &PgContext, group: Vec<QueuedSettlement>) {
    match commit_in_one_transaction(pg, &group).await {
        Ok(results) => group.into_iter().zip(results).for_each(|(request, result)| request.reply(result)),
        Err(err) if group.len() == 1 || pg.is_unavailable() => {
            let message = err.to_string();
            for request in group {
                request.reply(Err(StoreError::Unavailable { tried: TRIED, source: message.clone().into() }));
            }
        }
        Err(err) => {
            tracing::warn!(settlements = group.len(), error = %err, "a group of settlements failed; one by one now");
            for request in group {
                let alone = commit_in_one_transaction(pg, std::slice::from_ref(&request)).await;
                request.reply(alone.and_then(|results| results.into_iter().next().unwrap_or(Ok(()))));
            }
        }
    }
}

async fn commit_in_one_transaction(
    pg: &PgContext,
    group: &[QueuedSettlement],
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let group: Vec<_> = group.iter().map(|request| (&request.claim, &request.settled)).collect();
    transact!(pg, "settling claims", |tx| settle(tx, &group))
}
