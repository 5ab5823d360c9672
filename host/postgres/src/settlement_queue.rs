//! Settlements in groups: what has queued while a group was committed is committed with the next, so that
//! one round of statements and one flush to the disk serve many. A settlement that finds nobody at work is
//! committed at once.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};

use crate::context::PgContext;
use crate::settle::settle;
use outbox_store::{ClaimRef, SettleRequest, StoreError};

const TRIED: &str = "settling a claim";
/// So many groups are under way at a time: while one waits for a lock, another goes on.
const CONCURRENT_GROUPS: usize = 2;
/// A group has at most so many, so that the first of them is not kept waiting.
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
        // A caller that no longer waits has dropped the receiver; its claim is settled all the same.
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

    /// Returns after the commit of the group. What was queued is settled even if nobody waits for it.
    pub(crate) async fn settle(&self, claim: ClaimRef, settled: SettleRequest) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || StoreError::Unavailable { tried: TRIED, source: "the store was closed".into() };
        self.queue.send(QueuedSettlement { claim, settled, reply }).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// Ends when the store has been dropped and the queue is empty.
async fn serve(pg: Arc<PgContext>, requests: Arc<Mutex<mpsc::UnboundedReceiver<QueuedSettlement>>>) {
    loop {
        let mut group = Vec::new();
        if requests.lock().await.recv_many(&mut group, GROUP_MAX).await == 0 {
            return;
        }
        commit(&pg, group).await;
    }
}

/// One settlement that the database refuses must not take the others with it: then each goes alone.
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
